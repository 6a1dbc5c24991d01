//! What is written beside the weights: files of the source that travel, files that are made, a config that says the new
//! type.

use super::draft::{Draft, JSON_BYTES_MAX};
use super::files::Files;
use super::{Options, draft};
use crate::checkpoint::Container;
use crate::error::{Error, Result};
use crate::open::Model;
use crate::transform::companions::{Context, File, is_of_a_model, is_worth_listing, module_folders, sort};
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
    /// Written.
    pub(super) files: Vec<Companion>,
    /// What stays behind, a line for each reason.
    pub(super) left_out: Vec<String>,
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
    let listed = model.files_beside(&|folder| !model.is_file && is_worth_listing(folder))?;
    let listed: Vec<File> = listed
        .into_iter()
        // Beside a file that was named, only what a model's loaders look for is surely its own.
        .filter(|e| !model.is_file || !model.is_gguf() && is_of_a_model(&e.name))
        .map(|e| File { name: e.name, size_bytes: e.size_bytes })
        .collect();
    let read: Vec<String> = model.table.files.iter().map(|f| f.name.clone()).collect();
    let mut written: Vec<String> = files.files.iter().map(|f| f.name.clone()).collect();
    written.extend(all.files.iter().map(|c| c.name.clone()));
    if draft.config.dequantised {
        written.push("hf_quant_config.json".into());
    }
    if draft.config.quantization.is_some() {
        // They say how it was quantised before.
        written
            .extend(["quantize_config.json", "quant_config.json", "hf_quant_config.json"].map(String::from));
    }
    let modules = match model.companion("modules.json", JSON_BYTES_MAX)? {
        Some(bytes) => serde_json::from_slice(&bytes).map_or(Vec::new(), |m| module_folders(&m)),
        None => Vec::new(),
    };
    let sorted = sort(&listed, &Context { read: &read, written: &written, modules: &modules });
    all.left_out = sorted.left_lines();
    for File { name, size_bytes } in sorted.travel {
        let edited = edited(model, draft, &name)?;
        all.files.push(match edited {
            Some(bytes) => made(&name, bytes),
            None => Companion { name, size_bytes, made: None },
        });
    }
    Ok(all)
}

/// A config that names the weights' type, where they have got another one.
fn edited(model: &Model, draft: &Draft, name: &str) -> Result<Option<Vec<u8>>> {
    let edit = &draft.config;
    let is_config = name == "config.json" || name.ends_with("/config.json") && !name.contains("_");
    if !is_config || *edit == draft::ConfigEdit::default() {
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
    if let Some(said) = edit.quantization.as_ref().filter(|_| name == "config.json") {
        super::pack::insert(&mut config, said);
        changed = true;
    }
    if !changed {
        return Ok(None);
    }
    let mut text = serde_json::to_vec_pretty(&config)
        .map_err(|e| Error::bug(format!("a config cannot be written: {e}")))?;
    text.push(b'\n');
    Ok(Some(text))
}
