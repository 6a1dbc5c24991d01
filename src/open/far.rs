//! Models that lie beyond a network: from their URL to the place that they are read from. Nothing of them is stored.

use super::Options;
use super::choose::is_quantisation;
#[cfg(feature = "object")]
use super::{choose::is_weights_name, is_index};
#[cfg(feature = "object")]
use crate::error::ErrorKind;
use crate::error::{Error, Result};
use crate::source::hub::cache::Repo;
use crate::source::local::check_relative;
use crate::source::{Entry, Place, ReadAt, without_secrets};
use crate::text::Shown;
use std::sync::Arc;

/// A model far away.
#[derive(Debug)]
pub(super) struct Far {
    pub(super) place: Arc<dyn Place>,
    /// The file of the place that was named; else it is the whole place.
    pub(super) file: Option<String>,
    /// The model's short name.
    pub(super) name: String,
    /// `:Q4_K_M`.
    pub(super) quantisation: Option<String>,
    pub(super) commit: Option<String>,
}

/// Schemes that are known, whether or not this build reads them.
const SCHEMES: &[&str] =
    &["s3", "s3a", "gs", "gcs", "az", "azure", "abfs", "abfss", "adl", "http", "https", "oci", "r2"];

/// Whether models of this scheme lie beyond a network.
pub(super) fn is_far(scheme: &str) -> bool {
    SCHEMES.contains(&scheme)
}

/// What may lie beside a file on a web server: names that loaders look for. Others cannot be found there.
#[cfg(feature = "http")]
const BESIDE: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "preprocessor_config.json",
];

/// The place that a URL names.
///
/// # Errors
/// `NotFound`: nothing there, or the network may not be used. `Unsupported`: not in this build. What the network says.
pub(super) fn locate(scheme: &str, url: &str, options: &Options) -> Result<Far> {
    let is_web = matches!(scheme, "http" | "https");
    let feature = if is_web { "http" } else { "object" };
    let built = [("http", cfg!(feature = "http")), ("object", cfg!(feature = "object"))];
    let is_built = built.contains(&(feature, true));
    if matches!(scheme, "oci" | "r2") {
        return Err(Error::unsupported(format!("`{scheme}://` is no way in which hoist reads models"))
            .hint("R2 is read as S3: s3://bucket/folder with AWS_ENDPOINT_URL=https://ACCOUNT.r2.cloudflarestorage.com"));
    }
    if !is_built {
        return Err(Error::unsupported(format!("`{scheme}://` is not enabled in this build of hoist"))
            .hint(format!("a build with the cargo feature `{feature}` reads it")));
    }
    if options.offline {
        return Err(offline(url));
    }
    match is_web {
        true => on_the_web(url, options),
        false => in_store(url, options),
    }
}

/// A model of the hub: `org/name[@revision][/path][:QUANTISATION]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HubName {
    pub(super) repo: Repo,
    /// A file or a folder of the repo.
    pub(super) path: Option<String>,
    pub(super) quantisation: Option<String>,
}

impl HubName {
    /// Reads what follows `hf://`. A revision ends at `/`, but for the hub's own that have some: `refs/pr/1`,
    /// `refs/convert/parquet`; in others it is written `%2F`.
    pub(super) fn parse(text: &str) -> Result<HubName> {
        let wrong = || {
            Error::usage(format!("`hf://{}` names no model of the hub", Shown(text)))
                .hint("hf://org/name[@revision][/path][:QUANTISATION] is expected")
        };
        let (text, quantisation) = match text.rsplit_once(':') {
            Some((text, wanted)) if is_quantisation(wanted) => (text, Some(wanted.to_owned())),
            _ => (text, None),
        };
        let text = text.trim_end_matches('/');
        let mut parts = text.split('/');
        let mut id = parts.next().unwrap_or_default().to_owned();
        // The oldest repos have no org, and a revision behind them no path.
        if let Some(name) = parts.next() {
            if id.contains('@') {
                return Err(wrong());
            }
            id = format!("{id}/{name}");
        }
        let mut rest: Vec<&str> = parts.collect();
        if id.ends_with("@refs") && rest.len() >= 2 {
            id = format!("{id}/{}", rest.drain(..2).collect::<Vec<_>>().join("/"));
        }
        let repo = Repo::parse(&id.replace("%2F", "/").replace("%2f", "/")).ok_or_else(wrong)?;
        let path = rest.join("/");
        let path = if path.is_empty() && rest.is_empty() { None } else { Some(path) };
        if let Some(path) = &path {
            if path.split('/').any(str::is_empty) {
                return Err(wrong());
            }
            check_relative(path)?;
        }
        Ok(HubName { repo, path, quantisation })
    }
}

