//! A digest of loaded tensors that other loaders can compute too: for comparing what different programs put into
//! memory, not for security.
//!
//! Each tensor's bytes, padded with zeros to whole 64-bit little-endian words, are cut into blocks of 2^20 words. A
//! block's sum is Σ wordᵢ·(i+1) modulo 2^64, i counting within the block; the blocks fold as s ← s·1000003 + sum. The
//! digest is the first 16 hex digits of SHA-256 over one line a tensor, sorted by name: `name|dtype|shape|s`, dtype and
//! shape as Python prints torch's. Sums can be taken piece by piece in any order, which is why this can run while
//! tensors are read back.

use crate::dtype::DType;
use sha2::{Digest as _, Sha256};
use std::sync::atomic::{AtomicU64, Ordering};

const BLOCK_WORDS: u64 = 1 << 20;
const BLOCK_BYTES: u64 = BLOCK_WORDS * 8;

/// The sums of one tensor's blocks, filled from any thread.
#[derive(Debug)]
pub(super) struct Sums(Vec<AtomicU64>);

impl Sums {
    pub(super) fn new(size_bytes: u64) -> Sums {
        Sums((0..size_bytes.div_ceil(BLOCK_BYTES)).map(|_| AtomicU64::new(0)).collect())
    }

    /// Adds bytes that lie at `offset_bytes` of the tensor. Every byte must be added once.
    pub(super) fn add(&self, mut offset_bytes: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let in_block = offset_bytes % BLOCK_BYTES;
            let count = usize::try_from(BLOCK_BYTES - in_block).unwrap_or(bytes.len()).min(bytes.len());
            let (now, later) = bytes.split_at(count);
            if let Some(sum) = self.0.get(usize::try_from(offset_bytes / BLOCK_BYTES).unwrap_or(usize::MAX)) {
                sum.fetch_add(block_sum(in_block, now), Ordering::Relaxed);
            }
            offset_bytes += count as u64;
            bytes = later;
        }
    }

    fn folded(&self) -> u64 {
        self.0.iter().fold(0u64, |s, b| s.wrapping_mul(1_000_003).wrapping_add(b.load(Ordering::Relaxed)))
    }
}

/// The share of some bytes of a block in its sum. A word is the sum of its bytes in their places, so a piece may begin
/// and end inside one.
fn block_sum(at: u64, bytes: &[u8]) -> u64 {
    let single = |sum: u64, (place, &byte): (u64, &u8)| {
        sum.wrapping_add((u64::from(byte) << (8 * (place % 8))).wrapping_mul(place / 8 + 1))
    };
    let head = usize::try_from((8 - at % 8) % 8).unwrap_or(0).min(bytes.len());
    let (head, rest) = bytes.split_at(head);
    let (words, tail) = rest.as_chunks::<8>();
    let sum = (at..).zip(head).fold(0, single);
    let first = at + head.len() as u64;
    let weights = first / 8 + 1..;
    let sum =
        weights.zip(words).fold(sum, |s, (n, w)| s.wrapping_add(u64::from_le_bytes(*w).wrapping_mul(n)));
    (first + words.len() as u64 * 8..).zip(tail).fold(sum, single)
}

/// The digest of a model: names must be sorted.
pub(super) fn digest<'a>(tensors: impl Iterator<Item = (&'a str, DType, &'a [u64], &'a Sums)>) -> String {
    let mut hash = Sha256::new();
    for (name, dtype, shape, sums) in tensors {
        let dtype = match dtype.facts().torch {
            Some(torch) => format!("torch.{torch}"),
            None => format!("ggml.{}", dtype.name()),
        };
        let shape = match shape {
            [one] => format!("({one},)"),
            many => format!("({})", many.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")),
        };
        hash.update(format!("{name}|{dtype}|{shape}|{}\n", sums.folded()));
    }
    hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_in_any_order_give_the_same_sum() {
        let bytes: Vec<u8> = (0..8_400_013u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let whole = Sums::new(bytes.len() as u64);
        whole.add(0, &bytes);
        let pieces = Sums::new(bytes.len() as u64);
        let mut cuts: Vec<usize> = vec![0, 1, 7, 8, 4096, 8_388_607, 8_388_608, 8_388_611, bytes.len()];
        cuts.dedup();
        for pair in cuts.windows(2).rev() {
            pieces.add(pair[0] as u64, &bytes[pair[0]..pair[1]]);
        }
        assert_eq!(whole.folded(), pieces.folded());
        let naive = bytes.chunks(8 << 20).fold(0u64, |s, block| {
            let sum = block.chunks(8).zip(1u64..).fold(0u64, |sum, (w, n)| {
                let mut word = [0; 8];
                word[..w.len()].copy_from_slice(w);
                sum.wrapping_add(u64::from_le_bytes(word).wrapping_mul(n))
            });
            s.wrapping_mul(1_000_003).wrapping_add(sum)
        });
        assert_eq!(whole.folded(), naive);
    }
}
