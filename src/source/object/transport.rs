//! What stands between object_store and the network: every answer that is not what was asked for becomes a [`Refused`],
//! with its status, the store's own code for it, and how long to wait; and no answer that is held in memory is longer than
//! a page of a listing.
//!
//! object_store keeps status and headers of a failed request to itself and reads the text of an error whole. It lets
//! callers bring their own transport, so this is where both are had.

use bytes::Bytes;
use futures_util::StreamExt;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService, ReqwestConnector,
};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// The longest text of an error that is read.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// The longest page of a listing, or other answer that is no object's bytes: a thousand keys of a kilobyte are a megabyte.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Where a machine's own service is, and what it is asked: Amazon's, Google's, Azure's.
const METADATA_NET: &str = "169.254.";
const METADATA_PATHS: &[&str] =
    &["/latest/api/token", "/latest/meta-data/", "/computeMetadata/", "/metadata/identity/"];

/// Why there was no answer, or another one than was asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Refused {
    /// Whom was asked.
    pub(super) host: String,
    /// Whether that was the service that tells a machine of a cloud who it is.
    pub(super) is_metadata: bool,
    /// The status, where there was an answer.
    pub(super) status: Option<u16>,
    /// The store's name for it: `SlowDown`, `NoSuchBucket`, ….
    pub(super) code: Option<String>,
    /// What the store says of it; else what the connection says.
    pub(super) message: Option<String>,
    /// Where the bucket is, where the store says that it is elsewhere.
    pub(super) region: Option<String>,
    /// How long the store asks to wait.
    pub(super) retry_after: Option<Duration>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(f, "`{}` answered {status}", self.host),
            None => write!(f, "`{}` did not answer", self.host),
        }
    }
}

impl std::error::Error for Refused {}

/// Makes guarded clients.
#[derive(Debug)]
pub(super) struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Guarded(ReqwestConnector::default().connect(options)?)))
    }
}

#[derive(Debug)]
struct Guarded(HttpClient);

type Answer<'a> = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'a>>;

impl HttpService for Guarded {
    fn call<'a, 'b>(&'a self, request: HttpRequest) -> Answer<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let host = request.uri().authority().map(|a| a.as_str().to_owned()).unwrap_or_default();
            let is_metadata = host.starts_with(METADATA_NET)
                || METADATA_PATHS.iter().any(|path| request.uri().path().starts_with(path));
            let is_for_bytes = request.headers().contains_key("range") || request.method() == "HEAD";
            let answer = self.0.execute(request).await.map_err(|e| unreached(&host, is_metadata, &e))?;
            if answer.status().is_success() {
                if is_for_bytes {
                    return match is_range(&answer) {
                        true => Ok(answer),
                        false => {
                            let message = Some("it sends a range that cannot be".to_owned());
                            Err(error(Refused { host, message, ..Refused::default() }))
                        }
                    };
                }
                let (head, body) = answer.into_parts();
                // A proxy's login page, say: read as a listing it would be an empty one.
                let kind = head.headers.get("content-type").and_then(|t| t.to_str().ok()).unwrap_or_default();
                if kind.to_ascii_lowercase().starts_with("text/html") {
                    let message = Some("it shows a web page in place of an answer".to_owned());
                    return Err(error(Refused { host, message, ..Refused::default() }));
                }
                let (bytes, is_whole) =
                    beginning(body, ANSWER_BYTES_MAX).await.map_err(|e| unreached(&host, is_metadata, &e))?;
                if !is_whole {
                    let message = Some(format!("an answer of more than {ANSWER_BYTES_MAX} bytes"));
                    return Err(error(Refused { host, message, ..Refused::default() }));
                }
                return Ok(HttpResponse::from_parts(head, HttpResponseBody::from(Bytes::from(bytes))));
            }
            let (head, body) = answer.into_parts();
            // A text that breaks off says as much as it says.
            let text = beginning(body, REFUSAL_BYTES_MAX).await.map(|(text, _)| text).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let header = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok());
            Err(error(Refused {
                host,
                is_metadata,
                status: Some(head.status.as_u16()),
                code: header("x-ms-error-code").map(str::to_owned).or_else(|| element(&text, "Code")),
                message: element(&text, "Message"),
                region: header("x-amz-bucket-region").map(str::to_owned).or_else(|| element(&text, "Region")),
                retry_after: header("retry-after").and_then(|s| s.parse().ok()).map(Duration::from_secs),
            }))
        })
    }
}

/// Whether the range that an answer says it sends can be one: object_store adds one to its last byte.
fn is_range(answer: &HttpResponse) -> bool {
    let Some(range) = answer.headers().get("content-range").and_then(|r| r.to_str().ok()) else {
        return true;
    };
    let last = range.split(['-', '/']).nth(1).and_then(|last| last.trim().parse::<u64>().ok());
    last.is_some_and(|last| last < u64::MAX)
}

fn error(refused: Refused) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, refused)
}

/// The error of a connection, with the host: object_store asks several (the store, who gives out credentials).
fn unreached(host: &str, is_metadata: bool, error: &HttpError) -> HttpError {
    let mut text: Vec<String> = Vec::new();
    // The outermost only repeats the next one.
    let mut cause = std::error::Error::source(error).and_then(std::error::Error::source);
    while let Some(error) = cause {
        text.push(error.to_string());
        cause = error.source();
    }
    text.dedup();
    let message = if text.is_empty() { "the connection failed".to_owned() } else { text.join(": ") };
    HttpError::new(
        error.kind(),
        Refused { host: host.to_owned(), is_metadata, message: Some(message), ..Refused::default() },
    )
}

/// The beginning of a body, and whether that is all of it.
async fn beginning(body: HttpResponseBody, bytes_max: usize) -> Result<(Vec<u8>, bool), HttpError> {
    let mut pieces = body.bytes_stream();
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        let room = bytes_max - bytes.len();
        if piece.len() > room {
            bytes.extend_from_slice(&piece[..room]);
            return Ok((bytes, false));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok((bytes, true))
}

/// What an element of an error's XML holds.
fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once('<')?;
    Some(text.chars().take(200).collect())
}
