//! Q4_0 and Q4_1: 32 numbers of four bits with an f16 scale, the second with an f16 minimum too. Byte `j` of the codes
//! holds number `j` in its low nibble and number `j + 16` in its high one.

use super::half;

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
