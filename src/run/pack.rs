//! What a scheme makes: bands of a matrix (some rows of the source as codes, and where their bytes belong), and ggml's blocks.
//! Whoever writes files and whoever fills memory do the same up to that point; what becomes of the bytes is theirs.

use super::budget::Budget;
use super::job::Control;
use super::make::{Hands, Losses, Odd, Weigh, too_large_for_blocks};
use crate::dtype::{Class, element_count};
use crate::error::{Error, Result};
use crate::open::Model;
use crate::plan::weave::{Decode, Limits, Make, Pack, writes};
use crate::source::ReadAt;
use crate::transform::block;
use crate::transform::method;
use crate::transform::packing::faces::Strip;
use crate::transform::recipe::{Form, Output, Recipe};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A strip's memory is given back where it is larger than this.
const KEPT_BYTES: usize = 1 << 20;

/// What bands are made of, and with what.
pub(super) struct Bands<'a> {
    /// The source.
    pub(super) model: &'a Model,
    /// Its matrices.
    pub(super) recipe: &'a Recipe,
    /// How large tasks are.
    pub(super) limits: &'a Limits,
    /// Memory for all tasks in flight.
    pub(super) budget: &'a Budget,
    /// Whether what is NaN or infinite is quantised as zero, instead of an error.
    pub(super) zero_odd: bool,
}

/// The bytes of some bands in one of the tensors that hold their matrix.
pub(super) struct Stripe<'a> {
    /// The tensor, by its place in the recipe's outputs.
    pub(super) output: usize,
    /// Which face of the layout it is.
    pub(super) face: usize,
    /// Where they belong in it.
    pub(super) strip: Strip,
    /// The runs, one behind the other.
    pub(super) bytes: &'a [u8],
}

impl Bands<'_> {
    /// Makes some bands, from the source to the bytes of each tensor that holds some of them, and hands those to `put`.
    ///
    /// # Errors
    /// Of reading, with file, tensor and byte. `BadInput`: NaN or infinity. Those of `put`.
    pub(super) fn make(
        &self,
        pack: &Pack,
        (hands, buffer): (&mut Hands, &mut Vec<u8>),
        control: &Control,
        errors: &Errors,
        put: &mut dyn FnMut(Stripe<'_>) -> Result<()>,
    ) -> Result<()> {
        let Bands { model, recipe, limits, budget, zero_odd } = *self;
        let of = recipe.packed.get(pack.packed).ok_or_else(|| Error::bug("a band of no matrix"))?;
        let packing = &of.packing;
        let makes = pack.bands().map(|band| band.makes(&model.table, recipe, limits));
        let makes = makes.collect::<Result<Vec<_>>>().map_err(|e| e.tensor(&of.matrix.name))?;
        let held = budget.take(pack.memory_bytes(packing, makes.iter().flatten()), control)?;
        // A place for each tensor, whose strip fills while bands are made.
        let mut strips = Vec::new();
        let mut end = 0;
        for (face, output) in of.outputs.iter().enumerate() {
            let Some(output) = output.filter(|_| writes(packing, face, &pack.rows)) else { continue };
            let strip = packing.strip(face, pack.rows.clone());
            let start = end;
            end += strip.size_bytes() as usize;
            strips.push((face, output, strip, start..end));
        }
        if buffer.len() < end {
            buffer.resize(end, 0);
        }
        for (rows, makes) in pack.bands().map(|band| band.rows).zip(&makes) {
            let quantised = hands.quantise(makes, &model.files, &of.quantiser, packing, zero_odd);
            let (band, error) = quantised.map_err(|e| {
                let source = makes.first().and_then(|m| m.reads.first());
                let source = source.and_then(|r| model.table.files.get(r.file.index()));
                let e = e.tensor(&of.matrix.name);
                match source {
                    Some(from) if e.file_name().is_none() => e.file(&from.name),
                    _ => e,
                }
            })?;
            for (face, _, whole, place) in &strips {
                if !writes(packing, *face, &rows) {
                    continue;
                }
                let strip = packing.strip(*face, rows.clone());
                let start = place.start + (strip.offset_bytes - whole.offset_bytes) as usize;
                let bytes = buffer.get_mut(start..start + strip.size_bytes() as usize);
                let bytes = bytes.ok_or_else(|| Error::bug("a band lies outside of its stretch"))?;
                bytes.fill(0);
                packing.write(*face, band, rows.clone(), bytes);
            }
            errors.note(pack.packed, rows.start, error, packing.rows.saturating_mul(packing.columns));
        }
        for (face, output, strip, place) in strips {
            put(Stripe { output, face, strip, bytes: buffer.get(place).unwrap_or_default() })?;
        }
        if buffer.len() > KEPT_BYTES {
            *buffer = Vec::new();
        }
        hands.forget();
        drop(held);
        Ok(())
    }
}

