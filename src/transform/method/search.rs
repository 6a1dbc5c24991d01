//! The least squared error: candidates for scale and zero point, and for each the scale that fits its codes best.
//!
//! Once codes are chosen, the best scale for them is a quotient of two sums, `Σxq / Σq²`, and the error that is left is
//! `Σx² − (Σxq)² / Σq²`: candidates are ranked by what is taken off, and need no second pass. The best few are rounded as
//! they will be stored and tried once more, now with the codes that fit the scale as stored; what round-to-nearest would
//! store is among them, so that the result is never worse than that. (The ranking is that of ggml's K-quants; the many
//! candidates a pass and the last trial are ours.)
//!
//! Where few scales can be stored, powers of two and eight-bit floats, all those near are tried directly.

mod affine;
mod levels;

pub(super) use affine::SearchAffine;
pub(super) use levels::SearchLevels;

use super::groups::{Fit, Fitted, extremes, largest_finite};
use super::levels::{Integers, Levels, TO_INTEGER, clamp};
use super::passes::{Candidates, Group, errors, products};
use super::rtn::{RtnIntegers, Zero};

/// Candidates that a pass tries side by side.
pub(super) const WIDE: usize = 16;
/// Candidates of the last trial.
const FEW: usize = 8;

/// How a group was scaled: by which power of two, and by which to get back.
#[derive(Debug, Clone, Copy)]
struct Power {
    to: f32,
    back: f32,
}

impl Group {
    /// Takes a group in, scaled so that its largest magnitude is between one and two. `None` where it has nothing but zeros.
    #[inline(always)]
    fn take(&mut self, numbers: &[f32], weights: &[f32]) -> Option<(f32, Power)> {
        let most = largest_finite(numbers);
        if most == 0.0 {
            return None;
        }
        let exponent = (most.to_bits() >> 23).clamp(1, 253);
        let power =
            Power { to: f32::from_bits((254 - exponent) << 23), back: f32::from_bits(exponent << 23) };
        self.numbers.clear();
        self.numbers
            .extend(numbers.iter().map(|&x| if x.abs() < f32::INFINITY { x * power.to } else { 0.0 }));
        self.weights.clear();
        if !weights.is_empty() {
            let largest = largest_finite(weights);
            // Where nothing counts, all count the same.
            let inverse = if largest > 0.0 { 1.0 / largest } else { 0.0 };
            self.weights.extend(
                weights.iter().map(|&w| if inverse > 0.0 { clamp(w * inverse, 0.0, 1.0) } else { 1.0 }),
            );
        }
        Some((most * power.to, power))
    }
}

/// The lane with the largest value; the first of several.
#[inline(always)]
fn argmax<const N: usize>(values: &[f64; N]) -> usize {
    let mut best = 0;
    for l in 1..N {
        if values[l] > values[best] {
            best = l;
        }
    }
    best
}

#[inline(always)]
fn argmin<const N: usize>(values: &[f64; N]) -> usize {
    let mut best = 0;
    for l in 1..N {
        if values[l] < values[best] {
            best = l;
        }
    }
    best
}

/// On integers without a bias.
pub(super) struct SearchIntegers<const W: bool> {
    pub rtn: RtnIntegers,
    /// Whether scales may be negative.
    pub signed: bool,
    pub group: Group,
}

/// What a pass found: what it takes off the error, the scale that fits best, the zero point.
#[derive(Debug, Clone, Copy)]
struct Found {
    gain: f64,
    scale: f32,
    zero: f32,
}

