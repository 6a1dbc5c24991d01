//! Streams and events: work that the device does later, and how to know that it is done.

use super::codes;
use super::sys;
use super::{Function, Gpu, Outcome};
use std::ffi::c_void;
use std::ptr::{null, null_mut};

/// Where a two-dimensional copy reads.
#[derive(Debug, Clone, Copy)]
pub enum From2d {
    /// Host memory.
    Host(*const u8),
    /// Device memory.
    Device(u64),
}

/// A copy of `row_count` rows of `row_bytes`, whose starts lie `…_pitch_bytes` apart on either side, to device memory.
#[derive(Debug, Clone, Copy)]
pub struct Copy2d {
    /// Where the first row comes from.
    pub source: From2d,
    /// From one row's start to the next, in the source; at least `row_bytes`.
    pub source_pitch_bytes: usize,
    /// Where the first row goes, on the device.
    pub target: u64,
    /// From one row's start to the next, in the target; at least `row_bytes`.
    pub target_pitch_bytes: usize,
    /// Bytes of a row.
    pub row_bytes: usize,
    /// Rows.
    pub row_count: usize,
}

/// A queue of work of the device, in order. Destroyed when dropped; work that is queued is still done.
///
/// Invariant: 6. `raw` is a stream that was not destroyed.
pub struct Stream {
    pub(super) gpu: Gpu,
    pub(super) raw: sys::CUstream,
}

// SAFETY: a stream may be used from any thread that has the context bound; the driver locks.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    /// The device it belongs to.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Queues a copy from host to device. From registered memory it returns at once and the device reads later.
    ///
    /// # Safety
    /// `source` must be readable for `size_bytes` and not change until work behind the copy (an event) is complete;
    /// `target` must be device memory of at least that size.
    pub unsafe fn host_to_device(&self, target: u64, source: *const u8, size_bytes: usize) -> Outcome<()> {
        // SAFETY: invariant 6 and the caller's promise.
        unsafe { self.gpu.0.api.cuMemcpyHtoDAsync_v2(target, source.cast(), size_bytes, self.raw) }
    }

    /// Queues a copy from device to host.
    ///
    /// # Safety
    /// `target` must be writable for `size_bytes`, and no one may touch it until work behind the copy is complete;
    /// `source` must be device memory of at least that size.
    pub unsafe fn device_to_host(&self, target: *mut u8, source: u64, size_bytes: usize) -> Outcome<()> {
        // SAFETY: invariant 6 and the caller's promise.
        unsafe { self.gpu.0.api.cuMemcpyDtoHAsync_v2(target.cast(), source, size_bytes, self.raw) }
    }

    /// Queues a copy within the device; the ranges must not overlap.
    ///
    /// # Safety
    /// Both must be device memory of at least `size_bytes`.
    pub unsafe fn device_to_device(&self, target: u64, source: u64, size_bytes: usize) -> Outcome<()> {
        // SAFETY: invariant 6 and the caller's promise.
        unsafe { self.gpu.0.api.cuMemcpyDtoDAsync_v2(target, source, size_bytes, self.raw) }
    }

    /// Queues a two-dimensional copy to device memory.
    ///
    /// # Safety
    /// As [`Stream::host_to_device`], for each row on either side.
    pub unsafe fn copy_2d(&self, copy: &Copy2d) -> Outcome<()> {
        let (kind, host, device) = match copy.source {
            From2d::Host(start) => (sys::CUmemorytype::CU_MEMORYTYPE_HOST, start, 0),
            From2d::Device(address) => (sys::CUmemorytype::CU_MEMORYTYPE_DEVICE, null(), address),
        };
        // Each field is written out: a zeroed struct would hold an enum value that does not exist.
        let raw = sys::CUDA_MEMCPY2D {
            srcXInBytes: 0,
            srcY: 0,
            srcMemoryType: kind,
            srcHost: host.cast(),
            srcDevice: device,
            srcArray: null_mut(),
            srcPitch: copy.source_pitch_bytes,
            dstXInBytes: 0,
            dstY: 0,
            dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
            dstHost: null_mut(),
            dstDevice: copy.target,
            dstArray: null_mut(),
            dstPitch: copy.target_pitch_bytes,
            WidthInBytes: copy.row_bytes,
            Height: copy.row_count,
        };
        // SAFETY: invariant 6 and the caller's promise; the description is read before the call returns.
        unsafe { self.gpu.0.api.cuMemcpy2DAsync_v2(&raw, self.raw) }
    }

    /// Queues filling `count` bytes.
    ///
    /// # Safety
    /// `target` must be device memory of at least that size.
    pub unsafe fn fill_u8(&self, target: u64, value: u8, count: usize) -> Outcome<()> {
        // SAFETY: invariant 6 and the caller's promise.
        unsafe { self.gpu.0.api.cuMemsetD8Async(target, value, count, self.raw) }
    }

    /// Queues filling `count` words of four bytes.
    ///
    /// # Safety
    /// `target` must be device memory of at least that size, aligned to four.
    pub unsafe fn fill_u32(&self, target: u64, value: u32, count: usize) -> Outcome<()> {
        // SAFETY: invariant 6 and the caller's promise.
        unsafe { self.gpu.0.api.cuMemsetD32Async(target, value, count, self.raw) }
    }

    /// Queues a kernel over `grid` blocks of `block` threads (both one-dimensional). The arguments are copied.
    ///
    /// # Safety
    /// The arguments must be the kernel's, in number and type, and its addresses must hold what it reads and writes.
    pub unsafe fn launch(&self, kernel: &Function, grid: u32, block: u32, args: &[Arg]) -> Outcome<()> {
        // The driver reads each argument through a pointer, as many bytes as the kernel declares. Every machine with
        // CUDA is little endian, so a u32 is in the first four of its eight bytes.
        let mut words: Vec<u64> = args.iter().map(|a| a.word()).collect();
        let mut places: Vec<*mut c_void> = words.iter_mut().map(|w| std::ptr::from_mut(w).cast()).collect();
        // SAFETY: invariant 6, the module lives as long as its function, and the caller's promise; the arguments are
        // copied before the call returns, and `words` lives until then.
        unsafe {
            self.gpu.0.api.cuLaunchKernel(
                kernel.raw,
                grid,
                1,
                1,
                block,
                1,
                1,
                0,
                self.raw,
                places.as_mut_ptr(),
                null_mut(),
            )
        }
    }

    /// Makes work that is queued from now on wait for `event`.
    pub fn wait_for(&self, event: &Event) -> Outcome<()> {
        // SAFETY: invariants 6 and 7.
        unsafe { self.gpu.0.api.cuStreamWaitEvent(self.raw, event.raw, 0) }
    }

    /// Whether all that was queued is done.
    pub fn is_done(&self) -> Outcome<bool> {
        // SAFETY: invariant 6.
        done(unsafe { self.gpu.0.api.cuStreamQuery(self.raw) })
    }

    /// Waits until all that was queued is done.
    pub fn synchronize(&self) -> Outcome<()> {
        // SAFETY: invariant 6.
        unsafe { self.gpu.0.api.cuStreamSynchronize(self.raw) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _restore = self.gpu.bind_to_drop();
        // SAFETY: invariant 6; once, since this is the only place.
        let _ = unsafe { self.gpu.0.api.cuStreamDestroy_v2(self.raw) };
    }
}

