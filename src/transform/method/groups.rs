//! The walk over the groups of a band.

use super::levels::{above, below};
use crate::transform::simd::Kernel;

/// What is stored for a group beside its codes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fitted {
    /// The scale, as stored.
    pub scale: f32,
    /// The zero point or bias, as stored; of no account where there is none.
    pub zero: f32,
}

/// A method on a grid: chooses scale, zero point and codes of one group.
pub(super) trait Fit {
    /// `weights` is empty, or says how much each number counts. As many codes as numbers; at least one.
    fn fit(&mut self, numbers: &[f32], weights: &[f32], codes: &mut [u8]) -> Fitted;
}

/// All groups of a band, one after the other.
pub(super) struct Walk<'a, F> {
    pub fit: F,
    pub numbers: &'a [f32],
    /// Of a row; not zero.
    pub columns: usize,
    pub group_rows: usize,
    pub group_columns: usize,
    /// `[columns]` or empty.
    pub weights: &'a [f32],
    pub codes: &'a mut [u8],
    pub scales: &'a mut [f32],
    /// As many as scales, or empty.
    pub zeros: &'a mut [f32],
}

impl<F: Fit> Kernel for Walk<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run(mut self) {
        let height = self.group_rows.saturating_mul(self.columns);
        let bands = self.numbers.chunks(height).zip(self.codes.chunks_mut(height));
        let mut at = 0;
        // A group of several rows is gathered, so that methods see one run of numbers.
        let (mut gathered, mut weights, mut codes_gathered) = (Vec::new(), Vec::new(), Vec::new());
        for (numbers, codes) in bands {
            let mut start = 0;
            while start < self.columns {
                let end = self.columns.min(start.saturating_add(self.group_columns));
                let weight = self.weights.get(start..end).unwrap_or(&[]);
                let fitted = if numbers.len() == self.columns {
                    self.fit.fit(&numbers[start..end], weight, &mut codes[start..end])
                } else {
                    gathered.clear();
                    weights.clear();
                    for row in numbers.chunks(self.columns) {
                        gathered.extend_from_slice(&row[start..end]);
                        weights.extend_from_slice(weight);
                    }
                    codes_gathered.resize(gathered.len(), 0);
                    let fitted = self.fit.fit(&gathered, &weights, &mut codes_gathered);
                    for (row, from) in codes.chunks_mut(self.columns).zip(codes_gathered.chunks(end - start))
                    {
                        row[start..end].copy_from_slice(from);
                    }
                    fitted
                };
                if let Some(scale) = self.scales.get_mut(at) {
                    *scale = fitted.scale;
                }
                if let Some(zero) = self.zeros.get_mut(at) {
                    *zero = fitted.zero;
                }
                at += 1;
                start = end;
            }
        }
    }
}

/// Lanes that a reduction over a group runs in.
const LANES: usize = 16;

/// The least and the largest number; a NaN is neither. Infinite the other way round where there is nothing.
#[inline(always)]
pub(super) fn extremes(numbers: &[f32]) -> (f32, f32) {
    let (mut low, mut high) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    let (chunks, rest) = numbers.as_chunks::<LANES>();
    for chunk in chunks {
        for l in 0..LANES {
            low[l] = below(chunk[l], low[l]);
            high[l] = above(chunk[l], high[l]);
        }
    }
    for (l, &x) in rest.iter().enumerate() {
        low[l] = below(x, low[l]);
        high[l] = above(x, high[l]);
    }
    let (mut least, mut largest) = (low[0], high[0]);
    for l in 1..LANES {
        least = below(low[l], least);
        largest = above(high[l], largest);
    }
    (least, largest)
}

/// The largest magnitude of a finite number; zero where there is none.
#[inline(always)]
pub(super) fn largest_finite(numbers: &[f32]) -> f32 {
    let mut most = [0f32; LANES];
    let (chunks, rest) = numbers.as_chunks::<LANES>();
    for chunk in chunks {
        for l in 0..LANES {
            let m = chunk[l].abs();
            let m = if m < f32::INFINITY { m } else { 0.0 };
            most[l] = above(m, most[l]);
        }
    }
    for (l, &x) in rest.iter().enumerate() {
        let m = if x.is_finite() { x.abs() } else { 0.0 };
        most[l] = above(m, most[l]);
    }
    let mut largest = most[0];
    for most in most {
        largest = above(most, largest);
    }
    largest
}
