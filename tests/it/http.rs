//! The HTTP client against a server that goes wrong: each fault ends in time, with the right kind, saying what to do.

use crate::rig::server::repo::hex;
use crate::rig::server::{Answer, Server};
use hoist::source::http::remote::Remote;
use hoist::source::http::settings::{Proxies, Rate, Settings};
use hoist::source::http::{Client, Request, Timeouts, Url};
use hoist::source::ranged::Ranged;
use hoist::{Error, ErrorKind, Result};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Deadlines of a fraction of a second, for those that shall be missed.
pub fn impatient() -> Settings {
    let timeouts = Timeouts {
        connect: Duration::from_millis(300),
        answer: Duration::from_millis(300),
        piece: Duration::from_millis(300),
        rate: Rate { bytes: 1000, over: Duration::from_millis(500) },
    };
    Settings { timeouts, ..Settings::default() }
}

/// Deadlines that a busy machine does not miss.
pub fn patient() -> Settings {
    let ten = Duration::from_secs(10);
    let rate = Rate { bytes: 1, over: ten };
    Settings { timeouts: Timeouts { connect: ten, answer: ten, piece: ten, rate }, ..Settings::default() }
}

pub fn client() -> Client {
    Client::with(&patient()).unwrap()
}

pub fn never() -> bool {
    false
}

pub fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

/// Bytes that differ everywhere.
pub fn bytes(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 7 + i / 251) as u8).collect()
}

/// All pieces of a range, in one attempt.
pub fn read(from: &dyn Ranged, range: Range<u64>) -> Result<Vec<u8>> {
    let mut body = from.open(range, &never)?;
    let mut all = Vec::new();
    while let Some(piece) = body.next(&never)? {
        assert!(!piece.is_empty());
        all.extend_from_slice(&piece);
    }
    assert!(body.next(&never)?.is_none());
    Ok(all)
}

/// The kind and the message hold what they shall.
pub fn expect(error: &Error, kind: ErrorKind, words: &[&str], case: &str) {
    assert_eq!(error.kind(), kind, "{case}: {error}");
    for word in words {
        assert!(error.to_string().contains(word), "{case}: `{word}` is not in: {error}");
    }
    let all = format!("{error} {error:?}");
    assert!(!all.contains("secret") && !all.contains("hunter2"), "{case}: {all}");
}

const SIZE: usize = 100_000;

#[test]
fn ranges_arrive() {
    let server = Server::start();
    let data = bytes(SIZE);
    let rows = [
        ("ranges", Answer::file(&data)),
        ("no ranges", Answer::file(&data).without_ranges()),
        ("chunks", Answer::file(&data).chunked()),
        ("chunks without ranges", Answer::file(&data).chunked().without_ranges()),
        ("drops", Answer::file(&data).drips(9_999, Duration::from_millis(1))),
        ("any total", Answer::file(&data).header("Content-Encoding", "identity")),
    ];
    for (case, answer) in rows {
        server.on("/f", [answer]);
        let remote = Remote::new(client(), case, url(&server.url("/f")), None, SIZE as u64);
        for range in [0..SIZE, 0..1, 5..6, SIZE - 1..SIZE, 1000..50_000] {
            let got = read(&remote, range.start as u64..range.end as u64).unwrap();
            assert!(got == data[range.clone()], "{case} {range:?}");
        }
    }
}

