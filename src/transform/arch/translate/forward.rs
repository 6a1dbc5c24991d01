//! From a checkpoint's tensors, or a GGUF's, to those that a forward pass computes with: GGUF's names and layout, whatever
//! they come from.
//!
//! A checkpoint becomes what it becomes as a GGUF, but for what a GGUF has beside its weights (rotary factors, which the
//! config says) and for its types. A GGUF is so already; only what older ones have in another form is made a checkpoint's
//! first and goes the same way from there. Both pass the same checks of shapes and of what is missing.

use super::names::{Hit, Index, Side, filled};
use super::{Form, Order, Place, Walk, types};
use crate::checkpoint::Meta;
use crate::error::{Error, Result};
use crate::transform::arch::families::{Family, Head, Map, Sizes, Way, generates};
use crate::transform::recipe::{Output, Part, Recipe, Value};
use crate::transform::view::View;
use serde_json::Value as Json;

/// Where values come from, and what is said of them there.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'a> {
    /// A checkpoint, with its `config.json`.
    Checkpoint(&'a Json),
    /// A GGUF, with its keys.
    Gguf(&'a Meta),
}

/// The recipe of the tensors that a forward pass needs, by GGUF's names and in its layout, and those of
/// [`Family::heads`]. `sizes` are the [`Sizes::of_config`] or [`Sizes::of_gguf`] of the origin. An output's dtype is its
/// values' own, the widest where they differ; f32 where a number is added, or where blocks do not stay whole.
///
/// # Errors
/// As [`super::to_gguf`].
pub fn to_forward(
    values: Vec<Value>,
    family: &'static Family,
    sizes: &Sizes,
    origin: Origin<'_>,
) -> Result<Recipe> {
    let (side, tied) = match origin {
        Origin::Checkpoint(config) => (Side::Hf, family.is_tied(config)),
        Origin::Gguf(_) => (Side::Gguf, family.head == Head::Tied),
    };
    let mut walk = Walk::new(values, family, sizes, (side, Side::Gguf), tied);
    let rows = || family.rows().chain(family.head_rows());
    walk.index = Index::new(rows(), side);
    let head_needed = match origin {
        Origin::Checkpoint(config) => {
            walk.take_all(Walk::take_hf)?;
            walk.take_head_as_embedding()?;
            matches!(family.head, Head::Said { .. }) && !tied && generates(config)
        }
        Origin::Gguf(_) => {
            let checkpoint = Index::new(rows(), Side::Hf);
            walk.take_all(|walk, at| walk.take_canonical(at, &checkpoint))?;
            false
        }
    };
    let drafts = walk.finish(head_needed)?;
    types::of_forward(&mut walk.out, drafts)?;
    walk.out.outputs.iter().try_for_each(Output::check)?;
    Ok(walk.out)
}

impl Walk<'_> {
    /// A GGUF's tensor as it is, or in the form of today.
    fn take_canonical(&mut self, at: usize, checkpoint: &Index) -> Result<()> {
        let Some(Place { hits, layer, expert }) = self.look_up(at)? else { return Ok(()) };
        for hit in hits {
            let view = self.view_of_gguf(at, &hit)?;
            if hit.row.way == Way::Back {
                self.take_older(at, view, &hit, (layer, expert), checkpoint)?;
                continue;
            }
            let order = Order { stage: 1, value: at, expert: None, row: hit.number };
            let name = filled(hit.row, Side::Gguf, hit.bias, layer, None);
            let form = Form::whole(&view);
            self.put(name, &hit, layer, form, order, (0, Part::new(at, view)))?;
        }
        Ok(())
    }

    /// A tensor of a form that GGUFs have no more: made what a checkpoint calls it, and that what it becomes.
    fn take_older(
        &mut self,
        at: usize,
        view: View,
        older: &Hit,
        (layer, expert): (Option<u64>, Option<u64>),
        checkpoint: &Index,
    ) -> Result<()> {
        let name = filled(older.row, Side::Hf, older.bias, layer, expert);
        let back = self.task(older).to_hf(view)?;
        let [piece] = back.pieces.as_slice() else {
            return Err(Error::bug(format!("`{name}` is not one tensor of an older GGUF")));
        };
        let found = checkpoint.find(&name);
        let hits = found.ok_or_else(|| Error::bug(format!("no row knows `{name}`")))?.hits;
        for hit in hits {
            let task = self.task(hit);
            let (view, shape) = task.to_gguf(piece.view.clone())?;
            let stacked = hit.row.map == Map::Stacked;
            let place = if stacked { expert.unwrap_or(0) } else { 0 };
            if stacked {
                self.last_expert.insert(layer, at);
            }
            let order = Order { stage: 1, value: at, expert: None, row: hit.number };
            let name = filled(hit.row, Side::Gguf, hit.bias, layer, None);
            let form = Form { shape, zero_rows: 0, stacked };
            self.put(name, hit, layer, form, order, (place, Part::new(at, view)))?;
        }
        Ok(())
    }
}
