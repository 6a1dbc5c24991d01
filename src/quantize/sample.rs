//! A sample of a model's groups against the floor of their grid: how much of the error is the method's and how much the
//! grid's own.
//!
//! Rows are taken evenly over all matrices and a few groups evenly from each; nothing is random, so that the figure is the same
//! in every run. Which rows is decided before the run, from the plan: what will be read is a few bytes of each. They are read
//! and quantised again, beside the run or after it.

use crate::error::{Error, Result};
use crate::open::Model;
use crate::plan::weave::{Limits, Make, Pack};
use crate::run::job::Control;
use crate::run::make::Hands;
use crate::transform::method::floor::{self, Against};
use crate::transform::method::{Kind, Quantiser, ScaleType};
use crate::transform::recipe::{Packed, Recipe};
use std::time::Instant;

/// Groups, at most.
const GROUPS_MAX: u64 = 512;
/// Numbers in them, at most.
const NUMBERS_MAX: u64 = GROUPS_MAX * 128;
/// The floor of a grid with a bias takes so many times as long to find: as many times fewer are taken.
const BIAS_COST: u64 = 4;
/// Rows that they are taken from, at most.
const ROWS_MAX: u64 = GROUPS_MAX / 2;
/// What may be read for them; where a row costs much, there are fewer of them.
const READ_BYTES_MAX: u64 = 128 << 20;
/// A sample that takes no more memory than this is looked at while the run goes on.
const BESIDE_BYTES_MAX: u64 = 16 << 20;
/// What a read costs however short it is, in bytes.
const READ_COST_BYTES: u64 = 4096;

/// A method's error over the least that its grid can have, on a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Floor {
    /// Length of the error over the least length.
    pub ratio: f64,
    /// Groups that were looked at.
    pub groups: u64,
    /// Numbers in them.
    pub numbers: u64,
    /// Seconds that it took.
    pub seconds: f64,
}

/// Some rows, and what is looked at in them.
#[derive(Debug)]
struct Point {
    makes: Vec<Make>,
    /// Where groups begin among the numbers.
    starts: Vec<usize>,
    /// Numbers of a group.
    size: usize,
    quantiser: Quantiser,
    /// The column of each group, where its error is weighed.
    columns: Vec<usize>,
    /// Memory that looking at it takes.
    memory_bytes: u64,
}

/// What is to be looked at.
#[derive(Debug, Default)]
pub(super) struct Sample {
    points: Vec<Point>,
}

/// Numbers of a group of a matrix.
fn size(of: &Packed) -> u64 {
    let all = of.packing.rows.saturating_mul(of.packing.columns);
    let line = if of.packing.layout.flat { all } else { of.packing.columns };
    (of.quantiser.group_columns as u64).min(line)
}

impl Sample {
    /// What is looked at of a recipe; nothing where no floor is known.
    ///
    /// # Errors
    /// As [`Pack::makes`].
    pub(super) fn of(model: &Model, recipe: &Recipe, limits: &Limits) -> Result<Sample> {
        let is_known = |of: &Packed| {
            of.quantiser.group_rows <= 1
                && (1..=NUMBERS_MAX).contains(&size(of))
                && floor::is_known(of.quantiser.grid)
                // What its scales are multiplied by is not known before the run.
                && !matches!(of.quantiser.grid.scale, ScaleType::E4M3 { .. })
                // The error that is told is unweighed.
                && of.quantiser.importance.is_none()
        };
        let known = recipe.packed.iter().enumerate().filter(|(_, of)| is_known(of));
        let (mut matrices, mut rows, mut numbers, mut groups) = (Vec::new(), 0u64, 0u64, 0u64);
        let mut cost = 1;
        for (index, of) in known {
            matrices.push((index, rows));
            rows = rows.saturating_add(of.packing.rows);
            let count = of.packing.rows.saturating_mul(of.packing.columns);
            numbers = numbers.saturating_add(count);
            groups = groups.saturating_add(count.div_ceil(size(of)));
            if matches!(of.quantiser.grid.kind, Kind::Affine { .. } | Kind::Centred { .. }) {
                cost = BIAS_COST;
            }
        }
        if groups == 0 || rows == 0 {
            return Ok(Sample::default());
        }
        let each = (numbers / groups).max(1);
        let wanted = groups.min(GROUPS_MAX / cost).min((NUMBERS_MAX / cost / each).max(1));
        let mut row_count = rows.min(ROWS_MAX).min(wanted);
        loop {
            let per_row = wanted.div_ceil(row_count);
            let points = points(model, recipe, limits, (&matrices, rows), (row_count, per_row))?;
            match points {
                Some(points) => return Ok(Sample { points }),
                None if row_count == 1 => return Ok(Sample::default()),
                None => row_count = (row_count / 2).max(1),
            }
        }
    }

    /// Whether it takes so little memory that it goes beside the run.
    pub(super) fn is_small(&self) -> bool {
        self.points.iter().all(|point| point.memory_bytes <= BESIDE_BYTES_MAX)
    }

