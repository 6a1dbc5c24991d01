//! Jobs: watched, waited for, awaited, cancelled, dropped; and sources that are slow, short or broken, made by hand.

use super::to_cpu;
use crate::naive::materialise;
use crate::plan::{Bytes, model, noise, plain};
use hoist::checkpoint::Tensor;
use hoist::dtype::DType;
use hoist::load::{DTypeChoice, Loaded, Options, load};
use hoist::open::Model;
use hoist::run::job::{Event, Job};
use hoist::source::local::LocalFile;
use hoist::source::{ReadAt, Temper};
use hoist::{Error, ErrorKind, Result};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// What a source does instead of reading well.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    None,
    /// Each read takes so long.
    Slow(Duration),
    /// Each read brings at most so many bytes.
    Short(usize),
    /// The read of this number fails.
    Broken(usize),
    /// From this read on the file has ended.
    Ended(usize),
    /// The file now ends at this byte.
    EndsAt(u64),
    /// The read of this number panics.
    Panics(usize),
}

#[derive(Debug)]
struct Troubled {
    bytes: Bytes,
    trouble: Trouble,
    reads: Arc<AtomicUsize>,
}

impl ReadAt for Troubled {
    fn size_bytes(&self) -> u64 {
        self.bytes.size_bytes()
    }

    fn read_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<usize> {
        let n = self.reads.fetch_add(1, Ordering::SeqCst);
        match self.trouble {
            Trouble::Slow(time) => std::thread::sleep(time),
            Trouble::Short(most) => {
                let most = most.min(buf.len());
                return self.bytes.read_at(&mut buf[..most], offset_bytes);
            }
            Trouble::Broken(at) if n == at => {
                let error = std::io::Error::from_raw_os_error(libc::EIO);
                return Err(Error::io("cannot be read", error).at(offset_bytes));
            }
            Trouble::Ended(at) if n >= at => return Ok(0),
            Trouble::EndsAt(end) => {
                let left = usize::try_from(end.saturating_sub(offset_bytes)).unwrap().min(buf.len());
                return self.bytes.read_at(&mut buf[..left], offset_bytes);
            }
            Trouble::Panics(at) if n == at => panic!("a panic made to order"),
            _ => {}
        }
        self.bytes.read_at(buf, offset_bytes)
    }

    fn temper(&self) -> Temper {
        self.bytes.temper()
    }

    fn as_local(&self) -> Option<&LocalFile> {
        None
    }
}

/// Two files of a few units each: plain, cast, strided and tiny tensors.
fn troubled(trouble: Trouble) -> (Model, Arc<AtomicUsize>, Vec<Vec<u8>>, Vec<Tensor>) {
    let reads = Arc::new(AtomicUsize::new(0));
    let mut strided = plain("strided", DType::F32, &[300, 200], 1, 5_000_000);
    strided.at.strides = Some([1, 300].into());
    let tensors = vec![
        plain("large", DType::F32, &[1200, 1000], 0, 11),
        plain("small", DType::F32, &[3], 0, 4_800_100),
        plain("integers", DType::I64, &[70_000], 1, 0),
        strided,
    ];
    let files: Vec<Vec<u8>> = [4_900_000, 5_300_000].iter().map(|&size| noise(size, size as u64)).collect();
    let sources = files.iter().map(|data| {
        let bytes = Bytes { data: data.clone(), gap_bytes_max: 4096 };
        Arc::new(Troubled { bytes, trouble, reads: Arc::clone(&reads) }) as Arc<dyn ReadAt>
    });
    (model(tensors.clone(), sources.collect()), reads, files, tensors)
}

fn start(trouble: Trouble, options: Options) -> (Job<Loaded>, Arc<AtomicUsize>) {
    let (model, reads, ..) = troubled(trouble);
    (load(model, options), reads)
}

fn check_bytes(loaded: &Loaded) {
    let (_, _, files, tensors) = troubled(Trouble::None);
    for (got, row) in loaded.tensors.iter().zip(&tensors) {
        assert!(got.bytes().unwrap() == materialise(&files[row.at.span.file.index()], row), "{}", row.name);
    }
}

