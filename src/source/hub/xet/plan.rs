//! What the store says a range of a file is made of, and what of it is believed.

use super::super::super::http::Url;
use serde::Deserialize;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

/// The most bytes of a xorb, twice what the protocol allows.
const XORB_BYTES_MAX: u64 = 128 << 20;

/// The most terms and places of an answer: a window has half as many chunks if all are the smallest that there are (8 KiB).
const TERMS_MAX: usize = 16 << 10;

/// A run of chunks that makes up the next bytes of the file.
#[derive(Debug)]
pub(super) struct Term {
    /// Which chunks of the xorb.
    pub(super) chunks: Range<u32>,
    /// How many bytes they decode to.
    pub(super) decoded_bytes: u64,
    /// Where they are.
    pub(super) place: Arc<Place>,
}

/// A part of a xorb that can be asked for.
#[derive(PartialEq, Eq)]
pub(super) struct Place {
    /// Signed.
    pub(super) url: Url,
    /// The bytes to ask for: neither more nor fewer, for they are signed too.
    pub(super) bytes: Range<u64>,
    /// The chunks that they hold.
    pub(super) chunks: Range<u32>,
}

/// Without the URL, which is a secret.
impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "chunks {:?} in bytes {:?}", self.chunks, self.bytes)
    }
}

/// An answer of either version. The names are the protocol's.
#[derive(Deserialize)]
struct Answer {
    offset_into_first_range: u64,
    terms: Vec<TermSaid>,
    /// Version 1: places by xorb.
    fetch_info: Option<BTreeMap<String, Vec<PlaceSaid>>>,
    /// Version 2: addresses by xorb, each with its places.
    xorbs: Option<BTreeMap<String, Vec<PlacesSaid>>>,
}

#[derive(Deserialize)]
struct TermSaid {
    hash: String,
    unpacked_length: u32,
    range: Chunks,
}

#[derive(Deserialize)]
struct Chunks {
    start: u32,
    end: u32,
}

/// The last byte is in it.
#[derive(Deserialize)]
struct Bytes {
    start: u64,
    end: u64,
}

#[derive(Deserialize)]
struct PlaceSaid {
    range: Chunks,
    url: String,
    url_range: Bytes,
}

#[derive(Deserialize)]
struct PlacesSaid {
    url: String,
    ranges: Vec<Described>,
}

#[derive(Deserialize)]
struct Described {
    chunks: Chunks,
    bytes: Bytes,
}

/// Reads an answer about a window of `window_bytes`: how many bytes of the first term come before it, and the terms.
///
/// # Errors
/// What is wrong with it, to be read after the store's name.
pub(super) fn read(json: &[u8], window_bytes: u64, is_https: bool) -> Result<(u64, VecDeque<Term>), String> {
    let answer: Answer =
        serde_json::from_slice(json).map_err(|_| "answered something that is no list of terms".to_owned())?;
    let mut places: BTreeMap<String, Vec<Arc<Place>>> = BTreeMap::new();
    let mut place_count = 0;
    let said = answer.fetch_info.into_iter().flatten().flat_map(|(hash, places)| {
        places.into_iter().map(move |p| (hash.clone(), p.url, p.range, p.url_range))
    });
    let described = answer.xorbs.into_iter().flatten().flat_map(|(hash, addresses)| {
        addresses.into_iter().flat_map(move |address| {
            let PlacesSaid { url, ranges } = address;
            let hash = hash.clone();
            ranges.into_iter().map(move |d| (hash.clone(), url.clone(), d.chunks, d.bytes))
        })
    });
    for (hash, url, chunks, bytes) in said.chain(described) {
        let place = place(&url, &chunks, &bytes, is_https)?;
        place_count += 1;
        if place_count > TERMS_MAX || answer.terms.len() > TERMS_MAX {
            return Err(format!("names more than {TERMS_MAX} terms or places"));
        }
        places.entry(hash).or_default().push(Arc::new(place));
    }
    let mut terms = VecDeque::with_capacity(answer.terms.len());
    let mut total_bytes = 0u64;
    for term in answer.terms {
        let chunks = term.range.start..term.range.end;
        if chunks.is_empty() || term.unpacked_length == 0 {
            return Err("names a term without a chunk or a byte".to_owned());
        }
        let holds =
            |place: &&Arc<Place>| place.chunks.start <= chunks.start && chunks.end <= place.chunks.end;
        let place = places.get(&term.hash).and_then(|places| places.iter().find(holds));
        let place = Arc::clone(place.ok_or("names a term and not where its chunks are")?);
        let decoded_bytes = u64::from(term.unpacked_length);
        total_bytes = total_bytes.saturating_add(decoded_bytes);
        terms.push_back(Term { chunks, decoded_bytes, place });
    }
    let skip = answer.offset_into_first_range;
    if terms.front().is_none_or(|first| skip >= first.decoded_bytes) {
        return Err("names no term in which the range begins".to_owned());
    }
    if total_bytes - skip < window_bytes {
        return Err("has fewer bytes of the file than the hub lists".to_owned());
    }
    Ok((skip, terms))
}

