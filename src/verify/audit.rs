//! Looks at every number of a model: NaN, infinities, matrices and rows that say nothing because all of them is one value.
//!
//! Numbers are looked at as they pass on their way into memory, piece by piece, in any order and from many threads, so a
//! load costs no second reading. A row that is cut by the edge of a piece is remembered until its other end comes.
//! What is looked for follows from four figures of a row (least, largest, how many NaN, how many infinities), and those of
//! two pieces make those of both.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::load::{self, MakeOptions, Wanted, Watch};
use crate::open::Model;
use crate::run::job::StopSign;
use crate::text::grouped;
use crate::transform::recipe::{Output, Recipe};
use crate::transform::{block, cast};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// Numbers that are widened at once: they stay in a core's first cache. A multiple of every block.
const CHUNK_ELEMENTS: usize = 8192;
/// Numbers that are compared side by side.
const LANES: usize = 16;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The tensor, by the name under which it is computed with.
    pub tensor: String,
    /// What it is.
    pub fault: Fault,
    /// A predicate of the tensor, for a person: "has 3 NaN".
    pub detail: String,
    /// The first row that it is about, counted over all matrices of a stack, where it is about some rows of many.
    pub row: Option<u64>,
    /// Whether it fails by itself; else it is only told, unless everything is to fail.
    pub fatal: bool,
}

/// What may be wrong with numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Numbers that are none.
    NotANumber,
    /// Infinities.
    Infinite,
    /// Zeros only.
    Zero,
    /// One value only.
    Constant,
    /// Rows of zeros only.
    ZeroRows,
    /// Rows of one value only.
    ConstantRows,
}

impl Fault {
    /// Its name, for machines.
    pub fn name(self) -> &'static str {
        match self {
            Fault::NotANumber => "nan",
            Fault::Infinite => "inf",
            Fault::Zero => "zero",
            Fault::Constant => "constant",
            Fault::ZeroRows => "zero_rows",
            Fault::ConstantRows => "constant_rows",
        }
    }
}

/// What is known of some numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Figures {
    least: f32,
    largest: f32,
    nan: u64,
    infinite: u64,
    count: u64,
}

impl Default for Figures {
    fn default() -> Figures {
        Figures { least: f32::INFINITY, largest: f32::NEG_INFINITY, nan: 0, infinite: 0, count: 0 }
    }
}

impl Figures {
    fn of(numbers: &[f32]) -> Figures {
        let mut least = [f32::INFINITY; LANES];
        let mut largest = [f32::NEG_INFINITY; LANES];
        let mut odd = [0u32; LANES];
        let (chunks, rest) = numbers.as_chunks::<LANES>();
        for chunk in chunks {
            for lane in 0..LANES {
                let x = chunk[lane];
                // A comparison with NaN is false: it never counts.
                least[lane] = if x < least[lane] { x } else { least[lane] };
                largest[lane] = if x > largest[lane] { x } else { largest[lane] };
                odd[lane] += u32::from(x.to_bits() & 0x7f80_0000 == 0x7f80_0000);
            }
        }
        let mut all = Figures { count: numbers.len() as u64, ..Figures::default() };
        for lane in 0..LANES {
            all.least = all.least.min(least[lane]);
            all.largest = all.largest.max(largest[lane]);
        }
        for &x in rest {
            all.least = all.least.min(x);
            all.largest = all.largest.max(x);
        }
        if odd.iter().any(|&n| n > 0) || rest.iter().any(|x| !x.is_finite()) {
            all.nan = numbers.iter().filter(|x| x.is_nan()).count() as u64;
            all.infinite = numbers.iter().filter(|x| x.is_infinite()).count() as u64;
        }
        all
    }

    fn and(self, other: Figures) -> Figures {
        Figures {
            least: self.least.min(other.least),
            largest: self.largest.max(other.largest),
            nan: self.nan + other.nan,
            infinite: self.infinite + other.infinite,
            count: self.count + other.count,
        }
    }

    /// The value that all of them have.
    fn constant(self) -> Option<f32> {
        (self.nan == 0 && self.count > 0 && self.least == self.largest).then_some(self.least)
    }
}

/// How many of something, and the first of them.
#[derive(Debug, Clone, Copy, Default)]
struct Noted {
    count: u64,
    first: u64,
}

impl Noted {
    fn note(&mut self, at: u64) {
        self.first = if self.count == 0 { at } else { self.first.min(at) };
        self.count += 1;
    }

    fn and(self, other: Noted) -> Noted {
        match (self.count, other.count) {
            (0, _) => other,
            (_, 0) => self,
            _ => Noted { count: self.count + other.count, first: self.first.min(other.first) },
        }
    }
}

/// What is known of one tensor.
#[derive(Debug, Clone, Default)]
struct Seen {
    /// One for each matrix of a stack.
    matrices: BTreeMap<u64, Figures>,
    /// Rows of which not all was seen.
    open: BTreeMap<u64, Figures>,
    zero_rows: Noted,
    constant_rows: Noted,
    nan_rows: Noted,
    infinite_rows: Noted,
}

