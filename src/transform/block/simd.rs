//! Kernels compiled once more for the wider vectors of newer machines, and which of them this machine runs.
//!
//! A kernel is plain code over arrays of `L` lanes that the compiler makes vectors of: the same operations on the same
//! numbers in the same order whatever the width, so that every machine gives the same bytes. Multiplications and
//! additions are never contracted: Rust does not, whatever instructions are enabled.
#![allow(unsafe_code)]

/// Code that works on `L` sub-blocks at once. `run` must be `#[inline(always)]`, as all that it calls in its loops, to
/// be compiled for the vectors of its caller.
pub(super) trait Kernel {
    /// What it gives back.
    type Made;
    /// Does the work with `L` lanes, a multiple of 8 up to [`LANES_MAX`].
    fn run<const L: usize>(self) -> Self::Made;
}

/// The most lanes that a kernel is asked to work with.
pub(super) const LANES_MAX: usize = 32;

/// Runs the kernel with the widest vectors that the machine has, two of them at a time so that one's additions need not
/// wait for the last.
pub(super) fn run<K: Kernel>(kernel: K) -> K::Made {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
        {
            // SAFETY: the machine has every feature that the function is compiled for.
            return unsafe { avx512(kernel) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { avx2(kernel) };
        }
    }
    kernel.run::<8>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn avx512<K: Kernel>(kernel: K) -> K::Made {
    kernel.run::<32>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2<K: Kernel>(kernel: K) -> K::Made {
    kernel.run::<16>()
}

/// The number cut to an integer between 0 and `top`; 0 for a NaN. `top` must be below 256.
#[inline(always)]
pub(super) fn truncated(x: f32, top: f32) -> u8 {
    let x = if x > 0.0 { x } else { 0.0 };
    let x = if x < top { x } else { top };
    let x = if x < 255.0 { x } else { 255.0 };
    // SAFETY: it is between 0 and 255, and no NaN: a comparison with one would have been false, twice.
    unsafe { x.to_int_unchecked::<i32>() as u8 }
}
