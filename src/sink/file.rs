//! Files that are complete or absent. A file is written under a temporary name beside its target, `.NAME.hoist-XXXX`,
//! synced, and only then given its name; whatever happens before that leaves the target as it was. A directory goes the
//! same way, as a whole.
//!
//! Writing is by offset through a shared reference, so any number of threads write one file without a lock and in any
//! order. Space is claimed when the file is made: a disk that is too full says so before the first byte, not after the
//! last. (The claim costs nothing: 1 GiB claimed, copied and synced took 1.00 s on ext4 where `cp` and `sync` took 1.08,
//! and the same 0.48 s on tmpfs.)
//!
//! A crash can leave a temporary behind (its name says whose it is), never half a target. What a user's umask says about
//! new files holds for these.

use crate::error::{Error, ErrorKind, Result};
use crate::source::ReadAt;
use crate::text::{bytes, grouped};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use xxhash_rust::xxh3::xxh3_64;

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
        // Readable too: what was copied inside the kernel is hashed from here.
        let make = |path: &Path| OpenOptions::new().read(true).write(true).create_new(true).open(path);
        let (file, temporary) = Temporary::new(target, Kind::File, make)?;
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
        self.check_inside(offset_bytes, bytes.len() as u64)?;
        write_all_at(&self.file, bytes, offset_bytes).map_err(|e| self.not_written(offset_bytes, e))
    }

    /// Copies a range of `from` to `to_offset_bytes`: inside the kernel where source and file system allow it
    /// (copy_file_range(2), which shares blocks instead of copying them where the file system can and both ranges are
    /// aligned to its blocks), else through `buffer`, which must not be empty; a megabyte does well. Returns which way the
    /// bytes went. From any thread.
    ///
    /// It does not look up before it is done: call it with pieces of so many bytes as may pass between two looks at
    /// whether to stop.
    ///
    /// # Errors
    /// A source that ends before the range does (it was cut short under us), a range beyond the file's size, what reading
    /// and writing give.
    pub fn copy_range(
        &self,
        from: &dyn ReadAt,
        from_offset_bytes: u64,
        to_offset_bytes: u64,
        size_bytes: u64,
        buffer: &mut [u8],
    ) -> Result<Copied> {
        self.check_inside(to_offset_bytes, size_bytes)?;
        if from_offset_bytes.checked_add(size_bytes).is_none() {
            return Err(Error::bug("a range to copy ends beyond any file").at(from_offset_bytes));
        }
        let mut copied = Copied::default();
        self.copy_in_kernel(from, from_offset_bytes, to_offset_bytes, size_bytes, &mut copied)?;
        let mut done = copied.kernel_bytes;
        while done < size_bytes {
            let n = buffer.len().min(usize::try_from(size_bytes - done).unwrap_or(usize::MAX));
            let Some(piece) = buffer.get_mut(..n).filter(|piece| !piece.is_empty()) else {
                return Err(Error::bug("a copy was given no buffer"));
            };
            from.read_exact_at(piece, from_offset_bytes + done)?;
            self.write_all_at(piece, to_offset_bytes + done)?;
            done += n as u64;
            copied.buffer_bytes += n as u64;
        }
        Ok(copied)
    }

    /// As much of a range as the kernel copies by itself.
    fn copy_in_kernel(
        &self,
        from: &dyn ReadAt,
        from_offset_bytes: u64,
        to_offset_bytes: u64,
        size_bytes: u64,
        copied: &mut Copied,
    ) -> Result<()> {
        #[cfg(target_os = "linux")]
        {
            use rustix::io::Errno;
            let Some(local) = from.as_local() else { return Ok(()) };
            while copied.kernel_bytes < size_bytes {
                let done = copied.kernel_bytes;
                let (mut read_at, mut write_at) = (from_offset_bytes + done, to_offset_bytes + done);
                let mut n = (size_bytes - done).min(KERNEL_COPY_BYTES);
                // Only whole blocks can be shared. Where both sides lie alike in theirs, the part before the first whole
                // block goes by itself; the kernel cuts the part after the last one off by itself.
                let (from_rest, to_rest) = (read_at % SHARED_BLOCK_BYTES, write_at % SHARED_BLOCK_BYTES);
                if from_rest != 0 && from_rest == to_rest {
                    n = n.min(SHARED_BLOCK_BYTES - from_rest);
                }
                let n = usize::try_from(n).unwrap_or(usize::MAX);
                let result = rustix::fs::copy_file_range(
                    local.file(),
                    Some(&mut read_at),
                    &self.file,
                    Some(&mut write_at),
                    n,
                );
                match result {
                    // The end of the source; or a file system that says so of every file it cannot copy from (FUSE and
                    // others have): reading finds out which.
                    Ok(0) => break,
                    Ok(n) => copied.kernel_bytes += n as u64,
                    Err(Errno::INTR | Errno::AGAIN) => {}
                    // No space is no space whichever way; reading tells what is wrong with a source, and writing what is
                    // wrong with the target. All else means that this pair of files is not copied so: another file
                    // system (EXDEV), one that cannot (EOPNOTSUPP, EINVAL, ENOSYS), a filter of system calls (EPERM).
                    Err(e @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => {
                        return Err(self.not_written(write_at, e.into()));
                    }
                    Err(_) => break,
                }
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (from, from_offset_bytes, to_offset_bytes, size_bytes, copied);
        Ok(())
    }

    /// Has the system begin to bring a range to the disk, without waiting: the disk works while we go on, and the sync at
    /// the end finds little left to do (1 GiB copied and synced on ext4: 1.08 s without, 0.66 s with, a call each 8 MiB).
    ///
    /// fadvise(POSIX_FADV_DONTNEED) begins to write what is dirty in the range and drops only what is clean already, so
    /// what was just written stays in the page cache. It is sync_file_range(2) without unsafe code.
    pub fn start_writeback(&self, offset_bytes: u64, size_bytes: u64) {
        #[cfg(target_os = "linux")]
        if let Some(size) = std::num::NonZeroU64::new(size_bytes) {
            // A file system that takes no advice loses nothing but time.
            let _ = rustix::fs::fadvise(&self.file, offset_bytes, Some(size), rustix::fs::Advice::DontNeed);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (offset_bytes, size_bytes);
    }

    /// Reads back what was written: all of `buffer` from `offset_bytes`, for a hash of what came inside the kernel.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset_bytes: u64) -> Result<()> {
        self.check_inside(offset_bytes, buffer.len() as u64)?;
        read_exact_at(&self.file, buffer, offset_bytes).map_err(|e| {
            Error::io("cannot be read back", e).at(offset_bytes).file(shown(&self.temporary.target))
        })
    }

    /// An error unless the range lies inside the file as it was laid out.
    fn check_inside(&self, offset_bytes: u64, size_bytes: u64) -> Result<()> {
        if offset_bytes.checked_add(size_bytes).is_some_and(|end| end <= self.size_bytes) {
            return Ok(());
        }
        let message = format!(
            "was laid out for {} bytes, and {} more were to be written",
            grouped(self.size_bytes),
            grouped(size_bytes)
        );
        Err(Error::bad_input(message).at(offset_bytes).file(shown(&self.temporary.target)))
    }

    fn not_written(&self, offset_bytes: u64, e: io::Error) -> Error {
        let error = Error::io("cannot be written", e).at(offset_bytes).file(shown(&self.temporary.target));
        match error.kind() {
            ErrorKind::NoSpace => error.hint("free some space, or write elsewhere"),
            _ => error,
        }
    }

    /// The open file, under its temporary name.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The size it was laid out for.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

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

/// Which way a range was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Copied {
    /// Bytes that the kernel copied or shared by itself.
    pub kernel_bytes: u64,
    /// Bytes that passed through a buffer of ours.
    pub buffer_bytes: u64,
}

/// What one call asks the kernel to copy: it answers no signal before it is done with that.
#[cfg(target_os = "linux")]
const KERNEL_COPY_BYTES: u64 = 64 << 20;

/// The block of file systems that share blocks between files (XFS, Btrfs), unless somebody chose another.
#[cfg(target_os = "linux")]
const SHARED_BLOCK_BYTES: u64 = 4096;

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

/// `.NAME.hoist-XXXX`, different at each call.
fn temporary_name(name: &OsStr) -> OsString {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    // Not for secrecy: only so that two runs, or two files of one, seldom have to try twice.
    let mix = (now.as_nanos() as u64)
        .wrapping_add(u64::from(std::process::id()) << 32)
        .wrapping_add(COUNTER.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    hidden_name(name, &format!(".hoist-{:08x}", (mix ^ (mix >> 32)) as u32))
}

/// Whether `found` is a name that [`temporary_name`] gives for `name`.
pub(super) fn is_temporary_name(found: &OsStr, name: &OsStr) -> bool {
    const MARK: &str = ".hoist-00000000";
    let (found, pattern) = (found.as_encoded_bytes(), hidden_name(name, MARK));
    let (Some(front), Some((at, digits))) = (
        pattern.as_encoded_bytes().strip_suffix(b"00000000"),
        found.len().checked_sub(8).map(|n| found.split_at(n)),
    ) else {
        return false;
    };
    at == front && digits.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b))
}

/// `.NAME` and a mark. A NAME so long that the whole would pass the 255 bytes of a file name is cut and gets its hash, so
/// that two names with one beginning stay apart.
pub(super) fn hidden_name(name: &OsStr, mark: &str) -> OsString {
    const NAME_BYTES_MAX: usize = 255;
    let mut whole = OsString::from(".");
    if 1 + name.len() + mark.len() <= NAME_BYTES_MAX {
        whole.push(name);
    } else {
        let hash = format!("~{:016x}", xxh3_64(name.as_encoded_bytes()));
        let text = name.to_string_lossy();
        let mut end = text.len().min(NAME_BYTES_MAX.saturating_sub(1 + hash.len() + mark.len()));
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        whole.push(&text[..end]);
        whole.push(hash);
    }
    whole.push(mark);
    whole
}

/// The directory that holds a path.
pub(crate) fn directory_of(target: &Path) -> &Path {
    match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

pub(crate) fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn exists(target: &Path) -> Error {
    Error::bad_input("exists already").file(shown(target)).hint("choose another name, or remove it first")
}

/// Claims the space. Where the file system cannot, the file only gets its length.
pub(crate) fn claim(file: &File, size_bytes: u64) -> io::Result<()> {
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

pub(crate) fn write_all_at(file: &File, bytes: &[u8], offset_bytes: u64) -> io::Result<()> {
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

/// Reads all of `buffer`, or gives an error.
pub(crate) fn read_exact_at(file: &File, buffer: &mut [u8], offset_bytes: u64) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset_bytes);
    #[cfg(windows)]
    {
        let mut done = 0;
        while done < buffer.len() {
            let rest = &mut buffer[done..];
            match std::os::windows::fs::FileExt::seek_read(file, rest, offset_bytes + done as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
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
pub(super) fn sync_directory(path: &Path) -> Result<()> {
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
            assert!(is_temporary_name(&one, OsStr::new(name)), "{one:?}");
            assert!(!is_temporary_name(&one, OsStr::new("y")), "{one:?}");
            let one = one.into_string().unwrap();
            assert!(one.starts_with(&format!(".{first}")) && one.contains(".hoist-"), "{one}");
        }
        let long = |last: &str| "n".repeat(254) + last;
        let (a, b) =
            (hidden_name(OsStr::new(&long("a")), ".hoist"), hidden_name(OsStr::new(&long("b")), ".hoist"));
        assert!(a != b && a.len() == 255, "{a:?} {b:?}");
        for no in [
            ".x.hoist-lock",
            ".x.hoist",
            ".x.hoist-0000000g",
            ".x.hoist-0000000",
            "x.hoist-00000000",
            "",
            "é",
        ] {
            assert!(!is_temporary_name(OsStr::new(no), OsStr::new("x")), "{no}");
        }
    }
}
