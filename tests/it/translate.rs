//! Families and their recipes: names both ways against lists that the reference converter made, where each element goes,
//! what is refused.

use crate::naive::testdata;
use hoist::checkpoint::{Meta, MetaValue};
use hoist::dtype::DType;
use hoist::error::ErrorKind;
use hoist::transform::arch::families::{Dim, Ends, Family, Head, Need, Sizes, Way, all, of_config, of_gguf};
use hoist::transform::arch::translate::{Want, to_gguf, to_hf};
use hoist::transform::recipe::{Output, Part, Recipe, Source, Value};
use hoist::transform::view::View;
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};

type Tensor = (String, DType, Vec<u64>);

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

fn values(tensors: &[Tensor]) -> Vec<Value> {
    let value = |(i, (name, dtype, shape)): (usize, &Tensor)| Value {
        name: name.clone(),
        dtype: *dtype,
        shape: shape.clone(),
        source: Source::Tensor(i),
    };
    tensors.iter().enumerate().map(value).collect()
}

fn tensors(recipe: &Recipe) -> Vec<Tensor> {
    recipe.outputs.iter().map(|o| (o.name.clone(), o.dtype, o.shape.clone())).collect()
}

fn sorted(mut tensors: Vec<Tensor>) -> Vec<Tensor> {
    tensors.sort();
    tensors
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

/// Sizes that no two of which are alike where that can be, so that what is exchanged does not fit.
fn small() -> Sizes {
    Sizes {
        layers: 2,
        mtp_layers: 0,
        hidden: 10,
        heads: 4,
        kv_heads: 2,
        head_dim: 4,
        experts: Some(3),
        kv_lora_rank: Some(7),
        qk_nope_head_dim: Some(ANY),
        qk_rope_head_dim: Some(2),
        v_head_dim: Some(ANY),
        pad_id: Some(1),
    }
}

const ANY: u64 = 6;

fn family(name: &str) -> &'static Family {
    all().find(|f| f.name() == name).unwrap()
}

/// A GGUF of a family with every tensor that may be in one: layer 0 has the first set of each choice, layer 1 the second.
fn gguf_of(family: &'static Family, sizes: &Sizes) -> Vec<Tensor> {
    let sets = |choice: u8| -> BTreeSet<u8> {
        let set = |need: Need| match need {
            Need::OneOf { choice: c, set } if c == choice => Some(set),
            _ => None,
        };
        family.rows().filter_map(|row| set(row.need)).collect()
    };
    let mut out = Vec::new();
    for row in family.rows().filter(|row| row.way == Way::Both) {
        if row.need == Need::Head && family.head == Head::Tied {
            continue;
        }
        let layers = if row.gguf.contains('#') { sizes.layers } else { 1 };
        for layer in 0..layers {
            if let Need::OneOf { choice, set } = row.need {
                let sets = sets(choice);
                if sets.iter().nth(layer as usize).or(sets.first()) != Some(&set) {
                    continue;
                }
            }
            let name = row.gguf.replace('#', &layer.to_string());
            let dim = |d: &Dim| sizes.dim(*d).unwrap().unwrap_or(ANY);
            let shape: Vec<u64> = row.dims.iter().map(dim).collect();
            if row.ends == Ends::Bare {
                out.push((name, DType::F32, shape));
                continue;
            }
            if matches!(row.ends, Ends::MayBias | Ends::Bias) {
                out.push((format!("{name}.bias"), DType::F32, shape[..1].to_vec()));
            }
            out.push((format!("{name}.weight"), DType::F32, shape));
        }
    }
    out
}

fn back(gguf: &[Tensor], family: &'static Family, sizes: &Sizes) -> hoist::Result<Recipe> {
    to_hf(values(gguf), family, sizes, &Meta::default(), Want::Own)
}

/// The same as a checkpoint.
fn hf_of(family: &'static Family, sizes: &Sizes) -> Vec<Tensor> {
    let recipe = back(&gguf_of(family, sizes), family, sizes);
    tensors(&recipe.unwrap_or_else(|e| panic!("{}: {e}", family.name())))
}

