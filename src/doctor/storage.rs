//! Where the bytes come from: what the file system allows, and how fast it is through the page cache and around it.
//!
//! A model is measured in its own largest file, and nothing of it is dropped from the page cache: a direct read goes
//! around pages that are cached as well. A place without a model is measured in a temporary file that loses its name
//! before anything is written, so that nothing is left behind however this ends.

use super::filesystem::{self, FileSystem};
use super::{Measured, Target, largest_file, one_line};
use crate::buf::{Ring, Slot};
use crate::error::Error;
use crate::run::job::Control;
use crate::run::{self, BLOCKING_READERS};
use crate::source::ReadAt;
use crate::source::local::LocalFile;
use crate::source::local::direct::{Queue, alignment_bytes};
use crate::source::local::mapped::Mapped;
use crate::text::bytes as bytes_text;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The way a cold load's bytes take here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Around the page cache, by the kernel's ring.
    Ring,
    /// Around the page cache, by a pool of reading threads.
    Pool,
    /// Through the page cache.
    Buffered,
}

impl Way {
    /// As a person reads it.
    pub fn name(self) -> &'static str {
        match self {
            Way::Ring => "io_uring",
            Way::Pool => "pread pool",
            Way::Buffered => "page cache",
        }
    }
}

/// What was found of a place.
#[derive(Debug, Clone)]
pub struct Storage {
    /// The place: a directory, or the file that was measured.
    pub path: String,
    /// Its file system, where the system tells.
    pub file_system: Option<FileSystem>,
    /// Whether it lies across a network or in another process, where many buffered readers do best.
    pub network: bool,
    /// What direct reads must be aligned to, or why there are none.
    pub direct_align_bytes: Result<u32, String>,
    /// Whether the kernel's ring is given to this process, or why not.
    pub io_uring: Result<(), String>,
    /// Whether the ring holds buffers ready; the memory lock limit may forbid it.
    pub registered_buffers: bool,
    /// Bytes of the file that was measured; zero where none was.
    pub sample_bytes: u64,
    /// Out of the page cache into a small buffer, one thread.
    pub cached_per_core: Measured,
    /// The same, by all threads that a load would use.
    pub cached_all: Measured,
    /// Cached pages made present in a map, by all threads.
    pub mapped: Measured,
    /// Around the page cache.
    pub direct: Measured,
    /// The way a cold load takes.
    pub way: Way,
}

impl Storage {
    /// A place that could not be examined, for this reason.
    pub(super) fn unknown(path: &Path, reason: &str) -> Storage {
        let none = || Err(reason.to_owned());
        Storage {
            path: path.display().to_string(),
            file_system: None,
            network: false,
            direct_align_bytes: Err(reason.to_owned()),
            io_uring: Err(reason.to_owned()),
            registered_buffers: false,
            sample_bytes: 0,
            cached_per_core: none(),
            cached_all: none(),
            mapped: none(),
            direct: none(),
            way: Way::Buffered,
        }
    }
}

/// Bytes of the front of a file that the cached measures read again and again.
const WARM_BYTES: u64 = 32 << 20;
/// What a thread copies out of the page cache at a time: fits its cache.
const COPY_BYTES: usize = 2 << 20;
/// What a direct read asks for.
const DIRECT_BYTES: usize = 1 << 20;
/// Direct reads in flight, in all.
const DEPTH: usize = 32;
/// Threads that drive the ring.
const RING_THREADS: usize = 4;
/// The most that direct reads bring.
const DIRECT_BYTES_MAX: u64 = 128 << 20;
/// The size of the temporary file, less where writing is slow.
const TEMPORARY_BYTES: u64 = 128 << 20;
/// A file smaller than this says nothing.
const SAMPLE_BYTES_MIN: u64 = 1 << 20;
/// The most time for one measure, and for writing the temporary file.
const TIME_MAX: Duration = Duration::from_millis(600);
/// The time over which a fast measure is repeated.
const REPEAT: Duration = Duration::from_millis(40);

