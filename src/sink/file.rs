//! Files that are complete or absent. A file is written under a temporary name beside its target, `.NAME.hoist-XXXX`,
//! synced, and only then given its name; whatever happens before that leaves the target as it was. A directory goes the
//! same way, as a whole.
//!
//! Writing is by offset through a shared reference, so any number of threads write one file without a lock and in any
//! order. Space is claimed when the file is made: a disk that is too full says so before the first byte, not after the
//! last.
//!
//! A crash can leave a temporary behind (its name says whose it is), never half a target. What a user's umask says about
//! new files holds for these.

use crate::error::{Error, ErrorKind, Result};
use crate::text::bytes;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// What to do where the target is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Leave it and give an error.
    Keep,
    /// Put the new one in its place, at once, when it is complete.
    Replace,
}

/// A file being written. Dropped before [`FileSink::finish`], it leaves nothing.
#[derive(Debug)]
pub struct FileSink {
    file: File,
    size_bytes: u64,
    existing: Existing,
    temporary: Temporary,
}

impl FileSink {
    /// Begins a file of `size_bytes` at `target`, whose directory must exist. Bytes that are never written are zeros.
    ///
    /// Errors: the target is there and is to be kept, or is a directory; the directory is missing or may not be
    /// written; the disk has no room.
    pub fn create(target: &Path, size_bytes: u64, existing: Existing) -> Result<FileSink> {
        let fail = |e| Error::io("cannot be created", e).file(shown(target));
        match fs::symlink_metadata(target) {
            Ok(found) if found.is_dir() => return Err(Error::bad_input("is a directory").file(shown(target))),
            Ok(_) if existing == Existing::Keep => return Err(exists(target)),
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fail(e)),
            _ => {}
        }
        let (file, temporary) = Temporary::new(target, Kind::File, |path| {
            File::options().read(true).write(true).create_new(true).open(path)
        })?;
        let sink = FileSink { file, size_bytes, existing, temporary };
        claim(&sink.file, size_bytes).map_err(|e| {
            let full = e.kind() == io::ErrorKind::StorageFull;
            let error =
                Error::io(format!("cannot be given its {}", bytes(size_bytes)), e).file(shown(target));
            match free_bytes(directory_of(target)) {
                Some(free) if full => error.detail(format!("the disk has {} free", bytes(free))),
                _ => error,
            }
        })?;
        Ok(sink)
    }

    /// Writes all of `bytes` at `offset_bytes`. From any thread; ranges of different calls should not overlap.
    pub fn write_all_at(&self, bytes: &[u8], offset_bytes: u64) -> Result<()> {
        let end = offset_bytes.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > self.size_bytes) {
            let message = format!(
                "was laid out for {} bytes, and {} more were to be written",
                crate::text::grouped(self.size_bytes),
                crate::text::grouped(bytes.len() as u64)
            );
            return Err(Error::bad_input(message).at(offset_bytes).file(shown(&self.temporary.target)));
        }
        write_all_at(&self.file, bytes, offset_bytes).map_err(|e| {
            let error =
                Error::io("cannot be written", e).at(offset_bytes).file(shown(&self.temporary.target));
            match error.kind() {
                ErrorKind::NoSpace => {
                    error.hint("free some space, or write elsewhere; nothing was left behind")
                }
                _ => error,
            }
        })
    }

    /// Placeholder.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset_bytes: u64) -> Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, buffer, offset_bytes)
            .map_err(|e| Error::io("cannot be read back", e))
    }

    /// Placeholder.
    pub fn copy_range(&self, from: &File, from_bytes: u64, to_bytes: u64, size_bytes: u64) -> Result<u64> {
        let (mut a, mut b, mut done) = (from_bytes, to_bytes, 0);
        while done < size_bytes {
            match rustix::fs::copy_file_range(
                from,
                Some(&mut a),
                &self.file,
                Some(&mut b),
                (size_bytes - done) as usize,
            ) {
                Ok(0) | Err(_) => break,
                Ok(n) => done += n as u64,
            }
        }
        Ok(done)
    }

    /// Placeholder.
    pub fn start_writeback(&self) {}

    /// The target.
    pub fn target(&self) -> &Path {
        &self.temporary.target
    }

    /// Syncs the file, gives it its name, syncs the directory. After this the file is there whatever happens.
    pub fn finish(mut self) -> Result<()> {
        self.file
            .sync_all()
            .map_err(|e| Error::io("cannot be brought to the disk", e).file(shown(&self.temporary.target)))?;
        self.temporary.publish(self.existing)
    }
}

