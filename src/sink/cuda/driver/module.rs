//! Kernels that the driver compiled.

use super::codes::Fault;
use super::sys;
use super::{Gpu, Outcome};
use std::ffi::CString;
use std::ptr::null_mut;
use std::sync::Arc;

/// Compiled kernels. Cheap to clone; unloaded with the last clone and the last function.
#[derive(Clone)]
pub struct Module(pub(super) Arc<Loaded>);

/// Invariant: 8. `raw` is a module that was not unloaded.
pub(super) struct Loaded {
    pub(super) gpu: Gpu,
    pub(super) raw: sys::CUmodule,
}

// SAFETY: a module may be used from any thread that has the context bound; the driver locks.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Sync for Loaded {}

impl Drop for Loaded {
    fn drop(&mut self) {
        let _restore = self.gpu.bind_to_drop();
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
    pub(super) raw: sys::CUfunction,
}

// SAFETY: a function is a name in a module, which may be used from any thread.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}
