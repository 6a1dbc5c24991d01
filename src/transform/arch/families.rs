//! The tensors of each model family as rows: what Hugging Face's checkpoints call a tensor, what GGUF calls it, and how
//! its elements lie in the one and in the other.
//!
//! A [`Row`] is a relation and not a rule for one direction: read from left to right it makes a GGUF, from right to left
//! a checkpoint, and what a tensor becomes is a view either way (`translate.rs`). One tensor of one side may stand in
//! several rows: a fused matrix has a row for each tensor that it becomes, and experts have rows for each form in which
//! they are met on disk. What separates families that share their rows (permuted heads, offset norms, a tied head) is a
//! fact of the [`Family`].
//!
//! A new family is a [`Family`] in `decoders.rs` or `encoders.rs` and a list of real names in `testdata/names/`.
//!
//! Sources: the modelling files of `transformers` 5, `gguf` 0.19's `constants.py` and `tensor_mapping.py`, and what
//! llama.cpp's `convert_hf_to_gguf.py` writes.

mod decoders;
mod encoders;
mod sizes;

pub use sizes::Sizes;

use crate::checkpoint::{Meta, MetaValue};
use crate::error::{Error, Result};
use crate::text::Shown;
use serde_json::Value;

/// A family: what GGUF calls it, how configs name it, and its tensors.
#[derive(Debug)]
pub struct Family {
    /// `general.architecture`. Several families may share one.
    pub gguf: &'static str,
    /// Whether GGUFs of it are written and read back. Other families are only computed with.
    pub converts: bool,
    /// `model_type` in a config; the first is the one that is written.
    pub model_types: &'static [&'static str],
    /// Classes in a config's `architectures`, wrappers included; the first is the one that is written.
    pub architectures: &'static [&'static str],
    /// Its tensors. Groups, so that families share what they have in common.
    pub tensors: &'static [&'static [Row]],
    /// Tensors of heads that no GGUF has: they take part only where a model is computed with
    /// ([`super::translate::to_forward`]). Each may be missing.
    pub heads: &'static [&'static [Row]],
    /// Whether GGUF has the rows of each query and key head as neighbouring pairs, where checkpoints have two halves.
    pub paired_heads: bool,
    /// Added to the weights of norms in a GGUF: where the model computes with one plus the weight, GGUF holds the sum.
    pub norm_offset: f32,
    /// Whether the positions' table begins with rows for the padding token, which GGUF leaves out.
    pub padded_positions: bool,
    /// Where the head is.
    pub head: Head,
    /// Tensors of a GGUF that no checkpoint has.
    pub made: Made,
    /// Sizes that a config may leave out, by their name in a config, as the family's class in `transformers` has them.
    pub defaults: &'static [(&'static str, u64)],
}

/// Where a family's head is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// It has none.
    None,
    /// It is the embedding, always.
    Tied,
    /// The config's `tie_word_embeddings` says; this when it does not.
    Said {
        /// Whether it is the embedding.
        tied: bool,
    },
}

/// Tensors of a GGUF that are computed from the config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// None.
    Nothing,
    /// `rope_freqs` for the `llama3` scaling of rotary frequencies.
    RopeFreqs,
    /// `rope_factors_long` and `rope_factors_short` for `longrope`.
    RopeFactors,
}

/// One tensor, or one for each layer, of both sides.
#[derive(Debug)]
pub struct Row {
    /// GGUF's name; `#` is the layer.
    pub gguf: &'static str,
    /// Hugging Face's name with the prefix that is written; `#` is the layer, `@` the expert.
    pub hf: &'static str,
    /// What may follow both names.
    pub ends: Ends,
    /// How the elements lie.
    pub map: Map,
    /// Sizes of the weight in a GGUF, outermost first. A bias has the first of them.
    pub dims: &'static [Dim],
    /// Whether it must be there.
    pub need: Need,
    /// Which way it is read.
    pub way: Way,
}

/// What follows a row's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// `.weight`.
    Weight,
    /// `.weight`, and `.bias` in some models.
    MayBias,
    /// `.weight` and `.bias`.
    Bias,
    /// Nothing: both names are whole.
    Bare,
}

/// How a tensor's elements lie in a checkpoint and in a GGUF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Map {
    /// Alike.
    Same,
    /// Query heads, for [`Family::paired_heads`].
    Queries,
    /// Key heads, for [`Family::paired_heads`].
    Keys,
    /// A norm, for [`Family::norm_offset`].
    Norm,
    /// The positions' table, for [`Family::padded_positions`].
    Positions,
    /// The last two dimensions of the weight exchanged (`Conv1D`, experts that multiply from the other side).
    Turned,
    /// One tensor an expert in a checkpoint, all of them in one in a GGUF.
    Stacked,
    /// Gate and up in one tensor, along the second dimension of `[experts, out, in]`.
    Fused {
        /// Which of the two.
        which: Which,
        /// Whether the checkpoint has `[experts, in, out]`.
        turned: bool,
        /// Whether gate and up alternate; otherwise all of gate comes first.
        paired: bool,
    },
    /// Keys from latents: the first part of each head of `kv_b_proj`, turned.
    LatentKeys,
    /// Values from latents: the second part of each head of `kv_b_proj`.
    LatentValues,
}

