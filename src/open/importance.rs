//! A file of importance, by its content: safetensors of anybody's making, llama.cpp's imatrix as a GGUF, or its older form.
//!
//! Everything is read into memory: a model's input channels are some megabytes, those of a large mixture of experts some
//! hundred.

use super::headers::{self, read_range};
use crate::checkpoint::{ByteOrder, Container, Part, Tensor};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::format::imatrix;
use crate::source::ReadAt;
use crate::source::local::LocalFile;
use crate::text::bytes;
use crate::transform::cast::{cast, swap_fields};
use crate::transform::importance::{Entry, Importance, Others};
use std::collections::BTreeMap;
use std::path::Path;

/// The largest file that is read: several times that of the largest model there is.
const FILE_BYTES_MAX: u64 = 8 << 30;

/// What a file of importance can be.
const HINT: &str = "safetensors of one weight for each input channel, by the tensor's name; or llama.cpp's imatrix, GGUF or .dat";

/// How llama.cpp calls the two tensors of an entry.
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

/// Reads a file of importance.
///
/// # Errors
/// `NotFound`, `Io`: as the system says. `BadInput`: none of the forms, or a damaged one; a weight that is NaN, infinite or
/// negative. `Unsupported`: too large.
pub fn importance(path: &Path) -> Result<Importance> {
    let name = path.display().to_string();
    let file = LocalFile::open(path)?;
    let mut out = Importance { file: name.clone(), ..Importance::default() };
    read(&file, &name, &mut out).map_err(|e| e.file(&name))?;
    Ok(out)
}

fn read(file: &dyn ReadAt, name: &str, out: &mut Importance) -> Result<()> {
    let size_bytes = file.size_bytes();
    if size_bytes > FILE_BYTES_MAX {
        return Err(Error::unsupported(format!(
            "has {}, and importance is read up to {}",
            bytes(size_bytes),
            bytes(FILE_BYTES_MAX)
        ))
        .hint(HINT));
    }
    let start = read_range(file, 0..size_bytes.min(8))?;
    // The older form has a name's length, which is never zero, where the length of a safetensors header ends.
    match start.as_slice() {
        [b'G', b'G', b'U', b'F', ..] | [_, _, _, _, 0, 0, 0, 0] => {
            let part = headers::read_part(file, name).map_err(|e| e.hint(HINT))?;
            part.tensors.iter().try_for_each(|t| t.check(size_bytes))?;
            match part.container {
                Container::Gguf => gguf(file, &part, out),
                _ => plain(file, &part, out),
            }
        }
        _ => legacy(&read_range(file, 0..size_bytes)?, out),
    }
}