/// A client by the environment's settings: proxies, roots, deadlines.
#[cfg(feature = "http")]
fn client() -> Result<crate::source::http::Client> {
    use crate::source::http::{Client, settings::Settings};
    Client::with(&Settings::from_environment(|name| std::env::var_os(name))?)
}

/// A model of the hub, to be read by ranges; `None` where the network may not be used, or not by this build.
#[cfg(feature = "hub")]
pub(super) fn hub(named: &HubName, options: &Options) -> Result<Option<Far>> {
    use crate::source::hub::api::{Hub, Settings};
    use crate::source::hub::endpoint::Endpoint;
    use crate::source::hub::place::HubPlace;
    use crate::source::hub::token::is_offline;
    use crate::source::stop;
    let variable = |name: &str| std::env::var_os(name);
    if options.offline || is_offline(variable) {
        return Ok(None);
    }
    let mut settings = Settings::from_environment(options.token_file.as_deref(), variable)?;
    if let Some(endpoint) = &options.hub_endpoint {
        settings.endpoint = Endpoint::parse(endpoint)?;
    }
    let policy = settings.policy;
    let hub = Hub::new(client()?, settings);
    let HubName { repo, path, quantisation } = named;
    let commit = hub.commit(repo, &stop::is_set)?;
    let tree = hub.tree(repo, &commit, &stop::is_set)?;
    let is_file = path.as_ref().is_some_and(|path| tree.files.iter().any(|f| f.path == *path));
    let place = HubPlace::new(hub, repo.clone(), commit.as_str(), tree, policy);
    let place: Arc<dyn Place> = Arc::new(place.through(options.through.clone()));
    let far = |place: Arc<dyn Place>, file: Option<&str>, name: &str| Far {
        place,
        file: file.map(str::to_owned),
        name: name.to_owned(),
        quantisation: quantisation.clone(),
        commit: Some(commit.clone()),
    };
    let Some(path) = path else { return Ok(Some(far(place, None, &repo.id))) };
    let (folder, last) = path.rsplit_once('/').unwrap_or(("", path));
    let within = |folder: &str| -> Arc<dyn Place> {
        match folder {
            "" => Arc::clone(&place),
            folder => Arc::new(Folder { place: Arc::clone(&place), folder: folder.to_owned() }),
        }
    };
    Ok(Some(match is_file {
        true => far(within(folder), Some(last), last),
        false => far(within(path), None, last),
    }))
}

#[cfg(not(feature = "hub"))]
pub(super) fn hub(_: &HubName, _: &Options) -> Result<Option<Far>> {
    Ok(None)
}

/// A folder of a place, as a place.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) place: Arc<dyn Place>,
    pub(super) folder: String,
}

impl Place for Folder {
    fn list(&self, under: &str) -> Result<Vec<Entry>> {
        let under = match under {
            "" => self.folder.clone(),
            under => format!("{}/{under}", self.folder),
        };
        let prefix = format!("{}/", self.folder);
        let inner = |e: Entry| Some(Entry { name: e.name.strip_prefix(&prefix)?.to_owned(), ..e });
        Ok(self.place.list(&under)?.into_iter().filter_map(inner).collect())
    }

    fn open(&self, name: &str) -> Result<Arc<dyn ReadAt>> {
        check_relative(name)?;
        self.place.open(&format!("{}/{name}", self.folder))
    }
}

/// The network may not be used.
pub(super) fn offline(url: &str) -> Error {
    Error::not_found("lies beyond the network, which may not be used (--offline)").file(without_secrets(url))
}

