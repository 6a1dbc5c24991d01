//! What a GGUF says of its model: keys from a config, and a config from keys.
//!
//! A family is a list of rows (`families.rs`). A row that is one number in both files is written once and read both
//! ways; a row that computes has a function for the way to GGUF, and its inverse stands with the family's class in
//! [`back`]. Names, types, values and order are those of llama.cpp's converter (`convert_hf_to_gguf.py` of 0c1e5709), so
//! that a file made here and one made there differ in nothing that an engine reads; where they differ on purpose, the
//! row says why. The vocabulary's keys (`tokenizer.*`) are made elsewhere.
//!
//! A value that has no key is never lost quietly. What would make another model of it is refused (an activation, a
//! rotary scaling); what the reference converter is known to leave out, or what shows only in some use (a window, in
//! texts longer than it), is a note.

pub mod back;
mod card;
mod families;
mod general;
mod model_name;
mod rules;
pub mod surgery;

pub use back::{Configs, to_config};
pub use surgery::parse_meta;

use super::model_config::{Counts, ModelConfig, bad, shown};
use crate::checkpoint::{MetaArray, MetaValue};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::text::Shown;
use serde_json::Value;

/// What the keys need to know beside the config.
#[derive(Debug, Clone, Copy)]
pub struct Extra<'a> {
    /// The model's name: its directory, or `org/name`.
    pub name: &'a str,
    /// Rows of the token embedding that is written; 0 where that is not known.
    pub vocab_rows: u64,
    /// What the tensors that are written add up to.
    pub parameters: Parameters,
    /// `general.file_type`; see [`file_type`]. Where experts keep MXFP4 blocks and the rest is f32, f16 or bf16, it is
    /// that of MXFP4.
    pub file_type: u32,
    /// Layers for the prediction of several tokens that are written behind the others; 0 where they are left out.
    pub prediction_layers: u64,
    /// How token embeddings become one vector, where the checkpoint says so (sentence-transformers).
    pub pooling: Option<Pooling>,
    /// `generation_config.json`.
    pub generation_config: Option<&'a Value>,
    /// The text of `README.md`.
    pub model_card: Option<&'a str>,
}

/// Counts of elements of the tensors in a GGUF.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Parameters {
    /// All elements.
    pub total: u64,
    /// Elements of the tensors that are not stacks of experts.
    pub shared: u64,
    /// Elements of one expert, summed over the stacks.
    pub expert: u64,
    /// Experts of a stack, on average, rounded down.
    pub expert_count: u64,
    expert_sum: u64,
    expert_tensors: u64,
}

impl Parameters {
    /// Those of no tensor.
    pub const NONE: Parameters =
        Parameters { total: 0, shared: 0, expert: 0, expert_count: 0, expert_sum: 0, expert_tensors: 0 };

    /// Counts one more tensor, by its GGUF name and its shape in checkpoint order (slowest dimension first).
    pub fn add(&mut self, name: &str, shape: &[u64]) {
        let size = shape.iter().fold(1u64, |n, &d| n.saturating_mul(d));
        self.total = self.total.saturating_add(size);
        // A stack's first dimension counts its experts; a bias of one has one dimension less.
        let stack = name
            .contains("_exps.")
            .then(|| shape.len().checked_sub(if name.contains(".bias") { 2 } else { 3 }));
        match stack.flatten().filter(|_| shape.len() >= 3).and_then(|at| shape.get(at)) {
            Some(&experts) if experts > 0 => {
                self.expert = self.expert.saturating_add(size / experts);
                self.expert_sum = self.expert_sum.saturating_add(experts);
                self.expert_tensors += 1;
                self.expert_count = self.expert_sum / self.expert_tensors;
            }
            _ => self.shared = self.shared.saturating_add(size),
        }
    }
}

/// How token embeddings become one vector, with llama.cpp's numbers (`llama_pooling_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean = 1,
    /// The first.
    Cls = 2,
    /// The last.
    Last = 3,
}

