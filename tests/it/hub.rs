//! The hub's protocol against a hub that goes wrong.

use crate::http::{bytes, client, expect, impatient, never, read};
use crate::rig::server::repo::{COMMIT, Data, OTHER_COMMIT, Repo as Served};
use crate::rig::server::{Answer, Server};
use hoist::source::Place;
use hoist::source::http::Client;
use hoist::source::hub::api::{Hub, Settings, Tree, TreeFile};
use hoist::source::hub::cache::Repo;
use hoist::source::hub::endpoint::Endpoint;
use hoist::source::hub::place::HubPlace;
use hoist::source::ranged::{Policy, Ranged};
use hoist::{ErrorKind, Result};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn quick() -> Policy {
    let ms = Duration::from_millis;
    Policy { failures_max: 3, pause: ms(5), pause_max: ms(20), granted_max: ms(1500) }
}

fn hub(endpoint: &str, token: Option<&str>) -> Hub {
    hub_by(client(), endpoint, token)
}

fn hub_by(client: Client, endpoint: &str, token: Option<&str>) -> Hub {
    let endpoint = Endpoint::parse(endpoint).unwrap();
    let token = token.map(hoist::source::http::Secret::new);
    Hub::new(client, Settings { endpoint, token, policy: quick(), may_use_xet: true })
}

fn id(text: &str) -> Repo {
    Repo::parse(text).unwrap()
}

fn sample() -> Served {
    Served::new("org/name")
        .file("config.json", "{\"a\": 1}")
        .lfs("model.safetensors", bytes(300_000))
        .file("sub/deep er/é#?%41.txt", "hello\n")
}

fn listed(hub: &Hub, repo: &Repo) -> Result<(String, Tree)> {
    let commit = hub.commit(repo, &never)?;
    let tree = hub.tree(repo, &commit, &never)?;
    Ok((commit, tree))
}

fn open(hub: &Hub, repo: &Repo, path: &str) -> (Arc<dyn Ranged>, TreeFile) {
    let (commit, tree) = listed(hub, repo).unwrap();
    let file = tree.files.into_iter().find(|f| f.path == path).unwrap();
    (hub.file(repo, &commit, &file), file)
}

fn all(from: &dyn Ranged) -> Result<Vec<u8>> {
    read(from, 0..from.size_bytes())
}

#[test]
fn a_repo_is_read() {
    for (data, redirect) in
        [(Data::Home, 302), (Data::Here, 307), (Data::Elsewhere, 302), (Data::Elsewhere, 308)]
    {
        for prefix in ["", "/api/hf/mirror"] {
            let server = Server::start();
            let mut repo = sample();
            (repo.data, repo.redirect, repo.prefix) = (data, redirect, prefix.to_owned());
            repo.token = Some("hunter2".to_owned());
            repo.revisions.insert("refs/pr/1".to_owned(), COMMIT.to_owned());
            let served = server.hub(repo);
            let hub = hub(&served.endpoint(), Some("hunter2"));
            let repo = id("org/name@refs/pr/1");
            let (commit, tree) = listed(&hub, &repo).unwrap();
            assert_eq!((commit.as_str(), tree.is_listed, tree.files.len()), (COMMIT, true, 3));
            for file in &tree.files {
                let expected = served.file(&file.path);
                assert_eq!(file.size_bytes, expected.bytes.len() as u64);
                assert_eq!(file.sha256, expected.is_lfs.then(|| expected.sha256()));
                assert_eq!(file.blob_id, Some(expected.blob_id()));
                let ranged = hub.file(&repo, &commit, file);
                assert!(all(&*ranged).unwrap() == *expected.bytes, "{}", file.path);
                assert_eq!(ranged.name(), format!("org/name/{}", file.path));
                assert_eq!(ranged.version(), Some(expected.etag().as_str()));
            }
            server.assert_token_stayed_home();
            let log = server.log();
            assert!(
                log.iter().all(|s| s.path.starts_with("/data/") || s.token.as_deref() == Some("hunter2"))
            );
            let asked: Vec<_> = log.iter().filter(|s| !s.path.starts_with("/data/")).collect();
            assert_eq!(asked.len(), 5, "one revision, one tree, one resolve a file");
            assert!(asked.iter().all(|s| s.path.starts_with(prefix) && s.method == "GET"));
        }
    }
}

