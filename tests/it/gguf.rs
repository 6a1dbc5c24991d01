//! GGUF: what the reader says of files against what gguf's own reader says, and against the crate gguf-rs; in small
//! steps; of hostile and of mutated files.

use crate::naive::{goldens, materialise, sha256, testdata};
use hoist::checkpoint::{ByteOrder, Checkpoint, Container, FileRef, MetaArray, MetaKind, MetaValue, Part};
use hoist::format::gguf::names::{parse_split_name, split_name};
use hoist::format::gguf::{Split, parse};
use hoist::format::{HEADER_BYTES_MAX, Known, Step};
use std::fmt::Write;
use std::path::PathBuf;

/// The files of a folder of test data that end so, sorted.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(testdata(folder)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == extension));
    files.sort();
    files
}

fn name(path: &std::path::Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// What reading a file cost.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Cost {
    rounds: usize,
    asked_bytes: u64,
    /// Bytes that all rounds together had before them: what bounds the work.
    seen_bytes: u64,
}

/// Parses as `open` does, giving what is asked for but at most `step` bytes at a time. `zeros` bytes follow those
/// given: data that nobody reads.
fn drive(bytes: &[u8], zeros: u64, step: u64) -> (hoist::Result<Part>, Cost) {
    let size_bytes = bytes.len() as u64 + zeros;
    let mut known = Known::of_size(size_bytes);
    let mut cost = Cost::default();
    loop {
        cost.rounds += 1;
        cost.seen_bytes += known.held_bytes();
        let ranges = match parse(&known) {
            Ok(Step::Done(part)) => return (Ok(part), cost),
            Ok(Step::Need(ranges)) => ranges,
            Err(e) => return (Err(e), cost),
        };
        assert!(!ranges.is_empty());
        for r in ranges {
            assert!(r.start < r.end && r.end <= size_bytes, "{r:?} of {size_bytes}");
            assert!(known.get(r.clone()).is_none(), "{r:?} is known already");
            cost.asked_bytes += r.end - r.start;
            let end = r.end.min(r.start.saturating_add(step));
            let piece = (r.start..end).map(|i| bytes.get(i as usize).copied().unwrap_or(0)).collect();
            known.add(r.start, piece);
        }
    }
}

fn whole(bytes: &[u8]) -> hoist::Result<Part> {
    match parse(&Known::whole(bytes))? {
        Step::Done(part) => Ok(part),
        Step::Need(ranges) => panic!("all is known, and {ranges:?} is asked for"),
    }
}

/// A part in words that are equal only where all of it is, NaNs included.
fn shown(part: &Part) -> String {
    format!("{part:?}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut s, b| {
        write!(s, "{b:02x}").unwrap();
        s
    })
}

/// A value as the goldens write it, made from what the decoded value says.
fn meta_golden(value: &MetaValue) -> serde_json::Value {
    let scalar = |kind: &str, bytes: &[u8]| serde_json::json!({"kind": kind, "hex": hex(bytes)});
    match value {
        MetaValue::U8(v) => scalar("u8", &v.to_le_bytes()),
        MetaValue::I8(v) => scalar("i8", &v.to_le_bytes()),
        MetaValue::U16(v) => scalar("u16", &v.to_le_bytes()),
        MetaValue::I16(v) => scalar("i16", &v.to_le_bytes()),
        MetaValue::U32(v) => scalar("u32", &v.to_le_bytes()),
        MetaValue::I32(v) => scalar("i32", &v.to_le_bytes()),
        MetaValue::U64(v) => scalar("u64", &v.to_le_bytes()),
        MetaValue::I64(v) => scalar("i64", &v.to_le_bytes()),
        MetaValue::F32(v) => scalar("f32", &v.to_le_bytes()),
        MetaValue::F64(v) => scalar("f64", &v.to_le_bytes()),
        MetaValue::Bool(v) => scalar("bool", &[u8::from(*v)]),
        MetaValue::Text(v) => {
            serde_json::json!({"kind": "string", "hex": hex(&[&(v.len() as u64).to_le_bytes()[..], v].concat())})
        }
        MetaValue::Array(a) => serde_json::json!({
            "kind": "array", "item": a.kind.name(), "count": a.count, "sha256": sha256(&encoded(a)),
        }),
        MetaValue::Null => panic!("GGUF has no null"),
    }
}

