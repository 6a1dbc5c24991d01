//! Both sides of every list of names.

use super::{Tensor, sorted, tensors, values};
use crate::naive::testdata;
use hoist::checkpoint::{Meta, MetaValue};
use hoist::dtype::DType;
use hoist::error::ErrorKind::Unsupported;
use hoist::transform::arch::families::{Sizes, of_config, of_gguf};
use hoist::transform::arch::translate::{Want, to_gguf, to_hf};
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};

/// One list of `testdata/names/` that has both sides.
struct List {
    file: String,
    family: String,
    hf: Vec<Tensor>,
    gguf: Vec<Tensor>,
    meta: Meta,
}

fn lists() -> Vec<List> {
    let mut paths: Vec<_> =
        std::fs::read_dir(testdata("names")).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    let read = |path: &std::path::PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        let mut sections: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let mut section = "";
        for line in text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
            match line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                Some(name) => section = name,
                None => sections.entry(section).or_default().push(line),
            }
        }
        let tensors = |section: &str| {
            let line = |line: &&str| {
                let words: Vec<_> = line.split(' ').collect();
                let shape = words[2].split('x').filter(|d| !d.is_empty()).map(|d| d.parse().unwrap());
                (words[0].to_owned(), DType::from_user(words[1]).unwrap(), shape.collect())
            };
            sections.get(section).into_iter().flatten().map(line).collect()
        };
        let mut meta = Meta::default();
        for line in sections.get("keys")? {
            let (key, value) = line.split_once(' ').unwrap();
            let value = value.parse().map_or_else(|_| MetaValue::from(value), MetaValue::U32);
            meta.entries.push((key.to_owned(), value, Default::default()));
        }
        let file = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let family = sections["family"][0].to_owned();
        Some(List { file, family, hf: tensors("hf"), gguf: tensors("gguf"), meta })
    };
    paths.iter().filter_map(read).collect()
}

/// The config that a list's keys are the facts of.
fn config(list: &List) -> Json {
    let arch = list.meta.get("general.architecture").unwrap().as_str().unwrap();
    let key = |name: &str| list.meta.get(&format!("{arch}.{name}")).and_then(MetaValue::as_u64);
    let mut config = json!({"model_type": list.family});
    let latent = key("attention.key_length_mla");
    for (name, value) in [
        ("num_hidden_layers", key("block_count")),
        ("hidden_size", key("embedding_length")),
        ("num_attention_heads", key("attention.head_count")),
        ("num_key_value_heads", key("attention.head_count_kv")),
        ("head_dim", key("attention.key_length")),
        ("num_local_experts", key("expert_count")),
        ("kv_lora_rank", key("attention.kv_lora_rank")),
        ("qk_rope_head_dim", latent.and(key("rope.dimension_count"))),
        ("qk_nope_head_dim", latent.map(|k| k - key("rope.dimension_count").unwrap())),
        ("v_head_dim", key("attention.value_length_mla")),
        ("pad_token_id", list.meta.get("tokenizer.ggml.padding_token_id").and_then(MetaValue::as_u64)),
    ] {
        if let Some(value) = value {
            config[name] = value.into();
        }
    }
    config["tie_word_embeddings"] = (!list.hf.iter().any(|t| t.0 == "lm_head.weight")).into();
    if list.gguf.iter().any(|t| t.0 == "rope_freqs.weight") {
        config["rope_scaling"] = json!({"rope_type": "llama3"});
    }
    config
}

const LAYER_WORDS: [&str; 4] = ["layers", "layer", "blk", "h"];

fn layer_of(name: &str) -> Option<u64> {
    let mut words = name.split('.');
    words.find(|w| LAYER_WORDS.contains(w))?;
    words.next()?.parse().ok()
}

/// All layers and experts of a list that leaves out those that are like another.
fn whole(tensors: &[Tensor], layers: u64, experts: u64) -> Vec<Tensor> {
    let with = |name: &str, word: &str, from: u64, to: u64| {
        name.replacen(&format!("{word}.{from}."), &format!("{word}.{to}."), 1)
    };
    // Lists show whole kinds of layers from layer 0 on; gemma3's shows more of the same kind.
    let shown: BTreeSet<u64> = tensors.iter().filter_map(|t| layer_of(&t.0)).collect();
    let kinds = (0..).take_while(|n| shown.contains(n)).count() as u64;
    let mut out = Vec::new();
    for (name, dtype, shape) in tensors {
        let copies: Vec<String> = match layer_of(name) {
            None => vec![name.clone()],
            Some(n) if n >= kinds => vec![],
            Some(n) => {
                let here = |w: &&&str| format!(".{name}").contains(&format!(".{w}.{n}."));
                let word = LAYER_WORDS.iter().find(here).unwrap();
                (n..layers).step_by(kinds as usize).map(|to| with(name, word, n, to)).collect()
            }
        };
        for name in copies {
            match name.contains("experts.0.") {
                true => {
                    out.extend((0..experts).map(|e| (with(&name, "experts", 0, e), *dtype, shape.clone())))
                }
                false => out.push((name, *dtype, shape.clone())),
            }
        }
    }
    out
}

/// Lists of families that have no rows yet.
const WITHOUT_ROWS: &[&str] = &["falcon", "gemma", "gptneox"];

#[test]
fn both_sides_of_every_list() {
    let lists = lists();
    assert!(lists.len() > 20);
    for list in &lists {
        let config = config(list);
        let Ok(family) = of_config(&config) else {
            assert!(WITHOUT_ROWS.contains(&list.file.as_str()), "{}", list.file);
            continue;
        };
        let file = &list.file;
        let sizes = Sizes::of_config(&config).unwrap();
        let experts = sizes.experts.unwrap_or(0);
        let hf = whole(&list.hf, sizes.layers, experts);
        let gguf = whole(&list.gguf, sizes.layers, experts);

        let recipe = to_gguf(values(&hf), family, &sizes, &config, Want::Type(DType::BF16)).unwrap();
        assert_eq!(sorted(tensors(&recipe)), sorted(gguf.clone()), "{file}");
        if list.hf.len() == hf.len() {
            assert_eq!(tensors(&recipe), gguf, "{file}: the reference's order");
        }

        let back = of_gguf(&list.meta).unwrap();
        let same = back.name() == family.name() || family.name() == "mistral";
        assert!(back.gguf == family.gguf && same, "{file}");
        let sizes = Sizes::of_gguf(&list.meta).unwrap();
        let recipe_back = match to_hf(values(&gguf), back, &sizes, &list.meta, Want::Own) {
            Ok(recipe) => recipe,
            Err(e) => {
                // Gate and up alternate element by element.
                assert!(file == "gptoss" && e.kind() == Unsupported, "{file}: {e}");
                continue;
            }
        };
        let left: Vec<&str> = recipe.left_out.iter().map(|l| l.name.as_str()).collect();
        // What a GGUF keeps as f32 is written narrower where that loses nothing.
        let narrowed: Vec<Tensor> = recipe_back
            .outputs
            .iter()
            .map(|o| (o.name.clone(), o.narrow.unwrap_or(o.dtype), o.shape.clone()))
            .collect();
        let expected = hf.iter().filter(|t| !left.contains(&t.0.as_str())).cloned();
        let expected = expected.map(|(name, _, shape)| (name, DType::BF16, shape)).collect();
        assert_eq!(sorted(narrowed), sorted(expected), "{file}, back");
        let made = gguf.iter().filter(|t| t.0.starts_with("rope_")).count();
        assert_eq!(recipe_back.left_out.len(), made, "{file}: {:?}", recipe_back.left_out);
    }
}
