//! Loads to the emulated driver: what arrives, what is taken and given back, and that every failure of the driver ends
//! with the right code, one message, nothing leaked.

use super::{document, fixtures, load_json, opened, synthetic, to_cpu, write_safetensors};
use crate::cuda::{Emulated, Run, emulated, inside};
use crate::naive::testdata;
use hoist::dtype::DType;
use hoist::load::{DTypeChoice, Options, load};
use hoist::sink::device::DeviceSpec;
use hoist::transform::arch::parallel::Rank;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// `hoist load … --json` on a child with the emulated driver.
fn run(child: &Emulated, path: &Path, arguments: &[&str]) -> Run {
    let mut all = vec!["load", path.to_str().unwrap(), "--json"];
    all.extend(arguments);
    child.hoist(&all)
}

/// What a run that must have passed printed; the device was used rightly, given back, and no copy was pageable.
#[track_caller]
fn passed(run: &Run) -> Value {
    let report = run.passed();
    assert_eq!(report.count("pageable_copies"), 0);
    let document = document(&run.output);
    assert_eq!((&document["device"], &document["form"]), (&"cuda:0".into(), &"device".into()));
    assert_eq!(document["gpu"]["emulated"], true);
    assert!(report.count("registered_peak_bytes") <= 64 << 20);
    document
}

fn stderr(run: &Run) -> String {
    String::from_utf8_lossy(&run.output.stderr).into_owned()
}

