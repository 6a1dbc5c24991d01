//! A closed pickle interpreter: protocols 2 to 5, and only what a state dict needs.
//!
//! Python's unpickler is a stack machine whose opcodes can import and call anything. This one has the same stack and
//! the same opcodes for data, but the only names it knows are those of `names.rs`, and what "calling" one of them
//! gives is built by `rebuild.rs` from our own values. There is nothing it could run.
//!
//! Values are small and [`Copy`]; tuples, lists, dicts and sets are indices into one arena, so that a structure that
//! contains itself, or shares a part a million times, costs what it costs in the file and is dropped without
//! recursion. Each value, item and memo entry is charged to a fixed budget, which bounds memory and work alike.

use super::names::{self, Row, What};
use super::rebuild::{NumpyCode, Storage, View};
use crate::error::Error;
use crate::text::{Shown, grouped};
use std::collections::HashMap;

/// Containers inside one another.
pub(super) const DEPTH_MAX: usize = 64;

/// What all values of one pickle may take in memory together, as charged by [`Machine::charge`].
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

/// The interpreter's result.
pub(super) type Outcome<T> = Result<T, Fault>;

/// Bytes of the pickle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slice {
    at: u32,
    size: u32,
}

/// A value of the pickle.
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

/// A container: its items; of a dict keys and values in turn.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) items: Vec<Value>,
    depth: u8,
    /// Made by `OrderedDict` and the like, so that it may carry attributes.
    object: bool,
}

/// What a pickle held.
#[derive(Debug)]
pub(super) struct Loaded<'a> {
    bytes: &'a [u8],
    /// The one value.
    pub(super) root: Value,
    /// The byte after STOP.
    pub(super) end: usize,
    nodes: Vec<Node>,
    /// Storages, each once.
    pub(super) storages: Vec<Storage>,
    /// Tensors, in the order in which they were built.
    pub(super) views: Vec<View>,
}

impl Loaded<'_> {
    /// The items of a container.
    pub(super) fn items(&self, node: u32) -> &[Value] {
        self.nodes.get(node as usize).map_or(&[], |n| &n.items)
    }

    /// How many containers there are.
    pub(super) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The bytes of a text.
    pub(super) fn slice(&self, slice: Slice) -> &[u8] {
        cut(self.bytes, slice)
    }
}

fn cut(bytes: &[u8], slice: Slice) -> &[u8] {
    let at = slice.at as usize;
    bytes.get(at..at.saturating_add(slice.size as usize)).unwrap_or(&[])
}

/// Where a pickle stands: how its bytes are called in messages, and which shape persistent ids have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `data.pkl` of a zip.
    Zip,
    /// One of the five pickles of the old stream; offsets are the file's.
    Legacy,
}

/// Loads the pickle that begins at `start`. `complete` says that `bytes` end where the pickle's room ends.
pub(super) fn load(bytes: &[u8], start: usize, complete: bool, form: Form) -> Outcome<Loaded<'_>> {
    let mut machine = Machine {
        bytes,
        at: start,
        op_at: start,
        form,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
        far_memo: HashMap::new(),
        nodes: vec![Node { depth: 1, ..Node::default() }],
        storages: Vec::new(),
        storage_ids: HashMap::new(),
        views: Vec::new(),
        numpy: Vec::new(),
        spent_bytes: 0,
    };
    match machine.run(start) {
        Ok(root) => Ok(Loaded {
            bytes,
            root,
            end: machine.at,
            nodes: machine.nodes,
            storages: machine.storages,
            views: machine.views,
        }),
        Err(Fault::Short) if complete => Err(machine
            .damaged_error(&format!("it ends at byte {} without its STOP", grouped(bytes.len() as u64)))
            .detail("the file was probably cut short")
            .into()),
        Err(fault) => Err(fault),
    }
}

/// The stack machine.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    op_at: usize,
    pub(super) form: Form,
    stack: Vec<Value>,
    /// Where the open marks stand on the stack; nothing below the last may be popped.
    marks: Vec<usize>,
    memo: Vec<Value>,
    /// Memo entries out of order, which no pickler writes.
    far_memo: HashMap<u32, Value>,
    /// The first is the empty tuple.
    nodes: Vec<Node>,
    pub(super) storages: Vec<Storage>,
    pub(super) storage_ids: HashMap<(&'a [u8], u64, u64), u32>,
    pub(super) views: Vec<View>,
    pub(super) numpy: Vec<NumpyCode>,
    spent_bytes: usize,
}

