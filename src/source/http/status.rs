//! What a status means where it means the same everywhere: not now, and how long to wait.

use super::Response;
use crate::error::{Error, ErrorKind};
use std::time::{Duration, SystemTime};

/// The longest wait that is read from an answer; whether it is granted is decided elsewhere.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

/// The least: a server that says 0 shall not be asked in a circle.
const WAIT_MIN: Duration = Duration::from_secs(1);

/// The error for a status that may be another one a little later: 408, 425, 429, 5xx. `None` for every other.
pub fn not_now(response: &Response) -> Option<Error> {
    let status = response.status();
    let (limit, after) = (response.header("ratelimit"), response.header("retry-after"));
    let clock = response.header("date").and_then(|d| httpdate::parse_http_date(d).ok());
    let wait = wait(limit, after, clock.unwrap_or_else(SystemTime::now));
    let is_limited = status == 429 || (status == 503 && limit.is_some_and(|l| spent(l).is_some()));
    let error = match status {
        _ if is_limited => {
            let message = format!("`{}` limits how often it is asked (status {status})", response.host());
            let hint = match wait {
                Some(wait) => format!("it may be asked again in {} s", wait.as_secs()),
                None => "try again later".to_owned(),
            };
            Error::new(ErrorKind::RateLimited, message).hint(hint)
        }
        408 | 425 | 500.. => {
            Error::new(ErrorKind::Io, format!("`{}` is in trouble: it answered {status}", response.host()))
                .hint("try again in a while")
        }
        _ => return None,
    };
    Some(match wait {
        Some(wait) => error.after(wait),
        None => error,
    })
}

/// How long a server asks to wait: `RateLimit` where a budget is spent, else `Retry-After` in seconds or as a date.
fn wait(limit: Option<&str>, after: Option<&str>, now: SystemTime) -> Option<Duration> {
    // The window ends within the second that is named.
    let of_limit = limit.and_then(spent).map(|seconds| Duration::from_secs(seconds.saturating_add(1)));
    let of_after = || {
        let text = after?.trim();
        if let Ok(seconds) = text.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let date = httpdate::parse_http_date(text).ok()?;
        Some(date.duration_since(now).unwrap_or_default())
    };
    of_limit.or_else(of_after).map(|wait| wait.clamp(WAIT_MIN, WAIT_MAX))
}

/// The seconds until the last spent budget is filled again, from a list like `"api";r=12;t=200, "resolvers";r=0;t=55`
/// (draft-ietf-httpapi-ratelimit-headers-09). `None` where none is spent.
fn spent(header: &str) -> Option<u64> {
    let budget = |item: &str| {
        let part = |name: &str| {
            let mut parts = item.split(';').skip(1).filter_map(|p| p.trim().split_once('='));
            parts.find(|(key, _)| *key == name).and_then(|(_, value)| value.parse::<u64>().ok())
        };
        (part("r")? == 0).then(|| part("t"))?
    };
    header.split(',').filter_map(budget).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_read() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let rows: &[(Option<&str>, Option<&str>, Option<u64>)] = &[
            (None, None, None),
            (Some("\"resolvers\";r=0;t=55"), None, Some(56)),
            (Some("\"resolvers\";r=0;t=55"), Some("7"), Some(56)),
            (Some("\"api\";r=3;t=9, \"resolvers\";r=0;t=55"), None, Some(56)),
            (Some("\"api\"; r=0; t=9,\"resolvers\";r=0;t=5"), None, Some(10)),
            (Some("\"api\";r=3;t=9"), Some("7"), Some(7)),
            (Some("\"api\";r=0"), None, None),
            (Some("nonsense;;==,"), Some("2"), Some(2)),
            (Some("\"a\";r=0;t=18446744073709551615"), None, Some(86400)),
            (None, Some("0"), Some(1)),
            (None, Some("-5"), None),
            (None, Some("soon"), None),
            (None, Some("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60)),
            (None, Some("Sun, 06 Nov 1994 08:49:00 GMT"), Some(1)),
            (None, Some("Sat, 06 Nov 2094 08:49:00 GMT"), Some(86400)),
        ];
        for (limit, after, expected) in rows {
            let got = wait(*limit, *after, now).map(|w| w.as_secs());
            assert_eq!(got, *expected, "{limit:?} {after:?}");
        }
    }
}
