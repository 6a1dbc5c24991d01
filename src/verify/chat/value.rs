//! What a template computes with: Python's values, as far as a template can meet them.
//!
//! The sandbox that templates run in lets none of them change a list or a mapping, so these are shared and never
//! written; a namespace is what can be assigned to. Whatever Python would print in a way that depends on its
//! internals (an object's address) is refused.

use super::engine::Macro;
use super::loops::Loop;
use crate::error::Error;
use crate::text::Shown;
use hashbrown::HashMap;
use serde_json::Value as Json;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

/// Why a template was not rendered.
#[derive(Debug)]
pub(super) struct Fault {
    kind: Kind,
    message: String,
    line: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    /// The text is no template.
    Syntax,
    /// Python would raise an error.
    Failed,
    /// The template itself raises an error.
    Raised,
    /// A construct that is not rendered.
    Refused,
    /// Too much work.
    Limit,
}

/// A result inside the engine.
pub(super) type Res<T> = Result<T, Box<Fault>>;

impl Fault {
    fn new(kind: Kind, message: impl Into<String>) -> Box<Fault> {
        Box::new(Fault { kind, message: message.into(), line: None })
    }

    /// The text is no template.
    pub(super) fn syntax(message: impl Into<String>) -> Box<Fault> {
        Fault::new(Kind::Syntax, message)
    }

    /// Python would raise an error here.
    pub(super) fn failed(message: impl Into<String>) -> Box<Fault> {
        Fault::new(Kind::Failed, message)
    }

    /// The template says that something is wrong.
    pub(super) fn raised(message: impl Into<String>) -> Box<Fault> {
        Fault::new(Kind::Raised, message)
    }

    /// A construct that is not rendered, by its name.
    pub(super) fn refused(construct: impl Into<String>) -> Box<Fault> {
        Fault::new(Kind::Refused, construct)
    }

    /// A bound was reached.
    pub(super) fn limit(message: impl Into<String>) -> Box<Fault> {
        Fault::new(Kind::Limit, message)
    }

    /// Says in which line, unless that is known.
    pub(super) fn at(mut self: Box<Self>, line: u32) -> Box<Fault> {
        self.line.get_or_insert(line);
        self
    }

    /// As an error of the crate.
    pub(super) fn into_error(self) -> Error {
        let line = self.line.map(|line| format!(" in line {line}")).unwrap_or_default();
        let message = Shown(&self.message).to_string();
        match self.kind {
            Kind::Syntax => Error::bad_input(format!("the chat template cannot be read: {message}{line}")),
            Kind::Failed => Error::bad_input(format!("the chat template fails{line}: {message}")),
            Kind::Raised => {
                Error::bad_input(format!("the chat template refuses these messages: `{message}`"))
            }
            Kind::Refused => Error::unsupported(format!("the chat template uses {message}{line}"))
                .detail("a template is rendered exactly as its author meant it, or not at all"),
            Kind::Limit => {
                Error::unsupported(format!("the chat template asks for too much{line}: {message}"))
            }
        }
    }
}

/// The most steps.
const STEPS_MAX: u64 = 20_000_000;

/// The most bytes of text and lists that are made, beside a share for each byte of the input.
const BYTES_MAX: u64 = 64 << 20;
const BYTES_PER_INPUT_BYTE: u64 = 256;

/// What a template may still take.
#[derive(Debug)]
pub(super) struct Meter {
    steps_left: Cell<u64>,
    bytes_left: Cell<u64>,
}

impl Meter {
    /// For a template and values of so many bytes.
    pub(super) fn new(input_bytes: usize) -> Meter {
        let share = BYTES_PER_INPUT_BYTE.saturating_mul(input_bytes as u64);
        Meter { steps_left: Cell::new(STEPS_MAX), bytes_left: Cell::new(BYTES_MAX.saturating_add(share)) }
    }

    /// Counts a step, and the bytes that it reads.
    pub(super) fn work(&self, bytes: usize) -> Res<()> {
        let cost = 1 + bytes as u64 / 64;
        let left = self.steps_left.get().checked_sub(cost);
        self.steps_left.set(left.ok_or_else(|| Fault::limit(format!("more than {STEPS_MAX} steps")))?);
        Ok(())
    }

    /// Counts bytes that are about to be made.
    pub(super) fn bytes(&self, count: usize) -> Res<()> {
        let left = self.bytes_left.get().checked_sub(count as u64);
        self.bytes_left
            .set(left.ok_or_else(|| Fault::limit("the text and lists that it makes have no end"))?);
        Ok(())
    }
}

