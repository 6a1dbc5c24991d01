//! Encoders end to end against transformers: `testdata/encoders/` says what the models are made of, and
//! `testdata/golden/encoders.safetensors` what `testdata/make/encoders.py` had transformers compute with them.

mod compared;
mod refused;

use crate::families::model::{self, Row};
use crate::naive::testdata;
use hoist::checkpoint::Container;
use hoist::convert::{Options, convert};
use hoist::dtype::DType;
use hoist::transform::task::Task;
use hoist::verify::encoder::{Batch, Encoder};
use hoist::verify::subject::Subject;
use hoist::verify::weights::{Hold, Weights};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value as Json, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The largest relative error of any number.
const ERROR_MAX: f64 = 1e-5;

/// Those of which a GGUF is made, and the tokenizer that it needs for it.
const GGUFS: &[(&str, &str)] = &[
    ("bert", "wordpiece"),
    ("sentence-mean", "wordpiece"),
    ("roberta-sequence", "roberta-bpe"),
    ("xlm-roberta-cross", "unigram"),
];

/// What a spec's file says.
pub struct Spec {
    pub files: serde_json::Map<String, Json>,
    /// The tensors of each folder.
    pub folders: Vec<(String, Vec<Row>)>,
}

pub fn names() -> Vec<String> {
    let entries = std::fs::read_dir(testdata("encoders")).unwrap();
    let mut names: Vec<String> =
        entries.map(|e| e.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

pub fn spec(name: &str) -> Spec {
    let path = testdata(&format!("encoders/{name}.json"));
    let json: Json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let rows = |rows: &Json| rows.as_array().unwrap().iter().map(model::row).collect();
    Spec {
        files: json["files"].as_object().unwrap().clone(),
        folders: json["folders"].as_object().unwrap().iter().map(|(k, v)| (k.clone(), rows(v))).collect(),
    }
}

/// Writes the model below `root`.
pub fn write(spec: &Spec, root: &Path) -> PathBuf {
    let out = root.join("model");
    for (path, json) in &spec.files {
        std::fs::create_dir_all(out.join(path).parent().unwrap()).unwrap();
        std::fs::write(out.join(path), json.to_string()).unwrap();
    }
    for (folder, rows) in &spec.folders {
        let data: Vec<Vec<u8>> = rows.iter().map(model::values).collect();
        let views = rows.iter().zip(&data).map(|(row, bytes)| {
            (row.name.as_str(), TensorView::new(Dtype::F32, row.shape.clone(), bytes).unwrap())
        });
        let meta = HashMap::from([("format".to_string(), "pt".to_string())]);
        let file = out.join(folder).join("model.safetensors");
        safetensors::serialize_to_file(views.collect::<Vec<_>>(), Some(meta), &file).unwrap();
    }
    out
}

pub fn open(path: &Path) -> hoist::Result<hoist::open::Model> {
    let options = hoist::open::Options { follow_links: false, ..Default::default() };
    hoist::open::open(path.to_str().unwrap(), &options)
}

pub fn hold() -> Hold {
    Hold {
        dtype: DType::F32,
        device: candle_core::Device::Cpu,
        memory_bytes: 1 << 30,
        native: false,
        threads: Some(1),
        stop: Default::default(),
    }
}

/// What transformers computed.
struct Golden(Vec<u8>);

impl Golden {
    fn read() -> Golden {
        Golden(std::fs::read(testdata("golden/encoders.safetensors")).unwrap())
    }

    fn bytes(&self, name: &str) -> Option<(Vec<usize>, Vec<u8>)> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).ok()?;
        Some((tensor.shape().to_vec(), tensor.data().to_vec()))
    }

    fn rows(&self, name: &str) -> Option<Vec<Vec<f32>>> {
        let (shape, bytes) = self.bytes(name)?;
        let numbers: Vec<f32> =
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        Some(numbers.chunks_exact(shape[1]).map(<[f32]>::to_vec).collect())
    }

    fn ids(&self, name: &str) -> Option<Vec<Vec<u32>>> {
        let (shape, bytes) = self.bytes(name)?;
        let ids: Vec<u32> =
            bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32).collect();
        Some(ids.chunks_exact(shape[1]).map(<[u32]>::to_vec).collect())
    }

    /// The texts of a model, padding cut off.
    fn batch(&self, name: &str) -> Batch {
        let mask = self.ids(&format!("{name}.mask")).unwrap();
        let cut = |rows: Vec<Vec<u32>>| -> Vec<Vec<u32>> {
            rows.into_iter()
                .zip(&mask)
                .map(|(row, mask)| row[..mask.iter().sum::<u32>() as usize].to_vec())
                .collect()
        };
        let types = self.ids(&format!("{name}.types")).map(cut).unwrap_or_default();
        Batch::new(cut(self.ids(&format!("{name}.ids")).unwrap()), types).unwrap()
    }
}

