//! The least and the largest number of a run.
//!
//! The loop is plain, but compilers make shuffles of it where it stands beside others: the instructions are named here, which
//! makes this one of the files with unsafe code.

#![allow(unsafe_code)]

use super::Level;
use super::levels::{above, below};

/// What there is in a run, or in several.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Extremes {
    /// The least number; positive infinity where there is none.
    pub low: f32,
    /// The largest number; negative infinity where there is none.
    pub high: f32,
    /// Whether something is no number at all.
    pub has_nan: bool,
}

impl Extremes {
    /// Of nothing.
    pub(super) const NONE: Extremes =
        Extremes { low: f32::INFINITY, high: f32::NEG_INFINITY, has_nan: false };

    /// Those of a run and of what was seen before. `level` is one that the machine has.
    #[inline(always)]
    pub(super) fn and(self, level: Level, numbers: &[f32]) -> Extremes {
        let found = match level {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: whoever hands in a level has asked the machine for it.
            Level::Avx512 => unsafe { x86::avx512(numbers, self) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Level::Avx2 => unsafe { x86::avx2(numbers, self) },
            _ => plain(numbers, self),
        };
        // Which of two zeros is the less depends on their order, and that on the width of a vector.
        Extremes { low: found.low + 0.0, high: found.high + 0.0, ..found }
    }

    /// Whether all are finite.
    #[inline(always)]
    pub(super) fn is_finite(self) -> bool {
        !self.has_nan & (self.low > f32::NEG_INFINITY) & (self.high < f32::INFINITY)
    }
}

/// What the others do, for every machine.
#[inline(always)]
fn plain(numbers: &[f32], mut seen: Extremes) -> Extremes {
    for &x in numbers {
        seen.low = below(x, seen.low);
        seen.high = above(x, seen.high);
        seen.has_nan |= x.is_nan();
    }
    seen
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Extremes, plain};
    use std::arch::x86_64::*;

    // Least and largest give their second operand where the first is a NaN, as `below` and `above` do.

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    pub(super) fn avx512(numbers: &[f32], seen: Extremes) -> Extremes {
        let (chunks, rest) = numbers.as_chunks::<16>();
        let (mut low, mut high) = (_mm512_set1_ps(seen.low), _mm512_set1_ps(seen.high));
        let mut nan = 0;
        for chunk in chunks {
            // SAFETY: a chunk is as wide as a vector.
            let x = unsafe { _mm512_loadu_ps(chunk.as_ptr()) };
            low = _mm512_min_ps(x, low);
            high = _mm512_max_ps(x, high);
            nan |= _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        }
        // Both at once, the least turned into a largest: halves of either beside each other, then quarters.
        let low = _mm512_xor_ps(low, _mm512_set1_ps(-0.0));
        let halves = [
            _mm512_shuffle_f32x4::<0b01_00_01_00>(low, high),
            _mm512_shuffle_f32x4::<0b11_10_11_10>(low, high),
        ];
        let most = _mm512_max_ps(halves[0], halves[1]);
        let most = _mm512_max_ps(most, _mm512_shuffle_f32x4::<0b10_11_00_01>(most, most));
        let most = _mm512_max_ps(most, _mm512_permute_ps::<0b01_00_11_10>(most));
        let most = _mm512_max_ps(most, _mm512_permute_ps::<0b10_11_00_01>(most));
        let low = -_mm512_cvtss_f32(most);
        let high = _mm_cvtss_f32(_mm512_extractf32x4_ps::<2>(most));
        plain(rest, Extremes { low, high, has_nan: seen.has_nan | (nan != 0) })
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn avx2(numbers: &[f32], seen: Extremes) -> Extremes {
        let (chunks, rest) = numbers.as_chunks::<8>();
        let (mut low, mut high) = (_mm256_set1_ps(seen.low), _mm256_set1_ps(seen.high));
        let mut nan = _mm256_setzero_ps();
        for chunk in chunks {
            // SAFETY: a chunk is as wide as a vector.
            let x = unsafe { _mm256_loadu_ps(chunk.as_ptr()) };
            low = _mm256_min_ps(x, low);
            high = _mm256_max_ps(x, high);
            nan = _mm256_or_ps(nan, _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
        }
        let mut lanes = [[0f32; 8]; 2];
        // SAFETY: an array is as wide as a vector.
        unsafe {
            _mm256_storeu_ps(lanes[0].as_mut_ptr(), low);
            _mm256_storeu_ps(lanes[1].as_mut_ptr(), high);
        }
        let has_nan = seen.has_nan | (_mm256_movemask_ps(nan) != 0);
        let low = plain(&lanes[0], Extremes { has_nan, ..seen });
        let both = plain(&lanes[1], low);
        plain(rest, both)
    }
}
