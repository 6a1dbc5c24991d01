//! Texts side by side: cut to a length, padded on the right.

use crate::error::{Error, Result};
use crate::verify::candle;
use candle_core::{Device, Tensor};

/// Token ids of several texts, and the type of each token (0 for the first text of a pair, 1 for the second).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    ids: Vec<Vec<u32>>,
    types: Vec<Vec<u32>>,
}

/// A batch on its way through the layers.
#[derive(Debug, Clone)]
pub struct Running {
    /// The residual stream, `[texts, tokens, hidden]`.
    pub x: Tensor,
    /// `[texts, tokens]`, u8: 1 for a token, 0 for padding; `None` where nothing is padded.
    pub mask: Option<Tensor>,
    /// Tokens of each text.
    pub lengths: Vec<usize>,
}

impl Batch {
    /// Of texts with the types of their tokens; where a text has no types, they are 0.
    ///
    /// # Errors
    /// `Usage`: no text, a text of no tokens, types for another number of tokens.
    pub fn new(ids: Vec<Vec<u32>>, mut types: Vec<Vec<u32>>) -> Result<Batch> {
        if ids.is_empty() || ids.iter().any(Vec::is_empty) {
            return Err(Error::usage("a text of no tokens cannot be computed with"));
        }
        types.resize(ids.len(), Vec::new());
        for (ids, types) in ids.iter().zip(&mut types) {
            if types.is_empty() {
                types.resize(ids.len(), 0);
            }
            if types.len() != ids.len() {
                return Err(Error::usage(format!("{} types for {} tokens", types.len(), ids.len())));
            }
        }
        Ok(Batch { ids, types })
    }

    /// The same texts, none longer than `length`: what is too long loses tokens before its last one, which is where
    /// encoders have the token that ends a text (`ends`), or at its end. transformers does the same with single texts, and
    /// with pairs whose second text is the longer one even when it is cut.
    pub fn truncated(mut self, length: usize, ends: bool) -> Batch {
        let length = length.max(1);
        for row in self.ids.iter_mut().chain(&mut self.types) {
            if let (Some(&last), true) = (row.last(), row.len() > length) {
                row.truncate(length);
                if let (Some(end), true) = (row.last_mut(), ends) {
                    *end = last;
                }
            }
        }
        self
    }

    /// The ids and the types of each text, as they pass.
    pub fn into_rows(self) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
        (self.ids, self.types)
    }

    /// Texts.
    pub fn count(&self) -> usize {
        self.ids.len()
    }

    /// Tokens of the longest text.
    pub fn width(&self) -> usize {
        self.ids.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// Tokens of each text.
    pub fn lengths(&self) -> Vec<usize> {
        self.ids.iter().map(Vec::len).collect()
    }

    /// Ids and types, `[texts × tokens]`. Padding is token 0: it is seen by nobody, and every model has it.
    pub(super) fn padded(&self) -> (Vec<u32>, Vec<u32>) {
        let width = self.width();
        let pad = |rows: &[Vec<u32>]| {
            rows.iter().flat_map(|row| row.iter().copied().chain(std::iter::repeat(0)).take(width)).collect()
        };
        (pad(&self.ids), pad(&self.types))
    }

    /// `[texts, tokens]`, 1 for a token; `None` where all texts are equally long.
    pub(super) fn mask(&self, device: &Device) -> Result<Option<Tensor>> {
        let width = self.width();
        if self.ids.iter().all(|row| row.len() == width) {
            return Ok(None);
        }
        let mask: Vec<u8> =
            self.ids.iter().flat_map(|row| (0..width).map(|at| u8::from(at < row.len()))).collect();
        Tensor::from_vec(mask, (self.count(), width), device).map(Some).map_err(candle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_cut_and_padded() {
        let batch = Batch::new(vec![vec![1, 2, 3, 9], vec![4, 9]], vec![vec![0, 0, 1, 1]]).unwrap();
        assert_eq!(batch.padded(), (vec![1, 2, 3, 9, 4, 9, 0, 0], vec![0, 0, 1, 1, 0, 0, 0, 0]));
        let mask = batch.mask(&Device::Cpu).unwrap().unwrap();
        assert_eq!(mask.to_vec2::<u8>().unwrap(), [[1, 1, 1, 1], [1, 1, 0, 0]]);
        let cut = batch.clone().truncated(3, true);
        assert_eq!(cut.ids, [vec![1, 2, 9], vec![4, 9]]);
        assert_eq!(batch.truncated(2, false).ids, [vec![1, 2], vec![4, 9]]);
        for (ids, types) in [(vec![], vec![]), (vec![vec![]], vec![]), (vec![vec![1]], vec![vec![0, 0]])] {
            assert!(Batch::new(ids, types).is_err());
        }
    }
}
