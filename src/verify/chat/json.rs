//! `tojson`: Python's `json.dumps`, keys in their order, nothing escaped that JSON does not need escaped.

use super::engine::{Engine, Given};
use super::value::{Fault, Res, Value, float_text};

/// How JSON is laid out.
struct Layout {
    ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sorted: bool,
}

/// `value | tojson(ensure_ascii, indent, separators, sort_keys)`
pub(super) fn dumps(engine: &Engine<'_>, value: &Value, given: Given) -> Res<Value> {
    let [ascii, indent, separators, sorted] =
        given.bind("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Text(text)) => Some(text.to_string()),
        Some(other) => match other.as_int().map(|n| usize::try_from(n.max(0))) {
            Some(Ok(n)) if n <= 1000 => Some(" ".repeat(n)),
            _ => return Err(Fault::refused("an `indent` of `tojson` that is no small number")),
        },
    };
    let (item, key) = match separators {
        None | Some(Value::None) => (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string()),
        Some(pair) => match engine.items(&pair)?.as_slice() {
            [Value::Text(item), Value::Text(key)] => (item.to_string(), key.to_string()),
            _ => return Err(Fault::failed("`separators` of `tojson` must be two texts")),
        },
    };
    let truth = |value: Option<Value>| value.is_some_and(|value| value.truth());
    let layout = Layout { ascii: truth(ascii), indent, item, key, sorted: truth(sorted) };
    let mut out = String::new();
    layout.write(engine, value, 0, &mut out)?;
    Ok(out.into())
}

impl Layout {
    fn write(&self, engine: &Engine<'_>, value: &Value, depth: usize, out: &mut String) -> Res<()> {
        engine.step()?;
        engine.bytes(8)?;
        match value {
            Value::None => out.push_str("null"),
            Value::Bool(on) => out.push_str(if *on { "true" } else { "false" }),
            Value::Int(n) => out.push_str(&n.to_string()),
            Value::Float(n) => out.push_str(&json_float(*n)),
            Value::Text(text) | Value::Markup(text) => self.text(engine, text, out)?,
            Value::List(items) | Value::Tuple(items) => {
                if items.is_empty() {
                    out.push_str("[]");
                    return Ok(());
                }
                out.push('[');
                for (n, item) in items.iter().enumerate() {
                    self.separate(engine, n, depth + 1, out)?;
                    self.write(engine, item, depth + 1, out)?;
                }
                self.close(engine, depth, out)?;
                out.push(']');
            }
            Value::Dict(dict) => {
                if dict.entries().is_empty() {
                    out.push_str("{}");
                    return Ok(());
                }
                let mut entries: Vec<&(Value, Value)> = dict.entries().iter().collect();
                if self.sorted {
                    engine.bytes(size_of_val(&*entries))?;
                    let mut fault = None;
                    entries.sort_by(|a, b| match a.0.compare(&b.0, &engine.meter) {
                        Ok(order) => order.unwrap_or(std::cmp::Ordering::Equal),
                        Err(found) => {
                            fault.get_or_insert(found);
                            std::cmp::Ordering::Equal
                        }
                    });
                    if let Some(fault) = fault {
                        return Err(fault);
                    }
                }
                out.push('{');
                for (n, (key, value)) in entries.into_iter().enumerate() {
                    self.separate(engine, n, depth + 1, out)?;
                    let key = match key {
                        Value::Text(key) | Value::Markup(key) => key.to_string(),
                        Value::None => "null".into(),
                        Value::Bool(on) => if *on { "true" } else { "false" }.into(),
                        Value::Int(n) => n.to_string(),
                        Value::Float(n) => json_float(*n),
                        other => {
                            return Err(Fault::failed(format!("JSON has no key of type {}", other.kind())));
                        }
                    };
                    self.text(engine, &key, out)?;
                    out.push_str(&self.key);
                    self.write(engine, value, depth + 1, out)?;
                }
                self.close(engine, depth, out)?;
                out.push('}');
            }
            other => return Err(Fault::failed(format!("a {} has no form in JSON", other.kind()))),
        }
        Ok(())
    }

    /// Before the `n`-th item: the separator, and a new line where lines are broken.
    fn separate(&self, engine: &Engine<'_>, n: usize, depth: usize, out: &mut String) -> Res<()> {
        engine.bytes(self.item.len().saturating_add(self.key.len()))?;
        if n > 0 {
            out.push_str(&self.item);
        }
        self.line(engine, depth, out)
    }

    fn close(&self, engine: &Engine<'_>, depth: usize, out: &mut String) -> Res<()> {
        self.line(engine, depth, out)
    }

    fn line(&self, engine: &Engine<'_>, depth: usize, out: &mut String) -> Res<()> {
        if let Some(indent) = &self.indent {
            engine.bytes(indent.len().saturating_mul(depth))?;
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
        Ok(())
    }

    fn text(&self, engine: &Engine<'_>, text: &str, out: &mut String) -> Res<()> {
        engine.bytes(text.len().saturating_mul(if self.ascii { 6 } else { 1 }))?;
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

fn json_float(n: f64) -> String {
    match (n.is_nan(), n.is_infinite()) {
        (true, _) => "NaN".into(),
        (_, true) => if n > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        _ => float_text(n),
    }
}
