//! The door for weights: what comes in equals what the reference converter made of the same checkpoints, whole or by
//! stage, from every container; memory stays within its limit; what is broken is found and named.

use crate::families::model;
use crate::naive::{materialise, testdata};
use candle_core::Device;
use hoist::ErrorKind;
use hoist::checkpoint::Tensor;
use hoist::convert;
use hoist::dtype::{Class, DType};
use hoist::open::{self, Model};
use hoist::run::job::{Job, StopSign};
use hoist::transform::arch::families::{self, Sizes};
use hoist::transform::arch::translate::{Want, to_gguf};
use hoist::transform::block;
use hoist::transform::recipe::{Output, Part, Recipe};
use hoist::transform::values::{raw, values};
use hoist::verify::audit::Fault;
use hoist::verify::weights::{Hold, Stage, Weight, Weights};
use safetensors::tensor::{Dtype, TensorView};
use sha2::Digest;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

fn opened(path: &Path) -> Arc<Model> {
    let options = open::Options { follow_links: true, ..Default::default() };
    Arc::new(open::open(path.to_str().unwrap(), &options).unwrap())
}

/// The outputs that a GGUF of a checkpoint would have.
fn recipe(model: &Model, config: &Path) -> Arc<Recipe> {
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(config).unwrap()).unwrap();
    let all = values(&model.table, Some(&config)).unwrap();
    let family = families::of_config(&config).unwrap();
    let sizes = Sizes::of_config(&config).unwrap();
    Arc::new(to_gguf(all.values, family, &sizes, &config, Want::Type(DType::F32)).unwrap())
}

/// Each tensor as it is.
fn identity(model: &Model) -> Arc<Recipe> {
    let values = raw(&model.table);
    let outputs = values.iter().enumerate().map(|(at, v)| Output {
        name: v.name.clone(),
        dtype: v.dtype,
        shape: v.shape.clone(),
        parts: vec![Part::new(at, v.view().unwrap())],
        narrow: None,
        form: Default::default(),
    });
    Arc::new(Recipe { outputs: outputs.collect(), values, ..Recipe::default() })
}

fn hold(memory_bytes: u64) -> Hold {
    Hold {
        dtype: DType::F32,
        device: Device::Cpu,
        memory_bytes,
        native: false,
        threads: Some(2),
        stop: StopSign::default(),
    }
}

const PLENTY: u64 = 1 << 40;

fn total_bytes(recipe: &Recipe) -> u64 {
    recipe.outputs.iter().map(|o| o.shape.iter().product::<u64>() * 4).sum()
}

fn numbers(weight: &Weight) -> Vec<f32> {
    let tensor = weight.tensor().unwrap().flatten_all().unwrap();
    tensor.to_dtype(candle_core::DType::F32).unwrap().to_vec1().unwrap()
}

fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn digest(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes)[..8].iter().map(|b| format!("{b:02x}")).collect()
}

/// What a forward pass would ask for: a stage's tensors, or all rows of what is brought by rows, in pieces.
fn bring(weights: &Weights, name: &str, shape: &[u64], pieces: u64) -> Vec<f32> {
    for stage in [Stage::Front, Stage::Back] {
        if let Some(weight) = weights.stage(stage).unwrap().find(name) {
            return numbers(&weight);
        }
    }
    if let Some(layer) = name.strip_prefix("blk.").and_then(|n| n.split_once('.')?.0.parse().ok())
        && let Some(weight) = weights.stage(Stage::Layer(layer)).unwrap().find(name)
    {
        return numbers(&weight);
    }
    let step = shape[0].div_ceil(pieces);
    let starts = (0..shape[0]).step_by(step as usize);
    starts
        .flat_map(|start| {
            let end = (start + step).min(shape[0]);
            numbers(&weights.rows(name, &[start..end]).unwrap())
        })
        .collect()
}

