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

/// The most files and folders of a model's folder that are listed: a home directory named by mistake is refused, not
/// walked through.
const LISTED_MAX: usize = 20_000;

/// The most folders one in another; a link to the folder that it lies in has no end.
const DEPTH_MAX: usize = 16;

impl Model {
    /// All files of the model's place, folders included, sorted by name; `enter` says into which folders to look.
    ///
    /// # Errors
    /// Unsupported: more files, or deeper folders, than a model has. What listing gives.
    pub fn files_beside(&self, enter: &dyn Fn(&str) -> bool) -> Result<Vec<Entry>> {
        let mut files = Vec::new();
        let mut left: Vec<Entry> = self.entries.clone();
        let mut seen_count = left.len();
        while let Some(entry) = left.pop() {
            if !entry.is_directory {
                files.push(entry);
                continue;
            }
            if !enter(&entry.name) {
                continue;
            }
            if entry.name.matches('/').count() >= DEPTH_MAX {
                let message = format!("lies {DEPTH_MAX} folders deep, and holds more");
                return Err(Error::unsupported(message).file(entry.name).hint(
                    "is there a link to a folder above it? --only-model leaves everything beside the weights",
                ));
            }
            let inside = self.place.list(&entry.name)?;
            seen_count = seen_count.saturating_add(inside.len());
            if seen_count > LISTED_MAX {
                let message = format!("holds more than {} files and folders", grouped(LISTED_MAX as u64));
                return Err(Error::unsupported(message)
                    .file(self.name.clone())
                    .hint("--only-model leaves everything beside the weights"));
            }
            left.extend(inside);
        }
        files.sort();
        Ok(files)
    }

    /// Whether a file of this name lies beside the weights.
    pub fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|e| e.name == name && !e.is_directory)
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