/// A value.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// Not there; the message says what is not.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Rc<str>),
    /// Text that `safe` or `escape` marked; combined with other text it would escape that.
    Markup(Rc<str>),
    List(Rc<Items>),
    Tuple(Rc<Items>),
    Dict(Rc<Dict>),
    /// Start, stop, step.
    Range(i128, i128, i128),
    /// `items()`, `keys()`, `values()`: its Python name, and what is in it.
    View(&'static str, Rc<Items>),
    /// What can be walked through once.
    Generator(Rc<Generator>),
    Namespace(Rc<RefCell<Dict>>),
    Macro(Rc<Macro>),
    Loop(Rc<Loop>),
    /// A method of a value, not yet called.
    Method(Rc<Value>, Rc<str>),
    /// A function that every template has.
    Function(&'static str),
    /// Values in turn.
    Cycler(Rc<(Vec<Value>, Cell<usize>)>),
    /// A separator from its second use on.
    Joiner(Rc<(Rc<str>, Cell<bool>)>),
}

/// The most containers one in another: they are walked through, and dropped, by recursion.
pub(super) const NESTING_MAX: u32 = 160;

/// The depth of what may not lie in another value, since a chain of them would have no bound.
const UNBOUNDED: u32 = 1 << 20;

/// The values of a list or a tuple.
#[derive(Debug)]
pub(super) struct Items {
    values: Vec<Value>,
    depth: u32,
}

impl Items {
    fn new(values: Vec<Value>) -> Rc<Items> {
        let depth = 1 + values.iter().map(Value::depth).max().unwrap_or(0);
        Rc::new(Items { values, depth })
    }
}

impl std::ops::Deref for Items {
    type Target = [Value];

    fn deref(&self) -> &[Value] {
        &self.values
    }
}

/// What is left of what can be walked through once.
#[derive(Debug)]
pub(super) struct Generator {
    pub(super) left: RefCell<VecDeque<Value>>,
    depth: u32,
}

/// A mapping in the order in which keys were first set.
#[derive(Debug, Clone, Default)]
pub(super) struct Dict {
    entries: Vec<(Value, Value)>,
    places: HashMap<Key, usize>,
    depth: u32,
}

/// What makes two keys equal: numbers by their value, whatever their type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Undefined,
    None,
    Int(i128),
    Float(u64),
    Text(Rc<str>),
    Tuple(Vec<Key>),
}

impl FromIterator<(Rc<str>, Value)> for Dict {
    /// Of keys that differ.
    fn from_iter<I: IntoIterator<Item = (Rc<str>, Value)>>(entries: I) -> Dict {
        let mut dict = Dict::default();
        for (key, value) in entries {
            dict.depth = dict.depth.max(value.depth());
            dict.places.insert(Key::Text(key.clone()), dict.entries.len());
            dict.entries.push((Value::Text(key), value));
        }
        dict
    }
}

impl Dict {
    /// The value of a key.
    pub(super) fn get(&self, key: &Key) -> Option<&Value> {
        self.places.get(key).map(|&at| &self.entries[at].1)
    }

    /// The value of a textual key.
    pub(super) fn text(&self, key: &str) -> Option<&Value> {
        self.get(&Key::Text(key.into()))
    }

    /// Sets a key, which keeps its place where it is known.
    pub(super) fn set(&mut self, key: Value, value: Value, meter: &Meter) -> Res<()> {
        let hash = key.key(meter)?;
        self.depth = self.depth.max(key.depth()).max(value.depth());
        match self.places.get(&hash) {
            Some(&at) => self.entries[at].1 = value,
            None => {
                self.places.insert(hash, self.entries.len());
                self.entries.push((key, value));
            }
        }
        Ok(())
    }

    /// Keys and values in order.
    pub(super) fn entries(&self) -> &[(Value, Value)] {
        &self.entries
    }
}

/// What Python takes for whitespace in a text.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text.into())
    }
}

impl From<bool> for Value {
    fn from(on: bool) -> Value {
        Value::Bool(on)
    }
}

impl Value {
    /// A list.
    pub(super) fn list(items: Vec<Value>) -> Value {
        Value::List(Items::new(items))
    }

    /// A tuple.
    pub(super) fn tuple(items: Vec<Value>) -> Value {
        Value::Tuple(Items::new(items))
    }

    /// A view of a mapping.
    pub(super) fn view(kind: &'static str, items: Vec<Value>) -> Value {
        Value::View(kind, Items::new(items))
    }

    /// What can be walked through once.
    pub(super) fn generator(items: Vec<Value>) -> Value {
        let depth = 1 + items.iter().map(Value::depth).max().unwrap_or(0);
        Value::Generator(Rc::new(Generator { left: RefCell::new(items.into()), depth }))
    }

