//! What was lost, and what a matrix's numbers are like.

use super::groups::largest_finite;
use super::levels::above;
use crate::transform::simd::{Kernel, Level, run};

/// How far a matrix is from what it was.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Error {
    /// Sum of squares of the differences.
    pub squares: f64,
    /// Sum of squares of the numbers.
    pub total: f64,
    /// The largest difference.
    pub largest: f64,
    /// Numbers.
    pub count: u64,
    /// Numbers that are none: NaN or infinite. They count in no sum.
    pub odd: u64,
}

impl Error {
    /// Both together.
    pub fn and(self, other: Error) -> Error {
        Error {
            squares: self.squares + other.squares,
            total: self.total + other.total,
            largest: self.largest.max(other.largest),
            count: self.count + other.count,
            odd: self.odd + other.odd,
        }
    }

    /// Length of the difference over length of the numbers (relative Frobenius error); zero where there is nothing.
    pub fn relative(&self) -> f64 {
        if self.total > 0.0 { (self.squares / self.total).sqrt() } else { 0.0 }
    }
}

/// Lanes of the sums.
const LANES: usize = 8;

struct Compare<'a>(&'a [f32], &'a [f32]);

impl Kernel for Compare<'_> {
    type Out = Error;

    #[inline(always)]
    fn run(self) -> Error {
        let (mut squares, mut total, mut largest) = ([0f64; LANES], [0f64; LANES], [0f32; LANES]);
        let mut odd = [0f64; LANES];
        let mut add = |l: usize, x: f32, y: f32| {
            let is_odd = !x.is_finite();
            let (x, y) = if is_odd { (0.0, 0.0) } else { (x, y) };
            let d = f64::from(x) - f64::from(y);
            squares[l] += d * d;
            total[l] += f64::from(x) * f64::from(x);
            largest[l] = above((x - y).abs(), largest[l]);
            odd[l] += if is_odd { 1.0 } else { 0.0 };
        };
        let count = self.0.len().min(self.1.len());
        let (xs, x_rest) = self.0[..count].as_chunks::<LANES>();
        let (ys, y_rest) = self.1[..count].as_chunks::<LANES>();
        for (x, y) in xs.iter().zip(ys) {
            for l in 0..LANES {
                add(l, x[l], y[l]);
            }
        }
        for (l, (&x, &y)) in x_rest.iter().zip(y_rest).enumerate() {
            add(l, x, y);
        }
        let mut all = Error { count: count as u64, ..Error::default() };
        for l in 0..LANES {
            all.squares += squares[l];
            all.total += total[l];
            all.largest = all.largest.max(f64::from(largest[l]));
            all.odd += odd[l] as u64;
        }
        all
    }
}

/// How far `dequantised` is from `numbers`; of unequal lengths what both have. Sums are f64.
pub fn error(numbers: &[f32], dequantised: &[f32]) -> Error {
    run(Level::best(), Compare(numbers, dequantised))
}

struct Odd<'a>(&'a [f32]);

impl Kernel for Odd<'_> {
    type Out = u64;

    #[inline(always)]
    fn run(self) -> u64 {
        let mut all = 0u64;
        // Counted in few bits, so that vectors hold many counts.
        for chunk in self.0.chunks(1 << 16) {
            let mut odd = 0u32;
            for x in chunk {
                odd = odd.wrapping_add(u32::from(x.to_bits() & 0x7f80_0000 == 0x7f80_0000));
            }
            all += u64::from(odd);
        }
        all
    }
}

/// How many numbers are NaN or infinite.
pub fn odd(numbers: &[f32]) -> u64 {
    run(Level::best(), Odd(numbers))
}

struct Amax<'a>(&'a [f32]);

impl Kernel for Amax<'_> {
    type Out = f32;

    #[inline(always)]
    fn run(self) -> f32 {
        largest_finite(self.0)
    }
}

/// The largest magnitude of a finite number; zero where there is none.
pub fn amax(numbers: &[f32]) -> f32 {
    run(Level::best(), Amax(numbers))
}

/// The number by which NVFP4's scales are multiplied before they are stored, for a matrix (or matrices that must have it in
/// common) whose largest magnitude this is: the largest scale becomes E4M3's largest number. The reciprocal comes first, as
/// in compressed-tensors.
pub fn nvfp4_global(amax: f32) -> f32 {
    let global = (1.0 / amax.max(f32::MIN_POSITIVE)) * (448.0 * 6.0);
    if global.is_finite() { global } else { 1.0 }
}
