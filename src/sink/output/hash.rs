//! The hash that the journal keeps of a file: xxh3 (64 bits) of each 4 MiB block, and xxh3 over the sequence of these,
//! each as 8 little-endian bytes. A hash of blocks can be taken by many threads, in any order and while the file is being
//! written; the block's size is a part of the format and does not change.
//!
//! It finds what a crash or a bad disk did to a file. It is not for telling friend from foe.

use crate::error::{Error, Result};
use crate::sink::file::read_exact_at;
use crate::text::grouped;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Bytes of a block; the last of a file has what is left.
pub const BLOCK_BYTES: u64 = 4 << 20;

/// A file's hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash(pub u64);

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Hash {
    /// Reads what [`fmt::Display`] wrote.
    pub fn parse(text: &str) -> Option<Hash> {
        let digits = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        digits.then(|| u64::from_str_radix(text, 16).ok().map(Hash)).flatten()
    }
}

/// The hash of one block's bytes.
pub fn block_hash(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// The hash of one block that comes in pieces.
#[derive(Default)]
pub struct BlockHash(Xxh3);

impl BlockHash {
    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The same as [`block_hash`] of all of them.
    pub fn finish(self) -> u64 {
        self.0.digest()
    }
}

/// The file's hash from those of its blocks, in order.
pub fn combine(blocks: &[u64]) -> Hash {
    let mut whole = Xxh3::new();
    blocks.iter().for_each(|block| whole.update(&block.to_le_bytes()));
    Hash(whole.digest())
}

/// How many blocks a file of so many bytes has.
pub fn block_count(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(BLOCK_BYTES)
}

/// The bytes of a block of a file of so many bytes; empty behind the last block.
pub fn block_range(size_bytes: u64, index: u64) -> Range<u64> {
    let start = index.saturating_mul(BLOCK_BYTES).min(size_bytes);
    start..start.saturating_add(BLOCK_BYTES).min(size_bytes)
}

/// The hash of one block, read from a file that has (at least) `size_bytes`; `buffer` may have any size but none.
///
/// # Errors
/// What reading gives; a file that is shorter.
pub fn hash_block(file: &File, size_bytes: u64, index: u64, buffer: &mut [u8]) -> Result<u64> {
    let range = block_range(size_bytes, index);
    let mut hash = Xxh3::new();
    let mut at = range.start;
    while at < range.end {
        let n = buffer.len().min(usize::try_from(range.end - at).unwrap_or(usize::MAX));
        let Some(piece) = buffer.get_mut(..n).filter(|piece| !piece.is_empty()) else {
            return Err(Error::bug("a hash was given no buffer"));
        };
        read_exact_at(file, piece, at).map_err(|e| Error::io("cannot be read back", e).at(at))?;
        hash.update(piece);
        at += n as u64;
    }
    Ok(hash.digest())
}

/// The hash of a whole file on this thread. Where there are threads, [`FileHash`] takes what each finds with
/// [`hash_block`].
///
/// # Errors
/// As [`hash_block`].
pub fn hash_file(file: &File, size_bytes: u64) -> Result<Hash> {
    /// Stays in a core's own cache between the read and the hash.
    const PIECE_BYTES: usize = 256 << 10;
    let mut buffer = vec![0; PIECE_BYTES.min(usize::try_from(size_bytes).unwrap_or(PIECE_BYTES))];
    let mut whole = Xxh3::new();
    for index in 0..block_count(size_bytes) {
        whole.update(&hash_block(file, size_bytes, index, &mut buffer)?.to_le_bytes());
    }
    Ok(Hash(whole.digest()))
}

/// A file's hash being put together from blocks that come in any order, from any thread.
#[derive(Debug)]
pub struct FileHash {
    size_bytes: u64,
    blocks: Mutex<Vec<Option<u64>>>,
}

impl FileHash {
    /// For a file of so many bytes.
    pub fn new(size_bytes: u64) -> FileHash {
        let count = usize::try_from(block_count(size_bytes)).unwrap_or(usize::MAX);
        FileHash { size_bytes, blocks: Mutex::new(vec![None; count]) }
    }

    /// The bytes of a block.
    pub fn range(&self, index: u64) -> Range<u64> {
        block_range(self.size_bytes, index)
    }

    /// How many blocks there are.
    pub fn block_count(&self) -> u64 {
        block_count(self.size_bytes)
    }

    /// Notes a block's hash.
    pub fn set(&self, index: u64, hash: u64) {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(block) = usize::try_from(index).ok().and_then(|index| blocks.get_mut(index)) {
            *block = Some(hash);
        }
    }

    /// The file's hash.
    ///
    /// # Errors
    /// A block that nobody noted: a bug of hoist.
    pub fn finish(self) -> Result<Hash> {
        let blocks = self.blocks.into_inner().unwrap_or_else(PoisonError::into_inner);
        let known: Vec<u64> = blocks.iter().map_while(|block| *block).collect();
        if known.len() < blocks.len() {
            return Err(Error::bug(format!(
                "block {} of {} was never hashed",
                grouped(known.len() as u64),
                grouped(blocks.len() as u64)
            )));
        }
        Ok(combine(&known))
    }
}
