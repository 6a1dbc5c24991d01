//! What will be written, before it is laid out: the tensors and what they are made of, keys, configs, tokenizers.
//!
//! Three ways lead to a draft. Between containers of one naming tensors keep their names (`same.rs`); between Hugging
//! Face's and GGUF's the family's rows translate (`to_gguf.rs`, `to_hf.rs`).

use super::Options;
use crate::checkpoint::{Container, MetaValue};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::open::Model;
use crate::text::{Shown, grouped};
use crate::transform::recipe::Recipe;
use regex::Regex;
use std::collections::HashMap;

/// The largest config that is read.
pub(super) const JSON_BYTES_MAX: u64 = 64 << 20;

/// A change of names.
#[derive(Debug, Clone)]
pub struct Renaming {
    pattern: Regex,
    replacement: String,
}

impl Renaming {
    /// From `REGEX=>REPLACEMENT`; groups are `$1` or `${name}`.
    ///
    /// # Errors
    /// `Usage` where it is no such thing.
    pub fn parse(text: &str) -> Result<Renaming> {
        let usage = |what: String| Error::usage(what).hint("as in --rename '^model\\.(.*)=>$1'");
        let (pattern, replacement) = text.split_once("=>").ok_or_else(|| {
            usage(format!("`{}` has no `=>` between what is found and what comes instead", Shown(text)))
        })?;
        let pattern = Regex::new(pattern).map_err(|e| {
            usage(format!("`{}` is no regular expression: {}", Shown(pattern), last_line(&e.to_string())))
        })?;
        Ok(Renaming { pattern, replacement: replacement.to_owned() })
    }

    fn apply(&self, name: &str) -> Option<String> {
        match self.pattern.replace(name, self.replacement.as_str()) {
            std::borrow::Cow::Borrowed(_) => None,
            std::borrow::Cow::Owned(new) => Some(new),
        }
    }
}

fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or(text).trim().trim_start_matches("error: ").to_owned()
}

/// What will be written.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// The tensors.
    pub(super) recipe: Recipe,
    /// For each output the one whose bytes it shares, itself as a rule (PyTorch only).
    pub(super) firsts: Vec<usize>,
    /// Keys of a GGUF.
    pub(super) keys: Vec<(String, MetaValue)>,
    /// Entries of a safetensors header's `__metadata__`.
    pub(super) metadata: Vec<(String, String)>,
    /// Files that are made: config, tokenizer.
    pub(super) texts: Vec<(String, Vec<u8>)>,
    /// What becomes of the source's config.json.
    pub(super) config: ConfigEdit,
    /// The tokenizer that was put in, in a few words.
    pub(super) vocabulary: Option<String>,
    /// Where the chat template came from.
    pub(super) chat_template: Option<String>,
    /// Rows of the embedding, where it is known which tensor that is.
    pub(super) embedding_rows: u64,
    /// What a person should know.
    pub(super) notes: Vec<String>,
}

/// What a config must be told of the new weights.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ConfigEdit {
    /// The weights' new type.
    pub(super) dtype: Option<DType>,
    /// They are no longer quantised.
    pub(super) dequantised: bool,
    /// How they are quantised now.
    pub(super) quantization: Option<serde_json::Value>,
}

impl Draft {
    /// `format` = `pt`, on which older readers insist, and what the source's headers say besides.
    pub(super) fn add_metadata(&mut self, model: &Model) {
        let mut entries = vec![("format".to_owned(), "pt".to_owned())];
        for (key, value, file) in &model.table.meta.entries {
            let container = model.table.files.get(file.index()).map(|f| f.container);
            if container == Some(Container::Safetensors)
                && let Some(text) = value.as_str()
                && entries.iter().chain(&self.metadata).all(|(k, _)| k != key)
            {
                entries.push((key.clone(), text.to_owned()));
            }
        }
        entries.append(&mut self.metadata);
        self.metadata = entries;
    }

    /// Names as the user wants them.
    pub(super) fn rename(&mut self, options: &Options) -> Result<()> {
        for renaming in &options.renames {
            let mut count = 0;
            for output in &mut self.recipe.outputs {
                if let Some(new) = renaming.apply(&output.name) {
                    output.name = new;
                    count += 1;
                }
            }
            if count == 0 {
                let pattern = Shown(renaming.pattern.as_str());
                return Err(Error::not_found(format!(
                    "the expression `{pattern}` matches none of the {} names",
                    grouped(self.recipe.outputs.len() as u64)
                ))
                .hint("hoist inspect MODEL --tree shows the names"));
            }
        }
        let mut seen = HashMap::with_capacity(self.recipe.outputs.len());
        for output in &self.recipe.outputs {
            if seen.insert(output.name.as_str(), ()).is_some() {
                return Err(Error::bad_input("would be written twice").tensor(&output.name));
            }
        }
        Ok(())
    }
}

/// Whether a container has a type.
pub(super) fn holds(container: Container, dtype: DType) -> bool {
    let facts = dtype.facts();
    match container {
        Container::Safetensors => facts.safetensors.is_some(),
        Container::Torch => facts.torch.is_some(),
        Container::Gguf => facts.ggml.is_some(),
    }
}
