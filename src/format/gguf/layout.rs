//! Laying a GGUF file out: version 3, little endian, as gguf-py's `GGUFWriter` writes it, byte for byte.
//!
//! llama.cpp is the reader that decides: it wants each tensor's offset to be the running sum of the padded sizes before
//! it in the order of the infos, names shorter than 64 bytes, and at most four dimensions. What it would refuse is
//! refused here, before a byte is written.
//!
//! A model may be split over files. The first then has all keys, every file three of its own (`split.*`), and what a
//! source said of its own splitting is never passed on.

use super::tensors::{DIMENSIONS_MAX, LLAMA_CPP_NAME_BYTES};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT};
use crate::checkpoint::{MetaArray, MetaKind, MetaValue};
use crate::dtype::{Class, DType, element_count};
use crate::error::{Error, Result};
use crate::format::layout::{Entry, Laid, end_bytes, refuse_twins};
use crate::text::{Shown, grouped};
use hashbrown::HashSet;
use std::ops::Range;

/// The version that is written.
const VERSION: u32 = 3;

/// What begins the keys that say how a model is split.
const SPLIT_PREFIX: &str = "split.";

/// The longest key (GGUF's specification).
const KEY_BYTES_MAX: usize = 65_535;

/// Lays a file out: tensors and keys in the order given, data at multiples of `alignment`, which is written as a key of
/// its own where it is not 32 (in the place of that key in `meta`, else last).
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported) for what GGUF or llama.cpp has no form for: types without an id of
/// ggml, names of 64 bytes or more, five dimensions, keys without a value. [`BadInput`](crate::ErrorKind::BadInput) for
/// shapes that are none, names and keys that would be there twice. [`Usage`](crate::ErrorKind::Usage) for an alignment
/// that is not a power of two of at least 8.
pub fn lay_out(tensors: &[Entry], meta: &[(String, MetaValue)], alignment: u32) -> Result<Laid> {
    if alignment < 8 || !alignment.is_power_of_two() {
        let message = format!("an alignment of {alignment}; GGUF's is a power of two, 8 or more");
        return Err(Error::usage(message).hint("32 is what everyone uses"));
    }
    refuse_twins(tensors)?;
    let own = (u64::from(alignment) != DEFAULT_ALIGNMENT).then_some(MetaValue::U32(alignment));
    let meta = aligned_meta(meta, own.as_ref());
    let mut header =
        Vec::with_capacity(64 + meta.len().saturating_mul(64) + tensors.len().saturating_mul(96));
    header.extend(b"GGUF");
    header.extend(VERSION.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((meta.len() as u64).to_le_bytes());
    write_meta(&mut header, &meta)?;

    let alignment = u64::from(alignment);
    let mut offsets_bytes = Vec::with_capacity(tensors.len());
    let mut next_bytes = 0u64;
    for tensor in tensors {
        let size_bytes = write_info(&mut header, tensor, next_bytes).map_err(|e| e.tensor(&tensor.name))?;
        offsets_bytes.push(next_bytes);
        next_bytes = padded_end(next_bytes, size_bytes, alignment).map_err(|e| e.tensor(&tensor.name))?;
    }
    // Padding is zeros, but what covers the whole header leaves nothing to think about.
    let data_bytes = padded_end(0, header.len() as u64, alignment)?;
    if let Ok(size) = usize::try_from(data_bytes) {
        header.resize(size, 0);
    }
    let file_size_bytes = end_bytes(data_bytes, next_bytes)?;
    for offset in &mut offsets_bytes {
        // No overflow: each lies before the end, which was just found to fit.
        *offset += data_bytes;
    }
    Ok(Laid { fixed: vec![(0, header)], offsets_bytes, file_size_bytes })
}

/// Reads the header back with our own reader and compares what it finds with what was to be written. To be called before
/// data follows.
pub fn check(laid: &Laid, tensors: &[Entry]) -> Result<()> {
    laid.check(tensors, &[], super::parse)
}

fn padded_end(offset_bytes: u64, size_bytes: u64, alignment: u64) -> Result<u64> {
    let end = end_bytes(offset_bytes, size_bytes)?;
    end_bytes(end, end.next_multiple_of(alignment) - end)
}

/// The keys with the one for the alignment as it will be: there or not there, whatever the source had.
fn aligned_meta<'a>(
    meta: &'a [(String, MetaValue)],
    own: Option<&'a MetaValue>,
) -> Vec<(&'a str, &'a MetaValue)> {
    let mut out = Vec::with_capacity(meta.len() + 1);
    for (key, value) in meta {
        match key == ALIGNMENT_KEY {
            false => out.push((key.as_str(), value)),
            true => out.extend(own.map(|own| (ALIGNMENT_KEY, own))),
        }
    }
    if !out.iter().any(|&(key, _)| key == ALIGNMENT_KEY) {
        out.extend(own.map(|own| (ALIGNMENT_KEY, own)));
    }
    out
}

