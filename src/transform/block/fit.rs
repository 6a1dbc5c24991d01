//! The searches for a sub-block's scale (and minimum) that ggml's reference quantisers make, for many sub-blocks at
//! once: one a lane, so that a lane does the reference's operations in the reference's order and its sums are equal to
//! the last bit (`make_qx_quants`, `make_qkx2_quants`, `make_qkx3_quants`, `make_q3_quants` and the search of IQ4_NL in
//! `ggml-quants.c`).
//!
//! The reference rounds by adding 1.5 · 2^23 and reading the integer from the sum's bits, which gives nonsense for what
//! is above 2^22. The lanes round by the same sum, or by an instruction, and stay with floats: above 2^22 they find other
//! numbers. So a lane
//! that might see such numbers, or one that is not finite, is *odd*: its factor is a NaN, and its results are those of
//! the sequential twin in `fit/one.rs`, which does exactly as the reference.

pub(super) mod one;

/// Adding it to a number of less than 2^22 rounds to the nearest integer, halves to the even one.
const ROUNDS: f32 = 12_582_912.0;
/// What must stay below 2^22 is kept below this: the difference pays for the check's own rounding.
const SAFE: f32 = 4_000_000.0;
/// Sub-blocks whose largest magnitude is below this count as zero (`GROUP_MAX_EPS`).
pub(super) const NOTHING: f32 = 1e-15;

/// The nearest integer as the reference has it, nonsense above 2^22 included.
#[inline(always)]
pub(super) fn nearest(x: f32) -> i32 {
    ((x + ROUNDS).to_bits() & 0x7f_ffff) as i32 - 0x40_0000
}

/// What candidates a search for scale and minimum goes through.
pub(super) struct Grid {
    /// The largest code; the least is 0.
    pub top: f32,
    /// What the first candidate's number of steps is above `top`.
    pub first: f32,
    /// By how much the next one's is larger.
    pub step: f32,
    /// How many candidates follow the first.
    pub steps: u16,
    /// Whether errors count by magnitude, not by square.
    pub absolute: bool,
}

/// Scale and minimum of a sub-block: `code · scale − minimum`.
#[derive(Clone, Copy, Default)]
pub(super) struct Affine {
    pub scale: f32,
    /// Not below zero.
    pub minimum: f32,
    /// The codes of the fit are `factor · (x − from)`, rounded and clamped. A NaN where the sequential twin must be asked.
    pub factor: f32,
    pub from: f32,
}

/// Scale of a sub-block with codes on both sides of zero.
#[derive(Clone, Copy, Default)]
pub(super) struct Even {
    pub scale: f32,
    /// The codes of the fit are `factor · x`, rounded and clamped. A NaN where the sequential twin must be asked.
    pub factor: f32,
}

/// `N` numbers of each of `L` sub-blocks, a row one number of each; rows lie as vectors want them.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Turned<const N: usize, const L: usize>(pub [[f32; L]; N]);

impl<const N: usize, const L: usize> Turned<N, L> {
    pub(super) const ZERO: Self = Turned([[0.0; L]; N]);
}

/// All bits or none.
#[inline(always)]
fn mask(condition: bool) -> u32 {
    u32::from(condition).wrapping_neg()
}

/// The first where the mask is set. Said with bits, for the compiler makes jumps of anything else.
#[inline(always)]
fn choose(mask: u32, a: f32, b: f32) -> f32 {
    f32::from_bits(a.to_bits() & mask | b.to_bits() & !mask)
}

/// An array over lanes.
macro_rules! lanes {
    ($lane:ident => $value:expr) => {{
        let mut made = [0.0f32; L];
        for $lane in 0..L {
            made[$lane] = $value;
        }
        made
    }};
}

/// Turns sub-blocks that lie one after the other. Lanes without one hold zeros.
///
/// Laying the second half of an array between the numbers of the first rotates the bits of their places by one; as often
/// as `L` has bits, and rows and columns have changed places. This the compiler makes of shuffles, where a plain copy
/// becomes one load for each number.
#[inline(always)]
pub(super) fn turn<const N: usize, const L: usize>(numbers: &[f32], to: &mut Turned<N, L>) {
    let mut other = Turned::<N, L>::ZERO;
    let (mut from, mut to) = (other.0.as_flattened_mut(), to.0.as_flattened_mut());
    let passes = L.trailing_zeros();
    // The last pass is to end in `to`.
    if passes % 2 == 1 {
        (from, to) = (to, from);
    }
    let count = numbers.len().min(N * L);
    to[..count].copy_from_slice(&numbers[..count]);
    to[count..].fill(0.0);
    for _ in 0..passes {
        (from, to) = (to, from);
        let (first, second) = from.split_at(N * L / 2);
        for ((pair, &a), &b) in to.as_chunks_mut::<2>().0.iter_mut().zip(first).zip(second) {
            *pair = [a, b];
        }
    }
}

