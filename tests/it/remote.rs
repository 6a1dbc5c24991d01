//! Models beyond a network, opened by URL: what arrives is what a local file gives, byte for byte, at a small cost; and what
//! goes wrong on the way ends as it should.

use crate::rig::server::repo::Repo;
use crate::rig::server::{Answer, Seen, Server};
use hoist::ErrorKind;
use hoist::convert::{self, convert};
use hoist::dtype::DType;
use hoist::load::{self, DTypeChoice, Loaded};
use hoist::open::{Model, Options, open};
use hoist::source::http::part::SKIP_BYTES_MAX;
use hoist::transform::arch::parallel::Rank;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A model of three shards, some megabytes.
fn near() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/rustdoc-llama-6m")
}

const INDEX: &str = "model.safetensors.index.json";
const SHARD: &str = "model-00002-of-00003.safetensors";

fn files() -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(near()).unwrap().map(|e| e.unwrap().path());
    entries
        .map(|p| (p.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(p).unwrap()))
        .collect()
}

fn size_bytes() -> usize {
    files().iter().map(|(_, bytes)| bytes.len()).sum()
}

/// The model's files under `/m/`.
fn web() -> Server {
    let server = Server::start();
    for (name, bytes) in files() {
        server.on(&format!("/m/{name}"), [Answer::file(&bytes).header("ETag", "\"1\"")]);
    }
    server
}

fn repo() -> Repo {
    files().iter().fold(Repo::new("org/llama"), |repo, (name, bytes)| match name.ends_with(".safetensors") {
        true => repo.lfs(name, bytes),
        false => repo.file(name, bytes),
    })
}

/// Options that see no cache of this machine.
fn options() -> Options {
    Options { hub_cache: Some("/nonexistent".into()), ..Options::default() }
}

fn opened(name: &str) -> Model {
    open(name, &options()).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn locally(name: &str) -> Model {
    opened(near().join(name).to_str().unwrap())
}

fn to_cpu() -> load::Options {
    load::Options { device: Some("cpu".parse().unwrap()), measure: false, ..load::Options::default() }
}

fn loaded(model: Model, options: load::Options) -> Loaded {
    load::load(model, options).wait().unwrap_or_else(|e| panic!("{e}"))
}

fn same_tensors(what: &str, a: &Loaded, b: &Loaded) {
    assert_eq!(a.tensors.len(), b.tensors.len(), "{what}");
    for (a, b) in a.tensors.iter().zip(&b.tensors) {
        assert_eq!((a.name(), a.dtype(), a.shape()), (b.name(), b.dtype(), b.shape()), "{what}");
        assert!(a.bytes().unwrap() == b.bytes().unwrap(), "{what}: {}", a.name());
    }
}

/// Everything below a directory, but for the journal.
fn below(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    if directory.is_file() {
        return vec![(PathBuf::new(), std::fs::read(directory).unwrap())];
    }
    let mut found: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.is_file() && p.file_name().is_some_and(|n| n != ".hoist.json"))
        .map(|p| (p.strip_prefix(directory).unwrap().to_owned(), std::fs::read(&p).unwrap()))
        .collect();
    found.sort();
    found
}

fn converted(model: Model, out: &Path, dtype: Option<DType>) -> hoist::Result<Vec<(PathBuf, Vec<u8>)>> {
    let options = convert::Options { dtype, ..convert::Options::new(out) };
    convert(model, options).wait().map(|_| below(out))
}

