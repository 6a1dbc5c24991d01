//! Quantising on the way into memory: what arrives is, byte for byte, what the files would hold that quantising writes; on the
//! host, and on the emulated driver by the device's own copies.

use crate::cli::{code, hoist, text};
use crate::families::{Read, model};
use crate::load::{opened, synthetic, write_safetensors};
use crate::naive::testdata;
use crate::quantize::damage;
use hoist::ErrorKind;
use hoist::dtype::DType;
use hoist::load::{self, Loaded};
use hoist::quantize::{Arrived, LoadOptions, Options, quantize};
use hoist::run::job::Event;
use hoist::sink::device::DeviceSpec;
use hoist::transform::method::Method;
use hoist::transform::scheme::{Asked, CHANNEL};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SMALL: &str = "rustdoc-llama-6m";

/// The schemes, each layout that differs; the small model's rows fit all of them.
fn schemes() -> Vec<(&'static str, Asked)> {
    let rtn = || Asked { method: Some(Method::Rtn), ..Asked::default() };
    vec![
        ("int4", Asked::default()),
        ("int4", Asked { symmetric: Some(true), group: Some(32), ..rtn() }),
        ("int4", Asked { group: Some(CHANNEL), ..rtn() }),
        ("int4", Asked { signed_scales: true, ..Asked::default() }),
        ("gptq", rtn()),
        ("gptq", Asked { gptq_v2: true, symmetric: Some(false), ..rtn() }),
        ("awq", rtn()),
        ("mlx", rtn()),
        ("nf4", rtn()),
        ("mxfp4", rtn()),
        ("nvfp4a16", rtn()),
        ("torchao", rtn()),
        ("fp8", rtn()),
        ("fp8-block", rtn()),
    ]
}

/// A layer whose matrices have more rows than a band of a turned layout: strips of those are rows far apart.
fn tall(place: &Path) -> PathBuf {
    let root = place.join("tall");
    std::fs::create_dir_all(&root).unwrap();
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "vocab_size": 16,
        "hidden_size": 256, "intermediate_size": 4224, "num_hidden_layers": 1, "num_attention_heads": 4,
    });
    std::fs::write(root.join("config.json"), config.to_string()).unwrap();
    let mut state = 1u64;
    let mut noise = |count: u64| -> Vec<u8> {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            half::bf16::from_f32(((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 0.1)
        };
        (0..count).flat_map(|_| next().to_le_bytes()).collect()
    };
    let mut tensor =
        |name, rows: u64, columns: u64| (name, DType::BF16, vec![rows, columns], noise(rows * columns));
    let tensors = [
        tensor("model.embed_tokens.weight", 16, 256),
        tensor("model.layers.0.mlp.gate_proj.weight", 4224, 256),
        tensor("model.layers.0.mlp.up_proj.weight", 4224, 256),
        tensor("model.layers.0.mlp.down_proj.weight", 256, 4224),
    ];
    write_safetensors(&root.join("model.safetensors"), &tensors);
    root
}

/// The small model, tall matrices, and experts in both forms that files have.
fn models(place: &Path) -> Vec<(&'static str, PathBuf)> {
    let mut all = vec![(SMALL, testdata(SMALL)), ("tall", tall(place))];
    for family in ["qwen3_moe", "qwen3_moe-fused", "llama4"] {
        all.push((family, model::write(&model::spec(family), place)));
    }
    all
}

/// Experts are 96 wide, and their groups are smaller.
fn for_model(name: &str, asked: &Asked) -> Asked {
    match asked.group {
        None if name != SMALL => Asked { group: Some(32), ..asked.clone() },
        _ => asked.clone(),
    }
}

type Tensors = BTreeMap<String, (DType, Vec<u64>, Vec<u8>)>;

/// The tensors of the files that quantising writes; `None` where it refuses the model, with why.
fn written(source: &Path, scheme: &str, asked: &Asked, out: &Path) -> Result<Tensors, String> {
    let mut options = Options::new(out, scheme).unwrap();
    options.quantize.asked = asked.clone();
    quantize(opened(source), options).wait().map_err(|e| e.to_string())?;
    let read = Read::new(out);
    let of = |t: &hoist::checkpoint::Tensor| (t.name.clone(), (t.dtype, t.shape.clone(), read.bytes(t)));
    Ok(read.table.tensors.iter().map(of).collect())
}

