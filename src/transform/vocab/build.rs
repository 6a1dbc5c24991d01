//! From the tokenizer's files to rows: one function for each kind of tokenizer.

use super::base64::base64_decode;
use super::pre::{self, Pre};
use super::rows::{ADDED_SCORE, Kind, Row, Rows, SPACE, is_byte, too_many};
use super::sentencepiece::{Algorithm, Model as SentencePiece};
use super::tokenizer_json::{Added, TokenizerJson};
use super::{Files, Options, no_tokenizer, shown};
use crate::checkpoint::MetaValue;
use crate::error::{Error, Result};
use crate::text::grouped;
use hashbrown::{HashMap, HashSet};
use serde_json::Value;

/// The engine's tokenizer, and what it needs beside rows.
#[derive(Debug)]
pub(super) enum Engine {
    Gpt2(Pre),
    Llama { add_space_prefix: bool },
    T5 { add_space_prefix: bool, remove_extra_whitespaces: bool, charsmap: Vec<u8> },
    Bert,
}

impl Engine {
    /// `tokenizer.ggml.model`.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Engine::Gpt2(_) => "gpt2",
            Engine::Llama { .. } => "llama",
            Engine::T5 { .. } => "t5",
            Engine::Bert => "bert",
        }
    }

    /// The kind as a person calls it.
    pub(super) fn title(&self) -> &'static str {
        match self {
            Engine::Gpt2(_) => "BPE",
            Engine::Llama { .. } => "SentencePiece",
            Engine::T5 { .. } => "Unigram",
            Engine::Bert => "WordPiece",
        }
    }
}

/// A tokenizer that has been read.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) engine: Engine,
    pub(super) rows: Rows,
    pub(super) merges: Vec<Box<str>>,
    /// What is left of tokenizer.json: not the vocabulary, which is in the rows.
    pub(super) tokenizer: Option<TokenizerJson>,
    /// A key that comes last.
    pub(super) late_token_types: Option<MetaValue>,
    pub(super) notes: Vec<String>,
}

impl Built {
    fn new(engine: Engine, rows: Rows) -> Built {
        Built { engine, rows, merges: Vec::new(), tokenizer: None, late_token_types: None, notes: Vec::new() }
    }
}

/// Reads the vocabulary from the best file there is.
pub(super) fn build(
    files: &Files<'_>,
    tokenizer: Option<TokenizerJson>,
    tokenizer_config: &Value,
    options: &Options<'_>,
) -> Result<Built> {
    match tokenizer {
        Some(tokenizer) => from_json(files, tokenizer, tokenizer_config, options),
        None => from_older_files(files, tokenizer_config, options),
    }
}

fn from_json(
    files: &Files<'_>,
    mut tokenizer: TokenizerJson,
    tokenizer_config: &Value,
    options: &Options<'_>,
) -> Result<Built> {
    let in_file = |e: Error| e.file("tokenizer.json");
    let mut built = match tokenizer.kind() {
        "BPE" if is_byte_level(&tokenizer) => {
            if tokenizer.model.merges.is_empty()
                && let Some(bytes) = files("merges.txt")?
            {
                tokenizer.model.merges = merges_txt(&bytes)?;
            }
            byte_level(&mut tokenizer, options).map_err(in_file)
        }
        "BPE" if is_spaced(&tokenizer) => {
            let model = files("tokenizer.model")?.and_then(|bytes| SentencePiece::read(&bytes));
            let other = model.as_ref().is_some_and(|model| is_another_vocabulary(model, &tokenizer));
            let built = match model.filter(|_| !other) {
                Some(model) => {
                    let decoder = tokenizer_config.get("added_tokens_decoder").unwrap_or(&Value::Null);
                    let added = json_file(files, "added_tokens.json")?;
                    pieces(&model, &added, decoder, Some(&tokenizer), options)
                }
                None => spaced(&mut tokenizer, options),
            };
            built.map(|mut built| {
                if other {
                    built.notes.push(
                        "tokenizer.model holds another vocabulary than tokenizer.json, and is not used"
                            .into(),
                    );
                }
                built
            })
        }
        "BPE" => Err(Error::unsupported(
            "is a BPE without byte-level characters and without byte fallback, which GGUF has no kind for",
        )),
        "Unigram" => unigram(&mut tokenizer, options),
        "WordPiece" => word_piece(&mut tokenizer, options),
        other => Err(Error::unsupported(format!(
            "has a model of type {}, and GGUF knows BPE, Unigram and WordPiece",
            shown(other)
        ))),
    }
    .map_err(in_file)?;
    unheard_normalizers(&tokenizer, &mut built);
    built.tokenizer = Some(tokenizer);
    Ok(built)
}

