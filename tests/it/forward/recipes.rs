//! The tensors that a forward pass gets, of checkpoints and of GGUFs.

use crate::families::{Read, converted, model};
use hoist::dtype::DType;
use hoist::error::{ErrorKind, Result};
use hoist::transform::arch::families::{self, Sizes};
use hoist::transform::arch::forward::{self, Forward, Rope};
use hoist::transform::arch::keys;
use hoist::transform::arch::translate::{Origin, to_forward};
use hoist::transform::recipe::{self, Recipe};
use hoist::transform::values::values;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// A GGUF's config, as `verify` has it.
fn config_of_gguf(read: &Read) -> Value {
    let find = |name: &str| read.table.tensors.iter().find(|t| t.name == name);
    let shape = |name: &str| find(name).map(|t| t.shape.clone());
    let numbers = |name: &str| {
        let widen =
            |b: Vec<u8>| b.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect();
        Ok(find(name).map(|t| widen(read.bytes(t))))
    };
    let weights = keys::back::Weights { shape: &shape, values: &numbers };
    keys::to_config(&read.table.meta, weights, DType::F32).unwrap().config
}

fn recipe_of_checkpoint(read: &Read, config: &Value) -> Result<Recipe> {
    let family = families::of_config(config)?;
    let values = values(&read.table, Some(config))?.values;
    to_forward(values, family, &Sizes::of_config(config)?, Origin::Checkpoint(config))
}

fn recipe_of_gguf(read: &Read) -> Result<Recipe> {
    let meta = &read.table.meta;
    let values = values(&read.table, None)?.values;
    to_forward(values, families::of_gguf(meta)?, &Sizes::of_gguf(meta)?, Origin::Gguf(meta))
}

/// Without the tensors of heads, which only a checkpoint may have where the task has no use for them.
fn shapes(recipe: &Recipe) -> BTreeMap<String, Vec<u64>> {
    let of_head = |name: &str| name.starts_with("cls.");
    recipe.outputs.iter().filter(|o| !of_head(&o.name)).map(|o| (o.name.clone(), o.shape.clone())).collect()
}

/// What a forward pass does, but for the family's name, and for the last bits of frequencies that a GGUF has as factors.
fn alike(a: &Forward, b: &Forward) -> std::result::Result<(), String> {
    let close = |a: &[f32], b: &[f32]| {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5 * a.abs())
    };
    let same = |a: &Rope, b: &Rope| {
        let long = match (&a.long, &b.long) {
            (Some((n, a)), Some((m, b))) => n == m && close(a, b),
            (a, b) => a == b,
        };
        long && close(&a.inverse_frequencies, &b.inverse_frequencies)
            && close(&[a.scale], &[b.scale])
            && a.pairs == b.pairs
    };
    if a.ropes.len() != b.ropes.len() || !a.ropes.iter().zip(&b.ropes).all(|(a, b)| same(a, b)) {
        return Err(format!("ropes\n{:?}\n{:?}", a.ropes, b.ropes));
    }
    let rest = |f: &Forward| Forward { family: "", ropes: Vec::new(), ..f.clone() };
    let (a, b) = (rest(a), rest(b));
    if a == b { Ok(()) } else { Err(format!("\n{a:?}\n{b:?}")) }
}

