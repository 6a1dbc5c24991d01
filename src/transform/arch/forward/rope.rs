//! Frequencies of rotary embeddings, as torch computes them: in f32 and in the order of its operations, so that the
//! angles of far positions agree.
//!
//! Source: `modeling_rope_utils.py` of `transformers` 5.23 and what of its operations is f32; a kind of scaling is a row of
//! [`KINDS`].

use super::{Pairs, Rope, Scope};
use crate::error::{Error, Result};
use crate::text::Shown;
use crate::transform::arch::model_config::{RopePart, bad};
use std::f64::consts::{PI, TAU};

/// More than any head rotates; what is computed stays small whatever a config says.
const ROTATED_MAX: usize = 1 << 16;

/// What a kind of scaling sees.
struct Case<'c> {
    scope: &'c Scope<'c>,
    part: &'c RopePart<'c>,
    /// Whether the numbers stand in a dictionary for one type of layers.
    nested: bool,
    /// The base of the frequencies.
    theta: f64,
    /// Elements that are rotated.
    rotated: usize,
}

/// What a kind of scaling makes.
struct Made {
    frequencies: Vec<f32>,
    long: Option<(usize, Vec<f32>)>,
    scale: f64,
}

/// `rope_type`, and what it makes.
type Kind = (&'static str, fn(&Case<'_>) -> Result<Made>);

const KINDS: &[Kind] = &[
    ("default", unscaled),
    ("linear", linear),
    ("dynamic", dynamic),
    ("yarn", yarn),
    ("longrope", longrope),
    ("llama3", llama3),
];

impl Scope<'_> {
    /// The rotary embedding that `part` of the config says, of `rotated` elements of a head. A scaling that depends on the
    /// length (`dynamic`) is what it is up to [`super::Forward::context`].
    ///
    /// # Errors
    /// `Unsupported` for a kind of scaling that is not known here; `BadInput` for numbers that make none.
    pub(super) fn rotary(&self, part: &RopePart<'_>, rotated: usize, pairs: Pairs) -> Result<Rope> {
        self.rotary_of_kind(part.kind, part, rotated, pairs)
    }

    /// The same for a family whose class takes one kind's name for another's.
    pub(super) fn rotary_of_kind(
        &self,
        kind: &str,
        part: &RopePart<'_>,
        rotated: usize,
        pairs: Pairs,
    ) -> Result<Rope> {
        if rotated == 0 || !rotated.is_multiple_of(2) || rotated > ROTATED_MAX {
            return Err(bad(format!(
                "says that {rotated} elements of a head are rotated, where an even number from 2 to {ROTATED_MAX} is needed"
            )));
        }
        let theta = part.theta.ok_or_else(|| bad("has no `rope_theta`, which this family needs"))?;
        let row = KINDS.iter().find(|(name, _)| *name == kind);
        let (_, make) = row.ok_or_else(|| {
            let known: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
            Error::unsupported(format!("the rotary scaling `{}` is not known here", Shown(kind)))
                .file("config.json")
                .hint(format!("known are {}", known.join(", ")))
        })?;
        let case = Case { scope: self, part, nested: self.rope.sliding.is_some(), theta, rotated };
        let Made { frequencies, long, scale } = make(&case)?;
        let all = || frequencies.iter().chain(long.iter().flat_map(|(_, list)| list));
        if !(theta > 0.0 && (scale as f32).is_finite() && all().all(|f| f.is_finite())) {
            return Err(bad(format!(
                "has rotary parameters (`rope_theta` {theta}, scaling `{}`) that make frequencies which are no numbers",
                Shown(kind)
            )));
        }
        Ok(Rope { inverse_frequencies: frequencies, long, scale: scale as f32, pairs })
    }
}

impl Case<'_> {
    /// `theta ^ (2i / rotated)`. The power is taken in f64 and rounded, which is the nearest f32; torch's own is so but for
    /// rare last bits.
    fn powers(&self, theta: f64) -> Vec<f32> {
        let theta = f64::from(theta as f32);
        let power = |i: usize| theta.powf(f64::from((2 * i) as f32 / self.rotated as f32)) as f32;
        (0..self.rotated / 2).map(power).collect()
    }

    fn inverse_powers(&self, theta: f64) -> Vec<f32> {
        self.powers(theta).into_iter().map(|power| 1.0 / power).collect()
    }

    /// A number above zero that the scaling cannot be without.
    fn positive(&self, key: &str) -> Result<f64> {
        let found = self.part.need_float(key)?;
        if found > 0.0 {
            return Ok(found);
        }
        Err(bad(format!(
            "`{key}` of the rotary parameters is `{found}`, where a number above zero is needed"
        )))
    }

    /// Positions before the scaling. What stands at the top of the config goes before what stands with the scaling, but
    /// not where layers differ.
    fn original(&self) -> Result<f64> {
        const KEY: &str = "original_max_position_embeddings";
        let inside = self.part.count(KEY)?;
        let top = if self.nested { None } else { self.scope.config.count(&[KEY])? };
        let found = match top.or(inside) {
            Some(found) => found,
            None => self.scope.config.need_count(&["max_position_embeddings"])?,
        } as f64;
        if found > 1.0 {
            return Ok(found);
        }
        Err(bad(format!("`{KEY}` is `{found}`, where more than one position is needed")))
    }

    fn context(&self) -> Result<f64> {
        Ok(self.scope.config.need_count(&["max_position_embeddings", "n_positions"])? as f64)
    }
}

