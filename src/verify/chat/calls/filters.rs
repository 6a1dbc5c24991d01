//! Filters.

use super::super::json;
use super::super::python::printf;
use super::super::python::{self, Number, text, text_of, whole};
use super::{
    Budget, Given, Result, a, ascii_only, capitalized, failed, is_object, lines, padded, pairs, refused,
    replaced, stripped, test, text_argument, truth,
};
use minijinja::value::ValueKind;
use minijinja::{State, Value};
use std::cmp::Ordering::{Equal, Greater, Less};

/// `value | name(…)`
pub(in super::super) fn filter(
    budget: &Budget,
    state: &mut State<'_, '_>,
    name: &str,
    value: &Value,
    given: Given,
) -> Result<Value> {
    budget.steps(value.as_str().map_or(1, |text| text.len() / 64))?;
    let made = match name {
        "upper" | "lower" | "title" | "capitalize" | "string" => {
            given.none(name)?;
            let text = text(budget, value)?;
            match name {
                "upper" => text.to_uppercase(),
                "lower" => text.to_lowercase(),
                "capitalize" => capitalized(&text)?,
                "title" => {
                    ascii_only(&text, name)?;
                    return state.apply_filter("title", &[Value::from(text)]);
                }
                _ => text,
            }
        }
        "trim" => {
            let [chars] = given.bind(name, ["chars"])?;
            stripped(&text(budget, value)?, text_argument(name, chars.as_ref())?.as_deref(), true, true)
        }
        "replace" => {
            let [old, new, count] = given.bind(name, ["old", "new", "count"])?;
            let (Some(old), Some(new)) = (old, new) else { return Err(failed("`replace` needs two texts")) };
            let count = match count.filter(|count| !count.is_none()) {
                None => -1,
                Some(count) => whole(&count).ok_or_else(|| failed("the count of `replace` is no number"))?,
            };
            let (subject, old, new) = (text(budget, value)?, text(budget, &old)?, text(budget, &new)?);
            return replaced(budget, &subject, &old, &new, count);
        }
        "indent" => {
            let [width, first, blank] = given.bind(name, ["width", "first", "blank"])?;
            indented(budget, value, width, truth(first), truth(blank))?
        }
        "center" => {
            let [width] = given.bind(name, ["width"])?;
            let width = width.unwrap_or_else(|| Value::from(80));
            return padded(budget, &text(budget, value)?, &width, ' ', name).map(Value::from);
        }
        "truncate" => truncated(budget, value, given)?,
        "format" => {
            if !given.named.is_empty() {
                return Err(refused("`format` with named arguments"));
            }
            printf::format(budget, &text(budget, value)?, &given.positional, true)?
        }
        "wordcount" => {
            given.none(name)?;
            let text = text(budget, value)?;
            // Letters, digits and underscores; beyond ASCII, what Python counts as such is Unicode's L and N.
            let Ok(words) = regex::Regex::new(r"[\p{L}\p{N}_]+") else { return Err(refused("`wordcount`")) };
            return Ok(Value::from(words.find_iter(&text).count()));
        }
        "batch" | "slice" => return parted(budget, name, value, given),
        "tojson" => json::dumps(budget, value, given)?,
        "length" | "count" => {
            given.none(name)?;
            return Ok(Value::from(length(value)?));
        }
        "first" | "last" => {
            given.none(name)?;
            if name == "last" && value.kind() == ValueKind::Iterable {
                return Err(refused("`last` of an iterator"));
            }
            // Of what can be walked once, the rest stays for the next who walks.
            if value.kind() == ValueKind::Iterable {
                return Ok(value.try_iter()?.next().unwrap_or(Value::UNDEFINED));
            }
            let mut items = python::items(budget, value)?;
            let end = if name == "first" { items.into_iter().next() } else { items.pop() };
            return Ok(end.unwrap_or(Value::UNDEFINED));
        }
        "list" => {
            given.none(name)?;
            return Ok(python::list(python::items(budget, value)?));
        }
        "join" => {
            let [between, attribute] = given.bind(name, ["d", "attribute"])?;
            let between = between.map_or(Ok(String::new()), |between| text(budget, &between))?;
            return joined(budget, value, &between, attribute.as_ref());
        }
        "default" | "d" => {
            let [default, falsy] = given.bind(name, ["default_value", "boolean"])?;
            let replaced = value.is_undefined() || truth(falsy) && !value.is_true();
            return Ok(if replaced { default.unwrap_or_else(|| Value::from("")) } else { value.clone() });
        }
        "int" => {
            let [default, base] = given.bind(name, ["default", "base"])?;
            if base.is_some_and(|base| whole(&base) != Some(10)) {
                return Err(refused("`int` with a base"));
            }
            return integer(value, default);
        }
        "float" => {
            let [default] = given.bind(name, ["default"])?;
            return fraction(value, default);
        }
        "abs" => {
            given.none(name)?;
            return match Number::of(value) {
                Some(Number::Int(n)) => Ok(python::int(n.saturating_abs())),
                Some(Number::Float(n)) => Ok(Value::from(n.abs())),
                None => Err(failed(format!("`abs` of {}", a(value)))),
            };
        }
        "round" => {
            let [precision, method] = given.bind(name, ["precision", "method"])?;
            return rounded(value, precision, method);
        }
        "reverse" => {
            given.none(name)?;
            if let Some(text) = text_of(value) {
                budget.bytes(text.len())?;
                return Ok(Value::from(text.chars().rev().collect::<String>()));
            }
            if value.kind() == ValueKind::Undefined {
                return Err(refused("`reverse` of an undefined value"));
            }
            let mut items = python::items(budget, value)?;
            items.reverse();
            return Ok(python::generator(items));
        }
        "items" => {
            given.none(name)?;
            return match value.kind() {
                ValueKind::Undefined => Ok(python::generator(Vec::new())),
                ValueKind::Map if !is_object(value) => Ok(python::generator(pairs(budget, value)?)),
                _ => Err(failed(format!("`items` of {}", a(value)))),
            };
        }
        "dictsort" => {
            let [cased, by, reverse] = given.bind(name, ["case_sensitive", "by", "reverse"])?;
            if value.kind() != ValueKind::Map || is_object(value) {
                return Err(failed(format!("`dictsort` of {}", a(value))));
            }
            let by = match by.as_ref().map_or(Some("key"), text_of) {
                Some("key") => 0_usize,
                Some("value") => 1,
                _ => return Err(failed("`dictsort` sorts by `key` or `value`")),
            };
            let pairs = pairs(budget, value)?;
            let key = |pair: &Value| Ok(folded(&pair.get_item_by_index(by)?, truth(cased.clone())));
            return Ok(python::list(sorted(budget, pairs, key, truth(reverse))?));
        }
        "sort" => {
            let [reverse, cased, path] = given.bind(name, ["reverse", "case_sensitive", "attribute"])?;
            let items = python::items(budget, value)?;
            let key = |item: &Value| Ok(folded(&at_path(budget, item, path.as_ref())?, truth(cased.clone())));
            return Ok(python::list(sorted(budget, items, key, truth(reverse))?));
        }
        "unique" => {
            let [cased, path] = given.bind(name, ["case_sensitive", "attribute"])?;
            let (mut seen, mut kept) = (Vec::new(), Vec::new());
            for item in python::items(budget, value)? {
                let key = folded(&at_path(budget, &item, path.as_ref())?, truth(cased.clone()));
                if !matches!(
                    key.kind(),
                    ValueKind::String | ValueKind::Number | ValueKind::Bool | ValueKind::None
                ) {
                    return Err(refused(format!("`unique` by {}", a(&key))));
                }
                if !has(budget, &seen, &key)? {
                    seen.push(key);
                    kept.push(item);
                }
            }
            return Ok(python::generator(kept));
        }
        "min" | "max" => {
            let [cased, path] = given.bind(name, ["case_sensitive", "attribute"])?;
            let wanted = if name == "min" { Less } else { Greater };
            let mut best: Option<(Value, Value)> = None;
            for item in python::items(budget, value)? {
                let key = folded(&at_path(budget, &item, path.as_ref())?, truth(cased.clone()));
                match &best {
                    Some((known, _)) if python::order(budget, &key, known)? != Some(wanted) => {}
                    _ => best = Some((key, item)),
                }
            }
            return Ok(best.map_or(Value::UNDEFINED, |(_, item)| item));
        }
        "sum" => {
            let [path, start] = given.bind(name, ["attribute", "start"])?;
            let mut sum = start.unwrap_or_else(|| Value::from(0));
            for item in python::items(budget, value)? {
                sum = python::arithmetic(budget, "+", &sum, &at_path(budget, &item, path.as_ref())?)?;
                // Python adds fractions with a compensation, which differs in the last digit.
                if matches!(Number::of(&sum), None | Some(Number::Float(_))) {
                    return Err(refused("`sum` of what is no whole number"));
                }
            }
            return Ok(sum);
        }
        "map" => return mapped(budget, state, value, given),
        "select" | "reject" | "selectattr" | "rejectattr" => return selected(budget, name, value, given),
        _ => return Err(refused(format!("the filter `{name}`"))),
    };
    budget.bytes(made.len())?;
    Ok(Value::from(made))
}

