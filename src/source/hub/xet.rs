//! Xet: the hub's content-addressed store, for the files that its plain HTTP route does not serve.
//!
//! A file is a list of terms, each a run of chunks of a xorb (a container of some 64 MiB). Three calls bring a range of it:
//! the hub gives a token and the store's address, the store says which terms make up the range and where each run of chunks
//! lies, and the chunks come by a ranged GET of a signed URL (protocol: <https://huggingface.co/docs/xet>, 1.1).
//!
//! # Why not hf-hub's own transport
//! hf-hub 1.0.0 reads Xet through hf-xet 1.8.0. Both were read in source for this; neither can be held to what is promised
//! here, so the protocol is spoken by our own client, and of their stack only the LZ4 decoder is shared:
//! - hf-hub makes its session without settings: no way to cap its buffers (a sixteenth to a quarter of the machine's
//!   memory), to end its telemetry or to set a deadline but by this process's environment;
//! - hf-xet takes settings, but its unit is a decoded term, up to 64 MiB for each stream, and what was handed out is not
//!   counted; sixteen connections hold a gibibyte. Here a connection holds one chunk (128 KiB) and what it came in;
//! - a piece comes only when its term is whole: a slow connection cannot be told from a dead one, nor a segment be split;
//! - it makes directories in the user's cache, has a runtime and a client of its own (other proxies, other roots of trust,
//!   redirects followed by themselves), reads answers of any size, and indexes by what a server says, which panics;
//! - about a hundred more crates.
//!
//! So nothing is posted to anybody, nothing is written, every wait has the client's deadlines, and memory is bounded by
//! what one connection holds. Bytes are verified by whoever asked, by the same SHA-256 as those of the plain route.

mod chunk;
mod plan;

use super::super::http::part::content_range;
use super::super::http::redirect::{Home, Next, follow};
use super::super::http::{Client, Request, Response, Secret, Url, host, status};
use super::super::ranged::{Body, Ranged, Stop, sleep};
use crate::error::{Error, ErrorKind, Result};
use crate::text::Shown;
use bytes::{Bytes, BytesMut};
use chunk::Header;
use plan::{Place, Term};
use serde::Deserialize;
use std::collections::VecDeque;
use std::fmt::{self, Debug};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// So much of a file is asked for at a time: about a xorb's worth. The answer stays small, and its signed URLs young.
const WINDOW_BYTES: u64 = 64 << 20;

/// The most that is read of an answer about a window: a term for each of its smallest chunks (8 KiB) fits.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// The longest token.
const TOKEN_BYTES_MAX: usize = 16 << 10;

/// A token that ends within so much time is not used any more; one that the hub says has ended is used for so long, for
/// then a clock is wrong.
const TOKEN_MARGIN: Duration = Duration::from_secs(60);

/// The longest that a token is used.
const TOKEN_AGE_MAX: Duration = Duration::from_secs(3600);

/// Asks the hub, once, for access to the store: the body of its answer.
pub(super) type Ask = Box<dyn Fn(Stop<'_>) -> Result<Vec<u8>> + Send + Sync>;

/// A file in the store.
pub(super) struct Xet(Arc<Inner>);

struct Inner {
    client: Client,
    name: Arc<str>,
    hash: String,
    size_bytes: u64,
    /// Whether the hub is asked by https: what it names then is too.
    is_https: bool,
    ask: Ask,
    /// Held while the hub is asked: the others wait for its answer.
    pass: Mutex<Option<Pass>>,
    /// The store does not know the second version of the question.
    is_first_version: AtomicBool,
}

/// What opens the store.
#[derive(Clone)]
struct Pass {
    home: Home,
    until: Instant,
}

/// The hub's answer. The names are the hub's.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Access {
    access_token: String,
    exp: u64,
    cas_url: String,
}

impl Debug for Xet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes) by Xet", self.0.name, self.0.size_bytes)
    }
}

impl Xet {
    /// The file of this Xet hash (64 hex digits) and size.
    pub(super) fn new(
        client: Client,
        name: &str,
        hash: String,
        size_bytes: u64,
        is_https: bool,
        ask: Ask,
    ) -> Xet {
        Xet(Arc::new(Inner {
            client,
            name: name.into(),
            hash,
            size_bytes,
            is_https,
            ask,
            pass: Mutex::default(),
            is_first_version: AtomicBool::new(false),
        }))
    }
}

impl Ranged for Xet {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn size_bytes(&self) -> u64 {
        self.0.size_bytes
    }

    fn version(&self) -> Option<&str> {
        Some(&self.0.hash)
    }

