//! The hash that the journal keeps of a file: xxh3 (64 bits) of each 16 KiB block, and xxh3 over the sequence of these,
//! each as 8 little-endian bytes. A hash of blocks can be taken by many threads, in any order and while the file is being
//! written. Blocks are small, so that nearly all of what is written contains whole ones and is hashed while it is at hand;
//! their size is a part of the format.
//!
//! It finds what a crash or a bad disk did to a file. It is not for telling friend from foe.

use crate::error::{Error, ErrorKind, Result};
use crate::sink::file::read_exact_at;
use crate::text::grouped;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Bytes of a block; the last of a file has what is left.
pub const BLOCK_BYTES: u64 = 16 << 10;

/// What is read back at once: it stays in a core's own cache between the read and the hash.
const PIECE_BYTES: u64 = 256 << 10;

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

/// The hash of one block's bytes; one where it would be zero, which stands for none.
pub fn block_hash(bytes: &[u8]) -> u64 {
    xxh3_64(bytes).max(1)
}

/// The file's hash from those of its blocks, in order.
pub fn combine(blocks: &[u64]) -> Hash {
    let mut whole = Xxh3::new();
    blocks.iter().for_each(|block| whole.update(&block.to_le_bytes()));
    Hash(whole.digest())
}

/// The hash of a whole file on this thread.
///
/// # Errors
/// What reading gives; a file that is shorter.
pub fn hash_file(file: &File, size_bytes: u64) -> Result<Hash> {
    let found = file.metadata().map_err(|e| Error::io("cannot be looked at", e))?.len();
    if found < size_bytes {
        let message = format!("has {} bytes, expected {}", grouped(found), grouped(size_bytes));
        return Err(Error::new(ErrorKind::Io, message));
    }
    let whole = FileHash::new(size_bytes);
    whole.read_back(0..size_bytes, &mut Vec::new(), &mut |piece, at| {
        read_exact_at(file, piece, at).map_err(|e| Error::io("cannot be read back", e).at(at))
    })?;
    whole.finish()
}

/// A file's hash being put together from what is written, in any order and by any thread.
#[derive(Debug)]
pub struct FileHash {
    size_bytes: u64,
    /// Zero where none is known.
    blocks: Mutex<Vec<u64>>,
}

impl FileHash {
    /// For a file of so many bytes.
    pub fn new(size_bytes: u64) -> FileHash {
        let count = usize::try_from(size_bytes.div_ceil(BLOCK_BYTES)).unwrap_or(usize::MAX);
        FileHash { size_bytes, blocks: Mutex::new(vec![0; count]) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u64>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks that lie whole in a range of the file's bytes.
    fn whole(&self, bytes: Range<u64>) -> Range<u64> {
        let is_end = bytes.end >= self.size_bytes;
        let end = if is_end { self.size_bytes.div_ceil(BLOCK_BYTES) } else { bytes.end / BLOCK_BYTES };
        bytes.start.div_ceil(BLOCK_BYTES)..end
    }

    /// Hashes the blocks that lie whole in bytes that were, or will be, written to this place and are not to change any more.
    pub fn note(&self, bytes: &[u8], offset_bytes: u64) {
        let end = offset_bytes.saturating_add(bytes.len() as u64);
        let blocks = self.whole(offset_bytes..end);
        let skip = usize::try_from(blocks.start * BLOCK_BYTES - offset_bytes).unwrap_or(usize::MAX);
        let Some(bytes) = bytes.get(skip..).filter(|_| !blocks.is_empty()) else { return };
        let hashes: Vec<u64> = bytes
            .chunks(BLOCK_BYTES as usize)
            .take((blocks.end - blocks.start) as usize)
            .map(block_hash)
            .collect();
        if let Some(place) = self.lock().get_mut(blocks.start as usize..blocks.end as usize) {
            place.copy_from_slice(&hashes);
        }
    }

    /// Runs of bytes of this range whose blocks nobody has hashed.
    fn missing(&self, bytes: Range<u64>) -> Vec<Range<u64>> {
        let of = self.whole(bytes);
        let known = self.lock();
        let mut runs: Vec<Range<u64>> = Vec::new();
        for block in of.filter(|&block| known.get(block as usize) == Some(&0)) {
            let (start, end) = (block * BLOCK_BYTES, ((block + 1) * BLOCK_BYTES).min(self.size_bytes));
            match runs.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => runs.push(start..end),
            }
        }
        runs
    }

    /// Reads what nobody has hashed of a range, of whose blocks only whole ones are looked at, and hashes it. `read` fills
    /// its piece from a place.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn read_back(
        &self,
        bytes: Range<u64>,
        buffer: &mut Vec<u8>,
        read: &mut dyn FnMut(&mut [u8], u64) -> Result<()>,
    ) -> Result<()> {
        for mut run in self.missing(bytes) {
            while !run.is_empty() {
                let size = (run.end - run.start).min(PIECE_BYTES) as usize;
                if buffer.len() < size {
                    buffer.resize(size, 0);
                }
                let piece = buffer.get_mut(..size).unwrap_or_default();
                read(piece, run.start)?;
                self.note(piece, run.start);
                run.start += size as u64;
            }
        }
        Ok(())
    }

    /// The file's hash.
    ///
    /// # Errors
    /// A block that nobody hashed: a bug of hoist.
    pub fn finish(&self) -> Result<Hash> {
        let blocks = std::mem::take(&mut *self.lock());
        match blocks.iter().position(|&block| block == 0) {
            Some(place) => Err(Error::bug(format!(
                "block {} of {} was never hashed",
                grouped(place as u64),
                grouped(blocks.len() as u64)
            ))),
            None => Ok(combine(&blocks)),
        }
    }
}
