//! One timed forward pass: `hoist-candle-models ENGINE MODEL`, for `benches/verify.sh`. Prints a JSON line for the prefill
//! and one for the decoding.
//!
//! Both engines stand in one binary, so that they share compiler, allocator and candle's kernels, and differ in the model
//! code alone. A token that is decoded is given and not chosen: both do the same work whatever they compute, and what
//! they compute can be compared.

use candle_core::DType;
use hoist_candle_models::ours::Ours;
use hoist_candle_models::{Result, Rival, dialect, greedy, ids};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;

const USAGE: &str = "usage: hoist-candle-models hoist|candle MODEL [--dtype f32|bf16|f16] [--prefill N] [--decode N] [--runs N]";

struct Wanted {
    engine: String,
    model: String,
    dtype: DType,
    prefill: usize,
    decode: usize,
    runs: usize,
}

fn wanted() -> Result<Wanted> {
    let mut arguments = std::env::args().skip(1);
    let engine = arguments.next().ok_or(USAGE)?;
    let model = arguments.next().ok_or(USAGE)?;
    let mut wanted = Wanted { engine, model, dtype: DType::F32, prefill: 256, decode: 64, runs: 1 };
    while let Some(flag) = arguments.next() {
        let value = arguments.next().ok_or(USAGE)?;
        match flag.as_str() {
            "--dtype" => {
                wanted.dtype = match value.as_str() {
                    "f32" => DType::F32,
                    "bf16" => DType::BF16,
                    "f16" => DType::F16,
                    _ => return Err(USAGE.into()),
                }
            }
            "--prefill" => wanted.prefill = value.parse()?,
            "--decode" => wanted.decode = value.parse()?,
            "--runs" => wanted.runs = value.parse()?,
            _ => return Err(USAGE.into()),
        }
    }
    Ok(wanted)
}

/// Seconds of processor time of this process so far.
fn cpu_seconds() -> Option<f64> {
    hoist::machine::cpu_time().map(|t| t.as_secs_f64())
}

/// Token ids and the position of the first in; logits after the last out.
type Step = Box<dyn FnMut(&[u32], usize) -> Result<Vec<f32>>>;

fn main() -> Result<()> {
    let wanted = wanted()?;
    let model = Path::new(&wanted.model);
    let config: Value = serde_json::from_slice(&std::fs::read(model.join("config.json"))?)?;
    let began = Instant::now();
    let (mut step, vocabulary): (Step, u32) = match wanted.engine.as_str() {
        "hoist" => {
            let mut ours = Ours::load(model, wanted.dtype)?;
            let vocabulary = ours.vocabulary();
            (Box::new(move |ids, offset| ours.last_logits(ids, offset)), vocabulary)
        }
        "candle" => {
            let mut rival = Rival::load(model, &dialect(&config), wanted.dtype)?;
            let vocabulary = rival.vocabulary;
            (Box::new(move |ids, offset| rival.last_logits(ids, offset)), vocabulary)
        }
        _ => return Err(USAGE.into()),
    };
    let load_seconds = began.elapsed().as_secs_f64();
    let all = ids(wanted.prefill + wanted.decode, vocabulary);
    let (prompt, rest) = all.split_at(wanted.prefill);
    // Fresh pages and threads that sleep are no part of a pass: one goes before those that count.
    for run in 0..=wanted.runs {
        let mut lines = Vec::new();
        let mut logits = Vec::new();
        let mut timed =
            |what: &str, tokens: usize, work: &mut dyn FnMut() -> Result<Vec<f32>>| -> Result<()> {
                let (before, began) = (cpu_seconds(), Instant::now());
                logits = work()?;
                let seconds = began.elapsed().as_secs_f64();
                let cpu = cpu_seconds().zip(before).map(|(after, before)| after - before);
                lines.push(json!({
                    "engine": wanted.engine,
                    "part": what,
                    "dtype": wanted.dtype.as_str(),
                    "tokens": tokens,
                    "seconds": seconds,
                    "cpu_seconds": cpu,
                    "tokens_per_second": tokens as f64 / seconds.max(1e-9),
                    "load_seconds": load_seconds,
                    "peak_rss_bytes": hoist::machine::peak_resident_bytes(),
                    "threads": candle_core::utils::get_num_threads(),
                    "top": greedy(&logits),
                    "norm": logits.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt(),
                }));
                Ok(())
            };
        timed("prefill", prompt.len(), &mut || step(prompt, 0))?;
        if !rest.is_empty() {
            timed("decode", rest.len(), &mut || {
                let mut last = Vec::new();
                for (at, id) in rest.iter().enumerate() {
                    last = step(&[*id], prompt.len() + at)?;
                }
                Ok(last)
            })?;
        }
        if run > 0 {
            lines.iter().for_each(|line| println!("{line}"));
        }
    }
    Ok(())
}