    fn open(&self, range: Range<u64>, stop: Stop<'_>) -> Result<Box<dyn Body>> {
        if range.is_empty() || range.end > self.0.size_bytes {
            return Err(Error::bug(format!("bytes {range:?} of {} were asked for", self.0.size_bytes)));
        }
        let mut body = Rebuilt {
            of: Arc::clone(&self.0),
            range,
            window_left: 0,
            terms: VecDeque::new(),
            skip_bytes: 0,
            term: None,
            reading: None,
        };
        // So that an error is said now, and not with the first piece.
        body.window(stop).map_err(|e| e.file(&*self.0.name))?;
        Ok(Box::new(body))
    }
}

impl Inner {
    /// What opens the store, not `refused` before.
    fn pass(&self, refused: Option<&Pass>, stop: Stop<'_>) -> Result<Pass> {
        let mut held = loop {
            match self.pass.try_lock() {
                Ok(held) => break held,
                Err(TryLockError::Poisoned(held)) => break held.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    sleep(Duration::from_millis(20), stop)?;
                }
            }
        };
        let is_refused = |pass: &Pass| {
            refused.is_some_and(|refused| {
                let token = |pass: &Pass| pass.home.token.as_ref().map(|t| t.reveal().to_owned());
                token(refused) == token(pass)
            })
        };
        if let Some(pass) = held.as_ref().filter(|pass| pass.until > Instant::now() && !is_refused(pass)) {
            return Ok(pass.clone());
        }
        let pass = read_access(&(self.ask)(stop)?, self.is_https)?;
        *held = Some(pass.clone());
        Ok(pass)
    }

    /// Which terms make up a window of the file, and how many bytes of the first come before it.
    fn plan(&self, window: &Range<u64>, stop: Stop<'_>) -> Result<(u64, VecDeque<Term>)> {
        let mut pass = self.pass(None, stop)?;
        let mut is_fresh = false;
        loop {
            let is_first = self.is_first_version.load(Ordering::Relaxed);
            let mut url = pass.home.url.clone();
            if let Ok(mut segments) = url.path_segments_mut() {
                let version = if is_first { "v1" } else { "v2" };
                segments.pop_if_empty().extend([version, "reconstructions", &self.hash]);
            }
            let request = Request { range: Some(window.clone()), ..Request::get(&url) };
            let look = &mut |_: &Response| Ok(Next::Follow);
            let answer = follow(&self.client, &request, &pass.home, look, stop)?;
            let host = answer.host();
            match answer.status() {
                200 | 206 => {
                    let is_https = pass.home.url.scheme() == "https";
                    let body = answer.small(ANSWER_BYTES_MAX, stop)?;
                    return plan::read(&body, window.end - window.start, is_https)
                        .map_err(|what| Error::bad_input(format!("the Xet store `{host}` {what}")));
                }
                401 | 403 if !is_fresh => {
                    pass = self.pass(Some(&pass), stop)?;
                    is_fresh = true;
                }
                // As the protocol has it: a store without the second version has the first.
                404 | 501 if !is_first => self.is_first_version.store(true, Ordering::Relaxed),
                status => {
                    if let Some(error) = status::not_now(&answer) {
                        return Err(error);
                    }
                    let message = format!("the Xet store `{host}` answered {status}");
                    return Err(match status {
                        401 | 403 => Error::new(ErrorKind::NotAllowed, message)
                            .hint("the hub's token for it does not open it; check this machine's clock"),
                        404 | 410 => Error::not_found(format!(
                            "{message}: it does not have Xet hash `{}`, which the hub lists",
                            self.hash
                        )),
                        416 => Error::new(
                            ErrorKind::Integrity,
                            format!("{message}: its file is shorter than the hub's listing says"),
                        ),
                        _ => Error::bad_input(message),
                    });
                }
            }
        }
    }

    /// Asks for the chunks of a place.
    fn fetch(&self, place: &Arc<Place>, stop: Stop<'_>) -> Result<Reading> {
        let request = Request { range: Some(place.bytes.clone()), ..Request::get(&place.url) };
        // It is signed: no token goes there.
        let home = Home { url: place.url.clone(), token: None };
        let look = &mut |_: &Response| Ok(Next::Follow);
        let answer = follow(&self.client, &request, &home, look, stop)?;
        let (host, expected) = (answer.host(), place.bytes.end - place.bytes.start);
        if let Some(error) = status::not_now(&answer) {
            return Err(error);
        }
        let io = |message: String| Err(Error::new(ErrorKind::Io, message));
        if !matches!(answer.status(), 200 | 206) {
            // The next attempt gets another address.
            return io(format!("`{host}` answered {} to the Xet store's signed address", answer.status()));
        }
        if let Some(encoding) =
            answer.header("content-encoding").filter(|e| !e.eq_ignore_ascii_case("identity"))
        {
            return io(format!("`{host}` sends `{}` where plain bytes were asked for", Shown(encoding)));
        }
        let is_other_length = answer.content_length().is_some_and(|length| length != expected);
        let is_other_start = match content_range(&answer) {
            Some((first, ..)) => first != place.bytes.start,
            // Without one, only the length tells the range from the whole.
            None => answer.status() == 200 && answer.content_length().is_none(),
        };
        if is_other_length || is_other_start {
            return io(format!("`{host}` sent other bytes of a xorb than were asked for"));
        }
        Ok(Reading {
            place: Arc::clone(place),
            answer,
            next_chunk: place.chunks.start,
            left_bytes: expected,
            buffer: BytesMut::new(),
        })
    }
}

