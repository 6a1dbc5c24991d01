//! What REDUCE, NEWOBJ, BUILD and BINPERSID make of the allowed names: tensors, storages and numbers of our own.
//!
//! Layouts: torch `_utils.py` (`_rebuild_*`) and `serialization.py` (`persistent_id`, `persistent_load`). Offsets and
//! strides of a tensor are in elements; a storage's count is in elements of its own type, or in bytes where it has
//! none. Numbers stay as the pickle has them until `state.rs` checks them for the tensors that are taken, so that an
//! error can name the tensor.

use super::names::What;
use super::value::{Form, NumpyCode, Outcome, Storage, Value, Values, View, kind_name, width_bytes};
use crate::dtype::DType;
use crate::error::Error;
use crate::text::Shown;

/// The most dimensions that torch gives a tensor.
const DIMENSIONS_MAX: usize = 64;
/// The longest key of a storage: a number of at most 20 digits everywhere. A key is hashed whenever it is mentioned.
const KEY_BYTES_MAX: usize = 256;

/// The first arguments of a call, and how many there are.
struct Arguments {
    first: [Value; 8],
    count: usize,
}

fn arguments(values: &Values, node: u32) -> Arguments {
    let items = values.items(node);
    let mut first = [Value::None; 8];
    for (to, from) in first.iter_mut().zip(items) {
        *to = *from;
    }
    Arguments { first, count: items.len() }
}

/// What "calling" an allowed name with these arguments gives.
pub(super) fn reduce(values: &mut Values, what: What, node: u32) -> Outcome<Value> {
    let arguments = arguments(values, node);
    let [a, b, ..] = arguments.first;
    match (what, arguments.count) {
        (What::OrderedDict | What::DefaultDict | What::Dict, 0) | (What::DefaultDict, 1) => {
            Ok(Value::Dict(values.add_node(Vec::new(), true)?))
        }
        (What::OrderedDict | What::Dict, 1) => dict_of(values, a),
        (What::DefaultDict, 2) => dict_of(values, b),
        (What::Sequence, 0) => Ok(Value::List(values.add_node(Vec::new(), false)?)),
        (What::Set, 0) => Ok(Value::Set(values.add_node(Vec::new(), false)?)),
        (What::Sequence, 1) => match a {
            Value::Tuple(_) | Value::List(_) => Ok(a),
            _ => values.damaged("a sequence is made of what is none"),
        },
        (What::Set, 1) => match a {
            Value::Tuple(n) | Value::List(n) | Value::Set(n) => {
                values.charge(values.items(n).len().saturating_mul(size_of::<Value>()))?;
                let items = values.items(n).to_vec();
                Ok(Value::Set(values.add_node(items, false)?))
            }
            _ => values.damaged("a set is made of what is no sequence"),
        },
        (What::RebuildTensor, 4) | (What::RebuildTensorV2, 6 | 7) | (What::RebuildTensorV3, 7 | 8) => {
            rebuild_tensor(values, what, &arguments)
        }
        (What::RebuildParameter, 3 | 4) | (What::Parameter, 1 | 2) => match a {
            Value::Tensor(_) => Ok(a),
            _ => values.damaged("a parameter is made of what is no tensor"),
        },
        (What::RebuildFromType, 4) => rebuild_from_type(values, a, b, arguments.first[2]),
        (What::NumpyDType, 1..=3) => numpy_dtype(values, a),
        (What::NumpyScalar, 2) => numpy_scalar(values, a, b),
        (What::CodecsEncode, 1 | 2) => match (a, b) {
            (Value::Text(text), Value::Text(codec)) if is_latin1(values.slice(codec)) => {
                Ok(Value::Latin1(text))
            }
            _ => Ok(Value::Opaque),
        },
        (What::Opaque | What::NumpyArray, _) => Ok(Value::Opaque),
        (What::Type | What::Storage(_) | What::UntypedStorage | What::DType(_), _) => {
            values.refused("the pickle calls a type that is only to be named")
        }
        (_, count) => values.damaged(&format!("{count} arguments where `{what:?}` does not take so many")),
    }
}

/// A dict of pairs (as Python 2 writes an OrderedDict), or a dict as it is.
fn dict_of(values: &mut Values, from: Value) -> Outcome<Value> {
    match from {
        Value::Dict(_) => Ok(from),
        Value::List(node) | Value::Tuple(node) => {
            let count = values.items(node).len();
            values.charge(count.saturating_mul(2 * size_of::<Value>()))?;
            let mut items = Vec::with_capacity(count.saturating_mul(2));
            for &pair in values.items(node) {
                match pair {
                    Value::Tuple(p) | Value::List(p) if values.items(p).len() == 2 => {
                        items.extend_from_slice(values.items(p));
                    }
                    _ => return values.damaged("a dict is made of what are no pairs"),
                }
            }
            Ok(Value::Dict(values.add_node(items, true)?))
        }
        _ => values.damaged("a dict is made of what is none"),
    }
}

