//! Tokenizers: a model's tokenizer files as `tokenizer.ggml.*` keys, and back.

use crate::checkpoint::{Meta, MetaValue};
use crate::error::{Error, Result};
use serde_json::Value;

/// A companion file's bytes by its name, `None` where the model has none. The caller bounds sizes.
pub type Files<'a> = dyn Fn(&str) -> Result<Option<Vec<u8>>> + 'a;

/// The key of the chat template.
pub const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// A tokenizer as GGUF keys.
#[derive(Debug, Clone)]
pub struct ToGguf {
    /// Keys and values, in the reference converter's order.
    pub keys: Vec<(String, MetaValue)>,
    /// `BPE 151936 pre qwen2`.
    pub summary: String,
    /// The file that the chat template came from.
    pub template: Option<String>,
    /// What a person should know: what has no counterpart, what was left out.
    pub notes: Vec<String>,
}

/// What [`to_gguf`] needs beside the files.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// `general.architecture` of the target.
    pub arch: &'a str,
    /// `config.json`, whole: special token ids are read from it and from its `text_config`.
    pub config: &'a Value,
    /// `generation_config.json`.
    pub generation_config: Option<&'a Value>,
    /// Rows of the embedding that is written: as many tokens are.
    pub embedding_rows: u64,
    /// `--tokenizer-pre`.
    pub pre: Option<&'a str>,
    /// Names of all companion files; read for `additional_chat_templates/*.jinja` only.
    pub names: &'a [String],
}

/// A tokenizer as Hugging Face's files.
#[derive(Debug, Clone, Default)]
pub struct ToHf {
    /// File name and content.
    pub files: Vec<(String, Vec<u8>)>,
    /// Where it is only near the original.
    pub notes: Vec<String>,
}

/// The model's tokenizer as GGUF keys.
pub fn to_gguf(files: &Files<'_>, options: &Options<'_>) -> Result<ToGguf> {
    _ = (files, options);
    Err(Error::unsupported("tokenizers are not yet converted"))
}

/// A GGUF's tokenizer as Hugging Face files.
pub fn to_hf(meta: &Meta, arch: &str) -> Result<ToHf> {
    _ = (meta, arch);
    Ok(ToHf::default())
}
