//! One kernel, compiled for several instruction sets; the machine it runs on chooses.
//!
//! A kernel is a value with one method, whose body is plain loops over arrays of a fixed length. [`run`] calls it through
//! functions that differ only in the instructions the compiler may use. The body is inlined into each, so that every one is a
//! vectorised twin of the others; none of them fuses a multiplication with an addition, so that all give the same bits.
//!
//! The calls of those functions are unsafe code. So are the few files that name instructions which compilers do not find in plain
//! loops; each says so at its head, and which they are `tests/it/layering.rs` lists.

#![allow(unsafe_code)]

/// A piece of work. [`Kernel::run`] and all that it calls are marked `#[inline(always)]`: what is not inlined is compiled for
/// the oldest machine.
pub trait Kernel {
    /// What it gives.
    type Out;
    /// Does it.
    fn run(self) -> Self::Out;
}

/// A set of instructions that there is a twin for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What every machine of the target has (SSE2; NEON on ARM).
    Base,
    /// AVX2: vectors of 32 bytes.
    Avx2,
    /// AVX-512 (F, VL, BW, DQ): vectors of 64 bytes.
    Avx512,
}

impl Level {
    /// Every level, the plainest first.
    pub const ALL: &'static [Level] = &[Level::Base, Level::Avx2, Level::Avx512];

    /// Whether this machine has it.
    #[inline]
    pub fn is_here(self) -> bool {
        match self {
            Level::Base => true,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => std::arch::is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512vl")
                    && std::arch::is_x86_feature_detected!("avx512bw")
                    && std::arch::is_x86_feature_detected!("avx512dq")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The highest that this machine has.
    #[inline]
    pub fn best() -> Level {
        Level::ALL.iter().copied().rfind(|level| level.is_here()).unwrap_or(Level::Base)
    }
}

/// Runs a kernel with the instructions of a level, or of the plainest where the machine does not have that one.
#[inline]
pub fn run<K: Kernel>(level: Level, kernel: K) -> K::Out {
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has the features that the function is compiled for: `is_here` asked it.
        Level::Avx2 if level.is_here() => unsafe { avx2(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx512 if level.is_here() => unsafe { avx512(kernel) },
        _ => kernel.run(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2<K: Kernel>(kernel: K) -> K::Out {
    kernel.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avx512f,avx512vl,avx512bw,avx512dq")]
fn avx512<K: Kernel>(kernel: K) -> K::Out {
    kernel.run()
}
