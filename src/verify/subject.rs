//! What is verified: a model, how it computes, and the tensors it needs under the names by which it computes.

use crate::dtype::{Class, DType};
use crate::error::{Error, ErrorKind, Result};
use crate::open::Model;
use crate::text::Shown;
use crate::transform::arch::families::{self, Family, Sizes};
use crate::transform::arch::forward::{self, Forward};
use crate::transform::arch::translate::{Origin, to_forward};
use crate::transform::recipe::Recipe;
use crate::transform::task::{self, Task};
use serde_json::Value as Json;
use std::sync::Arc;

/// A model, and all that is known of it before a weight is read.
#[derive(Debug)]
pub struct Subject {
    /// Its name, for messages.
    pub name: String,
    /// Its files.
    pub model: Arc<Model>,
    /// Its `config.json`, made of the keys where it is a GGUF.
    pub config: Json,
    /// Its `generation_config.json`, where there is one, or keys that say the same.
    pub generation: Option<Json>,
    /// Its family.
    pub family: &'static Family,
    /// How it computes.
    pub forward: Forward,
    /// What it is for.
    pub task: Task,
    /// Each tensor that the forward pass needs (`blk.0.attn_q.weight`, see [`crate::transform::arch::forward`]), and what
    /// it is made of. An output's dtype is that of its values: what the file has.
    pub recipe: Arc<Recipe>,
    /// What a person should know.
    pub notes: Vec<String>,
}

impl Subject {
    /// Of an opened model.
    ///
    /// # Errors
    /// `CheckFailed`, with its name: a tensor that is missing, left over, or of the wrong shape. `Unsupported`: a family, a
    /// task or a construct that no row says. `BadInput`: a config that contradicts itself. `NotFound`: no config.
    pub fn of(model: Model) -> Result<Subject> {
        let mut notes = Vec::new();
        let name = model.name.clone();
        let gguf = model.is_gguf();
        let (config, generation) = if gguf {
            let configs = model.configs_of_keys(stored_dtype(&model))?;
            notes.extend(configs.notes);
            (configs.config, configs.generation)
        } else {
            let config = model.json("config.json")?.ok_or_else(|| {
                Error::not_found(
                    "there is no config.json beside the weights, so nobody knows how they compute",
                )
                .file(name.clone())
                .hint("put the model's config.json beside them (its tokenizer.json too), or name its folder")
            })?;
            (config, model.json("generation_config.json")?)
        };
        // The keys of a GGUF became a config; what is wrong in it is wrong in the file itself.
        let of_config = |e: Error| if gguf || e.file_name().is_some() { e } else { e.file("config.json") };
        let meta = &model.table.meta;
        let family = if gguf { families::of_gguf(meta)? } else { family_of(&config).map_err(of_config)? };
        let sizes =
            if gguf { Sizes::of_gguf(meta)? } else { Sizes::of_config(&config).map_err(of_config)? };
        let all = model.values((!gguf).then_some(&config))?;
        notes.extend(all.notes);
        let origin = if gguf { Origin::Gguf(meta) } else { Origin::Checkpoint(&config) };
        // A tensor that is missing, left over or misshapen is what the check of tensors looks for.
        let of_tensor = |e: Error| match (e.tensor_name(), e.kind()) {
            (None, _) => e,
            (_, ErrorKind::Unsupported) => e
                .kind_instead(ErrorKind::CheckFailed)
                .hint_instead("it is of another family, or of a newer form of this one"),
            _ => e.kind_instead(ErrorKind::CheckFailed),
        };
        let mut recipe = to_forward(all.values, family, &sizes, origin).map_err(of_tensor)?;
        recipe.left_out.extend(all.left_out);
        notes.append(&mut recipe.notes);
        let forward = forward::of_config(&config).map_err(of_config)?;
        let file = |name: &str| model.json(name);
        let mut task = if gguf { task::of_gguf(meta, &config)? } else { task::of(&config, &file)? };
        task::settle(&mut task, &forward, &mut recipe, gguf).map_err(of_tensor)?;
        // A head for the vocabulary is needed by whoever predicts tokens only.
        let head = forward.head.clone().filter(|_| task == Task::Causal);
        forward::check(&config, &Forward { head, ..forward.clone() }, &recipe).map_err(of_tensor)?;
        if !gguf && has_code(&config) {
            notes.push(format!(
                "the repo brings Python of its own, which is never run: it is computed as family `{}`",
                family.name()
            ));
        }
        let (model, recipe) = (Arc::new(model), Arc::new(recipe));
        Ok(Subject { name, model, config, generation, family, forward, task, recipe, notes })
    }

