//! Stand-in.
#![allow(missing_docs)]
use super::super::http::Client;
use super::super::ranged::{Ranged, Stop};
use super::cache::Repo;
use crate::error::{Error, Result};
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeFile {
    pub path: String,
    pub size_bytes: u64,
    pub blob_id: Option<String>,
    pub sha256: Option<String>,
    pub xet_hash: Option<String>,
}
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    pub files: Vec<TreeFile>,
    pub is_listed: bool,
}
#[derive(Debug, Clone, Default)]
pub struct Settings {}
#[derive(Debug, Clone)]
pub struct Hub {}
impl Hub {
    pub fn new(_client: Client, _settings: Settings) -> Hub {
        Hub {}
    }
    pub fn commit(&self, _repo: &Repo, _stop: Stop<'_>) -> Result<String> {
        Err(Error::unsupported("stand-in"))
    }
    pub fn tree(&self, _repo: &Repo, _commit: &str, _stop: Stop<'_>) -> Result<Tree> {
        Err(Error::unsupported("stand-in"))
    }
    pub fn file(&self, _repo: &Repo, _commit: &str, _file: &TreeFile) -> Arc<dyn Ranged> {
        unimplemented!()
    }
}
