//! One layer, whatever the family: a walk over the facts in [`Forward`], for decoders and encoders alike.
//!
//! The stream is in 32 bits whatever the weights are in: a product costs the same, and what 16 bits would add is rounding.
//! Tensors are asked for by name and their shapes are checked where they are used: a file whose matrices do not fit
//! together is told so by a name and two shapes.

mod attention;
mod cache;
mod experts;
mod latent;
mod mlp;
mod norm;
mod rope;
mod scores;

pub use cache::LayerCache;

use crate::error::{Error, Result};
use crate::transform::arch::forward::{Attention, Forward, Layer, Mlp, Norm, Rope};
use crate::verify::candle;
use crate::verify::kernels;
use crate::verify::weights::{Tensors, Weight, Weights};
use candle_core::{D, DType, DeviceLocation, Tensor};
use rope::Table;
use std::sync::{Arc, Mutex, PoisonError};

/// Tables that a pass keeps: as many as a model has ropes, and some lengths.
const TABLES_MAX: usize = 8;

/// A table, and what it was made for: a number of positions and a device. The rotary embedding is known by what it is and
/// not by its place, so that two models can share a pass.
type Known = (Rope, usize, DeviceLocation, Arc<Table>);

/// What is common to all layers that some tokens pass. Keep one for all layers, and for all windows of tokens that begin
/// at the same position: it holds the tables of the rotary embeddings.
#[derive(Debug)]
pub struct Pass<'a> {
    /// Position of the first token.
    pub positions: usize,
    /// `[b, n]` of u8, 1 where there is a token; all are where it is missing. Not together with a cache.
    pub padding: Option<&'a Tensor>,
    tables: Mutex<Vec<Known>>,
}

impl<'a> Pass<'a> {
    /// Of tokens from a position on.
    pub fn new(positions: usize, padding: Option<&'a Tensor>) -> Pass<'a> {
        Pass { positions, padding, tables: Mutex::default() }
    }
}

/// One layer's tensors, and what of the model all layers share.
struct Part<'a> {
    forward: &'a Forward,
    index: usize,
    causal: bool,
    weights: &'a Weights,
    tensors: &'a Tensors,
}

/// Queries `[b · kv, n · group, key_dim]`, keys `[b · kv, n, key_dim]` and values `[b · kv, n, value_dim]` of a pass.
struct Projected {
    q: Tensor,
    k: Tensor,
    v: Tensor,
}

/// What layer `index` makes of the stream `x` `[b, n, hidden]`, in 32 bits. With a cache, `x` are the tokens behind those that it
/// holds, and is added to it.
///
/// # Errors
/// `BadInput` with the name of a tensor whose shape does not fit; errors of a load, where experts are brought one by one.
pub fn layer(
    forward: &Forward,
    index: usize,
    weights: &Weights,
    tensors: &Tensors,
    x: &Tensor,
    pass: &Pass<'_>,
    cache: Option<&mut LayerCache>,
) -> Result<Tensor> {
    let Some(facts) = forward.layers.get(index) else {
        return Err(Error::bug(format!("layer {index} of {}", forward.layers.len())));
    };
    let part = Part { forward, index, causal: forward.causal, weights, tensors };
    let x = &x.to_dtype(DType::F32).map_err(candle)?;
    let Layer { norms, norm, residual_scale, .. } = facts;
    let read = part.norm(norms.attention_in, norm, x)?;
    let attention = attention::attention(&part, &facts.attention, &read, pass, cache)?;
    let attention = part.norm(norms.attention_out, norm, &attention)?;
    if facts.parallel {
        let read = match norms.mlp_in {
            Some(_) => part.norm(norms.mlp_in, norm, x)?,
            None => read,
        };
        let mlp = part.norm(norms.mlp_out, norm, &feed_forward(&part, &facts.mlp, &read)?)?;
        let both = add(mlp, 1.0, &attention)?;
        return part.norm(norms.mlp_sum, norm, &add(both, *residual_scale, x)?);
    }
    let x = part.norm(norms.attention_sum, norm, &add(attention, *residual_scale, x)?)?;
    let read = part.norm(norms.mlp_in, norm, &x)?;
    let mlp = part.norm(norms.mlp_out, norm, &feed_forward(&part, &facts.mlp, &read)?)?;
    part.norm(norms.mlp_sum, norm, &add(mlp, *residual_scale, &x)?)
}

/// What the layer's feed-forward part gives for `x` `[b, n, hidden]`.
fn feed_forward(part: &Part<'_>, of: &Mlp, x: &Tensor) -> Result<Tensor> {
    match of {
        Mlp::Dense { gate, activation } => mlp::dense(part, "", *gate, *activation, x),
        Mlp::Experts(e) => experts::experts(part, e, x),
    }
}

/// `x` `[.., width]` normed by `{name}.weight` and, where there is one, `{name}.bias` of a stage.
pub fn normed(tensors: &Tensors, name: &str, norm: &Norm, x: &Tensor) -> Result<Tensor> {
    let width = x.dim(D::Minus1).map_err(candle)?;
    let weight = checked(tensors.get(&format!("{name}.weight"))?, &format!("{name}.weight"), &[width])?;
    let bias = format!("{name}.bias");
    let bias = tensors.find(&bias).map(|w| checked(w, &bias, &[width])).transpose()?;
    norm::apply(x, Some(&weight), bias.as_ref(), norm)
}

