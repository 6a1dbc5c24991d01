//! Reading by offset from far away: web servers and object stores that behave, and that do not.

use crate::rig::server::{Answer, Server};
use hoist::ErrorKind;
use hoist::source::http::place::UrlPlace;
use hoist::source::http::{Client, Timeouts, Url};
use hoist::source::object::{Bucket, ObjectPlace, Settings};
use hoist::source::ranged::Policy;
use hoist::source::{Place, ReadAt, read_pieces, stop};
use std::io::IoSliceMut;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const MOMENT: Duration = Duration::from_millis(400);

fn policy() -> Policy {
    let pause = Duration::from_millis(5);
    Policy { failures_max: 4, pause, pause_max: pause, granted_max: Duration::from_secs(2) }
}

fn client() -> Client {
    Client::new(Timeouts { connect: MOMENT, answer: MOMENT, piece: MOMENT, ..Timeouts::default() }).unwrap()
}

fn web(url: &str, beside: &'static [&'static str]) -> hoist::Result<UrlPlace> {
    UrlPlace::new(client(), Url::parse(url).unwrap(), beside, policy())
}

fn open_web(url: &str) -> hoist::Result<Arc<dyn ReadAt>> {
    let place = web(url, &[])?;
    place.open(place.name())
}

/// With deadlines that a busy machine keeps.
fn open_patiently(url: &str) -> Arc<dyn ReadAt> {
    let client = Client::new(Timeouts::default()).unwrap();
    let place = UrlPlace::new(client, Url::parse(url).unwrap(), &[], policy()).unwrap();
    place.open(place.name()).unwrap()
}

/// Bytes that differ from place to place.
fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut x = seed | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    (0..size.div_ceil(8)).flat_map(|_| next().to_le_bytes()).take(size).collect()
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % n.max(1)
    }
}

/// Reads here and there in every way, and compares.
fn check_reads(file: &dyn ReadAt, bytes: &[u8], seed: u64, count: usize) {
    let mut random = Random(seed);
    assert_eq!(file.size_bytes(), bytes.len() as u64);
    for _ in 0..count {
        let start = random.below(bytes.len() + 10);
        let longest = [10, 5_000, 200_000, 1_500_000][random.below(4)];
        let size = random.below(longest);
        let expected = bytes.get(start..(start + size).min(bytes.len())).unwrap_or_default();
        let mut got = vec![0; size];
        let n = file.read_at(&mut got, start as u64).unwrap();
        assert!(n == expected.len() && got[..n] == *expected, "read of {size} at {start}");
        if expected.len() < size {
            continue;
        }
        let mut rest = got.as_mut_slice();
        rest.fill(0);
        let mut buffers = Vec::new();
        let mut pieces = Vec::new();
        let mut at = start as u64;
        let by_pieces = random.below(2) == 0;
        while !rest.is_empty() {
            let n = (1 + random.below(size)).min(rest.len());
            let (piece, after) = std::mem::take(&mut rest).split_at_mut(n);
            rest = after;
            match by_pieces {
                // Some of them left out: gaps.
                true if random.below(3) == 0 => piece.copy_from_slice(&bytes[at as usize..at as usize + n]),
                true => pieces.push((at, piece)),
                false => buffers.push(IoSliceMut::new(piece)),
            }
            at += n as u64;
        }
        pieces.reverse();
        read_pieces(file, pieces).unwrap();
        file.read_vectored_at(&mut buffers, start as u64).unwrap();
        assert!(got == expected, "{} pieces of {size} at {start}", if by_pieces { "some" } else { "all" });
    }
}

