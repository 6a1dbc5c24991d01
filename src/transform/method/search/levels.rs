//! The search on floats of few bits and on tables.

use super::super::ScaleType;
use super::super::groups::{Batch, Fit, Fitted, LANES, Lanes, Runs};
use super::super::levels::{E4M3, Levels, power};
use super::super::passes::{Tile, reciprocal};
use super::super::rtn::RtnLevels;
use super::{Best, PAIR, quotient};

/// On levels that are not integers.
pub(in super::super) struct SearchLevels<L, const W: bool> {
    pub rtn: RtnLevels<L>,
    pub tile: Tile,
    /// What the scale that round-to-nearest would choose is multiplied by, where scales are floats.
    pub factors: [f32; 16],
}

/// Levels have bounds of their own.
const LEAST: [Lanes; PAIR] = [[f32::NEG_INFINITY; LANES]; PAIR];
const MOST: [Lanes; PAIR] = [[f32::INFINITY; LANES]; PAIR];

impl<L: Levels, const W: bool> SearchLevels<L, W> {
    /// Tries two scales as they would be stored.
    #[inline(always)]
    fn offer(&self, best: &mut Best, stored: &[Lanes; PAIR]) {
        let mut scale = *stored;
        for scale in &mut scale {
            for l in 0..LANES {
                scale[l] *= self.tile.to[l];
            }
        }
        let errors = self.tile.errors::<_, PAIR, W>(self.rtn.levels, &scale, &LEAST, &MOST);
        for (errors, stored) in errors.iter().zip(stored) {
            best.offer(&errors.map(|e| -e), stored, stored);
        }
    }

    /// The scale that fits best of those that floats can be.
    #[inline(always)]
    fn fitted(&self, plain: &Lanes) -> Lanes {
        let mut best = Best::none();
        for factors in self.factors.as_chunks::<PAIR>().0 {
            let mut scale = [*plain; PAIR];
            for c in 0..PAIR {
                for l in 0..LANES {
                    scale[c][l] *= self.tile.to[l] * factors[c];
                }
            }
            let (xq, qq) =
                self.tile.products::<_, PAIR, W>(self.rtn.levels, &reciprocal(&scale), &LEAST, &MOST);
            for c in 0..PAIR {
                let (mut merit, mut fitted) = ([0f32; LANES], [0f32; LANES]);
                for l in 0..LANES {
                    fitted[l] = quotient(xq[c][l], qq[c][l], scale[c][l]);
                    merit[l] = xq[c][l] * fitted[l];
                }
                best.offer(&merit, &fitted, &fitted);
            }
        }
        for l in 0..LANES {
            best.scale[l] *= self.tile.back[l];
        }
        best.scale
    }
}

impl<L: Levels, const W: bool> Fit for SearchLevels<L, W> {
    /// The scale.
    type Line = f32;

    #[inline(always)]
    fn fit(&mut self, batch: &Batch<'_>) -> [(Fitted, f32); LANES] {
        self.tile.take::<W>(batch);
        let mut plain = [0f32; LANES];
        for l in 0..LANES {
            let (low, high) = (self.tile.low[l], self.tile.high[l]);
            plain[l] = self.rtn.scale(if -low > high { -low } else { high });
        }
        let mut best = Best::none();
        match self.rtn.scale {
            ScaleType::E8M0 => {
                for steps in [[0, -1], [1, 2]] {
                    let scale = steps.map(|step| {
                        plain.map(|plain| power((plain.to_bits() >> 23).saturating_add_signed(step).min(254)))
                    });
                    self.offer(&mut best, &scale);
                }
            }
            ScaleType::E4M3 { global } => {
                let format = E4M3::NEW;
                for steps in [[0, -1], [-2, -3], [-4, -5], [1, 2], [3, 4], [5, 6], [7, 8]] {
                    let scale = steps.map(|step| {
                        plain.map(|plain| {
                            let code = u32::from(format.code(plain * global));
                            format.value(code.saturating_add_signed(step).clamp(1, 126)) / global
                        })
                    });
                    self.offer(&mut best, &scale);
                }
            }
            ScaleType::Float(_) => {
                let mut found = self.fitted(&plain);
                self.rtn.scale.store(&mut found);
                self.offer(&mut best, &[plain, found]);
            }
        }
        best.scale.map(|scale| (Fitted { scale, zero: 0.0 }, scale))
    }

    #[inline(always)]
    fn code(&self, scales: &[f32], runs: Runs<'_>, codes: &mut [u8]) {
        self.rtn.code(scales, runs, codes);
    }
}
