//! Local files: read by offset, with the file's identity kept so that a change under us is noticed.

pub mod direct;
pub mod mapped;
pub mod residency;

use super::{Entry, Place, ReadAt, Temper};
use crate::error::{Error, Result};
use crate::text::Shown;
use std::fs::{File, Metadata};
use std::io::IoSliceMut;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

/// The size of a page of this machine.
pub fn page_bytes() -> u64 {
    #[cfg(target_os = "linux")]
    return rustix::param::page_size() as u64;
    #[cfg(not(target_os = "linux"))]
    return 16 << 10; // the largest in common use
}

/// A file that is open for reading.
#[derive(Debug)]
pub struct LocalFile {
    file: File,
    path: PathBuf,
    identity: Identity,
    direct: OnceLock<std::result::Result<Arc<File>, String>>,
    network: bool,
}

/// What must not change while a file is read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size_bytes: u64,
    modified: Option<SystemTime>,
}

impl Identity {
    fn of(metadata: &Metadata) -> Identity {
        #[cfg(unix)]
        let (device, inode) = {
            use std::os::unix::fs::MetadataExt;
            (metadata.dev(), metadata.ino())
        };
        #[cfg(not(unix))]
        let (device, inode) = (0, 0);
        Identity { device, inode, size_bytes: metadata.len(), modified: metadata.modified().ok() }
    }
}

impl LocalFile {
    /// Opens a regular file; anything else (a directory, a pipe, a device) is refused before it could block.
    pub fn open(path: &Path) -> Result<LocalFile> {
        let fail = |e| Error::io("cannot be opened", e).file(path.display().to_string());
        let metadata = std::fs::metadata(path).map_err(fail)?;
        if !metadata.is_file() {
            let what = if metadata.is_dir() { "a directory" } else { "not a regular file" };
            return Err(Error::bad_input(format!("is {what}")).file(path.display().to_string()));
        }
        let file = File::open(path).map_err(fail)?;
        let identity = Identity::of(&file.metadata().map_err(fail)?);
        let network = is_network(&file);
        Ok(LocalFile { file, path: path.to_owned(), identity, direct: OnceLock::new(), network })
    }

    /// The file opened for direct reads, or why it takes none. Found out once.
    pub fn direct(&self) -> std::result::Result<&Arc<File>, &str> {
        let opened = self.direct.get_or_init(|| direct::open_direct(self).map(Arc::new));
        opened.as_ref().map_err(String::as_str)
    }

    /// Tells the page cache that a range will not be read again.
    pub fn drop_from_cache(&self, offset_bytes: u64, size_bytes: u64) {
        #[cfg(target_os = "linux")]
        if let Some(size) = std::num::NonZeroU64::new(size_bytes) {
            let _ = rustix::fs::fadvise(&self.file, offset_bytes, Some(size), rustix::fs::Advice::DontNeed);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (offset_bytes, size_bytes);
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An error if the open file is no longer what it was when it was opened: its size or its time of change.
    pub fn check_unchanged(&self) -> Result<()> {
        let fail = |e| Error::io("cannot be examined", e).file(self.path.display().to_string());
        let open = Identity::of(&self.file.metadata().map_err(fail)?);
        if open != self.identity {
            let message = if open.size_bytes != self.identity.size_bytes {
                format!(
                    "changed while it was read: {} bytes, and {} when it was opened",
                    crate::text::grouped(open.size_bytes),
                    crate::text::grouped(self.identity.size_bytes)
                )
            } else {
                "changed while it was read: its time of change differs".to_string()
            };
            return Err(Error::bad_input(message)
                .file(self.path.display().to_string())
                .hint("load again when nothing writes to it"));
        }
        Ok(())
    }
}

fn read_once(file: &File, buf: &mut [u8], offset_bytes: u64) -> std::io::Result<usize> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_at(file, buf, offset_bytes);
    #[cfg(windows)]
    return std::os::windows::fs::FileExt::seek_read(file, buf, offset_bytes);
}

/// Reads until the buffer is full or the file ends.
fn read_full(file: &File, buf: &mut [u8], offset_bytes: u64) -> std::io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match read_once(file, &mut buf[done..], offset_bytes + done as u64) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
            Ok(0) => break,
            Ok(n) => done += n,
        }
    }
    Ok(done)
}

/// Whether the file lies on a network or user-space file system, where many buffered readers do best.
fn is_network(file: &File) -> bool {
    #[cfg(target_os = "linux")]
    {
        // Magic numbers of statfs(2) and the kernel's magic.h: NFS, SMB (three generations), Lustre, Ceph, AFS, 9p,
        // FUSE, GPFS, BeeGFS.
        const NETWORK: [u32; 11] = [
            0x6969,
            0x517b,
            0xff53_4d42,
            0xfe53_4d42,
            0x0bd0_0bd0,
            0x00c3_6400,
            0x5346_414f,
            0x0102_1997,
            0x6573_5546,
            0x4750_4653,
            0x1983_0326,
        ];
        rustix::fs::fstatfs(file).is_ok_and(|s| NETWORK.contains(&(s.f_type as u32)))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = file;
        false
    }
}

