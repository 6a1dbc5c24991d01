//! Whole models: what is one under several names, what is left out, what is refused, which types there are.

use super::{ANY, Tensor, back, family, gguf_of, hf_of, plain_config, small, sorted, tensors, values};
use hoist::checkpoint::Meta;
use hoist::dtype::DType;
use hoist::error::ErrorKind;
use hoist::transform::arch::families::{Sizes, of_config};
use hoist::transform::arch::translate::{Want, to_gguf, to_hf};
use hoist::transform::recipe::{Recipe, Source, Value};
use serde_json::{Value as Json, json};

/// A whole model of two layers, as its checkpoint and config have it.
fn of(kind: &str) -> (Vec<Value>, Json) {
    let family = family(kind);
    let sizes = small();
    let mut config = plain_config(family);
    for (key, n) in [
        ("num_hidden_layers", sizes.layers),
        ("hidden_size", sizes.hidden),
        ("num_attention_heads", sizes.heads),
        ("num_key_value_heads", sizes.kv_heads),
        ("head_dim", sizes.head_dim),
        ("num_local_experts", 3),
        ("kv_lora_rank", 7),
        ("qk_nope_head_dim", ANY),
        ("qk_rope_head_dim", 2),
        ("v_head_dim", ANY),
        ("num_nextn_predict_layers", 1),
    ] {
        config[key] = n.into();
    }
    config["architectures"] = json!([family.architectures[0]]);
    (values(&hf_of(family, &sizes)), config)
}

fn translate(values: Vec<Value>, config: &Json, want: Want) -> hoist::Result<Recipe> {
    let family = of_config(config)?;
    to_gguf(values, family, &Sizes::of_config(config)?, config, want)
}

#[test]
fn prefixes_and_old_names_are_one() {
    let (plain, config) = of("llama");
    let expected = translate(plain.clone(), &config, Want::Own).unwrap().outputs;
    for prefix in [
        "",
        "model.",
        "language_model.model.",
        "model.language_model.",
        "model.language_model.model.",
        "language_model.",
        "model.text_model.",
        "transformer.",
    ] {
        let mut renamed = plain.clone();
        for value in &mut renamed {
            if let Some(rest) = value.name.strip_prefix("model.") {
                value.name = format!("{prefix}{rest}");
            }
        }
        assert_eq!(translate(renamed, &config, Want::Own).unwrap().outputs, expected, "{prefix}");
    }
    let (plain, config) = of("bert");
    let expected = translate(plain.clone(), &config, Want::Own).unwrap().outputs;
    let mut old = plain;
    for value in &mut old {
        value.name = format!("bert.{}", value.name);
        if value.name.contains("LayerNorm") {
            value.name = value.name.replace(".weight", ".gamma").replace(".bias", ".beta");
        }
    }
    assert_eq!(translate(old, &config, Want::Own).unwrap().outputs, expected);
}

#[test]
fn what_is_left_out_is_named() {
    for (kind, name, why) in [
        ("llama", "vision_tower.vision_model.encoder.layers.30.mlp.fc1.weight", "vision tower"),
        ("llama", "model.visual.blocks.0.attn.qkv.weight", "vision tower"),
        ("llama", "multi_modal_projector.linear_1.weight", "projector"),
        ("llama", "audio_tower.layers.0.fc1.weight", "audio"),
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq", "made from the config"),
        ("llama", "model.layers.0.self_attn.k_scale", "activation scale"),
        ("deepseek_v3", "model.layers.2.self_attn.q_a_proj.weight", "multi-token prediction"),
        ("deepseek_v3", "model.layers.2.shared_head.norm.weight", "multi-token prediction"),
        ("gpt2", "transformer.h.0.attn.bias", "attention mask"),
        ("gpt2", "h.1.attn.masked_bias", "attention mask"),
        ("bert", "pooler.dense.weight", "pooler"),
        ("bert", "bert.embeddings.position_ids", "made from the config"),
        ("bert", "cls.predictions.decoder.weight", "pre-training head"),
        ("xlm-roberta", "lm_head.dense.weight", "pre-training head"),
    ] {
        let (mut values, config) = of(kind);
        values.push(Value {
            name: name.to_owned(),
            dtype: DType::F32,
            shape: vec![6, 10],
            source: Source::Tensor(0),
        });
        let recipe = translate(values, &config, Want::Own).unwrap_or_else(|e| panic!("{name}: {e}"));
        let found: Vec<_> = recipe.left_out.iter().map(|l| (l.name.as_str(), l.why)).collect();
        assert_eq!(found, [(name, why)], "{name}");
    }
}