/// A tensor's numbers.
fn numbers(file: &dyn ReadAt, tensor: &Tensor) -> Result<Vec<f32>> {
    let of = |e: Error| e.tensor(&tensor.name);
    let span = tensor.at.span;
    let mut raw = read_range(file, span.offset_bytes..span.end_bytes()).map_err(of)?;
    if tensor.at.order == ByteOrder::Big {
        swap_fields(tensor.dtype, &mut raw);
    }
    match tensor.dtype {
        DType::F32 => {}
        DType::F16 | DType::BF16 | DType::F64 => {
            let count = usize::try_from(tensor.element_count()).unwrap_or(0);
            let mut wide = vec![0; count.saturating_mul(4)];
            cast(tensor.dtype, DType::F32, &raw, &mut wide, false);
            raw = wide;
        }
        other => {
            return Err(of(Error::bad_input(format!(
                "has type `{other}`, where importance is f32, f16, bf16 or f64"
            ))
            .hint(HINT)));
        }
    }
    Ok(raw.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

/// safetensors: each tensor is one's importance, `[columns]` or `[matrices, columns]`.
fn plain(file: &dyn ReadAt, part: &Part, out: &mut Importance) -> Result<()> {
    if part.tensors.is_empty() {
        return Err(Error::bad_input("holds no importance: no tensors").hint(HINT));
    }
    for tensor in &part.tensors {
        let (matrix_count, others) = match tensor.shape[..] {
            [_] => (1, Others::Same),
            [matrices, _] => (matrices, Others::None),
            _ => {
                return Err(Error::bad_input(format!(
                    "has shape {:?}, where importance is [columns] or [matrices, columns]",
                    tensor.shape
                ))
                .tensor(&tensor.name)
                .hint(HINT));
            }
        };
        let weights = numbers(file, tensor)?.into();
        out.add(
            &Importance::whole_name(&tensor.name),
            Entry { weights, matrix_count: Some(matrix_count), others },
        )?;
    }
    Ok(())
}

/// A GGUF: sums of squares and counts of tokens, of each matrix of a tensor.
fn gguf(file: &dyn ReadAt, part: &Part, out: &mut Importance) -> Result<()> {
    let mut pairs: BTreeMap<&str, [Option<&Tensor>; 2]> = BTreeMap::new();
    for tensor in &part.tensors {
        for (index, end) in [SUMS, COUNTS].into_iter().enumerate() {
            if let Some(name) = tensor.name.strip_suffix(end) {
                pairs.entry(name).or_default()[index] = Some(tensor);
            }
        }
    }
    if pairs.is_empty() {
        return Err(Error::bad_input(format!(
            "is a GGUF without importance: no tensor is called `NAME{SUMS}`"
        ))
        .hint(HINT));
    }
    meta(part, out)?;
    for (name, pair) in pairs {
        let [Some(sums), Some(counts)] = pair else {
            let (has, lacks) = if pair[0].is_some() { (SUMS, COUNTS) } else { (COUNTS, SUMS) };
            return Err(Error::bad_input(format!("has `{has}` and no `{lacks}`")).tensor(name));
        };
        if let Some(wrong) = [sums, counts].into_iter().find(|t| t.dtype != DType::F32) {
            return Err(Error::bad_input(format!(
                "has type `{}`, where sums and counts are f32",
                wrong.dtype
            ))
            .tensor(&wrong.name));
        }
        let mut weights = numbers(file, sums)?;
        let tokens = numbers(file, counts)?;
        let columns = weights.len().checked_div(tokens.len()).unwrap_or(0);
        if columns == 0 || !weights.len().is_multiple_of(tokens.len()) {
            return Err(Error::bad_input(format!("has {} sums for {} counts", weights.len(), tokens.len()))
                .tensor(name));
        }
        for (row, &count) in weights.chunks_exact_mut(columns).zip(&tokens) {
            mean(row, count).map_err(|e| e.tensor(name))?;
        }
        let matrix_count = Some(tokens.len() as u64);
        out.add(name, Entry { weights: weights.into(), matrix_count, others: Others::None })?;
    }
    Ok(())
}

/// Sums become means; where nothing was summed all channels count alike.
fn mean(sums: &mut [f32], count: f32) -> Result<()> {
    if let Some(sum) = sums.iter().find(|s| !s.is_finite() || **s < 0.0) {
        return Err(Error::bad_input(format!("has {sum} for a sum of squares")));
    }
    // Half away from zero, as the reference rounds.
    let count = count.round();
    if !(0.0..i64::MAX as f32).contains(&count) {
        return Err(Error::bad_input(format!("has a count of {count} tokens")));
    }
    sums.iter_mut().for_each(|x| *x = if count > 0.0 { *x / count } else { 1.0 });
    Ok(())
}

/// What a GGUF says of how it was measured. llama-quantize refuses one that does not say it.
fn meta(part: &Part, out: &mut Importance) -> Result<()> {
    let get = |key: &str| {
        let found = part.meta.iter().find(|(k, _)| k == key).map(|(_, value)| value);
        found.ok_or_else(|| Error::bad_input(format!("has no key `{key}`, which an imatrix has")).hint(HINT))
    };
    let count = |key: &str| {
        let value = get(key)?.as_u64().and_then(|n| u32::try_from(n).ok());
        value.ok_or_else(|| Error::bad_input(format!("has a key `{key}` that is no count")))
    };
    let key = "imatrix.datasets";
    let texts = get(key)?.as_array().and_then(|a| a.texts());
    let texts =
        texts.ok_or_else(|| Error::bad_input(format!("has a key `{key}` that is no list of texts")))?;
    out.datasets = texts.map(|t| String::from_utf8_lossy(t).into_owned()).collect();
    out.chunk_count = Some(count("imatrix.chunk_count")?).filter(|&n| i32::try_from(n).is_ok());
    count("imatrix.chunk_size")?;
    Ok(())
}

/// llama.cpp's older form.
fn legacy(bytes: &[u8], out: &mut Importance) -> Result<()> {
    let file = imatrix::parse(bytes).map_err(|e| e.hint(HINT))?;
    for entry in &file.entries {
        let weights = entry.means().collect();
        out.add(entry.name, Entry { weights, matrix_count: None, others: Others::None })?;
    }
    out.chunk_count = file.chunk_count.and_then(|n| u32::try_from(n).ok());
    out.datasets = file.dataset.map(str::to_owned).into_iter().collect();
    Ok(())
}
