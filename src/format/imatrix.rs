//! llama.cpp's importance matrix in its first form, a stream of entries without a magic number, mostly called `imatrix.dat`.
//!
//! ```text
//! i32 entries | for each: i32 n, n bytes of name, i32 calls, i32 values, values × f32
//!             | i32 chunks | i32 n, n bytes: the text that it was measured on      (each may be missing)
//! ```
//!
//! All little endian. What is stored is the mean square times the calls. Nothing says how many experts an entry is of: whoever
//! knows the matrix does. (The later form is a GGUF.)
//!
//! Stricter than llama.cpp where it goes on with half a file: a tail that is cut short and bytes after it are refused, and so
//! is text that is not UTF-8.

use crate::error::{Error, Result};
use crate::text::{Shown, grouped};

/// The fewest bytes of an entry: a name of one byte and one value.
const ENTRY_BYTES_MIN: u64 = 4 + 1 + 4 + 4 + 4;

/// A file in the older form.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Legacy<'a> {
    /// The entries, in the file's order.
    pub entries: Vec<Entry<'a>>,
    /// In how many chunks it was measured, where it says so.
    pub chunk_count: Option<i32>,
    /// The text that it was measured on, where it says so.
    pub dataset: Option<&'a str>,
}

/// An entry.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entry<'a> {
    /// The tensor's name, as GGUFs have it.
    pub name: &'a str,
    /// What the values were multiplied by, where it is more than zero.
    pub call_count: i32,
    /// The values: f32, little endian.
    pub values: &'a [u8],
}

impl Entry<'_> {
    /// The mean squares.
    pub fn means(&self) -> impl ExactSizeIterator<Item = f32> {
        let calls = if self.call_count > 0 { self.call_count as f32 } else { 1.0 };
        self.values.as_chunks::<4>().0.iter().map(move |b| f32::from_le_bytes(*b) / calls)
    }
}

/// Takes from the front of a file.
struct Rest<'a> {
    bytes: &'a [u8],
    at: u64,
}

impl<'a> Rest<'a> {
    fn take(&mut self, count: u64, what: &str) -> Result<&'a [u8]> {
        let split = usize::try_from(count).ok().and_then(|n| self.bytes.split_at_checked(n));
        let Some((taken, rest)) = split else {
            return Err(Error::bad_input(format!(
                "{what} takes {} bytes and {} are left",
                grouped(count),
                grouped(self.bytes.len() as u64)
            ))
            .at(self.at)
            .detail("the file was probably cut short, or is no importance matrix"));
        };
        (self.bytes, self.at) = (rest, self.at.saturating_add(count));
        Ok(taken)
    }

    fn number(&mut self, what: &str) -> Result<i32> {
        let bytes = self.take(4, what)?;
        bytes.try_into().map(i32::from_le_bytes).map_err(|_| Error::bug("four bytes that are not four"))
    }

    /// A count of things of so many bytes.
    fn run(&mut self, least: u32, bytes: u64, length: &str, what: &str) -> Result<&'a [u8]> {
        let at = self.at;
        let count = self.number(length)?;
        match u32::try_from(count).ok().filter(|&n| n >= least) {
            Some(count) => self.take(u64::from(count).saturating_mul(bytes), what),
            None => Err(Error::bad_input(format!("{length} is {count}")).at(at)),
        }
    }
}

/// Text to its first NUL, where llama.cpp ends it.
fn text<'a>(bytes: &'a [u8], what: &str, at: u64) -> Result<&'a str> {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    std::str::from_utf8(bytes.get(..end).unwrap_or_default())
        .map_err(|_| Error::bad_input(format!("{what} is not UTF-8")).at(at))
}

/// Parses a whole file.
///
/// # Errors
/// `BadInput`: lengths that are negative or more than there is, a name that is empty, bytes after the end.
pub fn parse(bytes: &[u8]) -> Result<Legacy<'_>> {
    let mut rest = Rest { bytes, at: 0 };
    let count = rest.number("the count of entries")?;
    let most = bytes.len() as u64 / ENTRY_BYTES_MIN;
    let count = u64::try_from(count).ok().filter(|&n| n > 0 && n <= most).ok_or_else(|| {
        Error::bad_input(format!("the count of entries is {count}, and there is room for {}", grouped(most)))
            .at(0)
    })?;
    let mut legacy = Legacy::default();
    for _ in 0..count {
        let at = rest.at;
        let name = rest.run(1, 1, "the length of a name", "a name")?;
        let name = text(name, "a name", at)?;
        let inside = |e: Error| e.tensor(name);
        if name.is_empty() {
            return Err(Error::bad_input("an entry has no name").at(at));
        }
        let call_count = rest.number("has a count of calls that").map_err(inside)?;
        let values = rest.run(1, 4, "has a count of values that", "has a matrix that").map_err(inside)?;
        legacy.entries.push(Entry { name, call_count, values });
    }
    if !rest.bytes.is_empty() {
        legacy.chunk_count = Some(rest.number("the count of chunks")?);
    }
    if !rest.bytes.is_empty() {
        let at = rest.at;
        let dataset = rest.run(0, 1, "the length of the dataset's name", "the dataset's name")?;
        legacy.dataset = Some(text(dataset, "the dataset's name", at)?).filter(|d| !d.is_empty());
    }
    if !rest.bytes.is_empty() {
        let last = legacy.entries.last().map_or("", |e| e.name);
        return Err(Error::bad_input(format!(
            "has {} bytes after its end, which is behind entry `{}`",
            grouped(rest.bytes.len() as u64),
            Shown(last)
        ))
        .at(rest.at));
    }
    Ok(legacy)
}
