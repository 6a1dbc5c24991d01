//! Chat templates: messages as the text that a model was trained on.
//!
//! A template is a program in Jinja, written for Python and carried out by transformers; one byte rendered otherwise and the
//! model sees what it was never trained on. minijinja parses it and carries out what the language is made of: scopes,
//! loops, macros, whitespace. Between its parser and its code generator the tree is walked (`rewrite`), and every
//! operation on values becomes a call of ours, for two reasons:
//!
//! * Memory. Templates come from strangers, and `{% set x = x ~ x %}` in a loop fills any machine; minijinja's fuel counts
//!   instructions, not what they make. Ours say beforehand what they are to make (`budget`).
//! * Types. minijinja's operators are Rust's at heart: any two values have an order, `n.real` is undefined, `1e22` has 23
//!   digits. Ours take what Python's take and make what those make (`python`, `calls`), or refuse.
//!
//! The tree is not part of minijinja's stable interface, so its version is pinned.
//!
//! Refused by name although Python renders them, beside what has no place in a chat template (`include`, `import`,
//! `extends`, `block`, `autoescape`, `do`):
//!
//! * filters `attr`, `groupby`, `pprint`, `random`, `urlencode`, `urlize`, `wordwrap`, `xmlattr`, and `safe` and `e` other
//!   than at the end of what is shown; the function `lipsum`;
//! * methods `casefold`, `encode`, `expandtabs`, `format`, `isidentifier`, `isprintable`, `istitle`, `swapcase`, `translate`
//!   of texts, letters beyond ASCII in `title` and the `is…` methods, conversions of `%` but `s`, `d`, `i`, `f`;
//! * iterators (`range`, views of a mapping, what `map` and its like make) by index, in part, and inside lists and
//!   namespaces; namespaces, macros, loops and methods as text; tuples, truth values and fractions as keys;
//! * `//` and `%` of fractions, whole numbers of more than 128 bits, `**` behind a sign;
//! * `else` of a loop with `break` or `continue`, `break` out of an inner block, a loop's `loop` in a macro, a name that
//!   the context has set behind a block that reads it, a `with` block whose values read its names, a call of what has no
//!   name;
//! * syntax that minijinja does not have: `{% print %}`, tuples without parentheses, texts side by side, a sign `+`.
//!
//! Reference: Jinja 3.1 (compiler, filters, tests, sandbox), and `render_jinja_template` of transformers 5.

mod budget;
mod calls;
mod engine;
mod given;
mod json;
mod objects;
mod python;
mod rewrite;
mod time;

use crate::checkpoint::{Container, MetaValue};
use crate::error::{Error, Result};
use crate::open::Model;
use crate::text::Shown;
use crate::transform::vocab;
use budget::Cause;
use serde_json::{Map, Value as Json};
pub use time::Moment;

/// The longest template.
const TEMPLATE_BYTES_MAX: usize = 4 << 20;

/// The name of the template that is meant where none is named, and of the one for tools.
const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

/// Names under which a message's reasoning is passed; the first is the one that templates read.
const REASONING: &[&str] = &["reasoning_content", "thinking", "reasoning"];

/// A model's templates.
#[derive(Debug, Clone, Default)]
pub struct Templates {
    /// Name and text; the one called `default` is meant where none is named.
    pub named: Vec<(String, String)>,
    /// The file, or the key, that they come from.
    pub from: Option<String>,
}

impl Templates {
    /// Those of a model: of a GGUF's keys, else of the files beside the weights in transformers' order.
    ///
    /// # Errors
    /// Damaged or oversized files.
    pub fn of(model: &Model) -> Result<Templates> {
        if model.table.files.first().is_some_and(|file| file.container == Container::Gguf) {
            let templates = Templates::of_keys(model);
            if !templates.named.is_empty() || model.is_file {
                return Ok(templates);
            }
        }
        let names: Vec<String> = match model.place.list("additional_chat_templates") {
            Ok(entries) => entries.into_iter().filter(|e| !e.is_directory).map(|e| e.name).collect(),
            Err(_) => Vec::new(),
        };
        let read = |name: &str| match names.iter().any(|known| known == name) {
            true => super::text::read_beside(model, name, TEMPLATE_BYTES_MAX as u64),
            false => model.companion(name, super::text::FILE_BYTES_MAX),
        };
        let (named, from) = vocab::chat_templates(&read, &names)?;
        Ok(Templates { named, from: from.map(String::from) })
    }

    fn of_keys(model: &Model) -> Templates {
        let mut named = Vec::new();
        for (key, value, _) in &model.table.meta.entries {
            let Some(rest) = key.strip_prefix(vocab::CHAT_TEMPLATE) else { continue };
            let name = if rest.is_empty() { Some(DEFAULT) } else { rest.strip_prefix('.') };
            if let (Some(name), Some(text)) = (name, MetaValue::as_str(value)) {
                named.push((name.to_string(), text.to_string()));
            }
        }
        let from = (!named.is_empty()).then(|| vocab::CHAT_TEMPLATE.to_string());
        Templates { named, from }
    }

