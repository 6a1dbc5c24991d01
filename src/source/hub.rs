//! The Hugging Face hub. Its cache on disk is always readable; its protocol comes with `fetch`.

#[cfg(feature = "hub")]
pub mod api;
pub mod cache;
