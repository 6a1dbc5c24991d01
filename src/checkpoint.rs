//! The checkpoint: a table of tensors and where their bytes lie. It holds no data and does no I/O, so it can be
//! sorted, filtered, sliced and printed for nothing.
//!
//! Everything here came from a file and was checked on the way in: an [`Extent`] lies inside its file, its size
//! equals what shape and dtype say, no two tensors of one checkpoint share a name.

mod arrays;

pub use arrays::{ARRAY_DEPTH_MAX, Items, Texts};

use crate::dtype::{DType, element_count};
use crate::error::{Error, Result};
use crate::text::grouped;
use hashbrown::HashMap;
use std::fmt;

/// A file of the checkpoint, by its place in [`Checkpoint::files`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct FileId(pub u32);

impl FileId {
    /// The place in [`Checkpoint::files`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The container a file is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Container {
    /// safetensors.
    Safetensors,
    /// PyTorch's `.bin`, `.pt`, `.pth`: the zip form or the older stream of pickles.
    Torch,
    /// GGUF.
    Gguf,
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Container::Safetensors => "safetensors",
            Container::Torch => "PyTorch",
            Container::Gguf => "GGUF",
        })
    }
}

/// One file of a checkpoint.
#[derive(Debug, Clone)]
pub struct FileRef {
    /// Its name as the model's place lists it (`model-00001-of-00003.safetensors`, `unet/model.safetensors`).
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// What it is written in.
    pub container: Container,
}

/// Bytes of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// Which file.
    pub file: FileId,
    /// The first byte.
    pub offset_bytes: u64,
    /// How many.
    pub size_bytes: u64,
}

impl Span {
    /// The byte after the last. Never overflows: a span lies inside a file.
    pub fn end_bytes(&self) -> u64 {
        self.offset_bytes + self.size_bytes
    }
}

/// The order of bytes inside a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ByteOrder {
    /// Least significant first: every machine hoist runs on.
    #[default]
    Little,
    /// Most significant first.
    Big,
}

/// Where a tensor's elements lie. Row-major and without gaps unless `strides` says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Extent {
    /// From the first element's first byte to the last byte of any element.
    pub span: Span,
    /// Elements between neighbours along each dimension, where the elements are not simply row-major; zero repeats.
    /// Only for plain dtypes; never negative (torch has none).
    pub strides: Option<Box<[u64]>>,
    /// Byte order of the numbers.
    pub order: ByteOrder,
    /// torch's lazy conjugation: the imaginary parts are to be negated (complex dtypes only).
    pub conj: bool,
    /// torch's lazy negation: every number is to be negated.
    pub neg: bool,
}

impl Extent {
    /// A row-major run of bytes in this machine's order.
    pub fn plain(span: Span) -> Extent {
        Extent { span, strides: None, order: ByteOrder::Little, conj: false, neg: false }
    }

    /// Whether the bytes of the file are the tensor's bytes, as they are.
    pub fn is_plain(&self) -> bool {
        self.strides.is_none() && self.order == ByteOrder::Little && !self.conj && !self.neg
    }
}

/// One row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// The name; in a model of several components `component/name`.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Sizes, outermost first (torch's order; GGUF's is reversed on reading). Empty for a scalar.
    pub shape: Vec<u64>,
    /// Where the elements lie.
    pub at: Extent,
}

impl Tensor {
    /// The number of elements. Checked when the tensor entered the table.
    pub fn element_count(&self) -> u64 {
        element_count(&self.shape).unwrap_or(0)
    }

    /// Bytes of the tensor made contiguous (not of its span in the file). Checked when the tensor entered the table.
    pub fn size_bytes(&self) -> u64 {
        self.dtype.size_bytes(self.element_count()).unwrap_or(0)
    }

