//! Loading all that a recipe makes, matrices that become codes and scales among it: what would be written to files goes into
//! memory instead, through the same sinks as any load.
//!
//! Workers make bytes as they would for files, and put them into slots: the pinned ring's on the way to a GPU. A slot takes
//! what several outputs get of one band, and travels when it is full, so that small strips cost no transfer of their own.
//! Strips of turned layouts, whose rows are short runs far apart, travel as two-dimensional copies: they need no memory for
//! whole matrices, and the copy engine takes them as they are.

use super::host::{HOST_CHUNK_BYTES, arrived};
use super::tensors::{Loaded, Report};
use super::{Options, Prepared, Ready, cached_part, check_unchanged, summary};
use crate::buf::{Ring, Slot};
use crate::checkpoint::FileId;
use crate::error::{Error, ErrorKind, Result};
use crate::machine;
use crate::open::Model;
use crate::plan::weave::{Limits, tasks};
use crate::plan::{Cut, Dest, Kernel, Plan, Put, Target, Unit};
use crate::run::BLOCKING_READERS;
use crate::run::fill::{Fill, Lane, PIECE_BYTES, Target as FillTarget, fill};
use crate::run::globals;
use crate::run::job::Control;
use crate::run::make::Odd;
use crate::run::weave::{Made, Weave};
use crate::sink::device::{Choice, Device};
use crate::sink::host::HostSink;
use crate::sink::{GPU_SLOT_COUNT, Lane as SinkLane, SLOT_MARGIN_BYTES, Sink};
use crate::text::bytes as bytes_text;
use crate::transform::packing::faces::Strip;
use crate::transform::recipe::Recipe;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

#[cfg(feature = "cuda")]
use super::cuda::{self, ALIGN_BYTES, PADDING_BYTES_MAX};
#[cfg(feature = "cuda")]
use crate::sink::cuda::{CudaSink, Pinned};

/// The least memory for work in flight.
pub(crate) const WORK_BYTES_MIN: u64 = 64 << 20;
/// Memory for work in flight where nobody says otherwise; more where many workers are to be fed.
const WORK_BYTES: u64 = 512 << 20;
/// What a worker needs of it.
const WORKER_BYTES: u64 = 32 << 20;
/// Parts of a slot begin at multiples of this.
const PART_ALIGN_BYTES: usize = 64;
/// A slot: a piece, and the margin that all slots have.
const SLOT_BYTES: usize = PIECE_BYTES as usize + SLOT_MARGIN_BYTES;
/// More workers than pieces of this size would only be started and ended.
const SHARE_BYTES: u64 = 64 << 10;

/// A load of what a recipe makes.
pub(crate) struct Making<'a> {
    /// The source.
    pub(crate) model: &'a Model,
    /// What is made of it.
    pub(crate) recipe: &'a Recipe,
    /// Where to and how; names, types and slices are the recipe's affair.
    pub(crate) options: &'a Options,
    /// Host memory for work in flight, besides the tensors.
    pub(crate) work_bytes: Option<u64>,
    /// Whether what is NaN or infinite is quantised as zero, instead of an error.
    pub(crate) zero_odd: bool,
    /// Who watches.
    pub(crate) control: &'a Control,
}

/// How the work is done.
struct Work {
    limits: Limits,
    memory_bytes: u64,
    threads: usize,
}

