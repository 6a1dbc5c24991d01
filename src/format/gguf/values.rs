//! Keys and values. Arrays are walked once to be checked and then kept as bytes, in the form that
//! [`MetaArray`] promises whatever the file's version and byte order.

use super::cursor::{Cursor, Stop, Take};
use crate::checkpoint::{ARRAY_DEPTH_MAX, ByteOrder, MetaArray, MetaKind, MetaValue};
use crate::error::Error;
use crate::text::Shown;
use std::collections::HashSet;

/// Keys and values, in the file's order.
pub(super) type Entries = Vec<(String, MetaValue)>;

/// Reads `count` keys with their values.
pub(super) fn entries(c: &mut Cursor<'_>, count: u64) -> Take<Entries> {
    let known_count = usize::try_from(count.min(c.known_bytes() / least_entry_bytes(c))).unwrap_or(0);
    let mut entries = Vec::with_capacity(known_count);
    let mut seen = HashSet::with_capacity(known_count);
    for index in 0..count {
        let start = c.at();
        let key = c.name(&format!("the name of key {index}"))?;
        if key.is_empty() {
            return Err(Stop::Fail(Error::bad_input(format!("key {index} has an empty name")).at(start)));
        }
        if !seen.insert(key) {
            return Err(Stop::Fail(
                Error::bad_input(format!("the key `{}` is there twice", Shown(key))).at(start),
            ));
        }
        let what = format!("the value of the key `{}`", Shown(key));
        let kind = kind(c, &what)?;
        entries.push((key.to_string(), value(c, kind, &what)?));
    }
    Ok(entries)
}

/// The least entry: a length, a key of one byte, a kind, a value of one byte.
pub(super) fn least_entry_bytes(c: &Cursor<'_>) -> u64 {
    c.size_width() + 1 + 4 + 1
}

fn kind(c: &mut Cursor<'_>, what: &str) -> Take<MetaKind> {
    let start = c.at();
    let id = c.u32(what)?;
    MetaKind::from_id(id).ok_or_else(|| {
        Stop::Fail(Error::bad_input(format!("{what} has type {id}; GGUF defines 0 to 12")).at(start))
    })
}

fn value(c: &mut Cursor<'_>, kind: MetaKind, what: &str) -> Take<MetaValue> {
    match kind {
        MetaKind::Text => c.text(what).map(|bytes| MetaValue::Text(bytes.into())),
        MetaKind::Array => array(c, what).map(MetaValue::Array),
        _ => {
            let mut number = Vec::with_capacity(8);
            run(c, kind, 1, what, Some(&mut number))?;
            MetaValue::from_le_bytes(kind, &number)
                .ok_or_else(|| Stop::Fail(Error::bad_input(format!("{what} cannot be decoded")).at(c.at())))
        }
    }
}

/// An array of the top level.
fn array(c: &mut Cursor<'_>, what: &str) -> Take<MetaArray> {
    let (kind, count) = (kind(c, what)?, c.size(what)?);
    let start = c.at();
    if c.order == ByteOrder::Little && !c.narrow {
        items(c, kind, count, 1, what, None)?;
        return Ok(MetaArray { kind, count, bytes: c.since(start).into() });
    }
    let mut bytes = Vec::new();
    items(c, kind, count, 1, what, Some(&mut bytes))?;
    Ok(MetaArray { kind, count, bytes: bytes.into() })
}

/// Walks over the items of an array at `depth`, checking them; where the file's form is not the one we keep, they are
/// also converted `into` it.
fn items(
    c: &mut Cursor<'_>,
    kind: MetaKind,
    count: u64,
    depth: u32,
    what: &str,
    mut into: Option<&mut Vec<u8>>,
) -> Take<()> {
    let least_bytes = match (kind, kind.size_bytes()) {
        (_, Some(each)) => each.into(),
        (MetaKind::Array, _) => 4 + c.size_width(),
        _ => c.size_width(),
    };
    c.room_for(count, least_bytes, what, "items")?;
    if kind.size_bytes().is_some() {
        return run(c, kind, count, what, into);
    }
    for _ in 0..count {
        if kind == MetaKind::Text {
            let text = c.text(what)?;
            if let Some(out) = into.as_deref_mut() {
                out.extend_from_slice(&(text.len() as u64).to_le_bytes());
                out.extend_from_slice(text);
            }
            continue;
        }
        if depth == ARRAY_DEPTH_MAX {
            let message = format!("{what} has arrays inside arrays more than {ARRAY_DEPTH_MAX} deep");
            return Err(Stop::Fail(Error::bad_input(message).at(c.at())));
        }
        let (inner_kind, inner_count) = (self::kind(c, what)?, c.size(what)?);
        if let Some(out) = into.as_deref_mut() {
            out.extend_from_slice(&inner_kind.id().to_le_bytes());
            out.extend_from_slice(&inner_count.to_le_bytes());
        }
        items(c, inner_kind, inner_count, depth + 1, what, into.as_deref_mut())?;
    }
    Ok(())
}

/// Numbers and truth values: a run of items of one size.
fn run(c: &mut Cursor<'_>, kind: MetaKind, count: u64, what: &str, into: Option<&mut Vec<u8>>) -> Take<()> {
    let each_bytes = u64::from(kind.size_bytes().unwrap_or(1));
    let start = c.at();
    let bytes = c.bytes(count.saturating_mul(each_bytes), what)?;
    if kind == MetaKind::Bool
        && let Some(index) = bytes.iter().position(|&b| b > 1)
    {
        let message = format!("{what} is the truth value {}; only 0 and 1 mean something", bytes[index]);
        return Err(Stop::Fail(Error::bad_input(message).at(start + index as u64)));
    }
    if let Some(out) = into {
        let from = out.len();
        out.extend_from_slice(bytes);
        if c.order == ByteOrder::Big && each_bytes > 1 {
            out[from..].chunks_exact_mut(each_bytes as usize).for_each(<[u8]>::reverse);
        }
    }
    Ok(())
}