/// Reads the hub's answer.
fn read_access(json: &[u8], is_https: bool) -> Result<Pass> {
    let refused = |what: &str| Error::bad_input(format!("the hub's answer about its Xet store {what}"));
    let access: Access = serde_json::from_slice(json).map_err(|_| refused("is not what a hub says"))?;
    let url = Url::parse(&access.cas_url).map_err(|_| refused("names no address"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(refused("names no web server"));
    }
    if is_https && url.scheme() == "http" {
        return Err(refused(&format!("leads from https to http, to `{}`", host(&url))));
    }
    // Not shown: it may be a password.
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err(refused("names an address with more in it than a host and a path"));
    }
    let token = access.access_token;
    if token.is_empty() || token.len() > TOKEN_BYTES_MAX || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(refused("holds no token that can be sent"));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let lasts = Duration::from_secs(access.exp).saturating_sub(now).saturating_sub(TOKEN_MARGIN);
    let until = Instant::now() + lasts.clamp(TOKEN_MARGIN, TOKEN_AGE_MAX);
    Ok(Pass { home: Home { url, token: Some(Secret::new(token)) }, until })
}

/// The bytes of a range, put together from chunks.
struct Rebuilt {
    of: Arc<Inner>,
    /// What is left of the range.
    range: Range<u64>,
    /// What is left of the window that the terms are of.
    window_left: u64,
    terms: VecDeque<Term>,
    /// Decoded bytes before the window.
    skip_bytes: u64,
    term: Option<Current>,
    reading: Option<Reading>,
}

/// The term that is being read.
struct Current {
    term: Term,
    next_chunk: u32,
    left_bytes: u64,
}

impl Rebuilt {
    /// Asks about the next window.
    fn window(&mut self, stop: Stop<'_>) -> Result<()> {
        let end = self.range.end.min(self.range.start.saturating_add(WINDOW_BYTES));
        (self.skip_bytes, self.terms) = self.of.plan(&(self.range.start..end), stop)?;
        self.window_left = end - self.range.start;
        self.term = None;
        // Its address is an older one.
        self.reading = None;
        Ok(())
    }

    fn piece(&mut self, stop: Stop<'_>) -> Result<Option<Bytes>> {
        while !self.range.is_empty() {
            if self.window_left == 0 {
                self.window(stop)?;
            }
            let Some(mut current) = self.current()? else {
                return Err(Error::bad_input(
                    "the Xet store's terms end before the range that was asked for",
                ));
            };
            let mut reading = self.reading(&current, stop)?;
            let host = reading.answer.host();
            let damaged =
                |what: String| Error::new(ErrorKind::Integrity, format!("`{host}` sent a xorb {what}"));
            let header = reading.header(stop)?.map_err(&damaged)?;
            let size = u64::from(header.decoded_bytes);
            if reading.next_chunk - 1 < current.next_chunk {
                // Of another term, or of another file.
                reading.raw(header.encoded_bytes, stop)?;
                self.reading = Some(reading);
                self.term = Some(current);
                continue;
            }
            if size > current.left_bytes {
                return Err(damaged("whose chunks are larger than the store says".to_owned()));
            }
            current.next_chunk += 1;
            current.left_bytes -= size;
            if current.next_chunk == current.term.chunks.end && current.left_bytes > 0 {
                return Err(damaged("whose chunks are smaller than the store says".to_owned()));
            }
            let raw = reading.raw(header.encoded_bytes, stop)?;
            self.reading = Some(reading);
            self.term = Some(current);
            let skip = self.skip_bytes.min(size);
            self.skip_bytes -= skip;
            if skip == size {
                continue;
            }
            let mut piece = chunk::decode(&header, raw).map_err(&damaged)?;
            // No more than the chunk has, so both fit.
            let _ = piece.split_to(skip as usize);
            piece.truncate(usize::try_from(self.window_left).unwrap_or(usize::MAX));
            self.window_left -= piece.len() as u64;
            self.range.start += piece.len() as u64;
            return Ok(Some(piece));
        }
        // A connection in the middle of a xorb is of no use to others.
        self.reading = None;
        Ok(None)
    }

