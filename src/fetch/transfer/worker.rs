//! One thread's work: takes what the board gives, one thing at a time.

use super::board::{After, Board, Complete, Segment, Verdict, Work};
use super::map::UNIT_BYTES;
use super::pace::Limit;
use super::partial::{Hashed, Partial};
use super::{Digest, Item, Options};
use crate::error::{Error, ErrorKind, Result};
use crate::run::job::Control;
use crate::sink::file::shown;
use crate::source::ranged::{Patience, Stop, stopped};
use crate::text::grouped;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// What all threads share.
pub(super) struct Shared<'a> {
    pub(super) items: &'a [Item],
    pub(super) options: &'a Options,
    pub(super) control: &'a Control,
    pub(super) done: &'a (dyn Fn(usize, Digest) -> Result<()> + Sync),
    pub(super) board: Board,
    pub(super) limit: Option<Limit>,
    /// What each item's map claimed, and was counted as there.
    pub(super) claimed_bytes: Vec<u64>,
    pub(super) received_bytes: AtomicU64,
}

/// Why an attempt on a segment ended before it was done.
enum Broken {
    /// The network: another attempt may do.
    There(Error),
    /// This machine: nothing will.
    Here(Error),
    /// Somebody else has taken the segment over.
    Taken,
}

impl Shared<'_> {
    /// Works until all is done.
    pub(super) fn work(&self) -> Result<()> {
        let stop: Stop<'_> = &|| self.control.is_stopped();
        let mut gathered = Vec::with_capacity(UNIT_BYTES as usize);
        while let Some(work) = self.board.next(stop)? {
            match work {
                Work::Open(index) => {
                    let item = self.item(index)?;
                    let counted = self.claimed_bytes.get(index).copied().unwrap_or(0);
                    let partial = Arc::new(Partial::open(item, counted)?);
                    match self.board.opened(index, Arc::clone(&partial)) {
                        Some(segment) => self.fetch(&segment, &mut gathered)?,
                        None => self.finish(index, &partial)?,
                    }
                }
                Work::Fetch(segment) => self.fetch(&segment, &mut gathered)?,
                Work::Sync(files) => self.sync(&files)?,
            }
        }
        Ok(())
    }

    fn item(&self, index: usize) -> Result<&Item> {
        self.items.get(index).ok_or_else(|| Error::bug("an item that is not there was to be fetched"))
    }

    /// Fetches a segment, with as many attempts as it is worth.
    fn fetch(&self, segment: &Arc<Segment>, gathered: &mut Vec<u8>) -> Result<()> {
        let item = self.item(segment.index)?;
        let stop: Stop<'_> = &|| self.control.is_stopped();
        let mut patience = Patience::new(self.options.policy);
        gathered.clear();
        loop {
            let before = self.position(segment, gathered);
            let error = match self.attempt(item, segment, gathered, &mut patience) {
                Ok(()) => return Ok(()),
                Err(Broken::Here(error)) => return Err(error),
                Err(Broken::Taken) => {
                    segment.partial.lose(gathered.len() as u64);
                    self.board.released();
                    return Ok(());
                }
                Err(Broken::There(error)) => error,
            };
            if self.control.is_stopped() {
                return Err(stopped());
            }
            let error = error.file(item.from.name());
            if error.kind() == ErrorKind::Unsupported
                && self.position(segment, gathered) > 0
                && !segment.is_whole
            {
                segment.partial.lose(gathered.len() as u64);
                self.board.ignores_ranges(segment);
                return Ok(());
            }
            if !error.kind().is_worth_a_retry() && !segment.is_taken() {
                return Err(error);
            }
            let is_left = match self.board.failed(segment, &error, self.position(segment, gathered) > before)
            {
                Verdict::Enough => return Err(error.detail("it failed too often")),
                Verdict::Left => true,
                Verdict::Again => match patience.wait(error, stop) {
                    Ok(()) => false,
                    Err(_) if self.control.is_stopped() => return Err(stopped()),
                    Err(error) => match self.board.gave_up(segment) {
                        true => true,
                        false => return Err(error),
                    },
                },
            };
            if is_left {
                segment.partial.lose(gathered.len() as u64);
                return Ok(());
            }
        }
    }

    /// The byte that a segment needs next.
    fn position(&self, segment: &Segment, gathered: &[u8]) -> u64 {
        segment.left().start * UNIT_BYTES + gathered.len() as u64
    }

    /// Asks for what is left of a segment, once, and stores what comes. What is gathered of a unit when the connection
    /// breaks is kept for the next attempt.
    fn attempt(
        &self,
        item: &Item,
        segment: &Arc<Segment>,
        gathered: &mut Vec<u8>,
        patience: &mut Patience,
    ) -> std::result::Result<(), Broken> {
        let stop: Stop<'_> = &|| self.control.is_stopped() || segment.is_taken();
        if segment.is_whole {
            segment.partial.lose(gathered.len() as u64);
            gathered.clear();
            self.board.rewind(segment);
        }
        let mut position = self.position(segment, gathered);
        let end = (segment.left().end * UNIT_BYTES).min(item.size_bytes);
        let asked = Instant::now();
        let mut body = item.from.open(position..end, stop).map_err(Broken::There)?;
        self.board.answered(asked.elapsed());
        loop {
            let Some(mut piece) = body.next(stop).map_err(Broken::There)? else {
                let message = format!("ended {} bytes early", grouped(end.saturating_sub(position)));
                return Err(Broken::There(Error::new(ErrorKind::Io, message).at(position)));
            };
            let room = end.saturating_sub(position);
            if piece.len() as u64 > room {
                let message = format!("brought {} bytes where {room} were left", piece.len());
                return Err(Broken::There(Error::new(ErrorKind::Io, message).at(position)));
            }
            self.received_bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
            segment.hear();
            if let Some(limit) = &self.limit {
                self.board.set_busy(segment, true);
                let waited = limit.take(piece.len(), stop);
                self.board.set_busy(segment, false);
                waited.map_err(Broken::There)?;
            }
            while !piece.is_empty() {
                let unit = segment.left().start;
                let size = usize::try_from(segment.partial.unit_size(unit)).unwrap_or(0);
                let unit_end = unit * UNIT_BYTES + size as u64;
                let left = usize::try_from(unit_end.saturating_sub(position)).unwrap_or(0);
                let part = piece.split_to(left.min(piece.len()));
                position += part.len() as u64;
                // Of a whole file, what is there is passed over.
                let after = if segment.is_whole && gathered.is_empty() && segment.partial.has(unit) {
                    if position < unit_end {
                        break;
                    }
                    self.board.passed(segment)
                } else {
                    patience.progressed(part.len() as u64);
                    let (new, come) = segment.partial.count(part.len() as u64);
                    if new > 0 {
                        self.control.moved(new);
                    }
                    if let Some(bytes) = come {
                        self.control.file(item.from.name(), bytes, item.size_bytes);
                    }
                    if part.len() == size {
                        // In one piece: not copied.
                        self.store(segment, unit, &part)?
                    } else {
                        gathered.extend_from_slice(&part);
                        if position < unit_end {
                            break;
                        }
                        if gathered.len() != size {
                            let message = "what was passed over turned out to be damaged";
                            return Err(Broken::There(Error::new(ErrorKind::Io, message)));
                        }
                        let after = self.store(segment, unit, gathered)?;
                        gathered.clear();
                        after
                    }
                };
                match after {
                    After::More => {}
                    // What came behind the end of a segment that was cut is another's to bring.
                    After::Over => return Ok(()),
                    After::Complete => {
                        return self.finish(segment.index, &segment.partial).map_err(Broken::Here);
                    }
                }
            }
        }
    }

    /// Stores a segment's next unit and moves the hash on.
    fn store(&self, segment: &Arc<Segment>, unit: u64, bytes: &[u8]) -> std::result::Result<After, Broken> {
        if !self.board.claim_store(segment) {
            return Err(Broken::Taken);
        }
        let stop: Stop<'_> = &|| self.control.is_stopped();
        if !segment.partial.store(unit, bytes).map_err(Broken::Here)? {
            return Ok(self.board.passed(segment));
        }
        let damaged = segment.partial.follow((unit, bytes), stop).map_err(Broken::Here)?;
        if !damaged.is_empty() {
            self.board.missing(segment.index, damaged);
        }
        Ok(self.board.stored(segment, bytes.len() as u64))
    }

    /// All units of a file are there: the rest of its hash, and the comparison.
    fn finish(&self, index: usize, partial: &Arc<Partial>) -> Result<()> {
        // After an error it stays counted as at work: nobody else shall find that nothing is left to do before all are told.
        self.finish_hash(index, partial)?;
        self.board.finished();
        Ok(())
    }

    fn finish_hash(&self, index: usize, partial: &Arc<Partial>) -> Result<()> {
        let item = self.item(index)?;
        let stop: Stop<'_> = &|| self.control.is_stopped();
        let digest = match partial.finish_hash(stop)? {
            Hashed::Whole(digest) => digest,
            Hashed::Damaged(ranges) => {
                self.board.missing(index, ranges);
                return Ok(());
            }
        };
        match item.expected {
            Some(expected) if expected != digest => {
                if self.board.may_try_again(index) {
                    partial.restart()?;
                    if partial.unit_count() > 0 {
                        self.board.missing(index, partial.missing());
                        return Ok(());
                    }
                }
                partial.discard()?;
                Err(wrong(item, expected, digest))
            }
            _ => {
                self.board.complete(Complete { index, partial: Arc::clone(partial), digest });
                Ok(())
            }
        }
    }

    /// Brings complete files to the disk together, so that one commit of the file system's journal serves all of them.
    fn sync(&self, files: &[Complete]) -> Result<()> {
        for file in files {
            file.partial.start_sync();
        }
        for file in files {
            if self.control.is_stopped() {
                return Err(stopped());
            }
            file.partial.sync()?;
            (self.done)(file.index, file.digest)?;
            let item = self.item(file.index)?;
            self.control.file(item.from.name(), item.size_bytes, item.size_bytes);
            // Last: killed before, the next run still finds the file whole.
            file.partial.remove_map()?;
        }
        self.board.synced(files.len());
        Ok(())
    }
}

/// The error of a file whose hash is wrong for good.
fn wrong(item: &Item, expected: Digest, found: Digest) -> Error {
    let message = format!("has {} `{found}` where `{expected}` was expected", found.name());
    Error::new(ErrorKind::Integrity, message)
        .file(item.from.name())
        .detail(format!("it was fetched twice; `{}` was removed", crate::text::Shown(&shown(&item.to))))
        .hint("what the server sends is not what it lists: try again later, or another mirror or revision")
}
