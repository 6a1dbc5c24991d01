//! One worker: takes units, brings their bytes, hands them to its lane.

use super::{Io, Run, Traffic};
use crate::buf::{PAGE_BYTES, Slot};
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{Kernel, Read, Unit};
use crate::sink::Lane;
use crate::source::local::LocalFile;
use crate::source::local::direct::{Arrived, Queue};
use crate::source::local::residency::{Residency, residency, residency_ahead};
use crate::source::{ReadAt, read_pieces};
use std::io::IoSliceMut;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::job::Control;

/// Below this a direct read is not worth its alignment.
const DIRECT_BYTES_MIN: u64 = 64 << 10;

struct Worker<'a, 'r> {
    run: &'a Run<'r>,
    index: usize,
    lane: Box<dyn Lane + 'a>,
    queue: Option<Queue<Unit>>,
    depth_max: usize,
    gathered: Vec<u8>,
    gap: Vec<u8>,
    traffic: &'a Traffic,
    hot: &'a [Mutex<Range<u64>>],
    control: &'a Control,
}

/// Works until there are no more units; gives the slots back.
pub(super) fn work(
    run: &Run<'_>,
    index: usize,
    slots: Vec<Slot>,
    next: &dyn Fn() -> Option<Unit>,
    traffic: &Traffic,
    hot: &[Mutex<Range<u64>>],
    control: &Control,
) -> Result<Vec<Slot>> {
    // One slot is left for what is being handed on while the others are being read into.
    let depth_max = slots.len().saturating_sub(1).max(1);
    let queue = run.expects_direct.then(|| direct_queue(depth_max, &slots, traffic));
    let lane = run.sink.lane(slots)?;
    let mut worker = Worker {
        run,
        index,
        lane,
        queue,
        depth_max,
        gathered: Vec::new(),
        gap: Vec::new(),
        traffic,
        hot,
        control,
    };
    while !control.is_stopped() {
        let Some(unit) = next() else { break };
        worker.bring(unit)?;
    }
    while worker.queue.as_ref().is_some_and(|q| q.in_flight() > 0) {
        // Also when stopped: the kernel writes into these slots until it has said that it is done.
        let arrived = worker.arrive();
        if !control.is_stopped() {
            arrived?;
        }
    }
    let started = Instant::now();
    let slots = worker.lane.finish()?;
    control.span(index, "drain", 0, 0, 0, started);
    Ok(slots)
}

/// Direct reads by the kernel's ring, else at once. Pages of registered slots are touched, so slots are given only where
/// they will be read into.
fn direct_queue(depth_max: usize, slots: &[Slot], traffic: &Traffic) -> Queue<Unit> {
    let depth = u32::try_from(depth_max).unwrap_or(1).next_power_of_two();
    match Queue::uring(depth, slots) {
        Ok(queue) => {
            Traffic::add(&traffic.ring, 1);
            queue
        }
        Err(e) => {
            traffic.fall_back(format!("io_uring: {e}; direct reads by pread"));
            Queue::blocking()
        }
    }
}

