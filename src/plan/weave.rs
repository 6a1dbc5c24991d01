//! The plan of a conversion: how each output of a recipe is made from the bytes of the source, in tasks of bounded size.
//!
//! A load is planned by what is read, because there the bus decides; this is planned by what is written. An output is
//! made in its own order, each task a run of its bytes that is written once, so that a permutation, a stack of experts
//! or a transposition costs one pass and the file is never patched. Tasks are made when a worker asks: the plan holds
//! nothing for each of them.
//!
//! A task has one of two forms. *Bytes*: elements (or whole blocks of a quantised type) are gathered as they are, and
//! widened and narrowed afterwards, if at all. *Numbers*: what must be decoded before it can be rearranged (a quantised
//! matrix to be transposed, codes whose scales lie in another tensor) is decoded as the stretch of the source that holds
//! it, and gathered then.

use crate::checkpoint::{ByteOrder, Checkpoint, Extent, FileId, row_major_strides};
use crate::dtype::{Class, DType};
use crate::error::{Error, Result};
use crate::text::bytes as bytes_text;
use crate::transform::block;
use crate::transform::cast::{self, Fix};
use crate::transform::recipe::{Output, Part, Recipe, Source, Value};
use crate::transform::view::View;
use std::ops::Range;
use std::sync::Arc;

/// A task may read this many times the elements it needs before it is read in stretches.
const WASTE_MAX: u64 = 4;

/// How large tasks may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes that a task reads or writes, as a rule.
    pub chunk_bytes: u64,
    /// Bytes of one range copy.
    pub copy_bytes: u64,
    /// Bytes that a task may hold where it must have a whole matrix at hand.
    pub matrix_bytes: u64,
}

impl Limits {
    /// What suits `memory_bytes` in all. A matrix may take a quarter.
    pub fn within(memory_bytes: u64) -> Limits {
        let chunk_bytes = (memory_bytes / 256).clamp(64 << 10, 1 << 20);
        Limits { chunk_bytes, copy_bytes: 16 << 20, matrix_bytes: memory_bytes / 4 }
    }
}

/// A run of an output's bytes, and how they are made.
#[derive(Debug, Clone)]
pub struct Task {
    /// The first byte, counted in the output.
    pub offset_bytes: u64,
    /// How many bytes.
    pub size_bytes: u64,
    /// How they are made.
    pub work: Work,
}

/// How a task's bytes are made.
#[derive(Debug, Clone)]
pub enum Work {
    /// They are these bytes of a file.
    Copy {
        /// The file.
        file: FileId,
        /// The first byte.
        offset_bytes: u64,
    },
    /// They are made of others.
    Make(Make),
}

/// Bytes to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// The file.
    pub file: FileId,
    /// The first byte.
    pub offset_bytes: u64,
    /// How many.
    pub size_bytes: u64,
}

/// Reads, and what is done with what they bring.
#[derive(Debug, Clone)]
pub struct Make {
    /// What is read, one after the other into one piece of memory.
    pub reads: Vec<Read>,
    /// Bytes that need no reading.
    pub made: Option<(Arc<[u8]>, Range<usize>)>,
    /// Makes plain bytes of what was read.
    pub fix: Option<Fix>,
    /// What the bytes are.
    pub decode: Decode,
    /// Which of the decoded elements are wanted, in which order; all of them as they are where there is none.
    pub pick: Option<View>,
    /// Added to each number.
    pub add: f32,
    /// What is written.
    pub to: DType,
    /// Elements that are written.
    pub count: u64,
}

/// What bytes are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Decode {
    /// Elements or blocks of this type.
    As(DType),
    /// Floats, behind them the scales of the rows of blocks that they lie in.
    Scaled {
        /// Type of the floats.
        codes: DType,
        /// Type of the scales.
        scales: DType,
        /// Bytes of the floats, behind which the scales begin.
        codes_bytes: usize,
        /// The first float's number, counted from the first element that the first of these scales is for.
        first: u64,
        /// Elements of a row.
        columns: u64,
        /// Rows that share a scale.
        block_rows: u64,
        /// Columns that share a scale.
        block_columns: u64,
    },
    /// Nibbles of MXFP4, behind them their scales.
    Mx {
        /// Bytes of the nibbles, behind which the scales begin.
        nibbles_bytes: usize,
    },
}

