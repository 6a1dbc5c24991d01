//! Reading by offset from far away: [`ReadAt`] over anything that gives ranges.
//!
//! Who reads much asks for much: a read of a mebibyte or more is one request for exactly that range, straight into the
//! caller's memory, and many threads make many of them at a time. Small reads (headers, a zip's directory at the end, a
//! tensor of a few numbers, rows that a recipe picks) would each cost a round trip; they go through blocks that are kept for
//! a while. A block that follows those which were read before brings its successors with it, twice as many each time, so
//! that who reads in small steps asks in large ones, and who jumps pays for one block.
//!
//! There is no thread behind it: what is read ahead comes with a request that is made anyway, piece by piece, and whoever
//! waits for a piece has it as soon as it is there. All files of the process share one store of blocks of bounded size.
//! Failures are tried again from the byte that they happened at.

use super::ranged::{Patience, Policy, Ranged, stopped};
use super::stop;
use super::{ReadAt, Temper};
use crate::error::{Error, ErrorKind, Result};
use crate::source::local::LocalFile;
use hashbrown::HashMap;
use std::io::IoSliceMut;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Reads of so many bytes are requests of their own: what the engine reads at once is a mebibyte, or whole rows below it.
const WHOLE_BYTES_MIN: usize = 768 << 10;

/// What is kept of small reads, and asked for at least.
const BLOCK_BYTES: u64 = 64 << 10;

/// The most blocks that are asked for ahead in one request.
const AHEAD_BLOCKS_MAX: u64 = 16;

/// The most blocks that are kept, of all files together. A request on its way adds up to [`AHEAD_BLOCKS_MAX`] for each
/// thread that reads.
const KEPT_BLOCKS_MAX: usize = (48 << 20) / BLOCK_BYTES as usize;

/// Gaps that are read over: on most ways a request costs as much as a mebibyte.
const GAP_BYTES_MAX: u64 = 1 << 20;

/// Requests at once that most ways bear, and need to be filled.
const DEPTH: u32 = 16;

/// How often who waits for another's request looks whether to stop.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What reading one file cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Requests for ranges, those that failed included.
    pub requests: u64,
    /// Bytes that came.
    pub bytes: u64,
}

/// A file far away, read by offset.
#[derive(Debug)]
pub struct Ahead {
    from: Arc<dyn Ranged>,
    policy: Policy,
    /// Which file its blocks are of.
    number: u64,
    requests: AtomicU64,
    bytes: AtomicU64,
}

/// A block, on its way or here.
#[derive(Debug)]
enum Block {
    Coming,
    Here { bytes: Arc<[u8]>, used: u64 },
}

/// The blocks of all files.
#[derive(Debug, Default)]
struct Blocks {
    by_place: HashMap<(u64, u64), Block>,
    here_count: usize,
    clock: u64,
}

#[derive(Debug, Default)]
struct Store {
    blocks: Mutex<Blocks>,
    changed: Condvar,
}

static STORE: LazyLock<Store> = LazyLock::new(Store::default);
static FILES: AtomicU64 = AtomicU64::new(0);