    /// Checks what the type promises: size = shape × dtype for a row-major tensor, every strided element inside the
    /// span, everything inside the file.
    pub fn check(&self, file_size_bytes: u64) -> Result<()> {
        let fail = |message: String| Err(Error::bad_input(message).tensor(&self.name));
        let Some(elements) = element_count(&self.shape) else {
            return fail(format!("has shape {:?}, whose product overflows", self.shape));
        };
        let Some(size_bytes) = self.dtype.size_bytes(elements) else {
            return fail(format!(
                "has shape {:?}, which does not fill whole blocks of `{}`",
                self.shape, self.dtype
            ));
        };
        let span = self.at.span;
        let Some(end) = span.offset_bytes.checked_add(span.size_bytes).filter(|&e| e <= file_size_bytes)
        else {
            let end = u128::from(span.offset_bytes) + u128::from(span.size_bytes);
            let end = u64::try_from(end).map_or_else(|_| end.to_string(), grouped);
            let message = format!("ends at byte {end} but the file has {}", grouped(file_size_bytes));
            return Err(Error::bad_input(message)
                .tensor(&self.name)
                .detail("the file was probably cut short, or its header is damaged"));
        };
        debug_assert!(end <= file_size_bytes);
        match &self.at.strides {
            None if span.size_bytes != size_bytes => fail(format!(
                "has {} bytes of data where shape {:?} of `{}` needs {}",
                grouped(span.size_bytes),
                self.shape,
                self.dtype,
                grouped(size_bytes)
            )),
            None => Ok(()),
            Some(strides) if strides.len() != self.shape.len() || !self.dtype.is_plain() => fail(format!(
                "has strides {strides:?} that do not fit shape {:?} of `{}`",
                self.shape, self.dtype
            )),
            Some(strides) => {
                let needed = strided_size_bytes(self.dtype, &self.shape, strides);
                match needed {
                    Some(n) if n <= span.size_bytes => Ok(()),
                    _ => fail(format!(
                        "has shape {:?} and strides {strides:?}, which reach beyond the {} bytes of its storage",
                        self.shape,
                        grouped(span.size_bytes)
                    )),
                }
            }
        }
    }
}

/// Bytes from the first element to the end of the last of a strided tensor of a plain dtype: (Σ (size−1)·stride + 1) ×
/// element size, zero where a dimension is zero, `None` where that overflows.
pub fn strided_size_bytes(dtype: DType, shape: &[u64], strides: &[u64]) -> Option<u64> {
    if shape.contains(&0) {
        return Some(0);
    }
    let last =
        shape.iter().zip(strides).try_fold(0u64, |sum, (&n, &s)| sum.checked_add((n - 1).checked_mul(s)?))?;
    last.checked_add(1)?.checked_mul(u64::from(dtype.facts().block_bytes))
}

/// The strides, in elements, of a row-major tensor. `None` where they overflow.
pub fn row_major_strides(shape: &[u64]) -> Option<Box<[u64]>> {
    let mut strides = vec![1u64; shape.len()];
    for d in (0..shape.len().saturating_sub(1)).rev() {
        strides[d] = strides[d + 1].checked_mul(shape[d + 1].max(1))?;
    }
    Some(strides.into())
}

/// A value beside the tensors: `__metadata__`, a GGUF key, a plain Python value of a state dict.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // each variant is its type
pub enum MetaValue {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    /// Text. GGUF's is bytes and not always UTF-8, so bytes are kept.
    Text(Box<[u8]>),
    Array(MetaArray),
    /// Python's `None`, JSON's `null`.
    Null,
}

/// The element type of a [`MetaArray`], with GGUF's type ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum MetaKind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    Array,
    U64,
    I64,
    F64,
}

/// An array as the file holds it: little-endian bytes, decoded one item at a time, so that a vocabulary costs what it
/// costs in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct MetaArray {
    /// What the items are.
    pub kind: MetaKind,
    /// How many.
    pub count: u64,
    /// The items, little endian; a text is a u64 length and its bytes; an array a u32 kind, a u64 count and items.
    /// Checked when it was read.
    pub bytes: Box<[u8]>,
}

