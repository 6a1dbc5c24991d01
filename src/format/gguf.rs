//! (placeholder)

pub mod names;

use super::{Known, Step};
use crate::checkpoint::Part;
use crate::error::{Error, Result};

/// Parses.
pub fn parse(_known: &Known) -> Result<Step<Part>> {
    Err(Error::unsupported("not yet"))
}
