//! Keys of a GGUF from a config, and a config from keys: what llama.cpp's converter writes for the same config, and what
//! transformers needs to compute the same again.

use crate::naive::testdata;
use hoist::checkpoint::{Meta, MetaArray, MetaKind, MetaValue};
use hoist::dtype::DType;
use hoist::transform::arch::keys::back::Weights;
use hoist::transform::arch::keys::{
    Configs, Extra, Keys, Parameters, Pooling, file_type, to_config, to_gguf,
};
use hoist::{ErrorKind, Result};
use serde_json::{Map, Value, json};

/// One case of `golden/keys.json`.
struct Case {
    json: Value,
}

impl Case {
    fn name(&self) -> &str {
        self.json["name"].as_str().unwrap()
    }

    fn keys(&self) -> Result<Keys> {
        let n = |i: usize| self.json["parameters"][i].as_u64().unwrap();
        let mut parameters = Parameters::default();
        (parameters.total, parameters.shared) = (n(0), n(1));
        (parameters.expert, parameters.expert_count) = (n(2), n(3));
        let pooling = self.json.get("pooling").map(|pooling| Pooling::from_config(pooling).unwrap());
        let extra = Extra {
            name: self.name(),
            vocab_rows: self.json["vocab_rows"].as_u64().unwrap(),
            parameters,
            file_type: self.json["file_type"].as_u64().unwrap() as u32,
            prediction_layers: 0,
            pooling,
            generation_config: self.json.get("generation"),
            model_card: self.json.get("card").and_then(Value::as_str),
        };
        to_gguf(self.json["arch"].as_str().unwrap(), &self.json["config"], &extra)
    }
}

fn cases() -> Vec<Case> {
    let text = std::fs::read(testdata("golden/keys.json")).unwrap();
    let json: Value = serde_json::from_slice(&text).unwrap();
    json["cases"].as_array().unwrap().iter().map(|json| Case { json: json.clone() }).collect()
}

/// A value as the golden has it: gguf-py's name of the type, and the value.
fn golden_form(value: &MetaValue) -> (String, Value) {
    let of = |kind: &str, value: Value| (kind.to_owned(), value);
    match value {
        MetaValue::U32(n) => of("uint32", json!(n)),
        MetaValue::I32(n) => of("int32", json!(n)),
        MetaValue::F32(x) => of("float32", json!(f64::from(*x))),
        MetaValue::Bool(b) => of("bool", json!(b)),
        MetaValue::Text(text) => of("string", json!(std::str::from_utf8(text).unwrap())),
        MetaValue::Array(array) => {
            let kind = match array.kind {
                MetaKind::I32 => "array int",
                MetaKind::Bool => "array bool",
                MetaKind::Text => "array str",
                other => panic!("{other:?}"),
            };
            (kind.to_owned(), array.items().map(|item| golden_form(&item).1).collect())
        }
        other => panic!("{other:?}"),
    }
}

fn golden_list(keys: &Keys) -> Vec<Value> {
    keys.entries
        .iter()
        .map(|(key, value)| {
            let (kind, value) = golden_form(value);
            json!([key, kind, value])
        })
        .collect()
}

