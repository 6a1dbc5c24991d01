//! The CUDA driver, as little of it as loading weights needs: a device, its memory, registered host memory, streams,
//! events, copies, and one module of kernels. The only room that names cudarc.
//!
//! Why not cudarc's own safe types: they allocate from pools (memory that is freed stays taken), wait and record events
//! at every use, report an error of a `Drop` at the next unrelated call, and end the process by a panic where a
//! library or a symbol is missing. What is needed here is smaller. Every call gives a [`Fault`]; everything that was
//! made is given back by `Drop`, and by a method with a result where the result matters.
//!
//! A [`Gpu`] is the device's primary context, which other users of CUDA in the process share. Calls need it bound to
//! the calling thread: [`Gpu::open`] binds the thread that opens, every other thread calls [`Gpu::bind`] once.

#![allow(unsafe_code)]

pub mod cast;
pub mod codes;
mod symbols;

pub use codes::Fault;

use cudarc::driver::sys;
use std::ffi::{CString, c_int, c_uint, c_void};
use std::ptr::{null, null_mut};
use std::sync::Arc;
use symbols::{Api, api};

/// A result whose error is the driver's.
pub type Outcome<T> = Result<T, Fault>;

/// What there is to work with. The library is opened and the driver initialised at most once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// No driver library on this machine.
    NoLibrary,
    /// There is one and it does not start: the code says why. A toolkit's stub answers 34, a machine without a
    /// usable GPU 100.
    Refused(Fault),
    /// The driver works.
    Present {
        /// The newest CUDA version that it serves, as `1000 × major + 10 × minor`.
        cuda_version: u32,
        /// Devices that CUDA shows us (after CUDA_VISIBLE_DEVICES), at least one.
        device_count: u32,
    },
}

/// Opens and initialises the driver and says what came of it. Never panics, also without a library.
pub fn presence() -> Presence {
    static PRESENCE: std::sync::OnceLock<Presence> = std::sync::OnceLock::new();
    PRESENCE
        .get_or_init(|| match api() {
            None => Presence::NoLibrary,
            Some(Err(fault)) => Presence::Refused(*fault),
            Some(Ok(api)) => match count(api) {
                Err(fault) => Presence::Refused(fault),
                Ok((_, 0)) => Presence::Refused(Fault { call: "cuDeviceGetCount", code: codes::NO_DEVICE }),
                Ok((cuda_version, device_count)) => Presence::Present { cuda_version, device_count },
            },
        })
        .clone()
}

/// Initialises; the version and the number of devices.
fn count(api: &Api) -> Outcome<(u32, u32)> {
    let (mut version, mut count): (c_int, c_int) = (0, 0);
    // SAFETY: plain calls with valid places for their answers; the last two need cuInit, which came before.
    unsafe {
        api.cuInit(0)?;
        api.cuDriverGetVersion(&mut version)?;
        api.cuDeviceGetCount(&mut count)?;
    }
    Ok((version.max(0) as u32, count.max(0) as u32))
}

/// The functions, once the driver works.
fn ready() -> Outcome<&'static Api> {
    match (presence(), api()) {
        (Presence::Present { .. }, Some(Ok(api))) => Ok(api),
        (Presence::Refused(fault), _) => Err(fault),
        _ => Err(Fault { call: "cuInit", code: codes::MISSING_SYMBOL }),
    }
}

/// What is known of a device; does not change while it is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Its number among those CUDA shows us.
    pub ordinal: u32,
    /// NVIDIA's name of it.
    pub name: String,
    /// `GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`, or `MIG-…` for a part of one.
    pub uuid: String,
    /// Where it sits: `domain:bus:device.function`, as sysfs writes it (`0000:3b:00.0`).
    pub pci_id: String,
    /// Compute capability: major, minor.
    pub compute_capability: (u32, u32),
    /// Memory of the device, free or not.
    pub memory_bytes: u64,
    /// Whether device and host share one memory, so that "free" is the host's.
    pub integrated: bool,
    /// Streaming multiprocessors: what sizes a launch.
    pub multiprocessor_count: u32,
    /// The newest CUDA version that the driver serves, as `1000 × major + 10 × minor`.
    pub cuda_version: u32,
    /// Whether this is a test double and not a GPU.
    pub emulated: bool,
}

/// The facts of every device that CUDA shows us, in its order. Makes no context and takes no device memory.
pub fn devices() -> Outcome<Vec<DeviceFacts>> {
    let api = ready()?;
    let Presence::Present { cuda_version, device_count } = presence() else { return Ok(Vec::new()) };
    (0..device_count).map(|ordinal| Ok(facts(api, ordinal, cuda_version)?.1)).collect()
}

