//! The walk over the groups of a band: sixteen at a time, one a lane.

use super::levels::above;
use crate::transform::simd::Kernel;
use std::ops::Range;

/// Groups that are fitted together.
pub(super) const LANES: usize = 16;

/// A number for each of them.
pub(super) type Lanes = [f32; LANES];

/// What is stored for a group beside its codes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Fitted {
    /// The scale, as stored.
    pub scale: f32,
    /// The zero point or bias, as stored; of no account where there is none.
    pub zero: f32,
}

/// A method on a grid.
pub(super) trait Fit {
    /// All that the codes of a group need to be known from its numbers alone.
    type Line: Copy;
    /// Chooses scale and zero point of each group of a batch, [`Batch::count`] of them.
    fn fit(&mut self, batch: &Batch<'_>) -> [(Fitted, Self::Line); LANES];
    /// The codes of runs of numbers, each by its line; they lie in `codes` where the numbers lie in `runs.numbers`.
    fn code(&self, lines: &[Self::Line], runs: Runs<'_>, codes: &mut [u8]);
}

/// Runs of one width.
#[derive(Debug, Clone, Copy)]
pub(super) struct Runs<'a> {
    pub numbers: &'a [f32],
    /// Where each begins.
    pub starts: &'a [usize],
    /// Numbers of a run.
    pub width: usize,
}

impl Runs<'_> {
    /// Where each lies.
    #[inline(always)]
    pub(super) fn places(&self) -> impl Iterator<Item = Range<usize>> {
        self.starts.iter().map(|&start| start..start + self.width)
    }
}

/// Groups of one shape, of which each is some neighbours in each of some rows.
pub(super) struct Batch<'a> {
    numbers: &'a [f32],
    weights: &'a [f32],
    /// Of a row of the matrix.
    columns: usize,
    /// Rows of a group.
    height: usize,
    /// Neighbours of a row in a group.
    width: usize,
    /// Where each group begins, in the band.
    starts: [usize; LANES],
    /// Groups; at least one.
    pub count: usize,
}

impl<'a> Batch<'a> {
    /// The runs of a group's numbers in the rows that it covers.
    #[inline(always)]
    pub(super) fn runs(&self, lane: usize) -> impl Iterator<Item = &'a [f32]> {
        let (numbers, columns, width, start) = (self.numbers, self.columns, self.width, self.starts[lane]);
        (0..self.height).map(move |row| &numbers[start + row * columns..][..width])
    }

    /// A group's numbers, where they are all neighbours.
    #[inline(always)]
    pub(super) fn run(&self, lane: usize) -> Option<&'a [f32]> {
        let start = self.starts[lane];
        (self.height == 1).then(|| &self.numbers[start..start + self.width])
    }

    /// Numbers of a group.
    #[inline(always)]
    pub(super) fn group_size(&self) -> usize {
        self.height * self.width
    }

    /// Turns the groups, so that those numbers that have the same place in their groups lie side by side. Lanes without a
    /// group repeat the first.
    #[inline(always)]
    pub(super) fn turn(&self, numbers: &mut Vec<Lanes>) {
        self.turn_from(self.numbers, |start| start, numbers);
    }

    /// The same for weights: every row has the same.
    #[inline(always)]
    pub(super) fn turn_weights(&self, weights: &mut Vec<Lanes>) {
        let columns = self.columns;
        weights.clear();
        for _ in 0..self.height {
            let from = weights.len();
            weights.resize(from + self.width, [0.0; LANES]);
            let starts: [usize; LANES] = std::array::from_fn(|l| self.starts[l] % columns);
            turn_run(self.weights, starts, &mut weights[from..]);
        }
    }

    #[inline(always)]
    fn turn_from(&self, from: &[f32], start: impl Fn(usize) -> usize, to: &mut Vec<Lanes>) {
        to.resize(self.group_size(), [0.0; LANES]);
        for row in 0..self.height {
            let starts: [usize; LANES] = std::array::from_fn(|l| start(self.starts[l]) + row * self.columns);
            turn_run(from, starts, &mut to[row * self.width..][..self.width]);
        }
    }
}

