//! Q4_0 and Q4_1: 32 numbers of four bits with an f16 scale, the second with an f16 minimum too. Byte `j` of the codes
//! holds number `j` in its low nibble and number `j + 16` in its high one.

use super::ends::{self, Ends, Search, Weighed};
use super::simd;
use super::weighing::Importance;
use super::{half, half_to};

/// f16 `d`, 16 bytes of codes: `(code − 8) · d`.
#[inline(always)]
pub(super) fn decode_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half(block, 0);
    let (low, high) = out.split_at_mut(16);
    for ((&code, low), high) in block[2..].iter().zip(low).zip(high) {
        *low = (f32::from(code & 15) - 8.0) * d;
        *high = (f32::from(code >> 4) - 8.0) * d;
    }
}

/// f16 `d`, f16 `m`, 16 bytes of codes: `code · d + m`.
#[inline(always)]
pub(super) fn decode_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    let (low, high) = out.split_at_mut(16);
    for ((&code, low), high) in block[4..].iter().zip(low).zip(high) {
        *low = f32::from(code & 15) * d + m;
        *high = f32::from(code >> 4) * d + m;
    }
}

pub(super) fn encode_0(numbers: &[f32], out: &mut [u8], importance: Option<Importance>) -> u64 {
    match importance {
        Some(importance) => {
            simd::run(Weighed::<18> { numbers, out, importance, search: Search::Even(8), write: write_0 })
        }
        None => simd::run(Ends { numbers, out, codes: |x: &_| ends::by_farthest(x, 8.0), write: write_0 }),
    }
}

pub(super) fn encode_1(numbers: &[f32], out: &mut [u8], importance: Option<Importance>) -> u64 {
    match importance {
        Some(importance) => {
            simd::run(Weighed::<20> { numbers, out, importance, search: ends::affine(15.0), write: write_1 })
        }
        None => simd::run(Ends { numbers, out, codes: |x: &_| ends::by_range(x, 15.0), write: write_1 }),
    }
}

#[inline(always)]
fn write_0(d: u16, _: u16, codes: &[u8; 32], block: &mut [u8; 18]) {
    half_to(block, 0, d);
    nibbles(codes, &mut block[2..]);
}

#[inline(always)]
fn write_1(d: u16, m: u16, codes: &[u8; 32], block: &mut [u8; 20]) {
    half_to(block, 0, d);
    half_to(block, 2, m);
    nibbles(codes, &mut block[4..]);
}

/// Code `j` beside code `j + 16`.
#[inline(always)]
pub(super) fn nibbles(codes: &[u8; 32], to: &mut [u8]) {
    let (low, high) = codes.split_at(16);
    for ((&low, &high), to) in low.iter().zip(high).zip(to) {
        *to = low & 15 | high << 4;
    }
}
