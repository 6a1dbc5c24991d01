//! `hoist load` on host memory as a person or a program sees it: output, messages, exit codes.
#![cfg(target_os = "linux")]

use super::{err, hoist, load_json, synthetic, write_safetensors};
use crate::naive::testdata;
use hoist::dtype::DType;
use serde_json::Value;
use std::fs::File;
use std::process::Stdio;

#[test]
fn each_end_has_its_code() {
    let place = tempfile::tempdir().unwrap();
    let wide = place.path().join("wide.safetensors");
    write_safetensors(&wide, &[("w", DType::F32, vec![2], [1e6f32, -1e6].map(f32::to_le_bytes).concat())]);
    let wide = wide.to_str().unwrap();
    let model = testdata("rustdoc-llama-6m");
    let model = model.to_str().unwrap();
    let truncated = testdata("hostile/safetensors/truncated.safetensors");
    let nowhere = place.path().join("nothing");
    let mut failures = Vec::new();
    for (arguments, variables, code, says) in [
        (&[model, "--device", "cpu"][..], &[][..], 0, ""),
        (&[model], &[("HOIST_DEVICE", "cpu")], 0, "cpu, mapped"),
        (&[model], &[("HOIST_FORCE_CPU", "1")], 0, "cpu, mapped  (HOIST_FORCE_CPU is set; see hoist doctor)"),
        (&[model], &[("CUDA_VISIBLE_DEVICES", "-1")], 0, "hides every GPU; see hoist doctor)"),
        (&[nowhere.to_str().unwrap(), "--device", "cpu"], &[], 3, "error: "),
        (&[truncated.to_str().unwrap(), "--device", "cpu"], &[], 1, "error: "),
        (&[model, "--device", "gpu"], &[], 2, "device `gpu` is not known"),
        (&[model, "--device", "cuda"], &[("CUDA_VISIBLE_DEVICES", "")], 10, "hides every GPU"),
        (&[model, "--device", "cuda:0"], &[("HOIST_FORCE_CPU", "1")], 2, "HOIST_FORCE_CPU forbids it"),
        (&[model, "--device", "cpu", "--include", "*nothing*"], &[], 3, "matches none of the 48 tensors"),
        (&[model, "--device", "cpu", "--rank", "2/2"], &[], 2, "rank 2 of 2"),
        (&[model, "--device", "cpu", "--rank", "x"], &[], 2, "is not a rank"),
        (&[model, "--device", "cpu", "--slice", "*=0"], &[], 2, "a slice without a rank"),
        (&[model, "--device", "cpu", "--dtype", "q4_0"], &[], 2, "`q4_0` is no type that a load casts to"),
        (&[model, "--device", "cpu", "--dtype", "what"], &[], 2, "`what` is no type"),
        (&[model, "--device", "cpu", "--memory", "1MB", "--copy"], &[], 8, "this load needs 12.1 MB"),
        (&[model, "--device", "cpu", "--threads", "0"], &[], 2, "invalid value"),
        (&[model, "--device", "cpu", "--trace", "/nonexistent/x"], &[], 3, "cannot be written"),
        (&[model, "--device", "cpu", "--trace", "/dev/full"], &[], 8, "cannot be written"),
        (&[wide, "--device", "cpu", "--dtype", "f16"], &[], 1, "2 finite values become infinite"),
        (&[wide, "--device", "cpu", "--dtype", "f16", "--check"], &[], 1, "2 finite values become infinite"),
        (&[wide, "--device", "cpu", "--dtype", "f16", "--saturate", "--check"], &[], 0, ""),
        (&[wide, "--device", "cpu", "--dtype", "bf16"], &[], 0, ""),
    ] {
        let output = hoist().arg("load").args(arguments).envs(variables.iter().copied()).output().unwrap();
        let said = err(&output);
        let errors = said.lines().filter(|l| l.starts_with("error: ")).count();
        let quiet = code == 0 || output.stdout.is_empty();
        if output.status.code() != Some(code)
            || !said.contains(says)
            || errors != usize::from(code != 0)
            || !quiet
        {
            failures.push(format!(
                "{arguments:?} {variables:?}: {:?}, not {code} with `{says}`\n{said}",
                output.status
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The document's fields and what kind of value each is. A field that goes or changes breaks somebody's program.
#[test]
fn the_document_keeps_its_shape() {
    let shape = |document: &Value| -> String {
        let kind = |value: &Value| match value {
            Value::Null => "null".to_string(),
            Value::Bool(_) => "bool".into(),
            Value::Number(n) if n.is_u64() => "integer".into(),
            Value::Number(_) => "number".into(),
            Value::String(_) => "text".into(),
            Value::Array(_) => "list".into(),
            Value::Object(o) => format!("{{{}}}", o.keys().cloned().collect::<Vec<_>>().join(" ")),
        };
        let fields = document.as_object().unwrap().iter().map(|(k, v)| format!("{k}:{}", kind(v)));
        fields.collect::<Vec<_>>().join(" ")
    };
    let path = testdata("rustdoc-llama-6m");
    let owned = load_json(&path, &["--copy", "--check"]);
    assert_eq!(
        shape(&owned),
        "schema:text model:text commit:null device:text form:text no_gpu_because:null dry_run:bool tensors:integer \
         bytes:integer bytes_moved:integer present_bytes:integer read_bytes:integer needed_bytes:integer free_bytes:null seconds:number \
         bytes_per_second:number limit_bytes_per_second:number cpu_seconds:number ready_seconds:number \
         threads:integer page_cache_fraction:number \
         path:{page_cache_bytes buffered_bytes direct_bytes io_uring} pinned_bytes:integer device_extra_bytes:null \
         overflow_count:integer peak_rss_bytes:integer notes:list warnings:list checked_tensors:integer digest:text"
    );
    for (field, value) in [
        ("schema", Value::from("hoist.load/1")),
        ("model", "rustdoc-llama-6m".into()),
        ("device", "cpu".into()),
        ("form", "owned".into()),
        ("tensors", 48.into()),
        ("checked_tensors", 48.into()),
    ] {
        assert_eq!(owned[field], value, "{field}");
    }
    assert_eq!(owned["bytes"], owned["bytes_moved"]);
    let path_bytes = |field: &str| owned["path"][field].as_u64().unwrap();
    let read = path_bytes("page_cache_bytes") + path_bytes("buffered_bytes") + path_bytes("direct_bytes");
    assert!(read >= owned["bytes"].as_u64().unwrap(), "{owned}");
    // A map moves nothing and so has no rate.
    let mapped = load_json(&path, &[]);
    assert_eq!((&mapped["form"], &mapped["bytes_moved"]), (&"mapped".into(), &0.into()));
    assert_eq!(mapped["bytes_per_second"], Value::Null);
    for arguments in [&["--dry-run"][..], &["--dry-run", "--copy"], &["--dry-run", "--dtype", "f32"]] {
        let planned = load_json(&path, arguments);
        assert_eq!(
            (&planned["dry_run"], &planned["bytes_moved"]),
            (&true.into(), &0.into()),
            "{arguments:?}"
        );
        assert_eq!((&planned["bytes_per_second"], &planned["seconds"]), (&Value::Null, &0.0.into()));
    }
}

/// A reader that leaves ends it quietly; a full disk does not.
#[test]
fn closed_and_full_outputs() {
    for json in [&["--json"][..], &[]] {
        let mut command = hoist();
        command.args(["load", "--device", "cpu"]).args(json).arg(testdata("rustdoc-llama-6m"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(141), "{}", err(&output));
        assert!(!err(&output).contains("error"), "{}", err(&output));
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = command.stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(8), "{}", err(&output));
        assert!(err(&output).contains("error: standard output cannot be written"), "{}", err(&output));
        // A standard error that is full or closed is nobody's to tell.
        let full = File::options().write(true).open("/dev/full").unwrap();
        assert!(command.stdout(Stdio::null()).stderr(full).status().unwrap().success());
    }
}

/// In a pipe there are lines, whatever the progress, and never a carriage return; quiet is quiet.
#[test]
fn progress_in_a_pipe_is_lines() {
    let path = synthetic(320);
    for (arguments, events) in [
        (&["--progress", "auto"][..], false),
        (&["--progress", "plain"], false),
        (&["--progress", "json"], true),
        (&["--progress", "none"], false),
        (&["--progress", "bar"], false),
        (&["--quiet"], false),
    ] {
        let mut command = hoist();
        let output =
            command.args(["load", "--device", "cpu", "--copy"]).args(arguments).arg(&path).output().unwrap();
        assert!(output.status.success(), "{}", err(&output));
        let said = err(&output);
        assert!(!said.contains('\r') && !said.contains('\u{1b}'), "{arguments:?}: {said:?}");
        assert!(String::from_utf8_lossy(&output.stdout).starts_with("loaded 320.0 MB in "), "{arguments:?}");
        let parsed: Vec<Value> = said.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
        assert_eq!(!parsed.is_empty(), events, "{arguments:?}: {said}");
        if events {
            assert_eq!(parsed[0]["event"], "planned");
            let moved: Vec<u64> = parsed[1..].iter().map(|e| e["bytes"].as_u64().unwrap()).collect();
            assert!(moved.iter().all(|&b| b <= 320_000_000), "{moved:?}");
        }
        if arguments == ["--quiet"] {
            assert_eq!(said, "");
        }
    }
}

/// The trace is JSON that a viewer opens; its reads are all the bytes, each lane's spans follow one another.
#[test]
fn the_trace_holds_every_byte() {
    let place = tempfile::tempdir().unwrap();
    let trace = place.path().join("trace.json");
    for (form, name) in [(&["--copy", "--io", "buffered"][..], "read"), (&[], "populate")] {
        let mut arguments = vec!["--trace", trace.to_str().unwrap(), "--threads", "2"];
        arguments.extend(form);
        let document = load_json(&testdata("rustdoc-llama-6m"), &arguments);
        let json: Value = serde_json::from_slice(&std::fs::read(&trace).unwrap()).unwrap();
        let events = json["traceEvents"].as_array().unwrap();
        let of = |name: &str| events.iter().filter(|e| e["name"] == name).cloned().collect::<Vec<_>>();
        let bytes: u64 = of(name).iter().map(|e| e["args"]["bytes"].as_u64().unwrap()).sum();
        assert!(bytes >= document["bytes"].as_u64().unwrap(), "{bytes}");
        let lanes: std::collections::BTreeSet<u64> =
            events.iter().map(|e| e["tid"].as_u64().unwrap()).collect();
        assert_eq!(events.iter().filter(|e| e["ph"] == "M").count(), lanes.len(), "a name for each lane");
        for event in events.iter().filter(|e| e["ph"] != "M") {
            assert_eq!(event["ph"], "X");
            assert!(event["ts"].as_f64().unwrap() >= 0.0 && event["dur"].as_f64().unwrap() >= 0.0);
            assert!(event["tid"].as_u64().unwrap() < 2);
        }
    }
}

/// The sums of a dry run are the load's.
#[test]
fn a_dry_run_says_what_the_load_takes() {
    for arguments in [&["--copy"][..], &["--dtype", "f32"], &["--rank", "1/2"], &[]] {
        let path = testdata("rustdoc-llama-6m");
        let real = load_json(&path, arguments);
        let mut dry = arguments.to_vec();
        dry.push("--dry-run");
        let planned = load_json(&path, &dry);
        for field in ["form", "tensors", "bytes", "needed_bytes"] {
            assert_eq!(planned[field], real[field], "{arguments:?} {field}");
        }
    }
    let output = hoist()
        .args(["load", "--device", "cpu", "--copy", "--dry-run"])
        .arg(testdata("rustdoc-llama-6m"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.starts_with("plan   48 tensors   12.1 MB to cpu (owned)   memory 12.1 MB"), "{said}");
}
