//! The casts of the device, through the emulated driver: the way from `Cast` to the kernel and back, and the double's
//! arithmetic against the half crate. (The PTX itself is checked by `testdata/make/check_cast_ptx.py`, and by a GPU.)
// The calls under test are unsafe by nature: what they touch is in plain sight in each test.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

use super::driver::{open, real_gpu};
use super::outside;
use half::{bf16, f16};
use hoist::dtype::DType;
use hoist::sink::cuda::driver::Gpu;
use hoist::sink::cuda::driver::cast::Cast;
use hoist::transform::cast::{SOURCES, TARGETS};

/// Every value of the small types; for f32 and f64 the edges of every target's exponents, ties and their neighbours,
/// and some at random.
pub fn samples(source: DType) -> Vec<u64> {
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    match source.facts().block_bytes {
        1 => (0..256).collect(),
        2 => (0..65536).collect(),
        4 => {
            let mut bits: Vec<u32> = (0..20_000).map(|_| next() as u32).collect();
            for exponent in 0..=255u32 {
                for low in
                    [0, 1, 0xfff, 0x1000, 0x1001, 0x2000, 0x3000, 0x7fff, 0x8000, 0x8001, 0x1_8000, 0x7f_f000]
                {
                    bits.extend([exponent << 23 | low, exponent << 23 | (0x7f_ffff ^ low)]);
                }
            }
            bits.iter().flat_map(|&b| [u64::from(b), u64::from(b | 1 << 31)]).collect()
        }
        _ => {
            let mut bits: Vec<u64> = (0..20_000).map(|_| next()).collect();
            for exponent in (1023 - 160..=1023 + 130).chain([0, 1, 2046, 2047]) {
                for cut in [23, 10, 7] {
                    // Around a tie of the target, below and above by one, with an even and an odd last place.
                    let tie = 1u64 << (51 - cut);
                    for mantissa in [0, tie, 3 * tie, (1 << 52) - tie] {
                        bits.extend(
                            [-1i64, 0, 1]
                                .map(|d| ((exponent as u64) << 52 | mantissa).wrapping_add_signed(d)),
                        );
                    }
                }
                bits.push((exponent as u64) << 52 | (next() >> 12));
            }
            bits.iter().flat_map(|&b| [b & !(1 << 63), b | 1 << 63]).collect()
        }
    }
}

/// What an f8 value is, by its definition.
fn f8(source: DType, bits: u8) -> f64 {
    let (mantissa_bits, bias, fnuz) = match source {
        DType::F8E4M3 => (3, 7, false),
        DType::F8E5M2 => (2, 15, false),
        DType::F8E4M3FNUZ => (3, 8, true),
        _ => (2, 16, true),
    };
    let (negative, magnitude) = (bits & 0x80 != 0, i32::from(bits & 0x7f));
    let (exponent, mantissa) = (magnitude >> mantissa_bits, magnitude & ((1 << mantissa_bits) - 1));
    let nan = if fnuz {
        bits == 0x80
    } else {
        source == DType::F8E4M3 && magnitude == 0x7f || source == DType::F8E5M2 && magnitude > 0x7c
    };
    let value = match (nan, exponent) {
        (true, _) => f64::NAN,
        (_, 31) if source == DType::F8E5M2 => f64::INFINITY,
        (_, 0) => f64::from(mantissa) * 2f64.powi(1 - bias - mantissa_bits),
        _ => f64::from((1 << mantissa_bits) + mantissa) * 2f64.powi(exponent - bias - mantissa_bits),
    };
    if negative { -value } else { value }
}

/// The nearest of the half type's values, found by looking: the one that is guessed and its neighbours, with the even
/// one at a tie. The crate's own conversion from f64 drops bits that decide ties.
fn nearest(value: f64, guess: u16, infinity: u16, decode: impl Fn(u16) -> f64) -> u16 {
    let sign = guess & 0x8000;
    let magnitude = guess & 0x7fff;
    // Inf takes part as the value that would come after the largest.
    let place = |m: u16| if m == infinity { 2.0 * decode(m - 1) - decode(m - 2) } else { decode(m) };
    let best = [magnitude.saturating_sub(1), magnitude, (magnitude + 1).min(infinity)]
        .into_iter()
        .min_by(|&a, &b| {
            let away = |m: u16| (place(m) - value.abs()).abs();
            away(a).total_cmp(&away(b)).then((a & 1).cmp(&(b & 1)))
        })
        .unwrap();
    sign | best
}