fn plain_config(family: &Family) -> Json {
    json!({"model_type": family.name(), "tie_word_embeddings": false})
}

/// The elements of a view, in its order.
fn elements(view: &View) -> Vec<u64> {
    let mut out = vec![view.offset];
    for (&n, &s) in view.shape.iter().zip(&view.strides) {
        out = out.iter().flat_map(|&at| (0..n).map(move |i| at + i * s)).collect();
    }
    out
}

/// Which value and element each element of an output is, and what is added.
fn origins(recipe: &Recipe, output: &Output) -> Vec<(usize, u64, f32)> {
    let part = |p: &Part| {
        let (index, add) = (p.value, p.add);
        let value = &recipe.values[index];
        elements(&p.view).into_iter().map(move |e| match &value.source {
            Source::Joined(tensors) => {
                let each = value.shape.iter().product::<u64>() / tensors.len() as u64;
                (tensors[(e / each) as usize], e % each, add)
            }
            _ => (index, e, add),
        })
    };
    output.parts.iter().flat_map(part).collect()
}

#[test]
fn there_and_back_is_where_it_was() {
    for family in all() {
        let (sizes, name) = (small(), family.name());
        let gguf = gguf_of(family, &sizes);
        let there = back(&gguf, family, &sizes).unwrap_or_else(|e| panic!("{name}: {e}"));
        let hf = tensors(&there);
        let again = to_gguf(values(&hf), family, &sizes, &plain_config(family), Want::Own)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(sorted(tensors(&again)), sorted(gguf.clone()), "{name}");
        let theirs: Vec<_> = there.outputs.iter().map(|o| origins(&there, o)).collect();
        for output in &again.outputs {
            let at = gguf.iter().position(|t| t.0 == output.name).unwrap();
            for (n, (value, element, add)) in origins(&again, output).into_iter().enumerate() {
                let (first, place, less) = theirs[value][element as usize];
                assert_eq!((first, place, add + less), (at, n as u64, 0.0), "{name}: {}", output.name);
            }
        }
        let offset: Vec<&str> =
            again.outputs.iter().filter(|o| o.parts[0].add != 0.0).map(|o| o.name.as_str()).collect();
        assert_eq!(!offset.is_empty(), name.starts_with("gemma"), "{name}");
        assert!(offset.iter().all(|n| n.ends_with("_norm.weight")), "{name}: {offset:?}");
    }
}