/// A tensor subclass: what it is made of, if that is a plain tensor.
fn rebuild_from_type(values: &mut Values, function: Value, class: Value, arguments: Value) -> Outcome<Value> {
    let Value::Global(What::Type | What::Parameter) = class else {
        return values.damaged("the class of a tensor is not a class of tensors");
    };
    match (function, arguments) {
        (
            Value::Global(
                what @ (What::RebuildTensor
                | What::RebuildTensorV2
                | What::RebuildTensorV3
                | What::RebuildParameter),
            ),
            Value::Tuple(node),
        ) => reduce(values, what, node),
        _ => values.refused("the pickle restores a tensor by what is no tensor's function"),
    }
}

fn rebuild_tensor(values: &mut Values, what: What, arguments: &Arguments) -> Outcome<Value> {
    let [storage, offset, shape, strides, _, _, a, b] = arguments.first;
    let Value::Storage(storage) = storage else {
        return values.damaged(&format!("a tensor is made of {}, not of a storage", kind_name(storage)));
    };
    let Value::Int(offset) = offset else { return values.damaged("a tensor's offset is no integer") };
    let of_storage = values.storages.get(storage as usize).and_then(|s| s.dtype);
    let (dtype, metadata) = match what {
        What::RebuildTensorV3 => match a {
            Value::Global(What::DType(dtype)) => (dtype, b),
            _ => return values.damaged("a tensor's dtype is none"),
        },
        _ => (of_storage.unwrap_or(DType::U8), a),
    };
    let shape = integers(values, shape)?;
    let strides = integers(values, strides)?;
    let (conj, neg) = tensor_flags(values, metadata)?;
    values.add_view(View { storage, dtype, offset, shape, strides, conj, neg })
}

fn integers(values: &mut Values, value: Value) -> Outcome<Box<[i64]>> {
    let (Value::Tuple(node) | Value::List(node)) = value else {
        return values.damaged("a tensor's sizes or strides are no tuple");
    };
    let count = values.items(node).len();
    if count > DIMENSIONS_MAX {
        return values.damaged(&format!("a tensor of {count} dimensions; torch has at most 64"));
    }
    values.charge(count.saturating_mul(size_of::<i64>()))?;
    let integers = values.items(node).iter().map(|&v| match v {
        Value::Int(n) => Some(n),
        _ => None,
    });
    match integers.collect() {
        Some(integers) => Ok(integers),
        None => values.damaged("a tensor's size or stride is no integer of 64 bits"),
    }
}

/// `{'conj': True, 'neg': True}`. Anything else that is true would change the values in a way unknown here.
fn tensor_flags(values: &Values, metadata: Value) -> Outcome<(bool, bool)> {
    let (mut conj, mut neg) = (false, false);
    let pairs = match metadata {
        Value::None => &[],
        Value::Dict(node) => values.items(node),
        _ => return values.damaged("a tensor's flags are no dict"),
    };
    if pairs.len() > 16 {
        return values.damaged("a tensor has more flags than there are");
    }
    for pair in pairs.chunks_exact(2) {
        let &[key, value] = pair else { continue };
        match (key, value) {
            (_, Value::Bool(false) | Value::None) => {}
            (Value::Text(key), Value::Bool(true)) if values.slice(key) == b"conj" => conj = true,
            (Value::Text(key), Value::Bool(true)) if values.slice(key) == b"neg" => neg = true,
            (Value::Text(key), _) => {
                let key = String::from_utf8_lossy(values.slice(key));
                let message = format!("a tensor has the flag `{}`, which hoist does not know", Shown(&key));
                return Err(Error::unsupported(message).into());
            }
            _ => return values.damaged("a tensor's flag has no name"),
        }
    }
    Ok((conj, neg))
}

