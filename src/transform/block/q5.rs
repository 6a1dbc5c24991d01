//! Q5_0 and Q5_1: Q4_0 and Q4_1 with a fifth bit for each number, kept apart: bit `j` of a little-endian u32.

use super::half;

/// f16 `d`, u32 of fifth bits, 16 bytes of codes: `(code − 16) · d`.
#[inline(always)]
pub(super) fn decode_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half(block, 0);
    let fifth = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    codes(&block[6..], fifth, out, |code| (code - 16.0) * d);
}

/// f16 `d`, f16 `m`, u32 of fifth bits, 16 bytes of codes: `code · d + m`.
#[inline(always)]
pub(super) fn decode_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    let fifth = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    codes(&block[8..], fifth, out, |code| code * d + m);
}

/// The 32 codes of 0 to 31, each made a number.
#[inline(always)]
fn codes(nibbles: &[u8], fifth: u32, out: &mut [f32; 32], number: impl Fn(f32) -> f32) {
    let (low, high) = out.split_at_mut(16);
    for (j, ((&nibble, low), high)) in nibbles.iter().zip(low).zip(high).enumerate() {
        let code = |nibble: u8, place: usize| (u32::from(nibble) | (fifth >> place & 1) << 4) as f32;
        *low = number(code(nibble & 15, j));
        *high = number(code(nibble >> 4, j + 16));
    }
}
