//! Python's values: their text, their order, and what operators make of them.
//!
//! minijinja's values behave as Rust's do: any two have an order, `1e22` prints with all its zeros, and a list that two
//! lists make is computed at each use. Here each operator takes the types that Python's takes, and what it makes is whole.

pub(super) mod printf;

use super::budget::{Budget, a, failed, is_object, refused};
use super::objects::{Method, View};
use minijinja::value::{Tuple, ValueKind};
use minijinja::{Error, Value};
use std::cmp::Ordering;

type Result<T> = std::result::Result<T, Error>;

/// A number; truth values are numbers too.
#[derive(Debug, Clone, Copy)]
pub(super) enum Number {
    Int(i128),
    Float(f64),
}

impl Number {
    pub(super) fn of(value: &Value) -> Option<Number> {
        match value.kind() {
            ValueKind::Bool => Some(Number::Int(i128::from(value.is_true()))),
            ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok().map(Number::Int),
            ValueKind::Number => f64::try_from(value.clone()).ok().map(Number::Float),
            _ => None,
        }
    }

    pub(super) fn float(self) -> f64 {
        match self {
            Number::Int(n) => n as f64,
            Number::Float(n) => n,
        }
    }

    fn compare(self, other: Number) -> Option<Ordering> {
        match (self, other) {
            (Number::Int(a), Number::Int(b)) => Some(a.cmp(&b)),
            (a, b) => a.float().partial_cmp(&b.float()),
        }
    }
}

/// A whole number as a value.
pub(super) fn int(n: i128) -> Value {
    i64::try_from(n).map_or_else(|_| Value::from(n), Value::from)
}

/// A whole number, of a value that is one.
pub(super) fn whole(value: &Value) -> Option<i128> {
    match Number::of(value) {
        Some(Number::Int(n)) => Some(n),
        _ => None,
    }
}

/// A text, of a value that is one.
pub(super) fn text_of(value: &Value) -> Option<&str> {
    value.as_str()
}

/// `str(value)`.
pub(super) fn text(budget: &Budget, value: &Value) -> Result<String> {
    let mut out = String::new();
    match value.kind() {
        ValueKind::Undefined => {}
        ValueKind::String => {
            let text = text_of(value).unwrap_or_default();
            budget.bytes(text.len())?;
            out.push_str(text);
        }
        _ => repr(budget, value, &mut out)?,
    }
    Ok(out)
}

/// `repr(value)`, at the end of a text.
pub(super) fn repr(budget: &Budget, value: &Value, out: &mut String) -> Result<()> {
    budget.bytes(8)?;
    budget.steps(1)?;
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => match Number::of(value) {
            Some(Number::Int(n)) => out.push_str(&n.to_string()),
            Some(Number::Float(n)) => out.push_str(&float_text(n)),
            None => return Err(refused("a number with more than 128 bits")),
        },
        ValueKind::String => {
            let text = text_of(value).unwrap_or_default();
            budget.bytes(text.len())?;
            quoted(text, out);
        }
        ValueKind::Seq => {
            let (open, close) = if value.is_tuple() { ('(', ')') } else { ('[', ']') };
            out.push(open);
            let mut count = 0;
            for item in value.try_iter()? {
                out.push_str(if count > 0 { ", " } else { "" });
                repr(budget, &item, out)?;
                count += 1;
            }
            out.push_str(if value.is_tuple() && count == 1 { "," } else { "" });
            out.push(close);
        }
        ValueKind::Map if !is_object(value) => {
            out.push('{');
            for (n, key) in value.try_iter()?.enumerate() {
                out.push_str(if n > 0 { ", " } else { "" });
                repr(budget, &key, out)?;
                out.push_str(": ");
                repr(budget, &value.get_item(&key)?, out)?;
            }
            out.push('}');
        }
        _ => {
            let Some(view) = value.downcast_object_ref::<View>() else {
                return Err(refused(format!("{} as text", a(value))));
            };
            out.push_str(&view.text);
            if view.is_listed {
                out.push('(');
                repr(budget, &list(view.values.clone()), out)?;
                out.push(')');
            }
        }
    }
    Ok(())
}

/// A float as Python writes it: the shortest digits that read back, with an exponent from 1e16 on.
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

