//! Numbers of a decoder's row and a config.

use super::{Decoder, Fixed, Normed, Number, Projected, Rotation, Scale, TELLING};
use crate::error::{Error, Result};
use crate::transform::arch::families::{self, generates};
use crate::transform::arch::forward::rope::magnitude;
use crate::transform::arch::forward::{
    Activation, Attention, Embedding, Experts, Forward, Head, HeadNorm, Layer, Mlp, Norm, Pairs, Projections,
    Rope, Scope, Temperature, layers,
};
use crate::transform::arch::model_config::{RopePart, bad, shown};
use serde_json::{Value, json};
use std::collections::HashSet;

/// Epsilon of the norms inside latent attention: their class's own, whatever the config says for the others.
const LATENT_EPS: f32 = 1e-6;

impl Decoder {
    /// With a config's numbers.
    pub(in super::super) fn forward(&self, scope: &Scope<'_>) -> Result<Forward> {
        let config = scope.config;
        self.check_fixed(scope)?;
        let count = scope.layers()?;
        let norm = scope.norm(self.norm, self.eps)?;
        let heads = self.heads(scope)?;
        let windows = (self.windows)(scope, count)?;
        let causal = config.flag(&["is_causal"])? != Some(false);
        if !causal && windows.iter().any(Option::is_some) {
            return Err(unsupported("`is_causal` is `false`, with layers that look through a window"));
        }
        let slides: Vec<bool> = windows.iter().map(Option::is_some).collect();
        let (ropes, rotations) = self.ropes(scope, &heads, &slides)?;
        let activation = scope.activation(self.activation.0, self.activation.1)?;
        if self.experts.is_some_and(|e| e.bounded) && activation != Activation::Silu {
            return Err(unsupported("`hidden_act` is not `silu`, which this family's experts compute with"));
        }
        let routed = self.experts.map(|routing| routing.experts(scope, activation)).transpose()?;
        let has_experts = match self.experts {
            Some(routing) => (routing.layers)(scope, count)?,
            None => vec![false; count],
        };
        let temperature = self.temperature(scope)?;
        let mut layers = Vec::with_capacity(count);
        for (index, ((window, rope), has_experts)) in
            windows.into_iter().zip(rotations).zip(has_experts).enumerate()
        {
            layers.push(Layer {
                norm,
                norms: self.norms,
                residual_scale: self.residual_scale.of(scope)?,
                parallel: false,
                attention: Attention {
                    heads: heads.queries,
                    kv_heads: heads.keys,
                    key_dim: heads.key_dim,
                    value_dim: heads.value_dim,
                    projections: heads.projections,
                    scale: self.scale(scope, heads.key_dim, index)? as f32,
                    soft_cap: cap(scope, self.score_cap)?,
                    window,
                    rope,
                    head_norm: self.head_norm(scope, norm, rope.is_some())?,
                    sinks: self.sinks,
                    temperature: if rope.is_none() { temperature } else { None },
                },
                mlp: self.mlp(routed.as_ref().filter(|_| has_experts), activation),
            });
        }
        let context = config.count(&["max_position_embeddings", "n_positions", "n_ctx"])?;
        let head = Head {
            tied: scope.family.is_tied(scope.whole),
            scale: 1.0 / self.logit_divisor.of(scope)?,
            soft_cap: cap(scope, self.logit_cap)?,
        };
        Ok(Forward {
            family: scope.family.name(),
            hidden: scope.size("the width", scope.sizes.hidden)?,
            context: context.map(|n| scope.size("positions", n)).transpose()?,
            causal,
            embedding: Embedding {
                scale: self.embedding_scale.of(scope)?,
                positions: self.positions,
                types: false,
                norm: None,
            },
            ropes,
            layers,
            final_norm: Some(norm),
            head: generates(scope.whole).then_some(head),
        })
    }

    fn check_fixed(&self, scope: &Scope<'_>) -> Result<()> {
        let kind = scope.config.model_type();
        let another = families::all().find(|f| f.model_types.contains(&kind));
        if another.is_some_and(|f| f.name() != scope.family.name()) {
            return Err(unsupported(format!(
                "the class in `architectures` is of family `{}` and `model_type` is `{kind}`, which compute differently",
                scope.family.name()
            )));
        }
        let others = TELLING.iter().filter(|(.., asking)| !asking.contains(&self.name));
        let own = self.fixed.iter().copied();
        for (key, fixed) in own.chain(others.map(|(key, fixed, _)| (*key, *fixed))) {
            let Some(value) = scope.config.raw(&[key]) else { continue };
            if !fixed.allows(value) {
                return Err(unsupported(format!(
                    "`{key}` is {}, by which `{}` would compute what is not known here",
                    shown(value),
                    self.name
                )));
            }
        }
        Ok(())
    }

