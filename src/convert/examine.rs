//! What must be known of weights before it can be decided what is written: small, and read once.

use crate::dtype::DType;
use crate::error::Result;
use crate::open::Model;
use crate::plan::weave::{Limits, Work, tasks};
use crate::run::make::Hands;
use crate::transform::cast;
use crate::transform::recipe::{Output, Part, Recipe};

/// Memory for one piece.
const MEMORY_BYTES: u64 = 64 << 20;

/// The bytes of an output, in pieces; `each` says whether to go on.
fn pieces(
    model: &Model,
    recipe: &Recipe,
    output: &Output,
    mut each: impl FnMut(&[u8]) -> bool,
) -> Result<()> {
    let mut hands = Hands::default();
    let mut buffer = Vec::new();
    let limits = Limits { copy_bytes: 1 << 20, ..Limits::within(MEMORY_BYTES) };
    for task in tasks(&model.table, recipe, output, &limits)? {
        let go_on = match &task.work {
            Work::Copy { file, offset_bytes } => {
                buffer.resize(task.size_bytes as usize, 0);
                model.files[file.index()].read_exact_at(&mut buffer, *offset_bytes)?;
                each(&buffer)
            }
            Work::Make(make) => each(hands.make(make, &model.files, true)?.0),
        };
        if !go_on {
            break;
        }
    }
    Ok(())
}

/// Whether two values are the same numbers, bit for bit in f32.
pub(super) fn equal(model: &Model, recipe: &Recipe, pair: (usize, usize)) -> Result<bool> {
    let (Some(a), Some(b)) = (recipe.values.get(pair.0), recipe.values.get(pair.1)) else { return Ok(false) };
    if a.shape != b.shape || a.dtype != b.dtype {
        return Ok(false);
    }
    if a.source == b.source {
        return Ok(true);
    }
    // Hashed rather than compared, so that each is read from front to back.
    let hash = |index: usize| -> Result<u64> {
        let value = &recipe.values[index];
        let parts = vec![Part::new(index, value.view()?)];
        let output = Output {
            name: value.name.clone(),
            dtype: value.dtype,
            shape: value.shape.clone(),
            parts,
            narrow: None,
        };
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        pieces(model, recipe, &output, |bytes| {
            hash.update(bytes);
            true
        })?;
        Ok(hash.digest())
    };
    Ok(hash(pair.0)? == hash(pair.1)?)
}

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
