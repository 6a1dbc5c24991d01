//! Tests: what stands behind `is`.

use super::engine::{Engine, Given};
use super::operators::contains;
use super::value::{Fault, Res, Value};
use std::cmp::Ordering::{Equal, Greater, Less};

/// Whether `value is name(…)`.
pub(super) fn apply(engine: &Engine<'_>, name: &str, value: &Value, given: Given) -> Res<bool> {
    let meter = &engine.meter;
    let other = |given: Given| -> Res<Value> {
        let [other] = given.bind(name, ["other"])?;
        other.ok_or_else(|| Fault::failed(format!("the test `{name}` needs an argument")))
    };
    let ordered = |given: Given, of: &[std::cmp::Ordering]| -> Res<bool> {
        let other = other(given)?;
        Ok(value.compare(&other, meter)?.is_some_and(|order| of.contains(&order)))
    };
    let text = || -> Res<_> { engine.text(value) };
    // What is left of a number divided by another, with the sign of that.
    let rest = |by: i128| match value {
        Value::Undefined(message) => Err(Fault::failed(&**message)),
        Value::Float(n) => Ok((*n).rem_euclid(by.unsigned_abs() as f64)),
        Value::Bool(_) | Value::Int(_) => {
            Ok(value.as_int().and_then(|n| n.checked_rem_euclid(by)).unwrap_or(0) as f64)
        }
        _ => Err(Fault::failed(format!("`{name}` needs a number, not a {}", value.kind()))),
    };
    match name {
        "eq" | "equalto" | "==" => return value.equals(&other(given)?, meter),
        "ne" | "!=" => return Ok(!value.equals(&other(given)?, meter)?),
        "lt" | "lessthan" | "<" => return ordered(given, &[Less]),
        "le" | "<=" => return ordered(given, &[Less, Equal]),
        "gt" | "greaterthan" | ">" => return ordered(given, &[Greater]),
        "ge" | ">=" => return ordered(given, &[Greater, Equal]),
        "in" => return contains(engine, &other(given)?, value),
        "divisibleby" => {
            return match other(given)?.as_int() {
                None | Some(0) => Err(Fault::failed("`divisibleby` needs a number that is not zero")),
                Some(by) => Ok(rest(by)? == 0.0),
            };
        }
        "sameas" => {
            let other = other(given)?;
            return match (value, &other) {
                (Value::None, Value::None) => Ok(true),
                (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
                (Value::None | Value::Bool(_), _) | (_, Value::None | Value::Bool(_)) => Ok(false),
                _ => Err(Fault::refused("`sameas` of two objects")),
            };
        }
        _ => given.none(name)?,
    }
    Ok(match name {
        "defined" => !matches!(value, Value::Undefined(_)),
        "undefined" => matches!(value, Value::Undefined(_)),
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => matches!(value, Value::Bool(_) | Value::Int(_) | Value::Float(_)),
        "string" => value.as_text().is_some(),
        "mapping" => matches!(value, Value::Dict(_)),
        "iterable" => matches!(
            value,
            Value::Undefined(_)
                | Value::Text(_)
                | Value::Markup(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Dict(_)
                | Value::Range(..)
                | Value::View(..)
                | Value::Generator(_)
                | Value::Loop(_)
        ),
        // What has a length and can be indexed, which an undefined value claims too.
        "sequence" => matches!(
            value,
            Value::Undefined(_)
                | Value::Text(_)
                | Value::Markup(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Dict(_)
                | Value::Range(..)
        ),
        "callable" => matches!(
            value,
            Value::Macro(_)
                | Value::Method(..)
                | Value::Function(_)
                | Value::Joiner(_)
                | Value::Loop(_)
                | Value::Undefined(_)
        ),
        "escaped" => matches!(value, Value::Markup(_)),
        "odd" => rest(2)? == 1.0,
        "even" => rest(2)? == 0.0,
        "lower" | "upper" => {
            let text = text()?;
            let cased = |c: char| c.is_uppercase() || c.is_lowercase();
            let wrong = |c: char| if name == "lower" { c.is_uppercase() } else { c.is_lowercase() };
            text.chars().any(cased) && !text.chars().any(wrong)
        }
        other => return Err(Fault::refused(format!("the unknown test `{other}`"))),
    })
}
