//! One part of an output, cut into tasks.
//!
//! A strand is a view in grains (elements, or whole blocks where those are moved as they are) and the stretch of source
//! it walks over. Tasks are cut by output, at a dimension where what must be read for one is little more than what it
//! needs; where no cut is so (a transposition) a task takes a whole matrix, or reads it in stretches.

use super::{Decode, Limits, Make, Read, Rows, Task, Work, width};
use crate::checkpoint::{Extent, FileId, Span};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::text::bytes as bytes_text;
use crate::transform::cast::Fix;
use crate::transform::packing::{Axes, PackedTensors};
use crate::transform::view::View;
use std::sync::Arc;

/// A task may read this many times the elements it needs before it is read in stretches.
const WASTE_MAX: u64 = 4;

/// One part, ready to be cut into tasks.
#[derive(Debug, Clone)]
pub(super) struct Strand {
    pub(super) source: Feed,
    /// Sizes and strides in grains; one stride for each size, counted from `offset`.
    pub(super) grid: View,
    /// Elements of a grain: a block, where blocks are moved whole.
    pub(super) grain: u64,
    /// Grains of a task.
    pub(super) step_max: u64,
    /// Grains that a task must be a multiple of.
    pub(super) multiple: u64,
    pub(super) to: DType,
    pub(super) add: f32,
}

/// Where a strand's bytes come from.
#[derive(Debug, Clone)]
pub(super) enum Feed {
    /// One run of the file.
    Run { file: FileId, offset_bytes: u64 },
    /// Elements or blocks of one tensor, as bytes.
    Bytes { file: FileId, offset_bytes: u64, dtype: DType, fix: Flags },
    /// Elements or blocks that are decoded before they are rearranged: of one tensor, or of several of one size that are
    /// numbered as if they lay one behind the other.
    Blocks { from: Vec<(FileId, u64)>, dtype: DType, each: u64 },
    /// Floats with scales elsewhere; sizes of the matrix and its blocks.
    Scaled {
        codes: Extent,
        codes_dtype: DType,
        scales: Extent,
        scales_dtype: DType,
        rows: u64,
        columns: u64,
        block_rows: u64,
        block_columns: u64,
    },
    /// MXFP4's nibbles and scales.
    Mx { nibbles: Extent, scales: Extent },
    /// A packing: its faces, and where each lies.
    Packed { of: Arc<PackedTensors>, faces: Vec<(usize, Span)> },
    /// Bytes at hand.
    Made { bytes: Arc<[u8]>, dtype: DType },
}

/// What must be put right in bytes besides their order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Flags {
    pub(super) swap: bool,
    pub(super) conj: bool,
    pub(super) neg: bool,
}

/// A strand whose elements are decoded first must have each task's stretch at hand.
pub(super) fn whole_matrix(mut strand: Strand, limits: &Limits) -> Result<Strand> {
    strand.enlarge(limits, 4);
    let reach = strand.reach(&strand.part(0));
    if reach > strand.step_max.saturating_mul(WASTE_MAX).max(limits.chunk_bytes)
        && reach.saturating_mul(4) > limits.matrix_bytes
    {
        return Err(Error::unsupported(format!(
            "must be decoded whole to be rearranged, which takes {}",
            bytes_text(reach.saturating_mul(12))
        ))
        .hint("a larger --memory lets it"));
    }
    Ok(strand)
}

/// Runs of a turned face are at least as long as this, where memory allows.
const RUN_BYTES: u64 = 1 << 10;
/// Memory for each number of packed rows while they are unpacked: its bits, its code, itself, and what is made of it.
const PACKED_BYTES: u64 = 14;

