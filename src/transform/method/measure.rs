//! What was lost, and what a matrix's numbers are like.

use super::groups::largest_finite;
use super::sums::{STRETCH, Sums};
use crate::transform::packing::faces::{Found, Reader, Sixteen, round_to};
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

/// Sums of squares in f32 are trusted between these; other stretches are summed in f64.
const TRUSTED: std::ops::Range<f32> = 1e-25..1e30;

impl Error {
    /// Adds a stretch, without its count; whether it could.
    #[inline(always)]
    fn add(&mut self, sums: &Sums) -> bool {
        let [squares, total, largest] = sums.all();
        // NaN is in neither range.
        let is_trusted = TRUSTED.contains(&total) && (TRUSTED.contains(&squares) || largest == 0.0);
        if is_trusted {
            self.squares += f64::from(squares);
            self.total += f64::from(total);
            self.largest = self.largest.max(f64::from(largest));
        }
        is_trusted
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
            let mut sums = Sums::NONE;
            sums.add(xs, ys);
            if !all.add(&sums) {
                all = all.and(careful(xs, ys));
            }
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

struct CompareBand<'a> {
    numbers: &'a [f32],
    reader: Reader<'a>,
    /// One that the machine has.
    level: Level,
}

impl Kernel for CompareBand<'_> {
    type Out = Error;

    #[inline(always)]
    fn run(self) -> Error {
        let CompareBand { numbers, reader, level } = self;
        let mut all = Error::default();
        let mut place = reader.start();
        let (mut table, mut made) = (Sixteen::default(), [0f32; STRETCH]);
        for stretch in numbers.chunks(STRETCH) {
            let (mut sums, mut start, mut xs) = (Sums::NONE, place.clone(), stretch);
            while !xs.is_empty() {
                let found = reader.next(&mut place, &mut table.0, &mut made[..xs.len()]);
                let (of, behind) = xs.split_at(found.count());
                match found {
                    Found::Nothing => break,
                    Found::Picked(codes) => sums.add_picked(level, of, &table.0, codes),
                    Found::Made(count) => sums.add(of, &made[..count]),
                }
                xs = behind;
            }
            let stretch = &stretch[..stretch.len() - xs.len()];
            all.count += stretch.len() as u64;
            if !all.add(&sums) {
                let made = &mut made[..stretch.len()];
                reader.fill(&mut start, made);
                all = all.and(careful(stretch, made));
            }
        }
        all
    }
}

/// How far what a reader finds for a band is from the numbers that it was made of.
pub fn band_error(numbers: &[f32], packing: &Packing, band: &Band) -> Error {
    let level = Level::best();
    if let Some(reader) = Reader::of(packing, level, band) {
        return run(level, CompareBand { numbers, reader, level });
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