#[test]
fn a_tied_head_is_dropped_only_if_it_is_the_embedding() {
    let (values, mut config) = of("llama");
    let head = values.iter().position(|v| v.name == "lm_head.weight").unwrap();
    let embedding = values.iter().position(|v| v.name == "model.embed_tokens.weight").unwrap();
    let has_head = |r: &Recipe| r.outputs.iter().any(|o| o.name == "output.weight");
    let recipe = translate(values.clone(), &config, Want::Own).unwrap();
    assert!(has_head(&recipe) && recipe.equal.is_empty());
    config["tie_word_embeddings"] = true.into();
    let recipe = translate(values.clone(), &config, Want::Own).unwrap();
    assert!(!has_head(&recipe));
    assert_eq!(recipe.equal, [(head, embedding)]);
    let left = (recipe.left_out[0].name.as_str(), recipe.left_out[0].why);
    assert_eq!(left, ("lm_head.weight", "tied to the embedding"));
    // Not there, it is neither missing nor compared.
    let mut without = values.clone();
    without.remove(head);
    let recipe = translate(without.clone(), &config, Want::Own).unwrap();
    assert!(!has_head(&recipe) && recipe.equal.is_empty() && recipe.left_out.is_empty());
    // Some writers keep the head and drop the embedding, of which it is the copy.
    let mut only = values.clone();
    only.remove(embedding);
    let recipe = translate(only, &config, Want::Own).unwrap();
    let output = recipe.outputs.iter().find(|o| o.name == "token_embd.weight").unwrap();
    assert_eq!(recipe.values[output.parts[0].value].name, "lm_head.weight");
    assert!(!has_head(&recipe) && recipe.equal.is_empty() && recipe.left_out.is_empty());
    // A base model has none, whatever its config says of tying.
    config["tie_word_embeddings"] = false.into();
    assert!(translate(without.clone(), &config, Want::Own).is_err());
    config["architectures"] = json!(["LlamaModel"]);
    assert!(translate(without, &config, Want::Own).is_ok());
    // gemma's head is the embedding whatever the config says.
    let (mut values, config) = of("gemma2");
    let embedding = values.iter().position(|v| v.name == "model.embed_tokens.weight").unwrap();
    values.push(Value { name: "lm_head.weight".into(), ..values[embedding].clone() });
    let recipe = translate(values, &config, Want::Own).unwrap();
    assert_eq!(recipe.equal, [(recipe.values.len() - 1, embedding)]);
}

fn find<'a>(values: &'a mut [Value], name: &str) -> &'a mut Value {
    values.iter_mut().find(|v| v.name == name).unwrap_or_else(|| panic!("{name}"))
}

/// Another tensor like `model`.
fn add(values: &mut Vec<Value>, name: &str, shape: &[u64]) {
    values.push(Value { name: name.to_owned(), shape: shape.to_vec(), ..values[0].clone() });
}

type Change = fn(&mut Vec<Value>, &mut Json);
use ErrorKind::{BadInput, Unsupported};

