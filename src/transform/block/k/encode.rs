//! The K types made as ggml's reference makes them: each sub-block's scale (and minimum) is searched for, these become
//! codes themselves, and the numbers' codes are made once more with what was stored.

use super::N;
use crate::transform::block::fit::{self, Affine, Even, Grid, Turned, nearest, one};
use crate::transform::block::simd::{self, Kernel};
use crate::transform::block::weighing::{Importance, Own};
use crate::transform::block::{NAN, Sound, farthest, sound};
use crate::transform::cast::{f16_to_f32, f32_to_f16};

/// Blocks whose sub-blocks are searched together, so that all lanes have work.
pub(super) const BATCH: usize = 32;

/// The searches of scale and minimum: without importance, and with it.
struct Search {
    own: Own,
    plain: Grid,
    weighed: Grid,
}

const fn grid(top: f32, first: f32, step: f32, steps: u16, absolute: bool) -> Grid {
    Grid { top, first, step, steps, absolute }
}

const SEARCH_2: Search = Search {
    own: Own::Magnitude,
    plain: grid(3.0, -0.5, 0.1, 15, true),
    weighed: grid(3.0, -0.9, 0.05, 36, false),
};
const SEARCH_4: Search = Search {
    own: Own::MeanAndMagnitude,
    plain: grid(15.0, -1.0, 0.1, 20, false),
    weighed: grid(15.0, -0.9, 0.05, 36, false),
};
const SEARCH_5: Search = Search {
    own: Own::MeanAndMagnitude,
    plain: grid(31.0, -0.5, 0.1, 15, false),
    weighed: grid(31.0, -0.9, 0.05, 36, false),
};

/// The weights of sub-blocks of `S` numbers: their own, or given ones.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    pub own: Own,
    pub given: Option<&'a [f32]>,
}

impl Weights<'_> {
    #[inline(always)]
    fn lanes<const S: usize, const L: usize>(&self, at: usize, x: &Turned<S, L>, w: &mut Turned<S, L>) {
        match self.given {
            Some(given) => fit::turn(given.get(at * S..).unwrap_or_default(), w),
            None => self.own.lanes(x, w),
        }
    }

    pub(super) fn one<const S: usize>(&self, sub: usize, x: &[f32; S]) -> [f32; S] {
        if let Some(given) = self.given.and_then(|given| given.as_chunks::<S>().0.get(sub)) {
            return *given;
        }
        let mut w = [0.0; S];
        self.own.one(x, &mut w);
        w
    }
}

/// The fits of all sub-blocks of `S` numbers.
#[inline(always)]
fn affine<const S: usize, const L: usize, const ABSOLUTE: bool>(
    numbers: &[f32],
    weights: Weights,
    grid: &Grid,
    fits: &mut [Affine],
) {
    let (mut x, mut w) = (Turned::<S, L>::ZERO, Turned::<S, L>::ZERO);
    for (group, to) in fits.chunks_mut(L).enumerate() {
        fit::turn(numbers.get(group * L * S..).unwrap_or_default(), &mut x);
        weights.lanes(group * L, &x, &mut w);
        let made = fit::affine::<S, L, ABSOLUTE>(&x, &w, grid);
        to.copy_from_slice(&made[..to.len()]);
    }
    for (sub, (x, fit)) in numbers.as_chunks::<S>().0.iter().zip(fits).enumerate() {
        if fit.factor.is_nan() {
            (fit.scale, fit.minimum) = one::affine(x, &weights.one(sub, x), grid, &mut [0; S]);
        }
    }
}

/// The codes that a sub-block's search ended with.
#[inline(never)]
fn searched<const S: usize>(x: &[f32; S], w: [f32; S], grid: &Grid, fit: &Affine, codes: &mut [u8; S]) {
    if fit.factor.is_nan() {
        one::affine(x, &w, grid, codes);
        return;
    }
    for (&x, code) in x.iter().zip(codes) {
        *code = nearest(fit.factor * (x - fit.from)).min(grid.top as i32).max(0) as u8;
    }
}

