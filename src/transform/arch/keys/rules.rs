//! The rows that compute. Each is a fact of a family that is not one number in both files.

pub(super) mod rope;

use super::super::model_config::{ModelConfig, bad, shown};
use super::{Keys, Scope, count, float};
use crate::checkpoint::{MetaArray, MetaValue};
use crate::error::{Error, Result};
use crate::text::Shown;

/// llama.cpp's numbers for how experts are chosen (`llama_expert_gating_func_type`).
pub(super) const SOFTMAX: u32 = 1;
pub(super) const SIGMOID: u32 = 2;

/// How experts are chosen, and llama.cpp's number for it.
const GATINGS: &[(&str, u32)] = &[("softmax", SOFTMAX), ("sigmoid", SIGMOID), ("sqrtsoftplus", 4)];

type Maybe = Result<Option<MetaValue>>;

fn unsupported(message: String) -> Error {
    Error::unsupported(message).file("config.json")
}

pub(super) fn file_type(scope: &Scope<'_>) -> Maybe {
    Ok(Some(MetaValue::U32(scope.extra.file_type)))
}

/// Layers that only predict further tokens stand behind the others and are counted with them.
pub(super) fn block_count(scope: &Scope<'_>) -> Maybe {
    let layers = scope.config.need_count(&["num_hidden_layers", "n_layers", "n_layer", "num_layers"])?;
    count(layers.saturating_add(scope.extra.prediction_layers)).map(Some)
}

pub(super) fn prediction_layers(scope: &Scope<'_>) -> Maybe {
    match scope.extra.prediction_layers {
        0 => Ok(None),
        n => count(n).map(Some),
    }
}

pub(super) fn not_causal(scope: &Scope<'_>) -> Maybe {
    Ok(scope.config.flag(&["is_causal"])?.filter(|causal| !causal).map(MetaValue::Bool))
}

/// The embedding's rows decide, because they are what is there; the config's number only where they are not known.
pub(super) fn vocab_size(scope: &Scope<'_>) -> Maybe {
    match scope.extra.vocab_rows {
        0 => count(scope.config.need_count(&["vocab_size"])?).map(Some),
        rows => count(rows).map(Some),
    }
}

pub(super) fn head_dim(scope: &Scope<'_>) -> Maybe {
    let said = scope.config.count(&["head_dim"])?;
    count(said.map_or_else(|| scope.config.hidden_per_head(), Ok)?).map(Some)
}

pub(super) fn hidden_per_head(scope: &Scope<'_>) -> Maybe {
    let each = scope.config.hidden_per_head()?;
    match scope.config.count(&["head_dim"])? {
        Some(said) if said != each => Err(unsupported(format!(
            "`head_dim` is `{said}`, and an engine computes `{}` with `{each}`",
            scope.arch
        ))),
        _ => count(each).map(Some),
    }
}

pub(super) fn gating(scope: &Scope<'_>) -> Maybe {
    const NAMES: &[&str] = &[
        "score_function",
        "scoring_func",
        "score_func",
        "moe_router_activation",
        "moe_router_activation_func",
    ];
    let Some(name) = scope.config.text(NAMES)? else { return Ok(None) };
    match GATINGS.iter().find(|(known, _)| *known == name) {
        Some((_, id)) => Ok(Some(MetaValue::U32(*id))),
        None => Err(unsupported(format!(
            "`{}` is a way of choosing experts that no engine is known for",
            Shown(name)
        ))),
    }
}

// --- windows ---

/// Engines of these families look at the whole context whatever the config says.
pub(super) fn note_window(scope: &Scope<'_>, keys: &mut Keys) -> Result<()> {
    let config = scope.config;
    let Some(window) = config.count(&["sliding_window"])?.filter(|&n| n > 0) else { return Ok(()) };
    let context = config.count(&["max_position_embeddings"])?;
    if config.flag(&["use_sliding_window"])? != Some(false) && context.is_some_and(|context| window < context)
    {
        keys.notes.push(format!(
            "the window of {window} positions is not kept by the engine for `{}`: beyond it tokens see more than in the original",
            scope.arch
        ));
    }
    Ok(())
}

