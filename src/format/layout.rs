//! What the layouts of the three containers share: a tensor to be written, a file laid out, and how tensors are spread
//! over files.
//!
//! A layout is arithmetic: from names, types and shapes to every byte that is not a tensor's and to the place of every
//! byte that is. No data and no file is needed, so a plan knows where all of it goes before the first byte is read. What
//! was laid out is read back by our own reader before data follows (`Laid::check`): an error then is a bug of the
//! writer, and nothing has been spent on it yet.

use super::{Known, Step};
use crate::checkpoint::Part;
use crate::dtype::{DType, element_count};
use crate::error::{Error, Result};
use hashbrown::HashMap;
use serde_json::{Map, Value, json};
use std::ops::Range;

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub name: String,
    /// The element type; one that the container has.
    pub dtype: DType,
    /// Sizes, outermost first (for GGUF too); empty for a scalar.
    pub shape: Vec<u64>,
}

impl Entry {
    /// Bytes of the tensor's data, or why there is no such tensor.
    pub fn size_bytes(&self) -> Result<u64> {
        element_count(&self.shape).and_then(|n| self.dtype.size_bytes(n)).ok_or_else(|| {
            Error::bad_input(format!(
                "has shape {:?}, which overflows or does not fill whole bytes of `{}`",
                self.shape, self.dtype
            ))
            .tensor(&self.name)
        })
    }
}

/// A file laid out. What neither a tensor nor [`Laid::fixed`] covers is zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Laid {
    /// Bytes that are known beforehand and where they go, in the file's order: headers, and padding that is not zeros.
    pub fixed: Vec<(u64, Vec<u8>)>,
    /// Where each tensor begins, from the start of the file, in the order the tensors were given in.
    pub offsets_bytes: Vec<u64>,
    /// The size of the whole file.
    pub file_size_bytes: u64,
}

impl Laid {
    /// Reads the file back with `parse`, tensors being zeros, and compares what is found with what was to be written;
    /// `sealed` are bytes that are known only after the tensors. Also no two things may lie in one place.
    ///
    /// # Errors
    /// Bugs of the writer, and what the writer may do and our reader does not take (a header over its limits).
    pub(super) fn check(
        &self,
        tensors: &[Entry],
        sealed: &[(u64, Vec<u8>)],
        parse: impl Fn(&Known) -> Result<Step<Part>>,
    ) -> Result<()> {
        let bug = |what: String| Error::bug(format!("the file laid out is not what was meant: {what}"));
        self.check_places(tensors, sealed)?;
        let mut pieces: Vec<&(u64, Vec<u8>)> = self.fixed.iter().chain(sealed).collect();
        pieces.sort_unstable_by_key(|(at, _)| *at);
        let mut known = Known::of_size(self.file_size_bytes);
        for (at, bytes) in &pieces {
            known.add(*at, bytes.clone());
        }
        let part = loop {
            match parse(&known)? {
                Step::Done(part) => break part,
                // What a reader takes along to save a request; it can ask for a tensor's bytes so, but not for many.
                Step::Need(ranges) => {
                    for range in ranges {
                        if known.get(range.clone()).is_some() {
                            return Err(bug("it asks again for what it was given".into()));
                        }
                        known.add(range.start, with_zeros(&pieces, range));
                    }
                }
            }
        };
        let read: HashMap<&str, _> = part.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
        if read.len() != tensors.len() {
            return Err(bug(format!("{} tensors were laid out and {} are read", tensors.len(), read.len())));
        }
        for (tensor, &offset_bytes) in tensors.iter().zip(&self.offsets_bytes) {
            let same = read.get(tensor.name.as_str()).is_some_and(|t| {
                t.dtype == tensor.dtype
                    && t.shape == tensor.shape
                    && t.at.span.offset_bytes == offset_bytes
                    && t.at.is_plain()
            });
            if !same {
                return Err(bug("it differs".into()).tensor(&tensor.name));
            }
        }
        Ok(())
    }

