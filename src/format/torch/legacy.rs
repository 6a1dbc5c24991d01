//! The stream of pickles that torch wrote before 1.6 (and still writes when asked): five pickles one after the other,
//! then the storages, each after its count.
//!
//! ```text
//! magic │ protocol 1001 │ {little_endian, …} │ the object │ [keys] │ i64 count, bytes │ i64 count, bytes │ …
//! ```
//!
//! How long the pickles are, nobody says: they are read in pieces that double, so that the work stays linear. The
//! storages lie in the order of the keys; their sizes are those of the persistent ids, and each count is compared.
//! Layout: torch `serialization.py`, `_legacy_save` and `_legacy_load`; `csrc/serialization.cpp` for the storages, which
//! are little endian whatever the machine, except that types without a storage class of their own are written as they
//! lie in memory.

use super::pickle::{self, Loaded};
use super::state::{self, Located};
use super::value::{Fault, Form, Storage, Value, width_bytes};
use crate::checkpoint::{ByteOrder, Container, Part};
use crate::error::{Error, Result};
use crate::format::{HEADER_BYTES_MAX, Known, Step};
use crate::text::{Shown, grouped};
use std::collections::HashMap;
use std::ops::Range;

/// What the first pickle holds, as the bytes of a long integer.
const MAGIC_NUMBER: &[u8] = b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
const PROTOCOL_VERSION: i64 = 1001;
/// How much is asked for at first.
const FIRST_BYTES: u64 = 64 << 10;

/// The four things that the pickles say.
struct Head<'a> {
    little_endian: bool,
    object: Loaded<'a>,
    keys: Loaded<'a>,
}

/// Whether a file begins as the old stream: a pickle of the magic number, in any protocol, framed or not.
pub(super) fn begins(head: &[u8]) -> bool {
    let rest = match head {
        [0x80, 2..=5, 0x95, _, _, _, _, _, _, _, _, rest @ ..] => rest,
        [0x80, 2..=5, rest @ ..] => rest,
        _ => return false,
    };
    rest.strip_prefix(b"\x8a\x0a").is_some_and(|rest| rest.starts_with(MAGIC_NUMBER))
}

/// Parses the old stream.
pub(super) fn parse(known: &Known) -> Result<Step<Part>> {
    let size = known.size_bytes();
    let bytes = known.from(0);
    let complete_bytes = bytes.len() as u64 >= size;
    let head = match read_head(bytes, complete_bytes) {
        Ok(head) => head,
        Err(Fault::Bad(error)) => return Err(error),
        Err(Fault::Short) => {
            let held = bytes.len() as u64;
            if held >= HEADER_BYTES_MAX {
                let most = grouped(HEADER_BYTES_MAX);
                let message = format!("the pickles take more than {most} bytes, the most that hoist reads");
                return Err(Error::unsupported(message));
            }
            let next = held.saturating_mul(2).clamp(FIRST_BYTES, HEADER_BYTES_MAX).min(size);
            return Ok(super::Wishes(vec![Range { start: held, end: next }]).need());
        }
    };
    let layout = match layout(known, &head)? {
        Step::Need(wishes) => return Ok(Step::Need(wishes)),
        Step::Done(layout) => layout,
    };
    let state = state::collect(&head.object.values, head.object.root, size, |_, storage| {
        let key = head.object.values.slice(storage.key);
        let Some(data) = layout.places.get(key) else { return Err(no_storage(key)) };
        Ok(Located {
            offset_bytes: data.start.saturating_add(storage.base_bytes),
            size_bytes: (data.end - data.start).saturating_sub(storage.base_bytes),
            order: ByteOrder::Little,
        })
    })?;
    let mut notes = state.notes;
    if layout.end < size {
        notes.push(format!("{} bytes after the last storage are not read", grouped(size - layout.end)));
    }
    if !head.little_endian {
        let doubtful = state.tensors.iter().find(|t| {
            let of_number =
                t.dtype.facts().torch.is_some_and(|n| n.starts_with("uint") || n.starts_with("float8"));
            t.dtype.facts().block_bytes > 1
                && (of_number || t.dtype.facts().class == crate::dtype::Class::Complex)
        });
        if let Some(tensor) = doubtful {
            let message = "was written on a big-endian machine into the old stream, which does not say how";
            return Err(Error::unsupported(message)
                .tensor(&tensor.name)
                .hint("load it with the torch that wrote it and save again"));
        }
    }
    Ok(Step::Done(Part { container: Container::Torch, tensors: state.tensors, meta: state.meta, notes }))
}