/// A cast by other means: bits, and whether it overflowed.
pub fn naive(source: DType, target: DType, bits: u64) -> (u64, bool) {
    // NaN first: sign, mantissa's top, quiet bit.
    let facts = |d: DType| match d {
        DType::F64 => (11, 52),
        DType::F32 => (8, 23),
        DType::F16 => (5, 10),
        DType::BF16 => (8, 7),
        DType::F8E4M3 | DType::F8E4M3FNUZ => (4, 3),
        _ => (5, 2),
    };
    let value = match source {
        DType::F64 => f64::from_bits(bits),
        DType::F32 => f64::from(f32::from_bits(bits as u32)),
        DType::F16 => f16::from_bits(bits as u16).to_f64(),
        DType::BF16 => bf16::from_bits(bits as u16).to_f64(),
        _ => f8(source, bits as u8),
    };
    let ((_, m), (te, tm)) = (facts(source), facts(target));
    if value.is_nan() {
        if (source, target) == (DType::BF16, DType::F32) {
            return (bits << 16, false);
        }
        let fnuz = matches!(source, DType::F8E4M3FNUZ | DType::F8E5M2FNUZ);
        let negative = !fnuz && bits >> (source.facts().block_bytes * 8 - 1) & 1 == 1;
        let mantissa = (bits & ((1 << m) - 1)) << (52 - m) >> (52 - tm);
        let head = u64::from(negative) << te | ((1 << te) - 1);
        return (head << tm | mantissa | 1 << (tm - 1), false);
    }
    let out = match target {
        DType::F32 => u64::from((value as f32).to_bits()),
        DType::F16 => u64::from(match source {
            DType::F64 if value.is_finite() => {
                nearest(value, f16::from_f64(value).to_bits(), 0x7c00, |m| f16::from_bits(m).to_f64())
            }
            _ => f16::from_f32(value as f32).to_bits(),
        }),
        _ => u64::from(match source {
            DType::F64 if value.is_finite() => {
                nearest(value, bf16::from_f64(value).to_bits(), 0x7f80, |m| bf16::from_bits(m).to_f64())
            }
            _ => bf16::from_f32(value as f32).to_bits(),
        }),
    };
    let infinity = ((1 << te) - 1) << tm;
    (out, value.is_finite() && out & ((1 << (te + tm)) - 1) == infinity)
}

#[test]
fn every_pair_casts() {
    let check = |run: &super::Run| {
        let report = run.passed();
        assert_eq!(report.count("launches"), 42);
    };
    if !outside("cuda::casts::every_pair_casts", &[], check) {
        check_all(&open());
    }
}

/// The same on a real GPU, where there is one.
#[test]
fn every_pair_casts_on_a_gpu() {
    match real_gpu() {
        Some(gpu) => check_all(&gpu),
        None => eprintln!("skipped: no GPU"),
    }
}

/// Every kernel, with and without saturation, on every sample.
fn check_all(gpu: &Gpu) {
    let module = Cast::module(gpu).unwrap();
    let stream = gpu.stream().unwrap();
    let mut wrong = Vec::new();
    for &source in SOURCES {
        let samples = samples(source);
        let (from_bytes, count) = (source.facts().block_bytes as usize, samples.len());
        let host: Vec<u8> = samples.iter().flat_map(|s| s.to_le_bytes()[..from_bytes].to_vec()).collect();
        let input = gpu.alloc(host.len() as u64).unwrap();
        unsafe { stream.host_to_device(input.address(), host.as_ptr(), host.len()).unwrap() };
        for &target in TARGETS {
            let Some(cast) = Cast::new(gpu, &module, source, target) else {
                assert_eq!(source, target);
                continue;
            };
            let cast = cast.unwrap();
            let to_bytes = target.facts().block_bytes as usize;
            for saturate in [false, true] {
                let output = gpu.alloc((count * to_bytes) as u64).unwrap();
                let counter = gpu.alloc(8).unwrap();
                let (mut back, mut overflows) = (vec![0u8; count * to_bytes], [0u8; 8]);
                unsafe {
                    stream.fill_u8(counter.address(), 0, 8).unwrap();
                    cast.launch(
                        &stream,
                        input.address(),
                        output.address(),
                        count as u64,
                        counter.address(),
                        saturate,
                    )
                    .unwrap();
                    stream.device_to_host(back.as_mut_ptr(), output.address(), back.len()).unwrap();
                    stream.device_to_host(overflows.as_mut_ptr(), counter.address(), 8).unwrap();
                }
                stream.synchronize().unwrap();
                let mut expected_overflows = 0;
                for (&bits, got) in samples.iter().zip(back.chunks(to_bytes)) {
                    let (mut expected, over) = naive(source, target, bits);
                    if over {
                        expected_overflows += 1;
                        expected -= u64::from(saturate);
                    }
                    if got != &expected.to_le_bytes()[..to_bytes] && wrong.len() < 20 {
                        wrong.push(format!(
                            "{source} {bits:#x} → {target}: expected {expected:#x}, got {got:x?}"
                        ));
                    }
                }
                assert_eq!(u64::from_le_bytes(overflows), expected_overflows, "{source} → {target}");
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
