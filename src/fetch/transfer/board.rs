//! Who fetches what: the only state that all connections share.
//!
//! A file's units are given out in segments, from its front on, so that the hash behind it follows closely. With at least as
//! many files as connections each file has one, and its segments are long; else files are shared in segments of some
//! seconds, and whoever is free goes to the file that has the fewest. When nothing is left to give out, the segment that
//! would take longest is split and its owner told where its new end is; one that hears nothing any more is taken over.
//! A file of a server that ignores ranges comes over one connection, from its beginning at each attempt, and what is there
//! already is passed over. A unit is written by whoever holds its segment when it is complete, and by nobody else ([`Board::claim_store`]).

use super::map::UNIT_BYTES;
use super::pace::Pace;
use super::partial::Partial;
use super::{Digest, Options};
use crate::error::{Error, Result};
use crate::source::ranged::{Stop, stopped};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a waiting thread looks whether it shall stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The longest segment of a file that one connection fetches alone: 1 GiB.
const ALONE_UNITS: u64 = 4096;
/// A segment that will be done within so many seconds is left to its owner.
const SPLIT_SECONDS: f64 = 0.5;
/// A segment that has heard nothing for so long is taken over by an idle connection.
const SILENT: Duration = Duration::from_secs(3);
/// So often in a row; then its owner is left to its own deadlines, and the error that they give counts.
const SILENCES_MAX: u32 = 3;
/// Files that are complete and not yet on the disk: each is open.
const SYNCING_MAX: usize = 128;
/// Failures that a file may have in all: so many, and one for each 16 MiB.
const FAILURES: u64 = 100;

/// A run of units that one connection fetches.
#[derive(Debug)]
pub(super) struct Segment {
    /// The item.
    pub(super) index: usize,
    /// Its file.
    pub(super) partial: Arc<Partial>,
    /// The unit that comes next, and the end. Both change under the board's lock only; the end only comes nearer.
    at: AtomicU64,
    end: AtomicU64,
    from: u64,
    since: Instant,
    /// It is a whole file, and each attempt begins at its beginning.
    pub(super) is_whole: bool,
    /// How many before it were taken over at its first unit.
    silences: u32,
    /// When a byte last came, in milliseconds since `since`.
    heard_ms: AtomicU64,
    is_taken: AtomicBool,
    /// Its owner is not waiting for the network: it writes, or a limit holds it.
    is_busy: AtomicBool,
    /// Units that all connections had stored when this one last had progress.
    mark: AtomicU64,
}

impl Segment {
    /// The units that are left.
    pub(super) fn left(&self) -> Range<u64> {
        self.at.load(Ordering::Relaxed)..self.end.load(Ordering::Relaxed)
    }

    /// Whether somebody else fetches it now.
    pub(super) fn is_taken(&self) -> bool {
        self.is_taken.load(Ordering::Relaxed)
    }

