//! Faults planted one at a time, each caught by a check with a name.
//!
//! A copy of a model that is right gets one fault, and is verified against the original. What must not happen is planted
//! too: the same model in another container, or stored otherwise without a change of its values, passes.

use crate::families::model;
use crate::load::opened;
use crate::naive::testdata;
use crate::verify_families::{converted, edit_config};
use hoist::checkpoint::Container;
use hoist::checkpoint::Tensor;
use hoist::dtype::DType;
use hoist::verify::report::Report;
use hoist::verify::{Options, verify};
use hoist::{Error, ErrorKind};
use serde_json::json;
use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A model in a folder of its own, or a GGUF in it, that may be changed.
struct Copy {
    dir: tempfile::TempDir,
    path: PathBuf,
}

impl Copy {
    fn of(model: &str) -> Copy {
        let dir = tempfile::tempdir().unwrap();
        let (name, gguf) = match model.strip_suffix(".gguf") {
            Some(name) => (name, true),
            None => (model, false),
        };
        let directory = if name == "rustdoc-llama-6m" {
            let to = dir.path().join(name);
            std::fs::create_dir(&to).unwrap();
            for entry in std::fs::read_dir(testdata(name)).unwrap() {
                let entry = entry.unwrap();
                // Not `fs::copy`: it would carry a read-only file's mode along.
                std::fs::write(to.join(entry.file_name()), std::fs::read(entry.path()).unwrap()).unwrap();
            }
            to
        } else {
            model::write(&model::spec(name), dir.path())
        };
        let path = if gguf {
            let file = dir.path().join(format!("{name}.gguf"));
            converted(&directory, &file, Container::Gguf, Some(DType::F32)).unwrap();
            file
        } else {
            directory
        };
        Copy { dir, path }
    }

    /// The folder of a directory's files.
    fn folder(&self) -> &Path {
        if self.path.is_dir() { &self.path } else { self.dir.path() }
    }

    /// A tensor's row of the table and the file that it lies in.
    fn find(&self, name: &str) -> (Tensor, PathBuf) {
        let table = opened(&self.path).table;
        let tensor = table.tensors.iter().find(|t| t.name == name);
        let tensor = tensor.unwrap_or_else(|| panic!("no tensor {name}")).clone();
        let file = Path::new(&table.files[tensor.at.span.file.index()].name).file_name().unwrap();
        (tensor, self.folder().join(file))
    }

    /// Changes a tensor's bytes where they lie.
    fn bytes<T>(&self, name: &str, change: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let (tensor, path) = self.find(name);
        let size = tensor.element_count() as usize * tensor.dtype.facts().block_bytes as usize;
        let mut file = std::fs::File::options().read(true).write(true).open(path).unwrap();
        let at = SeekFrom::Start(tensor.at.span.offset_bytes);
        let mut bytes = vec![0; size];
        file.seek(at).unwrap();
        file.read_exact(&mut bytes).unwrap();
        let out = change(&mut bytes);
        assert_eq!(bytes.len(), size);
        file.seek(at).unwrap();
        file.write_all(&bytes).unwrap();
        out
    }

    /// Changes its numbers: rows of `columns`, the last dimension.
    fn numbers(&self, name: &str, change: impl FnOnce(&mut Vec<f32>, usize)) {
        let (tensor, _) = self.find(name);
        let columns = *tensor.shape.last().unwrap() as usize;
        self.bytes(name, |bytes| match tensor.dtype {
            DType::F32 => {
                let mut x: Vec<f32> =
                    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
                change(&mut x, columns);
                *bytes = x.iter().flat_map(|x| x.to_le_bytes()).collect();
            }
            DType::BF16 => {
                let mut x: Vec<f32> = bytes
                    .chunks_exact(2)
                    .map(|b| half::bf16::from_le_bytes(b.try_into().unwrap()).to_f32())
                    .collect();
                change(&mut x, columns);
                *bytes = x.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect();
            }
            other => panic!("{name} is {}", other.name()),
        });
    }

    fn swap(&self, a: &str, b: &str) {
        let first = self.bytes(a, |x| x.clone());
        let second = self.bytes(b, |x| std::mem::replace(x, first));
        self.bytes(a, |x| *x = second);
    }

