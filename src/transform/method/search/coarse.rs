//! Sixteen or thirty-two candidates for one group at a time, in whole numbers of sixteen bits.
//!
//! To rank candidates, a group's numbers need few digits: as whole numbers up to 16,383 they are a four-bit grid's step to one
//! part in two thousand, and what is lost is the same for every candidate. In sixteen bits a vector holds twice as many of
//! them as in floats, and a multiplication that adds up pairs takes the place of two. Each lane is a candidate and each step
//! takes two of the group's numbers, so that nothing has to be turned and groups may be of any size. Sums are exact, hence the
//! same with all instructions.
//!
//! The instructions that do this (multiply and round high halves, multiply and add pairs) are not found by compilers in plain
//! loops: they are named here, which makes this one of the files with unsafe code. `benches/quantize_kernels` shows what for.

#![allow(unsafe_code)]

use super::super::groups::{LANES, Lanes};
use super::super::levels::{above, below};
use super::Level;

/// Candidates that are tried together.
pub(super) const WIDTH: usize = 32;
/// A number for each of them.
pub(super) type Row = [f32; WIDTH];
/// The largest magnitude of a number.
pub(super) const LARGEST: f32 = 16_383.0;
/// Bits behind the point of a product of number and inverse, before it is rounded to a code.
const FRACTION_BITS: u32 = 9;
/// What a step of the grid is divided into to get the inverse: a product is shifted right by fifteen.
const ONE: f32 = (1u32 << (15 + FRACTION_BITS)) as f32;
/// Pairs whose sums stay below 2^31: a product is at most 16,383 · 32.
const PAIRS_MAX: usize = 1024;

/// For each candidate `code = clamp((number · inverse / 2^15 + offset) / 2^9)`, rounded down after the offset. All are sixteen
/// bits, twice in a word: for the two numbers of a pair.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Candidates {
    inverse: [u32; WIDTH],
    offset: [u32; WIDTH],
    least: [u32; WIDTH],
    most: [u32; WIDTH],
}

/// Sums over a group, for each candidate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sums {
    /// Of numbers times codes.
    pub xq: Row,
    /// Of squares of codes.
    pub qq: Row,
    /// Of codes; only where asked for.
    pub q: Row,
}

/// A whole number of sixteen bits, twice.
#[inline(always)]
fn twice(x: f32) -> u32 {
    (whole(x) as u32 & 0xffff).wrapping_mul(0x1_0001)
}

/// Rounds what is within a few thousands.
#[inline(always)]
pub(super) fn whole(x: f32) -> i32 {
    // As in `levels::TO_INTEGER`, with the sign kept.
    (x + 12_582_912.0).to_bits().wrapping_sub(0x4b40_0000) as i32
}

impl Candidates {
    /// Candidates with these inverses of their steps (in the units of the numbers), the code of the number zero before rounding,
    /// and bounds of codes.
    #[inline(always)]
    pub(super) fn new(inverse: &Row, zero: &Row, least: &Row, most: &Row) -> Candidates {
        let mut all =
            Candidates { inverse: [0; WIDTH], offset: [0; WIDTH], least: [0; WIDTH], most: [0; WIDTH] };
        for c in 0..WIDTH {
            all.inverse[c] = twice(below(above(ONE * inverse[c], -32_767.0), 32_767.0));
            // Half a step, so that rounding down rounds to nearest.
            let half = (1u32 << (FRACTION_BITS - 1)) as f32;
            let offset = zero[c] * (1u32 << FRACTION_BITS) as f32 + half;
            all.offset[c] = twice(below(above(offset, -32_767.0), 32_767.0));
            all.least[c] = twice(least[c]);
            all.most[c] = twice(most[c]);
        }
        all
    }

    /// The code of the number zero, for each candidate.
    #[inline(always)]
    pub(super) fn codes_of_zero(&self) -> Row {
        let mut codes = [0.0; WIDTH];
        for c in 0..WIDTH {
            codes[c] = f32::from(self.code(0, c));
        }
        codes
    }

    #[inline(always)]
    fn code(&self, x: i16, c: usize) -> i16 {
        let [inverse, offset, least, most] =
            [self.inverse[c], self.offset[c], self.least[c], self.most[c]].map(|twice| twice as i16);
        let product = ((i32::from(x) * i32::from(inverse) + 0x4000) >> 15) as i16;
        let code = product.saturating_add(offset) >> FRACTION_BITS;
        let code = if code > least { code } else { least };
        if code < most { code } else { most }
    }
}

