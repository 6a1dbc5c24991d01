//! Files laid out, against the files that the original writers made of the same tables: byte for byte.
//!
//! `testdata/make/layout.py` has the cases and made the digests; it also reads what `files_for_the_originals` writes.

use crate::naive::{sha256, testdata};
use hoist::checkpoint::{MetaArray, MetaKind, MetaValue};
use hoist::dtype::DType;
use hoist::format::gguf::layout as gguf;
use hoist::format::gguf::names::split_name;
use hoist::format::layout::{Entry, Laid};
use hoist::format::safetensors::layout as safetensors;
use hoist::format::torch::layout as torch;
use serde_json::Value;
use sha2::Digest;
use std::collections::BTreeMap;

/// As in the script: tensors from here on are zeros that no one writes.
const LARGE_BYTES: u64 = 1 << 20;

fn golden() -> Value {
    serde_json::from_slice(&std::fs::read(testdata("golden/layout.json")).unwrap()).unwrap()
}

/// The bytes of the tensor at a place in its table, as in the script.
fn data(index: usize, tensor: &Entry) -> Vec<u8> {
    let mask = if tensor.dtype == DType::Bool { 1 } else { 0xff };
    let byte = |i: u64| (i * 31 + (i >> 8) * 7 + index as u64 * 17) as u8 & mask;
    (0..tensor.size_bytes().unwrap()).map(byte).collect()
}

fn entry(name: &str, dtype: DType, shape: &[u64]) -> Entry {
    Entry { name: name.into(), dtype, shape: shape.into() }
}

fn numbers(json: &Value) -> Vec<u64> {
    json.as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect()
}

/// The table of a case; a long one is kept as how it is made.
fn tensors(case: &Value) -> Vec<Entry> {
    if let Some(rows) = case["tensors"].as_array() {
        let text = |v: &Value| v.as_str().unwrap().to_owned();
        let row = |t: &Value| entry(&text(&t[0]), DType::from_user(&text(&t[1])).unwrap(), &numbers(&t[2]));
        return rows.iter().map(row).collect();
    }
    let rule = &case["tensors"];
    let (sizes, digits) = (numbers(&rule["sizes"]), rule["digits"].as_u64().unwrap() as usize);
    let name = rule["name"].as_str().unwrap();
    (0..rule["count"].as_u64().unwrap() as usize)
        .map(|i| entry(&format!("{name}{i:0digits$}"), DType::U8, &[sizes[i % sizes.len()]]))
        .collect()
}

/// What is in the file, by offset: the fixed bytes, the sealed ones, the tensors that are not large.
fn pieces(
    laid: &Laid,
    sealed: Vec<(u64, Vec<u8>)>,
    tensors: &[Entry],
    firsts: &[usize],
) -> BTreeMap<u64, Vec<u8>> {
    let mut pieces: BTreeMap<u64, Vec<u8>> = laid.fixed.iter().cloned().chain(sealed).collect();
    for (i, (tensor, &offset)) in tensors.iter().zip(&laid.offsets_bytes).enumerate() {
        if firsts[i] == i && (1..LARGE_BYTES).contains(&tensor.size_bytes().unwrap()) {
            assert!(pieces.insert(offset, data(i, tensor)).is_none());
        }
    }
    let mut joined: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for (at, piece) in pieces {
        match joined.last_entry() {
            Some(mut last) if *last.key() + last.get().len() as u64 >= at => {
                assert_eq!(*last.key() + last.get().len() as u64, at, "two things in one place");
                last.get_mut().extend(piece);
            }
            _ => _ = joined.insert(at, piece),
        }
    }
    joined
}

/// A file of any size but the largest.
fn whole(laid: &Laid, pieces: BTreeMap<u64, Vec<u8>>) -> Vec<u8> {
    let mut file = vec![0; laid.file_size_bytes as usize];
    for (at, piece) in pieces {
        file[at as usize..][..piece.len()].copy_from_slice(&piece);
    }
    file
}

