//! Loading: all tensors of a model in GPU or host memory, one call.
//!
//! ```no_run
//! let model = hoist::open::open("testdata/rustdoc-llama-6m", &Default::default())?;
//! let loaded = hoist::load::load(model, hoist::load::Options::default()).wait()?;
//! for tensor in &loaded.tensors {
//!     println!("{} {} {:?}", tensor.name(), tensor.dtype(), tensor.shape());
//! }
//! # hoist::Result::Ok(())
//! ```
//!
//! Host memory comes in three forms. *Mapped*: where no byte changes, the files are mapped and every page made present;
//! nothing is copied, and the files must not be shortened while the tensors are in use. *Owned*: read into memory made
//! once. *Arenas*: the same memory given away, one `Vec` per dtype ([`Loaded::into_arenas`]). What no file holds as it is
//! wanted (other names, rows in another order, codes with their scales) is made by a recipe, into arenas too ([`make`]); a
//! whole model that is quantised on its way, into host memory or a GPU's ([`crate::quantize::load`]).

mod check;
#[cfg(feature = "cuda")]
mod cuda;
mod digest;
mod host;
mod made;
mod recipe;
mod tensors;

pub use made::{MakeOptions, Wanted, Watch, blocks, equal, make, pass};
pub(crate) use recipe::{Making, WORK_BYTES_MIN};
pub use tensors::{ArenaTensors, Loaded, LoadedTensor, Report};

pub use crate::sink::device::{Choice, Device, DeviceSpec, detect};

use crate::checkpoint::FileId;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::open::Model;
use crate::plan::{Item, Plan};
use crate::run::job::{Control, Job};
use crate::run::{BLOCKING_READERS, Io, Traffic};
#[cfg(feature = "cuda")]
use crate::sink::cuda::{Pinned, driver::Gpu};
use crate::sink::{GPU_CHUNK_BYTES, GPU_SLOT_COUNT};
use crate::source::ReadAt;
use crate::source::local::direct::Queue;
use crate::source::local::residency::cached_fraction;
use crate::text::{Shown, bytes as bytes_text};
use crate::transform::arch::parallel::{Override, Rank, slice};
use crate::transform::cast;
use crate::transform::select::Selection;
use std::ops::Range;

/// The element type tensors shall have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DTypeChoice {
    /// The file's own.
    #[default]
    Keep,
    /// Floats become this; integers, bools and quantised blocks stay.
    To(DType),
    /// Floats become what suits the device: bf16 on a GPU of compute capability 8 or more, f16 below, f32 on a CPU.
    Device,
}

/// How host memory is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// Mapped where no byte changes and the files are local, else owned.
    #[default]
    Auto,
    /// Read into memory of its own.
    Owned,
}

/// How to load.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where to; `None` takes the first GPU, else host memory.
    pub device: Option<DeviceSpec>,
    /// The element type.
    pub dtype: DTypeChoice,
    /// Patterns of tensor names to load; all where none is given.
    pub include: Vec<String>,
    /// Patterns of tensor names to leave out.
    pub exclude: Vec<String>,
    /// This rank of how many: only its slices of the matrices.
    pub rank: Option<Rank>,
    /// How some tensors are cut for a rank, before the family's own rules.
    pub slices: Vec<Override>,
    /// How host memory is filled.
    pub form: Form,
    /// Whether what arrived is compared with what was read.
    pub check: bool,
    /// How files are read.
    pub io: Io,
    /// How many threads move data; `None` takes as many as pay off.
    pub threads: Option<usize>,
    /// Whether a value that a cast makes infinite becomes the largest finite one instead of an error.
    pub saturate: bool,
    /// Whether the page cache keeps what was read, also where the device shares the host's memory.
    pub keep_cache: bool,
    /// The most host memory for tensors (not for a load to a GPU); `None` takes what is available.
    pub memory_bytes: Option<u64>,
    /// Whether every piece of work is an event.
    pub trace: bool,
    /// Whether the report says what this machine can do, which costs some milliseconds.
    pub measure: bool,
    /// Whether the plan is made, checked against memory and reported, and nothing loaded.
    pub dry_run: bool,
}

/// A device on its way: it is opened, and its buffers made, while the model's headers are still being read.
///
/// Dropping it waits until it is open and closes it: a process must not end while a driver starts in one of its threads.
pub struct Prepared(Job<Ready>);

/// A device, ready.
struct Ready {
    choice: Choice,
    #[cfg(feature = "cuda")]
    pinned: Option<Pinned>,
}