impl Making<'_> {
    /// Makes everything. Tensors stand in the order of the recipe's outputs.
    ///
    /// # Errors
    /// Those of reading and of the device. `BadInput`: NaN or infinity where codes are wanted; a file that was changed.
    /// `NoSpace`: memory too small, of the host or of the device. `Unsupported`: what cannot be made.
    pub(crate) fn load(&self, prepared: Prepared) -> Result<(Loaded, Made)> {
        let ready = prepared.0.wait()?;
        self.check_files()?;
        let Ready { choice: Choice { device, reason, .. }, .. } = &ready;
        match device {
            Device::Cpu => self.to_host(reason.clone()),
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => match ready.pinned {
                Some(pinned) => self.to_device(pinned),
                None => Err(Error::bug("the device was not opened")),
            },
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => Err(Error::unsupported("this build has no CUDA")),
        }
    }

    fn to_host(&self, reason: Option<String>) -> Result<(Loaded, Made)> {
        let mut report;
        let plan;
        (plan, report) = self.plan("cpu", 64, u64::MAX)?;
        report.form = "owned";
        report.fallback_reason = reason;
        let limit = self.options.memory_bytes.unwrap_or(u64::MAX);
        if plan.arena_bytes() > limit {
            return Err(no_space(limit, "allowed", plan.arena_bytes()));
        }
        let work = self.work(&plan, plan.arena_bytes())?;
        report.threads = work.threads;
        self.announce(&report, &plan);
        if self.options.dry_run {
            return Ok((Loaded::nothing(report), Made::default()));
        }
        let started = Instant::now();
        let cpu = machine::cpu_time();
        let (ring, slots) = Ring::new(work.threads, SLOT_BYTES)?;
        let sink = HostSink::new(&plan, false, self.options.check)?;
        let (made, slots) = self.run(&work, &plan, &sink, slots)?;
        report.took(started, cpu);
        drop((ring, slots));
        self.settle(&mut report)?;
        Ok((arrived(sink, &plan, report, self.options.check, self.control)?, made))
    }

    #[cfg(feature = "cuda")]
    fn to_device(&self, mut pinned: Pinned) -> Result<(Loaded, Made)> {
        pinned.gpu().bind()?;
        let (name, is_integrated) = {
            let facts = pinned.gpu().facts();
            (format!("cuda:{}", facts.ordinal), facts.integrated)
        };
        let (plan, mut report) = self.plan(&name, ALIGN_BYTES, PADDING_BYTES_MAX)?;
        let free_bytes = cuda::describe(&pinned, &mut report)?;
        let work = self.work(&plan, if is_integrated { plan.arena_bytes() } else { 0 })?;
        report.threads = work.threads;
        self.announce(&report, &plan);
        if plan.arena_bytes() > free_bytes {
            let needed = bytes_text(plan.arena_bytes());
            let message = format!("{name} has {} free, this load needs {needed}", bytes_text(free_bytes));
            return Err(Error::new(ErrorKind::NoSpace, message)
                .hint("a scheme of fewer bits, or larger groups, takes less"));
        }
        if self.options.dry_run {
            return Ok((Loaded::nothing(report), Made::default()));
        }
        if self.options.measure {
            report.limit_bytes_per_second = pinned.measure().ok();
        }
        let slots = pinned.take_slots();
        let before = pinned.gpu().memory()?.free_bytes;
        let started = Instant::now();
        let cpu = machine::cpu_time();
        let shape = (slots.len(), SLOT_BYTES);
        let sink = CudaSink::new(pinned, &plan, &[], shape, (false, self.options.check, self.options.trace))?;
        let (made, slots) = self.run(&work, &plan, &sink, slots)?;
        report.took(started, cpu);
        cuda::measured(&sink, &plan, before, &mut report, self.control)?;
        self.settle(&mut report)?;
        Ok((cuda::arrived(sink, &plan, report, self.options.check.then_some(slots), self.control)?, made))
    }

    /// What will be moved: what is made, and before that what is looked at.
    fn announce(&self, report: &Report, plan: &Plan) {
        let looked_bytes = globals::size_bytes(self.recipe, &self.sets());
        self.control.plan(summary(report), plan.output_bytes.saturating_add(looked_bytes));
    }

    /// The sets of matrices whose scales have a number in common.
    fn sets(&self) -> Vec<usize> {
        (0..self.recipe.sharing.len()).collect()
    }

    /// Where everything will lie, and what is known before anything moves.
    fn plan(&self, device: &str, align_bytes: u64, padding_bytes_max: u64) -> Result<(Plan, Report)> {
        let ranges = self.ranges();
        let read_bytes = ranges.iter().fold(0u64, |sum, (_, r)| sum.saturating_add(r.end - r.start));
        let target =
            Target { align_bytes, padding_bytes_max, chunk_bytes: HOST_CHUNK_BYTES, cut: Cut::Arena };
        let plan = Plan::of_outputs(&self.recipe.outputs, read_bytes, &target)?;
        let mut report = Report::new(self.model, device, &plan);
        report.made = true;
        report.cached_fraction = cached_part(self.model, ranges, self.control);
        Ok((plan, report))
    }

    /// The bytes that are read, each once.
    fn ranges(&self) -> Vec<(FileId, Range<u64>)> {
        let matrices = self.recipe.packed.iter().map(|p| &p.matrix);
        let parts = self.recipe.outputs.iter().chain(matrices).flat_map(|o| &o.parts);
        let values: BTreeSet<usize> = parts.map(|p| p.value).collect();
        let values = values.into_iter().filter_map(|v| self.recipe.values.get(v));
        let tensors: BTreeSet<usize> = values.flat_map(|v| v.source.tensors()).collect();
        let tensors = tensors.into_iter().filter_map(|t| self.model.table.tensors.get(t));
        let range = |start: u64, size: u64| start..start.saturating_add(size);
        let mut ranges: Vec<_> =
            tensors.map(|t| (t.at.span.file, range(t.at.span.offset_bytes, t.at.span.size_bytes))).collect();
        ranges.sort_unstable_by_key(|(file, range)| (*file, range.start, range.end));
        ranges.dedup();
        ranges
    }

    /// How much at once, and by how many; `held_bytes` of the host's memory are taken by the tensors.
    fn work(&self, plan: &Plan, held_bytes: u64) -> Result<Work> {
        let readers = if self.model.crosses_network() { BLOCKING_READERS } else { machine::core_count() };
        let threads = self.options.threads.unwrap_or(readers).clamp(1, GPU_SLOT_COUNT);
        let wanted = self.work_bytes.unwrap_or(WORK_BYTES.max(WORKER_BYTES * threads as u64));
        if wanted < WORK_BYTES_MIN {
            return Err(Error::usage(format!(
                "quantising needs at least {} of memory to work in",
                bytes_text(WORK_BYTES_MIN)
            )));
        }
        let available = machine::available_memory_bytes().unwrap_or(u64::MAX);
        let left = available.saturating_sub(held_bytes);
        if left < WORK_BYTES_MIN {
            return Err(no_space(available, "available", held_bytes.saturating_add(WORK_BYTES_MIN)));
        }
        let memory_bytes = wanted.min(left);
        let limits = Limits::for_model(memory_bytes, self.model);
        for output in &self.recipe.outputs {
            // What cannot be made is refused now.
            drop(tasks(&self.model.table, self.recipe, output, &limits)?);
        }
        let fed = usize::try_from(memory_bytes / WORKER_BYTES).unwrap_or(usize::MAX);
        let shares = usize::try_from(plan.output_bytes / SHARE_BYTES).unwrap_or(usize::MAX);
        Ok(Work { limits, memory_bytes, threads: threads.min(fed).min(shares).max(1) })
    }

    /// Makes everything into a sink; the slots come back.
    fn run(&self, work: &Work, plan: &Plan, sink: &dyn Sink, slots: Vec<Slot>) -> Result<(Made, Vec<Slot>)> {
        let &Making { model, recipe, .. } = self;
        let &Work { limits, memory_bytes, threads } = work;
        let (saturate, odd) = (false, Odd::of_scheme(self.zero_odd));
        // Numbers that whole matrices have in common are found before any of their codes.
        let look = Weave { model, recipe, limits, memory_bytes, threads, saturate, odd };
        let sets = self.sets();
        let globals = globals::find(&look, &sets, self.control)?;
        let mut recipe = Cow::Borrowed(recipe);
        for (&set, global) in sets.iter().zip(globals) {
            recipe.to_mut().set_global(set, global);
        }
        let (recipe, outputs) = (&*recipe, &recipe.outputs);
        let job = Fill { model, recipe, outputs, limits, memory_bytes, threads, saturate, odd };
        let through = Through::new(plan, sink, slots, threads);
        let made = fill(&job, &through, self.control)?;
        Ok((made, through.returned.into_inner().unwrap_or_else(PoisonError::into_inner)))
    }

    /// What is known when everything has arrived.
    fn settle(&self, report: &mut Report) -> Result<()> {
        report.bytes_moved = report.bytes;
        // Everything is read through the page cache; how much of it was there was found before.
        let cached = report.cached_fraction.unwrap_or(0.0) * report.read_bytes as f64;
        report.cached_bytes = (cached as u64).min(report.read_bytes);
        report.buffered_bytes = report.read_bytes - report.cached_bytes;
        self.check_files()
    }

    /// The files must be what they were.
    fn check_files(&self) -> Result<()> {
        self.model.files.iter().try_for_each(|f| check_unchanged(&**f))
    }
}