#[test]
fn what_is_read_is_what_is_there() {
    let server = Server::start();
    let rows: &[(&str, &[Answer])] = &[
        ("/well", &[Answer::usual()]),
        ("/resets", &[Answer::usual(), Answer::usual().reset_after(3_000), Answer::usual()]),
        (
            "/cuts",
            &[
                Answer::usual(),
                Answer::usual().cut_after(100_000),
                Answer::usual().cut_after(70_000),
                Answer::usual(),
            ],
        ),
        ("/busy", &[Answer::status(503), Answer::status(429).header("Retry-After", "0"), Answer::usual()]),
        (
            "/fails",
            &[Answer::usual(), Answer::status(500), Answer::usual(), Answer::status(502), Answer::usual()],
        ),
        ("/stalls", &[Answer::usual(), Answer::usual().stalls_after(80_000), Answer::usual()]),
        ("/silent", &[Answer::usual(), Answer::usual().silent(), Answer::usual()]),
        (
            "/drips",
            &[Answer::usual(), Answer::usual().drips(60_000, Duration::from_millis(1)), Answer::usual()],
        ),
    ];
    let bytes = noise(3_000_001, 7);
    let file = bytes.clone();
    server.otherwise(move |_| Some(Answer::file(&file)));
    for (n, (path, answers)) in rows.iter().enumerate() {
        server.on(path, answers.to_vec());
        let file = open_web(&server.url(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        check_reads(&*file, &bytes, n as u64 + 1, 60);
    }
}

#[test]
fn many_threads_read_one_file() {
    let server = Server::start();
    let bytes = noise(5_000_000, 3);
    server.on("/f", [Answer::file(&bytes)]);
    let file = open_patiently(&server.url("/f"));
    std::thread::scope(|scope| {
        for seed in 0..8 {
            let (file, bytes) = (&file, &bytes);
            scope.spawn(move || check_reads(&**file, bytes, seed, 25));
        }
    });
}

#[test]
fn requests_are_large_where_reading_goes_on_and_small_where_it_jumps() {
    let bytes = noise(8 << 20, 5);
    let server = Server::start();
    server.on("/f", [Answer::file(&bytes)]);
    // What is read, how many requests it may take, how many bytes may come.
    let rows: &[(&str, &[(u64, usize)], usize, usize)] = &[
        ("one large read", &[(4096, 4 << 20)], 1, 4 << 20),
        ("one small read", &[(1 << 20, 100)], 1, 64 << 10),
        ("a header's beginning", &[(0, 256 << 10)], 1, 256 << 10),
        ("the same again", &[(0, 1000), (2000, 1000), (0, 64 << 10)], 1, 64 << 10),
        ("the end", &[((8 << 20) - 22, 22)], 1, 64 << 10),
        ("two places", &[(0, 10), (5 << 20, 10)], 2, 128 << 10),
    ];
    let check = |what: &str, reads: &[(u64, usize)], requests_max: usize, bytes_max: usize| {
        let file = open_patiently(&server.url("/f"));
        server.forget();
        for &(at, size) in reads {
            let mut got = vec![0; size];
            file.read_exact_at(&mut got, at).unwrap();
            assert!(got == bytes[at as usize..at as usize + size], "{what}");
        }
        let (requests, sent) = (server.count("/f"), server.sent_bytes());
        // The last answer of opening may be counted a moment late.
        assert!(
            requests <= requests_max && sent <= bytes_max + 1,
            "{what}: {requests} requests, {sent} bytes"
        );
    };
    for &(what, reads, requests_max, bytes_max) in rows {
        check(what, reads, requests_max, bytes_max);
    }
    // In steps of 8 KiB through 4 MiB: 64 blocks, at most 16 in a request.
    let steps: Vec<(u64, usize)> = (0..512).map(|n| (n * 8192, 8192)).collect();
    check("small steps", &steps, 10, 5 << 20);
}

/// What opening and reading a path of a web server says.
#[track_caller]
fn check_web(server: &Server, answers: &[Answer], kind: ErrorKind, says: &str) {
    server.on("/f", answers.to_vec());
    let started = Instant::now();
    let read = open_web(&server.url("/f?signature=SECRET")).and_then(|file| {
        let mut all = vec![0; file.size_bytes().min(100_000) as usize];
        file.read_exact_at(&mut all, 0)
    });
    let error = read.expect_err(says);
    assert!(error.kind() == kind && error.to_string().contains(says), "{kind:?} `{says}`: {error}");
    assert!(!error.to_string().contains("SECRET"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10), "{says}: {:?}", started.elapsed());
}

#[test]
fn a_web_server_that_does_not_give_the_file() {
    let server = Server::start();
    let bytes = noise(200_000, 9);
    let file = || Answer::file(&bytes);
    let again = server.url("/f");
    use ErrorKind::*;
    let rows: &[(&[Answer], ErrorKind, &str)] = &[
        (&[Answer::status(404)], NotFound, "404"),
        (&[Answer::status(403)], NotAllowed, "403"),
        (&[Answer::status(500)], Io, "500"),
        (&[Answer::status(429).header("Retry-After", "100000")], RateLimited, ""),
        (&[Answer::html()], Integrity, "HTML"),
        (&[Answer::redirect(302, again)], BadInput, "circle"),
        (&[Answer::usual().silent()], Io, "did not answer"),
        (&[file().endless_head()], Io, ""),
        (
            &[Answer::raw(
                "HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-0/x\r\nContent-Length: 1\r\n\r\nx",
            )],
            Unsupported,
            "size",
        ),
        (&[file().without_ranges().chunked()], Unsupported, "size"),
        (&[file(), Answer::status(500)], Io, "500"),
        (&[file(), file().stalls_after(0)], Io, ""),
        (&[file(), Answer::status(404)], NotFound, ""),
        (&[file(), Answer::file(&bytes[1..])], Integrity, ""),
        (&[file().header("ETag", "\"1\""), file().header("ETag", "\"2\"")], Integrity, "changed"),
    ];
    for (answers, kind, says) in rows {
        check_web(&server, answers, *kind, says);
    }
    assert_eq!(web(&server.url("/folder/"), &[]).unwrap_err().kind(), Usage);
}

#[test]
fn small_files_are_read_from_servers_without_ranges() {
    let server = Server::start();
    let bytes = noise(100_000, 2);
    server.on("/d/f.json", [Answer::file(&bytes).without_ranges()]);
    server.on("/d/c.json", [Answer::file("{}")]);
    server.on("/d/page.json", [Answer::html()]);
    server.on("/d/closed.json", [Answer::status(403)]);
    let place =
        web(&server.url("/d/f.json"), &["c.json", "page.json", "closed.json", "absent.json"]).unwrap();
    let names: Vec<String> = place.list("").unwrap().into_iter().map(|e| e.name).collect();
    assert_eq!(names, ["c.json", "f.json"]);
    check_reads(&*place.open("f.json").unwrap(), &bytes, 1, 20);
    for name in ["../f.json", "/f.json", "a\\b"] {
        assert_eq!(place.open(name).unwrap_err().kind(), ErrorKind::BadInput, "{name}");
    }
    // Beside a signed URL nothing is asked for.
    server.forget();
    let place = web(&server.url("/d/f.json?X-Amz-Signature=1"), &["c.json"]).unwrap();
    assert!(place.list("").unwrap().len() == 1 && server.count("/d/c.json") == 0);
}

#[test]
fn a_read_ends_when_its_work_was_told_to() {
    let server = Server::start();
    let bytes = noise(3 << 20, 4);
    let patient = Client::new(Timeouts::default()).unwrap();
    for (path, large) in [("/large", true), ("/small", false)] {
        server.on(path, [Answer::file(&bytes), Answer::file(&bytes).stalls_after(1000)]);
        let url = Url::parse(&server.url(path)).unwrap();
        let place = UrlPlace::new(patient.clone(), url, &[], Policy::default()).unwrap();
        let file = place.open(place.name()).unwrap();
        let flag = Arc::new(AtomicBool::new(false));
        let _working = stop::work_for(Some(stop::Flag::Shared(Arc::clone(&flag))));
        let started = Instant::now();
        let error = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(150));
                flag.store(true, Ordering::Relaxed);
            });
            let mut all = vec![0; if large { bytes.len() } else { 4000 }];
            file.read_exact_at(&mut all, 0).unwrap_err()
        });
        assert!(matches!(error.kind(), ErrorKind::Signal(_)), "{error}");
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    }
}

