//! Importance: three forms of a file hold the same numbers, hostile ones are refused by name, each matrix gets its own, and the
//! error that is weighed falls.
//!
//! The files of `testdata/golden/imatrix` are made by `testdata/make/imatrix.py`, which also asked llama-quantize.

use crate::cli::{code, hoist, text};
use crate::families::model;
use crate::naive::testdata;
use crate::quantize::{numbers, open, tree};
use hoist::checkpoint::{MetaArray, MetaValue};
use hoist::dtype::DType;
use hoist::format::imatrix;
use hoist::format::layout::Entry as Tensor;
use hoist::quantize::{Options, quantize};
use hoist::transform::arch::families;
use hoist::transform::arch::translate::Channels;
use hoist::transform::importance::{Entry, Importance, Others};
use hoist::transform::scheme::{Asked, CHANNEL};
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SMALL: &str = "rustdoc-llama-6m";

fn file(name: &str) -> PathBuf {
    testdata(&format!("golden/imatrix/{name}"))
}

fn read(name: &str) -> Importance {
    hoist::open::importance(&file(name)).unwrap()
}

fn family(model_type: &str) -> &'static families::Family {
    families::of_config(&serde_json::json!({ "model_type": model_type })).unwrap()
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

/// The means that the script wrote, read by the original's own reader, under Hugging Face's names.
fn means(name: &str) -> BTreeMap<String, Vec<f32>> {
    let bytes = std::fs::read(file(&format!("{name}.safetensors"))).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |data: &[u8]| data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    file.tensors().into_iter().map(|(name, t)| (name, numbers(t.data()))).collect()
}

fn golden() -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(file("llama_quantize.json")).unwrap()).unwrap()
}

#[test]
fn three_forms_hold_the_same() {
    for (name, model_type, experts, entries) in
        [("rustdoc", "llama", 1, [35, 35, 35]), ("experts", "qwen3_moe", 6, [7, 7, 13])]
    {
        let forms = ["gguf", "dat", "safetensors"].map(|form| read(&format!("{name}.{form}")));
        assert_eq!(forms.each_ref().map(|f| f.entry_count), entries, "{name}");
        let named = forms.each_ref().map(|f| f.in_gguf_names(family(model_type)).unwrap());
        assert_eq!(named[0].entries, forms[0].entries, "{name}: GGUF's names are GGUF's names");
        for (tensor, entry) in &named[0].entries {
            let matrices = if tensor.contains("_exps") { experts } else { 1 };
            let columns = entry.weights.len() as u64 / matrices;
            for other in &named {
                let found = other.of_gguf(tensor, matrices, columns).unwrap().unwrap();
                assert_eq!(bits(&found), bits(&entry.weights), "{} {tensor}", other.file);
            }
        }
        // Each matrix' own, whichever names the file has; where it has nothing of an expert all columns count alike.
        let channels = Channels::new(family(model_type));
        let all = means(name);
        for (tensor, mean) in &all {
            for other in &named {
                let found = other.of_matrix(tensor, mean.len() as u64, Some(&channels)).unwrap().unwrap();
                assert_eq!(bits(&found), bits(mean), "{} {tensor}", other.file);
            }
        }
        if experts > 1 {
            let missing = "model.layers.0.mlp.experts.2.gate_proj.weight";
            assert!(!all.contains_key(missing), "no token went to this expert");
            for other in &named {
                let found = other.of_matrix(missing, 128, Some(&channels)).unwrap().unwrap();
                assert!(found.iter().all(|w| *w == 1.0), "{}", other.file);
            }
        }
    }
}

#[test]
fn keys_are_those_of_llama_quantize() {
    let golden = golden();
    for name in ["rustdoc", "experts"] {
        for form in ["gguf", "dat"] {
            let mut importance = read(&format!("{name}.{form}"));
            importance.file = format!("{name}.{form}");
            let found: Vec<serde_json::Value> = importance
                .keys()
                .into_iter()
                .map(|(key, value)| match value {
                    MetaValue::Text(text) => {
                        serde_json::json!([key, "STRING", String::from_utf8(text.to_vec()).unwrap()])
                    }
                    MetaValue::U32(n) => serde_json::json!([key, "UINT32", n]),
                    other => panic!("{key}: {other:?}"),
                })
                .collect();
            assert_eq!(serde_json::Value::from(found), golden[name]["keys"][form], "{name}.{form}");
        }
    }
    // Long texts are cut, and never within a character; what is not known is not said.
    for (text, expected) in
        [("a".repeat(200), "a".repeat(127)), ("é".repeat(100), "é".repeat(63)), ("a\0b".into(), "a".into())]
    {
        let importance = Importance { file: text, chunk_count: Some(0), ..Importance::default() };
        let keys = importance.keys();
        assert_eq!(keys[0].1.as_str(), Some(expected.as_str()));
        let names: Vec<&str> = keys.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(names, ["quantize.imatrix.file", "quantize.imatrix.entries_count"]);
    }
}

