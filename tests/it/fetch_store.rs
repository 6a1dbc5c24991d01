//! Fetching a repo end to end, from a hub that behaves and from hubs that do not: what is left on the disk, what is asked of
//! the network, how it ends.

use crate::rig::server::repo::{COMMIT, OTHER_COMMIT, Repo as Served};
use crate::rig::server::{Answer, Server};
use hoist::fetch::choose::Wishes;
use hoist::fetch::inventory::{self, Target};
use hoist::fetch::origin::{Objects, Origin};
use hoist::fetch::wish::Wish;
use hoist::fetch::{Fetched, How, Options, fetch, transfer};
use hoist::run::job::Event;
use hoist::source::http::Client;
use hoist::source::http::settings::{Rate, Timeouts};
use hoist::source::hub::api::{Hub, Settings};
use hoist::source::hub::cache::Cache;
use hoist::source::hub::endpoint::Endpoint;
use hoist::source::ranged::{Body, Policy, Ranged, Stop};
use hoist::{ErrorKind, Result};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn quick() -> Policy {
    let ms = Duration::from_millis;
    Policy { failures_max: 3, pause: ms(5), pause_max: ms(20), granted_max: ms(1500) }
}

fn hub(endpoint: &str) -> Arc<dyn Origin> {
    let ms = Duration::from_millis;
    // A machine that is busy with other tests is silent for a while too.
    let rate = Rate { bytes: 1000, over: ms(3000) };
    let timeouts = Timeouts { connect: ms(5000), answer: ms(5000), piece: ms(2500), rate };
    let endpoint = Endpoint::parse(endpoint).unwrap();
    let settings = Settings { endpoint, token: None, policy: quick(), may_use_xet: true };
    Arc::new(Hub::new(Client::new(timeouts).unwrap(), settings))
}

fn options(cache: &Path) -> Options {
    Options {
        transfer: transfer::Options { policy: quick(), ..transfer::Options::default() },
        ..Options::new(Some(Cache::at(cache)))
    }
}

fn get(hub: Option<Arc<dyn Origin>>, model: &str, options: &Options) -> Result<Fetched> {
    fetch(hub, Wish::parse(model)?, options.clone()).wait()
}

/// Bytes that no two places share.
fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(step).take(size).collect()
}

fn sample() -> Served {
    Served::new("org/name")
        .file("config.json", "{\"a\": 1}")
        .file("README.md", "# A model\n")
        .file("empty", "")
        .lfs("model.safetensors", noise(1_500_000, 1))
        .lfs("pytorch_model.bin", noise(40_000, 2))
        .file("sub/deeper/config.json", "{\"a\": 1}")
}

/// All below a folder: names of files with their sizes, links with where they lead.
fn below(root: &Path) -> Vec<String> {
    fn walk(root: &Path, at: &Path, found: &mut Vec<String>) {
        let mut entries: Vec<_> = std::fs::read_dir(at).map_or(Vec::new(), |d| d.flatten().collect());
        entries.sort_by_key(|e| e.file_name());
        for entry in entries {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let name = path.strip_prefix(root).unwrap().display().to_string();
            match kind {
                k if k.is_dir() => walk(root, &path, found),
                k if k.is_symlink() => {
                    found.push(format!("{name} -> {}", std::fs::read_link(&path).unwrap().display()));
                }
                _ => found.push(name),
            }
        }
    }
    let mut found = Vec::new();
    walk(root, root, &mut found);
    found
}

fn assert_is(path: &Path, served: &Served, names: &[&str]) {
    for name in names {
        let file = served.files.iter().find(|f| f.path == *name).unwrap();
        assert!(std::fs::read(path.join(name)).unwrap() == *file.bytes, "{name}");
    }
}

const NEEDED: &[&str] = &["config.json", "README.md", "empty", "model.safetensors", "sub/deeper/config.json"];

