//! JSON text, written an entry a line: a vocabulary never becomes a tree.

use serde_json::Value;

/// JSON text that grows.
pub(super) struct Writer {
    out: Vec<u8>,
}

impl Writer {
    pub(super) fn new() -> Writer {
        Writer { out: Vec::new() }
    }

    /// Text as it stands.
    pub(super) fn raw(&mut self, text: &str) {
        self.out.extend(text.as_bytes());
    }

    /// A value on one line.
    pub(super) fn value(&mut self, value: &Value) {
        self.raw(&value.to_string());
    }

    /// Items with commas between them, a line each.
    pub(super) fn list<T>(&mut self, items: impl Iterator<Item = T>, mut one: impl FnMut(&mut Writer, T)) {
        for (at, item) in items.enumerate() {
            self.raw(if at > 0 { ",\n" } else { "\n" });
            one(self, item);
        }
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.out
    }
}
