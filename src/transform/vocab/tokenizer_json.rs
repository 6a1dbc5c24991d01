//! `tokenizer.json` of Hugging Face tokenizers, read in one pass.
//!
//! The vocabulary and the merges are nearly all of the file, half a million entries in the largest, so they go straight
//! into vectors; the few parts that describe how text is cut stay JSON. The order of keys is free: older files put the
//! vocabulary before the model's type, so the shape of what comes decides what it is.

use crate::error::{Error, Result};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::fmt;

/// The file.
#[derive(Debug, Default)]
pub(super) struct TokenizerJson {
    pub(super) normalizer: Value,
    pub(super) pre_tokenizer: Value,
    pub(super) post_processor: Value,
    pub(super) decoder: Value,
    pub(super) added: Vec<Added>,
    pub(super) model: Model,
}

/// A token that is looked for in the text before anything else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Added {
    pub(super) id: u64,
    pub(super) content: String,
    pub(super) special: bool,
}

/// The `model` object.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// `BPE`, `Unigram`, `WordPiece`, `WordLevel`; older files leave it out.
    pub(super) kind: Option<String>,
    /// Token and id; a unigram model's ids are positions.
    pub(super) vocab: Vec<(Box<str>, u64)>,
    /// A unigram model's scores, as many as tokens; else empty.
    pub(super) scores: Vec<f64>,
    /// Both parts, a space between them; a space inside a part is written as U+0120, as GGUF does.
    pub(super) merges: Vec<Box<str>>,
    pub(super) has_merges: bool,
    pub(super) unk_token: Option<String>,
    pub(super) unk_id: Option<u64>,
    pub(super) byte_fallback: bool,
    pub(super) ignore_merges: bool,
    /// What starts a token that continues a word (`##`).
    pub(super) prefix: Option<String>,
    /// What ends a token that ends a word (`</w>`).
    pub(super) suffix: Option<String>,
}

impl TokenizerJson {
    /// Reads a `tokenizer.json`.
    pub(super) fn read(bytes: &[u8]) -> Result<TokenizerJson> {
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        let file = TopSeed
            .deserialize(&mut reader)
            .and_then(|file| reader.end().map(|()| file))
            .map_err(|e| Error::bad_input(format!("is not a tokenizer: {e}")))?;
        if file.model.vocab.is_empty() {
            return Err(Error::bad_input("has no vocabulary in `model.vocab`"));
        }
        Ok(file)
    }

    /// What the model is; files without a type are told by what they hold, as the tokenizers library does.
    pub(super) fn kind(&self) -> &str {
        match &self.model.kind {
            Some(kind) => kind,
            None if self.model.has_merges => "BPE",
            None if !self.model.scores.is_empty() => "Unigram",
            None if self.model.prefix.is_some() => "WordPiece",
            None => "WordLevel",
        }
    }
}

/// Declares a seed that reads a JSON object key by key. The arms get the key's value from `$map`.
macro_rules! object_seed {
    ($seed:ident -> $out:ty, $what:literal, |$read:ident, $map:ident, $key:ident| $body:expr) => {
        struct $seed;

        impl<'de> DeserializeSeed<'de> for $seed {
            type Value = $out;

            fn deserialize<D: Deserializer<'de>>(self, reader: D) -> std::result::Result<$out, D::Error> {
                reader.deserialize_map(self)
            }
        }

        impl<'de> Visitor<'de> for $seed {
            type Value = $out;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($what)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut $map: A) -> std::result::Result<$out, A::Error> {
                let mut $read = <$out>::default();
                while let Some($key) = $map.next_key::<String>()? {
                    $body
                }
                Ok($read)
            }
        }
    };
}

object_seed!(TopSeed -> TokenizerJson, "a tokenizer", |read, map, key| match key.as_str() {
    "normalizer" => read.normalizer = map.next_value()?,
    "pre_tokenizer" => read.pre_tokenizer = map.next_value()?,
    "post_processor" => read.post_processor = map.next_value()?,
    "decoder" => read.decoder = map.next_value()?,
    "added_tokens" => read.added = map.next_value_seed(Optional(List(AddedSeed)))?.unwrap_or_default(),
    "model" => read.model = map.next_value_seed(ModelSeed)?,
    _ => _ = map.next_value::<IgnoredAny>()?,
});

object_seed!(AddedSeed -> Added, "an added token", |read, map, key| match key.as_str() {
    "id" => read.id = map.next_value()?,
    "content" => read.content = map.next_value()?,
    "special" => read.special = map.next_value()?,
    _ => _ = map.next_value::<IgnoredAny>()?,
});

object_seed!(ModelSeed -> Model, "a tokenizer's model", |read, map, key| match key.as_str() {
    "type" => read.kind = map.next_value()?,
    "vocab" => {
        let (vocab, scores) = map.next_value_seed(VocabSeed)?;
        read.vocab = vocab;
        read.scores = scores;
    }
    "merges" => {
        read.merges = map.next_value_seed(Optional(List(MergeSeed)))?.unwrap_or_default();
        read.has_merges = true;
    }
    "unk_token" => read.unk_token = map.next_value()?,
    "unk_id" => read.unk_id = map.next_value()?,
    "byte_fallback" => read.byte_fallback = map.next_value::<Option<bool>>()?.unwrap_or(false),
    "ignore_merges" => read.ignore_merges = map.next_value::<Option<bool>>()?.unwrap_or(false),
    "continuing_subword_prefix" => read.prefix = map.next_value()?,
    "end_of_word_suffix" => read.suffix = map.next_value()?,
    _ => _ = map.next_value::<IgnoredAny>()?,
});