/// A family, what is wrong with its model, the kind of error, and what it says.
#[rustfmt::skip]
const REFUSED: &[(&str, Change, ErrorKind, &str)] = &[
    ("llama", |v, _| v.retain(|v| !v.name.contains("layers.1.self_attn.q_proj.w")), BadInput, "has no tensor `model.layers.1.self_attn.q_proj.weight`"),
    ("llama", |v, _| v.retain(|v| v.name != "model.norm.weight"), BadInput, "has no tensor `model.norm.weight`"),
    ("llama", |v, _| v.retain(|v| v.name != "lm_head.weight"), BadInput, "has no tensor `lm_head.weight`"),
    ("llama", |v, _| v.retain(|v| v.name != "model.layers.1.mlp.up_proj.bias"), BadInput, "has no tensor `model.layers.1.mlp.up_proj.bias`"),
    ("qwen2", |v, _| v.retain(|v| !v.name.ends_with("q_proj.bias")), BadInput, "has no tensor `model.layers.0.self_attn.q_proj.bias`"),
    ("llama", |_, c| c["num_hidden_layers"] = 3.into(), BadInput, "has no tensor `model.layers.2.input_layernorm.weight`"),
    ("llama", |_, c| { c["num_hidden_layers"] = 1.into(); c["num_nextn_predict_layers"] = 0.into() }, BadInput, "is of layer 1, and the model has 1 layers"),
    ("llama", |_, c| c["num_hidden_layers"] = u64::MAX.into(), BadInput, "has no tensor"),
    ("llama", |v, _| v[0].name = "model.layers.0.mystery.weight".into(), Unsupported, "`model.layers.0.mystery.weight` is no tensor of family `llama`"),
    ("llama", |v, _| v[0].name = "model.layers.#.mlp.up_proj.weight".into(), Unsupported, "is no tensor of family"),
    ("llama", |v, _| v[0].name = "model.layers.00.mlp.up_proj.weight".into(), Unsupported, "is no tensor of family"),
    ("llama", |v, _| add(v, "norm.weight", &[10]), BadInput, "`output_norm.weight` is made by both `model.norm.weight` and `norm.weight`"),
    ("llama", |v, c| { c["tie_word_embeddings"] = true.into(); add(v, "model.lm_head.weight", &[6, 10]) }, BadInput, "is a second head, beside `lm_head.weight`"),
    ("llama", |v, c| { c["tie_word_embeddings"] = true.into(); find(v, "lm_head.weight").shape = vec![7, 10] }, BadInput, "has shape [7, 10], and the embedding that it shall share has [6, 10]"),
    ("llama", |v, _| find(v, "model.layers.0.self_attn.q_proj.weight").shape = vec![18, 10], BadInput, "tensor `model.layers.0.self_attn.q_proj.weight` has 18 along dimension 0, which is not 4 × 2 × 2"),
    ("llama", |v, _| find(v, "model.layers.0.self_attn.q_proj.weight").shape = vec![24, 10], BadInput, "would have shape [24, 10] by `model.layers.0.self_attn.q_proj.weight`, where [16, 10] is needed"),
    ("llama", |v, _| find(v, "model.norm.weight").shape = vec![11], BadInput, "would have shape [11] by `model.norm.weight`, where [10] is needed"),
    ("llama", |v, _| find(v, "model.norm.weight").shape = vec![], BadInput, "where [10] is needed"),
    ("llama", |v, _| find(v, "model.layers.0.mlp.up_proj.weight").shape = vec![0, 10], BadInput, "where [any, 10] is needed"),
    ("llama", |v, _| find(v, "model.layers.0.mlp.up_proj.weight").shape = vec![u64::MAX, 10], BadInput, "too many elements"),
    ("llama", |v, _| find(v, "model.layers.0.mlp.up_proj.weight").dtype = DType::I8, Unsupported, "has type `i8`, where weights are floats"),
    ("llama", |_, c| c["hidden_size"] = json!("wide"), BadInput, "`hidden_size` is not a count"),
    ("llama", |_, c| c["num_attention_heads"] = 0.into(), BadInput, "has no heads"),
    ("llama", |_, c| { c["num_attention_heads"] = 3.into(); c["head_dim"] = Json::Null }, BadInput, "10 wide, which 3 heads do not divide"),
    ("llama", |_, c| c["head_dim"] = u64::MAX.into(), BadInput, "overflow"),
    ("llama", |_, c| c["rope_scaling"] = json!({"type": "llama3", "factor": 0}), BadInput, "make no scaling"),
    ("llama", |_, c| c["rope_parameters"] = json!({"rope_type": "llama3", "factor": "x"}), BadInput, "`factor` of the rotary parameters is not a number"),
    ("phi3", |_, c| c["rope_scaling"] = json!({"type": "longrope", "long_factor": [1.0], "short_factor": [1.0, 2.0]}), BadInput, "`short_factor` has 2 numbers"),
    ("phi3", |_, c| c["rope_scaling"] = json!({"type": "longrope", "long_factor": [1.0]}), BadInput, "stands without `short_factor`"),
    ("mixtral", |v, _| v.retain(|v| !v.name.contains("layers.1.block_sparse_moe.experts.1.w2")), BadInput, "is not whole: the model has no `model.layers.1.block_sparse_moe.experts.1.w2.weight`"),
    ("mixtral", |v, _| v.retain(|v| !v.name.contains("experts.2.")), BadInput, "has no `model.layers.0.block_sparse_moe.experts.2.w1.weight`"),
    ("mixtral", |_, c| c["num_local_experts"] = 2.into(), BadInput, "has 3 experts, where the config says 2"),
    ("mixtral", |v, _| v.retain(|v| !v.name.contains("layers.0.block_sparse_moe")), BadInput, "has no tensor `model.layers.0.block_sparse_moe.experts.0.w1.weight`"),
    ("mixtral", |v, _| find(v, "model.layers.0.block_sparse_moe.experts.1.w1.weight").shape = vec![10, 6], BadInput, "does not fit that of"),
    ("deepseek_v2", |v, _| add(v, "model.layers.0.mlp.gate.weight", &[3, 10]), BadInput, "layer 0 has two forms of one part"),
    ("deepseek_v2", |v, _| v.retain(|v| !v.name.contains("layers.0.self_attn.q_proj")), BadInput, "has no tensor `model.layers.0.self_attn.q_"),
    ("deepseek_v2", |v, _| find(v, "model.layers.0.self_attn.kv_b_proj.weight").shape = vec![47, 7], BadInput, "has 47 along dimension 0, which is not 4 × 12"),
    ("qwen3_moe", |v, _| { v.retain(|v| !v.name.contains(".experts.")); add(v, "model.layers.0.mlp.experts.gate_up_proj", &[3, 11, 10]) }, BadInput, "has 11 rows of gate and up"),
    ("xlm-roberta", |v, _| find(v, "embeddings.position_embeddings.weight").shape = vec![1, 10], BadInput, "has 1 along dimension 0, where 2 to 1 are needed"),
];

