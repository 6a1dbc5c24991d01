//! GPU memory: bytes go from pinned slots straight to their final place, by DMA.
//!
//! One allocation per dtype, planned beforehand; no buffer per file and no second copy. Each lane owns its slots, and
//! each slot in use has an event behind its last transfer, so nothing waits for a tensor. Casts run on the device: a
//! slot's bytes go to a staging block of the same size, a kernel writes the final place, and the event comes after it.
#![allow(unsafe_code)]

pub mod driver;

use super::{Lane, Record, Sink};
use crate::buf::{Ring, Slot};
use crate::dtype::DType;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{ArenaId, Kernel, Plan, Put, Unit};
use crate::text::bytes as bytes_text;
use driver::{Arg, Copy2d, DeviceMemory, Event, From2d, Function, Gpu, Registration, Stream};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The kernels, compiled by the driver for the device at hand.
const CAST_PTX: &str = include_str!("cuda/cast.ptx");

/// Two streams keep the copy engine busy while one of them starts a kernel.
const STREAM_COUNT: usize = 2;

/// Threads of a block of a cast kernel, each of which walks the elements in steps of the whole grid.
const CAST_BLOCK: u32 = 256;

/// An open device with its pinned slots: all that can be made ready before the model is known.
pub struct Pinned {
    gpu: Gpu,
    registration: Option<Registration>,
    ring: Ring,
    slots: Vec<Slot>,
    refused: Option<String>,
}

