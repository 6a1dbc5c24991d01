//! Items of a [`MetaArray`], decoded one at a time.
//!
//! Apart from the table because decoding is code and the table is data. An array that a parser made is well formed;
//! one that was put together wrongly by hand yields fewer items and never panics.

use super::{MetaArray, MetaKind, MetaValue};

/// The deepest that arrays may lie inside arrays. No file that anyone uses has more than two.
pub const ARRAY_DEPTH_MAX: u32 = 64;

/// A u32 kind and a u64 count.
const ARRAY_HEAD_BYTES: usize = 12;

/// Kind, GGUF's id, the bytes of one item where that is fixed, GGUF's name.
const KINDS: [(MetaKind, u32, Option<u8>, &str); 13] = [
    (MetaKind::U8, 0, Some(1), "u8"),
    (MetaKind::I8, 1, Some(1), "i8"),
    (MetaKind::U16, 2, Some(2), "u16"),
    (MetaKind::I16, 3, Some(2), "i16"),
    (MetaKind::U32, 4, Some(4), "u32"),
    (MetaKind::I32, 5, Some(4), "i32"),
    (MetaKind::F32, 6, Some(4), "f32"),
    (MetaKind::Bool, 7, Some(1), "bool"),
    (MetaKind::Text, 8, None, "string"),
    (MetaKind::Array, 9, None, "array"),
    (MetaKind::U64, 10, Some(8), "u64"),
    (MetaKind::I64, 11, Some(8), "i64"),
    (MetaKind::F64, 12, Some(8), "f64"),
];

impl MetaKind {
    fn row(self) -> &'static (MetaKind, u32, Option<u8>, &'static str) {
        KINDS.iter().find(|row| row.0 == self).unwrap_or(&KINDS[0])
    }

    /// The kind with this id of GGUF.
    pub fn from_id(id: u32) -> Option<MetaKind> {
        KINDS.iter().find(|row| row.1 == id).map(|row| row.0)
    }

    /// GGUF's id.
    pub fn id(self) -> u32 {
        self.row().1
    }

    /// Bytes of one item; `None` for texts and arrays, which have no fixed size.
    pub fn size_bytes(self) -> Option<u8> {
        self.row().2
    }

    /// GGUF's name of it, lower case.
    pub fn name(self) -> &'static str {
        self.row().3
    }
}

impl From<&str> for MetaValue {
    fn from(text: &str) -> MetaValue {
        MetaValue::Text(text.as_bytes().into())
    }
}

impl MetaValue {
    /// The array, if it is one.
    pub fn as_array(&self) -> Option<&MetaArray> {
        match self {
            MetaValue::Array(array) => Some(array),
            _ => None,
        }
    }