#[test]
fn a_commit_is_not_asked_for() {
    let server = Server::start();
    let served = server.hub(sample());
    let hub = hub(&served.endpoint(), None);
    assert_eq!(hub.commit(&id(&format!("org/name@{COMMIT}")), &never).unwrap(), COMMIT);
    assert_eq!(server.log().len(), 0);
}

#[test]
fn pages_are_asked_of_the_endpoint() {
    let server = Server::start();
    let mut repo = Served::new("org/name");
    for index in 0..25 {
        repo = repo.file(&format!("f{index}"), format!("{index}"));
    }
    repo.page_entries = 10;
    repo.prefix = "/mirror".to_owned();
    repo.link_base = Some("https://huggingface.co".to_owned());
    let served = server.hub(repo);
    let (_, tree) = listed(&hub(&served.endpoint(), Some("hunter2")), &id("org/name")).unwrap();
    assert_eq!((tree.files.len(), server.count(&served.tree_path())), (25, 3));
    // Also where a link names a host that must not get the token.
    let tree_path = served.tree_path();
    let link = format!("<{}>; rel=\"next\"", server.elsewhere(&format!("{tree_path}?cursor=20")));
    server.on(&tree_path, [Answer::usual().header("Link", link), Answer::usual()]);
    listed(&hub(&served.endpoint(), Some("hunter2")), &id("org/name")).unwrap();
    server.assert_token_stayed_home();
}

#[test]
fn listings_are_refused() {
    let file = |path: &str, size: serde_json::Value| json!({"type": "file", "path": path, "size": size, "oid": COMMIT});
    let page = |entries: Vec<serde_json::Value>| Answer::json(json!(entries).to_string());
    let next = |n: usize| format!("</x?cursor={n}>; rel=\"next\"");
    let one = |n: usize| page(vec![file(&format!("f{n}"), json!(1))]).header("Link", next(n));
    let endless: Vec<_> = (0..1200).map(|n| one(n + 1)).collect();
    #[rustfmt::skip]
    let rows: Vec<(&str, Vec<Answer>, &[&str])> = vec![
        ("dots", vec![page(vec![file("../../etc/passwd", json!(1))])], &["leads outside"]),
        ("absolute", vec![page(vec![file("/etc/passwd", json!(1))])], &["leads outside"]),
        ("drive", vec![page(vec![file("C:\\x", json!(1))])], &["leads outside"]),
        ("control", vec![page(vec![file("a\u{1b}[2Jb", json!(1))])], &["\\u{1b}"]),
        ("dot parts", vec![page(vec![file("a/./b", json!(1))])], &["a dot"]),
        ("twice", vec![page(vec![file("a", json!(1)), file("a", json!(2))])], &["twice"]),
        ("negative", vec![page(vec![file("a", json!(-1))])], &["is not what a hub says"]),
        ("huge", vec![page(vec![file("a", json!(u64::MAX))])], &["size"]),
        ("no hex", vec![page(vec![json!({"type": "file", "path": "a", "size": 1, "oid": "../../../x"})])], &["40 hex digits"]),
        ("not recursive", vec![page(vec![file("a", json!(1)), json!({"type": "directory", "path": "b", "size": 0})])], &["in folders", "new name"]),
        ("page", vec![Answer::html()], &["not JSON", "HF_ENDPOINT"]),
        ("object", vec![Answer::json("{}")], &["is not what a hub says"]),
        ("too long", vec![Answer::json("[]").endless()], &["more than"]),
        ("same page", vec![one(1), page(vec![]).header("Link", next(1))], &["circle"]),
        ("empty pages", vec![one(1), page(vec![]).header("Link", next(2))], &["circle"]),
        ("repeated page", vec![one(1), one(1)], &["twice"]),
        ("endless", endless, &["does not end"]),
    ];
    for (case, answers, words) in rows {
        let server = Server::start();
        let served = server.hub(sample());
        server.on(&served.tree_path(), answers);
        let start = Instant::now();
        let error = listed(&hub(&served.endpoint(), None), &id("org/name")).expect_err(case);
        assert!(start.elapsed() < Duration::from_secs(10), "{case}: {:?}", start.elapsed());
        expect(&error, ErrorKind::BadInput, words, case);
        assert!(error.to_string().starts_with("org/name: "), "{case}: {error}");
    }
}

