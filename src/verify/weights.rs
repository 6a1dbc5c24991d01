//! The one door through which weights come into a forward pass: made of a subject's recipe by `load`, held whole where
//! memory allows, else brought layer by layer.

use crate::dtype::DType;
use crate::error::Result;
use crate::verify::candle;
use crate::verify::subject::Subject;
use candle_core::quantized::QTensor;
use candle_core::{Device, Tensor};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// How weights are held.
#[derive(Debug, Clone)]
pub struct Hold {
    /// The element type that is computed in: f32, bf16, f16.
    pub dtype: DType,
    /// Where.
    pub device: Device,
    /// The most memory for weights.
    pub memory_bytes: u64,
    /// Whether quantised blocks stay as they are where candle has kernels for them.
    pub native: bool,
    /// Workers that load.
    pub threads: Option<usize>,
}

/// Part of a model that is brought at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// What stands before the layers, without the token embedding.
    Front,
    /// A layer, without its stacked experts (`ffn_*_exps`).
    Layer(usize),
    /// What stands behind the layers, without the matrix to the vocabulary.
    Back,
}

/// A weight.
#[derive(Debug, Clone)]
pub enum Weight {
    /// Numbers.
    Plain(Tensor),
    /// Blocks that candle computes with.
    Blocks(Arc<QTensor>),
}

impl Weight {
    /// `x · weightᵀ` for a weight `[out, in]` and `x` `[.., in]`.
    pub fn linear(&self, x: &Tensor) -> Result<Tensor> {
        let run = || match self {
            Weight::Plain(weight) => {
                let weight = if weight.rank() == 3 { weight.squeeze(0)? } else { weight.clone() };
                let (rows, columns) = weight.dims2()?;
                let mut dims = x.dims().to_vec();
                let flat = x.reshape(((), columns))?;
                let y = flat.matmul(&weight.t()?)?;
                if let Some(last) = dims.last_mut() {
                    *last = rows;
                }
                y.reshape(dims)
            }
            Weight::Blocks(_) => candle_core::bail!("not yet"),
        };
        run().map_err(candle)
    }

    /// Its numbers.
    pub fn tensor(&self) -> Result<Tensor> {
        match self {
            Weight::Plain(weight) => Ok(weight.clone()),
            Weight::Blocks(_) => Err(crate::error::Error::bug("not yet")),
        }
    }
}

/// The tensors of one stage. Which of them were asked for is noted: one that nobody needs is a finding.
#[derive(Debug, Clone)]
pub struct Tensors {
    all: Arc<HashMap<String, Tensor>>,
}

impl Tensors {
    /// A tensor by its whole name. A bug where it is not there: the recipe was checked.
    pub fn get(&self, name: &str) -> Result<Weight> {
        self.find(name).ok_or_else(|| crate::error::Error::bug("is not there").tensor(name))
    }

    /// A tensor that not every model has.
    pub fn find(&self, name: &str) -> Option<Weight> {
        self.all.get(name).cloned().map(Weight::Plain)
    }
}

/// A subject's weights.
#[derive(Debug)]
pub struct Weights {
    all: Arc<HashMap<String, Tensor>>,
    shapes: HashMap<String, Vec<u64>>,
}

impl Weights {
    /// Of tensors at hand, under the names by which they are computed with.
    pub fn from_tensors(tensors: HashMap<String, Tensor>) -> Weights {
        let shape = |t: &Tensor| t.dims().iter().map(|&d| d as u64).collect();
        let shapes = tensors.iter().map(|(name, t)| (name.clone(), shape(t))).collect();
        Weights { all: Arc::new(tensors), shapes }
    }

    /// Decides whether all fit, and loads them if so.
    ///
    /// # Errors
    /// `NoSpace` where not even the largest stage fits; errors of the load.
    pub fn new(subject: &Subject, hold: Hold) -> Result<Weights> {
        let _ = (subject, hold);
        Err(crate::error::Error::bug("not yet"))
    }

    /// Whether there is such a tensor.
    pub fn has(&self, name: &str) -> bool {
        self.all.contains_key(name)
    }

    /// Its sizes.
    pub fn shape(&self, name: &str) -> Option<&[u64]> {
        self.shapes.get(name).map(Vec::as_slice)
    }

    /// The tensors of a stage. Held whole, they are handed out; else loaded now.
    pub fn stage(&self, stage: Stage) -> Result<Tensors> {
        let _ = stage;
        Ok(Tensors { all: Arc::clone(&self.all) })
    }

    /// Rows of a tensor (its first dimension), one range behind the other: tokens of an embedding, one expert
    /// (`ffn_up_exps`, with the first dimension kept), a band of the vocabulary.
    pub fn rows(&self, name: &str, rows: &[Range<u64>]) -> Result<Weight> {
        let Some(all) = self.all.get(name) else {
            return Err(crate::error::Error::bug("is not there").tensor(name));
        };
        let part = |r: &Range<u64>| all.narrow(0, r.start as usize, (r.end - r.start) as usize);
        let run = || match rows {
            [one] => part(one),
            many => Tensor::cat(&many.iter().map(part).collect::<candle_core::Result<Vec<_>>>()?, 0),
        };
        run().map(Weight::Plain).map_err(candle)
    }
}
