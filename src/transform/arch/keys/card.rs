//! The front matter of a model card, as far as keys come from it: lines `key: value` at the margin, and lists.
//!
//! Only that much of YAML is read. It is what model cards use for license, tags, languages and base models, and a reader
//! of all of YAML would be a large thing to trust with a stranger's text. What is written otherwise (a dictionary, an
//! anchor) is passed over: these keys describe a model and change nothing that it computes.

/// The most keys that are read of a card; no card has as many.
const ENTRIES_MAX: usize = 512;

/// A value of the front matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    Text(String),
    List(Vec<String>),
}

/// The front matter of one card.
#[derive(Debug, Default)]
pub(super) struct Card {
    entries: Vec<(String, Entry)>,
}

impl Card {
    /// From the text of a `README.md`; empty where it has no front matter.
    pub(super) fn parse(text: &str) -> Card {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut lines = text.lines();
        if lines.next() != Some("---") {
            return Card::default();
        }
        let body: Vec<&str> = lines.take_while(|line| *line != "---").collect();
        let mut card = Card::default();
        let mut n = 0;
        while let Some(line) = body.get(n).filter(|_| card.entries.len() < ENTRIES_MAX) {
            n += 1;
            let Some((key, value)) = key_of(line) else { continue };
            // What is indented, or an item of a list, belongs to this key.
            let inner: Vec<&str> = body.iter().skip(n).take_while(|l| belongs(l)).copied().collect();
            n += inner.len();
            if let Some(entry) = entry(value, &inner)
                && card.get(&key).is_none()
            {
                card.entries.push((key, entry));
            }
        }
        card
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|(k, _)| k == key).map(|(_, entry)| entry)
    }

    /// The text of a key that has one.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Entry::Text(text) => Some(text),
            Entry::List(_) => None,
        }
    }

    /// The texts of a key: a single one is a list of one.
    pub(super) fn list(&self, key: &str) -> Option<Vec<&str>> {
        Some(match self.get(key)? {
            Entry::Text(text) => vec![text],
            Entry::List(list) => list.iter().map(String::as_str).collect(),
        })
    }
}

fn belongs(line: &str) -> bool {
    line.trim().is_empty() || line.starts_with([' ', '\t', '#']) || *line == *"-" || line.starts_with("- ")
}

/// `key: value` at the margin.
fn key_of(line: &str) -> Option<(String, &str)> {
    if line.starts_with([' ', '\t', '#', '-', '[', '{', '&', '*', '!', '|', '>', '%', '@', '`']) {
        return None;
    }
    let (key, value) = line.split_once(':')?;
    if !value.is_empty() && !value.starts_with([' ', '\t']) {
        return None;
    }
    let key = scalar(key.trim())?;
    Some((key, value.trim()))
}

fn entry(value: &str, inner: &[&str]) -> Option<Entry> {
    let value = without_comment(value);
    match value {
        "" => {
            let items: Vec<&str> = inner
                .iter()
                .map(|line| line.trim())
                .filter(|l| !l.is_empty() && !l.starts_with('#'))
                .collect();
            let list: Option<Vec<String>> =
                items.iter().map(|item| scalar(without_comment(item.strip_prefix("- ")?.trim()))).collect();
            list.filter(|list| !list.is_empty()).map(Entry::List)
        }
        _ if value.starts_with('[') => {
            let joined = std::iter::once(value)
                .chain(inner.iter().map(|l| without_comment(l.trim())))
                .collect::<Vec<_>>()
                .join(" ");
            let inside = joined.trim().strip_prefix('[')?.strip_suffix(']')?;
            let items = split_outside_quotes(inside);
            items
                .iter()
                .map(|item| item.trim())
                .filter(|item| !item.is_empty())
                .map(scalar)
                .collect::<Option<_>>()
                .map(Entry::List)
        }
        _ if value.starts_with(['|', '>']) => {
            let fold = value.starts_with('>');
            let lines: Vec<&str> = inner.iter().map(|line| line.trim()).collect();
            let text = lines.join(if fold { " " } else { "\n" });
            Some(Entry::Text(text.trim_end().to_owned() + if value.contains('-') { "" } else { "\n" }))
        }
        _ if inner.iter().any(|l| !l.trim().is_empty() && !l.trim().starts_with('#')) => None,
        _ => scalar(value).map(Entry::Text),
    }
}

/// A text without what follows ` #`; quotes protect.
fn without_comment(text: &str) -> &str {
    if text.starts_with(['"', '\'']) {
        return text;
    }
    match text.find(" #") {
        Some(at) => text.get(..at).unwrap_or(text).trim_end(),
        None if text.starts_with('#') => "",
        None => text,
    }
}

/// One value: quoted or plain. `None` for `null` and for what is more than a text.
fn scalar(text: &str) -> Option<String> {
    if let Some(inside) = text.strip_prefix('\'') {
        return inside.strip_suffix('\'').map(|inside| inside.replace("''", "'"));
    }
    if text.starts_with('"') {
        // JSON's strings are YAML's double-quoted ones, but for escapes that no card uses.
        return serde_json::from_str(text).ok();
    }
    let plain = !text.starts_with(['[', '{', '&', '*', '!', '|', '>', '%', '@', '`']);
    let nothing = ["", "~", "null", "Null", "NULL"].contains(&text);
    (plain && !nothing && !text.contains(": ") && !text.ends_with(':')).then(|| text.to_owned())
}

fn split_outside_quotes(text: &str) -> Vec<&str> {
    let (mut items, mut start, mut quote) = (Vec::new(), 0, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            (None, ',') => {
                items.extend(text.get(start..at));
                start = at + 1;
            }
            _ => {}
        }
    }
    items.extend(text.get(start..));
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn front_matter() {
        let card = Card::parse(
            "---\nlicense: apache-2.0\nlicense_link: https://x.org/a/LICENSE # here\ntags:\n- chat\n  - \"no\"\n- 'it''s'\n\
             language: [en, 'fr', \"de\"]\nbase_model: org/name-7B\nmodel-index:\n- name: x\n  results: []\n# done\n\
             datasets:\n  - a/b\n  - c\nempty:\nnothing: null\nwidget: {a: 1}\n---\ntext: no\n",
        );
        assert_eq!(card.text("license"), Some("apache-2.0"));
        assert_eq!(card.text("license_link"), Some("https://x.org/a/LICENSE"));
        assert_eq!(card.list("tags"), Some(vec!["chat", "no", "it's"]));
        assert_eq!(card.list("language"), Some(vec!["en", "fr", "de"]));
        assert_eq!(card.list("base_model"), Some(vec!["org/name-7B"]));
        assert_eq!(card.list("datasets"), Some(vec!["a/b", "c"]));
        for key in ["model-index", "empty", "nothing", "widget", "text", "results"] {
            assert_eq!(card.get(key), None, "{key}");
        }
        assert!(Card::parse("# title\n---\nlicense: x\n---\n").entries.is_empty());
    }
}
