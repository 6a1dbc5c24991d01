//! `tokenizer.ggml.pre`: how a byte-level BPE tokenizer cuts text into words, found from the structure of tokenizer.json
//! by a table, and turned back by the same rows.
//!
//! llama.cpp does not carry the regular expressions in the file; it knows some hundred tokenizers by name. The name is
//! looked up by what the tokenizer *does* (its split expressions, digits, byte-level switches), so an added token or
//! another vocabulary changes nothing. Several names cut alike. The one taken is the first in this order: of the
//! architecture's own and treating whole words (`ignore_merges`) as the tokenizer does; any that treats them so; of the
//! architecture's own; the row's first.

mod table;

use crate::error::{Error, Result};
use crate::text::Shown;
use serde_json::{Value, json};
use table::{CUTS, Cut, DEFAULT, ENDINGS, GPT2, Name, SPELLINGS};

/// The most steps that are looked at; published tokenizers have seven.
const STEPS_MAX: usize = 64;

/// Characters that mean themselves, in a class and outside, with or without a backslash.
const NEEDLESSLY_ESCAPED: &str = "\"'/!#%,;@_`";

/// How much of a difference a message shows.
const DIFFERENCE_CHARS: usize = 48;

/// A name that was found, and what the engine does for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pre {
    pub(super) name: &'static str,
    pub(super) ignore_merges: bool,
    pub(super) add_bos: bool,
}

impl From<&Name> for Pre {
    fn from(row: &Name) -> Pre {
        Pre { name: row.name, ignore_merges: row.ignore_merges, add_bos: row.add_bos }
    }
}

/// The pre-tokenizer's name by what it does.
pub(super) fn find(pre_tokenizer: &Value, ignore_merges: bool, arch: &str) -> Result<Pre> {
    let steps = steps_of(pre_tokenizer);
    let same = |cut: &&Cut| cut.steps.iter().any(|known| steps.iter().eq(known.iter()));
    match CUTS.iter().find(same) {
        Some(cut) => Ok(choose(cut.names, ignore_merges, arch)),
        None => Err(unknown(&steps)),
    }
}

/// The pre-tokenizer of tokenizers that the transformers library builds from vocab.json and merges.txt.
pub(super) fn of_class(class: &str) -> Option<Value> {
    let gpt2 = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": true});
    match class.trim_end_matches("Fast") {
        "GPT2Tokenizer" | "RobertaTokenizer" | "CodeGenTokenizer" | "GPTNeoXTokenizer" => Some(gpt2),
        "Qwen2Tokenizer" => Some(to_json(lookup("qwen2")?.0)),
        _ => None,
    }
}

/// A name that the user gave.
pub(super) fn named(name: &str) -> Result<Pre> {
    match lookup(name) {
        Some((_, row)) => Ok(row.into()),
        None => {
            let all: Vec<&str> = CUTS.iter().flat_map(|cut| cut.names).map(|row| row.name).collect();
            Err(Error::usage(format!("no pre-tokenizer is called `{}`", Shown(name)))
                .hint(format!("known are {}", all.join(", "))))
        }
    }
}

/// The pre-tokenizer and the normaliser for this name, as tokenizer.json has them, and whether the name takes whole words
/// from the vocabulary first. `None` for a name that is not known.
pub(super) fn to_hf(name: &str) -> Option<(Value, Value, bool)> {
    let (cut, row) = lookup(name)?;
    let normalizer = if row.nfc { json!({"type": "NFC"}) } else { Value::Null };
    Some((to_json(cut), normalizer, row.ignore_merges))
}

fn lookup(name: &str) -> Option<(&'static Cut, &'static Name)> {
    let all = CUTS.iter().chain([&DEFAULT]);
    all.flat_map(|cut| cut.names.iter().map(move |row| (cut, row))).find(|(_, row)| row.name == name)
}

fn choose(names: &'static [Name], ignore_merges: bool, arch: &str) -> Pre {
    let theirs = |row: &&Name| row.archs.contains(&arch);
    let alike = |row: &&Name| row.ignore_merges == ignore_merges;
    let rows = names.iter();
    let found = rows.clone().find(|row| theirs(row) && alike(row));
    let found = found.or_else(|| rows.clone().find(|row| !row.theirs_only && alike(row)));
    let found = found.or_else(|| rows.clone().find(theirs)).or_else(|| rows.clone().next());
    found.unwrap_or(&DEFAULT.names[0]).into()
}

/// The steps of a pre-tokenizer in the table's notation. What the notation has no word for comes out as the type's name.
fn steps_of(pre_tokenizer: &Value) -> Vec<String> {
    let mut out = Vec::new();
    collect(pre_tokenizer, &mut out);
    // A split as GPT-2 does, spelled out before the bytes, is what `ByteLevel` has built in.
    let gpt2 = format!("split {GPT2}");
    if let Some(at) = out.windows(2).position(|pair| pair[0] == gpt2 && pair[1] == "bytes") {
        out.splice(at..at + 2, ["bytes+words".to_string()]);
    }
    out
}