/// A strand of packed rows: a task takes so many of them that what shares an element is in one, and that faces which lie
/// across the rows are not read in crumbs.
pub(super) fn packed_rows(mut strand: Strand, of: &PackedTensors, limits: &Limits) -> Result<Strand> {
    let packing = &of.packing;
    let (columns, together) = (packing.columns.max(1), packing.rows_together());
    let row_bytes = columns.saturating_mul(PACKED_BYTES);
    if together.saturating_mul(row_bytes) > limits.matrix_bytes.max(limits.chunk_bytes) && together > 8 {
        return Err(Error::unsupported(format!(
            "must be unpacked in pieces of {together} rows, which takes {}",
            bytes_text(together.saturating_mul(row_bytes))
        ))
        .hint("a larger --memory lets it"));
    }
    let turned = packing.layout.faces.iter().position(|face| face.axes == Axes::Turned);
    let wide = turned.map_or(1, |face| {
        let strip = packing.strip(face, 0..together);
        RUN_BYTES.div_ceil(strip.run_bytes.max(1)).saturating_mul(together)
    });
    let wide = wide.min(limits.matrix_bytes / row_bytes);
    let rows = (strand.step_max / columns).max(wide).max(1).next_multiple_of(together).min(packing.rows);
    strand.step_max = rows.saturating_mul(columns);
    whole_matrix(strand, limits)
}

/// Elements from a view's first to its last.
fn extent(view: &View) -> u64 {
    view.shape.iter().zip(&view.strides).map(|(n, s)| (n - 1) * s).sum::<u64>() + 1
}

/// Which elements of a strand a task is for.
struct Cut {
    dim: usize,
    step: u64,
    inner: u64,
}

impl Strand {
    /// Where a task of the usual size would read far more than it needs (a transposition), takes as many elements at
    /// once as make it dense, if the limits allow.
    pub(super) fn enlarge(&mut self, limits: &Limits, element_bytes: u64) {
        let part = self.part(0);
        if self.reach(&part) <= part.element_count().saturating_mul(WASTE_MAX) {
            return;
        }
        let mut inner = 1;
        for dim in (0..self.grid.shape.len()).rev() {
            inner *= self.grid.shape[dim];
            let tail = View {
                offset: 0,
                shape: self.grid.shape[dim..].to_vec(),
                strides: self.grid.strides[dim..].to_vec(),
            };
            let held = self.reach(&tail).max(inner).saturating_mul(element_bytes.max(4)).saturating_mul(3);
            if held > limits.matrix_bytes {
                return;
            }
            if self.reach(&tail) <= inner.saturating_mul(WASTE_MAX) {
                self.step_max = self.step_max.max(inner);
                return;
            }
        }
    }

    /// Grains that are read for a view: from its first to its last, in each of the tensors that are joined.
    fn reach(&self, view: &View) -> u64 {
        let (inner, _, count) = self.split_joined(view);
        extent(&inner).saturating_mul(count)
    }

    /// A view without the dimension that steps from one joined tensor to the next; its place, and how many steps.
    fn split_joined(&self, view: &View) -> (View, Option<usize>, u64) {
        let Feed::Blocks { from, each, .. } = &self.source else { return (view.clone(), None, 1) };
        let joint = |(&n, s): (&u64, &u64)| n > 1 && s == each;
        let place = (from.len() > 1).then(|| view.shape.iter().zip(&view.strides).position(joint)).flatten();
        let mut inner = View { offset: view.offset % (*each).max(1), ..view.clone() };
        let Some(at) = place else { return (inner, None, 1) };
        inner.strides.remove(at);
        let count = inner.shape.remove(at);
        (inner, Some(at), count)
    }

    /// The dimension that is cut, the step it is cut in, and the grains inside one step of one.
    fn cut(&self) -> Cut {
        let mut inner = 1u64;
        for dim in (0..self.grid.shape.len()).rev() {
            let n = self.grid.shape[dim];
            if inner.saturating_mul(n) > self.step_max {
                // Whole blocks of the target, wherever it is cut.
                let multiple = self.multiple / gcd(inner, self.multiple);
                let step = (self.step_max / inner).max(1).next_multiple_of(multiple);
                return Cut { dim, step, inner };
            }
            inner *= n;
        }
        let first = self.grid.shape.first().copied().unwrap_or(1).max(1);
        Cut { dim: 0, step: first, inner: inner / first }
    }

