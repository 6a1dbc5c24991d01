//! Makers of ggml's blocks: millions of weights a second on one thread, by type, without and with an importance.
//!
//! `cargo bench --bench blocks [-- TYPE…]`. The numbers are those of `testdata/golden/ggml/input.f32`, in cache, as the
//! pipeline has them; the figure is of the fastest of many runs. `benches/rivals/ggml_blocks.py` gives ggml's own on the
//! same numbers.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use hoist::dtype::DType;
use hoist::transform::block;
use std::hint::black_box;
use std::time::Instant;

const RUNS: usize = 200;
const COLUMNS: usize = 1024;
/// So few that a run is shorter than what the machine gives a thread at a time.
const NUMBERS: usize = 8192;

fn main() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/golden/ggml/input.f32");
    let bytes = std::fs::read(path).unwrap();
    let numbers: Vec<f32> =
        bytes.as_chunks().0.iter().take(NUMBERS).map(|&b| f32::from_le_bytes(b)).collect();
    let importance: Vec<f32> = (0..COLUMNS).map(|i| 0.1 + (i * 7919 % 1000) as f32 / 300.0).collect();
    let wanted: Vec<String> = std::env::args().skip(1).filter(|name| !name.starts_with('-')).collect();
    println!("{:8} {:>8} {:>10}", "type", "plain", "importance");
    for &dtype in DType::ALL {
        let asked = wanted.is_empty() || wanted.iter().any(|name| name == dtype.name());
        if !asked || !block::can_encode(dtype) {
            continue;
        }
        let facts = dtype.facts();
        let mut out = vec![0; numbers.len() / facts.block_elements as usize * facts.block_bytes as usize];
        let mut fastest = |work: &dyn Fn(&mut [u8])| {
            let runs = (0..RUNS).map(|_| {
                let start = Instant::now();
                work(black_box(&mut out));
                start.elapsed().as_secs_f64()
            });
            numbers.len() as f64 / runs.fold(f64::INFINITY, f64::min) / 1e6
        };
        let plain = fastest(&|out| {
            block::encode(dtype, &numbers, out);
        });
        let weighed = fastest(&|out| {
            block::encode_weighed(dtype, &numbers, COLUMNS, 0, &importance, out);
        });
        println!("{:8} {plain:8.1} {weighed:10.1}", dtype.name());
    }
}
