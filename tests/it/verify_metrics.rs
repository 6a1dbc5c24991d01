//! What verifying is made of besides a forward pass: figures against numpy's, limits, reference files, the report.

use crate::naive::testdata;
use hoist::ErrorKind;
use hoist::dtype::DType;
use hoist::open;
use hoist::transform::recipe::{Output, Part, Recipe, Source, Value};
use hoist::transform::view::View;
use hoist::verify::Gate;
use hoist::verify::limits::{Computed, Limits, Step, Written};
use hoist::verify::metrics::{Compare, Comparison, Means, NotFinite, Score, Scored, Vectors, vectors};
use hoist::verify::reference::write::{Column, Writing};
use hoist::verify::reference::{Extent, Quantity, Reference, Row};
use hoist::verify::report::{self, Check, Labels, Layer, Outcome, Report};
use serde_json::{Value as Json, json};
use std::path::Path;

/// The generator of `testdata/make/metrics.py`.
fn mix(seed: u64, index: u64) -> u64 {
    let counter = (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut z = seed.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(counter);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Logits of one case, row-major.
struct Case {
    positions: usize,
    vocabulary: usize,
    reference: Vec<f32>,
    candidate: Vec<f32>,
    targets: Vec<u32>,
}

impl Case {
    fn of(case: &Json) -> Case {
        let int = |key: &str| case[key].as_i64().unwrap();
        let (positions, vocabulary) = (int("positions") as usize, int("vocabulary") as usize);
        let (seed, noise, shift) = (int("seed") as u64, int("noise"), int("shift"));
        let drop = 24 - int("bits");
        let scale = 2f64.powi(int("scale") as i32);
        let number = |x: i64| (x as f64 * scale) as f32;
        let (mut reference, mut candidate) = (Vec::new(), Vec::new());
        for i in 0..(positions * vocabulary) as u64 {
            let a = ((((mix(seed, i) >> 40) >> drop) << drop) as i64) - (1 << 23);
            let n = ((mix(seed + 1, i) >> 40) % (2 * noise as u64 + 1)) as i64;
            reference.push(number(a));
            candidate.push(number((a + (n - noise) * (1 << drop) + shift).clamp(-(1 << 24), 1 << 24)));
        }
        let targets = (0..positions as u64).map(|p| (mix(seed + 2, p) % vocabulary as u64) as u32).collect();
        Case { positions, vocabulary, reference, candidate, targets }
    }

    /// Columns of rows.
    fn band(&self, of: &[f32], rows: std::ops::Range<usize>, columns: std::ops::Range<usize>) -> Vec<f32> {
        rows.flat_map(|r| of[r * self.vocabulary..][columns.clone()].to_vec()).collect()
    }

    /// Compared and scored in chunks of positions and bands of the vocabulary, the bands last to first if `back`.
    fn figures(&self, chunk: usize, band: usize, back: bool) -> (Comparison, Scored, Scored) {
        let mut all = Compare::new(0);
        let mut scored = [Scored::default(), Scored::default()];
        for start in (0..self.positions).step_by(chunk) {
            let rows = start..(start + chunk).min(self.positions);
            let mut compare = Compare::new(rows.len());
            let targets = &self.targets[rows.clone()];
            let mut scores = [Score::new(targets), Score::new(targets)];
            let mut starts: Vec<usize> = (0..self.vocabulary).step_by(band).collect();
            if back {
                starts.reverse();
            }
            for first in starts {
                let columns = first..(first + band).min(self.vocabulary);
                let a = self.band(&self.reference, rows.clone(), columns.clone());
                let b = self.band(&self.candidate, rows.clone(), columns);
                compare.band(first as u64, &a, &b).unwrap();
                scores[0].band(first as u64, &a).unwrap();
                scores[1].band(first as u64, &b).unwrap();
            }
            all.merge(compare);
            for (sum, score) in scored.iter_mut().zip(scores) {
                sum.merge(score.finish().unwrap());
            }
        }
        let [reference, candidate] = scored;
        (all.finish(), reference, candidate)
    }
}

/// All that differ from what is expected by more than rounding.
fn unlike(expected: &Json, found: &[(&str, f64)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, x) in found {
        let wanted = expected.pointer(path).and_then(Json::as_f64).unwrap_or(f64::NAN);
        let close = (x - wanted).abs() <= 1e-9 * wanted.abs() + 2e-13;
        if !close {
            wrong.push(format!("{path}: {x}, expected {wanted}"));
        }
    }
    wrong
}

#[test]
fn figures_are_numpys() {
    let golden: Json =
        serde_json::from_slice(&std::fs::read(testdata("golden/metrics.json")).unwrap()).unwrap();
    let mut wrong = Vec::new();
    for case in golden["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let made = Case::of(case);
        let last = made.reference.len() - 1;
        let probe = [made.reference[0], made.reference[last], made.candidate[0], made.candidate[last]];
        assert_eq!(json!(probe.map(f32::to_bits)), case["probe"], "{name}: other numbers than numpy had");
        let expected = &case["figures"];
        for (chunk, band, back) in [
            (usize::MAX / 2, usize::MAX / 2, false),
            (7, 64, false),
            (1, 1024, true),
            (4, 33, true),
            (3, 1, true),
        ] {
            let chunk = chunk.min(made.positions);
            let band = band.min(made.vocabulary);
            let (c, reference, candidate) = made.figures(chunk, band, back);
            let mean = |s: &Scored| s.nll.iter().sum::<f64>() / s.nll.len() as f64;
            let mut found = vec![
                ("/max_abs", c.max_abs),
                ("/max_relative", c.max_relative),
                ("/cosine", c.cosine),
                ("/cosine_min", c.cosine_min),
                ("/kl/mean", c.kl.mean),
                ("/kl/error", c.kl.error),
                ("/kl/median", c.kl.median),
                ("/kl/p99", c.kl.p99),
                ("/kl/p999", c.kl.p999),
                ("/kl/max", c.kl.max),
                ("/top1", c.top1),
                ("/top5", c.top5),
                ("/nll/reference/0", mean(&reference)),
                ("/nll/candidate/0", mean(&candidate)),
            ];
            let perplexity = candidate.perplexity();
            assert_eq!(perplexity.tokens, made.positions as u64);
            if perplexity.value.is_finite() {
                let (ratio, error) = candidate.ratio(&reference).unwrap();
                found.extend([
                    ("/nll/candidate/0", perplexity.value.ln()),
                    ("/nll/candidate/1", perplexity.error / perplexity.value),
                    ("/difference/0", ratio.ln()),
                    ("/difference/1", error / ratio),
                ]);
            }
            let all = vectors(&made.reference, &made.candidate);
            let means = [&made.reference, &made.candidate].map(|side| {
                let mut means = Means::new(made.vocabulary);
                means.add(side);
                means
            });
            found.extend([
                ("/max_abs", all.max_abs()),
                ("/max_relative", all.max_relative()),
                ("/cosine", all.cosine()),
                ("/relative", all.relative()),
                ("/mean_cosine", means[0].cosine(&means[1])),
            ]);
            let mut odd = unlike(expected, &found);
            let differs = c.differs.map(|d| [d.position, d.reference, d.candidate]);
            if json!(differs) != expected["differs"] {
                odd.push(format!("differs: {differs:?}, expected {}", expected["differs"]));
            }
            if (c.positions, c.vocabulary) != (made.positions as u64, made.vocabulary as u64) {
                odd.push(format!("{} × {}", c.positions, c.vocabulary));
            }
            wrong.extend(odd.into_iter().map(|w| format!("{name}, {chunk} × {band}: {w}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn figures_do_not_depend_on_threads() {
    let case = json!({ "positions": 50, "vocabulary": 3000, "seed": 11, "bits": 24, "scale": -20, "noise": 500_000, "shift": 0 });
    let made = Case::of(&case);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (c, a, b) = made.figures(50, 700, false);
            (format!("{c:?}"), a.nll, b.nll, format!("{:?}", vectors(&made.reference, &made.candidate)))
        })
    };
    assert!(run(1) == run(4));
}

#[test]
fn what_is_not_finite_is_counted_and_kept_apart() {
    let clean: Vec<f32> = (0..40).map(|i| (i % 7) as f32).collect();
    let planted = |places: &[(usize, f32)]| {
        let mut logits = clean.clone();
        places.iter().for_each(|&(at, x)| logits[at] = x);
        logits
    };
    let count = |reference, candidate, either| NotFinite { reference, candidate, either };
    for (a, b, expected) in [
        (planted(&[]), planted(&[]), count(0, 0, 0)),
        (planted(&[]), planted(&[(3, f32::NAN), (12, f32::INFINITY)]), count(0, 2, 2)),
        (planted(&[(39, f32::NEG_INFINITY)]), planted(&[]), count(1, 0, 1)),
        (planted(&[(0, f32::NAN)]), planted(&[(9, f32::NAN), (11, f32::NAN)]), count(1, 2, 2)),
    ] {
        let mut compare = Compare::new(4);
        compare.band(0, &a, &b).unwrap();
        let found = compare.finish();
        assert_eq!((found.not_finite, found.positions), (expected, 4 - expected.either));
        assert!(found.kl.mean == 0.0 && found.top1 == 1.0 && found.max_abs == 0.0, "{found:?}");
        let failed =
            report::logits(&found, None, &Limits::of_file(Computed::F32, &Gate::default()), &|_| None);
        assert_eq!(failed.has_failed(), expected.either > 0, "{failed:?}");
        let mut score = Score::new(&[1, 2, 3, 4]);
        score.band(0, &b).unwrap();
        assert_eq!(score.finish().unwrap().perplexity().value.is_nan(), expected.candidate > 0);
        assert_eq!(vectors(&a, &b).cosine().is_nan(), expected.either > 0);
    }
    assert!(vectors(&[1.0], &[1.0, 2.0]).cosine().is_nan(), "of different lengths");
    assert!(vectors(&[], &[]).cosine().is_nan(), "of nothing");
    let nothing = Compare::new(0).finish();
    assert!(nothing.positions == 0 && nothing.kl.mean.is_nan() && nothing.top1.is_nan());
    assert!(
        report::logits(&nothing, None, &Limits::of_file(Computed::F32, &Gate::default()), &|_| None)
            .has_failed()
    );
    assert!(Score::new(&[]).finish().unwrap().perplexity().value.is_nan());
}

#[test]
fn bands_that_do_not_fit_are_refused() {
    assert!(Compare::new(3).band(0, &[0.0; 6], &[0.0; 3]).is_err());
    assert!(Compare::new(3).band(0, &[0.0; 7], &[0.0; 7]).is_err());
    assert!(Compare::new(0).band(0, &[0.0], &[0.0]).is_err());
    assert!(Compare::new(0).band(0, &[], &[]).is_ok());
    assert!(Score::new(&[0, 1]).band(0, &[0.0; 3]).is_err());
    let mut score = Score::new(&[0, 7]);
    score.band(0, &[0.0; 4]).unwrap();
    let error = score.finish().unwrap_err();
    assert!(error.to_string().contains("token 7, for which the model has no logit"), "{error}");
}

/// A recipe of plain tensors: name, type, elements.
fn recipe(outputs: &[(&str, DType, u64)]) -> (Recipe, Vec<DType>) {
    let mut recipe = Recipe::default();
    for (n, &(name, dtype, elements)) in outputs.iter().enumerate() {
        let shape = vec![elements];
        let source = Source::Tensor(n);
        recipe.values.push(Value { name: name.into(), dtype, shape: shape.clone(), source });
        let parts = vec![Part::new(n, View::whole(&shape).unwrap())];
        recipe.outputs.push(Output {
            name: name.into(),
            dtype,
            shape,
            parts,
            narrow: None,
            form: Default::default(),
        });
    }
    (recipe, outputs.iter().map(|o| o.1).collect())
}

fn limits(
    candidate: &[(&str, DType, u64)],
    reference: &[(&str, DType, u64)],
    computed: Computed,
    user: &Gate,
) -> Limits {
    let sides = [recipe(candidate), recipe(reference)];
    let of = |n: usize| {
        let dtypes = &sides[n].1;
        move |t: usize| dtypes.get(t).copied()
    };
    let (a, b) = (of(0), of(1));
    Limits::of_models(
        &Written { recipe: &sides[0].0, dtype_of: &a },
        &Written { recipe: &sides[1].0, dtype_of: &b },
        computed,
        user,
    )
}

#[test]
fn limits_are_chosen_by_what_moved() {
    use DType::{BF16, F16, F32, Q4K, Q6K, Q8_0};
    let original = [("embd", BF16, 300), ("up", BF16, 600), ("norm", BF16, 1)];
    let f32 = Computed::F32;
    for (candidate, computed, step, name) in [
        (original.to_vec(), f32, Step::Same, "the same numbers"),
        (original.to_vec(), Computed::Half, Step::Cast, "16-bit"),
        (original.to_vec(), Computed::Blocks, Step::Eight, "8-bit arithmetic"),
        (vec![("embd", BF16, 300), ("up", BF16, 600), ("norm", F32, 1)], f32, Step::Same, "the same numbers"),
        (vec![("embd", F16, 300), ("up", F16, 600), ("norm", F32, 1)], f32, Step::Cast, "16-bit"),
        // A single norm that was cast is enough not to be the same.
        (vec![("embd", BF16, 300), ("up", BF16, 600), ("norm", F16, 1)], f32, Step::Cast, "16-bit"),
        (vec![("embd", Q8_0, 300), ("up", Q8_0, 600), ("norm", F32, 1)], f32, Step::Eight, "8-bit, group 32"),
        // Most of it kept: what was quantised decides all the same.
        (
            vec![("embd", BF16, 6000), ("up", Q4K, 600), ("norm", F32, 1)],
            f32,
            Step::FourFine,
            "4-bit, group 32",
        ),
        (
            vec![("embd", Q6K, 300), ("up", Q4K, 600), ("norm", F32, 1)],
            f32,
            Step::FourFine,
            "4-bit, group 32",
        ),
        // Too little of it to loosen the limit of the rest.
        (
            vec![("embd", Q8_0, 3000), ("up", Q8_0, 6000), ("norm", Q4K, 1)],
            f32,
            Step::Eight,
            "8-bit, group 32",
        ),
        (vec![("embd", DType::Q2K, 300), ("up", Q4K, 600)], f32, Step::Far, "2-bit, group 16"),
        (vec![("other", BF16, 300)], f32, Step::Same, "the same numbers"),
    ] {
        let found = limits(&candidate, &original, computed, &Gate::default());
        assert_eq!((found.step, found.name.as_str()), (step, name), "{candidate:?}");
        assert_eq!(found.note, None);
    }
    let turned = limits(&original, &[("up", Q4K, 600)], f32, &Gate::default());
    assert!(turned.note.unwrap().starts_with("the reference is 4-bit, group 32 and the candidate 16-bit"));
}

#[test]
fn the_users_limits_replace_the_defaults() {
    let same = [("up", DType::BF16, 10)];
    let four = [("up", DType::Q4_0, 10)];
    let none = Gate::default();
    let defaults = limits(&same, &same, Computed::F32, &none);
    assert_eq!(
        (defaults.gate.max_relative, defaults.gate.max_kl, defaults.gate.min_cosine),
        (Some(1e-3), None, Some(0.9999))
    );
    let kl = Gate { max_kl: Some(0.5), ..none };
    let given = limits(&same, &same, Computed::F32, &kl);
    assert_eq!((given.gate.max_relative, given.gate.max_kl, given.given), (None, Some(0.5), true));
    let given = limits(&four, &same, Computed::F32, &kl);
    assert_eq!((given.gate.max_kl, given.gate.min_top1), (Some(0.5), Some(0.85)));
    let cosine = Gate { min_cosine: Some(0.5), ..none };
    let given = limits(&same, &same, Computed::F32, &cosine);
    assert_eq!((given.gate.max_relative, given.gate.min_cosine), (Some(1e-3), Some(0.5)));
}

/// A safetensors file of raw tensors.
fn safetensors(path: &Path, tensors: &[(&str, &str, &[u64], Vec<u8>)]) {
    let mut header = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend(bytes);
        header.insert(
            (*name).into(),
            json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, data.len()] }),
        );
    }
    let mut header = Json::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(data);
    std::fs::write(path, file).unwrap();
}

