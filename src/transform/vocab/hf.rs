//! From GGUF's keys back to Hugging Face's tokenizer files.
//!
//! tokenizer.json says what each kind of engine does in the words of the tokenizers library: which normaliser, how text is
//! cut, the model, what is put around a text. How a byte-level BPE cuts comes from the same table that found its name. What
//! GGUF does not hold is built again: the merges of a SentencePiece vocabulary follow from its pieces and scores.
//!
//! Every token is written into `model.vocab` under its own id, special ones too: the library numbers added tokens itself
//! where the vocabulary does not have them, and padding leaves holes.

mod writer;

use super::base64::base64_encode;
use super::rows::{Kind, SPACE, byte_of, padding_id};
use super::tokenizer_json::TokenizerJson;
use super::{CHAT_TEMPLATE, ToHf, pre, shown};
use crate::checkpoint::{Meta, MetaArray, MetaValue};
use crate::error::{Error, Result};
use hashbrown::{HashMap, HashSet};
use serde_json::{Value, json};

use writer::Writer;

/// Pieces longer than this get no merges: no text is cut so, and the ways to split one grow with its length.
const MERGED_CHARS_MAX: usize = 256;

/// What the vocabulary's keys say.
struct Vocabulary {
    /// Text, score, kind of each token that is not padding; `None` where another token has the text.
    tokens: Vec<Option<(String, f32, Kind)>>,
}

/// A role of a special token: tokenizer_config.json's name, GGUF's key, and the id that the engine assumes for `llama`,
/// `bert` and `t5` where the file has none.
const ROLES: &[(&str, &str, [Option<u64>; 3])] = &[
    ("bos_token", "bos_token_id", [Some(1), Some(101), None]),
    ("eos_token", "eos_token_id", [Some(2), None, Some(1)]),
    ("unk_token", "unknown_token_id", [Some(0), Some(100), Some(2)]),
    ("sep_token", "seperator_token_id", [None, Some(102), None]),
    ("pad_token", "padding_token_id", [None, Some(0), Some(0)]),
    ("mask_token", "mask_token_id", [None, Some(103), None]),
];

/// The parts of tokenizer.json but for vocabulary and merges.
struct Parts {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    /// The model without vocabulary and merges.
    model: Value,
    merges: Option<Vec<(String, String)>>,
    scores: bool,
}

