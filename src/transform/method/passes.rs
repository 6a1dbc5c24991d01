//! Passes over a group with one candidate a lane: each number is read once and tried on all candidates side by side, so that
//! nothing is summed across lanes.
//!
//! Sums run in f32 over stretches short enough that they lose nothing that matters, and the stretches are added in f64.

use super::levels::Levels;

/// Numbers that are added in f32.
const STRETCH: usize = 256;

/// A group on its way through a search, scaled by a power of two so that no square of it vanishes or overflows.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// Its numbers; what was none is zero.
    pub numbers: Vec<f32>,
    /// How much each counts, the most being one; empty where all count the same.
    pub weights: Vec<f32>,
}

/// Stretches of a group; weights are ones where there are none, and not looked at.
#[inline(always)]
fn stretches<const W: bool>(group: &Group) -> impl Iterator<Item = (&[f32], &[f32])> {
    let weights = if W { &group.weights[..] } else { &group.numbers[..] };
    group.numbers.chunks(STRETCH).zip(weights.chunks(STRETCH))
}

/// Candidates on levels without a bias, one a lane.
#[derive(Clone, Copy)]
pub(super) struct Candidates<const N: usize> {
    /// One over the scale.
    pub inverse: [f32; N],
    /// The lowest code, less the zero point.
    pub least: [f32; N],
    /// The highest.
    pub most: [f32; N],
}

/// `Σ w·x·q` and `Σ w·q²` of each candidate, `q` being its nearest level.
#[inline(always)]
pub(super) fn products<L: Levels, const N: usize, const W: bool>(
    levels: L,
    group: &Group,
    candidates: &Candidates<N>,
) -> ([f64; N], [f64; N]) {
    let Candidates { inverse, least, most } = *candidates;
    let (mut xq, mut qq) = ([0f64; N], [0f64; N]);
    for (numbers, weights) in stretches::<W>(group) {
        let (mut a, mut b) = ([0f32; N], [0f32; N]);
        for (&x, &w) in numbers.iter().zip(weights) {
            let wx = if W { w * x } else { x };
            for l in 0..N {
                let q = levels.nearest(x * inverse[l], least[l], most[l]);
                a[l] += wx * q;
                b[l] += if W { w * (q * q) } else { q * q };
            }
        }
        for l in 0..N {
            xq[l] += f64::from(a[l]);
            qq[l] += f64::from(b[l]);
        }
    }
    (xq, qq)
}

/// `Σ w·(x − q·scale)²` of each candidate.
#[inline(always)]
pub(super) fn errors<L: Levels, const N: usize, const W: bool>(
    levels: L,
    group: &Group,
    candidates: &Candidates<N>,
    scale: &[f32; N],
) -> [f64; N] {
    let Candidates { inverse, least, most } = *candidates;
    let scale = *scale;
    let mut sum = [0f64; N];
    for (numbers, weights) in stretches::<W>(group) {
        let mut e = [0f32; N];
        for (&x, &w) in numbers.iter().zip(weights) {
            for l in 0..N {
                let d = x - levels.nearest(x * inverse[l], least[l], most[l]) * scale[l];
                e[l] += if W { w * (d * d) } else { d * d };
            }
        }
        for l in 0..N {
            sum[l] += f64::from(e[l]);
        }
    }
    sum
}

/// Candidates `code · scale + bias`, one a lane.
#[derive(Clone, Copy)]
pub(super) struct AffineCandidates<const N: usize> {
    /// One over the scale.
    pub inverse: [f32; N],
    /// What code 0 stands for.
    pub bias: [f32; N],
    /// The highest code.
    pub top: f32,
}

/// `Σ w·c`, `Σ w·c²` and `Σ w·(x − mean)·c` of each candidate, `c` being the code less half the highest.
#[inline(always)]
pub(super) fn affine_products<const N: usize, const W: bool>(
    group: &Group,
    mean: f32,
    candidates: &AffineCandidates<N>,
) -> ([f64; N], [f64; N], [f64; N]) {
    let AffineCandidates { inverse, bias, top } = *candidates;
    let half = top * 0.5;
    let (mut c1, mut c2, mut xc) = ([0f64; N], [0f64; N], [0f64; N]);
    for (numbers, weights) in stretches::<W>(group) {
        let (mut a, mut b, mut c) = ([0f32; N], [0f32; N], [0f32; N]);
        for (&x, &w) in numbers.iter().zip(weights) {
            let away = x - mean;
            for l in 0..N {
                let code = affine_code(x, bias[l], inverse[l], top) - half;
                let wc = if W { w * code } else { code };
                a[l] += wc;
                b[l] += wc * code;
                c[l] += wc * away;
            }
        }
        for l in 0..N {
            c1[l] += f64::from(a[l]);
            c2[l] += f64::from(b[l]);
            xc[l] += f64::from(c[l]);
        }
    }
    (c1, c2, xc)
}

/// The code of a number, as a float.
#[inline(always)]
pub(super) fn affine_code(x: f32, bias: f32, inverse: f32, top: f32) -> f32 {
    use super::levels::{TO_INTEGER, clamp};
    (clamp((x - bias) * inverse, 0.0, top) + TO_INTEGER) - TO_INTEGER
}

/// `Σ w·(x − (code·scale + bias))²` of each candidate.
#[inline(always)]
pub(super) fn affine_errors<const N: usize, const W: bool>(
    group: &Group,
    candidates: &AffineCandidates<N>,
    scale: &[f32; N],
) -> [f64; N] {
    let AffineCandidates { inverse, bias, top } = *candidates;
    let scale = *scale;
    let mut sum = [0f64; N];
    for (numbers, weights) in stretches::<W>(group) {
        let mut e = [0f32; N];
        for (&x, &w) in numbers.iter().zip(weights) {
            for l in 0..N {
                let d = (x - bias[l]) - affine_code(x, bias[l], inverse[l], top) * scale[l];
                e[l] += if W { w * (d * d) } else { d * d };
            }
        }
        for l in 0..N {
            sum[l] += f64::from(e[l]);
        }
    }
    sum
}
