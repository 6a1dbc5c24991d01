//! A strict reader of `config.json`, whichever dialect it is written in.
//!
//! Checkpoints come with two: the older has `rope_theta`, `rope_scaling` and `torch_dtype`, the newer `rope_parameters`
//! (one object, or one per type of layer) and `dtype`; a model of several parts keeps the language model's values in
//! `text_config` or under another name. What a config leaves out is what transformers' class of that `model_type` would
//! put there, so the defaults are rows too (`defaults.rs`).
//!
//! [`crate::transform::config::Description`] reads the same files to describe them and forgives everything. This reader
//! is for converting and forgives nothing: a value of the wrong type is an error that names its key, and a key about
//! rotary embeddings that nobody asked for is one too ([`ModelConfig::rope_all_read`]), because a scaling that is lost
//! gives a model that runs and is wrong.

mod defaults;
mod rope;

pub use rope::{Rope, RopePart};

use crate::error::{Error, Result};
use crate::text::Shown;
use defaults::Missing;
use serde_json::{Map, Value};
use std::cell::Cell;

/// The file's name, for messages.
const FILE: &str = "config.json";

/// Where a config of several parts keeps the language model's.
const TEXT_PARTS: &[&str] = &["text_config", "llm_config", "lm_config", "language_config"];

/// The largest that a float holds with every smaller whole number.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// A `config.json`, read strictly.
#[derive(Debug)]
pub struct ModelConfig<'a> {
    /// The language model's part, where there is one, then the whole.
    places: Vec<&'a Map<String, Value>>,
    model_type: &'a str,
    missing: &'static [(&'static str, Missing)],
    /// The keys of both places that are about rotary embeddings, and whether anyone has asked for them.
    rope_keys: Vec<(&'a str, &'a Value, Cell<bool>)>,
}

/// What a look-up finds.
enum Found<'c> {
    Value(&'c str, &'c Value),
    /// The key is there and says `null`.
    Null,
    Absent,
}

impl<'a> ModelConfig<'a> {
    /// Reads a config. `BadInput` where it is not an object or a part of it is not what its name says.
    pub fn new(config: &'a Value) -> Result<ModelConfig<'a>> {
        let outer = config.as_object().ok_or_else(|| bad("is not a JSON object"))?;
        let mut places = Vec::new();
        for part in TEXT_PARTS {
            match outer.get(*part) {
                None | Some(Value::Null) => {}
                Some(Value::Object(text)) => {
                    places.push(text);
                    break;
                }
                Some(other) => return Err(wrong(part, other, "an object")),
            }
        }
        places.push(outer);
        let mut model_type = "";
        for place in &places {
            match place.get("model_type") {
                None | Some(Value::Null) => {}
                Some(Value::String(name)) => {
                    model_type = name;
                    break;
                }
                Some(other) => return Err(wrong("model_type", other, "text")),
            }
        }
        let mut rope_keys: Vec<(&str, &Value, Cell<bool>)> = Vec::new();
        for (n, place) in places.iter().enumerate() {
            let hidden = |key: &str| places.iter().take(n).any(|before| before.contains_key(key));
            for (key, value) in place.iter() {
                if rope::is_about_rope(key) && !value.is_null() && !hidden(key) {
                    rope_keys.push((key, value, Cell::new(false)));
                }
            }
        }
        Ok(ModelConfig { missing: defaults::of(model_type), places, model_type, rope_keys })
    }

    /// `model_type` of the language model; empty where the config has none.
    pub fn model_type(&self) -> &'a str {
        self.model_type
    }

