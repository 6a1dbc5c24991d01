//! Reads around the page cache: who takes them, and two queues with one face that keep several in flight.
//!
//! [`Queue::uring`] gives them to the kernel's ring, with registered buffers where the memory lock limit allows;
//! [`Queue::blocking`] reads at once in the calling thread and is an equal path, not an afterthought: ordinary users
//! and containers often have no ring. Whether there is one is found out by using it, never by a version.

#[cfg(target_os = "linux")]
mod uring;

use super::LocalFile;
#[cfg(target_os = "linux")]
use crate::buf::Ring;
use crate::buf::{PAGE_BYTES, Slot};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::sync::Arc;

/// What offset and size of a direct read of this file must be multiples of, or why it takes none.
pub fn alignment_bytes(file: &LocalFile) -> Result<u32, String> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{AtFlags, StatxFlags, statx};
        let stat = statx(file.file(), "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN);
        match stat {
            // Kernels before 6.1 never say, and some file systems never do: tried with what suits any.
            Ok(s) if s.stx_mask & StatxFlags::DIOALIGN.bits() == 0 => {
                let direct = reopen(file)?;
                let (_ring, mut slots) = Ring::new(1, PAGE_BYTES).map_err(|e| e.to_string())?;
                let into = slots.first_mut().ok_or("no buffer to try a direct read with")?;
                match super::read_full(&direct, into, 0) {
                    Ok(_) => Ok(PAGE_BYTES as u32),
                    Err(e) => Err(format!("a direct read was tried: {e}")),
                }
            }
            Ok(s) => match s.stx_dio_offset_align {
                0 => Err("the file system takes no direct reads".into()),
                align if align as usize > PAGE_BYTES => {
                    Err(format!("the file system wants them aligned to {align} bytes"))
                }
                align => Ok(align),
            },
            Err(e) => Err(format!("statx: {e}")),
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = file;
        Err("direct reads are Linux's".into())
    }
}

/// Opens the file once more for direct reads, or says why that cannot be.
pub(super) fn open_direct(file: &LocalFile) -> Result<File, String> {
    alignment_bytes(file)?;
    reopen(file)
}

/// The same file once more, for reads around the page cache.
fn reopen(file: &LocalFile) -> Result<File, String> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{Mode, OFlags, openat};
        use std::os::fd::AsRawFd;
        // Through the open descriptor, so that it is the same file whatever its name leads to by now.
        let path = format!("/proc/self/fd/{}", file.file().as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
        let direct = openat(rustix::fs::CWD, path.as_str(), flags, Mode::empty())
            .or_else(|_| openat(rustix::fs::CWD, file.path(), flags, Mode::empty()))
            .map(File::from)
            .map_err(|e| format!("O_DIRECT: {e}"))?;
        use std::os::unix::fs::MetadataExt;
        let identity = |f: &File| f.metadata().map(|m| (m.dev(), m.ino())).ok();
        if identity(&direct) != identity(file.file()) {
            return Err("the path leads to another file by now".into());
        }
        Ok(direct)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = file;
        Err("direct reads are Linux's".into())
    }
}

/// A read that came back: the slot, whatever was asked to be kept beside it, and how many bytes arrived.
#[derive(Debug)]
pub struct Arrived<T> {
    /// The slot that was filled.
    pub slot: Slot,
    /// What the caller gave along.
    pub tag: T,
    /// Bytes that arrived; fewer than were asked for at the end of the file.
    pub result: io::Result<usize>,
}

/// Direct reads in flight. Owned by one worker.
#[derive(Debug)]
pub struct Queue<T> {
    #[cfg(target_os = "linux")]
    ring: Option<uring::Ring<T>>,
    done: VecDeque<Arrived<T>>,
}

impl<T> Queue<T> {
    /// A queue on the kernel's ring, of at most `depth` reads into these slots. The error says why there is none.
    #[cfg(target_os = "linux")]
    pub fn uring(depth: u32, slots: &[Slot]) -> io::Result<Queue<T>> {
        Ok(Queue { ring: Some(uring::Ring::new(depth, slots)?), done: VecDeque::new() })
    }

    /// There is no ring elsewhere.
    #[cfg(not(target_os = "linux"))]
    pub fn uring(_depth: u32, _slots: &[Slot]) -> io::Result<Queue<T>> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    /// A queue that reads at once.
    pub fn blocking() -> Queue<T> {
        Queue {
            #[cfg(target_os = "linux")]
            ring: None,
            done: VecDeque::new(),
        }
    }

    /// Starts to read `size_bytes` at `offset_bytes` into the slot's front. Offset and size must be multiples of 4 KiB
    /// and fit the slot.
    pub fn submit(&mut self, file: &Arc<File>, slot: Slot, offset_bytes: u64, size_bytes: usize, tag: T) {
        let size_bytes = size_bytes.min(slot.len());
        #[cfg(target_os = "linux")]
        if let Some(ring) = &mut self.ring {
            if let Some(refused) = ring.submit(Arc::clone(file), slot, offset_bytes, size_bytes, tag) {
                self.done.push_back(refused);
            }
            return;
        }
        let mut slot = slot;
        let result = super::read_full(file, &mut slot[..size_bytes], offset_bytes);
        self.done.push_back(Arrived { slot, tag, result });
    }

    /// Whether the kernel holds the slots ready (registered buffers), which the memory lock limit may forbid.
    pub fn has_registered_buffers(&self) -> bool {
        #[cfg(target_os = "linux")]
        return self.ring.as_ref().is_some_and(uring::Ring::has_registered_buffers);
        #[cfg(not(target_os = "linux"))]
        false
    }

    /// Reads in flight or arrived and not yet taken.
    pub fn in_flight(&self) -> usize {
        #[cfg(target_os = "linux")]
        let waiting = self.ring.as_ref().map_or(0, uring::Ring::in_flight);
        #[cfg(not(target_os = "linux"))]
        let waiting = 0;
        waiting + self.done.len()
    }

    /// Waits for one to arrive; `None` when nothing is in flight.
    pub fn complete(&mut self) -> Option<Arrived<T>> {
        if let Some(arrived) = self.done.pop_front() {
            return Some(arrived);
        }
        #[cfg(target_os = "linux")]
        if let Some(ring) = &mut self.ring {
            return ring.complete();
        }
        None
    }
}
