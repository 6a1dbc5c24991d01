//! From a pickle's one value to a state dict: which dict is meant, what its tensors are called, where they lie.
//!
//! * A dict that holds tensors, and no dict of tensors with a model's name, is the state dict. Numbers, texts and None beside them become metadata; the rest
//!   (lists, dicts, objects) is skipped and named in a note.
//! * Else it is looked into: of the dicts in it that hold tensors, at any depth, the only one is taken; of several the
//!   first in [`PREFERRED`], also beside single tensors (a random generator's state); never one in [`NEVER`] or beside
//!   `param_groups` (the optimizer's). The choice, and what was left, are named in notes. Where none is preferred and
//!   something would be left, the file is refused rather than guessed at.
//! * A single tensor is called `0`; tensors of a list or tuple `0`, `1`, ….
//! * A prefix that a wrapper puts before every name (`module.`, `_orig_mod.`) is removed, and that is noted.

use super::value::{DEPTH_MAX, Storage, Value, Values, View, kind_name};
use crate::checkpoint::{
    ByteOrder, Extent, FileId, MetaValue, Span, Tensor, row_major_strides, strided_size_bytes,
};
use crate::dtype::{Class, element_count};
use crate::error::{Error, Result};
use crate::text::{Shown, grouped};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

/// Names that trainers give the dict of weights, the most telling first. Averaged weights (EMA) come last: they are
/// taken only where nothing else is.
const PREFERRED: &[&str] = &[
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "net",
    "network",
    "weights",
    "params",
    "model_state",
    "generator",
    "g_ema",
    "params_ema",
    "ema_state_dict",
    "model_ema",
    "state_dict_ema",
    "ema",
];

/// Names of dicts whose tensors are a trainer's state and no weights.
const NEVER: &[&str] = &[
    "optimizer",
    "optimizers",
    "optimizer_state_dict",
    "optimizer_states",
    "optim",
    "opt",
    "opt_state",
    "lr_scheduler",
    "lr_schedulers",
    "lr_scheduler_state_dict",
    "scheduler",
    "scheduler_state_dict",
    "scaler",
    "grad_scaler",
    "amp",
    "rng_state",
    "rng_states",
    "random_rng_state",
    "callbacks",
    "loops",
    "criterion",
];

/// What wrappers put before every name.
const PREFIXES: &[(&str, &str)] = &[("module.", "DistributedDataParallel"), ("_orig_mod.", "torch.compile")];

/// What the table of tensors may take in memory. One view may be in a dict under many names, each a few bytes. A tensor of
/// its own costs the budget of the pickle's values several times what it takes here, so that only aliases reach this.
const TABLE_BYTES_MAX: usize = 64 << 20;
/// What metadata may take in memory, keys included. One text may be in a dict under many names, and be the key of many
/// dicts inside one another.
const META_BYTES_MAX: usize = 16 << 20;

/// How many names a note repeats.
const NAMED_MAX: usize = 5;

/// Where a storage lies in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Located {
    /// The first byte of the storage (of the part, in the old stream).
    pub(super) offset_bytes: u64,
    /// The bytes that the file has for it.
    pub(super) size_bytes: u64,
    /// Their order, for types of this width.
    pub(super) order: ByteOrder,
}

/// A state dict.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) tensors: Vec<Tensor>,
    pub(super) meta: Vec<(String, MetaValue)>,
    pub(super) notes: Vec<String>,
}