#[test]
fn short_reads_are_gone_on_with() {
    for (most, check, threads) in [(1 << 16, true, 2), (1000, false, 1), (4095, false, 3)] {
        let options = Options { check, threads: Some(threads), ..to_cpu() };
        check_bytes(&start(Trouble::Short(most), options).0.wait().unwrap());
    }
}

/// A panic made to order says nothing; others speak as before.
fn quiet_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !panic.payload_as_str().is_some_and(|text| text.contains("made to order")) {
                before(panic);
            }
        }));
    });
}

/// The n-th read fails, for n = 0, 1, 2 … until a load passes clean: always that error, with file, tensor and byte.
#[test]
fn each_read_may_fail() {
    type Make = fn(usize) -> Trouble;
    let kinds: [(Make, ErrorKind, &str); 3] = [
        (Trouble::Broken, ErrorKind::Io, "cannot be read"),
        (Trouble::Ended, ErrorKind::BadInput, "where it had"),
        (Trouble::Panics, ErrorKind::BadInput, "panicked"),
    ];
    quiet_panics();
    let mut failures = Vec::new();
    for (make, kind, says) in kinds {
        for (check, threads, dtype) in [
            (true, 1, DTypeChoice::Keep),
            (false, 3, DTypeChoice::Keep),
            (false, 2, DTypeChoice::To(DType::F16)),
        ] {
            let mut failed = 0;
            for n in 0.. {
                let options = Options { check, threads: Some(threads), dtype, saturate: true, ..to_cpu() };
                match start(make(n), options).0.wait() {
                    Ok(loaded) => {
                        if dtype == DTypeChoice::Keep {
                            check_bytes(&loaded);
                        }
                        break;
                    }
                    Err(error) => {
                        failed += 1;
                        let placed = says == "panicked"
                            || error.file_name().is_some()
                                && error.tensor_name().is_some()
                                && error.offset_bytes().is_some();
                        if error.kind() != kind || !error.to_string().contains(says) || !placed {
                            failures.push(format!("{says} {n}: {error}"));
                        }
                    }
                }
            }
            if failed < 3 {
                failures.push(format!("{says}: only {failed} reads failed"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Of many tensors that one read brings, the one is named in which the file ends, and the byte.
#[test]
fn the_tensor_that_is_cut_is_named() {
    let tensors: Vec<Tensor> =
        (0..40).map(|n| plain(&format!("t{n}"), DType::F32, &[25], 0, n * 100)).collect();
    for (end, name) in [(0, "t0"), (99, "t0"), (100, "t1"), (2550, "t25"), (3999, "t39")] {
        for (check, dtype) in
            [(false, DTypeChoice::Keep), (true, DTypeChoice::Keep), (false, DTypeChoice::To(DType::F16))]
        {
            let bytes = Bytes { data: noise(4000, 1), gap_bytes_max: 4096 };
            let source = Troubled { bytes, trouble: Trouble::EndsAt(end), reads: Arc::default() };
            let options = Options { check, dtype, saturate: true, threads: Some(1), ..to_cpu() };
            let error = load(model(tensors.clone(), vec![Arc::new(source)]), options).wait().unwrap_err();
            let placed = (error.tensor_name(), error.offset_bytes(), error.file_name());
            assert_eq!(placed, (Some(name), Some(end), Some("file-0")), "{check} {dtype:?}: {error}");
        }
    }
}

/// First what will be done, then how far it is, then the end: whoever iterates over the events gets through.
#[test]
fn events_tell_and_end() {
    for trace in [false, true] {
        let slow = Trouble::Slow(Duration::from_millis(30));
        let (job, _) = start(slow, Options { trace, threads: Some(2), ..to_cpu() });
        let begun = Instant::now();
        let events: Vec<Event> = job.events().iter().collect();
        assert!(begun.elapsed() < Duration::from_secs(20));
        let Some(Event::Planned { total_bytes, summary }) = events.first() else { panic!("{events:?}") };
        assert!(summary.contains("cpu"), "{summary}");
        let moved: Vec<u64> = events
            .iter()
            .filter_map(|e| match e {
                Event::Moved { bytes, total_bytes: all, .. } => {
                    assert_eq!(all, total_bytes);
                    Some(*bytes)
                }
                _ => None,
            })
            .collect();
        assert!(!moved.is_empty() && moved.iter().all(|b| b <= total_bytes), "{moved:?}");
        let read: u64 = events
            .iter()
            .map(|e| match e {
                Event::Span { name: "read" | "gather", bytes, .. } => *bytes,
                _ => 0,
            })
            .sum();
        let loaded = job.wait().unwrap();
        assert_eq!(*total_bytes, loaded.report.bytes);
        if trace { assert!(read >= *total_bytes, "{read} of {total_bytes}") } else { assert_eq!(read, 0) }
    }
}

/// Nobody reads the events, and there are more than the queue holds: the load goes on.
#[test]
fn nobody_has_to_listen() {
    for trace in [false, true] {
        let (job, _) = start(Trouble::Short(9000), Options { trace, ..to_cpu() });
        check_bytes(&job.wait().unwrap());
    }
}

#[test]
fn cancelled_within_a_second() {
    let slow = Trouble::Slow(Duration::from_millis(100));
    for check in [false, true] {
        let (job, reads) = start(slow, Options { threads: Some(1), check, ..to_cpu() });
        while reads.load(Ordering::SeqCst) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!job.is_done());
        let begun = Instant::now();
        job.cancel();
        let error = job.wait().unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        assert_eq!(error.kind(), ErrorKind::Signal(2), "{error}");
    }
}

/// Dropping a job ends its work: no read begins afterwards.
#[test]
fn dropped_is_cancelled() {
    let (job, reads) =
        start(Trouble::Slow(Duration::from_millis(50)), Options { threads: Some(3), ..to_cpu() });
    while reads.load(Ordering::SeqCst) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let begun = Instant::now();
    drop(job);
    assert!(begun.elapsed() < Duration::from_secs(10));
    let then = reads.load(Ordering::SeqCst);
    let (whole, all) = start(Trouble::None, Options { threads: Some(3), ..to_cpu() });
    whole.wait().unwrap();
    let all = all.load(Ordering::SeqCst);
    assert!(then < all, "it was done before: {then} of {all} reads");
    std::thread::sleep(Duration::from_millis(120));
    assert_eq!(reads.load(Ordering::SeqCst), then);
}

/// An executor as small as can be: wakes by unparking, or, rudely, by asking the job at once.
struct Unpark(std::thread::Thread, Mutex<Option<Box<dyn Fn() + Send>>>);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        if let Some(rude) = &*self.1.lock().unwrap() {
            rude();
        }
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>, rude: Option<Box<dyn Fn() + Send>>) -> T {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current(), Mutex::new(rude))));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park_timeout(Duration::from_secs(20)),
        }
    }
}