/// The tensors of a load to host memory.
fn tensors(loaded: &Loaded) -> Tensors {
    let of = |t: &load::LoadedTensor| {
        (t.name().to_owned(), (t.dtype(), t.shape().to_vec(), t.bytes().unwrap().to_vec()))
    };
    loaded.tensors.iter().map(of).collect()
}

fn asked_for(scheme: &str, asked: &Asked, device: DeviceSpec) -> LoadOptions {
    let mut options = LoadOptions::new(scheme).unwrap();
    options.quantize.asked = asked.clone();
    options.load.device = Some(device);
    options
}

#[track_caller]
fn arrived(source: &Path, options: LoadOptions) -> Arrived {
    hoist::quantize::load(opened(source), options).wait().unwrap_or_else(|e| panic!("{e}"))
}

/// Says which tensor differs, and how, without its bytes.
#[track_caller]
fn same(expected: &Tensors, found: &Tensors, what: &str) {
    assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>(), "{what}: names");
    for (name, (dtype, shape, bytes)) in expected {
        let (found_dtype, found_shape, found) = &found[name];
        assert_eq!((dtype, shape), (found_dtype, found_shape), "{what}: {name}");
        let differ = bytes.iter().zip(found).filter(|(a, b)| a != b).count();
        assert!(bytes.len() == found.len() && differ == 0, "{what}: {name} differs in {differ} bytes");
    }
}

#[test]
fn what_arrives_is_what_the_files_would_hold() {
    let place = tempfile::tempdir().unwrap();
    for (name, source) in models(place.path()) {
        let mut compared = 0;
        for (number, (scheme, asked)) in schemes().into_iter().enumerate() {
            let asked = for_model(name, &asked);
            let out = place.path().join(format!("{name}-out-{number}"));
            let what = format!("{name} {scheme} {asked:?}");
            let expected = match written(&source, scheme, &asked, &out) {
                Ok(tensors) => tensors,
                Err(why) => {
                    // A scheme without this group, or an expert that no block fits: the load says the same.
                    let options = asked_for(scheme, &asked, DeviceSpec::Cpu);
                    let refused = hoist::quantize::load(opened(&source), options).wait().unwrap_err();
                    assert_eq!(refused.to_string(), why, "{what}");
                    continue;
                }
            };
            // One worker and many, memory for few tasks and for many, watched and not.
            for (threads, work_mib, check) in [(Some(1), 64, false), (Some(5), 64, true), (None, 512, false)]
            {
                let mut options = asked_for(scheme, &asked, DeviceSpec::Cpu);
                options.load.threads = threads;
                options.load.check = check;
                options.work_bytes = Some(work_mib << 20);
                let found = arrived(&source, options);
                same(&expected, &tensors(&found.loaded), &what);
                let report = &found.loaded.report;
                assert_eq!((report.form, report.made), ("owned", true));
                assert_eq!(report.tensor_count, expected.len());
                let bytes: usize = expected.values().map(|(_, _, bytes)| bytes.len()).sum();
                assert_eq!(report.bytes, bytes as u64);
                assert_eq!(report.check.is_some(), check);
                assert_eq!(found.errors.len(), found.decided.quantised.len());
                assert!(found.error.relative() > 0.0 && found.error.relative() < 0.3, "{what}");
            }
            compared += 1;
        }
        assert!(compared >= 6, "{name}: {compared} schemes");
    }
}

