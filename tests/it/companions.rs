//! Which files travel: listings as published repos have them, one mark before each name.

use hoist::open::{Options, open};
use hoist::transform::companions::{
    Companions, Context, File, Why, is_of_a_model, is_worth_listing, module_folders, sort,
};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// `+` travels, `c` was read, `n` is written anew, and why the others stay: `w` weights, `f` beside such, `i` an index,
/// `t` a trainer's, `h` hidden or a tool's own.
fn mark(why: Why) -> char {
    match why {
        Why::Converted => 'c',
        Why::Written => 'n',
        Why::OtherWeights => 'w',
        Why::OtherFolder => 'f',
        Why::StaleIndex => 'i',
        Why::TrainerState => 't',
        Why::Bookkeeping => 'h',
    }
}

/// A repo, the folders its `modules.json` names, and its files.
const ROWS: &[(&str, &[&str], &str)] = &[
    (
        "a causal model with Meta's original beside it",
        &[],
        "+ .gitattributes
         + LICENSE
         + README.md
         + USE_POLICY.md
         n config.json
         + generation_config.json
         c model-00001-of-00002.safetensors
         c model-00002-of-00002.safetensors
         i model.safetensors.index.json
         w original/consolidated.00.pth
         f original/params.json
         f original/tokenizer.model
         + special_tokens_map.json
         + tokenizer.json
         + tokenizer_config.json",
    ),
    (
        "gpt-oss",
        &[],
        "+ chat_template.jinja
         n config.json
         w metal/model.bin
         c model-00000-of-00001.safetensors
         i model.safetensors.index.json
         f original/config.json
         f original/dtypes.json
         w original/model.safetensors
         + tokenizer.json",
    ),
    (
        "an embedding model with every export there is",
        &["1_Pooling", "2_Normalize"],
        "+ .gitattributes
         + 1_Pooling/config.json
         + README.md
         n config.json
         + config_sentence_transformers.json
         + data_config.json
         c model.safetensors
         + modules.json
         w onnx/model.onnx
         w onnx/model_O1.onnx
         f onnx/config.json
         f onnx/tokenizer.json
         w openvino/openvino_model.bin
         w openvino/openvino_model.xml
         f openvino/tokenizer.json
         w pytorch_model.bin
         w rust_model.ot
         + sentence_bert_config.json
         + special_tokens_map.json
         w tf_model.h5
         + tokenizer.json
         + train_script.py
         + vocab.txt",
    ),
    (
        "an embedding model with dense modules, both formats of their weights",
        &["1_Pooling", "2_Dense", "3_Dense", "4_Normalize"],
        "+ 1_Pooling/config.json
         + 2_Dense/config.json
         + 2_Dense/model.safetensors
         + 2_Dense/pytorch_model.bin
         + 3_Dense/model.safetensors
         n config.json
         c pytorch_model.bin
         w model.safetensors
         + modules.json
         + sentencepiece.bpe.model
         + spiece.model",
    ),
    (
        "modules under names of their own, found by modules.json and by their class",
        &["head"],
        "+ head/model.safetensors
         + head/config.json
         + query_0_SparseStaticEmbedding/model.safetensors
         w other/model.safetensors
         f other/config.json
         w 2024_backup/model.safetensors
         c model.safetensors",
    ),
    (
        "an old layout: the model itself lies in a module's folder",
        &["0_Transformer", "1_Pooling"],
        "c 0_Transformer/pytorch_model.bin
         w 0_Transformer/tf_model.h5
         + 0_Transformer/config.json
         + 0_Transformer/vocab.txt
         + 1_Pooling/config.json
         + modules.json",
    ),
    (
        "GPT-2, of all frameworks",
        &[],
        "w 64-8bits.tflite
         w 64.tflite
         + README.md
         n config.json
         w flax_model.msgpack
         + generation_config_for_text_generation.json
         + merges.txt
         c model.safetensors
         w onnx/decoder_model.onnx
         w onnx/decoder_model_merged.onnx
         f onnx/merges.txt
         f onnx/vocab.json
         w pytorch_model.bin
         w rust_model.ot
         w tf_model.h5
         + tokenizer.json
         + vocab.json",
    ),
    (
        "BERT with Core ML",
        &[],
        "+ LICENSE
         n config.json
         w coreml/fill-mask/float32_model.mlpackage/Data/com.apple.CoreML/model.mlmodel
         w coreml/fill-mask/float32_model.mlpackage/Data/com.apple.CoreML/weights/weight.bin
         w coreml/fill-mask/float32_model.mlpackage/Manifest.json
         w flax_model.msgpack
         c model.safetensors
         w model.onnx
         w model.onnx_data
         + vocab.txt",
    ),
    (
        "Mistral's own format beside that of transformers",
        &[],
        "w consolidated.safetensors
         i consolidated.safetensors.index.json
         c model-00001-of-00003.safetensors
         + params.json
         + tekken.json
         + tokenizer.model
         + tokenizer.model.v3
         + SYSTEM_PROMPT.txt",
    ),
    (
        "code, pictures, a tiktoken vocabulary",
        &[],
        "+ assets/logo.jpg
         + assets/qwen_tokenizer.png
         + cache_autogptq_cuda_256.cpp
         + configuration_qwen.py
         + modeling_qwen.py
         h __pycache__/modeling_qwen.cpython-311.pyc
         h modeling_qwen.pyc
         c model-00001-of-00008.safetensors
         + qwen.tiktoken
         + examples/react_prompt.md
         + sub/package/__init__.py
         + tokenization_qwen.py",
    ),
    (
        "adapters and processors of a multimodal model",
        &[],
        "c model-00001-of-00003.safetensors
         + preprocessor_config.json
         + processor_config.json
         + video_preprocessor_config.json
         + processing_phi4mm.py
         + speech-lora/adapter_config.json
         + speech-lora/adapter_model.safetensors
         + vision-lora/adapter_model.safetensors
         + speaker_embeddings/de_speaker_0.npy",
    ),
    (
        "what a trainer left",
        &[],
        "+ all_results.json
         n config.json
         t checkpoint-500/config.json
         t checkpoint-500/model.safetensors
         t checkpoint-500/optimizer.pt
         + checkpoint-final/config.json
         t global_step500/mp_rank_00_model_states.pt
         t latest
         c model.safetensors
         t optimizer.bin
         t optimizer.pt
         t optimizer_0/__0_0.distcp
         t pytorch_model_fsdp_0/__0_0.distcp
         t random_states_0.pkl
         t rng_state.pth
         t rng_state_0.pth
         t runs/Nov21/events.out.tfevents.1700000000.host.1.0
         t scaler.pt
         t scheduler.bin
         t scheduler.pt
         + tokenizer.json
         t trainer_state.json
         t training_args.bin
         h wandb/run-1/logs/debug.log
         t zero_to_fp32.py",
    ),
    (
        "what tools keep for themselves, and secrets",
        &[],
        "h .cache/huggingface/download/model.safetensors.metadata
         h .cache/huggingface/download/tokenizer.json.lock
         h .DS_Store
         h .env
         h .git/config
         h .git/.gitattributes
         h .git/tokenizer.json
         + .gitignore
         h .hoist.json
         h .model.safetensors.hoist-0123abcd
         h .ipynb_checkpoints/README-checkpoint.md
         h model.safetensors.incomplete
         h sub/.secret/token
         + poetry.lock
         c model.safetensors",
    ),
    (
        "GGUF files, of which one was read",
        &[],
        "+ README.md
         + config.json
         c model-Q4_K_M.gguf
         w model-Q8_0.gguf
         w mmproj-model-f16.gguf
         w MODEL.GGUF
         w BF16/model-BF16-00001-of-00002.gguf
         w model.Q8_0.gguf-split-a
         w old.gguf.part1of2
         + imatrix.dat",
    ),
    (
        "an image pipeline: components were read, a second decoder was not",
        &[],
        "+ model_index.json
         + scheduler/scheduler_config.json
         + text_encoder/config.json
         c text_encoder/model.safetensors
         w text_encoder/model.fp16.safetensors
         w text_encoder/pytorch_model.bin
         + tokenizer/merges.txt
         + unet/config.json
         c unet/diffusion_pytorch_model.safetensors
         w unet/diffusion_pytorch_model.onnx
         i unet/diffusion_pytorch_model.safetensors.index.fp16.json
         w vae_1_0/diffusion_pytorch_model.safetensors
         f vae_1_0/config.json
         w sd_xl_base_1.0.safetensors",
    ),
    (
        "TensorFlow, and names that only look like an index",
        &[],
        "w model.ckpt.data-00000-of-00001
         w model.ckpt.index
         w model.ckpt.meta
         w tf/saved_model.pb
         w tf/variables/variables.data-00000-of-00001
         i tf_model.h5.index.json
         i flax_model.msgpack.index.json
         i pytorch_model.bin.index.json
         i MODEL.SAFETENSORS.INDEX.JSON
         + search.index.json
         + index.json
         + faiss.index
         + bpe.model
         + source.spm
         + data.parquet
         h .safetensors.txt/x
         c model.safetensors",
    ),
];