#[test]
fn each_fault_ends_with_its_kind() {
    use ErrorKind::{BadInput, Integrity, Io, NotAllowed, NotFound, RateLimited, Unsupported};
    let server = Server::start();
    let data = bytes(SIZE);
    let file = || Answer::file(&data);
    let digest = hex(&Sha256::digest(&data));
    let whole = 0..SIZE as u64;
    let part = 1000..2000;
    let refused = |status: u16| Answer::status(status);
    type Row<'a> = (&'a str, Answer, Range<u64>, ErrorKind, &'a [&'a str]);
    #[rustfmt::skip]
    let rows: Vec<Row<'_>> = vec![
        ("truncated", file().cut_after(500), part.clone(), Io, &["broke"]),
        ("chunks end early", file().chunked().cut_after(500), part.clone(), Io, &[]),
        ("reset at once", file().reset_after(0), part.clone(), Io, &["127.0.0.1"]),
        ("reset midway", file().reset_after(500), whole.clone(), Io, &["broke"]),
        ("silent", file().silent(), part.clone(), Io, &["did not answer"]),
        ("stalls", file().stalls_after(500), part.clone(), Io, &["sent nothing for 0.3 s"]),
        ("drips", file().drips(1, Duration::from_millis(20)), whole.clone(), Io, &["sent only"]),
        ("endless head", file().endless_head(), part.clone(), Io, &["too large"]),
        ("endless body", file().without_ranges().endless(), whole.clone(), Integrity, &["more bytes"]),
        ("other range", file().header("Content-Range", "bytes 1001-2000/100000"), part.clone(), Io, &["1,001 to 2,000", "1,000 to 1,999"]),
        ("longer range", file().header("Content-Range", "bytes 1000-2000/100000"), part.clone(), Io, &[]),
        ("other length", file().header("Content-Range", "bytes 1000-1998/100000"), part.clone(), Io, &[]),
        ("backward range", file().header("Content-Range", "bytes 1999-1000/100000"), part.clone(), Io, &["206"]),
        ("huge range", file().header("Content-Range", "bytes 1000-18446744073709551615/*"), part.clone(), Io, &["206"]),
        ("no range", file().without("Content-Range"), part.clone(), Io, &["206"]),
        ("strange range", file().header("Content-Range", "lines 1000-1999/100000"), part.clone(), Io, &["206"]),
        ("other total", file().header("Content-Range", "bytes 1000-1999/100001"), part.clone(), Integrity, &["100,001", "100,000 were expected"]),
        ("shorter file", Answer::file(&data[..50_000]), part.clone(), Integrity, &["50,000 bytes"]),
        ("shorter than the range", Answer::file(&data[..1500]), 1500..2000, Integrity, &["1,500 bytes"]),
        ("shorter file, whole", Answer::file(&data[..50_000]).without_ranges(), whole.clone(), Integrity, &["50,000 bytes"]),
        ("compressed", file().header("Content-Encoding", "gzip"), part.clone(), Unsupported, &["`gzip`"]),
        ("page", Answer::html(), part.clone(), Integrity, &["HTML page"]),
        ("page without length", Answer::html().chunked(), whole.clone(), Integrity, &["HTML page"]),
        ("pointer", Answer::pointer(&digest, SIZE as u64), 0..1000, Integrity, &["Git LFS pointer", "another"]),
        ("pointer, later range", Answer::pointer(&digest, SIZE as u64), part.clone(), Integrity, &["Git LFS pointer"]),
        ("pointer, whole", Answer::pointer(&digest, SIZE as u64).without_ranges(), whole.clone(), Integrity, &["Git LFS pointer"]),
        ("nothing", Answer::file(""), part.clone(), Integrity, &["0 bytes"]),
        ("500", refused(500), part.clone(), Io, &["500"]),
        ("503", refused(503), part.clone(), Io, &["503"]),
        ("408", refused(408), part.clone(), Io, &["408"]),
        ("429", refused(429), part.clone(), RateLimited, &["try again later"]),
        ("401", refused(401), part.clone(), NotAllowed, &["401"]),
        ("403", refused(403), part.clone(), NotAllowed, &["signature"]),
        ("404", refused(404), part.clone(), NotFound, &["404"]),
        ("410", refused(410), part.clone(), NotFound, &["410"]),
        ("418", refused(418), part.clone(), BadInput, &["418"]),
        ("203", file().but_status(203), part.clone(), BadInput, &["203"]),
        ("304", refused(304), part.clone(), BadInput, &["304"]),
        ("204", refused(204).without("Content-Length"), part.clone(), BadInput, &["204"]),
        ("circle", Answer::redirect(302, "/f"), part.clone(), BadInput, &["circle"]),
        ("no place", refused(302), part.clone(), BadInput, &["no place"]),
        ("bad place", Answer::redirect(302, "http://[bad"), part.clone(), BadInput, &["no place"]),
        ("scheme", Answer::redirect(307, "ftp://x/secret"), part.clone(), BadInput, &["scheme `ftp`"]),
        ("file scheme", Answer::redirect(307, "file:///etc/passwd"), part.clone(), BadInput, &["scheme `file`"]),
        ("password", Answer::redirect(301, "http://a:hunter2@localhost/"), part.clone(), BadInput, &["password"]),
        ("not HTTP", Answer::raw("SSH-2.0-OpenSSH_9.2\r\n"), part.clone(), Io, &["gave no answer"]),
        ("cut head", Answer::raw("HTTP/1.1 200 OK\r\nContent-Le"), part.clone(), Io, &["gave no answer"]),
        ("two lengths", Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345"), part.clone(), Io, &[]),
    ];
    for (case, answer, range, kind, words) in rows {
        server.on("/f", [answer]);
        let is_slow = ["silent", "stalls", "drips"].contains(&case);
        let client = if is_slow { Client::with(&impatient()).unwrap() } else { client() };
        let remote = Remote::new(client, "org/name/w.bin", url(&server.url("/f")), None, SIZE as u64);
        let start = Instant::now();
        let error = read(&remote, range).expect_err(case);
        assert!(start.elapsed() < Duration::from_secs(5), "{case}: {:?}", start.elapsed());
        expect(&error, kind, words, case);
        assert_eq!(error.file_name(), Some("org/name/w.bin"), "{case}");
    }
}

