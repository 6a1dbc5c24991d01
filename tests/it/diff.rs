//! Comparing models: what is found, against the definitions; what a person sees.

use crate::cli::{code, hoist, text};
use crate::naive::testdata;
use hoist::checkpoint::MetaValue;
use hoist::diff::{Difference, Figures, Options, Report, TensorDiff, Values, diff};
use hoist::dtype::DType;
use hoist::format::layout::{Entry, Laid};
use hoist::format::{gguf, safetensors, torch};
use hoist::{Error, ErrorKind, open};
use std::path::{Path, PathBuf};

/// A tensor with its bytes.
type Made = (Entry, Vec<u8>);

fn made(name: &str, dtype: DType, shape: &[u64], bytes: Vec<u8>) -> Made {
    let entry = Entry { name: name.into(), dtype, shape: shape.into() };
    assert_eq!(entry.size_bytes().unwrap(), bytes.len() as u64, "{name}");
    (entry, bytes)
}

/// Numbers as elements of a type.
fn encoded(dtype: DType, numbers: &[f64]) -> Vec<u8> {
    let of = |&x: &f64| match dtype {
        DType::F64 => x.to_le_bytes().to_vec(),
        DType::F32 => (x as f32).to_le_bytes().to_vec(),
        DType::F16 => ::half::f16::from_f64(x).to_le_bytes().to_vec(),
        DType::BF16 => ::half::bf16::from_f64(x).to_le_bytes().to_vec(),
        DType::I32 => (x as i32).to_le_bytes().to_vec(),
        DType::I8 => (x as i8).to_le_bytes().to_vec(),
        other => panic!("{other}"),
    };
    match dtype {
        // A scale of a half, and twice the numbers.
        DType::Q8_0 => numbers
            .chunks(32)
            .flat_map(|block| {
                let mut out = ::half::f16::from_f64(0.5).to_le_bytes().to_vec();
                out.extend(block.iter().map(|&x| (x * 2.0) as i8 as u8));
                out
            })
            .collect(),
        _ => numbers.iter().flat_map(of).collect(),
    }
}

fn numbers(name: &str, dtype: DType, shape: &[u64], numbers: &[f64]) -> Made {
    made(name, dtype, shape, encoded(dtype, numbers))
}

/// Small halves, never all the same.
fn some(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % 127) as f64 / 2.0 - 31.5
    };
    (0..count).map(|_| next()).collect()
}

fn write(path: &Path, laid: &Laid, sealed: Vec<(u64, Vec<u8>)>, tensors: &[Made]) {
    let mut file = vec![0; laid.file_size_bytes as usize];
    let data = tensors.iter().zip(&laid.offsets_bytes).map(|((_, bytes), &at)| (at, bytes.clone()));
    for (at, bytes) in laid.fixed.iter().cloned().chain(sealed).chain(data) {
        file[at as usize..][..bytes.len()].copy_from_slice(&bytes);
    }
    std::fs::write(path, file).unwrap();
}

/// Writes a file of the container that the name says. `keys` for GGUF and safetensors.
fn file(place: &Path, name: &str, tensors: &[Made], keys: &[(&str, &str)]) -> PathBuf {
    let path = place.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let entries: Vec<Entry> = tensors.iter().map(|(e, _)| e.clone()).collect();
    match name.rsplit_once('.').unwrap().1 {
        "gguf" => {
            let keys: Vec<(String, MetaValue)> =
                keys.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
            write(&path, &gguf::layout::lay_out(&entries, &keys, 32).unwrap(), vec![], tensors);
        }
        "bin" => {
            let firsts: Vec<usize> = tensors
                .iter()
                .map(|t| {
                    tensors
                        .iter()
                        .position(|u| u.0.name == t.0.name || u.1 == t.1 && !t.1.is_empty())
                        .unwrap()
                })
                .collect();
            let torch = torch::layout::lay_out(&entries, &firsts, "model").unwrap();
            let sums: Vec<u32> = torch.storages.iter().map(|&i| crc32fast::hash(&tensors[i].1)).collect();
            write(&path, &torch.laid, torch.seal(&sums).unwrap(), tensors);
        }
        _ => {
            let keys: Vec<(String, String)> = keys.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
            write(&path, &safetensors::layout::lay_out(&entries, &keys, None).unwrap(), vec![], tensors);
        }
    }
    path
}

