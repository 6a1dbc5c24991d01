//! Quantising what was made to go wrong: numbers that no reader would find again, experts without numbers, files that would be
//! lost, configs that would not fit their files.

use crate::cli::{code, hoist, text};
use crate::load::write_safetensors;
use crate::naive::testdata;
use hoist::dtype::DType;
use hoist::transform::mixture::{self, About, Choice, Given, Mixture, Tensor};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Output;

fn run(arguments: &[&str]) -> Output {
    hoist(arguments).output().unwrap()
}

fn config(out: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap()
}

/// A model of one matrix in f32.
fn one(folder: &Path, name: &str, family: &str, dtype: &str, shape: Vec<u64>, numbers: Vec<f32>) {
    std::fs::create_dir_all(folder).unwrap();
    let class = if family == "llama" { "LlamaForCausalLM" } else { "Qwen3MoeForCausalLM" };
    let config = json!({"architectures": [class], "model_type": family, "torch_dtype": dtype,
        "num_hidden_layers": 1, "num_attention_heads": 4, "hidden_size": 256, "vocab_size": 16});
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let bytes = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
    write_safetensors(&folder.join("model.safetensors"), &[(name, DType::F32, shape, bytes)]);
}

#[test]
fn numbers_that_a_reader_would_find_infinite_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let name = "model.layers.0.self_attn.q_proj.weight";
    let large: Vec<f32> = (0..256 * 256).map(|i| ((i * 7919 % 4001) as f32 - 2000.0) * 200.0).collect();
    for (dtype, scheme, expected) in [
        ("bfloat16", "int4", 0),
        ("bfloat16", "gptq", 1),
        ("bfloat16", "awq", 1),
        ("float16", "int4", 1),
        ("float16", "mlx", 1),
    ] {
        let model = place.path().join(dtype);
        one(&model, name, "llama", dtype, vec![256, 256], large.clone());
        let out = place.path().join("out");
        for method in ["rtn", "search"] {
            let output = run(&[
                "quantize",
                model.to_str().unwrap(),
                "-o",
                out.to_str().unwrap(),
                "--scheme",
                scheme,
                "--method",
                method,
                "--force",
                "-q",
            ]);
            let said = text(&output.stderr);
            assert_eq!(code(&output), expected, "{dtype} {scheme} {method}: {said}");
            assert!(expected == 0 || said.contains(name), "{said}");
            assert!(expected == 0 || !out.join("model.safetensors").exists());
            let _ = std::fs::remove_dir_all(&out);
        }
    }
}

#[test]
fn experts_without_numbers_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let name = "model.layers.0.mlp.experts.gate_up_proj";
    one(place.path(), name, "qwen3_moe", "bfloat16", vec![1 << 40, 0, 2], Vec::new());
    let out = place.path().join("out");
    for scheme in ["int4", "mlx", "nvfp4a16"] {
        let model = place.path().to_str().unwrap();
        let output = run(&["quantize", model, "-o", out.to_str().unwrap(), "--scheme", scheme, "--dry-run"]);
        assert_eq!(code(&output), 1, "{scheme}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(name), "{scheme}");
    }
}

#[test]
fn any_count_of_layers_is_counted_with() {
    let layers = 1u64 << 62;
    let name = format!("blk.{}.ffn_down_exps.weight", layers / 2 + 5);
    let about = About { arch: "llama".into(), layers, experts: 2, heads: 8, key_heads: 8 };
    let tensors = [Tensor { name: &name, shape: &[2, 256, 256] }];
    for mixture in ["q4_k_m", "q5_k_m", "q3_k_m", "q2_k_s", "iq4_xs"] {
        let choice = Choice { importance: true, ..Choice::default() };
        let given = mixture::assign(Mixture::find(mixture).unwrap(), &tensors, &about, &choice).unwrap();
        assert!(matches!(given[..], [Given::Type(_)]), "{mixture}");
    }
}

#[test]
fn nothing_that_is_read_is_replaced() {
    let place = tempfile::tempdir().unwrap();
    let small = testdata("rustdoc-llama-6m");
    let imatrix = place.path().join("imatrix.gguf");
    std::fs::copy(testdata("golden/imatrix/rustdoc.gguf"), &imatrix).unwrap();
    let before = std::fs::read(&imatrix).unwrap();
    let (model, imatrix_name) = (small.to_str().unwrap(), imatrix.to_str().unwrap());
    let output = run(&["quantize", model, "-o", imatrix_name, "--importance", imatrix_name, "--force"]);
    assert_eq!(code(&output), 1, "{}", text(&output.stderr));
    assert_eq!(std::fs::read(&imatrix).unwrap(), before);
    // A report replaces reports only.
    let other = place.path().join("config.json");
    std::fs::write(&other, "{\"model_type\": \"llama\"}").unwrap();
    let out = place.path().join("out");
    let arguments =
        ["quantize", model, "-o", out.to_str().unwrap(), "--method", "rtn", "--force", "-q", "--report"];
    let with = |report: &Path| run(&[&arguments[..], &[report.to_str().unwrap()]].concat());
    assert_eq!(code(&with(&other)), 1);
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "{\"model_type\": \"llama\"}");
    for name in ["report.html", "report.json", "report.csv"] {
        let report = place.path().join(name);
        for _ in 0..2 {
            let output = with(&report);
            assert_eq!(code(&output), 0, "{name}: {}", text(&output.stderr));
        }
    }
}

#[test]
fn what_stays_and_what_does_not_is_in_the_config() {
    let place = tempfile::tempdir().unwrap();
    let small = testdata("rustdoc-llama-6m");
    let out = place.path().join("out");
    let (model, to) = (small.to_str().unwrap(), out.to_str().unwrap());
    let quantised = |flags: &[&str]| {
        let _ = std::fs::remove_dir_all(&out);
        let base = ["quantize", model, "-o", to, "--method", "rtn", "-q", "--scheme"];
        let output = run(&[&base[..], flags].concat());
        (code(&output), text(&output.stderr).to_owned())
    };
    // A head that is quantised is none that stays.
    assert_eq!(quantised(&["int4", "--also", "lm_head.weight"]).0, 0);
    assert_eq!(config(&out)["quantization_config"]["ignore"], json!([]));
    assert_eq!(quantised(&["gptq", "--also", "lm_head.weight"]).0, 0);
    assert_eq!(config(&out)["quantization_config"]["lm_head"], json!(true));
    // Their readers never look at it.
    for scheme in ["awq", "nf4"] {
        assert_eq!(quantised(&[scheme, "--also", "lm_head.weight"]).0, 2, "{scheme}");
    }
    // GPTQ's modules within a block, where some stay in all layers; where layers differ it cannot be said.
    assert_eq!(quantised(&["gptq", "--keep", "*down_proj*"]).0, 0);
    let said = &config(&out)["quantization_config"]["modules_in_block_to_quantize"];
    let names: Vec<&str> = said.as_array().unwrap().iter().map(|m| m[0].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "mlp.gate_proj",
            "mlp.up_proj",
            "self_attn.k_proj",
            "self_attn.o_proj",
            "self_attn.q_proj",
            "self_attn.v_proj"
        ]
    );
    assert_eq!(quantised(&["gptq", "--keep", "model.layers.0.*"]).0, 0);
    assert_eq!(config(&out)["quantization_config"].get("modules_in_block_to_quantize"), None);
    assert_eq!(quantised(&["int4", "--keep", "model.layers.*"]).0, 2);
}