    /// A name that nothing has.
    pub(super) fn undefined(name: &str) -> Value {
        Value::Undefined(format!("`{name}` is undefined").into())
    }

    /// A count.
    pub(super) fn count(n: usize) -> Value {
        Value::Int(n as i128)
    }

    /// Of JSON, keys in its order.
    pub(super) fn of_json(json: &Json) -> Value {
        match json {
            Json::Null => Value::None,
            Json::Bool(on) => Value::Bool(*on),
            Json::Number(n) => match (n.as_i64(), n.as_u64()) {
                (Some(n), _) => Value::Int(n.into()),
                (_, Some(n)) => Value::Int(n.into()),
                _ => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => text.as_str().into(),
            Json::Array(items) => Value::list(items.iter().map(Value::of_json).collect()),
            Json::Object(map) => {
                let entries = map.iter().map(|(key, value)| (Rc::from(key.as_str()), Value::of_json(value)));
                Value::Dict(Rc::new(entries.collect()))
            }
        }
    }

    /// How many containers lie one in another in it.
    pub(super) fn depth(&self) -> u32 {
        match self {
            Value::List(items) | Value::Tuple(items) | Value::View(_, items) => items.depth,
            Value::Dict(dict) => 1 + dict.depth,
            Value::Generator(generator) => generator.depth,
            Value::Namespace(_) | Value::Macro(_) | Value::Loop(_) | Value::Method(..) | Value::Cycler(_) => {
                UNBOUNDED
            }
            _ => 0,
        }
    }

    /// Itself, if it may lie in another value.
    pub(super) fn nested(self) -> Res<Value> {
        match self.depth() {
            0..NESTING_MAX => Ok(self),
            ..UNBOUNDED => Err(Fault::limit(format!("more than {NESTING_MAX} values one in another"))),
            _ => Err(Fault::refused("a namespace, a macro, a method or a loop inside another value")),
        }
    }

    /// The name of its type in Python.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Undefined(_) => "Undefined",
            Value::None => "NoneType",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Text(_) => "str",
            Value::Markup(_) => "Markup",
            Value::List(_) => "list",
            Value::Tuple(_) => "tuple",
            Value::Dict(_) => "dict",
            Value::Range(..) => "range",
            Value::View(kind, _) => kind,
            Value::Generator(_) => "generator",
            Value::Namespace(_) => "Namespace",
            Value::Macro(_) => "Macro",
            Value::Loop(_) => "LoopContext",
            Value::Method(..) => "builtin_function_or_method",
            Value::Function(_) => "function",
            Value::Cycler(_) => "Cycler",
            Value::Joiner(_) => "Joiner",
        }
    }

    /// As a key of a mapping.
    pub(super) fn key(&self, meter: &Meter) -> Res<Key> {
        meter.work(0)?;
        Ok(match self {
            Value::Undefined(_) => Key::Undefined,
            Value::None => Key::None,
            Value::Bool(on) => Key::Int((*on).into()),
            Value::Int(n) => Key::Int(*n),
            // Whole floats equal integers.
            Value::Float(n) if n.fract() == 0.0 && n.abs() < 1e18 => Key::Int(*n as i128),
            Value::Float(n) => Key::Float(n.to_bits()),
            Value::Text(text) | Value::Markup(text) => {
                meter.work(text.len())?;
                Key::Text(text.clone())
            }
            Value::Tuple(items) => Key::Tuple(items.iter().map(|item| item.key(meter)).collect::<Res<_>>()?),
            other => return Err(Fault::failed(format!("a {} cannot be a key", other.kind()))),
        })
    }

    /// Its truth.
    pub(super) fn truth(&self) -> bool {
        match self {
            Value::Undefined(_) | Value::None => false,
            Value::Bool(on) => *on,
            Value::Int(n) => *n != 0,
            Value::Float(n) => *n != 0.0,
            Value::Text(text) | Value::Markup(text) => !text.is_empty(),
            Value::List(items) | Value::Tuple(items) | Value::View(_, items) => !items.is_empty(),
            Value::Dict(dict) => !dict.entries.is_empty(),
            Value::Range(..) => self.len().is_some_and(|n| n > 0),
            Value::Loop(state) => state.count() > 0,
            _ => true,
        }
    }

    /// How many are in it, where Python's `len` says so.
    pub(super) fn len(&self) -> Option<usize> {
        Some(match self {
            Value::Undefined(_) => 0,
            Value::Text(text) | Value::Markup(text) => text.chars().count(),
            Value::List(items) | Value::Tuple(items) | Value::View(_, items) => items.len(),
            Value::Dict(dict) => dict.entries.len(),
            Value::Loop(state) => state.count(),
            Value::Range(start, stop, step) => {
                let span = if *step > 0 { stop - start } else { start - stop };
                let step = step.abs();
                usize::try_from((span.max(0) + step - 1) / step).unwrap_or(usize::MAX)
            }
            _ => return None,
        })
    }

    /// All that is in it, as `for` walks through it; `None` where it cannot be walked through. A generator is empty then.
    pub(super) fn items(&self) -> Option<Vec<Value>> {
        Some(match self {
            Value::Undefined(_) => Vec::new(),
            Value::Text(text) | Value::Markup(text) => {
                let mut buffer = [0; 4];
                text.chars().map(|c| Value::from(&*c.encode_utf8(&mut buffer))).collect()
            }
            Value::List(items) | Value::Tuple(items) | Value::View(_, items) => items.to_vec(),
            Value::Dict(dict) => dict.entries.iter().map(|(key, _)| key.clone()).collect(),
            Value::Range(start, _, step) => {
                (0..self.len()?).map(|n| Value::Int(start + n as i128 * step)).collect()
            }
            Value::Generator(generator) => generator.left.borrow_mut().drain(..).collect(),
            _ => return None,
        })
    }

    /// Its text, where it is one.
    pub(super) fn as_text(&self) -> Option<&Rc<str>> {
        match self {
            Value::Text(text) | Value::Markup(text) => Some(text),
            _ => None,
        }
    }

    /// As an integer where it is one; a truth value is.
    pub(super) fn as_int(&self) -> Option<i128> {
        match self {
            Value::Bool(on) => Some((*on).into()),
            Value::Int(n) => Some(*n),
            _ => None,
        }
    }

    /// As a number where it is one.
    pub(super) fn as_float(&self) -> Option<f64> {
        match self {
            Value::Float(n) => Some(*n),
            other => other.as_int().map(|n| n as f64),
        }
    }

    /// Python's `str`.
    pub(super) fn text(&self, meter: &Meter) -> Res<Rc<str>> {
        match self {
            Value::Undefined(_) => Ok("".into()),
            Value::Text(text) | Value::Markup(text) => Ok(text.clone()),
            _ => {
                let mut out = String::new();
                self.repr(&mut out, meter)?;
                Ok(out.into())
            }
        }
    }

    /// Python's `repr`.
    fn repr(&self, out: &mut String, meter: &Meter) -> Res<()> {
        let sequence = |out: &mut String, open: &str, items: &[Value], close: &str| -> Res<()> {
            out.push_str(open);
            for (n, item) in items.iter().enumerate() {
                out.push_str(if n > 0 { ", " } else { "" });
                item.repr(out, meter)?;
            }
            out.push_str(close);
            Ok(())
        };
        meter.bytes(8)?;
        match self {
            Value::Undefined(_) => out.push_str("Undefined"),
            Value::None => out.push_str("None"),
            Value::Bool(true) => out.push_str("True"),
            Value::Bool(false) => out.push_str("False"),
            Value::Int(n) => out.push_str(&n.to_string()),
            Value::Float(n) => out.push_str(&float_text(*n)),
            Value::Text(text) => {
                meter.bytes(text.len())?;
                quoted(text, out);
            }
            Value::List(items) => sequence(out, "[", items, "]")?,
            Value::Tuple(items) => sequence(out, "(", items, if items.len() == 1 { ",)" } else { ")" })?,
            Value::View(kind, items) => {
                out.push_str(kind);
                sequence(out, "([", items, "])")?;
            }
            Value::Dict(dict) => {
                out.push('{');
                for (n, (key, value)) in dict.entries.iter().enumerate() {
                    out.push_str(if n > 0 { ", " } else { "" });
                    key.repr(out, meter)?;
                    out.push_str(": ");
                    value.repr(out, meter)?;
                }
                out.push('}');
            }
            Value::Range(start, stop, 1) => out.push_str(&format!("range({start}, {stop})")),
            Value::Range(start, stop, step) => out.push_str(&format!("range({start}, {stop}, {step})")),
            other => return Err(Fault::refused(format!("a {} as text", other.kind()))),
        }
        Ok(())
    }

    /// Python's `==`.
    pub(super) fn equals(&self, other: &Value, meter: &Meter) -> Res<bool> {
        meter.work(0)?;
        let all = |a: &[Value], b: &[Value]| -> Res<bool> {
            if a.len() != b.len() {
                return Ok(false);
            }
            for (a, b) in a.iter().zip(b) {
                if !a.equals(b, meter)? {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        Ok(match (self, other) {
            (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
            (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => all(a, b)?,
            (Value::Dict(a), Value::Dict(b)) => {
                if a.entries.len() != b.entries.len() {
                    return Ok(false);
                }
                for (key, value) in &a.entries {
                    match b.get(&key.key(meter)?) {
                        Some(other) if value.equals(other, meter)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            (Value::Range(..), Value::Range(..)) | (Value::View(..), Value::View(..)) => {
                return Err(Fault::refused(format!("`==` between two {}", self.kind())));
            }
            (Value::Generator(a), Value::Generator(b)) => Rc::ptr_eq(a, b),
            (Value::Namespace(a), Value::Namespace(b)) => Rc::ptr_eq(a, b),
            (Value::Macro(a), Value::Macro(b)) => Rc::ptr_eq(a, b),
            (Value::Function(a), Value::Function(b)) => a == b,
            (Value::Int(a), Value::Int(b)) => a == b,
            _ => match (self.as_text(), other.as_text()) {
                (Some(a), Some(b)) => {
                    meter.work(a.len())?;
                    a == b
                }
                (None, None) => match (self.as_float(), other.as_float()) {
                    (Some(a), Some(b)) => a == b,
                    _ => false,
                },
                _ => false,
            },
        })
    }

    /// Python's `<` by a sign, for numbers, texts, and lists or tuples of them.
    pub(super) fn compare(&self, other: &Value, meter: &Meter) -> Res<Option<std::cmp::Ordering>> {
        meter.work(0)?;
        if let (Some(a), Some(b)) = (self.as_text(), other.as_text()) {
            meter.work(a.len().min(b.len()))?;
            return Ok(Some(a.cmp(b)));
        }
        if let (Some(a), Some(b)) = (self.as_int(), other.as_int()) {
            return Ok(Some(a.cmp(&b)));
        }
        if let (Some(a), Some(b)) = (self.as_float(), other.as_float()) {
            return Ok(a.partial_cmp(&b));
        }
        match (self, other) {
            (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
                for (a, b) in a.iter().zip(b.iter()) {
                    if !a.equals(b, meter)? {
                        return a.compare(b, meter);
                    }
                }
                Ok(Some(a.len().cmp(&b.len())))
            }
            (Value::Undefined(message), _) | (_, Value::Undefined(message)) => Err(Fault::failed(&**message)),
            _ => {
                let (a, b) = (self.kind(), other.kind());
                Err(Fault::failed(format!("a {a} and a {b} cannot be ordered")))
            }
        }
    }
}

/// A float as Python prints it: the shortest digits that give it again.
pub(super) fn float_text(n: f64) -> String {
    if n.is_nan() {
        return "nan".into();
    }
    if n.is_infinite() {
        return if n > 0.0 { "inf" } else { "-inf" }.into();
    }
    let shortest = format!("{n:e}");
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{n}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

/// A text as Python's `repr` writes it.
fn quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            _ if c == quote => {
                out.push('\\');
                out.push(c);
            }
            _ if is_printable(c) => out.push(c),
            _ => match u32::from(c) {
                n @ ..=0xff => out.push_str(&format!("\\x{n:02x}")),
                n @ ..=0xffff => out.push_str(&format!("\\u{n:04x}")),
                n => out.push_str(&format!("\\U{n:08x}")),
            },
        }
    }
    out.push(quote);
}

/// Characters of the Unicode category Cf, private use and noncharacters, by range: what Python escapes beside controls and
/// spaces.
const HIDDEN: &[(u32, u32)] = &[
    (0xad, 0xad),
    (0x600, 0x605),
    (0x61c, 0x61c),
    (0x6dd, 0x6dd),
    (0x70f, 0x70f),
    (0x890, 0x891),
    (0x8e2, 0x8e2),
    (0x180e, 0x180e),
    (0x200b, 0x200f),
    (0x202a, 0x202e),
    (0x2060, 0x206f),
    (0xe000, 0xf8ff),
    (0xfeff, 0xfeff),
    (0xfff0, 0xfffb),
    (0xfffe, 0xffff),
    (0x110bd, 0x110bd),
    (0x110cd, 0x110cd),
    (0x13430, 0x1343f),
    (0x1bca0, 0x1bca3),
    (0x1d173, 0x1d17a),
    (0xe0000, 0xe007f),
    (0xf0000, 0x10ffff),
];

fn is_printable(c: char) -> bool {
    let n = u32::from(c);
    c == ' '
        || !(c.is_control()
            || c.is_whitespace()
            || HIDDEN.iter().any(|&(first, last)| (first..=last).contains(&n)))
}
