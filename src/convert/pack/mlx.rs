//! What MLX's own converter (mlx-lm's `quantize_model`) makes of a model: every linear layer and every embedding is quantised
//! whose columns fill groups, the head too; some families ask for eight bits in places; experts lie in one tensor for each
//! projection, under the names that mlx-lm's `sanitize` gives them.
//!
//! Families whose experts are stacked in another way, or whose attention is rearranged before it is quantised, are refused.

use super::layer;
use crate::convert::draft::Draft;
use crate::error::{Error, Result};
use crate::text::Shown;
use crate::transform::recipe::Output;
use serde_json::Value as Json;
use std::collections::HashMap;

/// What a kind of model has of its own.
#[derive(Debug)]
pub(super) struct Rules {
    /// `model_type` in a config.
    model_type: &'static str,
    /// What projections of experts are called, and what they are called in a stack.
    experts: &'static [(&'static str, &'static str)],
    /// Whether what chooses among experts is a linear layer there, which is quantised.
    pub(super) linear_routers: bool,
    /// How names of modules end that have eight bits, in groups of 64.
    eight: &'static [&'static str],
}

/// What holds where no row says otherwise.
const PLAIN: Rules = Rules { model_type: "", experts: &[], linear_routers: false, eight: &[] };
const NAMED: &[(&str, &str)] =
    &[("gate_proj", "gate_proj"), ("up_proj", "up_proj"), ("down_proj", "down_proj")];
/// Mixtral: w1 is the gate, w2 goes down, w3 goes up.
const NUMBERED: &[(&str, &str)] = &[("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj")];

/// From mlx-lm 0.32's `models`: `sanitize` and `quant_predicate`.
#[rustfmt::skip]
const RULES: &[Rules] = &[
    Rules { model_type: "mixtral",   experts: NUMBERED, linear_routers: true, ..PLAIN },
    Rules { model_type: "qwen2_moe", experts: NAMED,    linear_routers: true, ..PLAIN },
    Rules { model_type: "qwen3_moe", experts: NAMED,    linear_routers: true, eight: &["mlp.gate"] },
    Rules { model_type: "olmoe",     experts: NAMED,    linear_routers: true, ..PLAIN },
    Rules { model_type: "glm4_moe",  experts: NAMED,    ..PLAIN },
    Rules { model_type: "granite",   eight: &["self_attn.o_proj", "mlp.down_proj", "lm_head"], ..PLAIN },
];

/// The segment of a name that says that the tensor holds a projection of all experts.
const STACK: &str = "switch_mlp";

/// Whether a tensor holds a projection of all experts, `[experts, out, in]`.
pub(super) fn is_stack(name: &str, shape: &[u64]) -> bool {
    shape.len() == 3 && name.ends_with(".weight") && name.split('.').any(|segment| segment == STACK)
}

impl Rules {
    /// Those of a config's model.
    pub(super) fn of(config: &Json) -> &'static Rules {
        let places = [Some(config), config.get("text_config")];
        let kind = |place: &Json| place.get("model_type").and_then(Json::as_str).map(str::to_owned);
        let kinds: Vec<String> = places.into_iter().flatten().filter_map(kind).collect();
        RULES.iter().find(|r| kinds.iter().any(|k| k == r.model_type)).unwrap_or(&PLAIN)
    }

    /// Whether a module has eight bits.
    pub(super) fn is_eight(&self, module: &str) -> bool {
        self.eight.iter().any(|end| {
            module.strip_suffix(end).is_some_and(|before| before.is_empty() || before.ends_with('.'))
        })
    }

    /// The stack that an expert's projection goes into, and the expert's number.
    fn stacked(&self, name: &str) -> Option<(String, u64)> {
        let module = name.strip_suffix(".weight")?;
        let (parent, rest) = module.split_once(".experts.")?;
        let (expert, last) = rest.split_once('.')?;
        let (_, stacked) = self.experts.iter().find(|(own, _)| *own == last)?;
        Some((format!("{parent}.{STACK}.{stacked}.weight"), expert.parse().ok()?))
    }
}

/// One expert's projection, and which expert's.
type Member = (u64, Output);

/// Joins the experts of a draft, each of which is a matrix by itself, projection by projection. Layers of multi-token
/// prediction are left as they are.
///
/// # Errors
/// `Unsupported`: experts of a family without rules. `BadInput`: experts missing, or of several types or shapes.
pub(super) fn stack(draft: &mut Draft, rules: &Rules, layers: Option<u64>) -> Result<()> {
    let is_layer = |name: &str| layer(name).zip(layers).is_none_or(|(n, layers)| n < layers);
    let outputs = std::mem::take(&mut draft.recipe.outputs);
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut stacks: Vec<(usize, Vec<Member>)> = Vec::new();
    for output in outputs {
        if !super::is_expert(&output.name) || !is_layer(&output.name) {
            draft.recipe.outputs.push(output);
            continue;
        }
        let Some((name, expert)) = rules.stacked(&output.name) else {
            return Err(Error::unsupported(
                "belongs to experts that mlx-lm stacks in a way hoist does not know",
            )
            .tensor(&output.name)
            .hint("--scheme int4, or --scheme awq"));
        };
        let place = *places.entry(name.clone()).or_insert_with(|| {
            stacks.push((draft.recipe.outputs.len(), Vec::new()));
            draft.recipe.outputs.push(Output { name, parts: Vec::new(), ..output.clone() });
            stacks.len() - 1
        });
        stacks[place].1.push((expert, output));
    }
    for (at, mut members) in stacks {
        // Tables are in the order of names, in which 10 comes before 2.
        members.sort_by_key(|(expert, _)| *expert);
        let into = &mut draft.recipe.outputs[at];
        for (number, (expert, one)) in members.iter().enumerate() {
            if *expert != number as u64 {
                return Err(Error::bad_input(format!("lacks expert {number}")).tensor(&into.name));
            }
            if one.shape != into.shape || one.dtype != into.dtype {
                return Err(Error::bad_input(format!(
                    "is `{}` of shape {:?}, where `{}` is `{}` of shape {:?}",
                    one.dtype,
                    one.shape,
                    Shown(&members[0].1.name),
                    into.dtype,
                    into.shape
                ))
                .tensor(&one.name));
            }
        }
        into.shape.insert(0, members.len() as u64);
        into.parts = members.into_iter().flat_map(|(_, one)| one.parts).collect();
    }
    draft.firsts = (0..draft.recipe.outputs.len()).collect();
    Ok(())
}

/// What a config says of a module that differs from all others.
pub(super) fn entry(bits: u32, group: u64) -> Json {
    serde_json::json!({ "group_size": group, "bits": bits })
}
