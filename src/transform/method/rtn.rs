//! Round to nearest: the scale follows from the group's extremes, and each code from its number alone.
//!
//! What the tools differ in is small and decides codes: whether the range must hold zero, which scale divides (as stored, or
//! before it was rounded), whether a zero point is added before rounding or after. A [`Rule`] names a tool; what it means for
//! a group is a handful of numbers ([`Line`]), and one loop serves all.

use super::extremes::Extremes;
use super::groups::{Batch, Fit, Fitted, LANES, Lanes, Runs, largest_finite};
use super::levels::{E4M3, Integers, Levels, Table, above, below, clamp, power};
use super::line::Line;
use super::{Level, Rule, ScaleType};

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

/// What round-to-nearest makes of groups, one a lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plain {
    /// The scale, as stored.
    pub scale: Lanes,
    /// The zero point or bias, as stored.
    pub zero: Lanes,
    /// As in [`Line`].
    before: Lanes,
    divisor: Lanes,
    after: Lanes,
    /// The code that stands for zero before anything is added.
    from: Lanes,
    top: f32,
}

impl Plain {
    /// What is stored for a group.
    #[inline(always)]
    pub(super) fn fitted(&self, lane: usize) -> Fitted {
        Fitted { scale: self.scale[lane], zero: self.zero[lane] }
    }

    /// How its codes are made.
    #[inline(always)]
    pub(super) fn line(&self, lane: usize) -> Line {
        let line = Line::around(self.from[lane], self.divisor[lane], self.top);
        Line { before: self.before[lane], after: self.after[lane], ..line }
    }
}

/// Lanes that are all the same.
#[inline(always)]
fn all(x: f32) -> Lanes {
    [x; LANES]
}

impl RtnIntegers {
    /// The scale and zero point that the tool would store for groups with these extremes, and how it makes codes.
    #[inline(always)]
    pub(super) fn plain(&self, low: &Lanes, high: &Lanes) -> Plain {
        let (mut low, mut high) = (*low, *high);
        for l in 0..LANES {
            let is_range = low[l] <= high[l];
            low[l] = if is_range { low[l] } else { 0.0 };
            high[l] = if is_range { high[l] } else { 0.0 };
        }
        match (self.zero, self.rule) {
            (Zero::Middle, _) => self.symmetric(&low, &high),
            (Zero::Code, Rule::Awq) => self.awq(&low, &high),
            (Zero::Code, Rule::Gptq) => self.gptq(&low, &high),
            (Zero::Code, _) => self.asymmetric(&low, &high),
            (Zero::Bias, _) => self.affine(&low, &high, 0.0),
            (Zero::MiddleBias, _) => self.affine(&low, &high, self.levels.middle()),
        }
    }

    #[inline(always)]
    fn stored(&self, exact: &Lanes) -> Lanes {
        let mut stored = *exact;
        self.scale.store(&mut stored);
        stored
    }

    #[inline(always)]
    fn symmetric(&self, low: &Lanes, high: &Lanes) -> Plain {
        let (top, middle) = (self.levels.top(), self.levels.middle());
        let mut exact = all(0.0);
        for l in 0..LANES {
            let most = if -low[l] > high[l] { -low[l] } else { high[l] };
            exact[l] = match self.rule {
                // Over a range of two where there is nothing.
                Rule::Gptq => (if most == 0.0 { 2.0 } else { most + most }) / top,
                _ => not_zero(most / (top / 2.0)),
            };
        }
        let scale = self.stored(&exact);
        let divisor = if self.rule == Rule::Gptq { exact } else { scale };
        let (zero, from) = (all(middle), all(middle));
        Plain { scale, zero, before: all(0.0), divisor, after: all(0.0), from, top }
    }

    /// The range need not hold zero.
    #[inline(always)]
    fn awq(&self, low: &Lanes, high: &Lanes) -> Plain {
        let top = self.levels.top();
        let (mut exact, mut zero, mut before) = (all(0.0), all(0.0), all(0.0));
        for l in 0..LANES {
            let range = high[l] - low[l];
            exact[l] = (if range > 1e-5 { range } else { 1e-5 }) / top;
            zero[l] = self.levels.nearest(-(low[l] / exact[l]), 0.0, top);
            before[l] = zero[l] * exact[l];
        }
        let scale = self.stored(&exact);
        Plain { scale, zero, before, divisor: scale, after: all(0.0), from: all(0.0), top }
    }