fn write_meta(header: &mut Vec<u8>, meta: &[(&str, &MetaValue)]) -> Result<()> {
    let mut seen = HashSet::with_capacity(meta.len());
    for &(key, value) in meta {
        let shown = Shown(key);
        if key.is_empty() {
            return Err(Error::bad_input("a key of the metadata has an empty name"));
        }
        if key.len() > KEY_BYTES_MAX || key.contains('\0') {
            let message = format!(
                "the key `{shown}` is longer than {} bytes or has a NUL",
                grouped(KEY_BYTES_MAX as u64)
            );
            return Err(Error::unsupported(message));
        }
        if !seen.insert(key) {
            return Err(Error::bad_input(format!("the key `{shown}` would be written twice")));
        }
        if value.as_array().is_some_and(|array| !is_whole(array)) {
            return Err(Error::bug(format!("the array of the key `{shown}` is not what it says")));
        }
        write_text(header, key.as_bytes());
        write_value(header, value).ok_or_else(|| {
            Error::unsupported(format!("the key `{shown}` has no value, for which GGUF has no form"))
                .hint("leave the key out")
        })?;
    }
    Ok(())
}

/// Whether an array's bytes are its items, all of them and nothing else. Padding follows the last key, so that a reader
/// would not notice.
fn is_whole(array: &MetaArray) -> bool {
    let each = array.kind.size_bytes().map(u64::from);
    let (count, size_bytes) = match (each, array.texts()) {
        (Some(each), _) => (array.count, array.count.checked_mul(each)),
        (None, Some(texts)) => {
            texts.fold((0, Some(0)), |(n, size), text| (n + 1, plus(size, 8 + text.len() as u64)))
        }
        (None, None) => array.items().fold((0, Some(0)), |(n, size), item| match item {
            MetaValue::Array(inner) if is_whole(&inner) => (n + 1, plus(size, 12 + inner.bytes.len() as u64)),
            _ => (n + 1, None),
        }),
    };
    count == array.count && size_bytes == Some(array.bytes.len() as u64)
}

fn plus(sum: Option<u64>, more: u64) -> Option<u64> {
    sum?.checked_add(more)
}

fn write_text(header: &mut Vec<u8>, text: &[u8]) {
    header.extend((text.len() as u64).to_le_bytes());
    header.extend(text);
}

/// A value's kind and bytes; `None` where GGUF has neither.
fn write_value(header: &mut Vec<u8>, value: &MetaValue) -> Option<()> {
    let mut kind = |kind: MetaKind| header.extend(kind.id().to_le_bytes());
    match value {
        MetaValue::U8(_) => kind(MetaKind::U8),
        MetaValue::I8(_) => kind(MetaKind::I8),
        MetaValue::U16(_) => kind(MetaKind::U16),
        MetaValue::I16(_) => kind(MetaKind::I16),
        MetaValue::U32(_) => kind(MetaKind::U32),
        MetaValue::I32(_) => kind(MetaKind::I32),
        MetaValue::U64(_) => kind(MetaKind::U64),
        MetaValue::I64(_) => kind(MetaKind::I64),
        MetaValue::F32(_) => kind(MetaKind::F32),
        MetaValue::F64(_) => kind(MetaKind::F64),
        MetaValue::Bool(_) => kind(MetaKind::Bool),
        MetaValue::Text(_) => kind(MetaKind::Text),
        MetaValue::Array(array) => {
            kind(MetaKind::Array);
            kind(array.kind);
        }
        MetaValue::Null => return None,
    }
    match value {
        MetaValue::U8(v) => header.push(*v),
        MetaValue::I8(v) => header.extend(v.to_le_bytes()),
        MetaValue::U16(v) => header.extend(v.to_le_bytes()),
        MetaValue::I16(v) => header.extend(v.to_le_bytes()),
        MetaValue::U32(v) => header.extend(v.to_le_bytes()),
        MetaValue::I32(v) => header.extend(v.to_le_bytes()),
        MetaValue::U64(v) => header.extend(v.to_le_bytes()),
        MetaValue::I64(v) => header.extend(v.to_le_bytes()),
        MetaValue::F32(v) => header.extend(v.to_le_bytes()),
        MetaValue::F64(v) => header.extend(v.to_le_bytes()),
        MetaValue::Bool(v) => header.push((*v).into()),
        MetaValue::Text(text) => write_text(header, text),
        // An array's items are kept as GGUF has them.
        MetaValue::Array(array) => {
            header.extend(array.count.to_le_bytes());
            header.extend(&array.bytes);
        }
        MetaValue::Null => {}
    }
    Some(())
}

