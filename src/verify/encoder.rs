//! Texts through an encoder: hidden states of all tokens, and on top of them what the task asks for.
//!
//! The layers are those of decoders ([`super::stack`]): what makes an encoder is in the model's [`Forward`], and a decoder
//! that embeds or scores texts goes the same way. Texts of one batch are padded on the right; padding is seen by no token
//! and pooled by nobody, so a text's result does not depend on its neighbours. A batch on its way is a [`Running`]: whoever
//! compares two models lets all batches pass one layer before the next is loaded.

mod batch;
mod top;

pub use batch::{Batch, Running};

use super::candle;
use super::stack::{self, Pass};
use super::subject::Subject;
use super::weights::{Stage, Tensors, Weights};
use crate::error::{Error, Result};
use crate::transform::arch::forward::Forward;
use crate::transform::task::Task;
use candle_core::{DType, Device, Tensor};
use std::ops::Range;
use top::Linear;

/// The token embedding's matrix.
const EMBEDDING: &str = "token_embd.weight";

/// An encoder, or a decoder that is used as one.
#[derive(Debug)]
pub struct Encoder<'a> {
    /// How it computes.
    pub forward: &'a Forward,
    /// What it is for.
    pub task: &'a Task,
    /// Its weights.
    pub weights: &'a Weights,
    /// The layers behind the pooling.
    dense: Vec<Linear>,
}

