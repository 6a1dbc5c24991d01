//! One object at a URL, which may send its readers elsewhere: a file of the hub, whose bytes lie at signed URLs that expire;
//! or any file on the web.

use super::super::ranged::{Body, Ranged, Stop};
use super::{Client, Request, Response, Secret, Url};
use crate::error::{Error, ErrorKind, Result};
use bytes::Bytes;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Redirects that are followed for one request.
const REDIRECTS_MAX: usize = 10;

/// An object at a URL. The token goes to the origin's own scheme, host and port only.
#[derive(Debug)]
pub struct Remote {
    client: Client,
    name: String,
    origin: Url,
    token: Option<Secret>,
    size_bytes: u64,
    /// Where the origin last sent its readers; asked before the origin.
    place: Mutex<Option<Url>>,
}

impl Remote {
    /// The object at `origin`, which is known to have this size.
    pub fn new(
        client: Client,
        name: impl Into<String>,
        origin: Url,
        token: Option<Secret>,
        size_bytes: u64,
    ) -> Remote {
        Remote { client, name: name.into(), origin, token, size_bytes, place: Mutex::new(None) }
    }

    fn ask(&self, from: &Url, range: &Range<u64>, stop: Stop<'_>) -> Result<Response> {
        let mut url = from.clone();
        for _ in 0..REDIRECTS_MAX {
            let is_home = url.origin() == self.origin.origin();
            let token = self.token.as_ref().filter(|_| is_home);
            let request = Request { range: Some(range.clone()), token, ..Request::get(&url) };
            let response = self.client.send(&request, stop)?;
            if !(300..400).contains(&response.status()) {
                let moved = (url != self.origin).then_some(url);
                *self.place.lock().unwrap_or_else(PoisonError::into_inner) = moved;
                return Ok(response);
            }
            let to = response.header("location").and_then(|to| url.join(to).ok());
            url = to.ok_or_else(|| Error::new(ErrorKind::Io, "a redirect without a place to go"))?;
        }
        Err(Error::bad_input(format!("more than {REDIRECTS_MAX} redirects")))
    }
}

impl Ranged for Remote {
    fn name(&self) -> &str {
        &self.name
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn open(&self, range: Range<u64>, stop: Stop<'_>) -> Result<Box<dyn Body>> {
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut response = self.ask(place.as_ref().unwrap_or(&self.origin), &range, stop)?;
        // A signed URL has expired.
        if place.is_some() && matches!(response.status(), 400 | 401 | 403 | 404 | 410) {
            response = self.ask(&self.origin, &range, stop)?;
        }
        match response.status() {
            206 => {}
            200 if range == (0..self.size_bytes) => {}
            status => return Err(Error::new(ErrorKind::Io, format!("the server answered {status}"))),
        }
        Ok(Box::new(Rest { response, left: range.end - range.start }))
    }
}

/// What is left of a body.
struct Rest {
    response: Response,
    left: u64,
}

impl Body for Rest {
    fn next(&mut self, stop: Stop<'_>) -> Result<Option<Bytes>> {
        if self.left == 0 {
            return Ok(None);
        }
        let piece = self.response.next(stop)?;
        let mut piece = piece.ok_or_else(|| Error::new(ErrorKind::Io, "the body ended early"))?;
        piece.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= piece.len() as u64;
        Ok(Some(piece))
    }
}
