//! The cache: blobs by their hash, and snapshots that link to them.

use super::{Found, PARTIAL, TreeFile, etag, write};
use crate::error::Result;
use crate::fetch::transfer::Digest;
use crate::source::hub::cache::{Cache, Paths, Repo, is_commit};
use sha2::Digest as _;
use std::path::{Path, PathBuf};

/// One commit of a repo in a cache.
#[derive(Debug)]
pub(in crate::fetch) struct Cached {
    paths: Paths,
    commit: String,
    links: bool,
}

/// Whether a file of this size is at a path, or where the link there leads.
fn is_file_of(path: &Path, size_bytes: u64) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() == size_bytes)
}

impl Cached {
    pub(super) fn new(cache: &Cache, repo: &Repo, commit: &str, links: bool) -> Cached {
        Cached { paths: cache.paths(repo), commit: commit.to_owned(), links }
    }

    pub(super) fn snapshot(&self) -> PathBuf {
        self.paths.snapshot(&self.commit)
    }

    pub(super) fn listings(&self) -> [PathBuf; 2] {
        [self.paths.tree(&self.commit), self.paths.partial_tree(&self.commit)]
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.paths.blobs()
    }

    fn pointer(&self, file: &TreeFile) -> PathBuf {
        self.snapshot().join(&file.path)
    }

    /// By name and size: what has its final name was right when it got it. `hoist cache verify` reads it again. A blob that
    /// is a link leads to the cache's store of blobs that repos share.
    pub(super) fn find(&self, file: &TreeFile) -> Found {
        let blob = etag(file).map(|etag| self.paths.blob(etag));
        let pointer = self.pointer(file);
        let real = std::fs::canonicalize(&pointer).ok();
        // A link to another blob than the one that is meant would be a file of other contents.
        let is_meant = match (&blob, std::fs::read_link(&pointer)) {
            (Some(blob), Ok(_)) => real.is_some() && real == std::fs::canonicalize(blob).ok(),
            _ => true,
        };
        if is_meant && is_file_of(&pointer, file.size_bytes) {
            return Found::Here;
        }
        match blob {
            Some(blob) if is_file_of(&blob, file.size_bytes) => Found::At(blob),
            _ => Found::Absent,
        }
    }

    pub(super) fn prepare(&self) -> Result<()> {
        write::make_folder(&self.blobs())?;
        write::make_folder(&self.snapshot())?;
        super::write_tag(&self.paths.root)
    }

    pub(super) fn partial(&self, file: &TreeFile) -> PathBuf {
        let name = match etag(file) {
            Some(etag) => etag.to_owned(),
            // A path of a commit is the same bytes each time.
            None => {
                let path = format!("{}/{}", self.commit, file.path);
                Digest::Sha256(sha2::Sha256::digest(path.as_bytes()).into()).to_string()
            }
        };
        self.blobs().join(name + PARTIAL)
    }

    pub(super) fn lock(&self, file: &TreeFile) -> Option<PathBuf> {
        etag(file).map(|etag| self.paths.lock(etag))
    }

    pub(super) fn settle(&self, file: &TreeFile, partial: &Path, digest: &Digest) -> Result<()> {
        let found = digest.to_string();
        // What the listing does not name is called by the hash that was found.
        let blob = self.paths.blob(etag(file).unwrap_or(&found));
        let pointer = self.pointer(file);
        if !self.links {
            return write::rename(partial, &pointer);
        }
        write::rename(partial, &blob)?;
        match write::link(&blob, &pointer)? {
            true => Ok(()),
            // As Python does where there are no links: the file itself.
            false => write::rename(&blob, &pointer),
        }
    }

    pub(super) fn adopt(&self, file: &TreeFile, blob: &Path) -> Result<()> {
        let pointer = self.pointer(file);
        match self.links && write::link(blob, &pointer)? {
            true => Ok(()),
            false => write::copy(blob, &pointer),
        }
    }

    /// Writes which commit the revision stands for, unless the cache says so already.
    pub(super) fn refer(&self, repo: &Repo) -> Result<()> {
        let path = self.paths.reference(&repo.revision);
        let is_there = || std::fs::read(&path).is_ok_and(|text| text == self.commit.as_bytes());
        match is_commit(&repo.revision) || is_there() {
            true => Ok(()),
            false => write::write_whole(&path, self.commit.as_bytes()),
        }
    }

    pub(super) fn note_absent(&self, name: &str) {
        let path = self.paths.no_exist(&self.commit, name);
        if !path.exists() {
            // It only spares Python a request.
            let _ = write::write_whole(&path, b"");
        }
    }
}