/// How a fixture is loaded: as it is, and cast, to one type or the other by its turn.
fn ways(turn: usize) -> [(&'static str, Options); 2] {
    let cast = if turn.is_multiple_of(2) { ("f32", DType::F32) } else { ("bf16", DType::BF16) };
    let options = |dtype| Options { check: true, saturate: true, dtype, ..Options::default() };
    [("as it is", options(DTypeChoice::Keep)), (cast.0, options(DTypeChoice::To(cast.1)))]
}

/// Every fixture as it is and cast, in one process: the digest of what is on the device is the digest of host memory.
#[test]
fn every_fixture_is_on_the_device_what_it_is_on_the_host() {
    if inside() {
        for (turn, (_, fixture)) in fixtures().into_iter().enumerate() {
            for (way, options) in ways(turn) {
                let device = Some(DeviceSpec::CudaIndex(0));
                let got = load(opened(&testdata(&fixture)), Options { device, ..options }).wait();
                let got = got.unwrap_or_else(|e| panic!("{fixture} {way}: {e}"));
                assert!(got.tensors.iter().all(|t| t.bytes().is_none() || t.size_bytes() == 0));
                println!("\nDIGEST {fixture}|{way}|{}", got.report.check.unwrap().digest);
            }
        }
        return;
    }
    let run = emulated().test("load::emulated::every_fixture_is_on_the_device_what_it_is_on_the_host");
    assert_eq!(run.passed().count("pageable_copies"), 0);
    let said = String::from_utf8_lossy(&run.output.stdout).into_owned();
    let found: BTreeMap<(String, String), String> = said
        .lines()
        .filter_map(|l| l.strip_prefix("DIGEST "))
        .map(|l| {
            let mut parts = l.split('|').map(str::to_string);
            let mut next = || parts.next().unwrap();
            ((next(), next()), next())
        })
        .collect();
    let mut wrong = Vec::new();
    for (turn, (_, fixture)) in fixtures().into_iter().enumerate() {
        for (way, options) in ways(turn) {
            let device = to_cpu().device;
            let host = load(opened(&testdata(&fixture)), Options { device, ..options }).wait().unwrap();
            let (host, device) =
                (host.report.check.unwrap().digest, found.get(&(fixture.clone(), way.to_string())));
            if Some(&host) != device {
                wrong.push(format!("{fixture} {way}: {host} on the host, {device:?} on the device"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A model through the command: as it is, cast, cut by two-dimensional copies; with copies so late that a slot that is
/// used again too early would show.
#[test]
fn a_model_arrives_by_every_way() {
    let path = testdata("rustdoc-llama-6m");
    for (arguments, copy_us, cast, rows) in [
        (&["--check"][..], 0, false, false),
        (&["--check", "--threads", "1"], 2000, false, false),
        (&["--check", "--threads", "3", "--io", "direct"], 1000, false, false),
        (&["--check", "--dtype", "f16", "--saturate"], 1000, true, false),
        (&["--check", "--dtype", "f32", "--threads", "5"], 0, true, false),
        (&["--check", "--rank", "0/2"], 1000, false, true),
        (&["--check", "--rank", "1/4"], 0, false, true),
        (&["--check", "--rank", "1/2", "--dtype", "f32"], 500, true, false),
    ] {
        let child = emulated().env("FAKE_CUDA_COPY_US", copy_us);
        let run = run(&child, &path, arguments);
        let got = passed(&run);
        let host = load_json(&path, arguments);
        assert_eq!(got["digest"], host["digest"], "{arguments:?}");
        assert_eq!(got["bytes"], host["bytes"], "{arguments:?}");
        let report = run.used();
        assert_eq!(report.count("launches") > 0, cast, "{arguments:?}");
        assert_eq!(report.calls("cuMemcpy2DAsync_v2") > 0, rows, "{arguments:?}");
        assert_eq!(report.count("allocations_live"), 0);
        let extra = got["device_extra_bytes"].as_u64().unwrap();
        assert!(extra <= 64 << 20, "{arguments:?}: {extra}");
    }
}

/// Many times more bytes than slots hold, each copy late: a slot that is filled again before its copy has ended would
/// bring other bytes, and the check would say so.
#[test]
fn slots_wait_for_their_copies() {
    let path = synthetic(320);
    let digest = load_json(&path, &["--check"])["digest"].clone();
    for (arguments, copy_us) in
        [(&["--check", "--threads", "2"][..], 1500), (&["--check", "--threads", "16"], 500)]
    {
        let got = run(&emulated().env("FAKE_CUDA_COPY_US", copy_us), &path, arguments);
        assert_eq!(passed(&got)["digest"], digest, "{arguments:?}");
    }
}

/// The check finds what it is there for: copies that the device never carries out.
#[test]
fn a_check_finds_wrong_bytes() {
    let path = testdata("rustdoc-llama-6m");
    for arguments in
        [&["--check"][..], &["--check", "--dtype", "f16", "--saturate"], &["--check", "--rank", "0/2"]]
    {
        let got = run(&emulated().env("FAKE_CUDA_FREE_COPIES", 1), &path, arguments);
        check_failed(&got, &[7], "copies that move nothing");
        assert!(stderr(&got).contains("arrived with other contents than were sent"), "{}", stderr(&got));
        assert_eq!(got.used().misuse(), None);
    }
}

/// `device` casts to bf16 from capability 8 on, to f16 below.
#[test]
fn the_devices_own_type_follows_its_capability() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a.safetensors");
    let ones: Vec<u8> = (0..100).flat_map(|i| (i as f32).to_le_bytes()).collect();
    write_safetensors(&path, &[("w", DType::F32, vec![100], ones)]);
    for (capability, dtype) in [("9.0", "bf16"), ("8.0", "bf16"), ("7.5", "f16")] {
        let run = run(&emulated().env("FAKE_CUDA_CC", capability), &path, &["--dtype", "device", "--check"]);
        assert_eq!(
            passed(&run)["digest"],
            load_json(&path, &["--dtype", dtype, "--check"])["digest"],
            "{capability}"
        );
    }
}

/// Overflow on the device is counted there, refused, or saturated.
#[test]
fn overflow_on_the_device_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a.safetensors");
    let values: Vec<u8> =
        [1f32, 1e6, f32::INFINITY, -7e4, 65519.0, 65520.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    write_safetensors(&path, &[("w", DType::F32, vec![6], values)]);
    for check in [&["--check"][..], &[]] {
        let refused = run(&emulated(), &path, &[&["--dtype", "f16"], check].concat());
        assert_eq!(refused.code(), Some(1), "{}", stderr(&refused));
        assert!(stderr(&refused).contains("3 finite values become infinite"), "{}", stderr(&refused));
        assert_eq!(refused.used().misuse(), None);
    }
    let saturated = run(&emulated(), &path, &["--dtype", "f16", "--saturate", "--check"]);
    let got = passed(&saturated);
    assert_eq!(got["overflow_count"], 3);
    assert_eq!(got["digest"], load_json(&path, &["--dtype", "f16", "--saturate", "--check"])["digest"]);
}

/// What a failed run must look like.
#[track_caller]
fn check_failed(run: &Run, codes: &[i32], what: &str) {
    let said = stderr(run);
    assert!(
        codes.contains(&run.code().unwrap_or(-1)),
        "{what}: {:?}, not {codes:?}\n{said}",
        run.output.status
    );
    assert!(run.output.stdout.is_empty(), "{what}: output although it failed");
    assert_eq!(said.lines().filter(|l| l.starts_with("error: ")).count(), 1, "{what}: one message\n{said}");
    assert!(!said.contains("bug"), "{what}: {said}");
}

/// The k-th call of each driver function that a load uses fails, for k = 1, 2, 3 … until a run passes clean: the
/// driver's exit code (or that of no memory), one message, nothing leaked, no hang, never success with wrong bytes.
#[test]
fn each_driver_call_may_fail() {
    let path = testdata("rustdoc-llama-6m/model-00003-of-00003.safetensors");
    let arguments = ["--check", "--dtype", "f32", "--threads", "2"];
    let right = load_json(&path, &arguments)["digest"].clone();
    let clean = run(&emulated(), &path, &arguments);
    assert_eq!(passed(&clean)["digest"], right);
    let calls = clean.used().0["calls"].as_object().unwrap().clone();
    let mut cases: Vec<(String, bool)> = Vec::new();
    for (name, count) in calls {
        let count = count.as_u64().unwrap();
        if name.starts_with("cuGetError") {
            continue; // asked for the text of other errors
        }
        // The measuring of the limit comes first and may fail: five copies that are waited for. The first calls and the
        // last; those between are like them.
        let most = if name.contains("HtoDAsync") || name == "cuStreamSynchronize" { 7 } else { 2 };
        let releases =
            ["Destroy", "MemFree", "Unregister", "Release", "Unload"].iter().any(|r| name.contains(r));
        let most = if releases { 1 } else { most };
        let code = if name.contains("Alloc") { 2 } else { 999 };
        let nth = (1..=count.min(most)).chain((count > most && !releases).then_some(count));
        cases.extend(nth.map(|k| (format!("{name}:{k}={code}"), releases)));
    }
    assert!(cases.len() > 40, "{cases:?}");
    let unnoticed = std::sync::Mutex::new(Vec::new());
    let try_one = |(what, releases): &(String, bool)| {
        let begun = Instant::now();
        let got = run(&emulated().env("FAKE_CUDA_FAIL", what), &path, &arguments);
        assert!(begun.elapsed() < Duration::from_secs(20), "{what} took {:?}", begun.elapsed());
        let exits: &[i32] = if what.ends_with("=2") { &[8] } else { &[10] };
        if got.code() == Some(0) {
            let printed = document(&got.output);
            assert_eq!(printed["digest"], right, "{what}: wrong bytes and success");
            // Only what a load can do without: the measuring, the registration, a release that nobody can repair.
            let without = printed["limit_bytes_per_second"].is_null() || printed["pinned_bytes"] == 0;
            if !without && !releases {
                unnoticed.lock().unwrap().push(what.clone());
            }
        } else {
            check_failed(&got, exits, what);
        }
        // A failed release is the driver's leak; anything else is ours.
        if let Some(report) = got.report.as_ref().filter(|_| !releases) {
            assert_eq!(report.misuse(), None, "{what}");
        }
    };
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, std::sync::atomic::Ordering::SeqCst)) {
                    try_one(case);
                }
            });
        }
    });
    // What context a thread had before is asked and restored as a courtesy; there is an older call for a UUID.
    let mut unnoticed = unnoticed.into_inner().unwrap();
    unnoticed.retain(|what| !what.starts_with("cuCtx") && !what.starts_with("cuDeviceGetUuid_v2"));
    assert!(unnoticed.is_empty(), "went by unnoticed: {unnoticed:?}");
}

