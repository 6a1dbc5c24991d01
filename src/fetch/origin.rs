//! Where files come from: a hub, or objects that have been listed.

use crate::error::{Error, Result};
use crate::source::Place;
use crate::source::hub::api::{Hub, Tree, TreeFile};
use crate::source::hub::cache::Repo;
use crate::source::ranged::{Ranged, Stop};
use sha2::Digest as _;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

/// Lists files at a commit and gives their bytes. For any number of threads.
pub trait Origin: Send + Sync + Debug {
    /// The commit of a revision: 40 hex digits.
    ///
    /// # Errors
    /// `NotFound`, `NotAllowed`, `RateLimited`, `Io`: after retries.
    fn commit(&self, repo: &Repo, stop: Stop<'_>) -> Result<String>;

    /// The files of a commit.
    ///
    /// # Errors
    /// As [`Origin::commit`]. `BadInput`: a listing that is refused.
    fn tree(&self, repo: &Repo, commit: &str, stop: Stop<'_>) -> Result<Tree>;

    /// The bytes of one of them.
    ///
    /// # Errors
    /// `NotFound`: it is none of them.
    fn file(&self, repo: &Repo, commit: &str, file: &TreeFile) -> Result<Arc<dyn Ranged>>;
}

impl Origin for Hub {
    fn commit(&self, repo: &Repo, stop: Stop<'_>) -> Result<String> {
        Hub::commit(self, repo, stop)
    }

    fn tree(&self, repo: &Repo, commit: &str, stop: Stop<'_>) -> Result<Tree> {
        Hub::tree(self, repo, commit, stop)
    }

    fn file(&self, repo: &Repo, commit: &str, file: &TreeFile) -> Result<Arc<dyn Ranged>> {
        Ok(Hub::file(self, repo, commit, file))
    }
}

/// Objects of a store or files of a web server, listed before. Commits they have none: what was listed, with its sizes and
/// versions, is called by a hash of it, so that what changes is another one.
#[derive(Debug)]
pub struct Objects {
    commit: String,
    files: BTreeMap<String, (TreeFile, Arc<dyn Ranged>)>,
}

/// The most objects below a folder, and the deepest.
const OBJECTS_MAX: usize = 100_000;
const DEPTH_MAX: usize = 32;

impl Objects {
    /// These objects, by their names. `sha256` is what a store says of one, if it does.
    pub fn new(objects: impl IntoIterator<Item = (String, Option<String>, Arc<dyn Ranged>)>) -> Objects {
        let file = |(path, sha256, from): (String, Option<String>, Arc<dyn Ranged>)| {
            let size_bytes = from.size_bytes();
            let file = TreeFile { path: path.clone(), size_bytes, blob_id: None, sha256, xet_hash: None };
            (path, (file, from))
        };
        let files: BTreeMap<_, _> = objects.into_iter().map(file).collect();
        let mut hash = sha2::Sha256::new();
        for (path, (file, from)) in &files {
            let version = from.version();
            hash.update(format!("{path:?} {} {:?} {version:?}\n", file.size_bytes, file.sha256));
        }
        let commit = hash.finalize().iter().take(20).map(|b| format!("{b:02x}")).collect();
        Objects { commit, files }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// All objects below a place. `open` gives one by its name.
    ///
    /// # Errors
    /// The place's. `BadInput`: more than any model has.
    pub fn below(place: &dyn Place, open: &dyn Fn(&str) -> Result<Arc<dyn Ranged>>) -> Result<Objects> {
        let mut objects = Vec::new();
        let mut folders = vec![(String::new(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            for entry in place.list(&folder)? {
                match entry.is_directory {
                    true if depth < DEPTH_MAX => folders.push((entry.name, depth + 1)),
                    true => {}
                    false => objects.push((entry.name.clone(), None, open(&entry.name)?)),
                }
            }
            if objects.len() > OBJECTS_MAX {
                return Err(Error::bad_input(format!("holds more than {OBJECTS_MAX} objects")));
            }
        }
        Ok(Objects::new(objects))
    }
}

impl Origin for Objects {
    fn commit(&self, _repo: &Repo, _stop: Stop<'_>) -> Result<String> {
        Ok(self.commit.clone())
    }

    fn tree(&self, _repo: &Repo, _commit: &str, _stop: Stop<'_>) -> Result<Tree> {
        let files = self.files.values().map(|(file, _)| file.clone()).collect();
        Ok(Tree { files, is_listed: true })
    }

    fn file(&self, _repo: &Repo, _commit: &str, file: &TreeFile) -> Result<Arc<dyn Ranged>> {
        let found = self.files.get(&file.path).map(|(_, from)| Arc::clone(from));
        found.ok_or_else(|| Error::not_found("is none of the objects").file(file.path.clone()))
    }
}
