//! The hub's protocol: which commit a revision is, what files it has, and their bytes by ranges. One call for the revision,
//! one listing, one resolve for each file.
//!
//! # What hf-hub serves, and what it does not
//! The crate hf-hub 1.0 speaks the same protocol, and brings a Xet transport (why that one is our own too is said there).
//! The calls below are our own, because of what it does (read in its source, 1.0.0):
//! - no deadline: its clients are built without time-outs, and a server that says nothing holds a call for ever;
//! - a wait between attempts that knows neither `Retry-After` nor `RateLimit`, five retries within seconds: a rate limit
//!   of minutes ends a fetch;
//! - the next page of a listing is asked for at whatever address the answer names, with the token, and without an end to
//!   pages or bytes: behind a mirror that leads past the mirror, and a hostile one gets the token elsewhere;
//! - paths, ids and hashes are taken as they come; checks are left to the caller;
//! - each range of a file is a HEAD and a GET of the hub itself, which counts requests; and a file that Xet holds is
//!   always read by Xet;
//! - reqwest's own redirects, proxies and roots of trust, whose rules cannot be set from outside but by a client that
//!   serves only part of its calls.

pub use super::listing::{Tree, TreeFile};

use super::super::http::redirect::{Home, Next, follow};
use super::super::http::remote::Remote;
use super::super::http::{Client, Method, Request, Response, Secret, Url};
use super::super::ranged::{Patience, Policy, Ranged, Stop};
use super::cache::{Repo, is_commit};
use super::endpoint::Endpoint;
use super::file::{HubFile, digest_of};
use super::listing::{self, Files};
use super::refusal::{About, explain};
use super::route::{Lack, Routed};
use super::token;
#[cfg(feature = "xet")]
use super::xet::Xet;
use crate::error::{Error, ErrorKind, Result};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

/// The most bytes of one answer, and of all pages of a listing.
const ANSWER_BYTES_MAX: usize = 8 << 20;
const LISTING_BYTES_MAX: usize = 64 << 20;

/// The most pages and files of a listing.
const PAGES_MAX: usize = 1000;
const FILES_MAX: usize = 100_000;

/// The most files whose size is asked for one by one.
const UNLISTED_MAX: usize = 5000;

/// How a hub is used.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it is.
    pub endpoint: Endpoint,
    /// The token, for the endpoint's scheme, host and port.
    pub token: Option<Secret>,
    /// How often its calls are tried.
    pub policy: Policy,
    /// Whether files may come by Xet where plain HTTP does not serve them.
    pub may_use_xet: bool,
}

impl Settings {
    /// What the environment says; `token_file` goes before its tokens.
    ///
    /// # Errors
    /// As [`Endpoint::parse`] and [`token::find`].
    pub fn from_environment(
        token_file: Option<&Path>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Settings> {
        Ok(Settings {
            endpoint: Endpoint::from_environment(&variable)?,
            token: token::find(token_file, &variable)?,
            policy: Policy::default(),
            may_use_xet: !token::is_truthy("HF_HUB_DISABLE_XET", &variable),
        })
    }
}

/// A hub. Cheap to copy; for any number of threads.
#[derive(Debug, Clone)]
pub struct Hub {
    client: Client,
    settings: Arc<Settings>,
}

/// What a call of the API answered.
struct Answer {
    body: Vec<u8>,
    link: Option<String>,
}

impl Hub {
    /// The hub of these settings.
    pub fn new(client: Client, settings: Settings) -> Hub {
        Hub { client, settings: Arc::new(settings) }
    }

    /// Where it is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.settings.endpoint
    }

    /// The token that it is asked with.
    pub fn token(&self) -> Option<&Secret> {
        self.settings.token.as_ref()
    }

    /// Whether it is asked with a token.
    pub fn has_token(&self) -> bool {
        self.settings.token.is_some()
    }

