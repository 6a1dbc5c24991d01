//! A web server that goes wrong on purpose: HTTP/1.1 over plain threads, a script for each path, a log of what was asked.
//! [`repo`] makes it a hub.
//!
//! ```ignore
//! let server = Server::start();
//! server.on("/a", [Answer::status(503), Answer::file(bytes)]); // the first request, and all later ones
//! server.on("/b", [Answer::file(bytes).stalls_after(10)]);
//! let url = server.url("/a");                                   // http://127.0.0.1:PORT/a
//! assert_eq!(server.count("/a"), 2);                            // what was asked, see `Seen`
//!
//! let repo = Repo::new("org/name").file("config.json", "{}").lfs("model.safetensors", bytes);
//! let repo = server.hub(repo);                                  // revision, tree, resolve, signed URLs
//! repo.data("model.safetensors", [Answer::status(500), Answer::usual()]);
//! let endpoint = repo.endpoint();                               // for HF_ENDPOINT
//! ```
//!
//! - Answers are made of a usual one and what is wrong with it; faults combine. The n-th request of a path gets the n-th
//!   answer, the last one stays. [`Answer::usual`] stands for what the path would have answered without a script.
//! - [`Server::elsewhere`] is the same server under another name (`localhost`), which is another host to a client.
//! - Everything ends when the server is dropped, stalls included.

pub mod repo;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// One request, as it was seen.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    /// The name by which the client called the server, with the port.
    pub host: String,
    /// Without what follows a `?`.
    pub path: String,
    /// What follows the `?`.
    pub query: String,
    /// The range asked for: first byte, and last where one was named.
    pub range: Option<(u64, Option<u64>)>,
    /// The token that came with it.
    pub token: Option<String>,
    /// All headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Which connection it came over, from zero.
    pub connection: usize,
    /// How many requests this path had before it.
    pub index: usize,
    pub when: Instant,
}

/// What is answered: a body, and what is wrong with it.
#[derive(Clone)]
pub struct Answer {
    status: Option<u16>,
    body: Option<Arc<[u8]>>,
    /// Set after the usual ones; `None` leaves a usual one out.
    headers: Vec<(String, Option<String>)>,
    ranges: bool,
    reset_after: Option<usize>,
    cut_after: Option<usize>,
    stall_after: Option<usize>,
    flips: Vec<u64>,
    chunked: bool,
    drip: Option<(usize, Duration)>,
    head_delay: Duration,
    endless_body: bool,
    endless_head: bool,
    silent: bool,
    raw: Option<Arc<[u8]>>,
}

impl Answer {
    /// What the path answers without a script; faults may be added.
    pub fn usual() -> Answer {
        Answer {
            status: None,
            body: None,
            headers: Vec::new(),
            ranges: true,
            reset_after: None,
            cut_after: None,
            stall_after: None,
            flips: Vec::new(),
            chunked: false,
            drip: None,
            head_delay: Duration::ZERO,
            endless_body: false,
            endless_head: false,
            silent: false,
            raw: None,
        }
    }

    /// A file: 206 with the range that is asked for, else 200.
    pub fn file(bytes: impl AsRef<[u8]>) -> Answer {
        Answer { body: Some(bytes.as_ref().into()), ..Answer::usual() }
    }

    /// A status, and a body that says it.
    pub fn status(status: u16) -> Answer {
        Answer { status: Some(status), ranges: false, ..Answer::file(format!("status {status}\n")) }
    }

    /// A redirect.
    pub fn redirect(status: u16, to: impl Into<String>) -> Answer {
        Answer::status(status).header("Location", to)
    }

    /// An HTML page with status 200, as a proxy's login page is.
    pub fn html() -> Answer {
        let page = "<!doctype html><html><body>Please sign in</body></html>\n";
        Answer::file(page).header("Content-Type", "text/html; charset=utf-8").without_ranges()
    }

    /// A Git LFS pointer in place of a file of this digest and size.
    pub fn pointer(sha256: &str, size_bytes: u64) -> Answer {
        Answer::file(format!(
            "version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size_bytes}\n"
        ))
    }

    /// JSON.
    pub fn json(text: impl AsRef<[u8]>) -> Answer {
        Answer::file(text).without_ranges().header("Content-Type", "application/json")
    }

    /// These bytes in place of a whole answer, head included; then the connection is closed.
    pub fn raw(bytes: impl AsRef<[u8]>) -> Answer {
        Answer { raw: Some(bytes.as_ref().into()), ..Answer::usual() }
    }