fn try_report(a: &Path, b: &Path, options: Options) -> Result<Report, Error> {
    let open = |path: &Path| open::open(path.to_str().unwrap(), &open::Options::default()).unwrap();
    diff(open(a), open(b), options).wait()
}

fn report(a: &Path, b: &Path) -> Report {
    try_report(a, b, Options::default()).unwrap()
}

/// The one tensor that differs, in its values.
fn the_one(report: &Report) -> &Values {
    match &report.differing[..] {
        [TensorDiff { what: Difference::Values(values), .. }] => values,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_same_tensors_in_any_container() {
    let place = tempfile::tempdir().unwrap();
    let all = [
        numbers("b.weight", DType::BF16, &[4, 64], &some(256, 1)),
        numbers("a.bias", DType::F32, &[], &[f64::NAN]),
        numbers("c", DType::F16, &[3, 0], &[]),
        numbers("d", DType::I8, &[5], &[1.0, -2.0, 3.0, f64::INFINITY, -0.0]),
    ];
    let reversed: Vec<Made> = all.iter().rev().cloned().collect();
    let files = [
        file(place.path(), "a.safetensors", &all, &[]),
        file(place.path(), "b.bin", &reversed, &[]),
        file(place.path(), "c.gguf", &all, &[("general.architecture", "unknown")]),
    ];
    for a in &files {
        for b in &files {
            let report = report(a, b);
            assert!(
                report.is_equal() && report.compared == 4 && report.notes.is_empty(),
                "{a:?} {b:?}: {report:?}"
            );
            assert_eq!((report.elements, report.bytes), (262, 2 * (512 + 4 + 5)));
        }
    }
}

/// Pairs of files in `testdata/` that hold the same, however they are written.
#[test]
fn files_that_are_the_same() {
    for (a, b, tensors) in [
        ("gguf/v3.gguf", "gguf/v3-be.gguf", 2),
        ("gguf/v1.gguf", "gguf/v2-be.gguf", 2),
        ("gguf/kinds.gguf", "gguf/kinds-be.gguf", 5),
        ("torch/plain-legacy.pt", "torch/big-endian.pt", 12),
        ("torch/random-views.pt", "torch/random-views-legacy.pt", 36),
        ("torch/newer.pt", "torch/newer-legacy.pt", 10),
        ("safetensors/all_dtypes.safetensors", "safetensors/all_dtypes.safetensors", 19),
        ("safetensors/sub_byte.safetensors", "safetensors/sub_byte.safetensors", 4),
        ("safetensors/empty.safetensors", "safetensors/metadata_only.safetensors", 0),
    ] {
        let report = report(&testdata(a), &testdata(b));
        assert!(report.is_equal() && report.compared == tensors, "{a} {b}: {report:?}");
    }
    // Blocks of big-endian numbers, too: what the one has more is not in both.
    let report = report(&testdata("gguf/types.gguf"), &testdata("gguf/types-be.gguf"));
    assert_eq!((report.differing.len(), report.only_a.len(), report.only_b.len()), (0, 11, 0));
    assert_eq!(report.compared, 22);
}

/// The figures of two runs of numbers, as they are defined.
fn figures(a: &[f64], b: &[f64], shape: &[u64]) -> (u64, Figures) {
    let differing = a.iter().zip(b).filter(|(x, y)| x.to_bits() != y.to_bits()).count() as u64;
    let distance = |i: usize| (a[i] - b[i]).abs();
    let worst = (0..a.len()).fold(0, |worst, i| if distance(i) > distance(worst) { i } else { worst });
    let sum = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(&x, &y)| f(x, y)).sum::<f64>();
    let at = match shape {
        [_, columns] => vec![worst as u64 / columns, worst as u64 % columns],
        _ => vec![worst as u64],
    };
    let figures = Figures {
        max_abs: distance(worst),
        max_rel: distance(worst) / a.iter().fold(0.0, |top, x| x.abs().max(top)),
        rms: (sum(&|x, y| (x - y) * (x - y)) / a.len() as f64).sqrt(),
        cosine: Some(sum(&|x, y| x * y) / (sum(&|x, _| x * x).sqrt() * sum(&|_, y| y * y).sqrt())),
        at,
    };
    (differing, figures)
}

#[test]
fn figures_are_what_they_are_defined_as() {
    let place = tempfile::tempdir().unwrap();
    let types = [DType::F64, DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::I8, DType::I32];
    for (i, &left) in types.iter().enumerate() {
        for (j, &right) in types.iter().enumerate() {
            // Halves are in every float type, and whole numbers in all; no type of integers has a −0.
            let whole = |dtype: DType| matches!(dtype, DType::I8 | DType::I32);
            let round = |x: f64| if whole(left) || whole(right) { x.trunc() + 0.0 } else { x };
            let shape = [75, 64];
            let a: Vec<f64> = some(4800, i as u64).into_iter().map(round).collect();
            let mut b = a.clone();
            for (k, at) in [70 + i, 300 + j, 4799].into_iter().enumerate() {
                b[at] = a[at] - (a[at].signum() * (20.0 + k as f64));
            }
            let written = |name: &str, dtype: DType, values: &[f64]| {
                file(place.path(), name, &[numbers("t", dtype, &shape, values)], &[])
            };
            let (a_file, b_file) = (written("a.gguf", left, &a), written("b.gguf", right, &b));
            let report = report(&a_file, &b_file);
            let (differing, expected) = figures(&a, &b, &shape);
            let found = the_one(&report);
            assert_eq!(found.differing, differing, "{left} {right}");
            let found = found.figures.clone().unwrap();
            let near = |x: f64, y: f64| (x - y).abs() < 1e-12;
            assert!(near(found.rms, expected.rms), "{left} {right}: {found:?} {expected:?}");
            assert!(near(found.cosine.unwrap(), expected.cosine.unwrap()), "{left} {right}: {found:?}");
            let exact = (found.max_abs, found.max_rel, found.at);
            assert_eq!(exact, (expected.max_abs, expected.max_rel, expected.at), "{left} {right}");
            // The same numbers in two types differ in type only.
            let same = report_of_types(&a_file, &written("c.gguf", right, &a));
            assert_eq!(same, if left == right { vec![] } else { vec![Difference::DType] }, "{left} {right}");
        }
    }
}

fn report_of_types(a: &Path, b: &Path) -> Vec<Difference> {
    let lenient = try_report(a, b, Options { ignore_dtype: true, ..Options::default() }).unwrap();
    assert!(lenient.is_equal(), "{lenient:?}");
    report(a, b).differing.into_iter().map(|d| d.what).collect()
}

#[test]
fn what_is_not_finite_is_counted_and_in_no_figure() {
    let place = tempfile::tempdir().unwrap();
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    for (a, b, differing, not_finite, max_abs) in [
        (vec![nan, inf, -inf, 1.0], vec![nan, inf, -inf, 1.5], 1, 0, 0.5),
        (vec![nan, inf, 1.0, 2.0], vec![1.0, -inf, nan, 2.25], 4, 3, 0.25),
        (vec![0.0, 1.0], vec![-0.0, 1.0], 1, 0, 0.0),
    ] {
        for dtypes in [(DType::F32, DType::F32), (DType::F32, DType::F64), (DType::BF16, DType::F16)] {
            let written = |name: &str, dtype: DType, values: &[f64]| {
                file(place.path(), name, &[numbers("t", dtype, &[values.len() as u64], values)], &[])
            };
            let report =
                report(&written("a.safetensors", dtypes.0, &a), &written("b.safetensors", dtypes.1, &b));
            let found = the_one(&report);
            let max = found.figures.as_ref().unwrap().max_abs;
            assert_eq!(
                (found.differing, found.not_finite, max),
                (differing, not_finite, max_abs),
                "{a:?} {b:?}"
            );
        }
    }
}

/// The largest integers are told apart, though no f64 does; kinds that have nothing in common are not compared.
#[test]
fn kinds_of_numbers() {
    let place = tempfile::tempdir().unwrap();
    let long = |n: i64| made("t", DType::I64, &[1], n.to_le_bytes().to_vec());
    let c64 = |re: f32, im: f32| made("t", DType::C64, &[1], [re.to_le_bytes(), im.to_le_bytes()].concat());
    let f4 = |byte: u8| made("t", DType::F4, &[2], vec![byte]);
    let f32 = || numbers("t", DType::F32, &[1], &[1.0]);
    type Row = (Made, Made, fn(&Difference) -> bool);
    let rows: [Row; 6] = [
        (long(1 << 60), long((1 << 60) + 1), |d| matches!(d, Difference::Values(v) if v.differing == 1)),
        (long(1), f32(), |d| matches!(d, Difference::Incomparable(_))),
        (c64(1.0, 2.0), f32(), |d| matches!(d, Difference::Incomparable(_))),
        (
            c64(1.0, 2.0),
            c64(1.0, 4.0),
            |d| matches!(d, Difference::Values(v) if v.differing == 1 && v.figures.as_ref().unwrap().max_abs == 2.0),
        ),
        (f4(0x12), f4(0x13), |d| matches!(d, Difference::Values(v) if v.figures.is_none())),
        (f4(0x12), numbers("t", DType::F32, &[2], &[1.0, 2.0]), |d| matches!(d, Difference::Incomparable(_))),
    ];
    for (a, b, expected) in rows {
        let (a, b) =
            (file(place.path(), "a.safetensors", &[a], &[]), file(place.path(), "b.safetensors", &[b], &[]));
        let found = report(&a, &b).differing;
        assert!(found.len() == 1 && expected(&found[0].what), "{found:?}");
    }
}

#[test]
fn names_and_shapes() {
    let place = tempfile::tempdir().unwrap();
    let one = |name: &str, shape: &[u64]| numbers(name, DType::F32, shape, &some(6, 3));
    let a =
        file(place.path(), "a.safetensors", &[one("x", &[2, 3]), one("y", &[6]), one("only.a", &[6])], &[]);
    let b =
        file(place.path(), "b.safetensors", &[one("x", &[3, 2]), one("y", &[6]), one("only.b", &[6])], &[]);
    let found = report(&a, &b);
    assert!(!found.is_equal());
    assert_eq!((found.only_a, found.only_b), (vec!["only.a".to_owned()], vec!["only.b".to_owned()]));
    assert_eq!((found.compared, found.differing.len()), (2, 1));
    assert_eq!(found.differing[0].what, Difference::Shape);
    assert_eq!(found.differing[0].shapes, (vec![2, 3], vec![3, 2]));

    for (include, exclude, compared, only) in [
        (&["y"][..], &[][..], 1, 0),
        (&[], &["only.*", "x"], 1, 0),
        (&["only.a"], &[], 0, 1),
        (&[], &["only.b", "x"], 1, 1),
    ] {
        let texts = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect();
        let options = Options { include: texts(include), exclude: texts(exclude), ..Options::default() };
        let found = try_report(&a, &b, options).unwrap();
        assert_eq!(
            (found.compared, found.only_a.len() + found.only_b.len()),
            (compared, only),
            "{include:?} {exclude:?}"
        );
    }
    let none = Options { include: vec!["nope".into()], ..Options::default() };
    assert_eq!(try_report(&a, &b, none).unwrap_err().kind(), ErrorKind::NotFound);
}

/// Names for one tensor: a shared storage against a file without the copy, whether or not its header says so.
#[test]
fn tied_weights() {
    let place = tempfile::tempdir().unwrap();
    let embedding = || numbers("embed", DType::F32, &[2, 4], &some(8, 1));
    let head = |seed: u64| numbers("head", DType::F32, &[2, 4], &some(8, seed));
    let both = file(place.path(), "both.bin", &[embedding(), head(1)], &[]);
    let apart = file(place.path(), "apart.safetensors", &[embedding(), head(1)], &[]);
    let other = file(place.path(), "other.safetensors", &[embedding(), head(2)], &[]);
    let without = file(place.path(), "without.safetensors", &[embedding()], &[]);
    let says = file(place.path(), "says.safetensors", &[embedding()], &[("head", "embed"), ("format", "pt")]);
    for (a, b, equal) in [
        (&both, &without, true),
        (&without, &both, true),
        (&both, &apart, true),
        (&apart, &says, true),
        (&says, &apart, true),
        (&other, &says, false),
        // Nothing says that these two belong together.
        (&apart, &without, false),
    ] {
        assert_eq!(report(a, b).is_equal(), equal, "{a:?} {b:?}");
    }
    let found = report(&other, &says);
    assert_eq!(
        (found.differing[0].name.as_str(), found.differing[0].name_b.as_deref()),
        ("head", Some("embed"))
    );
}

#[test]
fn keys_beside_the_tensors() {
    let place = tempfile::tempdir().unwrap();
    let arch = ("general.architecture", "unknown");
    let a = file(
        place.path(),
        "a.gguf",
        &[],
        &[arch, ("same", "1"), ("other", "1"), ("a", "1"), ("split.other", "9")],
    );
    let b = file(place.path(), "b.gguf", &[], &[arch, ("b", "1"), ("other", "2"), ("same", "1")]);
    assert!(report(&a, &b).keys.is_none());
    let with = Options { metadata: true, ..Options::default() };
    let found = try_report(&a, &b, with).unwrap();
    let keys = found.keys.clone().unwrap();
    assert!(!found.is_equal());
    assert_eq!((keys.equal, keys.only_a, keys.only_b), (2, vec!["a".to_owned()], vec!["b".to_owned()]));
    assert_eq!(keys.differing, [("other".to_owned(), "`1`".to_owned(), "`2`".to_owned())]);
}

/// Sizes of a llama that is small enough to be written by hand.
const LLAMA: &str = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1,
"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "intermediate_size": 6, "vocab_size": 5, "rms_norm_eps": 1e-5,
"max_position_embeddings": 32, "tie_word_embeddings": false}"#;

