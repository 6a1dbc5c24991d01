//! Sinks: where bytes go.

#[cfg(feature = "cuda")]
pub mod cuda;
pub mod device;
pub mod host;
