//! Numbers of four bits that are floats themselves (E2M1: a sign, two bits of exponent, one of mantissa), with a scale
//! for each 32 (MXFP4) or 16 (NVFP4).
//!
//! ggml keeps MXFP4 with the scale before its codes, code `j` beside code `j + 16` in a byte. The OCP layout that
//! Hugging Face checkpoints have (gpt-oss) keeps scales and codes in tensors of their own, code `2 j` beside `2 j + 1`.
//! Both hold the same numbers, so that one is made of the other by moving nibbles.

use super::{Plain, q4};

/// Twice what the codes stand for, as ggml has it: without a negative zero.
const DOUBLED: [f32; 16] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0];

/// What the codes stand for in the OCP format.
const VALUES: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// Numbers that share an MX scale.
const MX_ELEMENTS: usize = 32;
/// Bytes of their codes.
const MX_BYTES: usize = MX_ELEMENTS / 2;

/// 2^(e − 127), of which e = 0 is subnormal. 255, the OCP format's NaN, is infinite here.
#[inline(always)]
fn power(e: u8) -> f32 {
    f32::from_bits(if e == 0 { 1 << 22 } else { u32::from(e) << 23 })
}

/// The E8M0 scale, 16 bytes of codes in the order of Q4_0: `2^(e − 127) · value`. As in ggml, 255 is a scale like the
/// others.
#[inline(always)]
pub(super) fn decode_mxfp4(block: &[u8; 17], out: &mut [f32; 32]) {
    // Half the scale, for the doubled values: one that does not overflow where half a value would not.
    let half_scale = if block[0] == 0 { f32::from_bits(1 << 21) } else { power(block[0] - 1) };
    let (low, high) = out.split_at_mut(16);
    for ((&code, low), high) in block[1..].iter().zip(low).zip(high) {
        *low = half_scale * DOUBLED[usize::from(code & 15)];
        *high = half_scale * DOUBLED[usize::from(code >> 4)];
    }
}

/// The scale is the power of two that brings the largest magnitude between 4 and 8; a number takes the nearest value, of
/// two as near the one nearer zero, which is never the negative one. No finite number is too large.
pub(super) struct MxFp4;

impl Plain<32, 17> for MxFp4 {
    #[inline(always)]
    fn encode(numbers: &[f32; 32], block: &mut [u8; 17]) -> u64 {
        let far = numbers.iter().fold(0, |max: i32, &x| max.max((x.to_bits() & 0x7fff_ffff) as i32)) as u32;
        if far >= 0x7f80_0000 {
            // The largest scale and code: infinite.
            *block = [0x77; 17];
            block[0] = 255;
            return 0;
        }
        let e = if far == 0 { 0 } else { floor_log2(far).wrapping_add(125) as u8 };
        let half_scale = if e < 2 { f32::from_bits(1 << 21 << e) } else { power(e - 1) };
        block[0] = e;
        // Values that overflow are never the nearest.
        let limit = |i: usize| match DOUBLED[i + 1] * half_scale {
            f32::INFINITY => f32::INFINITY,
            _ => (DOUBLED[i] + DOUBLED[i + 1]) / 2.0 * half_scale,
        };
        let limits: [f32; 7] = std::array::from_fn(limit);
        let mut codes = [0u8; 32];
        for limit in limits {
            for (&x, code) in numbers.iter().zip(&mut codes) {
                *code = code.wrapping_add(u8::from(x.abs() > limit));
            }
        }
        for (&x, code) in numbers.iter().zip(&mut codes) {
            *code |= u8::from((x < 0.0) & (*code > 0)) << 3;
        }
        q4::nibbles(&codes, &mut block[1..]);
        0
    }
}

/// The logarithm of a positive number of these bits, in f32, rounded down. It is the exponent, but that the logarithm of
/// a number just below a power of two is rounded up to the next integer.
#[inline(always)]
fn floor_log2(bits: u32) -> i32 {
    if bits < 1 << 23 || bits & 0x7f_f000 == 0x7f_f000 {
        return (f64::from(f32::from_bits(bits)).log2() as f32).floor() as i32;
    }
    (bits >> 23) as i32 - 127
}

