//! Laying a safetensors file out: from names, types and shapes to the header's bytes and each tensor's offset. No data
//! and no file is needed, so a plan knows where every byte will go before the first is read.
//!
//! The header is what the reference writer makes of the same tensors: entries sorted by type and then by name,
//! `__metadata__` first, compact JSON, spaces at the end. Sorting by type from wide to narrow is what keeps every tensor
//! aligned to its own elements without a hole, which the format forbids. One thing differs: the reference pads the
//! header until the data starts at a multiple of 8, and we go on to [`DATA_ALIGNMENT_BYTES`]. Readers accept any number
//! of spaces, and a mapped file then has its first tensor (and, weight matrices being round, most others) on a cache
//! line, where a vector load does not straddle two and a copy to a device is not split.
//!
//! Beside it stands what a checkpoint of several files needs: how tensors are spread over shards, what the shards are
//! called, and the index that names them.

use crate::dtype::{DType, element_count};
use crate::error::{Error, Result};
use crate::format::{Known, Step};
use crate::text::grouped;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::fmt::Write;
use std::ops::Range;

/// Data starts at a multiple of this.
pub const DATA_ALIGNMENT_BYTES: u64 = 64;

/// The longest header that readers take, padding included, without the eight bytes of its length (safetensors 0.8,
/// `MAX_HEADER_SIZE`).
pub const HEADER_SIZE_BYTES_MAX: u64 = 100_000_000;

/// The key that is no tensor.
const METADATA_KEY: &str = "__metadata__";

/// The order of types in a file, first to last: the reverse of the reference's `Dtype` enum (safetensors 0.8).
#[rustfmt::skip]
const TYPE_ORDER: [DType; 22] = [
    DType::U64, DType::I64, DType::F64, DType::C64,
    DType::F32, DType::U32, DType::I32,
    DType::BF16, DType::F16, DType::U16, DType::I16,
    DType::F8E5M2FNUZ, DType::F8E4M3FNUZ, DType::F8E8M0, DType::F8E4M3, DType::F8E5M2, DType::I8, DType::U8,
    DType::F6E3M2, DType::F6E2M3, DType::F4, DType::Bool,
];

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name. Any text, the empty one included, but not `__metadata__`.
    pub name: String,
    /// The element type; one that safetensors has.
    pub dtype: DType,
    /// Sizes, outermost first; empty for a scalar.
    pub shape: Vec<u64>,
}

impl Entry {
    /// Bytes of the tensor's data, or why there is no such tensor.
    pub fn size_bytes(&self) -> Result<u64> {
        element_count(&self.shape).and_then(|n| self.dtype.size_bytes(n)).ok_or_else(|| {
            Error::bad_input(format!(
                "has shape {:?}, which overflows or does not fill whole bytes of `{}`",
                self.shape, self.dtype
            ))
            .tensor(&self.name)
        })
    }
}

/// A file laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Laid {
    /// The file's first bytes: the length, the JSON, the padding. Data follows at once.
    pub header: Vec<u8>,
    /// Where each tensor begins, from the start of the file, in the order the tensors were given in.
    pub offsets_bytes: Vec<u64>,
    /// The size of the whole file.
    pub file_size_bytes: u64,
}

