//! Importance: how much the error of each input channel counts. llama.cpp's imatrix (mean squares of the activations that reach
//! a matrix), or numbers of anybody's making, by the tensor's name.

use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Importance of a model's input channels.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Importance {
    /// The file that it comes from, as a person named it.
    pub file: String,
    /// The texts that it was measured on.
    pub datasets: Vec<String>,
    /// In how many chunks.
    pub chunk_count: Option<u32>,
    /// By the tensor's name as the file has it.
    pub entries: BTreeMap<String, Entry>,
}

/// Importance of one tensor's input channels.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// `[matrices, columns]`, row-major.
    pub weights: Arc<[f32]>,
    /// Matrices of the tensor: experts, else 1.
    pub matrix_count: u64,
}

impl Importance {
    /// What a GGUF says of the importance that it was made with.
    pub fn keys(&self) -> Vec<(String, crate::checkpoint::MetaValue)> {
        Vec::new()
    }

    /// That of a GGUF's tensor of so many matrices and columns, `[matrices, columns]`; `None` where the file says nothing of it.
    ///
    /// # Errors
    /// `BadInput`: it is for other sizes.
    pub fn of_gguf(&self, name: &str, matrix_count: u64, columns: u64) -> Result<Option<Arc<[f32]>>> {
        let Some(entry) = self.entries.get(name) else { return Ok(None) };
        let wanted = matrix_count.saturating_mul(columns);
        if entry.weights.len() as u64 != wanted {
            return Err(Error::bad_input(format!(
                "has importance for {} channels, and {wanted} are needed",
                entry.weights.len()
            ))
            .tensor(name)
            .file(self.file.as_str())
            .hint("it was measured on another model"));
        }
        Ok(Some(entry.weights.clone()))
    }
}
