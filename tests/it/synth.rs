//! What writes safetensors: the layout against the reference's own writer, files that are complete or absent, and
//! synthetic checkpoints.

use crate::naive::sha256;
use hoist::dtype::DType;
use hoist::format::layout::Entry;
use hoist::format::safetensors::layout::{self, DATA_ALIGNMENT_BYTES};
use hoist::sink::file::{DirectorySink, Existing, FileSink, check_space, write_file};
use hoist::synth::{Options, Sharding, Summary, synth};
use hoist::{Error, ErrorKind};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

/// A counter-based generator for the tests' own choices.
fn random(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % below
}

fn reference_dtype(dtype: DType) -> Dtype {
    serde_json::from_value(dtype.facts().safetensors.unwrap().into()).unwrap()
}

/// The whole file that we would write for these tensors and this data.
fn written(entries: &[Entry], data: &[Vec<u8>], metadata: &[(String, String)]) -> Vec<u8> {
    let laid = layout::lay_out(entries, metadata, None).unwrap();
    let [(0, header)] = &laid.fixed[..] else { panic!("{:?}", laid.fixed) };
    let mut file = header.clone();
    assert_eq!(file.len() as u64 % DATA_ALIGNMENT_BYTES, 0);
    file.resize(laid.file_size_bytes as usize, 0xee);
    for (bytes, &offset) in data.iter().zip(&laid.offsets_bytes) {
        file[offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    file
}

/// The same by the reference.
fn reference(entries: &[Entry], data: &[Vec<u8>], metadata: &[(String, String)]) -> Vec<u8> {
    let views = entries.iter().zip(data).map(|(e, bytes)| {
        let shape = e.shape.iter().map(|&d| d as usize).collect();
        (e.name.clone(), TensorView::new(reference_dtype(e.dtype), shape, bytes).unwrap())
    });
    let metadata: HashMap<_, _> = metadata.iter().cloned().collect();
    serialize(views, (!metadata.is_empty()).then_some(metadata)).unwrap()
}

/// The JSON without its padding, and the data.
fn parts(file: &[u8]) -> (&str, &[u8]) {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    (std::str::from_utf8(&file[8..8 + length]).unwrap().trim_end_matches(' '), &file[8 + length..])
}

#[test]
fn layout_is_the_references_but_for_padding() {
    let types: Vec<DType> = DType::ALL.iter().copied().filter(|d| d.facts().safetensors.is_some()).collect();
    let names = ["a", "A", "b.weight", "ß \"quoted\" \\", "\u{1}\n\t\u{7f}", "層.0", "\u{10ffff}", ""];
    let mut state = 1;
    let mut coincided = 0;
    for round in 0..400 {
        let mut entries: Vec<Entry> = Vec::new();
        for _ in 0..random(&mut state, 12) {
            let dtype = types[random(&mut state, types.len() as u64) as usize];
            let name = names[random(&mut state, names.len() as u64) as usize];
            let name = format!("{name}{}", if random(&mut state, 2) == 0 { "" } else { ".x" });
            let mut shape: Vec<u64> = (0..random(&mut state, 4)).map(|_| random(&mut state, 5)).collect();
            if dtype.facts().block_elements > 1 {
                shape.push(4);
            }
            if entries.iter().all(|e| e.name != name) {
                entries.push(Entry { name, dtype, shape });
            }
        }
        let data: Vec<Vec<u8>> = entries
            .iter()
            .map(|e| (0..e.size_bytes().unwrap()).map(|_| random(&mut state, 256) as u8).collect())
            .collect();
        // The reference keeps metadata in a hash map, so more than one key would be in any order.
        let metadata = match round % 8 {
            0 => vec![],
            n => vec![("format".to_owned(), "p".repeat(8 * n))],
        };
        let (ours, theirs) = (written(&entries, &data, &metadata), reference(&entries, &data, &metadata));
        assert_eq!(parts(&ours), parts(&theirs), "{entries:?}");
        if ((theirs.len() - parts(&theirs).1.len()) as u64).is_multiple_of(DATA_ALIGNMENT_BYTES) {
            assert_eq!(ours, theirs, "{entries:?}");
            coincided += 1;
        }
        // Our own reader finds what was laid out.
        layout::check(&layout::lay_out(&entries, &metadata, None).unwrap(), &entries).unwrap();
        let read = SafeTensors::deserialize(&ours).unwrap();
        for (entry, bytes) in entries.iter().zip(&data) {
            assert_eq!(read.tensor(&entry.name).unwrap().data(), bytes, "{entry:?}");
        }
    }
    assert!(coincided > 10, "the two never came to lie alike, so bytes were never compared");
}

fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_is_complete_or_absent() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("out.bin");

    let sink = FileSink::create(&target, 10, Existing::Keep).unwrap();
    sink.write_all_at(b"world", 5).unwrap();
    let during = names_in(place.path());
    assert!(during.len() == 1 && during[0].starts_with(".out.bin.hoist-"), "{during:?}");
    drop(sink);
    assert_eq!(names_in(place.path()), [""; 0], "an aborted file leaves nothing");

    let sink = FileSink::create(&target, 10, Existing::Keep).unwrap();
    sink.write_all_at(b"world", 5).unwrap();
    sink.write_all_at(b"hello", 0).unwrap();
    sink.finish().unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"helloworld");

    // The old one stands until the new one is complete.
    let sink = FileSink::create(&target, 3, Existing::Replace).unwrap();
    sink.write_all_at(b"new", 0).unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"helloworld");
    sink.finish().unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"new");

    // One that appears while we write is not ours to replace.
    let late = place.path().join("late.bin");
    let sink = FileSink::create(&late, 3, Existing::Keep).unwrap();
    fs::write(&late, "theirs").unwrap();
    assert_eq!(sink.finish().unwrap_err().kind(), ErrorKind::BadInput);
    assert_eq!(fs::read(&late).unwrap(), b"theirs");
    assert_eq!(names_in(place.path()), ["late.bin", "out.bin"]);
}

