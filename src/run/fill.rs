//! Carries a recipe out into memory: workers take tasks in order, make their bytes, and leave them where they belong.
//!
//! The twin of [`super::weave`], which writes files. Bytes that are wanted as they lie in a file are read straight into
//! memory of the target's; others pass through a worker's hands first. Each worker has an end of the target to itself, so
//! that a target whose transfers take their time (a GPU) keeps what is on its way apart for each.

use super::budget::Budget;
use super::job::Control;
use super::make::{Hands, Losses, Odd, too_large};
use super::pack::{Bands, Blocks, Errors, Stripe};
use super::weave::Made;
use crate::error::{Error, Result};
use crate::open::Model;
use crate::plan::weave::{Limits, Task, Work, tasks};
use crate::transform::packing::faces::Strip;
use crate::transform::recipe::{Output, Recipe};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// What is read at once where it is shown or sent on afterwards: it stays in a core's cache.
pub const PIECE_BYTES: u64 = 1 << 20;

/// What is made, and with what.
pub struct Fill<'a> {
    /// The source.
    pub model: &'a Model,
    /// Its values.
    pub recipe: &'a Recipe,
    /// What is made of them, in this order. The recipe's own outputs, where it has matrices that several of them hold.
    pub outputs: &'a [Output],
    /// How large tasks are.
    pub limits: Limits,
    /// Memory for all tasks in flight.
    pub memory_bytes: u64,
    /// Workers.
    pub threads: usize,
    /// Whether a number too large becomes the largest there is, instead of an error.
    pub saturate: bool,
    /// What becomes of NaN and infinity.
    pub odd: Odd,
}

/// Where bytes go.
pub trait Target: Sync {
    /// A worker's end of it. Called in the worker's own thread; workers count from zero.
    ///
    /// # Errors
    /// Of whatever the end needs.
    fn lane(&self, worker: usize) -> Result<Box<dyn Lane + '_>>;
}

/// One worker's end of a target. Every byte of an output comes once, in whole elements, in any order and through any lane.
pub trait Lane {
    /// Bytes of an output that `read` brings into the memory that it is given, [`PIECE_BYTES`] of them at most.
    ///
    /// # Errors
    /// Those of `read`; those of sending them on. A bug: a place that is none, or was given out before.
    fn bring(
        &mut self,
        output: usize,
        offset_bytes: u64,
        size_bytes: u64,
        read: &mut dyn FnMut(&mut [u8]) -> Result<()>,
    ) -> Result<()>;

    /// Bytes of an output that were made: the strip's runs, one behind the other.
    ///
    /// # Errors
    /// As [`Lane::bring`].
    fn put(&mut self, output: usize, strip: &Strip, bytes: &[u8]) -> Result<()>;

