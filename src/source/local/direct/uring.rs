//! The kernel's ring.
//!
//! Invariant: every slot and file of a read in flight is held in `flying` until its completion has been seen, so the
//! kernel never writes into memory that somebody else owns. Dropping the ring waits for all of them.
#![allow(unsafe_code)]

use super::Arrived;
use crate::buf::Slot;
use io_uring::{IoUring, opcode, types};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

#[derive(Debug)]
struct Flying<T> {
    slot: Slot,
    tag: T,
    _file: Arc<File>,
}

pub(super) struct Ring<T> {
    ring: IoUring,
    flying: Vec<Option<Flying<T>>>,
    /// Registered buffers: the ring index of the first slot, when all slots were taken.
    registered: Option<usize>,
    count: usize,
}

impl<T> std::fmt::Debug for Ring<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("in_flight", &self.count).field("registered", &self.registered).finish()
    }
}

impl<T> Ring<T> {
    pub(super) fn new(depth: u32, slots: &[Slot]) -> io::Result<Ring<T>> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(depth)
            .or_else(|_| IoUring::new(depth))?;
        let buffers: Vec<libc::iovec> = slots
            .iter()
            .map(|s| libc::iovec { iov_base: s.as_ptr().cast_mut().cast(), iov_len: s.len() })
            .collect();
        let first = slots.first().map(Slot::index);
        // SAFETY: the slots' mapping outlives the ring's use of it: every read holds its slot, and unregistering
        // happens when the ring is dropped. A refusal (the memory lock limit) only costs speed.
        let registered = match unsafe { ring.submitter().register_buffers(&buffers) } {
            Ok(()) => first,
            Err(_) => None,
        };
        let flying = (0..depth).map(|_| None).collect();
        Ok(Ring { ring, flying, registered, count: 0 })
    }

    pub(super) fn has_registered_buffers(&self) -> bool {
        self.registered.is_some()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.count
    }

    /// Gives a read to the kernel. One that it will not take comes straight back as arrived with an error.
    pub(super) fn submit(
        &mut self,
        file: Arc<File>,
        mut slot: Slot,
        offset_bytes: u64,
        size_bytes: usize,
        tag: T,
    ) -> Option<Arrived<T>> {
        let Some(place) = self.flying.iter().position(Option::is_none) else {
            return Some(Arrived { slot, tag, result: Err(io::Error::from(io::ErrorKind::QuotaExceeded)) });
        };
        let fd = types::Fd(file.as_raw_fd());
        let (start, size) = (slot.as_mut_ptr(), size_bytes as u32);
        let entry =
            match self.registered.and_then(|first| u16::try_from(slot.index().checked_sub(first)?).ok()) {
                Some(buffer) => opcode::ReadFixed::new(fd, start, size, buffer).offset(offset_bytes).build(),
                None => opcode::Read::new(fd, start, size).offset(offset_bytes).build(),
            };
        let entry = entry.user_data(place as u64);
        // SAFETY: slot and file stay in `flying` until the completion (the invariant).
        if unsafe { self.ring.submission().push(&entry) }.is_err() {
            return Some(Arrived { slot, tag, result: Err(io::Error::from(io::ErrorKind::QuotaExceeded)) });
        }
        if let Some(free) = self.flying.get_mut(place) {
            *free = Some(Flying { slot, tag, _file: file });
        }
        self.count += 1;
        // Told to the kernel now, so that the disk works while the caller looks for more.
        let _ = self.ring.submit();
        None
    }

    pub(super) fn complete(&mut self) -> Option<Arrived<T>> {
        let mut retries = 500;
        while self.count > 0 {
            if let Some(entry) = self.ring.completion().next() {
                let place = usize::try_from(entry.user_data()).unwrap_or(usize::MAX);
                let Some(flying) = self.flying.get_mut(place).and_then(Option::take) else { continue };
                self.count -= 1;
                let result = usize::try_from(entry.result())
                    .map_err(|_| io::Error::from_raw_os_error(-entry.result()));
                return Some(Arrived { slot: flying.slot, tag: flying.tag, result });
            }
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // The kernel is short of memory, or its queue is full: both pass.
                Err(e) if retries > 0 && matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => {
                    retries -= 1;
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                // The ring is in no state to tell what is in flight: whatever it holds must never be reused.
                Err(_) => {
                    self.flying.drain(..).for_each(std::mem::forget);
                    self.count = 0;
                }
            }
        }
        None
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        while self.complete().is_some() {}
    }
}