/// Weights by importance: `importance · √(mean + x²)`, where `mean` is `of_mean` times the block's mean square; and what
/// they sum to in each sub-block.
#[inline(always)]
pub(super) fn weigh<const S: usize>(
    x: &[f32],
    importance: Importance,
    at: usize,
    of_mean: f32,
    w: &mut [f32],
    sums: &mut [f32],
) {
    importance.of(at, w);
    let blocks = x.as_chunks::<N>().0.iter().zip(w.as_chunks_mut::<N>().0);
    for ((x, w), sums) in blocks.zip(sums.chunks_mut(N / S)) {
        let square = x.iter().fold(0.0f32, |sum, &x| sum + x * x);
        let mean = of_mean * square / N as f32;
        for (&x, w) in x.iter().zip(&mut *w) {
            *w *= (mean + x * x).sqrt();
        }
        for (w, to) in w.as_chunks::<S>().0.iter().zip(sums) {
            *to = w.iter().fold(0.0f32, |sum, &w| sum + w);
        }
    }
}

/// A block's scales or minima as codes of up to `levels`, and the f16 that they are multiplied by.
#[inline(always)]
fn levels<const SUBS: usize>(values: &[f32; SUBS], levels: f32) -> (u16, [u8; SUBS]) {
    let highest = values.iter().fold(0.0f32, |max, &x| if x > max { x } else { max });
    let inverse = if highest > 0.0 { levels / highest } else { 0.0 };
    let codes = values.map(|x| nearest(inverse * x) as u8);
    (f32_to_f16(highest / levels), codes)
}

/// Blocks with scales and minima: what the types differ in.
trait Minima<const S: usize, const SUBS: usize, const B: usize> {
    const SEARCH: Search;
    /// The largest code of a scale or minimum.
    const LEVELS: f32;
    /// What the mean square counts in weights by importance.
    const OF_MEAN: f32;
    /// The scales and minima written, and as they are read again.
    fn scales(
        block: &mut [u8; B],
        d: u16,
        dmin: u16,
        scales: [u8; SUBS],
        minima: [u8; SUBS],
    ) -> [(u8, u8); SUBS];
    fn codes(block: &mut [u8; B], codes: &[u8; N]);
}

struct Two;
struct Four;
struct Five;

impl Minima<16, 16, 84> for Two {
    const SEARCH: Search = SEARCH_2;
    const LEVELS: f32 = 15.0;
    const OF_MEAN: f32 = 1.0;

    #[inline(always)]
    fn scales(block: &mut [u8; 84], d: u16, dmin: u16, scales: [u8; 16], minima: [u8; 16]) -> [(u8, u8); 16] {
        block[80..82].copy_from_slice(&d.to_le_bytes());
        block[82..].copy_from_slice(&dmin.to_le_bytes());
        std::array::from_fn(|sub| {
            block[sub] = scales[sub] | minima[sub] << 4;
            (block[sub] & 15, block[sub] >> 4)
        })
    }

    #[inline(always)]
    fn codes(block: &mut [u8; 84], codes: &[u8; N]) {
        two_bits(codes, &mut block[16..80]);
    }
}

/// Codes of two bits: 32 bytes hold 128 numbers, the lowest two bits of all bytes first.
#[inline(always)]
pub(super) fn two_bits(codes: &[u8; N], to: &mut [u8]) {
    for (codes, to) in codes.as_chunks::<128>().0.iter().zip(to.as_chunks_mut::<32>().0) {
        for (i, to) in to.iter_mut().enumerate() {
            *to = codes[i] | codes[i + 32] << 2 | codes[i + 64] << 4 | codes[i + 96] << 6;
        }
    }
}

/// Scales and minima of 6 bits in 12 bytes (see [`super::scales_and_minima`]).
#[inline(always)]
fn six_bits(to: &mut [u8], scales: [u8; 8], minima: [u8; 8]) -> [(u8, u8); 8] {
    for sub in 0..4 {
        to[sub] = scales[sub].min(63);
        to[sub + 4] = minima[sub].min(63);
    }
    for sub in 4..8 {
        let (scale, minimum) = (scales[sub].min(63), minima[sub].min(63));
        to[sub + 4] = scale & 15 | minimum << 4;
        to[sub - 4] |= scale >> 4 << 6;
        to[sub] |= minimum >> 4 << 6;
    }
    std::array::from_fn(|sub| (scales[sub].min(63), minima[sub].min(63)))
}

