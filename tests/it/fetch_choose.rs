//! Which files of a repo are fetched: listings as repos really have them, a row each.

use hoist::fetch::choose::{Choice, Wishes, choose};
use hoist::source::Entry;
use std::collections::BTreeMap;

/// A repo: its files (`name size`, a line each), the shards that its indexes name, what its pipeline is made of.
struct Repo {
    name: &'static str,
    files: &'static str,
    indexes: &'static [(&'static str, &'static [&'static str])],
    components: &'static [&'static str],
}

const QWEN3_8B: Repo = Repo {
    name: "Qwen3-8B",
    files: "
        .gitattributes 1570
        LICENSE 11343
        README.md 16660
        config.json 728
        generation_config.json 239
        merges.txt 1671853
        model-00001-of-00005.safetensors 3996250744
        model-00002-of-00005.safetensors 3993160032
        model-00003-of-00005.safetensors 3959604768
        model-00004-of-00005.safetensors 3187841392
        model-00005-of-00005.safetensors 1244659840
        model.safetensors.index.json 32878
        tokenizer.json 11422654
        tokenizer_config.json 9732
        vocab.json 2776833",
    indexes: &[(
        "model.safetensors.index.json",
        &[
            "model-00001-of-00005.safetensors",
            "model-00002-of-00005.safetensors",
            "model-00003-of-00005.safetensors",
            "model-00004-of-00005.safetensors",
            "model-00005-of-00005.safetensors",
        ],
    )],
    components: &[],
};

const LLAMA: Repo = Repo {
    name: "Llama-3.2-1B",
    files: "
        .gitattributes 1519
        LICENSE.txt 7712
        README.md 41743
        USE_POLICY.md 6021
        config.json 843
        generation_config.json 185
        model.safetensors 2471645608
        original/consolidated.00.pth 2471678226
        original/params.json 220
        original/tokenizer.model 2183982
        special_tokens_map.json 301
        tokenizer.json 9085657
        tokenizer_config.json 50500",
    indexes: &[],
    components: &[],
};

/// The width of number and count differs, as DeepSeek writes it.
const DEEPSEEK: Repo = Repo {
    name: "DeepSeek-V3",
    files: "
        config.json 1660
        configuration_deepseek.py 9990
        modeling_deepseek.py 75000
        inference/convert.py 3700
        inference/kernel.py 8000
        figures/benchmark.png 180000
        model-00001-of-000002.safetensors 5234139343
        model-00002-of-000002.safetensors 4302383966
        model.safetensors.index.json 8900000
        mtp-extra.safetensors 100",
    indexes: &[(
        "model.safetensors.index.json",
        &["model-00001-of-000002.safetensors", "model-00002-of-000002.safetensors"],
    )],
    components: &[],
};

const GPT2: Repo = Repo {
    name: "gpt2",
    files: "
        .gitattributes 445
        64-8bits.tflite 125162496
        64-fp16.tflite 248269688
        64.tflite 495791932
        README.md 8092
        config.json 665
        flax_model.msgpack 497764120
        generation_config.json 124
        merges.txt 456318
        model.safetensors 548105171
        onnx/config.json 879
        onnx/decoder_model.onnx 653665842
        onnx/decoder_model_merged.onnx 655192833
        onnx/merges.txt 456318
        pytorch_model.bin 548118077
        rust_model.ot 702517648
        tf_model.h5 497933648
        tokenizer.json 1355256
        tokenizer_config.json 26
        vocab.json 1042301",
    indexes: &[],
    components: &[],
};

const WHISPER: Repo = Repo {
    name: "whisper-large-v3",
    files: "
        README.md 21200
        added_tokens.json 34600
        config.json 1272
        flax_model.msgpack 3086744284
        generation_config.json 3897
        merges.txt 493864
        model.fp32-00001-of-00002.safetensors 4993448880
        model.fp32-00002-of-00002.safetensors 1180663192
        model.safetensors 3087130976
        model.safetensors.index.fp32.json 117893
        normalizer.json 52666
        preprocessor_config.json 340
        pytorch_model.bin 3087360000
        pytorch_model.bin.index.fp32.json 110000
        pytorch_model.fp32-00001-of-00002.bin 4993600000
        pytorch_model.fp32-00002-of-00002.bin 1180800000
        tokenizer.json 2480617
        vocab.json 1036558",
    indexes: &[],
    components: &[],
};