/// See [`super::to_hf`].
pub(super) fn to_hf(meta: &Meta, arch: &str) -> Result<ToHf> {
    let mut out = ToHf::default();
    templates(meta, &mut out);
    let key = |name: &str| meta.get(&format!("tokenizer.ggml.{name}"));
    let Some(model) = key("model").and_then(MetaValue::as_str) else {
        out.notes.push("the file has no tokenizer".into());
        return Ok(out);
    };
    let engine = match model {
        "llama" => 0,
        "bert" => 1,
        "t5" => 2,
        "gpt2" | "gemma4" => 3,
        other => {
            out.notes.push(format!("a tokenizer of kind {} has no form in tokenizer.json", shown(other)));
            return Ok(out);
        }
    };
    let mut vocabulary = Vocabulary::read(meta, engine == 1, &mut out.notes)?;
    let flag = |name: &str| key(name).and_then(MetaValue::as_bool);
    let roles: Vec<(&str, u64)> = ROLES
        .iter()
        .filter_map(|(role, name, assumed)| {
            let id = match key(name) {
                Some(value) => value.as_u64(),
                None => assumed.get(engine).copied().flatten(),
            };
            Some((*role, id.filter(|&id| vocabulary.text(id).is_some())?))
        })
        .collect();
    let id = |role: &str| roles.iter().find(|(name, _)| *name == role).map(|(_, id)| *id);
    let unknown = id("unk_token").or_else(|| vocabulary.first_of(Kind::Unknown));
    let unknown_text = unknown.and_then(|id| vocabulary.text(id)).map(String::from);
    let mut adds = (flag("add_bos_token"), flag("add_eos_token"));
    let parts = match engine {
        0 => llama(&vocabulary, flag("add_space_prefix").unwrap_or(true), unknown_text, &mut out.notes),
        1 => word_piece(flag("normalizer.lowercase"), flag("normalizer.strip_accents"), unknown_text),
        2 => {
            let charsmap =
                key("precompiled_charsmap").and_then(MetaValue::as_array).map(|a| a.bytes.as_ref());
            vocabulary.fill_holes();
            t5(
                flag("add_space_prefix").unwrap_or(false),
                flag("remove_extra_whitespaces").unwrap_or(false),
                charsmap,
                unknown,
            )
        }
        _ => {
            let merges = merges(key("merges"), &vocabulary, &mut out.notes)?;
            let name = key("pre").and_then(MetaValue::as_str).unwrap_or("default");
            match model == "gemma4" || matches!(name, "gemma4" | "granite-embed-multi-311m" | "sarvam-moe") {
                true => spaced(&vocabulary, false, unknown_text, merges),
                false => byte_level(name, merges, &mut adds, &mut out.notes),
            }
        }
    };
    // What the engine does where the file says nothing.
    let adds = match engine {
        0 => (adds.0.unwrap_or(true), adds.1.unwrap_or(false)),
        1 => (true, true),
        2 => (adds.0.unwrap_or(false), adds.1.unwrap_or(true)),
        _ => (adds.0.unwrap_or(false), adds.1.unwrap_or(false)),
    };
    let first = id("bos_token").filter(|_| adds.0);
    let last = match engine {
        1 => id("sep_token").or(id("eos_token")),
        _ => id("eos_token").filter(|_| adds.1),
    };
    let post_processor =
        template(&vocabulary, first, last, engine == 1, flag("add_sep_token").unwrap_or(false));
    let original = meta.get("tokenizer.huggingface.json").and_then(MetaValue::as_text);
    let file = match original.filter(|bytes| TokenizerJson::read(bytes).is_ok()) {
        Some(bytes) => bytes.to_vec(),
        None => write(&vocabulary, &parts, &post_processor),
    };
    out.files.insert(0, ("tokenizer.json".into(), file));
    let (config, map) = configs(meta, arch, engine == 1, &vocabulary, &roles);
    out.files.insert(1, ("tokenizer_config.json".into(), pretty(&config)));
    out.files.insert(2, ("special_tokens_map.json".into(), pretty(&map)));
    Ok(out)
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// The chat templates as files.
fn templates(meta: &Meta, out: &mut ToHf) {
    for (key, value, _) in &meta.entries {
        let (Some(rest), Some(text)) = (key.strip_prefix(CHAT_TEMPLATE), value.as_text()) else { continue };
        let file = match rest.strip_prefix('.') {
            None if rest.is_empty() => "chat_template.jinja".to_string(),
            // A name becomes a file's.
            Some(name) if !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') => {
                format!("additional_chat_templates/{name}.jinja")
            }
            _ => continue,
        };
        out.files.push((file, text.to_vec()));
    }
}

/// tokenizer_config.json and special_tokens_map.json.
fn configs(
    meta: &Meta,
    arch: &str,
    token_types: bool,
    vocabulary: &Vocabulary,
    roles: &[(&str, u64)],
) -> (Value, Value) {
    let mut map = serde_json::Map::new();
    for (role, id) in roles {
        map.insert((*role).into(), json!(vocabulary.text(*id)));
    }
    if token_types {
        // BERT's own words for its first and last token.
        for (role, from) in [("cls_token", "bos_token"), ("sep_token", "eos_token")] {
            if let Some(text) = map.get(from).cloned() {
                map.entry(role).or_insert(text);
            }
        }
    }
    let mut config = serde_json::Map::new();
    config.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
    config.extend(map.clone());
    for name in ["add_bos_token", "add_eos_token"] {
        if let Some(on) = meta.get(&format!("tokenizer.ggml.{name}")).and_then(MetaValue::as_bool) {
            config.insert(name.into(), json!(on));
        }
    }
    config.insert("clean_up_tokenization_spaces".into(), json!(false));
    if let Some(context) = meta.get(&format!("{arch}.context_length")).and_then(MetaValue::as_u64) {
        config.insert("model_max_length".into(), json!(context));
    }
    if !token_types {
        config.insert("model_input_names".into(), json!(["input_ids", "attention_mask"]));
    }
    (Value::Object(config), Value::Object(map))
}

