//! Formats: bytes in, header or wishes out. No file, socket or thread is known here.
//!
//! A parser is a pure function of what is [`Known`] of a file. It returns the header, or the ranges it still needs,
//! all at once; whoever holds the file reads them and calls again. So one parser serves `pread`, HTTP ranges, tests that
//! feed one byte at a time, and fuzzers. Everything read is hostile until checked.

mod detect;
pub mod gguf;
pub mod imatrix;
pub mod layout;
pub mod safetensors;
pub mod shards;
pub mod torch;

use crate::checkpoint::{Container, Part};
use crate::error::{Error, Result};
use crate::text::grouped;
use std::collections::BTreeMap;
use std::ops::Range;

/// A header, or the ranges that are still needed for it.
#[derive(Debug)]
pub enum Step<T> {
    /// Parsed.
    Done(T),
    /// These bytes are missing; all of them lie inside the file and none is empty.
    Need(Vec<Range<u64>>),
}

impl<T> Step<T> {
    /// One range is missing.
    pub fn need(range: Range<u64>) -> Step<T> {
        Step::Need(std::iter::once(range).collect())
    }
}

/// The most bytes that any header may take: what is kept of a file in memory while it is parsed.
pub const HEADER_BYTES_MAX: u64 = 256 << 20;

/// What is known of a file: its size, and the bytes read so far.
#[derive(Debug, Default)]
pub struct Known {
    size_bytes: u64,
    pieces: BTreeMap<u64, Vec<u8>>,
    held_bytes: u64,
}

impl Known {
    /// Nothing but the size.
    pub fn of_size(size_bytes: u64) -> Known {
        Known { size_bytes, ..Known::default() }
    }

    /// A whole file.
    pub fn whole(bytes: &[u8]) -> Known {
        let mut known = Known::of_size(bytes.len() as u64);
        known.add(0, bytes.to_vec());
        known
    }

    /// The file's size.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Bytes held so far.
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// Takes bytes read at `offset`. Pieces that touch are joined.
    pub fn add(&mut self, offset: u64, bytes: Vec<u8>) {
        self.held_bytes += bytes.len() as u64;
        if let Some((&start, piece)) = self.pieces.range_mut(..=offset).next_back() {
            let end = start + piece.len() as u64;
            if end == offset {
                piece.extend_from_slice(&bytes);
                return;
            }
            if offset + bytes.len() as u64 <= end {
                return;
            }
        }
        self.pieces.insert(offset, bytes);
    }

    /// The bytes of a range, if all of them are known.
    pub fn get(&self, range: Range<u64>) -> Option<&[u8]> {
        if range.start >= range.end {
            return Some(&[]);
        }
        let (&start, piece) = self.pieces.range(..=range.start).next_back()?;
        let from = usize::try_from(range.start - start).ok()?;
        let to = usize::try_from(range.end - start).ok()?;
        piece.get(from..to)
    }

    /// The unbroken run of known bytes from `offset` on; empty where nothing is known there.
    pub fn from(&self, offset: u64) -> &[u8] {
        let Some((&start, piece)) = self.pieces.range(..=offset).next_back() else { return &[] };
        usize::try_from(offset - start).ok().and_then(|skip| piece.get(skip..)).unwrap_or(&[])
    }

    /// The bytes of a range, or the wish for it. A range beyond the file is an error that calls it `what`.
    pub fn want(&self, range: Range<u64>, what: &str) -> Result<std::result::Result<&[u8], Range<u64>>> {
        if range.end > self.size_bytes || range.start > range.end {
            let message = format!(
                "{what} ends at byte {} but the file has {}",
                grouped(range.end),
                grouped(self.size_bytes)
            );
            return Err(Error::bad_input(message)
                .at(range.start)
                .detail("the file was probably cut short, or its header is damaged"));
        }
        if range.end - range.start > HEADER_BYTES_MAX {
            return Err(Error::unsupported(format!(
                "{what} takes {} bytes; hoist reads headers up to {}",
                grouped(range.end - range.start),
                grouped(HEADER_BYTES_MAX)
            ))
            .at(range.start));
        }
        Ok(self.get(range.clone()).ok_or(range))
    }
}

/// What a file's first bytes (and its length) say it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detected {
    /// safetensors.
    Safetensors,
    /// PyTorch's zip form.
    TorchZip,
    /// PyTorch's stream of pickles, before 1.6.
    TorchLegacy,
    /// GGUF.
    Gguf,
}

impl Detected {
    /// The container.
    pub fn container(self) -> Container {
        match self {
            Detected::Safetensors => Container::Safetensors,
            Detected::TorchZip | Detected::TorchLegacy => Container::Torch,
            Detected::Gguf => Container::Gguf,
        }
    }
}

/// Parses a file's header, whatever the format: detection by content, never by name.
pub fn parse(known: &Known) -> Result<Step<Part>> {
    match detect(known)? {
        Step::Need(ranges) => Ok(Step::Need(ranges)),
        Step::Done(Detected::Safetensors) => safetensors::parse(known),
        Step::Done(Detected::TorchZip) => torch::parse_zip(known),
        Step::Done(Detected::TorchLegacy) => torch::parse_legacy(known),
        Step::Done(Detected::Gguf) => gguf::parse(known),
    }
}

/// The hint of the error for a file in no format that is known at all.
pub const FORMATS_HINT: &str = "hoist reads safetensors, PyTorch (.bin, .pt, .pth) and GGUF";

/// What the file is, by its first bytes. Needs at most the first 512.
///
/// # Errors
/// `Unsupported` for a format that is recognised and not read, `BadInput` for what is no weights file at all.
pub fn detect(known: &Known) -> Result<Step<Detected>> {
    detect::detect(known)
}
