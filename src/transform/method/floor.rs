//! The floor: the least squared error that a grid can have for a group, whatever the method.
//!
//! A method is measured against it, so it is found in another way than methods choose. Make the scale smaller and smaller,
//! and one after the other the numbers of the group get their next code. Each such step is an event, at a scale that is known
//! beforehand; between two events no code changes, and what the best scale for those codes leaves over is a quotient of two
//! sums. Sorting the events and adding them up one by one visits every set of codes that any scale gives, so that the least
//! error among them is exact and not that of a scan. All zero points go along in one sweep: an event is the same for each of
//! them that has the code.
//!
//! A bias that is a float is one unknown more. There the sweep is made for several fractions of a zero point, with the best
//! bias in the quotient, and the best of it is refined by turns (codes, then line) until nothing changes. Where few scales can
//! be stored, powers of two and eight-bit floats, all of them are tried; other scales are taken to be as fine as floats are
//! here, so that what a method loses by storing them counts as loss.

use super::levels::{E4M3, power};
use super::{Grid, Kind, Quantiser, ScaleType};
use crate::dtype::DType;
use crate::transform::packing::Band;
use crate::transform::simd::{Kernel, Level, run};

/// Groups as a method leaves them, against the floor.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Against {
    /// Squared error of codes and scales as they are stored, before a reader rounds their product.
    pub squares: f64,
    /// The least that the grid can have.
    pub floor: f64,
    /// Groups.
    pub groups: u64,
}

impl Against {
    /// Both together.
    pub fn and(self, other: Against) -> Against {
        Against {
            squares: self.squares + other.squares,
            floor: self.floor + other.floor,
            groups: self.groups + other.groups,
        }
    }

    /// The error over the least error, in lengths and not in squares; `None` where there is nothing to compare.
    pub fn ratio(&self) -> Option<f64> {
        match (self.groups, self.floor > 0.0, self.squares > 0.0) {
            (0, ..) | (_, false, true) => None,
            (_, false, false) => Some(1.0),
            _ => Some((self.squares / self.floor).sqrt()),
        }
    }
}

/// Zero points that go along in one sweep, at most.
const LANES: usize = 16;
/// Fractions of a zero point at which a sweep with a bias is made.
const FRACTIONS: [f64; 4] = [-0.375, -0.125, 0.125, 0.375];
/// Turns after which a line moves no more, to the last digits.
const TURNS_MAX: u32 = 60;
/// A least error below this share of the numbers' own squares is what sums of f64 leave of zero.
const NOTHING: f64 = 1e-13;

/// Whether the floor of a grid is known: of eight-bit floats it is not (there the reference method is what counts), nor of more
/// zero points than go along in one sweep.
pub fn is_known(grid: Grid) -> bool {
    let is_fine = matches!(grid.scale, ScaleType::Float(dtype) if dtype != DType::F8E4M3);
    match grid.kind {
        Kind::Symmetric { bits, .. } => is_fine && (1..=8).contains(&bits),
        Kind::Asymmetric { bits } | Kind::Affine { bits } | Kind::Centred { bits } => {
            is_fine && (1..=4).contains(&bits)
        }
        Kind::Table(table) => is_fine && table.contains(&0.0) && table.is_sorted(),
        Kind::E2M1 => match grid.scale {
            ScaleType::E4M3 { global } => global.is_finite() && global > 0.0,
            _ => true,
        },
        Kind::Float(_) => false,
    }
}

/// The least squared error of a group; `weights` as many as numbers, or none where all count the same. `None` where it is not
/// known ([`is_known`]).
pub fn floor(grid: Grid, numbers: &[f32], weights: &[f32]) -> Option<f64> {
    if !is_known(grid) {
        return None;
    }
    let group = Group::new(numbers, weights);
    let (least, of) = match (grid.kind, scales(grid.scale)) {
        (Kind::Affine { bits } | Kind::Centred { bits }, _) => (group.with_bias(top(bits)), group.spread()),
        (kind, Some(scales)) => (group.with_scales(&sides(kind), scales), group.squares()),
        (kind, None) => {
            let squares = group.squares();
            let found = group.sweep(&sides(kind), 0.0, false);
            (squares - found.iter().fold(0.0, |most: f64, one| most.max(one.merit)), squares)
        }
    };
    Some(if least > NOTHING * of { least } else { 0.0 })
}

