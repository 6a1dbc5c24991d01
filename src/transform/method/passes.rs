//! Passes over sixteen groups side by side, one a lane: each tries a few candidates for all of them, and nothing is summed
//! across lanes.
//!
//! Sums run over stretches, and then over the sums of stretches: in f32 a long group would lose digits that matter.

use super::groups::{Batch, LANES, Lanes, finite_magnitude};
use super::levels::{Levels, TO_INTEGER, above, below, clamp};

/// Numbers of a stretch.
const STRETCH: usize = 256;

/// Groups on their way through a search, each scaled by a power of two so that no square vanishes or overflows.
#[derive(Debug)]
pub(super) struct Tile {
    /// Their numbers, the largest magnitude between one and two; what was none is zero.
    numbers: Vec<Lanes>,
    /// How much each counts, the most being one; empty where all count the same.
    weights: Vec<Lanes>,
    /// What their numbers were multiplied by.
    pub to: Lanes,
    /// What they are multiplied by to get back.
    pub back: Lanes,
    /// The least number as it was.
    pub low: Lanes,
    /// The largest number as it was.
    pub high: Lanes,
}

impl Tile {
    pub(super) fn new() -> Tile {
        let none = [0f32; LANES];
        Tile { numbers: Vec::new(), weights: Vec::new(), to: none, back: none, low: none, high: none }
    }

    /// Takes a batch in. With `W` it has weights.
    #[inline(always)]
    pub(super) fn take<const W: bool>(&mut self, batch: &Batch<'_>) {
        batch.turn(&mut self.numbers);
        let (mut low, mut high) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
        for x in &mut self.numbers {
            for l in 0..LANES {
                let number = if finite_magnitude(x[l]) == x[l].abs() { x[l] } else { 0.0 };
                low[l] = below(number, low[l]);
                high[l] = above(number, high[l]);
                x[l] = number;
            }
        }
        (self.low, self.high) = (low, high);
        for l in 0..LANES {
            let most = above(-low[l], high[l]);
            let exponent = (most.to_bits() >> 23).clamp(1, 253);
            self.to[l] = f32::from_bits((254 - exponent) << 23);
            self.back[l] = f32::from_bits(exponent << 23);
        }
        let to = self.to;
        for x in &mut self.numbers {
            for l in 0..LANES {
                x[l] *= to[l];
            }
        }
        if W {
            batch.turn_weights(&mut self.weights);
            let mut largest = [0f32; LANES];
            for w in &self.weights {
                for l in 0..LANES {
                    largest[l] = above(finite_magnitude(w[l]), largest[l]);
                }
            }
            for w in &mut self.weights {
                for l in 0..LANES {
                    // Where nothing counts, all count the same.
                    let counts = largest[l] > 0.0;
                    let part = clamp(w[l] / (if counts { largest[l] } else { 1.0 }), 0.0, 1.0);
                    w[l] = if counts { part } else { 1.0 };
                }
            }
        }
    }

    /// Stretches of the groups. Where there are no weights the second is not looked at.
    #[inline(always)]
    fn stretches<const W: bool>(&self) -> impl Iterator<Item = (&[Lanes], &[Lanes])> {
        let weights = if W { &self.weights[..] } else { &self.numbers[..] };
        self.numbers.chunks(STRETCH).zip(weights.chunks(STRETCH))
    }

    /// `Σ w·x·q` and `Σ w·q²` of `C` candidates a group, `q` being the nearest level to `x · inverse`.
    #[inline(always)]
    pub(super) fn products<L: Levels, const C: usize, const W: bool>(
        &self,
        levels: L,
        inverse: &[Lanes; C],
        least: &[Lanes; C],
        most: &[Lanes; C],
    ) -> ([Lanes; C], [Lanes; C]) {
        let (inverse, least, most) = (*inverse, *least, *most);
        let (mut xq, mut qq) = ([[0f32; LANES]; C], [[0f32; LANES]; C]);
        for (numbers, weights) in self.stretches::<W>() {
            let (mut a, mut b) = ([[0f32; LANES]; C], [[0f32; LANES]; C]);
            for (x, w) in numbers.iter().zip(weights) {
                for c in 0..C {
                    for l in 0..LANES {
                        let q = levels.nearest(x[l] * inverse[c][l], least[c][l], most[c][l]);
                        let wq = if W { w[l] * q } else { q };
                        a[c][l] += x[l] * wq;
                        b[c][l] += q * wq;
                    }
                }
            }
            for c in 0..C {
                for l in 0..LANES {
                    xq[c][l] += a[c][l];
                    qq[c][l] += b[c][l];
                }
            }
        }
        (xq, qq)
    }

    /// `Σ w·(x − q·scale)²` of `C` candidates a group.
    #[inline(always)]
    pub(super) fn errors<L: Levels, const C: usize, const W: bool>(
        &self,
        levels: L,
        scale: &[Lanes; C],
        least: &[Lanes; C],
        most: &[Lanes; C],
    ) -> [Lanes; C] {
        let (scale, least, most) = (*scale, *least, *most);
        let inverse = reciprocal(&scale);
        let mut sum = [[0f32; LANES]; C];
        for (numbers, weights) in self.stretches::<W>() {
            let mut e = [[0f32; LANES]; C];
            for (x, w) in numbers.iter().zip(weights) {
                for c in 0..C {
                    for l in 0..LANES {
                        let q = levels.nearest(x[l] * inverse[c][l], least[c][l], most[c][l]);
                        let d = x[l] - q * scale[c][l];
                        e[c][l] += if W { w[l] * (d * d) } else { d * d };
                    }
                }
            }
            for c in 0..C {
                for l in 0..LANES {
                    sum[c][l] += e[c][l];
                }
            }
        }
        sum
    }