#[test]
fn a_directory_is_complete_or_absent() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("out");
    let sink = DirectorySink::create(&target).unwrap();
    write_file(&sink.path().join("a"), b"a", Existing::Keep).unwrap();
    drop(sink);
    assert_eq!(names_in(place.path()), [""; 0]);

    fs::create_dir(&target).unwrap();
    let sink = DirectorySink::create(&target).unwrap();
    write_file(&sink.path().join("a"), b"a", Existing::Keep).unwrap();
    assert_eq!(names_in(&target), [""; 0]);
    sink.finish().unwrap();
    assert_eq!(names_in(&target), ["a"]);
    assert_eq!(names_in(place.path()), ["out"]);
}

#[test]
fn what_cannot_be_written_says_why_and_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let there = place.path().join("there");
    fs::write(&there, "old").unwrap();
    let create =
        |name: &str, size, existing| FileSink::create(&place.path().join(name), size, existing).map(drop);
    let beyond = FileSink::create(&place.path().join("small"), 4, Existing::Keep).unwrap();
    let cases: Vec<(&str, Result<(), Error>, ErrorKind, &str)> = vec![
        ("exists", create("there", 1, Existing::Keep), ErrorKind::BadInput, "there: exists already"),
        (
            "no directory",
            create("no/file", 1, Existing::Keep),
            ErrorKind::NotFound,
            "no/file: cannot be created",
        ),
        (
            "under a file",
            create("there/file", 1, Existing::Keep),
            ErrorKind::BadInput,
            "there/file: cannot be created",
        ),
        ("a directory", create(".", 1, Existing::Replace), ErrorKind::BadInput, "is a directory"),
        (
            "no name",
            FileSink::create(Path::new("/.."), 1, Existing::Replace).map(drop),
            ErrorKind::BadInput,
            "is a directory",
        ),
        (
            "too large",
            create("huge", 1 << 60, Existing::Keep),
            ErrorKind::NoSpace,
            "huge: cannot be given its 1.2 EB",
        ),
        ("no room", check_space(place.path(), u64::MAX), ErrorKind::NoSpace, "free, this needs 18.4 EB"),
        (
            "beyond",
            beyond.write_all_at(b"12", 3),
            ErrorKind::BadInput,
            "small: was laid out for 4 bytes, and 2 more were to be written (at byte 3)",
        ),
        (
            "overflow",
            beyond.write_all_at(b"12", u64::MAX),
            ErrorKind::BadInput,
            "small: was laid out for 4 bytes",
        ),
        (
            "directory over a file",
            DirectorySink::create(&there).map(drop),
            ErrorKind::BadInput,
            "there: exists already",
        ),
        (
            "directory over a full one",
            DirectorySink::create(place.path()).map(drop),
            ErrorKind::BadInput,
            "exists already",
        ),
        (
            "directory nowhere",
            DirectorySink::create(&place.path().join("no/out")).map(drop),
            ErrorKind::NotFound,
            "no/out: cannot be created",
        ),
    ];
    for (case, result, kind, said) in cases {
        let error = result.expect_err(case);
        assert_eq!(error.kind(), kind, "{case}: {error}");
        assert!(error.to_string().contains(said), "{case}: {error}\nexpected: {said}");
    }
    drop(beyond);
    assert_eq!(names_in(place.path()), ["there"]);
    assert_eq!(fs::read(&there).unwrap(), b"old");
}