/// Every family's checkpoint (fp8 with scales, MXFP4, fused and stacked experts, permuted and offset rows among them), held
/// whole and brought by stage, against the digests of what the reference converter wrote.
#[test]
fn each_family_comes_in_as_the_reference_writes_it() {
    let mut wrong = Vec::new();
    for family in model::all() {
        let golden = testdata(&format!("golden/families/{family}.json"));
        let golden: serde_json::Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
        let names = golden["tensors"].as_array().unwrap();
        let facts = golden["types"]["f32"]["tensors"].as_array().unwrap();
        let expected: BTreeMap<&str, &str> =
            names.iter().zip(facts).map(|(n, f)| (n[0].as_str().unwrap(), f.as_str().unwrap())).collect();
        let dir = tempfile::tempdir().unwrap();
        let source = model::write(&model::spec(&family), dir.path());
        let opened = opened(&source);
        let recipe = recipe(&opened, &source.join("config.json"));
        let whole = Weights::of(&opened, &recipe, hold(PLENTY)).unwrap();
        assert!(whole.is_resident());
        let staged = Weights::of(&opened, &recipe, hold(total_bytes(&recipe) + (256 << 10) - 1)).unwrap();
        assert!(!staged.is_resident(), "{family}");
        for output in &recipe.outputs {
            let resident = bring(&whole, &output.name, &output.shape, 1);
            let by_stage = bring(&staged, &output.name, &output.shape, 3);
            let same = resident.len() == by_stage.len()
                && resident.iter().zip(&by_stage).all(|(a, b)| a.to_bits() == b.to_bits());
            if !same {
                wrong.push(format!("{family} {}: whole and by stage differ", output.name));
            }
            let (kind, expected) = expected[output.name.as_str()].split_once(' ').unwrap();
            // MXFP4 is not decoded by the reference: `blocks_come_in_as_numbers` looks at those.
            if kind == "f32" && digest(&bytes(&resident)) != expected {
                wrong.push(format!("{family} {}: not what the reference wrote", output.name));
            }
        }
        assert!(whole.unused().is_empty() && staged.unused().is_empty(), "{family}");
        let findings = |weights: &Weights| weights.audit().unwrap();
        assert_eq!(findings(&whole), findings(&staged), "{family}");
        assert!(findings(&whole).iter().all(|f| !f.fatal), "{family}: {:?}", findings(&whole));
    }
    assert!(wrong.is_empty(), "{} differences\n{}", wrong.len(), wrong.join("\n"));
}

fn converted(from: &Path, to: &Path, dtype: Option<DType>) {
    let mut options = convert::Options::new(to);
    options.dtype = dtype;
    convert::convert(Arc::into_inner(opened(from)).unwrap(), options).wait().unwrap();
}

/// One model from every container: the same numbers, and where a container rounds, the numbers that it holds.
#[test]
fn every_container_comes_in_alike() {
    let source = testdata("rustdoc-llama-6m");
    let dir = tempfile::tempdir().unwrap();
    let model = opened(&source);
    let recipe_of = recipe(&model, &source.join("config.json"));
    let whole = Weights::of(&model, &recipe_of, hold(PLENTY)).unwrap();
    let bin = dir.path().join("model.bin");
    converted(&source, &bin, None);
    let bin_model = opened(&bin);
    let bin_recipe = recipe(&bin_model, &source.join("config.json"));
    let from_bin = Weights::of(&bin_model, &bin_recipe, hold(PLENTY)).unwrap();
    for output in &recipe_of.outputs {
        let (a, b) =
            (bring(&whole, &output.name, &output.shape, 1), bring(&from_bin, &output.name, &output.shape, 1));
        assert!(a == b, "{} of a .bin", output.name);
    }
    for dtype in [DType::BF16, DType::F32, DType::Q8_0] {
        let file = dir.path().join(format!("{dtype}.gguf"));
        converted(&source, &file, Some(dtype));
        let model = opened(&file);
        let recipe = identity(&model);
        let data = std::fs::read(&file).unwrap();
        for memory in [PLENTY, total_bytes(&recipe) / 2 + (8 << 20)] {
            let weights = Weights::of(&model, &recipe, hold(memory)).unwrap();
            assert_eq!(weights.is_resident(), memory == PLENTY);
            for (tensor, output) in model.table.tensors.iter().zip(&recipe.outputs) {
                let found = bring(&weights, &output.name, &output.shape, 2);
                assert!(found == widened(tensor, &data), "{} of {dtype}", output.name);
                if dtype != DType::Q8_0 {
                    assert!(
                        found == bring(&whole, &output.name, &output.shape, 1),
                        "{} of {dtype}",
                        output.name
                    );
                }
            }
        }
    }
}

fn widened(tensor: &Tensor, file: &[u8]) -> Vec<f32> {
    let bytes = materialise(file, tensor);
    match tensor.dtype {
        DType::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        DType::BF16 => {
            bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect()
        }
        d if d.facts().class == Class::Block => {
            let mut out = vec![0.0; tensor.element_count() as usize];
            block::decode(d, &bytes, &mut out);
            out
        }
        other => panic!("{other}"),
    }
}

