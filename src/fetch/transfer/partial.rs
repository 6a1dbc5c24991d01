//! A file while it comes: its bytes on the disk, its map beside it, and the hash that follows its front.
//!
//! The hash is sequential, the arrival is not. Whoever has stored a unit tries to take the front and moves it on over all
//! that is there by then: the unit it has just stored from its own memory, what arrived ahead from the page cache, what an
//! earlier run left from the disk, once. Who does not get the front leaves it to the holder; a turn is bounded, so that the
//! holder's own connection does not wait for long. Only the last turn, when everything is there, waits.

use super::map::{self, Key, Map, UNIT_BYTES, check_of, open_existing};
use super::{Digest, Item};
use crate::error::{Error, ErrorKind, Result};
use crate::sink::file::{claim, directory_of, free_bytes, read_exact_at, shown, write_all_at};
use crate::source::ranged::{Stop, stopped};
use crate::text;
use sha2::Digest as _;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// Units that one turn of the hash takes at most: 16 MiB, some ten milliseconds.
const TURN_UNITS: u64 = 64;

/// Behind the front, the disk is told to begin with so many units at a time (8 MiB), so that the sync at the end finds
/// little left to do.
const WRITEBACK_UNITS: u64 = 32;

/// What is known of a unit.
const MISSING: u8 = 0;
/// An earlier run's map says that it is there; nobody has looked yet.
const CLAIMED: u8 = 1;
/// Somebody writes it.
const STORING: u8 = 2;
const STORED: u8 = 3;

/// A running hash.
#[derive(Debug, Clone)]
enum Hasher {
    Sha256(sha2::Sha256),
    GitSha1(sha1::Sha1),
}

impl Hasher {
    fn new(expected: Option<&Digest>, size_bytes: u64) -> Hasher {
        match expected {
            None | Some(Digest::Sha256(_)) => Hasher::Sha256(sha2::Sha256::new()),
            Some(Digest::GitSha1(_)) => {
                let mut hash = sha1::Sha1::new();
                hash.update(format!("blob {size_bytes}\0"));
                Hasher::GitSha1(hash)
            }
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hash) => hash.update(bytes),
            Hasher::GitSha1(hash) => hash.update(bytes),
        }
    }

    fn finish(&self) -> Digest {
        match self.clone() {
            Hasher::Sha256(hash) => Digest::Sha256(hash.finalize().into()),
            Hasher::GitSha1(hash) => Digest::GitSha1(hash.finalize().into()),
        }
    }
}

/// The hash and the unit that it needs next.
#[derive(Debug)]
struct Front {
    hasher: Hasher,
    unit: u64,
    /// For what is read back.
    buffer: Vec<u8>,
    /// Up to which unit the disk has been told to begin.
    started: u64,
}

/// How the last turn of the hash ended.
#[derive(Debug)]
pub(super) enum Hashed {
    /// All bytes are in it.
    Whole(Digest),
    /// These units of an earlier run are not what its map says: they are missing.
    Damaged(Vec<Range<u64>>),
}

/// A file while it comes. Shared by all who fetch parts of it.
#[derive(Debug)]
pub(super) struct Partial {
    file: File,
    path: PathBuf,
    size_bytes: u64,
    expected: Option<Digest>,
    key: Option<Key>,
    /// Made when the first unit is recorded: a file of one unit has none.
    map: OnceLock<Map>,
    making: Mutex<()>,
    units: Box<[AtomicU8]>,
    /// What an earlier run's map says of each unit; empty where there was none.
    claims: Vec<u64>,
    front: Mutex<Front>,
    counted: Mutex<Counted>,
}

/// What was said to have arrived. What was lost and comes again is not counted twice, and never more than there is.
#[derive(Debug)]
struct Counted {
    /// Bytes that were counted.
    bytes: u64,
    /// Of these, what was lost since.
    lost_bytes: u64,
    /// When it was last told.
    told: Instant,
}

/// The least time between two tellings of one file.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// What an earlier run left of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Left {
    /// Bytes that its map claims.
    pub(super) claimed_bytes: u64,
    /// Bytes of disk that the file has already.
    pub(super) disk_bytes: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes a file that may not be there.
pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("cannot be removed", e).file(shown(path)))
        }
        _ => Ok(()),
    }
}

fn claimed_bytes(claims: &[u64], size_bytes: u64) -> u64 {
    let there = claims.iter().zip(0u64..).filter(|(claim, _)| **claim != 0);
    there.map(|(_, unit)| unit_size(unit, size_bytes)).sum()
}

fn unit_size(unit: u64, size_bytes: u64) -> u64 {
    size_bytes.saturating_sub(unit * UNIT_BYTES).min(UNIT_BYTES)
}

/// Opens the partial file and the map that an earlier run left, where both are whole and of this content.
fn open_left(item: &Item, key: Option<&Key>) -> Option<(File, Map, Vec<u64>)> {
    let (map, claims) = Map::open(&map::path_of(&item.to), item.size_bytes, key?)?;
    let file = open_existing(&item.to)?;
    (file.metadata().ok()?.len() == item.size_bytes).then_some((file, map, claims))
}

/// What an earlier run left; what cannot be taken up again is removed.
pub(super) fn look(item: &Item) -> Result<Left> {
    if fs::symlink_metadata(&item.to).is_err() {
        // A map alone says nothing, and one unit has none.
        if item.size_bytes > UNIT_BYTES {
            remove(&map::path_of(&item.to))?;
        }
        return Ok(Left::default());
    }
    match open_left(item, map::key(item).as_ref()) {
        Some((file, _, claims)) => {
            #[cfg(unix)]
            let disk_bytes =
                file.metadata().map_or(0, |facts| std::os::unix::fs::MetadataExt::blocks(&facts) * 512);
            #[cfg(not(unix))]
            let disk_bytes = file.metadata().map_or(0, |facts| facts.len());
            Ok(Left { claimed_bytes: claimed_bytes(&claims, item.size_bytes), disk_bytes })
        }
        None => {
            remove(&item.to)?;
            remove(&map::path_of(&item.to))?;
            Ok(Left::default())
        }
    }
}

impl Partial {
    /// Takes up what an earlier run left, or begins anew. `counted_bytes` were already counted as there.
    ///
    /// # Errors
    /// `NoSpace`: the disk has no room for all of it. What creating gives.
    pub(super) fn open(item: &Item, counted_bytes: u64) -> Result<Partial> {
        let key = map::key(item).filter(|_| item.size_bytes > UNIT_BYTES);
        let map = OnceLock::new();
        let (file, claims) = match open_left(item, key.as_ref()) {
            Some((file, found, claims)) => {
                let _ = map.set(found);
                (file, claims)
            }
            None => {
                remove(&item.to)?;
                if item.size_bytes > UNIT_BYTES {
                    remove(&map::path_of(&item.to))?;
                }
                (create(&item.to, item.size_bytes)?, Vec::new())
            }
        };
        let lost_bytes = counted_bytes.saturating_sub(claimed_bytes(&claims, item.size_bytes));
        let unit = |unit: u64| {
            let claim = usize::try_from(unit).ok().and_then(|unit| claims.get(unit));
            AtomicU8::new(if claim.is_some_and(|claim| *claim != 0) { CLAIMED } else { MISSING })
        };
        Ok(Partial {
            file,
            path: item.to.clone(),
            size_bytes: item.size_bytes,
            expected: item.expected,
            key,
            map,
            making: Mutex::new(()),
            units: (0..map::unit_count(item.size_bytes)).map(unit).collect(),
            claims,
            front: Mutex::new(Front {
                hasher: Hasher::new(item.expected.as_ref(), item.size_bytes),
                unit: 0,
                buffer: Vec::new(),
                started: 0,
            }),
            counted: Mutex::new(Counted { bytes: counted_bytes, lost_bytes, told: Instant::now() }),
        })
    }

    /// The number of its units.
    pub(super) fn unit_count(&self) -> u64 {
        self.units.len() as u64
    }

    /// The size of one of them: the last may be short.
    pub(super) fn unit_size(&self, unit: u64) -> u64 {
        unit_size(unit, self.size_bytes)
    }