fn no_space(limit: u64, whose: &str, needed: u64) -> Error {
    let message =
        format!("{} of memory are {whose}, this load needs {}", bytes_text(limit), bytes_text(needed));
    Error::new(ErrorKind::NoSpace, message).hint("a scheme of fewer bits, or larger groups, takes less")
}

/// A sink as the target of what is made.
struct Through<'a> {
    plan: &'a Plan,
    sink: &'a dyn Sink,
    /// Each worker's slots, until it takes them.
    shares: Vec<Mutex<Vec<Slot>>>,
    returned: Mutex<Vec<Slot>>,
}

impl<'a> Through<'a> {
    fn new(plan: &'a Plan, sink: &'a dyn Sink, slots: Vec<Slot>, threads: usize) -> Through<'a> {
        let mut shares: Vec<Vec<Slot>> = (0..threads).map(|_| Vec::new()).collect();
        let total = slots.len().max(1);
        for (index, slot) in slots.into_iter().enumerate() {
            if let Some(share) = shares.get_mut(index * threads / total) {
                share.push(slot);
            }
        }
        let shares = shares.into_iter().map(Mutex::new).collect();
        Through { plan, sink, shares, returned: Mutex::default() }
    }
}

impl FillTarget for Through<'_> {
    fn lane(&self, worker: usize) -> Result<Box<dyn Lane + '_>> {
        let share = self.shares.get(worker);
        let share = share.map(|s| std::mem::take(&mut *s.lock().unwrap_or_else(PoisonError::into_inner)));
        let lane = self.sink.lane(share.unwrap_or_default())?;
        Ok(Box::new(ThroughLane { target: self, lane, open: None }))
    }
}