/// The type of each layer: true where it looks through a window. `None` where the config does not say.
fn windows(config: &ModelConfig<'_>) -> Result<Option<Vec<bool>>> {
    let Some(list) = config.list(&["layer_types"])? else { return Ok(None) };
    let each = list.iter().map(|layer| match layer.as_str() {
        Some("sliding_attention") => Ok(true),
        Some("full_attention") => Ok(false),
        _ => Err(unsupported(format!("`layer_types` names {}, which is not known here", shown(layer)))),
    });
    each.collect::<Result<_>>().map(Some)
}

/// gemma2, gemma3, gpt-oss: every n-th layer sees everything. An engine knows the usual n; another one is said.
pub(super) fn note_layer_types(scope: &Scope<'_>, keys: &mut Keys) -> Result<()> {
    let usual = if scope.arch == "gemma3" { 6 } else { 2 };
    let period = match windows(scope.config)? {
        None => scope.config.count(&["sliding_window_pattern", "_sliding_window_pattern"])?.unwrap_or(usual),
        Some(windows) => {
            // With fewer layers than a period nothing contradicts the usual one.
            let first_full = windows.iter().position(|sliding| !sliding).map_or(usual, |at| at as u64 + 1);
            let fits =
                |period: u64| (1u64..).zip(&windows).all(|(n, &sliding)| sliding != n.is_multiple_of(period));
            match [usual, first_full].into_iter().find(|&period| fits(period)) {
                Some(period) => period,
                None => {
                    return Err(unsupported(format!(
                        "`layer_types` follows no period, and an engine computes `{}` with one layer in {usual} that sees \
                         everything",
                        scope.arch
                    )));
                }
            }
        }
    };
    if period != usual && period > 0 {
        // The reference converter leaves this out, and the engine then takes its usual period.
        keys.put(scope.key("attention.sliding_window_pattern"), count(period)?);
    }
    Ok(())
}

pub(super) fn gemma3_window(scope: &Scope<'_>) -> Maybe {
    if scope.config.count(&["sliding_window_pattern"])? == Some(1) {
        return Ok(None);
    }
    count(scope.config.need_count(&["sliding_window"])?).map(Some)
}

/// Olmo 3 shares Olmo 2's architecture and looks through windows; which layers do is an array.
pub(super) fn olmo_window(scope: &Scope<'_>, keys: &mut Keys) -> Result<()> {
    let config = scope.config;
    let Some(window) = config.count(&["sliding_window"])? else { return Ok(()) };
    let pattern = match windows(config)? {
        Some(windows) => windows,
        None => {
            let layers = config.need_count(&["num_hidden_layers"])?;
            // One truth value a layer: no model has more layers than this, and a number alone must not fill memory.
            if layers > LAYERS_MAX {
                return Err(bad(format!(
                    "`num_hidden_layers` is `{layers}` where at most {LAYERS_MAX} are possible"
                )));
            }
            (1..=layers).map(|n| !n.is_multiple_of(4)).collect()
        }
    };
    keys.put(scope.key("attention.sliding_window"), count(window)?);
    keys.put(scope.key("attention.sliding_window_pattern"), MetaValue::Array(MetaArray::of_bools(&pattern)));
    Ok(())
}

/// The most layers that an array is written for.
const LAYERS_MAX: u64 = 65_536;

/// smollm3, llama4: every fourth layer goes without rotary embeddings, and an engine counts for itself.
pub(super) fn every_fourth_without_rope(scope: &Scope<'_>, _: &mut Keys) -> Result<()> {
    let config = scope.config;
    let interval = config.count(&["no_rope_layer_interval"])?.unwrap_or(4);
    let fits = match config.list(&["no_rope_layers"])? {
        Some(list) if !list.is_empty() => {
            (1u64..).zip(list).all(|(n, value)| value.as_u64() == Some(u64::from(!n.is_multiple_of(4))))
        }
        _ => interval == 4,
    };
    if !fits {
        return Err(unsupported(format!(
            "`no_rope_layers` is not every fourth layer, which is what an engine computes for `{}`",
            scope.arch
        )));
    }
    Ok(())
}

pub(super) fn llama4_window(scope: &Scope<'_>) -> Maybe {
    // Zero says that no layer looks at chunks only.
    let Some(list) = scope.config.list(&["layer_types"])? else { return Ok(None) };
    let all_full = list.iter().all(|layer| layer.as_str() == Some("full_attention"));
    Ok(all_full.then_some(MetaValue::U32(0)))
}

// --- gemma ---

/// The layers of the 27 billion models, whose engine scales queries by the hidden size.
const LAYERS_27B: &[(&str, u64)] = &[("gemma2", 46), ("gemma3", 62)];