    /// What is missing.
    pub(super) fn missing(&self) -> Vec<Range<u64>> {
        self.ranges(0, MISSING)
    }

    /// Runs of units in one state, from one on.
    fn ranges(&self, from: u64, state: u8) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (unit, found) in (0u64..).zip(&self.units).skip(usize::try_from(from).unwrap_or(usize::MAX)) {
            if found.load(Ordering::Acquire) == state {
                push(&mut ranges, unit);
            }
        }
        ranges
    }

    fn state(&self, unit: u64) -> Option<&AtomicU8> {
        self.units.get(usize::try_from(unit).ok()?)
    }

    fn set(&self, unit: u64, state: u8) {
        if let Some(found) = self.state(unit) {
            found.store(state, Ordering::Release);
        }
    }

    /// Of so many bytes that arrived, those that were never counted before; and how many of the file have come, where it is
    /// time to tell that.
    pub(super) fn count(&self, bytes: u64) -> (u64, Option<u64>) {
        let mut counted = lock(&self.counted);
        let again = counted.lost_bytes.min(bytes);
        counted.lost_bytes -= again;
        let new = (bytes - again).min(self.size_bytes.saturating_sub(counted.bytes));
        counted.bytes += new;
        let come = (counted.told.elapsed() >= TELL_EVERY).then(|| {
            counted.told = Instant::now();
            counted.bytes - counted.lost_bytes
        });
        (new, come)
    }

    /// Bytes that were counted will have to come again.
    pub(super) fn lose(&self, bytes: u64) {
        let mut counted = lock(&self.counted);
        counted.lost_bytes = (counted.lost_bytes + bytes).min(counted.bytes);
    }

    /// Whether a unit is there, or somebody writes it.
    pub(super) fn has(&self, unit: u64) -> bool {
        self.state(unit).is_some_and(|state| state.load(Ordering::Acquire) != MISSING)
    }

    /// Writes a whole unit, then its entry in the map; not if it is there, or somebody else writes it: what is hashed from
    /// memory must be what is on the disk. Whether it did.
    pub(super) fn store(&self, unit: u64, bytes: &[u8]) -> Result<bool> {
        let order = Ordering::AcqRel;
        let is_ours =
            |state: &AtomicU8| state.compare_exchange(MISSING, STORING, order, Ordering::Acquire).is_ok();
        if !self.state(unit).is_some_and(is_ours) {
            return Ok(false);
        }
        let offset_bytes = unit * UNIT_BYTES;
        write_all_at(&self.file, bytes, offset_bytes).map_err(|e| {
            let error = Error::io("cannot be written", e).at(offset_bytes).file(shown(&self.path));
            self.with_space(error)
        })?;
        if let Some(key) = &self.key {
            let map = match self.map.get() {
                Some(map) => map,
                None => self.make_map(key)?,
            };
            map.record(unit, check_of(bytes)).map_err(|e| self.with_space(e))?;
        }
        self.set(unit, STORED);
        Ok(true)
    }

    fn make_map(&self, key: &Key) -> Result<&Map> {
        let _one = lock(&self.making);
        if self.map.get().is_none() {
            let made = Map::create(map::path_of(&self.path), self.size_bytes, key);
            let _ = self.map.set(made.map_err(|e| self.with_space(e))?);
        }
        self.map.get().ok_or_else(|| Error::bug("a map was made and is not there"))
    }

    fn with_space(&self, error: Error) -> Error {
        match error.kind() {
            ErrorKind::NoSpace => error.hint("free some space, or fetch to another disk"),
            _ => error,
        }
    }

    /// Moves the hash on, if nobody else does: over `fresh`, a unit just stored and still in memory, and all that is there.
    /// Returns what turned out to be damaged, and is missing.
    pub(super) fn follow(&self, fresh: (u64, &[u8]), stop: Stop<'_>) -> Result<Vec<Range<u64>>> {
        match self.front.try_lock() {
            Ok(mut front) => self.turn(&mut front, Some(fresh), TURN_UNITS, stop),
            Err(TryLockError::WouldBlock) => Ok(Vec::new()),
            Err(TryLockError::Poisoned(_)) => Err(Error::bug("a hash broke off")),
        }
    }

    /// The last turn: everything is there.
    pub(super) fn finish_hash(&self, stop: Stop<'_>) -> Result<Hashed> {
        let mut front = lock(&self.front);
        let damaged = self.turn(&mut front, None, u64::MAX, stop)?;
        if !damaged.is_empty() {
            return Ok(Hashed::Damaged(damaged));
        }
        if front.unit != self.unit_count() {
            return Err(Error::bug("a file was finished before it was there").file(shown(&self.path)));
        }
        front.buffer = Vec::new();
        Ok(Hashed::Whole(front.hasher.finish()))
    }

    fn turn(
        &self,
        front: &mut Front,
        fresh: Option<(u64, &[u8])>,
        units_max: u64,
        stop: Stop<'_>,
    ) -> Result<Vec<Range<u64>>> {
        for turn in 0..units_max {
            let unit = front.unit;
            let state = self.state(unit).map_or(MISSING, |state| state.load(Ordering::Acquire));
            match fresh {
                _ if state == MISSING || state == STORING => break,
                Some((number, bytes)) if number == unit => front.hasher.update(bytes),
                _ => {
                    if turn % TURN_UNITS == 0 && stop() {
                        return Err(stopped());
                    }
                    let check = self.read_back(unit, &mut front.buffer, state == CLAIMED)?;
                    if state == CLAIMED && Some(check) != self.claim(unit) {
                        return self.recheck(unit, &mut front.buffer, stop);
                    }
                    front.hasher.update(&front.buffer);
                }
            }
            front.unit += 1;
            if front.unit - front.started >= WRITEBACK_UNITS {
                self.start_writeback(front.started..front.unit);
                front.started = front.unit;
            }
        }
        Ok(Vec::new())
    }

    fn claim(&self, unit: u64) -> Option<u64> {
        self.claims.get(usize::try_from(unit).ok()?).copied()
    }

    /// Reads a unit into the buffer; its check where it is wanted.
    fn read_back(&self, unit: u64, buffer: &mut Vec<u8>, is_checked: bool) -> Result<u64> {
        buffer.resize(usize::try_from(self.unit_size(unit)).unwrap_or_default(), 0);
        let offset_bytes = unit * UNIT_BYTES;
        read_exact_at(&self.file, buffer, offset_bytes)
            .map_err(|e| Error::io("cannot be read back", e).at(offset_bytes).file(shown(&self.path)))?;
        Ok(if is_checked { check_of(buffer) } else { 0 })
    }

    /// One claim was wrong: looks at all others at once, so that what is missing can be fetched together.
    fn recheck(&self, from: u64, buffer: &mut Vec<u8>, stop: Stop<'_>) -> Result<Vec<Range<u64>>> {
        let mut damaged = Vec::new();
        for unit in self.ranges(from, CLAIMED).into_iter().flatten() {
            if unit % TURN_UNITS == 0 && stop() {
                return Err(stopped());
            }
            let check = self.read_back(unit, buffer, true)?;
            if Some(check) == self.claim(unit) {
                self.set(unit, STORED);
            } else {
                self.set(unit, MISSING);
                self.lose(self.unit_size(unit));
                push(&mut damaged, unit);
            }
        }
        Ok(damaged)
    }

    /// Has the system begin to bring units to the disk, without waiting (see `sink::file`).
    fn start_writeback(&self, units: Range<u64>) {
        #[cfg(target_os = "linux")]
        if let Some(size) = std::num::NonZeroU64::new((units.end - units.start) * UNIT_BYTES) {
            let (start, advice) = (units.start * UNIT_BYTES, rustix::fs::Advice::DontNeed);
            let _ = rustix::fs::fadvise(&self.file, start, Some(size), advice);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = units;
    }

    /// As [`Partial::start_writeback`], for all that has not begun.
    pub(super) fn start_sync(&self) {
        let started = lock(&self.front).started;
        self.start_writeback(started..self.unit_count());
    }

    /// Brings it to the disk.
    pub(super) fn sync(&self) -> Result<()> {
        self.file
            .sync_data()
            .map_err(|e| Error::io("cannot be brought to the disk", e).file(shown(&self.path)))
    }

    /// Forgets every byte: its hash was wrong.
    pub(super) fn restart(&self) -> Result<()> {
        let mut front = lock(&self.front);
        front.hasher = Hasher::new(self.expected.as_ref(), self.size_bytes);
        (front.unit, front.started) = (0, 0);
        // Entries first: what they claim is to be overwritten.
        if let Some(map) = self.map.get() {
            for unit in 0..self.unit_count() {
                map.record(unit, 0)?;
            }
        }
        self.units.iter().for_each(|unit| unit.store(MISSING, Ordering::Release));
        self.lose(self.size_bytes);
        Ok(())
    }

    /// Removes it, and its map.
    pub(super) fn discard(&self) -> Result<()> {
        remove(&map::path_of(&self.path))?;
        remove(&self.path)
    }

    /// Removes it where no map says what of it is there.
    pub(super) fn discard_if_empty(&self) {
        if self.map.get().is_none() {
            // It was an error that led here, and it is that which is told.
            let _ = remove(&self.path);
        }
    }

    /// Removes the map: the file is done.
    pub(super) fn remove_map(&self) -> Result<()> {
        self.map.get().map_or(Ok(()), |_| remove(&map::path_of(&self.path)))
    }
}

