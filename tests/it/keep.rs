//! What is kept of a model that was far away or was made: lock files of conversions, the cache behind `--tee`; and the flags
//! that say how a model is reached.

use crate::cli::{code, hoist, text};
use crate::naive::testdata;
use crate::rig::server::repo::{COMMIT, Repo, Served};
use crate::rig::server::{Answer, Server};
use hoist::lock::Lock;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

const SHARDS: [&str; 3] = [
    "model-00001-of-00003.safetensors",
    "model-00002-of-00003.safetensors",
    "model-00003-of-00003.safetensors",
];

fn near() -> PathBuf {
    testdata("rustdoc-llama-6m")
}

fn repo() -> Repo {
    let files = std::fs::read_dir(near()).unwrap().map(|e| e.unwrap().path());
    files.fold(Repo::new("org/llama"), |repo, path| {
        let (name, bytes) = (path.file_name().unwrap().to_str().unwrap(), std::fs::read(&path).unwrap());
        match name.ends_with(".safetensors") {
            true => repo.lfs(name, bytes),
            false => repo.file(name, bytes),
        }
    })
}

/// A folder to work in, with a cache of its own, and the hub that is asked.
struct Desk {
    place: tempfile::TempDir,
    endpoint: String,
}

impl Desk {
    fn new(endpoint: &str) -> Desk {
        Desk { place: tempfile::tempdir().unwrap(), endpoint: endpoint.to_owned() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = hoist(arguments);
        command.current_dir(self.place.path()).env("HF_ENDPOINT", &self.endpoint);
        command.env("HF_HUB_CACHE", self.path("cache")).env("HOME", self.path("home"));
        command.env_remove("XDG_CACHE_HOME").output().unwrap()
    }

    /// Runs it; the exit code and a part of what is said are as expected.
    #[track_caller]
    fn check(&self, arguments: &[&str], expected: i32, says: &str) -> Output {
        let output = self.run(arguments);
        let all = format!("{}\n{}", text(&output.stdout), text(&output.stderr));
        assert!(code(&output) == expected && all.contains(says), "{arguments:?}: {}\n{all}", code(&output));
        output
    }

    /// The names in the folder, sorted.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.place.path()).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn remove(&self, name: &str) {
        let path = self.path(name);
        let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    }
}

fn sha256(path: &Path) -> String {
    Sha256::digest(std::fs::read(path).unwrap()).iter().map(|b| format!("{b:02x}")).collect()
}

/// What is written once is written again, whatever the threads and the memory; and the lock file says what it is.
#[test]
fn outputs_are_locked() {
    let model = near();
    let model = model.to_str().unwrap();
    let rows: &[(&[&str], &str, &str)] = &[
        (&["convert", model, "-o", "o"], "o", "convert"),
        (&["convert", model, "-o", "o.gguf", "--dtype", "f16"], "o.gguf", "convert --dtype f16"),
        (
            &["convert", model, "-o", "s", "--shard-size", "3MB", "--include", "*"],
            "s",
            "convert --include '*' --shard-size 3000000",
        ),
        (&["quantize", model, "-o", "q"], "q", "quantize --scheme int4"),
        (&["quantize", model, "-o", "q.gguf", "--pure"], "q.gguf", "quantize --scheme q4_k_m --pure"),
    ];
    let desk = Desk::new("http://127.0.0.1:1");
    for (arguments, out, recipe) in rows {
        let with = |more: &[&str]| -> Output {
            let all: Vec<&str> = arguments.iter().chain(more).copied().collect();
            desk.check(&all, 0, "")
        };
        let planned = with(&["--lock", "m.lock", "--dry-run", "--json"]);
        let planned: Value = serde_json::from_slice(&planned.stdout).unwrap();
        assert!(planned["lock"]["read_again_bytes"].as_u64() > Some(1 << 20), "{}", planned["lock"]);
        assert_eq!(planned["lock"]["read_again_bytes"], planned["file_bytes"], "{out}");
        let said = with(&["--lock", "m.lock", "--dry-run"]);
        assert!(text(&said.stdout).contains("read once more and hashed, written to m.lock"), "{said:?}");
        with(&["--lock", "m.lock", "--threads", "3"]);
        let lock = Lock::read(&desk.path("m.lock")).unwrap();
        let locked = lock.find_output(out).unwrap();
        assert_eq!((locked.recipe.as_str(), locked.source.as_str()), (*recipe, model), "{out}");
        assert_eq!(locked.inputs.len(), 3, "{out}");
        let made = desk.path(out);
        for file in &locked.files {
            let path = if made.is_dir() { made.join(&file.path) } else { made.clone() };
            assert_eq!(file.sha256, sha256(&path), "{out}: {}", file.path);
            assert_eq!(file.size, path.metadata().unwrap().len(), "{out}: {}", file.path);
        }
        assert!(!made.is_dir() || locked.files.iter().any(|f| f.path == "config.json"), "{out}");
        let before = std::fs::read(desk.path("m.lock")).unwrap();
        desk.remove(out);
        with(&["--lock", "m.lock", "--locked", "--threads", "1", "--memory", "64MiB"]);
        assert_eq!(std::fs::read(desk.path("m.lock")).unwrap(), before, "{out}");
    }
    assert_eq!(desk.names(), ["m.lock", "o", "o.gguf", "q", "q.gguf", "s"]);
}

