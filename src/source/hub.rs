//! The Hugging Face hub. Its cache on disk is always readable; its protocol comes with `fetch`.

pub mod cache;