const BERT: Repo = Repo {
    name: "all-MiniLM-L6-v2",
    files: "
        1_Pooling/config.json 190
        README.md 10454
        config.json 612
        config_sentence_transformers.json 116
        data_config.json 39265
        model.safetensors 90868376
        modules.json 349
        onnx/model.onnx 90405214
        onnx/model_O1.onnx 90360328
        onnx/model_qint8_avx512.onnx 23026053
        openvino/openvino_model.bin 90265744
        openvino/openvino_model.xml 211315
        pytorch_model.bin 90888945
        rust_model.ot 90887379
        sentence_bert_config.json 53
        tf_model.h5 91005696
        tokenizer.json 466247
        train_script.py 13156
        vocab.txt 231508",
    indexes: &[],
    components: &[],
};

const MISTRAL: Repo = Repo {
    name: "Mistral-7B-Instruct-v0.3",
    files: "
        README.md 7880
        config.json 601
        consolidated.safetensors 14496078512
        generation_config.json 116
        model-00001-of-00003.safetensors 4949453792
        model-00002-of-00003.safetensors 4999819336
        model-00003-of-00003.safetensors 4546807800
        model.safetensors.index.json 23950
        params.json 202
        tokenizer.json 1961548
        tokenizer.model 587404
        tokenizer.model.v3 587404",
    indexes: &[(
        "model.safetensors.index.json",
        &[
            "model-00001-of-00003.safetensors",
            "model-00002-of-00003.safetensors",
            "model-00003-of-00003.safetensors",
        ],
    )],
    components: &[],
};

const MISTRAL_ONLY_CONSOLIDATED: Repo = Repo {
    name: "Pixtral, as Mistral publishes it",
    files: "
        README.md 100
        consolidated.safetensors 25000000000
        params.json 500
        tekken.json 15000000",
    indexes: &[],
    components: &[],
};

const GPT_OSS: Repo = Repo {
    name: "gpt-oss-20b",
    files: "
        README.md 7000
        chat_template.jinja 16738
        config.json 1806
        metal/model.bin 13750886400
        model-00000-of-00002.safetensors 4792272488
        model-00001-of-00002.safetensors 4798702184
        model-00002-of-00002.safetensors 4170342232
        model.safetensors.index.json 36355
        original/config.json 376
        original/dtypes.json 13082
        original/model.safetensors 13761300984
        tokenizer.json 27868174",
    indexes: &[(
        "model.safetensors.index.json",
        &[
            "model-00000-of-00002.safetensors",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ],
    )],
    components: &[],
};

const SDXL: Repo = Repo {
    name: "stable-diffusion-xl-base-1.0",
    files: "
        .gitattributes 1711
        01.png 1914960
        LICENSE.md 14109
        README.md 9660
        model_index.json 609
        scheduler/scheduler_config.json 479
        sd_xl_base_1.0.safetensors 6938078334
        sd_xl_base_1.0_0.9vae.safetensors 6938081905
        sd_xl_offset_example-lora_1.0.safetensors 49553604
        text_encoder/config.json 565
        text_encoder/flax_model.msgpack 492240000
        text_encoder/model.fp16.safetensors 246144152
        text_encoder/model.onnx 492587457
        text_encoder/model.safetensors 492265168
        text_encoder/openvino_model.bin 492242672
        text_encoder/openvino_model.xml 1057789
        text_encoder_2/config.json 575
        text_encoder_2/model.fp16.safetensors 1389382176
        text_encoder_2/model.onnx 1041992
        text_encoder_2/model.onnx_data 2778640896
        text_encoder_2/model.safetensors 2778702264
        tokenizer/merges.txt 524619
        tokenizer/vocab.json 1059962
        tokenizer_2/vocab.json 1059962
        unet/config.json 1680
        unet/diffusion_flax_model.msgpack 10269850000
        unet/diffusion_pytorch_model.fp16.safetensors 5135149760
        unet/diffusion_pytorch_model.safetensors 10270077736
        unet/model.onnx 7293842
        unet/model.onnx_data 10269854720
        unet/openvino_model.bin 10269856428
        vae/config.json 642
        vae/diffusion_pytorch_model.fp16.safetensors 167335342
        vae/diffusion_pytorch_model.safetensors 334643268
        vae_1_0/config.json 607
        vae_1_0/diffusion_pytorch_model.fp16.safetensors 167335342
        vae_1_0/diffusion_pytorch_model.safetensors 334643268
        vae_decoder/config.json 607
        vae_decoder/model.onnx 198093688",
    indexes: &[],
    components: &["text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae", "scheduler"],
};

