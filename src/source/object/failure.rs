//! What an error of a store means: its kind, and what to do about it. Texts of object_store hold URLs, which may be signed;
//! none of them is shown, only what the store itself said.

use super::Cloud;
use super::transport::Refused;
use crate::error::{Error, ErrorKind};
use crate::text::Shown;
use std::error::Error as StdError;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// Nothing yet.
    Setup,
    Object,
    Listing,
}

/// Which variables say who asks, and where.
fn credentials_hint(cloud: Cloud) -> &'static str {
    match cloud {
        Cloud::Aws => {
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (with AWS_SESSION_TOKEN) say who asks; profiles of ~/.aws and SSO are not read, \
             `aws configure export-credentials --format env` prints them; AWS_SKIP_SIGNATURE=true reads a public bucket"
        }
        Cloud::Google => {
            "GOOGLE_APPLICATION_CREDENTIALS names a key file, `gcloud auth application-default login` makes one; \
             GOOGLE_SKIP_SIGNATURE=true reads a public bucket"
        }
        Cloud::Azure => {
            "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (or AZURE_STORAGE_SAS_KEY) say who asks; \
             AZURE_SKIP_SIGNATURE=true reads a public container"
        }
    }
}

/// Which variables say where the store is.
fn endpoint_hint(cloud: Cloud) -> &'static str {
    match cloud {
        Cloud::Aws => "AWS_ENDPOINT_URL and AWS_REGION say where the store is, HTTPS_PROXY how it is reached",
        Cloud::Google => "GOOGLE_BASE_URL says where the store is, HTTPS_PROXY how it is reached",
        Cloud::Azure => "AZURE_ENDPOINT says where the store is, HTTPS_PROXY how it is reached",
    }
}

/// The error of ours for one of object_store.
pub(super) fn failure(error: &object_store::Error, cloud: Cloud, asked: Asked) -> Error {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    let mut last: &dyn StdError = error;
    while let Some(inner) = cause {
        if let Some(refused) = inner.downcast_ref::<Refused>() {
            return refusal(refused, cloud, asked);
        }
        last = inner;
        cause = inner.source();
    }
    let said = Shown(&last.to_string()).to_string();
    match (error, asked) {
        (_, Asked::Setup) => Error::new(ErrorKind::NotAllowed, format!("the store cannot be set up: {said}"))
            .hint(credentials_hint(cloud)),
        (object_store::Error::NotFound { .. }, _) => Error::not_found("no such object in the store"),
        (object_store::Error::Precondition { .. }, _) => changed(),
        (object_store::Error::InvalidPath { .. }, _) => {
            Error::bad_input(format!("the store holds a key that is no path: {said}"))
        }
        // Only what is said of credentials before a request is made.
        (object_store::Error::Unauthenticated { .. } | object_store::Error::PermissionDenied { .. }, _) => {
            Error::new(ErrorKind::NotAllowed, said).hint(credentials_hint(cloud))
        }
        _ => Error::new(ErrorKind::Io, said),
    }
}

/// The error of an object that is not what it was.
pub(super) fn changed() -> Error {
    Error::new(ErrorKind::Integrity, "is another object than when it was first looked at")
        .hint("somebody wrote it meanwhile: run it again when nobody does")
}

fn refusal(refused: &Refused, cloud: Cloud, asked: Asked) -> Error {
    let Refused { host, is_metadata, status, code, message, region, retry_after } = refused;
    let host = Shown(host);
    let said = message.as_deref().map(|m| format!(": {}", Shown(m))).unwrap_or_default();
    if *is_metadata {
        return Error::new(
            ErrorKind::NotAllowed,
            "no credentials: none in the environment, and this machine has no role in the cloud",
        )
        .hint(credentials_hint(cloud));
    }
    let Some(status) = *status else {
        return Error::new(ErrorKind::Io, format!("`{host}` cannot be reached{said}"))
            .hint(endpoint_hint(cloud));
    };
    let coded = code.as_deref().unwrap_or_default();
    let shown = match code {
        Some(code) => format!("`{host}` answered {status} {}{said}", Shown(code)),
        None => format!("`{host}` answered {status}{said}"),
    };
    let elsewhere = || match region {
        Some(region) => format!("AWS_REGION={} is where the bucket is", Shown(region)),
        None => endpoint_hint(cloud).to_owned(),
    };
    let error = match (status, coded) {
        (_, "SlowDown" | "ServerBusy" | "Throttling" | "ThrottlingException" | "RequestLimitExceeded")
        | (429 | 503, _) => Error::new(ErrorKind::RateLimited, shown),
        (_, "NoSuchBucket" | "ContainerNotFound") => {
            Error::not_found("no such bucket").hint(endpoint_hint(cloud))
        }
        (404, _) if asked == Asked::Object => Error::not_found("no such object in the store"),
        (404, _) => Error::not_found(shown).hint(endpoint_hint(cloud)),
        (412, _) => changed(),
        (301 | 307 | 308, _) | (_, "AuthorizationHeaderMalformed" | "PermanentRedirect") => {
            Error::usage(shown).hint(elsewhere())
        }
        (401 | 403, "RequestTimeTooSkewed") => {
            Error::new(ErrorKind::NotAllowed, shown).hint("this machine's clock is wrong")
        }
        (401 | 403, _) => Error::new(ErrorKind::NotAllowed, shown).hint(credentials_hint(cloud)),
        (408 | 500.., _) => Error::new(ErrorKind::Io, shown),
        _ => Error::bad_input(shown).hint(endpoint_hint(cloud)),
    };
    match retry_after {
        Some(wait) if error.kind().is_worth_a_retry() => error.after(*wait),
        _ => error,
    }
}
