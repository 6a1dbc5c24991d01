//! What is known of a repo before anything is moved: its commit, its listing, what of it is wanted.

use super::{Work, differs};
use crate::error::{Error, Result};
use crate::fetch::choose::{self, Choice, Selection, Wishes};
use crate::fetch::hash;
use crate::fetch::store::{self, Found, Store, listing};
use crate::format::shards::INDEX_BYTES_MAX;
use crate::lock;
use crate::source::Entry;
use crate::source::hub::api::{Tree, TreeFile};
use crate::source::hub::cache::{is_commit, is_etag};
use crate::source::ranged::Patience;
use crate::text::{Shown, grouped};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

impl Work<'_> {
    /// The commit: the locked one, the one that is named, the hub's, offline the cache's.
    pub(super) fn commit(&self, locked: Option<&lock::Source>) -> Result<String> {
        let repo = &self.wish.repo;
        let locked = locked.and_then(|l| l.commit.as_deref());
        if let Some(commit) = locked {
            if !is_commit(commit) {
                return Err(Error::bad_input(format!("the lock file's commit `{}` is none", Shown(commit))));
            }
            return Ok(commit.to_owned());
        }
        if is_commit(&repo.revision) {
            return Ok(repo.revision.clone());
        }
        if let Some(hub) = self.hub {
            let commit = hub.commit(repo, &|| self.stop())?;
            return match is_commit(&commit) {
                true => Ok(commit),
                false => Err(Error::bad_input(format!(
                    "the hub says that `{}` is the commit `{}`, which is none",
                    Shown(&repo.revision),
                    Shown(&commit)
                ))),
            };
        }
        let known = match &self.options.cache {
            Some(cache) => cache.commit(repo)?,
            None => None,
        };
        known.ok_or_else(|| {
            let place =
                self.options.cache.as_ref().map(|c| c.root().display().to_string()).unwrap_or_default();
            let message =
                format!("revision `{}` is not in the cache at `{}`", Shown(&repo.revision), Shown(&place));
            Error::not_found(message).hint("without --offline it is fetched")
        })
    }

    /// The listing: from disk, for a commit never changes; else the hub's; offline, what is there.
    pub(super) fn tree(&self, store: &Store, commit: &str) -> Result<Tree> {
        let known = || store.listings().iter().find_map(|path| listing::read(path));
        let mut tree = match self.hub {
            Some(hub) => match if self.options.refresh { None } else { known() } {
                Some(files) => Tree { files, is_listed: true },
                None => hub.tree(&self.wish.repo, commit, &|| self.stop())?,
            },
            None => match known() {
                Some(files) => Tree { files, is_listed: true },
                None => Tree { files: on_disk(&store.path())?, is_listed: false },
            },
        };
        // The hub's order and that of a listing on disk differ.
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        store::check_listing(&tree.files)?;
        if tree.files.is_empty() {
            return Err(match self.hub {
                Some(_) => Error::not_found("the repo has no files"),
                None => Error::not_found(format!("commit {commit} is not in the cache"))
                    .hint("without --offline it is fetched"),
            });
        }
        Ok(tree)
    }

    pub(super) fn choose(
        &self,
        tree: &Tree,
        store: &Store,
        commit: &str,
        wishes: &Wishes,
        fresh: &mut BTreeMap<String, Vec<u8>>,
    ) -> Result<Selection> {
        let entry =
            |f: &TreeFile| Entry { name: f.path.clone(), size_bytes: f.size_bytes, is_directory: false };
        let entries: Vec<Entry> = tree.files.iter().map(entry).collect();
        // Python notes the same when it is asked for a file that is not there.
        for name in wishes.include.iter().filter(|p| choose::is_plain(p)) {
            if !self.options.dry_run && tree.is_listed && !entries.iter().any(|e| e.name == *name) {
                store::check_listing(&[TreeFile {
                    path: name.clone(),
                    size_bytes: 0,
                    blob_id: None,
                    sha256: None,
                    xet_hash: None,
                }])?;
                store.note_absent(name);
            }
        }
        let mut read = BTreeMap::new();
        loop {
            let wanted = match choose::choose(&entries, wishes, &read)? {
                Choice::Made(selection) => return Ok(selection),
                Choice::Read(names) => names,
            };
            for name in wanted {
                let file = tree.files.iter().find(|f| f.path == name);
                let file = file.ok_or_else(|| Error::bug(format!("`{name}` is read and not listed")))?;
                let json = self.document(store, commit, file, fresh).map_err(|e| e.file(name.clone()))?;
                read.insert(name, json);
            }
        }
    }

    /// A small file that tells which others are needed: from disk, else from the hub, to be stored later.
    pub(super) fn document(
        &self,
        store: &Store,
        commit: &str,
        file: &TreeFile,
        fresh: &mut BTreeMap<String, Vec<u8>>,
    ) -> Result<Vec<u8>> {
        if file.size_bytes > INDEX_BYTES_MAX {
            return Err(Error::unsupported(format!(
                "has {} bytes; hoist reads up to {}",
                grouped(file.size_bytes),
                grouped(INDEX_BYTES_MAX)
            ))
            .hint("--all fetches everything without reading it"));
        }
        let at = match store.find(file, self.control)? {
            Found::Here | Found::Unnoted => Some(store.place(file)),
            Found::At(path) => Some(path),
            Found::Absent => None,
        };
        if let Some(path) = at {
            return std::fs::read(&path).map_err(|e| Error::io("cannot be read", e));
        }
        if let Some(bytes) = fresh.get(&file.path) {
            return Ok(bytes.clone());
        }
        let Some(hub) = self.hub else { return Err(self.incomplete(&[file])) };
        let from = hub.file(&self.wish.repo, commit, file)?;
        let size = usize::try_from(file.size_bytes).unwrap_or(usize::MAX);
        let mut patience = Patience::new(self.options.transfer.policy);
        let mut bytes: Vec<u8> = Vec::new();
        let stop = || self.stop();
        while bytes.len() < size {
            let mut piece = || -> Result<()> {
                let mut body = from.open(bytes.len() as u64..file.size_bytes, &stop)?;
                while let Some(piece) = body.next(&stop)? {
                    bytes.extend_from_slice(&piece);
                }
                Ok(())
            };
            if let Err(e) = piece() {
                patience.wait(e, &stop)?;
            }
        }
        if let Some(expected) = store::expected(file) {
            let found = hash::of_bytes(&bytes, hash::kind(&expected));
            if found != expected {
                return Err(differs(&expected, &found));
            }
        }
        fresh.insert(file.path.clone(), bytes.clone());
        Ok(bytes)
    }
}

