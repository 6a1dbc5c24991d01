//! Mixtures: the type of every tensor as llama-quantize gives it, over models of many shapes; and whole files, whose tensors
//! and keys are those of llama-quantize.

use crate::cli::{code, hoist, text};
use crate::naive::testdata;
use hoist::checkpoint::MetaValue;
use hoist::open::Model;
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
        let output = hoist(&args);
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