fn facts(api: &Api, ordinal: u32, cuda_version: u32) -> Outcome<(sys::CUdevice, DeviceFacts)> {
    use sys::CUdevice_attribute as A;
    let no_such = Fault { call: "cuDeviceGet", code: 101 };
    let mut device: sys::CUdevice = 0;
    // SAFETY: a valid place for the answer; the driver is initialised.
    unsafe { api.cuDeviceGet(&mut device, c_int::try_from(ordinal).map_err(|_| no_such)?)? };
    let attribute = |which: A| -> Outcome<u32> {
        let mut value: c_int = 0;
        // SAFETY: a device that cuDeviceGet gave; a valid place for the answer.
        unsafe { api.cuDeviceGetAttribute(&mut value, which as c_int, device)? };
        Ok(value.max(0) as u32)
    };
    let mut name = [0u8; 256];
    // SAFETY: the length is the buffer's, less one byte that stays NUL.
    unsafe { api.cuDeviceGetName(name.as_mut_ptr().cast(), 255, device)? };
    let name = String::from_utf8_lossy(name.split(|&b| b == 0).next().unwrap_or_default()).into_owned();
    let mut memory_bytes = 0usize;
    // SAFETY: as above.
    unsafe { api.cuDeviceTotalMem_v2(&mut memory_bytes, device)? };
    let pci_id = format!(
        "{:04x}:{:02x}:{:02x}.0",
        attribute(A::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?,
        attribute(A::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?,
        attribute(A::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?
    );
    let facts = DeviceFacts {
        ordinal,
        emulated: name.contains("EMULATED"),
        name,
        uuid: uuid(api, device)?,
        pci_id,
        compute_capability: (
            attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        memory_bytes: memory_bytes as u64,
        integrated: attribute(A::CU_DEVICE_ATTRIBUTE_INTEGRATED)? != 0,
        multiprocessor_count: attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        cuda_version,
    };
    Ok((device, facts))
}

/// The UUID as `nvidia-smi -L` writes it. The first function names the GPU, the second the MIG instance, where the
/// device is one.
fn uuid(api: &Api, device: sys::CUdevice) -> Outcome<String> {
    let (mut whole, mut part) = (sys::CUuuid { bytes: [0; 16] }, sys::CUuuid { bytes: [0; 16] });
    // SAFETY: a device that cuDeviceGet gave; a valid place for the answer.
    unsafe { api.cuDeviceGetUuid(&mut whole, device)? };
    // SAFETY: as above.
    let mig = unsafe { api.cuDeviceGetUuid_v2(&mut part, device) }.is_ok() && part.bytes != whole.bytes;
    let (kind, bytes) = if mig { ("MIG", part.bytes) } else { ("GPU", whole.bytes) };
    let mut text = String::from(kind);
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 0 | 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{:02x}", *byte as u8));
    }
    Ok(text)
}

/// Device memory at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryInfo {
    /// Free for anyone.
    pub free_bytes: u64,
    /// All of it.
    pub total_bytes: u64,
}

/// A device that is open: its primary context, retained. Cheap to clone; the context goes back when the last clone and
/// the last thing made from it are gone.
///
/// Invariants:
/// 1. `context` is the primary context of `device`, retained once and released once, by `Drop`.
/// 2. Everything made through it holds a clone, so a handle never outlives its context.
#[derive(Clone)]
pub struct Gpu(Arc<Opened>);

struct Opened {
    api: &'static Api,
    device: sys::CUdevice,
    context: sys::CUcontext,
    facts: DeviceFacts,
}

// SAFETY: a context may be used from any thread that binds it (the driver locks); the rest is plain data.
unsafe impl Send for Opened {}
// SAFETY: as above.
unsafe impl Sync for Opened {}

impl Drop for Opened {
    fn drop(&mut self) {
        let mut current = null_mut();
        // SAFETY: invariants 1 and 2: nothing uses the context any more. It is unbound first, so that this thread does
        // not keep a context that is gone. Nobody is left to whom a failure would mean anything.
        unsafe {
            if self.api.cuCtxGetCurrent(&mut current).is_ok() && current == self.context {
                let _ = self.api.cuCtxSetCurrent(null_mut());
            }
            let _ = self.api.cuDevicePrimaryCtxRelease_v2(self.device);
        }
    }
}

impl Gpu {
    /// Opens device `ordinal` (counted after CUDA_VISIBLE_DEVICES) and binds it to this thread.
    ///
    /// # Errors
    /// The driver's refusal; 101 where there is no such device.
    pub fn open(ordinal: u32) -> Outcome<Gpu> {
        let api = ready()?;
        let Presence::Present { cuda_version, .. } = presence() else {
            return Err(Fault { call: "cuInit", code: codes::NO_DEVICE });
        };
        let (device, facts) = facts(api, ordinal, cuda_version)?;
        let mut context = null_mut();
        // SAFETY: a device that cuDeviceGet gave; a valid place for the answer. Establishes invariant 1.
        unsafe { api.cuDevicePrimaryCtxRetain(&mut context, device)? };
        let gpu = Gpu(Arc::new(Opened { api, device, context, facts }));
        gpu.bind()?;
        Ok(gpu)
    }

    /// What is known of the device.
    pub fn facts(&self) -> &DeviceFacts {
        &self.0.facts
    }

    /// Binds the device to the calling thread. Every thread that calls the driver does this once, at its start.
    pub fn bind(&self) -> Outcome<()> {
        // SAFETY: invariant 1: the context is retained.
        unsafe { self.0.api.cuCtxSetCurrent(self.0.context) }
    }

    /// Binds before something is given back, on whatever thread that happens. Where it fails, giving back is tried all
    /// the same: the thread may have the context already.
    fn bind_to_drop(&self) {
        let _ = self.bind();
    }

    /// Free and total device memory now. On an integrated device the host's MemAvailable is the better answer.
    pub fn memory(&self) -> Outcome<MemoryInfo> {
        let (mut free, mut total) = (0usize, 0usize);
        // SAFETY: valid places for the answers.
        unsafe { self.0.api.cuMemGetInfo_v2(&mut free, &mut total)? };
        Ok(MemoryInfo { free_bytes: free as u64, total_bytes: total as u64 })
    }

    /// Takes `size_bytes` of device memory, aligned to at least 256 bytes; not from a pool, so that what is freed is
    /// free. What it holds is undefined.
    pub fn alloc(&self, size_bytes: u64) -> Outcome<DeviceMemory> {
        let size = usize::try_from(size_bytes)
            .map_err(|_| Fault { call: "cuMemAlloc_v2", code: codes::OUT_OF_MEMORY })?;
        let mut address: sys::CUdeviceptr = 0;
        // SAFETY: a valid place for the answer.
        unsafe { self.0.api.cuMemAlloc_v2(&mut address, size)? };
        Ok(DeviceMemory { gpu: self.clone(), address, size_bytes })
    }

    /// Page-locks `size_bytes` from `start` and lets the device read and write them directly.
    ///
    /// # Errors
    /// The driver refuses where memory cannot be locked (2, 304, 800, 801): take [`Gpu::host_alloc`] or go unpinned.
    ///
    /// # Safety
    /// The range must be mapped, and stay mapped until the registration is dropped.
    pub unsafe fn register(&self, start: *mut u8, size_bytes: usize) -> Outcome<Registration> {
        const PORTABLE: c_uint = 1;
        // SAFETY: the caller says that the range is mapped; the driver checks the rest.
        unsafe { self.0.api.cuMemHostRegister_v2(start.cast(), size_bytes, PORTABLE)? };
        Ok(Registration { gpu: self.clone(), start, size_bytes })
    }

    /// Host memory from the driver, page-locked and cached by the CPU: for when registration is refused.
    pub fn host_alloc(&self, size_bytes: usize) -> Outcome<HostMemory> {
        let mut start = null_mut();
        // SAFETY: a valid place for the answer. Not write-combined: the CPU reads what it wrote.
        unsafe { self.0.api.cuMemHostAlloc(&mut start, size_bytes, 0)? };
        Ok(HostMemory { gpu: self.clone(), start: start.cast(), size_bytes })
    }

    /// A stream that does not wait for the default stream.
    pub fn stream(&self) -> Outcome<Stream> {
        let mut raw = null_mut();
        // SAFETY: a valid place for the answer.
        unsafe {
            self.0.api.cuStreamCreate(&mut raw, sys::CUstream_flags::CU_STREAM_NON_BLOCKING as c_uint)?
        };
        Ok(Stream { gpu: self.clone(), raw })
    }

    /// An event that does not measure time and whose waiters sleep. Complete until it is first recorded.
    pub fn event(&self) -> Outcome<Event> {
        use sys::CUevent_flags as F;
        self.event_of(F::CU_EVENT_DISABLE_TIMING as c_uint | F::CU_EVENT_BLOCKING_SYNC as c_uint)
    }

    /// An event that measures time ([`Event::seconds_since`]) and whose waiters sleep.
    pub fn timing_event(&self) -> Outcome<Event> {
        self.event_of(sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC as c_uint)
    }

    fn event_of(&self, flags: c_uint) -> Outcome<Event> {
        let mut raw = null_mut();
        // SAFETY: a valid place for the answer.
        unsafe { self.0.api.cuEventCreate(&mut raw, flags)? };
        Ok(Event { gpu: self.clone(), raw })
    }

    /// Compiles PTX for this device.
    ///
    /// # Errors
    /// 218 where the text is wrong, 222 where it is newer than the driver, 209 where the device is too old.
    pub fn module(&self, ptx: &str) -> Outcome<Module> {
        let image = CString::new(ptx).map_err(|_| Fault { call: "cuModuleLoadData", code: 218 })?;
        let mut raw = null_mut();
        // SAFETY: NUL-terminated text; the driver has compiled it when the call returns.
        unsafe { self.0.api.cuModuleLoadData(&mut raw, image.as_ptr().cast())? };
        Ok(Module(Arc::new(Loaded { gpu: self.clone(), raw })))
    }
}

/// Device memory, freed when dropped.
///
/// Invariant: 3. `address` is an allocation of `size_bytes` that was not freed; 0 once it was.
pub struct DeviceMemory {
    gpu: Gpu,
    address: sys::CUdeviceptr,
    size_bytes: u64,
}

impl DeviceMemory {
    /// Its first address, for the device; the host must not read there.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Its size.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The device it lies on.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Frees it, with a result. Waits for the work that uses it.
    pub fn free(mut self) -> Outcome<()> {
        self.release()
    }

    fn release(&mut self) -> Outcome<()> {
        let address = std::mem::replace(&mut self.address, 0);
        if address == 0 {
            return Ok(());
        }
        self.gpu.bind_to_drop();
        // SAFETY: invariant 3; freed once, since the address is gone from here.
        unsafe { self.gpu.0.api.cuMemFree_v2(address) }
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // A failure means a lost context, with which the memory went too.
        let _ = self.release();
    }
}

/// Host memory of someone else that is page-locked; unlocked when dropped.
///
/// Invariant: 4. The range is registered, and mapped as the caller of [`Gpu::register`] promised.
pub struct Registration {
    gpu: Gpu,
    start: *mut u8,
    size_bytes: usize,
}

// SAFETY: the pointer is only handed back to the driver, which any thread may call.
unsafe impl Send for Registration {}
// SAFETY: as above; no method reads through it.
unsafe impl Sync for Registration {}

impl Registration {
    /// How much is locked.
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.gpu.bind_to_drop();
        // SAFETY: invariant 4; once, since this is the only place.
        let _ = unsafe { self.gpu.0.api.cuMemHostUnregister(self.start.cast()) };
    }
}

/// Page-locked host memory from the driver; freed when dropped.
///
/// Invariant: 5. `start` is an allocation of `size_bytes` bytes that was not freed.
pub struct HostMemory {
    gpu: Gpu,
    start: *mut u8,
    size_bytes: usize,
}

// SAFETY: the memory belongs to this value alone and may be written from any thread.
unsafe impl Send for HostMemory {}
// SAFETY: shared access gives out only the address and the size.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// Its first byte, aligned to a page. Who writes there sees to it that no copy is under way.
    pub fn start(&self) -> *mut u8 {
        self.start
    }

    /// Its size.
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        self.gpu.bind_to_drop();
        // SAFETY: invariant 5; once, since this is the only place.
        let _ = unsafe { self.gpu.0.api.cuMemFreeHost(self.start.cast()) };
    }
}

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
    gpu: Gpu,
    raw: sys::CUstream,
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
        self.gpu.bind_to_drop();
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
    gpu: Gpu,
    raw: sys::CUevent,
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
        self.gpu.bind_to_drop();
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