#[test]
#[cfg(unix)]
fn a_file_has_the_umasks_mode() {
    use std::os::unix::fs::PermissionsExt;
    let place = tempfile::tempdir().unwrap();
    let mode = |name: &str| fs::metadata(place.path().join(name)).unwrap().permissions().mode();
    fs::write(place.path().join("plain"), "x").unwrap();
    write_file(&place.path().join("ours"), b"x", Existing::Keep).unwrap();
    assert_eq!(mode("ours"), mode("plain"));
}

fn make(directory: &Path, name: &str, change: impl FnOnce(&mut Options)) -> Result<Summary, Error> {
    let mut options = Options::new(directory.join(name));
    options.size_bytes = Some(6_000_000);
    change(&mut options);
    synth(options).wait()
}

/// File → SHA-256 of a directory.
fn digests(directory: &Path) -> BTreeMap<String, String> {
    names_in(directory)
        .into_iter()
        .map(|n| (n.clone(), sha256(&fs::read(directory.join(n)).unwrap())))
        .collect()
}

/// Tensor → (type, shape, bytes) of all shards.
fn tensors(directory: &Path) -> BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> {
    let mut all = BTreeMap::new();
    for name in names_in(directory).into_iter().filter(|n| n.ends_with(".safetensors")) {
        let file = fs::read(directory.join(name)).unwrap();
        for (tensor, view) in SafeTensors::deserialize(&file).unwrap().iter() {
            let facts = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
            assert!(all.insert(tensor.to_owned(), facts).is_none(), "{tensor} is there twice");
        }
    }
    all
}

#[test]
fn the_same_arguments_give_the_same_bytes() {
    let place = tempfile::tempdir().unwrap();
    let three = |o: &mut Options| o.sharding = Sharding::Count(3);
    for threads in [1, 2, 7] {
        make(place.path(), &format!("t{threads}"), |o| {
            three(o);
            o.threads = threads;
        })
        .unwrap();
    }
    let first = digests(&place.path().join("t1"));
    assert_eq!(
        first.keys().collect::<Vec<_>>(),
        [
            "config.json",
            "model-00001-of-00003.safetensors",
            "model-00002-of-00003.safetensors",
            "model-00003-of-00003.safetensors",
            "model.safetensors.index.json"
        ]
    );
    assert_eq!(first, digests(&place.path().join("t2")));
    assert_eq!(first, digests(&place.path().join("t7")));

    // Not from one release to the next either: figures measured on such a model stay comparable.
    let all: String = first.values().map(String::as_str).collect();
    assert_eq!(sha256(all.as_bytes()), "3b290c92722f6c5d708871c51d643cc06706b3f7b7c3aa7da2302c41dbd78191");

    // Sharding moves tensors and changes none; another seed changes each.
    make(place.path(), "one", |_| {}).unwrap();
    make(place.path(), "seed", |o| o.seed = 1).unwrap();
    let (sharded, one, seed) = (
        tensors(&place.path().join("t1")),
        tensors(&place.path().join("one")),
        tensors(&place.path().join("seed")),
    );
    assert_eq!(sharded, one);
    assert_eq!(names_in(&place.path().join("one")), ["config.json", "model.safetensors"]);
    for (name, facts) in &one {
        assert_ne!(facts.2, seed[name].2, "{name}");
    }
}

