//! Rotary embeddings: what is scaled and how, which bases, how much of a head.

use super::super::super::model_config::{ModelConfig, RopePart, bad, shown};
use super::super::{Keys, Scope, count, float};
use super::{Maybe, unsupported};
use crate::checkpoint::{MetaArray, MetaValue};
use crate::error::Result;
use crate::text::Shown;
use serde_json::Value;

/// The architectures whose engine multiplies rotary frequencies by a tensor, which is how llama3's scaling is said.
const WITH_FREQUENCY_TENSOR: &[&str] = &["llama", "llama4", "granite"];

/// The architectures whose engine has a rotary base of its own for layers that look through a window.
const WITH_SLIDING_BASE: &[&str] = &["gemma3"];

/// The base that an engine takes without being told.
const DEFAULT_BASE: f64 = 10_000.0;

/// Sections of a multi-dimensional rotary embedding: time, height, width, one to spare.
const SECTIONS: usize = 4;

pub(in super::super) fn theta(scope: &Scope<'_>) -> Maybe {
    Ok(scope.rope.full.theta.map(float))
}

/// Scaling, sections, bases.
pub(in super::super) fn rope(scope: &Scope<'_>, keys: &mut Keys) -> Result<()> {
    let full = &scope.rope.full;
    let mut put = |suffix: &str, value: MetaValue| keys.put(scope.key(suffix), value);
    let kind = full.kind.to_ascii_lowercase();
    match kind.as_str() {
        "default" => {}
        "linear" => {
            put("rope.scaling.type", "linear".into());
            put("rope.scaling.factor", float(full.need_float("factor")?));
        }
        "yarn" => {
            put("rope.scaling.type", "yarn".into());
            put("rope.scaling.factor", float(full.need_float("factor")?));
            put("rope.scaling.original_context_length", count(original_context(scope.config, full)?)?);
            let attention = match full.float("attention_factor")? {
                None => full.float("attn_factor")?,
                said => said,
            };
            for (suffix, value) in [
                ("rope.scaling.yarn_ext_factor", full.float("extrapolation_factor")?),
                ("rope.scaling.yarn_attn_factor", attention),
                ("rope.scaling.yarn_beta_fast", full.float("beta_fast")?),
                ("rope.scaling.yarn_beta_slow", full.float("beta_slow")?),
            ] {
                if let Some(value) = value {
                    put(suffix, float(value));
                }
            }
            // Whether the scaling was trained with changes nothing that is computed.
            full.raw("finetuned");
            if full.raw("truncate") == Some(&Value::Bool(false)) {
                keys.notes.push(
                    "the bounds of the rotary scaling (`truncate` is `false`) are rounded to whole dimensions by the engine"
                        .to_owned(),
                );
            }
        }
        "llama3" if WITH_FREQUENCY_TENSOR.contains(&scope.arch) => {
            // Said by the tensor `rope_freqs.weight`; the numbers are looked at here so that one missing is an error.
            for key in ["factor", "low_freq_factor", "high_freq_factor"] {
                full.need_float(key)?;
            }
            original_context(scope.config, full)?;
        }
        "dynamic" => {
            full.need_float("factor")?;
            for key in ["alpha", "original_max_position_embeddings"] {
                full.raw(key);
            }
            keys.notes.push(
                "the rotary scaling `dynamic` begins beyond the context length; no engine does that, so longer contexts differ"
                    .to_owned(),
            );
        }
        _ => {
            return Err(unsupported(format!(
                "the rotary scaling `{}` is not known for `{}`: a model converted without it would compute something else",
                Shown(full.kind),
                scope.arch
            )));
        }
    }
    if let Some(sections) = full.raw("mrope_section") {
        keys.put(scope.key("rope.dimension_sections"), self::sections(sections)?);
    }
    if let Some(theta) = full.theta {
        keys.put(scope.key("rope.freq_base"), float(theta));
    }
    let Some(sliding) = &scope.rope.sliding else { return Ok(()) };
    let same = sliding.theta == full.theta && full.kind == "default";
    match (WITH_SLIDING_BASE.contains(&scope.arch), sliding.kind, sliding.theta) {
        (true, "default", Some(theta)) => keys.put(scope.key("rope.freq_base_swa"), float(theta)),
        (false, "default", _) if same => {}
        _ => {
            return Err(unsupported(format!(
                "layers that look through a window have a rotary embedding of their own (`{}`), which an engine does not \
                 compute for `{}`",
                Shown(sliding.kind),
                scope.arch
            )));
        }
    }
    Ok(())
}

fn sections(value: &Value) -> Result<MetaValue> {
    let wrong =
        || bad(format!("`mrope_section` is {} where up to {SECTIONS} counts are needed", shown(value)));
    let list = value.as_array().filter(|list| list.len() <= SECTIONS).ok_or_else(wrong)?;
    let whole = |v: &Value| v.as_u64().and_then(|n| i32::try_from(n).ok()).ok_or_else(wrong);
    let mut numbers: Vec<i32> = list.iter().map(whole).collect::<Result<_>>()?;
    numbers.resize(SECTIONS, 0);
    Ok(MetaValue::Array(MetaArray::of_i32(&numbers)))
}

