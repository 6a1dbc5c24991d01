//! hoist's model behind the same face.

use crate::Result;
use candle_core::{DType, Device};
use hoist::open;
use hoist::verify::decoder::{Cache, Decoder};
use hoist::verify::subject::Subject;
use hoist::verify::weights::{Hold, Weights};
use std::path::Path;

/// A model of hoist.
pub struct Ours {
    subject: Subject,
    weights: Weights,
    cache: Cache,
}

impl Ours {
    /// The model of a directory, held whole.
    pub fn load(model: &Path, dtype: DType) -> Result<Ours> {
        let name = model.to_str().ok_or("a name that is not UTF-8")?;
        let subject = Subject::of(open::open(name, &open::Options::default())?)?;
        let dtype = match dtype {
            DType::F32 => hoist::dtype::DType::F32,
            DType::BF16 => hoist::dtype::DType::BF16,
            _ => hoist::dtype::DType::F16,
        };
        let hold = Hold {
            dtype,
            device: Device::Cpu,
            memory_bytes: hoist::machine::available_memory_bytes().unwrap_or(u64::MAX),
            native: false,
            threads: None,
            stop: Default::default(),
        };
        let weights = Weights::new(&subject, hold)?;
        let cache = Cache::new(&subject.forward);
        Ok(Ours { subject, weights, cache })
    }

    /// Rows of its embedding.
    pub fn vocabulary(&self) -> u32 {
        self.subject.vocabulary() as u32
    }

    /// Logits of the last of `ids`, which stand behind `offset` that it has seen; 0 begins anew.
    pub fn last_logits(&mut self, ids: &[u32], offset: usize) -> Result<Vec<f32>> {
        if offset == 0 {
            self.cache.clear();
        }
        assert_eq!(self.cache.ids().len(), offset);
        let decoder = Decoder { forward: &self.subject.forward, weights: &self.weights };
        let hidden = decoder.pass(ids, &mut self.cache)?;
        let last = hidden.narrow(0, ids.len() - 1, 1)?;
        Ok(decoder.logits(&last, 0..decoder.vocabulary()?)?.flatten_all()?.to_vec1()?)
    }
}