#[test]
fn a_repo_comes_into_the_cache() {
    let (server, place) = (Server::start(), tempfile::tempdir().unwrap());
    let served = server.hub(sample());
    let options = options(place.path());
    let dry = Options { dry_run: true, ..options.clone() };
    let plan = get(Some(hub(&served.endpoint())), "org/name", &dry).unwrap();
    assert!(below(place.path()).is_empty(), "a dry run leaves nothing");
    assert_eq!((plan.files.len(), plan.is_dry_run), (5, true));

    let fetched = get(Some(hub(&served.endpoint())), "org/name", &options).unwrap();
    assert_eq!((fetched.fetched_bytes, fetched.fetched_bytes), (plan.fetched_bytes, 1_500_026));
    assert_eq!((fetched.commit.as_str(), fetched.reused_bytes), (COMMIT, 0));
    assert_eq!(fetched.left_out.len(), 1);
    assert_eq!(
        (fetched.left_out[0].names.as_slice(), fetched.left_out[0].size_bytes),
        (&["pytorch_model.bin".to_owned()][..], 40_000)
    );
    assert!(fetched.files.iter().all(|f| f.is_verified && f.how == How::Fetched));
    assert_is(&fetched.path, &served.repo, NEEDED);
    let etag = |name: &str| served.file(name).etag();
    let (small, readme, empty, big) =
        (etag("config.json"), etag("README.md"), etag("empty"), etag("model.safetensors"));
    let at = format!("models--org--name/snapshots/{COMMIT}");
    let mut expected = vec![
        "CACHEDIR.TAG".to_owned(),
        format!("models--org--name/.hoist/trees/{COMMIT}.json"),
        format!("models--org--name/blobs/{small}"),
        format!("models--org--name/blobs/{readme}"),
        format!("models--org--name/blobs/{empty}"),
        format!("models--org--name/blobs/{big}"),
        "models--org--name/refs/main".to_owned(),
        format!("{at}/README.md -> ../../blobs/{readme}"),
        format!("{at}/config.json -> ../../blobs/{small}"),
        format!("{at}/empty -> ../../blobs/{empty}"),
        format!("{at}/model.safetensors -> ../../blobs/{big}"),
        format!("{at}/sub/deeper/config.json -> ../../../../blobs/{small}"),
    ];
    expected.sort();
    let mut found: Vec<String> =
        below(place.path()).into_iter().filter(|f| !f.starts_with(".locks/")).collect();
    found.sort();
    assert_eq!(found, expected);
    let reference = std::fs::read(place.path().join("models--org--name/refs/main")).unwrap();
    assert_eq!(reference, COMMIT.as_bytes());
    // The same bytes under two names come once, and nothing is asked for twice.
    let log = server.log();
    assert_eq!(log.iter().filter(|s| s.path == served.tree_path()).count(), 2, "a dry run keeps no listing");
    assert_eq!(served.resolve_count("config.json") + served.resolve_count("sub/deeper/config.json"), 1);
    assert!(log.iter().all(|s| !s.path.contains("pytorch_model.bin")));

    server.forget();
    let again = get(Some(hub(&served.endpoint())), "org/name", &options).unwrap();
    assert_eq!((again.fetched_bytes, again.reused_bytes), (0, fetched.fetched_bytes));
    let asked: Vec<String> = server.log().iter().map(|s| s.path.clone()).collect();
    assert_eq!(asked, [served.revision_path("main")]);
    server.forget();
    get(Some(hub(&served.endpoint())), &format!("org/name@{COMMIT}"), &options).unwrap();
    get(None, "org/name", &options).unwrap();
    assert_eq!(server.log().len(), 0, "what is pinned and there needs no network");

    // What was left out comes on its own, and then Python may take the snapshot as whole.
    let all = Options { wishes: Wishes { all: true, ..Wishes::default() }, ..options.clone() };
    assert_eq!(get(Some(hub(&served.endpoint())), "org/name", &all).unwrap().fetched_bytes, 40_000);
    assert!(place.path().join(format!("models--org--name/trees/{COMMIT}.json")).exists());
}

