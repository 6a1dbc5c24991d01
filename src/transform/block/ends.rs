//! Codes of 32 numbers by the ends of their range, without a search: Q4_0 and Q5_0 by the number that is farthest from
//! zero, Q4_1 and Q5_1 by the smallest and the largest. And the searches that replace them where columns have an
//! importance.

use super::fit::{self, Affine, Even, Grid, Turned, nearest, one};
use super::simd::{self, Kernel, truncated};
use super::weighing::Importance;
use super::{NAN, Sound, farthest, sound};
use crate::transform::cast::f32_to_f16;
use std::marker::PhantomData;

/// Numbers of a block.
pub(super) const N: usize = 32;

/// What a block is made of: f16 scale and minimum, codes from zero.
pub(super) struct Codes {
    /// The largest magnitude of the numbers; not finite if one of them is not.
    far: f32,
    d: f32,
    m: f32,
    codes: [u8; N],
}

/// A type with blocks of `B` bytes. Methods are called from [`Kernel::run`], and must be inlined as it is.
pub(super) trait Type<const B: usize> {
    /// What replaces the ends where columns have an importance.
    const SEARCH: Search;
    /// By the ends.
    fn codes(x: &[f32; N]) -> Codes;
    /// A block of f16 scale and minimum and codes.
    fn write(d: u16, m: u16, codes: &[u8; N], block: &mut [u8; B]);
}

/// Makes blocks of one type.
pub(super) fn encode<T: Type<B>, const B: usize>(
    numbers: &[f32],
    out: &mut [u8],
    importance: Option<Importance>,
) -> u64 {
    let of = PhantomData::<T>;
    match importance {
        Some(importance) => simd::run(Weighed { numbers, out, importance, of }),
        None => simd::run(ByEnds { numbers, out, of }),
    }
}

/// The farthest number becomes the code 0 of `TOP + 1` codes: d = −x / (half of them). Of two that are as far, the first
/// counts.
#[inline(always)]
pub(super) fn by_farthest<const TOP: u8>(x: &[f32; N]) -> Codes {
    let half = f32::from(TOP / 2 + 1);
    // As integers, the bits of positive numbers are ordered as they are, and those of negative ones lie below.
    let (mut above, mut below) = (i32::MIN, i32::MIN);
    for x in x {
        above = above.max(x.to_bits() as i32);
        below = below.max((x.to_bits() ^ 1 << 31) as i32);
    }
    let far = f32::from_bits(above.max(below).max(0) as u32);
    let signed = match above.cmp(&below) {
        // Without regard to the signs of zeros.
        _ if far == 0.0 => 0.0,
        std::cmp::Ordering::Greater => far,
        std::cmp::Ordering::Less => -far,
        std::cmp::Ordering::Equal => x.iter().copied().find(|x| x.abs() == far).unwrap_or(far),
    };
    let d = signed / -half;
    Codes { far, d, m: 0.0, codes: truncate::<TOP>(x, 0.0, d, half + 0.5) }
}

/// The smallest number becomes the code 0, the largest `TOP`.
#[inline(always)]
pub(super) fn by_range<const TOP: u8>(x: &[f32; N]) -> Codes {
    // Negative numbers are ordered the other way round.
    let ordered = |bits: i32| bits ^ ((bits >> 31) as u32 >> 1) as i32;
    let (mut low, mut high) = (i32::MAX, i32::MIN);
    for x in x {
        let key = ordered(x.to_bits() as i32);
        low = low.min(key);
        high = high.max(key);
    }
    let [mut low, mut high] = [low, high].map(|key| f32::from_bits(ordered(key) as u32));
    // Of two zeros the first counts, whatever its sign.
    for end in [&mut low, &mut high] {
        if *end == 0.0 {
            *end = x.iter().copied().find(|&x| x == 0.0).unwrap_or(*end);
        }
    }
    let d = (high - low) / f32::from(TOP);
    let far = if high.is_finite() { low.abs().max(high.abs()) } else { high };
    let far = if low.is_finite() { far } else { low };
    Codes { far, d, m: low, codes: truncate::<TOP>(x, low, d, 0.5) }
}

/// `(x − from) / d + above` cut to an integer, up to `TOP`. Zeros where 1 / d overflows, as x86 has it.
#[inline(always)]
fn truncate<const TOP: u8>(x: &[f32; N], from: f32, d: f32, above: f32) -> [u8; N] {
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    if inverse.is_infinite() {
        return [0; N];
    }
    let mut codes = [0; N];
    for (&x, code) in x.iter().zip(&mut codes) {
        *code = truncated::<TOP>((x - from) * inverse + above);
    }
    codes
}

struct ByEnds<'a, T, const B: usize> {
    numbers: &'a [f32],
    out: &'a mut [u8],
    of: PhantomData<T>,
}

impl<T: Type<B>, const B: usize> Kernel for ByEnds<'_, T, B> {
    type Made = u64;

    #[inline(always)]
    fn run<const L: usize>(self) -> u64 {
        let mut lost = 0;
        for (x, block) in self.numbers.as_chunks::<N>().0.iter().zip(self.out.as_chunks_mut::<B>().0) {
            let Codes { far, d, m, codes } = T::codes(x);
            lost += write::<T, B>(far, f32_to_f16(d), f32_to_f16(m), &codes, block);
        }
        lost
    }
}

