//! The searches of `fit.rs` for one sub-block, one number after the other, as the reference does them: for sub-blocks
//! that lanes cannot do, and the lanes' oracle in tests.

use super::{Grid, NOTHING, nearest};

/// An integer code between the bounds, which may be nonsense before.
#[inline(always)]
fn clamped(x: f32, low: i32, high: i32) -> i32 {
    nearest(x).min(high).max(low)
}

/// Scale, minimum and codes.
#[inline(never)]
pub(in crate::transform::block) fn affine(x: &[f32], w: &[f32], grid: &Grid, codes: &mut [u8]) -> (f32, f32) {
    let top = grid.top as i32;
    let error = |x: f32| if grid.absolute { x.abs() } else { x * x };
    let (Some(&x0), Some(&w0)) = (x.first(), w.first()) else { return (0.0, 0.0) };
    let (mut minimum, mut highest, mut sum_w, mut sum_x) = (x0, x0, w0, w0 * x0);
    for (&x, &w) in x.iter().zip(w).skip(1) {
        if x < minimum {
            minimum = x;
        }
        if x > highest {
            highest = x;
        }
        sum_w += w;
        sum_x += w * x;
    }
    if minimum > 0.0 {
        minimum = 0.0;
    }
    if highest == minimum {
        codes.fill(0);
        return (0.0, -minimum);
    }
    let factor = grid.top / (highest - minimum);
    let mut scale = 1.0 / factor;
    let mut best = 0.0;
    for ((&x, &w), to) in x.iter().zip(w).zip(&mut *codes) {
        let code = clamped(factor * (x - minimum), 0, top);
        *to = code as u8;
        best += w * error(scale * code as f32 + minimum - x);
    }
    for step in 0..=grid.steps {
        let factor = (grid.first + grid.step * f32::from(step) + grid.top) / (highest - minimum);
        let from = minimum;
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0f32, 0.0f32, 0.0f32);
        for (&x, &w) in x.iter().zip(w) {
            let code = clamped(factor * (x - from), 0, top) as f32;
            sum_l += w * code;
            sum_l2 += w * code * code;
            sum_xl += w * code * x;
        }
        let d = sum_w * sum_l2 - sum_l * sum_l;
        if d > 0.0 {
            let mut trial_scale = (sum_w * sum_xl - sum_x * sum_l) / d;
            let mut trial_minimum = (sum_l2 * sum_x - sum_l * sum_xl) / d;
            if trial_minimum > 0.0 {
                trial_minimum = 0.0;
                trial_scale = sum_xl / sum_l2;
            }
            let mut errors = 0.0;
            for (&x, &w) in x.iter().zip(w) {
                let code = clamped(factor * (x - from), 0, top) as f32;
                errors += w * error(trial_scale * code + trial_minimum - x);
            }
            if errors < best {
                for (&x, to) in x.iter().zip(&mut *codes) {
                    *to = clamped(factor * (x - from), 0, top) as u8;
                }
                best = errors;
                scale = trial_scale;
                minimum = trial_minimum;
            }
        }
    }
    (scale, -minimum)
}

/// Scale and codes, those from 0.
#[inline(never)]
pub(in crate::transform::block) fn even(x: &[f32], w: &[f32], top: i32, codes: &mut [u8]) -> f32 {
    let (mut far, mut signed) = (0.0, 0.0);
    for &x in x {
        if x.abs() > far {
            (far, signed) = (x.abs(), x);
        }
    }
    if far < NOTHING {
        codes.fill(0);
        return 0.0;
    }
    let (mut scale, mut best) = (0.0f32, 0.0f32);
    for step in std::iter::once(0i8).chain(-9..=-1).chain(1..=9) {
        let factor = -(top as f32 + 0.1 * f32::from(step)) / signed;
        let (mut sum_lx, mut sum_l2) = (0.0f32, 0.0f32);
        for (&x, &w) in x.iter().zip(w) {
            let code = clamped(factor * x, -top, top - 1) as f32;
            sum_lx += w * x * code;
            sum_l2 += w * code * code;
        }
        let better = sum_l2 > 0.0 && sum_lx * sum_lx > best * sum_l2;
        if step == 0 {
            scale = if sum_l2 != 0.0 { sum_lx / sum_l2 } else { 0.0 };
        } else if better {
            scale = sum_lx / sum_l2;
        } else {
            continue;
        }
        best = scale * sum_lx;
        for (&x, to) in x.iter().zip(&mut *codes) {
            *to = (clamped(factor * x, -top, top - 1) + top) as u8;
        }
    }
    scale
}

