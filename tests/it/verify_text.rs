//! Tokenizers, and text made by a model: against the ids that transformers gives.

use crate::load::opened;
use crate::naive::testdata;
use hoist::ErrorKind;
use hoist::dtype::DType;
use hoist::verify::decoder::Decoder;
use hoist::verify::generate::{Generation, Next, Sampling, StoppedBy, generate, generate_with};
use hoist::verify::subject::Subject;
use hoist::verify::text::{Tokenizer, compare, stop_ids};
use hoist::verify::weights::{Hold, Weights};
use serde_json::{Value as Json, json};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

const PROMPT: &str = "The `Vec` type is";
/// transformers 5.23, f32.
const PROMPT_IDS: &[u32] = &[580, 504, 1979, 65, 516, 338];
const GREEDY_IDS: &[u32] = &[504, 53, 65, 200, 353, 504, 53, 65, 338, 504, 53, 65, 200];

fn model() -> PathBuf {
    testdata("rustdoc-llama-6m")
}

fn tokenizer() -> Tokenizer {
    Tokenizer::of_model(&opened(&model()), &json!({})).unwrap().unwrap()
}

fn as_gguf(folder: &Path) -> PathBuf {
    let path = folder.join("model.gguf");
    let mut options = hoist::convert::Options::new(&path);
    options.dtype = Some(DType::F32);
    hoist::convert::convert(opened(&model()), options).wait().unwrap();
    path
}

#[test]
fn ids_are_those_of_transformers() {
    let tokenizer = tokenizer();
    assert_eq!(tokenizer.encode(PROMPT, true).unwrap(), PROMPT_IDS);
    assert_eq!(tokenizer.decode(PROMPT_IDS, true).unwrap(), PROMPT);
    assert_eq!(tokenizer.encode("", true).unwrap(), [] as [u32; 0]);
    assert_eq!(tokenizer.encode("<|bos|>", false).unwrap(), [0]);
    assert_eq!(tokenizer.bos(), None, "nothing is put before a text");
    assert_eq!(tokenizer.length_max(), Some(512));
    assert_eq!(tokenizer.special_tokens()["bos_token"], json!("<|bos|>"));
}

#[test]
fn offsets_count_characters() {
    let text = "Zürich 日本 🦀 ok";
    let encoded = tokenizer().encode_with_offsets(text).unwrap();
    assert_eq!(encoded.offsets.last().unwrap().1, text.chars().count());
    assert_eq!(encoded.ids.len(), encoded.offsets.len());
    let pair = tokenizer().encode_pair("one", "two").unwrap();
    assert_eq!((pair.types.first(), pair.types.last()), (Some(&0), Some(&1)));
}

#[test]
fn a_stream_gives_whole_characters_and_nothing_twice() {
    let tokenizer = tokenizer();
    for (prompt, text) in [("", "Zürich 日本語 🦀🦀 and\n more"), ("The crab: ", "🦀 is"), ("x", "")]
    {
        let (prompt, ids) =
            (tokenizer.encode(prompt, false).unwrap(), tokenizer.encode(text, false).unwrap());
        let mut stream = tokenizer.decode_stream(&prompt, true);
        let mut got = String::new();
        for id in ids {
            let piece = stream.step(id).unwrap().unwrap_or_default();
            assert!(!piece.contains('\u{fffd}'), "{piece:?}");
            got.push_str(&piece);
        }
        got.push_str(&stream.finish().unwrap().unwrap_or_default());
        assert_eq!(got, text);
        assert_eq!(stream.finish().unwrap(), None);
    }
    // Half a character at the end is shown as what it is.
    let ids = tokenizer.encode("🦀", false).unwrap();
    let mut stream = tokenizer.decode_stream(&[], true);
    assert!(ids.len() > 1 && stream.step(ids[0]).unwrap().is_none());
    assert_eq!(stream.finish().unwrap().as_deref(), Some("\u{fffd}"));
}