/// A bucket of the server, unsigned.
fn bucket(server: &Server) -> Bucket {
    let option = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let settings = Settings {
        options: vec![
            option("aws_endpoint_url", &server.url("")),
            option("AWS_SKIP_SIGNATURE", "true"),
            option("aws_region", "us-east-1"),
        ],
        connect: MOMENT,
        answer: MOMENT,
        piece: MOMENT,
        slowest: (50_000, 2 * MOMENT),
        policy: policy(),
    };
    Bucket::of_url("s3://bucket", settings).unwrap().0
}

/// An object as S3 sends it.
fn object(bytes: &[u8], etag: &str) -> Answer {
    Answer::file(bytes).header("ETag", etag).header("Last-Modified", "Sun, 22 Nov 2026 07:00:00 GMT")
}

fn refusal(status: u16, code: &str) -> Answer {
    let text =
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>It says so</Message></Error>");
    Answer::file(text).but_status(status).without_ranges()
}

fn listing(objects: &[(&str, usize)], folders: &[&str], next: Option<&str>) -> Answer {
    let mut xml = String::from("<?xml version=\"1.0\"?><ListBucketResult>");
    for (key, size) in objects {
        xml += &format!(
            "<Contents><Key>{key}</Key><Size>{size}</Size><LastModified>2026-11-22T07:00:00.000Z</LastModified><ETag>\"1\"</ETag></Contents>"
        );
    }
    for folder in folders {
        xml += &format!("<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>");
    }
    if let Some(next) = next {
        xml += &format!("<NextContinuationToken>{next}</NextContinuationToken>");
    }
    Answer::file(xml + "</ListBucketResult>").without_ranges()
}