/// One worker's end.
struct ThroughLane<'a> {
    target: &'a Through<'a>,
    lane: Box<dyn SinkLane + 'a>,
    open: Option<Open>,
}

/// A slot that is being filled.
struct Open {
    slot: Slot,
    used_bytes: usize,
    puts: Vec<Put>,
}

/// What a lane takes: made bytes have no file, and no reads.
fn unit(puts: Vec<Put>) -> Unit {
    Unit { file: FileId::default(), reads: Vec::new(), fix: None, puts }
}

impl ThroughLane<'_> {
    /// Where bytes of an output go: runs of one length at equal distances.
    fn put_of(&self, output: usize, strip: &Strip) -> Result<Put> {
        let Strip { offset_bytes, run_bytes, pitch_bytes, run_count } = *strip;
        let to = self.target.plan.outputs.get(output).ok_or_else(|| Error::bug("bytes of no output"))?;
        let reach =
            run_count.saturating_sub(1).checked_mul(pitch_bytes).and_then(|n| n.checked_add(run_bytes));
        let end = reach.and_then(|n| n.checked_add(offset_bytes));
        if run_bytes == 0 || run_count == 0 || end.is_none_or(|end| end > to.size_bytes) {
            return Err(Error::bug("bytes that leave their output").tensor(&to.name));
        }
        Ok(Put {
            from_bytes: 0,
            row_bytes: run_bytes,
            pitch_bytes: run_bytes,
            row_count: run_count,
            kernel: Kernel::Copy,
            to: Dest { arena: to.arena, offset_bytes: to.offset_bytes + offset_bytes, pitch_bytes },
        })
    }

    /// Hands the slot on that is being filled.
    fn send(&mut self) -> Result<()> {
        match self.open.take() {
            Some(Open { slot, puts, .. }) => self.lane.put(slot, 0, &unit(puts)),
            None => Ok(()),
        }
    }

    /// Fills the next bytes of a slot, which go where `put` says.
    fn fill(&mut self, put: Put, with: &mut dyn FnMut(&mut [u8]) -> Result<()>) -> Result<()> {
        let size = (put.row_bytes * put.row_count) as usize;
        let at = |open: &Open| open.used_bytes.next_multiple_of(PART_ALIGN_BYTES);
        if self.open.as_ref().is_some_and(|open| at(open) + size > open.slot.len()) {
            self.send()?;
        }
        if self.open.is_none() {
            let slot = self.lane.slot()?.ok_or_else(|| Error::bug("a worker has no slots"))?;
            self.open = Some(Open { slot, used_bytes: 0, puts: Vec::new() });
        }
        let open = self.open.as_mut().ok_or_else(|| Error::bug("no slot is being filled"))?;
        let at = at(open);
        let into = open.slot.get_mut(at..at + size).ok_or_else(|| Error::bug("more than a slot holds"))?;
        with(into)?;
        open.puts.push(Put { from_bytes: at as u64, ..put });
        open.used_bytes = at + size;
        Ok(())
    }

    /// Bytes to their place at once where the sink lets them, else by a slot.
    fn move_to(&mut self, put: Put, with: &mut dyn FnMut(&mut [u8]) -> Result<()>) -> Result<()> {
        if put.is_contiguous()
            && let Some(mut places) = self.target.sink.in_place(&unit(vec![put]))
            && let [(_, place)] = places.as_mut_slice()
        {
            return with(place);
        }
        self.fill(put, with)
    }
}

