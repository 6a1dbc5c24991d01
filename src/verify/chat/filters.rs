//! Filters: what stands behind `|`, as Jinja and transformers define them.

mod sequences;

use super::engine::{Engine, Given};
use super::methods::texts;
use super::value::{Fault, Res, Value};
use super::{format, json};
use std::rc::Rc;

/// `value | name(…)`
pub(super) fn apply(engine: &Engine<'_>, name: &str, value: Value, given: Given) -> Res<Value> {
    engine.step()?;
    if let Some(filter) = sequences::find(name) {
        return filter(engine, name, value, given);
    }
    let plain = |value: Value| match value {
        Value::Markup(_) => Err(Fault::refused(format!("the filter `{name}` on text that `safe` marked"))),
        other => Ok(other),
    };
    match name {
        "default" | "d" => {
            let [default, boolean] = given.bind(name, ["default_value", "boolean"])?;
            let boolean = boolean.is_some_and(|boolean| boolean.truth());
            let absent = matches!(value, Value::Undefined(_)) || boolean && !value.truth();
            Ok(if absent { default.unwrap_or_else(|| "".into()) } else { value })
        }
        "tojson" => json::dumps(engine, &value, given),
        "string" => {
            given.none(name)?;
            Ok(match value {
                Value::Markup(_) => value,
                other => Value::Text(engine.text(&other)?),
            })
        }
        "safe" => {
            given.none(name)?;
            Ok(Value::Markup(engine.text(&value)?))
        }
        "escape" | "e" | "forceescape" => {
            given.none(name)?;
            if let (Value::Markup(_), true) = (&value, name != "forceescape") {
                return Ok(value);
            }
            let text = engine.text(&value)?;
            engine.bytes(text.len().saturating_mul(5))?;
            let escaped = text.replace('&', "&amp;").replace('>', "&gt;").replace('<', "&lt;");
            Ok(Value::Markup(escaped.replace('\'', "&#39;").replace('"', "&#34;").into()))
        }
        "upper" | "lower" => {
            given.none(name)?;
            let text = engine.text(&plain(value)?)?;
            engine.bytes(text.len())?;
            Ok(if name == "upper" { text.to_uppercase() } else { text.to_lowercase() }.into())
        }
        "capitalize" => {
            given.none(name)?;
            let text = engine.text(&plain(value)?)?;
            engine.bytes(text.len())?;
            Ok(texts::capitalize(&text)?.into())
        }
        "title" => {
            given.none(name)?;
            let text = engine.text(&plain(value)?)?;
            engine.bytes(text.len())?;
            title(&text)
        }
        "trim" => {
            let [chars] = given.bind(name, ["chars"])?;
            let text = engine.text(&plain(value)?)?;
            let chars = match chars {
                None | Some(Value::None) => None,
                Some(Value::Text(chars)) => Some(chars),
                Some(other) => {
                    return Err(Fault::failed(format!("`trim` needs a text, not a {}", other.kind())));
                }
            };
            engine.bytes(text.len())?;
            engine.meter.work(text.len())?;
            Ok(texts::strip(&text, chars.as_deref(), true, true).into())
        }
        "replace" => {
            let [old, new, count] = given.bind(name, ["old", "new", "count"])?;
            let (Some(old), Some(new)) = (old, new) else {
                return Err(Fault::failed("`replace` needs two texts"));
            };
            let count = match count {
                None | Some(Value::None) => -1,
                Some(count) => count.as_int().ok_or_else(|| Fault::failed("`count` is no number"))?,
            };
            let text = engine.text(&plain(value)?)?;
            engine.meter.work(text.len())?;
            let (old, new) = (engine.text(&plain(old)?)?, engine.text(&plain(new)?)?);
            Ok(texts::replace(engine, &text, &old, &new, count)?.into())
        }
        "indent" => indent(engine, plain(value)?, given),
        "center" => {
            let [width] = given.bind(name, ["width"])?;
            let width = width.map_or(Some(80), |width| width.as_int());
            let Some(width) = width else { return Err(Fault::failed("`center` needs a width")) };
            let text = engine.text(&plain(value)?)?;
            texts::centred(engine, &text, usize::try_from(width.max(0)).unwrap_or(usize::MAX))
        }
        "format" => {
            let text = engine.text(&plain(value)?)?;
            if !given.named.is_empty() {
                return Err(Fault::refused("the filter `format` with names"));
            }
            let values = given.positional.into_iter().map(Value::nested).collect::<Res<_>>()?;
            Ok(format::percent(engine, &text, &Value::tuple(values))?.into())
        }
        "wordcount" => {
            given.none(name)?;
            let text = engine.text(&value)?;
            let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
            Ok(Value::count(words.filter(|word| !word.is_empty()).count()))
        }
        "truncate" => truncate(engine, plain(value)?, given),
        "int" => {
            let [default, base] = given.bind(name, ["default", "base"])?;
            if base.is_some_and(|base| base.as_int() != Some(10)) {
                return Err(Fault::refused("the filter `int` with a base"));
            }
            whole(&value)?.map_or_else(|| Ok(default.unwrap_or(Value::Int(0))), |n| Ok(Value::Int(n)))
        }
        "float" => {
            let [default] = given.bind(name, ["default"])?;
            if let Value::Undefined(message) = &value {
                return Err(Fault::failed(&**message));
            }
            let number = match &value {
                Value::Text(text) => number(text)?,
                other => other.as_float(),
            };
            Ok(number.map_or_else(|| default.unwrap_or(Value::Float(0.0)), Value::Float))
        }
        "abs" => {
            given.none(name)?;
            match (value.as_int(), &value) {
                (Some(n), _) => {
                    n.checked_abs().map(Value::Int).ok_or_else(|| Fault::refused("so large a number"))
                }
                (None, Value::Float(n)) => Ok(Value::Float(n.abs())),
                (None, other) => Err(Fault::failed(format!("a {} has no `abs`", other.kind()))),
            }
        }
        "round" => round(&value, given),
        "attr" => {
            let [attribute] = given.bind(name, ["name"])?;
            let Some(attribute) = attribute.as_ref().and_then(Value::as_text) else {
                return Err(Fault::failed("`attr` needs a name"));
            };
            match &value {
                // Only what Python calls an attribute, never an item.
                Value::Dict(_) => Err(Fault::refused("the filter `attr` on a mapping")),
                other => super::engine::attribute(other, attribute),
            }
        }
        other => Err(Fault::refused(format!("the unknown filter `{other}`"))),
    }
}

