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
//! The same freedom serves a copy by reference: a file system shares blocks between two files only where both have the
//! bytes at the same place within a block, so a caller can say where within a block the data shall start.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::format::layout::{Entry, Laid, end_bytes, refuse_twins};
use crate::text::grouped;
use serde_json::Value;
use std::fmt::Write;

/// Data starts at a multiple of this, unless the caller asks for a place within a block.
pub const DATA_ALIGNMENT_BYTES: u64 = 64;

/// The blocks of a file system that can share them between files (of btrfs and XFS, on machines with pages of 4 KiB).
pub const BLOCK_BYTES: u64 = 4096;

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

/// Lays a file out. Refused: two tensors of one name, a type that the format lacks, two metadata entries of one key, a
/// header over [`HEADER_SIZE_BYTES_MAX`].
///
/// Metadata is written in the order given; none at all leaves `__metadata__` out. (Hugging Face's own files say
/// `format` = `pt`, and older readers insist on it; that is the caller's to give.)
///
/// With `phase_bytes` the data starts at a place that is equal to it modulo [`BLOCK_BYTES`]: the start of a source's data
/// makes every tensor that lies equally far from it lie equally within its blocks.
pub fn lay_out(tensors: &[Entry], metadata: &[(String, String)], phase_bytes: Option<u64>) -> Result<Laid> {
    let mut order = Vec::with_capacity(tensors.len());
    for (index, tensor) in tensors.iter().enumerate() {
        order.push((rank(tensor)?, tensor.name.as_str(), index));
    }
    // By bytes of the name, as Rust and the reference compare text.
    order.sort_unstable();
    refuse_twins(tensors)?;
    if order.iter().any(|&(_, name, _)| name == METADATA_KEY) {
        return Err(
            Error::unsupported("has the one name that safetensors keeps for itself").tensor(METADATA_KEY)
        );
    }

    let mut json = String::with_capacity(64 + tensors.len().saturating_mul(112));
    json.push('{');
    write_metadata(&mut json, metadata)?;
    let mut offsets = vec![0; tensors.len()];
    let mut next_bytes = 0;
    for &(_, name, index) in &order {
        let tensor = &tensors[index];
        let begin_bytes = next_bytes;
        next_bytes = end_bytes(begin_bytes, tensor.size_bytes()?).map_err(|e| e.tensor(name))?;
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
        let _ = write!(json, r#"],"data_offsets":[{begin_bytes},{next_bytes}]}}"#);
    }
    json.push('}');
    finish(&json, offsets, next_bytes, phase_bytes)
}

/// Reads the header back with our own reader and compares what it finds with what was to be written. To be called before
/// data follows.
pub fn check(laid: &Laid, tensors: &[Entry]) -> Result<()> {
    laid.check(tensors, &[], super::parse)
}

/// Puts the length before the JSON and the padding behind it, and makes the offsets absolute.
fn finish(json: &str, mut offsets: Vec<u64>, data_bytes: u64, phase_bytes: Option<u64>) -> Result<Laid> {
    let least_bytes = json.len() as u64 + 8;
    let start_bytes = match phase_bytes {
        None => least_bytes.next_multiple_of(DATA_ALIGNMENT_BYTES),
        Some(phase) => {
            least_bytes + (phase % BLOCK_BYTES + BLOCK_BYTES - least_bytes % BLOCK_BYTES) % BLOCK_BYTES
        }
    };
    let length = start_bytes - 8;
    if length > HEADER_SIZE_BYTES_MAX {
        return Err(Error::unsupported(format!(
            "the header would take {} bytes; readers of safetensors take up to {}",
            grouped(length),
            grouped(HEADER_SIZE_BYTES_MAX)
        ))
        .hint("more shards have shorter headers"));
    }
    let mut header = Vec::with_capacity(start_bytes as usize);
    header.extend(length.to_le_bytes());
    header.extend(json.as_bytes());
    header.resize(start_bytes as usize, b' ');
    let file_size_bytes = end_bytes(start_bytes, data_bytes)?;
    for offset in &mut offsets {
        // No overflow: each lies before the end, which was just found to fit.
        *offset += start_bytes;
    }
    Ok(Laid { fixed: vec![(0, header)], offsets_bytes: offsets, file_size_bytes })
}

fn rank(tensor: &Entry) -> Result<usize> {
    TYPE_ORDER.iter().position(|&d| d == tensor.dtype).ok_or_else(|| {
        Error::unsupported(format!("is of type `{}`, which safetensors has not", tensor.dtype))
            .tensor(&tensor.name)
    })
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
            None,
        )
        .unwrap();
        let json = concat!(
            r#"{"__metadata__":{"format":"pt","a":""},"#,
            r#""a\"\u0001é":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"#,
            r#""none":{"dtype":"F32","shape":[0],"data_offsets":[4,4]},"#,
            r#""b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]}}"#,
        );
        let [(0, header)] = &laid.fixed[..] else { panic!("{:?}", laid.fixed) };
        assert_eq!(std::str::from_utf8(&header[8..]).unwrap().trim_end_matches(' '), json);
        let start = header.len() as u64;
        assert_eq!(start % DATA_ALIGNMENT_BYTES, 0);
        assert_eq!(header[..8], (start - 8).to_le_bytes());
        assert_eq!(laid.offsets_bytes, [start + 4, start + 4, start]);
        assert_eq!(laid.file_size_bytes, start + 16);
    }

    #[test]
    fn data_starts_where_in_a_block_it_is_asked_to() {
        let tensors = [entry("a", DType::F32, &[3])];
        for phase in [0, 1, 8, 64, 75, 76, 77, 4095, 4096, 5000, u64::MAX] {
            let laid = lay_out(&tensors, &[], Some(phase)).unwrap();
            assert_eq!(laid.offsets_bytes[0] % BLOCK_BYTES, phase % BLOCK_BYTES, "{phase}");
            assert!(laid.offsets_bytes[0] < 2 * BLOCK_BYTES, "{phase}");
            check(&laid, &tensors).unwrap();
        }
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
                "tensor `a` ends beyond",
            ),
            (
                vec![("a", DType::U8, vec![i64::MAX as u64]), ("b", DType::U8, vec![1])],
                vec![],
                "tensor `b` ends beyond",
            ),
            (
                vec![("a", DType::U8, vec![i64::MAX as u64])],
                vec![],
                "ends beyond the largest file there can be",
            ),
            (vec![], vec![("k", "1"), ("k", "2")], "the metadata key `k` would be written twice"),
        ] {
            let tensors: Vec<_> = tensors.into_iter().map(|(n, d, s)| entry(n, d, &s)).collect();
            let metadata: Vec<_> = metadata.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            let error = lay_out(&tensors, &metadata, None).unwrap_err().to_string();
            assert!(error.contains(said), "{error}\nexpected: {said}");
        }
        let long = lay_out(&[], &[("k".into(), "x".repeat(100_000_000))], None).unwrap_err();
        assert!(long.to_string().starts_with("the header would take 100,000,"), "{long}");
    }
}
