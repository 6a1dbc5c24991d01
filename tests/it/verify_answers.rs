//! Questions in words, on the command line: what `--embed`, `--pair`, `--classify` and `--ner` answer is what transformers'
//! pipelines answer (`testdata/make/answers.py`), whatever texts go side by side.

use crate::cli::{code, hoist, text};
use crate::naive::testdata;
use crate::verify_encoder::{spec, write};
use serde_json::Value as Json;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// The largest difference of a number; the goldens have seven digits.
const DISTANCE_MAX: f64 = 2e-5;

fn golden() -> Json {
    serde_json::from_slice(&std::fs::read(testdata("golden/answers.json")).unwrap()).unwrap()
}

/// The model of a golden, and its tokenizer beside it.
fn model(golden: &Json, place: &Path) -> PathBuf {
    let name = golden["model"].as_str().unwrap();
    let out = write(&spec(name), &place.join(name));
    let tokenizer = format!("tokenizers/{}", golden["tokenizer"].as_str().unwrap());
    for entry in std::fs::read_dir(testdata(&tokenizer)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), out.join(entry.file_name())).unwrap();
    }
    out
}

fn texts(list: &Json) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect()
}

/// Standard output of `hoist verify MODEL …`, which must succeed.
fn asked(model: &Path, arguments: &[&str]) -> String {
    let all = [&["verify", model.to_str().unwrap(), "--quiet"], arguments].concat();
    let got = hoist(&all).output().unwrap();
    assert_eq!(code(&got), 0, "{arguments:?}: {}", text(&got.stderr));
    assert_eq!(text(&got.stderr), "", "{arguments:?}");
    text(&got.stdout).to_owned()
}

fn near(a: &Json, b: &Json) -> bool {
    (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < DISTANCE_MAX
}

fn all_near(a: &Json, b: &Json) -> bool {
    let (a, b) = (a.as_array().unwrap(), b.as_array().unwrap());
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| near(a, b))
}

#[test]
fn vectors() {
    let (golden, place) = (golden(), tempfile::tempdir().unwrap());
    let expected = golden["embed"]["vectors"].as_array().unwrap();
    let model = model(&golden["embed"], place.path());
    let texts = texts(&golden["texts"]);
    let together = asked(&model, &[&["--embed"], &texts[..]].concat());
    let lines: Vec<Json> = together.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), texts.len());
    for ((line, expected), asked_text) in lines.iter().zip(expected).zip(&texts) {
        assert!(all_near(line, expected), "{asked_text}: {line} {expected}");
    }
    // As one document, from standard input, and each by itself.
    let document: Json =
        serde_json::from_str(&asked(&model, &[&["--json", "--embed"], &texts[..]].concat())).unwrap();
    assert_eq!(
        (&document["schema"], &document["answer"]["kind"]),
        (&"hoist.verify/1".into(), &"embeddings".into())
    );
    assert_eq!(document["answer"]["embeddings"].as_array().unwrap(), &lines);
    assert!(document["notes"][0].as_str().unwrap().contains("cut to the 24 tokens"), "{document:#}");
    let mut child = hoist(&["verify", model.to_str().unwrap(), "-q", "--embed", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), texts.join("\n").as_bytes()).unwrap();
    assert_eq!(text(&child.wait_with_output().unwrap().stdout), together);
    for (asked_text, expected) in texts.iter().zip(expected) {
        let line: Json = serde_json::from_str(&asked(&model, &["--embed", asked_text])).unwrap();
        assert!(all_near(&line, expected), "{asked_text}");
    }
    // In less memory than the whole takes there is no other answer; in 16 bits a near one.
    let half: Json = serde_json::from_str(&asked(&model, &["--dtype", "bf16", "--embed", texts[0]])).unwrap();
    let distance = |a: &Json, b: &Json| (a.as_f64().unwrap() - b.as_f64().unwrap()).abs();
    let pairs = half.as_array().unwrap().iter().zip(expected[0].as_array().unwrap());
    assert!(pairs.map(|(a, b)| distance(a, b)).fold(0.0, f64::max) < 0.05);
}

