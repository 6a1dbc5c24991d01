//! The JSON header as a stream: serde calls us for each key and value, and what it says goes straight into rows.
//!
//! serde's errors are text, so errors of ours travel beside it in [`State::error`], with tensor and offset.

use crate::checkpoint::MetaValue;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::text::Shown;
use hashbrown::HashSet;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// The key that is not a tensor.
const METADATA: &str = "__metadata__";

/// Values inside an unknown field may nest this deep.
const DEPTH_MAX: u32 = 64;

/// A tensor as the header writes it; offsets count from the start of the data.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) dtype: DType,
    pub(super) shape: Vec<u64>,
    pub(super) begin: u64,
    pub(super) end: u64,
}

/// All that a header says.
#[derive(Default)]
pub(super) struct Header {
    pub(super) entries: Vec<Entry>,
    pub(super) meta: Vec<(String, MetaValue)>,
    pub(super) notes: Vec<String>,
}

/// Reads the header; `offset_bytes` is where it begins in the file.
pub(super) fn read(json: &[u8], offset_bytes: u64) -> Result<Header> {
    let text = std::str::from_utf8(json).map_err(|e| {
        Error::bad_input("has a header that is not UTF-8").at(offset_bytes + e.valid_up_to() as u64)
    })?;
    let mut state = State::default();
    let mut stream = serde_json::Deserializer::from_str(text);
    let outcome = Top(&mut state).deserialize(&mut stream).and_then(|()| stream.end());
    match outcome {
        Ok(()) => {
            if let Some((field, tensor)) = state.unknown {
                let others = match state.unknown_count {
                    1 => String::new(),
                    n => format!(", and {} more like it", n - 1),
                };
                state.header.notes.push(format!(
                    "tensor `{}` has a field `{}` that the format does not know{others}; ignored",
                    Shown(&tensor),
                    Shown(&field)
                ));
            }
            Ok(state.header)
        }
        Err(e) => {
            let at = offset_bytes + offset_of(text, e.line(), e.column());
            let error = state.error.unwrap_or_else(|| match &state.current {
                // A predicate after the tensor's name, else one after the file's.
                Some(_) => {
                    Error::bad_input(format!("has a damaged entry in the header: {}", Shown(&cause(&e))))
                }
                None => Error::bad_input(format!("has a damaged header: {}", Shown(&cause(&e)))),
            });
            let error = match state.current {
                Some(name) => error.tensor(name),
                None => error,
            };
            Err(error.at(at))
        }
    }
}

/// What serde_json says, without its line and column, which mean little in a header of one line.
fn cause(e: &serde_json::Error) -> String {
    let text = e.to_string();
    text.rfind(" at line ").map_or(text.clone(), |end| text[..end].to_string())
}

/// The byte at a line (counted from one) and a column (bytes of that line).
fn offset_of(text: &str, line: usize, column: usize) -> u64 {
    let mut start = 0;
    for _ in 1..line {
        start += text.get(start..).and_then(|t| t.find('\n')).map_or(0, |n| n + 1);
    }
    (start + column.saturating_sub(1)).min(text.len()) as u64
}

#[derive(Default)]
struct State {
    header: Header,
    /// The tensor whose entry is being read.
    current: Option<String>,
    error: Option<Error>,
    /// The first unknown field and its tensor.
    unknown: Option<(String, String)>,
    unknown_count: u64,
}

impl State {
    fn fail<E: serde::de::Error>(&mut self, error: Error) -> E {
        self.error.get_or_insert(error);
        E::custom("refused")
    }
}

/// The header's object.
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
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let state = self.0;
        let mut has_metadata = false;
        while let Some(name) = map.next_key_seed(Text)? {
            if name == METADATA {
                if has_metadata {
                    return Err(state.fail(Error::bad_input("has `__metadata__` twice in its header")));
                }
                has_metadata = true;
                map.next_value_seed(Metadata(state))?;
                continue;
            }
            state.current = Some(name.into_owned());
            let raw = map.next_value_seed(EntrySeed(state))?;
            let name = state.current.take().unwrap_or_default();
            let Raw { dtype, shape, offsets } = raw;
            state.header.entries.push(Entry { name, dtype, shape, begin: offsets.0, end: offsets.1 });
        }
        Ok(())
    }
}

/// A string, borrowed from the header where it holds no escapes.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Cow<'de, str>;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<Cow<'de, str>, D::Error> {
        d.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Cow<'de, str>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }
    fn visit_borrowed_str<E>(self, v: &'de str) -> std::result::Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(v))
    }
    fn visit_str<E>(self, v: &str) -> std::result::Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(v.to_string()))
    }
}

