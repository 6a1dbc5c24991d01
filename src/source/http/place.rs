//! Files on a web server: the one that a URL names, and what lies beside it.
//!
//! A web server lists nothing. What is there is found out by asking for one byte, which tells the size as well, and whether
//! ranges are served; HEAD would not do, because a signed URL is often signed for GET alone. Of what may lie beside a file
//! only names that the caller gives are asked for.

use super::super::ahead::Ahead;
use super::super::local::{LocalFile, check_relative};
use super::super::ranged::{Patience, Policy, Stop};
use super::super::{Entry, Place, ReadAt, Temper, stop};
use super::remote::Remote;
use super::{Client, Request, Response, Url};
use crate::error::{Error, ErrorKind, Result};
use crate::text::{Shown, grouped};
use hashbrown::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// Redirects that are followed for one file.
const REDIRECTS_MAX: usize = 10;

/// The largest file that is read whole from a server that serves no ranges: configs and tokenizers are, weights are not.
const WHOLE_BYTES_MAX: u64 = 32 << 20;

/// A folder on a web server, in which one file was named.
#[derive(Debug)]
pub struct UrlPlace {
    client: Client,
    name: String,
    url: Url,
    beside: &'static [&'static str],
    policy: Policy,
    /// What was asked for already.
    found: Mutex<HashMap<String, Found>>,
    entries: OnceLock<Vec<Entry>>,
}

/// What a server says of a file.
#[derive(Debug, Clone)]
struct Found {
    size_bytes: u64,
    serves_ranges: bool,
}

impl UrlPlace {
    /// The place of the file at `url`; `beside` are names that may lie there too. Beside a URL with a query nothing does:
    /// what is signed is signed for one file.
    ///
    /// # Errors
    /// `Usage`: the URL names a folder.
    pub fn new(
        client: Client,
        url: Url,
        beside: &'static [&'static str],
        policy: Policy,
    ) -> Result<UrlPlace> {
        let last = url.path_segments().and_then(|mut segments| segments.next_back()).unwrap_or_default();
        if check_relative(last).is_err() {
            return Err(Error::usage(format!("`{}` names no file", Shown(&shown(&url))))
                .hint("a folder on a web server cannot be listed: name a file, or the index of several"));
        }
        let name = last.to_owned();
        let beside = if url.query().is_some() { &[] } else { beside };
        Ok(UrlPlace { client, name, url, beside, policy, found: Mutex::default(), entries: OnceLock::new() })
    }

    /// The name of the file that the URL names.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where a file of the place is.
    fn url(&self, name: &str) -> Result<Url> {
        check_relative(name)?;
        let mut url = self.url.clone();
        if name != self.name {
            url.set_query(None);
            let mut segments =
                url.path_segments_mut().map_err(|()| Error::bad_input("the URL has no path"))?;
            segments.pop().extend(name.split('/').filter(|part| *part != "."));
        }
        Ok(url)
    }

    /// Asks for a file, as often as it is worth it.
    fn find(&self, name: &str) -> Result<Found> {
        let known = self.found.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let url = self.url(name)?;
        let stop: Stop<'_> = &stop::is_set;
        let mut patience = Patience::new(self.policy);
        let found = loop {
            match self.ask(&url, stop) {
                Ok(found) => break found,
                Err(e) => patience.wait(e.file(name), stop)?,
            }
        };
        self.found.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), found.clone());
        Ok(found)
    }

    fn ask(&self, url: &Url, stop: Stop<'_>) -> Result<Found> {
        let mut at = url.clone();
        for _ in 0..REDIRECTS_MAX {
            let answer = self.client.send(&Request { range: Some(0..1), ..Request::get(&at) }, stop)?;
            if !(300..400).contains(&answer.status()) {
                return understand(&answer);
            }
            let to = answer.header("location").and_then(|to| at.join(to).ok());
            let to = to.ok_or_else(|| Error::bad_input("the server redirects to no place"))?;
            if at.scheme() == "https" && to.scheme() != "https" {
                return Err(Error::bad_input("the server redirects to a place without encryption"));
            }
            at = to;
        }
        Err(Error::bad_input(format!("the server redirects more than {REDIRECTS_MAX} times")))
    }

    /// The whole of a small file.
    fn whole(&self, name: &str, size_bytes: u64) -> Result<Whole> {
        let from = self.remote(name, size_bytes)?;
        let mut bytes = vec![0; usize::try_from(size_bytes).unwrap_or(0)];
        // A read of all of it is one request, and the answer to it may be the whole file.
        let mut done = 0;
        let mut patience = Patience::new(self.policy);
        let stop: Stop<'_> = &stop::is_set;
        while done < bytes.len() {
            done = 0;
            use super::super::ranged::Ranged as _;
            let attempt = from.open(0..size_bytes, stop).and_then(|mut body| {
                while let Some(piece) = body.next(stop)? {
                    let Some(into) = bytes.get_mut(done..done + piece.len()) else { break };
                    into.copy_from_slice(&piece);
                    done += piece.len();
                }
                Ok(())
            });
            if let Err(e) = attempt {
                patience.wait(e.file(name), stop)?;
            }
        }
        Ok(Whole(bytes))
    }

    fn remote(&self, name: &str, size_bytes: u64) -> Result<Remote> {
        Ok(Remote::new(self.client.clone(), name, self.url(name)?, None, size_bytes))
    }
}

