//! Methods of texts. Places and lengths are counted in characters.

use super::super::engine::{Engine, Given};
use super::super::format;
use super::super::value::{Fault, Res, Value, is_space};
use super::text_of;
use std::rc::Rc;

/// `text.name(…)`
pub(super) fn call(engine: &Engine<'_>, text: &Rc<str>, name: &str, given: Given) -> Res<Value> {
    engine.meter.work(text.len())?;
    // What comes out is at most as long as what went in, but for what is counted below.
    engine.bytes(text.len())?;
    match name {
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = given.bind(name, ["chars"])?;
            let chars = text_of(chars, name)?;
            Ok(strip(text, chars.as_deref(), name != "rstrip", name != "lstrip").into())
        }
        "split" | "rsplit" => split(engine, text, name, given),
        "splitlines" => {
            let [keep] = given.bind(name, ["keepends"])?;
            let lines = lines(text, keep.is_some_and(|keep| keep.truth()));
            engine.bytes(lines.len().saturating_mul(48))?;
            Ok(Value::list(lines.into_iter().map(Value::from).collect()))
        }
        "startswith" | "endswith" => {
            let [affix, start, end] = given.bind(name, ["prefix", "start", "end"])?;
            if start.is_some() || end.is_some() {
                return Err(Fault::refused(format!("`{name}` with bounds")));
            }
            let affixes = match affix {
                Some(Value::Tuple(items)) => items.to_vec(),
                Some(one) => vec![one],
                None => return Err(Fault::failed(format!("`{name}` needs a text"))),
            };
            for affix in affixes {
                let Some(affix) = text_of(Some(affix), name)? else {
                    return Err(Fault::failed(format!("`{name}` needs a text, not a NoneType")));
                };
                let holds =
                    if name == "startswith" { text.starts_with(&*affix) } else { text.ends_with(&*affix) };
                if holds {
                    return Ok(true.into());
                }
            }
            Ok(false.into())
        }
        "removeprefix" | "removesuffix" => {
            let [affix] = given.bind(name, ["prefix"])?;
            let Some(affix) = text_of(affix, name)? else {
                return Err(Fault::failed(format!("`{name}` needs a text")));
            };
            let cut =
                if name == "removeprefix" { text.strip_prefix(&*affix) } else { text.strip_suffix(&*affix) };
            Ok(cut.unwrap_or(text).into())
        }
        "replace" => {
            let [old, new, count] = given.bind(name, ["old", "new", "count"])?;
            let (Some(old), Some(new)) = (text_of(old, name)?, text_of(new, name)?) else {
                return Err(Fault::failed("`replace` needs two texts"));
            };
            let count = match count {
                None => -1,
                Some(count) => count.as_int().ok_or_else(|| Fault::failed("`count` is no number"))?,
            };
            Ok(replace(engine, text, &old, &new, count)?.into())
        }
        "join" => {
            let [items] = given.bind(name, ["iterable"])?;
            let Some(items) = items else { return Err(Fault::failed("`join` needs what to join")) };
            let mut out = String::new();
            for (n, item) in engine.items(&items)?.iter().enumerate() {
                let Value::Text(item) = item else {
                    return Err(Fault::failed(format!("`join` needs texts, not a {}", item.kind())));
                };
                engine.bytes(item.len() + text.len())?;
                out.push_str(if n > 0 { text } else { "" });
                out.push_str(item);
            }
            Ok(out.into())
        }
        "find" | "rfind" | "index" | "rindex" | "count" => {
            let [part, start, end] = given.bind(name, ["sub", "start", "end"])?;
            if start.is_some() || end.is_some() {
                return Err(Fault::refused(format!("`{name}` with bounds")));
            }
            let Some(part) = text_of(part, name)? else {
                return Err(Fault::failed(format!("`{name}` needs a text")));
            };
            if name == "count" {
                let count = match part.is_empty() {
                    true => text.chars().count() + 1,
                    false => text.matches(&*part).count(),
                };
                return Ok(Value::count(count));
            }
            let at = if name.starts_with('r') { text.rfind(&*part) } else { text.find(&*part) };
            match at {
                Some(at) => Ok(Value::count(text[..at].chars().count())),
                None if name.ends_with("find") => Ok(Value::Int(-1)),
                None => Err(Fault::failed(format!("`{name}` of what is not there"))),
            }
        }
        "partition" | "rpartition" => {
            let [separator] = given.bind(name, ["sep"])?;
            let separator = text_of(separator, name)?.filter(|text| !text.is_empty());
            let Some(separator) = separator else {
                return Err(Fault::failed(format!("`{name}` needs a text")));
            };
            let right = name == "rpartition";
            let cut = if right { text.rsplit_once(&*separator) } else { text.split_once(&*separator) };
            let parts = match cut {
                Some((before, behind)) => [before, &*separator, behind],
                None if right => ["", "", text],
                None => [text, "", ""],
            };
            Ok(Value::tuple(parts.into_iter().map(Value::from).collect()))
        }
        "center" | "ljust" | "rjust" | "zfill" => {
            let [width, fill] = given.bind(name, ["width", "fillchar"])?;
            let fill = text_of(fill, name)?.unwrap_or_else(|| " ".into());
            let width = width.and_then(|width| width.as_int());
            let Some(width) = width else { return Err(Fault::failed(format!("`{name}` needs a width"))) };
            pad(engine, text, name, usize::try_from(width.max(0)).unwrap_or(usize::MAX), &fill)
        }
        "format" => format::braces(engine, text, given),
        _ => {
            given.none(name)?;
            changed(text, name)
        }
    }
}