/// Quantises groups of `size` numbers, one behind the other, and sets them against their floor; `weights` as many as a group
/// has numbers, or none. What is NaN or infinite is taken for zero. `None` where the floor is not known.
pub fn against(quantiser: &Quantiser, numbers: &[f32], size: usize, weights: &[f32]) -> Option<Against> {
    let Grid { kind, .. } = quantiser.grid;
    if !is_known(quantiser.grid) || size == 0 {
        return None;
    }
    let numbers: Vec<f32> = numbers.iter().map(|&x| if x.is_finite() { x } else { 0.0 }).collect();
    let is_weighed = weights.len() == size;
    let quantiser = Quantiser {
        group_rows: 1,
        group_columns: size,
        importance: is_weighed.then(|| weights.into()),
        ..quantiser.clone()
    };
    let mut band = Band::default();
    quantiser.quantise(&numbers, size, &mut band);
    let mut all = Against::default();
    let groups = numbers.chunks_exact(size).zip(band.codes.chunks_exact(size)).zip(&band.scales);
    for (index, ((numbers, codes), &scale)) in groups.enumerate() {
        let zero = band.zeros.get(index).copied().unwrap_or(0.0);
        let group = Group::new(numbers, if is_weighed { weights } else { &[] });
        let squares = group.error(|i| number(kind, codes[i], f64::from(scale), f64::from(zero)));
        let mut least = floor(quantiser.grid, numbers, if is_weighed { weights } else { &[] })?;
        // A bias is found by refining: what the method found is one more place to begin.
        if let Kind::Affine { bits } | Kind::Centred { bits } = kind {
            let middle = if matches!(kind, Kind::Centred { .. }) { middle(bits) } else { 0.0 };
            let (scale, zero) = (f64::from(scale), f64::from(zero));
            least = least.min(group.refined(top(bits), (scale, zero - middle * scale - group.mean)));
        }
        all = all.and(Against { squares, floor: least.min(squares), groups: 1 });
    }
    Some(all)
}

/// The largest code.
fn top(bits: u32) -> u32 {
    (1u32 << bits.clamp(1, 8)) - 1
}

/// The code of zero where codes are symmetric.
fn middle(bits: u32) -> f64 {
    f64::from(1u32 << (bits.clamp(1, 8) - 1))
}

/// Magnitudes of E2M1.
const E2M1_VALUES: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// The number of a code.
fn number(kind: Kind, code: u8, scale: f64, zero: f64) -> f64 {
    let q = f64::from(code);
    match kind {
        Kind::Symmetric { bits, .. } => (q - middle(bits)) * scale,
        Kind::Asymmetric { .. } => (q - zero) * scale,
        Kind::Affine { .. } => q * scale + zero,
        Kind::Centred { bits } => (q - middle(bits)) * scale + zero,
        Kind::Table(table) => table.get(usize::from(code)).map_or(0.0, |&x| f64::from(x)) * scale,
        Kind::E2M1 => {
            let magnitude = E2M1_VALUES[usize::from(code & 7)];
            (if code & 8 == 0 { magnitude } else { -magnitude }) * scale
        }
        Kind::Float(_) => 0.0,
    }
}

/// A level on one side of zero.
#[derive(Debug, Clone, Copy)]
struct Rung {
    /// Halfway to it from the one before, in steps of the scale; magnitudes.
    bound: f64,
    /// The one before.
    from: f64,
    /// It.
    to: f64,
    /// One for each lane that has it.
    lanes: [f64; LANES],
}

/// The levels above zero and those below, each from zero outwards.
#[derive(Debug, Clone, Default)]
struct Sides {
    above: Vec<Rung>,
    below: Vec<Rung>,
}

/// Those of a kind without a bias. A negative scale is a positive one with the codes mirrored: the neighbouring zero point.
fn sides(kind: Kind) -> Sides {
    match kind {
        Kind::Symmetric { bits, signed_scales } => {
            let middle = 1u32 << (bits.clamp(1, 8) - 1);
            integers(top(bits), middle - u32::from(signed_scales), middle, 0.0)
        }
        Kind::Asymmetric { bits } | Kind::Affine { bits } | Kind::Centred { bits } => {
            integers(top(bits), 0, top(bits), 0.0)
        }
        Kind::Table(table) => {
            let above: Vec<f64> = table.iter().filter(|&&x| x >= 0.0).map(|&x| f64::from(x)).collect();
            let below = table.iter().rev().filter(|&&x| x <= 0.0).map(|&x| -f64::from(x));
            Sides { above: rungs(&above), below: rungs(&below.collect::<Vec<_>>()) }
        }
        Kind::E2M1 | Kind::Float(_) => Sides { above: rungs(&E2M1_VALUES), below: rungs(&E2M1_VALUES) },
    }
}

/// One in these lanes.
fn one(lanes: std::ops::Range<usize>) -> [f64; LANES] {
    std::array::from_fn(|l| if lanes.contains(&l) { 1.0 } else { 0.0 })
}

/// Levels from zero outwards.
fn rungs(levels: &[f64]) -> Vec<Rung> {
    let pairs = levels.windows(2);
    pairs.map(|w| Rung { bound: (w[0] + w[1]) / 2.0, from: w[0], to: w[1], lanes: one(0..1) }).collect()
}

