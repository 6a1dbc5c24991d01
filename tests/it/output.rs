//! Outputs: complete or absent, taken up again, never an input; copies inside the kernel.

use hoist::sink::file::{Copied, Existing, FileSink};
use hoist::sink::output::hash::{
    BLOCK_BYTES, FileHash, Hash, block_count, block_hash, block_range, combine, hash_block, hash_file,
};
use hoist::sink::output::{Begin, DirectoryOut, FileOut, Identity, Out, Stamp, begin, check, kept_bytes};
use hoist::source::local::LocalFile;
use hoist::source::{ReadAt, Temper};
use hoist::{Error, ErrorKind};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn identity(plan: &str) -> Identity {
    let sources = vec![Stamp { name: "model.safetensors".into(), size_bytes: 7, modified_ns: -3 }];
    Identity { plan_hash: plan.into(), sources }
}

/// What is begun by `flags`: `d` a directory, `f` by force.
fn begun(target: &Path, flags: &str, plan: &str, inputs: &[PathBuf]) -> Result<Out, Error> {
    let identity = identity(plan);
    begin(&Begin {
        target,
        force: flags.contains('f'),
        inputs,
        identity: &identity,
        directory: flags.contains('d'),
    })
}

fn directory(target: &Path, flags: &str, plan: &str) -> DirectoryOut {
    match begun(target, &format!("d{flags}"), plan, &[]).unwrap() {
        Out::Directory(out) => out,
        Out::File(_) => panic!("a file"),
    }
}

fn file(target: &Path, flags: &str) -> FileOut {
    match begun(target, flags, "p", &[]).unwrap() {
        Out::File(out) => out,
        Out::Directory(_) => panic!("a directory"),
    }
}

fn hash_of(bytes: &[u8]) -> Hash {
    combine(&bytes.chunks(BLOCK_BYTES as usize).map(block_hash).collect::<Vec<_>>())
}

fn put(out: &DirectoryOut, name: &str, bytes: &[u8]) -> Result<(), Error> {
    let sink = out.create(name, bytes.len() as u64)?;
    sink.write_all_at(bytes, 0)?;
    sink.finish()?;
    out.record(name, bytes.len() as u64, hash_of(bytes))
}

/// Everything below a directory: names, and bytes of files; links as what they say.
fn tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    fn inside(at: &Path, under: &str, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(at).unwrap().map(Result::unwrap) {
            let name = format!("{under}{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                found.insert(format!("{name}/"), vec![]);
                inside(&entry.path(), &format!("{name}/"), found);
            } else if kind.is_symlink() {
                found.insert(format!("{name}@"), vec![]);
            } else if !kind.is_file() {
                found.insert(format!("{name}="), vec![]);
            } else {
                found.insert(name, fs::read(entry.path()).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    inside(root, "", &mut found);
    found
}

fn names(root: &Path) -> Vec<String> {
    tree(root).into_keys().collect()
}

#[test]
fn a_directory_is_complete_or_absent() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("out");
    let out = directory(&target, "", "p");
    put(&out, "model.safetensors", b"weights").unwrap();
    put(&out, "1_Pooling/config.json", b"{}").unwrap();
    put(&out, "a/b/c/deep", b"").unwrap();
    assert!(!target.exists());
    assert_eq!(out.finish().unwrap(), [""; 0]);
    let expected = [
        ".hoist.json",
        "1_Pooling/",
        "1_Pooling/config.json",
        "a/",
        "a/b/",
        "a/b/c/",
        "a/b/c/deep",
        "model.safetensors",
    ];
    assert_eq!(names(&target), expected);
    assert_eq!(names(place.path()).len(), expected.len() + 1, "something is left beside it");

    // The journal says what is there, in an order of its own, and nothing of this machine.
    let json: serde_json::Value =
        serde_json::from_slice(&fs::read(target.join(".hoist.json")).unwrap()).unwrap();
    let files = [("1_Pooling/config.json", "{}"), ("a/b/c/deep", ""), ("model.safetensors", "weights")].map(
        |(name, text)| {
            serde_json::json!({"name": name, "size": text.len(), "xxh3": hash_of(text.as_bytes()).to_string()})
        },
    );
    assert_eq!(json, serde_json::json!({"schema": "hoist.output/1", "plan": "p", "files": files}));

    // The umask's mode, for files and folders.
    let plain = place.path().join("plain");
    fs::write(&plain, "").unwrap();
    fs::create_dir(place.path().join("folder")).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&target.join("model.safetensors")), mode(&plain));
    assert_eq!(mode(&target.join(".hoist.json")), mode(&plain));
    for folder in [target.clone(), target.join("1_Pooling")] {
        assert_eq!(mode(&folder), mode(&place.path().join("folder")));
    }

    // Nothing finished: nothing left.
    let other = place.path().join("other");
    let out = directory(&other, "", "p");
    let sink = out.create("x", 5).unwrap();
    drop((sink, out));
    assert!(!names(place.path()).iter().any(|n| n.starts_with(".other") || n.starts_with("other")));
}

#[test]
fn the_same_files_in_any_order_give_the_same_journal() {
    let place = tempfile::tempdir().unwrap();
    let files: [(&str, &[u8]); 3] = [("b", b"1"), ("a/x", b"22"), ("a.json", b"333")];
    let mut journals = Vec::new();
    for (n, order) in [[0, 1, 2], [2, 0, 1], [1, 2, 0]].into_iter().enumerate() {
        let target = place.path().join(format!("out{n}"));
        let out = directory(&target, "", "p");
        order.into_iter().for_each(|i: usize| put(&out, files[i].0, files[i].1).unwrap());
        out.finish().unwrap();
        journals.push(tree(&target));
    }
    assert!(journals.windows(2).all(|w| w[0] == w[1]), "{journals:?}");
}

