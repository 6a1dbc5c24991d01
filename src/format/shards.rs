//! The index of a sharded checkpoint: `model.safetensors.index.json`, `pytorch_model.bin.index.json`.
//!
//! `{"metadata": {"total_size": bytes}, "weight_map": {tensor: file}}`. Writers get `metadata` wrong often enough (absent,
//! a float, the size before tied weights were dropped) that it is not looked at. File names are foreign text: whoever
//! opens them checks them first.

use crate::error::{Error, Result};
use crate::text::Shown;
use hashbrown::HashMap;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::collections::BTreeSet;
use std::fmt;

/// The most bytes of an index that are read: half a million tensors with long names.
pub const INDEX_BYTES_MAX: u64 = 64 << 20;

/// A parsed index.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Index {
    /// Tensor and file, in the index's order.
    pub weight_map: Vec<(String, String)>,
}

impl Index {
    /// Parses an index.
    ///
    /// # Errors
    /// JSON that is damaged, no `weight_map`, a tensor that is in it twice: kind `BadInput`.
    pub fn parse(json: &[u8]) -> Result<Index> {
        let mut state = State::default();
        let mut stream = serde_json::Deserializer::from_slice(json);
        let outcome = Top(&mut state).deserialize(&mut stream).and_then(|()| stream.end());
        if let Err(e) = outcome {
            return Err(state.error.unwrap_or_else(|| {
                Error::bad_input(format!("is not an index of shards: {}", Shown(&e.to_string())))
            }));
        }
        let Some(weight_map) = state.weight_map else {
            return Err(Error::bad_input("is not an index of shards: it has no `weight_map`"));
        };
        let mut seen: HashMap<&str, &str> = HashMap::with_capacity(weight_map.len());
        for (tensor, file) in &weight_map {
            if let Some(first) = seen.insert(tensor, file) {
                let message =
                    format!("is in the index twice: in `{}` and in `{}`", Shown(first), Shown(file));
                return Err(Error::bad_input(message).tensor(tensor));
            }
        }
        drop(seen);
        Ok(Index { weight_map })
    }

    /// The files it names, each once, sorted: the order in which numbered shards were written.
    pub fn files(&self) -> Vec<&str> {
        self.weight_map.iter().map(|(_, file)| file.as_str()).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

#[derive(Default)]
struct State {
    weight_map: Option<Vec<(String, String)>>,
    error: Option<Error>,
}

struct Top<'s>(&'s mut State);

impl<'de> DeserializeSeed<'de> for Top<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<(), D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Top<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "weight_map" if self.0.weight_map.is_some() => {
                    self.0.error = Some(Error::bad_input("has `weight_map` twice"));
                    return Err(serde::de::Error::custom("refused"));
                }
                "weight_map" => self.0.weight_map = Some(map.next_value_seed(WeightMap)?),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

struct WeightMap;

impl<'de> DeserializeSeed<'de> for WeightMap {
    type Value = Vec<(String, String)>;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<Self::Value, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for WeightMap {
    type Value = Vec<(String, String)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`weight_map` to be an object from tensor names to file names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry::<String, String>()? {
            pairs.push(pair);
        }
        Ok(pairs)
    }
}