/// The items of an array, decoded one at a time and written again.
fn encoded(array: &MetaArray) -> Vec<u8> {
    let mut out = Vec::new();
    for item in array.items() {
        match item {
            MetaValue::Array(a) => {
                out.extend(a.kind.id().to_le_bytes());
                out.extend(a.count.to_le_bytes());
                out.extend(encoded(&a));
            }
            other => {
                let hex = meta_golden(&other)["hex"].as_str().unwrap().to_string();
                out.extend(
                    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()),
                );
            }
        }
    }
    assert_eq!(array.items().count() as u64, array.count);
    out
}

#[test]
fn reads_what_the_python_package_reads() {
    let goldens = goldens("gguf");
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(testdata("golden/gguf.json")).unwrap()).unwrap();
    let paths = files("gguf", "gguf");
    assert_eq!(paths.len(), goldens.len(), "each file has its golden");
    let mut wrong = Vec::new();
    for path in paths {
        let file = format!("gguf/{}", name(&path));
        let bytes = std::fs::read(&path).unwrap();
        let part = whole(&bytes).unwrap_or_else(|e| panic!("{file}: {e}"));
        let facts = &json["files"][&file];

        let golden = &goldens[&file];
        if golden.len() != part.tensors.len() {
            wrong.push(format!("{file}: {} tensors, not {}", part.tensors.len(), golden.len()));
        }
        for t in &part.tensors {
            let got = crate::naive::Golden {
                dtype: t.dtype.name().into(),
                shape: t.shape.clone(),
                sha256: sha256(&materialise(&bytes, t)),
            };
            if golden.get(&t.name) != Some(&got) {
                wrong.push(format!("{file}: {}: {got:?}, expected {:?}", t.name, golden.get(&t.name)));
            }
        }

        let first = part.tensors.iter().map(|t| t.at.span.offset_bytes).min();
        if first.is_some_and(|first| facts["data_offset"].as_u64() != Some(first)) {
            wrong.push(format!("{file}: data begin at {first:?}, expected {}", facts["data_offset"]));
        }

        let metas = facts["meta"].as_object().unwrap();
        let keys: Vec<&String> = part.meta.iter().map(|(k, _)| k).collect();
        if keys != metas.keys().collect::<Vec<_>>() {
            wrong.push(format!("{file}: keys {keys:?}"));
        }
        for (key, value) in &part.meta {
            let got = meta_golden(value);
            if metas.get(key) != Some(&got) {
                wrong.push(format!("{file}: {key}: {got}, expected {:?}", metas.get(key)));
            }
        }

        let mut table = Checkpoint::default();
        let file = FileRef { name: file, size_bytes: bytes.len() as u64, container: Container::Gguf };
        table.add(file, part).unwrap();
        table.check_names().unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn versions_and_byte_orders_mean_the_same() {
    let read = |file: &str| {
        let bytes = std::fs::read(testdata("gguf").join(file)).unwrap();
        let part = whole(&bytes).unwrap();
        let data: Vec<_> = part
            .tensors
            .iter()
            .map(|t| (t.name.clone(), t.dtype, t.shape.clone(), materialise(&bytes, t)))
            .collect();
        (format!("{:?}", part.meta), data)
    };
    for (a, b) in [
        ("v1.gguf", "v1-be.gguf"),
        ("v1.gguf", "empty-arrays.gguf"),
        ("v2.gguf", "v3.gguf"),
        ("v2.gguf", "v2-be.gguf"),
        ("v2.gguf", "v3-be.gguf"),
        ("kinds.gguf", "kinds-be.gguf"),
        ("nested.gguf", "nested-be.gguf"),
        ("nested.gguf", "nested-v1.gguf"),
    ] {
        assert_eq!(read(a), read(b), "{a} and {b}");
    }
    let big = whole(&std::fs::read(testdata("gguf/v3-be.gguf")).unwrap()).unwrap();
    assert!(big.tensors.iter().all(|t| t.at.order == ByteOrder::Big));
    // Single bytes have no order.
    let types = whole(&std::fs::read(testdata("gguf/types-be.gguf")).unwrap()).unwrap();
    let plain = types.tensors.iter().filter(|t| t.at.is_plain()).map(|t| t.dtype.name());
    assert_eq!(plain.collect::<Vec<_>>(), ["i8", "mxfp4", "nvfp4"]);
}

#[test]
fn items_of_arrays() {
    let part = whole(&std::fs::read(testdata("gguf/nested.gguf")).unwrap()).unwrap();
    let array = |key: &str| part.meta.iter().find(|(k, _)| k == key).unwrap().1.as_array().unwrap();
    let rows: Vec<MetaValue> = array("rows").items().collect();
    let inner: Vec<Vec<MetaValue>> = rows.iter().map(|r| r.as_array().unwrap().items().collect()).collect();
    assert_eq!(inner[0], [MetaValue::I32(1), MetaValue::I32(-2)]);
    assert_eq!(inner[1], [MetaValue::Text(b"x"[..].into()), MetaValue::Text(b"yz"[..].into())]);
    assert_eq!(inner[2], []);
    assert!(array("rows").texts().is_none());
    let texts: Vec<&[u8]> = rows[1].as_array().unwrap().texts().unwrap().collect();
    assert_eq!(texts, [&b"x"[..], b"yz"]);

    // Put together by hand, and wrongly: fewer items, no panic.
    let wrong = |kind, count, bytes: &[u8]| MetaArray { kind, count, bytes: bytes.into() }.items().count();
    let length = u64::MAX.to_le_bytes();
    assert_eq!(wrong(MetaKind::U32, u64::MAX, &[0; 9]), 2);
    assert_eq!(wrong(MetaKind::Text, 3, &[&[0; 8][..], &length].concat()), 1);
    assert_eq!(wrong(MetaKind::Array, 2, &[&12u32.to_le_bytes()[..], &length].concat()), 0);
    let deep: Vec<u8> =
        (0..1000).flat_map(|_| [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat()).collect();
    assert_eq!(wrong(MetaKind::Array, 1, &deep), 0);
}

#[test]
fn bytes_may_come_in_any_steps() {
    for path in files("gguf", "gguf") {
        let bytes = std::fs::read(&path).unwrap();
        let expected = shown(&whole(&bytes).unwrap());
        let steps: &[u64] = if bytes.len() < 3000 { &[1, 7, 64, u64::MAX] } else { &[97, 1024] };
        for &step in steps {
            let (part, _) = drive(&bytes, 0, step);
            assert_eq!(shown(&part.unwrap()), expected, "{} in steps of {step}", name(&path));
        }
    }
}

#[test]
fn says_what_it_accepted() {
    for (file, said) in [
        ("v1.gguf", Some("GGUF version 1")),
        ("v3-be.gguf", Some("big endian")),
        ("unordered.gguf", Some("another order")),
        ("no-padding.gguf", Some("the last tensor's padding is missing")),
        ("long-name.gguf", Some("names of 64 bytes or more: 1;")),
        ("nul-names.gguf", Some("names that end with NULs, which are left out: 2")),
        ("nested.gguf", Some("`rows` holds arrays inside an array")),
        ("v3.gguf", None),
        ("bare.gguf", None),
        ("empty.gguf", None),
        ("zero-size.gguf", None),
        ("types.gguf", None),
    ] {
        let notes = whole(&std::fs::read(testdata("gguf").join(file)).unwrap()).unwrap().notes;
        match said {
            Some(said) => assert!(notes.len() == 1 && notes[0].contains(said), "{file}: {notes:?}"),
            None => assert!(notes.is_empty(), "{file}: {notes:?}"),
        }
    }
}

#[test]
fn split_files_know_each_other() {
    let mut total = 0;
    for index in 0..3 {
        let file = split_name("split", index, 3);
        let part = whole(&std::fs::read(testdata("gguf").join(&file)).unwrap()).unwrap();
        assert_eq!(Split::of(&part.meta).unwrap(), Some(Split { index, count: 3, tensors_count: 4 }));
        assert_eq!(parse_split_name(&file).map(|s| (s.index, s.count)), Some((index, 3)));
        assert_eq!(part.tensors.is_empty(), index == 0);
        total += part.tensors.len();
    }
    assert_eq!(total, 4);
    let part = whole(&std::fs::read(testdata("gguf/v3.gguf")).unwrap()).unwrap();
    assert_eq!(Split::of(&part.meta).unwrap(), None);
}

/// A file put together by hand.
#[derive(Default)]
struct Built {
    keys: Vec<u8>,
    key_count: u64,
    infos: Vec<u8>,
    info_count: u64,
    data: Vec<u8>,
}

impl Built {
    fn text(out: &mut Vec<u8>, text: &str) {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    }

    fn texts(&mut self, key: &str, count: u64) {
        Self::text(&mut self.keys, key);
        self.keys.extend(MetaKind::Array.id().to_le_bytes());
        self.keys.extend(MetaKind::Text.id().to_le_bytes());
        self.keys.extend(count.to_le_bytes());
        (0..count).for_each(|i| Self::text(&mut self.keys, &format!("token {i}")));
        self.key_count += 1;
    }

    fn info(&mut self, name: &str, dims: &[u64], id: u32, offset_bytes: u64) {
        Self::text(&mut self.infos, name);
        self.infos.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|d| self.infos.extend(d.to_le_bytes()));
        self.infos.extend(id.to_le_bytes());
        self.infos.extend(offset_bytes.to_le_bytes());
        self.info_count += 1;
    }

    fn tensor(&mut self, name: &str, dims: &[u64], id: u32, data: &[u8]) {
        self.info(name, dims, id, self.data.len() as u64);
        self.data.extend(data);
        self.data.resize(self.data.len().next_multiple_of(32), 0);
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend(self.info_count.to_le_bytes());
        out.extend(self.key_count.to_le_bytes());
        out.extend(&self.keys);
        out.extend(&self.infos);
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&self.data);
        out
    }
}

