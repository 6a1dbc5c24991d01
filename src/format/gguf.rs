//! GGUF: `GGUF`, a version, keys with values, tensor infos, padding, data.
//!
//! Versions 1 to 3 in either byte order, all thirteen kinds of values, every type that ggml has today. Strict where a
//! file could mean two things (keys or tensors that are there twice, overlaps, gaps, bytes after the end), and as
//! llama.cpp is where it refuses to load; lenient where files that people have are: version 1, nested arrays, text that
//! is not UTF-8, long names, a last tensor without padding.
//!
//! The header's length is written nowhere, so parsing starts at the front with what is known and asks for twice as much
//! when that ends too soon: all tries together cost less than three times the last, and nothing has to be kept between
//! calls.
//!
//! The crate `gguf-rs` is a second opinion in our tests and reads no file of a user. Its version 0.1.8 panics on type 40,
//! computes wrong sizes for BF16, I8 to I64, F64, IQ4_NL and MXFP4, misreads version 1 without a word, accepts offsets
//! beyond the file, partial blocks, keys that are there twice and alignments of 0 or 24, refuses nested arrays, and reads
//! number by number from an open file, where this parser must serve HTTP ranges too.

mod cursor;
pub mod layout;
pub mod names;
mod tensors;
mod values;

pub use names::Split;

use super::{HEADER_BYTES_MAX, Known, Step};
use crate::checkpoint::{ByteOrder, Container, MetaKind, MetaValue, Part};
use crate::error::{Error, Result};
use crate::text::grouped;
use cursor::{Cursor, Stop, Take};

/// What is asked for first. Most headers are dominated by a vocabulary of 32 k to 256 k tokens: 1 to 16 MB.
const FIRST_BYTES: u64 = 1 << 20;

/// Where data begins unless `general.alignment` says otherwise.
const DEFAULT_ALIGNMENT: u64 = 32;

/// The key that says so.
const ALIGNMENT_KEY: &str = "general.alignment";

/// The most keys and tensors that are read. The largest models have hundreds of keys and a hundred thousand tensors; one
/// that is nothing but its name takes ten times its bytes in memory, and a header may have 256 MiB of them.
const KEY_COUNT_MAX: u64 = 1 << 16;
const TENSOR_COUNT_MAX: u64 = 1 << 20;

/// Parses the header of a GGUF file. Tensors come in the header's order with their shapes outermost first, and all of
/// them lie inside the file.
///
/// # Errors
/// [`BadInput`](crate::ErrorKind::BadInput) for a file that is damaged or could mean two things,
/// [`Unsupported`](crate::ErrorKind::Unsupported) for versions after 3, types of ggml that are dead or not known, headers
/// of more than [`HEADER_BYTES_MAX`] bytes, and more keys or tensors than any model has.
pub fn parse(known: &Known) -> Result<Step<Part>> {
    let head = known.from(0);
    match header(head, known.size_bytes()) {
        Ok(part) => Ok(Step::Done(part)),
        Err(Stop::Fail(error)) => Err(error),
        Err(Stop::Need(needed_bytes)) => {
            let held_bytes = head.len() as u64;
            let wished = needed_bytes.max(held_bytes.saturating_mul(2)).max(FIRST_BYTES);
            let end = wished.min(known.size_bytes()).min(HEADER_BYTES_MAX);
            Ok(Step::Need(std::iter::once(held_bytes..end).collect()))
        }
    }
}

/// The whole header, or how far more of it is needed.
fn header(known: &[u8], file_size_bytes: u64) -> Take<Part> {
    let mut c = Cursor::new(known, file_size_bytes);
    if c.bytes(4, "the magic number")? != b"GGUF" {
        return Err(Stop::Fail(Error::bad_input("does not begin with `GGUF`").at(0)));
    }
    let version = version(&mut c)?;
    let tensor_count = c.size("the count of tensors")?;
    let key_count = c.size("the count of keys")?;
    let (key_bytes, info_bytes) = (values::least_entry_bytes(&c), tensors::least_info_bytes(&c));
    c.room_for(key_count, key_bytes, "the header", "keys")?;
    c.room_for(tensor_count, info_bytes, "the header", "tensors")?;
    for (count, most, things) in
        [(key_count, KEY_COUNT_MAX, "keys"), (tensor_count, TENSOR_COUNT_MAX, "tensors")]
    {
        if count > most {
            let (count, most) = (grouped(count), grouped(most));
            let message = format!("the header says {count} {things}; hoist reads up to {most}");
            return Err(Stop::Fail(Error::unsupported(message).at(8)));
        }
    }

    let meta = values::entries(&mut c, key_count)?;
    let alignment = alignment(&meta)?;
    let mut tensors = tensors::infos(&mut c, tensor_count, alignment)?;
    let mut notes = tensors::lay_out(&mut tensors, c.at(), alignment, c.file_size_bytes())?;
    if c.order == ByteOrder::Big {
        notes.push("big endian: numbers are swapped when they are read".into());
    }
    if version == 1 {
        notes.push("GGUF version 1; llama.cpp reads 2 and 3".into());
    }
    if c.trimmed_names > 0 {
        notes.push(format!("names that end with NULs, which are left out: {}", c.trimmed_names));
    }
    let nested = |v: &MetaValue| v.as_array().is_some_and(|a| a.kind == MetaKind::Array);
    if let Some((key, _)) = meta.iter().find(|(_, v)| nested(v)) {
        let key = crate::text::Shown(key);
        notes.push(format!("the key `{key}` holds arrays inside an array; llama.cpp refuses that"));
    }
    Ok(Part { container: Container::Gguf, tensors, meta, notes })
}

/// The version, which also tells the byte order: read in the wrong one its low half is zero.
fn version(c: &mut Cursor<'_>) -> Take<u32> {
    let at = c.at();
    let mut version = c.u32("the version")?;
    if version != 0 && version & 0xffff == 0 {
        version = version.swap_bytes();
        c.order = ByteOrder::Big;
    }
    match version {
        1..=3 => c.narrow = version == 1,
        0 => return Err(Stop::Fail(Error::bad_input("has version 0; GGUF begins with 1").at(at))),
        _ => {
            let message = format!("has version {version} of GGUF; hoist reads 1 to 3");
            return Err(Stop::Fail(Error::unsupported(message).at(at)));
        }
    }
    Ok(version)
}

/// `general.alignment`, or its default.
fn alignment(meta: &[(String, MetaValue)]) -> Result<u64> {
    let refused = |found: String| {
        Err(Error::bad_input(format!(
            "the key `{ALIGNMENT_KEY}` is {found}; it must be a u32 and a power of two"
        )))
    };
    match meta.iter().find(|(key, _)| key == ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some((_, MetaValue::U32(n))) if n.is_power_of_two() => Ok((*n).into()),
        Some((_, MetaValue::U32(n))) => refused(n.to_string()),
        Some(_) => refused("no u32".to_string()),
    }
}
