//! What may stand at OUT and be replaced, and what is never touched.

use super::{begun, directory, file, hash_of, identity, put, tree};
use hoist::ErrorKind;
use hoist::sink::output::{Begin, Out, check};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

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
