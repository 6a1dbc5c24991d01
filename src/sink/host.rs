//! Host memory: arenas that readers fill in place, or through slots where bytes must be changed, cut or checked.

use super::{Lane, Record, Sink, kernel_output, rows};
use crate::buf::{Arena, Filling, Slot};
use crate::error::{Error, Result};
use crate::plan::{ArenaId, Dest, Kernel, Plan, Unit};
use crate::transform::cast;
use std::sync::atomic::{AtomicU64, Ordering};

/// Arenas while they are filled.
#[derive(Debug)]
pub struct HostSink {
    arenas: Vec<Filling>,
    saturate: bool,
    overflows: AtomicU64,
    /// What was sent, where that was asked for.
    pub record: Record,
}

impl HostSink {
    /// Makes the plan's arenas. Nothing is touched yet.
    pub fn new(plan: &Plan, saturate: bool, check: bool) -> Result<HostSink> {
        let arenas = plan
            .arenas
            .iter()
            .map(|a| Arena::new(a.size_bytes, a.dtype.facts().block_bytes).map(Filling::new))
            .collect::<Result<_>>()?;
        Ok(HostSink { arenas, saturate, overflows: AtomicU64::new(0), record: Record::new(check) })
    }

    /// Finite values that a cast made infinite, or would have.
    pub fn overflow_count(&self) -> u64 {
        self.overflows.load(Ordering::Relaxed)
    }

    /// The filled arenas.
    pub fn finish(self) -> Vec<Arena> {
        self.arenas.into_iter().map(Filling::finish).collect()
    }

    #[allow(clippy::mut_from_ref)] // each byte is handed out once
    fn take(&self, arena: ArenaId, offset_bytes: u64, size_bytes: u64) -> Result<&mut [u8]> {
        let place = self.arenas.get(arena.index()).and_then(|a| a.take(offset_bytes, size_bytes));
        place.ok_or_else(|| {
            Error::bug(format!("the plan names bytes {offset_bytes}+{size_bytes} of arena {} twice", arena.0))
        })
    }
}

impl Sink for HostSink {
    fn lane(&self, slots: Vec<Slot>) -> Result<Box<dyn Lane + '_>> {
        Ok(Box::new(HostLane { sink: self, free: slots, scratch: Vec::new() }))
    }

    fn in_place(&self, unit: &Unit) -> Option<Vec<(u64, &mut [u8])>> {
        if unit.fix.is_some() || self.record.is_wanted() {
            return None;
        }
        let mut end = 0;
        for put in &unit.puts {
            if put.kernel != Kernel::Copy || !put.is_contiguous() || put.from_bytes < end {
                return None;
            }
            end = put.from_bytes + put.row_bytes;
        }
        unit.puts
            .iter()
            .map(|put| {
                Some((put.from_bytes, self.take(put.to.arena, put.to.offset_bytes, put.row_bytes).ok()?))
            })
            .collect()
    }
}

struct HostLane<'a> {
    sink: &'a HostSink,
    free: Vec<Slot>,
    scratch: Vec<u8>,
}

impl Lane for HostLane<'_> {
    fn slot(&mut self) -> Result<Option<Slot>> {
        Ok(self.free.pop())
    }

    fn put(&mut self, slot: Slot, skip_bytes: usize, unit: &Unit) -> Result<()> {
        let source = slot.get(skip_bytes..).unwrap_or(&[]);
        for put in &unit.puts {
            self.sink.record.note(source, put, self.sink.saturate, &mut self.scratch);
            let row_bytes = put.kernel.output_bytes(put.row_bytes);
            // Rows that lie in one run are taken at once: the lock is everybody's.
            let mut whole = match put.to.pitch_bytes == row_bytes {
                true => Some(self.sink.take(put.to.arena, put.to.offset_bytes, put.output_bytes())?),
                false => None,
            };
            for (Dest { arena, offset_bytes, .. }, row) in rows(source, put) {
                let place = match whole.take() {
                    Some(rest) => {
                        let (place, rest) = rest.split_at_mut(row_bytes as usize);
                        whole = Some(rest);
                        place
                    }
                    None => self.sink.take(arena, offset_bytes, row_bytes)?,
                };
                match put.kernel {
                    Kernel::Copy => place.copy_from_slice(row),
                    // The check must not compare a cast with itself in the same place.
                    Kernel::Cast { .. } if self.sink.record.is_wanted() => {
                        let (row, overflows) = kernel_output(row, put, self.sink.saturate, &mut self.scratch);
                        place.copy_from_slice(row);
                        self.sink.overflows.fetch_add(overflows, Ordering::Relaxed);
                    }
                    Kernel::Cast { from, to } => {
                        let overflows = cast::cast(from, to, row, place, self.sink.saturate);
                        self.sink.overflows.fetch_add(overflows, Ordering::Relaxed);
                    }
                }
            }
        }
        self.free.push(slot);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<Slot>> {
        Ok(self.free)
    }
}
