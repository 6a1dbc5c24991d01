//! A vocabulary as rows: token `id` is row `id`, and there are as many rows as the embedding has.
//!
//! Every kind of tokenizer ends here, whatever its files looked like, so that holes, padding, ids out of range and
//! texts that occur twice are dealt with once.

use crate::checkpoint::MetaArray;
use crate::error::{Error, Result};
use crate::text::grouped;
use hashbrown::HashSet;

/// The most rows. The largest vocabulary in use has about a million.
const ROWS_MAX: u64 = 1 << 22;

/// The space of SentencePiece.
pub(super) const SPACE: char = '\u{2581}';

/// The score of a row that no token fills, as the reference converter writes it.
const PADDING_SCORE: f32 = -10000.0;

/// The score of an added token, as the reference converter writes it.
pub(super) const ADDED_SCORE: f32 = -1000.0;

/// What a token is, with SentencePiece's numbers, which are GGUF's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

impl Kind {
    /// The kind with this number; unknown numbers count as normal.
    pub(super) fn from_id(id: i64) -> Kind {
        match id {
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            6 => Kind::Byte,
            _ => Kind::Normal,
        }
    }
}

/// One token.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) text: Box<str>,
    pub(super) score: f32,
    pub(super) kind: Kind,
}

/// The vocabulary. Rows that are not filled are padding.
#[derive(Debug)]
pub(super) struct Rows {
    rows: Vec<Option<Row>>,
}

impl Rows {
    /// `count` empty rows.
    pub(super) fn new(count: u64) -> Result<Rows> {
        if count > ROWS_MAX {
            let max = grouped(ROWS_MAX);
            return Err(Error::unsupported(format!(
                "the embedding has {} rows, and a vocabulary of more than {max} tokens is not written",
                grouped(count)
            )));
        }
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        Ok(Rows { rows: vec![None; count] })
    }

    /// Rows, filled or not.
    pub(super) fn count(&self) -> usize {
        self.rows.len()
    }

    /// The token of this id.
    pub(super) fn get(&self, id: u64) -> Option<&Row> {
        self.rows.get(usize::try_from(id).ok()?)?.as_ref()
    }

    /// Puts a token. False, and nothing done, where there is no such row.
    pub(super) fn put(&mut self, id: u64, row: Row) -> bool {
        match usize::try_from(id).ok().and_then(|id| self.rows.get_mut(id)) {
            Some(place) => {
                *place = Some(row);
                true
            }
            None => false,
        }
    }

    /// Puts every token of a vocabulary; the file's tokens that have no row are an error that says both numbers.
    pub(super) fn put_all(&mut self, tokens: impl IntoIterator<Item = (u64, Row)>) -> Result<()> {
        let mut last = None;
        for (id, row) in tokens {
            if !self.put(id, row) {
                last = last.max(Some(id));
            }
        }
        match last {
            Some(last) => Err(too_many(last, self.count())),
            None => Ok(()),
        }
    }

    /// The id of the first token with this text.
    pub(super) fn find(&self, text: &str) -> Option<u64> {
        let at = self.rows.iter().position(|row| row.as_ref().is_some_and(|row| &*row.text == text))?;
        Some(at as u64)
    }

    /// Changes the text of every row, padding included: it is named first.
    pub(super) fn rename(&mut self, mut name: impl FnMut(&Row) -> Option<String>) {
        for (id, place) in self.rows.iter_mut().enumerate() {
            let row = place.get_or_insert_with(|| Row {
                text: padding(id).into(),
                score: PADDING_SCORE,
                kind: Kind::Unused,
            });
            if let Some(text) = name(row) {
                row.text = text.into();
            }
        }
    }

    /// Empties rows whose text an earlier row has, or the padding of another: the engine looks tokens up by text and
    /// refuses a file in which two are the same. Gives the ids that were emptied.
    pub(super) fn drop_repeats(&mut self) -> Vec<u64> {
        let mut dropped = self.repeats();
        for &id in &dropped {
            self.rows[id] = None;
        }
        let padding_of_another = |(id, row): (usize, &Option<Row>)| {
            let named = padding_id(&row.as_ref()?.text)?;
            (named != id && named < self.rows.len()).then_some((id, named))
        };
        let called: Vec<(usize, usize)> =
            self.rows.iter().enumerate().filter_map(padding_of_another).collect();
        // Emptying one can make another clash, so all go together.
        if called.iter().any(|&(_, named)| self.rows[named].is_none()) {
            for &(id, _) in &called {
                self.rows[id] = None;
                dropped.push(id);
            }
        }
        dropped.into_iter().map(|id| id as u64).collect()
    }

