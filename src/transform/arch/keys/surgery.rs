//! A key as a person types it: `--meta KEY=TYPE:VALUE`.

use crate::checkpoint::{MetaArray, MetaKind, MetaValue};
use crate::error::{Error, Result};
use crate::text::Shown;

/// A type's name and its kind. GGUF's names, and those of llama.cpp's tools.
const TYPES: &[(&str, MetaKind)] = &[
    ("u8", MetaKind::U8),
    ("i8", MetaKind::I8),
    ("u16", MetaKind::U16),
    ("i16", MetaKind::I16),
    ("u32", MetaKind::U32),
    ("i32", MetaKind::I32),
    ("u64", MetaKind::U64),
    ("i64", MetaKind::I64),
    ("f32", MetaKind::F32),
    ("f64", MetaKind::F64),
    ("bool", MetaKind::Bool),
    ("str", MetaKind::Text),
    ("string", MetaKind::Text),
];

/// The longest key that a GGUF may have.
const KEY_BYTES_MAX: usize = 65_535;

/// Key and value from `KEY=TYPE:VALUE`. TYPE is one of u8, i8, u16, i16, u32, i32, u64, i64, f32, f64, bool, str, or an
/// array of one of them, `arr[i32]`, with items between commas. The value of a `str` is all that follows the colon; in an
/// array of `str` a comma or a backslash of the text is written after a backslash.
///
/// `Usage` where the text is not of that form or the value does not fit its type.
pub fn parse_meta(text: &str) -> Result<(String, MetaValue)> {
    let form = || {
        usage(format!("`{}` is not of the form KEY=TYPE:VALUE", Shown(text)))
            .hint("for example general.name=str:My model, or llama.context_length=u32:8192")
    };
    let (key, rest) = text.split_once('=').ok_or_else(form)?;
    let (kind, value) = rest.split_once(':').ok_or_else(form)?;
    if key.is_empty() || key.len() > KEY_BYTES_MAX || key.chars().any(|c| c.is_whitespace() || c.is_control())
    {
        return Err(usage(format!("`{}` is no key: keys are words with dots between them", Shown(key))));
    }
    let array = kind.strip_prefix("arr[").and_then(|inner| inner.strip_suffix(']'));
    let name = array.unwrap_or(kind);
    let Some((_, kind)) = TYPES.iter().find(|(known, _)| *known == name) else {
        let known: Vec<&str> = TYPES.iter().map(|(name, _)| *name).collect();
        return Err(usage(format!("`{}` is no type of a key", Shown(name)))
            .hint(format!("the types are {}, and arr[…] of one of them", known.join(", "))));
    };
    let value = match array {
        Some(_) => MetaValue::Array(array_of(key, *kind, value)?),
        None => scalar(key, *kind, value)?,
    };
    Ok((key.to_owned(), value))
}

fn usage(message: String) -> Error {
    Error::usage(message)
}

fn scalar(key: &str, kind: MetaKind, value: &str) -> Result<MetaValue> {
    let wrong = || {
        let limits = limits(kind).map_or(String::new(), |(low, high)| format!(" from {low} to {high}"));
        let what = match kind {
            MetaKind::F32 | MetaKind::F64 => "a finite number",
            MetaKind::Bool => "true or false",
            _ => "a whole number",
        };
        usage(format!(
            "`{}` is no {} for the key `{}`, which needs {what}{limits}",
            Shown(value),
            kind.name(),
            Shown(key)
        ))
    };
    Ok(match kind {
        MetaKind::U8 => MetaValue::U8(value.parse().map_err(|_| wrong())?),
        MetaKind::I8 => MetaValue::I8(value.parse().map_err(|_| wrong())?),
        MetaKind::U16 => MetaValue::U16(value.parse().map_err(|_| wrong())?),
        MetaKind::I16 => MetaValue::I16(value.parse().map_err(|_| wrong())?),
        MetaKind::U32 => MetaValue::U32(value.parse().map_err(|_| wrong())?),
        MetaKind::I32 => MetaValue::I32(value.parse().map_err(|_| wrong())?),
        MetaKind::U64 => MetaValue::U64(value.parse().map_err(|_| wrong())?),
        MetaKind::I64 => MetaValue::I64(value.parse().map_err(|_| wrong())?),
        MetaKind::F32 => {
            MetaValue::F32(value.parse().ok().filter(|x: &f32| x.is_finite()).ok_or_else(wrong)?)
        }
        MetaKind::F64 => {
            MetaValue::F64(value.parse().ok().filter(|x: &f64| x.is_finite()).ok_or_else(wrong)?)
        }
        MetaKind::Bool => match value {
            "true" => MetaValue::Bool(true),
            "false" => MetaValue::Bool(false),
            _ => return Err(wrong()),
        },
        MetaKind::Text | MetaKind::Array => value.into(),
    })
}

