//! What lies beside the weights for use: the tokenizer, the chat template, the generation config. All of it is optional
//! and hostile; what cannot be read is a note.

use crate::checkpoint::MetaValue;
use crate::open::Model;
use crate::text::Shown;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// The most bytes of a tokenizer that are read; the largest known has 35 MB.
const TOKENIZER_BYTES_MAX: u64 = 128 << 20;

/// A tokenizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokenizer {
    /// `BPE`, `Unigram`, `WordPiece`, `SentencePiece` …
    pub kind: String,
    /// Tokens, added ones included, where a file tells.
    pub vocab: Option<u64>,
    /// The pre-tokenizer's name in a GGUF.
    pub pre: Option<String>,
}

/// What lies beside the weights.
#[derive(Debug, Default)]
pub(super) struct Beside {
    pub(super) tokenizer: Option<Tokenizer>,
    pub(super) chat_template: bool,
    pub(super) generation_config: bool,
}

/// Tokenizer, template and generation config.
pub(super) fn beside(model: &Model, notes: &mut Vec<String>) -> Beside {
    let meta = &model.table.meta;
    let generation_config = model.has("generation_config.json");
    if let Some(kind) = meta.get("tokenizer.ggml.model").and_then(MetaValue::as_str) {
        let vocab = match meta.get("tokenizer.ggml.tokens") {
            Some(MetaValue::Array(tokens)) => Some(tokens.count),
            _ => None,
        };
        let known = GGUF_TOKENIZERS.iter().find(|(name, _)| *name == kind);
        let kind = known.map_or_else(|| Shown(kind).to_string(), |(_, kind)| (*kind).to_owned());
        let pre = meta.get("tokenizer.ggml.pre").and_then(MetaValue::as_str);
        let pre = pre.map(|p| Shown(p).to_string());
        let chat_template = meta.get("tokenizer.chat_template").is_some();
        return Beside { tokenizer: Some(Tokenizer { kind, vocab, pre }), chat_template, generation_config };
    }
    let chat_template = model.has("chat_template.jinja")
        || model.has("chat_template.json")
        || model
            .companion_json("tokenizer_config.json", notes)
            .is_some_and(|c| c.get("chat_template").is_some_and(|t| !t.is_null()));
    let tokenizer = tokenizer(model, notes);
    Beside { tokenizer, chat_template, generation_config }
}

/// `tokenizer.ggml.model` and the usual word for it.
const GGUF_TOKENIZERS: &[(&str, &str)] = &[
    ("llama", "SentencePiece"),
    ("gpt2", "BPE"),
    ("bert", "WordPiece"),
    ("t5", "Unigram"),
    ("none", "none"),
];

/// Other files that are a tokenizer, and its kind.
const TOKENIZER_FILES: &[(&str, &str)] = &[
    ("tekken.json", "tekken"),
    ("tokenizer.model", "SentencePiece or tiktoken"),
    ("spiece.model", "SentencePiece"),
    ("sentencepiece.bpe.model", "SentencePiece"),
    ("vocab.txt", "WordPiece"),
    ("merges.txt", "BPE"),
];

fn tokenizer(model: &Model, notes: &mut Vec<String>) -> Option<Tokenizer> {
    match model.companion("tokenizer.json", TOKENIZER_BYTES_MAX) {
        Ok(Some(bytes)) => match count(&bytes) {
            Ok(tokenizer) => return Some(tokenizer),
            Err(e) => notes.push(format!("tokenizer.json: cannot be understood: {e}")),
        },
        Ok(None) => {}
        Err(e) => notes.push(e.to_string()),
    }
    let (_, kind) = TOKENIZER_FILES.iter().find(|(name, _)| model.has(name))?;
    Some(Tokenizer { kind: (*kind).to_owned(), vocab: None, pre: None })
}

/// Kind and number of tokens of a `tokenizer.json`, in one pass that keeps none of them.
fn count(bytes: &[u8]) -> serde_json::Result<Tokenizer> {
    let mut facts = Facts::default();
    let mut json = serde_json::Deserializer::from_slice(bytes);
    Object(&mut facts, top).deserialize(&mut json)?;
    json.end()?;
    // An added token whose id the vocabulary has already is the same token.
    let beyond = facts.added_ids.iter().filter(|&&id| facts.max_id.is_none_or(|max| id > max)).count() as u64;
    let kind = match (facts.kind, facts.has_merges) {
        (Some(kind), _) => Shown(&kind).to_string(),
        (None, true) => "BPE".to_owned(),
        (None, false) => "unnamed kind".to_owned(),
    };
    Ok(Tokenizer { kind, vocab: Some(facts.tokens.saturating_add(beyond)), pre: None })
}

