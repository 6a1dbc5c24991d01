//! `tojson`: Python's `json.dumps`, keys in their order, nothing escaped that JSON does not need escaped.

use super::budget::{Budget, a, failed, is_object, refused};
use super::given::Given;
use super::python::{self, Number, text_of, whole};
use minijinja::value::ValueKind;
use minijinja::{Error, Value};

type Result<T> = std::result::Result<T, Error>;

/// How JSON is laid out.
struct Layout<'b> {
    budget: &'b Budget,
    ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sorted: bool,
}

/// `value | tojson(ensure_ascii, indent, separators, sort_keys)`
pub(super) fn dumps(budget: &Budget, value: &Value, given: Given) -> Result<String> {
    let [ascii, indent, separators, sorted] =
        given.bind("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let given = |value: Option<Value>| value.filter(|value| !value.is_none());
    let indent = match given(indent) {
        None => None,
        Some(indent) => match (text_of(&indent), whole(&indent).map(|n| usize::try_from(n.max(0)))) {
            (Some(text), _) => Some(text.to_string()),
            (None, Some(Ok(n))) if n <= 1000 => Some(" ".repeat(n)),
            _ => return Err(refused("an `indent` of `tojson` that is no small number")),
        },
    };
    let (item, key) = match given(separators) {
        None => (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string()),
        Some(pair) => match python::items(budget, &pair)?.as_slice() {
            [item, key] => match (text_of(item), text_of(key)) {
                (Some(item), Some(key)) => (item.to_string(), key.to_string()),
                _ => return Err(failed("`separators` of `tojson` must be two texts")),
            },
            _ => return Err(failed("`separators` of `tojson` must be two texts")),
        },
    };
    let truth = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let layout = Layout { budget, ascii: truth(ascii), indent, item, key, sorted: truth(sorted) };
    let mut out = String::new();
    layout.write(value, 0, &mut out)?;
    Ok(out)
}

impl Layout<'_> {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<()> {
        self.budget.steps(1)?;
        self.budget.bytes(8)?;
        match value.kind() {
            ValueKind::None | ValueKind::Bool | ValueKind::Number => out.push_str(&scalar(value)?),
            ValueKind::String => self.text(text_of(value).unwrap_or_default(), out)?,
            ValueKind::Seq => {
                if value.len() == Some(0) {
                    out.push_str("[]");
                    return Ok(());
                }
                out.push('[');
                for (n, item) in value.try_iter()?.enumerate() {
                    self.separate(n, depth + 1, out)?;
                    self.write(&item, depth + 1, out)?;
                }
                self.line(depth, out)?;
                out.push(']');
            }
            ValueKind::Map if !is_object(value) => {
                if value.len() == Some(0) {
                    out.push_str("{}");
                    return Ok(());
                }
                let mut keys = python::items(self.budget, value)?;
                if self.sorted {
                    if keys.iter().any(|key| text_of(key).is_none()) {
                        return Err(refused("`tojson` sorting keys that are no texts"));
                    }
                    keys.sort_by(|x, y| text_of(x).cmp(&text_of(y)));
                }
                out.push('{');
                for (n, key) in keys.iter().enumerate() {
                    self.separate(n, depth + 1, out)?;
                    match text_of(key) {
                        Some(key) => self.text(key, out)?,
                        None => self.text(&scalar(key)?, out)?,
                    }
                    out.push_str(&self.key);
                    self.write(&value.get_item(key)?, depth + 1, out)?;
                }
                self.line(depth, out)?;
                out.push('}');
            }
            _ => return Err(failed(format!("{} has no form in JSON", a(value)))),
        }
        Ok(())
    }

    /// Before the `n`-th item: the separator, and a new line where lines are broken.
    fn separate(&self, n: usize, depth: usize, out: &mut String) -> Result<()> {
        self.budget.bytes(self.item.len().saturating_add(self.key.len()))?;
        if n > 0 {
            out.push_str(&self.item);
        }
        self.line(depth, out)
    }

    fn line(&self, depth: usize, out: &mut String) -> Result<()> {
        if let Some(indent) = &self.indent {
            self.budget.bytes(indent.len().saturating_mul(depth))?;
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
        Ok(())
    }

    fn text(&self, text: &str, out: &mut String) -> Result<()> {
        self.budget.bytes(text.len().saturating_mul(if self.ascii { 6 } else { 2 }))?;
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                '\0'..='\u{1f}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
                _ if self.ascii && !c.is_ascii() => {
                    let mut units = [0; 2];
                    for unit in c.encode_utf16(&mut units) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                _ => out.push(c),
            }
        }
        out.push('"');
        Ok(())
    }
}

fn scalar(value: &Value) -> Result<String> {
    Ok(match value.kind() {
        ValueKind::None => "null".into(),
        ValueKind::Bool => if value.is_true() { "true" } else { "false" }.into(),
        _ => match Number::of(value) {
            Some(Number::Int(n)) => n.to_string(),
            Some(Number::Float(n)) if n.is_nan() => "NaN".into(),
            Some(Number::Float(n)) if n.is_infinite() => {
                if n > 0.0 { "Infinity" } else { "-Infinity" }.into()
            }
            Some(Number::Float(n)) => python::float_text(n),
            None => return Err(failed(format!("{} is no key in JSON", a(value)))),
        },
    })
}
