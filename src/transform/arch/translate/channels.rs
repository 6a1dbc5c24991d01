//! Which tensors of a GGUF have the input channels of a checkpoint's matrix, in the same order. No element is looked at: names
//! and the kind of each row's map are enough, and both ways of reading a row count.

use super::names::{Hit, Index, Side, filled};
use crate::transform::arch::families::{Ends, Family, Map};

/// Dimensions of experts in one tensor.
const STACK_DIMS: usize = 3;

/// A family's matrices by name.
pub struct Channels {
    hf: Index,
    gguf: Index,
}

/// A matrix of a GGUF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    /// The tensor.
    pub name: String,
    /// Which of its matrices, where it is a stack and the checkpoint's tensor one of them.
    pub expert: Option<u64>,
}

impl std::fmt::Debug for Channels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channels").finish_non_exhaustive()
    }
}

impl Channels {
    /// Those of a family.
    pub fn new(family: &'static Family) -> Channels {
        let mut hf = Index::both_ways(family.rows(), Side::Hf);
        for (number, row) in family.rows().enumerate() {
            if row.ends == Ends::Bare && row.dims.len() == STACK_DIMS {
                let hit = Hit { row, number, bias: false };
                hf.add(&format!("{}.weight", row.single_name()), hit);
            }
        }
        Channels { hf, gguf: Index::both_ways(family.rows(), Side::Gguf) }
    }

    /// Whether a GGUF of the family may have a tensor of this name.
    pub fn has_gguf(&self, name: &str) -> bool {
        self.gguf.find(name).is_some()
    }

    /// Where a checkpoint's tensor is in a GGUF, each place once, those of today's files first. Nothing for vectors, and for
    /// what latent attention makes of a matrix there: other channels.
    pub fn in_gguf(&self, name: &str) -> Vec<Matrix> {
        let Some(found) = self.hf.find(name) else { return Vec::new() };
        let mut places: Vec<Matrix> = Vec::new();
        for hit in found.hits {
            let other = matches!(hit.row.map, Map::LatentKeys | Map::LatentValues | Map::Norm);
            if other || hit.bias || hit.row.dims.len() < 2 {
                continue;
            }
            let name = filled(hit.row, Side::Gguf, false, found.layer, found.expert);
            let expert = found.expert.filter(|_| hit.row.dims.len() == STACK_DIMS);
            let place = Matrix { name, expert };
            if place.name.ends_with(".weight") && !places.contains(&place) {
                places.push(place);
            }
        }
        places
    }
}