/// `y · scale + x`. `y` is used up.
fn add(y: Tensor, scale: f32, x: &Tensor) -> Result<Tensor> {
    let run = || -> candle_core::Result<Tensor> {
        if kernels::takes(&y) && kernels::takes(x) && y.is_contiguous() && x.is_contiguous() {
            let rows = x.elem_count() / x.dim(D::Minus1)?.max(1);
            kernels::read(x, |x| {
                kernels::change(&y, |y| {
                    let width = y.len() / rows.max(1);
                    kernels::each_row(y, width, 1, |at, y| {
                        for (y, &x) in y.iter_mut().zip(&x[at * width..]) {
                            *y = *y * scale + x;
                        }
                    });
                })
            })?;
            return Ok(y);
        }
        if scale == 1.0 { x + y } else { x + (y * f64::from(scale))? }
    };
    run().map_err(candle)
}

/// A weight of the shape that is needed.
fn checked(weight: Weight, name: &str, shape: &[usize]) -> Result<Tensor> {
    let tensor = weight.tensor()?;
    if tensor.dims() == shape {
        return Ok(tensor);
    }
    let what = format!("has shape {:?}, where {shape:?} is needed", tensor.dims());
    Err(Error::bad_input(what).tensor(name))
}

/// `x · weightᵀ` by the matrix `{name}.weight`, plus `{name}.bias` where there is one. `out` is how many rows it must have.
pub fn linear(tensors: &Tensors, name: &str, x: &Tensor, out: Option<usize>) -> Result<Tensor> {
    let full = format!("{name}.weight");
    let weight = tensors.get(&full)?;
    let inputs = x.dim(D::Minus1).map_err(candle)?;
    let dims = match &weight {
        Weight::Plain(t) => t.dims(),
        Weight::Blocks { matrix, .. } => matrix.shape().dims(),
    };
    match *dims {
        [rows, columns] if columns == inputs && out.is_none_or(|out| out == rows) => {}
        _ => {
            let out = out.map_or("..".to_owned(), |out| out.to_string());
            let what = format!("has shape {dims:?}, where [{out}, {inputs}] is needed");
            return Err(Error::bad_input(what).tensor(full));
        }
    }
    let y = weight.linear(x)?;
    let bias = format!("{name}.bias");
    match tensors.find(&bias) {
        None => Ok(y),
        Some(weight) => add_row(y, &checked(weight, &bias, &[dims[0]])?),
    }
}

/// `y` `[.., width]` plus one row. `y` is used up.
pub(super) fn add_row(y: Tensor, row: &Tensor) -> Result<Tensor> {
    let run = || -> candle_core::Result<Tensor> {
        let row = &row.to_dtype(y.dtype())?;
        if kernels::takes(&y) && kernels::takes(row) && y.is_contiguous() && row.is_contiguous() {
            kernels::read(row, |row| {
                kernels::change(&y, |y| {
                    kernels::each_row(y, row.len(), 1, |_, y| {
                        for (y, &x) in y.iter_mut().zip(row) {
                            *y += x;
                        }
                    });
                })
            })?;
            return Ok(y);
        }
        y.broadcast_add(row)
    };
    run().map_err(candle)
}

impl Part<'_> {
    /// A tensor's whole name.
    fn name(&self, end: &str) -> String {
        format!("blk.{}.{end}", self.index)
    }

    /// A tensor of the shape that is needed.
    fn tensor(&self, end: &str, shape: &[usize]) -> Result<Tensor> {
        let name = self.name(end);
        checked(self.tensors.get(&name)?, &name, shape)
    }

    /// The same, where there is one.
    fn find(&self, end: &str, shape: &[usize]) -> Result<Option<Tensor>> {
        let name = self.name(end);
        self.tensors.find(&name).map(|weight| checked(weight, &name, shape)).transpose()
    }

    fn linear(&self, end: &str, x: &Tensor, out: Option<usize>) -> Result<Tensor> {
        linear(self.tensors, &self.name(end), x, out)
    }

    /// `x` itself where there is no such norm.
    fn norm(&self, end: Option<&str>, norm: &Norm, x: &Tensor) -> Result<Tensor> {
        match end {
            Some(end) => norm::by_name(self, end, norm, x),
            None => Ok(x.clone()),
        }
    }

    /// The table of attention's rotary embedding for the positions of a pass, where it has one.
    fn table(&self, a: &Attention, pass: &Pass<'_>, x: &Tensor) -> Result<Option<Arc<Table>>> {
        let Some(place) = a.rope else { return Ok(None) };
        let Some(rope) = self.forward.ropes.get(place) else {
            return Err(Error::bug(format!("rotary embedding {place} of {}", self.forward.ropes.len())));
        };
        let (count, device) = (x.dim(1).map_err(candle)?, x.device().location());
        let mut tables = pass.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |(r, n, d, _): &&Known| (r, *n, *d) == (rope, count, device);
        if let Some((.., table)) = tables.iter().find(known) {
            return Ok(Some(table.clone()));
        }
        let table = Table::new(rope, pass.positions, count, x.device())?;
        if tables.len() == TABLES_MAX {
            tables.remove(0);
        }
        tables.push((rope.clone(), count, device, table.clone()));
        Ok(Some(table))
    }
}