/// Sets to zeros what torch makes of the data, in the last piece of a file, which begins at `at`.
fn without_id(piece: &mut [u8], at: u64) {
    let end64 = piece.len() - 98;
    let directory = u64::from_le_bytes(piece[end64 + 48..][..8].try_into().unwrap());
    let descriptor = (directory - at) as usize - if directory >= 0xffff_ffff { 24 } else { 16 };
    let entry = piece.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
    assert_eq!(piece[descriptor..][..4], *b"PK\x07\x08");
    assert_eq!(piece[descriptor + 4..][..4], piece[entry + 16..][..4]);
    for (start, size) in [(descriptor - 40, 40), (descriptor + 4, 4), (entry + 16, 4)] {
        piece[start..start + size].fill(0);
    }
}

/// A PyTorch file of a case.
struct Torch {
    laid: Laid,
    pieces: BTreeMap<u64, Vec<u8>>,
    large: bool,
}

fn torch_file(case: &Value) -> Torch {
    let tensors = tensors(case);
    let firsts: Vec<usize> = match case.get("firsts") {
        Some(firsts) => numbers(firsts).into_iter().map(|n| n as usize).collect(),
        None => (0..tensors.len()).collect(),
    };
    let torch = torch::lay_out(&tensors, &firsts, case["stem"].as_str().unwrap()).unwrap();
    torch::check(&torch, &tensors).unwrap();
    let zeros = &case["crc32_of_zeros"];
    let crc32s: Vec<u32> = torch
        .storages
        .iter()
        .map(|&i| match zeros.get(&tensors[i].name) {
            Some(crc) => crc.as_u64().unwrap() as u32,
            None => crc32(&data(i, &tensors[i])),
        })
        .collect();
    let pieces = pieces(&torch.laid, torch.seal(&crc32s).unwrap(), &tensors, &firsts);
    Torch { laid: torch.laid, pieces, large: tensors.iter().any(|t| t.size_bytes().unwrap() >= LARGE_BYTES) }
}

/// CRC-32 of zip, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(
            crc ^ u32::from(byte),
            |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 },
        )
    })
}

#[test]
fn torch_files_are_torchs() {
    let mut failures = Vec::new();
    for (name, case) in golden()["torch"].as_object().unwrap() {
        let Torch { laid, mut pieces, large } = torch_file(case);
        let (&at, last) = pieces.iter_mut().next_back().unwrap();
        without_id(last, at);
        let digest = if large {
            let mut digest = sha2::Sha256::new();
            for (at, piece) in &pieces {
                digest.update(at.to_le_bytes());
                digest.update((piece.len() as u64).to_le_bytes());
                digest.update(piece);
            }
            digest.finalize().iter().map(|b| format!("{b:02x}")).collect()
        } else {
            sha256(&whole(&laid, pieces))
        };
        if (digest.as_str(), laid.file_size_bytes)
            != (case["sha256"].as_str().unwrap(), case["size"].as_u64().unwrap())
        {
            failures.push(name.clone());
        }
    }
    assert!(failures.is_empty(), "{failures:?}");
}

/// The zip crate, by which Rust's readers of PyTorch files read them, finds each member and its CRC-32 true.
#[test]
fn torch_files_are_zips() {
    for (name, case) in golden()["torch"].as_object().unwrap() {
        let torch = torch_file(case);
        if torch.large {
            continue;
        }
        let file = whole(&torch.laid, torch.pieces);
        let mut zip = zip::ZipArchive::new(std::io::Cursor::new(file)).unwrap();
        assert!(zip.len() >= 6, "{name}");
        for i in 0..zip.len() {
            let mut member = zip.by_index(i).unwrap();
            std::io::copy(&mut member, &mut std::io::sink())
                .unwrap_or_else(|e| panic!("{name}: member {i}: {e}"));
        }
    }
}

