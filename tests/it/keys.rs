//! Keys of a GGUF from a config, and a config from keys: what llama.cpp's converter writes for the same config, and what
//! transformers needs to compute the same again.

use crate::naive::testdata;
use hoist::checkpoint::{Meta, MetaKind, MetaValue};
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
