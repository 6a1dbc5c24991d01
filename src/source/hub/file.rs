//! A file of the hub at a commit: what answers for it must say, and what refusals mean.

use super::super::http::Response;
use super::super::http::remote::Facts;
use super::cache::Repo;
use super::endpoint::Endpoint;
use super::listing::{TreeFile, is_hex};
use super::refusal::{About, explain};
use crate::error::{Error, ErrorKind, Result};
use crate::text::{Shown, grouped};

/// What is known of a file.
#[derive(Debug)]
pub(super) struct HubFile {
    pub(super) endpoint: Endpoint,
    pub(super) repo: Repo,
    pub(super) commit: String,
    pub(super) file: TreeFile,
    pub(super) has_token: bool,
}

impl Facts for HubFile {
    fn check(&self, answer: &Response) -> Result<()> {
        let commit = answer.header("x-repo-commit").filter(|c| !c.is_empty());
        if let Some(found) = commit.filter(|c| *c != self.commit) {
            let message = format!(
                "the repo changed: `{}` sent commit `{}` where `{}` was asked for",
                answer.host(),
                Shown(found),
                self.commit
            );
            return Err(Error::new(ErrorKind::Integrity, message)
                .hint("begin again; --revision with a commit stays with that commit"));
        }
        let size = answer.header("x-linked-size").and_then(|s| s.parse::<u64>().ok());
        if let Some(size) = size.filter(|s| *s != self.file.size_bytes) {
            let (found, listed) = (grouped(size), grouped(self.file.size_bytes));
            return Err(differs(&format!("size is {found} where the listing says {listed}")));
        }
        let digest = digest_of(answer, commit.is_some());
        let expected = match digest.as_deref().map(str::len) {
            Some(64) => &self.file.sha256,
            // A file of Git LFS has the id of its pointer in the listing.
            Some(40) if self.file.sha256.is_none() => &self.file.blob_id,
            _ => &None,
        };
        match (digest, expected) {
            (Some(found), Some(listed)) if found != *listed => {
                Err(differs(&format!("hash is `{found}` where the listing says `{listed}`")))
            }
            _ => Ok(()),
        }
    }

    fn version(&self) -> Option<&str> {
        // What a mirror has no hash of is at least of one commit.
        self.file.sha256.as_deref().or(self.file.blob_id.as_deref()).or(Some(&self.commit))
    }

    fn refused(&self, answer: &Response) -> Error {
        let HubFile { endpoint, repo, file, has_token, .. } = self;
        explain(answer, &About { endpoint, repo, file: Some(&file.path), has_token: *has_token })
    }
}

fn differs(what: &str) -> Error {
    Error::new(ErrorKind::Integrity, format!("the file's {what}"))
        .hint("begin again; if it stays so, the mirror mixes commits")
}

/// The digest that an answer of the hub gives of the file: `X-Linked-Etag`, else the `ETag` of an answer that is the file
/// and not a redirect. Tags of other servers are whatever they like: of those only a SHA-256 can be meant.
pub(super) fn digest_of(answer: &Response, is_hub: bool) -> Option<String> {
    let tag = |name: &str| {
        let text = answer.header(name)?;
        let text = text.strip_prefix("W/").unwrap_or(text).trim_matches('"');
        (is_hex::<64>(text) || is_hex::<40>(text)).then(|| text.to_ascii_lowercase())
    };
    let own = || tag("etag").filter(|t| answer.status() < 300 && (is_hub || t.len() == 64));
    tag("x-linked-etag").or_else(own)
}