fn i64s(numbers: &[i64]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}

fn f32s(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}

fn read(tensors: &[(&str, &str, &[u64], Vec<u8>)]) -> hoist::Result<Reference> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reference.safetensors");
    safetensors(&path, tensors);
    Reference::new(open::open(path.to_str().unwrap(), &Default::default())?, None)
}

fn counting(n: usize) -> Vec<f32> {
    (0..n).map(|i| i as f32 - 3.0).collect()
}

#[test]
fn references_of_every_form_are_read() {
    let numbers = counting(24);
    let halves = |of: fn(f32) -> [u8; 2]| numbers.iter().flat_map(|&x| of(x)).collect::<Vec<u8>>();
    let doubles: Vec<u8> = numbers.iter().flat_map(|&x| f64::from(x).to_le_bytes()).collect();
    let ids = i64s(&[5, 6, 7, 8, 9, 10]);
    let i32s: Vec<u8> = [5i32, 6, 7, 8, 9, 10].iter().flat_map(|n| n.to_le_bytes()).collect();
    let bytes = vec![5u8, 6, 7, 8, 9, 10];
    for (id_type, ids) in [("I64", ids), ("I32", i32s), ("U8", bytes)] {
        for (dtype, data) in [
            ("F32", f32s(&numbers)),
            ("F64", doubles.clone()),
            ("F16", halves(|x| half::f16::from_f32(x).to_le_bytes())),
            ("BF16", halves(|x| half::bf16::from_f32(x).to_le_bytes())),
        ] {
            let reference =
                read(&[("input_ids", id_type, &[2, 3], ids.clone()), ("logits", dtype, &[2, 3, 4], data)])
                    .unwrap();
            assert_eq!(
                reference.rows.iter().map(|r| r.ids.clone()).collect::<Vec<_>>(),
                [[5, 6, 7], [8, 9, 10]]
            );
            let answer = reference.find(Quantity::Logits).unwrap().unwrap();
            assert_eq!((answer.extent, answer.width), (Extent::Each, 4));
            assert_eq!(reference.numbers(&answer, 1, 0..3, 0..4).unwrap(), numbers[12..]);
            assert_eq!(reference.numbers(&answer, 0, 1..3, 1..3).unwrap(), [2.0, 3.0, 6.0, 7.0]);
            assert_eq!(reference.numbers(&answer, 0, 1..1, 0..4).unwrap(), [] as [f32; 0]);
            for (row, positions, band) in [(2, 0..1, 0..1), (0, 0..4, 0..1), (0, 0..1, 0..5), (0, 0..1, 3..9)]
            {
                assert!(reference.numbers(&answer, row, positions, band).is_err());
            }
            assert!(reference.check_vocabulary(11).is_ok());
            let error = reference.check_vocabulary(10).unwrap_err().to_string();
            assert!(error.contains("holds token 10 (row 1, position 2)"), "{error}");
            assert_eq!(reference.find(Quantity::Embeddings).unwrap(), None);
        }
    }
}