#[test]
fn a_server_that_ignores_ranges_says_so_far_in() {
    let server = Server::start();
    let data = bytes(6 << 20);
    server.on("/f", [Answer::file(&data).without_ranges()]);
    let remote = Remote::new(client(), "w", url(&server.url("/f")), None, data.len() as u64);
    assert!(read(&remote, 4 << 20..(4 << 20) + 9).unwrap() == data[4 << 20..(4 << 20) + 9]);
    let error = read(&remote, 5 << 20..6 << 20).unwrap_err();
    expect(&error, ErrorKind::Unsupported, &["ignores ranges", "whole file"], "far in");
}

#[test]
fn waits_that_are_asked_for_are_on_the_error() {
    let server = Server::start();
    type Row = (u16, &'static [(&'static str, &'static str)], ErrorKind, Option<u64>);
    let rows: &[Row] = &[
        (429, &[("RateLimit", "\"resolvers\";r=0;t=55")], ErrorKind::RateLimited, Some(56)),
        (429, &[("Retry-After", "7")], ErrorKind::RateLimited, Some(7)),
        (
            429,
            &[("Retry-After", "Sun, 06 Nov 1994 08:50:37 GMT"), ("Date", "Sun, 06 Nov 1994 08:49:37 GMT")],
            ErrorKind::RateLimited,
            Some(60),
        ),
        (429, &[("RateLimit", "\"resolvers\";r=9;t=55")], ErrorKind::RateLimited, None),
        (503, &[("RateLimit", "\"resolvers\";r=0;t=1")], ErrorKind::RateLimited, Some(2)),
        (503, &[("Retry-After", "3")], ErrorKind::Io, Some(3)),
        (500, &[], ErrorKind::Io, None),
    ];
    for (status, headers, kind, wait) in rows {
        let answer = headers.iter().fold(Answer::status(*status), |a, (name, value)| a.header(name, *value));
        server.on("/f", [answer]);
        let error = read(&Remote::new(client(), "w", url(&server.url("/f")), None, 10), 0..10).unwrap_err();
        expect(&error, *kind, &[&status.to_string()], &format!("{status} {headers:?}"));
        assert_eq!(error.retry_after().map(|w| w.as_secs()), *wait, "{headers:?}");
    }
}

#[test]
fn redirects_keep_the_range_and_leave_the_token_at_home() {
    let server = Server::start();
    let data = bytes(1000);
    let token = || Some(hoist::source::http::Secret::new("hunter2"));
    server.on("/data", [Answer::file(&data)]);
    for status in [301, 302, 303, 307, 308] {
        server.on("/f", [Answer::redirect(status, "/g")]);
        server.on("/g", [Answer::redirect(status, server.elsewhere("/data?signature=secret"))]);
        server.forget();
        let remote = Remote::new(client(), "w", url(&server.url("/f")), token(), 1000);
        assert!(read(&remote, 10..20).unwrap() == data[10..20], "{status}");
        assert!(read(&remote, 30..40).unwrap() == data[30..40], "{status}");
        assert!(!format!("{remote:?}").contains("secret"));
        let log = server.log();
        let paths: Vec<_> = log.iter().map(|seen| seen.path.as_str()).collect();
        assert_eq!(paths, ["/f", "/g", "/data", "/data"], "{status}: the place is remembered");
        assert!(log.iter().all(|seen| seen.range.is_some()));
        assert!(log.iter().all(|seen| seen.headers["accept-encoding"] == "identity"));
        assert!(log.iter().all(|seen| seen.headers["user-agent"].starts_with("hoist/")));
        assert_eq!(log[0].token.as_deref(), Some("hunter2"));
        assert_eq!(log[1].token.as_deref(), Some("hunter2"));
        server.assert_token_stayed_home();
    }
    // Back home from elsewhere, the token goes along again; to another port of the same name it does not.
    let other = Server::start();
    other.on("/f", [Answer::file(&data)]);
    server.on("/f", [Answer::redirect(302, other.url("/f"))]);
    let remote = Remote::new(client(), "w", url(&server.url("/f")), token(), 1000);
    assert!(read(&remote, 0..10).is_ok());
    assert!(other.log().iter().all(|seen| seen.token.is_none()));
}

#[test]
fn redirects_end() {
    let server = Server::start();
    for hops in [10, 11] {
        for hop in 0..hops {
            server.on(&format!("/{hop}"), [Answer::redirect(302, format!("/{}", hop + 1))]);
        }
        server.on(&format!("/{hops}"), [Answer::file("0123456789")]);
        server.forget();
        let got = read(&Remote::new(client(), "w", url(&server.url("/0")), None, 10), 0..10);
        assert_eq!(got.is_ok(), hops == 10, "{hops} hops");
        if let Err(error) = got {
            expect(&error, ErrorKind::BadInput, &["more than 10 times"], "hops");
            assert_eq!(server.log().len(), 11);
        }
    }
}

#[test]
fn an_expired_place_is_asked_for_once_more() {
    let server = Server::start();
    let data = bytes(1000);
    for status in [400, 401, 403, 404, 410] {
        server.on("/f", [Answer::redirect(302, "/data?1"), Answer::redirect(302, "/data?2")]);
        let (good, bad) = (Answer::file(&data), Answer::status(status));
        server.on("/data", [good.clone(), good.clone(), bad, good]);
        server.forget();
        let remote = Remote::new(client(), "w", url(&server.url("/f")), None, 1000);
        for _ in 0..3 {
            assert!(read(&remote, 0..1000).unwrap() == data, "{status}");
        }
        assert_eq!((server.count("/f"), server.count("/data")), (2, 4), "{status}");
    }
    // Where the fresh one is refused too, that is an error, and not a circle.
    server.on("/f", [Answer::redirect(302, server.elsewhere("/data?3"))]);
    server.on("/data", [Answer::file(&data), Answer::status(403)]);
    server.forget();
    let remote = Remote::new(client(), "w", url(&server.url("/f")), None, 1000);
    assert!(read(&remote, 0..1000).is_ok());
    let error = read(&remote, 0..1000).unwrap_err();
    expect(&error, ErrorKind::NotAllowed, &["403", "clock"], "still refused");
    assert_eq!((server.count("/f"), server.count("/data")), (2, 3));
}

#[test]
fn many_readers_ask_the_home_once() {
    let server = Server::start();
    let data = bytes(160_000);
    server.on("/f", [Answer::redirect(302, "/data").after(Duration::from_millis(50))]);
    server.on("/data", [Answer::file(&data)]);
    let remote = Remote::new(client(), "w", url(&server.url("/f")), None, 160_000);
    std::thread::scope(|scope| {
        for reader in 0..16u64 {
            let (remote, data) = (&remote, &data);
            scope.spawn(move || {
                for round in 0..10 {
                    let start = (reader * 10 + round) * 1000;
                    assert!(read(remote, start..start + 1000).unwrap() == data[start as usize..][..1000]);
                }
            });
        }
    });
    assert_eq!((server.count("/f"), server.count("/data")), (1, 160));
    // A connection is made while another one falls free: some more than readers, and by far fewer than requests.
    let connections: BTreeSet<_> = server.log().iter().map(|seen| seen.connection).collect();
    assert!(connections.len() <= 80, "{} connections", connections.len());
    assert!(server.connections_max() <= 80, "{} connections", server.connections_max());
    let redirect = "status 302\n".len();
    assert_eq!(server.sent_bytes(), 160_000 + redirect);
}

#[test]
fn who_waits_ends_when_told() {
    let server = Server::start();
    server.on("/head", [Answer::file("x").silent()]);
    server.on("/body", [Answer::file([7; 1000]).stalls_after(10)]);
    server.on("/drip", [Answer::file([7; 1000]).drips(1, Duration::from_millis(10))]);
    let hour = Duration::from_secs(3600);
    let rate = Rate { bytes: 0, over: hour };
    let timeouts = Timeouts { connect: hour, answer: hour, piece: hour, rate };
    let client = Client::with(&Settings { timeouts, ..Settings::default() }).unwrap();
    for path in ["/head", "/body", "/drip"] {
        let told = AtomicBool::new(false);
        let stop = || told.load(Ordering::Relaxed);
        let remote = Remote::new(client.clone(), "w", url(&server.url(path)), None, 1000);
        std::thread::scope(|scope| {
            // A second reader waits for what the first one learns.
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let mut body = remote.open(0..1000, &stop)?;
                        while body.next(&stop)?.is_some() {}
                        Ok::<_, Error>(Instant::now())
                    })
                })
                .collect();
            std::thread::sleep(Duration::from_millis(120));
            told.store(true, Ordering::Relaxed);
            let start = Instant::now();
            for reader in readers {
                let error = reader.join().unwrap().unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Signal(2), "{path}: {error}");
            }
            // A fifth of a second, and what a busy machine adds.
            assert!(start.elapsed() < Duration::from_millis(400), "{path}: {:?}", start.elapsed());
        });
    }
}