#[test]
fn a_difference_is_told_by_its_place() {
    let whole: Json =
        serde_json::from_slice(&std::fs::read(model().join("tokenizer.json")).unwrap()).unwrap();
    let mut changed = whole.clone();
    let merges = changed["model"]["merges"].as_array_mut().unwrap();
    merges.truncate(merges.len() / 2);
    let changed = serde_json::to_vec(&changed).unwrap();
    let changed = Tokenizer::new(&changed, &Json::Null, &Json::Null, "changed").unwrap();
    let text = "fn main() { let unfortunately = documentation; }";
    assert_eq!(compare(&tokenizer(), &tokenizer(), text).unwrap(), None);
    let found = compare(&tokenizer(), &changed, text).unwrap().unwrap();
    let ids = (tokenizer().encode(text, true).unwrap(), changed.encode(text, true).unwrap());
    assert_eq!(found.first.as_ref().unwrap().0, ids.0[found.position]);
    assert_eq!(found.second.as_ref().unwrap().0, ids.1[found.position]);
    assert_eq!(ids.0[..found.position], ids.1[..found.position]);
    assert!(text.contains(&found.text) && found.to_string().contains("expected"), "{found}");
}

#[test]
fn a_damaged_tokenizer_is_an_error_and_no_panic() {
    let whole = std::fs::read(model().join("tokenizer.json")).unwrap();
    let text = String::from_utf8(whole).unwrap();
    let rows = [
        text[..text.len() / 2].to_string(),
        "{}".into(),
        "[]".into(),
        text.replace("\"BPE\"", "\"Unigram\""),
        text.replace("\"BPE\"", "\"WordPiece\""),
        text.replacen("\"vocab\"", "\"vocap\"", 1),
    ];
    for row in rows {
        let got = Tokenizer::new(row.as_bytes(), &Json::Null, &Json::Null, "x");
        assert!(got.is_err_and(|e| e.kind() == ErrorKind::BadInput), "{:.60}", row);
    }
    // A vocabulary with ids far apart, and merges of what it does not have.
    let odd = json!({"version": "1.0", "added_tokens": [], "model": {"type": "Unigram", "unk_id": 5, "vocab": [["a", 0.0]]}});
    let got = Tokenizer::new(odd.to_string().as_bytes(), &Json::Null, &Json::Null, "x");
    if let Ok(tokenizer) = got {
        let _ = tokenizer.encode("b", true);
    }
}

#[test]
fn a_text_ends_where_any_file_says() {
    let subject = opened(&model());
    let config = json!({"eos_token_id": [7, 1], "text_config": {"eos_token_id": 9}});
    assert_eq!(stop_ids(&subject, &config, Some(&tokenizer())).unwrap(), [1, 7, 9]);
    assert_eq!(stop_ids(&subject, &json!({}), None).unwrap(), [1]);
}

fn held(subject: &Subject) -> Weights {
    let hold = Hold {
        dtype: DType::F32,
        device: candle_core::Device::Cpu,
        memory_bytes: 1 << 30,
        native: false,
        threads: None,
        stop: Default::default(),
    };
    Weights::new(subject, hold).unwrap()
}

fn greedy(path: &Path) -> (Generation, Vec<String>) {
    let subject = Subject::of(opened(path)).unwrap();
    let weights = held(&subject);
    let decoder = Decoder { forward: &subject.forward, weights: &weights };
    let tokenizer = Tokenizer::of(&subject).unwrap().unwrap();
    let prompt = tokenizer.encode(PROMPT, true).unwrap();
    let stop = stop_ids(&subject.model, &subject.config, Some(&tokenizer)).unwrap();
    let sampling = Sampling { max_tokens: GREEDY_IDS.len(), ..Sampling::default() };
    let mut pieces = Vec::new();
    let mut on_text = |piece: &str| {
        pieces.push(piece.to_string());
        ControlFlow::Continue(())
    };
    let made = generate(&decoder, Some(&tokenizer), &prompt, &sampling, &stop, &mut on_text).unwrap();
    (made, pieces)
}

#[test]
fn the_likeliest_tokens_are_those_of_transformers() {
    let folder = tempfile::tempdir().unwrap();
    for path in [model(), as_gguf(folder.path())] {
        let (made, pieces) = greedy(&path);
        assert_eq!(made.ids, GREEDY_IDS, "{}", path.display());
        assert_eq!(made.stopped_by, StoppedBy::Length);
        assert_eq!(pieces.concat(), made.text);
        assert!(made.decode_tokens_per_second > 0.0 && made.prefill_tokens_per_second > 0.0);
    }
}

