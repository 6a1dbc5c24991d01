//! A model's tokenizer: from text to ids and back.
//!
//! Its files are read by the tokenizers library, which is what trained and published most of them; where a model keeps its
//! vocabulary in another form (a GGUF's keys, a SentencePiece model, a word list), `transform::vocab` makes the file that
//! the library reads, by the same tables that `convert` uses. For a GGUF its own keys come first: they are what is to
//! be verified.

mod difference;
mod stop;
mod stream;

use crate::checkpoint::{Container, FileId, Meta};
use crate::error::{Error, ErrorKind, Result};
use crate::open::Model;
use crate::text::{Shown, grouped};
use crate::transform::arch::families;
use crate::transform::vocab;
use crate::verify::subject::Subject;
pub use difference::{Difference, compare};
use serde_json::{Map, Value as Json};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
pub use stop::stop_ids;
pub use stream::Stream;
use tokenizers::{AddedToken, EncodeInput, Encoding};

/// The largest file of a tokenizer.
pub(super) const FILE_BYTES_MAX: u64 = 64 << 20;

/// How many times longer a tokenizer may make a text before it cuts it. Real ones replace spaces by marks of three bytes.
const GROWTH_MAX: u64 = 64;

/// The longest text that is encoded at once.
const TEXT_BYTES_MAX: usize = 64 << 20;

/// Special tokens with a name, as tokenizer_config.json and templates have them.
const NAMED: &[&str] =
    &["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: Map<String, Json>,
    length_max: Option<u64>,
    from: String,
}

/// A text, or a pair of texts, as ids.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Encoded {
    /// The ids.
    pub ids: Vec<u32>,
    /// Which of a pair each belongs to: 0, or 1.
    pub types: Vec<u32>,
    /// Where in its text each lies, from and to, in characters. Nothing for special tokens: 0, 0.
    pub offsets: Vec<(usize, usize)>,
    /// Whether it was put around the text, and is not of it.
    pub special: Vec<bool>,
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread, now, is caught and told as an error: then nobody else need report it.
pub fn is_guarded() -> bool {
    GUARDED.get()
}

/// Runs the library. A damaged tokenizer.json can make it panic, in many places; all of them end here as an error. It
/// changes nothing while it encodes or decodes that a panic could leave half done: what was being made is dropped.
fn guarded<T>(doing: &str, call: impl FnOnce() -> std::result::Result<T, tokenizers::Error>) -> Result<T> {
    let before = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    GUARDED.set(before);
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            Err(Error::bad_input(format!("the tokenizer cannot {doing}: {}", Shown(&error.to_string()))))
        }
        Err(_) => {
            Err(Error::bad_input(format!("the tokenizer cannot {doing}: its parts contradict each other")))
        }
    }
}

impl Tokenizer {
    /// A subject's tokenizer, `None` where it has none.
    ///
    /// # Errors
    /// Those of [`Tokenizer::of_model`].
    pub fn of(subject: &Subject) -> Result<Option<Tokenizer>> {
        Tokenizer::of_model(&subject.model, &subject.config)
    }

    /// A model's tokenizer, `None` where it has none. `config` is its `config.json`.
    ///
    /// # Errors
    /// `Unsupported`: a kind that has no form in tokenizer.json, or files too large. `BadInput`: damaged files.
    pub fn of_model(model: &Model, config: &Json) -> Result<Option<Tokenizer>> {
        if model.table.files.first().is_some_and(|file| file.container == Container::Gguf) {
            let arch = model.table.meta.get("general.architecture").and_then(|value| value.as_str());
            if model.table.meta.get("tokenizer.ggml.model").is_some() {
                return Tokenizer::of_keys(&model.table.meta, arch.unwrap_or("llama"), "the GGUF's keys")
                    .map(Some);
            }
            if model.is_file {
                return Ok(None);
            }
        }
        let json = |name: &str| -> Result<Json> {
            match model.companion(name, FILE_BYTES_MAX)? {
                None => Ok(Json::Null),
                Some(bytes) => {
                    let parsed = serde_json::from_slice(&bytes);
                    parsed.map_err(|e| {
                        Error::bad_input(format!("is not JSON: {}", Shown(&e.to_string()))).file(name)
                    })
                }
            }
        };
        if let Some(bytes) = model.companion("tokenizer.json", FILE_BYTES_MAX)? {
            let (settings, map) = (json("tokenizer_config.json")?, json("special_tokens_map.json")?);
            let tokenizer = Tokenizer::new(&bytes, &settings, &map, "tokenizer.json");
            return tokenizer.map(Some).map_err(|e| e.file("tokenizer.json"));
        }
        Tokenizer::built(model, config)
    }

