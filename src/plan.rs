//! The plan: which bytes are read, what is done to them, and where they go. Pure data, computed before anything moves.
//!
//! Tensors that arrive as they lie in the file (all of them, mostly) become *pieces*: rows of bytes with a pitch on
//! each side. Pieces of one file are sorted and joined into *runs* across gaps not worth skipping, and a run is cut into
//! *units* at multiples of the chunk size, so that a unit's bytes fit a slot and a direct read of one is aligned. A
//! piece knows nothing of units and a unit nothing of tensors: slicing for a rank only changes rows and pitches.
//!
//! What a copy of rows cannot say (strided views, the other byte order, lazy conjugation, casts of such) becomes a
//! *gather*, cut into units by output. Units are made one at a time when a worker asks, so the plan's size follows the
//! number of tensors and not the number of bytes.

mod gather;
mod units;
pub mod weave;

pub use units::Units;

use crate::checkpoint::{ByteOrder, Checkpoint, FileId, Tensor, row_major_strides};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::open::Model;
use crate::transform::cast::{self, Fix};
use crate::transform::recipe;
use gather::Gather;
use hashbrown::HashMap;
use std::ops::Range;

/// Rows that are planned one by one, where a tensor is cut in several places and cast or reordered too. Real models
/// have a few thousand; a view that repeats its rows could claim any number.
const SINGLE_ROWS_MAX: u64 = 1 << 20;
/// Rows at least this long are read one by one as they are, however far apart.
const FAR_ROW_BYTES_MIN: u64 = 64 << 10;
/// The most rows far apart that the plan keeps: a few hundred bytes each, in all.
const FAR_ROWS_MAX: u64 = 1 << 22;

/// An arena, by its place in [`Plan::arenas`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ArenaId(pub u32);

impl ArenaId {
    /// The place in [`Plan::arenas`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One tensor that is wanted.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its place in the table.
    pub tensor: usize,
    /// The type it shall have.
    pub dtype: DType,
    /// The dimension to cut and the ranges of it to keep, joined in this order.
    pub slice: Option<(usize, Vec<Range<u64>>)>,
}

impl Item {
    /// The whole tensor as it is.
    pub fn whole(table: &Checkpoint, tensor: usize) -> Item {
        Item { tensor, dtype: table.tensors[tensor].dtype, slice: None }
    }
}

/// How the target wants its memory.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Each tensor starts at a multiple of this.
    pub align_bytes: u64,
    /// Tensors below 4 KiB start at multiples of 16 if the padding would exceed this.
    pub padding_bytes_max: u64,
    /// The most bytes a unit reads or yields.
    pub chunk_bytes: u64,
    /// Where a run is cut into units.
    pub cut: Cut,
}

/// Where a run is cut into units: at multiples of the chunk size, counted here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// In the file, so that a direct read of a unit is aligned.
    File,
    /// In the arena, so that no two workers fault in the same huge page.
    Arena,
}

/// Memory for the tensors of one dtype.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArenaPlan {
    /// The type.
    pub dtype: DType,
    /// The size, padding included.
    pub size_bytes: u64,
}

/// One tensor as it will arrive.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its place in the table; of what a recipe makes, its place among the recipe's outputs.
    pub tensor: usize,
    /// Its name.
    pub name: String,
    /// Its type on arrival.
    pub dtype: DType,
    /// Its shape on arrival.
    pub shape: Vec<u64>,
    /// The arena it lies in.
    pub arena: ArenaId,
    /// Where in the arena.
    pub offset_bytes: u64,
    /// How many bytes. Aliases share them.
    pub size_bytes: u64,
    /// The output whose bytes these are: itself, unless it is an alias (tied weights).
    pub first: usize,
}

/// What is done to bytes on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// Nothing.
    Copy,
    /// Each element from one float type to another.
    Cast {
        /// The type in the file.
        from: DType,
        /// The type on arrival.
        to: DType,
    },
}

impl Kernel {
    /// How many bytes come of `size_bytes`, which are whole elements.
    pub fn output_bytes(self, size_bytes: u64) -> u64 {
        match self {
            Kernel::Copy => size_bytes,
            Kernel::Cast { from, to } => {
                size_bytes / u64::from(from.facts().block_bytes) * u64::from(to.facts().block_bytes)
            }
        }
    }

    /// The bytes that must stay together.
    fn grain_bytes(self) -> u64 {
        match self {
            Kernel::Copy => 1,
            Kernel::Cast { from, .. } => u64::from(from.facts().block_bytes),
        }
    }
}

