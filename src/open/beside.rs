//! What lies beside the weights: small files, read when asked for, and the description of the model that they give.
//! All of it is optional and hostile; what cannot be read is a note.

use super::Model;
use crate::checkpoint::Container;
use crate::error::{Error, Result};
use crate::source::Entry;
use crate::text::grouped;
use crate::transform::config::Description;
use serde_json::Value;

/// The most bytes of a config that are read.
const CONFIG_BYTES_MAX: u64 = 8 << 20;
/// Folders in folders.
const FOLDER_DEPTH_MAX: usize = 8;
/// Files beside the weights.
const ENTRIES_MAX: usize = 10_000;

impl Model {
    /// Whether a file of this name lies beside the weights.
    pub fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|e| e.name == name && !e.is_directory)
    }

    /// Every file of the model's place, its subfolders' too, by its path in it; bounded in depth and number.
    ///
    /// # Errors
    /// What listing says; unsupported where there are more than anything that is a model has.
    pub fn all_entries(&self) -> Result<Vec<Entry>> {
        let mut files = Vec::new();
        let mut folders: Vec<(Entry, usize)> = Vec::new();
        let mut sort = |entries: Vec<Entry>, depth: usize, folders: &mut Vec<(Entry, usize)>| {
            for entry in entries {
                match entry.is_directory {
                    true if depth < FOLDER_DEPTH_MAX => folders.push((entry, depth)),
                    true => {}
                    false => files.push(entry),
                }
            }
            files.len()
        };
        sort(self.entries.clone(), 0, &mut folders);
        while let Some((folder, depth)) = folders.pop() {
            let count = sort(self.place.list(&folder.name)?, depth + 1, &mut folders);
            if count + folders.len() > ENTRIES_MAX {
                return Err(Error::unsupported(format!("more than {ENTRIES_MAX} files beside the weights"))
                    .hint("--only-model leaves them where they are"));
            }
        }
        files.sort();
        Ok(files)
    }

    /// The bytes of a file beside the weights, `None` where there is none.
    ///
    /// # Errors
    /// Unsupported where it is larger than `size_bytes_max`; what opening and reading it say.
    pub fn companion(&self, name: &str, size_bytes_max: u64) -> Result<Option<Vec<u8>>> {
        if !self.has(name) {
            return Ok(None);
        }
        let file = self.place.open(name)?;
        let size_bytes = file.size_bytes();
        if size_bytes > size_bytes_max {
            let message =
                format!("has {} bytes; hoist reads up to {}", grouped(size_bytes), grouped(size_bytes_max));
            return Err(Error::unsupported(message).file(name));
        }
        let mut bytes = vec![0; usize::try_from(size_bytes).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0).map_err(|e| e.file(name))?;
        Ok(Some(bytes))
    }

    /// A JSON file beside the weights; one that cannot be read is a note.
    pub fn companion_json(&self, name: &str, notes: &mut Vec<String>) -> Option<Value> {
        let bytes = match self.companion(name, CONFIG_BYTES_MAX) {
            Ok(bytes) => bytes?,
            Err(e) => {
                notes.push(e.to_string());
                return None;
            }
        };
        match serde_json::from_slice(&bytes) {
            Ok(value) => Some(value),
            Err(e) => {
                notes.push(format!("{name}: is not JSON: {e}"));
                None
            }
        }
    }

    /// The description: a GGUF's own keys, else `config.json`, else the class in a pipeline's `model_index.json`.
    pub fn description(&self, notes: &mut Vec<String>) -> Description {
        if self.table.files.iter().any(|f| f.container == Container::Gguf)
            && let Some(description) = Description::from_gguf(&self.table.meta)
        {
            return description;
        }
        if let Some(config) = self.companion_json("config.json", notes) {
            return Description::from_config(&config);
        }
        let mut description = Description::default();
        if let Some(index) = self.companion_json("model_index.json", notes) {
            description.family = index.get("_class_name").and_then(Value::as_str).map(str::to_owned);
        }
        description
    }
}
