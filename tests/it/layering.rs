//! The house's rules, enforced by reading the source: who may import whom, where unsafe code, printing, threads and the
//! driver's crate may be named, how long a file may be. The rules are tables; a file that no row names fails, so a new
//! room is a decision and not an accident.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A file and what is below it, and the line and room it belongs to. The longest row that fits counts.
const ROOMS: &[(&str, u32, &str)] = &[
    ("error", 1, "error"),
    ("text", 1, "text"),
    ("dtype", 1, "dtype"),
    ("machine", 1, "machine"),
    ("buf", 2, "buf"),
    ("checkpoint", 2, "checkpoint"),
    ("source", 3, "source"),
    ("format", 3, "format"),
    ("transform", 3, "transform"),
    ("open", 4, "open"),
    ("plan", 4, "plan"),
    ("sink", 5, "sink"),
    ("run", 6, "run"),
    ("lock", 6, "lock"),
    ("load", 7, "load"),
    ("convert", 7, "convert"),
    ("quantize", 7, "quantize"),
    ("inspect", 7, "inspect"),
    ("diff", 7, "diff"),
    ("synth", 7, "synth"),
    ("fetch", 7, "fetch"),
    ("doctor", 7, "doctor"),
    ("verify", 8, "verify"),
    ("cli", 9, "cli"),
    ("main", 9, "cli"),
];

/// Imports on one line that are meant, room to room.
const SAME_LINE: &[(&str, &str)] =
    &[("error", "text"), ("plan", "open"), ("quantize", "convert"), ("quantize", "load")];

/// Imports of a lower line that are refused all the same.
const FORBIDDEN: &[(&str, &str)] = &[
    ("source", "checkpoint"),
    ("open", "plan"),
    ("open", "sink"),
    ("verify", "source"),
    ("verify", "format"),
    ("verify", "plan"),
    ("verify", "sink"),
];

/// Words, and the files (and what is below them) that may hold them.
const WORDS: &[(&[&str], &[&str], &str)] = &[
    (&["cudarc"], &["sink/cuda", "verify/device"], "only sink/cuda names the driver's crate"),
    (&["candle_core", "candle_nn", "candle_transformers"], &["verify"], "only verify names candle"),
    (&["reqwest"], &["source/http"], "only source/http names the HTTP client"),
    (
        &["lz4_flex", "Xet", "reconstructions", "cas_url"],
        &["source/hub/xet", "source/hub/api"],
        "only source/hub/xet speaks Xet; the hub's client makes it",
    ),
    (&["object_store"], &["source/object"], "only source/object names the stores' client"),
    (&["tokio"], &["source/http", "source/object"], "network runtimes live in source"),
    (
        &["print!", "println!", "eprint!", "eprintln!", "dbg!", "process::exit", "process::abort"],
        &["main", "cli"],
        "only the command line prints or exits",
    ),
    (
        &["unsafe"],
        &[
            "buf",
            "source/local",
            "sink/cuda",
            "cli/signals",
            "verify/device",
            "transform/simd",
            "transform/block/simd",
            "transform/packing/faces/lookup",
            "transform/method/extremes",
            "transform/method/line",
            "transform/method/search/coarse",
            "transform/method/search/trial",
            "transform/method/search/whole",
            "transform/method/sums",
        ],
        "unsafe code has named rooms",
    ),
    (
        &["thread::spawn", "thread::scope", "thread::Builder"],
        &["run", "source", "cli", "open/headers"],
        "threads are started by run",
    ),
];

/// Words that a room may not hold.
const NOT_IN: &[(&str, &str)] = &[("format", "std::fs"), ("transform", "std::fs"), ("plan", "std::fs")];

const LINES_MAX: usize = 800;

/// A file of the source: its path below `src/` without `.rs`, and its text.
struct Source {
    path: String,
    text: String,
}

