//! What a band stands for.

use super::super::{Band, Formula, NESTED_BLOCK, Packing};
use crate::dtype::DType;
use crate::transform::cast::{self, f16_to_f32, f32_to_f16, round_bf16};
use crate::transform::simd::{Kernel, Level, run};

/// bitsandbytes' 1 / 127.
const BNB_SHARE: f32 = 7.874_016e-3;

impl Packing {
    /// The numbers that a band stands for, `[rows, columns]`: in f32, not yet rounded to [`Packing::dtype`]. One rounding to it
    /// gives what the layout's own reader gives. A band that lacks a part of what its codes need leaves `out` as it is.
    pub fn numbers(&self, band: &Band, out: &mut [f32]) {
        run(Level::best(), Numbers { packing: self, band, out });
    }

    #[inline(always)]
    fn numbers_of(&self, band: &Band, out: &mut [f32]) {
        let count = band.rows * band.columns;
        let (scale_rows, width) = self.scale_grid(band.rows);
        let groups = scale_rows * width;
        let has_zeros = !band.zeros.is_empty();
        if band.columns as u64 != self.columns
            || count == 0
            || band.codes.len() < count
            || out.len() < count
            || band.scales.len() < groups
            || has_zeros && band.zeros.len() < groups
        {
            return;
        }
        let scales = self.scales(band, groups);
        let scales = scales.as_deref().unwrap_or(&band.scales);
        if let Some(of) = &band.groups {
            return self.scattered(band, of, scales, out);
        }
        let bytes = bytes_table(self.layout.formula);
        let group = self.group_columns.max(1) as usize;
        let (rows, block) = if self.layout.flat {
            (count, 1)
        } else {
            (band.columns, self.group_rows.clamp(1, self.rows.max(1)) as usize)
        };
        let codes = band.codes[..count].chunks_exact(rows).zip(out[..count].chunks_exact_mut(rows));
        for (row, (codes, out)) in codes.enumerate() {
            let first = row / block * width;
            let pieces = codes.chunks(group).zip(out.chunks_mut(group));
            for (n, (codes, out)) in pieces.enumerate() {
                let scale = scales[first + n];
                let zero = has_zeros.then(|| band.zeros[first + n]);
                self.piece(codes, scale, zero, &bytes, out);
            }
        }
    }

    /// Scales as numbers, where they are codes themselves.
    fn scales(&self, band: &Band, count: usize) -> Option<Vec<f32>> {
        let nested = band.nested.as_ref()?;
        let block = NESTED_BLOCK as usize;
        let of = |(n, &code): (usize, &f32)| {
            let table = nested.table.get(code as usize).copied().unwrap_or(f32::NAN);
            let scale = nested.scales.get((nested.skip + n) / block).copied().unwrap_or(f32::NAN);
            table * scale + nested.offset
        };
        Some(band.scales[..count].iter().enumerate().map(of).collect())
    }

    /// The zero point where there is no face for it: the middle of the codes.
    fn middle(&self) -> f32 {
        (1u32 << (self.bits.clamp(1, 8) - 1)) as f32
    }

    /// Numbers of one group.
    #[inline(always)]
    fn piece(&self, codes: &[u8], scale: f32, zero: Option<f32>, bytes: &[f32; 256], out: &mut [f32]) {
        let pairs = out.iter_mut().zip(codes);
        match self.layout.formula {
            Formula::Integer => {
                let zero = zero.unwrap_or(self.middle());
                pairs.for_each(|(x, &code)| *x = (f32::from(code) - zero) * scale);
            }
            Formula::Affine => {
                let bias = zero.unwrap_or(0.0);
                pairs.for_each(|(x, &code)| *x = f32::from(code) * scale);
                rounded(self.dtype, out);
                out.iter_mut().for_each(|x| *x += bias);
            }
            Formula::Centred => {
                let (middle, bias) = (self.middle(), zero.unwrap_or(0.0));
                pairs.for_each(|(x, &code)| *x = (f32::from(code) - middle) * scale + bias);
            }
            Formula::Table(table) => {
                let scaled = table.map(|x| x * scale);
                pairs.for_each(|(x, &code)| *x = scaled[usize::from(code & 15)]);
            }
            Formula::Float(_) => pairs.for_each(|(x, &code)| *x = bytes[usize::from(code)] * scale),
            Formula::Extreme => {
                let middle = self.middle();
                pairs.for_each(|(x, &code)| *x = (f32::from(code) - middle) * scale * BNB_SHARE);
            }
        }
    }

