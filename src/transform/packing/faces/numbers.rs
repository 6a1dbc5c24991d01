//! What a band stands for.

use super::super::{Band, Formula, NESTED_BLOCK, Packing};
use super::lookup::{Sixteen, integers, lookup};
use crate::dtype::DType;
use crate::transform::cast::{self, f16_to_f32, f32_to_f16, round_bf16};
use crate::transform::simd::{Kernel, Level, run};

/// bitsandbytes' 1 / 127.
const BNB_SHARE: f32 = 7.874_016e-3;

impl Packing {
    /// The numbers that a band stands for, `[rows, columns]`: in f32, not yet rounded to [`Packing::dtype`]. One rounding to it
    /// gives what the layout's own reader gives. A band that lacks a part of what its codes need leaves `out` as it is.
    pub fn numbers(&self, band: &Band, out: &mut [f32]) {
        let level = Level::best();
        run(level, Numbers { maker: Maker::new(self, level), band, out });
    }

    /// How many groups a band has; `None` where it lacks a part of what its codes need.
    #[inline(always)]
    fn whole_groups(&self, band: &Band) -> Option<usize> {
        let count = band.rows * band.columns;
        let (scale_rows, width) = self.scale_grid(band.rows);
        let groups = scale_rows * width;
        let is_whole = band.columns as u64 == self.columns
            && count > 0
            && band.codes.len() >= count
            && band.scales.len() >= groups
            && (band.zeros.is_empty() || band.zeros.len() >= groups);
        is_whole.then_some(groups)
    }

    #[inline(always)]
    fn pieces<'a>(&self, band: &'a Band, scales: &'a [f32]) -> Pieces<'a> {
        let count = band.rows * band.columns;
        let (line, block) = if self.layout.flat {
            (count, 1)
        } else {
            (band.columns, self.group_rows.clamp(1, self.rows.max(1)) as usize)
        };
        Pieces {
            codes: &band.codes[..count],
            scales,
            zeros: &band.zeros,
            line,
            group: self.group_columns.max(1) as usize,
            block,
            width: self.scale_grid(band.rows).1,
            row: 0,
            column: 0,
            first: 0,
            at: 0,
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

/// The codes of a group in a row.
#[derive(Debug, Clone, Copy, Default)]
struct Piece<'a> {
    codes: &'a [u8],
    scale: f32,
    zero: Option<f32>,
}

/// Those of a band, in order.
#[derive(Clone)]
struct Pieces<'a> {
    codes: &'a [u8],
    scales: &'a [f32],
    zeros: &'a [f32],
    /// Numbers of a row, and of a group in it.
    line: usize,
    group: usize,
    /// Rows that have their scales in common, and how many scales.
    block: usize,
    width: usize,
    row: usize,
    column: usize,
    /// The row's first group, and the next.
    first: usize,
    at: usize,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<Piece<'a>> {
        if self.codes.is_empty() {
            return None;
        }
        let (codes, behind) = self.codes.split_at(self.group.min(self.line - self.column));
        let piece =
            Piece { codes, scale: *self.scales.get(self.at)?, zero: self.zeros.get(self.at).copied() };
        (self.codes, self.column, self.at) = (behind, self.column + codes.len(), self.at + 1);
        if self.column == self.line {
            self.row += 1;
            self.first += if self.row.is_multiple_of(self.block) { self.width } else { 0 };
            (self.column, self.at) = (0, self.first);
        }
        Some(piece)
    }
}

/// What the numbers of groups are made with.
struct Maker<'a> {
    packing: &'a Packing,
    /// One that the machine has.
    level: Level,
    /// The floats whose bits a byte is.
    bytes: [f32; 256],
    /// The codes of four bits.
    all: Vec<u8>,
}

impl<'a> Maker<'a> {
    fn new(packing: &'a Packing, level: Level) -> Maker<'a> {
        let bytes = bytes_table(packing.layout.formula);
        // How many is not to be known: sixteen tempt compilers to take vectors apart.
        let all = (0..std::hint::black_box(16)).collect();
        Maker { packing, level, bytes, all }
    }

    /// The sixteen numbers of four bits' codes, where that takes less time than each code by itself, and whether it does; with
    /// `R` rounded to the packing's type.
    #[inline(always)]
    fn table<const R: bool>(&self, Piece { codes, scale, zero }: Piece<'_>, table: &mut [f32; 16]) -> bool {
        /// As many as it takes to make up for the table.
        const LONG: usize = 32;
        if self.packing.bits > 4 || codes.len() < LONG {
            return false;
        }
        if self.packing.layout.formula == Formula::Integer {
            let dtype = if R { self.packing.dtype } else { DType::F32 };
            let zero = zero.unwrap_or(self.packing.middle());
            if integers(self.level, dtype, zero, scale, table) {
                return true;
            }
        }
        let place = &mut table[..self.all.len()];
        self.formula(&self.all, scale, zero, place);
        if R {
            rounded(self.packing.dtype, place);
        }
        true
    }

    /// Numbers of one group; with `R` rounded to the packing's type.
    #[inline(always)]
    fn piece<const R: bool>(&self, piece: Piece<'_>, out: &mut [f32]) {
        let mut table = Sixteen::default();
        match self.table::<R>(piece, &mut table.0) {
            true => lookup(self.level, &table.0, piece.codes, out),
            false => self.plain::<R>(piece, out),
        }
    }

    /// The same, code by code.
    #[inline(always)]
    fn plain<const R: bool>(&self, Piece { codes, scale, zero }: Piece<'_>, out: &mut [f32]) {
        self.formula(codes, scale, zero, out);
        if R {
            rounded(self.packing.dtype, out);
        }
    }

    /// Numbers of codes, by their formula.
    #[inline(always)]
    fn formula(&self, codes: &[u8], scale: f32, zero: Option<f32>, out: &mut [f32]) {
        let pairs = out.iter_mut().zip(codes);
        match self.packing.layout.formula {
            Formula::Integer => {
                let zero = zero.unwrap_or(self.packing.middle());
                pairs.for_each(|(x, &code)| *x = (f32::from(code) - zero) * scale);
            }
            Formula::Affine => {
                let bias = zero.unwrap_or(0.0);
                pairs.for_each(|(x, &code)| *x = f32::from(code) * scale);
                rounded(self.packing.dtype, out);
                out.iter_mut().for_each(|x| *x += bias);
            }
            Formula::Centred => {
                let (middle, bias) = (self.packing.middle(), zero.unwrap_or(0.0));
                pairs.for_each(|(x, &code)| *x = (f32::from(code) - middle) * scale + bias);
            }
            Formula::Table(table) => {
                let scaled = table.map(|x| x * scale);
                pairs.for_each(|(x, &code)| *x = scaled[usize::from(code & 15)]);
            }
            Formula::Float(_) => pairs.for_each(|(x, &code)| *x = self.bytes[usize::from(code)] * scale),
            Formula::Extreme => {
                let middle = self.packing.middle();
                pairs.for_each(|(x, &code)| *x = (f32::from(code) - middle) * scale * BNB_SHARE);
            }
        }
    }
}

/// The numbers that a reader finds for a band, rounded to [`Packing::dtype`], in order and some at a time: what is looked at once
/// need not be kept.
pub(in crate::transform) struct Reader<'a> {
    maker: Maker<'a>,
    start: Place<'a>,
}