/// Examines a target's place; with the error that makes it impossible, if there is one.
pub(super) fn examine(target: &Target, threads: usize, control: &Control) -> (Storage, Option<Error>) {
    if let Some(file) = target.model.as_ref().and_then(largest_file) {
        return (measure(file, file.path(), false, threads, control), None);
    }
    let path = &target.path;
    if target.model.as_ref().is_some_and(|model| model.crosses_network()) {
        // No path, but an address, which may hold a signature.
        let place = crate::source::without_secrets(&path.to_string_lossy());
        let storage = Storage::unknown(Path::new(&place), "beyond the network: not measured");
        return (Storage { network: true, ..storage }, None);
    }
    let outcome = match std::fs::metadata(path) {
        Ok(m) if m.is_dir() => {
            Temporary::new(path, control).map(|t| measure(&t.file, path, true, threads, control))
        }
        Ok(_) => LocalFile::open(path).map(|file| measure(&file, path, false, threads, control)),
        Err(e) => Err(Error::io("cannot be examined", e).file(path.display().to_string())),
    };
    match outcome {
        Ok(storage) => (storage, None),
        Err(error) => {
            let mut storage = Storage::unknown(path, &one_line(&error));
            storage.file_system = filesystem::of(path);
            if let Ok((_, slots)) = Ring::new(1, DIRECT_BYTES) {
                let probe = ring(&slots);
                storage.registered_buffers = probe.as_ref().is_ok_and(Queue::has_registered_buffers);
                storage.io_uring = probe.map(|_| ());
            }
            // That nothing can be written there is said, and is no failure: a load only reads.
            let fatal = !path.is_dir() || std::fs::read_dir(path).is_err();
            (storage, fatal.then_some(error))
        }
    }
}

/// Measures in one file that lies at `path`; only one that is `ours` is dropped from the page cache.
fn measure(file: &LocalFile, path: &Path, ours: bool, threads: usize, control: &Control) -> Storage {
    let mut storage = Storage::unknown(path, "not measured");
    storage.file_system = filesystem::of(path);
    storage.network = file.temper().network;
    storage.direct_align_bytes = alignment_bytes(file);
    storage.sample_bytes = file.size_bytes();
    let mut slots = match Ring::new(DEPTH, DIRECT_BYTES) {
        Ok((_, slots)) => slots,
        Err(error) => return Storage { direct: Err(one_line(&error)), ..storage },
    };
    let probe = ring(&slots);
    storage.registered_buffers = probe.as_ref().is_ok_and(Queue::has_registered_buffers);
    storage.io_uring = probe.map(|_| ());
    let direct = file.direct().map(|_| ()).map_err(str::to_owned);
    storage.way = match (&direct, &storage.io_uring) {
        _ if storage.network => Way::Buffered,
        (Err(_), _) => Way::Buffered,
        (_, Ok(())) => Way::Ring,
        _ => Way::Pool,
    };
    if storage.sample_bytes < SAMPLE_BYTES_MIN {
        let reason = format!("the file has only {}", bytes_text(storage.sample_bytes));
        let none = || Err(reason.clone());
        return Storage {
            cached_per_core: none(),
            cached_all: none(),
            mapped: none(),
            direct: none(),
            ..storage
        };
    }
    storage.cached_per_core = cached(file, control);
    storage.cached_all = cached_all(file, threads, control);
    storage.mapped = mapped(file, threads, control);
    if ours {
        file.drop_from_cache(0, file.size_bytes());
    }
    storage.direct = match direct {
        Err(reason) => Err(reason),
        Ok(()) if storage.network => {
            Err("a network or user-space file system is read through the page cache".into())
        }
        Ok(()) => {
            Ring::prefault(&mut slots);
            let ring = storage.way == Way::Ring;
            around(file, slots, ring, control)
        }
    };
    storage
}

/// The kernel's ring, found out about by use.
fn ring(slots: &[Slot]) -> Result<Queue<()>, String> {
    Queue::uring(DEPTH as u32, slots).map_err(|e| {
        #[cfg(target_os = "linux")]
        match e.raw_os_error() {
            Some(libc::EPERM) => {
                let disabled =
                    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
                return match disabled.trim() {
                    "" | "0" => "EPERM: seccomp".to_owned(),
                    n => format!("EPERM: kernel.io_uring_disabled = {n}"),
                };
            }
            Some(libc::ENOSYS) => return "ENOSYS: not in this kernel, or seccomp".to_owned(),
            Some(libc::ENOMEM) => return "ENOMEM: the memory lock limit".to_owned(),
            _ => {}
        }
        e.to_string()
    })
}

/// The range that the cached measures read.
fn warm_bytes(file: &LocalFile) -> u64 {
    file.size_bytes().min(WARM_BYTES)
}