/// ggml's blocks, made as a scheme asks for where there is one: weighed, measured, NaN and infinity by its rule.
pub(super) struct Blocks {
    odd: Odd,
    /// How far each output is from what it was.
    pub(super) errors: Errors,
}

impl Blocks {
    /// For this many outputs.
    pub(super) fn new(odd: Odd, count: usize) -> Blocks {
        Blocks { odd, errors: Errors::new(count) }
    }

    fn quantises(&self, make: &Make) -> bool {
        let blocks = make.to.facts().class == Class::Block && block::can_encode(make.to);
        self.odd != Odd::Keep && blocks && make.decode != Decode::As(make.to)
    }

    /// Memory that a task needs.
    pub(super) fn memory_bytes(&self, make: &Make) -> u64 {
        make.memory_bytes() + if self.quantises(make) { 4 * make.count } else { 0 }
    }

    /// A task's bytes, blocks or not. `output` by its place, with the task's first byte in it.
    ///
    /// # Errors
    /// As [`Hands::make`] and [`Hands::encode`].
    pub(super) fn make<'a>(
        &self,
        hands: &'a mut Hands,
        make: &'a Make,
        files: &[Arc<dyn ReadAt>],
        (place, output, offset_bytes): (usize, &Output, u64),
        saturate: bool,
    ) -> Result<(&'a [u8], Losses)> {
        if !self.quantises(make) {
            return hands.make(make, files, saturate);
        }
        let weigh = weigh(output, offset_bytes);
        let (bytes, losses, error) = hands.encode(make, files, weigh, self.odd == Odd::Zero)?;
        if losses.overflows > 0 {
            return Err(too_large_for_blocks(losses.overflows, make, weigh.is_some()));
        }
        self.errors.note(place, offset_bytes, error, element_count(&output.shape).unwrap_or(0));
        Ok((bytes, losses))
    }
}

/// How much the error of the columns of a task's numbers counts.
fn weigh(output: &Output, offset_bytes: u64) -> Option<Weigh<'_>> {
    let Form::Weighed(weights) = &output.form else { return None };
    let facts = output.dtype.facts();
    let columns = output.shape.last().copied().unwrap_or(1);
    let rows = output.shape.iter().rev().nth(1).copied().unwrap_or(1);
    let first = offset_bytes / u64::from(facts.block_bytes) * u64::from(facts.block_elements);
    Some(Weigh { weights, columns, matrix: rows.saturating_mul(columns), first })
}

/// How far matrices are from what they were.
pub(super) struct Errors(Vec<Mutex<Parts>>);

/// How far parts of a matrix are. They come in any order, and sums of floats hang on it: they are kept by their first row until
/// all are there.
#[derive(Default)]
struct Parts {
    by_start: BTreeMap<u64, method::Error>,
    /// Numbers of all of them.
    count: u64,
}

impl Parts {
    fn sum(&self) -> method::Error {
        self.by_start.values().fold(method::Error::default(), |sum, &one| sum.and(one))
    }
}

impl Errors {
    /// Of this many matrices.
    pub(super) fn new(count: usize) -> Errors {
        Errors((0..count).map(|_| Mutex::default()).collect())
    }

    /// A part that begins at `at`, of a matrix of `count` numbers.
    fn note(&self, matrix: usize, at: u64, error: method::Error, count: u64) {
        let Some(parts) = self.0.get(matrix) else { return };
        let mut parts = parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.count += error.count;
        parts.by_start.insert(at, error);
        // All are there: only their sum is kept.
        if parts.count >= count {
            parts.by_start = BTreeMap::from([(0, parts.sum())]);
        }
    }

    /// The sum of each matrix.
    pub(super) fn sums(&self) -> Vec<method::Error> {
        self.0.iter().map(|parts| parts.lock().unwrap_or_else(PoisonError::into_inner).sum()).collect()
    }
}