#[test]
fn what_cannot_be_is_refused() {
    for (kind, change, expected, said) in REFUSED {
        let (mut values, mut config) = of(kind);
        change(&mut values, &mut config);
        match translate(values, &config, Want::Own) {
            Err(e) => {
                assert_eq!(e.kind(), *expected, "{e}");
                assert!(e.to_string().contains(said), "{said}: {e}");
            }
            Ok(_) => panic!("not refused: {said}"),
        }
    }
}

#[rustfmt::skip]
const REFUSED_BACK: &[(&str, fn(&mut Vec<Value>), ErrorKind, &str)] = &[
    ("llama", |v| v.retain(|v| v.name != "blk.1.attn_k.weight"), BadInput, "has no tensor `blk.1.attn_k.weight`"),
    ("llama", |v| v[0].name = "blk.0.mystery.weight".into(), Unsupported, "is no tensor of family"),
    ("llama", |v| find(v, "blk.0.attn_k.weight").shape = vec![4, 10], BadInput, "tensor `blk.0.attn_k.weight` has shape [4, 10], where [8, 10] is needed"),
    ("llama", |v| find(v, "blk.0.ffn_up.weight").name = "blk.2.ffn_up.weight".into(), BadInput, "is of layer 2"),
    ("mixtral", |v| find(v, "blk.0.ffn_up_exps.weight").shape = vec![2, 6, 10], BadInput, "where [3, any, 10] is needed"),
    ("mixtral", |v| find(v, "blk.0.ffn_up_exps.weight").shape = vec![3, 0, 10], BadInput, "where [3, any, 10] is needed"),
    ("deepseek_v2", |v| v.retain(|v| v.name != "blk.0.attn_v_b.weight"), BadInput, "is not whole"),
    ("deepseek_v2", |v| add(v, "blk.0.attn_kv_b.weight", &[48, 7]), BadInput, "is made by both"),
    ("bert", |v| v[0].dtype = DType::I32, Unsupported, "has type `i32`"),
];

