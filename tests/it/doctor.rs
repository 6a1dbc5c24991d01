//! `hoist doctor`, and `inspect --fit cuda:N`: what they say of this machine, of the emulated driver, of a broken one.

use crate::naive::testdata;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

/// `hoist` with nothing of this machine's environment that could change what it looks at.
fn hoist(arguments: &[&str], cache: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hoist"));
    for (key, _) in std::env::vars_os() {
        let name = key.to_string_lossy();
        if name.starts_with("HOIST_") || name.starts_with("HF_") || name.ends_with("_VISIBLE_DEVICES") {
            command.env_remove(&key);
        }
    }
    // A test asks nobody beyond this machine.
    command.args(arguments).env("HF_HUB_CACHE", cache).env("HF_HUB_OFFLINE", "1").output().unwrap()
}

#[track_caller]
fn json(output: &Output) -> Value {
    let shown = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&shown).unwrap_or_else(|e| {
        panic!("{e}\n{shown}\n{}", String::from_utf8_lossy(&output.stderr));
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A rate that a machine can have, or a reason.
#[track_caller]
fn check_rate(measured: &Value, what: &str) -> bool {
    match measured["bytes_per_second"].as_f64() {
        Some(rate) => {
            assert!((1e6..1e13).contains(&rate), "{what}: {rate}");
            true
        }
        None => {
            assert!(measured["reason"].as_str().is_some_and(|r| !r.is_empty()), "{what}: {measured}");
            false
        }
    }
}

/// This machine, without a GPU asked for, in a place of its own: the figures are there, and nothing is left.
#[test]
fn this_machine() {
    let place = TempDir::new().unwrap();
    let found = hoist(&["doctor", "--json", "--device", "cpu"], place.path());
    assert_eq!(found.status.code(), Some(0), "{}", text(&found.stderr));
    let d = json(&found);
    assert_eq!(d["schema"], "hoist.doctor/1");
    assert_eq!(d["device"], "cpu");
    assert_eq!(d["no_gpu_because"], "not looked for: the CPU was asked for");
    assert_eq!((&d["pinned"], &d["model"], &d["error"]), (&Value::Null, &Value::Null, &Value::Null));
    let s = &d["storage"];
    assert_eq!(s["path"].as_str(), place.path().to_str(), "the cache is the default place");
    assert!(check_rate(&s["cached_per_core"], "cached"), "{s}");
    assert!(check_rate(&s["cached"], "cached by all"), "{s}");
    assert!(check_rate(&s["mapped"], "mapped"), "{s}");
    let direct = check_rate(&s["direct"], "direct");
    let host = &d["host"];
    #[cfg(target_os = "linux")]
    {
        assert!(s["file_system"].is_string());
        assert_eq!(direct, s["direct_align_bytes"].is_u64() && s["network"] == false, "{s}");
        assert_eq!(s["io_uring"].as_bool().unwrap(), s["no_io_uring_because"].is_null());
        assert!(host["memory_bytes"].as_u64().unwrap() >= host["available_bytes"].as_u64().unwrap());
        assert!(s["sample_bytes"].as_u64().unwrap() >= 4 << 20);
    }
    assert!(host["cores"].as_u64().unwrap() >= 1);
    let forecast = &d["forecast"];
    assert_eq!(forecast["size_bytes"], 16_000_000_000u64);
    assert!(forecast["hot"]["seconds"].as_f64().unwrap() > 0.0);
    if direct {
        let rate = s["direct"]["bytes_per_second"].as_f64().unwrap();
        let cold = forecast["cold"]["seconds"].as_f64().unwrap();
        assert!((cold * rate / 16e9 - 1.0).abs() < 1e-6, "{forecast}");
        assert_eq!(forecast["cold"]["limit"], "the disk");
    }
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "the sample was left behind");

    let found = hoist(&["doctor", "--device", "cpu"], place.path());
    let said = text(&found.stdout);
    for (n, begins) in [
        "gpu      none: not looked for",
        "pinned   no GPU",
        "storage  ",
        "memory   ",
        "A 16 GB model should map to cpu",
    ]
    .iter()
    .enumerate()
    {
        assert!(said.lines().nth(n).is_some_and(|l| l.starts_with(begins)), "line {n}: {said}");
    }
    assert_eq!(text(&found.stderr), "");
}

/// A model is measured in its own file, which stays as it was, in the page cache too.
#[test]
fn a_model() {
    let path = testdata("rustdoc-llama-6m");
    let cache = path.join("no-such-cache");
    let before: Vec<_> = std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name()).collect();
    let found = hoist(&["doctor", path.to_str().unwrap(), "--json", "--device", "cpu"], &cache);
    assert_eq!(found.status.code(), Some(0), "{}", text(&found.stderr));
    let d = json(&found);
    let (model, forecast) = (&d["model"], &d["forecast"]);
    assert_eq!((&model["name"], &model["files"]), (&"rustdoc-llama-6m".into(), &3.into()));
    assert_eq!(model["size_bytes"], forecast["size_bytes"]);
    assert!(d["storage"]["path"].as_str().unwrap().ends_with(".safetensors"));
    if let Some(fraction) = model["page_cache_fraction"].as_f64() {
        assert!((0.0..=1.0).contains(&fraction));
    }
    if let (Some(now), Some(cold)) = (forecast["now_seconds"].as_f64(), forecast["cold"]["seconds"].as_f64())
    {
        let hot = forecast["hot"]["seconds"].as_f64().unwrap();
        assert!(now >= hot.min(cold) * 0.999 && now <= hot.max(cold) * 1.001, "{forecast}");
    }
    // The front was read, so it is cached now, also after the direct reads.
    let again = json(&hoist(&["doctor", path.to_str().unwrap(), "--json", "--device", "cpu"], &cache));
    if let Some(fraction) = again["model"]["page_cache_fraction"].as_f64() {
        assert!(fraction > 0.3, "{again}");
    }
    let after: Vec<_> = std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(before, after);
}

