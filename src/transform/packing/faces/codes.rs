//! Codes: from the words of a face to one byte each and back.
//!
//! Rows of codes that lie one behind the other are a stream of bits, lowest first, which is read by bytes. Turned faces are
//! transposed on the way, in tiles of a cache line: eight codes leave a word as one u64.

use super::super::{Along, Axes, Face, Held, Packing};
use crate::error::{Error, Result};
use crate::transform::simd::{Kernel, Level, run};

/// Columns of a tile: a cache line of codes.
const TILE: usize = 64;

fn unknown() -> Error {
    Error::bug("codes that lie in no known order")
}

/// Fills `codes`, `[rows, columns]`.
pub(super) fn read(
    packing: &Packing,
    face: usize,
    facts: &Face,
    rows: usize,
    bytes: &[u8],
    codes: &mut [u8],
) -> Result<()> {
    let columns = packing.columns as usize;
    if columns == 0 || rows == 0 {
        return Ok(());
    }
    let bits = packing.bits;
    let Some(pack) = facts.pack else {
        return read_bytes(bits, facts.held, bytes, codes);
    };
    let flip = flip(facts.held, bits);
    match (facts.axes, pack.along) {
        (Axes::Straight | Axes::Single, Along::Columns) => {
            let upper_first = pack.order == [1, 0];
            let row_bytes = (packing.width(face) * packing.element_bytes(face)) as usize;
            if facts.axes == Axes::Single || row_bytes * 8 == columns * bits as usize {
                unpack(bits, upper_first, flip, bytes, codes);
            } else {
                for (row, codes) in bytes.chunks(row_bytes.max(1)).zip(codes.chunks_mut(columns)) {
                    unpack(bits, upper_first, flip, row, codes);
                }
            }
            Ok(())
        }
        (Axes::Turned, Along::Columns) if matches!(bits, 4 | 8) => {
            turned_rows(bits, rows, columns, bytes, codes);
            Ok(())
        }
        (Axes::Turned, Along::Rows) if matches!(bits, 4 | 8) => {
            turned_columns(bits, pack.order, rows, columns, bytes, codes);
            Ok(())
        }
        _ => Err(unknown()),
    }
}

/// Fills `out` from `codes`, `[rows, columns]`.
pub(super) fn write(packing: &Packing, face: usize, facts: &Face, rows: usize, codes: &[u8], out: &mut [u8]) {
    let columns = packing.columns as usize;
    if columns == 0 || rows == 0 {
        return;
    }
    let bits = packing.bits;
    let Some(pack) = facts.pack else {
        let middle = match facts.held {
            Held::Signed => 1u8 << (bits.clamp(1, 8) - 1),
            _ => 0,
        };
        for (place, &code) in out.iter_mut().zip(codes) {
            *place = code.wrapping_sub(middle);
        }
        return;
    };
    let flip = flip(facts.held, bits);
    match (facts.axes, pack.along) {
        (Axes::Straight | Axes::Single, Along::Columns) => {
            let upper_first = pack.order == [1, 0];
            let row_bytes = (packing.width(face) * packing.element_bytes(face)) as usize;
            if facts.axes == Axes::Single || row_bytes * 8 == columns * bits as usize {
                repack(bits, upper_first, flip, codes, out);
            } else {
                for (row, codes) in out.chunks_mut(row_bytes.max(1)).zip(codes.chunks(columns)) {
                    repack(bits, upper_first, flip, codes, row);
                }
            }
        }
        (Axes::Turned, Along::Columns) => into_turned_rows(bits, rows, columns, codes, out),
        (Axes::Turned, Along::Rows) => into_turned_columns(bits, pack.order, rows, columns, codes, out),
        _ => {}
    }
}

/// What a code is combined with where codes are signed: two's complement and counting from the lowest differ in the top bit.
fn flip(held: Held, bits: u32) -> u8 {
    if held == Held::Signed { 1 << (bits.clamp(1, 8) - 1) } else { 0 }
}

