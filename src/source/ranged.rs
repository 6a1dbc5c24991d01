//! Bytes by ranges from far away: what every network source offers, and how often it is asked again.
//!
//! A [`Ranged`] is one object behind a network: a file of the hub, an object of a store, a URL. It is asked for a range and
//! answers with a [`Body`], whose pieces come in order; one attempt, no retry. Who asks decides how often, with a
//! [`Patience`]: downloads and reads by offset share both. An error is worth another attempt where its kind is
//! ([`ErrorKind::is_worth_a_retry`]); what a server asked to wait is on the error ([`Error::retry_after`]).

use crate::error::{Error, ErrorKind, Result};
use bytes::Bytes;
use std::fmt::Debug;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Whether to give up waiting: a job was cancelled. Asked several times a second.
pub type Stop<'a> = &'a (dyn Fn() -> bool + Sync);

/// The error of a wait that a [`Stop`] ended.
pub fn stopped() -> Error {
    Error::new(ErrorKind::Signal(2), "cancelled")
}

/// The bytes of one range, in order.
pub trait Body: Send {
    /// The next piece, never empty; `None` behind the last byte of the range. The pieces together are exactly the range.
    ///
    /// # Errors
    /// `Io`: the connection broke, stalled or dripped, or the body ended early. `Signal`: stopped.
    fn next(&mut self, stop: Stop<'_>) -> Result<Option<Bytes>>;
}

/// One object behind a network.
pub trait Ranged: Send + Sync + Debug {
    /// What errors call it.
    fn name(&self) -> &str;

    /// Its size.
    fn size_bytes(&self) -> u64;

    /// What tells this version of it from others of its name, where that is known.
    fn version(&self) -> Option<&str> {
        None
    }

    /// Asks for a range that is not empty and lies within the size. One attempt.
    ///
    /// # Errors
    /// `Io`: no connection, no answer in time, a server's fault, an answer that is not that range. `RateLimited`, with how
    /// long to wait. `NotFound`, `NotAllowed`. `Integrity`: the object is another one than when it was first seen.
    fn open(&self, range: Range<u64>, stop: Stop<'_>) -> Result<Box<dyn Body>>;
}

/// How often and how long something is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Failures in a row, without a byte of progress between them, after which the last one counts.
    pub failures_max: u32,
    /// The first pause after a failure; each further one is twice as long.
    pub pause: Duration,
    /// The longest pause that is chosen here.
    pub pause_max: Duration,
    /// The longest that a server's wish is granted, in one wait and in all of them together.
    pub granted_max: Duration,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            failures_max: 5,
            pause: Duration::from_millis(500),
            pause_max: Duration::from_secs(8),
            // The hub counts requests in windows of five minutes.
            granted_max: Duration::from_secs(330),
        }
    }
}

/// So many bytes forgive failures. With each byte forgiven, a server that sends one for each attempt would be asked for
/// ever.
const PROGRESS_BYTES: u64 = 1 << 20;

/// How much of a policy's budget one task has left.
#[derive(Debug, Clone)]
pub struct Patience {
    policy: Policy,
    failures: u32,
    granted: Duration,
    arrived_bytes: u64,
}

impl Patience {
    /// All of it.
    pub fn new(policy: Policy) -> Patience {
        Patience { policy, failures: 0, granted: Duration::ZERO, arrived_bytes: 0 }
    }

    /// Bytes arrived: a mebibyte of them, over any number of attempts, forgives the failures so far.
    pub fn progressed(&mut self, bytes: u64) {
        self.arrived_bytes = self.arrived_bytes.saturating_add(bytes);
        if self.arrived_bytes >= PROGRESS_BYTES {
            self.arrived_bytes = 0;
            self.failures = 0;
        }
    }

    /// Waits before another attempt, or gives the error back where there shall be none.
    ///
    /// # Errors
    /// The error, where it is not worth a retry or the budget is spent; `Signal` where stopped.
    pub fn wait(&mut self, error: Error, stop: Stop<'_>) -> Result<()> {
        if !error.kind().is_worth_a_retry() {
            return Err(error);
        }
        let pause = match error.retry_after() {
            Some(wish) => {
                // No wish is so small that granting it costs nothing.
                let wish = wish.max(self.policy.pause);
                self.granted = self.granted.saturating_add(wish);
                if self.granted > self.policy.granted_max {
                    return Err(error);
                }
                wish
            }
            None => {
                self.failures += 1;
                if self.failures >= self.policy.failures_max {
                    return Err(error);
                }
                let doubled = self.policy.pause.saturating_mul(1 << (self.failures - 1).min(16));
                doubled.min(self.policy.pause_max)
            }
        };
        sleep(pause, stop)
    }
}

/// Sleeps, looking at `stop` on the way.
///
/// # Errors
/// `Signal` where stopped.
pub fn sleep(pause: Duration, stop: Stop<'_>) -> Result<()> {
    let end = Instant::now() + pause;
    loop {
        if stop() {
            return Err(stopped());
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn policy() -> Policy {
        Policy { failures_max: 3, pause: MS, pause_max: MS, granted_max: 5 * MS }
    }

    /// How many failures are waited out before one counts, with so many bytes between them.
    fn failures(wish: Option<Duration>, bytes: u64) -> usize {
        let mut patience = Patience::new(policy());
        let failure = || {
            let error = Error::new(ErrorKind::Io, "reset");
            match wish {
                Some(wish) => error.after(wish),
                None => error,
            }
        };
        let outlived = |_: &usize| {
            let waited = patience.wait(failure(), &|| false).is_ok();
            patience.progressed(bytes);
            waited
        };
        (0..20).take_while(outlived).count()
    }

    #[test]
    fn patience_ends() {
        for (wish, bytes, expected) in [
            (None, 0, 2),
            (None, 1, 2),
            (None, PROGRESS_BYTES, 20),
            // Half of it after each failure: every second one is forgiven.
            (None, PROGRESS_BYTES / 2, 20),
            (Some(2 * MS), 0, 2),
            (Some(2 * MS), PROGRESS_BYTES, 2),
            (Some(Duration::ZERO), PROGRESS_BYTES, 5),
            (Some(Duration::MAX), 0, 0),
        ] {
            assert_eq!(failures(wish, bytes), expected, "{wish:?} {bytes}");
        }
        let mut patience = Patience::new(policy());
        let error = patience.wait(Error::not_found("no"), &|| false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let error = patience.wait(Error::new(ErrorKind::Io, "reset"), &|| true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Signal(2));
    }
}