/// Compiled kernels. Cheap to clone; unloaded with the last clone and the last function.
#[derive(Clone)]
pub struct Module(Arc<Loaded>);

/// Invariant: 8. `raw` is a module that was not unloaded.
struct Loaded {
    gpu: Gpu,
    raw: sys::CUmodule,
}

// SAFETY: a module may be used from any thread that has the context bound; the driver locks.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Sync for Loaded {}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.gpu.bind_to_drop();
        // SAFETY: invariant 8; once, since this is the only place; no function is left, each holds a clone.
        let _ = unsafe { self.gpu.0.api.cuModuleUnload(self.raw) };
    }
}

impl Module {
    /// The kernel called `name`.
    ///
    /// # Errors
    /// 500 where there is none.
    pub fn function(&self, name: &str) -> Outcome<Function> {
        let name = CString::new(name).map_err(|_| Fault { call: "cuModuleGetFunction", code: 500 })?;
        let mut raw = null_mut();
        // SAFETY: invariant 8; a NUL-terminated name; a valid place for the answer.
        unsafe { self.0.gpu.0.api.cuModuleGetFunction(&mut raw, self.0.raw, name.as_ptr())? };
        Ok(Function { _module: self.clone(), raw })
    }
}

/// One kernel; keeps its module loaded.
#[derive(Clone)]
pub struct Function {
    _module: Module,
    raw: sys::CUfunction,
}

// SAFETY: a function is a name in a module, which may be used from any thread.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}