/// Starts to open the device that [`load_on`] will be given.
pub fn prepare(device: Option<DeviceSpec>) -> Prepared {
    Prepared(Job::start("prepare", false, move |_| {
        let choice = detect(device.as_ref())?;
        #[cfg(feature = "cuda")]
        let pinned = match choice.device {
            Device::Cpu => None,
            Device::Cuda(ordinal) => {
                // The context takes a few hundred milliseconds; the pages are touched meanwhile.
                let gpu = Job::start("open", false, move |_| Ok(Gpu::open(ordinal)?));
                let ring = Pinned::ring()?;
                Some(Pinned::new(gpu.wait()?, ring)?)
            }
        };
        Ok(Ready {
            choice,
            #[cfg(feature = "cuda")]
            pinned,
        })
    }))
}

/// Loads a model. The tensors own their memory, and dropping them frees it.
pub fn load(model: Model, options: Options) -> Job<Loaded> {
    let prepared = prepare(options.device.clone());
    load_on(prepared, model, options)
}

/// Loads a model on a device that was being prepared.
pub fn load_on(prepared: Prepared, model: Model, options: Options) -> Job<Loaded> {
    Job::start("load", options.trace, move |control| {
        let ready = prepared.0.wait()?;
        for file in &model.files {
            check_unchanged(&**file)?;
        }
        let loader = Loader { model, options, control };
        let loaded = loader.load(ready)?;
        Ok(loaded)
    })
}

fn check_unchanged(file: &dyn ReadAt) -> Result<()> {
    file.as_local().map_or(Ok(()), |local| local.check_unchanged())
}

struct Loader<'a> {
    model: Model,
    options: Options,
    control: &'a Control,
}

impl Loader<'_> {
    fn load(self, ready: Ready) -> Result<Loaded> {
        let Ready { choice, .. } = &ready;
        match choice.device {
            Device::Cpu => {
                let reason = choice.reason.clone();
                self.load_host(reason)
            }
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => match ready.pinned {
                Some(pinned) => self.load_cuda(pinned),
                None => Err(Error::bug("the device was not opened")),
            },
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => Err(Error::unsupported("this build has no CUDA")),
        }
    }

    /// Which tensors, as what, and which part of each.
    fn items(&self, device_dtype: DType) -> Result<Vec<Item>> {
        let table = &self.model.table;
        let selection = Selection::new(&self.options.include, &self.options.exclude)?;
        let target = match self.options.dtype {
            DTypeChoice::Keep => None,
            DTypeChoice::To(dtype) if cast::TARGETS.contains(&dtype) => Some(dtype),
            DTypeChoice::To(dtype) => {
                return Err(Error::usage(format!("`{dtype}` is no type that a load casts to"))
                    .hint("f32, f16, bf16; other types are made by conversion"));
            }
            DTypeChoice::Device => Some(device_dtype),
        };
        let mut items = Vec::new();
        // Eight-bit floats of a quantised model mean nothing without their scales, so they stay.
        let is_scale = |name: &str| ["_scale", "_scale_inv", ".scale"].iter().any(|end| name.ends_with(end));
        let has_scales = target.is_some() && table.tensors.iter().any(|t| is_scale(&t.name));
        for index in selection.pick(table)? {
            let mut item = Item::whole(table, index);
            if let Some(target) = target.filter(|&t| {
                cast::is_supported(item.dtype, t) && (item.dtype.facts().block_bytes > 1 || !has_scales)
            }) {
                item.dtype = target;
            }
            items.push(item);
        }
        self.slice(&mut items)?;
        Ok(items)
    }

    /// Cuts each item for the rank that was asked for.
    fn slice(&self, items: &mut [Item]) -> Result<()> {
        let Some(rank) = self.options.rank else {
            if self.options.slices.is_empty() {
                return Ok(());
            }
            return Err(
                Error::usage("a slice without a rank cuts nothing").hint("--rank R/W says which part")
            );
        };
        let table = &self.model.table;
        let mut notes = Vec::new();
        let description = self.model.description(&mut notes);
        for item in items {
            let tensor = &table.tensors[item.tensor];
            let cut =
                slice(&tensor.name, &tensor.shape, tensor.dtype, &description, rank, &self.options.slices);
            // A config that cannot be read is the usual reason why the sizes are not known.
            let cut = cut.map_err(|e| if notes.is_empty() { e } else { e.detail(notes.join("; ")) })?;
            item.slice = cut.map(|c| (c.dim, c.ranges));
        }
        let unused = |o: &&Override| !table.tensors.iter().any(|t| o.matches(&t.name));
        if let Some(unused) = self.options.slices.iter().find(unused) {
            return Err(Error::not_found(format!(
                "no tensor matches the slice `{}`",
                Shown(unused.pattern())
            )));
        }
        Ok(())
    }

    /// What is known before anything moves.
    fn report(&self, device: &str, plan: &Plan) -> Report {
        let mut report = Report::new(&self.model, device, plan);
        report.cached_fraction = cached_part(&self.model, plan.ranges(), self.control);
        report
    }

    /// How many threads: as many as cores where bytes are at hand; more where each waits for a disk or a network.
    fn threads(&self, plan: &Plan, cores: usize, report: &mut Report) -> usize {
        let network = self.model.crosses_network();
        let cold = self.options.io == Io::Direct
            || (self.options.io == Io::Auto && !network && report.cached_fraction.is_some_and(|f| f < 0.9));
        report.cold = cold;
        let ring_works = || Queue::<()>::uring(1, &[]).is_ok();
        let wanted = if network || (cold && !ring_works()) { BLOCKING_READERS } else { cores };
        let units = usize::try_from(plan.read_bytes / (GPU_CHUNK_BYTES / 4)).unwrap_or(usize::MAX).max(1);
        let threads = self.options.threads.unwrap_or_else(|| wanted.min(units));
        // Each has at least two slots of the ring, one to fill and one on its way.
        let threads = threads.clamp(1, GPU_SLOT_COUNT / 2);
        report.threads = threads;
        threads
    }

    /// What is known when everything has arrived; refuses what must not be used.
    fn settle(&self, report: &mut Report, traffic: &Traffic, overflow_count: u64) -> Result<()> {
        report.bytes_moved = report.bytes;
        report.cached_bytes = traffic.cached_bytes();
        report.buffered_bytes = traffic.buffered_bytes();
        report.direct_bytes = traffic.direct_bytes();
        report.ring = traffic.ring_count() > 0 && traffic.direct_bytes() > 0;
        if traffic.direct_bytes() > 0 || traffic.buffered_bytes() > 0 {
            report.notes.extend(traffic.fallbacks());
        }
        report.overflow_count = overflow_count;
        self.finish_files()?;
        if overflow_count > 0 && !self.options.saturate {
            return Err(Error::bad_input(format!(
                "{} finite values become infinite in the type that was asked for",
                crate::text::grouped(overflow_count)
            ))
            .hint("--dtype bf16 or f32 holds them; --saturate makes them the largest finite value"));
        }
        Ok(())
    }

    /// The files must be what they were.
    fn finish_files(&self) -> Result<()> {
        self.model.files.iter().try_for_each(|f| check_unchanged(&**f))
    }

    fn name(&self, error: Error, file: usize) -> Error {
        match self.model.table.files.get(file) {
            Some(file) => error.file(&file.name),
            None => error,
        }
    }
}

