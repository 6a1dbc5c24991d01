//! Sinks: where bytes go. A sink is shared by all workers; each works through a lane of its own.
//!
//! Slots are owned and pass from hand to hand: a lane gives one out, it is filled (by this thread or by the kernel),
//! and goes back with [`Lane::put`], which may keep it until a transfer from it has ended.

#[cfg(feature = "cuda")]
pub mod cuda;
pub mod device;
pub mod file;
pub mod host;
pub mod output;

use crate::buf::Slot;
use crate::error::Result;
use crate::plan::{ArenaId, Dest, Kernel, Put, Unit};
use crate::transform::cast;
use std::sync::{Mutex, PoisonError};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Bytes a unit reads at most on its way to a GPU: slots of this size stay in the last-level cache.
pub const GPU_CHUNK_BYTES: u64 = 1 << 20;
/// Slots of the pinned ring, at most 64 MiB in all.
pub const GPU_SLOT_COUNT: usize = 48;
/// A slot holds a chunk, an element that was cut, and the pages around it that a direct read brings.
pub const SLOT_MARGIN_BYTES: usize = 8192;

/// Where bytes go.
pub trait Sink: Sync {
    /// One worker's end, with the slots it may use. Called in the worker's own thread.
    fn lane(&self, slots: Vec<Slot>) -> Result<Box<dyn Lane + '_>>;

    /// The final places of a unit's bytes, in their order, where they can be read into directly; `None` where they must
    /// pass through a slot.
    #[allow(clippy::mut_from_ref)] // each place is handed out once: see `buf::Filling`
    fn in_place(&self, unit: &Unit) -> Option<Vec<(u64, &mut [u8])>>;
}

/// One worker's end of a sink.
pub trait Lane {
    /// A slot that is free, waiting for a transfer if need be; `None` when all are in the hands of the reader.
    fn slot(&mut self) -> Result<Option<Slot>>;

    /// Takes a filled slot: the unit's bytes begin at `skip_bytes`.
    fn put(&mut self, slot: Slot, skip_bytes: usize, unit: &Unit) -> Result<()>;

    /// Waits until everything has arrived; gives the slots back.
    fn finish(self: Box<Self>) -> Result<Vec<Slot>>;
}

/// What was sent to a place, as a hash taken before it left: xxh3 of the bytes as they should arrive.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// The arena.
    pub arena: ArenaId,
    /// The first byte.
    pub offset_bytes: u64,
    /// How many.
    pub size_bytes: u64,
    /// Their hash.
    pub xxh3: u64,
}

/// The record of what was sent, where a check was asked for.
#[derive(Debug, Default)]
pub struct Record(Option<Mutex<Vec<Arrival>>>);

impl Record {
    /// A record, or none.
    pub fn new(wanted: bool) -> Record {
        Record(wanted.then(|| Mutex::new(Vec::new())))
    }

    /// Whether anything is recorded.
    pub fn is_wanted(&self) -> bool {
        self.0.is_some()
    }

    /// Notes what a put shall bring, `source` being the unit's bytes and `scratch` room for a cast.
    fn note(&self, source: &[u8], put: &Put, saturate: bool, scratch: &mut Vec<u8>) {
        let Some(arrivals) = &self.0 else { return };
        let add = |offset_bytes, size_bytes, xxh3| {
            let arrival = Arrival { arena: put.to.arena, offset_bytes, size_bytes, xxh3 };
            arrivals.lock().unwrap_or_else(PoisonError::into_inner).push(arrival);
        };
        if put.to.pitch_bytes == put.kernel.output_bytes(put.row_bytes) {
            let mut hash = Xxh3::new();
            for (_, row) in rows(source, put) {
                hash.update(kernel_output(row, put, saturate, scratch).0);
            }
            add(put.to.offset_bytes, put.output_bytes(), hash.digest());
        } else {
            for (to, row) in rows(source, put) {
                let (row, _) = kernel_output(row, put, saturate, scratch);
                add(to.offset_bytes, row.len() as u64, xxh3_64(row));
            }
        }
    }

    /// What was noted, in the order of places.
    pub fn take(&self) -> Vec<Arrival> {
        let Some(arrivals) = &self.0 else { return Vec::new() };
        let mut arrivals = std::mem::take(&mut *arrivals.lock().unwrap_or_else(PoisonError::into_inner));
        arrivals.sort_by_key(|a| (a.arena, a.offset_bytes));
        arrivals
    }
}

/// The bytes a row becomes, and how many values overflowed.
fn kernel_output<'a>(row: &'a [u8], put: &Put, saturate: bool, scratch: &'a mut Vec<u8>) -> (&'a [u8], u64) {
    match put.kernel {
        Kernel::Copy => (row, 0),
        Kernel::Cast { from, to } => {
            scratch.resize(put.kernel.output_bytes(row.len() as u64) as usize, 0);
            let overflows = cast::cast(from, to, row, scratch, saturate);
            (scratch, overflows)
        }
    }
}

/// The rows of a put: where each goes, and its bytes among the unit's.
fn rows<'a>(source: &'a [u8], put: &'a Put) -> impl Iterator<Item = (Dest, &'a [u8])> {
    (0..put.row_count).map(|n| {
        let from = (put.from_bytes + n * put.pitch_bytes) as usize;
        let to = Dest { offset_bytes: put.to.offset_bytes + n * put.to.pitch_bytes, ..put.to };
        (to, source.get(from..from + put.row_bytes as usize).unwrap_or(&[]))
    })
}