/// Integers with a zero point of each of `first..=last` and a fraction, a lane each. Codes are counted from the zero point.
fn integers(top: u32, first: u32, last: u32, fraction: f64) -> Sides {
    let lane = |zero: u32| zero.saturating_sub(first) as usize;
    let lanes = lane(last).min(LANES - 1) + 1;
    let rung = |k: u32, fraction: f64, lanes| {
        let k = f64::from(k);
        Rung { bound: k + 0.5 + fraction, from: k, to: k + 1.0, lanes }
    };
    let above = (0..top - first).map(|k| rung(k, -fraction, one(0..lane(top - k).min(lanes))));
    let below = (0..last).map(|k| rung(k, fraction, one(lane(k + 1)..lanes)));
    Sides { above: above.collect(), below: below.collect() }
}

/// Scales that can be stored, where they are few.
fn scales(of: ScaleType) -> Option<Vec<f64>> {
    let e4m3 = |by: f32| (1..127).map(|code| f64::from(E4M3::NEW.value(code)) / f64::from(by)).collect();
    match of {
        ScaleType::E8M0 => Some((0..255).map(|code| f64::from(power(code))).collect()),
        ScaleType::E4M3 { global } => Some(e4m3(global)),
        ScaleType::Float(DType::F8E4M3) => Some(e4m3(1.0)),
        ScaleType::Float(_) => None,
    }
}

/// What a sweep found in a lane.
#[derive(Debug, Clone, Copy, Default)]
struct Found {
    /// What is taken off the squares.
    merit: f64,
    scale: f64,
}

/// The events of a group in their order.
struct Sweep<'a> {
    /// The reciprocal of the scale as the bits of a f32, and below it number and rung.
    events: &'a [u64],
    /// Each with its weight.
    numbers: &'a [(f64, f64)],
    sides: &'a Sides,
    /// Rungs of a side, at most.
    rungs: usize,
    /// What part of the square of the sum of codes a bias takes off.
    share: f64,
}

impl Kernel for Sweep<'_> {
    type Out = [Found; LANES];

    #[inline(always)]
    fn run(self) -> [Found; LANES] {
        let Sweep { events, numbers, sides, rungs, share } = self;
        let (mut xq, mut qq, mut q) = ([0f64; LANES], [0f64; LANES], [0f64; LANES]);
        let (mut merits, mut at) = ([0f64; LANES], [0u64; LANES]);
        for &event in events {
            let number = (event & 0xffff_ffff) as usize;
            let Some(&(x, v)) = numbers.get(number / rungs) else { continue };
            let side = if x > 0.0 { &sides.above } else { &sides.below };
            let Some(rung) = side.get(number % rungs) else { continue };
            let step = rung.to - rung.from;
            let dxq = v * x.abs() * step;
            let dqq = v * (rung.to * rung.to - rung.from * rung.from);
            let dq = v * step.copysign(x);
            for l in 0..LANES {
                xq[l] += dxq * rung.lanes[l];
                qq[l] += dqq * rung.lanes[l];
                q[l] += dq * rung.lanes[l];
                // NaN where nothing happened yet, which is not better than anything.
                let merit = xq[l] * xq[l] / (qq[l] - q[l] * q[l] * share);
                let is_better = merit > merits[l] && merit < f64::INFINITY;
                merits[l] = if is_better { merit } else { merits[l] };
                at[l] = if is_better { event } else { at[l] };
            }
        }
        std::array::from_fn(|l| {
            let scale = 1.0 / f64::from(f32::from_bits((at[l] >> 32) as u32));
            Found { merit: merits[l], scale }
        })
    }
}

/// A group's numbers, with what is asked of them again and again.
struct Group<'a> {
    numbers: &'a [f32],
    weights: &'a [f32],
    /// Their (weighed) mean.
    mean: f64,
    /// The sum of weights.
    weight: f64,
}

