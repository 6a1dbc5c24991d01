//! What differs from layer to layer: what is seen of the past, whether positions are rotated, where experts are.
//!
//! Configs say it as a list with an entry for each layer, or as a number from which the list follows; which number, is the
//! family's.

use super::{Scope, Window};
use crate::error::{Error, Result};
use crate::transform::arch::model_config::{bad, shown};

/// A rule for windows: one entry for each of `layers`.
pub(super) type Windows = fn(&Scope<'_>, usize) -> Result<Vec<Option<Window>>>;

/// All layers see everything. A list of types that says otherwise is no list of this family.
pub(super) fn all_full(scope: &Scope<'_>, layers: usize) -> Result<Vec<Option<Window>>> {
    check_alike(scope, layers, false)
}

/// All layers look through the window that the config gives, if it gives one.
pub(super) fn all_sliding(scope: &Scope<'_>, layers: usize) -> Result<Vec<Option<Window>>> {
    let window = scope.config.count(&["sliding_window"])?;
    check_alike(scope, layers, window.is_some())
}

/// All layers, where the config switches the window on (qwen3_moe).
pub(super) fn all_sliding_if_used(scope: &Scope<'_>, layers: usize) -> Result<Vec<Option<Window>>> {
    match scope.config.flag(&["use_sliding_window"])? {
        Some(true) => all_sliding(scope, layers),
        _ => all_full(scope, layers),
    }
}

/// Layers from `max_window_layers` on, where the config switches the window on (qwen2, qwen3).
pub(super) fn from_max_window_layers(scope: &Scope<'_>, layers: usize) -> Result<Vec<Option<Window>>> {
    let config = scope.config;
    let used = config.flag(&["use_sliding_window"])? == Some(true);
    let on = used && config.count(&["sliding_window"])?.is_some();
    let first = config.count(&["max_window_layers"])?.unwrap_or(0);
    let windows = by_type(scope, layers, |layer| on && layer as u64 >= first)?;
    if !used && windows.iter().any(Option::is_some) {
        return Err(bad("`layer_types` says `sliding_attention` and `use_sliding_window` is not `true`"));
    }
    Ok(windows)
}

/// Every second layer sees everything (gemma2, gpt-oss).
pub(super) fn every_second_full(scope: &Scope<'_>, layers: usize) -> Result<Vec<Option<Window>>> {
    by_type(scope, layers, |layer| !(layer + 1).is_multiple_of(2))
}

/// Every fourth layer sees everything (olmo3).
pub(super) fn every_fourth_full(scope: &Scope<'_>, layers: usize) -> Result<Vec<Option<Window>>> {
    by_type(scope, layers, |layer| !(layer + 1).is_multiple_of(4))
}

/// Every n-th layer sees everything; n is in the config, 6 as a rule (gemma3).
pub(super) fn by_pattern(scope: &Scope<'_>, layers: usize) -> Result<Vec<Option<Window>>> {
    let keys = ["sliding_window_pattern", "_sliding_window_pattern"];
    let period = scope.config.count(&keys)?.unwrap_or(6);
    if period == 0 {
        return Err(bad("`sliding_window_pattern` is `0`, where a period is needed"));
    }
    by_type(scope, layers, |layer| !(layer as u64 + 1).is_multiple_of(period))
}

/// Layers without rotary embeddings, where the config switches the window on (smollm3).
pub(super) fn without_rope_sliding(scope: &Scope<'_>, layers: usize) -> Result<Vec<Option<Window>>> {
    let config = scope.config;
    let on =
        config.flag(&["use_sliding_window"])? == Some(true) && config.count(&["sliding_window"])?.is_some();
    let rotates = rotated_layers(scope, layers)?;
    by_type(scope, layers, |layer| on && rotates.get(layer) == Some(&false))
}

/// Layers with rotary embeddings see their chunk, the others everything (llama4).
pub(super) fn with_rope_chunked(scope: &Scope<'_>, layers: usize) -> Result<Vec<Option<Window>>> {
    const CHUNKED: &str = "chunked_attention";
    let rotates = rotated_layers(scope, layers)?;
    let chunk = || size(scope, "attention_chunk_size").map(Window::Chunked);
    typed(scope, layers, &[CHUNKED], |layer| match rotates.get(layer) {
        Some(true) => CHUNKED,
        _ => FULL,
    })?
    .into_iter()
    .map(|kind| (kind == CHUNKED).then(chunk).transpose())
    .collect()
}

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// By the list of types; without one a layer looks through the window where `usual` says so.
fn by_type(scope: &Scope<'_>, layers: usize, usual: impl Fn(usize) -> bool) -> Result<Vec<Option<Window>>> {
    let window = || size(scope, "sliding_window").map(Window::Sliding);
    let usual = |layer| if usual(layer) { SLIDING } else { FULL };
    let types = typed(scope, layers, &[SLIDING], usual)?;
    types.into_iter().map(|kind| (kind == SLIDING).then(window).transpose()).collect()
}

/// The same for all layers, and no list that says otherwise.
fn check_alike(scope: &Scope<'_>, layers: usize, slides: bool) -> Result<Vec<Option<Window>>> {
    let windows = by_type(scope, layers, |_| slides)?;
    if windows.iter().any(|window| window.is_some() != slides) {
        return Err(Error::unsupported(format!(
            "`layer_types` tells layers apart, and `{}` computes all alike",
            scope.family.name()
        ))
        .file("config.json"));
    }
    Ok(windows)
}

/// The type of each layer: full, or one of `others`.
fn typed(
    scope: &Scope<'_>,
    layers: usize,
    others: &[&'static str],
    usual: impl Fn(usize) -> &'static str,
) -> Result<Vec<&'static str>> {
    let Some(list) = scope.config.list(&["layer_types"])? else {
        return Ok((0..layers).map(usual).collect());
    };
    if list.len() != layers {
        return Err(bad(format!(
            "`layer_types` has {} entries, and the model has {layers} layers",
            list.len()
        )));
    }
    let of = |kind: &serde_json::Value| match kind.as_str() {
        Some(FULL | "attention") => Ok(FULL),
        Some(other) if others.contains(&other) => {
            Ok(others.iter().find(|o| **o == other).copied().unwrap_or(FULL))
        }
        _ => Err(Error::unsupported(format!(
            "`layer_types` says {}, which is not known for `{}`",
            shown(kind),
            scope.family.name()
        ))
        .file("config.json")),
    };
    list.iter().map(of).collect()
}

/// A window's size, which a layer that looks through one needs.
fn size(scope: &Scope<'_>, key: &'static str) -> Result<usize> {
    match scope.config.need_count(&[key])? {
        0 => Err(bad(format!("`{key}` is `0`, and a token that sees nothing cannot be"))),
        n => scope.size(key, n),
    }
}

/// Which layers rotate positions: as listed, else all but every n-th.
pub(super) fn rotated_layers(scope: &Scope<'_>, layers: usize) -> Result<Vec<bool>> {
    let interval = scope.config.count(&["no_rope_layer_interval"])?.unwrap_or(4);
    let listed = scope.config.list(&["no_rope_layers"])?.filter(|list| !list.is_empty());
    let Some(list) = listed else {
        if interval == 0 {
            return Err(bad("`no_rope_layer_interval` is `0`, where a period is needed"));
        }
        return Ok((1..=layers as u64).map(|n| !n.is_multiple_of(interval)).collect());
    };
    if list.len() < layers {
        return Err(bad(format!(
            "`no_rope_layers` has {} entries, and the model has {layers} layers",
            list.len()
        )));
    }
    let rotates = |value: &serde_json::Value| {
        let said = value.as_bool().or_else(|| value.as_u64().map(|n| n != 0));
        said.ok_or_else(|| bad(format!("`no_rope_layers` holds {} where 0 or 1 is needed", shown(value))))
    };
    list.iter().take(layers).map(rotates).collect()
}

/// A rule for experts: which of `layers` have them.
pub(super) type Routed = fn(&Scope<'_>, usize) -> Result<Vec<bool>>;

/// All layers have experts.
pub(super) fn all_routed(_: &Scope<'_>, layers: usize) -> Result<Vec<bool>> {
    Ok(vec![true; layers])
}

/// All but the first few.
pub(super) fn routed_after_first(scope: &Scope<'_>, layers: usize) -> Result<Vec<bool>> {
    let first = scope.config.need_count(&["first_k_dense_replace"])?;
    Ok((0..layers as u64).map(|layer| layer >= first).collect())
}

/// Those that are listed, else every n-th.
pub(super) fn routed_as_listed(scope: &Scope<'_>, layers: usize) -> Result<Vec<bool>> {
    let step = scope.config.need_count(&["interleave_moe_layer_step"])?;
    let Some(list) = scope.config.list(&["moe_layers"])? else {
        if step == 0 {
            return Err(bad("`interleave_moe_layer_step` is `0`, where a step is needed"));
        }
        return Ok((1..=layers as u64).map(|n| n.is_multiple_of(step)).collect());
    };
    let mut routed = vec![false; layers];
    for value in list {
        let place = value.as_u64().and_then(|n| usize::try_from(n).ok()).and_then(|n| routed.get_mut(n));
        *place.ok_or_else(|| {
            bad(format!("`moe_layers` holds {}, and the model has layers 0 to {}", shown(value), layers - 1))
        })? = true;
    }
    Ok(routed)
}