/// What stands at OUT before a run, and what becomes of it.
#[test]
fn what_may_be_replaced() {
    type Make = fn(&Path);
    let ours: Make = |out| {
        let made = directory(out, "", "earlier");
        put(&made, "old", b"old").unwrap();
        put(&made, "sub/old", b"old").unwrap();
        made.finish().unwrap();
    };
    let added: Make = |out| {
        let made = directory(out, "", "earlier");
        put(&made, "old", b"old").unwrap();
        made.finish().unwrap();
        fs::write(out.join("notes.txt"), "mine").unwrap();
    };
    let changed: Make = |out| {
        let made = directory(out, "", "earlier");
        put(&made, "config.json", b"{}").unwrap();
        made.finish().unwrap();
        fs::write(out.join("config.json"), "{\"mine\": 1}").unwrap();
    };
    let forged: Make = |out| {
        fs::create_dir(out).unwrap();
        fs::write(out.join(".hoist.json"), "{\"schema\": \"hoist.output/1\"}").unwrap();
    };
    let outside: Make = |out| {
        fs::create_dir(out).unwrap();
        let text = r#"{"schema": "hoist.output/1", "files": [{"name": "../x", "size": 1, "xxh3": "0000000000000000"}]}"#;
        fs::write(out.join(".hoist.json"), text).unwrap();
    };
    let journal_is_a_folder: Make = |out| fs::create_dir_all(out.join(".hoist.json")).unwrap();
    let foreign: Make = |out| {
        fs::create_dir(out).unwrap();
        fs::write(out.join("thesis.txt"), "years of work").unwrap();
    };
    let linked_ours: Make = |out| {
        let real = out.parent().unwrap().join("real");
        let made = directory(&real, "", "earlier");
        put(&made, "old", b"old").unwrap();
        made.finish().unwrap();
        symlink(&real, out).unwrap();
    };
    let regular: Make = |out| fs::write(out, "old").unwrap();
    let link: Make = |out| {
        fs::write(out.parent().unwrap().join("blob"), "blob").unwrap();
        symlink("blob", out).unwrap();
    };
    let dangling: Make = |out| symlink("nowhere", out).unwrap();
    let looped: Make = |out| symlink(out, out).unwrap();
    let socket: Make = |out| drop(std::os::unix::net::UnixListener::bind(out).unwrap());
    let empty: Make = |out| fs::create_dir(out).unwrap();
    let nothing: Make = |_| {};

    const NO: &str = "without force: ";
    // Kind of output, what is there, without force, with force (empty: it works).
    let rows: &[(&str, &str, Make, &str, &str)] = &[
        ("d", "nothing", nothing, "", ""),
        ("d", "ours", ours, "", ""),
        ("d", "a link to ours", linked_ours, "", ""),
        (
            "d",
            "ours and more",
            added,
            "hoist made it, but `notes.txt` in it has been added or changed since",
            "",
        ),
        ("d", "ours, edited", changed, "`config.json` in it has been added or changed", ""),
        ("d", "forged", forged, "is not a finished output of hoist", ""),
        ("d", "forged, outside", outside, "is not a finished output of hoist", ""),
        ("d", "a folder as journal", journal_is_a_folder, "is not a finished output of hoist", ""),
        (
            "d",
            "foreign",
            foreign,
            "exists already, and is not a finished output of hoist\n  hint: --force replaces it",
            "",
        ),
        ("d", "empty", empty, "exists already", ""),
        ("d", "a file", regular, "exists already, as a file", ""),
        (
            "d",
            "a dangling link",
            dangling,
            "is a link to something that is not there",
            "is a link to something",
        ),
        ("d", "a loop", looped, "is a link that cannot be followed", "is a link that cannot be followed"),
        ("d", "a socket", socket, "is neither a folder nor a regular file", "is neither a folder"),
        ("", "nothing", nothing, "", ""),
        ("", "a file", regular, "exists already\n  hint: --force replaces it", ""),
        ("", "a link", link, "exists already", ""),
        ("", "a dangling link", dangling, "exists already", ""),
        (
            "",
            "ours",
            ours,
            "is a folder, and the output is one file",
            "is a folder, and the output is one file",
        ),
        ("", "foreign", foreign, "is a folder", "is a folder"),
        ("", "a link to a folder", linked_ours, "is a folder", "is a folder"),
        ("", "a socket", socket, "is not a regular file", "is not a regular file"),
    ];
    let mut wrong = Vec::new();
    for (kind, what, make, without, with) in rows {
        for (flags, expected) in [("", without), ("f", with)] {
            let place = tempfile::tempdir().unwrap();
            let target = place.path().join("out");
            make(&target);
            let before = tree(place.path());
            let identity = identity("p");
            let b = Begin {
                target: &target,
                force: flags == "f",
                inputs: &[],
                identity: &identity,
                directory: *kind == "d",
            };
            let looked = check(&b).map_err(|e| e.to_string()).err();
            let outcome = begun(&target, &format!("{kind}{flags}"), "p", &[]).and_then(|out| match out {
                Out::File(out) => {
                    let sink = out.create(3)?;
                    sink.write_all_at(b"new", 0)?;
                    sink.finish()
                }
                Out::Directory(out) => {
                    put(&out, "new", b"new")?;
                    out.finish().map(drop)
                }
            });
            let row = format!("{kind:1} {what}, {flags}");
            let after = tree(place.path());
            match outcome {
                Err(e) => {
                    let said = e.to_string();
                    if expected.is_empty() || !said.contains(*expected) || !said.contains("out: ") {
                        wrong.push(format!("{row}: {said}"));
                    }
                    if looked.as_ref() != Some(&said) {
                        wrong.push(format!("{row}: looked at beforehand: {looked:?}"));
                    }
                    if after != before {
                        wrong.push(format!("{row}: something changed: {:?}", after.keys()));
                    }
                }
                Ok(()) => {
                    let new = fs::read(if *kind == "d" { target.join("new") } else { target.clone() });
                    let hidden = after.keys().any(|n| n.contains(".out.") || n.contains(".real."));
                    if !expected.is_empty()
                        || looked.is_some()
                        || new.ok().as_deref() != Some(b"new")
                        || hidden
                    {
                        wrong.push(format!("{row}: done; {looked:?} {:?}", after.keys()));
                    }
                    if after.keys().any(|n| n.contains("old")) {
                        wrong.push(format!("{row}: the old one is still there: {:?}", after.keys()));
                    }
                    // What a link in place of a file led to is not touched.
                    if *what == "a link" && after.get("blob").map(Vec::as_slice) != Some(b"blob") {
                        wrong.push(format!("{row}: the blob was touched"));
                    }
                    if *kind == "d" && *what == "a link to ours" && !after.contains_key("out@") {
                        wrong.push(format!("{row}: the link is gone"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{NO}{}", wrong.join("\n"));
}

#[test]
fn an_output_is_never_an_input() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    fs::create_dir_all(at("model/sub")).unwrap();
    fs::create_dir_all(at("cache/blobs")).unwrap();
    fs::create_dir_all(at("cache/snapshot")).unwrap();
    fs::write(at("model/model.safetensors"), "weights").unwrap();
    fs::write(at("cache/blobs/b"), "weights").unwrap();
    symlink("../blobs/b", at("cache/snapshot/model.safetensors")).unwrap();
    symlink("model", at("link-to-model")).unwrap();
    symlink("model/model.safetensors", at("link-to-weights")).unwrap();
    fs::hard_link(at("model/model.safetensors"), at("hard-link")).unwrap();
    fs::create_dir_all(at(".x.hoist/tree")).unwrap();
    fs::write(at(".x.hoist/tree/model.safetensors"), "weights").unwrap();

    let local: &[&str] = &["model", "model/model.safetensors"];
    let cached: &[&str] = &["cache/snapshot", "cache/snapshot/model.safetensors"];
    // Kind of output, its path, the inputs, what is said (empty: it may be).
    let rows: &[(&str, &str, &[&str], &str)] = &[
        ("d", "model", local, "model: is one of the inputs: `"),
        ("d", "model/", local, "is one of the inputs"),
        ("d", "link-to-model", local, "is one of the inputs"),
        ("d", "model/sub/..", local, "names no file or folder of its own"),
        ("d", "model/out", local, "lies inside the input folder `"),
        ("d", "model/sub", local, "lies inside the input folder"),
        ("d", "link-to-model/out", local, "lies inside the input folder"),
        ("d", ".", local, "holds the input `"),
        ("d", "cache", cached, "holds the input `"),
        ("d", "cache/snapshot", cached, "is one of the inputs"),
        ("d", "cache/snapshot", &cached[1..], "holds the input"),
        ("d", "cache/blobs", cached, "holds the input"),
        ("d", "x", &[".x.hoist/tree", ".x.hoist/tree/model.safetensors"], "holds the input"),
        ("d", "modelx", local, ""),
        ("d", "model.d", local, ""),
        ("d", "model/beside", &local[1..], ""),
        ("", "model/model.safetensors", local, "is one of the inputs"),
        ("", "link-to-weights", local, "is one of the inputs"),
        ("", "hard-link", local, "is one of the inputs"),
        ("", "cache/blobs/b", cached, "is one of the inputs"),
        ("", "cache/snapshot/model.safetensors", cached, "is one of the inputs"),
        ("", "model/model.gguf", local, ""),
        ("", "link-to-model/model.gguf", local, ""),
        ("", "model.gguf", local, ""),
        ("", "model.gguf/", local, "names a folder, and the output is one file"),
        ("", "no/model.gguf", local, "no` is not there\n  hint: make that folder first"),
        ("", "hard-link/model.gguf", local, "lies in something that is not a folder"),
    ];
    let before = tree(place.path());
    let mut wrong = Vec::new();
    for (kind, target, inputs, said) in rows {
        let inputs: Vec<PathBuf> = inputs.iter().map(|i| at(i)).collect();
        // By force: an input is not even replaced then.
        match begun(&at(target), &format!("{kind}f"), "p", &inputs) {
            Ok(out) if said.is_empty() => drop(out),
            Err(e) if !said.is_empty() && e.to_string().contains(said) => {}
            other => wrong.push(format!("{kind:1} {target}: {other:?}, expected `{said}`")),
        }
        if tree(place.path()) != before {
            wrong.push(format!("{target}: something changed"));
            break;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_folder_that_somebody_lives_in_is_not_replaced() {
    let here = std::env::current_dir().unwrap();
    let error = begun(here.parent().unwrap(), "df", "p", &[]).map(drop).unwrap_err();
    assert!(error.to_string().contains("is or holds the current folder"), "{error}");
    let error = begun(Path::new("/proc"), "df", "p", &[]).map(drop).unwrap_err();
    assert!(error.to_string().contains("is a mount point"), "{error}");
    for target in ["/", "..", "."] {
        let error = begun(Path::new(target), "df", "p", &[]).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
    }
    let error = begun(Path::new("/dev/null"), "f", "p", &[]).map(drop).unwrap_err();
    assert!(error.to_string().contains("is not a regular file"), "{error}");
}

#[test]
fn one_run_at_a_time() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("out");
    // A lock file that a dead run left locks nobody out.
    fs::write(place.path().join(".out.hoist-lock"), "").unwrap();
    for flags in ["", "d"] {
        let first = begun(&target, flags, "p", &[]).unwrap();
        for flags in ["", "d", "f", "df"] {
            let error = begun(&target, flags, "p", &[]).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Io);
            assert!(error.to_string().contains("out: is being written by another run of hoist"), "{error}");
        }
        begun(&place.path().join("out2"), flags, "p", &[]).map(drop).unwrap();
        drop(first);
        assert_eq!(names(place.path()), [""; 0]);
        begun(&target, flags, "p", &[]).map(drop).unwrap();
    }
    // Many at once: one gets it, or they come one after the other; nothing is left.
    let count = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    match begun(&target, "d", "p", &[]) {
                        Ok(out) => {
                            assert_eq!(count.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                            count.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                            drop(out);
                        }
                        Err(e) => assert_eq!(e.kind(), ErrorKind::Io, "{e}"),
                    }
                }
            });
        }
    });
    assert_eq!(names(place.path()), [""; 0]);
    // A planted link is not followed.
    symlink(place.path().join("elsewhere"), place.path().join(".out.hoist-lock")).unwrap();
    assert!(begun(&target, "d", "p", &[]).is_err());
    assert!(!place.path().join("elsewhere").exists());
}

/// A run that is cut off and taken up again: what the second finds of the first's files.
#[test]
fn finished_files_are_kept_if_they_are_still_whole() {
    type Spoil = fn(&Path);
    let append: Spoil = |work| {
        let mut text = fs::read_to_string(work.join("journal")).unwrap();
        text.push_str("{\"name\": \"c\", \"si");
        fs::write(work.join("journal"), text).unwrap();
    };
    // The journal's last line cut short, by each number of bytes that leaves some of it.
    let cut: Spoil = |work| {
        let text = fs::read_to_string(work.join("journal")).unwrap();
        fs::write(work.join("journal"), &text[..text.len() - 1]).unwrap();
    };
    // Plan of the second run, what happened in between, which of `a`, `sub/b` it keeps.
    let rows: &[(&str, &str, Spoil, &[&str])] = &[
        ("p", "nothing", |_| {}, &["a", "sub/b"]),
        ("q", "another plan", |_| {}, &[]),
        ("p", "a torn line", append, &["a", "sub/b"]),
        ("p", "a line without its end", cut, &["a"]),
        ("p", "a flipped bit", |w| fs::write(w.join("tree/a"), b"AAAB").unwrap(), &["sub/b"]),
        ("p", "a shorter file", |w| fs::write(w.join("tree/a"), b"AAA").unwrap(), &["sub/b"]),
        ("p", "a longer file", |w| fs::write(w.join("tree/a"), b"AAAAA").unwrap(), &["sub/b"]),
        ("p", "a file gone", |w| fs::remove_file(w.join("tree/sub/b")).unwrap(), &["a"]),
        ("p", "a folder gone", |w| fs::remove_dir_all(w.join("tree/sub")).unwrap(), &["a"]),
        ("p", "the tree gone", |w| fs::remove_dir_all(w.join("tree")).unwrap(), &[]),
        ("p", "the journal gone", |w| fs::remove_file(w.join("journal")).unwrap(), &[]),
        ("p", "the journal empty", |w| fs::write(w.join("journal"), "").unwrap(), &[]),
        ("p", "the journal torn", |w| fs::write(w.join("journal"), "{\"sch").unwrap(), &[]),
        ("p", "the journal foreign", |w| fs::write(w.join("journal"), "[1]\n[2]\n").unwrap(), &[]),
        (
            "p",
            "a link in place of a file",
            |w| {
                fs::rename(w.join("tree/a"), w.join("../elsewhere")).unwrap();
                symlink("../../elsewhere", w.join("tree/a")).unwrap();
            },
            &["sub/b"],
        ),
        (
            "p",
            "strangers",
            |w| {
                fs::create_dir_all(w.join("tree/x/y")).unwrap();
                fs::write(w.join("tree/x/y/z"), "").unwrap();
                fs::write(w.join("tree/.c.hoist-0123abcd"), "half").unwrap();
                fs::write(w.join("tree/.hoist.json"), "").unwrap();
            },
            &["a", "sub/b"],
        ),
    ];
    let mut wrong = Vec::new();
    for (plan, what, spoil, kept) in rows {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("out");
        let out = directory(&target, "", "p");
        put(&out, "a", b"AAAA").unwrap();
        put(&out, "sub/b", b"BBBBBBBB").unwrap();
        let unfinished = out.create("c", 2).unwrap();
        assert_eq!(out.finished_count(), 2);
        drop((unfinished, out));
        assert!(!target.exists());
        spoil(&place.path().join(".out.hoist"));
        let same = identity(plan);
        let b = Begin { target: &target, force: false, inputs: &[], identity: &same, directory: true };
        let foretold = kept_bytes(&b).unwrap();
        let out = directory(&target, "", plan);
        assert_eq!(foretold, out.kept_bytes(), "{what}");
        for (name, bytes) in [("a", &b"AAAA"[..]), ("sub/b", b"BBBBBBBB"), ("c", b"cc")] {
            assert!(!out.finished(name, 1 + bytes.len() as u64).unwrap(), "{what}: {name} of another size");
            let is_kept = out.finished(name, bytes.len() as u64).unwrap();
            if is_kept != kept.contains(&name) {
                wrong.push(format!("{what}: {name} {}", if is_kept { "was kept" } else { "was not kept" }));
            }
            if !is_kept {
                put(&out, name, bytes).unwrap();
            }
        }
        out.finish().unwrap();
        if names(&target) != [".hoist.json", "a", "c", "sub/", "sub/b"] {
            wrong.push(format!("{what}: {:?}", names(&target)));
        }
        let beside: Vec<_> = names(place.path()).into_iter().filter(|n| n.starts_with('.')).collect();
        if !beside.is_empty() {
            wrong.push(format!("{what}: left beside it: {beside:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_goes_and_what_stays() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("out");
    let at = |name: &str| place.path().join(name);
    // Another identity: any part of it counts.
    let base = identity("p");
    let mut others = vec![identity("q"), base.clone(), base.clone(), base.clone(), base.clone()];
    others[1].sources[0].name.push('x');
    others[2].sources[0].size_bytes += 1;
    others[3].sources[0].modified_ns += 1;
    others[4].sources.clear();
    for other in &others {
        let out = directory(&target, "", "p");
        put(&out, "a", b"a").unwrap();
        drop(out);
        let b = Begin { target: &target, force: false, inputs: &[], identity: other, directory: true };
        let Out::Directory(out) = begin(&b).unwrap() else { panic!() };
        assert!(!out.finished("a", 1).unwrap(), "{other:?}");
        drop(out);
        assert_eq!(names(place.path()), [""; 0]);
    }
    // Temporaries of dead runs of this output go, those of others and what only looks alike stay.
    let stay = [".out.hoist-0123abcg", ".out2.hoist-0123abcd", ".out.hoist-0123abcd5", "out.hoist-0123abcd"];
    for name in stay.iter().chain(&[".out.hoist-0123abcd", ".out.hoist-ffffffff"]) {
        fs::write(at(name), "").unwrap();
    }
    fs::create_dir(at(".out.hoist-00000000")).unwrap();
    drop(file(&target, ""));
    let mut expected: Vec<_> = stay.iter().map(|s| s.to_string()).collect();
    expected.push(".out.hoist-00000000/".into());
    expected.sort();
    assert_eq!(names(place.path()), expected);
    // A stale folder of a directory run goes for a file run too.
    let out = directory(&target, "", "p");
    put(&out, "a", b"a").unwrap();
    drop(out);
    assert!(at(".out.hoist").exists());
    drop(file(&target, ""));
    assert_eq!(names(place.path()), expected);
    // Abandoned: everything goes, finished files too.
    let out = directory(&target, "", "p");
    put(&out, "a", b"a").unwrap();
    out.abandon().unwrap();
    assert_eq!(names(place.path()), expected);
    // Something under our name that is not ours is not removed.
    fs::create_dir(at(".out.hoist")).unwrap();
    fs::write(at(".out.hoist/diary"), "").unwrap();
    let error = begun(&target, "df", "p", &[]).map(drop).unwrap_err();
    assert!(error.to_string().contains("`diary` in it is not hoist's"), "{error}");
    fs::remove_dir_all(at(".out.hoist")).unwrap();
    fs::write(at(".out.hoist"), "").unwrap();
    let error = begun(&target, "df", "p", &[]).map(drop).unwrap_err();
    assert!(error.to_string().contains("it is not a folder"), "{error}");
}

#[test]
fn names_of_files_in_an_output() {
    let place = tempfile::tempdir().unwrap();
    let out = directory(&place.path().join("out"), "", "p");
    for name in [
        "",
        "/x",
        "../x",
        "a/../x",
        "a/./x",
        "./x",
        "a//x",
        "a/",
        ".hoist.json",
        "a\\b",
        "c:x",
        "a\nb",
        ".",
        "..",
    ] {
        assert!(out.create(name, 1).is_err(), "{name:?}");
    }
    for name in ["x", ".x", "a/.hoist.json", "ä/層", "..x/y"] {
        put(&out, name, b"x").unwrap();
    }
    // A small file, written twice and over another.
    for (name, bytes) in [("x", "small"), ("small/x", "1"), ("small/x", "22")] {
        out.write(name, bytes.as_bytes()).unwrap();
    }
    // A file where a folder must be.
    assert!(out.create("x/y", 1).is_err());
    assert!(out.write("x/y", b"").is_err() && out.write("../x", b"").is_err());
    out.finish().unwrap();
    let target = place.path().join("out");
    assert_eq!(fs::read(target.join("x")).unwrap(), b"small");
    assert_eq!(fs::read(target.join("small/x")).unwrap(), b"22");
    let json: serde_json::Value =
        serde_json::from_slice(&fs::read(target.join(".hoist.json")).unwrap()).unwrap();
    let small = json["files"].as_array().unwrap().iter().find(|f| f["name"] == "small/x").unwrap();
    assert_eq!(small["xxh3"], hash_of(b"22").to_string());
    // Nothing but small files: nothing to go on from.
    let out = directory(&place.path().join("out2"), "", "p");
    out.write("config.json", b"{}").unwrap();
    assert_eq!(out.finished_count(), 0);
    drop(out);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
}

#[test]
fn what_appears_meanwhile_stays() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("out");
    for (what, make) in [
        ("a folder", (|t: &Path| fs::create_dir(t).unwrap()) as fn(&Path)),
        ("a file", |t| fs::write(t, "theirs").unwrap()),
    ] {
        let out = directory(&target, "", "p");
        put(&out, "a", b"a").unwrap();
        make(&target);
        let before = tree(place.path()).into_iter().filter(|(n, _)| n.starts_with("out")).collect::<Vec<_>>();
        let error = out.finish().unwrap_err();
        assert!(error.to_string().contains("out: appeared while the output was written"), "{what}: {error}");
        assert_eq!(error.kind(), ErrorKind::BadInput);
        let after = tree(place.path()).into_iter().filter(|(n, _)| n.starts_with("out")).collect::<Vec<_>>();
        assert_eq!(before, after);
        // And the work is not lost.
        let out = directory(&target, "f", "p");
        assert!(out.finished("a", 1).unwrap());
        out.finish().unwrap();
        // Ours that somebody puts something into while we write.
        let out = directory(&target, "", "p");
        put(&out, "a", b"a").unwrap();
        fs::write(target.join("mine"), "").unwrap();
        let error = out.finish().unwrap_err();
        assert!(error.to_string().contains("`mine` in it has been added"), "{error}");
        assert!(target.join("mine").exists());
        fs::remove_dir_all(&target).unwrap();
    }
    let out = file(&target, "");
    let sink = out.create(1).unwrap();
    fs::write(&target, "theirs").unwrap();
    assert!(sink.finish().unwrap_err().to_string().contains("exists already"));
    assert_eq!(fs::read(&target).unwrap(), b"theirs");
}

#[test]
fn hashes_of_files_do_not_depend_on_the_way() {
    // xxh3 of nothing, and of known text: the vectors of the reference implementation.
    assert_eq!(combine(&[]).to_string(), "2d06800538d394c2");
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("x");
    let block = BLOCK_BYTES as usize;
    for size in [0, 1, 1000, block - 1, block, block + 1, 2 * block, 2 * block + 77] {
        let bytes: Vec<u8> =
            (0..size).map(|i| (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]).collect();
        fs::write(&path, &bytes).unwrap();
        let file = fs::File::open(&path).unwrap();
        let expected = hash_of(&bytes);
        let size = size as u64;
        assert_eq!(hash_file(&file, size).unwrap(), expected);
        for buffer in [1 << 10, 1000, 1 << 20, block * 2] {
            let mut buffer = vec![0; buffer];
            let whole = FileHash::new(size);
            for index in (0..whole.block_count()).rev() {
                whole.set(index, hash_block(&file, size, index, &mut buffer).unwrap());
            }
            assert_eq!(whole.finish().unwrap(), expected, "{size}");
        }
        let last = block_count(size);
        assert!(block_range(size, last).is_empty() && block_range(size, u64::MAX).is_empty());
        assert!(hash_file(&file, size + 1).is_err(), "a file that is shorter");
        if last > 1 {
            let partial = FileHash::new(size);
            partial.set(1, 0);
            partial.set(99, 0);
            assert!(partial.finish().unwrap_err().to_string().contains("block 0 of"));
        }
    }
    assert_eq!(Hash::parse("00ffffffffffffff"), Some(Hash(0xff_ffff_ffff_ffff)));
    for bad in ["", "0", "00FFFFFFFFFFFFFF", "+0ffffffffffffff", "000000000000000000"] {
        assert_eq!(Hash::parse(bad), None, "{bad}");
    }
}

/// A source that is no local file.
#[derive(Debug)]
struct Remote(Vec<u8>);

impl ReadAt for Remote {
    fn size_bytes(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<usize, Error> {
        let rest = &self.0[(offset_bytes as usize).min(self.0.len())..];
        // A few bytes at a time.
        let n = rest.len().min(buf.len()).min(999);
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
    fn temper(&self) -> Temper {
        Temper { gap_bytes_max: 0, depth: 1, network: true }
    }
    fn as_local(&self) -> Option<&LocalFile> {
        None
    }
}

#[test]
fn ranges_are_copied_whichever_way() {
    let bytes: Vec<u8> = (0..300_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let here = tempfile::tempdir().unwrap();
    let path = here.path().join("source");
    fs::write(&path, &bytes).unwrap();
    let local = LocalFile::open(&path).unwrap();
    let remote = Remote(bytes.clone());
    let mut targets = vec![(here.path().to_owned(), "here")];
    // Another file system, where there is one: the kernel may refuse.
    let shm = tempfile::tempdir_in("/dev/shm").ok();
    targets.extend(shm.iter().map(|d| (d.path().to_owned(), "memory")));
    let size = bytes.len() as u64;
    for (folder, what) in &targets {
        for (from, source) in [(&local as &dyn ReadAt, "local"), (&remote, "remote")] {
            let sink = FileSink::create(&folder.join("out"), size + 10, Existing::Replace).unwrap();
            let mut expected = vec![0u8; bytes.len() + 10];
            let mut total = Copied::default();
            for (from_at, to_at, n) in [
                (0u64, 10u64, size),
                (1, 3, 0),
                (4096, 0, 5000),
                (7, 9, 100_001),
                (5000, 904, 300_000),
                (size - 1, size + 9, 1),
            ] {
                let copied = sink.copy_range(from, from_at, to_at, n, &mut vec![0; 65536]).unwrap();
                assert_eq!(copied.kernel_bytes + copied.buffer_bytes, n, "{what} {source}");
                expected[to_at as usize..][..n as usize]
                    .copy_from_slice(&bytes[from_at as usize..][..n as usize]);
                total.kernel_bytes += copied.kernel_bytes;
                total.buffer_bytes += copied.buffer_bytes;
            }
            if (*what, source) == ("here", "local") {
                assert_eq!(total.buffer_bytes, 0, "the kernel did not copy on one file system");
            }
            sink.start_writeback(0, size);
            sink.start_writeback(0, 0);
            let mut back = vec![0; expected.len()];
            sink.read_exact_at(&mut back, 0).unwrap();
            let differs = back.iter().zip(&expected).position(|(a, b)| a != b);
            assert_eq!(differs, None, "{what} {source}");
            sink.finish().unwrap();
            assert!(fs::read(folder.join("out")).unwrap() == expected, "{what} {source}");
            let sink = FileSink::create(&folder.join("out"), size + 10, Existing::Replace).unwrap();
            // Beyond the target, beyond the source, no buffer where one is needed.
            for (from_at, to_at, n, room, said) in [
                (0, 11, size, 10, "was laid out for 1,200,010 bytes"),
                (0, u64::MAX, 2, 10, "was laid out for"),
                (size - 5, 0, 6, 10, "ended at byte 1,200,000 where it had 1,200,000"),
                (u64::MAX, 0, 6, 10, ""),
            ] {
                let error = sink.copy_range(from, from_at, to_at, n, &mut vec![0; room]).unwrap_err();
                assert!(error.to_string().contains(said), "{what} {source}: {error}");
            }
            if source == "remote" {
                assert!(sink.copy_range(from, 0, 0, 5, &mut []).is_err());
            }
        }
    }
    // A source that is cut short under us.
    let sink = FileSink::create(&here.path().join("out"), size, Existing::Replace).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(1000).unwrap();
    let error = sink.copy_range(&local, 0, 0, size, &mut vec![0; 65536]).unwrap_err();
    assert!(error.to_string().contains("ended at byte 1,000 where it had 1,200,000"), "{error}");
    drop(sink);
    // A file of the kernel's that copies as empty and reads as something.
    let version = LocalFile::open(Path::new("/proc/version")).unwrap();
    let mut text = String::new();
    fs::File::open("/proc/version").unwrap().read_to_string(&mut text).unwrap();
    let sink = FileSink::create(&here.path().join("version"), text.len() as u64, Existing::Replace).unwrap();
    let copied = sink.copy_range(&version, 0, 0, text.len() as u64, &mut vec![0; 4096]).unwrap();
    assert_eq!(copied, Copied { kernel_bytes: 0, buffer_bytes: text.len() as u64 });
}

/// A file system of `size` mounted for one test, where that is allowed.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn tmpfs(size: &str) -> Option<Mounted> {
        let place = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(place.path()).stderr(Stdio::null());
        if mount.status().is_ok_and(|s| s.success()) {
            return Some(Mounted(place));
        }
        eprintln!("SKIPPED: no file system can be mounted here, so a full disk is not tested");
        None
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_said_and_leaves_the_old_output() {
    let Some(mounted) = Mounted::tmpfs("2m") else { return };
    let place = mounted.0.path();
    let target = place.join("out");
    let out = directory(&target, "", "p");
    put(&out, "a", &vec![1; 500 << 10]).unwrap();
    out.finish().unwrap();
    let before = tree(place);
    let out = directory(&target, "", "q");
    put(&out, "a", &vec![2; 500 << 10]).unwrap();
    let error = put(&out, "b", &vec![2; 1500 << 10]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert!(error.to_string().contains("cannot be given its 1.5 MB"), "{error}");
    assert!(!names(place).iter().any(|n| n.contains(".b.")), "{:?}", names(place));
    out.abandon().unwrap();
    assert_eq!(tree(place), before);
    let out = file(&place.join("file"), "");
    let error = out.create(3 << 20).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    drop(out);
    assert_eq!(tree(place), before);
    // A mount point itself is no place for a directory.
    let error = begun(place, "df", "p", &[]).map(drop).unwrap_err();
    assert!(error.to_string().contains("is a mount point"), "{error}");
}

const KILLED_FILES: u8 = 4;

fn killed_bytes(version: u8, n: u8) -> Vec<u8> {
    (0..300_000u32 + u32::from(n))
        .map(|i| (i as u8).wrapping_mul(version.wrapping_add(n)).wrapping_add(version))
        .collect()
}

/// Writes version `v` of an output, as a program of its own for the next test to kill.
#[test]
#[ignore = "a program for `killed_at_any_moment`"]
fn killed_program() {
    let Ok(spec) = std::env::var("HOIST_TEST_KILLED_PROGRAM") else { return };
    let (version, target) = spec.split_once(' ').unwrap();
    let (version, target): (u8, _) = (version.parse().unwrap(), Path::new(target));
    let out = directory(target, "", &version.to_string());
    for n in 0..KILLED_FILES {
        let (name, bytes) = (format!("sub/{n}"), killed_bytes(version, n));
        if n == 0 {
            out.write(&name, &bytes).unwrap();
        } else if !out.finished(&name, bytes.len() as u64).unwrap() {
            put(&out, &name, &bytes).unwrap();
        }
    }
    out.finish().unwrap();
}

/// The test above as a program of its own, writing version `version` at `target`; `before` is what runs it.
fn killed_command(before: &[&str], version: u8, target: &Path) -> Command {
    let me = std::env::current_exe().unwrap();
    let mut command = match before {
        [] => Command::new(&me),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(&me);
            command
        }
    };
    command
        .args(["output::killed_program", "--exact", "--ignored"])
        .env("HOIST_TEST_KILLED_PROGRAM", format!("{version} {}", target.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// The version that is at `target`, every byte of it looked at.
fn killed_standing(target: &Path) -> Option<u8> {
    let Ok(json) = fs::read(target.join(".hoist.json")) else {
        assert!(!target.exists(), "OUT is there without its journal");
        return None;
    };
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let version: u8 = json["plan"].as_str().unwrap().parse().unwrap();
    let mut expected = vec![".hoist.json".to_string(), "sub/".into()];
    for n in 0..KILLED_FILES {
        assert!(fs::read(target.join(format!("sub/{n}"))).unwrap() == killed_bytes(version, n));
        expected.push(format!("sub/{n}"));
    }
    assert_eq!(names(target), expected);
    Some(version)
}

#[test]
fn killed_at_any_moment() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("out");
    let start = |version: u8| killed_command(&[], version, &target).spawn().unwrap();
    let standing = || killed_standing(&target);
    let started = Instant::now();
    assert!(start(0).wait().unwrap().success());
    let whole = started.elapsed();
    assert_eq!(standing(), Some(0));
    let (mut old, mut killed, mut finished) = (Some(0), 0, 0);
    let mut state = 7u64;
    for round in 0..60u32 {
        // Each version is tried three times, so that runs are taken up again and not only begun.
        let version = (1 + round / 3) as u8;
        let mut child = start(version);
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(whole.mul_f64((state >> 33) as f64 / f64::from(1u32 << 31) * 1.2));
        child.kill().unwrap();
        match child.wait().unwrap().success() {
            true => finished += 1,
            false => killed += 1,
        }
        let now = standing();
        assert!(now == old || now == Some(version), "round {round}: {now:?} after {old:?}");
        old = now;
    }
    assert!(killed > 10, "{killed} killed, {finished} done before that: nothing was tried");
    assert!(start(77).wait().unwrap().success());
    assert_eq!(standing(), Some(77));
    let beside: Vec<_> = fs::read_dir(place.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(beside, ["out"], "something is left beside it");
    assert!(started.elapsed() < Duration::from_secs(120));
}

/// The n-th of each kind of call fails, for n = 1, 2, 3 … until a run passes clean.
#[test]
fn each_failing_call_is_an_error_and_harms_nothing() {
    let usable =
        Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    if !usable.is_ok_and(|s| s.success()) {
        eprintln!("SKIPPED: no strace that may trace here, so failing system calls are not tested");
        return;
    }
    // The call, its error, and whether a run may end well all the same.
    let rows: &[(&str, &str, bool)] = &[
        ("fsync", "EIO", false),
        ("fdatasync", "EIO", false),
        ("fallocate", "ENOSPC", false),
        ("fallocate", "EOPNOTSUPP", true),
        ("pwrite64", "EIO", false),
        ("rename", "EIO", false),
        ("renameat2", "EIO", false),
        ("renameat2", "EINVAL", true),
        ("mkdir", "EACCES", false),
        // What cannot be removed at the end stays, and the next run removes it.
        ("unlinkat", "EACCES", true),
        ("flock", "EIO", true),
    ];
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("out");
    let mut version = 1;
    assert!(killed_command(&[], version, &target).status().unwrap().success());
    for (call, errno, may_pass) in rows {
        let mut failed = 0;
        for n in 1.. {
            let next = version % 200 + 1;
            let (trace, inject) = (format!("trace={call}"), format!("inject={call}:error={errno}:when={n}"));
            let log = place.path().join("log");
            let strace = ["strace", "-f", "-qq", "-o", log.to_str().unwrap(), "-e", &trace, "-e", &inject];
            let passed = killed_command(&strace, next, &target).status().unwrap().success();
            let injected = fs::read_to_string(&log).unwrap().contains("(INJECTED)");
            fs::remove_file(&log).unwrap();
            let now = killed_standing(&target).unwrap();
            assert!(now == version || now == next, "{call} {n}: {now}");
            if passed {
                assert_eq!(now, next, "{call} {n}: passed without a new output");
            }
            if !injected {
                assert!(passed, "{call} {n}: failed by itself");
                break;
            }
            failed += usize::from(!passed);
            assert!(!passed || *may_pass, "{call} {n}: its error {errno} was not noticed");
            // And the way out is to run again.
            assert!(killed_command(&[], next, &target).status().unwrap().success(), "{call} {n}: rerun");
            assert_eq!(killed_standing(&target), Some(next));
            let beside: Vec<_> =
                fs::read_dir(place.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(beside, ["out"], "{call} {n}: something is left beside it");
            version = next;
        }
        version = killed_standing(&target).unwrap();
        assert!(failed > 0 || *may_pass, "{call} was never called");
    }
}