fn json_file(files: &Files<'_>, name: &str) -> Result<Value> {
    match files(name)? {
        Some(bytes) => serde_json::from_slice(&bytes)
            .map_err(|e| Error::bad_input(format!("is not JSON: {e}")).file(name)),
        None => Ok(Value::Null),
    }
}

/// tokenizer.model, vocab.json with merges.txt, vocab.txt.
fn from_older_files(files: &Files<'_>, tokenizer_config: &Value, options: &Options<'_>) -> Result<Built> {
    let added = json_file(files, "added_tokens.json")?;
    for name in ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model"] {
        let Some(bytes) = files(name)? else { continue };
        let Some(model) = SentencePiece::read(&bytes) else {
            return Err(Error::unsupported("is not a SentencePiece model")
                .file(name)
                .hint("a list of tiktoken's ranks says nothing of how text is cut; the tokenizer.json of the same model is needed"));
        };
        model.check_algorithm(name)?;
        let decoder = tokenizer_config.get("added_tokens_decoder").unwrap_or(&Value::Null);
        let has_bytes = model.pieces.iter().any(|piece| piece.kind == Kind::Byte);
        return match model.algorithm {
            Algorithm::Unigram if !has_bytes => unigram_pieces(&model, name, &added, options),
            _ => pieces(&model, &added, decoder, None, options),
        }
        .map_err(|e| e.file(name));
    }
    if let (Some(vocab), Some(merges)) = (files("vocab.json")?, files("merges.txt")?) {
        return vocab_and_merges(&vocab, &merges, &added, tokenizer_config, options);
    }
    match files("vocab.txt")? {
        Some(bytes) => vocab_txt(&bytes, &added, options).map_err(|e| e.file("vocab.txt")),
        None => Err(no_tokenizer()),
    }
}

// ---- byte-level BPE

fn is_byte_level(tokenizer: &TokenizerJson) -> bool {
    has_type(&tokenizer.pre_tokenizer, "ByteLevel") || has_type(&tokenizer.decoder, "ByteLevel")
}

/// Whether a part of tokenizer.json is of this type or a sequence that holds one.
fn has_type(part: &Value, kind: &str) -> bool {
    part_of_type(part, kind).is_some()
}

/// The part of this type, in a sequence or by itself.
fn part_of_type<'a>(part: &'a Value, kind: &str) -> Option<&'a Value> {
    if part.get("type").and_then(Value::as_str) == Some(kind) {
        return Some(part);
    }
    let lists = ["pretokenizers", "decoders", "normalizers"];
    let inner = lists.iter().find_map(|key| part.get(key)?.as_array());
    inner.into_iter().flatten().find_map(|inner| part_of_type(inner, kind))
}

fn byte_level(tokenizer: &mut TokenizerJson, options: &Options<'_>) -> Result<Built> {
    let model = &mut tokenizer.model;
    for (what, text) in [("continuing_subword_prefix", &model.prefix), ("end_of_word_suffix", &model.suffix)]
    {
        if let Some(text) = text.as_deref().filter(|text| !text.is_empty()) {
            return Err(Error::unsupported(format!("has `{what}` {}, which GGUF cannot say", shown(text))));
        }
    }
    if model.merges.is_empty() {
        return Err(Error::bad_input("has no merges in `model.merges`, and there is no merges.txt"));
    }
    let pre = match options.pre {
        Some(name) => pre::named(name)?,
        None => pre::find(&tokenizer.pre_tokenizer, model.ignore_merges, options.arch)?,
    };
    let mut rows = Rows::new(options.embedding_rows)?;
    put_vocab(&mut rows, tokenizer, |_, _| Kind::Normal)?;
    put_added(&mut rows, &tokenizer.added, options.arch)?;
    let mut built = Built::new(Engine::Gpt2(pre), rows);
    built.merges = std::mem::take(&mut tokenizer.model.merges);
    if let Some(name) = options.pre
        && let Ok(found) = pre::find(&tokenizer.pre_tokenizer, tokenizer.model.ignore_merges, options.arch)
        && found.name != name
    {
        built
            .notes
            .push(format!("tokenizer.json cuts text as `{}` does; `{name}` was asked for", found.name));
    }
    if pre.ignore_merges != tokenizer.model.ignore_merges {
        let (ours, theirs) = match pre.ignore_merges {
            true => ("merges letters only", "takes whole words from the vocabulary first"),
            false => ("takes whole words from the vocabulary first", "merges letters only"),
        };
        built.notes.push(format!(
            "the tokenizer {ours}, the engine's `{}` {theirs}: rare words may differ",
            pre.name
        ));
    }
    let bytes = part_of_type(&tokenizer.pre_tokenizer, "ByteLevel");
    if bytes.and_then(|step| step.get("add_prefix_space")?.as_bool()) == Some(true) {
        built
            .notes
            .push("the tokenizer puts a space before the text, the engine does not for this kind".into());
    }
    Ok(built)
}