#[derive(Default)]
struct Facts {
    kind: Option<String>,
    has_merges: bool,
    tokens: u64,
    max_id: Option<u64>,
    added_ids: Vec<u64>,
}

/// What to do with a key of an object: read its value, or leave it.
type Key = for<'a> fn(&str, &'a mut Facts) -> Option<What<'a>>;

enum What<'a> {
    Inside(&'a mut Facts, Key),
    Items(&'a mut Facts, Key),
    Text(&'a mut Option<String>),
    Merges(&'a mut bool),
    Tokens(&'a mut Facts),
    AddedId(&'a mut Vec<u64>),
}

fn top<'a>(key: &str, facts: &'a mut Facts) -> Option<What<'a>> {
    match key {
        "model" => Some(What::Inside(facts, in_model)),
        "added_tokens" => Some(What::Items(facts, in_added)),
        _ => None,
    }
}

fn in_model<'a>(key: &str, facts: &'a mut Facts) -> Option<What<'a>> {
    match key {
        "type" => Some(What::Text(&mut facts.kind)),
        "merges" => Some(What::Merges(&mut facts.has_merges)),
        "vocab" => Some(What::Tokens(facts)),
        _ => None,
    }
}

fn in_added<'a>(key: &str, facts: &'a mut Facts) -> Option<What<'a>> {
    (key == "id").then_some(What::AddedId(&mut facts.added_ids))
}

/// An object whose keys are looked up.
struct Object<'a>(&'a mut Facts, Key);

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match (self.1)(&key, self.0) {
                Some(what) => map.next_value_seed(what)?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for What<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        use serde::Deserialize;
        match self {
            What::Inside(facts, key) => d.deserialize_map(Object(facts, key)),
            What::Items(facts, key) => d.deserialize_seq(Items(facts, key)),
            What::Text(text) => Option::<String>::deserialize(d).map(|t| *text = t),
            What::Merges(has) => {
                *has = true;
                IgnoredAny::deserialize(d).map(drop)
            }
            What::Tokens(facts) => d.deserialize_any(Tokens(facts)),
            What::AddedId(ids) => u64::deserialize(d).map(|id| ids.push(id)),
        }
    }
}

/// A list of objects.
struct Items<'a>(&'a mut Facts, Key);

impl<'de> Visitor<'de> for Items<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Object(self.0, self.1))?.is_some() {}
        Ok(())
    }
}

/// The vocabulary: an object of ids, or a list (Unigram), whose places are the ids.
struct Tokens<'a>(&'a mut Facts);

impl<'de> Visitor<'de> for Tokens<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a vocabulary")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((_, id)) = map.next_entry::<IgnoredAny, u64>()? {
            self.0.tokens += 1;
            self.0.max_id = self.0.max_id.max(Some(id));
        }
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {
            self.0.max_id = Some(self.0.tokens);
            self.0.tokens += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokenizers_are_counted() {
        for (json, expected) in [
            (
                r#"{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}, "added_tokens": [{"id": 1}, {"id": 2, "content": "<x>"}]}"#,
                Some(("BPE", 3)),
            ),
            (r#"{"added_tokens": [], "model": {"vocab": {"a": 0}, "merges": []}}"#, Some(("BPE", 1))),
            (
                r#"{"model": {"type": "Unigram", "vocab": [["a", 0.1], ["b", 0.2]]}, "added_tokens": [{"id": 0}]}"#,
                Some(("Unigram", 2)),
            ),
            (r#"{"model": {"type": "\u001b[31m", "vocab": {}}}"#, Some(("\\u{1b}[31m", 0))),
            (r#"{}"#, Some(("unnamed kind", 0))),
            (r#"{"model": {"vocab": {"a": "x"}}}"#, None),
            (r#"{"model": {"vocab": {"a": -1}}}"#, None),
            (r#"{"model": []}"#, None),
            (r#"[]"#, None),
            (r#"{"model": {}"#, None),
            ("", None),
        ] {
            let got = count(json.as_bytes()).ok();
            let got = got.as_ref().map(|t| (t.kind.as_str(), t.vocab.unwrap()));
            assert_eq!(got, expected, "{json}");
        }
        let deep = format!("{}{}", r#"{"x":"#.repeat(100_000), "1");
        assert!(count(deep.as_bytes()).is_err());
    }
}
