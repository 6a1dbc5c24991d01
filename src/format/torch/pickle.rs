//! A closed pickle interpreter: protocols 2 to 5, and only what a state dict needs.
//!
//! Python's unpickler is a stack machine whose opcodes can import and call anything. This one has the same stack and
//! the same opcodes for data, but the only names it knows are those of `names.rs`, and what "calling" one of them
//! gives is built by `rebuild.rs` from our own values. There is nothing it could run.
//!
//! Each entry of the stack and of the memo is charged to the budget of [`Values`], as the values themselves are.

use super::names::{self, Row};
use super::rebuild;
use super::value::{DEPTH_MAX, Fault, Form, Outcome, Slice, Value, Values, kind_name};
use crate::error::Error;
use crate::text::{Shown, grouped};
use std::collections::HashMap;

/// What a pickle held.
#[derive(Debug)]
pub(super) struct Loaded<'a> {
    /// The one value.
    pub(super) root: Value,
    /// The byte after STOP.
    pub(super) end: usize,
    /// What it points to.
    pub(super) values: Values<'a>,
}

/// Loads the pickle that begins at `start`. `complete` says that `bytes` end where the pickle's room ends; `spent_bytes`
/// are what the values of another, which stays beside it, have taken of the budget.
pub(super) fn load(
    bytes: &[u8],
    start: usize,
    complete: bool,
    form: Form,
    spent_bytes: usize,
) -> Outcome<Loaded<'_>> {
    let mut machine = Machine {
        bytes,
        at: start,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
        far_memo: HashMap::new(),
        values: Values::new(bytes, start, form, spent_bytes),
    };
    match machine.run(start) {
        Ok(root) => Ok(Loaded { root, end: machine.at, values: machine.values }),
        Err(Fault::Short) if complete => Err(machine
            .values
            .damaged_error(&format!("it ends at byte {} without its STOP", grouped(bytes.len() as u64)))
            .detail("the file was probably cut short")
            .into()),
        Err(fault) => Err(fault),
    }
}

/// The stack machine.
#[derive(Debug)]
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    /// Where the open marks stand on the stack; nothing below the last may be popped.
    marks: Vec<usize>,
    memo: Vec<Value>,
    /// Memo entries out of order, which no pickler writes.
    far_memo: HashMap<u32, Value>,
    values: Values<'a>,
}

impl<'a> Machine<'a> {
    fn damaged<T>(&self, why: &str) -> Outcome<T> {
        self.values.damaged(why)
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
        self.values.charge(size_of::<Value>())?;
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
        self.values.charge(count.saturating_mul(size_of::<Value>()))?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn append(&mut self, to: Value, items: &[Value]) -> Outcome<()> {
        match to {
            Value::List(node) => self.values.extend(node, items),
            Value::Set(node) => self.values.extend(node, items),
            _ => self.damaged("it appends to what is not a list"),
        }
    }

    fn set_items(&mut self, to: Value, items: &[Value]) -> Outcome<()> {
        match to {
            Value::Dict(node) if items.len().is_multiple_of(2) => self.values.extend(node, items),
            Value::Dict(_) => self.damaged("a key has no value"),
            _ => self.damaged("it sets an item of what is not a dict"),
        }
    }

    fn remember(&mut self, index: u32) -> Outcome<()> {
        let value = self.top()?;
        self.values.charge(2 * size_of::<Value>())?;
        let dense = self.memo.len();
        match self.memo.get_mut(index as usize) {
            Some(entry) => *entry = value,
            None if index as usize == dense => {
                self.far_memo.remove(&index);
                self.memo.push(value);
            }
            None => {
                self.values.charge(2 * size_of::<(u32, Value)>())?;
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
                let at = grouped(self.values.op_at as u64);
                let message = format!("the pickle holds {what} (`{}` at byte {at})", asked());
                Err(Error::unsupported(message).hint(hint).into())
            }
            None => {
                let error = self.values.refused_error(&format!("the pickle asks for `{}`", asked()));
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
        let bytes = self.values.slice(slice);
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
            let op_at = self.at;
            self.values.op_at = op_at;
            let [op] = self.take_array()?;
            if op_at == start && op != 0x80 {
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
            b')' => self.push(Values::EMPTY_TUPLE),
            0x85..=0x87 => {
                let count = usize::from(op - 0x84);
                let Some(at) = self.stack.len().checked_sub(count).filter(|&at| at >= self.fence()) else {
                    return self.damaged("it takes a value from an empty stack");
                };
                self.values.charge(count * size_of::<Value>())?;
                let items = self.stack.split_off(at);
                let node = self.values.add_node(items, false)?;
                self.push(Value::Tuple(node))
            }
            b't' => {
                let items = self.pop_mark()?;
                let node = self.values.add_node(items, false)?;
                self.push(Value::Tuple(node))
            }
            // EMPTY_LIST, LIST, APPEND, APPENDS
            b']' => {
                let node = self.values.add_node(Vec::new(), false)?;
                self.push(Value::List(node))
            }
            b'l' => {
                let items = self.pop_mark()?;
                let node = self.values.add_node(items, false)?;
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
                let node = self.values.add_node(Vec::new(), false)?;
                self.push(Value::Dict(node))
            }
            b'd' => {
                let items = self.pop_mark()?;
                let node = self.values.add_node(Vec::new(), false)?;
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
                let node = self.values.add_node(Vec::new(), false)?;
                self.push(Value::Set(node))
            }
            0x90 => {
                let items = self.pop_mark()?;
                let set = self.top()?;
                self.append(set, &items)
            }
            0x91 => {
                let items = self.pop_mark()?;
                let node = self.values.add_node(items, false)?;
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
                        self.global(self.values.slice(module), self.values.slice(name))
                    }
                    _ => self.damaged("the name of a global is not a text"),
                }
            }
            // REDUCE, NEWOBJ: the same here, since nothing is called
            b'R' | 0x81 => {
                let arguments = self.pop()?;
                let function = self.pop()?;
                let value = match (function, arguments) {
                    (Value::Global(what), Value::Tuple(node)) => {
                        rebuild::reduce(&mut self.values, what, node)?
                    }
                    (Value::Global(_), _) => return self.damaged("arguments are not a tuple"),
                    _ => return self.values.refused("the pickle calls what is not a known name"),
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
                let storage = rebuild::persistent(&mut self.values, id)?;
                self.push(storage)
            }
            other => match REFUSED.iter().find(|(code, ..)| *code == other) {
                Some((_, name, why)) => {
                    self.values.refused(&format!("the pickle uses the opcode `{name}`, which {why}"))
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
            Value::Dict(node) if self.values.is_object(node) => Ok(()),
            Value::NumpyDType(index) => rebuild::numpy_state(&mut self.values, index, state),
            Value::Opaque => Ok(()),
            other => self.values.refused(&format!("the pickle gives a state to {}", kind_name(other))),
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