#[test]
fn keys_are_the_reference_converters() {
    let mut wrong = Vec::new();
    for case in cases() {
        let ours = match case.keys() {
            Ok(keys) => golden_list(&keys),
            Err(error) => {
                wrong.push(format!("{}: {error}", case.name()));
                continue;
            }
        };
        let theirs = case.json["expected"].as_array().unwrap();
        let missing = theirs
            .iter()
            .filter(|row| !ours.contains(row))
            .map(|row| format!("{}: lacks {row}", case.name()));
        wrong.extend(missing);
        let more =
            ours.iter().filter(|row| !theirs.contains(row)).map(|row| format!("{}: has {row}", case.name()));
        wrong.extend(more);
        if ours != *theirs && wrong.is_empty() {
            let keys =
                |rows: &[Value]| rows.iter().map(|row| row[0].to_string()).collect::<Vec<_>>().join(" ");
            wrong.push(format!("{}: order\n  {}\n  {}", case.name(), keys(&ours), keys(theirs)));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The divisors of rotary frequencies that llama3's scaling means, as `LlamaModel` of the reference computes them.
fn rope_freqs(rope: &Value, theta: f64, head_dim: usize) -> Vec<f32> {
    let number = |key: &str| rope[key].as_f64().unwrap();
    let (factor, old) = (number("factor"), number("original_max_position_embeddings"));
    let (low, high) = (number("low_freq_factor"), number("high_freq_factor"));
    let divisor = |i: usize| {
        let wave = std::f64::consts::TAU * theta.powf(2.0 * i as f64 / head_dim as f64);
        if wave < old / high {
            1.0
        } else if wave > old / low {
            factor
        } else {
            let smooth = (old / wave - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    (0..head_dim / 2).map(|i| divisor(i) as f32).collect()
}

fn meta_of(entries: &[(String, MetaValue)]) -> Meta {
    Meta { entries: entries.iter().map(|(k, v)| (k.clone(), v.clone(), Default::default())).collect() }
}

/// The config that keys become; `tensors` are names with shapes, `values` names with values.
fn back(meta: &Meta, tensors: &[(&str, &[u64])], values: &[(&str, Vec<f32>)]) -> Result<Configs> {
    let shape = |name: &str| tensors.iter().find(|(n, _)| *n == name).map(|(_, shape)| shape.to_vec());
    let values = |name: &str| Ok(values.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone()));
    to_config(meta, Weights { shape: &shape, values: &values }, DType::BF16)
}

/// Keys, the config they become, and its keys again: the same, whatever dialect the first config was in.
#[test]
fn keys_survive_a_config() {
    let mut wrong = Vec::new();
    for case in cases() {
        let keys = case.keys().unwrap();
        let mut meta = meta_of(&keys.entries);
        let arch = case.json["arch"].as_str().unwrap().to_owned();
        let text = case.json["config"].get("text_config").unwrap_or(&case.json["config"]);
        let tokenizer = match text["model_type"].as_str().unwrap() {
            "bert" => "bert",
            "xlm-roberta" => "t5",
            "roberta" => "gpt2",
            _ => "none",
        };
        meta.entries.push(("tokenizer.ggml.model".to_owned(), tokenizer.into(), Default::default()));
        let get = |suffix: &str| meta.get(&format!("{arch}.{suffix}")).cloned();
        let rows = case.json["vocab_rows"].as_u64().unwrap();
        let hidden = get("embedding_length").and_then(|v| v.as_u64()).unwrap();
        let mut tensors: Vec<(&str, &[u64])> = Vec::new();
        let embedding = [rows, hidden];
        tensors.push(("token_embd.weight", &embedding));
        let scaling = &text["rope_scaling"];
        let theta = text["rope_theta"].as_f64().unwrap_or(1e4);
        let mut values = Vec::new();
        if scaling["rope_type"] == "llama3" {
            values.push(("rope_freqs.weight", rope_freqs(scaling, theta, 128)));
        }
        for (key, name) in
            [("long_factor", "rope_factors_long.weight"), ("short_factor", "rope_factors_short.weight")]
        {
            if let Some(list) = scaling[key].as_array() {
                values.push((name, list.iter().map(|x| x.as_f64().unwrap() as f32).collect()));
            }
        }
        let result = back(&meta, &tensors, &values).and_then(|configs| {
            let mut json = case.json.clone();
            json["config"] = configs.config;
            // The name says what the first config's own name said.
            if let Some(name) = case.json["config"].get("_name_or_path") {
                json["config"]["_name_or_path"] = name.clone();
            }
            let again = Case { json };
            Ok((again.json["config"].clone(), again.keys()?))
        });
        match result {
            Err(error) => wrong.push(format!("{}: {error}", case.name())),
            Ok((config, again)) if golden_list(&again) != golden_list(&keys) => {
                let (again, keys) = (golden_list(&again), golden_list(&keys));
                let lost: Vec<_> = keys.iter().filter(|row| !again.contains(row)).collect();
                let new: Vec<_> = again.iter().filter(|row| !keys.contains(row)).collect();
                wrong.push(format!("{}: lost {lost:?}, new {new:?}, from {config}", case.name()));
            }
            Ok(_) => {}
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

const EXTRA: Extra<'static> = Extra {
    name: "model",
    vocab_rows: 512,
    parameters: PARAMETERS,
    file_type: 1,
    prediction_layers: 0,
    pooling: None,
    generation_config: None,
    model_card: None,
};

const PARAMETERS: Parameters = Parameters::NONE;

/// A small llama with these keys changed; `null` removes one.
fn llama(changes: Value) -> Value {
    let mut config = json!({"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
        "vocab_size": 512});
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// A key about rotary embeddings that changes what is computed is carried over or refused, in both dialects.
#[test]
fn no_rope_key_is_lost() {
    for (arch, changes, key) in [
        (
            "llama",
            json!({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "beta_fast": 1}}),
            "rope_scaling.beta_fast",
        ),
        (
            "llama",
            json!({"rope_parameters": {"rope_type": "default", "mscale": 2.0}}),
            "rope_parameters.mscale",
        ),
        (
            "llama",
            json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}),
            "partial_rotary_factor",
        ),
        ("llama", json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
        ("llama", json!({"rotary_dim": 8}), "rotary_dim"),
        ("llama", json!({"rope_scaling_factor": 4.0}), "rope_scaling_factor"),
        ("llama", json!({"text_config": {"rope_ratio": 4.0}}), "rope_ratio"),
        (
            "llama",
            json!({"rope_parameters": {"full_attention": {"rope_theta": 1e4}, "other": {"rope_theta": 1e6}}}),
            "rope_parameters.other",
        ),
        (
            "llama",
            json!({"rope_parameters": {"full_attention": {"x": 1}}}),
            "rope_parameters.full_attention.x",
        ),
        (
            "llama",
            json!({"rope_parameters": {"full_attention": {"rope_theta": 1e4}, "sliding_attention": {"rope_theta": 1e6}}}),
            "window",
        ),
        ("llama", json!({"rope_local_base_freq": 1e6}), "window"),
        (
            "llama",
            json!({"rope_scaling": {"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]}}),
            "longrope",
        ),
        ("llama", json!({"rope_scaling": {"type": "new"}}), "`new`"),
        (
            "qwen2",
            json!({"rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}}),
            "llama3",
        ),
        (
            "gemma2",
            json!({"head_dim": 16, "sliding_window": 8, "rope_parameters": {"rope_type": "default", "x": 1},
            "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}),
            "rope_parameters.x",
        ),
        (
            "phi3",
            json!({"original_max_position_embeddings": 64, "rope_scaling": {"type": "longrope", "long_factor": [1.0],
            "short_factor": [1.0], "long_mscale": 1.5}}),
            "rope_scaling.long_mscale",
        ),
        (
            "phi3",
            json!({"original_max_position_embeddings": 64, "rope_scaling": {"type": "linear", "factor": 2}}),
            "linear",
        ),
    ] {
        let error = to_gguf(arch, &llama(changes.clone()), &EXTRA).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{changes}: {error}");
        assert!(error.to_string().contains(key), "{changes}: {error}");
    }
    // What says nothing may stay unread.
    for changes in [
        json!({"rope_scaling": null, "rope_parameters": {}, "partial_rotary_factor": 1.0, "rope_ratio": 1}),
        json!({"rope_scaling": {"type": "default"}}),
        json!({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e4, "rope_type": "default", "factor": null}}),
        json!({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"type": "linear", "factor": 2.0}}),
        json!({"qk_rope_head_dim": 4, "hidden_dropout_prob": 0.1, "use_mrope": false, "no_rope_layers": []}),
    ] {
        to_gguf("llama", &llama(changes), &EXTRA).unwrap();
    }
}

/// What an engine computes otherwise is refused, or noted where it shows only in some use.
#[test]
fn what_has_no_key_is_said() {
    let gemma = json!({"head_dim": 16, "sliding_window": 8, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0,
        "query_pre_attn_scalar": 16, "hidden_activation": "gelu_pytorch_tanh"});
    let with = |base: &Value, changes: Value| {
        let mut base = base.clone();
        base.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        llama(base)
    };
    let layers = |n: usize, period: usize| -> Value {
        (1..=n).map(|i| if i % period == 0 { "full_attention" } else { "sliding_attention" }).collect()
    };
    for (arch, config, part) in [
        ("llama", llama(json!({"hidden_act": "relu"})), "`relu`"),
        ("gemma2", with(&gemma, json!({"attn_logit_softcapping": null})), "`attn_logit_softcapping` is off"),
        (
            "gemma2",
            with(&gemma, json!({"layer_types": ["full_attention", "full_attention", "sliding_attention"]})),
            "layer_types",
        ),
        ("gemma3", with(&gemma, json!({})), "attn_logit_softcapping"),
        ("granite", llama(json!({"head_dim": 32})), "head_dim"),
        ("smollm3", llama(json!({"no_rope_layer_interval": 3})), "no_rope_layers"),
        (
            "qwen3moe",
            llama(json!({"moe_intermediate_size": 8, "decoder_sparse_step": 2})),
            "decoder_sparse_step",
        ),
        (
            "bert",
            llama(json!({"hidden_act": "gelu", "position_embedding_type": "relative_key"})),
            "position_embedding_type",
        ),
        ("unheard-of", llama(json!({})), "unheard-of"),
    ] {
        let error = to_gguf(arch, &config, &EXTRA).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    for (arch, config, part) in [
        ("llama", with(&json!({}), json!({"model_type": "mistral", "sliding_window": 64})), "window of 64"),
        ("llama", llama(json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}})), "dynamic"),
        ("gemma2", with(&gemma, json!({"query_pre_attn_scalar": 24})), "query_pre_attn_scalar"),
        ("qwen3moe", llama(json!({"moe_intermediate_size": 8, "norm_topk_prob": false})), "norm_topk_prob"),
    ] {
        let notes = to_gguf(arch, &config, &EXTRA).unwrap().notes;
        assert!(notes.iter().any(|note| note.contains(part)), "{part}: {notes:?}");
    }
    // A period that is not the usual one has a key; one that layers are too few to show has none.
    for (changes, pattern) in [
        (json!({"num_hidden_layers": 8, "layer_types": layers(8, 4)}), Some(MetaValue::U32(4))),
        (json!({"num_hidden_layers": 8, "layer_types": layers(8, 2)}), None),
        (json!({"num_hidden_layers": 1, "layer_types": layers(1, 2)}), None),
    ] {
        let keys = to_gguf("gemma2", &with(&gemma, changes), &EXTRA).unwrap();
        let found = keys.entries.iter().find(|(key, _)| key == "gemma2.attention.sliding_window_pattern");
        assert_eq!(found.map(|(_, value)| value.clone()), pattern);
    }
}

/// Where the reference converter leaves a key out or makes it up, and a model would compute something else.
#[test]
fn keys_that_the_reference_gets_wrong() {
    let gpt2 = json!({"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 32, "n_inner": 96});
    // transformers' class for V3 chooses experts by a sigmoid and does not write so; an engine would take the softmax.
    let v3 = llama(json!({"model_type": "deepseek_v3", "n_routed_experts": 4, "num_experts_per_tok": 2,
        "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "q_lora_rank": 8}));
    let phi3 = llama(json!({"model_type": "phi3", "original_max_position_embeddings": 64, "rope_scaling": {
        "type": "longrope", "long_factor": [2.0], "short_factor": [1.0], "attention_factor": 1.25}}));
    let gemma2 = llama(
        json!({"model_type": "gemma2", "head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16,
        "rope_theta": 20000.0}),
    );
    for (arch, config, key, value) in [
        ("gpt2", gpt2.clone(), "gpt2.feed_forward_length", MetaValue::U32(96)),
        ("gpt2", gpt2, "gpt2.context_length", MetaValue::U32(32)),
        ("deepseek2", v3, "deepseek2.expert_gating_func", MetaValue::U32(2)),
        ("phi3", phi3, "phi3.rope.scaling.attn_factor", MetaValue::F32(1.25)),
        ("gemma2", gemma2, "gemma2.rope.freq_base", MetaValue::F32(20000.0)),
    ] {
        let keys = to_gguf(arch, &config, &EXTRA).unwrap();
        let found = keys.entries.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone());
        assert_eq!(found, Some(value), "{key}");
    }
}

#[test]
fn damaged_configs_are_refused_by_key() {
    for (config, part) in [
        (json!([]), "is not a JSON object"),
        (json!({"text_config": 3}), "`text_config`"),
        (llama(json!({"model_type": 7})), "`model_type`"),
        (llama(json!({"num_hidden_layers": null})), "`num_hidden_layers`"),
        (llama(json!({"num_hidden_layers": -1})), "`num_hidden_layers` is `-1` where a count is needed"),
        (llama(json!({"num_hidden_layers": "2"})), "`num_hidden_layers` is `2`"),
        (llama(json!({"hidden_size": 1e300})), "`hidden_size`"),
        (llama(json!({"hidden_size": 64.5})), "`hidden_size`"),
        (llama(json!({"hidden_size": 4294967296u64})), "`hidden_size`"),
        (llama(json!({"intermediate_size": [1, "x"]})), "`intermediate_size`"),
        (llama(json!({"num_attention_heads": 0})), "`num_attention_heads` is `0`"),
        (llama(json!({"rms_norm_eps": "\u{1b}[31m"})), "`rms_norm_eps` is `\\u{1b}[31m`"),
        (llama(json!({"rms_norm_eps": 1e300})), "`rms_norm_eps`"),
        (llama(json!({"is_causal": 1})), "`is_causal`"),
        (llama(json!({"rope_scaling": [1]})), "`rope_scaling`"),
        (llama(json!({"rope_scaling": {"type": 1}})), "`rope_scaling.type`"),
        (llama(json!({"rope_scaling": {"type": "linear"}})), "`rope_scaling.factor`"),
        (llama(json!({"rope_scaling": {"type": "linear", "factor": "x"}})), "`rope_scaling.factor`"),
        (
            llama(
                json!({"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {"type": "yarn"}}),
            ),
            "differ",
        ),
        (
            llama(json!({"rope_parameters": {"full_attention": {"rope_theta": []}}})),
            "`rope_parameters.full_attention.rope_theta`",
        ),
        (llama(json!({"rope_theta": {}})), "`rope_theta`"),
        (llama(json!({"hidden_act": 1})), "`hidden_act`"),
    ] {
        let error = to_gguf("llama", &config, &EXTRA).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadInput, "{config}: {error}");
        assert_eq!(error.file_name(), Some("config.json"), "{error}");
        assert!(error.to_string().contains(part), "{config}: {error}");
    }
}

#[test]
fn damaged_keys_are_refused_by_name() {
    let text = |s: &str| MetaValue::from(s);
    let good = || {
        let keys = to_gguf("llama", &llama(json!({})), &EXTRA).unwrap();
        keys.entries.into_iter().collect::<Vec<_>>()
    };
    let shapes: &[(&str, &[u64])] = &[("token_embd.weight", &[512, 64])];
    let changed = |key: &str, value: Option<MetaValue>| {
        let mut entries = good();
        entries.retain(|(k, _)| k != key);
        entries.extend(value.map(|value| (key.to_owned(), value)));
        back(&meta_of(&entries), shapes, &[])
    };
    changed("none", None).unwrap();
    for (key, value, part, kind) in [
        ("general.architecture", None, "general.architecture", ErrorKind::BadInput),
        ("general.architecture", Some(text("\u{1b}")), "\\u{1b}", ErrorKind::Unsupported),
        ("llama.block_count", None, "llama.block_count", ErrorKind::BadInput),
        ("llama.block_count", Some(text("x")), "llama.block_count", ErrorKind::BadInput),
        ("llama.block_count", Some(MetaValue::U32(u32::MAX)), "llama.block_count", ErrorKind::BadInput),
        ("llama.nextn_predict_layers", Some(MetaValue::U32(9)), "llama.block_count", ErrorKind::BadInput),
        (
            "llama.attention.head_count",
            Some(MetaValue::I32(-4)),
            "llama.attention.head_count",
            ErrorKind::BadInput,
        ),
        ("llama.rope.freq_base", Some(MetaValue::F32(f32::NAN)), "llama.rope.freq_base", ErrorKind::BadInput),
        ("llama.rope.scaling.type", Some(text("new")), "`new`", ErrorKind::Unsupported),
        (
            "llama.rope.scaling.new",
            Some(MetaValue::F32(2.0)),
            "llama.rope.scaling.new",
            ErrorKind::Unsupported,
        ),
        ("llama.rope.dimension_count", Some(MetaValue::U32(8)), "rotates 8", ErrorKind::Unsupported),
        ("llama.attention.value_length", Some(MetaValue::U32(8)), "value_length", ErrorKind::Unsupported),
    ] {
        let error = changed(key, value).unwrap_err();
        assert!(error.to_string().contains(part), "{key}: {error}");
        assert_eq!(error.kind(), kind, "{key}: {error}");
    }
    let notes = changed("llama.unheard_of", Some(MetaValue::U8(1))).unwrap().notes;
    assert_eq!(notes, ["the key `llama.unheard_of` has no place in config.json"]);
    let error = back(&meta_of(&good()), &[], &[]);
    // The number of rows is in a key, too, so the tensor may be absent.
    assert_eq!(error.unwrap().config["vocab_size"], 512);
    for divisors in [vec![], vec![f32::NAN; 8], vec![0.5; 8], vec![1.0, 7.0, 2.0, 3.0, 1.0, 9.0, 1.0, 4.0]] {
        let error = back(&meta_of(&good()), shapes, &[("rope_freqs.weight", divisors)]).unwrap_err();
        assert_eq!(error.tensor_name(), Some("rope_freqs.weight"), "{error}");
    }
}

/// What older converters wrote otherwise, and what a config says without a row.
#[test]
fn keys_of_all_times_become_a_config() {
    let keys = to_gguf("llama", &llama(json!({})), &EXTRA).unwrap();
    for (key, value, name, expected) in [
        (
            "rope.scale_linear",
            MetaValue::F32(4.0),
            "rope_parameters",
            json!({"rope_theta": 1e4, "rope_type": "linear", "factor": 4.0}),
        ),
        (
            "rope.scaling.factor",
            MetaValue::F32(1.0),
            "rope_parameters",
            json!({"rope_theta": 1e4, "rope_type": "default"}),
        ),
        (
            "rope.scaling.original_context_length",
            MetaValue::U32(64),
            "rope_parameters",
            json!({"rope_theta": 1e4, "rope_type": "default"}),
        ),
        ("attention.causal", MetaValue::Bool(false), "is_causal", json!(false)),
        ("attention.layer_norm_rms_epsilon", MetaValue::F32(1e-6), "rms_norm_eps", json!(1e-6)),
        (
            "attention.head_count",
            MetaValue::Array(MetaArray::of_i32(&[4, 4])),
            "num_attention_heads",
            json!(4),
        ),
        (
            "feed_forward_length",
            MetaValue::Array(MetaArray::of_i32(&[8, 16])),
            "intermediate_size",
            json!([8, 16]),
        ),
    ] {
        let mut meta = meta_of(&keys.entries);
        let key = format!("llama.{key}");
        meta.entries.retain(|(k, ..)| *k != key);
        meta.entries.push((key.clone(), value, Default::default()));
        let found = back(&meta, &[("output.weight", &[512, 64])], &[]).unwrap().config;
        assert_eq!(found[name], expected, "{key}");
        assert_eq!(found["tie_word_embeddings"], false);
    }
    let mut meta = meta_of(&keys.entries);
    for (key, value) in [
        ("tokenizer.ggml.bos_token_id", MetaValue::U32(1)),
        ("tokenizer.ggml.eos_token_id", MetaValue::U32(2)),
        ("tokenizer.ggml.eot_token_id", MetaValue::U32(9)),
        ("tokenizer.ggml.padding_token_id", MetaValue::U32(512)),
        ("general.sampling.temp", MetaValue::F32(0.6)),
        ("general.sampling.top_k", MetaValue::I32(20)),
    ] {
        meta.entries.push((key.to_owned(), value, Default::default()));
    }
    let configs = back(&meta, &[("token_embd.weight", &[512, 64])], &[]).unwrap();
    assert_eq!(configs.config["eos_token_id"], 2);
    // An id beyond the vocabulary is none.
    assert_eq!(configs.config["pad_token_id"], Value::Null);
    let expected = json!({"bos_token_id": 1, "eos_token_id": [2, 9], "top_k": 20, "temperature": 0.6, "do_sample": true});
    assert_eq!(configs.generation.unwrap(), expected);
}

/// The scaling of llama3 comes back from its divisors: as it was, or with other numbers that mean the same.
#[test]
fn llama3_scaling_comes_back() {
    let keys = to_gguf("llama", &llama(json!({"rope_theta": 500000.0, "hidden_size": 512})), &EXTRA).unwrap();
    for (factor, low, high, old, same) in [
        (8.0, 1.0, 4.0, 8192, true),
        (32.0, 1.0, 4.0, 8192, true),
        (4.0, 1.0, 4.0, 64, true),
        (16.0, 1.0, 1.0, 8192, true),
        (8.0, 1.5, 6.0, 4000, false),
    ] {
        let said = json!({"factor": factor, "low_freq_factor": low, "high_freq_factor": high,
            "original_max_position_embeddings": old, "rope_theta": 500000.0, "rope_type": "llama3"});
        let divisors = rope_freqs(&said, 500000.0, 128);
        let values = [("rope_freqs.weight", divisors.clone())];
        let found = back(&meta_of(&keys.entries), &[], &values).unwrap().config["rope_parameters"].clone();
        if same {
            let (found, said): (Map<_, _>, Map<_, _>) =
                (found.as_object().unwrap().clone(), said.as_object().unwrap().clone());
            for (key, value) in &said {
                assert_eq!(found[key].as_f64(), value.as_f64(), "{key}");
            }
        }
        for (a, b) in rope_freqs(&found, 500000.0, 128).iter().zip(&divisors) {
            assert!((a - b).abs() <= 1e-5 * b, "{found}: {a} {b}");
        }
    }
}

#[test]
fn types_of_files() {
    // llama.cpp's `llama_ftype`.
    for (dtype, id) in [
        (DType::F32, Some(0)),
        (DType::F16, Some(1)),
        (DType::BF16, Some(32)),
        (DType::Q8_0, Some(7)),
        (DType::MXFP4, Some(38)),
        (DType::I32, None),
        (DType::F64, None),
    ] {
        assert_eq!(file_type(dtype), id);
    }
}

/// Counts as gguf-py's `get_total_parameter_count` has them.
#[test]
fn parameters_are_counted() {
    let mut counts = Parameters::default();
    for (name, shape) in [
        ("token_embd.weight", &[512, 64][..]),
        ("blk.0.ffn_up_exps.weight", &[4, 32, 64]),
        ("blk.0.ffn_up_exps.bias", &[4, 32]),
        ("blk.1.ffn_up_exps.weight", &[6, 32, 64]),
        ("blk.1.ffn_down_exps.weight", &[0, 32, 64]),
    ] {
        counts.add(name, shape);
    }
    let shared = 512 * 64 + 4 * 32;
    assert_eq!((counts.total, counts.shared), (shared + 10 * 32 * 64, shared));
    assert_eq!((counts.expert, counts.expert_count), (2 * 32 * 64, 5));
}
