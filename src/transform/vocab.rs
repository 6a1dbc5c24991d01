//! Tokenizers: a model's tokenizer files as `tokenizer.ggml.*` keys, and back.
//!
//! Which kind of tokenizer it is decides everything, and `model.type` of tokenizer.json decides the kind. GGUF knows
//! four: `gpt2` (byte-level BPE with merges, and a name for how text is cut), `llama` (SentencePiece pieces with scores
//! and byte fallback), `t5` (unigram), `bert` (WordPiece). Each is brought to the same rows (`vocab::rows`); the special
//! tokens (`vocab::special`) and chat templates (`vocab::template`) are read alike for all. tokenizer.json is the truth where it is
//! there, the embedding's rows are the size. Keys come in the reference converter's order, so that they can be compared.

mod base64;
mod build;
mod hf;
mod pre;
mod rows;
mod sentencepiece;
mod special;
mod template;
mod tokenizer_json;

use crate::checkpoint::{Meta, MetaArray, MetaValue};
use crate::error::{Error, Result};
use crate::text::Shown;
use build::{Built, Engine};
use serde_json::Value;
use tokenizer_json::TokenizerJson;

/// A companion file's bytes by its name, `None` where the model has none. The caller bounds sizes.
pub type Files<'a> = dyn Fn(&str) -> Result<Option<Vec<u8>>> + 'a;

/// The key of the chat template.
pub const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// A tokenizer as GGUF keys.
#[derive(Debug, Clone)]
pub struct ToGguf {
    /// Keys and values, in the reference converter's order.
    pub keys: Vec<(String, MetaValue)>,
    /// `BPE 151936 pre qwen2`: kind, tokens with padding, the pre-tokenizer's name where there is one.
    pub summary: String,
    /// The file that the chat template came from.
    pub template: Option<String>,
    /// What a person should know: what has no counterpart, what was left out.
    pub notes: Vec<String>,
}

/// What [`to_gguf`] needs beside the files.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// `general.architecture` of the target.
    pub arch: &'a str,
    /// `config.json`, whole: special token ids are read from it and from its `text_config`.
    pub config: &'a Value,
    /// `generation_config.json`.
    pub generation_config: Option<&'a Value>,
    /// Rows of the embedding that is written: as many tokens are.
    pub embedding_rows: u64,
    /// `--tokenizer-pre`.
    pub pre: Option<&'a str>,
    /// Names of all companion files; read for `additional_chat_templates/*.jinja` only.
    pub names: &'a [String],
}

/// A tokenizer as Hugging Face's files.
#[derive(Debug, Clone, Default)]
pub struct ToHf {
    /// File name and content.
    pub files: Vec<(String, Vec<u8>)>,
    /// Where it is only near the original.
    pub notes: Vec<String>,
}

/// Architectures whose reference classes write `add_space_prefix` from tokenizer_config.json before all else.
const SPACE_PREFIX_FROM_CONFIG: &[&str] = &["llama"];

/// Architectures whose models never put a space before the text.
const NO_SPACE_PREFIX: &[&str] = &["gemma", "gemma2", "gemma3", "gemma3n"];

/// Encoders whose token type embeddings are counted.
const TOKEN_TYPES: &[&str] = &["bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3"];

/// Keys in the order in which they are first put.
#[derive(Default)]
struct Keys(Vec<(String, MetaValue)>);

impl Keys {
    fn put(&mut self, key: &str, value: MetaValue) {
        match self.0.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => *old = value,
            None => self.0.push((key.to_string(), value)),
        }
    }

    fn ggml(&mut self, key: &str, value: impl Into<MetaValue>) {
        self.put(&format!("tokenizer.ggml.{key}"), value.into());
    }

    fn array(&mut self, key: &str, array: MetaArray) {
        self.ggml(key, MetaValue::Array(array));
    }
}

