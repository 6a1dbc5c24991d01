//! The least squared error: candidates for scale and zero point, and for each the scale that fits its codes best.
//!
//! Once codes are chosen, the best scale for them is a quotient of two sums, `Σxq / Σq²`, and the error that is left is
//! `Σx² − (Σxq)² / Σq²`: candidates are ranked by what is taken off, and need no second pass. The best is rounded as it will
//! be stored and tried once more, now with the codes that fit the scale as stored, and so is what round-to-nearest would
//! store: the result is never worse than that. (The ranking is that of ggml's K-quants; the last trial is ours.)
//!
//! Where few scales can be stored, powers of two and eight-bit floats, all those near are tried directly.

mod affine;
mod coarse;
mod levels;
mod likely;
mod narrow;
mod narrow_affine;
mod trial;
mod whole;

pub(super) use affine::SearchAffine;
pub(super) use levels::SearchLevels;
pub(super) use narrow::SearchNarrow;
pub(super) use narrow_affine::SearchNarrowAffine;
pub(super) use whole::Wholes;

use super::Level;
use super::groups::{Batch, Fit, Fitted, LANES, Lanes, Runs};
use super::levels::{Levels, TO_INTEGER, clamp};
use super::line::Line;
use super::passes::{Tile, reciprocal};
use super::rtn::{RtnIntegers, Zero};

/// Candidates of a pass.
const PAIR: usize = 2;

/// The best candidate yet of each group.
#[derive(Debug, Clone, Copy)]
struct Best {
    /// How good it is.
    merit: Lanes,
    scale: Lanes,
    /// Zero point or bias.
    zero: Lanes,
}

impl Best {
    #[inline(always)]
    fn none() -> Best {
        Best { merit: [f32::NEG_INFINITY; LANES], scale: [1.0; LANES], zero: [0.0; LANES] }
    }

    /// Keeps what is better; the earlier one of equals.
    #[inline(always)]
    fn offer(&mut self, merit: &Lanes, scale: &Lanes, zero: &Lanes) {
        for l in 0..LANES {
            let is_better = merit[l] > self.merit[l];
            self.merit[l] = if is_better { merit[l] } else { self.merit[l] };
            self.scale[l] = if is_better { scale[l] } else { self.scale[l] };
            self.zero[l] = if is_better { zero[l] } else { self.zero[l] };
        }
    }
}

/// What the largest error is that a group may have: the scale is to be left as it is where there is nothing to fit.
#[inline(always)]
fn quotient(xq: f32, qq: f32, otherwise: f32) -> f32 {
    let is_one = qq > 0.0;
    let quotient = xq / (if is_one { qq } else { 1.0 });
    if is_one { quotient } else { otherwise }
}

/// On integers without a bias.
pub(super) struct SearchIntegers<const W: bool> {
    pub rtn: RtnIntegers,
    /// Whether scales may be negative.
    pub signed: bool,
    pub tile: Tile,
}

/// Candidates for each group.
const CANDIDATES: usize = 32;
/// Shares of the scale that reaches both extremes.
const SYMMETRIC: [f32; CANDIDATES] = [
    0.26, 0.32, 0.38, 0.43, 0.475, 0.51, 0.54, 0.57, 0.595, 0.62, 0.645, 0.67, 0.69, 0.71, 0.73, 0.75, 0.77,
    0.79, 0.81, 0.83, 0.85, 0.87, 0.89, 0.91, 0.93, 0.95, 0.97, 0.985, 1.0, 1.02, 1.045, 1.07,
];
/// The same where the zero point moves too: by how much is in the row below. Those above one are of groups that are on a grid
/// of so many steps already, of which they do not have the last.
const ASYMMETRIC: [f32; CANDIDATES] = [
    0.48, 0.54, 0.59, 0.63, 0.67, 0.71, 0.75, 0.79, 0.83, 0.87, 0.905, 0.94, 0.97, 1.0, 1.0714, 1.1538, 0.57,
    0.65, 0.72, 0.78, 0.84, 0.89, 0.94, 1.0, 0.57, 0.65, 0.72, 0.78, 0.84, 0.89, 0.94, 1.0,
];
const ZERO_STEPS: [f32; CANDIDATES] = [
    0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 1., 1., 1., 1., 1., 1., 1., 1., -1., -1.,
    -1., -1., -1., -1., -1., -1.,
];

