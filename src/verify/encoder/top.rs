//! What stands on top of the hidden states: pooling, dense layers, classes.
//!
//! Everything here is small beside the layers and is computed in f32, text by text: a text's own tokens are cut out, so
//! that padding needs no mask.

use super::{Encoder, Running, rows};
use crate::error::{Error, Result};
use crate::open::{self, Model};
use crate::run::job::StopSign;
use crate::transform::arch::forward::{Norm, NormKind};
use crate::transform::recipe::{Output, Part, Recipe};
use crate::transform::task::{Classes, Dense, Pooling, Task, TopActivation};
use crate::transform::values::values;
use crate::verify::candle;
use crate::verify::stack;
use crate::verify::weights::{Hold, Tensors, Weights};
use candle_core::{D, DType, Device, Tensor};
use std::sync::Arc;

/// A vector shorter than this is divided by it instead of its length, as torch's `normalize` does.
const LENGTH_MIN: f64 = 1e-12;

/// A layer with its numbers, f32.
#[derive(Debug)]
pub(super) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    tanh: bool,
}

/// Loads the dense layers behind the pooling, from folders beside the weights.
pub(super) fn dense(model: &Model, layers: &[Dense], hidden: usize) -> Result<Vec<Linear>> {
    let mut width = hidden;
    let mut out = Vec::with_capacity(layers.len());
    for layer in layers {
        if layer.inputs != width {
            return Err(Error::bad_input(format!(
                "takes {} numbers, where it is given {width}",
                layer.inputs
            ))
            .file(format!("{}/config.json", layer.folder)));
        }
        width = layer.outputs;
        out.push(one(model, layer).map_err(|e| e.file(layer.folder.as_str()))?);
    }
    Ok(out)
}

fn one(model: &Model, layer: &Dense) -> Result<Linear> {
    let model = match model.place.directory() {
        Some(directory) => {
            let path = directory.join(&layer.folder);
            let path = path.to_str().ok_or_else(|| Error::bad_input("has a name that is not UTF-8"))?;
            open::open(path, &open::Options::default())?
        }
        None => model.below(&layer.folder)?,
    };
    let model = Arc::new(model);
    let values = values(&model.table, None)?.values;
    let needed: &[(&str, Vec<u64>)] = &[
        ("linear.weight", vec![layer.outputs as u64, layer.inputs as u64]),
        ("linear.bias", vec![layer.outputs as u64]),
    ];
    let needed = if layer.bias { needed } else { &needed[..1] };
    let mut outputs = Vec::with_capacity(needed.len());
    for (index, value) in values.iter().enumerate() {
        let Some((name, shape)) = needed.iter().find(|(name, _)| *name == value.name) else {
            return Err(
                Error::bad_input("is no tensor of a dense layer such as its config says").tensor(&value.name)
            );
        };
        if value.shape != *shape {
            let what = format!("has shape {:?}, where {shape:?} is needed", value.shape);
            return Err(Error::bad_input(what).tensor(*name));
        }
        let (name, dtype, shape) = ((*name).to_owned(), value.dtype, shape.clone());
        outputs.push(Output {
            name,
            dtype,
            shape,
            parts: vec![Part::new(index, value.view()?)],
            narrow: None,
            form: Default::default(),
        });
    }
    if let Some((name, _)) = needed.iter().find(|(name, _)| outputs.iter().all(|o| o.name != *name)) {
        return Err(Error::bad_input("is not there").tensor(*name));
    }
    let recipe = Arc::new(Recipe { values, outputs, ..Recipe::default() });
    let hold = Hold {
        dtype: crate::dtype::DType::F32,
        device: Device::Cpu,
        memory_bytes: u64::MAX,
        native: false,
        threads: Some(1),
        stop: StopSign::default(),
    };
    let weights = Weights::of(&model, &recipe, hold)?;
    let rows = layer.outputs as u64;
    let get = |name: &str| weights.rows(name, std::slice::from_ref(&(0..rows)))?.tensor();
    let bias = if layer.bias { Some(get("linear.bias")?) } else { None };
    Ok(Linear { weight: get("linear.weight")?, bias, tanh: layer.tanh })
}

impl Linear {
    /// `x` is `[texts, inputs]`.
    fn of(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let y = x.matmul(&self.weight.t()?)?;
        let y = match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        if self.tanh { y.tanh() } else { Ok(y) }
    }
}