#[test]
fn shapes_of_answers() {
    let ids = |b: u64, n: u64| i64s(&vec![1; (b * n) as usize]);
    type Row = (&'static [u64], &'static str, &'static [u64], Quantity, Option<(Extent, u64)>);
    let rows: &[Row] = &[
        (&[3], "logits", &[3, 4], Quantity::Logits, Some((Extent::Each, 4))),
        (&[1, 3], "logits", &[3, 4], Quantity::Logits, Some((Extent::Each, 4))),
        (&[1, 3], "logits", &[1, 4], Quantity::Logits, Some((Extent::One, 4))),
        (&[1, 3], "logits", &[4], Quantity::Logits, Some((Extent::One, 4))),
        (&[1, 1], "logits", &[1, 1, 4], Quantity::Logits, Some((Extent::Each, 4))),
        (&[2, 3], "logits", &[2, 1, 4], Quantity::Logits, Some((Extent::One, 4))),
        (&[2, 3], "logits", &[2, 4], Quantity::Scores, Some((Extent::One, 4))),
        (&[2, 2], "logits", &[2, 4], Quantity::Logits, Some((Extent::One, 4))),
        (&[2, 3], "scores", &[2, 3, 4], Quantity::Scores, Some((Extent::Each, 4))),
        (&[2, 3], "last_hidden_state", &[2, 3, 8], Quantity::Hidden, Some((Extent::Each, 8))),
        (&[3], "hidden", &[3, 8], Quantity::Hidden, Some((Extent::Each, 8))),
        (&[2, 3], "hidden", &[2, 8], Quantity::Hidden, None),
        (&[2, 3], "embeddings", &[2, 8], Quantity::Embeddings, Some((Extent::One, 8))),
        (&[1, 3], "embeddings", &[3, 8], Quantity::Embeddings, None),
        (&[2, 3], "logits", &[3, 2, 4], Quantity::Logits, None),
        (&[2, 3], "logits", &[2, 3, 0], Quantity::Logits, None),
        (&[2, 3], "logits", &[2, 2, 4], Quantity::Logits, None),
    ];
    for (id_shape, name, shape, quantity, expected) in rows {
        let count = |shape: &[u64]| shape.iter().product::<u64>();
        let reference = read(&[
            ("input_ids", "I64", id_shape, ids(1, count(id_shape))),
            (name, "F32", shape, f32s(&counting(count(shape) as usize))),
        ])
        .unwrap();
        let found = reference.find(*quantity);
        match expected {
            Some(expected) => {
                let answer = found.unwrap().unwrap();
                assert_eq!((answer.extent, answer.width), *expected, "{id_shape:?} {name} {shape:?}");
            }
            None => {
                let error = found.unwrap_err();
                assert!(error.tensor_name() == Some(*name), "{id_shape:?} {name} {shape:?}: {error}");
            }
        }
    }
}

#[test]
fn padding_is_taken_off_and_what_makes_no_sense_refused() {
    let ids = ("input_ids", "I64", [2u64, 3].as_slice(), i64s(&[5, 6, 7, 8, 9, 0]));
    let mask = |m: &[i64]| ("attention_mask", "I64", [2u64, 3].as_slice(), i64s(m));
    let types = ("token_type_ids", "I64", [2u64, 3].as_slice(), i64s(&[0, 1, 1, 0, 1, 0]));
    let logits = ("logits", "F32", [2u64, 3, 2].as_slice(), f32s(&counting(12)));
    let reference = read(&[ids.clone(), mask(&[1, 1, 1, 1, 1, 0]), types.clone(), logits.clone()]).unwrap();
    let row = |ids: &[u32], types: &[u32]| Row { ids: ids.to_vec(), types: Some(types.to_vec()) };
    assert_eq!(reference.rows, [row(&[5, 6, 7], &[0, 1, 1]), row(&[8, 9], &[0, 1])]);
    assert_eq!(reference.longest(), 3);
    let answer = reference.find(Quantity::Logits).unwrap().unwrap();
    assert_eq!(reference.numbers(&answer, 1, 0..2, 0..2).unwrap(), [3.0, 4.0, 5.0, 6.0]);
    assert!(reference.numbers(&answer, 1, 0..3, 0..2).is_err(), "padding has no answer");

    let bad = |tensors: &[(&str, &str, &[u64], Vec<u8>)], kind: ErrorKind, said: &str| {
        let error = read(tensors).unwrap_err();
        assert!(error.to_string().contains(said) && error.kind() == kind, "{error}\nexpected: {said}");
    };
    bad(std::slice::from_ref(&logits), ErrorKind::BadInput, "has no tensor `input_ids`");
    bad(&[ids.clone(), mask(&[0, 1, 1, 1, 1, 1])], ErrorKind::Unsupported, "ones and then zeros (row 0)");
    bad(&[ids.clone(), mask(&[1, 1, 1, 1, 0, 1])], ErrorKind::Unsupported, "ones and then zeros (row 1)");
    bad(&[ids.clone(), mask(&[1, 1, 1, 0, 0, 0])], ErrorKind::Unsupported, "ones and then zeros (row 1)");
    bad(&[ids.clone(), mask(&[1, 1, 1, 1, 1, 2])], ErrorKind::BadInput, "holds 2 (row 1)");
    let narrow = ("attention_mask", "I64", [2u64, 2].as_slice(), i64s(&[1, 1, 1, 1]));
    bad(&[ids, narrow], ErrorKind::BadInput, "has shape [2, 2], and `input_ids` has [2, 3]");
    for (shape, dtype, bytes, said) in [
        ([1, 2].as_slice(), "I64", i64s(&[1, -1]), "holds -1 at place 1"),
        (&[1, 2], "I64", i64s(&[1, 1 << 32]), "holds 4294967296 at place 1"),
        (&[1, 2], "F32", f32s(&[1.0, 2.0]), "is of type `f32`, where whole numbers are needed"),
        (&[], "I64", i64s(&[1]), "has shape [], where [rows, tokens] is needed"),
        (&[1, 1, 1], "I64", i64s(&[1]), "has shape [1, 1, 1]"),
        (&[0], "I64", vec![], "no tokens"),
        (&[4, 0], "I64", vec![], "no tokens"),
    ] {
        bad(&[("input_ids", dtype, shape, bytes)], ErrorKind::BadInput, said);
    }
    let one = ("input_ids", "I64", [1u64].as_slice(), i64s(&[1]));
    let whole = read(&[one.clone(), ("logits", "I64", &[1, 1], i64s(&[1]))]).unwrap();
    let error = whole.find(Quantity::Logits).unwrap_err().to_string();
    assert!(error.contains("is of type `i64`, where floats are needed"), "{error}");
    let large = read(&[one, ("logits", "F64", &[1, 1], 1e300f64.to_le_bytes().to_vec())]).unwrap();
    let answer = large.find(Quantity::Logits).unwrap().unwrap();
    let error = large.numbers(&answer, 0, 0..1, 0..1).unwrap_err().to_string();
    assert!(error.contains("holds 1 numbers that are too large for f32"), "{error}");
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("answers.safetensors");
    let rows = [Row { ids: vec![3, 4, 5], types: None }, Row { ids: vec![6], types: Some(vec![1]) }];
    let columns = [
        Column { quantity: Quantity::Logits, extent: Extent::Each, width: 5 },
        Column { quantity: Quantity::Embeddings, extent: Extent::One, width: 2 },
    ];
    let begin = |force| Writing::create(&path, &rows, &columns, &[], force);
    let numbers = counting(20);
    let fill = |writing: &Writing| {
        // Bands last to first, and a row in two pieces.
        for band in [3..5u64, 0..3] {
            let of = |from: usize, to: usize| -> Vec<f32> {
                (from..to)
                    .flat_map(|p| numbers[p * 5..][band.start as usize..band.end as usize].to_vec())
                    .collect()
            };
            writing.numbers(0, 0, 0..1, band.clone(), &of(0, 1)).unwrap();
            writing.numbers(0, 0, 1..3, band.clone(), &of(1, 3)).unwrap();
            writing.numbers(0, 1, 0..1, band.clone(), &of(3, 4)).unwrap();
        }
        writing.numbers(1, 0, 0..1, 0..2, &[0.5, 0.25]).unwrap();
        writing.numbers(1, 1, 0..1, 0..2, &[0.125, -1.0]).unwrap();
    };
    // Not complete: nothing is there.
    let writing = begin(false).unwrap();
    writing.numbers(0, 0, 0..1, 0..5, &numbers[..5]).unwrap();
    assert!(writing.finish().unwrap_err().to_string().contains("5 of 4 × 5 numbers"));
    drop(begin(false).unwrap());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "something was left");

    let writing = begin(false).unwrap();
    for (column, row, positions, band, count) in [
        (0, 1, 0..2, 0..5, 10),
        (0, 0, 0..1, 0..6, 6),
        (0, 0, 0..1, 0..5, 4),
        (2, 0, 0..1, 0..1, 1),
        (1, 2, 0..1, 0..2, 2),
    ] {
        assert!(writing.numbers(column, row, positions, band, &vec![0.0; count]).is_err());
    }
    fill(&writing);
    writing.finish().unwrap();
    let open = || open::open(path.to_str().unwrap(), &Default::default()).unwrap();
    let reference = Reference::new(open(), None).unwrap();
    assert_eq!(reference.rows[0], Row { ids: vec![3, 4, 5], types: Some(vec![0, 0, 0]) });
    assert_eq!(reference.rows[1], rows[1]);
    let logits = reference.find(Quantity::Logits).unwrap().unwrap();
    assert_eq!(reference.numbers(&logits, 0, 0..3, 0..5).unwrap(), numbers[..15]);
    assert_eq!(reference.numbers(&logits, 1, 0..1, 0..5).unwrap(), numbers[15..]);
    let embeddings = reference.find(Quantity::Embeddings).unwrap().unwrap();
    assert_eq!(reference.numbers(&embeddings, 1, 0..1, 0..2).unwrap(), [0.125, -1.0]);
    drop(reference);

    // By the format's own library too.
    let bytes = std::fs::read(&path).unwrap();
    let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(theirs.tensor("logits").unwrap().shape(), [2, 3, 5]);
    assert_eq!(theirs.tensor("attention_mask").unwrap().data(), i64s(&[1, 1, 1, 1, 0, 0]));
    assert_eq!(theirs.tensor("input_ids").unwrap().data(), i64s(&[3, 4, 5, 6, 0, 0]));

    let error = begin(false).unwrap_err();
    assert!(error.hint_text().is_some_and(|h| h.contains("--force")), "{error}");
    let writing = begin(true).unwrap();
    fill(&writing);
    writing.finish().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    // Never over a file that is being read, whatever is asked.
    let error = Writing::create(&path, &rows, &columns, &[&open()], true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadInput, "{error}");
}