impl Vocabulary {
    /// Reads the keys. `words`: a WordPiece vocabulary, in which the beginnings of words are marked.
    fn read(meta: &Meta, words: bool, notes: &mut Vec<String>) -> Result<Vocabulary> {
        let key = |name: &str| meta.get(&format!("tokenizer.ggml.{name}")).and_then(MetaValue::as_array);
        let Some(texts) = key("tokens").and_then(MetaArray::texts) else {
            return Err(Error::bad_input("`tokenizer.ggml.tokens` is missing or is not an array of strings"));
        };
        let mut kinds = key("token_type").map(MetaArray::items);
        let mut scores = key("scores").map(MetaArray::items);
        let mut kind =
            || kinds.as_mut().and_then(Iterator::next).and_then(|v| i64::try_from(v.as_i128()?).ok());
        let mut score = || scores.as_mut().and_then(Iterator::next).and_then(|v| v.as_f64());
        let (mut tokens, mut repeats, mut broken) = (Vec::new(), 0, 0);
        let mut seen = HashSet::new();
        for (id, text) in texts.enumerate() {
            let (kind, score) = (Kind::from_id(kind().unwrap_or(1)), score().unwrap_or(0.0) as f32);
            let text = String::from_utf8_lossy(text);
            broken += usize::from(matches!(text, std::borrow::Cow::Owned(_)));
            let plain = text.strip_prefix(SPACE).unwrap_or(&text);
            if kind == Kind::Unused && padding_id(plain) == Some(id) {
                tokens.push(None);
                continue;
            }
            let text = match words && kind != Kind::Control {
                true => text.strip_prefix(SPACE).map_or_else(|| format!("##{text}"), String::from),
                false => text.into_owned(),
            };
            match seen.insert(text.clone()) {
                true => tokens.push(Some((text, score, kind))),
                false => {
                    repeats += 1;
                    tokens.push(None);
                }
            }
        }
        if repeats > 0 {
            notes.push(format!(
                "{repeats} token(s) whose text another token has are left out of tokenizer.json"
            ));
        }
        if broken > 0 {
            notes.push(format!("{broken} token(s) are not UTF-8; what is not became U+FFFD"));
        }
        if tokens.iter().all(Option::is_none) {
            return Err(Error::bad_input("`tokenizer.ggml.tokens` has no token that is not padding"));
        }
        Ok(Vocabulary { tokens })
    }

    fn text(&self, id: u64) -> Option<&str> {
        self.tokens.get(usize::try_from(id).ok()?)?.as_ref().map(|(text, ..)| text.as_str())
    }

    fn first_of(&self, kind: Kind) -> Option<u64> {
        let at = self.tokens.iter().position(|token| token.as_ref().is_some_and(|(_, _, k)| *k == kind))?;
        Some(at as u64)
    }

    /// Token by id, padding left out.
    fn iter(&self) -> impl Iterator<Item = (usize, &str, f32, Kind)> {
        let all = self.tokens.iter().enumerate();
        all.filter_map(|(id, token)| {
            token.as_ref().map(|(text, score, kind)| (id, text.as_str(), *score, *kind))
        })
    }

    /// Names padding between tokens, for a vocabulary whose ids are positions.
    fn fill_holes(&mut self) {
        while self.tokens.last().is_some_and(Option::is_none) {
            self.tokens.pop();
        }
        for (id, token) in self.tokens.iter_mut().enumerate() {
            token.get_or_insert_with(|| (format!("[PAD{id}]"), -10000.0, Kind::Unused));
        }
    }
}

// ---- the kinds

fn byte_level(
    name: &str,
    merges: Vec<(String, String)>,
    adds: &mut (Option<bool>, Option<bool>),
    notes: &mut Vec<String>,
) -> Parts {
    let known = pre::to_hf(name).or_else(|| {
        notes.push(format!("the pre-tokenizer {} is not known; text is cut as GPT-2 does", shown(name)));
        pre::to_hf("gpt-2")
    });
    let (pre_tokenizer, normalizer, ignore_merges) = known.unwrap_or((Value::Null, Value::Null, false));
    if name == "default" {
        notes.push("the file names no pre-tokenizer; text is cut as llama.cpp does then".into());
    }
    if !normalizer.is_null() {
        notes.push(format!(
            "the normaliser NFC is that of the tokenizers published as `{name}`; the file does not say"
        ));
    }
    if let Ok(pre) = pre::named(name) {
        adds.0.get_or_insert(pre.add_bos);
    }
    Parts {
        normalizer,
        pre_tokenizer,
        decoder: json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        model: json!({
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": ignore_merges,
        }),
        merges: Some(merges),
        scores: false,
    }
}

