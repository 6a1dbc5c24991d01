//! From products of queries and keys to weights of values: scaled, capped, hidden where a token must not look, softmax.

use crate::transform::arch::forward::{Attention, Temperature, Window};
use crate::verify::kernels;
use candle_core::{D, DType, Device, Result, Tensor};
use std::ops::Range;

/// Which positions a block of queries and keys stands at, and what may be seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    /// Whether a token sees only itself and those before it.
    pub(super) causal: bool,
    /// What of the rest is seen.
    pub(super) window: Option<Window>,
    /// Position of the first query.
    pub(super) query: usize,
    /// Position of the first key.
    pub(super) key: usize,
    /// How many keys there are.
    pub(super) keys: usize,
}

impl View {
    /// The keys that the query at a position sees, counted from the first key there is. What one query sees ends nowhere
    /// before what an earlier one sees, and begins nowhere before it.
    pub(super) fn seen(&self, position: usize) -> Range<usize> {
        let mut from = 0;
        let mut to = if self.causal { position.saturating_add(1) } else { usize::MAX };
        match self.window {
            None => {}
            Some(Window::Sliding(n)) => from = position.saturating_add(1).saturating_sub(n),
            Some(Window::Chunked(n)) => {
                from = position - position % n.max(1);
                to = to.min(from.saturating_add(n));
            }
            Some(Window::Around(n)) => {
                from = position.saturating_sub(n);
                to = to.min(position.saturating_add(n).saturating_add(1));
            }
        }
        let place = |at: usize| at.saturating_sub(self.key).min(self.keys);
        let to = place(to);
        place(from).min(to)..to
    }
}

/// What is done to a block of scores `[batch · kv, queries · group, keys]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scores<'a> {
    /// Scale, cap, temperature.
    pub(super) attention: &'a Attention,
    /// Who sees whom.
    pub(super) view: View,
    /// Key/value heads.
    pub(super) kv: usize,
    /// Query heads for each of them.
    pub(super) group: usize,
    /// Logits of the sinks `[heads]`, in 32 bits.
    pub(super) sinks: Option<&'a Tensor>,
    /// 1 where a key is a token, `[batch, keys]` of u8.
    pub(super) padding: Option<&'a Tensor>,
}

/// What the query at a position is multiplied by.
fn temperature(t: &Temperature, position: usize) -> f32 {
    (((position as f32 + 1.0) / t.floor_scale).floor().ln_1p()) * t.scale + 1.0
}