fn place(url: &str, chunks: &Chunks, bytes: &Bytes, is_https: bool) -> Result<Place, String> {
    let url = Url::parse(url).map_err(|_| "names an address that is none")?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("names an address that is no web server's".to_owned());
    }
    if is_https && url.scheme() == "http" {
        return Err("leads from https to http".to_owned());
    }
    let end = bytes.end.checked_add(1).filter(|end| *end > bytes.start);
    let end = end.ok_or("names bytes that end before they begin")?;
    if end - bytes.start > XORB_BYTES_MAX {
        return Err("names a xorb larger than the protocol allows".to_owned());
    }
    if chunks.start >= chunks.end {
        return Err("names a place without a chunk".to_owned());
    }
    Ok(Place { url, bytes: bytes.start..end, chunks: chunks.start..chunks.end })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(hash: &str, size: u64, start: u64, end: u64) -> serde_json::Value {
        serde_json::json!({"hash": hash, "unpacked_length": size, "range": {"start": start, "end": end}})
    }

    #[test]
    fn answers_are_read_or_refused() {
        let first = |url: &str, last: u64| serde_json::json!({"a": [{"range": {"start": 2, "end": 9}, "url": url, "url_range": {"start": 5, "end": last}}]});
        let second = |url: &str| {
            serde_json::json!({"a": [{"url": url, "ranges": [
                {"chunks": {"start": 0, "end": 1}, "bytes": {"start": 0, "end": 4}},
                {"chunks": {"start": 2, "end": 9}, "bytes": {"start": 5, "end": 104}}]}]})
        };
        let answer = |skip: u64, terms: &[serde_json::Value], key: &str, places: serde_json::Value| {
            serde_json::json!({"offset_into_first_range": skip, "terms": terms, key: places}).to_string()
        };
        let https = "https://x/y?secret";
        let one = [term("a", 100, 3, 9)];
        #[rustfmt::skip]
        let rows = [
            ("first", answer(10, &one, "fetch_info", first(https, 104)), None),
            ("second", answer(10, &one, "xorbs", second(https)), None),
            ("short", answer(11, &one, "fetch_info", first(https, 104)), Some("fewer bytes")),
            ("skips all", answer(100, &one, "fetch_info", first(https, 104)), Some("begins")),
            ("no terms", answer(0, &[], "fetch_info", first(https, 104)), Some("begins")),
            ("no places", answer(10, &one, "other", first(https, 104)), Some("not where")),
            ("other xorb", answer(10, &[term("b", 100, 3, 9)], "xorbs", second(https)), Some("not where")),
            ("outside", answer(10, &[term("a", 100, 3, 10)], "xorbs", second(https)), Some("not where")),
            ("across", answer(10, &[term("a", 100, 0, 9)], "xorbs", second(https)), Some("not where")),
            ("no chunk", answer(0, &[term("a", 100, 3, 3)], "xorbs", second(https)), Some("without a chunk")),
            ("no byte", answer(0, &[term("a", 0, 3, 9)], "xorbs", second(https)), Some("or a byte")),
            ("huge", answer(0, &[term("a", 1 << 40, 3, 9)], "xorbs", second(https)), Some("no list")),
            ("to http", answer(10, &one, "fetch_info", first("http://x/y", 104)), Some("https to http")),
            ("scheme", answer(10, &one, "fetch_info", first("file:///etc/passwd", 104)), Some("no web server")),
            ("no address", answer(10, &one, "fetch_info", first("secret", 104)), Some("is none")),
            ("backwards", answer(10, &one, "fetch_info", first(https, 3)), Some("end before")),
            ("endless", answer(10, &one, "fetch_info", first(https, u64::MAX)), Some("end before")),
            ("large", answer(10, &one, "fetch_info", first(https, 1 << 40)), Some("larger")),
            ("many", answer(10, &vec![term("a", 100, 3, 9); TERMS_MAX + 1], "xorbs", second(https)), Some("more than")),
            ("page", "<html>".to_owned(), Some("no list")),
        ];
        for (case, json, expected) in rows {
            match (read(json.as_bytes(), 90, true), expected) {
                (Ok((skip, terms)), None) => {
                    assert_eq!((skip, terms.len()), (10, 1), "{case}");
                    assert_eq!(
                        (terms[0].place.bytes.clone(), terms[0].chunks.clone()),
                        (5..105, 3..9),
                        "{case}"
                    );
                    assert!(!format!("{terms:?}").contains("secret"));
                }
                (Err(what), Some(word)) => {
                    assert!(what.contains(word) && !what.contains("secret"), "{case}: {what}");
                }
                (got, _) => panic!("{case}: {got:?}"),
            }
        }
    }
}
