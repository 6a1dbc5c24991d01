//! Rotary embeddings out of either dialect: one part for all layers, or one for those that see everything and one for
//! those that look through a window.

use super::{ModelConfig, bad, count_of, defaults, float_of, wrong};
use crate::error::Result;
use serde_json::{Map, Value};
use std::cell::Cell;

/// The rotary embeddings of a model.
#[derive(Debug)]
pub struct Rope<'c> {
    /// For the layers that see the whole context; for all of them where `sliding` is `None`.
    pub full: RopePart<'c>,
    /// For the layers that look through a window, where they differ.
    pub sliding: Option<RopePart<'c>>,
    /// What stands beside the parts: other types of layers, which have nobody to ask for them.
    beside: Vec<(String, &'c Value)>,
}

/// One rotary embedding, and which of its numbers have been asked for.
#[derive(Debug)]
pub struct RopePart<'c> {
    /// `default` (no scaling), `linear`, `dynamic`, `yarn`, `longrope`, `llama3`, or a name that nobody here knows.
    pub kind: &'c str,
    /// The base of the frequencies; `None` for a model without rotary embeddings.
    pub theta: Option<f64>,
    /// Where the numbers stand in the file, for messages.
    path: String,
    numbers: Vec<(&'c str, &'c Value, Cell<bool>)>,
}

/// A word between underscores that says a key is about rotary embeddings.
const WORDS: &[&str] = &["rope", "rotary", "mrope", "yarn"];

/// Values that change nothing, so that nobody has to ask for them.
const NEUTRAL: &[(&str, f64)] = &[
    ("partial_rotary_factor", 1.0),
    ("rope_pct", 1.0),
    ("rope_percent", 1.0),
    ("rotary_pct", 1.0),
    ("rope_ratio", 1.0),
];

/// Keys that hold a dictionary of this reader; what is inside is looked at one by one.
const DICTIONARIES: [&str; 2] = ["rope_scaling", "rope_parameters"];

/// The names that configs have used for the base.
const THETA: &[&str] =
    &["rope_theta", "rotary_emb_base", "global_rope_theta", "rope_global_theta", "rope_theta_global"];
/// The base of the layers that look through a window.
const THETA_SLIDING: &[&str] =
    &["rope_local_base_freq", "local_rope_theta", "rope_local_theta", "rope_theta_local", "swa_rope_theta"];
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

pub(super) fn is_about_rope(key: &str) -> bool {
    // The width of latent attention's rotary half is a size like any other.
    key != "qk_rope_head_dim" && key.split('_').any(|word| WORDS.contains(&word))
}

pub(super) fn is_neutral(key: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => *on == (key == "truncate") && (key == "truncate" || key.starts_with("use_")),
        Value::Number(x) => {
            NEUTRAL.iter().any(|(name, neutral)| *name == key && x.as_f64() == Some(*neutral))
        }
        Value::String(kind) => key == "rope_type" && kind == "default",
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
    }
}

pub(super) fn read<'c>(config: &'c ModelConfig<'_>) -> Result<Rope<'c>> {
    let mut dictionaries = Vec::new();
    for name in DICTIONARIES {
        match config.raw(&[name]) {
            None => {}
            Some(Value::Object(object)) if object.is_empty() => {}
            Some(Value::Object(object)) => dictionaries.push((name, object)),
            Some(other) => return Err(wrong(name, other, "an object")),
        }
    }
    if let [(_, one), (_, other)] = dictionaries[..]
        && one != other
    {
        return Err(bad("`rope_scaling` and `rope_parameters` are both there and differ")
            .hint("remove the one that is out of date"));
    }
    let theta = config.float(THETA)?;
    let sliding_theta = config.float(THETA_SLIDING)?;
    let default = defaults::theta(config.model_type());
    let inner = |object: &'c Map<String, Value>, name: &str, part: &str| match object.get(part) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(inside)) => Ok(Some((format!("{name}.{part}"), inside))),
        Some(other) => Err(wrong(&format!("{name}.{part}"), other, "an object")),
    };
    let empty = || RopePart::plain(None);
    let (mut full, mut sliding, mut beside) = (empty(), None, Vec::new());
    if let Some(&(name, object)) = dictionaries.first() {
        let nested = object.values().any(Value::is_object);
        if !nested {
            full = part(name.to_owned(), object)?;
        } else {
            if let Some((path, inside)) = inner(object, name, FULL)? {
                full = part(path, inside)?;
            }
            sliding = inner(object, name, SLIDING)?.map(|(path, inside)| part(path, inside)).transpose()?;
            let others = object.iter().filter(|(key, _)| *key != FULL && *key != SLIDING);
            beside.extend(
                others
                    .filter(|(key, value)| !is_neutral(key, value))
                    .map(|(key, value)| (format!("{name}.{key}"), value)),
            );
        }
    }
    full.theta = full.theta.or(theta).or(default.full);
    if sliding.is_none() && (sliding_theta.is_some() || default.sliding.is_some()) {
        sliding = Some(empty());
    }
    if let Some(sliding) = &mut sliding {
        sliding.theta = sliding.theta.or(sliding_theta).or(default.sliding).or(full.theta);
    }
    Ok(Rope { full, sliding, beside })
}