#[inline(always)]
fn write<T: Type<B>, const B: usize>(far: f32, d: u16, m: u16, codes: &[u8; N], block: &mut [u8; B]) -> u64 {
    T::write(d, m, codes, block);
    match sound(far, &[d, m]) {
        Sound::Kept => 0,
        Sound::Lost => N as u64,
        Sound::Never => {
            T::write(NAN, NAN, &[0; N], block);
            0
        }
    }
}

/// The search for a type.
pub(super) enum Search {
    /// Codes on both sides of zero, the least of which is minus this.
    Even(i32),
    Affine(Grid),
}

/// The candidates for scale and minimum of Q4_1 and Q5_1 with importance.
pub(super) const fn affine(top: f32) -> Search {
    Search::Affine(Grid { top, first: -0.9, step: 0.05, steps: 36, absolute: false })
}

/// Makes blocks of one type with weights by importance: `importance · √(mean square of the row + x²)`.
struct Weighed<'a, T, const B: usize> {
    numbers: &'a [f32],
    out: &'a mut [u8],
    importance: Importance<'a>,
    of: PhantomData<T>,
}

/// Blocks that are searched together, and whose weights are made together.
const BATCH: usize = 64;

impl<T: Type<B>, const B: usize> Kernel for Weighed<'_, T, B> {
    type Made = u64;

    #[inline(always)]
    fn run<const L: usize>(self) -> u64 {
        let columns = self.importance.columns.max(N);
        let mut w = [0.0; BATCH * N];
        let mut lost = 0;
        let mut at = 0;
        for row in self.numbers.chunks(columns) {
            let square = row.iter().fold(0.0f32, |sum, &x| sum + x * x);
            let mean = square / row.len() as f32;
            for x in row.chunks(BATCH * N) {
                let w = &mut w[..x.len()];
                self.importance.of(at, w);
                for (w, &x) in w.iter_mut().zip(x) {
                    *w *= (mean + x * x).sqrt();
                }
                let out = self.out.get_mut(at / N * B..).unwrap_or_default();
                lost += match const { &T::SEARCH } {
                    Search::Even(top) => even::<T, L, B>(x, w, *top, out),
                    Search::Affine(grid) => with_minimum::<T, L, B>(x, w, grid, out),
                };
                at += x.len();
            }
        }
        lost
    }
}

#[inline(always)]
fn even<T: Type<B>, const L: usize, const B: usize>(x: &[f32], w: &[f32], top: i32, out: &mut [u8]) -> u64 {
    let mut lost = 0;
    let (mut lanes, mut weights) = (Turned::<N, L>::ZERO, Turned::<N, L>::ZERO);
    for ((x, w), out) in x.chunks(L * N).zip(w.chunks(L * N)).zip(out.chunks_mut(L * B)) {
        fit::turn(x, &mut lanes);
        fit::turn(w, &mut weights);
        let fits: [Even; L] = fit::even(&lanes, &weights, top as f32);
        let blocks = x.as_chunks::<N>().0.iter().zip(w.as_chunks::<N>().0).zip(out.as_chunks_mut().0);
        for (((x, w), block), fit) in blocks.zip(fits) {
            let (mut scale, mut codes) = (fit.scale, [0u8; N]);
            if fit.factor.is_nan() {
                scale = one::even(x, w, top, &mut codes);
            } else {
                for (&x, code) in x.iter().zip(&mut codes) {
                    *code = (nearest(fit.factor * x).min(top - 1).max(-top).wrapping_add(top)) as u8;
                }
            }
            lost += write::<T, B>(farthest(x), f32_to_f16(scale), 0, &codes, block);
        }
    }
    lost
}

#[inline(always)]
fn with_minimum<T: Type<B>, const L: usize, const B: usize>(
    x: &[f32],
    w: &[f32],
    grid: &Grid,
    out: &mut [u8],
) -> u64 {
    let mut lost = 0;
    let top = grid.top as i32;
    let (mut lanes, mut weights) = (Turned::<N, L>::ZERO, Turned::<N, L>::ZERO);
    for ((x, w), out) in x.chunks(L * N).zip(w.chunks(L * N)).zip(out.chunks_mut(L * B)) {
        fit::turn(x, &mut lanes);
        fit::turn(w, &mut weights);
        let fits: [Affine; L] = fit::affine::<N, L, false>(&lanes, &weights, grid);
        let blocks = x.as_chunks::<N>().0.iter().zip(w.as_chunks::<N>().0).zip(out.as_chunks_mut().0);
        for (((x, w), block), fit) in blocks.zip(fits) {
            let (mut scale, mut minimum, mut codes) = (fit.scale, fit.minimum, [0u8; N]);
            if fit.factor.is_nan() {
                (scale, minimum) = one::affine(x, w, grid, &mut codes);
            } else {
                for (&x, code) in x.iter().zip(&mut codes) {
                    *code = nearest(fit.factor * (x - fit.from)).min(top).max(0) as u8;
                }
            }
            lost += write::<T, B>(farthest(x), f32_to_f16(scale), f32_to_f16(-minimum), &codes, block);
        }
    }
    lost
}