/// Writes a small file whole: complete or absent like any other.
pub fn write_file(target: &Path, bytes: &[u8], existing: Existing) -> Result<()> {
    let sink = FileSink::create(target, bytes.len() as u64, existing)?;
    sink.write_all_at(bytes, 0)?;
    sink.finish()
}

/// A directory being filled. Dropped before [`DirectorySink::finish`], it leaves nothing.
#[derive(Debug)]
pub struct DirectorySink {
    temporary: Temporary,
}

impl DirectorySink {
    /// Begins a directory at `target`, which must not exist, or be an empty directory.
    pub fn create(target: &Path) -> Result<DirectorySink> {
        let free = match fs::read_dir(target) {
            Ok(mut entries) => entries.next().is_none(),
            Err(_) => fs::symlink_metadata(target).is_err(),
        };
        if !free {
            return Err(exists(target));
        }
        let ((), temporary) = Temporary::new(target, Kind::Directory, |path| fs::create_dir(path))?;
        Ok(DirectorySink { temporary })
    }

    /// Where files are to be put until it is finished.
    pub fn path(&self) -> &Path {
        &self.temporary.path
    }

    /// Gives the directory its name, and syncs that. Each file in it must be finished already.
    pub fn finish(mut self) -> Result<()> {
        sync_directory(&self.temporary.path)?;
        self.temporary.publish(Existing::Keep)
    }
}

/// Bytes that the file system of `directory` has left for us, where it says so.
pub fn free_bytes(directory: &Path) -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        let facts = rustix::fs::statvfs(directory).ok()?;
        facts.f_bavail.checked_mul(facts.f_frsize)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = directory;
        None
    }
}

/// An error if the file system of `directory` has less than `needed_bytes` left.
pub fn check_space(directory: &Path, needed_bytes: u64) -> Result<()> {
    match free_bytes(directory) {
        Some(free) if free < needed_bytes => Err(Error::new(
            ErrorKind::NoSpace,
            format!("the disk has {} free, this needs {}", bytes(free), bytes(needed_bytes)),
        )
        .file(shown(directory))),
        _ => Ok(()),
    }
}

/// Takes a file's pages out of the page cache, so that the next read comes from the disk. Only clean pages go: sync
/// first, as [`FileSink::finish`] does.
pub fn drop_cached(path: &Path) -> Result<()> {
    let fail = |e| Error::io("cannot be dropped from the page cache", e).file(shown(path));
    #[cfg(target_os = "linux")]
    {
        let file = File::open(path).map_err(fail)?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).map_err(|e| fail(e.into()))
    }
    #[cfg(not(target_os = "linux"))]
    Err(fail(io::Error::from(io::ErrorKind::Unsupported)))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
}

/// A path that is removed unless it gets its name.
#[derive(Debug)]
struct Temporary {
    path: PathBuf,
    target: PathBuf,
    kind: Kind,
    published: bool,
}

impl Temporary {
    /// Makes something beside `target` under a name that nothing has.
    fn new<T>(target: &Path, kind: Kind, make: impl Fn(&Path) -> io::Result<T>) -> Result<(T, Temporary)> {
        let Some(name) = target.file_name() else {
            return Err(Error::usage(format!("`{}` names no file", shown(target))));
        };
        loop {
            let path = directory_of(target).join(temporary_name(name));
            match make(&path) {
                Ok(made) => {
                    return Ok((made, Temporary { path, target: target.to_owned(), kind, published: false }));
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::io("cannot be created", e).file(shown(target))),
            }
        }
    }