impl Minima<32, 8, 144> for Four {
    const SEARCH: Search = SEARCH_4;
    const LEVELS: f32 = 63.0;
    const OF_MEAN: f32 = 2.0;

    #[inline(always)]
    fn scales(block: &mut [u8; 144], d: u16, dmin: u16, scales: [u8; 8], minima: [u8; 8]) -> [(u8, u8); 8] {
        block[..2].copy_from_slice(&d.to_le_bytes());
        block[2..4].copy_from_slice(&dmin.to_le_bytes());
        six_bits(&mut block[4..16], scales, minima)
    }

    #[inline(always)]
    fn codes(block: &mut [u8; 144], codes: &[u8; N]) {
        for (codes, to) in codes.as_chunks::<64>().0.iter().zip(block[16..].as_chunks_mut::<32>().0) {
            for (i, to) in to.iter_mut().enumerate() {
                *to = codes[i] | codes[i + 32] << 4;
            }
        }
    }
}

impl Minima<32, 8, 176> for Five {
    const SEARCH: Search = SEARCH_5;
    const LEVELS: f32 = 63.0;
    const OF_MEAN: f32 = 2.0;

    #[inline(always)]
    fn scales(block: &mut [u8; 176], d: u16, dmin: u16, scales: [u8; 8], minima: [u8; 8]) -> [(u8, u8); 8] {
        block[..2].copy_from_slice(&d.to_le_bytes());
        block[2..4].copy_from_slice(&dmin.to_le_bytes());
        six_bits(&mut block[4..16], scales, minima)
    }

    #[inline(always)]
    fn codes(block: &mut [u8; 176], codes: &[u8; N]) {
        let (fifths, nibbles) = block[16..].split_at_mut(32);
        fifths.fill(0);
        for (pair, (codes, to)) in
            codes.as_chunks::<64>().0.iter().zip(nibbles.as_chunks_mut::<32>().0).enumerate()
        {
            for (i, (to, fifth)) in to.iter_mut().zip(&mut *fifths).enumerate() {
                *to = codes[i] & 15 | codes[i + 32] << 4;
                *fifth |= (codes[i] >> 4 | codes[i + 32] >> 4 << 1) << (pair * 2);
            }
        }
    }
}

/// Makes the blocks of one type with minima.
struct WithMinima<'a, T, const S: usize, const SUBS: usize, const B: usize> {
    numbers: &'a [f32],
    out: &'a mut [u8],
    importance: Option<Importance<'a>>,
    of: std::marker::PhantomData<T>,
}

