//! Importance: how much the error of each input channel counts. llama.cpp's imatrix (mean squares of the activations that reach
//! a matrix), or numbers of anybody's making, by the tensor's name.
//!
//! A file speaks of tensors by GGUF's names or by Hugging Face's, and either may be wanted: [`Importance::in_gguf_names`] brings
//! all to GGUF's, by a family's rows, and both look-ups go from there. Input channels stay in their order on the way: what
//! families permute are rows.

use crate::checkpoint::MetaValue;
use crate::error::{Error, Result};
use crate::text::grouped;
use crate::transform::arch::families::Family;
use crate::transform::arch::translate::Channels;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The end of a matrix's name, which a file may leave out.
const WEIGHT: &str = ".weight";

/// Bytes of a text that llama-quantize keeps.
const TEXT_BYTES_MAX: usize = 127;

/// A stack whose experts have fewer entries than one in so many is no stack: what is missing is made up, in memory.
const SPARSE_MAX: u64 = 64;

/// The most weights that an entry is filled up to: more than the largest stack of experts has.
const MADE_UP_MAX: u64 = 1 << 26;

/// Tensors of which llama-quantize takes no importance of another size, and refuses none.
const EMBEDDINGS: &[&str] = &["token_embd.weight", "per_layer_token_embd.weight"];

/// Importance of a model's input channels.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Importance {
    /// The file that it comes from, as a person named it.
    pub file: String,
    /// The texts that it was measured on.
    pub datasets: Vec<String>,
    /// In how many chunks.
    pub chunk_count: Option<u32>,
    /// Entries of the file, whatever they are called here.
    pub entry_count: u32,
    /// By the tensor's name, `.weight` included.
    pub entries: BTreeMap<String, Entry>,
}

/// Importance of one tensor's input channels.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// `[matrices, columns]`, row-major; finite and not negative.
    pub weights: Arc<[f32]>,
    /// Matrices of the tensor: experts, else 1. Nothing where the file does not say (llama.cpp's older form).
    pub matrix_count: Option<u64>,
    /// What is true of matrices that it has no row for.
    pub others: Others,
}

/// What is true of a stack's matrices that an entry has no row for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// There may be none.
    None,
    /// The one row that there is stands for all.
    Same,
    /// Their columns count alike: nothing ever reached them.
    Alike,
}

impl Importance {
    /// Takes an entry of a file in.
    ///
    /// # Errors
    /// `BadInput`: a name that is there already; no weights, rows of different lengths; one that is NaN, infinite or negative.
    pub fn add(&mut self, name: &str, entry: Entry) -> Result<()> {
        let fail = |what: String| Err(Error::bad_input(what).tensor(name));
        let rows = entry.matrix_count.unwrap_or(1);
        let size = entry.weights.len() as u64;
        if size == 0 || rows == 0 || !size.is_multiple_of(rows) {
            return fail(format!("has importance of {size} channels for {rows} matrices"));
        }
        if let Some(at) = entry.weights.iter().position(|w| !w.is_finite() || *w < 0.0) {
            let weight = entry.weights.get(at).copied().unwrap_or(f32::NAN);
            return fail(format!(
                "has importance {weight} for channel {at}, where numbers from zero on are needed"
            ));
        }
        self.put(name, entry)?;
        self.entry_count = self.entry_count.saturating_add(1);
        Ok(())
    }

    fn put(&mut self, name: &str, entry: Entry) -> Result<()> {
        if self.entries.contains_key(name) {
            return Err(Error::bad_input("has importance twice").tensor(name).file(self.file.as_str()));
        }
        self.entries.insert(name.to_owned(), entry);
        Ok(())
    }

    /// Memory that it takes while a model is quantised: as it was read, and as its matrices have it.
    pub fn memory_bytes(&self) -> u64 {
        let count = self.entries.values().fold(0u64, |sum, e| sum.saturating_add(e.weights.len() as u64));
        count.saturating_mul(2 * size_of::<f32>() as u64)
    }

