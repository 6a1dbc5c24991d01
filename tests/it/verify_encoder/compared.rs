//! Encoders verified against one another and against files: what is caught, by which check, and whose fault it is.

use super::{names, open, spec, write};
use crate::naive::testdata;
use hoist::convert::convert;
use hoist::dtype::DType;
use hoist::error::ErrorKind::{self, BadInput, Usage};
use hoist::verify::report::{Outcome, Report};
use hoist::verify::{Gate, Options, Scoring, verify};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A model with a tokenizer, in a folder of its own.
struct Made {
    dir: tempfile::TempDir,
    path: PathBuf,
}

fn made(name: &str) -> Made {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&spec(name), dir.path());
    for entry in std::fs::read_dir(testdata("tokenizers/wordpiece")).unwrap() {
        let entry = entry.unwrap();
        std::fs::write(path.join(entry.file_name()), std::fs::read(entry.path()).unwrap()).unwrap();
    }
    Made { dir, path }
}

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// Writes a safetensors file anew, with other tensors.
fn edit(path: &Path, change: impl FnOnce(&mut Tensors)) {
    let bytes = std::fs::read(path).unwrap();
    let of = |t: &TensorView<'_>| (t.dtype(), t.shape().to_vec(), t.data().to_vec());
    let read = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Tensors = read.tensors().iter().map(|(name, t)| (name.clone(), of(t))).collect();
    change(&mut tensors);
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    let meta = [("format".to_string(), "pt".to_string())].into();
    std::fs::write(path, safetensors::serialize(views, Some(meta)).unwrap()).unwrap();
}

/// Multiplies tensors of f32.
fn scale(tensors: &mut Tensors, names: &[&str], by: f32) {
    for name in names {
        for number in tensors.get_mut(*name).unwrap().2.chunks_exact_mut(4) {
            let x = f32::from_le_bytes((&*number).try_into().unwrap()) * by;
            number.copy_from_slice(&x.to_le_bytes());
        }
    }
}

fn weights(model: &Made) -> PathBuf {
    model.path.join("model.safetensors")
}

fn against(candidate: &Path, other: &Path, gate: Gate) -> hoist::Result<Report> {
    let options = Options { against: Some(open(other)?), gate, ..Options::default() };
    verify(open(candidate)?, options).wait()
}

fn reference(candidate: &Path, file: &Path, gate: Gate) -> hoist::Result<Report> {
    let options = Options { reference: Some(open(file)?), gate, ..Options::default() };
    verify(open(candidate)?, options).wait()
}

/// What the model gives, in a file.
fn answers(model: &Made, memory_bytes: Option<u64>) -> (PathBuf, Report) {
    let file = model.dir.path().join("answers.safetensors");
    let options = Options { logits: Some(file.clone()), memory_bytes, force: true, ..Options::default() };
    let report = verify(open(&model.path).unwrap(), options).wait().unwrap();
    (file, report)
}

/// The checks that failed, and why.
fn failed(report: &Report) -> Vec<(&'static str, String)> {
    let why = |outcome: &Outcome| match outcome {
        Outcome::Failed(why) => why.clone(),
        _ => String::new(),
    };
    report.failed().map(|check| (check.name, why(&check.outcome))).collect()
}