    /// Bytes came.
    pub(super) fn hear(&self) {
        self.heard_ms.store(self.since.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Whether it has heard nothing for long, though it listens.
    fn is_silent(&self, now: Instant) -> bool {
        let heard = self.since + Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
        self.silences < SILENCES_MAX
            && !self.is_busy.load(Ordering::Relaxed)
            && now.saturating_duration_since(heard) >= SILENT
    }

    /// How long what is left will take, as far as it can be told.
    fn seconds_left(&self, now: Instant) -> f64 {
        let left = self.left();
        let took = now.saturating_duration_since(self.since).as_secs_f64();
        // One that has brought nothing yet is judged as if its first unit came now.
        let done = (left.start - self.from).max(1);
        took / done as f64 * (left.end - left.start) as f64
    }
}

/// A file of which something is missing, or in the hands of somebody.
#[derive(Debug)]
struct Active {
    index: usize,
    partial: Arc<Partial>,
    /// Not given out, sorted.
    free: Vec<Range<u64>>,
    running: Vec<Arc<Segment>>,
    units_left: u64,
    failures: u64,
    is_second_try: bool,
    /// Its server ignores ranges.
    is_whole: bool,
}

/// A file that is whole and verified, and not yet synced.
#[derive(Debug)]
pub(super) struct Complete {
    pub(super) index: usize,
    pub(super) partial: Arc<Partial>,
    pub(super) digest: Digest,
}

/// What a thread is to do next.
#[derive(Debug)]
pub(super) enum Work {
    /// Open an item's partial file, then [`Board::opened`]. A connection is held for it.
    Open(usize),
    /// Fetch a segment. A connection is held for it.
    Fetch(Arc<Segment>),
    /// Bring these files to the disk, then [`Board::synced`].
    Sync(Vec<Complete>),
}

/// What follows a stored unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// The segment's next unit.
    More,
    /// The segment is done; the connection is given back.
    Over,
    /// And its file has all its units: whoever hears this finishes the hash.
    Complete,
}

/// What follows a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The same once more.
    Again,
    /// The segment is left to others; the connection is given back.
    Left,
    /// It failed too often.
    Enough,
}

