//! Chat templates, from all the places where they have been kept. They are carried, never rendered.
//!
//! Which place wins is as in transformers: the files `chat_template.jinja` and `additional_chat_templates/NAME.jinja`,
//! then the entry of tokenizer_config.json (a text, or a list of named ones), then `chat_template.json`.

use super::{CHAT_TEMPLATE, Files};
use crate::checkpoint::{MetaArray, MetaValue};
use crate::error::{Error, Result};
use hashbrown::HashSet;
use serde_json::Value;

/// The templates of a model.
#[derive(Debug, Default)]
pub(super) struct Templates {
    /// Name and text; the one called `default` is the template.
    pub(super) named: Vec<(String, String)>,
    /// The file they came from.
    pub(super) from: Option<&'static str>,
    /// A file that holds another one, which was not taken.
    pub(super) other: Option<&'static str>,
}

const DEFAULT: &str = "default";
const FOLDER: &str = "additional_chat_templates/";

/// Finds the templates. `names` are all companion files, in which those of the folder are looked up.
pub(super) fn read(files: &Files<'_>, names: &[String], tokenizer_config: &Value) -> Result<Templates> {
    let mut places: Vec<(&'static str, Vec<(String, String)>)> = Vec::new();
    let mut texts = Vec::new();
    if let Some(bytes) = files("chat_template.jinja")? {
        texts.push((DEFAULT.to_string(), text(bytes, "chat_template.jinja")?));
    }
    let mut extra: Vec<&String> = names.iter().filter(|name| in_folder(name).is_some()).collect();
    extra.sort();
    for name in extra {
        if let (Some(stem), Some(bytes)) = (in_folder(name), files(name)?) {
            texts.push((stem.to_string(), text(bytes, name)?));
        }
    }
    places.push(("chat_template.jinja", texts));
    places.push(("tokenizer_config.json", listed(tokenizer_config.get("chat_template"))));
    if let Some(bytes) = files("chat_template.json")? {
        let json: Value = serde_json::from_slice(&bytes)
            .map_err(|e| Error::bad_input(format!("is not JSON: {e}")).file("chat_template.json"))?;
        places.push(("chat_template.json", listed(json.get("chat_template"))));
    }
    places.retain(|(_, texts)| !texts.is_empty());
    let mut places = places.into_iter();
    let Some((from, named)) = places.next() else { return Ok(Templates::default()) };
    let default =
        |texts: &[(String, String)]| texts.iter().find(|(name, _)| name == DEFAULT).map(|(_, t)| t.clone());
    let other = places.find(|(_, texts)| default(texts) != default(&named)).map(|(file, _)| file);
    Ok(Templates { named, from: Some(from), other })
}

/// A template or a list of named ones, as tokenizer_config.json has them.
fn listed(value: Option<&Value>) -> Vec<(String, String)> {
    match value {
        Some(Value::String(text)) => vec![(DEFAULT.to_string(), text.clone())],
        Some(Value::Array(list)) => {
            let one = |entry: &Value| {
                Some((entry.get("name")?.as_str()?.to_string(), entry.get("template")?.as_str()?.to_string()))
            };
            list.iter().filter_map(one).collect()
        }
        _ => Vec::new(),
    }
}

fn in_folder(name: &str) -> Option<&str> {
    name.strip_prefix(FOLDER)?.strip_suffix(".jinja").filter(|stem| !stem.contains('/'))
}

fn text(bytes: Vec<u8>, file: &str) -> Result<String> {
    String::from_utf8(bytes).map_err(|_| Error::bad_input("is not UTF-8").file(file))
}

impl Templates {
    /// The keys: named ones, the list of their names, and the default.
    pub(super) fn keys(&self) -> Vec<(String, MetaValue)> {
        let mut keys: Vec<(String, MetaValue)> = Vec::new();
        let (mut names, mut seen): (Vec<String>, HashSet<String>) = Default::default();
        for (name, text) in self.named.iter().filter(|(name, _)| name != DEFAULT) {
            // A name becomes part of a key.
            let name: String =
                name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
            if !name.is_empty() && seen.insert(name.clone()) {
                keys.push((format!("{CHAT_TEMPLATE}.{name}"), text.as_str().into()));
                names.push(name);
            }
        }
        if !names.is_empty() {
            keys.push(("tokenizer.chat_templates".into(), MetaValue::Array(MetaArray::of_texts(&names))));
        }
        if let Some((_, text)) = self.named.iter().find(|(name, _)| name == DEFAULT) {
            keys.push((CHAT_TEMPLATE.into(), text.as_str().into()));
        }
        keys
    }
}