/// An entry of the older form.
fn legacy(name: &[u8], calls: i32, values: &[f32]) -> Vec<u8> {
    let mut out = (name.len() as i32).to_le_bytes().to_vec();
    out.extend_from_slice(name);
    out.extend(calls.to_le_bytes());
    out.extend((values.len() as i32).to_le_bytes());
    values.iter().for_each(|x| out.extend(x.to_le_bytes()));
    out
}

fn legacy_file(entries: &[Vec<u8>], tail: &[u8]) -> Vec<u8> {
    let mut out = (entries.len() as i32).to_le_bytes().to_vec();
    entries.iter().for_each(|e| out.extend_from_slice(e));
    out.extend_from_slice(tail);
    out
}

/// Writes a file and reads it as importance.
fn read_bytes(bytes: &[u8]) -> hoist::Result<Importance> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    hoist::open::importance(file.path())
}

#[test]
fn the_older_form_cut_short_anywhere() {
    let whole = std::fs::read(file("experts.dat")).unwrap();
    let dataset = "eight tokens".len();
    // The tail may be missing, and its second half.
    let ends = [whole.len() - dataset - 8, whole.len() - dataset - 4, whole.len()];
    for length in 0..=whole.len() {
        let parsed = imatrix::parse(&whole[..length]);
        assert_eq!(parsed.is_ok(), ends.contains(&length), "{length}: {parsed:?}");
        if let Err(e) = parsed {
            assert_eq!(e.kind().exit_code(), 1, "{e}");
        }
    }
    let all = imatrix::parse(&whole).unwrap();
    assert_eq!((all.chunk_count, all.dataset), (Some(8), Some("eight tokens")));
    assert_eq!(imatrix::parse(&whole[..ends[0]]).unwrap().chunk_count, None);
}

#[test]
fn hostile_files_of_the_older_form() {
    let good = || legacy(b"blk.0.attn_q.weight", 4, &[4.0, 0.0, 2.0]);
    let read = read_bytes(&legacy_file(&[good()], &[])).unwrap();
    assert_eq!(read.entries["blk.0.attn_q.weight"].weights[..], [1.0, 0.0, 0.5]);
    for calls in [0, -3] {
        let read =
            read_bytes(&legacy_file(&[legacy(b"a\0b", calls, &[4.0])], &(-1i32).to_le_bytes())).unwrap();
        assert_eq!((&read.entries["a"].weights[..], read.chunk_count), (&[4.0][..], None), "{calls} calls");
    }
    let with = |at: usize, number: i32| {
        let mut file = legacy_file(&[good()], &[]);
        file[at..at + 4].copy_from_slice(&number.to_le_bytes());
        file
    };
    let tail = |numbers: &[i32], text: &[u8]| {
        let mut tail: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        tail.extend_from_slice(text);
        legacy_file(&[good()], &tail)
    };
    let values = 4 + 4 + 19 + 4;
    let of = |x: f32| legacy_file(&[legacy(b"w", 1, &[1.0, x])], &[]);
    for (bytes, said) in [
        (vec![], "4 bytes and 0 are left"),
        (vec![1, 0, 0], "4 bytes and 3 are left"),
        (with(0, 0), "the count of entries is 0"),
        (with(0, -1), "the count of entries is -1"),
        (with(0, i32::MAX), "there is room for"),
        (with(0, 2), "4 bytes and 0 are left"),
        (with(4, -1), "the length of a name is -1"),
        (with(4, i32::MIN), "the length of a name is -2147483648"),
        (with(4, i32::MAX), "a name takes 2,147,483,647 bytes"),
        (with(values, 0), "has a count of values that is 0"),
        (with(values, -1), "has a count of values that is -1"),
        (with(values, i32::MAX), "takes 8,589,934,588 bytes"),
        // What was left out is taken for the tail.
        (with(values, 1), "takes 1,073,741,824 bytes and 0 are left"),
        (legacy_file(&[legacy(b"\0x", 1, &[1.0])], &[]), "no name"),
        (legacy_file(&[legacy(b"\xff", 1, &[1.0])], &[]), "not UTF-8"),
        (legacy_file(&[good(), good()], &[]), "`blk.0.attn_q.weight` has importance twice"),
        (of(f32::NAN), "`w` has importance NaN for channel 1"),
        (of(f32::INFINITY), "`w` has importance inf for channel 1"),
        (of(-0.5), "`w` has importance -0.5 for channel 1"),
        (tail(&[3, -1], b""), "the length of the dataset's name is -1"),
        (tail(&[3, 9], b"text"), "takes 9 bytes and 4 are left"),
        (tail(&[3, 4], b"text!"), "has 1 bytes after its end"),
        (b"PK\x03\x04 is a zip file, and there is more of it".to_vec(), "the count of entries is"),
        (vec![0xff; 4096], "the count of entries is -1"),
    ] {
        let error = read_bytes(&bytes).unwrap_err();
        let message = error.to_string();
        assert!(error.kind().exit_code() == 1 && message.contains(said), "{message}\n expected: {said}");
    }
}

