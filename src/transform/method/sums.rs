//! Sums over numbers and what a reader finds for them: the squares of both and of their differences.
//!
//! The loop is plain. Where a code of four bits picks each number out of sixteen, AVX-512 holds all of them in a vector, and what
//! is picked need not be stored first: those instructions are named here, which makes this one of the files with unsafe code.

#![allow(unsafe_code)]

use super::levels::above;
use crate::transform::packing::faces::lookup;
use crate::transform::simd::Level;

/// Lanes of the sums: two vectors, since an addition takes as long as four instructions.
const LANES: usize = 32;
/// Numbers that are summed in f32, in as many sums as there are lanes: what is lost by that is below one part in a million.
pub(super) const STRETCH: usize = LANES * 64;

/// One a lane.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Sums {
    /// Of the squares of the differences.
    squares: [f32; LANES],
    /// Of the squares of the numbers.
    total: [f32; LANES],
    /// The largest difference.
    largest: [f32; LANES],
}

impl Sums {
    /// Of nothing.
    pub(super) const NONE: Sums = Sums { squares: [0.0; LANES], total: [0.0; LANES], largest: [0.0; LANES] };

    /// Adds numbers and what a reader finds for them; as many of one as of the other.
    #[inline(always)]
    pub(super) fn add(&mut self, xs: &[f32], ys: &[f32]) {
        let ((x_chunks, x_rest), (y_chunks, y_rest)) = (xs.as_chunks::<LANES>(), ys.as_chunks::<LANES>());
        for (x, y) in x_chunks.iter().zip(y_chunks) {
            for l in 0..LANES {
                self.add_one(l, x[l], y[l]);
            }
        }
        for (l, (&x, &y)) in x_rest.iter().zip(y_rest).enumerate() {
            self.add_one(l, x, y);
        }
    }

    #[inline(always)]
    fn add_one(&mut self, l: usize, x: f32, y: f32) {
        let d = x - y;
        self.squares[l] += d * d;
        self.total[l] += x * x;
        self.largest[l] = above(d.abs(), self.largest[l]);
    }

    /// The same where a reader finds `table[code & 15]`; no more than [`STRETCH`]. `level` is one that the machine has.
    #[inline(always)]
    pub(super) fn add_picked(&mut self, level: Level, xs: &[f32], table: &[f32; 16], codes: &[u8]) {
        #[cfg(target_arch = "x86_64")]
        if level == Level::Avx512 {
            // SAFETY: whoever hands in a level has asked the machine for it.
            return unsafe { x86::avx512(self, xs, table, codes) };
        }
        let mut ys = [0f32; STRETCH];
        let ys = &mut ys[..codes.len().min(STRETCH)];
        lookup(level, table, codes, ys);
        self.add(xs, ys);
    }

    /// The sum of squares of the differences, of squares of the numbers, and the largest difference.
    #[inline(always)]
    pub(super) fn all(&self) -> [f32; 3] {
        let Sums { mut squares, mut total, mut largest } = *self;
        for half in [16, 8, 4, 2, 1] {
            for l in 0..half {
                squares[l] += squares[l + half];
                total[l] += total[l + half];
                largest[l] = above(largest[l + half], largest[l]);
            }
        }
        [squares[0], total[0], largest[0]]
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{LANES, Sums};
    use std::arch::x86_64::*;

    /// What the plain loop does, in its order. The larger of two is the second where the first is a NaN, as `above` has it.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    pub(super) fn avx512(sums: &mut Sums, xs: &[f32], table: &[f32; 16], codes: &[u8]) {
        let ((x_chunks, x_rest), (c_chunks, c_rest)) = (xs.as_chunks::<LANES>(), codes.as_chunks::<LANES>());
        // SAFETY: the table is as wide as a vector, and the lanes of each sum as two.
        let (table_vector, [mut squares, mut total, mut largest]) = unsafe {
            let both = |lanes: &[f32; LANES]| [0, 16].map(|at| _mm512_loadu_ps(lanes.as_ptr().add(at)));
            (_mm512_loadu_ps(table.as_ptr()), [both(&sums.squares), both(&sums.total), both(&sums.largest)])
        };
        for (x, codes) in x_chunks.iter().zip(c_chunks) {
            for half in 0..2 {
                // SAFETY: a chunk of numbers is as wide as two vectors, one of codes as two quarters.
                let (x, codes) = unsafe {
                    let codes = _mm_loadu_si128(codes.as_ptr().add(16 * half).cast());
                    (_mm512_loadu_ps(x.as_ptr().add(16 * half)), _mm512_cvtepu8_epi32(codes))
                };
                // Only four bits of each code are looked at.
                let d = _mm512_sub_ps(x, _mm512_permutexvar_ps(codes, table_vector));
                squares[half] = _mm512_add_ps(squares[half], _mm512_mul_ps(d, d));
                total[half] = _mm512_add_ps(total[half], _mm512_mul_ps(x, x));
                largest[half] = _mm512_max_ps(_mm512_abs_ps(d), largest[half]);
            }
        }
        let pairs = [(&mut sums.squares, squares), (&mut sums.total, total), (&mut sums.largest, largest)];
        for (lanes, both) in pairs {
            for (half, vector) in both.into_iter().enumerate() {
                // SAFETY: the lanes are as wide as two vectors.
                unsafe { _mm512_storeu_ps(lanes.as_mut_ptr().add(16 * half), vector) };
            }
        }
        for (l, (&x, &code)) in x_rest.iter().zip(c_rest).enumerate() {
            sums.add_one(l, x, table[usize::from(code & 15)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::drawn;
    use super::*;

    /// Whatever the instructions and the numbers, the sums have the same bits.
    #[test]
    fn levels_agree() {
        let table: [f32; 16] = std::array::from_fn(|n| (n as f32 - 7.5) * 0.3);
        let codes: Vec<u8> = (0..500u32).map(|n| (n * 7 % 256) as u8).collect();
        let mut numbers = drawn(500);
        for odd in [None, Some(f32::NAN), Some(f32::INFINITY), Some(f32::MAX)] {
            if let Some(x) = odd {
                numbers[70] = x;
            }
            for count in [0, 1, 31, 32, 33, 64, 128, 200, 500] {
                let ys: Vec<f32> = codes[..count].iter().map(|c| table[usize::from(c & 15)]).collect();
                let mut expected = Sums::NONE;
                expected.add(&numbers[..count], &ys);
                for &level in Level::ALL.iter().filter(|level| level.is_here()) {
                    let mut sums = Sums::NONE;
                    sums.add_picked(level, &numbers[..count], &table, &codes[..count]);
                    let bits = |sums: &Sums| sums.all().map(|x| if x.is_nan() { 0 } else { x.to_bits() });
                    assert_eq!(bits(&sums), bits(&expected), "{level:?}, {count} numbers with {odd:?}");
                }
            }
        }
    }
}
