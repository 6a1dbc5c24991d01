//! A repo at a commit as a place: what it has, and readers of its files, without a local copy.

use super::super::ranged::{Patience, Policy, Ranged};
use super::super::{Entry, Place, ReadAt, Temper};
use super::api::{Hub, Tree, TreeFile};
use super::cache::Repo;
use crate::error::{Error, Result};
use crate::source::local::{LocalFile, check_relative};
use crate::text::Shown;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A repo at a commit.
#[derive(Debug)]
pub struct HubPlace {
    hub: Hub,
    repo: Repo,
    commit: String,
    tree: Tree,
    policy: Policy,
}

impl HubPlace {
    /// The repo at this commit, whose listing is `tree`; what fails is tried again as `policy` says.
    pub fn new(hub: Hub, repo: Repo, commit: impl Into<String>, tree: Tree, policy: Policy) -> HubPlace {
        HubPlace { hub, repo, commit: commit.into(), tree, policy }
    }

    /// The commit.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// The listing.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    fn file(&self, name: &str) -> Result<&TreeFile> {
        check_relative(name)?;
        let name = name.trim_start_matches("./");
        self.tree.files.iter().find(|file| file.path == name).ok_or_else(|| {
            let message = format!("has no file `{}` at commit `{}`", Shown(name), self.commit);
            Error::not_found(message).file(self.repo.id.clone())
        })
    }
}

impl Place for HubPlace {
    fn list(&self, under: &str) -> Result<Vec<Entry>> {
        let prefix = match under {
            "" => String::new(),
            under => format!("{}/", under.trim_end_matches('/')),
        };
        let mut entries = BTreeMap::new();
        for file in &self.tree.files {
            let Some(rest) = file.path.strip_prefix(&prefix) else { continue };
            let (name, size_bytes, is_directory) = match rest.split_once('/') {
                Some((directory, _)) => (format!("{prefix}{directory}"), 0, true),
                None => (file.path.clone(), file.size_bytes, false),
            };
            entries.insert(name.clone(), Entry { name, size_bytes, is_directory });
        }
        if entries.is_empty() && !under.is_empty() {
            let message = format!("has no folder `{}` at commit `{}`", Shown(under), self.commit);
            return Err(Error::not_found(message).file(self.repo.id.clone()));
        }
        Ok(entries.into_values().collect())
    }

    fn open(&self, name: &str) -> Result<Arc<dyn ReadAt>> {
        let from = self.hub.file(&self.repo, &self.commit, self.file(name)?);
        Ok(Arc::new(Plain { from, policy: self.policy }))
    }
}

/// Reads by a request each.
#[derive(Debug)]
struct Plain {
    from: Arc<dyn Ranged>,
    policy: Policy,
}

impl ReadAt for Plain {
    fn size_bytes(&self) -> u64 {
        self.from.size_bytes()
    }

    fn read_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<usize> {
        let left = self.size_bytes().saturating_sub(offset_bytes).min(buf.len() as u64) as usize;
        let mut patience = Patience::new(self.policy);
        let mut done = 0;
        while done < left {
            let range = offset_bytes + done as u64..offset_bytes + left as u64;
            let mut read = || {
                let mut body = self.from.open(range.clone(), &|| false)?;
                while let Some(piece) = body.next(&|| false)? {
                    buf[done..done + piece.len()].copy_from_slice(&piece);
                    done += piece.len();
                }
                Ok(())
            };
            if let Err(error) = read() {
                patience.wait(error, &|| false)?;
            }
        }
        Ok(left)
    }

    fn temper(&self) -> Temper {
        Temper { gap_bytes_max: 1 << 20, depth: 16, network: true }
    }

    fn as_local(&self) -> Option<&LocalFile> {
        None
    }
}
