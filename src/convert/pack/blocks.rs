//! Quantising into a GGUF: each tensor gets the block type that llama-quantize gives it, in the order in which llama-quantize
//! writes them, with the keys that it sets. From the same GGUF both make the same file, byte for byte.

use super::{BlockTypes, Chosen, Decided, FLOATS, Quantised, Quantize, Why, refuse_quantised};
use crate::checkpoint::MetaValue;
use crate::convert::draft::Draft;
use crate::dtype::{Class, DType};
use crate::error::{Error, Result};
use crate::open::Model;
use crate::text::{Shown, grouped};
use crate::transform::arch::families;
use crate::transform::block;
use crate::transform::importance::Importance;
use crate::transform::mixture::{self, About, Choice, Given, Mixture, Tensor};
use crate::transform::recipe::{Form, Output, Recipe, Source, Value};
use crate::transform::scheme::Asked;
use crate::transform::select::Selection;
use std::borrow::Cow;

/// `general.quantization_version`: that of ggml's blocks since 2023.
const QUANTIZATION_VERSION: u32 = 2;

/// Changes the draft of a GGUF.
///
/// # Errors
/// `Usage`: what blocks do not have; a type that is not made; with `strict` rows that do not fit; nothing left to quantise.
/// `Unsupported`: a model that is quantised already, or has nothing that llama-quantize would quantise. `NotFound`: a pattern
/// that matches nothing. `BadInput`: an importance of another model.
pub(super) fn blocks(
    model: &Model,
    mixture: &'static Mixture,
    asked: &Quantize,
    draft: &mut Draft,
) -> Result<Decided> {
    check(mixture, asked)?;
    draft.recipe.outputs.sort_by(|a, b| mixture::order(&a.name, &b.name));
    draft.firsts = (0..draft.recipe.outputs.len()).collect();
    let about = About::of_keys(|key| draft.keys.iter().find(|(k, _)| k == key).map(|(_, value)| value));
    let given = assign(mixture, asked, &about, &draft.recipe)?;
    let mut decided = Decided {
        chosen: Chosen::Blocks(mixture),
        experts: about.experts > 1,
        quantised: Vec::new(),
        kept: Vec::new(),
    };
    let importance = match &asked.importance {
        Some(importance) => Some(named(model, importance)?),
        None => None,
    };
    let Recipe { outputs, values, .. } = &mut draft.recipe;
    let (mut fallen, mut unweighed) = (Vec::new(), Vec::new());
    let mut stored = 0u64;
    for (output, (given, is_asked)) in outputs.iter_mut().zip(given) {
        // ggml does not count outer dimensions of one.
        let ones = output.shape.iter().take_while(|&&n| n == 1).count();
        output.shape.drain(..ones.min(output.shape.len().saturating_sub(1)));
        let dtype = match given {
            Given::Kept => {
                if output.dtype.is_float() && output.shape.len() >= 2 {
                    let why = if is_asked { Why::Asked } else { Why::Kind("by llama-quantize's rules") };
                    decided.kept.push((output.name.clone(), why));
                }
                continue;
            }
            Given::Type(dtype) => dtype,
            Given::Fallback { dtype, instead_of } => {
                fallen.push((output.name.clone(), dtype, instead_of));
                dtype
            }
        };
        if is_stored(output, dtype, values) {
            stored += 1;
            continue;
        }
        if !asked.requantize {
            refuse_quantised(output, values).map_err(|e| e.detail(format!("it would become {dtype}")))?;
        }
        let before_bytes = output.size_bytes()?;
        output.dtype = dtype;
        output.narrow = None;
        if dtype.facts().class != Class::Block {
            decided.kept.push((output.name.clone(), Why::Asked));
            continue;
        }
        if let Some(importance) = &importance {
            let columns = output.shape.last().copied().unwrap_or(1);
            let rows = output.shape.iter().rev().nth(1).copied().unwrap_or(1);
            let count = crate::dtype::element_count(&output.shape).unwrap_or(0);
            let matrices = count / rows.saturating_mul(columns).max(1);
            match importance.of_gguf(&output.name, matrices, columns)? {
                Some(weights) => output.form = Form::Weighed(weights),
                None => unweighed.push(output.name.clone()),
            }
        }
        decided.quantised.push(Quantised {
            name: output.name.clone(),
            shape: output.shape.clone(),
            form: dtype.to_string(),
            before_bytes,
            after_bytes: output.size_bytes()?,
        });
    }
    if decided.quantised.is_empty() {
        let asked_for = decided.kept.iter().any(|(_, why)| *why == Why::Asked);
        return Err(match (stored, asked_for) {
            (1.., _) => Error::usage(format!("is `{}` already, as far as it can be", mixture.name)),
            (0, true) => Error::usage("--keep and the types that were chosen leave nothing to quantise"),
            (0, false) => Error::unsupported("holds no tensors that llama-quantize would quantise")
                .hint("--also 'GLOB' names some; hoist inspect MODEL --tree shows the names"),
        });
    }
    if mixture.dtype == DType::MXFP4 && outputs.iter().all(|o| o.dtype != DType::MXFP4) {
        draft.notes.push(
            "no tensor is mxfp4: llama-quantize makes experts so, and there are none; all others are q8_0"
                .to_owned(),
        );
    }
    if let Some((name, dtype, instead_of)) = fallen.first() {
        if asked.strict {
            return Err(Error::usage(format!("has rows that do not fill blocks of `{instead_of}`"))
                .tensor(name.as_str())
                .hint(format!("without --strict it becomes {dtype}")));
        }
        draft.notes.push(format!(
            "{} of other types, because their rows do not fill the blocks: `{}` is {dtype} instead of {instead_of}{}",
            match fallen.len() {
                1 => "1 tensor is".to_owned(),
                n => format!("{} tensors are", grouped(n as u64)),
            },
            Shown(name),
            if fallen.len() > 1 { ", and so on" } else { "" },
        ));
    }
    if let Some(first) = unweighed.first() {
        if unweighed.len() == decided.quantised.len() {
            return Err(Error::bad_input("has importance for none of the model's tensors")
                .hint("it was measured on another model"));
        }
        let rest = match unweighed.len() - 1 {
            0 => String::new(),
            n => format!(" and {} more", grouped(n as u64)),
        };
        draft.notes.push(format!("no importance for `{}`{rest}: quantised without", Shown(first)));
    }
    set_keys(draft, mixture, asked);
    Ok(decided)
}

