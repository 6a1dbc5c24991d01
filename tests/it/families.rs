//! Every family against the reference converter and back: tiny models made from `testdata/families/`, what
//! `convert_hf_to_gguf.py` made of them in `testdata/golden/families/`.
//!
//! `tests/clients/families.py` does the same with the converter itself, and lets llama.cpp and transformers run the results.

pub mod model;

use crate::naive::testdata;
use hoist::checkpoint::{Checkpoint, MetaValue, Tensor};
use hoist::convert::{Options, convert};
use hoist::dtype::DType;
use model::Spec;
use sha2::Digest;
use std::collections::BTreeMap;
use std::path::Path;

const TYPES: [&str; 4] = ["f32", "f16", "bf16", "q8_0"];

/// Two names of one splitting in the engine, which no structure tells apart.
const SAME_SPLITTING: &[[&str; 2]] =
    &[["dbrx", "smaug-bpe"], ["refact", "starcoder"], ["gpt-4o", "llama4"], ["glm4", "chatglm-bpe"]];

/// Keys in which a family's file may differ from the reference's, and why.
const ALLOWED: &[(&str, &str, &str)] = &[
    (
        "llama-hf",
        "tokenizer.ggml.scores",
        "without tokenizer.model the reference writes -1000 for each, and the engine merges by position; these are ranks",
    ),
    (
        "gpt_oss",
        "general.file_type",
        "with --outtype q8_0 the reference says 7; MXFP4 experts with Q8_0 around them are what llama.cpp calls 38, MXFP4_MOE",
    ),
];

/// Beginnings of names that no GGUF of a text model holds: towers beside it, layers after the last, heads of pretraining.
const LEFT_OUT: &[&str] = &[
    "vision",
    "multi_modal_projector",
    "model.vision",
    "model.multi_modal_projector",
    "model.layers.2.",
    "cls.",
    "pooler.",
];