fn collect(step: &Value, out: &mut Vec<String>) {
    if out.len() >= STEPS_MAX {
        return;
    }
    let flag = |key: &str, default| step.get(key).and_then(Value::as_bool).unwrap_or(default);
    match step.get("type").and_then(Value::as_str) {
        // JSON's reader bounds how deep sequences lie in each other.
        Some("Sequence") => {
            for inner in step.get("pretokenizers").and_then(Value::as_array).into_iter().flatten() {
                collect(inner, out);
            }
        }
        Some("Split") => {
            let pattern = step.get("pattern");
            let pattern = match pattern.and_then(|p| p.get("Regex")).and_then(Value::as_str) {
                Some(regex) => canonical(regex),
                None => match pattern.and_then(|p| p.get("String")).and_then(Value::as_str) {
                    Some(text) => format!("the text `{text}`"),
                    None => "nothing".into(),
                },
            };
            let behavior = step.get("behavior").and_then(Value::as_str).unwrap_or_default();
            // Keeping the matches and dropping what lies between is the same where nothing lies between.
            let all_matched = pattern.ends_with(r"|\s+");
            out.push(match (behavior, flag("invert", false)) {
                ("Isolated", _) => format!("split {pattern}"),
                ("Removed", true) if all_matched => format!("split {pattern}"),
                (other, invert) => {
                    format!(
                        "split-{}{} {pattern}",
                        other.to_lowercase(),
                        if invert { "-inverted" } else { "" }
                    )
                }
            });
        }
        Some("Digits") if flag("individual_digits", false) => out.push(r"split \p{N}".into()),
        Some("Digits") => out.push(r"split \p{N}+".into()),
        Some("ByteLevel") if flag("use_regex", true) => out.push("bytes+words".into()),
        Some("ByteLevel") => out.push("bytes".into()),
        Some("Punctuation") => {
            let behavior = step.get("behavior").and_then(Value::as_str).unwrap_or("Isolated");
            out.push(format!("punctuation {}", behavior.to_lowercase()));
        }
        Some(other) => out.push(other.to_string()),
        None => {}
    }
}

/// One spelling for expressions that mean the same: control characters and escapes, the contractions, a count of one.
fn canonical(regex: &str) -> String {
    let mut out = String::with_capacity(regex.len());
    let mut rest = regex;
    while let Some(c) = rest.chars().next() {
        if let Some((c, after)) = escaped_char(rest) {
            out.push(c);
            rest = after;
            continue;
        }
        rest = &rest[c.len_utf8()..];
        match c {
            '\r' => out.push_str(r"\r"),
            '\n' => out.push_str(r"\n"),
            '\t' => out.push_str(r"\t"),
            '\\' => {
                if let Some(next) = rest.chars().next() {
                    if !NEEDLESSLY_ESCAPED.contains(next) {
                        out.push(c);
                    }
                    out.push(next);
                    rest = &rest[next.len_utf8()..];
                }
            }
            c => out.push(c),
        }
    }
    for (spelling, ours) in SPELLINGS {
        out = out.replace(spelling, ours);
    }
    for (ending, ours) in ENDINGS {
        if let Some(head) = out.strip_suffix(ending) {
            out = format!("{head}{ours}");
        }
    }
    out
}

/// `\u4e00` or `\x{4e00}` at the start, as its character, and what follows. Not for characters that mean something in an
/// expression.
fn escaped_char(text: &str) -> Option<(char, &str)> {
    let (digits, after) = match text.strip_prefix(r"\u") {
        Some(rest) => rest.split_at_checked(4)?,
        None => text.strip_prefix(r"\x{")?.split_once('}')?,
    };
    let c = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
    (!c.is_ascii()).then_some((c, after))
}