/// A checkpoint of Hugging Face's names and the GGUF of the same numbers, each written down on its own.
fn llama(place: &Path, head: bool) -> (PathBuf, PathBuf) {
    let rows: &[(&str, &str, &[u64], usize)] = &[
        ("model.embed_tokens.weight", "token_embd.weight", &[5, 8], 0),
        ("model.norm.weight", "output_norm.weight", &[8], 0),
        ("lm_head.weight", "output.weight", &[5, 8], 0),
        ("model.layers.0.input_layernorm.weight", "blk.0.attn_norm.weight", &[8], 0),
        ("model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight", &[8], 0),
        ("model.layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight", &[8, 8], 2),
        ("model.layers.0.self_attn.k_proj.weight", "blk.0.attn_k.weight", &[4, 8], 1),
        ("model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight", &[4, 8], 0),
        ("model.layers.0.self_attn.o_proj.weight", "blk.0.attn_output.weight", &[8, 8], 0),
        ("model.layers.0.mlp.gate_proj.weight", "blk.0.ffn_gate.weight", &[6, 8], 0),
        ("model.layers.0.mlp.up_proj.weight", "blk.0.ffn_up.weight", &[6, 8], 0),
        ("model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight", &[8, 6], 0),
    ];
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for (seed, &(name, gguf_name, shape, heads)) in rows.iter().enumerate() {
        if name == "lm_head.weight" && !head {
            continue;
        }
        let count = shape.iter().product::<u64>() as usize;
        let values = some(count, seed as u64 + 1);
        ours.push(numbers(name, DType::BF16, shape, &values));
        // llama.cpp turns neighbouring rows of a head where transformers turns rows half a head apart.
        let mut permuted = values.clone();
        for head in 0..heads {
            for row in 0..4 {
                let from = head * 4 + row % 2 * 2 + row / 2;
                permuted[(head * 4 + row) * 8..][..8].copy_from_slice(&values[from * 8..][..8]);
            }
        }
        let dtype = if shape.len() == 1 { DType::F32 } else { DType::F16 };
        theirs.push(numbers(gguf_name, dtype, shape, &permuted));
    }
    let config = LLAMA.replace("false", if head { "false" } else { "true" });
    let hf = file(place, "hf/model.safetensors", &ours, &[]);
    std::fs::write(place.join("hf/config.json"), config).unwrap();
    let gguf = file(place, "m.gguf", &theirs, &[("general.architecture", "llama")]);
    (hf.parent().unwrap().to_owned(), gguf)
}