/// Opens, loads, converts: each as the local model does.
fn check_same(what: &str, far: &str, near: &str, options: &Options) {
    let far = || open(far, options).unwrap_or_else(|e| panic!("{what}: {e}"));
    let (a, b) = (far(), locally(near));
    assert_eq!(a.table.tensors, b.table.tensors, "{what}");
    let facts =
        |model: &Model| model.table.files.iter().map(|f| (f.name.clone(), f.size_bytes)).collect::<Vec<_>>();
    assert_eq!(facts(&a), facts(&b), "{what}");
    for (how, options) in [
        ("as it is", to_cpu()),
        ("checked", load::Options { check: true, ..to_cpu() }),
        ("cast", load::Options { dtype: DTypeChoice::To(DType::F32), ..to_cpu() }),
        ("a part", load::Options { include: vec!["*norm*".into()], ..to_cpu() }),
        ("a rank", load::Options { rank: Some(Rank::parse("1/2").unwrap()), ..to_cpu() }),
    ] {
        same_tensors(
            &format!("{what}, {how}"),
            &loaded(far(), options.clone()),
            &loaded(locally(near), options),
        );
    }
    let place = tempfile::tempdir().unwrap();
    for side in ["far", "near"] {
        std::fs::create_dir(place.path().join(side)).unwrap();
    }
    for (name, dtype) in [("s", None), ("f", Some(DType::F32)), ("g.gguf", None), ("b.bin", None)] {
        // A GGUF is a whole model.
        if name.ends_with(".gguf") && near == SHARD {
            continue;
        }
        // A name that both have, because a GGUF keeps it.
        let named = |mut model: Model| {
            model.name = "model".into();
            model
        };
        let a = converted(named(far()), &place.path().join("far").join(name), dtype).unwrap();
        let b = converted(named(locally(near)), &place.path().join("near").join(name), dtype).unwrap();
        let names = |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|f| f.0.clone()).collect::<Vec<_>>();
        assert_eq!(names(&a), names(&b), "{what} to {name}");
        assert!(a == b, "{what} to {name}");
    }
}

fn with_place<T>(run: impl FnOnce(&Path) -> T) -> T {
    let place = tempfile::tempdir().unwrap();
    run(place.path())
}

#[test]
fn from_a_web_server() {
    let server = web();
    check_same("an index", &server.url(&format!("/m/{INDEX}")), INDEX, &options());
    check_same("a shard", &server.url(&format!("/m/{SHARD}")), SHARD, &options());
}