/// Blocks that candle multiplies with stay blocks where that is asked for; products, rows and experts are those of the
/// numbers, to what the kernels' own rounding of the input costs.
#[test]
fn native_blocks_compute_what_their_numbers_do() {
    let dir = tempfile::tempdir().unwrap();
    let source = testdata("rustdoc-llama-6m");
    let file = dir.path().join("q8_0.gguf");
    converted(&source, &file, Some(DType::Q8_0));
    let model = opened(&file);
    let recipe = identity(&model);
    for memory in [PLENTY, total_bytes(&recipe) / 3 + (8 << 20)] {
        let plain = Weights::of(&model, &recipe, hold(memory)).unwrap();
        let native = Weights::of(&model, &recipe, Hold { native: true, ..hold(memory) }).unwrap();
        assert_eq!(native.native().count(), 37);
        assert_eq!(plain.native().count(), 0);
        assert_eq!(plain.audit().unwrap(), native.audit().unwrap());
        let x = candle_core::Tensor::randn(0f32, 1.0, (1, 3, 256), &Device::Cpu).unwrap();
        let (a, b) = (plain.stage(Stage::Layer(1)).unwrap(), native.stage(Stage::Layer(1)).unwrap());
        let (a, b) = (a.get("blk.1.attn_q.weight").unwrap(), b.get("blk.1.attn_q.weight").unwrap());
        assert!(matches!(b, Weight::Blocks { .. }));
        assert_eq!(numbers(&a), numbers(&b));
        let (p, q) = (a.linear(&x).unwrap(), b.linear(&x).unwrap());
        assert_eq!(p.dims(), q.dims());
        close(&p, &q, 0.03);
        for rows in [&[3..40][..], &[5..6, 2..3, 4095..4096, 2..3], &[0..4096]] {
            for name in ["token_embd.weight", "output.weight"] {
                let (a, b) = (plain.rows(name, rows).unwrap(), native.rows(name, rows).unwrap());
                assert_eq!(numbers(&a), numbers(&b), "{name} {rows:?}");
            }
        }
        let head = (
            plain.rows("output.weight", &[64..128]).unwrap(),
            native.rows("output.weight", &[64..128]).unwrap(),
        );
        close(&head.0.linear(&x).unwrap(), &head.1.linear(&x).unwrap(), 0.03);
    }
}

