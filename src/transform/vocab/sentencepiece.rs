//! `tokenizer.model`: SentencePiece's `ModelProto`, read straight from protobuf's wire format.
//!
//! A message is a list of fields: a number and a wire type in one varint, then a varint, eight bytes, four bytes, or a
//! length and as many bytes. Of some sixty fields a dozen matter here; the rest is stepped over. Field numbers are from
//! sentencepiece_model.proto. Each field is a slice of the file, so memory is that of the pieces found.

use super::rows::{Kind, Row};
use crate::error::{Error, Result};

/// How the pieces are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Unigram,
    Bpe,
    /// Words or characters, which no engine here knows.
    Other,
}

/// What a SentencePiece model says.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) pieces: Vec<Row>,
    pub(super) algorithm: Algorithm,
    /// bos, eos, unk, pad: ids, negative where there is none.
    pub(super) ids: [i64; 4],
    pub(super) charsmap: Vec<u8>,
    pub(super) add_dummy_prefix: bool,
    pub(super) remove_extra_whitespaces: bool,
}

/// A field's value.
enum Value<'a> {
    Number(u64),
    Fixed32([u8; 4]),
    Bytes(&'a [u8]),
    /// Eight bytes, which nothing here has.
    Other,
}

/// The fields of one message.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, size_bytes: u64) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(usize::try_from(size_bytes).ok()?)?;
        self.rest = rest;
        Some(head)
    }

    /// The next field: its number and value. `Err` where the bytes are not protobuf.
    fn next(&mut self) -> std::result::Result<Option<(u64, Value<'a>)>, ()> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let mut field = || {
            let tag = self.varint()?;
            let value = match tag & 7 {
                0 => Value::Number(self.varint()?),
                1 => {
                    self.take(8)?;
                    Value::Other
                }
                2 => {
                    let size_bytes = self.varint()?;
                    Value::Bytes(self.take(size_bytes)?)
                }
                5 => Value::Fixed32(self.take(4)?.try_into().ok()?),
                // Groups went out of use before SentencePiece was written.
                _ => return None,
            };
            (tag >> 3 != 0).then_some((tag >> 3, value))
        };
        field().map(Some).ok_or(())
    }
}

impl Model {
    /// Reads a `tokenizer.model`. `None` where it is something else, such as a list of ranks of tiktoken.
    pub(super) fn read(bytes: &[u8]) -> Option<Model> {
        let mut model = Model {
            pieces: Vec::new(),
            algorithm: Algorithm::Unigram,
            ids: [1, 2, 0, -1],
            charsmap: Vec::new(),
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
        };
        let mut fields = Fields { rest: bytes };
        while let Some((number, value)) = fields.next().ok()? {
            match (number, value) {
                (1, Value::Bytes(bytes)) => model.pieces.push(piece(bytes)?),
                (2, Value::Bytes(bytes)) => model.trainer(bytes)?,
                (3, Value::Bytes(bytes)) => model.normalizer(bytes)?,
                _ => {}
            }
        }
        (!model.pieces.is_empty()).then_some(model)
    }

    fn trainer(&mut self, bytes: &[u8]) -> Option<()> {
        let mut fields = Fields { rest: bytes };
        while let Some((number, value)) = fields.next().ok()? {
            match (number, value) {
                (3, Value::Number(n)) => {
                    self.algorithm = match n {
                        1 => Algorithm::Unigram,
                        2 => Algorithm::Bpe,
                        _ => Algorithm::Other,
                    }
                }
                // A negative int32 is written as ten bytes, sign-extended.
                (40, Value::Number(n)) => self.ids[2] = n.cast_signed(),
                (41, Value::Number(n)) => self.ids[0] = n.cast_signed(),
                (42, Value::Number(n)) => self.ids[1] = n.cast_signed(),
                (43, Value::Number(n)) => self.ids[3] = n.cast_signed(),
                _ => {}
            }
        }
        Some(())
    }

    fn normalizer(&mut self, bytes: &[u8]) -> Option<()> {
        let mut fields = Fields { rest: bytes };
        while let Some((number, value)) = fields.next().ok()? {
            match (number, value) {
                (2, Value::Bytes(bytes)) => self.charsmap = bytes.to_vec(),
                (3, Value::Number(n)) => self.add_dummy_prefix = n != 0,
                (4, Value::Number(n)) => self.remove_extra_whitespaces = n != 0,
                _ => {}
            }
        }
        Some(())
    }

    /// Refuses what is made of words or characters.
    pub(super) fn check_algorithm(&self, file: &str) -> Result<()> {
        match self.algorithm {
            Algorithm::Other => Err(Error::unsupported(
                "is a SentencePiece model of words or characters, and only BPE and unigram ones have a counterpart in GGUF",
            )
            .file(file)),
            _ => Ok(()),
        }
    }
}

/// One piece: text, score, type.
fn piece(bytes: &[u8]) -> Option<Row> {
    let mut row = Row { text: "".into(), score: 0.0, kind: Kind::Normal };
    let mut fields = Fields { rest: bytes };
    while let Some((number, value)) = fields.next().ok()? {
        match (number, value) {
            (1, Value::Bytes(text)) => row.text = std::str::from_utf8(text).ok()?.into(),
            (2, Value::Fixed32(bytes)) => row.score = f32::from_le_bytes(bytes),
            (3, Value::Number(n)) => row.kind = Kind::from_id(i64::try_from(n).ok()?),
            _ => {}
        }
    }
    Some(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, bytes.len() as u8];
        out.extend(bytes);
        out
    }

    #[test]
    fn reads_pieces_and_specs() {
        let mut file = field(1, b"\x0a\x03<s>\x15\x00\x00\x00\x00\x18\x03");
        file.extend(field(1, b"\x0a\x01a\x15\x00\x00\x80\xbf"));
        // model_type 2, pad_id -1, bos_id 5
        file.extend(field(2, b"\x18\x02\xd8\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\xc8\x02\x05"));
        file.extend(field(3, b"\x12\x02xy\x18\x00"));
        let model = Model::read(&file).unwrap();
        assert_eq!(model.pieces.len(), 2);
        assert_eq!((&*model.pieces[0].text, model.pieces[0].kind), ("<s>", Kind::Control));
        assert_eq!((&*model.pieces[1].text, model.pieces[1].score), ("a", -1.0));
        assert_eq!((model.algorithm, model.ids), (Algorithm::Bpe, [5, 2, 0, -1]));
        assert_eq!(
            (model.charsmap.as_slice(), model.add_dummy_prefix, model.remove_extra_whitespaces),
            (&b"xy"[..], false, true)
        );
        for cut in 1..file.len() {
            _ = Model::read(&file[..cut]);
        }
        assert!(Model::read(b"IQ== 0\nIg== 1\n").is_none());
        assert!(Model::read(&[0xff; 40]).is_none());
    }
}