    /// How many tasks.
    fn count(&self) -> u64 {
        let Cut { dim, step, .. } = self.cut();
        let outer: u64 = self.grid.shape[..dim].iter().product();
        self.grid.shape[dim].div_ceil(step) * outer
    }

    /// The grid of one task.
    fn part(&self, index: u64) -> View {
        let Cut { dim, step, .. } = self.cut();
        let View { offset, shape, strides } = &self.grid;
        let steps = shape[dim].div_ceil(step);
        let at = index % steps * step;
        let mut place = offset + at * strides[dim];
        let mut rest = index / steps;
        for d in (0..dim).rev() {
            place += rest % shape[d] * strides[d];
            rest /= shape[d];
        }
        let mut part = View { offset: place, shape: shape[dim..].to_vec(), strides: strides[dim..].to_vec() };
        part.shape[0] = step.min(shape[dim] - at);
        part
    }

    /// The first grain of a task in the strand.
    fn first(&self, index: u64) -> u64 {
        let Cut { dim, step, inner } = self.cut();
        let steps = self.grid.shape[dim].div_ceil(step);
        (index / steps * self.grid.shape[dim] + index % steps * step) * inner
    }

    pub(super) fn tasks(self) -> impl Iterator<Item = Task> {
        let count = self.count();
        (0..count).flat_map(move |index| self.tasks_of(index))
    }

