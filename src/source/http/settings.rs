//! What the environment says about HTTP: deadlines, proxies, whom to trust.
//!
//! | variable | what it sets |
//! |---|---|
//! | `HF_HUB_ETAG_TIMEOUT` | seconds for a connection, and for the head of an answer |
//! | `HF_HUB_DOWNLOAD_TIMEOUT` | seconds for the next piece of a body, and for the head of an answer where it is more |
//! | `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY` | proxies; lower case wins, as in curl and Python |
//! | `SSL_CERT_FILE`, `SSL_CERT_DIR`, `REQUESTS_CA_BUNDLE`, `CURL_CA_BUNDLE` | the only roots of trust, together |
//!
//! reqwest reads most of these by itself, but from the process alone and the bundles of Python's libraries not at all; read
//! here, tests need no global state. Where nothing names roots and the machine has none (an image with nothing but the
//! binary), Mozilla's, which come along, are used.

use crate::error::{Error, Result};
use crate::text::Shown;
use reqwest::{Certificate, ClientBuilder, NoProxy, Proxy};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The most that is read of a file of certificates.
const BUNDLE_BYTES_MAX: u64 = 16 << 20;

/// The longest deadline that the environment may set.
const DEADLINE_MAX: Duration = Duration::from_secs(3600);

/// How long is waited for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection.
    pub connect: Duration,
    /// For the head of an answer.
    pub answer: Duration,
    /// For the next piece of a body.
    pub piece: Duration,
    /// The least that must come.
    pub rate: Rate,
}

/// So many bytes in so much waiting; a server that gives less drips.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// At least so many bytes
    pub bytes: u64,
    /// in so long.
    pub over: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        let ten = Duration::from_secs(10);
        let thirty = Duration::from_secs(30);
        Timeouts { connect: ten, answer: thirty, piece: ten, rate: Rate { bytes: 30 << 10, over: thirty } }
    }
}

/// Which proxies are used. They may hold passwords.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For `http`, for `https`, and for what has none of its own.
    http: Option<String>,
    https: Option<String>,
    all: Option<String>,
    /// Hosts that are reached without.
    except: Option<String>,
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Proxies { http, https, all, .. } = self;
        write!(f, "http {}, https {}, all {}", http.is_some(), https.is_some(), all.is_some())
    }
}

/// Whom to trust.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Roots {
    /// Whom this machine trusts; Mozilla's list where it has none.
    #[default]
    Machine,
    /// Mozilla's list.
    Bundled,
    /// The certificates in these files and directories, each with the variable that names it.
    Named(Vec<(String, PathBuf)>),
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Deadlines.
    pub timeouts: Timeouts,
    /// Proxies; without any, none.
    pub proxies: Proxies,
    /// Roots of trust.
    pub roots: Roots,
}

impl Settings {
    /// What the environment says.
    ///
    /// # Errors
    /// `Usage`: a variable that cannot be read.
    pub fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> Result<Settings> {
        let mut timeouts = Timeouts::default();
        let metadata = deadline("HF_HUB_ETAG_TIMEOUT", &variable)?;
        let content = deadline("HF_HUB_DOWNLOAD_TIMEOUT", &variable)?;
        timeouts.connect = metadata.unwrap_or(timeouts.connect);
        timeouts.answer = metadata.max(content).unwrap_or(timeouts.answer);
        timeouts.piece = content.unwrap_or(timeouts.piece);

        let proxy = |lower: &str| -> Result<Option<String>> {
            let upper = lower.to_ascii_uppercase();
            // What a web server passes on from a request's `Proxy` header is not ours to trust.
            let is_of_request = lower == "http_proxy" && variable("REQUEST_METHOD").is_some();
            let value = variable(lower).or_else(|| variable(&upper).filter(|_| !is_of_request));
            let Some(value) = value else { return Ok(None) };
            let text = value.into_string().map_err(|_| Error::usage(format!("`{upper}` is not text")))?;
            Ok(Some(text.trim().to_owned()).filter(|t| !t.is_empty()))
        };
        let proxies = Proxies {
            http: proxy("http_proxy")?,
            https: proxy("https_proxy")?,
            all: proxy("all_proxy")?,
            except: proxy("no_proxy")?,
        };

        let set = |name: &str| variable(name).filter(|v| !v.is_empty());
        let mut named = Vec::new();
        for name in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"] {
            named.extend(set(name).map(|v| (name.to_owned(), PathBuf::from(v))));
        }
        for directory in set("SSL_CERT_DIR").iter().flat_map(std::env::split_paths) {
            named.push(("SSL_CERT_DIR".to_owned(), directory));
        }
        let roots = if named.is_empty() { Roots::Machine } else { Roots::Named(named) };
        Ok(Settings { timeouts, proxies, roots })
    }

    /// A client of reqwest's with these proxies and roots.
    pub(super) fn build(&self, plain: impl Fn() -> ClientBuilder) -> Result<reqwest::Client> {
        let proxies = self.proxies.made()?;
        let with_proxies = || {
            // None at all, rather than those that reqwest would look for.
            let plain = plain().no_proxy();
            proxies.iter().fold(plain, |builder, proxy| builder.proxy(proxy.clone()))
        };
        let fail = |e: reqwest::Error| {
            let causes = super::causes(&e).join(": ");
            Error::bad_input(format!("no HTTP client can be made: {causes}"))
        };
        let bundled = || {
            let roots = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter();
            let roots: std::result::Result<Vec<_>, _> = roots.map(|der| Certificate::from_der(der)).collect();
            with_proxies().tls_certs_only(roots.map_err(fail)?).build().map_err(fail)
        };
        match &self.roots {
            // It fails only where the machine has no roots.
            Roots::Machine => with_proxies().build().or_else(|_| bundled()),
            Roots::Bundled => bundled(),
            Roots::Named(named) => {
                let roots = certificates(named)?;
                let whole = with_proxies().tls_certs_only(roots.clone()).build();
                whole.or_else(|_| {
                    // One that cannot be used spoils all; the others still serve.
                    let usable = |c: &Certificate| {
                        reqwest::Client::builder().tls_certs_only([c.clone()]).build().is_ok()
                    };
                    let roots: Vec<_> = roots.into_iter().filter(usable).collect();
                    match roots.is_empty() {
                        true => Err(no_certificates(named)),
                        false => with_proxies().tls_certs_only(roots).build().map_err(fail),
                    }
                })
            }
        }
    }
}

