//! Verifying: a forward pass over what was loaded, to show that it still computes what it should.

pub mod chat;
pub mod generate;
pub mod subject;
pub mod text;
pub mod weights;

use crate::error::Error;

/// An error of the tensor library. It has no cause that a user could name, unless memory ended.
pub(crate) fn candle(error: candle_core::Error) -> Error {
    Error::bug(format!("the forward pass failed: {error}"))
}
