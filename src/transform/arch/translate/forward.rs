//! From a checkpoint's tensors, or a GGUF's, to those that a forward pass computes with.

use crate::checkpoint::Meta;
use crate::error::{Error, Result};
use crate::transform::arch::families::{Family, Sizes};
use crate::transform::recipe::{Recipe, Value};
use serde_json::Value as Json;

/// Where values come from, and what is said of them there.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'a> {
    /// A checkpoint, with its `config.json`.
    Checkpoint(&'a Json),
    /// A GGUF, with its keys.
    Gguf(&'a Meta),
}

/// The recipe of the tensors that a forward pass needs, by GGUF's names and in its layout, and those of
/// [`Family::heads`]. `sizes` are the [`Sizes::of_config`] or [`Sizes::of_gguf`] of the origin. An output's dtype is its
/// values' own; where a number is added, f32.
///
/// # Errors
/// As [`super::to_gguf`].
pub fn to_forward(
    values: Vec<Value>,
    family: &'static Family,
    sizes: &Sizes,
    origin: Origin<'_>,
) -> Result<Recipe> {
    let _ = (values, family, sizes, origin);
    Err(Error::bug("not yet"))
}
