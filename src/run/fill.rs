//! Carries a recipe out into memory: workers take tasks in order, make their bytes, and leave them where they belong.
//!
//! The twin of [`super::weave`], which writes files. Bytes that are wanted as they lie in a file are read straight into their
//! place; others pass through a worker's hands. Both are shown to whoever watches while the caches still hold them, so
//! that looking at all weights costs no second way through memory. Where nobody has a place for them, bytes only pass.

use super::budget::Budget;
use super::job::Control;
use super::make::{Hands, Losses, too_large};
use crate::error::{Error, Result};
use crate::open::Model;
use crate::plan::weave::{Limits, Task, Work, tasks};
use crate::transform::recipe::{Output, Recipe};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// What is read at once where it is shown afterwards: it stays in a core's cache.
const PIECE_BYTES: u64 = 1 << 20;

/// What is made, and with what.
pub struct Fill<'a> {
    /// The source.
    pub model: &'a Model,
    /// Its values.
    pub recipe: &'a Recipe,
    /// What is made of them, in this order.
    pub outputs: &'a [Output],
    /// How large tasks are.
    pub limits: Limits,
    /// Memory for all tasks in flight.
    pub memory_bytes: u64,
    /// Workers.
    pub threads: usize,
    /// Whether a number too large becomes the largest there is, instead of an error.
    pub saturate: bool,
}

/// Where bytes go.
pub trait Target: Sync {
    /// The place of some bytes of an output, each given out once; `None` where they only pass.
    ///
    /// # Errors
    /// A bug: a place that is none, or was given out before.
    #[allow(clippy::mut_from_ref)] // each place is given out once, as an arena does it
    fn place(&self, output: usize, offset_bytes: u64, size_bytes: u64) -> Result<Option<&mut [u8]>>;

    /// Bytes of an output that are there now: whole elements, each once, in any order and from any worker.
    ///
    /// # Errors
    /// Whoever watches may end it.
    fn arrived(&self, output: usize, offset_bytes: u64, bytes: &[u8]) -> Result<()>;
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
/// Of reading, with file, tensor and byte. `BadInput`: a number too large for the type that is wanted. `Unsupported`: a
/// type that cannot become it.
pub fn fill(fill: &Fill<'_>, target: &dyn Target, control: &Control) -> Result<()> {
    let queue = Mutex::new(Queue { next: 0, tasks: None });
    let budget = Budget::new(fill.memory_bytes);
    super::parallel("make", fill.threads, control, |worker| {
        let mut hands = Hands::default();
        let mut buffer = Vec::new();
        while !control.is_stopped() {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next(fill)?;
            let Some((output, task)) = next else { break };
            let started = Instant::now();
            let name = fill.outputs.get(output).map_or("", |o| &o.name);
            match &task.work {
                Work::Copy { file, offset_bytes } => {
                    let copied =
                        copy(fill, target, output, &task, file.index(), *offset_bytes, &mut buffer, control);
                    copied.map_err(|e| match fill.model.table.files.get(file.index()) {
                        Some(from) => e.file(&from.name).tensor(name),
                        None => e.tensor(name),
                    })?;
                    control.span(worker, "read", file.0, *offset_bytes, task.size_bytes, started);
                }
                Work::Make(make) => {
                    let held = budget.take(make.memory_bytes(), control)?;
                    let (bytes, losses): (&[u8], Losses) =
                        hands.make(make, &fill.model.files, fill.saturate).map_err(|e| {
                            let source = make.reads.first();
                            let source = source.and_then(|r| fill.model.table.files.get(r.file.index()));
                            match source {
                                Some(from) => e.file(&from.name).tensor(name),
                                None => e.tensor(name),
                            }
                        })?;
                    if losses.overflows > 0 && !fill.saturate {
                        return Err(too_large(losses.overflows, make).tensor(name));
                    }
                    if let Some(place) = target.place(output, task.offset_bytes, task.size_bytes)? {
                        if place.len() != bytes.len() {
                            return Err(Error::bug("a task made more or less than it said"));
                        }
                        place.copy_from_slice(bytes);
                    }
                    target.arrived(output, task.offset_bytes, bytes)?;
                    hands.forget();
                    drop(held);
                    control.span(worker, "make", output as u32, task.offset_bytes, task.size_bytes, started);
                }
                Work::Pack(_) => return Err(Error::bug("codes are made in memory")),
            }
            control.moved(task.size_bytes);
        }
        Ok(())
    })
}

/// Bytes of a file as they are, in pieces.
#[allow(clippy::too_many_arguments)]
fn copy(
    fill: &Fill<'_>,
    target: &dyn Target,
    output: usize,
    task: &Task,
    file: usize,
    offset_bytes: u64,
    buffer: &mut Vec<u8>,
    control: &Control,
) -> Result<()> {
    let file = fill.model.files.get(file).ok_or_else(|| Error::bug("a copy of no file"))?;
    let unit = fill.outputs.get(output).map_or(1, |o| u64::from(o.dtype.facts().block_bytes));
    let piece_bytes = PIECE_BYTES - PIECE_BYTES % unit;
    let mut done = 0;
    while done < task.size_bytes && !control.is_stopped() {
        let size = (task.size_bytes - done).min(piece_bytes);
        let at = task.offset_bytes + done;
        let into = match target.place(output, at, size)? {
            Some(place) => place,
            None => {
                buffer.resize(buffer.len().max(size as usize), 0);
                &mut buffer[..size as usize]
            }
        };
        let from = offset_bytes + done;
        file.read_exact_at(into, from)
            .map_err(|e| if e.offset_bytes().is_some() { e } else { e.at(from) })?;
        target.arrived(output, at, into)?;
        done += size;
    }
    Ok(())
}
