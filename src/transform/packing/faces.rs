//! Where codes, scales and zero points lie in each face, and how they get into a band and out of it.
//!
//! Every face is a grid of elements: *units* along the matrix's rows (a row, a block of rows that share a scale, or rows that
//! share an element) by a *width* along its columns (columns, groups, or elements that several columns share). A face is
//! straight, turned, or one run whatever the rows; strips, shapes and loops follow from these three numbers alone.
//!
//! Whatever the bytes are, nothing here panics: loops run over slices of the sizes that were checked at their beginning.

mod codes;
mod groups;
mod lookup;
mod numbers;
mod state;

pub(in crate::transform) use lookup::{Sixteen, lookup};
pub use numbers::round_to;
pub(in crate::transform) use numbers::{Found, Reader};
pub use state::State;

use super::{Along, Axes, Band, Content, Face, Layout, NESTED_BLOCK, Packing, Stored};
use crate::dtype::DType;
use crate::error::{Error, Result};
use std::ops::Range;

/// Bytes of a face: runs of one length at equal distances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strip {
    /// The first run's first byte, counted in the face.
    pub offset_bytes: u64,
    /// Bytes of a run.
    pub run_bytes: u64,
    /// From one run to the next.
    pub pitch_bytes: u64,
    /// How many.
    pub run_count: u64,
}

impl Strip {
    /// One run.
    pub fn run(offset_bytes: u64, run_bytes: u64) -> Strip {
        Strip { offset_bytes, run_bytes, pitch_bytes: run_bytes, run_count: 1 }
    }

    /// Bytes of all runs together.
    pub fn size_bytes(&self) -> u64 {
        self.run_bytes.saturating_mul(self.run_count)
    }
}

impl Layout {
    /// Whether numbers cannot be told without this face. Sizes of the matrix and tables that are the same in every file are
    /// no part of that; nor is JSON, unless it says what is added to scales.
    pub fn needs(&self, face: usize) -> bool {
        match self.faces.get(face).map(|f| f.content) {
            None | Some(Content::Shape | Content::Table) => false,
            Some(Content::State) => self.is_nested(),
            Some(_) => true,
        }
    }

    /// The face that holds this, where there is one.
    pub fn find(&self, content: Content) -> Option<usize> {
        self.faces.iter().position(|f| f.content == content)
    }

    /// Whether scales are codes themselves.
    pub fn is_nested(&self) -> bool {
        self.find(Content::NestedScales).is_some()
    }
}

impl Face {
    /// Whether neighbours of this dimension share an element.
    fn shares(&self, along: Along) -> bool {
        self.pack.is_some_and(|pack| pack.along == along)
    }

    fn is_grouped(&self) -> bool {
        matches!(self.content, Content::Scales | Content::Zeros | Content::Biases)
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a.max(1) } else { gcd(b, a % b) }
}

