//! HTTP: one client and one runtime for everything that crosses a network by it. The only place that names reqwest.
//!
//! Callers are ordinary threads: a request blocks the thread that makes it, with a deadline for each thing it waits for, and
//! looks at a [`Stop`] several times a second. HTTP/1.1 only: many ranges at a time are many connections, which one
//! multiplexed connection does not replace. Redirects are not followed here: whoever asks decides where a token may go
//! ([`redirect::follow`]). Nothing that is shown holds a URL: signed ones are secrets, and any may be signed.

pub mod part;
pub mod place;
pub mod redirect;
pub mod remote;
pub mod settings;
pub mod status;

use super::ranged::{Stop, stopped};
use crate::error::{Error, ErrorKind, Result};
use crate::text::Shown;
use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use settings::Settings;
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use reqwest::{Method, Url};
pub use settings::Timeouts;

/// How often a waiting thread looks whether it shall stop.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long a connection that nobody uses is kept. Servers close theirs after a minute or so, and a request that meets the
/// closing costs an attempt.
const IDLE: Duration = Duration::from_secs(20);

/// Headers in an answer. Their bytes are bounded by hyper's read buffer, some 400 KiB.
const HEADERS_MAX: usize = 128;

/// What to do about a server that is there and does not do its part.
const NOT_DEAD: &str = "try again in a while; HF_ENDPOINT names a mirror of the hub";

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

/// A client: cheap to copy, one pool of connections, for any number of threads.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    timeouts: Timeouts,
    has_proxy: bool,
    handle: tokio::runtime::Handle,
    /// There until the client ends.
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Not waited for: a name that is being looked up has no deadline of its own.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("http client")
    }
}

/// What is asked.
#[derive(Clone)]
pub struct Request<'a> {
    /// `GET`, `HEAD`.
    pub method: Method,
    /// Where.
    pub url: &'a Url,
    /// Which bytes, not none; all where there is no range.
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

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:?}", self.method, host(self.url), self.range)
    }
}

/// The head of an answer, whatever its status, and its body to come.
pub struct Response {
    inner: reqwest::Response,
    client: Client,
    waited: Duration,
    arrived_bytes: u64,
}

impl Client {
    /// A client with these deadlines, and with the proxies and roots of trust that the environment names.
    ///
    /// # Errors
    /// As [`Settings::from_environment`] and [`Client::with`].
    pub fn new(timeouts: Timeouts) -> Result<Client> {
        let settings = Settings::from_environment(|name| std::env::var_os(name))?;
        Client::with(&Settings { timeouts, ..settings })
    }

