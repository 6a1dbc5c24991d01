//! From the name of a model to its table: the only place that joins a source to a format.

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::source::{Entry, Place, ReadAt};
use std::sync::Arc;

/// How to open.
#[derive(Debug, Clone, Default)]
pub struct Options {}

/// An opened model: the table, the files its spans point into, and what lies beside them.
#[derive(Debug)]
pub struct Model {
    /// A short name for a person: the directory's or the repo's.
    pub name: String,
    /// The table.
    pub table: Checkpoint,
    /// The files, in the order of [`Checkpoint::files`].
    pub files: Vec<Arc<dyn ReadAt>>,
    /// What lies beside the weights: where configs, tokenizers and templates are opened by name.
    pub place: Arc<dyn Place>,
    /// The names in that place.
    pub entries: Vec<Entry>,
    /// The commit, for a repo from the hub's cache.
    pub commit: Option<String>,
}

/// Opens what `model` names.
pub fn open(_model: &str, _options: &Options) -> Result<Model> {
    Err(Error::unsupported("not yet"))
}