#[test]
fn a_gguf_against_its_source() {
    let place = tempfile::tempdir().unwrap();
    for head in [true, false] {
        let (hf, gguf) = llama(place.path(), head);
        for (a, b) in [(&hf, &gguf), (&gguf, &hf)] {
            let found = report(a, b);
            assert!(found.is_equal(), "{found:?}");
            assert_eq!((found.compared, found.translated.unwrap().1), (11 + usize::from(head), "llama"));
        }
        let keys = Options { metadata: true, ..Options::default() };
        assert_eq!(try_report(&hf, &gguf, keys).unwrap_err().kind(), ErrorKind::Usage);

        // One element of a row that is permuted: found where it is in the GGUF.
        let mut bytes = std::fs::read(&gguf).unwrap();
        let model = open::open(gguf.to_str().unwrap(), &open::Options::default()).unwrap();
        let at =
            model.table.get("blk.0.attn_q.weight").unwrap().at.span.offset_bytes as usize + 2 * (5 * 8 + 3);
        bytes[at..at + 2].copy_from_slice(&::half::f16::from_f32(100.0).to_le_bytes());
        std::fs::write(&gguf, bytes).unwrap();
        let found = report(&hf, &gguf);
        let values = the_one(&found);
        assert_eq!((values.differing, values.figures.as_ref().unwrap().at.as_slice()), (1, &[5, 3][..]));
        assert_eq!(found.differing[0].dtypes, (DType::BF16, DType::F16));
        std::fs::remove_file(hf.join("config.json")).unwrap();
        assert_eq!(try_report(&hf, &gguf, Options::default()).unwrap_err().kind(), ErrorKind::NotFound);
    }
}

