//! Round to nearest: the scale follows from the group's extremes, and each code from its number alone.
//!
//! What the tools differ in is small and decides codes: whether the range must hold zero, which scale divides (as stored, or
//! before it was rounded), whether a zero point is added before rounding or after. A [`Rule`] names a tool; what it means for
//! a group is a handful of numbers ([`Line`]), and one loop serves all.

use super::extremes::Extremes;
use super::groups::{Batch, Fit, Fitted, LANES, largest_finite};
use super::levels::{E4M3, Integers, Levels, TO_INTEGER, Table, above, clamp, power};
use super::{Level, Rule, ScaleType};

/// How the integer codes of a group are made: `round(clamp((x + before) / divisor + after, least, most)) + shift`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    pub before: f32,
    pub divisor: f32,
    pub after: f32,
    pub least: f32,
    pub most: f32,
    pub shift: f32,
}

/// Numbers whose codes are made together.
const RUN: usize = 32;
/// Quotients and products of codes up to 255 differ by less: by three roundings of a number below 256, and one of the sum.
const NEAR: f32 = 1.0 / 8192.0;

impl Line {
    /// Codes of a zero point: what round-to-nearest has to be when the scale is known.
    #[inline(always)]
    pub(super) fn around(zero: f32, scale: f32, top: f32) -> Line {
        Line { before: 0.0, divisor: scale, after: 0.0, least: -zero, most: top - zero, shift: zero }
    }

    /// Codes of a bias.
    #[inline(always)]
    pub(super) fn above(bias: f32, scale: f32, top: f32) -> Line {
        Line { before: -bias, divisor: scale, after: 0.0, least: 0.0, most: top, shift: 0.0 }
    }

    /// The codes of some numbers.
    ///
    /// A product with the reciprocal is several times as fast as the quotient and a few units in the last place off: the
    /// nearest integer is the same, unless one of them is that close to the middle between two. Runs in which some number is
    /// are divided.
    #[inline(always)]
    pub(super) fn code(self, numbers: &[f32], codes: &mut [u8]) {
        // Most have nothing to add.
        if self.before == 0.0 && self.after == 0.0 {
            self.code_all::<false>(numbers, codes);
        } else {
            self.code_all::<true>(numbers, codes);
        }
    }

    #[inline(always)]
    fn code_all<const ADD: bool>(self, numbers: &[f32], codes: &mut [u8]) {
        let inverse = 1.0 / self.divisor;
        // The low bits of a sum with this are the rounded number, shifted.
        let to_code = TO_INTEGER + self.shift;
        let (runs, rest) = numbers.as_chunks::<RUN>();
        let (code_runs, code_rest) = codes.split_at_mut(numbers.len() - rest.len());
        for (run, codes) in runs.iter().zip(code_runs.as_chunks_mut::<RUN>().0) {
            let mut near = 0u32;
            for l in 0..RUN {
                let y = if ADD { (run[l] + self.before) * inverse + self.after } else { run[l] * inverse };
                let y = clamp(y, self.least, self.most);
                let sum = y + to_code;
                codes[l] = sum.to_bits() as u8;
                let is_far = (y - (sum - to_code)).abs() < 0.5 - NEAR;
                near |= if is_far { 0 } else { 1 };
            }
            if near != 0 || !inverse.is_finite() {
                self.divided(run, codes);
            }
        }
        self.divided(rest, code_rest);
    }

    /// The shift is added to what is whole already: an odd one would turn ties.
    #[inline(always)]
    fn divided(self, numbers: &[f32], codes: &mut [u8]) {
        for (code, &x) in codes.iter_mut().zip(numbers) {
            let y = (x + self.before) / self.divisor + self.after;
            let sum = clamp(y, self.least, self.most) + TO_INTEGER;
            *code = sum.to_bits().wrapping_add(self.shift as u32) as u8;
        }
    }
}

/// What kind of zero point integer codes have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Zero {
    /// The middle code.
    Middle,
    /// One of the codes.
    Code,
    /// A float: what code 0 stands for.
    Bias,
    /// A float: what the middle code stands for.
    MiddleBias,
}

/// On integers.
#[derive(Debug, Clone, Copy)]
pub(super) struct RtnIntegers {
    /// One that the machine has.
    pub level: Level,
    pub rule: Rule,
    pub levels: Integers,
    pub zero: Zero,
    pub scale: ScaleType,
}