/// The smaller, or the second where there is a NaN: one instruction on x86.
#[inline(always)]
fn least(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

#[inline(always)]
fn most(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// The largest magnitude in each lane, and the first number that has it.
#[inline(always)]
fn farthest<const N: usize, const L: usize>(x: &[[f32; L]; N]) -> ([f32; L], [f32; L]) {
    let (mut far, mut signed) = ([0.0f32; L], [0.0f32; L]);
    for x in x {
        for l in 0..L {
            let farther = mask(x[l].abs() > far[l]);
            far[l] = choose(farther, x[l].abs(), far[l]);
            signed[l] = choose(farther, x[l], signed[l]);
        }
    }
    (far, signed)
}

/// The nearest integer, for what is [`SAFE`]; its zero may be a negative one. One instruction where [`Kernel`] says that there
/// is one.
///
/// [`Kernel`]: super::simd::Kernel
#[inline(always)]
fn rounded<const L: usize>(x: f32) -> f32 {
    if L >= 16 { x.round_ties_even() } else { (x + ROUNDS) - ROUNDS }
}

/// The code of `x` as a float, between 0 and `top`; no negative zero.
#[inline(always)]
fn code<const L: usize>(x: f32, top: f32) -> f32 {
    least(most(rounded::<L>(x), 0.0), top)
}

/// `make_qkx2_quants`, and `make_qkx3_quants` with weights.
#[inline(always)]
pub(super) fn affine<const N: usize, const L: usize, const ABSOLUTE: bool>(
    x: &Turned<N, L>,
    w: &Turned<N, L>,
    grid: &Grid,
) -> [Affine; L] {
    let (x, w) = (&x.0, &w.0);
    let top = grid.top;
    let error = |x: f32| if ABSOLUTE { x.abs() } else { x * x };
    let (mut lowest, mut highest, mut sum_w) = (x[0], x[0], w[0]);
    let mut sum_x = lanes!(l => w[0][l] * x[0][l]);
    for (x, w) in x.iter().zip(w).skip(1) {
        for l in 0..L {
            lowest[l] = least(x[l], lowest[l]);
            highest[l] = most(x[l], highest[l]);
            sum_w[l] += w[l];
            sum_x[l] += w[l] * x[l];
        }
    }
    let mut minimum = lanes!(l => if lowest[l] > 0.0 { 0.0 } else { lowest[l] });
    let mut from = minimum;
    let mut factor = lanes!(l => top / (highest[l] - minimum[l]));
    let mut scale = lanes!(l => 1.0 / factor[l]);
    // The sum over candidates of the largest |factor · (x − minimum)|: it is not a number, or infinite, once one was.
    let mut reach = lanes!(l => factor[l].abs() * (highest[l] - minimum[l]));
    let mut best = [0.0f32; L];
    for (x, w) in x.iter().zip(w) {
        for l in 0..L {
            let code = code::<L>(factor[l] * (x[l] - minimum[l]), top);
            best[l] += w[l] * error(scale[l] * code + minimum[l] - x[l]);
        }
    }
    let mut codes = Turned::<N, L>::ZERO;
    for step in 0..=grid.steps {
        let count = grid.first + grid.step * f32::from(step) + top;
        let trial = lanes!(l => count / (highest[l] - minimum[l]));
        let (mut sum_l, mut sum_l2, mut sum_xl) = ([0.0f32; L], [0.0f32; L], [0.0f32; L]);
        for ((x, w), codes) in x.iter().zip(w).zip(&mut codes.0) {
            for l in 0..L {
                let code = code::<L>(trial[l] * (x[l] - minimum[l]), top);
                codes[l] = code;
                let weighed = w[l] * code;
                sum_l[l] += weighed;
                sum_l2[l] += weighed * code;
                sum_xl[l] += weighed * x[l];
            }
        }
        let (mut trial_scale, mut trial_minimum, mut determinant) = ([0.0f32; L], [0.0f32; L], [0.0f32; L]);
        for l in 0..L {
            let far = most((highest[l] - minimum[l]).abs(), (lowest[l] - minimum[l]).abs());
            reach[l] += trial[l].abs() * far;
            let d = sum_w[l] * sum_l2[l] - sum_l[l] * sum_l[l];
            let scale = (sum_w[l] * sum_xl[l] - sum_x[l] * sum_l[l]) / d;
            let minimum = (sum_l2[l] * sum_x[l] - sum_l[l] * sum_xl[l]) / d;
            let positive = mask(minimum > 0.0);
            trial_scale[l] = choose(positive, sum_xl[l] / sum_l2[l], scale);
            trial_minimum[l] = choose(positive, 0.0, minimum);
            determinant[l] = d;
        }
        let mut errors = [0.0f32; L];
        for ((x, w), codes) in x.iter().zip(w).zip(&codes.0) {
            for l in 0..L {
                errors[l] += w[l] * error(trial_scale[l] * codes[l] + trial_minimum[l] - x[l]);
            }
        }
        for l in 0..L {
            let better = mask(determinant[l] > 0.0) & mask(errors[l] < best[l]);
            best[l] = choose(better, errors[l], best[l]);
            scale[l] = choose(better, trial_scale[l], scale[l]);
            factor[l] = choose(better, trial[l], factor[l]);
            from[l] = choose(better, minimum[l], from[l]);
            minimum[l] = choose(better, trial_minimum[l], minimum[l]);
        }
    }
    let mut fits = [Affine::default(); L];
    for (l, fit) in fits.iter_mut().enumerate() {
        let sound = reach[l] < SAFE && sum_x[l].is_finite() && sum_w[l].is_finite();
        let factor = if sound { factor[l] } else { f32::NAN };
        *fit = Affine { scale: scale[l], minimum: -minimum[l], factor, from: from[l] };
    }
    fits
}

/// `make_qx_quants` with squares (or other weights).
#[inline(always)]
pub(super) fn even<const N: usize, const L: usize>(
    x: &Turned<N, L>,
    w: &Turned<N, L>,
    top: f32,
) -> [Even; L] {
    let (x, w) = (&x.0, &w.0);
    let (far, signed) = farthest(x);
    let mut weighed = Turned::<N, L>::ZERO;
    for ((x, w), weighed) in x.iter().zip(w).zip(&mut weighed.0) {
        for l in 0..L {
            weighed[l] = w[l] * x[l];
        }
    }
    let (mut scale, mut factor, mut best) = ([0.0f32; L], [0.0f32; L], [0.0f32; L]);
    let mut reach = [0.0f32; L];
    // The plain one first, then the others from the smallest.
    for step in std::iter::once(0i8).chain(-9..=-1).chain(1..=9) {
        let count = -(top + 0.1 * f32::from(step));
        let trial = lanes!(l => count / signed[l]);
        let (mut sum_lx, mut sum_l2) = ([0.0f32; L], [0.0f32; L]);
        for ((x, w), weighed) in x.iter().zip(w).zip(&weighed.0) {
            for l in 0..L {
                let code = least(most(rounded::<L>(trial[l] * x[l]), -top), top - 1.0);
                sum_lx[l] += weighed[l] * code;
                sum_l2[l] += w[l] * code * code;
            }
        }
        for l in 0..L {
            let fitted = sum_lx[l] / sum_l2[l];
            reach[l] += trial[l].abs() * far[l];
            if step == 0 {
                scale[l] = choose(mask(sum_l2[l] != 0.0), fitted, 0.0);
                best[l] = scale[l] * sum_lx[l];
                factor[l] = trial[l];
            } else {
                let better = mask(sum_l2[l] > 0.0) & mask(sum_lx[l] * sum_lx[l] > best[l] * sum_l2[l]);
                scale[l] = choose(better, fitted, scale[l]);
                best[l] = choose(better, scale[l] * sum_lx[l], best[l]);
                factor[l] = choose(better, trial[l], factor[l]);
            }
        }
    }
    let mut fits = [Even::default(); L];
    for (l, fit) in fits.iter_mut().enumerate() {
        let sound = reach[l] < SAFE && far[l] >= NOTHING && best[l].is_finite();
        *fit = Even { scale: scale[l], factor: if sound { factor[l] } else { f32::NAN } };
    }
    fits
}

/// `make_q3_quants`: scales of sub-blocks with codes of −4 to 3, the codes moved one by one while the error falls. No
/// lane is odd: integers are read from the bits here too, for a quotient may be anything.
#[inline(always)]
pub(super) fn refined<const N: usize, const L: usize>(x: &Turned<N, L>) -> [f32; L] {
    const TOP: i32 = 4;
    let x = &x.0;
    let (far, signed) = farthest(x);
    let factor = lanes!(l => -(TOP as f32) / signed[l]);
    let mut codes = Turned::<N, L>::ZERO;
    let (mut sum_lx, mut sum_l2) = ([0.0f32; L], [0.0f32; L]);
    for (x, codes) in x.iter().zip(&mut codes.0) {
        for l in 0..L {
            let code = nearest(factor[l] * x[l]).clamp(-TOP, TOP - 1) as f32;
            codes[l] = code;
            let w = x[l] * x[l];
            sum_lx[l] += w * x[l] * code;
            sum_l2[l] += w * code * code;
        }
    }
    for _ in 0..5 {
        let mut changed = [0u32; L];
        for (x, codes) in x.iter().zip(&mut codes.0) {
            for l in 0..L {
                let (x, old) = (x[l], codes[l]);
                let w = x * x;
                let lx = sum_lx[l] - w * x * old;
                let l2 = sum_l2[l] - w * old * old;
                let code = nearest(x * l2 / lx).clamp(-TOP, TOP - 1) as f32;
                let new_lx = lx + w * x * code;
                let new_l2 = l2 + w * code * code;
                let better = mask(lx > 0.0)
                    & mask(code != old)
                    & mask(new_l2 > 0.0)
                    & mask(new_lx * new_lx * sum_l2[l] > sum_lx[l] * sum_lx[l] * new_l2);
                codes[l] = choose(better, code, old);
                sum_lx[l] = choose(better, new_lx, sum_lx[l]);
                sum_l2[l] = choose(better, new_l2, sum_l2[l]);
                changed[l] |= better;
            }
        }
        // A lane that was not changed once would not be again.
        if changed.iter().fold(0, |any, &lane| any | lane) == 0 {
            break;
        }
    }
    lanes!(l => {
        let some = mask(far[l] >= NOTHING) & mask(sum_l2[l] > 0.0);
        choose(some, sum_lx[l] / sum_l2[l], 0.0)
    })
}

/// A table of values that codes stand for, as its least value, and for each next one where it begins and by how much it
/// is larger.
pub(super) struct Table {
    pub least: f32,
    pub steps: [(f32, f32); 15],
}

/// The search of IQ4_NL: scales of sub-blocks whose codes stand for the values of a table, in which `x · factor` takes
/// the nearest.
#[inline(always)]
pub(super) fn table<const N: usize, const L: usize>(
    x: &Turned<N, L>,
    w: &Turned<N, L>,
    table: &Table,
) -> [f32; L] {
    const TRIES: i8 = 7;
    let (x, w) = (&x.0, &w.0);
    let (far, signed) = farthest(x);
    let (mut scale, mut best) = ([0.0f32; L], [0.0f32; L]);
    let plain = std::iter::once(None);
    for step in plain.chain((-TRIES..=TRIES).map(Some)) {
        let trial = match step {
            None => lanes!(l => 1.0 / (-signed[l] / table.least)),
            Some(step) => lanes!(l => (f32::from(step) + table.least) / signed[l]),
        };
        let (mut sum_qx, mut sum_q2) = ([0.0f32; L], [0.0f32; L]);
        for (x, w) in x.iter().zip(w) {
            let place = lanes!(l => trial[l] * x[l]);
            let mut value = [table.least; L];
            for &(begins, larger) in &table.steps {
                for l in 0..L {
                    value[l] += f32::from_bits(mask(place[l] >= begins) & larger.to_bits());
                }
            }
            for l in 0..L {
                let weighed = w[l] * value[l];
                sum_qx[l] += weighed * x[l];
                sum_q2[l] += weighed * value[l];
            }
        }
        for l in 0..L {
            let fitted = sum_qx[l] / sum_q2[l];
            let some = mask(sum_q2[l] > 0.0);
            if step.is_none() {
                scale[l] = choose(some, fitted, 0.0);
                best[l] = scale[l] * sum_qx[l];
            } else {
                let better = some & mask(sum_qx[l] * sum_qx[l] > best[l] * sum_q2[l]);
                scale[l] = choose(better, fitted, scale[l]);
                best[l] = choose(better, scale[l] * sum_qx[l], best[l]);
            }
        }
    }
    lanes!(l => choose(mask(far[l] >= NOTHING), scale[l], 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sub-blocks of all kinds, those that lanes cannot do among them, and their weights.
    fn subs<const N: usize>(count: usize) -> Vec<([f32; N], [f32; N])> {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / 8_388_608.0 - 1.0
        };
        let make = |sub: usize| {
            let scale = [1.0, 1e-3, 1e-41, 1e-13, 3e4, 1e19, 3e38][sub % 7];
            let kind = sub / 7 % 6;
            let x = std::array::from_fn(|i| {
                let x = next() * next() * scale;
                match kind {
                    1 => x.abs(),
                    2 => -x.abs(),
                    3 if i % 3 > 0 => 0.0,
                    4 => scale * if i == N / 2 { -1.0 } else { 0.01 * next() },
                    5 if sub.is_multiple_of(2) => scale,
                    5 => [0.0, -0.0][i % 2],
                    _ => x,
                }
            });
            (x, std::array::from_fn(|_| next().abs() + if sub.is_multiple_of(3) { 1.0 } else { 0.0 }))
        };
        (0..count).map(make).collect()
    }

    fn turned<const N: usize, const L: usize>(subs: &[([f32; N], [f32; N])]) -> (Turned<N, L>, Turned<N, L>) {
        let (mut x, mut w) = (Turned::ZERO, Turned::ZERO);
        turn(&subs.iter().flat_map(|sub| sub.0).collect::<Vec<f32>>(), &mut x);
        turn(&subs.iter().flat_map(|sub| sub.1).collect::<Vec<f32>>(), &mut w);
        (x, w)
    }

    fn check<const N: usize, const L: usize>() {
        let grids = [
            Grid { top: 15.0, first: -1.0, step: 0.1, steps: 20, absolute: false },
            Grid { top: 31.0, first: -0.9, step: 0.05, steps: 36, absolute: false },
            Grid { top: 3.0, first: -0.5, step: 0.1, steps: 15, absolute: true },
        ];
        let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
        let mut sound = 0;
        for subs in subs::<N>(420).chunks(L - 1) {
            let (x, w) = turned::<N, L>(subs);
            for (l, (numbers, _)) in subs.iter().enumerate() {
                assert!(numbers.iter().zip(&x.0).all(|(&n, row)| same(n, row[l])));
            }
            assert!(x.0.iter().all(|row| row[L - 1] == 0.0), "a lane without numbers holds zeros");
            for grid in &grids {
                let fits: [Affine; L] = if grid.absolute {
                    affine::<N, L, true>(&x, &w, grid)
                } else {
                    affine::<N, L, false>(&x, &w, grid)
                };
                for ((numbers, weights), fit) in subs.iter().zip(fits) {
                    if fit.factor.is_nan() {
                        continue;
                    }
                    let mut codes = [0; N];
                    let (scale, minimum) = one::affine(numbers, weights, grid, &mut codes);
                    assert!(same(scale, fit.scale) && same(minimum, fit.minimum), "{numbers:?}");
                    let ours =
                        numbers.map(|x| nearest(fit.factor * (x - fit.from)).clamp(0, grid.top as i32) as u8);
                    assert_eq!(ours, codes, "{numbers:?}");
                    sound += 1;
                }
            }
            for top in [4, 8, 16, 32] {
                for ((numbers, weights), fit) in subs.iter().zip(even::<N, L>(&x, &w, top as f32)) {
                    if fit.factor.is_nan() {
                        continue;
                    }
                    let mut codes = [0; N];
                    let scale = one::even(numbers, weights, top, &mut codes);
                    assert!(same(scale, fit.scale), "{numbers:?}: {scale} {}", fit.scale);
                    let ours = numbers.map(|x| (nearest(fit.factor * x).clamp(-top, top - 1) + top) as u8);
                    assert_eq!(ours, codes, "{numbers:?}");
                    sound += 1;
                }
            }
            for ((numbers, _), scale) in subs.iter().zip(refined::<N, L>(&x)) {
                let theirs = one::refined(numbers, &mut [0; N]);
                assert!(same(scale, theirs), "{numbers:?}: {scale} {theirs}");
            }
        }
        assert!(sound > 1500, "{sound}: lanes did hardly anything");
    }

    #[test]
    fn a_lane_does_as_the_sequential_twin() {
        check::<32, 8>();
        check::<32, 16>();
        check::<32, 32>();
        check::<16, 8>();
        check::<16, 16>();
        check::<16, 32>();
    }
}