#[test]
fn a_handshake_has_a_deadline_and_an_end() {
    // A server that waits for a request while the client waits for its certificate.
    let server = Server::start();
    let there = url(&server.url("/f").replace("http://", "https://"));
    let start = Instant::now();
    let error = Client::with(&impatient()).unwrap().send(&Request::get(&there), &never).err().unwrap();
    expect(&error, ErrorKind::Io, &["no connection in time"], "handshake");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let client = client();
    let start = Instant::now();
    let stop = || start.elapsed() > Duration::from_millis(100);
    let error = client.send(&Request::get(&there), &stop).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Signal(2));
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
}

#[test]
fn a_dead_place_is_left() {
    let server = Server::start();
    let dead = Server::start();
    let gone = dead.url("/data");
    drop(dead);
    for broken in [Answer::usual().reset_after(0), Answer::status(503)] {
        server.on("/f", [Answer::redirect(302, "/data"), Answer::redirect(302, "/\u{f6}ther")]);
        server.on("/data", [Answer::file([7; 10]), broken]);
        server.on("/%C3%B6ther", [Answer::file([7; 10])]);
        let remote = Remote::new(client(), "w", url(&server.url("/f")), None, 10);
        assert!(read(&remote, 0..10).is_ok());
        assert_eq!(read(&remote, 0..10).unwrap_err().kind(), ErrorKind::Io);
        assert!(read(&remote, 0..10).is_ok());
    }
    assert_eq!(server.count("/%C3%B6ther"), 2);
    let error = read(&Remote::new(client(), "w", url(&gone), None, 10), 0..10).unwrap_err();
    expect(&error, ErrorKind::Io, &["cannot be reached", "refused"], "nobody listens");
}