#[test]
fn an_object_is_read_as_it_was_seen() {
    let server = Server::start();
    let bytes = noise(2_500_000, 6);
    let good = || object(&bytes, "\"1\"");
    let place = || ObjectPlace::new(bucket(&server), "m");
    server.on("/bucket/m/f", [good()]);
    let file = place().open("f").unwrap();
    assert_eq!(file.version(), Some("\"1\""));
    check_reads(&*file, &bytes, 1, 40);
    assert!(server.log().iter().skip(1).all(|s| s.headers.get("if-match").is_some_and(|m| m == "\"1\"")));
    server.on(
        "/bucket/m/f",
        [good(), good().cut_after(100_000), good().stalls_after(5000), refusal(503, "SlowDown"), good()],
    );
    check_reads(&*place().open("f").unwrap(), &bytes, 2, 20);

    let changed = object(&noise(2_500_000, 8), "\"2\"");
    let shorter = object(&bytes[..1_000_000], "\"1\"");
    use ErrorKind::*;
    let rows: &[(&[Answer], ErrorKind, &str)] = &[
        (&[refusal(404, "NoSuchKey")], NotFound, "no such object"),
        (&[Answer::status(404)], NotFound, "no such object"),
        (&[good(), refusal(404, "NoSuchKey")], Integrity, "another object"),
        (&[refusal(403, "AccessDenied")], NotAllowed, "AWS_SKIP_SIGNATURE"),
        (&[good(), refusal(403, "AccessDenied")], NotAllowed, "It says so"),
        (&[good(), changed], Integrity, "another object"),
        (&[good(), shorter], Integrity, "another object"),
        (&[good(), refusal(412, "PreconditionFailed")], Integrity, "another object"),
        (&[good(), refusal(500, "InternalError")], Io, "InternalError"),
        (&[good(), refusal(503, "SlowDown")], RateLimited, "SlowDown"),
        (&[good(), refusal(503, "SlowDown").header("Retry-After", "86400")], RateLimited, "SlowDown"),
        (
            &[
                good(),
                refusal(400, "AuthorizationHeaderMalformed").header("x-amz-bucket-region", "eu-north-1"),
            ],
            Usage,
            "AWS_REGION=eu-north-1",
        ),
        (
            &[good(), refusal(301, "PermanentRedirect").header("x-amz-bucket-region", "eu-north-1")],
            Usage,
            "AWS_REGION=eu-north-1",
        ),
        (&[good(), good().silent()], Io, ""),
        (&[good(), good().without_ranges()], Io, ""),
        (&[good(), good().drips(10, Duration::from_millis(20))], Io, "bytes came in"),
        (&[good(), good().stalls_after(0)], Io, ""),
        (&[good(), refusal(400, "X").endless()], BadInput, "400"),
        // The largest number there is, and one more.
        (&[good(), good().header("Content-Range", "bytes 0-18446744073709551615/2500000")], Io, ""),
        (&[good().header("Content-Length", "18446744073709551615")], Io, ""),
    ];
    for (answers, kind, says) in rows {
        server.on("/bucket/m/f", answers.to_vec());
        let started = Instant::now();
        let read = place().open("f").and_then(|file| file.read_exact_at(&mut vec![0; 2_000_000], 0));
        let error = read.expect_err(says);
        assert!(error.kind() == *kind && error.to_string().contains(says), "{kind:?} `{says}`: {error}");
        assert!(started.elapsed() < Duration::from_secs(10), "{says}: {:?}", started.elapsed());
    }
}

