//! The integer codes of a group whose scale is known.
//!
//! The loop is plain, but compilers make long ones of its narrowing to bytes: AVX-512's instructions are named here, which makes
//! this one of the files with unsafe code.

#![allow(unsafe_code)]

use super::Level;
use super::levels::{TO_INTEGER, clamp};

/// How the integer codes of a group are made: `round(clamp((x + before) / divisor + after, least, most)) + shift`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    pub before: f32,
    pub divisor: f32,
    pub after: f32,
    pub least: f32,
    pub most: f32,
    pub shift: f32,
}

/// Numbers whose codes are made together.
const RUN: usize = 32;
/// Quotients and products of codes up to 255 differ by less: by three roundings of a number below 256, and one of the sum.
const NEAR: f32 = 1.0 / 8192.0;

impl Line {
    /// Codes of a zero point: what round-to-nearest has to be when the scale is known.
    #[inline(always)]
    pub(super) fn around(zero: f32, scale: f32, top: f32) -> Line {
        Line { before: 0.0, divisor: scale, after: 0.0, least: -zero, most: top - zero, shift: zero }
    }

    /// Codes of a bias.
    #[inline(always)]
    pub(super) fn above(bias: f32, scale: f32, top: f32) -> Line {
        Line { before: -bias, divisor: scale, after: 0.0, least: 0.0, most: top, shift: 0.0 }
    }