#[derive(Debug)]
struct State {
    /// Items that were not begun, the largest first: small ones fill the end.
    waiting: VecDeque<usize>,
    active: Vec<Active>,
    opening: usize,
    /// Files whose hash somebody finishes.
    finishing: usize,
    complete: Vec<Complete>,
    is_syncing: bool,
    /// Files that are complete and not yet synced.
    syncing: usize,
    /// Files that are not done.
    left: usize,
    /// Connections in use.
    running: usize,
    units_stored: u64,
    pace: Pace,
    hold_until: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Board {
    state: Mutex<State>,
    changed: Condvar,
    files_max: usize,
    /// The longest wish that is waited for.
    granted_max: Duration,
}

impl Board {
    /// Items, by their sizes.
    pub(super) fn new(sizes: &[u64], options: &Options) -> Board {
        let mut waiting: Vec<usize> = (0..sizes.len()).collect();
        waiting.sort_by_key(|&index| std::cmp::Reverse(sizes.get(index).copied()));
        let state = State {
            waiting: waiting.into(),
            active: Vec::new(),
            opening: 0,
            finishing: 0,
            complete: Vec::new(),
            is_syncing: false,
            syncing: 0,
            left: sizes.len(),
            running: 0,
            units_stored: 0,
            pace: Pace::new(options.connections_max.max(1), Instant::now()),
            hold_until: None,
        };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        let granted_max = options.policy.granted_max;
        Board { state, changed, files_max: options.files_max.max(1), granted_max }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something to do; `None` when all is done.
    pub(super) fn next(&self, stop: Stop<'_>) -> Result<Option<Work>> {
        let mut state = self.lock();
        loop {
            if stop() {
                return Err(stopped());
            }
            if state.left == 0 {
                return Ok(None);
            }
            if !state.complete.is_empty() && !state.is_syncing {
                state.is_syncing = true;
                return Ok(Some(Work::Sync(std::mem::take(&mut state.complete))));
            }
            if let Some(work) = state.fetch(self.files_max) {
                state.running += 1;
                return Ok(Some(work));
            }
            if state.is_lost() {
                return Err(Error::bug("files are left, and nothing of them is left to fetch"));
            }
            state = self.changed.wait_timeout(state, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// An item's partial file is open: its first segment, for whoever opened it; `None` where nothing is missing, and the
    /// hash is to be finished.
    pub(super) fn opened(&self, index: usize, partial: Arc<Partial>) -> Option<Arc<Segment>> {
        let mut state = self.lock();
        state.opening -= 1;
        let free = partial.missing();
        let units_left = free.iter().map(|range| range.end - range.start).sum();
        state.active.push(Active {
            index,
            partial,
            free,
            running: Vec::new(),
            units_left,
            failures: 0,
            is_second_try: false,
            is_whole: false,
        });
        let place = state.active.len() - 1;
        let segment = state.give(place);
        if segment.is_none() {
            state.running -= 1;
            state.finishing += 1;
        }
        if segment.is_none() || state.active.last().is_some_and(|file| !file.free.is_empty()) {
            self.changed.notify_all();
        }
        segment
    }

    /// The files that are begun and not done.
    pub(super) fn active(&self) -> Vec<Arc<Partial>> {
        self.lock().active.iter().map(|file| Arc::clone(&file.partial)).collect()
    }

    /// An answer came, so long after it was asked for.
    pub(super) fn answered(&self, took: Duration) {
        self.lock().pace.answered(took);
    }

    /// Whether the segment's next unit, which is complete in memory, may be written: after this nobody takes it over.
    pub(super) fn claim_store(&self, segment: &Segment) -> bool {
        self.set_busy(segment, true);
        !segment.is_taken()
    }

    /// Says whether the segment's owner is held by something else than the network.
    pub(super) fn set_busy(&self, segment: &Segment, is_busy: bool) {
        let _state = self.lock();
        segment.hear();
        segment.is_busy.store(is_busy, Ordering::Relaxed);
    }

    /// The segment's next unit is stored.
    pub(super) fn stored(&self, segment: &Arc<Segment>, bytes: u64) -> After {
        let mut state = self.lock();
        segment.is_busy.store(false, Ordering::Relaxed);
        state.units_stored += 1;
        segment.mark.store(state.units_stored, Ordering::Relaxed);
        let running = state.running;
        if state.pace.moved(bytes, running, Instant::now()) {
            self.changed.notify_all();
        }
        state.advance(segment, 1)
    }

    /// The segment's next unit was there already, or another stores it.
    pub(super) fn passed(&self, segment: &Arc<Segment>) -> After {
        segment.is_busy.store(false, Ordering::Relaxed);
        self.lock().advance(segment, 0)
    }

    /// A whole file's segment begins at the beginning again.
    pub(super) fn rewind(&self, segment: &Segment) {
        let _state = self.lock();
        segment.at.store(segment.from, Ordering::Relaxed);
    }

    /// The segment's server ignores ranges: all who fetch parts of its file leave it, and it comes as a whole.
    pub(super) fn ignores_ranges(&self, segment: &Arc<Segment>) {
        let mut state = self.lock();
        state.running -= 1;
        // Another one may have said so before.
        let file = state.active.iter_mut().find(|file| file.index == segment.index && !segment.is_taken());
        if let Some(file) = file {
            file.is_whole = true;
            for other in std::mem::take(&mut file.running) {
                other.is_taken.store(true, Ordering::Relaxed);
            }
            file.free.clear();
            file.put_back(std::iter::once(0..file.partial.unit_count()));
        }
        self.changed.notify_all();
    }

    /// An attempt on the segment failed.
    pub(super) fn failed(&self, segment: &Arc<Segment>, error: &Error, had_progress: bool) -> Verdict {
        let mut state = self.lock();
        let now = Instant::now();
        if segment.is_taken() {
            state.running -= 1;
            return Verdict::Left;
        }
        // What is longer than anybody waits ends the attempts of whoever heard it; nobody else waits for it either.
        if let Some(wish) = error.retry_after().filter(|wish| *wish <= self.granted_max) {
            let until = now + wish;
            state.hold_until = Some(state.hold_until.map_or(until, |other| other.max(until)));
        }
        if error.retry_after().is_some() || !had_progress {
            state.pace.refused(error.kind(), now);
        }
        let Some(file) = state.active.iter_mut().find(|file| file.index == segment.index) else {
            return Verdict::Enough;
        };
        file.failures += 1;
        if file.failures > FAILURES + file.partial.unit_count() / 64 {
            return Verdict::Enough;
        }
        if state.running > state.pace.allowed() {
            self.leave(&mut state, segment);
            return Verdict::Left;
        }
        Verdict::Again
    }

    /// The segment failed as often in a row as it may. Whether it is left to others, because they do have progress: then it
    /// is this connection that is one too many.
    pub(super) fn gave_up(&self, segment: &Arc<Segment>) -> bool {
        let mut state = self.lock();
        if segment.is_taken() {
            state.running -= 1;
            return true;
        }
        let others = state.units_stored > segment.mark.load(Ordering::Relaxed) && state.running > 1;
        if others {
            self.leave(&mut state, segment);
        }
        others
    }

    /// The segment is given back as far as it is not fetched.
    fn leave(&self, state: &mut State, segment: &Arc<Segment>) {
        state.running -= 1;
        if let Some(file) = state.active.iter_mut().find(|file| file.index == segment.index) {
            file.running.retain(|other| !Arc::ptr_eq(other, segment));
            file.put_back([segment.left()]);
        }
        self.changed.notify_all();
    }

    /// A connection whose segment was taken over is free again.
    pub(super) fn released(&self) {
        self.lock().running -= 1;
        self.changed.notify_one();
    }

    /// Whoever finished a file's hash has said what comes of it.
    pub(super) fn finished(&self) {
        self.lock().finishing -= 1;
    }

    /// Units of a complete file are missing after all, or all of them: its hash was wrong.
    pub(super) fn missing(&self, index: usize, ranges: Vec<Range<u64>>) {
        let mut state = self.lock();
        if let Some(file) = state.active.iter_mut().find(|file| file.index == index) {
            file.units_left += ranges.iter().map(|range| range.end - range.start).sum::<u64>();
            file.put_back(ranges);
        }
        self.changed.notify_all();
    }

    /// A file's hash was wrong. Whether this is the first time, and it shall come once more.
    pub(super) fn may_try_again(&self, index: usize) -> bool {
        let mut state = self.lock();
        let file = state.active.iter_mut().find(|file| file.index == index);
        file.is_some_and(|file| !std::mem::replace(&mut file.is_second_try, true))
    }

    /// A file is whole and verified.
    pub(super) fn complete(&self, complete: Complete) {
        let mut state = self.lock();
        state.active.retain(|file| file.index != complete.index);
        state.syncing += 1;
        state.complete.push(complete);
    }

    /// So many files are on the disk and done.
    pub(super) fn synced(&self, count: usize) {
        let mut state = self.lock();
        state.is_syncing = false;
        state.syncing -= count;
        state.left -= count;
        if state.left == 0 || !state.complete.is_empty() {
            self.changed.notify_all();
        }
    }
}

impl Active {
    /// Whether one more connection can do something for it.
    fn has_more(&self) -> bool {
        !self.free.is_empty() && (!self.is_whole || self.running.is_empty())
    }

    fn put_back(&mut self, ranges: impl IntoIterator<Item = Range<u64>>) {
        self.free.extend(ranges.into_iter().filter(|range| !range.is_empty()));
        self.free.sort_by_key(|range| range.start);
    }
}

impl State {
    /// Whether all would wait for ever. It cannot be, but if it were, nobody would ever hear of it.
    fn is_lost(&self) -> bool {
        let at_work = self.running + self.finishing + self.complete.len();
        at_work == 0 && !self.is_syncing && self.hold_until.is_none()
    }

    /// A connection's next task, if there may be one more connection.
    fn fetch(&mut self, files_max: usize) -> Option<Work> {
        let now = Instant::now();
        if self.running >= self.pace.allowed() || self.hold_until.is_some_and(|until| now < until) {
            return None;
        }
        self.hold_until = None;
        let has_room = self.active.len() + self.opening < files_max && self.syncing < SYNCING_MAX;
        if let Some(index) = has_room.then(|| self.waiting.pop_front()).flatten() {
            self.opening += 1;
            return Some(Work::Open(index));
        }
        let with_free = self.active.iter().enumerate().filter(|(_, file)| file.has_more());
        let fewest = with_free.min_by_key(|(_, file)| file.running.len());
        match fewest.map(|(place, _)| place) {
            Some(place) => self.give(place).map(Work::Fetch),
            None => self.split(now).map(Work::Fetch),
        }
    }

    /// A segment's next unit is there, of which `new` were missing before.
    fn advance(&mut self, segment: &Arc<Segment>, new: u64) -> After {
        let at = segment.at.fetch_add(1, Ordering::Relaxed) + 1;
        let is_at_end = at >= segment.end.load(Ordering::Relaxed);
        let mut after = if is_at_end { After::Over } else { After::More };
        if let Some(file) = self.active.iter_mut().find(|file| file.index == segment.index) {
            file.units_left -= new;
            if new > 0 && file.units_left == 0 {
                after = After::Complete;
                self.finishing += 1;
            }
            if after != After::More {
                file.running.retain(|other| !Arc::ptr_eq(other, segment));
            }
        }
        if after != After::More {
            self.running -= 1;
        }
        after
    }

    /// The front of what is free of a file.
    fn give(&mut self, place: usize) -> Option<Arc<Segment>> {
        let others = self.active.iter().filter(|file| file.has_more()).count();
        let is_alone = others + self.opening + self.waiting.len() >= self.pace.allowed();
        let units_max = if is_alone { ALONE_UNITS } else { self.pace.segment_bytes() / UNIT_BYTES };
        let file = self.active.get_mut(place)?;
        if file.is_whole {
            file.free.clear();
            let units = 0..file.partial.unit_count();
            return Some(self.begin(place, units, 0));
        }
        let first = file.free.first_mut()?;
        let units = first.start..first.end.min(first.start + units_max.max(1));
        first.start = units.end;
        if first.is_empty() {
            file.free.remove(0);
        }
        Some(self.begin(place, units, 0))
    }

    fn begin(&mut self, place: usize, units: Range<u64>, silences: u32) -> Arc<Segment> {
        let file = &mut self.active[place];
        let is_whole = file.is_whole;
        let segment = Arc::new(Segment {
            is_whole,
            index: file.index,
            partial: Arc::clone(&file.partial),
            at: AtomicU64::new(units.start),
            end: AtomicU64::new(units.end),
            from: units.start,
            since: Instant::now(),
            silences,
            heard_ms: AtomicU64::new(0),
            is_taken: AtomicBool::new(false),
            is_busy: AtomicBool::new(false),
            mark: AtomicU64::new(self.units_stored),
        });
        file.running.push(Arc::clone(&segment));
        segment
    }

    /// The second half of the segment that would take longest; or all of one that hears nothing.
    fn split(&mut self, now: Instant) -> Option<Arc<Segment>> {
        let shared = || self.active.iter().enumerate().filter(|(_, file)| !file.is_whole);
        let running = shared().flat_map(|(place, file)| {
            file.running.iter().map(move |segment| (place, segment, segment.seconds_left(now)))
        });
        let (place, segment, seconds) = running.max_by(|a, b| a.2.total_cmp(&b.2))?;
        let left = segment.left();
        if seconds >= SPLIT_SECONDS && left.end - left.start >= 2 {
            // The owner keeps the unit that it is at.
            let middle = left.start + 1 + (left.end - left.start - 1) / 2;
            segment.end.store(middle, Ordering::Relaxed);
            return Some(self.begin(place, middle..left.end, 0));
        }
        let silent = shared().find_map(|(place, file)| {
            Some((place, Arc::clone(file.running.iter().find(|segment| segment.is_silent(now))?)))
        });
        let (place, segment) = silent?;
        segment.is_taken.store(true, Ordering::Relaxed);
        let left = segment.left();
        let file = &mut self.active[place];
        file.running.retain(|other| !Arc::ptr_eq(other, &segment));
        let silences = if segment.from == left.start { segment.silences + 1 } else { 1 };
        Some(self.begin(place, left, silences))
    }
}
