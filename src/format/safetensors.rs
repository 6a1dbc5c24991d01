//! safetensors: eight bytes of length, a JSON header, the data.
//!
//! The header is read in one pass straight into tensors: no tree of JSON values stands between, so a header of a
//! hundred thousand tensors costs time and memory in proportion to its bytes. The reader is as strict as the reference
//! (safetensors 0.8) and stricter where that one is silent: it lets the last of two equal keys win, we refuse both.
//!
//! Layout: `u64 n` little endian (n ≤ 100,000,000), n bytes of JSON, then the tensors' bytes, which in order of their
//! offsets follow each other without holes, overlaps or anything after the last.

pub mod layout;

mod header;

use super::{Known, Step};
use crate::checkpoint::{Container, Extent, FileId, Part, Span, Tensor};
use crate::dtype::element_count;
use crate::error::{Error, Result};
use crate::text::{Shown, grouped};
use hashbrown::HashSet;

/// The longest header the format allows.
pub const HEADER_BYTES_MAX: u64 = 100_000_000;

/// Bytes asked for when nothing is known: most headers are shorter.
const FIRST_BYTES: u64 = 256 << 10;

/// Bytes of the length at the start.
const LENGTH_BYTES: u64 = 8;

/// Parses the header. Tensors come in the header's order, with offsets from the start of the file.
///
/// # Errors
/// Whatever the reference refuses, and a tensor or a metadata key that is there twice: kind `BadInput`.
pub fn parse(known: &Known) -> Result<Step<Part>> {
    let size_bytes = known.size_bytes();
    if size_bytes < LENGTH_BYTES {
        return Err(Error::bad_input(format!(
            "has {size_bytes} bytes; a safetensors file begins with 8 that give the length of its header"
        )));
    }
    let start = known.from(0);
    let Some(length) = start.first_chunk::<8>() else {
        return Ok(Step::need(start.len() as u64..size_bytes.min(FIRST_BYTES)));
    };
    let length = u64::from_le_bytes(*length);
    if length == 0 {
        return Err(
            Error::bad_input("gives its header a length of 0 bytes; the shortest header is `{}`").at(0)
        );
    }
    if length > HEADER_BYTES_MAX {
        return Err(Error::bad_input(format!(
            "gives its header a length of {} bytes; the format allows {}",
            grouped(length),
            grouped(HEADER_BYTES_MAX)
        ))
        .at(0));
    }
    let data_start = LENGTH_BYTES + length;
    if data_start > size_bytes {
        return Err(cut_short(Error::bad_input(format!(
            "has a header that ends at byte {} but the file has {}",
            grouped(data_start),
            grouped(size_bytes)
        ))));
    }
    let run = known.from(LENGTH_BYTES);
    let Some(json) = usize::try_from(length).ok().and_then(|n| run.get(..n)) else {
        return Ok(Step::need(LENGTH_BYTES + run.len() as u64..data_start));
    };
    let header = header::read(json, LENGTH_BYTES)?;
    let mut notes = header.notes;
    if json.first() != Some(&b'{') {
        notes.push(
            "its header begins with whitespace, which the format forbids and readers accept".to_string(),
        );
    }
    check_names(&header.entries)?;
    check_offsets(&header.entries, data_start, size_bytes)?;
    let tensors = header
        .entries
        .into_iter()
        .map(|e| Tensor {
            name: e.name,
            dtype: e.dtype,
            shape: e.shape,
            at: Extent::plain(Span {
                file: FileId(0),
                offset_bytes: data_start + e.begin,
                size_bytes: e.end - e.begin,
            }),
        })
        .collect();
    Ok(Step::Done(Part { container: Container::Safetensors, tensors, meta: header.meta, notes }))
}

fn cut_short(error: Error) -> Error {
    error.detail("the file was probably cut short")
}

/// Refuses a name that two entries have.
fn check_names(entries: &[header::Entry]) -> Result<()> {
    let mut seen = HashSet::with_capacity(entries.len());
    match entries.iter().find(|e| !seen.insert(e.name.as_str())) {
        None => Ok(()),
        Some(e) => Err(Error::bad_input("is there twice in the header").tensor(&e.name)),
    }
}

/// Checks sizes, and that the data is covered without holes and overlaps: one sort, one pass.
fn check_offsets(entries: &[header::Entry], data_start: u64, size_bytes: u64) -> Result<()> {
    let mut order: Vec<&header::Entry> = entries.iter().collect();
    order.sort_by_key(|e| (e.begin, e.end));
    let data_bytes = size_bytes - data_start;
    let mut at = 0;
    let mut before: Option<&header::Entry> = None;
    for e in order {
        check_one(e)?;
        let fail = |message: String| {
            Err(Error::bad_input(message).tensor(&e.name).at(data_start.saturating_add(e.begin)))
        };
        let previous = || match before {
            None => "the data begins".to_string(),
            Some(b) => format!("tensor `{}` ends", Shown(&b.name)),
        };
        if e.begin > at {
            return fail(format!(
                "begins at offset {} but {} at {}: the format allows no holes",
                grouped(e.begin),
                previous(),
                grouped(at)
            ));
        }
        if e.begin < at {
            return fail(format!(
                "begins at offset {} but {} at {}: the format allows no overlap",
                grouped(e.begin),
                previous(),
                grouped(at)
            ));
        }
        if e.end > data_bytes {
            return Err(cut_short(
                Error::bad_input(format!(
                    "ends at byte {} but the file has {}",
                    grouped(data_start.saturating_add(e.end)),
                    grouped(size_bytes)
                ))
                .tensor(&e.name),
            ));
        }
        at = e.end;
        before = Some(e);
    }
    if at != data_bytes {
        let unit = if data_bytes - at == 1 { "byte" } else { "bytes" };
        return Err(Error::bad_input(format!(
            "has {} {unit} after its last tensor; the format allows none",
            grouped(data_bytes - at)
        ))
        .at(data_start + at));
    }
    Ok(())
}

/// Checks an entry by itself: its offsets give as many bytes as shape and dtype need.
fn check_one(e: &header::Entry) -> Result<()> {
    let fail = |message: String| Err(Error::bad_input(message).tensor(&e.name));
    let Some(size_bytes) = e.end.checked_sub(e.begin) else {
        return fail(format!("has `data_offsets` [{}, {}]: it ends before it begins", e.begin, e.end));
    };
    let Some(elements) = element_count(&e.shape) else {
        return fail(format!("has shape {}, whose product overflows", Dims(&e.shape)));
    };
    match e.dtype.size_bytes(elements) {
        Some(needed) if needed == size_bytes => Ok(()),
        Some(needed) => fail(format!(
            "has {} bytes of data where shape {} of `{}` needs {}",
            grouped(size_bytes),
            Dims(&e.shape),
            e.dtype,
            grouped(needed)
        )),
        None if e.dtype.is_plain() => {
            fail(format!("has shape {} of `{}`, whose size overflows", Dims(&e.shape), e.dtype))
        }
        None => {
            fail(format!("has shape {}, which does not fill whole bytes of `{}`", Dims(&e.shape), e.dtype))
        }
    }
}

/// A shape for a message: a hostile one may have thousands of dimensions.
struct Dims<'a>(&'a [u64]);

impl std::fmt::Display for Dims<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN_MAX: usize = 12;
        match self.0.get(..SHOWN_MAX) {
            Some(first) if self.0.len() > SHOWN_MAX => {
                write!(f, "{first:?} and {} more dimensions", self.0.len() - SHOWN_MAX)
            }
            _ => write!(f, "{:?}", self.0),
        }
    }
}
