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

/// BERT's norms: after what is added to the stream.
const AFTER: Norms = Norms {
    attention_in: None,
    attention_out: None,
    attention_sum: Some("attn_output_norm"),
    mlp_in: None,
    mlp_out: None,
    mlp_sum: Some("layer_output_norm"),
};

/// The sizes that every encoder has.
struct Shape {
    hidden: usize,
    heads: usize,
    head_dim: usize,
    layers: usize,
    context: Option<usize>,
}

impl Scope<'_> {
    fn shape(&self) -> Result<Shape> {
        const CONTEXT: &[&str] = &["max_position_embeddings", "n_positions"];
        let sizes = self.sizes;
        // RoBERTa's first positions are for padding: no token has them.
        let unused = match sizes.pad_id {
            Some(pad) if self.family.padded_positions => pad.saturating_add(1),
            _ => 0,
        };
        let context = self.config.count(CONTEXT)?.map(|n| n.saturating_sub(unused)).filter(|&n| n > 0);
        Ok(Shape {
            hidden: self.size("the width", sizes.hidden)?,
            heads: self.size("heads", sizes.heads)?,
            head_dim: self.size("the elements of a head", sizes.head_dim)?,
            layers: self.layers()?,
            context: context.and_then(|n| usize::try_from(n).ok()),
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
    let norm = scope.norm(NormKind::Layer, &["layer_norm_eps"])?;
    after(scope, norm, scope.activation(&["hidden_act"], Activation::Gelu)?, true)
}

/// DistilBERT: BERT without types. The epsilon is in its code. Positions are read from the file, also where they were
/// made as sines.
fn distilbert(scope: &Scope<'_>) -> Result<Forward> {
    let norm = Norm { kind: NormKind::Layer, eps: 1e-12 };
    after(scope, norm, scope.activation(&["activation"], Activation::Gelu)?, false)
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
    let norm = scope.norm(NormKind::Layer, &["norm_eps"])?;
    let mlp =
        Mlp::Dense { gate: Gate::FirstHalf, activation: scope.activation(&["hidden_activation"], Activation::Gelu)? };
    // The key counts both sides.
    let local = scope.config.need_count(&["local_attention"])?;
    let around = Window::Around(scope.size("the window", local)? / 2);
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
    const EVERY: &str = "global_attn_every_n_layers";
    let Some(list) = scope.config.list(&["layer_types"])? else {
        let every = scope.size("a period of layers", scope.config.need_count(&[EVERY])?)?;
        if every == 0 {
            return Err(bad(format!("`{EVERY}` is `0`, and no layer comes so often")));
        }
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
    let norm = scope.norm(NormKind::Layer, &[if old { "layer_norm_epsilon" } else { "layer_norm_eps" }])?;
    let rope = scope.rotary(&scope.rope.full, shape.head_dim, Pairs::Halves)?;
    let attention = Attention { rope: Some(0), ..attention(shape, Projections::Fused) };
    let mlp = Mlp::Dense { gate: Gate::Separate, activation: Activation::Silu };
    let layer = layer(norm, AFTER, attention, mlp);
    let embedding = Embedding { scale: 1.0, positions: false, types: true, norm: Some(norm) };
    let forward = encoder(scope, shape, embedding, vec![layer; shape.layers]);
    Ok(Forward { ropes: vec![rope], ..forward })
}