    /// Writes the weights anew, as one file, with some left out and some put in.
    fn rewrite(&self, without: &[&str], with: &[(&str, &str)]) {
        let files: Vec<Vec<u8>> = self.shards().iter().map(|f| std::fs::read(f).unwrap()).collect();
        let read: Vec<_> = files.iter().map(|f| safetensors::SafeTensors::deserialize(f).unwrap()).collect();
        let all: HashMap<String, safetensors::tensor::TensorView<'_>> =
            read.iter().flat_map(|f| f.tensors()).collect();
        let mut out: HashMap<String, _> =
            all.iter().filter(|(n, _)| !without.contains(&n.as_str())).map(|(n, t)| (n.clone(), t)).collect();
        for (name, like) in with {
            out.insert((*name).to_string(), &all[*like]);
        }
        let meta = HashMap::from([("format".to_string(), "pt".to_string())]);
        let file = safetensors::serialize(out.iter().map(|(n, t)| (n.clone(), *t)), Some(meta)).unwrap();
        for shard in self.shards() {
            std::fs::remove_file(shard).unwrap();
        }
        let _ = std::fs::remove_file(self.path.join("model.safetensors.index.json"));
        std::fs::write(self.path.join("model.safetensors"), file).unwrap();
    }

    fn shards(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.path).unwrap().map(|e| e.unwrap().path());
        let mut out: Vec<PathBuf> =
            entries.filter(|p| p.extension().is_some_and(|e| e == "safetensors")).collect();
        out.sort();
        out
    }
}

/// Transposes a square matrix.
fn transpose(x: &mut Vec<f32>, columns: usize) {
    assert_eq!(x.len(), columns * columns, "not square");
    *x = (0..x.len()).map(|i| x[i % columns * columns + i / columns]).collect();
}

/// From GGUF's order of a query's or key's rows (neighbouring pairs) back to the checkpoint's (halves).
fn unpermute(x: &mut Vec<f32>, columns: usize, heads: usize) {
    let half = x.len() / columns / heads / 2;
    let row = |r: usize| {
        let (head, within) = (r / (2 * half), r % (2 * half));
        head * 2 * half + within % half * 2 + within / half
    };
    *x = (0..x.len()).map(|i| x[row(i / columns) * columns + i % columns]).collect();
}

/// How a fault must be caught.
#[derive(Debug, Clone, Copy)]
enum Caught {
    /// One of these checks fails.
    By(&'static [&'static str]),
    /// It is refused with this kind of error, and the message holds this.
    Refused(ErrorKind, &'static str),
}
use Caught::{By, Refused};

const R: &str = "rustdoc-llama-6m";
const R_GGUF: &str = "rustdoc-llama-6m.gguf";
const LAYER: &str = "model.layers.2.";

/// (what is planted, in which model, how, how it is caught).
type Fault = (&'static str, &'static str, fn(&Copy), Caught);

