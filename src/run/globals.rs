//! What must be known of whole matrices before the first of their codes is written: the number by which NVFP4 multiplies the
//! scales of a matrix, and of all that engines read as one with it.
//!
//! It follows from the largest magnitude, so that every number is seen once before it is quantised: as in the run that
//! follows, in pieces that any worker takes, within the same memory. The largest of many is the same in any order, so that
//! the result does not depend on the cut.

use super::budget::Budget;
use super::job::Control;
use super::make::{Hands, Odd, no_scale_fits};
use super::weave::Weave;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::plan::weave::{Limits, Task, Work, tasks};
use crate::transform::method::{amax, nvfp4_global, odd};
use crate::transform::recipe::{Output, Recipe};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Bytes of f32 that are read at once where they need no making.
const COPY_BYTES: u64 = 1 << 20;

/// The matrices of some sets of [`Recipe::sharing`], with the place of their set among them.
fn members<'a>(recipe: &'a Recipe, sets: &'a [usize]) -> impl Iterator<Item = (usize, &'a Output)> {
    sets.iter().enumerate().flat_map(move |(place, &set)| {
        let members = recipe.sharing.get(set).into_iter().flatten();
        members.filter_map(move |&m| Some((place, &recipe.packed.get(m)?.matrix)))
    })
}

/// Bytes of a number as progress counts it.
fn each_bytes(matrix: &Output) -> u64 {
    u64::from(matrix.dtype.facts().block_bytes)
}

/// What [`find`] counts as moved, in bytes.
pub fn size_bytes(recipe: &Recipe, sets: &[usize]) -> u64 {
    let count = |m: &Output| m.shape.iter().fold(1u64, |n, &size| n.saturating_mul(size));
    members(recipe, sets).fold(0u64, |sum, (_, m)| sum.saturating_add(count(m).saturating_mul(each_bytes(m))))
}

/// A matrix as f32, and what is still to be seen of it.
struct Looking<'a> {
    /// The next one.
    next: usize,
    /// Its set's place, its number, and its tasks.
    now: Option<(usize, usize, Box<dyn Iterator<Item = Task> + Send + 'a>)>,
}

/// For each of these sets of [`Recipe::sharing`] the number by which its scales are multiplied. NaN and infinity count as
/// nothing where [`Weave::odd`] says that they become zeros.
///
/// # Errors
/// `BadInput`: NaN or infinity. What reading gives; a cancelled run.
pub fn find(weave: &Weave<'_>, sets: &[usize], control: &Control) -> Result<Vec<f32>> {
    if sets.is_empty() {
        return Ok(Vec::new());
    }
    let matrices: Vec<(usize, Output)> = members(weave.recipe, sets)
        .map(|(place, matrix)| (place, Output { dtype: DType::F32, narrow: None, ..matrix.clone() }))
        .collect();
    let widths: Vec<u64> = members(weave.recipe, sets).map(|(_, matrix)| each_bytes(matrix)).collect();
    let limits = Limits { copy_bytes: COPY_BYTES, ..weave.limits };
    // The bits of floats that are not negative are in their order.
    let largest: Vec<AtomicU32> = sets.iter().map(|_| AtomicU32::new(0)).collect();
    let budget = Budget::new(weave.memory_bytes);
    let looking = Mutex::new(Looking { next: 0, now: None });
    let next = || -> Result<Option<(usize, usize, Task)>> {
        let mut looking = looking.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some((place, number, tasks)) = &mut looking.now
                && let Some(task) = tasks.next()
            {
                return Ok(Some((*place, *number, task)));
            }
            let number = looking.next;
            let Some((place, matrix)) = matrices.get(number) else { return Ok(None) };
            looking.next += 1;
            let all = tasks(&weave.model.table, weave.recipe, matrix, &limits)?;
            looking.now = Some((*place, number, Box::new(all)));
        }
    };
    super::parallel("look", weave.threads, control, |worker| {
        let mut hands = Hands::default();
        let mut buffer = Vec::new();
        while !control.is_stopped() {
            let Some((place, number, task)) = next()? else { break };
            let started = Instant::now();
            let (amax, odd) = look(weave, &budget, &task, &mut hands, &mut buffer, control)
                .map_err(|e| e.tensor(&matrices[number].1.name))?;
            if odd > 0 && weave.odd != Odd::Zero {
                return Err(no_scale_fits(odd).tensor(&matrices[number].1.name));
            }
            largest[place].fetch_max(amax.to_bits(), Ordering::Relaxed);
            control.moved(task.size_bytes / 4 * widths[number]);
            control.span(worker, "look", 0, task.offset_bytes, task.size_bytes, started);
        }
        Ok(())
    })?;
    Ok(largest.into_iter().map(|bits| nvfp4_global(f32::from_bits(bits.into_inner()))).collect())
}

/// The largest magnitude of some numbers, and how many of them are none.
fn look(
    weave: &Weave<'_>,
    budget: &Budget,
    task: &Task,
    hands: &mut Hands,
    buffer: &mut Vec<f32>,
    control: &Control,
) -> Result<(f32, u64)> {
    let files = &weave.model.files;
    match &task.work {
        Work::Copy { file, offset_bytes } => {
            let held = budget.take(task.size_bytes, control)?;
            let source = files.get(file.index()).ok_or_else(|| Error::bug("a task reads no file"))?;
            buffer.resize((task.size_bytes / 4) as usize, 0.0);
            source.read_exact_at(bytemuck::cast_slice_mut(buffer), *offset_bytes)?;
            let found = (amax(buffer), odd(buffer));
            drop(held);
            Ok(found)
        }
        Work::Make(make) => {
            let held = budget.take(make.memory_bytes(), control)?;
            let (bytes, _) = hands.make(make, files, false)?;
            buffer.clear();
            buffer.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)));
            let found = (amax(buffer), odd(buffer));
            hands.forget();
            drop(held);
            Ok(found)
        }
        Work::Pack(_) => Err(Error::bug("codes are looked at")),
    }
}