    /// The template that is asked for by name; without one that for tools, where there are tools and it exists, else the
    /// default. `None` where the model has no template at all.
    ///
    /// # Errors
    /// `Usage`: no template has that name, or several and none is the default.
    pub fn choose(&self, name: Option<&str>, has_tools: bool) -> Result<Option<&str>> {
        let find =
            |name: &str| self.named.iter().find(|(known, _)| known == name).map(|(_, text)| text.as_str());
        let names =
            || self.named.iter().map(|(name, _)| format!("`{}`", Shown(name))).collect::<Vec<_>>().join(", ");
        match name {
            Some(name) => match find(name) {
                Some(text) => Ok(Some(text)),
                None => Err(Error::usage(format!("the model has no chat template `{}`", Shown(name))).hint(
                    if self.named.is_empty() {
                        "it has none at all".into()
                    } else {
                        format!("it has {}", names())
                    },
                )),
            },
            None => match find(TOOL_USE).filter(|_| has_tools).or_else(|| find(DEFAULT)) {
                Some(text) => Ok(Some(text)),
                None if self.named.is_empty() => Ok(None),
                None => Err(Error::usage("the model has several chat templates and none is the default")
                    .hint(format!("--chat-template takes one of {}", names()))),
            },
        }
    }
}

/// What a template is given.
#[derive(Debug, Clone, Copy)]
pub struct Chat<'a> {
    /// Messages: objects with `role`, `content` and whatever else the template reads.
    pub messages: &'a [Json],
    /// Tools by their JSON schema.
    pub tools: Option<&'a [Json]>,
    /// Documents, for models that quote from some.
    pub documents: Option<&'a [Json]>,
    /// Whether the text ends where the model's answer begins.
    pub add_generation_prompt: bool,
    /// The tokenizer's special tokens (`bos_token`, …), and anything else that the template may read by name.
    pub extra: &'a Map<String, Json>,
    /// The moment that `strftime_now` tells; `None` is now.
    pub now: Option<Moment>,
}

/// Renders messages as transformers' `apply_chat_template` does.
///
/// # Errors
/// `Unsupported`: the template uses what is not rendered here, or asks for more work or memory than a template may.
/// `BadInput`: it is no template, it refuses these messages, or it fails on them as it would in Python. `Usage`: no
/// messages, or one that is no object.
pub fn render(template: &str, chat: &Chat<'_>) -> Result<String> {
    if template.len() > TEMPLATE_BYTES_MAX {
        let message = format!("the chat template has {} bytes", template.len());
        return Err(Error::unsupported(message).hint(format!("hoist renders up to {TEMPLATE_BYTES_MAX}")));
    }
    let messages = normalised(chat.messages)?;
    let listed = |list: Option<&[Json]>| list.map_or(Json::Null, |list| Json::Array(list.to_vec()));
    let mut context: Map<String, Json> = chat.extra.clone();
    context.insert("messages".into(), Json::Array(messages));
    context.insert("tools".into(), listed(chat.tools));
    context.insert("documents".into(), listed(chat.documents));
    context.insert("add_generation_prompt".into(), Json::Bool(chat.add_generation_prompt));
    let input_bytes = template.len().saturating_add(context.values().map(size).sum());
    let now = chat.now.unwrap_or_else(Moment::now);
    engine::render(template, &context, input_bytes, now).map_err(|fault| {
        let message = Shown(&fault.message);
        match fault.cause {
            Cause::Refused => Error::unsupported(format!("the chat template is not rendered: {message}"))
                .detail("a template is rendered exactly as its author meant it, or not at all"),
            Cause::Failed => Error::bad_input(format!("the chat template fails: {message}")),
            Cause::Raised => {
                Error::bad_input(format!("the chat template refuses these messages: `{message}`"))
            }
        }
    })
}

/// Roughly the bytes of a value.
fn size(value: &Json) -> usize {
    match value {
        Json::Array(items) => items.iter().map(size).sum::<usize>() + 8,
        Json::Object(map) => map.iter().map(|(key, value)| key.len() + size(value)).sum::<usize>() + 8,
        Json::String(text) => text.len() + 8,
        _ => 8,
    }
}

/// Messages as transformers hands them over: keys without a value left out, reasoning under each of its names.
fn normalised(messages: &[Json]) -> Result<Vec<Json>> {
    if messages.is_empty() {
        return Err(Error::usage("a chat needs at least one message"));
    }
    let mut all = Vec::with_capacity(messages.len());
    for message in messages {
        let Some(message) = message.as_object() else {
            return Err(Error::usage("a message is a JSON object"));
        };
        let kept = message.iter().filter(|(_, value)| !value.is_null());
        let mut kept: Map<String, Json> = kept.map(|(key, value)| (key.clone(), value.clone())).collect();
        if let Some(reasoning) = REASONING.iter().find_map(|name| kept.get(*name)).cloned() {
            // It stands first, as it does in Python.
            let thinking = kept.shift_remove("thinking").unwrap_or_else(|| reasoning.clone());
            let mut ordered = Map::new();
            ordered.insert("thinking".into(), thinking);
            ordered.extend(kept);
            kept = ordered;
            kept.insert("reasoning_content".into(), reasoning);
        }
        all.push(Json::Object(kept));
    }
    Ok(all)
}

/// Messages as plain lines, `role: text`, for a model without a template.
pub fn plain(messages: &[Json], add_generation_prompt: bool) -> String {
    let text = |content: Option<&Json>| match content {
        Some(Json::String(text)) => text.clone(),
        Some(Json::Array(parts)) => {
            parts.iter().filter_map(|part| part.get("text")?.as_str()).collect::<Vec<_>>().join("")
        }
        _ => String::new(),
    };
    let mut out = String::new();
    for message in messages {
        let role = message.get("role").and_then(Json::as_str).unwrap_or("user");
        out.push_str(&format!("{role}: {}\n", text(message.get("content"))));
    }
    if add_generation_prompt {
        out.push_str("assistant:");
    }
    out
}