/// Where bytes go: rows of an arena; one row when they are contiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dest {
    /// Which arena.
    pub arena: ArenaId,
    /// The first row's first byte.
    pub offset_bytes: u64,
    /// From one row to the next.
    pub pitch_bytes: u64,
}

/// Bytes of a unit on their way to an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Put {
    /// The first row's first byte, in the unit's bytes.
    pub from_bytes: u64,
    /// Bytes of a row, before the kernel.
    pub row_bytes: u64,
    /// From one row to the next, in the unit's bytes.
    pub pitch_bytes: u64,
    /// How many rows. A cast has one.
    pub row_count: u64,
    /// What is done to them.
    pub kernel: Kernel,
    /// Where they go.
    pub to: Dest,
}

impl Put {
    /// Whether this is one run of bytes on both sides.
    pub fn is_contiguous(&self) -> bool {
        self.row_count == 1
    }

    /// Bytes on arrival.
    pub fn output_bytes(&self) -> u64 {
        self.kernel.output_bytes(self.row_bytes) * self.row_count
    }
}

/// Bytes that one read brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// The first byte.
    pub offset_bytes: u64,
    /// How many.
    pub size_bytes: u64,
}

/// What a worker does at one go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// The file it reads.
    pub file: FileId,
    /// What it reads. More than one only with `fix`: then the bytes are put one after the other.
    pub reads: Vec<Read>,
    /// Makes plain bytes of what was read, before anything else; the puts then count in those.
    pub fix: Option<Fix>,
    /// Where the bytes go, in their order.
    pub puts: Vec<Put>,
}

impl Unit {
    /// Bytes read.
    pub fn read_bytes(&self) -> u64 {
        self.reads.iter().map(|r| r.size_bytes).sum()
    }
}

/// Rows of bytes in a file and where they go.
#[derive(Debug, Clone, Copy)]
struct Piece {
    file: FileId,
    offset_bytes: u64,
    row_bytes: u64,
    pitch_bytes: u64,
    row_count: u64,
    kernel: Kernel,
    to: Dest,
}

impl Piece {
    fn end_bytes(&self) -> u64 {
        self.offset_bytes + (self.row_count - 1) * self.pitch_bytes + self.row_bytes
    }

    /// The byte at or before `at` where the piece may be cut.
    fn cut(&self, at: u64) -> u64 {
        let at = at.clamp(self.offset_bytes, self.end_bytes());
        at - (at - self.offset_bytes) % self.kernel.grain_bytes()
    }
}

/// Bytes of one file that are read without a break.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    file: FileId,
    start_bytes: u64,
    end_bytes: u64,
    /// Its pieces, as a range of the sorted list.
    pieces: Range<usize>,
}

/// The whole plan.
#[derive(Debug)]
pub struct Plan {
    /// The memory that is needed.
    pub arenas: Vec<ArenaPlan>,
    /// What arrives, in the table's order.
    pub outputs: Vec<Output>,
    /// Bytes that will be read.
    pub read_bytes: u64,
    /// Bytes that arrive, aliases counted once, padding not.
    pub output_bytes: u64,
    pieces: Vec<Piece>,
    runs: Vec<Run>,
    gathers: Vec<Gather>,
    chunk_bytes: u64,
    cut: Cut,
    /// For each file the largest gap that is read over.
    gaps_bytes: Vec<u64>,
    /// Rows that had to become views of their own.
    single_rows: u64,
}

impl Plan {
    /// Plans the items of a model for a target.
    pub fn new(model: &Model, items: &[Item], target: &Target) -> Result<Plan> {
        let table = &model.table;
        let mut plan = Plan::empty(target);
        plan.gaps_bytes = model.files.iter().map(|f| f.temper().gap_bytes_max).collect();
        plan.lay_out(table, items, target)?;
        for (item, output) in items.iter().zip(0..) {
            if plan.outputs[output].first == output {
                plan.add_item(&table.tensors[item.tensor], item, output)?;
            }
        }
        plan.pieces.sort_by_key(|p| (p.file, p.offset_bytes));
        plan.join()?;
        // Saturating: a view that repeats its elements can claim any number of bytes.
        let runs = plan.runs.iter().map(|r| r.end_bytes - r.start_bytes);
        let gathers = plan.gathers.iter().map(Gather::source_bytes);
        plan.read_bytes = runs.chain(gathers).fold(0, u64::saturating_add);
        Ok(plan)
    }

