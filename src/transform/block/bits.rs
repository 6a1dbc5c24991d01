//! One, two and three values a number: TQ1_0 and TQ2_0 (ternary), Q1_0 (signs), Q2_0. No zero points but fixed ones, one
//! f16 scale a block.

use super::{NAN, Plain, Sound, farthest, half, sound};
use crate::transform::cast;

/// 48 bytes of five ternary digits, 4 bytes of four, f16 `d`: `(digit − 1) · d`. The first 32 bytes give their first
/// digits, then their second ones …, then the next 16 bytes theirs, then the last 4.
///
/// A byte is the digits as a fraction of 256, rounded up: three times it, the part above 255 is the first digit and the
/// rest the byte of the others.
#[inline(always)]
pub(super) fn decode_ternary_1(block: &[u8; 54], out: &mut [f32; 256]) {
    let d = half(block, 52);
    let (first, rest) = out.split_at_mut(160);
    let (second, last) = rest.split_at_mut(80);
    digits(&block[..32], first, d);
    digits(&block[32..48], second, d);
    digits(&block[48..52], last, d);
}

#[inline(always)]
fn digits(bytes: &[u8], out: &mut [f32], d: f32) {
    let mut power = 1u8;
    for out in out.chunks_mut(bytes.len()) {
        for (&byte, x) in bytes.iter().zip(out) {
            let digit = (u16::from(byte.wrapping_mul(power)) * 3) >> 8;
            *x = (f32::from(digit) - 1.0) * d;
        }
        power = power.wrapping_mul(3);
    }
}

/// 64 bytes of codes, f16 `d`: `(code − 1) · d`. 32 bytes hold 128 numbers, the lowest two bits of all bytes first.
#[inline(always)]
pub(super) fn decode_ternary_2(block: &[u8; 66], out: &mut [f32; 256]) {
    let d = half(block, 64);
    for (run, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let shift = run % 4 * 2;
        for (&code, x) in block[run / 4 * 32..][..32].iter().zip(out) {
            *x = (f32::from(code >> shift & 3) - 1.0) * d;
        }
    }
}

/// f16 `d`, 128 bits from the lowest up: a one is `d`, a zero `−d`.
#[inline(always)]
pub(super) fn decode_1(block: &[u8; 18], out: &mut [f32; 128]) {
    let d = half(block, 0);
    for (&byte, out) in block[2..].iter().zip(out.as_chunks_mut::<8>().0) {
        for (bit, x) in out.iter_mut().enumerate() {
            *x = if byte >> bit & 1 == 1 { d } else { -d };
        }
    }
}

/// f16 `d`, 64 codes of two bits from the lowest up: `(code − 1) · d`.
#[inline(always)]
pub(super) fn decode_2(block: &[u8; 18], out: &mut [f32; 64]) {
    let d = half(block, 0);
    for (&byte, out) in block[2..].iter().zip(out.as_chunks_mut::<4>().0) {
        for (place, x) in out.iter_mut().enumerate() {
            *x = (f32::from(byte >> (place * 2) & 3) - 1.0) * d;
        }
    }
}

/// −1, 0 or 1, plus 1: numbers over the largest magnitude, rounded half away from zero. And that magnitude in f16.
#[inline(always)]
fn ternary(numbers: &[f32; 256]) -> (u16, [u8; 256]) {
    let far = numbers.iter().fold(0, |max: i32, &x| max.max((x.to_bits() & 0x7fff_ffff) as i32));
    let d = f32::from_bits(far as u32);
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let mut codes = [1u8; 256];
    // It overflows for some subnormal numbers, of which x86 makes zeros then.
    if inverse.is_finite() {
        for (&x, code) in numbers.iter().zip(&mut codes) {
            let x = x * inverse;
            *code = 1u8.wrapping_add(u8::from(x >= 0.5)).wrapping_sub(u8::from(x <= -0.5));
        }
    }
    (cast::f32_to_f16(d), codes)
}

/// The scale where all numbers are finite, and how many are lost if it does not fit.
#[inline(always)]
fn ternary_scale(numbers: &[f32], d: u16) -> (u16, u64) {
    match sound(farthest(numbers), &[d]) {
        Sound::Kept => (d, 0),
        Sound::Lost => (d, numbers.len() as u64),
        Sound::Never => (NAN, 0),
    }
}

/// See [`decode_ternary_1`].
pub(super) struct Ternary1;

impl Plain<256, 54> for Ternary1 {
    #[inline(always)]
    fn encode(numbers: &[f32; 256], block: &mut [u8; 54]) -> u64 {
        let (d, mut codes) = ternary(numbers);
        let (d, lost) = ternary_scale(numbers, d);
        if d == NAN {
            codes = [0; 256];
        }
        let (first, rest) = codes.split_at(160);
        let (second, last) = rest.split_at(80);
        for (codes, bytes) in [(first, 0..32), (second, 32..48), (last, 48..52)] {
            let bytes = &mut block[bytes];
            let count = bytes.len();
            for (i, byte) in bytes.iter_mut().enumerate() {
                // The fifth digit of the last bytes is 0.
                let number = (0..5).fold(0u32, |n, digit| {
                    n * 3 + codes.get(digit * count + i).map_or(0, |&code| u32::from(code))
                });
                *byte = (number * 256).div_ceil(243) as u8;
            }
        }
        block[52..].copy_from_slice(&d.to_le_bytes());
        lost
    }
}

/// See [`decode_ternary_2`].
pub(super) struct Ternary2;

impl Plain<256, 66> for Ternary2 {
    #[inline(always)]
    fn encode(numbers: &[f32; 256], block: &mut [u8; 66]) -> u64 {
        let (d, mut codes) = ternary(numbers);
        let (d, lost) = ternary_scale(numbers, d);
        if d == NAN {
            codes = [0; 256];
        }
        for (codes, bytes) in codes.as_chunks::<128>().0.iter().zip(block[..64].as_chunks_mut::<32>().0) {
            for (i, byte) in bytes.iter_mut().enumerate() {
                *byte = codes[i] | codes[i + 32] << 2 | codes[i + 64] << 4 | codes[i + 96] << 6;
            }
        }
        block[64..].copy_from_slice(&d.to_le_bytes());
        lost
    }
}
