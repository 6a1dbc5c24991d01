//! Experts in one tensor, taken apart into the names under which engines read quantised ones: a matrix `[out, in]` for each
//! expert and projection. Orientation, and the order of gate and up, are the family's rows; names are those in which the
//! family is published, where it is published one tensor an expert.

use crate::convert::draft::Draft;
use crate::error::{Error, Result};
use crate::transform::arch::families::{self, Ends, Family, Map, Row, Way, Which};
use crate::transform::arch::{self, Form as Laid, Group};
use crate::transform::recipe::{Output, Part};
use crate::transform::view::View;
use serde_json::Value as Json;

/// One projection of fused experts.
struct Piece {
    /// What it is called: prefix left out, `#` the layer, `@` the expert.
    name: String,
    /// What follows.
    end: &'static str,
    map: Map,
    /// Whether it is a bias.
    bias: bool,
}

/// Takes apart all experts that lie in one tensor.
pub(super) fn take_apart(draft: &mut Draft, config: &Json, layers: Option<u64>) -> Result<()> {
    let is_fused = |output: &Output| {
        let fused = arch::find(&output.name).is_some_and(|(row, _)| {
            row.group == Group::Experts && matches!(row.form, Laid::Stacked | Laid::StackedConv)
        });
        let further = super::layer(&output.name).zip(layers).is_some_and(|(n, layers)| n >= layers);
        fused && !further && output.dtype.is_float() && output.parts.len() == 1
    };
    if !draft.recipe.outputs.iter().any(|o| is_fused(o) && o.shape.len() == 3) {
        return Ok(());
    }
    let family = families::of_config(config)
        .map_err(|e| e.hint_instead("--keep '*.experts.*' is no way around: how they lie is not known"))?;
    let outputs = std::mem::take(&mut draft.recipe.outputs);
    for output in outputs {
        if !is_fused(&output) {
            let name = published(family, &output.name).unwrap_or_else(|| output.name.clone());
            draft.recipe.outputs.push(Output { name, ..output });
            continue;
        }
        let pieces = pieces(family, &output.name);
        let part = match (&output.parts[..], pieces.is_empty()) {
            ([part], false) => part.clone(),
            _ => {
                return Err(Error::unsupported(format!(
                    "holds experts of `{}` in a form that hoist does not take apart",
                    family.name()
                ))
                .tensor(&output.name));
            }
        };
        let count = output.shape.first().copied().unwrap_or(0);
        // Each expert becomes tensors of its own: there must be bytes for each.
        if crate::dtype::element_count(&output.shape).unwrap_or(0) < count.max(1) {
            return Err(Error::bad_input(format!(
                "has shape {:?}, in which experts have no numbers",
                output.shape
            ))
            .tensor(&output.name));
        }
        let prefix = prefix(&output.name);
        for expert in 0..count {
            for piece in &pieces {
                let view = cut(part.view.clone(), expert, piece).map_err(|e| e.tensor(&output.name))?;
                let name = filled(&piece.name, super::layer(&output.name).unwrap_or(0), expert);
                draft.recipe.outputs.push(Output {
                    name: format!("{prefix}{name}{}", piece.end),
                    dtype: output.dtype,
                    shape: view.shape.clone(),
                    parts: vec![Part { view, ..part.clone() }],
                    narrow: output.narrow,
                    form: output.form.clone(),
                });
            }
        }
    }
    draft.firsts = (0..draft.recipe.outputs.len()).collect();
    Ok(())
}

/// What stands before `layers`.
fn prefix(name: &str) -> &str {
    name.find("layers.").map_or("", |at| &name[..at])
}

/// A name from `layers` on, numbers as `#`.
fn canonical(name: &str) -> String {
    let name = &name[prefix(name).len()..];
    let segment = |s: &str| match s.bytes().all(|b| b.is_ascii_digit()) && !s.is_empty() {
        true => "#".to_owned(),
        false => s.to_owned(),
    };
    name.split('.').map(segment).collect::<Vec<_>>().join(".")
}

fn filled(pattern: &str, layer: u64, expert: u64) -> String {
    pattern.replace('#', &layer.to_string()).replace('@', &expert.to_string())
}

/// GGUF's name of a row without what follows.
fn stem(row: &Row) -> &'static str {
    row.gguf.strip_suffix(".weight").or_else(|| row.gguf.strip_suffix(".bias")).unwrap_or(row.gguf)
}

/// What a tensor of fused experts consists of.
fn pieces(family: &'static Family, name: &str) -> Vec<Piece> {
    let canonical = canonical(name);
    let rows = family.rows().filter(|row| row.ends == Ends::Bare && canonical == pattern(row));
    let mut pieces: Vec<Piece> = Vec::new();
    for row in rows.filter(|row| row.way != Way::Back && row.dims.len() >= 2) {
        let bias = row.gguf.ends_with(".bias");
        let single = |r: &&Row| r.map == Map::Stacked && r.way == Way::Both && stem(r) == stem(row);
        let name = match family.rows().find(single) {
            Some(single) => pattern(single).to_owned(),
            None => from_layers(&row.single_name()).to_owned(),
        };
        pieces.push(Piece { name, end: if bias { ".bias" } else { ".weight" }, map: row.map, bias });
    }
    pieces
}

/// A row's name from `layers` on.
fn pattern(row: &Row) -> &'static str {
    from_layers(row.hf)
}

fn from_layers(name: &str) -> &str {
    name.find("layers.").map_or(name, |at| &name[at..])
}

/// The name that a family is published with, where another stands in newer checkpoints: routers move with their experts.
fn published(family: &'static Family, name: &str) -> Option<String> {
    let module = name.strip_suffix(".weight")?;
    let canonical = canonical(module);
    let row =
        family.rows().find(|r| r.way == Way::In && r.ends == Ends::Weight && pattern(r) == canonical)?;
    let other = family.rows().find(|r| r.way == Way::Both && r.ends == Ends::Weight && r.gguf == row.gguf)?;
    let layer = super::layer(name)?;
    let plain = !pattern(other).contains('@');
    plain.then(|| format!("{}{}.weight", prefix(name), filled(pattern(other), layer, 0)))
}

/// One expert's matrix `[out, in]`, or its bias.
fn cut(view: View, expert: u64, piece: &Piece) -> Result<View> {
    let mut view = view.at(0, expert)?;
    let (which, turned, paired) = match piece.map {
        Map::Fused { which, turned, paired } => (Some(which), turned, paired),
        Map::Turned => (None, true, false),
        _ => (None, false, false),
    };
    if turned && !piece.bias {
        view = view.swap(0, 1)?;
    }
    let Some(which) = which else { return Ok(view) };
    let rows = view.shape.first().copied().unwrap_or(0);
    let half = rows / 2;
    if !rows.is_multiple_of(2) {
        return Err(Error::bad_input(format!("has {rows} rows of gate and up, which are not two halves")));
    }
    let second = u64::from(which == Which::Up);
    match paired {
        true => view.split(0, &[half, 2])?.at(1, second),
        false => view.slice(0, second * half..(second + 1) * half),
    }
}
