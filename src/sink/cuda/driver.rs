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
mod memory;
mod module;
mod stream;
mod symbols;

pub use codes::Fault;
pub use memory::{DeviceMemory, HostMemory, Registration};
pub use module::{Function, Module};
pub use stream::{Arg, Copy2d, Event, From2d, Stream};

use cudarc::driver::sys;
use std::ffi::{CString, c_int, c_uint};
use std::ptr::null_mut;
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
        _ => Err(Fault { call: "cuInit", code: codes::NO_LIBRARY }),
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

/// Gives the thread back the context it had: whoever drops a tensor may be working on another device.
struct Restore {
    api: &'static Api,
    before: Option<sys::CUcontext>,
}

impl Drop for Restore {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            // SAFETY: the context was current on this thread a moment ago; null is none.
            let _ = unsafe { self.api.cuCtxSetCurrent(before) };
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
    fn bind_to_drop(&self) -> Restore {
        let mut before = null_mut();
        // SAFETY: a valid place for the answer.
        let asked = unsafe { self.0.api.cuCtxGetCurrent(&mut before) };
        let other = asked.is_ok() && before != self.0.context;
        if other {
            let _ = self.bind();
        }
        Restore { api: self.0.api, before: other.then_some(before) }
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
        Ok(Module(Arc::new(module::Loaded { gpu: self.clone(), raw })))
    }
}
