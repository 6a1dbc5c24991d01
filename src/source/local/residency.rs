//! How much of a file the page cache holds, without changing it.
//!
//! `cachestat(2)` counts the cached pages of a range and has no side effect (Linux 6.5 on). Where it is missing or
//! refused, one `preadv2(RWF_NOWAIT)` a range tells hot from cold; a refused probe starts to read its page, so a page
//! is never probed twice. `mincore` lies under cgroups and for other people's files, and is never asked.
#![allow(unsafe_code)]

use super::LocalFile;
use std::ops::Range;

/// What is known of a range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Residency {
    /// This fraction of its pages is in the page cache.
    Fraction(f64),
    /// Its first page is (true) or is not (false) in the page cache.
    Probed(bool),
    /// The system does not say.
    Unknown,
}

impl Residency {
    /// Whether reading through the page cache beats reading around it. What is not known is taken for hot: a
    /// buffered read is never wrong.
    pub fn is_hot(self) -> bool {
        match self {
            Residency::Fraction(f) => f >= 0.9,
            Residency::Probed(hot) => hot,
            Residency::Unknown => true,
        }
    }
}

/// A range counts as cached only with this much behind it. The kernel marks a page shortly before the end of what it read
/// ahead; who reads that page through the cache makes it read on, so that the rest of a cold file would come in small
/// steps just ahead of the reader, each range looking cached in its turn.
const AHEAD_BYTES: u64 = 16 << 20;

/// What is known of a range and what follows it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ahead {
    /// How much of it all is cached.
    pub found: Residency,
    /// To where was asked.
    pub end_bytes: u64,
}

/// Asks once about a range that is to be read, and what follows it: whether to read it through the page cache.
pub fn residency_ahead(file: &LocalFile, range: Range<u64>) -> Ahead {
    use crate::source::ReadAt;
    let end_bytes = range.end.saturating_add(AHEAD_BYTES).min(file.size_bytes()).max(range.end);
    Ahead { found: residency(file, range.start..end_bytes), end_bytes }
}

/// Asks once about a range of a file.
pub fn residency(file: &LocalFile, range: Range<u64>) -> Residency {
    #[cfg(target_os = "linux")]
    {
        match linux::cachestat(file, &range) {
            Some(pages) => {
                let page = super::page_bytes();
                let all = range.end.div_ceil(page) - range.start / page;
                Residency::Fraction(if all == 0 { 1.0 } else { (pages as f64 / all as f64).min(1.0) })
            }
            None => linux::probe(file, range.start),
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (file, range);
        Residency::Unknown
    }
}

/// The fraction of a file in the page cache, where the system can count it without touching anything.
pub fn cached_fraction(file: &LocalFile, range: Range<u64>) -> Option<f64> {
    #[cfg(target_os = "linux")]
    {
        let page = super::page_bytes();
        let all = range.end.div_ceil(page) - range.start / page;
        let pages = linux::cachestat(file, &range)?;
        Some(if all == 0 { 1.0 } else { (pages as f64 / all as f64).min(1.0) })
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (file, range);
        None
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use super::{LocalFile, Range, Residency};
    use std::os::fd::AsRawFd;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// `cachestat`'s number on every architecture.
    const SYS_CACHESTAT: libc::c_long = 451;

    #[repr(C)]
    struct CachestatRange {
        offset: u64,
        length: u64,
    }

    #[repr(C)]
    #[derive(Default)]
    struct Cachestat {
        cache: u64,
        dirty: u64,
        writeback: u64,
        evicted: u64,
        recently_evicted: u64,
    }

    /// Whether the system call exists; asked once, found out by use.
    static MISSING: AtomicBool = AtomicBool::new(false);

    pub(super) fn cachestat(file: &LocalFile, range: &Range<u64>) -> Option<u64> {
        if MISSING.load(Ordering::Relaxed) || range.start >= range.end {
            return (range.start >= range.end).then_some(0);
        }
        let of = CachestatRange { offset: range.start, length: range.end - range.start };
        let mut stat = Cachestat::default();
        // SAFETY: both structures have the kernel's layout and live across the call; the descriptor is open.
        let result =
            unsafe { libc::syscall(SYS_CACHESTAT, file.file().as_raw_fd(), &raw const of, &raw mut stat, 0) };
        if result == 0 {
            return Some(stat.cache);
        }
        // EPERM and EOPNOTSUPP are about this file; ENOSYS is about the machine.
        if std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS) {
            MISSING.store(true, Ordering::Relaxed);
        }
        None
    }

    /// Reads one byte if that needs no waiting.
    pub(super) fn probe(file: &LocalFile, offset: u64) -> Residency {
        let mut byte = 0u8;
        let into = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        let Ok(offset) = libc::off_t::try_from(offset) else { return Residency::Unknown };
        // SAFETY: one vector of one byte that lives across the call.
        let n =
            unsafe { libc::preadv2(file.file().as_raw_fd(), &raw const into, 1, offset, libc::RWF_NOWAIT) };
        match n {
            1 => Residency::Probed(true),
            -1 if std::io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN) => {
                Residency::Probed(false)
            }
            _ => Residency::Unknown,
        }
    }
}