impl Make {
    /// Memory it needs while it is worked on, at most: what is read, gathered, decoded and written.
    pub fn memory_bytes(&self) -> u64 {
        let read: u64 = self.reads.iter().map(|r| r.size_bytes).sum();
        let decoded = match self.decode {
            Decode::As(dtype) => {
                read / u64::from(dtype.facts().block_bytes) * u64::from(dtype.facts().block_elements)
            }
            Decode::Scaled { codes_bytes, .. } => codes_bytes as u64,
            Decode::Mx { nibbles_bytes } => 2 * nibbles_bytes as u64,
        };
        let fixed = self.fix.as_ref().map_or(0, Fix::size_bytes);
        read + fixed + 4 * decoded.max(self.count) + 8 * self.count
    }
}

/// What the bytes of an output are made of, in tasks.
///
/// # Errors
/// `BadInput`: a view leaves its value. `Unsupported`: a type that cannot become the one asked for; a matrix that must
/// be held whole and is larger than the limits allow.
pub fn tasks<'a>(
    table: &'a Checkpoint,
    recipe: &'a Recipe,
    output: &'a Output,
    limits: &Limits,
) -> Result<impl Iterator<Item = Task> + use<'a>> {
    output.check()?;
    let mut strands = Vec::with_capacity(output.parts.len());
    let mut first = 0;
    for part in &output.parts {
        let count = part.view.element_count();
        if count > 0 {
            let value = recipe.values.get(part.value).ok_or_else(|| Error::bug("a part without a value"))?;
            let strand = strand(table, value, part, output.dtype, limits)
                .map_err(|e| if e.tensor_name().is_some() { e } else { e.tensor(&value.name) })?;
            strands.push((strand, first));
        }
        first += count;
    }
    let to = output.dtype;
    if !first.is_multiple_of(u64::from(to.facts().block_elements))
        || strands.iter().any(|(_, first)| !first.is_multiple_of(u64::from(to.facts().block_elements)))
    {
        return Err(Error::unsupported(format!("has parts that do not fill whole blocks of `{to}`"))
            .tensor(&output.name));
    }
    Ok(strands.into_iter().flat_map(move |(strand, first)| {
        let offset_bytes = to.size_bytes(first).unwrap_or(0);
        strand.tasks().map(move |task| Task { offset_bytes: task.offset_bytes + offset_bytes, ..task })
    }))
}

/// Whether an output's bytes are bytes of the source, in runs worth a range copy.
pub fn copies(table: &Checkpoint, recipe: &Recipe, output: &Output) -> bool {
    output.parts.iter().all(|part| {
        let value = recipe.values.get(part.value);
        let tensor = value.and_then(|v| match v.source {
            Source::Tensor(index) => table.tensors.get(index),
            _ => None,
        });
        tensor.is_some_and(|t| t.at.is_plain() && t.dtype == output.dtype)
            && part.add == 0.0
            && part.view.is_run()
    })
}

/// One part, ready to be cut into tasks.
#[derive(Debug, Clone)]
struct Strand {
    source: Feed,
    /// Sizes and strides in grains; one stride for each size, counted from `offset`.
    grid: View,
    /// Elements of a grain: a block, where blocks are moved whole.
    grain: u64,
    /// Grains of a task.
    step_max: u64,
    /// Grains that a task must be a multiple of.
    multiple: u64,
    to: DType,
    add: f32,
}

/// Where a strand's bytes come from.
#[derive(Debug, Clone)]
enum Feed {
    /// One run of the file.
    Run { file: FileId, offset_bytes: u64 },
    /// Elements or blocks of one tensor, as bytes.
    Bytes { file: FileId, offset_bytes: u64, dtype: DType, fix: Flags },
    /// Blocks that must be decoded before they are rearranged.
    Blocks { file: FileId, offset_bytes: u64, dtype: DType },
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
    /// Bytes at hand.
    Made { bytes: Arc<[u8]>, dtype: DType },
}

