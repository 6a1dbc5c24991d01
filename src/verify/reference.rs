//! Answers in a file: token ids and what some model made of them. A reference was written by anybody, with any program; what
//! `--logits` writes ([`mod@write`]) has the same form, and is read by the same code.
//!
//! | tensor | shape | |
//! |---|---|---|
//! | `input_ids` | `[b, n]`, or `[n]` for one row | whole numbers |
//! | `attention_mask` | as the ids | 1 for a token, 0 for padding behind a row's tokens |
//! | `token_type_ids` | as the ids | |
//! | `logits` | `[b, n, v]`; `[n, v]` for one row; `[b, 1, v]` or `[b, v]` for one answer a row | of the vocabulary, or of classes |
//! | `last_hidden_state` | `[b, n, h]`; `[n, h]` for one row | |
//! | `embeddings` | `[b, e]`; `[e]` for one row | |
//! | `scores` | `[b, classes]` or `[b, n, classes]` | |
//!
//! The file is mapped, and numbers are made f32 by bands when they are asked for: logits of a large vocabulary may be larger
//! than memory. So it must not be shortened meanwhile.

pub mod write;

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::load::{self, LoadedTensor};
use crate::open::Model;
use crate::text::grouped;
use crate::transform::cast;
use std::ops::Range;

/// Kinds of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quantity {
    /// Of each token of the vocabulary.
    Logits,
    /// Of each class: what a head for classes gives.
    Scores,
    /// What the last layer gives, behind the final norm.
    Hidden,
    /// One vector of a text.
    Embeddings,
}

impl Quantity {
    const ALL: [Quantity; 4] = [Quantity::Logits, Quantity::Scores, Quantity::Hidden, Quantity::Embeddings];

    /// Names of its tensor, the one that is written first.
    fn names(self) -> &'static [&'static str] {
        match self {
            Quantity::Logits => &["logits"],
            // A head for classes gives what transformers calls logits too.
            Quantity::Scores => &["scores", "logits"],
            Quantity::Hidden => &["last_hidden_state", "hidden_state", "hidden_states", "hidden"],
            Quantity::Embeddings => &["embeddings", "sentence_embedding", "embedding"],
        }
    }
}

/// Which positions have an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Extent {
    /// Each token.
    Each,
    /// A row has one: of its last token, or of all of it.
    One,
}

/// Tokens that pass a model together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The tokens, without padding.
    pub ids: Vec<u32>,
    /// Their types, where there are any.
    pub types: Option<Vec<u32>>,
}

/// A tensor of answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    tensor: usize,
    /// Which positions have one.
    pub extent: Extent,
    /// Numbers of each.
    pub width: u64,
}

/// A file of answers.
#[derive(Debug)]
pub struct Reference {
    /// Its name, for messages.
    pub name: String,
    /// What was passed through a model.
    pub rows: Vec<Row>,
    /// Tokens of each row, padding included.
    padded: usize,
    tensors: Vec<LoadedTensor>,
}

/// The most tokens of a reference: more than anybody compares, and few enough that a row for each fits into memory.
const TOKENS_MAX: u64 = 1 << 22;

/// Types that ids may be in.
const IDS: &[DType] = &[
    DType::I64,
    DType::I32,
    DType::U32,
    DType::U64,
    DType::I16,
    DType::U16,
    DType::U8,
    DType::I8,
    DType::Bool,
];

impl Reference {
    /// Of an opened file. `memory_bytes` bounds what is taken where numbers must be rearranged first.
    ///
    /// # Errors
    /// `BadInput`: no `input_ids`, or shapes that do not fit them. `Unsupported`: padding before the tokens.
    pub fn new(model: Model, memory_bytes: Option<u64>) -> Result<Reference> {
        let name = model.name.clone();
        let of_file = |e: Error| e.file(name.clone());
        let is_there = |name: &str| model.table.tensors.iter().any(|t| t.name == name);
        if !is_there(INPUT_IDS) {
            return Err(of_file(no_ids()));
        }
        let answers = Quantity::ALL.iter().flat_map(|quantity| quantity.names());
        let mut known: Vec<String> =
            [INPUT_IDS, MASK, TYPES].iter().chain(answers).map(|name| (*name).to_owned()).collect();
        known.retain(|name| is_there(name));
        known.sort_unstable();
        known.dedup();
        let options = load::Options {
            device: Some("cpu".parse()?),
            include: known,
            memory_bytes,
            ..load::Options::default()
        };
        let tensors = load::load(model, options).wait()?.tensors;
        let (rows, padded) = rows(&tensors).map_err(of_file)?;
        Ok(Reference { name, rows, padded, tensors })
    }