/// One of two fused tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The first, or the even ones.
    Gate,
    /// The second, or the odd ones.
    Up,
}

/// A size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dim {
    /// Any.
    Any,
    /// The residual stream.
    Hidden,
    /// All query heads.
    Q,
    /// All key/value heads.
    Kv,
    /// Queries, keys and values.
    Qkv,
    /// One head.
    Head,
    /// The number of query heads.
    Heads,
    /// The number of experts.
    Experts,
    /// The compressed keys and values.
    Latent,
    /// The compressed keys and values, and the rotary part.
    LatentRope,
    /// All query heads with their rotary part.
    LatentQ,
    /// All heads' values.
    LatentV,
}

/// Whether a tensor must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// In every model and every layer.
    Must,
    /// In every layer, or in none.
    May,
    /// Wherever it is: it may be missing.
    Some,
    /// The head: [`Family::head`] decides.
    Head,
    /// Each layer has all rows of exactly one set of a choice.
    OneOf {
        /// Which choice.
        choice: u8,
        /// Which set of it.
        set: u8,
    },
}

/// Which way a row is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Both.
    Both,
    /// Only into a GGUF: another form in which checkpoints are met.
    In,
    /// Only into a checkpoint: another form in which GGUFs are met.
    Back,
}

impl Row {
    const fn new(gguf: &'static str, hf: &'static str, map: Map, dims: &'static [Dim]) -> Row {
        Row { gguf, hf, ends: Ends::Weight, map, dims, need: Need::Must, way: Way::Both }
    }

    /// What one expert's part of a tensor of fused experts is called where each has its own, in families that are never
    /// published so: as engines name quantised experts.
    pub fn single_name(&self) -> String {
        let whole = self.hf.trim_end_matches("_bias");
        let (layer, last) = whole.rsplit_once('.').unwrap_or(("", whole));
        let last = match self.map {
            Map::Fused { which: Which::Gate, .. } => "gate_proj",
            Map::Fused { which: Which::Up, .. } => "up_proj",
            _ => last,
        };
        format!("{layer}.@.{last}")
    }
}

/// Every family.
pub fn all() -> impl Iterator<Item = &'static Family> {
    decoders::FAMILIES.iter().chain(encoders::FAMILIES)
}

/// The most characters of a foreign name that are compared with known ones.
const NAME_CHARS_MAX: usize = 64;

impl Family {
    /// Every row.
    pub fn rows(&self) -> impl Iterator<Item = &'static Row> {
        self.tensors.iter().flat_map(|group| group.iter())
    }

    /// The rows of [`Family::heads`].
    pub fn head_rows(&self) -> impl Iterator<Item = &'static Row> {
        self.heads.iter().flat_map(|group| group.iter())
    }

    /// Whether a config says that the head is the embedding, or leaves it to a family where it is.
    pub(super) fn is_tied(&self, config: &Value) -> bool {
        match self.head {
            Head::None => false,
            Head::Tied => true,
            Head::Said { tied } => says_tied(config, true) || tied && !says_tied(config, false),
        }
    }

    /// The name to show: the first `model_type`.
    pub fn name(&self) -> &'static str {
        self.model_types.first().copied().unwrap_or(self.gguf)
    }
}

/// The objects of a config that speak of the language model, the nearest first: that of a wrapper's text part, then the
/// whole.
pub(in crate::transform) fn places(config: &Value) -> impl Iterator<Item = &Value> {
    const TEXT_PARTS: &[&str] = &["text_config", "llm_config", "language_config"];
    TEXT_PARTS.iter().filter_map(|part| config.get(*part)).filter(|c| c.is_object()).take(1).chain([config])
}

/// What classes end with that have a head which tells texts or tokens apart, on a model that other classes have too.
const CLASSIFIERS: &[&str] = &["ForSequenceClassification", "ForTokenClassification"];
/// What the other classes end with.
const OTHERS: &[&str] = &["Model", "LMHeadModel", "ForCausalLM", "ForMaskedLM", "ForConditionalGeneration"];

/// A class without what says its head; `None` where it ends with none of these.
fn stem<'n>(class: &'n str, ends: &[&str]) -> Option<&'n str> {
    ends.iter().find_map(|end| class.strip_suffix(end))
}

impl Family {
    /// Whether this is a class of the family. A classifier is, where the family has a class for another use of the model
    /// that it is made on.
    fn has_class(&self, class: &str) -> bool {
        self.architectures.contains(&class)
            || stem(class, CLASSIFIERS)
                .is_some_and(|model| self.architectures.iter().any(|a| stem(a, OTHERS) == Some(model)))
    }
}

/// The family of a `config.json` that shall become a GGUF.
///
/// # Errors
/// As [`of_config`]; Unsupported for a family that no GGUF is written of, and for a head that a GGUF has no place for.
pub fn of_config_for_gguf(config: &Value) -> Result<&'static Family> {
    let family = of_config(config)?;
    if !family.converts {
        return Err(Error::unsupported(format!("no GGUF is written of the family `{}`", family.name()))
            .hint("its safetensors and PyTorch files are converted into each other"));
    }
    let class = config.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
    match class {
        Some(class) if stem(class, CLASSIFIERS).is_some() && !family.architectures.contains(&class) => Err(
            Error::unsupported(format!("a GGUF has no place for the head of the class `{}`", Shown(class))),
        ),
        _ => Ok(family),
    }
}