fn comparison(noise: i64, seed: u64) -> Comparison {
    let case = json!({ "positions": 64, "vocabulary": 200, "seed": seed, "bits": 24, "scale": -20, "noise": noise, "shift": 0 });
    Case::of(&case).figures(64, 200, false).0
}

#[test]
fn checks_say_what_was_found_and_what_was_needed() {
    let exact = Limits::of_file(Computed::F32, &Gate::default());
    let same = report::logits(&comparison(0, 1), Some(1.0), &exact, &|_| None);
    assert_eq!(same.outcome, Outcome::Passed);
    assert_eq!(
        same.line,
        "max rel 0   KL 0 (median 0, 99 % 0, max 0)   cosine 1.0000   top-1 100 %   top-5 100 %   limit for the same numbers: max rel 0.001"
    );
    let four =
        limits(&[("up", DType::Q4_0, 10)], &[("up", DType::BF16, 10)], Computed::F32, &Gate::default());
    let found = comparison(300_000, 1);
    let line = report::logits(&found, None, &four, &|_| None).line;
    assert!(line.ends_with("limits for 4-bit, group 32: 0.1, 85 %"), "{line}");
    let broken = report::logits(&comparison(4_000_000, 1), None, &four, &|_| None);
    let Outcome::Failed(why) = &broken.outcome else { panic!("{broken:?}") };
    assert!(why.starts_with("KL ") && why.contains(" is above 0.1, top-1 "), "{why}");
    assert!(why.ends_with(" % is below 85 % for 4-bit, group 32"), "{why}");
    assert!(
        broken.details[0].starts_with("the likeliest token differs first behind token 0 of the text: "),
        "{broken:?}"
    );
    let far = limits(&[("up", DType::Q2K, 10)], &[("up", DType::BF16, 10)], Computed::F32, &Gate::default());
    let reported = report::logits(&found, None, &far, &|_| None);
    assert_eq!(reported.outcome, Outcome::Reported);
    assert!(reported.line.ends_with("no limits for 2-bit, group 16"), "{reported:?}");
    let user = Gate { max_kl: Some(1e-9), min_top1: Some(0.5), ..Gate::default() };
    let given = report::logits(
        &found,
        None,
        &limits(&[("up", DType::Q2K, 10)], &[("up", DType::BF16, 10)], Computed::F32, &user),
        &|_| None,
    );
    assert!(given.line.ends_with("limits: KL 0.000000001, top-1 50 %"), "{}", given.line);
    assert!(given.has_failed());
    assert_eq!(given.figures["limits"]["kl"], json!({ "most": 1e-9 }));
}

