//! A GGUF as a checkpoint that transformers loads: names, config and tokenizer files rebuilt from its keys.

use super::Options;
use super::draft::Draft;
use super::{examine, to_gguf};
use crate::checkpoint::Container;
use crate::dtype::{Class, DType};
use crate::error::Result;
use crate::open::Model;
use crate::transform::arch::families::{self, Sizes};
use crate::transform::arch::translate::{self, Want};
use crate::transform::recipe::Output;
use crate::transform::select::Selection;
use crate::transform::values::values;
use crate::transform::vocab;
use std::collections::HashMap;

/// Translates by the family's rows.
pub(super) fn draft(model: &Model, options: &Options) -> Result<Draft> {
    let meta = &model.table.meta;
    let mut draft = Draft::default();
    let family = families::of_gguf(meta)?;
    let sizes = Sizes::of_gguf(meta)?;
    let all = values(&model.table, None)?;
    draft.notes.extend(all.notes);
    let want = options.dtype.map_or(Want::Own, Want::Type);
    let mut recipe = translate::to_hf(all.values, family, &sizes, meta, want)?;
    recipe.left_out.extend(all.left_out);
    for index in 0..recipe.outputs.len() {
        if let Some(narrow) = recipe.outputs[index].narrow
            && examine::survives(model, &recipe, &recipe.outputs[index], narrow)?
        {
            recipe.outputs[index].dtype = narrow;
        }
    }
    let dtype = main_dtype(&recipe.outputs);
    let configs = model.configs_of_keys(dtype)?;
    draft.notes.extend(configs.notes);
    draft.texts.push(("config.json".into(), pretty(&configs.config)?));
    if let Some(generation) = &configs.generation {
        draft.texts.push(("generation_config.json".into(), pretty(generation)?));
    }
    if meta.get("tokenizer.ggml.model").is_some() {
        let vocabulary = vocab::to_hf(meta, family.gguf)?;
        draft.texts.extend(vocabulary.files);
        draft.notes.extend(vocabulary.notes);
    } else {
        draft.notes.push("it has no tokenizer, so none is written".into());
    }
    to_gguf::select(&mut recipe, &Selection::new(&options.include, &options.exclude)?, &[])?;
    draft.recipe = recipe;
    if options.container() == Container::Safetensors {
        draft.add_metadata(model);
    }
    Ok(draft)
}

/// The type that most bytes have.
fn main_dtype(outputs: &[Output]) -> DType {
    let mut sums: HashMap<DType, u64> = HashMap::new();
    for output in outputs.iter().filter(|o| o.dtype.facts().class == Class::Float) {
        let sum = sums.entry(output.dtype).or_default();
        *sum = sum.saturating_add(output.size_bytes().unwrap_or(0));
    }
    sums.into_iter().max_by_key(|&(dtype, size)| (size, dtype)).map_or(DType::F32, |(dtype, _)| dtype)
}

fn pretty(config: &serde_json::Value) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(config)
        .map_err(|e| crate::error::Error::bug(format!("a config cannot be written: {e}")))?;
    text.push(b'\n');
    Ok(text)
}
