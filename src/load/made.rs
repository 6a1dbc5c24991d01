//! Loading what a recipe makes: tensors that no file holds as they are wanted, made on their way into memory.
//!
//! A load moves tensors as they lie. Whoever computes wants them under other names, in another order of rows, widened,
//! stacked, joined with their scales; a [`Recipe`] says all that, and this carries it out: the outputs that are wanted, or
//! some rows of each, into one arena for each type.

use super::{ArenaTensors, check_unchanged};
use crate::buf::{Arena, Filling};
use crate::dtype::DType;
use crate::error::{Error, ErrorKind, Result};
use crate::machine;
use crate::open::Model;
use crate::plan::weave::{Limits, copies};
use crate::run::BLOCKING_READERS;
use crate::run::fill::{Fill, Lane, Target, fill};
use crate::run::job::{Control, Job};
use crate::run::make::Odd;
use crate::text::bytes as bytes_text;
use crate::transform::packing::faces::Strip;
use crate::transform::recipe::{Form, Output, Part, Recipe, Source};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

/// Tensors in an arena begin at multiples of this.
const ALIGN_BYTES: u64 = 64;
/// Bytes of one read: a huge page, so that two workers do not fault in the same one.
const READ_BYTES: u64 = 2 << 20;
/// Memory of one worker, in chunks: what is read, decoded to f32, gathered and written.
const WORKER_CHUNKS: u64 = 16;
/// Memory for tasks in flight where nobody says otherwise.
const WORK_BYTES: u64 = 256 << 20;

/// An output that is wanted, or some of its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Which, by its place among the recipe's outputs.
    pub output: usize,
    /// Ranges of its first dimension, one behind the other; all of it where there are none.
    pub rows: Option<Vec<Range<u64>>>,
    /// The type it shall have: f32, bf16 or f16, or the blocks that it has ([`blocks`]).
    pub dtype: DType,
}

impl Wanted {
    /// All of an output.
    pub fn whole(output: usize, dtype: DType) -> Wanted {
        Wanted { output, rows: None, dtype }
    }
}

/// Who sees all that is made, on its way.
pub trait Watch: Send + Sync {
    /// Elements of `wanted`, from the `first_element` on, as bytes of the type that was asked for: whole elements, each once,
    /// in any order and from any thread.
    ///
    /// # Errors
    /// Ends the load.
    fn see(&self, wanted: &Wanted, first_element: u64, bytes: &[u8]) -> Result<()>;
}

/// How to make.
#[derive(Clone, Default)]
pub struct MakeOptions {
    /// Workers; as many as pay off where it is not said.
    pub threads: Option<usize>,
    /// Memory for work in flight, besides the tensors themselves.
    pub work_bytes: Option<u64>,
    /// Whether a number too large for its type becomes the largest there is, instead of an error.
    pub saturate: bool,
    /// Who sees all that is made.
    pub watch: Option<Arc<dyn Watch>>,
    /// Whether every piece of work is an event.
    pub trace: bool,
}

/// Makes what is wanted, in one arena for each type; each arena's tensors stand in the order in which they were wanted.
///
/// # Errors
/// From the job: those of reading, with file, tensor and byte; `BadInput` where a number does not fit its type or a file
/// was changed; `NoSpace` without memory; `Unsupported` for a type that cannot become the one that is wanted.
pub fn make(
    model: &Arc<Model>,
    recipe: &Arc<Recipe>,
    wanted: Vec<Wanted>,
    options: MakeOptions,
) -> Job<Vec<ArenaTensors>> {
    let (model, recipe) = (Arc::clone(model), Arc::clone(recipe));
    Job::start("make", options.trace, move |control| {
        let outputs = wanted.iter().map(|w| output(&model, &recipe, w)).collect::<Result<Vec<_>>>()?;
        let (places, arenas) = lay_out(&outputs)?;
        let arenas = arenas
            .into_iter()
            .map(|(dtype, size_bytes)| {
                let facts = dtype.facts();
                let width = if dtype.is_plain() { facts.block_bytes } else { 1 };
                Ok((dtype, Filling::new(Arena::new(size_bytes, width)?)))
            })
            .collect::<Result<Vec<_>>>()?;
        let target = Into { outputs: &outputs, wanted: &wanted, arenas, places, watch: &options.watch };
        run(&model, &recipe, &outputs, &options, &target, control)?;
        let Into { arenas, places, .. } = target;
        let mut made: Vec<ArenaTensors> = arenas
            .into_iter()
            .map(|(dtype, filling)| ArenaTensors { dtype, arena: filling.finish(), tensors: Vec::new() })
            .collect();
        for (output, (arena, offset_bytes)) in outputs.into_iter().zip(places) {
            if let Some(arena) = made.get_mut(arena) {
                arena.tensors.push((output.name, output.shape, offset_bytes));
            }
        }
        Ok(made)
    })
}