/// What is not there, not readable, not a model, too small, or memory all along.
#[cfg(target_os = "linux")]
#[test]
fn odd_places() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    symlink(path("loop"), path("loop")).unwrap();
    symlink(path("nowhere"), path("dangling")).unwrap();
    std::fs::write(path("damaged.safetensors"), b"\xff\xff\xff\xff\xff\xff\xff\x7f{}").unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, path("pipe"), rustix::fs::Mode::RUSR).unwrap();
    std::fs::create_dir(path("closed")).unwrap();
    std::fs::set_permissions(path("closed"), std::fs::Permissions::from_mode(0o000)).unwrap();
    // Root reads it all the same.
    let closed = if std::fs::read_dir(path("closed")).is_ok() { 0 } else { 4 };
    for (name, code, document, part) in [
        ("absent", 3, false, "absent"),
        ("loop", 1, true, "symbolic links"),
        ("dangling", 3, true, "not there"),
        ("damaged.safetensors", 1, true, "damaged.safetensors"),
        ("pipe", 1, true, "not a regular file"),
        ("closed", closed, true, ""),
    ] {
        let found =
            hoist(&["doctor", path(name).to_str().unwrap(), "--json", "--device", "cpu"], &path("cache"));
        let said = text(&found.stderr);
        assert_eq!(found.status.code(), Some(code), "{name}: {said}");
        assert!(said.contains(part), "{name}: {said}");
        assert_eq!(!found.stdout.is_empty(), document, "{name}");
        if document {
            let d = json(&found);
            assert_eq!(d["error"].is_null(), code == 0, "{name}");
            assert!(d["host"]["cores"].is_u64(), "{name}");
            check_rate(&d["storage"]["direct"], name);
        }
    }
    std::fs::set_permissions(path("closed"), std::fs::Permissions::from_mode(0o700)).unwrap();

    let Ok(memory) = TempDir::new_in("/dev/shm") else {
        eprintln!("skipped: no /dev/shm");
        return;
    };
    let d = json(&hoist(
        &["doctor", memory.path().to_str().unwrap(), "--json", "--device", "cpu"],
        &path("cache"),
    ));
    assert_eq!(d["storage"]["file_system"], "tmpfs");
    check_rate(&d["storage"]["cached_per_core"], "tmpfs");
    if d["storage"]["direct_align_bytes"].is_null() {
        assert_eq!(d["storage"]["path_taken"], "page cache");
        assert_eq!(d["forecast"]["cold"], Value::Null);
    }
}

#[cfg(all(feature = "cuda", target_os = "linux"))]
mod gpu {
    use super::*;
    use crate::cuda::{Emulated, emulated};

    fn doctor(child: &Emulated, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut all = vec!["doctor"];
        all.extend(arguments);
        let place = TempDir::new().unwrap();
        let target = place.path().to_str().unwrap().to_owned();
        all.push(&target);
        let run = child.hoist(&all);
        (run.code(), text(&run.output.stdout), text(&run.output.stderr))
    }

    #[test]
    fn the_emulated_driver() {
        let place = TempDir::new().unwrap();
        let child = emulated().env("FAKE_CUDA_DEVICES", 2);
        let run = child.hoist(&["doctor", "--json", "--device", "cuda:1", place.path().to_str().unwrap()]);
        run.passed();
        let d = json(&run.output);
        assert_eq!(d["device"], "cuda:1");
        let gpus = d["gpus"].as_array().unwrap();
        assert_eq!(gpus.len(), 2);
        for (n, gpu) in gpus.iter().enumerate() {
            assert_eq!(gpu["ordinal"], n);
            assert!(gpu["name"].as_str().unwrap().contains("EMULATED"), "{gpu}");
            assert_eq!(
                (&gpu["emulated"], &gpu["pcie"], &gpu["driver_version"]),
                (&true.into(), &Value::Null, &Value::Null)
            );
        }
        let pinned = &d["pinned"];
        assert!(check_rate(&pinned["host_to_device"], "pinned"));
        assert_eq!(pinned["ring_bytes"], pinned["registered_bytes"]);
        assert!(pinned["free_bytes"].as_u64().unwrap() > 0);
        assert!(d["forecast"]["hot"]["seconds"].as_f64().unwrap() > 0.0);

        let (code, said, _) = doctor(&emulated().env("FAKE_CUDA_REGISTER", "refuse"), &[]);
        assert_eq!(code, Some(0));
        assert!(said.starts_with("gpu      0  ") && said.contains("EMULATED"), "{said}");
        assert!(said.contains("registered memory: no (page-locking the buffers was refused"), "{said}");
        assert!(said.lines().last().unwrap().contains("should load to cuda:0"), "{said}");
    }

