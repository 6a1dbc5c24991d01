//! The search where codes have four bits or fewer and all numbers count the same: what most models are quantised with.
//!
//! One round of [`coarse`] candidates over all that a group may want; with a bias, which is one more dimension, a second one around
//! the best of them. What comes out is tried as it will be stored, on the numbers themselves, against what round-to-nearest
//! would store.

use super::super::extremes::Extremes;
use super::super::groups::{Batch, Fit, Fitted, LANES, Lanes};
use super::super::levels::{above, below, clamp};
use super::super::rtn::{Line, RtnIntegers, Zero};
use super::coarse::{self, Candidates, Group, Row, WIDTH, first_of_largest, sums};
use super::likely;
use super::trial::{Trial, errors};
use super::{ASYMMETRIC, Level, SYMMETRIC, ZERO_STEPS};

/// On integers of four bits or fewer, with or without a zero point that is a code.
pub(in super::super) struct SearchNarrow {
    pub rtn: RtnIntegers,
    /// Whether scales may be negative.
    pub signed: bool,
    pub memory: Memory,
}

/// On integers of four bits or fewer with a bias.
pub(in super::super) struct SearchNarrowAffine {
    pub rtn: RtnIntegers,
    pub memory: Memory,
}

/// What a group needs on its way.
#[derive(Debug, Default)]
pub(in super::super) struct Memory {
    group: Group,
    /// Its numbers, where they are not neighbours, or not all finite.
    copied: Vec<f32>,
}

/// The best candidate yet, in the units of the group's whole numbers.
#[derive(Debug, Clone, Copy)]
struct Found {
    merit: f32,
    scale: f32,
    /// Zero point, or the middle of the codes.
    zero: f32,
}

impl Memory {
    /// A group's numbers side by side, what is not finite as zero, and the least and the largest of them.
    #[inline(always)]
    fn numbers<'a>(
        copied: &'a mut Vec<f32>,
        batch: &Batch<'a>,
        lane: usize,
        level: Level,
    ) -> (&'a [f32], Extremes) {
        if let Some(run) = batch.run(lane) {
            let found = Extremes::NONE.and(level, run);
            if found.is_finite() {
                return (run, found);
            }
        }
        copied.clear();
        for run in batch.runs(lane) {
            for &x in run {
                copied.push(if x.abs() < f32::INFINITY { x } else { 0.0 });
            }
        }
        let found = Extremes::NONE.and(level, copied);
        (copied, found)
    }
}

impl SearchNarrow {
    /// Tries candidates.
    #[inline(always)]
    fn offer<const P: usize>(&self, group: &Group, best: &mut Found, step: &[Lanes; P], zero: &[Lanes; P]) {
        let top = self.rtn.levels.top();
        let (mut least, mut most) = (*zero, *zero);
        for p in 0..P {
            for l in 0..LANES {
                least[p][l] = -zero[p][l];
                most[p][l] = top - zero[p][l];
            }
        }
        let found = coarse::best(self.rtn.level, &group.pairs, step, &least, &most);
        if found.merit > best.merit {
            let zero = zero[found.place / LANES][found.place % LANES];
            *best = Found { merit: found.merit, scale: found.scale, zero };
        }
    }

    /// Steps that are these shares of `unit`.
    #[inline(always)]
    fn symmetric<const P: usize>(&self, group: &Group, unit: f32, shares: &[Lanes; P]) -> Found {
        let middle = self.rtn.levels.middle();
        let zero = [[middle; LANES]; P];
        let mut best = Found { merit: 0.0, scale: unit, zero: middle };
        self.offer(group, &mut best, &scaled(shares, unit), &zero);
        if self.signed {
            self.offer(group, &mut best, &scaled(shares, -unit), &zero);
        }
        best
    }

    /// Steps that are these shares of the one that reaches from `low` to `high`, the zero point so many codes beside its place.
    #[inline(always)]
    fn asymmetric<const P: usize>(
        &self,
        group: &Group,
        (low, unit): (f32, f32),
        shares: &[Lanes; P],
        zero_steps: &[Lanes; P],
    ) -> Found {
        let (top, middle) = (self.rtn.levels.top(), self.rtn.levels.middle());
        let (mut step, mut zero) = (*shares, *zero_steps);
        for p in 0..P {
            for l in 0..LANES {
                // A longer step needs another zero point to reach both ends, a shorter one cuts both off.
                let reach = unit * above(step[p][l], 1.0);
                zero[p][l] = clamp(rounded(-low / reach) + zero[p][l], 0.0, top);
                step[p][l] *= unit;
            }
        }
        let mut best = Found { merit: 0.0, scale: unit, zero: middle };
        self.offer(group, &mut best, &step, &zero);
        best
    }

