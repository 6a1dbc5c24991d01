//! What a pickle is made of here: small values, and the one arena that holds what they point to.
//!
//! A [`Value`] is [`Copy`]; tuples, lists, dicts and sets are indices into the arena, so that a structure that contains
//! itself, or shares a part a million times, costs what it costs in the file and is dropped without recursion. Texts
//! stay where they are in the pickle. Whatever is added is charged to a fixed budget first, which bounds memory and
//! work alike.
//!
//! The arena also knows where the pickle stands, so that everything that builds values can say where it failed.

use super::names::What;
use crate::dtype::DType;
use crate::error::Error;
use crate::text::{Shown, grouped};
use std::collections::HashMap;

/// Containers inside one another.
pub(super) const DEPTH_MAX: usize = 64;

/// What all values of one pickle may take in memory together, as charged by [`Values::charge`].
const BUDGET_BYTES: usize = 256 << 20;

/// Why a pickle was not loaded.
#[derive(Debug)]
pub(super) enum Fault {
    /// The known bytes end inside it.
    Short,
    /// It is refused.
    Bad(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault::Bad(error)
    }
}

impl Fault {
    /// The error, where all bytes are known.
    pub(super) fn complete(self) -> Error {
        match self {
            Fault::Bad(error) => error,
            Fault::Short => Error::bad_input("the pickle ends early"),
        }
    }
}

/// The result of whatever reads or builds values.
pub(super) type Outcome<T> = Result<T, Fault>;

/// Bytes of the pickle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slice {
    /// The first byte.
    pub(super) at: u32,
    /// How many there are.
    pub(super) size: u32,
}

/// A value of the pickle. Numbers in it are indices into [`Values`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// An integer beyond 64 bits: its two's complement, little endian.
    LongInt(Slice),
    Float(f64),
    Text(Slice),
    Bytes(Slice),
    /// Bytes written as text, one character each.
    Latin1(Slice),
    Tuple(u32),
    List(u32),
    Dict(u32),
    Set(u32),
    Global(What),
    Storage(u32),
    Tensor(u32),
    NumpyDType(u32),
    /// Something built and never looked into.
    Opaque,
}

/// What a person calls a value of this kind.
pub(super) fn kind_name(value: Value) -> &'static str {
    match value {
        Value::None => "None",
        Value::Bool(_) => "a truth value",
        Value::Int(_) | Value::LongInt(_) => "an integer",
        Value::Float(_) => "a float",
        Value::Text(_) => "a text",
        Value::Bytes(_) | Value::Latin1(_) => "bytes",
        Value::Tuple(_) => "a tuple",
        Value::List(_) => "a list",
        Value::Dict(_) => "a dict",
        Value::Set(_) => "a set",
        Value::Global(What::DType(_)) => "a dtype",
        Value::Global(_) => "a type or function",
        Value::Storage(_) => "a storage",
        Value::Tensor(_) => "a tensor",
        Value::NumpyDType(_) => "a numpy dtype",
        Value::Opaque => "an object",
    }
}

/// A container: its items; of a dict keys and values in turn.
#[derive(Debug, Default)]
struct Node {
    items: Vec<Value>,
    depth: u8,
    /// Made by `OrderedDict` and the like, so that it may carry attributes.
    object: bool,
}

/// A storage, as a persistent id describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Storage {
    /// Its name in the file; of a view (old stream) the name of the storage that it is a part of.
    pub(super) key: Slice,
    /// The element type; `None` where the storage counts bytes.
    pub(super) dtype: Option<DType>,
    /// Elements (or bytes) of the whole storage.
    pub(super) count: u64,
    /// Bytes of the whole storage.
    pub(super) whole_bytes: u64,
    /// Where the part begins in it.
    pub(super) base_bytes: u64,
    /// The part's size.
    pub(super) size_bytes: u64,
    /// On the `meta` device: there are no bytes.
    pub(super) is_meta: bool,
}

/// Bytes of one element of a storage.
pub(super) fn width_bytes(dtype: Option<DType>) -> u64 {
    dtype.map_or(1, |d| d.facts().block_bytes.into())
}