impl<T: Minima<S, SUBS, B>, const S: usize, const SUBS: usize, const B: usize> Kernel
    for WithMinima<'_, T, S, SUBS, B>
{
    type Made = u64;

    #[inline(always)]
    fn run<const L: usize>(self) -> u64 {
        let search = const { T::SEARCH };
        let grid = if self.importance.is_some() { &search.weighed } else { &search.plain };
        let mut fits = [Affine::default(); BATCH * N / 16];
        let mut w = [0.0; BATCH * N];
        let mut sums = [0.0; BATCH * N / 16];
        let mut lost = 0;
        let batches = self.numbers.chunks(BATCH * N).zip(self.out.chunks_mut(BATCH * B));
        for (batch, (numbers, out)) in batches.enumerate() {
            let blocks = (numbers.len() / N).min(out.len() / B);
            let (numbers, fits) = (&numbers[..blocks * N], &mut fits[..blocks * SUBS]);
            let mut weights = Weights { own: search.own, given: None };
            if let Some(importance) = self.importance {
                let w = &mut w[..blocks * N];
                weigh::<S>(numbers, importance, batch * BATCH * N, T::OF_MEAN, w, &mut sums[..blocks * SUBS]);
                weights.given = Some(w);
            }
            if grid.absolute {
                affine::<S, L, true>(numbers, weights, grid, fits);
            } else {
                affine::<S, L, false>(numbers, weights, grid, fits);
            }
            let rows = numbers
                .as_chunks::<N>()
                .0
                .iter()
                .zip(fits.as_chunks::<SUBS>().0)
                .zip(sums.as_chunks::<SUBS>().0);
            for (at, (((x, fits), sums), block)) in rows.zip(out.as_chunks_mut::<B>().0).enumerate() {
                let scales = fits.map(|fit| fit.scale);
                let minima = fits.map(|fit| fit.minimum);
                let ((d, scales), (dmin, minima)) = if weights.given.is_some() {
                    (positive(&scales, sums, T::LEVELS), positive(&minima, sums, T::LEVELS))
                } else {
                    (levels(&scales, T::LEVELS), levels(&minima, T::LEVELS))
                };
                let read = T::scales(block, d, dmin, scales, minima);
                let (d32, dmin32) = (f16_to_f32(d), f16_to_f32(dmin));
                let mut codes = [0u8; N];
                let subs = x.as_chunks::<S>().0.iter().zip(codes.as_chunks_mut::<S>().0);
                for (sub, (x, codes)) in subs.enumerate() {
                    let scale = d32 * f32::from(read[sub].0);
                    let minimum = dmin32 * f32::from(read[sub].1);
                    if scale == 0.0 {
                        searched(x, weights.one(at * SUBS + sub, x), grid, &fits[sub], codes);
                        continue;
                    }
                    for (&x, code) in x.iter().zip(codes) {
                        *code = nearest((x + minimum) / scale).min(grid.top as i32).max(0) as u8;
                    }
                }
                T::codes(block, &codes);
                match sound(farthest(x), &[d, dmin]) {
                    Sound::Kept => {}
                    Sound::Lost => lost += N as u64,
                    Sound::Never => {
                        block.fill(0);
                        T::scales(block, NAN, NAN, [0; SUBS], [0; SUBS]);
                    }
                }
            }
        }
        lost
    }
}

/// [`one::positive`] with the f16 that the codes are multiplied by.
#[inline(always)]
fn positive<const SUBS: usize>(values: &[f32; SUBS], sums: &[f32; SUBS], levels: f32) -> (u16, [u8; SUBS]) {
    let mut codes = [0; SUBS];
    let scale = one::positive(values, sums, levels as i32, &mut codes);
    (f32_to_f16(scale), codes)
}

pub(in crate::transform::block) fn encode_2(
    x: &[f32],
    out: &mut [u8],
    importance: Option<Importance>,
) -> u64 {
    simd::run(WithMinima::<Two, 16, 16, 84> { numbers: x, out, importance, of: std::marker::PhantomData })
}

pub(in crate::transform::block) fn encode_4(
    x: &[f32],
    out: &mut [u8],
    importance: Option<Importance>,
) -> u64 {
    simd::run(WithMinima::<Four, 32, 8, 144> { numbers: x, out, importance, of: std::marker::PhantomData })
}

pub(in crate::transform::block) fn encode_5(
    x: &[f32],
    out: &mut [u8],
    importance: Option<Importance>,
) -> u64 {
    simd::run(WithMinima::<Five, 32, 8, 176> { numbers: x, out, importance, of: std::marker::PhantomData })
}

/// The fits of sub-blocks of `S` numbers with codes on both sides of zero.
#[inline(always)]
pub(super) fn even<const S: usize, const L: usize>(
    numbers: &[f32],
    weights: Weights,
    top: i32,
    fits: &mut [Even],
) {
    let (mut x, mut w) = (Turned::<S, L>::ZERO, Turned::<S, L>::ZERO);
    for (group, to) in fits.chunks_mut(L).enumerate() {
        fit::turn(numbers.get(group * L * S..).unwrap_or_default(), &mut x);
        weights.lanes(group * L, &x, &mut w);
        let made = fit::even::<S, L>(&x, &w, top as f32);
        to.copy_from_slice(&made[..to.len()]);
    }
    for (sub, (x, fit)) in numbers.as_chunks::<S>().0.iter().zip(fits).enumerate() {
        if fit.factor.is_nan() {
            fit.scale = one::even(x, &weights.one(sub, x), top, &mut [0; S]);
        }
    }
}