/// Finds the state dict in a pickle. `locate` says where a storage lies.
pub(super) fn collect(
    values: &Values,
    root: Value,
    file_size_bytes: u64,
    locate: impl Fn(usize, &Storage) -> Result<Located>,
) -> Result<State> {
    let mut state = State::default();
    let mut found: Vec<(String, u32)> = Vec::new();
    match root {
        Value::Tensor(view) => {
            state.notes.push("the file holds one tensor without a name; it is called `0`".into());
            found.push(("0".into(), view));
        }
        Value::List(node) | Value::Tuple(node) | Value::Set(node) => {
            let items = values.items(node);
            if !items.iter().any(|v| matches!(v, Value::Tensor(_))) {
                return Err(no_state_dict(kind_name(root)));
            }
            state.notes.push("the file holds tensors without names; they are called by their index".into());
            let mut skipped = Skipped::default();
            for (i, &item) in items.iter().enumerate() {
                match item {
                    Value::Tensor(view) => found.push((i.to_string(), view)),
                    other => skipped.add(&i.to_string(), other, false),
                }
            }
            state.notes.extend(skipped.note());
        }
        Value::Dict(node) => walk(values, node, &mut state, &mut found)?,
        other => return Err(no_state_dict(kind_name(other))),
    }
    strip_prefixes(&mut found, &mut state.notes);
    let mut table_bytes = 0usize;
    for (name, view) in found {
        let dimensions = values.views.get(view as usize).map_or(0, |v| v.shape.len());
        let size_bytes = size_of::<Tensor>() + name.len() + 2 * size_of::<u64>() * dimensions;
        table_bytes = table_bytes.saturating_add(size_bytes);
        if table_bytes > TABLE_BYTES_MAX {
            let message = format!(
                "the state dict lists more tensors than fit {} bytes of memory",
                grouped(TABLE_BYTES_MAX as u64)
            );
            return Err(Error::bad_input(message));
        }
        let tensor = values
            .views
            .get(view as usize)
            .and_then(|v| Some((v, values.storages.get(v.storage as usize)?)))
            .map(|(view, storage)| tensor(&name, view, storage, file_size_bytes, &locate));
        match tensor {
            Some(Ok(tensor)) => state.tensors.push(tensor),
            Some(Err(e)) => return Err(e.tensor(name)),
            None => return Err(Error::bad_input("has no storage").tensor(name)),
        }
    }
    Ok(state)
}

fn no_state_dict(what: &str) -> Error {
    Error::unsupported(format!("the file holds {what} and no state dict"))
        .hint("save a dict of tensors: torch.save(module.state_dict(), FILE)")
}

/// Things that are passed over, counted, the first few named.
#[derive(Default)]
struct Skipped {
    count: usize,
    named: Vec<String>,
    /// Whether tensors are among them.
    tensors: bool,
}

impl Skipped {
    fn add(&mut self, key: &str, value: Value, holds_tensors: bool) {
        self.count += 1;
        self.tensors |= holds_tensors;
        if self.named.len() < NAMED_MAX {
            let is_tensor = matches!(value, Value::Tensor(_));
            let tensors = if holds_tensors && !is_tensor { " that holds tensors" } else { "" };
            self.named.push(format!("`{}` ({}{tensors})", Shown(key), kind_name(value)));
        }
    }

    fn note(self) -> Option<String> {
        let more = if self.count > self.named.len() { ", …" } else { "" };
        let values = if self.count == 1 { "value" } else { "values" };
        (self.count > 0).then(|| format!("{} {values} skipped: {}{more}", self.count, self.named.join(", ")))
    }
}

/// Goes down from the root dict to the one with the tensors, taking metadata on the way.
fn walk(values: &Values, root: u32, state: &mut State, found: &mut Vec<(String, u32)>) -> Result<()> {
    let mut holds = Holds { values, known: HashMap::new() };
    let mut path = String::new();
    let mut node = root;
    let mut meta_room = META_BYTES_MAX;
    for _ in 0..DEPTH_MAX {
        let entries = keyed(values, node)?;
        let here = entries.iter().any(|(_, v)| matches!(v, Value::Tensor(_)));
        let next = choose(&mut holds, &entries, here)?;
        let mut skipped = Skipped::default();
        for (key, value) in entries {
            match (key, value) {
                (Some(key), Value::Tensor(view)) if next.is_none() => found.push((key.into_owned(), view)),
                (Some(_), Value::Dict(n)) if next.as_ref().is_some_and(|(_, next)| *next == n) => {}
                (Some(key), value) => match scalar(values, &key, value, &mut meta_room) {
                    Some(value) => state.meta.push((key.into_owned(), value)),
                    None => skipped.add(&key, value, holds.holds(value, 0)?),
                },
                (None, value) => skipped.add("a key that is no text", value, holds.holds(value, 0)?),
            }
        }
        if !here && next.is_none() && skipped.tensors {
            let what = skipped.named.join(", ");
            return Err(Error::unsupported(format!("the file holds tensors and no state dict, but {what}"))
                .hint("save a dict of tensors: torch.save(module.state_dict(), FILE)"));
        }
        state.notes.extend(skipped.note());
        let Some((key, next)) = next else {
            if !path.is_empty() {
                state.notes.push(format!("tensors are those of `{path}`"));
            }
            return Ok(());
        };
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(&key);
        node = next;
    }
    Err(too_deep())
}