/// Scale and codes of numbers that are not negative: a block's scales or minima (`make_qp_quants`).
#[inline(never)]
pub(in crate::transform::block) fn positive(x: &[f32], w: &[f32], top: i32, codes: &mut [u8]) -> f32 {
    let highest = x.iter().fold(0.0f32, |max, &x| if max > x { max } else { x });
    if highest < NOTHING {
        codes.fill(0);
        return 0.0;
    }
    let levels = top as f32;
    let mut factor = levels / highest;
    let mut best = 0.0;
    let scale = 1.0 / factor;
    for ((&x, &w), to) in x.iter().zip(w).zip(&mut *codes) {
        *to = nearest(factor * x) as u8;
        let off = x - scale * f32::from(*to);
        best += w * off * off;
    }
    for step in (-4i8..=-1).chain(1..=4) {
        let trial = (0.1 * f32::from(step) + levels) / highest;
        let scale = 1.0 / trial;
        let mut error = 0.0;
        for (&x, &w) in x.iter().zip(w) {
            let off = x - scale * nearest(trial * x).min(top) as f32;
            error += w * off * off;
        }
        if error < best {
            (best, factor) = (error, trial);
        }
    }
    let (mut sum_lx, mut sum_l2) = (0.0f32, 0.0f32);
    for ((&x, &w), to) in x.iter().zip(w).zip(&mut *codes) {
        let code = nearest(factor * x).min(top);
        *to = code as u8;
        sum_lx += w * x * code as f32;
        sum_l2 += w * code as f32 * code as f32;
    }
    for _ in 0..5 {
        let mut changed = false;
        for ((&x, &w), to) in x.iter().zip(w).zip(&mut *codes) {
            let old = f32::from(*to);
            let mut lx = sum_lx - w * x * old;
            let mut l2 = sum_l2 - w * old * old;
            if lx > 0.0 && l2 > 0.0 {
                let code = nearest(x * l2 / lx).min(top);
                if code != i32::from(*to) {
                    lx += w * x * code as f32;
                    l2 += w * code as f32 * code as f32;
                    if lx * lx * sum_l2 > sum_lx * sum_lx * l2 {
                        *to = code as u8;
                        (sum_lx, sum_l2) = (lx, l2);
                        changed = true;
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    if sum_l2 > 0.0 { sum_lx / sum_l2 } else { 0.0 }
}

/// Scale and codes, those from 0, of codes that are moved one by one (`make_q3_quants`).
#[inline(never)]
pub(in crate::transform::block) fn refined(x: &[f32], codes: &mut [u8]) -> f32 {
    const TOP: i32 = 4;
    let (mut far, mut signed) = (0.0, 0.0);
    for &x in x {
        if x.abs() > far {
            (far, signed) = (x.abs(), x);
        }
    }
    codes.fill(0);
    if far < NOTHING {
        return 0.0;
    }
    let factor = -(TOP as f32) / signed;
    let (mut sum_lx, mut sum_l2) = (0.0f32, 0.0f32);
    for (&x, to) in x.iter().zip(&mut *codes) {
        let code = clamped(factor * x, -TOP, TOP - 1);
        *to = (code + TOP) as u8;
        sum_lx += x * x * x * code as f32;
        sum_l2 += x * x * code as f32 * code as f32;
    }
    for _ in 0..5 {
        let mut changed = false;
        for (&x, to) in x.iter().zip(&mut *codes) {
            let w = x * x;
            let old = f32::from(*to) - TOP as f32;
            let mut lx = sum_lx - w * x * old;
            if lx > 0.0 {
                let mut l2 = sum_l2 - w * old * old;
                let code = clamped(x * l2 / lx, -TOP, TOP - 1) as f32;
                if code != old {
                    lx += w * x * code;
                    l2 += w * code * code;
                    if l2 > 0.0 && lx * lx * sum_l2 > sum_lx * sum_lx * l2 {
                        *to = (code + TOP as f32) as u8;
                        (sum_lx, sum_l2) = (lx, l2);
                        changed = true;
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    if sum_l2 > 0.0 { sum_lx / sum_l2 } else { 0.0 }
}
