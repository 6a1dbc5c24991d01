//! Does it fit: weights, the cache of keys and values, and a margin, against a device's memory.
//!
//! An estimate, and it says what it is made of. The cache is exact for a model whose config is complete; the margin
//! stands for the driver's context and the engine's workspace, which depend on the engine.

use super::Report;
use crate::error::{Error, Result};
use crate::sink::device::{self, Device, DeviceSpec};
use crate::transform::arch::Group;
use crate::transform::config::Description;

/// Left for the driver's context, whatever the model.
pub const MARGIN_BYTES: u64 = 512 << 20;
/// Left for activations and workspace: a part in so many of weights and cache.
pub const MARGIN_PART: u64 = 20;
/// Bytes of one cached number: bf16 or f16.
pub const CACHE_NUMBER_BYTES: u64 = 2;
/// The most GPUs considered.
pub const WAYS_MAX: u64 = 64;

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// Memory free on each device.
    pub free_bytes: u64,
    /// Positions cached for each sequence.
    pub context: u64,
    /// Sequences at once.
    pub batch: u64,
}

/// Memory free on a GPU now, as its driver says; where it shares the host's memory, what is available of that.
///
/// # Errors
/// As [`crate::sink::device::choose`]: the GPU is not there, or the driver is broken.
pub fn device_free_bytes(device: &DeviceSpec) -> Result<u64> {
    let choice = device::detect(Some(device))?;
    match choice.device {
        Device::Cpu => {
            Err(Error::usage(format!("`{device}` is not a GPU")).hint("--fit SIZE, as in --fit 80GB"))
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(ordinal) => {
            let gpu = crate::sink::cuda::driver::Gpu::open(ordinal)?;
            let shared = gpu.facts().integrated.then(crate::machine::available_memory_bytes).flatten();
            match shared {
                Some(bytes) => Ok(bytes),
                None => Ok(gpu.memory()?.free_bytes),
            }
        }
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => Err(Error::unsupported("this build has no CUDA")),
    }
}

/// What one way of holding the model needs of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// GPUs that share it.
    pub ways: u64,
    /// Weights on each.
    pub weights_bytes: u64,
    /// Keys and values on each.
    pub cache_bytes: u64,
    /// Left free on each.
    pub margin_bytes: u64,
}

impl Need {
    /// All of it. An overflow needs everything there is.
    pub fn total_bytes(&self) -> u64 {
        self.weights_bytes.saturating_add(self.cache_bytes).saturating_add(self.margin_bytes)
    }
}

/// A scheme the weights could have.
#[derive(Debug, Clone, Copy)]
pub struct Scheme {
    /// Its name.
    pub name: &'static str,
    /// Bits of a weight of a matrix, scales and zero points included; embeddings, head and norms stay at 16.
    pub bits: f64,
}

/// The schemes compared.
pub const SCHEMES: &[Scheme] = &[
    Scheme { name: "bf16", bits: 16.0 },
    // One f32 scale for a block of 128 × 128.
    Scheme { name: "f8", bits: 8.0 + 32.0 / (128.0 * 128.0) },
    // A 16-bit scale and a 4-bit zero point for a group of 128.
    Scheme { name: "int4", bits: 4.0 + (16.0 + 4.0) / 128.0 },
];

/// The answer.
#[derive(Debug, Clone)]
pub struct Fit {
    /// What was asked.
    pub ask: Ask,
    /// Keys and values of all sequences; `None` where the config does not tell; the needs then
    /// leave it out.
    pub cache_bytes: Option<u64>,
    /// The model as it is, on one device.
    pub one: Need,
    /// The fewest GPUs that hold it, cut in ways that divide its heads; `None` where none of up to [`WAYS_MAX`] do or
    /// the heads are not known.
    pub fewest: Option<Need>,
    /// Each scheme on one device.
    pub schemes: Vec<(Scheme, Need)>,
}

impl Fit {
    /// Whether this need is met.
    pub fn holds(&self, need: &Need) -> bool {
        need.total_bytes() <= self.ask.free_bytes
    }
}

/// Whether the model fits.
pub fn fit(report: &Report, ask: Ask) -> Fit {
    let d = &report.description;
    let cache_bytes = cache_bytes(d, ask.context, ask.batch);
    let cache = cache_bytes.unwrap_or(0);
    let one = need(report.total.size_bytes, cache, 1);
    let fewest = ways(d).into_iter().find_map(|ways| {
        let n = need(report.total.size_bytes / ways, cache_share(d, cache, ways), ways);
        (n.total_bytes() <= ask.free_bytes).then_some(n)
    });
    let schemes = SCHEMES.iter().map(|&s| (s, need(scheme_bytes(report, s), cache, 1))).collect();
    Fit { ask, cache_bytes, one, fewest, schemes }
}

fn need(weights_bytes: u64, cache_bytes: u64, ways: u64) -> Need {
    let margin_bytes = MARGIN_BYTES.saturating_add(weights_bytes.saturating_add(cache_bytes) / MARGIN_PART);
    Need { ways, weights_bytes, cache_bytes, margin_bytes }
}