#[test]
fn a_checkpoint_and_its_gguf_are_one_model() {
    let mut wrong = Vec::new();
    for family in model::all() {
        let dir = tempfile::tempdir().unwrap();
        let source = model::write(&model::spec(&family), dir.path());
        let text = std::fs::read(source.join("config.json")).unwrap();
        let config: Value = serde_json::from_slice(&text).unwrap();
        let whole =
            |config: &Value, recipe: &Recipe| forward::check(config, &forward::of_config(config)?, recipe);
        let encodes = family.contains("bert");
        let checkpoint = recipe_of_checkpoint(&Read::new(&source), &config);
        if let (Ok(recipe), false) = (&checkpoint, encodes)
            && let Err(e) = whole(&config, recipe)
        {
            wrong.push(format!("{family}: {e}"));
        }
        let checkpoint = checkpoint.map(|r| shapes(&r));
        for dtype in ["f32", "q8_0"] {
            let file = dir.path().join(format!("{dtype}.gguf"));
            converted(&source, &file, Some(dtype)).unwrap();
            let read = Read::new(&file);
            match (&checkpoint, recipe_of_gguf(&read)) {
                (Ok(checkpoint), Ok(gguf)) => {
                    if *checkpoint != shapes(&gguf) {
                        wrong.push(format!("{family} {dtype}:\n{checkpoint:?}\n{:?}", shapes(&gguf)));
                    }
                    for output in &gguf.outputs {
                        let from = &gguf.values[output.parts[0].value];
                        if output.dtype != from.dtype {
                            wrong.push(format!("{family}: {} is no more {}", output.name, from.dtype));
                        }
                    }
                }
                (a, b) => wrong.push(format!("{family} {dtype}: {a:?} {b:?}")),
            }
            if encodes {
                continue;
            }
            if let Err(e) = recipe_of_gguf(&read).and_then(|r| whole(&config_of_gguf(&read), &r)) {
                wrong.push(format!("{family} {dtype}: {e}"));
            }
            let mut of_gguf = config_of_gguf(&read);
            // No key says these of llama4, and conversion notes it.
            for key in ["attention_chunk_size", "floor_scale"] {
                let said = config.get("text_config").unwrap_or(&config).get(key);
                if let (Some(said), true) = (said, of_gguf.get("attention_chunk_size").is_some()) {
                    of_gguf[key] = said.clone();
                }
            }
            let both = forward::of_config(&config).and_then(|a| Ok((a, forward::of_config(&of_gguf)?)));
            match both {
                Ok((a, b)) => wrong.extend(alike(&a, &b).err().map(|e| format!("{family} {dtype}: {e}"))),
                Err(e) => wrong.push(format!("{family} {dtype}: {e}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{} differences\n{}", wrong.len(), wrong.join("\n"));
}

/// A tiny model with something done to its values.
fn damaged(dir: &Path, family: &str, damage: &dyn Fn(&mut Vec<recipe::Value>, &mut Value)) -> Result<Recipe> {
    let source = model::write(&model::spec(family), dir);
    let mut config = serde_json::from_slice(&std::fs::read(source.join("config.json")).unwrap()).unwrap();
    let mut values = values(&Read::new(&source).table, Some(&config)).unwrap().values;
    damage(&mut values, &mut config);
    let family = families::of_config(&config)?;
    to_forward(values, family, &Sizes::of_config(&config)?, Origin::Checkpoint(&config))
}

fn without(name: &'static str) -> impl Fn(&mut Vec<recipe::Value>, &mut Value) {
    move |values, _| {
        let before = values.len();
        values.retain(|v| v.name != name);
        assert_eq!(values.len() + 1, before, "{name}");
    }
}

fn with(name: &'static str, shape: &'static [u64]) -> impl Fn(&mut Vec<recipe::Value>, &mut Value) {
    move |values, _| values.push(recipe::Value::made(name, shape, &[]))
}

#[test]
fn what_a_forward_pass_lacks_is_named() {
    type Damage<'a> = &'a dyn Fn(&mut Vec<recipe::Value>, &mut Value);
    let reshaped = |values: &mut Vec<recipe::Value>, _: &mut Value| {
        values.iter_mut().find(|v| v.name.ends_with("0.self_attn.o_proj.weight")).unwrap().shape =
            vec![128, 64];
    };
    let integers = |values: &mut Vec<recipe::Value>, _: &mut Value| {
        values.iter_mut().find(|v| v.name == "model.norm.weight").unwrap().dtype = DType::I32;
    };
    let untied = |values: &mut Vec<recipe::Value>, config: &mut Value| {
        values.retain(|v| v.name != "lm_head.weight");
        config.as_object_mut().unwrap().remove("tie_word_embeddings");
    };
    for (family, damage, part) in [
        ("llama", &without("model.norm.weight") as Damage<'_>, "no tensor `model.norm.weight`"),
        (
            "llama",
            &without("model.layers.1.mlp.up_proj.weight"),
            "no tensor `model.layers.1.mlp.up_proj.weight`",
        ),
        ("llama", &without("model.embed_tokens.weight"), "no tensor `model.embed_tokens.weight`"),
        ("llama", &untied, "no tensor `lm_head.weight`"),
        ("llama", &reshaped, "`blk.0.attn_output.weight` would have shape [128, 64]"),
        ("llama", &integers, "`model.norm.weight` has type `i32`"),
        (
            "llama",
            &with("model.layers.0.mystery", &[1]),
            "`model.layers.0.mystery` is no tensor of family `llama`",
        ),
        ("llama", &with("norm.weight", &[128]), "is made by both `model.norm.weight` and `norm.weight`"),
        ("llama", &with("model.layers.7.mlp.up_proj.weight", &[1]), "is of layer 7"),
        (
            "qwen2",
            &without("model.layers.0.self_attn.k_proj.bias"),
            "no tensor `model.layers.0.self_attn.k_proj.bias`",
        ),
        ("mixtral", &without("model.layers.0.block_sparse_moe.experts.2.w1.weight"), "experts.2.w1.weight"),
        (
            "deepseek_v2",
            &without("model.layers.1.mlp.shared_experts.up_proj.weight"),
            "shared_experts.up_proj.weight",
        ),
        ("deepseek_v2", &without("model.layers.0.self_attn.kv_b_proj.weight"), "kv_b_proj.weight"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        match damaged(dir.path(), family, damage) {
            Ok(_) => panic!("{family}: {part}"),
            Err(e) => assert!(e.to_string().contains(part), "{family}: {part}: {e}"),
        }
    }
    let known = |values: &mut Vec<recipe::Value>, _: &mut Value| {
        values.push(recipe::Value::made("model.layers.0.self_attn.rotary_emb.inv_freq", &[8], &[]));
    };
    let dir = tempfile::tempdir().unwrap();
    let recipe = damaged(dir.path(), "llama", &known).unwrap();
    assert_eq!(recipe.left_out.len(), 1, "{:?}", recipe.left_out);
}

/// What the rows leave to the tensors, and the config says otherwise.
#[test]
fn a_config_and_tensors_that_disagree() {
    for (family, changes, part) in [
        ("deepseek_v2", json!({"first_k_dense_replace": 0}), "`blk.0.ffn_gate_inp.weight` is missing"),
        ("deepseek_v2", json!({"first_k_dense_replace": 2}), "`blk.1.ffn_up.weight` is missing"),
        ("deepseek_v2", json!({"q_lora_rank": null}), "`blk.0.attn_q.weight` is missing"),
        ("deepseek_v2-lite", json!({"q_lora_rank": 48}), "`blk.0.attn_q_a.weight` is missing"),
        ("llama4", json!({"moe_layers": [0]}), "`blk.0.ffn_gate_inp.weight` is missing"),
        ("glm4_moe", json!({"use_qk_norm": true}), "attn_q_norm.weight` is missing"),
        (
            "llama",
            json!({"attention_bias": true}),
            "`blk.0.attn_q.bias` is missing, and the config's `attention_bias` is `true`",
        ),
        (
            "llama",
            json!({"mlp_bias": true}),
            "`blk.0.ffn_gate.bias` is missing, and the config's `mlp_bias` is `true`",
        ),
        (
            "starcoder2",
            json!({"use_bias": false}),
            "`blk.0.attn_q.bias` is there, and the config's `use_bias` is `false`",
        ),
        ("llama", json!({}), ""),
        ("starcoder2", json!({"use_bias": null}), ""),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let change = |values: &mut Vec<recipe::Value>, config: &mut Value| {
            if family == "glm4_moe" {
                values.retain(|v| !v.name.contains("q_norm") && !v.name.contains("k_norm"));
            }
            config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        };
        let recipe = damaged(dir.path(), family, &change).unwrap();
        let mut config: Value =
            serde_json::from_slice(&std::fs::read(dir.path().join(family).join("config.json")).unwrap())
                .unwrap();
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        match forward::check(&config, &forward::of_config(&config).unwrap(), &recipe) {
            Ok(()) => assert_eq!(part, "", "{family} {changes}"),
            Err(e) => {
                assert!(!part.is_empty() && e.to_string().contains(part), "{family} {changes}: {e}");
                assert_eq!(e.kind(), ErrorKind::BadInput);
                assert!(e.tensor_name().is_some());
            }
        }
    }
}

/// A one is added to gemma's norms, in f32.
#[test]
fn norms_have_their_offset() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = damaged(dir.path(), "gemma2", &|_, _| {}).unwrap();
    for output in &recipe.outputs {
        let norm = output.name.ends_with("norm.weight");
        assert_eq!(output.parts[0].add, f32::from(u8::from(norm)), "{}", output.name);
        assert_eq!(output.dtype, if norm { DType::F32 } else { DType::BF16 }, "{}", output.name);
    }
}

/// GGUFs of early days: a tensor an expert, and latent attention's second matrix whole.
#[test]
fn older_ggufs_are_brought_to_the_form_of_today() {
    let dir = tempfile::tempdir().unwrap();
    for (family, dtype) in
        [("mixtral", "f32"), ("mixtral", "q8_0"), ("deepseek_v2", "f32"), ("deepseek_v2", "q8_0")]
    {
        let source = model::write(&model::spec(family), dir.path());
        let file = dir.path().join(format!("{family}.{dtype}.gguf"));
        converted(&source, &file, Some(dtype)).unwrap();
        let read = Read::new(&file);
        let meta = &read.table.meta;
        let of = families::of_gguf(meta).unwrap();
        let sizes = Sizes::of_gguf(meta).unwrap();
        let today =
            to_forward(values(&read.table, None).unwrap().values, of, &sizes, Origin::Gguf(meta)).unwrap();
        let mut older = Vec::new();
        for value in values(&read.table, None).unwrap().values {
            let of_expert = |shape: &[u64], e: u64| recipe::Value {
                name: value.name.replace("_exps.weight", &format!(".{e}.weight")),
                shape: shape.to_vec(),
                ..value.clone()
            };
            match value.shape.as_slice() {
                [count, one @ ..] if value.name.contains("_exps.") && family == "mixtral" => {
                    older.extend((0..*count).map(|e| of_expert(one, e)));
                }
                [heads, rank, keys] if value.name.contains("attn_k_b") => older.push(recipe::Value {
                    name: value.name.replace("attn_k_b", "attn_kv_b"),
                    shape: vec![heads * (keys + sizes.v_head_dim.unwrap()), *rank],
                    ..value.clone()
                }),
                _ if value.name.contains("attn_v_b") => {}
                _ => older.push(value),
            }
        }
        let lacking =
            older.iter().position(|v| v.name.contains(".ffn_up.2.") || v.name.contains("attn_kv_b")).unwrap();
        let recipe = to_forward(older.clone(), of, &sizes, Origin::Gguf(meta)).unwrap();
        assert_eq!(shapes(&recipe), shapes(&today), "{family}");
        for output in &recipe.outputs {
            let turned = output.name.contains("attn_k_b") && dtype == "q8_0";
            let own = recipe.values[output.parts[0].value].dtype;
            assert_eq!(output.dtype, if turned { DType::F32 } else { own }, "{}", output.name);
        }
        older.remove(lacking);
        let error = to_forward(older, of, &sizes, Origin::Gguf(meta)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadInput, "{family}: {error}");
    }
}
