//! Mixtures: the type of every tensor as llama-quantize gives it, over models of many shapes; and whole files, whose tensors
//! and keys are those of llama-quantize.

use crate::cli::{code, hoist, text};
use crate::families::{Read, model};
use crate::naive::testdata;
use crate::quantize::damage;
use hoist::checkpoint::MetaValue;
use hoist::open::Model;
use hoist::quantize::{Options, quantize};
use hoist::transform::mixture::{self, About, Choice, Given, MIXTURES, Mixture, Tensor};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

fn golden(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(testdata(&format!("golden/{name}.json"))).unwrap()).unwrap()
}

fn open(path: &Path) -> Model {
    hoist::open::open(path.to_str().unwrap(), &Default::default()).unwrap()
}

fn meta(value: &Value) -> MetaValue {
    match value {
        Value::String(text) => text.as_str().into(),
        Value::Number(n) if n.is_f64() => MetaValue::F32(n.as_f64().unwrap() as f32),
        other => MetaValue::U32(other.as_u64().unwrap() as u32),
    }
}

#[test]
fn every_tensor_gets_the_type_that_llama_quantize_gives_it() {
    let golden = golden("mixtures");
    let mut compared = 0;
    for (title, model) in golden["models"].as_object().unwrap() {
        let keys: BTreeMap<String, MetaValue> =
            model["keys"].as_object().unwrap().iter().map(|(k, v)| (k.clone(), meta(v))).collect();
        let about = About::of_keys(|key| keys.get(key));
        let named: Vec<(String, Vec<u64>)> = serde_json::from_value(model["tensors"].clone()).unwrap();
        let mut sorted = named.clone();
        sorted.sort_by(|a, b| mixture::order(&a.0, &b.0));
        assert_eq!(sorted, named, "{title}: the order");
        let tensors: Vec<Tensor<'_>> = named.iter().map(|(name, shape)| Tensor { name, shape }).collect();
        for mixture in MIXTURES {
            let types = &model["types"];
            let plain = types[mixture.name].as_str().unwrap();
            let weighed = types[format!("{} +importance", mixture.name)].as_str().unwrap_or(plain);
            for (importance, expected) in [(false, plain), (true, weighed)] {
                let choice = Choice { importance, ..Choice::default() };
                let given = match mixture::assign(mixture, &tensors, &about, &choice) {
                    Ok(given) => given,
                    // llama-quantize plans such a run, and refuses to carry it out.
                    Err(e) if mixture.name == "q2_k_s" && !importance => {
                        assert_eq!(e.kind(), hoist::ErrorKind::Usage);
                        continue;
                    }
                    Err(e) => panic!("{title}, {}: {e}", mixture.name),
                };
                for ((tensor, given), letter) in tensors.iter().zip(given).zip(expected.chars()) {
                    let found = match given {
                        Given::Type(dtype) | Given::Fallback { dtype, .. } => dtype.to_string(),
                        Given::Kept if tensor.shape.len() < 2 || tensor.name.contains("gate_inp") => {
                            "f32".into()
                        }
                        Given::Kept => "bf16".into(),
                    };
                    let expected = golden["letters"][letter.to_string()].as_str().unwrap().to_lowercase();
                    assert_eq!(found, expected, "{title}, {}, {importance}: {}", mixture.name, tensor.name);
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 150_000, "{compared}");
}

#[test]
fn every_mixture_is_found_by_its_names() {
    for mixture in MIXTURES {
        assert_eq!(Mixture::find(mixture.name), Some(mixture));
    }
    assert_eq!(Mixture::find("q4_k").unwrap().name, "q4_k_m");
    assert_eq!(Mixture::find("q7"), None);
}

/// Names, types and bytes of all tensors, as the goldens hash them; and the keys from the version of the blocks on.
fn digest(path: &Path) -> (String, Vec<(String, MetaValue)>) {
    let model = open(path);
    let mut hash = Sha256::new();
    for tensor in &model.table.tensors {
        hash.update(tensor.name.as_bytes());
        hash.update([0]);
        hash.update(tensor.dtype.facts().ggml.unwrap().to_le_bytes());
        let mut bytes = vec![0; tensor.at.span.size_bytes as usize];
        model.files[0].read_exact_at(&mut bytes, tensor.at.span.offset_bytes).unwrap();
        hash.update(&bytes);
    }
    let keys = model.table.meta.entries.iter().map(|(k, v, _)| (k.clone(), v.clone()));
    let keys = keys.skip_while(|(k, _)| k != "general.quantization_version").collect();
    let hex = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    (hex, keys)
}

#[test]
fn whole_files_are_those_of_llama_quantize() {
    let golden = golden("llama_quantize");
    let folder = tempfile::tempdir().unwrap();
    let small = testdata("rustdoc-llama-6m");
    let mut compared = 0;
    for (title, expected) in golden["mixtures"].as_object().unwrap() {
        let (name, importance) = match title.split_once(' ') {
            Some((name, _)) => (name, true),
            None => (title.as_str(), false),
        };
        let out = folder.path().join("out.gguf");
        let imatrix = testdata("golden/imatrix/rustdoc.gguf");
        let mut args =
            vec!["quantize", small.to_str().unwrap(), "-o", out.to_str().unwrap(), "--scheme", name];
        args.extend(["--force", "-q"]);
        if importance {
            args.extend(["--importance", imatrix.to_str().unwrap()]);
        }
        let output = hoist(&args).output().unwrap();
        assert_eq!(code(&output), 0, "{title}: {}", text(&output.stderr));
        let (hash, keys) = digest(&out);
        assert_eq!(hash, expected["sha256"].as_str().unwrap(), "{title}");
        // The file's name is where it lay when the goldens were made.
        let keys = keys.into_iter().filter(|(k, _)| k != "quantize.imatrix.file").collect::<Vec<_>>();
        let wanted: Vec<(String, MetaValue)> =
            expected["keys"].as_object().unwrap().iter().map(|(k, v)| (k.clone(), meta(v))).collect();
        assert_eq!(keys, wanted, "{title}");
        compared += 1;
    }
    assert!(compared >= 39, "{compared}");
}

#[test]
fn experts_are_weighed_each_by_its_own_importance() {
    let golden = golden("imatrix/llama_quantize");
    let folder = tempfile::tempdir().unwrap();
    let source = model::write(&model::spec("qwen3_moe"), folder.path());
    let imatrix = testdata("golden/imatrix/experts.gguf");
    for (name, expected) in golden["experts"]["tensors"].as_object().unwrap() {
        let out = folder.path().join(format!("{name}.gguf"));
        let mut options = Options::new(&out, name).unwrap();
        options.quantize.importance = Some(hoist::open::importance(&imatrix).unwrap().into());
        quantize(open(&source), options).wait().unwrap();
        let read = Read::new(&out);
        let mut weighed = 0;
        for tensor in &read.table.tensors {
            let Some(expected) = expected.get(&tensor.name) else { continue };
            let hash = Sha256::digest(read.bytes(tensor));
            let hex: String = hash.iter().take(8).map(|b| format!("{b:02x}")).collect();
            assert_eq!(
                tensor.dtype.to_string(),
                expected[0].as_str().unwrap().to_lowercase(),
                "{name}: {}",
                tensor.name
            );
            assert_eq!(hex, expected[1].as_str().unwrap(), "{name}: {}", tensor.name);
            weighed += 1;
        }
        assert!(weighed >= 7, "{name}: {weighed}");
    }
}

#[test]
fn what_a_person_chooses_comes_first() {
    let folder = tempfile::tempdir().unwrap();
    let small = testdata("rustdoc-llama-6m");
    // NAME=TYPE for each: what is to be found of a few tensors.
    let cases: &[(&[&str], &[(&str, &str)])] = &[
        (&["--pure"], &[("output.weight", "q4_k"), ("blk.2.ffn_down.weight", "q4_k")]),
        (&["--output-type", "q8_0"], &[("output.weight", "q8_0"), ("token_embd.weight", "q4_k")]),
        (&["--embedding-type", "bf16"], &[("output.weight", "q6_k"), ("token_embd.weight", "bf16")]),
        (
            &["--tensor-type", "*ffn_up*=q5_0", "--tensor-type", "*.ffn_*=q2_k"],
            &[
                ("blk.0.ffn_up.weight", "q5_0"),
                ("blk.0.ffn_gate.weight", "q2_k"),
                ("blk.0.attn_q.weight", "q4_k"),
            ],
        ),
        // By the checkpoint's names too.
        (
            &["--keep", "model.layers.1.*"],
            &[("blk.1.ffn_up.weight", "bf16"), ("blk.2.ffn_up.weight", "q4_k")],
        ),
    ];
    for (flags, expected) in cases {
        let out = folder.path().join("out.gguf");
        let mut args =
            vec!["quantize", small.to_str().unwrap(), "-o", out.to_str().unwrap(), "--force", "-q"];
        args.extend(*flags);
        let output = hoist(&args).output().unwrap();
        assert_eq!(code(&output), 0, "{flags:?}: {}", text(&output.stderr));
        let table = open(&out).table;
        for (name, dtype) in *expected {
            let tensor = table.tensors.iter().find(|t| t.name == *name).unwrap();
            assert_eq!(tensor.dtype.to_string(), *dtype, "{flags:?}: {name}");
        }
    }
}

#[test]
fn what_does_not_go_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let small = testdata("rustdoc-llama-6m");
    let small = small.to_str().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let quantised = path("q8.gguf");
    let made = hoist(&["quantize", small, "-o", &quantised, "--scheme", "q8_0", "-q"]).output().unwrap();
    assert_eq!(code(&made), 0);
    let imatrix = testdata("golden/imatrix/experts.gguf");
    let imatrix = imatrix.to_str().unwrap();
    let cases: &[(&[&str], i32, &str)] = &[
        (&[small, "--scheme", "q4_k_m", "--group-size", "32"], 2, "--group-size"),
        (&[small, "--scheme", "q4_k_m", "--method", "rtn"], 2, "--method"),
        (&[small, "--scheme", "int4"], 2, "not written as"),
        (&[small, "--scheme", "q4_k_m", "--output-type", "iq1_s"], 2, "no type that hoist makes"),
        (&[small, "--scheme", "q4_k_m", "--tensor-type", "nothing*=q8_0"], 3, "nothing"),
        (&[small, "--scheme", "q2_k_s"], 2, "--importance"),
        (&[small, "--scheme", "q4_k_m", "--importance", imatrix], 1, "importance"),
        (&[&quantised, "--scheme", "q4_k_m"], 9, "--requantize"),
    ];
    for (arguments, expected, message) in cases {
        let out = path("out.gguf");
        let mut args = vec!["quantize"];
        args.extend(*arguments);
        args.extend(["-o", out.as_str()]);
        let output = hoist(&args).output().unwrap();
        assert_eq!(code(&output), *expected, "{arguments:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(message), "{arguments:?}: {}", text(&output.stderr));
        assert!(!Path::new(&out).exists(), "{arguments:?}");
    }
    let again = path("again.gguf");
    let done = hoist(&["quantize", &quantised, "-o", &again, "--scheme", "q4_0", "--requantize", "-q"]);
    assert_eq!(code(&{ done }.output().unwrap()), 0);
    // A type flag without a GGUF.
    let output = hoist(&["quantize", small, "-o", &path("int4"), "--pure"]).output().unwrap();
    assert_eq!(code(&output), 2, "{}", text(&output.stderr));
}

#[test]
fn not_a_number_is_refused_or_zero() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("damaged");
    damage(&testdata("rustdoc-llama-6m"), &source);
    let run = |flags: &[&str]| {
        let out = folder.path().join("out.gguf");
        let mut args =
            vec!["quantize", source.to_str().unwrap(), "-o", out.to_str().unwrap(), "--force", "-q"];
        args.extend(["--scheme", "q4_0"]);
        args.extend(flags);
        hoist(&args).output().unwrap()
    };
    let refused = run(&[]);
    assert_eq!(code(&refused), 1, "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("--nan zero"), "{}", text(&refused.stderr));
    assert_eq!(code(&run(&["--nan", "zero"])), 0);
}
