//! Configs that no pass can be made of, and those of published models, of which one can.

use super::{config, golden};
use crate::naive::testdata;
use hoist::error::ErrorKind;
use hoist::transform::arch::forward;
use serde_json::{Value, json};

/// Of decoders that are published, in the words that they are published with.
#[test]
fn published_configs_are_understood() {
    let text = std::fs::read(testdata("golden/keys.json")).unwrap();
    let keys: Value = serde_json::from_slice(&text).unwrap();
    let mut wrong = Vec::new();
    let decoder = |case: &&Value| !case["config"]["model_type"].as_str().unwrap_or_default().contains("bert");
    for case in keys["cases"].as_array().unwrap().iter().filter(decoder) {
        if let Err(e) = forward::of_config(&case["config"]) {
            wrong.push(format!("{}: {e}", case["name"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Kimi K2 is DeepSeek V3 under another name, with what that leaves to its class.
#[test]
fn one_class_under_two_names() {
    let golden = golden();
    let case = golden["cases"].as_array().unwrap().iter().find(|c| c["name"] == "DeepSeek V3").unwrap();
    let v3 = config(case);
    let mut kimi = v3.clone();
    kimi["model_type"] = json!("kimi_k2");
    assert_eq!(forward::of_config(&kimi).unwrap(), forward::of_config(&v3).unwrap());
}

#[test]
fn configs_that_nobody_can_compute_are_refused() {
    let base = |kind: &str, changes: Value| {
        let golden = golden();
        let cases = golden["cases"].as_array().unwrap();
        let case = cases.iter().find(|c| c["name"] == kind).unwrap_or_else(|| panic!("{kind}"));
        let mut config = config(case);
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        config
    };
    use ErrorKind::{BadInput, Unsupported};
    let llama = "families/llama";
    for (name, changes, kind, part) in [
        (llama, json!({"architectures": ["NoSuchModel"], "model_type": "no"}), Unsupported, "`NoSuchModel`"),
        (llama, json!({"model_type": "mistral"}), Unsupported, "`model_type` is `mistral`"),
        (llama, json!({"hidden_act": "xielu"}), Unsupported, "`hidden_act` is `xielu`"),
        (llama, json!({"num_hidden_layers": 4_000_000_000u64}), BadInput, "layers"),
        (llama, json!({"num_hidden_layers": 5000}), BadInput, "layers"),
        (llama, json!({"num_attention_heads": 4_294_967_295u64, "head_dim": 2}), BadInput, "heads"),
        (llama, json!({"head_dim": 4_294_967_295u64}), BadInput, "head"),
        (llama, json!({"head_dim": 1 << 30}), BadInput, "all heads"),
        (llama, json!({"head_dim": 1 << 20}), BadInput, "1048576 elements of a head are rotated"),
        (llama, json!({"head_dim": 7}), BadInput, "7 elements of a head are rotated"),
        (llama, json!({"num_key_value_heads": 3}), BadInput, "do not divide"),
        (llama, json!({"rms_norm_eps": -1.0}), BadInput, "`rms_norm_eps` is `-1`"),
        (llama, json!({"rms_norm_eps": null}), BadInput, "`rms_norm_eps`"),
        (llama, json!({"max_position_embeddings": "x"}), BadInput, "`max_position_embeddings`"),
        (llama, json!({"embedding_multiplier": 12.0}), Unsupported, "`embedding_multiplier`"),
        (llama, json!({"attn_logit_softcapping": 50.0}), Unsupported, "`attn_logit_softcapping`"),
        (llama, json!({"use_bidirectional_attention": true}), Unsupported, "`use_bidirectional_attention`"),
        (
            llama,
            json!({"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 4}),
            Unsupported,
            "layer_types",
        ),
        (
            llama,
            json!({"layer_types": ["full_attention", "linear_attention"]}),
            Unsupported,
            "list of types|layer_types",
        ),
        (llama, json!({"layer_types": ["full_attention"]}), BadInput, "`layer_types` has 1 entries"),
        (
            llama,
            json!({"rope_parameters": {"rope_type": "proportional", "rope_theta": 1e4}}),
            Unsupported,
            "`proportional`",
        ),
        (llama, json!({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}), BadInput, "factor"),
        (
            llama,
            json!({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 0}}),
            BadInput,
            "`factor`",
        ),
        (
            llama,
            json!({"rope_parameters": {"rope_type": "default", "rope_theta": 0}}),
            BadInput,
            "`rope_theta` 0",
        ),
        (
            llama,
            json!({"rope_parameters": {"rope_type": "default", "rope_theta": -5}}),
            BadInput,
            "`rope_theta` -5",
        ),
        (
            llama,
            json!({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1, "factor": 4}}),
            BadInput,
            "no scaling",
        ),
        (
            llama,
            json!({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4, "beta_fast": -3}}),
            BadInput,
            "no scaling",
        ),
        (
            llama,
            json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
            Unsupported,
            "partial_rotary_factor",
        ),
        (
            llama,
            json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mystery": 2}}),
            Unsupported,
            "mystery",
        ),
        (
            llama,
            json!({"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e5}}}),
            Unsupported,
            "one for all",
        ),
        (
            "longrope",
            json!({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0],
            "long_factor": [1.0], "original_max_position_embeddings": 64}}),
            BadInput,
            "`short_factor` has 1 numbers",
        ),
        ("families/mistral", json!({"sliding_window": 0}), BadInput, "`sliding_window` is `0`"),
        ("families/gemma2", json!({"sliding_window": null}), BadInput, "`sliding_window`"),
        (
            "families/gemma2",
            json!({"final_logit_softcapping": 0}),
            BadInput,
            "`final_logit_softcapping` is `0`",
        ),
        (
            "families/gemma2",
            json!({"use_bidirectional_attention": true}),
            Unsupported,
            "`use_bidirectional_attention`",
        ),
        ("families/gemma3", json!({"attn_logit_softcapping": 50.0}), Unsupported, "`attn_logit_softcapping`"),
        (
            "families/qwen2",
            json!({"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}),
            BadInput,
            "use_sliding_window",
        ),
        ("families/mixtral", json!({"num_experts_per_tok": 9}), BadInput, "`num_experts_per_tok` is `9`"),
        ("families/mixtral", json!({"num_experts_per_tok": 0}), BadInput, "`num_experts_per_tok` is `0`"),
        ("families/qwen3_moe", json!({"mlp_only_layers": [0]}), Unsupported, "`mlp_only_layers`"),
        ("families/qwen3_moe", json!({"decoder_sparse_step": 2}), Unsupported, "`decoder_sparse_step`"),
        ("families/smollm3", json!({"no_rope_layers": [1]}), BadInput, "`no_rope_layers` has 1 entries"),
        (
            "families/smollm3",
            json!({"no_rope_layers": null, "no_rope_layer_interval": 0}),
            BadInput,
            "no_rope_layer_interval",
        ),
        ("families/granite", json!({"logits_scaling": 0}), BadInput, "`logits_scaling` is `0`"),
        ("families/deepseek_v2", json!({"norm_topk_prob": true}), Unsupported, "`norm_topk_prob`"),
        (
            "families/deepseek_v2",
            json!({"topk_method": "noaux_tc"}),
            Unsupported,
            "`topk_method` is `noaux_tc`",
        ),
        (
            "families/deepseek_v2",
            json!({"topk_method": "group_limited_greedy", "n_group": 3}),
            BadInput,
            "`n_group` is `3`",
        ),
        ("families/deepseek_v2", json!({"num_key_value_heads": 1}), Unsupported, "num_key_value_heads"),
        ("families/deepseek_v3", json!({"scoring_func": "softmax"}), Unsupported, "`scoring_func`"),
        ("families/deepseek_v3", json!({"n_group": 0}), BadInput, "`n_group` is `0`"),
        ("families/deepseek_v3", json!({"moe_layer_freq": 2}), Unsupported, "`moe_layer_freq`"),
        ("families/gpt_oss", json!({"rope_parameters": null}), BadInput, "`rope_parameters`"),
        ("families/gpt_oss", json!({"hidden_act": "gelu"}), Unsupported, "`hidden_act`"),
        ("families/llama4", json!({"moe_layers": [9]}), BadInput, "`moe_layers` holds `9`"),
        (
            "families/llama4",
            json!({"moe_layers": null, "interleave_moe_layer_step": 0}),
            BadInput,
            "interleave_moe_layer_step",
        ),
        ("families/llama4", json!({"attention_chunk_size": null}), BadInput, "attention_chunk_size"),
        ("families/gpt2", json!({"add_cross_attention": true}), Unsupported, "`add_cross_attention`"),
    ] {
        match forward::of_config(&base(name, changes.clone())) {
            Ok(_) => panic!("{name} {changes}: {part}"),
            Err(e) => {
                assert_eq!(e.kind(), kind, "{name} {changes}: {e}");
                assert!(part.split('|').any(|part| e.to_string().contains(part)), "{name} {changes}: {e}");
            }
        }
    }
}

/// Whatever stands in a config, the answer is a description or an error.
#[test]
fn no_config_breaks_anything() {
    let hostile = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(3),
        json!(1e-300),
        json!(1e38),
        json!(4_294_967_295u64),
        json!(u64::MAX),
        json!("x"),
        json!([]),
        json!([0, 1, 1e9, "full_attention"]),
        json!({}),
        json!({"full_attention": {"rope_type": "yarn"}, "sliding_attention": null}),
        json!({"rope_type": "dynamic", "factor": 1e38, "rope_theta": 1e38}),
    ];
    /// Every place in a value, as pointers.
    fn places(value: &Value, at: &str, out: &mut Vec<String>) {
        for (key, inner) in value.as_object().into_iter().flatten() {
            let here = format!("{at}/{key}");
            places(inner, &here, out);
            out.push(here);
        }
    }
    let more = [
        "layer_types",
        "no_rope_layers",
        "moe_layers",
        "sliding_window",
        "partial_rotary_factor",
        "rope_scaling",
    ];
    let golden = golden();
    for case in golden["cases"].as_array().unwrap() {
        let mut config = config(case);
        for key in more {
            config.as_object_mut().unwrap().entry(key).or_insert(Value::Null);
        }
        let mut all = Vec::new();
        places(&config, "", &mut all);
        for place in &all {
            for value in &hostile {
                let mut config = config.clone();
                *config.pointer_mut(place).unwrap() = value.clone();
                if let Ok(found) = forward::of_config(&config) {
                    assert!(found.layers.len() <= 4096 && found.ropes.len() <= 2, "{place} {value}");
                    let numbers = found.ropes.iter().flat_map(|r| &r.inverse_frequencies);
                    assert!(numbers.copied().all(f32::is_finite), "{place} {value}");
                }
            }
        }
    }
}
