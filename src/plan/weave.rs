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

mod pack;
mod strand;

use crate::checkpoint::{ByteOrder, Checkpoint, FileId, row_major_strides};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::open::Model;
use crate::transform::block;
use crate::transform::cast::{self, Fix};
use crate::transform::packing::PackedTensors;
use crate::transform::recipe::{Form, Output, Part, Recipe, Source, Value};
use crate::transform::view::View;
pub use pack::{Pack, writes};
use std::ops::Range;
use std::sync::Arc;
use strand::{Feed, Flags, Strand, packed_rows, whole_matrix};

/// How large tasks may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes that a task reads or writes, as a rule.
    pub chunk_bytes: u64,
    /// Numbers that are quantised together, as a rule.
    pub band_numbers: u64,
    /// Numbers whose codes are written together, as a rule; one band where that is more.
    pub stretch_numbers: u64,
    /// Bytes of one range copy.
    pub copy_bytes: u64,
    /// Bytes that a task may hold where it must have a whole matrix at hand.
    pub matrix_bytes: u64,
}

impl Limits {
    /// What suits `memory_bytes` in all. A matrix may take a quarter.
    pub fn within(memory_bytes: u64) -> Limits {
        let chunk_bytes = (memory_bytes / 256).clamp(64 << 10, 1 << 20);
        // A band is gone over half a dozen times: 64 Ki numbers with all that is made of them stay in a core's second cache.
        let band_numbers = chunk_bytes / 16;
        // Each write costs its way into the system, and those of scales would be no longer than a line of text.
        let stretch_numbers = chunk_bytes / 2;
        let (copy_bytes, matrix_bytes) = (16 << 20, memory_bytes / 4);
        Limits { chunk_bytes, band_numbers, stretch_numbers, copy_bytes, matrix_bytes }
    }

    /// What suits a model too: where each read crosses a network, fewer and larger ones.
    pub fn for_model(memory_bytes: u64, model: &Model) -> Limits {
        let limits = Limits::within(memory_bytes);
        match model.crosses_network() {
            true => {
                let chunk_bytes = (memory_bytes / 128).clamp(64 << 10, 4 << 20);
                Limits { chunk_bytes, band_numbers: chunk_bytes / 4, ..limits }
            }
            false => limits,
        }
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
    Make(Box<Make>),
    /// They are the codes of some rows of a matrix; what else these rows have is written with them, into other tensors of
    /// the same file. The task's offset is zero, and its size that of all of it.
    Pack(Pack),
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
#[derive(Debug, Clone, PartialEq)]
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
    /// Whole rows of a packing.
    Packed(Box<Rows>),
}

/// Whole rows of a packed matrix: the strips of its faces, one behind the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    /// The matrix.
    pub of: Arc<PackedTensors>,
    /// Which rows.
    pub rows: Range<u64>,
    /// Which faces there are, and how many bytes of each.
    pub faces: Vec<(usize, usize)>,
}

impl Rows {
    /// Numbers of these rows.
    pub fn count(&self) -> u64 {
        (self.rows.end - self.rows.start).saturating_mul(self.of.packing.columns)
    }

    /// Memory of the rows as a band: codes, and what there is for each group, as it lies and put in order.
    fn memory_bytes(&self) -> u64 {
        let groups = self.count() / self.of.packing.group_columns.max(1) + 1;
        self.count() + 16 * groups + 8 * self.of.packing.columns
    }
}

impl Make {
    /// f32 of a file as they are.
    fn copied(file: FileId, offset_bytes: u64, size_bytes: u64) -> Make {
        Make {
            reads: vec![Read { file, offset_bytes, size_bytes }],
            made: None,
            fix: None,
            decode: Decode::As(DType::F32),
            pick: None,
            add: 0.0,
            to: DType::F32,
            count: size_bytes / 4,
        }
    }

