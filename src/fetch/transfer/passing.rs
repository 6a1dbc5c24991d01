//! A file that comes by being read: what passes on the way to a reader is written into the partial file that a transfer takes
//! up, with its map, so that only the rest is fetched.
//!
//! Readers ask for what they need, not for units. What is less than a unit is written where it belongs, and its unit is
//! recorded when the last of its parts has come; whoever asks for it again gets it from the disk. Nothing is hashed
//! here: that is done by the transfer that ends the file, which believes no more of it than of any earlier run.

use super::map::UNIT_BYTES;
use super::partial::Partial;
use super::{Item, map};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The most that is read from the disk at once.
const READ_BYTES_MAX: u64 = 1 << 20;

/// Files of no more than this have no map: nothing of them can be taken up.
pub(in crate::fetch) const SMALL_BYTES_MAX: u64 = UNIT_BYTES;

/// The parts of units that have come, in order and apart.
type Parts = BTreeMap<u64, Vec<Range<u64>>>;

/// A file that comes by being read.
#[derive(Debug)]
pub(in crate::fetch) struct Passing {
    partial: Partial,
    size_bytes: u64,
    parts: Mutex<Parts>,
    received_bytes: AtomicU64,
    /// Nothing is written any more: it is somebody else's, or the disk failed.
    is_over: AtomicBool,
    failure: Mutex<Option<Error>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds a range to ranges that are in order and apart.
fn add(ranges: &mut Vec<Range<u64>>, new: Range<u64>) {
    let (mut start, mut end) = (new.start, new.end);
    ranges.retain(|one| {
        let touches = one.start <= end && start <= one.end;
        if touches {
            (start, end) = (start.min(one.start), end.max(one.end));
        }
        !touches
    });
    let at = ranges.partition_point(|one| one.start < start);
    ranges.insert(at, start..end);
}

impl Passing {
    /// Takes up what an earlier run left of the item, or begins anew.
    ///
    /// # Errors
    /// As `transfer`'s own. `BadInput`: nothing says which content it is, or it is small.
    pub(in crate::fetch) fn open(item: &Item) -> Result<Passing> {
        if item.size_bytes <= SMALL_BYTES_MAX || map::key(item).is_none() {
            return Err(Error::bug("a file that cannot be taken up is not kept in parts"));
        }
        Ok(Passing {
            partial: Partial::open(item, 0)?,
            size_bytes: item.size_bytes,
            parts: Mutex::default(),
            received_bytes: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            failure: Mutex::new(None),
        })
    }

    fn units(range: &Range<u64>) -> Range<u64> {
        range.start / UNIT_BYTES..range.end.div_ceil(UNIT_BYTES)
    }

    fn span(&self, unit: u64) -> Range<u64> {
        let start = unit * UNIT_BYTES;
        start..(start + UNIT_BYTES).min(self.size_bytes)
    }

    /// Ends the writing.
    pub(in crate::fetch) fn close(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    /// Bytes that have passed.
    pub(in crate::fetch) fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    /// Why less was kept than came.
    pub(in crate::fetch) fn failure(&self) -> Option<Error> {
        lock(&self.failure).take()
    }

    /// Writes bytes that have passed. A disk that fails ends the writing, not the reading.
    pub(in crate::fetch) fn keep(&self, bytes: &[u8], offset_bytes: u64) {
        self.received_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if self.is_over.load(Ordering::Acquire) {
            return;
        }
        if let Err(error) = self.try_keep(bytes, offset_bytes) {
            self.close();
            lock(&self.failure).get_or_insert(error);
        }
    }

    fn try_keep(&self, bytes: &[u8], offset_bytes: u64) -> Result<()> {
        let all = offset_bytes..(offset_bytes + bytes.len() as u64).min(self.size_bytes);
        for unit in Passing::units(&all) {
            if self.partial.has(unit) {
                continue;
            }
            let span = self.span(unit);
            let part = span.start.max(all.start)..span.end.min(all.end);
            let within = (part.start - offset_bytes) as usize..(part.end - offset_bytes) as usize;
            let piece = bytes.get(within).unwrap_or_default();
            if part == span {
                self.partial.store(unit, piece)?;
                continue;
            }
            self.partial.write_part(piece, part.start)?;
            let mut parts = lock(&self.parts);
            let ranges = parts.entry(unit).or_default();
            add(ranges, part);
            if *ranges == [span] {
                parts.remove(&unit);
                drop(parts);
                self.partial.seal(unit)?;
            }
        }
        Ok(())
    }

    /// What is there of a range from its start on, a mebibyte of it at most.
    ///
    /// # Errors
    /// What reading gives.
    pub(in crate::fetch) fn read(&self, range: Range<u64>) -> Result<Option<Vec<u8>>> {
        let wanted = range.start..range.end.min(range.start.saturating_add(READ_BYTES_MAX));
        let mut end = wanted.start;
        for unit in Passing::units(&wanted) {
            let span = self.span(unit);
            if self.partial.is_there(unit)? {
                end = span.end.min(wanted.end);
                continue;
            }
            let parts = lock(&self.parts);
            let part = parts.get(&unit).and_then(|p| p.iter().find(|p| p.contains(&end)));
            end = part.map_or(end, |part| part.end.min(wanted.end));
            if end < span.end.min(wanted.end) {
                break;
            }
        }
        if end == wanted.start {
            return Ok(None);
        }
        let mut bytes = vec![0; (end - wanted.start) as usize];
        self.partial.read(&mut bytes, wanted.start)?;
        Ok(Some(bytes))
    }

    /// Where the part of a range that is to be asked for ends: before the first unit behind its start that is there.
    ///
    /// # Errors
    /// What reading gives.
    pub(in crate::fetch) fn missing_end(&self, range: Range<u64>) -> Result<u64> {
        for unit in Passing::units(&range).skip(1) {
            if self.partial.is_there(unit)? {
                return Ok(self.span(unit).start);
            }
        }
        Ok(range.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_joined() {
        type Ends<'a> = &'a [(u64, u64)];
        let rows: &[(Ends<'_>, Ends<'_>)] = &[
            (&[(3, 5), (0, 1)], &[(0, 1), (3, 5)]),
            (&[(3, 5), (0, 3)], &[(0, 5)]),
            (&[(3, 5), (0, 1), (1, 3)], &[(0, 5)]),
            (&[(0, 1), (2, 3), (4, 5), (0, 5)], &[(0, 5)]),
            (&[(0, 4), (1, 2)], &[(0, 4)]),
        ];
        for (added, expected) in rows {
            let mut ranges = Vec::new();
            added.iter().for_each(|&(start, end)| add(&mut ranges, start..end));
            let found: Vec<(u64, u64)> = ranges.iter().map(|range| (range.start, range.end)).collect();
            assert_eq!(found, *expected, "{added:?}");
        }
    }
}