/// Makes what is wanted and keeps nothing: bytes pass by `options.watch`.
///
/// # Errors
/// As [`make`].
pub fn pass(model: &Arc<Model>, recipe: &Arc<Recipe>, wanted: Vec<Wanted>, options: MakeOptions) -> Job<()> {
    let (model, recipe) = (Arc::clone(model), Arc::clone(recipe));
    Job::start("pass", options.trace, move |control| {
        let outputs = wanted.iter().map(|w| output(&model, &recipe, w)).collect::<Result<Vec<_>>>()?;
        let target = Into {
            outputs: &outputs,
            wanted: &wanted,
            arenas: Vec::new(),
            places: Vec::new(),
            watch: &options.watch,
        };
        run(&model, &recipe, &outputs, &options, &target, control)
    })
}

/// Whether two values of a recipe are the same numbers, bit for bit.
///
/// # Errors
/// Those of reading.
pub fn equal(model: &Model, recipe: &Recipe, pair: (usize, usize)) -> Result<bool> {
    crate::run::examine::equal(model, recipe, pair)
}

/// The type of the blocks that an output is a run of, if it is: then it can be had in them, with nothing decoded.
pub fn blocks(model: &Model, recipe: &Recipe, output: &Output) -> Option<DType> {
    let [part] = output.parts.as_slice() else { return None };
    let Source::Tensor(index) = recipe.values.get(part.value)?.source else { return None };
    let dtype = model.table.tensors.get(index)?.dtype;
    let row = output.shape.last().copied().unwrap_or(0);
    let whole_rows = output.shape.len() >= 2 && row.is_multiple_of(u64::from(dtype.facts().block_elements));
    let as_it_is = Output { dtype, ..output.clone() };
    (!dtype.is_plain() && whole_rows && copies(&model.table, recipe, &as_it_is)).then_some(dtype)
}

/// What makes a wanted output, or its rows.
fn output(model: &Model, recipe: &Recipe, wanted: &Wanted) -> Result<Output> {
    let whole =
        recipe.outputs.get(wanted.output).ok_or_else(|| Error::bug("an output that is none is wanted"))?;
    if matches!(whole.form, Form::Face { .. }) {
        return Err(Error::bug("is part of a matrix, and means nothing alone").tensor(&whole.name));
    }
    // Never quantised anew: blocks are those of the file, or there are none.
    if !wanted.dtype.is_plain() && blocks(model, recipe, whole) != Some(wanted.dtype) {
        return Err(Error::bug(format!("does not lie in blocks of `{}`", wanted.dtype)).tensor(&whole.name));
    }
    let Some(rows) = &wanted.rows else {
        return Ok(Output { dtype: wanted.dtype, narrow: None, ..whole.clone() });
    };
    whole.check()?;
    let outside = || Error::bug("has no such rows").tensor(&whole.name);
    let (&count, inner) = whole.shape.split_first().ok_or_else(outside)?;
    let width = crate::dtype::element_count(inner).ok_or_else(outside)?;
    // Where each part begins, in elements.
    let mut starts = Vec::with_capacity(whole.parts.len());
    let mut end = 0;
    for part in &whole.parts {
        starts.push(end);
        end += part.view.element_count();
    }
    let mut parts = Vec::new();
    let mut rows_wanted = 0u64;
    for range in joined(rows) {
        if range.start > range.end || range.end > count {
            return Err(outside());
        }
        rows_wanted += range.end - range.start;
        let (mut at, stop) = (range.start * width, range.end * width);
        let mut number = starts.partition_point(|&start| start <= at).saturating_sub(1);
        while at < stop {
            let (part, &start) = whole.parts.get(number).zip(starts.get(number)).ok_or_else(outside)?;
            let last = stop.min(start + part.view.element_count());
            let views = if at < last { part.view.run(at - start..last - start)? } else { Vec::new() };
            parts.extend(views.into_iter().map(|view| Part { value: part.value, view, add: part.add }));
            at = at.max(last);
            number += 1;
        }
    }
    let mut shape = vec![rows_wanted];
    shape.extend(inner);
    let (name, dtype) = (whole.name.clone(), wanted.dtype);
    Ok(Output { name, dtype, shape, parts, narrow: None, form: Default::default() })
}