/// What an engine takes for `query_pre_attn_scalar`.
pub(super) fn query_scale(arch: &str, layers: u64, hidden_per_head: Option<u64>, head_dim: u64) -> u64 {
    let by_hidden = LAYERS_27B.contains(&(arch, layers)).then_some(hidden_per_head).flatten();
    by_hidden.unwrap_or(head_dim)
}

pub(super) fn note_query_scale(scope: &Scope<'_>, keys: &mut Keys) -> Result<()> {
    let config = scope.config;
    let Some(said) = config.float(&["query_pre_attn_scalar"])? else { return Ok(()) };
    let layers = config.need_count(&["num_hidden_layers"])?;
    let engine =
        query_scale(scope.arch, layers, Some(config.hidden_per_head()?), config.need_count(&["head_dim"])?);
    if said != engine as f64 {
        keys.notes.push(format!(
            "`query_pre_attn_scalar` is `{said}`, and the engine computes `{}` with {engine}: its answers differ from the original",
            scope.arch
        ));
    }
    Ok(())
}

/// gemma2 always caps: a cap that is switched off would be taken for the usual one.
fn cap(scope: &Scope<'_>, key: &'static str) -> Maybe {
    match scope.config.float(&[key])?.filter(|&x| x > 0.0) {
        Some(cap) => Ok(Some(float(cap))),
        None => Err(unsupported(format!(
            "`{key}` is off, and an engine computes `{}` with it always",
            scope.arch
        ))),
    }
}

pub(super) fn gemma2_attention_cap(scope: &Scope<'_>) -> Maybe {
    cap(scope, "attn_logit_softcapping")
}

pub(super) fn gemma2_final_cap(scope: &Scope<'_>) -> Maybe {
    cap(scope, "final_logit_softcapping")
}

// --- gpt2 ---

/// Four times the hidden size unless the config says otherwise. (The reference converter never asks.)
pub(super) fn gpt2_feed_forward(scope: &Scope<'_>) -> Maybe {
    let said = scope.config.count(&["n_inner"])?;
    let hidden = scope.config.need_count(&["n_embd", "hidden_size"])?;
    count(said.unwrap_or_else(|| hidden.saturating_mul(4))).map(Some)
}

// --- deepseek ---

/// What is cached for a token: the compressed vector and the rotary part beside it.
pub(super) fn latent_key(scope: &Scope<'_>) -> Maybe {
    sum(scope, "kv_lora_rank", "qk_rope_head_dim")
}

pub(super) fn latent_value(scope: &Scope<'_>) -> Maybe {
    count(scope.config.need_count(&["kv_lora_rank"])?).map(Some)
}

/// What a query or key has once it is decompressed.
pub(super) fn latent_head(scope: &Scope<'_>) -> Maybe {
    sum(scope, "qk_nope_head_dim", "qk_rope_head_dim")
}

fn sum(scope: &Scope<'_>, one: &'static str, other: &'static str) -> Maybe {
    count(scope.config.need_count(&[one])?.saturating_add(scope.config.need_count(&[other])?)).map(Some)
}

/// All layers are dense where there are no experts, none where nothing is said.
pub(super) fn leading_dense(scope: &Scope<'_>) -> Maybe {
    let config = scope.config;
    let said = match (config.count(&["first_k_dense_replace"])?, config.count(&["n_routed_experts"])?) {
        (Some(n), _) => n,
        (None, Some(_)) => 0,
        (None, None) => config.need_count(&["num_hidden_layers"])?,
    };
    count(said).map(Some)
}

pub(super) fn shared_experts(scope: &Scope<'_>) -> Maybe {
    count(scope.config.count(&["n_shared_experts"])?.unwrap_or(0)).map(Some)
}

pub(super) fn norm_if_true(scope: &Scope<'_>) -> Maybe {
    Ok(scope.config.flag(&["norm_topk_prob"])?.filter(|&norm| norm).map(MetaValue::Bool))
}

/// Neighbours are rotated together in the checkpoint too, so there is nothing to permute; the other layout is refused.
pub(super) fn rope_interleave(scope: &Scope<'_>, keys: &mut Keys) -> Result<()> {
    if scope.config.flag(&["rope_interleave"])? == Some(false) {
        return Err(unsupported(
            "`rope_interleave` is `false`, which no engine computes for `deepseek2`".to_owned(),
        ));
    }
    let layers = scope.config.need_count(&["num_hidden_layers"])?;
    if scope.config.count(&["q_lora_rank"])?.is_none() && !matches!(layers, 26 | 27 | 48) {
        keys.notes.push(format!(
            "`q_lora_rank` is not said, and llama.cpp goes without it only for models of 26, 27 or 48 layers; this one has {layers}"
        ));
    }
    Ok(())
}

