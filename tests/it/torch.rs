//! PyTorch files: what torch wrote is read as torch reads it, from whole files and from ranges; what is hostile is
//! refused with its message.

use crate::naive::{goldens, materialise, sha256, testdata};
use hoist::checkpoint::{ByteOrder, Container, MetaValue, Part, Tensor};
use hoist::dtype::DType;
use hoist::format::{HEADER_BYTES_MAX, Known, Step, torch};
use hoist::{Error, Result};
use std::collections::BTreeMap;
use std::io::Cursor;
use std::ops::Range;

#[test]
fn the_old_stream_is_known_by_its_head() {
    for (name, expected) in
        [("torch/plain-legacy.pt", true), ("torch/plain-legacy-p4.pt", true), ("torch/plain-p2.pt", false)]
    {
        let file = read(name);
        assert_eq!(torch::begins_legacy(&file[..torch::LEGACY_HEAD_BYTES]), expected, "{name}");
        (0..14).for_each(|size| assert!(!torch::begins_legacy(&file[..size])));
    }
}

fn parse(known: &Known, file: &[u8]) -> Result<Step<Part>> {
    if file.starts_with(b"PK") { torch::parse_zip(known) } else { torch::parse_legacy(known) }
}

/// How a driver answers a wish: gives all of it, all but the last byte, or one byte.
#[derive(Debug, Clone, Copy)]
enum Answer {
    All,
    AllButOne,
    One,
}

/// Parses with only what was asked for. What is known is joined by hand, so that the answers may be as odd as they like.
fn drive(file: &[u8], answer: Answer) -> Result<(Part, usize)> {
    let mut have = vec![false; file.len()];
    for round in 0.. {
        assert!(round < 2 * file.len() + 20, "no end of rounds");
        let mut known = Known::of_size(file.len() as u64);
        let mut at = 0;
        while at < file.len() {
            let end = (at..file.len()).find(|&i| have[i] != have[at]).unwrap_or(file.len());
            if have[at] {
                known.add(at as u64, file[at..end].to_vec());
            }
            at = end;
        }
        let ranges = match parse(&known, file)? {
            Step::Done(part) => return Ok((part, round)),
            Step::Need(ranges) => ranges,
        };
        check_wishes(&ranges, file.len() as u64);
        let mut new = 0;
        for range in ranges {
            let missing: Vec<usize> =
                (range.start as usize..range.end as usize).filter(|&i| !have[i]).collect();
            let count = match answer {
                Answer::All => missing.len(),
                Answer::AllButOne => missing.len().saturating_sub(1).max(1).min(missing.len()),
                Answer::One => missing.len().min(1),
            };
            missing.iter().take(count).for_each(|&i| have[i] = true);
            new += count;
        }
        assert!(new > 0, "asked only for what is known");
    }
    unreachable!()
}

fn check_wishes(ranges: &[Range<u64>], size_bytes: u64) {
    assert!(!ranges.is_empty());
    for range in ranges {
        assert!(range.start < range.end && range.end <= size_bytes, "{range:?} of {size_bytes}");
        assert!(range.end - range.start <= HEADER_BYTES_MAX + (1 << 20), "{range:?}");
    }
    for pair in ranges.windows(2) {
        assert!(pair[0].end < pair[1].start, "{pair:?} could be one");
    }
}

fn done(file: &[u8]) -> Part {
    match parse(&Known::whole(file), file) {
        Ok(Step::Done(part)) => part,
        other => panic!("{other:?}"),
    }
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(testdata(name)).unwrap()
}

fn find<'a>(part: &'a Part, name: &str) -> &'a Tensor {
    part.tensors.iter().find(|t| t.name == name).unwrap_or_else(|| panic!("no {name}"))
}