    /// A client with these settings.
    ///
    /// # Errors
    /// `BadInput`: a certificate or a proxy that cannot be used. `Io`: no runtime can be started.
    pub fn with(settings: &Settings) -> Result<Client> {
        // They decrypt and copy; two keep up with tens of gigabits.
        let workers = std::thread::available_parallelism().map_or(2, |n| n.get() / 4).clamp(2, 8);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers)
            .thread_name("http")
            .enable_all()
            .build()
            .map_err(|e| Error::io("no network runtime can be started", e))?;
        let plain = || {
            reqwest::Client::builder()
                .user_agent(concat!("hoist/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(settings.timeouts.connect)
                .pool_idle_timeout(IDLE)
                .http1_only()
                .http1_max_headers(HEADERS_MAX)
                .referer(false)
                // Whatever another crate has reqwest compiled with: bytes arrive as they were sent.
                .no_gzip()
                .no_brotli()
                .no_zstd()
                .no_deflate()
        };
        let http = settings.build(plain)?;
        let handle = runtime.handle().clone();
        let timeouts = settings.timeouts.clone();
        let has_proxy = settings.proxies.any();
        Ok(Client(Arc::new(Inner { http, timeouts, has_proxy, handle, runtime: Some(runtime) })))
    }

    /// Waits for a future on this thread. `None`: it took longer than `limit`.
    fn wait<T>(&self, work: impl Future<Output = T>, limit: Duration, stop: Stop<'_>) -> Result<Option<T>> {
        let start = Instant::now();
        self.0.handle.block_on(async {
            let mut work = pin!(work);
            loop {
                if stop() {
                    return Err(stopped());
                }
                let left = limit.saturating_sub(start.elapsed());
                if let Ok(done) = tokio::time::timeout(left.min(LOOK_EVERY), &mut work).await {
                    return Ok(Some(done));
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
    /// `Io`: no connection, or no answer in time. `NotAllowed`: a certificate that is not trusted, a proxy that wants a
    /// password. `Signal`: stopped.
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
            let last = range.end.saturating_sub(1);
            building = building.header("range", format!("bytes={}-{last}", range.start));
        }
        if let Some(token) = request.token {
            building = building.bearer_auth(token.reveal());
        }
        let host = host(request.url);
        match self.wait(building.send(), timeouts.connect.saturating_add(timeouts.answer), stop)? {
            Some(Ok(inner)) => {
                Ok(Response { inner, client: self.clone(), waited: Duration::ZERO, arrived_bytes: 0 })
            }
            Some(Err(e)) => Err(unreachable(&host, &e, self.0.has_proxy)),
            None => {
                let seconds = settings::seconds(timeouts.answer);
                Err(Error::new(ErrorKind::Io, format!("`{host}` did not answer within {seconds}"))
                    .hint("HF_HUB_ETAG_TIMEOUT sets for how many seconds is waited"))
            }
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

    /// The host that it came from, for messages.
    pub fn host(&self) -> String {
        host(self.inner.url())
    }

    /// A header that is text; the first of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        // Not only ASCII: some servers send places of redirects as UTF-8.
        std::str::from_utf8(self.inner.headers().get(name)?.as_bytes()).ok().map(str::trim)
    }

    /// The size of the body, where the head tells it.
    pub fn content_length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    /// The next piece of the body, never empty; `None` at its end.
    ///
    /// # Errors
    /// `Io`: the connection broke, stalled or dripped. `Signal`: stopped.
    pub fn next(&mut self, stop: Stop<'_>) -> Result<Option<Bytes>> {
        let client = self.client.clone();
        let Timeouts { piece: limit, rate, .. } = &client.0.timeouts;
        loop {
            let start = Instant::now();
            let got = client.wait(self.inner.chunk(), *limit, stop)?;
            // Only what was spent here: a slow reader does not make a slow server.
            self.waited += start.elapsed();
            match got {
                Some(Ok(Some(piece))) if piece.is_empty() => {}
                Some(Ok(Some(piece))) => {
                    self.arrived_bytes += piece.len() as u64;
                    if self.waited >= rate.over {
                        if self.arrived_bytes < rate.bytes {
                            let (bytes, over) = (self.arrived_bytes, settings::seconds(self.waited));
                            let message = format!("`{}` sent only {bytes} bytes in {over}", self.host());
                            return Err(Error::new(ErrorKind::Io, message).hint(NOT_DEAD));
                        }
                        self.waited = Duration::ZERO;
                        self.arrived_bytes = 0;
                    }
                    return Ok(Some(piece));
                }
                Some(Ok(None)) => return Ok(None),
                Some(Err(e)) => {
                    let causes = causes(&e).join(": ");
                    let message = format!("the connection to `{}` broke: {causes}", self.host());
                    return Err(Error::new(ErrorKind::Io, message).hint(NOT_DEAD));
                }
                None => {
                    let seconds = settings::seconds(*limit);
                    let message = format!("`{}` sent nothing for {seconds}", self.host());
                    return Err(Error::new(ErrorKind::Io, message)
                        .hint("HF_HUB_DOWNLOAD_TIMEOUT sets for how many seconds is waited"));
                }
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
            if piece.len() > most_bytes.saturating_sub(body.len()) {
                let most = crate::text::grouped(most_bytes as u64);
                let message = format!("`{}` answered with more than {most} bytes", self.host());
                return Err(Error::bad_input(message));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// The first bytes of the body, no more than `most_bytes` and what came with them; empty where it breaks.
    pub fn start(mut self, most_bytes: usize, stop: Stop<'_>) -> Vec<u8> {
        let mut body = Vec::new();
        while body.len() < most_bytes
            && let Ok(Some(piece)) = self.next(stop)
        {
            body.extend_from_slice(&piece);
        }
        body
    }
}

/// A URL's host and port, for messages. Foreign hosts are plain ASCII: the URL's parser sees to it.
pub fn host(url: &Url) -> String {
    let name = Shown(url.host_str().unwrap_or_default()).to_string();
    match url.port() {
        Some(port) => format!("{name}:{port}"),
        None => name,
    }
}

/// The error for a request that got no answer.
fn unreachable(host: &str, error: &reqwest::Error, has_proxy: bool) -> Error {
    let causes = causes(error);
    let text = causes.join(": ");
    if error.is_connect() && causes.iter().any(|c| c.contains("certificate")) {
        return Error::new(ErrorKind::NotAllowed, format!("`{host}` is not trusted: {text}"))
            .hint("SSL_CERT_FILE names a file of root certificates, as a company's proxy needs one");
    }
    if text.contains("proxy auth") {
        return Error::new(ErrorKind::NotAllowed, format!("the proxy before `{host}` wants a password"))
            .hint("HTTPS_PROXY=http://user:password@host:port gives one");
    }
    if error.is_timeout() {
        return Error::new(ErrorKind::Io, format!("`{host}` took no connection in time"))
            .hint("HF_HUB_ETAG_TIMEOUT sets for how many seconds is waited");
    }
    if error.is_connect() && has_proxy {
        // Nothing in the error tells the two apart.
        let message = format!("`{host}`, or the proxy before it, cannot be reached: {text}");
        return Error::new(ErrorKind::Io, message)
            .hint("HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names a proxy; NO_PROXY names hosts that need none");
    }
    if error.is_connect() {
        return Error::new(ErrorKind::Io, format!("`{host}` cannot be reached: {text}")).hint(
            "check the network and the name; HTTPS_PROXY names a proxy, HF_ENDPOINT a mirror of the hub",
        );
    }
    Error::new(ErrorKind::Io, format!("`{host}` gave no answer: {text}")).hint(NOT_DEAD)
}

/// What caused an error, without its own text, which holds the URL.
fn causes(error: &reqwest::Error) -> Vec<String> {
    let mut texts = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        texts.push(error.to_string());
        cause = error.source();
    }
    texts.dedup();
    // hyper's own layer names only the stage.
    texts.retain(|text| !text.starts_with("client error ("));
    if texts.is_empty() {
        texts.push("the request failed".to_owned());
    }
    texts
}