fn too_deep() -> Error {
    Error::bad_input("the state dict is nested deeper than 64 levels")
}

/// An entry of a dict. Texts stay in the pickle: one may be the key of many dicts.
type Keyed<'a> = (Option<Cow<'a, str>>, Value);

/// A dict's entries: keys as names, integers written out, `None` for other kinds. A name that is there twice is an
/// error, since Python would keep the last one silently.
fn keyed<'a>(values: &Values<'a>, node: u32) -> Result<Vec<Keyed<'a>>> {
    let items = values.items(node);
    let mut seen = HashSet::with_capacity(items.len() / 2);
    let mut entries = Vec::with_capacity(items.len() / 2);
    for pair in items.chunks_exact(2) {
        let &[key, value] = pair else { continue };
        let key = match key {
            Value::Text(text) => match std::str::from_utf8(values.slice(text)) {
                Ok(key) => Some(Cow::Borrowed(key)),
                Err(_) => {
                    let key = String::from_utf8_lossy(values.slice(text));
                    return Err(Error::bad_input(format!("the key `{}` is not UTF-8", Shown(&key))));
                }
            },
            Value::Int(n) => Some(Cow::Owned(n.to_string())),
            _ => None,
        };
        if let Some(key) = &key
            && !seen.insert(key.clone())
        {
            return Err(Error::bad_input(format!("the key `{}` is there twice", Shown(key))));
        }
        entries.push((key, value));
    }
    Ok(entries)
}

/// Which of a dict's dicts to go down into, if any, and its key as it is shown. `here`: the dict holds tensors itself.
fn choose(holds: &mut Holds, entries: &[Keyed], here: bool) -> Result<Option<(String, u32)>> {
    let mut candidates: Vec<(&str, u32)> = Vec::new();
    let is_optimizer = entries.iter().any(|(key, _)| key.as_deref() == Some("param_groups"));
    for (key, value) in entries {
        if let (Some(key), Value::Dict(node)) = (key, value)
            && !is_optimizer
            && !NEVER.contains(&&**key)
            && holds.holds(*value, 0)?
        {
            candidates.push((key, *node));
        }
    }
    let preferred = PREFERRED.iter().find_map(|name| candidates.iter().find(|(key, _)| key == name));
    let chosen = match (candidates.as_slice(), preferred) {
        ([], _) => None,
        (_, Some(one)) => Some(one),
        ([(key, _), ..], None) if here => {
            let message = format!(
                "the file holds tensors beside a dict of tensors, `{}`, which is not called as a model's usually is",
                Shown(key)
            );
            return Err(Error::unsupported(message)
                .hint("save what is meant by itself: torch.save({name: tensor, …}, OTHER)"));
        }
        ([one], None) => Some(one),
        (several, None) => {
            let names: Vec<String> =
                several.iter().take(NAMED_MAX).map(|(key, _)| format!("`{}`", Shown(key))).collect();
            let more = if several.len() > NAMED_MAX { ", …" } else { "" };
            let message = format!(
                "the file holds {} dicts of tensors, and none is called as a model's usually is: {}{more}",
                several.len(),
                names.join(", ")
            );
            return Err(Error::unsupported(message)
                .hint("save the one that is meant by itself: torch.save(torch.load(FILE)[NAME], OTHER)"));
        }
    };
    Ok(chosen.map(|&(key, node)| (Shown(key).to_string(), node)))
}

