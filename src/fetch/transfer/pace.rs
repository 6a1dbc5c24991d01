//! How many connections are worth having, and how fast they may be together.
//!
//! Nobody knows beforehand: one connection fills a loopback, a distant server gives each a share, and a busy one refuses
//! the fifth. So it begins with few and doubles as long as the total grows by it; what did not help is given up, and tried
//! again later. A refusal (a rate limit, a reset, no answer) gives up one or half, at once.

use crate::error::{Error, ErrorKind, Result};
use crate::source::ranged::{Stop, sleep};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Connections at the beginning.
const FIRST: usize = 4;
/// The total has grown where it is so many times as large.
const GROWN: f64 = 1.1;
/// An answer counts as so many bytes: with small files it is answers that a further connection brings.
const ANSWER_BYTES: u64 = 256 << 10;
/// The shortest time over which a rate is taken.
const WINDOW: Duration = Duration::from_millis(200);
/// How long what did not help, or was refused, is left alone.
const HOLD: Duration = Duration::from_secs(8);
/// Segments that take about so long.
const SEGMENT_SECONDS: f64 = 2.0;
/// The shortest segment, and the longest, of a file that several connections fetch.
const SEGMENT_BYTES: (f64, f64) = ((8 << 20) as f64, (64 << 20) as f64);

/// The connections that are allowed now.
#[derive(Debug)]
pub(super) struct Pace {
    allowed: usize,
    most: usize,
    /// When the present window began, and what it has brought.
    since: Instant,
    score: u64,
    bytes: u64,
    /// Whether all allowed connections were in use all the time.
    is_full: bool,
    /// The count before the last step, and the rate that it gave: to be beaten.
    before: Option<(usize, f64)>,
    hold_until: Option<Instant>,
    /// How long an answer takes.
    answer: Duration,
    /// Bytes a second of one connection.
    share: f64,
}

impl Pace {
    pub(super) fn new(most: usize, now: Instant) -> Pace {
        Pace {
            allowed: FIRST.min(most),
            most,
            since: now,
            score: 0,
            bytes: 0,
            is_full: true,
            before: None,
            hold_until: None,
            answer: Duration::ZERO,
            share: 0.0,
        }
    }

    /// How many connections there may be.
    pub(super) fn allowed(&self) -> usize {
        self.allowed
    }

    /// How long a segment should be.
    pub(super) fn segment_bytes(&self) -> u64 {
        (self.share * SEGMENT_SECONDS).clamp(SEGMENT_BYTES.0, SEGMENT_BYTES.1) as u64
    }

    /// A connection had an answer, so long after it asked.
    pub(super) fn answered(&mut self, took: Duration) {
        self.score += ANSWER_BYTES;
        // The slower ones count: a new connection must have had its chance before it is judged.
        self.answer = (self.answer * 7 / 8).max(took.min(Duration::from_secs(1)));
    }

    /// Bytes have come over so many connections. Whether more are allowed now than before.
    pub(super) fn moved(&mut self, bytes: u64, running: usize, now: Instant) -> bool {
        self.score += bytes;
        self.bytes += bytes;
        self.is_full &= running >= self.allowed;
        let window = WINDOW + 3 * self.answer;
        let took = now.saturating_duration_since(self.since);
        if took < window {
            return false;
        }
        let rate = self.score as f64 / took.as_secs_f64();
        self.share = self.bytes as f64 / took.as_secs_f64() / running.max(1) as f64;
        let before = self.allowed;
        if self.hold_until.is_some_and(|until| now < until) || !self.is_full {
            self.before = None;
        } else {
            self.hold_until = None;
            match self.before.take() {
                Some((count, beaten)) if rate < beaten * GROWN => {
                    self.allowed = count.min(self.allowed);
                    self.hold_until = Some(now + HOLD);
                }
                _ if self.allowed < self.most => {
                    self.before = Some((self.allowed, rate));
                    self.allowed = (self.allowed * 2).min(self.most);
                }
                _ => {}
            }
        }
        self.begin(now);
        self.allowed > before
    }

    /// A server refused a connection or broke it off before it brought anything.
    pub(super) fn refused(&mut self, kind: ErrorKind, now: Instant) {
        let less = if kind == ErrorKind::RateLimited { self.allowed / 2 } else { self.allowed - 1 };
        self.allowed = less.max(1);
        self.before = None;
        self.hold_until = Some(now + HOLD);
        self.begin(now);
    }