    /// Of a vocabulary in another form, by way of the keys that a GGUF would have.
    fn built(model: &Model, config: &Json) -> Result<Option<Tokenizer>> {
        const PIECES: &[&str] = &["tokenizer.model", "spiece.model", "sentencepiece.bpe.model"];
        let Some(from) = PIECES.iter().chain(&["vocab.txt", "vocab.json"]).find(|name| model.has(name))
        else {
            return Ok(None);
        };
        let families = families::of_config(config).map(|family| family.gguf);
        let arch = families.unwrap_or(if *from == "vocab.txt" { "bert" } else { "llama" });
        if *from == "vocab.json" && arch == "bert" {
            // Its special tokens stand in a post-processor that only tokenizer.json has.
            return Err(no_form("vocab.json"));
        }
        let vocabulary = ["vocab_size"].iter().find_map(|key| {
            let text = config.get("text_config").and_then(|text| text.get(*key));
            config.get(*key).or(text)?.as_u64()
        });
        let Some(embedding_rows) = vocabulary else {
            return Err(Error::unsupported(
                "the config has no `vocab_size`, which a tokenizer without tokenizer.json needs",
            ));
        };
        let options =
            vocab::Options { arch, config, generation_config: None, embedding_rows, pre: None, names: &[] };
        let keys = vocab::to_gguf(&|name| model.companion(name, FILE_BYTES_MAX), &options)?;
        let entries = keys.keys.into_iter().map(|(key, value)| (key, value, FileId(0))).collect();
        Tokenizer::of_keys(&Meta { entries }, arch, from).map(Some)
    }

    /// Of a GGUF's keys.
    ///
    /// # Errors
    /// `Unsupported`: a kind that has no form in tokenizer.json. `BadInput`: keys of the wrong type.
    pub fn of_keys(meta: &Meta, arch: &str, from: &str) -> Result<Tokenizer> {
        let made = vocab::to_hf(meta, arch)?;
        let file = |name: &str| {
            made.files.iter().find(|(known, _)| known == name).map(|(_, bytes)| bytes.as_slice())
        };
        let json = |name: &str| {
            file(name).and_then(|bytes| serde_json::from_slice(bytes).ok()).unwrap_or(Json::Null)
        };
        let Some(bytes) = file("tokenizer.json") else {
            let why = made.notes.first().cloned().unwrap_or_default();
            return Err(no_form(from).detail(why));
        };
        Tokenizer::new(bytes, &json("tokenizer_config.json"), &json("special_tokens_map.json"), from)
    }