/// `a == b`
pub(super) fn equal(budget: &Budget, a: &Value, b: &Value) -> Result<bool> {
    budget.steps(1)?;
    if let (Some(a), Some(b)) = (Number::of(a), Number::of(b)) {
        return Ok(a.compare(b) == Some(Ordering::Equal));
    }
    if let (Some(a), Some(b)) = (text_of(a), text_of(b)) {
        budget.steps(a.len().min(b.len()) / 64)?;
        return Ok(a == b);
    }
    match (a.kind(), b.kind()) {
        (ValueKind::Undefined, ValueKind::Undefined) | (ValueKind::None, ValueKind::None) => Ok(true),
        (ValueKind::Seq, ValueKind::Seq) => {
            if a.is_tuple() != b.is_tuple() || a.len() != b.len() {
                return Ok(false);
            }
            for (a, b) in a.try_iter()?.zip(b.try_iter()?) {
                if !equal(budget, &a, &b)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (ValueKind::Map, ValueKind::Map) if !is_object(a) && !is_object(b) => {
            if a.len() != b.len() {
                return Ok(false);
            }
            for key in a.try_iter()? {
                match entry(budget, b, &key)? {
                    Some(of_b) if equal(budget, &a.get_item(&key)?, &of_b)? => {}
                    _ => return Ok(false),
                }
            }
            Ok(true)
        }
        (of_a, of_b) => {
            let opaque = |kind| matches!(kind, ValueKind::Iterable | ValueKind::Plain | ValueKind::Map);
            match opaque(of_a) && opaque(of_b) {
                true => {
                    Err(refused(format!("{} compared with {}", super::budget::a(a), super::budget::a(b))))
                }
                false => Ok(false),
            }
        }
    }
}

/// The order of two values; `None` where one is no number.
pub(super) fn order(budget: &Budget, x: &Value, y: &Value) -> Result<Option<Ordering>> {
    budget.steps(1)?;
    if let (Some(x), Some(y)) = (Number::of(x), Number::of(y)) {
        return Ok(x.compare(y));
    }
    if let (Some(x), Some(y)) = (text_of(x), text_of(y)) {
        budget.steps(x.len().min(y.len()) / 64)?;
        return Ok(Some(x.cmp(y)));
    }
    if (x.kind(), y.kind()) == (ValueKind::Seq, ValueKind::Seq) && x.is_tuple() == y.is_tuple() {
        for (x, y) in x.try_iter()?.zip(y.try_iter()?) {
            if !equal(budget, &x, &y)? {
                return order(budget, &x, &y);
            }
        }
        return Ok(Some(x.len().cmp(&y.len())));
    }
    Err(failed(format!("{} and {} have no order", a(x), a(y))))
}

/// `map[key]`, where there is one.
pub(super) fn entry(budget: &Budget, map: &Value, key: &Value) -> Result<Option<Value>> {
    if text_of(key).is_some() {
        return Ok(map.as_object().and_then(|object| object.get_value(key)));
    }
    for known in map.try_iter()? {
        if text_of(&known).is_none() && equal(budget, &known, key)? {
            return map.get_item(&known).map(Some);
        }
    }
    Ok(None)
}

/// Whether Python takes a value as a key.
fn is_key(budget: &Budget, value: &Value) -> Result<bool> {
    budget.steps(1)?;
    match value.kind() {
        ValueKind::Seq if value.is_tuple() => {
            value.try_iter()?.try_fold(true, |all, item| Ok(all && is_key(budget, &item)?))
        }
        ValueKind::Seq | ValueKind::Map => Ok(false),
        _ => Ok(true),
    }
}

/// `item in container`
pub(super) fn contains(budget: &Budget, container: &Value, item: &Value) -> Result<bool> {
    match container.kind() {
        ValueKind::String => {
            let (Some(text), Some(part)) = (text_of(container), text_of(item)) else {
                return Err(failed(format!("{} cannot be in a text", a(item))));
            };
            budget.steps(text.len() / 64)?;
            Ok(text.contains(part))
        }
        ValueKind::Undefined => Ok(false),
        ValueKind::Map if !is_object(container) => {
            if !is_key(budget, item)? {
                return Err(failed(format!("{} is no key", a(item))));
            }
            Ok(entry(budget, container, item)?.is_some())
        }
        ValueKind::Seq => {
            for known in container.try_iter()? {
                if equal(budget, &known, item)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        // One that can be walked only once is used up by the search, up to where it ends.
        ValueKind::Iterable if container.len().is_some() => {
            let mut items = container.try_iter()?;
            items.try_fold(false, |found, known| Ok(found || equal(budget, &known, item)?))
        }
        ValueKind::Iterable => Err(refused("`in` an iterator")),
        _ => Err(failed(format!("nothing can be in {}", a(container)))),
    }
}

/// The items that a loop over a value meets.
pub(super) fn items(budget: &Budget, value: &Value) -> Result<Vec<Value>> {
    let count = match value.kind() {
        ValueKind::Undefined => return Ok(Vec::new()),
        ValueKind::String => text_of(value).unwrap_or_default().len(),
        ValueKind::Seq | ValueKind::Iterable => value.len().unwrap_or(0),
        ValueKind::Map if !is_object(value) => value.len().unwrap_or(0),
        _ => return Err(failed(format!("{} has no items", a(value)))),
    };
    budget.entries(count)?;
    match text_of(value) {
        Some(text) => Ok(text.chars().map(Value::from).collect()),
        None => Ok(value.try_iter()?.collect()),
    }
}

/// A list of values, as they are counted.
pub(super) fn list(values: Vec<Value>) -> Value {
    Value::from_object(values)
}

/// What can be walked once, as Python's generators.
pub(super) fn generator(values: Vec<Value>) -> Value {
    Value::make_one_shot_iterator(values.into_iter())
}

/// `a + b`, `a * b` and so on.
pub(super) fn arithmetic(budget: &Budget, op: &str, x: &Value, y: &Value) -> Result<Value> {
    if let (Some(x), Some(y)) = (Number::of(x), Number::of(y)) {
        return of_numbers(op, x, y);
    }
    let both = |kind: ValueKind| x.kind() == kind && y.kind() == kind;
    match op {
        "+" if both(ValueKind::String) => join(budget, text_of(x), text_of(y)),
        "+" if both(ValueKind::Seq) && x.is_tuple() == y.is_tuple() => {
            budget.entries(x.len().unwrap_or(0).saturating_add(y.len().unwrap_or(0)))?;
            let values: Vec<Value> = x.try_iter()?.chain(y.try_iter()?).collect();
            Ok(like(x, values))
        }
        "*" => match (whole(x), whole(y)) {
            (None, Some(times)) => repeated(budget, x, times),
            (Some(times), None) => repeated(budget, y, times),
            _ => Err(mismatch(op, x, y)),
        },
        "%" if x.kind() == ValueKind::String => {
            let args = match y.is_tuple() {
                true => y.try_iter()?.collect(),
                false => vec![y.clone()],
            };
            // Of what has items, Python does not ask that all are used.
            let all =
                y.is_tuple() || !matches!(y.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Undefined);
            printf::format(budget, text_of(x).unwrap_or_default(), &args, all).map(Value::from)
        }
        _ => Err(mismatch(op, x, y)),
    }
}

fn mismatch(op: &str, x: &Value, y: &Value) -> Error {
    if [x, y].iter().any(|value| value.kind() == ValueKind::Number && Number::of(value).is_none()) {
        return refused("a number with more than 128 bits");
    }
    failed(format!("`{op}` between {} and {}", a(x), a(y)))
}

fn join(budget: &Budget, x: Option<&str>, y: Option<&str>) -> Result<Value> {
    let (x, y) = (x.unwrap_or_default(), y.unwrap_or_default());
    budget.bytes(x.len().saturating_add(y.len()))?;
    Ok(Value::from([x, y].concat()))
}

/// A list or a tuple, as another one is.
fn like(of: &Value, values: Vec<Value>) -> Value {
    match of.is_tuple() {
        true => Value::from(Tuple::from(values)),
        false => list(values),
    }
}

fn repeated(budget: &Budget, value: &Value, times: i128) -> Result<Value> {
    let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
    match value.kind() {
        ValueKind::String => {
            let text = text_of(value).unwrap_or_default();
            budget.bytes(text.len().saturating_mul(times))?;
            // An empty text has no length to hold it down.
            Ok(Value::from(if text.is_empty() { String::new() } else { text.repeat(times) }))
        }
        ValueKind::Seq => {
            let values: Vec<Value> = value.try_iter()?.collect();
            budget.entries(values.len().saturating_mul(times))?;
            let times = if values.is_empty() { 0 } else { times };
            let all = std::iter::repeat_n(&values, times).flatten().cloned().collect();
            Ok(like(value, all))
        }
        _ => Err(failed(format!("{} cannot be repeated", a(value)))),
    }
}

fn of_numbers(op: &str, x: Number, y: Number) -> Result<Value> {
    let too_large = || refused("a number with more than 128 bits");
    let by_zero = || failed("a division by zero");
    if let (Number::Int(x), Number::Int(y)) = (x, y) {
        let (quotient, remainder) = match (op, y) {
            ("//" | "%", 0) => return Err(by_zero()),
            ("//" | "%", _) => {
                let (q, r) = (x.checked_div(y).ok_or_else(too_large)?, x.checked_rem(y).unwrap_or(0));
                // Python rounds down.
                if r != 0 && (r < 0) != (y < 0) { (q - 1, r + y) } else { (q, r) }
            }
            _ => (0, 0),
        };
        let made = match op {
            "+" => x.checked_add(y),
            "-" => x.checked_sub(y),
            "*" => x.checked_mul(y),
            "//" => Some(quotient),
            "%" => Some(remainder),
            "**" if y >= 0 => u32::try_from(y).ok().and_then(|y| x.checked_pow(y)),
            _ => return of_floats(op, x as f64, y as f64),
        };
        return made.map(int).ok_or_else(too_large);
    }
    of_floats(op, x.float(), y.float())
}

fn of_floats(op: &str, x: f64, y: f64) -> Result<Value> {
    let divides = matches!(op, "/" | "//" | "%");
    if y == 0.0 && divides || op == "**" && x == 0.0 && y < 0.0 {
        return Err(failed("a division by zero"));
    }
    Ok(Value::from(match op {
        "+" => x + y,
        "-" => x - y,
        "*" => x * y,
        "/" => x / y,
        "**" => {
            let made = x.powf(y);
            if made.is_nan() || made.is_infinite() {
                return Err(refused("`**` without a finite real result"));
            }
            made
        }
        _ => return Err(refused(format!("`{op}` between fractions"))),
    }))
}

/// `-x`
pub(super) fn negated(value: &Value) -> Result<Value> {
    match Number::of(value) {
        Some(Number::Int(n)) => {
            n.checked_neg().map(int).ok_or_else(|| refused("a number with more than 128 bits"))
        }
        Some(Number::Float(n)) => Ok(Value::from(-n)),
        None if value.kind() == ValueKind::Number => Err(refused("a number with more than 128 bits")),
        None => Err(failed(format!("a sign before {}", a(value)))),
    }
}

/// `x ~ y`
pub(super) fn concatenated(budget: &Budget, x: &Value, y: &Value) -> Result<Value> {
    if let (Some(x), Some(y)) = (text_of(x), text_of(y)) {
        return join(budget, Some(x), Some(y));
    }
    let (x, y) = (text(budget, x)?, text(budget, y)?);
    join(budget, Some(&x), Some(&y))
}

/// `value[start:stop:step]`
pub(super) fn sliced(budget: &Budget, value: &Value, bounds: [&Value; 3]) -> Result<Value> {
    if !matches!(value.kind(), ValueKind::String | ValueKind::Seq) {
        return Err(match value.kind() {
            ValueKind::Iterable => refused("a part of an iterator"),
            _ => failed(format!("a part of {}", a(value))),
        });
    }
    let mut numbers = [None; 3];
    for (number, bound) in numbers.iter_mut().zip(bounds) {
        *number = match bound.kind() {
            ValueKind::None => None,
            // Far outside is outside.
            _ => match whole(bound) {
                Some(n) => Some(n.clamp(-(1 << 62), 1 << 62)),
                None => return Err(refused(format!("a part from or to {}", a(bound)))),
            },
        };
    }
    let [start, stop, step] = numbers;
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(failed("a part in steps of 0"));
    }
    let values = match value.kind() {
        // A part without gaps needs no list of characters.
        ValueKind::String if step == 1 => Vec::new(),
        _ => items(budget, value)?,
    };
    let count = match text_of(value) {
        Some(text) => text.chars().count() as i128,
        None => values.len() as i128,
    };
    let (lowest, highest) = if step > 0 { (0, count) } else { (-1, count - 1) };
    let at = |bound: Option<i128>, default: i128| match bound {
        None => default,
        Some(n) if n < 0 => (n + count).clamp(lowest, highest),
        Some(n) => n.clamp(lowest, highest),
    };
    let (first, last) = if step > 0 { (lowest, highest) } else { (highest, lowest) };
    let (mut index, stop) = (at(start, first), at(stop, last));
    if let (Some(text), 1) = (text_of(value), step) {
        budget.bytes(text.len())?;
        let skipped = usize::try_from(index).unwrap_or(usize::MAX);
        let taken = usize::try_from(stop - index).unwrap_or(0);
        return Ok(Value::from(text.chars().skip(skipped).take(taken).collect::<String>()));
    }
    let mut kept = Vec::new();
    while (step > 0 && index < stop) || (step < 0 && index > stop) {
        if let Some(value) = usize::try_from(index).ok().and_then(|index| values.get(index)) {
            kept.push(value.clone());
        }
        index += step;
    }
    match value.kind() {
        ValueKind::String => {
            budget.bytes(text_of(value).unwrap_or_default().len())?;
            Ok(Value::from(kept.iter().filter_map(text_of).collect::<String>()))
        }
        _ => Ok(like(value, kept)),
    }
}

/// Names of methods and attributes that values have in Python: asked for without a call, they would be objects there.
const TEXT_NAMES: &[&str] = &[
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];
const MAP_NAMES: &[&str] = &[
    "clear",
    "copy",
    "fromkeys",
    "get",
    "items",
    "keys",
    "pop",
    "popitem",
    "setdefault",
    "update",
    "values",
];
const LIST_NAMES: &[&str] =
    &["append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort"];
const NUMBER_NAMES: &[&str] = &[
    "as_integer_ratio",
    "bit_count",
    "bit_length",
    "conjugate",
    "denominator",
    "from_bytes",
    "from_number",
    "fromhex",
    "hex",
    "imag",
    "is_integer",
    "numerator",
    "real",
    "to_bytes",
];

/// Whether Python finds a name at the value itself.
pub(super) fn is_member(value: &Value, name: &str) -> bool {
    let known: &[&str] = match value.kind() {
        ValueKind::String => TEXT_NAMES,
        ValueKind::Map if !is_object(value) => MAP_NAMES,
        ValueKind::Seq => LIST_NAMES,
        ValueKind::Number | ValueKind::Bool => NUMBER_NAMES,
        _ => &[],
    };
    known.contains(&name)
}

/// What a name that a value has no entry for stands for: a method, nothing, or what is refused.
fn member(value: &Value, name: &str) -> Result<Value> {
    if name.starts_with("__") {
        return Err(refused("an attribute of Python's internals"));
    }
    match value.kind() {
        ValueKind::Iterable => Err(refused(format!("the attribute `{name}` of an iterator"))),
        // Some of these are no methods.
        ValueKind::Number | ValueKind::Bool if is_member(value, name) => {
            Err(refused(format!("`{name}` of {} without a call", a(value))))
        }
        _ if is_member(value, name) => Ok(Value::from_object(Method)),
        _ => Ok(Value::UNDEFINED),
    }
}

/// `value.name`
pub(super) fn attribute(value: &Value, name: &str) -> Result<Value> {
    let member = member(value, name)?;
    match value.kind() {
        ValueKind::Undefined => Err(failed(format!("`{name}` of an undefined value"))),
        _ if !member.is_undefined() => Ok(member),
        ValueKind::Map | ValueKind::Plain => value.get_attr(name),
        _ => Ok(Value::UNDEFINED),
    }
}

/// `value[key]`
pub(super) fn item(budget: &Budget, value: &Value, key: &Value) -> Result<Value> {
    let found = match value.kind() {
        ValueKind::Undefined => return Err(failed("an item of an undefined value")),
        ValueKind::Map if !is_object(value) => match key.kind() {
            ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => None,
            _ => entry(budget, value, key)?,
        },
        ValueKind::Seq | ValueKind::String => match whole(key) {
            Some(index) => {
                let count = match text_of(value) {
                    Some(text) => {
                        budget.steps(text.len() / 16)?;
                        text.chars().count()
                    }
                    None => value.len().unwrap_or(0),
                };
                let index = if index < 0 { index.checked_add(count as i128) } else { Some(index) };
                index.and_then(|index| usize::try_from(index).ok()).filter(|index| *index < count).and_then(
                    |index| match text_of(value) {
                        Some(text) => text.chars().nth(index).map(Value::from),
                        None => value.get_item_by_index(index).ok(),
                    },
                )
            }
            None => None,
        },
        ValueKind::Iterable => return Err(refused("an item of an iterator")),
        ValueKind::Plain if value.downcast_object_ref::<Method>().is_some() => None,
        ValueKind::Map | ValueKind::Plain => return Err(refused(format!("an item of {}", a(value)))),
        _ => None,
    };
    match (found, text_of(key)) {
        (Some(found), _) => Ok(found),
        (None, Some(name)) => member(value, name),
        (None, None) => Ok(Value::UNDEFINED),
    }
}
