//! GPU memory: bytes go from pinned slots straight to their final place, by DMA.
//!
//! One allocation per dtype, planned beforehand; no buffer per file and no second copy. Each lane owns its slots, and
//! each slot in use has an event behind its last transfer, so nothing waits for a tensor. Casts run on the device: a
//! slot's bytes go to a staging block of the same size, a kernel writes the final place, and the event comes after it.
#![allow(unsafe_code)]

pub mod driver;

use super::{GPU_CHUNK_BYTES, GPU_SLOT_COUNT, Lane, Record, SLOT_MARGIN_BYTES, Sink};
use crate::buf::{Ring, Slot};
use crate::dtype::DType;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{ArenaId, Kernel, Plan, Put, Unit};
use crate::text::bytes as bytes_text;
use driver::cast::Cast;
use driver::{Copy2d, DeviceMemory, Event, From2d, Gpu, Registration, Stream};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Two streams keep the copy engine busy while one of them starts a kernel.
const STREAM_COUNT: usize = 2;

/// An open device with its pinned slots: all that can be made ready before the model is known.
pub struct Pinned {
    gpu: Gpu,
    registration: Option<Registration>,
    ring: Ring,
    slots: Vec<Slot>,
    slot_count: usize,
    refused: Option<String>,
}

impl Pinned {
    /// The ring that a load to a GPU uses, its pages present: to be made while the device is being opened.
    pub fn ring() -> Result<(Ring, Vec<Slot>)> {
        let (ring, mut slots) = Ring::new(GPU_SLOT_COUNT, GPU_CHUNK_BYTES as usize + SLOT_MARGIN_BYTES)?;
        Ring::prefault(&mut slots);
        Ok((ring, slots))
    }

    /// Registers a ring with an open device.
    pub fn new(gpu: Gpu, (ring, slots): (Ring, Vec<Slot>)) -> Result<Pinned> {
        gpu.bind()?;
        // SAFETY: the ring's mapping is kept by `ring` beside the registration, which is declared before it and so is
        // dropped first.
        let registered = unsafe { gpu.register(ring.start().cast_mut(), ring.size_bytes()) };
        let (registration, refused) = match registered {
            Ok(registration) => (Some(registration), None),
            Err(fault) => {
                (None, Some(format!("page-locking the buffers was refused ({fault}): copies are pageable")))
            }
        };
        Ok(Pinned { gpu, registration, ring, slot_count: slots.len(), slots, refused })
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Bytes that are page-locked.
    pub fn pinned_bytes(&self) -> u64 {
        self.registration.as_ref().map_or(0, |r| r.size_bytes() as u64)
    }

    /// Why nothing is page-locked, where nothing is.
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// How many slots there are, taken or not.
    pub fn slot_count(&self) -> usize {
        self.slot_count
    }

    /// The slots, once.
    pub fn take_slots(&mut self) -> Vec<Slot> {
        std::mem::take(&mut self.slots)
    }

    /// Host-to-device bandwidth from the slots, in bytes a second: every slot copied to one place on the device, a few
    /// rounds, the best round counted. Takes device memory of the ring's size for as long as it lasts.
    ///
    /// # Errors
    /// The driver's; a bug's where the slots have been taken.
    pub fn measure(&mut self) -> Result<f64> {
        const ROUNDS: usize = 5;
        if self.slots.is_empty() {
            return Err(Error::bug("the slots are in use"));
        }
        let size = self.ring.size_bytes();
        let target = self.gpu.alloc(size as u64)?;
        let stream = self.gpu.stream()?;
        let mut best = 0f64;
        for _ in 0..ROUNDS {
            let started = Instant::now();
            // SAFETY: no slot has been taken, so nobody else writes there, and the stream is waited for.
            unsafe { stream.host_to_device(target.address(), self.ring.start(), size)? };
            stream.synchronize()?;
            best = best.max(size as f64 / started.elapsed().as_secs_f64());
        }
        target.free()?;
        Ok(best)
    }
}

/// Device memory while it is filled.
pub struct CudaSink {
    arenas: Vec<DeviceMemory>,
    streams: Vec<Stream>,
    next_lane: AtomicUsize,
    casts: Option<Casts>,
    saturate: bool,
    /// What was sent, where that was asked for.
    pub record: Record,
    pinned: Pinned,
    clock: Option<Clock>,
}

/// What a trace needs: a mark on the device whose moment the host knows, and what was seen since.
struct Clock {
    mark: Event,
    origin: Instant,
    copies: Mutex<Vec<DeviceCopy>>,
}

/// The work behind one slot, as the device's own clock saw it.
#[derive(Debug, Clone, Copy)]
pub struct DeviceCopy {
    /// The stream's number.
    pub stream: usize,
    /// Bytes that arrived.
    pub bytes: u64,
    /// From the clock's origin to the start.
    pub after_seconds: f64,
    /// How long.
    pub seconds: f64,
}

/// What casting on the device needs.
struct Casts {
    kernels: HashMap<(DType, DType), Cast>,
    staging: DeviceMemory,
    overflows: DeviceMemory,
    slot_bytes: u64,
}

impl CudaSink {
    /// Device memory that a plan needs besides its arenas.
    pub fn staging_bytes(casts: bool, slot_count: usize, slot_bytes: usize) -> u64 {
        if casts { (slot_count * slot_bytes) as u64 + 256 } else { 0 }
    }