/// The error of a pre-tokenizer that no row has: the nearest row, and where the two part.
fn unknown(steps: &[String]) -> Error {
    let hint = "`--tokenizer-pre NAME` uses the name of your choice all the same";
    let common = |known: &[&str]| known.iter().zip(steps).take_while(|(a, b)| *a == b).count();
    let prefix = |a: &str, b: &str| a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count();
    let near = |known: &[&str]| {
        let count = common(known);
        let text = match (known.get(count), steps.get(count)) {
            (Some(a), Some(b)) => prefix(a, b),
            _ => 0,
        };
        (count, text, usize::MAX - known.len().abs_diff(steps.len()))
    };
    let candidates = CUTS.iter().flat_map(|cut| cut.steps.iter().map(move |known| (cut, *known)));
    let nearest = candidates.min_by_key(|(_, known)| std::cmp::Reverse(near(known)));
    let Some((cut, known)) = nearest else { return Error::bug("no pre-tokenizer is known") };
    let at = common(known);
    let (ours, theirs) = (steps.get(at).map_or("", String::as_str), known.get(at).copied().unwrap_or(""));
    // Expressions are long: what is shown begins shortly before they part.
    let from = prefix(ours, theirs).saturating_sub(DIFFERENCE_CHARS / 4);
    let show = |step: &str| match step.chars().skip(from).take(DIFFERENCE_CHARS).collect::<String>() {
        text if text.is_empty() => "nothing".to_string(),
        text => format!("`{}`", Shown(&text)),
    };
    let place = match from {
        0 => String::new(),
        _ => format!(", from character {} on,", from + 1),
    };
    let detail = format!(
        "nearest is `{}`: step {}{place} is {} where it has {}",
        cut.names[0].name,
        at + 1,
        show(ours),
        show(theirs)
    );
    Error::unsupported("cuts text in a way that llama.cpp has no name for").detail(detail).hint(hint)
}

/// A row's first list of steps as tokenizer.json has it.
fn to_json(cut: &Cut) -> Value {
    let split = |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let bytes = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let step = |step: &&str| match *step {
        "bytes" => bytes(false),
        "bytes+words" => bytes(true),
        "split-words" => split(GPT2),
        "punctuation contiguous" => json!({"type": "Punctuation", "behavior": "Contiguous"}),
        "punctuation isolated" => json!({"type": "Punctuation", "behavior": "Isolated"}),
        other => split(other.strip_prefix("split ").unwrap_or(other)),
    };
    let steps: Vec<Value> = cut.steps.first().into_iter().copied().flatten().map(step).collect();
    match steps.len() {
        1 => steps.into_iter().next().unwrap_or(Value::Null),
        _ => json!({"type": "Sequence", "pretokenizers": steps}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn rows_are_canonical_and_tell_apart() {
        let (mut names, mut lists) = (HashSet::new(), HashSet::new());
        for cut in CUTS {
            for row in cut.names {
                assert!(names.insert(row.name), "{} is twice in the table", row.name);
            }
            for steps in cut.steps {
                assert!(lists.insert(*steps), "{} cuts as another row does", cut.names[0].name);
                for step in *steps {
                    if let Some(regex) = step.strip_prefix("split ") {
                        assert_eq!(canonical(regex), regex, "{}", cut.names[0].name);
                    }
                }
            }
        }
    }

    #[test]
    fn each_row_is_found_again() {
        for cut in CUTS {
            let json = to_json(cut);
            let found = find(&json, cut.names[0].ignore_merges, "").unwrap();
            assert_eq!(found.name, cut.names[0].name);
            for row in cut.names.iter().filter(|row| !row.archs.is_empty()) {
                let found = find(&json, row.ignore_merges, row.archs[0]).unwrap();
                let first = cut
                    .names
                    .iter()
                    .find(|r| r.archs.contains(&row.archs[0]) && r.ignore_merges == row.ignore_merges);
                assert_eq!(found.name, first.unwrap().name, "for {}", row.archs[0]);
            }
        }
    }

    #[test]
    fn spellings_meet() {
        for (spelling, canonically) in [
            ("[\r\n]", r"[\r\n]"),
            (r"[\u4e00-\u9fa5]+", "[一-龥]+"),
            (r"[\x{4e00}-\x{9fa5}]+", "[一-龥]+"),
            (r"\u005b", r"\u005b"),
            (r"\\u4e00", r"\\u4e00"),
            (r##"[!\"#\-\/]"##, r##"[!"#\-/]"##),
            (r"'(?i:[sdmt]|ll|ve|re)|\p{N}{1}", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{N}"),
            (r"\p{N}|\s*[\r\n]|\s+(?!\S)|\s", r"\p{N}|\s*[\r\n]+|\s+(?!\S)|\s+"),
        ] {
            assert_eq!(canonical(spelling), canonically);
        }
        let spelled = json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": GPT2}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "use_regex": false}]});
        assert_eq!(find(&spelled, false, "gpt2").unwrap().name, "gpt-2");
    }

    #[test]
    fn unknown_names_the_nearest() {
        let strange = json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}"}, "behavior": "Isolated"},
            {"type": "ByteLevel", "use_regex": false}]});
        let error = find(&strange, false, "llama").unwrap_err();
        assert_eq!(error.kind().exit_code(), 9);
        let text = error.to_string();
        assert!(
            text.contains("nearest is `dbrx`: step 1, from character 57 on, is")
                && text.contains("--tokenizer-pre NAME"),
            "{text}"
        );
        assert!(find(&Value::Null, false, "llama").is_err());
    }
}