    /// Numbers of columns whose groups are anywhere. Only integers have such.
    fn scattered(&self, band: &Band, of: &[u32], scales: &[f32], out: &mut [f32]) {
        let width = self.groups() as usize;
        let rows = band.codes.chunks_exact(band.columns).zip(out.chunks_exact_mut(band.columns));
        let mut zeros = vec![self.middle(); width];
        for (row, (codes, out)) in rows.take(band.rows).enumerate() {
            let Some(scales) = scales.get(row * width..(row + 1) * width) else { return };
            if let Some(own) = band.zeros.get(row * width..(row + 1) * width) {
                zeros.copy_from_slice(own);
            }
            for ((x, &code), &group) in out.iter_mut().zip(codes).zip(of) {
                let group = group as usize;
                if let (Some(zero), Some(scale)) = (zeros.get(group), scales.get(group)) {
                    *x = (f32::from(code) - zero) * scale;
                }
            }
        }
    }
}

/// What a band stands for, with the instructions of a level.
struct Numbers<'a> {
    packing: &'a Packing,
    band: &'a Band,
    out: &'a mut [f32],
}

impl Kernel for Numbers<'_> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        self.packing.numbers_of(self.band, self.out);
    }
}

/// The floats whose bits a byte is.
fn bytes_table(formula: Formula) -> [f32; 256] {
    let mut table = [0.0; 256];
    if let Formula::Float(dtype) = formula
        && cast::can_cast(dtype, DType::F32)
    {
        let bytes: [u8; 256] = std::array::from_fn(|n| n as u8);
        cast::cast(dtype, DType::F32, &bytes, bytemuck::cast_slice_mut(&mut table), false);
    }
    table
}

/// Rounds numbers to a float type and back, as storing them would.
pub fn round_to(dtype: DType, numbers: &mut [f32]) {
    run(Level::best(), Rounded { dtype, numbers });
}

struct Rounded<'a> {
    dtype: DType,
    numbers: &'a mut [f32],
}

impl Kernel for Rounded<'_> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        rounded(self.dtype, self.numbers);
    }
}

#[inline(always)]
fn rounded(dtype: DType, numbers: &mut [f32]) {
    match dtype {
        DType::BF16 => numbers.iter_mut().for_each(|x| *x = round_bf16(*x)),
        DType::F16 => numbers.iter_mut().for_each(|x| *x = f16_to_f32(f32_to_f16(*x))),
        _ => stored(dtype, numbers),
    }
}

/// The same for types that hardly any layout has: by storing them.
fn stored(dtype: DType, numbers: &mut [f32]) {
    if dtype == DType::F32 || !cast::can_cast(DType::F32, dtype) || !cast::can_cast(dtype, DType::F32) {
        return;
    }
    let width = dtype.facts().block_bytes as usize;
    let mut stored = [0u8; 4 * 256];
    for piece in numbers.chunks_mut(256) {
        let stored = &mut stored[..piece.len() * width.min(4)];
        cast::cast(DType::F32, dtype, bytemuck::cast_slice(piece), stored, false);
        cast::cast(dtype, DType::F32, stored, bytemuck::cast_slice_mut(piece), false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounding in place is what storing and reading back gives, for every kind of number.
    #[test]
    fn rounding_is_storing() {
        let mut state = 1u32;
        let mut numbers: Vec<f32> = (0..1 << 16)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                f32::from_bits(state ^ state << 13)
            })
            .collect();
        numbers.extend([
            0.0,
            -0.0,
            f32::NAN,
            -f32::NAN,
            f32::INFINITY,
            f32::MAX,
            f32::MIN,
            f32::from_bits(1),
        ]);
        numbers.extend([f32::from_bits(0x7f80_0001), f32::from_bits(0xff80_ffff), 65519.0, 65520.0, 1.0e-8]);
        for dtype in [DType::BF16, DType::F16, DType::F32] {
            let (mut in_place, mut by_storing) = (numbers.clone(), numbers.clone());
            round_to(dtype, &mut in_place);
            stored(dtype, &mut by_storing);
            let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert!(bits(&in_place) == bits(&by_storing), "{dtype}");
        }
    }
}