/// A scale that divides nothing by zero: compressed-tensors puts the machine epsilon where a group is all zeros.
#[inline(always)]
fn not_zero(scale: f32) -> f32 {
    if scale == 0.0 { f32::EPSILON } else { scale }
}

impl RtnIntegers {
    /// The scale and zero point that the tool would store for a group with these extremes, and how it makes codes.
    #[inline(always)]
    pub(super) fn line(&self, low: f32, high: f32) -> (Fitted, Line) {
        let (low, high) = if low <= high { (low, high) } else { (0.0, 0.0) };
        match self.zero {
            Zero::Middle => self.symmetric(low, high),
            Zero::Code => self.asymmetric(low, high),
            Zero::Bias => self.affine(low, high, 0.0),
            Zero::MiddleBias => self.affine(low, high, self.levels.middle()),
        }
    }

    #[inline(always)]
    fn symmetric(&self, low: f32, high: f32) -> (Fitted, Line) {
        let (top, middle) = (self.levels.top(), self.levels.middle());
        let most = if -low > high { -low } else { high };
        let exact = match self.rule {
            // Over a range of two where there is nothing.
            Rule::Gptq => (if most == 0.0 { 2.0 } else { most + most }) / top,
            _ => not_zero(most / (top / 2.0)),
        };
        let stored = self.scale.stored(exact);
        let divisor = if self.rule == Rule::Gptq { exact } else { stored };
        (Fitted { scale: stored, zero: middle }, Line::around(middle, divisor, top))
    }

    #[inline(always)]
    fn asymmetric(&self, low: f32, high: f32) -> (Fitted, Line) {
        let (top, middle) = (self.levels.top(), self.levels.middle());
        if self.rule == Rule::Awq {
            // The range need not hold zero.
            let range = high - low;
            let exact = (if range > 1e-5 { range } else { 1e-5 }) / top;
            let zero = clamp(-(low / exact).round_ties_even(), 0.0, top);
            let stored = self.scale.stored(exact);
            return (Fitted { scale: stored, zero }, Line::above(-(zero * exact), stored, top));
        }
        let (low, high) = (if low < 0.0 { low } else { 0.0 }, if high > 0.0 { high } else { 0.0 });
        if self.rule == Rule::Gptq {
            let (low, high) = if low == high { (-1.0, 1.0) } else { (low, high) };
            let exact = (high - low) / top;
            let zero = clamp((-low / exact).round_ties_even(), 0.0, top);
            let fitted = Fitted { scale: self.scale.stored(exact), zero };
            return (fitted, Line::around(zero, exact, top));
        }
        // Signed codes; the zero point is found with the scale before it is rounded, and added before rounding.
        let exact = not_zero((high - low) / top);
        let zero = clamp(-middle - low / exact, -middle, top - middle).round_ties_even();
        // Where there are only zeros the tool's zero point is zero over zero, which it stores as the middle code.
        let zero = if low == high { 0.0 } else { zero };
        let stored = self.scale.stored(exact);
        let line = Line { after: zero, ..Line::around(middle, stored, top) };
        (Fitted { scale: stored, zero: zero + middle }, line)
    }

    /// `from`: the code that the bias is the number of.
    #[inline(always)]
    fn affine(&self, low: f32, high: f32, from: f32) -> (Fitted, Line) {
        let top = self.levels.top();
        let step = (high - low) / top;
        if self.rule == Rule::Mlx {
            // The end with the larger magnitude is held exactly, zero as nearly as a whole number of steps allows.
            let step = if step > 1e-7 { step } else { 1e-7 };
            let (step, edge) = if low.abs() > high.abs() { (step, low) } else { (-step, high) };
            let steps = (edge / step).round_ties_even();
            let (step, bias) = if steps == 0.0 { (step, 0.0) } else { (edge / steps, edge) };
            let scale = self.scale.stored(step);
            let fitted = Fitted { scale, zero: self.scale.stored(bias + step * from) };
            return (fitted, Line::above(bias, step, top));
        }
        let step = if step > f32::MIN_POSITIVE { step } else { f32::MIN_POSITIVE };
        let scale = self.scale.stored(step);
        let zero = self.scale.stored(low + step * from);
        (Fitted { scale, zero }, Line::above(zero - scale * from, scale, top))
    }
}

