//! The safetensors reader against the reference: what Python's package read from the same files, and the crate on the
//! same bytes, whole and mutated.

use crate::hostile::Seeded;
use crate::naive::{goldens, materialise, sha256, testdata};
use hoist::checkpoint::{MetaValue, Part};
use hoist::format::{self, Known, Step};
use std::collections::BTreeMap;

fn parse(bytes: &[u8]) -> hoist::Result<Part> {
    match format::safetensors::parse(&Known::whole(bytes))? {
        Step::Done(part) => Ok(part),
        Step::Need(ranges) => panic!("all is known, and it asks for {ranges:?}"),
    }
}

fn valid() -> Vec<(String, Vec<u8>)> {
    let files = goldens("safetensors").into_keys();
    files.map(|name| (name.clone(), std::fs::read(testdata(&name)).unwrap())).collect()
}

#[test]
fn reads_what_the_reference_reads() {
    for (name, golden) in goldens("safetensors") {
        let bytes = std::fs::read(testdata(&name)).unwrap();
        let Ok(Step::Done(part)) = format::parse(&Known::whole(&bytes)) else { panic!("{name}") };
        assert_eq!(part.tensors.len(), golden.len(), "{name}");
        for tensor in &part.tensors {
            let said = &golden[&tensor.name];
            assert_eq!(
                (tensor.dtype.name(), &tensor.shape),
                (said.dtype.as_str(), &said.shape),
                "{name}: {}",
                tensor.name
            );
            assert_eq!(sha256(&materialise(&bytes, tensor)), said.sha256, "{name}: {}", tensor.name);
            tensor.check(bytes.len() as u64).unwrap();
        }
    }
}

#[test]
fn every_dtype_of_the_format_is_in_a_fixture() {
    let read: std::collections::BTreeSet<_> =
        goldens("safetensors").into_values().flat_map(BTreeMap::into_values).map(|g| g.dtype).collect();
    for dtype in hoist::dtype::DType::ALL.iter().filter(|d| d.facts().safetensors.is_some()) {
        assert!(read.contains(dtype.name()), "{dtype}");
    }
}

#[test]
fn one_byte_at_a_time_gives_the_same() {
    for (name, bytes) in valid() {
        let whole = parse(&bytes).unwrap();
        let mut known = Known::of_size(bytes.len() as u64);
        let part = loop {
            match format::parse(&known).unwrap_or_else(|e| panic!("{name}: {e}")) {
                Step::Done(part) => break part,
                Step::Need(ranges) => {
                    let start = ranges[0].start;
                    assert!(
                        start < ranges[0].end && ranges[0].end <= bytes.len() as u64,
                        "{name}: {ranges:?}"
                    );
                    known.add(start, vec![bytes[start as usize]]);
                }
            }
        };
        assert_eq!((part.tensors, part.meta, part.notes), (whole.tensors, whole.meta, whole.notes), "{name}");
    }
}

#[test]
fn tensors_and_metadata_keep_the_headers_order() {
    let read = |name: &str| {
        parse(&std::fs::read(testdata(&format!("safetensors/{name}.safetensors"))).unwrap()).unwrap()
    };
    let names = |part: &Part| part.tensors.iter().map(|t| t.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&read("order")), ["third", "first", "nothing", "second"]);
    let meta = read("metadata_only").meta;
    let text = |s: &str| MetaValue::Text(s.as_bytes().into());
    assert_eq!(
        meta,
        [("format", "pt"), ("a", "1"), ("z", "ü\n"), ("", "empty key")]
            .map(|(k, v)| (k.to_string(), text(v)))
    );
    assert_eq!(names(&read("escaped_names")), ["a🦀/"]);
}

#[test]
fn oddities_are_noted() {
    for (name, notes) in [
        (
            "leading_space",
            &["its header begins with whitespace, which the format forbids and readers accept"][..],
        ),
        (
            "unknown_fields",
            &["tensor `a` has a field `strides` that the format does not know, and 2 more like it; ignored"],
        ),
        ("all_dtypes", &[]),
    ] {
        let bytes = std::fs::read(testdata(&format!("safetensors/{name}.safetensors"))).unwrap();
        assert_eq!(parse(&bytes).unwrap().notes, notes, "{name}");
    }
}

/// What the crate makes of the bytes: name → dtype, shape, offsets.
type Facts = BTreeMap<String, (String, Vec<u64>, (u64, u64))>;

fn reference(bytes: &[u8]) -> Option<Facts> {
    let (length, metadata) = safetensors::SafeTensors::read_metadata(bytes).ok()?;
    let data_start = 8 + length as u64;
    let facts = metadata.tensors().into_iter().map(|(name, info)| {
        let shape = info.shape.iter().map(|&d| d as u64).collect();
        let offsets = (data_start + info.data_offsets.0 as u64, data_start + info.data_offsets.1 as u64);
        (name, (info.dtype.to_string(), shape, offsets))
    });
    Some(facts.collect())
}