/// Each worker has slots, however many there are.
#[test]
fn any_number_of_threads_has_slots() {
    let path = synthetic(320);
    for threads in ["17", "23", "1000"] {
        let got = run(&emulated(), &path, &["--threads", threads]);
        passed(&got);
    }
}

/// Failures that come later, in the stream, and lose the context: always an error, whichever copy it was.
#[test]
fn work_that_fails_later_is_an_error() {
    let path = testdata("rustdoc-llama-6m/model-00003-of-00003.safetensors");
    for what in [
        "cuMemcpyHtoDAsync_v2:6=~700",
        "cuMemcpyHtoDAsync_v2:7=~719",
        "cuMemcpyHtoDAsync_v2:8=~700",
        "cuMemcpyDtoHAsync_v2:1=~700",
        "cuMemcpyDtoHAsync_v2:2=~719",
        "cuLaunchKernel:1=~700",
        "cuLaunchKernel:2=~716",
        "cuMemsetD8Async:1=~700",
    ] {
        let got = run(&emulated().env("FAKE_CUDA_FAIL", what), &path, &["--check", "--dtype", "f32"]);
        check_failed(&got, &[10], what);
        let report = got.used();
        assert!(report.0["violations"].as_array().unwrap().is_empty(), "{what}: {}", report.0["violations"]);
        assert_eq!((report.count("leaked"), report.count("allocations_live")), (0, 0), "{what}");
    }
}

