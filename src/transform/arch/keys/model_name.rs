//! The parts of a model's name: `Qwen2.5-7B-Instruct-v0.3` is a base name, a size, a finetune and a version.
//!
//! Nobody prescribes how models are called, so this follows what llama.cpp's converter reads out of a name (gguf-py's
//! `metadata.py`): the same name gives the same keys.

/// A name in its parts. What a name does not say is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ModelName {
    /// All of it but the organisation.
    pub(super) full: Option<String>,
    pub(super) organization: Option<String>,
    pub(super) basename: Option<String>,
    pub(super) finetune: Option<String>,
    pub(super) version: Option<String>,
    pub(super) size_label: Option<String>,
}

/// What one part between hyphens is. A part can be two things at a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Is {
    basename: bool,
    size: bool,
    finetune: bool,
    version: bool,
    /// The type of the weights, which is no part of any key.
    dtype: bool,
}

impl Is {
    fn count(self) -> usize {
        [self.basename, self.size, self.finetune, self.version, self.dtype].iter().filter(|&&is| is).count()
    }
}

/// The most parts that are looked at; a name with more is no name.
const PARTS_MAX: usize = 64;

/// A name in its parts. `total` is the model's number of parameters, 0 where it is not known: a size far from it is a
/// context length.
pub(super) fn parse(id: &str, total: u64) -> ModelName {
    if id.contains(' ') {
        // A sentence and no name of the usual kind.
        return ModelName { full: Some(id.to_owned()), ..ModelName::default() };
    }
    let (organization, full) = match id.split_once('/') {
        Some((organization, name)) => (Some(organization).filter(|o| !o.starts_with('.')), name),
        None => (None, id),
    };
    let mut name = ModelName {
        full: Some(full.to_owned()),
        organization: organization.map(str::to_owned),
        ..ModelName::default()
    };
    let mut parts: Vec<(String, Is)> = full
        .split('-')
        .filter(|part| !part.is_empty())
        .map(|part| (part.to_owned(), Is::default()))
        .collect();
    if parts.len() > PARTS_MAX {
        return name;
    }
    for (n, (part, is)) in parts.iter_mut().enumerate() {
        annotate(n, part, is, total);
    }
    // A size in words means little beside one in numbers.
    let numbered = parts.iter().any(|(part, is)| is.size && part.chars().any(|c| c.is_ascii_digit()));
    for (part, is) in &mut parts {
        if numbered && part.chars().all(char::is_alphabetic) {
            is.size = false;
        }
    }
    // What comes first and is nothing else, or a version, is the base name; what is nothing else later is a finetune.
    let mut at_start = true;
    for (part, is) in &mut parts {
        let unknown = is.count() == 0;
        if at_start && ((unknown && part.starts_with(char::is_alphabetic)) || is.version) {
            is.basename = true;
        } else {
            at_start = false;
            is.finetune |= unknown;
        }
    }
    // A version that ends the base name is a version and not part of it.
    for (_, is) in parts.iter_mut().rev() {
        if !(is.basename && is.count() > 1) {
            break;
        }
        is.basename = false;
    }
    let join = |wanted: fn(Is) -> bool, once: bool| {
        let mut chosen: Vec<&str> = Vec::new();
        for (part, is) in &parts {
            if wanted(*is) && !(once && chosen.contains(&part.as_str())) {
                chosen.push(part);
            }
        }
        Some(chosen.join("-")).filter(|joined| !joined.is_empty())
    };
    name.basename = join(|is| is.basename, false);
    name.size_label = join(|is| is.size, true);
    name.finetune = join(|is| is.finetune, false);
    name.version = join(|is| is.version && !is.basename, false);
    if name.size_label.is_none() && name.finetune.is_none() && name.version.is_none() {
        // Then it is not known where the base name would end.
        name.basename = None;
    }
    name
}

fn annotate(n: usize, part: &mut String, is: &mut Is, total: u64) {
    let lower = part.to_lowercase();
    if is_version(&lower) {
        is.version = true;
    } else if is_dtype(&lower) {
        is.dtype = true;
        *part = part.to_uppercase();
    } else if n > 0 && is_size(&lower) {
        let mut size = part.replace('_', ".");
        let digit_last = size.chars().last().is_some_and(|c| c.is_ascii_digit());
        let cut: Vec<char> = size.chars().collect();
        if let ([rest @ .., unit, digit], true) = (cut.as_slice(), digit_last) {
            // `7b1` is 7.1B.
            size = rest.iter().collect::<String>() + "." + &digit.to_string() + &unit.to_string();
        }
        let before_last = size.chars().rev().nth(1).is_some_and(|c| c.is_ascii_digit());
        let unit = size.pop();
        if let Some(unit) = unit {
            size.push(if before_last && "kmbt".contains(unit) { unit.to_ascii_uppercase() } else { unit });
        }
        if total > 0
            && let Some(said) = parameters(&size)
            && (said - total as f64).abs() > (u128::from(total) * 7 / 8) as f64
        {
            // Far from the model's size, so it is a length of context.
            is.finetune = true;
            if let Some(unit) = size.pop() {
                size.push(unit.to_ascii_lowercase());
            }
        }
        is.size = is.count() == 0;
        *part = size;
    } else if n > 0 && ["chat", "instruct", "vision", "lora"].contains(&lower.as_str()) {
        is.finetune = true;
    }
}