impl MetaValue {
    /// The text, if it is one and valid UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            MetaValue::Text(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The value as an integer, whatever its width.
    pub fn as_i128(&self) -> Option<i128> {
        Some(match *self {
            MetaValue::U8(v) => v.into(),
            MetaValue::I8(v) => v.into(),
            MetaValue::U16(v) => v.into(),
            MetaValue::I16(v) => v.into(),
            MetaValue::U32(v) => v.into(),
            MetaValue::I32(v) => v.into(),
            MetaValue::U64(v) => v.into(),
            MetaValue::I64(v) => v.into(),
            _ => return None,
        })
    }

    /// The value as an unsigned integer that fits, whatever its width.
    pub fn as_u64(&self) -> Option<u64> {
        self.as_i128().and_then(|v| u64::try_from(v).ok())
    }

    /// The value as a number.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            MetaValue::F32(v) => Some(v.into()),
            MetaValue::F64(v) => Some(v),
            _ => self.as_i128().map(|v| v as f64),
        }
    }

    /// The truth value, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            MetaValue::Bool(v) => Some(v),
            _ => None,
        }
    }
}

/// What stands beside the tensors, in the order of the file, which is named.
#[derive(Debug, Clone, Default)]
pub struct Meta {
    /// Key, value, and the file they came from.
    pub entries: Vec<(String, MetaValue, FileId)>,
}

impl Meta {
    /// The first value of this key.
    pub fn get(&self, key: &str) -> Option<&MetaValue> {
        self.entries.iter().find(|(k, ..)| k == key).map(|(_, v, _)| v)
    }
}

/// What one file's header holds; offsets are relative to the file, [`Span::file`] is not yet set.
#[derive(Debug, Clone)]
pub struct Part {
    /// What the file is written in.
    pub container: Container,
    /// Its tensors, in the header's order.
    pub tensors: Vec<Tensor>,
    /// What stands beside them.
    pub meta: Vec<(String, MetaValue)>,
    /// What a person should know: values skipped, oddities accepted.
    pub notes: Vec<String>,
}

/// The table.
#[derive(Debug, Clone, Default)]
pub struct Checkpoint {
    /// The files, in the order they were opened.
    pub files: Vec<FileRef>,
    /// The tensors, in the order of files and headers.
    pub tensors: Vec<Tensor>,
    /// What stands beside them.
    pub meta: Meta,
    /// What a person should know: an index that names what no file has, values skipped.
    pub notes: Vec<String>,
}

impl Checkpoint {
    /// Adds a file and all its header holds, checking each tensor against the file's size. Names are compared by
    /// [`Checkpoint::check_names`], once, when all files are in.
    pub fn add(&mut self, file: FileRef, part: Part) -> Result<FileId> {
        let too_many = || Error::unsupported("more than 4,294,967,295 files");
        let id = FileId(u32::try_from(self.files.len()).map_err(|_| too_many())?);
        self.tensors.reserve(part.tensors.len());
        for mut tensor in part.tensors {
            tensor.at.span.file = id;
            tensor.check(file.size_bytes).map_err(|e| e.file(&file.name))?;
            self.tensors.push(tensor);
        }
        self.meta.entries.extend(part.meta.into_iter().map(|(k, v)| (k, v, id)));
        self.notes.extend(part.notes.into_iter().map(|n| format!("{}: {n}", file.name)));
        self.files.push(file);
        Ok(id)
    }

