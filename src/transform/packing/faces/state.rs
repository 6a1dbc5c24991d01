//! The JSON in which bitsandbytes says how a matrix is held.

use super::super::{Formula, Packing, layouts};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::text::Shown;
use serde_json::Value as Json;

/// What the JSON says.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// `nf4` or `fp4`.
    pub quant_type: String,
    /// Neighbours that share a scale.
    pub block: u64,
    /// What numbers are rounded to.
    pub dtype: DType,
    /// The matrix's sizes.
    pub shape: Vec<u64>,
    /// Scales that share a scale.
    pub nested_block: Option<u64>,
    /// What is added to scales that are codes themselves.
    pub nested_offset: Option<f32>,
}

/// More is no state.
const STATE_BYTES_MAX: usize = 64 << 10;

impl State {
    /// That of a packing. `nested_offset` where its scales are quantised too.
    pub(super) fn of(packing: &Packing, nested_offset: Option<f32>) -> State {
        State {
            quant_type: if packing.layout.formula == Formula::Table(&layouts::FP4_TABLE) {
                "fp4"
            } else {
                "nf4"
            }
            .to_owned(),
            block: packing.group_columns,
            dtype: packing.dtype,
            shape: vec![packing.rows, packing.columns],
            nested_block: nested_offset.map(|_| super::NESTED_BLOCK),
            nested_offset,
        }
    }

    /// As Python's `json.dumps` writes it.
    pub(super) fn text(&self) -> String {
        let shape: Vec<String> = self.shape.iter().map(u64::to_string).collect();
        let nested = match (self.nested_block, self.nested_offset) {
            (Some(block), Some(offset)) => format!(
                ", \"nested_blocksize\": {block}, \"nested_dtype\": \"float32\", \"nested_offset\": {}",
                python_float(f64::from(offset))
            ),
            _ => String::new(),
        };
        format!(
            "{{\"quant_type\": \"{}\", \"blocksize\": {}, \"dtype\": \"{}\", \"shape\": [{}]{nested}}}",
            self.quant_type,
            self.block,
            self.dtype.facts().torch.unwrap_or("float32"),
            shape.join(", ")
        )
    }

    /// Reads it.
    ///
    /// # Errors
    /// `BadInput`: no JSON, or a key that is missing or of another kind.
    pub fn parse(bytes: &[u8]) -> Result<State> {
        let bad = |what: &str| Error::bad_input(format!("has a quantisation state {what}"));
        if bytes.len() > STATE_BYTES_MAX {
            return Err(bad(&format!("of {} bytes", bytes.len())));
        }
        let json: Json = serde_json::from_slice(bytes).map_err(|_| bad("that is no JSON"))?;
        let text = |key: &str| {
            json.get(key).and_then(Json::as_str).ok_or_else(|| bad(&format!("without text under `{key}`")))
        };
        let number = |key: &str| {
            let of = json.get(key).and_then(Json::as_u64);
            of.filter(|&n| n > 0).ok_or_else(|| bad(&format!("without a count under `{key}`")))
        };
        let sizes = json.get("shape").and_then(Json::as_array).filter(|s| s.len() <= 8);
        let shape = sizes.and_then(|s| s.iter().map(Json::as_u64).collect::<Option<Vec<u64>>>());
        let dtype = text("dtype")?;
        let nested_block = json.get("nested_blocksize").map(|_| number("nested_blocksize")).transpose()?;
        let nested_offset = json.get("nested_offset").and_then(Json::as_f64).map(|x| x as f32);
        if nested_block.is_some() != nested_offset.is_some() {
            return Err(bad("that has one of `nested_blocksize` and `nested_offset`"));
        }
        Ok(State {
            quant_type: text("quant_type")?.to_owned(),
            block: number("blocksize")?,
            dtype: DType::from_torch(dtype)
                .filter(|d| matches!(d, DType::F32 | DType::F16 | DType::BF16))
                .ok_or_else(|| bad(&format!("of dtype `{}`", Shown(dtype))))?,
            shape: shape.ok_or_else(|| bad("without a list of sizes under `shape`"))?,
            nested_block,
            nested_offset,
        })
    }
}

/// The shortest text that reads back as this number, as Python's `repr` spells it.
pub(super) fn python_float(x: f64) -> String {
    let magnitude = x.abs();
    if x == 0.0 || (1e-4..1e16).contains(&magnitude) {
        return format!("{x:?}");
    }
    let text = format!("{x:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, exponent) = match exponent.strip_prefix('-') {
                Some(rest) => ('-', rest),
                None => ('+', exponent),
            };
            format!("{digits}e{sign}{exponent:0>2}")
        }
        None => text,
    }
}