fn read_head(bytes: &[u8], complete_bytes: bool) -> std::result::Result<Head<'_>, Fault> {
    let load = |start| pickle::load(bytes, start, complete_bytes, Form::Legacy, 0);
    // Each is dropped when it has been looked at: what a hostile one builds need not stand beside the next.
    let magic_end = {
        let magic = load(0)?;
        if !matches!(magic.root, Value::LongInt(slice) if magic.values.slice(slice) == MAGIC_NUMBER) {
            return Err(Error::bad_input("the first pickle is not torch's magic number").into());
        }
        magic.end
    };
    let version_end = {
        let version = load(magic_end)?;
        check_version(version.root)?;
        version.end
    };
    let (system_end, little_endian) = {
        let system = load(version_end)?;
        (system.end, little_endian(&system)?)
    };
    let object = load(system_end)?;
    // These two stay, within one budget.
    let spent_bytes = object.values.spent_bytes();
    let keys = pickle::load(bytes, object.end, complete_bytes, Form::Legacy, spent_bytes)?;
    Ok(Head { little_endian, object, keys })
}

fn check_version(root: Value) -> Result<()> {
    match root {
        Value::Int(PROTOCOL_VERSION) => Ok(()),
        Value::Int(other) => {
            let message = format!("the stream has version {other}; hoist knows {PROTOCOL_VERSION}");
            Err(Error::unsupported(message))
        }
        _ => Err(Error::bad_input("the second pickle is no version")),
    }
}

/// What the third pickle says of the order of bytes.
fn little_endian(system: &Loaded) -> Result<bool> {
    let Value::Dict(node) = system.root else {
        return Err(Error::bad_input("the third pickle is not a dict"));
    };
    let mut little_endian = None;
    for pair in system.values.items(node).chunks_exact(2) {
        if let &[Value::Text(key), Value::Bool(value)] = pair
            && system.values.slice(key) == b"little_endian"
            && little_endian.replace(value).is_some()
        {
            return Err(Error::bad_input("`little_endian` is there twice"));
        }
    }
    little_endian.ok_or_else(|| Error::bad_input("the third pickle does not say the order of bytes"))
}

fn no_storage(key: &[u8]) -> Error {
    let key = String::from_utf8_lossy(key);
    Error::bad_input(format!("needs storage `{}`, which the file does not have", Shown(&key)))
}

/// Where each storage lies, and where the last one ends.
struct Layout<'a> {
    places: HashMap<&'a [u8], Range<u64>>,
    end: u64,
}

fn layout<'a>(known: &Known, head: &'a Head) -> Result<Step<Layout<'a>>> {
    // Parts of one storage must agree on the whole.
    let mut wholes: HashMap<&[u8], &Storage> = HashMap::with_capacity(head.object.values.storages.len());
    for storage in &head.object.values.storages {
        let key = head.object.values.slice(storage.key);
        let first = *wholes.entry(key).or_insert(storage);
        if (first.dtype, first.count) != (storage.dtype, storage.count) {
            let key = String::from_utf8_lossy(key);
            return Err(Error::bad_input(format!("storage `{}` has two types or sizes", Shown(&key))));
        }
    }
    let Value::List(keys) = head.keys.root else {
        return Err(Error::bad_input("the fifth pickle is not a list of storage keys"));
    };
    let mut places = HashMap::with_capacity(head.keys.values.items(keys).len());
    let mut at = head.keys.end as u64;
    let mut wishes: Vec<Range<u64>> = Vec::new();
    for &key in head.keys.values.items(keys) {
        let Value::Text(key) = key else { return Err(Error::bad_input("a storage key is not a text")) };
        let key = head.keys.values.slice(key);
        let named = || Shown(&String::from_utf8_lossy(key)).to_string();
        let Some(whole) = wholes.get(key) else {
            let message = format!("the file lists storage `{}`, which no tensor has", named());
            return Err(Error::bad_input(message));
        };
        let what = format!("the count of storage `{}`", named());
        match known.want(at..at.saturating_add(8), &what)? {
            Err(wish) => wishes.push(wish),
            Ok(bytes) => {
                let count: [u8; 8] = bytes.try_into().unwrap_or_default();
                // Old writers on big-endian machines wrote the count as it lay in memory.
                let swapped = !head.little_endian && u64::from_be_bytes(count) == whole.count;
                if u64::from_le_bytes(count) != whole.count && !swapped {
                    let message = format!(
                        "storage `{}` has {} elements here and {} in the pickle",
                        named(),
                        grouped(u64::from_le_bytes(count)),
                        grouped(whole.count)
                    );
                    return Err(Error::bad_input(message).at(at));
                }
            }
        }
        let start = at.saturating_add(8);
        let end = start.saturating_add(whole.whole_bytes);
        debug_assert_eq!(whole.whole_bytes, whole.count * width_bytes(whole.dtype));
        if end > known.size_bytes() {
            let message = format!(
                "storage `{}` ends at byte {} but the file has {}",
                named(),
                grouped(end),
                grouped(known.size_bytes())
            );
            return Err(Error::bad_input(message).detail("the file was probably cut short"));
        }
        if places.insert(key, start..end).is_some() {
            return Err(Error::bad_input(format!("storage `{}` is listed twice", named())));
        }
        at = end;
    }
    if !wishes.is_empty() {
        return Ok(super::Wishes(wishes).need());
    }
    Ok(Step::Done(Layout { places, end: at }))
}
