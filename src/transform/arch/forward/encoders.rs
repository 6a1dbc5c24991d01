//! How encoders compute.
//!
//! A row reads a config in the dialects that its checkpoints are published with and refuses what it does not know: nomic's
//! BERT comes with Python of its own, which is never run, so a key that its code would obey is either known here or an
//! error.
//!
//! Sources: `modeling_bert.py`, `modeling_roberta.py`, `modeling_distilbert.py`, `modeling_modernbert.py` and
//! `modeling_nomic_bert.py` of transformers 5.23; the published configs of nomic-embed-text for its older dialect.

use super::{
    Activation, Attention, Embedding, Forward, Gate, HeadNorm, Layer, Mlp, Norm, NormKind, Norms, Pairs,
    Projections, Row, Scope, Window,
};
use crate::error::{Error, Result};
use crate::text::Shown;
use crate::transform::arch::model_config::{bad, shown};
use serde_json::{Value, json};

pub(super) const ROWS: &[Row] = &[
    Row { family: "bert", forward: bert },
    Row { family: "roberta", forward: bert },
    Row { family: "xlm-roberta", forward: bert },
    Row { family: "camembert", forward: bert },
    Row { family: "distilbert", forward: distilbert },
    Row { family: "modernbert", forward: modernbert },
    Row { family: "nomic_bert", forward: nomic_bert },
];

/// The most layers an encoder has; a number alone must not fill memory.
const LAYERS_MAX: usize = 1024;

/// Names of activations in configs.
const ACTIVATIONS: &[(&str, Activation)] = &[
    ("gelu", Activation::Gelu),
    ("gelu_python", Activation::Gelu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("relu", Activation::Relu),
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
];

/// BERT's norms: after what is added to the stream.
const AFTER: Norms = Norms {
    attention_in: None,
    attention_out: None,
    attention_sum: Some("attn_output_norm"),
    mlp_in: None,
    mlp_out: None,
    mlp_sum: Some("layer_output_norm"),
};

/// The sizes that every encoder has, by the names that its configs have for them.
struct Shape {
    hidden: usize,
    heads: usize,
    head_dim: usize,
    layers: usize,
    context: Option<usize>,
}

impl Scope<'_> {
    fn size(&self, names: &[&str]) -> Result<usize> {
        let count = self.config.need_count(names)?;
        usize::try_from(count).ok().filter(|&n| n > 0).ok_or_else(|| {
            bad(format!("`{}` is `{count}`, and no model has that", names.first().unwrap_or(&"")))
        })
    }

    fn shape(&self) -> Result<Shape> {
        const CONTEXT: &[&str] = &["max_position_embeddings", "n_positions"];
        let hidden = self.size(&["hidden_size", "n_embd", "dim"])?;
        let heads = self.size(&["num_attention_heads", "n_head", "n_heads"])?;
        let layers = self.size(&["num_hidden_layers", "n_layer", "n_layers"])?;
        if layers > LAYERS_MAX {
            return Err(bad(format!("has {layers} layers, and no encoder has more than {LAYERS_MAX}")));
        }
        if !hidden.is_multiple_of(heads) {
            return Err(bad(format!("is {hidden} wide, which {heads} heads do not divide")));
        }
        // RoBERTa's first positions are for padding: no token has them.
        let unused = match self.family.padded_positions {
            true => self.config.count(&["pad_token_id"])?.map_or(0, |pad| pad.saturating_add(1)),
            false => 0,
        };
        let context = match self.config.count(CONTEXT)? {
            None => None,
            Some(n) => usize::try_from(n.saturating_sub(unused)).ok().filter(|&n| n > 0),
        };
        Ok(Shape { hidden, heads, head_dim: hidden / heads, layers, context })
    }

    fn norm(&self, names: &[&str]) -> Result<Norm> {
        Ok(Norm { kind: NormKind::Layer, eps: self.config.need_float(names)? as f32 })
    }

    fn activation(&self, names: &[&str], usual: &'static str) -> Result<Activation> {
        let name = self.config.text(names)?.unwrap_or(usual);
        ACTIVATIONS.iter().find(|(known, _)| *known == name).map(|(_, a)| *a).ok_or_else(|| {
            unsupported(format!("the activation `{}` is not known for `{}`", Shown(name), self.family.name()))
        })
    }

    /// What keys must say, or be absent where that means the same.
    fn demand(&self, keys: &[(&str, Absent, Value)]) -> Result<()> {
        for (key, absent, expected) in keys {
            let found = self.config.raw(&[key]);
            let fits = match found {
                Some(value) => {
                    value == expected || value.as_f64().is_some_and(|x| Some(x) == expected.as_f64())
                }
                None => *absent == Fine,
            };
            if !fits {
                let found = found.map_or("absent".to_owned(), shown);
                let error = unsupported(format!(
                    "`{key}` is {found}, and `{}` is computed as with `{expected}`",
                    self.family.name()
                ));
                return Err(match self.config.outer("auto_map") {
                    Some(_) => error.detail("the model brings code of its own for this, which is never run"),
                    None => error,
                });
            }
        }
        Ok(())
    }
}