/// A family, a tensor of it in a checkpoint, its shape, those that it stands for where it is another form of them, one
/// tensor in a GGUF, and which element of the former the n-th of the latter is. Sizes are those of [`small`]: 10 wide,
/// 4 heads of 4 with 2 key/value heads, 3 experts, 7 latents, all others 6.
type Layout =
    (&'static str, &'static str, &'static [u64], &'static [&'static str], &'static str, fn(u64) -> u64);

#[rustfmt::skip]
const LAYOUTS: &[Layout] = &[
    // Row (head, pair, half) of a GGUF is row (head, half, pair) of a checkpoint.
    ("llama", "model.layers.0.self_attn.q_proj.weight", &[16, 10], &[], "blk.0.attn_q.weight",
        |n| (n / 40 * 4 + n / 10 % 2 * 2 + n / 20 % 2) * 10 + n % 10),
    ("smollm3", "model.layers.0.self_attn.k_proj.bias", &[8], &[], "blk.0.attn_k.bias", |n| n / 4 * 4 + n % 2 * 2 + n % 4 / 2),
    ("llama4_text", "model.layers.0.self_attn.q_proj.weight", &[16, 10], &[], "blk.0.attn_q.weight", |n| n),
    ("qwen2", "model.layers.0.self_attn.q_proj.weight", &[16, 10], &[], "blk.0.attn_q.weight", |n| n),
    ("gpt2", "transformer.h.0.mlp.c_fc.weight", &[10, 6], &[], "blk.0.ffn_up.weight", |n| n % 10 * 6 + n / 10),
    // [heads × (keys and values), latents] → keys [heads, latents, keys], values [heads, values, latents].
    ("deepseek_v2", "model.layers.0.self_attn.kv_b_proj.weight", &[48, 7], &[], "blk.0.attn_k_b.weight",
        |n| (n / 42 * 12 + n % 6) * 7 + n % 42 / 6),
    ("deepseek_v2", "model.layers.0.self_attn.kv_b_proj.weight", &[48, 7], &[], "blk.0.attn_v_b.weight",
        |n| (n / 42 * 12 + 6 + n % 42 / 7) * 7 + n % 7),
    // [experts, gate and then up, in]
    ("qwen3_moe", "model.layers.0.mlp.experts.gate_up_proj", &[3, 12, 10],
        &["layers.0.mlp.experts.*.gate_proj", "layers.0.mlp.experts.*.up_proj"], "blk.0.ffn_up_exps.weight",
        |n| (n / 60 * 12 + 6 + n % 60 / 10) * 10 + n % 10),
    ("qwen3_moe", "model.layers.0.mlp.experts.down_proj", &[3, 10, 6], &["layers.0.mlp.experts.*.down_proj"],
        "blk.0.ffn_down_exps.weight", |n| n),
    ("mixtral", "model.layers.1.mlp.experts.gate_up_proj", &[3, 12, 10],
        &["layers.1.block_sparse_moe.experts.*.w1", "layers.1.block_sparse_moe.experts.*.w3"],
        "blk.1.ffn_gate_exps.weight", |n| (n / 60 * 12 + n % 60 / 10) * 10 + n % 10),
    // [experts, in, gate and then up]
    ("llama4_text", "model.layers.1.feed_forward.experts.gate_up_proj", &[3, 10, 12], &[], "blk.1.ffn_up_exps.weight",
        |n| (n / 60 * 10 + n % 10) * 12 + 6 + n % 60 / 10),
    // [experts, in, gate and up in turn]
    ("gpt_oss", "model.layers.0.mlp.experts.gate_up_proj", &[3, 10, 12], &[], "blk.0.ffn_gate_exps.weight",
        |n| (n / 60 * 10 + n % 10) * 12 + n % 60 / 10 * 2),
    ("gpt_oss", "model.layers.0.mlp.experts.gate_up_proj_bias", &[3, 12], &[], "blk.0.ffn_up_exps.bias", |n| n * 2 + 1),
    // [experts, gate and up in turn, in]
    ("gpt_oss", "model.layers.0.mlp.experts.gate_up_proj_blocks", &[3, 12, 10],
        &["layers.0.mlp.experts.gate_up_proj"], "blk.0.ffn_up_exps.weight", |n| (n / 10 * 2 + 1) * 10 + n % 10),
    // Positions begin behind the padding token's, which is 1.
    ("roberta", "embeddings.position_embeddings.weight", &[8, 10], &[], "position_embd.weight", |n| n + 20),
    ("bert", "embeddings.position_embeddings.weight", &[6, 10], &[], "position_embd.weight", |n| n),
];

#[test]
fn elements_lie_as_each_side_has_them() {
    for (kind, from, shape, instead_of, to, origin) in LAYOUTS {
        let family = family(kind);
        let sizes = small();
        // The tensor in question comes last, and in place of other forms of it.
        let mut hf = hf_of(family, &sizes);
        hf.retain(|(name, ..)| {
            let other = instead_of.iter().any(|pattern| {
                (0..3).any(|e| {
                    let whole = format!("model.{}", pattern.replace('*', &e.to_string()));
                    *name == whole || *name == format!("{whole}.weight")
                })
            });
            name != from && !other
        });
        hf.push(((*from).to_owned(), DType::F32, shape.to_vec()));
        let recipe = to_gguf(values(&hf), family, &sizes, &plain_config(family), Want::Own)
            .unwrap_or_else(|e| panic!("{kind}: {from}: {e}"));
        let output = recipe.outputs.iter().find(|o| o.name == *to).unwrap();
        for (n, (value, element, _)) in origins(&recipe, output).into_iter().enumerate() {
            assert_eq!((value, element), (hf.len() - 1, origin(n as u64)), "{kind}: {to}, element {n}");
        }
    }
}

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
