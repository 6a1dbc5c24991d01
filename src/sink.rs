//! Sinks: where bytes go.

#[cfg(feature = "cuda")]
pub mod cuda;
pub mod file;
pub mod host;
