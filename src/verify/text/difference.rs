//! Where two tokenizers part.

use super::{Encoded, Tokenizer};
use crate::error::Result;
use crate::text::Shown;
use std::fmt;

/// Where two tokenizers part.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// At which id, from zero.
    pub position: usize,
    /// The first one's id, and what it stands for; `None` where it has no more.
    pub first: Option<(u32, String)>,
    /// The other's.
    pub second: Option<(u32, String)>,
    /// At which character of the text.
    pub character: usize,
    /// The text from there on, cut short.
    pub text: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |side: &Option<(u32, String)>| match side {
            Some((id, token)) => format!("{id} `{}`", Shown(token)),
            None => "nothing more".into(),
        };
        let (first, second) = (side(&self.first), side(&self.second));
        let Difference { position, character, text, .. } = self;
        write!(
            f,
            "id {position} is {first}, where {second} is expected: character {character}, `{}`",
            Shown(text)
        )
    }
}

/// The first difference between two tokenizers on a text, with special tokens; `None` where they agree.
///
/// # Errors
/// Those of [`Tokenizer::encode`].
pub fn compare(first: &Tokenizer, second: &Tokenizer, text: &str) -> Result<Option<Difference>> {
    const SHOWN_CHARS: usize = 24;
    let (a, b) = (first.encode_with_offsets(text)?, second.encode_with_offsets(text)?);
    let differs = |at: &usize| a.ids.get(*at) != b.ids.get(*at);
    let Some(position) = (0..a.ids.len().max(b.ids.len())).find(differs) else { return Ok(None) };
    let side = |tokenizer: &Tokenizer, ids: &[u32]| {
        ids.get(position).map(|&id| (id, tokenizer.token(id).unwrap_or_default()))
    };
    // A special token has no place in the text: it stands where the token before it ended.
    let begin = |encoded: &Encoded| match (encoded.special.get(position), position.checked_sub(1)) {
        (Some(false), _) => encoded.offsets.get(position).map(|offsets| offsets.0),
        (_, Some(before)) => encoded.offsets.get(before).map(|offsets| offsets.1),
        _ => Some(0),
    };
    let character = begin(&a).into_iter().chain(begin(&b)).min().unwrap_or(0);
    Ok(Some(Difference {
        position,
        first: side(first, &a.ids),
        second: side(second, &b.ids),
        character,
        text: text.chars().skip(character).take(SHOWN_CHARS).collect(),
    }))
}