    /// Refuses a plan that does not fit into `free_bytes` of device memory; takes nothing. To be asked before anything
    /// else is.
    pub fn check_room(
        pinned: &Pinned,
        plan: &Plan,
        casts: bool,
        (slot_count, slot_bytes): (usize, usize),
        free_bytes: u64,
    ) -> Result<()> {
        let staging_bytes = CudaSink::staging_bytes(casts, slot_count, slot_bytes);
        let needed = plan.arena_bytes().saturating_add(staging_bytes);
        if needed > free_bytes {
            // Each rank stages as much as one alone; more than 64 ranks are not what anybody has.
            let fits = |ways: &u64| (plan.arena_bytes() / ways).saturating_add(staging_bytes) <= free_bytes;
            let ways = [2u64, 4, 8, 16, 32, 64].into_iter().find(fits);
            let message = format!(
                "cuda:{} has {} free, this load needs {}",
                pinned.gpu.facts().ordinal,
                bytes_text(free_bytes),
                bytes_text(needed)
            );
            let error = Error::new(ErrorKind::NoSpace, message);
            return Err(match ways {
                Some(2) => error.hint("--rank 0/2 loads half of each matrix"),
                Some(n) => error.hint(format!("--rank 0/{n} loads 1/{n} of each matrix")),
                None => error.hint("--include loads a part"),
            });
        }
        Ok(())
    }

    /// Takes the plan's memory, all of it before the first byte moves. `slot_count` and `slot_bytes` are those that the
    /// [`Pinned`] was made with.
    pub fn new(
        pinned: Pinned,
        plan: &Plan,
        casts: &[(DType, DType)],
        (slot_count, slot_bytes): (usize, usize),
        (saturate, check, trace): (bool, bool, bool),
    ) -> Result<CudaSink> {
        let gpu = &pinned.gpu;
        gpu.bind()?;
        let arenas = plan
            .arenas
            .iter()
            .map(|a| gpu.alloc(a.size_bytes.max(1)).map_err(Error::from))
            .collect::<Result<Vec<_>>>()?;
        let streams = (0..STREAM_COUNT).map(|_| Ok(gpu.stream()?)).collect::<Result<Vec<_>>>()?;
        let casts = if casts.is_empty() {
            None
        } else {
            let module = Cast::module(gpu)?;
            let mut kernels = HashMap::new();
            for &(from, to) in casts {
                if let Some(kernel) = Cast::new(gpu, &module, from, to) {
                    kernels.insert((from, to), kernel?);
                }
            }
            let overflows = gpu.alloc(256)?;
            if let Some(stream) = streams.first() {
                // SAFETY: the memory was just taken, for 256 bytes.
                unsafe { stream.fill_u8(overflows.address(), 0, 256)? };
                stream.synchronize()?;
            }
            let staging = gpu.alloc((slot_count * slot_bytes) as u64)?;
            Some(Casts { kernels, staging, overflows, slot_bytes: slot_bytes as u64 })
        };
        let clock = match (trace, streams.first()) {
            (true, Some(stream)) => {
                let mark = gpu.timing_event()?;
                mark.record(stream)?;
                mark.synchronize()?;
                Some(Clock { mark, origin: Instant::now(), copies: Mutex::new(Vec::new()) })
            }
            _ => None,
        };
        Ok(CudaSink {
            arenas,
            streams,
            next_lane: AtomicUsize::new(0),
            casts,
            saturate,
            record: Record::new(check),
            pinned,
            clock,
        })
    }

    /// The device's copies since the sink was made, and the moment that their times count from; only with a trace.
    pub fn copies(&self) -> Option<(Instant, Vec<DeviceCopy>)> {
        let clock = self.clock.as_ref()?;
        let copies = std::mem::take(&mut *clock.copies.lock().unwrap_or_else(PoisonError::into_inner));
        Some((clock.origin, copies))
    }

    /// The device and its slots' registration.
    pub fn pinned(&self) -> &Pinned {
        &self.pinned
    }

    /// Bytes of device memory that were taken beside the arenas.
    pub fn extra_bytes(&self) -> u64 {
        self.casts.as_ref().map_or(0, |c| c.staging.size_bytes() + c.overflows.size_bytes())
    }

