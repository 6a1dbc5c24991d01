//! The search where codes have four bits or fewer, there is a bias, and all numbers count the same.
//!
//! As in [`super::narrow`]; a bias is one more dimension, so a second round is tried around the best of the first.

use super::super::groups::{Batch, Fit, Fitted, LANES, Runs};
use super::super::line::Line;
use super::super::rtn::{RtnIntegers, Zero};
use super::coarse::{Candidates, LARGEST, Row, WIDTH, first_of_largest, sums};
use super::trial::{Trial, errors};
use super::whole::{Origin, Wholes};

/// On integers of four bits or fewer with a bias.
pub(in super::super) struct SearchNarrowAffine {
    pub rtn: RtnIntegers,
    pub wholes: Wholes,
}

/// Whole numbers in pairs, and how many they are.
type Group<'a> = (&'a [[i16; 2]], usize);

/// The best line yet, in the units of the group's whole numbers.
#[derive(Debug, Clone, Copy)]
struct Found {
    merit: f32,
    scale: f32,
    /// The number in the middle of the codes.
    middle: f32,
}

/// How far from the middle of a group towards its least and its largest number the codes reach: each of one row with each of the
/// other.
const REACH: ([f32; 8], [f32; 4]) =
    ([0.52, 0.60, 0.68, 0.76, 0.83, 0.90, 0.96, 1.02], [0.62, 0.75, 0.87, 0.98]);
/// Around the best line yet: shares of its step, and how far its middle is moved, in steps.
const AROUND: ([f32; 8], [f32; 4]) =
    ([0.955, 0.97, 0.983, 0.994, 1.006, 1.017, 1.03, 1.045], [-0.3, -0.1, 0.1, 0.3]);

/// The best scale and two beside it, as far as bf16's steps are apart.
const BESIDE: [f32; 3] = [1.0, 0.9955, 1.0045];

impl SearchNarrowAffine {
    /// Tries a row of lines; `middle` is the number in the middle of the codes.
    #[inline(always)]
    fn offer(&self, (pairs, count): Group<'_>, best: &mut Found, sum: f32, step: &Row, middle: &Row) {
        let top = self.rtn.levels.top();
        let (mut inverse, mut zero) = ([0f32; WIDTH], [0f32; WIDTH]);
        for c in 0..WIDTH {
            inverse[c] = 1.0 / step[c];
            zero[c] = top * 0.5 - middle[c] * inverse[c];
        }
        let of = Candidates::new(&inverse, &zero, &[0.0; WIDTH], &[top; WIDTH]);
        let mut s = sums::<true>(self.rtn.level, pairs, &of);
        if count % 2 == 1 {
            // The zero behind the last number.
            let codes = of.codes_of_zero();
            for c in 0..WIDTH {
                s.q[c] -= codes[c];
                s.qq[c] -= codes[c] * codes[c];
            }
        }
        let count = count as f32;
        let (mut merit, mut scale, mut centre) = ([0f32; WIDTH], [0f32; WIDTH], [0f32; WIDTH]);
        for c in 0..WIDTH {
            centre[c] = s.q[c] / count;
            let spread = s.qq[c] - s.q[c] * centre[c];
            let together = s.xq[c] - sum * centre[c];
            let is_line = (spread > 0.0) & (together > 0.0);
            scale[c] = together / (if is_line { spread } else { 1.0 });
            merit[c] = if is_line { together * scale[c] } else { 0.0 };
        }
        let c = first_of_largest(&merit);
        if merit[c] > best.merit {
            let middle = sum / count + scale[c] * (top * 0.5 - centre[c]);
            *best = Found { merit: merit[c], scale: scale[c], middle };
        }
    }

    #[inline(always)]
    fn search(&self, group: Group<'_>) -> Found {
        let top = self.rtn.levels.top();
        let mut sum = 0i64;
        for pairs in group.0.chunks(1024) {
            let mut part = 0i32;
            for pair in pairs {
                part += i32::from(pair[0]) + i32::from(pair[1]);
            }
            sum += i64::from(part);
        }
        let sum = sum as f32;
        let mut best = Found { merit: 0.0, scale: 2.0 * LARGEST / top, middle: 0.0 };
        let (mut step, mut middle) = ([0f32; WIDTH], [0f32; WIDTH]);
        for c in 0..WIDTH {
            let (near, far) = (REACH.0[c % 8] * LARGEST, REACH.1[c / 8] * LARGEST);
            step[c] = (near + far) / top;
            middle[c] = (far - near) * 0.5;
        }
        self.offer(group, &mut best, sum, &step, &middle);
        for c in 0..WIDTH {
            step[c] = best.scale * AROUND.0[c % 8];
            middle[c] = best.middle + best.scale * AROUND.1[c / 8];
        }
        self.offer(group, &mut best, sum, &step, &middle);
        best
    }

    #[inline(always)]
    fn one(&self, plain: Fitted, wholes: &Wholes, batch: &Batch<'_>, lane: usize) -> (Fitted, Line) {
        let top = self.rtn.levels.top();
        let from = if self.rtn.zero == Zero::MiddleBias { self.rtn.levels.middle() } else { 0.0 };
        let line = |of: Fitted| (of, Line::above(of.zero - of.scale * from, of.scale, top));
        if !wholes.is_worth[lane] {
            return line(plain);
        }
        let (middle, back, to) = (wholes.middle[lane], wholes.back[lane], wholes.to[lane]);
        let found = self.search((wholes.pairs(lane), wholes.count));
        // A bias is many steps, and its rounding moves all codes: neighbours of the scale have others, one of which may fit.
        let mut lines = [plain; 4];
        for (line, share) in lines[1..].iter_mut().zip(BESIDE) {
            let scale = self.rtn.scale.stored(found.scale * back * share);
            // The middle of the codes stays where it was.
            let zero = self.rtn.scale.stored(middle + found.middle * back - scale * (top * 0.5 - from));
            *line = Fitted { scale, zero };
        }
        let trials = lines.map(|of| {
            let (scale, bias) = (of.scale * to, (of.zero - of.scale * from) * to);
            Trial { scale, inverse: 1.0 / scale, bias, least: 0.0, most: top }
        });
        let error = errors(self.rtn.level, wholes.numbers(batch, lane), to, &trials);
        let mut best = 0;
        for c in 1..4 {
            best = if error[c] < error[best] { c } else { best };
        }
        line(lines[best])
    }
}

impl Fit for SearchNarrowAffine {
    type Line = Line;

    #[inline(always)]
    fn fit(&mut self, batch: &Batch<'_>) -> [(Fitted, Line); LANES] {
        self.wholes.take(self.rtn.level, batch, Origin::Middle);
        let plain = self.rtn.plain(&self.wholes.low, &self.wholes.high);
        let mut lines = [(Fitted::default(), Line::above(0.0, 1.0, 0.0)); LANES];
        for (lane, line) in lines.iter_mut().enumerate().take(batch.count) {
            *line = self.one(plain.fitted(lane), &self.wholes, batch, lane);
        }
        lines
    }

    #[inline(always)]
    fn code(&self, lines: &[Line], runs: Runs<'_>, codes: &mut [u8]) {
        Line::code(self.rtn.level, lines, runs, codes);
    }
}