/// A driver that does not start, or shows no device: an error, never a silent load to the CPU, but where nobody asked
/// and there is no GPU at all.
#[test]
fn a_broken_driver_is_never_a_silent_load() {
    let path = testdata("safetensors/shapes.safetensors");
    let nodes = std::fs::read_dir("/dev")
        .unwrap()
        .flatten()
        .any(|e| e.file_name().to_string_lossy().starts_with("nvidia"));
    let no_device = if nodes { Err(10) } else { Ok("cpu") };
    for (switch, arguments, right) in [
        (("FAKE_CUDA_INIT", "802"), &[][..], Err(10)),
        (("FAKE_CUDA_INIT", "803"), &[], Err(10)),
        (("FAKE_CUDA_INIT", "999"), &["--device", "cuda"], Err(10)),
        (("FAKE_CUDA_INIT", "802"), &["--device", "cpu"], Ok("cpu")),
        (("FAKE_CUDA_INIT", "34"), &[], Ok("cpu")),
        (("FAKE_CUDA_INIT", "34"), &["--device", "cuda:0"], Err(10)),
        (("FAKE_CUDA_NO_DEVICE", "1"), &[], no_device),
        (("FAKE_CUDA_NO_DEVICE", "1"), &["--device", "cuda"], Err(10)),
        (("FAKE_CUDA_DEVICES", "2"), &["--device", "cuda:1"], Ok("cuda:1")),
        (("FAKE_CUDA_DEVICES", "2"), &["--device", "cuda:2"], Err(10)),
        (("CUDA_VISIBLE_DEVICES", "-1"), &[], Ok("cpu")),
    ] {
        let got = run(&emulated().env(switch.0, switch.1), &path, arguments);
        match right {
            Ok(device) => assert_eq!(document(&got.output)["device"], device, "{switch:?} {arguments:?}"),
            Err(code) => {
                check_failed(&got, &[code], &format!("{switch:?} {arguments:?}"));
                if switch.0 == "FAKE_CUDA_INIT" && switch.1 != "34" {
                    assert!(stderr(&got).contains(switch.1), "the driver's code is said: {}", stderr(&got));
                }
            }
        }
    }
}

