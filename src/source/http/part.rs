//! Whether an answer holds the range that was asked for, and its bytes.

use super::super::ranged::{Body, Stop};
use super::Response;
use crate::error::{Error, ErrorKind, Result};
use crate::text::{Shown, grouped};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

/// Where a server ignores ranges, the most that is read only to be thrown away.
pub const SKIP_BYTES_MAX: u64 = 4 << 20;

/// What an answer is instead of the range.
#[derive(Debug)]
pub enum Wrong {
    /// The object has another size, as the answer says.
    Size(u64),
    /// A page for people.
    Page,
    /// Something else; the error says what.
    Other(Error),
}

/// Where in an answer's body the range begins, and whether the body ends with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    /// Bytes before the range.
    skip_bytes: u64,
    /// The body's end is the only sign that it is whole.
    is_endless: bool,
}

/// Checks the head of an answer with status 200 or 206 against the range and the size of the object `name`.
///
/// # Errors
/// What it is instead.
pub fn check(
    response: &Response,
    range: &Range<u64>,
    size_bytes: u64,
    name: &str,
) -> std::result::Result<Fit, Wrong> {
    let host = response.host();
    if let Some(encoding) =
        response.header("content-encoding").filter(|e| !e.eq_ignore_ascii_case("identity"))
    {
        let message = format!("`{host}` sends `{}` where plain bytes were asked for", Shown(encoding));
        return Err(Wrong::Other(Error::unsupported(message)));
    }
    let length = response.content_length();
    if response.status() == 206 {
        let (first, last, total) = content_range(response).ok_or_else(|| {
            let message = format!("`{host}` answered 206 without saying which range it sends");
            Wrong::Other(Error::new(ErrorKind::Io, message))
        })?;
        if let Some(total) = total.filter(|t| *t != size_bytes) {
            return Err(Wrong::Size(total));
        }
        let sent = last - first + 1;
        if first != range.start || last >= range.end || length.is_some_and(|l| l != sent) {
            let message = format!(
                "`{host}` sent bytes {} to {} where {} to {} were asked for",
                grouped(first),
                grouped(last),
                grouped(range.start),
                grouped(range.end.saturating_sub(1))
            );
            return Err(Wrong::Other(Error::new(ErrorKind::Io, message)));
        }
        return Ok(Fit { skip_bytes: 0, is_endless: false });
    }
    if length != Some(size_bytes) && is_page(response, name) {
        return Err(Wrong::Page);
    }
    if let Some(length) = length.filter(|l| *l != size_bytes) {
        return Err(Wrong::Size(length));
    }
    if range.start > SKIP_BYTES_MAX {
        let message = format!("`{host}` ignores ranges: it sends the whole file whatever is asked for");
        return Err(Wrong::Other(
            Error::unsupported(message).hint("fetch the whole file, or use a server that knows ranges"),
        ));
    }
    Ok(Fit { skip_bytes: range.start, is_endless: length.is_none() && range.end == size_bytes })
}

/// First byte, last byte and total of `Content-Range: bytes 0-9/10`; the total may be `*`.
pub fn content_range(response: &Response) -> Option<(u64, u64, Option<u64>)> {
    let text = response.header("content-range")?;
    let (unit, rest) = text.split_once(' ')?;
    let (range, total) = rest.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let total: Option<u64> = match total.trim() {
        "*" => None,
        text => Some(text.parse().ok()?),
    };
    let ok = unit.eq_ignore_ascii_case("bytes") && first <= last && last < u64::MAX;
    (ok && total.is_none_or(|t| last < t)).then_some((first, last, total))
}

/// The size of the whole, from `Content-Range`, with or without a range in it (416 has none).
pub fn total_bytes(response: &Response) -> Option<u64> {
    let text = response.header("content-range")?;
    text.strip_prefix("bytes ")?.split_once('/')?.1.trim().parse().ok()
}

/// Whether an answer is a page where a file of this name would be none.
pub fn is_page(response: &Response, name: &str) -> bool {
    let kind = response.header("content-type").unwrap_or_default().trim_start().to_ascii_lowercase();
    let name = name.to_ascii_lowercase();
    kind.starts_with("text/html") && !name.ends_with(".html") && !name.ends_with(".htm")
}

/// The bytes of a range, out of an answer that was checked.
pub struct Part {
    response: Response,
    name: Arc<str>,
    fit: Fit,
    left_bytes: u64,
}

impl Part {
    /// The range of this many bytes in the answer's body.
    pub fn new(response: Response, fit: Fit, range: &Range<u64>, name: Arc<str>) -> Part {
        Part { response, name, fit, left_bytes: range.end - range.start }
    }

    fn piece(&mut self, stop: Stop<'_>) -> Result<Option<Bytes>> {
        loop {
            if self.left_bytes == 0 {
                return self.end(stop);
            }
            let Some(mut piece) = self.response.next(stop)? else {
                let left = grouped(self.left_bytes);
                let message = format!("`{}` ended its answer {left} bytes early", self.response.host());
                return Err(Error::new(ErrorKind::Io, message));
            };
            let skip = self.fit.skip_bytes.min(piece.len() as u64);
            self.fit.skip_bytes -= skip;
            // No more than the piece has, so it fits.
            let _ = piece.split_to(skip as usize);
            piece.truncate(usize::try_from(self.left_bytes).unwrap_or(usize::MAX));
            self.left_bytes -= piece.len() as u64;
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
    }

    /// Behind the last byte: where no length was said, no more may come.
    fn end(&mut self, stop: Stop<'_>) -> Result<Option<Bytes>> {
        if std::mem::take(&mut self.fit.is_endless) && self.response.next(stop)?.is_some() {
            let message = format!("`{}` sends more bytes than the file has", self.response.host());
            return Err(Error::new(ErrorKind::Integrity, message));
        }
        Ok(None)
    }
}

impl Body for Part {
    fn next(&mut self, stop: Stop<'_>) -> Result<Option<Bytes>> {
        self.piece(stop).map_err(|e| e.file(&*self.name))
    }
}
