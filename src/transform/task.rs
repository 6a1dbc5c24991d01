//! What a model is for, from the files beside its weights, before any weight is read.
//!
//! `modules.json` (sentence-transformers) outranks `architectures`, which outrank `model_type`. What a GGUF is for, its keys
//! and its tensors say ([`of_gguf`]). Which tensors of a head there must be is known once the task is: [`settle`] holds the
//! recipe against it.

mod classes;
mod modules;
mod settle;

pub use settle::settle;

use crate::checkpoint::{Meta, MetaValue};
use crate::error::{Error, Result};
use crate::text::Shown;
use crate::transform::arch::families::{self, Family, Head};
use serde_json::Value;

/// What a model is for, and what stands on top of its layers for it.
#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    /// Predicts the next token.
    Causal,
    /// Makes one vector of a text.
    Embedding(Embedding),
    /// Only hidden states: an encoder that nobody said more of.
    Hidden,
    /// One score or several for a text, or for a pair of texts (reranking).
    Sequence(Classes),
    /// Scores for each token.
    Token(Classes),
}

/// From hidden states to one vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// How tokens become one.
    pub pooling: Pooling,
    /// Layers behind the pooling, by their folder (`2_Dense`).
    pub dense: Vec<Dense>,
    /// Whether the vector is divided by its length.
    pub normalise: bool,
}

/// How the vectors of tokens become one; padding never takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The sum divided by the root of the count.
    MeanSqrt,
    /// The first.
    Cls,
    /// The last.
    Last,
    /// The largest of each element.
    Max,
}

/// A layer behind the pooling.
#[derive(Debug, Clone, PartialEq)]
pub struct Dense {
    /// The folder with its weights (`linear.weight`, `linear.bias`).
    pub folder: String,
    /// Width of its input.
    pub inputs: usize,
    /// Width of its output.
    pub outputs: usize,
    /// Whether it has a bias.
    pub bias: bool,
    /// `tanh`, or nothing.
    pub tanh: bool,
}

/// Classes that a text, or a token, is told apart by: hidden states, pooled for a text, then `cls` with its activation, then
/// `cls.norm`, then `cls.output`, as far as there are such tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct Classes {
    /// How tokens become one vector; `None` for scores of each token.
    pub pooling: Option<Pooling>,
    /// The activation behind the dense layer `cls`, where there is one.
    pub dense: Option<TopActivation>,
    /// The epsilon of a layer norm `cls.norm` behind that.
    pub norm: Option<f32>,
    /// Names by number (`id2label`); `LABEL_n` where nobody says. Empty until [`settle`] where only the tensors tell how
    /// many there are.
    pub labels: Vec<String>,
    /// What makes a probability of the scores.
    pub probability: Probability,
}

/// Activations of a head's dense layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopActivation {
    /// Hyperbolic tangent.
    Tanh,
    /// `max(0, x)`.
    Relu,
    /// With the error function.
    Gelu,
    /// `x · sigmoid(x)`.
    Silu,
}

/// From scores to probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probability {
    /// One of the classes.
    Softmax,
    /// Each by itself, or a single score.
    Sigmoid,
    /// The score is what is asked for.
    Identity,
}

impl Probability {
    /// The probabilities of one text's, or one token's, scores.
    pub fn of(self, scores: &[f32]) -> Vec<f32> {
        match self {
            Probability::Identity => scores.to_vec(),
            Probability::Sigmoid => scores.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
            Probability::Softmax => {
                let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let each: Vec<f32> = scores.iter().map(|x| (x - top).exp()).collect();
                let sum: f32 = each.iter().sum();
                each.into_iter().map(|x| x / sum).collect()
            }
        }
    }
}

/// Classes of transformers by what they end with.
const CLASSES: &[(&str, Use)] = &[
    ("ForSequenceClassification", Use::Sequence),
    ("ForTokenClassification", Use::Token),
    ("ForCausalLM", Use::Causal),
    ("LMHeadModel", Use::Causal),
    ("ForConditionalGeneration", Use::Causal),
    ("ForMaskedLM", Use::Hidden),
    ("ForPreTraining", Use::Hidden),
    ("Model", Use::Hidden),
];

/// What a class is for.
#[derive(Clone, Copy)]
enum Use {
    Sequence,
    Token,
    Causal,
    Hidden,
}

