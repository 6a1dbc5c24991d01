//! Two models under one naming, and which tensors of one belong to which of the other.
//!
//! Models of one naming (safetensors and PyTorch; two GGUFs) are compared name by name. A GGUF and a checkpoint of
//! Hugging Face's names meet under GGUF's: the checkpoint's tensors pass through the family's rows as in a conversion, so
//! that what is compared is what a faithful conversion would have written.

use super::Which;
use crate::checkpoint::Checkpoint;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::open::Model;
use crate::transform::arch::families::{self, Sizes};
use crate::transform::arch::translate::{self, Want};
use crate::transform::recipe::{LeftOut, Output, Part, Recipe, Source, Value};
use crate::transform::values::{raw, unpacked};
use serde_json::Value as Json;
use std::collections::{HashMap, HashSet};

/// Without a tensor of the first name a GGUF's engine takes the second's.
const HEAD: &str = "output.weight";
const EMBEDDING: &str = "token_embd.weight";

/// One model as it is compared.
#[derive(Debug, Default)]
pub(super) struct Side {
    /// Its tensors under the common naming. Types are those they have; a stream may ask for another.
    pub(super) recipe: Recipe,
    /// Names that stand for the same bytes as another: name, the others.
    aliases: HashMap<String, Vec<String>>,
}

/// Two models under one naming.
#[derive(Debug, Default)]
pub(super) struct Sides {
    pub(super) a: Side,
    pub(super) b: Side,
    /// The family by whose rows one was translated, and which.
    pub(super) translated: Option<(Which, &'static str)>,
    pub(super) notes: Vec<String>,
}

/// Tensors that belong together, by their places among the outputs.
#[derive(Debug, Default)]
pub(super) struct Matched {
    /// Of A and of B, in A's order.
    pub(super) pairs: Vec<(usize, usize)>,
    pub(super) only_a: Vec<usize>,
    pub(super) only_b: Vec<usize>,
}

impl Sides {
    /// Brings two models under one naming.
    ///
    /// # Errors
    /// Those of a translation: an unknown family, tensors that are missing or misshapen. `NotFound`: no config.json.
    pub(super) fn new(a: &Model, b: &Model) -> Result<Sides> {
        let names: HashSet<&str> = a.table.tensors.iter().map(|t| t.name.as_str()).collect();
        let shared = b.table.tensors.iter().filter(|t| names.contains(t.name.as_str())).count();
        let mut notes = Vec::new();
        // A GGUF that was written with other names is compared by those.
        let which = match (a.is_gguf(), b.is_gguf()) {
            (true, false) if shared == 0 => Some(Which::B),
            (false, true) if shared == 0 => Some(Which::A),
            _ => None,
        };
        // Of two tables of the same tensors every byte counts; else codes with scales are compared as their numbers.
        let same = which.is_none() && shared == names.len() && shared == b.table.tensors.len();
        let mut translated = None;
        let mut side = |model: &Model, this: Which| -> Result<Side> {
            let config = model.companion_json("config.json", &mut notes).filter(|_| !model.is_gguf());
            if which == Some(this) {
                let (side, family) = translate(model, config.as_ref(), &mut notes)?;
                translated = Some((this, family));
                return Ok(side);
            }
            let (all, left_out) = match same {
                true => (raw(&model.table), Vec::new()),
                false => {
                    let all = model.values(config.as_ref())?;
                    notes.extend(all.notes);
                    (all.values, all.left_out)
                }
            };
            let mut side = Side::of_values(&model.table, all, left_out)?;
            side.find_aliases(&model.table);
            if model.is_gguf() {
                side.tie();
            }
            Ok(side)
        };
        let a = side(a, Which::A)?;
        let b = side(b, Which::B)?;
        Ok(Sides { a, b, translated, notes })
    }

