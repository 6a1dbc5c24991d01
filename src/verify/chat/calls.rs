//! Filters, tests and methods by their names: what of Jinja's and Python's is rendered, for which arguments.
//!
//! minijinja's own filters and the methods of its `pycompat` serve where they agree with Python on what they are given
//! here; the rest is written on `python`'s values. A name, an argument or a type that is not listed is refused.

use super::budget::{Budget, a, failed, is_namespace, refused};
use super::python::{self, Number, text, text_of, whole};
use minijinja::value::{Kwargs, Tuple, ValueKind};
use minijinja::{Error, State, Value};
use minijinja_contrib::pycompat;
use std::cmp::Ordering::{self, Equal, Greater, Less};

type Result<T> = std::result::Result<T, Error>;

/// The arguments of a call.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) positional: Vec<Value>,
    pub(super) named: Vec<(String, Value)>,
}

impl Given {
    /// Of a call's arguments, those without a name and those with.
    pub(super) fn of(positional: Vec<Value>, kwargs: &Kwargs) -> Result<Given> {
        let named = kwargs.args().map(|name| Ok((name.to_string(), kwargs.peek::<Value>(name)?)));
        Ok(Given { positional, named: named.collect::<Result<_>>()? })
    }

    /// The arguments in the order of a function's parameters.
    pub(super) fn bind<const N: usize>(self, of: &str, parameters: [&str; N]) -> Result<[Option<Value>; N]> {
        let mut bound = [const { None }; N];
        if self.positional.len() > N {
            return Err(failed(format!("`{of}` takes at most {N} arguments")));
        }
        for (place, value) in bound.iter_mut().zip(self.positional) {
            *place = Some(value);
        }
        for (name, value) in self.named {
            match parameters.iter().position(|parameter| *parameter == name).and_then(|n| bound.get_mut(n)) {
                Some(place @ None) => *place = Some(value),
                Some(_) => return Err(failed(format!("`{of}` is given `{name}` twice"))),
                None => return Err(failed(format!("`{of}` has no parameter `{name}`"))),
            }
        }
        Ok(bound)
    }

    fn none(self, of: &str) -> Result<()> {
        self.bind(of, []).map(|_: [_; 0]| ())
    }

    /// The first argument, and the others.
    pub(super) fn split(mut self) -> (Option<Value>, Given) {
        match self.positional.is_empty() {
            true => (None, self),
            false => (Some(self.positional.remove(0)), self),
        }
    }
}

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
        let ends =
            matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
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