fn llama(vocabulary: &Vocabulary, prefix: bool, unknown: Option<String>, notes: &mut Vec<String>) -> Parts {
    notes.push("the merges of tokenizer.json are built from the pieces and their scores".into());
    spaced(vocabulary, prefix, unknown, merges_of_pieces(vocabulary))
}

/// BPE over text whose spaces are U+2581, with bytes for what no piece spells.
fn spaced(
    vocabulary: &Vocabulary,
    prefix: bool,
    unknown: Option<String>,
    merges: Vec<(String, String)>,
) -> Parts {
    let space = SPACE.to_string();
    let has_bytes = vocabulary.iter().any(|(_, text, ..)| byte_of(text).is_some());
    let mut normalizers = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": space})];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": space}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": space}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Parts {
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: Value::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        model: json!({
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": has_bytes, "ignore_merges": false,
        }),
        merges: Some(merges),
        scores: false,
    }
}

/// Every way to put a piece together from two, the piece of the highest score first.
fn merges_of_pieces(vocabulary: &Vocabulary) -> Vec<(String, String)> {
    let normal = |kind| matches!(kind, Kind::Normal | Kind::UserDefined);
    let ids: HashMap<&str, usize> =
        vocabulary.iter().filter(|(.., kind)| normal(*kind)).map(|(id, text, ..)| (text, id)).collect();
    let mut pieces: Vec<(f32, &str)> = vocabulary
        .iter()
        .filter(|(_, text, _, kind)| *kind == Kind::Normal && text.chars().count() <= MERGED_CHARS_MAX)
        .map(|(_, text, score, _)| (score, text))
        .collect();
    // Stable: of equal scores the lower id comes first.
    pieces.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut merges, mut ways) = (Vec::new(), Vec::new());
    for (_, piece) in pieces {
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            if let (Some(&l), Some(&r)) = (ids.get(left), ids.get(right)) {
                ways.push((l, r, left, right));
            }
        }
        ways.sort_unstable();
        merges.extend(ways.drain(..).map(|(_, _, left, right)| (left.to_string(), right.to_string())));
    }
    merges
}

fn t5(prefix: bool, squeeze: bool, charsmap: Option<&[u8]>, unknown: Option<u64>) -> Parts {
    let scheme = if prefix { "always" } else { "never" };
    let metaspace = json!({"type": "Metaspace", "replacement": SPACE.to_string(), "prepend_scheme": scheme, "split": true});
    let charsmap = charsmap.map(base64_encode);
    Parts {
        normalizer: charsmap
            .map_or(Value::Null, |map| json!({"type": "Precompiled", "precompiled_charsmap": map})),
        pre_tokenizer: match squeeze {
            true => json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]}),
            false => metaspace.clone(),
        },
        decoder: metaspace,
        model: json!({"type": "Unigram", "unk_id": unknown, "byte_fallback": false}),
        merges: None,
        scores: true,
    }
}

fn word_piece(lowercase: Option<bool>, strip_accents: Option<bool>, unknown: Option<String>) -> Parts {
    Parts {
        normalizer: json!({
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": strip_accents,
            "lowercase": lowercase.unwrap_or(true),
        }),
        pre_tokenizer: json!({"type": "BertPreTokenizer"}),
        decoder: json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        model: json!({
            "type": "WordPiece", "unk_token": unknown.unwrap_or_else(|| "[UNK]".into()),
            "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
        }),
        merges: None,
        scores: false,
    }
}

/// The merges of a byte-level vocabulary. The library refuses one that names a token it does not have, so those are left
/// out, which changes nothing: the token could not have been written.
fn merges(
    value: Option<&MetaValue>,
    vocabulary: &Vocabulary,
    notes: &mut Vec<String>,
) -> Result<Vec<(String, String)>> {
    let Some(texts) = value.and_then(MetaValue::as_array).and_then(MetaArray::texts) else {
        return Err(Error::bad_input("`tokenizer.ggml.merges` is missing or is not an array of strings"));
    };
    let known: HashSet<&str> = vocabulary.iter().map(|(_, text, ..)| text).collect();
    let (mut out, mut dropped, mut joined) = (Vec::new(), 0u64, String::new());
    for text in texts {
        let text = String::from_utf8_lossy(text);
        // The engine looks for the space from the second byte on.
        let start = text.char_indices().nth(1).map_or(text.len(), |(at, _)| at);
        let parts = text[start..].find(' ').map(|at| (&text[..start + at], &text[start + at + 1..]));
        joined.clear();
        match parts {
            Some((left, right)) if known.contains(left) && known.contains(right) => {
                joined.push_str(left);
                joined.push_str(right);
                match known.contains(joined.as_str()) {
                    true => out.push((left.to_string(), right.to_string())),
                    false => dropped += 1,
                }
            }
            _ => dropped += 1,
        }
    }
    if dropped > 0 {
        notes.push(format!("{dropped} merge(s) of tokens that the vocabulary does not have are left out"));
    }
    Ok(out)
}

