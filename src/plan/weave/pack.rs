//! A matrix that becomes codes and scales, cut into bands of rows.
//!
//! A band is made as any output is, of strands that end in f32, and quantised as a whole: groups never cross a row, and what
//! shares an element or a scale across rows is in one band ([`Packing::rows_together`]). So the codes do not depend on the
//! cut. Bands are large where the source or the layout has rows across: there a band's width is the length of a run.
//!
//! A band is as small as the caches ask for, a write as large as the system asks for: a task is a stretch of several bands
//! where what they make of each tensor adjoins.

use super::{Limits, Make, Task, Work, strand, width};
use crate::checkpoint::Checkpoint;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::text::bytes as bytes_text;
use crate::transform::packing::{Axes, Packing};
use crate::transform::recipe::{Form, Packed, Part, Recipe};
use std::ops::Range;

/// Some rows of a matrix that become codes: one band, or several one after the other.
#[derive(Debug, Clone)]
pub struct Pack {
    /// Which matrix, by its place in the recipe.
    pub packed: usize,
    /// Which rows.
    pub rows: Range<u64>,
    /// Rows of a band; the last may have fewer.
    pub band_rows: u64,
}

impl Pack {
    /// Each of its bands.
    pub fn bands(&self) -> impl Iterator<Item = Pack> {
        let Pack { packed, rows, band_rows } = self.clone();
        let band_rows = band_rows.max(1);
        let starts = (0..).map(move |n: u64| rows.start.saturating_add(n.saturating_mul(band_rows)));
        starts.take_while(move |&start| start < rows.end).map(move |start| {
            let rows = start..start.saturating_add(band_rows).min(rows.end);
            Pack { packed, rows, band_rows }
        })
    }

    /// How the numbers of these rows are made in f32, one piece after the other.
    ///
    /// # Errors
    /// As [`super::tasks`].
    pub fn makes(&self, table: &Checkpoint, recipe: &Recipe, limits: &Limits) -> Result<Vec<Make>> {
        let of = recipe.packed.get(self.packed).ok_or_else(|| Error::bug("a band of no matrix"))?;
        let columns = of.packing.columns;
        let (start, end) = (self.rows.start.saturating_mul(columns), self.rows.end.saturating_mul(columns));
        // A band is one piece wherever it can be.
        let band = (end - start).saturating_mul(8);
        let limits = Limits { chunk_bytes: band.max(limits.chunk_bytes), ..*limits };
        let mut makes = Vec::new();
        let mut begin = 0u64;
        for part in &of.matrix.parts {
            let stop = begin.saturating_add(part.view.element_count());
            let (from, to) = (start.max(begin), end.min(stop));
            if from < to {
                let value = recipe.values.get(part.value);
                let value = value.ok_or_else(|| Error::bug("a part without a value"))?;
                for view in part.view.run(from - begin..to - begin)? {
                    let piece = Part { view, ..part.clone() };
                    for task in strand(table, value, &piece, DType::F32, &limits)?.tasks() {
                        makes.push(match task.work {
                            Work::Make(make) => *make,
                            Work::Copy { file, offset_bytes } => {
                                Make::copied(file, offset_bytes, task.size_bytes)
                            }
                            Work::Pack(_) => return Err(Error::bug("a strand that packs")),
                        });
                    }
                }
            }
            begin = stop;
        }
        Ok(makes)
    }

    /// Memory it needs while it is worked on, at most: the numbers of a band with what they are made of, the codes and what
    /// there is for each group, the numbers that these stand for; and a strip of each tensor, of all bands. `makes`: of any
    /// of the bands.
    pub fn memory_bytes<'a>(&self, packing: &Packing, makes: impl IntoIterator<Item = &'a Make>) -> u64 {
        let making = makes.into_iter().map(Make::memory_bytes).max().unwrap_or(0);
        let rows = (self.rows.end - self.rows.start).min(self.band_rows);
        let count = rows.saturating_mul(packing.columns);
        let groups = count / packing.group_columns.max(1) + 1;
        let strips: u64 =
            (0..packing.layout.faces.len()).map(|f| packing.strip(f, self.rows.clone()).size_bytes()).sum();
        making + 9 * count + 8 * groups + strips
    }
}

/// Memory for each number of a band: read, made, quantised, measured, written.
const NUMBER_BYTES: u64 = 24;
/// Runs of a turned tensor, in the source or in the output, are at least as long as this where memory allows.
const RUN_BYTES: u64 = 1 << 10;

