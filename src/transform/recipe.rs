//! A recipe: what each tensor of the output is made of. Pure data over the table; `plan::weave` turns it into
//! reads and writes.
//!
//! A *value* is what a tensor means: mostly one tensor of the table as it is, but also codes with their scales (fp8
//! blocks, MXFP4), whose numbers are theirs only together. An *output* is a list of *parts*; each part is a view of one
//! value, and the parts follow each other in the output's row-major order. So stacking experts is many parts, splitting
//! a fused matrix is a slice in each of several outputs, and a permutation is a view; none of them is code of its own.

use crate::checkpoint::{Checkpoint, Tensor};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::transform::method::{Quantiser, ScaleType};
use crate::transform::packing::{PackedTensors, Packing};
use crate::transform::view::View;
use std::sync::Arc;

/// What a tensor of the source means.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// Its name: that of the weights, where scales belong to it.
    pub name: String,
    /// What its numbers are. For codes with scales the type they are widened to when nobody asks for another one.
    pub dtype: DType,
    /// Sizes, outermost first, of the numbers (not of the codes).
    pub shape: Vec<u64>,
    /// Where the numbers come from.
    pub source: Source,
}

/// Where numbers come from. Tensors are named by their place in the table.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A tensor as it is.
    Tensor(usize),
    /// A tensor of floats, each times the scale of its block. The scales lie row-major in a tensor of shape
    /// `[ceil(rows / block_rows), ceil(columns / block_columns)]`, counted over the last two dimensions; leading
    /// dimensions (experts) have scales of their own.
    Scaled {
        /// The floats.
        codes: usize,
        /// The scales.
        scales: usize,
        /// Rows that share a scale.
        block_rows: u64,
        /// Columns that share a scale.
        block_columns: u64,
    },
    /// OCP microscaling: nibbles of E2M1, two a byte, the lower first, and an E8M0 scale for each 32, as gpt-oss has
    /// them (`*_blocks` u8 `[…, rows, blocks, 16]`, `*_scales` u8 `[…, rows, blocks]`).
    Mxfp4 {
        /// The nibbles.
        blocks: usize,
        /// The scales.
        scales: usize,
    },
    /// Several tensors of one type and size, one behind the other: what takes turns in the output is then one view.
    Joined(Vec<usize>),
    /// Codes and scales of a packing.
    Packed(Arc<PackedTensors>),
    /// Made up: little-endian elements of the value's dtype (rope factors, rows of zeros).
    Made(Arc<[u8]>),
}

impl Source {
    /// Its tensors, by their place in the table; that of the numbers or codes first.
    pub fn tensors(&self) -> Vec<usize> {
        match self {
            Source::Tensor(tensor) => vec![*tensor],
            Source::Scaled { codes, scales, .. } => vec![*codes, *scales],
            Source::Mxfp4 { blocks, scales } => vec![*blocks, *scales],
            Source::Joined(tensors) => tensors.clone(),
            Source::Packed(packed) => packed.tensors.iter().copied().flatten().collect(),
            Source::Made(_) => Vec::new(),
        }
    }

    /// Whether the numbers are codes whose scales lie in other tensors.
    pub fn is_coded(&self) -> bool {
        matches!(self, Source::Scaled { .. } | Source::Mxfp4 { .. } | Source::Packed(_))
    }
}

impl Value {
    /// A tensor of the table as it is.
    pub fn of(table: &Checkpoint, tensor: usize) -> Value {
        let Tensor { name, dtype, shape, .. } = &table.tensors[tensor];
        Value { name: name.clone(), dtype: *dtype, shape: shape.clone(), source: Source::Tensor(tensor) }
    }

    /// What holds its numbers in the source: a layout of codes and scales, else a type.
    pub fn stored_as(&self) -> String {
        match &self.source {
            Source::Packed(packed) => packed.packing.layout.name.to_owned(),
            Source::Mxfp4 { .. } => "MXFP4".to_owned(),
            Source::Scaled { .. } => "scaled f8".to_owned(),
            _ => self.dtype.to_string(),
        }
    }

    /// Numbers that no file has.
    pub fn made(name: &str, shape: &[u64], numbers: &[f32]) -> Value {
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        let source = Source::Made(bytes.into());
        Value { name: name.to_owned(), dtype: DType::F32, shape: shape.to_vec(), source }
    }