impl<'a> Machine<'a> {
    /// An error of a pickle that makes no sense.
    fn damaged_error(&self, why: &str) -> Error {
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

    /// A pickle that asks for what hoist never does.
    pub(super) fn refused(&self, what: &str) -> Error {
        let place = match self.form {
            Form::Zip => " of data.pkl",
            Form::Legacy => "",
        };
        let at = grouped(self.op_at as u64);
        Error::bad_input(format!("refused at byte {at}{place}: {what}"))
            .detail("hoist never runs code from a file; a state dict needs only tensors, numbers and strings")
    }

    /// Charges memory to the budget, before it is taken.
    pub(super) fn charge(&mut self, size_bytes: usize) -> Outcome<()> {
        self.spent_bytes = self.spent_bytes.saturating_add(size_bytes);
        if self.spent_bytes > BUDGET_BYTES {
            let message = format!(
                "the pickle builds more values than fit {} bytes of memory",
                grouped(BUDGET_BYTES as u64)
            );
            return Err(self.refused(&message).into());
        }
        Ok(())
    }

    /// The bytes of a slice.
    pub(super) fn slice(&self, slice: Slice) -> &'a [u8] {
        cut(self.bytes, slice)
    }

    /// The items of a container.
    pub(super) fn items(&self, node: u32) -> &[Value] {
        self.nodes.get(node as usize).map_or(&[], |n| &n.items)
    }

