//! Operators as Python has them: whole numbers that divide downwards, texts and lists that add and repeat, `%` that formats.

use super::ast::Binary;
use super::engine::Engine;
use super::format;
use super::value::{Fault, Res, Value};

/// `+x`, `-x`
pub(super) fn sign(value: &Value, negative: bool) -> Res<Value> {
    match value {
        Value::Undefined(message) => Err(Fault::failed(&**message)),
        Value::Float(n) => Ok(Value::Float(if negative { -n } else { *n })),
        other => match other.as_int() {
            Some(n) if negative => whole(n.checked_neg()),
            Some(n) => Ok(Value::Int(n)),
            None => Err(Fault::failed(format!("a {} has no sign", other.kind()))),
        },
    }
}

/// A whole number, if it fits.
fn whole(n: Option<i128>) -> Res<Value> {
    n.map(Value::Int).ok_or_else(|| Fault::refused("a whole number of more than 127 bits"))
}

/// `left operator right`
pub(super) fn binary(engine: &Engine<'_>, operator: Binary, left: &Value, right: &Value) -> Res<Value> {
    if let Value::Undefined(message) = left {
        return Err(Fault::failed(&**message));
    }
    // A text formats an undefined value as an empty one.
    if let (Binary::Mod, Value::Text(text)) = (operator, left) {
        return Ok(format::percent(engine, text, right)?.into());
    }
    if let Value::Undefined(message) = right {
        return Err(Fault::failed(&**message));
    }
    if matches!(left, Value::Markup(_)) || matches!(right, Value::Markup(_)) {
        return Err(Fault::refused("an operator on text that `safe` or `escape` marked"));
    }
    match operator {
        Binary::Add => match (left, right) {
            (Value::Text(a), Value::Text(b)) => {
                engine.bytes(a.len().saturating_add(b.len()))?;
                return Ok(format!("{a}{b}").into());
            }
            (Value::List(a), Value::List(b)) => return Ok(Value::list(joined(engine, a, b)?)),
            (Value::Tuple(a), Value::Tuple(b)) => return Ok(Value::tuple(joined(engine, a, b)?)),
            _ => {}
        },
        Binary::Mul => {
            for (one, other) in [(left, right), (right, left)] {
                let Some(times) = other.as_int() else { continue };
                let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
                match one {
                    Value::Text(text) => {
                        engine.bytes(text.len().saturating_mul(times))?;
                        return Ok(text.repeat(times).into());
                    }
                    Value::List(items) | Value::Tuple(items) => {
                        let size = size_of_val(&**items);
                        engine.bytes(size.saturating_mul(times))?;
                        let times = if items.is_empty() { 0 } else { times };
                        let repeated = (0..times).flat_map(|_| items.iter().cloned()).collect();
                        return Ok(match one {
                            Value::List(_) => Value::list(repeated),
                            _ => Value::tuple(repeated),
                        });
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
    match (left.as_int(), right.as_int(), left.as_float(), right.as_float()) {
        (Some(a), Some(b), ..) => integers(operator, a, b),
        (_, _, Some(a), Some(b)) => floats(operator, a, b),
        _ => {
            let (a, b) = (left.kind(), right.kind());
            Err(Fault::failed(format!("a {a} and a {b} have no {operator:?}")))
        }
    }
}

fn joined(engine: &Engine<'_>, a: &[Value], b: &[Value]) -> Res<Vec<Value>> {
    engine.bytes(size_of_val(a) + size_of_val(b))?;
    Ok(a.iter().chain(b).cloned().collect())
}

fn integers(operator: Binary, a: i128, b: i128) -> Res<Value> {
    let zero = || Fault::failed("division by zero");
    match operator {
        Binary::Add => whole(a.checked_add(b)),
        Binary::Sub => whole(a.checked_sub(b)),
        Binary::Mul => whole(a.checked_mul(b)),
        Binary::Div => {
            // Python divides without rounding first; up to 53 bits that is the same.
            let exact = |n: i128| n.unsigned_abs() <= 1 << 53;
            match (b, exact(a) && exact(b)) {
                (0, _) => Err(zero()),
                (_, true) => Ok(Value::Float(a as f64 / b as f64)),
                (_, false) => Err(Fault::refused("a division of whole numbers beyond 53 bits")),
            }
        }
        Binary::FloorDiv if b == 0 => Err(zero()),
        Binary::Mod if b == 0 => Err(zero()),
        Binary::FloorDiv => {
            let quotient = a.checked_div(b);
            let inexact = a.checked_rem(b).unwrap_or(0) != 0;
            whole(quotient.map(|q| if inexact && (a < 0) != (b < 0) { q - 1 } else { q }))
        }
        Binary::Mod => {
            let rest = a.checked_rem(b).unwrap_or(0);
            whole(Some(if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }))
        }
        Binary::Pow if b < 0 => floats(operator, a as f64, b as f64),
        Binary::Pow => whole(u32::try_from(b).ok().and_then(|b| a.checked_pow(b))),
    }
}

fn floats(operator: Binary, a: f64, b: f64) -> Res<Value> {
    let divides = matches!(operator, Binary::Div | Binary::FloorDiv | Binary::Mod);
    if divides && b == 0.0 || operator == Binary::Pow && a == 0.0 && b < 0.0 {
        return Err(Fault::failed("division by zero"));
    }
    // The remainder has the divisor's sign; the quotient is what is left of it, rounded down.
    let rest = || {
        let rest = a % b;
        if rest != 0.0 && (rest < 0.0) != (b < 0.0) {
            rest + b
        } else {
            rest.abs().copysign(if rest == 0.0 { b } else { rest })
        }
    };
    let n = match operator {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Mod => rest(),
        Binary::FloorDiv => {
            let quotient = (a - rest()) / b;
            let floor = quotient.floor();
            if quotient - floor > 0.5 { floor + 1.0 } else { floor }
        }
        Binary::Pow if a < 0.0 && b.fract() != 0.0 => return Err(Fault::refused("a complex number")),
        Binary::Pow => a.powf(b),
    };
    match n.is_infinite() && operator == Binary::Pow && a.is_finite() && b.is_finite() {
        true => Err(Fault::failed("the result is too large")),
        false => Ok(Value::Float(n)),
    }
}

/// `item in container`
pub(super) fn contains(engine: &Engine<'_>, container: &Value, item: &Value) -> Res<bool> {
    match container {
        Value::Text(text) | Value::Markup(text) => match item {
            Value::Text(part) | Value::Markup(part) => {
                engine.meter.work(text.len())?;
                Ok(text.contains(&**part))
            }
            other => Err(Fault::failed(format!("a {} cannot be in a text", other.kind()))),
        },
        Value::Dict(dict) => Ok(dict.get(&item.key(&engine.meter)?).is_some()),
        Value::Generator(generator) => {
            // Python takes items out until one is found.
            while let Some(next) = { generator.left.borrow_mut().pop_front() } {
                if next.equals(item, &engine.meter)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Value::Undefined(_) | Value::List(_) | Value::Tuple(_) | Value::View(..) | Value::Range(..) => {
            let items = engine.items(container)?;
            for candidate in items {
                if candidate.equals(item, &engine.meter)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        other => Err(Fault::failed(format!("a {} has no items", other.kind()))),
    }
}
