//! Q8_0, Q8_1 and Q8_K: numbers of eight signed bits with a scale. ggml itself keeps the last two in memory only, with
//! sums of the codes that decoding does not need.

use super::{Plain, half};
use crate::transform::cast;

/// f16 `d`, 32 signed codes: `code · d`.
#[inline(always)]
pub(super) fn decode_0(block: &[u8; 34], out: &mut [f32; 32]) {
    codes(&block[2..], half(block, 0), out);
}

/// f16 `d`, f16 sum, 32 signed codes: `code · d`.
#[inline(always)]
pub(super) fn decode_1(block: &[u8; 36], out: &mut [f32; 32]) {
    codes(&block[4..], half(block, 0), out);
}

/// f32 `d`, 256 signed codes, sums: `code · d`.
#[inline(always)]
pub(super) fn decode_k(block: &[u8; 292], out: &mut [f32; 256]) {
    let d = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    codes(&block[4..260], d, out);
}

#[inline(always)]
fn codes(codes: &[u8], d: f32, out: &mut [f32]) {
    for (&code, x) in codes.iter().zip(out) {
        *x = f32::from(code as i8) * d;
    }
}

/// The largest magnitude becomes ±127: d = amax / 127, code = x · (1 / d) rounded half away from zero. The codes are
/// made with the d of f32, of which the block keeps the nearest f16.
pub(super) struct Type0;

impl Plain<32, 34> for Type0 {
    #[inline(always)]
    fn encode(numbers: &[f32; 32], block: &mut [u8; 34]) -> u64 {
        // Magnitudes are ordered as their bits are; a NaN is above all.
        let magnitude = |x: f32| (x.to_bits() & 0x7fff_ffff) as i32;
        let amax = f32::from_bits(numbers.iter().fold(0, |max: i32, &x| max.max(magnitude(x))) as u32);
        let d = amax / 127.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let scale = cast::f32_to_f16(d);
        block[..2].copy_from_slice(&scale.to_le_bytes());
        for (&x, code) in numbers.iter().zip(&mut block[2..]) {
            let x = x * inverse;
            // Adding 2^23 rounds half to even and leaves the integer in the low bits; what was just half above it, and so
            // went down to the even one, is put right. No |x| is above 127.5, unless it is not finite.
            const INTEGERS: f32 = 8_388_608.0;
            let rounded = x.abs() + INTEGERS;
            let half_above = x.abs() - (rounded - INTEGERS) >= 0.5;
            let integer = rounded.to_bits().wrapping_add(u32::from(half_above)) as u8;
            *code = if x.is_sign_negative() { integer.wrapping_neg() } else { integer };
        }
        let lost = amax.is_finite() && scale & 0x7fff >= 0x7c00;
        if lost { numbers.len() as u64 } else { 0 }
    }
}