impl Proxies {
    /// Whether there is one, for some hosts at least.
    pub(super) fn any(&self) -> bool {
        self.http.is_some() || self.https.is_some() || self.all.is_some()
    }

    fn made(&self) -> Result<Vec<Proxy>> {
        type Make = fn(&str) -> reqwest::Result<Proxy>;
        let rows: [(&str, &Option<String>, Make); 3] = [
            ("HTTP_PROXY", &self.http, |url| Proxy::http(url)),
            ("HTTPS_PROXY", &self.https, |url| Proxy::https(url)),
            ("ALL_PROXY", &self.all, |url| Proxy::all(url)),
        ];
        let except = self.except.as_deref().and_then(NoProxy::from_string);
        let mut made = Vec::new();
        for (name, url, make) in rows {
            let Some(url) = url else { continue };
            // The value stays unsaid: it may hold a password.
            let proxy = make(url).map_err(|_| {
                Error::usage(format!("`{name}` is not the URL of a proxy"))
                    .hint("http://host:port, https://host:port or socks5h://host:port")
            })?;
            made.push(proxy.no_proxy(except.clone()));
        }
        Ok(made)
    }
}

/// A number of seconds, as huggingface_hub reads it.
fn deadline(name: &str, variable: &impl Fn(&str) -> Option<OsString>) -> Result<Option<Duration>> {
    let Some(value) = variable(name).filter(|v| !v.is_empty()) else { return Ok(None) };
    let text = value.to_string_lossy();
    let seconds = text.trim().parse::<f64>().ok().filter(|s| s.is_finite() && *s > 0.0);
    let Some(seconds) = seconds else {
        let message = format!("`{name}` is `{}` where a number of seconds is expected", Shown(&text));
        return Err(Error::usage(message));
    };
    Ok(Some(Duration::from_secs_f64(seconds.min(DEADLINE_MAX.as_secs_f64()))))
}

/// All certificates of these files and directories, each once.
fn certificates(named: &[(String, PathBuf)]) -> Result<Vec<Certificate>> {
    let mut blocks = BTreeSet::new();
    for (_, path) in named {
        if !path.is_dir() {
            collect(path, &mut blocks);
            continue;
        }
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            if is_hashed(&entry.file_name().to_string_lossy()) {
                collect(&entry.path(), &mut blocks);
            }
        }
    }
    let certificates: Vec<_> =
        blocks.iter().filter_map(|block| Certificate::from_pem(block.as_bytes()).ok()).collect();
    if certificates.is_empty() { Err(no_certificates(named)) } else { Ok(certificates) }
}

fn no_certificates(named: &[(String, PathBuf)]) -> Error {
    let places: Vec<_> =
        named.iter().map(|(name, path)| format!("{name}={}", Shown(&path.display().to_string()))).collect();
    Error::bad_input(format!("no certificate can be read from `{}`", places.join("`, `")))
        .hint("without these variables the machine's own roots of trust are used")
}

/// Whether OpenSSL would look at a file of this name in a directory of certificates: a hash, a dot, a number.
fn is_hashed(name: &str) -> bool {
    name.split_once('.').is_some_and(|(hash, number)| {
        hash.len() == 8
            && hash.bytes().all(|b| b.is_ascii_hexdigit())
            && !number.is_empty()
            && number.bytes().all(|b| b.is_ascii_digit())
    })
}