impl Pinned {
    /// Opens the device and makes `slot_count` slots of `slot_bytes`: mapped, touched, then registered, so that the
    /// driver only pins what is there.
    pub fn new(ordinal: u32, slot_count: usize, slot_bytes: usize) -> Result<Pinned> {
        let (ring, mut slots) = Ring::new(slot_count, slot_bytes)?;
        let gpu = std::thread::scope(|scope| {
            // The context takes a few hundred milliseconds; the pages are touched meanwhile.
            let opened = std::thread::Builder::new().spawn_scoped(scope, || Gpu::open(ordinal));
            Ring::prefault(&mut slots);
            opened.map_or_else(|_| Ok(Gpu::open(ordinal)), |thread| thread.join())
        });
        let gpu = gpu.map_err(|_| Error::new(ErrorKind::Driver, "opening the device panicked"))??;
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
        Ok(Pinned { gpu, registration, ring, slots, refused })
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

    /// The slots, once.
    pub fn take_slots(&mut self) -> Vec<Slot> {
        std::mem::take(&mut self.slots)
    }

    /// Host-to-device bandwidth from the slots, in bytes a second: every slot copied to one place on the device, a few
    /// rounds, the best round counted. Takes device memory of the ring's size for as long as it lasts.
    pub fn measure(&mut self) -> Result<f64> {
        const ROUNDS: usize = 5;
        let size = self.ring.size_bytes();
        let target = self.gpu.alloc(size as u64)?;
        let stream = self.gpu.stream()?;
        let mut best = 0f64;
        for _ in 0..ROUNDS {
            let started = std::time::Instant::now();
            // SAFETY: the slots are ours while `self` is borrowed, and nothing is written before the stream is done.
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
}

/// What casting on the device needs.
struct Casts {
    kernels: HashMap<(DType, DType), Function>,
    staging: DeviceMemory,
    overflows: DeviceMemory,
    slot_bytes: u64,
}

impl CudaSink {
    /// Device memory that a plan needs besides its arenas.
    pub fn staging_bytes(casts: bool, slot_count: usize, slot_bytes: usize) -> u64 {
        if casts { (slot_count * slot_bytes) as u64 + 256 } else { 0 }
    }

    /// Refuses a plan that does not fit into `free_bytes` of device memory; takes nothing. Arguments as of [`CudaSink::new`].
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
            let ways = needed.div_ceil(free_bytes.max(1)).next_power_of_two();
            let message = format!(
                "cuda:{} has {} free, this load needs {}",
                pinned.gpu.facts().ordinal,
                bytes_text(free_bytes),
                bytes_text(needed)
            );
            let parts = match ways {
                2 => "half".to_string(),
                n => format!("1/{n}"),
            };
            return Err(Error::new(ErrorKind::NoSpace, message)
                .hint(format!("--rank 0/{ways} loads {parts} of each matrix")));
        }
        Ok(())
    }

    /// Takes the plan's memory, all of it before the first byte moves. `free_bytes` is what may be taken; `slot_bytes`
    /// and `slot_count` are those the [`Pinned`] was made with.
    pub fn new(
        pinned: Pinned,
        plan: &Plan,
        casts: &[(DType, DType)],
        (slot_count, slot_bytes): (usize, usize),
        free_bytes: u64,
        saturate: bool,
        check: bool,
    ) -> Result<CudaSink> {
        let gpu = &pinned.gpu;
        gpu.bind()?;
        CudaSink::check_room(&pinned, plan, !casts.is_empty(), (slot_count, slot_bytes), free_bytes)?;
        let arenas = plan
            .arenas
            .iter()
            .map(|a| gpu.alloc(a.size_bytes.max(1)).map_err(Error::from))
            .collect::<Result<Vec<_>>>()?;
        let streams = (0..STREAM_COUNT).map(|_| Ok(gpu.stream()?)).collect::<Result<Vec<_>>>()?;
        let casts = if casts.is_empty() {
            None
        } else {
            let module = gpu.module(CAST_PTX)?;
            let mut kernels = HashMap::new();
            for &(from, to) in casts {
                kernels.insert((from, to), module.function(&format!("cast_{from}_{to}"))?);
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
        Ok(CudaSink {
            arenas,
            streams,
            next_lane: AtomicUsize::new(0),
            casts,
            saturate,
            record: Record::new(check),
            pinned,
        })
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
        let count = count.ok_or_else(|| bug("there is no slot to read through"))?;
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
        let target = into.get_mut(..size_bytes).ok_or_else(|| bug("a slot is too small"))?;
        let stream = self.streams.first().ok_or_else(|| bug("there is no stream"))?;
        // SAFETY: both sides were checked; the slot is borrowed until the stream is done.
        unsafe { stream.device_to_host(target.as_mut_ptr(), source, size_bytes)? };
        Ok(stream.synchronize()?)
    }

    /// The device's address of a range of an arena.
    fn address(&self, arena: ArenaId, offset_bytes: u64, size_bytes: u64) -> Result<u64> {
        let fits =
            |a: &&DeviceMemory| offset_bytes.checked_add(size_bytes).is_some_and(|end| end <= a.size_bytes());
        let arena = self.arenas.get(arena.index()).filter(fits);
        arena.map(|a| a.address() + offset_bytes).ok_or_else(|| bug("the plan leaves its memory"))
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
        let stream = self.streams.get(number % self.streams.len().max(1));
        let stream = stream.ok_or_else(|| bug("there is no stream"))?;
        Ok(Box::new(CudaLane {
            sink: self,
            stream,
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
    free: Vec<Slot>,
    flying: VecDeque<(Slot, Event)>,
    events: Vec<Event>,
    scratch: Vec<u8>,
}

impl CudaLane<'_> {
    /// Queues the copies and kernels of one put.
    fn queue(&self, slot: &Slot, skip_bytes: usize, put: &Put, staged_bytes: &mut u64) -> Result<()> {
        let first = skip_bytes as u64 + put.from_bytes;
        let last = first + (put.row_count - 1) * put.pitch_bytes + put.row_bytes;
        let source = crate::buf::usize_range(first..last).and_then(|r| slot.get(r));
        let source = source.ok_or_else(|| bug("a put leaves its slot"))?;
        let reach = (put.row_count - 1) * put.to.pitch_bytes + put.kernel.output_bytes(put.row_bytes);
        let target = self.sink.address(put.to.arena, put.to.offset_bytes, reach)?;
        match put.kernel {
            // SAFETY (both): source and target were checked; the slot stays in `flying` until the event.
            Kernel::Copy if put.is_contiguous() => unsafe {
                self.stream.host_to_device(target, source.as_ptr(), source.len())?;
            },
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
                let staging = casts.staging.address() + slot.index() as u64 * casts.slot_bytes + at;
                let count = put.row_bytes / u64::from(from.facts().block_bytes);
                let most = self.sink.pinned.gpu.facts().multiprocessor_count.max(1) * 16;
                let grid =
                    u32::try_from(count.div_ceil(u64::from(CAST_BLOCK) * 4)).unwrap_or(most).clamp(1, most);
                let args = [
                    Arg::U64(staging),
                    Arg::U64(target),
                    Arg::U64(count),
                    Arg::U64(casts.overflows.address()),
                    Arg::U32(self.sink.saturate.into()),
                ];
                // SAFETY: the staging block belongs to this slot and fits the row (a slot's size); the arguments are
                // those of every cast kernel; the target was checked.
                unsafe {
                    self.stream.host_to_device(staging, source.as_ptr(), source.len())?;
                    self.stream.launch(kernel, grid, CAST_BLOCK, &args)?;
                }
            }
        }
        Ok(())
    }
}

impl Lane for CudaLane<'_> {
    fn slot(&mut self) -> Result<Option<Slot>> {
        if let Some(slot) = self.free.pop() {
            return Ok(Some(slot));
        }
        let Some((_, event)) = self.flying.front() else { return Ok(None) };
        event.synchronize()?;
        let Some((slot, event)) = self.flying.pop_front() else { return Ok(None) };
        self.events.push(event);
        Ok(Some(slot))
    }

    fn put(&mut self, slot: Slot, skip_bytes: usize, unit: &Unit) -> Result<()> {
        let event = match self.events.pop() {
            Some(event) => event,
            None => self.sink.pinned.gpu.event()?,
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
        let recorded = event.record(self.stream);
        self.flying.push_back((slot, event));
        queued.and(recorded.map_err(Error::from))
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Slot>> {
        while let Some((slot, event)) = self.flying.pop_front() {
            let done = event.synchronize();
            self.free.push(slot);
            done?;
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

/// Something the plan got wrong: said, not carried out.
fn bug(what: &str) -> Error {
    Error::new(ErrorKind::Driver, what).detail("this is a bug of hoist")
}