impl Store {
    fn lock(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Blocks {
    /// A block that is here; it counts as used.
    fn get(&mut self, place: (u64, u64)) -> Option<&Block> {
        self.clock += 1;
        let clock = self.clock;
        let block = self.by_place.get_mut(&place)?;
        if let Block::Here { used, .. } = block {
            *used = clock;
        }
        Some(block)
    }

    /// A block has come; the one that was used longest ago makes room.
    fn put(&mut self, place: (u64, u64), bytes: Arc<[u8]>) {
        while self.here_count >= KEPT_BLOCKS_MAX {
            let oldest = self.by_place.iter().filter_map(|(&place, block)| match block {
                Block::Here { used, .. } => Some((*used, place)),
                Block::Coming => None,
            });
            let Some((_, oldest)) = oldest.min() else { break };
            self.by_place.remove(&oldest);
            self.here_count -= 1;
        }
        self.clock += 1;
        let here = Block::Here { bytes, used: self.clock };
        if !matches!(self.by_place.insert(place, here), Some(Block::Here { .. })) {
            self.here_count += 1;
        }
    }
}

/// Blocks that one thread has promised to bring. What it did not bring is free for others when this ends.
struct Promise {
    number: u64,
    blocks: Range<u64>,
}

impl Drop for Promise {
    fn drop(&mut self) {
        let mut store = STORE.lock();
        for block in self.blocks.clone() {
            if matches!(store.by_place.get(&(self.number, block)), Some(Block::Coming)) {
                store.by_place.remove(&(self.number, block));
            }
        }
        drop(store);
        STORE.changed.notify_all();
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        let mut store = STORE.lock();
        store.by_place.retain(|(number, _), _| *number != self.number);
        store.here_count = store.by_place.values().filter(|b| matches!(b, Block::Here { .. })).count();
    }
}

impl Ahead {
    /// Reads by offset from `from`; what fails is tried again as `policy` says.
    pub fn new(from: Arc<dyn Ranged>, policy: Policy) -> Ahead {
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        Ahead { from, policy, number, requests: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }

    /// What it cost so far.
    pub fn cost(&self) -> Cost {
        Cost { requests: self.requests.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }

    /// Brings a range, piece by piece in order, each byte once whatever fails on the way.
    fn bring(&self, range: Range<u64>, take: &mut dyn FnMut(&[u8])) -> Result<()> {
        let stop: &(dyn Fn() -> bool + Sync) = &stop::is_set;
        let mut patience = Patience::new(self.policy);
        let mut at = range.start;
        while at < range.end {
            self.requests.fetch_add(1, Ordering::Relaxed);
            let attempt = self.from.open(at..range.end, stop).and_then(|mut body| {
                while let Some(piece) = body.next(stop)? {
                    let left = usize::try_from(range.end - at).unwrap_or(usize::MAX);
                    let piece = piece.get(..left).unwrap_or(&piece);
                    self.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
                    take(piece);
                    at += piece.len() as u64;
                    patience.progressed(piece.len() as u64);
                }
                Ok(())
            });
            match attempt {
                Ok(()) if at == range.end => {}
                Ok(()) => patience.wait(Error::new(ErrorKind::Io, "the body ended early").at(at), stop)?,
                Err(e) => patience.wait(e, stop)?,
            }
        }
        Ok(())
    }

    /// A block; brought if nobody has. `end` is the first block behind what is wanted.
    fn block(&self, block: u64, end: u64) -> Result<Arc<[u8]>> {
        let mut store = STORE.lock();
        loop {
            match store.get((self.number, block)) {
                Some(Block::Here { bytes, .. }) => return Ok(Arc::clone(bytes)),
                Some(Block::Coming) => {
                    let waited = STORE.changed.wait_timeout(store, LOOK_EVERY);
                    store = waited.unwrap_or_else(PoisonError::into_inner).0;
                    if stop::is_set() {
                        return Err(stopped());
                    }
                }
                None => {
                    let is_free = |b: &u64| !store.by_place.contains_key(&(self.number, *b));
                    let read_before = (1..=AHEAD_BLOCKS_MAX)
                        .take_while(|back| block.checked_sub(*back).is_some_and(|before| !is_free(&before)));
                    let count = (end - block).max(read_before.count() as u64);
                    let last = block.saturating_add(count).min(self.size_bytes().div_ceil(BLOCK_BYTES));
                    let blocks = block..(block..last).find(|b| !is_free(b)).unwrap_or(last);
                    for one in blocks.clone() {
                        store.by_place.insert((self.number, one), Block::Coming);
                    }
                    drop(store);
                    self.bring_blocks(Promise { number: self.number, blocks })?;
                    store = STORE.lock();
                }
            }
        }
    }

    fn bring_blocks(&self, promise: Promise) -> Result<()> {
        let size_of = |block: u64| (self.size_bytes() - block * BLOCK_BYTES).min(BLOCK_BYTES) as usize;
        let mut block = promise.blocks.start;
        let mut filling: Vec<u8> = Vec::with_capacity(size_of(block));
        let range = block * BLOCK_BYTES..(promise.blocks.end * BLOCK_BYTES).min(self.size_bytes());
        self.bring(range, &mut |mut piece| {
            while !piece.is_empty() {
                let (now, later) = piece.split_at(piece.len().min(size_of(block) - filling.len()));
                filling.extend_from_slice(now);
                piece = later;
                if filling.len() == size_of(block) {
                    let bytes = std::mem::take(&mut filling).into();
                    STORE.lock().put((self.number, block), bytes);
                    STORE.changed.notify_all();
                    block += 1;
                }
            }
        })
    }

    /// How much of a read lies within the file.
    fn within(&self, wanted: usize, offset_bytes: u64) -> usize {
        let left = self.size_bytes().saturating_sub(offset_bytes);
        wanted.min(usize::try_from(left).unwrap_or(usize::MAX))
    }
}

impl ReadAt for Ahead {
    fn size_bytes(&self) -> u64 {
        self.from.size_bytes()
    }

    fn read_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<usize> {
        let count = self.within(buf.len(), offset_bytes);
        let buf = &mut buf[..count];
        if count >= WHOLE_BYTES_MIN {
            let mut done = 0;
            self.bring(offset_bytes..offset_bytes + count as u64, &mut |piece| {
                buf[done..done + piece.len()].copy_from_slice(piece);
                done += piece.len();
            })?;
            return Ok(count);
        }
        let end = (offset_bytes + count as u64).div_ceil(BLOCK_BYTES);
        let mut done = 0;
        while done < count {
            let at = offset_bytes + done as u64;
            let bytes = self.block(at / BLOCK_BYTES, end)?;
            let bytes = bytes.get((at % BLOCK_BYTES) as usize..).unwrap_or_default();
            let take = bytes.len().min(count - done);
            if take == 0 {
                return Err(Error::bug("a block is shorter than its file says").at(at));
            }
            buf[done..done + take].copy_from_slice(&bytes[..take]);
            done += take;
        }
        Ok(count)
    }

    fn read_vectored_at(&self, buffers: &mut [IoSliceMut<'_>], offset_bytes: u64) -> Result<()> {
        let wanted: usize = buffers.iter().map(|b| b.len()).sum();
        if wanted < WHOLE_BYTES_MIN || self.within(wanted, offset_bytes) < wanted {
            return super::read_each_at(self, buffers, offset_bytes);
        }
        let mut places = buffers.iter_mut().map(|b| &mut b[..]);
        let mut place: &mut [u8] = &mut [];
        self.bring(offset_bytes..offset_bytes + wanted as u64, &mut |mut piece| {
            while !piece.is_empty() {
                if place.is_empty() {
                    let Some(next) = places.next() else { return };
                    place = next;
                }
                let (now, later) = piece.split_at(piece.len().min(place.len()));
                let (filled, rest) = std::mem::take(&mut place).split_at_mut(now.len());
                filled.copy_from_slice(now);
                (piece, place) = (later, rest);
            }
        })
    }

    fn version(&self) -> Option<&str> {
        self.from.version()
    }

    fn temper(&self) -> Temper {
        Temper { gap_bytes_max: GAP_BYTES_MAX, depth: DEPTH, network: true }
    }

    fn as_local(&self) -> Option<&LocalFile> {
        None
    }
}
