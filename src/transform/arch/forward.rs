//! How a model computes: everything about a forward pass that is not a tensor, resolved to numbers.
//!
//! Families differ in facts and not in kinds of code: where norms stand, how positions are rotated, what a layer looks at,
//! how experts are chosen. [`Forward`] holds these facts for one model, one [`Layer`] for each of its layers, so that
//! whoever computes walks over data and asks no family's name. It is made from a `config.json` by the family's row
//! ([`of_config`]); a GGUF's keys become such a config first ([`super::keys::to_config`]).
//!
//! Tensors are called by the names and lie in the layout that a GGUF has them in (`blk.3.attn_q.weight`, `[out, in]`,
//! experts stacked, one already added to norms that need it): the one naming in which every family and every container
//! meets ([`super::translate::to_forward`]).
//!
//! Sources: the modelling files of `transformers` 5.23, for encoders with code of their own that of their repositories.

mod decoders;
mod encoders;
mod experts;
mod layers;
mod rope;

use super::families::{self, Family, Sizes};
use super::model_config::{self, ModelConfig, bad};
use crate::error::{Error, Result};
use crate::text::{Shown, grouped};
use serde_json::Value;

/// What a forward pass of one model does.
#[derive(Debug, Clone, PartialEq)]
pub struct Forward {
    /// The family's name.
    pub family: &'static str,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Positions the model was made for, where the config says.
    pub context: Option<usize>,
    /// Whether a token sees only those before it.
    pub causal: bool,
    /// From token ids to the residual stream.
    pub embedding: Embedding,
    /// Rotary embeddings that layers refer to by their place.
    pub ropes: Vec<Rope>,
    /// The layers, in order.
    pub layers: Vec<Layer>,
    /// The norm behind the last layer (`output_norm`).
    pub final_norm: Option<Norm>,
    /// From the residual stream to logits over the vocabulary, where the model has such a head.
    pub head: Option<Head>,
}

/// From token ids to the residual stream: `token_embd[id]`, then scaled, then positions and types added, then normed.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// Each token's embedding is multiplied by this.
    pub scale: f32,
    /// Whether learned positions (`position_embd`) are added, the first token's being row 0.
    pub positions: bool,
    /// Whether the embedding of the token's type (`token_types`) is added; type 0 where nobody says otherwise.
    pub types: bool,
    /// The norm of the sum (`token_embd_norm`).
    pub norm: Option<Norm>,
}

/// A norm over the last dimension. Its weight and, where the file has one, its bias are tensors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// Which kind.
    pub kind: NormKind,
    /// Added under the root.
    pub eps: f32,
}

/// Kinds of norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// Divided by the root of the mean square.
    Rms,
    /// Mean subtracted, divided by the standard deviation.
    Layer,
}

/// From the residual stream to logits.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// Whether the weight is `token_embd` where there is no `output`.
    pub tied: bool,
    /// Logits are multiplied by this.
    pub scale: f32,
    /// Then `cap · tanh(x / cap)`.
    pub soft_cap: Option<f32>,
}

/// One layer: `x += s · out(attention(in(x)))`, then the same with the feed-forward part. Norms stand where
/// [`Norms`] names a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Kind and epsilon of the layer's norms.
    pub norm: Norm,
    /// Which norms there are.
    pub norms: Norms,
    /// What is added to the stream is multiplied by this first.
    pub residual_scale: f32,
    /// Whether the feed-forward part reads what attention read, and both are added at once.
    pub parallel: bool,
    /// Attention.
    pub attention: Attention,
    /// The feed-forward part.
    pub mlp: Mlp,
}

/// The norms of a layer by the name of their tensor behind `blk.N.`, without `.weight`; `None` where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Norms {
    /// Of what attention reads.
    pub attention_in: Option<&'static str>,
    /// Of what attention gives, before it is added.
    pub attention_out: Option<&'static str>,
    /// Of the stream after attention was added.
    pub attention_sum: Option<&'static str>,
    /// Of what the feed-forward part reads.
    pub mlp_in: Option<&'static str>,
    /// Of what the feed-forward part gives, before it is added.
    pub mlp_out: Option<&'static str>,
    /// Of the stream after the feed-forward part was added.
    pub mlp_sum: Option<&'static str>,
}

/// Attention of one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Elements of a head's query and key.
    pub key_dim: usize,
    /// Elements of a head's value.
    pub value_dim: usize,
    /// Where queries, keys and values come from.
    pub projections: Projections,
    /// Scores are multiplied by this (`1/√key_dim` as a rule).
    pub scale: f32,
    /// Then `cap · tanh(x / cap)`.
    pub soft_cap: Option<f32>,
    /// What of the past (and, without causality, of the future) is seen; all of it where there is none.
    pub window: Option<Window>,
    /// The rotary embedding, by its place in [`Forward::ropes`].
    pub rope: Option<usize>,
    /// Norms of queries and keys.
    pub head_norm: HeadNorm,
    /// Whether each head has a logit that takes part in the softmax and adds nothing (`attn_sinks.weight`).
    pub sinks: bool,
    /// Queries grow with the position.
    pub temperature: Option<Temperature>,
}

