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
                    assert!(range.start < range.end && range.end <= size_bytes, "asks for {range:?} of {size_bytes}");
                    let length = range.end - range.start;
                    assert!(length <= HEADER_BYTES_MAX, "asks for {length} bytes");
                    assert!(known.get(range.clone()).is_none(), "asks again for {range:?}");
                    // A file that claims to be large is not worth the fuzzer's memory.
                    if length > (16 << 20) {
                        return;
                    }
                    let at = |offset: u64| usize::try_from(offset).ok().and_then(|n| data.get(n)).copied();
                    known.add(range.start, range.map(|offset| at(offset).unwrap_or(0)).collect());
                }
            }
        }
    }
    panic!("not done after {ROUNDS_MAX} rounds");
}

/// As it is, and as the head of a file of 4 GiB, where the checks against the file's end do not help.
pub fn parser(data: &[u8], parse: fn(&Known) -> Result<Step<Part>>) {
    drive(data, data.len() as u64, parse);
    drive(data, (4 << 30) + data.len() as u64, parse);
}
