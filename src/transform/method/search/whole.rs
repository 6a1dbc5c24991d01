//! The groups of a batch as whole numbers of sixteen bits, which is what their candidates are ranked with.
//!
//! The sums of their squares come on the way. They are exact, hence the same with all instructions; those of AVX-512 are named,
//! because compilers do not find them: this is one of the files with unsafe code.

#![allow(unsafe_code)]

use super::super::extremes::Extremes;
use super::super::groups::{Batch, LANES, Lanes};
use super::super::levels::above;
use super::Level;
use super::coarse::{LARGEST, whole};

/// What is subtracted from a group's numbers before they become whole ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Nothing: the largest magnitude becomes the largest whole number.
    Zero,
    /// The middle between its least and its largest.
    Middle,
}

/// The groups of a batch on their way through a search, one a lane.
#[derive(Debug, Default)]
pub(in super::super) struct Wholes {
    /// Whole numbers, two by two, one group behind the other; a zero behind those of a group that has an odd number.
    pairs: Vec<[i16; 2]>,
    /// Pairs of a group.
    each: usize,
    /// Numbers of the groups that are not neighbours, or not all finite: those are zero here. As far apart as groups are large.
    copied: Vec<f32>,
    is_copied: [bool; LANES],
    /// Numbers of a group.
    pub count: usize,
    /// The least number, and the largest.
    pub low: Lanes,
    pub high: Lanes,
    /// What was subtracted.
    pub middle: Lanes,
    /// A power of two that brings the largest magnitude between one and two, so that no square vanishes or overflows.
    pub to: Lanes,
    /// What a whole number is multiplied by to get back.
    pub back: Lanes,
    /// The sum of the squares of the whole numbers.
    pub squares: Lanes,
    /// Whether there is something to search: what hardly any whole number is worth is not.
    pub is_worth: [bool; LANES],
}

impl Wholes {
    /// Takes a batch in. `level` is one that the machine has.
    #[inline(always)]
    pub(super) fn take(&mut self, level: Level, batch: &Batch<'_>, from: Origin) {
        self.count = batch.group_size();
        self.each = self.count.div_ceil(2);
        self.pairs.resize(self.each * LANES, [0; 2]);
        self.is_copied = [false; LANES];
        // Each step is taken for all groups before the next, so that none waits for what it has just begun.
        for lane in 0..batch.count {
            let found = batch.run(lane).map(|run| Extremes::NONE.and(level, run));
            let found = match found.filter(|found| found.is_finite()) {
                Some(found) => found,
                None => self.copy(level, batch, lane),
            };
            (self.low[lane], self.high[lane]) = (found.low, found.high);
        }
        let mut by = [0f32; LANES];
        for l in 0..LANES {
            let (low, high) = (self.low[l], self.high[l]);
            // Halves first: the difference of the largest numbers is beyond a float's range.
            let (middle, half) = (high * 0.5 + low * 0.5, high * 0.5 - low * 0.5);
            let is_middle = from == Origin::Middle;
            self.middle[l] = if is_middle { middle } else { 0.0 };
            let largest = if is_middle { half } else { above(-low, high) };
            let exponent = largest.to_bits() >> 23;
            let exponent = if exponent < 253 { exponent } else { 253 };
            let exponent = if exponent > 1 { exponent } else { 1 };
            self.to[l] = f32::from_bits((254 - exponent) << 23);
            self.back[l] = largest * (1.0 / LARGEST);
            self.is_worth[l] = self.back[l] >= f32::MIN_POSITIVE;
            by[l] = if self.is_worth[l] { LARGEST / largest } else { 0.0 };
        }
        for lane in 0..batch.count {
            let numbers = numbers(&self.copied, &self.is_copied, batch, lane);
            let pairs = &mut self.pairs[lane * self.each..][..self.each];
            self.squares[lane] =
                wholes(level, numbers, self.middle[lane], by[lane], pairs.as_flattened_mut());
        }
    }

    /// Copies a group, what is not finite as zero.
    #[inline(never)]
    fn copy(&mut self, level: Level, batch: &Batch<'_>, lane: usize) -> Extremes {
        self.copied.resize(self.count * LANES, 0.0);
        self.is_copied[lane] = true;
        let places = &mut self.copied[lane * self.count..][..self.count];
        for (place, &x) in places.iter_mut().zip(batch.runs(lane).flatten()) {
            *place = if x.abs() < f32::INFINITY { x } else { 0.0 };
        }
        Extremes::NONE.and(level, places)
    }

    /// A group's numbers, all finite.
    #[inline(always)]
    pub(super) fn numbers<'a>(&'a self, batch: &Batch<'a>, lane: usize) -> &'a [f32] {
        numbers(&self.copied, &self.is_copied, batch, lane)
    }