    /// The commit of the repo's revision; without a call where the revision is one.
    ///
    /// # Errors
    /// `NotFound`: no such repo or revision. `NotAllowed`: private, gated, disabled, a bad token. `RateLimited`, `Io`:
    /// after the retries of the settings. `BadInput`: an answer that is none.
    pub fn commit(&self, repo: &Repo, stop: Stop<'_>) -> Result<String> {
        if is_commit(&repo.revision) {
            return Ok(repo.revision.clone());
        }
        let url = self.settings.endpoint.revision(&repo.id, &repo.revision);
        let answer = self.get(&url, repo, stop)?.map_err(|refused| refused.error)?;
        Ok(listing::revision(&answer.body).map_err(|e| e.file(repo.id.clone()))?.0)
    }

    /// The files of a commit.
    ///
    /// # Errors
    /// As [`Hub::commit`]. `BadInput`: a listing that is refused.
    pub fn tree(&self, repo: &Repo, commit: &str, stop: Stop<'_>) -> Result<Tree> {
        self.listed(repo, commit, stop).map_err(|e| e.file(repo.id.clone()))
    }

    fn listed(&self, repo: &Repo, commit: &str, stop: Stop<'_>) -> Result<Tree> {
        let mut url = self.settings.endpoint.tree(&repo.id, commit);
        let mut files = Files::default();
        let mut been = BTreeSet::new();
        let mut bytes = 0usize;
        loop {
            let answer = match self.get(&url, repo, stop)? {
                Ok(answer) => answer,
                Err(refused) if refused.is_no_route && been.is_empty() => {
                    return self.unlisted(repo, commit, stop);
                }
                Err(refused) => return Err(refused.error),
            };
            bytes = bytes.saturating_add(answer.body.len());
            let count = files.page(&answer.body)?;
            let Some(next) = answer.link.as_deref().and_then(next_query) else { break };
            if !been.insert(next.clone()) || count == 0 {
                return Err(Error::bad_input("the hub's listing goes in a circle"));
            }
            if been.len() >= PAGES_MAX || files.files.len() > FILES_MAX || bytes > LISTING_BYTES_MAX {
                let message = format!("the hub's listing does not end: {} files so far", files.files.len());
                return Err(Error::bad_input(message));
            }
            // The page is asked of the endpoint, whatever host the link names: a mirror repeats the hub's links.
            url.set_query(Some(&next));
        }
        if files.is_flat() {
            // What a redirect to a renamed repo leads to, where it drops the question's second half.
            return Err(Error::bad_input("the hub's listing leaves out what is in folders")
                .hint("if the repo was renamed, use its new name"));
        }
        Ok(Tree { files: files.files, is_listed: true })
    }

    /// The files of a commit at a mirror that has no listings: names from the revision call, with what it says of them;
    /// for the rest, a call each.
    fn unlisted(&self, repo: &Repo, commit: &str, stop: Stop<'_>) -> Result<Tree> {
        let mut url = self.settings.endpoint.revision(&repo.id, commit);
        url.set_query(Some("blobs=true"));
        let answer = self.get(&url, repo, stop)?.map_err(|refused| refused.error)?;
        let (found, named) = listing::revision(&answer.body)?;
        if found != commit {
            let message =
                format!("the repo changed: the mirror answers for `{found}` where `{commit}` was asked for");
            return Err(Error::new(ErrorKind::Integrity, message).hint("begin again"));
        }
        if named.len() > UNLISTED_MAX {
            let message =
                format!("the mirror has no listing, and {} files to ask for one by one", named.len());
            return Err(Error::unsupported(message).hint("HF_ENDPOINT names another mirror"));
        }
        let mut files = Files::default();
        for mut file in named {
            let size_bytes = match file.size_bytes {
                Some(size) => size,
                None => {
                    let (size, sha256) = self.head(repo, commit, &file.path, stop)?;
                    file.sha256 = file.sha256.or(sha256);
                    size
                }
            };
            let listing::Named { path, blob_id, sha256, .. } = file;
            files.add(TreeFile { path, size_bytes, blob_id, sha256, xet_hash: None })?;
        }
        let is_listed = files.files.iter().all(|f| f.sha256.is_some() || f.blob_id.is_some());
        Ok(Tree { is_listed: is_listed && !files.files.is_empty(), files: files.files })
    }