/// What is looked at before it is made is announced too, and nothing is looked at where there is no room.
#[test]
fn looking_is_part_of_the_work() {
    let options = |memory_bytes| {
        let asked = Asked { method: Some(Method::Rtn), ..Asked::default() };
        let mut options = asked_for("nvfp4a16", &asked, DeviceSpec::Cpu);
        options.load.memory_bytes = memory_bytes;
        options
    };
    for (memory_bytes, expected) in [(None, true), (Some(1 << 20), false)] {
        let job = hoist::quantize::load(opened(&testdata(SMALL)), options(memory_bytes));
        let (mut planned, mut moved) = (0, 0);
        for event in job.events().iter() {
            match event {
                Event::Planned { total_bytes, .. } => planned = total_bytes,
                Event::Moved { bytes, .. } => moved = bytes,
                _ => {}
            }
        }
        let done = job.wait();
        assert_eq!(done.is_ok(), expected);
        match done {
            // Every quantised matrix is looked at, as it lies in the file.
            Ok(found) => assert_eq!(planned, found.loaded.report.bytes + found.decided.before_bytes()),
            Err(e) => assert_eq!((e.kind(), moved), (ErrorKind::NoSpace, 0), "{e}"),
        }
        assert!(moved <= planned, "{moved} of {planned}");
    }
}

/// What weighs columns weighs them here too.
#[test]
fn importance_counts_as_in_files() {
    let place = tempfile::tempdir().unwrap();
    let small = testdata(SMALL);
    let imatrix = testdata("golden/imatrix/rustdoc.gguf");
    for (scheme, out) in [("int4", "out"), ("q4_k_m", "out.gguf")] {
        let out = place.path().join(out);
        let mut options = Options::new(&out, scheme).unwrap();
        options.quantize.importance = Some(hoist::quantize::importance(&imatrix, 1 << 30).unwrap());
        let mut to_memory = asked_for(scheme, &Asked::default(), DeviceSpec::Cpu);
        to_memory.quantize = options.quantize.clone();
        quantize(opened(&small), options).wait().unwrap();
        let read = Read::new(&out);
        let of = |t: &hoist::checkpoint::Tensor| (t.name.clone(), (t.dtype, t.shape.clone(), read.bytes(t)));
        let expected: Tensors = read.table.tensors.iter().map(of).collect();
        same(&expected, &tensors(&arrived(&small, to_memory).loaded), scheme);
        let plain = tensors(&arrived(&small, asked_for(scheme, &Asked::default(), DeviceSpec::Cpu)).loaded);
        assert!(plain != expected, "{scheme}: the importance changed nothing");
    }
}

#[test]
fn blocks_arrive_as_in_a_gguf() {
    let place = tempfile::tempdir().unwrap();
    let small = testdata(SMALL);
    for scheme in ["q4_k_m", "q5_0", "iq4_xs"] {
        let asked = Asked::default();
        let expected = written(&small, scheme, &asked, &place.path().join(format!("{scheme}.gguf"))).unwrap();
        let mut options = asked_for(scheme, &asked, DeviceSpec::Cpu);
        options.load.check = true;
        let found = arrived(&small, options);
        same(&expected, &tensors(&found.loaded), scheme);
        assert_eq!(found.errors.len(), found.decided.quantised.len(), "{scheme}");
    }
}

/// The errors of a load are those of the files, whatever the cut.
#[test]
fn what_is_told_is_what_files_tell() {
    let place = tempfile::tempdir().unwrap();
    let mut options = Options::new(place.path().join("out"), "int4").unwrap();
    options.quantize.asked.method = Some(Method::Rtn);
    let asked = options.quantize.asked.clone();
    let summary = quantize(opened(&testdata(SMALL)), options).wait().unwrap();
    let found = arrived(&testdata(SMALL), asked_for("int4", &asked, DeviceSpec::Cpu));
    assert_eq!(found.errors, summary.errors);
    assert_eq!(found.decided.quantised, summary.decided.quantised);
    assert_eq!(found.decided.kept, summary.decided.kept);
    // Arenas are given away as those of any load.
    let arenas = found.loaded.into_arenas().unwrap();
    assert!(arenas.iter().any(|a| a.dtype == DType::I32) && arenas.iter().any(|a| a.dtype == DType::BF16));
}