    /// The task of this number; several where codes of several matrices meet.
    fn tasks_of(&self, index: u64) -> Vec<Task> {
        let part = self.part(index);
        let first = self.first(index) * self.grain;
        let size = |elements: u64| self.to.size_bytes(elements).unwrap_or(0);
        let count = part.element_count() * self.grain;
        let task = |first: u64, count: u64, work: Work| Task {
            offset_bytes: size(first),
            size_bytes: size(count),
            work,
        };
        let make = |reads: Vec<Read>, decode: Decode, count: u64| Make {
            reads,
            made: None,
            fix: None,
            decode,
            pick: None,
            add: self.add,
            to: self.to,
            count,
        };
        match &self.source {
            Feed::Run { file, offset_bytes } => {
                let offset_bytes = offset_bytes + size(first);
                vec![task(first, count, Work::Copy { file: *file, offset_bytes })]
            }
            Feed::Made { bytes, dtype } => {
                let width = width(*dtype) as usize;
                let start = part.offset as usize * width;
                let range = start..start + extent(&part) as usize * width;
                let mut one = make(Vec::new(), Decode::As(*dtype), count);
                one.made = Some((bytes.clone(), range));
                one.pick = pick(View { offset: 0, ..part });
                vec![task(first, count, Work::Make(Box::new(one)))]
            }
            Feed::Bytes { file, offset_bytes, dtype, fix } => {
                let width = u64::from(dtype.facts().block_bytes);
                let (reads, strides) = stretches(&part, *file, *offset_bytes, width);
                let mut one = make(reads, Decode::As(*dtype), count);
                let packed = View { offset: 0, shape: part.shape.clone(), strides };
                if !packed.is_run() || *fix != Flags::default() {
                    let View { shape, strides, .. } = packed;
                    let Flags { swap, conj, neg } = *fix;
                    one.fix = Some(Fix { dtype: *dtype, shape, strides, swap, conj, neg });
                }
                vec![task(first, count, Work::Make(Box::new(one)))]
            }
            Feed::Blocks { from, dtype, each } => {
                let facts = dtype.facts();
                let (block, block_bytes) = (u64::from(facts.block_elements), u64::from(facts.block_bytes));
                let number = (part.offset / (*each).max(1)) as usize;
                let (mut grid, joint, steps) = self.split_joined(&part);
                let (start, end) = (grid.offset / block, (grid.offset + extent(&grid)).div_ceil(block));
                let reads = from.iter().skip(number).take(steps as usize).map(|&(file, offset_bytes)| Read {
                    file,
                    offset_bytes: offset_bytes + start * block_bytes,
                    size_bytes: (end - start) * block_bytes,
                });
                let mut one = make(reads.collect(), Decode::As(*dtype), count);
                grid.offset -= start * block;
                if let Some(at) = joint {
                    grid.shape.insert(at, steps);
                    grid.strides.insert(at, (end - start) * block);
                }
                one.pick = pick(grid);
                vec![task(first, count, Work::Make(Box::new(one)))]
            }
            Feed::Mx { nibbles, scales } => {
                // In blocks of 32 where they stay whole, else in elements.
                let scale = 32 / self.grain;
                let (start, end) = (part.offset / scale, (part.offset + extent(&part)).div_ceil(scale));
                let read = |at: &Extent, each: u64| Read {
                    file: at.span.file,
                    offset_bytes: at.span.offset_bytes + start * each,
                    size_bytes: (end - start) * each,
                };
                let nibbles_bytes = ((end - start) * 16) as usize;
                let reads = vec![read(nibbles, 16), read(scales, 1)];
                let mut one = make(reads, Decode::Mx { nibbles_bytes }, count);
                let grid = View { offset: part.offset - start * scale, ..part };
                one.pick = match self.grain {
                    32 if self.to != DType::MXFP4 => pick(in_elements(grid, 32)),
                    _ => pick(grid),
                };
                vec![task(first, count, Work::Make(Box::new(one)))]
            }
            Feed::Packed { of, faces } => {
                let packing = &of.packing;
                let (columns, together) = (packing.columns.max(1), packing.rows_together());
                let row = part.offset / columns / together * together;
                let end = (part.offset + extent(&part)).div_ceil(columns).next_multiple_of(together);
                let rows = row..end.min(packing.rows);
                let (mut reads, mut sizes) = (Vec::new(), Vec::with_capacity(faces.len()));
                for &(face, span) in faces {
                    let read = |offset_bytes: u64, size_bytes: u64| Read {
                        file: span.file,
                        offset_bytes: span.offset_bytes + offset_bytes,
                        size_bytes,
                    };
                    // What does not depend on rows is read whole.
                    if matches!(packing.layout.faces[face].axes, Axes::Columns | Axes::Fixed(_)) {
                        reads.push(read(0, span.size_bytes));
                        sizes.push((face, span.size_bytes as usize));
                        continue;
                    }
                    let strip = packing.strip(face, rows.clone());
                    let at = |n: u64| strip.offset_bytes + n * strip.pitch_bytes;
                    reads.extend((0..strip.run_count).map(|n| read(at(n), strip.run_bytes)));
                    sizes.push((face, strip.size_bytes() as usize));
                }
                let decode = Decode::Packed(Box::new(Rows { of: of.clone(), rows, faces: sizes }));
                let mut one = make(reads, decode, count);
                one.pick = pick(View { offset: part.offset - row * columns, ..part });
                // The rows may go on behind what is wanted.
                vec![task(first, count, Work::Make(Box::new(one)))]
            }
            Feed::Scaled {
                codes,
                codes_dtype,
                scales,
                scales_dtype,
                rows,
                columns,
                block_rows,
                block_columns,
            } => {
                let matrix = (rows * columns).max(1);
                let scales_row = columns.div_ceil(*block_columns);
                let scales_matrix = rows.div_ceil(*block_rows) * scales_row;
                let one = |start: u64, end: u64, grid: View, first: u64| {
                    let number = start / matrix;
                    let (from, to) = (start % matrix, (end - 1) % matrix + 1);
                    let (row, last_row) = (from / columns / block_rows, (to - 1) / columns / block_rows);
                    let (code_bytes, scale_bytes) = (width(*codes_dtype), width(*scales_dtype));
                    let codes_bytes = (end - start) * code_bytes;
                    let reads = vec![
                        Read {
                            file: codes.span.file,
                            offset_bytes: codes.span.offset_bytes + start * code_bytes,
                            size_bytes: codes_bytes,
                        },
                        Read {
                            file: scales.span.file,
                            offset_bytes: scales.span.offset_bytes
                                + (number * scales_matrix + row * scales_row) * scale_bytes,
                            size_bytes: (last_row + 1 - row) * scales_row * scale_bytes,
                        },
                    ];
                    let decode = Decode::Scaled {
                        codes: *codes_dtype,
                        scales: *scales_dtype,
                        codes_bytes: codes_bytes as usize,
                        first: from - row * block_rows * columns,
                        columns: *columns,
                        block_rows: *block_rows,
                        block_columns: *block_columns,
                    };
                    let count = grid.element_count();
                    let mut one = make(reads, decode, count);
                    one.pick = pick(grid);
                    task(first, count, Work::Make(Box::new(one)))
                };
                let (start, end) = (part.offset, part.offset + extent(&part));
                if start / matrix == (end - 1) / matrix {
                    return vec![one(start, end, View { offset: 0, ..part }, first)];
                }
                if part.is_run() {
                    // A stack of matrices, each with scales of its own.
                    let mut tasks = Vec::new();
                    let mut at = start;
                    while at < end {
                        let stop = end.min((at / matrix + 1) * matrix);
                        let grid = View { offset: 0, shape: vec![stop - at], strides: vec![1] };
                        tasks.push(one(at, stop, grid, first + (at - start)));
                        at = stop;
                    }
                    return tasks;
                }
                // Rows of several matrices: each row is in one.
                let rows = part.shape[0];
                (0..rows)
                    .flat_map(|row| {
                        let grid = View {
                            offset: 0,
                            shape: part.shape[1..].to_vec(),
                            strides: part.strides[1..].to_vec(),
                        };
                        let inner = grid.element_count();
                        let start = part.offset + row * part.strides[0];
                        [one(start, start + extent(&grid), grid, first + row * inner)]
                    })
                    .collect()
            }
        }
    }
}