/// Ranges that follow each other as one.
fn joined(rows: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut out: Vec<Range<u64>> = Vec::with_capacity(rows.len());
    for range in rows {
        match out.last_mut() {
            Some(last) if last.end == range.start && range.start <= range.end => last.end = range.end,
            _ => out.push(range.clone()),
        }
    }
    out
}

/// Each output's arena and its place there.
type Places = Vec<(usize, u64)>;

/// Where each output lies, and the types and sizes of the arenas.
fn lay_out(outputs: &[Output]) -> Result<(Places, Vec<(DType, u64)>)> {
    let mut arenas: Vec<(DType, u64)> = Vec::new();
    let mut places = Vec::with_capacity(outputs.len());
    for output in outputs {
        let size_bytes = output.size_bytes()?;
        let number = match arenas.iter().position(|(dtype, _)| *dtype == output.dtype) {
            Some(number) => number,
            None => {
                arenas.push((output.dtype, 0));
                arenas.len() - 1
            }
        };
        let (_, end) = &mut arenas[number];
        let start = end.checked_next_multiple_of(ALIGN_BYTES);
        let next = start.and_then(|start| Some((start, start.checked_add(size_bytes)?)));
        let Some((start, next)) = next else {
            return Err(Error::new(ErrorKind::NoSpace, "no memory for so many tensors"));
        };
        places.push((number, start));
        *end = next;
    }
    Ok((places, arenas))
}

/// Arenas that are filled; without them bytes only pass.
struct Into<'a> {
    outputs: &'a [Output],
    wanted: &'a [Wanted],
    arenas: Vec<(DType, Filling)>,
    places: Places,
    watch: &'a Option<Arc<dyn Watch>>,
}

impl Into<'_> {
    /// The place of some bytes of an output, each given out once; `None` where they only pass.
    #[allow(clippy::mut_from_ref)] // each place is given out once, as an arena does it
    fn place(&self, output: usize, offset_bytes: u64, size_bytes: u64) -> Result<Option<&mut [u8]>> {
        let Some((arena, start)) = self.places.get(output) else { return Ok(None) };
        let place = self.arenas.get(*arena).and_then(|(_, a)| a.take(start + offset_bytes, size_bytes));
        place.map(Some).ok_or_else(|| Error::bug("a place in an arena is given out twice"))
    }

    /// Shows bytes that are there now, while the caches hold them: looking at all weights costs no second way through
    /// memory.
    fn arrived(&self, output: usize, offset_bytes: u64, bytes: &[u8]) -> Result<()> {
        let (Some(watch), Some(wanted)) = (self.watch, self.wanted.get(output)) else { return Ok(()) };
        let facts = wanted.dtype.facts();
        let first = offset_bytes / u64::from(facts.block_bytes) * u64::from(facts.block_elements);
        let named = |e: Error| match self.outputs.get(output) {
            Some(output) => e.tensor(&output.name),
            None => e,
        };
        watch.see(wanted, first, bytes).map_err(named)
    }
}

