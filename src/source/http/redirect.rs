//! Redirects, followed by rules: the token stays at home, `https` stays `https`, nobody is sent in a circle.

use super::{Client, Request, Response, Secret, Stop, Url, host};
use crate::error::{Error, Result};

/// Redirects that are followed for one request.
const REDIRECTS_MAX: usize = 10;

/// Where a token belongs, and the token.
#[derive(Debug, Clone)]
pub struct Home {
    /// Its scheme, host and port are the only ones that the token goes to.
    pub url: Url,
    /// The token.
    pub token: Option<Secret>,
}

impl Home {
    /// Whether a URL is there.
    pub fn has(&self, url: &Url) -> bool {
        url.origin() == self.url.origin()
    }
}

/// What an answer on the way is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A redirect is followed.
    Follow,
    /// This is what was wanted, redirect or not.
    Stay,
}

/// Asks, and goes where the answers send us: with the same method and headers after 301, 302, 303, 307, 308, the range
/// among them, and the token at home only. `look` sees each answer, the last one too.
///
/// # Errors
/// As [`Client::send`]. `BadInput`: too many redirects, a circle, a place that is none, a scheme other than `http` and
/// `https`, `https` to `http`. What `look` says.
pub fn follow(
    client: &Client,
    request: &Request<'_>,
    home: &Home,
    look: &mut dyn FnMut(&Response) -> Result<Next>,
    stop: Stop<'_>,
) -> Result<Response> {
    let mut been: Vec<Url> = Vec::new();
    let mut url = request.url.clone();
    loop {
        let token = home.token.as_ref().filter(|_| home.has(&url));
        let response = client.send(&Request { url: &url, token, ..request.clone() }, stop)?;
        let is_redirect = matches!(response.status(), 301 | 302 | 303 | 307 | 308);
        if look(&response)? == Next::Stay || !is_redirect {
            return Ok(response);
        }
        let to = target(response.header("location"), &url).map_err(|what| refused(&response, &what))?;
        been.push(url);
        if been.contains(&to) {
            return Err(refused(&response, "sends its readers in a circle"));
        }
        if been.len() > REDIRECTS_MAX {
            return Err(refused(&response, &format!("redirects more than {REDIRECTS_MAX} times")));
        }
        url = to;
    }
}

/// Where a redirect leads, or what is wrong with it.
fn target(location: Option<&str>, from: &Url) -> std::result::Result<Url, String> {
    let to = location.and_then(|to| from.join(to).ok());
    let mut to = to.ok_or("redirects to no place")?;
    // What follows a `#` is for readers of pages.
    to.set_fragment(None);
    let is_web = matches!(to.scheme(), "http" | "https") && to.has_host();
    // The user and the password of an address stay on its own host; nobody gives any to another.
    let has_user = !to.username().is_empty() || to.password().is_some();
    if !is_web {
        return Err(format!("redirects to the scheme `{}`", to.scheme()));
    }
    if from.scheme() == "https" && to.scheme() == "http" {
        return Err(format!("redirects from https to http, to `{}`", host(&to)));
    }
    if has_user && to.origin() != from.origin() {
        return Err("redirects with a password in the URL".to_owned());
    }
    Ok(to)
}

fn refused(response: &Response, what: &str) -> Error {
    Error::bad_input(format!("`{}` {what}; refused", response.host()))
        .hint("if a proxy or a mirror stands between, see HTTPS_PROXY and HF_ENDPOINT")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        for (from, location, expected) in [
            ("https://h/a/b?c", Some("d#e"), Ok("https://h/a/d")),
            ("https://h/a/b", Some("//o:8/d"), Ok("https://o:8/d")),
            ("http://h/a", Some("https://o/d?x=1"), Ok("https://o/d?x=1")),
            ("http://u:p@h/a", Some("/d"), Ok("http://u:p@h/d")),
            ("https://h/a", Some("http://h/a"), Err("https to http")),
            ("http://h/a", Some("http://u:p@o/a"), Err("password")),
            ("http://h/a", Some("http://u@o/a"), Err("password")),
            ("http://h/a", Some("file:///a"), Err("scheme `file`")),
            ("http://h/a", Some("data:,x"), Err("scheme `data`")),
            ("http://h/a", Some("javascript:x"), Err("scheme `javascript`")),
            ("http://h/a", Some("http://"), Err("no place")),
            ("http://h/a", None, Err("no place")),
        ] {
            let from = Url::parse(from).unwrap();
            match (target(location, &from), expected) {
                (Ok(to), Ok(expected)) => assert_eq!(to.as_str(), expected, "{location:?}"),
                (Err(what), Err(word)) => assert!(what.contains(word), "{location:?}: {what}"),
                (got, _) => panic!("{location:?}: {got:?}"),
            }
        }
    }
}