/// A URL as it may be shown: without what may be a signature or a password.
fn shown(url: &Url) -> String {
    format!("{}://{}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

/// What an answer to a request for the first byte says of the file.
fn understand(answer: &Response) -> Result<Found> {
    let host = answer.url().host_str().unwrap_or_default().to_owned();
    let host = Shown(&host);
    let refused = |kind, what: &str| Err(Error::new(kind, format!("`{host}` {what}")));
    let length = || answer.header("content-length").and_then(|n| n.parse::<u64>().ok());
    let total =
        || answer.header("content-range").and_then(|r| r.rsplit_once('/')).and_then(|(_, n)| n.parse().ok());
    let is_page =
        answer.header("content-type").is_some_and(|t| t.to_ascii_lowercase().starts_with("text/html"));
    match answer.status() {
        200 | 206 if is_page => {
            let error = Error::not_found(format!("`{host}` shows a web page in its place"));
            Err(error
                .hint("is it the address of the file itself? On the hub that is …/resolve/…, not …/blob/…"))
        }
        206 => match total() {
            Some(size_bytes) => Ok(Found { size_bytes, serves_ranges: true }),
            None => refused(ErrorKind::Unsupported, "does not say how large the file is"),
        },
        416 if total() == Some(0) => Ok(Found { size_bytes: 0, serves_ranges: true }),
        200 => match length() {
            Some(size_bytes) => Ok(Found { size_bytes, serves_ranges: false }),
            None => refused(
                ErrorKind::Unsupported,
                "serves no ranges of the file and does not say how large it is",
            ),
        },
        404 | 410 => refused(ErrorKind::NotFound, "has no such file"),
        401 | 403 => refused(ErrorKind::NotAllowed, "does not give this file to everybody"),
        status @ (429 | 503) => {
            let error = Error::new(ErrorKind::RateLimited, format!("`{host}` answered {status}"));
            let wait = answer.header("retry-after").and_then(|s| s.parse().ok()).map(Duration::from_secs);
            Err(match wait {
                Some(wait) => error.after(wait),
                None => error,
            })
        }
        status @ (408 | 500..) => Err(Error::new(ErrorKind::Io, format!("`{host}` answered {status}"))),
        status => Err(Error::bad_input(format!("`{host}` answered {status}"))),
    }
}

impl Place for UrlPlace {
    fn list(&self, under: &str) -> Result<Vec<Entry>> {
        if !under.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(entries) = self.entries.get() {
            return Ok(entries.clone());
        }
        let mut entries = Vec::new();
        let beside = self.beside.iter().copied().filter(|name| *name != self.name);
        for name in std::iter::once(self.name.as_str()).chain(beside) {
            match self.find(name) {
                Ok(Found { size_bytes, .. }) => {
                    entries.push(Entry { name: name.to_owned(), size_bytes, is_directory: false });
                }
                Err(e) if name == self.name => return Err(e),
                // Many servers answer 403 for what is not there.
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotAllowed) => {}
                Err(e) => return Err(e),
            }
        }
        entries.sort();
        Ok(self.entries.get_or_init(|| entries).clone())
    }

    fn open(&self, name: &str) -> Result<Arc<dyn ReadAt>> {
        let Found { size_bytes, serves_ranges } = self.find(name)?;
        if serves_ranges {
            return Ok(Arc::new(Ahead::new(Arc::new(self.remote(name, size_bytes)?), self.policy)));
        }
        if size_bytes > WHOLE_BYTES_MAX {
            return Err(Error::unsupported(format!(
                "the server sends files only whole, and this one has {} bytes",
                grouped(size_bytes)
            ))
            .file(name)
            .hint("`hoist fetch` brings it here, and the local file can be named"));
        }
        Ok(Arc::new(self.whole(name, size_bytes)?))
    }

    fn is_listed(&self) -> bool {
        false
    }
}

/// A small file that was read whole.
struct Whole(Vec<u8>);

impl std::fmt::Debug for Whole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl ReadAt for Whole {
    fn size_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<usize> {
        let from = usize::try_from(offset_bytes).ok().and_then(|at| self.0.get(at..)).unwrap_or_default();
        let count = from.len().min(buf.len());
        buf[..count].copy_from_slice(&from[..count]);
        Ok(count)
    }

    fn temper(&self) -> Temper {
        Temper { gap_bytes_max: 0, depth: 1, network: false }
    }

    fn as_local(&self) -> Option<&LocalFile> {
        None
    }
}