fn close(a: &candle_core::Tensor, b: &candle_core::Tensor, relative: f32) {
    let worst = (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    let largest = a.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(worst <= relative * largest, "{worst} of {largest}");
}

fn floats(count: usize, of: impl Fn(usize) -> f32) -> Vec<u8> {
    (0..count).flat_map(|i| of(i).to_le_bytes()).collect()
}

/// Writes tensors of f32.
fn write(path: &Path, tensors: &[(&str, Vec<usize>, Vec<u8>)]) {
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| (*name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views.collect::<Vec<_>>(), None, path).unwrap();
}

/// One of each fault, found in numbers that pass while loading and in numbers that only pass, whatever the pieces.
#[test]
fn what_is_broken_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let sound = |i: usize| ((i * 7919) % 1013) as f32 / 100.0 - 5.0;
    let matrix = |at: usize, value: f32| floats(300 * 700, move |i| if i == at { value } else { sound(i) });
    let rows = |rows: std::ops::Range<usize>, value: f32| {
        floats(300 * 700, move |i| if rows.contains(&(i / 700)) { value } else { sound(i) })
    };
    let big = vec![300usize, 700];
    let stack =
        |which: usize| floats(4 * 64 * 32, move |i| if i / (64 * 32) == which { 0.0 } else { sound(i) });
    let cases: Vec<(&str, Vec<usize>, Vec<u8>, Option<(Fault, &str, Option<u64>, bool)>)> = vec![
        ("blk.0.sound.weight", big.clone(), matrix(0, 1.0), None),
        (
            "blk.0.nan.weight",
            big.clone(),
            matrix(123_456, f32::NAN),
            Some((Fault::NotANumber, "has 1 NaN", Some(176), true)),
        ),
        (
            "blk.0.inf.weight",
            big.clone(),
            matrix(209_999, f32::NEG_INFINITY),
            Some((Fault::Infinite, "has 1 Inf", Some(299), true)),
        ),
        ("blk.0.zero.weight", big.clone(), rows(0..300, 0.0), Some((Fault::Zero, "is all zero", None, true))),
        (
            "blk.0.minus.weight",
            big.clone(),
            rows(0..300, -0.0),
            Some((Fault::Zero, "is all zero", None, true)),
        ),
        (
            "blk.1.constant.weight",
            big.clone(),
            rows(0..300, 0.5),
            Some((Fault::Constant, "is 0.5 everywhere", None, true)),
        ),
        (
            "blk.1.rows.weight",
            big.clone(),
            rows(17..20, 0.0),
            Some((Fault::ZeroRows, "has 3 of 300 rows that are all zero", Some(17), false)),
        ),
        (
            "blk.1.same_rows.weight",
            big.clone(),
            rows(299..300, 2.0),
            Some((Fault::ConstantRows, "has 1 of 300 rows that are constant", Some(299), false)),
        ),
        (
            "blk.1.ffn_up_exps.weight",
            vec![4, 64, 32],
            stack(2),
            Some((Fault::Zero, "is all zero in 1 of its 4 matrices, the first of them 2", None, true)),
        ),
        (
            "blk.1.attn_norm.weight",
            vec![700],
            floats(700, |_| 1.0),
            Some((Fault::Constant, "is 1 everywhere", None, false)),
        ),
        (
            "blk.1.attn_q.bias",
            vec![700],
            floats(700, |_| 0.0),
            Some((Fault::Zero, "is all zero", None, false)),
        ),
        (
            "blk.1.ffn_up_exps.bias",
            vec![4, 64],
            floats(256, |_| 0.0),
            Some((Fault::Zero, "is all zero", None, false)),
        ),
        (
            "token_types.weight",
            vec![1, 700],
            floats(700, |_| 0.0),
            Some((Fault::Zero, "is all zero", None, false)),
        ),
        ("scale.weight", vec![1], floats(1, |_| 3.0), None),
    ];
    let tensors: Vec<_> = cases.iter().map(|(n, s, b, _)| (*n, s.clone(), b.clone())).collect();
    write(&path, &tensors);
    let model = opened(&path);
    let recipe = identity(&model);
    for (memory, dtype) in
        [(PLENTY, DType::F32), (PLENTY, DType::BF16), (PLENTY, DType::F16), (6 << 20, DType::F32)]
    {
        let weights = Weights::of(&model, &recipe, Hold { dtype, ..hold(memory) }).unwrap();
        let findings = weights.audit().unwrap();
        for (name, _, _, expected) in &cases {
            let found: Vec<_> = findings.iter().filter(|f| f.tensor == *name).collect();
            match expected {
                None => assert!(found.is_empty(), "{name}: {found:?}"),
                Some((fault, detail, row, fatal)) => {
                    let [one] = found[..] else { panic!("{name} in {dtype}: {found:?}") };
                    assert_eq!(
                        (one.fault, one.detail.as_str(), one.row, one.fatal),
                        (*fault, *detail, *row, *fatal),
                        "{name}"
                    );
                }
            }
        }
    }
}

/// A tensor that nobody asks for is told, if its stage was passed; what is asked of a stage is its own.
#[test]
fn what_nobody_asks_for_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let names =
        ["blk.0.a.weight", "blk.0.extra.weight", "blk.1.a.weight", "output.weight", "output_norm.weight"];
    let tensors: Vec<_> = names.iter().map(|n| (*n, vec![8, 16], floats(128, |i| i as f32))).collect();
    write(&path, &tensors);
    let model = opened(&path);
    let weights = Weights::of(&model, &identity(&model), hold(PLENTY)).unwrap();
    assert!(weights.unused().is_empty());
    let layer = weights.stage(Stage::Layer(0)).unwrap();
    layer.get("blk.0.a.weight").unwrap();
    assert!(layer.find("blk.1.a.weight").is_none() && layer.find("output.weight").is_none());
    assert!(layer.get("blk.0.b.weight").is_err());
    assert_eq!(weights.unused(), ["blk.0.extra.weight"]);
    weights.stage(Stage::Back).unwrap().get("output_norm.weight").unwrap();
    assert_eq!(weights.unused(), ["blk.0.extra.weight", "output.weight"]);
    assert!(weights.rows("output.weight", &[7..9]).is_err());
    assert!(weights.rows("output.weight", &[3..3]).is_err());
    weights.rows("output.weight", &[7..8]).unwrap();
    assert_eq!(weights.unused(), ["blk.0.extra.weight"]);
    assert_eq!(weights.shape("output.weight"), Some(&[8, 16][..]));
    assert!(weights.has("blk.1.a.weight") && !weights.has("blk.2.a.weight"));
}

