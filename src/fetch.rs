//! Fetching.

#[cfg(feature = "http")]
pub mod transfer;