/// Words, told by whitespace, hyphens and opening brackets, with a capital.
fn title(text: &str) -> Res<Value> {
    let starts = |c: char| super::value::is_space(c) || "-({[<".contains(c);
    let mut out = String::with_capacity(text.len());
    for part in text.split_inclusive(starts) {
        let word = part.trim_end_matches(starts);
        out.push_str(&texts::capitalize(word)?);
        out.push_str(&part[word.len()..]);
    }
    Ok(out.into())
}

fn indent(engine: &Engine<'_>, value: Value, given: Given) -> Res<Value> {
    let [width, first, blank] = given.bind("indent", ["width", "first", "blank"])?;
    let indention: Rc<str> = match width {
        None => "    ".into(),
        Some(Value::Text(text)) => text,
        Some(width) => match width.as_int() {
            Some(n @ ..=10_000) => " ".repeat(usize::try_from(n.max(0)).unwrap_or(0)).into(),
            _ => return Err(Fault::failed("`indent` needs a width")),
        },
    };
    let truth = |value: Option<Value>| value.is_some_and(|value| value.truth());
    let (first, blank) = (truth(first), truth(blank));
    let Value::Text(text) = value else {
        return Err(Fault::failed(format!("`indent` needs a text, not a {}", value.kind())));
    };
    // The break makes the last line one that has an end, as all others have.
    let text = format!("{text}\n");
    let lines = texts::lines(&text, false);
    engine.bytes(text.len().saturating_add(lines.len().saturating_mul(indention.len() + 16)))?;
    let mut out = String::new();
    for (n, line) in lines.iter().enumerate() {
        out.push_str(if n > 0 { "\n" } else { "" });
        let indented = if n == 0 { first } else { blank || !line.is_empty() };
        out.push_str(if indented { &indention } else { "" });
        out.push_str(line);
    }
    Ok(out.into())
}