#[test]
fn everything_that_is_not_weights_travels() {
    let mut wrong = Vec::new();
    for (repo, modules, listing) in ROWS {
        let rows: Vec<(char, &str)> = listing
            .lines()
            .map(|line| line.trim())
            .map(|line| (line.chars().next().unwrap(), line[1..].trim()))
            .collect();
        let file = |name: &str| File { name: name.into(), size_bytes: 1000 };
        let named =
            |wanted: char| rows.iter().filter(|r| r.0 == wanted).map(|r| r.1.to_owned()).collect::<Vec<_>>();
        let (read, written) = (named('c'), named('n'));
        let modules: Vec<String> = modules.iter().map(|m| m.to_string()).collect();
        let context = Context { read: &read, written: &written, modules: &modules };
        let mut files: Vec<File> = rows.iter().map(|r| file(r.1)).collect();
        let sorted = sort(&files, &context);
        let mut found: Vec<(String, char)> = sorted.travel.iter().map(|f| (f.name.clone(), '+')).collect();
        for (why, files) in &sorted.left {
            found.extend(files.iter().map(|f| (f.name.clone(), mark(*why))));
        }
        assert_eq!(found.len(), rows.len(), "{repo}: some are neither");
        for (expected, name) in &rows {
            let got = found.iter().find(|(n, _)| n == name).unwrap().1;
            if got != *expected {
                wrong.push(format!("{repo}: {name}: {got}, expected {expected}"));
            }
        }
        files.reverse();
        assert_eq!(sort(&files, &context), sorted, "{repo}: the order of the listing counts");
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_is_left_out_is_said() {
    let file = |name: &str, size_bytes| File { name: name.into(), size_bytes };
    let files = [
        file("onnx/a.onnx", 600_000_000),
        file("onnx/b.onnx", 600_000_000),
        file("tf_model.h5", 1),
        file("x.h5", 1),
        file("training_args.bin", 5000),
        file("model.safetensors", 7),
        file("config.json", 7),
    ];
    let (read, written) = (["model.safetensors".to_owned()], ["config.json".to_owned()]);
    let sorted = sort(&files, &Context { read: &read, written: &written, modules: &[] });
    assert_eq!(
        sorted.left_lines(),
        [
            "4 files of 1.2 GB: weights in another format, or a second copy: onnx/a.onnx, onnx/b.onnx, tf_model.h5, …",
            "1 file of 5.0 kB: a trainer's state: training_args.bin",
        ]
    );
    let strange = sort(&[file("a\u{1b}[31m.onnx", 1)], &Context::default());
    assert_eq!(
        strange.left_lines(),
        ["1 file of 1 B: weights in another format, or a second copy: a\\u{1b}[31m.onnx"]
    );
    assert_eq!(sort(&[], &Context::default()), Companions::default());
}

#[test]
fn folders_and_single_names() {
    for (folder, worth) in [
        ("onnx", true),
        ("1_Pooling", true),
        ("checkpoint-5", true),
        ("a/b", true),
        (".git", false),
        ("a/.cache", false),
        ("__pycache__", false),
        ("wandb", false),
    ] {
        assert_eq!(is_worth_listing(folder), worth, "{folder}");
    }
    for (json, expected) in [
        (
            r#"[{"idx": 0, "path": ""}, {"idx": 1, "path": "1_Pooling"}, {"path": "deep/x/"}]"#,
            &["1_Pooling", "deep/x"][..],
        ),
        (r#"{"path": "x"}"#, &[]),
        (r#"[1, {"path": 2}, null]"#, &[]),
    ] {
        assert_eq!(module_folders(&serde_json::from_str(json).unwrap()), expected, "{json}");
    }
    for (name, is) in [
        ("config.json", true),
        ("tokenizer.json", true),
        ("preprocessor_config.json", true),
        ("chat_template.jinja", true),
        ("holiday.jpg", false),
        ("README.md", false),
        ("sub/config.json", false),
        ("model.gguf", false),
    ] {
        assert_eq!(is_of_a_model(name), is, "{name}");
    }
}

#[test]
fn a_folder_is_listed_to_its_depth_and_not_for_ever() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let put = |name: &str| {
        fs::create_dir_all(at(name).parent().unwrap()).unwrap();
        fs::write(at(name), "{}").unwrap();
    };
    for name in ["config.json", "1_Pooling/config.json", "a/b/c/d.txt", ".git/objects/x"] {
        put(name);
    }
    let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let found = fs::read_dir(weights.join("safetensors")).ok().into_iter().flatten().flatten();
    let tiny = found.map(|e| e.path()).find(|p| p.extension().is_some_and(|x| x == "safetensors"));
    match tiny {
        Some(tiny) => drop(fs::copy(tiny, at("model.safetensors")).unwrap()),
        None => fs::write(at("model.safetensors"), [&2u64.to_le_bytes()[..], b"{}"].concat()).unwrap(),
    }
    let list = || {
        let model = open(place.path().to_str().unwrap(), &Options::default())?;
        let files = model.files_beside(&is_worth_listing)?;
        Ok::<_, hoist::Error>(files.into_iter().map(|e| e.name).collect::<Vec<_>>())
    };
    let all = ["1_Pooling/config.json", "a/b/c/d.txt", "config.json", "model.safetensors"];
    assert_eq!(list().unwrap(), all);
    symlink(".", at("loop")).unwrap();
    let error = list().unwrap_err();
    assert!(error.to_string().contains("folders deep"), "{error}");
}
