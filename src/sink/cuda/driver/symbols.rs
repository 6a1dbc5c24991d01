//! The driver's functions, looked up once by name in the library that is there.
//!
//! cudarc supplies the types and its list of library names. Its functions are not called, for two reasons: they
//! panic where a symbol is missing, and they return the code as a Rust enum, so that a driver newer than the headers
//! could answer with a value that the enum does not have, which is undefined behaviour. Here a missing function is a
//! [`Fault`] and a code is an integer. A build with candle's kernels is linked to the driver's library, and cudarc has no
//! list of names then; opening it by its one name gives the library that is loaded already.

use super::codes::{Fault, MISSING_SYMBOL};
use super::sys;
use std::ffi::{CString, c_char, c_int, c_uint, c_void};

/// An opened driver library.
enum Library {
    /// The name that every CUDA program opens. Tried first: a toolkit's stub is called `libcuda.so`, lies on many
    /// library paths, and would otherwise be found before the driver.
    #[cfg(unix)]
    Runtime(*mut c_void),
    /// Whatever cudarc's list of names finds.
    #[cfg(not(feature = "candle-cuda"))]
    Any,
}

impl Library {
    /// Opens the driver's library, if there is one.
    fn open() -> Option<Library> {
        #[cfg(unix)]
        {
            // SAFETY: a NUL-terminated name; opening runs the initialisers of the driver, whom we trust with more.
            let handle = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
            if !handle.is_null() {
                return Some(Library::Runtime(handle));
            }
        }
        // SAFETY: opens libraries by name, as above. Without this check `culib` would panic.
        #[cfg(not(feature = "candle-cuda"))]
        return unsafe { sys::is_culib_present() }.then_some(Library::Any);
        #[cfg(feature = "candle-cuda")]
        None
    }

    /// The address of `name`, or null.
    fn address(&self, name: &str) -> *mut c_void {
        match *self {
            #[cfg(unix)]
            Library::Runtime(handle) => {
                let Ok(name) = CString::new(name) else { return std::ptr::null_mut() };
                // SAFETY: the handle is open and never closed; the name ends with a NUL.
                unsafe { libc::dlsym(handle, name.as_ptr()) }
            }
            #[cfg(not(feature = "candle-cuda"))]
            // SAFETY: presence was checked in `open`; the pointer is read as an address and typed by `Api::load`.
            Library::Any => unsafe {
                sys::culib().get::<*mut c_void>(name.as_bytes()).map_or(std::ptr::null_mut(), |s| *s)
            },
        }
    }
}

macro_rules! symbols {
    (required { $($name:ident($($arg:ident: $ty:ty),*);)* } optional { $($oname:ident($($oarg:ident: $oty:ty),*);)* }) => {
        /// The functions; each takes the driver's own arguments and gives its code as a [`Fault`].
        #[allow(non_snake_case)]
        pub(super) struct Api {
            $($name: unsafe extern "C" fn($($ty),*) -> c_int,)*
            $($oname: Option<unsafe extern "C" fn($($oty),*) -> c_int>,)*
        }

        #[allow(non_snake_case, clippy::too_many_arguments, clippy::missing_safety_doc)]
        impl Api {
            /// Opens the library and finds every function; `None` where there is no library.
            fn load() -> Option<Result<Api, Fault>> {
                let library = Library::open()?;
                Some((|| Ok(Api {
                    $($name: {
                        let address = library.address(stringify!($name));
                        if address.is_null() {
                            return Err(Fault { call: stringify!($name), code: MISSING_SYMBOL });
                        }
                        // SAFETY: not null, and the driver's ABI fixes the signature that goes with this name.
                        unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($ty),*) -> c_int>(address) }
                    },)*
                    $($oname: {
                        let address = library.address(stringify!($oname));
                        // SAFETY: as above; null becomes `None`.
                        unsafe { std::mem::transmute::<*mut c_void, Option<unsafe extern "C" fn($($oty),*) -> c_int>>(address) }
                    },)*
                }))())
            }

            $(pub(super) unsafe fn $name(&self, $($arg: $ty),*) -> Result<(), Fault> {
                // SAFETY: the caller keeps the contract that `cuda.h` states for this function.
                judge(stringify!($name), unsafe { (self.$name)($($arg),*) })
            })*

            $(pub(super) unsafe fn $oname(&self, $($oarg: $oty),*) -> Result<(), Fault> {
                match self.$oname {
                    // SAFETY: the caller keeps the contract that `cuda.h` states for this function.
                    Some(function) => judge(stringify!($oname), unsafe { function($($oarg),*) }),
                    None => Err(Fault { call: stringify!($oname), code: MISSING_SYMBOL }),
                }
            })*
        }
    };
}

