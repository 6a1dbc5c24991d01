//! Which of a subject's tensors belong to which stage, what each is held as, how many bytes that is, and so whether all of
//! them fit into memory, or a stage at a time. Pure: decided from names and shapes, before anything is read.

use super::{Hold, Stage};
use crate::dtype::{DType, element_count};
use crate::error::{Error, ErrorKind, Result};
use crate::load::{self, Wanted};
use crate::open::Model;
use crate::text::bytes as bytes_text;
use crate::transform::recipe::Recipe;
use candle_core::quantized::GgmlDType;
use std::collections::{BTreeMap, HashMap};

/// Blocks that candle multiplies with.
const NATIVE: &[(DType, GgmlDType)] = &[
    (DType::Q4_0, GgmlDType::Q4_0),
    (DType::Q4_1, GgmlDType::Q4_1),
    (DType::Q5_0, GgmlDType::Q5_0),
    (DType::Q5_1, GgmlDType::Q5_1),
    (DType::Q8_0, GgmlDType::Q8_0),
    (DType::Q2K, GgmlDType::Q2K),
    (DType::Q3K, GgmlDType::Q3K),
    (DType::Q4K, GgmlDType::Q4K),
    (DType::Q5K, GgmlDType::Q5K),
    (DType::Q6K, GgmlDType::Q6K),
];

/// Matrices as long as the vocabulary, of which rows are brought.
const LONG: &[&str] = &["token_embd.weight", "output.weight"];

/// The token embedding, which is looked up and, where the head is tied, multiplied with.
const EMBEDDING: &str = "token_embd.weight";

/// How names begin of what stands behind the layers.
const BACK: &[&str] = &["output", "cls"];

/// What of memory work in flight may take: a part, within bounds.
const WORK_SHARE: u64 = 8;
const WORK_BYTES_MIN: u64 = 256 << 10;
const WORK_BYTES_MAX: u64 = 256 << 20;

/// candle's name for blocks that it multiplies with.
pub(super) fn ggml(dtype: DType) -> Option<GgmlDType> {
    NATIVE.iter().find(|(ours, _)| *ours == dtype).map(|(_, theirs)| *theirs)
}

/// One tensor.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) shape: Vec<u64>,
    /// What it is held as: the computing type, or blocks.
    pub(super) dtype: DType,
    pub(super) size_bytes: u64,
    /// What it is brought with; `None` for what is brought by rows.
    pub(super) stage: Option<Stage>,
}

impl Entry {
    /// Memory that it takes. candle copies blocks when it is given them, and again where it packs them anew to multiply.
    fn held_bytes(&self) -> u64 {
        if self.dtype.is_plain() { self.size_bytes } else { self.size_bytes.saturating_mul(2) }
    }

    /// Memory that one row of its first dimension takes.
    fn row_bytes(&self) -> u64 {
        self.held_bytes() / self.shape.first().copied().unwrap_or(1).max(1)
    }

    /// The stage that needs it, whatever it is brought with.
    pub(super) fn needed_by(&self) -> Stage {
        self.stage.or_else(|| layer(&self.name).map(Stage::Layer)).unwrap_or(match self.name.as_str() {
            EMBEDDING => Stage::Front,
            _ => Stage::Back,
        })
    }

    /// The layer whose experts it holds.
    pub(super) fn expert_layer(&self) -> Option<usize> {
        layer(&self.name).filter(|_| self.stage.is_none())
    }
}

/// What is held how.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    /// In the recipe's order.
    pub(super) entries: Vec<Entry>,
    pub(super) by_name: HashMap<String, usize>,
    pub(super) stages: BTreeMap<Stage, Vec<usize>>,
    /// Each layer's stacks of experts.
    pub(super) experts: BTreeMap<usize, Vec<usize>>,
    /// Whether everything is held at once.
    pub(super) resident: bool,
    /// Memory for work in flight.
    pub(super) work_bytes: u64,
    /// Whether the next stage may be loaded while one is in use.
    pub(super) ahead: bool,
    /// Memory for rows, beside the stages.
    pub(super) rows_bytes: u64,
}

