//! What the driver's answers mean: one row a code, with the name, the usual cause and what to do.
//!
//! The table is our own because the driver's (`cuGetErrorString`) says "unspecified launch failure" where a person
//! needs "an earlier copy was broken", because asking it needs a driver that works, and because a code that is newer
//! than our headers must still be shown.

use crate::error::{Error, ErrorKind};
use std::fmt;

/// One row.
struct Row {
    code: u32,
    name: &'static str,
    cause: &'static str,
    hint: &'static str,
}

/// An argument that the driver refuses.
pub const INVALID_VALUE: u32 = 1;
/// No memory on the device (or, for host registration, a limit on locked memory).
pub const OUT_OF_MEMORY: u32 = 2;
/// The library is a toolkit's stub, for linking only.
pub const STUB_LIBRARY: u32 = 34;
/// No GPU that CUDA can use.
pub const NO_DEVICE: u32 = 100;
/// No context is bound to the calling thread.
pub const INVALID_CONTEXT: u32 = 201;
/// Work that was asked about is not finished; no error.
pub const NOT_READY: u32 = 600;
/// The host range is registered already.
pub const ALREADY_REGISTERED: u32 = 712;
/// The system does not let this process do that.
pub const NOT_PERMITTED: u32 = 800;
/// The device or the system cannot do that.
pub const NOT_SUPPORTED: u32 = 801;
/// Not the driver's: there is no driver library.
pub const NO_LIBRARY: u32 = u32::MAX - 1;
/// Not the driver's: its library lacks a function that hoist calls.
pub const MISSING_SYMBOL: u32 = u32::MAX;

const LOST: &str =
    "an earlier copy or kernel went wrong and the GPU's context is lost; nothing that it held is valid";
const LOST_HINT: &str =
    "run it again; if it comes back, `dmesg | grep Xid` shows whether the GPU or its link is failing";

