//! Moves many objects from far away into files: in parallel, taken up again where an earlier run ended, verified.
//!
//! Every request is for a range. A `board` gives out segments of files, `pace` finds out how many connections are worth
//! having, a `worker` is one thread with at most one connection, and a `partial` is a file while it comes: its bytes,
//! its `map`, its hash. The unit of all of them is 256 KiB: it is written when it is complete in memory, hashed from there
//! if the hash has come so far, and recorded in the map. So each connection holds at most one unit that is not recorded,
//! and with the 32 connections that there are at most no more than 8 MiB come twice after `kill -9`, however long a request
//! was (what the system had received by then and nobody had read is the network's loss, not counted here).
//!
//! A file is hashed once, behind its front, while it comes; it is brought to the disk before it is said to be done. If the
//! hash is wrong the file comes a second time from its beginning; if it is wrong again, that is an error, and nothing of it
//! is left.

mod board;
mod map;
mod pace;
mod partial;
#[cfg(feature = "hub")]
pub(super) mod passing;
mod worker;

use crate::error::{Error, ErrorKind, Result};
use crate::run::job::Control;
use crate::run::parallel;
use crate::sink::file::{directory_of, free_bytes, shown};
use crate::source::ranged::{Policy, Ranged};
use crate::text;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The most connections: each may hold a unit of 256 KiB that comes again after `kill -9`, and 8 MiB is the promise.
pub const CONNECTIONS_MAX: usize = 32;

/// What a file's content is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Digest {
    /// SHA-256 of the content.
    Sha256([u8; 32]),
    /// Git's name of the content: SHA-1 of `blob`, the size, a zero byte and the content.
    GitSha1([u8; 20]),
}

impl Digest {
    /// What it is, for a person.
    pub fn name(&self) -> &'static str {
        match self {
            Digest::Sha256(_) => "SHA-256",
            Digest::GitSha1(_) => "git SHA-1",
        }
    }

    /// The digest itself.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Digest::Sha256(bytes) => bytes,
            Digest::GitSha1(bytes) => bytes,
        }
    }
}

/// In hexadecimal, lower case.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// One file to fetch.
#[derive(Debug, Clone)]
pub struct Item {
    /// Where it comes from.
    pub from: Arc<dyn Ranged>,
    /// Where its bytes go: a name of its own, which the caller changes when it is done. Its directory must be there. Beside
    /// it, under the same name with `.map` at the end, lies the record of what has come. Nobody else may write either.
    pub to: PathBuf,
    /// Its size.
    pub size_bytes: u64,
    /// Its hash, where it is known. Else SHA-256 is computed and nothing is compared.
    pub expected: Option<Digest>,
}

/// How it is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Connections at a time, at most [`CONNECTIONS_MAX`]. As many are used as pay off.
    pub connections_max: usize,
    /// Files that come at a time.
    pub files_max: usize,
    /// Bytes a second over all connections.
    pub limit_bytes_per_second: Option<u64>,
    /// How often it is tried again.
    pub policy: Policy,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            connections_max: 16,
            files_max: 16,
            limit_bytes_per_second: None,
            // Half a minute: what has come so far is worth more patience than a question is.
            policy: Policy { failures_max: 9, ..Policy::default() },
        }
    }
}

/// What was moved.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Totals {
    /// Files.
    pub file_count: usize,
    /// Their sizes together.
    pub size_bytes: u64,
    /// Bytes that an earlier run had left.
    pub resumed_bytes: u64,
    /// Bytes that came over the network.
    pub received_bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Fetches all items. Files are complete and verified in any order; `done` is called once for each, from a worker, when its
