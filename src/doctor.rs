//! What this machine can do, and what limits a load here: measured by the same means that a load uses, never looked up.
//!
//! Each probe stands for itself: one that fails becomes a reason in its place and the others go on. What a load would
//! refuse (a broken driver, a GPU that was asked for and is not there) is kept as the diagnosis' failure, so that the
//! rest is still said. All of it takes well under three seconds, samples being bounded in bytes and in time, and up to two and
//! a half more where a hub is asked that does not answer.

mod filesystem;
mod gpu;
#[cfg(feature = "hub")]
mod hub;
mod storage;

pub use filesystem::FileSystem;
pub use gpu::{DriverFault, Gpu, Link, Pinned};
#[cfg(feature = "hub")]
pub use hub::HubFacts;
pub use storage::{Storage, Way};

use crate::error::{Error, ErrorKind, Result};
use crate::machine;
use crate::open::{self, Model};
use crate::run::GPU_THREADS_MAX;
use crate::run::job::{Control, Job};
use crate::sink::device::{self, Device, DeviceSpec};
use crate::source::hub::cache::Cache;
use crate::source::local::residency::cached_fraction;
use std::path::{Path, PathBuf};

/// What to look at.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A model, or a path of which the storage is examined; `None` is the Hugging Face cache where there is one, else
    /// the current directory.
    pub target: Option<String>,
    /// The device that a load would go to; `None` is the one that it would choose.
    pub device: Option<DeviceSpec>,
    /// How a model is opened.
    pub open: open::Options,
    /// Threads that a load would use; `None` is as many as pay off.
    pub threads: Option<usize>,
    /// Ask the hub whether it answers.
    pub ask_hub: bool,
}

/// A figure, or why there is none.
pub type Measured = std::result::Result<f64, String>;

/// What was found.
#[derive(Debug)]
pub struct Diagnosis {
    /// The GPUs that CUDA shows us.
    pub gpus: Vec<Gpu>,
    /// Why there is none, or none was looked for.
    pub no_gpu: Option<String>,
    /// The driver's refusal, where it is there and does not work.
    pub driver_fault: Option<DriverFault>,
    /// Where a load would go.
    pub device: Option<Device>,
    /// Page-locked memory and what the bus brings; `None` without a GPU.
    pub pinned: Option<std::result::Result<Pinned, String>>,
    /// Memory that this process may lock; `None` is no limit.
    pub memlock_bytes: Option<u64>,
    /// Where the bytes come from.
    pub storage: Storage,
    /// The model, where one was named.
    pub model: Option<ModelFacts>,
    /// The host.
    pub host: Host,
    /// The hub, where it was to be asked.
    #[cfg(feature = "hub")]
    pub hub: Option<HubFacts>,
    /// What a load should take.
    pub forecast: Forecast,
    /// What a load would fail with, the first cause first.
    pub failure: Option<Error>,
}

/// A model that was named.
#[derive(Debug, Clone)]
pub struct ModelFacts {
    /// Its short name.
    pub name: String,
    /// Bytes of its tensors, aliases once.
    pub size_bytes: u64,
    /// Its files.
    pub file_count: usize,
    /// How much of the files is in the page cache, where the system tells.
    pub cached_fraction: Option<f64>,
}

/// The host.
#[derive(Debug, Clone)]
pub struct Host {
    /// Memory.
    pub memory_bytes: Option<u64>,
    /// Memory that may be taken now.
    pub available_bytes: Option<u64>,
    /// The limit of the cgroup, if there is one.
    pub cgroup_bytes: Option<u64>,
    /// Cores this process may use.
    pub core_count: usize,
    /// How huge pages are given: `always`, `madvise`, `never`.
    pub huge_pages: Option<String>,
}

/// What bounds a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// PCIe, or whatever lies between host and device.
    Bus,
    /// Copying out of the page cache, or making its pages present.
    Memory,
    /// Reading around the page cache.
    Disk,
}

impl Limit {
    /// As in "what limits a cold load: the disk".
    pub fn name(self) -> &'static str {
        match self {
            Limit::Bus => "the bus",
            Limit::Memory => "memory",
            Limit::Disk => "the disk",
        }
    }
}

/// What a load should take here, by what was measured. `None` where a figure is missing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Forecast {
    /// Bytes of the model: the one that was named, else 16 GB.
    pub size_bytes: u64,
    /// With every page in the page cache: seconds, and what bounds it.
    pub hot: Option<(f64, Limit)>,
    /// With none.
    pub cold: Option<(f64, Limit)>,
    /// As the page cache is now.
    pub now_seconds: Option<f64>,
}

/// The size that is spoken of where no model was named.
const EXAMPLE_BYTES: u64 = 16_000_000_000;

