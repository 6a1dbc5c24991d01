//! The search where codes have four bits or fewer, are integers about zero, and all numbers count the same: what most models are
//! quantised with.
//!
//! One round of [`coarse`] candidates over all that a group may want. What comes out is tried as it will be stored, on the
//! numbers themselves, against what round-to-nearest would store.
//!
//! A group is short and each step waits for the one before; so each is taken for all groups of a batch before the next.

use super::super::groups::{Batch, Fit, Fitted, LANES, Lanes, Runs};
use super::super::levels::{TO_INTEGER, above, below, clamp};
use super::super::line::Line;
use super::super::rtn::{RtnIntegers, Zero};
use super::coarse::{self, LARGEST};
use super::likely::{self, Likely};
use super::trial::{Trial, errors};
use super::whole::{Origin, Wholes};
use super::{ASYMMETRIC, CANDIDATES, SYMMETRIC, ZERO_STEPS};

/// On integers of four bits or fewer, with or without a zero point that is a code.
pub(in super::super) struct SearchNarrow {
    pub rtn: RtnIntegers,
    /// Whether scales may be negative.
    pub signed: bool,
    pub wholes: Wholes,
}

/// The best candidate yet, in the units of the group's whole numbers.
#[derive(Debug, Clone, Copy)]
struct Found {
    merit: f32,
    /// Their quotient is the scale.
    xq: f32,
    qq: f32,
    /// Zero point, or the middle of the codes.
    zero: f32,
}

/// Where the candidates of each group are, in the units of its whole numbers.
#[derive(Debug, Clone, Copy)]
struct Reach {
    /// The step with which the codes reach the extremes, and one over it.
    unit: Lanes,
    by_unit: Lanes,
    /// The zero point with that step, not rounded.
    zero: Lanes,
    /// One over the share of that step that is likely to be best.
    by_share: Lanes,
}

/// One over [`SYMMETRIC`] and [`ASYMMETRIC`].
const BY_SYMMETRIC: [f32; CANDIDATES] = likely::inverses(SYMMETRIC);
const BY_ASYMMETRIC: [f32; CANDIDATES] = likely::inverses(ASYMMETRIC);

impl SearchNarrow {
    fn is_symmetric(&self) -> bool {
        self.rtn.zero == Zero::Middle
    }

    /// Of four bits it is known where the best is likely to be, and half as many candidates do.
    #[inline(always)]
    fn likely(&self) -> Option<&'static Likely> {
        let of = if self.is_symmetric() { &likely::SYMMETRIC } else { &likely::ASYMMETRIC };
        (self.rtn.levels.bits == 4).then_some(of)
    }

    #[inline(always)]
    fn reach(&self) -> Reach {
        let (wholes, top, is_symmetric) = (&self.wholes, self.rtn.levels.top(), self.is_symmetric());
        let none = [0f32; LANES];
        let mut all = Reach { unit: none, by_unit: none, zero: none, by_share: [1.0; LANES] };
        for l in 0..LANES {
            // Where nothing is worth a search what is found is not used, but must not be a quotient by zero.
            let back = if wholes.is_worth[l] { wholes.back[l] } else { 1.0 };
            let by_back = 1.0 / back;
            let (low, high) = (below(wholes.low[l], 0.0) * by_back, above(wholes.high[l], 0.0) * by_back);
            let range = if is_symmetric { 2.0 * LARGEST } else { above(high - low, 1.0) };
            all.unit[l] = range / top;
            all.by_unit[l] = top / range;
            all.zero[l] = -low * all.by_unit[l];
        }
        if let Some(likely) = self.likely() {
            let (per_number, reach) = (1.0 / wholes.count as f32, if is_symmetric { 0.5 } else { 1.0 });
            for l in 0..LANES {
                let squares = above(wholes.squares[l] * per_number, 1.0);
                let spread = all.unit[l] * (top * reach) / squares.sqrt();
                all.by_share[l] = likely.by_share(spread, wholes.count);
            }
        }
        all
    }

    /// Tries candidates.
    #[inline(always)]
    fn offer<const P: usize>(
        &self,
        pairs: &[[i16; 2]],
        best: &mut Found,
        inverse: &[Lanes; P],
        zero: &[Lanes; P],
    ) {
        let top = self.rtn.levels.top();
        let (mut least, mut most) = (*zero, *zero);
        for p in 0..P {
            for l in 0..LANES {
                least[p][l] = -zero[p][l];
                most[p][l] = top - zero[p][l];
            }
        }
        let coarse::Best { merit, xq, qq, place } =
            coarse::best(self.rtn.level, pairs, inverse, &least, &most);
        if merit > best.merit {
            *best = Found { merit, xq, qq, zero: zero[place / LANES][place % LANES] };
        }
    }

    /// Tries steps that are these shares, one over each, of the one that reaches the extremes; the zero point is so many codes
    /// beside its place.
    #[inline(always)]
    fn shares<const P: usize>(
        &self,
        lane: usize,
        reach: &Reach,
        by_shares: &[Lanes; P],
        zero_steps: &[Lanes; P],
    ) -> Found {
        let (top, middle) = (self.rtn.levels.top(), self.rtn.levels.middle());
        let (pairs, by_unit) = (self.wholes.pairs(lane), reach.by_unit[lane]);
        let (mut inverse, mut zero) = (*by_shares, [[middle; LANES]; P]);
        for p in 0..P {
            for l in 0..LANES {
                if !self.is_symmetric() {
                    // A longer step needs another zero point to reach both ends, a shorter one cuts both off.
                    let at = reach.zero[lane] * below(inverse[p][l], 1.0);
                    zero[p][l] = clamp(rounded(at) + zero_steps[p][l], 0.0, top);
                }
                inverse[p][l] *= by_unit;
            }
        }
        let mut best = Found { merit: 0.0, xq: reach.unit[lane], qq: 1.0, zero: middle };
        self.offer(pairs, &mut best, &inverse, &zero);
        if self.signed {
            self.offer(pairs, &mut best, &inverse.map(|lanes| lanes.map(|inverse| -inverse)), &zero);
        }
        best
    }

    #[inline(always)]
    fn search(&self, lane: usize, reach: &Reach) -> Found {
        if let Some(likely) = self.likely() {
            return self.shares(lane, reach, &[likely.around(reach.by_share[lane])], &[likely.zero_steps]);
        }
        let by_shares = if self.is_symmetric() { &BY_SYMMETRIC } else { &BY_ASYMMETRIC };
        self.shares::<2>(lane, reach, bytemuck::cast_ref(by_shares), bytemuck::cast_ref(&ZERO_STEPS))
    }
}