/// How a tensor's numbers are arranged.
#[derive(Debug, Clone, Copy)]
struct Arrangement {
    columns: u64,
    rows_per_matrix: u64,
    elements: u64,
    /// Whether it is something that is multiplied with: then no sound one is constant.
    is_matrix: bool,
}

impl Arrangement {
    fn of(output: &Output) -> Arrangement {
        let shape = &output.shape;
        let columns = shape.last().copied().unwrap_or(1).max(1);
        let rows = match shape.len() {
            0 | 1 => 1,
            n => shape.get(n - 2).copied().unwrap_or(1).max(1),
        };
        let elements = crate::dtype::element_count(shape).unwrap_or(0);
        let is_matrix = shape.len() >= 2 && columns > 1 && rows > 1 && !output.name.ends_with(".bias");
        Arrangement { columns, rows_per_matrix: rows, elements, is_matrix }
    }
}

impl Seen {
    /// A piece of a row.
    fn piece(&mut self, how: &Arrangement, row: u64, figures: Figures) {
        if figures.nan > 0 {
            self.nan_rows.note(row);
        }
        if figures.infinite > 0 {
            self.infinite_rows.note(row);
        }
        let matrix = self.matrices.entry(row / how.rows_per_matrix).or_default();
        *matrix = matrix.and(figures);
        self.part_of_row(how, row, figures);
    }

    fn part_of_row(&mut self, how: &Arrangement, row: u64, figures: Figures) {
        let whole = match self.open.remove(&row) {
            Some(before) => before.and(figures),
            None => figures,
        };
        if whole.count < how.columns {
            self.open.insert(row, whole);
            return;
        }
        match whole.constant() {
            Some(0.0) => self.zero_rows.note(row),
            Some(_) if how.columns > 1 => self.constant_rows.note(row),
            _ => {}
        }
    }

    /// Takes up what another has seen of the same tensor.
    fn join(&mut self, how: &Arrangement, other: Seen) {
        for (matrix, figures) in other.matrices {
            let mine = self.matrices.entry(matrix).or_default();
            *mine = mine.and(figures);
        }
        self.zero_rows = self.zero_rows.and(other.zero_rows);
        self.constant_rows = self.constant_rows.and(other.constant_rows);
        self.nan_rows = self.nan_rows.and(other.nan_rows);
        self.infinite_rows = self.infinite_rows.and(other.infinite_rows);
        for (row, figures) in other.open {
            self.part_of_row(how, row, figures);
        }
    }

    /// What is to be said.
    fn findings(&self, name: &str, how: &Arrangement) -> Result<Vec<Finding>> {
        let all = self.matrices.values().fold(Figures::default(), |all, &one| all.and(one));
        if all.count != how.elements || !self.open.is_empty() {
            return Err(Error::bug(format!(
                "has {} numbers, and {} of them were looked at",
                grouped(how.elements),
                grouped(all.count)
            ))
            .tensor(name));
        }
        let mut out = Vec::new();
        let mut say = |fault: Fault, detail: String, row: Option<u64>, fatal: bool| {
            let row = row.filter(|_| how.is_matrix);
            out.push(Finding { tensor: name.to_owned(), fault, detail, row, fatal });
        };
        if all.nan > 0 {
            say(Fault::NotANumber, format!("has {} NaN", grouped(all.nan)), Some(self.nan_rows.first), true);
        }
        if all.infinite > 0 {
            let detail = format!("has {} Inf", grouped(all.infinite));
            say(Fault::Infinite, detail, Some(self.infinite_rows.first), true);
        }
        // A stack's matrices are each by itself: an expert of zeros among sound ones is as broken as a layer of zeros.
        let (mut zero, mut constant) = (Noted::default(), Noted::default());
        let mut value = 0.0;
        for (&matrix, figures) in &self.matrices {
            match figures.constant() {
                Some(0.0) => zero.note(matrix),
                Some(x) if figures.count > 1 => {
                    constant.note(matrix);
                    value = x;
                }
                _ => {}
            }
        }
        let count = self.matrices.len() as u64;
        let of_stack = |some: Noted, what: &str| match (count, some.count) {
            (1, _) => what.to_owned(),
            (all, n) if n == all => format!("{what}, all {} of its matrices", grouped(all)),
            (all, n) => format!(
                "{what} in {} of its {} matrices, the first of them {}",
                grouped(n),
                grouped(all),
                grouped(some.first)
            ),
        };
        if zero.count > 0 {
            say(Fault::Zero, of_stack(zero, "is all zero"), None, how.is_matrix);
        }
        if constant.count > 0 {
            let what =
                if constant.count == 1 { format!("is {value} everywhere") } else { "is constant".into() };
            say(Fault::Constant, of_stack(constant, &what), None, how.is_matrix);
        }
        if how.is_matrix && zero.count == 0 && constant.count == 0 {
            let rows = how.elements / how.columns;
            for (some, fault, what) in [
                (self.zero_rows, Fault::ZeroRows, "are all zero"),
                (self.constant_rows, Fault::ConstantRows, "are constant"),
            ] {
                if some.count > 0 {
                    let detail = format!("has {} of {} rows that {what}", grouped(some.count), grouped(rows));
                    say(fault, detail, Some(some.first), false);
                }
            }
        }
        Ok(out)
    }
}

