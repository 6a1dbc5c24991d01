//! What a row's map does to a tensor's elements: a view for each way, and each the other's inverse.

use crate::error::{Error, Result};
use crate::text::grouped;
use crate::transform::arch::families::{Family, Map, Sizes, Which};
use crate::transform::view::View;

/// The most parts beside one for each value. Gate and up that alternate element by element need a part an element on
/// the way back; as many parts as a real model has elements would be larger than the model.
pub(super) const PARTS_MAX: u64 = 1 << 18;

/// What a map is asked to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Task<'a> {
    pub family: &'a Family,
    pub sizes: &'a Sizes,
    pub map: Map,
    /// Whether the tensor is the bias of a row whose map speaks of the weight.
    pub bias: bool,
}

/// Elements that stand at a place among the parts of a tensor.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    /// The expert whose tensor it belongs to, where each has one.
    pub expert: Option<u64>,
    /// Its place among that tensor's parts.
    pub place: u64,
    pub view: View,
}

/// Pieces of a checkpoint's tensors.
#[derive(Debug, Clone)]
pub(super) struct Back {
    pub pieces: Vec<Piece>,
    /// The shape of each tensor that they belong to.
    pub shape: Vec<u64>,
    /// How many of its first rows no piece has: they are zeros.
    pub zero_rows: u64,
}

impl Back {
    fn one(view: View) -> Back {
        Back { shape: view.shape.clone(), pieces: vec![Piece { expert: None, place: 0, view }], zero_rows: 0 }
    }
}

impl Task<'_> {
    /// Added to each element on the way into a GGUF.
    pub(super) fn offset(&self) -> f32 {
        if self.map == Map::Norm && !self.bias { self.family.norm_offset } else { 0.0 }
    }

    fn skipped_positions(&self) -> u64 {
        match self.sizes.pad_id {
            Some(pad) if self.family.padded_positions => pad.saturating_add(1),
            _ => 0,
        }
    }

    /// How many heads have their halves paired.
    fn paired_heads(&self) -> Option<u64> {
        match self.map {
            Map::Queries if self.family.paired_heads => Some(self.sizes.heads),
            Map::Keys if self.family.paired_heads => Some(self.sizes.kv_heads),
            _ => None,
        }
    }

    /// Sizes of one head's keys and values in `kv_b_proj`.
    fn latent(&self) -> Result<(u64, u64)> {
        self.sizes.qk_nope_head_dim.zip(self.sizes.v_head_dim).ok_or_else(|| {
            Error::bad_input("cannot be split: the model does not say how wide a head's keys and values are")
        })
    }

    /// A checkpoint's tensor in a GGUF's order, and its shape there; of a tensor an expert that of one.
    pub(super) fn to_gguf(self, view: View) -> Result<(View, Vec<u64>)> {
        if let Some(heads) = self.paired_heads() {
            let shape = view.shape.clone();
            let half = rows(&view) / heads.saturating_mul(2);
            return Ok((view.split(0, &[heads, 2, half])?.swap(1, 2)?, shape));
        }
        let view = self.rearranged(view)?;
        let shape = view.shape.clone();
        Ok((view, shape))
    }

    fn rearranged(&self, view: View) -> Result<View> {
        match self.map {
            Map::Same | Map::Queries | Map::Keys | Map::Norm | Map::Stacked => Ok(view),
            Map::Positions => {
                let end = rows(&view);
                view.slice(0, self.skipped_positions()..end)
            }
            Map::Turned => self.turned(view),
            Map::Fused { which, turned, paired } => {
                let view = if turned { view.swap(1, 2)? } else { view };
                let all = view.shape.get(1).copied().unwrap_or(0);
                let half = all / 2;
                if half.checked_mul(2) != Some(all) {
                    return Err(Error::bad_input(format!(
                        "has {all} rows of gate and up, which is not an even number"
                    )));
                }
                match (paired, which) {
                    (true, which) => view.split(1, &[half, 2])?.at(2, which as u64),
                    (false, Which::Gate) => view.slice(1, 0..half),
                    (false, Which::Up) => view.slice(1, half..all),
                }
            }
            Map::LatentKeys | Map::LatentValues => {
                let (keys, values) = self.latent()?;
                let both = keys.saturating_add(values);
                let view = view.split(0, &[self.sizes.heads, both])?;
                match self.map {
                    Map::LatentKeys => view.slice(1, 0..keys)?.swap(1, 2),
                    _ => view.slice(1, keys..both),
                }
            }
        }
    }

    fn turned(&self, view: View) -> Result<View> {
        match view.shape.len() {
            _ if self.bias => Ok(view),
            n => view.swap(n.saturating_sub(2), n.saturating_sub(1)),
        }
    }

    /// A GGUF's tensor as pieces of a checkpoint's.
    pub(super) fn to_hf(self, view: View) -> Result<Back> {
        if let Some(heads) = self.paired_heads() {
            let shape = view.shape.clone();
            let half = rows(&view) / heads.saturating_mul(2);
            return Ok(Back { shape, ..Back::one(view.split(0, &[heads, half, 2])?.swap(1, 2)?) });
        }
        Ok(match self.map {
            Map::Same | Map::Queries | Map::Keys | Map::Norm => Back::one(view),
            Map::Positions => {
                let zero_rows = self.skipped_positions();
                let mut back = Back { zero_rows, ..Back::one(view) };
                if let Some(rows) = back.shape.first_mut() {
                    *rows = rows.saturating_add(zero_rows);
                }
                back
            }
            Map::Turned => Back::one(self.turned(view)?),
            Map::Stacked => {
                let shape = view.shape.get(1..).unwrap_or_default().to_vec();
                let pieces = (0..bounded(rows(&view))?)
                    .map(|e| Ok(Piece { expert: Some(e), place: 0, view: view.clone().at(0, e)? }))
                    .collect::<Result<_>>()?;
                Back { pieces, shape, zero_rows: 0 }
            }
            Map::Fused { which, turned, .. } => Self::unfused(view, which, turned)?,
            Map::LatentKeys | Map::LatentValues => {
                let (keys, values) = self.latent()?;
                let turned = self.map == Map::LatentKeys;
                let view = if turned { view.swap(1, 2)? } else { view };
                let latent = view.shape.last().copied().unwrap_or(0);
                let heads = bounded(rows(&view))?;
                let all = keys.checked_add(values).and_then(|n| n.checked_mul(heads));
                let pieces = (0..heads)
                    .map(|h| {
                        let place = h * 2 + u64::from(!turned);
                        Ok(Piece { expert: None, place, view: view.clone().at(0, h)? })
                    })
                    .collect::<Result<_>>()?;
                Back { pieces, shape: vec![all.ok_or_else(too_many)?, latent], zero_rows: 0 }
            }
        })
    }

    /// Gate or up, `[experts, out]` or `[experts, out, in]`, as one half of the tensor that holds both, which is
    /// `[experts, 2 × out(, in)]`, or turned. The halves are [`joined`] when both are there.
    fn unfused(view: View, which: Which, turned: bool) -> Result<Back> {
        let mut shape = view.shape.clone();
        let size = shape.get_mut(1).ok_or_else(|| {
            Error::bad_input(format!("has shape {:?}, where experts are needed", view.shape))
        })?;
        *size = size.checked_mul(2).ok_or_else(too_many)?;
        if turned && shape.len() > 2 {
            shape.swap(1, 2);
        }
        let pieces = vec![Piece { expert: None, place: which as u64, view }];
        Ok(Back { pieces, shape, zero_rows: 0 })
    }
}