/// Jinja's `truncate`: cut behind a word, unless told otherwise, where a text is longer by more than a leeway.
fn truncated(budget: &Budget, value: &Value, given: Given) -> Result<String> {
    let [length, cut_words, end, leeway] =
        given.bind("truncate", ["length", "killwords", "end", "leeway"])?;
    let number = |value: Option<Value>, default: usize| match value {
        None => Ok(default),
        Some(value) => {
            let number = whole(&value).and_then(|n| usize::try_from(n).ok());
            number.ok_or_else(|| refused("`truncate` to no whole number"))
        }
    };
    let (length, leeway) = (number(length, 255)?, number(leeway, 5)?);
    let end = text_argument("truncate", end.as_ref())?.unwrap_or_else(|| "...".into());
    let kept = length.checked_sub(end.chars().count());
    let kept = kept.ok_or_else(|| failed("`truncate` to less than its end"))?;
    let Some(text) = text_of(value) else { return Err(refused(format!("`truncate` of {}", a(value)))) };
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text.into());
    }
    budget.bytes(text.len())?;
    let head: String = text.chars().take(kept).collect();
    let head = match truth(cut_words) {
        true => head.as_str(),
        false => head.rsplit_once(' ').map_or(head.as_str(), |(head, _)| head),
    };
    Ok(format!("{head}{end}"))
}