/// Ways to share the model: those that give each GPU whole heads.
fn ways(d: &Description) -> Vec<u64> {
    let (Some(heads), Some(kv)) = (d.heads.filter(|&n| n > 0), d.kv_heads.filter(|&n| n > 0)) else {
        return vec![1];
    };
    let kv_fits = |n: u64| d.mla.is_some() || kv.is_multiple_of(n) || n.is_multiple_of(kv);
    (1..=WAYS_MAX).filter(|&n| heads.is_multiple_of(n) && kv_fits(n)).collect()
}

/// One GPU's part of the cache: whole key/value heads, and all of a latent one.
fn cache_share(d: &Description, cache_bytes: u64, ways: u64) -> u64 {
    match (d.mla, d.kv_heads) {
        (None, Some(kv)) if kv > 0 => cache_bytes / ways.min(kv),
        _ => cache_bytes,
    }
}

/// Keys and values of `batch` sequences of `context` positions; more than 2^64 is all there is. `None` where the config
/// lacks a size, zero for a model that does not generate.
pub fn cache_bytes(d: &Description, context: u64, batch: u64) -> Option<u64> {
    if d.family.is_some() && !d.generates() {
        return Some(0);
    }
    let numbers = match d.mla {
        Some(mla) => mla.kv_rank.saturating_add(mla.rope_dim),
        None => d.kv_heads?.saturating_mul(d.head_dim?).saturating_mul(2),
    };
    let layers = d.layers?;
    let (full, sliding) = (d.full_layers.unwrap_or(layers), d.sliding_layers.unwrap_or(0));
    let window = d.sliding_window.unwrap_or(context).min(context);
    let positions = full.saturating_mul(context).saturating_add(sliding.saturating_mul(window));
    Some(positions.saturating_mul(numbers).saturating_mul(CACHE_NUMBER_BYTES).saturating_mul(batch))
}

/// The weights' bytes under a scheme: matrices of the layers at its bits, the rest at 16.
fn scheme_bytes(report: &Report, scheme: Scheme) -> u64 {
    let bits = |group: Group| match group {
        Group::Attention | Group::Mlp | Group::Experts => scheme.bits,
        _ => 16.0,
    };
    let bits: f64 = report.groups.iter().map(|(g, sum)| sum.parameters as f64 * bits(*g)).sum();
    (bits / 8.0).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::config::Mla;

    #[test]
    fn the_cache() {
        let llama = Description {
            family: Some("llama".into()),
            architectures: vec!["LlamaForCausalLM".into()],
            task: Some("text generation"),
            layers: Some(32),
            heads: Some(32),
            kv_heads: Some(8),
            head_dim: Some(128),
            ..Description::default()
        };
        let with = |change: fn(&mut Description)| {
            let mut d = llama.clone();
            change(&mut d);
            d
        };
        for (d, context, batch, expected) in [
            // 32 layers × 2 × 8 heads × 128 × 2 bytes = 128 KiB a position: 1 GiB at 8192
            (llama.clone(), 8192, 1, Some(1 << 30)),
            (llama.clone(), 8192, 4, Some(4 << 30)),
            (with(|d| d.sliding_window = Some(1024)), 8192, 1, Some(1 << 30)),
            (
                with(|d| {
                    (d.sliding_window, d.full_layers, d.sliding_layers) = (Some(1024), Some(0), Some(32))
                }),
                8192,
                1,
                Some(128 << 20),
            ),
            (
                with(|d| {
                    (d.sliding_window, d.full_layers, d.sliding_layers) = (Some(1024), Some(16), Some(16))
                }),
                8192,
                1,
                Some((512 + 64) << 20),
            ),
            (
                with(|d| {
                    (d.sliding_window, d.full_layers, d.sliding_layers) = (Some(1024), Some(0), Some(32))
                }),
                512,
                1,
                Some(64 << 20),
            ),
            (with(|d| d.mla = Some(Mla { kv_rank: 512, rope_dim: 64 })), 1000, 1, Some(32 * 576 * 1000 * 2)),
            (with(|d| d.head_dim = None), 8192, 1, None),
            (with(|d| d.layers = Some(u64::MAX)), 8192, 1, Some(u64::MAX)),
            (with(|d| (d.family, d.task) = (Some("bert".into()), Some("embedding"))), 8192, 1, Some(0)),
        ] {
            assert_eq!(cache_bytes(&d, context, batch), expected, "{context} × {batch}: {d:?}");
        }
        assert_eq!(ways(&llama), [1, 2, 4, 8, 16, 32]);
        assert_eq!(ways(&with(|d| (d.heads, d.kv_heads) = (Some(28), Some(4)))), [1, 2, 4, 28]);
        assert_eq!(ways(&with(|d| d.heads = Some(0))), [1]);
        assert_eq!(cache_share(&llama, 1 << 30, 16), 128 << 20);
    }
}
