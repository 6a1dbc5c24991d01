//! Carries a conversion out: workers take tasks in the order of the files, make their bytes, write them where they belong.
//!
//! A worker does one task from reading to writing; with a few of them reads, arithmetic and writes overlap, and what is in
//! flight is bounded by [`Weave::memory_bytes`]. Each keeps to a file of its own while there are enough of them, because
//! systems let one thread at a time write to a file; when there are not, it helps with another's. A file's tasks are given
//! out from front to back. What is written is hashed while it is at hand; the rest of that (blocks at the edges of writes;
//! all of it, where bytes at the front follow from those behind) is read back, which is given out before new tasks, so that
//! a file is complete as early as it can be.

use super::budget::Budget;
use super::job::Control;
use super::make::{Hands, Losses, Odd, too_large};
use super::pack::{Bands, Blocks, Errors, Stripe};
use crate::error::{Error, Result};
use crate::open::Model;
use crate::plan::weave::{Limits, Pack, Task, Work, tasks};
use crate::sink::file::FileSink;
use crate::sink::output::hash::{FileHash, Hash};
use crate::transform::method;
use crate::transform::recipe::{Form, Recipe};
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Files that are written at the same time. More would leave more unfinished where a run is cut off.
const FILES_MAX: usize = 4;
/// Bytes that one piece of hashing looks after.
const HASH_CHORE_BYTES: u64 = 32 << 20;
/// The disk is told to begin when so much has been written.
const WRITEBACK_BYTES: u64 = 8 << 20;
/// What a copy through user space reads at once, and where each read is a request to a server.
const COPY_BUFFER_BYTES: usize = 1 << 20;
const FAR_COPY_BUFFER_BYTES: usize = 4 << 20;

/// What is carried out, and with what.
pub struct Weave<'a> {
    /// The source.
    pub model: &'a Model,
    /// What is made of it.
    pub recipe: &'a Recipe,
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

/// What happened to numbers.
#[derive(Debug, Clone, Default)]
pub struct Made {
    /// What was lost in each of the recipe's outputs.
    pub losses: Vec<Losses>,
    /// How far each of the recipe's packed matrices is from what it was. Nothing of those in files that were there already.
    pub errors: Vec<method::Error>,
    /// The same of each of the recipe's outputs that became blocks.
    pub block_errors: Vec<method::Error>,
}

/// One file to be written.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its tensors, by their place in the recipe's outputs.
    pub outputs: Vec<usize>,
    /// Where each begins in the file.
    pub offsets_bytes: Vec<u64>,
    /// The file's size.
    pub size_bytes: u64,
    /// Whether the CRC-32 of each tensor is wanted.
    pub checksums: bool,
    /// Whether the file's hash is wanted.
    pub hashes: bool,
}

/// What the caller does with each file. All are called from workers; for one file in this order.
pub trait Files: Sync {
    /// Begins the file of this number; `None` where it is there already.
    fn open(&self, target: usize) -> Result<Option<FileSink>>;

    /// Writes what follows from the data: CRC-32s of its tensors, in their order.
    fn seal(&self, target: usize, sink: &FileSink, checksums: &[u32]) -> Result<()>;

    /// Everything has been written; the file's hash where it is wanted.
    fn close(&self, target: usize, sink: FileSink, hash: Option<Hash>) -> Result<()>;
}

/// A file on its way.
struct File {
    target: usize,
    /// Until it is closed.
    sink: RwLock<Option<FileSink>>,
    /// Tasks given out and not done, and one while there are more to come.
    open_count: AtomicUsize,
    /// CRC-32 of each task: the tensor's place in the target, its offset there, its size.
    checksums: Mutex<Vec<(usize, u64, u64, u32)>>,
    hash: Option<FileHash>,
    /// Bytes may be changed after they were written: nothing is hashed before the end.
    is_sealed_later: bool,
    hash_count: AtomicUsize,
    flushed_bytes: AtomicU64,
}

/// Something to do.
enum Chore {
    Make { file: Arc<File>, place: usize, task: Task },
    Hash { file: Arc<File>, first: u64 },
}

/// A file whose tasks are still being given out.
struct Active<'a> {
    file: Arc<File>,
    /// The tensor whose tasks they are, by its place in the target.
    place: usize,
    tasks: Option<Tasks<'a>>,
}

