//! The I types of one to three bits: a code names a group of eight or four magnitudes in a grid, signs are stored beside
//! it. 256 numbers a block, one f16 scale, a small scale for each 16 or 32.

#[rustfmt::skip]
mod grids;

use super::half;

/// Numbers of a block.
const N: usize = 256;

static IQ2_XXS: [[f32; 8]; 256] = expanded(&grids::IQ2_XXS, &[8.0, 25.0, 43.0], 2);
static IQ2_XS: [[f32; 8]; 512] = expanded(&grids::IQ2_XS, &[8.0, 25.0, 43.0], 2);
static IQ2_S: [[f32; 8]; 1024] = expanded(&grids::IQ2_S, &[8.0, 25.0, 43.0], 2);
static IQ3_XXS: [[f32; 4]; 256] =
    expanded(&grids::IQ3_XXS, &[4.0, 12.0, 20.0, 28.0, 36.0, 44.0, 52.0, 62.0], 3);
static IQ3_S: [[f32; 4]; 512] = expanded(&grids::IQ3_S, &[1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0], 3);
static IQ1: [[f32; 8]; 2048] = expanded(&grids::IQ1, &[-1.0, 0.0, 1.0], 2);

/// The groups of a grid as numbers.
const fn expanded<const GROUPS: usize, const SIZE: usize>(
    packed: &[u16; GROUPS],
    levels: &[f32],
    bits: usize,
) -> [[f32; SIZE]; GROUPS] {
    let mut out = [[0.0; SIZE]; GROUPS];
    let mut group = 0;
    while group < GROUPS {
        let mut place = 0;
        while place < SIZE {
            out[group][place] = levels[packed[group] as usize >> (place * bits) & ((1 << bits) - 1)];
            place += 1;
        }
        group += 1;
    }
    out
}

/// Eight signs from seven bits: the eighth makes the number of minus signs even.
#[inline(always)]
fn even_signs(bits: u32) -> u8 {
    let seven = (bits & 0x7f) as u8;
    seven | ((seven.count_ones() & 1) as u8) << 7
}

/// The sign bits of eight numbers from the bits of a byte. Looked up, for vectors of the oldest kind cannot shift each
/// element by a count of its own.
static SIGNS: [[u32; 8]; 256] = {
    let mut table = [[0; 8]; 256];
    let mut n = 0;
    while n < 256 * 8 {
        table[n / 8][n % 8] = (((n / 8) >> (n % 8) & 1) as u32) << 31;
        n += 1;
    }
    table
};

/// A group times its scale; a sign bit that is set negates.
#[inline(always)]
fn signed<const SIZE: usize>(group: &[f32; SIZE], scale: f32, signs: u8, out: &mut [f32; SIZE]) {
    for ((&value, sign), x) in group.iter().zip(&SIGNS[usize::from(signs)]).zip(out) {
        *x = f32::from_bits((scale * value).to_bits() ^ sign);
    }
}

