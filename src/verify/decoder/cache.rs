//! What a decoder keeps of the tokens that have passed.

use crate::transform::arch::forward::Forward;
use crate::verify::stack::LayerCache;

/// Keys and values of each layer, and the tokens they belong to.
#[derive(Debug)]
pub struct Cache {
    pub(super) layers: Vec<LayerCache>,
    pub(super) ids: Vec<u32>,
}

impl Cache {
    /// An empty one for a model.
    pub fn new(forward: &Forward) -> Cache {
        Cache { layers: forward.layers.iter().map(|_| LayerCache::new()).collect(), ids: Vec::new() }
    }

    /// The tokens that have passed.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Forgets all tokens.
    pub fn clear(&mut self) {
        self.layers.iter_mut().for_each(|layer| *layer = LayerCache::new());
        self.ids.clear();
    }
}