#[cfg(feature = "http")]
fn on_the_web(url: &str, options: &Options) -> Result<Far> {
    use crate::source::http::Url;
    use crate::source::http::place::UrlPlace;
    use crate::source::ranged::Policy;
    let _ = options;
    let wrong = |_| Error::usage(format!("`{}` is no URL", Shown(&without_secrets(url))));
    let parsed = Url::parse(url).map_err(wrong)?;
    // A GGUF brings its config and its tokenizer along.
    let beside = if parsed.path().to_ascii_lowercase().ends_with(".gguf") { &[] } else { BESIDE };
    let place = UrlPlace::new(client()?, parsed, beside, Policy::default())?;
    let file = place.name().to_owned();
    Ok(Far { place: Arc::new(place), name: file.clone(), file: Some(file), quantisation: None, commit: None })
}

#[cfg(not(feature = "http"))]
fn on_the_web(url: &str, _: &Options) -> Result<Far> {
    Err(Error::bug(format!("`{}` is read without the feature for it", Shown(url))))
}

#[cfg(feature = "object")]
fn in_store(url: &str, options: &Options) -> Result<Far> {
    use crate::source::object::{Bucket, ObjectPlace, Settings};
    let (url, quantisation) = match url.rsplit_once(':') {
        Some((url, wanted)) if is_quantisation(wanted) && url.contains("://") => {
            (url, Some(wanted.to_owned()))
        }
        _ => (url, None),
    };
    let settings = Settings { options: options.store.clone(), ..Settings::default() };
    let (bucket, key) = Bucket::of_url(url, settings)?;
    let last = key.rsplit('/').next().unwrap_or_default().to_owned();
    let folder = key.strip_suffix(&last).unwrap_or_default().trim_end_matches('/').to_owned();
    let file = |place: ObjectPlace| Far {
        place: Arc::new(place),
        file: Some(last.clone()),
        name: last.clone(),
        quantisation: None,
        commit: None,
    };
    if quantisation.is_none() && (is_weights_name(&last) || is_index(&last)) {
        return Ok(file(ObjectPlace::new(bucket, folder)));
    }
    let place = ObjectPlace::new(bucket.clone(), key.as_str());
    if place.list("")?.is_empty() {
        // A file of another name than weights have.
        let beside = ObjectPlace::new(bucket.clone(), folder);
        return match if last.is_empty() { None } else { Some(beside.object(&last)) } {
            Some(Ok(_)) => Ok(file(beside)),
            Some(Err(e)) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Err(Error::not_found("no object of the store has a name that begins so").file(url)),
        };
    }
    let name = if last.is_empty() { bucket.name().to_owned() } else { last };
    Ok(Far { place: Arc::new(place), file: None, name, quantisation, commit: None })
}

#[cfg(not(feature = "object"))]
fn in_store(url: &str, _: &Options) -> Result<Far> {
    Err(Error::bug(format!("`{}` is read without the feature for it", Shown(url))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_hub() {
        type Row<'a> = (&'a str, Option<(&'a str, &'a str, Option<&'a str>, Option<&'a str>)>);
        let rows: &[Row<'_>] = &[
            ("o/n", Some(("o/n", "main", None, None))),
            ("o/n/", Some(("o/n", "main", None, None))),
            ("gpt2", Some(("gpt2", "main", None, None))),
            ("o/n@v1", Some(("o/n", "v1", None, None))),
            ("o/n@v1/a/b.gguf", Some(("o/n", "v1", Some("a/b.gguf"), None))),
            ("o/n@refs/pr/1", Some(("o/n", "refs/pr/1", None, None))),
            ("o/n@refs/pr/1/x", Some(("o/n", "refs/pr/1", Some("x"), None))),
            ("o/n@a%2Fb/x", Some(("o/n", "a/b", Some("x"), None))),
            ("o/n:Q4_K_M", Some(("o/n", "main", None, Some("Q4_K_M")))),
            ("o/n/sub:Q8_0", Some(("o/n", "main", Some("sub"), Some("Q8_0")))),
            ("o/n/../x", None),
            ("o/n//x", None),
            ("gpt2@v/x", None),
            ("../n", None),
            ("", None),
        ];
        for (text, expected) in rows {
            let got = HubName::parse(text).ok();
            let got = got.as_ref().map(|n| {
                (n.repo.id.as_str(), n.repo.revision.as_str(), n.path.as_deref(), n.quantisation.as_deref())
            });
            assert_eq!(got, *expected, "{text}");
        }
    }
}
