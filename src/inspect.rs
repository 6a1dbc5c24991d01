//! What is in a model: sums over the table, what the config says of it, what lies beside the weights.
//!
//! Reads headers (which `open` has read already) and a few small companions; no weights. A config that is missing or
//! damaged costs its line and leaves a note: the names alone say what the tensors are part of.

pub mod fit;
pub mod hash;
pub mod tree;

mod companions;
mod schemes;

use crate::checkpoint::{Checkpoint, Container, Tensor};
use crate::dtype::{Class, DType};
use crate::error::Result;
use crate::open::Model;
use crate::transform::arch::{self, Group};
use crate::transform::config::Description;
use crate::transform::select::Selection;
use std::collections::{BTreeMap, BTreeSet};

pub use companions::Tokenizer;

/// What to look at.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Which tensors; everything that is counted is counted over these.
    pub selection: Selection,
}

/// Counted tensors. Tensors that share their bytes are counted each, their parameters and bytes once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// Tensors.
    pub tensors: u64,
    /// Parameters: elements, those of packed weights unpacked, scales and other helpers left out.
    pub parameters: u64,
    /// Bytes.
    pub size_bytes: u64,
}

impl Sum {
    fn add(&mut self, parameters: u64, size_bytes: u64) {
        self.tensors = self.tensors.saturating_add(1);
        self.parameters = self.parameters.saturating_add(parameters);
        self.size_bytes = self.size_bytes.saturating_add(size_bytes);
    }
}

/// Where the head's weights are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadKind {
    /// A tensor of its own.
    Untied,
    /// The embedding's.
    Tied,
}