/// Jinja's `batch`, lists of so many, and `slice`, so many lists.
fn parted(budget: &Budget, name: &str, value: &Value, given: Given) -> Result<Value> {
    let [count, fill] = given.bind(name, ["count", "fill_with"])?;
    let fill = fill.filter(|fill| !fill.is_none());
    let count = count.as_ref().and_then(whole).and_then(|n| usize::try_from(n).ok());
    let count = count.filter(|n| (1..=1000).contains(n));
    let count = count.ok_or_else(|| refused(format!("`{name}` by what is no number up to 1000")))?;
    let items = python::items(budget, value)?;
    budget.entries(items.len().saturating_add(count).saturating_mul(2))?;
    let mut parts: Vec<Vec<Value>> = Vec::new();
    if name == "batch" {
        for part in items.chunks(count) {
            let missing = count - part.len();
            let fill = fill.iter().flat_map(|fill| std::iter::repeat_n(fill.clone(), missing));
            parts.push(part.iter().cloned().chain(fill).collect());
        }
    } else {
        let (each, longer) = (items.len() / count, items.len() % count);
        let mut rest = items.into_iter();
        for n in 0..count {
            let mut part: Vec<Value> = rest.by_ref().take(each + usize::from(n < longer)).collect();
            part.extend(fill.clone().filter(|_| n >= longer));
            parts.push(part);
        }
    }
    Ok(python::generator(parts.into_iter().map(python::list).collect()))
}

fn has(budget: &Budget, seen: &[Value], key: &Value) -> Result<bool> {
    seen.iter().try_fold(false, |found, known| Ok(found || python::equal(budget, known, key)?))
}

fn length(value: &Value) -> Result<usize> {
    match value.kind() {
        ValueKind::Undefined => Ok(0),
        ValueKind::Map if is_object(value) => Err(failed("the length of a namespace")),
        ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => {
            value.len().ok_or_else(|| failed("the length of an iterator"))
        }
        _ => Err(failed(format!("the length of {}", a(value)))),
    }
}

/// `value`, or what stands under a path in it: names and indices, with points between.
fn at_path(budget: &Budget, value: &Value, path: Option<&Value>) -> Result<Value> {
    let Some(path) = path.filter(|path| !path.is_none()) else { return Ok(value.clone()) };
    if whole(path).is_some() {
        return python::item(budget, value, path);
    }
    let path = text_of(path).ok_or_else(|| refused(format!("{} as an attribute", a(path))))?;
    path.split('.').try_fold(value.clone(), |value, part| match part.parse::<i64>() {
        Ok(index) if part.bytes().all(|c| c.is_ascii_digit()) => {
            python::item(budget, &value, &Value::from(index))
        }
        // Filters look for items before attributes.
        _ => python::item(budget, &value, &Value::from(part)),
    })
}