#[test]
fn a_gguf_that_is_not_whole_is_refused() {
    for (kind, change, expected, said) in REFUSED_BACK {
        let family = family(kind);
        let sizes = small();
        let mut values = values(&gguf_of(family, &sizes));
        change(&mut values);
        match to_hf(values, family, &sizes, &Meta::default(), Want::Own) {
            Err(e) => {
                assert_eq!(e.kind(), *expected, "{e}");
                assert!(e.to_string().contains(said), "{said}: {e}");
            }
            Ok(_) => panic!("not refused: {said}"),
        }
    }
}

/// Forms in which older GGUFs have a tensor.
#[test]
fn older_ggufs_are_read() {
    let sizes = small();
    // Experts apart.
    let mixtral = family("mixtral");
    let (stacked, mut gguf): (Vec<Tensor>, Vec<Tensor>) =
        gguf_of(mixtral, &sizes).into_iter().partition(|t| t.0.contains("_exps"));
    for (name, dtype, shape) in stacked {
        let apart = |e: u64| (name.replace("_exps.", &format!(".{e}.")), dtype, shape[1..].to_vec());
        gguf.extend((0..3).map(apart));
    }
    assert_eq!(sorted(tensors(&back(&gguf, mixtral, &sizes).unwrap())), sorted(hf_of(mixtral, &sizes)));
    gguf.retain(|t| t.0 != "blk.1.ffn_up.2.weight");
    let error = back(&gguf, mixtral, &sizes).unwrap_err();
    assert!(error.to_string().contains("has no expert 2 for `blk.1.ffn_up_exps.weight`"), "{error}");
    // Keys and values from latents in one.
    let deepseek = family("deepseek_v2");
    let mut gguf = gguf_of(deepseek, &sizes);
    gguf.retain(|t| !t.0.contains("attn_k_b") && !t.0.contains("attn_v_b"));
    gguf.extend((0..2).map(|n| (format!("blk.{n}.attn_kv_b.weight"), DType::F32, vec![48, 7])));
    assert_eq!(sorted(tensors(&back(&gguf, deepseek, &sizes).unwrap())), sorted(hf_of(deepseek, &sizes)));
    // A model of one expert, whose outer dimension writers drop.
    let sizes = Sizes { experts: Some(1), ..small() };
    let mut gguf = gguf_of(mixtral, &sizes);
    for (_, _, shape) in &mut gguf {
        while shape.first() == Some(&1) && shape.len() > 1 {
            shape.remove(0);
        }
    }
    assert_eq!(tensors(&back(&gguf, mixtral, &sizes).unwrap()), hf_of(mixtral, &sizes));
}