/// For what comes by being read.
#[cfg(feature = "hub")]
impl Partial {
    /// Writes bytes that are less than a unit. They count when [`Partial::seal`] has recorded their unit.
    pub(super) fn write_part(&self, bytes: &[u8], offset_bytes: u64) -> Result<()> {
        write_all_at(&self.file, bytes, offset_bytes).map_err(|e| {
            self.with_space(Error::io("cannot be written", e).at(offset_bytes).file(shown(&self.path)))
        })
    }

    /// Records a unit whose parts are all written.
    pub(super) fn seal(&self, unit: u64) -> Result<()> {
        let mut bytes = Vec::new();
        self.read_back(unit, &mut bytes, false)?;
        self.store(unit, &bytes).map(drop)
    }

    /// Whether a unit is there. What an earlier run's map claims is read, and is missing where it is not that.
    pub(super) fn is_there(&self, unit: u64) -> Result<bool> {
        match self.state(unit).map_or(MISSING, |state| state.load(Ordering::Acquire)) {
            STORED => Ok(true),
            CLAIMED => {
                let mut bytes = Vec::new();
                let is = Some(self.read_back(unit, &mut bytes, true)?) == self.claim(unit);
                self.set(unit, if is { STORED } else { MISSING });
                Ok(is)
            }
            _ => Ok(false),
        }
    }