impl<'a> Encoder<'a> {
    /// Of a subject and its weights. The dense layers behind the pooling are small and are loaded here, from their folders.
    ///
    /// # Errors
    /// Those of opening and loading the folders of dense layers; `BadInput` where their sizes are not what is said.
    pub fn new(subject: &'a Subject, weights: &'a Weights) -> Result<Encoder<'a>> {
        let Subject { forward, task, .. } = subject;
        let dense = match task {
            Task::Embedding(embedding) => top::dense(&subject.model, &embedding.dense, forward.hidden)?,
            _ => Vec::new(),
        };
        Ok(Encoder { forward, task, weights, dense })
    }

    /// A batch in front of the first layer.
    ///
    /// # Errors
    /// `BadInput`: a token, a type or a position that the model does not have.
    pub fn start(&self, batch: &Batch) -> Result<Running> {
        let (ids, types) = batch.padded();
        let (count, width) = (batch.count(), batch.width());
        let mut x = self.tokens_of(&ids)?;
        let embedding = &self.forward.embedding;
        if embedding.scale != 1.0 {
            x = (x * f64::from(embedding.scale)).map_err(candle)?;
        }
        let device = x.device().clone();
        if embedding.types || embedding.positions || embedding.norm.is_some() {
            let front = self.weights.stage(Stage::Front)?;
            if embedding.types {
                let rows = front.get("token_types.weight")?.tensor()?;
                let known = rows.dim(0).map_err(candle)?;
                if let Some(kind) = types.iter().find(|&&t| t as usize >= known) {
                    return Err(Error::bad_input(format!(
                        "has {known} types of tokens, and a text has type {kind}"
                    ))
                    .tensor("token_types.weight"));
                }
                let types = Tensor::new(types.as_slice(), &device).map_err(candle)?;
                let rows = rows.index_select(&types, 0).and_then(|rows| rows.to_dtype(DType::F32));
                x = rows.and_then(|rows| x + rows).map_err(candle)?;
            }
            x = x.reshape((count, width, self.forward.hidden)).map_err(candle)?;
            if embedding.positions {
                let rows = front.get("position_embd.weight")?.tensor()?;
                let known = rows.dim(0).map_err(candle)?;
                if width > known {
                    return Err(Error::bad_input(format!(
                        "has {known} positions, and a text has {width} tokens"
                    ))
                    .tensor("position_embd.weight")
                    .hint("texts are cut to the length that the model has"));
                }
                let rows = rows.narrow(0, 0, width).and_then(|rows| rows.to_dtype(DType::F32));
                x = rows.and_then(|rows| x.broadcast_add(&rows)).map_err(candle)?;
            }
            if let Some(norm) = &embedding.norm {
                x = stack::normed(&front, "token_embd_norm", norm, &x)?;
            }
        }
        let x = x.reshape((count, width, self.forward.hidden)).map_err(candle)?;
        Ok(Running { x, mask: batch.mask(&device)?, lengths: batch.lengths() })
    }

    /// Each distinct token's row once, then in the order of the tokens: `[tokens, hidden]`.
    fn tokens_of(&self, ids: &[u32]) -> Result<Tensor> {
        let known = self.weights.shape(EMBEDDING).and_then(|shape| shape.first().copied()).unwrap_or(0);
        if let Some(id) = ids.iter().find(|&&id| u64::from(id) >= known) {
            return Err(
                Error::bad_input(format!("has {known} tokens, and a text has token {id}")).tensor(EMBEDDING)
            );
        }
        let mut distinct = ids.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let ranges: Vec<Range<u64>> = distinct.iter().map(|&id| u64::from(id)..u64::from(id) + 1).collect();
        let rows = self.weights.rows(EMBEDDING, &ranges)?.tensor()?;
        let places: Vec<u32> =
            ids.iter().map(|id| distinct.binary_search(id).map_or(0, |place| place as u32)).collect();
        let places = Tensor::new(places.as_slice(), rows.device()).map_err(candle)?;
        rows.index_select(&places, 0).and_then(|rows| rows.to_dtype(DType::F32)).map_err(candle)
    }

    /// A stream through one layer, whose tensors are those of [`Stage::Layer`]. `pass` is made of the batch's mask; one
    /// serves for all layers.
    pub fn layer(&self, index: usize, tensors: &Tensors, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        stack::layer(self.forward, index, self.weights, tensors, x, pass, None)
    }

    /// A stream through the norm behind the last layer, where there is one. `back` are the tensors of [`Stage::Back`].
    pub fn finish(&self, back: &Tensors, x: &Tensor) -> Result<Tensor> {
        match &self.forward.final_norm {
            Some(norm) => stack::normed(back, "output_norm", norm, x),
            None => Ok(x.clone()),
        }
    }

    /// A batch through the whole model.
    pub fn run(&self, batch: &Batch) -> Result<Running> {
        let Running { mut x, mask, lengths } = self.start(batch)?;
        let pass = Pass::new(0, mask.as_ref());
        for index in 0..self.forward.layers.len() {
            x = self.layer(index, &self.weights.stage(Stage::Layer(index))?, &x, &pass)?;
        }
        drop(pass);
        let x = self.finish(&self.weights.stage(Stage::Back)?, &x)?;
        Ok(Running { x, mask, lengths })
    }

    /// The last hidden states, `[texts, tokens, hidden]`; those of padding mean nothing.
    pub fn hidden(&self, batch: &Batch) -> Result<Tensor> {
        Ok(self.run(batch)?.x)
    }

    /// One vector for each text, f32.
    ///
    /// # Errors
    /// `Usage` where the model is not one that embeds.
    pub fn embed(&self, batch: &Batch) -> Result<Vec<Vec<f32>>> {
        self.embed_of(&self.run(batch)?)
    }

    /// A score for each text and each of the labels, before any function that makes a probability of it.
    ///
    /// # Errors
    /// `Usage` where the model is not one that tells texts apart.
    pub fn classify(&self, batch: &Batch) -> Result<Vec<Vec<f32>>> {
        self.classify_of(&self.run(batch)?, &self.weights.stage(Stage::Back)?)
    }

    /// Scores of each token, `[tokens][labels]` for each text, padding left out.
    ///
    /// # Errors
    /// `Usage` where the model is not one that tells tokens apart.
    pub fn tokens(&self, batch: &Batch) -> Result<Vec<Vec<Vec<f32>>>> {
        self.tokens_of_running(&self.run(batch)?, &self.weights.stage(Stage::Back)?)
    }
}

/// Numbers of a tensor in rows, on the CPU.
fn rows(x: &Tensor) -> Result<Vec<Vec<f32>>> {
    x.to_dtype(DType::F32).and_then(|x| x.to_device(&Device::Cpu)).and_then(|x| x.to_vec2()).map_err(candle)
}