/// The certificates of one PEM file. What cannot be read has none.
fn collect(path: &Path, blocks: &mut BTreeSet<String>) {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|f| f.take(BUNDLE_BYTES_MAX).read_to_end(&mut bytes));
    if read.is_err() {
        return;
    }
    // Comments may be in any encoding.
    let text = String::from_utf8_lossy(&bytes);
    let mut rest = &*text;
    while let Some((_, after)) = rest.split_once(BEGIN)
        && let Some((body, after)) = after.split_once(END)
    {
        blocks.insert(format!("{BEGIN}{body}{END}\n"));
        rest = after;
    }
}

/// A duration as a message says it.
pub(super) fn seconds(time: Duration) -> String {
    match time.as_secs_f64() {
        s if s >= 1.0 && s.fract() < 0.05 => format!("{s:.0} s"),
        s => format!("{s:.1} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(environment: &[(&str, &str)]) -> Result<Settings> {
        Settings::from_environment(|name| {
            environment.iter().find(|(k, _)| *k == name).map(|(_, v)| OsString::from(*v))
        })
    }

    #[test]
    fn deadlines() {
        type Row<'a> = (&'a [(&'a str, &'a str)], Option<(f64, f64, f64)>);
        let rows: &[Row<'_>] = &[
            (&[], Some((10.0, 30.0, 10.0))),
            (&[("HF_HUB_DOWNLOAD_TIMEOUT", "60")], Some((10.0, 60.0, 60.0))),
            (&[("HF_HUB_ETAG_TIMEOUT", "0.5")], Some((0.5, 0.5, 10.0))),
            (&[("HF_HUB_ETAG_TIMEOUT", "5"), ("HF_HUB_DOWNLOAD_TIMEOUT", "2")], Some((5.0, 5.0, 2.0))),
            (&[("HF_HUB_ETAG_TIMEOUT", "")], Some((10.0, 30.0, 10.0))),
            (&[("HF_HUB_ETAG_TIMEOUT", "1e300")], Some((3600.0, 3600.0, 10.0))),
            (&[("HF_HUB_ETAG_TIMEOUT", "soon")], None),
            (&[("HF_HUB_ETAG_TIMEOUT", "-1")], None),
            (&[("HF_HUB_DOWNLOAD_TIMEOUT", "0")], None),
            (&[("HF_HUB_DOWNLOAD_TIMEOUT", "nan")], None),
        ];
        for (environment, expected) in rows {
            let got = read(environment).ok().map(|s| {
                let Timeouts { connect, answer, piece, .. } = s.timeouts;
                (connect.as_secs_f64(), answer.as_secs_f64(), piece.as_secs_f64())
            });
            assert_eq!(got, *expected, "{environment:?}");
        }
    }

    #[test]
    fn proxies() {
        let set = |s: &str| Some(s.to_owned());
        let none = Proxies::default();
        let rows: &[(&[(&str, &str)], Proxies)] = &[
            (&[], none.clone()),
            (&[("HTTPS_PROXY", "http://a:1")], Proxies { https: set("http://a:1"), ..none.clone() }),
            (&[("HTTP_PROXY", "a:1"), ("http_proxy", "b:1")], Proxies { http: set("b:1"), ..none.clone() }),
            (&[("HTTP_PROXY", "a:1"), ("http_proxy", "")], none.clone()),
            (&[("HTTP_PROXY", "a:1"), ("REQUEST_METHOD", "GET")], none.clone()),
            (
                &[("ALL_PROXY", "socks5h://a:1"), ("NO_PROXY", "localhost")],
                Proxies { all: set("socks5h://a:1"), except: set("localhost"), ..none.clone() },
            ),
        ];
        for (environment, expected) in rows {
            let settings = read(environment).unwrap();
            assert_eq!(settings.proxies, *expected, "{environment:?}");
            assert!(settings.proxies.made().is_ok(), "{environment:?}");
        }
        let settings = read(&[("HTTPS_PROXY", "http://user:hunter2@[::bad")]).unwrap();
        let error = settings.proxies.made().unwrap_err().to_string();
        assert!(error.contains("`HTTPS_PROXY`") && !error.contains("hunter2"), "{error}");
        assert!(!format!("{settings:?}").contains("hunter2"));
    }

    #[test]
    fn roots() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        std::fs::write(path("empty.pem"), "nothing").unwrap();
        std::fs::write(path("bad.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
            .unwrap();
        let plain = reqwest::Client::builder;
        for (name, file) in [
            ("SSL_CERT_FILE", "none.pem"),
            ("CURL_CA_BUNDLE", "empty.pem"),
            ("REQUESTS_CA_BUNDLE", "bad.pem"),
        ] {
            let settings = read(&[(name, &path(file))]).unwrap();
            let error = settings.build(plain).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(name) && text.contains(file), "{text}");
        }
        let settings = Settings { roots: Roots::Bundled, ..Settings::default() };
        assert!(settings.build(plain).is_ok());
        for (name, expected) in
            [("0a1b2c3d.0", true), ("0a1b2c3d.pem", false), ("ca.crt", false), ("x.0", false)]
        {
            assert_eq!(is_hashed(name), expected, "{name}");
        }
    }
}