fn golden(family: &str) -> serde_json::Value {
    let path = testdata(&format!("golden/families/{family}.json"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn digest(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes)[..8].iter().map(|b| format!("{b:02x}")).collect()
}

/// A checkpoint with its files' bytes.
pub struct Read {
    pub table: Checkpoint,
    files: Vec<Vec<u8>>,
}

impl Read {
    pub fn new(path: &Path) -> Read {
        let options = hoist::open::Options { follow_links: false, ..Default::default() };
        let table = hoist::open::open(path.to_str().unwrap(), &options).unwrap().table;
        let folder = if path.is_dir() { path } else { path.parent().unwrap() };
        let files = table.files.iter().map(|f| {
            let named = Path::new(&f.name);
            std::fs::read(folder.join(named.file_name().unwrap())).unwrap()
        });
        Read { files: files.collect(), table }
    }

    pub fn bytes(&self, tensor: &Tensor) -> Vec<u8> {
        crate::naive::materialise(&self.files[tensor.at.span.file.index()], tensor)
    }
}

/// hoist's conversion; its refusal as text.
pub fn converted(from: &Path, to: &Path, dtype: Option<&str>) -> Result<(), String> {
    let mut options = Options::new(to);
    options.dtype = dtype.map(|d| DType::ALL.iter().copied().find(|x| x.name() == d).unwrap());
    let open = hoist::open::Options { follow_links: false, ..Default::default() };
    let model = hoist::open::open(from.to_str().unwrap(), &open).map_err(|e| e.to_string())?;
    convert(model, options).wait().map(|_| ()).map_err(|e| e.to_string())
}

/// A key's value in the golden's form.
fn key(value: &MetaValue) -> serde_json::Value {
    use serde_json::json;
    let number = |kind: &str, v: serde_json::Value| json!([kind, v]);
    match value {
        MetaValue::U8(v) => number("uint8", json!(v)),
        MetaValue::I8(v) => number("int8", json!(v)),
        MetaValue::U16(v) => number("uint16", json!(v)),
        MetaValue::I16(v) => number("int16", json!(v)),
        MetaValue::U32(v) => number("uint32", json!(v)),
        MetaValue::I32(v) => number("int32", json!(v)),
        MetaValue::U64(v) => number("uint64", json!(v)),
        MetaValue::I64(v) => number("int64", json!(v)),
        MetaValue::F32(v) => number("float32", json!(f64::from(*v))),
        MetaValue::F64(v) => number("float64", json!(v)),
        MetaValue::Bool(v) => number("bool", json!(v)),
        MetaValue::Text(t) if String::from_utf8_lossy(t).chars().count() < 200 => {
            json!(["string", String::from_utf8_lossy(t)])
        }
        MetaValue::Text(t) => json!(["string", {"digest": digest(t)}]),
        MetaValue::Array(a) => {
            let kind = match a.kind.name() {
                "f32" => "float32".to_string(),
                "f64" => "float64".to_string(),
                n if n.starts_with('u') => n.replace('u', "uint"),
                n if n.starts_with('i') => n.replace('i', "int"),
                n => n.to_string(),
            };
            json!([format!("array of {kind}"), a.count, digest(&a.bytes)])
        }
        MetaValue::Null => json!(null),
    }
}

/// Whether two names of a splitting are the same to the engine.
fn same_splitting(a: &serde_json::Value, b: &serde_json::Value) -> bool {
    let is = |v: &serde_json::Value, n: &str| v[1].as_str() == Some(n);
    SAME_SPLITTING.iter().any(|s| s.iter().any(|n| is(a, n)) && s.iter().any(|n| is(b, n)))
}

/// Every difference of a GGUF from the golden of its family and type.
fn differences(family: &str, dtype: &str, golden: &serde_json::Value, file: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let read = Read::new(file);
    let mut keys: BTreeMap<&str, (serde_json::Value, serde_json::Value)> = BTreeMap::new();
    for side in [&golden["keys"], &golden["types"][dtype]["keys"]] {
        for (k, v) in side.as_object().unwrap() {
            keys.entry(k).or_default().0 = v.clone();
        }
    }
    for (k, v, _) in &read.table.meta.entries {
        keys.entry(k).or_default().1 = key(v);
    }
    for (k, (expected, found)) in &keys {
        let same = match (expected[1].as_f64(), found[1].as_f64()) {
            // JSON writes 5 where the other side says 5.0, and its reader may miss the last bit.
            (Some(a), Some(b)) if expected[0] == "float32" => a as f32 == b as f32 && expected[0] == found[0],
            (Some(a), Some(b)) => a == b && expected[0] == found[0],
            _ => expected == found,
        };
        let allowed = ALLOWED.iter().any(|(f, name, _)| *f == family && name == k && !found.is_null())
            || (*k == "tokenizer.ggml.pre" && same_splitting(expected, found));
        if !same && !allowed {
            lines.push(format!("key {k}: expected {expected}, found {found}"));
        }
    }
    let mut tensors: BTreeMap<String, (Option<String>, Option<String>)> = BTreeMap::new();
    let rows = golden["tensors"].as_array().unwrap();
    for (row, facts) in rows.iter().zip(golden["types"][dtype]["tensors"].as_array().unwrap()) {
        let facts = format!("{} {}", row[1], facts.as_str().unwrap());
        tensors.entry(row[0].as_str().unwrap().to_string()).or_default().0 = Some(facts);
    }
    for tensor in &read.table.tensors {
        let ne: Vec<String> = tensor.shape.iter().rev().map(u64::to_string).collect();
        let facts = format!("[{}] {} {}", ne.join(","), tensor.dtype.name(), digest(&read.bytes(tensor)));
        tensors.entry(tensor.name.clone()).or_default().1 = Some(facts);
    }
    for (name, (expected, found)) in tensors {
        if expected != found {
            let side = |s: Option<String>| s.unwrap_or_else(|| "nothing".to_string());
            lines.push(format!("tensor {name}: expected {}, found {}", side(expected), side(found)));
        }
    }
    lines
}

#[test]
fn the_models_are_those_that_the_reference_converted() {
    let mut wrong = Vec::new();
    for family in model::all() {
        let mut hash = sha2::Sha256::new();
        for row in &model::spec(&family).rows {
            hash.update(model::values(row));
        }
        let found: String = hash.finalize()[..8].iter().map(|b| format!("{b:02x}")).collect();
        let expected = golden(&family)["source"].as_str().unwrap().to_string();
        if expected != found {
            wrong.push(format!("{family}: expected {expected}, found {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_gguf_equals_the_references() {
    let mut wrong = Vec::new();
    for family in model::all() {
        let dir = tempfile::tempdir().unwrap();
        let source = model::write(&model::spec(&family), dir.path());
        let golden = golden(&family);
        for dtype in TYPES {
            let file = dir.path().join(format!("{dtype}.gguf"));
            match converted(&source, &file, Some(dtype)) {
                Ok(()) => wrong.extend(
                    differences(&family, dtype, &golden, &file)
                        .into_iter()
                        .map(|l| format!("{family} {dtype}: {l}")),
                ),
                Err(e) => wrong.push(format!("{family} {dtype}: refused: {e}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{} differences\n{}", wrong.len(), wrong.join("\n"));
}

/// The numbers of a plain float tensor, widened.
fn widened(dtype: &str, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        "f32" => bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        "bf16" => {
            bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect()
        }
        "f16" => {
            bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect()
        }
        other => panic!("{other} where a plain float was expected"),
    }
}

/// A name as a text model of today has it: without the wrapper's prefix, without BERT's old words.
fn plain_name(name: &str) -> String {
    for prefix in ["language_model.model.", "model.language_model."] {
        if let Some(rest) = name.strip_prefix(prefix) {
            return format!("model.{rest}");
        }
    }
    if let Some(old) = name.strip_prefix("bert.") {
        return old
            .replace("LayerNorm.gamma", "LayerNorm.weight")
            .replace("LayerNorm.beta", "LayerNorm.bias");
    }
    name.strip_prefix("language_model.").unwrap_or(name).to_string()
}

/// Shape and numbers by name of what should be back: the plain floats that went in. Experts that lay fused come back one
/// tensor each, the form that every version of transformers reads.
fn source_values(spec: &Spec) -> BTreeMap<String, (Vec<u64>, Vec<f32>)> {
    let mut out = BTreeMap::new();
    let fused = spec.family.ends_with("-fused");
    let mixtral = spec.family.starts_with("mixtral");
    let which = if mixtral { ["w1", "w3", "w2"] } else { ["gate_proj", "up_proj", "down_proj"] };
    for row in spec.rows.iter().filter(|r| matches!(r.dtype.as_str(), "f32" | "f16" | "bf16")) {
        let shape: Vec<u64> = row.shape.iter().map(|&d| d as u64).collect();
        let numbers = widened(&row.dtype, &model::values(row));
        let name = plain_name(&row.name);
        let name = if fused && mixtral { name.replace(".mlp.", ".block_sparse_moe.") } else { name };
        match name.split_once(".experts.") {
            Some((moe, what)) if fused => {
                let parts = if what == "gate_up_proj" { &which[..2] } else { &which[2..] };
                let piece = numbers.len() / row.shape[0] / parts.len();
                for (i, numbers) in numbers.chunks_exact(piece).enumerate() {
                    let (expert, part) = (i / parts.len(), parts[i % parts.len()]);
                    let shape = vec![shape[1] / parts.len() as u64, shape[2]];
                    out.insert(format!("{moe}.experts.{expert}.{part}.weight"), (shape, numbers.to_vec()));
                }
            }
            _ => {
                out.insert(name, (shape, numbers));
            }
        }
    }
    out
}

/// Differences of a directory written from a GGUF from the spec of its source: each float that went in is back, bit for bit.
fn differences_back(spec: &Spec, dir: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let read = Read::new(dir);
    let source = source_values(spec);
    let quantised = spec.rows.iter().any(|r| matches!(r.dtype.as_str(), "u8" | "f8_e4m3"));
    let back: BTreeMap<&str, &Tensor> = read.table.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
    // What was dequantised has no plain twin in the spec.
    for name in back.keys().filter(|n| !quantised && !source.contains_key(**n)) {
        lines.push(format!("{name}: not in the source"));
    }
    for (name, (shape, numbers)) in &source {
        let Some(tensor) = back.get(name.as_str()) else {
            let scale = quantised && (name.contains("_scale") || name.ends_with("input_scale"));
            if !scale && !LEFT_OUT.iter().any(|p| name.starts_with(p)) {
                lines.push(format!("{name}: is not back"));
            }
            continue;
        };
        if *shape != tensor.shape {
            lines.push(format!("{name}: expected shape {shape:?}, found {:?}", tensor.shape));
            continue;
        }
        let found = widened(tensor.dtype.name(), &read.bytes(tensor));
        // Rows up to the padding's own, which no GGUF holds and no text reaches.
        let roberta = spec.family.ends_with("roberta") && name.ends_with("position_embeddings.weight");
        let lost = if roberta { 2 * shape[1] as usize } else { 0 };
        let pairs = numbers[lost..].iter().zip(&found[lost..]);
        let differ = pairs.filter(|(x, y)| x.to_bits() != y.to_bits()).count();
        if differ > 0 {
            lines.push(format!("{name}: {differ} of {} values differ", numbers.len()));
        }
    }
    lines
}

#[test]
fn each_comes_back_as_it_was() {
    let mut wrong = Vec::new();
    for family in model::all() {
        let spec = model::spec(&family);
        let dir = tempfile::tempdir().unwrap();
        let source = model::write(&spec, dir.path());
        let own =
            spec.rows.iter().map(|r| r.dtype.as_str()).find(|d| ["bf16", "f16", "f32"].contains(d)).unwrap();
        for dtype in if own == "f32" { vec!["f32"] } else { vec!["f32", own] } {
            let (gguf, back) =
                (dir.path().join(format!("{dtype}.gguf")), dir.path().join(format!("back-{dtype}")));
            match converted(&source, &gguf, Some(dtype)).and_then(|()| converted(&gguf, &back, None)) {
                Ok(()) => wrong.extend(
                    differences_back(&spec, &back).into_iter().map(|l| format!("{family} {dtype}: {l}")),
                ),
                Err(e) => wrong.push(format!("{family} {dtype}: refused: {e}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{} differences\n{}", wrong.len(), wrong.join("\n"));
}
