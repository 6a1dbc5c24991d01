//! One object at a URL, which may send its readers elsewhere: a file of the hub, whose bytes lie at signed URLs that expire;
//! or any file on the web.
//!
//! Its home is asked once: the first reader asks and is sent on, the others wait for what it learns and then ask that place.
//! When the place refuses, one of them asks the home again. A hub counts requests to itself, and a file of a hundred
//! gigabytes is read in thousands of ranges.

use super::super::ranged::{Body, Ranged, Stop, stopped};
use super::part::{self, Part, Wrong};
use super::redirect::{Home, Next, follow};
use super::{Client, Request, Response, Secret, Url, host, status};
use crate::error::{Error, ErrorKind, Result};
use crate::text::{Shown, grouped};
use std::fmt::{self, Debug};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Statuses by which a place says that a signed URL has expired.
const EXPIRED: [u16; 5] = [400, 401, 403, 404, 410];

/// A file this small may be a pointer of Git LFS.
const POINTER_BYTES_MAX: u64 = 1024;

/// How a pointer of Git LFS begins (its specification, version 1).
const POINTER_START: &[u8] = b"version https://git-lfs.github.com/spec/v1";

/// What is known of an object beyond its URL and its size: what answers of its home must say, and what refusals mean.
pub trait Facts: Send + Sync + Debug {
    /// Looks at an answer of the home, success or redirect.
    ///
    /// # Errors
    /// `Integrity`: it speaks of another object.
    fn check(&self, answer: &Response) -> Result<()>;

    /// What a refusal of the home means: a status of 4xx that stays.
    fn refused(&self, answer: &Response) -> Error;

    /// What tells this version of the object from others of its name.
    fn version(&self) -> Option<&str> {
        None
    }
}

/// An object at a URL. The token goes to the origin's own scheme, host and port only.
pub struct Remote {
    client: Client,
    name: Arc<str>,
    home: Home,
    size_bytes: u64,
    facts: Option<Arc<dyn Facts>>,
    validator: Validator,
    place: Mutex<Place>,
    known: Condvar,
    /// The last place that was just named answered that it does not serve the object.
    is_unserved: AtomicBool,
}

impl Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes) at {}", self.name, self.size_bytes, host(&self.home.url))
    }
}

/// Where the bytes are.
enum Place {
    Unknown,
    /// Someone is asking the home.
    Asked,
    Known(Url),
}

/// By which a server tells one state of an object from another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Validator {
    etag: Option<String>,
    modified: Option<String>,
}

impl Validator {
    /// A weak tag says nothing about bytes.
    fn of(response: &Response) -> Validator {
        let text = |name| response.header(name).filter(|t| !t.is_empty()).map(str::to_owned);
        Validator { etag: text("etag").filter(|t| !t.starts_with("W/")), modified: text("last-modified") }
    }

    /// Whether two answers may be of the same state: tags decide where both have one.
    fn agrees(&self, other: &Validator) -> bool {
        let same = |a: &Option<String>, b: &Option<String>| Some(a.as_ref()? == b.as_ref()?);
        same(&self.etag, &other.etag).or_else(|| same(&self.modified, &other.modified)).unwrap_or(true)
    }
}

/// What a reader does next.
enum Turn<'a> {
    Read(Url),
    Ask(Asking<'a>),
}

/// Who asks the home; whatever happens, the others go on after it.
struct Asking<'a>(&'a Remote, Option<Url>);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let place = self.1.take().map_or(Place::Unknown, Place::Known);
        *self.0.lock() = place;
        self.0.known.notify_all();
    }
}

impl Remote {
    /// The object at `origin`, which is known to have this size.
    pub fn new(
        client: Client,
        name: impl Into<String>,
        origin: Url,
        token: Option<Secret>,
        size_bytes: u64,
    ) -> Remote {
        Remote {
            client,
            name: name.into().into(),
            home: Home { url: origin, token },
            size_bytes,
            facts: None,
            validator: Validator::default(),
            place: Mutex::new(Place::Unknown),
            known: Condvar::new(),
            is_unserved: AtomicBool::new(false),
        }
    }

    /// Whether the last answer was that of a place just named by the home which does not serve the object (400, the hub's
    /// plain route for some of its largest files). Such an error is of kind `Unsupported`, as others are.
    pub fn is_unserved(&self) -> bool {
        self.is_unserved.load(Ordering::Relaxed)
    }

    /// With what more is known of it.
    pub fn with_facts(mut self, facts: Arc<dyn Facts>) -> Remote {
        self.facts = Some(facts);
        self
    }