/// Moves the vocabulary of tokenizer.json into rows; scores where it has them.
fn put_vocab(rows: &mut Rows, tokenizer: &mut TokenizerJson, kind: impl Fn(u64, &str) -> Kind) -> Result<()> {
    let scores = std::mem::take(&mut tokenizer.model.scores);
    let vocab = std::mem::take(&mut tokenizer.model.vocab).into_iter();
    rows.put_all(vocab.map(|(text, id)| {
        let score = usize::try_from(id).ok().and_then(|id| scores.get(id)).copied().unwrap_or(0.0);
        let kind = kind(id, &text);
        (id, Row { text, score: score as f32, kind })
    }))
}

/// Added tokens: control tokens, and texts that the user's input is searched for.
fn put_added(rows: &mut Rows, added: &[Added], arch: &str) -> Result<()> {
    rows.put_all(added.iter().map(|token| (token.id, added_row(token, 0.0, arch))))
}

fn added_row(token: &Added, score: f32, arch: &str) -> Row {
    let (text, kind) = added_text(&token.content, token.special, arch);
    Row { text, score, kind }
}

/// Phi-3's tokens are taken as they stand: its reference class looks for no signs of what is special.
const AS_IT_STANDS: &[&str] = &["phi3"];

/// The engine looks such a token up in plain text, so a space is a space.
fn added_text(content: &str, special: bool, arch: &str) -> (Box<str>, Kind) {
    let as_it_stands = AS_IT_STANDS.contains(&arch);
    if special || !as_it_stands && looks_special(content) {
        return (content.into(), Kind::Control);
    }
    let text = if as_it_stands { content.into() } else { content.replace(SPACE, " ").into() };
    (text, Kind::UserDefined)
}

/// Some models forget to mark tokens as special that no user should be able to write.
fn looks_special(text: &str) -> bool {
    let between = |start: &str, end: &str| text.starts_with(start) && text.ends_with(end);
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&text)
        || between("<|", "|>")
        || between("<｜", "｜>")
        || between("<unused", ">")
}

fn merges_txt(bytes: &[u8]) -> Result<Vec<Box<str>>> {
    let text = std::str::from_utf8(bytes).map_err(|_| Error::bad_input("is not UTF-8").file("merges.txt"))?;
    let lines = text.lines().enumerate().filter(|(at, line)| *at > 0 || !line.starts_with('#'));
    let pairs =
        lines.map(|(_, line)| line.trim_end_matches('\r')).filter(|line| line.split(' ').count() == 2);
    Ok(pairs.map(Box::from).collect())
}

