//! Q5_0 and Q5_1: Q4_0 and Q4_1 with a fifth bit for each number, kept apart: bit `j` of a little-endian u32.

use super::ends::{self, Codes, Search};
use super::q4::nibbles;
use super::{half, half_to};

/// f16 `d`, u32 of fifth bits, 16 bytes of codes: `(code − 16) · d`.
#[inline(always)]
pub(super) fn decode_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half(block, 0);
    let (_, rest) = block.split_at(2);
    fifth_bits_and_nibbles(rest, out, |code| (code - 16.0) * d);
}

/// f16 `d`, f16 `m`, u32 of fifth bits, 16 bytes of codes: `code · d + m`.
#[inline(always)]
pub(super) fn decode_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    let (_, rest) = block.split_at(4);
    fifth_bits_and_nibbles(rest, out, |code| code * d + m);
}

/// What the eight bits of a byte add to eight codes: 16 or nothing. Looked up, for vectors of the oldest kind cannot
/// shift each element by a count of its own.
static FIFTHS: [[u8; 8]; 256] = {
    let mut table = [[0; 8]; 256];
    let mut n = 0;
    while n < 256 * 8 {
        table[n / 8][n % 8] = (((n / 8) >> (n % 8) & 1) as u8) << 4;
        n += 1;
    }
    table
};

/// The 32 codes of 0 to 31, each made a number.
#[inline(always)]
fn fifth_bits_and_nibbles(bytes: &[u8], out: &mut [f32; 32], number: impl Fn(f32) -> f32) {
    let (fifths, nibbles) = bytes.split_at(4);
    let mut codes = [0u8; 32];
    let (low, high) = codes.split_at_mut(16);
    for ((&nibble, low), high) in nibbles.iter().zip(low).zip(high) {
        *low = nibble & 15;
        *high = nibble >> 4;
    }
    for (codes, byte) in codes.as_chunks_mut::<8>().0.iter_mut().zip(fifths) {
        for (code, bit) in codes.iter_mut().zip(FIFTHS[usize::from(*byte)]) {
            *code |= bit;
        }
    }
    for (&code, x) in codes.iter().zip(out) {
        *x = number(f32::from(code));
    }
}

/// How Q5_0 is made.
pub(super) struct Type0;

impl ends::Type<22> for Type0 {
    const SEARCH: Search = Search::Even(16);

    #[inline(always)]
    fn codes(x: &[f32; 32]) -> Codes {
        ends::by_farthest::<31>(x)
    }

    #[inline(always)]
    fn write(d: u16, _: u16, codes: &[u8; 32], block: &mut [u8; 22]) {
        half_to(block, 0, d);
        fifths(codes, &mut block[2..6]);
        nibbles(codes, &mut block[6..]);
    }
}

/// How Q5_1 is made.
pub(super) struct Type1;

impl ends::Type<24> for Type1 {
    const SEARCH: Search = ends::affine(31.0);

    #[inline(always)]
    fn codes(x: &[f32; 32]) -> Codes {
        ends::by_range::<31>(x)
    }

    #[inline(always)]
    fn write(d: u16, m: u16, codes: &[u8; 32], block: &mut [u8; 24]) {
        half_to(block, 0, d);
        half_to(block, 2, m);
        fifths(codes, &mut block[4..8]);
        nibbles(codes, &mut block[8..]);
    }
}

/// The fifth bits of the codes.
#[inline(always)]
fn fifths(codes: &[u8; 32], to: &mut [u8]) {
    for (codes, to) in codes.as_chunks::<8>().0.iter().zip(to) {
        // Byte `j` is a bit at place 8 j, and times 2^(56 − 7 j) at place 56 + j.
        let bits = u64::from_le_bytes(*codes) >> 4 & 0x0101_0101_0101_0101;
        *to = (bits.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8;
    }
}
