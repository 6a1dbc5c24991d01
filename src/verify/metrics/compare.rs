//! Two models' logits at the same positions.

use super::spread::Spread;
use super::{BLOCK, LogSum, finite_max};
use crate::error::{Error, Result};
use rayon::prelude::*;

/// Tokens that the wider agreement looks at.
const TOP: usize = 5;

/// The likeliest tokens, the likeliest first; of two that are equal the one with the lesser id, as argmax in numpy and
/// torch has it.
#[derive(Debug, Clone, Copy)]
struct Top {
    tokens: [(f32, u64); TOP],
    count: usize,
}

impl Top {
    const NOTHING: Top = Top { tokens: [(f32::NEG_INFINITY, u64::MAX); TOP], count: 0 };

    /// Takes a block's, if one of them is among the likeliest. `max` is the block's largest.
    fn add(&mut self, first: u64, block: &[f32], max: f32) {
        let least = |top: &Top| if top.count < TOP { None } else { Some(top.tokens[TOP - 1].0) };
        if least(self).is_some_and(|least| max < least) {
            return;
        }
        for (i, &x) in block.iter().enumerate() {
            if least(self).is_none_or(|least| x >= least) {
                self.insert(x, first + i as u64);
            }
        }
    }

    fn insert(&mut self, x: f32, id: u64) {
        let before = |&(y, other): &(f32, u64)| y > x || (y == x && other < id);
        let place = self.tokens[..self.count].iter().take_while(|t| before(t)).count();
        if place == TOP {
            return;
        }
        self.count = (self.count + 1).min(TOP);
        self.tokens[place..self.count].rotate_right(1);
        self.tokens[place] = (x, id);
    }

    fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.tokens[..self.count].iter().map(|t| t.1)
    }
}

/// A position whose bands are still coming in.
#[derive(Debug, Clone)]
struct Position {
    reference: LogSum,
    candidate: LogSum,
    /// Σ e^(a − max a) · (a − b).
    shift: f64,
    dot: f64,
    reference_squares: f64,
    candidate_squares: f64,
    max_abs: f64,
    reference_max_abs: f64,
    reference_top: Top,
    candidate_top: Top,
    reference_finite: bool,
    candidate_finite: bool,
}

impl Position {
    const NOTHING: Position = Position {
        reference: LogSum::NOTHING,
        candidate: LogSum::NOTHING,
        shift: 0.0,
        dot: 0.0,
        reference_squares: 0.0,
        candidate_squares: 0.0,
        max_abs: 0.0,
        reference_max_abs: 0.0,
        reference_top: Top::NOTHING,
        candidate_top: Top::NOTHING,
        reference_finite: true,
        candidate_finite: true,
    };

    fn band(&mut self, first: u64, reference: &[f32], candidate: &[f32]) {
        let blocks = reference.chunks(BLOCK).zip(candidate.chunks(BLOCK));
        for (n, (a, b)) in blocks.enumerate() {
            self.block(first + (n * BLOCK) as u64, a, b);
        }
    }

    fn block(&mut self, first: u64, reference: &[f32], candidate: &[f32]) {
        let (Some(a_max), Some(b_max)) = (finite_max(reference), finite_max(candidate)) else {
            self.reference_finite &= finite_max(reference).is_some();
            self.candidate_finite &= finite_max(candidate).is_some();
            return;
        };
        self.reference_top.add(first, reference, a_max);
        self.candidate_top.add(first, candidate, b_max);
        let (a_max, b_max) = (f64::from(a_max), f64::from(b_max));
        self.shift *= self.reference.rise(a_max);
        self.candidate.rise(b_max);
        let (a_max, b_max) = (self.reference.max, self.candidate.max);
        // Sums of this block only: adding small to small keeps more digits.
        let [mut a_sum, mut b_sum, mut shift, mut dot, mut a_squares, mut b_squares] = [0.0f64; 6];
        for (&x, &y) in reference.iter().zip(candidate) {
            let (x, y) = (f64::from(x), f64::from(y));
            self.max_abs = self.max_abs.max((x - y).abs());
            self.reference_max_abs = self.reference_max_abs.max(x.abs());
            let e = (x - a_max).exp();
            a_sum += e;
            shift += e * (x - y);
            b_sum += (y - b_max).exp();
            dot += x * y;
            a_squares += x * x;
            b_squares += y * y;
        }
        self.reference.sum += a_sum;
        self.candidate.sum += b_sum;
        self.shift += shift;
        self.dot += dot;
        self.reference_squares += a_squares;
        self.candidate_squares += b_squares;
    }