/// A GGUF of f32 tensors, or of another type.
fn gguf(keys: &[(&str, MetaValue)], tensors: &[(&str, DType, &[u64], &[f32])]) -> Vec<u8> {
    let keys: Vec<(String, MetaValue)> = keys.iter().map(|(k, v)| (k.to_string(), v.clone())).collect();
    let entries: Vec<Tensor> = tensors
        .iter()
        .map(|(name, dtype, shape, _)| Tensor {
            name: name.to_string(),
            dtype: *dtype,
            shape: shape.to_vec(),
        })
        .collect();
    let laid = hoist::format::gguf::layout::lay_out(&entries, &keys, 32).unwrap();
    let mut out = vec![0; laid.file_size_bytes as usize];
    for (at, bytes) in &laid.fixed {
        out[*at as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    for ((_, dtype, _, numbers), at) in tensors.iter().zip(&laid.offsets_bytes) {
        let bytes: Vec<u8> = match dtype {
            DType::F32 => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
            _ => numbers.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
        };
        out[*at as usize..][..bytes.len()].copy_from_slice(&bytes);
    }
    out
}

fn said() -> Vec<(&'static str, MetaValue)> {
    vec![
        ("imatrix.datasets", MetaValue::Array(MetaArray::of_texts(["one", "two"]))),
        ("imatrix.chunk_count", MetaValue::U32(5)),
        ("imatrix.chunk_size", MetaValue::U32(512)),
    ]
}

#[test]
fn a_gguf_is_read_as_the_reference_reads_it() {
    let sums = ("a.in_sum2", DType::F32, &[3, 2][..], &[2.0, 4.0, 9.0, 9.0, 6.0, 0.0][..]);
    let counts = ("a.counts", DType::F32, &[3, 1][..], &[2.0, 0.0, 2.5][..]);
    let read = read_bytes(&gguf(&said(), &[sums, counts])).unwrap();
    let entry = &read.entries["a"];
    assert_eq!((&entry.weights[..], entry.matrix_count), (&[1.0, 2.0, 1.0, 1.0, 2.0, 0.0][..], Some(3)));
    assert_eq!((read.datasets, read.chunk_count), (vec!["one".to_owned(), "two".to_owned()], Some(5)));
    let without = |key: &str| said().into_iter().filter(|(k, _)| *k != key).collect::<Vec<_>>();
    let instead = |key: &'static str, value: MetaValue| {
        let mut keys = without(key);
        keys.push((key, value));
        keys
    };
    let f32s = |name: &'static str, shape: &'static [u64], numbers: &'static [f32]| {
        (name, DType::F32, shape, numbers)
    };
    for (keys, tensors, expected) in [
        (without("imatrix.datasets"), vec![sums, counts], "no key `imatrix.datasets`"),
        (without("imatrix.chunk_count"), vec![sums, counts], "no key `imatrix.chunk_count`"),
        (without("imatrix.chunk_size"), vec![sums, counts], "no key `imatrix.chunk_size`"),
        (instead("imatrix.datasets", MetaValue::U32(1)), vec![sums, counts], "no list of texts"),
        (instead("imatrix.chunk_count", MetaValue::from("5")), vec![sums, counts], "no count"),
        (said(), vec![], "no tensor is called"),
        (said(), vec![f32s("a.weight", &[2], &[1.0, 1.0])], "no tensor is called"),
        (said(), vec![sums], "`a` has `.in_sum2` and no `.counts`"),
        (said(), vec![counts], "`a` has `.counts` and no `.in_sum2`"),
        (said(), vec![sums, f32s("a.counts", &[4], &[1.0; 4])], "`a` has 6 sums for 4 counts"),
        (said(), vec![("a.in_sum2", DType::F16, &[3, 2], &[1.0; 6]), counts], "`a.in_sum2` has type `f16`"),
        (said(), vec![sums, f32s("a.counts", &[3], &[1.0, f32::NAN, 1.0])], "a count of NaN tokens"),
        (said(), vec![sums, f32s("a.counts", &[3], &[1.0, -2.0, 1.0])], "a count of -2 tokens"),
        (said(), vec![sums, f32s("a.counts", &[3], &[1.0, 1e30, 1.0])], "a count of 1000000000"),
        (
            said(),
            vec![f32s("a.in_sum2", &[2], &[1.0, -1.0]), f32s("a.counts", &[1], &[0.0])],
            "has -1 for a sum",
        ),
        (
            said(),
            vec![f32s("a.in_sum2", &[2], &[f32::NAN, 1.0]), f32s("a.counts", &[1], &[0.0])],
            "has NaN for a sum",
        ),
    ] {
        let error = read_bytes(&gguf(&keys, &tensors)).unwrap_err();
        let message = error.to_string();
        assert!(
            error.kind().exit_code() == 1 && message.contains(expected),
            "{message}\n expected: {expected}"
        );
    }
}

