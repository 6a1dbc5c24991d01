//! `inspect`: the transcript for a real model, and small models made by hand around each rule.

use crate::cli::{code, hoist, text};
use crate::naive::testdata;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

/// A model of these tensors (zeros) and these files beside them.
fn model(tensors: &[(&str, Dtype, &[usize])], beside: &[(&str, &[u8])]) -> TempDir {
    let directory = TempDir::new().unwrap();
    let zeros = vec![0u8; 1 << 22];
    let views: Vec<_> = tensors
        .iter()
        .map(|(name, dtype, shape)| {
            let bits = shape.iter().product::<usize>() * dtype.bitsize();
            (*name, TensorView::new(*dtype, shape.to_vec(), &zeros[..bits / 8]).unwrap())
        })
        .collect();
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(directory.path().join("model.safetensors"), bytes).unwrap();
    for (name, bytes) in beside {
        std::fs::write(directory.path().join(name), bytes).unwrap();
    }
    directory
}

fn inspect(path: &Path, arguments: &[&str]) -> (String, String) {
    let mut all = vec!["inspect", path.to_str().unwrap()];
    all.extend(arguments);
    let got = hoist(&all).output().unwrap();
    let said = text(&got.stderr).to_owned();
    assert_eq!(code(&got), 0, "{arguments:?}: {said}");
    (text(&got.stdout).to_owned(), said)
}

fn inspect_json(path: &Path, arguments: &[&str]) -> Value {
    let mut all = vec!["--json"];
    all.extend(arguments);
    serde_json::from_str(&inspect(path, &all).0).unwrap()
}

#[test]
fn the_transcript() {
    let (out, err) = inspect(&testdata("rustdoc-llama-6m"), &[]);
    assert_eq!(err, "");
    assert_eq!(
        out,
        "\
rustdoc-llama-6m   llama   6.03 M parameters   bf16   12.1 MB in 3 shards
  layers 5   hidden 256   heads 4 (2 key/value)   vocabulary 4096   context 512   head untied
  embedding    1   2.1 MB  ▇▇▇▇
  attention   20   2.0 MB  ▇▇▇▇
  mlp         15   5.9 MB  ▇▇▇▇▇▇▇▇▇▇▇▇
  norms       11   5.6 kB
  head         1   2.1 MB  ▇▇▇▇
  tokenizer BPE 4096   chat template yes   generation config yes
"
    );
}

/// The figures against the headers, read here byte by byte.
#[test]
fn the_document_agrees_with_the_files() {
    let path = testdata("rustdoc-llama-6m");
    let document = inspect_json(&path, &["--tensors", "--tree"]);
    let keys: Vec<_> = document.as_object().unwrap().keys().take(2).collect();
    assert_eq!(keys, ["schema", "name"]);
    let tensors = document["tensors"].as_array().unwrap();
    let (mut count, mut size_bytes) = (0, 0);
    for n in 1..=3 {
        let file = format!("model-{n:05}-of-00003.safetensors");
        let bytes = std::fs::read(path.join(&file)).unwrap();
        let header_bytes = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        let header: Value = serde_json::from_slice(&bytes[8..8 + header_bytes as usize]).unwrap();
        for (name, facts) in header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__") {
            let offsets: Vec<u64> =
                facts["data_offsets"].as_array().unwrap().iter().map(|o| o.as_u64().unwrap()).collect();
            let expected = json!({
                "name": name, "dtype": "bf16", "shape": facts["shape"], "size_bytes": offsets[1] - offsets[0],
                "file": file, "offset_bytes": 8 + header_bytes + offsets[0], "contiguous": true,
            });
            assert!(tensors.contains(&expected), "{expected}");
            count += 1;
            size_bytes += offsets[1] - offsets[0];
        }
    }
    assert_eq!(tensors.len(), count);
    assert_eq!(
        document["total"],
        json!({"tensors": count, "parameters": size_bytes / 2, "size_bytes": size_bytes})
    );
    let groups = document["groups"].as_array().unwrap();
    assert_eq!(groups.iter().map(|g| g["size_bytes"].as_u64().unwrap()).sum::<u64>(), size_bytes);
    assert_eq!(
        (&document["tree"]["tensors"], &document["tree"]["size_bytes"]),
        (&json!(count), &json!(size_bytes))
    );
    let (out, _) = inspect(&path, &["--tree"]);
    assert!(out.contains("layers.{0..4}                      45    7.9 MB\n"), "{out}");
    let (out, _) =
        inspect(&path, &["--tensors", "--filter", "model.norm.*", "--include", "lm_*", "--exclude", "lm_*"]);
    let lines: Vec<_> = out.lines().map(|l| l.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!(lines[0], ["name", "dtype", "shape", "bytes", "file", "offset"]);
    assert_eq!((lines.len(), lines[1][..4].join(" ")), (2, "model.norm.weight bf16 [256] 512".to_owned()));
}

