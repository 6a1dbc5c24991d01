//! Norms. The mean and the square are summed in 32 bits whatever is computed in, and a layer norm's deviation is taken
//! from the mean and not as a difference of squares, which loses all digits where the mean is large.

use super::Part;
use crate::error::Result;
use crate::transform::arch::forward::{Norm, NormKind};
use crate::verify::candle;
use crate::verify::kernels;
use candle_core::{D, DType, Tensor};

/// `x` `[.., width]` normed by the tensors `{end}.weight` and, where there is one, `{end}.bias`, both `[width]`.
pub(super) fn by_name(part: &Part<'_>, end: &str, norm: &Norm, x: &Tensor) -> Result<Tensor> {
    let width = x.dim(D::Minus1).map_err(candle)?;
    let weight = part.tensor(&format!("{end}.weight"), &[width])?;
    let bias = part.find(&format!("{end}.bias"), &[width])?;
    apply(x, Some(&weight), bias.as_ref(), norm)
}

/// `x` `[.., width]` normed over its last dimension, in `x`'s element type.
pub(crate) fn apply(
    x: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    norm: &Norm,
) -> Result<Tensor> {
    let float = |t: &Tensor| t.to_dtype(DType::F32).and_then(|t| t.contiguous());
    let run = || -> candle_core::Result<Tensor> {
        let wide = float(x)?;
        let weight = weight.map(float).transpose()?;
        let bias = bias.map(float).transpose()?;
        let y = if kernels::takes(&wide) {
            fast(&wide, weight.as_ref(), bias.as_ref(), norm)?
        } else {
            slow(&wide, weight.as_ref(), bias.as_ref(), norm)?
        };
        y.to_dtype(x.dtype())
    };
    run().map_err(candle)
}

/// In candle's operations.
fn slow(
    x: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    norm: &Norm,
) -> candle_core::Result<Tensor> {
    let x = match norm.kind {
        NormKind::Rms => x.clone(),
        NormKind::Layer => x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?,
    };
    let square = x.sqr()?.mean_keepdim(D::Minus1)?;
    let mut y = x.broadcast_div(&(square + norm.eps as f64)?.sqrt()?)?;
    if let Some(weight) = weight {
        y = y.broadcast_mul(weight)?;
    }
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

fn fast(
    x: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    norm: &Norm,
) -> candle_core::Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    let optional = |t: Option<&Tensor>, f: &mut dyn FnMut(Option<&[f32]>) -> candle_core::Result<()>| match t
    {
        Some(t) => kernels::read(t, |t| f(Some(t))),
        None => f(None),
    };
    let mut out = vec![0f32; x.elem_count()];
    kernels::read(x, |x| {
        optional(weight, &mut |weight| {
            optional(bias, &mut |bias| {
                kernels::each_row(&mut out, width, 4, |row, y| {
                    let x = &x[row * width..(row + 1) * width];
                    one(x, weight, bias, norm, y);
                });
                Ok(())
            })
        })
    })?;
    Tensor::from_vec(out, x.dims(), x.device())
}

/// One row.
#[inline]
fn one(x: &[f32], weight: Option<&[f32]>, bias: Option<&[f32]>, norm: &Norm, y: &mut [f32]) {
    let count = x.len() as f32;
    let mean = match norm.kind {
        NormKind::Rms => 0.0,
        NormKind::Layer => kernels::sum_over(x, |v| v) / count,
    };
    let square = kernels::sum_over(x, |v| (v - mean) * (v - mean)) / count;
    let factor = 1.0 / (square + norm.eps).sqrt();
    match weight {
        Some(weight) => {
            for ((y, &x), &w) in y.iter_mut().zip(x).zip(weight) {
                *y = (x - mean) * factor * w;
            }
        }
        None => {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = (x - mean) * factor;
            }
        }
    }
    if let Some(bias) = bias {
        for (y, &b) in y.iter_mut().zip(bias) {
            *y += b;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn fast_as_slow() {
        let dev = Device::Cpu;
        for kind in [NormKind::Rms, NormKind::Layer] {
            for (rows, width) in [(1, 1), (1, 7), (3, 16), (5, 33), (200, 257)] {
                let norm = Norm { kind, eps: 1e-5 };
                let x = Tensor::randn(30f32, 2.0, (rows, width), &dev).unwrap();
                let w = Tensor::randn(1f32, 0.1, width, &dev).unwrap();
                let b = Tensor::randn(0f32, 0.1, width, &dev).unwrap();
                for (w, b) in [(None, None), (Some(&w), None), (Some(&w), Some(&b))] {
                    let fast = fast(&x, w, b, &norm).unwrap();
                    let slow = slow(&x, w, b, &norm).unwrap();
                    let off = (fast - slow).unwrap().abs().unwrap().max_all().unwrap();
                    let off = off.to_scalar::<f32>().unwrap();
                    assert!(off < 2e-4, "{kind:?} {rows} × {width}: {off}");
                }
            }
        }
    }
}