fn meta_value(kind: &str, value: &Value) -> MetaValue {
    let int = || value.as_i64().unwrap();
    let texts = || value.as_array().unwrap().iter().map(|t| t.as_str().unwrap());
    let floats = || value.as_array().unwrap().iter().map(|n| n.as_f64().unwrap() as f32).collect::<Vec<_>>();
    match kind {
        "string" => value.as_str().unwrap().into(),
        "u8" => MetaValue::U8(int() as u8),
        "i8" => MetaValue::I8(int() as i8),
        "u16" => MetaValue::U16(int() as u16),
        "i16" => MetaValue::I16(int() as i16),
        "u32" => MetaValue::U32(int() as u32),
        "i32" => MetaValue::I32(int() as i32),
        "u64" => MetaValue::U64(value.as_u64().unwrap()),
        "i64" => MetaValue::I64(int()),
        "f32" => MetaValue::F32(value.as_f64().unwrap() as f32),
        "f64" => MetaValue::F64(value.as_f64().unwrap()),
        "bool" => MetaValue::Bool(value.as_bool().unwrap()),
        "[string]" => MetaValue::Array(MetaArray::of_texts(texts())),
        "[f32]" => MetaValue::Array(MetaArray::of_f32(&floats())),
        "[i32]" => {
            MetaValue::Array(MetaArray::of_i32(&numbers(value).iter().map(|&n| n as i32).collect::<Vec<_>>()))
        }
        "[u32]" => {
            MetaValue::Array(MetaArray::of_u32(&numbers(value).iter().map(|&n| n as u32).collect::<Vec<_>>()))
        }
        "[u8]" => {
            MetaValue::Array(MetaArray::of_u8(&numbers(value).iter().map(|&n| n as u8).collect::<Vec<_>>()))
        }
        "[bool]" => {
            let bools: Vec<bool> = value.as_array().unwrap().iter().map(|b| b.as_bool().unwrap()).collect();
            MetaValue::Array(MetaArray::of_bools(&bools))
        }
        other => panic!("{other}"),
    }
}

/// The GGUF files of a case: name and bytes.
fn gguf_files(case: &Value) -> Vec<(String, Vec<u8>)> {
    let tensors = tensors(case);
    let meta: Vec<(String, MetaValue)> = case["meta"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row[0].as_str().unwrap().to_owned(), meta_value(row[1].as_str().unwrap(), &row[2])))
        .collect();
    let sizes: Vec<u64> = tensors.iter().map(|t| t.size_bytes().unwrap()).collect();
    let limit = |key: &str| case.get(key).map(|n| n.as_u64().unwrap());
    let parts = gguf::split(&sizes, limit("split_max_size"), limit("split_max_tensors").map(|n| n as usize));
    let count = parts.len();
    let mut files = Vec::new();
    for (index, part) in parts.into_iter().enumerate() {
        // Where a source was split, what it says of that must not come along.
        let mut source_meta = meta.clone();
        source_meta.push(("split.count".into(), MetaValue::U16(77)));
        let meta = gguf::split_meta(&source_meta, index, count, tensors.len()).unwrap();
        let laid =
            gguf::lay_out(&tensors[part.clone()], &meta, case["alignment"].as_u64().unwrap() as u32).unwrap();
        gguf::check(&laid, &tensors[part.clone()]).unwrap();
        let mut file = whole(&laid, laid.fixed.iter().cloned().collect());
        for (i, &offset) in part.clone().zip(&laid.offsets_bytes) {
            let bytes = data(i, &tensors[i]);
            file[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        let name = if count == 1 { "m.gguf".into() } else { split_name("m", index as u32, count as u32) };
        files.push((name, file));
    }
    files
}

#[test]
fn gguf_files_are_gguf_pys() {
    let mut failures = Vec::new();
    for (name, case) in golden()["gguf"].as_object().unwrap() {
        let files: Vec<(String, String)> =
            gguf_files(case).into_iter().map(|(name, file)| (name, sha256(&file))).collect();
        let expected: Vec<(String, String)> = case["files"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, facts)| (name.clone(), facts["sha256"].as_str().unwrap().to_owned()))
            .collect();
        if files != expected {
            failures.push(name.clone());
        }
    }
    assert!(failures.is_empty(), "{failures:?}");
}