    #[inline(always)]
    fn search(&self, group: &Group, numbers: &[f32], low: f32, high: f32) -> Found {
        let top = self.rtn.levels.top();
        // Of four bits it is known where the best is likely to be, and half as many candidates do.
        let is_known = self.rtn.levels.bits == 4;
        let spread = |range: f32| {
            let [squares] = errors(self.rtn.level, numbers, group.to, &[Trial::NONE]);
            range * group.to / (squares / numbers.len() as f32).sqrt()
        };
        if self.rtn.zero == Zero::Middle {
            let largest = above(-low, high);
            let unit = largest / group.back / (top * 0.5);
            return match is_known {
                true => {
                    let likely = likely::SYMMETRIC.share(spread(largest), numbers.len());
                    self.symmetric(group, unit, &[likely::around(likely, &likely::SYMMETRIC)])
                }
                false => self.symmetric::<2>(group, unit, bytemuck::cast_ref(&SYMMETRIC)),
            };
        }
        let (low, high) = (below(low, 0.0), above(high, 0.0));
        let range = high / group.back - low / group.back;
        let line = (low / group.back, range / top);
        match is_known {
            true => {
                let likely = likely::ASYMMETRIC.share(spread(high - low), numbers.len());
                let shares = likely::around(likely, &likely::ASYMMETRIC);
                self.asymmetric(group, line, &[shares], &[likely::ASYMMETRIC.zero_steps])
            }
            false => {
                let (shares, steps) = (bytemuck::cast_ref(&ASYMMETRIC), bytemuck::cast_ref(&ZERO_STEPS));
                self.asymmetric::<2>(group, line, shares, steps)
            }
        }
    }

    #[inline(always)]
    fn one(&self, memory: &mut Memory, batch: &Batch<'_>, lane: usize) -> (Fitted, Line) {
        let (numbers, Extremes { low, high, .. }) =
            Memory::numbers(&mut memory.copied, batch, lane, self.rtn.level);
        let top = self.rtn.levels.top();
        let (plain, line) = self.rtn.line(low, high);
        if !memory.group.take(numbers, 0.0, above(-low, high)) {
            return (plain, Line::around(plain.zero, plain.scale, line.most - line.least));
        }
        let found = self.search(&memory.group, numbers, low, high);
        let stored = self.rtn.scale.stored(found.scale * memory.group.back);
        let to = memory.group.to;
        let lines = [(plain.scale, plain.zero), (stored, found.zero)];
        let lines =
            lines.map(|(scale, zero)| Trial { scale: scale * to, bias: 0.0, least: -zero, most: top - zero });
        let error = errors(self.rtn.level, numbers, to, &lines);
        let fitted = if error[1] < error[0] { Fitted { scale: stored, zero: found.zero } } else { plain };
        (fitted, Line::around(fitted.zero, fitted.scale, top))
    }
}

#[inline(always)]
fn rounded(x: f32) -> f32 {
    (x + 12_582_912.0) - 12_582_912.0
}

#[inline(always)]
fn scaled<const P: usize>(shares: &[Lanes; P], unit: f32) -> [Lanes; P] {
    let mut scaled = *shares;
    for lanes in &mut scaled {
        for share in lanes {
            *share *= unit;
        }
    }
    scaled
}

impl Fit for SearchNarrow {
    type Line = Line;

    #[inline(always)]
    fn fit(&mut self, batch: &Batch<'_>) -> [(Fitted, Line); LANES] {
        let mut memory = std::mem::take(&mut self.memory);
        let mut lines = [(Fitted::default(), Line::above(0.0, 1.0, 0.0)); LANES];
        for (lane, line) in lines.iter_mut().enumerate().take(batch.count) {
            *line = self.one(&mut memory, batch, lane);
        }
        self.memory = memory;
        lines
    }

