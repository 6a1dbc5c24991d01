//! Writing answers, so that anybody can compare them elsewhere: a safetensors file of the form that [`super::Reference`]
//! reads. Numbers are written as they come, by positions and bands of the vocabulary; nothing is held.

use super::{Extent, INPUT_IDS, MASK, Quantity, Row, TYPES};
use crate::convert::tensors::TensorFile;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::open::Model;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// A tensor of answers that is to be written, as f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// What it is.
    pub quantity: Quantity,
    /// Which positions have an answer.
    pub extent: Extent,
    /// Numbers of each.
    pub width: u64,
}

/// A file of answers being written. Dropped before [`Writing::finish`], it leaves nothing.
#[derive(Debug)]
pub struct Writing {
    file: TensorFile,
    columns: Vec<Column>,
    /// Tokens of each row, without padding.
    counts: Vec<usize>,
    padded: u64,
    /// The first tensor of answers in the file.
    first: usize,
    /// Numbers of each column that were written.
    written: Vec<AtomicU64>,
}

impl Writing {
    /// Begins a file for these rows, and writes the rows. Rows that are shorter than the longest are padded with zeros, and
    /// a mask says so.
    ///
    /// # Errors
    /// As [`TensorFile::create`]: the file is there and `force` is not given, it is one of the models' own, there is no
    /// room.
    pub fn create(
        target: &Path,
        rows: &[Row],
        columns: &[Column],
        models: &[&Model],
        force: bool,
    ) -> Result<Writing> {
        let padded = rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
        let shape = vec![rows.len() as u64, padded as u64];
        let mut tensors = vec![(INPUT_IDS.to_owned(), DType::I64, shape.clone())];
        let mut given: Vec<fn(&Row, usize) -> i64> =
            vec![|row, at| row.ids.get(at).map_or(0, |&id| id.into())];
        if rows.iter().any(|row| row.ids.len() < padded) {
            tensors.push((MASK.to_owned(), DType::I64, shape.clone()));
            given.push(|row, at| (at < row.ids.len()).into());
        }
        if rows.iter().any(|row| row.types.is_some()) {
            tensors.push((TYPES.to_owned(), DType::I64, shape));
            given.push(|row, at| row.types.as_ref().and_then(|t| t.get(at)).map_or(0, |&t| t.into()));
        }
        let first = tensors.len();
        for column in columns {
            let name = column.quantity.names().first().copied().unwrap_or_default();
            let mut shape = vec![rows.len() as u64];
            if column.extent == Extent::Each {
                shape.push(padded as u64);
            }
            shape.push(column.width);
            tensors.push((name.to_owned(), DType::F32, shape));
        }
        let file = TensorFile::create(target, tensors, models, force)?;
        for (tensor, number) in given.iter().enumerate() {
            for (r, row) in rows.iter().enumerate() {
                let bytes: Vec<u8> = (0..padded).flat_map(|at| number(row, at).to_le_bytes()).collect();
                file.write_at(tensor, r as u64 * padded as u64 * 8, &bytes)?;
            }
        }
        Ok(Writing {
            file,
            columns: columns.to_vec(),
            counts: rows.iter().map(|row| row.ids.len()).collect(),
            padded: padded as u64,
            first,
            written: columns.iter().map(|_| AtomicU64::new(0)).collect(),
        })
    }

    /// Writes numbers `band` of the answers at `positions` of a row, row-major. A row with one answer has it at position 0.
    /// From any thread; each number once.
    ///
    /// # Errors
    /// A bug where there are no such answers, or more or fewer numbers than that; what writing gives.
    pub fn numbers(
        &self,
        column: usize,
        row: usize,
        positions: Range<usize>,
        band: Range<u64>,
        numbers: &[f32],
    ) -> Result<()> {
        let bug = || Error::bug("answers were written that the file has no place for");
        let (Some(of), Some(&count)) = (self.columns.get(column), self.counts.get(row)) else {
            return Err(bug());
        };
        let (count, padded) = if of.extent == Extent::Each { (count, self.padded) } else { (1, 1) };
        let width = band.end.checked_sub(band.start).and_then(|n| usize::try_from(n).ok()).ok_or_else(bug)?;
        if positions.end > count
            || band.end > of.width
            || positions.len().checked_mul(width) != Some(numbers.len())
        {
            return Err(bug());
        }
        if width == 0 {
            return Ok(());
        }
        for (position, numbers) in positions.zip(numbers.chunks(width)) {
            // No overflow: the tensor's size in bytes was found to fit when it was laid out.
            let place = (row as u64 * padded + position as u64) * of.width + band.start;
            // What f32 lies like in memory is what the file wants, on every machine hoist is built for.
            self.file.write_at(self.first + column, place * 4, bytemuck::cast_slice(numbers))?;
        }
        self.written[column].fetch_add(numbers.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Brings the file to the disk and gives it its name.
    ///
    /// # Errors
    /// A bug where not all numbers were written; what the system says.
    pub fn finish(self) -> Result<()> {
        let tokens: u64 = self.counts.iter().map(|&n| n as u64).sum();
        for (column, written) in self.columns.iter().zip(&self.written) {
            let answers = if column.extent == Extent::Each { tokens } else { self.counts.len() as u64 };
            let written = written.load(Ordering::Relaxed);
            if answers.checked_mul(column.width) != Some(written) {
                return Err(Error::bug(format!(
                    "{written} of {answers} × {} numbers of `{:?}` were written",
                    column.width, column.quantity
                )));
            }
        }
        self.file.finish()
    }
}