/// The number behind `blk.`.
fn layer(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok()
}

/// What a tensor is brought with.
fn stage(name: &str) -> Option<Stage> {
    match layer(name) {
        Some(_) if name.contains("_exps.") => None,
        Some(layer) => Some(Stage::Layer(layer)),
        None if LONG.contains(&name) => None,
        None if BACK.iter().any(|b| name.starts_with(b)) => Some(Stage::Back),
        None => Some(Stage::Front),
    }
}

impl Plan {
    /// Of a subject's tensors.
    ///
    /// # Errors
    /// `NoSpace` where not even a stage at a time fits.
    pub(super) fn new(model: &Model, recipe: &Recipe, hold: &Hold) -> Result<Plan> {
        Plan::of(Plan::entries(model, recipe, hold)?, hold.memory_bytes)
    }

    /// Bytes of all entries, held at once.
    pub(super) fn whole_bytes(model: &Model, recipe: &Recipe, hold: &Hold) -> Result<u64> {
        let entries = Plan::entries(model, recipe, hold)?;
        Ok(entries.iter().fold(0u64, |sum, e| sum.saturating_add(e.held_bytes())))
    }

    fn entries(model: &Model, recipe: &Recipe, hold: &Hold) -> Result<Vec<Entry>> {
        let mut entries = Vec::with_capacity(recipe.outputs.len());
        for output in &recipe.outputs {
            let native = || load::blocks(model, recipe, output).filter(|&d| ggml(d).is_some());
            // Norms multiply in 32 bits, whatever the rest is computed in; one plus a weight has no place in fewer.
            let is_norm = output.shape.len() == 1 && output.name.contains("norm");
            let plain = if is_norm { DType::F32 } else { hold.dtype };
            // A GPU's copy of blocks cannot be read row by row.
            let looked_up = output.name == EMBEDDING && !hold.device.is_cpu();
            let dtype = if hold.native && !looked_up { native() } else { None }.unwrap_or(plain);
            let size_bytes =
                element_count(&output.shape).and_then(|n| dtype.size_bytes(n)).ok_or_else(|| {
                    Error::bad_input(format!("has shape {:?}, which overflows", output.shape))
                        .tensor(&output.name)
                })?;
            let (name, shape) = (output.name.clone(), output.shape.clone());
            entries.push(Entry { stage: stage(&name), name, shape, dtype, size_bytes });
        }
        Ok(entries)
    }

