//! Which way a file of the hub comes: by plain HTTP, unless a place that was just named answers that it does not serve the
//! file; then by Xet, as long as that works. After each failure of Xet, plain HTTP is asked first again.

use super::super::http::remote::Remote;
use super::super::ranged::{Body, Ranged, Stop};
use crate::error::{Error, ErrorKind, Result};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Why there is no other way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    /// The listing has no Xet hash for it.
    Hash,
    /// The user does not want it.
    Wish,
    /// It was not compiled in.
    #[cfg_attr(feature = "xet", allow(dead_code))]
    Feature,
}

impl Lack {
    fn told(self, refusal: Error) -> Error {
        let (detail, hint) = match self {
            Lack::Hash => (
                "the hub lists no Xet hash, so there is no other way to it",
                "try again later, or another mirror",
            ),
            Lack::Wish => (
                "Xet might serve it, but `HF_HUB_DISABLE_XET` is set",
                "unset HF_HUB_DISABLE_XET to fetch it by Xet",
            ),
            Lack::Feature => (
                "Xet might serve it, but this hoist was built without the feature `xet`",
                "build hoist with `--features xet`, which is on by default",
            ),
        };
        refusal.detail(detail).hint_instead(hint)
    }
}

/// A file with its ways.
#[derive(Debug)]
pub(super) struct Routed {
    plain: Remote,
    xet: std::result::Result<Box<dyn Ranged>, Lack>,
    is_by_xet: Arc<AtomicBool>,
}

impl Routed {
    /// The file by plain HTTP, and by Xet where that can be.
    pub(super) fn new(plain: Remote, xet: std::result::Result<Box<dyn Ranged>, Lack>) -> Routed {
        Routed { plain, xet, is_by_xet: Arc::new(AtomicBool::new(false)) }
    }
}

impl Ranged for Routed {
    fn name(&self) -> &str {
        self.plain.name()
    }

    fn size_bytes(&self) -> u64 {
        self.plain.size_bytes()
    }

    fn version(&self) -> Option<&str> {
        self.plain.version()
    }

    fn open(&self, range: Range<u64>, stop: Stop<'_>) -> Result<Box<dyn Body>> {
        if !self.is_by_xet.load(Ordering::Relaxed) {
            let refusal = match self.plain.open(range.clone(), stop) {
                Err(error) if error.kind() == ErrorKind::Unsupported && self.plain.is_unserved() => error,
                answered => return answered,
            };
            if let Err(lack) = &self.xet {
                return Err(lack.told(refusal));
            }
            self.is_by_xet.store(true, Ordering::Relaxed);
        }
        let Ok(xet) = &self.xet else { return Err(Error::bug("Xet was chosen where there is none")) };
        match xet.open(range, stop) {
            Ok(body) => Ok(Box::new(Watched { body, is_by_xet: Arc::clone(&self.is_by_xet) })),
            Err(error) => Err(failed(error, &self.is_by_xet)),
        }
    }
}

/// A body of Xet's, whose failure is noted.
struct Watched {
    body: Box<dyn Body>,
    is_by_xet: Arc<AtomicBool>,
}

impl Body for Watched {
    fn next(&mut self, stop: Stop<'_>) -> Result<Option<Bytes>> {
        self.body.next(stop).map_err(|error| failed(error, &self.is_by_xet))
    }
}

fn failed(error: Error, is_by_xet: &AtomicBool) -> Error {
    if matches!(error.kind(), ErrorKind::Signal(_)) {
        return error;
    }
    is_by_xet.store(false, Ordering::Relaxed);
    error.detail("by Xet, for plain HTTP does not serve the file")
}