#[test]
fn classes() {
    let (golden, place) = (golden(), tempfile::tempdir().unwrap());
    let model = model(&golden["classify"], place.path());
    let texts = texts(&golden["texts"]);
    let document: Json =
        serde_json::from_str(&asked(&model, &[&["--json", "--classify"], &texts[..]].concat())).unwrap();
    let found = document["answer"]["classes"].as_array().unwrap();
    let expected = golden["classify"]["classes"].as_array().unwrap();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        let (found, expected) = (found.as_array().unwrap(), expected.as_array().unwrap());
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                found["label"] == expected[0] && near(&found["probability"], &expected[1]),
                "{found} {expected}"
            );
        }
    }
    let lines = asked(&model, &[&["--classify"], &texts[..]].concat());
    let first = &expected[0][0];
    let line = format!("{}  {:.4}", first[0].as_str().unwrap(), first[1].as_f64().unwrap());
    assert_eq!(lines.lines().next(), Some(line.as_str()));
    assert_eq!(lines.lines().count(), texts.len());
    // A pair of which the model tells classes apart has no one score.
    let pair: Json = serde_json::from_str(&asked(&model, &["--json", "--pair", "a", "b"])).unwrap();
    assert_eq!(pair["answer"]["classes"][0].as_array().unwrap().len(), 3);
}

#[test]
fn scores_of_pairs() {
    let (golden, place) = (golden(), tempfile::tempdir().unwrap());
    let model = model(&golden["pair"], place.path());
    let mut arguments = Vec::new();
    for pair in golden["pairs"].as_array().unwrap() {
        arguments.extend(["--pair", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()]);
    }
    let lines = asked(&model, &arguments);
    let found: Vec<Json> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(all_near(&found.into(), &golden["pair"]["scores"]), "{lines} {}", golden["pair"]["scores"]);
}

#[test]
fn things_named() {
    let (golden, place) = (golden(), tempfile::tempdir().unwrap());
    for golden_of in golden["ner"].as_array().unwrap() {
        let model = model(golden_of, place.path());
        let expected = golden_of["entities"].as_array().unwrap();
        let texts = &texts(&golden["names"])[..];
        let document: Json =
            serde_json::from_str(&asked(&model, &[&["--json", "--ner"], texts].concat())).unwrap();
        let found = document["answer"]["entities"].as_array().unwrap();
        let mut lines = Vec::new();
        for (number, ((found, expected), of)) in found.iter().zip(expected).zip(texts).enumerate() {
            let (found, expected) = (found.as_array().unwrap(), expected.as_array().unwrap());
            assert_eq!(found.len(), expected.len(), "{of}: {found:#?} {expected:#?}");
            for (found, expected) in found.iter().zip(expected) {
                let place = (&found["label"], &found["start"], &found["end"]);
                assert_eq!(place, (&expected[0], &expected[1], &expected[2]), "{of}");
                assert!(near(&found["probability"], &expected[3]), "{of}: {found} {expected}");
                let (start, end) =
                    (found["start"].as_u64().unwrap() as usize, found["end"].as_u64().unwrap() as usize);
                let named: String = of.chars().skip(start).take(end - start).collect();
                assert_eq!(found["text"], named.as_str());
                lines.push(format!(
                    "{}  {}  {start}..{end}  {named}",
                    number + 1,
                    found["label"].as_str().unwrap()
                ));
            }
        }
        assert!(!lines.is_empty());
        assert_eq!(asked(&model, &[&["--ner"], texts].concat()).lines().collect::<Vec<_>>(), lines);
    }
}

/// Whoever asks a model for what it is not for is told what it is for.
#[test]
fn the_wrong_question() {
    let (golden, place) = (golden(), tempfile::tempdir().unwrap());
    for (key, question, hint) in [
        ("embed", &["--classify", "x"][..], "--embed asks for that"),
        ("classify", &["--prompt", "x"], "--classify or --pair asks for that"),
        ("classify", &["--embed", "x"], "--classify or --pair asks for that"),
        ("pair", &["--ner", "x"], "--classify or --pair asks for that"),
    ] {
        let model = model(&golden[key], place.path());
        let all = [&["verify", model.to_str().unwrap()], question].concat();
        let got = hoist(&all).output().unwrap();
        assert_eq!(code(&got), 2, "{question:?}: {}", text(&got.stderr));
        assert!(text(&got.stderr).contains(hint), "{question:?}: {}", text(&got.stderr));
    }
}
