//! IQ4_NL and IQ4_XS: codes of four bits that stand for sixteen values, closer together near zero.

use super::half;

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
