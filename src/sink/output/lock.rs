//! One run for one output: a lock file beside it, `.OUT.hoist-lock`. The lock is the system's (flock(2)), so it ends with
//! the process however that ends; the file is only the thing that is locked, and holds nothing.
//!
//! Whoever holds the lock removes the file before letting go. Another run may have opened that file in the meantime and
//! then locks something that has no name any more, so after locking each run looks whether the name still leads to what
//! it locked, and begins again if not.

use crate::error::{Error, ErrorKind, Result};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

/// The lock, held until dropped.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    file: File,
    /// Why there is no lock, on a file system that has none.
    pub(super) missing: Option<String>,
}

/// More runs than ever let go in a row between our opening and our locking.
const TRIES_MAX: usize = 100;

impl Lock {
    /// Takes the lock at `path`; `shown` names the output.
    ///
    /// # Errors
    /// `Io`: another run holds it. What making the file gives.
    pub(super) fn take(path: PathBuf, shown: &str) -> Result<Lock> {
        let fail = |e| Error::io("cannot be locked", e).file(shown);
        for _ in 0..TRIES_MAX {
            let file = open(&path).map_err(fail)?;
            let missing = match file.try_lock() {
                Ok(()) => None,
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::new(ErrorKind::Io, "is being written by another run of hoist")
                        .file(shown)
                        .hint("wait until that one is done, or write elsewhere"));
                }
                // Lustre without `-o flock`, some FUSE: no run there could lock anything.
                Err(TryLockError::Error(e)) => Some(format!(
                    "the file system has no locks ({e}): nothing keeps a second run off this output"
                )),
            };
            if is_at(&file, &path).map_err(fail)? {
                return Ok(Lock { path, file, missing });
            }
        }
        Err(Error::new(ErrorKind::Io, "is being written by other runs of hoist, one after the other")
            .file(shown))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // First the name, then the lock: the other way round a run that locked in between would lose its file.
        let _ = fs::remove_file(&self.path);
        let _ = self.file.unlock();
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    // A link planted under the name in a folder that all may write would have us make a file elsewhere.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NOFOLLOW | libc::O_NONBLOCK);
    options.open(path)
}

/// Whether the name leads to this very file.
fn is_at(file: &File, path: &Path) -> std::io::Result<bool> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let ours = file.metadata()?;
        match fs::symlink_metadata(path) {
            Ok(named) => Ok((named.dev(), named.ino()) == (ours.dev(), ours.ino())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        Ok(path.exists())
    }
}