#[test]
fn safetensors_files_are_the_references_but_for_padding() {
    for (name, case) in golden()["safetensors"].as_object().unwrap() {
        let tensors = tensors(case);
        let metadata = [("format".to_owned(), "pt".to_owned())];
        let laid = safetensors::lay_out(&tensors, &metadata, None).unwrap();
        safetensors::check(&laid, &tensors).unwrap();
        let [(0, header)] = &laid.fixed[..] else { panic!("{:?}", laid.fixed) };
        let all: Vec<usize> = (0..tensors.len()).collect();
        let file = whole(&laid, pieces(&laid, vec![], &tensors, &all));
        assert_eq!(sha256(header[8..].trim_ascii_end()), case["header"].as_str().unwrap(), "{name}");
        assert_eq!(sha256(&file[header.len()..]), case["data"].as_str().unwrap(), "{name}");
    }
}

/// Writes the files to `$HOIST_LAYOUT_OUT`, holes where tensors are large, for `layout.py --verify`.
#[test]
#[ignore = "writes files for the original readers, which the golden's script runs"]
fn files_for_the_originals() {
    use std::os::unix::fs::FileExt;
    let place = std::path::PathBuf::from(std::env::var_os("HOIST_LAYOUT_OUT").expect("HOIST_LAYOUT_OUT"));
    std::fs::create_dir_all(&place).unwrap();
    let golden = golden();
    for (name, case) in golden["torch"].as_object().unwrap() {
        let torch = torch_file(case);
        let file = std::fs::File::create(place.join(format!("{name}.bin"))).unwrap();
        file.set_len(torch.laid.file_size_bytes).unwrap();
        for (at, piece) in torch.pieces {
            file.write_all_at(&piece, at).unwrap();
        }
    }
    for (name, case) in golden["gguf"].as_object().unwrap() {
        for (file, bytes) in gguf_files(case) {
            std::fs::write(place.join(format!("{name}.{file}")), bytes).unwrap();
        }
    }
}