/// What is in a model.
#[derive(Debug, Clone)]
pub struct Report {
    /// The model's short name.
    pub name: String,
    /// The commit, for a repo.
    pub commit: Option<String>,
    /// What config or keys say.
    pub description: Description,
    /// The containers its files are written in.
    pub containers: Vec<Container>,
    /// Files that hold tensors.
    pub files: u64,
    /// Everything selected.
    pub total: Sum,
    /// Tensors in the model, selected or not.
    pub tensors_in_model: u64,
    /// By element type, most bytes first.
    pub dtypes: Vec<(DType, Sum)>,
    /// By part of the model, in its order; parts that are not there are left out.
    pub groups: Vec<(Group, Sum)>,
    /// Whether the head has its own tensor; `None` where the model has no head, or a selection hides it.
    pub head: Option<HeadKind>,
    /// The tokenizer, where there is one.
    pub tokenizer: Option<Tokenizer>,
    /// Whether there is a chat template.
    pub chat_template: bool,
    /// Whether there is a generation config.
    pub generation_config: bool,
    /// The selected tensors, by their index in the table.
    pub picked: Vec<usize>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Inspects a model.
///
/// # Errors
/// Not found, where a pattern matches nothing. Damaged companions are notes.
pub fn inspect(model: &Model, options: &Options) -> Result<Report> {
    let table = &model.table;
    let picked = options.selection.pick(table)?;
    let mut notes = table.notes.clone();
    let description = model.description(&mut notes);
    let schemes = schemes::schemes(model);
    let firsts = table.firsts();
    let (mut total, mut dtypes, mut groups) = (Sum::default(), BTreeMap::new(), BTreeMap::new());
    let mut files = BTreeSet::new();
    let mut first_picked = BTreeSet::new();
    for &i in &picked {
        let tensor = &table.tensors[i];
        let new = first_picked.insert(firsts[i]);
        let parameters = || match schemes.parameters.get(&i) {
            Some(&parameters) => parameters,
            None => parameters(tensor, &description),
        };
        let (parameters, size_bytes) = if new { (parameters(), tensor.size_bytes()) } else { (0, 0) };
        total.add(parameters, size_bytes);
        dtypes.entry(tensor.dtype).or_insert_with(Sum::default).add(parameters, size_bytes);
        groups.entry(arch::group(&tensor.name)).or_insert_with(Sum::default).add(parameters, size_bytes);
        files.insert(tensor.at.span.file);
    }
    let mut dtypes: Vec<_> = dtypes.into_iter().collect();
    dtypes.sort_by_key(|(_, sum)| std::cmp::Reverse(sum.size_bytes));
    let head = options.selection.is_all().then(|| head(table, &firsts, &description, &mut notes)).flatten();
    let containers: BTreeSet<_> = table.files.iter().map(|f| f.container).collect();
    notes.extend(schemes.notes);
    let beside = companions::beside(model, &mut notes);
    notes.extend(description.notes.iter().cloned());
    Ok(Report {
        name: model.name.clone(),
        commit: model.commit.clone(),
        description,
        containers: containers.into_iter().collect(),
        files: files.len() as u64,
        total,
        tensors_in_model: table.tensors.len() as u64,
        dtypes,
        groups: groups.into_iter().collect(),
        head,
        tokenizer: beside.tokenizer,
        chat_template: beside.chat_template,
        generation_config: beside.generation_config,
        picked,
        notes,
    })
}

/// What a name's last word says of the tensor's elements, where it is not one parameter each.
enum Holds {
    /// Several parameters packed in an integer.
    Packed,
    /// None: scales, zero points, permutations, shapes.
    Helper,
}

/// Last words of names in quantised checkpoints: GPTQ, AWQ, compressed-tensors, fp8, bitsandbytes, gpt-oss.
#[rustfmt::skip]
const HOLDS: &[(&str, Holds)] = &[
    ("qweight", Holds::Packed), ("weight_packed", Holds::Packed),
    ("gate_up_proj_blocks", Holds::Packed), ("down_proj_blocks", Holds::Packed),
    ("qzeros", Holds::Helper), ("scales", Holds::Helper), ("g_idx", Holds::Helper),
    ("weight_scale", Holds::Helper), ("weight_scale_inv", Holds::Helper), ("weight_scale_2", Holds::Helper),
    ("weight_zero_point", Holds::Helper), ("weight_shape", Holds::Helper), ("weight_global_scale", Holds::Helper),
    ("weight_g_idx", Holds::Helper), ("input_scale", Holds::Helper), ("input_global_scale", Holds::Helper),
    ("k_scale", Holds::Helper), ("v_scale", Holds::Helper),
    ("gate_up_proj_scales", Holds::Helper), ("down_proj_scales", Holds::Helper),
    ("absmax", Holds::Helper), ("nested_absmax", Holds::Helper), ("quant_map", Holds::Helper),
    ("nested_quant_map", Holds::Helper), ("bitsandbytes__nf4", Holds::Helper), ("bitsandbytes__fp4", Holds::Helper),
    ("SCB", Holds::Helper), ("weight_format", Holds::Helper),
];

/// The parameters that a tensor holds.
fn parameters(tensor: &Tensor, description: &Description) -> u64 {
    let elements = tensor.element_count();
    let Some(q) = &description.quantisation else { return elements };
    let last = tensor.name.rsplit('.').next().unwrap_or_default();
    let bits = q.bits.filter(|b| (1..=16).contains(b)).unwrap_or(4);
    let integer = tensor.dtype.facts().class == Class::Integer;
    let unpacked =
        || u64::try_from(u128::from(tensor.size_bytes()) * 8 / u128::from(bits)).unwrap_or(u64::MAX);
    match HOLDS.iter().find(|(word, _)| *word == last) {
        Some((_, Holds::Helper)) => 0,
        Some((_, Holds::Packed)) if integer => unpacked(),
        // bitsandbytes packs two values a byte under the plain name.
        None if last == "weight" && q.method == "bitsandbytes" && tensor.dtype == DType::U8 => unpacked(),
        _ => elements,
    }
}

/// The layers that are a head over the vocabulary.
const HEADS: &[&str] = &["lm_head", "embed_out", "output"];

fn head(
    table: &Checkpoint,
    firsts: &[usize],
    description: &Description,
    notes: &mut Vec<String>,
) -> Option<HeadKind> {
    let is_head = |name: &str| arch::find(name).is_some_and(|(row, _)| HEADS.contains(&row.pattern));
    let is_embedding = |name: &str| arch::group(name) == Group::Embedding;
    let found = table.tensors.iter().position(|t| is_head(&t.name));
    let shares = |i: usize| {
        let shares = |(j, t): (usize, &Tensor)| j != i && firsts[j] == firsts[i] && is_embedding(&t.name);
        table.tensors.iter().enumerate().any(shares)
    };
    match found {
        Some(i) if shares(i) => Some(HeadKind::Tied),
        Some(_) => Some(HeadKind::Untied),
        None if !table.tensors.iter().any(|t| is_embedding(&t.name)) => None,
        None if description.tied == Some(false) && description.task == Some("text generation") => {
            notes.push("the config says that the head is not tied, but the model has no head tensor".into());
            None
        }
        None => description.generates().then_some(HeadKind::Tied),
    }
}