/// Reads the front of the file into one buffer: once to have it cached, then for the best of a few times.
fn cached(file: &LocalFile, control: &Control) -> Measured {
    let (_ring, mut slots) = Ring::new(1, COPY_BYTES).map_err(|e| one_line(&e))?;
    Ring::prefault(&mut slots);
    let slot = slots.first_mut().ok_or("no buffer")?;
    let size = warm_bytes(file);
    let begun = Instant::now();
    let mut pass = || -> Result<f64, String> {
        let started = Instant::now();
        let mut at = 0;
        while at < size {
            let count = (size - at).min(COPY_BYTES as u64);
            file.read_exact_at(&mut slot[..count as usize], at).map_err(|e| one_line(&e))?;
            at += count;
            if control.is_stopped() || begun.elapsed() > TIME_MAX * 2 {
                return Err("reading took too long".into());
            }
        }
        Ok(size as f64 / started.elapsed().as_secs_f64())
    };
    pass()?;
    let mut best = pass()?;
    while begun.elapsed() < REPEAT {
        best = best.max(pass()?);
    }
    Ok(best)
}

/// The same by several threads at once.
fn cached_all(file: &LocalFile, threads: usize, control: &Control) -> Measured {
    let size = warm_bytes(file);
    let (_ring, mut slots) = Ring::new(threads, COPY_BYTES).map_err(|e| one_line(&e))?;
    Ring::prefault(&mut slots);
    let slots: Vec<Mutex<Slot>> = slots.into_iter().map(Mutex::new).collect();
    // Each thread reads as much as one pass over the range, in turns, so that starting threads does not count.
    let chunks = size.div_ceil(COPY_BYTES as u64);
    in_parallel(threads, control, chunks * threads as u64, |lane, n| {
        let mut slot = slots.get(lane)?.lock().unwrap_or_else(PoisonError::into_inner);
        let at = n % chunks * COPY_BYTES as u64;
        let count = (size - at).min(COPY_BYTES as u64);
        file.read_exact_at(&mut slot[..count as usize], at).ok()?;
        Some(count)
    })
}

/// Makes cached pages present in a map, as a load to host memory does.
fn mapped(file: &LocalFile, threads: usize, control: &Control) -> Measured {
    let size = warm_bytes(file);
    let windows = size.div_ceil(COPY_BYTES as u64);
    let mut best = Err("not measured".to_owned());
    for _ in 0..3 {
        let map = Mapped::new(file).map_err(|e| one_line(&e))?;
        let rate = in_parallel(threads, control, windows, |_, n| {
            let at = n * COPY_BYTES as u64;
            let end = size.min(at + COPY_BYTES as u64);
            map.populate(at..end).ok()?;
            Some(end - at)
        })?;
        best = Ok(best.map_or(rate, |b: f64| b.max(rate)));
    }
    best
}

/// Hands the numbers below `count` to threads until they are done or time is up; the bytes that `work` gives for each,
/// a second. What `work` gives nothing for ends the measure.
fn in_parallel(
    threads: usize,
    control: &Control,
    count: u64,
    work: impl Fn(usize, u64) -> Option<u64> + Sync,
) -> Measured {
    let (next, moved, failed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let started = Instant::now();
    let outcome = run::parallel("probe", threads, control, |lane| {
        while !control.is_stopped() && started.elapsed() < TIME_MAX {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= count || failed.load(Ordering::Relaxed) > 0 {
                break;
            }
            match work(lane, n) {
                Some(bytes) => moved.fetch_add(bytes, Ordering::Relaxed),
                None => failed.fetch_add(1, Ordering::Relaxed),
            };
        }
        Ok(())
    });
    let seconds = started.elapsed().as_secs_f64();
    outcome.map_err(|e| one_line(&e))?;
    match (moved.into_inner(), failed.into_inner()) {
        (bytes, 0) if bytes > 0 => Ok(bytes as f64 / seconds.max(1e-9)),
        _ => Err("a read failed".into()),
    }
}

/// Reads around the page cache, many reads at once.
fn around(file: &LocalFile, slots: Vec<Slot>, ring: bool, control: &Control) -> Measured {
    let direct = file.direct().map_err(str::to_owned)?;
    let threads = if ring { RING_THREADS.min(crate::machine::core_count()) } else { BLOCKING_READERS };
    let each = (slots.len() / threads).max(1);
    let mut shares: Vec<Vec<Slot>> = (0..threads).map(|_| Vec::new()).collect();
    for (n, slot) in slots.into_iter().enumerate() {
        if let Some(share) = shares.get_mut(n / each) {
            share.push(slot);
        }
    }
    let shares: Vec<Mutex<Vec<Slot>>> = shares.into_iter().map(Mutex::new).collect();
    // Whole requests only: what is left of the file at its end is not read.
    let size = file.size_bytes().min(DIRECT_BYTES_MAX) / DIRECT_BYTES as u64 * DIRECT_BYTES as u64;
    let (next, moved) = (AtomicU64::new(0), AtomicU64::new(0));
    let failure: Mutex<Option<String>> = Mutex::new(None);
    let fail = |text: String| {
        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
        next.store(size, Ordering::Relaxed);
    };
    let started = Instant::now();
    let outcome = run::parallel("probe", threads, control, |lane| {
        let Some(share) = shares.get(lane) else { return Ok(()) };
        let mut free = std::mem::take(&mut *share.lock().unwrap_or_else(PoisonError::into_inner));
        let mut queue = match ring {
            true => match Queue::uring(each.next_power_of_two() as u32, &free) {
                Ok(queue) => queue,
                Err(e) => {
                    fail(format!("io_uring: {e}"));
                    return Ok(());
                }
            },
            false => Queue::blocking(),
        };
        loop {
            while !control.is_stopped() && started.elapsed() < TIME_MAX && next.load(Ordering::Relaxed) < size
            {
                let Some(slot) = free.pop() else { break };
                let at = next.fetch_add(DIRECT_BYTES as u64, Ordering::Relaxed);
                if at >= size {
                    free.push(slot);
                    break;
                }
                queue.submit(direct, slot, at, DIRECT_BYTES, ());
                if !ring {
                    break;
                }
            }
            let Some(arrived) = queue.complete() else { break };
            free.push(arrived.slot);
            match arrived.result {
                Ok(n) => drop(moved.fetch_add(n as u64, Ordering::Relaxed)),
                Err(e) => fail(format!("a direct read failed: {e}")),
            }
        }
        Ok(())
    });
    let seconds = started.elapsed().as_secs_f64();
    outcome.map_err(|e| one_line(&e))?;
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(reason) => Err(reason),
        None => Ok(moved.into_inner() as f64 / seconds.max(1e-9)),
    }
}

