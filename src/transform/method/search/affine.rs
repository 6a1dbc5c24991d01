//! The search where scale and bias are both free.

use super::super::groups::{Fit, Fitted, extremes};
use super::super::levels::{TO_INTEGER, clamp};
use super::super::passes::{AffineCandidates, Group, affine_errors, affine_products};
use super::super::rtn::{RtnIntegers, Zero};
use super::{FEW, WIDE, argmax, argmin};

/// On integers with a bias.
pub(in super::super) struct SearchAffine<const W: bool> {
    pub rtn: RtnIntegers,
    pub group: Group,
}

/// Candidates `(scale, bias)`, one a lane.
#[derive(Clone, Copy)]
struct Lines<const N: usize> {
    scale: [f32; N],
    bias: [f32; N],
}

impl<const N: usize> Lines<N> {
    #[inline(always)]
    fn candidates(&self, top: f32) -> AffineCandidates<N> {
        let mut inverse = [0f32; N];
        for l in 0..N {
            inverse[l] = 1.0 / self.scale[l];
        }
        AffineCandidates { inverse, bias: self.bias, top }
    }
}

/// Sums of a group that do not depend on candidates.
#[derive(Clone, Copy)]
struct Moments {
    /// Σ w.
    weight: f64,
    /// Σ w·x / Σ w, rounded.
    mean: f32,
    /// Σ w·(x − mean): what rounding the mean left.
    rest: f64,
}

impl<const W: bool> SearchAffine<W> {
    #[inline(always)]
    fn moments(&self) -> Moments {
        let weigh = |l: usize| if W { self.group.weights[l] } else { 1.0 };
        let (mut weight, mut sum) = (0f64, 0f64);
        for (l, &x) in self.group.numbers.iter().enumerate() {
            weight += f64::from(weigh(l));
            sum += f64::from(weigh(l)) * f64::from(x);
        }
        let mean = (sum / weight) as f32;
        Moments { weight, mean, rest: sum - weight * f64::from(mean) }
    }

    /// One pass: the line that fits the codes of each candidate best, and what it takes off the error.
    #[inline(always)]
    fn refit<const N: usize>(&self, moments: Moments, lines: &Lines<N>) -> (Lines<N>, [f64; N]) {
        let top = self.rtn.levels.top();
        let (c1, c2, xc) = affine_products::<N, W>(&self.group, moments.mean, &lines.candidates(top));
        let (mut fitted, mut gain) = (*lines, [0f64; N]);
        for l in 0..N {
            let centre = c1[l] / moments.weight;
            let together = xc[l] - moments.rest * centre;
            let spread = c2[l] - c1[l] * centre;
            let is_line = (spread > 0.0) & (together > 0.0);
            let scale = together / (if is_line { spread } else { 1.0 });
            gain[l] = if is_line { together * scale } else { 0.0 };
            let bias = f64::from(moments.mean) - scale * (centre + f64::from(top) * 0.5);
            fitted.scale[l] = if is_line { scale as f32 } else { lines.scale[l] };
            fitted.bias[l] = if is_line { bias as f32 } else { lines.bias[l] };
        }
        (fitted, gain)
    }
}

impl<const W: bool> Fit for SearchAffine<W> {
    #[inline(always)]
    fn fit(&mut self, numbers: &[f32], weights: &[f32], codes: &mut [u8]) -> Fitted {
        let Some((_, power)) = self.group.take(numbers, weights) else {
            return self.rtn.fit(numbers, weights, codes);
        };
        let (low, high) = extremes(&self.group.numbers);
        if low == high {
            return self.rtn.fit(numbers, weights, codes);
        }
        let top = self.rtn.levels.top();
        let from = if self.rtn.zero == Zero::MiddleBias { self.rtn.levels.middle() } else { 0.0 };
        let moments = self.moments();
        let mut lines = Lines { scale: [0f32; WIDE], bias: [0f32; WIDE] };
        for l in 0..WIDE {
            // Each end moves towards the mean by itself.
            let near = 0.55 + 0.15 * (l & 3) as f32;
            let far = 0.55 + 0.15 * (l >> 2) as f32;
            let least = moments.mean + (low - moments.mean) * near;
            let most = moments.mean + (high - moments.mean) * far;
            lines.scale[l] = (most - least) / top;
            lines.bias[l] = least;
        }
        let (lines, gain) = self.refit(moments, &lines);
        let best = argmax(&gain);
        let mut near = Lines { scale: [0f32; FEW], bias: [0f32; FEW] };
        for l in 0..FEW {
            near.scale[l] = lines.scale[best] * (1.0 + 0.02 * ((l & 3) as f32 - 1.5));
            let middle = lines.bias[best] + lines.scale[best] * top * 0.5;
            near.bias[l] =
                middle - near.scale[l] * top * 0.5 + lines.scale[best] * (if l < 4 { 0.08 } else { -0.08 });
        }
        let (fitted, gain_near) = self.refit(moments, &near);
        let best_near = argmax(&gain_near);
        let (scale, bias) = if gain_near[best_near] > gain[best] {
            (fitted.scale[best_near], fitted.bias[best_near])
        } else {
            (lines.scale[best], lines.bias[best])
        };
        // As stored, the first what round-to-nearest would store.
        let mut stored = [self.rtn.fitted(numbers); FEW];
        for (l, fitted) in stored.iter_mut().enumerate().skip(1) {
            let wide = scale * (1.0 + 0.004 * (l as f32 - 4.0));
            let kept = self.rtn.scale.stored(wide * power.back);
            // The middle of the codes stays where it was.
            let middle = (bias + scale * top * 0.5) * power.back;
            let zero = middle - kept * (top * 0.5 - from);
            *fitted = Fitted { scale: kept, zero: self.rtn.scale.stored(zero) };
        }
        let mut lines = Lines { scale: [0f32; FEW], bias: [0f32; FEW] };
        for l in 0..FEW {
            lines.scale[l] = stored[l].scale * power.to;
            lines.bias[l] = (stored[l].zero - stored[l].scale * from) * power.to;
        }
        let candidates = lines.candidates(top);
        let best = argmin(&affine_errors::<FEW, W>(&self.group, &candidates, &lines.scale));
        let (inverse, bias) = (candidates.inverse[best], candidates.bias[best]);
        for (code, &x) in codes.iter_mut().zip(&self.group.numbers) {
            *code = (clamp((x - bias) * inverse, 0.0, top) + TO_INTEGER).to_bits() as u8;
        }
        stored[best]
    }
}