/// Where queries, keys and values come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Projections {
    /// `attn_q`, `attn_k`, `attn_v`, each with a bias where the file has one.
    Separate,
    /// `attn_qkv`: all queries, all keys, all values.
    Fused,
    /// Compressed (multi-head latent attention): `attn_kv_a_mqa` gives a latent of `rank`, normed by `attn_kv_a_norm`, and
    /// `rope` elements of one key that all heads share. `attn_k_b` `[heads, rank, nope]` and `attn_v_b`
    /// `[heads, value, rank]` make each head's keys and values of the latent. Queries of each head are `nope` elements
    /// without position, then `rope` with; they come from `attn_q`, or through `attn_q_a`, `attn_q_a_norm`, `attn_q_b`.
    Latent {
        /// Whether queries are compressed too.
        queries: bool,
        /// Width of the latent.
        rank: usize,
        /// Elements of a head's key without position.
        nope: usize,
        /// Elements with position.
        rope: usize,
        /// Epsilon of the two norms.
        eps: f32,
    },
}

/// What a token at position `i` sees of position `j`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// `i - j < n`: itself and n − 1 before it.
    Sliding(usize),
    /// The same chunk of n positions: `i / n == j / n`.
    Chunked(usize),
    /// `|i - j| <= n`.
    Around(usize),
}

/// Norms of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HeadNorm {
    /// None.
    None,
    /// Each head by itself, before rotation: `attn_q_norm`, `attn_k_norm` of `[key_dim]`.
    EachHead(Norm),
    /// All heads at once, before rotation: `[heads · key_dim]`.
    AllHeads(Norm),
    /// Each head divided by the root of its mean square, after rotation, with no weight.
    BareAfterRope(f32),
}

/// Queries at position p (counted from 0) are multiplied by `1 + scale · ln(1 + floor((p + 1) / floor_scale))`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Temperature {
    /// Positions for one step.
    pub floor_scale: f32,
    /// Size of a step.
    pub scale: f32,
}

/// A rotary embedding: the angle of pair `i` at position `p` is `p · inverse_frequencies[i]`. One that stretches with the
/// length (`dynamic`) is so within [`Forward::context`] only.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// One for each pair; twice as many elements of a head are rotated, the first ones, and the rest pass.
    pub inverse_frequencies: Vec<f32>,
    /// Others, where the sequence is longer than this many positions (`longrope`).
    pub long: Option<(usize, Vec<f32>)>,
    /// Sine and cosine are multiplied by this.
    pub scale: f32,
    /// Which elements are a pair.
    pub pairs: Pairs,
}

/// Which elements of a head are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairs {
    /// `i` and `i + n/2` of the n that are rotated.
    Halves,
    /// `2i` and `2i + 1`.
    Neighbours,
}

/// The feed-forward part of one layer.
#[derive(Debug, Clone, PartialEq)]
pub enum Mlp {
    /// `ffn_up`, `ffn_gate`, `ffn_down`.
    Dense {
        /// Whether and where there is a gate.
        gate: Gate,
        /// Of the gate, or of the whole where there is none.
        activation: Activation,
    },
    /// `ffn_up_exps`, `ffn_gate_exps`, `ffn_down_exps`, each `[experts, out, in]`, chosen by `ffn_gate_inp`.
    Experts(Experts),
}

/// Where the gate is: `down(activation(gate(x)) · up(x))`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// None: `down(activation(up(x)))`.
    None,
    /// `ffn_gate`.
    Separate,
    /// The first half of the rows of `ffn_up`; the second is what is gated.
    FirstHalf,
}

/// Activations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// With the error function.
    Gelu,
    /// With the hyperbolic tangent.
    GeluTanh,
    /// `max(0, x)`.
    Relu,
    /// gpt-oss: gate at most `limit`, up within ±`limit`, `gate · sigmoid(alpha · gate) · (up + 1)`.
    ClampedSwiglu {
        /// Slope.
        alpha: f32,
        /// Limit.
        limit: f32,
    },
}

/// Experts of one layer, and how tokens are given to them.
#[derive(Debug, Clone, PartialEq)]
pub struct Experts {
    /// How many.
    pub count: usize,
    /// How many a token goes to.
    pub used: usize,
    /// From the router's outputs to scores.
    pub scoring: Scoring,
    /// Whether `exp_probs_b.bias` is added to the scores for choosing only.
    pub correction: bool,
    /// Experts are chosen from some groups of them only.
    pub groups: Option<Groups>,
    /// Whether the weights of the chosen are divided by their sum, and what is added to that.
    pub normalise: Option<f32>,
    /// Then multiplied by this.
    pub scale: f32,
    /// Whether an expert's input, and not its output, is multiplied by the weight.
    pub scales_input: bool,
    /// Of the gate.
    pub activation: Activation,
    /// Whether there is an expert for every token too (`ffn_*_shexp`), with the same activation.
    pub shared: bool,
}