/// Texts are ordered without regard to case, unless asked for.
fn folded(value: &Value, cased: bool) -> Value {
    match text_of(value) {
        Some(text) if !cased => Value::from(text.to_lowercase()),
        _ => value.clone(),
    }
}

fn sorted(
    budget: &Budget,
    items: Vec<Value>,
    key: impl Fn(&Value) -> Result<Value>,
    reverse: bool,
) -> Result<Vec<Value>> {
    let mut keyed = items.into_iter().map(|item| Ok((key(&item)?, item))).collect::<Result<Vec<_>>>()?;
    let mut fault = None;
    keyed.sort_by(|(x, _), (y, _)| {
        // Keys are lists in Jinja, and lists look for the first difference.
        let order = match python::equal(budget, x, y) {
            Ok(true) => Ok(Some(Equal)),
            Ok(false) if reverse => python::order(budget, y, x),
            Ok(false) => python::order(budget, x, y),
            Err(error) => Err(error),
        };
        match order {
            Ok(Some(order)) => order,
            Ok(None) => {
                fault.get_or_insert_with(|| refused("a sort by what is no number"));
                Equal
            }
            Err(error) => {
                fault.get_or_insert(error);
                Equal
            }
        }
    });
    match fault {
        Some(fault) => Err(fault),
        None => Ok(keyed.into_iter().map(|(_, item)| item).collect()),
    }
}

pub(super) fn joined(budget: &Budget, value: &Value, between: &str, path: Option<&Value>) -> Result<Value> {
    let mut out = String::new();
    for (n, item) in python::items(budget, value)?.iter().enumerate() {
        let item = text(budget, &at_path(budget, item, path)?)?;
        let between = if n > 0 { between } else { "" };
        budget.bytes(between.len().saturating_add(item.len()))?;
        out.push_str(between);
        out.push_str(&item);
    }
    Ok(Value::from(out))
}

/// Jinja's `indent`: every line but the first, and but blank ones.
fn indented(
    budget: &Budget,
    value: &Value,
    width: Option<Value>,
    first: bool,
    blank: bool,
) -> Result<String> {
    let Some(text) = text_of(value) else { return Err(failed(format!("`indent` of {}", a(value)))) };
    let before = match &width {
        None => " ".repeat(4),
        Some(width) => match (text_of(width), whole(width)) {
            (Some(text), _) => text.to_string(),
            (None, Some(n)) if n <= 1000 => " ".repeat(usize::try_from(n).unwrap_or(0)),
            _ => return Err(refused("an `indent` by more than 1000, or by no number")),
        },
    };
    // With this end, a line feed at the end of the text is a blank line of its own.
    let text = format!("{text}\n");
    let lines = lines(&text, false);
    budget.bytes(lines.len().saturating_mul(before.len()).saturating_add(text.len()))?;
    let mut out = String::new();
    for (n, line) in lines.iter().enumerate() {
        out.push_str(if n > 0 { "\n" } else { "" });
        let indents = if n == 0 { first } else { blank || !line.is_empty() };
        out.push_str(if indents { &before } else { "" });
        out.push_str(line);
    }
    Ok(out)
}

/// A number in a text, without the underscores that Python lets stand between digits.
fn digits(text: &str) -> Option<String> {
    let text = stripped(text, None, true, true);
    let around = |at: usize| {
        let bytes = text.as_bytes();
        let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
        digit(at.checked_sub(1)) && digit(Some(at + 1))
    };
    let sound = text.match_indices('_').all(|(at, _)| around(at));
    sound.then(|| text.replace('_', ""))
}

fn integer(value: &Value, default: Option<Value>) -> Result<Value> {
    let default = || default.unwrap_or_else(|| Value::from(0));
    let of_float = |n: f64| match n.is_finite() && n.abs() < 1e30 {
        true => Ok(python::int(n as i128)),
        false => Err(refused("`int` of a number with more than 100 bits")),
    };
    match Number::of(value) {
        Some(Number::Int(n)) => return Ok(python::int(n)),
        Some(Number::Float(n)) => return of_float(n),
        None => {}
    }
    match value.kind() {
        ValueKind::String => {
            let text = text_of(value).unwrap_or_default();
            if text.chars().any(|c| !c.is_ascii() && c.is_numeric()) {
                return Err(refused("`int` of digits beyond ASCII"));
            }
            let Some(text) = digits(text) else { return Ok(default()) };
            let body = text.strip_prefix(['+', '-']).unwrap_or(&text);
            if !body.is_empty() && body.bytes().all(|c| c.is_ascii_digit()) {
                return text
                    .parse()
                    .map(python::int)
                    .map_err(|_| refused("a number with more than 128 bits"));
            }
            match float_of(&text) {
                Some(n) if n.is_finite() => of_float(n),
                _ => Ok(default()),
            }
        }
        ValueKind::Undefined => Err(failed("`int` of an undefined value")),
        _ => Ok(default()),
    }
}

