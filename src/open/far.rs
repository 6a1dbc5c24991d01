//! Models that lie beyond a network: from their URL to the place that they are read from. Nothing of them is stored.

use super::choose::is_weights_name;
use super::{Options, is_index};
use crate::error::{Error, ErrorKind, Result};
use crate::source::Place;
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
    let is_built = if is_web { cfg!(feature = "http") } else { cfg!(feature = "object") };
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

/// The network may not be used.
pub(super) fn offline(url: &str) -> Error {
    let shown = url.split('?').next().unwrap_or(url);
    Error::not_found("lies beyond the network, which may not be used (--offline, HF_HUB_OFFLINE)").file(shown)
}

#[cfg(feature = "http")]
fn on_the_web(url: &str, options: &Options) -> Result<Far> {
    use crate::source::http::place::UrlPlace;
    use crate::source::http::{Client, Timeouts, Url};
    use crate::source::ranged::Policy;
    let _ = options;
    let wrong = |_| Error::usage(format!("`{}` is no URL", Shown(url.split('?').next().unwrap_or(url))));
    let parsed = Url::parse(url).map_err(wrong)?;
    // A GGUF brings its config and its tokenizer along.
    let beside = if parsed.path().to_ascii_lowercase().ends_with(".gguf") { &[] } else { BESIDE };
    let place = UrlPlace::new(Client::new(Timeouts::default())?, parsed, beside, Policy::default())?;
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
        Some((url, wanted)) if super::locate::is_quantisation(wanted) && url.contains("://") => {
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