/// The task of a model. `file` gives the JSON files beside the weights by their path (`modules.json`,
/// `1_Pooling/config.json`), `None` for one that is not there.
///
/// # Errors
/// `Unsupported`: an unknown family, a class or a module that is not known here. `BadInput`: files that contradict
/// themselves. What `file` gives.
pub fn of(config: &Value, file: &dyn Fn(&str) -> Result<Option<Value>>) -> Result<Task> {
    if let Some(task) = modules::of(file)? {
        return Ok(task);
    }
    let family = families::of_config(config)?;
    let class = config.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
    let Some(class) = class else {
        return Ok(if is_encoder(family) { Task::Hidden } else { Task::Causal });
    };
    // What the end does not say: GPT-2 is called a double-headed model where it has a second head.
    let known = CLASSES.iter().find(|(end, _)| class.ends_with(end)).map(|(_, what)| *what);
    match known {
        Some(Use::Sequence) => classes::of_sequences(family, config).map(Task::Sequence),
        Some(Use::Token) => classes::of_tokens(family, config).map(Task::Token),
        Some(Use::Hidden) => Ok(Task::Hidden),
        Some(Use::Causal) if is_encoder(family) => Err(unknown(class)),
        Some(Use::Causal) => Ok(Task::Causal),
        None => Err(unknown(class)),
    }
}

fn is_encoder(family: &Family) -> bool {
    family.head == Head::None
}

fn unknown(class: &str) -> Error {
    Error::unsupported(format!("the class `{}` is for a task that is not known here", Shown(class)))
        .file("config.json")
        .detail(
            "known are causal language models, embeddings, sequence classification (reranking) and token classification",
        )
}

/// llama.cpp's numbers for how the vectors of tokens become one (`llama_pooling_type`).
const POOLINGS: &[(u64, Option<Pooling>)] =
    &[(0, None), (1, Some(Pooling::Mean)), (2, Some(Pooling::Cls)), (3, Some(Pooling::Last))];
/// A head that gives scores.
const RANK: u64 = 4;

/// The task of a GGUF, by its keys; `config` is the one that its keys and tensors make. An embedding is divided by its
/// length, as llama.cpp's programs do unless they are told otherwise.
///
/// # Errors
/// `Unsupported`: an unknown family, a pooling that is not known here. `BadInput`: a key of the wrong type.
pub fn of_gguf(meta: &Meta, config: &Value) -> Result<Task> {
    let family = families::of_gguf(meta)?;
    let key = format!("{}.pooling_type", family.gguf);
    let number = match meta.get(&key) {
        None => None,
        Some(value) => {
            Some(value.as_u64().ok_or_else(|| Error::bad_input(format!("the key `{key}` is not a count")))?)
        }
    };
    let class = config.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
    if number == Some(RANK) || class.is_some_and(|class| class.ends_with("ForSequenceClassification")) {
        return classes::of_gguf(family, meta).map(Task::Sequence);
    }
    let plain = if is_encoder(family) { Task::Hidden } else { Task::Causal };
    let Some(number) = number else { return Ok(plain) };
    match POOLINGS.iter().find(|(known, _)| *known == number) {
        Some((_, Some(pooling))) => {
            Ok(Task::Embedding(Embedding { pooling: *pooling, dense: Vec::new(), normalise: true }))
        }
        Some((_, None)) => Ok(plain),
        None => Err(Error::unsupported(format!("the key `{key}` is `{number}`, which is not known here"))),
    }
}

/// The labels that a GGUF names.
fn labels_of(meta: &Meta, family: &Family) -> Vec<String> {
    let key = format!("{}.classifier.output_labels", family.gguf);
    let texts = meta.get(&key).and_then(MetaValue::as_array).and_then(|array| array.texts());
    texts
        .into_iter()
        .flatten()
        .take(classes::LABELS_MAX)
        .map(|text| String::from_utf8_lossy(text).into_owned())
        .collect()
}

/// The most tokens of a text: the least that one of the files says. BERT and its relatives have 512 where nobody says.
/// A tokenizer that was given no limit writes 10³⁰.
///
/// # Errors
/// `Unsupported`: an unknown family.
pub fn max_length(
    config: &Value,
    tokenizer_config: Option<&Value>,
    sentence_bert_config: Option<&Value>,
) -> Result<Option<usize>> {
    /// Beyond this a limit is none.
    const LIMIT_MAX: f64 = 1e9;
    const USUAL: usize = 512;
    let family = families::of_config(config)?;
    let number = |value: Option<&Value>| {
        let x = value?.as_f64().filter(|x| (1.0..=LIMIT_MAX).contains(x))?;
        Some(x as usize)
    };
    let of_config = |key: &str| {
        number(families::places(config).find_map(|place| place.get(key).filter(|v| !v.is_null())))
    };
    let pad = number(config.get("pad_token_id")).unwrap_or(1);
    let unused = if family.padded_positions { pad.saturating_add(1) } else { 0 };
    let limits = [
        of_config("max_position_embeddings").map(|n| n.saturating_sub(unused).max(1)),
        of_config("n_positions"),
        sentence_bert_config.and_then(|c| number(c.get("max_seq_length"))),
        of_config("max_seq_length"),
        tokenizer_config.and_then(|c| number(c.get("model_max_length"))),
    ];
    Ok(limits.into_iter().flatten().min().or(is_encoder(family).then_some(USUAL)))
}