    /// Of tokenizer.json, tokenizer_config.json and special_tokens_map.json.
    ///
    /// # Errors
    /// `BadInput`: a damaged file. `Unsupported`: too large a file.
    pub fn new(bytes: &[u8], settings: &Json, map: &Json, from: &str) -> Result<Tokenizer> {
        if bytes.len() as u64 > FILE_BYTES_MAX {
            let message = format!(
                "has {} bytes; hoist reads up to {}",
                grouped(bytes.len() as u64),
                grouped(FILE_BYTES_MAX)
            );
            return Err(Error::unsupported(message));
        }
        check_growth(bytes)?;
        let mut inner = guarded("be read", || tokenizers::Tokenizer::from_bytes(bytes))?;
        // What a caller wants padded or cut, it says itself.
        guarded("be read", || {
            inner.with_padding(None);
            inner.with_truncation(None).map(|_| ())
        })?;
        let mut special = Map::new();
        let mut added = Vec::new();
        for name in NAMED {
            let Some(token) =
                [settings, map].iter().find_map(|file| file.get(*name).filter(|v| !v.is_null()))
            else {
                continue;
            };
            let Some(text) = token.as_str().or_else(|| token.get("content")?.as_str()) else { continue };
            special.insert((*name).into(), text.into());
            added.extend(special_token(text, token));
        }
        let others = settings.get("added_tokens_decoder").and_then(Json::as_object);
        for token in others.into_iter().flat_map(Map::values) {
            if token.get("special") == Some(&Json::Bool(true))
                && let Some(text) = token.get("content").and_then(Json::as_str)
            {
                added.extend(special_token(text, token));
            }
        }
        guarded("be read", || {
            // One that the vocabulary does not have would get an id behind its end, which no model knows.
            let known = inner.get_added_tokens_decoder();
            let is_new = |token: &AddedToken| !known.values().any(|known| known.content == token.content);
            let missing: Vec<AddedToken> =
                added.into_iter().filter(|t| is_new(t) && inner.token_to_id(&t.content).is_some()).collect();
            inner.add_special_tokens(missing).map(|_| ())
        })?;
        // Where nobody set a limit, transformers writes a number that no text reaches.
        let length_max =
            settings.get("model_max_length").and_then(Json::as_f64).filter(|n| *n >= 1.0 && *n < 1e9);
        let length_max = length_max.map(|n| n as u64);
        Ok(Tokenizer { inner, special, length_max, from: from.into() })
    }

    /// Where it comes from: a file's name, or a GGUF's keys.
    pub fn from(&self) -> &str {
        &self.from
    }

    /// The special tokens that have a name (`bos_token`), by name: what chat templates are given.
    pub fn special_tokens(&self) -> &Map<String, Json> {
        &self.special
    }

    /// The id of a token by its text.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The text of a token as the vocabulary has it.
    pub fn token(&self, id: u32) -> Option<String> {
        guarded("be read", || Ok(self.inner.id_to_token(id))).ok().flatten()
    }

    /// The id that fills batches up.
    pub fn padding_id(&self) -> Option<u32> {
        self.id(self.special.get("pad_token")?.as_str()?)
    }

    /// The id that encoding puts before a text, where it puts one that has the role of a beginning (`bos_token`, or
    /// `cls_token`).
    pub fn bos(&self) -> Option<u32> {
        let first = self.encode("a", true).ok()?.first().copied()?;
        let roles = ["bos_token", "cls_token"].iter().filter_map(|role| self.special.get(*role)?.as_str());
        roles.filter_map(|text| self.id(text)).find(|id| *id == first)
    }

    /// The most ids that the model was made for, as the tokenizer's settings have it.
    pub fn length_max(&self) -> Option<u64> {
        self.length_max
    }

    /// How many ids there are, added ones included.
    pub fn count(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// A text as ids, with or without what is put around one.
    ///
    /// # Errors
    /// `Unsupported`: a text of more than 64 MiB. `BadInput`: the tokenizer fails on it.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        check_length(text)?;
        let encoding = guarded("encode the text", || self.inner.encode_fast(text, add_special))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// A text with special tokens, and where in it each id lies.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`].
    pub fn encode_with_offsets(&self, text: &str) -> Result<Encoded> {
        check_length(text)?;
        let encoding = guarded("encode the text", || self.inner.encode_char_offsets(text, true))?;
        Ok(encoded(&encoding))
    }

    /// A pair of texts with special tokens: a query and a document.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`].
    pub fn encode_pair(&self, first: &str, second: &str) -> Result<Encoded> {
        check_length(first)?;
        check_length(second)?;
        let pair = EncodeInput::Dual(first.into(), second.into());
        let encoding = guarded("encode the texts", || self.inner.encode_char_offsets(pair, true))?;
        Ok(encoded(&encoding))
    }

    /// Ids as text.
    ///
    /// # Errors
    /// `BadInput`: the tokenizer fails on them.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        guarded("decode", || self.inner.decode(ids, skip_special))
    }