#[test]
fn odd_numbers_are_refused_or_zeros() {
    let place = tempfile::tempdir().unwrap();
    let bad = place.path().join("bad");
    damage(&testdata(SMALL), &bad);
    let asked = Asked { method: Some(Method::Rtn), ..Asked::default() };
    let refused = hoist::quantize::load(opened(&bad), asked_for("int4", &asked, DeviceSpec::Cpu)).wait();
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::BadInput);
    assert_eq!(refused.tensor_name(), Some("model.layers.0.self_attn.q_proj.weight"), "{refused}");
    let mut options = Options::new(place.path().join("out"), "int4").unwrap();
    options.quantize.asked = asked.clone();
    options.quantize.zero_odd = true;
    let out = options.out.clone();
    quantize(opened(&bad), options).wait().unwrap();
    let mut options = asked_for("int4", &asked, DeviceSpec::Cpu);
    options.quantize.zero_odd = true;
    let found = arrived(&bad, options);
    assert_eq!(found.error.odd, 1);
    let read = Read::new(&out);
    let of = |t: &hoist::checkpoint::Tensor| (t.name.clone(), (t.dtype, t.shape.clone(), read.bytes(t)));
    same(&read.table.tensors.iter().map(of).collect(), &tensors(&found.loaded), "NaN as zero");
}

/// Cancels a load when its first bytes have arrived.
fn cancelled(device: DeviceSpec) {
    let mut options = asked_for("int4", &Asked::default(), device);
    options.load.threads = Some(2);
    let job = hoist::quantize::load(opened(&synthetic(320)), options);
    while !matches!(job.events().recv().expect("it ended before"), Event::Moved { .. }) {}
    let begun = Instant::now();
    job.cancel();
    let error = job.wait().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Signal(_)), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[test]
fn a_load_is_cancelled() {
    cancelled(DeviceSpec::Cpu);
}

/// `hoist load --device cpu --quantize …`, and what it prints.
fn command(arguments: &[&str]) -> std::process::Output {
    let model = testdata(SMALL);
    let mut all = vec!["load", model.to_str().unwrap(), "--device", "cpu"];
    all.extend(arguments);
    hoist(&all).output().unwrap()
}

