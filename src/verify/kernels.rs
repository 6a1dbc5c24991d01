//! Kernels over numbers in host memory, in the pool of threads that candle runs in.
//!
//! candle's own elementwise operations run on one thread, make a tensor for each step and refuse views. What a layer does
//! besides matrix products is therefore written here once, fused: one pass over memory, all cores, results in place where
//! the input is no longer needed. Everything is in 32-bit floats; whoever calls converts. Each has a twin in candle's
//! operations beside the place of its use, for other devices and as the slow and obvious version that tests compare with.

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Storage, Tensor, bail};
use rayon::prelude::*;

/// Elements that are worth another thread.
const PARALLEL_MIN: usize = 16 * 1024;

/// Independent partial sums: what the processor adds side by side, and a shorter chain of roundings.
pub(crate) const LANES: usize = 16;

/// Whether these kernels can take it: 32-bit floats in host memory.
pub(crate) fn takes(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// The numbers of a tensor that [`takes`] and whose elements follow each other.
pub(crate) fn read<R>(x: &Tensor, f: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let (storage, layout) = x.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(all)), Some((from, to))) => match all.get(from..to) {
            Some(part) => f(part),
            None => bail!("a tensor beyond its storage"),
        },
        _ => bail!("not contiguous 32-bit floats in host memory"),
    }
}

/// The numbers of a tensor that [`takes`], from its first element to its end, however it strides over them.
pub(crate) fn read_strided<R>(x: &Tensor, f: impl FnOnce(&[f32], &[usize]) -> Result<R>) -> Result<R> {
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cpu(CpuStorage::F32(all)) => match all.get(layout.start_offset()..) {
            Some(part) => f(part, layout.stride()),
            None => bail!("a tensor beyond its storage"),
        },
        _ => bail!("not 32-bit floats in host memory"),
    }
}

struct InPlace<F>(F);

impl<F: Fn(&mut [f32])> InplaceOp1 for InPlace<F> {
    fn name(&self) -> &'static str {
        "in place"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        match (storage, layout.contiguous_offsets()) {
            (CpuStorage::F32(all), Some((from, to))) => match all.get_mut(from..to) {
                Some(part) => {
                    (self.0)(part);
                    Ok(())
                }
                None => bail!("a tensor beyond its storage"),
            },
            _ => bail!("not contiguous 32-bit floats in host memory"),
        }
    }
}

/// Changes the numbers of a tensor that [`takes`] where they lie. Only for tensors that nobody else holds: views of the
/// same memory would change too, and `f` must not read them.
pub(crate) fn change(x: &Tensor, f: impl Fn(&mut [f32])) -> Result<()> {
    x.inplace_op1(&InPlace(f))
}

/// Calls `f` with each row's place and its `width` numbers, on several threads where it is worth it. `work` is what one
/// element costs, in units of one multiplication or so.
pub(crate) fn each_row(
    all: &mut [f32],
    width: usize,
    work: usize,
    f: impl Fn(usize, &mut [f32]) + Sync + Send,
) {
    if width == 0 {
        return;
    }
    let rows = all.len() / width;
    if rows < 2 || all.len().saturating_mul(work) < 2 * PARALLEL_MIN {
        for (at, row) in all.chunks_exact_mut(width).enumerate() {
            f(at, row);
        }
    } else {
        let at_once = (PARALLEL_MIN / width.saturating_mul(work).max(1)).max(1);
        all.par_chunks_exact_mut(width).with_min_len(at_once).enumerate().for_each(|(at, row)| f(at, row));
    }
}

/// The sum of `f` over pairs, in [`LANES`] partial sums.
#[inline(always)]
pub(crate) fn sum_over(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let mut chunks = x.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += f(v);
        }
    }
    let rest: f32 = chunks.remainder().iter().map(|&v| f(v)).sum();
    lanes.iter().sum::<f32>() + rest
}

/// e^x within two units in the last place, with no call and no branch, so that the compiler does several at once: x is n
/// ln 2 + r with |r| ≤ ½ ln 2, a polynomial gives e^r, and n goes into the exponent. NaN stays NaN; what would overflow or
/// vanish stops at the ends of the range.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Added, it leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_145_75;
    const LN2_LOW: f32 = 1.428_606_8e-6;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let mut p = 1.0 / 720.0;
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + c;
    }
    p * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

/// The hyperbolic tangent: its series near zero, where the quotient would lose digits.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let s = x * x;
    let series = x * (1.0 + s * (-1.0 / 3.0 + s * (2.0 / 15.0 + s * (-17.0 / 315.0 + s * (62.0 / 2835.0)))));
    let quotient = 1.0 - 2.0 / (exp(2.0 * x.abs()) + 1.0);
    if x.abs() < 0.3 { series } else { quotient.copysign(x) }
}

/// The error function within 2·10⁻⁷: a polynomial in x² below 1, e^(−x²) times a polynomial in 1/(1 + x/2) above, both
/// fitted at Chebyshev nodes.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    const NEAR: [f32; 8] = [
        -9.673_591e-6,
        1.126_825_4e-4,
        -8.484_396_4e-4,
        5.221_053_5e-3,
        -2.686_543_8e-2,
        0.112_837_83,
        -0.376_126_38,
        std::f32::consts::FRAC_2_SQRT_PI,
    ];
    const FAR: [f32; 9] = [
        7.524_805_4e-2,
        -0.166_768_48,
        -8.127_023e-5,
        0.124_495_07,
        0.149_228_83,
        0.255_469_23,
        0.280_563_74,
        0.282_239_4,
        -5.676_200_4e-6,
    ];
    let horner = |at: f32, coefficients: &[f32]| coefficients.iter().fold(0.0, |sum, &c| sum * at + c);
    let (size, square) = (x.abs(), x * x);
    let near = x * horner(square, &NEAR);
    let far = 1.0 - exp(-square) * horner(1.0 / (1.0 + 0.5 * size), &FAR);
    if size < 1.0 { near } else { far.copysign(x) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_as_in_64_bits() {
        let erf64 = |x: f64| candle_core::cpu::erf::erf_f64(x);
        type Check<'a> = (&'a str, fn(f32) -> f32, &'a dyn Fn(f64) -> f64, f64);
        let checks: [Check<'_>; 3] =
            [("exp", exp, &f64::exp, 2.5e-7), ("tanh", tanh, &f64::tanh, 2.5e-7), ("erf", erf, &erf64, 4e-7)];
        for (name, f, exact, limit) in checks {
            for i in -200_000..200_000 {
                let x = i as f32 * 4.0e-4;
                let exact = exact(f64::from(x));
                let off = (f64::from(f(x)) - exact).abs() / exact.abs().max(1e-30);
                assert!(off < limit, "{name}({x}): off by {off:e}");
            }
            assert!(f(f32::NAN).is_nan(), "{name}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!((tanh(f32::INFINITY), tanh(f32::NEG_INFINITY)), (1.0, -1.0));
        assert_eq!((erf(f32::INFINITY), erf(f32::NEG_INFINITY)), (1.0, -1.0));
    }

    #[test]
    fn sums_reach_every_element() {
        for n in 0..70 {
            let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let sum = (n * (n as i32 - 1).max(0) as usize / 2) as f32;
            assert_eq!(sum_over(&x, |v| v), sum);
        }
    }
}