    /// A file's bytes by ranges. Answers that speak of another commit, size or hash are errors of kind `Integrity`.
    /// `Unsupported`: neither plain HTTP nor Xet serves it; why not the latter is said.
    pub fn file(&self, repo: &Repo, commit: &str, file: &TreeFile) -> Arc<dyn Ranged> {
        let Settings { endpoint, token, .. } = &*self.settings;
        let facts = HubFile {
            endpoint: endpoint.clone(),
            repo: repo.clone(),
            commit: commit.to_owned(),
            file: file.clone(),
            has_token: token.is_some(),
        };
        let name = format!("{}/{}", repo.id, file.path);
        let url = endpoint.resolve(&repo.id, commit, &file.path);
        let remote = Remote::new(self.client.clone(), name, url, token.clone(), file.size_bytes);
        Arc::new(Routed::new(remote.with_facts(Arc::new(facts)), self.by_xet(repo, commit, file)))
    }

    /// The file in the Xet store.
    #[cfg(feature = "xet")]
    fn by_xet(
        &self,
        repo: &Repo,
        commit: &str,
        file: &TreeFile,
    ) -> std::result::Result<Box<dyn Ranged>, Lack> {
        if !self.settings.may_use_xet {
            return Err(Lack::Wish);
        }
        let hash = file.xet_hash.clone().ok_or(Lack::Hash)?;
        let url = self.settings.endpoint.xet_token(&repo.id, commit);
        let is_https = url.scheme() == "https";
        let (hub, of) = (self.clone(), repo.clone());
        let ask = move |stop: Stop<'_>| {
            let answer = hub.get_once(&url, &of, stop)?.map_err(|refused| refused.error)?;
            Ok(answer.body)
        };
        let name = format!("{}/{}", repo.id, file.path);
        let client = self.client.clone();
        Ok(Box::new(Xet::new(client, &name, hash, file.size_bytes, is_https, Box::new(ask))))
    }

    #[cfg(not(feature = "xet"))]
    fn by_xet(&self, _: &Repo, _: &str, file: &TreeFile) -> std::result::Result<Box<dyn Ranged>, Lack> {
        Err(match file.xet_hash {
            _ if !self.settings.may_use_xet => Lack::Wish,
            Some(_) => Lack::Feature,
            None => Lack::Hash,
        })
    }

    fn home(&self) -> Home {
        Home { url: self.settings.endpoint.url().clone(), token: self.settings.token.clone() }
    }

    fn about<'a>(&'a self, repo: &'a Repo, file: Option<&'a str>) -> About<'a> {
        About { endpoint: &self.settings.endpoint, repo, file, has_token: self.has_token() }
    }

    /// Tries until it succeeds, or has failed for good.
    fn patiently<T>(&self, stop: Stop<'_>, mut once: impl FnMut() -> Result<T>) -> Result<T> {
        let mut patience = Patience::new(self.settings.policy);
        loop {
            match once() {
                Ok(done) => return Ok(done),
                Err(error) => patience.wait(error, stop)?,
            }
        }
    }

    /// A call of the API, with its retries. What is refused for good is the inner error.
    fn get(&self, url: &Url, repo: &Repo, stop: Stop<'_>) -> Result<std::result::Result<Answer, Refused>> {
        self.patiently(stop, || self.get_once(url, repo, stop)).map_err(|e| e.file(repo.id.clone()))
    }

    /// The same, in one attempt.
    fn get_once(
        &self,
        url: &Url,
        repo: &Repo,
        stop: Stop<'_>,
    ) -> Result<std::result::Result<Answer, Refused>> {
        let look = &mut |_: &Response| Ok(Next::Follow);
        let answer = follow(&self.client, &Request::get(url), &self.home(), look, stop)?;
        if answer.status() == 200 {
            let link = answer.header("link").map(str::to_owned);
            return Ok(Ok(Answer { body: answer.small(ANSWER_BYTES_MAX, stop)?, link }));
        }
        let error = explain(&answer, &self.about(repo, None)).file(repo.id.clone());
        if error.kind().is_worth_a_retry() {
            return Err(error);
        }
        // A hub names what it does not find; who has no such route does not know the code.
        let is_no_route = matches!(answer.status(), 404 | 405) && answer.header("x-error-code").is_none();
        Ok(Err(Refused { error, is_no_route }))
    }

    /// A file's size, and its SHA-256 where the hub says it.
    fn head(&self, repo: &Repo, commit: &str, path: &str, stop: Stop<'_>) -> Result<(u64, Option<String>)> {
        let url = self.settings.endpoint.resolve(&repo.id, commit, path);
        let home = self.home();
        let once = || {
            let mut linked: Option<u64> = None;
            let mut sha256 = None;
            let mut look = |answer: &Response| {
                if home.has(answer.url()) && answer.status() < 400 {
                    linked = answer.header("x-linked-size").and_then(|s| s.parse().ok());
                    sha256 = digest_of(answer, true).filter(|digest| digest.len() == 64).or(sha256.take());
                }
                Ok(if linked.is_some() { Next::Stay } else { Next::Follow })
            };
            let request = Request { method: Method::HEAD, ..Request::get(&url) };
            let answer = follow(&self.client, &request, &home, &mut look, stop)?;
            if answer.status() >= 400 {
                return Err(explain(&answer, &self.about(repo, Some(path))));
            }
            let size = linked.or_else(|| answer.content_length());
            let size = size.ok_or_else(|| {
                Error::unsupported(format!("`{}` does not tell the size of the file", answer.host()))
            })?;
            Ok((size, sha256))
        };
        self.patiently(stop, once).map_err(|e| e.file(format!("{}/{path}", repo.id)))
    }
}

