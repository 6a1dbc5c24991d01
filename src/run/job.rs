//! A job: work under way, that can be waited for, watched and cancelled.

use crate::error::{Error, ErrorKind, Result};
use crossbeam_channel::{Receiver, Sender};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What happens while a job runs. Bars, plain lines, JSON and traces are readers of this one stream.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// What will be done is known.
    Planned {
        /// A line for a person: where the bytes go and what they need there.
        summary: String,
        /// Bytes that will be moved.
        total_bytes: u64,
    },
    /// Bytes have arrived; sent at most every few tens of milliseconds.
    Moved {
        /// So far.
        bytes: u64,
        /// Of how many.
        total_bytes: u64,
        /// Seconds since the first could have moved.
        seconds: f64,
    },
    /// One of many files has come so far; sent when it is done, and before that at most a few times a second.
    File {
        /// Which, as its source calls it.
        name: String,
        /// So far.
        bytes: u64,
        /// Of how many.
        total_bytes: u64,
    },
    /// A part of work that is not counted in bytes is done; sent at most every few tens of milliseconds.
    Step {
        /// Where it is, for a person: `layer 3/36`.
        label: String,
        /// How much is done, in units of its own.
        done: u64,
        /// Of how much.
        total: u64,
        /// Seconds since the job began.
        seconds: f64,
    },
    /// One piece of work, for a trace.
    Span {
        /// Who did it.
        lane: Lane,
        /// What it was: `read`, `direct`, `gather`, `populate`, `wait`, `put`, `drain`, `copy`.
        name: &'static str,
        /// The file.
        file: u32,
        /// Its first byte.
        offset_bytes: u64,
        /// How many bytes.
        bytes: u64,
        /// Microseconds since the job began.
        start_us: f64,
        /// How long.
        duration_us: f64,
    },
}

/// Who did a piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// A worker, by its number.
    Worker(usize),
    /// A stream of the device, by its number.
    Stream(usize),
}

/// The least time between two `Moved` events.
const MOVED_EVERY_MS: u64 = 40;

/// Whether to go on. Apart from [`Control`], which ends with the work and ends the events with it.
#[derive(Debug, Default)]
struct Flags {
    stopped: AtomicBool,
    cancelled: AtomicBool,
}

/// What a job's threads share: whether to go on, and how far they are.
#[derive(Debug)]
pub struct Control {
    flags: Arc<Flags>,
    moved_bytes: AtomicU64,
    total_bytes: AtomicU64,
    told_ms: AtomicU64,
    events: Sender<Event>,
    trace: bool,
    started: Instant,
    moving: OnceLock<Instant>,
}

/// Whether a job was told to end: for the jobs that it waits for ([`Job::wait_unless`]).
#[derive(Debug, Clone, Default)]
pub struct StopSign(Arc<Flags>);

impl StopSign {
    /// Whether to end.
    pub fn is_set(&self) -> bool {
        self.0.stopped.load(Ordering::Relaxed)
    }
}

impl Control {
    fn new(flags: Arc<Flags>, events: Sender<Event>, trace: bool) -> Control {
        Control {
            flags,
            moved_bytes: AtomicU64::new(0),
            total_bytes: AtomicU64::new(0),
            told_ms: AtomicU64::new(0),
            events,
            trace,
            started: Instant::now(),
            moving: OnceLock::new(),
        }
    }

    /// Whether workers should return.
    pub fn is_stopped(&self) -> bool {
        self.flags.stopped.load(Ordering::Relaxed)
    }

    /// Whether somebody asked for the end.
    pub fn is_cancelled(&self) -> bool {
        self.flags.cancelled.load(Ordering::Relaxed)
    }

    /// Says to others, who may live longer, whether to go on.
    pub fn stop_sign(&self) -> StopSign {
        StopSign(Arc::clone(&self.flags))
    }

    /// Tells workers to return: one of them failed.
    pub fn stop(&self) {
        self.flags.stopped.store(true, Ordering::Relaxed);
    }

    /// Says what will be done.
    pub fn plan(&self, summary: String, total_bytes: u64) {
        self.total_bytes.store(total_bytes, Ordering::Relaxed);
        let _ = self.moving.set(Instant::now());
        let _ = self.events.try_send(Event::Planned { summary, total_bytes });
    }

    /// Counts bytes that have arrived.
    pub fn moved(&self, bytes: u64) {
        let moved = self.moved_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let seconds = self.moving.get().unwrap_or(&self.started).elapsed().as_secs_f64();
        if !self.is_due(seconds) {
            return;
        }
        let total_bytes = self.total_bytes.load(Ordering::Relaxed);
        // Nobody has to listen: a full queue drops progress, never work.
        let _ = self.events.try_send(Event::Moved { bytes: moved, total_bytes, seconds });
    }

    /// Says how far one of many files is.
    pub fn file(&self, name: &str, bytes: u64, total_bytes: u64) {
        let _ = self.events.try_send(Event::File { name: name.to_owned(), bytes, total_bytes });
    }

    /// Says how far work is that is not counted in bytes.
    pub fn step(&self, label: impl FnOnce() -> String, done: u64, total: u64) {
        let seconds = self.started.elapsed().as_secs_f64();
        if done >= total || self.is_due(seconds) {
            let _ = self.events.try_send(Event::Step { label: label(), done, total, seconds });
        }
    }

