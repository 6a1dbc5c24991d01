//! Looks at a recipe's outputs without keeping them: whether two values are the same, and whatever else is decided by what
//! numbers there are.

use super::make::Hands;
use crate::error::{Error, Result};
use crate::open::Model;
use crate::plan::weave::{Limits, Work, tasks};
use crate::transform::recipe::{Output, Part, Recipe};

/// Memory for one piece.
const MEMORY_BYTES: u64 = 64 << 20;

/// The bytes of an output, in pieces; `each` says whether to go on.
pub fn pieces(
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
            Work::Pack(_) => return Err(Error::bug("codes are looked at")),
        };
        if !go_on {
            break;
        }
    }
    Ok(())
}

/// Whether two values are the same numbers, bit for bit in f32.
pub fn equal(model: &Model, recipe: &Recipe, pair: (usize, usize)) -> Result<bool> {
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
            form: Default::default(),
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