    /// Any file on the web: its size is asked for, and what tells whether it changes. One attempt, by a range of one byte:
    /// URLs that are signed for GET refuse HEAD. A change that is seen later is an error of kind `Integrity`.
    ///
    /// # Errors
    /// As [`Ranged::open`]. `BadInput`: a page for people. `Unsupported`: the server does not tell the size.
    pub fn web(client: Client, url: Url, stop: Stop<'_>) -> Result<Remote> {
        let mut remote = Remote::new(client, shown(&url), url, None, 0);
        let name = remote.name.clone();
        remote.measure(stop).map_err(|e| e.file(&*name))?;
        Ok(remote)
    }

    fn measure(&mut self, stop: Stop<'_>) -> Result<()> {
        let answer = self.ask(&self.home.url, &(0..1), stop)?;
        self.size_bytes = match answer.status() {
            200 | 206 if part::is_page(&answer, self.home.url.path()) => return Err(self.page()),
            206 | 416 => part::total_bytes(&answer),
            200 => answer.content_length(),
            _ => return Err(self.refused(&answer)),
        }
        .ok_or_else(|| {
            let host = answer.host();
            Error::unsupported(format!("`{host}` does not tell the size of the file"))
                .hint("download it first, then name the local file")
        })?;
        self.validator = Validator::of(&answer);
        *self.lock() = Place::Known(answer.url().clone());
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to do: read from the place, if it is another one than `not`, or ask the home while the others wait.
    fn turn(&self, not: Option<&Url>, stop: Stop<'_>) -> Result<Turn<'_>> {
        let mut place = self.lock();
        loop {
            match &*place {
                Place::Known(url) if Some(url) != not => return Ok(Turn::Read(url.clone())),
                Place::Known(_) | Place::Unknown => {
                    *place = Place::Asked;
                    return Ok(Turn::Ask(Asking(self, None)));
                }
                Place::Asked => {
                    let wait = self.known.wait_timeout(place, Duration::from_millis(50));
                    place = wait.unwrap_or_else(PoisonError::into_inner).0;
                    if stop() {
                        return Err(stopped());
                    }
                }
            }
        }
    }

    /// Asks a URL for a range, through redirects.
    fn ask(&self, url: &Url, range: &Range<u64>, stop: Stop<'_>) -> Result<Response> {
        let request = Request { range: Some(range.clone()), ..Request::get(url) };
        let mut look = |answer: &Response| {
            if let Some(facts) = &self.facts
                && answer.status() < 400
                && self.home.has(answer.url())
            {
                facts.check(answer)?;
            }
            Ok(Next::Follow)
        };
        follow(&self.client, &request, &self.home, &mut look, stop)
    }

    fn body(&self, range: &Range<u64>, stop: Stop<'_>) -> Result<Box<dyn Body>> {
        if range.is_empty() || range.end > self.size_bytes {
            return Err(Error::bug(format!("bytes {range:?} of {} were asked for", self.size_bytes)));
        }
        let mut expired = None;
        loop {
            match self.turn(expired.as_ref(), stop)? {
                Turn::Read(url) => {
                    let asked = self.ask(&url, range, stop);
                    let is_home = url == self.home.url;
                    let is_broken = match &asked {
                        Ok(answer) => answer.status() >= 500,
                        Err(error) => error.kind() == ErrorKind::Io,
                    };
                    if is_broken && !is_home {
                        // The next attempt may be sent to a place that works.
                        self.forget(&url);
                    }
                    let answer = asked?;
                    if !is_home && expired.is_none() && EXPIRED.contains(&answer.status()) {
                        expired = Some(url);
                        continue;
                    }
                    return self.take(answer, range, stop);
                }
                Turn::Ask(mut asking) => {
                    let answer = self.ask(&self.home.url, range, stop)?;
                    if matches!(answer.status(), 200 | 206) {
                        asking.1 = Some(answer.url().clone());
                    }
                    drop(asking);
                    return self.take(answer, range, stop);
                }
            }
        }
    }

    /// The place does not work.
    fn forget(&self, url: &Url) {
        let mut place = self.lock();
        if matches!(&*place, Place::Known(known) if known == url) {
            *place = Place::Unknown;
        }
    }

    /// The body of an answer, if it is the range.
    fn take(&self, answer: Response, range: &Range<u64>, stop: Stop<'_>) -> Result<Box<dyn Body>> {
        if let Some(error) = status::not_now(&answer) {
            return Err(error);
        }
        if answer.status() == 416 {
            let size = part::total_bytes(&answer).filter(|size| *size != self.size_bytes);
            return Err(match size {
                Some(size) => self.other_size(size, None, stop),
                None => self.refused(&answer),
            });
        }
        if !matches!(answer.status(), 200 | 206) {
            return Err(self.refused(&answer));
        }
        if !self.validator.agrees(&Validator::of(&answer)) {
            return Err(Error::new(ErrorKind::Integrity, "changed on the server while it was read")
                .hint("begin again, when nobody writes it"));
        }
        match part::check(&answer, range, self.size_bytes, &self.name) {
            Ok(fit) => {
                self.is_unserved.store(false, Ordering::Relaxed);
                Ok(Box::new(Part::new(answer, fit, range, self.name.clone())))
            }
            Err(Wrong::Size(size)) => {
                let is_start = answer.status() == 200 || range.start == 0;
                Err(self.other_size(size, is_start.then_some(answer), stop))
            }
            Err(Wrong::Page) => Err(self.page()),
            Err(Wrong::Other(error)) => Err(error),
        }
    }

    /// The object has another size; looks whether it is a pointer of Git LFS, in this answer or in another one.
    fn other_size(&self, size_bytes: u64, answer: Option<Response>, stop: Stop<'_>) -> Error {
        let whole = 0..size_bytes.min(POINTER_BYTES_MAX);
        let mut start = Vec::new();
        if !whole.is_empty() && size_bytes <= POINTER_BYTES_MAX {
            let answer = answer.or_else(|| self.ask(&self.home.url, &whole, stop).ok());
            start = answer.map(|a| a.start(POINTER_START.len(), stop)).unwrap_or_default();
        }
        let found = grouped(size_bytes);
        let expected = grouped(self.size_bytes);
        if start.starts_with(POINTER_START) {
            let message = format!(
                "the server has a Git LFS pointer of {found} bytes in place of the file of {expected} bytes"
            );
            return Error::new(ErrorKind::Integrity, message)
                .hint("the mirror was made without the files of Git LFS; fetch from another one");
        }
        let hint = match self.facts {
            Some(_) => "begin again; if it stays so, the listing and the file are not of one commit",
            None => "begin again, when nobody writes it",
        };
        Error::new(ErrorKind::Integrity, format!("has {found} bytes on the server, {expected} were expected"))
            .hint(hint)
    }

    /// A page for people came.
    fn page(&self) -> Error {
        let error = Error::new(ErrorKind::Integrity, "the server sent an HTML page in place of the file");
        match self.home.url.path().contains("/blob/") {
            true => {
                error.hint("a file of the hub is at `/resolve/` in place of `/blob/`; or use hf://org/name")
            }
            false => error.hint("a proxy or a login stands between; open the address in a browser"),
        }
    }

    /// A status of 4xx that stays.
    fn refused(&self, answer: &Response) -> Error {
        if let Some(error) = status::not_now(answer) {
            return error;
        }
        let (status, host) = (answer.status(), answer.host());
        let is_home = self.home.has(answer.url());
        if let Some(facts) = self.facts.as_ref().filter(|_| is_home) {
            return facts.refused(answer);
        }
        let message = format!("`{host}` answered {status}");
        match status {
            401 | 403 if is_home => Error::new(ErrorKind::NotAllowed, message)
                .hint("the address may want a signature that is still valid"),
            401 | 403 => Error::new(ErrorKind::NotAllowed, message).hint(
                "the address that the server redirects to is refused; check this machine's clock and proxy",
            ),
            404 | 410 if is_home => Error::not_found(message),
            // The home says that it is there: what it redirects to may come to know it.
            404 | 410 => Error::new(ErrorKind::Io, message).hint(
                "the file is listed, and the address that the server redirects to does not have it: try again later",
            ),
            407 => Error::new(ErrorKind::NotAllowed, message).hint("the proxy wants a password"),
            // What the hub's plain route answers for files that it cannot serve.
            400 if !is_home => {
                self.is_unserved.store(true, Ordering::Relaxed);
                Error::unsupported(format!("{message}: it does not serve this file over HTTP"))
            }
            _ => Error::bad_input(message),
        }
    }
}

impl Ranged for Remote {
    fn name(&self) -> &str {
        &self.name
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn version(&self) -> Option<&str> {
        let known = self.facts.as_ref().and_then(|facts| facts.version());
        known.or(self.validator.etag.as_deref()).or(self.validator.modified.as_deref())
    }

    fn open(&self, range: Range<u64>, stop: Stop<'_>) -> Result<Box<dyn Body>> {
        self.body(&range, stop).map_err(|e| e.file(&*self.name))
    }
}

/// A URL without what may be secret: user, password, query.
pub fn shown(url: &Url) -> String {
    let path = Shown(url.path()).to_string();
    format!("{}://{}{path}", url.scheme(), host(url))
}