#[test]
fn a_file_on_the_web_is_measured_and_watched() {
    let server = Server::start();
    let data = bytes(5000);
    let file = || Answer::file(&data);
    let rows = [
        ("etag", file().header("ETag", "\"1\""), file().header("ETag", "\"2\""), true),
        ("etag stays", file().header("ETag", "\"1\""), file().header("ETag", "\"1\""), false),
        ("weak", file().header("ETag", "W/\"1\""), file().header("ETag", "W/\"2\""), false),
        ("date", file().header("Last-Modified", "a"), file().header("Last-Modified", "b"), true),
        (
            "etag before date",
            file().header("ETag", "\"1\"").header("Last-Modified", "a"),
            file().header("ETag", "\"1\"").header("Last-Modified", "b"),
            false,
        ),
        ("nothing said", file(), file(), false),
        ("size", file(), Answer::file(bytes(5001)), true),
        ("ranges are ignored", file().without_ranges(), file().without_ranges(), false),
    ];
    for (case, before, after, changes) in rows {
        server.on("/f.bin", [before, after]);
        let remote = Remote::web(client(), url(&server.url("/f.bin?signature=secret")), &never).unwrap();
        assert_eq!(remote.size_bytes(), 5000, "{case}");
        assert!(
            remote.name().ends_with("/f.bin") && remote.name().starts_with("http://127"),
            "{}",
            remote.name()
        );
        match read(&remote, 0..5000) {
            Ok(got) => assert!(got == data && !changes, "{case}"),
            Err(error) => {
                assert!(changes, "{case}: {error}");
                expect(&error, ErrorKind::Integrity, &["begin again"], case);
            }
        }
    }
    server.on("/empty", [Answer::file("")]);
    assert_eq!(Remote::web(client(), url(&server.url("/empty")), &never).unwrap().size_bytes(), 0);
    let rows = [
        ("/none", Answer::status(404), ErrorKind::NotFound, "404"),
        ("/secret", Answer::status(403), ErrorKind::NotAllowed, "signature"),
        ("/a/b/blob/main/w", Answer::html(), ErrorKind::Integrity, "/resolve/"),
        ("/page", Answer::html(), ErrorKind::Integrity, "browser"),
        ("/endless", Answer::file(&data).without_ranges().chunked(), ErrorKind::Unsupported, "size"),
        ("/later", Answer::status(503), ErrorKind::Io, "503"),
    ];
    for (path, answer, kind, word) in rows {
        server.on(path, [answer]);
        let error = Remote::web(client(), url(&server.url(path)), &never).unwrap_err();
        assert_eq!(error.kind(), kind, "{path}: {error}");
        assert!(error.to_string().contains(word), "{path}: {error}");
    }
}