/// What must be put right in bytes besides their order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Flags {
    swap: bool,
    conj: bool,
    neg: bool,
}

fn strand(table: &Checkpoint, value: &Value, part: &Part, to: DType, limits: &Limits) -> Result<Strand> {
    let elements = crate::dtype::element_count(&value.shape).unwrap_or(0);
    let view = &part.view;
    if span(view) > elements {
        return Err(Error::bad_input(format!(
            "has {elements} elements, and one beyond is asked for (element {})",
            span(view) - 1
        )));
    }
    let tensor = |index: usize| table.tensors.get(index).ok_or_else(|| Error::bug("a value of no tensor"));
    let source_dtype = match &value.source {
        Source::Tensor(index) => tensor(*index)?.dtype,
        Source::Mxfp4 { .. } => DType::MXFP4,
        _ => value.dtype,
    };
    check_kernel(source_dtype, to, part.add, matches!(value.source, Source::Tensor(_) | Source::Made(_)))?;
    let grains = |grain: u64| limits.chunk_bytes / (grain * width(source_dtype).max(width(to))).max(1);
    let multiple = |grain: u64| {
        let block = u64::from(to.facts().block_elements);
        if grain.is_multiple_of(block) { 1 } else { block / grain.min(block) }
    };
    let strand = |source: Feed, grid: View, grain: u64| Strand {
        source,
        grid: grid.simplified(),
        grain,
        step_max: grains(grain).max(1),
        multiple: multiple(grain),
        to,
        add: part.add,
    };
    match &value.source {
        Source::Made(bytes) => {
            if value.dtype.size_bytes(elements) != Some(bytes.len() as u64) {
                return Err(Error::bug("a made value whose bytes do not fit its shape"));
            }
            Ok(strand(Feed::Made { bytes: bytes.clone(), dtype: value.dtype }, view.clone(), 1))
        }
        Source::Tensor(index) => {
            let t = tensor(*index)?;
            let flags = Flags { swap: t.at.order == ByteOrder::Big, conj: t.at.conj, neg: t.at.neg };
            let (file, offset_bytes) = (t.at.span.file, t.at.span.offset_bytes);
            let block = u64::from(t.dtype.facts().block_elements);
            if block > 1 {
                return Ok(match in_blocks(view, block) {
                    Some(grid) if grid.is_run() && t.dtype == to && flags == Flags::default() => {
                        let bytes = u64::from(t.dtype.facts().block_bytes);
                        let mut run = strand(
                            Feed::Run { file, offset_bytes: offset_bytes + grid.offset * bytes },
                            grid,
                            block,
                        );
                        run.step_max = (limits.copy_bytes / bytes).max(1);
                        run
                    }
                    Some(grid) => {
                        strand(Feed::Bytes { file, offset_bytes, dtype: t.dtype, fix: flags }, grid, block)
                    }
                    None if flags != Flags::default() => {
                        return Err(Error::unsupported(format!(
                            "holds big-endian `{}` that would have to be rearranged",
                            t.dtype
                        )));
                    }
                    None => whole_matrix(
                        strand(Feed::Blocks { file, offset_bytes, dtype: t.dtype }, view.clone(), 1),
                        limits,
                    )?,
                });
            }
            let grid = match &t.at.strides {
                None => view.clone(),
                Some(strides) => compose(view, &t.shape, strides)?,
            };
            let bytes = width(t.dtype);
            if grid.is_run() && t.dtype == to && part.add == 0.0 && flags == Flags::default() {
                let mut run =
                    strand(Feed::Run { file, offset_bytes: offset_bytes + grid.offset * bytes }, grid, 1);
                run.step_max = (limits.copy_bytes / bytes).max(1);
                return Ok(run);
            }
            let mut strand = strand(Feed::Bytes { file, offset_bytes, dtype: t.dtype, fix: flags }, grid, 1);
            strand.enlarge(limits, bytes);
            Ok(strand)
        }
        Source::Scaled { codes, scales, block_rows, block_columns } => {
            let (codes, scales) = (tensor(*codes)?, tensor(*scales)?);
            if !codes.at.is_plain() || !scales.at.is_plain() {
                return Err(Error::unsupported("holds scaled codes that do not lie in one run"));
            }
            let columns = value.shape.last().copied().unwrap_or(1);
            let rows = value.shape.iter().rev().nth(1).copied().unwrap_or(1);
            let matrices = elements / (rows * columns).max(1);
            let needed = rows
                .div_ceil((*block_rows).max(1))
                .checked_mul(columns.div_ceil((*block_columns).max(1)))
                .and_then(|n| n.checked_mul(matrices));
            if needed != Some(scales.element_count()) || codes.element_count() != elements {
                return Err(Error::bad_input(format!(
                    "has shape {:?} and needs {} scales of {block_rows} × {block_columns}, and `{}` has {}",
                    value.shape,
                    needed.unwrap_or(u64::MAX),
                    crate::text::Shown(&scales.name),
                    scales.element_count()
                )));
            }
            let feed = Feed::Scaled {
                codes: codes.at.clone(),
                codes_dtype: codes.dtype,
                scales: scales.at.clone(),
                scales_dtype: scales.dtype,
                rows,
                columns,
                block_rows: (*block_rows).max(1),
                block_columns: (*block_columns).max(1),
            };
            whole_matrix(strand(feed, view.clone(), 1), limits)
        }
        Source::Mxfp4 { blocks, scales } => {
            let (blocks, scales) = (tensor(*blocks)?, tensor(*scales)?);
            if !blocks.at.is_plain() || !scales.at.is_plain() {
                return Err(Error::unsupported("holds scaled codes that do not lie in one run"));
            }
            if blocks.element_count() != elements / 2 || scales.element_count() != elements / 32 {
                return Err(Error::bad_input(format!(
                    "has {} bytes of nibbles and {} scales where shape {:?} needs {} and {}",
                    blocks.element_count(),
                    scales.element_count(),
                    value.shape,
                    elements / 2,
                    elements / 32
                )));
            }
            let feed = Feed::Mx { nibbles: blocks.at.clone(), scales: scales.at.clone() };
            match in_blocks(view, 32) {
                Some(grid) => Ok(strand(feed, grid, 32)),
                None if to == DType::MXFP4 => Err(Error::unsupported(
                    "would have its MXFP4 blocks torn, and they are never requantised",
                )),
                None => whole_matrix(strand(feed, view.clone(), 1), limits),
            }
        }
    }
}

