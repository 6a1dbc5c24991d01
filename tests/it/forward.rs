//! How models compute, held against the modules of transformers, and the tensors that a forward pass gets.

use crate::families::{Read, converted, model};
use crate::naive::testdata;
use hoist::dtype::DType;
use hoist::error::{ErrorKind, Result};
use hoist::transform::arch::families::{self, Sizes};
use hoist::transform::arch::forward::{
    self, Experts, Forward, HeadNorm, Layer, Mlp, Projections, Rope, Window,
};
use hoist::transform::arch::keys;
use hoist::transform::arch::translate::{Origin, to_forward};
use hoist::transform::recipe::{self, Recipe};
use hoist::transform::values::values;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

fn golden() -> Value {
    serde_json::from_slice(&std::fs::read(testdata("golden/forward.json")).unwrap()).unwrap()
}

fn config(case: &Value) -> Value {
    match case["name"].as_str().unwrap().strip_prefix("families/") {
        None => case["config"].clone(),
        Some(family) => {
            let path = testdata(&format!("families/{family}/config.json"));
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
        }
    }
}

/// Differences of what was found from what was expected, each with its name.
#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn equal<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, found: T, expected: T) {
        if found != expected {
            self.0.push(format!("{what}: expected {expected:?}, found {found:?}"));
        }
    }

    /// Numbers within a few roundings of f32.
    fn close(&mut self, what: &str, found: f32, expected: &Value) {
        let expected = expected.as_f64().unwrap();
        if (f64::from(found) - expected).abs() > 2.5e-7 * expected.abs() {
            self.0.push(format!("{what}: expected {expected}, found {found}"));
        }
    }

    fn optional(&mut self, what: &str, found: Option<f32>, expected: &Value) {
        match (found, expected) {
            (None, Value::Null) => {}
            (Some(found), Value::Number(_)) => self.close(what, found, expected),
            _ => self.0.push(format!("{what}: expected {expected}, found {found:?}")),
        }
    }

    fn all_close(&mut self, what: &str, found: &[f32], expected: &Value) {
        let expected = expected.as_array().unwrap();
        self.equal(&format!("{what}, count"), found.len(), expected.len());
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            self.close(&format!("{what} {i}"), *found, expected);
        }
    }

    fn rope(&mut self, what: &str, found: &Rope, expected: &Value) {
        self.all_close(&format!("{what}: frequencies"), &found.inverse_frequencies, &expected["frequencies"]);
        self.close(&format!("{what}: scale"), found.scale, &expected["scale"]);
        match (&found.long, expected.get("long")) {
            (None, None) => {}
            (Some((above, long)), Some(expected)) => {
                self.equal(&format!("{what}: above"), *above as u64, expected["above"].as_u64().unwrap());
                self.all_close(&format!("{what}: long"), long, &expected["frequencies"]);
            }
            (found, _) => self.0.push(format!("{what}: long is there or not: {found:?}")),
        }
    }

    fn experts(&mut self, what: &str, found: &Experts, expected: &Value) {
        let count = |n: usize| Value::from(n as u64);
        self.equal(&format!("{what}: experts"), count(found.count), expected["count"].clone());
        self.equal(&format!("{what}: used"), count(found.used), expected["used"].clone());
        self.equal(&format!("{what}: shared"), Value::from(found.shared), expected["shared"].clone());
        self.equal(
            &format!("{what}: correction"),
            Value::from(found.correction),
            expected["correction"].clone(),
        );
        self.close(
            &format!("{what}: scale"),
            found.scale,
            expected.get("scale").unwrap_or(&Value::from(1.0)),
        );
        if let Some(normalise) = expected.get("normalise") {
            self.equal(
                &format!("{what}: normalise"),
                Value::from(found.normalise.is_some()),
                normalise.clone(),
            );
        }
        let of = |key: &str| expected.get(key).and_then(Value::as_u64);
        let grouped = of("groups").zip(of("groups_used")).filter(|(all, used)| used < all);
        let grouped = grouped.filter(|_| expected.get("method").is_none_or(|m| m == "group_limited_greedy"));
        let groups = found.groups.map(|g| (g.count as u64, g.used as u64));
        self.equal(&format!("{what}: groups"), groups, grouped);
        if let Some(alpha) = expected.get("alpha") {
            let forward::Activation::ClampedSwiglu { alpha: a, limit } = found.activation else {
                self.0.push(format!("{what}: the activation is {:?}", found.activation));
                return;
            };
            self.close(&format!("{what}: alpha"), a, alpha);
            self.close(&format!("{what}: limit"), limit, &expected["limit"]);
        }
    }

    fn layer(&mut self, what: &str, case: &Value, found: &Layer, expected: &Value) {
        let attention = &found.attention;
        self.close(&format!("{what}: scale"), attention.scale, &expected["scale"]);
        self.equal(
            &format!("{what}: head"),
            attention.key_dim as u64,
            expected["head_dim"].as_u64().unwrap(),
        );
        self.all_close(&format!("{what}: eps"), &[found.norm.eps], &expected["eps"]);
        self.equal(
            &format!("{what}: rotates"),
            attention.rope.is_some(),
            expected["rotates"].as_bool().unwrap(),
        );
        self.equal(&format!("{what}: sinks"), attention.sinks, expected["sinks"].as_bool().unwrap());
        self.optional(&format!("{what}: cap"), attention.soft_cap, &expected["cap"]);
        self.close(&format!("{what}: residual"), found.residual_scale, &expected["residual_scale"]);
        match (attention.head_norm, expected.get("head_norm")) {
            (HeadNorm::None, None) => {}
            (HeadNorm::EachHead(norm) | HeadNorm::AllHeads(norm), Some(e)) if e[0] == false => {
                self.close(&format!("{what}: head norm"), norm.eps, &e[1]);
            }
            (HeadNorm::BareAfterRope(eps), Some(e)) if e[0] == true => {
                self.close(&format!("{what}: head norm"), eps, &e[1]);
            }
            (found, expected) => self.0.push(format!("{what}: head norm {found:?}, expected {expected:?}")),
        }
        if let Some(eps) = expected.get("latent_eps") {
            match attention.projections {
                Projections::Latent { eps: found, .. } => self.close(&format!("{what}: latent"), found, eps),
                other => self.0.push(format!("{what}: projections are {other:?}")),
            }
        }
        let temperature = attention.temperature.map(|t| (f64::from(t.floor_scale), t.scale));
        match (temperature, expected.get("temperature")) {
            (None, None) => {}
            (Some((floor, scale)), Some(e)) => {
                self.equal(&format!("{what}: floor"), Some(floor), e[0].as_f64());
                self.close(&format!("{what}: temperature"), scale, &e[1]);
            }
            (found, e) => self.0.push(format!("{what}: temperature {found:?}, expected {e:?}")),
        }
        // Either each layer has its type, or one number holds for all.
        let all = case.get("window").and_then(Value::as_u64);
        match (attention.window, expected.get("type").and_then(Value::as_str)) {
            (None, None) if all.is_none() => {}
            (Some(Window::Sliding(n)), Some("sliding_attention")) => {
                let expected = expected.get("window").and_then(Value::as_u64);
                self.equal(&format!("{what}: window"), Some(n as u64), expected);
            }
            (Some(Window::Sliding(n)), None) => self.equal(&format!("{what}: window"), Some(n as u64), all),
            (Some(Window::Chunked(_)), Some("chunked_attention")) => {}
            (found, e) => self.0.push(format!("{what}: window {found:?}, expected {e:?} {all:?}")),
        }
        if let Some(seen) = expected.get("first_seen") {
            let first = |i: usize| match attention.window {
                None => 0,
                Some(Window::Sliding(n)) => (i + 1).saturating_sub(n),
                Some(Window::Chunked(n)) => i / n * n,
                Some(Window::Around(n)) => i.saturating_sub(n),
            };
            let found: Vec<Value> = [0, 20, 70, 95].map(|i| Value::from(first(i) as u64)).into();
            self.equal(&format!("{what}: first seen"), Value::from(found), seen.clone());
        }
        match (&found.mlp, expected.get("experts")) {
            (Mlp::Dense { .. }, None) => {}
            (Mlp::Experts(found), Some(expected)) => self.experts(what, found, expected),
            (found, _) => self.0.push(format!("{what}: experts or not: {found:?}")),
        }
    }

    fn forward(&mut self, found: &Forward, case: &Value) {
        self.equal("hidden", found.hidden as u64, case["hidden"].as_u64().unwrap());
        self.close("embedding", found.embedding.scale, &case["embedding_scale"]);
        self.close("final eps", found.final_norm.unwrap().eps, &case["final_eps"]);
        let head = found.head.as_ref().unwrap();
        self.equal("tied", head.tied, case["tied"].as_bool().unwrap());
        self.optional("logit cap", head.soft_cap, &case["logit_cap"]);
        self.close("logit scale", 1.0 / head.scale, &case["logit_divisor"]);
        let ropes = case.get("ropes").and_then(Value::as_object);
        let layers = case["layers"].as_array().unwrap();
        self.equal("layers", found.layers.len(), layers.len());
        for (i, (layer, expected)) in found.layers.iter().zip(layers).enumerate() {
            self.layer(&format!("layer {i}"), case, layer, expected);
            if let (Some(place), Some(ropes)) = (layer.attention.rope, ropes) {
                let own = expected.get("type").and_then(Value::as_str).and_then(|kind| ropes.get(kind));
                self.rope(
                    &format!("layer {i}"),
                    &found.ropes[place],
                    own.unwrap_or(&ropes["full_attention"]),
                );
            }
        }
    }
}

#[test]
fn each_model_computes_as_transformers_does() {
    let golden = golden();
    let mut wrong = Vec::new();
    for case in golden["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        match forward::of_config(&config(case)) {
            Err(e) => wrong.push(format!("{name}: {e}")),
            Ok(found) => {
                let mut differences = Differences::default();
                differences.forward(&found, case);
                wrong.extend(differences.0.into_iter().map(|d| format!("{name}: {d}")));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differences\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_family_of_the_test_data_is_asked() {
    let golden = golden();
    let asked: Vec<&str> =
        golden["cases"].as_array().unwrap().iter().filter_map(|c| c["name"].as_str()).collect();
    for family in model::all() {
        if family.contains("bert") || family == "gpt2-files" {
            continue;
        }
        assert!(asked.contains(&format!("families/{family}").as_str()), "{family}");
    }
}

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
