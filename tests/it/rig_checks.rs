//! The rigs themselves: what they promise to the tests that stand on them.

use crate::rig::server::repo::Repo;
use crate::rig::server::{Answer, Server};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Asks by hand; what came until the connection ended, and how it ended.
fn ask(server: &Server, path: &str, range: &str) -> (String, Option<std::io::ErrorKind>) {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(1000))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nRange: {range}\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut text = Vec::new();
    let end = stream.read_to_end(&mut text).err().map(|e| e.kind());
    (String::from_utf8_lossy(&text).into_owned(), end)
}

#[test]
fn the_server_goes_wrong_as_told() {
    use std::io::ErrorKind::{ConnectionReset, WouldBlock};
    let server = Server::start();
    let file = || Answer::file("0123456789");
    type Row = (&'static str, Answer, &'static str, &'static str, Option<std::io::ErrorKind>);
    let rows: Vec<Row> = vec![
        ("/range", file(), "HTTP/1.1 206", "\r\n\r\n234", None),
        ("/whole", file().without_ranges(), "HTTP/1.1 200", "\r\n\r\n0123456789", None),
        ("/flip", file().flips(3), "HTTP/1.1 206", "\r\n\r\n2\u{13}4", None),
        ("/cut", file().cut_after(1), "HTTP/1.1 206", "\r\n\r\n2", None),
        ("/reset", file().reset_after(0), "", "", Some(ConnectionReset)),
        ("/stall", file().stalls_after(2), "HTTP/1.1 206", "\r\n\r\n23", Some(WouldBlock)),
        ("/silent", file().silent(), "", "", Some(WouldBlock)),
        ("/chunks", file().chunked(), "HTTP/1.1 206", "\r\n\r\n3\r\n234\r\n0\r\n\r\n", None),
        ("/none", Answer::usual(), "HTTP/1.1 404", "\n", None),
    ];
    for (path, answer, start, end, how) in rows {
        server.on(path, [answer]);
        let (text, ended) = ask(&server, path, "bytes=2-4");
        assert!(text.starts_with(start) && text.ends_with(end), "{path}: {text:?}");
        assert_eq!(ended, how, "{path}");
        assert_eq!(server.count(path), 1);
    }
    assert_eq!(server.log()[0].range, Some((2, Some(4))));
}

#[test]
fn a_repo_is_served() {
    let server = Server::start();
    let mut repo = Repo::new("a/b").file("config.json", "{}").lfs("w.safetensors", [7; 1000]);
    repo.signed_uses = Some(1);
    let repo = server.hub(repo);
    let (text, _) = ask(&server, &repo.revision_path("main"), "");
    assert!(text.contains("\"sha\":\"0123456789abcdef"), "{text}");
    let (text, _) = ask(&server, &repo.tree_path(), "");
    assert!(text.contains(&repo.file("w.safetensors").sha256()), "{text}");
    let (text, _) = ask(&server, &repo.resolve_path("w.safetensors"), "bytes=0-1");
    let place = text.split_once("Location: ").unwrap().1.lines().next().unwrap();
    let path = place.strip_prefix(&server.elsewhere("")).unwrap();
    assert!(ask(&server, path, "bytes=0-1").0.contains("Content-Range: bytes 0-1/1000"));
    assert!(ask(&server, path, "bytes=0-1").0.starts_with("HTTP/1.1 403"));
    assert_eq!((repo.resolve_count("w.safetensors"), repo.data_count("w.safetensors")), (1, 2));
}
