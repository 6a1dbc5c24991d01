//! From a GGUF's keys to `config.json` and `generation_config.json`, in the dialect that transformers 5 writes.
//!
//! Rows that are one number are read backwards; what they do not say is in `targets.rs`: the class, what the engine does
//! without a key (activations, which layers look through a window), and what only the tensors know (whether there are
//! biases, whether the head is the embedding). A key about rotary embeddings that nobody read is an error, as it is the
//! other way.

mod rope;
mod targets;

use super::{Row, Rule, families};
use crate::checkpoint::{Meta, MetaValue};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::text::Shown;
use serde_json::{Map, Value, json};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// What a GGUF's tensors tell where its keys do not. Names are GGUF's, shapes in checkpoint order (slowest dimension
/// first).
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    /// The shape of a tensor, `None` where there is none of this name.
    pub shape: &'a dyn Fn(&str) -> Option<Vec<u64>>,
    /// The values of a small f32 tensor, `None` where there is none of this name. Asked for `rope_freqs.weight`,
    /// `rope_factors_long.weight` and `rope_factors_short.weight` only, which have a value for each pair of a head.
    pub values: &'a dyn Fn(&str) -> Result<Option<Vec<f32>>>,
}

/// The files that say of a checkpoint what the keys said of the GGUF.
#[derive(Debug, Clone, PartialEq)]
pub struct Configs {
    /// `config.json`.
    pub config: Value,
    /// `generation_config.json`, where anything is known for it.
    pub generation: Option<Value>,
    /// What a person should know: keys that have no place in these files.
    pub notes: Vec<String>,
}

/// The most layers that lists are written for; no model has more, and a number alone must not fill memory.
const LAYERS_MAX: u64 = 65_536;

/// Keys that say nothing about the computation, or that a config has no word for.
const SILENT: &[&str] = &[
    "vocab_size",
    "rope.scaling.finetuned",
    "tensor_data_layout",
    "attention.causal",
    "rope.dimension_count",
];

/// One GGUF, its keys as they are asked for.
struct Back<'b> {
    arch: &'b str,
    meta: &'b Meta,
    weights: Weights<'b>,
    read: RefCell<BTreeSet<String>>,
}

impl Back<'_> {
    fn get(&self, suffix: &str) -> Option<&MetaValue> {
        self.read.borrow_mut().insert(suffix.to_owned());
        self.meta.get(&format!("{}.{suffix}", self.arch))
    }

    fn wrong(&self, suffix: &str, expected: &str) -> Error {
        Error::bad_input(format!("the key `{}.{suffix}` is not {expected}", Shown(self.arch)))
    }

    fn count(&self, suffix: &str) -> Result<Option<u64>> {
        match self.get(suffix) {
            None => Ok(None),
            Some(value) => value.as_u64().map(Some).ok_or_else(|| self.wrong(suffix, "a count")),
        }
    }

    fn need(&self, suffix: &str) -> Result<u64> {
        self.count(suffix)?.ok_or_else(|| {
            Error::bad_input(format!("has no key `{}.{suffix}`, which this family needs", Shown(self.arch)))
        })
    }

    fn float(&self, suffix: &str) -> Result<Option<f64>> {
        match self.get(suffix) {
            None => Ok(None),
            Some(MetaValue::F32(x)) if x.is_finite() => Ok(Some(shortest(*x))),
            Some(value) => match value.as_f64().filter(|x| x.is_finite()) {
                Some(x) => Ok(Some(x)),
                None => Err(self.wrong(suffix, "a finite number")),
            },
        }
    }

    fn flag(&self, suffix: &str) -> Result<Option<bool>> {
        match self.get(suffix) {
            None => Ok(None),
            Some(value) => value.as_bool().map(Some).ok_or_else(|| self.wrong(suffix, "true or false")),
        }
    }

    fn text(&self, suffix: &str) -> Result<Option<&str>> {
        match self.get(suffix) {
            None => Ok(None),
            Some(value) => value.as_str().map(Some).ok_or_else(|| self.wrong(suffix, "text")),
        }
    }

    /// One count, or a list with one for each layer; a list of equals is one.
    fn counts(&self, suffix: &str) -> Result<Option<Value>> {
        let Some(MetaValue::Array(array)) = self.get(suffix) else {
            return Ok(self.count(suffix)?.map(Value::from));
        };
        let numbers: Option<Vec<u64>> = array.items().map(|item| item.as_u64()).collect();
        let numbers =
            numbers.filter(|n| n.len() as u64 == array.count).ok_or_else(|| self.wrong(suffix, "counts"))?;
        Ok(match numbers.first() {
            None => None,
            Some(first) if numbers.iter().all(|n| n == first) => Some(json!(first)),
            Some(_) => Some(json!(numbers)),
        })
    }

    fn has(&self, tensor: &str) -> bool {
        (self.weights.shape)(tensor).is_some()
    }

    /// Layers of the model, without those that predict further tokens.
    fn layers(&self) -> Result<u64> {
        let blocks = self.need("block_count")?;
        let further = self.count("nextn_predict_layers")?.unwrap_or(0);
        match blocks.checked_sub(further) {
            Some(layers) if layers <= LAYERS_MAX => Ok(layers),
            _ => Err(self.wrong("block_count", "a number of layers that a model can have")),
        }
    }

    fn hidden_per_head(&self) -> Result<u64> {
        let heads = self.need("attention.head_count")?;
        self.need("embedding_length")?
            .checked_div(heads)
            .ok_or_else(|| self.wrong("attention.head_count", "a count above zero"))
    }

    /// Elements of a head.
    fn head_dim(&self) -> Result<u64> {
        match self.count("attention.key_length")? {
            Some(n) => Ok(n),
            None => self.hidden_per_head(),
        }
    }

    /// The type of each layer, by whether it looks through a window.
    fn layer_types(&self, slides: impl Fn(u64) -> bool) -> Result<Value> {
        let types =
            (1..=self.layers()?).map(|n| if slides(n) { "sliding_attention" } else { "full_attention" });
        Ok(types.collect())
    }
}