impl Pooling {
    /// From sentence-transformers' `1_Pooling/config.json`. `Unsupported` for a way of pooling that a GGUF has no
    /// number for.
    pub fn from_config(config: &Value) -> Result<Pooling> {
        let on = |key: &str| config.get(key).and_then(Value::as_bool) == Some(true);
        let mode = config.get("pooling_mode").and_then(Value::as_str);
        match () {
            () if on("pooling_mode_mean_tokens") => Ok(Pooling::Mean),
            () if on("pooling_mode_cls_token") => Ok(Pooling::Cls),
            () if on("pooling_mode_lasttoken") => Ok(Pooling::Last),
            () if mode == Some("mean") => Ok(Pooling::Mean),
            () if mode == Some("cls") => Ok(Pooling::Cls),
            () if mode == Some("lasttoken") => Ok(Pooling::Last),
            () => Err(Error::unsupported(
                "pools in a way that a GGUF cannot say; it can say mean, cls and lasttoken",
            )),
        }
    }
}

/// Keys in the order they are written, and what a person should know about them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Keys {
    /// Key and value.
    pub entries: Vec<(String, MetaValue)>,
    /// What the config says and the keys cannot.
    pub notes: Vec<String>,
}

impl Keys {
    /// Sets a key; one that is there keeps its place.
    fn put(&mut self, key: String, value: MetaValue) {
        match self.entries.iter_mut().find(|(k, _)| *k == key) {
            Some((_, old)) => *old = value,
            None => self.entries.push((key, value)),
        }
    }
}

/// What a row sees.
struct Scope<'s> {
    arch: &'s str,
    config: &'s ModelConfig<'s>,
    rope: &'s super::model_config::Rope<'s>,
    extra: &'s Extra<'s>,
}

impl Scope<'_> {
    fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.arch)
    }
}

/// One fact of a family: a key, and where its value comes from.
struct Row {
    /// The key after the architecture and a dot; whole where it begins with `general.`; empty for [`Rule::Several`].
    key: &'static str,
    rule: Rule,
}