#[inline(always)]
fn rounded(x: f32) -> f32 {
    (x + TO_INTEGER) - TO_INTEGER
}

impl Fit for SearchNarrow {
    type Line = Line;

    #[inline(always)]
    fn fit(&mut self, batch: &Batch<'_>) -> [(Fitted, Line); LANES] {
        let (level, top) = (self.rtn.level, self.rtn.levels.top());
        self.wholes.take(level, batch, Origin::Zero);
        let reach = self.reach();
        let (mut scale, mut qq, mut zero) = ([1f32; LANES], [1f32; LANES], [0f32; LANES]);
        for lane in 0..batch.count {
            let found = self.search(lane, &reach);
            (scale[lane], qq[lane], zero[lane]) = (found.xq, found.qq, found.zero);
        }
        let Wholes { low, high, back, to, is_worth, .. } = &self.wholes;
        for l in 0..LANES {
            scale[l] = scale[l] / qq[l] * back[l];
        }
        self.rtn.scale.store(&mut scale);
        let plain = self.rtn.plain(low, high);
        // Round-to-nearest's, and the best.
        let (scales, zeros) = ([plain.scale, scale], [plain.zero, zero]);
        let mut inverses = scales;
        for inverse in &mut inverses {
            for l in 0..LANES {
                inverse[l] = 1.0 / (inverse[l] * to[l]);
            }
        }
        let mut lines = [(Fitted::default(), Line::above(0.0, 1.0, 0.0)); LANES];
        for lane in 0..batch.count {
            let trials = [0, 1].map(|c| Trial {
                scale: scales[c][lane] * to[lane],
                inverse: inverses[c][lane],
                bias: 0.0,
                least: -zeros[c][lane],
                most: top - zeros[c][lane],
            });
            let error = errors(level, self.wholes.numbers(batch, lane), to[lane], &trials);
            let c = usize::from(is_worth[lane] & (error[1] < error[0]));
            let fitted = Fitted { scale: scales[c][lane], zero: zeros[c][lane] };
            lines[lane] = (fitted, Line::around(fitted.zero, fitted.scale, top));
        }
        lines
    }

    #[inline(always)]
    fn code(&self, lines: &[Line], runs: Runs<'_>, codes: &mut [u8]) {
        Line::code(self.rtn.level, lines, runs, codes);
    }
}