/// One pass over candidates `(scale, zero)`.
#[inline(always)]
fn pass<const N: usize, const W: bool>(
    levels: Integers,
    group: &Group,
    scales: &[f32; N],
    zeros: &[f32; N],
) -> Found {
    let (mut inverse, mut least, mut most) = ([0f32; N], [0f32; N], [0f32; N]);
    let top = levels.top();
    for l in 0..N {
        inverse[l] = 1.0 / scales[l];
        least[l] = -zeros[l];
        most[l] = top - zeros[l];
    }
    let (xq, qq) = products::<Integers, N, W>(levels, group, &Candidates { inverse, least, most });
    let mut gain = [0f64; N];
    for l in 0..N {
        gain[l] = xq[l] * xq[l] / (if qq[l] > 0.0 { qq[l] } else { 1.0 });
    }
    let best = argmax(&gain);
    let scale = if qq[best] > 0.0 { (xq[best] / qq[best]) as f32 } else { scales[best] };
    Found { gain: gain[best], scale, zero: zeros[best] }
}

impl<const W: bool> SearchIntegers<W> {
    #[inline(always)]
    fn symmetric(&self, most: f32) -> Found {
        let levels = self.rtn.levels;
        let unit = most / levels.largest();
        let zeros = [levels.middle(); WIDE];
        let mut scales = [0f32; WIDE];
        for l in 0..WIDE {
            scales[l] = unit * (0.5 + 0.038 * l as f32);
        }
        let found = pass::<WIDE, W>(levels, &self.group, &scales, &zeros);
        if !self.signed {
            return found;
        }
        for scale in &mut scales {
            *scale = -*scale;
        }
        let mirrored = pass::<WIDE, W>(levels, &self.group, &scales, &zeros);
        if mirrored.gain > found.gain { mirrored } else { found }
    }

    #[inline(always)]
    fn asymmetric(&self) -> Found {
        let levels = self.rtn.levels;
        let top = levels.top();
        let (low, high) = extremes(&self.group.numbers);
        let (low, high) = (if low < 0.0 { low } else { 0.0 }, if high > 0.0 { high } else { 0.0 });
        let range = high - low;
        let unit = range / top;
        let zero = (clamp(-low / unit, 0.0, top) + TO_INTEGER) - TO_INTEGER;
        let (mut scales, mut zeros) = ([0f32; 24], [0f32; 24]);
        for l in 0..24 {
            scales[l] = unit * (0.6 + 0.43 / 7.0 * (l / 3) as f32);
            zeros[l] = clamp(zero + (l % 3) as f32 - 1.0, 0.0, top);
        }
        pass::<24, W>(levels, &self.group, &scales, &zeros)
    }
}

impl<const W: bool> Fit for SearchIntegers<W> {
    #[inline(always)]
    fn fit(&mut self, numbers: &[f32], weights: &[f32], codes: &mut [u8]) -> Fitted {
        let Some((most, power)) = self.group.take(numbers, weights) else {
            return self.rtn.fit(numbers, weights, codes);
        };
        let levels = self.rtn.levels;
        let found = if self.rtn.zero == Zero::Code { self.asymmetric() } else { self.symmetric(most) };
        let plain = self.rtn.fitted(numbers);
        // As stored, the first what round-to-nearest would store.
        let mut stored = [plain; FEW];
        for (l, fitted) in stored.iter_mut().enumerate().skip(1) {
            let scale = found.scale * (1.0 + 0.01 * (l as f32 - 4.0));
            *fitted = Fitted { scale: self.rtn.scale.stored(scale * power.back), zero: found.zero };
        }
        let mut scale = [0f32; FEW];
        let mut candidates = Candidates { inverse: [0f32; FEW], least: [0f32; FEW], most: [0f32; FEW] };
        for l in 0..FEW {
            scale[l] = stored[l].scale * power.to;
            candidates.inverse[l] = 1.0 / scale[l];
            candidates.least[l] = -stored[l].zero;
            candidates.most[l] = levels.top() - stored[l].zero;
        }
        let best = argmin(&errors::<Integers, FEW, W>(levels, &self.group, &candidates, &scale));
        let (inverse, least, most) =
            (candidates.inverse[best], candidates.least[best], candidates.most[best]);
        let shift = stored[best].zero as u32;
        for (code, &x) in codes.iter_mut().zip(&self.group.numbers) {
            *code = (clamp(x * inverse, least, most) + TO_INTEGER).to_bits().wrapping_add(shift) as u8;
        }
        stored[best]
    }
}