/// Replaces comments, strings and characters by spaces, and cuts the unit tests off: they may import what they like.
fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    let starts = |at: usize, with: &str| bytes[at..].starts_with(with.as_bytes());
    while at < bytes.len() {
        let end = if starts(at, "//") {
            at + bytes[at..].iter().position(|&b| b == b'\n').unwrap_or(bytes.len() - at)
        } else if starts(at, "/*") {
            text[at..].find("*/").map_or(bytes.len(), |n| at + n + 2)
        } else if bytes[at] == b'r' && (starts(at, "r\"") || starts(at, "r#")) && !word_before(bytes, at) {
            let hashes = bytes[at + 1..].iter().take_while(|&&b| b == b'#').count();
            match bytes.get(at + 1 + hashes) {
                Some(b'"') => {
                    let close = format!("\"{}", "#".repeat(hashes));
                    let from = at + 2 + hashes;
                    text[from..].find(&close).map_or(bytes.len(), |n| from + n + close.len())
                }
                _ => at,
            }
        } else if bytes[at] == b'"' {
            let mut end = at + 1;
            while end < bytes.len() && bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            end + 1
        } else if bytes[at] == b'\'' {
            // A character, unless it is a lifetime.
            let rest: Vec<char> = text[at + 1..].chars().take(12).collect();
            match rest[..] {
                ['\\', ..] => {
                    let close = rest.iter().skip(2).position(|&c| c == '\'').unwrap_or(0);
                    at + 1 + rest[..close + 3].iter().map(|c| c.len_utf8()).sum::<usize>()
                }
                [c, '\'', ..] => at + 2 + c.len_utf8(),
                _ => at,
            }
        } else {
            at
        };
        if end > at {
            let end = end.min(bytes.len());
            out.extend(text[at..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            at = end;
        } else {
            let c = text[at..].chars().next().unwrap();
            out.push(c);
            at += c.len_utf8();
        }
    }
    let tests = out.find("#[cfg(test)]\nmod tests").unwrap_or(out.len());
    out.truncate(tests);
    out
}

fn word_before(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

/// Whether `word` stands in the code by itself.
fn holds(code: &str, word: &str) -> bool {
    let whole = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(word).any(|(at, _)| {
        let ends_in_word = word.ends_with(|c: char| c.is_alphanumeric());
        let before = whole(code[..at].chars().next_back());
        let after = ends_in_word && whole(code[at + word.len()..].chars().next());
        !before && !after
    })
}

/// Identifiers and punctuation.
fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code;
    while let Some(c) = rest.chars().next() {
        let length = if c.is_alphanumeric() || c == '_' {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            c.len_utf8()
        };
        if !c.is_whitespace() {
            tokens.push(&rest[..length]);
        }
        rest = &rest[length..];
    }
    tokens
}

/// Reads a path or a tree of paths from `at` on, each with `prefix` before it; returns where it ends.
fn paths(tokens: &[&str], mut at: usize, mut prefix: Vec<String>, found: &mut Vec<Vec<String>>) -> usize {
    loop {
        match tokens.get(at) {
            Some(&"{") => {
                at += 1;
                while at < tokens.len() && tokens[at] != "}" {
                    at = if tokens[at] == "," { at + 1 } else { paths(tokens, at, prefix.clone(), found) };
                }
                return at + 1;
            }
            Some(&"super") => {
                prefix.pop();
                at += 1;
            }
            Some(&"self") => at += 1,
            Some(&"as") => at += 1,
            Some(name) => {
                prefix.push(name.to_string());
                at += 1;
            }
            None => {}
        }
        if tokens.get(at) != Some(&"::") {
            found.push(prefix);
            // `as name`
            while matches!(tokens.get(at), Some(&"as")) {
                at += 2;
            }
            return at;
        }
        at += 1;
    }
}

/// The files that a file imports.
fn imports(path: &str, code: &str, files: &BTreeSet<String>) -> BTreeSet<String> {
    let own: Vec<String> = match path {
        "lib" | "main" => Vec::new(),
        _ => path.split('/').map(str::to_string).collect(),
    };
    let tokens = tokens(code);
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let begins = tokens.get(at + 1) == Some(&"::") && (at == 0 || tokens[at - 1] != "::");
        let in_tree = at > 0 && matches!(tokens[at - 1], "{" | ",");
        match *token {
            "crate" | "hoist" if begins => drop(paths(&tokens, at + 2, Vec::new(), &mut found)),
            "super" if begins => {
                let mut prefix = own.clone();
                prefix.pop();
                paths(&tokens, at + 2, prefix, &mut found);
            }
            "self" if begins => drop(paths(&tokens, at + 2, own.clone(), &mut found)),
            // `use local::LocalFile` in the parent of `local`.
            child if begins && !in_tree => {
                let mut full = own.clone();
                full.push(child.to_string());
                if files.contains(&full.join("/")) {
                    paths(&tokens, at, own.clone(), &mut found);
                }
            }
            _ => {}
        }
    }
    let file_of = |segments: Vec<String>| {
        (1..=segments.len()).rev().map(|n| segments[..n].join("/")).find(|path| files.contains(path))
    };
    found.into_iter().filter_map(file_of).filter(|target| target != path).collect()
}