    /// The tensor of a quantity.
    ///
    /// # Errors
    /// `BadInput`: a shape that does not fit the ids, or a type that has no numbers.
    pub fn find(&self, quantity: Quantity) -> Result<Option<Answer>> {
        let found = quantity
            .names()
            .iter()
            .find_map(|name| Some((name, self.tensors.iter().position(|t| t.name() == *name)?)));
        let Some((name, tensor)) = found else { return Ok(None) };
        let t = &self.tensors[tensor];
        let fail = |message: String| Error::bad_input(message).tensor(*name).file(self.name.clone());
        if t.dtype() != DType::F32 && !cast::is_supported(t.dtype(), DType::F32) {
            return Err(fail(format!("is of type `{}`, where floats are needed", t.dtype())));
        }
        let (b, n) = (self.rows.len() as u64, self.padded as u64);
        let of_tokens = quantity != Quantity::Embeddings;
        let of_rows = quantity != Quantity::Hidden;
        let (extent, width) = match *t.shape() {
            [x, y, width] if of_tokens && (x, y) == (b, n) => (Extent::Each, width),
            [x, 1, width] if of_rows && x == b => (Extent::One, width),
            // One row of several tokens: as many rows of numbers are one for each token.
            [x, width] if of_tokens && b == 1 && x == n => (Extent::Each, width),
            [x, width] if of_rows && x == b => (Extent::One, width),
            [width] if of_rows && b == 1 => (Extent::One, width),
            _ => {
                return Err(fail(format!(
                    "has shape {:?}, which does not fit `{INPUT_IDS}` of {b} × {n}",
                    t.shape()
                )));
            }
        };
        if width == 0 {
            return Err(fail("holds no numbers".to_owned()));
        }
        Ok(Some(Answer { tensor, extent, width }))
    }

    /// Numbers `band` of the answers at `positions` of a row, row-major. A row with one answer has it at position 0.
    ///
    /// # Errors
    /// `BadInput`: numbers that no f32 holds. A bug where there are no such answers.
    pub fn numbers(
        &self,
        answer: &Answer,
        row: usize,
        positions: Range<usize>,
        band: Range<u64>,
    ) -> Result<Vec<f32>> {
        let t = self.tensors.get(answer.tensor).ok_or_else(out_of_reach)?;
        let count = match answer.extent {
            Extent::Each => self.rows.get(row).ok_or_else(out_of_reach)?.ids.len(),
            Extent::One => usize::from(row < self.rows.len()),
        };
        let padded = if answer.extent == Extent::Each { self.padded } else { 1 };
        if positions.start > positions.end
            || positions.end > count
            || band.start > band.end
            || band.end > answer.width
        {
            return Err(out_of_reach());
        }
        let bytes = t.bytes().ok_or_else(out_of_reach)?;
        let item = u64::from(t.dtype().facts().block_bytes);
        let mut numbers = Vec::new();
        for position in positions {
            // All of it lies inside the tensor, whose size in bytes was found not to overflow.
            let line = (row as u64 * padded as u64 + position as u64) * answer.width;
            let range = (line + band.start) * item..(line + band.end) * item;
            let bytes = crate::buf::usize_range(range).and_then(|r| bytes.get(r)).ok_or_else(out_of_reach)?;
            widen(t.dtype(), bytes, &mut numbers).map_err(|e| e.tensor(t.name()).file(self.name.clone()))?;
        }
        Ok(numbers)
    }

    /// An error where a token is not in a vocabulary of this size.
    ///
    /// # Errors
    /// `BadInput`.
    pub fn check_vocabulary(&self, vocabulary: u64) -> Result<()> {
        for (r, row) in self.rows.iter().enumerate() {
            if let Some(at) = row.ids.iter().position(|&id| u64::from(id) >= vocabulary) {
                return Err(Error::bad_input(format!(
                    "holds token {} (row {r}, position {at}), and the model has a vocabulary of {}",
                    row.ids[at],
                    grouped(vocabulary)
                ))
                .tensor(INPUT_IDS)
                .file(self.name.clone())
                .hint("the reference was made with another model"));
            }
        }
        Ok(())
    }

    /// Refuses rows that are longer than the model takes.
    ///
    /// # Errors
    /// `BadInput`, with the row.
    pub fn check_length(&self, context: Option<usize>) -> Result<()> {
        let most = context.unwrap_or(usize::MAX);
        let Some(row) = self.rows.iter().position(|row| row.ids.len() > most) else { return Ok(()) };
        let count = self.rows.get(row).map_or(0, |row| row.ids.len());
        Err(Error::bad_input(format!(
            "has {} tokens in row {row}, and the model was made for {}",
            grouped(count as u64),
            grouped(most as u64)
        ))
        .tensor(INPUT_IDS)
        .file(self.name.clone())
        .hint("the reference was made with another model"))
    }

    /// The longest row.
    pub fn longest(&self) -> usize {
        self.rows.iter().map(|row| row.ids.len()).max().unwrap_or(0)
    }
}

const INPUT_IDS: &str = "input_ids";
const MASK: &str = "attention_mask";
const TYPES: &str = "token_type_ids";

