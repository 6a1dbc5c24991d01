//! Runs that are cut off and taken up again: complete or absent, and what is kept.

use super::{begun, directory, file, hash_of, identity, names, put, tree};
use hoist::ErrorKind;
use hoist::sink::output::{Begin, Out, begin, kept_bytes};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

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