/// The bands of a matrix.
pub(super) struct Packs<'a> {
    packed: usize,
    of: &'a Packed,
    /// Rows of a band, and of a task.
    band_rows: u64,
    step: u64,
    next: u64,
}

impl<'a> Packs<'a> {
    pub(super) fn new(
        table: &Checkpoint,
        recipe: &'a Recipe,
        packed: usize,
        limits: &Limits,
    ) -> Result<Packs<'a>> {
        let of = recipe.packed.get(packed).ok_or_else(|| Error::bug("a face of no matrix"))?;
        let (packing, matrix) = (&of.packing, &of.matrix);
        let in_matrix = |e: Error| if e.tensor_name().is_some() { e } else { e.tensor(&matrix.name) };
        matrix.check()?;
        if matrix.shape != [packing.rows, packing.columns] || matrix.form != Form::Plain {
            return Err(in_matrix(Error::bug("a matrix whose shape is not its packing's")));
        }
        let (columns, together) = (packing.columns.max(1), packing.rows_together());
        let row_bytes = columns.saturating_mul(NUMBER_BYTES);
        let least = together.saturating_mul(row_bytes);
        if least > limits.matrix_bytes.max(limits.chunk_bytes) && together > 8 {
            return Err(in_matrix(
                Error::unsupported(format!(
                    "must be quantised in pieces of {together} rows, which takes {}",
                    bytes_text(least)
                ))
                .hint("a larger --memory lets it"),
            ));
        }
        let mut wide = 1;
        for part in &matrix.parts {
            // Neighbours along the rows that are no neighbours in the source.
            if part.view.strides.last().is_some_and(|&s| s > 1) {
                let each = recipe.values.get(part.value).map_or(4, |v| width(v.dtype).max(1));
                wide = wide.max(RUN_BYTES.div_ceil(each));
            }
        }
        for (face, facts) in packing.layout.faces.iter().enumerate() {
            if facts.axes == Axes::Turned {
                let strip = packing.strip(face, 0..together);
                let runs = RUN_BYTES.div_ceil(strip.run_bytes.max(1));
                wide = wide.max(runs.saturating_mul(together));
            }
        }
        let wide = wide.min(limits.matrix_bytes / row_bytes.max(1));
        let band_rows = (limits.band_numbers / columns).max(wide).max(1).next_multiple_of(together);
        // What cannot be made is refused now.
        let first = Pack { packed, rows: 0..band_rows.min(packing.rows), band_rows };
        first.makes(table, recipe, limits).map_err(in_matrix)?;
        let faces = 0..packing.layout.faces.len();
        let adjoins = faces.into_iter().all(|f| packing.strip(f, first.rows.clone()).run_count <= 1);
        let bands =
            if adjoins { limits.stretch_numbers / band_rows.saturating_mul(columns).max(1) } else { 1 };
        let step = band_rows.saturating_mul(bands.max(1));
        Ok(Packs { packed, of, band_rows, step, next: 0 })
    }

    /// Bytes that these rows become, in all tensors that are there.
    fn size_bytes(&self, rows: &Range<u64>) -> u64 {
        let faces = self.of.outputs.iter().enumerate().filter(|(_, output)| output.is_some());
        faces
            .filter(|&(face, _)| writes(&self.of.packing, face, rows))
            .map(|(face, _)| self.of.packing.strip(face, rows.clone()).size_bytes())
            .sum()
    }
}

/// Whether these rows write into a face: what does not depend on rows is written with the first.
pub fn writes(packing: &Packing, face: usize, rows: &Range<u64>) -> bool {
    let axes = packing.layout.faces.get(face).map(|f| f.axes);
    rows.start == 0 || !matches!(axes, Some(Axes::Columns | Axes::Fixed(_)))
}

impl Iterator for Packs<'_> {
    type Item = Task;

    fn next(&mut self) -> Option<Task> {
        let count = self.of.packing.rows;
        if self.next >= count {
            return None;
        }
        let rows = self.next..self.next.saturating_add(self.step).min(count);
        self.next = rows.end;
        let size_bytes = self.size_bytes(&rows);
        Some(Task {
            offset_bytes: 0,
            size_bytes,
            work: Work::Pack(Pack { packed: self.packed, rows, band_rows: self.band_rows }),
        })
    }
}