#[test]
fn which_type_a_gguf_has() {
    use DType::{BF16, F16, F32, MXFP4, Q8_0};
    let (mut model, config) = of("gpt_oss");
    for value in &mut model {
        value.dtype = BF16;
    }
    find(&mut model, "lm_head.weight").dtype = DType::F64;
    find(&mut model, "model.layers.0.self_attn.q_proj.weight").dtype = DType::F8E4M3;
    find(&mut model, "model.layers.0.self_attn.k_proj.weight").dtype = F16;
    for (name, shape) in [("down_proj", vec![3, 10, 6]), ("gate_up_proj", vec![3, 12, 10])] {
        let blocks = find(&mut model, &format!("model.layers.0.mlp.experts.{name}"));
        blocks.source = Source::Mxfp4 { blocks: 0, scales: 1 };
        blocks.shape = shape;
    }
    let columns = [Want::Own, Want::Type(F32), Want::Type(F16), Want::Type(BF16), Want::Type(Q8_0)];
    // Rows of 10 and 6 fill no block of 32, so that nothing becomes q8_0.
    for (name, expected) in [
        ("token_embd.weight", [BF16, F32, F16, BF16, F16]),
        ("output.weight", [F32, F32, F16, BF16, F16]),
        ("blk.0.attn_q.weight", [BF16, F32, F16, BF16, F16]),
        ("blk.0.attn_k.weight", [F16, F32, F16, BF16, F16]),
        ("blk.0.attn_q.bias", [F32; 5]),
        ("blk.0.attn_norm.weight", [F32; 5]),
        ("blk.0.attn_sinks.weight", [F32; 5]),
        ("blk.0.ffn_gate_inp.weight", [F32; 5]),
        ("blk.0.ffn_up_exps.bias", [F32; 5]),
        ("blk.0.ffn_up_exps.weight", [MXFP4; 5]),
        ("blk.0.ffn_down_exps.weight", [MXFP4; 5]),
        ("blk.1.ffn_down_exps.weight", [BF16, F32, F16, BF16, F16]),
    ] {
        for (want, expected) in columns.iter().zip(expected) {
            let recipe = translate(model.clone(), &config, *want).unwrap();
            let output = recipe.outputs.iter().find(|o| o.name == name).unwrap();
            assert_eq!((output.dtype, output.narrow), (expected, None), "{name}, {want:?}");
            assert_eq!(recipe.outputs[0].dtype, MXFP4, "what is repacked comes first");
        }
    }
    let notes = translate(model.clone(), &config, Want::Type(Q8_0)).unwrap().notes;
    assert!(notes.iter().any(|n| n.contains("are f16: their rows do not fill")), "{notes:?}");
    assert!(notes.iter().any(|n| n.contains("3 tensors stay mxfp4")), "{notes:?}");
    for dtype in [DType::Q4K, DType::I8] {
        let error = translate(model.clone(), &config, Want::Type(dtype)).unwrap_err();
        assert_eq!(error.kind(), Unsupported);
    }

    let sizes = Sizes { hidden: 64, head_dim: 16, ..small() };
    let qwen2 = family("qwen2");
    let hf = values(&hf_of(qwen2, &sizes));
    let recipe = to_gguf(hf, qwen2, &sizes, &plain_config(qwen2), Want::Type(Q8_0)).unwrap();
    for (name, expected) in [
        ("token_embd.weight", Q8_0),
        ("output.weight", Q8_0),
        ("blk.0.attn_output.weight", Q8_0),
        ("blk.0.ffn_up.weight", Q8_0),
        ("blk.0.ffn_down.weight", F16),
        ("blk.0.ffn_norm.weight", F32),
    ] {
        assert_eq!(recipe.outputs.iter().find(|o| o.name == name).unwrap().dtype, expected, "{name}");
    }
    assert_eq!(recipe.notes, ["2 tensors are f16: their rows do not fill whole blocks of 32"]);
}

