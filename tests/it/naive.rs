//! The slow, obvious twin of everything fast: one element at a time, straight from the definition.

use hoist::checkpoint::{ByteOrder, Tensor};
use hoist::dtype::Class;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A path under `testdata/`.
pub fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

/// The tensor's bytes, contiguous, little endian, with lazy conjugation and negation carried out.
pub fn materialise(file: &[u8], tensor: &Tensor) -> Vec<u8> {
    let facts = tensor.dtype.facts();
    let start = usize::try_from(tensor.at.span.offset_bytes).unwrap();
    let size = facts.block_bytes as usize;
    let mut out = Vec::new();
    let blocks = tensor.element_count() / u64::from(facts.block_elements);
    for n in 0..blocks {
        let place = match &tensor.at.strides {
            None => n,
            Some(strides) => {
                let mut rest = n;
                let mut place = 0;
                for (&dim, &stride) in tensor.shape.iter().zip(strides).rev() {
                    place += rest % dim * stride;
                    rest /= dim;
                }
                place
            }
        };
        let at = start + usize::try_from(place).unwrap() * size;
        let mut block = file[at..at + size].to_vec();
        if tensor.at.order == ByteOrder::Big {
            let mut field = 0;
            for &(width, count) in facts.fields {
                for _ in 0..count {
                    block[field..field + width as usize].reverse();
                    field += width as usize;
                }
            }
        }
        let flip_sign = |number: &mut [u8]| match facts.class {
            Class::Float | Class::Complex => *number.last_mut().unwrap() ^= 0x80,
            _ => {
                let mut wide = [0u8; 8];
                wide[..number.len()].copy_from_slice(number);
                let negated = u64::from_le_bytes(wide).wrapping_neg().to_le_bytes();
                number.copy_from_slice(&negated[..number.len()]);
            }
        };
        if tensor.at.conj {
            flip_sign(&mut block[size / 2..]);
        }
        if tensor.at.neg {
            let parts = if facts.class == Class::Complex { 2 } else { 1 };
            for part in block.chunks_mut(size / parts) {
                flip_sign(part);
            }
        }
        out.extend(block);
    }
    out
}

/// SHA-256 in hex.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// What another reader said of one tensor.
#[derive(Debug, PartialEq, Eq)]
pub struct Golden {
    pub dtype: String,
    pub shape: Vec<u64>,
    pub sha256: String,
}

/// `testdata/golden/NAME.json`: file → tensor → what the Python original read from it.
/// The JSON is `{"versions": {…}, "files": {"torch/x.pt": {"tensors": {"w": {"dtype": "float32", "shape": [2, 3], "sha256": "…"}}}}}`,
/// dtypes by hoist's names, bytes contiguous and little endian.
pub fn goldens(name: &str) -> BTreeMap<String, BTreeMap<String, Golden>> {
    let path = testdata(&format!("golden/{name}.json"));
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let text = |v: &serde_json::Value| v.as_str().unwrap().to_string();
    let mut files = BTreeMap::new();
    for (file, facts) in json["files"].as_object().unwrap() {
        let mut tensors = BTreeMap::new();
        for (tensor, g) in facts["tensors"].as_object().unwrap() {
            let shape = g["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).collect();
            tensors.insert(
                tensor.clone(),
                Golden { dtype: text(&g["dtype"]), shape, sha256: text(&g["sha256"]) },
            );
        }
        files.insert(file.clone(), tensors);
    }
    files
}