/// What the transformers library called a slow tokenizer.
fn vocab_and_merges(
    vocab: &[u8],
    merges: &[u8],
    added: &Value,
    tokenizer_config: &Value,
    options: &Options<'_>,
) -> Result<Built> {
    let vocab: std::collections::BTreeMap<String, u64> = serde_json::from_slice(vocab)
        .map_err(|e| Error::bad_input(format!("is not a vocabulary: {e}")).file("vocab.json"))?;
    let class = tokenizer_config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
    let pre = match options.pre {
        Some(name) => pre::named(name)?,
        None => {
            let cut = pre::of_class(class).ok_or_else(|| {
                Error::unsupported(format!(
                    "says tokenizer class {}, and how that cuts text is not known",
                    shown(class)
                ))
                .file("tokenizer_config.json")
                .hint("`--tokenizer-pre NAME` says it; a tokenizer.json would")
            })?;
            pre::find(&cut, false, options.arch)?
        }
    };
    let mut rows = Rows::new(options.embedding_rows)?;
    let normal = |(text, id): (String, u64)| (id, Row { text: text.into(), score: 0.0, kind: Kind::Normal });
    rows.put_all(vocab.into_iter().map(normal)).map_err(|e| e.file("vocab.json"))?;
    let mut built = Built::new(Engine::Gpt2(pre), rows);
    let decoder = tokenizer_config.get("added_tokens_decoder").unwrap_or(&Value::Null);
    let added = added.as_object().into_iter().flatten().filter_map(|(text, id)| Some((text, id.as_u64()?)));
    built.rows.put_all(added.map(|(text, id)| {
        let (text, kind) = added_text(text, false, options.arch);
        (id, Row { text, score: 0.0, kind })
    }))?;
    put_configured(&mut built, &Value::Null, decoder, 0.0, options.arch)?;
    // GPT-2's own end of text stands in no list of added tokens.
    if let Some(id) = built.rows.find("<|endoftext|>") {
        built.rows.put(id, Row { text: "<|endoftext|>".into(), score: 0.0, kind: Kind::Control });
    }
    built.merges = merges_txt(merges)?;
    Ok(built)
}

// ---- SentencePiece, and BPE that means the same

/// Whether spaces are written as U+2581 and unknown characters as bytes.
fn is_spaced(tokenizer: &TokenizerJson) -> bool {
    let replaces = part_of_type(&tokenizer.normalizer, "Replace")
        .is_some_and(|part| part.get("content").and_then(Value::as_str) == Some("\u{2581}"));
    tokenizer.model.byte_fallback && (replaces || has_type(&tokenizer.pre_tokenizer, "Metaspace"))
}

/// Whether tokenizer.json puts a space before the text.
fn prefixes_space(tokenizer: &TokenizerJson) -> bool {
    let metaspace = part_of_type(&tokenizer.pre_tokenizer, "Metaspace");
    let by_metaspace =
        metaspace.is_some_and(|part| match part.get("prepend_scheme").and_then(Value::as_str) {
            Some(scheme) => scheme != "never",
            None => part.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(true),
        });
    by_metaspace || has_type(&tokenizer.normalizer, "Prepend")
}

/// Whether tokenizer.json, which is what runs, was made of something else than this SentencePiece model. Its scores are
/// only good for its own pieces. Converters have written a few pieces in other words (Gemma's tabulator), hence a share.
fn is_another_vocabulary(model: &SentencePiece, tokenizer: &TokenizerJson) -> bool {
    let added: HashSet<u64> = tokenizer.added.iter().map(|token| token.id).collect();
    let own = tokenizer.model.vocab.iter().filter(|(_, id)| !added.contains(id));
    let piece = |id: u64| usize::try_from(id).ok().and_then(|id| model.pieces.get(id));
    let (mut differing, mut missing) = (0, 0);
    for (text, id) in own {
        match piece(*id) {
            Some(piece) if piece.kind == Kind::Normal => differing += usize::from(piece.text != *text),
            Some(_) => {}
            None => missing += 1,
        }
    }
    missing > 0 || differing * 100 > model.pieces.len()
}