    /// Σ p·(ln p − ln q). It is never less than zero; rounding may have made it so.
    fn kl(&self) -> f64 {
        let mean_shift = self.shift / self.reference.sum;
        (mean_shift - self.reference.value() + self.candidate.value()).max(0.0)
    }
}

/// A cosine of sums; two vectors of zeros are alike, and one of them is like nothing.
pub(super) fn cosine(dot: f64, a_squares: f64, b_squares: f64) -> f64 {
    match (a_squares > 0.0, b_squares > 0.0) {
        (true, true) => (dot / (a_squares.sqrt() * b_squares.sqrt())).clamp(-1.0, 1.0),
        (false, false) => 1.0,
        _ => 0.0,
    }
}

/// The largest error in terms of the largest number.
pub(super) fn relative(max_abs: f64, reference_max_abs: f64) -> f64 {
    if max_abs == 0.0 { 0.0 } else { max_abs / reference_max_abs }
}

/// The first position at which two models would have gone on differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greedy {
    /// The position, in the order in which they were given.
    pub position: u64,
    /// The reference's likeliest token.
    pub reference: u64,
    /// The candidate's.
    pub candidate: u64,
}

/// Positions at which some logit is infinite or no number. No other figure knows of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NotFinite {
    /// Of the reference.
    pub reference: u64,
    /// Of the candidate.
    pub candidate: u64,
    /// Of either.
    pub either: u64,
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Positions that were compared, without those that are not finite.
    pub positions: u64,
    /// Logits of each position.
    pub vocabulary: u64,
    /// The largest difference of two logits.
    pub max_abs: f64,
    /// That, divided by the largest magnitude of all the reference's logits: max|a − b| / max|a|.
    pub max_relative: f64,
    /// Of all logits as one vector.
    pub cosine: f64,
    /// The least of any position.
    pub cosine_min: f64,
    /// KL(reference ‖ candidate) of each position, in nats.
    pub kl: Spread,
    /// Share of positions whose likeliest token is the same.
    pub top1: f64,
    /// Share of the reference's five likeliest tokens that are among the candidate's five, over all positions.
    pub top5: f64,
    /// Where the greedy token first differs.
    pub differs: Option<Greedy>,
    /// Positions that could not be compared.
    pub not_finite: NotFinite,
}

/// What is kept of positions whose bands are all in.
#[derive(Debug, Clone, Default)]
struct Done {
    /// Of each position, the ones that are not finite included.
    count: u64,
    vocabulary: u64,
    kl: Vec<f64>,
    dot: f64,
    reference_squares: f64,
    candidate_squares: f64,
    cosine_min: Option<f64>,
    max_abs: f64,
    reference_max_abs: f64,
    same_top: u64,
    shared_top: u64,
    of_top: u64,
    differs: Option<Greedy>,
    not_finite: NotFinite,
}

impl Done {
    fn add(&mut self, position: &Position) {
        let at = self.count;
        self.count += 1;
        let finite = (position.reference_finite, position.candidate_finite);
        self.not_finite.reference += u64::from(!finite.0);
        self.not_finite.candidate += u64::from(!finite.1);
        if finite != (true, true) {
            self.not_finite.either += 1;
            return;
        }
        let p = position;
        self.kl.push(p.kl());
        self.dot += p.dot;
        self.reference_squares += p.reference_squares;
        self.candidate_squares += p.candidate_squares;
        let cosine = cosine(p.dot, p.reference_squares, p.candidate_squares);
        self.cosine_min = Some(self.cosine_min.map_or(cosine, |least| least.min(cosine)));
        self.max_abs = self.max_abs.max(p.max_abs);
        self.reference_max_abs = self.reference_max_abs.max(p.reference_max_abs);
        let first = |top: &Top| top.ids().next();
        match (first(&p.reference_top), first(&p.candidate_top)) {
            (Some(reference), Some(candidate)) if reference != candidate => {
                self.differs.get_or_insert(Greedy { position: at, reference, candidate });
            }
            _ => self.same_top += 1,
        }
        let shared = p.reference_top.ids().filter(|id| p.candidate_top.ids().any(|other| other == *id));
        self.shared_top += shared.count() as u64;
        self.of_top += p.reference_top.count as u64;
    }