// --- other mixtures ---

pub(super) fn note_top_k(scope: &Scope<'_>, keys: &mut Keys) -> Result<()> {
    if scope.config.flag(&["norm_topk_prob"])? == Some(false) {
        keys.notes.push(
            "`norm_topk_prob` is `false`, and the engine computes `qwen3moe` as if it were `true`: its answers differ from the original"
                .to_owned(),
        );
    }
    Ok(())
}

/// The bounds of gpt-oss's activation are the engine's own.
pub(super) fn gpt_oss_fixed(scope: &Scope<'_>, keys: &mut Keys) -> Result<()> {
    for (key, engine) in [("swiglu_limit", 7.0), ("swiglu_alpha", 1.702)] {
        if let Some(said) = scope.config.float(&[key])?.filter(|&said| said != engine) {
            keys.notes.push(format!(
                "`{key}` is `{said}`, and the engine computes `gpt-oss` with {engine}: its answers differ from the original"
            ));
        }
    }
    Ok(())
}

/// Chunks and the temperature that grows with the position are the engine's own.
pub(super) fn note_llama4(scope: &Scope<'_>, keys: &mut Keys) -> Result<()> {
    let config = scope.config;
    let context = config.count(&["max_position_embeddings"])?.unwrap_or(0);
    for (key, engine) in [("attention_chunk_size", 8192), ("floor_scale", 8192)] {
        if let Some(said) = config.count(&[key])?.filter(|&said| said != engine && said.min(engine) < context)
        {
            keys.notes.push(format!(
                "`{key}` is `{said}`, and the engine computes `llama4` with {engine}: its answers to more than {} tokens differ from the original",
                said.min(engine)
            ));
        }
    }
    if config.flag(&["attn_temperature_tuning"])? == Some(false) {
        keys.notes.push(
            "`attn_temperature_tuning` is `false`, and the engine computes `llama4` with it".to_owned(),
        );
    }
    Ok(())
}

// --- encoders ---

/// RoBERTa's positions begin behind the padding's, so the first rows of the table are never used and not written.
const POSITIONS_BEHIND_PADDING: &[&str] = &["roberta", "xlm-roberta", "camembert", "xlm-roberta-xl"];

pub(super) fn bert_context(scope: &Scope<'_>) -> Maybe {
    let config = scope.config;
    let positions = config.need_count(&["max_position_embeddings"])?;
    if !POSITIONS_BEHIND_PADDING.contains(&config.model_type()) {
        return count(positions).map(Some);
    }
    // `null` says that nothing is padded, and then every row is used.
    let unused = config.count(&["pad_token_id"])?.map_or(0, |padding| padding.saturating_add(1));
    let left = positions.checked_sub(unused).ok_or_else(|| {
        bad(format!(
            "`max_position_embeddings` is `{positions}`, which leaves none behind the {unused} of the padding"
        ))
    })?;
    count(left).map(Some)
}

pub(super) fn pooling(scope: &Scope<'_>) -> Maybe {
    Ok(scope.extra.pooling.map(|pooling| MetaValue::U32(pooling as u32)))
}

/// The classes of a classifier, in order. The two that transformers invents are no names.
pub(super) fn labels(scope: &Scope<'_>) -> Maybe {
    let Some(labels) = scope.config.raw(&["id2label"]) else { return Ok(None) };
    let wrong = || bad(format!("`id2label` is {} where numbers and their names are needed", shown(labels)));
    let mut named: Vec<(u64, &str)> = Vec::new();
    for (id, name) in labels.as_object().ok_or_else(wrong)? {
        named.push((id.parse().map_err(|_| wrong())?, name.as_str().ok_or_else(wrong)?));
    }
    named.sort_unstable();
    let invented = named.len() == 2 && named.first().is_some_and(|(_, name)| *name == "LABEL_0");
    if named.is_empty() || invented {
        return Ok(None);
    }
    Ok(Some(MetaValue::Array(MetaArray::of_texts(named.iter().map(|(_, name)| name)))))
}