/// Tasks of one output that are still to come.
type Tasks<'a> = std::iter::Peekable<Box<dyn Iterator<Item = Task> + Send + 'a>>;

/// What there is to do, in order.
struct Queue<'a> {
    /// The first target that nobody has begun.
    next_target: usize,
    active: Vec<Active<'a>>,
    urgent: VecDeque<Chore>,
    closed_count: usize,
}

struct Shared<'a> {
    weave: &'a Weave<'a>,
    targets: &'a [Target],
    files: &'a dyn Files,
    queue: Mutex<Queue<'a>>,
    changed: Condvar,
    budget: Budget,
    losses: Vec<Mutex<Losses>>,
    errors: Errors,
    blocks: Blocks,
    /// For each target where those of its tensors begin that hold matrices together, by the recipe's outputs.
    faces: Vec<HashMap<usize, u64>>,
    control: &'a Control,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes and writes all targets. Returns what happened to their numbers.
pub fn weave(weave: &Weave<'_>, targets: &[Target], files: &dyn Files, control: &Control) -> Result<Made> {
    let faces = targets.iter().map(|target| {
        let is_face = |&(&output, _): &(&usize, &u64)| {
            weave.recipe.outputs.get(output).is_some_and(|o| matches!(o.form, Form::Face { .. }))
        };
        let places = target.outputs.iter().zip(&target.offsets_bytes).filter(is_face);
        places.map(|(&output, &at)| (output, at)).collect()
    });
    let shared = Shared {
        weave,
        targets,
        files,
        queue: Mutex::new(Queue {
            next_target: 0,
            active: Vec::new(),
            urgent: VecDeque::new(),
            closed_count: 0,
        }),
        changed: Condvar::new(),
        budget: Budget::new(weave.memory_bytes),
        losses: weave.recipe.outputs.iter().map(|_| Mutex::default()).collect(),
        errors: Errors::new(weave.recipe.packed.len()),
        blocks: Blocks::new(weave.odd, weave.recipe.outputs.len()),
        faces: faces.collect(),
        control,
    };
    super::parallel("convert", weave.threads, control, |index| {
        let mut hands = Hands::default();
        let mut buffer = Vec::new();
        let mut own = None;
        while !control.is_stopped() {
            let Some(chore) = shared.next(&mut own)? else { break };
            match chore {
                Chore::Make { file, place, task } => {
                    shared.carry_out(index, &mut hands, &mut buffer, &file, place, &task)?;
                    shared.done(file)?;
                }
                Chore::Hash { file, first } => shared.hash(index, &mut buffer, file, first)?,
            }
        }
        Ok(())
    })?;
    let errors = shared.errors.sums();
    let block_errors = shared.blocks.errors.sums();
    let losses = shared.losses.into_iter().map(|l| l.into_inner().unwrap_or_else(PoisonError::into_inner));
    Ok(Made { losses: losses.collect(), errors, block_errors })
}