    /// All of it, as it lies.
    pub fn view(&self) -> Result<View> {
        View::whole(&self.shape).map_err(|e| e.tensor(&self.name))
    }
}

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// Its type.
    pub dtype: DType,
    /// Sizes, outermost first (torch's order, also for GGUF).
    pub shape: Vec<u64>,
    /// What it is made of, in its row-major order.
    pub parts: Vec<Part>,
    /// Written as this type instead, if every number survives it.
    pub narrow: Option<DType>,
    /// How its bytes come from the numbers.
    pub form: Form,
}

/// How an output's bytes come from the numbers that its parts give.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Form {
    /// Each is cast to the output's type; blocks are made by the type's reference method.
    #[default]
    Plain,
    /// Blocks whose error counts more in some columns: `[columns]`, or `[matrices, columns]` for a stack.
    Weighed(Arc<[f32]>),
    /// It is one of the tensors that hold a matrix together, and has no parts of its own.
    Face {
        /// Which matrix, by its place in [`Recipe::packed`].
        packed: usize,
        /// Which face of its layout.
        face: usize,
    },
}

/// A matrix that is written as codes and scales, in several outputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Packed {
    /// The matrix: its name, `[rows, columns]`, and what it is made of. Not written itself.
    pub matrix: Output,
    /// How it is held.
    pub packing: Packing,
    /// How it is quantised.
    pub quantiser: Quantiser,
    /// For each face of the layout the output that is it, where there is one. They follow each other in one file, the
    /// codes first.
    pub outputs: Vec<Option<usize>>,
}

/// Elements that follow each other in an output.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// The value, by its place in the recipe's list.
    pub value: usize,
    /// Which elements, in which order.
    pub view: View,
    /// Added to each in f32 before it is narrowed; zero changes no bit.
    pub add: f32,
}

impl Part {
    /// Elements of a value, unchanged.
    pub fn new(value: usize, view: View) -> Part {
        Part { value, view, add: 0.0 }
    }
}

/// The whole recipe.
#[derive(Debug, Clone, Default)]
pub struct Recipe {
    /// What the source's tensors mean, and values made up.
    pub values: Vec<Value>,
    /// What is written, in the file's order.
    pub outputs: Vec<Output>,
    /// Matrices that several outputs hold together.
    pub packed: Vec<Packed>,
    /// Those of them, by their places, whose scales are multiplied by one number that follows from the largest of all their
    /// numbers. Who carries the recipe out looks for it first ([`Recipe::set_global`]).
    pub sharing: Vec<Vec<usize>>,
    /// Pairs of values, by their places, that must be found equal: the first is left out because it is said to be the
    /// second.
    pub equal: Vec<(usize, usize)>,
    /// Tensors of the source that are not written, and why.
    pub left_out: Vec<LeftOut>,
    /// What a person should know.
    pub notes: Vec<String>,
}

impl Recipe {
    /// Sets the number that the scales of one of [`Recipe::sharing`]'s sets are multiplied by.
    pub fn set_global(&mut self, set: usize, global: f32) {
        for &member in self.sharing.get(set).into_iter().flatten() {
            if let Some(packed) = self.packed.get_mut(member) {
                packed.quantiser.grid.scale = ScaleType::E4M3 { global };
            }
        }
    }
}

/// A tensor that is not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Its name.
    pub name: String,
    /// Why, as one of a few phrases that a summary counts: `vision tower`, `mask`, `tied to the embedding` …
    pub why: &'static str,
}

impl Output {
    /// Bytes of the tensor.
    pub fn size_bytes(&self) -> Result<u64> {
        crate::dtype::element_count(&self.shape).and_then(|n| self.dtype.size_bytes(n)).ok_or_else(|| {
            Error::bad_input(format!(
                "has shape {:?}, which overflows or does not fill whole blocks of `{}`",
                self.shape, self.dtype
            ))
            .tensor(&self.name)
        })
    }

    /// Whether the parts are as many elements as the shape says.
    pub fn check(&self) -> Result<()> {
        let wanted = crate::dtype::element_count(&self.shape);
        let found = self
            .parts
            .iter()
            .try_fold(0u64, |sum, p| sum.checked_add(crate::dtype::element_count(&p.view.shape)?));
        if wanted.is_none() || wanted != found {
            return Err(Error::bad_input(format!(
                "needs {} elements for shape {:?}, and its sources have {}",
                wanted.map_or("too many".into(), crate::text::grouped),
                self.shape,
                found.map_or("too many".into(), crate::text::grouped),
            ))
            .tensor(&self.name));
        }
        Ok(())
    }
}