/// A tensor of several stretches: the figures are of all of it, also where only the last stretch differs, and the same
/// whatever the threads.
#[test]
fn large_tensors_are_compared_in_stretches() {
    let place = tempfile::tempdir().unwrap();
    let count = 36 << 20;
    let mut bytes: Vec<u8> = (0..count).map(|i: u32| (i % 251) as u8).collect();
    let name = |bytes: &[u8]| made("t", DType::I8, &[count.into()], bytes.to_vec());
    let a = file(place.path(), "a.safetensors", &[name(&bytes)], &[]);
    let at = (35 << 20) + 17;
    bytes[at] = bytes[at].wrapping_add(3);
    let b = file(place.path(), "b.safetensors", &[name(&bytes)], &[]);
    let reports = [1, 2, 5].map(|threads| {
        let found = try_report(&a, &b, Options { threads: Some(threads), ..Options::default() }).unwrap();
        found.differing
    });
    assert!(reports[0] == reports[1] && reports[1] == reports[2], "{reports:?}");
    let [TensorDiff { what: Difference::Values(values), .. }] = &reports[0][..] else {
        panic!("{reports:?}")
    };
    let figures = values.figures.clone().unwrap();
    assert_eq!((values.differing, figures.max_abs, figures.at), (1, 3.0, vec![at as u64]));
    assert!((figures.rms - (9.0 / f64::from(count)).sqrt()).abs() < 1e-12);
    let cosine = figures.cosine.unwrap();
    assert!(cosine < 1.0 && 1.0 - cosine < 1e-9, "{cosine}");
}