const TINY: &[(&str, Dtype, &[usize])] = &[
    ("model.embed_tokens.weight", Dtype::BF16, &[100, 8]),
    ("model.layers.0.self_attn.q_proj.weight", Dtype::BF16, &[8, 8]),
    ("model.layers.0.mlp.experts.0.up_proj.weight", Dtype::BF16, &[16, 8]),
    ("model.layers.0.input_layernorm.weight", Dtype::F32, &[8]),
    ("vision.strange", Dtype::U8, &[3]),
];

/// Files beside the weights → a line of the summary; a note, or none.
#[test]
fn what_lies_beside_may_be_missing_or_damaged() {
    let tied =
        br#"{"model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "tie_word_embeddings": true,
        "num_local_experts": 8, "num_experts_per_tok": 2, "num_hidden_layers": "one"}"#;
    let untied =
        br#"{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": false}"#;
    let deep = "[".repeat(1 << 20);
    let sparse = vec![b' '; 9 << 20];
    type Row<'a> = (&'a [(&'a str, &'a [u8])], &'a str, &'a str);
    #[rustfmt::skip]
    let rows: &[Row] = &[
        (&[], "  tokenizer no   chat template no   generation config no", ""),
        (&[], "  experts      1    256 B  ▇▇", ""),
        (&[], "  other        1      3 B", ""),
        (&[("config.json", tied)], "  experts 8 (2 used)   head tied", "note: `num_hidden_layers` is `one` where a count is expected; it was left out"),
        (&[("config.json", untied)], "  tokenizer no", "note: the config says that the head is not tied, but the model has no head tensor"),
        (&[("config.json", b"{")], "  tokenizer no", "note: config.json: is not JSON: EOF"),
        (&[("config.json", b"\xff\x00\x1b[31m")], "  tokenizer no", "note: config.json: is not JSON: "),
        (&[("config.json", b"7")], "  tokenizer no", "note: the config is not a JSON object"),
        (&[("config.json", deep.as_bytes())], "  tokenizer no", "note: config.json: is not JSON: recursion limit"),
        (&[("config.json", &sparse)], "  tokenizer no", "note: config.json: has 9,437,184 bytes; hoist reads up to 8,388,608"),
        (&[("tokenizer.json", b"{}")], "  tokenizer unnamed kind 0   ", ""),
        (&[("tokenizer.json", b"[]"), ("tokenizer.model", b"\n")], "  tokenizer SentencePiece or tiktoken   ", "note: tokenizer.json: cannot be understood: "),
        (&[("tokenizer.json", br#"{"model": {"type": "Unigram", "vocab": [["a", 0], ["b", 0]]}, "added_tokens": [{"id": 7}]}"#)], "  tokenizer Unigram 3   ", ""),
        (&[("tokenizer_config.json", br#"{"chat_template": "x"}"#)], "chat template yes", ""),
        (&[("tokenizer_config.json", br#"{"chat_template": null}"#)], "chat template no", ""),
        (&[("chat_template.jinja", b"")], "chat template yes", ""),
        (&[("generation_config.json", b"")], "generation config yes", ""),
    ];
    let mut wrong = Vec::new();
    for (beside, line, note) in rows {
        let directory = model(TINY, beside);
        let (out, err) = inspect(directory.path(), &[]);
        let escapes = out.contains('\u{1b}') || err.contains('\u{1b}');
        if !out.contains(line) || !err.contains(note) || (note.is_empty() && !err.is_empty()) || escapes {
            wrong.push(format!("{line} | {note}\n{out}\n{err}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    let directory = model(TINY, &[("config.json", b"{")]);
    assert_eq!(inspect(directory.path(), &["-q"]).1, "");
    let document = inspect_json(directory.path(), &[]);
    assert!(document["notes"][0].as_str().unwrap().starts_with("config.json: is not JSON"));
}

#[test]
fn strange_names_are_escaped() {
    let directory = model(&[("a\n\u{1b}[31m\u{202e}b", Dtype::U8, &[0, 2]), ("", Dtype::F32, &[])], &[]);
    for arguments in [&["--tensors"][..], &["--tree"], &[]] {
        let (out, _) = inspect(directory.path(), arguments);
        assert!(!out.contains('\u{1b}') && !out.contains('\u{202e}'), "{out}");
    }
    let tensors = inspect_json(directory.path(), &["--tensors"]);
    assert!(tensors["tensors"].as_array().unwrap().iter().any(|t| t["name"] == "a\n\u{1b}[31m\u{202e}b"));
}

/// Packed weights count what they hold: 8 values of 4 bits in an `i32`, two in a byte; scales count nothing.
#[test]
fn parameters_of_quantised_models() {
    let gptq = br#"{"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}"#;
    let bnb = br#"{"quantization_config": {"load_in_4bit": true, "quant_method": "bitsandbytes"}}"#;
    let ct = br#"{"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 128}}}}}"#;
    let mxfp4 = br#"{"model_type": "gpt_oss", "quantization_config": {"quant_method": "mxfp4"}}"#;
    let q = "model.layers.0.self_attn.q_proj";
    let experts = "model.layers.0.mlp.experts.gate_up_proj";
    type Row<'a> = (&'a [u8], &'a [(String, Dtype, &'a [usize])], u64, &'a str);
    let rows: &[Row] = &[
        (
            gptq,
            &[
                (format!("{q}.qweight"), Dtype::I32, &[128, 256]),
                (format!("{q}.qzeros"), Dtype::I32, &[8, 32]),
                (format!("{q}.scales"), Dtype::F16, &[8, 256]),
                (format!("{q}.g_idx"), Dtype::I32, &[1024]),
                ("model.norm.weight".into(), Dtype::F16, &[256]),
            ],
            1024 * 256 + 256,
            "gptq 4 bits, group 128",
        ),
        (
            bnb,
            &[
                (format!("{q}.weight"), Dtype::U8, &[512, 1]),
                (format!("{q}.weight.absmax"), Dtype::U8, &[16]),
            ],
            1024,
            "bitsandbytes 4 bits",
        ),
        (
            ct,
            &[
                (format!("{q}.weight_packed"), Dtype::I32, &[64, 8]),
                (format!("{q}.weight_scale"), Dtype::BF16, &[64, 1]),
            ],
            64 * 64,
            "compressed-tensors 4 bits, group 128",
        ),
        (
            mxfp4,
            &[
                (format!("{experts}_blocks"), Dtype::U8, &[2, 8, 2, 16]),
                (format!("{experts}_scales"), Dtype::U8, &[2, 8, 2]),
            ],
            1024,
            "mxfp4 4 bits",
        ),
    ];
    for (config, tensors, parameters, scheme) in rows {
        let tensors: Vec<_> = tensors.iter().map(|(n, d, s)| (n.as_str(), *d, *s)).collect();
        let directory = model(&tensors, &[("config.json", config)]);
        assert_eq!(inspect_json(directory.path(), &[])["total"]["parameters"], json!(parameters), "{scheme}");
        let (out, _) = inspect(directory.path(), &[]);
        assert!(out.lines().next().unwrap().contains(scheme), "{out}");
    }
}

/// By hand: 12,071,424 bytes of weights; 5 layers × 2 × 2 heads × 64 × 2 bytes = 2560 bytes a position.
#[test]
fn whether_it_fits() {
    let path = testdata("rustdoc-llama-6m");
    let fit = |arguments: &[&str]| inspect_json(&path, arguments)["fit"].clone();
    let weights = inspect_json(&path, &[])["total"]["size_bytes"].as_u64().unwrap();
    let got = fit(&["--fit", "1GiB", "--ctx", "512", "--batch", "3"]);
    assert_eq!(got["cache_bytes"], json!(2560 * 512 * 3));
    let margin = (512 << 20) + (weights + 2560 * 512 * 3) / 20;
    assert_eq!(got["one"]["margin_bytes"], json!(margin));
    assert_eq!(got["one"]["needed_bytes"], json!(weights + 2560 * 512 * 3 + margin));
    assert_eq!((&got["one"]["fits"], &got["fewest"]["gpus"]), (&json!(true), &json!(1)));
    // The default context is the model's.
    assert_eq!(fit(&["--fit", "1GB"])["context"], json!(512));
    // Two GPUs do where one does not: half of the weights, half of the cache.
    let got = fit(&["--fit", "600MB", "--ctx", "20000"]);
    assert_eq!((&got["one"]["fits"], &got["fewest"]["gpus"]), (&json!(false), &json!(2)));
    assert_eq!(got["fewest"]["cache_bytes"], json!(2560 * 20000 / 2));
    let got = fit(&["--fit", "1MB"]);
    assert_eq!((&got["one"]["fits"], &got["fewest"]), (&json!(false), &Value::Null));
    let huge = fit(&["--fit", "80GB", "--ctx", "18446744073709551615"]);
    assert_eq!((&huge["cache_bytes"], &huge["one"]["fits"]), (&json!(u64::MAX), &json!(false)));
    let (out, _) = inspect(&path, &["--fit", "80GB"]);
    assert!(out.contains("  fits 80.0 GB free\n") && out.contains("4.16 bits a weight"), "{out}");
}

/// A GGUF's own keys: a model made by hand, as its reader gives it.
#[test]
fn a_gguf_speaks_for_itself() {
    use hoist::checkpoint::{
        Checkpoint, Container, Extent, FileRef, MetaArray, MetaKind, MetaValue, Part, Span, Tensor,
    };
    use hoist::dtype::DType;
    use hoist::inspect::{HeadKind, Options, Tokenizer};
    use hoist::source::local::LocalPlace;
    use hoist::transform::arch::Group;
    let words = |s: &str| MetaValue::Text(s.as_bytes().into());
    let tensor = |name: &str, dtype: DType, shape: &[u64]| {
        let size_bytes = dtype.size_bytes(shape.iter().product()).unwrap();
        let at = Extent::plain(Span { file: Default::default(), offset_bytes: 0, size_bytes });
        Tensor { name: name.into(), dtype, shape: shape.to_vec(), at }
    };
    let part = Part {
        container: Container::Gguf,
        tensors: vec![
            tensor("token_embd.weight", DType::Q6K, &[32, 256]),
            tensor("blk.0.attn_q.weight", DType::Q4K, &[256, 256]),
            tensor("blk.0.ffn_gate_exps.weight", DType::Q4K, &[4, 512, 256]),
            tensor("output_norm.weight", DType::F32, &[256]),
            tensor("rope_freqs.weight", DType::F32, &[32]),
        ],
        meta: vec![
            ("general.architecture".into(), words("qwen3moe")),
            ("general.file_type".into(), MetaValue::U32(15)),
            ("qwen3moe.block_count".into(), MetaValue::U32(1)),
            ("qwen3moe.attention.head_count".into(), MetaValue::U32(4)),
            ("qwen3moe.attention.key_length".into(), MetaValue::U32(64)),
            ("qwen3moe.expert_count".into(), MetaValue::U32(4)),
            ("tokenizer.ggml.model".into(), words("gpt2")),
            ("tokenizer.ggml.pre".into(), words("qwen\u{1b}2")),
            (
                "tokenizer.ggml.tokens".into(),
                MetaValue::Array(MetaArray { kind: MetaKind::Text, count: 32, bytes: Box::new([]) }),
            ),
            ("tokenizer.chat_template".into(), words("{{ x }}")),
        ],
        notes: vec![],
    };
    let mut table = Checkpoint::default();
    table
        .add(FileRef { name: "m.gguf".into(), size_bytes: 1 << 30, container: Container::Gguf }, part)
        .unwrap();
    // A neighbour's config must not speak for the GGUF.
    let directory = model(&[], &[("config.json", br#"{"model_type": "other"}"#)]);
    let place = LocalPlace::new(directory.path());
    let entries = hoist::source::Place::list(&place, "").unwrap();
    let model = hoist::open::Model {
        name: "m".into(),
        table,
        files: vec![],
        place: std::sync::Arc::new(place),
        entries,
        commit: None,
        is_file: false,
    };
    let report = hoist::inspect::inspect(&model, &Options::default()).unwrap();
    let d = &report.description;
    assert_eq!(
        (d.family.as_deref(), d.layers, d.kv_heads, d.head_dim),
        (Some("qwen3moe"), Some(1), Some(4), Some(64))
    );
    assert_eq!(d.quantisation.as_ref().map(|q| q.summary()).as_deref(), Some("q4_k_m"));
    assert_eq!(report.head, Some(HeadKind::Tied));
    assert_eq!(
        report.tokenizer,
        Some(Tokenizer { kind: "BPE".into(), vocab: Some(32), pre: Some("qwen\\u{1b}2".into()) })
    );
    assert!(report.chat_template && !report.generation_config);
    assert_eq!(report.total.parameters, 32 * 256 + 256 * 256 + 4 * 512 * 256 + 256 + 32);
    let groups: Vec<_> = report.groups.iter().map(|(g, sum)| (*g, sum.tensors)).collect();
    let expected =
        [Group::Embedding, Group::Attention, Group::Experts, Group::Norms, Group::Other].map(|g| (g, 1));
    assert_eq!(groups, expected);
}