fn plain(frequencies: Vec<f32>) -> Made {
    Made { frequencies, long: None, scale: 1.0 }
}

fn unscaled(case: &Case<'_>) -> Result<Made> {
    Ok(plain(case.inverse_powers(case.theta)))
}

/// Positions divided by a factor.
fn linear(case: &Case<'_>) -> Result<Made> {
    let factor = case.positive("factor")? as f32;
    Ok(plain(case.inverse_powers(case.theta).into_iter().map(|f| f / factor).collect()))
}

/// The base grows with the sequence beyond the context, and is what it says within.
fn dynamic(case: &Case<'_>) -> Result<Made> {
    case.positive("factor")?;
    // With the others it says a length that this scaling does not look at.
    case.part.raw("original_max_position_embeddings");
    Ok(plain(case.inverse_powers(case.theta)))
}

/// YaRN: short waves are kept, long ones stretched, those between mixed.
fn yarn(case: &Case<'_>) -> Result<Made> {
    let part = case.part;
    let factor = case.positive("factor")?;
    let original = case.original()?;
    let or = |key: &str, usual: f64| -> Result<f64> {
        Ok(part.float(key)?.filter(|&x| x != 0.0).unwrap_or(usual))
    };
    let (fast, slow) = (or("beta_fast", 32.0)?, or("beta_slow", 1.0)?);
    let (mscale, all) = (or("mscale", 0.0)?, or("mscale_all_dim", 0.0)?);
    let scale = match part.float("attention_factor")? {
        Some(said) => said,
        None if mscale != 0.0 && all != 0.0 => magnitude(factor, mscale) / magnitude(factor, all),
        None => magnitude(factor, 1.0),
    };
    // Trained with it or not, nothing else is computed.
    part.raw("finetuned");
    // The class looks for this where it stands for all layers only.
    let truncate = case.nested || part.raw("truncate").and_then(serde_json::Value::as_bool).unwrap_or(true);
    let rotated = case.rotated as f64;
    let bound = |rotations: f64| rotated * (original / (rotations * 2.0 * PI)).ln() / (2.0 * case.theta.ln());
    let (low, high) = (bound(fast), bound(slow));
    if !(low.is_finite() && high.is_finite()) {
        return Err(bad(format!(
            "has rotary parameters (`rope_theta` {}, `beta_fast` {fast}, `beta_slow` {slow}) that make no scaling",
            case.theta
        )));
    }
    let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
    let (low, high) = (low.max(0.0), high.min(rotated - 1.0));
    let span = if low == high { high + 0.001 - low } else { high - low };
    let (low, span, factor) = (low as f32, span as f32, factor as f32);
    let mix = |(i, power): (usize, f32)| {
        let kept = 1.0 - ((i as f32 - low) / span).clamp(0.0, 1.0);
        1.0 / (factor * power) * (1.0 - kept) + 1.0 / power * kept
    };
    let frequencies = case.powers(case.theta).into_iter().enumerate().map(mix).collect();
    Ok(Made { frequencies, long: None, scale })
}

/// What YaRN multiplies sine and cosine by; latent attention multiplies its scores by the square of it.
pub(super) fn magnitude(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

/// LongRoPE: a factor for each frequency, of one list for sequences up to the original length and of another beyond.
fn longrope(case: &Case<'_>) -> Result<Made> {
    let part = case.part;
    let original = case.original()?;
    let factor = match part.float("factor")? {
        Some(factor) => factor,
        None => case.context()? / original,
    };
    let scale = match part.float("attention_factor")? {
        Some(said) => said,
        None if factor <= 1.0 => 1.0,
        None => (1.0 + factor.ln() / original.ln()).sqrt(),
    };
    let powers = case.powers(case.theta);
    let list = |key: &str| -> Result<Vec<f32>> {
        let factors =
            part.floats(key)?.ok_or_else(|| bad(format!("has no `{key}`, which `longrope` needs")))?;
        if factors.len() != powers.len() {
            return Err(bad(format!(
                "`{key}` has {} numbers, where half of the rotated elements are {}",
                factors.len(),
                powers.len()
            )));
        }
        Ok(factors.iter().zip(&powers).map(|(&factor, &power)| 1.0 / (factor as f32 * power)).collect())
    };
    Ok(Made {
        frequencies: list("short_factor")?,
        long: Some((original as usize, list("long_factor")?)),
        scale,
    })
}

/// Llama 3.1: long waves are stretched, short ones kept, those between mixed.
fn llama3(case: &Case<'_>) -> Result<Made> {
    let factor = case.positive("factor")?;
    let (low, high) = (case.positive("low_freq_factor")?, case.positive("high_freq_factor")?);
    let original = case.original()?;
    if high < low {
        return Err(bad(format!(
            "`high_freq_factor` is `{high}`, where `low_freq_factor` ({low}) or more is needed"
        )));
    }
    let (low_wave, high_wave) = ((original / low) as f32, (original / high) as f32);
    let (span, low, factor, original) = ((high - low) as f32, low as f32, factor as f32, original as f32);
    let scaled = |frequency: f32| {
        let wave = 1.0 / frequency * TAU as f32;
        // Both bounds are one in some models, and then nothing is between.
        if wave < high_wave || wave == high_wave && span == 0.0 {
            frequency
        } else if wave > low_wave {
            frequency / factor
        } else {
            let smooth = (1.0 / wave * original - low) / span;
            (1.0 - smooth) * frequency / factor + smooth * frequency
        }
    };
    Ok(plain(case.inverse_powers(case.theta).into_iter().map(scaled).collect()))
}