impl Target for Into<'_> {
    fn lane(&self, _worker: usize) -> Result<Box<dyn Lane + '_>> {
        Ok(Box::new(IntoLane { target: self, passing: Vec::new() }))
    }
}

/// One worker's end.
struct IntoLane<'a> {
    target: &'a Into<'a>,
    /// Memory of what only passes.
    passing: Vec<u8>,
}

impl Lane for IntoLane<'_> {
    fn bring(
        &mut self,
        output: usize,
        offset_bytes: u64,
        size_bytes: u64,
        read: &mut dyn FnMut(&mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let into = match self.target.place(output, offset_bytes, size_bytes)? {
            Some(place) => place,
            None => {
                let size = size_bytes as usize;
                self.passing.resize(self.passing.len().max(size), 0);
                self.passing.get_mut(..size).unwrap_or_default()
            }
        };
        read(into)?;
        self.target.arrived(output, offset_bytes, into)
    }

    fn put(&mut self, output: usize, strip: &Strip, bytes: &[u8]) -> Result<()> {
        if strip.run_count != 1 {
            return Err(Error::bug("what is wanted comes in one run"));
        }
        if let Some(place) = self.target.place(output, strip.offset_bytes, bytes.len() as u64)? {
            place.copy_from_slice(bytes);
        }
        self.target.arrived(output, strip.offset_bytes, bytes)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

fn run(
    model: &Model,
    recipe: &Recipe,
    outputs: &[Output],
    options: &MakeOptions,
    target: &dyn Target,
    control: &Control,
) -> Result<()> {
    let sizes = outputs.iter().map(Output::size_bytes).collect::<Result<Vec<_>>>()?;
    let total = sizes.iter().fold(0u64, |sum, &n| sum.saturating_add(n));
    control.plan(format!("cpu, {}", bytes_text(total)), total);
    // Those that are read: others may be many, and a stage is a small part of a model.
    let files = files_of(model, recipe, outputs);
    let unchanged =
        || files.iter().filter_map(|&f| model.files.get(f)).try_for_each(|f| check_unchanged(&**f));
    unchanged()?;
    let work_bytes = options.work_bytes.unwrap_or(WORK_BYTES);
    let network = files.iter().filter_map(|&f| model.files.get(f)).any(|f| f.temper().network);
    let wanted = if network { BLOCKING_READERS } else { machine::core_count() };
    // More workers than pieces would only be started and ended.
    let pieces = usize::try_from(total / READ_BYTES).unwrap_or(usize::MAX).max(1);
    let limits = Limits { copy_bytes: READ_BYTES, ..Limits::within(work_bytes) };
    // A worker keeps what its tasks needed, which is several times what one reads: so many fit.
    let fit = usize::try_from(work_bytes / (WORKER_CHUNKS * limits.chunk_bytes)).unwrap_or(usize::MAX);
    let threads = options.threads.unwrap_or(wanted).min(pieces).min(fit).max(1);
    let work = Fill {
        model,
        recipe,
        outputs,
        limits,
        memory_bytes: work_bytes,
        threads,
        saturate: options.saturate,
        odd: Odd::Keep,
    };
    fill(&work, target, control)?;
    unchanged()
}

/// The files that outputs are made of.
fn files_of(model: &Model, recipe: &Recipe, outputs: &[Output]) -> BTreeSet<usize> {
    let mut values: Vec<usize> = outputs.iter().flat_map(|o| o.parts.iter().map(|p| p.value)).collect();
    values.sort_unstable();
    values.dedup();
    let mut files = BTreeSet::new();
    for value in values.iter().filter_map(|&v| recipe.values.get(v)) {
        let of = value.source.tensors().into_iter().filter_map(|t| model.table.tensors.get(t));
        files.extend(of.map(|t| t.at.span.file.index()));
    }
    files
}