impl<'a> Shared<'a> {
    /// The next thing to do; begins files and ends them on the way. `own` is the target that the worker keeps to.
    fn next(&self, own: &mut Option<usize>) -> Result<Option<Chore>> {
        loop {
            let mut queue = lock(&self.queue);
            if let Some(chore) = queue.urgent.pop_front() {
                return Ok(Some(chore));
            }
            let mine = own.and_then(|own| queue.active.iter().position(|a| a.file.target == own));
            let may_begin = queue.next_target < self.targets.len() && queue.active.len() < FILES_MAX;
            let at = match mine {
                Some(at) => at,
                None if may_begin => {
                    let index = queue.next_target;
                    queue.next_target += 1;
                    drop(queue);
                    *own = Some(index);
                    self.begin(index)?;
                    continue;
                }
                None if !queue.active.is_empty() => 0,
                // Files that are still being begun, written or hashed may yet have something to do.
                None if queue.closed_count < self.targets.len() && !self.control.is_stopped() => {
                    let wait = Duration::from_millis(100);
                    drop(self.changed.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner));
                    continue;
                }
                None => return Ok(None),
            };
            let Active { file, place, tasks: waiting } = &mut queue.active[at];
            let target = &self.targets[file.target];
            if let Some(tasks) = waiting {
                if let Some(task) = next_of(tasks, self.weave.limits.copy_bytes) {
                    file.open_count.fetch_add(1, Ordering::Relaxed);
                    return Ok(Some(Chore::Make { file: file.clone(), place: *place, task }));
                }
                *waiting = None;
                *place += 1;
                continue;
            }
            match target.outputs.get(*place) {
                Some(&output) => {
                    let Weave { model, recipe, limits, .. } = self.weave;
                    let output = &recipe.outputs[output];
                    let all = tasks(&model.table, recipe, output, limits)?;
                    let all: Box<dyn Iterator<Item = Task> + Send> = Box::new(all);
                    *waiting = Some(all.peekable());
                }
                None => {
                    let file = queue.active.remove(at).file;
                    drop(queue);
                    self.done(file)?;
                }
            }
        }
    }

    /// Begins a file. Claiming its space takes the system a while: nobody waits for that.
    fn begin(&self, index: usize) -> Result<()> {
        let target = &self.targets[index];
        let opened = self.files.open(index)?;
        let mut queue = lock(&self.queue);
        match opened {
            Some(sink) => {
                let file = Arc::new(File::new(index, sink, target));
                queue.active.push(Active { file, place: 0, tasks: None });
            }
            None => {
                queue.closed_count += 1;
                let bytes = target.outputs.iter().map(|&o| self.weave.recipe.outputs[o].size_bytes());
                self.control.moved(bytes.sum::<Result<u64>>()?);
            }
        }
        self.changed.notify_all();
        Ok(())
    }

    /// One task of a file is done, or the last was given out; after both the file is finished.
    fn done(&self, file: Arc<File>) -> Result<()> {
        if file.open_count.fetch_sub(1, Ordering::AcqRel) != 1 {
            return Ok(());
        }
        let target = &self.targets[file.target];
        let checksums = file.checksums(target.outputs.len());
        file.with(|sink| self.files.seal(file.target, sink, &checksums))?;
        let count = if file.hash.is_some() { target.size_bytes.div_ceil(HASH_CHORE_BYTES) } else { 0 };
        if count == 0 {
            return self.close(&file);
        }
        file.hash_count.store(count as usize, Ordering::Release);
        let mut queue = lock(&self.queue);
        for number in 0..count {
            queue.urgent.push_back(Chore::Hash { file: file.clone(), first: number * HASH_CHORE_BYTES });
        }
        self.changed.notify_all();
        Ok(())
    }

    fn close(&self, file: &File) -> Result<()> {
        let hash = file.hash.as_ref().map(FileHash::finish).transpose()?;
        let sink = file.sink.write().unwrap_or_else(PoisonError::into_inner).take();
        let sink = sink.ok_or_else(|| Error::bug("a file is closed twice"))?;
        self.files.close(file.target, sink, hash)?;
        lock(&self.queue).closed_count += 1;
        self.changed.notify_all();
        Ok(())
    }

    /// Hashes what nobody has of a part of a file that is otherwise complete.
    fn hash(&self, worker: usize, buffer: &mut Vec<u8>, file: Arc<File>, first: u64) -> Result<()> {
        let started = Instant::now();
        let end = (first + HASH_CHORE_BYTES).min(self.targets[file.target].size_bytes);
        file.read_back(buffer, first..end)?;
        self.control.span(worker, "hash", file.target as u32, first, end - first, started);
        if file.hash_count.fetch_sub(1, Ordering::AcqRel) == 1 {
            return self.close(&file);
        }
        Ok(())
    }

    /// One task, from reading to writing.
    fn carry_out(
        &self,
        worker: usize,
        hands: &mut Hands,
        buffer: &mut Vec<u8>,
        file: &File,
        place: usize,
        task: &Task,
    ) -> Result<()> {
        let target = &self.targets[file.target];
        let output = target.outputs[place];
        let started = Instant::now();
        let at = target.offsets_bytes[place] + task.offset_bytes;
        let name = &self.weave.recipe.outputs[output].name;
        let tables = &self.weave.model.table.files;
        match &task.work {
            Work::Copy { file: source, offset_bytes } => {
                self.copy(buffer, file, place, task, source.index(), *offset_bytes, at).map_err(|e| {
                    match tables.get(source.index()) {
                        Some(from) if e.file_name().is_none() => e.file(&from.name).tensor(name),
                        _ => e.tensor(name),
                    }
                })?;
                self.control.span(worker, "copy", source.0, *offset_bytes, task.size_bytes, started);
            }
            Work::Make(make) => {
                let Weave { model, recipe, saturate, .. } = *self.weave;
                let held = self.budget.take(self.blocks.memory_bytes(make), self.control)?;
                let source = make.reads.first().and_then(|r| tables.get(r.file.index()));
                let of = (output, &recipe.outputs[output], task.offset_bytes);
                let made = self.blocks.make(hands, make, &model.files, of, saturate);
                let (bytes, losses) = made.map_err(|e| {
                    let e = e.tensor(name);
                    match source {
                        Some(from) if e.file_name().is_none() => e.file(&from.name),
                        _ => e,
                    }
                })?;
                if losses.overflows > 0 && !self.weave.saturate {
                    return Err(too_large(losses.overflows, make).tensor(name));
                }
                file.write(bytes, at)?;
                if target.checksums {
                    file.note_checksum(place, task.offset_bytes, bytes);
                }
                if losses != Losses::default() {
                    let mut sum = lock(&self.losses[output]);
                    *sum = sum.and(losses);
                }
                hands.forget();
                drop(held);
                self.control.span(worker, "make", file.target as u32, at, task.size_bytes, started);
            }
            Work::Pack(pack) => {
                self.pack(hands, buffer, file, pack)?;
                self.control.span(worker, "pack", file.target as u32, at, task.size_bytes, started);
            }
        }
        self.control.moved(task.size_bytes);
        Ok(())
    }

    /// Some rows of a matrix, from the source to all the tensors that hold them.
    fn pack(&self, hands: &mut Hands, buffer: &mut Vec<u8>, file: &File, pack: &Pack) -> Result<()> {
        let Weave { model, recipe, limits, odd, .. } = self.weave;
        let bands = Bands { model, recipe, limits, budget: &self.budget, zero_odd: *odd == Odd::Zero };
        let mut write = |Stripe { output, face, strip, bytes }: Stripe<'_>| {
            let at = self.faces[file.target].get(&output);
            let &at = at.ok_or_else(|| Error::bug("a matrix whose tensors are in several files"))?;
            for (n, run) in bytes.chunks_exact((strip.run_bytes as usize).max(1)).enumerate() {
                let place = at + strip.offset_bytes + n as u64 * strip.pitch_bytes;
                // The disk may begin with codes, which come from front to back; the rest lies anywhere.
                file.put(run, place)?;
                if face == 0 && strip.run_count == 1 {
                    file.flush(place + run.len() as u64);
                }
            }
            Ok(())
        };
        bands.make(pack, (hands, buffer), self.control, &self.errors, &mut write)
    }

    /// Bytes of the source as they are: without passing through here where the system can and nobody needs to see them.
    #[allow(clippy::too_many_arguments)]
    fn copy(
        &self,
        buffer: &mut Vec<u8>,
        file: &File,
        place: usize,
        task: &Task,
        source: usize,
        offset_bytes: u64,
        at: u64,
    ) -> Result<()> {
        let checksums = self.targets[file.target].checksums;
        let source = self.weave.model.files.get(source).ok_or_else(|| Error::bug("a copy of no file"))?;
        let buffer_bytes = match source.temper().network && source.as_local().is_none() {
            true => FAR_COPY_BUFFER_BYTES,
            false => COPY_BUFFER_BYTES,
        };
        let own = sized(buffer, buffer_bytes);
        if !checksums {
            let end = at + task.size_bytes;
            file.with(|sink| sink.copy_range(&**source, offset_bytes, at, task.size_bytes, own))?;
            file.flush(end);
            // As long as the caches hold it.
            return file.read_back(buffer, at..end);
        }
        let mut done = 0;
        while done < task.size_bytes {
            let size = (task.size_bytes - done).min(own.len() as u64) as usize;
            let piece = &mut own[..size];
            source.read_exact_at(piece, offset_bytes + done)?;
            file.write(piece, at + done)?;
            file.note_checksum(place, task.offset_bytes + done, piece);
            done += size as u64;
        }
        Ok(())
    }
}

