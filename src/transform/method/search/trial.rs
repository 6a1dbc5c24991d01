//! The error of a few lines as they would be stored, on a group's own numbers.
//!
//! Sixteen sums a line, whose order of addition is part of what is computed: it is the same with all instructions. Those of
//! AVX-512 are named, because compilers turn the loop around; this is one of the files with unsafe code.

#![allow(unsafe_code)]

use super::super::groups::LANES;
use super::super::levels::{TO_INTEGER, clamp};
use super::Level;

/// Numbers that are summed before their sums are.
const STRETCH: usize = 256;

/// A number is near `code · scale + bias`, `code` being whole and within bounds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trial {
    pub scale: f32,
    /// One over the scale.
    pub inverse: f32,
    pub bias: f32,
    pub least: f32,
    pub most: f32,
}

/// `Σ (x − (code·scale + bias))²` of each line, `x` being a number multiplied by `to`. `level` is one that the machine has.
#[inline(always)]
pub(super) fn errors<const C: usize>(level: Level, numbers: &[f32], to: f32, lines: &[Trial; C]) -> [f32; C] {
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: whoever hands in a level has asked the machine for it.
        Level::Avx512 => unsafe { x86::avx512(numbers, to, lines) },
        _ => plain(numbers, to, lines),
    }
}

/// What the others do, for every machine.
#[inline(always)]
fn plain<const C: usize>(numbers: &[f32], to: f32, lines: &[Trial; C]) -> [f32; C] {
    let mut all = [0f32; C];
    for stretch in numbers.chunks(STRETCH) {
        let mut sum = [[0f32; LANES]; C];
        let (chunks, rest) = stretch.as_chunks::<LANES>();
        for chunk in chunks {
            for c in 0..C {
                for l in 0..LANES {
                    let d = lines[c].difference(chunk[l] * to);
                    sum[c][l] += d * d;
                }
            }
        }
        for c in 0..C {
            for (l, &x) in rest.iter().enumerate() {
                let d = lines[c].difference(x * to);
                sum[c][l] += d * d;
            }
            for half in [8, 4, 2, 1] {
                for l in 0..half {
                    sum[c][l] += sum[c][l + half];
                }
            }
            all[c] += sum[c][0];
        }
    }
    all
}

impl Trial {
    #[inline(always)]
    fn difference(&self, x: f32) -> f32 {
        let x = x - self.bias;
        let code = (clamp(x * self.inverse, self.least, self.most) + TO_INTEGER) - TO_INTEGER;
        x - code * self.scale
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{LANES, STRETCH, TO_INTEGER, Trial};
    use std::arch::x86_64::*;

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    pub(super) fn avx512<const C: usize>(numbers: &[f32], to: f32, lines: &[Trial; C]) -> [f32; C] {
        let [scale, bias, least, most] = [
            lines.map(|line| _mm512_set1_ps(line.scale)),
            lines.map(|line| _mm512_set1_ps(line.bias)),
            lines.map(|line| _mm512_set1_ps(line.least)),
            lines.map(|line| _mm512_set1_ps(line.most)),
        ];
        let inverse = lines.map(|line| _mm512_set1_ps(line.inverse));
        let (to, to_integer) = (_mm512_set1_ps(to), _mm512_set1_ps(TO_INTEGER));
        let square = |x: __m512, c: usize| {
            let x = _mm512_sub_ps(_mm512_mul_ps(x, to), bias[c]);
            let code = _mm512_min_ps(_mm512_max_ps(_mm512_mul_ps(x, inverse[c]), least[c]), most[c]);
            let code = _mm512_sub_ps(_mm512_add_ps(code, to_integer), to_integer);
            let d = _mm512_sub_ps(x, _mm512_mul_ps(code, scale[c]));
            _mm512_mul_ps(d, d)
        };
        let mut all = [0f32; C];
        for stretch in numbers.chunks(STRETCH) {
            let mut sum = [_mm512_setzero_ps(); C];
            let (chunks, rest) = stretch.as_chunks::<LANES>();
            for chunk in chunks {
                // SAFETY: a chunk is as wide as a vector.
                let x = unsafe { _mm512_loadu_ps(chunk.as_ptr()) };
                for c in 0..C {
                    sum[c] = _mm512_add_ps(sum[c], square(x, c));
                }
            }
            if !rest.is_empty() {
                let lanes = (1u16 << rest.len()) - 1;
                // SAFETY: only as many numbers as there are are read.
                let x = unsafe { _mm512_maskz_loadu_ps(lanes, rest.as_ptr()) };
                for c in 0..C {
                    sum[c] = _mm512_mask_add_ps(sum[c], lanes, sum[c], square(x, c));
                }
            }
            for c in 0..C {
                // Halves are added to each other, as in the plain loop.
                let eight =
                    _mm256_add_ps(_mm512_castps512_ps256(sum[c]), _mm512_extractf32x8_ps::<1>(sum[c]));
                let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                all[c] += _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)));
            }
        }
        all
    }
}