fn part<'c>(path: String, object: &'c Map<String, Value>) -> Result<RopePart<'c>> {
    let mut part = RopePart { kind: "default", theta: None, path, numbers: Vec::new() };
    for (key, value) in object {
        match (key.as_str(), value) {
            (_, Value::Null) => {}
            ("rope_type", Value::String(kind)) => part.kind = kind,
            // The older name gives way to the newer.
            ("type", Value::String(kind)) if !object.contains_key("rope_type") => part.kind = kind,
            ("type", Value::String(_)) => {}
            ("rope_type" | "type", other) => return Err(wrong(&part.full_name(key), other, "text")),
            ("rope_theta", value) => part.theta = Some(float_of(&part.full_name(key), value)?),
            (key, value) => part.numbers.push((key, value, Cell::new(false))),
        }
    }
    // `su` is what longrope was called first; `mrope` scales nothing and only names the sections.
    part.kind = match part.kind {
        "su" => "longrope",
        "mrope" => "default",
        kind => kind,
    };
    Ok(part)
}

impl<'c> RopePart<'c> {
    /// Nothing but a base.
    pub fn plain(theta: Option<f64>) -> RopePart<'c> {
        RopePart { kind: "default", theta, path: String::new(), numbers: Vec::new() }
    }

    fn full_name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// A value by its key, which now counts as asked for.
    pub fn raw(&self, key: &str) -> Option<&'c Value> {
        let (_, value, read) = self.numbers.iter().find(|(name, ..)| *name == key)?;
        read.set(true);
        Some(value)
    }

    /// A number.
    pub fn float(&self, key: &str) -> Result<Option<f64>> {
        self.raw(key).map(|value| float_of(&self.full_name(key), value)).transpose()
    }

    /// A number that this scaling cannot be without.
    pub fn need_float(&self, key: &str) -> Result<f64> {
        self.float(key)?.ok_or_else(|| self.needed(key))
    }

    /// A count.
    pub fn count(&self, key: &str) -> Result<Option<u64>> {
        self.raw(key).map(|value| count_of(&self.full_name(key), value)).transpose()
    }

    /// A list of numbers.
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let name = self.full_name(key);
        match self.raw(key) {
            None => Ok(None),
            Some(Value::Array(list)) => {
                list.iter().map(|value| float_of(&name, value)).collect::<Result<_>>().map(Some)
            }
            Some(other) => Err(wrong(&name, other, "a list of numbers")),
        }
    }

    fn needed(&self, key: &str) -> crate::error::Error {
        bad(format!("has no `{}`, which `{}` needs", self.full_name(key), crate::text::Shown(self.kind)))
    }

    fn unread(&self) -> impl Iterator<Item = (String, &'c Value)> + '_ {
        self.numbers
            .iter()
            .filter(|(key, value, read)| !read.get() && !is_neutral(key, value))
            .map(|(key, value, _)| (self.full_name(key), *value))
    }
}

impl<'c> Rope<'c> {
    pub(super) fn unread(&self) -> impl Iterator<Item = (String, &'c Value)> + '_ {
        let parts = self.full.unread().chain(self.sliding.iter().flat_map(RopePart::unread));
        parts.chain(self.beside.iter().cloned())
    }
}