/// A file of random bytes that has no name.
struct Temporary {
    file: LocalFile,
    /// Where the file still has its name: systems on which a file without one cannot be opened again.
    named: Option<std::path::PathBuf>,
}

impl Temporary {
    fn new(folder: &Path, control: &Control) -> Result<Temporary, Error> {
        let free = free_bytes(folder);
        if let Some(free) = free.filter(|&f| f < TEMPORARY_BYTES * 2) {
            let message = format!("has only {} free, too little for a sample", bytes_text(free));
            return Err(
                Error::new(crate::error::ErrorKind::NoSpace, message).file(folder.display().to_string())
            );
        }
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let name = format!(".hoist-doctor-{}-{}", std::process::id(), since.subsec_nanos());
        let path = folder.join(name);
        let fail = |e| Error::io("no sample can be written there", e).file(folder.display().to_string());
        let mut file =
            std::fs::File::options().read(true).write(true).create_new(true).open(&path).map_err(fail)?;
        let mut named = Some(path.clone());
        if cfg!(target_os = "linux") && std::fs::remove_file(&path).is_ok() {
            named = None;
        }
        let written = fill(&mut file, control);
        let reopened = written.map_err(fail).and_then(|()| {
            #[cfg(target_os = "linux")]
            let path = {
                use std::os::fd::AsRawFd;
                std::path::PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
            };
            LocalFile::open(&path)
        });
        match reopened {
            Ok(file) => Ok(Temporary { file, named }),
            Err(error) => {
                drop(named.map(std::fs::remove_file));
                Err(error)
            }
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.named {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Fills a file with bytes that no file system shrinks, to the disk, within the time there is.
fn fill(file: &mut std::fs::File, control: &Control) -> std::io::Result<()> {
    /// As much as programs that download write at a time: it decides how large the page cache's pages are.
    const WRITE_BYTES: usize = 128 << 10;
    const BLOCK_BYTES: usize = 4 << 20;
    let mut word = 0x9e37_79b9_7f4a_7c15u64;
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    while block.len() < BLOCK_BYTES {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        block.extend_from_slice(&word.to_le_bytes());
    }
    let started = Instant::now();
    let mut written = 0;
    while written < TEMPORARY_BYTES && !control.is_stopped() {
        block.chunks(WRITE_BYTES).try_for_each(|part| file.write_all(part))?;
        written += BLOCK_BYTES as u64;
        if written.is_multiple_of(8 * BLOCK_BYTES as u64) || written == BLOCK_BYTES as u64 {
            file.sync_data()?;
        }
        if started.elapsed() > TIME_MAX {
            break;
        }
    }
    file.sync_data()
}

/// Room for ordinary users.
fn free_bytes(folder: &Path) -> Option<u64> {
    #[cfg(target_os = "linux")]
    return rustix::fs::statvfs(folder).ok().and_then(|s| s.f_bavail.checked_mul(s.f_frsize));
    #[cfg(not(target_os = "linux"))]
    {
        let _ = folder;
        None
    }
}