    /// Reads what is there.
    pub(super) fn read(&self, buffer: &mut [u8], offset_bytes: u64) -> Result<()> {
        read_exact_at(&self.file, buffer, offset_bytes)
            .map_err(|e| Error::io("cannot be read back", e).at(offset_bytes).file(shown(&self.path)))
    }
}

/// Adds a unit to runs of units.
fn push(ranges: &mut Vec<Range<u64>>, unit: u64) {
    match ranges.last_mut() {
        Some(last) if last.end == unit => last.end += 1,
        _ => ranges.push(unit..unit + 1),
    }
}

/// A new file that has its space.
fn create(path: &Path, size_bytes: u64) -> Result<File> {
    let fail = |e| Error::io("cannot be created", e).file(shown(path));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path).map_err(fail)?;
    // A claim for a small file costs more than it tells.
    if size_bytes > UNIT_BYTES {
        claim(&file, size_bytes).map_err(|e| {
            let is_full = e.kind() == io::ErrorKind::StorageFull;
            let _ = fs::remove_file(path);
            let error =
                Error::io(format!("cannot be given its {}", text::bytes(size_bytes)), e).file(shown(path));
            match free_bytes(directory_of(path)) {
                Some(free) if is_full => error
                    .detail(format!("the disk has {} free", text::bytes(free)))
                    .hint("free some space, or fetch to another disk"),
                _ => error,
            }
        })?;
    }
    Ok(file)
}