/// `__metadata__`: null, or an object of strings.
struct Metadata<'s>(&'s mut State);

impl<'de> DeserializeSeed<'de> for Metadata<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Metadata<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`__metadata__` to be an object of strings")
    }

    fn visit_unit<E>(self) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key_seed(Text)? {
            if seen.contains(&key) {
                let message = format!("has the key `{}` twice in `__metadata__`", Shown(&key));
                return Err(self.0.fail(Error::bad_input(message)));
            }
            let value = map.next_value_seed(Text)?;
            let value = MetaValue::Text(value.into_owned().into_bytes().into_boxed_slice());
            self.0.header.meta.push((key.clone().into_owned(), value));
            seen.insert(key);
        }
        Ok(())
    }
}

/// What an entry holds.
struct Raw {
    dtype: DType,
    shape: Vec<u64>,
    offsets: (u64, u64),
}

struct EntrySeed<'s>(&'s mut State);

impl<'de> DeserializeSeed<'de> for EntrySeed<'_> {
    type Value = Raw;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<Raw, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EntrySeed<'_> {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `dtype`, `shape` and `data_offsets`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Raw, A::Error> {
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        while let Some(field) = map.next_key_seed(Text)? {
            let twice = match &*field {
                "dtype" => {
                    let name = map.next_value_seed(Text)?;
                    let Some(found) = DType::from_safetensors(&name) else {
                        return Err(self.0.fail(unknown_dtype(&name)));
                    };
                    dtype.replace(found).is_some()
                }
                "shape" => shape.replace(map.next_value_seed(Numbers)?).is_some(),
                "data_offsets" => {
                    let pair = map.next_value_seed(Numbers)?;
                    let [begin, end] = pair[..] else {
                        let message =
                            format!("has {} numbers in `data_offsets` where two are needed", pair.len());
                        return Err(self.0.fail(Error::bad_input(message)));
                    };
                    offsets.replace((begin, end)).is_some()
                }
                _ => {
                    map.next_value_seed(Skip { depth: DEPTH_MAX })?;
                    self.0.unknown_count += 1;
                    if self.0.unknown.is_none() {
                        let tensor = self.0.current.clone().unwrap_or_default();
                        self.0.unknown = Some((field.clone().into_owned(), tensor));
                    }
                    false
                }
            };
            if twice {
                let message = format!("has the field `{}` twice in the header", Shown(&field));
                return Err(self.0.fail(Error::bad_input(message)));
            }
        }
        let missing = |what: &str| Error::bad_input(format!("has no `{what}` in the header"));
        Ok(Raw {
            dtype: dtype.ok_or_else(|| self.0.fail(missing("dtype")))?,
            shape: shape.ok_or_else(|| self.0.fail(missing("shape")))?,
            offsets: offsets.ok_or_else(|| self.0.fail(missing("data_offsets")))?,
        })
    }
}

fn unknown_dtype(name: &str) -> Error {
    let error = Error::bad_input(format!("has the dtype `{}`, which safetensors does not have", Shown(name)));
    match DType::from_user(name).and_then(|d| d.facts().safetensors) {
        Some(near) => error.detail(format!("the format spells it `{near}`")),
        None => error,
    }
}

/// An array of unsigned integers.
struct Numbers;

impl<'de> DeserializeSeed<'de> for Numbers {
    type Value = Vec<u64>;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<Vec<u64>, D::Error> {
        d.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Numbers {
    type Value = Vec<u64>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of unsigned integers")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Vec<u64>, A::Error> {
        let mut numbers = Vec::with_capacity(4);
        while let Some(n) = seq.next_element::<u64>()? {
            numbers.push(n);
        }
        Ok(numbers)
    }
}

/// A value that is checked and dropped. (serde's own `IgnoredAny` would let broken escapes and numbers pass.)
struct Skip {
    depth: u32,
}

impl Skip {
    fn deeper<E: serde::de::Error>(&self) -> std::result::Result<Skip, E> {
        let depth = self.depth.checked_sub(1).ok_or_else(|| E::custom("values nest more than 64 deep"))?;
        Ok(Skip { depth })
    }
}

impl<'de> DeserializeSeed<'de> for Skip {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Skip {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }
    fn visit_bool<E>(self, _: bool) -> std::result::Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> std::result::Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> std::result::Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> std::result::Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> std::result::Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> std::result::Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<(), A::Error> {
        while seq.next_element_seed(self.deeper()?)?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        while map.next_key_seed(Text)?.is_some() {
            map.next_value_seed(self.deeper()?)?;
        }
        Ok(())
    }
}
