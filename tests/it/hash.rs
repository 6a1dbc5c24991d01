//! `inspect --hash`: digests against Python's, against the definition applied in the plainest way, and against each
//! other across containers, shards, byte orders and strides.

use crate::naive::{materialise, testdata};
use hoist::checkpoint::{ByteOrder, Checkpoint, Container, Extent, FileId, FileRef, Span, Tensor};
use hoist::dtype::DType;
use hoist::inspect::hash::{Digests, hash};
use hoist::open::{Model, open};
use hoist::source::ReadAt;
use hoist::source::local::{LocalFile, LocalPlace};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use tempfile::TempDir;

/// A tensor's name, dtype, sizes and bytes.
type Row = (String, DType, Vec<u64>, Vec<u8>);

fn kind(dtype: DType, shape: &[u64]) -> String {
    format!("{dtype} {}", shape.iter().map(u64::to_string).collect::<Vec<_>>().join(","))
}

/// The definition, in the plainest way.
fn expected(rows: &[Row]) -> (String, BTreeMap<String, String>) {
    let mut sorted: Vec<&Row> = rows.iter().collect();
    sorted.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
    let (mut lines, mut tensors) = (String::new(), BTreeMap::new());
    for (name, dtype, shape, bytes) in sorted {
        let kind = kind(*dtype, shape);
        let digest = blake3::keyed_hash(blake3::hash(kind.as_bytes()).as_bytes(), bytes).to_hex().to_string();
        lines.push_str(&format!("{digest} {kind} {} {name}\n", name.len()));
        tensors.insert(name.clone(), digest);
    }
    (blake3::hash(lines.as_bytes()).to_hex().to_string(), tensors)
}

fn hashed(model: Model, threads: Option<usize>) -> (String, BTreeMap<String, String>) {
    let model = Arc::new(model);
    let picked = (0..model.table.tensors.len()).collect();
    let Digests { model: digest, tensors, .. } = hash(Arc::clone(&model), picked, threads).wait().unwrap();
    let name = |i: usize| model.table.tensors[i].name.clone();
    (digest.to_string(), tensors.into_iter().map(|(i, d)| (name(i), d.to_string())).collect())
}

fn hashed_path(path: &Path) -> (String, BTreeMap<String, String>) {
    hashed(open(path.to_str().unwrap(), &Default::default()).unwrap(), None)
}

fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut word = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        (word >> 32) as u8
    };
    (0..size).map(|_| next()).collect()
}

fn safetensors_dtype(dtype: DType) -> Option<Dtype> {
    Some(match dtype {
        DType::F32 => Dtype::F32,
        DType::BF16 => Dtype::BF16,
        DType::F16 => Dtype::F16,
        DType::Bool => Dtype::BOOL,
        DType::U8 => Dtype::U8,
        DType::I8 => Dtype::I8,
        DType::I16 => Dtype::I16,
        DType::I32 => Dtype::I32,
        DType::I64 => Dtype::I64,
        DType::F64 => Dtype::F64,
        DType::C64 => Dtype::C64,
        _ => return None,
    })
}

fn safetensors_file(path: &Path, rows: &[&Row]) {
    let dtype = |d: DType| safetensors_dtype(d).unwrap();
    let view = |(name, d, shape, bytes): &&Row| {
        let shape = shape.iter().map(|&n| n as usize).collect();
        (name.clone(), TensorView::new(dtype(*d), shape, bytes.leak_copy()).unwrap())
    };
    let bytes = safetensors::serialize(rows.iter().map(view).collect::<Vec<_>>(), None).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Test data may live as long as the tests.
trait LeakCopy {
    fn leak_copy(&self) -> &'static [u8];
}

impl LeakCopy for Vec<u8> {
    fn leak_copy(&self) -> &'static [u8] {
        self.clone().leak()
    }
}

fn hoist(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hoist"));
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("HOIST_") {
            command.env_remove(&key);
        }
    }
    command.args(arguments).output().unwrap()
}

