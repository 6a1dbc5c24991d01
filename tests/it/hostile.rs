//! Hostile files: each fixture ends with the exit code and the message that stand beside it, and no mutation of a valid
//! file makes a parser panic, ask without end or hold more than it may.
//!
//! `testdata/hostile/ROOM/NAME` (or `NAME.EXTENSION`) is opened as a user would; `NAME.txt` holds the exit code in its first
//! line and in each further line a part of the message (for code 0: of what was read and of the notes).

use crate::naive::testdata;
use hoist::format::{self, HEADER_BYTES_MAX, Known, Step};
use hoist::open::{Model, Options, open};
use std::path::{Path, PathBuf};

/// Random numbers from a seed (splitmix64): one seed, one replay.
pub struct Seeded(u64);

impl Seeded {
    pub fn new(seed: u64) -> Seeded {
        Seeded(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

fn files_under(directory: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    let mut paths: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        match path.is_dir() {
            true => files_under(&path, found),
            false => found.push(path),
        }
    }
}

/// The file or directory that an expectation stands beside: `NAME` or, where there is none, the one `NAME.EXTENSION`.
fn subject(expectation: &Path, names: &[PathBuf]) -> PathBuf {
    let exact = expectation.with_extension("");
    let same_stem = |p: &&PathBuf| p.extension().is_some_and(|x| x != "txt") && p.with_extension("") == exact;
    match names.contains(&exact) {
        true => exact,
        false => {
            names.iter().find(same_stem).unwrap_or_else(|| panic!("{expectation:?} stands alone")).clone()
        }
    }
}

/// Fixtures whose expectation is the parser's, which is not asked: detection does not take them for its format.
const DETECTION_REFUSES: &[&str] = &["torch/legacy-cut-magic.bin"];

/// What was read: the tensors, what stands beside them, the notes.
fn shown(model: &Model) -> String {
    let meta: Vec<_> = model.table.meta.entries.iter().map(|(key, value, _)| (key, value)).collect();
    format!("{:?}\n{meta:?}\n{}", model.table.tensors, model.table.notes.join("\n"))
}

#[test]
fn each_fixture_ends_as_it_says() {
    let mut failures = Vec::new();
    let mut count = 0;
    for room in std::fs::read_dir(testdata("hostile")).unwrap() {
        let mut names: Vec<PathBuf> =
            std::fs::read_dir(room.unwrap().path()).unwrap().map(|e| e.unwrap().path()).collect();
        names.sort();
        let (texts, mut fixtures): (Vec<PathBuf>, Vec<PathBuf>) =
            names.into_iter().partition(|p| p.extension().is_some_and(|x| x == "txt"));
        let all = fixtures.clone();
        for text in &texts {
            let model = subject(text, &all);
            fixtures.retain(|fixture| *fixture != model);
            let expected = std::fs::read_to_string(text).unwrap();
            let (code, said) = expected.trim_end().split_once('\n').unwrap_or_else(|| panic!("{text:?}"));
            let code: u8 = code.parse().unwrap();
            let (got, text) = match open(model.to_str().unwrap(), &Options::default()) {
                Ok(model) => (0, shown(&model)),
                Err(e) => (e.kind().exit_code(), e.to_string()),
            };
            count += 1;
            if DETECTION_REFUSES.iter().any(|name| model.ends_with(name)) {
                if got == 0 {
                    failures.push(format!("{} is accepted", model.display()));
                }
                continue;
            }
            if got != code || !said.lines().all(|line| text.contains(line)) {
                failures.push(format!("{}: expected {code} {said:?}\n  got {got} {text:?}", model.display()));
            }
            let odd = text.chars().any(|c| c.is_control() && c != '\n')
                || text.contains(".\n")
                || text.ends_with('.');
            if got != 0 && odd {
                failures.push(format!("{}: not a message for a person: {text:?}", model.display()));
            }
        }
        failures.extend(fixtures.iter().map(|f| format!("{} has no expectation beside it", f.display())));
    }
    assert!(failures.is_empty(), "{} of {count} fixtures:\n{}", failures.len(), failures.join("\n"));
    assert!(count > 100, "only {count} fixtures were found");
}

/// Drives a parser as `open` does; returns whether it accepted. Panics where it goes in circles or asks for what cannot be
/// had.
fn drive(what: &str, bytes: &[u8]) -> bool {
    let mut known = Known::of_size(bytes.len() as u64);
    known.add(0, bytes[..bytes.len().min(64)].to_vec());
    for _ in 0..64 {
        match format::parse(&known) {
            Err(e) => {
                assert!(!e.to_string().is_empty());
                return false;
            }
            Ok(Step::Done(part)) => {
                // What a parser accepts, the table must be able to take or refuse, too.
                part.tensors.iter().for_each(|t| drop(t.check(bytes.len() as u64)));
                return true;
            }
            Ok(Step::Need(ranges)) => {
                assert!(!ranges.is_empty(), "{what}: needs nothing and is not done");
                for range in ranges {
                    assert!(
                        range.start < range.end && range.end <= bytes.len() as u64,
                        "{what}: asks for {range:?}"
                    );
                    assert!(range.end - range.start <= HEADER_BYTES_MAX, "{what}: asks for {range:?}");
                    assert!(known.get(range.clone()).is_none(), "{what}: asks again for {range:?}");
                    known.add(range.start, bytes[range.start as usize..range.end as usize].to_vec());
                }
            }
        }
    }
    panic!("{what}: not done after 64 rounds");
}

#[test]
fn mutations_of_valid_files_end_in_a_result() {
    let mut files = Vec::new();
    for room in ["safetensors", "torch", "gguf"] {
        files_under(&testdata(room), &mut files);
    }
    let mut random = Seeded::new(2);
    let mut accepted = 0;
    for path in &files {
        let original = std::fs::read(path).unwrap();
        let accepts = drive(&path.display().to_string(), &original);
        for round in 0..400 {
            let mut bytes = original.clone();
            for _ in 0..=random.below(4) {
                // The structure lies at the ends: headers at the start, a zip's directory at the end.
                let from = match random.below(3) {
                    0 => random.below(bytes.len()),
                    1 => random.below(bytes.len().min(200)),
                    _ => bytes.len().saturating_sub(1 + random.below(200)),
                };
                let Some(byte) = bytes.get_mut(from) else { continue };
                match random.below(6) {
                    0 => *byte = random.next() as u8,
                    1 => *byte ^= 1 << random.below(8),
                    2 => *byte = *random.pick(&[0, 1, 0x7f, 0x80, 0xff]),
                    3 => bytes.truncate(from),
                    4 => {
                        let end = (from + 1 + random.below(16)).min(bytes.len());
                        bytes.drain(from..end);
                    }
                    _ => {
                        let lie = random
                            .pick(&[u64::MAX, u64::MAX >> 1, 1 << 32, (1 << 31) - 1, 0, 1 << 40])
                            .to_le_bytes();
                        let end = (from + 8).min(bytes.len());
                        bytes[from..end].copy_from_slice(&lie[..end - from]);
                    }
                }
            }
            accepted += usize::from(drive(&format!("{} round {round}", path.display()), &bytes));
        }
        accepted += usize::from(accepts);
    }
    assert!(accepted > 0, "nothing valid was found in {} files", files.len());
}

fn pickled_text(s: &[u8]) -> Vec<u8> {
    [b"X", &(s.len() as u32).to_le_bytes()[..], s].concat()
}

/// The old stream around an object's pickle; `waste` are opcodes put into its pickle of keys.
fn legacy(object: &[u8], waste: &[u8]) -> Vec<u8> {
    let head = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.";
    let system = [b"\x80\x02}", &pickled_text(b"little_endian")[..], b"\x88s."].concat();
    let keys = [b"\x80\x02", waste, b"]", &pickled_text(b"0"), b"a."].concat();
    [head, &system[..], object, &keys, &6u64.to_le_bytes(), &[0; 24]].concat()
}

/// A dict of one tensor `w` of six numbers, in storage `0`.
fn pickled_weights() -> Vec<u8> {
    let (storage, key, place) = (pickled_text(b"storage"), pickled_text(b"0"), pickled_text(b"cpu"));
    let storage = [b"(", &storage[..], b"ctorch\nFloatStorage\n", &key, &place, b"K\x06NtQ"].concat();
    let view = b"K\0K\x06\x85K\x01\x85\x89}tR";
    let tensor = [b"ctorch._utils\n_rebuild_tensor_v2\n(", &storage[..], view].concat();
    [b"}", &pickled_text(b"w")[..], &tensor, b"s"].concat()
}

/// A pickle's text may be the key of many dicts inside one another, two bytes each: what is kept of it is bounded by the
/// room for metadata, not by levels times its length.
#[test]
fn one_long_key_on_many_levels_is_kept_within_bounds() {
    const LEVELS: usize = 60;
    const KEY_BYTES: usize = 1 << 20;
    let mut object = [b"\x80\x02", &pickled_text(&vec![b'k'; KEY_BYTES])[..], b"q\x000"].concat();
    for _ in 0..LEVELS {
        object.extend([b"}h\0K\x01s", &pickled_text(b"model")[..]].concat());
    }
    object.extend([&pickled_weights()[..], &b"s".repeat(LEVELS), b"."].concat());
    match format::parse(&Known::whole(&legacy(&object, b""))) {
        Ok(Step::Done(part)) => {
            assert_eq!(part.tensors.len(), 1);
            let kept: usize = part.meta.iter().map(|(key, _)| key.len()).sum();
            assert!((KEY_BYTES..=16 << 20).contains(&kept), "{kept} bytes of keys are kept");
            assert!(part.notes.iter().any(|note| note.contains("skipped")), "{:?}", part.notes);
        }
        other => panic!("{:?}", other.map(|_| "needs more")),
    }
}

/// The two pickles of the old stream that stay in memory together share one budget.
#[test]
fn the_pickles_of_the_old_stream_share_a_budget() {
    // An empty list, dropped: more than 40 bytes of values each.
    let waste = b"]0".repeat(3_500_000);
    let plain = [b"\x80\x02", &pickled_weights()[..], b"."].concat();
    let wasteful = [b"\x80\x02", &waste[..], &pickled_weights(), b"."].concat();
    for (object, waste, expected) in [
        (&plain, &waste[..], None),
        (&wasteful, b"", None),
        (&wasteful, &waste, Some("builds more values than fit 268,435,456 bytes")),
    ] {
        let got = format::parse(&Known::whole(&legacy(object, waste))).map(|_| ()).map_err(|e| e.to_string());
        match expected {
            None => assert_eq!(got, Ok(())),
            Some(words) => assert!(got.as_ref().is_err_and(|e| e.contains(words)), "{got:?}"),
        }
    }
}

/// Counts that the file has room for and no model has, refused before anything is read for them.
#[test]
fn gguf_of_countless_keys_or_tensors_is_refused_early() {
    for (tensor_count, key_count, expected) in [
        (0u64, (1u64 << 16) + 1, "the header says 65,537 keys; hoist reads up to 65,536"),
        ((1 << 20) + 1, 0, "the header says 1,048,577 tensors; hoist reads up to 1,048,576"),
    ] {
        let mut known = Known::of_size(8 << 30);
        let counts = [tensor_count.to_le_bytes(), key_count.to_le_bytes()].concat();
        known.add(0, [&b"GGUF\x03\0\0\0"[..], &counts, &[0; 1024]].concat());
        let error = format::parse(&known).expect_err(expected);
        assert_eq!(error.kind().exit_code(), 9, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}