/// The codes, from 0, that a sub-block's search ended with.
#[inline(never)]
pub(super) fn searched_even<const S: usize>(
    x: &[f32; S],
    w: [f32; S],
    top: i32,
    fit: &Even,
    codes: &mut [u8; S],
) {
    if fit.factor.is_nan() {
        one::even(x, &w, top, codes);
        return;
    }
    for (&x, code) in x.iter().zip(codes) {
        *code = (nearest(fit.factor * x).min(top - 1).max(-top) + top) as u8;
    }
}

struct Six<'a> {
    numbers: &'a [f32],
    out: &'a mut [u8],
    importance: Option<Importance<'a>>,
}

impl Kernel for Six<'_> {
    type Made = u64;

    #[inline(always)]
    fn run<const L: usize>(self) -> u64 {
        const TOP: i32 = 32;
        let mut fits = [Even::default(); BATCH * 16];
        let mut w = [0.0; BATCH * N];
        let mut lost = 0;
        let batches = self.numbers.chunks(BATCH * N).zip(self.out.chunks_mut(BATCH * 210));
        for (batch, (numbers, out)) in batches.enumerate() {
            let blocks = (numbers.len() / N).min(out.len() / 210);
            let (numbers, fits) = (&numbers[..blocks * N], &mut fits[..blocks * 16]);
            let mut weights = Weights { own: Own::Square, given: None };
            if let Some(importance) = self.importance {
                let w = &mut w[..blocks * N];
                importance.of(batch * BATCH * N, w);
                weights.given = Some(w);
            }
            even::<16, L>(numbers, weights, TOP, fits);
            let rows = numbers.as_chunks::<N>().0.iter().zip(fits.as_chunks::<16>().0);
            for (at, ((x, fits), block)) in rows.zip(out.as_chunks_mut::<210>().0).enumerate() {
                let (mut far, mut signed) = (0.0, 0.0);
                for fit in fits {
                    if fit.scale.abs() > far {
                        (far, signed) = (fit.scale.abs(), fit.scale);
                    }
                }
                block.fill(0);
                let mut d = 0;
                if far >= fit::NOTHING {
                    let inverse = -128.0 / signed;
                    d = f32_to_f16(1.0 / inverse);
                    let d32 = f16_to_f32(d);
                    let mut codes = [0u8; N];
                    let subs = x.as_chunks::<16>().0.iter().zip(codes.as_chunks_mut::<16>().0);
                    for (sub, (x, codes)) in subs.enumerate() {
                        let code = nearest(inverse * fits[sub].scale).min(127) as i8;
                        block[192 + sub] = code as u8;
                        let scale = d32 * f32::from(code);
                        if scale == 0.0 {
                            searched_even(x, weights.one(at * 16 + sub, x), TOP, &fits[sub], codes);
                            continue;
                        }
                        for (&x, code) in x.iter().zip(codes) {
                            *code = (nearest(x / scale).clamp(-TOP, TOP - 1) + TOP) as u8;
                        }
                    }
                    six_bit_codes(block, &codes);
                    block[208..].copy_from_slice(&d.to_le_bytes());
                }
                match sound(farthest(x), &[d]) {
                    Sound::Kept => {}
                    Sound::Lost => lost += N as u64,
                    Sound::Never => block[208..].copy_from_slice(&NAN.to_le_bytes()),
                }
            }
        }
        lost
    }
}

#[inline(always)]
fn six_bit_codes(block: &mut [u8; 210], codes: &[u8; N]) {
    for (half, codes) in codes.as_chunks::<128>().0.iter().enumerate() {
        for i in 0..32 {
            let [a, b, c, d] = [codes[i], codes[i + 32], codes[i + 64], codes[i + 96]];
            block[half * 64 + i] = a & 15 | c << 4;
            block[half * 64 + 32 + i] = b & 15 | d << 4;
            block[128 + half * 32 + i] = a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6;
        }
    }
}

pub(in crate::transform::block) fn encode_6(
    x: &[f32],
    out: &mut [u8],
    importance: Option<Importance>,
) -> u64 {
    simd::run(Six { numbers: x, out, importance })
}