/// Python's digests of the same files.
#[test]
fn the_original_agrees() {
    let golden: Value =
        serde_json::from_slice(&std::fs::read(testdata("golden/hash.json")).unwrap()).unwrap();
    for (name, expected) in golden["files"].as_object().unwrap() {
        let path = testdata(name);
        let (model, tensors) = hashed_path(&path);
        assert_eq!(model, expected["digest"], "{name}");
        let expected: BTreeMap<String, String> = serde_json::from_value(expected["tensors"].clone()).unwrap();
        assert_eq!(tensors, expected, "{name}");

        let path = path.to_str().unwrap();
        let plain = hoist(&["inspect", path, "--hash"]);
        assert_eq!(String::from_utf8_lossy(&plain.stdout), format!("digest  {model}\n"));
        let said = String::from_utf8_lossy(&plain.stderr).into_owned();
        assert!(said.contains("GB/s"), "{said}");
        let quiet = hoist(&["inspect", path, "--hash", "--tensors", "-q", "--threads", "3"]);
        assert!(quiet.stderr.is_empty());
        let shown = String::from_utf8(quiet.stdout).unwrap();
        for (name, digest) in &tensors {
            let line = shown.lines().find(|l| l.split_whitespace().next() == Some(name)).unwrap();
            assert!(line.ends_with(digest), "{line}");
        }
        let json = hoist(&["inspect", path, "--hash", "--tensors", "--json", "--include", "*norm*"]);
        let json: Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_ne!(json["digest"], model, "a part has another digest");
        let listed = json["tensors"].as_array().unwrap();
        assert!(!listed.is_empty());
        for t in listed {
            assert_eq!(t["blake3"], tensors[t["name"].as_str().unwrap()]);
        }
        assert!(json["hashed_bytes"].as_u64().unwrap() > 0 && json["hash_seconds"].as_f64().unwrap() > 0.0);
    }
}

/// One model: whole, sharded in another order, in either byte order.
#[test]
fn containers_and_shards_do_not_matter() {
    let folder = TempDir::new().unwrap();
    let mut compared = 0;
    for name in ["kinds", "nested", "types"] {
        let little = testdata(&format!("gguf/{name}.gguf"));
        let digests = hashed_path(&little);
        let model = open(little.to_str().unwrap(), &Default::default()).unwrap();
        let bytes = std::fs::read(&little).unwrap();
        let table = &model.table;
        let rows: Vec<Row> = table
            .tensors
            .iter()
            .map(|t| (t.name.clone(), t.dtype, t.shape.clone(), materialise(&bytes, t)))
            .collect();
        assert_eq!(digests, expected(&rows), "{name}");
        let big = testdata(&format!("gguf/{name}-be.gguf"));
        // Some types cannot be written in the other order, and are not in that file.
        let (model, tensors) = hashed_path(&big);
        assert!(!tensors.is_empty() || rows.is_empty(), "{name}");
        for (tensor, digest) in &tensors {
            assert_eq!(Some(digest), digests.1.get(tensor), "{name}, big endian, {tensor}");
        }
        assert_eq!(model == digests.0, tensors.len() == digests.1.len(), "{name}, big endian");
        if rows.is_empty() || rows.iter().any(|r| safetensors_dtype(r.1).is_none()) {
            continue;
        }
        let directory = folder.path().join(name);
        std::fs::create_dir(&directory).unwrap();
        safetensors_file(&directory.join("model.safetensors"), &rows.iter().rev().collect::<Vec<_>>());
        assert_eq!(hashed_path(&directory), digests, "{name} as safetensors");
        compared += 1;
    }
    assert!(compared > 0, "no GGUF here can be written as safetensors");

    let rows: Vec<Row> = [(7u64, 3u64), (5_000, 700), (1, 1), (0, 4), (1 << 11, 1 << 10)]
        .iter()
        .zip(0..)
        .map(|(&(a, b), n)| {
            let dtype = [DType::BF16, DType::F32, DType::I64, DType::F16, DType::U8][n as usize];
            let size = a * b * u64::from(dtype.facts().block_bytes);
            (format!("layer.{n}.weight"), dtype, vec![a, b], noise(size as usize, n))
        })
        .collect();
    let want = expected(&rows);
    let one = folder.path().join("one.safetensors");
    safetensors_file(&one, &rows.iter().collect::<Vec<_>>());
    assert_eq!(hashed_path(&one), want);
    for shards in 2..=rows.len() {
        let directory = folder.path().join(format!("shards-{shards}"));
        std::fs::create_dir(&directory).unwrap();
        for shard in 0..shards {
            let name = format!("model-{:05}-of-{shards:05}.safetensors", shard + 1);
            let part: Vec<&Row> = rows.iter().skip(shard).step_by(shards).collect();
            safetensors_file(&directory.join(name), &part);
        }
        assert_eq!(hashed_path(&directory), want, "{shards} shards");
    }
    // Around the page cache, by any number of threads.
    for threads in [1, 2, 16] {
        let model = open(one.to_str().unwrap(), &Default::default()).unwrap();
        std::fs::File::open(&one).unwrap().sync_all().unwrap();
        model.files[0].as_local().unwrap().drop_from_cache(0, model.files[0].size_bytes());
        assert_eq!(hashed(model, Some(threads)), want, "cold, {threads} threads");
    }
}