#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row { code: 1, name: "CUDA_ERROR_INVALID_VALUE", cause: "an argument is out of range: an address outside its allocation, or a size of zero", hint: "" },
    Row { code: OUT_OF_MEMORY, name: "CUDA_ERROR_OUT_OF_MEMORY", cause: "the GPU has no memory left for this", hint: "`nvidia-smi` shows who holds it; --rank R/W loads a part" },
    Row { code: 3, name: "CUDA_ERROR_NOT_INITIALIZED", cause: "the driver was not initialised, or is being unloaded", hint: "" },
    Row { code: 4, name: "CUDA_ERROR_DEINITIALIZED", cause: "the driver is shutting down with the process", hint: "" },
    Row { code: STUB_LIBRARY, name: "CUDA_ERROR_STUB_LIBRARY", cause: "the library found is a CUDA toolkit's stub, which is for linking only", hint: "take the toolkit's `stubs` folder out of LD_LIBRARY_PATH, or install the driver" },
    Row { code: 36, name: "CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER", cause: "the kernel module is older than the driver's library", hint: "install the same version of both and reboot" },
    Row { code: 46, name: "CUDA_ERROR_DEVICE_UNAVAILABLE", cause: "the GPU is busy with another process in exclusive mode, or is not usable at present", hint: "`nvidia-smi -q -d COMPUTE` shows the compute mode" },
    Row { code: NO_DEVICE, name: "CUDA_ERROR_NO_DEVICE", cause: "the driver sees no GPU that CUDA can use", hint: "check `nvidia-smi`, CUDA_VISIBLE_DEVICES, and that the container was given a GPU" },
    Row { code: 101, name: "CUDA_ERROR_INVALID_DEVICE", cause: "there is no GPU with this number, or it was lost", hint: "`hoist doctor` lists the GPUs" },
    Row { code: 102, name: "CUDA_ERROR_DEVICE_NOT_LICENSED", cause: "the virtual GPU has no licence", hint: "check the licence server of the vGPU" },
    Row { code: 200, name: "CUDA_ERROR_INVALID_IMAGE", cause: "the driver does not take the kernels for code", hint: "" },
    Row { code: INVALID_CONTEXT, name: "CUDA_ERROR_INVALID_CONTEXT", cause: "no context is bound to this thread, or it is gone", hint: "" },
    Row { code: 209, name: "CUDA_ERROR_NO_BINARY_FOR_GPU", cause: "the kernels cannot run on this GPU (hoist's need compute capability 5.0)", hint: "" },
    Row { code: 214, name: "CUDA_ERROR_ECC_UNCORRECTABLE", cause: "the GPU's memory has an error that could not be corrected", hint: "`nvidia-smi -q -d ECC`; the GPU needs a reset or a repair" },
    Row { code: 218, name: "CUDA_ERROR_INVALID_PTX", cause: "the driver's compiler refused the kernels", hint: "" },
    Row { code: 220, name: "CUDA_ERROR_NVLINK_UNCORRECTABLE", cause: "an NVLink error that could not be corrected", hint: "`nvidia-smi nvlink -e` shows the link's errors" },
    Row { code: 221, name: "CUDA_ERROR_JIT_COMPILER_NOT_FOUND", cause: "libnvidia-ptxjitcompiler, a part of the driver, is missing", hint: "give the container the driver capability `compute` (NVIDIA_DRIVER_CAPABILITIES)" },
    Row { code: 222, name: "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", cause: "the driver is older than the kernels (PTX 6.4 needs CUDA 10.1)", hint: "update the driver" },
    Row { code: 223, name: "CUDA_ERROR_JIT_COMPILATION_DISABLED", cause: "compiling kernels is switched off", hint: "unset CUDA_DISABLE_PTX_JIT" },
    Row { code: 304, name: "CUDA_ERROR_OPERATING_SYSTEM", cause: "a system call of the driver failed: often a limit on locked memory, or device files that may not be opened", hint: "check `ulimit -l` and the permissions of /dev/nvidia*" },
    Row { code: 400, name: "CUDA_ERROR_INVALID_HANDLE", cause: "a stream, event or module that is not valid (any more)", hint: "" },
    Row { code: 500, name: "CUDA_ERROR_NOT_FOUND", cause: "the module has no kernel of this name", hint: "" },
    Row { code: NOT_READY, name: "CUDA_ERROR_NOT_READY", cause: "the work is not finished", hint: "" },
    Row { code: 700, name: "CUDA_ERROR_ILLEGAL_ADDRESS", cause: LOST, hint: LOST_HINT },
    Row { code: 701, name: "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", cause: "the GPU cannot run a block of this size", hint: "" },
    Row { code: 702, name: "CUDA_ERROR_LAUNCH_TIMEOUT", cause: "a kernel ran longer than the display's watchdog allows; the context is lost", hint: LOST_HINT },
    Row { code: 709, name: "CUDA_ERROR_CONTEXT_IS_DESTROYED", cause: "the GPU's context is gone", hint: LOST_HINT },
    Row { code: 710, name: "CUDA_ERROR_ASSERT", cause: LOST, hint: LOST_HINT },
    Row { code: ALREADY_REGISTERED, name: "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED", cause: "the host memory is registered already", hint: "" },
    Row { code: 713, name: "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED", cause: "the host memory is not registered", hint: "" },
    Row { code: 714, name: "CUDA_ERROR_HARDWARE_STACK_ERROR", cause: LOST, hint: LOST_HINT },
    Row { code: 715, name: "CUDA_ERROR_ILLEGAL_INSTRUCTION", cause: LOST, hint: LOST_HINT },
    Row { code: 716, name: "CUDA_ERROR_MISALIGNED_ADDRESS", cause: LOST, hint: LOST_HINT },
    Row { code: 717, name: "CUDA_ERROR_INVALID_ADDRESS_SPACE", cause: LOST, hint: LOST_HINT },
    Row { code: 718, name: "CUDA_ERROR_INVALID_PC", cause: LOST, hint: LOST_HINT },
    Row { code: 719, name: "CUDA_ERROR_LAUNCH_FAILED", cause: LOST, hint: LOST_HINT },
    Row { code: NOT_PERMITTED, name: "CUDA_ERROR_NOT_PERMITTED", cause: "the system does not let this process do that", hint: "" },
    Row { code: NOT_SUPPORTED, name: "CUDA_ERROR_NOT_SUPPORTED", cause: "this GPU, driver or virtual machine cannot do that", hint: "" },
    Row { code: 802, name: "CUDA_ERROR_SYSTEM_NOT_READY", cause: "the GPUs are not ready: on NVSwitch machines the fabric manager does not run, or is of another version than the driver", hint: "`systemctl status nvidia-fabricmanager`; it must be of the driver's version" },
    Row { code: 803, name: "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", cause: "the driver's library and its kernel module are of different versions", hint: "reboot after a driver update; in a container, do not bring a libcuda of its own" },
    Row { code: 804, name: "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE", cause: "a forward-compatibility libcuda (cuda-compat) is on the library path, and this GPU does not allow it", hint: "take cuda-compat out of LD_LIBRARY_PATH" },
    Row { code: 805, name: "CUDA_ERROR_MPS_CONNECTION_FAILED", cause: "the MPS daemon does not answer", hint: "check nvidia-cuda-mps-control" },
    Row { code: 807, name: "CUDA_ERROR_MPS_SERVER_NOT_READY", cause: "the MPS server is not ready", hint: "check nvidia-cuda-mps-control" },
    Row { code: 808, name: "CUDA_ERROR_MPS_MAX_CLIENTS_REACHED", cause: "the MPS server takes no more clients", hint: "" },
    Row { code: 909, name: "CUDA_ERROR_TIMEOUT", cause: "the driver gave up waiting", hint: "" },
    Row { code: 919, name: "CUDA_ERROR_FABRIC_NOT_READY", cause: "the NVLink fabric is not ready", hint: "`systemctl status nvidia-fabricmanager`" },
    Row { code: 999, name: "CUDA_ERROR_UNKNOWN", cause: "the driver does not say; often a kernel module that is not loaded, device files that are missing, or a machine that slept", hint: "check `nvidia-smi` and `dmesg`" },
    Row { code: NO_LIBRARY, name: "no library", cause: "the NVIDIA driver is not installed, or not given to this container", hint: "start the container with the GPU (`--gpus all`, or the device plugin)" },
    Row { code: MISSING_SYMBOL, name: "missing function", cause: "the driver's library is too old or not NVIDIA's", hint: "update the driver" },
];

