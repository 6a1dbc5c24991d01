//! Drives a parser as `open` does, and holds it to what it promises: it ends, asks only for what the file has, and never
//! holds more than the file and the budget.

use hoist::checkpoint::Part;
use hoist::error::Result;
use hoist::format::{HEADER_BYTES_MAX, Known, Step};

/// More rounds than any honest header needs.
const ROUNDS_MAX: u32 = 64;

/// Parses `data` as a file of `size_bytes` (at least `data`'s own: what lies beyond reads as zeros), a piece at a time.
fn drive(data: &[u8], size_bytes: u64, parse: fn(&Known) -> Result<Step<Part>>) {
    let mut known = Known::of_size(size_bytes);
    for _ in 0..ROUNDS_MAX {
        match parse(&known) {
            Err(e) => {
                assert!(!e.to_string().is_empty());
                return;
            }
            Ok(Step::Done(part)) => {
                for tensor in &part.tensors {
                    let _ = tensor.check(size_bytes);
                }
                return;
            }
            Ok(Step::Need(ranges)) => {
                assert!(!ranges.is_empty(), "needs nothing and is not done");
                for range in ranges {
                    assert!(
                        range.start < range.end && range.end <= size_bytes,
                        "asks for {range:?} of {size_bytes}"
                    );
                    let length = range.end - range.start;
                    assert!(length <= HEADER_BYTES_MAX, "asks for {length} bytes");
                    assert!(known.get(range.clone()).is_none(), "asks again for {range:?}");
                    // A file that claims to be large is not worth the fuzzer's time.
                    if length > (2 << 20) {
                        return;
                    }
                    let mut bytes = vec![0; length as usize];
                    let there = data.get((range.start as usize).min(data.len())..).unwrap_or(&[]);
                    let there = &there[..there.len().min(bytes.len())];
                    bytes[..there.len()].copy_from_slice(there);
                    known.add(range.start, bytes);
                }
            }
        }
    }
    panic!("not done after {ROUNDS_MAX} rounds");
}

/// As it is. For formats that are read from the end: what follows would only be searched for one.
pub fn whole(data: &[u8], parse: fn(&Known) -> Result<Step<Part>>) {
    drive(data, data.len() as u64, parse);
}

/// As it is, and as the head of a file of 4 GiB, where the checks against the file's end do not help. The latter for one
/// length in eight: it costs fifty times as much, most of it for zeros.
pub fn parser(data: &[u8], parse: fn(&Known) -> Result<Step<Part>>) {
    whole(data, parse);
    if data.len().is_multiple_of(8) {
        drive(data, (4 << 30) + data.len() as u64, parse);
    }
}

/// A torch file around a pickle: storages `0` to `3` of 64 bytes, and no checksums, which mutations seldom hit.
pub fn torch_zip_around(pickle: &[u8]) -> Vec<u8> {
    let storage = [0; 64];
    let members: [(&[u8], &[u8]); 5] = [
        (b"x/data.pkl", pickle),
        (b"x/data/0", &storage),
        (b"x/data/1", &storage),
        (b"x/data/2", &storage),
        (b"x/data/3", &storage),
    ];
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in members {
        let size_bytes = (data.len() as u32).to_le_bytes();
        // From the flags to the length of the extra field, which both headers have alike: no checksum, stored.
        let mut facts = [0; 24];
        facts[12..16].copy_from_slice(&size_bytes);
        facts[16..20].copy_from_slice(&size_bytes);
        facts[20] = name.len() as u8;
        let header_bytes = (file.len() as u32).to_le_bytes();
        for part in [&b"PK\x03\x04\x00\x00"[..], &facts, name, data] {
            file.extend_from_slice(part);
        }
        for part in [&b"PK\x01\x02\x00\x00\x00\x00"[..], &facts, &[0; 10], &header_bytes, name] {
            directory.extend_from_slice(part);
        }
    }
    let count = members.len() as u8;
    let (start, size) = ((file.len() as u32).to_le_bytes(), (directory.len() as u32).to_le_bytes());
    file.extend_from_slice(&directory);
    for part in [&b"PK\x05\x06\x00\x00\x00\x00"[..], &[count, 0, count, 0], &size, &start, &[0, 0]] {
        file.extend_from_slice(part);
    }
    file
}
