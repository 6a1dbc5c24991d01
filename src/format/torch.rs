//! (placeholder)

use super::{Known, Step};
use crate::checkpoint::Part;
use crate::error::{Error, Result};

/// Parses.
pub fn parse_zip(_known: &Known) -> Result<Step<Part>> {
    Err(Error::unsupported("not yet"))
}

/// Parses.
pub fn parse_legacy(_known: &Known) -> Result<Step<Part>> {
    Err(Error::unsupported("not yet"))
}