#[test]
fn weights_look_like_weights() {
    let place = tempfile::tempdir().unwrap();
    for (name, dtype) in [("bf16", DType::BF16), ("f16", DType::F16), ("f32", DType::F32)] {
        let summary = make(place.path(), name, |o| {
            o.dtype = dtype;
            o.sharding = Sharding::SizeBytes(1_000_000);
        })
        .unwrap();
        let directory = place.path().join(name);
        let all = tensors(&directory);
        assert_eq!((all.len(), summary.tensors), (summary.tensors, all.len()));
        let total: usize = all.values().map(|(.., bytes)| bytes.len()).sum();
        assert_eq!(total as u64, summary.size_bytes);
        assert!((5_990_000..=6_000_000).contains(&total), "{total}");

        for (tensor, (_, shape, bytes)) in &all {
            let values: Vec<f64> = match dtype {
                DType::F32 => {
                    bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect()
                }
                DType::F16 => {
                    bytes.chunks(2).map(|b| half::f16::from_le_bytes(b.try_into().unwrap()).into()).collect()
                }
                _ => {
                    bytes.chunks(2).map(|b| half::bf16::from_le_bytes(b.try_into().unwrap()).into()).collect()
                }
            };
            assert!(values.iter().all(|v| v.is_finite()), "{tensor}");
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
            let (centre, spread) = if shape.len() == 1 { (1.0, 0.05) } else { (0.0, 0.02) };
            assert!((mean - centre).abs() < 6.0 * spread / n.sqrt() + 0.001, "{tensor}: mean {mean}");
            assert!(
                (deviation / spread - 1.0).abs() < 4.0 / n.sqrt() + 0.02,
                "{tensor}: deviation {deviation}"
            );
        }
        let distinct: std::collections::BTreeSet<_> = all.values().map(|(.., bytes)| bytes).collect();
        assert_eq!(distinct.len(), all.len(), "two tensors are equal");

        let index = fs::read(directory.join("model.safetensors.index.json")).unwrap();
        let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
        assert_eq!(index["metadata"]["total_size"], summary.size_bytes);
        assert_eq!(index["metadata"]["total_parameters"], summary.elements);
        for (tensor, file) in index["weight_map"].as_object().unwrap() {
            let file = fs::read(directory.join(file.as_str().unwrap())).unwrap();
            assert!(SafeTensors::deserialize(&file).unwrap().tensor(tensor).is_ok(), "{tensor}");
        }
        assert_eq!(index["weight_map"].as_object().unwrap().len(), all.len());
    }
}

#[test]
fn many_small_tensors() {
    let place = tempfile::tempdir().unwrap();
    let summary = make(place.path(), "many", |o| {
        o.tensors = Some(1000);
        o.size_bytes = Some(1_000_000);
        o.sharding = Sharding::SizeBytes(300_000);
        o.cold = cfg!(target_os = "linux");
    })
    .unwrap();
    let all = tensors(&place.path().join("many"));
    assert_eq!((all.len(), summary.files), (1000, 3));
    assert!(all.values().all(|(_, shape, _)| shape == &[7, 64]));
}

