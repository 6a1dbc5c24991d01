//! Which family a model is of, and that rows say each thing once; the factors of rotary embeddings.

use super::{family, hf_of, plain_config, small, values};
use crate::naive::testdata;
use hoist::checkpoint::{Meta, MetaValue};
use hoist::dtype::DType;
use hoist::error::ErrorKind::Unsupported;
use hoist::transform::arch::families::{Sizes, all, of_config, of_gguf};
use hoist::transform::arch::translate::{Want, to_gguf};
use hoist::transform::recipe::Source;
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;

#[test]
fn rotary_factors_are_torchs() {
    let golden: Json = serde_json::from_slice(&std::fs::read(testdata("golden/rope.json")).unwrap()).unwrap();
    let llama = family("llama");
    for case in golden["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let with = |kind: &str, theta: bool| {
            let mut scaling = json!({"factor": case["factor"], "low_freq_factor": case["low"],
                "high_freq_factor": case["high"], "original_max_position_embeddings": case["context"]});
            scaling[kind] = "llama3".into();
            if theta {
                scaling["rope_theta"] = case["rope_theta"].clone();
            }
            scaling
        };
        // Both dialects, and parameters for each type of layer.
        let dialects = [
            json!({"rope_theta": case["rope_theta"], "rope_scaling": with("type", false)}),
            json!({"rope_parameters": with("rope_type", true)}),
            json!({"rope_parameters": {"full_attention": with("rope_type", true), "sliding_attention": {}}}),
        ];
        for dialect in dialects {
            let sizes = Sizes { head_dim: case["head_dim"].as_u64().unwrap(), ..small() };
            let mut config = plain_config(llama);
            config.as_object_mut().unwrap().extend(dialect.as_object().unwrap().clone());
            let hf = values(&hf_of(llama, &sizes));
            let recipe = to_gguf(hf, llama, &sizes, &config, Want::Type(DType::F16)).unwrap();
            let first = &recipe.outputs[0];
            assert_eq!((first.name.as_str(), first.dtype), ("rope_freqs.weight", DType::F32), "{name}");
            let Source::Made(bytes) = &recipe.values[first.parts[0].value].source else { panic!("made") };
            let bits = bytes.chunks(4).map(|b| u64::from(u32::from_le_bytes(b.try_into().unwrap())));
            let bits: Vec<u64> = bits.collect();
            let expected: Vec<u64> =
                case["bits"].as_array().unwrap().iter().map(|b| b.as_u64().unwrap()).collect();
            assert_eq!(bits, expected, "{name}");
            assert_eq!(first.shape, [bits.len() as u64], "{name}");
        }
    }
}

#[test]
#[rustfmt::skip]
fn families_are_found() {
    for (config, expected) in [
        (json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}), Ok("llama")),
        (json!({"model_type": "mistral"}), Ok("mistral")),
        (json!({"architectures": ["MixtralForCausalLM"]}), Ok("mixtral")),
        (json!({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": {}}), Ok("gemma3_text")),
        (json!({"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "text_config": {"model_type": "qwen2"}}), Ok("qwen2")),
        (json!({"architectures": ["InternVLChatModel"], "llm_config": {"architectures": ["Qwen3ForCausalLM"]}}), Ok("qwen3")),
        (json!({"architectures": ["XLMRobertaForSequenceClassification"], "model_type": "xlm-roberta"}), Ok("xlm-roberta")),
        (json!({"architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama"}), Err("the nearest is `LlamaForCausalLM` (family `llama`)")),
        (json!({"architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl"}), Err("`Qwen2VLForConditionalGeneration` is of no known family")),
        (json!({"model_type": "qwen22"}), Err("the nearest is `qwen2`")),
        (json!({"model_type": "mamba"}), Err("known families: bert, ")),
        (json!({"architectures": ["\u{1b}[31m"]}), Err("`\\u{1b}[31m`")),
        (json!({"architectures": []}), Err("names neither a class")),
        (json!([]), Err("names neither a class")),
        (json!({"architectures": [7], "model_type": {}, "text_config": []}), Err("names neither a class")),
    ] {
        match (of_config(&config), expected) {
            (Ok(family), expected) => assert_eq!(Ok(family.name()), expected, "{config}"),
            (Err(e), Err(said)) => {
                assert_eq!(e.kind(), Unsupported);
                assert!(e.to_string().contains(said), "{said}: {e}");
            }
            (Err(e), Ok(_)) => panic!("{config}: {e}"),
        }
    }
    let meta = |entries: &[(&str, MetaValue)]| Meta {
        entries: entries.iter().map(|(k, v)| (k.to_string(), v.clone(), Default::default())).collect(),
    };
    let arch = |name: &str| ("general.architecture", MetaValue::from(name));
    for (entries, expected) in [
        (vec![arch("llama")], Some("llama")),
        (vec![arch("llama"), ("llama.expert_count", MetaValue::U32(8))], Some("mixtral")),
        (vec![arch("deepseek2")], Some("deepseek_v2")),
        (vec![arch("deepseek2"), ("deepseek2.expert_gating_func", MetaValue::U32(2))], Some("deepseek_v3")),
        (vec![arch("bert")], Some("bert")),
        (vec![arch("bert"), ("tokenizer.ggml.model", "t5".into())], Some("xlm-roberta")),
        (vec![arch("bert"), ("tokenizer.ggml.model", "gpt2".into())], Some("roberta")),
        (vec![arch("gpt-oss")], Some("gpt_oss")),
        (vec![arch("mamba")], None),
        (vec![], None),
        (vec![("general.architecture", MetaValue::U8(3))], None),
    ] {
        let found = of_gguf(&meta(&entries));
        assert_eq!(found.as_ref().ok().map(|f| f.name()), expected, "{entries:?}");
        assert!(found.is_ok() || found.unwrap_err().kind() == Unsupported);
    }
}

/// What families say of themselves is said once.
#[test]
fn families_are_sound() {
    let mut kinds = BTreeSet::new();
    let mut classes = BTreeSet::new();
    for family in all() {
        assert!(family.model_types.iter().all(|k| kinds.insert(*k)), "{}", family.name());
        assert!(family.architectures.iter().all(|c| classes.insert(*c)), "{}", family.name());
        for row in family.rows() {
            assert_eq!(row.gguf.contains('#'), row.hf.contains('#'), "{}: {}", family.name(), row.gguf);
            assert!(!row.dims.is_empty(), "{}: {}", family.name(), row.gguf);
        }
    }
}