/// A call that the driver refused: which one, and its code. Small and `Copy`, so that a worker can hand it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The driver's function.
    pub call: &'static str,
    /// The `CUresult`, or [`NO_LIBRARY`] or [`MISSING_SYMBOL`].
    pub code: u32,
}

impl Fault {
    fn row(self) -> Option<&'static Row> {
        ROWS.iter().find(|r| r.code == self.code)
    }

    /// The code's name, as in `cuda.h`.
    pub fn name(self) -> &'static str {
        self.row().map_or("a code that hoist does not know", |r| r.name)
    }

    /// What usually causes it.
    pub fn cause(self) -> Option<&'static str> {
        self.row().map(|r| r.cause)
    }

    /// What to do, where there is something.
    pub fn hint(self) -> Option<&'static str> {
        self.row().map(|r| r.hint).filter(|h| !h.is_empty())
    }

    /// Whether the context is lost, so that every later call fails too and only a new process helps.
    pub fn context_lost(self) -> bool {
        matches!(self.code, 214 | 220 | 700 | 702 | 709 | 710 | 714..=719)
    }

    /// The kind, which is the exit code: no memory is 8, all else 10.
    pub fn kind(self) -> ErrorKind {
        if self.code == OUT_OF_MEMORY { ErrorKind::NoSpace } else { ErrorKind::Driver }
    }

    /// An error that says first what failed: "could not be copied to the GPU". Reads as a predicate after a tensor's
    /// name.
    pub fn error(self, what: impl fmt::Display) -> Error {
        self.dress(format!("{what}: {self}"))
    }

    fn dress(self, message: String) -> Error {
        let mut error = Error::new(self.kind(), message);
        if let Some(cause) = self.cause() {
            error = error.detail(cause);
        }
        if let Some(hint) = self.hint() {
            error = error.hint(hint);
        }
        error
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            NO_LIBRARY => f.write_str("libcuda.so.1 not found"),
            MISSING_SYMBOL => write!(f, "the driver's library has no `{}`", self.call),
            code => write!(f, "`{}` failed with {code} ({})", self.call, self.name()),
        }
    }
}

impl std::error::Error for Fault {}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Error {
        fault.dress(fault.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_and_speak() {
        for pair in ROWS.windows(2) {
            assert!(pair[0].code < pair[1].code, "{} before {}", pair[0].code, pair[1].code);
        }
        for row in ROWS {
            for text in [row.cause, row.hint] {
                assert!(!text.ends_with('.'), "{}: full stop", row.code);
            }
            assert!(!row.cause.is_empty(), "{}", row.code);
        }
    }

    #[test]
    fn kinds_and_words() {
        let fault = |code| Fault { call: "cuInit", code };
        for (code, exit, lost) in
            [(2, 8, false), (700, 10, true), (719, 10, true), (802, 10, false), (4242, 10, false)]
        {
            assert_eq!(Error::from(fault(code)).kind().exit_code(), exit, "{code}");
            assert_eq!(fault(code).context_lost(), lost, "{code}");
        }
        let text = Error::from(fault(802)).to_string();
        assert!(
            text.starts_with("`cuInit` failed with 802 (CUDA_ERROR_SYSTEM_NOT_READY)\n  the GPUs"),
            "{text}"
        );
        assert!(text.contains("fabricmanager"), "{text}");
        let text = fault(2).error("could not be placed").to_string();
        assert!(text.starts_with("could not be placed: `cuInit` failed with 2 ("), "{text}");
        assert!(Error::from(fault(4242)).to_string().contains("4242 (a code that hoist does not know)"));
    }
}