/// A lock file that was changed, what else is asked, the exit code, what is said. What differs gets no name.
#[test]
fn what_differs_from_the_lock_file_gets_no_name() {
    let model = near();
    let model = model.to_str().unwrap();
    type Row<'a> = (&'a str, &'a dyn Fn(&str) -> String, &'a [&'a str], i32, &'a str);
    let same = |text: &str| text.to_owned();
    let digit = |text: &str| {
        let at = text.find("sha256 = \"").unwrap() + 10;
        let other = if &text[at..=at] == "0" { "1" } else { "0" };
        format!("{}{other}{}", &text[..at], &text[at + 1..])
    };
    let size = |text: &str| {
        let at = text.find("[[output.input]]").unwrap();
        format!("{}{}", &text[..at], text[at..].replacen("size = ", "size = 1", 1))
    };
    let lost = |text: &str| {
        let at = text.rfind("[[output.file]]").unwrap();
        text[..at].to_owned()
    };
    let tool = format!("hoist {}", env!("CARGO_PKG_VERSION"));
    let older = |text: &str| text.replace(&tool, "hoist 0.0.1");
    let other = |text: &str| text.replacen("name = \"o", "name = \"p", 1);
    let rows: &[Row<'_>] = &[
        ("the same", &same, &[], 0, ""),
        ("an older tool", &older, &[], 0, "locked by hoist 0.0.1"),
        ("a hash", &digit, &[], 7, "has SHA-256"),
        ("a file less", &lost, &[], 7, "and not locked"),
        ("a source", &size, &[], 7, "bytes, locked"),
        ("a recipe", &same, &["--dtype", "f32"], 7, "recipe `convert --dtype f32`, locked `convert`"),
        ("another output", &other, &[], 7, "is not in the lock file"),
        ("damaged", &|_| "version = 1\n[[output".into(), &[], 1, "is not a lock file"),
    ];
    let desk = Desk::new("http://127.0.0.1:1");
    for out in ["o", "o.gguf"] {
        let arguments = ["convert", model, "-o", out, "--lock", "m.lock"];
        desk.check(&[&arguments[..], &["--locked"]].concat(), 3, "the lock file cannot be read");
        desk.check(&["convert", model, "-o", out, "--locked"], 2, "--lock FILE");
        desk.check(&arguments, 0, "");
        let lock = std::fs::read_to_string(desk.path("m.lock")).unwrap();
        for (what, change, more, expected, says) in rows {
            desk.remove(out);
            std::fs::write(desk.path("m.lock"), change(&lock)).unwrap();
            desk.check(&[&arguments[..], &["--locked"], more].concat(), *expected, says);
            let names = if *expected == 0 { vec!["m.lock", out] } else { vec!["m.lock"] };
            assert_eq!(desk.names(), names, "{what}");
        }
        desk.remove("m.lock");
    }
}

