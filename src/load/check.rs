//! The check after a load: what arrived is read back and compared with what was read, by the hash taken before it
//! left. On the way the digest is summed up.

use super::digest::{Sums, digest};
use super::tensors::{Check, Loaded};
use crate::buf::Arena;
#[cfg(feature = "cuda")]
use crate::buf::Slot;
use crate::error::{Error, ErrorKind, Result};
use crate::open::Model;
use crate::plan::{ArenaId, Output, Plan};
use crate::run::{self, job::Control};
use crate::sink::Arrival;
#[cfg(feature = "cuda")]
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
#[cfg(feature = "cuda")]
use std::sync::{Mutex, PoisonError};
#[cfg(feature = "cuda")]
use xxhash_rust::xxh3::Xxh3;

/// Bytes that are compared at a go.
const PIECE_BYTES: u64 = 1 << 20;

/// Finds the outputs of a range of an arena.
struct Map<'a> {
    plan: &'a Plan,
    /// Outputs that are not aliases, by arena and offset.
    order: Vec<usize>,
    sums: Vec<Sums>,
}

impl<'a> Map<'a> {
    fn new(plan: &'a Plan) -> Map<'a> {
        let mut order: Vec<usize> = (0..plan.outputs.len())
            .filter(|&i| plan.outputs[i].first == i && plan.outputs[i].size_bytes > 0)
            .collect();
        order.sort_by_key(|&i| (plan.outputs[i].arena, plan.outputs[i].offset_bytes));
        let sums =
            plan.outputs.iter().map(|o| Sums::new(if o.size_bytes > 0 { o.size_bytes } else { 0 })).collect();
        Map { plan, order, sums }
    }

    /// The outputs that a range touches, in order.
    fn within(&self, arena: ArenaId, start: u64, end: u64) -> impl Iterator<Item = (usize, &'a Output)> + '_ {
        let place = |i: &usize| {
            let o = &self.plan.outputs[*i];
            (o.arena, o.offset_bytes + o.size_bytes)
        };
        let first = self.order.partition_point(|i| place(i) <= (arena, start));
        self.order[first..]
            .iter()
            .map(|&i| (i, &self.plan.outputs[i]))
            .take_while(move |(_, o)| o.arena == arena && o.offset_bytes < end)
    }

    /// Adds bytes of an arena to the sums of the tensors they belong to.
    fn add(&self, arena: ArenaId, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        for (index, output) in self.within(arena, offset, end) {
            let from = output.offset_bytes.max(offset);
            let to = (output.offset_bytes + output.size_bytes).min(end);
            let part = bytes.get((from - offset) as usize..(to - offset) as usize).unwrap_or(&[]);
            self.sums[index].add(from - output.offset_bytes, part);
        }
    }

    fn finish(self) -> Check {
        let mut order: Vec<&Output> = self.plan.outputs.iter().collect();
        order.sort_by(|a, b| a.name.cmp(&b.name));
        let digest =
            digest(order.iter().map(|o| (o.name.as_str(), o.dtype, o.shape.as_slice(), &self.sums[o.first])));
        Check { cast: self.plan.casts(), tensor_count: self.plan.outputs.len(), digest }
    }

    fn differs(&self, arrival: &Arrival) -> Error {
        let end = arrival.offset_bytes + arrival.size_bytes;
        let message = "arrived with other contents than were sent";
        let error = Error::new(ErrorKind::Integrity, message)
            .hint("load again; if it happens again, suspect the memory");
        match self.within(arrival.arena, arrival.offset_bytes, end).next() {
            Some((_, output)) => {
                error.tensor(&output.name).at(arrival.offset_bytes.saturating_sub(output.offset_bytes))
            }
            None => error,
        }
    }

    /// Every byte of every tensor must have been sent exactly once.
    fn check_cover(&self, arrivals: &[Arrival]) -> Result<()> {
        let mut at = arrivals.iter();
        let mut current = at.next();
        for &index in &self.order {
            let output = &self.plan.outputs[index];
            let (mut need, end) = (output.offset_bytes, output.offset_bytes + output.size_bytes);
            while need < end {
                match current {
                    Some(a)
                        if a.arena == output.arena
                            && a.offset_bytes <= need
                            && a.offset_bytes + a.size_bytes > need =>
                    {
                        need = a.offset_bytes + a.size_bytes;
                        if need <= end {
                            current = at.next();
                        }
                    }
                    _ => {
                        return Err(Error::new(ErrorKind::Integrity, "did not arrive whole")
                            .tensor(&output.name)
                            .detail("this is a bug of hoist"));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Host arenas against what was sent.
pub(super) fn host(
    loaded: &mut Loaded,
    plan: &Plan,
    arenas: &[Arc<Arena>],
    arrivals: &[Arrival],
    threads: usize,
    control: &Control,
) -> Result<()> {
    let map = Map::new(plan);
    map.check_cover(arrivals)?;
    let next = AtomicUsize::new(0);
    run::parallel("check", threads, control, |_| {
        while let Some(arrival) = arrivals.get(next.fetch_add(1, Ordering::Relaxed)) {
            if control.is_stopped() {
                break;
            }
            let bytes = arenas.get(arrival.arena.index()).map(|a| a.as_bytes());
            let range =
                crate::buf::usize_range(arrival.offset_bytes..arrival.offset_bytes + arrival.size_bytes);
            let bytes = bytes.zip(range).and_then(|(b, r)| b.get(r)).unwrap_or(&[]);
            if xxhash_rust::xxh3::xxh3_64(bytes) != arrival.xxh3 {
                return Err(map.differs(arrival));
            }
            map.add(arrival.arena, arrival.offset_bytes, bytes);
        }
        Ok(())
    })?;
    loaded.report.check = Some(map.finish());
    Ok(())
}

/// Mapped files against the same files read.
pub(super) fn mapped(
    loaded: &mut Loaded,
    plan: &Plan,
    model: &Model,
    threads: usize,
    control: &Control,
) -> Result<()> {
    let map = Map::new(plan);
    let next = AtomicUsize::new(0);
    let tensors = &loaded.tensors;
    run::parallel("check", threads, control, |_| {
        let mut read = vec![0; PIECE_BYTES as usize];
        while let Some(&index) = map.order.get(next.fetch_add(1, Ordering::Relaxed)) {
            let output = &plan.outputs[index];
            let span = model.table.tensors[output.tensor].at.span;
            let bytes = tensors.get(index).and_then(|t| t.bytes()).unwrap_or(&[]);
            let mut at = 0;
            for piece in bytes.chunks(PIECE_BYTES as usize) {
                if control.is_stopped() {
                    return Ok(());
                }
                let again = read.get_mut(..piece.len()).unwrap_or_default();
                let file = &model.files[span.file.index()];
                file.read_exact_at(again, span.offset_bytes + at)?;
                if again != piece {
                    // Somebody who writes to the file is the likelier cause, and no fault of the memory.
                    file.as_local().map_or(Ok(()), |local| local.check_unchanged())?;
                    let message = "is not in memory what it is in the file";
                    return Err(Error::new(ErrorKind::Integrity, message).tensor(&output.name).at(at));
                }
                map.sums[index].add(at, piece);
                at += piece.len() as u64;
            }
        }
        Ok(())
    })?;
    loaded.report.check = Some(map.finish());
    Ok(())
}

/// Arrivals that are read back at one go, as ranges of the list: short ones (rows of a matrix that was cut) as long as they
/// follow each other and a piece holds them.
#[cfg(feature = "cuda")]
fn groups(arrivals: &[Arrival]) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    for (index, arrival) in arrivals.iter().enumerate() {
        let end = arrival.offset_bytes + arrival.size_bytes;
        let last = groups.last_mut().filter(|group| {
            let begins = arrivals.get(group.start).zip(arrivals.get(index.wrapping_sub(1)));
            begins.is_some_and(|(first, before)| {
                first.arena == arrival.arena
                    && before.offset_bytes + before.size_bytes == arrival.offset_bytes
                    && end - first.offset_bytes <= PIECE_BYTES
            })
        });
        match last {
            Some(group) => group.end = index + 1,
            None => groups.push(index..index + 1),
        }
    }
    groups
}

/// Device memory against what was sent, read back through the slots.
#[cfg(feature = "cuda")]
pub(super) fn device(
    plan: &Plan,
    sink: &crate::sink::cuda::CudaSink,
    slots: Vec<Slot>,
    control: &Control,
) -> Result<Check> {
    let map = Map::new(plan);
    let arrivals = sink.record.take();
    map.check_cover(&arrivals)?;
    let groups = groups(&arrivals);
    let next = AtomicUsize::new(0);
    let threads = crate::machine::core_count().min(slots.len()).max(1);
    let slots = Mutex::new(slots);
    run::parallel("check", threads, control, |_| {
        let slot = slots.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Some(mut slot) = slot else { return Ok(()) };
        while let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
            if control.is_stopped() {
                break;
            }
            let group = arrivals.get(group.clone()).unwrap_or(&[]);
            let Some((first, last)) = group.first().zip(group.last()) else { continue };
            let (mut at, end) = (first.offset_bytes, last.offset_bytes + last.size_bytes);
            // Only an arrival that is alone is longer than a piece.
            let mut hash = Xxh3::new();
            while at < end {
                let size = PIECE_BYTES.min(end - at) as usize;
                sink.read_back(first.arena, at, &mut slot, size)?;
                let bytes = slot.get(..size).unwrap_or(&[]);
                map.add(first.arena, at, bytes);
                match group {
                    [_] => hash.update(bytes),
                    several => {
                        for arrival in several {
                            let range =
                                arrival.offset_bytes - at..arrival.offset_bytes - at + arrival.size_bytes;
                            let bytes = crate::buf::usize_range(range).and_then(|r| bytes.get(r));
                            if bytes.map(xxhash_rust::xxh3::xxh3_64) != Some(arrival.xxh3) {
                                return Err(map.differs(arrival));
                            }
                        }
                    }
                }
                at += size as u64;
            }
            if group.len() == 1 && hash.digest() != first.xxh3 {
                return Err(map.differs(first));
            }
        }
        Ok(())
    })?;
    Ok(map.finish())
}