#[test]
fn safetensors_of_anybodys_making() {
    use half::{bf16, f16};
    let file = |tensors: &[(&str, &str, &[u64], Vec<u8>)]| {
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        for (name, dtype, shape, bytes) in tensors {
            let range = [data.len(), data.len() + bytes.len()];
            let facts = serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": range });
            header.insert(name.to_string(), facts);
            data.extend_from_slice(bytes);
        }
        let header = serde_json::to_vec(&header).unwrap();
        [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
    };
    let f32s = |numbers: &[f32]| numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let read = read_bytes(&file(&[
        ("a", "F32", &[2], f32s(&[1.0, 0.5])),
        (
            "b.weight",
            "F16",
            &[1, 2],
            [1.5, 0.0].iter().flat_map(|x| f16::from_f64(*x).to_le_bytes()).collect(),
        ),
        ("c", "BF16", &[2, 1], [1.5, 3.0].iter().flat_map(|x| bf16::from_f64(*x).to_le_bytes()).collect()),
        ("d", "F64", &[1], 0.1f64.to_le_bytes().to_vec()),
    ]))
    .unwrap();
    let found: Vec<(&str, &[f32], Option<u64>)> =
        read.entries.iter().map(|(n, e)| (n.as_str(), &e.weights[..], e.matrix_count)).collect();
    assert_eq!(
        found,
        [
            ("a.weight", &[1.0, 0.5][..], Some(1)),
            ("b.weight", &[1.5, 0.0][..], Some(1)),
            ("c.weight", &[1.5, 3.0][..], Some(2)),
            ("d.weight", &[0.1][..], Some(1)),
        ]
    );
    let one = || f32s(&[1.0]);
    for (tensors, expected) in [
        (vec![], "no tensors"),
        (vec![("a", "F32", &[][..], one())], "has shape []"),
        (vec![("a", "F32", &[1, 1, 1][..], one())], "has shape [1, 1, 1]"),
        (vec![("a", "I32", &[1][..], one())], "has type `i32`"),
        (vec![("a", "F32", &[0][..], vec![])], "importance of 0 channels"),
        (vec![("a", "F32", &[1][..], f32s(&[f32::NAN]))], "`a.weight` has importance NaN"),
        (vec![("a", "F32", &[1][..], f32s(&[-1.0]))], "`a.weight` has importance -1"),
        (vec![("a", "F64", &[1][..], 1e300f64.to_le_bytes().to_vec())], "`a.weight` has importance inf"),
        (vec![("a", "F32", &[1][..], one()), ("a.weight", "F32", &[1][..], one())], "importance twice"),
    ] {
        let error = read_bytes(&file(&tensors)).unwrap_err();
        let message = error.to_string();
        assert!(
            error.kind().exit_code() == 1 && message.contains(expected),
            "{message}\n expected: {expected}"
        );
    }
}

#[test]
fn cut_short_or_damaged_files_are_errors() {
    for name in ["experts.gguf", "experts.safetensors"] {
        let whole = std::fs::read(file(name)).unwrap();
        // The last tensor's padding may be missing.
        for length in (0..whole.len() - 32).step_by(37).chain([whole.len() - 32]) {
            let error = read_bytes(&whole[..length]).unwrap_err();
            assert!(matches!(error.kind().exit_code(), 1 | 9), "{name} {length}: {error}");
        }
    }
    // Any byte may be another: an error or numbers, never a panic and never what is not a number.
    for name in ["experts.gguf", "experts.safetensors", "experts.dat"] {
        let whole = std::fs::read(file(name)).unwrap();
        for at in (0..whole.len()).step_by(23) {
            let mut bytes = whole.clone();
            bytes[at] = !bytes[at];
            if let Ok(read) = read_bytes(&bytes) {
                let all = read.entries.values().flat_map(|e| e.weights.iter());
                assert!(all.into_iter().all(|w| w.is_finite() && *w >= 0.0), "{name} {at}");
            }
        }
    }
}

/// Importance without a file.
fn made(entries: &[(&str, &[f32], Option<u64>, Others)]) -> Importance {
    let mut out = Importance { file: "made".into(), ..Importance::default() };
    for (name, weights, matrix_count, others) in entries {
        let entry = Entry { weights: Arc::from(*weights), matrix_count: *matrix_count, others: *others };
        out.add(name, entry).unwrap();
    }
    out
}

#[test]
fn sizes_must_fit() {
    let importance = made(&[
        ("blk.0.ffn_up.weight", &[1.0, 2.0], Some(1), Others::None),
        ("blk.0.ffn_up_exps.weight", &[1.0, 2.0, 3.0, 4.0], Some(2), Others::None),
        ("blk.1.ffn_up_exps.weight", &[1.0, 2.0, 3.0, 4.0], None, Others::None),
        ("blk.2.ffn_up_exps.weight", &[1.0, 2.0], Some(1), Others::Same),
        ("blk.3.ffn_up_exps.weight", &[1.0, 2.0], Some(1), Others::Alike),
        ("token_embd.weight", &[1.0, 2.0], Some(1), Others::None),
    ]);
    for (name, matrices, columns, expected) in [
        ("blk.0.ffn_up.weight", 1, 2, Ok(Some(&[1.0, 2.0][..]))),
        ("blk.0.ffn_up.weight", 2, 1, Ok(Some(&[1.0, 2.0][..]))),
        ("blk.0.ffn_up.weight", 1, 3, Err("has importance for 2 channels, and 3 are needed")),
        ("blk.0.ffn_up.weight", 2, 2, Err("has importance for 2 channels, and 2 × 2 are needed")),
        ("blk.0.ffn_up.weight", u64::MAX, u64::MAX, Err("are needed")),
        ("blk.0.ffn_up.weight", 1, 0, Err("0 are needed")),
        ("blk.0.ffn_up_exps.weight", 2, 2, Ok(Some(&[1.0, 2.0, 3.0, 4.0][..]))),
        ("blk.2.ffn_up_exps.weight", 2, 2, Ok(Some(&[1.0, 2.0, 1.0, 2.0][..]))),
        ("blk.2.ffn_up_exps.weight", 2, 3, Err("are needed")),
        ("blk.2.ffn_up_exps.weight", 1 << 40, 2, Err("are needed")),
        ("blk.3.ffn_up_exps.weight", 2, 2, Ok(Some(&[1.0, 2.0, 1.0, 1.0][..]))),
        ("token_embd.weight", 1, 3, Ok(None)),
        ("output.weight", 1, 2, Ok(None)),
    ] {
        match (importance.of_gguf(name, matrices, columns), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found.as_deref(), expected, "{name}"),
            (Err(e), Err(said)) => assert!(e.to_string().contains(said), "{e}"),
            (found, expected) => panic!("{name} {matrices} {columns}: {found:?}, expected {expected:?}"),
        }
    }
    let channels = Channels::new(family("qwen3_moe"));
    let up = |layer: u64, expert: u64| format!("model.layers.{layer}.mlp.experts.{expert}.up_proj.weight");
    for (name, columns, expected) in [
        (up(0, 0), 2, Ok(Some(&[1.0, 2.0][..]))),
        (up(0, 1), 2, Ok(Some(&[3.0, 4.0][..]))),
        (up(0, 2), 2, Err("are needed")),
        (up(0, u64::MAX), 2, Err("are needed")),
        // Another split of the same number: found out where the file says how many matrices there are.
        (up(0, 0), 1, Err("are needed")),
        (up(1, 3), 1, Ok(Some(&[4.0][..]))),
        (up(1, 1), 2, Ok(Some(&[3.0, 4.0][..]))),
        (up(1, 0), 3, Err("are needed")),
        (up(1, 0), 0, Err("are needed")),
        (up(2, 5), 2, Ok(Some(&[1.0, 2.0][..]))),
        (up(3, 0), 2, Ok(Some(&[1.0, 2.0][..]))),
        (up(3, 7), 2, Ok(None)),
        (up(4, 0), 2, Ok(None)),
        ("model.layers.0.self_attn.q_proj.weight".into(), 2, Ok(None)),
        ("something.else".into(), 2, Ok(None)),
    ] {
        match (importance.of_matrix(&name, columns, Some(&channels)), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found.as_deref(), expected, "{name}"),
            (Err(e), Err(said)) => assert!(e.to_string().contains(said), "{e}"),
            (found, expected) => panic!("{name} {columns}: {found:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn matrices_are_found_in_a_gguf_by_the_familys_rows() {
    for (model_type, name, expected) in [
        ("llama", "model.layers.3.self_attn.q_proj.weight", &[("blk.3.attn_q.weight", None)][..]),
        ("llama", "language_model.model.layers.3.mlp.down_proj.weight", &[("blk.3.ffn_down.weight", None)]),
        ("llama", "lm_head.weight", &[("output.weight", None)]),
        ("llama", "model.layers.3.input_layernorm.weight", &[]),
        ("qwen2", "model.layers.0.self_attn.q_proj.bias", &[]),
        ("phi3", "model.layers.1.self_attn.qkv_proj.weight", &[("blk.1.attn_qkv.weight", None)]),
        ("phi3", "model.layers.1.mlp.gate_up_proj.weight", &[("blk.1.ffn_up.weight", None)]),
        ("gpt2", "transformer.h.2.attn.c_attn.weight", &[("blk.2.attn_qkv.weight", None)]),
        (
            "qwen3_moe",
            "model.layers.0.mlp.experts.9.down_proj.weight",
            &[("blk.0.ffn_down_exps.weight", Some(9))],
        ),
        (
            "qwen3_moe",
            "model.layers.0.mlp.experts.gate_up_proj",
            &[("blk.0.ffn_gate_exps.weight", None), ("blk.0.ffn_up_exps.weight", None)],
        ),
        // Early files had a tensor for each expert.
        (
            "mixtral",
            "model.layers.1.block_sparse_moe.experts.2.w1.weight",
            &[("blk.1.ffn_gate_exps.weight", Some(2)), ("blk.1.ffn_gate.2.weight", None)],
        ),
        // Published fused only; written one by one.
        (
            "llama4_text",
            "model.layers.1.feed_forward.experts.2.up_proj.weight",
            &[("blk.1.ffn_up_exps.weight", Some(2))],
        ),
        (
            "gpt_oss",
            "model.layers.1.mlp.experts.2.gate_proj.weight",
            &[("blk.1.ffn_gate_exps.weight", Some(2))],
        ),
        (
            "gpt_oss",
            "model.layers.1.mlp.experts.2.down_proj.weight",
            &[("blk.1.ffn_down_exps.weight", Some(2))],
        ),
        // What latent attention makes of it has other channels.
        ("deepseek_v2", "model.layers.0.self_attn.kv_b_proj.weight", &[("blk.0.attn_kv_b.weight", None)]),
    ] {
        let found = Channels::new(family(model_type)).in_gguf(name);
        let found: Vec<(&str, Option<u64>)> = found.iter().map(|m| (m.name.as_str(), m.expert)).collect();
        assert_eq!(found, expected, "{model_type} {name}");
    }
    // Files that say two things, or hardly anything.
    let expert = |e: u64| format!("model.layers.0.mlp.experts.{e}.up_proj.weight");
    let one: (&[f32], Option<u64>, Others) = (&[1.0, 2.0], Some(1), Others::Same);
    let with = |name: &'static str| -> (&str, &[f32], Option<u64>, Others) { (name, one.0, one.1, one.2) };
    let (first, far, farther) = (expert(0), expert(63), expert(u64::MAX));
    for (entries, said) in [
        (vec![with("blk.0.ffn_up_exps.weight"), (&first, one.0, one.1, one.2)], "twice"),
        (vec![with("model.layers.0.mlp.experts.up_proj"), (&first, one.0, one.1, one.2)], ""),
        (
            vec![with("model.layers.0.mlp.experts.gate_up_proj.weight"), (&first, one.0, one.1, one.2)],
            "twice",
        ),
        (
            vec![with("model.layers.0.self_attn.q_proj.weight"), with("layers.0.self_attn.q_proj.weight")],
            "twice",
        ),
        (vec![(&first, &[1.0], one.1, one.2), (&far, one.0, one.1, one.2)], "where other experts have"),
        (vec![(&far, one.0, one.1, one.2)], ""),
        (vec![(&farther, one.0, one.1, one.2)], "1 of at least 18,446,744,073,709,551,615 experts"),
    ] {
        match (made(&entries).in_gguf_names(family("qwen3_moe")), said) {
            (Ok(_), "") => {}
            (Err(e), said) if !said.is_empty() => assert!(e.to_string().contains(said), "{e}"),
            (found, said) => panic!("{found:?}, expected {said:?}"),
        }
    }
}

/// Quantises with a file of importance, or none.
fn quantised(source: &Path, out: &Path, scheme: &str, asked: &Asked, importance: Option<&str>) -> PathBuf {
    let mut options = Options::new(out, scheme).unwrap();
    options.quantize.asked = asked.clone();
    options.quantize.importance = importance.map(|name| Arc::new(read(name)));
    quantize(open(source), options).wait().unwrap_or_else(|e| panic!("{scheme} {importance:?}: {e}"));
    out.to_owned()
}

/// Σ w·(a − b)² / Σ w·a², and the same with all weights one.
fn errors(before: &[f32], after: &[f32], weights: &[f32]) -> [f64; 2] {
    let mut sums = [[0f64; 2]; 2];
    for (row, back) in before.chunks(weights.len()).zip(after.chunks(weights.len())) {
        for ((a, b), w) in row.iter().zip(back).zip(weights) {
            let (a, b) = (f64::from(*a), f64::from(*b));
            for (sum, w) in sums.iter_mut().zip([f64::from(*w), 1.0]) {
                sum[0] += w * (a - b) * (a - b);
                sum[1] += w * a * a;
            }
        }
    }
    sums.map(|[error, all]| error / all)
}

#[test]
fn the_weighed_error_falls_and_the_plain_one_rises() {
    let place = tempfile::tempdir().unwrap();
    let source = testdata(SMALL);
    let before = numbers(&source);
    let means = means("rustdoc");
    let symmetric = Asked { symmetric: Some(true), ..Asked::default() };
    for (scheme, asked) in [
        ("int4", Asked::default()),
        ("int4", symmetric.clone()),
        ("int4", Asked { signed_scales: true, group: Some(CHANNEL), ..Asked::default() }),
        ("gptq", Asked::default()),
        ("awq", Asked::default()),
        ("mlx", Asked::default()),
        ("nf4", Asked::default()),
        ("mxfp4", Asked::default()),
    ] {
        let made = |name: &str, importance| {
            let out = quantised(&source, &place.path().join(name), scheme, &asked, importance);
            let numbers = numbers(&out);
            std::fs::remove_dir_all(&out).unwrap();
            numbers
        };
        let (plain, weighed) = (made("plain", None), made("weighed", Some("rustdoc.gguf")));
        let mut sums = [[0f64; 2]; 2];
        for (name, mean) in &means {
            let (_, numbers) = &before[name];
            let pair = [&plain, &weighed].map(|after| errors(numbers, &after[name].1, mean));
            assert!(pair[1][0] <= pair[0][0] * 1.0001, "{scheme} {name}: weighed {pair:?}");
            assert!(pair[1][1] >= pair[0][1] * 0.9999, "{scheme} {name}: plain {pair:?}");
            for (sum, one) in sums.iter_mut().zip(pair) {
                sum[0] += one[0];
                sum[1] += one[1];
            }
        }
        let changed = [0, 1].map(|i| sums[1][i] / sums[0][i] - 1.0);
        println!(
            "{scheme} {asked:?}: weighed {:+.2} %, plain {:+.2} %",
            changed[0] * 100.0,
            changed[1] * 100.0
        );
        // Powers of two for scales leave little to choose.
        assert!(changed[0] < -0.0005 && changed[1] > 0.0005, "{scheme} {asked:?}: {changed:?}");
    }
}

#[test]
fn each_expert_has_its_own_whatever_the_form() {
    let place = tempfile::tempdir().unwrap();
    let asked = Asked { group: Some(32), ..Asked::default() };
    let means = means("experts");
    for name in ["qwen3_moe", "qwen3_moe-fused"] {
        let source = model::write(&model::spec(name), place.path());
        std::fs::create_dir(place.path().join("out")).unwrap();
        let trees = ["gguf", "dat", "safetensors"].map(|form| {
            let out = place.path().join("out").join(form);
            tree(&quantised(&source, &out, "int4", &asked, Some(&format!("experts.{form}"))))
        });
        assert!(trees[0] == trees[1] && trees[0] == trees[2], "{name}: the forms differ");
        let weighed = numbers(&place.path().join("out/gguf"));
        let plain = numbers(&quantised(&source, &place.path().join("out/plain"), "int4", &asked, None));
        let mut changed = 0;
        for (tensor, (_, numbers)) in &plain {
            if !tensor.contains(".experts.") {
                continue;
            }
            let same = numbers == &weighed[tensor].1;
            // Where no token ever went nothing counts more than the rest.
            assert_eq!(same, !means.contains_key(tensor), "{name} {tensor}");
            changed += usize::from(!same);
        }
        assert_eq!(changed, 3 * 3, "{name}: three of six experts were asked");
        std::fs::remove_dir_all(place.path().join("out")).unwrap();
    }
}

#[test]
fn what_is_refused_and_what_is_told() {
    let place = tempfile::tempdir().unwrap();
    let model = testdata(SMALL);
    let model = model.to_str().unwrap();
    let out = place.path().join("out");
    let small = |name: &str| {
        let path = place.path().join(name);
        let mut bytes = legacy_file(&[legacy(b"blk.0.attn_q.weight", 1, &[1.0; 256])], &[]);
        if name == "other.dat" {
            bytes = legacy_file(&[legacy(b"blk.0.time_mix.weight", 1, &[1.0; 256])], &[]);
        }
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let weights = testdata(&format!("{SMALL}/model-00001-of-00003.safetensors"));
    let hole = place.path().join("hole.gguf");
    std::fs::File::create(&hole).unwrap().set_len(2_000_000_000).unwrap();
    for (importance, more, expected, said) in [
        (file("rustdoc.gguf"), &["--method", "rtn"][..], 2, "the method `rtn` looks at none"),
        (file("rustdoc.gguf"), &["--method", "hqq", "--scheme", "mlx"], 2, "the method `hqq` looks at none"),
        (file("nothing.gguf"), &[], 3, "nothing.gguf"),
        (place.path().into(), &[], 1, "is a directory"),
        (file("experts.gguf"), &[], 1, "has importance for 128 channels, and 256 are needed"),
        (small("other.dat"), &[], 1, "has importance for none of the 35 matrices"),
        (weights, &[], 1, "where numbers from zero on are needed"),
        (testdata(&format!("{SMALL}/tokenizer.json")), &[], 1, "llama.cpp's imatrix"),
        // Nothing that the memory does not hold is read: this one is a hole, and would be refused for that.
        (hole, &[], 8, "the importance takes 2.0 GB of memory, and 536.9 MB are allowed"),
        (file("rustdoc.dat"), &["--memory", "64MiB"], 8, "of which the work needs"),
        (small("one.dat"), &["--dry-run"], 0, "in 1 of 35 matrices; it says nothing of `model.layers.0"),
        (file("rustdoc.dat"), &["--dry-run"], 0, "errors are weighed by `"),
    ] {
        let importance = importance.to_str().unwrap();
        let mut all = vec!["quantize", model, "-o", out.to_str().unwrap(), "--importance", importance];
        all.extend(more);
        let output = hoist(&all).output().unwrap();
        let error = text(&output.stderr);
        assert!(code(&output) == expected && error.contains(said), "{all:?}: {} {error}", code(&output));
        assert!(!out.exists(), "{all:?} leaves something");
    }
    let by_environment = hoist(&["quantize", model, "-o", out.to_str().unwrap(), "--dry-run"])
        .env("HOIST_IMPORTANCE", file("rustdoc.safetensors"))
        .output()
        .unwrap();
    assert!(
        text(&by_environment.stderr).contains("errors are weighed by"),
        "{}",
        text(&by_environment.stderr)
    );
    let plan = text(&by_environment.stdout);
    assert!(plan.contains("memory 512 MiB, ") && plan.contains(" of it importance"), "{plan}");
}