/// The largest difference, as a part of the largest number.
fn error(expected: &[Vec<f32>], found: &[Vec<f32>]) -> f64 {
    if expected.len() != found.len() || expected.iter().zip(found).any(|(a, b)| a.len() != b.len()) {
        return f64::INFINITY;
    }
    let pairs = || expected.iter().flatten().zip(found.iter().flatten());
    let top = pairs().fold(0f64, |top, (a, _)| top.max(f64::from(a.abs())));
    pairs().fold(0f64, |worst, (a, b)| {
        let off = f64::from((a - b).abs());
        if off.is_nan() { f64::INFINITY } else { worst.max(off / top) }
    })
}

/// Every difference of a model from its golden.
fn differences(name: &str, path: &Path, golden: &Golden) -> hoist::Result<Vec<String>> {
    let subject = Subject::of(open(path)?)?;
    let weights = Weights::new(&subject, hold())?;
    let encoder = Encoder::new(&subject, &weights)?;
    let batch = golden.batch(name);
    let mut found: Vec<(&str, Vec<Vec<f32>>)> = Vec::new();
    let hidden = encoder.hidden(&batch)?;
    let own = batch.lengths().into_iter().enumerate().flat_map(|(text, length)| {
        hidden.get(text).unwrap().narrow(0, 0, length).unwrap().to_vec2::<f32>().unwrap()
    });
    found.push(("hidden", own.collect()));
    match &subject.task {
        Task::Embedding(_) => found.push(("vectors", encoder.embed(&batch)?)),
        Task::Sequence(_) => found.push(("scores", encoder.classify(&batch)?)),
        Task::Token(_) => found.push(("scores", encoder.tokens(&batch)?.concat())),
        Task::Hidden => {}
        Task::Causal => return Ok(vec![format!("{name}: taken for a generator of text")]),
    }
    let mut lines = Vec::new();
    for kind in ["hidden", "scores", "vectors"] {
        let expected = golden.rows(&format!("{name}.{kind}"));
        let found = found.iter().find(|(k, _)| *k == kind).map(|(_, rows)| rows);
        match (expected, found) {
            (Some(expected), Some(found)) => {
                let error = error(&expected, found);
                if error > ERROR_MAX {
                    lines.push(format!("{name}: {kind} is off by {error:e}"));
                }
            }
            (None, None) => {}
            (expected, found) => {
                let (expected, found) = (expected.is_some(), found.is_some());
                lines.push(format!("{name}: {kind}: expected {expected}, found {found}"));
            }
        }
    }
    let unused = weights.unused();
    if !unused.is_empty() {
        lines.push(format!("{name}: nobody asked for {unused:?}"));
    }
    Ok(lines)
}

fn check(name: &str, path: &Path, golden: &Golden) -> Vec<String> {
    differences(name, path, golden).unwrap_or_else(|e| vec![format!("{name}: refused: {e}")])
}