/// How much of what will be read the page cache holds; `None` where no system says.
fn cached_part(
    model: &Model,
    ranges: impl IntoIterator<Item = (FileId, Range<u64>)>,
    control: &Control,
) -> Option<f64> {
    let (mut cached, mut asked) = (0.0, 0u64);
    // Views may share their bytes: each is asked about once.
    let mut ranges: Vec<_> = ranges.into_iter().collect();
    ranges.sort_unstable_by_key(|(file, range)| (*file, range.start));
    let mut done = (FileId::default(), 0u64);
    for (file, range) in ranges {
        if control.is_stopped() {
            break;
        }
        let start = if done.0 == file { range.start.max(done.1) } else { range.start };
        if start >= range.end {
            continue;
        }
        let range = start..range.end;
        done = (file, range.end);
        let Some(local) = model.files.get(file.index()).and_then(|f| f.as_local()) else { continue };
        let Some(fraction) = cached_fraction(local, range.clone()) else { continue };
        cached += fraction * (range.end - range.start) as f64;
        asked += range.end - range.start;
    }
    (asked > 0).then(|| cached / asked as f64)
}

/// Where a load goes, for a person.
fn summary(report: &Report) -> String {
    match (&report.gpu_name(), report.free_bytes) {
        (Some(name), Some(free)) => {
            format!(
                "{} {name}  needs {} of {} free",
                report.device,
                bytes_text(report.needed_bytes),
                bytes_text(free)
            )
        }
        _ => match &report.fallback_reason {
            Some(reason) => format!("{}, {}  ({reason}; see hoist doctor)", report.device, report.form),
            None => format!("{}, {}", report.device, report.form),
        },
    }
}