/// What is asked for, of what is there, without a network: the exit code and what the message says, or that it works.
#[test]
fn without_a_network_what_is_missing_is_named() {
    let (server, place) = (Server::start(), tempfile::tempdir().unwrap());
    let served = server.hub(sample());
    let usual = options(place.path());
    let small =
        Options { wishes: Wishes { include: vec!["*.json".into()], ..Wishes::default() }, ..usual.clone() };
    get(Some(hub(&served.endpoint())), "org/name", &small).unwrap();
    for (model, options, said) in [
        ("org/name", &small, None),
        ("hf://org/name/config.json", &usual, None),
        ("org/name", &usual, Some("`model.safetensors`")),
        ("org/name@v2", &usual, Some("revision `v2` is not in the cache")),
        ("org/other", &usual, Some("revision `main` is not in the cache")),
    ] {
        match (get(None, model, options), said) {
            (Ok(_), None) => {}
            (Err(e), Some(said)) if e.kind() == ErrorKind::NotFound && e.to_string().contains(said) => {}
            (other, _) => panic!("{model}: {other:?}, expected {said:?}"),
        }
    }
    // A cache whose writer left no listing: what an index names is what belongs to it.
    let place = tempfile::tempdir().unwrap();
    let snapshot = place.path().join(format!("models--org--name/snapshots/{COMMIT}"));
    std::fs::create_dir_all(&snapshot).unwrap();
    let index = json!({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}});
    std::fs::write(snapshot.join("model.safetensors.index.json"), index.to_string()).unwrap();
    std::fs::write(snapshot.join("model-00001-of-00002.safetensors"), "x").unwrap();
    let model = format!("org/name@{COMMIT}");
    let error = get(None, &model, &options(place.path())).unwrap_err();
    assert!(error.kind() == ErrorKind::NotFound && error.to_string().contains("model-00002"), "{error}");
    std::fs::write(snapshot.join("model-00002-of-00002.safetensors"), "x").unwrap();
    assert_eq!(get(None, &model, &options(place.path())).unwrap().files.len(), 3);
}

