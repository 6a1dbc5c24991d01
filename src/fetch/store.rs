//! Where fetched files go: the cache that huggingface_hub shares (`store/cached.rs`), or a folder of the user's
//! (`store/folder.rs`), in each case as Python's library leaves it, so that what one fetched the other opens.
//!
//! A file gets its final name by one rename, after its bytes are on the disk and their hash is right. Until then it has a name
//! that Python never looks at; what Python left half done is never taken up, since nothing says what of it is right.

mod cached;
mod folder;
pub(super) mod held;
pub(super) mod listing;
mod write;

use super::hash;
use super::transfer::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::run::job::Control;
use crate::source::hub::api::TreeFile;
use crate::source::hub::cache::{Cache, Repo};
use crate::source::local::check_relative;
use crate::text::Shown;
use cached::Cached;
use folder::Folder;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The end of the names of files that are not whole yet. Python's end in `.incomplete` alone.
pub(super) const PARTIAL: &str = ".hoist-incomplete";

/// What is there of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// The file, under its name.
    Here,
    /// The same bytes at another place of this machine, from which it is linked or copied.
    At(PathBuf),
    /// The file, without the note that says which it is.
    Unnoted,
    /// Nothing that counts.
    Absent,
}

/// Where the files of one commit go.
#[derive(Debug)]
pub(super) enum Store {
    Cache(Cached),
    Folder(Folder),
}

impl Store {
    /// The cache; `links` is whether it may hold links.
    pub(super) fn cache(cache: &Cache, repo: &Repo, commit: &str, links: bool) -> Store {
        Store::Cache(Cached::new(cache, repo, commit, links))
    }

    /// A folder; the cache, where there is one, serves as a source.
    pub(super) fn folder(root: &Path, cache: Option<&Cache>, repo: &Repo, commit: &str) -> Store {
        Store::Folder(Folder::new(root, cache.map(|c| Cached::new(c, repo, commit, false)), commit))
    }

    /// The directory that looks like the repo.
    pub(super) fn path(&self) -> PathBuf {
        match self {
            Store::Cache(cached) => cached.snapshot(),
            Store::Folder(folder) => folder.root().to_owned(),
        }
    }

    /// Where a file has its name.
    pub(super) fn place(&self, file: &TreeFile) -> PathBuf {
        self.path().join(&file.path)
    }

    /// Where the listing of the commit is kept, best first.
    pub(super) fn listings(&self) -> [PathBuf; 2] {
        match self {
            Store::Cache(cached) => cached.listings(),
            Store::Folder(folder) => folder.listings(),
        }
    }

    /// What is there of a file. May read it whole, where nothing says what it is.
    ///
    /// # Errors
    /// The system's, when a file that is there cannot be read. `Signal`: cancelled.
    pub(super) fn find(&self, file: &TreeFile, control: &Control) -> Result<Found> {
        match self {
            Store::Cache(cached) => Ok(cached.find(file)),
            Store::Folder(folder) => folder.find(file, control),
        }
    }

    /// Whether the bytes of a file are in the cache. Nothing is read for that.
    pub(super) fn is_cached(&self, file: &TreeFile) -> bool {
        match self {
            Store::Cache(cached) => cached.find(file) != Found::Absent,
            Store::Folder(_) => false,
        }
    }

    /// Makes what every later call needs. A place where nothing has to be written is not touched.
    ///
    /// # Errors
    /// `NotAllowed`, `NoSpace`, `Io`: the system's.
    pub(super) fn prepare(&self) -> Result<()> {
        match self {
            Store::Cache(cached) => cached.prepare(),
            Store::Folder(folder) => folder.prepare(),
        }
    }

    /// Where the bytes of a file are gathered: the same name in each run, unless `unique`.
    pub(super) fn partial(&self, file: &TreeFile, unique: bool) -> PathBuf {
        let path = match self {
            Store::Cache(cached) => cached.partial(file),
            Store::Folder(folder) => folder.partial(file),
        };
        match unique {
            true => write::beside(&path),
            false => path,
        }
    }

    /// What is locked while a file is written, and the folder in which its writer leaves traces.
    pub(super) fn lock(&self, file: &TreeFile) -> Option<PathBuf> {
        match self {
            Store::Cache(cached) => cached.lock(file),
            Store::Folder(folder) => Some(folder.lock(file)),
        }
    }

    /// Where writers leave traces of their work.
    pub(super) fn workshop(&self) -> PathBuf {
        match self {
            Store::Cache(cached) => cached.blobs(),
            Store::Folder(folder) => folder.workshop(),
        }
    }

    /// Gives a file its name: its bytes are at `partial`, on the disk, and have this hash.
    pub(super) fn settle(&self, file: &TreeFile, partial: &Path, digest: &Digest) -> Result<()> {
        match self {
            Store::Cache(cached) => cached.settle(file, partial, digest),
            Store::Folder(folder) => folder.settle(file, partial, digest),
        }
    }

    /// Writes a small file whose bytes are here and right.
    pub(super) fn put(&self, file: &TreeFile, bytes: &[u8], digest: &Digest) -> Result<()> {
        let partial = self.partial(file, true);
        write::write_lasting(&partial, bytes)?;
        self.settle(file, &partial, digest)
    }