    #[inline(always)]
    fn code(&self, line: Line, numbers: &[f32], codes: &mut [u8]) {
        line.code(numbers, codes);
    }
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
    fn offer(&self, group: &Group, best: &mut Found, sum: f32, step: &Row, middle: &Row) {
        let top = self.rtn.levels.top();
        let mut zero = [0f32; WIDTH];
        for c in 0..WIDTH {
            zero[c] = top * 0.5 - middle[c] / step[c];
        }
        let of = Candidates::new(step, &zero, &[0.0; WIDTH], &[top; WIDTH]);
        let mut s = sums::<true>(self.rtn.level, &group.pairs, &of);
        if group.count % 2 == 1 {
            // The zero behind the last number.
            let codes = of.codes_of_zero();
            for c in 0..WIDTH {
                s.q[c] -= codes[c];
                s.qq[c] -= codes[c] * codes[c];
            }
        }
        let count = group.count as f32;
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
            let zero = sum / count + scale[c] * (top * 0.5 - centre[c]);
            *best = Found { merit: merit[c], scale: scale[c], zero };
        }
    }

    #[inline(always)]
    fn search(&self, group: &Group, half: f32) -> Found {
        let top = self.rtn.levels.top();
        let half = half / group.back;
        let mut sum = 0i64;
        for pairs in group.pairs.chunks(1024) {
            let mut part = 0i32;
            for pair in pairs {
                part += i32::from(pair[0]) + i32::from(pair[1]);
            }
            sum += i64::from(part);
        }
        let sum = sum as f32;
        let mut best = Found { merit: 0.0, scale: 2.0 * half / top, zero: 0.0 };
        let (mut step, mut middle) = ([0f32; WIDTH], [0f32; WIDTH]);
        for c in 0..WIDTH {
            let (near, far) = (REACH.0[c % 8] * half, REACH.1[c / 8] * half);
            step[c] = (near + far) / top;
            middle[c] = (far - near) * 0.5;
        }
        self.offer(group, &mut best, sum, &step, &middle);
        for c in 0..WIDTH {
            step[c] = best.scale * AROUND.0[c % 8];
            middle[c] = best.zero + best.scale * AROUND.1[c / 8];
        }
        self.offer(group, &mut best, sum, &step, &middle);
        best
    }

    #[inline(always)]
    fn one(&self, memory: &mut Memory, batch: &Batch<'_>, lane: usize) -> (Fitted, Line) {
        let (numbers, Extremes { low, high, .. }) =
            Memory::numbers(&mut memory.copied, batch, lane, self.rtn.level);
        let top = self.rtn.levels.top();
        let from = if self.rtn.zero == Zero::MiddleBias { self.rtn.levels.middle() } else { 0.0 };
        let (plain, _) = self.rtn.line(low, high);
        let line = |of: Fitted| (of, Line::above(of.zero - of.scale * from, of.scale, top));
        // Halves first: the difference of the largest numbers is beyond a float's range.
        let (middle, half) = (high * 0.5 + low * 0.5, high * 0.5 - low * 0.5);
        if !memory.group.take(numbers, middle, half) {
            return line(plain);
        }
        let (back, to) = (memory.group.back, memory.group.to);
        let found = self.search(&memory.group, half);
        // A bias is many steps, and its rounding moves all codes: neighbours of the scale have others, one of which may fit.
        let mut lines = [plain; 4];
        for (line, share) in lines[1..].iter_mut().zip(BESIDE) {
            let scale = self.rtn.scale.stored(found.scale * back * share);
            // The middle of the codes stays where it was.
            let zero = self.rtn.scale.stored(middle + found.zero * back - scale * (top * 0.5 - from));
            *line = Fitted { scale, zero };
        }
        let trials = lines.map(|of| {
            let bias = (of.zero - of.scale * from) * to;
            Trial { scale: of.scale * to, bias, least: 0.0, most: top }
        });
        let error = errors(self.rtn.level, numbers, to, &trials);
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
        let mut memory = std::mem::take(&mut self.memory);
        let mut lines = [(Fitted::default(), Line::above(0.0, 1.0, 0.0)); LANES];
        for (lane, line) in lines.iter_mut().enumerate().take(batch.count) {
            *line = self.one(&mut memory, batch, lane);
        }
        self.memory = memory;
        lines
    }

    #[inline(always)]
    fn code(&self, line: Line, numbers: &[f32], codes: &mut [u8]) {
        line.code(numbers, codes);
    }
}
