//! What must be known of weights before it can be decided what is written: small, and read once.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::open::Model;
use crate::run::examine::pieces;
use crate::transform::cast;
use crate::transform::recipe::{Output, Recipe};

/// Factors of a rotary embedding are a few hundred.
const SMALL_BYTES_MAX: u64 = 1 << 20;

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

/// The numbers of a small f32 tensor (factors of a rotary embedding); `None` where there is none of this name.
pub(super) fn small_f32(model: &Model, name: &str) -> Result<Option<Vec<f32>>> {
    let Some(tensor) = model.table.get(name) else { return Ok(None) };
    if tensor.dtype != DType::F32 || !tensor.at.is_plain() || tensor.size_bytes() > SMALL_BYTES_MAX {
        return Err(Error::bad_input(format!(
            "is `{}` of shape {:?}, and a few f32 are needed",
            tensor.dtype, tensor.shape
        ))
        .tensor(name));
    }
    let mut bytes = vec![0; tensor.size_bytes() as usize];
    model.files[tensor.at.span.file.index()].read_exact_at(&mut bytes, tensor.at.span.offset_bytes)?;
    Ok(Some(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()))
}