/// Sums over a group's numbers, in pairs. With `Q` those of codes too.
#[inline(always)]
pub(super) fn sums<const Q: bool>(level: Level, pairs: &[[i16; 2]], of: &Candidates) -> Sums {
    let mut all = Sums { xq: [0.0; WIDTH], qq: [0.0; WIDTH], q: [0.0; WIDTH] };
    for pairs in pairs.chunks(PAIRS_MAX) {
        let [xq, qq, q] = part::<Q>(level, pairs, of);
        for c in 0..WIDTH {
            all.xq[c] += xq[c] as f32;
            all.qq[c] += qq[c] as f32;
            all.q[c] += q[c] as f32;
        }
    }
    all
}

/// The best of some candidates that have no offset.
#[derive(Debug, Clone, Copy)]
pub(super) struct Best {
    /// What its scale takes off the sum of squares; zero where none is any good.
    pub merit: f32,
    /// The sums, over the group, of numbers times codes and of squares of codes: the scale that fits the codes best is their
    /// quotient.
    pub xq: f32,
    pub qq: f32,
    /// Which one it is: the first of equals.
    pub place: usize,
}

/// Ranks candidates, sixteen times `P` of them (one or two), with these inverses of steps and bounds of codes. A scale of the
/// other sign than its candidate's step is none.
#[inline(always)]
pub(super) fn best<const P: usize>(
    level: Level,
    pairs: &[[i16; 2]],
    inverse: &[Lanes; P],
    least: &[Lanes; P],
    most: &[Lanes; P],
) -> Best {
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: whoever hands in a level has asked the machine for it, and here for one feature more.
        Level::Avx512 if pairs.len() <= PAIRS_MAX && std::arch::is_x86_feature_detected!("avx512vnni") => unsafe {
            x86::best_avx512_vnni(pairs, inverse, least, most)
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx512 if pairs.len() <= PAIRS_MAX => unsafe { x86::best_avx512(pairs, inverse, least, most) },
        _ => {
            let [inverse, least, most] = [inverse, least, most].map(row);
            let of = Candidates::new(&inverse, &[0.0; WIDTH], &least, &most);
            best_of(&sums::<false>(level, pairs, &of), &inverse)
        }
    }
}

/// As many as there are at a time; those that are fewer come twice, and of equals the first counts.
#[inline(always)]
fn row<const P: usize>(lanes: &[Lanes; P]) -> Row {
    let mut row = [0.0; WIDTH];
    for c in 0..WIDTH {
        row[c] = lanes[c / LANES % P][c % LANES];
    }
    row
}

#[inline(always)]
fn best_of(of: &Sums, inverse: &Row) -> Best {
    let mut merit = [0f32; WIDTH];
    for c in 0..WIDTH {
        let is_one = of.qq[c] > 0.0;
        merit[c] = of.xq[c] * of.xq[c] / (if is_one { of.qq[c] } else { 1.0 });
        let fits = is_one & (of.xq[c] * inverse[c] > 0.0);
        merit[c] = if fits { merit[c] } else { 0.0 };
    }
    let place = first_of_largest(&merit);
    Best { merit: merit[place], xq: of.xq[place], qq: of.qq[place], place }
}

/// The first of the largest.
#[inline(always)]
pub(super) fn first_of_largest(merit: &Row) -> usize {
    let mut most = *merit;
    for half in [16, 8, 4, 2, 1] {
        for l in 0..half {
            most[l] = above(most[l + half], most[l]);
        }
    }
    let mut places = 0u32;
    for c in 0..WIDTH {
        places |= u32::from(merit[c] == most[0]) << c;
    }
    (places.trailing_zeros() as usize).min(WIDTH - 1)
}