/// A refusal for good.
struct Refused {
    error: Error,
    /// The server does not know such calls at all.
    is_no_route: bool,
}

/// The query of the link to the next page, from a header like `<https://host/path?cursor=x>; rel="next"`.
fn next_query(link: &str) -> Option<String> {
    let mut rest = link;
    while let Some((_, after)) = rest.split_once('<') {
        let (target, after) = after.split_once('>')?;
        let (parameters, more) =
            after.split_once(",<").or_else(|| after.split_once(", <")).unwrap_or((after, ""));
        let is_next = parameters.split(';').any(|p| {
            let value = p.trim().strip_prefix("rel=").unwrap_or_default().trim_matches('"');
            value.split(' ').any(|relation| relation.eq_ignore_ascii_case("next"))
        });
        if is_next {
            let (_, query) = target.split_once('?')?;
            return Some(query.split('#').next().unwrap_or_default().to_owned());
        }
        // What was split off began with it.
        rest = if more.is_empty() { "" } else { &after[after.len() - more.len() - 1..] };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read() {
        for (link, expected) in [
            ("<https://h/p?cursor=a%3D%3D&limit=2>; rel=\"next\"", Some("cursor=a%3D%3D&limit=2")),
            ("</p?a=1>; rel=next", Some("a=1")),
            ("<https://h/p?b>; rel=\"prev\", <https://h/p?c=1,2>; title=x; rel=\"next\"", Some("c=1,2")),
            ("<https://h/p?b>; rel=\"prev\",<https://h/p?c>; rel=\"next last\"", Some("c")),
            ("<https://h/p?b>; rel=\"prev\"", None),
            ("<https://h/p>; rel=\"next\"", None),
            ("<https://h/p?b; rel=\"next\"", None),
            ("", None),
            ("<<>>,<é", None),
        ] {
            assert_eq!(next_query(link).as_deref(), expected, "{link}");
        }
    }
}