/// A SentencePiece model's pieces, with the tokens that were added to it.
fn pieces(
    model: &SentencePiece,
    added: &Value,
    decoder: &Value,
    tokenizer: Option<&TokenizerJson>,
    options: &Options<'_>,
) -> Result<Built> {
    let mut rows = Rows::new(options.embedding_rows)?;
    rows.put_all(model.pieces.iter().enumerate().map(|(id, piece)| {
        let mut row = piece.clone();
        if row.kind == Kind::UserDefined {
            // Those that are looked for in the text are among the added tokens, below.
            row.kind = Kind::Normal;
        }
        (id as u64, row)
    }))
    .map_err(|e| e.file("tokenizer.model"))?;
    let add_space_prefix = tokenizer.map_or(model.add_dummy_prefix, prefixes_space);
    let mut built = Built::new(Engine::Llama { add_space_prefix }, rows);
    put_configured(&mut built, added, decoder, ADDED_SCORE, options.arch)?;
    let listed = |id: u64| decoder.get(id.to_string()).is_some();
    let mut beyond = Vec::new();
    for token in tokenizer.map_or(&[][..], |tokenizer| &tokenizer.added) {
        if token.id >= built.rows.count() as u64 {
            beyond.push(token.id);
            continue;
        }
        match built.rows.get(token.id) {
            _ if AS_IT_STANDS.contains(&options.arch) => {
                built.rows.put(token.id, added_row(token, ADDED_SCORE, options.arch));
            }
            _ if listed(token.id) => {}
            // A piece that is also an added token keeps its score; what SentencePiece says of it stands.
            Some(row) if *row.text == *token.content && row.kind != Kind::Normal => {}
            Some(row) if *row.text == *token.content => {
                let row = added_row(token, row.score, options.arch);
                built.rows.put(token.id, row);
            }
            _ => _ = built.rows.put(token.id, added_row(token, ADDED_SCORE, options.arch)),
        }
    }
    note_beyond(&mut built, beyond);
    if model.algorithm == Algorithm::Unigram {
        built.notes.push(
            "a unigram model with byte fallback: the engine joins its pieces greedily, so some texts are cut otherwise".into(),
        );
    }
    if !model.charsmap.is_empty() && tokenizer.is_none() {
        built.notes.push(
            "tokenizer.model normalises text by a character map, which the engine does not for this kind"
                .into(),
        );
    }
    Ok(built)
}

fn note_beyond(built: &mut Built, mut ids: Vec<u64>) {
    ids.sort_unstable();
    // Two files may list the same token.
    ids.dedup();
    if let (Some(first), Some(last)) = (ids.first(), ids.last()) {
        built.notes.push(format!(
            "{} added token(s) of id {first} to {last} are left out: the embedding has {} rows",
            ids.len(),
            grouped(built.rows.count() as u64)
        ));
    }
}

/// Tokens of added_tokens.json and of `added_tokens_decoder` in tokenizer_config.json.
fn put_configured(built: &mut Built, added: &Value, decoder: &Value, score: f32, arch: &str) -> Result<()> {
    let mut beyond = Vec::new();
    for (text, id) in added.as_object().into_iter().flatten() {
        let Some(id) = id.as_u64() else { continue };
        if !built.rows.put(id, Row { text: text.as_str().into(), score, kind: Kind::UserDefined }) {
            beyond.push(id);
        }
    }
    for (id, token) in decoder.as_object().into_iter().flatten() {
        let Some(content) = token.get("content").and_then(Value::as_str) else { continue };
        let id = id.parse().map_err(|_| {
            Error::bad_input(format!("has {} as an id in `added_tokens_decoder`", shown(id)))
                .file("tokenizer_config.json")
        })?;
        let special = token.get("special").and_then(Value::as_bool).unwrap_or(false);
        let (text, kind) = added_text(content, special, arch);
        if !built.rows.put(id, Row { text, score, kind }) {
            beyond.push(id);
        }
    }
    note_beyond(built, beyond);
    Ok(())
}

/// BPE with byte fallback and no tokenizer.model: scores from the merges' order, so that what merges first scores highest.
fn spaced(tokenizer: &mut TokenizerJson, options: &Options<'_>) -> Result<Built> {
    let merges = std::mem::take(&mut tokenizer.model.merges);
    let lowest = -(merges.len() as f32) - 1.0;
    let vocab: HashMap<&str, usize> =
        tokenizer.model.vocab.iter().enumerate().map(|(at, (text, _))| (&**text, at)).collect();
    let mut scores = vec![lowest; tokenizer.model.vocab.len()];
    let mut joined = String::new();
    for (rank, merge) in merges.iter().enumerate() {
        joined.clear();
        joined.extend(merge.split(' '));
        if let Some(&at) = vocab.get(joined.as_str())
            && scores[at] == lowest
        {
            scores[at] = -(rank as f32);
        }
    }
    drop(vocab);
    let unknown = tokenizer.model.unk_token.clone();
    let mut rows = Rows::new(options.embedding_rows)?;
    let vocab = std::mem::take(&mut tokenizer.model.vocab).into_iter().zip(scores);
    rows.put_all(vocab.map(|((text, id), score)| {
        let kind = match unknown.as_deref() == Some(&text) {
            true => Kind::Unknown,
            false if is_byte(&text) => Kind::Byte,
            false => Kind::Normal,
        };
        let score = if kind == Kind::Normal { score } else { 0.0 };
        (id, Row { text, score, kind })
    }))?;
    let mut built = Built::new(Engine::Llama { add_space_prefix: prefixes_space(tokenizer) }, rows);
    let mut beyond = Vec::new();
    for token in &tokenizer.added {
        let stands =
            built.rows.get(token.id).is_some_and(|row| matches!(row.kind, Kind::Unknown | Kind::Byte));
        if !stands && !built.rows.put(token.id, added_row(token, ADDED_SCORE, options.arch)) {
            beyond.push(token.id);
        }
    }
    note_beyond(&mut built, beyond);
    Ok(built)
}