/// `float(text)`, where Rust reads no more than Python.
fn float_of(text: &str) -> Option<f64> {
    text.bytes().all(|c| c.is_ascii()).then(|| text.parse().ok()).flatten()
}

fn fraction(value: &Value, default: Option<Value>) -> Result<Value> {
    if let Some(number) = Number::of(value) {
        return Ok(Value::from(number.float()));
    }
    let default = || default.unwrap_or_else(|| Value::from(0.0));
    match value.kind() {
        ValueKind::String => {
            let text = text_of(value).unwrap_or_default();
            if text.chars().any(|c| !c.is_ascii() && c.is_numeric()) {
                return Err(refused("`float` of digits beyond ASCII"));
            }
            Ok(digits(text).and_then(|text| float_of(&text)).map_or_else(default, Value::from))
        }
        ValueKind::Undefined => Err(failed("`float` of an undefined value")),
        _ => Ok(default()),
    }
}

fn rounded(value: &Value, precision: Option<Value>, method: Option<Value>) -> Result<Value> {
    let number = Number::of(value).ok_or_else(|| failed(format!("`round` of {}", a(value))))?;
    let precision = precision.map_or(Some(0), |precision| whole(&precision));
    let precision = precision.and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= 15);
    let precision = precision.ok_or_else(|| refused("`round` to more than 15 digits, or fewer than none"))?;
    let scale = 10_f64.powi(i32::try_from(precision).unwrap_or(0));
    Ok(match (method.as_ref().map_or(Some("common"), text_of), number) {
        (Some("common"), Number::Int(n)) => python::int(n),
        (Some("common"), Number::Float(n)) => Value::from(format!("{n:.precision$}").parse().unwrap_or(n)),
        (Some("ceil"), number) => Value::from((number.float() * scale).ceil() / scale),
        (Some("floor"), number) => Value::from((number.float() * scale).floor() / scale),
        _ => return Err(failed("`round` is `common`, `ceil` or `floor`")),
    })
}

/// `value | map(filter, …)`, `value | map(attribute=…, default=…)`
fn mapped(budget: &Budget, state: &mut State<'_, '_>, value: &Value, given: Given) -> Result<Value> {
    // Falsy values have no items in Jinja's `map`, whatever they are.
    let items = if value.is_true() { python::items(budget, value)? } else { Vec::new() };
    let mut made = Vec::with_capacity(items.len());
    if given.positional.is_empty() {
        let [path, default] = given.bind("map", ["attribute", "default"])?;
        let path = path.ok_or_else(|| failed("`map` needs a filter or an attribute"))?;
        for item in &items {
            let found = at_path(budget, item, Some(&path))?;
            made.push(default.clone().filter(|_| found.is_undefined()).unwrap_or(found));
        }
    } else {
        let (name, given) = given.split();
        let name =
            name.as_ref().and_then(text_of).ok_or_else(|| failed("`map` needs a filter's name"))?.to_string();
        for item in &items {
            let one = filter(budget, state, &name, item, given.clone())?;
            budget.plain(&one)?;
            made.push(one);
        }
    }
    Ok(python::generator(made))
}

/// `value | select(test, …)`, and its three relatives.
fn selected(budget: &Budget, name: &str, value: &Value, given: Given) -> Result<Value> {
    let items = if value.is_true() { python::items(budget, value)? } else { Vec::new() };
    let (path, given) = if name.ends_with("attr") { given.split() } else { (None, given) };
    if name.ends_with("attr") && path.is_none() {
        return Err(failed(format!("`{name}` needs an attribute")));
    }
    let (by, given) = given.split();
    let wanted = name.starts_with("select");
    let mut kept = Vec::new();
    for item in items {
        let subject = at_path(budget, &item, path.as_ref())?;
        let is = match &by {
            None => subject.is_true(),
            Some(by) => {
                let by = text_of(by).ok_or_else(|| failed(format!("`{name}` needs a test's name")))?;
                test(budget, by, &subject, given.clone())?
            }
        };
        if is == wanted {
            kept.push(item);
        }
    }
    Ok(python::generator(kept))
}