#[test]
fn a_folder_of_a_store_is_listed() {
    let server = Server::start();
    server.on(
        "/bucket",
        [
            // The folder itself, names that lead elsewhere, one that lies deeper than it may.
            listing(
                &[("m/", 0), ("m/a.json", 3), ("m/../x", 1), ("m/d/e", 1), ("n", 1)],
                &["m/sub/"],
                Some("t2"),
            ),
            refusal(503, "SlowDown"),
            listing(&[("m/w.safetensors", 70)], &["m/sub/"], None),
        ],
    );
    let place = ObjectPlace::new(bucket(&server), "m");
    let list = |place: &ObjectPlace| {
        place
            .list("")
            .map(|e| e.into_iter().map(|e| (e.name, e.size_bytes, e.is_directory)).collect::<Vec<_>>())
    };
    match list(&place) {
        Ok(entries) => {
            let expected = [("a.json", 3, false), ("sub", 0, true), ("w.safetensors", 70, false)];
            assert_eq!(entries, expected.map(|(n, s, d)| (n.to_owned(), s, d)));
        }
        // A store that holds a key with `..` is one that object_store does not list.
        Err(e) => assert!(e.kind() == ErrorKind::BadInput, "{e}"),
    }
    let rows: &[(Answer, ErrorKind, &str)] = &[
        (listing(&[("m/a", 1)], &[], Some("t")), ErrorKind::BadInput, "repeats"),
        (refusal(404, "NoSuchBucket"), ErrorKind::NotFound, "no such bucket"),
        (refusal(403, "AccessDenied"), ErrorKind::NotAllowed, "AWS_ACCESS_KEY_ID"),
        (Answer::html(), ErrorKind::Io, ""),
        (listing(&[("m/a", 1)], &[], None).endless(), ErrorKind::Io, ""),
        (listing(&[("m/a", 1)], &[], None).silent(), ErrorKind::Io, "did not answer"),
    ];
    for (answer, kind, says) in rows {
        server.on("/bucket", [answer.clone()]);
        let started = Instant::now();
        let error = list(&ObjectPlace::new(bucket(&server), "m")).expect_err(says);
        assert!(error.kind() == *kind && error.to_string().contains(says), "{kind:?} `{says}`: {error}");
        assert!(started.elapsed() < Duration::from_secs(20), "{says}: {:?}", started.elapsed());
    }
    let many: Vec<(String, usize)> = (0..21_000).map(|n| (format!("m/{n}"), 1)).collect();
    let many: Vec<(&str, usize)> = many.iter().map(|(n, s)| (n.as_str(), *s)).collect();
    server.on("/bucket", [listing(&many, &[], None)]);
    assert_eq!(list(&place).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn names_of_stores() {
    let rows: &[(&str, Result<(&str, &str), ErrorKind>)] = &[
        ("s3://b", Ok(("s3://b", ""))),
        ("s3://b/", Ok(("s3://b", ""))),
        ("s3://b/a b/c%20d/", Ok(("s3://b", "a b/c%20d"))),
        ("s3a://b/x", Ok(("s3a://b", "x"))),
        ("s3://", Err(ErrorKind::Usage)),
        ("s3:///x", Err(ErrorKind::Usage)),
        ("s3://b/../x", Err(ErrorKind::Usage)),
        ("s3://b/a//x", Err(ErrorKind::Usage)),
        ("s3://user:secret@b/x", Err(ErrorKind::Usage)),
        ("ftp://b/x", Err(ErrorKind::Usage)),
        ("gcs://b/x", Ok(("gcs://b", "x"))),
    ];
    for (url, expected) in rows {
        let settings = Settings {
            options: ["aws_skip_signature", "google_skip_signature"]
                .map(|n| (n.into(), "true".into()))
                .to_vec(),
            ..Settings::default()
        };
        let got = Bucket::of_url(url, settings);
        match (&got, expected) {
            (Ok((bucket, key)), Ok(expected)) => {
                assert_eq!((bucket.name(), key.as_str()), *expected, "{url}")
            }
            (Err(e), Err(kind)) => {
                assert!(e.kind() == *kind && !e.to_string().contains("secret"), "{url}: {e}")
            }
            _ => panic!("{url}: {got:?}"),
        }
    }
}