impl Lane for ThroughLane<'_> {
    fn bring(
        &mut self,
        output: usize,
        offset_bytes: u64,
        size_bytes: u64,
        read: &mut dyn FnMut(&mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let put = self.put_of(output, &Strip::run(offset_bytes, size_bytes))?;
        self.move_to(put, read)
    }

    fn put(&mut self, output: usize, strip: &Strip, bytes: &[u8]) -> Result<()> {
        let put = self.put_of(output, strip)?;
        for (at, put) in pieces(put, PIECE_BYTES) {
            let size = put.row_bytes * put.row_count;
            let from = crate::buf::usize_range(at..at + size).and_then(|r| bytes.get(r));
            let from = from.ok_or_else(|| Error::bug("fewer bytes than their place has"))?;
            self.move_to(put, &mut |into| {
                into.copy_from_slice(from);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.send()?;
        let slots = self.lane.finish()?;
        self.target.returned.lock().unwrap_or_else(PoisonError::into_inner).extend(slots);
        Ok(())
    }
}

/// Cuts rows that lie one behind the other into pieces of at most so many bytes: whole rows, or parts of one. Each with its
/// first byte among them.
fn pieces(put: Put, most_bytes: u64) -> impl Iterator<Item = (u64, Put)> {
    let rows = (most_bytes / put.row_bytes.max(1)).max(1);
    let width = put.row_bytes.min(most_bytes.max(1));
    (0..put.row_count).step_by(rows as usize).flat_map(move |row| {
        (0..put.row_bytes).step_by(width as usize).map(move |column| {
            let row_bytes = width.min(put.row_bytes - column);
            let offset_bytes = put.to.offset_bytes + row * put.to.pitch_bytes + column;
            let row_count = rows.min(put.row_count - row);
            let to = Dest { offset_bytes, ..put.to };
            (row * put.row_bytes + column, Put { row_bytes, pitch_bytes: row_bytes, row_count, to, ..put })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::load::{DeviceSpec, prepare};
    use crate::plan::ArenaId;
    use crate::run::examine;
    use crate::run::job::Job;
    use crate::transform::block;
    use crate::transform::recipe::{Output as Made, Part};

    /// Blocks are outputs like any others, of types that the file has not.
    #[test]
    fn blocks_are_made_too() {
        let job = Job::start("test", false, |control| {
            let model = crate::open::open("testdata/rustdoc-llama-6m", &Default::default())?;
            let values = model.values(model.json("config.json")?.as_ref())?.values;
            let types = [DType::Q4K, DType::Q8_0, DType::IQ4NL, DType::Q6K];
            let outputs = values.iter().enumerate().map(|(n, value)| {
                let whole = |d: &&DType| {
                    let row = value.shape.last().copied().unwrap_or(0);
                    value.shape.len() == 2 && row.is_multiple_of(u64::from(d.facts().block_elements))
                };
                let dtype = types.iter().cycle().skip(n).take(4).find(whole).copied().unwrap_or(DType::F32);
                let (name, shape) = (value.name.clone(), value.shape.clone());
                let parts = vec![Part::new(n, value.view()?)];
                Ok(Made { name, dtype, shape, parts, narrow: None, form: Default::default() })
            });
            let outputs = outputs.collect::<Result<Vec<_>>>()?;
            let recipe = Recipe { outputs, values: values.clone(), ..Recipe::default() };
            for (threads, check) in [(1, false), (4, true)] {
                let options = Options { threads: Some(threads), check, ..Options::default() };
                let (model, recipe) = (&model, &recipe);
                let making = Making {
                    model,
                    recipe,
                    options: &options,
                    work_bytes: Some(WORK_BYTES_MIN),
                    zero_odd: false,
                    control,
                };
                let (loaded, _) = making.load(prepare(Some(DeviceSpec::Cpu)))?;
                let mut blocks = 0;
                for output in &recipe.outputs {
                    let mut numbers: Vec<f32> = Vec::new();
                    let wide = Made { dtype: DType::F32, ..output.clone() };
                    examine::pieces(model, recipe, &wide, |bytes| {
                        let each =
                            bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                        numbers.extend(each);
                        true
                    })?;
                    let mut expected = vec![0; output.size_bytes()? as usize];
                    match output.dtype {
                        DType::F32 => expected.copy_from_slice(bytemuck::cast_slice(&numbers)),
                        dtype => {
                            blocks += 1;
                            block::encode(dtype, &numbers, &mut expected);
                        }
                    }
                    let found = loaded.get(&output.name).unwrap();
                    assert_eq!((found.dtype(), found.shape()), (output.dtype, output.shape.as_slice()));
                    assert!(found.bytes() == Some(&expected[..]), "{} as {}", output.name, output.dtype);
                }
                assert!(blocks >= 30, "{blocks}");
            }
            Ok(())
        });
        job.wait().unwrap();
    }

    /// Every byte of the rows is in one piece, none is larger than it may be, and each says where it comes from.
    #[test]
    fn rows_are_cut_into_pieces() {
        for (row_bytes, row_count, pitch_bytes, most) in
            [(10, 1, 10, 100), (10, 1, 10, 3), (10, 7, 16, 30), (10, 7, 16, 9), (10, 7, 16, 1), (1, 5, 2, 2)]
        {
            let to = Dest { arena: ArenaId(0), offset_bytes: 1000, pitch_bytes };
            let put =
                Put { from_bytes: 0, row_bytes, pitch_bytes: row_bytes, row_count, kernel: Kernel::Copy, to };
            let mut seen = vec![None; (row_bytes * row_count) as usize];
            for (at, piece) in pieces(put, most) {
                assert!(piece.row_bytes * piece.row_count <= most);
                for n in 0..piece.row_count {
                    for byte in 0..piece.row_bytes {
                        let from = (at + n * piece.row_bytes + byte) as usize;
                        let place = piece.to.offset_bytes + n * piece.to.pitch_bytes + byte;
                        assert_eq!(seen[from].replace(place), None);
                    }
                }
            }
            for (n, place) in seen.into_iter().enumerate() {
                let (row, column) = (n as u64 / row_bytes, n as u64 % row_bytes);
                assert_eq!(place, Some(1000 + row * pitch_bytes + column), "{row_bytes} {row_count} {most}");
            }
        }
    }
}