    fn begin(&mut self, now: Instant) {
        (self.since, self.score, self.bytes, self.is_full) = (now, 0, 0, true);
    }
}

/// A limit on bytes a second over all connections: who has received pays, and waits while there is a debt.
#[derive(Debug)]
pub(super) struct Limit {
    bytes_per_second: f64,
    paid_until: Mutex<Instant>,
}

/// What may come at once after a rest.
const BURST: Duration = Duration::from_millis(100);

impl Limit {
    pub(super) fn new(bytes_per_second: u64) -> Result<Limit> {
        match bytes_per_second {
            0 => Err(Error::usage("a limit of 0 bytes a second moves nothing").hint("leave the limit out")),
            n => Ok(Limit { bytes_per_second: n as f64, paid_until: Mutex::new(Instant::now()) }),
        }
    }

    /// Waits until what has come may have come.
    pub(super) fn take(&self, bytes: usize, stop: Stop<'_>) -> Result<()> {
        let cost = Duration::from_secs_f64((bytes as f64 / self.bytes_per_second).min(1e6));
        let now = Instant::now();
        let wait = {
            let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
            let rested = now.checked_sub(BURST).unwrap_or(now);
            *paid_until = (*paid_until).max(rested) + cost;
            paid_until.saturating_duration_since(now)
        };
        if wait.is_zero() { Ok(()) } else { sleep(wait, stop) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a pace against a server whose total is `rate(connections)` MB/s; the counts of connections, window by window.
    fn run(most: usize, windows: usize, rate: impl Fn(usize) -> f64) -> Vec<usize> {
        let mut now = Instant::now();
        let mut pace = Pace::new(most, now);
        let mut counts = vec![pace.allowed()];
        for _ in 0..windows {
            now += WINDOW;
            let bytes = rate(pace.allowed()) * 1e6 * WINDOW.as_secs_f64();
            let grew = pace.moved(bytes as u64, pace.allowed(), now);
            assert_eq!(grew, pace.allowed() > *counts.last().unwrap());
            counts.push(pace.allowed());
        }
        counts
    }

    #[test]
    fn connections_that_help_are_added_and_others_given_up() {
        assert_eq!(run(16, 4, |n| 50.0 * n as f64), [4, 8, 16, 16, 16], "each brings its share");
        assert_eq!(run(16, 4, |_| 900.0), [4, 8, 4, 4, 4], "the line is full");
        assert_eq!(
            run(16, 5, |n| 100.0 * n.min(8) as f64),
            [4, 8, 16, 8, 8, 8],
            "eight is the most it gives"
        );
        assert_eq!(run(2, 2, |n| 50.0 * n as f64), [2, 2, 2], "no more than are allowed");
        let again = run(16, 45, |_| 900.0);
        assert!(again[10..].contains(&8), "it is tried again later: {again:?}");
    }

    #[test]
    fn refusals_give_up_connections() {
        let now = Instant::now();
        let mut pace = Pace::new(16, now);
        for (kind, left) in
            [(ErrorKind::RateLimited, 2), (ErrorKind::Io, 1), (ErrorKind::Io, 1), (ErrorKind::RateLimited, 1)]
        {
            pace.refused(kind, now);
            assert_eq!(pace.allowed(), left);
        }
        assert!(!pace.moved(1 << 30, 1, now + WINDOW * 2), "it is left alone for a while");
        assert!(pace.moved(1 << 30, 1, now + HOLD * 2) && pace.allowed() == 2);
    }

    #[test]
    fn segments_follow_the_rate_of_a_connection() {
        let now = Instant::now();
        let mut pace = Pace::new(4, now);
        assert_eq!(pace.segment_bytes(), 8 << 20);
        for (rate, segment) in [(1e6, 8 << 20), (10e6, 20_000_000), (1e9, 64 << 20)] {
            let begun = now + Duration::from_secs(1);
            pace.begin(begun);
            pace.moved((rate * 4.0) as u64, 4, begun + Duration::from_secs(1));
            assert_eq!(pace.segment_bytes(), segment);
        }
    }
}