/// bytes are on the disk, with its digest. Returns what was moved.
///
/// The caller has said what will be done ([`Control::plan`]) with the items' sizes together; what an earlier run left is
/// counted as moved at once, and bytes that come a second time are not counted again. Stopped or failed, it leaves partial
/// files and maps for the next run, except for a file whose hash is wrong.
///
/// # Errors
/// `NoSpace`: a disk has no room, said before the first byte. `Integrity`: a hash differs, twice. What a source gives that is
/// not worth another attempt, or was tried often enough. What `done` gives. `Signal`: cancelled.
pub fn transfer(
    items: &[Item],
    options: &Options,
    control: &Control,
    done: &(dyn Fn(usize, Digest) -> Result<()> + Sync),
) -> Result<Totals> {
    let started = Instant::now();
    let left = look(items)?;
    let resumed_bytes = left.iter().map(|left| left.claimed_bytes).sum();
    if resumed_bytes > 0 {
        control.moved(resumed_bytes);
    }
    let options =
        Options { connections_max: options.connections_max.clamp(1, CONNECTIONS_MAX), ..options.clone() };
    let sizes: Vec<u64> = items.iter().map(|item| item.size_bytes).collect();
    let shared = worker::Shared {
        items,
        options: &options,
        control,
        done,
        board: board::Board::new(&sizes, &options),
        limit: options.limit_bytes_per_second.map(pace::Limit::new).transpose()?,
        claimed_bytes: left.iter().map(|left| left.claimed_bytes).collect(),
        received_bytes: AtomicU64::new(0),
    };
    // One more than connections: it brings files to the disk.
    if let Err(error) = parallel("fetch", options.connections_max + 1, control, |_| shared.work()) {
        // Of what nothing is recorded nothing can be taken up: it would only fill the disk.
        shared.board.active().iter().for_each(|partial| partial.discard_if_empty());
        return Err(error);
    }
    Ok(Totals {
        file_count: items.len(),
        size_bytes: sizes.iter().fold(0, |sum, size| sum.saturating_add(*size)),
        resumed_bytes,
        received_bytes: shared.received_bytes.load(Ordering::Relaxed),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Looks at what is there, and whether there is room for the rest.
fn look(items: &[Item]) -> Result<Vec<partial::Left>> {
    let mut seen = hashbrown::HashSet::with_capacity(items.len());
    for item in items {
        if !seen.insert(&item.to) {
            return Err(Error::bug("two files were to be fetched to one place").file(shown(&item.to)));
        }
        if item.from.size_bytes() != item.size_bytes {
            return Err(Error::bug("a file was to be fetched with another size").file(item.from.name()));
        }
    }
    let left = items.iter().map(partial::look).collect::<Result<Vec<_>>>()?;
    // By folder first: there are few, and each is asked for its file system once.
    let mut needed: HashMap<&Path, u64> = HashMap::new();
    for (item, left) in items.iter().zip(&left) {
        let more = item.size_bytes.saturating_sub(left.disk_bytes);
        let sum = needed.entry(directory_of(&item.to)).or_default();
        *sum = sum.saturating_add(more);
    }
    let mut by_disk: HashMap<u64, (&Path, u64)> = HashMap::new();
    for (folder, bytes) in needed {
        let sum = by_disk.entry(disk_of(folder)?).or_insert((folder, 0));
        sum.1 = sum.1.saturating_add(bytes);
    }
    for (folder, bytes) in by_disk.into_values() {
        if let Some(free) = free_bytes(folder).filter(|free| *free < bytes) {
            let (free, bytes) = (text::bytes(free), text::bytes(bytes));
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!("the disk has {free} free, this needs {bytes}"),
            )
            .file(shown(folder))
            .hint("free some space, or fetch to another disk"));
        }
    }
    Ok(left)
}

/// Which file system a folder lies in.
fn disk_of(folder: &Path) -> Result<u64> {
    let facts =
        std::fs::metadata(folder).map_err(|e| Error::io("cannot be examined", e).file(shown(folder)))?;
    #[cfg(unix)]
    return Ok(std::os::unix::fs::MetadataExt::dev(&facts));
    #[cfg(not(unix))]
    {
        let _ = facts;
        Ok(0)
    }
}