// ---- Unigram

fn unigram(tokenizer: &mut TokenizerJson, options: &Options<'_>) -> Result<Built> {
    if tokenizer.model.scores.is_empty() {
        return Err(Error::bad_input("is a unigram model whose `model.vocab` has no scores"));
    }
    let byte_fallback = tokenizer.model.byte_fallback;
    let unk_id = tokenizer.model.unk_id;
    let mut rows = Rows::new(options.embedding_rows)?;
    put_vocab(&mut rows, tokenizer, |id, text| match Some(id) == unk_id {
        true => Kind::Unknown,
        false if byte_fallback && is_byte(text) => Kind::Byte,
        false => Kind::Normal,
    })?;
    for token in &tokenizer.added {
        let (stands, score) = match rows.get(token.id) {
            Some(row) => {
                (row.kind == Kind::Unknown, if *row.text == *token.content { row.score } else { 0.0 })
            }
            None => (false, 0.0),
        };
        if !stands && !rows.put(token.id, added_row(token, score, options.arch)) {
            return Err(too_many(token.id, rows.count()));
        }
    }
    let add_space_prefix = prefixes_space(tokenizer);
    if byte_fallback {
        let mut built = Built::new(Engine::Llama { add_space_prefix }, rows);
        built.notes.push(
            "a unigram model with byte fallback: the engine joins its pieces greedily, so some texts are cut otherwise".into(),
        );
        return Ok(built);
    }
    let squeezes = part_of_type(&tokenizer.normalizer, "Replace").is_some_and(|part| {
        part.get("pattern").and_then(|pattern| pattern.get("Regex")).and_then(Value::as_str) == Some(" {2,}")
    });
    let remove_extra_whitespaces = squeezes || has_type(&tokenizer.pre_tokenizer, "WhitespaceSplit");
    let (charsmap, note) = charsmap(&tokenizer.normalizer)?;
    let mut built = Built::new(Engine::T5 { add_space_prefix, remove_extra_whitespaces, charsmap }, rows);
    built.notes.extend(note);
    Ok(built)
}

/// The character map of a `Precompiled` normaliser.
fn charsmap(normalizer: &Value) -> Result<(Vec<u8>, Option<String>)> {
    let Some(part) = part_of_type(normalizer, "Precompiled") else { return Ok((Vec::new(), None)) };
    let Some(text) = part.get("precompiled_charsmap").and_then(Value::as_str) else {
        return Ok((Vec::new(), None));
    };
    let bytes = base64_decode(text)
        .ok_or_else(|| Error::bad_input("has a `precompiled_charsmap` that is not base64"))?;
    Ok(checked_charsmap(bytes))
}

/// A map that the engine accepts: the size of the table, the table, the replacements.
fn checked_charsmap(bytes: Vec<u8>) -> (Vec<u8>, Option<String>) {
    let table = bytes.first_chunk::<4>().map(|head| u64::from(u32::from_le_bytes(*head)));
    match table {
        Some(table) if table + 4 < bytes.len() as u64 => (bytes, None),
        _ if bytes.is_empty() => (bytes, None),
        _ => (Vec::new(), Some("the character map of the normaliser is damaged and left out".into())),
    }
}

/// XLM-R's SentencePiece file has other ids than the model: four tokens of fairseq's come first, and a mask last.
const FAIRSEQ: [(&str, Kind); 4] =
    [("<s>", Kind::Control), ("<pad>", Kind::Control), ("</s>", Kind::Control), ("<unk>", Kind::Unknown)];

