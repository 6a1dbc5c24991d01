//! Memory for tasks in flight: what workers hold at once is bounded, however many there are.

use super::job::Control;
use crate::error::{Error, ErrorKind, Result};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Memory for tasks in flight.
pub(super) struct Budget {
    left: Mutex<u64>,
    total: u64,
    changed: Condvar,
}

/// Memory taken from a budget; given back when dropped.
pub(super) struct Held<'a> {
    budget: &'a Budget,
    bytes: u64,
}

impl Budget {
    /// All of it is free.
    pub(super) fn new(total: u64) -> Budget {
        Budget { left: Mutex::new(total), total, changed: Condvar::new() }
    }

    /// Waits until there is room. A task larger than all of it gets all of it.
    pub(super) fn take(&self, bytes: u64, control: &Control) -> Result<Held<'_>> {
        let bytes = bytes.min(self.total);
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        while *left < bytes {
            if control.is_stopped() {
                return Err(Error::new(ErrorKind::Signal(2), "cancelled"));
            }
            let wait = Duration::from_millis(100);
            left = self.changed.wait_timeout(left, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        *left -= bytes;
        Ok(Held { budget: self, bytes })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        *self.budget.left.lock().unwrap_or_else(PoisonError::into_inner) += self.bytes;
        self.budget.changed.notify_all();
    }
}