    /// Reads and measures; `None` where there is nothing to say.
    ///
    /// # Errors
    /// What reading gives.
    pub(super) fn measure(&self, model: &Model, control: &Control) -> Result<Option<Floor>> {
        let started = Instant::now();
        let mut hands = Hands::default();
        let (mut all, mut count) = (Against::default(), 0u64);
        for point in &self.points {
            if control.is_stopped() {
                return Ok(None);
            }
            all = all.and(point.against(&mut hands, model)?);
            count += (point.starts.len() * point.size) as u64;
        }
        let seconds = started.elapsed().as_secs_f64();
        Ok(all.ratio().map(|ratio| Floor { ratio, groups: all.groups, numbers: count, seconds }))
    }
}

impl Point {
    /// Reads and measures its groups.
    fn against(&self, hands: &mut Hands, model: &Model) -> Result<Against> {
        let mut rows = Vec::new();
        for make in &self.makes {
            let (bytes, _) = hands.make(make, &model.files, false)?;
            rows.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)));
        }
        hands.forget();
        let group = |start: usize| {
            let numbers = rows.get(start..start + self.size);
            numbers.ok_or_else(|| Error::bug("a group lies outside its rows"))
        };
        let Some(importance) = self.quantiser.importance.as_deref() else {
            let mut numbers = Vec::with_capacity(self.starts.len() * self.size);
            for &start in &self.starts {
                numbers.extend_from_slice(group(start)?);
            }
            let some = floor::against(&self.quantiser, &numbers, self.size, &[]);
            return Ok(some.unwrap_or_default());
        };
        let mut all = Against::default();
        // Each group has weights of its own.
        for (&start, &column) in self.starts.iter().zip(&self.columns) {
            let weights = importance.get(column..column + self.size).unwrap_or(&[]);
            let one = floor::against(&self.quantiser, group(start)?, self.size, weights);
            all = all.and(one.unwrap_or_default());
        }
        Ok(all)
    }
}

/// So many rows of all matrices and so many groups of each row; `None` where that reads too much. `matrices`: each known one
/// and the rows before it, and the rows of all.
fn points(
    model: &Model,
    recipe: &Recipe,
    limits: &Limits,
    (matrices, rows): (&[(usize, u64)], u64),
    (row_count, per_row): (u64, u64),
) -> Result<Option<Vec<Point>>> {
    let mut points = Vec::with_capacity(usize::try_from(row_count).unwrap_or(0));
    let mut cost_bytes = 0u64;
    for i in 0..row_count {
        // The middle of each of so many equal parts.
        let at = u128::from(rows) * (2 * u128::from(i) + 1) / (2 * u128::from(row_count));
        let at = u64::try_from(at).unwrap_or(0);
        let place = matrices.partition_point(|&(_, before)| before <= at).saturating_sub(1);
        let Some(&(packed, before)) = matrices.get(place) else { continue };
        let Some(of) = recipe.packed.get(packed) else { continue };
        let (row, columns, size) = (at - before, of.packing.columns, size(of));
        // Where groups run over rows, those that begin in this one.
        let first =
            if of.packing.layout.flat { (row * columns).next_multiple_of(size) } else { row * columns };
        let in_row = ((row + 1) * columns).saturating_sub(first) / size;
        let last = (of.packing.rows * columns).saturating_sub(first) / size;
        let in_row = in_row.max(1).min(last);
        if in_row == 0 {
            continue;
        }
        let count = per_row.min(in_row);
        // Not the same columns in every row.
        let turn = i * 7 % in_row;
        let mut elements: Vec<u64> =
            (0..count).map(|j| first + (turn + j * in_row / count) % in_row * size).collect();
        elements.sort_unstable();
        let (Some(&low), Some(&high)) = (elements.first(), elements.last()) else { continue };
        let from = low / columns;
        let pack_rows = from..(high + size).div_ceil(columns);
        let pack = Pack { packed, rows: pack_rows.clone(), band_rows: pack_rows.end - pack_rows.start };
        let makes = pack.makes(&model.table, recipe, limits).map_err(|e| e.tensor(&of.matrix.name))?;
        // A sample is not to take more memory than the run did.
        let memory_bytes = makes.iter().map(Make::memory_bytes).max().unwrap_or(0);
        let memory_bytes = memory_bytes.max((pack_rows.end - pack_rows.start) * columns * 4);
        if memory_bytes > limits.matrix_bytes {
            continue;
        }
        let reads = makes.iter().flat_map(|m| &m.reads);
        cost_bytes =
            reads.fold(cost_bytes, |sum, r| sum.saturating_add(r.size_bytes).saturating_add(READ_COST_BYTES));
        if cost_bytes > READ_BYTES_MAX {
            return Ok(None);
        }
        let starts = elements.iter().map(|e| usize::try_from(e - from * columns).unwrap_or(usize::MAX));
        points.push(Point {
            makes,
            starts: starts.collect(),
            size: usize::try_from(size).unwrap_or(usize::MAX),
            quantiser: of.quantiser.clone(),
            columns: elements.iter().map(|e| (e % columns) as usize).collect(),
            memory_bytes,
        });
    }
    Ok(Some(points))
}