    /// Everything lies inside the file, and nothing on anything else but tensors that share all their bytes.
    fn check_places(&self, tensors: &[Entry], sealed: &[(u64, Vec<u8>)]) -> Result<()> {
        let bug = |what: &str| Error::bug(format!("the file laid out has {what}"));
        if tensors.len() != self.offsets_bytes.len() {
            return Err(bug("more or fewer places than tensors"));
        }
        let mut places = Vec::with_capacity(tensors.len() + self.fixed.len() + sealed.len());
        for (tensor, &offset_bytes) in tensors.iter().zip(&self.offsets_bytes) {
            places.push((offset_bytes, tensor.size_bytes()?, true));
        }
        for (offset_bytes, bytes) in self.fixed.iter().chain(sealed) {
            places.push((*offset_bytes, bytes.len() as u64, false));
        }
        places.retain(|&(_, size_bytes, _)| size_bytes > 0);
        places.sort_unstable();
        places.dedup_by(|a, b| a == b && a.2);
        let mut end_bytes = 0;
        for (offset_bytes, size_bytes, _) in places {
            if offset_bytes < end_bytes {
                return Err(bug("two things in one place").at(offset_bytes));
            }
            end_bytes = offset_bytes.saturating_add(size_bytes);
        }
        if end_bytes > self.file_size_bytes {
            return Err(bug("things beyond its end").at(end_bytes));
        }
        Ok(())
    }
}

/// The file's bytes of a range, tensors being zeros. `pieces` in order of their offsets.
fn with_zeros(pieces: &[&(u64, Vec<u8>)], range: Range<u64>) -> Vec<u8> {
    let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
    let mut bytes = vec![0; index(range.end - range.start)];
    let first = pieces.partition_point(|(at, piece)| at + piece.len() as u64 <= range.start);
    for (at, piece) in pieces.get(first..).unwrap_or_default() {
        if *at >= range.end {
            break;
        }
        let skip = index(range.start.saturating_sub(*at));
        let to = index(at.saturating_sub(range.start));
        for (byte, from) in bytes.iter_mut().skip(to).zip(piece.iter().skip(skip)) {
            *byte = *from;
        }
    }
    bytes
}

/// Refuses two tensors of one name.
pub(super) fn refuse_twins(tensors: &[Entry]) -> Result<()> {
    let mut names: Vec<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|w| w[0] == w[1]) {
        Some(twins) => Err(Error::bad_input("would be written twice").tensor(twins[0])),
        None => Ok(()),
    }
}

/// The end of a run of bytes; an error where no file can be so large.
pub(super) fn end_bytes(offset_bytes: u64, size_bytes: u64) -> Result<u64> {
    // Offsets are signed numbers to the system.
    offset_bytes
        .checked_add(size_bytes)
        .filter(|&end| i64::try_from(end).is_ok())
        .ok_or_else(|| Error::bad_input("ends beyond the largest file there can be"))
}

/// Spreads tensors over shards in their order: a shard is closed when the next tensor would take its data over
/// `shard_size_bytes`. A tensor larger than that has a shard of its own. Headers are not counted, as in Hugging Face's
/// writers. No tensors are one shard without any.
pub fn split_by_size(sizes_bytes: &[u64], shard_size_bytes: u64) -> Vec<Range<usize>> {
    let mut shards = Vec::new();
    let (mut start, mut held_bytes) = (0, 0u64);
    for (i, &size) in sizes_bytes.iter().enumerate() {
        if i > start && held_bytes.checked_add(size).is_none_or(|sum| sum > shard_size_bytes) {
            shards.push(start..i);
            (start, held_bytes) = (i, 0);
        }
        held_bytes = held_bytes.saturating_add(size);
    }
    shards.push(start..sizes_bytes.len());
    shards
}

