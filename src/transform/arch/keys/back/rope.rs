//! Rotary embeddings back into `rope_parameters`: from keys, and from the tensors that say what keys do not.

use super::{Back, shortest};
use crate::error::{Error, Result};
use crate::text::Shown;
use serde_json::{Map, Value, json};
use std::f64::consts::TAU;

/// The base that an engine takes without being told.
const DEFAULT_BASE: f64 = 10_000.0;

/// How far apart two factors may be that one formula gave, once in single and once in double precision.
const CLOSE: f64 = 1e-5;

/// `rope_parameters`: for all layers, or for each type of layer.
pub(super) fn parameters(back: &Back<'_>) -> Result<Value> {
    let full = full(back)?;
    match back.arch {
        "gemma3" => {
            let theta = back.float("rope.freq_base_swa")?.unwrap_or(DEFAULT_BASE);
            Ok(json!({
                "full_attention": full,
                "sliding_attention": {"rope_theta": theta, "rope_type": "default"},
            }))
        }
        _ => Ok(full),
    }
}

fn full(back: &Back<'_>) -> Result<Value> {
    let theta = back.float("rope.freq_base")?.unwrap_or(DEFAULT_BASE);
    // The second name is from before there were types.
    let factor = match back.float("rope.scaling.factor")? {
        None => back.float("rope.scale_linear")?,
        said => said,
    };
    let mut out = Map::new();
    out.insert("rope_theta".into(), json!(theta));
    let kind = match back.text("rope.scaling.type")? {
        // Before types had names, a factor alone meant a linear scaling.
        None if factor.is_some_and(|factor| factor != 0.0 && factor != 1.0) => "linear",
        None => "none",
        Some(kind) => kind,
    };
    // phi3 says its scaling by tensors alone.
    let long = (back.weights.values)("rope_factors_long.weight")?;
    let kind = if long.is_some() { "longrope" } else { kind };
    // Nothing is computed from it where nothing is scaled.
    back.get("rope.scaling.original_context_length");
    let frequencies = (back.weights.values)("rope_freqs.weight")?;
    match (kind, frequencies) {
        ("none", None) => _ = out.insert("rope_type".into(), json!("default")),
        ("none", Some(factors)) => llama3(theta, &factors, &mut out)?,
        (kind, Some(_)) => {
            return Err(Error::unsupported(format!(
                "has its rotary frequencies scaled twice, by a tensor and by `{}`",
                Shown(kind)
            )));
        }
        ("linear", None) => {
            out.insert("rope_type".into(), json!("linear"));
            out.insert("factor".into(), json!(factor.unwrap_or(1.0)));
        }
        ("yarn", None) => yarn(back, factor.unwrap_or(1.0), &mut out)?,
        ("longrope", None) => longrope(back, long, &mut out)?,
        (kind, None) => {
            return Err(Error::unsupported(format!(
                "has the rotary scaling `{}`, which is not known here",
                Shown(kind)
            )));
        }
    }
    Ok(Value::Object(out))
}

fn yarn(back: &Back<'_>, factor: f64, out: &mut Map<String, Value>) -> Result<()> {
    let original = match back.count("rope.scaling.original_context_length")? {
        Some(n) => n,
        None => back.need("context_length")?,
    };
    out.insert("rope_type".into(), json!("yarn"));
    out.insert("factor".into(), json!(factor));
    out.insert("original_max_position_embeddings".into(), json!(original));
    for (key, name) in [
        ("rope.scaling.yarn_attn_factor", "attention_factor"),
        ("rope.scaling.yarn_beta_fast", "beta_fast"),
        ("rope.scaling.yarn_beta_slow", "beta_slow"),
    ] {
        if let Some(value) = back.float(key)? {
            out.insert(name.to_owned(), json!(value));
        }
    }
    if let Some(ext) = back.float("rope.scaling.yarn_ext_factor")?.filter(|&ext| ext != 1.0) {
        return Err(Error::unsupported(format!(
            "has the key `{}.rope.scaling.yarn_ext_factor` = `{ext}`, and transformers computes with 1",
            Shown(back.arch)
        )));
    }
    if let Some(tenth) = back.float("rope.scaling.yarn_log_multiplier")? {
        // Written as a tenth of it; the product is rounded to the decimal that it came from.
        let all = shortest((tenth * 10.0) as f32);
        out.insert("mscale".into(), json!(all));
        out.insert("mscale_all_dim".into(), json!(all));
    }
    Ok(())
}