/// `null`, or what the seed reads.
struct Optional<S>(S);

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Optional<S> {
    type Value = Option<S::Value>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> std::result::Result<Self::Value, D::Error> {
        reader.deserialize_option(self)
    }
}

impl<'de, S: DeserializeSeed<'de>> Visitor<'de> for Optional<S> {
    type Value = Option<S::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list or null")
    }

    fn visit_none<E>(self) -> std::result::Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, reader: D) -> std::result::Result<Self::Value, D::Error> {
        self.0.deserialize(reader).map(Some)
    }
}

/// A list of what the seed reads.
struct List<S>(S);

impl<'de, S: DeserializeSeed<'de> + Copy> DeserializeSeed<'de> for List<S> {
    type Value = Vec<S::Value>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> std::result::Result<Self::Value, D::Error> {
        reader.deserialize_seq(self)
    }
}

impl<'de, S: DeserializeSeed<'de> + Copy> Visitor<'de> for List<S> {
    type Value = Vec<S::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Self::Value, A::Error> {
        let mut out = Vec::new();
        while let Some(item) = list.next_element_seed(self.0)? {
            out.push(item);
        }
        Ok(out)
    }
}

impl Clone for AddedSeed {
    fn clone(&self) -> Self {
        *self
    }
}

impl Copy for AddedSeed {}

/// The vocabulary: an object of ids, or a list of pairs of token and score.
struct VocabSeed;

type Vocab = (Vec<(Box<str>, u64)>, Vec<f64>);

impl<'de> DeserializeSeed<'de> for VocabSeed {
    type Value = Vocab;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> std::result::Result<Vocab, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for VocabSeed {
    type Value = Vocab;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tokens and ids, or a list of tokens and scores")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Vocab, A::Error> {
        let mut vocab = Vec::new();
        while let Some(entry) = map.next_entry::<Box<str>, u64>()? {
            vocab.push(entry);
        }
        Ok((vocab, Vec::new()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Vocab, A::Error> {
        let (mut vocab, mut scores) = (Vec::new(), Vec::new());
        while let Some((text, score)) = list.next_element::<(Box<str>, f64)>()? {
            vocab.push((text, scores.len() as u64));
            scores.push(score);
        }
        Ok((vocab, scores))
    }
}

/// One merge: `"a b"`, or since 2024 `["a", "b"]`.
#[derive(Clone, Copy)]
struct MergeSeed;

impl<'de> DeserializeSeed<'de> for MergeSeed {
    type Value = Box<str>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> std::result::Result<Box<str>, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for MergeSeed {
    type Value = Box<str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a merge: two tokens")
    }

    fn visit_str<E>(self, text: &str) -> std::result::Result<Box<str>, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Box<str>, A::Error> {
        let mut out = String::new();
        for part in 0..2 {
            let text: Box<str> = list.next_element()?.ok_or_else(|| A::Error::invalid_length(part, &self))?;
            if part > 0 {
                out.push(' ');
            }
            match text.contains(' ') {
                true => out.push_str(&text.replace(' ', "\u{120}")),
                false => out.push_str(&text),
            }
        }
        match list.next_element::<IgnoredAny>()? {
            None => Ok(out.into()),
            Some(_) => Err(A::Error::invalid_length(3, &self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form() {
        let old = br#"{"model":{"vocab":{"a":0,"b c":1},"merges":["a b"]},"added_tokens":null,"extra":[1]}"#;
        let file = TokenizerJson::read(old).unwrap();
        assert_eq!((file.kind(), &*file.model.merges[0]), ("BPE", "a b"));
        let new = br#"{"model":{"type":"BPE","merges":[["a","b c"]],"vocab":{"a":0},"byte_fallback":true,"ignore_merges":null},
            "added_tokens":[{"id":3,"content":"<s>","special":true,"lstrip":false,"rstrip":false,"normalized":false,"single_word":false}],
            "normalizer":{"type":"NFC"}}"#;
        let file = TokenizerJson::read(new).unwrap();
        assert_eq!(&*file.model.merges[0], "a b\u{120}c");
        assert_eq!(
            (file.added[0].id, file.added[0].content.as_str(), file.added[0].special),
            (3, "<s>", true)
        );
        assert_eq!((file.model.byte_fallback, file.model.ignore_merges), (true, false));
        let unigram = br#"{"model":{"type":"Unigram","unk_id":1,"vocab":[["a",-1.5],["b",0]]}}"#;
        let file = TokenizerJson::read(unigram).unwrap();
        assert_eq!((file.model.scores.as_slice(), file.model.unk_id), (&[-1.5, 0.0][..], Some(1)));
    }

    #[test]
    fn refused() {
        for bad in [
            &b""[..],
            b"[]",
            b"{}",
            br#"{"model":{"vocab":{}}}"#,
            br#"{"model":{"vocab":{"a":-1}}}"#,
            br#"{"model":{"vocab":{"a":0},"merges":[["a"]]}}"#,
            br#"{"model":{"vocab":{"a":0},"merges":[["a","b","c"]]}}"#,
            br#"{"model":{"vocab":{"a":0}}} x"#,
            br#"{"added_tokens":{}}"#,
        ] {
            let error = TokenizerJson::read(bad).map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), crate::error::ErrorKind::BadInput, "{}", String::from_utf8_lossy(bad));
        }
        let deep = "[".repeat(100_000);
        assert!(TokenizerJson::read(format!("{{\"decoder\":{deep}").as_bytes()).is_err());
    }
}