#[test]
fn work_grows_with_the_header() {
    let cost = |tensors: u64| {
        let mut file = Built::default();
        file.texts("tokenizer.ggml.tokens", tensors);
        (0..tensors).for_each(|i| file.tensor(&format!("blk.{i}.ffn_gate_exps.weight"), &[0, 1], 0, &[]));
        let bytes = file.bytes();
        let (part, cost) = drive(&bytes, 0, u64::MAX);
        assert_eq!(part.unwrap().tensors.len() as u64, tensors);
        (bytes.len() as u64, cost)
    };
    let ((small_bytes, small), (large_bytes, large)) = (cost(100_000), cost(200_000));
    assert!(small_bytes > 8 << 20 && large_bytes > small_bytes * 19 / 10);
    // Each round but the last sees twice what the one before saw: all together less than three times the header.
    for (size_bytes, cost) in [(small_bytes, small), (large_bytes, large)] {
        assert!(cost.asked_bytes <= size_bytes, "{cost:?} for {size_bytes}");
        assert!(cost.seen_bytes <= 3 * size_bytes, "{cost:?} for {size_bytes}");
    }
    assert!(large.rounds <= small.rounds + 1 && large.seen_bytes <= small.seen_bytes * 5 / 2);
}

#[test]
fn offsets_beyond_4_gib() {
    let (gib, mut file) = (1u64 << 30, Built::default());
    file.info("big", &[1024, 5 * gib / 1024], 30, 0);
    file.info("next", &[32], 0, 10 * gib);
    file.info("last", &[256, 16 * gib], 12, 10 * gib + 128);
    let head = file.bytes();
    let data_bytes = 10 * gib + 128 + 144 * 16 * gib;
    let (part, cost) = drive(&head, data_bytes, u64::MAX);
    let (part, start) = (part.unwrap(), head.len() as u64);
    let spans = part.tensors.iter().map(|t| (t.at.span.offset_bytes - start, t.size_bytes()));
    let expected = [(0, 10 * gib), (10 * gib, 128), (10 * gib + 128, 144 * 16 * gib)];
    assert_eq!(spans.collect::<Vec<_>>(), expected);
    assert!(cost.asked_bytes <= 1 << 20);
    let (cut, _) = drive(&head, data_bytes - 1, u64::MAX);
    assert!(cut.unwrap_err().to_string().starts_with("tensor `last` ends at byte 2,484,"));
}