#[test]
fn a_job_can_be_awaited() {
    let (job, _) = start(Trouble::Slow(Duration::from_millis(20)), to_cpu());
    check_bytes(&block_on(job, None).unwrap());
    let (job, _) = start(Trouble::Broken(1), to_cpu());
    assert_eq!(block_on(job, None).unwrap_err().kind(), ErrorKind::Io);
    // One that was done long before anybody asked.
    let (job, _) = start(Trouble::None, to_cpu());
    while !job.is_done() {
        std::thread::sleep(Duration::from_millis(5));
    }
    check_bytes(&block_on(job, None).unwrap());
}

/// A waker that asks the job in the very call that wakes it, as an executor that polls at once does.
#[test]
fn a_waker_may_ask_the_job_at_once() {
    let job = Arc::new(Mutex::new(Some(start(Trouble::Slow(Duration::from_millis(20)), to_cpu()).0)));
    let asked = Arc::new(AtomicUsize::new(0));
    let (sender, done) = std::sync::mpsc::channel();
    let rude = {
        let (job, asked) = (Arc::clone(&job), Arc::clone(&asked));
        Box::new(move || {
            let is_done = job.lock().unwrap().as_ref().is_some_and(Job::is_done);
            asked.fetch_add(usize::from(is_done), Ordering::SeqCst);
        })
    };
    std::thread::spawn(move || {
        let result = block_on(
            std::future::poll_fn(move |context| {
                let mut held = job.lock().unwrap();
                std::pin::Pin::new(held.as_mut().unwrap()).poll(context)
            }),
            Some(rude),
        );
        let _ = sender.send(result);
    });
    let loaded =
        done.recv_timeout(Duration::from_secs(20)).expect("the job and its waker wait for each other");
    check_bytes(&loaded.unwrap());
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}
