//! What a load takes of memory, and gives back.

use super::{in_child, load_json, loaded, synthetic, to_cpu};
use hoist::load::{Form, Options};

/// A number of /proc/self/status, in bytes.
fn status(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix(key)).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

/// Minor and major page faults of this process so far.
fn faults() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[7].parse().unwrap(), fields[9].parse().unwrap())
}

/// Every page of a mapped model is present when the load returns: touching all of them faults no more.
#[test]
fn a_mapped_load_leaves_nothing_to_fault_in() {
    if in_child("load::memory::a_mapped_load_leaves_nothing_to_fault_in", ":") {
        return;
    }
    let model = loaded(&synthetic(320), to_cpu()).unwrap();
    assert_eq!(model.report.form, "mapped");
    let before = faults();
    let mut pages = 0u64;
    let mut sum = 0u64;
    for tensor in &model.tensors {
        for page in tensor.bytes().unwrap().chunks(4096) {
            sum = sum.wrapping_add(page[0].into());
            pages += 1;
        }
    }
    std::hint::black_box(sum);
    let after = faults();
    assert!(pages > 70_000, "{pages}");
    let (minor, major) = (after.0 - before.0, after.1 - before.1);
    assert!(minor < 200 && major < 5, "{minor} minor and {major} major faults for {pages} pages");
}

/// Owned memory is weights and little more, and goes when the tensors go.
#[test]
fn dropping_frees() {
    if in_child("load::memory::dropping_frees", ":") {
        return;
    }
    let path = synthetic(320);
    let before = status("VmRSS:");
    let model = loaded(&path, Options { form: Form::Owned, threads: Some(2), ..to_cpu() }).unwrap();
    let bytes = model.report.bytes;
    let during = status("VmRSS:");
    assert!(during >= before + bytes, "{during} of {before} and {bytes}");
    let kept = model.tensors.last().unwrap().clone();
    drop(model);
    assert!(kept.bytes().unwrap().iter().any(|&b| b != 0), "a tensor that is kept keeps its memory");
    drop(kept);
    let after = status("VmRSS:");
    assert!(after < before + (40 << 20), "{after} after, {before} before");
    let mapped = loaded(&path, to_cpu()).unwrap();
    drop(mapped);
    assert!(status("VmRSS:") < before + (40 << 20));
}

/// The command takes weights + 100 MiB at most, whatever the way; a map counts as the file's pages, and a dry run takes
/// next to nothing.
#[test]
fn the_command_takes_weights_and_little_more() {
    let path = synthetic(320);
    for (arguments, times) in [
        (&["--copy"][..], 1),
        (&["--copy", "--io", "direct"], 1),
        (&["--copy", "--check"], 1),
        (&["--dtype", "f32", "--check"], 2),
        (&["--rank", "0/2", "--slice", "*embed*=all", "--slice", "lm_head*=all"], 1),
        (&["--copy", "--dry-run"], 0),
    ] {
        let document = load_json(&path, arguments);
        let bytes = document["bytes"].as_u64().unwrap();
        let peak = document["peak_rss_bytes"].as_u64().unwrap();
        let allowed = if times == 0 { 60 << 20 } else { bytes + (100 << 20) };
        assert!(peak <= allowed, "{arguments:?}: {peak} for {bytes}");
        if times == 0 {
            assert_eq!((&document["dry_run"], &document["bytes_moved"]), (&true.into(), &0.into()));
        } else {
            assert_eq!(document["bytes_moved"], bytes, "{arguments:?}");
        }
    }
}