const FLUX: Repo = Repo {
    name: "FLUX.1-dev",
    files: "
        LICENSE.md 18621
        ae.safetensors 335304388
        flux1-dev.safetensors 23802932552
        model_index.json 536
        scheduler/scheduler_config.json 273
        text_encoder/config.json 613
        text_encoder/model.safetensors 246144352
        text_encoder_2/model-00001-of-00002.safetensors 4994582224
        text_encoder_2/model-00002-of-00002.safetensors 4530066360
        text_encoder_2/model.safetensors.index.json 19885
        transformer/config.json 378
        transformer/diffusion_pytorch_model-00001-of-00002.safetensors 9983040304
        transformer/diffusion_pytorch_model-00002-of-00002.safetensors 9949328904
        transformer/diffusion_pytorch_model.safetensors.index.json 121262
        vae/diffusion_pytorch_model.safetensors 167666902",
    indexes: &[
        (
            "text_encoder_2/model.safetensors.index.json",
            &["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
        (
            "transformer/diffusion_pytorch_model.safetensors.index.json",
            &[
                "diffusion_pytorch_model-00001-of-00002.safetensors",
                "diffusion_pytorch_model-00002-of-00002.safetensors",
            ],
        ),
    ],
    components: &["scheduler", "text_encoder", "text_encoder_2", "transformer", "vae"],
};

const GGUF: Repo = Repo {
    name: "Qwen3-235B-A22B-GGUF",
    files: "
        .gitattributes 3000
        BF16/Qwen3-BF16-00001-of-00002.gguf 48000000000
        BF16/Qwen3-BF16-00002-of-00002.gguf 47000000000
        Q4_K_M/Qwen3-Q4_K_M-00001-of-00003.gguf 49000000000
        Q4_K_M/Qwen3-Q4_K_M-00002-of-00003.gguf 49500000000
        Q4_K_M/Qwen3-Q4_K_M-00003-of-00003.gguf 43000000000
        Qwen3-Q2_K.gguf 85000000000
        Qwen3-UD-Q4_K_XL.gguf 120000000000
        README.md 30000
        config.json 1000
        imatrix_unsloth.dat 9000000
        imatrix_unsloth.gguf 9100000
        mmproj-BF16.gguf 900000000
        mmproj-F16.gguf 900000001
        mmproj-F32.gguf 1800000000",
    indexes: &[],
    components: &[],
};

const ONE_GGUF: Repo = Repo {
    name: "a single GGUF",
    files: "
        README.md 100
        gemma-2b-it.gguf 5010000000",
    indexes: &[],
    components: &[],
};

const BOTH: Repo = Repo {
    name: "safetensors with a GGUF beside",
    files: "
        config.json 100
        model.safetensors 2000
        model-q4_0.gguf 500
        model-q8_0.gguf 1000",
    indexes: &[],
    components: &[],
};

const PYTORCH: Repo = Repo {
    name: "opt-6.7b, PyTorch only",
    files: "
        config.json 651
        flax_model.msgpack 13300000000
        merges.txt 456318
        pytorch_model-00001-of-00002.bin 9960750957
        pytorch_model-00002-of-00002.bin 3356360185
        pytorch_model.bin.index.json 41937
        tf_model.h5 13300000001
        vocab.json 898822",
    indexes: &[(
        "pytorch_model.bin.index.json",
        &["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"],
    )],
    components: &[],
};

const ADAPTER: Repo = Repo {
    name: "a LoRA with its training state",
    files: "
        README.md 5000
        adapter_config.json 700
        adapter_model.bin 67200001
        adapter_model.safetensors 67200000
        checkpoint-500/adapter_model.safetensors 67200000
        checkpoint-500/optimizer.pt 134500000
        checkpoint-500/rng_state.pth 14575
        optimizer.pt 134500000
        runs/Oct10/events.out.tfevents.1728 9000
        scheduler.pt 1064
        tokenizer.json 9085657
        trainer_state.json 44000
        training_args.bin 5496",
    indexes: &[],
    components: &[],
};

/// Weights of several kinds that belong together, and PyTorch files that are nobody's copy.
const SPEECH: Repo = Repo {
    name: "chatterbox, parts of its own",
    files: "
        Cangjie5_TC.json 1920000
        conds.pt 107374
        s3gen.pt 1057165844
        s3gen.safetensors 1056484620
        t3_cfg.pt 1064894000
        t3_cfg.safetensors 2129653744
        tokenizer.json 25470
        ve.pt 5698626
        ve.safetensors 5695784",
    indexes: &[],
    components: &[],
};

const OMNI: Repo = Repo {
    name: "Qwen2.5-Omni, voices beside the model",
    files: "
        config.json 13000
        model-00001-of-00001.safetensors 4985055536
        model.safetensors.index.json 233500
        spk_dict.pt 259544",
    indexes: &[("model.safetensors.index.json", &["model-00001-of-00001.safetensors"])],
    components: &[],
};

const ONNX_ONLY: Repo = Repo {
    name: "an ONNX repo",
    files: "
        config.json 100
        onnx/model.onnx 1000
        onnx/model_q4.onnx 300",
    indexes: &[],
    components: &[],
};

const SENTENCE: Repo = Repo {
    name: "an embedding model of several modules",
    files: "
        1_Pooling/config.json 190
        2_Dense/config.json 115
        2_Dense/model.safetensors 3146000
        2_Dense/pytorch_model.bin 3147000
        3_Normalize/.gitkeep 0
        config.json 600
        model.safetensors 438000000
        modules.json 400
        pytorch_model.bin 438000001",
    indexes: &[],
    components: &[],
};

const STALE: Repo = Repo {
    name: "a stale index beside a merged file",
    files: "
        model.safetensors 100
        model.safetensors.index.json 10",
    indexes: &[("model.safetensors.index.json", &["model-00001-of-00002.safetensors"])],
    components: &[],
};

const BROKEN: Repo = Repo {
    name: "an index that names a shard too many",
    files: "
        model-00001-of-00002.safetensors 100
        model.safetensors.index.json 10",
    indexes: &[(
        "model.safetensors.index.json",
        &["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
    )],
    components: &[],
};

fn entries(repo: &Repo) -> Vec<Entry> {
    let lines = repo.files.lines().map(str::trim).filter(|l| !l.is_empty());
    lines
        .map(|line| {
            let (name, size) = line.rsplit_once(' ').unwrap();
            Entry { name: name.to_owned(), size_bytes: size.parse().unwrap(), is_directory: false }
        })
        .collect()
}

fn document(repo: &Repo, name: &str) -> Vec<u8> {
    if name == "model_index.json" {
        let mut index = serde_json::json!({"_class_name": "X", "_diffusers_version": "0.30", "feature_extractor": [null, null]});
        for component in repo.components {
            index[component] = serde_json::json!(["diffusers", "Y"]);
        }
        return index.to_string().into_bytes();
    }
    let (_, shards) = repo.indexes.iter().find(|(index, _)| *index == name).expect(name);
    let map: serde_json::Map<String, serde_json::Value> =
        shards.iter().enumerate().map(|(i, s)| (format!("t{i}"), (*s).into())).collect();
    serde_json::json!({ "weight_map": map }).to_string().into_bytes()
}

/// What stays out, `reason: names` a line each, or the error's first line and its kind.
fn chosen(repo: &Repo, wishes: &Wishes) -> Result<(Vec<String>, Vec<String>, u64), String> {
    let files = entries(repo);
    let mut read = BTreeMap::new();
    for _ in 0..4 {
        match choose(&files, wishes, &read).map_err(|e| format!("{} {e}", e.kind().exit_code()))? {
            Choice::Read(names) => {
                for name in names {
                    assert!(files.iter().any(|f| f.name == name), "{name} is not listed");
                    let json = document(repo, &name);
                    assert!(read.insert(name, json).is_none(), "asked twice");
                }
            }
            Choice::Made(selection) => {
                let out: usize = selection.left_out.iter().map(|l| l.names.len()).sum();
                assert_eq!(out + selection.take.len(), files.len(), "each file is in or out");
                for group in &selection.left_out {
                    let size: u64 =
                        files.iter().filter(|f| group.names.contains(&f.name)).map(|f| f.size_bytes).sum();
                    assert_eq!(group.size_bytes, size, "{}", group.why);
                }
                let left =
                    selection.left_out.iter().map(|l| format!("{}: {}", l.why, l.names.join(" "))).collect();
                let size = selection.take.iter().map(|&i| files[i].size_bytes).sum();
                let take = selection.take.iter().map(|&i| files[i].name.clone()).collect();
                return Ok((take, left, size));
            }
        }
    }
    panic!("no end of documents");
}

/// The default choice of each repo: what stays out, by reason, in the order of the listing.
#[test]
fn what_stays_out_of_real_repos() {
    let rows: &[(&Repo, &[&str])] = &[
        (&QWEN3_8B, &[]),
        (
            &LLAMA,
            &[
                "Meta's original files: original/consolidated.00.pth original/params.json original/tokenizer.model",
            ],
        ),
        (&DEEPSEEK, &["not named by the index: mtp-extra.safetensors"]),
        (
            &GPT2,
            &[
                "TensorFlow: 64-8bits.tflite 64-fp16.tflite 64.tflite tf_model.h5",
                "Flax: flax_model.msgpack",
                "ONNX: onnx/config.json onnx/decoder_model.onnx onnx/decoder_model_merged.onnx onnx/merges.txt",
                "PyTorch beside safetensors: pytorch_model.bin",
                "rust-bert: rust_model.ot",
            ],
        ),
        (
            &WHISPER,
            &[
                "Flax: flax_model.msgpack",
                "variants (fp16, ema, …): model.fp32-00001-of-00002.safetensors \
                 model.fp32-00002-of-00002.safetensors pytorch_model.fp32-00001-of-00002.bin \
                 pytorch_model.fp32-00002-of-00002.bin",
                "PyTorch beside safetensors: pytorch_model.bin",
            ],
        ),
        (
            &BERT,
            &[
                "ONNX: onnx/model.onnx onnx/model_O1.onnx onnx/model_qint8_avx512.onnx",
                "OpenVINO: openvino/openvino_model.bin openvino/openvino_model.xml",
                "PyTorch beside safetensors: pytorch_model.bin",
                "rust-bert: rust_model.ot",
                "TensorFlow: tf_model.h5",
            ],
        ),
        (&MISTRAL, &["the same weights for Mistral's and Meta's own code: consolidated.safetensors"]),
        (&MISTRAL_ONLY_CONSOLIDATED, &[]),
        (
            &GPT_OSS,
            &[
                "for Metal: metal/model.bin",
                "Meta's original files: original/config.json original/dtypes.json original/model.safetensors",
            ],
        ),
        (
            &SDXL,
            &[
                "the pipeline once more as one file: sd_xl_base_1.0.safetensors \
                 sd_xl_base_1.0_0.9vae.safetensors sd_xl_offset_example-lora_1.0.safetensors",
                "Flax: text_encoder/flax_model.msgpack unet/diffusion_flax_model.msgpack",
                "variants (fp16, ema, …): text_encoder/model.fp16.safetensors \
                 text_encoder_2/model.fp16.safetensors unet/diffusion_pytorch_model.fp16.safetensors \
                 vae/diffusion_pytorch_model.fp16.safetensors",
                "ONNX: text_encoder/model.onnx text_encoder_2/model.onnx text_encoder_2/model.onnx_data \
                 unet/model.onnx unet/model.onnx_data vae_decoder/model.onnx",
                "OpenVINO: text_encoder/openvino_model.bin text_encoder/openvino_model.xml unet/openvino_model.bin",
                "no component of the pipeline: vae_1_0/diffusion_pytorch_model.fp16.safetensors \
                 vae_1_0/diffusion_pytorch_model.safetensors",
            ],
        ),
        (&FLUX, &["the pipeline once more as one file: ae.safetensors flux1-dev.safetensors"]),
        (&ONE_GGUF, &[]),
        (&BOTH, &["GGUF beside other weights; `:Q4_K_M` takes one: model-q4_0.gguf model-q8_0.gguf"]),
        (&PYTORCH, &["Flax: flax_model.msgpack", "TensorFlow: tf_model.h5"]),
        (
            &ADAPTER,
            &[
                "PyTorch beside safetensors: adapter_model.bin",
                "training state: checkpoint-500/adapter_model.safetensors checkpoint-500/optimizer.pt \
                 checkpoint-500/rng_state.pth optimizer.pt runs/Oct10/events.out.tfevents.1728 scheduler.pt \
                 trainer_state.json training_args.bin",
            ],
        ),
        (&SPEECH, &["PyTorch beside safetensors: s3gen.pt t3_cfg.pt ve.pt"]),
        (&OMNI, &[]),
        (&ONNX_ONLY, &[]),
        (&SENTENCE, &["PyTorch beside safetensors: 2_Dense/pytorch_model.bin pytorch_model.bin"]),
        (&STALE, &[]),
    ];
    let mut wrong = Vec::new();
    for (repo, expected) in rows {
        match chosen(repo, &Wishes::default()) {
            Ok((_, left, _)) if left == *expected => {}
            other => wrong.push(format!("{}: {other:#?}\n  expected {expected:#?}", repo.name)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A repo, what is asked for, and what is taken of it: names, or the exit code and a part of the message.
#[test]
fn what_is_asked_for_is_taken() {
    let ask = |include: &[&str], exclude: &[&str]| Wishes {
        include: include.iter().map(|s| s.to_string()).collect(),
        exclude: exclude.iter().map(|s| s.to_string()).collect(),
        ..Wishes::default()
    };
    let quant = |q: &str, projector: bool| Wishes {
        quantisation: Some(q.to_owned()).filter(|q| !q.is_empty()),
        projector,
        ..Wishes::default()
    };
    let all = Wishes { all: true, ..Wishes::default() };
    type Expected<'a> = Result<&'a [&'a str], &'a [&'a str]>;
    let small = [".gitattributes", "README.md", "config.json"];
    let with = |names: &[&'static str]| {
        let mut all: Vec<&'static str> = small.iter().chain(names).copied().collect();
        all.sort();
        all
    };
    let splits = with(&[
        "Q4_K_M/Qwen3-Q4_K_M-00001-of-00003.gguf",
        "Q4_K_M/Qwen3-Q4_K_M-00002-of-00003.gguf",
        "Q4_K_M/Qwen3-Q4_K_M-00003-of-00003.gguf",
    ]);
    let seen = with(&["Qwen3-Q2_K.gguf", "mmproj-F16.gguf"]);
    let mix = with(&["Qwen3-UD-Q4_K_XL.gguf"]);
    let rows: &[(&Repo, Wishes, Expected<'_>)] = &[
        (&GGUF, quant("Q4_K_M", false), Ok(&splits)),
        (&GGUF, quant("q2_k", true), Ok(&seen)),
        (&GGUF, quant("Q4_K_XL", false), Ok(&mix)),
        (
            &GGUF,
            quant("", false),
            Err(&[
                "2 holds several GGUF models",
                "BF16",
                "95.0 GB",
                "Q4_K_M",
                "141.5 GB",
                "UD-Q4_K_XL",
                "120.0 GB",
                "`NAME:Q4_K_M+mmproj`",
            ]),
        ),
        (&GGUF, quant("Q3_K_S", false), Err(&["3 holds no quantisation `Q3_K_S`", "Q2_K"])),
        (&QWEN3_8B, quant("Q4_K_M", false), Err(&["3 holds no GGUF file"])),
        (&ONE_GGUF, quant("", true), Err(&["3 holds no vision projector"])),
        (&QWEN3_8B, quant("", true), Err(&["3 holds no GGUF model that a projector belongs to"])),
        (&BOTH, quant("Q8_0", false), Ok(&["config.json", "model-q8_0.gguf"])),
        (&GGUF, ask(&["*Q2_K*", "config.json"], &[]), Ok(&["Qwen3-Q2_K.gguf", "config.json"])),
        (
            &LLAMA,
            ask(&["original/"], &["*.model"]),
            Ok(&["original/consolidated.00.pth", "original/params.json"]),
        ),
        (
            &LLAMA,
            ask(&["*.nothing"], &[]),
            Err(&["3 --include `*.nothing` matches no file", "`LICENSE.txt`"]),
        ),
        (&LLAMA, ask(&["[a"], &[]), Err(&["2 `[a` is no glob"])),
        (&STALE, ask(&[], &["*.json"]), Ok(&["model.safetensors"])),
        (&BOTH, all.clone(), Ok(&["config.json", "model.safetensors", "model-q4_0.gguf", "model-q8_0.gguf"])),
        (&BROKEN, Wishes::default(), Err(&["3 model.safetensors.index.json: names 2 shards", "--all"])),
        (&BROKEN, all, Ok(&["model-00001-of-00002.safetensors", "model.safetensors.index.json"])),
    ];
    let mut wrong = Vec::new();
    for (repo, wishes, expected) in rows {
        let got = chosen(repo, wishes);
        let ok = match (&got, expected) {
            (Ok((take, _, _)), Ok(names)) => take == names,
            (Err(text), Err(parts)) => parts.iter().all(|p| text.contains(p)) && text.starts_with(parts[0]),
            _ => false,
        };
        if !ok {
            wrong.push(format!("{} {wishes:?}: {got:#?}\n  expected {expected:?}", repo.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Names that could break the choice: it never panics, and takes or leaves each file once.
#[test]
fn strange_names_are_chosen_from() {
    let names = [
        "",
        "/",
        "a/",
        "//",
        "é.gguf",
        ".gguf",
        ".safetensors",
        "x/.bin",
        "model.safetensors/x",
        "-of-.bin",
        "model-00001-of-00000.safetensors",
        "a/b/c/d/model.fp16.safetensors",
        "🦀-00001-of-00002.bin",
    ];
    for (i, name) in names.iter().enumerate() {
        let files: Vec<Entry> = names[..=i]
            .iter()
            .chain([name])
            .map(|n| Entry { name: n.to_string(), size_bytes: u64::MAX, is_directory: false })
            .collect();
        match choose(&files, &Wishes::default(), &BTreeMap::new()) {
            Ok(Choice::Made(s)) => {
                let left: usize = s.left_out.iter().map(|l| l.names.len()).sum();
                assert_eq!(left + s.take.len(), files.len(), "{name:?}");
            }
            Ok(Choice::Read(names)) => assert!(!names.is_empty()),
            Err(e) => assert!([1, 2, 3].contains(&e.kind().exit_code()), "{name:?} {e}"),
        }
    }
}