/// PyTorch's files, with their views, shared storages and byte orders, against the same tensors as safetensors.
#[test]
fn torch_files_equal_their_safetensors() {
    let folder = TempDir::new().unwrap();
    let mut compared = 0;
    for entry in std::fs::read_dir(testdata("torch")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let Ok(model) = open(path.to_str().unwrap(), &Default::default()) else { continue };
        let bytes = std::fs::read(&path).unwrap();
        let tensors = &model.table.tensors;
        let rows: Vec<Row> = tensors
            .iter()
            .map(|t| (t.name.clone(), t.dtype, t.shape.clone(), materialise(&bytes, t)))
            .collect();
        let digests = hashed_path(&path);
        assert_eq!(digests, expected(&rows), "{name}");
        if rows.is_empty() || rows.iter().any(|r| safetensors_dtype(r.1).is_none()) {
            continue;
        }
        let copy = folder.path().join(format!("{name}.safetensors"));
        safetensors_file(&copy, &rows.iter().collect::<Vec<_>>());
        assert_eq!(hashed_path(&copy), digests, "{name} as safetensors");
        compared += 1;
    }
    assert!(compared >= 5, "only {compared} files could be compared");
}

/// What is not the same model has another digest.
#[test]
fn differences_show() {
    let folder = TempDir::new().unwrap();
    let bytes = noise(96, 1);
    let row = |name: &str, dtype, shape: &[u64], bytes: &[u8]| {
        (name.to_owned(), dtype, shape.to_vec(), bytes.to_vec())
    };
    let mut flipped = bytes.clone();
    flipped[95] ^= 1;
    let models: Vec<Vec<Row>> = vec![
        vec![row("a", DType::F32, &[4, 6], &bytes)],
        vec![row("a", DType::F32, &[6, 4], &bytes)],
        vec![row("a", DType::F32, &[24], &bytes)],
        vec![row("a", DType::F32, &[1, 4, 6], &bytes)],
        vec![row("a", DType::I32, &[4, 6], &bytes)],
        vec![row("a", DType::BF16, &[4, 12], &bytes)],
        vec![row("a", DType::F32, &[4, 6], &flipped)],
        vec![row("b", DType::F32, &[4, 6], &bytes)],
        vec![row("a", DType::F32, &[4, 6], &bytes), row("b", DType::U8, &[0], &[])],
        vec![row("a", DType::F32, &[4, 6], &bytes), row("b", DType::U8, &[0, 1], &[])],
        vec![row("a 24", DType::F32, &[4, 6], &bytes)],
    ];
    let mut seen = BTreeMap::new();
    for (n, rows) in models.iter().enumerate() {
        let path = folder.path().join(format!("{n}.safetensors"));
        safetensors_file(&path, &rows.iter().collect::<Vec<_>>());
        let (model, tensors) = hashed_path(&path);
        assert_eq!((model.clone(), tensors), expected(rows), "{n}");
        assert_eq!(seen.insert(model, n), None, "{n} has the digest of another");
    }
}

/// A file of bytes and tensors that lie in it somehow.
fn model_of(path: &Path, tensors: Vec<Tensor>) -> Model {
    let file = LocalFile::open(path).unwrap();
    for tensor in &tensors {
        tensor.check(file.size_bytes()).unwrap();
    }
    let container = Container::Torch;
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    let files = vec![FileRef { name: name.clone(), size_bytes: file.size_bytes(), container }];
    Model {
        name,
        table: Checkpoint { files, tensors, ..Default::default() },
        files: vec![Arc::new(file)],
        place: Arc::new(LocalPlace::new(path.parent().unwrap())),
        entries: Vec::new(),
        commit: None,
        is_file: false,
    }
}