/// Lays a file out. Refused: two tensors of one name, a type that the format lacks, two metadata entries of one key, a
/// header over [`HEADER_SIZE_BYTES_MAX`].
///
/// Metadata is written in the order given; none at all leaves `__metadata__` out. (Hugging Face's own files say
/// `format` = `pt`, and older readers insist on it; that is the caller's to give.)
pub fn lay_out(tensors: &[Entry], metadata: &[(String, String)]) -> Result<Laid> {
    let mut order = Vec::with_capacity(tensors.len());
    for (index, tensor) in tensors.iter().enumerate() {
        order.push((rank(tensor)?, tensor.name.as_str(), index));
    }
    // By bytes of the name, as Rust and the reference compare text.
    order.sort_unstable();
    refuse_twins(tensors)?;

    let mut json = String::with_capacity(64 + tensors.len().saturating_mul(112));
    json.push('{');
    write_metadata(&mut json, metadata)?;
    let mut offsets = vec![0; tensors.len()];
    let mut end_bytes = 0u64;
    for &(_, name, index) in &order {
        let tensor = &tensors[index];
        let begin_bytes = end_bytes;
        end_bytes = begin_bytes.checked_add(tensor.size_bytes()?).ok_or_else(|| {
            Error::bad_input("ends beyond the largest file there can be").tensor(&tensor.name)
        })?;
        offsets[index] = begin_bytes;
        if json.len() > 1 {
            json.push(',');
        }
        let dtype = tensor.dtype.facts().safetensors.unwrap_or_default();
        quote(&mut json, name);
        let _ = write!(json, r#":{{"dtype":"{dtype}","shape":["#);
        for (d, size) in tensor.shape.iter().enumerate() {
            let _ = write!(json, "{}{size}", if d > 0 { "," } else { "" });
        }
        let _ = write!(json, r#"],"data_offsets":[{begin_bytes},{end_bytes}]}}"#);
    }
    json.push('}');
    finish(json, offsets, end_bytes)
}

/// Reads the header back with our own reader and compares what it finds with what was to be written. To be called before
/// data follows: an error here is a bug of the writer, and nothing has been spent on it yet.
pub fn check(laid: &Laid, tensors: &[Entry]) -> Result<()> {
    let bug = |what: String| Error::bug(format!("the header is not what was meant: {what}"));
    let mut known = Known::of_size(laid.file_size_bytes);
    known.add(0, laid.header.clone());
    let Step::Done(part) = super::parse(&known)? else {
        return Err(bug("it asks for data".into()));
    };
    let read: HashMap<&str, _> = part.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
    if read.len() != tensors.len() {
        return Err(bug(format!("{} tensors were laid out and {} are read", tensors.len(), read.len())));
    }
    for (tensor, &offset_bytes) in tensors.iter().zip(&laid.offsets_bytes) {
        let same = read.get(tensor.name.as_str()).is_some_and(|t| {
            t.dtype == tensor.dtype && t.shape == tensor.shape && t.at.span.offset_bytes == offset_bytes
        });
        if !same {
            return Err(bug("it differs".into()).tensor(&tensor.name));
        }
    }
    Ok(())
}

/// Puts the length before the JSON and the padding behind it, and makes the offsets absolute.
fn finish(json: String, mut offsets: Vec<u64>, data_bytes: u64) -> Result<Laid> {
    let mut header = Vec::with_capacity(json.len().saturating_add(8 + DATA_ALIGNMENT_BYTES as usize));
    header.extend([0; 8]);
    header.extend(json.as_bytes());
    header.resize(header.len().next_multiple_of(DATA_ALIGNMENT_BYTES as usize), b' ');
    let start_bytes = header.len() as u64;
    let length = start_bytes - 8;
    if length > HEADER_SIZE_BYTES_MAX {
        return Err(Error::unsupported(format!(
            "the header would take {} bytes; readers of safetensors take up to {}",
            grouped(length),
            grouped(HEADER_SIZE_BYTES_MAX)
        ))
        .hint("more shards have shorter headers"));
    }
    header[..8].copy_from_slice(&length.to_le_bytes());
    let file_size_bytes = start_bytes
        .checked_add(data_bytes)
        .ok_or_else(|| Error::bad_input("the file would be larger than any file can be"))?;
    for offset in &mut offsets {
        // No overflow: each lies before the end, which was just found to fit.
        *offset += start_bytes;
    }
    Ok(Laid { header, offsets_bytes: offsets, file_size_bytes })
}

fn rank(tensor: &Entry) -> Result<usize> {
    TYPE_ORDER.iter().position(|&d| d == tensor.dtype).ok_or_else(|| {
        Error::unsupported(format!("is of type `{}`, which safetensors has not", tensor.dtype))
            .tensor(&tensor.name)
    })
}

fn refuse_twins(tensors: &[Entry]) -> Result<()> {
    let mut names: Vec<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
    names.sort_unstable();
    if let Some(twins) = names.windows(2).find(|w| w[0] == w[1]) {
        return Err(Error::bad_input("would be written twice").tensor(twins[0]));
    }
    if names.binary_search(&METADATA_KEY).is_ok() {
        return Err(
            Error::unsupported("has the one name that safetensors keeps for itself").tensor(METADATA_KEY)
        );
    }
    Ok(())
}

fn write_metadata(json: &mut String, metadata: &[(String, String)]) -> Result<()> {
    if metadata.is_empty() {
        return Ok(());
    }
    let mut keys: Vec<&str> = metadata.iter().map(|(k, _)| k.as_str()).collect();
    keys.sort_unstable();
    if let Some(twins) = keys.windows(2).find(|w| w[0] == w[1]) {
        let key = crate::text::Shown(twins[0]);
        return Err(Error::bad_input(format!("the metadata key `{key}` would be written twice")));
    }
    quote(json, METADATA_KEY);
    json.push_str(":{");
    for (i, (key, value)) in metadata.iter().enumerate() {
        if i > 0 {
            json.push(',');
        }
        quote(json, key);
        json.push(':');
        quote(json, value);
    }
    json.push('}');
    Ok(())
}

/// Adds a JSON string: quotes, backslashes and control characters escaped, everything else as it is.
fn quote(json: &mut String, text: &str) {
    let _ = write!(json, "{}", Value::from(text));
}

/// Spreads tensors over shards in their order: a shard is closed when the next tensor would take its data over
/// `shard_size_bytes`. A tensor larger than that has a shard of its own. Headers are not counted, as in Hugging Face's
/// writers. No tensors are one shard without any.
pub fn split_by_size(sizes_bytes: &[u64], shard_size_bytes: u64) -> Vec<Range<usize>> {
    let mut shards = Vec::new();
    let (mut start, mut held_bytes) = (0, 0u64);
    for (i, &size) in sizes_bytes.iter().enumerate() {
        if i > start && held_bytes.checked_add(size).is_none_or(|sum| sum > shard_size_bytes) {
            shards.push(start..i);
            (start, held_bytes) = (i, 0);
        }
        held_bytes = held_bytes.saturating_add(size);
    }
    shards.push(start..sizes_bytes.len());
    shards
}

/// Spreads tensors over `count` shards in their order, as evenly as whole tensors allow and none of them empty; fewer
/// shards only where there are fewer tensors.
pub fn split_by_count(sizes_bytes: &[u64], count: usize) -> Vec<Range<usize>> {
    let count = count.clamp(1, sizes_bytes.len().max(1));
    let total: u128 = sizes_bytes.iter().map(|&s| u128::from(s)).sum();
    let mut shards = Vec::with_capacity(count);
    let (mut start, mut before) = (0, 0u128);
    for (i, &size) in sizes_bytes.iter().enumerate() {
        let closed = shards.len();
        let goal = total * (closed as u128 + 1) / count as u128;
        // Close before this tensor if its middle lies beyond the goal, or if the shards left need all that is left.
        let beyond = before + u128::from(size) / 2 >= goal;
        let left = sizes_bytes.len() - i;
        if i > start && closed + 1 < count && (beyond || left < count - closed) {
            shards.push(start..i);
            start = i;
        }
        before += u128::from(size);
    }
    shards.push(start..sizes_bytes.len());
    shards
}

/// The name of a shard: `model.safetensors` where there is one only, else `model-00001-of-00003.safetensors`, counting
/// from one.
pub fn shard_name(stem: &str, index: usize, count: usize) -> String {
    match count {
        1 => format!("{stem}.safetensors"),
        _ => format!("{stem}-{:05}-of-{count:05}.safetensors", index + 1),
    }
}

/// The name of the index that stands beside shards of this stem.
pub fn index_name(stem: &str) -> String {
    format!("{stem}.safetensors.index.json")
}

/// The index of a checkpoint of several files, as Hugging Face's writers make it: sizes, and tensor → file sorted by
/// tensor.
pub fn index_json<'a>(
    total_elements: u64,
    total_size_bytes: u64,
    files: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> String {
    let mut files: Vec<_> = files.into_iter().collect();
    files.sort_unstable();
    let map: Map<String, Value> = files.into_iter().map(|(t, f)| (t.to_owned(), f.into())).collect();
    let index = json!({
        "metadata": {"total_parameters": total_elements, "total_size": total_size_bytes},
        "weight_map": map,
    });
    format!("{index:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, dtype: DType, shape: &[u64]) -> Entry {
        Entry { name: name.into(), dtype, shape: shape.into() }
    }

    #[test]
    fn every_type_of_the_format_has_its_place() {
        for &dtype in DType::ALL {
            let places = TYPE_ORDER.iter().filter(|&&d| d == dtype).count();
            assert_eq!(places, usize::from(dtype.facts().safetensors.is_some()), "{dtype}");
        }
    }

    #[test]
    fn a_header_reads_as_it_should() {
        let laid = lay_out(
            &[
                entry("b", DType::BF16, &[2, 3]),
                entry("none", DType::F32, &[0]),
                entry("a\"\u{1}é", DType::F32, &[]),
            ],
            &[("format".into(), "pt".into()), ("a".into(), String::new())],
        )
        .unwrap();
        let json = concat!(
            r#"{"__metadata__":{"format":"pt","a":""},"#,
            r#""a\"\u0001é":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"#,
            r#""none":{"dtype":"F32","shape":[0],"data_offsets":[4,4]},"#,
            r#""b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]}}"#,
        );
        assert_eq!(std::str::from_utf8(&laid.header[8..]).unwrap().trim_end_matches(' '), json);
        let start = laid.header.len() as u64;
        assert_eq!(start % DATA_ALIGNMENT_BYTES, 0);
        assert_eq!(laid.header[..8], (start - 8).to_le_bytes());
        assert_eq!(laid.offsets_bytes, [start + 4, start + 4, start]);
        assert_eq!(laid.file_size_bytes, start + 16);
    }

    #[test]
    fn what_cannot_be_written_is_refused() {
        for (tensors, metadata, said) in [
            (
                vec![("a", DType::Q4K, vec![256])],
                vec![],
                "tensor `a` is of type `q4_k`, which safetensors has not",
            ),
            (
                vec![("a", DType::F32, vec![1]), ("a", DType::U8, vec![1])],
                vec![],
                "tensor `a` would be written twice",
            ),
            (vec![("__metadata__", DType::F32, vec![1])], vec![], "tensor `__metadata__` has the one name"),
            (
                vec![("a", DType::F4, vec![3])],
                vec![],
                "tensor `a` has shape [3], which overflows or does not fill",
            ),
            (vec![("a", DType::F32, vec![u64::MAX, 2])], vec![], "which overflows"),
            (
                vec![("a", DType::U8, vec![u64::MAX]), ("b", DType::U8, vec![1])],
                vec![],
                "tensor `b` ends beyond",
            ),
            (vec![("a", DType::U8, vec![u64::MAX])], vec![], "the file would be larger than any file can be"),
            (vec![], vec![("k", "1"), ("k", "2")], "the metadata key `k` would be written twice"),
        ] {
            let tensors: Vec<_> = tensors.into_iter().map(|(n, d, s)| entry(n, d, &s)).collect();
            let metadata: Vec<_> = metadata.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            let error = lay_out(&tensors, &metadata).unwrap_err().to_string();
            assert!(error.contains(said), "{error}\nexpected: {said}");
        }
        let long = lay_out(&[], &[("k".into(), "x".repeat(100_000_000))]).unwrap_err();
        assert!(long.to_string().starts_with("the header would take 100,000,"), "{long}");
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init)] // one shard is a vector of one range
    fn shards() {
        for (sizes, limit, expected) in [
            (&[][..], 10, vec![0..0]),
            (&[4, 4, 4, 4], 8, vec![0..2, 2..4]),
            (&[4, 4, 4, 4], 9, vec![0..2, 2..4]),
            (&[20, 1, 1, 20], 8, vec![0..1, 1..3, 3..4]),
            (&[u64::MAX, u64::MAX], u64::MAX, vec![0..1, 1..2]),
        ] {
            assert_eq!(split_by_size(sizes, limit), expected, "{sizes:?} by {limit}");
        }
        for (sizes, count, expected) in [
            (&[][..], 3, vec![0..0]),
            (&[1, 1], 3, vec![0..1, 1..2]),
            (&[4, 4, 4, 4], 2, vec![0..2, 2..4]),
            (&[100, 1, 1], 3, vec![0..1, 1..2, 2..3]),
            (&[1, 1, 100], 3, vec![0..1, 1..2, 2..3]),
            (&[0, 0, 0], 2, vec![0..1, 1..3]),
            (&[1, 9, 1, 9, 1, 9], 3, vec![0..2, 2..4, 4..6]),
        ] {
            assert_eq!(split_by_count(sizes, count), expected, "{sizes:?} in {count}");
        }
        assert_eq!(shard_name("model", 0, 1), "model.safetensors");
        assert_eq!(shard_name("model", 1, 12), "model-00002-of-00012.safetensors");
    }

    #[test]
    fn an_index_is_sorted() {
        let index = index_json(3, 6, [("b", "y"), ("a", "x")]);
        let expected = "{\n  \"metadata\": {\n    \"total_parameters\": 3,\n    \"total_size\": 6\n  },\n  \"weight_map\": {\n    \"a\": \"x\",\n    \"b\": \"y\"\n  }\n}\n";
        assert_eq!(index, expected);
    }
}