/// Looks at what passes, for one load.
pub struct Collector {
    recipe: Arc<Recipe>,
    seen: HashMap<usize, (Arrangement, Mutex<Seen>)>,
}

impl Collector {
    /// For these of a recipe's outputs, each of which passes whole.
    pub fn new(recipe: &Arc<Recipe>, outputs: impl IntoIterator<Item = usize>) -> Collector {
        let seen = outputs.into_iter().filter_map(|at| {
            let how = Arrangement::of(recipe.outputs.get(at)?);
            Some((at, (how, Mutex::default())))
        });
        Collector { seen: seen.collect(), recipe: Arc::clone(recipe) }
    }

    /// What there is to say of each output. To be called when all has passed.
    ///
    /// # Errors
    /// A bug: not everything passed.
    pub fn findings(&self) -> Result<Vec<(usize, Vec<Finding>)>> {
        let mut out = Vec::with_capacity(self.seen.len());
        for (&at, (how, seen)) in &self.seen {
            let name = self.recipe.outputs.get(at).map_or("", |o| &o.name);
            let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            out.push((at, seen.findings(name, how)?));
        }
        out.sort_by_key(|(at, _)| *at);
        Ok(out)
    }
}

impl Watch for Collector {
    fn see(&self, wanted: &Wanted, first_element: u64, bytes: &[u8]) -> Result<()> {
        let Some((how, all)) = self.seen.get(&wanted.output) else { return Ok(()) };
        let mut seen = Seen::default();
        let mut numbers = vec![0.0f32; CHUNK_ELEMENTS];
        let chunk_bytes = wanted.dtype.size_bytes(CHUNK_ELEMENTS as u64).unwrap_or(1).max(1) as usize;
        let facts = wanted.dtype.facts();
        let mut at = first_element;
        for chunk in bytes.chunks(chunk_bytes) {
            let count = chunk.len() / facts.block_bytes as usize * facts.block_elements as usize;
            let numbers =
                numbers.get_mut(..count).ok_or_else(|| Error::bug("a chunk is larger than a chunk"))?;
            widen(wanted.dtype, chunk, numbers)?;
            let mut rest: &[f32] = numbers;
            while !rest.is_empty() {
                let in_row = how.columns - at % how.columns;
                let (piece, behind) =
                    rest.split_at(rest.len().min(usize::try_from(in_row).unwrap_or(usize::MAX)));
                seen.piece(how, at / how.columns, Figures::of(piece));
                at += piece.len() as u64;
                rest = behind;
            }
        }
        all.lock().unwrap_or_else(PoisonError::into_inner).join(how, seen);
        Ok(())
    }
}

/// Any type that is computed with to f32.
fn widen(dtype: DType, bytes: &[u8], numbers: &mut [f32]) -> Result<()> {
    if block::can_decode(dtype) {
        block::decode(dtype, bytes, numbers);
    } else if dtype == DType::F32 {
        bytemuck::cast_slice_mut(numbers).copy_from_slice(bytes);
    } else if cast::can_cast(dtype, DType::F32) {
        cast::cast(dtype, DType::F32, bytes, bytemuck::cast_slice_mut(numbers), false);
    } else {
        return Err(Error::bug(format!("no numbers in `{dtype}`")));
    }
    Ok(())
}

/// Looks at some of a recipe's outputs, which are read for it and not kept. In order of the outputs.
///
/// # Errors
/// Those of reading.
pub fn outputs(
    model: &Arc<Model>,
    recipe: &Arc<Recipe>,
    outputs: &[usize],
    options: MakeOptions,
    stop: &StopSign,
) -> Result<Vec<(usize, Vec<Finding>)>> {
    let collector = Arc::new(Collector::new(recipe, outputs.iter().copied()));
    let wanted = outputs.iter().filter_map(|&at| {
        let output = recipe.outputs.get(at)?;
        // As they lie where that can be looked at: what is not widened first is read straight.
        let dtype = match load::blocks(model, recipe, output) {
            Some(blocks) if block::can_decode(blocks) => blocks,
            _ if matches!(output.dtype, DType::BF16 | DType::F16) => output.dtype,
            _ => DType::F32,
        };
        Some(Wanted::whole(at, dtype))
    });
    let watch: Arc<dyn Watch> = Arc::clone(&collector) as Arc<dyn Watch>;
    let options = MakeOptions { watch: Some(watch), ..options };
    load::pass(model, recipe, wanted.collect(), options).wait_unless(stop)?;
    collector.findings()
}