    /// Memory it needs while it is worked on, at most: what is read, gathered, decoded and written.
    pub fn memory_bytes(&self) -> u64 {
        let read: u64 = self.reads.iter().map(|r| r.size_bytes).sum();
        let decoded = match self.decode {
            Decode::As(dtype) => {
                read / u64::from(dtype.facts().block_bytes) * u64::from(dtype.facts().block_elements)
            }
            Decode::Scaled { codes_bytes, .. } => codes_bytes as u64,
            Decode::Mx { nibbles_bytes } => 2 * nibbles_bytes as u64,
            Decode::Packed(ref rows) => rows.count(),
        };
        let fixed = self.fix.as_ref().map_or(0, Fix::size_bytes);
        let band = match &self.decode {
            Decode::Packed(rows) => rows.memory_bytes(),
            _ => 0,
        };
        read + fixed + band + 4 * decoded.max(self.count) + 8 * self.count
    }
}

/// What the bytes of an output are made of, in tasks. Of the tensors that hold a matrix together the first has tasks, which
/// write them all.
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
    let mut packs = None;
    match output.form {
        Form::Face { packed, face: 0 } => packs = Some(pack::Packs::new(table, recipe, packed, limits)?),
        Form::Face { .. } => {}
        Form::Plain | Form::Weighed(_) => output.check()?,
    }
    let mut strands = Vec::with_capacity(output.parts.len());
    let mut first = 0;
    for part in &output.parts {
        let count = part.view.element_count();
        if count > 0 {
            let value = recipe.values.get(part.value).ok_or_else(|| Error::bug("a part without a value"))?;
            let mut strand = strand(table, value, part, output.dtype, limits)
                .map_err(|e| if e.tensor_name().is_some() { e } else { e.tensor(&value.name) })?;
            if let Form::Weighed(_) = output.form
                && block::weighs_rows(output.dtype)
            {
                strand.multiple =
                    output.shape.last().copied().unwrap_or(1).div_ceil(strand.grain.max(1)).max(1);
            }
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
    let plain = strands.into_iter().flat_map(move |(strand, first)| {
        let offset_bytes = to.size_bytes(first).unwrap_or(0);
        strand.tasks().map(move |task| Task { offset_bytes: task.offset_bytes + offset_bytes, ..task })
    });
    Ok(packs.into_iter().flatten().chain(plain))
}

/// Whether an output's bytes are bytes of the source, in runs worth a range copy.
pub fn copies(table: &Checkpoint, recipe: &Recipe, output: &Output) -> bool {
    output.form == Form::Plain
        && output.parts.iter().all(|part| {
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
                        strand(
                            Feed::Blocks { from: vec![(file, offset_bytes)], dtype: t.dtype, each: elements },
                            view.clone(),
                            1,
                        ),
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
        Source::Joined(tensors) => {
            let tensors = tensors.iter().map(|&t| tensor(t)).collect::<Result<Vec<_>>>()?;
            let each = elements / (tensors.len() as u64).max(1);
            if tensors.iter().any(|t| !t.at.is_plain() || t.dtype != value.dtype || t.element_count() != each)
            {
                return Err(Error::unsupported(
                    "is joined of tensors that are not of one type and size, in one run",
                ));
            }
            let from = tensors.iter().map(|t| (t.at.span.file, t.at.span.offset_bytes)).collect();
            let mut joined = strand(Feed::Blocks { from, dtype: value.dtype, each }, view.clone(), 1);
            // Not simplified: the dimension that steps from one tensor to the next must stay one of its own.
            joined.grid = view.clone();
            whole_matrix(joined, limits)
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
        Source::Packed(packed) => {
            let packing = &packed.packing;
            if packing.rows.checked_mul(packing.columns) != Some(elements) {
                return Err(Error::bug("a packed value whose shape is not its packing's"));
            }
            let mut faces = Vec::new();
            for (face, index) in packed.tensors.iter().enumerate() {
                let Some(index) = index.filter(|_| packing.layout.needs(face)) else { continue };
                let tensor = tensor(index)?;
                if !tensor.at.is_plain() {
                    return Err(Error::unsupported(format!(
                        "is held by `{}` too, which does not lie in one run",
                        crate::text::Shown(&tensor.name)
                    )));
                }
                faces.push((face, tensor.at.span));
            }
            let feed = Feed::Packed { of: packed.clone(), faces };
            packed_rows(strand(feed, view.clone(), 1), packed, limits)
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