    /// The same as whole numbers.
    #[inline(always)]
    pub(super) fn pairs(&self, lane: usize) -> &[[i16; 2]] {
        &self.pairs[lane * self.each..][..self.each]
    }
}

#[inline(always)]
fn numbers<'a>(copied: &'a [f32], is_copied: &[bool; LANES], batch: &Batch<'a>, lane: usize) -> &'a [f32] {
    match batch.run(lane) {
        Some(run) if !is_copied[lane] => run,
        _ => {
            let count = batch.group_size();
            &copied[lane * count..][..count]
        }
    }
}

/// `(number − middle) · by`, rounded, for each; a zero behind them where there is one place more. The sum of their squares.
#[inline(always)]
fn wholes(level: Level, numbers: &[f32], middle: f32, by: f32, places: &mut [i16]) -> f32 {
    if let Some(behind) = places.get_mut(numbers.len()) {
        *behind = 0;
    }
    let squares = match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: whoever hands in a level has asked the machine for it.
        Level::Avx512 => unsafe { x86::avx512(numbers, middle, by, places) },
        _ => plain(numbers, middle, by, places),
    };
    squares as f32
}

/// What the others do, for every machine.
#[inline(always)]
fn plain(numbers: &[f32], middle: f32, by: f32, places: &mut [i16]) -> i64 {
    for (place, &x) in places.iter_mut().zip(numbers) {
        *place = whole((x - middle) * by) as i16;
    }
    let mut squares = 0i64;
    // A square is at most 16,383², and eight of them are below 2^31.
    for eight in places.chunks(8) {
        let mut sum = 0i32;
        for &x in eight {
            sum += i32::from(x) * i32::from(x);
        }
        squares += i64::from(sum);
    }
    squares
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::plain;
    use std::arch::x86_64::*;

    /// Whole numbers lie in another order than the numbers they are of, within each thirty-two: the order of a sum does not
    /// matter where it is exact.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn avx512(numbers: &[f32], middle: f32, by: f32, places: &mut [i16]) -> i64 {
        let (chunks, rest) = numbers.as_chunks::<32>();
        let (chunk_places, rest_places) = places.split_at_mut(chunks.len() * 32);
        let (middles, bys) = (_mm512_set1_ps(middle), _mm512_set1_ps(by));
        let mut all = _mm512_setzero_si512();
        let place_chunks = chunk_places.as_chunks_mut::<32>().0;
        // Eight squares in a lane, as above.
        for (chunks, places) in chunks.chunks(4).zip(place_chunks.chunks_mut(4)) {
            let mut sum = _mm512_setzero_si512();
            for (chunk, place) in chunks.iter().zip(places) {
                let half = |at: usize| {
                    // SAFETY: a chunk is as wide as two vectors.
                    let x = unsafe { _mm512_loadu_ps(chunk.as_ptr().add(at)) };
                    _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_sub_ps(x, middles), bys))
                };
                let both = _mm512_packs_epi32(half(0), half(16));
                sum = _mm512_add_epi32(sum, _mm512_madd_epi16(both, both));
                // SAFETY: a place is as wide as a vector.
                unsafe { _mm512_storeu_si512(place.as_mut_ptr().cast(), both) };
            }
            let (low, high) = (_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64::<1>(sum));
            all = _mm512_add_epi64(all, _mm512_cvtepi32_epi64(low));
            all = _mm512_add_epi64(all, _mm512_cvtepi32_epi64(high));
        }
        _mm512_reduce_add_epi64(all) + plain(rest, middle, by, rest_places)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::drawn;
    use super::*;

    /// All instructions give the same numbers within each thirty-two, and the same sums.
    #[test]
    fn levels_agree() {
        let numbers: Vec<f32> = drawn(301).into_iter().chain([1.0, -1.0]).collect();
        for count in [1, 2, 31, 32, 33, 127, 128, 129, 160, 303] {
            let numbers = &numbers[303 - count..];
            let of = |level: Level| {
                let mut places = vec![7i16; count.div_ceil(2) * 2];
                let squares = wholes(level, numbers, 0.25, LARGEST / 1.25, &mut places);
                places.chunks_mut(32).for_each(|chunk| chunk.sort_unstable());
                (squares.to_bits(), places)
            };
            let expected = of(Level::Base);
            let sum: i64 = expected.1.iter().map(|&x| i64::from(x).pow(2)).sum();
            assert_eq!(expected.0, (sum as f32).to_bits());
            assert_eq!(expected.1.iter().map(|x| x.unsigned_abs()).max(), Some(16_383));
            for &level in Level::ALL.iter().filter(|level| level.is_here()) {
                assert!(of(level) == expected, "{level:?} {count}");
            }
        }
    }
}