#[test]
fn refusals_of_the_hub() {
    use ErrorKind::{BadInput, Integrity, Io, NotAllowed, NotFound, RateLimited};
    let code = |status: u16, code: &str| Answer::status(status).header("X-Error-Code", code);
    let say = |answer: Answer, text: &str| answer.header("X-Error-Message", text);
    #[rustfmt::skip]
    let rows: Vec<(&str, Option<&str>, Answer, ErrorKind, Vec<&str>)> = vec![
        ("missing", None, say(code(401, "RepoNotFound"), "Invalid username or password."), NotFound, vec!["or is private", "HF_TOKEN", "--token-file", "Invalid username"]),
        ("missing, with a token", Some("hunter2"), code(404, "RepoNotFound"), NotFound, vec!["does not open it"]),
        ("revision", None, code(404, "RevisionNotFound"), NotFound, vec!["revision `main`", "/org/name/tree/main"]),
        ("gated", None, code(401, "GatedRepo"), NotAllowed, vec!["gated", "/org/name, then set HF_TOKEN"]),
        ("gated, with a token", Some("hunter2"), code(403, "GatedRepo"), NotAllowed, vec!["gated", "/org/name, with the account"]),
        ("disabled", Some("hunter2"), say(Answer::status(403), "Access to this resource is disabled."), NotAllowed, vec!["disabled"]),
        ("bad token", Some("hunter2"), say(Answer::status(401), "Invalid credentials in Authorization header"), NotAllowed, vec!["refuses the token", "/settings/tokens"]),
        ("no token", None, Answer::status(401), NotAllowed, vec!["wants a token"]),
        ("weak token", Some("hunter2"), Answer::status(403), NotAllowed, vec!["permission"]),
        ("no code", None, Answer::status(404), NotFound, vec!["no such repo", "HF_ENDPOINT"]),
        ("limit", None, Answer::status(429).header("RateLimit", "\"api\";r=0;t=55"), RateLimited, vec!["56 s", "HF_TOKEN"]),
        ("trouble", None, Answer::status(502), Io, vec!["502"]),
        ("reset", None, Answer::usual().reset_after(0), Io, vec!["gave no answer", "HF_ENDPOINT"]),
        ("stalls", None, Answer::usual().stalls_after(5), Io, vec!["sent nothing"]),
        ("circle", None, Answer::redirect(307, "/api/models/org/name/revision/main"), BadInput, vec!["circle"]),
        ("page", None, Answer::html(), BadInput, vec!["not JSON"]),
        ("no commit", None, Answer::json("{\"sha\": \"main\"}"), BadInput, vec!["40 hex digits"]),
        ("strange", None, Answer::json("{\"sha\": \"../../../../../../../../../etc/passwd/xxxxxxx\"}"), BadInput, vec!["40 hex digits"]),
        ("endless", None, Answer::json("{").endless(), BadInput, vec!["more than"]),
        ("teapot", None, Answer::status(418), BadInput, vec!["418"]),
    ];
    for (case, token, answer, kind, words) in rows {
        let server = Server::start();
        let served = server.hub(sample());
        server.on(&served.revision_path("main"), [answer]);
        let start = Instant::now();
        let client = if case == "stalls" { Client::with(&impatient()).unwrap() } else { client() };
        let error =
            hub_by(client, &served.endpoint(), token).commit(&id("org/name"), &never).expect_err(case);
        assert!(start.elapsed() < Duration::from_secs(5), "{case}: {:?}", start.elapsed());
        expect(&error, kind, &words, case);
        assert!(error.to_string().starts_with("org/name: "), "{case}: {error}");
    }
    // Of files.
    #[rustfmt::skip]
    let rows: Vec<(&str, Answer, ErrorKind, Vec<&str>)> = vec![
        ("gated", code(403, "GatedRepo"), NotAllowed, vec!["ask for access at http://127.0.0.1"]),
        ("missing", code(404, "EntryNotFound"), NotFound, vec!["`model.safetensors` is not in revision `main`"]),
        ("no code", Answer::status(404), NotFound, vec!["`model.safetensors`"]),
        ("other commit", Answer::usual().header("X-Repo-Commit", OTHER_COMMIT), Integrity, vec!["the repo changed", OTHER_COMMIT]),
        ("other size", Answer::usual().header("X-Linked-Size", "300001"), Integrity, vec!["300,001", "300,000"]),
        ("other hash", Answer::usual().header("X-Linked-Etag", format!("\"{}\"", "ab".repeat(32))), Integrity, vec!["abab", "mixes commits"]),
        ("limit", Answer::status(429).header("Retry-After", "40"), RateLimited, vec!["40 s"]),
        ("no HTTP route", Answer::redirect(302, "http://localhost:1/"), Io, vec!["localhost:1"]),
    ];
    for (case, answer, kind, words) in rows {
        let server = Server::start();
        let served = server.hub(sample());
        served.resolve("model.safetensors", [answer]);
        let (file, _) = open(&hub(&served.endpoint(), None), &id("org/name"), "model.safetensors");
        let error = all(&*file).expect_err(case);
        expect(&error, kind, &words, case);
        assert!(error.file_name().is_some_and(|name| name.starts_with("org/name")), "{case}");
    }
    // A file that the bridge to HTTP does not serve: who calls can take the other route.
    let server = Server::start();
    let served = server.hub(sample());
    served.data("model.safetensors", [Answer::status(400)]);
    let (file, _) = open(&hub(&served.endpoint(), None), &id("org/name"), "model.safetensors");
    expect(&all(&*file).unwrap_err(), ErrorKind::Unsupported, &["over HTTP"], "bridge");
}