    /// The codes of some numbers. `level` is one that the machine has.
    ///
    /// A product with the reciprocal is several times as fast as the quotient and a few units in the last place off: the
    /// nearest integer is the same, unless one of them is that close to the middle between two. Runs in which some number is
    /// are divided.
    #[inline(always)]
    pub(super) fn code(self, level: Level, numbers: &[f32], codes: &mut [u8]) {
        // Most have nothing to add.
        let adds = self.before != 0.0 || self.after != 0.0;
        match (level, adds) {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: whoever hands in a level has asked the machine for it.
            (Level::Avx512, false) => unsafe { x86::avx512::<false>(self, numbers, codes) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            (Level::Avx512, true) => unsafe { x86::avx512::<true>(self, numbers, codes) },
            (_, false) => self.plain::<false>(numbers, codes),
            (_, true) => self.plain::<true>(numbers, codes),
        }
    }

    /// What the others do, for every machine.
    #[inline(always)]
    fn plain<const ADD: bool>(self, numbers: &[f32], codes: &mut [u8]) {
        let inverse = 1.0 / self.divisor;
        // The low bits of a sum with this are the rounded number, shifted.
        let to_code = TO_INTEGER + self.shift;
        let (runs, rest) = numbers.as_chunks::<RUN>();
        let (code_runs, code_rest) = codes.split_at_mut(numbers.len() - rest.len());
        for (run, codes) in runs.iter().zip(code_runs.as_chunks_mut::<RUN>().0) {
            let mut near = 0u32;
            for l in 0..RUN {
                let y = if ADD { (run[l] + self.before) * inverse + self.after } else { run[l] * inverse };
                let y = clamp(y, self.least, self.most);
                let sum = y + to_code;
                codes[l] = sum.to_bits() as u8;
                let is_far = (y - (sum - to_code)).abs() < 0.5 - NEAR;
                near |= if is_far { 0 } else { 1 };
            }
            if near != 0 || !inverse.is_finite() {
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
            let sum = clamp(y, self.least, self.most) + TO_INTEGER;
            *code = sum.to_bits().wrapping_add(self.shift as u32) as u8;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Line, NEAR, TO_INTEGER};
    use std::arch::x86_64::*;

    // Least and largest give their second operand where the first is a NaN, as `clamp` does.

    /// The lower half of each number of two vectors.
    const LOW_WORDS: [i16; 32] = {
        let mut places = [0; 32];
        let mut n = 0;
        while n < 32 {
            places[n] = 2 * n as i16;
            n += 1;
        }
        places
    };

    /// Four vectors at a time: one look whether some number is near the middle, and one write.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq")]
    pub(super) fn avx512<const ADD: bool>(line: Line, numbers: &[f32], codes: &mut [u8]) {
        let inverse = 1.0 / line.divisor;
        let is_always = !inverse.is_finite();
        let [before, divisor, after] = [line.before, line.divisor, line.after].map(|x| _mm512_set1_ps(x));
        let (least, most) = (_mm512_set1_ps(line.least), _mm512_set1_ps(line.most));
        let shift = _mm512_set1_epi32((line.shift as u32).cast_signed());
        let (inverse, far) = (_mm512_set1_ps(inverse), _mm512_set1_ps(0.5 - NEAR));
        let (to_integer, to_code) = (_mm512_set1_ps(TO_INTEGER), _mm512_set1_ps(TO_INTEGER + line.shift));
        let between = |y| _mm512_min_ps(_mm512_max_ps(y, least), most);
        let multiplied = |x| {
            let y = _mm512_mul_ps(if ADD { _mm512_add_ps(x, before) } else { x }, inverse);
            between(if ADD { _mm512_add_ps(y, after) } else { y })
        };
        let divided = |x| {
            let y = between(_mm512_add_ps(_mm512_div_ps(_mm512_add_ps(x, before), divisor), after));
            _mm512_add_epi32(_mm512_castps_si512(_mm512_add_ps(y, to_integer)), shift)
        };
        // The code of each number in its low byte, with how far numbers were from whole ones.
        let codes_of = |x, off| {
            let y = multiplied(x);
            let sum = _mm512_add_ps(y, to_code);
            // The larger magnitude of both.
            let off = _mm512_range_ps::<0b1011>(off, _mm512_sub_ps(y, _mm512_sub_ps(sum, to_code)));
            (_mm512_castps_si512(sum), off)
        };
        let is_near = |off| is_always || _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(off, far) != 0;
        // SAFETY: an array is as wide as a vector.
        let low_words = unsafe { _mm512_loadu_si512(LOW_WORDS.as_ptr().cast()) };
        let in_order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
        let (runs, rest) = numbers.as_chunks::<64>();
        let (code_runs, code_rest) = codes.split_at_mut(runs.len() * 64);
        for (run, codes) in runs.iter().zip(code_runs.as_chunks_mut::<64>().0) {
            // SAFETY: a run is as wide as four vectors.
            let numbers = [0, 16, 32, 48].map(|at| unsafe { _mm512_loadu_ps(run.as_ptr().add(at)) });
            let mut whole = [_mm512_setzero_si512(); 4];
            let mut off = _mm512_setzero_ps();
            for v in 0..4 {
                (whole[v], off) = codes_of(numbers[v], off);
            }
            if is_near(off) {
                whole = numbers.map(divided);
            }
            let words = |a, b| _mm512_permutex2var_epi16(a, low_words, b);
            let bytes = _mm512_packus_epi16(words(whole[0], whole[1]), words(whole[2], whole[3]));
            let bytes = _mm512_permutexvar_epi64(in_order, bytes);
            // SAFETY: the codes of a run are as wide as a vector.
            unsafe { _mm512_storeu_si512(codes.as_mut_ptr().cast(), bytes) };
        }
        // Groups may be shorter.
        let (runs, rest) = rest.as_chunks::<16>();
        let (code_runs, code_rest) = code_rest.split_at_mut(runs.len() * 16);
        for (run, codes) in runs.iter().zip(code_runs.as_chunks_mut::<16>().0) {
            // SAFETY: a run is as wide as a vector, and its codes as wide as a quarter of one.
            unsafe {
                let x = _mm512_loadu_ps(run.as_ptr());
                let (whole, off) = codes_of(x, _mm512_setzero_ps());
                let whole = if is_near(off) { divided(x) } else { whole };
                _mm_storeu_si128(codes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(whole));
            }
        }
        line.divided(rest, code_rest);
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
        ];
        for line in rows {
            let on_ties = (0..64).map(|n| (n as f32 - 32.5) * line.divisor);
            let numbers: Vec<f32> = drawn(300).into_iter().chain(odd).chain(on_ties).collect();
            let mut expected = vec![0; numbers.len()];
            line.divided(&numbers, &mut expected);
            for &level in Level::ALL.iter().filter(|level| level.is_here()) {
                let mut codes = vec![0; numbers.len()];
                line.code(level, &numbers, &mut codes);
                assert_eq!(codes, expected, "{level:?} {line:?}");
            }
        }
    }
}