impl ReadAt for LocalFile {
    fn size_bytes(&self) -> u64 {
        self.identity.size_bytes
    }

    fn read_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<usize> {
        loop {
            match read_once(&self.file, buf, offset_bytes) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => {
                    return Err(Error::io("cannot be read", e)
                        .at(offset_bytes)
                        .file(self.path.display().to_string()));
                }
                Ok(n) => return Ok(n),
            }
        }
    }

    fn read_vectored_at(&self, buffers: &mut [IoSliceMut<'_>], offset_bytes: u64) -> Result<()> {
        #[cfg(target_os = "linux")]
        if buffers.len() > 1 {
            let wanted: usize = buffers.iter().map(|b| b.len()).sum();
            // Short and interrupted reads are rare: what one call does not bring is read buffer by buffer.
            if rustix::io::preadv(&self.file, buffers, offset_bytes).is_ok_and(|n| n == wanted) {
                return Ok(());
            }
        }
        super::read_each_at(self, buffers, offset_bytes)
    }

    fn temper(&self) -> Temper {
        Temper { gap_bytes_max: 64 << 10, depth: 32, network: self.network }
    }

    fn as_local(&self) -> Option<&LocalFile> {
        Some(self)
    }
}

/// A directory. Its files may be links, as the Hugging Face cache makes them, but a link that leads out of the
/// directory is refused unless the caller says where links may lead: a folder from a stranger could otherwise have any
/// file of this machine read, copied and uploaded as a model.
#[derive(Debug)]
pub struct LocalPlace {
    root: PathBuf,
    /// Where links may lead; `None` is anywhere.
    boundary: Option<PathBuf>,
}

impl LocalPlace {
    /// The directory at `root`; links stay inside it.
    pub fn new(root: impl Into<PathBuf>) -> LocalPlace {
        let root = root.into();
        LocalPlace { boundary: Some(root.clone()), root }
    }

    /// The directory at `root`; links stay inside `boundary`, a directory above it.
    pub fn with_links_within(root: impl Into<PathBuf>, boundary: impl Into<PathBuf>) -> LocalPlace {
        LocalPlace { root: root.into(), boundary: Some(boundary.into()) }
    }

    /// The directory at `root`; links may lead anywhere.
    pub fn following_links(root: impl Into<PathBuf>) -> LocalPlace {
        LocalPlace { root: root.into(), boundary: None }
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The path of a listed name, its links checked.
    fn resolve(&self, name: &str) -> Result<PathBuf> {
        if !name.is_empty() {
            check_relative(name)?;
        }
        let path = self.root.join(name);
        let Some(boundary) = &self.boundary else { return Ok(path) };
        let fail = |e: std::io::Error| {
            let dangles = e.kind() == std::io::ErrorKind::NotFound && path.is_symlink();
            let doing = if dangles { "is a link to a file that is not there" } else { "cannot be opened" };
            Error::io(doing, e).file(name)
        };
        let real = path.canonicalize().map_err(fail)?;
        let boundary = boundary.canonicalize().map_err(|e| Error::io("cannot be opened", e))?;
        if real.starts_with(&boundary) {
            return Ok(path);
        }
        let real = real.display().to_string();
        Err(Error::bad_input(format!(
            "is a link that leads out of the model's folder, to `{}`",
            Shown(&real)
        ))
        .file(name)
        .hint("--follow-links follows it, if you trust the folder"))
    }
}

/// Refuses a name from an index, a header or a listing that would lead outside its place: absolute, `..`, a drive, a
/// backslash, control characters.
pub fn check_relative(name: &str) -> Result<()> {
    let plain = |c| matches!(c, Component::Normal(_) | Component::CurDir);
    // A colon is a drive's or, on Windows, one of a stream within a file.
    let is_drive = name.as_bytes().get(1) == Some(&b':');
    let ok = !name.is_empty()
        && !is_drive
        && !name.chars().any(|c| c.is_control() || c == '\\' || (c == ':' && cfg!(windows)))
        && Path::new(name).components().all(plain);
    if ok {
        return Ok(());
    }
    Err(Error::bad_input(format!(
        "the file name `{}` leads outside the model or holds forbidden characters",
        Shown(name)
    )))
}

impl Place for LocalPlace {
    fn list(&self, under: &str) -> Result<Vec<Entry>> {
        let directory = self.resolve(under)?;
        let fail = |e| Error::io("cannot be listed", e).file(directory.display().to_string());
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(&directory).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            // A name that is not UTF-8 belongs to no checkpoint layout; a dangling link is found when it is opened.
            let Ok(name) = entry.file_name().into_string() else { continue };
            let metadata = std::fs::metadata(entry.path()).or_else(|_| entry.metadata()).map_err(fail)?;
            let name = if under.is_empty() { name } else { format!("{under}/{name}") };
            entries.push(Entry { name, size_bytes: metadata.len(), is_directory: metadata.is_dir() });
        }
        entries.sort();
        Ok(entries)
    }

    fn open(&self, name: &str) -> Result<Arc<dyn ReadAt>> {
        Ok(Arc::new(LocalFile::open(&self.resolve(name)?)?))
    }

    fn directory(&self) -> Option<&Path> {
        Some(&self.root)
    }
}
