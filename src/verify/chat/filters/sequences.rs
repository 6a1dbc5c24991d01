//! Filters over what can be walked through.
//!
//! Those that Python carries out when their result is walked through are carried out at once here. That shows only where
//! one of them fails and nobody would have looked, which then is an error and not another text.

use super::super::checks;
use super::super::engine::{Engine, Given, attribute, item};
use super::super::value::{Dict, Fault, Res, Value};
use std::cmp::Ordering;

pub(super) type Apply = fn(&Engine<'_>, &str, Value, Given) -> Res<Value>;

/// The filters of this file.
const FILTERS: &[(&str, Apply)] = &[
    ("length", length),
    ("count", length),
    ("list", list),
    ("items", items),
    ("first", first),
    ("last", last),
    ("join", join),
    ("reverse", reverse),
    ("sort", sort),
    ("dictsort", dictsort),
    ("unique", unique),
    ("min", extreme),
    ("max", extreme),
    ("sum", sum),
    ("map", map),
    ("select", select),
    ("reject", select),
    ("selectattr", select),
    ("rejectattr", select),
    ("batch", batch),
    ("slice", slice),
];

/// The filter of this name, if it is one of these.
pub(super) fn find(name: &str) -> Option<Apply> {
    FILTERS.iter().find(|(known, _)| *known == name).map(|(_, apply)| *apply)
}

fn length(_: &Engine<'_>, name: &str, value: Value, given: Given) -> Res<Value> {
    given.none(name)?;
    let count = value.len().map(Value::count);
    count.ok_or_else(|| Fault::failed(format!("a {} has no length", value.kind())))
}

fn list(engine: &Engine<'_>, name: &str, value: Value, given: Given) -> Res<Value> {
    given.none(name)?;
    Ok(Value::list(engine.items(&value)?))
}

fn items(engine: &Engine<'_>, name: &str, value: Value, given: Given) -> Res<Value> {
    given.none(name)?;
    match &value {
        Value::Undefined(_) => Ok(Value::generator(Vec::new())),
        Value::Dict(dict) => {
            engine.bytes(2 * size_of_val(dict.entries()))?;
            let pair = |(key, value): &(Value, Value)| Value::tuple(vec![key.clone(), value.clone()]);
            Ok(Value::generator(dict.entries().iter().map(pair).collect()))
        }
        other => Err(Fault::failed(format!("`items` needs a mapping, not a {}", other.kind()))),
    }
}

fn first(engine: &Engine<'_>, name: &str, value: Value, given: Given) -> Res<Value> {
    given.none(name)?;
    let found = match &value {
        Value::Generator(generator) => generator.left.borrow_mut().pop_front(),
        Value::List(items) | Value::Tuple(items) | Value::View(_, items) => items.first().cloned(),
        other => engine.items(other)?.into_iter().next(),
    };
    Ok(found.unwrap_or_else(|| Value::Undefined("`first` of nothing".into())))
}

fn last(engine: &Engine<'_>, name: &str, value: Value, given: Given) -> Res<Value> {
    given.none(name)?;
    let found = match &value {
        Value::List(items) | Value::Tuple(items) | Value::View(_, items) => items.last().cloned(),
        Value::Undefined(_) => None,
        Value::Generator(_) => {
            return Err(Fault::failed(format!("a {} cannot be walked through backwards", value.kind())));
        }
        other => engine.items(other)?.pop(),
    };
    Ok(found.unwrap_or_else(|| Value::Undefined("`last` of nothing".into())))
}

fn join(engine: &Engine<'_>, name: &str, value: Value, given: Given) -> Res<Value> {
    let [between, by] = given.bind(name, ["d", "attribute"])?;
    let between = engine.text(&between.unwrap_or_else(|| "".into()))?;
    let mut out = String::new();
    for (n, item) in engine.items(&value)?.iter().enumerate() {
        let text = match &by {
            None | Some(Value::None) => engine.text(item)?,
            Some(by) => engine.text(&get(engine, item, by)?)?,
        };
        engine.bytes(text.len() + between.len())?;
        out.push_str(if n > 0 { &between } else { "" });
        out.push_str(&text);
    }
    Ok(out.into())
}

fn reverse(engine: &Engine<'_>, name: &str, value: Value, given: Given) -> Res<Value> {
    given.none(name)?;
    if let Value::Text(text) = &value {
        engine.bytes(text.len())?;
        return Ok(text.chars().rev().collect::<String>().into());
    }
    if let Value::Markup(_) = value {
        return Err(Fault::refused("the filter `reverse` on text that `safe` marked"));
    }
    let mut items = engine.items(&value)?;
    items.reverse();
    // What can be walked through once becomes a list, what has an order a walk from its end.
    Ok(match value {
        Value::Generator(_) | Value::Undefined(_) => Value::list(items),
        _ => Value::generator(items),
    })
}

/// `item.a.b`, `item.0`: attributes as Jinja's filters name them.
fn get(engine: &Engine<'_>, value: &Value, by: &Value) -> Res<Value> {
    engine.step()?;
    let Some(path) = by.as_text() else { return item(value, by, &engine.meter) };
    let mut found = value.clone();
    for part in path.split('.') {
        let whole = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        found = match part.parse::<i128>() {
            Ok(n) if whole => item(&found, &Value::Int(n), &engine.meter)?,
            _ => subscript(&found, part, engine)?,
        };
    }
    Ok(found)
}

/// `value[name]`, and only then what is called an attribute.
fn subscript(value: &Value, name: &str, engine: &Engine<'_>) -> Res<Value> {
    match value {
        Value::Loop(_) | Value::Namespace(_) => attribute(value, name),
        _ => item(value, &name.into(), &engine.meter),
    }
}

/// What an item is sorted by: an attribute, or itself; texts in lower case unless told otherwise.
fn sorted_by(engine: &Engine<'_>, value: &Value, by: Option<&Value>, case_sensitive: bool) -> Res<Value> {
    let value = match by {
        None | Some(Value::None) => value.clone(),
        Some(by) => get(engine, value, by)?,
    };
    match &value {
        Value::Text(text) if !case_sensitive => {
            engine.bytes(text.len())?;
            Ok(text.to_lowercase().into())
        }
        _ => Ok(value),
    }
}

/// Sorts by keys, keeping the order of equal ones.
fn sorted(engine: &Engine<'_>, mut keyed: Vec<(Vec<Value>, Value)>, descending: bool) -> Res<Vec<Value>> {
    let mut fault = None;
    let mut order = |a: &[Value], b: &[Value]| {
        for (a, b) in a.iter().zip(b) {
            // Python compares lists of keys, of which it orders the first that are not equal.
            if matches!(a.equals(b, &engine.meter), Ok(true)) {
                continue;
            }
            match a.compare(b, &engine.meter) {
                Ok(Some(Ordering::Equal)) => {}
                Ok(order) => return order.unwrap_or(Ordering::Equal),
                Err(found) => {
                    fault.get_or_insert(found);
                    return Ordering::Equal;
                }
            }
        }
        Ordering::Equal
    };
    // A fault makes the order meaningless, and nobody sees it then.
    match descending {
        true => keyed.sort_by(|a, b| order(&b.0, &a.0)),
        false => keyed.sort_by(|a, b| order(&a.0, &b.0)),
    }
    match fault {
        Some(fault) => Err(fault),
        None => Ok(keyed.into_iter().map(|(_, value)| value).collect()),
    }
}

fn truth(value: Option<Value>) -> bool {
    value.is_some_and(|value| value.truth())
}

fn sort(engine: &Engine<'_>, name: &str, value: Value, given: Given) -> Res<Value> {
    let [descending, case_sensitive, by] = given.bind(name, ["reverse", "case_sensitive", "attribute"])?;
    let case_sensitive = truth(case_sensitive);
    // Several attributes stand behind one another with commas.
    let by: Vec<Option<Value>> = match by {
        Some(Value::Text(paths)) => paths.split(',').map(|path| Some(path.into())).collect(),
        other => vec![other],
    };
    let mut keyed = Vec::new();
    for item in engine.items(&value)? {
        let keys =
            by.iter().map(|by| sorted_by(engine, &item, by.as_ref(), case_sensitive)).collect::<Res<_>>()?;
        keyed.push((keys, item));
    }
    Ok(Value::list(sorted(engine, keyed, truth(descending))?))
}

fn dictsort(engine: &Engine<'_>, name: &str, value: Value, given: Given) -> Res<Value> {
    let [case_sensitive, by, descending] = given.bind(name, ["case_sensitive", "by", "reverse"])?;
    let Value::Dict(dict) = &value else {
        return Err(Fault::failed(format!("`dictsort` needs a mapping, not a {}", value.kind())));
    };
    let by_value = match by.as_ref().map(Value::as_text) {
        None => false,
        Some(Some(by)) if matches!(&**by, "key" | "value") => &**by == "value",
        _ => return Err(Fault::failed("`dictsort` sorts by `key` or `value`")),
    };
    let case_sensitive = truth(case_sensitive);
    engine.bytes(4 * size_of_val(dict.entries()))?;
    let mut keyed = Vec::new();
    for (key, value) in dict.entries() {
        let sorted_key = sorted_by(engine, if by_value { value } else { key }, None, case_sensitive)?;
        keyed.push((vec![sorted_key], Value::tuple(vec![key.clone(), value.clone()])));
    }
    Ok(Value::list(sorted(engine, keyed, truth(descending))?))
}

fn unique(engine: &Engine<'_>, name: &str, value: Value, given: Given) -> Res<Value> {
    let [case_sensitive, by] = given.bind(name, ["case_sensitive", "attribute"])?;
    let case_sensitive = truth(case_sensitive);
    let (mut seen, mut kept) = (Dict::default(), Vec::new());
    for item in engine.items(&value)? {
        let key = sorted_by(engine, &item, by.as_ref(), case_sensitive)?;
        engine.bytes(size_of::<Value>())?;
        if seen.get(&key.key(&engine.meter)?).is_none() {
            seen.set(key, Value::None, &engine.meter)?;
            kept.push(item);
        }
    }
    Ok(Value::generator(kept))
}

fn extreme(engine: &Engine<'_>, name: &str, value: Value, given: Given) -> Res<Value> {
    let [case_sensitive, by] = given.bind(name, ["case_sensitive", "attribute"])?;
    let case_sensitive = truth(case_sensitive);
    let better = if name == "max" { Ordering::Greater } else { Ordering::Less };
    let mut best: Option<(Value, Value)> = None;
    for item in engine.items(&value)? {
        let key = sorted_by(engine, &item, by.as_ref(), case_sensitive)?;
        let takes = match &best {
            None => true,
            Some((known, _)) => key.compare(known, &engine.meter)? == Some(better),
        };
        if takes {
            best = Some((key, item));
        }
    }
    Ok(best.map_or_else(|| Value::Undefined(format!("`{name}` of nothing").into()), |(_, item)| item))
}

fn sum(engine: &Engine<'_>, name: &str, value: Value, given: Given) -> Res<Value> {
    let [by, start] = given.bind(name, ["attribute", "start"])?;
    let mut total = start.unwrap_or(Value::Int(0));
    if total.as_text().is_some() {
        return Err(Fault::failed("`sum` of texts"));
    }
    for item in engine.items(&value)? {
        let item = match &by {
            None | Some(Value::None) => item,
            Some(by) => get(engine, &item, by)?,
        };
        total = super::super::operators::binary(engine, super::super::ast::Binary::Add, &total, &item)?;
    }
    Ok(total)
}

fn map(engine: &Engine<'_>, name: &str, value: Value, mut given: Given) -> Res<Value> {
    let items = walked(engine, &value)?;
    let by_attribute = given.positional.is_empty();
    let mut out = Vec::with_capacity(items.len());
    if by_attribute {
        let [by, default] = given.bind(name, ["attribute", "default"])?;
        let Some(by) = by else { return Err(Fault::failed("`map` needs a filter or an attribute")) };
        for item in items {
            let found = get(engine, &item, &by)?;
            out.push(match (&found, &default) {
                (Value::Undefined(_), Some(default)) => default.clone(),
                _ => found,
            });
        }
        return Ok(Value::generator(out));
    }
    let filter = given.positional.remove(0);
    let Some(filter) = filter.as_text() else { return Err(Fault::failed("`map` needs a filter's name")) };
    for item in items {
        let given = Given { positional: given.positional.clone(), named: given.named.clone() };
        out.push(engine.deeper(|| super::apply(engine, filter, item, given))?);
    }
    Ok(Value::generator(out))
}

/// `select`, `reject`, and both by an attribute.
fn select(engine: &Engine<'_>, name: &str, value: Value, mut given: Given) -> Res<Value> {
    let by = match name.ends_with("attr") {
        true if given.positional.is_empty() => {
            return Err(Fault::failed(format!("`{name}` needs an attribute")));
        }
        true => Some(given.positional.remove(0)),
        false => None,
    };
    let test = (!given.positional.is_empty()).then(|| given.positional.remove(0));
    let wanted = name.starts_with("select");
    let mut kept = Vec::new();
    for item in walked(engine, &value)? {
        let tested = match &by {
            Some(by) => get(engine, &item, by)?,
            None => item.clone(),
        };
        let holds = match &test {
            None => tested.truth(),
            Some(test) => {
                let Some(test) = test.as_text() else { return Err(Fault::failed("a test has a name")) };
                let given = Given { positional: given.positional.clone(), named: given.named.clone() };
                checks::apply(engine, test, &tested, given)?
            }
        };
        if holds == wanted {
            kept.push(item);
        }
    }
    Ok(Value::generator(kept))
}

/// What is in a value; nothing in one that is false, whatever it is.
fn walked(engine: &Engine<'_>, value: &Value) -> Res<Vec<Value>> {
    if value.truth() { engine.items(value) } else { Ok(Vec::new()) }
}

/// A positive count of a filter.
fn count_of(value: Option<Value>, name: &str) -> Res<usize> {
    let count = value.and_then(|value| value.as_int()).and_then(|n| usize::try_from(n).ok());
    count.filter(|&n| n > 0).ok_or_else(|| Fault::failed(format!("`{name}` needs a positive number")))
}

fn batch(engine: &Engine<'_>, name: &str, value: Value, given: Given) -> Res<Value> {
    let [count, fill] = given.bind(name, ["linecount", "fill_with"])?;
    let count = count_of(count, name)?;
    let mut rows = Vec::new();
    for row in engine.items(&value)?.chunks(count) {
        let mut row = row.to_vec();
        if let Some(fill) = fill.as_ref().filter(|fill| !matches!(fill, Value::None)) {
            engine.bytes((count - row.len()).saturating_mul(size_of::<Value>()))?;
            row.resize(count, fill.clone());
        }
        rows.push(Value::list(row));
    }
    Ok(Value::generator(rows))
}

fn slice(engine: &Engine<'_>, name: &str, value: Value, given: Given) -> Res<Value> {
    let [count, fill] = given.bind(name, ["slices", "fill_with"])?;
    let count = count_of(count, name)?;
    let items = engine.items(&value)?;
    engine.bytes(count.saturating_mul(64))?;
    let (each, longer) = (items.len() / count, items.len() % count);
    let mut columns = Vec::new();
    let mut left = items.into_iter();
    for n in 0..count {
        let mut column: Vec<Value> = left.by_ref().take(each + usize::from(n < longer)).collect();
        if let Some(fill) = fill.as_ref().filter(|fill| !matches!(fill, Value::None) && n >= longer) {
            column.push(fill.clone());
        }
        columns.push(Value::list(column));
    }
    Ok(Value::generator(columns))
}
