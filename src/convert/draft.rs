//! What will be written, before it is laid out: the tensors and what they are made of, keys, configs, tokenizers.
//!
//! Three ways lead from a source to a target. Between containers of one naming (safetensors and PyTorch; GGUF and GGUF)
//! tensors keep their names, and this file is enough; between Hugging Face's and GGUF's the family's rows translate
//! (`to_gguf.rs`, `to_hf.rs`).

use super::{Options, to_gguf, to_hf};
use crate::checkpoint::{Container, MetaValue};
use crate::dtype::{Class, DType};
use crate::error::{Error, Result};
use crate::open::Model;
use crate::text::{Shown, grouped};
use crate::transform::recipe::{LeftOut, Output, Part, Recipe, Source, Value};
use crate::transform::select::Selection;
use crate::transform::values::{self, values};
use regex::Regex;
use serde_json::Value as Json;
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
    /// What a person should know.
    pub(super) notes: Vec<String>,
}

/// What a config must be told of the new weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ConfigEdit {
    /// The weights' new type.
    pub(super) dtype: Option<DType>,
    /// They are no longer quantised.
    pub(super) dequantised: bool,
}

impl Draft {
    /// Chooses the way and goes it.
    pub(super) fn new(model: &Model, options: &Options, to: Container) -> Result<Draft> {
        let from_gguf = is_gguf(model);
        if model.table.tensors.is_empty() {
            return Err(Error::bad_input("holds no tensors"));
        }
        let mut draft = match (from_gguf, to == Container::Gguf) {
            (false, true) if !options.raw => to_gguf::draft(model, options)?,
            (true, false) if !options.raw => to_hf::draft(model, options)?,
            _ => Draft::same(model, options, to)?,
        };
        if to == Container::Gguf {
            to_gguf::edit_keys(&mut draft, model, options)?;
        }
        draft.rename(options)?;
        if draft.firsts.is_empty() {
            draft.firsts = (0..draft.recipe.outputs.len()).collect();
        }
        Ok(draft)
    }

    /// Tensors under the names they have.
    fn same(model: &Model, options: &Options, to: Container) -> Result<Draft> {
        let table = &model.table;
        let mut draft = Draft::default();
        let config = json(model, "config.json", &mut draft.notes);
        // Without a cast, and where the container can hold what there is, nothing is interpreted: codes and scales of any
        // scheme are tensors like others.
        let interpret = options.dtype.is_some() || table.tensors.iter().any(|t| !holds(to, t.dtype));
        let all = match interpret {
            true => {
                let all = values(table, config.as_ref())?;
                draft.notes.extend(all.notes);
                draft.recipe.left_out = all.left_out;
                all.values
            }
            false => values::raw(table),
        };
        let selection = Selection::new(&options.include, &options.exclude)?;
        let picked = selection.pick_names(all.iter().map(|v| v.name.as_str()))?;
        let firsts = firsts(model, &all);
        let tied = ties(model, config.as_ref());
        let mut written: HashMap<usize, usize> = HashMap::new();
        let mut dequantised = false;
        for (index, value) in all.iter().enumerate() {
            if picked.binary_search(&index).is_err() {
                continue;
            }
            let dtype = dtype_of(value, options.dtype, to, table.files.len())?;
            dequantised |= matches!(value.source, Source::Scaled { .. } | Source::Mxfp4 { .. });
            let first = firsts[index];
            if first != index
                && let Some(&at) = written.get(&first)
            {
                match to {
                    // safetensors has no aliases: what the model ties by itself is written once, anything else twice.
                    Container::Safetensors if tied.drops(&value.name, &all[first].name) => {
                        draft.metadata.push((value.name.clone(), all[first].name.clone()));
                        draft
                            .recipe
                            .left_out
                            .push(LeftOut { name: value.name.clone(), why: "shares its bytes with another" });
                        continue;
                    }
                    Container::Torch if draft.recipe.outputs[at].dtype == dtype => {
                        draft.firsts.resize(draft.recipe.outputs.len(), 0);
                        draft.firsts.push(at);
                    }
                    _ => {}
                }
            }
            let at = draft.recipe.outputs.len();
            if draft.firsts.len() == at {
                draft.firsts.push(at);
            }
            written.entry(first).or_insert(at);
            let part = Part::new(index, value.view()?);
            let output = Output {
                name: value.name.clone(),
                dtype,
                shape: value.shape.clone(),
                parts: vec![part],
                narrow: None,
            };
            draft.recipe.outputs.push(output);
        }
        draft.recipe.values = all;
        draft.config = ConfigEdit { dtype: options.dtype.filter(|d| d.is_float()), dequantised };
        match to {
            Container::Safetensors => draft.add_metadata(model),
            Container::Gguf => draft.keys = to_gguf::keys_of(model, options, &draft.recipe)?,
            Container::Torch => {}
        }
        if options.raw {
            draft.notes.push("tensors only, under their own names: no engine will run it".into());
        }
        Ok(draft)
    }

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