    /// The bytes of a text, if it is one, whether or not they are UTF-8.
    pub fn as_text(&self) -> Option<&[u8]> {
        match self {
            MetaValue::Text(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// A number or truth value from its little-endian bytes; `None` where the kind has no fixed size or the bytes are
    /// not as many.
    pub fn from_le_bytes(kind: MetaKind, bytes: &[u8]) -> Option<MetaValue> {
        Some(match kind {
            MetaKind::U8 => MetaValue::U8(u8::from_le_bytes(bytes.try_into().ok()?)),
            MetaKind::I8 => MetaValue::I8(i8::from_le_bytes(bytes.try_into().ok()?)),
            MetaKind::U16 => MetaValue::U16(u16::from_le_bytes(bytes.try_into().ok()?)),
            MetaKind::I16 => MetaValue::I16(i16::from_le_bytes(bytes.try_into().ok()?)),
            MetaKind::U32 => MetaValue::U32(u32::from_le_bytes(bytes.try_into().ok()?)),
            MetaKind::I32 => MetaValue::I32(i32::from_le_bytes(bytes.try_into().ok()?)),
            MetaKind::U64 => MetaValue::U64(u64::from_le_bytes(bytes.try_into().ok()?)),
            MetaKind::I64 => MetaValue::I64(i64::from_le_bytes(bytes.try_into().ok()?)),
            MetaKind::F32 => MetaValue::F32(f32::from_le_bytes(bytes.try_into().ok()?)),
            MetaKind::F64 => MetaValue::F64(f64::from_le_bytes(bytes.try_into().ok()?)),
            MetaKind::Bool => MetaValue::Bool(u8::from_le_bytes(bytes.try_into().ok()?) != 0),
            MetaKind::Text | MetaKind::Array => return None,
        })
    }
}

/// Arrays of one kind of number from the numbers.
macro_rules! of_numbers {
    ($($name:ident $kind:ident $number:ty;)*) => { $(
        #[doc = concat!("An array of `", stringify!($number), "`.")]
        pub fn $name(numbers: &[$number]) -> MetaArray {
            let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
            MetaArray { kind: MetaKind::$kind, count: numbers.len() as u64, bytes: bytes.into() }
        }
    )* };
}

impl MetaArray {
    /// An array of texts.
    pub fn of_texts<T: AsRef<[u8]>>(texts: impl IntoIterator<Item = T>) -> MetaArray {
        let (mut bytes, mut count) = (Vec::new(), 0);
        for text in texts {
            bytes.extend((text.as_ref().len() as u64).to_le_bytes());
            bytes.extend(text.as_ref());
            count += 1;
        }
        MetaArray { kind: MetaKind::Text, count, bytes: bytes.into() }
    }

    of_numbers! { of_u8 U8 u8; of_u32 U32 u32; of_i32 I32 i32; of_f32 F32 f32; }

    /// An array of truth values.
    pub fn of_bools(values: &[bool]) -> MetaArray {
        let bytes: Vec<u8> = values.iter().map(|&b| u8::from(b)).collect();
        MetaArray { kind: MetaKind::Bool, count: values.len() as u64, bytes: bytes.into() }
    }

    /// The items, in order.
    pub fn items(&self) -> Items<'_> {
        Items { kind: self.kind, left: self.count, rest: &self.bytes }
    }

    /// The texts of an array of texts (a vocabulary, merges); `None` for any other array.
    pub fn texts(&self) -> Option<Texts<'_>> {
        (self.kind == MetaKind::Text).then_some(Texts(self.items()))
    }
}

/// The items of a [`MetaArray`]. See [`MetaArray::items`].
#[derive(Debug, Clone)]
pub struct Items<'a> {
    kind: MetaKind,
    left: u64,
    rest: &'a [u8],
}

impl<'a> Items<'a> {
    fn cut(&mut self, size_bytes: u64) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(usize::try_from(size_bytes).ok()?)?;
        self.rest = rest;
        Some(head)
    }

    fn number<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*head)
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let size_bytes = u64::from_le_bytes(self.number()?);
        self.cut(size_bytes)
    }

    fn item(&mut self) -> Option<MetaValue> {
        match (self.kind, self.kind.size_bytes()) {
            (kind, Some(size_bytes)) => {
                self.left = self.left.checked_sub(1)?;
                MetaValue::from_le_bytes(kind, self.cut(size_bytes.into())?)
            }
            (MetaKind::Text, _) => self.text().map(|text| MetaValue::Text(text.into())),
            (_, _) => self.array().map(MetaValue::Array),
        }
    }

    /// One array: its head, and its items walked over to find where they end.
    fn array(&mut self) -> Option<MetaArray> {
        let before = self.clone();
        let (kind, count) = self.skip_array(1)?;
        let taken = before.rest.len() - self.rest.len();
        let bytes = before.rest.get(ARRAY_HEAD_BYTES..taken)?.into();
        Some(MetaArray { kind, count, bytes })
    }

    fn skip_array(&mut self, depth: u32) -> Option<(MetaKind, u64)> {
        self.left = self.left.checked_sub(1)?;
        let kind = MetaKind::from_id(u32::from_le_bytes(self.number()?))?;
        let count = u64::from_le_bytes(self.number()?);
        let mut inner = Items { kind, left: count, rest: self.rest };
        match kind.size_bytes() {
            Some(each) => _ = inner.cut(count.checked_mul(each.into())?)?,
            None => {
                while inner.left > 0 {
                    match kind {
                        MetaKind::Text => _ = inner.text()?,
                        _ if depth < ARRAY_DEPTH_MAX => _ = inner.skip_array(depth + 1)?,
                        _ => return None,
                    }
                }
            }
        }
        self.rest = inner.rest;
        Some((kind, count))
    }
}

impl Iterator for Items<'_> {
    type Item = MetaValue;

    fn next(&mut self) -> Option<MetaValue> {
        let item = self.item();
        if item.is_none() {
            self.left = 0;
        }
        item
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, usize::try_from(self.left).ok())
    }
}

/// The texts of a [`MetaArray`]. See [`MetaArray::texts`].
#[derive(Debug, Clone)]
pub struct Texts<'a>(Items<'a>);

impl<'a> Iterator for Texts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let text = self.0.text();
        if text.is_none() {
            self.0.left = 0;
        }
        text
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}
