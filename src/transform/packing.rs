//! Packings: a matrix held by several tensors together, as codes and what turns them into numbers.
//!
//! A [`Layout`] is a row of facts: which tensors there are (its *faces*), where in each the code, scale or zero point of row
//! `o` and column `i` lies, and by which formula they become a number. The same row serves reading and writing, so that
//! what hoist writes is what it reads, and what others wrote is a row more.
//!
//! Between a layout and the arithmetic stands the [`Band`]: some whole rows of a matrix in plain arrays, one code a byte.
//! Layouts are read into bands and written from them; methods (`transform/method`) quantise into them; none of the two knows
//! the other.

pub mod faces;
pub mod layouts;

use crate::dtype::DType;

/// How a matrix is held by several tensors.
#[derive(Debug, PartialEq)]
pub struct Layout {
    /// What people call it, as messages and `hoist inspect` say it.
    pub name: &'static str,
    /// Its tensors; the first holds the codes.
    pub faces: &'static [Face],
    /// How codes become numbers.
    pub formula: Formula,
    /// Whether groups run over the elements of the whole tensor, row after row, instead of over each row by itself.
    pub flat: bool,
}

/// How a code becomes a number. `code` counts from zero; `scale`, `zero` and `bias` are those of its group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Formula {
    /// `(code − zero) · scale`, `zero` an integer: the middle of the codes where there is no face for it.
    Integer,
    /// `code · scale + bias`, `bias` a float.
    Affine,
    /// `(code − middle) · scale + bias`, `bias` a float.
    Centred,
    /// `table[code] · scale`.
    Table(&'static [f32; 16]),
    /// The float whose bits the code is, times `scale`.
    Float(DType),
}

/// One of the tensors that hold a matrix.
#[derive(Debug, PartialEq)]
pub struct Face {
    /// What follows the module's name (the weight's without `.weight`), as in `.weight_packed`.
    pub suffix: &'static str,
    /// What it holds.
    pub content: Content,
    /// What it is written in.
    pub stored: Stored,
    /// Its dimensions.
    pub axes: Axes,
    /// How small numbers share an element; `None`: each has one of its own.
    pub pack: Option<Pack>,
    /// Added to a code or zero point when it is written, and taken off again: `-1` where zero points are stored less one, `-8`
    /// where they are signed.
    pub offset: i32,
}

/// What a tensor of a packing holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A code for each number.
    Codes,
    /// A scale for each group.
    Scales,
    /// An integer zero point for each group.
    Zeros,
    /// A float zero point for each group.
    Biases,
    /// For each column the group that it is in.
    Groups,
    /// Sizes of the matrix, outermost first.
    Shape,
    /// One number for the whole matrix, by which the scales are multiplied before they are stored.
    Global,
    /// The sixteen numbers that codes stand for.
    Table,
    /// Scales of scales, as bitsandbytes quantises its own.
    NestedScales,
    /// The numbers that codes of scales stand for.
    NestedTable,
    /// JSON that says all this again.
    State,
}

/// What the elements of a face are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// Always this.
    Is(DType),
    /// A float type: the model's own.
    Model,
    /// f16 as a rule; bf16 is read too.
    Half,
}

/// The dimensions of a face for a matrix `[rows, columns]`, before numbers share elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axes {
    /// `[rows, columns]`; of scales `[rows, groups]`.
    Straight,
    /// `[columns, rows]`; of scales `[groups, rows]`.
    Turned,
    /// `[elements]`, or groups of them, whatever the rows.
    Flat,
    /// `[columns]`.
    Columns,
    /// What does not depend on the matrix: this many elements; 0 for a scalar of no dimension.
    Fixed(u64),
}

/// How numbers of a few bits share an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pack {
    /// Along which dimension of the matrix neighbours share an element.
    pub along: Along,
    /// Which neighbour lies in which place, from the lowest bits on; one a row of eight, or of as many as there are.
    pub order: &'static [u8],
}

/// A dimension of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Along {
    /// Neighbours of one row.
    Columns,
    /// Neighbours of one column.
    Rows,
}

/// A matrix that is held so.
#[derive(Debug, Clone, PartialEq)]
pub struct Packing {
    /// How.
    pub layout: &'static Layout,
    /// Bits of a code.
    pub bits: u32,
    /// Rows; of a stack of matrices those of all of them.
    pub rows: u64,
    /// Columns.
    pub columns: u64,
    /// Rows that share a scale.
    pub group_rows: u64,
    /// Neighbours of a row that share a scale; the last group of a row may be shorter only where the layout is flat.
    pub group_columns: u64,
    /// Whether there are zero points.
    pub has_zeros: bool,
    /// What scales are stored in, which is what numbers are rounded to.
    pub dtype: DType,
}

/// Tensors of the table that hold a matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedTensors {
    /// What they say together.
    pub packing: Packing,
    /// For each face of the layout its place in the table.
    pub tensors: Vec<Option<usize>>,
}

/// Some whole rows of a matrix, as codes and what belongs to them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Band {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// A code for each number, row-major, counted from zero.
    pub codes: Vec<u8>,
    /// A scale for each group, `[rows / group_rows, groups]`, as stored: what a reader will find.
    pub scales: Vec<f32>,
    /// A zero point (integer) or bias (float) for each group; empty where there are none.
    pub zeros: Vec<f32>,
    /// For each column its group, where that is not `column / group_columns`.
    pub groups: Option<Vec<u32>>,
    /// What scales were multiplied by before they were stored; zero where the layout has no such number.
    pub global: f32,
    /// What turns scales into numbers, where they are codes themselves.
    pub nested: Option<Nested>,
}

/// Scales as codes: `table[scale] · scales[block] + offset`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Nested {
    /// The numbers that codes stand for.
    pub table: Vec<f32>,
    /// A scale for each block of scales.
    pub scales: Vec<f32>,
    /// The first scale's place in its block.
    pub skip: usize,
    /// Added to each.
    pub offset: f32,
}

impl Packing {
    /// Groups of a row.
    pub fn groups(&self) -> u64 {
        self.columns.div_ceil(self.group_columns.max(1))
    }
}