#[test]
fn a_locked_source_is_read_at_its_commit() {
    let server = Server::start();
    let served = server.hub(repo());
    let desk = Desk::new(&served.endpoint());
    let arguments = ["convert", "hf://org/llama", "-o", "o.gguf", "--lock", "m.lock"];
    desk.check(&arguments, 0, "");
    let lock = Lock::read(&desk.path("m.lock")).unwrap();
    let locked = lock.find_output("o.gguf").unwrap();
    assert_eq!((locked.source.as_str(), locked.commit.as_deref()), ("hf://org/llama", Some(COMMIT)));
    for (input, shard) in locked.inputs.iter().zip(SHARDS) {
        assert_eq!((input.path.as_str(), &input.version), (shard, &Some(served.file(shard).sha256())));
    }
    // The branch moves on; what is locked stays.
    let branch = served.revision_path("main");
    server.on(&branch, [Answer::json(format!("{{\"sha\":\"{}\",\"siblings\":[]}}", "9".repeat(40)))]);
    server.forget();
    let locked = [&arguments[..], &["--locked", "--force"]].concat();
    desk.check(&locked, 0, "");
    assert_eq!(server.count(&branch), 0);
    desk.check(&arguments, 3, "");
    // From the cache it is the same source; another commit is not.
    desk.check(&["fetch", &format!("org/llama@{COMMIT}")], 0, "");
    server.forget();
    desk.check(&[&["convert", "org/llama"], &locked[2..]].concat(), 0, "");
    assert_eq!(server.log().len(), 0);
    let other = format!("hf://org/llama@{}", "9".repeat(40));
    desk.check(&[&["convert", other.as_str()], &locked[2..]].concat(), 7, "is locked");
}

/// Bytes of the shards that readers asked for, and the fetch after them asked for again. A fetch begins with the revision.
fn asked_again(server: &Server, served: &Served<'_>) -> usize {
    let branch = served.revision_path("main");
    let mut fetches = 0;
    let mut asked =
        SHARDS.map(|shard| (served.data_path(shard), vec![[false; 2]; served.file(shard).bytes.len()]));
    for seen in server.log() {
        fetches += usize::from(seen.path == branch);
        let Some((_, bytes)) = asked.iter_mut().find(|(path, _)| *path == seen.path) else { continue };
        let (first, last) = seen.range.unwrap_or((0, None));
        let last = last.map_or(bytes.len(), |last| last as usize + 1);
        bytes[first as usize..last].iter_mut().for_each(|byte| byte[fetches - 1] = true);
    }
    assert_eq!(fetches, 2);
    asked.iter().map(|(_, bytes)| bytes.iter().filter(|byte| byte[0] && byte[1]).count()).sum()
}

/// What streams is in the cache afterwards, and nothing came twice but what is small.
#[test]
fn what_streams_is_kept() {
    type Row<'a> = (&'a str, &'a [&'a str], &'a dyn Fn(&Served<'_>));
    let well = |_: &Served<'_>| {};
    let badly = |served: &Served<'_>| {
        let (cut, usual) = (Answer::usual().cut_after(700_001), Answer::usual());
        for shard in SHARDS {
            served.data(shard, [usual.clone(), cut.clone(), usual.clone(), cut.clone(), usual.clone()]);
        }
    };
    let rows: &[Row<'_>] = &[
        ("a conversion", &["convert", "hf://org/llama", "-o", "o", "--dtype", "f32"], &well),
        ("into a GGUF", &["convert", "hf://org/llama", "-o", "o.gguf"], &well),
        ("by its short name", &["convert", "org/llama", "-o", "o"], &well),
        ("a quantisation", &["quantize", "hf://org/llama", "-o", "o"], &well),
        ("a load", &["load", "hf://org/llama", "--device", "cpu"], &well),
        ("a part", &["load", "hf://org/llama", "--device", "cpu", "--include", "*layers.1*"], &well),
        ("cut off again and again", &["convert", "hf://org/llama", "-o", "o"], &badly),
    ];
    let whole: usize = repo().files.iter().map(|f| f.bytes.len()).sum();
    for (what, arguments, fault) in rows {
        let server = Server::start();
        let served = server.hub(repo());
        fault(&served);
        let desk = Desk::new(&served.endpoint());
        desk.check(&[arguments, &["--tee"][..]].concat(), 0, "verified");
        // Units at the edges of what was read; listings come twice, and what was cut off when it was on its way.
        let (again, sent) = (asked_again(&server, &served), server.sent_bytes());
        assert!(again < 300 << 10, "{what}: {again} bytes were read and fetched");
        let reads_all = !arguments.contains(&"--include");
        assert!(!reads_all || sent < whole + (300 << 10), "{what}: {sent} bytes came of {whole}");
        server.forget();
        desk.check(&["load", "hf://org/llama", "--device", "cpu", "--offline"], 0, "");
        desk.check(&["cache", "verify"], 0, "");
        assert_eq!(server.log().len(), 0, "{what}");
        let blobs = std::fs::read_dir(desk.path("cache/models--org--llama/blobs")).unwrap();
        let left: Vec<_> = blobs.map(|e| e.unwrap().file_name()).filter(|n| n.len() > 64).collect();
        assert!(left.is_empty(), "{what}: {left:?}");
    }
}