    /// Gives a file its name that was found elsewhere, or the note that it lacks.
    pub(super) fn adopt(&self, file: &TreeFile, found: &Found) -> Result<()> {
        match (self, found) {
            (_, Found::Here | Found::Absent) => Ok(()),
            (Store::Cache(cached), Found::At(blob)) => cached.adopt(file, blob),
            (Store::Folder(folder), Found::At(path)) => folder.copy(file, path),
            (Store::Folder(folder), Found::Unnoted) => folder.note(file, None),
            (Store::Cache(_), Found::Unnoted) => Ok(()),
        }
    }

    /// Ends a fetch: directories on the disk, the listing, the ref. What cannot be written here is said and no more: the
    /// files are there.
    ///
    /// # Errors
    /// `NoSpace`: without the ref nobody would find them by the name that they were asked for by.
    pub(super) fn finish(&self, repo: &Repo, files: Option<&[TreeFile]>, whole: bool) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        let mut note = |result: Result<()>| notes.extend(result.err().map(|e| e.to_string()));
        if let Some(files) = files {
            let [full, partial] = self.listings();
            match whole {
                true if !full.exists() => note(listing::write(&full, files)),
                false if !full.exists() && !partial.exists() => note(listing::write(&partial, files)),
                _ => {}
            }
        }
        if let Store::Cache(cached) = self {
            let referred = cached.refer(repo);
            match referred {
                Err(e) if e.kind() == ErrorKind::NoSpace => return Err(e),
                other => note(other),
            }
        }
        Ok(notes)
    }

    /// Brings the names of these files onto the disk.
    pub(super) fn sync<'a>(&self, files: impl Iterator<Item = &'a TreeFile>) {
        let folders: BTreeSet<PathBuf> = files
            .filter_map(|f| self.place(f).parent().map(Path::to_owned))
            .chain([self.workshop()])
            .collect();
        folders.iter().for_each(|folder| write::sync_folder(folder));
    }

    /// Notes that the repo has no such file, where Python looks for that.
    pub(super) fn note_absent(&self, name: &str) {
        if let Store::Cache(cached) = self {
            cached.note_absent(name);
        }
    }
}

/// What a file's blob is called: its SHA-256, else git's SHA-1. `None` where the listing tells neither.
pub(super) fn etag(file: &TreeFile) -> Option<&str> {
    file.sha256.as_deref().or(file.blob_id.as_deref())
}

/// The hash that the listing expects of a file.
pub(super) fn expected(file: &TreeFile) -> Option<Digest> {
    etag(file).and_then(hash::from_hex)
}

/// The tag that tells backup tools to pass a directory by (bford.info/cachedir).
fn write_tag(folder: &Path) -> Result<()> {
    const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
        # This folder is a cache of model files, shared by hoist and huggingface_hub.\n\
        # What the tag means: https://bford.info/cachedir/\n";
    let path = folder.join("CACHEDIR.TAG");
    match path.exists() {
        true => Ok(()),
        false => write::write_whole(&path, TAG.as_bytes()),
    }
}

/// Refuses a listing that could not be laid out as files without harm: names that leave the place or mean something to
/// other programs, one name twice, a file where another needs a folder, hashes that are none.
///
/// # Errors
/// `BadInput`, naming the file.
pub(super) fn check_listing(files: &[TreeFile]) -> Result<()> {
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for file in files {
        let refuse = |why: &str| {
            let message = format!("the hub lists `{}`, {why}", Shown(&file.path));
            Err(Error::bad_input(message).detail("no file of this repo is fetched"))
        };
        check_relative(&file.path).map_err(|e| e.detail("no file of this repo is fetched"))?;
        let parts: Vec<&str> = file.path.split('/').collect();
        if parts.iter().any(|part| matches!(*part, "" | "." | "..") || part.len() > 255) {
            return refuse("which is no path of a file");
        }
        let lower = |i: usize| parts.get(i).map(|p| p.to_ascii_lowercase());
        if parts.iter().any(|part| part.eq_ignore_ascii_case(".git")) {
            return refuse("a name that git would take for its own");
        }
        if lower(0).as_deref() == Some(".cache") && lower(1).as_deref() == Some("huggingface") {
            return refuse("a name in the place of what is noted about files");
        }
        let is_hex = |text: &String, len: usize| {
            text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        if file.sha256.as_ref().is_some_and(|h| !is_hex(h, 64))
            || file.blob_id.as_ref().is_some_and(|h| !is_hex(h, 40))
        {
            return refuse("with a hash that is none");
        }
        if !names.insert(&file.path) {
            return refuse("twice");
        }
    }
    for file in files {
        let above = file.path.match_indices('/').filter_map(|(at, _)| file.path.get(..at));
        if let Some(folder) = above.into_iter().find(|folder| names.contains(folder)) {
            let message = format!("the hub lists `{}` as a file and as a folder", Shown(folder));
            return Err(Error::bad_input(message).detail("no file of this repo is fetched"));
        }
    }
    Ok(())
}
