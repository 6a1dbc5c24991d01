//! What lies beside the weights: small files, read when asked for, and the description of the model that they give.
//! All of it is optional and hostile; what cannot be read is a note.

use super::Model;
use crate::checkpoint::{Container, Tensor};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::source::Entry;
use crate::text::grouped;
use crate::transform::arch::keys;
use crate::transform::config::Description;
use crate::transform::values::{Values, values_with};
use hashbrown::HashMap;
use serde_json::Value;

/// The largest JSON file that decides something.
const JSON_BYTES_MAX: u64 = 64 << 20;

/// The most bytes of a tensor that decides something. Factors of a rotary embedding are a few hundred; what says how others
/// are packed is less.
const SMALL_BYTES_MAX: u64 = 1 << 20;

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

    /// Whether a file of this name lies beside the weights, or in a folder there (`1_Pooling/config.json`).
    pub fn has(&self, name: &str) -> bool {
        let is_it = |e: &Entry| e.name == name && !e.is_directory;
        match name.rsplit_once('/') {
            None => self.entries.iter().any(is_it),
            Some((folder, _)) => {
                let first = folder.split('/').next().unwrap_or(folder);
                self.entries.iter().any(|e| e.name == first && e.is_directory)
                    && self.place.list(folder).is_ok_and(|inside| inside.iter().any(is_it))
            }
        }
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

    /// A JSON file beside the weights that decides something: `None` where there is none.
    ///
    /// # Errors
    /// BadInput where it is not JSON; what [`Model::companion`] gives.
    pub fn json(&self, name: &str) -> Result<Option<Value>> {
        let Some(bytes) = self.companion(name, JSON_BYTES_MAX).map_err(|e| match e.file_name() {
            Some(_) => e,
            None => e.file(name),
        })?
        else {
            return Ok(None);
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| Error::bad_input(format!("is not JSON: {e}")).file(name))
    }

    /// What the tensors mean ([`values_with`]); `config` is what `config.json` says.
    ///
    /// # Errors
    /// As there, and what reading the few small tensors says that tell what others are.
    pub fn values(&self, config: Option<&Value>) -> Result<Values> {
        values_with(&self.table, config, &|tensor| self.small(tensor))
    }

    /// The bytes of a small tensor.
    fn small(&self, tensor: &Tensor) -> Result<Vec<u8>> {
        let (span, at) = (tensor.at.span, tensor.at.span.offset_bytes);
        if !tensor.at.is_plain() || span.size_bytes > SMALL_BYTES_MAX {
            return Err(Error::unsupported(format!(
                "has {} bytes that say what others are; hoist reads up to {}, in one run",
                grouped(span.size_bytes),
                grouped(SMALL_BYTES_MAX)
            )));
        }
        let file = self.files.get(span.file.index()).ok_or_else(|| Error::bug("a tensor of no file"))?;
        let mut bytes = vec![0; span.size_bytes as usize];
        let name = self.table.files.get(span.file.index()).map_or("", |f| &f.name);
        file.read_exact_at(&mut bytes, at).map_err(|e| e.file(name).tensor(&tensor.name))?;
        Ok(bytes)
    }

    /// Whether the tensors bear GGUF's names.
    pub fn is_gguf(&self) -> bool {
        self.table.files.iter().any(|f| f.container == Container::Gguf)
    }

    /// What a GGUF's keys say, as the files that say it of a checkpoint. `dtype` is what the config says of the weights.
    ///
    /// # Errors
    /// Unsupported, BadInput: see [`keys::to_config`].
    pub fn configs_of_keys(&self, dtype: DType) -> Result<keys::Configs> {
        let shapes: HashMap<&str, &[u64]> =
            self.table.tensors.iter().map(|t| (t.name.as_str(), t.shape.as_slice())).collect();
        let shape = |name: &str| shapes.get(name).map(|s| s.to_vec());
        let values = |name: &str| self.small_f32(name);
        keys::to_config(&self.table.meta, keys::back::Weights { shape: &shape, values: &values }, dtype)
    }

    /// The numbers of a small f32 tensor (factors of a rotary embedding); `None` where there is none of this name.
    fn small_f32(&self, name: &str) -> Result<Option<Vec<f32>>> {
        let Some(tensor) = self.table.get(name) else { return Ok(None) };
        if tensor.dtype != DType::F32 || !tensor.at.is_plain() || tensor.size_bytes() > SMALL_BYTES_MAX {
            return Err(Error::bad_input(format!(
                "is `{}` of shape {:?}, and a few f32 are needed",
                tensor.dtype, tensor.shape
            ))
            .tensor(name));
        }
        let mut bytes = vec![0; tensor.size_bytes() as usize];
        self.files[tensor.at.span.file.index()].read_exact_at(&mut bytes, tensor.at.span.offset_bytes)?;
        Ok(Some(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()))
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