impl<'r> Worker<'_, 'r> {
    fn bring(&mut self, unit: Unit) -> Result<()> {
        if unit.fix.is_some() {
            return self.bring_fixed(&unit);
        }
        let Some(&read) = unit.reads.first() else { return Ok(()) };
        let file = self.source(&unit);
        if let Some(local) = file.as_local()
            && let Some(cold) = self.goes_around(local, &unit, &read)
        {
            if cold {
                return self.start_direct(unit, read);
            }
            Traffic::add(&self.traffic.cached, read.size_bytes);
        } else {
            Traffic::add(&self.traffic.buffered, read.size_bytes);
        }
        let started = Instant::now();
        if let Some(places) = self.run.sink.in_place(&unit) {
            self.read_in_place(&unit, &read, places).map_err(|e| self.place_error(e, &unit))?;
            self.control.span(self.index, "read", unit.file.0, read.offset_bytes, read.size_bytes, started);
            self.arrived_bytes(&unit);
            return Ok(());
        }
        let mut slot = self.free_slot()?;
        let started = Instant::now();
        let size = read.size_bytes as usize;
        let into = slot.get_mut(..size).ok_or_else(|| Error::bug("a unit is larger than a slot"))?;
        file.read_exact_at(into, read.offset_bytes).map_err(|e| self.place_error(e, &unit))?;
        self.control.span(self.index, "read", unit.file.0, read.offset_bytes, read.size_bytes, started);
        self.hand_on(slot, 0, &unit)
    }

    /// Whether a read goes around the page cache; `None` where nobody was asked because the file takes no such reads.
    fn goes_around(&self, file: &LocalFile, unit: &Unit, read: &Read) -> Option<bool> {
        let range = read.offset_bytes..read.offset_bytes + read.size_bytes;
        match self.run.io {
            Io::Buffered => return None,
            Io::Direct => {}
            Io::Auto if file.temper().network => return None,
            Io::Auto => match self.is_hot(file, unit, range) {
                None => return None,
                Some(true) => return Some(false),
                Some(false) => {}
            },
        }
        if read.size_bytes < DIRECT_BYTES_MIN && self.run.io == Io::Auto {
            return None;
        }
        match file.direct() {
            Ok(_) => Some(true),
            Err(reason) => {
                self.traffic.fall_back(format!("direct reads: {reason}; buffered"));
                None
            }
        }
    }

    /// Whether the page cache holds a range and what follows it; `None` where the system does not say. What was found hot
    /// is not asked about again.
    fn is_hot(&self, file: &LocalFile, unit: &Unit, range: Range<u64>) -> Option<bool> {
        let known = self.hot.get(unit.file.index()).map(|r| r.lock().unwrap_or_else(PoisonError::into_inner));
        if known.is_some_and(|hot| hot.start <= range.start && range.end <= hot.end) {
            return Some(true);
        }
        let ahead = residency_ahead(file, range.clone());
        if ahead.found == Residency::Fraction(1.0)
            && let Some(hot) = self.hot.get(unit.file.index())
        {
            *hot.lock().unwrap_or_else(PoisonError::into_inner) = range.start..ahead.end_bytes;
        }
        match ahead.found {
            Residency::Unknown => None,
            // Hot as a whole may still leave this range out.
            Residency::Fraction(f) if (0.9..1.0).contains(&f) => Some(residency(file, range).is_hot()),
            found => Some(found.is_hot()),
        }
    }

    /// Reads straight into the final places; bytes between them are read over.
    fn read_in_place(&mut self, unit: &Unit, read: &Read, places: Vec<(u64, &mut [u8])>) -> Result<()> {
        let file = self.source(unit);
        let mut places = places;
        if let [(0, place)] = places.as_mut_slice() {
            return file.read_exact_at(place, read.offset_bytes);
        }
        // The gaps go to one piece of memory that nobody reads.
        let ends = places.iter().map(|(at, place)| at + place.len() as u64);
        let gaps: Vec<u64> =
            places.iter().zip(std::iter::once(0).chain(ends)).map(|((at, _), end)| at - end).collect();
        let mut gap_bytes = std::mem::take(&mut self.gap);
        gap_bytes.resize(gaps.iter().sum::<u64>() as usize, 0);
        let mut rest = gap_bytes.as_mut_slice();
        let mut buffers = Vec::with_capacity(places.len() * 2);
        for ((_, place), gap) in places.into_iter().zip(gaps) {
            let (front, back) = std::mem::take(&mut rest).split_at_mut(gap as usize);
            rest = back;
            if !front.is_empty() {
                buffers.push(IoSliceMut::new(front));
            }
            buffers.push(IoSliceMut::new(place));
        }
        let mut at = read.offset_bytes;
        // The kernel takes 1,024 at a time.
        let mut outcome = Ok(());
        for group in buffers.chunks_mut(1024) {
            let size: u64 = group.iter().map(|b| b.len() as u64).sum();
            outcome = file.read_vectored_at(group, at);
            if outcome.is_err() {
                break;
            }
            at += size;
        }
        drop(buffers);
        self.gap = gap_bytes;
        outcome
    }

    /// Gathers scattered elements and puts them right.
    fn bring_fixed(&mut self, unit: &Unit) -> Result<()> {
        let Some(fix) = &unit.fix else { return Ok(()) };
        let started = Instant::now();
        let file = self.source(unit);
        let mut gathered = std::mem::take(&mut self.gathered);
        gathered.resize(unit.read_bytes() as usize, 0);
        let mut rest = gathered.as_mut_slice();
        for reads in unit.reads.chunks(256) {
            if self.control.is_stopped() {
                return Ok(());
            }
            let mut pieces = Vec::with_capacity(reads.len());
            for read in reads {
                let (piece, after) = std::mem::take(&mut rest).split_at_mut(read.size_bytes as usize);
                pieces.push((read.offset_bytes, piece));
                rest = after;
            }
            read_pieces(file, pieces).map_err(|e| self.place_error(e, unit))?;
        }
        Traffic::add(&self.traffic.buffered, unit.read_bytes());
        let offset = unit.reads.first().map_or(0, |r| r.offset_bytes);
        self.control.span(self.index, "gather", unit.file.0, offset, unit.read_bytes(), started);
        let mut slot = self.free_slot()?;
        let into = slot
            .get_mut(..fix.size_bytes() as usize)
            .ok_or_else(|| Error::bug("a unit is larger than a slot"))?;
        fix.apply(&gathered, into);
        self.gathered = gathered;
        self.hand_on(slot, 0, unit)
    }

    /// Starts a direct read of the pages around the unit's bytes.
    fn start_direct(&mut self, unit: Unit, read: Read) -> Result<()> {
        while self.queue.as_ref().is_some_and(|q| q.in_flight() >= self.depth_max) {
            self.arrive()?;
        }
        let slot = self.free_slot()?;
        let page = PAGE_BYTES as u64;
        let start = read.offset_bytes - read.offset_bytes % page;
        let end = (read.offset_bytes + read.size_bytes).next_multiple_of(page);
        let file = self.source(&unit);
        let Some(Ok(direct)) = file.as_local().map(LocalFile::direct) else {
            return Err(Error::bug("a direct read without a file for it"));
        };
        // Where none were expected the slots are not registered: they are with the lane by now.
        let queue = self.queue.get_or_insert_with(|| direct_queue(self.depth_max, &[], self.traffic));
        queue.submit(direct, slot, start, (end - start) as usize, unit);
        Ok(())
    }

    /// Takes one direct read that has arrived, or waits for one. What did not come is read through the page cache,
    /// which also finds the true error.
    fn arrive(&mut self) -> Result<()> {
        let started = Instant::now();
        let Some(arrived) = self.queue.as_mut().and_then(Queue::complete) else {
            return Err(Error::new(ErrorKind::Io, "the ring of direct reads broke")
                .hint("--io buffered goes without"));
        };
        let Arrived { mut slot, tag: unit, result } = arrived;
        let Some(&read) = unit.reads.first() else { return Ok(()) };
        self.control.span(self.index, "direct", unit.file.0, read.offset_bytes, read.size_bytes, started);
        let skip = (read.offset_bytes % PAGE_BYTES as u64) as usize;
        let wanted = skip + read.size_bytes as usize;
        let brought = match result {
            Ok(n) => n.min(wanted),
            Err(e) => {
                self.traffic.fall_back(format!("a direct read failed ({e}); buffered"));
                0
            }
        };
        if brought < wanted {
            let file = self.source(&unit);
            let rest =
                slot.get_mut(brought..wanted).ok_or_else(|| Error::bug("a unit is larger than a slot"))?;
            let at = read.offset_bytes - skip as u64 + brought as u64;
            file.read_exact_at(rest, at).map_err(|e| self.place_error(e, &unit))?;
            Traffic::add(&self.traffic.buffered, read.size_bytes);
        } else {
            Traffic::add(&self.traffic.direct, read.size_bytes);
        }
        self.hand_on(slot, skip, &unit)
    }

    fn free_slot(&mut self) -> Result<Slot> {
        let started = Instant::now();
        loop {
            if let Some(slot) = self.lane.slot()? {
                self.control.span(self.index, "wait", 0, 0, 0, started);
                return Ok(slot);
            }
            if self.queue.as_ref().is_none_or(|q| q.in_flight() == 0) {
                return Err(Error::bug("a worker has no slots"));
            }
            self.arrive()?;
        }
    }

    fn hand_on(&mut self, slot: Slot, skip_bytes: usize, unit: &Unit) -> Result<()> {
        let started = Instant::now();
        self.lane.put(slot, skip_bytes, unit).map_err(|e| self.place_error(e, unit))?;
        let offset = unit.reads.first().map_or(0, |r| r.offset_bytes);
        self.control.span(self.index, "put", unit.file.0, offset, unit.read_bytes(), started);
        self.arrived_bytes(unit);
        Ok(())
    }

    fn arrived_bytes(&self, unit: &Unit) {
        self.control.moved(unit.puts.iter().map(|p| p.output_bytes()).sum());
        if self.run.drop_cache
            && let Some(local) = self.source(unit).as_local()
        {
            for read in &unit.reads {
                local.drop_from_cache(read.offset_bytes, read.size_bytes);
            }
        }
    }

    /// The file a unit reads. The plan was made from this model, so it is there.
    fn source(&self, unit: &Unit) -> &'r dyn ReadAt {
        &*self.run.model.files[unit.file.index()]
    }

    /// Says which file, tensor and byte an error is about.
    fn place_error(&self, error: Error, unit: &Unit) -> Error {
        let table = &self.run.model.table;
        let error = match table.files.get(unit.file.index()) {
            Some(file) => error.file(&file.name),
            None => error,
        };
        let first = unit.reads.first().map_or(0, |r| r.offset_bytes);
        let error = error.at(first);
        // The tensor that the byte belongs to, where the error says which byte; a unit may hold many.
        let within = error.offset_bytes().unwrap_or(first).saturating_sub(first);
        let put = unit.puts.iter().rev().find(|p| p.from_bytes <= within).or(unit.puts.first());
        let output = put.and_then(|p| {
            let skip = if p.is_contiguous() && p.kernel == Kernel::Copy {
                within.saturating_sub(p.from_bytes)
            } else {
                0
            };
            let last = p.output_bytes().saturating_sub(1);
            self.run.plan.output_at(p.to.arena, p.to.offset_bytes + skip.min(last))
        });
        match output {
            Some(output) => error.tensor(&output.name),
            None => error,
        }
    }
}
