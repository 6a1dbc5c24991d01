//! Tensors that a copy of rows cannot make: strided views, the other byte order, lazy conjugation and negation.
//!
//! The output is cut into blocks that lie in one run; for each, the elements are read from wherever they lie. Where
//! they lie close together that is one read with some waste, where they are far apart one read for each dense stretch.

use super::{Dest, Kernel, Put, Read, Unit};
use crate::checkpoint::FileId;
use crate::dtype::DType;
use crate::transform::cast::Fix;
use std::ops::Range;

/// A block may read this many times the bytes it yields before it is read in stretches.
const WASTE_MAX: u64 = 4;

#[derive(Debug, Clone)]
pub(super) struct Gather {
    pub(super) file: FileId,
    pub(super) offset_bytes: u64,
    /// Sizes and strides in blocks of the dtype.
    pub(super) shape: Vec<u64>,
    pub(super) strides: Vec<u64>,
    pub(super) dtype: DType,
    pub(super) swap: bool,
    pub(super) conj: bool,
    pub(super) neg: bool,
    pub(super) kernel: Kernel,
    pub(super) to: Dest,
    pub(super) chunk_bytes: u64,
}

impl Gather {
    fn block_bytes(&self) -> u64 {
        u64::from(self.dtype.facts().block_bytes)
    }

    /// Bytes of the output before the kernel: what the reads are worth.
    pub(super) fn source_bytes(&self) -> u64 {
        self.shape.iter().product::<u64>() * self.block_bytes()
    }

    /// From the first element to the last.
    pub(super) fn source_range(&self) -> Range<u64> {
        self.offset_bytes..self.offset_bytes + extent(&self.shape, &self.strides) * self.block_bytes()
    }

    /// The dimension that is cut, the step it is cut in, and the elements inside one step of one.
    fn cut(&self) -> (usize, u64, u64) {
        // A cast to a wider type must fit a slot too.
        let grown = self.kernel.output_bytes(self.block_bytes()).max(self.block_bytes());
        let fits = (self.chunk_bytes / grown).max(1);
        let mut inner = 1u64;
        for dim in (0..self.shape.len()).rev() {
            let n = self.shape[dim];
            if inner.saturating_mul(n) > fits {
                return (dim, (fits / inner).max(1), inner);
            }
            inner *= n;
        }
        (0, self.shape.first().copied().unwrap_or(1), inner / self.shape.first().copied().unwrap_or(1).max(1))
    }

    /// The block of this number, or `None` past the last.
    pub(super) fn unit(&self, block: u64) -> Option<Unit> {
        let (dim, step, inner) = self.cut();
        let size = self.shape.get(dim).copied().unwrap_or(1);
        let steps = size.div_ceil(step);
        let outer: u64 = self.shape.iter().take(dim).product();
        if block >= steps.checked_mul(outer)? {
            return None;
        }
        let at = block % steps * step;
        let count = step.min(size - at);
        let mut place = at * self.strides.get(dim).copied().unwrap_or(0);
        let mut rest = block / steps;
        for d in (0..dim).rev() {
            place += rest % self.shape[d] * self.strides[d];
            rest /= self.shape[d];
        }
        let mut shape = vec![count];
        shape.extend(self.shape.iter().skip(dim + 1));
        let mut strides = vec![self.strides.get(dim).copied().unwrap_or(1)];
        strides.extend(self.strides.iter().skip(dim + 1));
        let (reads, strides) = self.reads(place, &shape, &strides);
        let first = (block / steps * size + at) * inner * self.block_bytes();
        let row_bytes = count * inner * self.block_bytes();
        let output_bytes = self.kernel.output_bytes(row_bytes);
        let to = Dest {
            offset_bytes: self.to.offset_bytes + self.kernel.output_bytes(first),
            pitch_bytes: output_bytes,
            ..self.to
        };
        let put =
            Put { from_bytes: 0, row_bytes, pitch_bytes: row_bytes, row_count: 1, kernel: self.kernel, to };
        let fix = Fix { dtype: self.dtype, shape, strides, swap: self.swap, conj: self.conj, neg: self.neg };
        Some(Unit { file: self.file, reads, fix: Some(fix), puts: vec![put] })
    }

    /// The reads for a block, and its strides in the bytes they bring.
    fn reads(&self, place: u64, shape: &[u64], strides: &[u64]) -> (Vec<Read>, Vec<u64>) {
        let width = self.block_bytes();
        let mut order: Vec<usize> = (0..shape.len()).collect();
        order.sort_by_key(|&d| std::cmp::Reverse(strides[d]));
        // The outermost dimensions are read stretch by stretch until what is left is dense enough.
        let dense = (0..order.len()).find(|&k| {
            let inner = |v: &[u64]| order[k..].iter().map(|&d| v[d]).collect::<Vec<_>>();
            let wanted: u64 =
                inner(shape).iter().zip(inner(strides)).filter(|(_, s)| *s > 0).map(|(n, _)| n).product();
            extent(&inner(shape), &inner(strides)) <= wanted.saturating_mul(WASTE_MAX)
        });
        let split = dense.unwrap_or(order.len());
        let inner_shape: Vec<u64> = order[split..].iter().map(|&d| shape[d]).collect();
        let inner_strides: Vec<u64> = order[split..].iter().map(|&d| strides[d]).collect();
        let stretch = extent(&inner_shape, &inner_strides);
        let mut packed = strides.to_vec();
        let mut count = 1;
        for &d in order[..split].iter().rev() {
            packed[d] = stretch * count;
            count *= shape[d];
        }
        let reads = (0..count)
            .map(|n| {
                let mut rest = n;
                let mut at = place;
                for &d in order[..split].iter().rev() {
                    at += rest % shape[d] * strides[d];
                    rest /= shape[d];
                }
                Read { offset_bytes: self.offset_bytes + at * width, size_bytes: stretch * width }
            })
            .collect();
        (reads, packed)
    }
}

/// Blocks from the first to the end of the last; the table checked that this fits the file.
fn extent(shape: &[u64], strides: &[u64]) -> u64 {
    shape.iter().zip(strides).map(|(n, s)| (n - 1) * s).sum::<u64>() + 1
}