    /// With a header, in place of a usual one of that name.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Answer {
        self.headers.push((name.to_owned(), Some(value.into())));
        self
    }

    /// Without a usual header.
    pub fn without(mut self, name: &str) -> Answer {
        self.headers.push((name.to_owned(), None));
        self
    }

    /// Another status, the rest as it is.
    pub fn but_status(mut self, status: u16) -> Answer {
        self.status = Some(status);
        self
    }

    /// Ignores `Range`.
    pub fn without_ranges(mut self) -> Answer {
        self.ranges = false;
        self
    }

    /// The byte at this offset of the file is wrong.
    pub fn flips(mut self, offset_bytes: u64) -> Answer {
        self.flips.push(offset_bytes);
        self
    }

    /// The connection is closed after so many bytes of the body, which promised more.
    pub fn cut_after(mut self, bytes: usize) -> Answer {
        self.cut_after = Some(bytes);
        self
    }

    /// The connection is reset after so many bytes of the body; after 0, before the head.
    pub fn reset_after(mut self, bytes: usize) -> Answer {
        self.reset_after = Some(bytes);
        self
    }

    /// Nothing comes any more after so many bytes of the body, and the connection stays.
    pub fn stalls_after(mut self, bytes: usize) -> Answer {
        self.stall_after = Some(bytes);
        self
    }

    /// The connection is taken and nothing is ever said.
    pub fn silent(mut self) -> Answer {
        self.silent = true;
        self
    }

    /// The body comes in pieces of `bytes`, with a pause before each.
    pub fn drips(mut self, bytes: usize, pause: Duration) -> Answer {
        self.drip = Some((bytes.max(1), pause));
        self
    }

    /// The head comes only after a while.
    pub fn after(mut self, delay: Duration) -> Answer {
        self.head_delay = delay;
        self
    }

    /// A body without a length, in chunks.
    pub fn chunked(mut self) -> Answer {
        self.chunked = true;
        self
    }

    /// A body that never ends (in chunks; what it was, then spaces).
    pub fn endless(mut self) -> Answer {
        self.chunked = true;
        self.endless_body = true;
        self
    }

    /// A head that never ends.
    pub fn endless_head(mut self) -> Answer {
        self.endless_head = true;
        self
    }

    /// This answer, with body and status of `usual` where it has none of its own.
    fn over(mut self, usual: Answer) -> Answer {
        if self.body.is_none() && self.raw.is_none() {
            self.body = usual.body;
            self.ranges &= usual.ranges;
            self.status = self.status.or(usual.status);
            let own = std::mem::take(&mut self.headers);
            self.headers = usual.headers.into_iter().chain(own).collect();
        }
        self
    }
}

type Usual = Box<dyn Fn(&Seen) -> Option<Answer> + Send + Sync>;

/// What all connections share.
#[derive(Default)]
struct Shared {
    scripts: Mutex<BTreeMap<String, Vec<Answer>>>,
    usual: Mutex<Vec<Usual>>,
    log: Mutex<Vec<Seen>>,
    counts: Mutex<BTreeMap<String, usize>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    open_max: AtomicUsize,
    sent_bytes: AtomicUsize,
    over: AtomicBool,
}

/// The server, on a free port of this machine.
pub struct Server {
    shared: Arc<Shared>,
    port: u16,
}

