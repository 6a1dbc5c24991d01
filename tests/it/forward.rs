//! How models compute, held against the modules of transformers, and the tensors that a forward pass gets.

mod recipes;
mod refused;

use crate::families::model;
use crate::naive::testdata;
use hoist::transform::arch::forward::{
    self, Experts, Forward, HeadNorm, Layer, Mlp, Projections, Rope, Window,
};
use serde_json::Value;

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
        let kv = found.layers.iter().map(|l| l.attention.kv_heads as u64);
        self.equal("key/value heads", kv.max(), case["kv_heads"].as_u64());
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
