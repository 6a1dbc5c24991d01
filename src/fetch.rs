//! Fetching: the files of a repo into the cache that Python shares, or into a folder. Files, not tensors: this stands beside
//! the pipeline and shares its sources.
//!
//! One revision call pins the commit, one listing says what it holds; after that everything is told from disk. What is
//! needed is chosen from the listing (`fetch/choose.rs`), what is there already is found (`fetch/store.rs`), the rest is
//! moved in ranges and hashed on the way (`fetch/transfer.rs`), and gets its name when its hash is that of the listing. So
//! no two commits can mix, and a run that ends half-way leaves nothing that looks whole.

#[cfg(feature = "hub")]
pub mod choose;
#[cfg(feature = "hub")]
mod hash;
#[cfg(feature = "hub")]
pub mod inventory;
#[cfg(feature = "hub")]
pub mod origin;
#[cfg(feature = "hub")]
mod repo;
#[cfg(feature = "hub")]
mod store;
#[cfg(feature = "hub")]
pub mod tee;
#[cfg(feature = "http")]
pub mod transfer;
#[cfg(feature = "hub")]
pub mod wish;

#[cfg(feature = "hub")]
pub use repo::{Fetched, File, How, Options, fetch};
