//! What the name of a repo asks for: `org/name[@revision][:Q4_K_M[+mmproj]]`, with `hf://` before it or not, and with it also
//! one file: `hf://org/name[@revision]/path`.

use super::choose::Wishes;
use crate::error::{Error, Result};
use crate::source::hub::cache::Repo;
use crate::source::local::check_relative;
use crate::text::Shown;

/// A repo and what of it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The repo and its revision.
    pub repo: Repo,
    /// One quantisation of a GGUF repo.
    pub quantisation: Option<String>,
    /// The vision projector too.
    pub projector: bool,
    /// One file, by its path.
    pub file: Option<String>,
    /// What is not of a hub: its URL.
    pub url: Option<String>,
}

impl Wish {
    /// Reads a name.
    ///
    /// # Errors
    /// `Usage`: it names no repo of the hub.
    pub fn parse(text: &str) -> Result<Wish> {
        Wish::read(text).ok_or_else(|| {
            let error = Error::usage(format!("`{}` is not a repo of the hub", Shown(text)));
            error.hint(
                "org/name, org/name@revision, org/name:Q4_K_M, org/name:Q4_K_M+mmproj, hf://org/name/path",
            )
        })
    }

    fn read(text: &str) -> Option<Wish> {
        let (body, is_uri) = match text.strip_prefix("hf://") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let (body, file) = match is_uri {
            true => split_path(body),
            false => (body, None),
        };
        let (body, choice) = match body.rsplit_once(':') {
            Some((body, choice)) => (body, Some(choice)),
            None => (body, None),
        };
        let (quantisation, projector) = match choice {
            None => (None, false),
            Some(choice) => match choice.strip_suffix("+mmproj") {
                Some(rest) => (Some(rest).filter(|q| !q.is_empty()), true),
                None => (Some(choice), false),
            },
        };
        let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.');
        if quantisation.is_some_and(|q| q.is_empty() || !q.bytes().all(plain)) {
            return None;
        }
        if file.is_some_and(|f| check_relative(f).is_err() || choice.is_some()) {
            return None;
        }
        let repo = Repo::parse(body)?;
        let (quantisation, file) = (quantisation.map(str::to_owned), file.map(str::to_owned));
        Some(Wish { repo, quantisation, projector, file, url: None })
    }

    /// Objects beyond the hub, by their URL as it may be shown.
    pub fn of_url(url: impl Into<String>) -> Wish {
        let repo = Repo { id: String::new(), revision: String::new() };
        Wish { repo, quantisation: None, projector: false, file: None, url: Some(url.into()) }
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        self.url.as_deref().unwrap_or(&self.repo.id)
    }

    /// These wishes together with those of the name.
    pub fn with(&self, wishes: &Wishes) -> Wishes {
        let mut all = wishes.clone();
        if let Some(file) = &self.file {
            all.include.push(globset::escape(file));
        }
        all.quantisation = self.quantisation.clone().or(all.quantisation);
        all.projector |= self.projector;
        all
    }

    /// The name in full: what a lock file calls the source.
    pub fn uri(&self) -> String {
        let Repo { id, revision } = &self.repo;
        if let Some(url) = &self.url {
            return url.clone();
        }
        let path = self.file.as_ref().map(|f| format!("/{f}")).unwrap_or_default();
        let choice = match (&self.quantisation, self.projector) {
            (Some(q), true) => format!(":{q}+mmproj"),
            (Some(q), false) => format!(":{q}"),
            (None, true) => ":+mmproj".to_owned(),
            (None, false) => String::new(),
        };
        format!("hf://{id}@{revision}{path}{choice}")
    }
}

/// `org/name[@revision]` and the path behind it. A revision with a slash cannot be told from a path and is taken whole only
/// where it is one of `refs/…`.
fn split_path(body: &str) -> (&str, Option<&str>) {
    let Some((org, rest)) = body.split_once('/') else { return (body, None) };
    let after_name = match rest.find('@') {
        Some(at) if rest[at..].starts_with("@refs/") => {
            // `refs/pr/1`, `refs/convert/parquet`: three parts.
            rest[at..].match_indices('/').nth(2).map(|(i, _)| at + i)
        }
        _ => rest.find('/'),
    };
    match after_name {
        Some(at) => (&body[..org.len() + 1 + at], Some(&rest[at + 1..])),
        None => (body, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        type Row<'a> = (&'a str, Option<(&'a str, &'a str, Option<&'a str>, bool, Option<&'a str>)>);
        let rows: &[Row<'_>] = &[
            ("a/b", Some(("a/b", "main", None, false, None))),
            ("hf://a/b", Some(("a/b", "main", None, false, None))),
            ("gpt2", Some(("gpt2", "main", None, false, None))),
            ("a/b@v1", Some(("a/b", "v1", None, false, None))),
            ("a/b:Q4_K_M", Some(("a/b", "main", Some("Q4_K_M"), false, None))),
            ("a/b@v1:UD-Q4_K_XL+mmproj", Some(("a/b", "v1", Some("UD-Q4_K_XL"), true, None))),
            ("a/b:+mmproj", Some(("a/b", "main", None, true, None))),
            ("hf://a/b/unet/x.safetensors", Some(("a/b", "main", None, false, Some("unet/x.safetensors")))),
            ("hf://a/b@v1/x.json", Some(("a/b", "v1", None, false, Some("x.json")))),
            ("hf://a/b@refs/pr/1/x.json", Some(("a/b", "refs/pr/1", None, false, Some("x.json")))),
            ("hf://a/b@refs/pr/1", Some(("a/b", "refs/pr/1", None, false, None))),
            ("hf://a/b/../x", None),
            ("a/b/c", None),
            ("a/b:", None),
            ("a/b:Q4/K", None),
            ("s3://a/b", None),
            ("", None),
        ];
        for (text, expected) in rows {
            let got = Wish::parse(text).ok();
            let got = got.as_ref().map(|w| {
                (&*w.repo.id, &*w.repo.revision, w.quantisation.as_deref(), w.projector, w.file.as_deref())
            });
            assert_eq!(got, *expected, "{text}");
        }
        for text in ["hf://a/b@main", "hf://a/b@v1:Q4_0+mmproj", "hf://a/b@main/x/y.json"] {
            assert_eq!(Wish::parse(text).map(|w| w.uri()).ok().as_deref(), Some(text));
        }
    }
}