    fn append(&mut self, next: Done) {
        if let Some(differs) = next.differs {
            self.differs.get_or_insert(Greedy { position: self.count + differs.position, ..differs });
        }
        self.count += next.count;
        self.vocabulary = self.vocabulary.max(next.vocabulary);
        self.kl.extend(next.kl);
        self.dot += next.dot;
        self.reference_squares += next.reference_squares;
        self.candidate_squares += next.candidate_squares;
        self.cosine_min = match (self.cosine_min, next.cosine_min) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.max_abs = self.max_abs.max(next.max_abs);
        self.reference_max_abs = self.reference_max_abs.max(next.reference_max_abs);
        self.same_top += next.same_top;
        self.shared_top += next.shared_top;
        self.of_top += next.of_top;
        self.not_finite.reference += next.not_finite.reference;
        self.not_finite.candidate += next.not_finite.candidate;
        self.not_finite.either += next.not_finite.either;
    }
}

/// Compares logits as they come, band by band of the vocabulary.
///
/// A whole comparison is `Compare::new(0)` into which a `Compare` of each chunk of positions is merged, in order.
#[derive(Debug, Clone)]
pub struct Compare {
    done: Done,
    open: Vec<Position>,
    /// Logits that each open position has seen.
    vocabulary: u64,
}

impl Compare {
    /// Of so many positions.
    pub fn new(positions: usize) -> Compare {
        Compare { done: Done::default(), open: vec![Position::NOTHING; positions], vocabulary: 0 }
    }

    /// Takes logits of all positions for the tokens from `first` on, row-major `[positions, band]`. Each token belongs to
    /// one band; their order does not matter.
    ///
    /// # Errors
    /// A bug where the two do not have the same whole number of logits for each position.
    pub fn band(&mut self, first: u64, reference: &[f32], candidate: &[f32]) -> Result<()> {
        let Some(band) = reference.len().checked_div(self.open.len()) else {
            return if reference.is_empty() && candidate.is_empty() { Ok(()) } else { Err(unlike()) };
        };
        if reference.len() != candidate.len() || band * self.open.len() != reference.len() {
            return Err(unlike());
        }
        if band == 0 {
            return Ok(());
        }
        self.vocabulary += band as u64;
        let rows = reference.par_chunks(band).zip(candidate.par_chunks(band));
        self.open.par_iter_mut().zip(rows).for_each(|(position, (a, b))| position.band(first, a, b));
        Ok(())
    }

    /// Puts the positions of another behind these. All bands of both have been seen.
    pub fn merge(&mut self, mut next: Compare) {
        self.close();
        next.close();
        self.done.append(next.done);
    }

    fn close(&mut self) {
        if self.vocabulary > 0 {
            self.open.iter().for_each(|position| self.done.add(position));
            self.done.vocabulary = self.done.vocabulary.max(self.vocabulary);
        }
        self.open = Vec::new();
        self.vocabulary = 0;
    }

    /// The figures. Where nothing was compared the ones that are means are NaN, and no limit holds for those.
    pub fn finish(mut self) -> Comparison {
        self.close();
        let d = self.done;
        let positions = d.kl.len() as u64;
        let nan_if_none = |x: f64| if positions == 0 { f64::NAN } else { x };
        Comparison {
            positions,
            vocabulary: d.vocabulary,
            max_abs: nan_if_none(d.max_abs),
            max_relative: nan_if_none(relative(d.max_abs, d.reference_max_abs)),
            cosine: nan_if_none(cosine(d.dot, d.reference_squares, d.candidate_squares)),
            cosine_min: d.cosine_min.unwrap_or(f64::NAN),
            kl: Spread::of(&d.kl),
            top1: d.same_top as f64 / positions as f64,
            top5: d.shared_top as f64 / d.of_top as f64,
            differs: d.differs,
            not_finite: d.not_finite,
        }
    }
}

fn unlike() -> Error {
    Error::bug("two bands of logits are not of one shape")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_stay_whatever_the_order() {
        let logits = [1.0, 7.0, 7.0, -3.0, 2.0, 7.0, 0.5, 2.0];
        let expected = [1u64, 2, 5, 4, 7];
        for start in 0..logits.len() {
            let mut top = Top::NOTHING;
            for i in 0..logits.len() {
                let id = (start + i) % logits.len();
                top.add(id as u64, &logits[id..=id], logits[id]);
            }
            assert_eq!(top.ids().collect::<Vec<_>>(), expected, "from {start}");
        }
        let mut few = Top::NOTHING;
        few.add(0, &[1.0, 2.0], 2.0);
        assert_eq!(few.ids().collect::<Vec<_>>(), [1, 0]);
    }
}