    /// Waits until everything has arrived.
    ///
    /// # Errors
    /// Of what is still on its way.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// What there is to do.
struct Queue<'a> {
    /// The output whose tasks come next.
    next: usize,
    tasks: Option<(usize, Box<dyn Iterator<Item = Task> + Send + 'a>)>,
}

impl<'a> Queue<'a> {
    fn next(&mut self, fill: &Fill<'a>) -> Result<Option<(usize, Task)>> {
        loop {
            if let Some((output, tasks)) = &mut self.tasks
                && let Some(task) = tasks.next()
            {
                return Ok(Some((*output, task)));
            }
            let Some(output) = fill.outputs.get(self.next) else { return Ok(None) };
            let all = tasks(&fill.model.table, fill.recipe, output, &fill.limits)?;
            self.tasks = Some((self.next, Box::new(all)));
            self.next += 1;
        }
    }
}

/// Makes all outputs.
///
/// # Errors
/// Of reading, with file, tensor and byte. `BadInput`: a number too large for the type that is wanted; NaN or infinity where
/// codes are wanted. `Unsupported`: a type that cannot become it.
pub fn fill(fill: &Fill<'_>, target: &dyn Target, control: &Control) -> Result<Made> {
    let queue = Mutex::new(Queue { next: 0, tasks: None });
    let budget = Budget::new(fill.memory_bytes);
    let errors = Errors::new(fill.recipe.packed.len());
    let losses: Vec<Mutex<Losses>> = fill.outputs.iter().map(|_| Mutex::default()).collect();
    let Fill { model, recipe, limits, odd, .. } = fill;
    let blocks = Blocks::new(*odd, fill.outputs.len());
    let bands = Bands { model, recipe, limits, budget: &budget, zero_odd: *odd == Odd::Zero };
    super::parallel("make", fill.threads, control, |worker| {
        let mut hands = Hands::default();
        let mut buffer = Vec::new();
        let mut lane = target.lane(worker)?;
        while !control.is_stopped() {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next(fill)?;
            let Some((output, task)) = next else { break };
            let started = Instant::now();
            let name = fill.outputs.get(output).map_or("", |o| &o.name);
            match &task.work {
                Work::Copy { file, offset_bytes } => {
                    let copied = copy(fill, &mut *lane, output, &task, file.index(), *offset_bytes, control);
                    copied.map_err(|e| match fill.model.table.files.get(file.index()) {
                        Some(from) => e.file(&from.name).tensor(name),
                        None => e.tensor(name),
                    })?;
                    control.span(worker, "read", file.0, *offset_bytes, task.size_bytes, started);
                }
                Work::Make(make) => {
                    let held = budget.take(blocks.memory_bytes(make), control)?;
                    let of = fill.outputs.get(output).ok_or_else(|| Error::bug("a task of no output"))?;
                    let of = (output, of, task.offset_bytes);
                    let (bytes, lost) =
                        blocks.make(&mut hands, make, &fill.model.files, of, fill.saturate).map_err(|e| {
                            let source = make.reads.first();
                            let source = source.and_then(|r| fill.model.table.files.get(r.file.index()));
                            match source {
                                Some(from) => e.file(&from.name).tensor(name),
                                None => e.tensor(name),
                            }
                        })?;
                    if lost.overflows > 0 && !fill.saturate {
                        return Err(too_large(lost.overflows, make).tensor(name));
                    }
                    if task.size_bytes != bytes.len() as u64 {
                        return Err(Error::bug("a task made more or less than it said"));
                    }
                    lane.put(output, &Strip::run(task.offset_bytes, task.size_bytes), bytes)?;
                    if let Some(sum) = losses.get(output).filter(|_| lost != Losses::default()) {
                        let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                        *sum = sum.and(lost);
                    }
                    hands.forget();
                    drop(held);
                    control.span(worker, "make", output as u32, task.offset_bytes, task.size_bytes, started);
                }
                Work::Pack(pack) => {
                    if !std::ptr::eq(fill.outputs, fill.recipe.outputs.as_slice()) {
                        return Err(Error::bug("codes are made among other outputs than the recipe's"));
                    }
                    let mut put = |Stripe { output, strip, bytes, .. }: Stripe<'_>| {
                        if bytes.is_empty() { Ok(()) } else { lane.put(output, &strip, bytes) }
                    };
                    bands.make(pack, (&mut hands, &mut buffer), control, &errors, &mut put)?;
                    control.span(worker, "pack", output as u32, pack.rows.start, task.size_bytes, started);
                }
            }
            control.moved(task.size_bytes);
        }
        let started = Instant::now();
        lane.finish()?;
        control.span(worker, "drain", 0, 0, 0, started);
        Ok(())
    })?;
    let losses = losses.into_iter().map(|l| l.into_inner().unwrap_or_else(PoisonError::into_inner));
    Ok(Made { losses: losses.collect(), errors: errors.sums(), block_errors: blocks.errors.sums() })
}

/// Bytes of a file as they are, in pieces.
fn copy(
    fill: &Fill<'_>,
    lane: &mut dyn Lane,
    output: usize,
    task: &Task,
    file: usize,
    offset_bytes: u64,
    control: &Control,
) -> Result<()> {
    let file = fill.model.files.get(file).ok_or_else(|| Error::bug("a copy of no file"))?;
    let unit = fill.outputs.get(output).map_or(1, |o| u64::from(o.dtype.facts().block_bytes));
    let piece_bytes = PIECE_BYTES - PIECE_BYTES % unit;
    let mut done = 0;
    while done < task.size_bytes && !control.is_stopped() {
        let size = (task.size_bytes - done).min(piece_bytes);
        let from = offset_bytes + done;
        lane.bring(output, task.offset_bytes + done, size, &mut |into| {
            file.read_exact_at(into, from)
                .map_err(|e| if e.offset_bytes().is_some() { e } else { e.at(from) })
        })?;
        done += size;
    }
    Ok(())
}