    /// What the first difference is between this and another on a text, in words; `None` where they agree.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`].
    pub fn difference(&self, other: &Tokenizer, text: &str) -> Result<Option<String>> {
        Ok(compare(self, other, text)?.map(|difference| difference.to_string()))
    }

    /// Text from ids that come one by one behind those of `prompt`.
    pub fn decode_stream(&self, prompt: &[u32], skip_special: bool) -> Stream<'_> {
        Stream::new(self, prompt, skip_special)
    }
}

/// A token that settings name, as the library wants it.
fn special_token(text: &str, token: &Json) -> Option<AddedToken> {
    let flag = |name: &str| token.get(name).and_then(Json::as_bool).unwrap_or(false);
    let added = AddedToken::from(text, true).lstrip(flag("lstrip")).rstrip(flag("rstrip"));
    (!text.is_empty()).then(|| added.single_word(flag("single_word")).normalized(flag("normalized")))
}

fn encoded(encoding: &Encoding) -> Encoded {
    Encoded {
        ids: encoding.get_ids().to_vec(),
        types: encoding.get_type_ids().to_vec(),
        offsets: encoding.get_offsets().to_vec(),
        special: encoding.get_special_tokens_mask().iter().map(|&special| special != 0).collect(),
    }
}

/// Refuses a tokenizer whose replacements, one after the other, make texts of any length.
fn check_growth(bytes: &[u8]) -> Result<()> {
    #[derive(serde::Deserialize)]
    struct Steps {
        #[serde(default)]
        normalizer: Json,
        #[serde(default)]
        decoder: Json,
    }
    // What is no JSON is refused with better words by who reads all of it.
    let Ok(Steps { normalizer, decoder }) = serde_json::from_slice::<Steps>(bytes) else { return Ok(()) };
    for (what, step) in [("normaliser", &normalizer), ("decoder", &decoder)] {
        if growth(step) > GROWTH_MAX {
            return Err(Error::unsupported(format!(
                "has a {what} that makes a text more than {GROWTH_MAX} times as long"
            )));
        }
    }
    Ok(())
}

/// How many times longer a step makes a text, at most.
fn growth(step: &Json) -> u64 {
    let steps = ["normalizers", "decoders"].iter().find_map(|key| step.get(*key)?.as_array());
    if let Some(steps) = steps {
        return steps.iter().fold(1, |product: u64, step| product.saturating_mul(growth(step)));
    }
    let length = |text: Option<&Json>| text.and_then(Json::as_str).map_or(0, |text| text.len() as u64);
    if step.get("type").and_then(Json::as_str) != Some("Replace") {
        return 1;
    }
    // An expression may find a place of no length between any two bytes.
    let pattern = length(step.get("pattern").and_then(|p| p.get("String")));
    let content = length(step.get("content"));
    if pattern == 0 { content.saturating_add(1) } else { content.div_ceil(pattern).max(1) }
}

fn check_length(text: &str) -> Result<()> {
    match text.len() > TEXT_BYTES_MAX {
        true => Err(Error::unsupported(format!(
            "a text of {} bytes is too long to encode at once",
            grouped(text.len() as u64)
        ))
        .hint(format!("up to {} bytes are", grouped(TEXT_BYTES_MAX as u64)))),
        false => Ok(()),
    }
}

fn no_form(from: &str) -> Error {
    Error::unsupported(format!("the tokenizer of `{}` cannot be used", Shown(from)))
        .hint("put the model's tokenizer.json beside its weights")
}

/// A file in a folder beside the weights.
pub(super) fn read_beside(model: &Model, name: &str, bytes_max: u64) -> Result<Option<Vec<u8>>> {
    let file = match model.place.open(name) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let size_bytes = file.size_bytes();
    if size_bytes > bytes_max {
        let message = format!("has {} bytes; hoist reads up to {}", grouped(size_bytes), grouped(bytes_max));
        return Err(Error::unsupported(message).file(name));
    }
    let mut bytes = vec![0; usize::try_from(size_bytes).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0).map_err(|e| e.file(name))?;
    Ok(Some(bytes))
}