    /// Whether there are the biases that the config says, and none that it says there are not. Where it says nothing, the
    /// tensors do.
    pub(in super::super) fn check_biases(
        &self,
        scope: &Scope<'_>,
        layers: usize,
        made: &HashSet<&str>,
    ) -> Result<()> {
        for (key, stems) in self.biases {
            let Some(said) = scope.config.flag(&[key])? else { continue };
            for (layer, stem) in (0..layers).flat_map(|layer| stems.iter().map(move |stem| (layer, stem))) {
                let name = |end: &str| format!("blk.{layer}.{stem}.{end}");
                let (weight, bias) = (name("weight"), name("bias"));
                if !made.contains(weight.as_str()) || made.contains(bias.as_str()) == said {
                    continue;
                }
                let what = if said { "is missing" } else { "is there" };
                return Err(
                    Error::bad_input(format!("{what}, and the config's `{key}` is `{said}`")).tensor(bias)
                );
            }
        }
        Ok(())
    }

    fn heads(&self, scope: &Scope<'_>) -> Result<Heads> {
        let sizes = scope.sizes;
        let need = |what: &str, n: Option<u64>| match n {
            Some(n) if n > 0 => scope.size(what, n),
            _ => Err(bad(format!("has no `{what}`, which latent attention needs"))),
        };
        let queries = scope.size("heads", sizes.heads)?;
        let dim = scope.size("a head", sizes.head_dim)?;
        let mut heads = Heads {
            queries,
            keys: scope.size("key/value heads", sizes.kv_heads)?,
            key_dim: dim,
            value_dim: dim,
            rotated: dim,
            projections: Projections::Separate,
        };
        match self.projections {
            Projected::Separate => {}
            Projected::Fused => heads.projections = Projections::Fused,
            Projected::Latent => {
                let nope = need("qk_nope_head_dim", sizes.qk_nope_head_dim)?;
                let rope = need("qk_rope_head_dim", sizes.qk_rope_head_dim)?;
                let rank = need("kv_lora_rank", sizes.kv_lora_rank)?;
                let compressed = scope.config.count(&["q_lora_rank"])?;
                heads.projections =
                    Projections::Latent { queries: compressed.is_some(), rank, nope, rope, eps: LATENT_EPS };
                heads.key_dim = nope.saturating_add(rope);
                heads.value_dim = need("v_head_dim", sizes.v_head_dim)?;
                heads.rotated = rope;
            }
        }
        if heads.keys == 0 || !heads.queries.is_multiple_of(heads.keys) {
            return Err(bad(format!(
                "says {} heads and {} key/value heads, which do not divide them",
                heads.queries, heads.keys
            )));
        }
        if self.projections == Projected::Latent && heads.keys != heads.queries {
            return Err(unsupported(format!(
                "`num_key_value_heads` is `{}` and there are {} heads, and latent attention has one for each",
                heads.keys, heads.queries
            )));
        }
        for (heads, dim) in
            [(heads.queries, heads.key_dim), (heads.queries, heads.value_dim), (heads.keys, dim)]
        {
            scope.size("all heads", (heads as u64).saturating_mul(dim as u64))?;
        }
        Ok(heads)
    }

    /// The rotary embeddings, and which of them each layer has.
    fn ropes(
        &self,
        scope: &Scope<'_>,
        heads: &Heads,
        slides: &[bool],
    ) -> Result<(Vec<Rope>, Vec<Option<usize>>)> {
        let (full, sliding) = (&scope.rope.full, &scope.rope.sliding);
        let every = |n: Option<usize>| vec![n; slides.len()];
        let pairs = self.pairs(scope)?;
        let rotate = |part: &RopePart<'_>, rotated| scope.rotary(part, rotated, pairs);
        if sliding.is_some() && !matches!(self.rotation, Rotation::ByWindow(_)) {
            return Err(unsupported(format!(
                "the config tells rotary embeddings of layers apart, and `{}` has one for all",
                self.name
            )));
        }
        Ok(match self.rotation {
            Rotation::None => (Vec::new(), every(None)),
            Rotation::Said
                if ["rope_parameters", "rope_scaling"]
                    .iter()
                    .all(|key| scope.config.raw(&[key]).is_none()) =>
            {
                return Err(bad("has no `rope_parameters`, which this family needs"));
            }
            Rotation::All | Rotation::Said => (vec![rotate(full, heads.rotated)?], every(Some(0))),
            Rotation::Partly => {
                // phi3's class takes YaRN for LongRoPE.
                let kind = if full.kind == "yarn" && self.name == "phi3" { "longrope" } else { full.kind };
                let rotated = part_of(scope, heads.rotated)?;
                (vec![scope.rotary_of_kind(kind, full, rotated, pairs)?], every(Some(0)))
            }
            Rotation::Listed => {
                let rotates = layers::rotated_layers(scope, slides.len())?;
                let places = rotates.into_iter().map(|rotates| rotates.then_some(0)).collect();
                (vec![rotate(full, heads.rotated)?], places)
            }
            Rotation::ByWindow(theta) => {
                let plain = RopePart::plain(theta.or(full.theta));
                let sliding = sliding.as_ref().unwrap_or(&plain);
                let ropes = vec![rotate(full, heads.rotated)?, rotate(sliding, heads.rotated)?];
                (ropes, slides.iter().map(|&slides| Some(usize::from(slides))).collect())
            }
        })
    }