    /// Finite values that a cast made infinite, or would have. Read through a slot, which is page-locked.
    pub fn overflow_count(&self, slots: &mut [Slot]) -> Result<u64> {
        let (Some(casts), Some(stream)) = (&self.casts, self.streams.first()) else { return Ok(0) };
        self.pinned.gpu.bind()?;
        let count = slots.first_mut().and_then(|slot| slot.first_chunk_mut::<8>());
        let count = count.ok_or_else(|| Error::bug("there is no slot to read through"))?;
        // SAFETY: eight bytes on either side, and the stream is waited for before they are read.
        unsafe { stream.device_to_host(count.as_mut_ptr(), casts.overflows.address(), 8)? };
        stream.synchronize()?;
        Ok(u64::from_le_bytes(*count))
    }

    /// Reads what arrived into the front of a slot. Called in any thread; waits.
    pub fn read_back(
        &self,
        arena: ArenaId,
        offset_bytes: u64,
        into: &mut Slot,
        size_bytes: usize,
    ) -> Result<()> {
        self.pinned.gpu.bind()?;
        let source = self.address(arena, offset_bytes, size_bytes as u64)?;
        let target = into.get_mut(..size_bytes).ok_or_else(|| Error::bug("a slot is too small"))?;
        let stream = self.streams.first().ok_or_else(|| Error::bug("there is no stream"))?;
        // SAFETY: both sides were checked; the slot is borrowed until the stream is done.
        unsafe { stream.device_to_host(target.as_mut_ptr(), source, size_bytes)? };
        Ok(stream.synchronize()?)
    }

    /// The device's address of a range of an arena.
    fn address(&self, arena: ArenaId, offset_bytes: u64, size_bytes: u64) -> Result<u64> {
        let fits =
            |a: &&DeviceMemory| offset_bytes.checked_add(size_bytes).is_some_and(|end| end <= a.size_bytes());
        let arena = self.arenas.get(arena.index()).filter(fits);
        arena.map(|a| a.address() + offset_bytes).ok_or_else(|| Error::bug("the plan leaves its memory"))
    }

    /// Ends the load: everything that only the loading needed is given back, the arenas remain.
    pub fn finish(self) -> Result<Vec<DeviceMemory>> {
        self.pinned.gpu.bind()?;
        for stream in &self.streams {
            stream.synchronize()?;
        }
        if let Some(casts) = self.casts {
            casts.staging.free()?;
            casts.overflows.free()?;
        }
        Ok(self.arenas)
    }
}

impl Sink for CudaSink {
    fn lane(&self, slots: Vec<Slot>) -> Result<Box<dyn Lane + '_>> {
        self.pinned.gpu.bind()?;
        let number = self.next_lane.fetch_add(1, Ordering::Relaxed);
        let stream_number = number % self.streams.len().max(1);
        let stream = self.streams.get(stream_number);
        let stream = stream.ok_or_else(|| Error::bug("there is no stream"))?;
        Ok(Box::new(CudaLane {
            sink: self,
            stream,
            stream_number,
            free: slots,
            flying: VecDeque::new(),
            events: Vec::new(),
            scratch: Vec::new(),
        }))
    }

    fn in_place(&self, _unit: &Unit) -> Option<Vec<(u64, &mut [u8])>> {
        None
    }
}

/// One worker's end.
///
/// Invariant: a slot is in `flying`, and so written by nobody, until the event behind its last transfer is complete.
struct CudaLane<'a> {
    sink: &'a CudaSink,
    stream: &'a Stream,
    stream_number: usize,
    free: Vec<Slot>,
    flying: VecDeque<Flying>,
    events: Vec<Event>,
    scratch: Vec<u8>,
}

/// A slot that the device may still read.
struct Flying {
    slot: Slot,
    end: Event,
    /// With a trace: the mark before its first copy, and the bytes that arrive.
    begin: Option<(Event, u64)>,
}