/// Whether numbers of one type become another, and by whom.
fn check_kernel(from: DType, to: DType, add: f32, stored: bool) -> Result<()> {
    let widens = |d: DType| d == DType::F32 || cast::can_cast(d, DType::F32) || block::can_decode(d);
    let narrows = |d: DType| d == DType::F32 || cast::can_cast(DType::F32, d) || block::can_encode(d);
    let same = from == to && add == 0.0 && (stored || from == DType::MXFP4);
    if same || widens(from) && narrows(to) {
        return Ok(());
    }
    Err(Error::unsupported(format!("is `{from}`, which hoist does not turn into `{to}`")))
}

/// The view in blocks of `block` elements, where it moves whole ones.
fn in_blocks(view: &View, block: u64) -> Option<View> {
    let mut view = view.simplified();
    let (n, stride) = (view.shape.last_mut()?, view.strides.last_mut()?);
    // A single element has no neighbours: whatever its stride, it is no block.
    if *stride != 1 || !n.is_multiple_of(block) || !view.offset.is_multiple_of(block) {
        return None;
    }
    *n /= block;
    let last = view.strides.len() - 1;
    if view.strides[..last].iter().any(|s| !s.is_multiple_of(block)) {
        return None;
    }
    view.strides[..last].iter_mut().for_each(|s| *s /= block);
    view.offset /= block;
    Some(view)
}

