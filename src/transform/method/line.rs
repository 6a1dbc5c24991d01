//! The integer codes of a group whose scale is known.
//!
//! The loop is plain, but compilers make long ones of its narrowing to bytes: AVX-512's instructions are named here, which makes
//! this one of the files with unsafe code.

#![allow(unsafe_code)]

use super::Level;
use super::groups::Runs;
use super::levels::{TO_INTEGER, clamp};

/// How the integer codes of a group are made: `round(clamp((x + before) / divisor + after, -shift, most)) + shift`, where shift
/// and most are whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    pub before: f32,
    pub divisor: f32,
    pub after: f32,
    pub most: f32,
    pub shift: f32,
}

/// Numbers whose codes are made together.
const RUN: usize = 32;
/// Quotients and products that become codes differ by less than this share of the number of codes: by three roundings of up to
/// twice that, where something is added after, and one of each sum.
const NEAR: f32 = 1.0 / 1_048_576.0;

impl Line {
    /// Codes of a zero point: what round-to-nearest has to be when the scale is known.
    #[inline(always)]
    pub(super) fn around(zero: f32, scale: f32, top: f32) -> Line {
        Line { before: 0.0, divisor: scale, after: 0.0, most: top - zero, shift: zero }
    }

    /// Codes of a bias.
    #[inline(always)]
    pub(super) fn above(bias: f32, scale: f32, top: f32) -> Line {
        Line { before: -bias, divisor: scale, after: 0.0, most: top, shift: 0.0 }
    }

