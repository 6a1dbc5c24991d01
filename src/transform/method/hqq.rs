//! Half-quadratic quantisation (Badri and Shaji, 2023): the zero point moves so that few large errors are traded for many
//! small ones; the scale stays that of the extremes.
//!
//! In turns: codes are rounded; their errors are shrunk towards zero by what an ℓ_p norm with p = 0.7 asks for, `|e| −
//! |e|^(p−1) / β`; the zero point becomes the mean of what codes and unshrunk errors leave. The package stops when the mean
//! error of the whole tensor no longer falls, so that its result depends on how a tensor is cut. Here each group makes the
//! same number of turns and keeps the zero point with its least mean error.

use super::groups::{Batch, Fit, Fitted, LANES, Lanes, Runs};
use super::levels::{TO_INTEGER, clamp};
use super::line::Line;
use super::passes::Tile;
use super::rtn::{RtnIntegers, Zero};

/// Turns that a group makes: the package's most.
const TURNS: usize = 20;
/// Exponent of the norm, less one.
const EXPONENT: f32 = 0.7 - 1.0;
/// Weight of the quadratic half.
const BETA: f32 = 10.0;
/// On integers with a bias.
pub(super) struct Hqq {
    pub rtn: RtnIntegers,
    pub tile: Tile,
}

/// `x^EXPONENT` of a positive number, to about 1e-5 of it: by the logarithm's and the exponential's first terms, so that it is
/// the same on every machine and a loop over vectors.
#[inline(always)]
fn root(x: f32) -> f32 {
    // x = m · 2^e with m between √½ and √2.
    let moved = x.to_bits().wrapping_sub(0x3f35_04f3);
    let e = (moved as i32 >> 23) as f32;
    let m = f32::from_bits((moved & 0x007f_ffff).wrapping_add(0x3f35_04f3));
    // log2 m = 2/ln 2 · artanh((m − 1)/(m + 1)).
    let r = (m - 1.0) / (m + 1.0);
    let r2 = r * r;
    let log = r * (2.885_39 + r2 * (0.961_796_7 + r2 * (0.577_078 + r2 * 0.412_198_6)));
    let y = clamp((e + log) * EXPONENT, -126.0, 126.0);
    let whole = (y + TO_INTEGER) - TO_INTEGER;
    let z = (y - whole) * std::f32::consts::LN_2;
    let power = 1.0 + z * (1.0 + z * (0.5 + z * (1.0 / 6.0 + z * (1.0 / 24.0 + z * (1.0 / 120.0)))));
    let two = (whole + TO_INTEGER).to_bits().wrapping_add(127) << 23;
    power * f32::from_bits(two & 0x7f80_0000)
}

/// No error up to here survives being shrunk: `m < m^EXPONENT / BETA` where `m < BETA^(1 / (EXPONENT − 1))`, which is 0.17013.
const VANISHES: f32 = 0.17;

/// One number's share of a turn: its error's magnitude, and its share of the new zero point. Without `SHRINKS` the shrunk
/// error is taken to be zero.
#[inline(always)]
fn turn<const SHRINKS: bool>(x: f32, [scale, inverse, zero]: [f32; 3], top: f32) -> [f32; 2] {
    let q = (clamp(x * scale + zero, 0.0, top) + TO_INTEGER) - TO_INTEGER;
    let e = x - (q - zero) * inverse;
    let m = e.abs();
    if !SHRINKS {
        return [m, q - x * scale];
    }
    let shrunk = m - root(m) * (1.0 / BETA);
    let shrunk = if shrunk > 0.0 { shrunk } else { 0.0 };
    [m, q - (x - shrunk.copysign(e)) * scale]
}

impl Hqq {
    /// The zero points, in codes, with the least mean error.
    #[inline(always)]
    fn zero(&self, first: Lanes, scale: &Lanes, inverse: &Lanes) -> Lanes {
        let top = self.rtn.levels.top();
        let (mut zero, mut best, mut least) = (first, first, [f32::INFINITY; LANES]);
        for _ in 0..TURNS {
            let of = [*scale, *inverse, zero];
            let [mut error, mut sum, largest] = self.tile.each(&of, |x, of| turn::<false>(x, of, top));
            // Errors of weights are small as a rule, and the root is what takes time.
            if largest.iter().any(|&m| m > VANISHES) {
                [error, sum, _] = self.tile.each(&of, |x, of| turn::<true>(x, of, top));
            }
            for l in 0..LANES {
                let is_better = error[l] < least[l];
                least[l] = if is_better { error[l] } else { least[l] };
                best[l] = if is_better { zero[l] } else { best[l] };
                zero[l] = sum[l] / self.tile.group_size() as f32;
            }
        }
        best
    }
}

impl Fit for Hqq {
    type Line = Line;

    #[inline(always)]
    fn fit(&mut self, batch: &Batch<'_>) -> [(Fitted, Line); LANES] {
        self.tile.take::<false>(batch);
        let top = self.rtn.levels.top();
        let (low, high) = (self.tile.low, self.tile.high);
        let (mut scale, mut inverse, mut first) = ([1f32; LANES], [1f32; LANES], [0f32; LANES]);
        for l in 0..LANES {
            // The package takes a scale of one for ranges below 1e-4 and bounds it for half precision; nothing here needs
            // that.
            scale[l] = clamp(top / (high[l] - low[l]), f32::MIN_POSITIVE, f32::MAX);
            inverse[l] = 1.0 / scale[l];
            first[l] = -low[l] * scale[l];
        }
        let zero = self.zero(first, &scale, &inverse);
        let from = if self.rtn.zero == Zero::MiddleBias { self.rtn.levels.middle() } else { 0.0 };
        let plain = self.rtn.plain(&low, &high);
        std::array::from_fn(|l| {
            if low[l] == high[l] {
                return (plain.fitted(l), plain.line(l));
            }
            let kept = self.rtn.scale.stored(inverse[l]);
            let fitted = Fitted { scale: kept, zero: self.rtn.scale.stored((from - zero[l]) * inverse[l]) };
            (fitted, Line::above(fitted.zero - kept * from, kept, top))
        })
    }

    #[inline(always)]
    fn code(&self, lines: &[Line], runs: Runs<'_>, codes: &mut [u8]) {
        Line::code(self.rtn.level, lines, runs, codes);
    }
}