fn ours(part: &Part) -> Facts {
    let facts = part.tensors.iter().map(|t| {
        let dtype = t.dtype.facts().safetensors.unwrap().to_string();
        (t.name.clone(), (dtype, t.shape.clone(), (t.at.span.offset_bytes, t.at.span.end_bytes())))
    });
    facts.collect()
}

/// Where we refuse what the crate accepts, by what we say.
const STRICTER: &[&str] = &[
    "is there twice in the header",
    "twice in `__metadata__`",
    "nest more than 64 deep",
    // serde's derived readers take an array for a struct and a map for an enum.
    "invalid type: sequence, expected an object with",
    "invalid type: map, expected a string",
];

/// Compares the two; returns whether both accept.
fn compare(what: &str, bytes: &[u8]) -> bool {
    match (parse(bytes), reference(bytes)) {
        (Ok(part), Some(facts)) => {
            assert_eq!(ours(&part), facts, "{what}");
            true
        }
        (Err(_), None) => false,
        (Err(e), Some(_)) => {
            let e = e.to_string();
            assert!(STRICTER.iter().any(|s| e.contains(s)), "{what}: the reference accepts it, we say: {e}");
            false
        }
        (Ok(_), None) => {
            panic!(
                "{what}: the reference refuses it: {:?}",
                safetensors::SafeTensors::read_metadata(bytes).err()
            )
        }
    }
}

#[test]
fn agrees_with_the_crate_on_fixtures() {
    for (name, bytes) in valid() {
        assert!(compare(&name, &bytes), "{name}");
    }
    for entry in std::fs::read_dir(testdata("hostile/safetensors")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|x| x == "safetensors") {
            let bytes = std::fs::read(&path).unwrap();
            assert!(!compare(&path.display().to_string(), &bytes), "{path:?} is accepted");
        }
    }
}

/// Text that a hostile writer would put into a header.
const SPLICES: &[&str] = &[
    "0",
    "1",
    "8",
    "-1",
    "1.0",
    "1e3",
    "18446744073709551615",
    "18446744073709551616",
    "null",
    "true",
    "\"\"",
    "\"F32\"",
    "\"F4\"",
    "\"BOOL\"",
    "[]",
    "{}",
    "[0]",
    "[0,0]",
    "[[0]]",
    ",",
    ":",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\",
    "\\u0041",
    "\\ud800",
    " ",
    "\n",
    "\u{feff}",
    "\0",
    "\"a\":",
    "\"dtype\":\"U8\",",
    "\"shape\":[0],",
    "\"data_offsets\":[0,0],",
    "\"__metadata__\":{},",
    "\"__metadata__\":{\"a\":\"b\"},",
    "\"x\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},",
    "\u{1f980}",
];

#[test]
fn agrees_with_the_crate_on_mutated_headers() {
    let mut random = Seeded::new(1);
    let files = valid();
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..20_000 {
        let (name, bytes) = &files[random.below(files.len())];
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header = bytes[8..8 + length].to_vec();
        for _ in 0..=random.below(3) {
            let at = random.below(header.len() + 1);
            match random.below(5) {
                0 => header.splice(at..at, random.pick(SPLICES).bytes()).for_each(drop),
                1 => {
                    let end = (at + 1 + random.below(8)).min(header.len());
                    header.splice(at..end, random.pick(SPLICES).bytes()).for_each(drop);
                }
                2 if at < header.len() => {
                    header.remove(at);
                }
                3 if at < header.len() && header[at].is_ascii_digit() => {
                    header[at] = b'0' + random.below(10) as u8
                }
                _ if at < header.len() => header[at] = random.below(256) as u8,
                _ => {}
            }
        }
        let mut mutated = (header.len() as u64).to_le_bytes().to_vec();
        mutated.extend(&header);
        mutated.extend(&bytes[8 + length..]);
        match compare(&format!("round {round} of {name}: {}", String::from_utf8_lossy(&header)), &mutated) {
            true => accepted += 1,
            false => refused += 1,
        }
    }
    // Both sides must be met often, or the comparison shows nothing.
    assert!(accepted > 500 && refused > 5_000, "{accepted} accepted, {refused} refused");
}

#[test]
fn a_header_of_many_tensors_is_read_and_its_duplicate_found() {
    let entry = |n: usize| {
        format!(
            "\"model.layers.{n}.weight\":{{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[{n},{}]}}",
            n + 1
        )
    };
    let file = |entries: Vec<String>, size: usize| {
        let header = format!("{{{}}}", entries.join(","));
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.bytes());
        bytes.resize(bytes.len() + size, 0);
        bytes
    };
    let count = 100_000;
    let mut entries: Vec<String> = (0..count).map(entry).collect();
    assert_eq!(parse(&file(entries.clone(), count)).unwrap().tensors.len(), count);
    entries.push(entry(0));
    assert!(
        parse(&file(entries, count))
            .unwrap_err()
            .to_string()
            .contains("`model.layers.0.weight` is there twice")
    );
}
