//! What was lost, and what a matrix's numbers are like.

use super::groups::largest_finite;
use super::levels::above;
use crate::transform::packing::faces::{Stretches, round_to};
use crate::transform::packing::{Band, Packing};
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
const LANES: usize = 16;
/// Numbers whose squares are summed in f32, in as many sums as there are lanes, before they are summed in f64: what is lost by
/// that is below one part in a million.
const STRETCH: usize = LANES * 64;
/// Sums of squares in f32 are trusted between these; other stretches are summed in f64.
const TRUSTED: std::ops::Range<f32> = 1e-25..1e30;

impl Error {
    /// Adds a stretch, or what is left of one, without its count.
    #[inline(always)]
    fn add(&mut self, xs: &[f32], ys: &[f32]) {
        let (mut squares, mut total, mut largest) = ([0f32; LANES], [0f32; LANES], [0f32; LANES]);
        let ((x_chunks, x_rest), (y_chunks, y_rest)) = (xs.as_chunks::<LANES>(), ys.as_chunks::<LANES>());
        let mut add = |l: usize, x: f32, y: f32| {
            let d = x - y;
            squares[l] += d * d;
            total[l] += x * x;
            largest[l] = above(d.abs(), largest[l]);
        };
        for (x, y) in x_chunks.iter().zip(y_chunks) {
            for l in 0..LANES {
                add(l, x[l], y[l]);
            }
        }
        for (l, (&x, &y)) in x_rest.iter().zip(y_rest).enumerate() {
            add(l, x, y);
        }
        let (mut squares_sum, mut total_sum, mut most) = (0f32, 0f32, 0f32);
        for l in 0..LANES {
            squares_sum += squares[l];
            total_sum += total[l];
            most = above(largest[l], most);
        }
        // NaN is in neither range.
        let is_trusted = |sum: f32| TRUSTED.contains(&sum);
        if is_trusted(total_sum) && (is_trusted(squares_sum) || most == 0.0) {
            self.squares += f64::from(squares_sum);
            self.total += f64::from(total_sum);
            self.largest = self.largest.max(f64::from(most));
        } else {
            *self = self.and(careful(xs, ys));
        }
    }
}

struct Compare<'a>(&'a [f32], &'a [f32]);

impl Kernel for Compare<'_> {
    type Out = Error;

    #[inline(always)]
    fn run(self) -> Error {
        let count = self.0.len().min(self.1.len());
        let mut all = Error { count: count as u64, ..Error::default() };
        for (xs, ys) in self.0[..count].chunks(STRETCH).zip(self.1[..count].chunks(STRETCH)) {
            all.add(xs, ys);
        }
        all
    }
}

/// The same in f64, whatever the numbers are; without their count.
#[inline(never)]
fn careful(numbers: &[f32], dequantised: &[f32]) -> Error {
    let mut all = Error::default();
    for (&x, &y) in numbers.iter().zip(dequantised) {
        if !x.is_finite() {
            all.odd += 1;
            continue;
        }
        let d = f64::from(x) - f64::from(y);
        all.squares += d * d;
        all.total += f64::from(x) * f64::from(x);
        all.largest = all.largest.max(d.abs());
    }
    all
}

/// How far `dequantised` is from `numbers`; of unequal lengths what both have. Sums are f64.
pub fn error(numbers: &[f32], dequantised: &[f32]) -> Error {
    run(Level::best(), Compare(numbers, dequantised))
}

struct CompareBand<'a>(&'a [f32], Stretches<'a>);

impl Kernel for CompareBand<'_> {
    type Out = Error;

    #[inline(always)]
    fn run(self) -> Error {
        let CompareBand(mut numbers, mut stretches) = self;
        let mut all = Error { count: numbers.len() as u64, ..Error::default() };
        let mut stretch = [0f32; STRETCH];
        while !numbers.is_empty() {
            let count = numbers.len().min(stretches.fill(&mut stretch));
            if count == 0 {
                break;
            }
            let (xs, behind) = numbers.split_at(count);
            all.add(xs, &stretch[..count]);
            numbers = behind;
        }
        Error { count: all.count - numbers.len() as u64, ..all }
    }
}

/// How far what a reader finds for a band is from the numbers that it was made of.
pub fn band_error(numbers: &[f32], packing: &Packing, band: &Band) -> Error {
    let level = Level::best();
    if let Some(stretches) = Stretches::of(packing, level, band) {
        return run(level, CompareBand(numbers, stretches));
    }
    let mut read = vec![0f32; band.rows * band.columns];
    packing.numbers(band, &mut read);
    round_to(packing.dtype, &mut read);
    error(numbers, &read)
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