#[test]
fn every_encoder_computes_what_transformers_does() {
    let golden = Golden::read();
    let mut wrong = Vec::new();
    for name in names() {
        let dir = tempfile::tempdir().unwrap();
        wrong.extend(check(&name, &write(&spec(&name), dir.path()), &golden));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn so_does_its_pytorch_file() {
    let golden = Golden::read();
    let mut wrong = Vec::new();
    for name in names() {
        let dir = tempfile::tempdir().unwrap();
        let source = write(&spec(&name), dir.path());
        let out = dir.path().join("torch");
        let mut options = Options::new(&out);
        options.to = Some(Container::Torch);
        options.shard_bytes = Some(1 << 30);
        match convert(open(&source).unwrap(), options).wait() {
            Ok(_) => wrong.extend(check(&name, &out, &golden)),
            Err(e) => wrong.push(format!("{name}: not converted: {e}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn so_does_its_gguf() {
    let golden = Golden::read();
    let mut wrong = Vec::new();
    for (name, tokenizer) in GGUFS {
        let dir = tempfile::tempdir().unwrap();
        let source = write(&spec(name), dir.path());
        for entry in std::fs::read_dir(testdata(&format!("tokenizers/{tokenizer}"))).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), source.join(entry.file_name())).unwrap();
        }
        let out = dir.path().join("f32.gguf");
        let mut options = Options::new(&out);
        options.dtype = Some(DType::F32);
        match convert(open(&source).unwrap(), options).wait() {
            Ok(_) => wrong.extend(check(name, &out, &golden)),
            Err(e) => wrong.push(format!("{name}: not converted: {e}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// all-MiniLM-L6-v2, where `HOIST_MINILM` says that it lies (`testdata/get_minilm.sh` fetches it): the vectors of 16
/// sentences, some of them cut, against those of transformers.
#[test]
fn minilm_embeds_as_it_does_in_transformers() {
    let Ok(path) = std::env::var("HOIST_MINILM") else {
        eprintln!("skipped: HOIST_MINILM names no folder; testdata/get_minilm.sh fetches the model");
        return;
    };
    let bytes = std::fs::read(testdata("golden/minilm.safetensors")).unwrap();
    let golden = Golden(bytes);
    let mask = golden.ids("attention_mask").unwrap();
    let ids = golden.ids("input_ids").unwrap().into_iter().zip(&mask);
    let ids = ids.map(|(row, mask)| row[..mask.iter().sum::<u32>() as usize].to_vec()).collect();
    let expected = golden.rows("embeddings").unwrap();
    let subject = Subject::of(open(Path::new(&path)).unwrap()).unwrap();
    let weights = Weights::new(&subject, hold()).unwrap();
    let encoder = Encoder::new(&subject, &weights).unwrap();
    let found = encoder.embed(&Batch::new(ids, Vec::new()).unwrap()).unwrap();
    assert_eq!(found.len(), expected.len());
    let least = found.iter().zip(&expected).map(|(a, b)| cosine(a, b)).fold(f64::INFINITY, f64::min);
    println!("the least cosine is {least}, the largest error {:e}", error(&expected, &found));
    assert!(least > 0.9999, "{least}");
}

/// In bf16 vectors turn a little and labels stay.
#[test]
fn sixteen_bits_are_near() {
    let golden = Golden::read();
    for name in ["sentence-bert", "sentence-modernbert", "sentence-qwen3"] {
        let dir = tempfile::tempdir().unwrap();
        let subject = Subject::of(open(&write(&spec(name), dir.path())).unwrap()).unwrap();
        let weights = Weights::new(&subject, Hold { dtype: DType::BF16, ..hold() }).unwrap();
        let found = Encoder::new(&subject, &weights).unwrap().embed(&golden.batch(name)).unwrap();
        let expected = golden.rows(&format!("{name}.vectors")).unwrap();
        for (a, b) in found.iter().zip(&expected) {
            assert!(cosine(a, b) > 0.999, "{name}: {}", cosine(a, b));
        }
    }
}

/// That the comparison sees what it is there for: a config that says one thing else is another model.
#[test]
fn another_config_computes_something_else() {
    let golden = Golden::read();
    let mut wrong = Vec::new();
    for (name, key, value) in [
        ("bert", "hidden_act", json!("gelu_new")),
        ("bert", "layer_norm_eps", json!(1e-3)),
        ("roberta-sequence", "pad_token_id", json!(2)),
        ("modernbert", "local_attention", json!(6)),
        ("modernbert", "norm_eps", json!(1e-3)),
        ("modernbert-mlm", "global_attn_every_n_layers", json!(2)),
        ("modernbert-mlm", "global_rope_theta", json!(1e4)),
        ("modernbert-mlm", "local_rope_theta", json!(1e3)),
        ("modernbert-mean", "classifier_pooling", json!("cls")),
        ("modernbert-mean", "classifier_activation", json!("gelu")),
        ("nomic", "rotary_emb_base", json!(10_000)),
        ("nomic", "layer_norm_epsilon", json!(1e-3)),
        ("llama-sequence", "rms_norm_eps", json!(1e-3)),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut spec = spec(name);
        spec.files["config.json"][key] = value.clone();
        let found = differences(name, &write(&spec, dir.path()), &golden);
        if !found.as_ref().is_ok_and(|lines| lines.iter().any(|l| l.contains("is off by"))) {
            wrong.push(format!("{name} {key} {value}: {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
