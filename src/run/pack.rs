//! Bands of a matrix: some rows of the source as codes, and where their bytes belong. Whoever writes files and whoever fills
//! memory do the same up to that point; what becomes of the bytes is theirs.

use super::budget::Budget;
use super::job::Control;
use super::make::Hands;
use crate::error::{Error, Result};
use crate::open::Model;
use crate::plan::weave::{Limits, Pack, writes};
use crate::transform::method;
use crate::transform::packing::Packing;
use crate::transform::packing::faces::Strip;
use crate::transform::recipe::Recipe;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

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

/// The bytes of a band in one of the tensors that hold its matrix.
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
    /// Makes one band, from the source to the bytes of each tensor that holds some of it, and hands those to `put`.
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
        let makes = pack.makes(&model.table, recipe, limits).map_err(|e| e.tensor(&of.matrix.name))?;
        let held = budget.take(pack.memory_bytes(packing, &makes), control)?;
        let quantised = hands.quantise(&makes, &model.files, &of.quantiser, packing, zero_odd);
        let (band, error) = quantised.map_err(|e| {
            let source = makes.first().and_then(|m| m.reads.first());
            let source = source.and_then(|r| model.table.files.get(r.file.index()));
            let e = e.tensor(&of.matrix.name);
            match source {
                Some(from) if e.file_name().is_none() => e.file(&from.name),
                _ => e,
            }
        })?;
        for (face, output) in of.outputs.iter().enumerate() {
            let Some(output) = output.filter(|_| writes(packing, face, &pack.rows)) else { continue };
            let strip = packing.strip(face, pack.rows.clone());
            let size = strip.size_bytes() as usize;
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            let bytes = buffer.get_mut(..size).unwrap_or_default();
            bytes.fill(0);
            packing.write(face, band, pack.rows.clone(), bytes);
            put(Stripe { output, face, strip, bytes })?;
        }
        if buffer.len() > KEPT_BYTES {
            *buffer = Vec::new();
        }
        hands.forget();
        drop(held);
        errors.note(pack, packing, error);
        Ok(())
    }
}

/// How far matrices are from what they were. Bands of one come in any order, and sums of floats hang on it: they are kept by
/// their first row until all are there.
pub(super) struct Errors(Vec<Mutex<BTreeMap<u64, method::Error>>>);

impl Errors {
    /// Of this many matrices.
    pub(super) fn new(count: usize) -> Errors {
        Errors((0..count).map(|_| Mutex::default()).collect())
    }

    fn note(&self, pack: &Pack, packing: &Packing, error: method::Error) {
        let Some(bands) = self.0.get(pack.packed) else { return };
        let mut bands = bands.lock().unwrap_or_else(PoisonError::into_inner);
        bands.insert(pack.rows.start, error);
        let sum = sum(&bands);
        // All are there: only their sum is kept.
        if sum.count >= packing.rows.saturating_mul(packing.columns) {
            *bands = BTreeMap::from([(0, sum)]);
        }
    }

    /// The sum of each matrix.
    pub(super) fn sums(&self) -> Vec<method::Error> {
        self.0.iter().map(|bands| sum(&bands.lock().unwrap_or_else(PoisonError::into_inner))).collect()
    }
}

fn sum(bands: &BTreeMap<u64, method::Error>) -> method::Error {
    bands.values().fold(method::Error::default(), |sum, &one| sum.and(one))
}
