//! A file far away, whose answers a test scripts.

use super::MIB;
use bytes::Bytes;
use hoist::source::ranged::{Body, Ranged, Stop, sleep, stopped};
use hoist::{Error, ErrorKind, Result};
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What goes wrong with one answer.
#[derive(Debug, Clone, Default)]
pub struct Fault {
    /// Before or behind so many bytes of the answer: this error, with that wish to wait.
    pub error: Option<(u64, ErrorKind, Option<Duration>)>,
    /// When the source has given so many bytes in all, this error.
    pub end: Option<(u64, ErrorKind)>,
    /// The answer ends without an error behind so many bytes.
    pub short: Option<u64>,
    /// This byte of the file is another one.
    pub flip: Option<u64>,
    /// Behind so many bytes nothing comes any more.
    pub silent: Option<u64>,
    /// Each piece takes so long.
    pub pause: Duration,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Asked {
    pub range: Range<u64>,
    /// How many came before it.
    pub index: usize,
    /// How many bytes the source had given before it.
    pub given: u64,
}

pub type Script = Box<dyn Fn(&Asked) -> Fault + Send + Sync>;

/// A file far away.
pub struct Source {
    pub name: String,
    pub bytes: Arc<[u8]>,
    pub version: Option<String>,
    pub piece: usize,
    pub script: Script,
    pub asked: Mutex<Vec<Asked>>,
    pub given: Arc<AtomicU64>,
    pub open: Arc<AtomicUsize>,
    pub open_most: AtomicUsize,
    /// It sends the whole file whatever is asked for; what lies before the range is thrown away, if it is not much.
    pub ignores_ranges: bool,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Source {
    pub fn new(bytes: Arc<[u8]>, script: impl Fn(&Asked) -> Fault + Send + Sync + 'static) -> Source {
        Source {
            name: "model.safetensors".into(),
            bytes,
            version: None,
            piece: 70_001,
            script: Box::new(script),
            asked: Mutex::new(Vec::new()),
            given: Arc::default(),
            open: Arc::default(),
            open_most: AtomicUsize::new(0),
            ignores_ranges: false,
        }
    }

    pub fn good(bytes: Arc<[u8]>) -> Source {
        Source::new(bytes, |_| Fault::default())
    }

    pub fn given(&self) -> u64 {
        self.given.load(Ordering::Relaxed)
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

struct Pieces {
    bytes: Arc<[u8]>,
    left: Range<u64>,
    done: u64,
    piece: usize,
    fault: Fault,
    given: Arc<AtomicU64>,
    open: Arc<AtomicUsize>,
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Ranged for Source {
    fn name(&self) -> &str {
        &self.name
    }

    fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    fn open(&self, range: Range<u64>, stop: Stop<'_>) -> Result<Box<dyn Body>> {
        assert!(range.start < range.end && range.end <= self.size_bytes(), "asked for {range:?}");
        let asked = {
            let mut log = self.asked.lock().unwrap();
            let asked = Asked { range: range.clone(), index: log.len(), given: self.given() };
            log.push(asked.clone());
            asked
        };
        if self.ignores_ranges && range.start > 4 * MIB {
            return Err(Error::unsupported("ignores ranges"));
        }
        let fault = (self.script)(&asked);
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        self.open_most.fetch_max(open, Ordering::Relaxed);
        let pieces = Pieces {
            bytes: Arc::clone(&self.bytes),
            left: range,
            done: 0,
            piece: self.piece,
            fault,
            given: Arc::clone(&self.given),
            open: Arc::clone(&self.open),
        };
        if stop() {
            return Err(stopped());
        }
        if let Some((0, kind, wish)) = pieces.fault.error {
            let error = Error::new(kind, "no");
            return Err(wish.map_or(error, |wish| Error::new(kind, "no").after(wish)));
        }
        Ok(Box::new(pieces))
    }
}

impl Body for Pieces {
    fn next(&mut self, stop: Stop<'_>) -> Result<Option<Bytes>> {
        if stop() {
            return Err(stopped());
        }
        if !self.fault.pause.is_zero() {
            sleep(self.fault.pause, stop)?;
        }
        if let Some((_, kind)) = self.fault.end.filter(|(end, _)| self.given.load(Ordering::Relaxed) >= *end)
        {
            return Err(Error::new(kind, "the end"));
        }
        let mut end = (self.left.start + self.piece as u64).min(self.left.end);
        let limit = |end: u64, done: u64, most: u64| end.min(self.left.start + most.saturating_sub(done));
        if let Some((at, kind, _)) = self.fault.error {
            end = limit(end, self.done, at);
            if end == self.left.start {
                return Err(Error::new(kind, "broken"));
            }
        }
        if let Some(at) = self.fault.short {
            end = limit(end, self.done, at);
        }
        if let Some(at) = self.fault.silent {
            end = limit(end, self.done, at);
            if end == self.left.start {
                sleep(Duration::from_secs(3600), stop)?;
            }
        }
        if end == self.left.start {
            return Ok(None);
        }
        let mut piece = self.bytes[self.left.start as usize..end as usize].to_vec();
        if let Some(at) = self.fault.flip.filter(|at| (self.left.start..end).contains(at)) {
            piece[(at - self.left.start) as usize] ^= 1;
        }
        self.done += end - self.left.start;
        self.left.start = end;
        self.given.fetch_add(piece.len() as u64, Ordering::Relaxed);
        Ok(Some(piece.into()))
    }
}
