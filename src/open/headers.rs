//! From an open file to its header: reads what the parser asks for until it is done, many files at a time.

use crate::checkpoint::Part;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{self, HEADER_BYTES_MAX, Known, Step};
use crate::source::{Place, ReadAt, stop};
use crate::text::grouped;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes read before the parser is asked at all: most headers end before.
const FIRST_BYTES: u64 = 256 << 10;

/// A parser that is not done after so many rounds goes in circles.
const ROUNDS_MAX: u32 = 64;

/// Bytes of one file that are held while its header is parsed: the longest header, and what was read around it.
const HELD_BYTES_MAX: u64 = 2 * HEADER_BYTES_MAX;

/// A file that needs more than this in memory waits for others that do: several hostile ones together cost no more than one.
const LARGE_BYTES: u64 = 16 << 20;

/// Whose turn it is to hold a large header.
static LARGE: Mutex<()> = Mutex::new(());

/// Files whose headers are read at once. Headers are small: this hides the latency of a disk or a network file system.
const THREADS_MAX: usize = 8;

/// A file that is open, and what its header says.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) name: String,
    pub(super) file: Arc<dyn ReadAt>,
    pub(super) part: Part,
}

/// Opens all files and reads their headers, several at a time. The result has the order of `names`; so has the error:
/// the first file that fails is named, whoever failed first.
pub(super) fn open_all(place: &dyn Place, names: &[String]) -> Result<Vec<Opened>> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<Result<Opened>>>> = Mutex::new(names.iter().map(|_| None).collect());
    let worker = &|| {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(name) = names.get(index) else { return };
            let result = open_one(place, name);
            if result.is_err() {
                // Files before this one are being read already; those after it no longer matter.
                next.store(names.len(), Ordering::Relaxed);
            }
            if let Some(slot) = results.lock().unwrap_or_else(PoisonError::into_inner).get_mut(index) {
                *slot = Some(result);
            }
        }
    };
    match names.len().min(THREADS_MAX) {
        0 | 1 => worker(),
        threads => std::thread::scope(|scope| {
            for _ in 1..threads {
                let flag = stop::current();
                let helper = move || {
                    let _working = stop::work_for(flag);
                    worker();
                };
                // A thread that cannot be had leaves the work to the others.
                let _ = std::thread::Builder::new().name("headers".into()).spawn_scoped(scope, helper);
            }
            worker();
        }),
    }
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(index) = results.iter().position(|r| matches!(r, Some(Err(_))))
        && let Some(Err(e)) = results.swap_remove(index)
    {
        return Err(e);
    }
    Ok(results.into_iter().flatten().filter_map(Result::ok).collect())
}

fn open_one(place: &dyn Place, name: &str) -> Result<Opened> {
    let file = place.open(name).map_err(|e| explain_open(e, name))?;
    let part = read_part(&*file, name).map_err(|e| e.file(name))?;
    Ok(Opened { name: name.to_string(), file, part })
}

/// EMFILE says "too many open files", which sounds like the model's fault.
fn explain_open(error: Error, name: &str) -> Error {
    use std::error::Error as _;
    let code = error.source().and_then(|e| e.downcast_ref::<std::io::Error>()).and_then(|e| e.raw_os_error());
    // EMFILE (24) and ENFILE (23) have the same numbers on every Unix.
    match code {
        Some(24) if cfg!(unix) => Error::new(
            ErrorKind::Io,
            "cannot be opened: this process may not hold more files open, and a model's shards are open all at once",
        )
        .file(name)
        .hint("ulimit -n 4096 raises the limit"),
        Some(23) if cfg!(unix) => {
            Error::new(ErrorKind::Io, "cannot be opened: this machine may not hold more files open").file(name)
        }
        _ => error.file(name),
    }
}

/// Reads a header: a first large read, then exactly what the parser asks for.
pub(super) fn read_part(file: &dyn ReadAt, name: &str) -> Result<Part> {
    let size_bytes = file.size_bytes();
    let mut known = Known::of_size(size_bytes);
    if size_bytes > 0 {
        read_into(file, &mut known, 0..size_bytes.min(FIRST_BYTES))?;
    }
    let mut turn = None;
    for _ in 0..ROUNDS_MAX {
        match format::parse(&known).or_else(|e| second_opinion(&known, name, e))? {
            Step::Done(part) => return Ok(part),
            Step::Need(ranges) => {
                if check_wishes(&known, &ranges)? > LARGE_BYTES && turn.is_none() {
                    turn = Some(LARGE.lock().unwrap_or_else(PoisonError::into_inner));
                }
                for range in ranges {
                    read_into(file, &mut known, range)?;
                }
            }
        }
    }
    Err(Error::bad_input(format!("has a header that is not complete after {ROUNDS_MAX} rounds of reading")))
}

/// Formats that a file may claim to be by its name.
type Parser = fn(&Known) -> Result<Step<Part>>;
const CLAIMS: &[(&str, Parser)] =
    &[(".safetensors", format::safetensors::parse), (".gguf", format::gguf::parse)];

/// A file that looks like nothing known and claims a format by its name: what is wrong with its header says more than its
/// first bytes do.
fn second_opinion(known: &Known, name: &str, error: Error) -> Result<Step<Part>> {
    let looks_like_nothing = error.hint_text() == Some(format::FORMATS_HINT);
    match CLAIMS.iter().find(|(extension, _)| looks_like_nothing && name.ends_with(extension)) {
        Some((_, parse)) => parse(known),
        None => Err(error),
    }
}

/// Reads exactly this range into memory that may not be there: no memory is an error like any other.
pub(super) fn read_range(file: &dyn ReadAt, range: Range<u64>) -> Result<Vec<u8>> {
    let size_bytes = range.end - range.start;
    let none = || {
        Error::new(ErrorKind::NoSpace, format!("no memory for {} bytes of its header", grouped(size_bytes)))
    };
    let length = usize::try_from(size_bytes).map_err(|_| none())?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length).map_err(|_| none())?;
    bytes.resize(length, 0);
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes)
}

fn read_into(file: &dyn ReadAt, known: &mut Known, range: Range<u64>) -> Result<()> {
    let start = range.start;
    known.add(start, read_range(file, range)?);
    Ok(())
}

/// A parser keeps its word: ranges inside the file, not empty, within the budget. Returns the bytes that will be held.
fn check_wishes(known: &Known, ranges: &[Range<u64>]) -> Result<u64> {
    let valid =
        |r: &Range<u64>| r.start < r.end && r.end <= known.size_bytes() && known.get(r.clone()).is_none();
    if ranges.is_empty() || !ranges.iter().all(valid) {
        return Err(Error::bad_input("has a header whose reader asked for bytes that cannot be had"));
    }
    let wanted = ranges.iter().fold(known.held_bytes(), |sum, r| sum.saturating_add(r.end - r.start));
    if wanted > HELD_BYTES_MAX {
        return Err(Error::unsupported(format!(
            "needs {} bytes in memory for its header; hoist allows {}",
            grouped(wanted),
            grouped(HELD_BYTES_MAX)
        )));
    }
    Ok(wanted)
}