impl Server {
    /// Starts one.
    pub fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if of_thread.over.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let shared = of_thread.clone();
                let connection = shared.connections.fetch_add(1, Ordering::Relaxed);
                std::thread::spawn(move || {
                    let open = shared.open.fetch_add(1, Ordering::Relaxed) + 1;
                    shared.open_max.fetch_max(open, Ordering::Relaxed);
                    let _ = serve(stream, &shared, connection);
                    shared.open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Server { shared, port }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A URL of this server.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The same under another name: another host, to a client.
    pub fn elsewhere(&self, path: &str) -> String {
        format!("http://localhost:{}{path}", self.port)
    }

    /// What this path (without query) answers from now on: its next request the first, the last one for ever.
    pub fn on(&self, path: &str, answers: impl IntoIterator<Item = Answer>) {
        let answers: Vec<_> = answers.into_iter().collect();
        assert!(!answers.is_empty());
        self.shared.counts.lock().unwrap().remove(path);
        self.shared.scripts.lock().unwrap().insert(path.to_owned(), answers);
    }

    /// Answers paths that have no script; the youngest that gives an answer counts. Without any: 404.
    pub fn otherwise(&self, usual: impl Fn(&Seen) -> Option<Answer> + Send + Sync + 'static) {
        self.shared.usual.lock().unwrap().push(Box::new(usual));
    }

    /// Everything that was asked, in order.
    pub fn log(&self) -> Vec<Seen> {
        self.shared.log.lock().unwrap().clone()
    }

    /// Forgets what was asked.
    pub fn forget(&self) {
        self.shared.log.lock().unwrap().clear();
        self.shared.counts.lock().unwrap().clear();
        self.shared.sent_bytes.store(0, Ordering::Relaxed);
    }

    /// Requests whose path begins so.
    pub fn count(&self, path: &str) -> usize {
        self.log().iter().filter(|seen| seen.path.starts_with(path)).count()
    }

    /// Bytes of bodies that were sent, or were about to be.
    pub fn sent_bytes(&self) -> usize {
        self.shared.sent_bytes.load(Ordering::Relaxed)
    }

    /// The most connections that were open at once, those included that nothing was asked over.
    pub fn connections_max(&self) -> usize {
        self.shared.open_max.load(Ordering::Relaxed)
    }

    /// Fails where a token went to the other name.
    pub fn assert_token_stayed_home(&self) {
        for seen in self.log() {
            assert!(seen.host.starts_with("127.0.0.1") || seen.token.is_none(), "leaked: {seen:?}");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        // Wakes the thread that waits for connections.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Why a connection ends.
struct Closed;

impl From<std::io::Error> for Closed {
    fn from(_: std::io::Error) -> Closed {
        Closed
    }
}

/// Answers what comes over one connection.
fn serve(mut stream: TcpStream, shared: &Shared, connection: usize) -> Result<(), Closed> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_millis(20)))?;
    stream.set_write_timeout(Some(Duration::from_secs(20)))?;
    loop {
        let seen = request(&mut stream, shared, connection)?;
        let answer = answer_to(shared, &seen);
        let keep = answer.send(&mut stream, &seen, shared)?;
        if !keep {
            return Ok(());
        }
        // Only now the head's last byte: closing a connection with bytes unread resets it.
        stream.read_exact(&mut [0])?;
        if seen.headers.get("connection").is_some_and(|c| c.eq_ignore_ascii_case("close")) {
            return Ok(());
        }
    }
}

/// Reads a head but for its last byte.
fn request(stream: &mut TcpStream, shared: &Shared, connection: usize) -> Result<Seen, Closed> {
    let mut buffer = vec![0; 64 << 10];
    let size = loop {
        if shared.over.load(Ordering::Relaxed) {
            return Err(Closed);
        }
        match stream.peek(&mut buffer) {
            Ok(0) => return Err(Closed),
            Ok(n) => match buffer[..n].windows(4).position(|w| w == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => std::thread::sleep(Duration::from_millis(1)),
            },
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => return Err(Closed),
        }
    };
    let mut head = vec![0; size - 1];
    stream.read_exact(&mut head)?;
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut lines = text.lines();
    let mut first = lines.next().unwrap_or_default().split(' ');
    let method = first.next().unwrap_or_default().to_owned();
    let target = first.next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let range = headers.get("range").and_then(|r| r.strip_prefix("bytes=")).and_then(|r| {
        let (start, end) = r.split_once('-')?;
        Some((start.parse().ok()?, end.parse().ok()))
    });
    let index = {
        let mut counts = shared.counts.lock().unwrap();
        let count = counts.entry(path.to_owned()).or_default();
        *count += 1;
        *count - 1
    };
    let seen = Seen {
        method,
        host: headers.get("host").cloned().unwrap_or_default(),
        path: path.to_owned(),
        query: query.to_owned(),
        range,
        token: headers.get("authorization").map(|a| a.trim_start_matches("Bearer ").to_owned()),
        headers,
        connection,
        index,
        when: Instant::now(),
    };
    shared.log.lock().unwrap().push(seen.clone());
    Ok(seen)
}

fn answer_to(shared: &Shared, seen: &Seen) -> Answer {
    let scripted = {
        let scripts = shared.scripts.lock().unwrap();
        scripts.get(&seen.path).map(|answers| answers[seen.index.min(answers.len() - 1)].clone())
    };
    let usual = || {
        let usual = shared.usual.lock().unwrap();
        usual.iter().rev().find_map(|u| u(seen)).unwrap_or_else(|| Answer::status(404))
    };
    match scripted {
        Some(answer) if answer.body.is_none() && answer.raw.is_none() => answer.over(usual()),
        Some(answer) => answer,
        None => usual(),
    }
}

impl Answer {
    /// Sends it; whether the connection may go on.
    fn send(&self, stream: &mut TcpStream, seen: &Seen, shared: &Shared) -> Result<bool, Closed> {
        if self.silent {
            return stall(stream, shared);
        }
        pause(self.head_delay, shared)?;
        if let Some(raw) = &self.raw {
            stream.read_exact(&mut [0])?;
            stream.write_all(raw)?;
            return Ok(false);
        }
        if self.reset_after == Some(0) {
            return Ok(false);
        }
        let whole = self.body.as_deref().unwrap_or_default();
        let total = whole.len() as u64;
        let asked = seen.range.filter(|_| self.ranges && self.status.is_none());
        let range = asked.map(|(first, last)| first..last.map_or(total, |l| l.saturating_add(1).min(total)));
        let (status, range) = match range {
            Some(range) if range.start >= total || range.is_empty() => (416, 0..0),
            Some(range) => (206, range),
            None => (self.status.unwrap_or(200), 0..total),
        };
        let mut body = whole[range.start as usize..range.end as usize].to_vec();
        for flip in &self.flips {
            if range.contains(flip) {
                body[(flip - range.start) as usize] ^= 0x20;
            }
        }
        let head = self.head(status, &range, total, body.len());
        stream.write_all(head.as_bytes())?;
        if self.endless_head {
            let more = "X-More: more and more and more and more and more\r\n".repeat(64);
            loop {
                stream.write_all(more.as_bytes())?;
                pause(Duration::from_micros(200), shared)?;
            }
        }
        stream.write_all(b"\r\n")?;
        if seen.method == "HEAD" {
            return Ok(true);
        }
        let end = [self.cut_after, self.stall_after, self.reset_after].into_iter().flatten().min();
        let end = end.unwrap_or(usize::MAX).min(body.len());
        let (piece_bytes, wait) = self.drip.unwrap_or((256 << 10, Duration::ZERO));
        for piece in body[..end].chunks(piece_bytes) {
            pause(wait, shared)?;
            self.write(stream, piece, shared)?;
        }
        if self.stall_after.is_some() {
            return stall(stream, shared);
        }
        if end < body.len() || self.cut_after.is_some() || self.reset_after.is_some() {
            if self.reset_after.is_none() {
                // All of the request is read, so that closing ends the connection and does not reset it.
                stream.read_exact(&mut [0])?;
            }
            return Ok(false);
        }
        if self.endless_body {
            let spaces = [b' '; 16 << 10];
            let (bytes, wait) = self.drip.unwrap_or((spaces.len(), Duration::ZERO));
            loop {
                pause(wait, shared)?;
                self.write(stream, &spaces[..bytes.min(spaces.len())], shared)?;
            }
        }
        if self.chunked {
            stream.write_all(b"0\r\n\r\n")?;
        }
        Ok(true)
    }

    fn write(&self, stream: &mut TcpStream, piece: &[u8], shared: &Shared) -> Result<(), Closed> {
        if shared.over.load(Ordering::Relaxed) {
            return Err(Closed);
        }
        // Before: who reads them may look at once.
        shared.sent_bytes.fetch_add(piece.len(), Ordering::Relaxed);
        if self.chunked {
            write!(stream, "{:x}\r\n", piece.len())?;
        }
        stream.write_all(piece)?;
        if self.chunked {
            stream.write_all(b"\r\n")?;
        }
        Ok(())
    }

    /// The head but for the empty line.
    fn head(&self, status: u16, range: &std::ops::Range<u64>, total: u64, body_bytes: usize) -> String {
        let mut headers: Vec<(String, String)> =
            vec![("Content-Type".into(), "application/octet-stream".into())];
        match self.chunked {
            true => headers.push(("Transfer-Encoding".into(), "chunked".into())),
            false => headers.push(("Content-Length".into(), body_bytes.to_string())),
        }
        if self.ranges {
            headers.push(("Accept-Ranges".into(), "bytes".into()));
        }
        match status {
            206 => {
                let text = format!("bytes {}-{}/{total}", range.start, range.end - 1);
                headers.push(("Content-Range".into(), text));
            }
            416 => headers.push(("Content-Range".into(), format!("bytes */{total}"))),
            _ => {}
        }
        for (name, value) in &self.headers {
            headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
            if let Some(value) = value {
                headers.push((name.clone(), value.clone()));
            }
        }
        let mut text = format!("HTTP/1.1 {status} Whatever\r\n");
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        text
    }
}

/// Waits, no longer than the server lives.
fn pause(time: Duration, shared: &Shared) -> Result<(), Closed> {
    let end = Instant::now() + time;
    loop {
        if shared.over.load(Ordering::Relaxed) {
            return Err(Closed);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(10)));
    }
}

/// Says nothing until the client or the server goes away.
fn stall(stream: &mut TcpStream, shared: &Shared) -> Result<bool, Closed> {
    let _ = stream.read_exact(&mut [0]);
    loop {
        pause(Duration::from_millis(5), shared)?;
        match stream.peek(&mut [0]) {
            Ok(0) => return Err(Closed),
            Err(e) if !matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                return Err(Closed);
            }
            _ => {}
        }
    }
}
