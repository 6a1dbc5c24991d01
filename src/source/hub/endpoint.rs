//! Where the hub is, and the addresses of what it has. An endpoint may be a mirror, and may have a path.

use super::super::http::{Url, host};
use super::cache::Repo;
use crate::error::{Error, Result};
use crate::text::Shown;
use std::ffi::OsString;

/// The hub's own.
const HUB: &str = "https://huggingface.co";

/// Where a hub is.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    url: Url,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.host())
    }
}

impl Endpoint {
    /// Reads `https://host[:port][/path]`, with or without a `/` at its end.
    ///
    /// # Errors
    /// `Usage`: no address of a web server; one with a user, a query or a fragment.
    pub fn parse(text: &str) -> Result<Endpoint> {
        let refused = |what: &str| {
            Error::usage(format!("the endpoint {what}"))
                .hint("HF_ENDPOINT names a hub or a mirror of it, as https://huggingface.co")
        };
        let Ok(url) = Url::parse(text.trim()) else {
            return Err(refused(&format!("`{}` is no address", Shown(text))));
        };
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(refused("begins with neither `http://` nor `https://`"));
        }
        // Not shown: it may be a password.
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refused("has a user or a password in it"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(refused("has a `?` or a `#` in it"));
        }
        Ok(Endpoint { url })
    }

    /// What `HF_ENDPOINT` says, else the hub.
    ///
    /// # Errors
    /// As [`Endpoint::parse`].
    pub fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> Result<Endpoint> {
        match variable("HF_ENDPOINT").filter(|v| !v.is_empty()) {
            Some(value) => Endpoint::parse(&value.to_string_lossy()),
            None => Endpoint::parse(HUB),
        }
    }

    /// Its address: the token goes to this scheme, host and port only.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Its host, for messages.
    pub fn host(&self) -> String {
        host(&self.url)
    }

    /// The address below the endpoint that has these parts; each is escaped, `/` within it too.
    fn below<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.url.clone();
        // Addresses of web servers always have segments.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(parts);
        }
        url
    }

    /// What the repo's revision stands for.
    pub fn revision(&self, id: &str, revision: &str) -> Url {
        self.below(["api", "models"].into_iter().chain(id.split('/')).chain(["revision", revision]))
    }

    /// The listing of a commit.
    pub fn tree(&self, id: &str, commit: &str) -> Url {
        let parts = ["api", "models"].into_iter().chain(id.split('/')).chain(["tree", commit]);
        let mut url = self.below(parts);
        url.set_query(Some("recursive=true&expand=false"));
        url
    }

    /// A file at a commit. The path is checked: no empty part, no dots.
    pub fn resolve(&self, id: &str, commit: &str, path: &str) -> Url {
        self.below(id.split('/').chain(["resolve", commit]).chain(path.split('/')))
    }

    /// What opens the Xet store for a commit's files.
    #[cfg(feature = "xet")]
    pub(super) fn xet_token(&self, id: &str, commit: &str) -> Url {
        self.below(["api", "models"].into_iter().chain(id.split('/')).chain(["xet-read-token", commit]))
    }

    /// The page that people look at.
    pub fn page(&self, repo: &Repo) -> String {
        self.below(repo.id.split('/')).to_string()
    }

    /// The page on which tokens are made.
    pub fn tokens_page(&self) -> String {
        self.below(["settings", "tokens"]).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let c = "c";
        for (endpoint, id, revision, expected) in [
            ("https://huggingface.co", "a/b", "main", "https://huggingface.co/api/models/a/b/revision/main"),
            ("http://x:80/", "gpt2", "refs/pr/1", "http://x/api/models/gpt2/revision/refs%2Fpr%2F1"),
            (
                "https://x:8443/hub/",
                "a/b",
                "v1 %?#",
                "https://x:8443/hub/api/models/a/b/revision/v1%20%25%3F%23",
            ),
            ("https://x/hub//", "a/b", "é", "https://x/hub//api/models/a/b/revision/%C3%A9"),
        ] {
            assert_eq!(Endpoint::parse(endpoint).unwrap().revision(id, revision).as_str(), expected);
        }
        let endpoint = Endpoint::parse("https://x/hub").unwrap();
        assert_eq!(
            endpoint.resolve("a/b", c, "d/e f?.bin").as_str(),
            "https://x/hub/a/b/resolve/c/d/e%20f%3F.bin"
        );
        assert_eq!(
            endpoint.resolve("a/b", c, "%2e%2e/x").as_str(),
            "https://x/hub/a/b/resolve/c/%252e%252e/x"
        );
        assert_eq!(
            endpoint.tree("a/b", c).as_str(),
            "https://x/hub/api/models/a/b/tree/c?recursive=true&expand=false"
        );
        for bad in
            ["", "huggingface.co", "ftp://x", "https://", "https://u:hunter2@x", "https://x/?a", "file:///x"]
        {
            let error = Endpoint::parse(bad).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Usage, "{bad}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }
}