/// An argument of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arg {
    /// An address on the device, or a count.
    U64(u64),
    /// A flag or a small number.
    U32(u32),
}

impl Arg {
    fn word(self) -> u64 {
        match self {
            Arg::U64(value) => value,
            Arg::U32(value) => u64::from(value),
        }
    }
}

/// A mark in a stream that can be asked about and waited for. Reused: a new record replaces the last.
///
/// Invariant: 7. `raw` is an event that was not destroyed.
pub struct Event {
    pub(super) gpu: Gpu,
    pub(super) raw: sys::CUevent,
}

// SAFETY: an event may be used from any thread that has the context bound; the driver locks.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// Marks the end of what is queued on `stream` now.
    pub fn record(&self, stream: &Stream) -> Outcome<()> {
        // SAFETY: invariants 6 and 7.
        unsafe { self.gpu.0.api.cuEventRecord(self.raw, stream.raw) }
    }

    /// Whether the mark is reached. An error of the work before it is an error here, not `false`.
    pub fn is_done(&self) -> Outcome<bool> {
        // SAFETY: invariant 7.
        done(unsafe { self.gpu.0.api.cuEventQuery(self.raw) })
    }

    /// Sleeps until the mark is reached.
    pub fn synchronize(&self) -> Outcome<()> {
        // SAFETY: invariant 7.
        unsafe { self.gpu.0.api.cuEventSynchronize(self.raw) }
    }

    /// Seconds between two marks that are reached, of events made by [`Gpu::timing_event`].
    pub fn seconds_since(&self, start: &Event) -> Outcome<f64> {
        let mut milliseconds = 0f32;
        // SAFETY: invariant 7, for both; a valid place for the answer.
        unsafe { self.gpu.0.api.cuEventElapsedTime(&mut milliseconds, start.raw, self.raw)? };
        Ok(f64::from(milliseconds) / 1e3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let _restore = self.gpu.bind_to_drop();
        // SAFETY: invariant 7; once, since this is the only place. A pending mark is no obstacle.
        let _ = unsafe { self.gpu.0.api.cuEventDestroy_v2(self.raw) };
    }
}

/// "Not ready" is an answer, not a fault.
fn done(answer: Outcome<()>) -> Outcome<bool> {
    match answer {
        Ok(()) => Ok(true),
        Err(fault) if fault.code == codes::NOT_READY => Ok(false),
        Err(fault) => Err(fault),
    }
}