/// Methods without arguments.
fn changed(text: &str, name: &str) -> Res<Value> {
    Ok(match name {
        "upper" => text.to_uppercase().into(),
        "lower" => text.to_lowercase().into(),
        "title" => title(text)?.into(),
        "capitalize" => capitalize(text)?.into(),
        "isspace" => Value::Bool(!text.is_empty() && text.chars().all(is_space)),
        "isascii" => Value::Bool(text.is_ascii()),
        "isupper" | "islower" => {
            let cased = text.chars().any(|c| c.is_uppercase() || c.is_lowercase());
            let wrong = |c: char| if name == "isupper" { c.is_lowercase() } else { c.is_uppercase() };
            Value::Bool(cased && !text.chars().any(wrong))
        }
        // The rest is told by classes of characters that this has for ASCII alone.
        _ if !text.is_ascii() => return Err(Fault::refused(format!("`{name}` of text beyond ASCII"))),
        "swapcase" => {
            let swap = |c: char| {
                if c.is_ascii_uppercase() { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() }
            };
            text.chars().map(swap).collect::<String>().into()
        }
        "casefold" => text.to_ascii_lowercase().into(),
        "isdigit" | "isnumeric" | "isdecimal" => {
            Value::Bool(!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
        }
        "isalpha" => Value::Bool(!text.is_empty() && text.bytes().all(|b| b.is_ascii_alphabetic())),
        "isalnum" => Value::Bool(!text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric())),
        other => return Err(Fault::refused(format!("the method `{other}` of a text"))),
    })
}

/// Without characters of `chars`, or whitespace, at the ends that are named.
pub(in super::super) fn strip<'t>(text: &'t str, chars: Option<&str>, left: bool, right: bool) -> &'t str {
    let goes = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if left { text.trim_start_matches(goes) } else { text };
    if right { text.trim_end_matches(goes) } else { text }
}

/// With the first `count` of `old` replaced; all where it is negative.
pub(in super::super) fn replace(
    engine: &Engine<'_>,
    text: &str,
    old: &str,
    new: &str,
    count: i128,
) -> Res<String> {
    let most = if count < 0 { usize::MAX } else { usize::try_from(count).unwrap_or(usize::MAX) };
    let places = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
    engine.bytes(text.len().saturating_add(new.len().saturating_mul(places.min(most))))?;
    Ok(text.replacen(old, new, most))
}

fn split(engine: &Engine<'_>, text: &str, name: &str, given: Given) -> Res<Value> {
    let [separator, most] = given.bind(name, ["sep", "maxsplit"])?;
    let most = match most {
        None => usize::MAX,
        Some(most) => match most.as_int() {
            Some(n) if n < 0 => usize::MAX,
            Some(n) => usize::try_from(n).unwrap_or(usize::MAX),
            None => return Err(Fault::failed("`maxsplit` is no number")),
        },
    };
    let right = name == "rsplit";
    let parts: Vec<&str> = match text_of(separator, name)? {
        Some(separator) if separator.is_empty() => return Err(Fault::failed("`split` by nothing")),
        Some(separator) => {
            let parts_max = most.saturating_add(1);
            match right {
                false => text.splitn(parts_max, &*separator).collect(),
                true => {
                    let mut parts: Vec<&str> = text.rsplitn(parts_max, &*separator).collect();
                    parts.reverse();
                    parts
                }
            }
        }
        None => words(text, most, right),
    };
    engine.bytes(parts.len().saturating_mul(48))?;
    Ok(Value::list(parts.into_iter().map(Value::from).collect()))
}