    /// Where a row of a tensor that is computed with comes from: the tensor's name in the model's own files, the file, and the
    /// row there. Of a tensor that is made of several the first, where no row is asked for.
    pub fn origin(&self, tensor: &str, row: Option<u64>) -> Option<Place<'_>> {
        let output = self.recipe.outputs.iter().find(|o| o.name == tensor)?;
        let columns = output.shape.last().copied().unwrap_or(1).max(1);
        let mut element = row.unwrap_or(0).checked_mul(columns)?;
        for part in &output.parts {
            let count = part.view.element_count();
            if element >= count {
                element -= count;
                continue;
            }
            let value = self.recipe.values.get(part.value)?;
            let at = part.view.element(element)?;
            let columns = value.shape.last().copied().unwrap_or(1).max(1);
            let table = &self.model.table;
            let file = value.source.tensors().first().and_then(|&t| table.tensors.get(t));
            let file = file.and_then(|t| table.files.get(t.at.span.file.index())).map(|f| f.name.as_str());
            return Some(Place { name: &value.name, file, row: row.map(|_| at / columns) });
        }
        None
    }

    /// Rows of the token embedding.
    pub fn vocabulary(&self) -> u64 {
        let embedding = self.recipe.outputs.iter().find(|o| o.name == "token_embd.weight");
        embedding.and_then(|o| o.shape.first().copied()).unwrap_or(0)
    }
}

/// A fault of what the model is compared with: never a check of the model that failed.
pub(in crate::verify) fn other_fault(error: Error, name: &str) -> Error {
    let error = match error.kind() {
        ErrorKind::CheckFailed => error.kind_instead(ErrorKind::BadInput),
        _ => error,
    };
    // A file of a folder beside the weights does not say which of the two models it is of.
    if error.file_name().is_some_and(|file| file != name) {
        error.detail(format!("a file of `{}`, with which it is compared", Shown(name)))
    } else {
        error.file(name)
    }
}

/// A place in a model's own files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// The tensor.
    pub name: &'a str,
    /// The file, where it is in one.
    pub file: Option<&'a str>,
    /// The row of the tensor, where one was asked for.
    pub row: Option<u64>,
}

/// The family of a config. Nothing but a row makes a model known, so the hint is another than a conversion's.
fn family_of(config: &Json) -> Result<&'static Family> {
    families::of_config(config).map_err(|e| {
        if has_code(config) {
            e.hint_instead("the repo brings Python of its own, which hoist never runs")
        } else {
            e.hint_instead("hoist inspect and hoist diff work on any tensors")
        }
    })
}

/// Whether the config asks for code from the repo (`auto_map`).
fn has_code(config: &Json) -> bool {
    config.get("auto_map").and_then(Json::as_object).is_some_and(|map| !map.is_empty())
}

/// The float type that most bytes have; f32 where there is none.
fn stored_dtype(model: &Model) -> DType {
    let of = |dtype: DType| {
        let tensors = model.table.tensors.iter().filter(|t| t.dtype == dtype);
        tensors.fold(0u64, |sum, t| sum.saturating_add(t.size_bytes()))
    };
    [DType::F32, DType::F16, DType::BF16]
        .into_iter()
        .filter(|d| d.facts().class == Class::Float)
        .max_by_key(|&d| of(d))
        .filter(|&d| of(d) > 0)
        .unwrap_or(DType::F32)
}
