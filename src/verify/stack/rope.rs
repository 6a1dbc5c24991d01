//! Rotary embeddings, and the layout in which attention multiplies.
//!
//! A projection gives each token's heads side by side; attention wants each key/value head's rows together. Moving them is
//! a pass over memory anyway, so that is where pairs are rotated.

use crate::error::{Error, Result};
use crate::transform::arch::forward::{Pairs, Rope};
use crate::verify::candle;
use crate::verify::kernels;
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;

/// Cosine and sine for consecutive positions, both `[positions, pairs]`, in 32 bits.
#[derive(Debug)]
pub(super) struct Table {
    cos: Tensor,
    sin: Tensor,
    pairs: Pairs,
}

impl Table {
    /// For positions `first..first + count` of a sequence that ends there. The product of position and frequency is
    /// rounded to 32 bits before the cosine is taken, as every implementation does it.
    pub(super) fn new(rope: &Rope, first: usize, count: usize, device: &Device) -> Result<Arc<Table>> {
        let frequencies = match &rope.long {
            Some((longest, long)) if first.saturating_add(count) > *longest => long,
            _ => &rope.inverse_frequencies,
        };
        let size = count.saturating_mul(frequencies.len());
        let (mut cos, mut sin) = (Vec::with_capacity(size), Vec::with_capacity(size));
        for position in first..first.saturating_add(count) {
            for &frequency in frequencies {
                let (s, c) = (position as f32 * frequency).sin_cos();
                cos.push(c * rope.scale);
                sin.push(s * rope.scale);
            }
        }
        let tensor = |v| {
            Tensor::from_vec(v, (count, frequencies.len()), &Device::Cpu).and_then(|t| t.to_device(device))
        };
        let (cos, sin) = (tensor(cos).map_err(candle)?, tensor(sin).map_err(candle)?);
        Ok(Arc::new(Table { cos, sin, pairs: rope.pairs }))
    }

    fn pair_count(&self) -> usize {
        self.cos.dims().last().copied().unwrap_or(0)
    }
}

/// How heads lie in a projection's output.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    /// Key/value heads.
    pub(super) kv: usize,
    /// Heads for each of them: 1 for keys and values.
    pub(super) group: usize,
    /// Elements of a head.
    pub(super) dim: usize,
    /// The first element of a head that is rotated.
    pub(super) first: usize,
}

/// `x` `[b, n, kv · group · dim]`, each head's pairs rotated where there is a table, as `[b · kv, n · group, dim]` in 32
/// bits: the rows that meet the same keys together, those of one position side by side, so that any range of positions is
/// a view.
pub(super) fn lay_out(x: &Tensor, heads: Heads, table: Option<&Table>) -> Result<Tensor> {
    if let Some(table) = table
        && table.pair_count().saturating_mul(2).saturating_add(heads.first) > heads.dim
    {
        return Err(Error::bad_input(format!(
            "the rotary embedding has {} pairs, more than fit into a head of {}",
            table.pair_count(),
            heads.dim
        )));
    }
    let run = || -> candle_core::Result<Tensor> {
        let wide = x.to_dtype(DType::F32)?;
        if kernels::takes(&wide) { fast(&wide, heads, table) } else { slow(&wide, heads, table) }
    };
    run().map_err(candle)
}

/// In candle's operations.
fn slow(x: &Tensor, heads: Heads, table: Option<&Table>) -> candle_core::Result<Tensor> {
    let (b, n, _) = x.dims3()?;
    let Heads { kv, group, dim, first } = heads;
    let mut x = x.contiguous()?.reshape((b, n, kv * group, dim))?.transpose(1, 2)?.contiguous()?;
    if let Some(table) = table {
        let rotated = 2 * table.pair_count();
        let part = x.narrow(3, first, rotated)?.contiguous()?;
        let part = match table.pairs {
            Pairs::Halves => candle_nn::rotary_emb::rope(&part, &table.cos, &table.sin)?,
            Pairs::Neighbours => candle_nn::rotary_emb::rope_i(&part, &table.cos, &table.sin)?,
        };
        let rest = first + rotated;
        x = Tensor::cat(&[&x.narrow(3, 0, first)?, &part, &x.narrow(3, rest, dim - rest)?], 3)?;
    }
    x.reshape((b * kv, group, n, dim))?.transpose(1, 2)?.contiguous()?.reshape((b * kv, n * group, dim))
}