/// What it means that a key is not there.
#[derive(Clone, Copy, PartialEq)]
enum Absent {
    /// What is wanted.
    Fine,
    /// Something else.
    Wrong,
}
use Absent::{Fine, Wrong};

fn unsupported(message: String) -> Error {
    Error::unsupported(message).file("config.json")
}

fn attention(shape: &Shape, projections: Projections) -> Attention {
    Attention {
        heads: shape.heads,
        kv_heads: shape.heads,
        key_dim: shape.head_dim,
        value_dim: shape.head_dim,
        projections,
        scale: (shape.head_dim as f64).sqrt().recip() as f32,
        soft_cap: None,
        window: None,
        rope: None,
        head_norm: HeadNorm::None,
        sinks: false,
        temperature: None,
    }
}

fn layer(norm: Norm, norms: Norms, attention: Attention, mlp: Mlp) -> Layer {
    Layer { norm, norms, residual_scale: 1.0, parallel: false, attention, mlp }
}

fn encoder(scope: &Scope<'_>, shape: &Shape, embedding: Embedding, layers: Vec<Layer>) -> Forward {
    Forward {
        family: scope.family.name(),
        hidden: shape.hidden,
        context: shape.context,
        causal: false,
        embedding,
        ropes: Vec::new(),
        layers,
        final_norm: None,
        head: None,
    }
}

/// BERT, and RoBERTa with its relatives, which differ in where positions begin.
fn bert(scope: &Scope<'_>) -> Result<Forward> {
    scope.demand(&[
        ("position_embedding_type", Fine, json!("absolute")),
        ("is_decoder", Fine, json!(false)),
        ("add_cross_attention", Fine, json!(false)),
    ])?;
    let norm = scope.norm(&["layer_norm_eps"])?;
    after(scope, norm, scope.activation(&["hidden_act"], "gelu")?, true)
}

/// DistilBERT: BERT without types. The epsilon is in its code. Positions are read from the file, also where they were
/// made as sines.
fn distilbert(scope: &Scope<'_>) -> Result<Forward> {
    let norm = Norm { kind: NormKind::Layer, eps: 1e-12 };
    after(scope, norm, scope.activation(&["activation"], "gelu")?, false)
}

/// An encoder with learned positions and norms behind each part.
fn after(scope: &Scope<'_>, norm: Norm, activation: Activation, types: bool) -> Result<Forward> {
    let shape = &scope.shape()?;
    let mlp = Mlp::Dense { gate: Gate::None, activation };
    let layer = layer(norm, AFTER, attention(shape, Projections::Separate), mlp);
    let embedding = Embedding { scale: 1.0, positions: true, types, norm: Some(norm) };
    Ok(encoder(scope, shape, embedding, vec![layer; shape.layers]))
}

