//! Keys and values of tokens that have passed a layer.

use super::scores::View;
use crate::transform::arch::forward::Window;
use candle_core::{Result, Tensor};

/// Positions that a cache begins with and grows by at least.
const GROW_MIN: usize = 64;

/// Keys and values of one layer, `[batch · kv, positions, dim]` in 32 bits, in memory that doubles as they grow.
#[derive(Debug, Default)]
pub struct LayerCache {
    memory: Option<(Tensor, Tensor)>,
    /// Position of the first that is kept.
    first: usize,
    /// How many are kept.
    count: usize,
}

impl LayerCache {
    /// An empty one.
    pub fn new() -> LayerCache {
        LayerCache::default()
    }

    /// The position behind the last that is kept: where the next token stands.
    pub fn end(&self) -> usize {
        self.first + self.count
    }

    /// Adds keys and values of the tokens at the end; gives all that are kept, and the position of their first.
    pub(super) fn append(
        &mut self,
        k: &Tensor,
        v: &Tensor,
        window: Option<Window>,
    ) -> Result<(Tensor, Tensor, usize)> {
        let added = k.dim(1)?;
        let room = match &self.memory {
            Some((keys, _)) => keys.dim(1)?,
            None => 0,
        };
        if self.count + added > room {
            self.make_room(k, v, added, window)?;
        }
        let Some((keys, values)) = &self.memory else { candle_core::bail!("a cache without memory") };
        keys.slice_set(k, 1, self.count)?;
        values.slice_set(v, 1, self.count)?;
        self.count += added;
        Ok((keys.narrow(1, 0, self.count)?, values.narrow(1, 0, self.count)?, self.first))
    }

    /// New memory, with what a coming token still sees of the old.
    fn make_room(&mut self, k: &Tensor, v: &Tensor, added: usize, window: Option<Window>) -> Result<()> {
        let next = View { causal: true, window, query: 0, key: self.first, keys: self.count };
        let kept = next.seen(self.end());
        let old = kept.start.min(self.count)..self.count;
        let room = (old.len() + added).max(GROW_MIN / 2) * 2;
        let grown = |old_memory: Option<&Tensor>, like: &Tensor| -> Result<Tensor> {
            let (rows, _, dim) = like.dims3()?;
            let new = Tensor::zeros((rows, room, dim), like.dtype(), like.device())?;
            if let Some(memory) = old_memory
                && !old.is_empty()
            {
                new.slice_set(&memory.narrow(1, old.start, old.len())?.contiguous()?, 1, 0)?;
            }
            Ok(new)
        };
        let (keys, values) = match &self.memory {
            Some((keys, values)) => (grown(Some(keys), k)?, grown(Some(values), v)?),
            None => (grown(None, k)?, grown(None, v)?),
        };
        self.memory = Some((keys, values));
        self.first += old.start;
        self.count = old.len();
        Ok(())
    }
}
