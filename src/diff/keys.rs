//! What stands beside the tensors: keys of a GGUF, metadata of safetensors, plain values of a state dict.

use crate::checkpoint::{Checkpoint, MetaArray, MetaValue};
use crate::text::{Shown, grouped};
use std::collections::HashMap;

/// How a model is cut into files is nobody's property.
const SPLIT_PREFIX: &str = "split.";

/// Keys that differ.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KeysDiff {
    /// Keys with the same value on both sides.
    pub equal: usize,
    /// Only A has them.
    pub only_a: Vec<String>,
    /// Only B has them.
    pub only_b: Vec<String>,
    /// Both have them: the key, A's value, B's value, as they are shown.
    pub differing: Vec<(String, String, String)>,
}

impl KeysDiff {
    /// Whether there is no difference.
    pub fn is_equal(&self) -> bool {
        self.only_a.is_empty() && self.only_b.is_empty() && self.differing.is_empty()
    }
}

/// The first value of each key, in order.
fn keys(table: &Checkpoint) -> (Vec<&str>, HashMap<&str, &MetaValue>) {
    let (mut order, mut values) = (Vec::new(), HashMap::new());
    for (key, value, _) in &table.meta.entries {
        if !key.starts_with(SPLIT_PREFIX) && !values.contains_key(key.as_str()) {
            order.push(key.as_str());
            values.insert(key.as_str(), value);
        }
    }
    (order, values)
}

/// Compares the keys of two tables. A number of another width is another value.
pub(super) fn compare(a: &Checkpoint, b: &Checkpoint) -> KeysDiff {
    let ((order_a, values_a), (order_b, values_b)) = (keys(a), keys(b));
    let mut diff = KeysDiff::default();
    for key in order_a {
        match (values_a.get(key), values_b.get(key)) {
            (Some(x), Some(y)) if same(x, y) => diff.equal += 1,
            (Some(x), Some(y)) => {
                let (x, y) = shown(x, y);
                diff.differing.push((key.to_owned(), x, y));
            }
            _ => diff.only_a.push(key.to_owned()),
        }
    }
    diff.only_b = order_b.into_iter().filter(|k| !values_a.contains_key(k)).map(str::to_owned).collect();
    diff
}

/// Bit for bit: a NaN equals itself.
fn same(a: &MetaValue, b: &MetaValue) -> bool {
    match (a, b) {
        (MetaValue::F32(x), MetaValue::F32(y)) => x.to_bits() == y.to_bits(),
        (MetaValue::F64(x), MetaValue::F64(y)) => x.to_bits() == y.to_bits(),
        _ => a == b,
    }
}

/// Two values that differ; of two arrays the first items that do.
fn shown(a: &MetaValue, b: &MetaValue) -> (String, String) {
    let (MetaValue::Array(x), MetaValue::Array(y)) = (a, b) else { return (one(a), one(b)) };
    let at = x.items().zip(y.items()).position(|(x, y)| !same(&x, &y));
    let item = |array: &MetaArray| match at.and_then(|at| array.items().nth(at).map(|v| (at, v))) {
        Some((at, value)) => format!("{}, item {at} is {}", kind(array), one(&value)),
        None => kind(array),
    };
    (item(x), item(y))
}

fn kind(array: &MetaArray) -> String {
    format!("{} of {}", grouped(array.count), array.kind.name())
}

fn one(value: &MetaValue) -> String {
    match value {
        MetaValue::U8(v) => format!("u8 {v}"),
        MetaValue::I8(v) => format!("i8 {v}"),
        MetaValue::U16(v) => format!("u16 {v}"),
        MetaValue::I16(v) => format!("i16 {v}"),
        MetaValue::U32(v) => format!("u32 {v}"),
        MetaValue::I32(v) => format!("i32 {v}"),
        MetaValue::U64(v) => format!("u64 {v}"),
        MetaValue::I64(v) => format!("i64 {v}"),
        MetaValue::F32(v) => format!("f32 {v}"),
        MetaValue::F64(v) => format!("f64 {v}"),
        MetaValue::Bool(v) => v.to_string(),
        MetaValue::Text(text) => format!("`{}`", Shown(&String::from_utf8_lossy(text))),
        MetaValue::Array(array) => kind(array),
        MetaValue::Null => "nothing".to_owned(),
    }
}