    /// The most bytes that a unit reads or yields.
    pub fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// The memory for what a recipe makes, of `read_bytes` of files. How it is made is [`weave`]'s: such a plan has no units.
    ///
    /// # Errors
    /// `BadInput`: sizes that do not fit into 64 bits.
    pub fn of_outputs(outputs: &[recipe::Output], read_bytes: u64, target: &Target) -> Result<Plan> {
        let mut plan = Plan { read_bytes, ..Plan::empty(target) };
        let mut arenas = HashMap::new();
        for (index, output) in outputs.iter().enumerate() {
            let recipe::Output { name, dtype, shape, .. } = output;
            let arena = plan.arena(&mut arenas, *dtype);
            plan.outputs.push(Output {
                tensor: index,
                name: name.clone(),
                dtype: *dtype,
                shape: shape.clone(),
                arena,
                offset_bytes: 0,
                size_bytes: output.size_bytes()?,
                first: index,
            });
        }
        plan.place(target)?;
        Ok(plan)
    }

    fn empty(target: &Target) -> Plan {
        Plan {
            arenas: Vec::new(),
            outputs: Vec::new(),
            read_bytes: 0,
            output_bytes: 0,
            pieces: Vec::new(),
            runs: Vec::new(),
            gathers: Vec::new(),
            chunk_bytes: target.chunk_bytes,
            cut: target.cut,
            gaps_bytes: Vec::new(),
            single_rows: 0,
        }
    }

    /// Bytes of all arenas.
    pub fn arena_bytes(&self) -> u64 {
        self.arenas.iter().fold(0, |sum, a| sum.saturating_add(a.size_bytes))
    }

    /// Whether any element changes its type.
    pub fn casts(&self) -> bool {
        self.pieces.iter().any(|p| p.kernel != Kernel::Copy)
            || self.gathers.iter().any(|g| g.kernel != Kernel::Copy)
    }