/// Spreads tensors over `count` shards in their order, as evenly as whole tensors allow and none of them empty; fewer
/// shards only where there are fewer tensors.
pub fn split_by_count(sizes_bytes: &[u64], count: usize) -> Vec<Range<usize>> {
    let count = count.clamp(1, sizes_bytes.len().max(1));
    let total: u128 = sizes_bytes.iter().map(|&s| u128::from(s)).sum();
    let mut shards = Vec::with_capacity(count);
    let (mut start, mut before) = (0, 0u128);
    for (i, &size) in sizes_bytes.iter().enumerate() {
        let closed = shards.len();
        let goal = total * (closed as u128 + 1) / count as u128;
        // Close before this tensor if its middle lies beyond the goal, or if the shards left need all that is left.
        let beyond = before + u128::from(size) / 2 >= goal;
        let left = sizes_bytes.len() - i;
        if i > start && closed + 1 < count && (beyond || left < count - closed) {
            shards.push(start..i);
            start = i;
        }
        before += u128::from(size);
    }
    shards.push(start..sizes_bytes.len());
    shards
}

/// The name of a shard: `model.safetensors` where there is one only, else `model-00001-of-00003.safetensors`, counting
/// from one.
pub fn shard_name(stem: &str, extension: &str, index: usize, count: usize) -> String {
    match count {
        1 => format!("{stem}.{extension}"),
        _ => format!("{stem}-{:05}-of-{count:05}.{extension}", index + 1),
    }
}

/// The name of the index that stands beside shards of this stem: `model.safetensors.index.json`,
/// `pytorch_model.bin.index.json`.
pub fn index_name(stem: &str, extension: &str) -> String {
    format!("{stem}.{extension}.index.json")
}

/// The index of a checkpoint of several files, as Hugging Face's writers make it: sizes, and tensor → file sorted by
/// tensor.
pub fn index_json<'a>(
    total_elements: u64,
    total_size_bytes: u64,
    files: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> String {
    let mut files: Vec<_> = files.into_iter().collect();
    files.sort_unstable();
    let map: Map<String, Value> = files.into_iter().map(|(t, f)| (t.to_owned(), f.into())).collect();
    let index = json!({
        "metadata": {"total_parameters": total_elements, "total_size": total_size_bytes},
        "weight_map": map,
    });
    format!("{index:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::single_range_in_vec_init)] // one shard is a vector of one range
    fn shards() {
        for (sizes, limit, expected) in [
            (&[][..], 10, vec![0..0]),
            (&[4, 4, 4, 4], 8, vec![0..2, 2..4]),
            (&[4, 4, 4, 4], 9, vec![0..2, 2..4]),
            (&[20, 1, 1, 20], 8, vec![0..1, 1..3, 3..4]),
            (&[u64::MAX, u64::MAX], u64::MAX, vec![0..1, 1..2]),
        ] {
            assert_eq!(split_by_size(sizes, limit), expected, "{sizes:?} by {limit}");
        }
        for (sizes, count, expected) in [
            (&[][..], 3, vec![0..0]),
            (&[1, 1], 3, vec![0..1, 1..2]),
            (&[4, 4, 4, 4], 2, vec![0..2, 2..4]),
            (&[100, 1, 1], 3, vec![0..1, 1..2, 2..3]),
            (&[1, 1, 100], 3, vec![0..1, 1..2, 2..3]),
            (&[0, 0, 0], 2, vec![0..1, 1..3]),
            (&[1, 9, 1, 9, 1, 9], 3, vec![0..2, 2..4, 4..6]),
        ] {
            assert_eq!(split_by_count(sizes, count), expected, "{sizes:?} in {count}");
        }
        for (stem, extension, index, count, name, index_file) in [
            ("model", "safetensors", 0, 1, "model.safetensors", "model.safetensors.index.json"),
            (
                "pytorch_model",
                "bin",
                1,
                12,
                "pytorch_model-00002-of-00012.bin",
                "pytorch_model.bin.index.json",
            ),
        ] {
            assert_eq!(shard_name(stem, extension, index, count), name);
            assert_eq!(index_name(stem, extension), index_file);
        }
    }

    #[test]
    fn an_index_is_sorted() {
        let index = index_json(3, 6, [("b", "y"), ("a", "x")]);
        let expected = "{\n  \"metadata\": {\n    \"total_parameters\": 3,\n    \"total_size\": 6\n  },\n  \"weight_map\": {\n    \"a\": \"x\",\n    \"b\": \"y\"\n  }\n}\n";
        assert_eq!(index, expected);
    }
}