/// What is put around a text and around a pair.
fn template(
    vocabulary: &Vocabulary,
    first: Option<u64>,
    last: Option<u64>,
    token_types: bool,
    twice: bool,
) -> Value {
    let text = |id: Option<u64>| id.and_then(|id| vocabulary.text(id));
    let (first_text, last_text) = (text(first), text(last));
    if first_text.is_none() && last_text.is_none() {
        return Value::Null;
    }
    let token = |text: &str, type_id: u8| json!({"SpecialToken": {"id": text, "type_id": type_id}});
    let sequence = |name: &str, type_id: u8| json!({"Sequence": {"id": name, "type_id": type_id}});
    let second = u8::from(token_types);
    let mut single: Vec<Value> = first_text.map(|text| token(text, 0)).into_iter().collect();
    single.push(sequence("A", 0));
    single.extend(last_text.map(|text| token(text, 0)));
    let mut pair = single.clone();
    match last_text {
        Some(text) if twice => pair.push(token(text, 0)),
        // Without an end between them, each text has its own beginning.
        None => pair.extend(first_text.map(|text| token(text, second))),
        Some(_) => {}
    }
    pair.push(sequence("B", second));
    pair.extend(last_text.map(|text| token(text, second)));
    let mut tokens = serde_json::Map::new();
    for (id, text) in [(first, first_text), (last, last_text)] {
        if let (Some(id), Some(text)) = (id, text) {
            tokens.insert(text.into(), json!({"id": text, "ids": [id], "tokens": [text]}));
        }
    }
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens})
}

/// The file, vocabulary and merges a line each.
fn write(vocabulary: &Vocabulary, parts: &Parts, post_processor: &Value) -> Vec<u8> {
    let mut out = Writer::new();
    out.raw("{\n\"version\": \"1.0\",\n\"truncation\": null,\n\"padding\": null,\n\"added_tokens\": [");
    let added = vocabulary
        .iter()
        .filter(|(.., kind)| matches!(kind, Kind::Control | Kind::UserDefined | Kind::Unknown));
    out.list(added, |out, (id, text, _, kind)| {
        out.value(&json!({
            "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": kind != Kind::UserDefined,
        }));
    });
    out.raw("]");
    for (name, part) in [
        ("normalizer", &parts.normalizer),
        ("pre_tokenizer", &parts.pre_tokenizer),
        ("post_processor", post_processor),
        ("decoder", &parts.decoder),
    ] {
        out.raw(&format!(",\n\"{name}\": "));
        out.value(part);
    }
    out.raw(",\n\"model\": {\n");
    for (key, value) in parts.model.as_object().into_iter().flatten() {
        out.value(&json!(key));
        out.raw(": ");
        out.value(value);
        out.raw(",\n");
    }
    match parts.scores {
        true => {
            out.raw("\"vocab\": [");
            out.list(vocabulary.iter(), |out, (_, text, score, _)| {
                out.value(&json!([text, f64::from(if score.is_finite() { score } else { 0.0 })]));
            });
            out.raw("]");
        }
        false => {
            out.raw("\"vocab\": {");
            out.list(vocabulary.iter(), |out, (id, text, ..)| {
                out.value(&json!(text));
                out.raw(&format!(": {id}"));
            });
            out.raw("}");
        }
    }
    if let Some(merges) = &parts.merges {
        // The older form is read by every version; it cannot hold a space.
        let spaces = merges.iter().any(|(left, right)| left.contains(' ') || right.contains(' '));
        out.raw(",\n\"merges\": [");
        out.list(merges.iter(), |out, (left, right)| match spaces {
            true => out.value(&json!([left, right])),
            false => out.value(&json!(format!("{left} {right}"))),
        });
        out.raw("]");
    }
    out.raw("\n}\n}\n");
    out.finish()
}
