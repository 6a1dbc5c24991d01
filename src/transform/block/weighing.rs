//! How much the error of each number counts: by the numbers alone, or by an importance of their columns too.

use super::fit::Turned;

/// The importance of a matrix' columns, and where in it numbers lie.
#[derive(Clone, Copy)]
pub(super) struct Importance<'a> {
    /// Of a row.
    pub columns: usize,
    /// Which element of the tensor the first number is.
    pub first: u64,
    /// Of each column.
    pub importance: &'a [f32],
}

impl Importance<'_> {
    /// The importance of the `to.len()` numbers from number `at` on. Columns that it lacks count as 1.
    pub(super) fn of(&self, at: usize, to: &mut [f32]) {
        let columns = self.columns.max(1);
        let place = self.first.wrapping_add(at as u64) % columns as u64;
        let mut column = place as usize;
        let mut rest = to;
        while !rest.is_empty() {
            let count = (columns - column).min(rest.len());
            let (run, after) = rest.split_at_mut(count);
            for (i, to) in run.iter_mut().enumerate() {
                *to = self.importance.get(column.saturating_add(i)).copied().unwrap_or(1.0);
            }
            (rest, column) = (after, 0);
        }
    }
}

/// The weights that the reference gives numbers where it has no importance.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Own {
    /// |x|.
    Magnitude,
    /// |x| and the root of the mean square of the sub-block.
    MeanAndMagnitude,
    /// x².
    Square,
}

impl Own {
    /// Of the numbers of `L` sub-blocks.
    #[inline(always)]
    pub(super) fn lanes<const N: usize, const L: usize>(self, x: &Turned<N, L>, w: &mut Turned<N, L>) {
        let (x, w) = (&x.0, &mut w.0);
        let mut mean = [0.0f32; L];
        if self == Own::MeanAndMagnitude {
            for x in x {
                for l in 0..L {
                    mean[l] += x[l] * x[l];
                }
            }
            for mean in &mut mean {
                *mean = (*mean / N as f32).sqrt();
            }
        }
        for (x, w) in x.iter().zip(w) {
            for l in 0..L {
                w[l] = if self == Own::Square { x[l] * x[l] } else { mean[l] + x[l].abs() };
            }
        }
    }

    /// Of the numbers of one.
    pub(super) fn one(self, x: &[f32], w: &mut [f32]) {
        let mean = match self {
            Own::MeanAndMagnitude => (x.iter().fold(0.0f32, |sum, &x| sum + x * x) / x.len() as f32).sqrt(),
            _ => 0.0,
        };
        for (&x, w) in x.iter().zip(w) {
            *w = if self == Own::Square { x * x } else { mean + x.abs() };
        }
    }
}
