//! Chat templates: messages as the text that a model was trained on.
//!
//! A template is a program in Jinja, written for Python and carried out by transformers; one byte rendered otherwise and the
//! model sees what it was never trained on. So the engine is written for that one purpose: it computes with Python's
//! values, knows the tags, filters, tests and methods that templates use, each as Python carries it out, and refuses
//! every other by name. A general engine cannot serve: its operators are those of its own language, and no option changes
//! them. Nor does one bound memory, and templates come from strangers: `{% set x = x ~ x %}` in a loop fills any machine.
//! Here each step and each byte is counted.
//!
//! Reference: Jinja 3.1 (lexer, parser, compiler, filters, sandbox), and `render_jinja_template` of transformers 5.

mod ast;
mod checks;
mod engine;
mod filters;
mod format;
mod frames;
mod json;
mod lexer;
mod loops;
mod methods;
mod operators;
mod parser;
mod time;
mod value;

use crate::checkpoint::{Container, MetaValue};
use crate::error::{Error, Result};
use crate::open::Model;
use crate::text::Shown;
use crate::transform::vocab;
use serde_json::{Map, Value as Json};
use std::rc::Rc;
pub use time::Moment;
use value::Value;

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
    let context = Json::Object(context);
    let input_bytes = template.len().saturating_add(size(&context));
    let Json::Object(context) = context else { return Err(Error::bug("a map is no map")) };
    let context =
        context.iter().map(|(name, value)| (Rc::from(name.as_str()), Value::of_json(value))).collect();
    let now = || chat.now.unwrap_or_else(Moment::now);
    let rendered = parser::parse(template).and_then(|body| engine::render(&body, context, input_bytes, &now));
    rendered.map_err(|fault| fault.into_error())
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
            // `thinking` stands first, whether the message had it or not, as it does in Python.
            let mut ordered = Map::new();
            ordered.insert("thinking".into(), reasoning.clone());
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