    /// Which tensors belong together: those of one name, else one that is there under its own name on one side only and
    /// shares its bytes with another that the other side has.
    pub(super) fn matched(&self) -> Matched {
        let places = |side: &Side| -> HashMap<String, usize> {
            side.recipe.outputs.iter().enumerate().map(|(i, o)| (o.name.clone(), i)).collect()
        };
        let (in_a, in_b) = (places(&self.a), places(&self.b));
        let alias = |name: &str, there: &HashMap<String, usize>| {
            let of = |side: &Side| {
                side.aliases.get(name).into_iter().flatten().find_map(|other| there.get(other).copied())
            };
            of(&self.a).or_else(|| of(&self.b))
        };
        let mut matched = Matched::default();
        for (i, output) in self.a.recipe.outputs.iter().enumerate() {
            match in_b.get(&output.name).copied().or_else(|| alias(&output.name, &in_b)) {
                Some(j) => matched.pairs.push((i, j)),
                None => matched.only_a.push(i),
            }
        }
        for (j, output) in self.b.recipe.outputs.iter().enumerate() {
            if in_a.contains_key(&output.name) {
                continue;
            }
            match alias(&output.name, &in_a) {
                Some(i) => matched.pairs.push((i, j)),
                None => matched.only_b.push(j),
            }
        }
        matched
    }
}

impl Side {
    /// Each value under its own name.
    fn of_values(table: &Checkpoint, values: Vec<Value>, left_out: Vec<LeftOut>) -> Result<Side> {
        let mut outputs = Vec::with_capacity(values.len());
        for (index, value) in values.iter().enumerate() {
            let view = unpacked(table, value)?;
            let (name, shape) = (value.name.clone(), view.shape.clone());
            let parts = vec![Part::new(index, view)];
            outputs.push(Output {
                name,
                dtype: value.dtype,
                shape,
                parts,
                narrow: None,
                form: Default::default(),
            });
        }
        Ok(Side { recipe: Recipe { values, outputs, left_out, ..Recipe::default() }, ..Side::default() })
    }

    /// Names of one storage, and what a header says of names that were left out because they share one.
    fn find_aliases(&mut self, table: &Checkpoint) {
        let firsts = table.firsts();
        let mut groups: HashMap<usize, Vec<&str>> = HashMap::new();
        for (tensor, &first) in table.tensors.iter().zip(&firsts) {
            groups.entry(first).or_default().push(&tensor.name);
        }
        // Of many that are all the same one stands for all: the lists stay as long as the table.
        for names in groups.values().filter(|names| names.len() > 1) {
            for (i, name) in names.iter().enumerate() {
                let others = names.iter().enumerate().filter(|(j, _)| *j != i).take(4);
                let others = others.map(|(_, other)| (*other).to_owned());
                self.aliases.entry((*name).to_owned()).or_default().extend(others);
            }
        }
        let names: HashSet<&str> = table.tensors.iter().map(|t| t.name.as_str()).collect();
        for (key, value, _) in &table.meta.entries {
            if let Some(kept) =
                value.as_str().filter(|kept| names.contains(kept) && !names.contains(key.as_str()))
            {
                self.aliases.entry(key.clone()).or_default().push(kept.to_owned());
            }
        }
    }

    /// A GGUF without a head uses its embedding.
    fn tie(&mut self) {
        self.aliases.entry(HEAD.to_owned()).or_default().push(EMBEDDING.to_owned());
    }

    /// What a tensor's numbers are stored as, and whether its bytes are those numbers: not where scales lie elsewhere,
    /// something is added, or parts differ.
    pub(super) fn stored(&self, output: &Output) -> (DType, bool) {
        let mut stored = output.parts.iter().filter_map(|part| {
            let value = self.recipe.values.get(part.value)?;
            let plain = part.add == 0.0 && !matches!(value.source, Source::Scaled { .. } | Source::Packed(_));
            Some(match value.source {
                Source::Mxfp4 { .. } => (DType::MXFP4, plain),
                _ => (value.dtype, plain),
            })
        });
        let first = stored.next().unwrap_or((output.dtype, true));
        if stored.all(|s| s == first) { first } else { (DType::F32, false) }
    }
}

/// A checkpoint's tensors under GGUF's names.
fn translate(model: &Model, config: Option<&Json>, notes: &mut Vec<String>) -> Result<(Side, &'static str)> {
    let config = config.ok_or_else(|| {
        Error::not_found("there is no config.json beside the weights, so the family is not known")
            .file(&model.name)
            .hint("a GGUF is compared with a checkpoint by the family's names")
    })?;
    let family = families::of_config(config)?;
    let sizes = Sizes::of_config(config).map_err(|e| e.file("config.json"))?;
    let all = model.values(Some(config))?;
    notes.extend(all.notes);
    let mut recipe = translate::to_gguf(all.values, family, &sizes, config, Want::Own)?;
    recipe.left_out.extend(all.left_out);
    // The copy of the embedding that a conversion leaves out: here it is compared, with whatever the other side uses.
    for (head, _) in std::mem::take(&mut recipe.equal) {
        let Some(value) = recipe.values.get(head) else { continue };
        recipe.left_out.retain(|l| l.name != value.name);
        let (dtype, shape) = (value.dtype, value.shape.clone());
        let parts = vec![Part::new(head, value.view()?)];
        recipe.outputs.push(Output {
            name: HEAD.into(),
            dtype,
            shape,
            parts,
            narrow: None,
            form: Default::default(),
        });
    }
    let mut side = Side { recipe, ..Side::default() };
    side.tie();
    Ok((side, family.name()))
}