/// Memory that cannot be registered is done without: said, slower, right.
#[test]
fn a_refused_registration_is_a_note() {
    let path = testdata("rustdoc-llama-6m");
    let got = run(&emulated().env("FAKE_CUDA_REGISTER", "refuse"), &path, &["--check"]);
    got.passed();
    let printed = document(&got.output);
    assert_eq!(printed["digest"], load_json(&path, &["--check"])["digest"]);
    assert_eq!(printed["pinned_bytes"], 0);
    assert!(printed["notes"].to_string().contains("page-locking the buffers was refused"), "{printed}");
    assert!(got.used().count("pageable_copies") > 0);
}

/// A device that shares the host's memory: what is free is what the host has, and the page cache is dropped behind the
/// reader unless it shall be kept.
#[test]
fn an_integrated_device_shares_memory() {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = place.path().join("model.safetensors");
    std::fs::copy(testdata("rustdoc-llama-6m/model-00001-of-00003.safetensors"), &path).unwrap();
    std::fs::File::open(&path).unwrap().sync_all().unwrap();
    let cached = || {
        std::fs::read(&path).unwrap();
        let file = hoist::source::local::LocalFile::open(&path).unwrap();
        move || hoist::source::local::residency::cached_fraction(&file, 0..4 << 20)
    };
    let mut fractions = Vec::new();
    for arguments in [&["--check"][..], &["--check", "--keep-cache"]] {
        let fraction = cached();
        let got = run(
            &emulated().env("FAKE_CUDA_INTEGRATED", 1).env("FAKE_CUDA_MEM", 1u64 << 50),
            &path,
            arguments,
        );
        let printed = passed(&got);
        let available = hoist::machine::available_memory_bytes().unwrap();
        let free = printed["free_bytes"].as_u64().unwrap();
        assert!(free.abs_diff(available) < 4 << 30, "{free} free, {available} available");
        assert_eq!(printed["gpu"]["integrated"], true);
        match fraction() {
            Some(fraction) => fractions.push(fraction),
            None => return eprintln!("SKIPPED: the system does not say what the page cache holds"),
        }
    }
    assert!(fractions[0] < 0.5 && fractions[1] > 0.9, "dropped {}, kept {}", fractions[0], fractions[1]);
}

/// Too little device memory: said with a way out before any byte of the model is copied.
#[test]
fn too_little_device_memory_is_said_before_the_first_copy() {
    let path = testdata("rustdoc-llama-6m");
    for (arguments, memory_bytes, hint) in [
        (&[][..], 8 << 20, "--rank 0/2 loads half of each matrix"),
        (&["--dry-run"], 8 << 20, "--rank 0/2 loads half of each matrix"),
        (&[], 4 << 20, "--rank 0/4 loads 1/4 of each matrix"),
        (&["--dtype", "f32"], 60 << 20, "--rank 0/2"),
    ] {
        let got = run(&emulated().env("FAKE_CUDA_MEM", memory_bytes), &path, arguments);
        check_failed(&got, &[8], "too little");
        assert!(stderr(&got).contains(hint), "{}", stderr(&got));
        let report = got.used();
        // Copies that measure the limit are all there may be: five rounds.
        assert!([0, 5].contains(&report.count("copies")), "{}", report.count("copies"));
        assert_eq!(report.misuse(), None);
    }
}

