//! Special tokens: which ids mean what, and which are put before and after a text.
//!
//! The facts are spread over tokenizer_config.json, special_tokens_map.json, the post-processor of tokenizer.json,
//! config.json and generation_config.json, and the files disagree. The order of belief, and the order of the keys, are
//! the reference converter's, so that our keys equal its: names from the tokenizer's own files first, ids from the model's
//! configs for what is left. Where it looks a name up among the added tokens only, we go on in the vocabulary.

use super::rows::Rows;
use super::tokenizer_json::{Added, TokenizerJson};
use crate::text::Shown;
use serde_json::Value;

/// A role, and its key; roles without a key matter only while the template is read.
const ROLES: &[(&str, Option<&str>)] = &[
    ("bos", Some("tokenizer.ggml.bos_token_id")),
    ("eos", Some("tokenizer.ggml.eos_token_id")),
    ("unk", Some("tokenizer.ggml.unknown_token_id")),
    ("sep", Some("tokenizer.ggml.seperator_token_id")), // sic
    ("pad", Some("tokenizer.ggml.padding_token_id")),
    ("cls", None),
    ("mask", Some("tokenizer.ggml.mask_token_id")),
    ("eot", Some("tokenizer.ggml.eot_token_id")),
    ("eom", Some("tokenizer.ggml.eom_token_id")),
];

/// Roles that every tokenizer may have; the rest come up in templates.
const PLAIN_ROLES: usize = 7;

/// Roles with a switch that says whether the token is added.
const SWITCHES: &[(&str, &str)] = &[
    ("bos", "tokenizer.ggml.add_bos_token"),
    ("eos", "tokenizer.ggml.add_eos_token"),
    ("sep", "tokenizer.ggml.add_sep_token"),
];

/// Role and text.
type Named = &'static [(&'static str, &'static str)];

/// Keys and values.
type Keyed<T> = Vec<(&'static str, T)>;

/// Tokens that are looked up by name for some architectures, where nothing else has said: role and text.
const BY_NAME: &[(&[&str], Named)] = &[
    // Without these the engine takes the ids of BERT's own vocabulary.
    (
        &["bert", "nomic-bert", "nomic-bert-moe"],
        &[
            ("bos", "[CLS]"),
            ("eos", "[SEP]"),
            ("unk", "[UNK]"),
            ("sep", "[SEP]"),
            ("pad", "[PAD]"),
            ("mask", "[MASK]"),
        ],
    ),
    (
        &["glm4"],
        &[("eos", "<|endoftext|>"), ("eot", "<|user|>"), ("unk", "<|endoftext|>"), ("bos", "<|endoftext|>")],
    ),
    (
        &["glm4moe", "glm-dsa"],
        &[("bos", "[gMASK]"), ("eot", "<|user|>"), ("unk", "<|endoftext|>"), ("eom", "<|observation|>")],
    ),
];

/// Where special tokens are read from.
pub(super) struct Sources<'a> {
    pub(super) tokenizer: Option<&'a TokenizerJson>,
    pub(super) tokenizer_config: &'a Value,
    pub(super) special_tokens_map: &'a Value,
    pub(super) config: &'a Value,
    pub(super) generation_config: Option<&'a Value>,
    pub(super) arch: &'a str,
}

