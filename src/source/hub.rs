//! The Hugging Face hub. Its cache on disk is always readable; its protocol comes with the feature `hub`.

#[cfg(feature = "hub")]
pub mod api;
pub mod cache;
#[cfg(feature = "hub")]
pub mod endpoint;
#[cfg(feature = "hub")]
mod file;
#[cfg(feature = "hub")]
mod listing;
#[cfg(feature = "hub")]
pub mod place;
#[cfg(feature = "hub")]
mod refusal;
#[cfg(feature = "hub")]
mod route;
#[cfg(feature = "hub")]
pub mod token;
#[cfg(feature = "xet")]
mod xet;
