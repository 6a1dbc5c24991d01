//! Q3_K made as ggml's reference makes it.

use super::N;
use super::encode::{BATCH, Weights, even, searched_even, two_bits, weigh};
use crate::transform::block::fit::{self, Even, Turned, nearest, one};
use crate::transform::block::simd::{self, Kernel};
use crate::transform::block::weighing::{Importance, Own};
use crate::transform::block::{NAN, Sound, farthest, half_to, sound};
use crate::transform::cast::{f16_to_f32, f32_to_f16};

/// Codes lie between −4 and 3, scales between −32 and 31.
const TOP: i32 = 4;
const SCALE_TOP: i32 = 32;
const B: usize = 110;

struct Three<'a> {
    numbers: &'a [f32],
    out: &'a mut [u8],
    importance: Option<Importance<'a>>,
}

pub(in crate::transform::block) fn encode_3(
    x: &[f32],
    out: &mut [u8],
    importance: Option<Importance>,
) -> u64 {
    simd::run(Three { numbers: x, out, importance })
}

impl Kernel for Three<'_> {
    type Made = u64;

    #[inline(always)]
    fn run<const L: usize>(self) -> u64 {
        let mut fits = [Even::default(); BATCH * 16];
        let mut w = [0.0; BATCH * N];
        let mut sums = [0.0; BATCH * 16];
        let mut lost = 0;
        let batches = self.numbers.chunks(BATCH * N).zip(self.out.chunks_mut(BATCH * B));
        for (batch, (numbers, out)) in batches.enumerate() {
            let blocks = (numbers.len() / N).min(out.len() / B);
            let (numbers, fits) = (&numbers[..blocks * N], &mut fits[..blocks * 16]);
            let mut weights = Weights { own: Own::Square, given: None };
            match self.importance {
                Some(importance) => {
                    let w = &mut w[..blocks * N];
                    weigh::<16>(numbers, importance, batch * BATCH * N, 2.0, w, &mut sums[..blocks * 16]);
                    weights.given = Some(w);
                    even::<16, L>(numbers, weights, TOP, fits);
                }
                None => refined::<L>(numbers, fits),
            }
            let rows = numbers.as_chunks::<N>().0.iter().zip(fits.as_chunks::<16>().0);
            let rows = rows.zip(sums.as_chunks::<16>().0).zip(out.as_chunks_mut::<B>().0);
            for (at, (((x, fits), sums), block)) in rows.enumerate() {
                let scales = fits.map(|fit| fit.scale);
                let (d, levels) = match weights.given {
                    Some(_) => {
                        let mut codes = [0; 16];
                        let d = one::even(&scales, sums, SCALE_TOP, &mut codes);
                        (f32_to_f16(d), codes)
                    }
                    None => levels(&scales),
                };
                pack_scales(&levels, &mut block[96..108]);
                half_to(block, 108, d);
                let d32 = f16_to_f32(d);
                let mut codes = [0u8; N];
                let subs = x.as_chunks::<16>().0.iter().zip(codes.as_chunks_mut::<16>().0);
                for (sub, (x, codes)) in subs.enumerate() {
                    let scale = d32 * (f32::from(levels[sub]) - SCALE_TOP as f32);
                    if scale != 0.0 {
                        for (&x, code) in x.iter().zip(codes) {
                            *code = nearest(x / scale).clamp(-TOP, TOP - 1).wrapping_add(TOP) as u8;
                        }
                    } else if weights.given.is_some() {
                        searched_even(x, weights.one(at * 16 + sub, x), TOP, &fits[sub], codes);
                    } else {
                        one::refined(x, codes);
                    }
                }
                pack_codes(&codes, block);
                match sound(farthest(x), &[d]) {
                    Sound::Kept => {}
                    Sound::Lost => lost += N as u64,
                    Sound::Never => half_to(block, 108, NAN),
                }
            }
        }
        lost
    }
}

#[inline(always)]
fn refined<const L: usize>(numbers: &[f32], fits: &mut [Even]) {
    let mut x = Turned::<16, L>::ZERO;
    for (group, to) in fits.chunks_mut(L).enumerate() {
        fit::turn(numbers.get(group * L * 16..).unwrap_or_default(), &mut x);
        for (fit, scale) in to.iter_mut().zip(fit::refined(&x)) {
            fit.scale = scale;
        }
    }
}

/// Scales as codes from 0, and the f16 that they are multiplied by.
#[inline(always)]
fn levels(scales: &[f32; 16]) -> (u16, [u8; 16]) {
    let (mut far, mut signed) = (0.0, 0.0);
    for scale in scales {
        if scale.abs() > far {
            (far, signed) = (scale.abs(), *scale);
        }
    }
    if signed == 0.0 {
        return (0, [0; 16]);
    }
    let inverse = -(SCALE_TOP as f32) / signed;
    let codes = scales.map(|scale| {
        let code = i32::from(nearest(inverse * scale) as i8);
        code.clamp(-SCALE_TOP, SCALE_TOP - 1).wrapping_add(SCALE_TOP) as u8
    });
    (f32_to_f16(1.0 / inverse), codes)
}

/// Sixteen scales of 6 bits: low nibbles of the first eight and the last eight, then the high bits of every fourth.
#[inline(always)]
fn pack_scales(scales: &[u8; 16], to: &mut [u8]) {
    for i in 0..8 {
        to[i] = scales[i] & 15 | (scales[i + 8] & 15) << 4;
    }
    for i in 0..4 {
        to[8 + i] =
            scales[i] >> 4 | scales[i + 4] >> 4 << 2 | scales[i + 8] >> 4 << 4 | scales[i + 12] >> 4 << 6;
    }
}

#[inline(always)]
fn pack_codes(codes: &[u8; N], block: &mut [u8; B]) {
    let (thirds, rest) = block.split_at_mut(32);
    thirds.fill(0);
    for (group, codes) in codes.as_chunks::<32>().0.iter().enumerate() {
        for (third, &code) in thirds.iter_mut().zip(codes) {
            *third |= (code >> 2 & 1) << group;
        }
    }
    two_bits(&codes.map(|code| code & 3), &mut rest[..64]);
}
