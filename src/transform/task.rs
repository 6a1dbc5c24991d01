//! What a model is for, from the files beside its weights, before any weight is read.
//!
//! `modules.json` (sentence-transformers) outranks `architectures`, which outrank `model_type`.

use crate::error::Result;
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
    /// Names by number (`id2label`); `LABEL_n` where nobody says.
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

/// The task of a model. `file` gives the JSON files beside the weights by their path (`modules.json`,
/// `1_Pooling/config.json`), `None` for one that is not there.
pub fn of(config: &Value, file: &dyn Fn(&str) -> Result<Option<Value>>) -> Result<Task> {
    let _ = (config, file);
    Err(crate::error::Error::bug("not yet"))
}

/// The task of a GGUF. `config` is the one that its keys make.
///
/// # Errors
/// As [`of`].
pub fn of_gguf(meta: &crate::checkpoint::Meta, config: &Value) -> Result<Task> {
    let _ = (meta, config);
    Err(crate::error::Error::bug("not yet"))
}