    fn rename(&mut self, options: &Options) -> Result<()> {
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

/// Whether the model's tensors bear GGUF's names.
pub(super) fn is_gguf(model: &Model) -> bool {
    model.table.files.iter().any(|f| f.container == Container::Gguf)
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

/// The type a value is written in, where its name says nothing about it.
fn dtype_of(value: &Value, wanted: Option<DType>, to: Container, _files: usize) -> Result<DType> {
    let is_number = matches!(value.dtype.facts().class, Class::Float | Class::Block)
        || !matches!(value.source, Source::Tensor(_) | Source::Made(_));
    let dtype = match wanted {
        Some(wanted) if is_number => to_gguf::type_for(to, wanted, &value.name, &value.shape),
        _ => value.dtype,
    };
    if holds(to, dtype) {
        return Ok(dtype);
    }
    let error = Error::unsupported(format!("is `{dtype}`, which {to} does not have")).tensor(&value.name);
    Err(match is_number {
        true => error.hint("--dtype f32, f16 or bf16 writes its numbers"),
        false => error.hint("--exclude leaves it out"),
    })
}

/// For each value the first one of the same tensor in the same place: itself, unless it is an alias.
fn firsts(model: &Model, all: &[Value]) -> Vec<usize> {
    let of_tensor = model.table.firsts();
    let mut values: HashMap<usize, usize> = HashMap::new();
    all.iter()
        .enumerate()
        .map(|(i, value)| match value.source {
            Source::Tensor(tensor) => {
                *values.entry(of_tensor.get(tensor).copied().unwrap_or(tensor)).or_insert(i)
            }
            _ => i,
        })
        .collect()
}

/// Which names a model ties by itself when it is built, so that a file without them is whole.
struct Ties {
    head: bool,
}

/// The names that a tied model fills in, whatever stands before them.
const TIED_NAMES: &[&str] = &[
    "lm_head.weight",
    "embed_out.weight",
    "lm_head.decoder.weight",
    "lm_head.decoder.bias",
    "cls.predictions.decoder.weight",
    "cls.predictions.decoder.bias",
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
];

/// Families whose configs leave `tie_word_embeddings` out where it is true.
const TIED_FAMILIES: &[&str] = &[
    "gpt2",
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3_text",
    "bert",
    "roberta",
    "xlm-roberta",
    "distilbert",
    "t5",
    "mt5",
    "bart",
    "opt",
    "cohere",
    "cohere2",
];

fn ties(_model: &Model, config: Option<&Json>) -> Ties {
    let Some(config) = config else { return Ties { head: false } };
    let of = |config: &Json| config.get("tie_word_embeddings").and_then(Json::as_bool);
    let said = of(config).or_else(|| config.get("text_config").and_then(of));
    let family = config.get("model_type").and_then(Json::as_str).unwrap_or_default();
    Ties { head: said.unwrap_or(TIED_FAMILIES.contains(&family)) }
}

impl Ties {
    /// Whether `name` may go where `kept` stays.
    fn drops(&self, name: &str, kept: &str) -> bool {
        let is = |name: &str| {
            TIED_NAMES.iter().any(|t| name.strip_suffix(t).is_some_and(|p| p.is_empty() || p.ends_with('.')))
        };
        self.head && is(name) && !is(kept)
    }
}

/// A JSON file beside the weights; one that cannot be read is a note.
pub(super) fn json(model: &Model, name: &str, notes: &mut Vec<String>) -> Option<Json> {
    model.companion_json(name, notes)
}