/// A run that breaks off leaves what the next one takes up.
#[test]
fn what_streamed_before_a_failure_is_not_fetched_again() {
    let server = Server::start();
    let served = server.hub(repo());
    let desk = Desk::new(&served.endpoint());
    // One thread reads the shards in their order: two of them have come when the last one does not.
    served.resolve(SHARDS[2], [Answer::usual(), Answer::status(404)]);
    served.data(SHARDS[2], [Answer::usual(), Answer::status(404)]);
    let load = ["load", "hf://org/llama", "--device", "cpu", "--tee", "--threads", "1"];
    desk.check(&load, 3, SHARDS[2]);
    let sent_before = server.sent_bytes();
    served.resolve(SHARDS[2], [Answer::usual()]);
    served.data(SHARDS[2], [Answer::usual()]);
    server.forget();
    let output = desk.check(&["fetch", "org/llama", "--json"], 0, "left by an earlier run");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let count = |key: &str| document[key].as_u64().unwrap() as usize;
    let (left, came, sent) = (count("resumed_bytes"), count("received_bytes"), server.sent_bytes());
    let whole: usize = repo().files.iter().map(|f| f.bytes.len()).sum();
    let two: usize = SHARDS[..2].iter().map(|shard| served.file(shard).bytes.len()).sum();
    let says = format!("{left} were left, {came} came of {whole}; {sent_before} and {sent} were sent");
    assert!(left >= two && left + came >= whole, "{says}");
    // But for a straggler's end, which comes twice, and of which some is sent and not read.
    assert!(left + came < whole + (1 << 20) && sent_before + sent < whole + (6 << 20), "{says}");
    assert_eq!(served.data_count(SHARDS[0]) + served.data_count(SHARDS[1]), 0, "{says}");
}

/// Each command that takes a MODEL.
const COMMANDS: &[&[&str]] = &[
    &["inspect"],
    &["inspect", "--hash"],
    &["load", "--device", "cpu"],
    &["convert", "-o", "o"],
    &["quantize", "-o", "o"],
    &["diff", "."],
    #[cfg(feature = "verify")]
    &["verify"],
    &["doctor", "--device", "cpu"],
];

#[test]
fn each_command_reaches_a_model_alike() {
    let server = Server::start();
    let served = server.hub(Repo { token: Some("hf_secret".into()), ..repo() });
    let desk = Desk::new(&served.endpoint());
    std::fs::write(desk.path("token"), "hf_secret\n").unwrap();
    let model = near();
    for command in COMMANDS {
        let with = |more: &[&str]| -> Vec<String> {
            let near = model.to_str().unwrap();
            let command = command.iter().map(|word| if *word == "." { near } else { word });
            command.chain(more.iter().copied()).map(str::to_owned).collect()
        };
        let run = |more: &[&str], expected: i32, says: &str| {
            let all = with(more);
            let all: Vec<&str> = all.iter().map(String::as_str).collect();
            let output = desk.check(&all, expected, says);
            assert!(
                !text(&output.stdout).contains("hf_secret") && !text(&output.stderr).contains("hf_secret")
            );
        };
        run(&["hf://org/llama", "--token-file", "token"], 0, "");
        desk.remove("o");
        server.forget();
        run(&["hf://org/llama", "--offline"], 3, "is not in the cache");
        run(&["org/llama", "--offline"], 3, "");
        assert_eq!(server.log().len(), 0, "{command:?}");
        // As the hub says it of what may be there.
        run(&["hf://org/llama"], 3, "is private");
        run(&["hf://org/llama", "--token-file", "none"], 3, "holds no token");
    }
}

