//! PyTorch checkpoints: `.bin`, `.pt`, `.pth`. A pickle describes the tensors, and raw storages hold their bytes;
//! since torch 1.6 they are members of a zip, before that they followed one another in a stream.
//!
//! A pickle is a program. Here it is read by a closed interpreter that knows a fixed list of inert names
//! and builds values of our own from them: tensors, storages, dicts, numbers. Nothing is imported or called, whatever a file
//! asks for. What comes out is a table of ranges, as for every format: a tensor is a view (offset, sizes, strides) of a
//! storage, and a storage is a range of the file.
//!
//! The state dict is the dict that holds tensors: the file's own, or the only one inside it, or of several the one that is
//! called as trainers call it (`state_dict`, `model`, …), never the optimizer's; where that leaves a doubt, the file is
//! refused. Plain numbers and texts on the way to it become metadata; whatever else is passed over is named in a note. A
//! single tensor is called `0`, tensors of a list `0`, `1`, …; a prefix that a wrapper put before every name (`module.`,
//! `_orig_mod.`) is removed.
//!
//! | file | knows |
//! |---|---|
//! | `zip.rs` | where the members of a zip lie |
//! | `legacy.rs` | the old stream |
//! | `names.rs` | the closed list of names |
//! | `value.rs` | values, the arena that holds them, its budget |
//! | `rebuild.rs` | what those names make |
//! | `pickle.rs` | opcodes, stack, memo |
//! | `state.rs` | which dict is the state dict; views checked against storages |
//! | `layout.rs`, `write_pickle.rs`, `write_zip.rs` | the way back: a file laid out, its pickle, its zip |

pub mod layout;

mod legacy;
mod names;
mod pickle;
mod rebuild;
mod state;
mod value;
mod write_pickle;
mod write_zip;
mod zip;

use super::{HEADER_BYTES_MAX, Known, Step};
use crate::checkpoint::{ByteOrder, Container, Part};
use crate::error::{Error, Result};
use crate::text::{Shown, grouped};
use std::ops::Range;
use value::{Fault, Form, Storage};
use zip::{Directory, Entry};

/// The largest pickle that is read; offsets in it fit 32 bits.
const PICKLE_BYTES_MAX: usize = HEADER_BYTES_MAX as usize;
/// Storages whose local headers are asked for together with the pickle. A hostile directory may list more members than
/// any model has; those that tensors do need are asked for afterwards.
const HEADERS_AHEAD_MAX: usize = 1 << 16;

/// Parses the header of PyTorch's zip form: end record, directory, `data.pkl`, and the local headers of storages, which
/// say where their bytes begin.
///
/// # Errors
///
/// `BadInput` for what is corrupt, ambiguous or asks for code; `Unsupported` for compressed or encrypted members,
/// TorchScript, and tensors that are not strided views of a storage.
pub fn parse_zip(known: &Known) -> Result<Step<Part>> {
    let directory = match Directory::read(known)? {
        Step::Need(wishes) => return Ok(Step::Need(wishes)),
        Step::Done(directory) => directory,
    };
    let pickle_entry = find_pickle(&directory)?;
    let prefix = pickle_entry.name.strip_suffix(b"data.pkl").unwrap_or_default();
    let member = |name: &[u8]| directory.get(&[prefix, name].concat());
    if member(b"constants.pkl").is_some()
        || directory
            .entries
            .iter()
            .any(|e| e.name.strip_prefix(prefix).is_some_and(|n| n.starts_with(b"code/")))
    {
        return Err(Error::unsupported("is a TorchScript program, not a state dict")
            .hint("save its state dict: torch.save(torch.jit.load(FILE).state_dict(), OTHER)"));
    }

    let mut wishes = Wishes::default();
    let pickle_bytes = wishes.member(known, pickle_entry)?;
    let order_bytes = match member(b"byteorder") {
        Some(entry) if entry.size_bytes > 16 => return Err(strange_order(b"...")),
        Some(entry) => wishes.member(known, entry)?,
        None => Some(&b"little"[..]),
    };
    let (Some(pickle_bytes), Some(order_bytes)) = (pickle_bytes, order_bytes) else {
        let is_storage = |e: &&Entry| e.name.strip_prefix(prefix).is_some_and(|n| n.starts_with(b"data/"));
        for entry in directory.entries.iter().filter(is_storage).take(HEADERS_AHEAD_MAX) {
            wishes.data(known, entry)?;
        }
        return Ok(wishes.need());
    };
    let order = match order_bytes {
        b"little" => ByteOrder::Little,
        b"big" => ByteOrder::Big,
        other => return Err(strange_order(other)),
    };
    check_crc32(pickle_entry, pickle_bytes)?;
    let loaded = pickle::load(pickle_bytes, 0, true, Form::Zip, 0).map_err(Fault::complete)?;
    if loaded.end != pickle_bytes.len() {
        return Err(Error::bad_input(format!(
            "data.pkl has {} bytes after its STOP at byte {}",
            grouped((pickle_bytes.len() - loaded.end) as u64),
            grouped(loaded.end as u64)
        )));
    }

    let mut places: Vec<Option<Range<u64>>> = Vec::with_capacity(loaded.values.storages.len());
    let entry_of = |storage: &Storage| member(&[b"data/", loaded.values.slice(storage.key)].concat());
    for storage in &loaded.values.storages {
        // A storage that is not there matters only to a tensor that is taken, and is told with its name.
        places.push(match entry_of(storage) {
            Some(entry) => wishes.data(known, entry)?,
            None => None,
        });
    }
    if !wishes.is_empty() {
        return Ok(wishes.need());
    }
    let state = state::collect(&loaded.values, loaded.root, known.size_bytes(), |index, storage| {
        let Some(Some(data)) = places.get(index) else {
            let key = String::from_utf8_lossy(loaded.values.slice(storage.key));
            let message = format!("needs the zip's member `data/{}`, which is not there", Shown(&key));
            return Err(Error::bad_input(message));
        };
        Ok(state::Located { offset_bytes: data.start, size_bytes: data.end - data.start, order })
    })?;
    let (tensors, meta, notes) = (state.tensors, state.meta, state.notes);
    Ok(Step::Done(Part { container: Container::Torch, tensors, meta, notes }))
}

