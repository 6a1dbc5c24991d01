//! Q4_0 and Q4_1: 32 numbers of four bits with an f16 scale, the second with an f16 minimum too. Byte `j` of the codes
//! holds number `j` in its low nibble and number `j + 16` in its high one.

use super::ends::{self, Codes, Search};
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

/// How Q4_0 is made.
pub(super) struct Type0;

impl ends::Type<18> for Type0 {
    const SEARCH: Search = Search::Even(8);

    #[inline(always)]
    fn codes(x: &[f32; 32]) -> Codes {
        ends::by_farthest::<15>(x)
    }

    #[inline(always)]
    fn write(d: u16, _: u16, codes: &[u8; 32], block: &mut [u8; 18]) {
        half_to(block, 0, d);
        nibbles(codes, &mut block[2..]);
    }
}

/// How Q4_1 is made.
pub(super) struct Type1;

impl ends::Type<20> for Type1 {
    const SEARCH: Search = ends::affine(15.0);

    #[inline(always)]
    fn codes(x: &[f32; 32]) -> Codes {
        ends::by_range::<15>(x)
    }

    #[inline(always)]
    fn write(d: u16, m: u16, codes: &[u8; 32], block: &mut [u8; 20]) {
        half_to(block, 0, d);
        half_to(block, 2, m);
        nibbles(codes, &mut block[4..]);
    }
}

/// Code `j` beside code `j + 16`.
#[inline(always)]
pub(super) fn nibbles(codes: &[u8; 32], to: &mut [u8]) {
    let (low, high) = codes.split_at(16);
    for ((&low, &high), to) in low.iter().zip(high).zip(to) {
        *to = low & 15 | high << 4;
    }
}