#[test]
fn what_makes_no_model_is_refused() {
    let place = tempfile::tempdir().unwrap();
    type Change = fn(&mut Options);
    let cases: &[(Change, ErrorKind, &str)] = &[
        (|o| o.size_bytes = None, ErrorKind::Usage, "how large?"),
        (|o| o.size_bytes = Some(10), ErrorKind::Usage, "takes at least"),
        (|o| o.size_bytes = Some(u64::MAX), ErrorKind::Usage, "more than a million layers"),
        (|o| o.layers = Some(1), ErrorKind::Usage, "a size decides the layers"),
        (|o| o.hidden = Some(65), ErrorKind::Usage, "`65` is no width"),
        (|o| o.preset = Some("gpt-5".into()), ErrorKind::Usage, "there is no preset `gpt-5`"),
        (|o| o.dtype = DType::Q4K, ErrorKind::Unsupported, "synthetic weights of type `q4_k`"),
        (|o| o.sharding = Sharding::Count(0), ErrorKind::Usage, "zero files"),
        (|o| o.tensors = Some(0), ErrorKind::Usage, "`0` tensors"),
        (|o| o.tensors = Some(5_000_000), ErrorKind::Usage, "less than an element"),
        (
            |o| o.preset = Some("llama-1b".into()).inspect(|_| o.hidden = Some(64)),
            ErrorKind::Usage,
            "a preset has its own width",
        ),
        (|o| o.size_bytes = Some(1 << 45), ErrorKind::NoSpace, "the disk has"),
    ];
    for (change, kind, said) in cases {
        let error = make(place.path(), "out", change).unwrap_err();
        assert_eq!(error.kind(), *kind, "{error}");
        assert!(error.to_string().contains(said), "{error}\nexpected: {said}");
        assert_eq!(names_in(place.path()), [""; 0], "{error}");
    }
}

#[test]
fn stopped_it_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let mut options = Options::new(place.path().join("out"));
    options.size_bytes = Some(1_000_000_000);
    options.threads = 1;
    let job = synth(options);
    job.cancel();
    let error = job.wait().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Signal(_)), "{error}");
    assert_eq!(names_in(place.path()), [""; 0]);
}

fn hoist(arguments: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hoist"));
    command.arg("synth").args(arguments);
    command
}

#[test]
fn the_command_says_what_it_did() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("m");
    let out = out.to_str().unwrap();
    for (arguments, code, stdout, stderr) in [
        (&[out][..], 2, "", "error: the following required arguments were not provided"),
        (&[out, "--size", "3MB", "--layers", "2"], 2, "", "cannot be used with"),
        (
            &[out, "--size", "3MB", "--dtype", "q4_k"],
            9,
            "",
            "error: synthetic weights of type `q4_k`\n  hint: f32",
        ),
        (&[out, "--size", "3MB", "--shards", "2", "--dry-run"], 0, "plan   3.0 MB  1.50 M parameters", ""),
        (
            &[out, "--size", "3MB", "--shards", "2", "--json", "--quiet"],
            0,
            "{\n  \"schema\": \"hoist.synth/1\",",
            "",
        ),
        (&[out, "--size", "3MB"], 1, "", "exists already\n  hint: "),
    ] {
        let output = hoist(arguments).output().unwrap();
        let said = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let (on_stdout, on_stderr) = (said(&output.stdout), said(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {on_stderr}");
        assert!(
            on_stdout.starts_with(stdout) && on_stdout.is_empty() == stdout.is_empty(),
            "{arguments:?}: {on_stdout}"
        );
        assert!(
            on_stderr.contains(stderr) && on_stderr.is_empty() == stderr.is_empty(),
            "{arguments:?}: {on_stderr}"
        );
    }
    assert_eq!(names_in(place.path()), ["m"]);
}

/// Stopped by a signal it cleans up; killed, it leaves a temporary that says whose it is, and never a part of a model
/// under the model's name.
#[test]
#[cfg(target_os = "linux")]
fn killed_it_leaves_no_half_model() {
    use rustix::process::{Pid, Signal, kill_process};
    for (signal, code, leaves) in [(Signal::TERM, Some(143), 0), (Signal::KILL, None, 1)] {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("m");
        let mut child = hoist(&[out.to_str().unwrap(), "--size", "1GB", "--threads", "1", "--quiet"])
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Under way: the temporary directory holds a file.
        let begun = || {
            let names = names_in(place.path());
            names.len() == 1 && !names_in(&place.path().join(&names[0])).is_empty()
        };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !begun() {
            assert!(
                std::time::Instant::now() < deadline && child.try_wait().unwrap().is_none(),
                "it never began"
            );
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), code, "{signal:?}");
        let left = names_in(place.path());
        assert_eq!(left.len(), leaves, "{signal:?}: {left:?}");
        assert!(left.iter().all(|n| n.starts_with(".m.hoist-")), "{signal:?}: {left:?}");
    }
}