/// A tensor as the pickle describes it, unchecked.
#[derive(Debug, Clone)]
pub(super) struct View {
    /// Index of its storage.
    pub(super) storage: u32,
    /// Elements.
    pub(super) dtype: DType,
    /// Elements before the first.
    pub(super) offset: i64,
    /// Sizes.
    pub(super) shape: Box<[i64]>,
    /// Strides in elements.
    pub(super) strides: Box<[i64]>,
    /// Imaginary parts are to be negated.
    pub(super) conj: bool,
    /// All numbers are to be negated.
    pub(super) neg: bool,
}

/// A numpy type: `f8`, `i4`, `b1` and a byte order. One that is not known has no size.
#[derive(Debug, Clone, Copy)]
pub(super) struct NumpyCode {
    pub(super) kind: u8,
    pub(super) size: u8,
    pub(super) big_endian: bool,
}

/// Where a pickle lies: how its bytes are called in messages, and which shape persistent ids have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `data.pkl` of a zip.
    Zip,
    /// One of the five pickles of the old stream; offsets are the file's.
    Legacy,
}

/// All values of one pickle.
#[derive(Debug)]
pub(super) struct Values<'a> {
    bytes: &'a [u8],
    /// Where the pickle lies.
    pub(super) form: Form,
    /// The byte of the opcode that is carried out.
    pub(super) op_at: usize,
    /// The first is the empty tuple.
    nodes: Vec<Node>,
    /// Storages, each once.
    pub(super) storages: Vec<Storage>,
    /// Of each key and part (first element and count) the storage.
    storage_ids: HashMap<(&'a [u8], u64, u64), u32>,
    /// Tensors, in the order in which they were built.
    pub(super) views: Vec<View>,
    numpy: Vec<NumpyCode>,
    spent_bytes: usize,
}

impl<'a> Values<'a> {
    /// The empty tuple.
    pub(super) const EMPTY_TUPLE: Value = Value::Tuple(0);

    /// No values yet, of the pickle that begins at `start`; `spent_bytes` of the budget are gone.
    pub(super) fn new(bytes: &'a [u8], start: usize, form: Form, spent_bytes: usize) -> Values<'a> {
        Values {
            bytes,
            form,
            op_at: start,
            nodes: vec![Node { depth: 1, ..Node::default() }],
            storages: Vec::new(),
            storage_ids: HashMap::new(),
            views: Vec::new(),
            numpy: Vec::new(),
            spent_bytes,
        }
    }

    /// The error of a pickle that makes no sense.
    pub(super) fn damaged_error(&self, why: &str) -> Error {
        let at = grouped(self.op_at as u64);
        Error::bad_input(match self.form {
            Form::Zip => format!("data.pkl is damaged at byte {at}: {why}"),
            Form::Legacy => format!("the pickle is damaged at byte {at}: {why}"),
        })
    }

    /// A pickle that makes no sense.
    pub(super) fn damaged<T>(&self, why: &str) -> Outcome<T> {
        Err(self.damaged_error(why).into())
    }

    /// The error of a pickle that asks for what hoist never does.
    pub(super) fn refused_error(&self, what: &str) -> Error {
        let place = match self.form {
            Form::Zip => " of data.pkl",
            Form::Legacy => "",
        };
        let at = grouped(self.op_at as u64);
        Error::bad_input(format!("refused at byte {at}{place}: {what}"))
            .detail("hoist never runs code from a file; a state dict needs only tensors, numbers and strings")
    }

    /// A pickle that asks for what hoist never does.
    pub(super) fn refused<T>(&self, what: &str) -> Outcome<T> {
        Err(self.refused_error(what).into())
    }

    /// Charges memory to the budget, before it is taken.
    pub(super) fn charge(&mut self, size_bytes: usize) -> Outcome<()> {
        self.spent_bytes = self.spent_bytes.saturating_add(size_bytes);
        if self.spent_bytes > BUDGET_BYTES {
            let most = grouped(BUDGET_BYTES as u64);
            return self.refused(&format!("the pickle builds more values than fit {most} bytes of memory"));
        }
        Ok(())
    }

    /// What was charged so far.
    pub(super) fn spent_bytes(&self) -> usize {
        self.spent_bytes
    }

    /// The bytes of a slice.
    pub(super) fn slice(&self, slice: Slice) -> &'a [u8] {
        let at = slice.at as usize;
        self.bytes.get(at..at.saturating_add(slice.size as usize)).unwrap_or(&[])
    }