#[test]
fn refusals() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let tensors: Vec<_> = ["blk.0.a.weight", "blk.1.a.weight"]
        .map(|n| (n, vec![1024, 1024], floats(1 << 20, |i| if i == 5 { 70000.0 } else { i as f32 })))
        .into();
    write(&path, &tensors);
    let model = opened(&path);
    let recipe = identity(&model);
    let refused = |hold: Hold| Weights::of(&model, &recipe, hold).unwrap_err();
    // Less than a layer and the work to load it: before anything is loaded.
    let e = refused(hold(4 << 20));
    assert_eq!(e.kind(), ErrorKind::NoSpace);
    assert!(e.to_string().contains("layer 1") || e.to_string().contains("layer 0"), "{e}");
    // A number that f16 cannot hold.
    let e = refused(Hold { dtype: DType::F16, ..hold(PLENTY) });
    assert_eq!((e.kind(), e.tensor_name().is_some()), (ErrorKind::BadInput, true), "{e}");
    // Cancelled from outside.
    let (say, hear) = std::sync::mpsc::channel();
    let job: Job<()> = Job::start("outer", false, move |control| {
        say.send(control.stop_sign()).unwrap();
        while !control.is_stopped() {
            std::thread::yield_now();
        }
        Ok(())
    });
    let stop = hear.recv().unwrap();
    job.cancel();
    assert_eq!(refused(Hold { stop, ..hold(PLENTY) }).kind(), ErrorKind::Signal(2));
    // Changed after it was opened: found before by stage, and when nothing is read yet.
    let staged = Weights::of(&model, &recipe, hold(9 << 20)).unwrap();
    assert!(!staged.is_resident());
    staged.stage(Stage::Layer(0)).unwrap();
    std::fs::write(&path, b"short").unwrap();
    let e = staged.stage(Stage::Layer(0)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::BadInput, "{e}");
    assert!(e.file_name().is_some_and(|f| f.ends_with("model.safetensors")), "{e}");
}

/// A model ten times as large as its memory: every stage, the embedding and the head pass within it.
#[cfg(target_os = "linux")]
#[test]
fn memory_stays_within_its_limit() {
    if crate::load::in_child("verify_weights::memory_stays_within_its_limit", ":") {
        return;
    }
    let source = crate::load::synthetic(320);
    let model = opened(&source);
    let recipe = recipe(&model, &source.join("config.json"));
    let total = total_bytes(&recipe);
    let peak = || hoist::machine::peak_resident_bytes().unwrap();
    let limit = total / 10;
    let before = peak();
    let weights = Weights::of(&model, &recipe, hold(limit)).unwrap();
    assert!(!weights.is_resident());
    let mut sum = 0.0;
    let mut touch = |weight: &Weight| {
        let tensor = weight.tensor().unwrap();
        sum += tensor.flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
    };
    let layers: std::collections::BTreeSet<usize> = recipe
        .outputs
        .iter()
        .filter_map(|o| o.name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok())
        .collect();
    let stages = layers.into_iter().map(Stage::Layer);
    for stage in std::iter::once(Stage::Front).chain(stages).chain([Stage::Back]) {
        let tensors = weights.stage(stage).unwrap();
        for output in &recipe.outputs {
            if let Some(weight) = tensors.find(&output.name) {
                touch(&weight);
            }
        }
    }
    for name in ["token_embd.weight", "output.weight"] {
        let Some(shape) = weights.shape(name) else { continue };
        let step = weights.rows_at_once(name);
        for start in (0..shape[0]).step_by(step as usize) {
            touch(&weights.rows(name, &[start..(start + step).min(shape[0])]).unwrap());
        }
    }
    let findings = weights.audit().unwrap();
    assert!(findings.iter().all(|f| !f.fatal), "{findings:?}");
    let taken = peak() - before;
    assert!(taken <= limit + (16 << 20), "{taken} bytes, {limit} were allowed");
    assert!(weights.unused().is_empty(), "{:?}", weights.unused());
    // Held whole in the type of the file, they are there once: read straight into where they are computed with.
    drop(weights);
    let weights = Weights::of(&model, &recipe, Hold { dtype: DType::BF16, ..hold(PLENTY) }).unwrap();
    assert!(weights.is_resident());
    let taken = peak() - before;
    assert!(taken >= total / 2 && taken <= total / 2 + (96 << 20), "{taken} bytes for {}", total / 2);
}
