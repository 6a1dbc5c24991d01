//! Writing into places that others read meanwhile: whole files under their names, and links.

use crate::error::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Makes the directory of a path, and those above it.
pub(super) fn make_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) => make_folder(parent),
        None => Ok(()),
    }
}

/// Makes a directory, and those above it.
pub(super) fn make_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|e| Error::io("the folder cannot be made", e).file(shown(path)))
}

/// A name beside a path that no other writer has.
pub(super) fn beside(path: &Path) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:x}-{number:x}.tmp", std::process::id()));
    path.with_file_name(name)
}

/// Writes a small file under a temporary name and gives it its own: readers see the old one or the new one.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    make_parent(path)?;
    let temporary = beside(path);
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
        file.write_all(bytes)?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|e| {
        let _ = std::fs::remove_file(&temporary);
        Error::io("cannot be written", e).file(shown(path))
    })
}

/// Writes a file that is to last: on the disk before the call returns.
pub(super) fn write_lasting(path: &Path, bytes: &[u8]) -> Result<()> {
    make_parent(path)?;
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|e| Error::io("cannot be written", e).file(shown(path)))
}

/// Gives a file another name in the same file system, in place of what has it.
pub(super) fn rename(from: &Path, to: &Path) -> Result<()> {
    make_parent(to)?;
    std::fs::rename(from, to).map_err(|e| Error::io("cannot be put in place", e).file(shown(to)))
}

/// Copies a file under a temporary name and gives it its own. File systems that can share the blocks.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    make_parent(to)?;
    let temporary = beside(to);
    let copy = || {
        let mut source = File::open(from)?;
        let mut target = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
        // Not `fs::copy`: the permissions are those of a new file, not those of a read-only blob.
        std::io::copy(&mut source, &mut target)?;
        target.sync_all()?;
        std::fs::rename(&temporary, to)
    };
    copy().map_err(|e| {
        let _ = std::fs::remove_file(&temporary);
        Error::io(format!("cannot be copied from `{}`", from.display()), e).file(shown(to))
    })
}

/// Brings what a directory says onto the disk. File systems that cannot are left alone: its files are there.
pub(super) fn sync_folder(path: &Path) {
    #[cfg(unix)]
    if let Ok(folder) = File::open(path) {
        let _ = folder.sync_all();
    }
    #[cfg(not(unix))]
    let _ = path;
}

/// Links `link` to `target`, relative to where the link is. `Ok(false)` where there are no links here.
pub(super) fn link(target: &Path, link: &Path) -> Result<bool> {
    make_parent(link)?;
    let relative = relative(target, link);
    let temporary = beside(link);
    #[cfg(unix)]
    let made = std::os::unix::fs::symlink(&relative, &temporary);
    #[cfg(windows)]
    let made = std::os::windows::fs::symlink_file(&relative, &temporary);
    match made.and_then(|()| std::fs::rename(&temporary, link)) {
        Ok(()) => Ok(true),
        Err(e) if is_unsupported(&e) => Ok(false),
        Err(e) => {
            let _ = std::fs::remove_file(&temporary);
            Err(Error::io("the link cannot be made", e).file(shown(link)))
        }
    }
}

fn is_unsupported(error: &std::io::Error) -> bool {
    // FAT answers "not permitted", others "not supported" or "not implemented".
    #[cfg(unix)]
    let by_code =
        error.raw_os_error().is_some_and(|e| [libc::EPERM, libc::EOPNOTSUPP, libc::ENOSYS].contains(&e));
    // A privilege that is not held (1314), a function that is not there (1).
    #[cfg(not(unix))]
    let by_code = error.raw_os_error().is_some_and(|e| [1314, 1].contains(&e));
    by_code || error.kind() == std::io::ErrorKind::Unsupported
}

/// The way from the folder of `link` to `target`, both in the same cache.
fn relative(target: &Path, link: &Path) -> PathBuf {
    let folder = link.parent().unwrap_or(Path::new(""));
    let (from, to): (Vec<Component<'_>>, Vec<Component<'_>>) =
        (folder.components().collect(), target.components().collect());
    let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = from.len().saturating_sub(shared);
    std::iter::repeat_n(Component::ParentDir, up).chain(to.into_iter().skip(shared)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_relative() {
        for (target, link, expected) in [
            ("/c/m/blobs/e", "/c/m/snapshots/s/a", "../../blobs/e"),
            ("/c/m/blobs/e", "/c/m/snapshots/s/a/b/c", "../../../../blobs/e"),
            ("m/blobs/e", "m/snapshots/s/a", "../../blobs/e"),
        ] {
            assert_eq!(relative(Path::new(target), Path::new(link)), Path::new(expected));
        }
    }
}
