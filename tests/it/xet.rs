//! Files that come by Xet. The store is made here, from the protocol's documents; tests/rig/xet.sh asks the hub's own.

use crate::http::{bytes, client, expect, impatient, never, read};
use crate::rig::server::repo::{COMMIT, Repo as Served};
use crate::rig::server::{Answer, Seen, Server};
use hoist::source::http::{Client, Secret};
use hoist::source::hub::api::{Hub, Settings};
use hoist::source::hub::cache::Repo;
use hoist::source::hub::endpoint::Endpoint;
use hoist::source::ranged::{Policy, Ranged};
use hoist::{ErrorKind, Result};
use lz4_flex::frame::FrameEncoder;
use serde_json::json;
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

const HASH: &str = "abababababababababababababababababababababababababababababababab";
const FILE: &str = "model.safetensors";

/// A xorb: its bytes, and where each of its chunks begins.
#[derive(Default)]
struct Xorb {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl Xorb {
    /// Adds a chunk, packed as `packing` says.
    fn push(&mut self, chunk: &[u8], packing: u8) {
        let lz4 = |bytes: &[u8]| {
            let mut encoder = FrameEncoder::new(Vec::new());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        let encoded = match packing {
            0 => chunk.to_vec(),
            1 => lz4(chunk),
            _ => {
                let of = |first| chunk.iter().copied().skip(first).step_by(4);
                lz4(&(0..4).flat_map(of).collect::<Vec<_>>())
            }
        };
        self.starts.push(self.bytes.len());
        let (e, d) = (encoded.len().to_le_bytes(), chunk.len().to_le_bytes());
        self.bytes.extend([0, e[0], e[1], e[2], packing, d[0], d[1], d[2]]);
        self.bytes.extend(encoded);
    }

    /// The bytes of a run of chunks.
    fn span(&self, chunks: &Range<usize>) -> Range<usize> {
        self.starts[chunks.start]..self.starts.get(chunks.end).copied().unwrap_or(self.bytes.len())
    }
}

/// A file in the store: its chunks in order, as xorb, chunk of it, and size.
struct Store {
    data: Vec<u8>,
    xorbs: [Xorb; 2],
    chunks: Vec<(usize, usize, usize)>,
}

impl Store {
    /// A file whose chunks lie in two xorbs, among others that are not of it, with a run that comes twice.
    fn new() -> Store {
        let pieces: Vec<Vec<u8>> = (0..14).map(|n| bytes(1000 + n * n * 613 + n)[n..].to_vec()).collect();
        let mut xorbs = [Xorb::default(), Xorb::default()];
        for (n, piece) in pieces.iter().enumerate() {
            xorbs[n % 2].push(piece, (n % 3) as u8);
        }
        // Runs of the first xorb with gaps and a return, so that one answer serves several terms and another is asked again.
        let order = [(0, 1), (0, 2), (0, 5), (0, 6), (1, 0), (1, 1), (1, 2), (0, 3), (0, 1), (0, 2), (1, 6)];
        let chunks: Vec<_> = order.iter().map(|&(x, c)| (x, c, pieces[2 * c + x].len())).collect();
        let data = order.iter().flat_map(|&(x, c)| pieces[2 * c + x].clone()).collect();
        Store { data, xorbs, chunks }
    }