    /// Refuses a name that two tensors have.
    pub fn check_names(&self) -> Result<()> {
        let mut seen = HashMap::with_capacity(self.tensors.len());
        for tensor in &self.tensors {
            if let Some(first) = seen.insert(tensor.name.as_str(), tensor.at.span.file) {
                let files = (&self.files[first.index()].name, &self.files[tensor.at.span.file.index()].name);
                let message = if files.0 == files.1 {
                    "is there twice".to_string()
                } else {
                    format!("is there twice: in `{}` and in `{}`", files.0, files.1)
                };
                return Err(Error::bad_input(message).tensor(&tensor.name).file(files.1));
            }
        }
        Ok(())
    }

    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|t| t.name == name)
    }

    /// For each tensor the index of the first one with the same elements in the same place: itself, unless it is an
    /// alias (tied weights).
    pub fn firsts(&self) -> Vec<usize> {
        let mut seen: HashMap<(&Extent, DType, &[u64]), usize> = HashMap::with_capacity(self.tensors.len());
        self.tensors
            .iter()
            .enumerate()
            .map(|(i, t)| match t.at.span.size_bytes {
                0 => i,
                _ => *seen.entry((&t.at, t.dtype, t.shape.as_slice())).or_insert(i),
            })
            .collect()
    }

    /// Parameters and bytes, aliases counted once.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for (i, first) in self.firsts().into_iter().enumerate() {
            if i == first {
                totals.elements = totals.elements.saturating_add(self.tensors[i].element_count());
                totals.size_bytes = totals.size_bytes.saturating_add(self.tensors[i].size_bytes());
            }
        }
        totals
    }
}

/// Sums over a checkpoint, aliases counted once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Elements of all tensors.
    pub elements: u64,
    /// Bytes of all tensors, made contiguous.
    pub size_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: &[u64], strides: Option<&[u64]>, offset_bytes: u64, size_bytes: u64) -> Tensor {
        let span = Span { file: FileId(0), offset_bytes, size_bytes };
        let at = Extent { strides: strides.map(Into::into), ..Extent::plain(span) };
        Tensor { name: "t".into(), dtype: DType::F32, shape: shape.into(), at }
    }

    #[test]
    fn a_tensor_is_checked_against_its_file() {
        for (t, said) in [
            (tensor(&[2, 3], None, 8, 24), None),
            (tensor(&[], None, 8, 4), None),
            (tensor(&[0, 3], None, 32, 0), None),
            (tensor(&[2, 3], None, 9, 24), Some("ends at byte 33 but the file has 32")),
            (
                tensor(&[2, 3], None, u64::MAX, 24),
                Some("ends at byte 18446744073709551639 but the file has 32"),
            ),
            (tensor(&[2, 3], None, 8, 20), Some("has 20 bytes of data where shape [2, 3] of `f32` needs 24")),
            (tensor(&[u64::MAX, 3], None, 8, 20), Some("overflows")),
            (tensor(&[3, 2], Some(&[1, 3]), 8, 24), None),
            (tensor(&[1000, 2], Some(&[0, 1]), 8, 8), None),
            (tensor(&[3, 2], Some(&[1, 4]), 8, 24), Some("reach beyond the 24 bytes")),
            (tensor(&[3, 2], Some(&[u64::MAX, 4]), 8, 24), Some("reach beyond the 24 bytes")),
            (tensor(&[3, 2], Some(&[1]), 8, 24), Some("do not fit")),
        ] {
            match (t.check(32), said) {
                (Ok(()), None) => {}
                (Err(e), Some(said)) => assert!(e.to_string().contains(said), "{e}"),
                (got, said) => panic!("{t:?}: {got:?}, expected {said:?}"),
            }
        }
    }

    #[test]
    fn aliases_count_once_and_names_once() {
        let file = FileRef { name: "f".into(), size_bytes: 64, container: Container::Torch };
        let mut a = tensor(&[2, 3], None, 8, 24);
        let mut b = a.clone();
        a.name = "a".into();
        b.name = "b".into();
        let part =
            Part { container: Container::Torch, tensors: vec![a, b.clone()], meta: vec![], notes: vec![] };
        let mut table = Checkpoint::default();
        table.add(file, part).unwrap();
        assert_eq!(table.firsts(), [0, 0]);
        assert_eq!(table.totals(), Totals { elements: 6, size_bytes: 24 });
        table.check_names().unwrap();
        table.tensors.push(b);
        assert!(table.check_names().unwrap_err().to_string().contains("tensor `b` is there twice"));
    }
}