/// Each token with all before it, nothing kept: the same ids.
#[test]
fn what_is_kept_changes_nothing() {
    let subject = Subject::of(opened(&model())).unwrap();
    let weights = held(&subject);
    let decoder = Decoder { forward: &subject.forward, weights: &weights };
    let vocabulary = decoder.vocabulary().unwrap();
    let mut all = Vec::new();
    let mut logits = |ids: &[u32], position: usize| {
        assert_eq!(position, all.len());
        all.extend_from_slice(ids);
        let mut cache = hoist::verify::decoder::Cache::new(&subject.forward);
        let hidden = decoder.pass(&all, &mut cache)?;
        let last = hidden.narrow(0, all.len() - 1, 1).unwrap();
        Ok(decoder.logits(&last, 0..vocabulary)?.flatten_all().unwrap().to_vec1().unwrap())
    };
    let sampling = Sampling { max_tokens: GREEDY_IDS.len(), ..Sampling::default() };
    let next = Next { logits: &mut logits, context: 512 };
    let made =
        generate_with(next, None, PROMPT_IDS, &sampling, &[], &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(made.ids, GREEDY_IDS);
}

/// A model of four tokens whose logits are always the same.
fn drawn(sampling: &Sampling, context: usize, stop: &[u32]) -> hoist::Result<Generation> {
    let mut logits = |_: &[u32], _: usize| Ok(vec![1.0, 3.0, 2.0, f32::NEG_INFINITY]);
    let next = Next { logits: &mut logits, context };
    generate_with(next, None, &[0, 0], sampling, stop, &mut |_| ControlFlow::Continue(()))
}

#[test]
fn tokens_are_drawn_as_often_as_they_are_likely() {
    let sampling = Sampling { temperature: 1.0, max_tokens: 20_000, ..Sampling::default() };
    let ids = drawn(&sampling, usize::MAX, &[]).unwrap().ids;
    assert_eq!(ids, drawn(&sampling, usize::MAX, &[]).unwrap().ids, "the same seed draws the same");
    let share = |ids: &[u32], id: u32| ids.iter().filter(|&&i| i == id).count() as f64 / ids.len() as f64;
    for (id, expected) in [(0, 0.0900), (1, 0.6652), (2, 0.2447), (3, 0.0)] {
        assert!((share(&ids, id) - expected).abs() < 0.015, "{id}: {}", share(&ids, id));
    }
    let top = drawn(&Sampling { top_p: 0.8, seed: 1, ..sampling }, usize::MAX, &[]).unwrap().ids;
    assert!(share(&top, 0) == 0.0 && (share(&top, 2) - 0.2689).abs() < 0.015);
    let first = drawn(&Sampling { top_p: 1e-9, ..sampling }, usize::MAX, &[]).unwrap().ids;
    assert!(first.iter().all(|&id| id == 1));
}

#[test]
fn a_text_ends_for_one_of_four_reasons() {
    let five = Sampling { max_tokens: 5, ..Sampling::default() };
    let ended = |context, stop: &[u32]| {
        drawn(&five, context, stop).map(|made| (made.ids.len(), made.stopped_by)).unwrap()
    };
    assert_eq!(ended(100, &[]), (5, StoppedBy::Length));
    assert_eq!(ended(100, &[1]), (0, StoppedBy::EndToken(1)));
    // Two of the prompt and two more are passed; the third needs no pass.
    assert_eq!(ended(4, &[]), (3, StoppedBy::Context));
    assert_eq!(ended(2, &[]), (1, StoppedBy::Context));
    let refused = [
        (drawn(&five, 1, &[]), "the model takes 1"),
        (drawn(&Sampling { temperature: -1.0, ..five }, 9, &[]), "temperature"),
        (drawn(&Sampling { temperature: f64::NAN, ..five }, 9, &[]), "temperature"),
        (drawn(&Sampling { top_p: 0.0, ..five }, 9, &[]), "top-p"),
    ];
    for (got, said) in refused {
        assert!(got.is_err_and(|e| e.kind() == ErrorKind::Usage && e.to_string().contains(said)), "{said}");
    }
}
