//! What the forward pass computes, against transformers: each family of `testdata/families` that has a vocabulary, and the
//! variants of their configs that `testdata/make/verify.py` lists, in each container that hoist makes of them.
//!
//! The goldens hold a sample of the logits of every position, and say how far other arithmetic takes transformers itself
//! from them: float64 (a floor: nothing can be asked to be closer) and bf16 (a ceiling for ours).

use crate::families::model;
use crate::load::opened;
use crate::naive::testdata;
use candle_core::Device;
use hoist::checkpoint::Container;
use hoist::convert::{Options as Conversion, convert};
use hoist::dtype::DType;
use hoist::run::job::StopSign;
use hoist::verify::decoder::Decoder;
use hoist::verify::stack::Pass;
use hoist::verify::subject::Subject;
use hoist::verify::weights::{Hold, Stage, Weights};
use hoist::{Error, ErrorKind};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Relative errors that are larger than [`LIMIT`]: of a case in any container, and why.
const LOOSER: &[(&str, f64, &str)] = &[];

/// The largest relative error of a logit in float32.
const LIMIT: f64 = 1e-5;

/// Columns of the sample that a golden keeps.
const COLUMNS: usize = 32;

/// What transformers computed.
pub struct Golden {
    /// The case: a family, or a family and what its config asks for besides.
    pub case: String,
    /// The ids that went in.
    pub ids: Vec<u32>,
    sample: Vec<f32>,
    last: Vec<f32>,
    facts: HashMap<String, String>,
}

impl Golden {
    /// A case's.
    pub fn of(case: &str) -> Golden {
        let bytes = std::fs::read(testdata(&format!("golden/verify/{case}.safetensors"))).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let floats = |name: &str| bytes_to_f32(file.tensor(name).unwrap().data());
        let ids = file.tensor("input_ids").unwrap().data().chunks_exact(8);
        Golden {
            case: case.to_string(),
            ids: ids.map(|b| u32::try_from(i64::from_le_bytes(b.try_into().unwrap())).unwrap()).collect(),
            sample: floats("sample"),
            last: floats("last"),
            facts: header.metadata().clone().unwrap(),
        }
    }

    /// All of them, by name.
    pub fn all() -> Vec<Golden> {
        let names = std::fs::read_dir(testdata("golden/verify")).unwrap();
        let names = names.map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut cases: Vec<String> = names
            .filter_map(|n| n.strip_suffix(".safetensors").map(str::to_string))
            .filter(|n| n != "rustdoc")
            .collect();
        cases.sort();
        cases.iter().map(|c| Golden::of(c)).collect()
    }

    /// A number that its maker noted.
    pub fn fact(&self, name: &str) -> f64 {
        self.facts[name].parse().unwrap()
    }

    /// The model, as safetensors with its config edited, in `root`.
    pub fn write(&self, root: &Path) -> PathBuf {
        let path = model::write(&model::spec(&self.facts["family"]), root);
        let edit: serde_json::Value = serde_json::from_str(&self.facts["edit"]).unwrap();
        edit_config(&path, &edit);
        path
    }

    /// How far logits are from the golden's, as a fraction of its largest: at most, and the median over positions of the
    /// root of the mean square.
    pub fn distance(&self, logits: &Logits) -> (f64, f64) {
        let Logits { vocabulary, values } = logits;
        assert_eq!(*vocabulary, self.last.len(), "{}: vocabulary", self.case);
        assert_eq!(values.len(), vocabulary * self.ids.len(), "{}: positions", self.case);
        let step = vocabulary / COLUMNS;
        // A NaN is no number's neighbour, and `max` would drop it.
        let off = |expected: f32, found: f32| {
            let off = (f64::from(expected) - f64::from(found)).abs() / self.fact("scale");
            if off.is_nan() { f64::INFINITY } else { off }
        };
        let mut most = 0f64;
        let mut positions = Vec::new();
        for (position, row) in values.chunks_exact(*vocabulary).enumerate() {
            let expected = &self.sample[position * COLUMNS..][..COLUMNS];
            let found = (0..COLUMNS).map(|k| row[(29 * position + k * step) % vocabulary]);
            let offs = expected.iter().zip(found).map(|(&e, f)| off(e, f));
            let (greatest, squares) = offs.fold((0f64, 0f64), |(m, s), x| (m.max(x), s + x * x));
            most = most.max(greatest);
            positions.push((squares / COLUMNS as f64).sqrt());
        }
        let last = self.last.iter().zip(&values[values.len() - vocabulary..]);
        most = last.fold(most, |most, (&e, &f)| most.max(off(e, f)));
        positions.sort_by(f64::total_cmp);
        (most, positions[(positions.len() - 1) / 2])
    }
}