    /// `Σ w` and `Σ w·x / Σ w`.
    #[inline(always)]
    pub(super) fn moments<const W: bool>(&self) -> (Lanes, Lanes) {
        let (mut weight, mut mean) = ([0f32; LANES], [0f32; LANES]);
        for (numbers, weights) in self.stretches::<W>() {
            let (mut a, mut b) = ([0f32; LANES], [0f32; LANES]);
            for (x, w) in numbers.iter().zip(weights) {
                for l in 0..LANES {
                    let w = if W { w[l] } else { 1.0 };
                    a[l] += w;
                    b[l] += w * x[l];
                }
            }
            for l in 0..LANES {
                weight[l] += a[l];
                mean[l] += b[l];
            }
        }
        for l in 0..LANES {
            mean[l] /= weight[l];
        }
        (weight, mean)
    }

    /// `Σ w·c`, `Σ w·c²` and `Σ w·(x − mean)·c` of `C` candidates a group, `c` being the code less half the highest.
    #[inline(always)]
    pub(super) fn affine_products<const C: usize, const W: bool>(
        &self,
        mean: &Lanes,
        top: f32,
        scale: &[Lanes; C],
        bias: &[Lanes; C],
    ) -> [[Lanes; C]; 3] {
        let (mean, bias, half) = (*mean, *bias, top * 0.5);
        let inverse = reciprocal(scale);
        let mut sums = [[[0f32; LANES]; C]; 3];
        for (numbers, weights) in self.stretches::<W>() {
            let (mut s1, mut s2, mut s3) = ([[0f32; LANES]; C], [[0f32; LANES]; C], [[0f32; LANES]; C]);
            for (x, w) in numbers.iter().zip(weights) {
                for c in 0..C {
                    for l in 0..LANES {
                        let code = affine_code(x[l], bias[c][l], inverse[c][l], top) - half;
                        let wc = if W { w[l] * code } else { code };
                        s1[c][l] += wc;
                        s2[c][l] += wc * code;
                        s3[c][l] += wc * (x[l] - mean[l]);
                    }
                }
            }
            for c in 0..C {
                for l in 0..LANES {
                    sums[0][c][l] += s1[c][l];
                    sums[1][c][l] += s2[c][l];
                    sums[2][c][l] += s3[c][l];
                }
            }
        }
        sums
    }

    /// `Σ w·(x − (code·scale + bias))²` of `C` candidates a group.
    #[inline(always)]
    pub(super) fn affine_errors<const C: usize, const W: bool>(
        &self,
        top: f32,
        scale: &[Lanes; C],
        bias: &[Lanes; C],
    ) -> [Lanes; C] {
        let (scale, bias) = (*scale, *bias);
        let inverse = reciprocal(&scale);
        let mut sum = [[0f32; LANES]; C];
        for (numbers, weights) in self.stretches::<W>() {
            let mut e = [[0f32; LANES]; C];
            for (x, w) in numbers.iter().zip(weights) {
                for c in 0..C {
                    for l in 0..LANES {
                        let code = affine_code(x[l], bias[c][l], inverse[c][l], top);
                        let d = (x[l] - bias[c][l]) - code * scale[c][l];
                        e[c][l] += if W { w[l] * (d * d) } else { d * d };
                    }
                }
            }
            for c in 0..C {
                for l in 0..LANES {
                    sum[c][l] += e[c][l];
                }
            }
        }
        sum
    }

    /// Sums of two numbers that follow from each number, and the largest of the first; `part` is given the number as it was
    /// before it was scaled and, of its group, the three that are handed in.
    #[inline(always)]
    pub(super) fn each(&self, of: &[Lanes; 3], part: impl Fn(f32, [f32; 3]) -> [f32; 2]) -> [Lanes; 3] {
        let ([a, b, c], back) = (*of, self.back);
        let (mut first, mut second, mut largest) = ([0f32; LANES], [0f32; LANES], [0f32; LANES]);
        for numbers in self.numbers.chunks(STRETCH) {
            let (mut s1, mut s2) = ([0f32; LANES], [0f32; LANES]);
            for x in numbers {
                for l in 0..LANES {
                    let [p1, p2] = part(x[l] * back[l], [a[l], b[l], c[l]]);
                    s1[l] += p1;
                    s2[l] += p2;
                    largest[l] = above(p1, largest[l]);
                }
            }
            for l in 0..LANES {
                first[l] += s1[l];
                second[l] += s2[l];
            }
        }
        [first, second, largest]
    }

    /// Numbers of a group.
    #[inline(always)]
    pub(super) fn group_size(&self) -> usize {
        self.numbers.len()
    }
}

/// The code of a number, as a float.
#[inline(always)]
fn affine_code(x: f32, bias: f32, inverse: f32, top: f32) -> f32 {
    (clamp((x - bias) * inverse, 0.0, top) + TO_INTEGER) - TO_INTEGER
}

#[inline(always)]
pub(super) fn reciprocal<const C: usize>(numbers: &[Lanes; C]) -> [Lanes; C] {
    let mut inverse = *numbers;
    for inverse in &mut inverse {
        for inverse in inverse {
            *inverse = 1.0 / *inverse;
        }
    }
    inverse
}
