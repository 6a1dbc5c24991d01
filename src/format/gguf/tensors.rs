//! Tensor infos, and whether the data they describe fills the rest of the file.
//!
//! llama.cpp wants each offset to be the running sum of the padded sizes before it, in the order of the infos. Here the
//! order is free, as in the specification, but the meaning is as firm: sorted by offset, each tensor begins where the
//! one before it ends, up to alignment, and nothing follows the last but its own padding. So no byte has two meanings
//! and none is hidden.

use super::cursor::{Cursor, Stop, Take};
use crate::checkpoint::{ByteOrder, Extent, FileId, Span, Tensor};
use crate::dtype::{DType, element_count};
use crate::error::{Error, Result};
use crate::text::grouped;
use std::collections::HashSet;

/// The most dimensions of a tensor, by the specification of version 3.
pub(super) const DIMENSIONS_MAX: u32 = 4;

/// llama.cpp reads names shorter than this.
pub(super) const LLAMA_CPP_NAME_BYTES: usize = 64;

/// Types that ggml had and gave up: their files are read by nobody any more.
const DEAD_TYPES: [(u32, &str, &str); 8] = [
    (4, "Q4_2", EARLY),
    (5, "Q4_3", EARLY),
    (31, "Q4_0_4_4", REPACKED_Q4_0),
    (32, "Q4_0_4_8", REPACKED_Q4_0),
    (33, "Q4_0_8_8", REPACKED_Q4_0),
    (36, "IQ4_NL_4_4", REPACKED_IQ4_NL),
    (37, "IQ4_NL_4_8", REPACKED_IQ4_NL),
    (38, "IQ4_NL_8_8", REPACKED_IQ4_NL),
];
const EARLY: &str = "an experiment of 2023; download a newer file of this model";
const REPACKED_Q4_0: &str =
    "a file repacked for one kind of CPU; download the `Q4_0` file of this model again";
const REPACKED_IQ4_NL: &str =
    "a file repacked for one kind of CPU; download the `IQ4_NL` file of this model again";

/// Types whose blocks ggml writes and reads through integers of other widths than the struct declares, so that what a
/// big-endian machine would leave in a file is not settled; gguf's own converter between byte orders refuses them too.
const UNSETTLED_BIG_ENDIAN: [DType; 3] = [DType::IQ1M, DType::IQ2XXS, DType::IQ3XXS];

/// Reads `count` tensor infos. Offsets stay relative to the data, which begins where the infos end.
pub(super) fn infos(c: &mut Cursor<'_>, count: u64, alignment: u64) -> Take<Vec<Tensor>> {
    let known_count = usize::try_from(count.min(c.known_bytes() / least_info_bytes(c))).unwrap_or(0);
    let mut tensors = Vec::with_capacity(known_count);
    let mut seen = HashSet::with_capacity(known_count);
    for _ in 0..count {
        let start = c.at();
        let name = c.name("the name of a tensor")?;
        if !seen.insert(name) {
            return Err(Stop::Fail(Error::bad_input("is there twice").tensor(name).at(start)));
        }
        let tensor = info(c, name, alignment).map_err(|stop| stop.explain(|e| e.tensor(name).at(start)))?;
        tensors.push(tensor);
    }
    Ok(tensors)
}

/// The bytes of an info without name and dimensions.
pub(super) fn least_info_bytes(c: &Cursor<'_>) -> u64 {
    c.size_width() + 4 + 4 + 8
}

/// The rest of one info, after its name. Messages are predicates of the tensor.
fn info(c: &mut Cursor<'_>, name: &str, alignment: u64) -> Take<Tensor> {
    const WHAT: &str = "has a description that";
    let at = c.at();
    let dimension_count = c.u32(WHAT)?;
    if dimension_count > DIMENSIONS_MAX {
        let message = format!("has {dimension_count} dimensions; GGUF has at most {DIMENSIONS_MAX}");
        return Err(Stop::Fail(Error::bad_input(message).at(at)));
    }
    let mut shape = Vec::with_capacity(dimension_count as usize);
    for _ in 0..dimension_count {
        shape.push(c.size(WHAT)?);
    }
    // GGUF writes the contiguous dimension first.
    let row_elements = shape.first().copied().unwrap_or(1);
    shape.reverse();
    let at = c.at();
    let dtype = dtype(c.u32(WHAT)?).map_err(|e| e.at(at))?;
    if c.order == ByteOrder::Big && UNSETTLED_BIG_ENDIAN.contains(&dtype) {
        let message = format!("has type `{dtype}` in a big-endian file, where its layout is not settled");
        return Err(Stop::Fail(Error::unsupported(message).at(at)));
    }
    let size_bytes = size_bytes(dtype, row_elements, &shape)?;
    let at = c.at();
    let offset_bytes = c.u64(WHAT)?;
    if !offset_bytes.is_multiple_of(alignment) {
        let message = format!(
            "begins at {} of the data, no multiple of the alignment {alignment}",
            grouped(offset_bytes)
        );
        return Err(Stop::Fail(Error::bad_input(message).at(at)));
    }
    let span = Span { file: FileId(0), offset_bytes, size_bytes };
    // What consists of single bytes is the same in either order, and stays a plain copy.
    let swaps = dtype.facts().fields.iter().any(|&(width_bytes, _)| width_bytes > 1);
    let order = if swaps { c.order } else { ByteOrder::Little };
    Ok(Tensor { name: name.to_string(), dtype, shape, at: Extent { order, ..Extent::plain(span) } })
}