/// One row's run of each group.
#[inline(always)]
fn turn_run(from: &[f32], starts: [usize; LANES], to: &mut [Lanes]) {
    let width = to.len();
    let runs: [&[f32]; LANES] = std::array::from_fn(|l| &from[starts[l]..][..width]);
    for (j, to) in to.iter_mut().enumerate() {
        for l in 0..LANES {
            to[l] = runs[l][j];
        }
    }
}

/// All groups of a band.
pub(super) struct Walk<'a, F> {
    pub fit: F,
    /// Whole rows.
    pub numbers: &'a [f32],
    /// Of a row; not zero.
    pub columns: usize,
    pub group_rows: usize,
    pub group_columns: usize,
    /// `[columns]` or empty.
    pub weights: &'a [f32],
    pub codes: &'a mut [u8],
    pub scales: &'a mut [f32],
    /// As many as scales, or empty.
    pub zeros: &'a mut [f32],
}

impl<F: Fit> Walk<'_, F> {
    /// Fits and writes a batch, whose first group is the band's `first`.
    #[inline(always)]
    fn flush(&mut self, batch: &Batch<'_>, first: usize) {
        let fitted = self.fit.fit(batch);
        for (lane, (fitted, _)) in fitted.iter().enumerate().take(batch.count) {
            if let Some(scale) = self.scales.get_mut(first + lane) {
                *scale = fitted.scale;
            }
            if let Some(zero) = self.zeros.get_mut(first + lane) {
                *zero = fitted.zero;
            }
        }
        let lines = fitted.map(|(_, line)| line);
        for row in 0..batch.height {
            let starts = batch.starts.map(|start| start + row * batch.columns);
            let (lines, starts) = (&lines[..batch.count], &starts[..batch.count]);
            let runs = Runs { numbers: batch.numbers, starts, width: batch.width };
            self.fit.code(lines, runs, self.codes);
        }
    }
}

impl<F: Fit> Kernel for Walk<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run(mut self) {
        let (numbers, weights, columns) = (self.numbers, self.weights, self.columns);
        let rows = numbers.len() / columns;
        let shape =
            |height, width| Batch { numbers, weights, columns, height, width, starts: [0; LANES], count: 0 };
        let (mut batch, mut first) = (shape(0, 0), 0);
        let (mut row, mut column, mut at) = (0, 0, 0);
        // One place where a batch is worked on: the kernel is large.
        loop {
            let is_end = row >= rows;
            let height = self.group_rows.min(rows - row.min(rows));
            let width = self.group_columns.min(columns - column);
            let fits = batch.count < LANES && batch.height == height && batch.width == width && !is_end;
            if !fits && batch.count > 0 {
                for lane in batch.count..LANES {
                    batch.starts[lane] = batch.starts[0];
                }
                self.flush(&batch, first);
                batch.count = 0;
            }
            if is_end {
                return;
            }
            if batch.count == 0 {
                batch = shape(height, width);
                first = at;
            }
            batch.starts[batch.count] = row * columns + column;
            batch.count += 1;
            at += 1;
            column += width;
            if column == columns {
                (row, column) = (row + height, 0);
            }
        }
    }
}

/// The largest magnitude of a finite number; zero where there is none.
#[inline(always)]
pub(super) fn largest_finite(numbers: &[f32]) -> f32 {
    let mut most = [0f32; LANES];
    let (chunks, rest) = numbers.as_chunks::<LANES>();
    for chunk in chunks {
        for (most, &x) in most.iter_mut().zip(chunk) {
            *most = above(finite_magnitude(x), *most);
        }
    }
    for (l, &x) in rest.iter().enumerate() {
        most[l] = above(finite_magnitude(x), most[l]);
    }
    for half in [8, 4, 2, 1] {
        for l in 0..half {
            most[l] = above(most[l + half], most[l]);
        }
    }
    most[0]
}

/// Zero for what is none.
#[inline(always)]
pub(super) fn finite_magnitude(x: f32) -> f32 {
    if x.abs() < f32::INFINITY { x.abs() } else { 0.0 }
}