impl<'a> Group<'a> {
    fn new(numbers: &'a [f32], weights: &'a [f32]) -> Group<'a> {
        let weights = if weights.len() == numbers.len() { weights } else { &[] };
        let mut group = Group { numbers, weights, mean: 0.0, weight: 0.0 };
        let (sum, weight) = group.items().fold((0.0, 0.0), |(sum, all), (x, v)| (sum + v * x, all + v));
        group.weight = weight;
        group.mean = if weight > 0.0 { sum / weight } else { 0.0 };
        group
    }

    /// Each number and its weight.
    fn items(&self) -> impl Iterator<Item = (f64, f64)> {
        let weights = self.weights.iter().map(|&v| f64::from(v).max(0.0)).chain(std::iter::repeat(1.0));
        self.numbers.iter().map(|&x| f64::from(x)).zip(weights)
    }

    fn squares(&self) -> f64 {
        self.items().map(|(x, v)| v * x * x).sum()
    }

    /// Squares of what the numbers are about their mean.
    fn spread(&self) -> f64 {
        self.items().map(|(x, v)| v * (x - self.mean) * (x - self.mean)).sum()
    }

    /// Squares of the differences from other numbers.
    fn error(&self, other: impl Fn(usize) -> f64) -> f64 {
        self.items().enumerate().map(|(i, (x, v))| v * (x - other(i)) * (x - other(i))).sum()
    }

    /// The best of all scales for the numbers less `shift`. With a bias the best one goes with each scale; `shift` is the mean
    /// then.
    fn sweep(&self, sides: &Sides, shift: f64, has_bias: bool) -> [Found; LANES] {
        let rungs = sides.above.len().max(sides.below.len()).max(1);
        let mut events: Vec<u64> = Vec::with_capacity(self.numbers.len() * rungs);
        for (i, (x, v)) in self.items().enumerate() {
            let x = x - shift;
            if x == 0.0 || v == 0.0 {
                continue;
            }
            let side = if x > 0.0 { &sides.above } else { &sides.below };
            for (k, rung) in side.iter().enumerate() {
                // Positive floats are ordered as their bits are. The order of what is equal in 24 bits is of no account.
                let at = (rung.bound / x.abs()) as f32;
                events.push(u64::from(at.to_bits()) << 32 | (i * rungs + k) as u64);
            }
        }
        events.sort_unstable();
        let numbers: Vec<(f64, f64)> = self.items().map(|(x, v)| (x - shift, v)).collect();
        let share = if has_bias && self.weight > 0.0 { 1.0 / self.weight } else { 0.0 };
        run(Level::best(), Sweep { events: &events, numbers: &numbers, sides, rungs, share })
    }

    /// The least error with one of these scales.
    fn with_scales(&self, sides: &Sides, scales: Vec<f64>) -> f64 {
        let most = self.items().fold(0f64, |most, (x, _)| most.max(x.abs()));
        let reach = sides.above.last().map_or(1.0, |r| r.to).max(sides.below.last().map_or(1.0, |r| r.to));
        let mut least = self.squares();
        // Far above nothing but zero is left of the numbers; far below all are at the last level.
        let worth = |s: &f64| *s > most / reach / 64.0 && *s < most * 8.0;
        for scale in scales.into_iter().filter(worth) {
            let nearest = |x: f64| {
                let side = if x > 0.0 { &sides.above } else { &sides.below };
                let rung = side.iter().rev().find(|r| x.abs() > r.bound * scale);
                (rung.map_or(0.0, |r| r.to) * scale).copysign(x)
            };
            least = least.min(self.items().map(|(x, v)| v * (x - nearest(x)) * (x - nearest(x))).sum());
        }
        least
    }

    /// The least error of a line `code · scale + bias`.
    fn with_bias(&self, top: u32) -> f64 {
        let spread = self.spread();
        let mut least = spread;
        for fraction in FRACTIONS {
            let sides = integers(top, 0, top, fraction);
            // Each zero point may lead to another valley, and the deepest need not be that which is entered deepest.
            for (lane, found) in self.sweep(&sides, self.mean, true).into_iter().enumerate() {
                if found.merit > 0.0 {
                    least = least.min(spread - found.merit);
                    let bias = -(lane as f64 + fraction) * found.scale;
                    least = least.min(self.refined(top, (found.scale, bias)));
                }
            }
        }
        least.max(0.0)
    }

    /// Codes and line by turns, from a scale and a bias (of the numbers less their mean) on.
    fn refined(&self, top: u32, (mut scale, mut bias): (f64, f64)) -> f64 {
        let spread = self.spread();
        let mut least = spread;
        for _ in 0..TURNS_MAX {
            if scale == 0.0 || !scale.is_finite() {
                break;
            }
            let (mut q, mut qq, mut xq) = (0.0, 0.0, 0.0);
            for (x, v) in self.items() {
                let x = x - self.mean;
                let code = ((x - bias) / scale).round_ties_even().clamp(0.0, f64::from(top));
                (q, qq, xq) = (q + v * code, qq + v * code * code, xq + v * x * code);
            }
            let codes = qq - q * q / self.weight.max(f64::MIN_POSITIVE);
            if codes <= 0.0 {
                break;
            }
            let squares = spread - xq * xq / codes;
            if squares >= least * (1.0 - 1e-12) {
                least = least.min(squares);
                break;
            }
            least = squares;
            scale = xq / codes;
            bias = -scale * q / self.weight.max(f64::MIN_POSITIVE);
        }
        least.max(0.0)
    }
}