/// The type with this id of ggml.
fn dtype(id: u32) -> Result<DType> {
    DType::from_ggml(id).ok_or_else(|| match DEAD_TYPES.iter().find(|row| row.0 == id) {
        Some((_, name, what)) => {
            Error::unsupported(format!("has type {id} (`{name}`), which ggml gave up")).hint(*what)
        }
        None => Error::unsupported(format!("has type {id}, which is no type of ggml that hoist knows")),
    })
}

/// Bytes of the data. Rows must be whole blocks, and all products must fit an i64, as ggml has them.
fn size_bytes(dtype: DType, row_elements: u64, shape: &[u64]) -> Result<u64> {
    let block_elements = u64::from(dtype.facts().block_elements);
    if !row_elements.is_multiple_of(block_elements) {
        return Err(Error::bad_input(format!(
            "has rows of {} elements, no multiple of the {block_elements} in a block of `{dtype}`",
            grouped(row_elements)
        )));
    }
    let fits = |&n: &u64| i64::try_from(n).is_ok();
    // A dimension of zero excuses no overflow of the others, in whatever order they are multiplied.
    let product = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d.max(1))).filter(fits);
    product
        .and_then(|_| dtype.size_bytes(element_count(shape)?))
        .filter(fits)
        .ok_or_else(|| Error::bad_input(format!("has shape {shape:?}, whose size overflows")))
}

/// Turns relative offsets into places in the file, and checks that the tensors fill the data: each begins where the
/// one before ends, up to alignment, and the file ends with the last, or with its padding. Returns notes on what was
/// accepted and is unusual.
pub(super) fn lay_out(
    tensors: &mut [Tensor],
    infos_end_bytes: u64,
    alignment: u64,
    file_size_bytes: u64,
) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    let padded = |end: u64| end.checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
    let data_bytes = padded(infos_end_bytes);
    for tensor in tensors.iter_mut() {
        let span = &mut tensor.at.span;
        let start = u128::from(data_bytes) + u128::from(span.offset_bytes);
        let end = start + u128::from(span.size_bytes);
        match u64::try_from(start) {
            Ok(start) if end <= u128::from(file_size_bytes) => span.offset_bytes = start,
            _ => {
                let end = u64::try_from(end).map_or_else(|_| end.to_string(), grouped);
                let size = grouped(file_size_bytes);
                return Err(Error::bad_input(format!("ends at byte {end} but the file has {size}"))
                    .tensor(&tensor.name)
                    .detail("the file was probably cut short, or its header is damaged"));
            }
        }
    }

    let place = |t: &Tensor| (t.at.span.offset_bytes, t.at.span.size_bytes);
    let mut order: Vec<&Tensor> = tensors.iter().collect();
    if !order.is_sorted_by_key(|t| place(t)) {
        // Stable: tensors of no bytes keep the header's order.
        order.sort_by_key(|t| place(t));
        notes.push("tensors lie in another order than the header lists them; llama.cpp refuses that".into());
    }
    // What the data before reaches: where it ends, and where its padding ends.
    let mut end = infos_end_bytes;
    let mut next = data_bytes;
    let mut before: Option<&Tensor> = None;
    for tensor in order {
        let span = tensor.at.span;
        if span.offset_bytes != next {
            let first = || format!("the data begins at byte {}", grouped(data_bytes));
            let said = before.map_or_else(first, |b| {
                format!("`{}` ends at byte {}", crate::text::Shown(&b.name), grouped(end))
            });
            let fault = if span.offset_bytes < end { "overlaps" } else { "leaves a gap after" };
            let message = format!(
                "begins at byte {} and {fault} what lies before it: {said}, so byte {} is next",
                grouped(span.offset_bytes),
                grouped(next)
            );
            return Err(Error::bad_input(message).tensor(&tensor.name));
        }
        end = span.end_bytes();
        next = padded(end);
        before = Some(tensor);
    }
    if file_size_bytes > next {
        let message = format!(
            "has {} bytes but the data ends at byte {}, padding included; what follows belongs to nothing",
            grouped(file_size_bytes),
            grouped(next)
        );
        return Err(Error::bad_input(message).at(next));
    }
    if file_size_bytes < next && before.is_some() {
        notes.push("the last tensor's padding is missing; its data is whole".into());
    }
    let long = tensors.iter().filter(|t| t.name.len() >= LLAMA_CPP_NAME_BYTES).count();
    if long > 0 {
        notes.push(format!("names of {LLAMA_CPP_NAME_BYTES} bytes or more: {long}; llama.cpp refuses those"));
    }
    Ok(notes)
}
