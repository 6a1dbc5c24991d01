//! Our GGUF reader against gguf-rs 0.1.8 and its known faults: sizes it computes wrongly, files it cannot read.

use hoist::checkpoint::{MetaValue, Part};
use hoist::format::{Known, Step, gguf};
use std::path::{Path, PathBuf};

/// Type 40 makes it panic; 41 and 42 it does not know; it keeps NULs in names.
const CANNOT: [&str; 5] = ["nested", "v1", "types.gguf", "types-new", "nul-names"];
const SIZE_WRONG: [&str; 9] = ["bf16", "i8", "i16", "i32", "i64", "f64", "iq4_nl", "mxfp4", "q8_1"];

fn parse(bytes: &[u8]) -> Part {
    match gguf::parse(&Known::whole(bytes)).unwrap() {
        Step::Done(part) => part,
        Step::Need(ranges) => panic!("a whole file is not enough: {ranges:?}"),
    }
}

#[test]
fn agrees() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/gguf");
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "gguf"));
    files.retain(|p| !CANNOT.iter().any(|c| name(p).starts_with(c)) && !name(p).contains("-be."));
    files.sort();
    let old_types = types_without(&folder.join("types.gguf"), &["t.NVFP4", "t.Q1_0"]);
    files.push(old_types.path().to_owned());
    for path in &files {
        let part = parse(&std::fs::read(path).unwrap());
        let theirs = gguf_rs::get_gguf_container_array_size(path.to_str().unwrap(), u64::MAX)
            .unwrap()
            .decode()
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(part.tensors.len(), theirs.tensors().len());
        for (ours, their) in part.tensors.iter().zip(theirs.tensors()) {
            let what = format!("{}: {}", path.display(), ours.name);
            let offset = ours.at.span.offset_bytes - theirs.data_offset();
            let shape: Vec<u64> = ours.shape.iter().rev().copied().collect();
            let mine = (&ours.name, ours.dtype.facts().ggml, offset, &shape);
            assert_eq!(mine, (&their.name, Some(their.kind), their.offset, &their.shape), "{what}");
            let right = !SIZE_WRONG.contains(&ours.dtype.name());
            assert_eq!(ours.size_bytes() == their.size, right || ours.size_bytes() == 0, "{what}");
        }
        assert_eq!(part.meta.len(), theirs.metadata().len(), "{}", path.display());
        for (key, value) in &part.meta {
            assert_eq!(Some(&as_json(value)), theirs.metadata().get(key), "{}: {key}", path.display());
        }
    }
    assert!(files.len() >= 12, "{}", files.len());
}

/// A value as gguf-rs gives it: JSON, which has no infinities, and lossy text.
fn as_json(value: &MetaValue) -> serde_json::Value {
    match value {
        MetaValue::F32(v) => (*v).into(),
        MetaValue::F64(v) => (*v).into(),
        MetaValue::Bool(v) => (*v).into(),
        MetaValue::Text(v) => String::from_utf8_lossy(v).into(),
        MetaValue::Array(a) => a.items().map(|v| as_json(&v)).collect::<Vec<_>>().into(),
        MetaValue::U64(v) => (*v).into(),
        other => i64::try_from(other.as_i128().unwrap()).unwrap().into(),
    }
}

/// A file with the tensors of another but for some, and no keys.
fn types_without(path: &Path, names: &[&str]) -> tempfile::NamedTempFile {
    let bytes = std::fs::read(path).unwrap();
    let part = parse(&bytes);
    let kept: Vec<_> = part.tensors.iter().filter(|t| !names.contains(&t.name.as_str())).collect();
    let mut header = b"GGUF".to_vec();
    header.extend(3u32.to_le_bytes());
    header.extend((kept.len() as u64).to_le_bytes());
    header.extend(0u64.to_le_bytes());
    let mut data: Vec<u8> = Vec::new();
    for t in kept {
        header.extend((t.name.len() as u64).to_le_bytes());
        header.extend(t.name.as_bytes());
        header.extend((t.shape.len() as u32).to_le_bytes());
        t.shape.iter().rev().for_each(|d| header.extend(d.to_le_bytes()));
        header.extend(t.dtype.facts().ggml.unwrap().to_le_bytes());
        header.extend((data.len() as u64).to_le_bytes());
        let span = t.at.span;
        data.extend(&bytes[span.offset_bytes as usize..span.end_bytes() as usize]);
        data.resize(data.len().next_multiple_of(32), 0);
    }
    header.resize(header.len().next_multiple_of(32), 0);
    let out = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    std::fs::write(out.path(), [header, data].concat()).unwrap();
    out
}
