//! Streaming and keeping: what readers take from the hub goes into the cache too, so that the next run finds it there.
//!
//! A [`Tee`] stands between the files of a repo and their readers. What passes is written into the partial files that a fetch
//! takes up; when the readers are done, a fetch of the same repo ([`Tee::end`] says what it needs) brings what nobody
//! read, hashes all of it, and gives the names. So nothing is in the cache that a fetch has not verified, and a run that
//! breaks off leaves what a broken fetch leaves.
//!
//! What comes twice: the revision and the listing, which the fetch asks for again, and at most a unit of 256 KiB at each
//! edge of what was read. Small files are kept in memory until the end, whole.

use super::choose::Wishes;
use super::hash;
use super::store::{self, Store, held};
use super::transfer::Item;
use super::transfer::passing::{Passing, SMALL_BYTES_MAX};
use super::wish::Wish;
use crate::error::{Error, ErrorKind, Result};
use crate::source::hub::api::TreeFile;
use crate::source::hub::cache::{Cache, Repo};
use crate::source::hub::place::Through;
use crate::source::ranged::{Body, Ranged, Stop};
use crate::text::Shown;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Keeps what passes, in a cache.
#[derive(Debug)]
pub struct Tee {
    cache: Cache,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Files that are written while they are read, by where they are written.
    passing: HashMap<PathBuf, (Arc<Passing>, held::Held)>,
    small: BTreeMap<String, Arc<Small>>,
    /// Paths of files that were opened.
    opened: BTreeSet<String>,
    notes: Vec<String>,
}

/// What a fetch needs to end what was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Which repo, and what of it.
    pub wish: Wish,
    /// What of it, besides what the wish says.
    pub wishes: Wishes,
    /// Small files that have come whole, by their paths.
    pub at_hand: BTreeMap<String, Vec<u8>>,
    /// Bytes that the network brought while larger files were read, those that came twice counted twice.
    pub received_bytes: u64,
    /// What could not be kept, and why.
    pub notes: Vec<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tee {
    /// Into this cache.
    pub fn new(cache: Cache) -> Tee {
        Tee { cache, state: Mutex::default() }
    }

    /// Ends the keeping, releases the files, and says what a fetch of `wish` is to be given. `None` where nothing passed.
    pub fn end(&self, mut wish: Wish) -> Option<End> {
        let State { passing, small, opened, mut notes } = std::mem::take(&mut *lock(&self.state));
        let mut received_bytes = 0;
        for (passing, _) in passing.values() {
            passing.close();
            received_bytes += passing.received_bytes();
            notes.extend(passing.failure().map(|e| format!("not all that came was kept: {e}")));
        }
        if opened.is_empty() {
            return None;
        }
        let at_hand = small.into_iter().filter_map(|(path, small)| Some((path, small.bytes.get()?.to_vec())));
        let at_hand = at_hand.collect();
        let mut wishes = Wishes::default();
        // What looks like a file in a name may be a folder.
        if let Some(folder) = wish.file.take_if(|file| !opened.contains(file)) {
            wishes.include.push(format!("{}/", globset::escape(&folder)));
        }
        Some(End { wish, wishes, at_hand, received_bytes, notes })
    }

    fn comes_again(&self, file: &TreeFile, why: &str) -> Result<Option<Arc<Passing>>> {
        let note = format!("{}: not kept while it is read: {why}", Shown(&file.path));
        let mut state = lock(&self.state);
        if !state.notes.contains(&note) {
            state.notes.push(note);
        }
        Ok(None)
    }

    /// The writer of a file; `None` where it is there already, or cannot be kept.
    fn passing(
        &self,
        store: &Store,
        file: &TreeFile,
        from: &Arc<dyn Ranged>,
    ) -> Result<Option<Arc<Passing>>> {
        if store.is_cached(file) {
            return Ok(None);
        }
        let (Some(lock_path), Some(expected)) = (store.lock(file), store::expected(file)) else {
            return self.comes_again(file, "no listing tells its hash");
        };
        let to = store.partial(file, false);
        if let Some((passing, _)) = lock(&self.state).passing.get(&to) {
            return Ok(Some(Arc::clone(passing)));
        }
        store.prepare()?;
        let Some(held) = held::hold_free(&lock_path)? else {
            return self.comes_again(file, "another process fetches it");
        };
        let item = Item {
            from: Arc::clone(from),
            to: to.clone(),
            size_bytes: file.size_bytes,
            expected: Some(expected),
        };
        let passing = Arc::new(Passing::open(&item)?);
        lock(&self.state).passing.insert(to, (Arc::clone(&passing), held));
        Ok(Some(passing))
    }
}