/// An importance under the names that are written, where the family's rows know them.
fn named<'a>(model: &Model, importance: &'a Importance) -> Result<Cow<'a, Importance>> {
    let family = match (model.is_gguf(), model.json("config.json")?) {
        (true, _) => families::of_gguf(&model.table.meta).ok(),
        (false, Some(config)) => families::of_config_for_gguf(&config).ok(),
        (false, None) => None,
    };
    match family {
        Some(family) => importance.in_gguf_names(family).map(Cow::Owned),
        None => Ok(Cow::Borrowed(importance)),
    }
}

/// What a person asked for that blocks do not have.
fn check(mixture: &Mixture, asked: &Quantize) -> Result<()> {
    let Asked { method, group, symmetric, signed_scales, gptq_v2 } = asked.asked;
    let wrong = [
        ("--method", method.is_some()),
        ("--group-size", group.is_some()),
        ("--symmetric and --asymmetric", symmetric.is_some()),
        ("--signed-scales", signed_scales),
        ("--gptq-v2", gptq_v2),
    ];
    if let Some((flag, _)) = wrong.iter().find(|(_, is)| *is) {
        return Err(Error::usage(format!("{flag} means nothing for `{}`", mixture.name))
            .hint("ggml's blocks are made by its own methods, byte for byte"));
    }
    let types = asked.blocks.tensors.iter().map(|(_, dtype)| *dtype);
    for dtype in types.chain(asked.blocks.output).chain(asked.blocks.embedding) {
        if !FLOATS.contains(&dtype) && !block::can_encode(dtype) {
            let error = Error::usage(format!("`{dtype}` is no type that hoist makes"));
            return Err(error.hint(format!("there are {}", BlockTypes::names())));
        }
    }
    Ok(())
}