#[test]
fn what_gguf_cannot_hold_is_refused() {
    let long = "n".repeat(64);
    let f32 = DType::F32;
    for (tensors, meta, alignment, said) in [
        (
            vec![(&*long, f32, vec![1])],
            vec![],
            32,
            "has a name of 64 bytes; llama.cpp reads names of up to 63",
        ),
        (
            vec![("a", f32, vec![1, 1, 1, 1, 1])],
            vec![],
            32,
            "`a` has shape [1, 1, 1, 1, 1]; GGUF has at most 4",
        ),
        (
            vec![("a", DType::F8E4M3, vec![1])],
            vec![],
            32,
            "`a` is of type `f8_e4m3`, which GGUF has not\n  hint: cast",
        ),
        (
            vec![("a", DType::Bool, vec![1])],
            vec![],
            32,
            "`a` is of type `bool`, which GGUF has not\n  hint: leave",
        ),
        (
            vec![("a", DType::Q8_0, vec![32, 16])],
            vec![],
            32,
            "`a` has rows of 16 elements, no multiple of the 32",
        ),
        (vec![("a", f32, vec![1]), ("a", f32, vec![1])], vec![], 32, "`a` would be written twice"),
        (vec![("a\0b", f32, vec![1])], vec![], 32, "has a NUL in its name"),
        (vec![("a", f32, vec![1 << 62, 2, 0])], vec![], 32, "whose size overflows"),
        (vec![("a", f32, vec![1 << 61])], vec![], 32, "`a` ends beyond the largest file there can be"),
        (
            vec![("a", DType::I8, vec![i64::MAX as u64])],
            vec![],
            32,
            "`a` ends beyond the largest file there can be",
        ),
        (vec![], vec![("k", MetaValue::Null)], 32, "the key `k` has no value"),
        (vec![], vec![("", MetaValue::U8(1))], 32, "a key of the metadata has an empty name"),
        (
            vec![],
            vec![("k", MetaValue::U8(1)), ("k", MetaValue::U8(2))],
            32,
            "the key `k` would be written twice",
        ),
        (vec![], vec![("k\0", MetaValue::U8(1))], 32, "has a NUL"),
        (vec![], vec![], 0, "an alignment of 0;"),
        (vec![], vec![], 4, "an alignment of 4;"),
        (vec![], vec![], 48, "an alignment of 48;"),
    ] {
        let tensors: Vec<_> = tensors.into_iter().map(|(n, d, s)| entry(n, d, &s)).collect();
        let meta: Vec<_> = meta.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        let error = gguf::lay_out(&tensors, &meta, alignment).unwrap_err().to_string();
        assert!(error.contains(said), "{error}\nexpected: {said}");
    }
    // Arrays that were put together wrongly: items that are missing would be read from the padding.
    let nested = |inner_count| {
        let bytes = [&4u32.to_le_bytes()[..], &u64::to_le_bytes(inner_count), &[7, 0, 0, 0]].concat();
        MetaArray { kind: MetaKind::Array, count: 1, bytes: bytes.into() }
    };
    let array = |kind, count, bytes: &[u8]| MetaArray { kind, count, bytes: bytes.into() };
    for (array, whole) in [
        (array(MetaKind::U32, 1, &[0; 4]), true),
        (array(MetaKind::U32, 2, &[0; 4]), false),
        (array(MetaKind::U32, 1, &[0; 5]), false),
        (array(MetaKind::U32, u64::MAX, &[0; 4]), false),
        (array(MetaKind::Text, 0, &[]), true),
        (array(MetaKind::Text, 1, &[1, 0, 0, 0, 0, 0, 0, 0, 65]), true),
        (array(MetaKind::Text, 1, &[2, 0, 0, 0, 0, 0, 0, 0, 65]), false),
        (array(MetaKind::Text, 1, &[0; 9]), false),
        (nested(1), true),
        (nested(2), false),
        (nested(0), false),
    ] {
        let shown = format!("{array:?}");
        let laid = gguf::lay_out(&[], &[("k".into(), MetaValue::Array(array))], 32);
        assert_eq!(laid.is_ok(), whole, "{shown}");
        if let Ok(laid) = laid {
            gguf::check(&laid, &[]).unwrap();
        }
    }
}

#[test]
fn the_alignment_key_is_as_it_will_be() {
    let key = |n| ("general.alignment".to_owned(), MetaValue::U32(n));
    let other = || ("k".to_owned(), MetaValue::U8(1));
    for (meta, alignment, expected) in [
        (vec![other()], 32, vec![other()]),
        (vec![key(64), other()], 32, vec![other()]),
        (vec![key(32), other()], 128, vec![key(128), other()]),
        (vec![other()], 128, vec![other(), key(128)]),
    ] {
        let tensors = [entry("a", DType::F32, &[1]), entry("b", DType::F32, &[1])];
        let laid = gguf::lay_out(&tensors, &meta, alignment).unwrap();
        gguf::check(&laid, &tensors).unwrap();
        let known = hoist::format::Known::whole(&whole(&laid, laid.fixed.iter().cloned().collect()));
        let hoist::format::Step::Done(part) = hoist::format::parse(&known).unwrap() else { panic!() };
        assert_eq!(part.meta, expected);
        assert_eq!(laid.offsets_bytes[1] - laid.offsets_bytes[0], u64::from(alignment));
    }
}