    /// The items of a container.
    pub(super) fn items(&self, node: u32) -> &[Value] {
        self.nodes.get(node as usize).map_or(&[], |n| &n.items)
    }

    /// Whether a container was made by `OrderedDict` and the like.
    pub(super) fn is_object(&self, node: u32) -> bool {
        self.nodes.get(node as usize).is_some_and(|n| n.object)
    }

    /// How many containers there are.
    pub(super) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    fn depth(&self, value: Value) -> u8 {
        match value {
            Value::Tuple(n) | Value::List(n) | Value::Dict(n) | Value::Set(n) => {
                self.nodes.get(n as usize).map_or(0, |n| n.depth)
            }
            _ => 0,
        }
    }

    /// One deeper than the deepest of `items`. What is added to a container that is inside another already is found
    /// by whoever walks; here the plain case is refused early.
    fn depth_above(&self, items: &[Value]) -> Outcome<u8> {
        let depth = items.iter().map(|&v| self.depth(v)).max().unwrap_or(0);
        if usize::from(depth) >= DEPTH_MAX {
            return self.damaged("values are nested deeper than 64 levels");
        }
        Ok(depth.saturating_add(1))
    }

    /// The index of what is added to a list of `count`.
    fn next_id(&self, count: usize, what: &str) -> Outcome<u32> {
        match u32::try_from(count) {
            Ok(id) => Ok(id),
            Err(_) => self.damaged(&format!("too many {what}")),
        }
    }

    /// A new container. The items themselves are charged by whoever gathered them.
    pub(super) fn add_node(&mut self, items: Vec<Value>, object: bool) -> Outcome<u32> {
        let depth = self.depth_above(&items)?;
        self.charge(size_of::<Node>())?;
        let id = self.next_id(self.nodes.len(), "values")?;
        self.nodes.push(Node { items, depth, object });
        Ok(id)
    }

    /// Adds to a container.
    pub(super) fn extend(&mut self, node: u32, items: &[Value]) -> Outcome<()> {
        let above = self.depth_above(items)?;
        // A vector that grows doubles.
        self.charge(items.len().saturating_mul(2 * size_of::<Value>()))?;
        if let Some(node) = self.nodes.get_mut(node as usize) {
            node.items.extend_from_slice(items);
            node.depth = node.depth.max(above);
        }
        Ok(())
    }

    /// A tensor.
    pub(super) fn add_view(&mut self, view: View) -> Outcome<Value> {
        let id = self.next_id(self.views.len(), "tensors")?;
        self.charge(size_of::<View>())?;
        self.views.push(view);
        Ok(Value::Tensor(id))
    }

    /// A storage, of which `part` is the first element and the count. One that is there already must be the same.
    pub(super) fn add_storage(&mut self, storage: Storage, part: (u64, u64)) -> Outcome<Value> {
        let key = self.slice(storage.key);
        let place = (key, part.0, part.1);
        if let Some(&id) = self.storage_ids.get(&place) {
            let facts = |s: &Storage| (s.dtype, s.count, s.is_meta);
            if self.storages.get(id as usize).map(facts) != Some(facts(&storage)) {
                let key = String::from_utf8_lossy(key);
                return self.damaged(&format!("storage `{}` has two types or sizes", Shown(&key)));
            }
            return Ok(Value::Storage(id));
        }
        // Twice for a vector that doubles, and as much again for the table of ids.
        self.charge(4 * size_of::<Storage>())?;
        let id = self.next_id(self.storages.len(), "storages")?;
        self.storages.push(storage);
        self.storage_ids.insert(place, id);
        Ok(Value::Storage(id))
    }

    /// A numpy type.
    pub(super) fn add_numpy(&mut self, code: NumpyCode) -> Outcome<Value> {
        self.charge(size_of::<NumpyCode>())?;
        let id = self.next_id(self.numpy.len(), "numpy types")?;
        self.numpy.push(code);
        Ok(Value::NumpyDType(id))
    }

    /// A numpy type that is there.
    pub(super) fn numpy(&self, index: u32) -> Option<NumpyCode> {
        self.numpy.get(index as usize).copied()
    }

    /// Gives a numpy type its byte order, which pickles tell after the type.
    pub(super) fn set_numpy_order(&mut self, index: u32, big_endian: bool) {
        if let Some(code) = self.numpy.get_mut(index as usize) {
            code.big_endian = big_endian;
        }
    }
}
