//! Texts with holes: Python's `%` and `str.format`.

use super::engine::{Engine, Given};
use super::value::{Fault, Res, Value};
use std::rc::Rc;

/// The widest field.
const WIDTH_MAX: usize = 10_000;

/// `text % values`
pub(super) fn percent(engine: &Engine<'_>, text: &str, values: &Value) -> Res<String> {
    let listed: Vec<Value> = match values {
        Value::Tuple(items) => items.to_vec(),
        other => vec![other.clone()],
    };
    let mut next = listed.iter();
    let mut by_name = false;
    engine.bytes(text.len())?;
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut named = None;
        if chars.peek() == Some(&'(') {
            chars.next();
            let name: String = chars.by_ref().take_while(|&c| c != ')').collect();
            let Value::Dict(dict) = values else {
                return Err(Fault::failed("a format by name needs a mapping"));
            };
            let found = dict.text(&name).cloned();
            named = Some(found.ok_or_else(|| Fault::failed(format!("the mapping has no `{name}`")))?);
            by_name = true;
        }
        let mut field = Field::default();
        while let Some(flag) = chars.next_if(|c| "-+ #0".contains(*c)) {
            match flag {
                '-' => field.left = true,
                '0' => field.zeros = true,
                '+' => field.plus = true,
                _ => return Err(Fault::refused(format!("the flag `{flag}` of a `%` format"))),
            }
        }
        field.width = digits(&mut chars)?.unwrap_or(0);
        if chars.next_if_eq(&'.').is_some() {
            field.precision = Some(digits(&mut chars)?.unwrap_or(0));
        }
        let Some(kind) = chars.next() else { return Err(Fault::failed("a format ends in `%`")) };
        if kind == '%' {
            out.push('%');
            continue;
        }
        let value = match named {
            Some(value) => value,
            None => {
                next.next().cloned().ok_or_else(|| Fault::failed("a format has more holes than values"))?
            }
        };
        let text = field.write(engine, kind, &value)?;
        engine.bytes(text.len())?;
        out.push_str(&text);
    }
    // Python lets what has items by key stay unused.
    let keyed =
        by_name || matches!(values, Value::Dict(_) | Value::List(_) | Value::Range(..) | Value::Undefined(_));
    if next.next().is_some() && !keyed {
        return Err(Fault::failed("a format has fewer holes than values"));
    }
    Ok(out)
}

fn digits(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Res<Option<usize>> {
    let mut number = None;
    while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
        let n = number.unwrap_or(0) * 10 + digit as usize;
        if n > WIDTH_MAX {
            return Err(Fault::limit(format!("a field wider than {WIDTH_MAX}")));
        }
        number = Some(n);
        chars.next();
    }
    Ok(number)
}

/// What a `%` format says of one hole.
#[derive(Default)]
struct Field {
    left: bool,
    zeros: bool,
    plus: bool,
    width: usize,
    precision: Option<usize>,
}

impl Field {
    fn write(&self, engine: &Engine<'_>, kind: char, value: &Value) -> Res<String> {
        let text = match kind {
            's' => {
                let text = engine.text(value)?;
                let text: String = match self.precision {
                    Some(count) => text.chars().take(count).collect(),
                    None => text.to_string(),
                };
                return Ok(self.padded(text, false));
            }
            'r' => {
                let text = engine.text(&Value::list(vec![value.clone().nested()?]))?;
                return Ok(self.padded(text[1..text.len() - 1].to_string(), false));
            }
            'd' | 'i' => match (value.as_int(), value) {
                (Some(n), _) => n.to_string(),
                (None, Value::Float(n)) if n.is_finite() && n.abs() < 1e30 => (n.trunc() as i128).to_string(),
                _ => return Err(Fault::failed(format!("`%{kind}` needs a number, not a {}", value.kind()))),
            },
            'f' | 'F' => match value.as_float() {
                Some(n) if n.is_finite() => format!("{:.*}", self.precision.unwrap_or(6), n),
                _ => return Err(Fault::failed(format!("`%{kind}` needs a number, not a {}", value.kind()))),
            },
            'x' | 'X' => match value.as_int() {
                Some(n) if n >= 0 => match kind {
                    'x' => format!("{n:x}"),
                    _ => format!("{n:X}"),
                },
                _ => return Err(Fault::refused(format!("`%{kind}` of a {}", value.kind()))),
            },
            other => return Err(Fault::refused(format!("the format `%{other}`"))),
        };
        if self.precision.is_some() && matches!(kind, 'd' | 'i' | 'x' | 'X') {
            return Err(Fault::refused(format!("a precision with `%{kind}`")));
        }
        let plus = self.plus && !text.starts_with('-');
        Ok(self.padded(if plus { format!("+{text}") } else { text }, true))
    }

    fn padded(&self, text: String, number: bool) -> String {
        let missing = self.width.saturating_sub(text.chars().count());
        if self.left {
            return text + &" ".repeat(missing);
        }
        if self.zeros && number {
            let sign = usize::from(text.starts_with(['-', '+']));
            return format!("{}{}{}", &text[..sign], "0".repeat(missing), &text[sign..]);
        }
        " ".repeat(missing) + &text
    }
}

/// `text.format(…)`, with holes by number, by name or in order, and nothing said of their form.
pub(super) fn braces(engine: &Engine<'_>, text: &str, given: Given) -> Res<Value> {
    let mut out = String::new();
    let (mut in_order, mut by_number) = (0, false);
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        if from.starts_with("{{") || from.starts_with("}}") {
            out.push_str(&from[..1]);
            rest = &from[2..];
            continue;
        }
        let Some((hole, behind)) = from[1..].split_once('}').filter(|_| from.starts_with('{')) else {
            return Err(Fault::failed("a format has a brace alone"));
        };
        let found = if hole.is_empty() {
            in_order += 1;
            given.positional.get(in_order - 1)
        } else if let Ok(at) = hole.parse::<usize>() {
            by_number = true;
            given.positional.get(at)
        } else if hole.chars().all(|c| c == '_' || c.is_alphanumeric()) {
            given.named.iter().find(|(name, _)| **name == *hole).map(|(_, value)| value)
        } else {
            return Err(Fault::refused(format!("the format `{{{hole}}}`")));
        };
        if by_number && in_order > 0 {
            return Err(Fault::failed("a format has holes with a number and holes without"));
        }
        let Some(value) = found else { return Err(Fault::failed(format!("no value for `{{{hole}}}`"))) };
        let text: Rc<str> = engine.text(value)?;
        engine.bytes(text.len())?;
        out.push_str(&text);
        rest = behind;
    }
    engine.bytes(text.len())?;
    out.push_str(rest);
    Ok(out.into())
}