/// How far a reader is.
#[derive(Clone)]
pub(in crate::transform) struct Place<'a> {
    pieces: Pieces<'a>,
    /// What is left of the group that was begun.
    piece: Piece<'a>,
}

/// The next numbers.
pub(in crate::transform) enum Found<'a> {
    /// The band ends.
    Nothing,
    /// `table[code & 15]` for each of these codes.
    Picked(&'a [u8]),
    /// So many are where they were to be put.
    Made(usize),
}

impl Found<'_> {
    /// How many.
    #[inline(always)]
    pub(in crate::transform) fn count(&self) -> usize {
        match *self {
            Found::Nothing => 0,
            Found::Picked(codes) => codes.len(),
            Found::Made(count) => count,
        }
    }
}

impl<'a> Place<'a> {
    /// Codes of one group, `count` at most; `None` at the end.
    #[inline(always)]
    fn take(&mut self, count: usize) -> Option<Piece<'a>> {
        if self.piece.codes.is_empty() {
            self.piece = self.pieces.next()?;
        }
        let (codes, behind) = self.piece.codes.split_at(self.piece.codes.len().min(count));
        self.piece.codes = behind;
        Some(Piece { codes, ..self.piece })
    }
}

impl<'a> Reader<'a> {
    /// That of a band; `None` where it lacks a part of what its codes need, or scales are codes themselves, or columns have
    /// groups of their own. `level` is one that the machine has.
    #[inline(always)]
    pub(in crate::transform) fn of(packing: &'a Packing, level: Level, band: &'a Band) -> Option<Reader<'a>> {
        packing.whole_groups(band).filter(|_| band.groups.is_none() && band.nested.is_none())?;
        let start = Place { pieces: packing.pieces(band, &band.scales), piece: Piece::default() };
        Some(Reader { maker: Maker::new(packing, level), start })
    }

    /// Before the first number.
    #[inline(always)]
    pub(in crate::transform) fn start(&self) -> Place<'a> {
        self.start.clone()
    }

    /// The next numbers, as many as `out` has or fewer. Short groups are put there one behind the other.
    #[inline(always)]
    pub(in crate::transform) fn next(
        &self,
        place: &mut Place<'a>,
        table: &mut [f32; 16],
        out: &mut [f32],
    ) -> Found<'a> {
        let mut filled = 0;
        while filled < out.len() {
            let Some(piece) = place.take(out.len() - filled) else { break };
            if filled == 0 && self.maker.table::<true>(piece, table) {
                return Found::Picked(piece.codes);
            }
            let end = filled + piece.codes.len();
            self.maker.plain::<true>(piece, &mut out[filled..end]);
            filled = end;
        }
        if filled == 0 { Found::Nothing } else { Found::Made(filled) }
    }

    /// The next numbers, as many as `out` has if there are.
    pub(in crate::transform) fn fill(&self, place: &mut Place<'a>, mut out: &mut [f32]) {
        while let Some(piece) = place.take(out.len()).filter(|piece| !piece.codes.is_empty()) {
            let (now, behind) = out.split_at_mut(piece.codes.len());
            self.maker.piece::<true>(piece, now);
            out = behind;
        }
    }
}

/// What a band stands for, with the instructions of a level.
struct Numbers<'a> {
    maker: Maker<'a>,
    band: &'a Band,
    out: &'a mut [f32],
}

impl Kernel for Numbers<'_> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let Numbers { maker, band, mut out } = self;
        let packing = maker.packing;
        let groups = packing.whole_groups(band).filter(|_| out.len() >= band.rows * band.columns);
        let Some(groups) = groups else { return };
        let scales = packing.scales(band, groups);
        let scales = scales.as_deref().unwrap_or(&band.scales);
        if let Some(of) = &band.groups {
            return packing.scattered(band, of, scales, out);
        }
        for piece in packing.pieces(band, scales) {
            let (place, behind) = std::mem::take(&mut out).split_at_mut(piece.codes.len());
            maker.piece::<false>(piece, place);
            out = behind;
        }
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