fn truncate(engine: &Engine<'_>, value: Value, given: Given) -> Res<Value> {
    let [length, kill, end, leeway] = given.bind("truncate", ["length", "killwords", "end", "leeway"])?;
    let number = |value: Option<Value>, otherwise: i128| match value {
        None | Some(Value::None) => Ok(otherwise),
        Some(value) => value.as_int().ok_or_else(|| Fault::failed("`truncate` needs numbers")),
    };
    let (length, leeway) = (number(length, 255)?, number(leeway, 5)?);
    let end = engine.text(&end.unwrap_or_else(|| "...".into()))?;
    let end_length = end.chars().count() as i128;
    if length < end_length || leeway < 0 {
        return Err(Fault::failed("`truncate` to less than its end"));
    }
    if value.len().is_some_and(|count| count as i128 <= length.saturating_add(leeway)) {
        return Ok(value);
    }
    let Value::Text(text) = &value else {
        return Err(Fault::failed(format!("`truncate` needs a text, not a {}", value.kind())));
    };
    engine.bytes(text.len().saturating_add(end.len()))?;
    let cut: String = text.chars().take(usize::try_from(length - end_length).unwrap_or(0)).collect();
    let kept = match kill.is_some_and(|kill| kill.truth()) {
        true => &*cut,
        false => cut.rsplit_once(' ').map_or(&*cut, |(before, _)| before),
    };
    Ok(format!("{kept}{end}").into())
}

/// A text as a number, as Python's `float` reads it; refused where Python may read what this does not.
fn number(text: &str) -> Res<Option<f64>> {
    let text = texts::strip(text, None, true, true);
    if !text.is_ascii() {
        return Err(Fault::refused("a number written beyond ASCII"));
    }
    let digits = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_digit());
    let bytes = text.as_bytes();
    let underscores_fit = bytes.iter().enumerate().all(|(at, &b)| {
        b != b'_'
            || digits(at.checked_sub(1).and_then(|at| bytes.get(at).copied()))
                && digits(bytes.get(at + 1).copied())
    });
    Ok(text.replace('_', "").parse().ok().filter(|_| underscores_fit))
}

/// As a whole number: `int`, else what `float` gives without its fraction.
fn whole(value: &Value) -> Res<Option<i128>> {
    let of_float = |n: f64| match n.is_finite() {
        true if n.abs() < 1e30 => Ok(Some(n.trunc() as i128)),
        true => Err(Fault::refused("a number of more than 30 digits")),
        false => Ok(None),
    };
    match value {
        Value::Undefined(message) => Err(Fault::failed(&**message)),
        Value::Float(n) => of_float(*n),
        Value::Text(text) => {
            let trimmed = texts::strip(text, None, true, true);
            let digits = trimmed.strip_prefix(['-', '+']).unwrap_or(trimmed);
            if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
                let n =
                    trimmed.parse().map_err(|_| Fault::refused("a whole number of more than 127 bits"))?;
                return Ok(Some(n));
            }
            number(text)?.map_or(Ok(None), of_float)
        }
        other => Ok(other.as_int()),
    }
}

fn round(value: &Value, given: Given) -> Res<Value> {
    let [precision, method] = given.bind("round", ["precision", "method"])?;
    let precision = precision.map_or(Some(0), |precision| precision.as_int());
    let Some(precision) = precision.and_then(|n| usize::try_from(n).ok()).filter(|&n| n <= 100) else {
        return Err(Fault::refused("the filter `round` with such a precision"));
    };
    let method = method.as_ref().map_or("common", |method| method.as_text().map_or("", |text| text));
    if let (Some(n), "common") = (value.as_int(), method) {
        return Ok(Value::Int(n));
    }
    let Some(n) = value.as_float() else {
        return Err(Fault::failed(format!("a {} cannot be rounded", value.kind())));
    };
    let scale = 10f64.powi(i32::try_from(precision).unwrap_or(0));
    Ok(Value::Float(match method {
        // Digits are exact, and ties go to the even one: as Python rounds.
        "common" => format!("{n:.precision$}").parse().unwrap_or(n),
        "ceil" => (n * scale).ceil() / scale,
        "floor" => (n * scale).floor() / scale,
        _ => return Err(Fault::failed("`round` knows `common`, `ceil` and `floor`")),
    }))
}