/// Views of one storage: transposed, expanded, stepped, in the other byte order, conjugated, negated; large and small.
#[test]
fn views_are_hashed_as_what_they_show() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("storage.bin");
    let bytes = noise(9 << 20, 5);
    std::fs::write(&path, &bytes).unwrap();
    use ByteOrder::{Big, Little};
    #[rustfmt::skip]
    let views: &[(DType, &[u64], Option<&[u64]>, ByteOrder, bool, bool, u64)] = &[
        (DType::F32, &[700, 900], None, Little, false, false, 12),
        (DType::F32, &[700, 900], Some(&[1, 700]), Little, false, false, 4),
        (DType::F32, &[1000, 1000], Some(&[1, 1001]), Little, false, false, 0),
        (DType::BF16, &[500, 300], Some(&[8000, 1]), Little, false, false, 6),
        (DType::BF16, &[5, 2_000], Some(&[800_000, 3]), Little, false, false, 2),
        (DType::U8, &[3, 1_000_000], Some(&[3_000_000, 1]), Little, false, false, 1),
        (DType::U8, &[3_000_000], None, Little, false, false, 3),
        (DType::U8, &[40, 70_000], Some(&[0, 1]), Little, false, false, 3),
        (DType::F64, &[600, 500], None, Big, false, false, 8),
        (DType::F16, &[300, 5000], None, Big, false, true, 8),
        (DType::F32, &[3, 50, 7], Some(&[7, 21, 1]), Big, false, false, 16),
        (DType::C64, &[300, 999], None, Little, true, false, 24),
        (DType::C64, &[300, 999], Some(&[1, 300]), Little, true, true, 24),
        (DType::F32, &[], None, Little, false, true, 40),
        (DType::F32, &[5], Some(&[0]), Little, false, false, 44),
        (DType::F32, &[0, 3], None, Big, false, false, 48),
        (DType::F32, &[2], None, Big, false, false, 1001),
    ];
    let tensors: Vec<Tensor> = views
        .iter()
        .enumerate()
        .map(|(n, &(dtype, shape, strides, order, conj, neg, offset_bytes))| {
            let width = u64::from(dtype.facts().block_bytes);
            let count: u64 = shape.iter().product();
            let size_bytes = match strides {
                Some(strides) if count > 0 => {
                    (shape.iter().zip(strides).map(|(n, s)| (n - 1) * s).sum::<u64>() + 1) * width
                }
                _ => count * width,
            };
            let span = Span { file: FileId(0), offset_bytes, size_bytes };
            let strides = strides.map(Into::into);
            let at = Extent { span, strides, order, conj, neg };
            Tensor { name: format!("view.{n}"), dtype, shape: shape.to_vec(), at }
        })
        .collect();
    let mut tensors = tensors;
    // An alias is the same tensor under another name.
    tensors.push(Tensor { name: "alias".into(), ..tensors[1].clone() });
    let rows: Vec<Row> =
        tensors.iter().map(|t| (t.name.clone(), t.dtype, t.shape.clone(), materialise(&bytes, t))).collect();
    let (model, digests) = expected(&rows);
    for threads in [1, 4] {
        let got = hashed(model_of(&path, tensors.clone()), Some(threads));
        let wrong: Vec<&String> =
            digests.iter().filter(|(n, d)| got.1.get(*n) != Some(d)).map(|(n, _)| n).collect();
        assert!(wrong.is_empty(), "{threads} threads: {wrong:?}");
        assert_eq!(got.0, model);
    }
}

/// A file that changes is an error and no digest.
#[test]
fn a_file_that_shrank_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("m.safetensors");
    safetensors_file(&path, &[&("w".into(), DType::U8, vec![5_000_000], noise(5_000_000, 2))]);
    let model = open(path.to_str().unwrap(), &Default::default()).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(3_000_000).unwrap();
    let error = hash(Arc::new(model), vec![0], None).wait().unwrap_err();
    assert_eq!(error.kind().exit_code(), 1);
    assert!(error.to_string().contains("changed while it was read"), "{error}");
}