#[test]
fn a_report_reads_as_it_should() {
    let exact = Limits::of_file(Computed::F32, &Gate::default());
    let states = |difference: f32| vectors(&[1.0, 2.0, 2.0], &[1.0, 2.0, 2.0 + difference]);
    let layer = |index, difference| Layer { index, states: states(difference) };
    let mut report = Report { model: "a".into(), against: Some("b".into()), ..Report::default() };
    assert!(!report.passed(), "nothing was checked");
    assert_eq!(report.lines(), ["nothing    was checked"]);
    report.checks.push(Check::passed("tensors", "3 of 3 used").figure("tensors", 3));
    report.checks.push(Check::skipped("tokenizer", "the model has none"));
    assert!(report.passed() && report.verdict().is_ok());
    report.not_run.push("layers 4..36".into());
    assert_eq!(
        report.lines(),
        ["tensors    3 of 3 used", "tokenizer  not run: the model has none", "not run    layers 4..36", "ok"]
    );
    report.checks.push(report::layers(&[layer(0, 0.0), layer(1, 0.3), layer(2, 0.6)], false, &exact));
    report.checks.push(report::logits(&comparison(1000, 5), None, &exact, &|_| None));
    assert!(report.passed());
    report.checks.pop();
    report.checks.push(report::logits(&comparison(2_000_000, 5), None, &exact, &|_| None));
    assert!(report.lines().iter().any(|l| l.contains("a file is taken to be of the same numbers")));
    assert_eq!(report.lines().last().unwrap(), "failed     logits");
    let error = report.verdict().unwrap_err();
    assert_eq!(error.kind().exit_code(), 11);
    let text = error.to_string();
    assert!(text.starts_with("`a` fails `logits`: max rel 0.2"), "{text}");
    assert!(text.contains(" is above 0.001 for the same numbers"), "{text}");
    assert!(text.ends_with("\n  the two models first part in layer 1"), "{text}");
    let document = report.document();
    assert_eq!(document["ok"], false);
    assert_eq!(document["failed"], json!(["logits"]));
    assert_eq!(
        document["checks"][1],
        json!({ "name": "tokenizer", "outcome": "skipped", "why": "the model has none", "figures": {} })
    );
    assert_eq!(document["checks"][2]["figures"]["first_parting"], 1);
    assert_eq!(document["checks"][3]["figures"]["limits"]["max_rel"], json!({ "most": 1e-3 }));
}