/// What was found, in the order in which it is written.
#[derive(Debug, Default)]
pub(super) struct Special {
    ids: Vec<(&'static str, u64)>,
    switches: Vec<(&'static str, bool)>,
    pub(super) notes: Vec<String>,
}

/// The text that plays each role.
struct Cast {
    texts: Vec<Option<String>>,
    /// Roles in play: the plain ones, then `eot` and `eom` once a template needs them.
    count: usize,
}

impl Cast {
    fn get(&self, role: &str) -> Option<&str> {
        let at = ROLES.iter().position(|(name, _)| *name == role)?;
        self.texts.get(at)?.as_deref()
    }

    fn set(&mut self, role: &str, text: Option<String>) {
        if let Some(at) = ROLES.iter().position(|(name, _)| *name == role) {
            self.texts[at] = text;
        }
    }
}

/// Reads all that the files say.
pub(super) fn read(sources: &Sources<'_>, rows: &Rows) -> Special {
    let mut special = Special::default();
    let named = |role: &str| {
        let key = format!("{role}_token");
        let text = |from: &Value| content(from.get(&key)?);
        text(sources.tokenizer_config).or_else(|| text(sources.special_tokens_map))
    };
    let mut cast = Cast { texts: ROLES.iter().map(|(role, _)| named(role)).collect(), count: PLAIN_ROLES };
    if sources.tokenizer_config.as_object().is_some_and(|map| !map.is_empty()) {
        // BERT's first and last token, for those who ask for the beginning and the end.
        for (role, from) in [("bos", "cls"), ("eos", "sep")] {
            if cast.get(role).is_none() {
                cast.set(role, cast.get(from).map(String::from));
            }
        }
    }
    if let Some(tokenizer) = sources.tokenizer {
        special.post_processor(&tokenizer.post_processor, &mut cast);
    }
    let added = sources.tokenizer.map_or(&[][..], |tokenizer| &tokenizer.added);
    for (role, _) in &ROLES[..cast.count] {
        if let Some(add) = sources.tokenizer_config.get(format!("add_{role}_token")).and_then(Value::as_bool)
        {
            special.switch_if_unset(role, add);
        }
        if let Some(text) = cast.get(role)
            && let Some(id) = id_of(text, added, rows)
        {
            special.set(role, id, rows);
        }
    }
    let configs = [Some(sources.config), sources.config.get("text_config")];
    let ids = |role: &str, from: Option<&Value>| from?.get(format!("{role}_token_id")).cloned();
    for (role, _) in &ROLES[..cast.count] {
        if let Some(id) = configs.iter().find_map(|from| ids(role, *from)).and_then(|id| id.as_u64()) {
            special.set(role, id, rows);
        }
    }
    // Not in the reference: the first of several ends, and what only generation_config.json knows.
    for role in ["bos", "eos", "pad"] {
        let places = configs.iter().copied().chain([sources.generation_config]);
        let first = places.filter_map(|from| ids(role, from)).find_map(|id| match id {
            Value::Array(list) => list.first()?.as_u64(),
            id => id.as_u64(),
        });
        if let Some(id) = first {
            special.set(role, id, rows);
        }
    }
    for (_, names) in BY_NAME.iter().filter(|(archs, _)| archs.contains(&sources.arch)) {
        for (role, text) in *names {
            if let Some(id) = id_of(text, added, rows) {
                special.set(role, id, rows);
            }
        }
    }
    special
}

/// A token in a config: its text, or an object that holds it.
fn content(value: &Value) -> Option<String> {
    let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
    (!text.is_empty()).then(|| text.to_string())
}

fn id_of(text: &str, added: &[Added], rows: &Rows) -> Option<u64> {
    added.iter().find(|token| token.content == text).map(|token| token.id).or_else(|| rows.find(text))
}

impl Special {
    /// The first to set a role's id stays.
    fn set(&mut self, role: &'static str, id: u64, rows: &Rows) {
        if self.ids.iter().any(|(known, _)| *known == role) {
            return;
        }
        if id >= rows.count() as u64 {
            let note = format!("`{role}` token {id} is left out: there are {} tokens", rows.count());
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
            return;
        }
        self.ids.push((role, id));
    }

    fn switch(&mut self, role: &'static str, on: bool) {
        match self.switches.iter_mut().find(|(known, _)| *known == role) {
            Some((_, value)) => *value = on,
            None => self.switches.push((role, on)),
        }
    }

    /// Sets a switch that nothing has set.
    pub(super) fn switch_if_unset(&mut self, role: &'static str, on: bool) {
        if !self.switches.iter().any(|(known, _)| *known == role) {
            self.switches.push((role, on));
        }
    }

    /// The ids' keys, then the switches', each in the order in which they were found.
    pub(super) fn keys(&self) -> (Keyed<u64>, Keyed<bool>) {
        let key = |role: &str| ROLES.iter().find(|(name, _)| *name == role)?.1;
        let switch = |role: &str| SWITCHES.iter().find(|(name, _)| *name == role).map(|(_, key)| *key);
        (
            self.ids.iter().filter_map(|(role, id)| Some((key(role)?, *id))).collect(),
            self.switches.iter().filter_map(|(role, on)| Some((switch(role)?, *on))).collect(),
        )
    }

    /// What the post-processor puts around a text.
    fn post_processor(&mut self, post_processor: &Value, cast: &mut Cast) {
        let list = post_processor.get("processors").and_then(Value::as_array);
        for processor in list.map_or(std::slice::from_ref(post_processor), Vec::as_slice) {
            match processor.get("type").and_then(Value::as_str) {
                Some("ByteLevel") => {
                    self.switch_if_unset("bos", false);
                    self.switch_if_unset("eos", false);
                }
                Some("RobertaProcessing") => {
                    for role in ["bos", "eos", "sep"] {
                        self.switch(role, true);
                    }
                    for role in ["cls", "sep"] {
                        if cast.get(role).is_none() {
                            let text =
                                processor.get(role).and_then(|pair| pair.get(0)).and_then(Value::as_str);
                            cast.set(role, text.map(String::from));
                        }
                    }
                }
                Some("TemplateProcessing") => self.template(processor, cast),
                _ => {}
            }
        }
    }

    /// A template of one text, `bos A eos`, and of a pair, `bos A sep eos B`.
    fn template(&mut self, processor: &Value, cast: &mut Cast) {
        let pieces = |key: &str| processor.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let token = |piece: &Value| Some(piece.get("SpecialToken")?.get("id")?.as_str()?.to_string());
        let (single, pair) = (pieces("single"), pieces("pair"));
        let (mut first, mut last) = (None, None);
        if let [head, .., tail] = single {
            first = token(head);
            last = token(tail);
        }
        if let Some(first) = &first {
            for role in ["bos", "cls"] {
                if cast.get(role).is_none() && !["bos", "cls"].iter().any(|r| cast.get(r) == Some(first)) {
                    cast.set(role, Some(first.clone()));
                }
            }
            let known = ["bos", "cls"].iter().any(|role| cast.get(role) == Some(first));
            self.switch("bos", known);
            if !known {
                let first = Shown(first);
                self.notes.push(format!(
                    "the template of tokenizer.json begins with `{first}`, which is not the `bos` token"
                ));
            }
        }
        if let Some(last) = &last {
            // What ends a text is the end; the end of the config moves to the end of a turn.
            let eos = cast.get("eos").map(String::from);
            if eos.as_ref() != Some(last) {
                if cast.count < ROLES.len() {
                    let role = ROLES[cast.count].0;
                    cast.count += 1;
                    cast.set(role, eos);
                }
                cast.set("eos", Some(last.clone()));
            }
            self.switch("eos", true);
        }
        let matches_end = |piece: Option<&Value>, end: &Option<String>| {
            end.is_some() && piece.and_then(token).is_some_and(|text| Some(&text) == end.as_ref())
        };
        let start = usize::from(matches_end(pair.first(), &first));
        let stop = pair.len() - usize::from(matches_end(pair.last(), &last));
        let Some([a, middle @ .., b]) = pair.get(start..stop) else { return };
        let sequence = |piece: &Value| Some(piece.get("Sequence")?.get("id")?.as_str()?.to_string());
        if sequence(a).as_deref() != Some("A") || sequence(b).as_deref() != Some("B") || middle.is_empty() {
            return;
        }
        let separates = |piece: Option<&Value>| {
            let text = piece.and_then(token);
            text.is_some_and(|text| ["sep", "eos"].iter().any(|role| cast.get(role) == Some(&text)))
        };
        let add =
            separates(middle.first()) && last.is_none() || middle.len() == 2 && separates(middle.get(1));
        self.switch("sep", add);
        if add && cast.get("sep").is_none() {
            cast.set("sep", cast.get("eos").map(String::from));
        }
    }
}