impl Encoder<'_> {
    /// One vector for each text of a batch that has passed all layers; see [`Encoder::embed`].
    pub fn embed_of(&self, running: &Running) -> Result<Vec<Vec<f32>>> {
        let Task::Embedding(embedding) = self.task else {
            return Err(Error::usage("this model does not say how it makes one vector of a text")
                .hint("sentence-transformers' modules.json says it, or a GGUF's `pooling_type`"));
        };
        let mut x = pooled(running, embedding.pooling)?;
        let run = |x: Tensor| -> candle_core::Result<Tensor> {
            let mut x = x.to_device(&Device::Cpu)?;
            for layer in &self.dense {
                x = layer.of(&x)?;
            }
            if embedding.normalise {
                let length = x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?.maximum(LENGTH_MIN)?;
                x = x.broadcast_div(&length)?;
            }
            Ok(x)
        };
        x = run(x).map_err(candle)?;
        rows(&x)
    }

    /// Scores of each text of a batch that has passed all layers; see [`Encoder::classify`]. `back` are the tensors of
    /// [`crate::verify::weights::Stage::Back`].
    pub fn classify_of(&self, running: &Running, back: &Tensors) -> Result<Vec<Vec<f32>>> {
        let Task::Sequence(classes) = self.task else {
            return Err(Error::usage("this model has no head that tells texts apart"));
        };
        let pooling =
            classes.pooling.ok_or_else(|| Error::bug("a classifier of texts that pools nothing"))?;
        rows(&scores(classes, back, &pooled(running, pooling)?)?)
    }

    /// Scores of each token of a batch that has passed all layers; see [`Encoder::tokens`]. `back` are the tensors of
    /// [`crate::verify::weights::Stage::Back`].
    pub fn tokens_of_running(&self, running: &Running, back: &Tensors) -> Result<Vec<Vec<Vec<f32>>>> {
        let Task::Token(classes) = self.task else {
            return Err(Error::usage("this model has no head that tells tokens apart"));
        };
        let each = running.lengths.iter().enumerate().map(|(text, &length)| {
            rows(&scores(classes, back, &own(running, text, length).map_err(candle)?)?)
        });
        each.collect()
    }
}

/// A text's own hidden states, `[tokens, hidden]`, f32.
fn own(running: &Running, text: usize, length: usize) -> candle_core::Result<Tensor> {
    running.x.get(text)?.narrow(0, 0, length)?.to_dtype(DType::F32)
}

/// One vector for each text: `[texts, hidden]`, f32.
fn pooled(running: &Running, pooling: Pooling) -> Result<Tensor> {
    let one = |text: usize, length: usize| -> candle_core::Result<Tensor> {
        let own = own(running, text, length)?;
        match pooling {
            Pooling::Mean => own.mean(0),
            Pooling::MeanSqrt => own.sum(0)? / (length as f64).sqrt(),
            Pooling::Cls => own.get(0),
            Pooling::Last => own.get(length.saturating_sub(1)),
            Pooling::Max => own.max(0),
        }
    };
    let each = running.lengths.iter().enumerate().map(|(text, &length)| one(text, length));
    each.collect::<candle_core::Result<Vec<_>>>().and_then(|each| Tensor::stack(&each, 0)).map_err(candle)
}

/// Scores `[.., labels]` of vectors `[.., hidden]`.
fn scores(classes: &Classes, back: &Tensors, x: &Tensor) -> Result<Tensor> {
    let mut x = x.clone();
    if let Some(activation) = classes.dense {
        x = linear(back, "cls", &x)?;
        x = match activation {
            TopActivation::Tanh => x.tanh(),
            TopActivation::Relu => x.relu(),
            TopActivation::Gelu => x.gelu_erf(),
            TopActivation::Silu => x.silu(),
        }
        .map_err(candle)?;
    }
    if let Some(eps) = classes.norm {
        x = stack::normed(back, "cls.norm", &Norm { kind: NormKind::Layer, eps }, &x)?;
    }
    linear(back, "cls.output", &x)
}

/// In f32, whatever the layers are computed in.
fn linear(back: &Tensors, name: &str, x: &Tensor) -> Result<Tensor> {
    let float = |t: Tensor| t.to_dtype(DType::F32).map_err(candle);
    let weight = float(back.get(&format!("{name}.weight"))?.tensor()?)?;
    let y = weight.t().and_then(|weight| x.matmul(&weight)).map_err(candle)?;
    match back.find(&format!("{name}.bias")) {
        Some(bias) => y.broadcast_add(&float(bias.tensor()?)?).map_err(candle),
        None => Ok(y),
    }
}