/// A byte for each code already.
fn read_bytes(bits: u32, held: Held, bytes: &[u8], codes: &mut [u8]) -> Result<()> {
    let middle = flip(held, bits);
    let mut all = 0;
    for (code, &byte) in codes.iter_mut().zip(bytes) {
        *code = byte.wrapping_add(middle);
        all |= *code;
    }
    if bits < 8 && all >> bits > 0 {
        return Err(Error::bad_input(format!("holds a code that has more than {bits} bits")));
    }
    Ok(())
}

/// A stream of bits to codes; as many as both hold.
fn unpack(bits: u32, upper_first: bool, flip: u8, bytes: &[u8], codes: &mut [u8]) {
    match bits {
        4 => {
            let (low, high) = if upper_first { (4, 0) } else { (0, 4) };
            let (pairs, rest) = codes.as_chunks_mut::<2>();
            for (pair, &byte) in pairs.iter_mut().zip(bytes) {
                *pair = [(byte >> low & 15) ^ flip, (byte >> high & 15) ^ flip];
            }
            if let ([last], Some(&byte)) = (rest, bytes.get(pairs.len())) {
                *last = (byte >> low & 15) ^ flip;
            }
        }
        8 => codes.iter_mut().zip(bytes).for_each(|(code, &byte)| *code = byte ^ flip),
        2 => unpack_eights::<2>(flip, bytes, codes),
        3 => unpack_eights::<3>(flip, bytes, codes),
        5 => unpack_eights::<5>(flip, bytes, codes),
        6 => unpack_eights::<6>(flip, bytes, codes),
        _ => {}
    }
}

/// Eight codes of `B` bits are `B` bytes.
fn unpack_eights<const B: usize>(flip: u8, bytes: &[u8], codes: &mut [u8]) {
    let each = |bytes: &[u8], eight: &mut [u8]| {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        let word = u64::from_le_bytes(word);
        for (place, code) in eight.iter_mut().enumerate() {
            *code = (word >> (place * B)) as u8 & ((1 << B) - 1) ^ flip;
        }
    };
    let (eights, rest) = codes.as_chunks_mut::<8>();
    let (words, tail) = bytes.as_chunks::<B>();
    eights.iter_mut().zip(words).for_each(|(eight, bytes)| each(bytes, eight));
    let behind = if words.len() > eights.len() { &words[eights.len()][..] } else { tail };
    each(behind, rest);
}

/// The inverse of [`unpack_eights`]; returns how many bytes it wrote.
fn repack_eights<const B: usize>(flip: u8, codes: &[u8], out: &mut [u8]) -> usize {
    let each = |eight: &[u8]| {
        let mut word = 0;
        for (place, &code) in eight.iter().enumerate() {
            word |= u64::from((code ^ flip) & ((1 << B) - 1)) << (place * B);
        }
        word.to_le_bytes()
    };
    let (eights, rest) = codes.as_chunks::<8>();
    let (words, tail) = out.as_chunks_mut::<B>();
    for (word, eight) in words.iter_mut().zip(eights) {
        word.copy_from_slice(&each(eight)[..B]);
    }
    let mut used = B * words.len().min(eights.len());
    if !rest.is_empty() {
        let place = if words.len() > eights.len() { &mut words[eights.len()][..] } else { tail };
        let size = (rest.len() * B).div_ceil(8).min(place.len());
        place[..size].copy_from_slice(&each(rest)[..size]);
        used += size;
    }
    used
}

/// Codes to a stream of bits; what is left of `out` becomes zero.
fn repack(bits: u32, upper_first: bool, flip: u8, codes: &[u8], out: &mut [u8]) {
    let mut used = 0;
    match bits {
        4 => {
            let level = Level::best();
            used = match upper_first {
                true => run(level, Nibbles::<true> { flip, codes, out }),
                false => run(level, Nibbles::<false> { flip, codes, out }),
            };
        }
        8 => {
            out.iter_mut().zip(codes).for_each(|(byte, &code)| *byte = code ^ flip);
            used = codes.len();
        }
        2 => used = repack_eights::<2>(flip, codes, out),
        3 => used = repack_eights::<3>(flip, codes, out),
        5 => used = repack_eights::<5>(flip, codes, out),
        6 => used = repack_eights::<6>(flip, codes, out),
        _ => {}
    }
    if let Some(rest) = out.get_mut(used..) {
        rest.fill(0);
    }
}