#[test]
fn a_small_file_is_checked_by_its_git_id() {
    let server = Server::start();
    let mut repo = sample();
    (repo.data, repo.has_linked) = (Data::Home, false);
    let served = server.hub(repo);
    let hub = hub(&served.endpoint(), None);
    let (file, _) = open(&hub, &id("org/name"), "config.json");
    assert!(all(&*file).is_ok());
    served.resolve("config.json", [Answer::usual().header("ETag", format!("\"{OTHER_COMMIT}\""))]);
    expect(&all(&*file).unwrap_err(), ErrorKind::Integrity, &[OTHER_COMMIT], "id");
    // A tag that is no such id says nothing.
    served.resolve("config.json", [Answer::usual().header("ETag", "\"66f1-2a\"")]);
    assert!(all(&*file).is_ok());
}

#[test]
fn failures_are_forgiven_and_limits_waited_for() {
    let server = Server::start();
    let served = server.hub(sample());
    let limit = Answer::status(429).header("RateLimit", "\"api\";r=0;t=0");
    server.on(
        &served.revision_path("main"),
        [Answer::status(500), Answer::usual().reset_after(0), limit, Answer::usual()],
    );
    server.on(&served.tree_path(), [Answer::usual().cut_after(20), Answer::usual()]);
    let (commit, tree) = listed(&hub(&served.endpoint(), None), &id("org/name")).unwrap();
    assert_eq!((commit.as_str(), tree.files.len()), (COMMIT, 3));
    let log = server.log();
    assert!(log[3].when - log[2].when >= Duration::from_secs(1), "it was asked to wait a second");
    assert_eq!((server.count(&served.revision_path("main")), server.count(&served.tree_path())), (4, 2));
}