fn bytes_to_f32(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Puts values into a directory's `config.json`: objects are merged, null removes.
pub fn edit_config(directory: &Path, edit: &serde_json::Value) {
    fn merge(config: &mut serde_json::Value, edit: &serde_json::Value) {
        for (key, value) in edit.as_object().unwrap() {
            if value.is_null() {
                config.as_object_mut().unwrap().shift_remove(key);
            } else if value.is_object() && config[key].is_object() {
                merge(&mut config[key], value);
            } else {
                config[key] = value.clone();
            }
        }
    }
    let path = directory.join("config.json");
    let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    merge(&mut config, edit);
    std::fs::write(path, serde_json::to_vec_pretty(&config).unwrap()).unwrap();
}

/// All positions' logits, a row after the other.
pub struct Logits {
    pub vocabulary: usize,
    pub values: Vec<f32>,
}

/// How weights are held where nothing else is asked: whole, in float32.
pub fn whole() -> Hold {
    Hold {
        dtype: DType::F32,
        device: Device::Cpu,
        memory_bytes: 4 << 30,
        native: false,
        threads: Some(1),
        stop: StopSign::default(),
    }
}

/// A model's logits for one sequence.
pub fn logits(path: &Path, ids: &[u32], hold: Hold) -> Result<Logits, Error> {
    let subject = Subject::of(opened(path))?;
    let weights = Weights::new(&subject, hold)?;
    logits_with(&subject, &weights, ids)
}

fn logits_with(subject: &Subject, weights: &Weights, ids: &[u32]) -> Result<Logits, Error> {
    let decoder = Decoder { forward: &subject.forward, weights };
    let mut x = decoder.embed(ids, 0)?;
    let pass = Pass::new(0, None);
    for k in 0..subject.forward.layers.len() {
        let tensors = weights.stage(Stage::Layer(k))?;
        x = decoder.layer(k, &tensors, &x, &pass, None)?;
    }
    let hidden = decoder.finish(&weights.stage(Stage::Back)?, &x)?.squeeze(0).unwrap();
    let vocabulary = decoder.vocabulary()?;
    let rows = decoder.logits(&hidden, 0..vocabulary)?;
    Ok(Logits { vocabulary: vocabulary as usize, values: rows.flatten_all().unwrap().to_vec1().unwrap() })
}

/// Converts, with a refusal as an error.
pub fn converted(from: &Path, to: &Path, container: Container, dtype: Option<DType>) -> Result<(), Error> {
    let mut options = Conversion::new(to);
    options.to = Some(container);
    options.dtype = dtype;
    convert(opened(from), options).wait().map(|_| ())
}

/// Shows all that is wrong at once.
fn none_wrong(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_family_computes_what_transformers_computes() {
    let mut wrong = Vec::new();
    for golden in Golden::all() {
        let case = &golden.case;
        let limit = LOOSER.iter().find(|(c, ..)| c == case).map_or(LIMIT, |(_, limit, _)| *limit);
        let dir = tempfile::tempdir().unwrap();
        let source = golden.write(dir.path());
        let torch = dir.path().join("torch");
        let gguf = dir.path().join("f32.gguf");
        let mut forms = vec![("safetensors", Ok(source.clone()))];
        forms.push(("bin", converted(&source, &torch, Container::Torch, None).map(|()| torch)));
        let made = converted(&source, &gguf, Container::Gguf, Some(DType::F32));
        match (golden.facts["gguf"].as_str(), made) {
            ("same", made) => forms.push(("gguf", made.map(|()| gguf))),
            ("refused", Err(e)) if e.kind() == ErrorKind::Unsupported => {}
            // Another model in the engine, which `convert` says: a row that no longer holds must go.
            ("differs", Ok(())) => match logits(&gguf, &golden.ids, whole()) {
                Ok(found) if golden.distance(&found).0 > 1e-3 => {}
                Ok(_) => wrong.push(format!("{case}: the GGUF was to differ and does not")),
                Err(e) => wrong.push(format!("{case}: {e}")),
            },
            (expected, made) => wrong.push(format!("{case} to GGUF: expected `{expected}`, found {made:?}")),
        }
        let mut figures = Vec::new();
        for (form, path) in forms {
            match path.and_then(|p| logits(&p, &golden.ids, whole())) {
                Ok(found) => {
                    let (most, _) = golden.distance(&found);
                    figures.push(format!("{form} {most:.1e}"));
                    if most > limit {
                        wrong.push(format!("{case} {form}: relative error {most:.1e}, limit {limit:.0e}"));
                    }
                }
                Err(e) => wrong.push(format!("{case} {form}: {e}")),
            }
        }
        eprintln!("{case:22} {} (float64 {:.1e})", figures.join("  "), golden.fact("f64"));
    }
    none_wrong(&wrong);
}

/// With ever less memory, down to where not even a part fits, every bit of the answer stays.
#[test]
fn by_layers_bit_for_bit() {
    let mut wrong = Vec::new();
    for golden in Golden::all().iter().filter(|g| !g.case.contains('.')) {
        let dir = tempfile::tempdir().unwrap();
        let source = golden.write(dir.path());
        let ids = &golden.ids[..24];
        let expected = logits(&source, ids, whole()).map(|l| l.values);
        let expected = match expected {
            Ok(values) => values,
            Err(e) => {
                wrong.push(format!("{}: {e}", golden.case));
                continue;
            }
        };
        let subject = Subject::of(opened(&source)).unwrap();
        let (mut memory_bytes, mut done) = (32 << 20, 0);
        loop {
            let found = Weights::new(&subject, Hold { memory_bytes, ..whole() }).and_then(|weights| {
                (!weights.is_resident()).then(|| logits_with(&subject, &weights, ids)).transpose()
            });
            match found {
                Ok(None) => {}
                Ok(Some(found)) => {
                    let differ =
                        expected.iter().zip(&found.values).filter(|(a, b)| a.to_bits() != b.to_bits());
                    let differ = differ.count();
                    if differ > 0 {
                        wrong.push(format!(
                            "{}: {differ} logits differ with {memory_bytes} bytes",
                            golden.case
                        ));
                    }
                    done += 1;
                }
                Err(e) if e.kind() == ErrorKind::NoSpace && done > 0 => break,
                Err(e) => {
                    wrong.push(format!("{} with {memory_bytes} bytes: {e}", golden.case));
                    break;
                }
            }
            memory_bytes = memory_bytes * 31 / 32;
        }
    }
    none_wrong(&wrong);
}

/// In bf16 no further from float32 than transformers is in bf16: by the median over positions, since where rounding makes a
/// router choose otherwise, some positions are far off, here at some and there at others.
#[test]
fn bf16_is_no_worse_than_transformers() {
    // Two draws of the same roundings. Gemma's come nearest: `1 + weight` is rounded once more here.
    const CHANCE: f64 = 1.15;
    let mut wrong = Vec::new();
    for golden in Golden::all() {
        let dir = tempfile::tempdir().unwrap();
        let source = golden.write(dir.path());
        match logits(&source, &golden.ids, Hold { dtype: DType::BF16, ..whole() }) {
            Ok(found) => {
                let (most, median) = golden.distance(&found);
                let (theirs, limit) = (golden.fact("bf16_max"), golden.fact("bf16_median"));
                let line = format!(
                    "{:22} median {median:.2e} (transformers {limit:.2e})  max {most:.1e} ({theirs:.1e})",
                    golden.case
                );
                eprintln!("{line}");
                if median > limit * CHANCE {
                    wrong.push(line);
                }
            }
            Err(e) => wrong.push(format!("{}: {e}", golden.case)),
        }
    }
    none_wrong(&wrong);
}