    #[inline(always)]
    fn gptq(&self, low: &Lanes, high: &Lanes) -> Plain {
        let top = self.levels.top();
        let (mut exact, mut zero) = (all(0.0), all(0.0));
        for l in 0..LANES {
            let (low, high) = (below(low[l], 0.0), above(high[l], 0.0));
            let is_nothing = low == high;
            let (low, high) = (if is_nothing { -1.0 } else { low }, if is_nothing { 1.0 } else { high });
            exact[l] = (high - low) / top;
            zero[l] = self.levels.nearest(-low / exact[l], 0.0, top);
        }
        let scale = self.stored(&exact);
        Plain { scale, zero, before: all(0.0), divisor: exact, after: all(0.0), from: zero, top }
    }

    /// Signed codes; the zero point is found with the scale before it is rounded, and added before rounding.
    #[inline(always)]
    fn asymmetric(&self, low: &Lanes, high: &Lanes) -> Plain {
        let (top, middle) = (self.levels.top(), self.levels.middle());
        let (mut exact, mut zero, mut after) = (all(0.0), all(0.0), all(0.0));
        for l in 0..LANES {
            let (low, high) = (below(low[l], 0.0), above(high[l], 0.0));
            exact[l] = not_zero((high - low) / top);
            let signed = self.levels.nearest(-middle - low / exact[l], -middle, top - middle);
            // Where there are only zeros the tool's zero point is zero over zero, which it stores as the middle code.
            after[l] = if low == high { 0.0 } else { signed };
            zero[l] = after[l] + middle;
        }
        let scale = self.stored(&exact);
        Plain { scale, zero, before: all(0.0), divisor: scale, after, from: all(middle), top }
    }

    /// `from`: the code that the bias is the number of.
    #[inline(always)]
    fn affine(&self, low: &Lanes, high: &Lanes, from: f32) -> Plain {
        let top = self.levels.top();
        let (mut step, mut bias) = (all(0.0), *low);
        for l in 0..LANES {
            let exact = (high[l] - low[l]) / top;
            if self.rule == Rule::Mlx {
                // The end with the larger magnitude is held exactly, zero as nearly as a whole number of steps allows.
                let exact = if exact > 1e-7 { exact } else { 1e-7 };
                let is_low = low[l].abs() > high[l].abs();
                let (exact, edge) = if is_low { (exact, low[l]) } else { (-exact, high[l]) };
                let steps = (edge / exact).round_ties_even();
                (step[l], bias[l]) = if steps == 0.0 { (exact, 0.0) } else { (edge / steps, edge) };
            } else {
                step[l] = if exact > f32::MIN_POSITIVE { exact } else { f32::MIN_POSITIVE };
            }
        }
        let scale = self.stored(&step);
        let (mut zero, mut before) = (all(0.0), all(0.0));
        for l in 0..LANES {
            zero[l] = bias[l] + step[l] * from;
        }
        let is_mlx = self.rule == Rule::Mlx;
        let zero = self.stored(&zero);
        for l in 0..LANES {
            before[l] = if is_mlx { -bias[l] } else { -(zero[l] - scale[l] * from) };
        }
        let divisor = if is_mlx { step } else { scale };
        Plain { scale, zero, before, divisor, after: all(0.0), from: all(0.0), top }
    }
}

impl Fit for RtnIntegers {
    type Line = Line;

    #[inline(always)]
    fn fit(&mut self, batch: &Batch<'_>) -> [(Fitted, Line); LANES] {
        let (mut low, mut high) = (all(0.0), all(0.0));
        for lane in 0..batch.count {
            // Loops, not folds: what is handed to a library's function is not compiled with this kernel's instructions.
            let mut seen = Extremes::NONE;
            for run in batch.runs(lane) {
                seen = seen.and(self.level, run);
            }
            (low[lane], high[lane]) = (seen.low, seen.high);
        }
        let plain = self.plain(&low, &high);
        std::array::from_fn(|lane| (plain.fitted(lane), plain.line(lane)))
    }

    #[inline(always)]
    fn code(&self, lines: &[Line], runs: Runs<'_>, codes: &mut [u8]) {
        Line::code(self.level, lines, runs, codes);
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
    fn code(&self, scales: &[f32], runs: Runs<'_>, codes: &mut [u8]) {
        for (scale, place) in scales.iter().zip(runs.places()) {
            for (code, x) in codes[place.clone()].iter_mut().zip(&runs.numbers[place]) {
                *code = self.levels.code(x / scale);
            }
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
    fn code(&self, lines: &[(f32, f32)], runs: Runs<'_>, codes: &mut [u8]) {
        for ((by, divisor), place) in lines.iter().zip(runs.places()) {
            for (code, x) in codes[place.clone()].iter_mut().zip(&runs.numbers[place]) {
                *code = self.levels.code(clamp(x * by / divisor, -1.0, 1.0));
            }
        }
    }
}