impl Through for Tee {
    fn through(&self, repo: &Repo, commit: &str, file: &TreeFile, from: Arc<dyn Ranged>) -> Arc<dyn Ranged> {
        // A listing that a fetch would refuse is none to write names by.
        if store::check_listing(std::slice::from_ref(file)).is_err() || file.size_bytes != from.size_bytes() {
            return from;
        }
        lock(&self.state).opened.insert(file.path.clone());
        if file.size_bytes == 0 {
            return from;
        }
        if file.size_bytes <= SMALL_BYTES_MAX {
            let mut state = lock(&self.state);
            let small = state.small.entry(file.path.clone());
            let small =
                small.or_insert_with(|| Arc::new(Small { file: file.clone(), from, bytes: OnceLock::new() }));
            return Arc::clone(small) as Arc<dyn Ranged>;
        }
        let store = Store::cache(&self.cache, repo, commit, true);
        match self.passing(&store, file, &from) {
            Ok(Some(passing)) => Arc::new(Large { from, passing }),
            Ok(None) => from,
            Err(error) => {
                lock(&self.state).notes.push(format!("what came was not kept: {error}"));
                from
            }
        }
    }
}

/// A file of which parts are kept.
#[derive(Debug)]
struct Large {
    from: Arc<dyn Ranged>,
    passing: Arc<Passing>,
}

impl Ranged for Large {
    fn name(&self) -> &str {
        self.from.name()
    }

    fn size_bytes(&self) -> u64 {
        self.from.size_bytes()
    }

    fn version(&self) -> Option<&str> {
        self.from.version()
    }

    fn open(&self, range: Range<u64>, _: Stop<'_>) -> Result<Box<dyn Body>> {
        let (from, passing) = (Arc::clone(&self.from), Arc::clone(&self.passing));
        Ok(Box::new(Kept { from, passing, range, body: None }))
    }
}

/// A range, partly from the disk.
struct Kept {
    from: Arc<dyn Ranged>,
    passing: Arc<Passing>,
    /// What has not been given yet.
    range: Range<u64>,
    /// What comes now, and where that ends.
    body: Option<(Box<dyn Body>, u64)>,
}

impl Body for Kept {
    fn next(&mut self, stop: Stop<'_>) -> Result<Option<Bytes>> {
        if self.range.is_empty() {
            return Ok(None);
        }
        if self.body.as_ref().is_none_or(|(_, end)| *end <= self.range.start) {
            self.body = None;
            if let Some(bytes) = self.passing.read(self.range.clone())? {
                self.range.start += bytes.len() as u64;
                return Ok(Some(bytes.into()));
            }
            let end = self.passing.missing_end(self.range.clone())?;
            self.body = Some((self.from.open(self.range.start..end, stop)?, end));
        }
        let Some((body, _)) = &mut self.body else { return Ok(None) };
        let Some(piece) = body.next(stop)? else {
            return Err(Error::new(ErrorKind::Io, "the body ended early").at(self.range.start));
        };
        self.passing.keep(&piece, self.range.start);
        self.range.start += piece.len() as u64;
        Ok(Some(piece))
    }
}

/// A small file: it comes whole when anything of it is read.
#[derive(Debug)]
struct Small {
    file: TreeFile,
    from: Arc<dyn Ranged>,
    bytes: OnceLock<Bytes>,
}

impl Small {
    fn whole(&self, stop: Stop<'_>) -> Result<Bytes> {
        if let Some(bytes) = self.bytes.get() {
            return Ok(bytes.clone());
        }
        let mut bytes = Vec::with_capacity(usize::try_from(self.size_bytes()).unwrap_or_default());
        let mut body = self.from.open(0..self.size_bytes(), stop)?;
        while let Some(piece) = body.next(stop)? {
            bytes.extend_from_slice(&piece);
        }
        if bytes.len() as u64 != self.size_bytes() {
            return Err(Error::new(ErrorKind::Io, "the body ended early").at(bytes.len() as u64));
        }
        if let Some(expected) = store::expected(&self.file) {
            let found = hash::of_bytes(&bytes, hash::kind(&expected));
            if found != expected {
                let message = format!("has {} {found}, expected {expected}", expected.name());
                return Err(Error::new(ErrorKind::Integrity, message).file(self.file.path.clone()));
            }
        }
        Ok(self.bytes.get_or_init(|| bytes.into()).clone())
    }
}

impl Ranged for Small {
    fn name(&self) -> &str {
        self.from.name()
    }

    fn size_bytes(&self) -> u64 {
        self.from.size_bytes()
    }

    fn version(&self) -> Option<&str> {
        self.from.version()
    }

    fn open(&self, range: Range<u64>, stop: Stop<'_>) -> Result<Box<dyn Body>> {
        let bytes = self.whole(stop)?;
        let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(bytes.len());
        Ok(Box::new(Once(Some(bytes.slice(at(range.start)..at(range.end))))))
    }
}

/// Bytes that are here.
struct Once(Option<Bytes>);

impl Body for Once {
    fn next(&mut self, _: Stop<'_>) -> Result<Option<Bytes>> {
        Ok(self.0.take().filter(|bytes| !bytes.is_empty()))
    }
}