fn fast(x: &Tensor, heads: Heads, table: Option<&Table>) -> candle_core::Result<Tensor> {
    let (b, n, width) = x.dims3()?;
    let Heads { kv, group, dim, first } = heads;
    let block = group * dim;
    if width != kv * block {
        candle_core::bail!("{width} elements for {kv} times {group} heads of {dim}");
    }
    let x = if x.stride().last() == Some(&1) { x.clone() } else { x.contiguous()? };
    let mut out = vec![0f32; b * n * width];
    kernels::read_strided(&x, |x, stride| {
        let source = |row: usize| {
            let (head, position) = (row / n, row % n);
            let from = head / kv * stride[0] + position * stride[1] + head % kv * block;
            &x[from..from + block]
        };
        let Some(table) = table else {
            kernels::each_row(&mut out, block, 1, |row, to| to.copy_from_slice(source(row)));
            return Ok(());
        };
        kernels::read(&table.cos, |cos| {
            kernels::read(&table.sin, |sin| {
                let pairs = table.pair_count();
                kernels::each_row(&mut out, block, 4, |row, to| {
                    let at = row % n * pairs;
                    let (cos, sin) = (&cos[at..at + pairs], &sin[at..at + pairs]);
                    for (from, to) in source(row).chunks_exact(dim).zip(to.chunks_exact_mut(dim)) {
                        to.copy_from_slice(from);
                        rotate(&mut to[first..first + 2 * pairs], cos, sin, table.pairs);
                    }
                });
                Ok(())
            })
        })
    })?;
    Tensor::from_vec(out, (b * kv, n * group, dim), &Device::Cpu)
}

/// Rotates the pairs of one head.
#[inline]
fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32], pairs: Pairs) {
    match pairs {
        Pairs::Halves => {
            let (left, right) = head.split_at_mut(cos.len());
            for (((a, b), &c), &s) in left.iter_mut().zip(right).zip(cos).zip(sin) {
                (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
            }
        }
        Pairs::Neighbours => {
            for ((pair, &c), &s) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
                let (a, b) = (pair[0], pair[1]);
                pair[0] = a * c - b * s;
                pair[1] = a * s + b * c;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_as_slow() {
        let dev = Device::Cpu;
        for pairs in [Pairs::Halves, Pairs::Neighbours] {
            for (b, n, kv, group, dim, first, rotated) in
                [(1, 1, 1, 1, 8, 0, 8), (2, 5, 2, 3, 8, 0, 4), (3, 4, 2, 2, 12, 4, 8), (1, 9, 1, 4, 6, 2, 2)]
            {
                let rope = Rope {
                    inverse_frequencies: (0..rotated / 2).map(|i| 0.3f32.powi(i)).collect(),
                    long: None,
                    scale: 1.5,
                    pairs,
                };
                let table = Table::new(&rope, 7, n, &dev).unwrap();
                let heads = Heads { kv, group, dim, first };
                // A view, as that of queries within a fused projection.
                let all = Tensor::randn(0f32, 1.0, (b, n, kv * group * dim + 5), &dev).unwrap();
                let x = all.narrow(2, 3, kv * group * dim).unwrap();
                for table in [None, Some(&*table)] {
                    let fast =
                        fast(&x, heads, table).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                    let slow =
                        slow(&x, heads, table).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                    assert!(fast.iter().zip(&slow).all(|(a, b)| (a - b).abs() < 1e-6), "{pairs:?} {heads:?}");
                }
            }
        }
    }
}