symbols! {
    required {
        cuInit(flags: c_uint);
        cuDriverGetVersion(version: *mut c_int);
        cuDeviceGetCount(count: *mut c_int);
        cuDeviceGet(device: *mut sys::CUdevice, ordinal: c_int);
        cuDeviceGetName(name: *mut c_char, len: c_int, device: sys::CUdevice);
        cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, device: sys::CUdevice);
        cuDeviceGetUuid(uuid: *mut sys::CUuuid, device: sys::CUdevice);
        cuDeviceTotalMem_v2(size_bytes: *mut usize, device: sys::CUdevice);
        cuDevicePrimaryCtxRetain(context: *mut sys::CUcontext, device: sys::CUdevice);
        cuDevicePrimaryCtxRelease_v2(device: sys::CUdevice);
        cuCtxGetCurrent(context: *mut sys::CUcontext);
        cuCtxSetCurrent(context: sys::CUcontext);
        cuMemGetInfo_v2(free_bytes: *mut usize, total_bytes: *mut usize);
        cuMemAlloc_v2(address: *mut sys::CUdeviceptr, size_bytes: usize);
        cuMemFree_v2(address: sys::CUdeviceptr);
        cuMemHostRegister_v2(start: *mut c_void, size_bytes: usize, flags: c_uint);
        cuMemHostUnregister(start: *mut c_void);
        cuMemHostAlloc(start: *mut *mut c_void, size_bytes: usize, flags: c_uint);
        cuMemFreeHost(start: *mut c_void);
        cuMemcpyHtoDAsync_v2(target: sys::CUdeviceptr, source: *const c_void, size_bytes: usize, stream: sys::CUstream);
        cuMemcpyDtoHAsync_v2(target: *mut c_void, source: sys::CUdeviceptr, size_bytes: usize, stream: sys::CUstream);
        cuMemcpyDtoDAsync_v2(target: sys::CUdeviceptr, source: sys::CUdeviceptr, size_bytes: usize, stream: sys::CUstream);
        cuMemcpy2DAsync_v2(copy: *const sys::CUDA_MEMCPY2D, stream: sys::CUstream);
        cuMemsetD8Async(target: sys::CUdeviceptr, value: u8, count: usize, stream: sys::CUstream);
        cuMemsetD32Async(target: sys::CUdeviceptr, value: c_uint, count: usize, stream: sys::CUstream);
        cuStreamCreate(stream: *mut sys::CUstream, flags: c_uint);
        cuStreamQuery(stream: sys::CUstream);
        cuStreamSynchronize(stream: sys::CUstream);
        cuStreamWaitEvent(stream: sys::CUstream, event: sys::CUevent, flags: c_uint);
        cuStreamDestroy_v2(stream: sys::CUstream);
        cuEventCreate(event: *mut sys::CUevent, flags: c_uint);
        cuEventRecord(event: sys::CUevent, stream: sys::CUstream);
        cuEventQuery(event: sys::CUevent);
        cuEventSynchronize(event: sys::CUevent);
        cuEventElapsedTime(milliseconds: *mut f32, start: sys::CUevent, end: sys::CUevent);
        cuEventDestroy_v2(event: sys::CUevent);
        cuModuleLoadData(module: *mut sys::CUmodule, image: *const c_void);
        cuModuleGetFunction(function: *mut sys::CUfunction, module: sys::CUmodule, name: *const c_char);
        cuModuleUnload(module: sys::CUmodule);
        cuLaunchKernel(
            function: sys::CUfunction, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint,
            block_x: c_uint, block_y: c_uint, block_z: c_uint, shared_bytes: c_uint,
            stream: sys::CUstream, params: *mut *mut c_void, extra: *mut *mut c_void
        );
    }
    optional {
        // CUDA 11.4; tells a MIG instance from its GPU.
        cuDeviceGetUuid_v2(uuid: *mut sys::CUuuid, device: sys::CUdevice);
    }
}

fn judge(call: &'static str, code: c_int) -> Result<(), Fault> {
    match code {
        0 => Ok(()),
        // A negative code would be a driver's bug; shown as the bits that came.
        code => Err(Fault { call, code: code as u32 }),
    }
}

// SAFETY: `Api` holds addresses of functions that may be called from any thread, in a library that is never closed.
unsafe impl Send for Api {}
// SAFETY: as above.
unsafe impl Sync for Api {}

/// The functions, found at the first call; `None` where there is no driver library.
pub(super) fn api() -> Option<&'static Result<Api, Fault>> {
    static API: std::sync::OnceLock<Option<Result<Api, Fault>>> = std::sync::OnceLock::new();
    API.get_or_init(Api::load).as_ref()
}