const FAULTS: &[Fault] = &[
    // Weights that are not where or what they should be.
    (
        "two matrices of a shape swapped",
        R,
        |c| c.swap(&format!("{LAYER}mlp.gate_proj.weight"), &format!("{LAYER}mlp.up_proj.weight")),
        By(&["logits"]),
    ),
    (
        "two layers' keys swapped",
        R,
        |c| c.swap("model.layers.1.self_attn.k_proj.weight", "model.layers.3.self_attn.k_proj.weight"),
        By(&["logits"]),
    ),
    (
        "two norms swapped",
        R,
        |c| {
            c.swap(
                &format!("{LAYER}input_layernorm.weight"),
                &format!("{LAYER}post_attention_layernorm.weight"),
            )
        },
        By(&["logits"]),
    ),
    (
        "a matrix of zeros",
        R,
        |c| c.bytes(&format!("{LAYER}self_attn.o_proj.weight"), |b| b.fill(0)),
        By(&["tensors"]),
    ),
    (
        "a constant matrix",
        R,
        |c| c.numbers(&format!("{LAYER}mlp.down_proj.weight"), |x, _| x.fill(0.01)),
        By(&["tensors"]),
    ),
    (
        "a norm of zeros",
        R,
        |c| c.bytes(&format!("{LAYER}input_layernorm.weight"), |b| b.fill(0)),
        By(&["logits"]),
    ),
    (
        "a square matrix transposed",
        R,
        |c| c.numbers(&format!("{LAYER}self_attn.q_proj.weight"), transpose),
        By(&["logits"]),
    ),
    (
        "a matrix 1 % too large",
        R,
        |c| c.numbers(&format!("{LAYER}mlp.up_proj.weight"), |x, _| x.iter_mut().for_each(|x| *x *= 1.01)),
        By(&["logits"]),
    ),
    (
        "a key twice too large",
        R,
        |c| {
            c.numbers(&format!("{LAYER}self_attn.k_proj.weight"), |x, _| x.iter_mut().for_each(|x| *x *= 2.0))
        },
        By(&["logits"]),
    ),
    (
        "the head half as large",
        R,
        |c| c.numbers("lm_head.weight", |x, _| x.iter_mut().for_each(|x| *x *= 0.5)),
        By(&["logits"]),
    ),
    (
        "a row's signs turned",
        R,
        |c| {
            c.numbers(&format!("{LAYER}mlp.down_proj.weight"), |x, n| {
                x[7 * n..8 * n].iter_mut().for_each(|x| *x = -*x)
            });
        },
        By(&["logits"]),
    ),
    (
        "rows shifted by one",
        R,
        |c| c.numbers(&format!("{LAYER}self_attn.v_proj.weight"), |x, n| x.rotate_left(n)),
        By(&["logits"]),
    ),
    (
        "the highest bit of one exponent flipped",
        R,
        |c| c.bytes(&format!("{LAYER}mlp.down_proj.weight"), |b| b[2 * 4321 + 1] ^= 0x40),
        By(&["logits", "forward"]),
    ),
    (
        "a cut-off end: the last 4 kB are zero",
        R,
        |c| {
            c.bytes(&format!("{LAYER}mlp.down_proj.weight"), |b| {
                let n = b.len();
                b[n - 4096..].fill(0);
            });
        },
        By(&["logits"]),
    ),
    (
        "one NaN",
        R,
        |c| c.bytes("model.embed_tokens.weight", |b| b[2 * 99..][..2].copy_from_slice(&[0xc0, 0x7f])),
        By(&["tensors"]),
    ),
    (
        "one infinity",
        R,
        |c| c.bytes("lm_head.weight", |b| b[2 * 99..][..2].copy_from_slice(&[0x80, 0x7f])),
        By(&["tensors"]),
    ),
    // Configs.
    (
        "another rope base",
        R,
        |c| edit_config(&c.path, &json!({"rope_parameters": {"rope_theta": 500000.0}})),
        By(&["logits"]),
    ),
    ("another epsilon", R, |c| edit_config(&c.path, &json!({"rms_norm_eps": 1e-3})), By(&["logits"])),
    ("another activation", R, |c| edit_config(&c.path, &json!({"hidden_act": "gelu"})), By(&["logits"])),
    (
        "a rope scaled that is not",
        R,
        |c| edit_config(&c.path, &json!({"rope_parameters": {"rope_type": "linear", "factor": 2.0}})),
        By(&["logits"]),
    ),
    (
        "one layer fewer in the config",
        R,
        |c| edit_config(&c.path, &json!({"num_hidden_layers": 4})),
        By(&["tensors"]),
    ),
    (
        "one layer more in the config",
        R,
        |c| edit_config(&c.path, &json!({"num_hidden_layers": 6})),
        By(&["tensors"]),
    ),
    (
        "other heads in the config",
        R,
        |c| {
            edit_config(&c.path, &json!({"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32}))
        },
        By(&["logits"]),
    ),
    (
        "a head said to be tied that is not",
        R,
        |c| edit_config(&c.path, &json!({"tie_word_embeddings": true})),
        By(&["tensors"]),
    ),
    (
        "a head dropped as if it were tied",
        R,
        |c| {
            edit_config(&c.path, &json!({"tie_word_embeddings": true}));
            c.rewrite(&["lm_head.weight"], &[]);
        },
        By(&["logits"]),
    ),
    (
        "a window that is not there",
        "mistral",
        |c| edit_config(&c.path, &json!({"sliding_window": 16})),
        By(&["logits"]),
    ),
    // Files and tensors.
    (
        "a shard missing",
        R,
        |c| std::fs::remove_file(&c.shards()[1]).unwrap(),
        Refused(ErrorKind::NotFound, "model-00002-of-00003.safetensors"),
    ),
    (
        "a shard missing, and the index with it",
        R,
        |c| {
            std::fs::remove_file(&c.shards()[1]).unwrap();
            std::fs::remove_file(c.path.join("model.safetensors.index.json")).unwrap();
        },
        Refused(ErrorKind::NotFound, "number 2 is not there"),
    ),
    ("a tensor missing", R, |c| c.rewrite(&["model.layers.2.mlp.up_proj.weight"], &[]), By(&["tensors"])),
    (
        "a tensor too many",
        R,
        |c| c.rewrite(&[], &[("model.layers.2.mlp.extra_proj.weight", "model.layers.2.mlp.up_proj.weight")]),
        By(&["tensors"]),
    ),
    (
        "a tensor of another shape",
        R,
        |c| c.rewrite(&[], &[("model.layers.2.mlp.up_proj.weight", "model.layers.2.mlp.down_proj.weight")]),
        By(&["tensors"]),
    ),
    (
        "two merges of the tokenizer swapped",
        R,
        |c| {
            let path = c.path.join("tokenizer.json");
            let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            json["model"]["merges"].as_array_mut().unwrap().swap(10, 500);
            std::fs::write(path, serde_json::to_vec(&json).unwrap()).unwrap();
        },
        By(&["tokenizer"]),
    ),
    // Conversions gone wrong.
    (
        "GGUF: queries not permuted",
        R_GGUF,
        |c| c.numbers("blk.2.attn_q.weight", |x, n| unpermute(x, n, 4)),
        By(&["logits"]),
    ),
    (
        "GGUF: keys not permuted",
        R_GGUF,
        |c| c.numbers("blk.2.attn_k.weight", |x, n| unpermute(x, n, 2)),
        By(&["logits"]),
    ),
    (
        "GGUF: Gemma's norms without their one",
        "gemma2.gguf",
        |c| c.numbers("blk.1.attn_norm.weight", |x, _| x.iter_mut().for_each(|x| *x -= 1.0)),
        By(&["logits"]),
    ),
    (
        "GGUF: Gemma's norms with one too many",
        "gemma3.gguf",
        |c| c.numbers("blk.1.attn_q_norm.weight", |x, _| x.iter_mut().for_each(|x| *x += 1.0)),
        By(&["logits"]),
    ),
    (
        "GGUF: gate and up swapped",
        R_GGUF,
        |c| c.swap("blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"),
        By(&["logits"]),
    ),
    // Experts.
    (
        "two experts swapped",
        "mixtral",
        |c| {
            for part in ["w1", "w2", "w3"] {
                let name = |e: usize| format!("model.layers.0.block_sparse_moe.experts.{e}.{part}.weight");
                c.swap(&name(1), &name(3));
            }
        },
        By(&["logits"]),
    ),
    (
        "one matrix of two experts swapped",
        "qwen3_moe",
        |c| {
            c.swap(
                "model.layers.0.mlp.experts.0.down_proj.weight",
                "model.layers.0.mlp.experts.5.down_proj.weight",
            )
        },
        By(&["logits"]),
    ),
    (
        "a router's rows in another order",
        "qwen3_moe",
        |c| c.numbers("model.layers.0.mlp.gate.weight", |x, n| x.rotate_left(n)),
        By(&["logits"]),
    ),
    (
        "GGUF: a stack of experts in another order",
        "mixtral.gguf",
        |c| {
            c.numbers("blk.0.ffn_down_exps.weight", |x, _| {
                let n = x.len() / 4;
                x.rotate_left(n);
            });
        },
        By(&["logits"]),
    ),
    (
        "a bias of the choice of experts lost",
        "deepseek_v3",
        |c| c.bytes("model.layers.1.mlp.gate.e_score_correction_bias", |b| b.fill(0)),
        By(&["logits"]),
    ),
    (
        "routed experts not scaled",
        "deepseek_v3",
        |c| edit_config(&c.path, &json!({"routed_scaling_factor": 1.0})),
        By(&["logits"]),
    ),
    (
        "a logit of the sinks lost",
        "gpt_oss-bf16",
        |c| c.bytes("model.layers.0.self_attn.sinks", |b| b[..2].fill(0)),
        By(&["logits"]),
    ),
];

/// The text that tiny runs are made on: long enough for a window, short enough for a test.
fn sample() -> String {
    let text = std::fs::read_to_string(testdata("rustdoc-valid.txt")).unwrap();
    text[..text.char_indices().nth(1200).unwrap().0].to_string()
}

fn verified(candidate: &Path, original: &Path) -> Result<Report, Error> {
    let open = |path: &Path| hoist::open::open(path.to_str().unwrap(), &hoist::open::Options::default());
    let options = Options { against: Some(open(original)?), sample: Some(sample()), ..Options::default() };
    verify(open(candidate)?, options).wait()
}

/// The checks that failed.
fn failed(report: &Report) -> Vec<&'static str> {
    report.failed().map(|c| c.name).collect()
}

#[test]
fn each_is_caught_by_name() {
    let mut wrong = Vec::new();
    for (what, model, plant, caught) in FAULTS {
        let original = Copy::of(model.strip_suffix(".gguf").unwrap_or(model));
        let faulty = Copy::of(model);
        plant(&faulty);
        let found = verified(&faulty.path, &original.path);
        let good = match (&found, caught) {
            (Ok(report), By(checks)) => !report.passed() && failed(report).iter().any(|f| checks.contains(f)),
            (Err(e), Refused(kind, words)) => e.kind() == *kind && e.to_string().contains(words),
            _ => false,
        };
        let found = match found {
            Ok(report) => format!("failed: {:?}", failed(&report)),
            Err(e) => format!("refused with {:?}: {e}", e.kind()),
        };
        eprintln!("{what}: {found}");
        if !good {
            wrong.push(format!("{what} in {model}: expected {caught:?}; {found}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} not caught\n{}", wrong.len(), FAULTS.len(), wrong.join("\n"));
}

/// What is no fault: the same values in each container, whatever lies in them in another order.
#[test]
fn nothing_else_is_caught() {
    let mut wrong = Vec::new();
    for model in [R, "gemma2", "mixtral", "qwen3_moe-fused", "deepseek_v3", "gpt_oss", "llama-fp8-channel"] {
        let original = Copy::of(model);
        let to = |name: &str| original.dir.path().join(name);
        let mut forms = vec![("itself", original.path.clone())];
        for (form, file, container, dtype) in [
            ("bin", "torch", Container::Torch, None),
            ("gguf f32", "f32.gguf", Container::Gguf, Some(DType::F32)),
            ("gguf", "own.gguf", Container::Gguf, None),
            ("single file", "single", Container::Safetensors, None),
        ] {
            match converted(&original.path, &to(file), container, dtype) {
                Ok(()) => forms.push((form, to(file))),
                Err(e) => wrong.push(format!("{model} to {form}: {e}")),
            }
        }
        for (form, path) in forms {
            match verified(&path, &original.path) {
                Ok(report) if report.passed() => {}
                Ok(report) => wrong.push(format!("{model} as {form}: failed {:?}", failed(&report))),
                Err(e) => wrong.push(format!("{model} as {form}: {e}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A counter-based generator for the choice of bits.
fn random(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % below
}

/// Which flipped bits of the trained model a forward pass sees, bit by bit, and that `diff` sees all.
#[test]
#[ignore = "takes minutes: it prints a table, bit by bit"]
fn which_bit_flips_are_seen() {
    // What it printed, bits 0 to 11, seen of 12: 0 0 0 2 2 1 3 (mantissa), 5 7 8 8 4 (the exponent's lower five).
    const EACH: usize = 12;
    let (original, copy) = (Copy::of(R), Copy::of(R));
    let table = opened(&copy.path).table;
    let total: u64 = table.tensors.iter().map(Tensor::element_count).sum();
    let mut state = 7;
    for bit in 0..16u32 {
        let (mut by, mut diffed) = (HashMap::<&str, usize>::new(), 0);
        let mut seen = 0;
        for _ in 0..EACH {
            let mut place = random(&mut state, total);
            let tensor = table.tensors.iter().find(|t| {
                let inside = place < t.element_count();
                place -= if inside { 0 } else { t.element_count() };
                inside
            });
            let name = tensor.unwrap().name.clone();
            let flip = |b: &mut Vec<u8>| b[2 * place as usize + bit as usize / 8] ^= 1 << (bit % 8);
            copy.bytes(&name, flip);
            let report = {
                let options = Options { against: Some(opened(&original.path)), ..Options::default() };
                verify(opened(&copy.path), options).wait()
            };
            match report {
                Ok(report) => {
                    seen += usize::from(!report.passed());
                    for check in failed(&report) {
                        *by.entry(check).or_default() += 1;
                    }
                }
                Err(e) => panic!("bit {bit} of {name}[{place}]: {e}"),
            }
            let diff = hoist::diff::diff(opened(&original.path), opened(&copy.path), Default::default());
            diffed += usize::from(!diff.wait().unwrap().is_equal());
            copy.bytes(&name, flip);
        }
        assert_eq!(diffed, EACH, "hoist diff sees each");
        eprintln!("bit {bit:2}: {seen} of {EACH} {by:?}");
    }
}
