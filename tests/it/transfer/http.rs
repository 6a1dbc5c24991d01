//! Transfers over HTTP, from servers whose answers are scripted.

use super::{MIB, check_whole, content, git_sha1, quick, run, sha256};
use crate::rig::server::{Answer, Server};
use hoist::ErrorKind;
use hoist::fetch::transfer::Item;
use hoist::source::http::remote::Remote;
use hoist::source::http::{Client, Timeouts, Url};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A file at a URL whose answers are scripted, and how its transfer ends.
fn check_http(name: &str, answers: Vec<Answer>, bytes: &Arc<[u8]>, expected: Option<ErrorKind>) {
    let ms = Duration::from_millis;
    let timeouts = Timeouts { connect: ms(500), answer: ms(500), piece: ms(300), ..Timeouts::default() };
    let (server, place) = (Server::start(), tempfile::tempdir().unwrap());
    server.on("/f", answers);
    let url = Url::parse(&server.url("/f")).unwrap();
    let remote = Remote::new(Client::new(timeouts).unwrap(), "model.bin", url, None, bytes.len() as u64);
    let to = place.path().join("file");
    let items = vec![Item {
        from: Arc::new(remote),
        to: to.clone(),
        size_bytes: bytes.len() as u64,
        expected: Some(sha256(bytes)),
    }];
    let mut options = quick();
    options.policy.granted_max = Duration::from_secs(2);
    let started = Instant::now();
    let (result, finished) = run(items, options);
    assert!(started.elapsed() < Duration::from_secs(20), "{name}: {:?}", started.elapsed());
    match (result, expected) {
        (Ok(_), None) => check_whole(&to, bytes),
        (Err(error), Some(kind)) => {
            assert_eq!((error.kind(), finished.len()), (kind, 0), "{name}: {error}");
            assert_eq!(error.file_name(), Some("model.bin"), "{name}: {error}");
        }
        (result, expected) => panic!("{name}: {result:?}, expected {expected:?}"),
    }
}

#[test]
fn servers_that_go_wrong() {
    let bytes = content(18 * MIB + 3, 101);
    let file = || Answer::file(&bytes);
    let wish = |seconds: &str| Answer::status(429).header("Retry-After", seconds);
    let drip = Duration::from_millis(1);
    let rows = [
        ("a good one", vec![file()], None),
        ("no answer, then one", vec![Answer::status(503), file()], None),
        ("a reset before the head", vec![file().reset_after(0), file()], None),
        (
            "resets in the middle",
            vec![file().reset_after(3_000_000); 3].into_iter().chain([file()]).collect(),
            None,
        ),
        ("cut short", vec![file().cut_after(1_000_000), file()], None),
        ("a stall", vec![file().stalls_after(500_000), file()], None),
        ("silence", vec![file().silent(), file()], None),
        ("drips", vec![file().drips(60_000, drip), file()], None),
        ("chunks", vec![file().chunked()], None),
        ("rate limited once", vec![wish("1"), file()], None),
        ("rate limited", vec![wish("1")], Some(ErrorKind::RateLimited)),
        ("a wrong byte once", vec![file().flips(9_000_000), file().flips(9_000_000), file()], None),
        ("a wrong byte", vec![file().flips(9_000_000)], Some(ErrorKind::Integrity)),
        ("no ranges", vec![file().without_ranges()], None),
        (
            "no ranges, and a reset",
            vec![file().without_ranges().reset_after(9_000_000), file().without_ranges()],
            None,
        ),
        ("broken for good", vec![Answer::status(500)], Some(ErrorKind::Io)),
        ("missing", vec![Answer::status(404)], Some(ErrorKind::NotFound)),
        ("forbidden", vec![Answer::status(403)], Some(ErrorKind::NotAllowed)),
        ("a page", vec![Answer::html()], Some(ErrorKind::Integrity)),
        ("a pointer", vec![Answer::pointer(&"0".repeat(64), bytes.len() as u64)], Some(ErrorKind::Integrity)),
        ("stalls for good", vec![file().stalls_after(0)], Some(ErrorKind::Io)),
    ];
    for (name, answers, expected) in rows {
        check_http(name, answers, &bytes, expected);
    }
}

/// Small files: one request each, over few connections.
#[test]
fn many_small_files_over_few_connections() {
    let (server, place) = (Server::start(), tempfile::tempdir().unwrap());
    let client = Client::new(Timeouts::default()).unwrap();
    let contents: Vec<_> = (0..300).map(|n| content(n * 97, n)).collect();
    let items = contents.iter().enumerate().map(|(n, bytes)| {
        let path = format!("/{n}");
        server.on(&path, [Answer::file(bytes)]);
        let url = Url::parse(&server.url(&path)).unwrap();
        let size_bytes = bytes.len() as u64;
        Item {
            from: Arc::new(Remote::new(client.clone(), path, url, None, size_bytes)),
            to: place.path().join(n.to_string()),
            size_bytes,
            expected: Some(git_sha1(bytes)),
        }
    });
    run(items.collect(), quick()).0.unwrap();
    for (n, bytes) in contents.iter().enumerate() {
        check_whole(&place.path().join(n.to_string()), bytes);
    }
    let log = server.log();
    assert_eq!(log.len(), 299, "the empty one needs no request");
    let connections = log.iter().map(|seen| seen.connection).collect::<BTreeSet<_>>().len();
    assert!(connections <= 20, "{connections} connections");
}