/// The first bytes of some memory, which grows.
fn sized(memory: &mut Vec<u8>, count: usize) -> &mut [u8] {
    if memory.len() < count {
        memory.resize(count, 0);
    }
    &mut memory[..count]
}

/// The next task of an output, joined to those that go on where it ends: parts of a stack that lie side by side in both
/// files.
fn next_of(tasks: &mut Tasks<'_>, copy_bytes: u64) -> Option<Task> {
    let mut task = tasks.next()?;
    while let Work::Copy { file, offset_bytes } = task.work
        && task.size_bytes < copy_bytes
    {
        let end = offset_bytes + task.size_bytes;
        let goes_on = |next: &Task| {
            next.offset_bytes == task.offset_bytes + task.size_bytes
                && matches!(next.work, Work::Copy { file: f, offset_bytes: o } if f == file && o == end)
        };
        match tasks.next_if(goes_on) {
            Some(next) => task.size_bytes += next.size_bytes,
            None => break,
        }
    }
    Some(task)
}

impl File {
    fn new(target: usize, sink: FileSink, of: &Target) -> File {
        let checksums = Mutex::new(Vec::with_capacity(if of.checksums { of.outputs.len() } else { 0 }));
        File {
            target,
            sink: RwLock::new(Some(sink)),
            open_count: AtomicUsize::new(1),
            checksums,
            hash: (of.hashes && of.size_bytes > 0).then(|| FileHash::new(of.size_bytes)),
            is_sealed_later: of.checksums,
            hash_count: AtomicUsize::new(0),
            flushed_bytes: AtomicU64::new(0),
        }
    }

