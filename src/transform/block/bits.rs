//! One, two and three values a number: TQ1_0 and TQ2_0 (ternary), Q1_0 (signs), Q2_0. No zero points but fixed ones, one
//! f16 scale a block.

use super::half;

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
