//! Text to token ids and back.

use crate::error::{Error, Result};
use crate::verify::subject::Subject;

/// A tokenizer.
pub struct Tokenizer(tokenizers::Tokenizer);

impl Tokenizer {
    /// Of a model.
    pub fn of(subject: &Subject) -> Result<Option<Tokenizer>> {
        let Some(bytes) = subject.model.companion("tokenizer.json", 64 << 20)? else { return Ok(None) };
        let it = tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| Error::bad_input(e.to_string()))?;
        Ok(Some(Tokenizer(it)))
    }

    /// Ids of a text.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let ids = self.0.encode_fast(text, special).map_err(|e| Error::bad_input(e.to_string()))?;
        Ok(ids.get_ids().to_vec())
    }

    /// bos
    pub fn bos(&self) -> Option<u32> {
        None
    }

    /// The first difference.
    pub fn difference(&self, other: &Tokenizer, text: &str) -> Result<Option<String>> {
        Ok((self.encode(text, true)? != other.encode(text, true)?).then(|| "ids differ".to_owned()))
    }
}
