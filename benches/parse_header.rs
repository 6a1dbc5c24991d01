//! The safetensors header reader against serde_json's tree of values on the same bytes, in the same process.
//!
//! `cargo bench --bench parse_header [-- TENSORS]`. Pairs alternate, so that whatever else the machine does falls on both;
//! the figure is the median of the pairs' ratios. The target is a ratio under 2; time in proportion to the bytes shows in
//! the rates, which should not fall from the small header to the large one.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use hoist::format::{Known, Step, safetensors};
use std::hint::black_box;
use std::time::{Duration, Instant};

const PAIRS: usize = 15;

/// A header as a large mixture of experts has it, and a file size that fits it. The data is never looked at.
fn file(tensors: usize) -> (Vec<u8>, u64) {
    let mut header = String::from("{\"__metadata__\":{\"format\":\"pt\"}");
    let mut offset = 0u64;
    for n in 0..tensors {
        let end = offset + 2048 * 768 * 2;
        header.push_str(&format!(
            ",\"model.layers.{}.mlp.experts.{}.up_proj.weight\":{{\"dtype\":\"BF16\",\"shape\":[768,2048],\"data_offsets\":[{offset},{end}]}}",
            n / 128,
            n % 128
        ));
        offset = end;
    }
    header.push('}');
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    let size = bytes.len() as u64 + offset;
    (bytes, size)
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    let made = work();
    let took = start.elapsed();
    drop(black_box(made));
    took
}

fn main() {
    // cargo passes `--bench`.
    let asked = std::env::args().skip(1).find_map(|a| a.parse::<usize>().ok());
    for tensors in asked.map_or(vec![1_000, 10_000, 100_000], |n| vec![n]) {
        let (bytes, size) = file(tensors);
        let mut known = Known::of_size(size);
        known.add(0, bytes.clone());
        let (mut ratios, mut ours) = (Vec::new(), Vec::new());
        for pair in 0..PAIRS {
            let parse = || {
                timed(
                    || matches!(safetensors::parse(&known).unwrap(), Step::Done(part) if part.tensors.len() == tensors),
                )
            };
            let tree = || timed(|| serde_json::from_slice::<serde_json::Value>(&bytes[8..]).unwrap());
            let (a, b) = if pair % 2 == 0 {
                let a = parse();
                (a, tree())
            } else {
                let b = tree();
                (parse(), b)
            };
            ratios.push(a.as_secs_f64() / b.as_secs_f64());
            ours.push(a.as_secs_f64());
        }
        ratios.sort_by(f64::total_cmp);
        ours.sort_by(f64::total_cmp);
        println!(
            "{tensors:>7} tensors   {:>8.2} ms   {:>6.0} MB/s   {:.2} of serde_json's Value (from {:.2} to {:.2})",
            ours[PAIRS / 2] * 1e3,
            bytes.len() as f64 / ours[PAIRS / 2] / 1e6,
            ratios[PAIRS / 2],
            ratios[0],
            ratios[PAIRS - 1]
        );
    }
}
