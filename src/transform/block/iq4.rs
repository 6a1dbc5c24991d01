//! IQ4_NL and IQ4_XS: codes of four bits that stand for sixteen values, closer together near zero.

use super::fit::{self, Table, Turned, nearest};
use super::q4;
use super::simd::{self, Kernel};
use super::weighing::{Importance, Own};
use super::{NAN, Sound, farthest, half, half_to, sound};
use crate::transform::cast::f32_to_f16;
use std::marker::PhantomData;

/// What the codes stand for.
const VALUES: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0,
];

/// f16 `d`, 16 bytes of codes in the order of Q4_0: `value · d`.
#[inline(always)]
pub(super) fn decode_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    nibbles(&block[2..], half(block, 0), out);
}

/// f16 `d`, u16 of the scales' two high bits, 4 bytes of their low nibbles, 128 bytes of codes: 8 sub-blocks of 32 in
/// the order of Q4_0, `d · (scale − 32) · value`.
#[inline(always)]
pub(super) fn decode_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let d = half(block, 0);
    let high = u16::from_le_bytes([block[2], block[3]]);
    for (sub, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let low = block[4 + sub / 2] >> (sub % 2 * 4) & 15;
        let scale = u16::from(low) | (high >> (sub * 2) & 3) << 4;
        nibbles(&block[8 + sub * 16..][..16], d * (f32::from(scale) - 32.0), out);
    }
}

#[inline(always)]
fn nibbles(codes: &[u8], scale: f32, out: &mut [f32; 32]) {
    let (low, high) = out.split_at_mut(16);
    for ((&code, low), high) in codes.iter().zip(low).zip(high) {
        *low = scale * VALUES[usize::from(code & 15)];
        *high = scale * VALUES[usize::from(code >> 4)];
    }
}

/// The values, the second and each next with half the way to it from the one before: exact, and what is just there
/// goes up, as in the reference.
const TABLE: Table = {
    let mut steps = [(0.0, 0.0); 15];
    let mut i = 0;
    while i < 15 {
        steps[i] = ((VALUES[i] + VALUES[i + 1]) / 2.0, VALUES[i + 1] - VALUES[i]);
        i += 1;
    }
    Table { least: VALUES[0], steps }
};

/// Numbers of a sub-block.
const N: usize = 32;
/// Sub-blocks whose scales are searched together: eight blocks of IQ4_XS.
const BATCH: usize = 64;

/// A type whose blocks are `SUBS` sub-blocks.
trait Type<const SUBS: usize, const B: usize> {
    /// Makes all of a block but its scale, which it returns, of its numbers and the scales that were found.
    fn finish(x: &[f32], scales: &[f32; SUBS], block: &mut [u8; B]) -> u16;
}

/// Makes blocks of one type.
struct Searched<'a, T, const SUBS: usize, const B: usize> {
    numbers: &'a [f32],
    out: &'a mut [u8],
    importance: Option<Importance<'a>>,
    of: PhantomData<T>,
}

impl<T: Type<SUBS, B>, const SUBS: usize, const B: usize> Kernel for Searched<'_, T, SUBS, B> {
    type Made = u64;

    #[inline(always)]
    fn run<const L: usize>(self) -> u64 {
        let (mut x, mut w) = (Turned::<N, L>::ZERO, Turned::<N, L>::ZERO);
        let mut given = [0.0; BATCH * N];
        let mut scales = [0.0; BATCH];
        let mut lost = 0;
        let batches = self.numbers.chunks(BATCH * N).zip(self.out.chunks_mut(BATCH / SUBS * B));
        for (batch, (numbers, out)) in batches.enumerate() {
            if let Some(importance) = self.importance {
                let given = &mut given[..numbers.len()];
                importance.of(batch * BATCH * N, given);
                for (x, w) in numbers.chunks(SUBS * N).zip(given.chunks_mut(SUBS * N)) {
                    let square = x.iter().fold(0.0f32, |sum, &x| sum + x * x);
                    let mean = square * (2.0 / (SUBS * N) as f32);
                    for (&x, w) in x.iter().zip(w) {
                        *w *= (mean + x * x).sqrt();
                    }
                }
            }
            let groups = numbers.chunks(L * N).zip(given.chunks(L * N)).zip(scales.chunks_mut(L));
            for ((numbers, given), scales) in groups {
                fit::turn(numbers, &mut x);
                match self.importance {
                    Some(_) => fit::turn(given, &mut w),
                    None => Own::Square.lanes(&x, &mut w),
                }
                let found = fit::table(&x, &w, &TABLE);
                scales.copy_from_slice(&found[..scales.len()]);
            }
            let rows = numbers.chunks_exact(SUBS * N).zip(scales.as_chunks::<SUBS>().0);
            for ((x, scales), block) in rows.zip(out.as_chunks_mut::<B>().0) {
                let d = T::finish(x, scales, block);
                half_to(block, 0, d);
                match sound(farthest(x), &[d]) {
                    Sound::Kept => {}
                    Sound::Lost => lost += x.len() as u64,
                    Sound::Never => half_to(block, 0, NAN),
                }
            }
        }
        lost
    }
}

/// The codes of 32 numbers times a factor, in the order of Q4_0.
#[inline(always)]
fn codes(x: &[f32; N], factor: f32, to: &mut [u8]) {
    let mut codes = [0u8; N];
    if factor.is_nan() {
        // Nothing is less than what is not a number.
        codes = [15; N];
    }
    for &(begins, _) in &TABLE.steps {
        for (&x, code) in x.iter().zip(&mut codes) {
            *code = code.wrapping_add(u8::from(x * factor >= begins));
        }
    }
    q4::nibbles(&codes, to);
}

#[inline(always)]
fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

struct Nl;

impl Type<1, 18> for Nl {
    #[inline(always)]
    fn finish(x: &[f32], &[scale]: &[f32; 1], block: &mut [u8; 18]) -> u16 {
        for x in x.as_chunks().0 {
            codes(x, inverse(scale), &mut block[2..]);
        }
        f32_to_f16(scale)
    }
}

struct Xs;

impl Type<8, 136> for Xs {
    #[inline(always)]
    fn finish(x: &[f32], scales: &[f32; 8], block: &mut [u8; 136]) -> u16 {
        let (mut far, mut signed) = (0.0, 0.0);
        for scale in scales {
            if scale.abs() > far {
                (far, signed) = (scale.abs(), *scale);
            }
        }
        let d = -signed / 32.0;
        let factor = inverse(d);
        block[2..8].fill(0);
        for (sub, x) in x.as_chunks().0.iter().take(8).enumerate() {
            let level = nearest(factor * scales[sub]).clamp(-32, 31);
            codes(x, inverse(d * level as f32), &mut block[8 + sub * 16..][..16]);
            let level = level.wrapping_add(32) as u8;
            block[4 + sub / 2] |= (level & 15) << (sub % 2 * 4);
            block[2 + sub / 4] |= level >> 4 << (sub % 4 * 2);
        }
        f32_to_f16(d)
    }
}

pub(super) fn encode_nl(numbers: &[f32], out: &mut [u8], importance: Option<Importance>) -> u64 {
    simd::run(Searched { numbers, out, importance, of: PhantomData::<Nl> })
}

pub(super) fn encode_xs(numbers: &[f32], out: &mut [u8], importance: Option<Importance>) -> u64 {
    simd::run(Searched { numbers, out, importance, of: PhantomData::<Xs> })
}
