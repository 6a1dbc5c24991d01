//! Carries a comparison out: workers take stretches of tensors and compare both sides as they are made.

use super::numbers::{BLOCK_ELEMENTS, Readers, Sums};
use super::pairs::Pair;
use super::sides::{Side, Sides};
use super::stream::Stream;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::open::Model;
use crate::plan::weave::{Limits, Make, Work as Way, tasks};
use crate::run;
use crate::run::job::Control;
use crate::transform::recipe::Output;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Elements that a worker takes at once: enough for its pieces to follow each other on the disk. Whole blocks of every
/// type.
const UNIT_ELEMENTS: u64 = 16 << 20;
/// A task that holds more is carried out by one worker at a time.
const LIGHT_BYTES: u64 = 8 << 20;

/// Elements that a worker takes at once.
#[derive(Debug, Clone, Copy)]
struct Unit {
    pair: usize,
    first: u64,
    count: u64,
    /// The figures are wanted whether or not anything differs.
    figures: bool,
}

/// What a unit came to: nothing where all of it is equal.
type Outcome = Option<Sums>;

/// What workers share.
pub(super) struct Work<'a> {
    pub(super) a: &'a Model,
    pub(super) b: &'a Model,
    pub(super) sides: &'a Sides,
    pub(super) pairs: &'a [Pair],
    pub(super) limits: &'a Limits,
    pub(super) threads: usize,
    pub(super) control: &'a Control,
    /// Held by the one worker whose tasks are large.
    pub(super) big: Mutex<()>,
}

