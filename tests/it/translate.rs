//! Families and their recipes: names both ways against lists that the reference converter made, where each element goes,
//! what is refused.

use hoist::checkpoint::Meta;
use hoist::dtype::DType;
use hoist::transform::arch::families::{Dim, Ends, Family, Head, Need, Sizes, Way, all};
use hoist::transform::arch::translate::{Want, to_hf};
use hoist::transform::recipe::{Recipe, Source, Value};
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;

mod families;
mod layout;
mod lists;
mod models;

type Tensor = (String, DType, Vec<u64>);

fn values(tensors: &[Tensor]) -> Vec<Value> {
    let value = |(i, (name, dtype, shape)): (usize, &Tensor)| Value {
        name: name.clone(),
        dtype: *dtype,
        shape: shape.clone(),
        source: Source::Tensor(i),
    };
    tensors.iter().enumerate().map(value).collect()
}

fn tensors(recipe: &Recipe) -> Vec<Tensor> {
    recipe.outputs.iter().map(|o| (o.name.clone(), o.dtype, o.shape.clone())).collect()
}

fn sorted(mut tensors: Vec<Tensor>) -> Vec<Tensor> {
    tensors.sort();
    tensors
}

/// Sizes that no two of which are alike where that can be, so that what is exchanged does not fit.
fn small() -> Sizes {
    Sizes {
        layers: 2,
        mtp_layers: 0,
        hidden: 10,
        heads: 4,
        kv_heads: 2,
        head_dim: 4,
        experts: Some(3),
        kv_lora_rank: Some(7),
        qk_nope_head_dim: Some(ANY),
        qk_rope_head_dim: Some(2),
        v_head_dim: Some(ANY),
        pad_id: Some(1),
    }
}

const ANY: u64 = 6;

fn family(name: &str) -> &'static Family {
    all().find(|f| f.name() == name).unwrap()
}

/// A GGUF of a family with every tensor that may be in one: layer 0 has the first set of each choice, layer 1 the second.
fn gguf_of(family: &'static Family, sizes: &Sizes) -> Vec<Tensor> {
    let sets = |choice: u8| -> BTreeSet<u8> {
        let set = |need: Need| match need {
            Need::OneOf { choice: c, set } if c == choice => Some(set),
            _ => None,
        };
        family.rows().filter_map(|row| set(row.need)).collect()
    };
    let mut out = Vec::new();
    for row in family.rows().filter(|row| row.way == Way::Both) {
        if row.need == Need::Head && family.head == Head::Tied {
            continue;
        }
        let layers = if row.gguf.contains('#') { sizes.layers } else { 1 };
        for layer in 0..layers {
            if let Need::OneOf { choice, set } = row.need {
                let sets = sets(choice);
                if sets.iter().nth(layer as usize).or(sets.first()) != Some(&set) {
                    continue;
                }
            }
            let name = row.gguf.replace('#', &layer.to_string());
            let dim = |d: &Dim| sizes.dim(*d).unwrap().unwrap_or(ANY);
            let shape: Vec<u64> = row.dims.iter().map(dim).collect();
            if row.ends == Ends::Bare {
                out.push((name, DType::F32, shape));
                continue;
            }
            if matches!(row.ends, Ends::MayBias | Ends::Bias) {
                out.push((format!("{name}.bias"), DType::F32, shape[..1].to_vec()));
            }
            out.push((format!("{name}.weight"), DType::F32, shape));
        }
    }
    out
}

fn back(gguf: &[Tensor], family: &'static Family, sizes: &Sizes) -> hoist::Result<Recipe> {
    to_hf(values(gguf), family, sizes, &Meta::default(), Want::Own)
}

/// The same as a checkpoint.
fn hf_of(family: &'static Family, sizes: &Sizes) -> Vec<Tensor> {
    let recipe = back(&gguf_of(family, sizes), family, sizes);
    tensors(&recipe.unwrap_or_else(|e| panic!("{}: {e}", family.name())))
}

fn plain_config(family: &Family) -> Json {
    json!({"model_type": family.name(), "tie_word_embeddings": false})
}