/// The number that a size says: `7B` is 7e9. `None` for `8x7B` and for words.
fn parameters(size: &str) -> Option<f64> {
    let unit = size.chars().last()?;
    let number: f64 = size.get(..size.len().checked_sub(unit.len_utf8())?)?.parse().ok()?;
    let power = ["K", "M", "B", "T"].iter().position(|known| known.starts_with(unit));
    // What is no unit counts as the reference's look-up does, whose missing position is minus one.
    let exponent = power.map_or(-1, |n| n as i32 + 1);
    Some(number * 1000f64.powi(exponent))
}

/// Eats leading digits; `None` where there are none.
fn digits(text: &str) -> Option<&str> {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    (rest.len() < text.len()).then_some(rest)
}

/// `v1`, `iter2`, `3.5`: digits and dots behind a word or none. Lower case is expected, here and below.
fn is_version(text: &str) -> bool {
    let text = text.strip_prefix("iter").or_else(|| text.strip_prefix('v')).unwrap_or(text);
    let Some(mut rest) = digits(text) else { return false };
    while !rest.is_empty() {
        match rest.strip_prefix('.').and_then(digits) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    true
}

/// `q4_k_m`, `iq2_xs` (its last letter apart), `f16`, `bf16`, `fp32`.
fn is_dtype(text: &str) -> bool {
    let float =
        text.strip_prefix('b').unwrap_or(text).strip_prefix('f').map(|t| t.strip_prefix('p').unwrap_or(t));
    if matches!(float, Some("16" | "32")) {
        return true;
    }
    let quantised = text.strip_prefix('i').unwrap_or(text).strip_prefix('q');
    let mut rest = match quantised.map(|t| t.split_at_checked(1)) {
        Some(Some((digit, rest))) if digit.bytes().all(|b| b.is_ascii_digit()) => rest,
        _ => return false,
    };
    while !rest.is_empty() {
        let mut chars = rest.chars();
        match (chars.next(), chars.next()) {
            (Some('_'), Some(c)) if c.is_alphanumeric() || c == '_' => rest = chars.as_str(),
            _ => return false,
        }
    }
    true
}

/// `7b`, `1.5b`, `8x7b`, `a22b`, `7b1`, or a word.
fn is_size(text: &str) -> bool {
    if ["small", "mini", "medium", "large", "xl", "xxl"].contains(&text) {
        return true;
    }
    let times = |text| digits(text).and_then(|rest| rest.strip_prefix('x'));
    let number = match text.strip_prefix('a').or_else(|| times(text)) {
        Some(rest) => rest,
        None => text,
    };
    let Some(rest) = digits(number) else { return false };
    let rest = match rest.strip_prefix(['.', '_']) {
        Some(after) => match digits(after) {
            Some(rest) => rest,
            None => return false,
        },
        None => rest,
    };
    let Some(rest) = rest.strip_prefix(['k', 'm', 'b', 't']) else { return false };
    rest.is_empty() || (rest.len() == 1 && rest.bytes().all(|b| b.is_ascii_digit()))
}

/// A name as a title: hyphens are spaces, words in lower case are capitalised unless they are versions or numbers.
pub(super) fn title(name: &str) -> String {
    let spaced = name.trim().replace('-', " ");
    let words = spaced
        .split_whitespace()
        .map(|word| if keeps_case(word) { word.to_owned() } else { capitalised(word) });
    words.collect::<Vec<_>>().join(" ")
}

fn keeps_case(word: &str) -> bool {
    let cased = |c: char| c.is_lowercase() || c.is_uppercase();
    let lower = word.chars().any(cased) && !word.chars().any(char::is_uppercase);
    let number = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    let version = word.strip_prefix('v').is_some_and(|rest| number(rest) && is_version(rest));
    !lower || version || number(word)
}

/// Each run of letters begins with a capital: `llama3rope` is `Llama3Rope`.
fn capitalised(word: &str) -> String {
    let mut out = String::with_capacity(word.len());
    let mut inside = false;
    for c in word.chars() {
        if inside {
            out.push(c);
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_lowercase();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles() {
        for (name, expected) in [
            ("qwen2", "Qwen2"),
            ("qwen3_moe", "Qwen3_Moe"),
            ("xlm-roberta", "Xlm Roberta"),
            ("llama3-rope", "Llama3 Rope"),
            ("Meta-Llama-3.1-8B", "Meta Llama 3.1 8B"),
            ("mistral-v0.3-7b", "Mistral v0.3 7b"),
            ("deepseek_v2", "Deepseek_V2"),
            ("viter2 v2.x v2x v2", "Viter2 V2.X V2X v2"),
        ] {
            assert_eq!(title(name), expected);
        }
    }
}