/// The files of a snapshot of which no listing is known.
fn on_disk(root: &Path) -> Result<Vec<TreeFile>> {
    const FILES_MAX: usize = 1_000_000;
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let entries = match std::fs::read_dir(root.join(&folder)) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => {
                return Err(Error::io("cannot be listed", e).file(root.join(&folder).display().to_string()));
            }
        };
        for entry in entries.flatten() {
            let path = folder.join(entry.file_name());
            let Ok(metadata) = std::fs::metadata(entry.path()) else { continue };
            // What is noted about the files of a folder is none of them.
            if metadata.is_dir() && path != Path::new(".cache") {
                folders.push(path);
            } else if let (true, Some(name)) = (metadata.is_file(), path.to_str()) {
                // In a cache the blob is called by its hash.
                let target = std::fs::read_link(entry.path()).ok();
                let etag = target.and_then(|t| Some(t.file_name()?.to_str()?.to_owned()));
                let etag = |len| etag.clone().filter(|e| is_etag(e) && e.len() == len);
                files.push(TreeFile {
                    path: name.to_owned(),
                    size_bytes: metadata.len(),
                    blob_id: etag(40),
                    sha256: etag(64),
                    xet_hash: None,
                });
            }
        }
        if files.len() > FILES_MAX {
            return Err(Error::bad_input("holds more files than any repo").file(root.display().to_string()));
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}
