//! Between containers of one naming (safetensors and PyTorch; GGUF and GGUF): tensors keep their names.

use super::draft::{ConfigEdit, Draft, holds};
use super::{Options, to_gguf};
use crate::checkpoint::Container;
use crate::dtype::{Class, DType};
use crate::error::{Error, Result};
use crate::open::Model;
use crate::transform::recipe::{LeftOut, Output, Part, Source, Value};
use crate::transform::select::Selection;
use crate::transform::values;
use serde_json::Value as Json;
use std::collections::HashMap;

/// Tensors under the names they have.
pub(super) fn draft(model: &Model, options: &Options, to: Container) -> Result<Draft> {
    let table = &model.table;
    let mut draft = Draft::default();
    let config = model.json("config.json")?;
    // Without a cast, and where the container can hold what there is, nothing is interpreted: codes and scales of any
    // scheme are tensors like others.
    let interpret = options.dtype.is_some()
        || options.quantize.is_some()
        || table.tensors.iter().any(|t| !holds(to, t.dtype));
    let all = match interpret {
        true => {
            let all = model.values(config.as_ref())?;
            draft.notes.extend(all.notes);
            draft.recipe.left_out = all.left_out;
            all.values
        }
        false => values::raw(table),
    };
    let selection = Selection::new(&options.include, &options.exclude)?;
    let picked = selection.pick_names(all.iter().map(|v| v.name.as_str()))?;
    let firsts = firsts(model, &all);
    let tied = ties(config.as_ref());
    let mut written: HashMap<usize, usize> = HashMap::new();
    let mut dequantised = false;
    for (index, value) in all.iter().enumerate() {
        if picked.binary_search(&index).is_err() {
            continue;
        }
        let dtype = dtype_of(value, options.dtype, to)?;
        dequantised |= value.source.is_coded();
        let first = firsts[index];
        let at = draft.recipe.outputs.len();
        let mut shares = at;
        if first != index
            && let Some(&kept) = written.get(&first)
        {
            match to {
                // safetensors has no aliases: what the model ties by itself is written once, anything else twice.
                Container::Safetensors if tied.drops(&value.name, &all[first].name) => {
                    draft.metadata.push((value.name.clone(), all[first].name.clone()));
                    draft
                        .recipe
                        .left_out
                        .push(LeftOut { name: value.name.clone(), why: "shares its bytes with another" });
                    continue;
                }
                Container::Torch if draft.recipe.outputs[kept].dtype == dtype => shares = kept,
                _ => {}
            }
        }
        draft.firsts.push(shares);
        written.entry(first).or_insert(at);
        let view = values::unpacked(table, value)?;
        let output = Output {
            name: value.name.clone(),
            dtype,
            shape: view.shape.clone(),
            parts: vec![Part::new(index, view)],
            narrow: None,
            form: Default::default(),
        };
        draft.recipe.outputs.push(output);
    }
    draft.recipe.values = all;
    draft.config =
        ConfigEdit { dtype: options.dtype.filter(|d| d.is_float()), dequantised, quantization: None };
    match to {
        Container::Safetensors => draft.add_metadata(model),
        Container::Gguf => draft.keys = to_gguf::keys_of(model, options, &draft.recipe)?,
        Container::Torch => {}
    }
    if options.raw {
        draft.notes.push("tensors only, under their own names: no engine will run it".into());
    }
    Ok(draft)
}

/// The type a value is written in, where its name says nothing about it.
fn dtype_of(value: &Value, wanted: Option<DType>, to: Container) -> Result<DType> {
    // Experts that were trained in blocks stay so where the container has them.
    if to == Container::Gguf && value.dtype == DType::MXFP4 {
        return Ok(value.dtype);
    }
    let is_number = matches!(value.dtype.facts().class, Class::Float | Class::Block)
        || !matches!(value.source, Source::Tensor(_) | Source::Made(_));
    let dtype = match wanted {
        Some(wanted) if is_number => to_gguf::type_for(to, wanted, &value.name, &value.shape),
        _ => value.dtype,
    };
    if holds(to, dtype) {
        return Ok(dtype);
    }
    let error = Error::unsupported(format!("is `{dtype}`, which {to} does not have")).tensor(&value.name);
    Err(match is_number {
        true => error.hint("--dtype f32, f16 or bf16 writes its numbers"),
        false => error.hint("--exclude leaves it out"),
    })
}

/// For each value the first one of the same tensor in the same place: itself, unless it is an alias.
fn firsts(model: &Model, all: &[Value]) -> Vec<usize> {
    let of_tensor = model.table.firsts();
    let mut values: HashMap<usize, usize> = HashMap::new();
    all.iter()
        .enumerate()
        .map(|(i, value)| match value.source {
            Source::Tensor(tensor) => {
                *values.entry(of_tensor.get(tensor).copied().unwrap_or(tensor)).or_insert(i)
            }
            _ => i,
        })
        .collect()
}

/// Which names a model ties by itself when it is built, so that a file without them is whole.
struct Ties {
    head: bool,
}

/// The names that a tied model fills in, whatever stands before them.
const TIED_NAMES: &[&str] = &[
    "lm_head.weight",
    "embed_out.weight",
    "lm_head.decoder.weight",
    "lm_head.decoder.bias",
    "cls.predictions.decoder.weight",
    "cls.predictions.decoder.bias",
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
];

/// Families whose configs leave `tie_word_embeddings` out where it is true.
const TIED_FAMILIES: &[&str] = &[
    "gpt2",
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3_text",
    "bert",
    "roberta",
    "xlm-roberta",
    "distilbert",
    "t5",
    "mt5",
    "bart",
    "opt",
    "cohere",
    "cohere2",
];

fn ties(config: Option<&Json>) -> Ties {
    let Some(config) = config else { return Ties { head: false } };
    let of = |config: &Json| config.get("tie_word_embeddings").and_then(Json::as_bool);
    let said = of(config).or_else(|| config.get("text_config").and_then(of));
    let family = config.get("model_type").and_then(Json::as_str).unwrap_or_default();
    Ties { head: said.unwrap_or(TIED_FAMILIES.contains(&family)) }
}

impl Ties {
    /// Whether `name` may go where `kept` stays.
    fn drops(&self, name: &str, kept: &str) -> bool {
        let is = |name: &str| {
            TIED_NAMES.iter().any(|t| name.strip_suffix(t).is_some_and(|p| p.is_empty() || p.ends_with('.')))
        };
        self.head && is(name) && !is(kept)
    }
}