/// What each output becomes, by the mixture's rules and a person's wishes.
fn assign(mixture: &Mixture, asked: &Quantize, about: &About, recipe: &Recipe) -> Result<Vec<(Given, bool)>> {
    let outputs = &recipe.outputs;
    // A person may know the name that the checkpoint has.
    let origin =
        |o: &Output| o.parts.first().and_then(|p| recipe.values.get(p.value)).map(|v| v.name.as_str());
    let pick = |globs: &[String]| -> Result<Vec<bool>> {
        let mut is_picked = vec![false; outputs.len()];
        if globs.is_empty() {
            return Ok(is_picked);
        }
        // By the names that are written, then by those of the checkpoint.
        let written: Vec<&str> = outputs.iter().map(|o| o.name.as_str()).collect();
        let origins = outputs.iter().map(|o| origin(o).unwrap_or(&o.name)).collect();
        let selection = Selection::new(globs, &[])?;
        let mut error = None;
        for names in [written, origins] {
            match selection.pick_names(names) {
                Ok(indices) => indices.into_iter().for_each(|index| is_picked[index] = true),
                Err(e) => drop(error.get_or_insert(e)),
            }
        }
        match error {
            Some(e) if !is_picked.contains(&true) => Err(e),
            _ => Ok(is_picked),
        }
    };
    let mut named: Vec<Option<DType>> = vec![None; outputs.len()];
    for (glob, dtype) in &asked.blocks.tensors {
        for (place, is_picked) in named.iter_mut().zip(pick(std::slice::from_ref(glob))?) {
            if is_picked && place.is_none() {
                *place = Some(*dtype);
            }
        }
    }
    let (keep, also) = (pick(&asked.keep)?, pick(&asked.also)?);
    let tensors: Vec<Tensor<'_>> =
        outputs.iter().map(|o| Tensor { name: &o.name, shape: &o.shape }).collect();
    let by_index = |index: usize| named.get(index).copied().flatten();
    let choice = Choice {
        named: Some(&by_index),
        output: asked.blocks.output,
        embedding: asked.blocks.embedding,
        pure: asked.blocks.pure,
        importance: asked.importance.is_some(),
    };
    let mut given = mixture::assign(mixture, &tensors, about, &choice)?;
    for (index, given) in given.iter_mut().enumerate() {
        let output = &outputs[index];
        if keep[index] {
            *given = Given::Kept;
        } else if also[index] && *given == Given::Kept {
            if output.shape.len() < 2 || !output.dtype.is_float() {
                return Err(Error::usage("is no matrix of floats, and cannot be quantised")
                    .tensor(&output.name)
                    .hint("a narrower pattern for --also"));
            }
            *given = mixture::fall_back(by_index(index).unwrap_or(mixture.dtype), tensors[index]);
        }
    }
    Ok(given.into_iter().zip(keep).collect())
}

/// Whether all of an output lies in the source in its own type.
fn is_stored(output: &Output, dtype: DType, values: &[Value]) -> bool {
    let is_so = |v: &Value| match v.source {
        Source::Mxfp4 { .. } => dtype == DType::MXFP4,
        _ => v.dtype == dtype,
    };
    let parts = || output.parts.iter().map(|part| (part.add, values.get(part.value)));
    output.dtype == dtype && parts().all(|(add, value)| add == 0.0 && value.is_some_and(is_so))
}

/// The keys that llama-quantize sets, where it sets them: behind all others.
fn set_keys(draft: &mut Draft, mixture: &Mixture, asked: &Quantize) {
    let mut set = vec![
        ("general.quantization_version".to_owned(), MetaValue::U32(QUANTIZATION_VERSION)),
        ("general.file_type".to_owned(), MetaValue::U32(mixture.file_type)),
    ];
    set.extend(asked.importance.iter().flat_map(|importance| importance.keys()));
    draft.keys.retain(|(key, _)| set.iter().all(|(k, _)| k != key));
    draft.keys.extend(set);
}
