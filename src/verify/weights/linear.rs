//! Products with weights.
//!
//! candle multiplies f32 and f16 on the CPU, not bf16. Weights of 16 bits are widened as they are used, a tile at a time,
//! and multiplied and summed in f32: half the memory of f32, and no more than a tile of it twice. What comes in is f32 as a
//! rule, and nothing of it is lost then; a device that multiplies 16 bits by 16 bits rounds it first.

use candle_core::quantized::QTensor;
use candle_core::{CustomOp1, DType, Device, Result, Storage, Tensor, WithDType};
use half::{bf16, f16};
use rayon::prelude::*;

/// Elements of a tile of widened weights.
const TILE_ELEMENTS: usize = 4 << 20;
/// Up to so many rows of input each weight is read once and widened on the fly; beyond, widening it first pays off.
const FEW_ROWS: usize = 4;
/// Elements of a weight that are worth another thread for one row of input.
const PIECE_ELEMENTS: usize = 1 << 18;
/// Numbers that are multiplied side by side.
const LANES: usize = 16;

/// `x · weightᵀ`, `weight` `[out, in]` or `[1, out, in]`, `x` `[.., in]`.
pub(super) fn plain(weight: &Tensor, x: &Tensor) -> Result<Tensor> {
    let weight = if weight.rank() == 3 { weight.squeeze(0)? } else { weight.clone() };
    let (outputs, inputs) = weight.dims2()?;
    let mut shape = x.dims().to_vec();
    shape.pop();
    let rows: usize = shape.iter().product();
    shape.push(outputs);
    let x = x.reshape((rows, inputs))?;
    let product = match (x.device(), weight.dtype()) {
        (Device::Cpu, DType::BF16 | DType::F16) => of_narrow(&weight, &x)?,
        (Device::Cpu, _) if rows == 1 => one_row(&weight, &x)?,
        (_, dtype) => x.to_dtype(dtype)?.matmul(&weight.t()?)?,
    };
    product.to_dtype(x.dtype())?.reshape(shape)
}

/// `x · matrixᵀ` for a matrix in blocks, in the type of `x`.
pub(super) fn blocks(matrix: &QTensor, x: &Tensor) -> Result<Tensor> {
    let by_candle = |x: &Tensor| x.contiguous()?.apply_op1_no_bwd(matrix);
    // On a GPU its kernels take f32 only.
    match (matrix.device(), x.dtype()) {
        (Device::Cpu, _) | (_, DType::F32) => by_candle(x),
        (_, dtype) => by_candle(&x.to_dtype(DType::F32)?)?.to_dtype(dtype),
    }
}

/// One row, as when text is generated: bound by reading the weight. The library's product of a matrix with a vector runs on
/// one thread, and one thread does not fill the memory's bandwidth; so each takes a piece of the weight's rows.
fn one_row(weight: &Tensor, x: &Tensor) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    let pieces = (outputs.saturating_mul(inputs) / PIECE_ELEMENTS).min(rayon::current_num_threads());
    if pieces < 2 {
        return x.matmul(&weight.t()?);
    }
    let step = outputs.div_ceil(pieces);
    let starts: Vec<usize> = (0..outputs).step_by(step).collect();
    let piece = |&from: &usize| x.matmul(&weight.narrow(0, from, step.min(outputs - from))?.t()?);
    let parts: Vec<Tensor> = starts.par_iter().map(piece).collect::<Result<_>>()?;
    Tensor::cat(&parts, 1)
}

/// A weight of 16 bits, in 32-bit arithmetic: the product in 32 bits.
fn of_narrow(weight: &Tensor, x: &Tensor) -> Result<Tensor> {
    let (rows, inputs) = x.dims2()?;
    let outputs = weight.dim(0)?;
    let wide = x.to_dtype(DType::F32)?;
    if rows <= FEW_ROWS && weight.dtype() == DType::BF16 {
        return wide.contiguous()?.apply_op1_no_bwd(&Few(weight.contiguous()?));
    }
    let step = (TILE_ELEMENTS / inputs.max(1)).clamp(1, outputs.max(1));
    let mut tiles = Vec::with_capacity(outputs.div_ceil(step));
    for first in (0..outputs).step_by(step) {
        let count = step.min(outputs - first);
        let tile = widened(&weight.narrow(0, first, count)?)?;
        tiles.push(wide.matmul(&tile.t()?)?);
    }
    Tensor::cat(&tiles, 1)
}

/// The numbers of a contiguous tensor on the CPU.
fn with_numbers<N: WithDType, T>(tensor: &Tensor, work: impl FnOnce(&[N]) -> Result<T>) -> Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { candle_core::bail!("not on the CPU") };
    let all = storage.as_slice::<N>()?;
    let range = layout.contiguous_offsets();
    match range.and_then(|(start, end)| all.get(start..end)) {
        Some(numbers) => work(numbers),
        None => candle_core::bail!("not contiguous"),
    }
}

