//! The pickle of a state dict: what Python's pickler makes of an `OrderedDict` of plain tensors when torch saves it,
//! byte for byte.
//!
//! Protocol 2. Each object that Python's pickler remembers is remembered here in the same order, so that later mentions
//! are numbers: names of classes, the words `storage` and `cpu`, the key of a storage that several tensors share.
//! Layout: Python's `pickletools`; torch `_tensor.py` (`_reduce_ex_internal`) and `serialization.py` (`persistent_id`).

use super::names;
use crate::checkpoint::row_major_strides;
use crate::dtype::DType;
use crate::error::{Error, Result};
use hashbrown::HashMap;

/// Entries of a dict that are set at once.
const BATCH_COUNT: usize = 1000;

/// A tensor as the pickle has it.
pub(super) struct Item<'a> {
    pub(super) name: &'a str,
    pub(super) dtype: DType,
    /// In numbers, not in torch's packs of two.
    pub(super) shape: &'a [u64],
    /// The storage, by its place among the storages.
    pub(super) storage: usize,
    pub(super) size_bytes: u64,
}

/// Pickles the state dict. Refused: types and shapes that torch lacks.
pub(super) fn state_dict(items: &[Item<'_>]) -> Result<Vec<u8>> {
    let mut pickle = Pickle { bytes: Vec::with_capacity(64 + items.len() * 160), ..Pickle::default() };
    pickle.bytes.extend(b"\x80\x02");
    pickle.ordered_dict();
    for batch in items.chunks(BATCH_COUNT) {
        if batch.len() > 1 {
            pickle.bytes.push(b'(');
        }
        for item in batch {
            pickle.text(item.name).and_then(|()| pickle.tensor(item)).map_err(|e| e.tensor(item.name))?;
        }
        pickle.bytes.push(if batch.len() > 1 { b'u' } else { b's' });
    }
    pickle.bytes.push(b'.');
    Ok(pickle.bytes)
}

#[derive(Default)]
struct Pickle {
    bytes: Vec<u8>,
    /// Objects remembered so far.
    count: u32,
    /// Where classes, by module and name, and words, of no module, are among them.
    known: HashMap<(&'static str, &'static str), u32>,
    /// Where the keys of storages are.
    keys: HashMap<usize, u32>,
}

impl Pickle {
    fn tensor(&mut self, item: &Item<'_>) -> Result<()> {
        let ((module, class), type_name) = match (names::storage_class(item.dtype), item.dtype.facts().torch)
        {
            (Some(class), _) => (("torch", class), None),
            (None, Some(name)) => (("torch.storage", "UntypedStorage"), Some(name)),
            (None, None) => return Err(missing(item.dtype)),
        };
        let facts = item.dtype.facts();
        let (pack_elements, width_bytes) = (u64::from(facts.block_elements), u64::from(facts.block_bytes));
        let mut shape = item.shape.to_vec();
        if pack_elements > 1 {
            let last = shape.last_mut().filter(|n| n.is_multiple_of(pack_elements)).ok_or_else(|| {
                Error::unsupported(format!(
                    "has shape {:?}; torch packs `{}` along the last dimension, {pack_elements} a byte",
                    item.shape, item.dtype
                ))
            })?;
            *last /= pack_elements;
        }
        let strides = row_major_strides(&shape)
            .ok_or_else(|| Error::bad_input(format!("has shape {:?}, whose strides overflow", item.shape)))?;
        let numel = if type_name.is_some() { item.size_bytes } else { item.size_bytes / width_bytes };

        let rebuild = if type_name.is_some() { "_rebuild_tensor_v3" } else { "_rebuild_tensor_v2" };
        self.class("torch._utils", rebuild);
        self.bytes.extend(b"((");
        self.word("storage")?;
        self.class(module, class);
        match self.keys.get(&item.storage) {
            Some(&place) => self.get(place),
            None => {
                self.keys.insert(item.storage, self.count);
                self.text(&item.storage.to_string())?;
            }
        }
        self.word("cpu")?;
        self.integer(numel)?;
        self.bytes.push(b't');
        self.remember();
        self.bytes.push(b'Q');
        self.integer(0)?; // where in the storage the tensor begins
        self.tuple(&shape)?;
        self.tuple(&strides)?;
        self.bytes.push(0x89); // requires_grad: False
        self.ordered_dict(); // hooks
        if let Some(name) = type_name {
            self.class("torch", name);
        }
        self.bytes.push(b't');
        self.remember();
        self.bytes.push(b'R');
        self.remember();
        Ok(())
    }

    /// An empty `OrderedDict`.
    fn ordered_dict(&mut self) {
        self.class("collections", "OrderedDict");
        self.bytes.extend(b")R");
        self.remember();
    }

    /// Numbers, in the shortest of the forms that there are.
    fn integer(&mut self, n: u64) -> Result<()> {
        match (u8::try_from(n), u16::try_from(n), i32::try_from(n), i64::try_from(n)) {
            (Ok(n), ..) => self.bytes.extend([b'K', n]),
            (_, Ok(n), ..) => {
                self.bytes.push(b'M');
                self.bytes.extend(n.to_le_bytes());
            }
            (.., Ok(n), _) => {
                self.bytes.push(b'J');
                self.bytes.extend(n.to_le_bytes());
            }
            (.., Ok(n)) => {
                // As few bytes as hold it and its sign, which is the highest bit.
                let count = (65 - n.leading_zeros()).div_ceil(8) as usize;
                self.bytes.extend([0x8a, count as u8]);
                self.bytes.extend(n.to_le_bytes().iter().take(count));
            }
            _ => return Err(Error::bad_input(format!("has a size of {n}, more than torch counts"))),
        }
        Ok(())
    }

    fn tuple(&mut self, numbers: &[u64]) -> Result<()> {
        // The short forms are only for these; the empty tuple is never remembered.
        let short = match numbers.len() {
            0 => {
                self.bytes.push(b')');
                return Ok(());
            }
            1 => 0x85,
            2 => 0x86,
            3 => 0x87,
            _ => {
                self.bytes.push(b'(');
                b't'
            }
        };
        for &n in numbers {
            self.integer(n)?;
        }
        self.bytes.push(short);
        self.remember();
        Ok(())
    }

    /// A class, or where it was named before.
    fn class(&mut self, module: &'static str, name: &'static str) {
        if let Some(&place) = self.known.get(&(module, name)) {
            return self.get(place);
        }
        self.known.insert((module, name), self.count);
        for text in ["c", module, "\n", name, "\n"] {
            self.bytes.extend(text.as_bytes());
        }
        self.remember();
    }

    /// A word that occurs in every tensor.
    fn word(&mut self, word: &'static str) -> Result<()> {
        if let Some(&place) = self.known.get(&("", word)) {
            self.get(place);
            return Ok(());
        }
        self.known.insert(("", word), self.count);
        self.text(word)
    }

    fn text(&mut self, text: &str) -> Result<()> {
        let size = u32::try_from(text.len())
            .map_err(|_| Error::unsupported("has a name longer than a pickle of protocol 2 can hold"))?;
        self.bytes.push(b'X');
        self.bytes.extend(size.to_le_bytes());
        self.bytes.extend(text.as_bytes());
        self.remember();
        Ok(())
    }

    /// Gives the object on top of the stack the next number.
    fn remember(&mut self) {
        self.numbered(b'q', b'r', self.count);
        self.count = self.count.saturating_add(1);
    }

    /// Fetches the object of this number.
    fn get(&mut self, place: u32) {
        self.numbered(b'h', b'j', place);
    }

    fn numbered(&mut self, short: u8, long: u8, place: u32) {
        match u8::try_from(place) {
            Ok(place) => self.bytes.extend([short, place]),
            Err(_) => {
                self.bytes.push(long);
                self.bytes.extend(place.to_le_bytes());
            }
        }
    }
}

fn missing(dtype: DType) -> Error {
    let error = Error::unsupported(format!("is of type `{dtype}`, which torch has not"));
    match dtype.is_float() {
        true => error.hint("cast it: `--dtype f32`, `f16` or `bf16`"),
        false => error.hint("widen it: `--dtype f32`, `f16` or `bf16`"),
    }
}
