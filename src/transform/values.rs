//! Stub.
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::transform::recipe::{LeftOut, Value};

/// What a table's tensors mean.
#[derive(Debug, Clone, Default)]
pub struct Values {
    /// The values, in the table's order.
    pub values: Vec<Value>,
    /// Tensors that are no value.
    pub left_out: Vec<LeftOut>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// What the tensors of a table mean.
pub fn values(table: &Checkpoint, _config: Option<&serde_json::Value>) -> Result<Values> {
    Ok(Values { values: raw(table), ..Values::default() })
}

/// Each tensor as it is.
pub fn raw(table: &Checkpoint) -> Vec<Value> {
    (0..table.tensors.len()).map(|i| Value::of(table, i)).collect()
}