/// A view of a tensor that has strides of its own, as a view of its storage.
fn compose(view: &View, shape: &[u64], strides: &[u64]) -> Result<View> {
    let rows = row_major_strides(shape).ok_or_else(|| Error::bad_input("has a shape that overflows"))?;
    let mut offset = 0;
    let mut rest = view.offset;
    for ((&row, &stride), _) in rows.iter().zip(strides).zip(shape) {
        let row = row.max(1);
        offset += rest / row * stride;
        rest %= row;
    }
    // Views are only ever split, sliced and swapped, so each dimension lies inside one of the tensor's.
    let of = |n: u64, step: u64| {
        if n <= 1 {
            return Ok(0);
        }
        rows.iter()
            .zip(strides)
            .zip(shape)
            .find(|((row, _), size)| {
                **size > 1 && step >= **row && step.is_multiple_of(**row) && step / **row < **size
            })
            .map(|((row, stride), _)| step / row * stride)
            .ok_or_else(|| Error::unsupported("has strides that cannot be rearranged like this"))
    };
    let composed =
        view.shape.iter().zip(&view.strides).map(|(&n, &s)| of(n, s)).collect::<Result<Vec<u64>>>()?;
    Ok(View { offset, shape: view.shape.clone(), strides: composed })
}

/// Elements from the value's first to the view's last.
fn span(view: &View) -> u64 {
    if view.element_count() == 0 {
        return 0;
    }
    let reach = view.shape.iter().zip(&view.strides);
    reach.fold(view.offset, |sum, (&n, &s)| sum.saturating_add((n - 1).saturating_mul(s))).saturating_add(1)
}

/// Bytes of an element, rounded up.
fn width(dtype: DType) -> u64 {
    let facts = dtype.facts();
    u64::from(facts.block_bytes).div_ceil(u64::from(facts.block_elements))
}

/// A strand whose elements are decoded first must have each task's stretch at hand.
fn whole_matrix(mut strand: Strand, limits: &Limits) -> Result<Strand> {
    strand.enlarge(limits, 4);
    let part = strand.part(0);
    if extent(&part) > strand.step_max.saturating_mul(WASTE_MAX).max(limits.chunk_bytes)
        && extent(&part) * 4 > limits.matrix_bytes
    {
        return Err(Error::unsupported(format!(
            "must be decoded whole to be rearranged, which takes {}",
            bytes_text(extent(&part).saturating_mul(12))
        ))
        .hint("a larger --memory lets it"));
    }
    Ok(strand)
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
    fn enlarge(&mut self, limits: &Limits, element_bytes: u64) {
        let part = self.part(0);
        if extent(&part) <= part.element_count().saturating_mul(WASTE_MAX) {
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
            let held = extent(&tail).max(inner).saturating_mul(element_bytes.max(4)).saturating_mul(3);
            if held > limits.matrix_bytes {
                return;
            }
            if extent(&tail) <= inner.saturating_mul(WASTE_MAX) {
                self.step_max = self.step_max.max(inner);
                return;
            }
        }
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

    fn tasks(self) -> impl Iterator<Item = Task> {
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
                vec![task(first, count, Work::Make(one))]
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
                vec![task(first, count, Work::Make(one))]
            }
            Feed::Blocks { file, offset_bytes, dtype } => {
                let facts = dtype.facts();
                let (block, block_bytes) = (u64::from(facts.block_elements), u64::from(facts.block_bytes));
                let (start, end) = (part.offset / block, (part.offset + extent(&part)).div_ceil(block));
                let read = Read {
                    file: *file,
                    offset_bytes: offset_bytes + start * block_bytes,
                    size_bytes: (end - start) * block_bytes,
                };
                let mut one = make(vec![read], Decode::As(*dtype), count);
                one.pick = pick(View { offset: part.offset - start * block, ..part });
                vec![task(first, count, Work::Make(one))]
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
                vec![task(first, count, Work::Make(one))]
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
                    task(first, count, Work::Make(one))
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

/// Whether a cast between these types can lose a value that is too large.
pub fn may_overflow(to: DType) -> bool {
    to.facts().class == Class::Float && to != DType::F64
}
