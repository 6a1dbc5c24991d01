//! Memory: of the device, and of the host as far as the device reads it directly. Each is given back when dropped.
//! (The invariants are numbered through the whole room: 1 and 2 are [`Gpu`]'s.)

use super::sys;
use super::{Gpu, Outcome};

/// Device memory, freed when dropped.
///
/// Invariant: 3. `address` is an allocation of `size_bytes` that was not freed; 0 once it was.
pub struct DeviceMemory {
    pub(super) gpu: Gpu,
    pub(super) address: sys::CUdeviceptr,
    pub(super) size_bytes: u64,
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
        let _restore = self.gpu.bind_to_drop();
        // SAFETY: invariant 3; freed once, since the address is gone from here.
        unsafe { self.gpu.0.api.cuMemFree_v2(address) }
    }
}

impl std::fmt::Debug for DeviceMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceMemory {{ address: {:#x}, size_bytes: {} }}", self.address, self.size_bytes)
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
    pub(super) gpu: Gpu,
    pub(super) start: *mut u8,
    pub(super) size_bytes: usize,
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
        let _restore = self.gpu.bind_to_drop();
        // SAFETY: invariant 4; once, since this is the only place.
        let _ = unsafe { self.gpu.0.api.cuMemHostUnregister(self.start.cast()) };
    }
}

/// Page-locked host memory from the driver; freed when dropped.
///
/// Invariant: 5. `start` is an allocation of `size_bytes` bytes that was not freed.
pub struct HostMemory {
    pub(super) gpu: Gpu,
    pub(super) start: *mut u8,
    pub(super) size_bytes: usize,
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
        let _restore = self.gpu.bind_to_drop();
        // SAFETY: invariant 5; once, since this is the only place.
        let _ = unsafe { self.gpu.0.api.cuMemFreeHost(self.start.cast()) };
    }
}