/// The shortest decimal that is this f32, as a double: what a config said before it was rounded.
fn shortest(x: f32) -> f64 {
    x.to_string().parse().unwrap_or_else(|_| x.into())
}

/// `config.json` and `generation_config.json` from a GGUF's keys. `dtype` is the type that most weights will have.
///
/// `BadInput` for keys that are damaged or missing, `Unsupported` for an architecture without rows, for one whose keys
/// say what its class in transformers cannot, and for rotary scaling that nobody here knows.
pub fn to_config(meta: &Meta, weights: Weights<'_>, dtype: DType) -> Result<Configs> {
    let arch = meta.get("general.architecture").and_then(MetaValue::as_str);
    let arch = arch
        .ok_or_else(|| Error::bad_input("has no key `general.architecture`, so its family is not known"))?;
    let back = &Back { arch, meta, weights, read: RefCell::default() };
    let (Some(family), Some(target)) = (families::find(arch), targets::find(back)?) else {
        let known: Vec<&str> = families::all().map(|f| f.arch).collect();
        return Err(Error::unsupported(format!(
            "has keys of the architecture `{}`, which is not known here",
            Shown(arch)
        ))
        .hint(format!("known are {}", known.join(", "))));
    };
    let mut config = Map::new();
    config.insert("architectures".into(), json!([target.class]));
    config.insert("model_type".into(), json!(target.model_type));
    if let Some(name) = dtype.facts().torch {
        config.insert("dtype".into(), json!(name));
    }
    for row in family.early.iter().chain(family.rows.iter().copied().flatten()) {
        undo(back, row, target, &mut config)?;
    }
    if config.contains_key("num_hidden_layers") || !config.contains_key("n_layer") {
        config.insert("num_hidden_layers".into(), json!(back.layers()?));
    }
    for (key, value) in target.fixed {
        config.insert((*key).to_owned(), value.json());
    }
    if target.rope {
        config.insert("rope_parameters".into(), rope::parameters(back)?);
    }
    if target.head && back.flag("attention.causal")? == Some(false) {
        config.insert("is_causal".into(), json!(false));
    }
    vocabulary(back, target, &mut config)?;
    (target.more)(back, &mut config)?;
    let notes = unread(back)?;
    Ok(Configs { config: Value::Object(config), generation: generation(back)?, notes })
}

/// A row read backwards, where it is one value.
fn undo(back: &Back<'_>, row: &Row, target: &targets::Target, config: &mut Map<String, Value>) -> Result<()> {
    let (name, value) = match &row.rule {
        Rule::Count(names) | Rule::Need(names) => (names.first(), back.count(row.key)?.map(Value::from)),
        Rule::Counts(names) => (names.first(), back.counts(row.key)?),
        Rule::Float(names) | Rule::NonZero(names) => (names.first(), back.float(row.key)?.map(Value::from)),
        Rule::Flag(names) => (names.first(), back.flag(row.key)?.map(Value::from)),
        Rule::Always(_) => {
            back.get(row.key);
            return Ok(());
        }
        Rule::With(_) | Rule::Several(_) => return Ok(()),
    };
    let (Some(&name), Some(value)) = (name, value) else { return Ok(()) };
    let name = target.spelling.iter().find(|(ours, _)| *ours == name).map_or(name, |(_, theirs)| theirs);
    match config.get(name) {
        // Two keys for one name: keys and values of a head have one size in transformers.
        Some(old) if *old != value => Err(Error::unsupported(format!(
            "the key `{}.{}` is `{value}` where another says `{old}`, and a config has one `{name}` for both",
            Shown(back.arch),
            row.key
        ))),
        _ => {
            config.insert(name.to_owned(), value);
            Ok(())
        }
    }
}

