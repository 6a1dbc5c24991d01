//! A decoder: from token ids to hidden states to logits. Its layers are [`super::stack`]'s; here is what stands before and
//! behind them. Matrices over the vocabulary are never asked for whole: of the embedding only the rows of the tokens that
//! occur, of the head a band at a time.

pub mod cache;

pub use cache::Cache;

use crate::error::{Error, Result};
use crate::transform::arch::forward::Forward;
use crate::verify::candle;
use crate::verify::stack::{self, LayerCache, Pass};
use crate::verify::weights::{Stage, Tensors, Weights};
use candle_core::{D, DType, Tensor};
use std::ops::Range;

const EMBEDDING: &str = "token_embd.weight";
const HEAD: &str = "output.weight";

/// A model that reads tokens one behind the other.
#[derive(Debug, Clone, Copy)]
pub struct Decoder<'a> {
    /// How it computes.
    pub forward: &'a Forward,
    /// What it computes with.
    pub weights: &'a Weights,
}

impl Decoder<'_> {
    /// The stream `[1, n, hidden]`, in 32 bits, before the first layer; the first token stands at `position`.
    ///
    /// # Errors
    /// `BadInput`: an id outside the vocabulary, a position that has no embedding.
    pub fn embed(&self, ids: &[u32], position: usize) -> Result<Tensor> {
        let front = self.weights.stage(Stage::Front)?;
        let e = &self.forward.embedding;
        let mut x = self.rows_of_tokens(ids)?.to_dtype(DType::F32).map_err(candle)?;
        if e.scale != 1.0 {
            x = (x * f64::from(e.scale)).map_err(candle)?;
        }
        if e.positions {
            let name = "position_embd.weight";
            let table = front.get(name)?.tensor()?;
            let shape = table.dims().to_vec();
            match shape[..] {
                [rows, width] if width == self.forward.hidden => {
                    if position.checked_add(ids.len()).is_none_or(|end| end > rows) {
                        return Err(Error::bad_input(format!(
                            "has {rows} positions, where {} are needed",
                            position.saturating_add(ids.len())
                        ))
                        .tensor(name));
                    }
                }
                _ => {
                    let what = format!("has shape {shape:?}, where [.., {}] is needed", self.forward.hidden);
                    return Err(Error::bad_input(what).tensor(name));
                }
            }
            let rows = table.narrow(0, position, ids.len()).and_then(|t| t.to_dtype(DType::F32));
            x = rows.and_then(|rows| x + rows).map_err(candle)?;
        }
        if e.types {
            let name = "token_types.weight";
            let table = front.get(name)?.tensor()?;
            match *table.dims() {
                [rows, width] if rows > 0 && width == self.forward.hidden => {}
                _ => {
                    let what = format!(
                        "has shape {:?}, where [.., {}] is needed",
                        table.dims(),
                        self.forward.hidden
                    );
                    return Err(Error::bad_input(what).tensor(name));
                }
            }
            let row = table.narrow(0, 0, 1).and_then(|t| t.to_dtype(DType::F32));
            x = row.and_then(|row| x.broadcast_add(&row)).map_err(candle)?;
        }
        if let Some(norm) = &e.norm {
            x = stack::normed(&front, "token_embd_norm", norm, &x)?;
        }
        x.unsqueeze(0).map_err(candle)
    }

    /// Rows `[n, hidden]` of the embedding, each distinct one brought once.
    fn rows_of_tokens(&self, ids: &[u32]) -> Result<Tensor> {
        if ids.is_empty() {
            return Err(Error::bad_input("there are no tokens"));
        }
        let (vocabulary, width) = self.matrix(EMBEDDING)?;
        if let Some(&id) = ids.iter().find(|&&id| u64::from(id) >= vocabulary) {
            return Err(Error::bad_input(format!("token {id} is outside a vocabulary of {vocabulary}")));
        }
        let mut distinct = ids.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for &id in &distinct {
            let id = u64::from(id);
            match ranges.last_mut() {
                Some(last) if last.end == id => last.end = id + 1,
                _ => ranges.push(id..id + 1),
            }
        }
        let rows = self.weights.rows(EMBEDDING, &ranges)?.tensor()?;
        if rows.dims() != [distinct.len(), width] {
            return Err(Error::bug(format!("{:?} for {} rows of an embedding", rows.dims(), distinct.len())));
        }
        if distinct == ids {
            return Ok(rows);
        }
        // Each is among them.
        let places: Vec<u32> =
            ids.iter().map(|id| distinct.binary_search(id).unwrap_or_default() as u32).collect();
        let places = Tensor::new(places, rows.device()).map_err(candle)?;
        rows.index_select(&places, 0).map_err(candle)
    }

    /// What layer `index` makes of the stream.
    ///
    /// # Errors
    /// Those of [`stack::layer`].
    pub fn layer(
        &self,
        index: usize,
        tensors: &Tensors,
        x: &Tensor,
        pass: &Pass<'_>,
        cache: Option<&mut LayerCache>,
    ) -> Result<Tensor> {
        stack::layer(self.forward, index, self.weights, tensors, x, pass, cache)
    }

    /// The last hidden state: the stream behind the last layer, normed by a tensor of [`Stage::Back`].
    pub fn finish(&self, back: &Tensors, x: &Tensor) -> Result<Tensor> {
        match &self.forward.final_norm {
            Some(norm) => stack::normed(back, "output_norm", norm, x),
            None => Ok(x.clone()),
        }
    }

    /// Logits `[n, band]` in 32 bits of hidden states `[n, hidden]`, for a band of the vocabulary.
    ///
    /// # Errors
    /// `Unsupported` for a model without a head; `BadInput` where its shape does not fit.
    pub fn logits(&self, hidden: &Tensor, band: Range<u64>) -> Result<Tensor> {
        let (Some(head), Some(name)) = (&self.forward.head, self.head_name()) else {
            return Err(Error::unsupported("the model has no head that predicts tokens"));
        };
        let (vocabulary, _) = self.matrix(name)?;
        if band.start > band.end || band.end > vocabulary {
            return Err(Error::bug(format!("{band:?} of a vocabulary of {vocabulary}")));
        }
        let mut y = self.weights.rows(name, std::slice::from_ref(&band))?.linear(hidden)?;
        let bias = "output.bias";
        if self.weights.has(bias) {
            let row = self.weights.rows(bias, std::slice::from_ref(&band))?.tensor()?;
            if row.elem_count() != y.dim(D::Minus1).map_err(candle)? {
                return Err(Error::bad_input(format!("has not the {vocabulary} elements that are needed"))
                    .tensor(bias));
            }
            y = stack::add_row(y, &row.flatten_all().map_err(candle)?)?;
        }
        let run = || -> candle_core::Result<Tensor> {
            let mut y = y.to_dtype(DType::F32)?;
            if head.scale != 1.0 {
                y = (y * f64::from(head.scale))?;
            }
            match head.soft_cap {
                Some(cap) => ((y / f64::from(cap))?.tanh()? * f64::from(cap))?.contiguous(),
                None => Ok(y),
            }
        };
        run().map_err(candle)
    }

    /// How many tokens the head tells apart; the embedding's rows where there is no head.
    pub fn vocabulary(&self) -> Result<u64> {
        Ok(self.matrix(self.head_name().unwrap_or(EMBEDDING))?.0)
    }

    /// Passes tokens behind those of a cache through all layers; gives their last hidden states `[n, hidden]`.
    ///
    /// A rotary embedding that changes with the length of the sequence makes what was kept useless where that length is
    /// passed: all tokens are passed again then.
    ///
    /// # Errors
    /// Those of a layer.
    pub fn pass(&self, ids: &[u32], cache: &mut Cache) -> Result<Tensor> {
        let (before, after) = (cache.ids.len(), cache.ids.len().saturating_add(ids.len()));
        let changes = self.forward.ropes.iter().filter_map(|rope| rope.long.as_ref());
        if before > 0 && changes.into_iter().any(|(longest, _)| before <= *longest && after > *longest) {
            let all: Vec<u32> = cache.ids.iter().chain(ids).copied().collect();
            cache.clear();
            let hidden = self.pass(&all, cache)?;
            return hidden.narrow(0, before, ids.len()).map_err(candle);
        }
        let pass = Pass::new(before, None);
        let mut x = self.embed(ids, before)?;
        for (index, kept) in cache.layers.iter_mut().enumerate() {
            let tensors = self.weights.stage(Stage::Layer(index))?;
            x = self.layer(index, &tensors, &x, &pass, Some(kept))?;
        }
        cache.ids.extend_from_slice(ids);
        let back = self.weights.stage(Stage::Back)?;
        self.finish(&back, &x)?.squeeze(0).map_err(candle)
    }

    /// The head's matrix, where there is one.
    fn head_name(&self) -> Option<&'static str> {
        let head = self.forward.head.as_ref()?;
        match self.weights.has(HEAD) {
            true => Some(HEAD),
            false if head.tied => Some(EMBEDDING),
            false => None,
        }
    }

    /// Rows and columns of a matrix over the vocabulary.
    fn matrix(&self, name: &str) -> Result<(u64, usize)> {
        let shape = self.weights.shape(name).unwrap_or_default();
        match *shape {
            [rows, columns] if columns == self.forward.hidden as u64 => Ok((rows, self.forward.hidden)),
            _ => {
                let what = format!("has shape {shape:?}, where [.., {}] is needed", self.forward.hidden);
                Err(Error::bad_input(what).tensor(name))
            }
        }
    }
}