/// The instructions of a level. `level` is one that the machine has.
#[inline(always)]
fn part<const Q: bool>(level: Level, pairs: &[[i16; 2]], of: &Candidates) -> [[i32; WIDTH]; 3] {
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: whoever hands in a level has asked the machine for it, and here for one feature more.
        Level::Avx512 if std::arch::is_x86_feature_detected!("avx512vnni") => unsafe {
            x86::avx512_vnni::<Q>(pairs, of)
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx512 => unsafe { x86::avx512::<Q>(pairs, of) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx2 => unsafe { x86::avx2::<Q>(pairs, of) },
        _ => plain::<Q>(pairs, of),
    }
}

/// What the others do, for every machine.
#[inline(always)]
fn plain<const Q: bool>(pairs: &[[i16; 2]], of: &Candidates) -> [[i32; WIDTH]; 3] {
    let [mut xq, mut qq, mut q] = [[0i32; WIDTH]; 3];
    for pair in pairs {
        for c in 0..WIDTH {
            for &x in pair {
                let code = i32::from(of.code(x, c));
                xq[c] += i32::from(x) * code;
                qq[c] += code * code;
                q[c] += if Q { code } else { 0 };
            }
        }
    }
    [xq, qq, q]
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Best, Candidates, FRACTION_BITS, LANES, Lanes, ONE, WIDTH};
    use std::arch::x86_64::*;

    const SHIFT: u32 = FRACTION_BITS;

    /// A vector of candidates at a time, so that pairs are looked at by two vectors in turn: one alone would wait for itself.
    /// `$add` adds the products of pairs to a sum.
    macro_rules! sixteen {
        ($name:ident, $features:literal, $add:expr) => {
            #[inline]
            #[target_feature(enable = $features)]
            pub(super) fn $name<const Q: bool>(pairs: &[[i16; 2]], of: &Candidates) -> [[i32; WIDTH]; 3] {
                // SAFETY: the arrays have two times 64 bytes each.
                let load = |lanes: &[u32; WIDTH], half| unsafe {
                    _mm512_loadu_si512(lanes.as_ptr().cast::<__m512i>().add(half))
                };
                let both = |lanes| [load(lanes, 0), load(lanes, 1)];
                let (inverse, offset) = (both(&of.inverse), both(&of.offset));
                let (least, most) = (both(&of.least), both(&of.most));
                let ones = _mm512_set1_epi16(1);
                let mut sums = [[_mm512_setzero_si512(); 3]; 2];
                for &pair in pairs {
                    let x = _mm512_set1_epi32(bytemuck::cast(pair));
                    for half in 0..2 {
                        let code = _mm512_mulhrs_epi16(x, inverse[half]);
                        let code = _mm512_srai_epi16::<SHIFT>(_mm512_adds_epi16(code, offset[half]));
                        let code = _mm512_min_epi16(_mm512_max_epi16(code, least[half]), most[half]);
                        let [xq, qq, q] = &mut sums[half];
                        *xq = $add(*xq, x, code);
                        *qq = $add(*qq, code, code);
                        if Q {
                            *q = $add(*q, ones, code);
                        }
                    }
                }
                let mut out = [[0i32; WIDTH]; 3];
                for (half, sums) in sums.into_iter().enumerate() {
                    for (out, sum) in out.iter_mut().zip(sums) {
                        // SAFETY: the array has two times 64 bytes.
                        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast::<__m512i>().add(half), sum) };
                    }
                }
                out
            }
        };
    }

    sixteen!(avx512, "avx512f,avx512bw", |sum, a, b| _mm512_add_epi32(sum, _mm512_madd_epi16(a, b)));
    sixteen!(avx512_vnni, "avx512f,avx512bw,avx512vnni", |sum, a, b| _mm512_dpwssd_epi32(sum, a, b));

    /// All of [`super::best`] in vectors, with the same operations in the same order.
    macro_rules! best {
        ($name:ident, $features:literal, $add:expr) => {
            #[inline]
            #[target_feature(enable = $features)]
            pub(super) fn $name<const P: usize>(
                pairs: &[[i16; 2]],
                inverse: &[Lanes; P],
                least: &[Lanes; P],
                most: &[Lanes; P],
            ) -> Best {
                // SAFETY: an array is as wide as a vector.
                let load = |lanes: &Lanes| unsafe { _mm512_loadu_ps(lanes.as_ptr()) };
                let twice = |x: __m512| {
                    let sum = _mm512_castps_si512(_mm512_add_ps(x, _mm512_set1_ps(12_582_912.0)));
                    let whole = _mm512_and_si512(sum, _mm512_set1_epi32(0xffff));
                    _mm512_or_si512(whole, _mm512_slli_epi32::<16>(whole))
                };
                let signs = inverse.each_ref().map(load);
                let inverse = signs.map(|inverse| {
                    let inverse = _mm512_mul_ps(_mm512_set1_ps(ONE), inverse);
                    let inverse = _mm512_max_ps(inverse, _mm512_set1_ps(-32_767.0));
                    twice(_mm512_min_ps(inverse, _mm512_set1_ps(32_767.0)))
                });
                let least = least.each_ref().map(|lanes| twice(load(lanes)));
                let most = most.each_ref().map(|lanes| twice(load(lanes)));
                let half = _mm512_set1_epi16(1 << (FRACTION_BITS - 1));
                let sum = |sums: [[__m512i; 2]; P], pair: [i16; 2]| {
                    let x = _mm512_set1_epi32(bytemuck::cast(pair));
                    let mut sums = sums;
                    for (part, [xq, qq]) in sums.iter_mut().enumerate() {
                        let code = _mm512_adds_epi16(_mm512_mulhrs_epi16(x, inverse[part]), half);
                        let code = _mm512_srai_epi16::<SHIFT>(code);
                        let code = _mm512_min_epi16(_mm512_max_epi16(code, least[part]), most[part]);
                        *xq = $add(*xq, x, code);
                        *qq = $add(*qq, code, code);
                    }
                    sums
                };
                // Two pairs in turn: one sum alone would wait for itself.
                let mut sums = [[[_mm512_setzero_si512(); 2]; P]; 2];
                let (twos, rest) = pairs.as_chunks::<2>();
                for two in twos {
                    sums = [sum(sums[0], two[0]), sum(sums[1], two[1])];
                }
                for &pair in rest {
                    sums[0] = sum(sums[0], pair);
                }
                let (none, one) = (_mm512_setzero_ps(), _mm512_set1_ps(1.0));
                let mut merits = [none; P];
                let mut lanes = [[[0f32; LANES]; P]; 2];
                for part in 0..P {
                    let [xq, qq] = [0, 1].map(|which| {
                        let both = _mm512_add_epi32(sums[0][part][which], sums[1][part][which]);
                        _mm512_cvtepi32_ps(both)
                    });
                    let is_one = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(qq, none);
                    let sign = _mm512_mul_ps(xq, signs[part]);
                    let fits = _mm512_mask_cmp_ps_mask::<_CMP_GT_OQ>(is_one, sign, none);
                    let divisor = _mm512_mask_mov_ps(one, is_one, qq);
                    merits[part] = _mm512_maskz_div_ps(fits, _mm512_mul_ps(xq, xq), divisor);
                    // SAFETY: an array is as wide as a vector.
                    unsafe {
                        _mm512_storeu_ps(lanes[0][part].as_mut_ptr(), xq);
                        _mm512_storeu_ps(lanes[1][part].as_mut_ptr(), qq);
                    }
                }
                let most = merits.into_iter().fold(none, |most, merit| _mm512_max_ps(most, merit));
                let merit = _mm512_reduce_max_ps(most);
                let mut places = 0u32;
                for (part, merits) in merits.into_iter().enumerate() {
                    let equal = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(merits, _mm512_set1_ps(merit));
                    places |= u32::from(equal) << (LANES * part);
                }
                let place = (places.trailing_zeros() as usize).min(LANES * P - 1);
                let [xq, qq] = lanes.map(|lanes| lanes[place / LANES][place % LANES]);
                Best { merit, xq, qq, place }
            }
        };
    }

    best!(best_avx512, "avx512f,avx512bw", |sum, a, b| _mm512_add_epi32(sum, _mm512_madd_epi16(a, b)));
    best!(best_avx512_vnni, "avx512f,avx512bw,avx512vnni", |sum, a, b| _mm512_dpwssd_epi32(sum, a, b));

    /// Eight at a time.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn avx2<const Q: bool>(pairs: &[[i16; 2]], of: &Candidates) -> [[i32; WIDTH]; 3] {
        let mut out = [[0i32; WIDTH]; 3];
        for part in 0..WIDTH / 8 {
            // SAFETY: the arrays have a multiple of 32 bytes, one for each part.
            let load = |lanes: &[u32; WIDTH]| unsafe {
                _mm256_loadu_si256(lanes.as_ptr().cast::<__m256i>().add(part))
            };
            let (inverse, offset) = (load(&of.inverse), load(&of.offset));
            let (least, most) = (load(&of.least), load(&of.most));
            let ones = _mm256_set1_epi16(1);
            let mut sums = [_mm256_setzero_si256(); 3];
            for &pair in pairs {
                let x = _mm256_set1_epi32(bytemuck::cast(pair));
                let code = _mm256_adds_epi16(_mm256_mulhrs_epi16(x, inverse), offset);
                let code = _mm256_srai_epi16::<{ SHIFT as i32 }>(code);
                let code = _mm256_min_epi16(_mm256_max_epi16(code, least), most);
                sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(x, code));
                sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(code, code));
                if Q {
                    sums[2] = _mm256_add_epi32(sums[2], _mm256_madd_epi16(ones, code));
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                // SAFETY: the array has a multiple of 32 bytes, one for each part.
                unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast::<__m256i>().add(part), sum) };
            }
        }
        out
    }
}
