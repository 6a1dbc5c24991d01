//! The search where scale and bias are both free.
//!
//! For chosen codes the best line through them is the ordinary least squares one. From a few ranges within the group's own,
//! codes and lines take turns: each line asks for codes, and those for a line that fits them better.

use super::super::groups::{Batch, Fit, Fitted, LANES, Lanes, Runs};
use super::super::line::Line;
use super::super::passes::Tile;
use super::super::rtn::{RtnIntegers, Zero};
use super::{Best, PAIR};

/// On integers with a bias.
pub(in super::super) struct SearchAffine<const W: bool> {
    pub rtn: RtnIntegers,
    pub tile: Tile,
}

/// How far from the mean towards the group's least and largest number the codes reach.
const REACH: [f32; 6] = [0.66, 0.73, 0.80, 0.87, 0.94, 1.02];
/// Turns that the best line takes with its codes.
const TURNS: usize = 4;

impl<const W: bool> SearchAffine<W> {
    /// Fits lines to the codes of two candidates a group, and keeps them where they are better.
    #[inline(always)]
    fn offer(&self, best: &mut Best, moments: &(Lanes, Lanes), scale: &[Lanes; PAIR], bias: &[Lanes; PAIR]) {
        let top = self.rtn.levels.top();
        let (weight, mean) = moments;
        let [c1, c2, xc] = self.tile.affine_products::<PAIR, W>(mean, top, scale, bias);
        let (mut slopes, mut biases) = (*scale, *bias);
        for c in 0..PAIR {
            let mut merit = [0f32; LANES];
            for l in 0..LANES {
                let centre = c1[c][l] / weight[l];
                let spread = c2[c][l] - c1[c][l] * centre;
                let together = xc[c][l];
                let is_line = (spread > 0.0) & (together > 0.0);
                let slope = together / (if is_line { spread } else { 1.0 });
                merit[l] = if is_line { together * slope } else { 0.0 };
                slopes[c][l] = if is_line { slope } else { scale[c][l] };
                let fitted = mean[l] - slope * (centre + top * 0.5);
                biases[c][l] = if is_line { fitted } else { bias[c][l] };
            }
            best.offer(&merit, &slopes[c], &biases[c]);
        }
    }

    #[inline(always)]
    fn best(&self) -> Best {
        let top = self.rtn.levels.top();
        let moments = self.tile.moments::<W>();
        let mean = moments.1;
        let (mut low, mut high) = (self.tile.low, self.tile.high);
        for l in 0..LANES {
            low[l] = low[l] * self.tile.to[l] - mean[l];
            high[l] = high[l] * self.tile.to[l] - mean[l];
        }
        let mut best = Best::none();
        for step in 0..REACH.len().pow(2).div_ceil(PAIR) {
            let (mut scale, mut bias) = ([[0f32; LANES]; PAIR], [[0f32; LANES]; PAIR]);
            for c in 0..PAIR {
                let at = step * PAIR + c;
                let (near, far) = (REACH[at % REACH.len()], REACH[at / REACH.len() % REACH.len()]);
                for l in 0..LANES {
                    let (least, most) = (low[l] * near, high[l] * far);
                    let step = (most - least) / top;
                    scale[c][l] = if step > 0.0 { step } else { 1.0 };
                    bias[c][l] = mean[l] + least;
                }
            }
            self.offer(&mut best, &moments, &scale, &bias);
        }
        for _ in 0..TURNS {
            // Once from where it is, once from a little beside it.
            let mut scale = [best.scale; PAIR];
            let mut bias = [best.zero; PAIR];
            for l in 0..LANES {
                scale[1][l] *= 1.015;
                bias[1][l] -= best.scale[l] * top * 0.0075;
            }
            self.offer(&mut best, &moments, &scale, &bias);
        }
        best
    }
}

impl<const W: bool> Fit for SearchAffine<W> {
    type Line = Line;

    #[inline(always)]
    fn fit(&mut self, batch: &Batch<'_>) -> [(Fitted, Line); LANES] {
        self.tile.take::<W>(batch);
        let top = self.rtn.levels.top();
        let from = if self.rtn.zero == Zero::MiddleBias { self.rtn.levels.middle() } else { 0.0 };
        let best = self.best();
        let plain = self.rtn.plain(&self.tile.low, &self.tile.high);
        let (mut scales, mut zeros) = ([plain.scale; PAIR], [plain.zero; PAIR]);
        for l in 0..LANES {
            scales[1][l] = best.scale[l] * self.tile.back[l];
        }
        self.rtn.scale.store(&mut scales[1]);
        for l in 0..LANES {
            // The middle of the codes stays where it was.
            let middle = (best.zero[l] + best.scale[l] * top * 0.5) * self.tile.back[l];
            zeros[1][l] = middle - scales[1][l] * (top * 0.5 - from);
        }
        self.rtn.scale.store(&mut zeros[1]);
        let (mut scale, mut bias) = (scales, zeros);
        for c in 0..PAIR {
            for l in 0..LANES {
                scale[c][l] = scales[c][l] * self.tile.to[l];
                bias[c][l] = (zeros[c][l] - scales[c][l] * from) * self.tile.to[l];
            }
        }
        let error = self.tile.affine_errors::<PAIR, W>(top, &scale, &bias);
        std::array::from_fn(|l| {
            let c = usize::from(error[1][l] < error[0][l]);
            let fitted = Fitted { scale: scales[c][l], zero: zeros[c][l] };
            (fitted, Line::above(fitted.zero - fitted.scale * from, fitted.scale, top))
        })
    }

    #[inline(always)]
    fn code(&self, lines: &[Line], runs: Runs<'_>, codes: &mut [u8]) {
        Line::code(self.rtn.level, lines, runs, codes);
    }
}