impl<const W: bool> SearchIntegers<W> {
    /// Tries two candidates a group; the scales are those that fit best.
    #[inline(always)]
    fn offer(&self, best: &mut Best, scale: &[Lanes; PAIR], zero: &[Lanes; PAIR]) {
        let levels = self.rtn.levels;
        let (mut least, mut most) = (*zero, *zero);
        for c in 0..PAIR {
            for l in 0..LANES {
                least[c][l] = -zero[c][l];
                most[c][l] = levels.top() - zero[c][l];
            }
        }
        let (xq, qq) = self.tile.products::<_, PAIR, W>(levels, &reciprocal(scale), &least, &most);
        for c in 0..PAIR {
            let (mut merit, mut fitted) = ([0f32; LANES], [0f32; LANES]);
            for l in 0..LANES {
                fitted[l] = quotient(xq[c][l], qq[c][l], scale[c][l]);
                merit[l] = xq[c][l] * fitted[l];
            }
            best.offer(&merit, &fitted, &zero[c]);
        }
    }

    #[inline(always)]
    fn symmetric(&self) -> Best {
        let levels = self.rtn.levels;
        let Tile { low, high, to, .. } = &self.tile;
        let mut unit = [0f32; LANES];
        for l in 0..LANES {
            let most = if -low[l] > high[l] { -low[l] } else { high[l] };
            unit[l] = most * to[l] / levels.largest();
        }
        let zero = [[levels.middle(); LANES]; PAIR];
        let mut best = Best::none();
        for sign in [1.0, -1.0].iter().take(if self.signed { 2 } else { 1 }) {
            for shares in SYMMETRIC.as_chunks::<PAIR>().0 {
                let scale = shares.map(|share| unit.map(|unit| unit * share * sign));
                self.offer(&mut best, &scale, &zero);
            }
        }
        best
    }

    #[inline(always)]
    fn asymmetric(&self) -> Best {
        let top = self.rtn.levels.top();
        let Tile { low, high, to, .. } = &self.tile;
        let (mut unit, mut below_zero) = ([0f32; LANES], [0f32; LANES]);
        for l in 0..LANES {
            let (low, high) =
                (if low[l] < 0.0 { low[l] } else { 0.0 }, if high[l] > 0.0 { high[l] } else { 0.0 });
            unit[l] = (high * to[l] - low * to[l]) / top;
            below_zero[l] = -low * to[l];
        }
        let mut best = Best::none();
        for first in (0..CANDIDATES).step_by(PAIR) {
            let (mut scale, mut zero) = ([[0f32; LANES]; PAIR], [[0f32; LANES]; PAIR]);
            for c in 0..PAIR {
                let (share, step) = (ASYMMETRIC[first + c], ZERO_STEPS[first + c]);
                let reach = if share > 1.0 { share } else { 1.0 };
                for l in 0..LANES {
                    scale[c][l] = unit[l] * share;
                    let zero_at = clamp(below_zero[l] / (unit[l] * reach), 0.0, top);
                    zero[c][l] = clamp((zero_at + TO_INTEGER) - TO_INTEGER + step, 0.0, top);
                }
            }
            self.offer(&mut best, &scale, &zero);
        }
        best
    }
}

impl<const W: bool> Fit for SearchIntegers<W> {
    type Line = Line;

    #[inline(always)]
    fn fit(&mut self, batch: &Batch<'_>) -> [(Fitted, Line); LANES] {
        self.tile.take::<W>(batch);
        let levels = self.rtn.levels;
        let best = if self.rtn.zero == Zero::Code { self.asymmetric() } else { self.symmetric() };
        let plain = self.rtn.plain(&self.tile.low, &self.tile.high);
        let (mut stored, zero) = ([plain.scale; PAIR], [plain.zero, best.zero]);
        for l in 0..LANES {
            stored[1][l] = best.scale[l] * self.tile.back[l];
        }
        self.rtn.scale.store(&mut stored[1]);
        let (mut scale, mut least, mut most) = (stored, zero, zero);
        for c in 0..PAIR {
            for l in 0..LANES {
                scale[c][l] *= self.tile.to[l];
                least[c][l] = -zero[c][l];
                most[c][l] = levels.top() - zero[c][l];
            }
        }
        let error = self.tile.errors::<_, PAIR, W>(levels, &scale, &least, &most);
        std::array::from_fn(|l| {
            let c = usize::from(error[1][l] < error[0][l]);
            let fitted = Fitted { scale: stored[c][l], zero: zero[c][l] };
            (fitted, Line::around(fitted.zero, fitted.scale, levels.top()))
        })
    }

    #[inline(always)]
    fn code(&self, lines: &[Line], runs: Runs<'_>, codes: &mut [u8]) {
        Line::code(self.rtn.level, lines, runs, codes);
    }
}
