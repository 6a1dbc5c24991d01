//! hoist's forward pass against candle-transformers' models, which share the tensor library with it and no line of model
//! code: logits of the last position of a prompt, by candle at once, by hoist at once and token after token.
//!
//! What is compared is what both can say. candle 0.11.1 deviates from transformers where a row says so: a sliding window
//! there lets one token too many through, and every one where tokens come alone; gemma2's stands in every layer; llama reads
//! no head size and no biases; nobody but llama and phi3 reads how rotary embeddings are scaled; its gemma3 does not run on a
//! CPU. Such a fact is given to candle in its own terms (`theirs`) or kept out of the test (`tokens` fewer than a window).

#[path = "../../it/families/model.rs"]
#[allow(dead_code)]
mod model;

/// What `model` takes from the other tests.
mod naive {
    pub(crate) fn testdata(name: &str) -> std::path::PathBuf {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name)
    }
}

use candle_core::DType;
use hoist_candle_models::ours::Ours;
use hoist_candle_models::{Rival, dialect, ids};
use serde_json::{Value, json};

/// The largest difference, over the largest logit.
const MAX_RELATIVE: f32 = 2e-5;

/// A family of `testdata/families/`.
struct Row {
    family: &'static str,
    /// How many tokens.
    tokens: usize,
    /// What the config says in place of what it said, for both.
    both: &'static [(&'static str, &'static str)],
    /// What candle's config says beyond that.
    theirs: &'static [(&'static str, &'static str)],
}

const PLAIN: Row = Row { family: "", tokens: 40, both: &[], theirs: &[] };

const LLAMA3: &str = r#"{"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32}"#;

#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row { family: "llama", ..PLAIN },
    Row { family: "llama", both: &[("rope_parameters", LLAMA3)], ..PLAIN },
    Row { family: "llama-tied", ..PLAIN },
    Row { family: "mistral", ..PLAIN },
    Row { family: "mistral", both: &[("sliding_window", "8")], theirs: &[("sliding_window", "7")], ..PLAIN },
    Row { family: "mixtral", ..PLAIN },
    Row { family: "qwen2", ..PLAIN },
    Row { family: "qwen3", ..PLAIN },
    Row { family: "qwen3_moe", ..PLAIN },
    Row { family: "gemma2", tokens: 7, ..PLAIN },
    Row { family: "phi3", ..PLAIN },
    Row { family: "starcoder2", ..PLAIN },
    Row { family: "olmo2", ..PLAIN },
    Row { family: "smollm3", ..PLAIN },
];

fn edited(config: &Value, edits: &[(&str, &str)]) -> Value {
    let mut config = config.clone();
    for (key, value) in edits {
        config[*key] = serde_json::from_str(value).unwrap();
    }
    config
}

/// The largest difference of the two, over the largest of `theirs`.
fn distance(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let top = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0, |top: f32, x| top.max(x.abs()));
    assert!(theirs.iter().chain(ours).all(|x| x.is_finite()));
    top(&mut ours.iter().zip(theirs).map(|(a, b)| a - b)) / top(&mut theirs.iter().copied())
}

#[test]
fn the_same_logits() {
    let place = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    for (number, row) in ROWS.iter().enumerate() {
        let folder = place.path().join(number.to_string());
        let written = model::write(&model::spec(row.family), &folder);
        let path = written.join("config.json");
        let config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let config = edited(&config, row.both);
        std::fs::write(&path, config.to_string()).unwrap();
        let what = format!("{} {:?}", row.family, row.both);
        let mut rival = match Rival::load(&written, &edited(&dialect(&config), row.theirs), DType::F32) {
            Ok(rival) => rival,
            Err(e) => panic!("{what}: candle: {e}"),
        };
        let mut ours = Ours::load(&written, DType::F32).unwrap_or_else(|e| panic!("{what}: hoist: {e}"));
        assert_eq!(ours.vocabulary(), rival.vocabulary, "{what}");
        let ids = ids(row.tokens, rival.vocabulary);
        let mut judge = |way: &str, ours: &[f32], theirs: &[f32]| {
            let distance = distance(ours, theirs);
            if distance > MAX_RELATIVE {
                wrong.push(format!("{what}, {way}: {distance:e}"));
            }
        };
        let theirs = rival.last_logits(&ids, 0).unwrap();
        judge("at once", &ours.last_logits(&ids, 0).unwrap(), &theirs);
        let (prompt, rest) = ids.split_at(row.tokens / 2);
        let mut last = ours.last_logits(prompt, 0).unwrap();
        for (at, id) in rest.iter().enumerate() {
            last = ours.last_logits(&[*id], prompt.len() + at).unwrap();
        }
        judge("one after the other", &last, &theirs);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// That the test above can fail: another base of the rotary embedding is far from the limit.
#[test]
fn another_model_is_told_apart() {
    let place = tempfile::tempdir().unwrap();
    let written = model::write(&model::spec("llama"), place.path());
    let config: Value = serde_json::from_slice(&std::fs::read(written.join("config.json")).unwrap()).unwrap();
    let of = |theta: f64| {
        let config = edited(&dialect(&config), &[("rope_theta", &json!(theta).to_string())]);
        Rival::load(&written, &config, DType::F32).unwrap().last_logits(&ids(40, 512), 0).unwrap()
    };
    assert!(distance(&of(10_000.0), &of(20_000.0)) > 10.0 * MAX_RELATIVE);
}
