//! What there is one of for each group: scales, integer zero points, biases. Few beside the codes.

use super::super::{Axes, Band, Content, Face, Held, Packing, Stored};
use super::codes::neighbour;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::transform::cast;

/// Added to whole words of zero points that are stored less one.
fn carry(bits: u32) -> u32 {
    match bits {
        4 => 0x1111_1111,
        8 => 0x0101_0101,
        _ => 0,
    }
}

fn middle(bits: u32) -> i32 {
    1 << (bits.clamp(1, 8) - 1)
}

/// 2^(e − 127); 255 is no number.
fn power(e: u8) -> f32 {
    match e {
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        e => f32::from_bits(u32::from(e) << 23),
    }
}

/// Any float type to f32.
fn widen(from: DType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    if from == DType::F32 {
        for (x, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *x = f32::from_le_bytes(*b);
        }
    } else if from == DType::U8 {
        out.iter_mut().zip(bytes).for_each(|(x, &b)| *x = f32::from(b));
    } else if cast::can_cast(from, DType::F32) {
        let size = (out.len() * from.facts().block_bytes as usize).min(bytes.len());
        cast::cast(from, DType::F32, &bytes[..size], bytemuck::cast_slice_mut(out), false);
    } else {
        return Err(Error::bug(format!("no scales are `{from}`")));
    }
    Ok(())
}

fn narrow(numbers: &[f32], to: DType, out: &mut [u8]) {
    if to == DType::F32 {
        super::fill(out, numbers);
    } else if to == DType::U8 {
        out.iter_mut().zip(numbers).for_each(|(b, &x)| *b = x as u8);
    } else if cast::can_cast(DType::F32, to) {
        let size = (numbers.len() * to.facts().block_bytes as usize).min(out.len());
        cast::cast(DType::F32, to, bytemuck::cast_slice(numbers), &mut out[..size], false);
    }
}

/// Reads one of them into its place in the band.
pub(super) fn read(
    packing: &Packing,
    face: usize,
    facts: &Face,
    rows: usize,
    bytes: &[u8],
    band: &mut Band,
) -> Result<()> {
    let (scale_rows, width) = packing.scale_grid(rows);
    let into = match facts.content {
        Content::Scales => &mut band.scales,
        _ => &mut band.zeros,
    };
    into.clear();
    into.resize(scale_rows * width, 0.0);
    if into.is_empty() {
        return Ok(());
    }
    if facts.pack.is_some() {
        words(packing, face, facts, (scale_rows, width), bytes, into);
        return Ok(());
    }
    if facts.stored == Stored::Exponent {
        into.iter_mut().zip(bytes).for_each(|(x, &e)| *x = power(e));
        return Ok(());
    }
    if facts.content == Content::Zeros {
        // One signed byte each.
        let middle = if facts.held == Held::Signed { middle(packing.bits) } else { 0 };
        into.iter_mut().zip(bytes).for_each(|(x, &b)| *x = (i32::from(b as i8) + middle) as f32);
        return Ok(());
    }
    let dtype = packing.face_dtype(face);
    if facts.axes != Axes::Turned {
        return widen(dtype, bytes, into);
    }
    let mut turned = vec![0.0; into.len()];
    widen(dtype, bytes, &mut turned)?;
    for (group, line) in turned.chunks_exact(scale_rows).enumerate() {
        for (row, &x) in into.chunks_exact_mut(width).zip(line) {
            row[group] = x;
        }
    }
    Ok(())
}

/// Writes one of them from the band.
pub(super) fn write(packing: &Packing, face: usize, facts: &Face, rows: usize, band: &Band, out: &mut [u8]) {
    let (scale_rows, width) = packing.scale_grid(rows);
    let from = match facts.content {
        Content::Scales => &band.scales,
        _ => &band.zeros,
    };
    let Some(from) = from.get(..scale_rows * width) else { return };
    if from.is_empty() {
        return;
    }
    let multiplied: Vec<f32>;
    let from = match facts.content == Content::Scales && packing.layout.find(Content::Global).is_some() {
        // Rounding to eight bits takes away what the division and this leave over.
        true => {
            multiplied = from.iter().map(|x| x * band.global).collect();
            &multiplied
        }
        false => from,
    };
    if facts.pack.is_some() {
        into_words(packing, face, facts, (scale_rows, width), from, out);
    } else if facts.stored == Stored::Exponent {
        let exponent = |x: f32| if x.is_finite() { (x.to_bits() >> 23) as u8 } else { 255 };
        out.iter_mut().zip(from).for_each(|(b, &x)| *b = exponent(x));
    } else if facts.content == Content::Zeros {
        let middle = if facts.held == Held::Signed { middle(packing.bits) } else { 0 };
        out.iter_mut().zip(from).for_each(|(b, &x)| *b = (x as i32 - middle) as i8 as u8);
    } else if facts.axes != Axes::Turned {
        narrow(from, packing.face_dtype(face), out);
    } else {
        let mut turned = Vec::with_capacity(from.len());
        for group in 0..width {
            turned.extend(from.chunks_exact(width).map(|row| row[group]));
        }
        narrow(&turned, packing.face_dtype(face), out);
    }
}

/// Where the word of so many units and such a group is.
fn place(facts: &Face, units: usize, width: usize, unit: usize, group: usize) -> usize {
    if facts.axes == Axes::Turned { group * units + unit } else { unit * width + group }
}

/// Zero points that share words along the rows.
fn words(
    packing: &Packing,
    face: usize,
    facts: &Face,
    (rows, width): (usize, usize),
    bytes: &[u8],
    into: &mut [f32],
) {
    let (per, bits) = (packing.per_element(face) as usize, packing.bits);
    let units = rows.div_ceil(per);
    let (all, mask) = (bytes.as_chunks::<4>().0, ((1u64 << bits) - 1) as u32);
    let order = facts.pack.map_or(&[][..], |pack| pack.order);
    let one = if facts.held == Held::LessOne { carry(bits) } else { 0 };
    for (unit, rows) in into.chunks_mut(per * width).enumerate() {
        for group in 0..width {
            let Some(word) = all.get(place(facts, units, width, unit, group)) else { continue };
            let word = u32::from_le_bytes(*word).wrapping_add(one);
            for nth in 0..per {
                if let Some(x) = rows.get_mut(neighbour(order, nth) * width + group) {
                    *x = (word >> (nth as u32 * bits) & mask) as f32;
                }
            }
        }
    }
}

/// The inverse of [`words`]; rows that are not there are zero.
fn into_words(
    packing: &Packing,
    face: usize,
    facts: &Face,
    (rows, width): (usize, usize),
    from: &[f32],
    out: &mut [u8],
) {
    let (per, bits) = (packing.per_element(face) as usize, packing.bits);
    let units = rows.div_ceil(per);
    let (all, mask) = (out.as_chunks_mut::<4>().0, ((1u64 << bits) - 1) as u32);
    let order = facts.pack.map_or(&[][..], |pack| pack.order);
    let one = if facts.held == Held::LessOne { carry(bits) } else { 0 };
    for (unit, rows) in from.chunks(per * width).enumerate() {
        for group in 0..width {
            let mut word = 0u32;
            for nth in 0..per {
                if let Some(&x) = rows.get(neighbour(order, nth) * width + group) {
                    word |= (x as u32 & mask) << (nth as u32 * bits);
                }
            }
            if let Some(into) = all.get_mut(place(facts, units, width, unit, group)) {
                *into = word.wrapping_sub(one).to_le_bytes();
            }
        }
    }
}