/// The model's tokenizer as GGUF keys.
///
/// Not found: the model has no tokenizer. Unsupported: a kind that GGUF has no word for, or text cut in a way that
/// llama.cpp has no name for. Bad input: a damaged file, or more tokens than `embedding_rows`.
pub fn to_gguf(files: &Files<'_>, options: &Options<'_>) -> Result<ToGguf> {
    let json = |name: &str| -> Result<Value> {
        match files(name)? {
            Some(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| Error::bad_input(format!("is not JSON: {e}")).file(name)),
            None => Ok(Value::Null),
        }
    };
    let tokenizer_config = json("tokenizer_config.json")?;
    let special_tokens_map = json("special_tokens_map.json")?;
    let tokenizer = match files("tokenizer.json")? {
        Some(bytes) => Some(TokenizerJson::read(&bytes).map_err(|e| e.file("tokenizer.json"))?),
        None => None,
    };
    let mut built = build::build(files, tokenizer, &tokenizer_config, options)?;
    let repeats = built.rows.drop_repeats();
    if let Some(first) = repeats.first() {
        built.notes.push(format!(
            "{} token(s) whose text another token has, the first of id {first}, became padding",
            repeats.len()
        ));
    }
    let sources = special::Sources {
        tokenizer: built.tokenizer.as_ref(),
        tokenizer_config: &tokenizer_config,
        special_tokens_map: &special_tokens_map,
        config: options.config,
        generation_config: options.generation_config,
        arch: options.arch,
    };
    let mut special = special::read(&sources, &built.rows);
    if let Engine::Gpt2(pre) = &built.engine
        && pre.add_bos
    {
        // Else the engine would add a first token that this tokenizer does not.
        special.switch_if_unset("bos", false);
    }
    let templates = template::read(files, options.names, &tokenizer_config)?;

    let mut keys = Keys::default();
    if SPACE_PREFIX_FROM_CONFIG.contains(&options.arch)
        && let Some(add) = tokenizer_config.get("add_prefix_space").and_then(Value::as_bool)
    {
        keys.ggml("add_space_prefix", MetaValue::Bool(add));
    }
    vocabulary(&mut keys, &mut built, options);
    let (ids, switches) = special.keys();
    for (key, id) in ids {
        // Checked against the rows, of which there are fewer than 2^32.
        keys.put(key, MetaValue::U32(u32::try_from(id).unwrap_or(u32::MAX)));
    }
    for (key, on) in switches {
        keys.put(key, MetaValue::Bool(on));
    }
    for (key, value) in templates.keys() {
        keys.put(&key, value);
    }
    if let Some(tokenizer) = &built.tokenizer {
        normalizer(&mut keys, &tokenizer.normalizer);
    } else if let (Engine::Bert, Some(lower)) =
        (&built.engine, tokenizer_config.get("do_lower_case").and_then(Value::as_bool))
    {
        keys.ggml("normalizer.lowercase", MetaValue::Bool(lower));
    }
    last_keys(&mut keys, &built, options);

    let mut notes = built.notes;
    notes.extend(special.notes);
    if let Some(other) = templates.other {
        let from = templates.from.unwrap_or_default();
        notes.push(format!("`{other}` holds another chat template than `{from}`, which is the one taken"));
    }
    if templates.named.is_empty() && is_causal(options.config) {
        notes.push("there is no chat template; chat programs will guess one".into());
    }
    let pre = match &built.engine {
        Engine::Gpt2(pre) => format!(" pre {}", pre.name),
        _ => String::new(),
    };
    let summary = format!("{} {}{pre}", built.engine.title(), built.rows.count());
    Ok(ToGguf { keys: keys.0, summary, template: templates.from.map(String::from), notes })
}

/// Model, pre-tokenizer, tokens and what belongs to them.
fn vocabulary(keys: &mut Keys, built: &mut Built, options: &Options<'_>) {
    let token_types = TOKEN_TYPES.contains(&options.arch).then(|| {
        let text_config = options.config.get("text_config");
        let count = [Some(options.config), text_config]
            .into_iter()
            .flatten()
            .find_map(|c| c.get("type_vocab_size")?.as_u64());
        MetaValue::U32(count.and_then(|n| u32::try_from(n).ok()).unwrap_or(1))
    });
    let counted = |keys: &mut Keys| {
        if let Some(count) = &token_types {
            keys.ggml("token_type_count", count.clone());
        }
    };
    if matches!(built.engine, Engine::Bert) {
        counted(keys);
    }
    keys.ggml("model", built.engine.name());
    let pre = match &built.engine {
        Engine::Gpt2(pre) => pre.name,
        // The engine does not read it for this kind; the name is the reference converter's for BERT's own vocabulary.
        Engine::Bert => options.pre.unwrap_or("bert-bge"),
        _ => "default",
    };
    keys.ggml("pre", pre);
    keys.array("tokens", built.rows.texts());
    if matches!(built.engine, Engine::Llama { .. } | Engine::T5 { .. }) {
        keys.array("scores", built.rows.scores());
    }
    keys.array("token_type", built.rows.kinds());
    match &built.engine {
        Engine::T5 { add_space_prefix, remove_extra_whitespaces, charsmap } => {
            keys.ggml("add_space_prefix", MetaValue::Bool(*add_space_prefix));
            counted(keys);
            keys.ggml("remove_extra_whitespaces", MetaValue::Bool(*remove_extra_whitespaces));
            if !charsmap.is_empty() {
                keys.array("precompiled_charsmap", MetaArray::of_u8(charsmap));
            }
        }
        Engine::Gpt2(_) => {
            keys.array("merges", MetaArray::of_texts(built.merges.iter().map(|m| m.as_bytes())))
        }
        _ => {}
    }
    built.merges = Vec::new();
    if let (Engine::Gpt2(_), Some(count)) = (&built.engine, token_types) {
        built.late_token_types = Some(count);
    }
}

