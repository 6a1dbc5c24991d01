//! What torchao's readers find in the header of a file: which of its tensor classes a weight is, with what that class is made
//! of. Its loaders read the headers of all shards and keep the last that they see, so that each says all of it.

use crate::convert::draft::Draft;
use crate::transform::packing::layouts;
use crate::transform::recipe::Form;
use crate::transform::scheme::Settled;
use serde_json::{Value as Json, json};
use std::collections::HashSet;

/// The list of all tensors that a header speaks of.
const NAMES: &str = "tensor_names";

/// A torch type as torchao writes it.
fn dtype(name: &str) -> Json {
    json!({ "_type": "torch.dtype", "_data": name })
}

/// The entry of one matrix `[rows, columns]`.
fn entry(settled: &Settled, rows: u64, columns: u64) -> Json {
    let block = [1, settled.packing(rows, columns).group_columns];
    let (class, data) = match settled.layout == &layouts::TORCHAO_INT4 {
        true => (
            "Int4Tensor",
            json!({ "activation_dtype": dtype("bfloat16"), "block_size": block, "shape": [rows, columns] }),
        ),
        false => (
            "IntxUnpackedToInt8Tensor",
            json!({
                "target_dtype": dtype("int4"),
                "block_size": block,
                "dtype": dtype(settled.dtype.facts().torch.unwrap_or("bfloat16")),
                "activation_quantization": null,
            }),
        ),
    };
    json!({ "_type": class, "_data": data, "_tensor_data_names": ["qdata", "scale", "zero_point"] })
}

/// Puts an entry for each tensor, and the list of them, among the header's.
pub(super) fn add_metadata(draft: &mut Draft, settled: &Settled) {
    let mut entries: Vec<(String, String)> = Vec::new();
    for output in &draft.recipe.outputs {
        match output.form {
            Form::Face { packed, face: 0 } => {
                let Some(packed) = draft.recipe.packed.get(packed) else { continue };
                let of = entry(settled, packed.packing.rows, packed.packing.columns);
                entries.push((packed.matrix.name.clone(), of.to_string()));
            }
            Form::Face { .. } => {}
            _ => entries.push((output.name.clone(), json!({ "_type": "Tensor" }).to_string())),
        }
    }
    let names: Vec<&str> = entries.iter().map(|(name, _)| name.as_str()).collect();
    entries.push((NAMES.to_owned(), json!(names).to_string()));
    // What the source's header said of tensors of these names is no longer so.
    let said: HashSet<&str> = entries.iter().map(|(name, _)| name.as_str()).collect();
    draft.metadata.retain(|(key, _)| !said.contains(key.as_str()));
    drop(said);
    draft.metadata.append(&mut entries);
}
