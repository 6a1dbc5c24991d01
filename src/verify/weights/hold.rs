//! What was loaded, as the tensor library's tensors: windows on an arena, or blocks of its own.

use super::Weight;
use super::plan::{Entry, ggml};
use crate::buf::Element;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::load::ArenaTensors;
use crate::transform::block;
use crate::verify::candle;
use candle_core::quantized::{QStorage, QTensor};
use candle_core::{Device, Tensor, WithDType};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// A tensor in memory.
#[derive(Debug, Clone)]
pub(super) enum Held {
    /// Numbers.
    Plain(Tensor),
    /// A matrix in blocks.
    Blocks(Arc<QTensor>, candle_core::DType),
    /// Matrices in blocks: experts.
    Stack(Vec<Arc<QTensor>>, candle_core::DType),
}

/// candle's name for a type that is computed in.
pub(super) fn computing(dtype: DType) -> Result<candle_core::DType> {
    match dtype {
        DType::F32 => Ok(candle_core::DType::F32),
        DType::BF16 => Ok(candle_core::DType::BF16),
        DType::F16 => Ok(candle_core::DType::F16),
        other => {
            Err(Error::usage(format!("`{other}` is no type that is computed in")).hint("f32, bf16 or f16"))
        }
    }
}

fn size(n: u64) -> Result<usize> {
    usize::try_from(n).map_err(|_| Error::bug("a tensor larger than memory can be"))
}

fn sizes(shape: &[u64]) -> Result<Vec<usize>> {
    shape.iter().map(|&n| size(n)).collect()
}

/// The tensors of a load, by their outputs. `outputs` are those that were wanted with their types, in order.
pub(super) fn weights(
    arenas: Vec<ArenaTensors>,
    outputs: &[(usize, DType)],
    dtype: DType,
    device: &Device,
) -> Result<HashMap<usize, Held>> {
    let mut out = HashMap::with_capacity(outputs.len());
    for arena in arenas {
        let of: Vec<usize> = outputs.iter().filter(|(_, d)| *d == arena.dtype).map(|(o, _)| *o).collect();
        if of.len() != arena.tensors.len() {
            return Err(Error::bug("a load gave other tensors than were wanted"));
        }
        let tensors = match arena.dtype {
            DType::F32 => windows::<f32>(arena, device)?,
            DType::BF16 => windows::<half::bf16>(arena, device)?,
            DType::F16 => windows::<half::f16>(arena, device)?,
            _ => blocks(&arena, computing(dtype)?, device)?,
        };
        out.extend(of.into_iter().zip(tensors));
    }
    Ok(out)
}

/// Windows on the arena's own vector.
fn windows<T: Element + WithDType>(arena: ArenaTensors, device: &Device) -> Result<Vec<Held>> {
    let places = arena.tensors.clone();
    let count = size(arena.arena.size_bytes())? / size_of::<T>();
    let (vector, lead) = arena.into_vec::<T>().ok_or_else(|| Error::bug("an arena of another width"))?;
    let all = if device.is_cpu() {
        let length = vector.len();
        Tensor::from_vec(vector, length, device).and_then(|t| t.narrow(0, lead, count))
    } else {
        let end = lead.saturating_add(count);
        let numbers = vector.get(lead..end).ok_or_else(|| Error::bug("an arena ends early"))?;
        Tensor::from_slice(numbers, count, device)
    };
    let all = all.map_err(candle)?;
    places
        .iter()
        .map(|(name, shape, offset_bytes)| {
            let shape = sizes(shape)?;
            let first = size(*offset_bytes)? / size_of::<T>();
            let window = all.narrow(0, first, shape.iter().product()).and_then(|t| t.reshape(shape));
            window.map(Held::Plain).map_err(|e| candle(e).tensor(name))
        })
        .collect()
}

/// Blocks, copied into the tensor library's own memory; a stack is taken apart.
fn blocks(arena: &ArenaTensors, wide: candle_core::DType, device: &Device) -> Result<Vec<Held>> {
    let of = arena.tensors.iter().map(|(name, shape, offset_bytes)| {
        let start = size(*offset_bytes)?;
        let elements = crate::dtype::element_count(shape);
        let bytes =
            elements.and_then(|n| arena.dtype.size_bytes(n)).ok_or_else(|| Error::bug("torn blocks"))?;
        let bytes = arena.arena.as_bytes().get(start..start + size(bytes)?);
        let bytes = bytes.ok_or_else(|| Error::bug("an arena ends early"))?;
        from_blocks(arena.dtype, bytes, shape, wide, device).map_err(|e| e.tensor(name))
    });
    of.collect()
}

