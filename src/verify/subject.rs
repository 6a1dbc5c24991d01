//! What is verified: a model, how it computes, and the tensors it needs under the names by which it computes.

use crate::error::Result;
use crate::open::Model;
use crate::transform::arch::families::Family;
use crate::transform::arch::forward::Forward;
use crate::transform::recipe::Recipe;
use crate::transform::task::Task;
use serde_json::Value as Json;
use std::sync::Arc;

/// A model, and all that is known of it before a weight is read.
#[derive(Debug)]
pub struct Subject {
    /// Its name, for messages.
    pub name: String,
    /// Its files.
    pub model: Arc<Model>,
    /// Its `config.json`, made of the keys where it is a GGUF.
    pub config: Json,
    /// Its family.
    pub family: &'static Family,
    /// How it computes.
    pub forward: Forward,
    /// What it is for.
    pub task: Task,
    /// Each tensor that the forward pass needs (`blk.0.attn_q.weight`, see [`crate::transform::arch::forward`]), and what
    /// it is made of. An output's dtype is that of its values: what the file has.
    pub recipe: Recipe,
    /// What a person should know.
    pub notes: Vec<String>,
}

impl Subject {
    /// Of an opened model.
    ///
    /// # Errors
    /// `Unsupported`: a family, a task or a construct that no row says. `BadInput`: tensors missing, too many, or of the
    /// wrong shape; a config that contradicts itself.
    pub fn of(model: Model) -> Result<Subject> {
        let _ = model;
        Err(crate::error::Error::bug("not yet"))
    }
}