#[test]
fn each_end_has_its_code() {
    let place = tempfile::tempdir().unwrap();
    let done = place.path().join("done");
    let mut options = Options::new(&done, "int4").unwrap();
    options.quantize.asked.method = Some(Method::Rtn);
    quantize(opened(&testdata(SMALL)), options).wait().unwrap();
    let bad = place.path().join("bad");
    damage(&testdata(SMALL), &bad);
    let small = testdata(SMALL);
    let int4 = ["--quantize", "int4"];
    let mut wrong = Vec::new();
    for (path, arguments, expected, part) in [
        (&small, &["--quantize", "int5"][..], 2, "no scheme `int5`"),
        (&small, &["--quantize", "int4", "--group-size", "48"], 2, "no group size 48"),
        (&small, &["--quantize", "awq", "--symmetric"], 2, "never symmetric"),
        (&small, &["--quantize", "int4", "--symmetric", "--asymmetric"], 2, "cannot be used with"),
        (&small, &["--method", "rtn"], 2, "--quantize"),
        (&small, &["--keep", "*q_proj*"], 2, "--quantize"),
        (&small, &["--signed-scales"], 2, "--quantize"),
        (&small, &["--importance", "imatrix.gguf"], 2, "--quantize"),
        (&small, &["--quantize", "int4", "--importance", "no/such.dat"], 3, "no/such.dat"),
        (&small, &["--quantize", "awq", "--signed-scales"], 2, "never symmetric"),
        (&small, &["--quantize", "int4", "--signed-scales", "--asymmetric"], 2, "cannot be used with"),
        (&small, &["--quantize", "int4", "--keep", "nothing*"], 3, "matches none"),
        (&small, &["--quantize", "int4", "--dtype", "bf16"], 2, "--dtype does not go with --quantize"),
        (&small, &["--quantize", "int4", "--include", "*"], 2, "--include does not go with --quantize"),
        (&small, &["--quantize", "int4", "--exclude", "*x*"], 2, "--exclude does not go with --quantize"),
        (&small, &["--quantize", "int4", "--rank", "0/2"], 2, "--rank does not go with --quantize"),
        (&small, &["--quantize", "int4", "--io", "direct"], 2, "--io direct does not go with --quantize"),
        (&small, &["--quantize", "int4", "--saturate"], 2, "--saturate does not go with --quantize"),
        (
            &small,
            &["--quantize", "int4", "--memory", "1MB"],
            8,
            "1.0 MB of memory are allowed, this load needs",
        ),
        (&small, &["--quantize", "int4", "--memory", "1MB", "--dry-run"], 8, "this load needs"),
        (&done, &int4, 9, "is quantised already"),
        (&bad, &int4, 1, "self_attn.q_proj.weight"),
        (&done, &["--quantize", "nf4", "--method", "rtn", "--requantize", "--check"], 0, "scheme nf4"),
        (&bad, &["--quantize", "int4", "--method", "rtn", "--nan", "zero"], 0, "scheme int4"),
        (&small, &["--quantize", "int4", "--method", "rtn", "--copy", "--io", "buffered"], 0, "scheme int4"),
    ] {
        let mut all = vec!["load", path.to_str().unwrap(), "--device", "cpu"];
        all.extend(arguments);
        let output = hoist(&all).output().unwrap();
        let said = text(&output.stderr);
        let errors = said.lines().filter(|l| l.starts_with("error: ")).count();
        if code(&output) != expected || !said.contains(part) || errors != usize::from(expected != 0) {
            wrong.push(format!("{arguments:?}: {}, not {expected} with `{part}`\n{said}", code(&output)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_dry_run_says_what_a_load_brings() {
    let arguments = ["--quantize", "gptq", "--method", "rtn", "--json", "--check"];
    let read = |output: std::process::Output| -> Value {
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let dry = read(command(&[&arguments[..], &["--dry-run"]].concat()));
    let run = read(command(&arguments));
    for key in ["schema", "device", "form", "tensors", "bytes", "needed_bytes", "read_bytes", "threads"] {
        assert_eq!(dry[key], run[key], "{key}");
        assert!(!run[key].is_null(), "{key}");
    }
    for key in ["scheme", "layout", "group_size", "symmetric", "quantized", "bits_per_weight", "kept"] {
        assert_eq!(dry["quantize"][key], run["quantize"][key], "{key}");
        assert!(!run["quantize"][key].is_null(), "{key}");
    }
    assert_eq!((&dry["dry_run"], &run["dry_run"]), (&true.into(), &false.into()));
    assert!(dry["quantize"]["error"].is_null() && run["quantize"]["error"].as_f64().unwrap() > 0.0);
    assert_eq!(run["quantize"]["matrices"].as_array().unwrap().len(), 35);
    assert_eq!(run["checked_tensors"], run["tensors"]);
    // For a person: the scheme in a line, and that what arrived was compared.
    let output = command(&["--quantize", "int4", "--method", "rtn", "--check"]);
    let said = text(&output.stdout);
    assert!(said.contains("equal what was made   digest "), "{said}");
    assert!(said.contains("scheme int4   35 tensors quantised   4.16 bits a weight   error "), "{said}");
    let shown = text(&output.stderr);
    assert!(shown.contains("method rtn   35 of 48 tensors; kept: "), "{shown}");
}

/// A trace has the bands, and who made them.
#[test]
fn a_trace_shows_the_bands() {
    let place = tempfile::tempdir().unwrap();
    let trace = place.path().join("trace.json");
    let trace_text = trace.to_str().unwrap();
    let output = command(&["--quantize", "int4", "--method", "rtn", "--trace", trace_text]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let spans = std::fs::read_to_string(&trace).unwrap();
    assert!(spans.contains("\"pack\"") && spans.contains("\"read\""), "no bands");
}

#[cfg(all(feature = "cuda", target_os = "linux"))]
mod emulated {
    use super::*;
    use crate::cuda::{emulated, inside, outside};

    const DEVICE: DeviceSpec = DeviceSpec::CudaIndex(0);

    /// Every scheme to the device: the digest of what is read back from there is that of the files, loaded.
    #[test]
    fn what_arrives_on_the_device_is_what_the_files_would_hold() {
        let place = tempfile::tempdir().unwrap();
        let models = [testdata(SMALL), tall(place.path())];
        let rows = || models.iter().flat_map(|m| schemes().into_iter().map(move |s| (m, s))).enumerate();
        if inside() {
            for (number, (model, (scheme, asked))) in rows() {
                for (threads, work_mib) in [(1, 64), (3, 512)] {
                    let mut options = asked_for(scheme, &asked, DEVICE);
                    options.load.check = true;
                    options.load.threads = Some(threads);
                    options.work_bytes = Some(work_mib << 20);
                    let found = arrived(model, options).loaded;
                    assert_eq!(found.report.form, "device");
                    assert!(
                        found.tensors.iter().all(|t| t.bytes().is_none() && t.device_address().is_some())
                    );
                    println!("\nDIGEST {number}|{}", found.report.check.unwrap().digest);
                }
            }
            return;
        }
        // Copies so late that a slot that is used again too early would show.
        let name = "load_quantize::emulated::what_arrives_on_the_device_is_what_the_files_would_hold";
        let run = emulated().env("FAKE_CUDA_COPY_US", 300).test(name);
        let report = run.passed();
        assert_eq!(report.count("pageable_copies"), 0);
        assert!(report.count("registered_peak_bytes") <= 64 << 20);
        assert!(report.calls("cuMemcpy2DAsync_v2") > 0, "turned layouts come in rows");
        let said = String::from_utf8_lossy(&run.output.stdout).into_owned();
        let found: Vec<&str> = said.lines().filter_map(|l| l.strip_prefix("DIGEST ")).collect();
        let mut expected = Vec::new();
        for (number, (model, (scheme, asked))) in rows() {
            let out = place.path().join(number.to_string());
            written(model, scheme, &asked, &out).unwrap();
            let options = load::Options { check: true, device: Some(DeviceSpec::Cpu), ..Default::default() };
            let digest = load::load(opened(&out), options).wait().unwrap().report.check.unwrap().digest;
            expected.extend([format!("{number}|{digest}"), format!("{number}|{digest}")]);
        }
        assert_eq!(found, expected);
    }

    #[test]
    fn a_load_to_the_device_is_cancelled() {
        let name = "load_quantize::emulated::a_load_to_the_device_is_cancelled";
        let given_back = |run: &crate::cuda::Run| {
            run.passed();
        };
        if outside(name, &[("FAKE_CUDA_COPY_US", "2000")], given_back) {
            return;
        }
        cancelled(DEVICE);
    }

    /// Arguments, switches, exit code, a part of what is said; the device is given back every time.
    #[test]
    fn each_end_gives_the_device_back() {
        let place = tempfile::tempdir().unwrap();
        let bad = place.path().join("bad");
        damage(&testdata(SMALL), &bad);
        let small = testdata(SMALL);
        for (path, arguments, switch, expected, part) in [
            (&small, &["--check"][..], ("FAKE_CUDA_COPY_US", 0u64), 0, "scheme gptq"),
            (&small, &["--dry-run"], ("FAKE_CUDA_COPY_US", 0), 0, "scheme gptq"),
            (&small, &[], ("FAKE_CUDA_MEM", 2 << 20), 8, "a scheme of fewer bits"),
            (&small, &["--dry-run"], ("FAKE_CUDA_MEM", 2 << 20), 8, "cuda:0 has"),
            (&bad, &[], ("FAKE_CUDA_COPY_US", 1000), 1, "self_attn.q_proj.weight"),
            // Copies that move nothing: the check is there to find that.
            (&small, &["--check"], ("FAKE_CUDA_FREE_COPIES", 1), 7, "other contents than were sent"),
            (&small, &["--quantize", "int5"], ("FAKE_CUDA_COPY_US", 0), 2, ""),
        ] {
            let mut all =
                vec!["load", path.to_str().unwrap(), "--device", "cuda:0", "--quantize", "gptq", "--method"];
            all.push("rtn");
            all.extend(arguments);
            let run = emulated().env(switch.0, switch.1).hoist(&all);
            let said = String::from_utf8_lossy(&run.output.stderr).into_owned();
            assert_eq!(run.code(), Some(expected), "{arguments:?} {switch:?}: {said}");
            assert!(said.contains(part), "{arguments:?} {switch:?}: {said}");
            if let Some(report) = &run.report {
                assert_eq!(report.misuse(), None, "{arguments:?} {switch:?}");
            }
        }
    }
}