fn unigram_pieces(model: &SentencePiece, file: &str, added: &Value, options: &Options<'_>) -> Result<Built> {
    let mut rows = Rows::new(options.embedding_rows)?;
    match file {
        "sentencepiece.bpe.model" => {
            let first = FAIRSEQ.map(|(text, kind)| Row { text: text.into(), score: 0.0, kind });
            let mask = Row { text: "<mask>".into(), score: 0.0, kind: Kind::Control };
            let all = first.into_iter().chain(model.pieces.iter().skip(3).cloned()).chain([mask]);
            rows.put_all(all.enumerate().map(|(id, row)| (id as u64, row)))?;
        }
        _ => rows.put_all(model.pieces.iter().cloned().enumerate().map(|(id, row)| (id as u64, row)))?,
    }
    let (charsmap, note) = checked_charsmap(model.charsmap.clone());
    let mut built = Built::new(
        Engine::T5 {
            add_space_prefix: model.add_dummy_prefix,
            remove_extra_whitespaces: model.remove_extra_whitespaces,
            charsmap,
        },
        rows,
    );
    built.notes.extend(note);
    put_configured(&mut built, added, &Value::Null, ADDED_SCORE, options.arch)?;
    Ok(built)
}

// ---- WordPiece

fn word_piece(tokenizer: &mut TokenizerJson, options: &Options<'_>) -> Result<Built> {
    let prefix = tokenizer.model.prefix.clone().unwrap_or_else(|| "##".into());
    let mut rows = Rows::new(options.embedding_rows)?;
    put_vocab(&mut rows, tokenizer, |_, _| Kind::Normal)?;
    put_added(&mut rows, &tokenizer.added, options.arch)?;
    let mut built = word_piece_rows(rows, &prefix);
    if !has_type(&tokenizer.pre_tokenizer, "BertPreTokenizer") {
        built.notes.push(
            "the tokenizer does not cut text as BERT does, the engine always does for this kind".into(),
        );
    }
    Ok(built)
}

/// The engine marks where a word begins, not where it goes on.
fn word_piece_rows(mut rows: Rows, prefix: &str) -> Built {
    rows.rename(|row| match row.text.strip_prefix(prefix) {
        _ if row.kind == Kind::Control => None,
        Some(rest) if !prefix.is_empty() => Some(rest.to_string()),
        _ => Some(format!("{SPACE}{}", row.text)),
    });
    Built::new(Engine::Bert, rows)
}

fn vocab_txt(bytes: &[u8], added: &Value, options: &Options<'_>) -> Result<Built> {
    let text = std::str::from_utf8(bytes).map_err(|_| Error::bad_input("is not UTF-8"))?;
    let mut rows = Rows::new(options.embedding_rows)?;
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    rows.put_all(text.lines().enumerate().map(|(id, line)| {
        let kind = if special.contains(&line) { Kind::Control } else { Kind::Normal };
        (id as u64, Row { text: line.into(), score: 0.0, kind })
    }))?;
    for (text, id) in added.as_object().into_iter().flatten() {
        if let Some(id) = id.as_u64() {
            rows.put_all([(id, Row { text: text.as_str().into(), score: 0.0, kind: Kind::Control })])?;
        }
    }
    Ok(word_piece_rows(rows, "##"))
}

// ---- what the engine cannot do

/// Normalisers that each kind of tokenizer carries out itself.
fn heard(engine: &Engine, kind: &str) -> bool {
    match engine {
        Engine::Gpt2(_) => false,
        Engine::Llama { .. } => matches!(kind, "Prepend" | "Replace"),
        Engine::T5 { .. } => matches!(kind, "Precompiled" | "Replace" | "Strip" | "Prepend"),
        Engine::Bert => matches!(kind, "BertNormalizer" | "Lowercase" | "StripAccents" | "NFD"),
    }
}

/// Says aloud which normalisers have no counterpart.
fn unheard_normalizers(tokenizer: &TokenizerJson, built: &mut Built) {
    let mut names: Vec<&str> = Vec::new();
    collect_types(&tokenizer.normalizer, &mut names);
    names.retain(|name| !heard(&built.engine, name));
    names.dedup();
    if !names.is_empty() {
        let names: Vec<String> = names.iter().map(|name| shown(name)).collect();
        built.notes.push(format!(
            "the normaliser {} of tokenizer.json has no counterpart in the engine: text that it would change is tokenised otherwise",
            names.join(", ")
        ));
    }
}

fn collect_types<'a>(part: &'a Value, out: &mut Vec<&'a str>) {
    match part.get("normalizers").and_then(Value::as_array) {
        Some(list) => list.iter().for_each(|inner| collect_types(inner, out)),
        None => out.extend(part.get("type").and_then(Value::as_str)),
    }
}
