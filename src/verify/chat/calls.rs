//! Filters, tests and methods by their names: what of Jinja's and Python's is rendered, for which arguments.
//!
//! minijinja's own filters and the methods of its `pycompat` serve where they agree with Python on what they are given
//! here; the rest is written on `python`'s values. A name, an argument or a type that is not listed is refused.

mod filters;
mod methods;

use super::budget::{Budget, a, failed, is_object, refused};
use super::given::Given;
use super::objects::View;
use super::python::{self, text, text_of, whole};
pub(super) use filters::filter;
pub(super) use methods::method;
use minijinja::value::{Tuple, ValueKind};
use minijinja::{Error, Value};
use std::cmp::Ordering::{self, Equal, Greater, Less};

type Result<T> = std::result::Result<T, Error>;

fn truth(value: Option<Value>) -> bool {
    value.is_some_and(|value| value.is_true())
}

/// A text where there is one; `None` is as good as none.
fn text_argument(of: &str, value: Option<&Value>) -> Result<Option<String>> {
    match value {
        None => Ok(None),
        Some(value) if value.is_none() => Ok(None),
        Some(value) => match text_of(value) {
            Some(text) => Ok(Some(text.to_string())),
            None => Err(failed(format!("`{of}` takes a text, not {}", a(value)))),
        },
    }
}

/// What Python counts as white space.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn stripped(text: &str, chars: Option<&str>, left: bool, right: bool) -> String {
    let cut = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if left { text.trim_start_matches(cut) } else { text };
    if right { text.trim_end_matches(cut).into() } else { text.into() }
}

/// Lines as `splitlines` cuts them.
fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut start = 0;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let ends = matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        );
        if !ends {
            continue;
        }
        let mut end = at + c.len_utf8();
        if c == '\r' && chars.next_if(|(_, next)| *next == '\n').is_some() {
            end += 1;
        }
        lines.push(&text[start..if keep_ends { end } else { at }]);
        start = end;
    }
    if start < text.len() {
        lines.push(&text[start..]);
    }
    lines
}

/// `str.capitalize`; letters whose title case is neither themselves nor their upper case are refused.
fn capitalized(text: &str) -> Result<String> {
    let lower = text.to_lowercase();
    let Some(first) = lower.chars().next() else { return Ok(lower) };
    let mut upper = first.to_uppercase();
    // Behind them letters begin that have three cases, or of which one becomes several.
    let known = u32::from(first) < 0x1c4 && text.chars().next().is_some_and(|c| u32::from(c) < 0x1c4)
        || (0x391..=0x52f).contains(&u32::from(first));
    match (upper.next(), upper.next()) {
        (Some(one), None) if known || one == first && !first.is_alphabetic() => {
            Ok(one.to_string() + lower.get(first.len_utf8()..).unwrap_or_default())
        }
        _ => Err(refused(format!("the title case of `{first}`"))),
    }
}

fn ascii_only(text: &str, of: &str) -> Result<()> {
    match text.is_ascii() {
        true => Ok(()),
        false => Err(refused(format!("`{of}` of a text beyond ASCII"))),
    }
}

/// `value` with every `old` replaced, for the first `count` where it is not negative.
fn replaced(budget: &Budget, text: &str, old: &str, new: &str, count: i128) -> Result<Value> {
    let most = usize::try_from(count).unwrap_or(usize::MAX);
    let found = text.matches(old).count().min(most);
    budget.bytes(text.len().saturating_add(found.saturating_mul(new.len())))?;
    Ok(Value::from(text.replacen(old, new, most)))
}