impl Scores<'_> {
    /// The weights: 0 for what is not seen, and a row of zeros for a query that sees nothing. `scores` is used up.
    pub(super) fn softmax(&self, scores: Tensor) -> Result<Tensor> {
        if kernels::takes(&scores) {
            self.fast(&scores)?;
            Ok(scores)
        } else {
            self.slow(&scores)
        }
    }

    fn scale(&self, position: usize) -> f32 {
        let scale = self.attention.scale;
        self.attention.temperature.as_ref().map_or(scale, |t| scale * temperature(t, position))
    }

    fn fast(&self, scores: &Tensor) -> Result<()> {
        let (_, rows, keys) = scores.dims3()?;
        let sinks = self.sinks.map(|t| t.to_vec1::<f32>()).transpose()?;
        let padding = self.padding.map(|t| t.flatten_all()?.to_vec1::<u8>()).transpose()?;
        kernels::change(scores, |all| {
            kernels::each_row(all, keys, 8, |at, row| {
                let (outer, inner) = (at / rows, at % rows);
                let position = self.view.query + inner / self.group;
                let seen = self.view.seen(position);
                row[..seen.start].fill(0.0);
                row[seen.end..].fill(0.0);
                let head = outer % self.kv * self.group + inner % self.group;
                let sink = sinks.as_ref().map(|s| s[head]);
                let tokens = padding.as_ref().map(|p| &p[outer / self.kv * keys..][seen.clone()]);
                one(&mut row[seen], self.scale(position), self.attention.soft_cap, sink, tokens);
            });
        })
    }

    /// In candle's operations.
    fn slow(&self, scores: &Tensor) -> Result<Tensor> {
        let (outer, rows, keys) = scores.dims3()?;
        let (batch, queries, device) = (outer / self.kv, rows / self.group, scores.device());
        let scale: Vec<f32> = (0..queries).map(|i| self.scale(self.view.query + i)).collect();
        let scale = Tensor::from_vec(scale, (queries, 1, 1), &Device::Cpu)?.to_device(device)?;
        let mut x = scores.reshape((batch, self.kv, queries, self.group, keys))?.broadcast_mul(&scale)?;
        if let Some(cap) = self.attention.soft_cap {
            x = ((x / f64::from(cap))?.tanh()? * f64::from(cap))?;
        }
        let mut mask = vec![0u8; queries * keys];
        for (i, row) in mask.chunks_exact_mut(keys.max(1)).enumerate() {
            row[self.view.seen(self.view.query + i)].fill(1);
        }
        let mut mask = Tensor::from_vec(mask, (1, 1, queries, 1, keys), &Device::Cpu)?.to_device(device)?;
        if let Some(padding) = self.padding {
            mask = mask.broadcast_mul(&padding.reshape((batch, 1, 1, 1, keys))?)?;
        }
        let mask = mask.broadcast_as(x.shape())?;
        // Not minus infinity, which in a row of nothing else gives NaN; small enough to vanish beside any score, and a row
        // of nothing else is zeroed below.
        let hidden = Tensor::full(-1e30f32, x.shape(), device)?;
        x = mask.where_cond(&x, &hidden)?;
        if let Some(sinks) = self.sinks {
            let column = sinks.reshape((1, self.kv, 1, self.group, 1))?;
            let column = column.broadcast_as((batch, self.kv, queries, self.group, 1))?;
            x = Tensor::cat(&[&x, &column.contiguous()?], D::Minus1)?;
        }
        let weights = candle_nn::ops::softmax(&x, D::Minus1)?.narrow(D::Minus1, 0, keys)?;
        (weights * mask.to_dtype(DType::F32)?)?.reshape((outer, rows, keys))
    }
}