/// The view, unless it is everything as it is.
fn pick(view: View) -> Option<View> {
    let same = view.offset == 0 && view.is_run();
    (!same).then_some(view)
}

/// A view in blocks as one in elements.
fn in_elements(mut view: View, block: u64) -> View {
    view.offset *= block;
    view.strides.iter_mut().for_each(|s| *s *= block);
    view.shape.push(block);
    view.strides.push(1);
    view.simplified()
}

/// The reads for a part, and its strides in the bytes they bring: one read where the part lies dense, else one for each
/// stretch that is.
fn stretches(part: &View, file: FileId, offset_bytes: u64, width: u64) -> (Vec<Read>, Vec<u64>) {
    let View { offset, shape, strides } = part;
    let mut order: Vec<usize> = (0..shape.len()).collect();
    order.sort_by_key(|&d| std::cmp::Reverse(strides[d]));
    let tail = |k: usize| {
        let of = |v: &[u64]| order[k..].iter().map(|&d| v[d]).collect::<Vec<u64>>();
        View { offset: 0, shape: of(shape), strides: of(strides) }
    };
    let split = (0..order.len())
        .find(|&k| {
            let tail = tail(k);
            let wanted: u64 =
                tail.shape.iter().zip(&tail.strides).filter(|(_, s)| **s > 0).map(|(n, _)| n).product();
            extent(&tail) <= wanted.saturating_mul(WASTE_MAX)
        })
        .unwrap_or(order.len());
    let stretch = extent(&tail(split));
    let mut packed = strides.clone();
    let mut count = 1;
    for &d in order[..split].iter().rev() {
        packed[d] = stretch * count;
        count *= shape[d];
    }
    let reads = (0..count)
        .map(|n| {
            let (mut rest, mut at) = (n, *offset);
            for &d in order[..split].iter().rev() {
                at += rest % shape[d] * strides[d];
                rest /= shape[d];
            }
            Read { file, offset_bytes: offset_bytes + at * width, size_bytes: stretch * width }
        })
        .collect();
    (reads, packed)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a.max(1) } else { gcd(b, a % b) }
}