fn below(path: &str, root: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn room(path: &str) -> Option<(u32, &'static str)> {
    ROOMS
        .iter()
        .filter(|(root, ..)| below(path, root))
        .max_by_key(|r| r.0.len())
        .map(|&(_, line, room)| (line, room))
}

/// All that breaks the rules.
fn check(sources: &[Source]) -> Vec<String> {
    let files: BTreeSet<String> = sources.iter().map(|s| s.path.clone()).collect();
    let mut wrong = Vec::new();
    let mut graph: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for Source { path, text } in sources {
        let lines = text.lines().count();
        if lines > LINES_MAX {
            wrong.push(format!("{path}.rs has {lines} lines, more than {LINES_MAX}: split it"));
        }
        let code = code(text);
        for (words, rooms, why) in WORDS {
            let allowed = rooms.iter().any(|root| below(path, root));
            for word in words.iter().filter(|word| !allowed && holds(&code, word)) {
                wrong.push(format!("{path}.rs holds `{word}`: {why}"));
            }
        }
        for (root, word) in NOT_IN.iter().filter(|(root, word)| below(path, root) && holds(&code, word)) {
            wrong.push(format!("{path}.rs holds `{word}`: {root} does no I/O"));
        }
        if path == "lib" {
            continue;
        }
        let Some((line, own)) = room(path) else {
            wrong.push(format!("{path}.rs belongs to no room: give it a row and a line"));
            continue;
        };
        let targets = imports(path, &code, &files);
        for target in &targets {
            let Some((target_line, other)) = room(target) else { continue };
            let allowed = own == other || target_line < line || SAME_LINE.contains(&(own, other));
            if !allowed || FORBIDDEN.contains(&(own, other)) {
                wrong.push(format!("{path}.rs (line {line}) imports {target}.rs (line {target_line})"));
            }
        }
        // What a module takes from those above it in the same tree is how a tree is built, not a cycle.
        let edges = targets.into_iter().filter(|target| !below(path, target)).collect();
        graph.insert(path, edges);
    }
    wrong.extend(cycle(&graph).map(|files| format!("these files import each other: {}", files.join(" → "))));
    wrong
}

/// A cycle of the graph, if there is one.
fn cycle(graph: &BTreeMap<&str, BTreeSet<String>>) -> Option<Vec<String>> {
    fn walk(
        at: &str,
        graph: &BTreeMap<&str, BTreeSet<String>>,
        way: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(n) = way.iter().position(|w| w == at) {
            return Some(way[n..].iter().cloned().chain([at.to_string()]).collect());
        }
        if done.contains(at) {
            return None;
        }
        way.push(at.to_string());
        let found = graph.get(at).and_then(|next| next.iter().find_map(|n| walk(n, graph, way, done)));
        way.pop();
        done.insert(at.to_string());
        found
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|start| walk(start, graph, &mut Vec::new(), &mut done))
}

fn read(directory: &Path, prefix: &str, sources: &mut Vec<Source>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() {
            read(&entry.path(), &format!("{prefix}{name}/"), sources);
        } else if let Some(stem) = name.strip_suffix(".rs") {
            assert_ne!(stem, "mod", "no mod.rs: {:?}", entry.path());
            let text = std::fs::read_to_string(entry.path()).unwrap();
            sources.push(Source { path: format!("{prefix}{stem}"), text });
        }
    }
}