/// A dry run takes no device memory.
#[test]
fn a_dry_run_takes_nothing_of_the_device() {
    let got = run(&emulated(), &testdata("rustdoc-llama-6m"), &["--dry-run", "--dtype", "f32"]);
    assert_eq!(passed(&got)["dry_run"], true);
    assert_eq!((got.used().count("peak_bytes"), got.used().count("copies")), (0, 0));
}

/// Weights and 64 MiB of device memory at most, 64 MiB pinned, and of host memory little, whatever the model's size.
#[test]
fn what_a_load_takes_is_bounded() {
    let path = synthetic(320);
    for (arguments, times) in
        [(&[][..], 1), (&["--check"], 1), (&["--dtype", "f32"], 2), (&["--io", "direct"], 1)]
    {
        let got = run(&emulated(), &path, arguments);
        let printed = passed(&got);
        let bytes = printed["bytes"].as_u64().unwrap();
        assert!(bytes > 300_000_000 * times, "{bytes}");
        let device = got.used().count("peak_bytes");
        assert!(device <= bytes + (64 << 20), "{arguments:?}: {device} on the device for {bytes}");
        let host = printed["peak_rss_bytes"].as_u64().unwrap().saturating_sub(device);
        assert!(host <= 200 << 20, "{arguments:?}: {host} of host memory");
        assert!(printed["pinned_bytes"].as_u64().unwrap() <= 64 << 20);
    }
}

/// Tensors own their part of the device; the last one that goes frees it, in whichever thread.
#[test]
fn device_tensors_own_their_memory() {
    if inside() {
        let device = Some(DeviceSpec::CudaIndex(0));
        let rank = Some(Rank::parse("0/1").unwrap());
        let got = load(opened(&testdata("rustdoc-llama-6m")), Options { device, rank, ..Options::default() });
        let got = got.wait().unwrap();
        let address = got.tensors[0].device_address().unwrap();
        assert!(got.tensors.iter().all(|t| t.device_address().is_some_and(|a| a % 256 == 0)));
        assert!(got.tensors.iter().all(|t| t.bytes().is_none() && t.device_ordinal() == Some(0)));
        let kept = got.tensors[5].clone();
        assert!(got.into_arenas().is_none(), "device memory is no vector");
        assert!(kept.device_address().unwrap() > address);
        std::thread::spawn(move || drop(kept)).join().unwrap();
        return;
    }
    let run = emulated().test("load::emulated::device_tensors_own_their_memory");
    let report = run.passed();
    assert!(report.count("peak_bytes") >= 12_000_000);
    assert_eq!(report.count("used_bytes"), 0);
}

/// SIGINT and SIGTERM end a load within a second, with everything given back.
#[test]
fn signals_end_a_load_within_a_second() {
    let path = synthetic(320);
    for (signal, code, name) in [("-INT", 130, "SIGINT"), ("-TERM", 143, "SIGTERM")] {
        let child = emulated().env("FAKE_CUDA_COPY_US", 20_000);
        let running = child.start(&["load", path.to_str().unwrap(), "--device", "cuda:0", "--threads", "2"]);
        std::thread::sleep(Duration::from_millis(1500));
        let begun = Instant::now();
        let kill =
            std::process::Command::new("kill").args([signal, &running.id().to_string()]).status().unwrap();
        assert!(kill.success());
        let run = child.end(running);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        assert_eq!(run.code(), Some(code), "{}", stderr(&run));
        assert!(stderr(&run).contains(&format!("error: stopped by {name}")), "{}", stderr(&run));
        assert_eq!(run.used().misuse(), None);
    }
}

/// A model that is not there, while the device is being opened: the error of the model, and the device given back.
#[test]
fn an_error_of_the_model_waits_for_the_device() {
    let got = run(&emulated(), Path::new("/nonexistent/model.safetensors"), &["--device", "cuda:0"]);
    check_failed(&got, &[3], "no such model");
    assert_eq!(got.used().misuse(), None);
}