impl CudaLane<'_> {
    /// Waits for the oldest slot in flight and takes it back; `None` where none is.
    fn land(&mut self) -> Result<Option<Slot>> {
        let Some(oldest) = self.flying.front() else { return Ok(None) };
        oldest.end.synchronize()?;
        let Some(Flying { slot, end, begin }) = self.flying.pop_front() else { return Ok(None) };
        if let (Some((begin, bytes)), Some(clock)) = (begin, &self.sink.clock) {
            let after_seconds = begin.seconds_since(&clock.mark)?;
            let seconds = end.seconds_since(&begin)?;
            let copy = DeviceCopy { stream: self.stream_number, bytes, after_seconds, seconds };
            clock.copies.lock().unwrap_or_else(PoisonError::into_inner).push(copy);
        } else {
            self.events.push(end);
        }
        Ok(Some(slot))
    }

    /// Queues the copies and kernels of one put.
    fn queue(&self, slot: &Slot, skip_bytes: usize, put: &Put, staged_bytes: &mut u64) -> Result<()> {
        let first = skip_bytes as u64 + put.from_bytes;
        let last = first + (put.row_count - 1) * put.pitch_bytes + put.row_bytes;
        let source = crate::buf::usize_range(first..last).and_then(|r| slot.get(r));
        let source = source.ok_or_else(|| Error::bug("a put leaves its slot"))?;
        let reach = (put.row_count - 1) * put.to.pitch_bytes + put.kernel.output_bytes(put.row_bytes);
        let target = self.sink.address(put.to.arena, put.to.offset_bytes, reach)?;
        match put.kernel {
            Kernel::Copy if put.is_contiguous() => {
                // SAFETY: source and target were checked; the slot stays in `flying` until the event.
                unsafe { self.stream.host_to_device(target, source.as_ptr(), source.len())? };
            }
            Kernel::Copy => {
                let copy = Copy2d {
                    source: From2d::Host(source.as_ptr()),
                    source_pitch_bytes: put.pitch_bytes as usize,
                    target,
                    target_pitch_bytes: put.to.pitch_bytes as usize,
                    row_bytes: put.row_bytes as usize,
                    row_count: put.row_count as usize,
                };
                // SAFETY: as above.
                unsafe { self.stream.copy_2d(&copy)? };
            }
            Kernel::Cast { from, to } => {
                let casts = self.sink.casts.as_ref();
                let found = casts.and_then(|c| Some((c, c.kernels.get(&(from, to))?)));
                let Some((casts, kernel)) = found else {
                    return Err(Error::unsupported(format!("no kernel casts `{from}` to `{to}`")));
                };
                // Aligned for any element. The stream runs in order, so what no longer fits starts again at the front:
                // the kernels that read there come before this copy.
                let mut at = staged_bytes.next_multiple_of(16);
                if at + put.row_bytes > casts.slot_bytes {
                    at = 0;
                }
                *staged_bytes = at + put.row_bytes;
                let block = (slot.index() as u64).saturating_add(1).saturating_mul(casts.slot_bytes);
                if put.row_count != 1
                    || *staged_bytes > casts.slot_bytes
                    || block > casts.staging.size_bytes()
                {
                    return Err(Error::bug("a cast leaves its staging block"));
                }
                let staging = casts.staging.address() + slot.index() as u64 * casts.slot_bytes + at;
                let count = put.row_bytes / u64::from(from.facts().block_bytes);
                let overflows = casts.overflows.address();
                // SAFETY: the staging block belongs to this slot and fits the row (a slot's size); the arguments are
                // those of every cast kernel; the target was checked.
                unsafe {
                    self.stream.host_to_device(staging, source.as_ptr(), source.len())?;
                    kernel.launch(self.stream, staging, target, count, overflows, self.sink.saturate)?;
                }
            }
        }
        Ok(())
    }
}

impl Lane for CudaLane<'_> {
    fn slot(&mut self) -> Result<Option<Slot>> {
        match self.free.pop() {
            Some(slot) => Ok(Some(slot)),
            None => self.land(),
        }
    }

    fn put(&mut self, slot: Slot, skip_bytes: usize, unit: &Unit) -> Result<()> {
        let gpu = &self.sink.pinned.gpu;
        let (begin, end) = match (&self.sink.clock, self.events.pop()) {
            (Some(_), _) => {
                let begin = gpu.timing_event()?;
                begin.record(self.stream)?;
                let bytes = unit.puts.iter().map(Put::output_bytes).sum();
                (Some((begin, bytes)), gpu.timing_event()?)
            }
            (None, Some(event)) => (None, event),
            (None, None) => (None, gpu.event()?),
        };
        if self.sink.record.is_wanted() {
            let source = slot.get(skip_bytes..).unwrap_or(&[]);
            for put in &unit.puts {
                self.sink.record.note(source, put, self.sink.saturate, &mut self.scratch);
            }
        }
        let mut staged_bytes = 0;
        let queued =
            unit.puts.iter().try_for_each(|put| self.queue(&slot, skip_bytes, put, &mut staged_bytes));
        // Also after a failure: what was queued before it still reads the slot.
        let recorded = end.record(self.stream);
        self.flying.push_back(Flying { slot, end, begin });
        queued.and(recorded.map_err(Error::from))
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Slot>> {
        while let Some(slot) = self.land()? {
            self.free.push(slot);
        }
        Ok(std::mem::take(&mut self.free))
    }
}

impl Drop for CudaLane<'_> {
    /// A lane that ends early waits too: the device may still be reading its slots.
    fn drop(&mut self) {
        if !self.flying.is_empty() {
            let _ = self.stream.synchronize();
        }
    }
}