#[test]
fn from_the_hub() {
    let server = Server::start();
    let served = server.hub(repo());
    let options = Options { hub_endpoint: Some(served.endpoint()), ..options() };
    check_same("a repo", "hf://org/llama", "", &options);
    check_same("a file of a repo", &format!("hf://org/llama@main/{SHARD}"), SHARD, &options);
    server.assert_token_stayed_home();
    let model = open("hf://org/llama", &options).unwrap();
    assert_eq!(model.commit.as_deref(), Some(crate::rig::server::repo::COMMIT));
    let kind = |name: &str| open(name, &options).unwrap_err().kind();
    assert_eq!(kind("hf://org/none"), ErrorKind::NotFound);
    assert_eq!(kind("hf://org/llama@none"), ErrorKind::NotFound);
    assert_eq!(kind("hf://org/llama/none.safetensors"), ErrorKind::NotFound);
    // A name without `hf://` is of the cache, and a cache that has it is asked alone.
    server.forget();
    assert_eq!(kind("org/llama"), ErrorKind::NotFound);
    let offline = Options { offline: true, ..options.clone() };
    assert_eq!(open("hf://org/llama", &offline).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(server.log().len(), 0);
}

#[test]
fn an_object_of_a_bucket_that_gives_no_listing() {
    let server = Server::start();
    for (name, bytes) in files() {
        let answer = Answer::file(&bytes).header("ETag", "\"1\"");
        server.on(&format!("/b/m/{name}"), [answer.header("Last-Modified", "Sun, 22 Nov 2026 07:00:00 GMT")]);
    }
    server.on("/b", [Answer::status(403)]);
    let store = [("aws_endpoint_url", server.url("")), ("aws_skip_signature", "true".to_owned())];
    let options = Options { store: store.map(|(n, v)| (n.to_owned(), v)).to_vec(), ..options() };
    for name in [SHARD, INDEX] {
        let model = open(&format!("s3://b/m/{name}"), &options).unwrap_or_else(|e| panic!("{name}: {e}"));
        same_tensors(name, &loaded(model, to_cpu()), &loaded(locally(name), to_cpu()));
    }
    assert_eq!(open("s3://b/m", &options).unwrap_err().kind(), ErrorKind::NotAllowed);
}

#[test]
fn headers_alone_are_read() {
    let server = web();
    let model = opened(&server.url(&format!("/m/{INDEX}")));
    let description = model.description(&mut Vec::new());
    assert!(description.family.is_some());
    let (sent, requests) = (server.sent_bytes(), server.log().len());
    // Three headers at 256 KiB each, and small files.
    assert!(sent < size_bytes() / 10 && sent < 1 << 20, "{sent} bytes of {}", size_bytes());
    assert!(requests < 40, "{requests} requests");
    server.forget();
    loaded(model, to_cpu());
    let sent = server.sent_bytes();
    assert!(sent < size_bytes() + size_bytes() / 20, "{sent} bytes to load {}", size_bytes());
    assert!(server.log().len() <= 12, "{} requests", server.log().len());
}

#[test]
fn what_goes_wrong_on_the_way() {
    let server = web();
    let (shard, bytes) = (format!("/m/{SHARD}"), std::fs::read(near().join(SHARD)).unwrap());
    let good = || Answer::file(&bytes).header("ETag", "\"1\"");
    let url = server.url(&format!("/m/{INDEX}"));
    let expected = with_place(|place| converted(locally(INDEX), &place.join("o"), None).unwrap());
    // What the shard answers after it was opened, and how that ends.
    let rows: &[(&str, &[Answer], Option<ErrorKind>)] = &[
        ("cut", &[good().cut_after(100_000), good().cut_after(70_000), good()], None),
        ("reset", &[good().reset_after(200_000), good()], None),
        ("busy", &[Answer::status(503), Answer::status(429).header("Retry-After", "1"), good()], None),
        ("no ranges", &[good().without_ranges()], Some(ErrorKind::Unsupported)),
        ("changed", &[Answer::file(&bytes).header("ETag", "\"2\"")], Some(ErrorKind::Integrity)),
        ("shorter", &[Answer::file(&bytes[..1000]).header("ETag", "\"1\"")], Some(ErrorKind::Integrity)),
        ("gone", &[Answer::status(404)], Some(ErrorKind::NotFound)),
        ("forbidden", &[Answer::status(403)], Some(ErrorKind::NotAllowed)),
    ];
    for (what, answers, ends) in rows {
        server.on(&shard, [good()]);
        let model = opened(&url);
        server.on(&shard, answers.to_vec());
        server.forget();
        let started = Instant::now();
        let got = with_place(|place| {
            converted(model, &place.join("o"), None).map_err(|e| (e.kind(), e.to_string()))
        });
        // What lies before a range is thrown away where that is not much. Whether a request begins far into the file hangs on which
        // thread asks first; one that does must be refused.
        let is_far =
            |seen: &Seen| seen.path == shard && seen.range.is_some_and(|(at, _)| at > SKIP_BYTES_MAX);
        let ends = ends.filter(|&kind| kind != ErrorKind::Unsupported || server.log().iter().any(is_far));
        match (got, ends) {
            (Ok(files), None) => assert!(files == expected, "{what}"),
            (Err((kind, text)), Some(ends)) => {
                assert!(kind == ends && text.contains(SHARD), "{what}: {text}")
            }
            (got, _) => panic!("{what}: {:?}", got.map(|files| files.len())),
        }
        assert!(started.elapsed() < Duration::from_secs(30), "{what}: {:?}", started.elapsed());
    }
    // The shard's last tensor, which nobody comes to from its front.
    server.on(&shard, [good()]);
    let model = opened(&url);
    server.on(&shard, [good().without_ranges()]);
    let last = load::Options { include: vec!["model.layers.4.self_attn.v_proj.weight".into()], ..to_cpu() };
    let error = load::load(model, last).wait().map(|_| ()).unwrap_err();
    assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains(SHARD), "{error}");
}

