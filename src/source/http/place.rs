//! Files on a web server: the one that a URL names, and what lies beside it.
//!
//! A web server lists nothing: what is there is found out by asking. Of what may lie beside a file only names that the
//! caller gives are asked for.

use super::super::ahead::Ahead;
use super::super::local::check_relative;
use super::super::ranged::{Patience, Policy, Ranged as _, Stop};
use super::super::{Entry, Place, ReadAt, stop};
use super::remote::{Remote, shown};
use super::{Client, Url};
use crate::error::{Error, ErrorKind, Result};
use crate::text::Shown;
use hashbrown::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A folder on a web server, in which one file was named.
#[derive(Debug)]
pub struct UrlPlace {
    client: Client,
    name: String,
    url: Url,
    beside: &'static [&'static str],
    policy: Policy,
    /// What was asked for already.
    found: Mutex<HashMap<String, Arc<Remote>>>,
    entries: OnceLock<Vec<Entry>>,
}

impl UrlPlace {
    /// The place of the file at `url`; `beside` are names that may lie there too. Beside a URL with a query nothing does:
    /// what is signed is signed for one file.
    ///
    /// # Errors
    /// `Usage`: the URL names a folder.
    pub fn new(
        client: Client,
        url: Url,
        beside: &'static [&'static str],
        policy: Policy,
    ) -> Result<UrlPlace> {
        let last = url.path_segments().and_then(|mut segments| segments.next_back()).unwrap_or_default();
        if check_relative(last).is_err() {
            return Err(Error::usage(format!("`{}` names no file", Shown(&shown(&url))))
                .hint("a folder on a web server cannot be listed: name a file, or the index of several"));
        }
        let name = last.to_owned();
        let beside = if url.query().is_some() { &[] } else { beside };
        Ok(UrlPlace { client, name, url, beside, policy, found: Mutex::default(), entries: OnceLock::new() })
    }

    /// The name of the file that the URL names.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where a file of the place is.
    fn url(&self, name: &str) -> Result<Url> {
        check_relative(name)?;
        let mut url = self.url.clone();
        if name != self.name {
            url.set_query(None);
            let mut segments =
                url.path_segments_mut().map_err(|()| Error::bad_input("the URL has no path"))?;
            segments.pop().extend(name.split('/').filter(|part| *part != "."));
        }
        Ok(url)
    }

    /// A file, as it was when it was first asked for.
    ///
    /// # Errors
    /// As [`Remote::web`], tried as often as it is worth it; `BadInput` for a name that leads elsewhere.
    pub fn file(&self, name: &str) -> Result<Arc<Remote>> {
        let known = self.found.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let url = self.url(name)?;
        let stop: Stop<'_> = &stop::is_set;
        let mut patience = Patience::new(self.policy);
        let found = loop {
            match Remote::web(self.client.clone(), url.clone(), stop) {
                Ok(found) => break Arc::new(found),
                Err(e) => patience.wait(e, stop)?,
            }
        };
        self.found.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), Arc::clone(&found));
        Ok(found)
    }
}

impl Place for UrlPlace {
    fn list(&self, under: &str) -> Result<Vec<Entry>> {
        if !under.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(entries) = self.entries.get() {
            return Ok(entries.clone());
        }
        let mut entries = Vec::new();
        let beside = self.beside.iter().copied().filter(|name| *name != self.name);
        for name in std::iter::once(self.name.as_str()).chain(beside) {
            match self.file(name) {
                Ok(file) => {
                    entries.push(Entry {
                        name: name.to_owned(),
                        size_bytes: file.size_bytes(),
                        is_directory: false,
                    });
                }
                Err(e) if name == self.name => return Err(e),
                Err(e) if matches!(e.kind(), ErrorKind::Signal(_)) || e.kind().is_worth_a_retry() => {
                    return Err(e);
                }
                // Many servers answer 403 for what is not there, or a page.
                Err(_) => {}
            }
        }
        entries.sort();
        Ok(self.entries.get_or_init(|| entries).clone())
    }

    fn open(&self, name: &str) -> Result<Arc<dyn ReadAt>> {
        Ok(Arc::new(Ahead::new(self.file(name)?, self.policy)))
    }

    fn is_listed(&self) -> bool {
        false
    }
}