/// Split at whitespace, at most `most` times; what is left then keeps the whitespace at its far end.
fn words(text: &str, most: usize, right: bool) -> Vec<&str> {
    let trim = |text: &'_ str| {
        if right { text.trim_end_matches(is_space) } else { text.trim_start_matches(is_space) }.len()
    };
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let length = trim(rest);
        rest = if right { &rest[..length] } else { &rest[rest.len() - length..] };
        if rest.is_empty() {
            break;
        }
        let cut = if right { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(cut) = cut.filter(|_| parts.len() < most) else {
            parts.push(rest);
            break;
        };
        let width = rest[cut..].chars().next().map_or(1, char::len_utf8);
        let (word, others) = match right {
            true => (&rest[cut + width..], &rest[..cut]),
            false => (&rest[..cut], &rest[cut..]),
        };
        parts.push(word);
        rest = others;
    }
    if right {
        parts.reverse();
    }
    parts
}

/// Lines as Python's `splitlines` cuts them.
pub(in super::super) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let breaks = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(breaks).unwrap_or(rest.len());
        let width = match &rest[end..] {
            behind if behind.starts_with("\r\n") => 2,
            behind => behind.chars().next().map_or(0, char::len_utf8),
        };
        lines.push(&rest[..if keep_ends { end + width } else { end }]);
        rest = &rest[end + width..];
    }
    lines
}

/// Letters whose form at the start of a word is neither their upper nor their lower case.
fn has_title_case(c: char) -> bool {
    !c.is_ascii() && c.to_uppercase().count() > 1
        || matches!(u32::from(c), 0x1c4..=0x1cc | 0x1f1..=0x1f3 | 0x10d0..=0x10ff | 0x1f80..=0x1ffc)
}

fn refuse_title(c: char) -> Box<Fault> {
    Fault::refused(format!("the upper case of `{c}` at the start of a word"))
}

/// The first letter in upper case, the rest in lower.
pub(in super::super) fn capitalize(text: &str) -> Res<String> {
    let Some(first) = text.chars().next() else { return Ok(String::new()) };
    if has_title_case(first) {
        return Err(refuse_title(first));
    }
    // The whole decides how its last sigma is written.
    let lower = text.to_lowercase();
    Ok(first.to_uppercase().chain(lower.chars().skip(first.to_lowercase().count())).collect())
}

/// Each letter behind one that has no case in upper case, all others in lower.
fn title(text: &str) -> Res<String> {
    let lower = text.to_lowercase();
    // Lower case may take more letters than there were.
    if lower.chars().count() != text.chars().count() {
        return Err(Fault::refused("`title` of letters whose lower case is several"));
    }
    let mut out = String::with_capacity(text.len());
    let mut in_word = false;
    for (c, lower) in text.chars().zip(lower.chars()) {
        let cased = c.is_uppercase() || c.is_lowercase();
        if cased && !in_word {
            if has_title_case(c) {
                return Err(refuse_title(c));
            }
            out.extend(c.to_uppercase());
        } else {
            out.push(lower);
        }
        in_word = cased;
    }
    Ok(out)
}

fn pad(engine: &Engine<'_>, text: &str, name: &str, width: usize, fill: &str) -> Res<Value> {
    if fill.chars().count() != 1 {
        return Err(Fault::failed(format!("`{name}` fills with one character")));
    }
    let missing = width.saturating_sub(text.chars().count());
    engine.bytes(text.len().saturating_add(missing.saturating_mul(fill.len())))?;
    Ok(match name {
        "zfill" => {
            let sign = usize::from(text.starts_with(['-', '+']));
            format!("{}{}{}", &text[..sign], "0".repeat(missing), &text[sign..])
        }
        "ljust" => format!("{text}{}", fill.repeat(missing)),
        "rjust" => format!("{}{text}", fill.repeat(missing)),
        _ => {
            // The odd one goes left where the width is odd.
            let left = missing / 2 + (missing & width & 1);
            format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left))
        }
    }
    .into())
}

/// `center` as the filter of that name has it.
pub(in super::super) fn centred(engine: &Engine<'_>, text: &str, width: usize) -> Res<Value> {
    pad(engine, text, "center", width, " ")
}