/// Lower case and accents, from a normaliser or a sequence of them.
fn normalizer(keys: &mut Keys, value: &Value) {
    match value.get("type").and_then(Value::as_str) {
        Some("Lowercase") => keys.ggml("normalizer.lowercase", MetaValue::Bool(true)),
        Some("StripAccents") => keys.ggml("normalizer.strip_accents", MetaValue::Bool(true)),
        Some("BertNormalizer") => {
            for flag in ["lowercase", "strip_accents"] {
                if let Some(on) = value.get(flag).and_then(Value::as_bool) {
                    keys.ggml(&format!("normalizer.{flag}"), MetaValue::Bool(on));
                }
            }
        }
        Some("Sequence") => {
            for inner in value.get("normalizers").and_then(Value::as_array).into_iter().flatten() {
                normalizer(keys, inner);
            }
        }
        _ => {}
    }
}

/// What the reference classes of some architectures write last.
fn last_keys(keys: &mut Keys, built: &Built, options: &Options<'_>) {
    let text_is = |id: u64, text: &str| built.rows.get(id).is_some_and(|row| &*row.text == text);
    match (options.arch, options.embedding_rows) {
        // CodeLlama's end of an infill.
        ("llama", 32016) if text_is(32010, "▁<EOT>") => keys.ggml("eot_token_id", MetaValue::U32(32010)),
        // Granite's small code models, which have the llama architecture.
        ("llama", 49152) => keys.ggml("add_bos_token", MetaValue::Bool(false)),
        ("gemma", _) if text_is(107, "<end_of_turn>") => keys.ggml("eot_token_id", MetaValue::U32(107)),
        _ => {}
    }
    if let Engine::Llama { add_space_prefix } = built.engine {
        let never = NO_SPACE_PREFIX.contains(&options.arch);
        let said = keys.0.iter().any(|(key, _)| key == "tokenizer.ggml.add_space_prefix");
        // The engine adds a space unless told not to.
        if never || !add_space_prefix && !said {
            keys.ggml("add_space_prefix", MetaValue::Bool(false));
        }
    }
    if let Some(count) = &built.late_token_types {
        keys.ggml("token_type_count", count.clone());
    }
}

/// Whether the model writes text.
fn is_causal(config: &Value) -> bool {
    let names = config.get("architectures").and_then(Value::as_array);
    let writes = |name: &str| {
        ["ForCausalLM", "LMHeadModel", "ForConditionalGeneration"].iter().any(|end| name.ends_with(end))
    };
    names.into_iter().flatten().filter_map(Value::as_str).any(writes)
}

/// A GGUF's tokenizer as Hugging Face files: `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json`, and the
/// chat templates. `arch` is `general.architecture`.
///
/// A kind that tokenizer.json has no form for is noted and gives no tokenizer.json. Bad input: keys of the wrong type.
pub fn to_hf(meta: &Meta, arch: &str) -> Result<ToHf> {
    hf::to_hf(meta, arch)
}

/// Chat templates, name and text, and the file that they come from.
pub type ChatTemplates = (Vec<(String, String)>, Option<&'static str>);

/// A model's chat templates by name, and the file that they come from. `names` are those of all companion files, in
/// which `additional_chat_templates/*.jinja` are looked up.
///
/// # Errors
/// Damaged files.
pub fn chat_templates(files: &Files<'_>, names: &[String]) -> Result<ChatTemplates> {
    let tokenizer_config = match files("tokenizer_config.json")? {
        Some(bytes) => serde_json::from_slice(&bytes)
            .map_err(|e| Error::bad_input(format!("is not JSON: {e}")).file("tokenizer_config.json"))?,
        None => Value::Null,
    };
    let templates = template::read(files, names, &tokenizer_config)?;
    Ok((templates.named, templates.from))
}

/// The error of a model without a tokenizer.
fn no_tokenizer() -> Error {
    Error::not_found("the model has no tokenizer: no tokenizer.json, tokenizer.model, vocab.json with merges.txt, or vocab.txt")
        .hint("`--tokenizer-from DIR` takes one from another directory")
}

/// A token's text in a message.
fn shown(text: &str) -> String {
    format!("`{}`", Shown(text))
}