#[test]
fn a_user_in_the_address_is_sent_and_not_shown() {
    let server = Server::start();
    server.on("/f", [Answer::redirect(302, server.elsewhere("/g"))]);
    server.on("/g", [Answer::file("0123")]);
    let address = server.url("/f").replace("http://", "http://user:hunter2@");
    let remote = Remote::web(client(), url(&address), &never).unwrap();
    assert!(read(&remote, 0..4).is_ok());
    assert!(!format!("{remote:?} {}", remote.name()).contains("hunter2"));
    assert!(server.log()[0].token.as_ref().is_some_and(|t| t.starts_with("Basic ")));
    server.assert_token_stayed_home();
}

#[test]
fn proxies_are_used() {
    let proxy = Server::start();
    proxy.on("http://weights.example/f", [Answer::file("0123")]);
    let settings = |environment: &[(&str, String)]| {
        let get = |name: &str| environment.iter().find(|(k, _)| *k == name).map(|(_, v)| v.into());
        Settings { timeouts: patient().timeouts, ..Settings::from_environment(get).unwrap() }
    };
    let through = settings(&[("http_proxy", proxy.url(""))]);
    let client = Client::with(&through).unwrap();
    let there = url("http://weights.example/f");
    let answer = client.send(&Request::get(&there), &never).unwrap();
    assert_eq!((answer.status(), proxy.log().len()), (200, 1));
    // Unless they are not.
    for direct in [
        settings(&[("http_proxy", proxy.url("")), ("NO_PROXY", "weights.example".into())]),
        Settings { proxies: Proxies::default(), ..patient() },
    ] {
        let answer = Client::with(&direct).unwrap().send(&Request::get(&there), &never);
        assert!(answer.is_err() && proxy.log().len() == 1);
    }
    // A proxy that refuses to connect.
    proxy.on("weights.example:443", [Answer::status(407)]);
    let through = Client::with(&settings(&[("HTTPS_PROXY", proxy.url(""))])).unwrap();
    let error = through.send(&Request::get(&url("https://weights.example/f")), &never).err().unwrap();
    expect(&error, ErrorKind::NotAllowed, &["proxy", "password"], "407");
}