fn limits(kind: MetaKind) -> Option<(i64, u64)> {
    Some(match kind {
        MetaKind::U8 => (0, u8::MAX.into()),
        MetaKind::I8 => (i8::MIN.into(), 127),
        MetaKind::U16 => (0, u16::MAX.into()),
        MetaKind::I16 => (i16::MIN.into(), 32_767),
        MetaKind::U32 => (0, u32::MAX.into()),
        MetaKind::I32 => (i32::MIN.into(), 2_147_483_647),
        MetaKind::U64 => (0, u64::MAX),
        MetaKind::I64 => (i64::MIN, 9_223_372_036_854_775_807),
        _ => return None,
    })
}

fn array_of(key: &str, kind: MetaKind, text: &str) -> Result<MetaArray> {
    if kind == MetaKind::Text {
        return Ok(MetaArray::of_texts(texts(text)));
    }
    let (mut bytes, mut count) = (Vec::new(), 0);
    for item in text.split(',').map(str::trim).filter(|_| !text.trim().is_empty()) {
        match scalar(key, kind, item)? {
            MetaValue::U8(v) => bytes.extend(v.to_le_bytes()),
            MetaValue::I8(v) => bytes.extend(v.to_le_bytes()),
            MetaValue::U16(v) => bytes.extend(v.to_le_bytes()),
            MetaValue::I16(v) => bytes.extend(v.to_le_bytes()),
            MetaValue::U32(v) => bytes.extend(v.to_le_bytes()),
            MetaValue::I32(v) => bytes.extend(v.to_le_bytes()),
            MetaValue::U64(v) => bytes.extend(v.to_le_bytes()),
            MetaValue::I64(v) => bytes.extend(v.to_le_bytes()),
            MetaValue::F32(v) => bytes.extend(v.to_le_bytes()),
            MetaValue::F64(v) => bytes.extend(v.to_le_bytes()),
            MetaValue::Bool(v) => bytes.push(u8::from(v)),
            MetaValue::Text(_) | MetaValue::Array(_) | MetaValue::Null => {}
        }
        count += 1;
    }
    Ok(MetaArray { kind, count, bytes: bytes.into() })
}

/// Texts between commas; a backslash keeps the character behind it.
fn texts(text: &str) -> Vec<String> {
    if text.is_empty() {
        return Vec::new();
    }
    let mut items = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, items.last_mut()) {
            (',', _) => items.push(String::new()),
            ('\\', Some(last)) => last.extend(chars.next()),
            (c, Some(last)) => last.push(c),
            (_, None) => {}
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read() {
        let array =
            |kind, count, bytes: &[u8]| MetaValue::Array(MetaArray { kind, count, bytes: bytes.into() });
        for (text, key, value) in [
            ("a.b=u32:7", "a.b", MetaValue::U32(7)),
            ("a=i8:-128", "a", MetaValue::I8(-128)),
            ("a=u64:18446744073709551615", "a", MetaValue::U64(u64::MAX)),
            ("a=f32:1e-5", "a", MetaValue::F32(1e-5)),
            ("a=bool:true", "a", MetaValue::Bool(true)),
            ("a=str:x=y:z, \\", "a", "x=y:z, \\".into()),
            ("a=str:", "a", "".into()),
            ("a=arr[i32]:1, -2,3", "a", MetaValue::Array(MetaArray::of_i32(&[1, -2, 3]))),
            ("a=arr[u8]:", "a", array(MetaKind::U8, 0, &[])),
            ("a=arr[bool]:true,false", "a", array(MetaKind::Bool, 2, &[1, 0])),
            ("a=arr[str]:x\\,y,,z\\\\", "a", MetaValue::Array(MetaArray::of_texts(["x,y", "", "z\\"]))),
        ] {
            assert_eq!(parse_meta(text).unwrap(), (key.to_owned(), value), "{text}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for (text, part) in [
            ("a", "KEY=TYPE:VALUE"),
            ("a=7", "KEY=TYPE:VALUE"),
            ("=u8:1", "is no key"),
            ("a b=u8:1", "is no key"),
            ("a=u7:1", "no type"),
            ("a=arr[arr[u8]]:1", "no type"),
            ("a=u8:256", "from 0 to 255"),
            ("a=u8:-1", "from 0 to 255"),
            ("a=f32:inf", "a finite number"),
            ("a=f32:1e39", "a finite number"),
            ("a=bool:1", "true or false"),
            ("a=arr[i8]:1,x", "`x`"),
            ("a=arr[i8]:1,,2", "``"),
        ] {
            let error = parse_meta(text).unwrap_err();
            assert_eq!(error.kind(), crate::error::ErrorKind::Usage, "{text}");
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }
}
