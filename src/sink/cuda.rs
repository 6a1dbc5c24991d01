//! (placeholder)
pub mod driver;