#[test]
fn signed_addresses_expire() {
    let server = Server::start();
    let mut repo = sample();
    repo.signed_uses = Some(3);
    let served = server.hub(repo);
    let (file, _) = open(&hub(&served.endpoint(), None), &id("org/name"), "model.safetensors");
    let expected = bytes(300_000);
    for index in 0..10u64 {
        let range = index * 30_000..(index + 1) * 30_000;
        assert!(read(&*file, range.clone()).unwrap() == expected[range.start as usize..range.end as usize]);
    }
    // Three uses each: 3 + 3 + 3 + 1, and a refusal between.
    assert_eq!((served.resolve_count("model.safetensors"), served.data_count("model.safetensors")), (4, 13));
}

#[test]
fn mirrors_without_a_tree() {
    for data in [Data::Home, Data::Elsewhere] {
        for has_linked in [true, false] {
            let server = Server::start();
            let mut repo = sample();
            (repo.has_tree, repo.data, repo.has_linked, repo.commit_header) = (false, data, has_linked, None);
            let served = server.hub(repo);
            let hub = hub(&served.endpoint(), None);
            let (_, tree) = listed(&hub, &id("org/name")).unwrap();
            assert!(!tree.is_listed);
            for file in &tree.files {
                assert_eq!(file.size_bytes, served.file(&file.path).bytes.len() as u64, "{}", file.path);
                assert!(all(&*hub.file(&id("org/name"), COMMIT, file)).is_ok());
            }
            assert_eq!(
                server.log().iter().filter(|s| s.method == "HEAD" && s.path.contains("/resolve/")).count(),
                3
            );
        }
    }
    // A mirror whose revision moved between the calls.
    let server = Server::start();
    let mut repo = sample();
    repo.has_tree = false;
    let served = server.hub(repo);
    server.on(&served.revision_path(COMMIT), [Answer::json(json!({"sha": OTHER_COMMIT}).to_string())]);
    let error = listed(&hub(&served.endpoint(), None), &id("org/name")).unwrap_err();
    expect(&error, ErrorKind::Integrity, &["the repo changed"], "moved");
    // One that says enough needs no further call.
    let sibling =
        json!({"rfilename": "w", "size": 5, "blobId": COMMIT, "lfs": {"sha256": "ab".repeat(32), "size": 5}});
    server.on(
        &served.revision_path(COMMIT),
        [Answer::json(json!({"sha": COMMIT, "siblings": [sibling]}).to_string())],
    );
    server.forget();
    let (_, tree) = listed(&hub(&served.endpoint(), None), &id("org/name")).unwrap();
    assert!(tree.is_listed && tree.files[0].sha256.is_some());
    assert_eq!(server.log().len(), 3);
}

#[test]
fn a_renamed_repo_is_followed() {
    let server = Server::start();
    let served = server.hub(sample());
    let (from, to) = ("/api/models/old/name", "/api/models/org/name");
    server.on(&format!("{from}/revision/main"), [Answer::redirect(307, format!("{to}/revision/main"))]);
    server.on(
        &format!("{from}/tree/{COMMIT}"),
        [Answer::redirect(307, format!("{to}/tree/{COMMIT}?recursive=true&expand=false"))],
    );
    let resolve = |id: &str| format!("/{id}/resolve/{COMMIT}/config.json");
    server.on(&resolve("old/name"), [Answer::redirect(307, resolve("org/name"))]);
    let (file, _) = open(&hub(&served.endpoint(), None), &id("old/name"), "config.json");
    assert_eq!(all(&*file).unwrap(), b"{\"a\": 1}");
}