/// Examines this machine.
///
/// # Errors
/// Not found and what else opening meets, where a target was named that is neither a path nor a model; cancellation.
/// What a load would fail with is [`Diagnosis::failure`].
pub fn doctor(options: Options) -> Job<Diagnosis> {
    Job::start("doctor", false, move |control| diagnose(&options, control))
}

fn diagnose(options: &Options, control: &Control) -> Result<Diagnosis> {
    let target = Target::find(options)?;
    let mut failure = None;
    let (mut device, mut no_gpu) = (None, None);
    match device::detect(options.device.as_ref()) {
        Ok(choice) => {
            device = Some(choice.device);
            let unasked =
                || (choice.device == Device::Cpu).then(|| "not looked for: the CPU was asked for".into());
            no_gpu = choice.reason.map(|r| r.trim_start_matches("no GPU: ").to_owned()).or_else(unasked);
        }
        Err(error) => failure = Some(error),
    }
    // Without a choice the driver is still asked what it shows: "cuda:7 is not there" is best answered by what is.
    let (mut gpus, driver_fault) = if no_gpu.is_none() { gpu::list() } else { (Vec::new(), None) };
    stop_if_cancelled(control)?;
    let pinned = match device {
        Some(Device::Cuda(ordinal)) => Some(gpu::pinned(ordinal).map_err(|error| {
            let text = one_line(&error);
            failure.get_or_insert(error);
            text
        })),
        _ => None,
    };
    // A link that rests is slower than one at work, so it is read just after it worked.
    gpus.iter_mut().for_each(|gpu| gpu.link = gpu::link(Path::new("/sys"), &gpu.pci_id));
    stop_if_cancelled(control)?;
    let threads = options.threads.unwrap_or_else(|| match device {
        Some(Device::Cuda(_)) => machine::core_count().clamp(2, GPU_THREADS_MAX),
        _ => machine::core_count(),
    });
    // Before the samples are taken, which bring a part of the model into the page cache.
    let model = target.model.as_ref().map(model_facts);
    let (storage, refused) = storage::examine(&target, threads, control);
    stop_if_cancelled(control)?;
    let failure = failure.or(target.failure).or(refused);
    let forecast = forecast(&storage, pinned.as_ref().and_then(|p| p.as_ref().ok()), device, model.as_ref());
    let host = Host {
        memory_bytes: machine::total_memory_bytes(),
        available_bytes: machine::available_memory_bytes(),
        cgroup_bytes: machine::cgroup_limit_bytes(),
        core_count: machine::core_count(),
        huge_pages: huge_pages(),
    };
    let memlock_bytes = memlock_bytes();
    #[cfg(feature = "hub")]
    let hub = options.ask_hub.then(|| hub::ask(&options.open, &|| control.is_stopped()));
    stop_if_cancelled(control)?;
    Ok(Diagnosis {
        #[cfg(feature = "hub")]
        hub,
        gpus,
        no_gpu,
        driver_fault,
        device,
        pinned,
        memlock_bytes,
        storage,
        model,
        host,
        forecast,
        failure,
    })
}

/// What the storage is examined of.
struct Target {
    path: PathBuf,
    model: Option<Model>,
    /// Why what looks like a model does not open.
    failure: Option<Error>,
}

impl Target {
    fn find(options: &Options) -> Result<Target> {
        let Some(name) = &options.target else {
            let cache = Cache::from_environment(|name| std::env::var_os(name));
            let path = cache.map(|c| c.root().to_owned()).filter(|p| p.is_dir());
            return Ok(Target { path: path.unwrap_or_else(|| ".".into()), model: None, failure: None });
        };
        let path = PathBuf::from(name);
        match open::open(name, &options.open) {
            Ok(model) => {
                let largest = largest_file(&model).map(|f| f.path().to_owned());
                Ok(Target { path: largest.unwrap_or(path), model: Some(model), failure: None })
            }
            // A directory without weights is a place to examine; anything else that exists is examined too, and what
            // is wrong with it is said at the end.
            Err(error) => match std::fs::symlink_metadata(&path) {
                Ok(_) => {
                    let no_model = path.is_dir()
                        && error.kind() == ErrorKind::NotFound
                        && error.to_string().contains("holds no weights");
                    Ok(Target { path, model: None, failure: (!no_model).then_some(error) })
                }
                Err(_) => Err(error),
            },
        }
    }
}

/// The largest file of a model that lies on this machine.
fn largest_file(model: &Model) -> Option<&crate::source::local::LocalFile> {
    model.files.iter().filter_map(|f| f.as_local()).max_by_key(|f| crate::source::ReadAt::size_bytes(*f))
}

