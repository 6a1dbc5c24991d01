//! What `hoist fetch` takes that is of no hub: the objects of a store below a name, one file of a web server. They are listed
//! here, before anything moves.

use hoist::fetch::origin::{Objects, Origin};
use hoist::fetch::wish::Wish;
use hoist::source::http::place::UrlPlace;
use hoist::source::http::{self, Client, Url};
use hoist::source::object::{Bucket, ObjectPlace, Settings, is_store};
use hoist::source::ranged::{Policy, Ranged};
use hoist::source::without_secrets;
use hoist::text::Shown;
use hoist::{Error, Result};
use std::sync::Arc;

/// Whether a MODEL is of a store or of a web server.
pub(super) fn is_far(model: &str) -> bool {
    model.split_once("://").is_some_and(|(scheme, _)| matches!(scheme, "http" | "https") || is_store(scheme))
}

/// What a URL names, and where it comes from.
///
/// # Errors
/// `NotFound`: nothing there. `Usage`: no such URL. What the network says.
pub(super) fn find(url: &str) -> Result<(Wish, Arc<dyn Origin>)> {
    match url.starts_with("http") {
        true => on_the_web(url),
        false => in_store(url),
    }
}

fn on_the_web(url: &str) -> Result<(Wish, Arc<dyn Origin>)> {
    let wrong = |_| Error::usage(format!("`{}` is no URL", Shown(&without_secrets(url))));
    let parsed = Url::parse(url).map_err(wrong)?;
    let settings = http::settings::Settings::from_environment(|name| std::env::var_os(name))?;
    let place = UrlPlace::new(Client::with(&settings)?, parsed, &[], Policy::default())?;
    let file: Arc<dyn Ranged> = place.file(place.name())?;
    let objects = Objects::new([(place.name().to_owned(), None, file)]);
    Ok((Wish::of_url(without_secrets(url)), Arc::new(objects)))
}

fn in_store(url: &str) -> Result<(Wish, Arc<dyn Origin>)> {
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.');
    let (url, quantisation) = match url.rsplit_once(':') {
        Some((url, wanted)) if url.contains("://") && !wanted.is_empty() && wanted.bytes().all(plain) => {
            (url, Some(wanted.to_owned()))
        }
        _ => (url, None),
    };
    let (bucket, key) = Bucket::of_url(url, Settings::default())?;
    let place = ObjectPlace::new(bucket.clone(), key.as_str());
    let below = Objects::below(&place, &|name| Ok(Arc::new(place.object(name)?)))?;
    let objects = match below.is_empty() {
        false => below,
        // No folder: an object by its own name.
        true => {
            let (folder, name) = key.rsplit_once('/').unwrap_or(("", &key));
            let object = ObjectPlace::new(bucket, folder).object(name)?;
            Objects::new([(name.to_owned(), None, Arc::new(object) as Arc<dyn Ranged>)])
        }
    };
    Ok((Wish { quantisation, ..Wish::of_url(without_secrets(url)) }, Arc::new(objects)))
}
