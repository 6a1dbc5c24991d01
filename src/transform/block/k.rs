//! The K types: 256 numbers in sub-blocks of 16 or 32, whose scales (and minima) are themselves codes of few bits with
//! an f16 scale for the whole block.

mod encode;
mod encode3;

pub(super) use encode::{encode_2, encode_4, encode_5, encode_6};
pub(super) use encode3::encode_3;

use super::half;

/// Numbers of a block.
const N: usize = 256;

/// 16 bytes of scale (low nibble) and minimum (high nibble) for 16 sub-blocks, 64 bytes of codes, f16 `d`, f16 `dmin`:
/// `d · scale · code − dmin · minimum`. 32 bytes hold 128 numbers: the lowest two bits of all bytes come first.
#[inline(always)]
pub(super) fn decode_2(block: &[u8; 84], out: &mut [f32; N]) {
    let (d, dmin) = (half(block, 80), half(block, 82));
    for (sub, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(block[sub] & 15);
        let minimum = dmin * f32::from(block[sub] >> 4);
        let (codes, shift) = two_bits(&block[16..80], sub);
        for (&code, x) in codes.iter().zip(out) {
            *x = scale * f32::from(code >> shift & 3) - minimum;
        }
    }
}

/// 32 bytes of third bits, 64 bytes of codes as in Q2_K, 12 bytes of sixteen 6-bit scales, f16 `d`:
/// `d · (scale − 32) · (code − 4)`, where the third bit is worth 4. Third bits of numbers `32 g` to `32 g + 31` are
/// bit `g` of each byte.
#[inline(always)]
pub(super) fn decode_3(block: &[u8; 110], out: &mut [f32; N]) {
    let d = half(block, 108);
    let packed = &block[96..108];
    for (sub, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        // Four low bits in bytes 0 to 7 (sub-blocks 8 to 15 in the high nibbles), two high bits in bytes 8 to 11.
        let low = packed[sub % 8] >> (sub / 8 * 4) & 15;
        let high = packed[8 + sub % 4] >> (sub / 4 * 2) & 3;
        let scale = d * (f32::from(low | high << 4) - 32.0);
        let (codes, shift) = two_bits(&block[32..96], sub);
        let thirds = &block[sub % 2 * 16..][..16];
        let group = sub / 2;
        for ((&code, &third), x) in codes.iter().zip(thirds).zip(out) {
            let code = code >> shift & 3 | (third >> group & 1) << 2;
            *x = scale * (f32::from(code) - 4.0);
        }
    }
}

/// Codes of two bits: 32 bytes hold 128 numbers, the lowest two bits of all bytes first. The 16 bytes of sub-block
/// `sub`, and how far its bits are to be shifted.
#[inline(always)]
fn two_bits(codes: &[u8], sub: usize) -> (&[u8], usize) {
    (&codes[sub / 8 * 32 + sub % 2 * 16..][..16], sub % 8 / 2 * 2)
}

/// Scale and minimum, 6 bits each, of each of 8 sub-blocks from 12 bytes: those of the first four are the low bits of
/// bytes 0 to 3 and 4 to 7; those of the last four have their low nibbles in bytes 8 to 11 and their top two bits above
/// the first four's.
#[inline(always)]
fn scales_and_minima(packed: &[u8]) -> [(f32, f32); 8] {
    std::array::from_fn(|sub| {
        let (scale, minimum) = match sub {
            0..4 => (packed[sub] & 63, packed[sub + 4] & 63),
            _ => (
                packed[sub + 4] & 15 | packed[sub - 4] >> 6 << 4,
                packed[sub + 4] >> 4 | packed[sub] >> 6 << 4,
            ),
        };
        (f32::from(scale), f32::from(minimum))
    })
}

/// f16 `d`, f16 `dmin`, 12 bytes of scales and minima for 8 sub-blocks of 32, 128 bytes of codes:
/// `d · scale · code − dmin · minimum`. 32 bytes hold 64 numbers, the low nibbles first.
#[inline(always)]
pub(super) fn decode_4(block: &[u8; 144], out: &mut [f32; N]) {
    let (d, dmin) = (half(block, 0), half(block, 2));
    let scales = scales_and_minima(&block[4..16]);
    for (sub, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = (d * scales[sub].0, dmin * scales[sub].1);
        let codes = &block[16 + sub / 2 * 32..][..32];
        let shift = sub % 2 * 4;
        for (&code, x) in codes.iter().zip(out) {
            *x = scale * f32::from(code >> shift & 15) - minimum;
        }
    }
}

/// Q4_K with 32 bytes of fifth bits before the codes: those of sub-block `s` are bit `s` of each byte.
#[inline(always)]
pub(super) fn decode_5(block: &[u8; 176], out: &mut [f32; N]) {
    let (d, dmin) = (half(block, 0), half(block, 2));
    let scales = scales_and_minima(&block[4..16]);
    for (sub, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = (d * scales[sub].0, dmin * scales[sub].1);
        let codes = &block[48 + sub / 2 * 32..][..32];
        let shift = sub % 2 * 4;
        for ((&code, &fifth), x) in codes.iter().zip(&block[16..48]).zip(out) {
            let code = code >> shift & 15 | (fifth >> sub & 1) << 4;
            *x = scale * f32::from(code) - minimum;
        }
    }
}

/// 128 bytes of low nibbles, 64 bytes of two high bits, 16 signed scales for sub-blocks of 16, f16 `d`:
/// `d · scale · (code − 32)`. 64 and 32 bytes hold 128 numbers in four runs of 32: low nibbles of the first and the
/// second 32 bytes, then their high nibbles; the high bits from the lowest up.
#[inline(always)]
pub(super) fn decode_6(block: &[u8; 210], out: &mut [f32; N]) {
    let d = half(block, 208);
    for (sub, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (part, run, side) = (sub / 8, sub % 8 / 2, sub % 2 * 16);
        let scale = d * f32::from(block[192 + sub] as i8);
        let low = &block[part * 64 + run % 2 * 32 + side..][..16];
        let high = &block[128 + part * 32 + side..][..16];
        let (low_shift, high_shift) = (run / 2 * 4, run * 2);
        for ((&low, &high), x) in low.iter().zip(high).zip(out) {
            let code = low >> low_shift & 15 | (high >> high_shift & 3) << 4;
            *x = scale * (f32::from(code) - 32.0);
        }
    }
}