fn model_facts(model: &Model) -> ModelFacts {
    let (mut cached, mut asked) = (0.0, 0u64);
    for file in &model.files {
        let size = file.size_bytes();
        if let Some(fraction) = file.as_local().and_then(|l| cached_fraction(l, 0..size)) {
            cached += fraction * size as f64;
            asked += size;
        }
    }
    ModelFacts {
        name: model.name.clone(),
        size_bytes: model.table.totals().size_bytes,
        file_count: model.files.len(),
        cached_fraction: (asked > 0).then(|| cached / asked as f64),
    }
}

/// What a load should take: its slowest stage decides, since all stages run at once.
fn forecast(
    storage: &Storage,
    pinned: Option<&Pinned>,
    device: Option<Device>,
    model: Option<&ModelFacts>,
) -> Forecast {
    let size_bytes = model.map_or(EXAMPLE_BYTES, |m| m.size_bytes);
    let mut forecast = Forecast { size_bytes, ..Forecast::default() };
    let hot_stages = match device {
        Some(Device::Cuda(_)) => {
            let bus = pinned.and_then(|p| p.bytes_per_second.as_ref().ok().copied());
            [(storage.cached_all.as_ref().ok().copied(), Limit::Memory), (bus, Limit::Bus)].to_vec()
        }
        // A load to host memory maps the files.
        Some(Device::Cpu) => vec![(storage.mapped.as_ref().ok().copied(), Limit::Memory)],
        None => return forecast,
    };
    let seconds = |stages: &[(Option<f64>, Limit)]| {
        let times = stages.iter().map(|&(rate, limit)| Some((size_bytes as f64 / rate?.max(1.0), limit)));
        let times: Option<Vec<_>> = times.collect();
        times?.into_iter().max_by(|a, b| a.0.total_cmp(&b.0))
    };
    forecast.hot = seconds(&hot_stages);
    // Bytes that come around the page cache are not copied out of it.
    let mut cold_stages: Vec<_> = hot_stages.into_iter().filter(|&(_, limit)| limit == Limit::Bus).collect();
    cold_stages.push((storage.direct.as_ref().ok().copied(), Limit::Disk));
    forecast.cold = seconds(&cold_stages);
    let cached = model.and_then(|m| m.cached_fraction);
    forecast.now_seconds = cached.and_then(|f| Some(f * forecast.hot?.0 + (1.0 - f) * forecast.cold?.0));
    forecast
}

/// The limit on locked memory; `None` where there is none.
fn memlock_bytes() -> Option<u64> {
    #[cfg(target_os = "linux")]
    return rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    #[cfg(not(target_os = "linux"))]
    None
}

/// The word in brackets of the system's list of choices.
fn huge_pages() -> Option<String> {
    let text = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok()?;
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

/// The first line of an error: what a table has room for.
fn one_line(error: &Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

fn stop_if_cancelled(control: &Control) -> Result<()> {
    if control.is_cancelled() { Err(Error::new(ErrorKind::Signal(2), "cancelled")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_stage_decides() {
        let storage = |all: f64, mapped: f64, direct: Measured| Storage {
            cached_all: Ok(all),
            mapped: Ok(mapped),
            direct,
            ..Storage::unknown(Path::new("."), "")
        };
        let bus = Pinned { bytes_per_second: Ok(50e9), ..Pinned::default() };
        let half = ModelFacts {
            name: "m".into(),
            size_bytes: 100_000_000_000,
            file_count: 1,
            cached_fraction: Some(0.5),
        };
        let gpu = Some(Device::Cuda(0));
        let f = forecast(&storage(80e9, 20e9, Ok(5e9)), Some(&bus), gpu, Some(&half));
        assert_eq!(
            (f.hot, f.cold, f.now_seconds),
            (Some((2.0, Limit::Bus)), Some((20.0, Limit::Disk)), Some(11.0))
        );
        let f = forecast(&storage(25e9, 20e9, Ok(60e9)), Some(&bus), gpu, Some(&half));
        assert_eq!((f.hot, f.cold), (Some((4.0, Limit::Memory)), Some((2.0, Limit::Bus))));
        let f = forecast(&storage(25e9, 20e9, Err("tmpfs".into())), None, Some(Device::Cpu), None);
        assert_eq!((f.hot, f.cold, f.now_seconds), (Some((0.8, Limit::Memory)), None, None));
        let f = forecast(&storage(25e9, 20e9, Ok(1e9)), None, gpu, Some(&half));
        assert_eq!((f.hot, f.cold), (None, None));
        assert_eq!(forecast(&storage(25e9, 20e9, Ok(1e9)), None, None, Some(&half)).hot, None);
    }
}