/// What is only too large, or moved, changes no direction and perhaps no label, and is caught.
#[test]
fn sizes_are_judged_too() {
    let last = &["encoder.layer.1.output.LayerNorm.weight", "encoder.layer.1.output.LayerNorm.bias"][..];
    let gate = |max_relative, min_cosine| Gate { max_relative, min_cosine, ..Gate::default() };
    let none = Gate::default();
    type Row<'a> = (&'a str, &'a [&'a str], f32, Gate, Option<(&'a str, &'a str)>);
    let rows: &[Row<'_>] = &[
        ("bert-cross", &["classifier.weight"], 1.1, none, Some(("labels", "max rel"))),
        (
            "bert-cross",
            &["classifier.weight", "classifier.bias"],
            100.0,
            none,
            Some(("labels", "max rel 99 is above")),
        ),
        ("bert-cross", &["classifier.weight", "classifier.bias"], 1.1, gate(Some(0.11), None), None),
        (
            "bert-cross",
            &["classifier.weight", "classifier.bias"],
            1.1,
            gate(Some(0.09), None),
            Some(("labels", "above 0.09")),
        ),
        (
            "bert-cross",
            &["classifier.weight", "classifier.bias"],
            -1.0,
            gate(None, Some(0.5)),
            Some(("labels", "is below 0.5")),
        ),
        (
            "bert-sequence",
            &["classifier.weight", "classifier.bias"],
            100.0,
            none,
            Some(("labels", "max rel 99 is above")),
        ),
        ("bert-sequence", &["classifier.weight", "classifier.bias"], 100.0, gate(None, Some(0.9)), None),
        ("bert-tokens", &["classifier.weight", "classifier.bias"], 1.01, none, Some(("labels", "max rel"))),
        ("bert", last, 100.0, none, Some(("embeddings", "max rel 99 is above 0.001"))),
        ("bert", last, 1.01, none, Some(("embeddings", "max rel 0.010 is above 0.001"))),
        // Divided by its length it is the same vector.
        ("sentence-mean", last, 100.0, none, None),
    ];
    let mut wrong = Vec::new();
    for (name, tensors, by, gate, expected) in rows {
        let (original, changed) = (made(name), made(name));
        edit(&weights(&changed), |all| scale(all, tensors, *by));
        let report = against(&changed.path, &original.path, *gate).unwrap();
        let found = failed(&report);
        let fits = match expected {
            None => report.passed(),
            Some((check, why)) => found.iter().any(|(name, said)| name == check && said.contains(why)),
        };
        if !fits {
            wrong.push(format!("{name} {tensors:?} × {by}: {found:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every kind of encoder is what it was written as, and near it in 16 bits. Random heads of tokens are left out there: of
/// two thousand tokens a few stand between two labels.
#[test]
fn casts_keep_their_limits() {
    let mut wrong = Vec::new();
    for name in names() {
        let original = made(&name);
        let mut forms = vec![("itself", original.path.clone())];
        for (form, dtype) in [("f16", DType::F16)].into_iter().filter(|_| !name.ends_with("-tokens")) {
            let out = original.dir.path().join(form);
            let mut options = hoist::convert::Options::new(&out);
            options.dtype = Some(dtype);
            match convert(open(&original.path).unwrap(), options).wait() {
                Ok(_) => forms.push((form, out)),
                Err(e) => wrong.push(format!("{name} to {form}: {e}")),
            }
        }
        for (form, path) in forms {
            let report = against(&path, &original.path, Gate::default());
            let report = match report {
                Ok(report) => report,
                Err(e) => {
                    wrong.push(format!("{name} as {form}: {e}"));
                    continue;
                }
            };
            for check in report.checks.iter().filter(|c| matches!(c.name, "embeddings" | "labels")) {
                eprintln!("{name} {form}: {} {}", check.name, check.line);
            }
            if !report.passed() {
                wrong.push(format!("{name} as {form}: {:?}", failed(&report)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is written is what passed: texts that are too long, as they were cut. And a little memory gives the same.
#[test]
fn answers_there_and_back() {
    let mut wrong = Vec::new();
    for name in names() {
        let model = made(&name);
        for memory_bytes in [None, Some(64 << 20)] {
            let (file, report) = answers(&model, memory_bytes);
            if !report.notes.iter().any(|note| note.contains("texts were cut to the")) {
                wrong.push(format!("{name}: nothing was cut: {:?}", report.notes));
            }
            let report = reference(&model.path, &file, Gate::default()).unwrap();
            let check = report.check("embeddings").or(report.check("labels")).unwrap();
            let figures =
                ["max_abs", "scores_max_abs"].map(|key| check.figures.get(key).and_then(|x| x.as_f64()));
            let max_abs = figures.into_iter().flatten().next().unwrap_or(f64::NAN);
            if !report.passed() || max_abs.is_nan() || max_abs >= 1e-5 {
                wrong.push(format!("{name}: {:?} {max_abs:e}", failed(&report)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A file that was made for something else is refused by name, before weights are loaded where that can be known.
#[test]
fn a_faulty_file_is_the_files_fault() {
    let model = made("bert-sequence");
    let i64s = |numbers: &[i64]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
    type Change<'a> = Box<dyn Fn(&mut Tensors) + 'a>;
    let only = |tokens: usize, width: usize| -> Change<'_> {
        Box::new(move |all| {
            all.clear();
            all.insert("input_ids".into(), (Dtype::I64, vec![1, tokens], i64s(&vec![7; tokens])));
            all.insert("scores".into(), (Dtype::F32, vec![1, width], vec![0; 4 * width]));
        })
    };
    let rows: Vec<(Change<'_>, &str)> = vec![
        (only(41, 3), "has 41 tokens in row 0"),
        (only(40, 5), "gives 5 numbers where 3"),
        (
            Box::new(|all| {
                all.get_mut("token_type_ids").unwrap().2[..8].copy_from_slice(&7i64.to_le_bytes())
            }),
            "holds type 7 (row 0)",
        ),
        (
            Box::new(|all| all.get_mut("input_ids").unwrap().2[..8].copy_from_slice(&512i64.to_le_bytes())),
            "holds token 512",
        ),
        (
            Box::new(|all| {
                let (dtype, shape, data) = all.get_mut("scores").unwrap();
                *dtype = Dtype::F64;
                *data = vec![1e300f64; shape.iter().product()].iter().flat_map(|x| x.to_le_bytes()).collect();
            }),
            "too large for f32",
        ),
        (Box::new(|all| all.retain(|name, _| name == "input_ids")), "has nothing that this model gives"),
    ];
    let mut wrong = Vec::new();
    for (change, words) in rows {
        let (file, _) = answers(&model, None);
        edit(&file, change);
        match reference(&model.path, &file, Gate::default()) {
            Err(e)
                if e.kind() == BadInput
                    && e.to_string().contains(words)
                    && e.file_name().is_some_and(|name| name.contains("answers")) => {}
            Err(e) => wrong.push(format!("{words}: {:?} {e}", e.kind())),
            Ok(report) => wrong.push(format!("{words}: {:?}", failed(&report))),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    let (file, _) = answers(&model, None);
    edit(&file, |all| all.get_mut("scores").unwrap().2[..4].copy_from_slice(&f32::NAN.to_le_bytes()));
    let report = reference(&model.path, &file, Gate::default()).unwrap();
    let found = failed(&report);
    assert!(
        matches!(&found[..], [("labels", why)] if why.starts_with("1 scores are not finite in the reference")),
        "{found:?}"
    );
}

/// A dense layer of another shape fails a check of the model that is verified, and is refused of the other one.
#[test]
fn a_fault_is_said_of_the_model_that_has_it() {
    let (good, faulty) = (made("sentence-bert"), made("sentence-bert"));
    edit(&faulty.path.join("2_Dense/model.safetensors"), |all| {
        let (_, shape, data) = all.get_mut("linear.weight").unwrap();
        shape[0] -= 1;
        data.truncate(4 * shape.iter().product::<usize>());
    });
    let report = against(&faulty.path, &good.path, Gate::default()).unwrap();
    assert_eq!(report.failed().map(|check| check.name).collect::<Vec<_>>(), ["forward"]);
    let refused = against(&good.path, &faulty.path, Gate::default()).unwrap_err();
    let whose = "with which it is compared";
    assert!(refused.kind() == BadInput && format!("{refused:?}").contains(whose), "{refused:?}");

    let (good, faulty) = (made("bert-sequence"), made("bert-sequence"));
    edit(&weights(&faulty), |all| {
        all.get_mut("classifier.bias").unwrap().2[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    let found = against(&good.path, &faulty.path, Gate::default()).map(|report| failed(&report)).unwrap();
    assert!(
        matches!(&found[..], [("labels", why)] if why.contains("scores are not finite in the reference")),
        "{found:?}"
    );
}

/// What only models that predict tokens have is refused, not left out.
#[test]
fn what_an_encoder_does_not_have_is_refused() {
    let model = made("bert");
    let of_gate = |gate: Gate| Options { gate, ..Options::default() };
    let none = Gate::default();
    let rows: Vec<(Options, ErrorKind, &str)> = vec![
        (Options { text: Some("a text".into()), ..Options::default() }, Usage, "no perplexity"),
        (
            Options { scoring: Scoring::LlamaCpp { context: None }, ..Options::default() },
            Usage,
            "no perplexity",
        ),
        (
            Options { scoring: Scoring::Windows { window: Some(8), stride: None }, ..Options::default() },
            Usage,
            "no perplexity",
        ),
        (of_gate(Gate { max_kl: Some(1.0), ..none }), Usage, "no KL divergence"),
        (of_gate(Gate { min_top1: Some(0.5), ..none }), Usage, "no top-1 agreement"),
        (of_gate(Gate { min_top5: Some(0.5), ..none }), Usage, "no top-5 agreement"),
    ];
    let mut wrong = Vec::new();
    for (mut options, kind, words) in rows {
        options.against = Some(open(&model.path).unwrap());
        match verify(open(&model.path).unwrap(), options).wait() {
            Err(e) if e.kind() == kind && e.to_string().contains(words) && e.hint_text().is_some() => {}
            Err(e) => wrong.push(format!("{words}: {:?} {e}", e.kind())),
            Ok(report) => wrong.push(format!("{words}: {:?}", report.lines())),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A tokenizer that cannot be read is one finding among others where the ids come from elsewhere.
#[test]
fn a_broken_tokenizer_is_a_finding() {
    let (good, broken) = (made("bert-sequence"), made("bert-sequence"));
    let (file, _) = answers(&good, None);
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        let kept = std::fs::read(broken.path.join(name)).unwrap();
        std::fs::write(broken.path.join(name), "{").unwrap();
        for report in [
            reference(&broken.path, &file, Gate::default()),
            against(&broken.path, &good.path, Gate::default()),
        ] {
            let report = report.unwrap();
            assert_eq!(report.failed().map(|check| check.name).collect::<Vec<_>>(), ["tokenizer"], "{name}");
            assert_eq!(report.check("labels").unwrap().outcome, Outcome::Passed, "{name}");
        }
        assert!(verify(open(&broken.path).unwrap(), Options::default()).wait().is_err());
        std::fs::write(broken.path.join(name), kept).unwrap();
    }
}