#[test]
fn a_repo_is_a_place() {
    let server = Server::start();
    let served = server.hub(sample());
    let hub = hub(&served.endpoint(), None);
    let (commit, tree) = listed(&hub, &id("org/name")).unwrap();
    let place = HubPlace::new(hub, id("org/name"), commit, tree, quick());
    let names = |under: &str| {
        let entries = place.list(under).unwrap();
        entries.into_iter().map(|e| (e.name, e.size_bytes, e.is_directory)).collect::<Vec<_>>()
    };
    let row = |name: &str, size: u64, is_directory: bool| (name.to_owned(), size, is_directory);
    assert_eq!(
        names(""),
        [row("config.json", 8, false), row("model.safetensors", 300_000, false), row("sub", 0, true)]
    );
    assert_eq!(names("sub"), [row("sub/deep er", 0, true)]);
    assert_eq!(place.list("none").unwrap_err().kind(), ErrorKind::NotFound);
    let file = place.open("model.safetensors").unwrap();
    let mut buffer = [0; 1000];
    file.read_exact_at(&mut buffer, 299_000).unwrap();
    assert!(buffer[..] == bytes(300_000)[299_000..]);
    assert_eq!(file.read_at(&mut buffer, 299_999).unwrap(), 1);
    assert_eq!(place.open("none").unwrap_err().kind(), ErrorKind::NotFound);
    assert!(place.open("../config.json").is_err());
}

#[test]
fn a_byte_for_each_attempt_is_not_progress() {
    let server = Server::start();
    let served = server.hub(sample());
    served.data("model.safetensors", [Answer::usual().cut_after(1)]);
    let hub = hub(&served.endpoint(), None);
    let (commit, tree) = listed(&hub, &id("org/name")).unwrap();
    let place = HubPlace::new(hub, id("org/name"), commit, tree, quick());
    let mut buffer = vec![0; 100_000];
    let file = place.open("model.safetensors").unwrap();
    let error = file.read_exact_at(&mut buffer, 0).unwrap_err();
    expect(&error, ErrorKind::Io, &["broke"], "a byte each");
    assert!(served.data_count("model.safetensors") <= 6);
}

/// Why a file that plain HTTP does not serve does not come by Xet either.
#[test]
fn what_is_not_served_says_why() {
    let hash = || Some("ab".repeat(32));
    let without = (!cfg!(feature = "xet")).then_some((hash(), true, "without the feature `xet`"));
    let rows = [(None, true, "lists no Xet hash"), (hash(), false, "`HF_HUB_DISABLE_XET` is set")];
    for (xet_hash, may_use_xet, word) in rows.into_iter().chain(without) {
        let server = Server::start();
        let mut repo = sample();
        repo.xet_hash = xet_hash;
        let served = server.hub(repo);
        served.data("model.safetensors", [Answer::status(400)]);
        let endpoint = Endpoint::parse(&served.endpoint()).unwrap();
        let hub = Hub::new(client(), Settings { endpoint, token: None, policy: quick(), may_use_xet });
        let error = all(&*open(&hub, &id("org/name"), "model.safetensors").0).unwrap_err();
        expect(&error, ErrorKind::Unsupported, &["answered 400", word], word);
        assert_eq!(server.count("/api/models/org/name/xet-read-token"), 0);
    }
}

#[test]
fn what_the_environment_says() {
    let get = |name: &str| match name {
        "HF_ENDPOINT" => Some("http://mirror.example/hf/".into()),
        "HF_TOKEN" => Some("hunter2\n".into()),
        _ => None,
    };
    let settings = Settings::from_environment(None, get).unwrap();
    assert_eq!(settings.endpoint.host(), "mirror.example");
    assert!(!format!("{settings:?}").contains("hunter2"));
    for (value, expected) in [("1", false), ("yes", false), ("0", true), ("", true)] {
        let get = |name: &str| (name == "HF_HUB_DISABLE_XET").then(|| value.into());
        assert_eq!(Settings::from_environment(None, get).unwrap().may_use_xet, expected, "{value}");
    }
    assert!(settings.may_use_xet);
    let hub = Hub::new(client(), settings);
    assert!(hub.has_token() && !format!("{hub:?}").contains("hunter2"));
    assert_eq!(Settings::from_environment(None, |_| None).unwrap().endpoint.host(), "huggingface.co");
}
