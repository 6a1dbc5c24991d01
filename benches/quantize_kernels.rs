//! The kernels of `transform::method`, one thread, each with every set of instructions that the machine has.
//!
//! `cargo bench --bench quantize_kernels [-- WORD]`: kernels whose name holds the word. Numbers are heavy-tailed and of bf16, as
//! f32 in memory that the cache holds; rates are of the best of several runs, in millions of weights a second and in GB/s of
//! the bf16 that they would be in a file. What is measured is the kernel, groups in and codes out; reading, widening and
//! packing are not.
#![allow(missing_docs, clippy::print_stdout)]

use hoist::dtype::DType;
use hoist::transform::method::{Grid, Kind, Method, Quantiser, Rule, ScaleType, nvfp4_global};
use hoist::transform::packing::Band;
use hoist::transform::simd::Level;
use std::hint::black_box;
use std::time::{Duration, Instant};

const COLUMNS: usize = 4096;
const ROWS: usize = 32;
/// How long one kernel is measured.
const TIME: Duration = Duration::from_millis(300);

const BF16: ScaleType = ScaleType::Float(DType::BF16);
const F32: ScaleType = ScaleType::Float(DType::F32);
const SYMMETRIC: Kind = Kind::Symmetric { bits: 4, signed_scales: false };
const SIGNED: Kind = Kind::Symmetric { bits: 4, signed_scales: true };
const ASYMMETRIC: Kind = Kind::Asymmetric { bits: 4 };
const AFFINE: Kind = Kind::Affine { bits: 4 };
const INT8: Kind = Kind::Symmetric { bits: 8, signed_scales: false };
const FP8: Kind = Kind::Float(DType::F8E4M3);
/// Any sixteen numbers from −1 to 1 take as long as NF4's.
static TABLE: [f32; 16] =
    [-1.0, -0.7, -0.53, -0.39, -0.28, -0.18, -0.09, 0.0, 0.08, 0.16, 0.25, 0.34, 0.44, 0.56, 0.72, 1.0];

/// Numbers between −1 and 1, most of them small.
fn numbers() -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / 16_777_216.0 - 0.5
    };
    let mut draw = || {
        let sum = uniform() + uniform() + uniform();
        f32::from_bits((sum * sum * sum * 0.3).to_bits() & 0xffff_0000)
    };
    (0..ROWS * COLUMNS).map(|_| draw()).collect()
}

fn main() {
    // cargo passes `--bench`.
    let word = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let nvfp4 = ScaleType::E4M3 { global: nvfp4_global(1.0) };
    #[rustfmt::skip]
    let kernels: &[(&str, Kind, ScaleType, usize, &[Method])] = &[
        ("symmetric g128", SYMMETRIC, BF16, 128, &[Method::Rtn, Method::Search]),
        ("symmetric g32", SYMMETRIC, BF16, 32, &[Method::Rtn, Method::Search]),
        ("symmetric channel", SYMMETRIC, BF16, 0, &[Method::Rtn, Method::Search]),
        ("signed g128", SIGNED, BF16, 128, &[Method::Search]),
        ("asymmetric g128", ASYMMETRIC, BF16, 128, &[Method::Rtn, Method::Search]),
        ("asymmetric g32", ASYMMETRIC, BF16, 32, &[Method::Rtn, Method::Search]),
        ("affine g64", AFFINE, BF16, 64, &[Method::Rtn, Method::Search, Method::Hqq]),
        ("affine g128", AFFINE, BF16, 128, &[Method::Rtn, Method::Search, Method::Hqq]),
        ("int8 channel", INT8, BF16, 0, &[Method::Rtn, Method::Search]),
        ("nf4", Kind::Table(&TABLE), F32, 64, &[Method::Rtn, Method::Search]),
        ("mxfp4", Kind::E2M1, ScaleType::E8M0, 32, &[Method::Rtn, Method::Search]),
        ("nvfp4", Kind::E2M1, nvfp4, 16, &[Method::Rtn, Method::Search]),
        ("fp8 channel", FP8, BF16, 0, &[Method::Rtn, Method::Search]),
    ];
    let numbers = numbers();
    let mut band = Band::default();
    for &(name, kind, scale, group_columns, methods) in kernels {
        for &method in methods {
            let label = format!("{name} {method:?}").to_lowercase();
            if !label.contains(&word) {
                continue;
            }
            let rule = Rule::default();
            let grid = Grid { kind, scale };
            let quantiser = Quantiser { grid, method, rule, group_rows: 1, group_columns, importance: None };
            print!("{label:<26}");
            for &level in Level::ALL.iter().filter(|level| level.is_here()) {
                let (begin, mut best) = (Instant::now(), Duration::MAX);
                while begin.elapsed() < TIME {
                    let start = Instant::now();
                    quantiser.quantise_at(level, black_box(&numbers), COLUMNS, &mut band);
                    best = best.min(start.elapsed());
                    black_box(&band);
                }
                let rate = numbers.len() as f64 / best.as_secs_f64();
                print!("   {level:?} {:>6.0} M/s {:>5.2} GB/s", rate / 1e6, 2.0 * rate / 1e9);
            }
            println!();
        }
    }
}