    fn publish(&mut self, existing: Existing) -> Result<()> {
        rename(&self.path, &self.target, existing, self.kind).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty => exists(&self.target),
            _ => Error::io("cannot be given its name", e).file(shown(&self.target)),
        })?;
        self.published = true;
        sync_directory(directory_of(&self.target))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.published {
            // An error here has nobody to go to: the one that brought us here is on its way already.
            let _ = match self.kind {
                Kind::File => fs::remove_file(&self.path),
                Kind::Directory => fs::remove_dir_all(&self.path),
            };
        }
    }
}

/// `.NAME.hoist-XXXX`, different at each call; a NAME so long that the whole would pass the 255 bytes of a file name is
/// cut.
fn temporary_name(name: &OsStr) -> OsString {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    // Not for secrecy: only so that two runs, or two files of one, seldom have to try twice.
    let mix = (now.as_nanos() as u64)
        .wrapping_add(u64::from(std::process::id()) << 32)
        .wrapping_add(COUNTER.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mark = format!(".hoist-{:08x}", (mix ^ (mix >> 32)) as u32);
    let mut whole = OsString::from(".");
    if 1 + name.len() + mark.len() <= 255 {
        whole.push(name);
    } else {
        let text = name.to_string_lossy();
        let mut end = text.len().min(255 - 1 - mark.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        whole.push(&text[..end]);
    }
    whole.push(mark);
    whole
}

fn directory_of(target: &Path) -> &Path {
    match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn exists(target: &Path) -> Error {
    Error::bad_input("exists already").file(shown(target)).hint("choose another name, or remove it first")
}

/// Claims the space. Where the file system cannot, the file only gets its length.
fn claim(file: &File, size_bytes: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if size_bytes > 0 {
        use rustix::io::Errno;
        loop {
            match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, size_bytes) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => break,
                Err(e) => return Err(e.into()),
            }
        }
    }
    file.set_len(size_bytes)
}

fn write_all_at(file: &File, bytes: &[u8], offset_bytes: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        #[cfg(unix)]
        let written = std::os::unix::fs::FileExt::write_at(file, &bytes[done..], offset_bytes + done as u64);
        #[cfg(windows)]
        let written =
            std::os::windows::fs::FileExt::seek_write(file, &bytes[done..], offset_bytes + done as u64);
        match written {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Renames; with [`Existing::Keep`] never over something that appeared since we looked, where the system can promise
/// that.
fn rename(from: &Path, to: &Path, existing: Existing, kind: Kind) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if existing == Existing::Keep && kind == Kind::File {
        use rustix::fs::{CWD, RenameFlags};
        use rustix::io::Errno;
        match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // NFS and some others know no flags.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
            other => return other.map_err(Into::into),
        }
    }
    // A directory replaces an empty one at most; the system sees to that.
    if existing == Existing::Keep && kind == Kind::File && fs::symlink_metadata(to).is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    fs::rename(from, to)
}

/// Makes the names in a directory last. Windows has no such thing.
fn sync_directory(path: &Path) -> Result<()> {
    #[cfg(unix)]
    File::open(path)
        .and_then(|d| d.sync_all())
        .map_err(|e| Error::io("cannot be brought to the disk", e).file(shown(path)))?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_names_fit_and_differ() {
        for name in ["x", "model.safetensors", &"ä".repeat(127), &"n".repeat(255)] {
            let (one, two) = (temporary_name(OsStr::new(name)), temporary_name(OsStr::new(name)));
            assert!(one.len() <= 255 && one != two, "{one:?} {two:?}");
            let first = name.chars().next().unwrap();
            let one = one.into_string().unwrap();
            assert!(one.starts_with(&format!(".{first}")) && one.contains(".hoist-"), "{one}");
        }
    }
}