#[inline(always)]
fn word<const B: usize>(block: &[u8; B], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

#[inline(always)]
fn short<const B: usize>(block: &[u8; B], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

/// f16 `d`; for each 32 numbers four bytes that name groups and a u32: four times seven bits of signs, four of scale
/// above them. `d · (scale + ½) / 4 · ±magnitude`.
pub(super) fn decode_2xxs(block: &[u8; 66], out: &mut [f32; N]) {
    let d = half(block, 0);
    for (sub, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let at = 2 + sub * 8;
        let rest = word(block, at + 4);
        let scale = d * (0.5 + (rest >> 28) as f32) * 0.25;
        for (l, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            signed(&IQ2_XXS[usize::from(block[at + l])], scale, even_signs(rest >> (7 * l)), out);
        }
    }
}

/// f16 `d`; for each 8 numbers a u16: nine bits name the group, seven are signs; 8 bytes of scales, a nibble for each 16.
/// `d · (scale + ½) / 4 · ±magnitude`.
pub(super) fn decode_2xs(block: &[u8; 74], out: &mut [f32; N]) {
    let d = half(block, 0);
    for (l, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let code = short(block, 2 + l * 2);
        let scale = block[66 + l / 4] >> (l / 2 % 2 * 4) & 15;
        let scale = d * (0.5 + f32::from(scale)) * 0.25;
        signed(&IQ2_XS[usize::from(code & 511)], scale, even_signs(u32::from(code >> 9)), out);
    }
}

/// f16 `d`, 32 bytes that name groups, 32 bytes of signs, 8 bytes with the names' two high bits, 8 bytes of scales as in
/// IQ2_XS.
pub(super) fn decode_2s(block: &[u8; 82], out: &mut [f32; N]) {
    let d = half(block, 0);
    for (l, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let high = block[66 + l / 4] >> (l % 4 * 2) & 3;
        let group = usize::from(block[2 + l]) | usize::from(high) << 8;
        let scale = block[74 + l / 4] >> (l / 2 % 2 * 4) & 15;
        let scale = d * (0.5 + f32::from(scale)) * 0.25;
        signed(&IQ2_S[group], scale, block[34 + l], out);
    }
}

/// f16 `d`, 64 bytes that name groups of four, then for each 32 numbers a u32 of signs and scale as in IQ2_XXS.
/// `d · (scale + ½) / 2 · ±magnitude`.
pub(super) fn decode_3xxs(block: &[u8; 98], out: &mut [f32; N]) {
    let d = half(block, 0);
    for (sub, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let rest = word(block, 66 + sub * 4);
        let scale = d * (0.5 + (rest >> 28) as f32) * 0.5;
        for (l, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let signs = even_signs(rest >> (7 * l));
            for (side, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let group = block[2 + sub * 8 + l * 2 + side];
                signed(&IQ3_XXS[usize::from(group)], scale, signs >> (4 * side), out);
            }
        }
    }
}

/// f16 `d`, 64 bytes that name groups of four, 8 bytes with the names' high bits, 32 bytes of signs, 4 bytes of scales, a
/// nibble for each 32. `d · (2 · scale + 1) · ±magnitude`.
pub(super) fn decode_3s(block: &[u8; 110], out: &mut [f32; N]) {
    let d = half(block, 0);
    for (sub, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let scale = block[106 + sub / 2] >> (sub % 2 * 4) & 15;
        let scale = d * f32::from(1 + 2 * scale);
        for (k, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let high = usize::from(block[66 + sub] >> k & 1);
            let group = usize::from(block[2 + sub * 8 + k]) | high << 8;
            let signs = block[74 + sub * 4 + k / 2] >> (k % 2 * 4);
            signed(&IQ3_S[group], scale, signs, out);
        }
    }
}

/// What IQ1 adds to all values of a group, or takes from them.
const IQ1_SHIFT: f32 = 0.125;

#[inline(always)]
fn shifted(group: &[f32; 8], scale: f32, minus: bool, out: &mut [f32; 8]) {
    let shift = if minus { -IQ1_SHIFT } else { IQ1_SHIFT };
    for (&value, x) in group.iter().zip(out) {
        *x = scale * (value + shift);
    }
}

/// f16 `d`, 32 bytes that name groups, for each 32 numbers a u16: four times the names' three high bits, three of scale,
/// one for a negative shift. `d · (2 · scale + 1) · (value ± ⅛)`.
pub(super) fn decode_1s(block: &[u8; 50], out: &mut [f32; N]) {
    let d = half(block, 0);
    for (l, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let rest = short(block, 34 + l / 4 * 2);
        let scale = d * f32::from(2 * (rest >> 12 & 7) + 1);
        let group = usize::from(block[2 + l]) | usize::from(rest >> (3 * (l % 4)) & 7) << 8;
        shifted(&IQ1[group], scale, rest & 0x8000 != 0, out);
    }
}

/// 32 bytes that name groups, 16 bytes with a nibble for each group (its name's three high bits, a negative shift), four
/// u16 of which each holds four 3-bit scales, each for 16 numbers, and above them four bits of the f16 `d`.
/// `d · (2 · scale + 1) · (value ± ⅛)`.
pub(super) fn decode_1m(block: &[u8; 56], out: &mut [f32; N]) {
    let scales: [u16; 4] = std::array::from_fn(|i| short(block, 48 + i * 2));
    let bits = (0..4).fold(0, |bits, i| bits | scales[i] >> 12 << (4 * i));
    let d = crate::transform::cast::f16_to_f32(bits);
    for (l, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let scale = d * f32::from(2 * (scales[l / 8] >> (3 * (l / 2 % 4)) & 7) + 1);
        let rest = block[32 + l / 2] >> (l % 2 * 4);
        let group = usize::from(block[l]) | usize::from(rest & 7) << 8;
        shifted(&IQ1[group], scale, rest & 8 != 0, out);
    }
}
