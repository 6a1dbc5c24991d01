//! Text from ids that come one by one.
//!
//! A character may be spread over several ids, and what an id means may depend on the one before it (a space that belongs
//! to the word behind it). So a few ids before are always decoded with the new ones, and text is given only when it
//! grew and does not end in the mark of half a character.

use super::Tokenizer;
use crate::error::Result;

/// The most ids that half a character is waited for: no character has more bytes than this has ids.
const WAITING_MAX: usize = 16;

/// Ids of the prompt that are decoded with the first new ones.
const CONTEXT: usize = 8;

/// What a decoder writes for bytes that are no character.
const BROKEN: char = '\u{fffd}';

/// A text that grows.
#[derive(Debug)]
pub struct Stream<'t> {
    tokenizer: &'t Tokenizer,
    skip_special: bool,
    /// Ids that are still decoded: some whose text was given, then those whose text was not.
    ids: Vec<u32>,
    given: usize,
}

impl<'t> Stream<'t> {
    pub(super) fn new(tokenizer: &'t Tokenizer, prompt: &[u32], skip_special: bool) -> Stream<'t> {
        let ids = prompt[prompt.len().saturating_sub(CONTEXT)..].to_vec();
        Stream { tokenizer, skip_special, given: ids.len(), ids }
    }

    /// Adds an id, and gives the text that is now complete: often none.
    ///
    /// # Errors
    /// The tokenizer fails on the ids.
    pub fn step(&mut self, id: u32) -> Result<Option<String>> {
        self.ids.push(id);
        let waiting = self.ids.len() - self.given;
        self.take(waiting >= WAITING_MAX)
    }

    /// What is left at the end, half characters as what they are.
    ///
    /// # Errors
    /// The tokenizer fails on the ids.
    pub fn finish(&mut self) -> Result<Option<String>> {
        self.take(true)
    }

    fn take(&mut self, all: bool) -> Result<Option<String>> {
        let before = self.tokenizer.decode(&self.ids[..self.given], self.skip_special)?;
        let whole = self.tokenizer.decode(&self.ids, self.skip_special)?;
        // The prompt may itself end in half a character, which the new ids complete.
        let kept = before.trim_end_matches(BROKEN);
        let new = whole.strip_prefix(&before).or_else(|| whole.strip_prefix(kept));
        match new {
            Some(new) if !new.is_empty() && (all || !new.ends_with(BROKEN)) => {
                let new = new.to_string();
                self.ids.drain(..self.given);
                self.given = self.ids.len();
                Ok(Some(new))
            }
            _ => Ok(None),
        }
    }
}
