//! What commands share in showing results: standard output with its errors, the JSON document, columns, sizes.

use hoist::{Error, Result};
use serde_json::{Map, Value};
use std::io::{BufWriter, StdoutLock, Write};

/// Standard output. Every write's failure is an error of the command: a reader that left is 141, a full disk is 8.
pub(crate) struct Out(BufWriter<StdoutLock<'static>>);

impl Out {
    /// Standard output, locked until dropped.
    pub(crate) fn stdout() -> Out {
        Out(BufWriter::with_capacity(64 << 10, std::io::stdout().lock()))
    }

    /// Text as it is.
    pub(crate) fn text(&mut self, text: &str) -> Result<()> {
        self.0.write_all(text.as_bytes()).map_err(failed)
    }

    /// A line.
    pub(crate) fn line(&mut self, line: &str) -> Result<()> {
        self.text(line)?;
        self.text("\n")
    }

    /// The JSON document of a command: `schema` first (`hoist.inspect/1`), then `fields`.
    pub(crate) fn json(&mut self, schema: &str, fields: Value) -> Result<()> {
        let mut document = Map::new();
        document.insert("schema".into(), schema.into());
        match fields {
            Value::Object(fields) => document.extend(fields),
            other => drop(document.insert("value".into(), other)),
        }
        serde_json::to_writer_pretty(&mut self.0, &Value::Object(document)).map_err(|e| failed(e.into()))?;
        self.text("\n")
    }

    /// Writes what is buffered. Without this call a failure at the end would go unseen.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.0.flush().and_then(|()| self.0.get_mut().flush()).map_err(failed)
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::io("standard output cannot be written", error)
}

/// How a column stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Rows as aligned columns, two spaces between, nothing at line ends. Width is counted in characters.
pub(crate) fn table(align: &[Align], rows: &[Vec<String>]) -> Vec<String> {
    let width = |text: &str| text.chars().count();
    let mut widths = vec![0; align.len()];
    for row in rows {
        for (w, cell) in widths.iter_mut().zip(row) {
            *w = width(cell).max(*w);
        }
    }
    let line = |row: &Vec<String>| {
        let mut line = String::new();
        for ((cell, &w), &align) in row.iter().zip(&widths).zip(align) {
            let pad = " ".repeat(w - width(cell));
            match align {
                Align::Left => line.extend([cell.as_str(), &pad]),
                Align::Right => line.extend([&pad, cell.as_str()]),
            }
            line.push_str("  ");
        }
        line.truncate(line.trim_end().len());
        line
    };
    rows.iter().map(line).collect()
}

/// Units of a size, the longer spelling first where one ends with another.
const UNITS: [(&str, u64); 14] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("k", 1_000),
    ("m", 1_000_000),
    ("g", 1_000_000_000),
    ("t", 1_000_000_000_000),
    ("b", 1),
    ("", 1),
];

/// A size in bytes as a person writes it: `5GB`, `512MiB`, `1.5 GiB`, `4096`. Case does not matter. For clap's
/// `value_parser`.
pub(crate) fn size_bytes(text: &str) -> std::result::Result<u64, String> {
    let refuse =
        |why: &str| format!("{why}; a size is a number and a unit: `5GB`, `512MiB`, `1.5GiB`, `4096`");
    let lower = text.trim().to_ascii_lowercase();
    let (number, unit) = UNITS
        .iter()
        .find_map(|&(u, n)| Some((lower.strip_suffix(u)?, n)))
        .ok_or_else(|| refuse("no number"))?;
    let number = number.trim_end();
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) || whole.is_empty() || number.ends_with('.') {
        return Err(refuse("not a number"));
    }
    if part.len() > 9 {
        return Err(refuse("too many decimals"));
    }
    let too_large = || refuse("more than 2^64 bytes");
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let scale = 10u128.pow(part.len() as u32);
    let part: u128 = if part.is_empty() { 0 } else { part.parse().map_err(|_| refuse("not a number"))? };
    let bytes = (u128::from(whole) * scale + part) * u128::from(unit) / scale;
    u64::try_from(bytes).map_err(|_| too_large())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("4096", Some(4096)),
            ("5GB", Some(5_000_000_000)),
            ("512MiB", Some(512 << 20)),
            ("1.5GiB", Some(3 << 29)),
            ("1.5 gib", Some(3 << 29)),
            (" 80g ", Some(80_000_000_000)),
            ("0", Some(0)),
            ("7b", Some(7)),
            ("0.5k", Some(500)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("17179869184GiB", None),
            ("", None),
            ("GB", None),
            ("-1", None),
            ("1e9", None),
            ("1.", None),
            (".5", None),
            ("1.2.3", None),
            ("5GBs", None),
            ("0x10", None),
            ("1.0000000001", None),
        ] {
            assert_eq!(size_bytes(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn columns() {
        let rows = [
            vec!["a".into(), "10".into()],
            vec!["größer".into(), "5".into()],
            vec!["x".into(), String::new()],
        ];
        assert_eq!(table(&[Align::Left, Align::Right], &rows), ["a       10", "größer   5", "x"]);
    }
}
