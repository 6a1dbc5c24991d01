//! Which ids end a text.

use super::Tokenizer;
use crate::error::{Error, Result};
use crate::open::Model;
use crate::text::Shown;
use serde_json::Value as Json;

/// The largest `generation_config.json`.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// A GGUF's keys that name ids which end a text or a turn.
const KEYS: &[&str] =
    &["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

/// The ids that end a text: those of generation_config.json, of `config`, of the tokenizer's end token, and of a GGUF's
/// keys, in that order and each once. Files disagree, and chat models end a turn with another token than a text; a model
/// that gives any of them has said that it is done.
///
/// # Errors
/// A generation_config.json that is no JSON.
pub fn stop_ids(model: &Model, config: &Json, tokenizer: Option<&Tokenizer>) -> Result<Vec<u32>> {
    const FILE: &str = "generation_config.json";
    let generation = match model.companion(FILE, CONFIG_BYTES_MAX)? {
        Some(bytes) => serde_json::from_slice(&bytes)
            .map_err(|e| Error::bad_input(format!("is not JSON: {}", Shown(&e.to_string()))).file(FILE))?,
        None => Json::Null,
    };
    let mut found: Vec<u64> = Vec::new();
    for place in [Some(&generation), Some(config), config.get("text_config")].into_iter().flatten() {
        match place.get("eos_token_id") {
            Some(Json::Array(list)) => found.extend(list.iter().filter_map(Json::as_u64)),
            other => found.extend(other.and_then(Json::as_u64)),
        }
    }
    if let Some(tokenizer) = tokenizer {
        let end = tokenizer.special_tokens().get("eos_token").and_then(Json::as_str);
        found.extend(end.and_then(|end| tokenizer.id(end)).map(u64::from));
    }
    found.extend(KEYS.iter().filter_map(|key| model.table.meta.get(key)?.as_u64()));
    let mut ids: Vec<u32> = Vec::new();
    for id in found.into_iter().filter_map(|id| u32::try_from(id).ok()) {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}