    /// The answer about a range of the file; `base` is where xorbs are.
    fn plan(&self, range: Range<usize>, is_first: bool, base: &str) -> String {
        let (mut at, mut skip) = (0, None);
        let mut runs: Vec<(usize, Range<usize>, usize)> = Vec::new();
        for &(xorb, chunk, size) in &self.chunks {
            let here = at..at + size;
            at = here.end;
            if here.end <= range.start || here.start >= range.end {
                continue;
            }
            skip.get_or_insert(range.start.saturating_sub(here.start));
            match runs.last_mut() {
                Some((x, run, total)) if *x == xorb && run.end == chunk => {
                    run.end += 1;
                    *total += size;
                }
                _ => runs.push((xorb, chunk..chunk + 1, size)),
            }
        }
        let terms: Vec<_> = runs
            .iter()
            .map(|(x, run, size)| json!({"hash": x.to_string(), "unpacked_length": size, "range": run}))
            .collect();
        let mut places = json!({});
        for (x, xorb) in self.xorbs.iter().enumerate() {
            let own = || runs.iter().filter(|run| run.0 == x).map(|run| &run.1);
            let Some(first) = own().map(|run| run.start).min() else { continue };
            let chunks = first..own().map(|run| run.end).max().unwrap();
            let span = xorb.span(&chunks);
            let last = span.end - 1;
            let url = format!("{base}/xorb/{x}?signature=secret&range={}-{last}", span.start);
            let bytes = json!({"start": span.start, "end": last});
            places[x.to_string()] = match is_first {
                true => json!([{"range": chunks, "url": url, "url_range": bytes}]),
                false => json!([{"url": url, "ranges": [{"chunks": chunks, "bytes": bytes}]}]),
            };
        }
        let key = if is_first { "fetch_info" } else { "xorbs" };
        json!({"offset_into_first_range": skip, "terms": terms, key: places}).to_string()
    }

