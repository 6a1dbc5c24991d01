//! Stand-in.
#![allow(missing_docs)]
use crate::error::{Error, Result};
use crate::run::job::Control;
use crate::source::ranged::{Policy, Ranged};
use sha2::Digest as _;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digest {
    Sha256([u8; 32]),
    GitSha1([u8; 20]),
}
#[derive(Debug, Clone)]
pub struct Item {
    pub from: Arc<dyn Ranged>,
    pub to: PathBuf,
    pub size_bytes: u64,
    pub expected: Option<Digest>,
}
#[derive(Debug, Clone)]
pub struct Options {
    pub connections_max: usize,
    pub files_max: usize,
    pub limit_bytes_per_second: Option<u64>,
    pub policy: Policy,
}
impl Default for Options {
    fn default() -> Options {
        Options { connections_max: 16, files_max: 8, limit_bytes_per_second: None, policy: Policy::default() }
    }
}
#[derive(Debug, Clone, Default)]
pub struct Totals {
    pub fetched_bytes: u64,
}
pub fn transfer(
    items: &[Item],
    _options: &Options,
    control: &Control,
    done: &(dyn Fn(usize, Digest) -> Result<()> + Sync),
) -> Result<Totals> {
    let stop = || control.is_stopped();
    let mut totals = Totals::default();
    for (i, item) in items.iter().enumerate() {
        let fail = |e| Error::io("cannot be written", e).file(item.to.display().to_string());
        let mut file = std::fs::File::create(&item.to).map_err(fail)?;
        let mut one = sha1::Sha1::new();
        let mut two = sha2::Sha256::new();
        one.update(format!("blob {}\0", item.size_bytes).as_bytes());
        let mut body = item.from.open(0..item.size_bytes, &stop)?;
        while let Some(piece) = body.next(&stop)? {
            file.write_all(&piece).map_err(fail)?;
            one.update(&piece);
            two.update(&piece);
            totals.fetched_bytes += piece.len() as u64;
            control.moved(piece.len() as u64);
        }
        file.sync_all().map_err(fail)?;
        let found = match item.expected {
            Some(Digest::GitSha1(_)) => Digest::GitSha1(one.finalize().into()),
            _ => Digest::Sha256(two.finalize().into()),
        };
        if item.expected.is_some_and(|e| e != found) {
            return Err(Error::new(crate::error::ErrorKind::Integrity, "differs").file(item.from.name()));
        }
        done(i, found)?;
    }
    Ok(totals)
}