fn from_blocks(
    dtype: DType,
    bytes: &[u8],
    shape: &[u64],
    wide: candle_core::DType,
    device: &Device,
) -> Result<Held> {
    let kind = ggml(dtype).ok_or_else(|| Error::bug(format!("no kernels for `{dtype}`")))?;
    let matrix = |bytes: &[u8], shape: &[u64]| -> Result<Arc<QTensor>> {
        let storage = QStorage::from_data(Cow::Borrowed(bytes), device, kind).map_err(candle)?;
        Ok(Arc::new(QTensor::new(storage, sizes(shape)?).map_err(candle)?))
    };
    match shape {
        [_, _] => Ok(Held::Blocks(matrix(bytes, shape)?, wide)),
        [count, rows, columns] => {
            let each = bytes.len() / size(*count)?.max(1);
            let stack = bytes.chunks_exact(each.max(1)).map(|one| matrix(one, &[*rows, *columns]));
            Ok(Held::Stack(stack.collect::<Result<_>>()?, wide))
        }
        _ => Err(Error::bug(format!("blocks in {} dimensions", shape.len()))),
    }
}

impl Held {
    /// All of it; `None` for a stack, of which rows are brought.
    pub(super) fn whole(&self) -> Option<Weight> {
        match self {
            Held::Plain(tensor) => Some(Weight::Plain(tensor.clone())),
            Held::Blocks(matrix, dtype) => {
                Some(Weight::Blocks { matrix: Arc::clone(matrix), of_stack: false, dtype: *dtype })
            }
            Held::Stack(..) => None,
        }
    }

    /// Ranges of its first dimension, which were checked to lie in it.
    pub(super) fn rows(&self, rows: &[Range<u64>], entry: &Entry) -> Result<Weight> {
        match (self, rows) {
            (Held::Plain(tensor), [one]) => {
                let rows = tensor.narrow(0, size(one.start)?, size(one.end - one.start)?);
                rows.map(Weight::Plain).map_err(candle)
            }
            (Held::Plain(tensor), many) => {
                let number = |row: u64| {
                    u32::try_from(row)
                        .map_err(|_| Error::unsupported("has more rows than can be picked from"))
                };
                let numbers = many.iter().cloned().flatten().map(number).collect::<Result<Vec<u32>>>()?;
                let count = numbers.len();
                let picked = Tensor::from_vec(numbers, count, tensor.device());
                let picked = picked.and_then(|numbers| tensor.index_select(&numbers, 0));
                picked.map(Weight::Plain).map_err(candle)
            }
            (Held::Stack(stack, dtype), [one]) if one.end - one.start == 1 => {
                let matrix = stack.get(size(one.start)?).ok_or_else(|| Error::bug("has no such expert"))?;
                Ok(Weight::Blocks { matrix: Arc::clone(matrix), of_stack: true, dtype: *dtype })
            }
            (Held::Stack(stack, dtype), many) => {
                let mut matrices = Vec::new();
                for row in many.iter().cloned().flatten() {
                    let matrix = stack.get(size(row)?).ok_or_else(|| Error::bug("has no such expert"))?;
                    let numbers = matrix.dequantize(&matrix.device()).and_then(|t| t.to_dtype(*dtype));
                    matrices.push(numbers.map_err(candle)?);
                }
                Tensor::stack(&matrices, 0).map(Weight::Plain).map_err(candle)
            }
            (Held::Blocks(matrix, dtype), [one])
                if one.start == 0 && Some(&one.end) == entry.shape.first() =>
            {
                Ok(Weight::Blocks { matrix: Arc::clone(matrix), of_stack: false, dtype: *dtype })
            }
            (Held::Blocks(matrix, dtype), many) => {
                let all = matrix.data().map_err(candle)?;
                let count = entry.shape.first().copied().unwrap_or(1).max(1);
                let columns = size(entry.shape.last().copied().unwrap_or(1))?;
                let row_bytes = all.len() / size(count)?;
                let mut bytes = Vec::new();
                for one in many {
                    let part = all.get(size(one.start)? * row_bytes..size(one.end)? * row_bytes);
                    bytes.extend_from_slice(part.ok_or_else(|| Error::bug("has no such rows"))?);
                }
                let rows = bytes.len() / row_bytes.max(1);
                // A band of the vocabulary is multiplied with; single tokens are looked up.
                if let [_] = many {
                    let shape = [rows as u64, columns as u64];
                    let band = from_blocks(entry.dtype, &bytes, &shape, *dtype, &matrix.device())?;
                    return band.whole().ok_or_else(|| Error::bug("a band that is a stack"));
                }
                let mut numbers = vec![0.0f32; rows * columns];
                block::decode(entry.dtype, &bytes, &mut numbers);
                let tensor = Tensor::from_vec(numbers, (rows, columns), &matrix.device());
                tensor.and_then(|t| t.to_dtype(*dtype)).map(Weight::Plain).map_err(candle)
            }
        }
    }
}
