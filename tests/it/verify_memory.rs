//! Models far larger than the memory they are given: verified layer by layer under it, to the same bits, or refused before a
//! byte of weights is read.

use crate::load::{in_child, opened};
use crate::naive::testdata;
use hoist::ErrorKind;
use hoist::dtype::DType;
use hoist::verify::report::Report;
use hoist::verify::{Options, verify};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The limit. A process that has done nothing has some 30 MB of code and tables of its own.
const MEMORY_BYTES: u64 = 96 << 20;
/// Times the limit that a model's weights take, in the type they are stored in.
const TIMES: u64 = 10;

/// A synthetic Llama in bf16 with a small tokenizer; made once and kept in the target folder.
fn synthetic(name: &str, change: impl FnOnce(&mut hoist::synth::Options)) -> PathBuf {
    static MAKING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = MAKING.lock().unwrap_or_else(|e| e.into_inner());
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if !path.exists() {
        let mine = path.with_extension(std::process::id().to_string());
        let mut options = hoist::synth::Options::new(&mine);
        change(&mut options);
        hoist::synth::synth(options).wait().unwrap();
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            let bytes = std::fs::read(testdata(&format!("rustdoc-llama-6m/{file}"))).unwrap();
            std::fs::write(mine.join(file), bytes).unwrap();
        }
        let _ = std::fs::rename(&mine, &path);
    }
    path
}

fn run(path: &Path, change: impl FnOnce(&mut Options)) -> hoist::Result<Report> {
    let sample = "fn main() { let words = [\"one\", \"two\"]; println!(\"{}\", words.len()); }";
    let mut options = Options { sample: Some(sample.into()), dtype: Some(DType::F32), ..Options::default() };
    change(&mut options);
    verify(opened(path), options).wait()
}

/// Under a tenth of what its weights take, a model passes, and every logit is what it is with all memory there is.
#[test]
fn a_tenth_is_enough() {
    const NAME: &str = "verify_memory::a_tenth_is_enough";
    let model = synthetic("verify-synthetic-narrow", |o| {
        (o.hidden, o.size_bytes) = (Some(512), Some(TIMES * MEMORY_BYTES));
    });
    let expected = Path::new(env!("CARGO_TARGET_TMPDIR")).join("verify-memory-logits.safetensors");
    if std::env::var_os("HOIST_LOAD_TEST_CHILD").is_none() {
        let whole = run(&model, |o| {
            o.logits = Some(expected.clone());
            o.force = true;
        });
        assert!(whole.unwrap().passed());
    }
    if in_child(NAME, ":") {
        return;
    }
    let before = hoist::machine::peak_resident_bytes().unwrap();
    let report = run(&model, |o| {
        o.reference = Some(opened(&expected));
        o.memory_bytes = Some(MEMORY_BYTES);
        o.gate.max_relative = Some(0.0);
    });
    let report = report.unwrap();
    let peak = hoist::machine::peak_resident_bytes().unwrap();
    assert!(report.passed(), "{:?}", report.checks);
    assert!(peak <= MEMORY_BYTES, "{peak} resident, {MEMORY_BYTES} allowed, {before} at the start");
}

/// Where not even a layer fits, it is said before any weight is read.
#[test]
fn less_than_a_layer_is_refused() {
    let model = synthetic("verify-synthetic-wide", |o| (o.hidden, o.layers) = (Some(1024), Some(2)));
    let begun = std::time::Instant::now();
    // A layer is 54 MB in float32, and the process needs some for itself.
    let error = run(&model, |o| o.memory_bytes = Some(68 << 20)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert!(begun.elapsed().as_secs() < 5, "refused after {:?}", begun.elapsed());
    let error = run(&model, |o| o.memory_bytes = Some(4 << 20)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "less than any run needs: {error}");
}
