//! What goes wrong in the system: a full disk, a process killed, calls that fail.

use super::{begun, directory, file, names, put, tree};
use hoist::ErrorKind;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

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
        .args(["output::faults::killed_program", "--exact", "--ignored"])
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