/// A small generator: the same bytes each time.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

#[test]
fn any_answer_ends() {
    // Answers that are nearly right: bytes changed, lines doubled, left out, cut off. Whatever comes of it, what is
    // accepted is as long as what was asked for, and it ends.
    let server = Server::start();
    let data = bytes(600);
    let good = concat!(
        "HTTP/1.1 206 Partial Content\r\nContent-Type: text/plain\r\nContent-Range: bytes 100-199/600\r\n",
        "Content-Length: 100\r\nETag: \"a\"\r\nLocation: /g\r\nRetry-After: 1\r\nX-Repo-Commit: 0123\r\n\r\n"
    );
    let client = client();
    let mut seed = 7;
    let mut accepted = 0;
    for round in 0..300 {
        let mut answer = good.as_bytes().to_vec();
        answer.extend_from_slice(&data[100..200]);
        for _ in 0..=random(&mut seed) % 4 {
            let at = random(&mut seed) as usize % answer.len();
            match random(&mut seed) % 6 {
                0 => answer[at] = random(&mut seed) as u8,
                1 => answer[at] = b"0123456789-/:*,\r\n"[random(&mut seed) as usize % 17],
                2 => answer.truncate(at.max(1)),
                3 => {
                    answer.remove(at);
                }
                4 => {
                    let end = answer.len().min(at + random(&mut seed) as usize % 60);
                    let part = answer[at..end].to_vec();
                    answer.splice(at..at, part);
                }
                _ => {
                    let status =
                        [200, 204, 206, 301, 304, 308, 416, 429, 500][random(&mut seed) as usize % 9];
                    let end = answer.len().min(12);
                    answer.splice(..end, format!("HTTP/1.1 {status}").bytes());
                }
            }
        }
        server.on("/f", [Answer::raw(&answer)]);
        server.on("/g", [Answer::file(&data)]);
        let remote = Remote::new(client.clone(), "w", url(&server.url("/f")), None, 600);
        let start = Instant::now();
        let got = read(&remote, 100..200);
        let case = format!("round {round}: {:?}", String::from_utf8_lossy(&answer));
        assert!(start.elapsed() < Duration::from_secs(5), "{case}");
        match got {
            Ok(got) => {
                assert_eq!(got.len(), 100, "{case}");
                accepted += 1;
            }
            Err(error) => assert!(error.kind() != ErrorKind::Signal(2), "{case}"),
        }
    }
    assert!((20..280).contains(&accepted), "{accepted} of 300 were accepted");
}

#[test]
fn one_client_serves_many_threads() {
    let server = Server::start();
    for index in 0..24 {
        server
            .on(&format!("/{index}"), [Answer::file(bytes(10_000 + index)).after(Duration::from_millis(20))]);
    }
    let client = client();
    std::thread::scope(|scope| {
        for index in 0..24 {
            let (client, server) = (client.clone(), &server);
            scope.spawn(move || {
                let there = url(&server.url(&format!("/{index}")));
                let answer = client.send(&Request::get(&there), &never).unwrap();
                assert!(answer.small(20_000, &never).unwrap() == bytes(10_000 + index));
                let answer = client.send(&Request::get(&there), &never).unwrap();
                let error = answer.small(9_999, &never).unwrap_err();
                expect(&error, ErrorKind::BadInput, &["more than 9,999 bytes"], "small");
            });
        }
    });
}