/// The vocabulary's size, its special tokens, and whether the head is the embedding.
fn vocabulary(back: &Back<'_>, target: &targets::Target, config: &mut Map<String, Value>) -> Result<()> {
    let rows = (back.weights.shape)("token_embd.weight").and_then(|shape| shape.first().copied());
    let rows = match rows {
        Some(rows) => Some(rows),
        None => back.count("vocab_size")?,
    };
    let rows = rows.ok_or_else(|| {
        Error::bad_input("has no tensor `token_embd.weight`, so the vocabulary's size is not known")
    })?;
    config.insert("vocab_size".into(), json!(rows));
    if target.head {
        config.insert("tie_word_embeddings".into(), json!(!back.has("output.weight")));
    }
    for (key, name) in TOKENS {
        // `null` keeps a class's own default out.
        let id = token(back, key, rows);
        config.insert((*name).to_owned(), id.map_or(Value::Null, Value::from));
    }
    Ok(())
}

/// Special tokens that a config names.
const TOKENS: &[(&str, &str)] = &[
    ("bos_token_id", "bos_token_id"),
    ("eos_token_id", "eos_token_id"),
    ("padding_token_id", "pad_token_id"),
];

/// A special token's id, if it is one of the vocabulary.
fn token(back: &Back<'_>, key: &str, rows: u64) -> Option<u64> {
    back.meta.get(&format!("tokenizer.ggml.{key}"))?.as_u64().filter(|&id| id < rows)
}

/// Sampling keys and their names in `generation_config.json`.
const SAMPLING: &[(&str, &str)] = &[
    ("top_k", "top_k"),
    ("top_p", "top_p"),
    ("min_p", "min_p"),
    ("temp", "temperature"),
    ("penalty_repeat", "repetition_penalty"),
];

fn generation(back: &Back<'_>) -> Result<Option<Value>> {
    let mut out = Map::new();
    let rows =
        (back.weights.shape)("token_embd.weight").and_then(|shape| shape.first().copied()).unwrap_or(0);
    for (key, name) in TOKENS {
        if let Some(id) = token(back, key, rows) {
            out.insert((*name).to_owned(), json!(id));
        }
    }
    // A turn may end with a token of its own.
    if let (Some(eos), Some(eot)) = (token(back, "eos_token_id", rows), token(back, "eot_token_id", rows))
        && eos != eot
    {
        out.insert("eos_token_id".into(), json!([eos, eot]));
    }
    let mut samples = false;
    for (key, name) in SAMPLING {
        let value = match back.meta.get(&format!("general.sampling.{key}")) {
            None => continue,
            Some(MetaValue::F32(x)) => json!(shortest(*x)),
            Some(other) => match other.as_i128().and_then(|n| i64::try_from(n).ok()) {
                Some(n) => json!(n),
                None => continue,
            },
        };
        samples |= *key != "penalty_repeat";
        out.insert((*name).to_owned(), value);
    }
    if samples {
        out.insert("do_sample".into(), json!(true));
    }
    Ok((!out.is_empty()).then_some(Value::Object(out)))
}

/// Keys of the architecture that nobody asked for: an error where they are about rotary embeddings, else a note.
fn unread(back: &Back<'_>) -> Result<Vec<String>> {
    let prefix = format!("{}.", back.arch);
    let read = back.read.borrow();
    let mut notes = Vec::new();
    for (key, ..) in &back.meta.entries {
        let Some(suffix) = key.strip_prefix(&prefix) else { continue };
        if read.contains(suffix) || SILENT.contains(&suffix) {
            continue;
        }
        if suffix.starts_with("rope.") {
            return Err(Error::unsupported(format!(
                "the key `{}` is not known here: without it a model computes something else",
                Shown(key)
            )));
        }
        if notes.len() < NOTES_MAX {
            notes.push(format!("the key `{}` has no place in config.json", Shown(key)));
        }
    }
    Ok(notes)
}

/// The most keys that are named; a file may have any number.
const NOTES_MAX: usize = 32;