/// One tensor info; the tensor's bytes. Messages are predicates of the tensor.
fn write_info(header: &mut Vec<u8>, tensor: &Entry, offset_bytes: u64) -> Result<u64> {
    let Entry { name, dtype, shape } = tensor;
    if name.len() >= LLAMA_CPP_NAME_BYTES {
        let message = format!(
            "has a name of {} bytes; llama.cpp reads names of up to {}",
            grouped(name.len() as u64),
            LLAMA_CPP_NAME_BYTES - 1
        );
        return Err(Error::unsupported(message).hint("shorten it with `--rename`"));
    }
    if name.contains('\0') {
        return Err(Error::unsupported("has a NUL in its name, which readers in C would cut there"));
    }
    let Some(id) = dtype.facts().ggml else {
        return Err(Error::unsupported(format!("is of type `{dtype}`, which GGUF has not"))
            .hint(missing_hint(*dtype)));
    };
    if shape.len() > DIMENSIONS_MAX as usize {
        let message = format!("has shape {shape:?}; GGUF has at most {DIMENSIONS_MAX} dimensions");
        return Err(Error::unsupported(message));
    }
    let block_elements = u64::from(dtype.facts().block_elements);
    let row_elements = shape.last().copied().unwrap_or(1);
    if !row_elements.is_multiple_of(block_elements) {
        return Err(Error::unsupported(format!(
            "has rows of {} elements, no multiple of the {block_elements} in a block of `{dtype}`",
            grouped(row_elements)
        )));
    }
    // ggml multiplies dimensions as signed numbers, and a dimension of zero excuses no overflow of the others.
    let product = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d.max(1)));
    if product.is_none_or(|n| i64::try_from(n).is_err()) || element_count(shape).is_none() {
        return Err(Error::bad_input(format!("has shape {shape:?}, whose size overflows")));
    }
    let size_bytes = tensor.size_bytes()?;
    write_text(header, name.as_bytes());
    header.extend((shape.len() as u32).to_le_bytes());
    // The contiguous dimension comes first.
    for size in shape.iter().rev() {
        header.extend(size.to_le_bytes());
    }
    header.extend(id.to_le_bytes());
    header.extend(offset_bytes.to_le_bytes());
    Ok(size_bytes)
}

/// What to do about a type that ggml lacks.
fn missing_hint(dtype: DType) -> &'static str {
    match dtype.facts().class {
        Class::Float => "cast it: `--dtype f32`, `f16` or `bf16`",
        _ => "leave it out: `--exclude NAME`",
    }
}

/// Spreads tensors over files in their order, as gguf-py does: a file is closed when the next tensor would take its data
/// over `size_bytes_max` (padding not counted) or it has `tensors_max` tensors already. A tensor larger than that has a
/// file of its own. No tensors are one file without any.
pub fn split(
    sizes_bytes: &[u64],
    size_bytes_max: Option<u64>,
    tensors_max: Option<usize>,
) -> Vec<Range<usize>> {
    let mut files = Vec::new();
    let (mut start, mut held_bytes) = (0, 0u64);
    for (i, &size) in sizes_bytes.iter().enumerate() {
        let end = held_bytes.saturating_add(size);
        let full = size_bytes_max.is_some_and(|most| end > most)
            || tensors_max.is_some_and(|most| i - start >= most);
        if i > start && full {
            files.push(start..i);
            (start, held_bytes) = (i, 0);
        }
        held_bytes = held_bytes.saturating_add(size);
    }
    files.push(start..sizes_bytes.len());
    files
}

/// The keys of file `index` (from zero) of `count`, of a model of `tensors_count` tensors: `split.*`, before them in the
/// first file the model's own. What `meta` says of a splitting is the source's and goes; where there is one file only,
/// nothing comes in its place.
///
/// # Errors
/// `Usage` for more files than the keys can count.
pub fn split_meta(
    meta: &[(String, MetaValue)],
    index: usize,
    count: usize,
    tensors_count: usize,
) -> Result<Vec<(String, MetaValue)>> {
    let mut keys = Vec::new();
    if index == 0 {
        keys.extend(meta.iter().filter(|(key, _)| !key.starts_with(SPLIT_PREFIX)).cloned());
    }
    if count > 1 {
        let too_many = || {
            Error::usage(format!(
                "{} files of {} tensors; GGUF counts up to {} and {}",
                grouped(count as u64),
                grouped(tensors_count as u64),
                grouped(u16::MAX.into()),
                grouped(i32::MAX as u64)
            ))
            .hint("larger files are fewer: `--split-max-size`, `--split-max-tensors`")
        };
        let narrow = |n: usize| u16::try_from(n).map_err(|_| too_many());
        let tensors = i32::try_from(tensors_count).map_err(|_| too_many())?;
        for (key, value) in [
            ("no", MetaValue::U16(narrow(index)?)),
            ("count", MetaValue::U16(narrow(count)?)),
            ("tensors.count", MetaValue::I32(tensors)),
        ] {
            keys.push((format!("{SPLIT_PREFIX}{key}"), value));
        }
    }
    Ok(keys)
}
