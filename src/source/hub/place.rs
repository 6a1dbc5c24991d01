//! A repo at a commit as a place: what it has, and readers of its files, without a local copy.

use super::super::ahead::Ahead;
use super::super::ranged::{Policy, Ranged};
use super::super::{Entry, Place, ReadAt};
use super::api::{Hub, Tree, TreeFile};
use super::cache::Repo;
use crate::error::{Error, Result};
use crate::source::local::check_relative;
use crate::text::Shown;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

/// What stands between a repo's files and their readers.
pub trait Through: Send + Sync + Debug {
    /// A file as its readers see it.
    fn through(&self, repo: &Repo, commit: &str, file: &TreeFile, from: Arc<dyn Ranged>) -> Arc<dyn Ranged>;
}

/// A repo at a commit.
#[derive(Debug)]
pub struct HubPlace {
    hub: Hub,
    repo: Repo,
    commit: String,
    tree: Tree,
    policy: Policy,
    through: Option<Arc<dyn Through>>,
}

impl HubPlace {
    /// The repo at this commit, whose listing is `tree`; what fails is tried again as `policy` says.
    pub fn new(hub: Hub, repo: Repo, commit: impl Into<String>, tree: Tree, policy: Policy) -> HubPlace {
        HubPlace { hub, repo, commit: commit.into(), tree, policy, through: None }
    }

    /// With something between its files and their readers.
    pub fn through(self, through: Option<Arc<dyn Through>>) -> HubPlace {
        HubPlace { through, ..self }
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
        let file = self.file(name)?;
        let mut from = self.hub.file(&self.repo, &self.commit, file);
        if let Some(through) = &self.through {
            from = through.through(&self.repo, &self.commit, file, from);
        }
        Ok(Arc::new(Ahead::new(from, self.policy)))
    }
}
