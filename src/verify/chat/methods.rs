//! Methods of texts, mappings and lists, as Python has them.

pub(super) mod texts;

use super::engine::{Engine, Given};
use super::value::{Fault, Res, Value};
use std::rc::Rc;

/// Methods that are rendered, by the type that has them.
const TEXT: &[&str] = &[
    "strip",
    "lstrip",
    "rstrip",
    "split",
    "rsplit",
    "splitlines",
    "startswith",
    "endswith",
    "upper",
    "lower",
    "title",
    "capitalize",
    "swapcase",
    "replace",
    "join",
    "find",
    "rfind",
    "index",
    "rindex",
    "count",
    "isdigit",
    "isalpha",
    "isalnum",
    "isspace",
    "isupper",
    "islower",
    "isnumeric",
    "isdecimal",
    "isascii",
    "zfill",
    "center",
    "ljust",
    "rjust",
    "removeprefix",
    "removesuffix",
    "partition",
    "rpartition",
    "format",
    "casefold",
];
const DICT: &[&str] = &["get", "items", "keys", "values", "copy"];
const LIST: &[&str] = &["count", "index", "copy"];
const TUPLE: &[&str] = &["count", "index"];
const LOOP: &[&str] = &["cycle", "changed"];
const CYCLER: &[&str] = &["next", "reset", "current"];

/// Methods and attributes that Python's types have, and that are not rendered: most of them change a value, which the
/// sandbox does not let them.
const REFUSED_TEXT: &[&str] = &[
    "encode",
    "expandtabs",
    "format_map",
    "isidentifier",
    "isprintable",
    "istitle",
    "maketrans",
    "translate",
];
const REFUSED_DICT: &[&str] = &["clear", "fromkeys", "pop", "popitem", "setdefault", "update"];
const REFUSED_LIST: &[&str] = &["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"];
const REFUSED_INT: &[&str] = &[
    "as_integer_ratio",
    "bit_count",
    "bit_length",
    "conjugate",
    "denominator",
    "from_bytes",
    "imag",
    "numerator",
    "real",
    "to_bytes",
    "fromhex",
    "hex",
    "is_integer",
];
const REFUSED_RANGE: &[&str] = &["count", "index", "start", "step", "stop"];
const REFUSED_VIEW: &[&str] = &["isdisjoint", "mapping"];
const REFUSED_GENERATOR: &[&str] =
    &["close", "gi_code", "gi_frame", "gi_running", "gi_yieldfrom", "send", "throw"];

/// Whether a value has a method of this name; refused where Python has one that is not rendered.
pub(super) fn has(value: &Value, name: &str) -> Res<bool> {
    let none: &[&str] = &[];
    let (known, refused) = match value {
        Value::Text(_) => (TEXT, REFUSED_TEXT),
        Value::Markup(_) => (none, TEXT),
        Value::Dict(_) => (DICT, REFUSED_DICT),
        Value::List(_) => (LIST, REFUSED_LIST),
        Value::Tuple(_) => (TUPLE, none),
        Value::Loop(_) => (LOOP, none),
        Value::Cycler(_) => (CYCLER, none),
        Value::Bool(_) | Value::Int(_) | Value::Float(_) => (none, REFUSED_INT),
        Value::Range(..) => (none, REFUSED_RANGE),
        Value::View(..) => (none, REFUSED_VIEW),
        Value::Generator(_) => (none, REFUSED_GENERATOR),
        _ => (none, none),
    };
    match refused.contains(&name) {
        true => Err(Fault::refused(format!("the method `{name}` of a {}", value.kind()))),
        false => Ok(known.contains(&name)),
    }
}

/// `value.name(…)`
pub(super) fn call(engine: &Engine<'_>, value: &Value, name: &str, given: Given) -> Res<Value> {
    match value {
        Value::Text(text) => texts::call(engine, text, name, given),
        Value::Dict(dict) => {
            let entries = dict.entries();
            engine.bytes(if name == "get" { 0 } else { 2 * size_of_val(entries) })?;
            if name == "get" {
                let [key, default] = given.bind(name, ["key", "default"])?;
                let Some(key) = key else { return Err(Fault::failed("`get` needs a key")) };
                let found = dict.get(&key.key(&engine.meter)?).cloned();
                return Ok(found.or(default).unwrap_or(Value::None));
            }
            given.none(name)?;
            Ok(match name {
                "items" => {
                    let pair = |(key, value): &(Value, Value)| Value::tuple(vec![key.clone(), value.clone()]);
                    Value::view("dict_items", entries.iter().map(pair).collect())
                }
                "keys" => Value::view("dict_keys", entries.iter().map(|(key, _)| key.clone()).collect()),
                "values" => {
                    Value::view("dict_values", entries.iter().map(|(_, value)| value.clone()).collect())
                }
                _ => Value::Dict(dict.clone()),
            })
        }
        Value::List(items) | Value::Tuple(items) => {
            if name == "copy" {
                given.none(name)?;
                return Ok(value.clone());
            }
            let [wanted] = given.bind(name, ["value"])?;
            let Some(wanted) = wanted else { return Err(Fault::failed(format!("`{name}` needs a value"))) };
            let mut places = Vec::new();
            for (at, item) in items.iter().enumerate() {
                if item.equals(&wanted, &engine.meter)? {
                    places.push(at);
                }
            }
            match (name, places.first()) {
                ("count", _) => Ok(Value::count(places.len())),
                (_, Some(first)) => Ok(Value::count(*first)),
                (_, None) => Err(Fault::failed("`index` of what is not there")),
            }
        }
        Value::Loop(state) if name == "cycle" => state.cycle(&given.positional),
        Value::Loop(state) => state.changed(&given.positional, &engine.meter),
        Value::Cycler(cycler) => {
            given.none(name)?;
            let (items, at) = &**cycler;
            let current = items.get(at.get()).cloned().unwrap_or(Value::None);
            match name {
                "next" => at.set((at.get() + 1) % items.len().max(1)),
                "reset" => {
                    at.set(0);
                    return Ok(Value::None);
                }
                _ => return Err(Fault::refused("`cycler.current` as a call")),
            }
            Ok(current)
        }
        other => Err(Fault::refused(format!("the method `{name}` of a {}", other.kind()))),
    }
}

/// A text argument of a method.
fn text_of(value: Option<Value>, what: &str) -> Res<Option<Rc<str>>> {
    match value {
        None | Some(Value::None) => Ok(None),
        Some(Value::Text(text)) => Ok(Some(text)),
        Some(Value::Undefined(message)) => Err(Fault::failed(&*message)),
        Some(Value::Markup(_)) => Err(Fault::refused("a method given text that `safe` marked")),
        Some(other) => Err(Fault::failed(format!("`{what}` needs a text, not a {}", other.kind()))),
    }
}
