//! What is written beside the weights: files of the source that travel, files that are made, a config that says the new
//! type.

use super::draft::{Draft, JSON_BYTES_MAX};
use super::files::Files;
use super::{Options, draft};
use crate::checkpoint::Container;
use crate::error::{Error, Result};
use crate::open::Model;
use crate::transform::companions::{Travel, decide};
use serde_json::Value as Json;
use std::fmt;

/// A file beside the weights.
#[derive(Clone)]
pub(super) struct Companion {
    /// Its name, relative to OUT.
    pub(super) name: String,
    /// Its size.
    pub(super) size_bytes: u64,
    /// Its bytes, where they are made; else it is copied.
    pub(super) made: Option<Vec<u8>>,
}

impl fmt::Debug for Companion {
    /// Short, and all that tells two apart: it enters the plan's hash.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let made = self.made.as_deref().map(xxhash_rust::xxh3::xxh3_128);
        write!(f, "{} {} {made:x?}", self.name, self.size_bytes)
    }
}

/// Everything beside the weights.
#[derive(Default)]
pub(super) struct Companions {
    pub(super) files: Vec<Companion>,
    pub(super) left_out: Vec<(String, u64, &'static str)>,
}

/// What travels and what is made.
pub(super) fn travelling(
    model: &Model,
    draft: &Draft,
    options: &Options,
    container: Container,
    files: &Files,
) -> Result<Companions> {
    let mut all = Companions::default();
    let made = |name: &str, bytes: Vec<u8>| Companion {
        name: name.to_owned(),
        size_bytes: bytes.len() as u64,
        made: Some(bytes),
    };
    all.files.extend(files.indexes.iter().map(|(name, bytes)| made(name, bytes.clone())));
    if options.only_model || container == Container::Gguf {
        // A GGUF holds in its keys what it needs.
        return Ok(all);
    }
    all.files.extend(draft.texts.iter().map(|(name, bytes)| made(name, bytes.clone())));
    if draft::is_gguf(model) {
        return Ok(all);
    }
    let source = model.table.files.first().map_or(Container::Safetensors, |f| f.container);
    let weights: Vec<&str> = model.table.files.iter().map(|f| f.name.as_str()).collect();
    for entry in model.all_entries()? {
        let taken = |name: &str| {
            files.files.iter().any(|f| f.name == name) || all.files.iter().any(|c| c.name == name)
        };
        if weights.contains(&entry.name.as_str()) || taken(&entry.name) {
            continue;
        }
        match decide(&entry.name, entry.size_bytes, source, container) {
            Travel::Copy => {
                let edited = edited(model, draft, &entry.name)?;
                all.files.push(match edited {
                    Some(bytes) => made(&entry.name, bytes),
                    None => Companion { name: entry.name, size_bytes: entry.size_bytes, made: None },
                });
            }
            Travel::Stay(why) => all.left_out.push((entry.name, entry.size_bytes, why)),
        }
    }
    Ok(all)
}

/// A config that names the weights' type, where they have got another one.
fn edited(model: &Model, draft: &Draft, name: &str) -> Result<Option<Vec<u8>>> {
    let edit = draft.config;
    let is_config = name == "config.json" || name.ends_with("/config.json") && !name.contains("_");
    if !is_config || edit == draft::ConfigEdit::default() {
        return Ok(None);
    }
    let Some(bytes) = model.companion(name, JSON_BYTES_MAX)? else { return Ok(None) };
    let mut config: Json = serde_json::from_slice(&bytes)
        .map_err(|e| Error::bad_input(format!("is not JSON: {e}")).file(name))?;
    let mut changed = false;
    for part in ["", "text_config", "vision_config", "audio_config"] {
        let place = if part.is_empty() { Some(&mut config) } else { config.get_mut(part) };
        let Some(place) = place.and_then(Json::as_object_mut) else { continue };
        if let Some(torch) = edit.dtype.and_then(|d| d.facts().torch) {
            for key in ["torch_dtype", "dtype"] {
                if let Some(old) = place.get_mut(key) {
                    changed |= old.as_str() != Some(torch);
                    *old = torch.into();
                }
            }
        }
        if edit.dequantised {
            for key in ["quantization_config", "compression_config"] {
                changed |= place.shift_remove(key).is_some();
            }
        }
    }
    if !changed {
        return Ok(None);
    }
    let mut text = serde_json::to_vec_pretty(&config)
        .map_err(|e| Error::bug(format!("a config cannot be written: {e}")))?;
    text.push(b'\n');
    Ok(Some(text))
}