/// `value | name(…)`
pub(super) fn filter(budget: &Budget, state: &mut State<'_, '_>, name: &str, value: &Value, given: Given) -> Result<Value> {
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
        "tojson" => super::json::dumps(budget, value, given)?,
        "length" | "count" => {
            given.none(name)?;
            return Ok(Value::from(length(value)?));
        }
        "first" | "last" => {
            given.none(name)?;
            if name == "last" && value.kind() == ValueKind::Iterable {
                return Err(refused("`last` of an iterator"));
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
                ValueKind::Map if !is_namespace(value) => Ok(python::generator(pairs(budget, value)?)),
                _ => Err(failed(format!("`items` of {}", a(value)))),
            };
        }
        "dictsort" => {
            let [cased, by, reverse] = given.bind(name, ["case_sensitive", "by", "reverse"])?;
            if value.kind() != ValueKind::Map || is_namespace(value) {
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
                if !matches!(key.kind(), ValueKind::String | ValueKind::Number | ValueKind::Bool | ValueKind::None) {
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

fn has(budget: &Budget, seen: &[Value], key: &Value) -> Result<bool> {
    seen.iter().try_fold(false, |found, known| Ok(found || python::equal(budget, known, key)?))
}

fn length(value: &Value) -> Result<usize> {
    match value.kind() {
        ValueKind::Undefined => Ok(0),
        ValueKind::Map if is_namespace(value) => Err(failed("the length of a namespace")),
        ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => {
            value.len().ok_or_else(|| failed("the length of an iterator"))
        }
        _ => Err(failed(format!("the length of {}", a(value)))),
    }
}

/// Key and value of each entry.
fn pairs(budget: &Budget, map: &Value) -> Result<Vec<Value>> {
    budget.entries(map.len().unwrap_or(0).saturating_mul(4))?;
    map.try_iter()?.map(|key| Ok(Value::from(Tuple::from([key.clone(), map.get_item(&key)?])))).collect()
}

/// `value`, or what stands under a path in it: names and indices, with points between.
fn at_path(budget: &Budget, value: &Value, path: Option<&Value>) -> Result<Value> {
    let Some(path) = path.filter(|path| !path.is_none()) else { return Ok(value.clone()) };
    if whole(path).is_some() {
        return python::item(budget, value, path);
    }
    let path = text_of(path).ok_or_else(|| refused(format!("{} as an attribute", a(path))))?;
    path.split('.').try_fold(value.clone(), |value, part| match part.parse::<i64>() {
        Ok(index) if part.bytes().all(|c| c.is_ascii_digit()) => python::item(budget, &value, &Value::from(index)),
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
        let order = if reverse { python::order(budget, y, x) } else { python::order(budget, x, y) };
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

fn joined(budget: &Budget, value: &Value, between: &str, path: Option<&Value>) -> Result<Value> {
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
fn indented(budget: &Budget, value: &Value, width: Option<Value>, first: bool, blank: bool) -> Result<String> {
    let Some(text) = text_of(value) else { return Err(refused(format!("`indent` of {}", a(value)))) };
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
                return text.parse().map(python::int).map_err(|_| refused("a number with more than 128 bits"));
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
        let name = name.as_ref().and_then(text_of).ok_or_else(|| failed("`map` needs a filter's name"))?.to_string();
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
        "eq" | "equalto" | "==" | "ne" | "!=" | "lt" | "lessthan" | "<" | "le" | "<=" | "gt" | "greaterthan" | ">"
            | "ge" | ">=" | "in" | "divisibleby" | "sameas"
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
        "mapping" => kind == Map && !is_namespace(value),
        "iterable" => matches!(kind, Text | Seq | Iterable | Undefined) || kind == Map && !is_namespace(value),
        "sequence" => match kind {
            Iterable | Plain => return Err(refused(format!("`sequence` of {}", a(value)))),
            _ => matches!(kind, Text | Seq | Undefined) || kind == Map && !is_namespace(value),
        },
        "callable" => kind == Undefined || kind == Plain,
        "lower" | "upper" => {
            let text = text(budget, value)?;
            let (lower, upper) = (text.chars().any(char::is_lowercase), text.chars().any(char::is_uppercase));
            if name == "lower" { lower && !upper } else { upper && !lower }
        }
        _ => return Err(refused(format!("the test `{name}`"))),
    })
}

/// Methods of texts that `pycompat` carries out, for arguments of these types: `s` a text, `i` a whole number, `S` a text
/// or a tuple of texts.
const OF_PYCOMPAT: &[(&str, &str)] = &[
    ("upper", ""),
    ("lower", ""),
    ("isascii", ""),
    ("startswith", "S"),
    ("endswith", "S"),
    ("find", "s"),
    ("rfind", "s"),
    ("count", "s"),
];

/// `value.name(…)`
pub(super) fn method(budget: &Budget, state: &mut State<'_, '_>, name: &str, value: &Value, args: Given) -> Result<Value> {
    budget.steps(value.as_str().map_or(1, |text| 1 + text.len() / 16))?;
    let unknown = || Err(refused(format!("the method `{name}` of {}", a(value))));
    match value.kind() {
        ValueKind::String => {}
        ValueKind::Undefined => return Err(failed(format!("`{name}` of an undefined value"))),
        ValueKind::Map if !is_namespace(value) => return of_map(budget, name, value, args),
        ValueKind::Seq => return of_list(budget, name, value, args),
        // What a namespace holds is no function, and of a loop's methods these two.
        ValueKind::Plain if matches!(name, "cycle" | "changed") => return value.call_method(state, name, &args.positional),
        _ => return unknown(),
    }
    let subject = text_of(value).unwrap_or_default();
    if let Some((_, kinds)) = OF_PYCOMPAT.iter().find(|(known, _)| *known == name) {
        let fits = |(kind, arg): (char, &Value)| match kind {
            's' => text_of(arg).is_some(),
            _ => {
                let texts = |tuple: &Value| {
                    tuple.try_iter().is_ok_and(|mut items| items.all(|item| text_of(&item).is_some()))
                };
                text_of(arg).is_some() || arg.is_tuple() && texts(arg)
            }
        };
        let args = args.positional;
        if args.len() != kinds.len() || !kinds.chars().zip(&args).all(fits) {
            return Err(refused(format!("`{name}` of a text with these arguments")));
        }
        budget.bytes(subject.len().saturating_mul(3))?;
        if name == "count" && args.first().and_then(text_of) == Some("") {
            return Ok(Value::from(subject.chars().count() + 1));
        }
        return pycompat::unknown_method_callback(state, value, name, &args);
    }
    of_text(budget, name, subject, args).transpose().unwrap_or_else(unknown)
}

fn of_text(budget: &Budget, name: &str, subject: &str, given: Given) -> Result<Option<Value>> {
    budget.bytes(subject.len())?;
    let text = |value: Option<&Value>| text_argument(name, value);
    let needed = |value: Option<&Value>| {
        value.and_then(text_of).map(String::from).ok_or_else(|| failed(format!("`{name}` needs a text")))
    };
    // Methods take no names, but for these.
    if !given.named.is_empty() && !matches!(name, "split" | "rsplit" | "splitlines") {
        return Err(refused(format!("`{name}` of a text with named arguments")));
    }
    Ok(Some(match name {
        "capitalize" => {
            given.none(name)?;
            Value::from(capitalized(subject)?)
        }
        "title" => {
            given.none(name)?;
            ascii_only(subject, name)?;
            let mut inside = false;
            let mut cased = |c: char| {
                let made = if inside { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() };
                inside = c.is_ascii_alphabetic();
                made
            };
            Value::from(subject.chars().map(&mut cased).collect::<String>())
        }
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = given.bind(name, ["chars"])?;
            Value::from(stripped(subject, text(chars.as_ref())?.as_deref(), name != "rstrip", name != "lstrip"))
        }
        "removeprefix" | "removesuffix" => {
            let [part] = given.bind(name, ["part"])?;
            let part = needed(part.as_ref())?;
            let rest = if name == "removeprefix" { subject.strip_prefix(&part) } else { subject.strip_suffix(&part) };
            Value::from(rest.unwrap_or(subject))
        }
        "replace" => {
            let [old, new, count] = given.bind(name, ["old", "new", "count"])?;
            let count = match count {
                None => -1,
                Some(count) => whole(&count).ok_or_else(|| failed("the count of `replace` is no number"))?,
            };
            replaced(budget, subject, &needed(old.as_ref())?, &needed(new.as_ref())?, count)?
        }
        "split" | "rsplit" => {
            let [separator, most] = given.bind(name, ["sep", "maxsplit"])?;
            let most = match most {
                None => -1,
                Some(most) => whole(&most).ok_or_else(|| failed("`maxsplit` is no whole number"))?,
            };
            let pieces = pieces(budget, name == "rsplit", subject, text(separator.as_ref())?.as_deref(), most)?;
            python::list(pieces)
        }
        "splitlines" => {
            let [keep] = given.bind(name, ["keepends"])?;
            let ends = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
            budget.entries(subject.chars().filter(|c| ends(*c)).count() + 1)?;
            python::list(lines(subject, truth(keep)).into_iter().map(Value::from).collect())
        }
        "partition" | "rpartition" => {
            let [separator] = given.bind(name, ["sep"])?;
            let separator = needed(separator.as_ref())?;
            if separator.is_empty() {
                return Err(failed("an empty separator"));
            }
            let found = if name == "partition" { subject.split_once(&separator) } else { subject.rsplit_once(&separator) };
            let parts = match found {
                Some((before, after)) => [before, &separator, after],
                None if name == "partition" => [subject, "", ""],
                None => ["", "", subject],
            };
            Value::from(Tuple::from(parts.map(Value::from)))
        }
        "join" => {
            let [parts] = given.bind(name, ["iterable"])?;
            let parts = python::items(budget, &parts.ok_or_else(|| failed("`join` needs a list"))?)?;
            if let Some(other) = parts.iter().find(|part| text_of(part).is_none()) {
                return Err(failed(format!("`join` of {}", a(other))));
            }
            joined(budget, &python::list(parts), subject, None)?
        }
        "isdigit" | "isnumeric" | "isdecimal" | "isalnum" | "isalpha" | "isspace" => {
            given.none(name)?;
            ascii_only(subject, name)?;
            let is = |c: char| match name {
                "isalnum" => c.is_ascii_alphanumeric(),
                "isalpha" => c.is_ascii_alphabetic(),
                "isspace" => is_space(c),
                _ => c.is_ascii_digit(),
            };
            Value::from(!subject.is_empty() && subject.chars().all(is))
        }
        "islower" | "isupper" => {
            given.none(name)?;
            let (lower, upper) = (subject.chars().any(char::is_lowercase), subject.chars().any(char::is_uppercase));
            Value::from(if name == "islower" { lower && !upper } else { upper && !lower })
        }
        _ => return Ok(None),
    }))
}

/// `split` and `rsplit`.
fn pieces(budget: &Budget, from_right: bool, text: &str, separator: Option<&str>, most: i128) -> Result<Vec<Value>> {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let Some(separator) = separator else {
        let words = text.split(is_space).filter(|word| !word.is_empty());
        budget.entries(words.clone().count())?;
        if most < words.clone().count() {
            return Err(refused("a `split` at the first of many spaces"));
        }
        return Ok(words.map(Value::from).collect());
    };
    if separator.is_empty() {
        return Err(failed("an empty separator"));
    }
    budget.entries(text.matches(separator).count() + 1)?;
    let pieces = most.saturating_add(1);
    Ok(match from_right {
        true => {
            let mut pieces: Vec<Value> = text.rsplitn(pieces, separator).map(Value::from).collect();
            pieces.reverse();
            pieces
        }
        false => text.splitn(pieces, separator).map(Value::from).collect(),
    })
}

fn of_map(budget: &Budget, name: &str, map: &Value, given: Given) -> Result<Value> {
    if !given.named.is_empty() {
        return Err(failed(format!("`{name}` takes no named arguments")));
    }
    match name {
        "get" => {
            let [key, default] = given.bind(name, ["key", "default"])?;
            let key = key.ok_or_else(|| failed("`get` needs a key"))?;
            if matches!(key.kind(), ValueKind::Seq | ValueKind::Map) {
                return Err(failed(format!("{} is no key", a(&key))));
            }
            Ok(python::entry(budget, map, &key)?.unwrap_or_else(|| default.unwrap_or_else(|| Value::from(()))))
        }
        // Views: walked again each time, with a length, and no list.
        "keys" | "values" | "items" => {
            given.none(name)?;
            let view = match name {
                "items" => pairs(budget, map)?,
                "keys" => python::items(budget, map)?,
                _ => {
                    budget.entries(map.len().unwrap_or(0))?;
                    map.try_iter()?.map(|key| map.get_item(&key)).collect::<Result<_>>()?
                }
            };
            Ok(view_of(view))
        }
        "copy" => {
            given.none(name)?;
            Ok(map.clone())
        }
        _ => Err(refused(format!("the method `{name}` of a mapping"))),
    }
}

/// Values that can be walked as often as one likes, and are no list.
pub(super) fn view_of(values: Vec<Value>) -> Value {
    Value::make_object_iterable(values, |values| Box::new(values.iter().cloned()))
}

fn of_list(budget: &Budget, name: &str, list: &Value, given: Given) -> Result<Value> {
    if !given.named.is_empty() {
        return Err(failed(format!("`{name}` takes no named arguments")));
    }
    match name {
        "count" | "index" => {
            let [wanted] = given.bind(name, ["value"])?;
            let wanted = wanted.ok_or_else(|| failed(format!("`{name}` needs a value")))?;
            let mut count = 0_usize;
            for (index, item) in list.try_iter()?.enumerate() {
                if python::equal(budget, &item, &wanted)? {
                    if name == "index" {
                        return Ok(Value::from(index));
                    }
                    count += 1;
                }
            }
            match name {
                "count" => Ok(Value::from(count)),
                _ => Err(failed("`index` of what is not in the list")),
            }
        }
        "copy" if !list.is_tuple() => {
            given.none(name)?;
            Ok(list.clone())
        }
        _ => Err(refused(format!("the method `{name}` of a list"))),
    }
}
