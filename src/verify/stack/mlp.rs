//! The dense feed-forward part, and activations.

use super::Part;
use crate::error::{Error, Result};
use crate::transform::arch::forward::{Activation, Gate};
use crate::verify::candle;
use crate::verify::kernels;
use candle_core::{D, DType, Result as CandleResult, Tensor};

/// The matrices `ffn_up`, `ffn_gate`, `ffn_down` with `suffix` behind their names.
pub(super) fn dense(
    part: &Part<'_>,
    suffix: &str,
    gate: Gate,
    activation: Activation,
    x: &Tensor,
) -> Result<Tensor> {
    let hidden = x.dim(D::Minus1).map_err(candle)?;
    let up = part.linear(&format!("ffn_up{suffix}"), x, None)?;
    let y = match gate {
        Gate::None => activate(up, activation)?,
        Gate::Separate => {
            let width = up.dim(D::Minus1).map_err(candle)?;
            gated(part.linear(&format!("ffn_gate{suffix}"), x, Some(width))?, &up, activation)?
        }
        Gate::FirstHalf => {
            let width = up.dim(D::Minus1).map_err(candle)?;
            if !width.is_multiple_of(2) {
                let what = format!("has {width} rows, where gate and input are halves of them");
                return Err(Error::bad_input(what).tensor(part.name(&format!("ffn_up{suffix}.weight"))));
            }
            let half = |from| up.narrow(D::Minus1, from, width / 2);
            // A copy even where the half of one row is contiguous as it is: it is changed in place.
            let gate = half(0).and_then(|t| t.force_contiguous()).map_err(candle)?;
            gated(gate, &half(width / 2).map_err(candle)?, activation)?
        }
    };
    part.linear(&format!("ffn_down{suffix}"), &y, Some(hidden))
}

/// `activation(gate) · up`, both of one shape. `gate` is used up.
pub(super) fn gated(gate: Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    let run = || -> CandleResult<Tensor> {
        let (dtype, gate, up) = (gate.dtype(), own(&gate)?, up.to_dtype(DType::F32)?.contiguous()?);
        let y = if kernels::takes(&gate) {
            fast(&gate, Some(&up), activation)?;
            gate
        } else {
            slow(&gate, Some(&up), activation)?
        };
        y.to_dtype(dtype)
    };
    run().map_err(candle)
}

/// `activation(x)`. `x` is used up.
fn activate(x: Tensor, activation: Activation) -> Result<Tensor> {
    let run = || -> CandleResult<Tensor> {
        let (dtype, x) = (x.dtype(), own(&x)?);
        let y = if kernels::takes(&x) {
            fast(&x, None, activation)?;
            x
        } else {
            slow(&x, None, activation)?
        };
        y.to_dtype(dtype)
    };
    run().map_err(candle)
}

/// In 32 bits, its elements in a row.
fn own(x: &Tensor) -> CandleResult<Tensor> {
    x.to_dtype(DType::F32)?.contiguous()
}

/// Elements of a row that a thread takes at once.
const ROW: usize = 1024;

/// In place: `x` becomes `activation(x)`, times `up` where there is one.
fn fast(x: &Tensor, up: Option<&Tensor>, activation: Activation) -> CandleResult<()> {
    // One loop for each activation, so that each compiles to one without a branch.
    match activation {
        Activation::Silu => map(x, up, |x, up| up * x / (1.0 + kernels::exp(-x))),
        Activation::Gelu => {
            map(x, up, |x, up| up * 0.5 * x * (1.0 + kernels::erf(x * std::f32::consts::FRAC_1_SQRT_2)))
        }
        Activation::GeluTanh => map(x, up, |x, up| up * 0.5 * x * (1.0 + kernels::tanh(bent(x)))),
        // Comparisons and not `max`, which would turn NaN into a number.
        Activation::Relu => map(x, up, |x, up| up * if x < 0.0 { 0.0 } else { x }),
        Activation::ClampedSwiglu { alpha, limit } => map(x, up, |x, up| {
            let x = if x > limit { limit } else { x };
            (up.clamp(-limit, limit) + 1.0) * x / (1.0 + kernels::exp(-alpha * x))
        }),
    }
}

/// What the tangent is taken of: √(2/π) (x + 0.044715 x³).
#[inline(always)]
fn bent(x: f32) -> f32 {
    0.797_884_6 * (x + 0.044_715 * x * x * x)
}

fn map(x: &Tensor, up: Option<&Tensor>, f: impl Fn(f32, f32) -> f32 + Sync + Send) -> CandleResult<()> {
    let run = |up: Option<&[f32]>| {
        kernels::change(x, |all| {
            let whole = all.len() / ROW * ROW;
            let (rows, rest) = all.split_at_mut(whole);
            let one = |at: usize, row: &mut [f32]| match up {
                Some(up) => row.iter_mut().zip(&up[at..]).for_each(|(x, &up)| *x = f(*x, up)),
                None => row.iter_mut().for_each(|x| *x = f(*x, 1.0)),
            };
            kernels::each_row(rows, ROW, 8, |at, row| one(at * ROW, row));
            one(whole, rest);
        })
    };
    match up {
        Some(up) => kernels::read(up, |up| run(Some(up))),
        None => run(None),
    }
}

/// In candle's operations.
fn slow(x: &Tensor, up: Option<&Tensor>, activation: Activation) -> CandleResult<Tensor> {
    let y = match activation {
        Activation::Silu => x.silu()?,
        Activation::Gelu => x.gelu_erf()?,
        Activation::GeluTanh => x.gelu()?,
        Activation::Relu => x.relu()?,
        Activation::ClampedSwiglu { alpha, limit } => {
            let x = x.minimum(limit)?;
            (&x * candle_nn::ops::sigmoid(&(&x * f64::from(alpha))?)?)?
        }
    };
    match (up, activation) {
        (None, Activation::ClampedSwiglu { .. }) => y * 2.0,
        (None, _) => Ok(y),
        (Some(up), Activation::ClampedSwiglu { limit, .. }) => (up.clamp(-limit, limit)? + 1.0)? * y,
        (Some(up), _) => y * up,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    const ALL: [Activation; 5] = [
        Activation::Silu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Relu,
        Activation::ClampedSwiglu { alpha: 1.702, limit: 3.0 },
    ];

    #[test]
    fn fast_as_slow() {
        for activation in ALL {
            for n in [1, 5, ROW, 3 * ROW + 7, 40 * ROW] {
                let x = Tensor::randn(0f32, 4.0, n, &Device::Cpu).unwrap();
                let up = Tensor::randn(0f32, 2.0, n, &Device::Cpu).unwrap();
                for up in [None, Some(&up)] {
                    let slow = slow(&x, up, activation).unwrap().to_vec1::<f32>().unwrap();
                    let x = x.copy().unwrap();
                    fast(&x, up, activation).unwrap();
                    for (a, b) in x.to_vec1::<f32>().unwrap().iter().zip(&slow) {
                        assert!((a - b).abs() < 1e-5, "{activation:?}: {a} {b}");
                    }
                }
            }
        }
    }

    #[test]
    fn nan_stays() {
        for activation in ALL {
            for (x, up) in [(f32::NAN, 1.0), (1.0, f32::NAN)] {
                let x = Tensor::full(x, 3, &Device::Cpu).unwrap();
                let up = Tensor::full(up, 3, &Device::Cpu).unwrap();
                let x = gated(x, &up, activation).unwrap();
                assert!(x.to_vec1::<f32>().unwrap().iter().all(|x| x.is_nan()), "{activation:?}");
            }
        }
    }
}