/// ModernBERT: norms before each part, a gate, rotated positions; most layers look at their surroundings only, with a rope
/// of their own.
fn modernbert(scope: &Scope<'_>) -> Result<Forward> {
    let shape = &scope.shape()?;
    let norm = scope.norm(&["norm_eps"])?;
    let mlp =
        Mlp::Dense { gate: Gate::FirstHalf, activation: scope.activation(&["hidden_activation"], "gelu")? };
    // The key counts both sides.
    let around = Window::Around(scope.size(&["local_attention"])? / 2);
    let sliding = scope.rope.sliding.as_ref().unwrap_or(&scope.rope.full);
    let rope = |part| scope.rotary(part, shape.head_dim, Pairs::Halves);
    let ropes = vec![rope(&scope.rope.full)?, rope(sliding)?];
    let layers = locals(scope, shape.layers)?.into_iter().enumerate().map(|(index, local)| {
        let norms = Norms {
            attention_in: (index > 0).then_some("attn_norm"),
            mlp_in: Some("ffn_norm"),
            ..Norms::default()
        };
        let attention = Attention {
            window: local.then_some(around),
            rope: Some(usize::from(local)),
            ..attention(shape, Projections::Fused)
        };
        layer(norm, norms, attention, mlp.clone())
    });
    let embedding = Embedding { scale: 1.0, positions: false, types: false, norm: Some(norm) };
    let forward = encoder(scope, shape, embedding, layers.collect());
    Ok(Forward { ropes, final_norm: Some(norm), ..forward })
}

/// Which layers look at their surroundings only: as `layer_types` says, else all but every n-th, the first being one that
/// sees everything.
fn locals(scope: &Scope<'_>, layers: usize) -> Result<Vec<bool>> {
    let Some(list) = scope.config.list(&["layer_types"])? else {
        let every = scope.size(&["global_attn_every_n_layers"])?;
        return Ok((0..layers).map(|index| !index.is_multiple_of(every)).collect());
    };
    if list.len() != layers {
        return Err(bad(format!("`layer_types` has {} entries for {layers} layers", list.len())));
    }
    let local = |kind: &Value| match kind.as_str() {
        Some("sliding_attention") => Ok(true),
        Some("full_attention") => Ok(false),
        _ => Err(unsupported(format!("`layer_types` names {}, which is not known here", shown(kind)))),
    };
    list.iter().map(local).collect()
}

/// nomic's BERT: norms after each part, a gate, rotated positions. `n_embd` tells the dialect of its own code, where what
/// is absent means something else than in transformers.
fn nomic_bert(scope: &Scope<'_>) -> Result<Forward> {
    let old = scope.config.raw(&["n_embd"]).is_some();
    let (activation, usual) = match old {
        true => ("activation_function", "gelu_new"),
        false => ("hidden_act", "silu"),
    };
    scope.demand(&[
        ("rotary_emb_fraction", if old { Wrong } else { Fine }, json!(1.0)),
        ("rotary_emb_interleaved", Fine, json!(false)),
        ("prenorm", Fine, json!(false)),
        ("parallel_block", Fine, json!(false)),
        ("use_rms_norm", Fine, json!(false)),
        ("causal", Fine, json!(false)),
        ("scale_attn_weights", Fine, json!(true)),
        ("scale_attn_by_inverse_layer_idx", Fine, json!(false)),
        ("moe_every_n_layers", Fine, json!(0)),
    ])?;
    if old && scope.config.raw(&["rotary_emb_base"]).is_none() {
        return Err(bad("has no `rotary_emb_base`, which this family needs"));
    }
    let name = scope.config.text(&[activation])?.unwrap_or(usual);
    if !["swiglu", "silu", "swish"].contains(&name) || old && name != "swiglu" {
        return Err(unsupported(format!("the activation `{}` is not known for `nomic_bert`", Shown(name))));
    }
    let shape = &scope.shape()?;
    let norm = scope.norm(&[if old { "layer_norm_epsilon" } else { "layer_norm_eps" }])?;
    let rope = scope.rotary(&scope.rope.full, shape.head_dim, Pairs::Halves)?;
    let attention = Attention { rope: Some(0), ..attention(shape, Projections::Fused) };
    let mlp = Mlp::Dense { gate: Gate::Separate, activation: Activation::Silu };
    let layer = layer(norm, AFTER, attention, mlp);
    let embedding = Embedding { scale: 1.0, positions: false, types: true, norm: Some(norm) };
    let forward = encoder(scope, shape, embedding, vec![layer; shape.layers]);
    Ok(Forward { ropes: vec![rope], ..forward })
}
