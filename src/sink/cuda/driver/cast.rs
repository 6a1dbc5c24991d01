//! Casts on the device: the kernels of `cast.ptx`, by pair of types.
//!
//! What a cast means, bit for bit (the CPU's kernels mean the same):
//! 1. f16, bf16 and the four f8 types widen to f32 exactly, and from there, like f32 itself, narrow to f16 and bf16 to
//!    nearest, ties to even. f64 narrows with one rounding, to nearest, ties to even. Subnormals are values like any
//!    other.
//! 2. A finite value that rounds to Inf has overflowed: it is counted, and with `saturate` it becomes the largest
//!    finite value of its sign. Inf stays Inf.
//! 3. NaN stays NaN: the sign is kept, the mantissa's bits are aligned at the top, cut at the end or filled with
//!    zeros, and the quiet bit is set. Two exceptions: bf16 → f32 keeps every bit, a signalling NaN's too; the one NaN
//!    of the fnuz types (`0x80`) becomes the positive quiet NaN without payload.
//! 4. f8_e4m3 has no Inf; `0x7f` and `0xff` are its NaNs.

use super::{Arg, Function, Gpu, Module, Outcome, Stream};
use crate::dtype::DType;
use crate::transform::cast::is_supported;

/// The kernels' text; the driver compiles it for its device.
pub const PTX: &str = include_str!("../cast.ptx");

/// Threads of a block.
const BLOCK: u32 = 256;

/// The name of the kernel that casts `source` to `target`, or `None` where there is none.
pub fn kernel_name(source: DType, target: DType) -> Option<String> {
    is_supported(source, target).then(|| format!("cast_{}_{}", source.name(), target.name()))
}

/// One cast, ready to launch.
#[derive(Clone)]
pub struct Cast {
    function: Function,
    blocks_max: u32,
}

impl Cast {
    /// Finds the kernel of a pair in the module that [`Cast::module`] made; `None` where there is no such kernel.
    pub fn new(gpu: &Gpu, module: &Module, source: DType, target: DType) -> Option<Outcome<Cast>> {
        let name = kernel_name(source, target)?;
        // Enough blocks to fill every multiprocessor; the threads stride over the rest.
        let blocks_max = gpu.facts().multiprocessor_count.max(1).saturating_mul(16);
        Some(module.function(&name).map(|function| Cast { function, blocks_max }))
    }

    /// Compiles the kernels for `gpu`: tens of milliseconds unless the driver has them in its cache.
    pub fn module(gpu: &Gpu) -> Outcome<Module> {
        gpu.module(PTX)
    }

    /// Queues the cast of `count` elements. `overflow_count` is the device address of a `u64` to which the number of
    /// overflows is added, or 0.
    ///
    /// # Safety
    /// `source` and `target` must be device memory of `count` elements of their types, aligned to an element's size,
    /// and must not overlap; `overflow_count` must be 0 or eight aligned bytes of device memory.
    pub unsafe fn launch(
        &self,
        stream: &Stream,
        source: u64,
        target: u64,
        count: u64,
        overflow_count: u64,
        saturate: bool,
    ) -> Outcome<()> {
        if count == 0 {
            return Ok(());
        }
        let blocks = count.div_ceil(u64::from(BLOCK)).min(u64::from(self.blocks_max)) as u32;
        let args = [
            Arg::U64(source),
            Arg::U64(target),
            Arg::U64(count),
            Arg::U64(overflow_count),
            Arg::U32(saturate.into()),
        ];
        // SAFETY: these are the five parameters of every kernel in the text; the rest is the caller's promise.
        unsafe { stream.launch(&self.function, blocks, BLOCK, &args) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::cast::{SOURCES, TARGETS};

    #[test]
    fn every_pair_has_its_kernel_and_no_other() {
        let mut expected: Vec<String> = SOURCES
            .iter()
            .flat_map(|&source| TARGETS.iter().filter_map(move |&target| kernel_name(source, target)))
            .collect();
        let mut found: Vec<String> = PTX
            .split(".visible .entry ")
            .skip(1)
            .map(|part| part.split('(').next().unwrap_or_default().to_owned())
            .collect();
        expected.sort();
        found.sort();
        assert_eq!(found, expected);
        assert_eq!(kernel_name(DType::F32, DType::F32), None);
        assert_eq!(kernel_name(DType::F32, DType::F64), None);
        // No newer than what the oldest driver in use takes.
        assert!(PTX.contains(".version 6.4\n.target sm_50\n.address_size 64\n"));
    }
}