    fn pairs(&self, scope: &Scope<'_>) -> Result<Pairs> {
        if self.projections == Projected::Latent && scope.config.flag(&["rope_interleave"])? == Some(false) {
            return Ok(Pairs::Halves);
        }
        Ok(if scope.family.paired_heads { Pairs::Neighbours } else { self.pairs })
    }

    fn scale(&self, scope: &Scope<'_>, key_dim: usize, layer: usize) -> Result<f64> {
        let usual = 1.0 / (key_dim as f64).sqrt();
        Ok(match self.score_scale {
            Scale::Key => usual,
            Scale::KeyOrDepth => {
                let scale = if scope.says("scale_attn_weights")? { usual } else { 1.0 };
                if scope.says("scale_attn_by_inverse_layer_idx")? {
                    scale / (layer + 1) as f64
                } else {
                    scale
                }
            }
            Scale::Said(key) => scope.positive(key)?.into(),
            Scale::RootOf(key) => 1.0 / f64::from(scope.positive(key)?).sqrt(),
            Scale::Latent => {
                let part = &scope.rope.full;
                let mscale = match part.kind {
                    "default" => None,
                    _ => part.float("mscale_all_dim")?.filter(|&m| m != 0.0),
                };
                match mscale {
                    None => usual,
                    Some(mscale) => usual * magnitude(part.need_float("factor")?, mscale).powi(2),
                }
            }
        })
    }

    fn head_norm(&self, scope: &Scope<'_>, norm: Norm, rotates: bool) -> Result<HeadNorm> {
        Ok(match self.head_norm {
            Normed::EachHead => HeadNorm::EachHead(norm),
            Normed::AllHeads => HeadNorm::AllHeads(norm),
            Normed::EachHeadIf(key) if scope.says(key)? => HeadNorm::EachHead(norm),
            Normed::BareIf(key) if rotates && scope.says(key)? => HeadNorm::BareAfterRope(norm.eps),
            _ => HeadNorm::None,
        })
    }

    fn temperature(&self, scope: &Scope<'_>) -> Result<Option<Temperature>> {
        const KEY: &str = "attn_temperature_tuning";
        // The first configs of this family have a number here.
        let on = match scope.config.raw(&[KEY]) {
            _ if !self.temperature => return Ok(None),
            None => true,
            Some(Value::Bool(on)) => *on,
            Some(Value::Number(n)) => n.as_f64() != Some(0.0),
            Some(other) => {
                return Err(bad(format!("`{KEY}` is {} where true or false is needed", shown(other))));
            }
        };
        let numbers = || {
            let scale = scope.config.need_float(&["attn_scale"])? as f32;
            Ok(Temperature { floor_scale: scope.config.need_count(&["floor_scale"])?.max(1) as f32, scale })
        };
        on.then(numbers).transpose()
    }

    fn mlp(&self, experts: Option<&Experts>, activation: Activation) -> Mlp {
        match experts {
            Some(experts) => Mlp::Experts(experts.clone()),
            None => Mlp::Dense { gate: self.gate, activation },
        }
    }
}

/// Sizes of attention.
struct Heads {
    queries: usize,
    keys: usize,
    key_dim: usize,
    value_dim: usize,
    rotated: usize,
    projections: Projections,
}

impl Number {
    fn of(self, scope: &Scope<'_>) -> Result<f32> {
        match self {
            Number::One => Ok(1.0),
            Number::RootOfWidth => Ok((scope.sizes.hidden as f64).sqrt() as f32),
            Number::Key(key) => scope.positive(key),
        }
    }
}

impl Fixed {
    fn allows(self, value: &Value) -> bool {
        match self {
            Fixed::Is(flag) => *value == json!(flag),
            Fixed::One => value.as_f64() == Some(1.0),
            Fixed::Text(text) => *value == json!(text),
            Fixed::Empty => *value == json!([]),
            Fixed::Absent => false,
        }
    }
}

/// What the config caps something at, where it does.
fn cap(scope: &Scope<'_>, key: Option<&'static str>) -> Result<Option<f32>> {
    let Some(key) = key else { return Ok(None) };
    scope.config.float(&[key])?.map(|_| scope.positive(key)).transpose()
}

/// The share of a head that is rotated, from where either dialect has it.
fn part_of(scope: &Scope<'_>, head: usize) -> Result<usize> {
    const KEY: &str = "partial_rotary_factor";
    let outside = scope.config.float(&[KEY])?;
    let share = scope.rope.full.float(KEY)?.or(outside).unwrap_or(1.0);
    if !(0.0..=1.0).contains(&share) {
        return Err(bad(format!("`{KEY}` is `{share}`, where a share from 0 to 1 is needed")));
    }
    Ok((head as f64 * share) as usize)
}

fn unsupported(message: impl Into<String>) -> Error {
    Error::unsupported(message).file("config.json")
}