/// Where a row's value comes from. The first name of a list is the one that is written back.
enum Rule {
    /// A count, u32. Left out where the config has none.
    Count(&'static [&'static str]),
    /// A count, u32, without which there is no model.
    Need(&'static [&'static str]),
    /// A count, u32, or an array of i32 where layers differ.
    Counts(&'static [&'static str]),
    /// A number, f32. Left out where the config has none.
    Float(&'static [&'static str]),
    /// A number, f32, that is left out where it is zero.
    NonZero(&'static [&'static str]),
    /// A truth value. Left out where the config has none.
    Flag(&'static [&'static str]),
    /// The same for every model of the family.
    Always(Constant),
    /// One value that is computed.
    With(fn(&Scope<'_>) -> Result<Option<MetaValue>>),
    /// Several keys, or notes.
    Several(fn(&Scope<'_>, &mut Keys) -> Result<()>),
}

/// A value known beforehand.
enum Constant {
    U32(u32),
    Bool(bool),
}

impl Row {
    fn apply(&self, scope: &Scope<'_>, keys: &mut Keys) -> Result<()> {
        let config = scope.config;
        let value = match &self.rule {
            Rule::Count(names) => config.count(names)?.map(count).transpose()?,
            Rule::Need(names) => Some(count(config.need_count(names)?)?),
            Rule::Counts(names) => match config.counts(names)? {
                None => None,
                Some(Counts::All(n)) => Some(count(n)?),
                Some(Counts::Each(list)) => {
                    let list: Vec<i32> = list
                        .iter()
                        .map(|&n| i32::try_from(n).map_err(|_| too_large(n)))
                        .collect::<Result<_>>()?;
                    Some(MetaValue::Array(MetaArray::of_i32(&list)))
                }
            },
            Rule::Float(names) => config.float(names)?.map(float),
            Rule::NonZero(names) => config.float(names)?.filter(|&x| x != 0.0).map(float),
            Rule::Flag(names) => config.flag(names)?.map(MetaValue::Bool),
            Rule::Always(Constant::U32(n)) => Some(MetaValue::U32(*n)),
            Rule::Always(Constant::Bool(b)) => Some(MetaValue::Bool(*b)),
            Rule::With(rule) => rule(scope)?,
            Rule::Several(rule) => return rule(scope, keys),
        };
        if let Some(value) = value {
            let whole = self.key.starts_with("general.");
            keys.put(if whole { self.key.to_owned() } else { scope.key(self.key) }, value);
        }
        Ok(())
    }
}

/// A count as GGUF has them.
fn count(n: u64) -> Result<MetaValue> {
    u32::try_from(n).map(MetaValue::U32).map_err(|_| too_large(n))
}

fn too_large(n: u64) -> Error {
    bad(format!("leads to a count of `{n}`, and a GGUF holds no more than {}", u32::MAX))
}

/// A number as GGUF has them: Python's double, rounded to f32 when it is written.
fn float(x: f64) -> MetaValue {
    MetaValue::F32(x as f32)
}

/// Keys of a GGUF in the order they are written, without `tokenizer.*`, and notes. `arch` is the GGUF's
/// `general.architecture`.
///
/// `BadInput` for a config that is damaged or lacks what the family needs, `Unsupported` for a family without rows and
/// for a config that asks for what the engine does not compute (an activation, a rotary scaling).
pub fn to_gguf(arch: &str, config: &Value, extra: &Extra<'_>) -> Result<Keys> {
    let family = families::find(arch).ok_or_else(|| {
        let known: Vec<&str> = families::all().map(|f| f.arch).collect();
        Error::unsupported(format!("has no keys for the architecture `{}`", Shown(arch)))
            .hint(format!("known are {}", known.join(", ")))
    })?;
    let config = &ModelConfig::new(config)?;
    let rope = &config.rope()?;
    let scope = Scope { arch, config, rope, extra };
    let mut keys = Keys::default();
    keys.put("general.architecture".to_owned(), arch.into());
    for row in family.early {
        row.apply(&scope, &mut keys)?;
    }
    general::write(&scope, &mut keys)?;
    for row in family.rows.iter().copied().flatten() {
        row.apply(&scope, &mut keys)?;
    }
    keys.put("general.quantization_version".to_owned(), MetaValue::U32(QUANTISATION_VERSION));
    family.demand(config)?;
    config.rope_all_read(rope)?;
    Ok(keys)
}

/// The version of ggml's block formats.
const QUANTISATION_VERSION: u32 = 2;

/// `general.file_type` for weights of this type, with llama.cpp's numbers (`llama_ftype`); `None` for a type that no
/// file is mostly made of. Of a mix (`q4_k_m`) this is only the type that most weights have.
pub fn file_type(dtype: DType) -> Option<u32> {
    FILE_TYPES.iter().find(|(known, _)| *known == dtype).map(|(_, id)| *id)
}

#[rustfmt::skip]
const FILE_TYPES: &[(DType, u32)] = &[
    (DType::F32, 0), (DType::F16, 1), (DType::BF16, 32), (DType::Q4_0, 2), (DType::Q4_1, 3), (DType::Q8_0, 7), (DType::Q5_0, 8),
    (DType::Q5_1, 9), (DType::Q2K, 10), (DType::Q3K, 12), (DType::Q4K, 15), (DType::Q5K, 17), (DType::Q6K, 18),
    (DType::IQ2XXS, 19), (DType::IQ2XS, 20), (DType::IQ3XXS, 23), (DType::IQ1S, 24), (DType::IQ4NL, 25), (DType::IQ3S, 26),
    (DType::IQ2S, 28), (DType::IQ4XS, 30), (DType::IQ1M, 31), (DType::TQ1_0, 36), (DType::TQ2_0, 37), (DType::MXFP4, 38),
    (DType::NVFP4, 39), (DType::Q1_0, 40), (DType::Q2_0, 41),
];
