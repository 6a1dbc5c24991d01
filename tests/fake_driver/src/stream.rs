//! Streams, each a thread with a queue, and events. Nothing here waits while it holds the state's lock.

use crate::memory::HostKind;
use crate::state::{CONFIG, Code, LATER, LOST, STATE, lock};
use std::ffi::c_void;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Work of a stream; a code that is not 0 loses the context.
pub(crate) type Work = Box<dyn FnOnce() -> Code + Send>;

pub(crate) struct Stream {
    pub(crate) device: usize,
    queue: Mutex<Option<Sender<Work>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    progress: Arc<(Mutex<Progress>, Condvar)>,
}

#[derive(Default)]
struct Progress {
    queued: u64,
    done: u64,
}

impl Stream {
    pub(crate) fn start(device: usize) -> Arc<Stream> {
        let (queue, work) = channel::<Work>();
        let progress = Arc::new((Mutex::new(Progress::default()), Condvar::new()));
        let shared = Arc::clone(&progress);
        let thread = std::thread::spawn(move || {
            for job in work {
                // After a fault nothing runs any more, but events are still reached, so that no one waits for ever.
                let code = job();
                if code != 0 {
                    crate::lose(code);
                }
                lock(&shared.0).done += 1;
                shared.1.notify_all();
            }
        });
        Arc::new(Stream {
            device,
            queue: Mutex::new(Some(queue)),
            thread: Mutex::new(Some(thread)),
            progress,
        })
    }

    pub(crate) fn find(handle: *mut c_void) -> Result<Arc<Stream>, Code> {
        lock(&STATE).streams.get(&(handle as usize)).cloned().ok_or(400)
    }

    /// Queues work; its number, to wait for. Numbered and sent under one lock, so that the order is one.
    fn push(&self, work: Work) -> Result<u64, Code> {
        let queue = lock(&self.queue);
        let number = {
            let mut progress = lock(&self.progress.0);
            progress.queued += 1;
            progress.queued
        };
        queue.as_ref().ok_or(400)?.send(work).map_err(|_| 400)?;
        Ok(number)
    }

    fn wait_for(&self, number: u64) {
        let mut progress = lock(&self.progress.0);
        while progress.done < number {
            progress = self.progress.1.wait(progress).unwrap_or_else(|e| e.into_inner());
        }
    }

    pub(crate) fn wait(&self) {
        let queued = lock(&self.progress.0).queued;
        self.wait_for(queued);
    }

    pub(crate) fn is_idle(&self) -> bool {
        let progress = lock(&self.progress.0);
        progress.done == progress.queued
    }

    /// Idle, or at the end of its last work: an event is reached by work of the stream, and who waited for it may be
    /// here before the stream has counted that work as done.
    fn is_idle_soon(&self) -> bool {
        let begun = Instant::now();
        while !self.is_idle() {
            if begun.elapsed() > Duration::from_millis(1) {
                return false;
            }
            std::thread::yield_now();
        }
        true
    }

    /// Does what is queued and ends the thread.
    pub(crate) fn finish(&self) {
        drop(lock(&self.queue).take());
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

/// Waits for every stream; whether there was anything to wait for.
pub(crate) fn wait_all() -> bool {
    let streams: Vec<_> = lock(&STATE).streams.values().cloned().collect();
    let busy = streams.iter().any(|s| !s.is_idle_soon());
    for stream in streams {
        stream.wait();
    }
    busy
}

/// Queues work on a stream. A failure made to order for this call takes its place.
pub(crate) fn enqueue(stream: *mut c_void, work: Work) -> Result<(Arc<Stream>, u64), Code> {
    let stream = Stream::find(stream)?;
    let later = LATER.replace(0);
    let number = stream.push(match later {
        0 => work,
        code => Box::new(move || {
            late();
            code
        }),
    })?;
    Ok((stream, number))
}

/// Makes a copy as slow as is configured.
fn late() {
    if CONFIG.copy_us > 0 {
        std::thread::sleep(Duration::from_micros(CONFIG.copy_us));
    }
}

/// Queues a copy: late by the configured time, and waited for when it touches host memory that is not registered.
pub(crate) fn enqueue_host(
    stream: *mut c_void,
    kind: HostKind,
    copy: impl FnOnce() + Send + 'static,
) -> Result<(), Code> {
    let (stream, number) = enqueue(
        stream,
        Box::new(move || {
            late();
            if !CONFIG.free_copies && LOST.load(Ordering::SeqCst) == 0 {
                copy();
            }
            0
        }),
    )?;
    if kind == HostKind::Pageable {
        lock(&STATE).counters.pageable_copies += 1;
        stream.wait_for(number);
    }
    Ok(())
}

/// An event. A new record replaces the last, so marks are numbered; never recorded counts as reached.
pub(crate) struct Event {
    pub(crate) device: usize,
    timing: bool,
    marks: Mutex<Marks>,
    reached: Condvar,
}

#[derive(Default)]
struct Marks {
    recorded: u64,
    reached: u64,
    at: Option<Instant>,
}

impl Event {
    pub(crate) fn new(device: usize, timing: bool) -> Event {
        Event { device, timing, marks: Mutex::default(), reached: Condvar::new() }
    }

    pub(crate) fn find(handle: *mut c_void) -> Result<Arc<Event>, Code> {
        lock(&STATE).events.get(&(handle as usize)).cloned().ok_or(400)
    }

    pub(crate) fn record(&self) -> u64 {
        let mut marks = lock(&self.marks);
        marks.recorded += 1;
        marks.recorded
    }

    pub(crate) fn recorded(&self) -> u64 {
        lock(&self.marks).recorded
    }

    pub(crate) fn reach(&self, mark: u64) {
        let mut marks = lock(&self.marks);
        if mark > marks.reached {
            marks.reached = mark;
            marks.at = Some(Instant::now());
        }
        self.reached.notify_all();
    }

    pub(crate) fn is_reached(&self, mark: u64) -> bool {
        lock(&self.marks).reached >= mark
    }

    pub(crate) fn wait(&self, mark: u64) {
        let mut marks = lock(&self.marks);
        while marks.reached < mark {
            marks = self.reached.wait(marks).unwrap_or_else(|e| e.into_inner());
        }
    }

    pub(crate) fn time(&self) -> Result<Instant, Code> {
        if !self.timing {
            return Err(400);
        }
        let marks = lock(&self.marks);
        if marks.reached < marks.recorded {
            return Err(600);
        }
        marks.at.ok_or(400)
    }
}
