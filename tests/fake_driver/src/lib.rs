//! A test double of the NVIDIA driver library: host memory behind the driver's API, so that the code that loads to a
//! GPU runs where there is none, and so that failures can be made to order. It is never installed and never shipped:
//! the test harness builds it into a target folder of its own and copies it to a temporary folder under the driver's
//! names for one child process. It calls itself EMULATED in the device's name.
//!
//! What is emulated is what can be got wrong:
//! - device addresses are host addresses with bit 62 set, so that host code which reads one faults;
//! - each stream is a thread with a queue, and copies from registered memory happen *later*: a slot that is reused
//!   without waiting for its event gives wrong bytes. Copies of other memory wait, as the driver does, and are counted;
//! - every address and size is checked against the allocations; a thread without a context gets 201; a lost context
//!   stays lost; device memory is finite and starts out as garbage;
//! - kernels are looked up by their name in the PTX text that is really loaded, and run a Rust twin (`kernels`).
//!
//! Switches, all by environment:
//! - `FAKE_CUDA_FAIL=cuMemAlloc_v2:3=2,cuMemcpyHtoDAsync_v2:5=~700`: the k-th call (or `*`: every call) answers with
//!   the code; with `~` the call succeeds and its work fails later, in the stream;
//! - `FAKE_CUDA_INIT=802`, `FAKE_CUDA_NO_DEVICE=1`, `FAKE_CUDA_DEVICES=2` (also CUDA_VISIBLE_DEVICES),
//!   `FAKE_CUDA_CC=9.0`, `FAKE_CUDA_INTEGRATED=1`, `FAKE_CUDA_MEM=bytes` (a device; 4 GiB);
//! - `FAKE_CUDA_REGISTER=refuse`: host memory cannot be registered (801);
//! - `FAKE_CUDA_COPY_US=200`: each copy is that late; `FAKE_CUDA_FREE_COPIES=1`: copies cost nothing and move nothing
//!   (to measure all the rest);
//! - `FAKE_CUDA_REPORT=path`: a JSON report, written when a context is released and when the process exits.

#![allow(non_snake_case, clippy::missing_safety_doc, clippy::too_many_arguments)]

mod kernels;
mod memory;
mod state;
mod stream;

use memory::{HostKind, copy_span, device_range, host_kind};
use state::{CONFIG, CURRENT, Code, Need, STATE, answer, lock, violation, write_report};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use stream::{Event, Stream, enqueue, enqueue_host, wait_all};

type Device = c_int;
type Context = *mut c_void;
type Address = u64;
type Handle = *mut c_void;

/// Defines an exported function: counted, subject to injected failures, and checked for what it needs.
macro_rules! export {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) needs $need:ident $body:block)*) => {
        $(
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($arg: $ty),*) -> c_int {
                answer(stringify!($name), Need::$need, || -> Result<(), Code> { $body })
            }
        )*
    };
}

/// Stores an answer through a caller's pointer; null is an error, as in the driver.
unsafe fn give<T>(place: *mut T, value: T) -> Result<(), Code> {
    if place.is_null() {
        return Err(1);
    }
    unsafe { place.write(value) };
    Ok(())
}

fn device(device: Device) -> Result<usize, Code> {
    usize::try_from(device).ok().filter(|&d| d < CONFIG.devices.len()).ok_or(101)
}

/// The device of the thread's context; there is one, the export checked.
fn current() -> usize {
    CURRENT.get().saturating_sub(1)
}

