//! Mixtures: which block type each tensor of a GGUF gets when a model is quantised, as llama-quantize decides it.

use crate::dtype::DType;

/// What llama.cpp calls a file type: a block type for most, and rules for the rest.
#[derive(Debug, PartialEq)]
pub struct Mixture {
    /// What it is called, in small letters.
    pub name: &'static str,
    /// `general.file_type`.
    pub file_type: u32,
    /// What a tensor gets that no rule names.
    pub dtype: DType,
}

/// Every mixture.
pub static MIXTURES: &[Mixture] = &[];

impl Mixture {
    /// The mixture of a name in small letters.
    pub fn find(name: &str) -> Option<&'static Mixture> {
        MIXTURES.iter().find(|m| m.name == name)
    }
}
