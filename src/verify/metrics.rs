//! Figures: how far a candidate's numbers are from a reference's, and how well logits predict a text.
//!
//! A matrix of tokens × vocabulary may be larger than the models it came from, so none is ever needed: logits arrive in
//! bands of the vocabulary, in any order, and of each position only a few running sums are kept. Sums are f64, one
//! position's in the order in which its logits came, so that figures do not depend on the number of threads. When all
//! bands of a chunk of positions have been seen the chunk is closed ([`Compare::merge`], [`Compare::finish`]), and only
//! one number of each position remains.
//!
//! Sums of exponentials are kept relative to the largest logit so far, and rescaled when that grows: nothing overflows
//! however large logits are. (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018, arXiv:1805.02867;
//! the divergence's sum Σ eᵃ·(a − b) is rescaled alike.)

mod compare;
mod score;
mod spread;
mod vectors;

pub use compare::{Compare, Comparison, Greedy, NotFinite};
pub use score::{Perplexity, Score, Scored};
pub use spread::Spread;
pub use vectors::{Means, Vectors, vectors};

/// A running `ln Σ eˣ`, as the largest `x` and the sum of the exponentials relative to it.
#[derive(Debug, Clone, Copy)]
struct LogSum {
    max: f64,
    sum: f64,
}

impl LogSum {
    const NOTHING: LogSum = LogSum { max: f64::NEG_INFINITY, sum: 0.0 };

    /// Makes sums relative to `max`, where that is larger; returns what a sum relative to the old one is multiplied by.
    fn rise(&mut self, max: f64) -> f64 {
        if max <= self.max {
            return 1.0;
        }
        // From nothing this is e^−∞, which is 0.
        let factor = (self.max - max).exp();
        self.sum *= factor;
        self.max = max;
        factor
    }

    fn value(&self) -> f64 {
        self.max + self.sum.ln()
    }
}

/// Logits of a position that are looked at together: they stay in the nearest cache between the passes over them.
const BLOCK: usize = 1024;

/// The largest of a block, `None` where one of it is no finite number.
fn finite_max(block: &[f32]) -> Option<f32> {
    let mut max = f32::NEG_INFINITY;
    // Zero times what is not finite is NaN: one sum instead of a test for each.
    let mut odd = 0.0f32;
    for &x in block {
        max = max.max(x);
        odd += x * 0.0;
    }
    (odd == 0.0).then_some(max)
}