#[test]
fn gguf_counts_files_to_65535() {
    gguf::split_meta(&[], 65_534, 65_535, 70_000).unwrap();
    for (count, tensors) in [(65_536, 70_000), (2, 1 << 31)] {
        let error = gguf::split_meta(&[], 1, count, tensors).unwrap_err().to_string();
        assert!(error.contains("GGUF counts up to 65,535 and 2,147,483,647"), "{error}");
    }
}

#[test]
fn what_torch_cannot_hold_is_refused() {
    let f32 = DType::F32;
    for (tensors, firsts, stem, said) in [
        (
            vec![("a", DType::Q4K, vec![256])],
            vec![0],
            "m",
            "`a` is of type `q4_k`, which torch has not\n  hint: widen",
        ),
        (
            vec![("a", DType::F6E2M3, vec![4])],
            vec![0],
            "m",
            "`a` is of type `f6_e2m3`, which torch has not\n  hint: cast",
        ),
        (vec![("a", DType::F4, vec![4, 3])], vec![0], "m", "`a` has shape [4, 3]"),
        (
            vec![("a", f32, vec![u64::MAX, 2])],
            vec![0],
            "m",
            "`a` has shape [18446744073709551615, 2], which overflows",
        ),
        (vec![("a", f32, vec![1]), ("a", f32, vec![1])], vec![0, 1], "m", "`a` would be written twice"),
        (vec![("a", f32, vec![1]), ("b", f32, vec![2])], vec![0, 0], "m", "`b` is said to share a storage"),
        (
            vec![("a", f32, vec![1]), ("b", DType::I32, vec![1])],
            vec![0, 0],
            "m",
            "`b` is said to share a storage",
        ),
        (vec![("a", f32, vec![1]), ("b", f32, vec![1])], vec![1, 1], "m", "`a` is said to share a storage"),
        (vec![], vec![], "", "cannot be called ``"),
        (vec![], vec![], "a/b", "cannot be called `a/b`"),
        (
            vec![("a", DType::U8, vec![i64::MAX as u64])],
            vec![0],
            "m",
            "`a` ends beyond the largest file there can be",
        ),
    ] {
        let tensors: Vec<_> = tensors.into_iter().map(|(n, d, s)| entry(n, d, &s)).collect();
        let error = torch::lay_out(&tensors, &firsts, stem).unwrap_err().to_string();
        assert!(error.contains(said), "{error}\nexpected: {said}");
    }
    let one = torch::lay_out(&[entry("a", f32, &[1])], &[0], "m").unwrap();
    one.seal(&[]).unwrap_err();
}

/// A layout that was spoiled is found.
#[test]
fn checks_find_what_is_wrong() {
    let tensors = [entry("a", DType::F32, &[4]), entry("b", DType::F32, &[4])];
    type Spoil = fn(&mut Laid);
    let spoils: [(&str, Spoil); 4] = [
        ("two in one place", |laid| laid.offsets_bytes[1] = laid.offsets_bytes[0] + 4),
        ("exchanged", |laid| laid.offsets_bytes.swap(0, 1)),
        ("beyond the end", |laid| laid.file_size_bytes -= 20),
        ("cut header", |laid| laid.fixed[0].1.truncate(20)),
    ];
    for (name, spoil) in spoils {
        let mut laid = safetensors::lay_out(&tensors, &[], None).unwrap();
        spoil(&mut laid);
        safetensors::check(&laid, &tensors).expect_err(name);
        let mut laid = gguf::lay_out(&tensors, &[], 32).unwrap();
        spoil(&mut laid);
        gguf::check(&laid, &tensors).expect_err(name);
        let mut laid = torch::lay_out(&tensors, &[0, 1], "m").unwrap();
        spoil(&mut laid.laid);
        torch::check(&laid, &tensors).expect_err(name);
    }
    let laid = gguf::lay_out(&tensors, &[], 32).unwrap();
    gguf::check(&laid, &[tensors[0].clone(), entry("b", DType::I32, &[4])]).unwrap_err();
}