#[test]
fn a_header_asks_for_no_more_than_its_limit() {
    // A string of 255 MiB is within the limit, one of 300 is not, though the file is long enough for either.
    for (size_bytes, expected) in [(300u64 << 20, 9), (HEADER_BYTES_MAX, 9), (2 << 40, 1)] {
        let mut head = b"GGUF\x03\0\0\0".to_vec();
        head.extend([0u64.to_le_bytes(), 1u64.to_le_bytes(), 1u64.to_le_bytes()].concat());
        head.extend(b"k\x08\0\0\0");
        head.extend(size_bytes.to_le_bytes());
        let (part, cost) = drive(&head, 1 << 40, u64::MAX);
        assert_eq!(part.unwrap_err().kind().exit_code(), expected);
        assert!(cost.asked_bytes <= 1 << 20);
    }
}

#[test]
fn hostile_files_are_refused() {
    let mut wrong = Vec::new();
    let paths = files("hostile/gguf", "gguf");
    assert!(paths.len() >= 80);
    for path in paths {
        let bytes = std::fs::read(&path).unwrap();
        let expected = std::fs::read_to_string(path.with_extension("txt")).unwrap();
        let (code, message) = expected.trim_end().split_once('\n').unwrap();
        assert!(!message.is_empty());
        for step in [u64::MAX, 5] {
            let (part, cost) = drive(&bytes, 0, step);
            let name = name(&path);
            match part {
                Ok(part) => wrong.push(format!("{name}: accepted: {part:?}")),
                Err(e) => {
                    let got = (e.kind().exit_code().to_string(), e.to_string());
                    if got.0 != code || !got.1.contains(message) {
                        wrong.push(format!("{name}: {}: {}\n    expected {code}: {message}", got.0, got.1));
                    }
                }
            }
            assert!(step != u64::MAX || cost.asked_bytes <= bytes.len() as u64);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// xorshift64*: one seed, one replay.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % below.max(1) as u64) as usize
    }
}

/// Bits flipped, bytes cut, lengths that lie: an error or a table that holds together, never a panic.
#[test]
fn mutated_files_do_not_crash() {
    const LIES: [u64; 10] = [0, 1, 31, 64, 255, 1 << 31, 1 << 32, 1 << 60, i64::MAX as u64, u64::MAX];
    let seeds: Vec<Vec<u8>> =
        files("gguf", "gguf").iter().map(|p| std::fs::read(p).unwrap()).filter(|b| b.len() < 3000).collect();
    let mut dice = Dice(0x5eed);
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..6000 {
        let mut bytes = seeds[dice.roll(seeds.len())].clone();
        for _ in 0..=dice.roll(3) {
            let at = dice.roll(bytes.len());
            match dice.roll(4) {
                0 => bytes[at] ^= 1 << dice.roll(8),
                1 => bytes.truncate(at.max(1)),
                2 => {
                    let lie = LIES[dice.roll(LIES.len())].to_le_bytes();
                    let width = [4, 8][dice.roll(2)];
                    let end = (at + width).min(bytes.len());
                    bytes[at..end].copy_from_slice(&lie[..end - at]);
                }
                _ => {
                    let piece: Vec<u8> = bytes[at..(at + 16).min(bytes.len())].to_vec();
                    let to = dice.roll(bytes.len());
                    bytes.splice(to..to, piece);
                }
            }
        }
        // Sizes near the end of what a u64 holds overflow nothing.
        let mut endless = Known::of_size(u64::MAX);
        endless.add(0, bytes.clone());
        let _ = parse(&endless);
        match whole(&bytes) {
            Err(e) => {
                assert!([1, 9].contains(&e.kind().exit_code()), "round {round}: {e}");
                refused += 1;
            }
            Ok(part) => {
                for t in &part.tensors {
                    t.check(bytes.len() as u64).unwrap_or_else(|e| panic!("round {round}: {e}"));
                    materialise(&bytes, t);
                }
                for (_, value) in &part.meta {
                    if let MetaValue::Array(a) = value {
                        assert_eq!(a.items().count() as u64, a.count, "round {round}");
                    }
                }
                accepted += 1;
            }
        }
    }
    assert!(accepted > 500 && refused > 2000, "{accepted} accepted, {refused} refused");
}
