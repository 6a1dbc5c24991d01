//! Emulated device memory, and which host memory is registered.

use crate::state::{CONFIG, Code, STATE, lock, violation};
use std::ffi::{c_uint, c_void};

/// Set in every device address: not canonical on x86-64, nor mapped anywhere else, so the host cannot read there.
const DEVICE_BIT: u64 = 1 << 62;

pub(crate) struct Allocation {
    pub(crate) device: usize,
    host: usize,
    size_bytes: usize,
    mapped_bytes: usize,
}

pub(crate) struct Registered {
    pub(crate) size_bytes: usize,
    /// By cuMemHostAlloc: the memory is ours.
    ours: bool,
}

/// Where the host's side of a copy lies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum HostKind {
    /// In no host memory.
    None,
    Registered,
    Pageable,
}

/// Layout of `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Copy2d {
    pub(crate) srcXInBytes: usize,
    pub(crate) srcY: usize,
    pub(crate) srcMemoryType: c_uint,
    pub(crate) srcHost: usize,
    pub(crate) srcDevice: u64,
    srcArray: usize,
    pub(crate) srcPitch: usize,
    pub(crate) dstXInBytes: usize,
    pub(crate) dstY: usize,
    pub(crate) dstMemoryType: c_uint,
    pub(crate) dstHost: usize,
    pub(crate) dstDevice: u64,
    dstArray: usize,
    pub(crate) dstPitch: usize,
    pub(crate) WidthInBytes: usize,
    pub(crate) Height: usize,
}

/// Takes device memory: a file in memory of its own, so that in this process's memory it is counted apart
/// (`RssShmem`), filled with garbage, since new device memory is.
pub(crate) fn alloc(device: usize, size_bytes: usize) -> Result<u64, Code> {
    if size_bytes == 0 {
        return Err(1);
    }
    {
        let mut state = lock(&STATE);
        let used = state.used_bytes[device].checked_add(size_bytes as u64).ok_or(2)?;
        if used > CONFIG.memory_bytes {
            return Err(2);
        }
        state.used_bytes[device] = used;
        let all: u64 = state.used_bytes.iter().sum();
        state.counters.peak_bytes = state.counters.peak_bytes.max(all);
    }
    let mapped_bytes = size_bytes.next_multiple_of(4096);
    let host = unsafe {
        let file = libc::memfd_create(c"emulated-device-memory".as_ptr(), libc::MFD_CLOEXEC);
        if file < 0 || libc::ftruncate(file, mapped_bytes as libc::off_t) != 0 {
            return Err(304);
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let host = libc::mmap(std::ptr::null_mut(), mapped_bytes, protection, libc::MAP_SHARED, file, 0);
        libc::close(file);
        host
    };
    if host == libc::MAP_FAILED {
        return Err(304);
    }
    if !CONFIG.free_copies {
        unsafe { std::ptr::write_bytes(host.cast::<u8>(), 0xa5, size_bytes) };
    }
    let address = host as u64 | DEVICE_BIT;
    lock(&STATE)
        .allocations
        .insert(address, Allocation { device, host: host as usize, size_bytes, mapped_bytes });
    Ok(address)
}

pub(crate) fn free(address: u64) -> Result<(), Code> {
    let allocation = {
        let mut state = lock(&STATE);
        match state.allocations.remove(&address) {
            Some(allocation) => {
                state.used_bytes[allocation.device] -= allocation.size_bytes as u64;
                allocation
            }
            None => {
                drop(state);
                return violation(format!("cuMemFree_v2: {address:#x} is not the start of an allocation"));
            }
        }
    };
    unsafe { libc::munmap(allocation.host as *mut c_void, allocation.mapped_bytes) };
    Ok(())
}

/// The host's view of a device range, if it lies in one allocation.
pub(crate) fn device_range(address: u64, size_bytes: usize, who: &str) -> Result<usize, Code> {
    let found = lock(&STATE).allocations.range(..=address).next_back().and_then(|(&start, a)| {
        let offset = usize::try_from(address - start).ok()?;
        (offset.checked_add(size_bytes)? <= a.size_bytes).then_some(a.host + offset)
    });
    match found {
        Some(host) => Ok(host),
        None => violation(format!("{who}: {size_bytes} bytes at {address:#x} do not lie in one allocation")),
    }
}

/// Whether all of a host range is registered, as one.
pub(crate) fn host_kind(start: usize, size_bytes: usize) -> HostKind {
    let inside = lock(&STATE).registered.range(..=start).next_back().is_some_and(|(&first, r)| {
        start.checked_add(size_bytes).is_some_and(|end| end <= first + r.size_bytes)
    });
    if inside { HostKind::Registered } else { HostKind::Pageable }
}

/// One side of a two-dimensional copy: its first byte for the host, and where it lies.
pub(crate) fn copy_span(
    kind: c_uint,
    host: usize,
    device: u64,
    pitch: usize,
    x: usize,
    y: usize,
    copy: &Copy2d,
) -> Result<(usize, HostKind), Code> {
    if pitch < copy.WidthInBytes {
        return violation(format!(
            "cuMemcpy2DAsync_v2: pitch {pitch} is less than a row of {}",
            copy.WidthInBytes
        ));
    }
    let before = y.checked_mul(pitch).and_then(|b| b.checked_add(x)).ok_or(1)?;
    let span =
        (copy.Height - 1).checked_mul(pitch).and_then(|b| b.checked_add(copy.WidthInBytes)).ok_or(1)?;
    match kind {
        1 => Ok((host + before, host_kind(host + before, span))),
        2 => Ok((device_range(device + before as u64, span, "cuMemcpy2DAsync_v2")?, HostKind::None)),
        _ => Err(1),
    }
}

pub(crate) fn register(start: usize, size_bytes: usize, ours: bool) -> Result<(), Code> {
    if start == 0 || size_bytes == 0 {
        return Err(1);
    }
    let mut state = lock(&STATE);
    let end = start.checked_add(size_bytes).ok_or(1)?;
    if state.registered.range(..end).next_back().is_some_and(|(&first, r)| first + r.size_bytes > start) {
        return Err(712);
    }
    state.registered.insert(start, Registered { size_bytes, ours });
    let all: u64 = state.registered.values().map(|r| r.size_bytes as u64).sum();
    state.counters.registered_peak_bytes = state.counters.registered_peak_bytes.max(all);
    Ok(())
}

pub(crate) fn host_alloc(size_bytes: usize) -> Result<usize, Code> {
    if size_bytes == 0 {
        return Err(1);
    }
    let start = unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        libc::mmap(
            std::ptr::null_mut(),
            size_bytes,
            protection,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(2);
    }
    register(start as usize, size_bytes, true)?;
    Ok(start as usize)
}

/// Ends a registration, or frees what cuMemHostAlloc gave.
pub(crate) fn unregister(start: usize, ours: bool) -> Result<(), Code> {
    let mut state = lock(&STATE);
    match state.registered.get(&start) {
        Some(r) if r.ours == ours => {
            let size_bytes = r.size_bytes;
            state.registered.remove(&start);
            if ours {
                unsafe { libc::munmap(start as *mut c_void, size_bytes) };
            }
            Ok(())
        }
        _ => Err(if ours { 1 } else { 713 }),
    }
}