    /// The first class in `architectures`, of the whole and not of a part.
    pub fn class(&self) -> Option<&'a str> {
        self.outer("architectures")?.as_array()?.first()?.as_str()
    }

    /// A value of the whole and not of a part.
    pub fn outer(&self, key: &str) -> Option<&'a Value> {
        self.places.last()?.get(key)
    }

    fn find<'c>(&'c self, names: &[&'c str]) -> Found<'c> {
        let mut null = false;
        for &name in names {
            if let Some((.., read)) = self.rope_keys.iter().find(|(key, ..)| *key == name) {
                read.set(true);
            }
            match self.places.iter().find_map(|place| place.get(name)) {
                None => {}
                Some(Value::Null) => null = true,
                Some(value) => return Found::Value(name, value),
            }
        }
        if null { Found::Null } else { Found::Absent }
    }

    /// The rule for a key that is not there. A rule that computes holds for `null` too, a constant only for a key that
    /// is absent: where `null` is written, it is meant.
    fn default(&self, names: &[&str], null: bool) -> Option<Missing> {
        let (_, rule) = self.missing.iter().find(|(name, _)| names.contains(name))?;
        // A model alone says its sizes; only a part of one leaves them to its class.
        let holds = if matches!(rule, Missing::InPart(_)) { self.places.len() > 1 } else { true };
        (holds && (!null || rule.computes())).then_some(*rule)
    }

    /// The value under the first of these names, as it stands; `None` for `null`.
    pub fn raw<'c>(&'c self, names: &[&'c str]) -> Option<&'c Value> {
        match self.find(names) {
            Found::Value(_, value) => Some(value),
            _ => None,
        }
    }

    /// A count: a whole number from zero to `u32::MAX`, which is what a GGUF can hold.
    pub fn count(&self, names: &[&str]) -> Result<Option<u64>> {
        let null = match self.find(names) {
            Found::Value(name, value) => return count_of(name, value).map(Some),
            found => matches!(found, Found::Null),
        };
        Ok(match self.default(names, null) {
            Some(Missing::Count(n) | Missing::InPart(n)) => Some(n),
            Some(Missing::KvHeads(n)) if !null => Some(n),
            Some(Missing::KvHeads(_)) => self.count(&["num_attention_heads"])?,
            Some(Missing::SameAs(other)) => self.count(&[other])?,
            Some(Missing::HeadDim) => Some(self.hidden_per_head()?),
            _ => None,
        })
    }

    /// A count that must be there.
    pub fn need_count(&self, names: &[&str]) -> Result<u64> {
        self.count(names)?.ok_or_else(|| needed(names))
    }

    /// A finite number.
    pub fn float(&self, names: &[&str]) -> Result<Option<f64>> {
        let null = match self.find(names) {
            Found::Value(name, value) => return float_of(name, value).map(Some),
            found => matches!(found, Found::Null),
        };
        Ok(match self.default(names, null) {
            Some(Missing::Float(x)) => Some(x),
            _ => None,
        })
    }

    /// A number that must be there.
    pub fn need_float(&self, names: &[&str]) -> Result<f64> {
        self.float(names)?.ok_or_else(|| needed(names))
    }

    /// A truth value.
    pub fn flag(&self, names: &[&str]) -> Result<Option<bool>> {
        let null = match self.find(names) {
            Found::Value(_, Value::Bool(flag)) => return Ok(Some(*flag)),
            Found::Value(name, other) => return Err(wrong(name, other, "true or false")),
            found => matches!(found, Found::Null),
        };
        Ok(match self.default(names, null) {
            Some(Missing::Flag(flag)) => Some(flag),
            _ => None,
        })
    }

    /// Text.
    pub fn text<'c>(&'c self, names: &[&'c str]) -> Result<Option<&'c str>> {
        match self.find(names) {
            Found::Value(_, Value::String(text)) => Ok(Some(text)),
            Found::Value(name, other) => Err(wrong(name, other, "text")),
            found => Ok(match self.default(names, matches!(found, Found::Null)) {
                Some(Missing::Text(text)) => Some(text),
                _ => None,
            }),
        }
    }

    /// A list of anything.
    pub fn list<'c>(&'c self, names: &[&'c str]) -> Result<Option<&'c [Value]>> {
        match self.find(names) {
            Found::Value(_, Value::Array(list)) => Ok(Some(list)),
            Found::Value(name, other) => Err(wrong(name, other, "a list")),
            _ => Ok(None),
        }
    }

    /// One count, or one for each layer.
    pub fn counts(&self, names: &[&str]) -> Result<Option<Counts>> {
        match self.find(names) {
            Found::Value(name, Value::Array(list)) => {
                Ok(Some(Counts::Each(list.iter().map(|v| count_of(name, v)).collect::<Result<_>>()?)))
            }
            _ => Ok(self.count(names)?.map(Counts::All)),
        }
    }

    /// `hidden_size / num_attention_heads`: a head's elements where nothing else is said.
    pub fn hidden_per_head(&self) -> Result<u64> {
        let hidden = self.need_count(&["hidden_size", "n_embd"])?;
        let heads = self.need_count(&["num_attention_heads", "n_head"])?;
        hidden.checked_div(heads).ok_or_else(|| bad("`num_attention_heads` is `0`"))
    }

    /// Rotary embeddings, whichever dialect says them. What is read here counts as asked for; the numbers inside count
    /// when the part is asked for them.
    pub fn rope(&self) -> Result<Rope<'_>> {
        rope::read(self)
    }

    /// `Unsupported` for the first key about rotary embeddings that is there, says something, and was not asked for;
    /// `parts` are the values inside `rope_parameters` or `rope_scaling`.
    pub fn rope_all_read(&self, parts: &Rope<'_>) -> Result<()> {
        let outside =
            self.rope_keys.iter().filter(|(key, value, read)| !read.get() && !rope::is_neutral(key, value));
        let mut unread = outside.map(|(key, value, _)| (key.to_string(), *value)).chain(parts.unread());
        match unread.next() {
            None => Ok(()),
            Some((key, value)) => Err(Error::unsupported(format!(
                "`{}` is {} and is not known for `{}`: without it a model computes something else",
                Shown(&key),
                shown(value),
                Shown(self.model_type)
            ))
            .file(FILE)),
        }
    }
}

/// A number that layers share, or one for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Counts {
    /// The same for all layers.
    All(u64),
    /// One for each layer.
    Each(Vec<u64>),
}

/// An error about the config as a whole.
pub(super) fn bad(message: impl Into<String>) -> Error {
    Error::bad_input(message).file(FILE)
}

fn needed(names: &[&str]) -> Error {
    bad(format!("has no `{}`, which this family needs", names.first().unwrap_or(&"")))
}

fn wrong(key: &str, value: &Value, expected: &str) -> Error {
    bad(format!("`{}` is {} where {expected} is needed", Shown(key), shown(value)))
}

/// A JSON value in a message: short, and harmless whatever it holds.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Null => "`null`".to_owned(),
        Value::Bool(b) => format!("`{b}`"),
        Value::Number(n) => format!("`{n}`"),
        Value::String(s) => format!("`{}`", Shown(s)),
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(_) => "an object".to_owned(),
    }
}

fn count_of(key: &str, value: &Value) -> Result<u64> {
    let whole = value.as_u64().or_else(|| {
        // Some tools write every number as a float.
        value.as_f64().filter(|x| x.fract() == 0.0 && (0.0..=EXACT_MAX).contains(x)).map(|x| x as u64)
    });
    match whole.filter(|n| u32::try_from(*n).is_ok()) {
        Some(n) => Ok(n),
        None => Err(wrong(key, value, "a count")),
    }
}

fn float_of(key: &str, value: &Value) -> Result<f64> {
    match value.as_f64().filter(|x| (*x as f32).is_finite()) {
        Some(x) => Ok(x),
        None => Err(wrong(key, value, "a number")),
    }
}