#[test]
fn the_doctor_asks_the_hub() {
    let server = Server::start();
    let served = server.hub(repo());
    let silent = Server::start();
    silent.otherwise(|_| Some(Answer::usual().silent()));
    // The endpoint, a flag, what the line says.
    let rows: &[(String, &[&str], &str)] = &[
        (served.endpoint(), &[], "answered in"),
        (served.endpoint(), &["--token-file", "token"], "a token from token"),
        (served.endpoint(), &["--token-file", "none"], "no token: none: is not there or holds no token"),
        (silent.url(""), &[], "no answer in 2.5 s"),
        ("http://127.0.0.1:1".into(), &[], "hub      127.0.0.1:1: "),
        ("ftp://x".into(), &[], "HF_ENDPOINT"),
    ];
    for (endpoint, flags, says) in rows {
        let desk = Desk::new(endpoint);
        std::fs::write(desk.path("token"), "hf_secret\n").unwrap();
        let started = Instant::now();
        let output = desk.check(&[&["doctor", "--device", "cpu"], *flags].concat(), 0, says);
        assert!(started.elapsed() < Duration::from_secs(20), "{endpoint}: {:?}", started.elapsed());
        assert!(!text(&output.stdout).contains("hf_secret"));
        let lines = text(&output.stdout).lines().filter(|l| l.starts_with("hub ")).count();
        assert_eq!(lines, 1, "{endpoint}");
    }
    server.forget();
    let desk = Desk::new(&served.endpoint());
    let output = desk.check(&["doctor", "--device", "cpu", "--offline", "--json"], 0, "");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(document["hub"].is_null() && server.log().is_empty(), "{}", document["hub"]);
    let output = desk.check(&["doctor", "--device", "cpu", "--json"], 0, "");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&document["hub"]["answers"], &document["hub"]["token_from"]), (&true.into(), &Value::Null));
}

/// Fetches whose wish leaves nothing or that is put into the wrong words, and what gives way in a folder.
#[test]
fn fetches_say_what_is_odd_about_them() {
    let server = Server::start();
    let served = server.hub(repo());
    let desk = Desk::new(&served.endpoint());
    let rows: &[(&[&str], i32, &str)] = &[
        (&["--include", ""], 2, "--include takes a pattern"),
        (&["--exclude", ""], 2, "--exclude takes a pattern"),
        (&["--exclude", "*"], 2, "no file of it is left"),
        (&["--include", "config.json", "--exclude", "*.json"], 2, "no file of it is left"),
    ];
    for (flags, expected, says) in rows {
        desk.check(&[&["fetch", "org/llama"], *flags].concat(), *expected, says);
    }
    desk.check(&["fetch", "https://huggingface.co/org/llama/tree/main"], 2, "hoist fetch org/llama");
    desk.check(&["fetch", "https://huggingface.co/datasets/org/llama"], 2, "--local-dir");
    std::fs::create_dir(desk.path("out")).unwrap();
    std::fs::write(desk.path("out/config.json"), "{}").unwrap();
    let says = "another file of the folder was replaced: `config.json`";
    desk.check(&["fetch", "org/llama", "--local-dir", "out"], 0, says);
    let output = desk.check(&["fetch", "org/llama", "--json"], 0, "");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    // A straggler's end may come twice.
    assert!(document["received_bytes"].as_u64() >= document["fetched_bytes"].as_u64(), "{document}");
}