/// One row of keys that are seen by their place, less those that are no tokens.
#[inline]
fn one(row: &mut [f32], scale: f32, cap: Option<f32>, sink: Option<f32>, tokens: Option<&[u8]>) {
    match cap {
        None => row.iter_mut().for_each(|x| *x *= scale),
        Some(cap) => {
            let inner = scale / cap;
            row.iter_mut().for_each(|x| *x = kernels::tanh(*x * inner) * cap);
        }
    }
    if let Some(tokens) = tokens {
        if tokens.iter().all(|&t| t == 0) {
            return row.fill(0.0);
        }
        for (x, &token) in row.iter_mut().zip(tokens) {
            *x = if token == 0 { f32::NEG_INFINITY } else { *x };
        }
    }
    let mut lanes = [f32::NEG_INFINITY; kernels::LANES];
    let mut chunks = row.chunks_exact(kernels::LANES);
    for chunk in &mut chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    let rest = chunks.remainder().iter().chain(&lanes).chain(&sink);
    // Infinity less infinity is NaN, which is what a score that overflowed must come out as; a NaN stays one.
    let largest = rest.copied().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
    for x in row.iter_mut() {
        let difference = *x - largest;
        // The exponential's range ends before that of the difference does.
        *x = if difference < -87.0 { 0.0 } else { kernels::exp(difference) };
    }
    let sum = kernels::sum_over(row, |x| x) + sink.map_or(0.0, |s| (s - largest).exp());
    let factor = 1.0 / sum;
    row.iter_mut().for_each(|x| *x *= factor);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::arch::forward::{HeadNorm, Projections};

    #[test]
    fn what_is_seen() {
        type Row = (bool, Option<Window>, usize, usize, usize, Range<usize>);
        let table: &[Row] = &[
            (true, None, 3, 0, 8, 0..4),
            (false, None, 3, 0, 8, 0..8),
            (true, Some(Window::Sliding(1)), 3, 0, 8, 3..4),
            (true, Some(Window::Sliding(3)), 3, 0, 8, 1..4),
            (true, Some(Window::Sliding(3)), 6, 4, 3, 0..3),
            (true, Some(Window::Sliding(3)), 9, 4, 4, 3..4),
            (true, Some(Window::Sliding(0)), 3, 0, 8, 4..4),
            (true, Some(Window::Chunked(4)), 3, 0, 8, 0..4),
            (true, Some(Window::Chunked(4)), 6, 0, 8, 4..7),
            (false, Some(Window::Chunked(4)), 6, 0, 20, 4..8),
            (true, Some(Window::Chunked(0)), 6, 0, 20, 6..6),
            (false, Some(Window::Around(2)), 5, 0, 20, 3..8),
            (false, Some(Window::Around(2)), 1, 0, 3, 0..3),
            (true, Some(Window::Around(2)), 5, 0, 20, 3..6),
            (true, None, usize::MAX, 0, 5, 0..5),
        ];
        for (causal, window, position, key, keys, expected) in table.iter().cloned() {
            let view = View { causal, window, query: 0, key, keys };
            assert_eq!(view.seen(position), expected, "{view:?} at {position}");
        }
    }

    #[test]
    fn fast_as_slow() {
        let dev = Device::Cpu;
        let base = Attention {
            heads: 6,
            kv_heads: 2,
            key_dim: 8,
            value_dim: 8,
            projections: Projections::Separate,
            scale: 0.7,
            soft_cap: None,
            window: None,
            rope: None,
            head_norm: HeadNorm::None,
            sinks: false,
            temperature: None,
        };
        let capped = Attention { soft_cap: Some(1.5), ..base.clone() };
        let warm =
            Attention { temperature: Some(Temperature { floor_scale: 4.0, scale: 0.5 }), ..base.clone() };
        let sinks = Tensor::randn(0f32, 1.0, 6, &dev).unwrap();
        let (batch, queries, keys) = (2, 19, 23);
        let mut tokens = vec![1u8; batch * keys];
        tokens[keys - 5..keys].fill(0);
        tokens[keys..].fill(0);
        let tokens = Tensor::from_vec(tokens, (batch, keys), &dev).unwrap();
        for attention in [&base, &capped, &warm] {
            for window in [None, Some(Window::Sliding(5)), Some(Window::Chunked(6)), Some(Window::Around(3))]
            {
                for causal in [true, false] {
                    for (sinks, padding) in
                        [(None, None), (Some(&sinks), None), (Some(&sinks), Some(&tokens))]
                    {
                        let view = View { causal, window, query: 4, key: 0, keys };
                        let block = Scores { attention, view, kv: 2, group: 3, sinks, padding };
                        let x = Tensor::randn(0f32, 3.0, (batch * 2, queries * 3, keys), &dev).unwrap();
                        let slow = block.slow(&x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                        block.fast(&x).unwrap();
                        let fast = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                        for (a, b) in fast.iter().zip(&slow) {
                            assert!((a - b).abs() < 2e-6, "{a} {b}, {block:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_is_hidden() {
        let dev = Device::Cpu;
        for bad in [f32::NAN, f32::INFINITY] {
            for at in 0..40 {
                let mut row: Vec<f32> = (0..40).map(|i| i as f32).collect();
                row[at] = bad;
                one(&mut row, 1.0, None, None, None);
                assert!(row.iter().any(|x| x.is_nan()), "{bad} at {at}");
            }
        }
        let mut row = [f32::NEG_INFINITY; 20];
        one(&mut row, 1.0, None, None, None);
        assert!(row[0].is_nan());
        let _ = dev;
    }
}
