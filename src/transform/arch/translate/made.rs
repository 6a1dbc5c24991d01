//! Tensors of a GGUF that are computed from the config: factors of the rotary frequencies.

use crate::error::{Error, Result};
use crate::transform::arch::families::{Family, Made, Sizes, places};
use crate::transform::recipe::Value;
use serde_json::{Map, Value as Json};

/// The rotary parameters of a config in either dialect, those of the full-attention layers where layers differ.
fn parameters(config: &Json) -> Option<&Map<String, Json>> {
    let object = |key| places(config).find_map(|p| p.get(key)?.as_object());
    let found = object("rope_parameters").or_else(|| object("rope_scaling"))?;
    Some(found.get("full_attention").and_then(Json::as_object).unwrap_or(found))
}

/// What a family makes.
pub(super) fn made(family: &Family, sizes: &Sizes, config: &Json) -> Result<Vec<Value>> {
    let Some(rope) = parameters(config) else { return Ok(Vec::new()) };
    let kind = ["rope_type", "type"].iter().find_map(|key| rope.get(*key)?.as_str()).unwrap_or_default();
    match family.made {
        Made::RopeFreqs if kind == "llama3" => {
            let number = |key: &str, default: f64| match rope.get(key) {
                None | Some(Json::Null) => {
                    Ok(places(config).find_map(|p| p.get(key)?.as_f64()).unwrap_or(default))
                }
                Some(value) => value.as_f64().ok_or_else(|| not_a_number(key)),
            };
            let scaling = Llama3 {
                theta: number("rope_theta", 10000.0)?,
                factor: number("factor", 8.0)?,
                low: number("low_freq_factor", 1.0)?,
                high: number("high_freq_factor", 4.0)?,
                context: number("original_max_position_embeddings", 8192.0)?,
            };
            let factors = scaling.factors(sizes.head_dim)?;
            Ok(vec![Value::made("rope_freqs.weight", &[factors.len() as u64], &factors)])
        }
        Made::RopeFactors => {
            let list = |key: &str| -> Result<Option<Vec<f32>>> {
                let Some(value) = rope.get(key).filter(|v| !v.is_null()) else { return Ok(None) };
                let numbers = value.as_array().map(|a| a.iter().map(|x| x.as_f64().map(|x| x as f32)));
                numbers.and_then(Iterator::collect).map(Some).ok_or_else(|| not_a_number(key))
            };
            let Some(long) = list("long_factor")?.filter(|l| !l.is_empty()) else { return Ok(Vec::new()) };
            let short = list("short_factor")?
                .ok_or_else(|| Error::bad_input("`long_factor` stands without `short_factor`"))?;
            let partial = rope.get("partial_rotary_factor").and_then(Json::as_f64);
            let partial = partial
                .or_else(|| places(config).find_map(|p| p.get("partial_rotary_factor")?.as_f64()))
                .unwrap_or(1.0);
            let needed = ((partial * sizes.hidden as f64) as u64) / sizes.heads / 2;
            for (key, list) in [("long_factor", &long), ("short_factor", &short)] {
                if list.len() as u64 != needed {
                    return Err(Error::bad_input(format!(
                        "`{key}` has {} numbers, where half a head's rotary part needs {needed}",
                        list.len()
                    )));
                }
            }
            Ok([("rope_factors_long.weight", long), ("rope_factors_short.weight", short)]
                .map(|(name, list)| Value::made(name, &[needed], &list))
                .into())
        }
        Made::RopeFreqs | Made::Nothing => Ok(Vec::new()),
    }
}

fn not_a_number(key: &str) -> Error {
    Error::bad_input(format!("`{key}` of the rotary parameters is not a number"))
}

/// More than any head has; what is computed stays small whatever a config says.
const HEAD_DIM_MAX: u64 = 1 << 16;

/// Llama 3.1's scaling: long waves are stretched, short ones kept, those between interpolated.
struct Llama3 {
    theta: f64,
    factor: f64,
    low: f64,
    high: f64,
    context: f64,
}

impl Llama3 {
    /// By what each frequency is divided. In f32 and in the order of the reference, so that the bits are its bits.
    fn factors(&self, head_dim: u64) -> Result<Vec<f32>> {
        let Llama3 { theta, factor, low, high, context } = *self;
        let sound =
            [theta, factor, low, high, context].iter().all(|x| x.is_finite() && *x > 0.0) && high >= low;
        if !sound {
            return Err(Error::bad_input(format!(
                "rotary parameters (`rope_theta` {theta}, `factor` {factor}, `low_freq_factor` {low}, \
                 `high_freq_factor` {high}, `original_max_position_embeddings` {context}) make no scaling: all must be \
                 above zero and the high factor not below the low one"
            )));
        }
        if head_dim > HEAD_DIM_MAX {
            return Err(Error::bad_input(format!("a head of {head_dim} elements cannot be")));
        }
        let (low_wave, high_wave) = ((context / low) as f32, (context / high) as f32);
        let one = |i: u64| {
            let exponent = i as f32 / head_dim as f32;
            // The power is taken in f64 and rounded, which is the nearest f32; torch's own is so but for rare last bits.
            let power = f64::from(theta as f32).powf(f64::from(exponent)) as f32;
            let frequency = 1.0 / power;
            let wave = (1.0 / frequency) * std::f64::consts::TAU as f32;
            // Both bounds are one in some models (Llama 4), and then nothing is between.
            if wave < high_wave || wave == high_wave && high == low {
                1.0
            } else if wave > low_wave {
                factor as f32
            } else {
                let smooth = ((1.0 / wave) * context as f32 - low as f32) / (high - low) as f32;
                1.0 / ((1.0 - smooth) / factor as f32 + smooth)
            }
        };
        Ok((0..head_dim).step_by(2).map(one).collect())
    }
}