#[test]
fn which_type_a_checkpoint_has() {
    use DType::{BF16, F16, F32, Q4K, Q6K, Q8_0};
    let llama = family("llama");
    let sizes = Sizes { hidden: 256, head_dim: 64, ..small() };
    // The GGUF's weights and its head, what is asked for → the checkpoint's weights, its head, its norms.
    for (weights, head, want, expected) in [
        (BF16, BF16, Want::Own, (BF16, BF16, (F32, Some(BF16)))),
        (F16, F16, Want::Own, (F16, F16, (F32, Some(F16)))),
        (F32, F32, Want::Own, (F32, F32, (F32, None))),
        (Q8_0, Q8_0, Want::Own, (BF16, BF16, (F32, Some(BF16)))),
        (Q4K, Q6K, Want::Own, (BF16, BF16, (F32, Some(BF16)))),
        (Q4K, F16, Want::Own, (F16, F16, (F32, Some(F16)))),
        (Q4K, F32, Want::Own, (BF16, F32, (F32, Some(BF16)))),
        (Q4K, Q6K, Want::Type(F16), (F16, F16, (F16, None))),
        (BF16, F32, Want::Type(F32), (F32, F32, (F32, None))),
    ] {
        let mut gguf = gguf_of(llama, &sizes);
        for (name, dtype, shape) in &mut gguf {
            if shape.len() > 1 {
                *dtype = if name == "output.weight" { head } else { weights };
            }
        }
        let recipe = to_hf(values(&gguf), llama, &sizes, &Meta::default(), want).unwrap();
        let of = |name: &str| recipe.outputs.iter().find(|o| o.name == name).unwrap();
        let norm = of("model.norm.weight");
        let weights_found = of("model.layers.0.mlp.up_proj.weight").dtype;
        let found = (weights_found, of("lm_head.weight").dtype, (norm.dtype, norm.narrow));
        assert_eq!(found, expected, "{weights} {head} {want:?}");
    }
    let gguf = values(&gguf_of(llama, &sizes));
    let error = to_hf(gguf, llama, &sizes, &Meta::default(), Want::Type(Q8_0)).unwrap_err();
    assert_eq!(error.kind(), Unsupported);
}

/// Rows of positions that GGUF leaves out are zeros again, and that is said.
#[test]
fn padded_positions_come_back_as_zeros() {
    let roberta = family("roberta");
    let sizes = small();
    let recipe = back(&gguf_of(roberta, &sizes), roberta, &sizes).unwrap();
    let output = recipe.outputs.iter().find(|o| o.name == "embeddings.position_embeddings.weight").unwrap();
    assert_eq!(output.shape, [ANY + 2, 10]);
    let zeros = &recipe.values[output.parts[0].value];
    let Source::Made(bytes) = &zeros.source else { panic!("made up") };
    assert!(bytes.len() == 2 * 10 * 4 && bytes.iter().all(|b| *b == 0));
    assert_eq!(recipe.notes.len(), 1);
    // A file that says that its padding token is the last of very many.
    let sizes = Sizes { pad_id: Some(u64::MAX), ..small() };
    assert!(back(&gguf_of(roberta, &sizes), roberta, &sizes).is_err());
}

/// More parts than a plan holds are refused before they are made; gate and up that take turns are one part, however
/// large.
#[test]
fn parts_are_bounded() {
    let gpt_oss = family("gpt_oss");
    let sizes = Sizes { hidden: 2880, heads: 64, kv_heads: 8, head_dim: 64, experts: Some(32), ..small() };
    let recipe = back(&gguf_of(gpt_oss, &sizes), gpt_oss, &sizes).unwrap();
    assert!(recipe.outputs.iter().all(|o| o.parts.len() == 1));
    let qwen = family("qwen3_moe");
    let sizes = Sizes { experts: Some(1 << 19), ..small() };
    let error = back(&gguf_of(qwen, &sizes), qwen, &sizes).unwrap_err();
    assert_eq!(error.kind(), Unsupported, "{error}");
    assert!(error.to_string().contains("pieces"), "{error}");
}