    /// Rows whose text an earlier row has.
    fn repeats(&self) -> Vec<usize> {
        let mut seen: HashSet<&str> = HashSet::with_capacity(self.rows.len());
        let mut repeats = Vec::new();
        for (id, row) in self.rows.iter().enumerate() {
            if let Some(row) = row
                && !seen.insert(&row.text)
            {
                repeats.push(id);
            }
        }
        repeats
    }

    /// The texts, in order of ids.
    pub(super) fn texts(&self) -> MetaArray {
        let texts = self.rows.iter().enumerate().map(|(id, row)| match row {
            Some(row) => std::borrow::Cow::Borrowed(row.text.as_bytes()),
            None => std::borrow::Cow::Owned(padding(id).into_bytes()),
        });
        MetaArray::of_texts(texts)
    }

    /// The scores, in order of ids.
    pub(super) fn scores(&self) -> MetaArray {
        let scores: Vec<f32> =
            self.rows.iter().map(|row| row.as_ref().map_or(PADDING_SCORE, |row| row.score)).collect();
        MetaArray::of_f32(&scores)
    }

    /// The kinds, in order of ids.
    pub(super) fn kinds(&self) -> MetaArray {
        let kinds: Vec<i32> =
            self.rows.iter().map(|row| row.as_ref().map_or(Kind::Unused, |row| row.kind) as i32).collect();
        MetaArray::of_i32(&kinds)
    }
}

/// The name of a row that no token fills.
fn padding(id: usize) -> String {
    format!("[PAD{id}]")
}

/// The id in the name of a padding row.
pub(super) fn padding_id(text: &str) -> Option<usize> {
    let digits = text.strip_prefix("[PAD")?.strip_suffix(']')?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// The error of a vocabulary that is larger than the embedding.
pub(super) fn too_many(last_id: u64, rows: usize) -> Error {
    Error::bad_input(format!(
        "the vocabulary has a token of id {} but the embedding has {} rows",
        grouped(last_id),
        grouped(rows as u64)
    ))
    .hint("tokenizer and weights are of different models, or the embedding was not resized after tokens were added")
}

/// Whether this is a byte of a byte-fallback vocabulary: `<0x0A>`.
pub(super) fn is_byte(text: &str) -> bool {
    byte_of(text).is_some()
}

/// The byte that `<0x0A>` stands for.
pub(super) fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    match digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        true => u8::from_str_radix(digits, 16).ok(),
        false => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> Row {
        Row { text: text.into(), score: 0.0, kind: Kind::Normal }
    }

    #[test]
    fn bytes_are_two_hex_digits() {
        for (text, byte) in
            [("<0x0A>", Some(10)), ("<0xff>", Some(255)), ("<0xA>", None), ("<0x+1>", None), ("0x0A", None)]
        {
            assert_eq!(byte_of(text), byte, "{text}");
        }
    }

    #[test]
    fn repeats_become_padding() {
        let mut rows = Rows::new(5).unwrap();
        for (id, text) in ["a", "b", "a", "[PAD4]"].iter().enumerate() {
            assert!(rows.put(id as u64, row(text)));
        }
        assert_eq!(rows.drop_repeats(), [2, 3]);
        let texts = rows.texts();
        let texts: Vec<&[u8]> = texts.texts().unwrap().collect();
        assert_eq!(texts, [&b"a"[..], b"b", b"[PAD2]", b"[PAD3]", b"[PAD4]"]);
    }

    #[test]
    fn more_tokens_than_rows() {
        let mut rows = Rows::new(2).unwrap();
        let error = rows.put_all([(0, row("a")), (7, row("b")), (5, row("c"))]).unwrap_err();
        assert!(error.to_string().contains("id 7 but the embedding has 2 rows"), "{error}");
        assert!(Rows::new(1 << 40).is_err());
    }
}
