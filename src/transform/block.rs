//! Placeholder until the real one is merged.
use crate::dtype::DType;
#[allow(missing_docs)]
pub fn can_decode(_: DType) -> bool {
    false
}
#[allow(missing_docs)]
pub fn can_encode(_: DType) -> bool {
    false
}
#[allow(missing_docs)]
pub fn decode(_: DType, _: &[u8], _: &mut [f32]) {}
#[allow(missing_docs)]
pub fn encode(_: DType, _: &[f32], _: &mut [u8]) {}
#[allow(missing_docs)]
pub fn decode_mx(_: &[u8], _: &[u8], _: &mut [f32]) {}
#[allow(missing_docs)]
pub fn repack_mx(_: &[u8], _: &[u8], _: &mut [u8]) {}
#[allow(missing_docs)]
pub fn scale(_: &mut [f32], _: u64, _: u64, _: u64, _: u64, _: &[f32]) {}