#[test]
fn a_cancelled_job_ends_while_a_server_says_nothing() {
    let server = web();
    let url = server.url(&format!("/m/{INDEX}"));
    let stalled = |model: Model| {
        for (name, bytes) in files().iter().filter(|(name, _)| name.ends_with(".safetensors")) {
            server.on(&format!("/m/{name}"), [Answer::file(bytes).header("ETag", "\"1\"").stalls_after(0)]);
        }
        model
    };
    let ends = |kind: ErrorKind, since: Instant| {
        assert!(matches!(kind, ErrorKind::Signal(_)), "{kind:?}");
        assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    };
    let pause = || std::thread::sleep(Duration::from_millis(300));
    let job = load::load(stalled(opened(&url)), to_cpu());
    pause();
    let since = Instant::now();
    job.cancel();
    ends(job.wait().unwrap_err().kind(), since);
    with_place(|place| {
        let model = stalled(opened_as(&server, &url, "\"1\""));
        let job = convert(model, convert::Options::new(place.join("o.gguf")));
        pause();
        let since = Instant::now();
        job.cancel();
        ends(job.wait().unwrap_err().kind(), since);
        assert!(!place.join("o.gguf").exists());
    });
}

/// Opens when every file answers as it should again, with this ETag.
fn opened_as(server: &Server, url: &str, etag: &str) -> Model {
    for (name, bytes) in files() {
        server.on(&format!("/m/{name}"), [Answer::file(&bytes).header("ETag", etag)]);
    }
    opened(url)
}

#[test]
fn a_run_that_was_cut_off_goes_on_only_with_the_same_source() {
    let server = web();
    let url = server.url(&format!("/m/{INDEX}"));
    let expected = with_place(|place| converted(locally(INDEX), &place.join("o"), None).unwrap());
    for (etag, is_kept) in [("\"1\"", true), ("\"2\"", false)] {
        with_place(|place| {
            let model = opened_as(&server, &url, "\"1\"");
            // The last shard does not come; the others are finished meanwhile.
            let (last, bytes) = ("model-00003-of-00003.safetensors", files());
            let bytes = &bytes.iter().find(|(name, _)| name == last).unwrap().1;
            server.on(&format!("/m/{last}"), [Answer::file(bytes).header("ETag", "\"1\"").stalls_after(0)]);
            let job = convert(model, convert::Options::new(place.join("o")));
            let half = place.join(".o.hoist/tree");
            let finished =
                || ["model-00001-of-00003.safetensors", SHARD].iter().all(|name| half.join(name).exists());
            let started = Instant::now();
            while !finished() {
                assert!(started.elapsed() < Duration::from_secs(20), "{:?}", below(place).len());
                std::thread::sleep(Duration::from_millis(20));
            }
            std::thread::sleep(Duration::from_millis(300));
            job.cancel();
            assert!(job.wait().is_err());
            let model = opened_as(&server, &url, etag);
            let made = convert(model, convert::Options::new(place.join("o"))).wait().unwrap();
            assert_eq!(made.kept_files > 0, is_kept, "{etag}: {} kept", made.kept_files);
            assert!(below(&place.join("o")) == expected, "{etag}");
        });
    }
}

#[test]
fn names_that_cannot_be_opened() {
    let offline = Options { offline: true, ..options() };
    let rows: &[(&str, &Options, ErrorKind, &str)] = &[
        ("http://127.0.0.1:1/model.safetensors", &options(), ErrorKind::Io, "127.0.0.1:1"),
        ("http://127.0.0.1:1/folder/", &options(), ErrorKind::Usage, "names no file"),
        ("http://", &options(), ErrorKind::Usage, "no URL"),
        ("https://user:secret@h/m.gguf?k=secret", &offline, ErrorKind::NotFound, "may not be used"),
        ("s3://bucket/m.gguf", &offline, ErrorKind::NotFound, "may not be used"),
        ("s3://", &options(), ErrorKind::Usage, "names no bucket"),
        ("oci://x/y", &options(), ErrorKind::Unsupported, "no way"),
        ("hf://org/name/../x", &options(), ErrorKind::BadInput, "leads outside"),
        ("hf://", &options(), ErrorKind::Usage, "names no model"),
        ("ftp://x/y", &options(), ErrorKind::Usage, "does not know"),
    ];
    for (name, options, kind, says) in rows {
        let error = open(name, options).expect_err(name);
        assert!(error.kind() == *kind && error.to_string().contains(says), "{name}: {error}");
        assert!(!error.to_string().contains("secret"), "{name}: {error}");
    }
}
