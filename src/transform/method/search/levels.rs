//! The search on floats of few bits and on tables.

use super::super::ScaleType;
use super::super::groups::{Fit, Fitted};
use super::super::levels::{Floats, Levels, power};
use super::super::passes::{Candidates, Group, errors, products};
use super::super::rtn::RtnLevels;
use super::{FEW, WIDE, argmax, argmin};
use crate::dtype::DType;

/// On levels that are not integers.
pub(in super::super) struct SearchLevels<L, const W: bool> {
    pub rtn: RtnLevels<L>,
    pub group: Group,
    /// What the scale that round-to-nearest would choose is multiplied by, where scales are floats.
    pub factors: [f32; WIDE],
}

/// Without bounds: levels have their own.
#[inline(always)]
fn candidates<const N: usize>(scale: &[f32; N]) -> Candidates<N> {
    let mut inverse = [0f32; N];
    for l in 0..N {
        inverse[l] = 1.0 / scale[l];
    }
    Candidates { inverse, least: [f32::NEG_INFINITY; N], most: [f32::INFINITY; N] }
}

impl<L: Levels, const W: bool> SearchLevels<L, W> {
    /// The stored scale with the least error, of which the first is kept where several have it.
    #[inline(always)]
    fn least<const N: usize>(&self, stored: &[f32; N], to: f32) -> f32 {
        let mut scale = [0f32; N];
        for l in 0..N {
            scale[l] = stored[l] * to;
        }
        stored[argmin(&errors::<L, N, W>(self.rtn.levels, &self.group, &candidates(&scale), &scale))]
    }
}

impl<L: Levels, const W: bool> Fit for SearchLevels<L, W> {
    #[inline(always)]
    fn fit(&mut self, numbers: &[f32], weights: &[f32], codes: &mut [u8]) -> Fitted {
        let Some((most, scaled)) = self.group.take(numbers, weights) else {
            return self.rtn.fit(numbers, weights, codes);
        };
        let plain = self.rtn.scale(most * scaled.back);
        let scale = match self.rtn.scale {
            ScaleType::E8M0 => {
                let code = plain.to_bits() >> 23;
                let near =
                    [code, code.saturating_sub(1), code + 1, code + 2].map(|code| power(code.min(254)));
                self.least(&near, scaled.to)
            }
            ScaleType::E4M3 { global } => {
                let format = Floats::of(DType::F8E4M3);
                let code = u32::from(format.code(plain * global));
                let mut near = [plain; WIDE];
                for (l, near) in near.iter_mut().enumerate().skip(1) {
                    let code = (code + l as u32).saturating_sub(7).clamp(1, 126);
                    *near = format.value(code) / global;
                }
                self.least(&near, scaled.to)
            }
            ScaleType::Float(_) => {
                let mut scale = [plain * scaled.to; WIDE];
                for l in 0..WIDE {
                    scale[l] *= self.factors[l];
                }
                let (xq, qq) = products::<L, WIDE, W>(self.rtn.levels, &self.group, &candidates(&scale));
                let mut gain = [0f64; WIDE];
                for l in 0..WIDE {
                    gain[l] = xq[l] * xq[l] / (if qq[l] > 0.0 { qq[l] } else { 1.0 });
                }
                let best = argmax(&gain);
                let found = if qq[best] > 0.0 { (xq[best] / qq[best]) as f32 } else { scale[best] };
                let mut near = [plain; FEW];
                for (l, near) in near.iter_mut().enumerate().skip(1) {
                    *near = self.rtn.scale.stored(found * (1.0 + 0.004 * (l as f32 - 4.0)) * scaled.back);
                }
                self.least(&near, scaled.to)
            }
        };
        let inverse = 1.0 / (scale * scaled.to);
        for (code, &x) in codes.iter_mut().zip(&self.group.numbers) {
            *code = self.rtn.levels.code(x * inverse);
        }
        Fitted { scale, zero: 0.0 }
    }
}