/// Gate and up, each of `shape` (`[experts, out]` or `[experts, out, in]`) and one behind the other, as the tensor that
/// holds both: halves, or taking turns where they are paired.
pub(super) fn joined(shape: &[u64], turned: bool, paired: bool) -> Result<(Vec<u64>, View)> {
    let mut both = vec![2];
    both.extend(shape);
    // The dimensions are gate or up, experts, out, in.
    let order: &[usize] = match (shape.len(), turned, paired) {
        (2, _, false) => &[1, 0, 2],
        (2, _, true) => &[1, 2, 0],
        (_, false, false) => &[1, 0, 2, 3],
        (_, false, true) => &[1, 2, 0, 3],
        (_, true, false) => &[1, 3, 0, 2],
        (_, true, true) => &[1, 3, 2, 0],
    };
    let view = View::whole(&both)?.permuted(order)?;
    Ok((both, view))
}

fn rows(view: &View) -> u64 {
    view.shape.first().copied().unwrap_or(0)
}

fn too_many() -> Error {
    Error::bad_input("has a shape whose product overflows")
}

/// Too many parts for a plan.
pub(super) fn too_many_parts(count: u64) -> Error {
    Error::unsupported(format!(
        "would be put together from {} pieces, more than a plan holds ({})",
        grouped(count),
        grouped(PARTS_MAX)
    ))
    .detail("gate and up take turns in the checkpoint's form of these experts")
}

fn bounded(count: u64) -> Result<u64> {
    if count > PARTS_MAX { Err(too_many_parts(count)) } else { Ok(count) }
}