/// BINPERSID: `('storage', class, key, location, count)`, and in the old stream a sixth item.
pub(super) fn persistent(values: &mut Values, id: Value) -> Outcome<Value> {
    let Value::Tuple(node) = id else {
        return values.damaged(&format!("a persistent id is {}, not a tuple", kind_name(id)));
    };
    let Arguments { first, count } = arguments(values, node);
    let [kind, class, key, location, numel, view, ..] = first;
    let is_module = matches!(kind, Value::Text(t) if values.slice(t) == b"module");
    if is_module {
        return Err(Error::unsupported("the pickle holds a whole module and its source, not a state dict")
            .hint("save the state dict instead: torch.save(module.state_dict(), FILE)")
            .into());
    }
    let expected = if values.form == Form::Zip { 5 } else { 6 };
    if !matches!(kind, Value::Text(t) if values.slice(t) == b"storage") || count != expected {
        return values.damaged(&format!("a persistent id is not a storage of {expected} items"));
    }
    let dtype = match class {
        Value::Global(What::Storage(dtype)) => Some(dtype),
        Value::Global(What::UntypedStorage) => None,
        _ => return values.damaged("a storage's class is none"),
    };
    let (Value::Text(key), Value::Int(numel)) = (key, numel) else {
        return values.damaged("a storage's key is no text, or its count no integer");
    };
    if values.slice(key).len() > KEY_BYTES_MAX {
        return values.damaged("a storage's key is longer than any");
    }
    let is_meta = matches!(location, Value::Text(t) if values.slice(t) == b"meta");
    let (Ok(numel), width) = (u64::try_from(numel), width_bytes(dtype)) else {
        return values.damaged(&format!("a storage of {numel} elements"));
    };
    let Some(whole_bytes) = numel.checked_mul(width) else {
        return values.damaged(&format!("a storage of {numel} elements, whose size overflows"));
    };
    let (base, part) = match view {
        Value::None => (0, numel),
        Value::Tuple(node) => match *values.items(node) {
            [Value::Text(_), Value::Int(offset), Value::Int(count)] => {
                match (u64::try_from(offset), u64::try_from(count)) {
                    (Ok(offset), Ok(count)) if offset.checked_add(count).is_some_and(|e| e <= numel) => {
                        (offset, count)
                    }
                    _ => return values.damaged("a part of a storage reaches beyond it"),
                }
            }
            _ => return values.damaged("the description of a part of a storage is none"),
        },
        _ => return values.damaged("the description of a part of a storage is none"),
    };
    // Both products are at most `whole_bytes`.
    let (base_bytes, size_bytes) = (base.saturating_mul(width), part.saturating_mul(width));
    let storage = Storage { key, dtype, count: numel, whole_bytes, base_bytes, size_bytes, is_meta };
    values.add_storage(storage, (base, part))
}

fn numpy_dtype(values: &mut Values, code: Value) -> Outcome<Value> {
    let code = match code {
        Value::Text(text) => values.slice(text),
        _ => b"",
    };
    let code = match code {
        [kind, size @ b'1'..=b'8'] => NumpyCode { kind: *kind, size: size - b'0', big_endian: false },
        _ => NumpyCode { kind: 0, size: 0, big_endian: false },
    };
    values.add_numpy(code)
}

/// The state of a numpy dtype: `(version, byte order, …)`.
pub(super) fn numpy_state(values: &mut Values, index: u32, state: Value) -> Outcome<()> {
    let Value::Tuple(node) = state else { return values.damaged("the state of a numpy dtype is no tuple") };
    let big_endian = match values.items(node) {
        [_, Value::Text(order), ..] => values.slice(*order) == b">",
        _ => return values.damaged("the state of a numpy dtype has no byte order"),
    };
    values.set_numpy_order(index, big_endian);
    Ok(())
}

/// A number, where the type is a simple one.
fn numpy_scalar(values: &Values, dtype: Value, bytes: Value) -> Outcome<Value> {
    let code = match dtype {
        Value::NumpyDType(index) => values.numpy(index),
        _ => return values.damaged("the type of a numpy scalar is none"),
    };
    let Some(NumpyCode { kind, size, big_endian }) = code else { return Ok(Value::Opaque) };
    let size = usize::from(size);
    let mut wide = [0u8; 8];
    let filled = match bytes {
        Value::Bytes(slice) => fill(&mut wide, values.slice(slice).iter().map(|&b| Some(b))),
        // Eight characters of at most two bytes; a longer text need not be looked at.
        Value::Latin1(slice) => {
            match std::str::from_utf8(values.slice(slice).get(..17).unwrap_or(values.slice(slice))) {
                Ok(text) => fill(&mut wide, text.chars().map(|c| u8::try_from(u32::from(c)).ok())),
                Err(_) => None,
            }
        }
        _ => return Ok(Value::Opaque),
    };
    if size == 0 {
        return Ok(Value::Opaque);
    }
    if filled != Some(size) {
        return values.damaged("a numpy scalar's bytes do not fit its type");
    }
    let number = wide.get_mut(..size).unwrap_or(&mut []);
    if big_endian {
        number.reverse();
    }
    let bits = u64::from_le_bytes(wide);
    let unused = 64u32.saturating_sub(u32::try_from(size).unwrap_or(8).saturating_mul(8));
    let signed = (bits << unused).cast_signed() >> unused;
    Ok(match (kind, size) {
        (b'b', 1) => Value::Bool(bits != 0),
        (b'i', _) => Value::Int(signed),
        (b'u', _) => i64::try_from(bits).map_or(Value::Opaque, Value::Int),
        (b'f', 8) => Value::Float(f64::from_bits(bits)),
        (b'f', 4) => Value::Float(f32::from_bits((bits & 0xffff_ffff) as u32).into()),
        (b'f', 2) => Value::Float(half::f16::from_bits((bits & 0xffff) as u16).into()),
        _ => Value::Opaque,
    })
}

fn is_latin1(codec: &[u8]) -> bool {
    matches!(codec, b"latin1" | b"latin-1")
}

/// Fills `wide` and says how many bytes there were; `None` for more than fit, or what is no byte.
fn fill(wide: &mut [u8; 8], from: impl Iterator<Item = Option<u8>>) -> Option<usize> {
    let mut count = 0;
    for byte in from {
        *wide.get_mut(count)? = byte?;
        count += 1;
    }
    Some(count)
}