    /// The codes of runs of numbers, each by its line, where the numbers lie. `level` is one that the machine has.
    ///
    /// A product with the reciprocal is several times as fast as the quotient and a few units in the last place off: the
    /// nearest integer is the same, unless one of them is that close to the middle between two. Stretches in which some number
    /// is are divided.
    #[inline(always)]
    pub(super) fn code(level: Level, lines: &[Line], runs: Runs<'_>, codes: &mut [u8]) {
        // Symmetric grids have nothing to add.
        let adds = lines.iter().any(|line| line.before != 0.0 || line.after != 0.0);
        match (level, adds) {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: whoever hands in a level has asked the machine for it.
            (Level::Avx512, false) => unsafe { x86::avx512::<false>(lines, runs, codes) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            (Level::Avx512, true) => unsafe { x86::avx512::<true>(lines, runs, codes) },
            _ => {
                for (line, place) in lines.iter().zip(runs.places()) {
                    let (numbers, codes) = (&runs.numbers[place.clone()], &mut codes[place]);
                    if adds {
                        line.plain::<true>(numbers, codes)
                    } else {
                        line.plain::<false>(numbers, codes)
                    }
                }
            }
        }
    }

    /// The reciprocal of the divisor, where products with it are as near to quotients as [`NEAR`] says.
    #[inline(always)]
    fn inverse(self) -> Option<f32> {
        Some(1.0 / self.divisor).filter(|inverse| inverse.is_normal())
    }

    /// From whole numbers no further than this, products have the codes of quotients.
    #[inline(always)]
    fn far(self) -> f32 {
        0.5 - (self.most + self.shift + 1.0) * NEAR
    }

    /// What the others do, for every machine.
    #[inline(always)]
    fn plain<const ADD: bool>(self, numbers: &[f32], codes: &mut [u8]) {
        let Some(inverse) = self.inverse() else { return self.divided(numbers, codes) };
        let far = self.far();
        // The low bits of a sum with this are the rounded number, shifted.
        let to_code = TO_INTEGER + self.shift;
        let (runs, rest) = numbers.as_chunks::<RUN>();
        let (code_runs, code_rest) = codes.split_at_mut(numbers.len() - rest.len());
        for (run, codes) in runs.iter().zip(code_runs.as_chunks_mut::<RUN>().0) {
            let mut near = 0u32;
            for l in 0..RUN {
                let y = if ADD { (run[l] + self.before) * inverse + self.after } else { run[l] * inverse };
                let y = clamp(y, -self.shift, self.most);
                let sum = y + to_code;
                codes[l] = sum.to_bits() as u8;
                let is_sure = (y - (sum - to_code)).abs() < far;
                near |= if is_sure { 0 } else { 1 };
            }
            if near != 0 {
                self.divided(run, codes);
            }
        }
        self.divided(rest, code_rest);
    }

    /// The shift is added to what is whole already: an odd one would turn ties.
    #[inline(always)]
    fn divided(self, numbers: &[f32], codes: &mut [u8]) {
        for (code, &x) in codes.iter_mut().zip(numbers) {
            let y = (x + self.before) / self.divisor + self.after;
            let sum = clamp(y, -self.shift, self.most) + TO_INTEGER;
            *code = sum.to_bits().wrapping_add(self.shift as u32) as u8;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Line, Runs};
    use std::arch::x86_64::*;

    /// A line, a number a lane.
    struct Lanes<const ADD: bool> {
        before: __m512,
        divisor: __m512,
        inverse: __m512,
        after: __m512,
        most: __m512,
        shift: f32,
        /// As in [`Line`]; below zero where nothing is far enough.
        far: __m512,
    }

    impl<const ADD: bool> Lanes<ADD> {
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq")]
        fn of(line: &Line) -> Lanes<ADD> {
            let (inverse, far) = line.inverse().map_or((0.0, -1.0), |inverse| (inverse, line.far()));
            Lanes {
                before: _mm512_set1_ps(line.before),
                divisor: _mm512_set1_ps(line.divisor),
                inverse: _mm512_set1_ps(inverse),
                after: _mm512_set1_ps(line.after),
                most: _mm512_set1_ps(line.most),
                shift: line.shift,
                far: _mm512_set1_ps(far),
            }
        }

        /// Codes less the shift, by division. What is below any code is far below; NaN is too, since the lesser of two is the
        /// second where that is a NaN.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq")]
        fn divided(&self, x: __m512) -> __m512i {
            let y = _mm512_div_ps(_mm512_add_ps(x, self.before), self.divisor);
            _mm512_cvtps_epi32(_mm512_min_ps(self.most, _mm512_add_ps(y, self.after)))
        }

        /// The same by the reciprocal, and how far numbers were from whole ones: the largest of it and of `off`.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq")]
        fn multiplied(&self, x: __m512, off: __m512) -> (__m512i, __m512) {
            let y = _mm512_mul_ps(if ADD { _mm512_add_ps(x, self.before) } else { x }, self.inverse);
            let y = _mm512_min_ps(self.most, if ADD { _mm512_add_ps(y, self.after) } else { y });
            // What rounding takes away, and of that the larger magnitude of both.
            let off = _mm512_range_ps::<0b1011>(off, _mm512_reduce_ps::<0>(y));
            (_mm512_cvtps_epi32(y), off)
        }

        /// Whether some number was so near the middle that the reciprocal may have the wrong code.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq")]
        fn is_near(&self, off: __m512) -> bool {
            _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(off, self.far) != 0
        }

        /// Codes of four vectors. Narrowing stops at the ends of the narrower type: what is below any code becomes zero.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq")]
        fn bytes(&self, whole: [__m512i; 4]) -> __m512i {
            let shift = _mm512_set1_epi16(self.shift as i16);
            let words = |a, b| _mm512_adds_epi16(_mm512_packs_epi32(a, b), shift);
            let bytes = _mm512_packus_epi16(words(whole[0], whole[1]), words(whole[2], whole[3]));
            // Each quarter holds four of each vector.
            let in_order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            _mm512_permutexvar_epi32(in_order, bytes)
        }
    }

    /// Four vectors at a time: one look whether some number is near the middle, and one write.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq")]
    pub(super) fn avx512<const ADD: bool>(lines: &[Line], all: Runs<'_>, codes: &mut [u8]) {
        for (line, place) in lines.iter().zip(all.places()) {
            let (numbers, codes) = (&all.numbers[place.clone()], &mut codes[place]);
            let lanes = Lanes::<ADD>::of(line);
            let (runs, rest) = numbers.as_chunks::<64>();
            let (code_runs, code_rest) = codes.split_at_mut(runs.len() * 64);
            for (run, codes) in runs.iter().zip(code_runs.as_chunks_mut::<64>().0) {
                // SAFETY: a run is as wide as four vectors.
                let numbers = [0, 16, 32, 48].map(|at| unsafe { _mm512_loadu_ps(run.as_ptr().add(at)) });
                let mut whole = [_mm512_setzero_si512(); 4];
                let mut off = _mm512_setzero_ps();
                for v in 0..4 {
                    (whole[v], off) = lanes.multiplied(numbers[v], off);
                }
                if lanes.is_near(off) {
                    for v in 0..4 {
                        whole[v] = lanes.divided(numbers[v]);
                    }
                }
                // SAFETY: the codes of a run are as wide as a vector.
                unsafe { _mm512_storeu_si512(codes.as_mut_ptr().cast(), lanes.bytes(whole)) };
            }
            // Groups may be shorter.
            let (runs, rest) = rest.as_chunks::<16>();
            let (code_runs, code_rest) = code_rest.split_at_mut(runs.len() * 16);
            for (run, codes) in runs.iter().zip(code_runs.as_chunks_mut::<16>().0) {
                // SAFETY: a run is as wide as a vector.
                let x = unsafe { _mm512_loadu_ps(run.as_ptr()) };
                let (whole, off) = lanes.multiplied(x, _mm512_setzero_ps());
                let whole = if lanes.is_near(off) { lanes.divided(x) } else { whole };
                let bytes = _mm512_castsi512_si128(lanes.bytes([whole; 4]));
                // SAFETY: the codes of a run are as wide as a quarter of a vector.
                unsafe { _mm_storeu_si128(codes.as_mut_ptr().cast(), bytes) };
            }
            line.divided(rest, code_rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::drawn;
    use super::*;

    /// Whatever the line and the numbers, all instructions make the codes that a division makes.
    #[test]
    fn levels_agree() {
        let odd = [0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1.0e-45, 0.5, 1.5, -2.5];
        let rows = [
            Line::around(8.0, 0.1, 15.0),
            Line::around(3.0, 0.25, 15.0),
            Line::around(0.0, -0.1, 15.0),
            Line::around(7.0, 1.0e-45, 15.0),
            Line::above(-0.7, 0.01, 255.0),
            Line { after: -3.0, ..Line::around(8.0, 0.1, 15.0) },
            Line::around(1.0, 3.0e38, 3.0),
        ];
        let drawn_rows = drawn(200).into_iter().enumerate().map(|(n, x)| Line {
            before: [0.0, x * 3.0][n % 2],
            after: [0.0, 2.0, -1.0][n % 3],
            ..Line::around((n % 16) as f32, x.abs() + 0.01, 15.0)
        });
        for line in rows.into_iter().chain(drawn_rows) {
            let ties = (0..64).map(|n| (n as f32 - 32.5 - line.after) * line.divisor - line.before);
            let at_ties = ties.flat_map(|x| [x.next_down().next_down(), x.next_down(), x, x.next_up()]);
            let numbers: Vec<f32> = drawn(300).into_iter().chain(odd).chain(at_ties).collect();
            let mut expected = vec![0; numbers.len()];
            line.divided(&numbers, &mut expected);
            for &level in Level::ALL.iter().filter(|level| level.is_here()) {
                let mut codes = vec![0; numbers.len()];
                let runs = Runs { numbers: &numbers, starts: &[0], width: numbers.len() };
                Line::code(level, &[line], runs, &mut codes);
                assert_eq!(codes, expected, "{level:?} {line:?}");
            }
        }
    }
}