impl Fit for RtnIntegers {
    type Line = Line;

    #[inline(always)]
    fn fit(&mut self, batch: &Batch<'_>) -> [(Fitted, Line); LANES] {
        let mut lines = [(Fitted::default(), Line::above(0.0, 1.0, 0.0)); LANES];
        for (lane, line) in lines.iter_mut().enumerate().take(batch.count) {
            // Loops, not folds: what is handed to a library's function is not compiled with this kernel's instructions.
            let mut seen = Extremes::NONE;
            for run in batch.runs(lane) {
                seen = seen.and(self.level, run);
            }
            *line = self.line(seen.low, seen.high);
        }
        lines
    }

    #[inline(always)]
    fn code(&self, line: Line, numbers: &[f32], codes: &mut [u8]) {
        line.code(numbers, codes);
    }
}

/// On floats of few bits.
#[derive(Debug, Clone, Copy)]
pub(super) struct RtnLevels<L> {
    pub levels: L,
    pub scale: ScaleType,
}

impl<L: Levels> RtnLevels<L> {
    /// The scale for a group with this largest magnitude.
    #[inline(always)]
    pub(super) fn scale(&self, most: f32) -> f32 {
        match self.scale {
            // The exponent of the largest, whose mantissa is first rounded to one bit, less that of the largest level.
            ScaleType::E8M0 => {
                let exponent = most.to_bits().wrapping_add(1 << 21) >> 23;
                let least = (self.levels.largest().to_bits() >> 23).wrapping_sub(127);
                power(exponent.saturating_sub(least))
            }
            ScaleType::E4M3 { global } => {
                let scale = E4M3::NEW.round(global * (most / self.levels.largest()));
                // compressed-tensors' epsilon for the type.
                (if scale == 0.0 { 0.125 } else { scale }) / global
            }
            ScaleType::Float(_) => self.scale.stored(not_zero(most / self.levels.largest())),
        }
    }
}

/// The largest magnitude of each group.
#[inline(always)]
fn largest(batch: &Batch<'_>) -> [f32; LANES] {
    let mut most = [0f32; LANES];
    for (lane, most) in most.iter_mut().enumerate().take(batch.count) {
        for run in batch.runs(lane) {
            *most = above(largest_finite(run), *most);
        }
    }
    most
}

impl<L: Levels> Fit for RtnLevels<L> {
    /// The scale.
    type Line = f32;

    #[inline(always)]
    fn fit(&mut self, batch: &Batch<'_>) -> [(Fitted, f32); LANES] {
        largest(batch).map(|most| {
            let scale = self.scale(most);
            (Fitted { scale, zero: 0.0 }, scale)
        })
    }

    #[inline(always)]
    fn code(&self, scale: f32, numbers: &[f32], codes: &mut [u8]) {
        for (code, &x) in codes.iter_mut().zip(numbers) {
            *code = self.levels.code(x / scale);
        }
    }
}

/// On a table whose ends are −1 and 1: bitsandbytes' way.
#[derive(Debug, Clone, Copy)]
pub(super) struct RtnTable {
    pub levels: Table,
    pub scale: ScaleType,
    /// Numbers of a whole group: the last of a tensor may have fewer.
    pub group_size: usize,
}

impl Fit for RtnTable {
    /// What numbers are multiplied by, and divided by.
    type Line = (f32, f32);

    #[inline(always)]
    fn fit(&mut self, batch: &Batch<'_>) -> [(Fitted, (f32, f32)); LANES] {
        largest(batch).map(|most| {
            let divisor = above(most, 1e-38);
            // A whole group is multiplied by the reciprocal, the rest of a tensor is divided.
            if batch.group_size() == self.group_size {
                (Fitted { scale: self.scale.stored(most), zero: 0.0 }, (1.0 / divisor, 1.0))
            } else {
                (Fitted { scale: self.scale.stored(divisor), zero: 0.0 }, (1.0, divisor))
            }
        })
    }

    #[inline(always)]
    fn code(&self, (by, divisor): (f32, f32), numbers: &[f32], codes: &mut [u8]) {
        for (code, &x) in codes.iter_mut().zip(numbers) {
            *code = self.levels.code(clamp(x * by / divisor, -1.0, 1.0));
        }
    }
}
