//! A recipe against the task: which tensors of heads there must be, and which have no use.

use super::{Classes, Probability, Task, classes};
use crate::error::{Error, Result};
use crate::transform::arch::families;
use crate::transform::arch::forward::Forward;
use crate::transform::recipe::{LeftOut, Output, Recipe};

/// Why a head's tensor is left out.
const ANOTHER: &str = "head of another task";

/// The dense layer of a head, its norm, its last layer, and the matrix to the vocabulary.
const DENSE: &str = "cls";
const NORM: &str = "cls.norm";
const LAST: &str = "cls.output";
const VOCABULARY: &str = "output";

/// Holds a recipe of [`crate::transform::arch::translate::to_forward`] against what the model is for. Tensors of heads
/// that the task has no use for are moved to those left out; those that it needs must be there with the sizes that it
/// says; norms that the layers name must be there too. A GGUF (`gguf`) may have a head of one layer where its family has
/// one of two, and labels that nobody named get numbers.
///
/// # Errors
/// `BadInput` for a tensor that is missing or of another size; it is named.
pub fn settle(task: &mut Task, forward: &Forward, recipe: &mut Recipe, gguf: bool) -> Result<()> {
    let needed: &[&str] = match task {
        Task::Causal => &[VOCABULARY],
        Task::Embedding(_) | Task::Hidden => &[],
        Task::Sequence(classes) | Task::Token(classes) => {
            if gguf && find(recipe, "cls.weight").is_none() {
                classes.dense = None;
            }
            of_classes(classes, forward, recipe)?;
            match (classes.dense.is_some(), classes.norm.is_some()) {
                (true, true) => &[DENSE, NORM, LAST],
                (true, false) => &[DENSE, LAST],
                (false, _) => &[LAST],
            }
        }
    };
    let used = |output: &Output| {
        let row = stem(&output.name);
        ![DENSE, NORM, LAST, VOCABULARY].contains(&row) || needed.contains(&row)
    };
    let Recipe { values, outputs, left_out, .. } = recipe;
    outputs.retain(|output| {
        let kept = used(output);
        if !kept && let Some(value) = output.parts.first().and_then(|part| values.get(part.value)) {
            left_out.push(LeftOut { name: value.name.clone(), why: ANOTHER });
        }
        kept
    });
    norms(forward, recipe)
}

/// A tensor's name without what it is of the layer.
fn stem(name: &str) -> &str {
    name.strip_suffix(".weight").or_else(|| name.strip_suffix(".bias")).unwrap_or(name)
}

fn find<'r>(recipe: &'r Recipe, name: &str) -> Option<&'r Output> {
    recipe.outputs.iter().find(|output| output.name == name)
}

fn of_classes(classes: &mut Classes, forward: &Forward, recipe: &Recipe) -> Result<()> {
    let hidden = forward.hidden as u64;
    let count = |classes: &Classes| classes.labels.len() as u64;
    if classes.labels.is_empty() {
        let last = find(recipe, "cls.output.weight").ok_or_else(|| missing(forward, LAST))?;
        let rows = last.shape.first().copied().unwrap_or(0);
        let rows = usize::try_from(rows).ok().filter(|n| (1..=classes::LABELS_MAX).contains(n));
        let rows = rows.ok_or_else(|| misshapen(last, hidden, None))?;
        classes.labels = (0..rows).map(|n| format!("LABEL_{n}")).collect();
        classes.probability = if rows > 1 { Probability::Softmax } else { Probability::Sigmoid };
    }
    let check = |stem: &str, rows: u64, columns: Option<u64>| -> Result<()> {
        let weight = find(recipe, &format!("{stem}.weight")).ok_or_else(|| missing(forward, stem))?;
        let wanted: Vec<u64> = [Some(rows), columns].into_iter().flatten().collect();
        if weight.shape != wanted {
            return Err(misshapen(weight, rows, columns));
        }
        match find(recipe, &format!("{stem}.bias")) {
            Some(bias) if bias.shape != [rows] => Err(misshapen(bias, rows, None)),
            _ => Ok(()),
        }
    };
    if classes.dense.is_some() {
        check(DENSE, hidden, Some(hidden))?;
    }
    if classes.norm.is_some() {
        check(NORM, hidden, None)?;
    }
    check(LAST, count(classes), Some(hidden))
}

fn missing(forward: &Forward, stem: &str) -> Error {
    // What checkpoints call it: a person looks for that name.
    let family = families::all().find(|f| f.name() == forward.family);
    let rows = family.into_iter().flat_map(|f| f.rows().chain(f.head_rows()));
    let names: Vec<String> =
        rows.filter(|row| row.gguf == stem).map(|row| format!("`{}.weight`", row.hf)).collect();
    let names = if names.is_empty() { "for it".to_owned() } else { names.join(" or ") };
    Error::bad_input(format!("is missing: the model has no tensor {names}"))
        .tensor(format!("{stem}.weight"))
        .detail("its class says that it has this head; the file is not whole, or holds the model without its head")
}

fn misshapen(output: &Output, rows: u64, columns: Option<u64>) -> Error {
    let wanted: Vec<u64> = [Some(rows), columns].into_iter().flatten().collect();
    Error::bad_input(format!("has shape {:?}, where {wanted:?} is needed", output.shape))
        .tensor(&output.name)
        .detail("the tensors, the labels and the sizes that the config says do not fit together")
}

/// Norms that only some layers have are not checked where the recipe is made.
fn norms(forward: &Forward, recipe: &Recipe) -> Result<()> {
    let names: std::collections::HashSet<&str> = recipe.outputs.iter().map(|o| o.name.as_str()).collect();
    for (index, layer) in forward.layers.iter().enumerate() {
        let norms = &layer.norms;
        let all = [
            norms.attention_in,
            norms.attention_out,
            norms.attention_sum,
            norms.mlp_in,
            norms.mlp_out,
            norms.mlp_sum,
        ];
        for norm in all.into_iter().flatten() {
            let name = format!("blk.{index}.{norm}.weight");
            if !names.contains(name.as_str()) {
                return Err(Error::bad_input("is missing: the model has no tensor for it")
                    .tensor(name)
                    .detail("the file is not whole, or the model is of another family than it says"));
            }
        }
    }
    Ok(())
}