/// Whether tensors are somewhere inside a value. Each container is looked at once, so that sharing and cycles cost
/// nothing.
struct Holds<'a> {
    values: &'a Values<'a>,
    /// Containers seen: `false` while they are being looked at.
    known: HashMap<u32, bool>,
}

impl Holds<'_> {
    fn holds(&mut self, value: Value, depth: usize) -> Result<bool> {
        let node = match value {
            Value::Tensor(_) => return Ok(true),
            Value::Dict(n) | Value::List(n) | Value::Tuple(n) | Value::Set(n) => n,
            _ => return Ok(false),
        };
        if let Some(&known) = self.known.get(&node) {
            return Ok(known);
        }
        if depth >= DEPTH_MAX {
            return Err(too_deep());
        }
        debug_assert!(self.known.len() <= self.values.node_count());
        self.known.insert(node, false);
        let values = self.values;
        for &item in values.items(node) {
            if self.holds(item, depth + 1)? {
                self.known.insert(node, true);
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// A plain value as metadata; `None` too where there is no room for it and its key.
fn scalar(values: &Values, key: &str, value: Value, room: &mut usize) -> Option<MetaValue> {
    let text_bytes = match value {
        Value::Text(text) => values.slice(text).len(),
        _ => 0,
    };
    let entry_bytes = size_of::<(String, MetaValue)>() + key.len() + text_bytes;
    let left_bytes = room.checked_sub(entry_bytes)?;
    let value = match value {
        Value::None => MetaValue::Null,
        Value::Bool(v) => MetaValue::Bool(v),
        Value::Int(v) => MetaValue::I64(v),
        Value::Float(v) => MetaValue::F64(v),
        Value::Text(text) => MetaValue::Text(values.slice(text).into()),
        // Nine bytes, the last of them zero: an unsigned number of 64 bits.
        Value::LongInt(slice) => match *values.slice(slice) {
            [ref low @ .., 0] => MetaValue::U64(u64::from_le_bytes(low.try_into().ok()?)),
            _ => return None,
        },
        _ => return None,
    };
    *room = left_bytes;
    Some(value)
}

/// Removes what wrappers put before every name.
fn strip_prefixes(found: &mut [(String, u32)], notes: &mut Vec<String>) {
    // Twice: one wrapper may be around another.
    for &(prefix, who) in PREFIXES.iter().chain(PREFIXES) {
        let all = found.iter().all(|(name, _)| name.len() > prefix.len() && name.starts_with(prefix));
        if all && !found.is_empty() {
            for (name, _) in found.iter_mut() {
                name.drain(..prefix.len());
            }
            notes.push(format!("every name began with `{prefix}` ({who}), which is removed"));
        }
    }
}

/// One tensor, checked against its storage.
fn tensor(
    name: &str,
    view: &View,
    storage: &Storage,
    file_size_bytes: u64,
    locate: impl Fn(usize, &Storage) -> Result<Located>,
) -> Result<Tensor> {
    if storage.is_meta {
        return Err(Error::unsupported("is on the `meta` device: the file has no data for it"));
    }
    let unsigned =
        |values: &[i64]| values.iter().map(|&v| u64::try_from(v).ok()).collect::<Option<Vec<u64>>>();
    let (Some(mut shape), Some(strides), Ok(offset)) =
        (unsigned(&view.shape), unsigned(&view.strides), u64::try_from(view.offset))
    else {
        let message = format!(
            "has shape {:?}, strides {:?} and offset {}, which must not be negative",
            view.shape, view.strides, view.offset
        );
        return Err(Error::bad_input(message));
    };
    if shape.len() != strides.len() {
        let message = format!("has {} sizes and {} strides", shape.len(), strides.len());
        return Err(Error::bad_input(message));
    }
    let facts = view.dtype.facts();
    let overflow = || Error::bad_input(format!("has shape {:?}, whose product overflows", view.shape));
    element_count(&shape).ok_or_else(overflow)?;

    let strides = normal_strides(&shape, &strides);
    let width = u64::from(facts.block_bytes);
    if !view.dtype.is_plain() {
        // torch counts a byte of two numbers as one element; everyone else counts the numbers.
        let per_block = u64::from(facts.block_elements);
        let Some(last) = shape.last_mut().filter(|_| strides.is_none()) else {
            let message = format!(
                "of `{}` is a scalar or not contiguous, which hoist does not read for packed types",
                view.dtype
            );
            return Err(Error::unsupported(message).hint("call .contiguous() on it and save again"));
        };
        *last = last.checked_mul(per_block).ok_or_else(overflow)?;
    }
    // In blocks, which for a plain type are elements.
    let needed = match &strides {
        None => view.dtype.size_bytes(element_count(&shape).ok_or_else(overflow)?),
        Some(strides) => strided_size_bytes(view.dtype, &shape, strides),
    };
    let start = offset.checked_mul(width);
    let end = start.zip(needed).and_then(|(start, size)| start.checked_add(size));
    let (Some(start), Some(size_bytes), Some(end)) = (start, needed, end) else {
        return Err(Error::bad_input(format!(
            "has shape {:?}, strides {:?} and offset {}, whose bytes overflow",
            view.shape, view.strides, view.offset
        )));
    };
    if end > storage.size_bytes && size_bytes > 0 {
        return Err(Error::bad_input(format!(
            "has shape {:?}, strides {:?} and offset {} of `{}`, which end at byte {} of a storage of {}",
            view.shape,
            view.strides,
            view.offset,
            view.dtype,
            grouped(end),
            grouped(storage.size_bytes)
        )));
    }
    let place = locate(view.storage as usize, storage)?;
    if place.size_bytes < storage.size_bytes {
        return Err(Error::bad_input(format!(
            "needs a storage of {} bytes and the file has {} for it",
            grouped(storage.size_bytes),
            grouped(place.size_bytes)
        ))
        .at(place.offset_bytes)
        .detail("the file was probably cut short, or its header is damaged"));
    }
    if view.conj && facts.class != Class::Complex || view.neg && facts.class == Class::Bool {
        return Err(Error::bad_input(format!("of `{}` is marked as conjugated or negated", view.dtype)));
    }
    // Bytes have no order, and a tensor of none needs nothing done to it.
    let order = if facts.fields.iter().all(|&(w, _)| w == 1) { ByteOrder::Little } else { place.order };
    let empty = size_bytes == 0;
    let start = if empty { 0 } else { start };
    let span = Span { file: FileId(0), offset_bytes: place.offset_bytes.saturating_add(start), size_bytes };
    let at = match empty {
        true => Extent::plain(span),
        false => Extent { span, strides, order, conj: view.conj, neg: view.neg },
    };
    let tensor = Tensor { name: name.into(), dtype: view.dtype, shape, at };
    tensor.check(file_size_bytes)?;
    Ok(tensor)
}

/// Strides, where they are not simply row-major. A dimension of one has no neighbours, so its stride means nothing: it
/// is set to what a row-major tensor would have relative to the next, so that equal views compare equal.
fn normal_strides(shape: &[u64], strides: &[u64]) -> Option<Box<[u64]>> {
    if shape.contains(&0) {
        return None;
    }
    let mut strides: Box<[u64]> = strides.into();
    let mut inner = 1u64;
    for (stride, &size) in strides.iter_mut().zip(shape).rev() {
        if size == 1 {
            *stride = inner;
        }
        inner = stride.saturating_mul(size);
    }
    (row_major_strides(shape).as_deref() != Some(&*strides)).then_some(strides)
}