    fn take(&mut self, size: usize) -> Outcome<&'a [u8]> {
        let end = self.at.checked_add(size).ok_or(Fault::Short)?;
        let bytes = self.bytes.get(self.at..end).ok_or(Fault::Short)?;
        self.at = end;
        Ok(bytes)
    }

    fn take_array<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        let bytes = self.take(N)?;
        bytes.try_into().map_err(|_| Fault::Short)
    }

    /// A length prefix of `width` bytes.
    fn take_size(&mut self, width: usize) -> Outcome<usize> {
        let mut wide = [0u8; 8];
        for (to, from) in wide.iter_mut().zip(self.take(width)?) {
            *to = *from;
        }
        match usize::try_from(u64::from_le_bytes(wide)) {
            Ok(size) if size <= super::PICKLE_BYTES_MAX => Ok(size),
            _ => self.damaged(&format!("a value of {} bytes", grouped(u64::from_le_bytes(wide)))),
        }
    }

    fn take_slice(&mut self, width: usize) -> Outcome<Slice> {
        let size = self.take_size(width)?;
        let at = self.at;
        self.take(size)?;
        match (u32::try_from(at), u32::try_from(size)) {
            (Ok(at), Ok(size)) => Ok(Slice { at, size }),
            _ => self.damaged("a value beyond 4 GiB"),
        }
    }

    fn take_line(&mut self) -> Outcome<&'a [u8]> {
        let rest = self.bytes.get(self.at..).unwrap_or(&[]);
        let size = rest.iter().position(|&b| b == b'\n').ok_or(Fault::Short)?;
        let line = self.take(size)?;
        self.take(1)?;
        Ok(line)
    }

    fn push(&mut self, value: Value) -> Outcome<()> {
        self.charge(size_of::<Value>())?;
        self.stack.push(value);
        Ok(())
    }

    fn fence(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Outcome<Value> {
        if self.stack.len() > self.fence()
            && let Some(value) = self.stack.pop()
        {
            return Ok(value);
        }
        self.damaged("it takes a value from an empty stack")
    }

    fn top(&self) -> Outcome<Value> {
        match self.stack.last() {
            Some(&value) if self.stack.len() > self.fence() => Ok(value),
            _ => self.damaged("it looks for a value on an empty stack"),
        }
    }

    fn pop_mark(&mut self) -> Outcome<Vec<Value>> {
        let Some(mark) = self.marks.pop() else { return self.damaged("it looks for a mark where none is") };
        let count = self.stack.len().saturating_sub(mark);
        self.charge(count.saturating_mul(size_of::<Value>()))?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
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

    /// A new container.
    pub(super) fn node(&mut self, items: Vec<Value>, object: bool) -> Outcome<u32> {
        let depth = self.depth_above(&items)?;
        self.charge(size_of::<Node>())?;
        let Ok(id) = u32::try_from(self.nodes.len()) else { return self.damaged("too many values") };
        self.nodes.push(Node { items, depth, object });
        Ok(id)
    }

    /// Adds to a container.
    fn extend(&mut self, node: u32, items: &[Value]) -> Outcome<()> {
        let above = self.depth_above(items)?;
        // A vector that grows doubles.
        self.charge(items.len().saturating_mul(2 * size_of::<Value>()))?;
        if let Some(node) = self.nodes.get_mut(node as usize) {
            node.items.extend_from_slice(items);
            node.depth = node.depth.max(above);
        }
        Ok(())
    }

    fn append(&mut self, to: Value, items: &[Value]) -> Outcome<()> {
        match to {
            Value::List(node) => self.extend(node, items),
            Value::Set(node) => self.extend(node, items),
            _ => self.damaged("it appends to what is not a list"),
        }
    }

    fn set_items(&mut self, to: Value, items: &[Value]) -> Outcome<()> {
        match to {
            Value::Dict(node) if items.len().is_multiple_of(2) => self.extend(node, items),
            Value::Dict(_) => self.damaged("a key has no value"),
            _ => self.damaged("it sets an item of what is not a dict"),
        }
    }

    fn remember(&mut self, index: u32) -> Outcome<()> {
        let value = self.top()?;
        self.charge(2 * size_of::<Value>())?;
        let dense = self.memo.len();
        match self.memo.get_mut(index as usize) {
            Some(entry) => *entry = value,
            None if index as usize == dense => {
                self.far_memo.remove(&index);
                self.memo.push(value);
            }
            None => {
                self.charge(2 * size_of::<(u32, Value)>())?;
                self.far_memo.insert(index, value);
            }
        }
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Outcome<()> {
        let value = match self.memo.get(index as usize) {
            Some(&value) => Some(value),
            None => self.far_memo.get(&index).copied(),
        };
        match value {
            Some(value) => self.push(value),
            None => self.damaged(&format!("it recalls value {index}, which was never kept")),
        }
    }

    fn global(&mut self, module: &[u8], name: &[u8]) -> Outcome<()> {
        let asked = || {
            let (module, name) = (String::from_utf8_lossy(module), String::from_utf8_lossy(name));
            format!("{}.{}", Shown(&module), Shown(&name))
        };
        match names::find(module, name) {
            Some(Row::Inert(what)) => self.push(Value::Global(what)),
            Some(Row::Unsupported(what, hint)) => {
                let at = grouped(self.op_at as u64);
                let message = format!("the pickle holds {what} (`{}` at byte {at})", asked());
                Err(Error::unsupported(message).hint(hint).into())
            }
            None => {
                let error = self.refused(&format!("the pickle asks for `{}`", asked()));
                Err(match names::hint(module) {
                    Some(hint) => error.hint(hint),
                    None => error,
                }
                .into())
            }
        }
    }

    fn number<T: std::str::FromStr>(&self, line: &[u8]) -> Outcome<T> {
        match std::str::from_utf8(line).ok().and_then(|s| s.trim().parse().ok()) {
            Some(number) => Ok(number),
            None => self.damaged("a number is not one"),
        }
    }

    /// A two's complement integer, little endian.
    fn long(&mut self, width: usize) -> Outcome<Value> {
        let slice = self.take_slice(width)?;
        let bytes = self.slice(slice);
        Ok(match bytes.last() {
            None => Value::Int(0),
            Some(&last) if bytes.len() <= 8 => {
                let mut wide = if last & 0x80 != 0 { [0xff; 8] } else { [0; 8] };
                for (to, from) in wide.iter_mut().zip(bytes) {
                    *to = *from;
                }
                Value::Int(i64::from_le_bytes(wide))
            }
            Some(_) => Value::LongInt(slice),
        })
    }

    fn run(&mut self, start: usize) -> Outcome<Value> {
        loop {
            self.op_at = self.at;
            let [op] = self.take_array()?;
            if self.op_at == start && op != 0x80 {
                return self.damaged("it does not begin with a protocol of 2 to 5");
            }
            if op == b'.' {
                let root = self.pop()?;
                if !self.stack.is_empty() || !self.marks.is_empty() {
                    return self.damaged("values are left over at its STOP");
                }
                return Ok(root);
            }
            self.step(op)?;
        }
    }

    /// One opcode. Names are those of Python's `pickletools`.
    fn step(&mut self, op: u8) -> Outcome<()> {
        match op {
            // PROTO
            0x80 => match self.take_array()? {
                [2..=5] => Ok(()),
                [other] => self.damaged(&format!("protocol {other}; hoist reads 2 to 5")),
            },
            // FRAME: only a hint for readers that buffer
            0x95 => self.take_array::<8>().map(|_| ()),
            b'N' => self.push(Value::None),
            // NEWTRUE, NEWFALSE
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            // BININT, BININT1, BININT2, LONG1, LONG4, INT, LONG
            b'J' => {
                let bytes = self.take_array()?;
                self.push(Value::Int(i32::from_le_bytes(bytes).into()))
            }
            b'K' => {
                let [byte] = self.take_array()?;
                self.push(Value::Int(byte.into()))
            }
            b'M' => {
                let bytes = self.take_array()?;
                self.push(Value::Int(u16::from_le_bytes(bytes).into()))
            }
            0x8a => {
                let value = self.long(1)?;
                self.push(value)
            }
            0x8b => {
                let value = self.long(4)?;
                self.push(value)
            }
            b'I' => {
                let value = match self.take_line()? {
                    b"00" => Value::Bool(false),
                    b"01" => Value::Bool(true),
                    line => Value::Int(self.number(line)?),
                };
                self.push(value)
            }
            b'L' => {
                let line = self.take_line()?;
                let value = Value::Int(self.number(line.strip_suffix(b"L").unwrap_or(line))?);
                self.push(value)
            }
            // BINFLOAT (big endian), FLOAT
            b'G' => {
                let bytes = self.take_array()?;
                self.push(Value::Float(f64::from_be_bytes(bytes)))
            }
            b'F' => {
                let line = self.take_line()?;
                let value = Value::Float(self.number(line)?);
                self.push(value)
            }
            // BINUNICODE, SHORT_BINUNICODE, BINUNICODE8, BINSTRING, SHORT_BINSTRING
            b'X' | b'T' => self.text(4),
            0x8c | b'U' => self.text(1),
            0x8d => self.text(8),
            // BINBYTES, SHORT_BINBYTES, BINBYTES8, BYTEARRAY8
            b'B' => self.inert_bytes(4),
            b'C' => self.inert_bytes(1),
            0x8e | 0x96 => self.inert_bytes(8),
            // MARK, POP, POP_MARK, DUP
            b'(' => {
                if self.marks.len() >= DEPTH_MAX {
                    return self.damaged("values are nested deeper than 64 levels");
                }
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => match self.marks.last() {
                Some(&mark) if mark == self.stack.len() => {
                    self.marks.pop();
                    Ok(())
                }
                _ => self.pop().map(|_| ()),
            },
            b'1' => self.pop_mark().map(|_| ()),
            b'2' => {
                let value = self.top()?;
                self.push(value)
            }
            // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE
            b')' => self.push(Value::Tuple(0)),
            0x85..=0x87 => {
                let count = usize::from(op - 0x84);
                let Some(at) = self.stack.len().checked_sub(count).filter(|&at| at >= self.fence()) else {
                    return self.damaged("it takes a value from an empty stack");
                };
                self.charge(count * size_of::<Value>())?;
                let items = self.stack.split_off(at);
                let node = self.node(items, false)?;
                self.push(Value::Tuple(node))
            }
            b't' => {
                let items = self.pop_mark()?;
                let node = self.node(items, false)?;
                self.push(Value::Tuple(node))
            }
            // EMPTY_LIST, LIST, APPEND, APPENDS
            b']' => {
                let node = self.node(Vec::new(), false)?;
                self.push(Value::List(node))
            }
            b'l' => {
                let items = self.pop_mark()?;
                let node = self.node(items, false)?;
                self.push(Value::List(node))
            }
            b'a' => {
                let item = self.pop()?;
                let list = self.top()?;
                self.append(list, &[item])
            }
            b'e' => {
                let items = self.pop_mark()?;
                let list = self.top()?;
                self.append(list, &items)
            }
            // EMPTY_DICT, DICT, SETITEM, SETITEMS
            b'}' => {
                let node = self.node(Vec::new(), false)?;
                self.push(Value::Dict(node))
            }
            b'd' => {
                let items = self.pop_mark()?;
                let node = self.node(Vec::new(), false)?;
                self.set_items(Value::Dict(node), &items)?;
                self.push(Value::Dict(node))
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                let dict = self.top()?;
                self.set_items(dict, &[key, value])
            }
            b'u' => {
                let items = self.pop_mark()?;
                let dict = self.top()?;
                self.set_items(dict, &items)
            }
            // EMPTY_SET, ADDITEMS, FROZENSET
            0x8f => {
                let node = self.node(Vec::new(), false)?;
                self.push(Value::Set(node))
            }
            0x90 => {
                let items = self.pop_mark()?;
                let set = self.top()?;
                self.append(set, &items)
            }
            0x91 => {
                let items = self.pop_mark()?;
                let node = self.node(items, false)?;
                self.push(Value::Set(node))
            }
            // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET
            b'q' => {
                let [index] = self.take_array()?;
                self.remember(index.into())
            }
            b'r' => {
                let index = self.take_array()?;
                self.remember(u32::from_le_bytes(index))
            }
            0x94 => {
                let count = self.memo.len().saturating_add(self.far_memo.len());
                self.remember(u32::try_from(count).unwrap_or(u32::MAX))
            }
            b'h' => {
                let [index] = self.take_array()?;
                self.recall(index.into())
            }
            b'j' => {
                let index = self.take_array()?;
                self.recall(u32::from_le_bytes(index))
            }
            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let module = self.take_line()?;
                let name = self.take_line()?;
                self.global(module, name)
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (module, name) {
                    (Value::Text(module), Value::Text(name)) => {
                        self.global(self.slice(module), self.slice(name))
                    }
                    _ => self.damaged("the name of a global is not a text"),
                }
            }
            // REDUCE, NEWOBJ: the same here, since nothing is called
            b'R' | 0x81 => {
                let arguments = self.pop()?;
                let function = self.pop()?;
                let value = match (function, arguments) {
                    (Value::Global(what), Value::Tuple(node)) => self.reduce(what, node)?,
                    (Value::Global(_), _) => return self.damaged("arguments are not a tuple"),
                    _ => return Err(self.refused("the pickle calls what is not a known name").into()),
                };
                self.push(value)
            }
            // BUILD
            b'b' => {
                let state = self.pop()?;
                let object = self.top()?;
                self.build(object, state)
            }
            // BINPERSID
            b'Q' => {
                let id = self.pop()?;
                let storage = self.persistent(id)?;
                self.push(storage)
            }
            other => match REFUSED.iter().find(|(code, ..)| *code == other) {
                Some((_, name, why)) => {
                    Err(self.refused(&format!("the pickle uses the opcode `{name}`, which {why}")).into())
                }
                None => self.damaged(&format!("unknown opcode 0x{other:02x}")),
            },
        }
    }

    fn text(&mut self, width: usize) -> Outcome<()> {
        let slice = self.take_slice(width)?;
        self.push(Value::Text(slice))
    }

    fn inert_bytes(&mut self, width: usize) -> Outcome<()> {
        let slice = self.take_slice(width)?;
        self.push(Value::Bytes(slice))
    }

    /// BUILD gives an object its attributes. Only objects without meaning to us may have some: they are forgotten
    /// (`_metadata` of a module's state dict).
    fn build(&mut self, object: Value, state: Value) -> Outcome<()> {
        match object {
            Value::Dict(node) if self.nodes.get(node as usize).is_some_and(|n| n.object) => Ok(()),
            Value::NumpyDType(index) => self.numpy_state(index, state),
            Value::Opaque => Ok(()),
            other => {
                let what = kind_name(other);
                Err(self.refused(&format!("the pickle gives a state to {what}")).into())
            }
        }
    }
}

/// Opcodes of data or code that no state dict needs, and what they do.
const REFUSED: &[(u8, &str, &str)] = &[
    (b'i', "INST", "makes an object of any class"),
    (b'o', "OBJ", "makes an object of any class"),
    (0x92, "NEWOBJ_EX", "makes an object of any class"),
    (0x82, "EXT1", "asks for a global by a number of the reader's registry"),
    (0x83, "EXT2", "asks for a global by a number of the reader's registry"),
    (0x84, "EXT4", "asks for a global by a number of the reader's registry"),
    (b'P', "PERSID", "names a persistent object by a line of text"),
    (0x97, "NEXT_BUFFER", "asks for a buffer outside the pickle"),
    (0x98, "READONLY_BUFFER", "asks for a buffer outside the pickle"),
    (b'S', "STRING", "belongs to protocol 0"),
    (b'V', "UNICODE", "belongs to protocol 0"),
    (b'g', "GET", "belongs to protocol 0"),
    (b'p', "PUT", "belongs to protocol 0"),
];

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