    /// The name of a matrix, which a file may give without its end.
    pub fn whole_name(name: &str) -> String {
        if name.ends_with(WEIGHT) { name.to_owned() } else { format!("{name}{WEIGHT}") }
    }

    /// The same under GGUF's names, by the rows of a family: a tensor of fused experts under each name that it becomes,
    /// single experts as the stack that they become. What the family does not know keeps its name.
    ///
    /// # Errors
    /// `BadInput`: two entries for one tensor; experts of different sizes, or hardly any of them.
    pub fn in_gguf_names(&self, family: &'static Family) -> Result<Importance> {
        let channels = Channels::new(family);
        let mut out = Importance { entries: BTreeMap::new(), ..self.clone() };
        let mut stacks: BTreeMap<String, BTreeMap<u64, &Entry>> = BTreeMap::new();
        for (name, entry) in &self.entries {
            let places = if channels.has_gguf(name) { Vec::new() } else { channels.in_gguf(name) };
            if places.is_empty() {
                out.put(name, entry.clone())?;
            }
            for place in places {
                match place.expert {
                    None => out.put(&place.name, entry.clone())?,
                    Some(expert) => {
                        let stack = stacks.entry(place.name.clone()).or_default();
                        if stack.insert(expert, entry).is_some() {
                            return Err(Error::bad_input("has importance twice")
                                .tensor(name)
                                .file(&self.file));
                        }
                    }
                }
            }
        }
        for (name, stack) in stacks {
            let entry = stacked(&stack).map_err(|e| e.tensor(&name).file(&self.file))?;
            out.put(&name, entry)?;
        }
        Ok(out)
    }

    /// That of a GGUF's tensor of so many matrices and columns, `[matrices, columns]`; `None` where the file says nothing of it,
    /// and of embeddings also where it says something of other sizes, as llama-quantize has it.
    ///
    /// # Errors
    /// `BadInput`: it is for other sizes.
    pub fn of_gguf(&self, name: &str, matrix_count: u64, columns: u64) -> Result<Option<Arc<[f32]>>> {
        let Some(entry) = self.entries.get(name) else { return Ok(None) };
        let wanted = matrix_count.saturating_mul(columns);
        let size = entry.weights.len() as u64;
        if size == wanted {
            return Ok(Some(entry.weights.clone()));
        }
        let rest = usize::try_from(wanted.saturating_sub(size)).unwrap_or(usize::MAX);
        let fits = columns > 0 && size < wanted && wanted <= MADE_UP_MAX && size.is_multiple_of(columns);
        let weights = entry.weights.iter().copied();
        match entry.others {
            Others::Same if fits && size == columns => {
                Ok(Some(weights.clone().chain(weights.cycle().take(rest)).collect()))
            }
            Others::Alike if fits => Ok(Some(weights.chain(std::iter::repeat_n(1.0, rest)).collect())),
            _ if EMBEDDINGS.contains(&name) => Ok(None),
            _ => Err(self.misfit(name, entry, matrix_count, columns)),
        }
    }

    /// That of a checkpoint's matrix of so many columns; `None` where the file says nothing of it. `channels` are those of the
    /// family in whose names this is ([`Importance::in_gguf_names`]); without them a name is only looked up as it is.
    ///
    /// # Errors
    /// `BadInput`: it is for other sizes.
    pub fn of_matrix(
        &self,
        name: &str,
        columns: u64,
        channels: Option<&Channels>,
    ) -> Result<Option<Arc<[f32]>>> {
        if let Some(entry) = self.entries.get(name) {
            return self.row(name, entry, None, columns);
        }
        for place in channels.map(|c| c.in_gguf(name)).unwrap_or_default() {
            if let Some(entry) = self.entries.get(&place.name) {
                return self.row(name, entry, place.expert, columns);
            }
        }
        Ok(None)
    }

