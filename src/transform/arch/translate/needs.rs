//! What a family needs, held against what there is.

use super::names::{Side, biases, filled};
use crate::error::{Error, Result};
use crate::transform::arch::families::{Ends, Family, Need, Row, Sizes, Way};
use std::collections::HashMap;

/// Whether each layer has what it must have, and nothing is in some layers that belongs into all. `made` are the names
/// of the tensors that the values of `side` make, which are those of `target`.
pub(super) fn check(
    family: &'static Family,
    sizes: &Sizes,
    (side, target): (Side, Side),
    made: &HashMap<String, usize>,
    head_needed: bool,
) -> Result<()> {
    let other = match target {
        Side::Gguf => Way::Back,
        Side::Hf => Way::In,
    };
    let rows: Vec<&'static Row> = family.rows().filter(|row| row.way != other).collect();
    let needs = Needs { side, target, made, rows, experts: sizes.experts };
    needs.whole(head_needed)?;
    // Ends at the first layer that lacks something, so it is as long as there are tensors, whatever a config says.
    for layer in 0..sizes.layers {
        needs.layer(layer)?;
    }
    needs.alike(sizes)
}

struct Needs<'a> {
    /// What the values are.
    side: Side,
    target: Side,
    made: &'a HashMap<String, usize>,
    rows: Vec<&'static Row>,
    experts: Option<u64>,
}

impl Needs<'_> {
    fn has(&self, row: &Row, bias: bool, layer: Option<u64>) -> bool {
        self.has_expert(row, bias, layer, 0)
    }

    fn has_expert(&self, row: &Row, bias: bool, layer: Option<u64>, expert: u64) -> bool {
        self.made.contains_key(&filled(row, self.target, bias, layer, Some(expert)))
    }

    fn missing(&self, row: &Row, bias: bool, layer: Option<u64>) -> Error {
        let name = filled(row, self.side, bias, layer, Some(0));
        Error::bad_input(format!("the model has no tensor `{name}`"))
            .detail("the file is not whole, or the model is of another family than it says")
    }

    /// Tensors that the model has once.
    fn whole(&self, head_needed: bool) -> Result<()> {
        for row in self.rows.iter().filter(|row| !in_layers(row)) {
            let needed = match row.need {
                Need::Must => true,
                Need::Head => head_needed,
                _ => false,
            };
            if needed && !self.has(row, false, None) {
                let error = self.missing(row, false, None);
                return Err(match row.need {
                    Need::Head => {
                        error.hint("the config says that it is not the embedding: `tie_word_embeddings`")
                    }
                    _ => error,
                });
            }
            if needed && row.ends == Ends::Bias && !self.has(row, true, None) {
                return Err(self.missing(row, true, None));
            }
        }
        Ok(())
    }

    /// Tensors of one layer.
    fn layer(&self, layer: u64) -> Result<()> {
        let at = Some(layer);
        // Of each choice the set that the layer has.
        let mut chosen: [Option<u8>; 4] = [None; 4];
        for row in self.rows.iter().filter(|row| in_layers(row)) {
            let Need::OneOf { choice, set } = row.need else { continue };
            let Some(slot) = chosen.get_mut(usize::from(choice)) else { continue };
            if !self.has(row, false, at) || *slot == Some(set) {
                continue;
            }
            if slot.is_some() {
                let name = filled(row, self.target, false, at, Some(0));
                return Err(Error::bad_input(format!(
                    "layer {layer} has two forms of one part, and `{name}` is of the second"
                )));
            }
            *slot = Some(set);
        }
        for row in self.rows.iter().filter(|row| in_layers(row) && row.way == Way::Both) {
            let needed = match row.need {
                Need::Must => true,
                Need::OneOf { choice, set } => match chosen.get(usize::from(choice)) {
                    Some(Some(chosen)) => *chosen == set,
                    // Nothing of any set: the first is named.
                    _ => true,
                },
                _ => false,
            };
            for bias in biases(row.ends).filter(|&bias| !bias || row.ends == Ends::Bias) {
                if needed && !self.has(row, bias, at) {
                    return Err(self.missing(row, bias, at));
                }
                // Experts of one tensor each: GGUFs are met that have them apart, so none may be missing.
                let apart = needed && self.target == Side::Hf && row.hf.contains('@');
                for expert in 1..self.experts.filter(|_| apart).unwrap_or(0) {
                    if !self.has_expert(row, bias, at, expert) {
                        let name = filled(row, self.side, bias, at, None);
                        return Err(Error::bad_input(format!(
                            "the file has no expert {expert} for `{name}`"
                        )));
                    }
                }
            }
        }
        Ok(())
    }

    /// What may be there is in all layers or in none: engines ask once for the whole model.
    fn alike(&self, sizes: &Sizes) -> Result<()> {
        for row in self.rows.iter().filter(|row| in_layers(row) && row.way == Way::Both) {
            let bias = match (row.need, row.ends) {
                (_, Ends::MayBias) => true,
                (Need::May, _) => false,
                _ => continue,
            };
            let (mut with, mut without) = (false, None);
            for layer in 0..sizes.layers {
                let at = Some(layer);
                if bias && !self.has(row, false, at) {
                    continue;
                }
                match self.has(row, bias, at) {
                    true => with = true,
                    false => without = at,
                }
            }
            if with && without.is_some() {
                return Err(self.missing(row, bias, without).hint("other layers have it"));
            }
        }
        Ok(())
    }
}

fn in_layers(row: &Row) -> bool {
    row.gguf.contains('#')
}