/// The most that [`begins_legacy`] looks at.
pub const LEGACY_HEAD_BYTES: usize = 23;

/// Whether a file that begins with these bytes is PyTorch's old stream: the magic number 0x1950a86a20f9469cfc6c as a
/// pickle of protocol 2, or of a later one, which may put a frame around it.
pub fn begins_legacy(head: &[u8]) -> bool {
    legacy::begins(head)
}

/// Parses the header of PyTorch's old stream of pickles: the five pickles, and the count before each storage.
///
/// # Errors
///
/// As [`parse_zip`].
pub fn parse_legacy(known: &Known) -> Result<Step<Part>> {
    legacy::parse(known)
}

/// The member that ends in `/data.pkl`, which every torch file has once, at the top of its one folder.
fn find_pickle<'a, 'd>(directory: &'d Directory<'a>) -> Result<&'d Entry<'a>> {
    let mut found = directory.entries.iter().filter(|e| e.name.ends_with(b"/data.pkl"));
    match (found.next(), found.next()) {
        (Some(entry), None) => Ok(entry),
        (None, _) => Err(Error::bad_input("is a zip without `data.pkl`, so not a PyTorch file")),
        (Some(one), Some(other)) => {
            let shown = |e: &Entry| Shown(&String::from_utf8_lossy(e.name)).to_string();
            let message = format!(
                "has two pickles, `{}` and `{}`, where one describes the tensors",
                shown(one),
                shown(other)
            );
            Err(Error::bad_input(message))
        }
    }
}

fn strange_order(found: &[u8]) -> Error {
    let found = String::from_utf8_lossy(found);
    Error::bad_input(format!(
        "the zip's member `byteorder` says `{}`; `little` or `big` is expected",
        Shown(&found)
    ))
}

/// A CRC-32 of zero means that none was computed.
fn check_crc32(entry: &Entry, bytes: &[u8]) -> Result<()> {
    let found = zip::crc32(bytes);
    if entry.crc32 == 0 || entry.crc32 == found {
        return Ok(());
    }
    Err(Error::bad_input(format!(
        "data.pkl is damaged: its CRC-32 is {found:08x} and the zip's directory says {:08x}",
        entry.crc32
    )))
}

/// Ranges that are missing, gathered so that all are asked for at once.
#[derive(Default)]
struct Wishes(Vec<Range<u64>>);

impl Wishes {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where a member's bytes lie, or a wish for its local header.
    fn data(&mut self, known: &Known, entry: &Entry) -> Result<Option<Range<u64>>> {
        entry.check_stored()?;
        match entry.data(known)? {
            Ok(range) => Ok(Some(range)),
            Err(wish) => {
                self.0.push(wish);
                Ok(None)
            }
        }
    }

    /// A member's bytes, or a wish for them; with the local header, if that is missing too.
    fn member<'k>(&mut self, known: &'k Known, entry: &Entry) -> Result<Option<&'k [u8]>> {
        entry.check_stored()?;
        if entry.size_bytes > HEADER_BYTES_MAX {
            let (found, most) = (grouped(entry.size_bytes), grouped(HEADER_BYTES_MAX));
            let name = String::from_utf8_lossy(entry.name);
            let message =
                format!("the zip's member `{}` takes {found} bytes; hoist reads up to {most}", Shown(&name));
            return Err(Error::unsupported(message));
        }
        let data = match entry.data(known)? {
            Ok(data) => data,
            Err(wish) => {
                let whole = entry.header_wish(entry.size_bytes);
                self.0.push(whole.start..whole.end.max(wish.end));
                return Ok(None);
            }
        };
        match known.want(data, "a member of the zip")? {
            Ok(bytes) => Ok(Some(bytes)),
            Err(wish) => {
                self.0.push(wish);
                Ok(None)
            }
        }
    }

    /// The wishes in order, joined where they touch or overlap.
    fn need<T>(self) -> Step<T> {
        let mut ranges = self.0;
        ranges.sort_by_key(|r| (r.start, r.end));
        let mut joined: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match joined.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => joined.push(range),
            }
        }
        Step::Need(joined)
    }
}