#[test]
fn what_a_person_sees() {
    let place = tempfile::tempdir().unwrap();
    let (hf, gguf) = llama(place.path(), true);
    let (hf, gguf) = (hf.to_str().unwrap(), gguf.to_str().unwrap());
    let q = |name: &str, by: f64| {
        let values: Vec<f64> = some(64, 9).into_iter().map(|x| x + by).collect();
        file(place.path(), name, &[numbers("t", DType::F32, &[64], &values)], &[])
            .to_str()
            .unwrap()
            .to_owned()
    };
    let (a, b) = (q("a.safetensors", 0.0), q("b.safetensors", 0.5));
    let (a, b) = (a.as_str(), b.as_str());
    type Row<'a> = (&'a [&'a str], i32, &'a str, &'a str);
    #[rustfmt::skip]
    let rows: &[Row] = &[
        (&["diff", a, a], 0, "equal    1 tensor, 64 elements   512 B compared", ""),
        (&["diff", a, b], 11, "values   max abs  max rel    rms", "differ: 1 tensor in values"),
        (&["diff", a, b], 11, "differ   1 tensor in values   0 of 1 tensor equal", "error: `"),
        (&["diff", hf, gguf], 0, "equal    12 tensors", ""),
        (&["diff", hf, gguf, "--metadata"], 2, "", "cannot be compared one by one"),
        (&["diff", a, b, "--json"], 11, "{\n  \"schema\": \"hoist.diff/1\",\n", "error: `"),
        (&["diff", hf, gguf, "--json"], 0, "\"family\": \"llama\"", ""),
        (&["diff", a, b, "--include", "nope"], 3, "", "the pattern `nope` matches none of the 1 tensors"),
        (&["diff", a, b, "--memory", "1MB"], 2, "", "needs at least"),
        (&["diff", a], 2, "", "required"),
        (&["diff", a, "/no/such/model"], 3, "", "error: "),
    ];
    for (arguments, expected, out, err) in rows {
        let got = hoist(arguments).output().unwrap();
        let (stdout, stderr) = (text(&got.stdout), text(&got.stderr));
        assert!(
            code(&got) == *expected && stdout.contains(out) && stderr.contains(err),
            "{arguments:?}: {}\n{stdout}\n{stderr}",
            code(&got)
        );
    }
}
