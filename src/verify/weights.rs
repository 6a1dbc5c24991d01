//! The one door through which weights come into a forward pass: made of a subject's recipe by `load`, held whole where
//! memory allows, else brought layer by layer.

use crate::dtype::DType;
use crate::error::Result;
use crate::verify::subject::Subject;
use candle_core::quantized::QTensor;
use candle_core::{Device, Tensor};
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
        let _ = x;
        Err(crate::error::Error::bug("not yet"))
    }

    /// Its numbers.
    pub fn tensor(&self) -> Result<Tensor> {
        Err(crate::error::Error::bug("not yet"))
    }
}

/// The tensors of one stage. Which of them were asked for is noted: one that nobody needs is a finding.
#[derive(Debug, Clone)]
pub struct Tensors {}

impl Tensors {
    /// A tensor by its whole name. A bug where it is not there: the recipe was checked.
    pub fn get(&self, name: &str) -> Result<Weight> {
        let _ = name;
        Err(crate::error::Error::bug("not yet"))
    }

    /// A tensor that not every model has.
    pub fn find(&self, name: &str) -> Option<Weight> {
        let _ = name;
        None
    }
}

/// A subject's weights.
#[derive(Debug)]
pub struct Weights {}

impl Weights {
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
        let _ = name;
        false
    }

    /// Its sizes.
    pub fn shape(&self, name: &str) -> Option<&[u64]> {
        let _ = name;
        None
    }

    /// The tensors of a stage. Held whole, they are handed out; else loaded now.
    pub fn stage(&self, stage: Stage) -> Result<Tensors> {
        let _ = stage;
        Err(crate::error::Error::bug("not yet"))
    }

    /// Rows of a tensor (its first dimension), one range behind the other: tokens of an embedding, one expert
    /// (`ffn_up_exps`, with the first dimension kept), a band of the vocabulary.
    pub fn rows(&self, name: &str, rows: &[Range<u64>]) -> Result<Weight> {
        let _ = (name, rows);
        Err(crate::error::Error::bug("not yet"))
    }
}