    /// Whether it is time to tell again.
    fn is_due(&self, seconds: f64) -> bool {
        let now = (seconds * 1e3) as u64;
        let told = self.told_ms.load(Ordering::Relaxed);
        now >= told + MOVED_EVERY_MS
            && self.told_ms.compare_exchange(told, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Whether spans are wanted.
    pub fn traces(&self) -> bool {
        self.trace
    }

    /// Records a worker's work that began at `start` and ends now.
    pub fn span(
        &self,
        worker: usize,
        name: &'static str,
        file: u32,
        offset_bytes: u64,
        bytes: u64,
        start: Instant,
    ) {
        if self.trace {
            let start_us = start.duration_since(self.started).as_secs_f64() * 1e6;
            let duration_us = start.elapsed().as_secs_f64() * 1e6;
            let lane = Lane::Worker(worker);
            let _ = self.events.send(Event::Span {
                lane,
                name,
                file,
                offset_bytes,
                bytes,
                start_us,
                duration_us,
            });
        }
    }

    /// Records a device's copy, which began `after_seconds` after `origin`.
    pub fn copy_span(&self, stream: usize, bytes: u64, origin: Instant, after_seconds: f64, seconds: f64) {
        if self.trace {
            let start_us = (origin.duration_since(self.started).as_secs_f64() + after_seconds) * 1e6;
            let _ = self.events.send(Event::Span {
                lane: Lane::Stream(stream),
                name: "copy",
                file: 0,
                offset_bytes: 0,
                bytes,
                start_us,
                duration_us: seconds * 1e6,
            });
        }
    }
}

#[derive(Debug)]
struct State<T> {
    result: Option<Result<T>>,
    waker: Option<Waker>,
    is_done: bool,
}

/// Work under way. Dropping it cancels it and waits for its threads.
#[derive(Debug)]
pub struct Job<T> {
    flags: Arc<Flags>,
    events: Receiver<Event>,
    state: Arc<(Mutex<State<T>>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Job<T> {
    /// Starts `work` in a thread of its own. With `trace` every piece of work is an event, and somebody must read them.
    pub fn start(
        name: &str,
        trace: bool,
        work: impl FnOnce(&Control) -> Result<T> + Send + 'static,
    ) -> Job<T> {
        let (sender, events) =
            if trace { crossbeam_channel::unbounded() } else { crossbeam_channel::bounded(256) };
        let flags = Arc::new(Flags::default());
        let control = Control::new(Arc::clone(&flags), sender, trace);
        let state =
            Arc::new((Mutex::new(State { result: None, waker: None, is_done: false }), Condvar::new()));
        let finish = {
            let state = Arc::clone(&state);
            move |result| {
                let mut locked = state.0.lock().unwrap_or_else(PoisonError::into_inner);
                locked.result = Some(result);
                locked.is_done = true;
                let waker = locked.waker.take();
                drop(locked);
                state.1.notify_all();
                // Not under the lock: an executor may poll at once, in this thread.
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
        };
        let body = {
            let finish = finish.clone();
            move || {
                let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&control)));
                drop(control);
                let panicked = |_| Err(Error::bug("the job panicked"));
                finish(outcome.unwrap_or_else(panicked));
            }
        };
        let thread = match std::thread::Builder::new().name(name.to_string()).spawn(body) {
            Ok(thread) => Some(thread),
            Err(e) => {
                finish(Err(Error::io("no thread can be started", e)));
                None
            }
        };
        Job { flags, events, state, thread }
    }
}

impl<T> Job<T> {
    /// What happens, as it happens. Ends when the job does.
    pub fn events(&self) -> &Receiver<Event> {
        &self.events
    }

    /// Asks for the end. The job returns an error of kind `Signal` within a second, having given back what it took.
    pub fn cancel(&self) {
        self.flags.cancelled.store(true, Ordering::Relaxed);
        self.flags.stopped.store(true, Ordering::Relaxed);
    }

    /// Whether [`Job::wait`] would return at once.
    pub fn is_done(&self) -> bool {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner).is_done
    }

    /// Waits for the result; cancels the job when `stop` is set meanwhile.
    pub fn wait_unless(self, stop: &StopSign) -> Result<T> {
        const LOOK_EVERY: Duration = Duration::from_millis(50);
        let mut state = self.state.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !state.is_done {
            if stop.is_set() {
                self.cancel();
            }
            state = self.state.1.wait_timeout(state, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        self.wait()
    }

    /// Waits for the result.
    pub fn wait(mut self) -> Result<T> {
        let mut state = self.state.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !state.is_done {
            state = self.state.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let result = state.result.take();
        drop(state);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        result.unwrap_or_else(|| Err(Error::new(ErrorKind::Usage, "the job's result was taken before")))
    }
}

impl<T> Drop for Job<T> {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.cancel();
            let _ = thread.join();
        }
    }
}

impl<T> Future for Job<T> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        let mut state = self.state.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.is_done {
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        let taken = || Err(Error::new(ErrorKind::Usage, "the job's result was taken before"));
        Poll::Ready(state.result.take().unwrap_or_else(taken))
    }
}