fn longrope(back: &Back<'_>, long: Option<Vec<f32>>, out: &mut Map<String, Value>) -> Result<()> {
    let short = (back.weights.values)("rope_factors_short.weight")?;
    let (Some(long), Some(short)) = (long, short) else {
        return Err(Error::bad_input(
            "has rotary embeddings scaled by `longrope` and lacks `rope_factors_long.weight` or `rope_factors_short.weight`",
        ));
    };
    let list = |factors: &[f32]| -> Value { factors.iter().map(|&x| shortest(x)).collect() };
    let context = back.need("context_length")?;
    let original = back.count("rope.scaling.original_context_length")?.unwrap_or(context);
    out.insert("rope_type".into(), json!("longrope"));
    out.insert("long_factor".into(), list(&long));
    out.insert("short_factor".into(), list(&short));
    out.insert("original_max_position_embeddings".into(), json!(original));
    if let Some(said) = back.float("rope.scaling.attn_factor")? {
        // transformers computes it from the two lengths; only another number needs saying.
        let (context, original) = (context as f64, original.max(2) as f64);
        let usual =
            if context > original { (1.0 + (context / original).ln() / original.ln()).sqrt() } else { 1.0 };
        if (said - usual).abs() > CLOSE {
            out.insert("attention_factor".into(), json!(said));
        }
    }
    Ok(())
}

/// The scaling of llama3, whose numbers no key keeps: a GGUF has the divisor of each frequency. Long waves are divided
/// by `factor`, short ones not at all, and between two bounds the reciprocal of the divisor follows a line. So `factor`
/// is the largest; the bounds are the usual ones if these give the same divisors for some original context, else they
/// follow from two points of the line.
fn llama3(theta: f64, divisors: &[f32], out: &mut Map<String, Value>) -> Result<()> {
    let wrong = |message| Error::bad_input(message).tensor("rope_freqs.weight");
    if divisors.is_empty() || !divisors.iter().all(|d| (1.0..=f32::MAX).contains(d)) {
        return Err(wrong("holds divisors of rotary frequencies that are less than one or infinite"));
    }
    let factor = shortest(divisors.iter().copied().fold(1.0, f32::max));
    let pairs = divisors.len() as f64;
    let waves: Vec<f64> = (0..divisors.len()).map(|i| TAU * theta.powf(i as f64 / pairs)).collect();
    let gives = |bounds: &(f64, f64, f64)| {
        waves.iter().zip(divisors).all(|(&wave, &found)| {
            let expected = divisor(wave, factor, *bounds);
            (expected - f64::from(found)).abs() <= CLOSE * expected
        })
    };
    // 8,192 first: the models that are known have it.
    let originals = std::iter::once(8192.0).chain((4..=24u32).map(|n| f64::from(1u32 << n)));
    let found = originals.flat_map(|original| [(original, 1.0, 4.0), (original, 1.0, 1.0)]).find(gives);
    let fitted = || fit(&waves, divisors, factor).filter(gives);
    let Some((original, low, high)) = found.or_else(fitted) else {
        return Err(Error::unsupported(
            "holds divisors of rotary frequencies that no scaling known here gives",
        )
        .tensor("rope_freqs.weight"));
    };
    out.insert("rope_type".into(), json!("llama3"));
    out.insert("factor".into(), json!(factor));
    out.insert("low_freq_factor".into(), json!(low));
    out.insert("high_freq_factor".into(), json!(high));
    out.insert("original_max_position_embeddings".into(), json!(original as u64));
    Ok(())
}

/// What a wave's frequency is divided by, for an original context and its low and high factor.
fn divisor(wave: f64, factor: f64, (original, low, high): (f64, f64, f64)) -> f64 {
    if wave < original / high {
        1.0
    } else if wave > original / low {
        factor
    } else {
        let smooth = (original / wave - low) / (high - low);
        1.0 / ((1.0 - smooth) / factor + smooth)
    }
}

/// The bounds from two points between them, for an original context of 8,192: only the quotients matter.
fn fit(waves: &[f64], divisors: &[f32], factor: f64) -> Option<(f64, f64, f64)> {
    const ORIGINAL: f64 = 8192.0;
    let between = waves.iter().zip(divisors).map(|(&wave, &d)| (wave, f64::from(d)));
    let points: Vec<(f64, f64)> = between
        .filter(|&(_, d)| d > 1.0 && d < factor)
        .map(|(wave, d)| (ORIGINAL / wave, (1.0 / d - 1.0 / factor) / (1.0 - 1.0 / factor)))
        .collect();
    if points.is_empty() {
        // Nothing lies between, so both bounds are anywhere between the last wave that is kept and the first that is not.
        let at = divisors.iter().position(|&d| d > 1.0)?;
        let bound = ORIGINAL / (waves.get(at.checked_sub(1)?)? * waves.get(at)?).sqrt();
        return Some((ORIGINAL, bound, bound));
    }
    let (&(x0, s0), &(x1, s1)) = (points.first()?, points.last()?);
    // A point is (original / wave, smooth), and smooth = (x − low) / (high − low).
    let span = (x0 - x1) / (s0 - s1);
    let low = x0 - s0 * span;
    (span.is_finite() && span > 0.0 && low > 0.0).then_some((ORIGINAL, low, low + span))
}
