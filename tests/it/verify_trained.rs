//! A model that learned something: its perplexity and its logits are those of transformers. Random weights would not show a
//! wrong window, a lost context or a token that is not scored; a trained model's perplexity does.

use crate::load::opened;
use crate::naive::testdata;
use hoist::verify::{Options, Scoring, verify};
use serde_json::Value;

/// Of the whole text, by transformers, in windows of 256 that do not overlap: testdata/README.md.
const WHOLE_PERPLEXITY: f64 = 27.3300;
const WHOLE_TOKENS: u64 = 40203;

fn text() -> String {
    std::fs::read_to_string(testdata("rustdoc-valid.txt")).unwrap()
}

/// Perplexity and how many tokens were scored.
fn perplexity(text: &str, window: u64, stride: u64) -> (f64, u64) {
    let count = |n| Some(usize::try_from(n).unwrap());
    let options = Options {
        text: Some(text.into()),
        scoring: Scoring::Windows { window: count(window), stride: count(stride) },
        ..Options::default()
    };
    let report = verify(opened(&testdata("rustdoc-llama-6m")), options).wait().unwrap();
    assert!(report.passed(), "{:#?}", report.lines());
    let figures = &report.check("perplexity").unwrap().figures;
    (figures["perplexity"].as_f64().unwrap(), figures["tokens"].as_u64().unwrap())
}

#[test]
fn perplexity_is_that_of_transformers() {
    let golden: Value =
        serde_json::from_slice(&std::fs::read(testdata("golden/verify/rustdoc.json")).unwrap()).unwrap();
    let text = text();
    let beginning = &text[..golden["bytes"].as_u64().unwrap() as usize];
    for row in golden["perplexity"].as_array().unwrap() {
        let of = |key: &str| row[key].as_u64().unwrap();
        let expected = row["perplexity"].as_f64().unwrap();
        let (found, tokens) = perplexity(beginning, of("window"), of("stride"));
        assert_eq!(tokens, of("scored"), "{row}");
        assert!((found / expected - 1.0).abs() < 1e-5, "{found}, where {row} is expected");
    }
}

#[test]
fn perplexity_of_the_whole_text() {
    let (found, tokens) = perplexity(&text(), 256, 256);
    // A window's first token has nothing before it.
    assert_eq!(tokens, WHOLE_TOKENS - WHOLE_TOKENS.div_ceil(256));
    assert!((found / WHOLE_PERPLEXITY - 1.0).abs() < 1e-3, "{found}");
}

#[test]
fn logits_are_those_of_transformers() {
    let options = Options {
        reference: Some(opened(&testdata("golden/verify/rustdoc.safetensors"))),
        ..Options::default()
    };
    let report = verify(opened(&testdata("rustdoc-llama-6m")), options).wait().unwrap();
    assert!(report.passed(), "{:#?}", report.lines());
    let figures = &report.check("logits").unwrap().figures;
    let error = figures["max_relative"].as_f64().unwrap();
    assert!(error < 1e-5, "{figures:#?}");
}
