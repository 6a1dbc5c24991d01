//! Which schemes matrices are quantised in, as their tensors show it.

use crate::dtype::Class;
use crate::open::Model;
use crate::text::grouped;
use crate::transform::recipe::Source;
use std::collections::{BTreeMap, HashMap};

/// What is known of packed matrices.
#[derive(Debug, Default)]
pub(super) struct Schemes {
    /// Parameters of the tensors that hold them: those of a matrix are its codes', the others have none.
    pub(super) parameters: HashMap<usize, u64>,
    /// For each scheme how many matrices, its bits and its groups, in words.
    pub(super) notes: Vec<String>,
}

/// Reads no weights. Tensors that cannot be told cost their line: what is wrong with them is said by whoever needs them.
pub(super) fn schemes(model: &Model) -> Schemes {
    let mut out = Schemes::default();
    if model.is_gguf() || !model.table.tensors.iter().any(|t| t.dtype.facts().class == Class::Integer) {
        return out;
    }
    let config = model.companion_json("config.json", &mut Vec::new());
    let Ok(all) = model.values(config.as_ref()) else { return out };
    let mut counts: BTreeMap<(&str, u32, Option<u64>), u64> = BTreeMap::new();
    for value in &all.values {
        let Source::Packed(packed) = &value.source else { continue };
        let packing = &packed.packing;
        let group = (packing.group_columns < packing.columns).then_some(packing.group_columns);
        *counts.entry((packing.layout.name, packing.bits, group)).or_default() += 1;
        for (face, tensor) in packed.tensors.iter().enumerate() {
            let Some(tensor) = *tensor else { continue };
            let count = if face == 0 { packing.rows.saturating_mul(packing.columns) } else { 0 };
            out.parameters.insert(tensor, count);
        }
    }
    for ((name, bits, group), count) in counts {
        let matrices =
            if count == 1 { "1 matrix is".into() } else { format!("{} matrices are", grouped(count)) };
        let group = group.map_or("a scale for each row".into(), |n| format!("groups of {n}"));
        out.notes.push(format!("{matrices} quantised as {name}: {bits} bits, {group}"));
    }
    out
}