    /// Ranges of each file that are read, in order: what a mapped load makes present, what residency is asked of.
    pub fn ranges(&self) -> impl Iterator<Item = (FileId, Range<u64>)> + '_ {
        let runs = self.runs.iter().map(|r| (r.file, r.start_bytes..r.end_bytes));
        runs.chain(self.gathers.iter().map(|g| (g.file, g.source_range())))
    }

    /// The units, in the order of files and offsets; gathers last.
    pub fn units(&self) -> Units<'_> {
        Units::new(self)
    }

    /// The output that a byte of an arena belongs to, for messages.
    pub fn output_at(&self, arena: ArenaId, offset_bytes: u64) -> Option<&Output> {
        self.outputs.iter().find(|o| {
            o.arena == arena && (o.offset_bytes..o.offset_bytes + o.size_bytes.max(1)).contains(&offset_bytes)
        })
    }

    /// Gives each item its dtype's arena and a place in it.
    fn lay_out(&mut self, table: &Checkpoint, items: &[Item], target: &Target) -> Result<()> {
        let firsts = table.firsts();
        let mut placed = HashMap::with_capacity(items.len());
        let mut arenas: HashMap<DType, ArenaId> = HashMap::new();
        for (index, item) in items.iter().enumerate() {
            let tensor = &table.tensors[item.tensor];
            let mut shape = tensor.shape.clone();
            if let Some((dim, ranges)) = &item.slice {
                check_slice(tensor, *dim, ranges)?;
                shape[*dim] = ranges.iter().map(|r| r.end - r.start).sum();
            }
            let size_bytes = crate::dtype::element_count(&shape).and_then(|n| item.dtype.size_bytes(n));
            let Some(size_bytes) = size_bytes else {
                return Err(
                    Error::bad_input(format!("is too large as `{}`", item.dtype)).tensor(&tensor.name)
                );
            };
            let first = *placed.entry((firsts[item.tensor], item.dtype, item.slice.clone())).or_insert(index);
            let arena = self.arena(&mut arenas, item.dtype);
            self.outputs.push(Output {
                tensor: item.tensor,
                name: tensor.name.clone(),
                dtype: item.dtype,
                shape,
                arena,
                offset_bytes: 0,
                size_bytes,
                first,
            });
        }
        self.place(target)
    }

    /// The arena of a type, made where there is none.
    fn arena(&mut self, arenas: &mut HashMap<DType, ArenaId>, dtype: DType) -> ArenaId {
        let next = arenas.len();
        let arena = *arenas.entry(dtype).or_insert(ArenaId(next as u32));
        if arena.index() == self.arenas.len() {
            self.arenas.push(ArenaPlan { dtype, size_bytes: 0 });
        }
        arena
    }

    /// Gives each output its place in its arena, in their order.
    fn place(&mut self, target: &Target) -> Result<()> {
        let padding =
            |size: u64| size.checked_next_multiple_of(target.align_bytes).map_or(0, |end| end - size);
        let firsts = self.outputs.iter().enumerate().filter(|(i, o)| o.first == *i);
        let padding_bytes =
            firsts.clone().fold(0u64, |sum, (_, o)| sum.saturating_add(padding(o.size_bytes)));
        self.output_bytes = firsts.fold(0, |sum, (_, o)| sum.saturating_add(o.size_bytes));
        let pack_small = padding_bytes > target.padding_bytes_max;
        for index in 0..self.outputs.len() {
            let Output { first, size_bytes, arena, .. } = self.outputs[index];
            if first != index {
                self.outputs[index].offset_bytes = self.outputs[first].offset_bytes;
                continue;
            }
            let align = if pack_small && size_bytes < 4096 { 16 } else { target.align_bytes };
            let end = &mut self.arenas[arena.index()].size_bytes;
            let name = &self.outputs[index].name;
            let too_large =
                || Error::bad_input("and those before it do not fit into 64 bits of address").tensor(name);
            let start = end.checked_next_multiple_of(align).ok_or_else(too_large)?;
            *end = start.checked_add(size_bytes).ok_or_else(too_large)?;
            self.outputs[index].offset_bytes = start;
        }
        Ok(())
    }

    /// Says how one item's bytes get to their place.
    fn add_item(&mut self, tensor: &Tensor, item: &Item, output: usize) -> Result<()> {
        let Output { arena, offset_bytes, size_bytes, .. } = self.outputs[output];
        if size_bytes == 0 {
            return Ok(());
        }
        let kernel = match item.dtype == tensor.dtype {
            true => Kernel::Copy,
            false if cast::is_supported(tensor.dtype, item.dtype) => {
                Kernel::Cast { from: tensor.dtype, to: item.dtype }
            }
            false => {
                let message = format!("is `{}`, which is not cast to `{}`", tensor.dtype, item.dtype);
                return Err(Error::unsupported(message).tensor(&tensor.name));
            }
        };
        let block_bytes = u64::from(tensor.dtype.facts().block_bytes);
        let shape = block_shape(tensor)?;
        let strides = match &tensor.at.strides {
            Some(strides) => strides.clone(),
            None => row_major_strides(&shape)
                .ok_or_else(|| Error::bad_input("has strides that overflow").tensor(&tensor.name))?,
        };
        let grain = if item.slice.as_ref().is_some_and(|(dim, _)| dim + 1 == tensor.shape.len()) {
            u64::from(tensor.dtype.facts().block_elements)
        } else {
            1
        };
        let (dim, ranges): (usize, Vec<Range<u64>>) = match &item.slice {
            Some((dim, ranges)) => (*dim, ranges.iter().map(|r| r.start / grain..r.end / grain).collect()),
            None => (0, std::iter::once(0..shape.first().copied().unwrap_or(1)).collect()),
        };
        let kept: u64 = ranges.iter().map(|r| r.end - r.start).sum();
        let inner: u64 = shape.iter().skip(dim + 1).product();
        let outer: u64 = shape.iter().take(dim).product();
        let mut done = 0;
        for range in ranges.iter().filter(|r| r.start < r.end) {
            let count = range.end - range.start;
            let mut view = View {
                offset_bytes: tensor.at.span.offset_bytes
                    + range.start * strides.get(dim).copied().unwrap_or(0) * block_bytes,
                shape: shape.clone(),
                strides: strides.to_vec(),
            };
            if let Some(d) = view.shape.get_mut(dim) {
                *d = count;
            }
            // Rows of the output: whole where the range is all of the dimension or nothing lies outside it.
            let row = Rows {
                dims: dim,
                count: outer,
                size_bytes: count * inner * block_bytes,
                to_pitch_bytes: kept * inner * block_bytes,
            };
            let to = offset_bytes + kernel.output_bytes(done * inner * block_bytes);
            self.add_view(tensor, view, kernel, &row, arena, to)?;
            done += count;
        }
        Ok(())
    }

    /// A view becomes a piece where rows with a pitch can say it, else a gather.
    fn add_view(
        &mut self,
        tensor: &Tensor,
        mut view: View,
        kernel: Kernel,
        rows: &Rows,
        arena: ArenaId,
        to_bytes: u64,
    ) -> Result<()> {
        let block_bytes = u64::from(tensor.dtype.facts().block_bytes);
        let file = tensor.at.span.file;
        let native = tensor.at.order == ByteOrder::Little && !tensor.at.conj && !tensor.at.neg;
        let contiguous_target = rows.count == 1 || rows.size_bytes == rows.to_pitch_bytes;
        let uncut = (!contiguous_target).then(|| view.clone());
        view.simplify();
        if native {
            let piece = match (view.shape.as_slice(), view.strides.as_slice()) {
                ([], []) => Some((block_bytes, block_bytes, 1)),
                (&[n], &[1]) => Some((n * block_bytes, n * block_bytes, 1)),
                (&[n], &[pitch]) if !contiguous_target && pitch > 0 => {
                    Some((block_bytes, pitch * block_bytes, n))
                }
                (&[n, m], &[pitch, 1]) if pitch >= m => Some((m * block_bytes, pitch * block_bytes, n)),
                _ => None,
            };
            // A row of the source must be a row of the target, or the target must take them all in one run.
            let piece = piece.filter(|&(row, _, count)| {
                contiguous_target || (row == rows.size_bytes && count == rows.count)
            });
            let piece = piece.filter(|&(.., count)| kernel == Kernel::Copy || count == 1);
            // Short rows far apart would each be a run of the plan; a gather makes its reads when their turn comes.
            let gap = self.gaps_bytes.get(file.index()).copied().unwrap_or(0);
            let piece = piece.filter(|&(row, pitch, count)| {
                !contiguous_target || count == 1 || pitch - row <= gap || row >= FAR_ROW_BYTES_MIN
            });
            if let Some((row_bytes, pitch_bytes, row_count)) = piece {
                let to_pitch = if contiguous_target { row_bytes } else { rows.to_pitch_bytes };
                let to = Dest { arena, offset_bytes: to_bytes, pitch_bytes: to_pitch };
                let offset_bytes = view.offset_bytes;
                self.pieces.push(Piece { file, offset_bytes, row_bytes, pitch_bytes, row_count, kernel, to });
                return Ok(());
            }
        }
        if let Some(view) = uncut {
            return self.add_rows(tensor, &view, kernel, rows, arena, to_bytes);
        }
        self.gathers.push(Gather {
            file,
            offset_bytes: view.offset_bytes,
            shape: view.shape,
            strides: view.strides,
            dtype: tensor.dtype,
            swap: tensor.at.order == ByteOrder::Big,
            conj: tensor.at.conj,
            neg: tensor.at.neg,
            kernel,
            to: Dest { arena, offset_bytes: to_bytes, pitch_bytes: 0 },
            chunk_bytes: self.chunk_bytes,
        });
        Ok(())
    }

    /// A view whose rows go to places apart and that must be cast or reordered too: each row is a view of its own.
    fn add_rows(
        &mut self,
        tensor: &Tensor,
        view: &View,
        kernel: Kernel,
        rows: &Rows,
        arena: ArenaId,
        to_bytes: u64,
    ) -> Result<()> {
        self.single_rows = self.single_rows.saturating_add(rows.count);
        if self.single_rows > SINGLE_ROWS_MAX {
            let message = format!(
                "is cut in several places along dimension {} and would have to be cast or reordered too, in {} rows",
                rows.dims, rows.count
            );
            return Err(Error::unsupported(message).tensor(&tensor.name));
        }
        let block_bytes = u64::from(tensor.dtype.facts().block_bytes);
        for row in 0..rows.count {
            let (mut rest, mut place) = (row, 0);
            for (n, stride) in view.shape.iter().zip(&view.strides).take(rows.dims).rev() {
                place += rest % n * stride;
                rest /= n;
            }
            let part = View {
                offset_bytes: view.offset_bytes + place * block_bytes,
                shape: view.shape.iter().skip(rows.dims).copied().collect(),
                strides: view.strides.iter().skip(rows.dims).copied().collect(),
            };
            let one =
                Rows { dims: 0, count: 1, size_bytes: rows.size_bytes, to_pitch_bytes: rows.size_bytes };
            let to = to_bytes + kernel.output_bytes(row * rows.to_pitch_bytes);
            self.add_view(tensor, part, kernel, &one, arena, to)?;
        }
        Ok(())
    }

    /// Joins the sorted pieces into runs.
    fn join(&mut self) -> Result<()> {
        let mut far_rows = 0u64;
        for (index, piece) in self.pieces.iter().enumerate() {
            let gap = self.gaps_bytes.get(piece.file.index()).copied().unwrap_or(0);
            // Rows far apart are read one by one.
            let stretches = if piece.row_count > 1 && piece.pitch_bytes - piece.row_bytes > gap {
                piece.row_count
            } else {
                1
            };
            far_rows = far_rows.saturating_add(stretches - 1);
            if far_rows > FAR_ROWS_MAX {
                return Err(Error::unsupported(format!(
                    "this cut needs more than {} rows that lie far apart in their files",
                    crate::text::grouped(FAR_ROWS_MAX)
                )));
            }
            for stretch in 0..stretches {
                let start = piece.offset_bytes + stretch * piece.pitch_bytes;
                let end = if stretches == 1 { piece.end_bytes() } else { start + piece.row_bytes };
                match self.runs.last_mut() {
                    Some(run)
                        if run.file == piece.file
                            && start <= run.end_bytes.saturating_add(gap)
                            && start >= run.start_bytes =>
                    {
                        run.end_bytes = run.end_bytes.max(end);
                        run.pieces.end = index + 1;
                    }
                    _ => self.runs.push(Run {
                        file: piece.file,
                        start_bytes: start,
                        end_bytes: end,
                        pieces: index..index + 1,
                    }),
                }
            }
        }
        Ok(())
    }
}