    fn with<T>(&self, work: impl FnOnce(&FileSink) -> Result<T>) -> Result<T> {
        let sink = self.sink.read().unwrap_or_else(PoisonError::into_inner);
        work(sink.as_ref().ok_or_else(|| Error::bug("a file is used after it was closed"))?)
    }

    /// Writes bytes that are written once.
    fn put(&self, bytes: &[u8], at: u64) -> Result<()> {
        self.with(|sink| sink.write_all_at(bytes, at))?;
        if let (Some(hash), false) = (&self.hash, self.is_sealed_later) {
            hash.note(bytes, at);
        }
        Ok(())
    }

    fn write(&self, bytes: &[u8], at: u64) -> Result<()> {
        self.put(bytes, at)?;
        self.flush(at + bytes.len() as u64);
        Ok(())
    }

    /// Hashes what the file holds of a range, where nobody has.
    fn read_back(&self, buffer: &mut Vec<u8>, range: Range<u64>) -> Result<()> {
        let Some(hash) = &self.hash else { return Ok(()) };
        hash.read_back(range, buffer, &mut |piece, at| self.with(|sink| sink.read_exact_at(piece, at)))
    }

    /// Lets the disk begin with what was written up to `end`, as files are written from front to back; waiting for it is
    /// left to the end. What other workers are still writing before it is found by the sync.
    fn flush(&self, end: u64) {
        let flushed = self.flushed_bytes.load(Ordering::Relaxed);
        if end.saturating_sub(flushed) >= WRITEBACK_BYTES
            && self.flushed_bytes.compare_exchange(flushed, end, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            let _ = self.with(|sink| {
                sink.start_writeback(flushed, end - flushed);
                Ok(())
            });
        }
    }

    fn note_checksum(&self, place: usize, offset_bytes: u64, bytes: &[u8]) {
        let crc = crc32fast::hash(bytes);
        lock(&self.checksums).push((place, offset_bytes, bytes.len() as u64, crc));
    }

    /// CRC-32 of each tensor from those of its pieces.
    fn checksums(&self, count: usize) -> Vec<u32> {
        let mut pieces = std::mem::take(&mut *lock(&self.checksums));
        pieces.sort_unstable();
        let mut sums = vec![crc32fast::Hasher::new(); count];
        for (place, _, size, crc) in pieces {
            if let Some(sum) = sums.get_mut(place) {
                sum.combine(&crc32fast::Hasher::new_with_initial_len(crc, size));
            }
        }
        sums.into_iter().map(crc32fast::Hasher::finalize).collect()
    }
}