/// The context before scaling: beside the other numbers, else at the top of the config, else the context itself.
fn original_context(config: &ModelConfig<'_>, part: &RopePart<'_>) -> Result<u64> {
    const KEY: &str = "original_max_position_embeddings";
    let said = match part.count(KEY)? {
        None => config.count(&[KEY])?,
        said => said,
    };
    said.map_or_else(|| config.need_count(&["max_position_embeddings"]), Ok)
}

/// gemma2: nothing is said of rotary embeddings while they are the usual ones.
pub(in super::super) fn unscaled_rope(scope: &Scope<'_>, keys: &mut Keys) -> Result<()> {
    match scope.rope.full.theta {
        Some(theta) if theta == DEFAULT_BASE && scope.rope.full.kind == "default" => {
            if scope.rope.sliding.is_none() {
                return Ok(());
            }
            let mut ignored = Keys::default();
            rope(scope, &mut ignored)
        }
        _ => rope(scope, keys),
    }
}

const PHI3_CONTEXT: &[&str] = &["max_position_embeddings", "n_positions"];

/// phi3 keeps this at the top, and what stands there goes before what stands with the scaling.
fn phi3_original(scope: &Scope<'_>) -> Result<u64> {
    const KEY: &str = "original_max_position_embeddings";
    let inside = scope.rope.full.count(KEY)?;
    let top = scope.config.raw(&[KEY]).is_some();
    match inside {
        Some(inside) if !top => Ok(inside),
        _ => scope.config.need_count(&[KEY]),
    }
}

pub(in super::super) fn phi3_original_context(scope: &Scope<'_>) -> Maybe {
    count(phi3_original(scope)?).map(Some)
}

pub(in super::super) fn phi3_rotated(scope: &Scope<'_>) -> Maybe {
    let config = scope.config;
    let hidden = config.need_count(&["hidden_size", "n_embd"])?;
    let heads = config.need_count(&["num_attention_heads", "n_head"])?;
    let rotated = (partial(scope, 1.0)? * hidden as f64) as u64;
    count(rotated.checked_div(heads).ok_or_else(|| bad("`num_attention_heads` is `0`"))?).map(Some)
}

/// The share of a head that is rotated, from where either dialect has it.
fn partial(scope: &Scope<'_>, usual: f64) -> Result<f64> {
    let outside = scope.config.float(&["partial_rotary_factor", "rope_pct", "rope_percent"])?;
    let inside = scope.rope.full.float("partial_rotary_factor")?;
    let share = inside.or(outside).unwrap_or(usual);
    if !(0.0..=1.0).contains(&share) {
        return Err(bad(format!("`partial_rotary_factor` is `{share}` where a share from 0 to 1 is needed")));
    }
    Ok(share)
}

/// longrope's factor for attention. The two lists themselves are tensors (`rope_factors_long`, `rope_factors_short`).
pub(in super::super) fn phi3_attention_factor(scope: &Scope<'_>) -> Maybe {
    let full = &scope.rope.full;
    match full.kind {
        "default" => return Ok(None),
        // transformers takes a phi3 that says yarn for longrope.
        "longrope" | "yarn" => {}
        other => {
            return Err(unsupported(format!(
                "the rotary scaling `{}` is not known for `phi3`",
                Shown(other)
            )));
        }
    }
    for key in ["long_factor", "short_factor"] {
        if full.floats(key)?.is_none() {
            return Err(bad(format!("has no `{key}`, which longrope needs")));
        }
    }
    if let Some(factor) = full.float("attention_factor")? {
        return Ok(Some(float(factor)));
    }
    let context = scope.config.need_count(PHI3_CONTEXT)? as f64;
    let original = phi3_original(scope)? as f64;
    if original <= 1.0 {
        return Err(bad("`original_max_position_embeddings` is too small for longrope"));
    }
    let scale = full.float("factor")?.unwrap_or(context / original);
    Ok(Some(float(if scale > 1.0 { (1.0 + scale.ln() / original.ln()).sqrt() } else { 1.0 })))
}

/// Zero where there is no window: engines tell Phi-4 by it.
pub(in super::super) fn phi3_window(scope: &Scope<'_>) -> Maybe {
    count(scope.config.count(&["sliding_window"])?.unwrap_or(0)).map(Some)
}

/// A tenth of `mscale_all_dim`: what the engine multiplies the logarithm of the scaling by. `mscale` has no key of its
/// own and must say the same.
pub(in super::super) fn log_multiplier(scope: &Scope<'_>) -> Maybe {
    let full = &scope.rope.full;
    let (mscale, all) = (full.float("mscale")?, full.float("mscale_all_dim")?);
    if mscale.is_some() && mscale != all {
        return Err(unsupported(format!(
            "`mscale` is `{}` and `mscale_all_dim` is not the same, which an engine does not compute",
            mscale.unwrap_or_default()
        )));
    }
    Ok(all.map(|x| float(0.1 * x)))
}

/// Half of a head unless the config says otherwise.
pub(in super::super) fn glm_rotated(scope: &Scope<'_>) -> Maybe {
    let head = scope.config.count(&["head_dim"])?;
    let head = head.map_or_else(|| scope.config.hidden_per_head(), Ok)?;
    count((head as f64 * partial(scope, 0.5)?) as u64).map(Some)
}