/// Four scales, then for each 8 bytes of codes: low nibbles, then high ones. A scale is an E4M3 float whose sign is not
/// looked at; 0x7f, its NaN, is zero. A scale of the whole tensor is a tensor of its own.
#[inline(always)]
pub(super) fn decode_nvfp4(block: &[u8; 36], out: &mut [f32; 64]) {
    for (sub, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let bits = u32::from(block[sub]);
        let (exponent, mantissa) = (bits >> 3 & 15, bits & 7);
        // Half the scale, for the doubled values.
        let half_scale = match (bits, exponent) {
            (0x7f, _) => 0.0,
            (_, 0) => mantissa as f32 / 1024.0,
            _ => f32::from_bits((exponent + 127 - 8) << 23 | mantissa << 20),
        };
        let (low, high) = out.split_at_mut(8);
        for ((&code, low), high) in block[4 + sub * 8..][..8].iter().zip(low).zip(high) {
            *low = half_scale * DOUBLED[usize::from(code & 15)];
            *high = half_scale * DOUBLED[usize::from(code >> 4)];
        }
    }
}

/// OCP microscaling to numbers: 16 bytes of codes and one E8M0 scale for each 32, two codes a byte, the lower nibble
/// first. Every number is exact, or infinite where 6 · 2^126 and the like do not fit; the scale 255 is a NaN, as the
/// format has it. The whole groups that all three hold are decoded.
pub fn decode_mx(nibbles: &[u8], scales: &[u8], out: &mut [f32]) {
    let groups = nibbles.as_chunks::<MX_BYTES>().0.iter().zip(scales);
    for ((codes, &scale), out) in groups.zip(out.as_chunks_mut::<MX_ELEMENTS>().0) {
        let scale = if scale == 255 { f32::NAN } else { power(scale) };
        for (&code, pair) in codes.iter().zip(out.as_chunks_mut::<2>().0) {
            *pair = [scale * VALUES[usize::from(code & 15)], scale * VALUES[usize::from(code >> 4)]];
        }
    }
}

/// OCP microscaling (see [`decode_mx`]) to ggml's MXFP4 blocks of 17 bytes: the same scales and codes, no number
/// changed. The whole groups that all three hold are repacked.
pub fn repack_mx(nibbles: &[u8], scales: &[u8], out: &mut [u8]) {
    let groups = nibbles.as_chunks::<MX_BYTES>().0.iter().zip(scales);
    for ((codes, &scale), block) in groups.zip(out.as_chunks_mut::<{ MX_BYTES + 1 }>().0) {
        block[0] = scale;
        let (first, second) = codes.split_at(MX_BYTES / 2);
        let targets = block[1..].as_chunks_mut::<2>().0;
        for ((&a, &b), to) in first.iter().zip(second).zip(targets) {
            *to = [a & 15 | b << 4, a >> 4 | b & 0xf0];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::transform::block::decode;

    #[test]
    fn repacked_blocks_hold_the_same_numbers() {
        let nibbles: Vec<u8> =
            (0..=255u8).cycle().take(MX_BYTES * 255).map(|b| b.wrapping_mul(151)).collect();
        let scales: Vec<u8> = (0..255).collect();
        let mut blocks = vec![0; 17 * 255];
        let (mut ours, mut ggml) = (vec![0.0; 32 * 255], vec![0.0; 32 * 255]);
        repack_mx(&nibbles, &scales, &mut blocks);
        decode_mx(&nibbles, &scales, &mut ours);
        decode(DType::MXFP4, &blocks, &mut ggml);
        // Equal as numbers: ggml has no negative zero.
        assert_eq!(ours, ggml);
        assert!(ours.iter().any(|x| x.is_subnormal()) && ours.iter().any(|x| x.is_infinite()));
    }

    #[test]
    fn mx_values() {
        let mut out = [0.0; 32];
        for (scale, expected) in
            [(127, 1.0), (0, 2f32.powi(-127)), (254, 2f32.powi(127)), (120, 2f32.powi(-7))]
        {
            let nibbles: [u8; 16] = std::array::from_fn(|i| (2 * i as u8 % 16) | (2 * i as u8 % 16 + 1) << 4);
            decode_mx(&nibbles, &[scale], &mut out);
            for (i, x) in out.iter().enumerate() {
                assert_eq!(x.to_bits(), (VALUES[i % 16] * expected).to_bits(), "{scale} {i}");
            }
        }
        decode_mx(&[0; 16], &[255], &mut out);
        assert!(out.iter().all(|x| x.is_nan()));
    }
}
