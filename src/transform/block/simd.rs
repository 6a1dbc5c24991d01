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
    /// Does the work with `L` lanes: 8, 16 or 32. With 16 or more (but for tests) the machine rounds in one instruction, as
    /// AVX2 does.
    fn run<const L: usize>(self) -> Self::Made;
}

/// Runs the kernel with the widest vectors that the machine has, two of them at a time so that one's additions need not
/// wait for the last.
pub(super) fn run<K: Kernel>(kernel: K) -> K::Made {
    #[cfg(test)]
    if let Some(lanes) = tests::lanes() {
        return match lanes {
            8 => kernel.run::<8>(),
            16 => kernel.run::<16>(),
            _ => kernel.run::<32>(),
        };
    }
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

/// The number cut to an integer between 0 and `TOP`; 0 for a NaN.
#[inline(always)]
pub(super) fn truncated<const TOP: u8>(x: f32) -> u8 {
    let top = f32::from(TOP);
    let x = if x > 0.0 { x } else { 0.0 };
    let x = if x < top { x } else { top };
    // SAFETY: it is between 0 and 255, and no NaN: a comparison with one would have been false, and given a bound.
    unsafe { x.to_int_unchecked::<i32>() as u8 }
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;

    thread_local! {
        static LANES: Cell<Option<usize>> = const { Cell::new(None) };
    }

    pub(super) fn lanes() -> Option<usize> {
        LANES.get()
    }

    /// Has kernels work with so many lanes, compiled for the oldest machines.
    pub(crate) fn with_lanes<T>(lanes: usize, work: impl FnOnce() -> T) -> T {
        LANES.set(Some(lanes));
        let made = work();
        LANES.set(None);
        made
    }

    #[test]
    fn what_is_cut_stays_within_bounds() {
        let cases = [
            (0.0, 0),
            (-3.5, 0),
            (7.99, 7),
            (16.5, 15),
            (f32::NAN, 0),
            (f32::INFINITY, 15),
            (f32::NEG_INFINITY, 0),
            (-0.0, 0),
        ];
        for (x, expected) in cases {
            assert_eq!(super::truncated::<15>(x), expected, "{x}");
        }
    }
}