/// From the router's outputs to scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scoring {
    /// Softmax over all experts.
    Softmax,
    /// Softmax over the chosen, which are those with the largest outputs.
    SoftmaxOfChosen,
    /// Sigmoid of each.
    Sigmoid,
}

/// Groups of experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups {
    /// How many there are.
    pub count: usize,
    /// How many are chosen from.
    pub used: usize,
    /// Whether a group's score is the sum of its two best; else its best.
    pub two_best: bool,
}

/// The forward pass of a `config.json`'s model.
///
/// # Errors
/// `Unsupported` where the family is unknown, or asks for what no field here can say; `BadInput` for a config that
/// contradicts itself.
pub fn of_config(config: &Value) -> Result<Forward> {
    let family = families::of_config(config)?;
    let sizes = &Sizes::of_config(config)?;
    let whole = config;
    let config = &ModelConfig::new(config)?;
    let rope = &config.rope()?;
    let scope = &Scope { family, sizes, whole, config, rope };
    let forward = match (decoders::find(scope), encoders::ROWS.iter().find(|row| row.family == family.name()))
    {
        (Some(decoder), _) => decoder.forward(scope)?,
        (None, Some(row)) => (row.forward)(scope)?,
        (None, None) => {
            let name = family.name();
            return Err(Error::unsupported(format!("nobody here knows how the family `{name}` computes")));
        }
    };
    config.rope_all_read(rope)?;
    Ok(forward)
}

/// How one family that no [`decoders`] row says computes.
struct Row {
    /// Its name: [`Family::name`].
    family: &'static str,
    /// From a config of this family.
    forward: fn(&Scope<'_>) -> Result<Forward>,
}

/// What a row sees.
struct Scope<'s> {
    family: &'static Family,
    /// Sizes by which the tensors are checked.
    sizes: &'s Sizes,
    /// The whole `config.json`.
    whole: &'s Value,
    config: &'s ModelConfig<'s>,
    rope: &'s model_config::Rope<'s>,
}

/// More than any model has, of layers and of any width: what is made for them stays small, and products do not overflow.
const LAYERS_MAX: u64 = 4096;
const SIZE_MAX: u64 = 1 << 31;

impl Scope<'_> {
    /// The number of layers.
    fn layers(&self) -> Result<usize> {
        match usize::try_from(self.sizes.layers) {
            Ok(layers) if self.sizes.layers <= LAYERS_MAX => Ok(layers),
            _ => Err(bad(format!(
                "says that there are {} layers, where at most {LAYERS_MAX} are possible",
                grouped(self.sizes.layers)
            ))),
        }
    }

    /// A number of `what` that is used in products.
    fn size(&self, what: &str, n: u64) -> Result<usize> {
        match usize::try_from(n) {
            Ok(size) if n <= SIZE_MAX => Ok(size),
            _ => Err(bad(format!("says {} for {what}, which cannot be", grouped(n)))),
        }
    }

    /// Whether the config says yes.
    fn says(&self, key: &str) -> Result<bool> {
        Ok(self.config.flag(&[key])? == Some(true))
    }

    /// A number above zero that this family needs.
    fn positive(&self, key: &str) -> Result<f32> {
        let found = self.config.need_float(&[key])?;
        match found as f32 {
            x if x > 0.0 && x.is_finite() => Ok(x),
            _ => Err(bad(format!("`{key}` is `{found}`, where a number above zero is needed"))),
        }
    }

    /// A norm whose epsilon is under the first of these keys.
    fn norm(&self, kind: NormKind, eps: &[&str]) -> Result<Norm> {
        let found = self.config.need_float(eps)?;
        if found < 0.0 {
            let key = eps.first().unwrap_or(&"");
            return Err(bad(format!("`{key}` is `{found}`, which no root can be taken of")));
        }
        Ok(Norm { kind, eps: found as f32 })
    }

    /// The activation under the first of these keys; `usual` where there is none.
    ///
    /// # Errors
    /// `Unsupported` for one that is not known here.
    fn activation(&self, keys: &[&str], usual: Activation) -> Result<Activation> {
        let Some(name) = self.config.text(keys)? else { return Ok(usual) };
        let row = ACTIVATIONS.iter().find(|(known, _)| *known == name);
        row.map(|(_, activation)| *activation).ok_or_else(|| {
            let key = keys.first().unwrap_or(&"");
            Error::unsupported(format!("`{key}` is `{}`, an activation that is not known here", Shown(name)))
                .file("config.json")
        })
    }
}

/// Names in `transformers`' `ACT2FN`. Those with the hyperbolic tangent are one formula written several ways.
const ACTIVATIONS: &[(&str, Activation)] = &[
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("gelu", Activation::Gelu),
    ("gelu_python", Activation::Gelu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu_accurate", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_python_tanh", Activation::GeluTanh),
    ("relu", Activation::Relu),
];