/// `value is name(…)`
pub(super) fn test(budget: &Budget, name: &str, value: &Value, given: Given) -> Result<bool> {
    use ValueKind::{Bool, Iterable, Map, Number as Num, Plain, Seq, String as Text, Undefined};
    let kind = value.kind();
    let (argument, rest) = given.split();
    let lacks = || failed(format!("the test `{name}` needs a value"));
    let ordered = |of: &[Ordering]| -> Result<bool> {
        let order = python::order(budget, value, argument.as_ref().ok_or_else(lacks)?)?;
        Ok(order.is_some_and(|order| of.contains(&order)))
    };
    rest.none(name)?;
    let compares = matches!(
        name,
        "eq" | "equalto"
            | "=="
            | "ne"
            | "!="
            | "lt"
            | "lessthan"
            | "<"
            | "le"
            | "<="
            | "gt"
            | "greaterthan"
            | ">"
            | "ge"
            | ">="
            | "in"
            | "divisibleby"
            | "sameas"
    );
    if !compares && argument.is_some() {
        return Err(failed(format!("the test `{name}` takes no value")));
    }
    Ok(match name {
        "eq" | "equalto" | "==" => python::equal(budget, value, &argument.ok_or_else(lacks)?)?,
        "ne" | "!=" => !python::equal(budget, value, &argument.ok_or_else(lacks)?)?,
        "lt" | "lessthan" | "<" => ordered(&[Less])?,
        "le" | "<=" => ordered(&[Less, Equal])?,
        "gt" | "greaterthan" | ">" => ordered(&[Greater])?,
        "ge" | ">=" => ordered(&[Greater, Equal])?,
        "in" => python::contains(budget, &argument.ok_or_else(lacks)?, value)?,
        "divisibleby" => match (whole(value), whole(&argument.ok_or_else(lacks)?)) {
            (_, Some(0)) => return Err(failed("`divisibleby` zero")),
            (Some(n), Some(by)) => n.checked_rem(by) == Some(0),
            _ => return Err(refused("`divisibleby` of what is no whole number")),
        },
        "odd" | "even" => match whole(value) {
            Some(n) => (n.rem_euclid(2) == 0) == (name == "even"),
            None => return Err(refused(format!("`{name}` of {}", a(value)))),
        },
        "sameas" => {
            let other = argument.ok_or_else(lacks)?;
            match (kind, other.kind()) {
                (Bool, Bool) => value.is_true() == other.is_true(),
                (ValueKind::None, ValueKind::None) => true,
                (ValueKind::None | Bool, _) | (_, ValueKind::None | Bool) => false,
                _ => return Err(refused("`sameas` of two objects")),
            }
        }
        "defined" => kind != Undefined,
        "undefined" => kind == Undefined,
        "none" => kind == ValueKind::None,
        "boolean" => kind == Bool,
        "true" => kind == Bool && value.is_true(),
        "false" => kind == Bool && !value.is_true(),
        "number" => matches!(kind, Num | Bool),
        "integer" => kind == Num && value.is_integer(),
        "float" => kind == Num && !value.is_integer(),
        "string" => kind == Text,
        "mapping" => kind == Map && !is_object(value),
        "iterable" => matches!(kind, Text | Seq | Iterable | Undefined) || kind == Map && !is_object(value),
        "sequence" => match kind {
            Iterable | Plain => return Err(refused(format!("`sequence` of {}", a(value)))),
            _ => matches!(kind, Text | Seq | Undefined) || kind == Map && !is_object(value),
        },
        "callable" => match is_object(value) {
            true => return Err(refused("`callable` of an object")),
            false => matches!(kind, Undefined | Plain),
        },
        // Nothing is marked as escaped here.
        "escaped" => false,
        "lower" | "upper" => {
            let text = text(budget, value)?;
            let (lower, upper) = (text.chars().any(char::is_lowercase), text.chars().any(char::is_uppercase));
            if name == "lower" { lower && !upper } else { upper && !lower }
        }
        _ => return Err(refused(format!("the test `{name}`"))),
    })
}

/// Key and value of each entry.
fn pairs(budget: &Budget, map: &Value) -> Result<Vec<Value>> {
    budget.entries(map.len().unwrap_or(0).saturating_mul(4))?;
    map.try_iter()?.map(|key| Ok(Value::from(Tuple::from([key.clone(), map.get_item(&key)?])))).collect()
}

/// A mapping's view.
fn view_of(text: &str, values: Vec<Value>) -> Value {
    Value::from_object(View { text: text.into(), is_listed: true, values })
}

/// A text in the middle, at the left or at the right of a field, as Python's `center`, `ljust` and `rjust` put it.
fn padded(budget: &Budget, text: &str, width: &Value, filler: char, of: &str) -> Result<String> {
    let width = whole(width).ok_or_else(|| failed(format!("the width of `{of}` is no whole number")))?;
    let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
    let missing = width.saturating_sub(text.chars().count());
    budget.bytes(missing.saturating_mul(filler.len_utf8()).saturating_add(text.len()))?;
    let left = match of {
        "ljust" => 0,
        "rjust" => missing,
        _ => missing / 2 + (missing & width & 1),
    };
    let fill = |count: usize| std::iter::repeat_n(filler, count);
    Ok(fill(left).chain(text.chars()).chain(fill(missing - left)).collect())
}