    /// One matrix's part of an entry.
    fn row(
        &self,
        name: &str,
        entry: &Entry,
        expert: Option<u64>,
        columns: u64,
    ) -> Result<Option<Arc<[f32]>>> {
        let size = entry.weights.len() as u64;
        let rows = size.checked_div(columns).unwrap_or(0);
        let fits = rows.checked_mul(columns) == Some(size) && entry.matrix_count.is_none_or(|n| n == rows);
        let index = match (expert, entry.others) {
            (None, _) if rows == 1 => Some(0),
            (Some(_), Others::Same) if rows == 1 => Some(0),
            (Some(expert), others) if expert < rows || others == Others::Alike => Some(expert),
            _ => None,
        };
        let Some(index) = index.filter(|_| fits) else { return Err(self.misfit(name, entry, 1, columns)) };
        if rows == 1 && index == 0 {
            return Ok(Some(entry.weights.clone()));
        }
        let start = index.checked_mul(columns).and_then(|at| usize::try_from(at).ok());
        let columns = usize::try_from(columns).unwrap_or(usize::MAX);
        Ok(start.and_then(|at| entry.weights.get(at..at.checked_add(columns)?)).map(Arc::from))
    }

    fn misfit(&self, name: &str, entry: &Entry, matrix_count: u64, columns: u64) -> Error {
        let of = |count: u64| if count == 1 { String::new() } else { format!("{} × ", grouped(count)) };
        let rows = entry.matrix_count.unwrap_or(1).max(1);
        let found = entry.weights.len() as u64 / rows;
        Error::bad_input(format!(
            "has importance for {}{} channels, and {}{} are needed",
            of(rows),
            grouped(found),
            of(matrix_count),
            grouped(columns)
        ))
        .tensor(name)
        .file(self.file.as_str())
        .hint("it was measured on another model")
    }

    /// What a GGUF says of it, in llama-quantize's order. Texts are cut as there, to 127 bytes, but never within a character.
    pub fn keys(&self) -> Vec<(String, MetaValue)> {
        let chunks = self.chunk_count.filter(|&n| n > 0).map(MetaValue::U32);
        let keys = [
            ("file", Some(cut(&self.file))),
            ("dataset", self.datasets.first().map(|d| cut(d))),
            ("entries_count", Some(MetaValue::U32(self.entry_count))),
            ("chunks_count", chunks),
        ];
        keys.into_iter().filter_map(|(key, v)| Some((format!("quantize.imatrix.{key}"), v?))).collect()
    }
}

/// A text's first bytes, to the first NUL.
fn cut(text: &str) -> MetaValue {
    let text = text.split('\0').next().unwrap_or_default();
    MetaValue::from(&text[..text.floor_char_boundary(TEXT_BYTES_MAX)])
}

/// Single experts as one entry. Where the file has nothing of one, no token ever went there.
fn stacked(stack: &BTreeMap<u64, &Entry>) -> Result<Entry> {
    let columns = stack.values().next().map_or(0, |first| first.weights.len());
    if let Some((expert, other)) = stack.iter().find(|(_, e)| e.weights.len() != columns) {
        return Err(Error::bad_input(format!(
            "has importance for {} channels of expert {expert}, where other experts have {columns}",
            other.weights.len()
        )));
    }
    let count = stack.keys().next_back().map_or(0, |last| last.saturating_add(1));
    if count / SPARSE_MAX > stack.len() as u64 {
        return Err(Error::bad_input(format!(
            "has importance for {} of at least {} experts",
            stack.len(),
            grouped(count)
        ))
        .hint("it was measured on another model, or on too little text"));
    }
    if count.saturating_mul(columns as u64) > MADE_UP_MAX && count > stack.len() as u64 {
        return Err(Error::bad_input(format!(
            "has importance for {} of at least {} experts of {} channels, too many to be made up",
            stack.len(),
            grouped(count),
            grouped(columns as u64)
        )));
    }
    let mut weights = Vec::new();
    for expert in 0..count {
        match stack.get(&expert) {
            Some(entry) => weights.extend_from_slice(&entry.weights),
            None => weights.extend(std::iter::repeat_n(1.0, columns)),
        }
    }
    Ok(Entry { weights: weights.into(), matrix_count: Some(count), others: Others::Alike })
}