fn no_ids() -> Error {
    Error::bad_input(format!("has no tensor `{INPUT_IDS}`")).hint(
        "a reference is a safetensors file with the token ids that were passed through a model, `input_ids` [b, n], and what it gave: `logits` [b, n, v], `last_hidden_state`, `embeddings` or `scores`",
    )
}

fn out_of_reach() -> Error {
    Error::bug("the reference was asked for numbers that it does not have")
}

/// The rows of `input_ids`, and how long each is with its padding.
fn rows(tensors: &[LoadedTensor]) -> Result<(Vec<Row>, usize)> {
    let of = |name: &str| tensors.iter().find(|t| t.name() == name);
    let ids = of(INPUT_IDS).ok_or_else(no_ids)?;
    let fail = |name: &str, message: String| Error::bad_input(message).tensor(name);
    let (b, n) = match *ids.shape() {
        [n] => (1, n),
        [b, n] => (b, n),
        _ => {
            return Err(fail(
                INPUT_IDS,
                format!("has shape {:?}, where [rows, tokens] is needed", ids.shape()),
            ));
        }
    };
    let numbers = |t: &LoadedTensor| {
        if t.shape() != ids.shape() {
            return Err(fail(
                t.name(),
                format!("has shape {:?}, and `{INPUT_IDS}` has {:?}", t.shape(), ids.shape()),
            ));
        }
        whole_numbers(t)
    };
    let padded = usize::try_from(n).unwrap_or(usize::MAX);
    if b == 0 || n == 0 {
        return Err(fail(INPUT_IDS, format!("has shape {:?}: no tokens", ids.shape())));
    }
    // The product does not overflow: it was checked when the file was opened.
    if b * n > TOKENS_MAX {
        return Err(Error::unsupported(format!("has {} tokens", grouped(b * n)))
            .tensor(INPUT_IDS)
            .hint(format!("up to {} are read", grouped(TOKENS_MAX))));
    }
    let all = numbers(ids)?;
    let types = of(TYPES).map(numbers).transpose()?;
    let mask = of(MASK).map(numbers).transpose()?;
    let mut rows = Vec::new();
    for (r, ids) in all.chunks(padded).enumerate() {
        let place = r * padded..(r + 1) * padded;
        let count = match mask.as_ref().and_then(|m| m.get(place.clone())) {
            None => padded,
            Some(mask) => {
                let count = mask.iter().take_while(|&&m| m == 1).count();
                if let Some(odd) = mask.iter().find(|&&m| m > 1) {
                    return Err(fail(MASK, format!("holds {odd} (row {r}), where 0 or 1 is needed")));
                }
                if count == 0 || mask.iter().skip(count).any(|&m| m != 0) {
                    return Err(Error::unsupported(format!(
                        "has something else than ones and then zeros (row {r})"
                    ))
                    .tensor(MASK)
                    .hint("pad behind the tokens, so that their positions count from 0"));
                }
                count
            }
        };
        let types = types.as_ref().and_then(|t| t.get(place)).and_then(|t| t.get(..count));
        rows.push(Row {
            ids: ids.get(..count).unwrap_or_default().to_vec(),
            types: types.map(<[u32]>::to_vec),
        });
    }
    Ok((rows, padded))
}

/// A tensor of whole numbers from 0 to 2³² − 1.
fn whole_numbers(t: &LoadedTensor) -> Result<Vec<u32>> {
    if !IDS.contains(&t.dtype()) {
        return Err(Error::bad_input(format!("is of type `{}`, where whole numbers are needed", t.dtype()))
            .tensor(t.name()));
    }
    let width = t.dtype().facts().block_bytes as usize;
    let signed = matches!(t.dtype(), DType::I64 | DType::I32 | DType::I16 | DType::I8);
    let bytes = t.bytes().ok_or_else(out_of_reach)?;
    let number = |(at, bytes): (usize, &[u8])| {
        let mut wide = [0; 8];
        wide[..width].copy_from_slice(bytes);
        let mut x = i128::from(u64::from_le_bytes(wide));
        if signed && x >> (8 * width - 1) != 0 {
            x -= 1 << (8 * width);
        }
        u32::try_from(x).map_err(|_| {
            Error::bad_input(format!("holds {x} at place {at}, which is no token's number")).tensor(t.name())
        })
    };
    bytes.chunks_exact(width).enumerate().map(number).collect()
}

/// Adds floats as f32.
fn widen(dtype: DType, bytes: &[u8], to: &mut Vec<f32>) -> Result<()> {
    let item = dtype.facts().block_bytes as usize;
    let start = to.len();
    to.resize(start + bytes.len() / item, 0.0);
    let target = bytemuck::cast_slice_mut(&mut to[start..]);
    if dtype == DType::F32 {
        target.copy_from_slice(bytes);
        return Ok(());
    }
    match cast::cast(dtype, DType::F32, bytes, target, false) {
        0 => Ok(()),
        n => Err(Error::bad_input(format!("holds {} numbers that are too large for f32", grouped(n)))),
    }
}