export! {
    fn cuInit(_flags: c_uint) needs Nothing {
        if CONFIG.init_code != 0 {
            return Err(CONFIG.init_code);
        }
        if CONFIG.devices.is_empty() {
            return Err(100);
        }
        lock(&STATE).initialised = true;
        Ok(())
    }

    fn cuDriverGetVersion(version: *mut c_int) needs Nothing { unsafe { give(version, 12080) } }

    fn cuDeviceGetCount(count: *mut c_int) needs Init { unsafe { give(count, CONFIG.devices.len() as c_int) } }

    fn cuDeviceGet(place: *mut Device, ordinal: c_int) needs Init {
        device(ordinal)?;
        unsafe { give(place, ordinal) }
    }

    fn cuDeviceGetName(name: *mut c_char, len: c_int, which: Device) needs Init {
        device(which)?;
        let text = b"EMULATED H200-like (no GPU)";
        let len = usize::try_from(len).map_err(|_| 1)?;
        if name.is_null() || len == 0 {
            return Err(1);
        }
        let count = text.len().min(len - 1);
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr().cast(), name, count);
            name.add(count).write(0);
        }
        Ok(())
    }

    fn cuDeviceGetUuid(uuid: *mut [u8; 16], which: Device) needs Init {
        unsafe { give(uuid, CONFIG.devices[device(which)?].uuid) }
    }

    fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], which: Device) needs Init {
        unsafe { give(uuid, CONFIG.devices[device(which)?].uuid) }
    }

    fn cuDeviceTotalMem_v2(size_bytes: *mut usize, which: Device) needs Init {
        device(which)?;
        unsafe { give(size_bytes, CONFIG.memory_bytes as usize) }
    }

    fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, which: Device) needs Init {
        let index = CONFIG.devices[device(which)?].number;
        let answer = match attribute {
            1 | 2 => 1024,                            // threads a block
            5 => i32::MAX,                            // blocks
            16 => 132,                                // multiprocessors
            18 => c_int::from(CONFIG.integrated),
            33 => 0x3b + index as c_int,              // PCI bus
            34 | 50 => 0,                             // PCI device, domain
            40 => 3,                                  // copy engines
            75 => CONFIG.capability.0,
            76 => CONFIG.capability.1,
            99 => c_int::from(!CONFIG.register_refused),
            115 => 0,                                 // memory pools: no
            _ => 0,
        };
        unsafe { give(value, answer) }
    }

    fn cuDevicePrimaryCtxRetain(context: *mut Context, which: Device) needs Init {
        let device = device(which)?;
        lock(&STATE).retained[device] += 1;
        unsafe { give(context, (device + 1) as Context) }
    }

    fn cuDevicePrimaryCtxRelease_v2(which: Device) needs Init {
        let device = device(which)?;
        wait_all();
        let last = {
            let mut state = lock(&STATE);
            if state.retained[device] == 0 {
                return Err(201);
            }
            state.retained[device] -= 1;
            state.retained[device] == 0
        };
        if last {
            state::release_device(device);
        }
        write_report();
        Ok(())
    }

    fn cuCtxGetCurrent(context: *mut Context) needs Init { unsafe { give(context, CURRENT.get() as Context) } }

    fn cuCtxSetCurrent(context: Context) needs Init {
        let context = context as usize;
        if context != 0 && lock(&STATE).retained.get(context - 1).is_none_or(|&count| count == 0) {
            return Err(201);
        }
        CURRENT.set(context);
        Ok(())
    }

    fn cuCtxSynchronize() needs Context {
        wait_all();
        Ok(())
    }

    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) needs Context {
        let used = lock(&STATE).used_bytes[current()];
        unsafe {
            give(free, CONFIG.memory_bytes.saturating_sub(used) as usize)?;
            give(total, CONFIG.memory_bytes as usize)
        }
    }

    fn cuMemAlloc_v2(address: *mut Address, size_bytes: usize) needs Context {
        unsafe { give(address, memory::alloc(current(), size_bytes)?) }
    }

    fn cuMemFree_v2(address: Address) needs Release {
        wait_all();
        memory::free(address)
    }

    fn cuMemHostRegister_v2(start: *mut c_void, size_bytes: usize, _flags: c_uint) needs Context {
        if CONFIG.register_refused {
            return Err(801);
        }
        memory::register(start as usize, size_bytes, false)
    }

    fn cuMemHostUnregister(start: *mut c_void) needs Release {
        if wait_all() {
            lock(&STATE).counters.unregistered_busy += 1;
        }
        memory::unregister(start as usize, false)
    }

    fn cuMemHostAlloc(start: *mut *mut c_void, size_bytes: usize, _flags: c_uint) needs Context {
        unsafe { give(start, memory::host_alloc(size_bytes)? as *mut c_void) }
    }

    fn cuMemFreeHost(start: *mut c_void) needs Release {
        wait_all();
        memory::unregister(start as usize, true)
    }

    fn cuMemcpyHtoDAsync_v2(target: Address, source: *const c_void, size_bytes: usize, stream: Handle) needs Context {
        let target = device_range(target, size_bytes, "cuMemcpyHtoDAsync_v2")?;
        let source = source as usize;
        lock(&STATE).counters.copied(0, size_bytes);
        enqueue_host(stream, host_kind(source, size_bytes), move || {
            unsafe { std::ptr::copy(source as *const u8, target as *mut u8, size_bytes) };
        })
    }

    fn cuMemcpyDtoHAsync_v2(target: *mut c_void, source: Address, size_bytes: usize, stream: Handle) needs Context {
        let source = device_range(source, size_bytes, "cuMemcpyDtoHAsync_v2")?;
        let target = target as usize;
        lock(&STATE).counters.copied(1, size_bytes);
        enqueue_host(stream, host_kind(target, size_bytes), move || {
            unsafe { std::ptr::copy(source as *const u8, target as *mut u8, size_bytes) };
        })
    }

    fn cuMemcpyDtoDAsync_v2(target: Address, source: Address, size_bytes: usize, stream: Handle) needs Context {
        let (source, target) = (
            device_range(source, size_bytes, "cuMemcpyDtoDAsync_v2 source")?,
            device_range(target, size_bytes, "cuMemcpyDtoDAsync_v2 target")?,
        );
        lock(&STATE).counters.copied(2, size_bytes);
        enqueue_host(stream, HostKind::None, move || {
            unsafe { std::ptr::copy(source as *const u8, target as *mut u8, size_bytes) };
        })
    }

    fn cuMemcpy2DAsync_v2(copy: *const memory::Copy2d, stream: Handle) needs Context {
        if copy.is_null() {
            return Err(1);
        }
        let copy = unsafe { copy.read() };
        if copy.WidthInBytes == 0 || copy.Height == 0 {
            return Ok(());
        }
        let source = copy_span(copy.srcMemoryType, copy.srcHost, copy.srcDevice, copy.srcPitch, copy.srcXInBytes, copy.srcY, &copy)?;
        let target = copy_span(copy.dstMemoryType, copy.dstHost, copy.dstDevice, copy.dstPitch, copy.dstXInBytes, copy.dstY, &copy)?;
        let kind = if source.1 == HostKind::None { target.1 } else { source.1 };
        let direction = match (source.1, target.1) {
            (HostKind::None, HostKind::None) => 2,
            (HostKind::None, _) => 1,
            _ => 0,
        };
        lock(&STATE).counters.copied(direction, copy.WidthInBytes * copy.Height);
        enqueue_host(stream, kind, move || {
            for row in 0..copy.Height {
                unsafe {
                    std::ptr::copy(
                        (source.0 + row * copy.srcPitch) as *const u8,
                        (target.0 + row * copy.dstPitch) as *mut u8,
                        copy.WidthInBytes,
                    );
                }
            }
        })
    }

    fn cuMemsetD8Async(target: Address, value: u8, count: usize, stream: Handle) needs Context {
        let target = device_range(target, count, "cuMemsetD8Async")?;
        enqueue(stream, Box::new(move || {
            unsafe { std::ptr::write_bytes(target as *mut u8, value, count) };
            0
        })).map(drop)
    }

    fn cuMemsetD32Async(target: Address, value: c_uint, count: usize, stream: Handle) needs Context {
        let target = device_range(target, count.checked_mul(4).ok_or(1)?, "cuMemsetD32Async")?;
        if target % 4 != 0 {
            return Err(1);
        }
        enqueue(stream, Box::new(move || {
            for i in 0..count {
                unsafe { (target as *mut u32).add(i).write(value) };
            }
            0
        })).map(drop)
    }

    fn cuStreamCreate(place: *mut Handle, _flags: c_uint) needs Context {
        let stream = Stream::start(current());
        let mut state = lock(&STATE);
        let handle = state.handle();
        state.streams.insert(handle, stream);
        unsafe { give(place, handle as Handle) }
    }

    fn cuStreamQuery(stream: Handle) needs Context { if Stream::find(stream)?.is_idle() { Ok(()) } else { Err(600) } }

    fn cuStreamSynchronize(stream: Handle) needs Context {
        Stream::find(stream)?.wait();
        Ok(())
    }

    fn cuStreamWaitEvent(stream: Handle, event: Handle, _flags: c_uint) needs Context {
        let event = Event::find(event)?;
        let mark = event.recorded();
        enqueue(stream, Box::new(move || {
            event.wait(mark);
            0
        })).map(drop)
    }

    fn cuStreamDestroy_v2(stream: Handle) needs Release {
        let stream = lock(&STATE).streams.remove(&(stream as usize)).ok_or(400)?;
        stream.finish();
        Ok(())
    }

    fn cuEventCreate(place: *mut Handle, flags: c_uint) needs Context {
        let event = Arc::new(Event::new(current(), flags & 2 == 0));
        let mut state = lock(&STATE);
        let handle = state.handle();
        state.events.insert(handle, event);
        unsafe { give(place, handle as Handle) }
    }

    fn cuEventRecord(event: Handle, stream: Handle) needs Context {
        let event = Event::find(event)?;
        Stream::find(stream)?;
        let mark = event.record();
        enqueue(stream, Box::new(move || {
            event.reach(mark);
            0
        })).map(drop)
    }

    fn cuEventQuery(event: Handle) needs Context {
        let event = Event::find(event)?;
        if event.is_reached(event.recorded()) { Ok(()) } else { Err(600) }
    }

    fn cuEventSynchronize(event: Handle) needs Context {
        let event = Event::find(event)?;
        event.wait(event.recorded());
        Ok(())
    }

    fn cuEventElapsedTime(milliseconds: *mut f32, start: Handle, end: Handle) needs Context {
        let (start, end) = (Event::find(start)?.time()?, Event::find(end)?.time()?);
        unsafe { give(milliseconds, end.saturating_duration_since(start).as_secs_f32() * 1e3) }
    }

    fn cuEventDestroy_v2(event: Handle) needs Release {
        lock(&STATE).events.remove(&(event as usize)).map(drop).ok_or(400)
    }

    fn cuModuleLoadData(module: *mut Handle, image: *const c_void) needs Context {
        if image.is_null() {
            return Err(1);
        }
        let text = unsafe { CStr::from_ptr(image.cast()) }.to_str().map_err(|_| 200)?;
        let entries = kernels::entries(text).ok_or(218)?;
        let mut state = lock(&STATE);
        let handle = state.handle();
        state.modules.insert(handle, (current(), entries));
        unsafe { give(module, handle as Handle) }
    }

    fn cuModuleGetFunction(function: *mut Handle, module: Handle, name: *const c_char) needs Context {
        let name = unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| 500)?;
        let mut state = lock(&STATE);
        let (_, entries) = state.modules.get(&(module as usize)).ok_or(400)?;
        let entry = entries.iter().find(|e| e.name == name).cloned().ok_or(500)?;
        let handle = state.handle();
        state.functions.insert(handle, (module as usize, entry));
        unsafe { give(function, handle as Handle) }
    }

    fn cuModuleUnload(module: Handle) needs Release {
        let mut state = lock(&STATE);
        state.functions.retain(|_, (of, _)| *of != module as usize);
        state.modules.remove(&(module as usize)).map(drop).ok_or(400)
    }

    fn cuLaunchKernel(
        function: Handle, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint,
        block_z: c_uint, _shared_bytes: c_uint, stream: Handle, params: *mut *mut c_void, _extra: *mut *mut c_void
    ) needs Context {
        let entry = lock(&STATE).functions.get(&(function as usize)).map(|f| f.1.clone()).ok_or(400)?;
        if [grid_x, grid_y, grid_z, block_x, block_y, block_z].contains(&0) || grid_x > i32::MAX as u32 {
            return Err(1);
        }
        if u64::from(block_x) * u64::from(block_y) * u64::from(block_z) > 1024 {
            return Err(701);
        }
        if grid_y != 1 || grid_z != 1 || block_y != 1 || block_z != 1 {
            return violation("cuLaunchKernel: the kernels are one-dimensional".into());
        }
        // Copied now: the pointers are the caller's stack.
        let mut args = Vec::new();
        for (i, &size) in entry.params.iter().enumerate() {
            let mut word = [0u8; 8];
            unsafe {
                let place = params.add(i).read();
                if place.is_null() {
                    return Err(1);
                }
                std::ptr::copy_nonoverlapping(place.cast::<u8>(), word.as_mut_ptr(), size);
            }
            args.push(u64::from_le_bytes(word));
        }
        lock(&STATE).counters.launches += 1;
        enqueue(stream, Box::new(move || kernels::run(&entry.name, &args).err().unwrap_or(0))).map(drop)
    }

    fn cuGetErrorName(_code: c_int, text: *mut *const c_char) needs Nothing {
        unsafe { give(text, c"EMULATED_ERROR".as_ptr()) }
    }

    fn cuGetErrorString(_code: c_int, text: *mut *const c_char) needs Nothing {
        unsafe { give(text, c"an error of the emulated driver".as_ptr()) }
    }
}

/// Only for tests that look inside while the process runs: a counter of the report by name, `u64::MAX` if unknown.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hoist_fake_driver_counter(name: *const c_char) -> u64 {
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    state::facts().iter().find(|(key, _)| *key == name).map_or(u64::MAX, |(_, value)| *value)
}

/// Set when the context is lost: the code that every later call gives.
pub(crate) fn lose(code: Code) {
    let _ = state::LOST.compare_exchange(0, code, Ordering::SeqCst, Ordering::SeqCst);
}