#[test]
fn other_checks() {
    let exact = Limits::of_file(Computed::F32, &Gate::default());
    let score = |nll: &[f64]| Scored { nll: nll.to_vec() };
    let (a, b) = (score(&[2.0, 2.5, 2.25]), score(&[2.0, 2.25, 2.25]));
    let ratio = a.ratio(&b);
    let check = report::perplexity(
        &a.perplexity(),
        Some((&b.perplexity(), ratio)),
        "8-token windows, stride 4",
        None,
    );
    assert_eq!(check.line, "9.49 against 8.73 (+8.7 %)   8-token windows, stride 4, 3 tokens");
    assert_eq!(check.outcome, Outcome::Reported);
    let gate = |most| {
        Limits::of_file(Computed::F32, &Gate { max_perplexity_increase: Some(most), ..Gate::default() })
    };
    let judged = |most| {
        report::perplexity(&a.perplexity(), Some((&b.perplexity(), ratio)), "", Some(&gate(most))).outcome
    };
    assert_eq!(judged(0.1), Outcome::Passed);
    assert_eq!(judged(0.08), Outcome::Failed("increase 8.7 % is above 8 %".into()));
    assert!(report::perplexity(&score(&[f64::NAN]).perplexity(), None, "", None).has_failed());
    assert!(report::perplexity(&score(&[]).perplexity(), None, "", None).has_failed());

    let near = vectors(&[1.0, 0.0], &[1.0, 0.0005]);
    let far = vectors(&[1.0, 0.0], &[1.0, 0.5]);
    assert_eq!(report::embeddings(&[near, near], &exact).outcome, Outcome::Passed);
    let check = report::embeddings(&[near, far], &exact);
    assert_eq!(
        check.outcome,
        Outcome::Failed(
            "cosine 0.8944 is below 0.9999, max rel 0.50 is above 0.001 for the same numbers".into()
        )
    );
    // A hundred times too large, and in no other direction.
    let large = vectors(&[1.0, 2.0], &[100.0, 200.0]);
    assert_eq!(
        report::embeddings(&[large], &exact).outcome,
        Outcome::Failed("max rel 99 is above 0.001 for the same numbers".into())
    );
    let odd = vectors(&[f32::INFINITY, 1.0], &[1.0, 1.0]);
    assert_eq!(
        report::embeddings(&[odd], &exact).outcome,
        Outcome::Failed("1 numbers are not finite in the reference for the same numbers".into())
    );
    assert!(report::embeddings(&[], &exact).has_failed());
    assert!(report::embeddings(&[near, vectors(&[f32::NAN], &[0.0]), near], &exact).has_failed());

    let eight =
        limits(&[("up", DType::Q8_0, 10)], &[("up", DType::BF16, 10)], Computed::F32, &Gate::default());
    let first = Some((3, "POS".to_owned(), "NEG\u{1b}".to_owned()));
    let labels =
        |same, first, scores, is_score| Labels { what: "texts", is_score, same, of: 16, first, scores };
    let judged = |labels: &Labels, limits: &Limits| report::labels(labels, limits);
    assert_eq!(judged(&labels(16, None, near, false), &exact).outcome, Outcome::Passed);
    let check = judged(&labels(15, first.clone(), near, false), &exact);
    assert_eq!(
        check.outcome,
        Outcome::Failed("1 of 16 texts have another label for the same numbers".into())
    );
    assert_eq!(check.details[0], "the first that differs is 3: `POS`, the reference has `NEG\\u{1b}`");
    assert_eq!(judged(&labels(15, first.clone(), near, false), &eight).outcome, Outcome::Passed);
    let nothing = Labels { of: 0, scores: Vectors::default(), ..labels(0, None, near, false) };
    assert_eq!(
        judged(&nothing, &exact).outcome,
        Outcome::Failed("nothing was compared for the same numbers".into())
    );
    // Scores that no label shows: (the figure's limits, scores, whether there is one of each, what is said).
    let of = |max_relative, min_cosine| {
        Limits::of_file(Computed::F32, &Gate { max_relative, min_cosine, ..Gate::default() })
    };
    for (limits, scores, is_score, expected) in [
        (exact.clone(), large, false, Some("max rel 99 is above 0.001 for the same numbers")),
        (exact.clone(), large, true, Some("max rel 99 is above 0.001 for the same numbers")),
        (exact.clone(), near, true, None),
        (eight.clone(), large, true, Some("max rel 99 is above 0.05 for 8-bit, group 32")),
        (eight.clone(), large, false, Some("max rel 99 is above 0.2 for 8-bit, group 32")),
        (eight.clone(), vectors(&[1.0, -2.0], &[1.05, -2.05]), true, None),
        (
            eight.clone(),
            vectors(&[1.0, -2.0], &[1.15, -2.05]),
            true,
            Some("max rel 0.075 is above 0.05 for 8-bit, group 32"),
        ),
        (of(Some(100.0), None), large, true, None),
        (of(Some(10.0), None), large, false, Some("max rel 99 is above 10")),
        (of(None, Some(0.5)), large, false, None),
        (of(None, Some(0.5)), vectors(&[1.0, 2.0], &[-1.0, -2.0]), true, Some("cosine -1.0000 is below 0.5")),
    ] {
        let expected = expected.map_or(Outcome::Passed, |why| Outcome::Failed(why.into()));
        assert_eq!(judged(&labels(16, None, scores, is_score), &limits).outcome, expected, "{scores:?}");
    }
    // A label that may differ is reported where nothing else has a limit.
    let far = limits(&[("up", DType::Q2K, 10)], &[("up", DType::BF16, 10)], Computed::F32, &Gate::default());
    assert_eq!(judged(&labels(15, first, near, false), &far).outcome, Outcome::Reported);
}
