//! Locks that say who writes a blob. They are those of huggingface_hub (an exclusive `flock` of a file by the blob's name), so
//! that two of us, or one of us and one of Python, do not fetch the same twice.
//!
//! They are no more than that: what makes a blob right is its hash, and its name comes by a rename. On file systems where
//! a lock is granted to everybody the price is bytes fetched twice.

use crate::error::{Error, ErrorKind, Result};
use crate::run::job::Control;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// How often a lock is asked for.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// A lock, until dropped.
#[derive(Debug)]
pub(in crate::fetch) struct Held {
    /// Nothing where the file system knows no locks.
    _file: Option<File>,
}

/// Waits for a lock. Gives up when nothing under `watched` has changed for `patience`: whoever holds it is stuck.
///
/// # Errors
/// `Io`: another process holds it and does nothing. `NotAllowed`, `NoSpace`: the system's. `Signal`: cancelled.
pub(in crate::fetch) fn hold(
    path: &Path,
    what: &str,
    watched: &Path,
    patience: Duration,
    control: &Control,
) -> Result<Held> {
    let mut since = Instant::now();
    let mut seen = None;
    let mut file = open(path)?;
    loop {
        match file.try_lock() {
            // Some lockers remove the file when they are done: then another one has its name by now.
            Ok(()) if is_at(&file, path) => return Ok(Held { _file: Some(file) }),
            Ok(()) => file = open(path)?,
            Err(TryLockError::WouldBlock) => {
                let now = newest(watched);
                if now != seen {
                    (seen, since) = (now, Instant::now());
                }
                let who = holder(&file).map_or("another process".into(), |pid| format!("process {pid}"));
                if since.elapsed() > patience {
                    let message =
                        format!("{who} holds the lock and has written nothing for {} s", patience.as_secs());
                    return Err(Error::new(ErrorKind::Io, message)
                        .file(path.display().to_string())
                        .hint("end that process; the lock ends with it"));
                }
                control.step(|| format!("waiting for {who} that fetches {what}"), 0, 1);
                if control.is_stopped() {
                    return Err(Error::new(ErrorKind::Signal(2), "cancelled"));
                }
                std::thread::sleep(ASK_EVERY);
            }
            // No locks here: go on without.
            Err(TryLockError::Error(_)) => return Ok(Held { _file: None }),
        }
    }
}

/// Takes a lock that nobody holds; `None` where somebody does.
///
/// # Errors
/// `NotAllowed`, `NoSpace`: the system's.
pub(in crate::fetch) fn hold_free(path: &Path) -> Result<Option<Held>> {
    let file = open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(is_at(&file, path).then_some(Held { _file: Some(file) })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(_)) => Ok(Some(Held { _file: None })),
    }
}

fn open(path: &Path) -> Result<File> {
    super::write::make_parent(path)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    // Others of the group may share the cache.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o664);
    options.open(path).map_err(|e| Error::io("the lock cannot be opened", e).file(path.display().to_string()))
}

/// Whether the open file is the one at the path.
fn is_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let id = |m: std::fs::Metadata| (m.dev(), m.ino());
        matches!((file.metadata().map(id), std::fs::metadata(path).map(id)), (Ok(a), Ok(b)) if a == b)
    }
    #[cfg(not(unix))]
    {
        let _ = (file, path);
        true
    }
}

/// The process that holds an `flock` of this file, where the system tells: not for one of another machine or container.
fn holder(file: &File) -> Option<u32> {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::MetadataExt;
        let meta = file.metadata().ok()?;
        let (major, minor) = (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
        let table = std::fs::read_to_string("/proc/locks").ok()?;
        holder_in(&table, &format!("{major:02x}:{minor:02x}:{}", meta.ino()))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = file;
        None
    }
}

/// Who holds an `flock` of a file, by a table as in `/proc/locks` (`proc(5)`): `1: FLOCK  ADVISORY  WRITE 708 fe:01:131 0 EOF`.
/// Those who wait have an arrow in the second place.
#[cfg(any(target_os = "linux", test))]
fn holder_in(table: &str, file: &str) -> Option<u32> {
    table.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (kind, pid) = (words.next()?, words.nth(2)?);
        let pid = pid.parse().ok().filter(|&pid| pid > 0);
        if kind == "FLOCK" && words.next() == Some(file) { pid } else { None }
    })
}

/// When something in a folder last changed.
fn newest(folder: &Path) -> Option<SystemTime> {
    let entries = std::fs::read_dir(folder).ok()?;
    let times = entries.flatten().filter_map(|e| e.metadata().ok()?.modified().ok());
    times.chain(std::fs::metadata(folder).ok().and_then(|m| m.modified().ok())).max()
}

/// The lock files to take, in the one order that all of us take them in; few enough for the limit of open files.
pub(in crate::fetch) fn order(mut paths: Vec<PathBuf>) -> Vec<PathBuf> {
    const LOCKS_MAX: usize = 256;
    paths.truncate(LOCKS_MAX);
    paths.sort();
    paths.dedup();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock() {
        let table = "1: POSIX  ADVISORY  WRITE 11 fe:01:131 0 EOF\n2: FLOCK  ADVISORY  WRITE 708 fe:01:131 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 709 fe:01:131 0 EOF\n3: FLOCK ADVISORY WRITE 0 fe:01:132 0 EOF\n4:\n";
        assert_eq!(holder_in(table, "fe:01:131"), Some(708));
        assert_eq!(holder_in(table, "fe:01:132"), None);
        assert_eq!(holder_in(table, "fe:01:133"), None);
    }
}
