//! HTTP: one client and one runtime for everything that crosses a network by it. The only place that names reqwest.
//!
//! Callers are ordinary threads: a request blocks the thread that makes it, with a deadline for each thing it waits for, and
//! looks at a [`Stop`] several times a second. HTTP/1.1 only: many ranges at a time are many connections, which one
//! multiplexed connection does not replace. Redirects are not followed here: whoever asks decides where a token may go
//! ([`remote::Remote`]).

pub mod place;
pub mod remote;

use super::ranged::{Stop, stopped};
use crate::error::{Error, ErrorKind, Result};
use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use reqwest::{Method, Url};

/// How often a waiting thread looks whether it shall stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long is waited for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection.
    pub connect: Duration,
    /// For the head of an answer.
    pub answer: Duration,
    /// For the next piece of a body.
    pub piece: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        let ten = Duration::from_secs(10);
        Timeouts { connect: ten, answer: Duration::from_secs(30), piece: ten }
    }
}

/// What is not to be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps a secret.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// A client: cheap to copy, one pool of connections.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    timeouts: Timeouts,
    // Behind the client: connections end before what they run on.
    runtime: tokio::runtime::Runtime,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("http client")
    }
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// `GET`, `HEAD`.
    pub method: Method,
    /// Where.
    pub url: &'a Url,
    /// Which bytes; all where there is none.
    pub range: Option<Range<u64>>,
    /// Other headers.
    pub headers: &'a [(&'a str, &'a str)],
    /// The token, for the host that it is meant for.
    pub token: Option<&'a Secret>,
}

impl<'a> Request<'a> {
    /// A plain GET.
    pub fn get(url: &'a Url) -> Request<'a> {
        Request { method: Method::GET, url, range: None, headers: &[], token: None }
    }
}

/// The head of an answer, whatever its status, and its body to come.
pub struct Response {
    client: Client,
    inner: reqwest::Response,
}

impl Client {
    /// A client with these deadlines. Proxies and further roots of trust are those of the environment (`HTTPS_PROXY`,
    /// `NO_PROXY`, `SSL_CERT_FILE`, …).
    ///
    /// # Errors
    /// `BadInput`: a certificate or a proxy that cannot be read. `Io`: no runtime can be started.
    pub fn new(timeouts: Timeouts) -> Result<Client> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("http")
            .enable_all()
            .build()
            .map_err(|e| Error::io("no network runtime can be started", e))?;
        let http = reqwest::Client::builder()
            .user_agent(concat!("hoist/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(timeouts.connect)
            .http1_only()
            .build()
            .map_err(|e| Error::bad_input(format!("no HTTP client can be made: {}", causes(&e))))?;
        Ok(Client(Arc::new(Inner { http, timeouts, runtime })))
    }

    /// Waits for a future on this thread.
    fn wait<T>(&self, work: impl Future<Output = T>, limit: Duration, stop: Stop<'_>) -> Result<Option<T>> {
        let end = Instant::now() + limit;
        self.0.runtime.block_on(async {
            let mut work = pin!(work);
            loop {
                let left = end.saturating_duration_since(Instant::now());
                if let Ok(done) = tokio::time::timeout(left.min(LOOK_EVERY), &mut work).await {
                    return Ok(Some(done));
                }
                if stop() {
                    return Err(stopped());
                }
                if left.is_zero() {
                    return Ok(None);
                }
            }
        })
    }

    /// Asks once. Any status is an answer; redirects are not followed.
    ///
    /// # Errors
    /// `Io`: no connection, or no answer in time. `Signal`: stopped.
    pub fn send(&self, request: &Request<'_>, stop: Stop<'_>) -> Result<Response> {
        let Inner { http, timeouts, .. } = &*self.0;
        let mut headers = HeaderMap::new();
        // The bytes as they are: a range of a compressed body is of no use.
        headers.insert("accept-encoding", HeaderValue::from_static("identity"));
        for (name, value) in request.headers {
            let pair = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value));
            let (Ok(name), Ok(value)) = pair else {
                return Err(Error::bug(format!("the header `{name}` cannot be sent")));
            };
            headers.insert(name, value);
        }
        let mut building = http.request(request.method.clone(), request.url.clone()).headers(headers);
        if let Some(range) = &request.range {
            building = building.header("range", format!("bytes={}-{}", range.start, range.end - 1));
        }
        if let Some(token) = request.token {
            building = building.bearer_auth(token.reveal());
        }
        let host = request.url.host_str().unwrap_or_default();
        match self.wait(building.send(), timeouts.connect + timeouts.answer, stop)? {
            Some(Ok(inner)) => Ok(Response { client: self.clone(), inner }),
            Some(Err(e)) => {
                Err(Error::new(ErrorKind::Io, format!("`{host}` cannot be reached: {}", causes(&e))))
            }
            None => Err(Error::new(
                ErrorKind::Io,
                format!("`{host}` did not answer within {} s", timeouts.answer.as_secs()),
            )),
        }
    }
}

impl Response {
    /// The status.
    pub fn status(&self) -> u16 {
        self.inner.status().as_u16()
    }

    /// Where it came from.
    pub fn url(&self) -> &Url {
        self.inner.url()
    }

    /// A header that is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.inner.headers().get(name)?.to_str().ok()
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// `Io`: the connection broke or stalled. `Signal`: stopped.
    pub fn next(&mut self, stop: Stop<'_>) -> Result<Option<Bytes>> {
        let client = self.client.clone();
        let limit = client.0.timeouts.piece;
        match client.wait(self.inner.chunk(), limit, stop)? {
            Some(Ok(piece)) => Ok(piece),
            Some(Err(e)) => Err(Error::new(ErrorKind::Io, format!("the connection broke: {}", causes(&e)))),
            None => {
                Err(Error::new(ErrorKind::Io, format!("the server sent nothing for {} s", limit.as_secs())))
            }
        }
    }

    /// A whole body of no more than `most_bytes`.
    ///
    /// # Errors
    /// As [`Response::next`]. `BadInput`: it is longer.
    pub fn small(mut self, most_bytes: usize, stop: Stop<'_>) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(piece) = self.next(stop)? {
            if body.len() + piece.len() > most_bytes {
                return Err(Error::bad_input(format!("the answer is longer than {most_bytes} bytes")));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }
}

/// An error and what caused it, without URLs: signed ones are secrets.
fn causes(error: &reqwest::Error) -> String {
    let mut text = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push(error.to_string());
        cause = error.source();
    }
    text.dedup();
    if text.is_empty() { "the request failed".to_owned() } else { text.join(": ") }
}