/// Codes of four bits, two to a byte; with `U` the first of them above the second. Gives how many bytes it wrote.
struct Nibbles<'a, const U: bool> {
    flip: u8,
    codes: &'a [u8],
    out: &'a mut [u8],
}

impl<const U: bool> Kernel for Nibbles<'_, U> {
    type Out = usize;

    #[inline(always)]
    fn run(self) -> usize {
        let Nibbles { flip, codes, out } = self;
        // Eight codes are four bytes.
        let (eights, rest) = codes.as_chunks::<8>();
        let (words, tail) = out.as_chunks_mut::<4>();
        for (word, eight) in words.iter_mut().zip(eights) {
            *word = word_of::<U>(*eight, flip);
        }
        let mut last = [flip; 8];
        last[..rest.len()].copy_from_slice(rest);
        let last = word_of::<U>(last, flip);
        let used = 4 * words.len().min(eights.len());
        let place = if words.len() > eights.len() { &mut words[eights.len()][..] } else { tail };
        let size = rest.len().div_ceil(2).min(place.len());
        place[..size].copy_from_slice(&last[..size]);
        used + size
    }
}

#[inline(always)]
fn word_of<const U: bool>(eight: [u8; 8], flip: u8) -> [u8; 4] {
    let word = gathered(u64::from_le_bytes(eight) ^ u64::from_le_bytes([flip; 8]));
    let word = if U { (word & 0x0f0f_0f0f) << 4 | (word >> 4) & 0x0f0f_0f0f } else { word };
    word.to_le_bytes()
}

/// The eight nibbles of a word, lowest first, as bytes, lowest first.
#[inline(always)]
fn spread(word: u32) -> u64 {
    let x = u64::from(word);
    let x = (x | x << 16) & 0x0000_ffff_0000_ffff;
    let x = (x | x << 8) & 0x00ff_00ff_00ff_00ff;
    (x | x << 4) & 0x0f0f_0f0f_0f0f_0f0f
}

/// The inverse of [`spread`]; upper halves of bytes are dropped.
#[inline(always)]
fn gathered(bytes: u64) -> u32 {
    let x = bytes & 0x0f0f_0f0f_0f0f_0f0f;
    let x = (x | x >> 4) & 0x00ff_00ff_00ff_00ff;
    let x = (x | x >> 8) & 0x0000_ffff_0000_ffff;
    (x | x >> 16) as u32
}

/// `[columns / per, rows]` words, neighbours of a row in a word, to `[rows, columns]`.
fn turned_rows(bits: u32, rows: usize, columns: usize, bytes: &[u8], codes: &mut [u8]) {
    let per = (32 / bits) as usize;
    let lines: Vec<&[[u8; 4]]> = bytes.chunks_exact(rows * 4).map(|line| line.as_chunks().0).collect();
    for (tile, lines) in lines.chunks(TILE / per).enumerate() {
        let first = tile * TILE;
        for (row, codes) in codes.chunks_mut(columns).enumerate() {
            let Some(codes) = codes.get_mut(first..) else { continue };
            if bits == 4 {
                for (codes, line) in codes.chunks_mut(8).zip(lines) {
                    let eight = spread(u32::from_le_bytes(line[row])).to_le_bytes();
                    match codes.first_chunk_mut::<8>() {
                        Some(codes) => *codes = eight,
                        None => codes.copy_from_slice(&eight[..codes.len()]),
                    }
                }
            } else {
                for (codes, line) in codes.chunks_mut(4).zip(lines) {
                    match codes.first_chunk_mut::<4>() {
                        Some(codes) => *codes = line[row],
                        None => codes.copy_from_slice(&line[row][..codes.len()]),
                    }
                }
            }
        }
    }
}

