//! The lock file: what it asks of a fetch, and what a fetch writes into it.

use super::{Fetched, Work};
use crate::error::{Error, ErrorKind, Result};
use crate::fetch::choose::Wishes;
use crate::fetch::hash::{self, Kind};
use crate::fetch::store::{self, Store};
use crate::fetch::transfer::Digest;
use crate::lock::{self, Lock};
use crate::source::hub::api::TreeFile;
use crate::source::hub::cache::is_commit;
use crate::text::Shown;
use std::collections::HashMap;

impl Work<'_> {
    /// The lock file as it is, and what it holds of this source where that binds.
    pub(super) fn lock_file(&self, wishes: &Wishes) -> Result<(Lock, Option<lock::Source>)> {
        let Some(path) = &self.options.lock else {
            return match self.options.locked {
                true => Err(Error::usage("--locked needs a lock file: --lock FILE")),
                false => Ok(Default::default()),
            };
        };
        let lock = match Lock::read(path) {
            Err(e) if e.kind() == ErrorKind::NotFound && !self.options.locked => Lock::default(),
            read => read?,
        };
        if !self.options.locked {
            return Ok((lock, None));
        }
        let like = self.source(wishes, None);
        let found = lock.find(&like).cloned().ok_or_else(|| {
            let message = format!("`{}`, asked for like this, is not in the lock file", Shown(&like.uri));
            Error::new(ErrorKind::Integrity, message)
                .file(path.display().to_string())
                .hint("without --locked it is added")
        })?;
        Ok((lock, Some(found)))
    }

    pub(super) fn source(&self, wishes: &Wishes, commit: Option<&str>) -> lock::Source {
        lock::Source {
            uri: self.wish.uri(),
            commit: commit.map(str::to_owned),
            include: wishes.include.clone(),
            exclude: wishes.exclude.clone(),
            all: wishes.all,
            files: Vec::new(),
        }
    }

    /// Refuses what may not be fetched, and gives the hashes that the lock file adds.
    pub(super) fn compare<'a>(
        &self,
        chosen: &[&'a TreeFile],
        locked: Option<&lock::Source>,
        commit: &str,
        is_listed: bool,
    ) -> Result<HashMap<&'a str, Digest>> {
        // Of objects that were listed a lock file tells the hash. A mirror that lists nothing may not be what is locked.
        if if locked.is_some() { !is_listed } else { self.options.require_hash } {
            let unverified = chosen.iter().find(|f| store::expected(f).is_none());
            if let Some(file) = unverified {
                let flag = if locked.is_some() { "--locked" } else { "--require-hash" };
                return Err(Error::new(
                    ErrorKind::Integrity,
                    format!("`{}` cannot be verified: no listing tells its hash", Shown(&file.path)),
                )
                .detail(format!("{flag} refuses it"))
                .hint("fetch from a hub that lists its files"));
            }
        }
        let Some(locked) = locked else { return Ok(HashMap::new()) };
        let is = |path: &str| locked.files.iter().find(|f| f.path == path);
        // Git's SHA-1 is not what the lock file holds: those files are compared when their bytes are there.
        let found = lock::Source {
            commit: Some(commit.to_owned()),
            files: chosen
                .iter()
                .map(|f| lock::File {
                    path: f.path.clone(),
                    size: f.size_bytes,
                    sha256: f
                        .sha256
                        .clone()
                        .or_else(|| Some(is(&f.path)?.sha256.clone()))
                        .unwrap_or_default(),
                })
                .collect(),
            ..locked.clone()
        };
        locked.check(&found)?;
        let rev = &self.wish.repo.revision;
        if is_commit(rev) && rev != commit {
            let message = format!("commit {rev} is asked for and {commit} is locked");
            return Err(Error::new(ErrorKind::Integrity, message));
        }
        Ok(chosen
            .iter()
            .filter_map(|f| Some((f.path.as_str(), hash::from_hex(&is(&f.path)?.sha256)?)))
            .collect())
    }

    /// The entry of the lock file, with the SHA-256 of each file.
    pub(super) fn locked(
        &self,
        store: &Store,
        wishes: &Wishes,
        fetched: &mut Fetched,
    ) -> Result<lock::Source> {
        let mut files = Vec::with_capacity(fetched.files.len());
        for file in &mut fetched.files {
            if file.sha256.is_none() {
                let digest = hash::of_file(&store.path().join(&file.path), Kind::Sha256, self.control)?;
                file.sha256 = Some(digest.to_string());
            }
            files.push(lock::File {
                path: file.path.clone(),
                size: file.size_bytes,
                sha256: file.sha256.clone().unwrap_or_default(),
            });
        }
        Ok(lock::Source { files, ..self.source(wishes, Some(&fetched.commit)) })
    }
}