impl Work<'_> {
    /// What the numbers of each pair come to; all zeros where its bytes are equal.
    pub(super) fn sums(&self) -> Result<Vec<Sums>> {
        let units = self.units()?;
        let mut outcomes = self.run(&units)?;
        let mut differs = vec![false; self.pairs.len()];
        for (unit, outcome) in units.iter().zip(&outcomes) {
            differs[unit.pair] |= outcome.is_some_and(|sums| sums.differing > 0);
        }
        // Of a tensor that differs, the figures of what was found equal are missing.
        let again: Vec<usize> =
            (0..units.len()).filter(|&i| differs[units[i].pair] && outcomes[i].is_none()).collect();
        let units_again: Vec<Unit> = again.iter().map(|&i| Unit { figures: true, ..units[i] }).collect();
        for (i, outcome) in again.into_iter().zip(self.run(&units_again)?) {
            outcomes[i] = outcome;
        }
        let mut sums = vec![Sums::default(); self.pairs.len()];
        for (unit, outcome) in units.iter().zip(outcomes) {
            sums[unit.pair] = sums[unit.pair].and(outcome.unwrap_or_default());
        }
        Ok(sums)
    }

    /// All there is to compare, in the pairs' order.
    fn units(&self) -> Result<Vec<Unit>> {
        let mut units = Vec::new();
        for (index, pair) in self.pairs.iter().enumerate().filter(|(_, pair)| pair.known.is_none()) {
            let shared = self.is_light(self.a, &self.sides.a, &pair.a)?
                && self.is_light(self.b, &self.sides.b, &pair.b)?;
            let step = if shared { UNIT_ELEMENTS } else { pair.elements.max(1) };
            let mut first = 0;
            while first < pair.elements {
                let count = step.min(pair.elements - first);
                units.push(Unit { pair: index, first, count, figures: false });
                first += count;
            }
        }
        Ok(units)
    }

    /// Whether workers may share a tensor: not where a task takes more than a little, which two of them would do twice.
    fn is_light(&self, model: &Model, side: &Side, output: &Output) -> Result<bool> {
        let first = tasks(&model.table, &side.recipe, output, self.limits)?.next();
        Ok(first.is_none_or(|task| match task.work {
            Way::Copy { .. } => true,
            Way::Make(make) => make.memory_bytes() <= LIGHT_BYTES,
            Way::Pack(_) => false,
        }))
    }

    /// The outcome of each unit.
    fn run(&self, units: &[Unit]) -> Result<Vec<Outcome>> {
        if units.is_empty() {
            return Ok(Vec::new());
        }
        let next = AtomicUsize::new(0);
        let outcomes = Mutex::new(vec![None; units.len()]);
        run::parallel("diff", self.threads.min(units.len()), self.control, |_| {
            let mut readers = Readers::default();
            while !self.control.is_stopped() {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(unit) = units.get(index) else { break };
                let outcome = self.compare(unit, &mut readers)?;
                outcomes.lock().unwrap_or_else(PoisonError::into_inner)[index] = outcome;
            }
            Ok(())
        })?;
        Ok(outcomes.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn compare(&self, unit: &Unit, readers: &mut Readers) -> Result<Outcome> {
        let pair = &self.pairs[unit.pair];
        let (to_a, to_b) = (pair.a.dtype, pair.b.dtype);
        let mut same = |a: &[u8], b: &[u8]| match to_a == to_b {
            true => a == b,
            false => readers.equal((to_a, a), (to_b, b)),
        };
        if !unit.figures && self.pieces(unit, pair, |a, b, _| same(a, b))? {
            self.moved(unit, pair);
            return Ok(None);
        }
        let mut sums = Sums::default();
        self.pieces(unit, pair, |a, b, first| {
            sums.add(readers, (to_a, a), (to_b, b), first);
            true
        })?;
        self.moved(unit, pair);
        Ok(Some(sums))
    }

    fn moved(&self, unit: &Unit, pair: &Pair) {
        let size = |dtype: DType| dtype.size_bytes(unit.count).unwrap_or(0);
        self.control.moved(size(pair.a.dtype).saturating_add(size(pair.b.dtype)));
    }

    /// The unit's bytes on both sides and the number of their first element, in pieces of as many elements; `each` says
    /// whether to go on. Whether all was gone through.
    fn pieces(
        &self,
        unit: &Unit,
        pair: &Pair,
        mut each: impl FnMut(&[u8], &[u8], u64) -> bool,
    ) -> Result<bool> {
        let facts =
            |dtype: DType| (u64::from(dtype.facts().block_elements), u64::from(dtype.facts().block_bytes));
        let ((block_a, bytes_a), (block_b, bytes_b)) = (facts(pair.a.dtype), facts(pair.b.dtype));
        // Of one type both may be blocks; else both are plain.
        let block = block_a.max(block_b);
        let at = |bytes: u64| unit.first / block * bytes;
        let mut a = Stream::new(self.a, &self.sides.a.recipe, &pair.a, self.limits, at(bytes_a))?;
        let mut b = Stream::new(self.b, &self.sides.b.recipe, &pair.b, self.limits, at(bytes_b))?;
        let mut big = None;
        let mut before = |make: &Make| {
            if big.is_none() && make.memory_bytes() > LIGHT_BYTES {
                big = Some(self.big.lock().unwrap_or_else(PoisonError::into_inner));
            }
        };
        let step = (BLOCK_ELEMENTS as u64 / block).max(1);
        let (mut first, mut left) = (unit.first / block, unit.count / block);
        while left > 0 {
            if self.control.is_stopped() {
                return Ok(false);
            }
            let held_a = a.held(&mut before)?;
            let held_b = b.held(&mut before)?;
            let held = (held_a.len() as u64 / bytes_a).min(held_b.len() as u64 / bytes_b).min(left);
            if held == 0 {
                return Err(Error::bug("a tensor ends before its last element").tensor(&pair.a.name));
            }
            let mut done = 0;
            while done < held {
                let count = step.min(held - done);
                let piece = |bytes: u64| (done * bytes) as usize..((done + count) * bytes) as usize;
                if !each(&held_a[piece(bytes_a)], &held_b[piece(bytes_b)], (first + done) * block) {
                    return Ok(false);
                }
                done += count;
            }
            a.take((held * bytes_a) as usize);
            b.take((held * bytes_b) as usize);
            first += held;
            left -= held;
        }
        Ok(true)
    }
}