/// The inverse of [`turned_rows`]; columns that are not there are zero.
fn into_turned_rows(bits: u32, rows: usize, columns: usize, codes: &[u8], out: &mut [u8]) {
    if !matches!(bits, 4 | 8) {
        return;
    }
    let per = (32 / bits) as usize;
    let mut lines: Vec<&mut [[u8; 4]]> =
        out.chunks_exact_mut(rows * 4).map(|line| line.as_chunks_mut().0).collect();
    for (tile, lines) in lines.chunks_mut(TILE / per).enumerate() {
        let first = tile * TILE;
        for (row, codes) in codes.chunks(columns).take(rows).enumerate() {
            let Some(codes) = codes.get(first..) else { continue };
            for (codes, line) in codes.chunks(per).zip(lines.iter_mut()) {
                line[row] = if bits == 4 {
                    let eight = codes.first_chunk::<8>().copied().unwrap_or_else(|| {
                        let mut eight = [0; 8];
                        eight[..codes.len()].copy_from_slice(codes);
                        eight
                    });
                    gathered(u64::from_le_bytes(eight)).to_le_bytes()
                } else {
                    codes.first_chunk::<4>().copied().unwrap_or_else(|| {
                        let mut four = [0; 4];
                        four[..codes.len()].copy_from_slice(codes);
                        four
                    })
                };
            }
        }
    }
}

/// Which neighbour lies in which place of an element.
#[inline(always)]
pub(super) fn neighbour(order: &[u8], place: usize) -> usize {
    order.get(place).map_or(place, |&n| usize::from(n))
}

/// `[columns, rows / per]` words, neighbours of a column in a word, to `[rows, columns]`.
fn turned_columns(bits: u32, order: &[u8], rows: usize, columns: usize, bytes: &[u8], codes: &mut [u8]) {
    let per = (32 / bits) as usize;
    let words = rows.div_ceil(per);
    let mask = ((1u32 << bits) - 1) as u8;
    for (tile, lines) in bytes.chunks(words * 4 * TILE).enumerate() {
        let first = tile * TILE;
        let width = TILE.min(columns.saturating_sub(first));
        let mut column = [0u32; TILE];
        for word in 0..words {
            for (x, line) in column.iter_mut().zip(lines.chunks_exact(words * 4)) {
                let four = line[word * 4..].first_chunk::<4>().copied().unwrap_or_default();
                *x = u32::from_le_bytes(four);
            }
            for place in 0..per {
                let start = (word * per + neighbour(order, place)) * columns + first;
                let Some(codes) = codes.get_mut(start..start + width) else { continue };
                let shift = place as u32 * bits;
                for (code, x) in codes.iter_mut().zip(&column) {
                    *code = (x >> shift) as u8 & mask;
                }
            }
        }
    }
}

/// The inverse of [`turned_columns`]; rows that are not there are zero.
fn into_turned_columns(bits: u32, order: &[u8], rows: usize, columns: usize, codes: &[u8], out: &mut [u8]) {
    if !matches!(bits, 4 | 8) {
        return;
    }
    let per = (32 / bits) as usize;
    let words = rows.div_ceil(per);
    let mask = (1u32 << bits) - 1;
    for (tile, lines) in out.chunks_mut(words * 4 * TILE).enumerate() {
        let first = tile * TILE;
        let width = TILE.min(columns.saturating_sub(first));
        for word in 0..words {
            let mut column = [0u32; TILE];
            for place in 0..per {
                let start = (word * per + neighbour(order, place)) * columns + first;
                let Some(codes) = codes.get(start..start + width) else { continue };
                let shift = place as u32 * bits;
                for (x, &code) in column.iter_mut().zip(codes) {
                    *x |= (u32::from(code) & mask) << shift;
                }
            }
            for (x, line) in column.iter().zip(lines.chunks_exact_mut(words * 4)) {
                if let Some(place) = line[word * 4..].first_chunk_mut::<4>() {
                    *place = x.to_le_bytes();
                }
            }
        }
    }
}