    fn answer(&self, seen: &Seen, base: &str) -> Option<Answer> {
        if let Some(x) = seen.path.strip_prefix("/xorb/") {
            // The range is signed: neither more nor less.
            let asked = seen.range.map(|(first, last)| format!("{first}-{}", last.unwrap_or(0)));
            let is_signed = seen.query == format!("signature=secret&range={}", asked.unwrap_or_default());
            let xorb = &self.xorbs[x.parse::<usize>().ok()?];
            return Some(if is_signed { Answer::file(&xorb.bytes) } else { Answer::status(403) });
        }
        let (version, hash) = seen.path.strip_prefix("/cas/")?.split_once("/reconstructions/")?;
        if seen.token.as_deref() != Some("hunter2-cas") || hash != HASH {
            return Some(Answer::status(401));
        }
        let (first, last) = seen.range?;
        let end = (last? as usize + 1).min(self.data.len());
        Some(Answer::json(self.plan(first as usize..end, version == "v1", base)))
    }
}

/// A hub whose plain route refuses the file, and the store behind it.
fn start() -> (Server, Vec<u8>) {
    let server = Server::start();
    let store = Store::new();
    let data = store.data.clone();
    let mut repo = Served::new("org/name").lfs(FILE, &data);
    repo.xet_hash = Some(HASH.to_owned());
    repo.token = Some("hunter2".to_owned());
    server.hub(repo).data(FILE, [Answer::status(400)]);
    let access =
        json!({"accessToken": "hunter2-cas", "exp": 4_000_000_000u64, "casUrl": server.url("/cas/")});
    server.on(&access_path(), [Answer::json(access.to_string())]);
    let elsewhere = server.elsewhere("");
    server.otherwise(move |seen| store.answer(seen, &elsewhere));
    (server, data)
}

fn access_path() -> String {
    format!("/api/models/org/name/xet-read-token/{COMMIT}")
}

fn plan_path(version: &str) -> String {
    format!("/cas/{version}/reconstructions/{HASH}")
}

fn open_by(client: Client, server: &Server) -> Arc<dyn Ranged> {
    let endpoint = Endpoint::parse(&server.url("")).unwrap();
    let ms = Duration::from_millis;
    let policy = Policy { failures_max: 2, pause: ms(5), pause_max: ms(5), granted_max: ms(5) };
    let token = Some(Secret::new("hunter2"));
    let hub = |client| {
        let (endpoint, token) = (endpoint.clone(), token.clone());
        Hub::new(client, Settings { endpoint, token, policy, may_use_xet: true })
    };
    let repo = Repo::parse(&format!("org/name@{COMMIT}")).unwrap();
    let file = hub(crate::http::client()).tree(&repo, COMMIT, &never).unwrap().files.remove(0);
    assert_eq!(file.xet_hash.as_deref(), Some(HASH));
    hub(client).file(&repo, COMMIT, &file)
}

fn open(server: &Server) -> Arc<dyn Ranged> {
    open_by(client(), server)
}

fn all(from: &dyn Ranged) -> Result<Vec<u8>> {
    read(from, 0..from.size_bytes())
}

#[test]
fn ranges_come_by_xet() {
    for is_old in [false, true] {
        let (server, data) = start();
        if is_old {
            server.on(&plan_path("v2"), [Answer::status(404)]);
        }
        let file = open(&server);
        assert!(all(&*file).unwrap() == data);
        let size = data.len();
        for (start, end) in
            [(0, 1), (size - 1, size), (1, 999), (900, 60_000), (33_333, 33_334), (5, size - 5)]
        {
            assert!(read(&*file, start as u64..end as u64).unwrap() == data[start..end], "{start}..{end}");
        }
        // What HTTP refused is not asked of it again, the token once, and the older question is remembered.
        assert_eq!((server.count("/data/"), server.count(&access_path())), (1, 1));
        assert_eq!(server.count(&plan_path("v2")), if is_old { 1 } else { 7 });
        server.assert_token_stayed_home();
        let log = server.log();
        let to_store = |seen: &&Seen| seen.path.starts_with("/cas/");
        assert!(log.iter().filter(to_store).all(|s| s.token.as_deref() == Some("hunter2-cas")));
        assert!(log.iter().all(|s| s.method == "GET" && s.headers["accept-encoding"] == "identity"));
        assert!(!format!("{file:?}").contains("hunter2"));
    }
}

#[test]
fn plain_http_goes_first() {
    for (status, kind) in [(200, None), (403, Some(ErrorKind::NotAllowed)), (500, Some(ErrorKind::Io))] {
        let (server, data) = start();
        let answer = if status == 200 { Answer::file(&data) } else { Answer::status(status) };
        let digest = crate::rig::server::repo::hex(&<sha2::Sha256 as sha2::Digest>::digest(&data));
        server.on(&format!("/data/{digest}"), [answer]);
        let got = all(&*open(&server));
        assert_eq!(got.as_ref().err().map(|e| e.kind()), kind, "{status}");
        assert!(got.is_err() || got.unwrap() == data);
        assert_eq!((server.count("/cas/"), server.count(&access_path())), (0, 0), "{status}");
    }
}

#[test]
fn xet_fails_and_http_is_asked_again() {
    let (server, data) = start();
    let digest = crate::rig::server::repo::hex(&<sha2::Sha256 as sha2::Digest>::digest(&data));
    server.on(&format!("/data/{digest}"), [Answer::status(400), Answer::file(&data)]);
    server.on("/xorb/0", [Answer::status(503)]);
    let file = open(&server);
    let error = all(&*file).unwrap_err();
    expect(&error, ErrorKind::Io, &["answered 503", "by Xet"], "the store is in trouble");
    assert!(all(&*file).unwrap() == data);
    assert_eq!(server.count("/xorb/"), 1);
}

#[test]
fn a_token_that_ends_is_asked_anew() {
    let (server, data) = start();
    server.on(&plan_path("v2"), [Answer::status(401), Answer::usual()]);
    assert!(all(&*open(&server)).unwrap() == data);
    // The same token came again; it is tried once more all the same, and no oftener.
    assert_eq!(server.count(&access_path()), 2);
}

#[test]
fn a_store_goes_wrong() {
    use ErrorKind::{BadInput, Integrity, Io, NotAllowed, NotFound, RateLimited};
    let (v2, access) = (plan_path("v2"), access_path());
    let json = |text: &str| Answer::json(text);
    let unknown = r#"{"offset_into_first_range":0,"terms":[],"xorbs":{}}"#;
    #[rustfmt::skip]
    let rows: Vec<(&str, &str, Answer, ErrorKind, Vec<&str>)> = vec![
        ("no access", &access, Answer::status(404), NotFound, vec![]),
        ("access is a page", &access, Answer::html(), BadInput, vec!["not what a hub says"]),
        ("access is endless", &access, json("{}").endless(), BadInput, vec!["more than"]),
        ("access is silent", &access, Answer::usual().silent(), Io, vec!["did not answer"]),
        ("token refused", &v2, Answer::status(403), NotAllowed, vec!["answered 403", "clock"]),
        ("no such file", &v2, Answer::status(410), NotFound, vec!["answered 410", HASH]),
        ("shorter", &v2, Answer::status(416), Integrity, vec!["shorter"]),
        ("limited", &v2, Answer::status(429), RateLimited, vec!["limits"]),
        ("in trouble", &v2, Answer::status(503), Io, vec!["in trouble"]),
        ("refused", &v2, Answer::status(400), BadInput, vec!["answered 400"]),
        ("elsewhere", &v2, Answer::redirect(302, "file:///etc/passwd"), BadInput, vec!["scheme"]),
        ("a page", &v2, Answer::html(), BadInput, vec!["no list of terms"]),
        ("endless", &v2, json(unknown).endless(), BadInput, vec!["more than"]),
        ("no terms", &v2, json(unknown), BadInput, vec!["no term"]),
        ("silent", &v2, Answer::usual().silent(), Io, vec!["did not answer"]),
        ("stalls", &v2, Answer::usual().stalls_after(5), Io, vec!["sent nothing"]),
        ("drips", &v2, Answer::usual().drips(1, Duration::from_millis(50)), Io, vec!["sent only"]),
        ("signed URL refused", "/xorb/0", Answer::status(403), Io, vec!["answered 403", "signed address"]),
        ("xorb in trouble", "/xorb/0", Answer::status(500), Io, vec!["in trouble"]),
        ("xorb cut", "/xorb/0", Answer::usual().cut_after(700), Io, vec!["broke"]),
        ("xorb reset", "/xorb/0", Answer::usual().reset_after(700), Io, vec![]),
        ("xorb stalls", "/xorb/0", Answer::usual().stalls_after(700), Io, vec!["sent nothing"]),
        ("xorb of zeros", "/xorb/0", Answer::file([0; 1 << 20]), Integrity, vec!["0 bytes"]),
        ("xorb whole", "/xorb/0", Answer::file([0; 100]).without_ranges(), Io, vec!["other bytes"]),
        ("xorb endless", "/xorb/0", Answer::usual().endless(), Io, vec![]),
        ("xorb is a page", "/xorb/0", Answer::html(), Io, vec!["other bytes"]),
        ("xorb's head flipped", "/xorb/0", Answer::usual().flips(Store::new().xorbs[0].starts[1] as u64), Integrity, vec!["version"]),
        ("xorb's size flipped", "/xorb/0", Answer::usual().flips(Store::new().xorbs[0].starts[1] as u64 + 5), Integrity, vec![]),
    ];
    for (case, path, answer, kind, words) in rows {
        let (server, _) = start();
        server.on(path, [answer]);
        let start = Instant::now();
        let by = if kind == Io { Client::with(&impatient()).unwrap() } else { client() };
        let got = all(&*open_by(by, &server));
        assert!(start.elapsed() < Duration::from_secs(5), "{case}: {:?}", start.elapsed());
        match got {
            Err(error) => {
                expect(&error, kind, &words, case);
                assert!(error.to_string().starts_with("org/name"), "{case}: {error}");
                assert!(case.contains("access") || error.to_string().contains("by Xet"), "{case}: {error}");
            }
            // More bytes than were asked for are not read.
            Ok(_) => assert_eq!(case, "xorb endless"),
        }
        server.assert_token_stayed_home();
    }
}

#[test]
fn a_wait_can_be_stopped() {
    for path in [access_path(), plan_path("v2"), "/xorb/1".to_owned()] {
        let (server, _) = start();
        server.on(&path, [Answer::usual().silent()]);
        let file = open(&server);
        let start = Instant::now();
        let stop = || start.elapsed() > Duration::from_millis(300);
        let mut end = file.open(0..file.size_bytes(), &stop);
        while let Ok(body) = &mut end {
            match body.next(&stop) {
                Ok(piece) => assert!(piece.is_some()),
                Err(error) => end = Err(error),
            }
        }
        assert_eq!(end.err().unwrap().kind(), ErrorKind::Signal(2), "{path}");
        assert!(start.elapsed() < Duration::from_secs(1), "{path}: {:?}", start.elapsed());
    }
}
