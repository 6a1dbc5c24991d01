//! What a hub means by a refusal, and what to do about it. A hub answers 401 to strangers for a repo that is private as for
//! one that is not there; the code in a header says more than the status.

use super::super::http::{Response, status};
use super::cache::Repo;
use super::endpoint::Endpoint;
use crate::error::{Error, ErrorKind};
use crate::text::Shown;

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct About<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) repo: &'a Repo,
    /// The file, where it was one.
    pub(super) file: Option<&'a str>,
    /// Whether a token came with it.
    pub(super) has_token: bool,
}

/// What was answered.
#[derive(Debug, Clone, Copy)]
struct Said<'a> {
    status: u16,
    /// `X-Error-Code`
    code: Option<&'a str>,
    /// `X-Error-Message`
    message: Option<&'a str>,
}

/// The error for an answer with a status of 400 or more.
pub(super) fn explain(answer: &Response, about: &About<'_>) -> Error {
    if let Some(error) = status::not_now(answer) {
        let wait = error.retry_after();
        return match (error.kind(), wait, about.has_token) {
            (ErrorKind::RateLimited, Some(wait), false) => error.hint_instead(format!(
                "it may be asked again in {} s; with a token (HF_TOKEN) its limit is higher",
                wait.as_secs()
            )),
            _ => error,
        };
    }
    let said = Said {
        status: answer.status(),
        code: answer.header("x-error-code"),
        message: answer.header("x-error-message"),
    };
    // Of the repo, even where a file of it was asked for.
    let error = meant(said, about).file(about.repo.id.clone());
    match said.message {
        Some(message) if !message.is_empty() => {
            error.detail(format!("`{}` says: {}", about.endpoint.host(), Shown(message)))
        }
        _ => error,
    }
}

fn meant(said: Said<'_>, about: &About<'_>) -> Error {
    let About { endpoint, repo, file, has_token } = *about;
    let host = endpoint.host();
    let page = endpoint.page(repo);
    let revision = Shown(&repo.revision);
    let message = said.message.unwrap_or_default();
    let refused = |text: String| Error::new(ErrorKind::NotAllowed, text);
    let give_token = "set HF_TOKEN, or name a file with --token-file";
    match (said.status, said.code) {
        (_, Some("GatedRepo")) => {
            let error = refused(format!("is gated on `{host}`: access is granted on request"));
            error.hint(match has_token {
                true => format!("ask for access at {page}, with the account that the token is of"),
                false => format!("ask for access at {page}, then {give_token}"),
            })
        }
        _ if message.contains("Access to this resource is disabled") => {
            refused(format!("is disabled on `{host}`")).hint(format!("{page} may say why"))
        }
        (401, _) if has_token && message.contains("nvalid credentials") => bad_token(endpoint),
        (_, Some("RevisionNotFound")) => {
            Error::not_found(format!("revision `{revision}` is not on `{host}`"))
                .hint(format!("a branch, a tag or a commit; {page}/tree/main shows which there are"))
        }
        (_, Some("EntryNotFound")) => {
            let file = Shown(file.unwrap_or_default());
            Error::not_found(format!("`{file}` is not in revision `{revision}`"))
                .hint(format!("{page}/tree/main"))
        }
        (_, Some("RepoNotFound")) => {
            Error::not_found(format!("is not on `{host}`, or is private")).hint(match has_token {
                true => "check the name; the token that was sent does not open it".to_owned(),
                false => format!("check the name; for a private repo {give_token}"),
            })
        }
        (401, _) if has_token => bad_token(endpoint),
        (401, _) => refused(format!("`{host}` wants a token")).hint(give_token),
        (403, _) => refused(format!("`{host}` does not allow it")).hint(match has_token {
            true => format!("the token may lack a permission; see {}", endpoint.tokens_page()),
            false => format!("it may want a token: {give_token}"),
        }),
        (404 | 410, _) => match file {
            Some(file) => {
                Error::not_found(format!("`{}` is not on `{host}` at revision `{revision}`", Shown(file)))
            }
            None => Error::not_found(format!("`{host}` has no such repo or no revision `{revision}`"))
                .hint(format!("check the name, and HF_ENDPOINT if `{host}` is a mirror; {page}")),
        },
        (407, _) => refused(format!("the proxy before `{host}` wants a password"))
            .hint("HTTPS_PROXY=http://user:password@host:port gives one"),
        (status, _) => Error::bad_input(format!("`{host}` answered {status}")),
    }
}

fn bad_token(endpoint: &Endpoint) -> Error {
    Error::new(ErrorKind::NotAllowed, format!("`{}` refuses the token", endpoint.host()))
        .hint(format!("it may have expired; {} makes a new one", endpoint.tokens_page()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ErrorKind::{BadInput, NotAllowed, NotFound};

    #[test]
    fn refusals_say_what_to_do() {
        let endpoint = Endpoint::parse("https://hub.example/x").unwrap();
        let repo = Repo::parse("a/b@dev").unwrap();
        type Row =
            (u16, Option<&'static str>, Option<&'static str>, bool, ErrorKind, &'static [&'static str]);
        let rows: &[Row] = &[
            (
                401,
                Some("RepoNotFound"),
                Some("Invalid username or password."),
                false,
                NotFound,
                &["private", "HF_TOKEN"],
            ),
            (404, Some("RepoNotFound"), None, true, NotFound, &["does not open"]),
            (
                401,
                Some("GatedRepo"),
                None,
                false,
                NotAllowed,
                &["https://hub.example/x/a/b, then", "--token-file"],
            ),
            (
                403,
                Some("GatedRepo"),
                None,
                true,
                NotAllowed,
                &["ask for access at https://hub.example/x/a/b"],
            ),
            (403, None, Some("Access to this resource is disabled."), true, NotAllowed, &["disabled"]),
            (
                401,
                None,
                Some("Invalid credentials in Authorization header"),
                true,
                NotAllowed,
                &["refuses", "settings/tokens"],
            ),
            (401, None, None, true, NotAllowed, &["refuses the token"]),
            (401, None, None, false, NotAllowed, &["wants a token", "HF_TOKEN"]),
            (403, None, None, true, NotAllowed, &["permission"]),
            (404, Some("RevisionNotFound"), None, false, NotFound, &["revision `dev`"]),
            (404, Some("EntryNotFound"), None, false, NotFound, &["`f.bin`"]),
            (404, None, None, false, NotFound, &["`f.bin`"]),
            (400, None, None, false, BadInput, &["400"]),
        ];
        for (status, code, message, has_token, kind, words) in rows {
            let about =
                About { endpoint: &endpoint, repo: &repo, file: Some("f.bin"), has_token: *has_token };
            let error = meant(Said { status: *status, code: *code, message: *message }, &about);
            assert_eq!(error.kind(), *kind, "{status} {code:?}");
            for word in *words {
                assert!(error.to_string().contains(word), "{status} {code:?}: {error}");
            }
        }
    }
}
