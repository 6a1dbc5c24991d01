//! Tensors that are made while they are written: a safetensors file whose names, types and shapes are known beforehand, and
//! whose numbers come in any order. Like every output it is complete or absent, and never one of the inputs.

use super::inputs;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::format::layout::{Entry, Laid};
use crate::format::safetensors::layout::{check, lay_out};
use crate::open::Model;
use crate::sink::file::FileSink;
use crate::sink::output::{Begin, FileOut, Identity, Out, begin};
use std::path::{Path, PathBuf};

/// A safetensors file being written. Dropped before [`TensorFile::finish`], it leaves nothing.
#[derive(Debug)]
pub struct TensorFile {
    entries: Vec<Entry>,
    laid: Laid,
    sink: FileSink,
    /// Holds the output's lock.
    _out: FileOut,
}

impl TensorFile {
    /// Begins a file with these tensors (name, type, shape). What is never written is zeros. With `force` it replaces
    /// what is there, but never a file of one of `models`.
    ///
    /// # Errors
    /// As [`crate::sink::output::begin`] and [`crate::format::safetensors::layout::lay_out`]: the file is there, is an
    /// input, its folder is missing, the disk has no room; two tensors of one name, a type that safetensors has not.
    pub fn create(
        target: &Path,
        tensors: Vec<(String, DType, Vec<u64>)>,
        models: &[&Model],
        force: bool,
    ) -> Result<TensorFile> {
        let entry = |(name, dtype, shape)| Entry { name, dtype, shape };
        let entries: Vec<Entry> = tensors.into_iter().map(entry).collect();
        let laid = lay_out(&entries, &[("format".into(), "pt".into())], None)?;
        check(&laid, &entries)?;
        let inputs: Vec<PathBuf> = models.iter().flat_map(|model| inputs(model, None)).collect();
        // Only outputs that go on where they were cut off are asked who they are.
        let identity = Identity { plan_hash: String::new(), sources: Vec::new() };
        let out = begin(&Begin { target, force, inputs: &inputs, identity: &identity, directory: false })?;
        let Out::File(out) = out else { return Err(Error::bug("a file was begun as a directory")) };
        let sink = out.create(laid.file_size_bytes)?;
        for (at, bytes) in &laid.fixed {
            sink.write_all_at(bytes, *at)?;
        }
        Ok(TensorFile { entries, laid, sink, _out: out })
    }

    /// Writes bytes of the `tensor`-th tensor, little-endian, `offset_bytes` from its first. From any thread.
    ///
    /// # Errors
    /// A bug where they lie beyond the tensor; what writing gives.
    pub fn write_at(&self, tensor: usize, offset_bytes: u64, bytes: &[u8]) -> Result<()> {
        let (Some(entry), Some(start)) = (self.entries.get(tensor), self.laid.offsets_bytes.get(tensor))
        else {
            return Err(Error::bug(format!("tensor {tensor} of {} was written", self.entries.len())));
        };
        let end = offset_bytes.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > entry.size_bytes().unwrap_or(0)) {
            return Err(Error::bug("was written beyond its end").tensor(&entry.name));
        }
        self.sink.write_all_at(bytes, start + offset_bytes)
    }

    /// Brings the file to the disk and gives it its name.
    ///
    /// # Errors
    /// What the system says.
    pub fn finish(self) -> Result<()> {
        self.sink.finish()
    }
}