#[test]
fn the_source_keeps_the_rules() {
    let mut sources = Vec::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut sources);
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(sources.len() > 20, "the source was not found");
    let wrong = check(&sources);
    assert!(wrong.is_empty(), "{} rules are broken:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_planted_violation_is_found() {
    let long = "\n".repeat(801);
    let base = [
        ("error", ""),
        ("text", ""),
        ("checkpoint", ""),
        ("source", ""),
        ("source/local", ""),
        ("sink", ""),
        ("plan", ""),
    ];
    let rows: &[(&str, &str, &str)] = &[
        ("source", "use crate::checkpoint::Tensor;", "source.rs (line 3) imports checkpoint.rs (line 2)"),
        (
            "source/local",
            "use crate::{error::Error, sink};",
            "source/local.rs (line 3) imports sink.rs (line 5)",
        ),
        ("source/local", "use super::super::plan::{self, Unit};", "source/local.rs (line 3) imports plan.rs"),
        ("source/local", "fn f() -> crate::plan::Unit { todo!() }", "imports plan.rs"),
        (
            "source/local",
            "use crate::{\n  error::{Error as E, Result},\n  text::grouped,\n  plan::Unit as U,\n};",
            "imports plan.rs",
        ),
        ("format", "use crate::source::ReadAt;", "format.rs (line 3) imports source.rs (line 3)"),
        ("format", "use std::fs::File;", "format.rs holds `std::fs`: format does no I/O"),
        ("open", "use crate::plan::Plan;", "open.rs (line 4) imports plan.rs (line 4)"),
        ("text", "use crate::error::Error;", "text.rs (line 1) imports error.rs (line 1)"),
        ("verify", "use crate::source::local;", "verify.rs (line 8) imports source/local.rs (line 3)"),
        ("load", "use cudarc::driver;", "load.rs holds `cudarc`"),
        ("load", "fn f() { println!(\"x\") }", "load.rs holds `println!`"),
        ("load", "fn f() { std::process::exit(1) }", "load.rs holds `process::exit`"),
        ("load", "fn f() { unsafe { g() } }", "load.rs holds `unsafe`"),
        ("load", "fn f() { std::thread::spawn(|| ()); }", "load.rs holds `thread::spawn`"),
        ("load", &long, "load.rs has 801 lines"),
        ("attic", "", "attic.rs belongs to no room"),
        ("transform/a", "use super::b::X;", "import each other: transform/a → transform/b → transform/a"),
        (
            "main",
            "use hoist::nothing; mod cli; fn f() { let c = '\"'; } fn g<'a>() { unsafe {} }",
            "main.rs holds `unsafe`",
        ),
    ];
    for (path, text, said) in rows {
        let mut sources: Vec<Source> = base
            .iter()
            .filter(|(p, _)| p != path)
            .map(|(p, t)| Source { path: p.to_string(), text: t.to_string() })
            .collect();
        sources.push(Source { path: "transform/b".into(), text: "use crate::transform::a;".into() });
        sources.push(Source { path: path.to_string(), text: text.to_string() });
        let wrong = check(&sources);
        assert!(wrong.len() == 1 && wrong[0].contains(said), "{path}: {text}: {wrong:?}, expected {said}");
    }
}

#[test]
fn what_is_allowed_is_not_found() {
    let sources = [
        ("error", "use crate::text::Shown;"),
        (
            "text",
            "//! println! unsafe cudarc\n/* unsafe */ const A: &str = \"unsafe crate::sink::X\"; const B: &str = r#\"un\"safe println!\"#;",
        ),
        ("buf", "#![allow(unsafe_code)]\nfn f() { unsafe {} }"),
        ("source", "pub mod local;\nuse local::LocalFile;\nuse crate::error::Result;"),
        (
            "source/local",
            "use super::{ReadAt, Temper};\nfn f() { unsafe {} }\n#[cfg(test)]\nmod tests { use crate::sink::X; }",
        ),
        ("plan", "use crate::open::Model;"),
        ("open", "use crate::source::{self, local};"),
        ("sink", "use crate::plan::Dest;\n#![deny(unsafe_code)]"),
        ("sink/cuda/driver", "use cudarc::driver;\nuse crate::buf;\nfn f() { unsafe {} }"),
        ("lib", "pub mod plan; pub use error::Error;"),
        ("main", "mod cli; fn f() { println!() }"),
        ("cli/load", "use hoist::load::Load; use crate::cli::x; fn f() { eprintln!() }"),
        ("load", "use crate::Result;"),
    ];
    let sources: Vec<Source> =
        sources.iter().map(|(p, t)| Source { path: p.to_string(), text: t.to_string() }).collect();
    assert_eq!(check(&sources), [] as [String; 0]);
}