/// Whether the config says this of the head and the embedding being one.
pub(super) fn says_tied(config: &Value, tied: bool) -> bool {
    places(config).filter_map(|p| p.get("tie_word_embeddings")?.as_bool()).any(|said| said == tied)
}

/// Whether the config's class has a head that generates text.
pub(super) fn generates(config: &Value) -> bool {
    let class = places(config).find_map(|p| p.get("architectures")?.as_array()?.first()?.as_str());
    class.is_none_or(|c| {
        ["ForCausalLM", "LMHeadModel", "ForConditionalGeneration"].iter().any(|end| c.ends_with(end))
    })
}

/// The family of a `config.json`; of a wrapper that of its text part.
///
/// # Errors
/// Unsupported where no family is known by the config's class or `model_type`; says which are known and which is nearest.
pub fn of_config(config: &Value) -> Result<&'static Family> {
    let class = |place: &Value| Some(place.get("architectures")?.as_array()?.first()?.as_str()?.to_owned());
    let kind = |place: &Value| Some(place.get("model_type")?.as_str()?.to_owned());
    let by_class = |name: &str| all().find(|f| f.has_class(name));
    let by_kind = |name: &str| all().find(|f| f.model_types.contains(&name));
    let outer = class(config);
    if let Some(family) = outer.as_deref().and_then(by_class) {
        return Ok(family);
    }
    let inner = places(config).next().filter(|text| !std::ptr::eq(*text, config));
    if let Some(text) = inner {
        let found =
            class(text).as_deref().and_then(by_class).or_else(|| kind(text).as_deref().and_then(by_kind));
        if let Some(family) = found {
            return Ok(family);
        }
    } else if outer.is_none()
        && let Some(family) = kind(config).as_deref().and_then(by_kind)
    {
        return Ok(family);
    }
    let name = outer.or_else(|| inner.and_then(kind)).or_else(|| kind(config));
    Err(match name {
        Some(name) => unknown("the config's class", &name, |f| f.architectures.iter().chain(f.model_types)),
        None => Error::unsupported("the config names neither a class in `architectures` nor a `model_type`")
            .hint(KNOWN_HINT),
    })
}

/// The family of a GGUF, by `general.architecture` and, where families share one, by what tells them apart.
///
/// # Errors
/// Unsupported where no family has that architecture; says which are known and which is nearest.
pub fn of_gguf(meta: &Meta) -> Result<&'static Family> {
    let Some(name) = meta.get("general.architecture").and_then(MetaValue::as_str) else {
        return Err(Error::unsupported("the file has no `general.architecture`").hint(KNOWN_HINT));
    };
    let number = |key: &str| meta.get(&format!("{name}.{key}")).and_then(MetaValue::as_u64);
    let tokenizer = meta.get("tokenizer.ggml.model").and_then(MetaValue::as_str);
    // Among families of one architecture: which `model_type` has these keys.
    let kind = match name {
        "llama" if number("expert_count").unwrap_or(0) > 0 => "mixtral",
        // 2 is the sigmoid, which came with the third version. Without the key engines take the softmax.
        "deepseek2" if number("expert_gating_func") == Some(2) => "deepseek_v3",
        "bert" if tokenizer == Some("t5") => "xlm-roberta",
        "bert" if tokenizer == Some("gpt2") => "roberta",
        _ => "",
    };
    let mut candidates = all().filter(|f| f.converts && f.gguf == name);
    let first = candidates.next();
    first
        .into_iter()
        .chain(candidates)
        .find(|f| f.model_types.contains(&kind))
        .or(first)
        .ok_or_else(|| unknown("the file's architecture", name, |f| std::iter::once(&f.gguf)))
}

const KNOWN_HINT: &str = "`--raw` writes the tensors under their own names, which no engine will run";

fn unknown<I: Iterator<Item = &'static &'static str>>(
    what: &str,
    name: &str,
    names: impl Fn(&'static Family) -> I,
) -> Error {
    let short: String = name.chars().take(NAME_CHARS_MAX).collect();
    let nearest = all()
        .flat_map(|f| names(f).map(move |n| (f, *n)))
        .min_by_key(|(_, known)| (distance(&short, known), known.len()));
    let mut known: Vec<&str> = all().map(Family::name).collect();
    known.sort_unstable();
    let mut detail = format!("known families: {}", known.join(", "));
    if let Some((family, nearest)) = nearest {
        detail = format!("the nearest is `{nearest}` (family `{}`)\n  {detail}", family.name());
    }
    Error::unsupported(format!("{what} `{}` is of no known family", Shown(&short)))
        .detail(detail)
        .hint(KNOWN_HINT)
}

/// How many letters must be put in, taken out or replaced to make one word of the other, case aside.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_ascii_lowercase(), b.to_ascii_lowercase());
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