/// Part of a tensor's elements: offset, sizes and strides in blocks.
#[derive(Clone)]
struct View {
    offset_bytes: u64,
    shape: Vec<u64>,
    strides: Vec<u64>,
}

impl View {
    /// Drops dimensions of one and joins neighbours that are one run.
    fn simplify(&mut self) {
        let mut dims: Vec<(u64, u64)> = Vec::with_capacity(self.shape.len());
        for (&n, &stride) in self.shape.iter().zip(&self.strides) {
            if n == 1 {
                continue;
            }
            match dims.last_mut() {
                Some((count, s)) if n.checked_mul(stride) == Some(*s) => {
                    *count *= n;
                    *s = stride;
                }
                _ => dims.push((n, stride)),
            }
        }
        (self.shape, self.strides) = dims.into_iter().unzip();
    }
}

/// How a view lies in its target, before the kernel.
struct Rows {
    /// The outer dimensions, whose product is the count.
    dims: usize,
    count: u64,
    size_bytes: u64,
    to_pitch_bytes: u64,
}

/// The shape in blocks of the dtype: the last dimension divided, or all of it as one run where the blocks do not
/// follow the rows (sub-byte types).
fn block_shape(tensor: &Tensor) -> Result<Vec<u64>> {
    let block = u64::from(tensor.dtype.facts().block_elements);
    let mut shape = tensor.shape.clone();
    match shape.last_mut() {
        Some(last) if last.is_multiple_of(block) => *last /= block,
        _ if block == 1 => {}
        _ => shape = vec![tensor.element_count() / block],
    }
    Ok(shape)
}

/// Refuses a slice that leaves the tensor or cuts a block.
fn check_slice(tensor: &Tensor, dim: usize, ranges: &[Range<u64>]) -> Result<()> {
    let fail = |message: String| Err(Error::usage(message).tensor(&tensor.name));
    let Some(&size) = tensor.shape.get(dim) else {
        return fail(format!(
            "has {} dimensions, so it cannot be cut along dimension {dim}",
            tensor.shape.len()
        ));
    };
    let block = u64::from(tensor.dtype.facts().block_elements);
    let last = dim + 1 == tensor.shape.len();
    if block > 1 && !tensor.shape.last().is_some_and(|n| n.is_multiple_of(block)) {
        return fail(format!("has rows that share blocks of `{}` and cannot be cut", tensor.dtype));
    }
    for r in ranges {
        if r.start > r.end || r.end > size {
            return fail(format!(
                "has {size} along dimension {dim}, so {}..{} cannot be kept",
                r.start, r.end
            ));
        }
        if last && !(r.start.is_multiple_of(block) && r.end.is_multiple_of(block)) {
            return fail(format!("would be cut inside a block of {block} elements of `{}`", tensor.dtype));
        }
    }
    Ok(())
}