impl Packing {
    fn face(&self, face: usize) -> Option<&'static Face> {
        self.layout.faces.get(face)
    }

    /// A band begins at a multiple of so many rows: what shares an element or a scale is in one band. A scale that is the
    /// whole matrix's is not held against that; such a face is the same with every band.
    pub fn rows_together(&self) -> u64 {
        let mut rows = 1u64;
        let mut and = |n: u64| rows = (rows / gcd(rows, n.max(1))).saturating_mul(n.max(1));
        // A matrix of fewer rows than a group has is one group.
        and(self.group_rows.min(self.rows));
        for (number, face) in self.layout.faces.iter().enumerate() {
            if face.shares(Along::Rows) {
                let per = self.per_element(number);
                and(if face.is_grouped() { per.saturating_mul(self.group_rows.min(self.rows)) } else { per });
            }
        }
        if self.layout.flat {
            let group = self.group_columns.max(1);
            and(group / gcd(group, self.columns));
            // An even number of codes fills bytes.
            and(if group.is_multiple_of(2) { 1 } else { 2 });
        }
        rows.min(self.rows).max(1)
    }

    /// The type of a face. `face` counts in the layout's faces.
    pub fn face_dtype(&self, face: usize) -> DType {
        match self.face(face).map(|f| f.stored) {
            Some(Stored::Is(dtype)) => dtype,
            Some(Stored::Exponent) => DType::U8,
            // f32 has a bfloat16's range, which f16 has not; a layout of halves takes either half.
            Some(Stored::Half) if self.dtype == DType::F32 => DType::F16,
            Some(Stored::Half | Stored::Model) | None => self.dtype,
        }
    }

    fn element_bytes(&self, face: usize) -> u64 {
        u64::from(self.face_dtype(face).facts().block_bytes)
    }

    /// Whole numbers that an element of a face holds.
    fn per_element(&self, face: usize) -> u64 {
        match self.face(face).and_then(|f| f.pack) {
            Some(_) => (self.element_bytes(face) * 8 / u64::from(self.bits.max(1))).max(1),
            None => 1,
        }
    }

    /// Units of these rows.
    fn units(&self, face: usize, rows: &Range<u64>) -> Range<u64> {
        let Some(facts) = self.face(face) else { return 0..0 };
        let mut rows = rows.start.min(self.rows)..rows.end.min(self.rows);
        if rows.is_empty() {
            return 0..0;
        }
        let mut by = |n: u64| rows = rows.start / n..rows.end.div_ceil(n);
        if facts.is_grouped() {
            by(self.group_rows.clamp(1, self.rows));
        }
        if facts.shares(Along::Rows) {
            by(self.per_element(face));
        }
        rows
    }

    /// Elements along the columns.
    fn width(&self, face: usize) -> u64 {
        match self.face(face) {
            Some(f) if f.axes == Axes::Rows => 1,
            Some(f) if f.is_grouped() => self.groups(),
            Some(f) if f.shares(Along::Columns) => {
                let bits = self.columns.saturating_mul(u64::from(self.bits));
                bits.div_ceil(self.element_bytes(face) * 8)
            }
            _ => self.columns,
        }
    }

    /// Elements of a flat face that rows from the first to this one have, rounded up.
    fn elements(&self, face: usize, rows: u64) -> u64 {
        let numbers = rows.min(self.rows).saturating_mul(self.columns);
        let groups = numbers.div_ceil(self.group_columns.max(1));
        match self.face(face).map(|f| f.content) {
            Some(Content::Codes) => {
                numbers.saturating_mul(u64::from(self.bits)).div_ceil(self.element_bytes(face) * 8)
            }
            Some(Content::NestedScales) => groups.div_ceil(NESTED_BLOCK),
            _ => groups,
        }
    }

    /// The shape of a face, as it is stored. That of a stack of matrices has the stack's own dimensions in place of the rows.
    pub fn face_shape(&self, face: usize) -> Vec<u64> {
        let Some(facts) = self.face(face) else { return Vec::new() };
        let (units, width) = (self.units(face, &(0..self.rows)).end, self.width(face));
        match facts.axes {
            // A scale for all is a vector of one.
            Axes::Straight if facts.is_grouped() && units == 1 && width == 1 && self.rows > 1 => vec![1],
            Axes::Straight => vec![units, width],
            Axes::Turned => vec![width, units],
            Axes::Flat => vec![self.elements(face, self.rows)],
            Axes::Single => vec![self.elements(face, self.rows), 1],
            Axes::Rows => vec![units],
            Axes::Columns => vec![self.columns],
            Axes::Fixed(_) if facts.content == Content::State => {
                vec![State::of(self, None).text().len() as u64]
            }
            Axes::Fixed(0) => Vec::new(),
            Axes::Fixed(n) => vec![n],
        }
    }

    /// Where in a face these rows of the matrix lie. A face that does not depend on rows is one run with every band; writers
    /// write it with the first.
    pub fn strip(&self, face: usize, rows: Range<u64>) -> Strip {
        let Some(facts) = self.face(face) else { return Strip::run(0, 0) };
        let each = self.element_bytes(face);
        let (units, width) = (self.units(face, &rows), self.width(face));
        let count = units.end - units.start;
        match facts.axes {
            Axes::Straight | Axes::Rows => {
                let row = width.saturating_mul(each);
                Strip::run(units.start.saturating_mul(row), count.saturating_mul(row))
            }
            Axes::Turned => {
                let line = self.units(face, &(0..self.rows)).end.saturating_mul(each);
                let run_bytes = count.saturating_mul(each);
                if run_bytes == line {
                    return Strip::run(0, run_bytes.saturating_mul(width));
                }
                Strip {
                    offset_bytes: units.start.saturating_mul(each),
                    run_bytes,
                    pitch_bytes: line,
                    run_count: width,
                }
            }
            Axes::Flat | Axes::Single => {
                // Rounded down: what a band begins with may share an element of the layers above with the band before.
                let first = self.first_element(face, rows.start.min(self.rows));
                let end = self.elements(face, rows.end);
                Strip::run(first.saturating_mul(each), end.saturating_sub(first).saturating_mul(each))
            }
            Axes::Columns | Axes::Fixed(_) => {
                let count = self.face_shape(face).iter().product::<u64>();
                Strip::run(0, count.saturating_mul(each))
            }
        }
    }

    fn first_element(&self, face: usize, row: u64) -> u64 {
        let numbers = row.saturating_mul(self.columns);
        let groups = numbers / self.group_columns.max(1);
        match self.face(face).map(|f| f.content) {
            Some(Content::Codes) => {
                numbers.saturating_mul(u64::from(self.bits)) / (self.element_bytes(face) * 8)
            }
            Some(Content::NestedScales) => groups / NESTED_BLOCK,
            _ => groups,
        }
    }

    /// Scales of a band of so many rows: how many rows of them, and how many in each.
    fn scale_grid(&self, rows: usize) -> (usize, usize) {
        if self.layout.flat {
            return (1, (rows as u64 * self.columns).div_ceil(self.group_columns.max(1)) as usize);
        }
        let block = (self.group_rows.clamp(1, self.rows.max(1))) as usize;
        (rows.div_ceil(block), self.groups() as usize)
    }

    /// The bytes of a strip, run after run without gaps, from a band that holds these rows. `out` has the strip's size; what
    /// the band lacks stays as it is.
    pub fn write(&self, face: usize, band: &Band, rows: Range<u64>, out: &mut [u8]) {
        let Some(facts) = self.face(face) else { return };
        let count = band.rows.min((rows.end - rows.start.min(rows.end)) as usize);
        match facts.content {
            Content::Codes => codes::write(self, face, facts, count, &band.codes, out),
            Content::Scales | Content::Zeros | Content::Biases => {
                groups::write(self, face, facts, count, band, out)
            }
            Content::Groups => {
                let group = self.group_columns.max(1);
                for (column, place) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    let plain = (column as u64 / group) as u32;
                    let of = band.groups.as_ref().and_then(|g| g.get(column)).copied();
                    *place = of.unwrap_or(plain).to_le_bytes();
                }
            }
            Content::Shape => {
                for (place, n) in out.as_chunks_mut::<8>().0.iter_mut().zip([self.rows, self.columns]) {
                    *place = n.to_le_bytes();
                }
            }
            Content::Global => fill(out, &[band.global]),
            Content::Table => {
                if let super::Formula::Table(table) = self.layout.formula {
                    fill(out, table);
                }
            }
            Content::NestedScales => fill(out, band.nested.as_ref().map_or(&[], |n| &n.scales)),
            Content::NestedTable => fill(out, band.nested.as_ref().map_or(&[], |n| &n.table)),
            Content::State => {
                let text = State::of(self, band.nested.as_ref().map(|n| n.offset)).text();
                let size = out.len().min(text.len());
                out[..size].copy_from_slice(&text.as_bytes()[..size]);
            }
        }
    }

    /// Fills a band with what the bytes of a strip say; the inverse of [`Packing::write`]. Faces are read in the layout's order;
    /// face 0, the codes, begins the band anew.
    ///
    /// # Errors
    /// `BadInput`: a column in a group that is not there, a code beyond its bits, JSON that says something else. A bug: fewer
    /// bytes than the strip has.
    pub fn read(&self, face: usize, bytes: &[u8], rows: Range<u64>, band: &mut Band) -> Result<()> {
        let Some(facts) = self.face(face) else { return Ok(()) };
        let depends = !matches!(facts.axes, Axes::Columns | Axes::Fixed(_));
        if depends && (bytes.len() as u64) < self.strip(face, rows.clone()).size_bytes() {
            return Err(Error::bug("a strip ends early"));
        }
        let count = (rows.end.min(self.rows) - rows.start.min(self.rows).min(rows.end)) as usize;
        let floats = |many: usize| -> Vec<f32> {
            bytes.as_chunks::<4>().0.iter().take(many).map(|b| f32::from_le_bytes(*b)).collect()
        };
        match facts.content {
            Content::Codes => {
                band.rows = count;
                band.columns = self.columns as usize;
                band.scales.clear();
                band.zeros.clear();
                band.groups = None;
                band.nested = None;
                band.global = 0.0;
                band.codes.resize(count * band.columns, 0);
                codes::read(self, face, facts, count, bytes, &mut band.codes)?;
            }
            Content::Scales | Content::Zeros | Content::Biases => {
                groups::read(self, face, facts, count, bytes, band)?;
                if facts.content == Content::Scales && self.layout.is_nested() {
                    let first = rows.start.saturating_mul(self.columns) / self.group_columns.max(1);
                    band.nested.get_or_insert_default().skip = (first % NESTED_BLOCK) as usize;
                }
            }
            Content::Groups => band.groups = self.read_groups(bytes)?,
            Content::Global => {
                // The scales were read before, in the order of the faces.
                let global = floats(1).first().copied().unwrap_or(0.0);
                band.global = global;
                band.scales.iter_mut().for_each(|scale| *scale /= global);
            }
            Content::NestedScales => {
                band.nested.get_or_insert_default().scales = floats(usize::MAX);
            }
            Content::NestedTable => band.nested.get_or_insert_default().table = floats(256),
            Content::State if self.layout.is_nested() => {
                let state = State::parse(bytes)?;
                band.nested.get_or_insert_default().offset = state.nested_offset.unwrap_or(0.0);
            }
            Content::State | Content::Shape | Content::Table => {}
        }
        Ok(())
    }

    /// For each column its group; `None` where that is the one it lies in anyway.
    fn read_groups(&self, bytes: &[u8]) -> Result<Option<Vec<u32>>> {
        let (groups, group) = (self.groups(), self.group_columns.max(1));
        let numbers = bytes.as_chunks::<4>().0;
        if numbers.len() as u64 != self.columns {
            return Err(Error::bug("a list of groups ends early"));
        }
        let plain = |(column, number): (usize, &[u8; 4])| {
            u64::from(u32::from_le_bytes(*number)) == column as u64 / group
        };
        // Older compressed-tensors files have the tensor, unused, full of −1.
        let unused = |number: &[u8; 4]| *number == [0xff; 4];
        if numbers.iter().enumerate().all(plain) || numbers.iter().all(unused) {
            return Ok(None);
        }
        let of = |(column, number): (usize, &[u8; 4])| {
            let number = i32::from_le_bytes(*number);
            u32::try_from(number).ok().filter(|&n| u64::from(n) < groups).ok_or_else(|| {
                Error::bad_input(format!(
                    "has column {column} in group {number} (by its `g_idx`), where there are {groups}"
                ))
            })
        };
        numbers.iter().enumerate().map(of).collect::<Result<Vec<u32>>>().map(Some)
    }
}

fn fill(out: &mut [u8], numbers: &[f32]) {
    for (place, x) in out.as_chunks_mut::<4>().0.iter_mut().zip(numbers) {
        *place = x.to_le_bytes();
    }
}

#[cfg(test)]
mod tests;