fn meta_json(value: &MetaValue) -> serde_json::Value {
    match value {
        MetaValue::Null => serde_json::Value::Null,
        MetaValue::Bool(v) => (*v).into(),
        MetaValue::I64(v) => (*v).into(),
        MetaValue::U64(v) => (*v).into(),
        MetaValue::F64(v) => (*v).into(),
        MetaValue::Text(v) => String::from_utf8(v.to_vec()).unwrap().into(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn files_are_read_as_torch_reads_them() {
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(testdata("golden/torch.json")).unwrap()).unwrap();
    let mut wrong = Vec::new();
    for (name, expected) in goldens("torch") {
        let file = read(&name);
        let part = done(&file);
        assert_eq!(part.container, Container::Torch);
        let mut seen = BTreeMap::new();
        for tensor in &part.tensors {
            tensor.check(file.len() as u64).unwrap();
            if let Some(g) = expected.get(&tensor.name) {
                let found = (tensor.dtype.name(), &tensor.shape, sha256(&materialise(&file, tensor)));
                if found != (g.dtype.as_str(), &g.shape, g.sha256.clone()) {
                    wrong.push(format!("{name}: {tensor:?} is not {g:?}"));
                }
            }
            assert!(seen.insert(tensor.name.clone(), ()).is_none(), "{name}: {}", tensor.name);
        }
        if !seen.keys().eq(expected.keys()) {
            wrong.push(format!("{name}: {:?} is not {:?}", seen.keys(), expected.keys()));
        }
        let meta: serde_json::Map<String, serde_json::Value> =
            part.meta.iter().map(|(k, v)| (k.clone(), meta_json(v))).collect();
        let facts = &json["files"][&name];
        if serde_json::Value::from(meta.clone()) != facts["meta"] {
            wrong.push(format!("{name}: {meta:?} is not {}", facts["meta"]));
        }
        let notes: Vec<&str> =
            facts["notes"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
        if !notes.is_empty() && part.notes != notes {
            wrong.push(format!("{name}: {:#?} is not {notes:#?}", part.notes));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn ranges_are_enough() {
    for name in goldens("torch").keys() {
        let file = read(name);
        let whole = done(&file);
        for answer in [Answer::All, Answer::AllButOne, Answer::One] {
            let (part, rounds) = drive(&file, answer).unwrap();
            assert_eq!(part.tensors, whole.tensors, "{name} {answer:?}");
            assert_eq!(part.meta, whole.meta, "{name} {answer:?}");
            assert_eq!(part.notes, whole.notes, "{name} {answer:?}");
            // A small file is inside the piece that is asked for first.
            assert!(!matches!(answer, Answer::All) || rounds <= 3, "{name}: {rounds} rounds");
        }
    }
}

#[test]
fn another_zip_reader_finds_the_same_bytes() {
    for name in ["torch/plain-p2.pt", "torch/plain-p4.pt", "torch/big-endian.pt", "torch/no-crc.pt"] {
        let file = read(name);
        let part = done(&file);
        let mut archive = zip::ZipArchive::new(Cursor::new(&file[..])).unwrap();
        let mut offsets = BTreeMap::new();
        for i in 0..archive.len() {
            let member = archive.by_index(i).unwrap();
            if let Some((_, key)) = member.name().unwrap().split_once("/data/") {
                offsets.insert(key.parse::<usize>().unwrap(), (member.data_start().unwrap(), member.size()));
            }
        }
        assert_eq!(offsets.len(), part.tensors.len());
        for (i, tensor) in part.tensors.iter().enumerate() {
            let span = tensor.at.span;
            assert_eq!((span.offset_bytes, span.size_bytes), offsets[&i], "{name} {}", tensor.name);
        }
    }
}

#[test]
fn views_say_how_they_lie() {
    for name in ["torch/views.pt", "torch/views-p5.pt", "torch/views-legacy.pt"] {
        let part = done(&read(name));
        let strides = |n: &str| find(&part, n).at.strides.clone().map(Vec::from);
        for (tensor, expected) in [
            ("base", None),
            ("transposed", Some(vec![1, 6])),
            ("columns", Some(vec![6, 1])),
            ("rows", None),
            ("every_other", Some(vec![12, 3])),
            ("expanded", Some(vec![0, 1])),
            ("scalar_expanded", Some(vec![0, 0])),
            ("permuted", Some(vec![1, 12, 4])),
            ("element", None),
            ("of_one", None),
            ("odd_strides_of_ones", None),
            ("qkv_q", None),
            ("empty_slice", None),
            ("conj_t", Some(vec![1, 4])),
            ("neg", Some(vec![8, 2])),
        ] {
            // A row of one row, transposed, is a column: its elements lie one after the other.
            assert_eq!(strides(tensor), expected, "{name} {tensor}");
        }
        assert_eq!(find(&part, "base").at, find(&part, "same").at);
        assert_eq!(find(&part, "columns").at.span.size_bytes, (3 * 6 + 2) * 4);
        let flags = |n: &str| (find(&part, n).at.conj, find(&part, n).at.neg);
        assert_eq!(flags("conj"), (true, false));
        assert_eq!(flags("neg"), (false, true));
        assert_eq!(flags("real"), (false, false));
    }
}

#[test]
fn tied_weights_lie_in_one_place() {
    for name in ["torch/module.pt", "torch/module-legacy.pt", "torch/parameters.pt"] {
        let part = done(&read(name));
        assert_eq!(find(&part, "embed.weight").at, find(&part, "head.weight").at, "{name}");
    }
}

#[test]
fn bytes_have_no_order() {
    let part = done(&read("torch/big-endian.pt"));
    for tensor in &part.tensors {
        let wide = tensor.dtype.facts().block_bytes > 1;
        let expected = if wide { ByteOrder::Big } else { ByteOrder::Little };
        assert_eq!(tensor.at.order, expected, "{}", tensor.name);
    }
}

/// A zip's members, laid out by hand: name, offset of the local header, size as the directory says it, and the bytes that
/// are really there.
struct Virtual {
    pieces: Vec<(u64, Vec<u8>)>,
    size_bytes: u64,
}

impl Virtual {
    fn new(members: &[(&str, u64, u64, &[u8])]) -> Virtual {
        let (mut pieces, mut directory, mut end) = (Vec::new(), Vec::new(), 0);
        for &(name, offset, size, bytes) in members {
            let mut local = b"PK\x03\x04\0\0\x08\0\0\0\0\0\0\0".to_vec();
            local.extend([0; 12]);
            local.extend((name.len() as u16).to_le_bytes());
            local.extend([0, 0]);
            local.extend(name.as_bytes());
            end = end.max(offset + local.len() as u64 + size);
            local.extend(bytes);
            pieces.push((offset, local));
            directory.extend(b"PK\x01\x02\0\0\0\0\x08\0\0\0\0\0\0\0");
            directory.extend([0; 4]);
            directory.extend([0xff; 8]);
            directory.extend((name.len() as u16).to_le_bytes());
            directory.extend(28u16.to_le_bytes());
            directory.extend([0; 10]);
            directory.extend([0xff; 4]);
            directory.extend(name.as_bytes());
            directory.extend(1u16.to_le_bytes());
            directory.extend(24u16.to_le_bytes());
            for wide in [size, size, offset] {
                directory.extend(wide.to_le_bytes());
            }
        }
        let (count, size) = (members.len() as u64, directory.len() as u64);
        let end64 = end + size;
        directory.extend(b"PK\x06\x06");
        directory.extend(44u64.to_le_bytes());
        directory.extend([0; 12]);
        for wide in [count, count, size, end] {
            directory.extend(wide.to_le_bytes());
        }
        directory.extend(b"PK\x06\x07\0\0\0\0");
        directory.extend(end64.to_le_bytes());
        directory.extend(1u32.to_le_bytes());
        directory.extend(b"PK\x05\x06\0\0\0\0");
        directory.extend([0xff; 12]);
        directory.extend([0; 2]);
        let size_bytes = end + directory.len() as u64;
        pieces.push((end, directory));
        Virtual { pieces, size_bytes }
    }

    fn read(&self, range: Range<u64>) -> Vec<u8> {
        let mut out = vec![0; (range.end - range.start) as usize];
        for (at, bytes) in &self.pieces {
            for (i, &byte) in bytes.iter().enumerate() {
                let place = at + i as u64;
                if range.contains(&place) {
                    out[(place - range.start) as usize] = byte;
                }
            }
        }
        out
    }

    /// The part, and the bytes that had to be read for it.
    fn parse(&self) -> Result<(Part, u64)> {
        let mut known = Known::of_size(self.size_bytes);
        for _ in 0..8 {
            match torch::parse_zip(&known)? {
                Step::Done(part) => return Ok((part, known.held_bytes())),
                Step::Need(ranges) => {
                    check_wishes(&ranges, self.size_bytes);
                    for range in ranges {
                        known.add(range.start, self.read(range.clone()));
                    }
                }
            }
        }
        panic!("too many rounds");
    }
}

/// A pickle of `{name: tensor of u8}`, one storage each.
fn pickle_of_bytes(tensors: &[(&str, u64)]) -> Vec<u8> {
    let mut out = b"\x80\x02}(".to_vec();
    let long = |n: u64| [b"\x8a\x08", &n.to_le_bytes()[..]].concat();
    let text = |s: &str| [b"X", &(s.len() as u32).to_le_bytes()[..], s.as_bytes()].concat();
    for (i, &(name, size)) in tensors.iter().enumerate() {
        out.extend(text(name));
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        out.extend(text("storage"));
        out.extend(b"ctorch\nByteStorage\n");
        out.extend(text(&i.to_string()));
        out.extend(text("cpu"));
        out.extend(long(size));
        out.extend(b"tQK\0");
        out.extend(long(size));
        out.extend(b"\x85K\x01\x85\x89}tR");
    }
    out.extend(b"u.");
    out
}

#[test]
fn offsets_beyond_4_gib() {
    let five = 5u64 << 30;
    let pickle = pickle_of_bytes(&[("a", five), ("b", 3)]);
    let file = Virtual::new(&[
        ("m/data/0", 0, five, b""),
        ("m/data/1", five + 100, 3, b"xyz"),
        ("m/data.pkl", five + 1000, pickle.len() as u64, &pickle),
    ]);
    let (part, read_bytes) = file.parse().unwrap();
    let spans: Vec<_> = part.tensors.iter().map(|t| (t.at.span.offset_bytes, t.at.span.size_bytes)).collect();
    assert_eq!(spans, [(38, five), (five + 138, 3)]);
    assert_eq!(part.tensors[1].dtype, DType::U8);
    assert!(read_bytes < 100_000, "{read_bytes} bytes were read");
}

/// The rounds for a model as large as they come: a thousand tensors, the directory beyond the first piece.
#[test]
fn few_rounds_for_many_tensors() {
    let names: Vec<(String, String)> =
        (0..2000).map(|i| (format!("layer.{i}.w"), format!("m/data/{i}"))).collect();
    let tensors: Vec<(&str, u64)> = names.iter().map(|(n, _)| (n.as_str(), 1 << 20)).collect();
    let pickle = pickle_of_bytes(&tensors);
    let mut members: Vec<(&str, u64, u64, &[u8])> = vec![("m/data.pkl", 0, pickle.len() as u64, &pickle)];
    for (i, (_, name)) in names.iter().enumerate() {
        members.push((name, (1 << 20) + i as u64 * ((1 << 20) + 200), 1 << 20, b""));
    }
    let file = Virtual::new(&members);
    let mut known = Known::of_size(file.size_bytes);
    for round in 0.. {
        match torch::parse_zip(&known).unwrap() {
            Step::Done(part) => {
                assert_eq!((part.tensors.len(), round), (2000, 3));
                break;
            }
            Step::Need(ranges) => {
                for range in ranges {
                    // Only the pieces near the range, so that the test is quick.
                    let near = file
                        .pieces
                        .iter()
                        .filter(|(at, b)| *at < range.end && at + b.len() as u64 > range.start);
                    let mut bytes = vec![0; (range.end - range.start) as usize];
                    for (at, piece) in near {
                        let (from, to) = ((*at).max(range.start), (at + piece.len() as u64).min(range.end));
                        bytes[(from - range.start) as usize..(to - range.start) as usize]
                            .copy_from_slice(&piece[(from - at) as usize..(to - at) as usize]);
                    }
                    known.add(range.start, bytes);
                }
            }
        }
    }
}

/// A zip around one pickle, by hand.
fn zip_of(pickle: &[u8]) -> Result<Part> {
    Virtual::new(&[("m/data.pkl", 0, pickle.len() as u64, pickle)]).parse().map(|(part, _)| part)
}

fn said(result: Result<Part>) -> (u8, String) {
    match result {
        Ok(part) => (0, format!("{part:?}")),
        Err(e) => (e.kind().exit_code(), e.to_string()),
    }
}

#[test]
fn bombs_cost_nothing() {
    let started = std::time::Instant::now();
    // A list that holds the last one twice, fifty times over: more values than anyone could count.
    let mut bomb = b"\x80\x02]q\0".to_vec();
    for _ in 0..50 {
        bomb.extend(b"0]h\0ah\0aq\0");
    }
    bomb.extend(b"0}X\x01\0\0\0ah\0s.");
    assert_eq!(said(zip_of(&bomb)).0, 0, "{}", said(zip_of(&bomb)).1);

    // Nested from the outside inwards, so that no container knows how deep it is.
    let mut inwards = b"\x80\x02}q\0".to_vec();
    inwards.extend(b"h\0");
    for _ in 0..1000 {
        inwards.extend(b"X\x01\0\0\0a}q\x01s0h\x01");
    }
    inwards.extend(b"0.");
    let (code, message) = said(zip_of(&inwards));
    assert_eq!((code, message.as_str()), (1, "the state dict is nested deeper than 64 levels"));

    // A dict that holds itself.
    let (code, message) = said(zip_of(b"\x80\x02}q\0X\x01\0\0\0ah\0s."));
    assert_eq!(code, 0, "{message}");

    // One text of a megabyte as the value of many keys.
    let key = |i: u32| [b"X\x04\0\0\0", &format!("{i:04x}").into_bytes()[..]].concat();
    let mut shared = b"\x80\x02X\0\0\x10\0".to_vec();
    shared.extend(vec![b'x'; 1 << 20]);
    shared.extend(b"q\x000}(");
    (0..5000).for_each(|i| shared.extend([key(i), b"h\0".to_vec()].concat()));
    shared.extend(b"u.");
    let part = zip_of(&shared).unwrap();
    // Sixteen with room for their keys would take more than 16 MiB.
    assert_eq!(part.meta.len(), 15);
    assert!(part.notes[0].starts_with("4985 values skipped: `000f` (a text), "), "{:?}", part.notes);

    // More values than the budget has room for, in few bytes.
    let many = [&b"\x80\x02"[..], &b"]0".repeat(20 << 20), &b"}."[..]].concat();
    let (code, message) = said(zip_of(&many));
    assert_eq!(code, 1);
    assert!(message.contains("more values than fit 268,435,456 bytes"), "{message}");
    assert!(started.elapsed().as_secs() < 30);
}

/// Each line of `testdata/hostile/torch/NAME.txt` beside `NAME.bin`: the exit code, and what the message must hold.
#[test]
fn hostile_files_are_refused() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for entry in std::fs::read_dir(testdata("hostile/torch")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "bin") {
            continue;
        }
        count += 1;
        let file = std::fs::read(&path).unwrap();
        let expected = std::fs::read_to_string(path.with_extension("txt")).unwrap();
        let (code, message) = expected.trim_end().split_once('\n').unwrap();
        let whole = match parse(&Known::whole(&file), &file) {
            Ok(Step::Done(part)) => Ok(part),
            Ok(Step::Need(ranges)) => panic!("{}: needs {ranges:?} of a whole file", path.display()),
            Err(e) => Err(e),
        };
        let by_range = drive(&file, Answer::All).map(|(part, _)| part);
        for result in [whole, by_range] {
            let (found, text) = said(result);
            if found.to_string() != code || !text.contains(message) {
                wrong.push(format!("{}: {found} {text}\n   expected {code} {message}", path.display()));
            }
        }
    }
    assert!(count > 200, "only {count} files");
    // What the malicious ones would run.
    assert!(!std::path::Path::new("/tmp/hoist-canary").exists(), "a pickle ran code");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// xorshift64*: one seed, one replay.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

fn mutate(file: &mut Vec<u8>, random: &mut Random) {
    const ODD: [u64; 8] = [0, 1, 0x7f, 0x80, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX];
    for _ in 0..=random.below(3) {
        if file.is_empty() {
            return;
        }
        let at = random.below(file.len());
        match random.below(6) {
            0 => file[at] ^= 1 << random.below(8),
            1 => file[at] = random.next() as u8,
            2 => file.truncate(at),
            3 => {
                let width = [1, 2, 4, 8][random.below(4)].min(file.len() - at);
                let value = ODD[random.below(ODD.len())].to_le_bytes();
                file[at..at + width].copy_from_slice(&value[..width]);
            }
            4 => {
                let end = at + random.below(32).min(file.len() - at);
                file.drain(at..end);
            }
            _ => {
                let from = random.below(file.len());
                let size = random.below(24).min(file.len() - from);
                let copy = file[from..from + size].to_vec();
                file.splice(at..at, copy);
            }
        }
    }
}

fn check_mutant(file: &[u8], seed: u64, refused: &mut usize) {
    let outcome = std::panic::catch_unwind(|| match drive(file, Answer::All) {
        Ok((part, rounds)) => {
            assert!(rounds <= 12, "{rounds} rounds");
            for tensor in &part.tensors {
                tensor.check(file.len() as u64).unwrap();
            }
            None
        }
        Err(e) => Some(e.to_string()),
    });
    match outcome {
        Ok(None) => {}
        Ok(Some(message)) => {
            assert!(!message.is_empty() && !message.contains('\0'), "seed {seed}: {message:?}");
            *refused += 1;
        }
        Err(_) => panic!("seed {seed}: panicked"),
    }
}

#[test]
fn mutants_are_read_or_refused() {
    let bases =
        ["no-crc.pt", "views.pt", "trainer-p4.pt", "numpy-p2.pt", "views-legacy.pt", "module-legacy.pt"];
    let (mut refused, mut count) = (0, 0);
    for (b, base) in bases.iter().enumerate() {
        let original = read(&format!("torch/{base}"));
        for n in 0..600 {
            let seed = 1 + b as u64 * 1_000_000 + n;
            let mut file = original.clone();
            mutate(&mut file, &mut Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            check_mutant(&file, seed, &mut refused);
            count += 1;
        }
    }
    // The pickle alone, in a zip without checksums: what the CRC-32 would have stopped.
    for (b, base) in
        ["plain-p2.pt", "views-p5.pt", "trainer.pt", "numpy-p4.pt", "mixed.pt"].iter().enumerate()
    {
        let file = read(&format!("torch/{base}"));
        let mut archive = zip::ZipArchive::new(Cursor::new(&file[..])).unwrap();
        let index = (0..archive.len())
            .find(|&i| archive.by_index(i).unwrap().name().unwrap().ends_with("/data.pkl"))
            .unwrap();
        let (start, size) = {
            let member = archive.by_index(index).unwrap();
            (member.data_start().unwrap() as usize, member.size() as usize)
        };
        let pickle = &file[start..start + size];
        for n in 0..600 {
            let seed = 100_000_000 + b as u64 * 1_000_000 + n;
            let mut mutant = pickle.to_vec();
            mutate(&mut mutant, &mut Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            let outcome = std::panic::catch_unwind(|| said(zip_of(&mutant)));
            let (code, _) = outcome.unwrap_or_else(|_| panic!("seed {seed}: panicked"));
            refused += usize::from(code != 0);
            count += 1;
        }
    }
    assert!(refused * 2 > count, "{refused} of {count} mutants refused");
}

#[test]
fn every_truncation_is_refused() {
    for base in ["torch/no-crc.pt", "torch/shapes-legacy.pt"] {
        let file = read(base);
        for size in 0..file.len() {
            let cut = &file[..size];
            let result = if base.ends_with("legacy.pt") {
                torch::parse_legacy(&Known::whole(cut))
            } else {
                torch::parse_zip(&Known::whole(cut))
            };
            let error: Error = match result {
                Err(e) => e,
                Ok(step) => panic!("{base} cut to {size}: {step:?}"),
            };
            assert_eq!(error.kind().exit_code(), 1, "{base} cut to {size}: {error}");
        }
    }
}