    /// A switch of the driver, arguments → exit code, what standard output and standard error hold.
    #[test]
    fn a_broken_driver_is_said_and_the_rest_too() {
        #[rustfmt::skip]
        let rows: &[(&str, &str, &[&str], i32, &[&str], &str)] = &[
            ("FAKE_CUDA_INIT", "802", &[], 10, &["802", "CUDA_ERROR_SYSTEM_NOT_READY", "fabric manager", "hint: "], "802"),
            ("FAKE_CUDA_INIT", "803", &[], 10, &["CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"], "803"),
            ("FAKE_CUDA_INIT", "34", &[], 0, &["none: the libcuda found is a toolkit's stub"], ""),
            ("FAKE_CUDA_INIT", "34", &["--device", "cuda"], 10, &["CUDA_ERROR_STUB_LIBRARY"], "--device asks for `cuda`"),
            ("FAKE_CUDA_INIT", "802", &["--device", "cpu"], 0, &["none: not looked for"], ""),
            ("FAKE_CUDA_DEVICES", "1", &["--device", "cuda:7"], 10, &["gpu      0  ", "does not load here"], "cuda:7 is not there"),
            ("FAKE_CUDA_FAIL", "cuDevicePrimaryCtxRetain:*=46", &[], 10, &["gpu      0  ", "pinned   `cuDevicePrimaryCtxRetain`"], "46"),
            ("FAKE_CUDA_FAIL", "cuMemAlloc_v2:*=2", &[], 0, &["not measured: ", "What a load takes here is not known"], ""),
            ("CUDA_VISIBLE_DEVICES", "", &[], 0, &["none: CUDA_VISIBLE_DEVICES=`` hides every GPU"], ""),
        ];
        for (switch, value, arguments, code, shown, said) in rows {
            let (got, out, err) = doctor(&emulated().env(switch, value), arguments);
            let what = format!("{switch}={value} {arguments:?}\n{out}\n{err}");
            assert_eq!(got, Some(*code), "{what}");
            for part in shown.iter().chain(&["\nstorage  ", "\nmemory   "]) {
                assert!(out.contains(part), "`{part}` is missing: {what}");
            }
            assert!(err.contains(said) && err.is_empty() == said.is_empty(), "{what}");
        }
        let child = emulated().env("FAKE_CUDA_INIT", 802);
        let run = child.hoist(&["doctor", "--json", "/dev/shm"]);
        assert_eq!(run.code(), Some(10));
        let d = json(&run.output);
        assert_eq!((&d["driver_fault"]["code"], &d["device"]), (&802.into(), &Value::Null));
        assert!(d["driver_fault"]["cause"].as_str().unwrap().contains("fabric manager"));
        assert!(d["error"].as_str().unwrap().contains("802"));
    }

    /// Whether a model fits is asked of the driver.
    #[test]
    fn fit_asks_the_device() {
        let model = testdata("rustdoc-llama-6m");
        let model = model.to_str().unwrap();
        let fit = |child: Emulated, device: &str| child.hoist(&["inspect", model, "--fit", device, "--json"]);
        let run = fit(emulated().env("FAKE_CUDA_MEM", 3u64 << 30).env("FAKE_CUDA_DEVICES", 2), "cuda:1");
        run.passed();
        let free = json(&run.output)["fit"]["free_bytes"].as_u64().unwrap();
        assert!((2 << 30..=3 << 30).contains(&free), "{free}");
        assert_eq!(json(&run.output)["fit"]["one"]["fits"], true);
        let run = fit(emulated().env("FAKE_CUDA_MEM", 64 << 20), "cuda:0");
        assert_eq!(json(&run.output)["fit"]["one"]["fits"], false);
        let run = fit(emulated().env("FAKE_CUDA_DEVICES", 2), "cuda:GPU-e1");
        assert_eq!(run.code(), Some(0), "{}", text(&run.output.stderr));

        // Shared memory: what the host has available, whatever the driver counts.
        let run = fit(emulated().env("FAKE_CUDA_INTEGRATED", 1).env("FAKE_CUDA_MEM", 1u64 << 50), "cuda:0");
        let free = json(&run.output)["fit"]["free_bytes"].as_u64().unwrap();
        assert!(free <= hoist::machine::total_memory_bytes().unwrap(), "{free}");

        for (child, device, code) in [
            (emulated(), "cuda:5", 10),
            (emulated().env("FAKE_CUDA_INIT", 802), "cuda:0", 10),
            (emulated(), "cuda:x", 2),
            (emulated().env("HOIST_FORCE_CPU", 1), "cuda:0", 2),
        ] {
            assert_eq!(fit(child, device).code(), Some(code), "{device}");
        }
    }
}
