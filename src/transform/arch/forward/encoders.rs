//! How encoders compute.

use super::Row;

pub(super) const ROWS: &[Row] = &[];