/// What goes wrong, how it ends, what the message says. Nothing that is wrong gets its name, and nothing lies outside.
#[test]
fn what_goes_wrong_ends_as_it_should() {
    type Break = fn(&mut Served, &mut Vec<(&'static str, Vec<Answer>)>);
    let rows: &[(&str, Break, u8, &str)] = &[
        (
            "wrong bytes",
            |_, data| data.push(("model.safetensors", vec![Answer::usual().flips(1_000_000)])),
            7,
            "model.safetensors",
        ),
        (
            "wrong bytes of a small file",
            |_, data| data.push(("config.json", vec![Answer::usual().flips(3)])),
            7,
            "config.json",
        ),
        (
            "a server that fails",
            |_, data| data.push(("model.safetensors", vec![Answer::status(503)])),
            5,
            "503",
        ),
        (
            "a server that stalls",
            |_, data| data.push(("model.safetensors", vec![Answer::usual().stalls_after(0)])),
            5,
            "",
        ),
        (
            "limits for ever",
            |_, data| {
                data.push(("model.safetensors", vec![Answer::status(429).header("Retry-After", "1")]));
            },
            6,
            "",
        ),
        (
            "a page instead of a file",
            |_, data| data.push(("model.safetensors", vec![Answer::html()])),
            7,
            "HTML",
        ),
        ("a gated repo", |repo, _| repo.is_gated = true, 4, "org/name"),
        ("another commit midway", |repo, _| repo.commit_header = Some(OTHER_COMMIT.to_owned()), 7, ""),
        ("a name that leads out", |repo, _| repo.entries.push(entry("../../escape")), 1, "escape"),
        ("an absolute name", |repo, _| repo.entries.push(entry("/tmp/escape")), 1, "escape"),
        ("a name with a backslash", |repo, _| repo.entries.push(entry("..\\escape")), 1, "escape"),
        ("a name for git", |repo, _| repo.entries.push(entry("sub/.GIT/config")), 1, "git"),
        (
            "a name among the notes",
            |repo, _| repo.entries.push(entry(".cache/huggingface/download/x.metadata")),
            1,
            "noted",
        ),
        ("a name twice", |repo, _| repo.entries.push(entry("config.json")), 1, "config.json"),
        ("a file that is a folder", |repo, _| repo.entries.push(entry("config.json/x")), 1, "config.json"),
        (
            "a hash that is a path",
            |repo, _| {
                let mut row = entry("x");
                row["oid"] = json!("../../../../escape");
                repo.entries.push(row);
            },
            1,
            "",
        ),
    ];
    let mut wrong = Vec::new();
    for (name, break_it, code, said) in rows {
        for local in [false, true] {
            let (server, place) = (Server::start(), tempfile::tempdir().unwrap());
            let (mut repo, mut data) = (sample(), Vec::new());
            break_it(&mut repo, &mut data);
            let served = server.hub(repo);
            for (file, answers) in data {
                served.data(file, answers);
            }
            let inner = place.path().join("a/b/c");
            let mut options = options(&inner.join("cache"));
            options.local_dir = local.then(|| inner.join("out"));
            let started = Instant::now();
            let result = get(Some(hub(&served.endpoint())), "org/name", &options);
            let text = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
            let got = result.err().map_or(0, |e| e.kind().exit_code());
            if got != *code || !text.contains(said) || started.elapsed() > Duration::from_secs(60) {
                wrong.push(format!(
                    "{name}, local {local}: exit {got} after {:?}, expected {code} and `{said}`: {text}",
                    started.elapsed()
                ));
            }
            let left = below(place.path());
            // What no map tells of cannot be taken up, and only fills the disk.
            let is_dead = |f: &&String| {
                let size = std::fs::metadata(place.path().join(f)).map_or(0, |facts| facts.len());
                f.ends_with(".hoist-incomplete") && size > 256 << 10 && !left.contains(&format!("{f}.map"))
            };
            if let Some(dead) = left.iter().find(is_dead) {
                wrong.push(format!("{name}, local {local}: {dead} is left, and of no use"));
            }
            let named = |f: &String| {
                f.contains("snapshots") || f.starts_with("a/b/c/out/model") || f.contains("/refs/")
            };
            if left.iter().any(|f| !f.starts_with("a/b/c/"))
                || left.iter().any(|f| named(f) && f.contains("model.safetensors"))
                || left.iter().any(|f| f.contains("/refs/"))
            {
                wrong.push(format!("{name}, local {local}: left {left:#?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn entry(path: &str) -> serde_json::Value {
    json!({"type": "file", "path": path, "size": 3, "oid": "0123456789abcdef0123456789abcdef01234567"})
}

#[test]
fn a_run_that_was_cut_off_goes_on() {
    let (server, place) = (Server::start(), tempfile::tempdir().unwrap());
    let size = 6 << 20;
    let served = server.hub(Served::new("org/name").lfs("model.safetensors", noise(size, 3)));
    // Every answer ends after a part of it: bytes come, and then no more of them.
    served.data("model.safetensors", [Answer::usual(), Answer::status(503)]);
    let options = options(place.path());
    let options =
        Options { transfer: transfer::Options { connections_max: 1, ..options.transfer.clone() }, ..options };
    served.data("model.safetensors", [Answer::usual().reset_after(4 << 20), Answer::status(503)]);
    let error = get(Some(hub(&served.endpoint())), "org/name", &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    let left = below(place.path());
    assert!(left.iter().any(|f| f.ends_with(".hoist-incomplete")), "{left:?}");
    assert!(!left.iter().any(|f| f.contains("snapshots") || f.contains("refs")), "{left:?}");
    let server_again = Server::start();
    let served = server_again.hub(served.repo.clone());
    let fetched = get(Some(hub(&served.endpoint())), "org/name", &options).unwrap();
    assert_is(&fetched.path, &served.repo, &["model.safetensors"]);
    assert!(fetched.resumed_bytes > 0 && fetched.fetched_bytes == size as u64);
    assert!(server_again.sent_bytes() < size, "{} bytes came again", server_again.sent_bytes());
    let left = below(place.path());
    assert!(!left.iter().any(|f| f.contains("hoist-incomplete")), "{left:?}");
}

#[test]
fn two_at_once_fetch_it_once() {
    let (server, place) = (Server::start(), tempfile::tempdir().unwrap());
    let served = server.hub(sample());
    served.data("model.safetensors", [Answer::usual().drips(100_000, Duration::from_millis(20))]);
    let options = options(place.path());
    let jobs: Vec<_> = (0..3)
        .map(|_| fetch(Some(hub(&served.endpoint())), Wish::parse("org/name").unwrap(), options.clone()))
        .collect();
    let fetched: Vec<Fetched> = jobs.into_iter().map(|job| job.wait().unwrap()).collect();
    let came: u64 = fetched.iter().map(|f| f.fetched_bytes).sum();
    assert_eq!(came, 1_500_026, "each byte was fetched by one of them");
    assert_is(&fetched[2].path, &served.repo, NEEDED);
}

#[test]
fn a_lock_that_nobody_moves_under_is_told_of() {
    let (server, place) = (Server::start(), tempfile::tempdir().unwrap());
    let served = server.hub(sample());
    let etag = served.file("model.safetensors").etag();
    let path = place.path().join(".locks/models--org--name").join(format!("{etag}.lock"));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = std::fs::File::create(&path).unwrap();
    file.lock().unwrap();
    let options = Options { lock_patience: Duration::from_millis(300), ..options(place.path()) };
    let job = fetch(Some(hub(&served.endpoint())), Wish::parse("org/name").unwrap(), options.clone());
    // By its number, where the system lists who holds locks: here it is this process.
    let ours = std::process::id().to_string();
    let table = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let is_listed =
        table.lines().any(|line| line.contains("FLOCK") && line.split(' ').any(|word| word == ours));
    let who = if is_listed { format!("process {ours}") } else { "another process".into() };
    let waiting = format!("waiting for {who} that fetches");
    let waits =
        job.events().iter().any(|e| matches!(e, Event::Step { label, .. } if label.starts_with(&waiting)));
    let error = job.wait().unwrap_err();
    assert!(waits && error.kind() == ErrorKind::Io, "{error}");
    assert!(error.to_string().contains(&format!("{who} holds the lock")), "{error}");
    drop(file);
    get(Some(hub(&served.endpoint())), "org/name", &options).unwrap();
}

#[test]
fn a_cancelled_fetch_keeps_what_has_come_and_names_nothing() {
    let (server, place) = (Server::start(), tempfile::tempdir().unwrap());
    let served = server.hub(Served::new("org/name").lfs("model.safetensors", noise(3 << 20, 4)));
    served.data("model.safetensors", [Answer::usual().drips(100_000, Duration::from_millis(50))]);
    let job = fetch(Some(hub(&served.endpoint())), Wish::parse("org/name").unwrap(), options(place.path()));
    for event in job.events().iter() {
        if matches!(event, Event::Moved { bytes, .. } if bytes > 500_000) {
            break;
        }
    }
    let started = Instant::now();
    job.cancel();
    assert!(matches!(job.wait().unwrap_err().kind(), ErrorKind::Signal(_)));
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let left = below(place.path());
    assert!(left.iter().any(|f| f.ends_with(".hoist-incomplete")), "{left:?}");
    assert!(!left.iter().any(|f| f.contains("snapshots/")), "{left:?}");
}

/// A blob that has its name and not its bytes: by its size it is found out at once, by its hash where that is asked for.
#[test]
fn damaged_blobs_are_found() {
    let (server, place) = (Server::start(), tempfile::tempdir().unwrap());
    let served = server.hub(sample());
    let usual = options(place.path());
    let path = get(Some(hub(&served.endpoint())), "org/name", &usual).unwrap().path;
    let blob = place.path().join("models--org--name/blobs").join(served.file("model.safetensors").etag());
    let cache = Cache::at(place.path());
    let checked = inventory::verify(cache.clone(), Vec::new()).wait().unwrap();
    assert_eq!((checked.file_count, checked.size_bytes, checked.damages.len()), (4, 1_500_018, 0));

    std::fs::write(&blob, "cut").unwrap();
    assert!(get(None, "org/name", &usual).unwrap_err().to_string().contains("`model.safetensors`"));
    get(Some(hub(&served.endpoint())), "org/name", &usual).unwrap();
    assert_is(&path, &served.repo, NEEDED);

    let mut bytes = std::fs::read(&blob).unwrap();
    bytes[700_000] ^= 1;
    std::fs::write(&blob, &bytes).unwrap();
    let checked = inventory::verify(cache.clone(), vec![Target::parse("org/name")]).wait().unwrap();
    assert_eq!(checked.damages.len(), 1);
    assert_eq!(
        (checked.damages[0].name.as_str(), checked.damages[0].id.as_str()),
        ("model.safetensors", "org/name")
    );
    assert_eq!(
        get(Some(hub(&served.endpoint())), "org/name", &usual).unwrap().fetched_bytes,
        0,
        "names are trusted"
    );
    let strict = Options { require_hash: true, ..usual };
    assert_eq!(get(None, "org/name", &strict).unwrap_err().kind(), ErrorKind::Integrity);
    let fetched = get(Some(hub(&served.endpoint())), "org/name", &strict).unwrap();
    assert_eq!(fetched.fetched_bytes, 1_500_000);
    assert_is(&path, &served.repo, NEEDED);
    assert!(inventory::verify(cache, vec![]).wait().unwrap().damages.is_empty());
}

#[test]
fn a_folder_is_filled_from_what_is_there() {
    let (server, place) = (Server::start(), tempfile::tempdir().unwrap());
    let served = server.hub(sample());
    let out = place.path().join("out");
    let options = Options { local_dir: Some(out.clone()), ..options(&place.path().join("cache")) };
    // A file that somebody copied there, one of the same size with other bytes, and one that is no file of the repo.
    std::fs::create_dir_all(&out).unwrap();
    std::fs::write(out.join("model.safetensors"), &*served.file("model.safetensors").bytes).unwrap();
    std::fs::write(out.join("config.json"), "{\"a\": 2}").unwrap();
    std::fs::write(out.join("notes.txt"), "mine").unwrap();
    let fetched = get(Some(hub(&served.endpoint())), "org/name", &options).unwrap();
    assert_eq!((fetched.path.as_path(), fetched.fetched_bytes), (out.as_path(), 26));
    assert_is(&out, &served.repo, NEEDED);
    assert_eq!(std::fs::read(out.join("notes.txt")).unwrap(), b"mine");
    assert!(!place.path().join("cache").exists(), "the cache is not touched");
    let note =
        std::fs::read_to_string(out.join(".cache/huggingface/download/model.safetensors.metadata")).unwrap();
    let lines: Vec<&str> = note.lines().collect();
    assert_eq!(lines[..2], [COMMIT, &served.file("model.safetensors").etag()]);
    assert!(lines[2].parse::<f64>().is_ok() && lines.len() == 3 && note.ends_with('\n'), "{note:?}");
    // A folder in the place of a file is the user's, and nothing is removed.
    std::fs::remove_file(out.join("config.json")).unwrap();
    std::fs::create_dir(out.join("config.json")).unwrap();
    let error = get(Some(hub(&served.endpoint())), "org/name", &options).unwrap_err();
    assert!(error.kind() == ErrorKind::BadInput && error.to_string().contains("is a folder"), "{error}");
}

#[test]
fn a_mirror_without_a_listing_is_unverified_and_refused_where_that_matters() {
    let (server, place) = (Server::start(), tempfile::tempdir().unwrap());
    let mut repo = Served::new("org/name").file("config.json", "{}").file("README.md", "x");
    (repo.has_tree, repo.has_linked) = (false, false);
    let served = server.hub(repo);
    let usual = options(place.path());
    let strict = Options { require_hash: true, ..usual.clone() };
    let error = get(Some(hub(&served.endpoint())), "org/name", &strict).unwrap_err();
    assert!(error.kind() == ErrorKind::Integrity && error.to_string().contains("--require-hash"), "{error}");
    let fetched = get(Some(hub(&served.endpoint())), "org/name", &usual).unwrap();
    assert!(fetched.files.iter().all(|f| !f.is_verified), "{fetched:?}");
    assert!(fetched.notes.iter().any(|n| n.contains("2 files are unverified")), "{:?}", fetched.notes);
    assert_is(&fetched.path, &served.repo, &["config.json", "README.md"]);
    server.forget();
    let again = get(Some(hub(&served.endpoint())), "org/name", &usual).unwrap();
    assert_eq!(again.fetched_bytes, 0);
}

#[test]
fn a_lock_file_pins_and_binds() {
    let (server, place) = (Server::start(), tempfile::tempdir().unwrap());
    let served = server.hub(sample());
    let lock: PathBuf = place.path().join("models.lock");
    let write = Options { lock: Some(lock.clone()), ..options(&place.path().join("a")) };
    let bind =
        Options { locked: true, ..Options { lock: Some(lock.clone()), ..options(&place.path().join("b")) } };
    let ask = |options: &Options| get(Some(hub(&served.endpoint())), "org/name", options);
    assert_eq!(ask(&bind).unwrap_err().kind(), ErrorKind::NotFound, "no lock file");
    ask(&write).unwrap();
    let text = std::fs::read_to_string(&lock).unwrap();
    ask(&write).unwrap();
    assert_eq!(std::fs::read_to_string(&lock).unwrap(), text, "the same again");
    server.forget();
    ask(&bind).unwrap();
    assert!(
        server.log().iter().all(|s| s.path != served.revision_path("main")),
        "the commit is the locked one"
    );
    let hash = |name: &str| served.file(name).sha256();
    // What is changed in the lock file, and what is said of it.
    let rows: &[(String, String, u8, &str)] = &[
        (COMMIT.to_owned(), OTHER_COMMIT.to_owned(), 3, ""),
        (hash("model.safetensors"), "0".repeat(64), 7, "`model.safetensors` has SHA-256"),
        (hash("config.json"), "0".repeat(64), 7, "config.json"),
        ("size = 1500000".into(), "size = 1500001".into(), 7, "`model.safetensors` has 1,500,000 bytes"),
        ("path = \"README.md\"".into(), "path = \"readme\"".into(), 7, "`readme` is locked and not there"),
        ("@main".into(), "@v1".into(), 7, "is not in the lock file"),
        ("version = 1".into(), "version = 2".into(), 9, "version 2"),
        ("[[source]]".into(), "[[source]".into(), 1, "line"),
        ("sha256 = ".into(), "sha512 = ".into(), 1, "sha512"),
    ];
    for (from, to, code, said) in rows {
        std::fs::write(&lock, text.replace(from, to)).unwrap();
        for cache in ["b", "fresh"] {
            let place = tempfile::tempdir().unwrap();
            let fresh = Options { cache: Some(Cache::at(place.path())), ..bind.clone() };
            let error = ask(if cache == "b" { &bind } else { &fresh }).unwrap_err();
            let ok = error.kind().exit_code() == *code && error.to_string().contains(said);
            assert!(ok, "{from} -> {to}, cache {cache}: {error}, expected {code} and `{said}`");
        }
    }
}

#[test]
fn removal_takes_what_nothing_else_needs() {
    let (server, place) = (Server::start(), tempfile::tempdir().unwrap());
    let served = server.hub(sample());
    let cache = Cache::at(place.path());
    get(Some(hub(&served.endpoint())), "org/name", &options(place.path())).unwrap();
    // A second commit that shares a blob.
    let folder = place.path().join("models--org--name");
    let other = folder.join("snapshots").join(OTHER_COMMIT);
    std::fs::create_dir_all(&other).unwrap();
    let shared = served.file("config.json").etag();
    std::os::unix::fs::symlink(format!("../../blobs/{shared}"), other.join("config.json")).unwrap();
    std::fs::write(folder.join("refs/v2"), OTHER_COMMIT).unwrap();
    let held = inventory::scan(&cache).unwrap();
    assert_eq!(held.len(), 1);
    let names: Vec<_> =
        held[0].revisions.iter().map(|r| (r.commit.as_str(), r.names.join(" "), r.file_count)).collect();
    assert!(
        names.contains(&(COMMIT, "main".into(), 5)) && names.contains(&(OTHER_COMMIT, "v2".into(), 1)),
        "{names:?}"
    );

    let plan = inventory::plan_removal(&cache, &[Target::parse("org/name@main")]).unwrap();
    assert_eq!((plan.len(), plan[0].size_bytes), (1, 1_500_010));
    inventory::remove(&plan[0]).unwrap();
    let mut left: Vec<String> = below(&folder);
    left.sort();
    assert_eq!(
        left,
        [
            format!("blobs/{shared}"),
            "refs/v2".into(),
            format!("snapshots/{OTHER_COMMIT}/config.json -> ../../blobs/{shared}")
        ]
    );
    let plan = inventory::plan_removal(&cache, &[Target::parse(OTHER_COMMIT)]).unwrap();
    let lock = place.path().join(".locks/models--org--name").join(format!("{shared}.lock"));
    std::fs::create_dir_all(lock.parent().unwrap()).unwrap();
    let file = std::fs::File::create(&lock).unwrap();
    file.lock().unwrap();
    assert_eq!(inventory::remove(&plan[0]).unwrap_err().kind(), ErrorKind::Io, "somebody writes");
    drop(file);
    inventory::remove(&plan[0]).unwrap();
    assert!(!folder.exists());
    let error = inventory::plan_removal(&cache, &[Target::parse("org/name")]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn without_links_files_are_files() {
    let (server, place) = (Server::start(), tempfile::tempdir().unwrap());
    let served = server.hub(sample());
    let options = Options { links: false, ..options(place.path()) };
    let fetched = get(Some(hub(&served.endpoint())), "org/name", &options).unwrap();
    assert_is(&fetched.path, &served.repo, NEEDED);
    assert!(below(place.path()).iter().all(|f| !f.contains("->")));
    assert_eq!(get(Some(hub(&served.endpoint())), "org/name", &options).unwrap().fetched_bytes, 0);
}

/// Bytes at hand, as if they were far away.
#[derive(Debug)]
struct Near(&'static str, Vec<u8>);

struct Piece(Option<bytes::Bytes>);

impl Body for Piece {
    fn next(&mut self, _stop: Stop<'_>) -> Result<Option<bytes::Bytes>> {
        Ok(self.0.take())
    }
}

impl Ranged for Near {
    fn name(&self) -> &str {
        self.0
    }

    fn size_bytes(&self) -> u64 {
        self.1.len() as u64
    }

    fn open(&self, range: std::ops::Range<u64>, _stop: Stop<'_>) -> Result<Box<dyn Body>> {
        let piece = self.1[range.start as usize..range.end as usize].to_vec();
        Ok(Box::new(Piece(Some(piece.into()))))
    }
}

#[test]
fn objects_come_into_a_folder() {
    let place = tempfile::tempdir().unwrap();
    let hash = "ef537f25c895bfa782526529a9b63d97aa631564d5d789c2b765448c8635fb6c";
    let objects = |text: &'static str, sha256: Option<&str>| {
        let far = |name, bytes: Vec<u8>| Arc::new(Near(name, bytes)) as Arc<dyn Ranged>;
        let all = [
            ("config.json".to_owned(), None, far("config.json", b"{}".to_vec())),
            ("model.safetensors".to_owned(), sha256.map(str::to_owned), far("model", text.into())),
            ("model.h5".to_owned(), None, far("h5", noise(1000, 9))),
        ];
        Some(Arc::new(Objects::new(all)) as Arc<dyn Origin>)
    };
    let lock = place.path().join("models.lock");
    let out = place.path().join("out");
    let options = Options {
        local_dir: Some(out.clone()),
        cache: None,
        lock: Some(lock.clone()),
        ..options(place.path())
    };
    let ask =
        |origin, options: &Options| fetch(origin, Wish::of_url("s3://bucket/model"), options.clone()).wait();
    let fetched = ask(objects("The quick brown fox jumps over the lazy dog.", Some(hash)), &options).unwrap();
    assert_eq!(
        (fetched.fetched_bytes, fetched.left_out.len(), fetched.repo.as_str()),
        (46, 1, "s3://bucket/model")
    );
    assert!(fetched.notes.iter().any(|n| n.contains("1 file is unverified")), "{:?}", fetched.notes);
    assert_eq!(std::fs::read(out.join("config.json")).unwrap(), b"{}");
    let text = std::fs::read_to_string(&lock).unwrap();
    assert!(text.contains("uri = \"s3://bucket/model\"") && text.contains(hash), "{text}");
    let again = ask(objects("The quick brown fox jumps over the lazy dog.", Some(hash)), &options).unwrap();
    assert_eq!(again.fetched_bytes, 0);
    let wrong = ask(
        objects("The quick brown fox jumps over the lazy cat.", Some(hash)),
        &Options { lock: None, ..options.clone() },
    );
    assert_eq!(wrong.map(|f| f.fetched_bytes).ok(), Some(0), "what is there has the hash");
    // Of what no store tells a hash, the lock file does.
    let fox = || objects("The quick brown fox jumps over the lazy dog.", None);
    let locked =
        |dir: &str| Options { locked: true, local_dir: Some(place.path().join(dir)), ..options.clone() };
    assert!(ask(fox(), &locked("fresh")).unwrap().files.iter().all(|f| f.is_verified));
    let other = objects("The quick brown fox jumps over the lazy cat.", None);
    assert_eq!(ask(other, &locked("other")).unwrap_err().kind(), ErrorKind::Integrity);
    std::fs::remove_file(out.join("model.safetensors")).unwrap();
    let error =
        ask(objects("The quick brown fox jumps over the lazy cat.", Some(hash)), &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
    let strict = Options { require_hash: true, ..options };
    assert_eq!(ask(objects("x", None), &strict).unwrap_err().kind(), ErrorKind::Integrity);
}
