//! GGUF.

pub mod names;

pub use names::Split;

use super::{Known, Step};
use crate::checkpoint::Part;
use crate::error::{Error, Result};

/// Parses the header of a GGUF file.
pub fn parse(_known: &Known) -> Result<Step<Part>> {
    Err(Error::unsupported("not yet"))
}