    /// The term at whose chunk the range stands.
    fn current(&mut self) -> Result<Option<Current>> {
        if let Some(current) = self.term.take().filter(|c| c.next_chunk < c.term.chunks.end) {
            return Ok(Some(current));
        }
        Ok(self.terms.pop_front().map(|term| Current {
            next_chunk: term.chunks.start,
            left_bytes: term.decoded_bytes,
            term,
        }))
    }

    /// An answer that the term's next chunk is still to come in.
    fn reading(&mut self, current: &Current, stop: Stop<'_>) -> Result<Reading> {
        let place = &current.term.place;
        let usable = |reading: &Reading| {
            Arc::ptr_eq(&reading.place, place) && reading.next_chunk <= current.next_chunk
        };
        match self.reading.take().filter(usable) {
            Some(reading) => Ok(reading),
            None => self.of.fetch(place, stop),
        }
    }
}

impl Body for Rebuilt {
    fn next(&mut self, stop: Stop<'_>) -> Result<Option<Bytes>> {
        self.piece(stop).map_err(|e| e.file(&*self.of.name))
    }
}

/// Chunks on their way.
struct Reading {
    place: Arc<Place>,
    answer: Response,
    /// The chunk whose header comes next.
    next_chunk: u32,
    /// What is left of the answer, behind the buffer.
    left_bytes: u64,
    buffer: BytesMut,
}

impl Reading {
    /// The next bytes as they came.
    fn raw(&mut self, size_bytes: usize, stop: Stop<'_>) -> Result<Bytes> {
        while self.buffer.len() < size_bytes {
            let piece = match self.left_bytes {
                0 => None,
                _ => self.answer.next(stop)?,
            };
            let Some(mut piece) = piece else {
                let message = format!("`{}` ended a xorb in the middle of a chunk", self.answer.host());
                return Err(Error::new(ErrorKind::Io, message));
            };
            // What comes behind is not what was asked for.
            piece.truncate(usize::try_from(self.left_bytes).unwrap_or(usize::MAX));
            self.left_bytes -= piece.len() as u64;
            self.buffer.extend_from_slice(&piece);
        }
        Ok(self.buffer.split_to(size_bytes).freeze())
    }

    /// The next chunk's header; the outer error is the network's.
    fn header(&mut self, stop: Stop<'_>) -> Result<std::result::Result<Header, String>> {
        let raw = self.raw(chunk::HEADER_BYTES, stop)?;
        self.next_chunk = self.next_chunk.saturating_add(1);
        Ok(Header::parse(&raw))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_is_read() {
        let json = |token: &str, url: &str| {
            serde_json::json!({"accessToken": token, "exp": 4_000_000_000u64, "casUrl": url, "more": 1})
                .to_string()
        };
        for (case, text, is_https, expected) in [
            ("plain", json("hunter2", "https://cas.example/x/"), true, None),
            ("from http", json("hunter2", "http://cas.example"), false, None),
            ("to http", json("hunter2", "http://cas.example"), true, Some("https to http")),
            ("password", json("hunter2", "https://u:secret@cas.example"), true, Some("more in it")),
            ("query", json("hunter2", "https://cas.example?secret"), true, Some("more in it")),
            ("scheme", json("hunter2", "file:///etc/passwd"), true, Some("no web server")),
            ("no address", json("hunter2", "cas"), true, Some("no address")),
            ("no token", json("", "https://cas.example"), true, Some("no token")),
            ("split token", json("a\r\nb", "https://cas.example"), true, Some("no token")),
            ("long token", json(&"a".repeat(20_000), "https://cas.example"), true, Some("no token")),
            ("no JSON", "<html>".to_owned(), true, Some("is not what a hub says")),
            (
                "negative end",
                r#"{"accessToken":"a","exp":-1,"casUrl":"https://c"}"#.to_owned(),
                true,
                Some("is not what"),
            ),
        ] {
            match (read_access(text.as_bytes(), is_https), expected) {
                (Ok(pass), None) => assert!(pass.until > Instant::now() + TOKEN_AGE_MAX / 2, "{case}"),
                (Err(error), Some(word)) => {
                    let text = error.to_string();
                    assert!(text.contains(word) && !text.contains("secret"), "{case}: {text}");
                }
                (got, _) => panic!("{case}: {:?}", got.map(|_| ())),
            }
        }
        // A clock that is wrong does not make each call ask anew.
        let old = r#"{"accessToken":"a","exp":1,"casUrl":"https://c"}"#;
        assert!(read_access(old.as_bytes(), true).unwrap().until > Instant::now());
        let never = format!(r#"{{"accessToken":"a","exp":{},"casUrl":"https://c"}}"#, u64::MAX);
        assert!(read_access(never.as_bytes(), true).is_ok());
    }
}