fn widened(tile: &Tensor) -> Result<Tensor> {
    match tile.dtype() {
        DType::BF16 => widened_from(tile, bf16::to_f32),
        _ => widened_from(tile, f16::to_f32),
    }
}

fn widened_from<N: WithDType>(tile: &Tensor, widen: impl Fn(N) -> f32 + Sync) -> Result<Tensor> {
    let wide = with_numbers(tile, |numbers: &[N]| {
        let mut wide = vec![0.0f32; numbers.len()];
        let pieces = wide.par_chunks_mut(1 << 16).zip(numbers.par_chunks(1 << 16));
        pieces.for_each(|(to, from)| to.iter_mut().zip(from).for_each(|(to, from)| *to = widen(*from)));
        Ok(wide)
    })?;
    Tensor::from_vec(wide, tile.shape(), &Device::Cpu)
}

/// A few rows times all of a weight: bound by reading the weight.
struct Few(Tensor);

impl CustomOp1 for Few {
    fn name(&self) -> &'static str {
        "linear-bf16"
    }

    fn cpu_fwd(
        &self,
        storage: &candle_core::CpuStorage,
        layout: &candle_core::Layout,
    ) -> Result<(candle_core::CpuStorage, candle_core::Shape)> {
        let (rows, inputs) = layout.shape().dims2()?;
        let outputs = self.0.dim(0)?;
        let all = storage.as_slice::<f32>()?;
        let x = layout.contiguous_offsets().and_then(|(start, end)| all.get(start..end));
        let Some(x) = x else { candle_core::bail!("not contiguous") };
        let mut product = vec![0.0f32; rows * outputs];
        if inputs > 0 && outputs > 0 {
            with_numbers(&self.0, |weight: &[bf16]| {
                // Columns of the product in turn: each weight is read once for all rows.
                let mut columns = vec![0.0f32; rows * outputs];
                let work =
                    columns.par_chunks_mut(rows.max(1)).zip(weight.par_chunks(inputs)).with_min_len(16);
                work.for_each(|(column, weight)| {
                    for (to, x) in column.iter_mut().zip(x.chunks_exact(inputs)) {
                        *to = dot(weight, x);
                    }
                });
                for (output, column) in columns.chunks_exact(rows.max(1)).enumerate() {
                    for (row, value) in column.iter().enumerate() {
                        product[row * outputs + output] = *value;
                    }
                }
                Ok(())
            })?;
        }
        Ok((candle_core::CpuStorage::F32(product), (rows, outputs).into()))
    }
}

fn dot(weight: &[bf16], x: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (weights, weight_rest) = weight.as_chunks::<LANES>();
    let (xs, x_rest) = x.as_chunks::<LANES>();
    for (w, x) in weights.iter().zip(xs) {
        for lane in 0..LANES {
            sums[lane] += f32::from_bits(u32::from(w[lane].to_bits()) << 16) * x[lane];
        }
    }
    let rest: f32 = weight_rest.iter().zip(x_rest).map(|(w, x)| w.to_f32() * x).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_row_in_pieces() {
        for (outputs, inputs) in [(1, 8), (40, 48), (2049, 257), (3001, 512)] {
            let weight = Tensor::randn(0f32, 1., (outputs, inputs), &Device::Cpu).unwrap();
            let x = Tensor::randn(0f32, 1., (2, inputs), &Device::Cpu).unwrap();
            // Two rows go another way.
            let expected = plain(&weight, &x).unwrap().to_vec2::<f32>().unwrap();
            let found = plain(&weight, &x.narrow(0, 0, 1).unwrap()).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(found[0].len(), outputs);
            assert!(
                found[0].iter().zip(&expected[0]).all(|(a, b)| (a - b).abs() < 1e-3),
                "{outputs} {inputs}"
            );
        }
    }

    #[test]
    fn bf16_is_f32_rounded_once() {
        for (rows, outputs, inputs) in [(1, 40, 48), (3, 33, 50), (9, 70, 64), (5, 3, 1)] {
            let random = |n: usize, m: usize| {
                Tensor::randn(0f32, 1., (n, m), &Device::Cpu).unwrap().to_dtype(DType::BF16).unwrap()
            };
            let (w, x) = (random(outputs, inputs), random(rows, inputs));
            let wide = |t: &Tensor| t.to_dtype(DType::F32).unwrap();
            let expected = wide(&x).matmul(&wide(&w).t().unwrap()).unwrap();
            let found = plain(&w, &x.unsqueeze(0).unwrap()).unwrap();
            assert_eq!(found.dims(), [1, rows, outputs]);
            assert_eq!(found.dtype(), DType::BF16);
            let differ = wide(&found.squeeze(0).unwrap()).sub(&expected).unwrap().abs().unwrap();
            let worst = differ.max_all().unwrap().to_scalar::<f32>().unwrap();
            let largest = expected.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(worst <= largest / 256.0 + 1e-5, "{rows} {outputs} {inputs}: {worst} of {largest}");
        }
    }
}
