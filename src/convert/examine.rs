//! What must be known of weights before it can be decided what is written: small, and read once.

use crate::dtype::DType;
use crate::error::Result;
use crate::open::Model;
use crate::run::examine::pieces;
use crate::transform::cast;
use crate::transform::recipe::{Output, Recipe};

/// Whether every number of an f32 output is one of `narrow` too.
pub(super) fn survives(model: &Model, recipe: &Recipe, output: &Output, narrow: DType) -> Result<bool> {
    if output.dtype != DType::F32
        || !cast::is_supported(DType::F32, narrow)
        || !cast::is_supported(narrow, DType::F32)
    {
        return Ok(false);
    }
    let width = narrow.facts().block_bytes as usize;
    let (mut narrowed, mut back) = (Vec::new(), Vec::new());
    let mut survives = true;
    pieces(model, recipe, output, |bytes| {
        narrowed.resize(bytes.len() / 4 * width, 0);
        back.resize(bytes.len(), 0);
        cast::cast(DType::F32, narrow, bytes, &mut narrowed, false);
        cast::cast(narrow, DType::F32, &narrowed, &mut back, false);
        survives = bytes == back.as_slice();
        survives
    })?;
    Ok(survives)
}
