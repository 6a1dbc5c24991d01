//! Methods of texts, mappings, lists and loops.

use super::super::python::{self, text_of, whole};
use super::filters::joined;
use super::{
    Budget, Given, Result, a, ascii_only, capitalized, failed, is_object, is_space, lines, padded, pairs,
    refused, replaced, stripped, text_argument, truth, view_of,
};
use minijinja::value::{Tuple, ValueKind};
use minijinja::{State, Value};
use minijinja_contrib::pycompat;

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
pub(in super::super) fn method(
    budget: &Budget,
    state: &mut State<'_, '_>,
    name: &str,
    value: &Value,
    args: Given,
) -> Result<Value> {
    budget.steps(value.as_str().map_or(1, |text| 1 + text.len() / 16))?;
    let unknown = || Err(refused(format!("the method `{name}` of {}", a(value))));
    match value.kind() {
        ValueKind::String => {}
        ValueKind::Undefined => return Err(failed(format!("`{name}` of an undefined value"))),
        ValueKind::Map if !is_object(value) => return of_map(budget, name, value, args),
        ValueKind::Seq => return of_list(budget, name, value, args),
        // A loop's. What a namespace holds is no function.
        ValueKind::Map if matches!(name, "cycle" | "changed") => {
            return value.call_method(state, name, &args.positional);
        }
        ValueKind::Plain => return value.call_method(state, name, &args.positional),
        ValueKind::None | ValueKind::Bool | ValueKind::Number if !python::is_member(value, name) => {
            return Err(failed(format!("{} has no method `{name}`", a(value))));
        }
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
            Value::from(stripped(
                subject,
                text(chars.as_ref())?.as_deref(),
                name != "rstrip",
                name != "lstrip",
            ))
        }
        "center" | "ljust" | "rjust" => {
            let [width, filler] = given.bind(name, ["width", "fillchar"])?;
            let filler = match filler {
                None => ' ',
                Some(filler) => {
                    match text_of(&filler).map(|text| (text.chars().next(), text.chars().count())) {
                        Some((Some(filler), 1)) => filler,
                        _ => return Err(failed(format!("`{name}` fills with one character"))),
                    }
                }
            };
            let width = width.ok_or_else(|| failed(format!("`{name}` needs a width")))?;
            Value::from(padded(budget, subject, &width, filler, name)?)
        }
        "zfill" => {
            let [width] = given.bind(name, ["width"])?;
            let width =
                width.as_ref().and_then(whole).ok_or_else(|| failed("`zfill` needs a whole number"))?;
            let body = subject.strip_prefix(['+', '-']).unwrap_or(subject);
            let sign = subject.strip_suffix(body).unwrap_or_default();
            let width = Value::from(width.saturating_sub(sign.len() as i128));
            Value::from(format!("{sign}{}", padded(budget, body, &width, '0', "rjust")?))
        }
        "removeprefix" | "removesuffix" => {
            let [part] = given.bind(name, ["part"])?;
            let part = needed(part.as_ref())?;
            let rest = if name == "removeprefix" {
                subject.strip_prefix(&part)
            } else {
                subject.strip_suffix(&part)
            };
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
            let pieces =
                pieces(budget, name == "rsplit", subject, text(separator.as_ref())?.as_deref(), most)?;
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
            let found = if name == "partition" {
                subject.split_once(&separator)
            } else {
                subject.rsplit_once(&separator)
            };
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
            let (lower, upper) =
                (subject.chars().any(char::is_lowercase), subject.chars().any(char::is_uppercase));
            Value::from(if name == "islower" { lower && !upper } else { upper && !lower })
        }
        _ => return Ok(None),
    }))
}

/// `split` and `rsplit`.
fn pieces(
    budget: &Budget,
    from_right: bool,
    text: &str,
    separator: Option<&str>,
    most: i128,
) -> Result<Vec<Value>> {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let Some(separator) = separator else {
        let words = text.split(is_space).filter(|word| !word.is_empty());
        budget.entries(words.clone().count())?;
        if most < words.clone().count() {
            return Ok(cut_words(from_right, text, most));
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
            Ok(python::entry(budget, map, &key)?
                .unwrap_or_else(|| default.unwrap_or_else(|| Value::from(()))))
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
            Ok(view_of(&format!("dict_{name}"), view))
        }
        "copy" => {
            given.none(name)?;
            Ok(map.clone())
        }
        _ if python::is_member(map, name) => Err(refused(format!("the method `{name}` of a mapping"))),
        // A key may stand there, which is no function.
        _ => Err(failed(format!("a mapping has no method `{name}`"))),
    }
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
        _ if python::is_member(list, name) => Err(refused(format!("the method `{name}` of a list"))),
        _ => Err(failed(format!("a list has no method `{name}`"))),
    }
}

/// Some words from one side, and the rest as it is, but for the spaces that it begins or ends with where it was cut.
fn cut_words(from_right: bool, text: &str, most: usize) -> Vec<Value> {
    let mut pieces = Vec::new();
    let mut rest = text;
    for _ in 0..most {
        rest = if from_right { rest.trim_end_matches(is_space) } else { rest.trim_start_matches(is_space) };
        let cut = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(cut) = cut else { break };
        let (before, after) = rest.split_at(cut);
        let (piece, left) = match from_right {
            true => (after.trim_start_matches(is_space), before),
            false => (before, after),
        };
        pieces.push(Value::from(piece));
        rest = left;
    }
    rest = if from_right { rest.trim_end_matches(is_space) } else { rest.trim_start_matches(is_space) };
    if !rest.is_empty() {
        pieces.push(Value::from(rest));
    }
    if from_right {
        pieces.reverse();
    }
    pieces
}