    /// Decides how entries are held in so much memory.
    fn of(entries: Vec<Entry>, memory_bytes: u64) -> Result<Plan> {
        let mut plan = Plan { entries, ..Plan::default() };
        for (at, entry) in plan.entries.iter().enumerate() {
            plan.by_name.insert(entry.name.clone(), at);
            if let Some(stage) = entry.stage {
                plan.stages.entry(stage).or_default().push(at);
            }
            if let Some(layer) = entry.expert_layer() {
                plan.experts.entry(layer).or_default().push(at);
            }
        }
        let total = plan.entries.iter().fold(0u64, |sum, e| sum.saturating_add(e.held_bytes()));
        plan.work_bytes = (memory_bytes / WORK_SHARE).clamp(WORK_BYTES_MIN, WORK_BYTES_MAX);
        plan.resident = total.saturating_add(plan.work_bytes) <= memory_bytes;
        if plan.resident {
            plan.rows_bytes = memory_bytes - total - plan.work_bytes;
            return Ok(plan);
        }
        let (stage_bytes, largest) = plan.largest_stage();
        let (rows_bytes, rows) = plan.least_rows();
        let needed = stage_bytes.saturating_add(rows_bytes).saturating_add(plan.work_bytes);
        if needed > memory_bytes {
            let whom = |name: Option<String>| name.unwrap_or_else(|| "nothing".into());
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!(
                    "{} of memory are allowed for weights, and computing layer by layer needs {}: {} for {}, {} for {}, {} to load",
                    bytes_text(memory_bytes),
                    bytes_text(needed),
                    bytes_text(stage_bytes),
                    whom(largest.map(|s| s.to_string())),
                    bytes_text(rows_bytes),
                    whom(rows),
                    bytes_text(plan.work_bytes),
                ),
            )
            .detail(format!("all of its weights are {}", bytes_text(total)))
            .hint(match plan.entries.iter().any(|e| e.dtype == DType::F32) {
                true => "a larger --memory; --dtype bf16 halves what weights take",
                false => "a larger --memory",
            }));
        }
        let spare = memory_bytes - needed;
        // A second stage on its way is worth more than long bands of rows, but not all of what they could have.
        plan.ahead = stage_bytes <= spare - spare / 4;
        plan.rows_bytes = rows_bytes + spare - if plan.ahead { stage_bytes } else { 0 };
        Ok(plan)
    }

    /// Of tensors at hand.
    pub(super) fn at_hand<'a>(tensors: impl Iterator<Item = (&'a str, &'a candle_core::Tensor)>) -> Plan {
        let mut plan = Plan { resident: true, ..Plan::default() };
        for (at, (name, tensor)) in tensors.enumerate() {
            let shape = tensor.dims().iter().map(|&d| d as u64).collect();
            let size_bytes = (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64;
            let entry = Entry { name: name.into(), shape, dtype: DType::F32, size_bytes, stage: stage(name) };
            plan.by_name.insert(entry.name.clone(), at);
            plan.entries.push(entry);
        }
        plan
    }

    /// What is loaded together where everything is: all numbers at once, but what is copied on its way (blocks; all of it,
    /// to a GPU) a stage or a matrix at a time, so that little of it is there twice.
    pub(super) fn groups(&self, copied: bool) -> Vec<Vec<usize>> {
        let (mut straight, mut stages, mut alone) =
            (Vec::new(), BTreeMap::<Stage, Vec<usize>>::new(), Vec::new());
        for (at, entry) in self.entries.iter().enumerate() {
            match entry.stage {
                _ if entry.dtype.is_plain() && !copied => straight.push(at),
                Some(stage) => stages.entry(stage).or_default().push(at),
                None => alone.push(vec![at]),
            }
        }
        let groups = std::iter::once(straight).chain(stages.into_values()).chain(alone);
        groups.filter(|g| !g.is_empty()).collect()
    }

    /// What a load is asked for.
    pub(super) fn wanted(&self, group: &[usize]) -> Vec<Wanted> {
        let of = group.iter().filter_map(|&at| Some(Wanted::whole(at, self.entries.get(at)?.dtype)));
        of.collect()
    }

    /// Memory that a stage takes.
    pub(super) fn held_bytes(&self, stage: Stage) -> u64 {
        self.stages.get(&stage).map_or(0, |group| self.stage_bytes(group))
    }

    fn stage_bytes(&self, stage: &[usize]) -> u64 {
        let of = stage.iter().filter_map(|&at| self.entries.get(at));
        of.fold(0u64, |sum, e| sum.saturating_add(e.held_bytes()))
    }

    fn largest_stage(&self) -> (u64, Option<Stage>) {
        let of = self.stages.iter().map(|(stage, entries)| (self.stage_bytes(entries), Some(*stage)));
        of.max_by_key(|(bytes, _)| *bytes).unwrap_or_default()
    }

    /// The least that rows must have room for: one expert of a layer, or one row of a long matrix.
    fn least_rows(&self) -> (u64, Option<String>) {
        let mut least = (0, None);
        for entry in self.entries.iter().filter(|e| e.stage.is_none() && e.expert_layer().is_none()) {
            if entry.row_bytes() > least.0 {
                least = (entry.row_bytes(), Some(format!("a row of `{}`", entry.name)));
            }
        }
        for (layer, stacks) in &self.experts {
            let of = stacks.iter().filter_map(|&at| self.entries.get(at));
            let bytes = of.fold(0u64, |sum, e| sum.saturating_add(e.row_bytes()));
            if bytes > least.0 {
                least = (bytes, Some(format!("an expert of layer {layer}")));
            }
        }
        least
    }

    /// Rows of a tensor that may be held at once: at least one.
    pub(super) fn rows_at_once(&self, entry: &Entry) -> u64 {
        let count = entry.shape.first().copied().unwrap_or(1).max(1);
        if self.resident {
            return count;
        }
        // Experts are used three matrices at a time.
        let used_with = if entry.expert_layer().is_some() { 3 } else { 1 };
        (self.rows_bytes / entry.row_bytes().saturating_mul(used_with).max(1)).clamp(1, count)
    }

    /// The stage behind a stage; none behind the last.
    pub(super) fn next(&self, stage: Stage) -> Option<Stage> {
        let after = (std::ops::Bound::Excluded(stage), std::ops::Bound::Unbounded);
        self.stages.range(after).next().map(|(next, _)| *next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, shape: &[u64]) -> Entry {
        let size_bytes = shape.iter().product::<u64>() * 4;
        Entry { name: name.into(), shape: shape.to_vec(), dtype: DType::F32, size_bytes, stage: stage(name) }
    }

    fn model() -> Vec<Entry> {
        let mut entries =
            vec![entry("token_embd.weight", &[1 << 16, 64]), entry("output_norm.weight", &[64])];
        for n in 0..8 {
            entries.push(entry(&format!("blk.{n}.attn_q.weight"), &[1024, 1024]));
            entries.push(entry(&format!("blk.{n}.ffn_up_exps.weight"), &[4, 1024, 512]));
        }
        entries
    }

    #[test]
    fn what_belongs_where() {
        for (name, expected) in [
            ("blk.12.attn_q.weight", Some(Stage::Layer(12))),
            ("blk.3.ffn_up_exps.weight", None),
            ("blk.3.ffn_down_exps.bias", None),
            ("blk.3.ffn_up_shexp.weight", Some(Stage::Layer(3))),
            ("token_embd.weight", None),
            ("output.weight", None),
            ("output.bias", Some(Stage::Back)),
            ("output_norm.weight", Some(Stage::Back)),
            ("cls.weight", Some(Stage::Back)),
            ("token_embd_norm.weight", Some(Stage::Front)),
            ("position_embd.weight", Some(Stage::Front)),
            ("token_types.weight", Some(Stage::Front)),
        ] {
            assert_eq!(stage(name), expected, "{name}");
        }
        assert!(Stage::Front < Stage::Layer(0) && Stage::Layer(7) < Stage::Back);
    }

    #[test]
    fn memory_decides() {
        const MIB: u64 = 1 << 20;
        // 16 MiB of embedding, eight layers of 4 MiB and four experts of 2 MiB each: 112 MiB.
        for (memory, resident, ahead) in
            [(160, true, false), (120, false, true), (32, false, true), (9, false, false)]
        {
            let plan = Plan::of(model(), memory * MIB).unwrap();
            assert_eq!((plan.resident, plan.ahead), (resident, ahead), "{memory} MiB");
            let stages = if ahead { 8 } else { 4 } * MIB;
            if !resident {
                assert!(plan.rows_bytes + stages + plan.work_bytes <= memory * MIB);
                let experts = &plan.entries[plan.by_name["blk.0.ffn_up_exps.weight"]];
                assert!(plan.rows_at_once(experts) >= 1);
                let embedding = &plan.entries[plan.by_name["token_embd.weight"]];
                assert!(plan.rows_at_once(embedding) * 256 <= plan.rows_bytes);
            }
        }
        let error = Plan::of(model(), 6 * MIB).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert!(error.to_string().contains("an expert of layer"), "{error}");
    }
}
