//! Object stores: S3 and what speaks like it, Google Cloud Storage, Azure. The only place that names object_store, and the
//! runtime that it needs.
//!
//! Where a store is and who asks is taken from the environment, by the names that each cloud's own tools use: keys in
//! variables, a web identity, a container's or a machine's role; Google's application default credentials. The files that
//! those tools keep (`~/.aws` with its profiles and SSO, `~/.azure`) are not read. A bucket for everybody is read unsigned
//! where the environment says so (`AWS_SKIP_SIGNATURE=true`).
//!
//! An object is one version of it: the ETag of the first look is required of every read, so a model cannot be read half
//! before and half after somebody wrote it.

mod failure;
mod transport;

use super::ahead::Ahead;
use super::local::check_relative;
use super::ranged::{Body, Patience, Policy, Ranged, Stop, stopped};
use super::{Entry, Place, ReadAt, stop, without_secrets};
use crate::error::{Error, ErrorKind, Result};
use crate::text::{Shown, grouped};
use bytes::Bytes;
use failure::{Asked, changed, failure};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use hashbrown::HashMap;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path as Key;
use object_store::{ClientOptions, GetOptions, GetResultPayload, ObjectStore, RetryConfig};
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use transport::Connector;

/// How often a waiting thread looks whether it shall stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The most names that a folder of a store is listed to.
const LISTED_MAX: usize = 20_000;

/// The most pages of a listing: a store may send them as small as it likes.
const PAGES_MAX: usize = 1000;

/// Which cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cloud {
    Aws,
    Google,
    Azure,
}

/// The schemes of stores.
const SCHEMES: &[(&str, Cloud)] = &[
    ("s3", Cloud::Aws),
    ("s3a", Cloud::Aws),
    ("gs", Cloud::Google),
    ("gcs", Cloud::Google),
    ("az", Cloud::Azure),
    ("azure", Cloud::Azure),
    ("abfs", Cloud::Azure),
    ("abfss", Cloud::Azure),
    ("adl", Cloud::Azure),
];

/// Whether URLs of this scheme name objects of a store.
pub fn is_store(scheme: &str) -> bool {
    SCHEMES.iter().any(|(s, _)| *s == scheme)
}

/// How stores are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Names and values as in the environment (`aws_endpoint_url`), and before it.
    pub options: Vec<(String, String)>,
    /// The longest wait for a connection.
    pub connect: Duration,
    /// The longest wait for the head of an answer, or a page of a listing.
    pub answer: Duration,
    /// The longest wait for the next piece of an object.
    pub piece: Duration,
    /// The fewest bytes that must come in so much waiting, for what drips never stalls.
    pub slowest: (u64, Duration),
    /// How often failures are tried again.
    pub policy: Policy,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            options: Vec::new(),
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            piece: Duration::from_secs(10),
            slowest: (64 << 10, Duration::from_secs(30)),
            policy: Policy::default(),
        }
    }
}

/// What hoist asks of a store.
trait Reads: ObjectStore + PaginatedListStore {}
impl<T: ObjectStore + PaginatedListStore> Reads for T {}

/// A bucket or container.
#[derive(Clone)]
pub struct Bucket(Arc<Inner>);

struct Inner {
    /// `s3://bucket`.
    name: String,
    cloud: Cloud,
    store: Arc<dyn Reads>,
    settings: Settings,
    runtime: &'static Runtime,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bucket {}", self.0.name)
    }
}

/// One runtime for all stores.
fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let made = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("object")
        .enable_all()
        .build()
        .map_err(|e| Error::io("no network runtime can be started", e))?;
    Ok(RUNTIME.get_or_init(|| made))
}

impl Bucket {
    /// The bucket of a URL, and the key behind it: `s3://bucket/some/key`. A key is taken as it is written.
    ///
    /// # Errors
    /// `Usage`: not such a URL; contradictions in the environment. `NotAllowed`: half a pair of keys.
    pub fn of_url(url: &str, settings: Settings) -> Result<(Bucket, String)> {
        let wrong = |what: &str| {
            Error::usage(format!(
                "`{}` {what}: `s3://bucket/folder` is expected",
                Shown(&without_secrets(url))
            ))
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("is no URL"))?;
        let found = SCHEMES.iter().find(|(s, _)| *s == scheme);
        let &(_, cloud) = found.ok_or_else(|| wrong("names no store"))?;
        let (authority, key) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '@' | '$');
        if authority.is_empty() || !authority.chars().all(plain) {
            return Err(wrong("names no bucket"));
        }
        let key = key.trim_end_matches('/').to_owned();
        if !key.is_empty() {
            Key::parse(&key).map_err(|_| wrong("has a key that no store holds"))?;
        }
        let name = format!("{scheme}://{authority}");
        // The spelling that object_store knows.
        let known = if cloud == Cloud::Google { format!("gs://{authority}") } else { name.clone() };
        let store = build(cloud, &known, &settings)
            .map_err(|e| failure(&e, cloud, Asked::Setup).file(name.clone()))?;
        Ok((Bucket(Arc::new(Inner { name, cloud, store, settings, runtime: runtime()? })), key))
    }

    /// `s3://bucket`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Waits for an answer: in the runtime, where what is wrong with an answer cannot end this thread.
    fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = object_store::Result<T>> + Send + 'static,
        asked: Asked,
        stop: Stop<'_>,
    ) -> Result<T> {
        let mut task = self.0.runtime.spawn(work);
        let limit = self.0.settings.connect + self.0.settings.answer;
        match self.patient(&mut task, limit, stop) {
            Ok(Some(Ok(Ok(done)))) => Ok(done),
            Ok(Some(Ok(Err(e)))) => Err(failure(&e, self.0.cloud, asked)),
            Ok(Some(Err(_))) => Err(Error::new(ErrorKind::Io, "the store's answer makes no sense")),
            Ok(None) => {
                task.abort();
                Err(Error::new(ErrorKind::Io, format!("the store did not answer within {limit:?}")))
            }
            Err(e) => {
                task.abort();
                Err(e)
            }
        }
    }

    /// Waits on this thread; `None` after `limit`.
    fn patient<T>(
        &self,
        work: impl Future<Output = T>,
        limit: Duration,
        stop: Stop<'_>,
    ) -> Result<Option<T>> {
        let end = Instant::now() + limit;
        self.0.runtime.block_on(async {
            let mut work = pin!(work);
            loop {
                let left = end.saturating_duration_since(Instant::now());
                if let Ok(done) = tokio::time::timeout(left.min(LOOK_EVERY), &mut work).await {
                    return Ok(Some(done));
                }
                if stop() {
                    return Err(stopped());
                }
                if left.is_zero() {
                    return Ok(None);
                }
            }
        })
    }

    /// Looks at an object: one attempt.
    ///
    /// # Errors
    /// `NotFound`, `NotAllowed`, `Io`, `RateLimited`.
    pub fn object(&self, key: &str, stop: Stop<'_>) -> Result<Object> {
        let name = format!("{}/{key}", self.0.name);
        let path = parse(key)?;
        let store = Arc::clone(&self.0.store);
        let options = GetOptions { head: true, ..GetOptions::default() };
        let looked = self.wait(async move { store.get_opts(&path, options).await }, Asked::Object, stop);
        let meta = looked.map_err(|e| e.file(name.clone()))?.meta;
        Object::new(self, key, Seen { size_bytes: meta.size, etag: meta.e_tag })
    }

    /// What is in a folder of the bucket (the whole of it where `folder` is empty): names within the folder, and of objects
    /// how they were seen. One attempt for each page.
    fn list(&self, folder: &str, stop: Stop<'_>) -> Result<Vec<(Entry, Option<Seen>)>> {
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let mut found = Vec::new();
        let mut token: Option<String> = None;
        let mut patience = Patience::new(self.0.settings.policy);
        for _ in 0..PAGES_MAX {
            let page = loop {
                let store = Arc::clone(&self.0.store);
                let (prefix, page_token) = (prefix.clone(), token.clone());
                let options = PaginatedListOptions {
                    delimiter: Some("/".into()),
                    page_token,
                    ..PaginatedListOptions::default()
                };
                let work = async move {
                    store
                        .list_paginated(Some(&prefix).filter(|p| !p.is_empty()).map(String::as_str), options)
                        .await
                };
                match self.wait(work, Asked::Listing, stop) {
                    Ok(page) => break page,
                    Err(e) => patience.wait(e, stop)?,
                }
            };
            // Pages are few enough to be asked for each by itself.
            patience = Patience::new(self.0.settings.policy);
            let within = |key: &Key| {
                let name = key.as_ref().strip_prefix(&prefix)?;
                // What no file of a model is called is no part of one; an empty name is the folder itself.
                (check_relative(name).is_ok() && !name.contains('/')).then(|| name.to_owned())
            };
            for key in &page.result.common_prefixes {
                let Some(name) = within(key) else { continue };
                found.push((Entry { name, size_bytes: 0, is_directory: true }, None));
            }
            for object in page.result.objects {
                let Some(name) = within(&object.location) else { continue };
                let seen = Seen { size_bytes: object.size, etag: object.e_tag };
                found.push((Entry { name, size_bytes: object.size, is_directory: false }, Some(seen)));
            }
            if found.len() > LISTED_MAX {
                let message = format!("holds more than {} names", grouped(LISTED_MAX as u64));
                return Err(Error::unsupported(message).hint("name a folder that holds one model"));
            }
            match page.page_token {
                Some(next) if token.as_ref() == Some(&next) => {
                    return Err(Error::bad_input("the store's listing repeats a page"));
                }
                Some(next) => token = Some(next),
                None => {
                    found.sort_by(|a, b| a.0.cmp(&b.0));
                    found.dedup_by(|a, b| a.0.name == b.0.name);
                    return Ok(found);
                }
            }
        }
        Err(Error::bad_input(format!("the store's listing has more than {PAGES_MAX} pages")))
    }
}

fn parse(key: &str) -> Result<Key> {
    Key::parse(key).map_err(|_| Error::bad_input(format!("`{}` is no key of a store", Shown(key))))
}

/// The store of `s3://bucket`.
fn build(cloud: Cloud, url: &str, settings: &Settings) -> object_store::Result<Arc<dyn Reads>> {
    let client = ClientOptions::new()
        .with_user_agent(object_store::HeaderValue::from_static(concat!("hoist/", env!("CARGO_PKG_VERSION"))))
        .with_connect_timeout(settings.connect)
        // Not for a whole object: each thing that is waited for has a limit of its own.
        .with_timeout_disabled();
    // Each failure is seen by whoever asked, who knows how often it is worth asking again.
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let options = settings.options.iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
    Ok(match cloud {
        Cloud::Aws => {
            let mut builder = AmazonS3Builder::from_env();
            for (name, value) in options {
                if let Ok(key) = name.parse::<AmazonS3ConfigKey>() {
                    builder = builder.with_config(key, value);
                }
            }
            // Who writes `http://` means it.
            let endpoints = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint];
            let is_plain = endpoints.iter().filter_map(|k| builder.get_config_value(k)).next();
            let is_plain = is_plain.is_some_and(|e| e.starts_with("http://"));
            let client = if is_plain { client.with_allow_http(true) } else { client };
            let allowed = builder
                .get_config_value(&AmazonS3ConfigKey::Client(object_store::ClientConfigKey::AllowHttp));
            let client = match allowed.is_some_and(|a| a == "true") {
                true => client.with_allow_http(true),
                false => client,
            };
            let builder = builder.with_url(url).with_client_options(client).with_retry(retry);
            Arc::new(builder.with_http_connector(Connector).build()?)
        }
        Cloud::Google => {
            let mut builder = GoogleCloudStorageBuilder::from_env();
            for (name, value) in options {
                if let Ok(key) = name.parse::<GoogleConfigKey>() {
                    builder = builder.with_config(key, value);
                }
            }
            let is_plain =
                builder.get_config_value(&GoogleConfigKey::BaseUrl).is_some_and(|e| e.starts_with("http://"));
            let client = if is_plain { client.with_allow_http(true) } else { client };
            let builder = builder.with_url(url).with_client_options(client).with_retry(retry);
            Arc::new(builder.with_http_connector(Connector).build()?)
        }
        Cloud::Azure => {
            let mut builder = MicrosoftAzureBuilder::from_env();
            for (name, value) in options {
                if let Ok(key) = name.parse::<AzureConfigKey>() {
                    builder = builder.with_config(key, value);
                }
            }
            let is_plain =
                builder.get_config_value(&AzureConfigKey::Endpoint).is_some_and(|e| e.starts_with("http://"));
            let emulated =
                builder.get_config_value(&AzureConfigKey::UseEmulator).is_some_and(|e| e == "true");
            let client = if is_plain || emulated { client.with_allow_http(true) } else { client };
            let builder = builder.with_url(url).with_client_options(client).with_retry(retry);
            Arc::new(builder.with_http_connector(Connector).build()?)
        }
    })
}

/// How an object was when it was first seen.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    size_bytes: u64,
    etag: Option<String>,
}

/// One object, as it was when it was first seen.
#[derive(Debug)]
pub struct Object {
    bucket: Bucket,
    key: Key,
    name: String,
    seen: Seen,
}

impl Object {
    fn new(bucket: &Bucket, key: &str, seen: Seen) -> Result<Object> {
        let name = format!("{}/{key}", bucket.0.name);
        Ok(Object { bucket: bucket.clone(), key: parse(key)?, name, seen })
    }

    /// What the store calls this version of it.
    pub fn etag(&self) -> Option<&str> {
        self.seen.etag.as_deref()
    }
}

impl Ranged for Object {
    fn name(&self) -> &str {
        &self.name
    }

    fn size_bytes(&self) -> u64 {
        self.seen.size_bytes
    }

    fn version(&self) -> Option<&str> {
        self.etag()
    }

    fn open(&self, range: Range<u64>, stop: Stop<'_>) -> Result<Box<dyn Body>> {
        let named = |e: Error| e.file(self.name.clone());
        let (store, key) = (Arc::clone(&self.bucket.0.store), self.key.clone());
        let options = GetOptions {
            range: Some(range.clone().into()),
            if_match: self.seen.etag.clone(),
            ..GetOptions::default()
        };
        let work = async move { store.get_opts(&key, options).await };
        let answer = self.bucket.wait(work, Asked::Object, stop).map_err(|e| match e.kind() {
            // It was there.
            ErrorKind::NotFound => named(changed()),
            _ => named(e),
        })?;
        // A store that does not know the condition sends what it has.
        let is_same = answer.meta.size == self.seen.size_bytes
            && (self.seen.etag.is_none() || answer.meta.e_tag == self.seen.etag);
        if !is_same {
            return Err(named(changed()));
        }
        if answer.range != range {
            return Err(named(Error::new(ErrorKind::Io, "the store sends another range than was asked for")));
        }
        let GetResultPayload::Stream(pieces) = answer.payload;
        let left = range.end - range.start;
        let (waited, arrived_bytes) = (Duration::ZERO, 0);
        let (bucket, name) = (self.bucket.clone(), self.name.clone());
        Ok(Box::new(Pieces { bucket, name, pieces, left, waited, arrived_bytes }))
    }
}

/// What is left of a range.
struct Pieces {
    bucket: Bucket,
    name: String,
    pieces: BoxStream<'static, object_store::Result<Bytes>>,
    left: u64,
    /// Since the rate was last looked at.
    waited: Duration,
    arrived_bytes: u64,
}

impl Body for Pieces {
    fn next(&mut self, stop: Stop<'_>) -> Result<Option<Bytes>> {
        let named = |e: Error| e.file(self.name.clone());
        while self.left > 0 {
            let Settings { piece: limit, slowest: (bytes_min, over), .. } = self.bucket.0.settings;
            let started = Instant::now();
            let piece = match self.bucket.patient(self.pieces.next(), limit, stop)? {
                Some(Some(Ok(piece))) => piece,
                Some(Some(Err(e))) => return Err(named(failure(&e, self.bucket.0.cloud, Asked::Object))),
                Some(None) => return Err(named(Error::new(ErrorKind::Io, "the body ended early"))),
                None => return Err(named(Error::new(ErrorKind::Io, format!("nothing came for {limit:?}")))),
            };
            if piece.is_empty() {
                continue;
            }
            // Only what was spent here: a slow reader does not make a slow store.
            self.waited += started.elapsed();
            self.arrived_bytes += piece.len() as u64;
            if self.waited >= over {
                if self.arrived_bytes < bytes_min {
                    let message =
                        format!("only {} bytes came in {:?}", grouped(self.arrived_bytes), self.waited);
                    return Err(named(Error::new(ErrorKind::Io, message)));
                }
                (self.waited, self.arrived_bytes) = (Duration::ZERO, 0);
            }
            let take = piece.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= take as u64;
            return Ok(Some(piece.slice(..take)));
        }
        Ok(None)
    }
}

/// A folder of a bucket.
#[derive(Debug)]
pub struct ObjectPlace {
    bucket: Bucket,
    folder: String,
    /// What listings have told, by key: an object that is opened later is the one that was listed.
    seen: Mutex<HashMap<String, Seen>>,
    /// The store gives no listing to who asks.
    is_closed: AtomicBool,
}

impl ObjectPlace {
    /// The folder of a bucket that keys with this beginning make; the bucket itself where it is empty.
    pub fn new(bucket: Bucket, folder: impl Into<String>) -> ObjectPlace {
        ObjectPlace {
            bucket,
            folder: folder.into(),
            seen: Mutex::default(),
            is_closed: AtomicBool::new(false),
        }
    }

    fn key(&self, name: &str) -> String {
        match (self.folder.as_str(), name) {
            ("", name) => name.to_owned(),
            (folder, "") => folder.to_owned(),
            (folder, name) => format!("{folder}/{name}"),
        }
    }

    /// An object of the folder, by its listed name.
    ///
    /// # Errors
    /// `NotFound`, `NotAllowed`, `Io`, `RateLimited`; `BadInput` for a name that leads elsewhere.
    pub fn object(&self, name: &str) -> Result<Object> {
        check_relative(name)?;
        let key = self.key(name);
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(seen) = seen {
            return Object::new(&self.bucket, &key, seen);
        }
        let stop: Stop<'_> = &stop::is_set;
        let mut patience = Patience::new(self.bucket.0.settings.policy);
        loop {
            match self.bucket.object(&key, stop) {
                Ok(object) => return Ok(object),
                Err(e) => patience.wait(e, stop)?,
            }
        }
    }
}

impl Place for ObjectPlace {
    fn list(&self, under: &str) -> Result<Vec<Entry>> {
        if !under.is_empty() {
            check_relative(under)?;
        }
        let folder = self.key(under);
        let found = self.bucket.list(&folder, &stop::is_set);
        let found = found.map_err(|e| {
            self.is_closed.fetch_or(e.kind() == ErrorKind::NotAllowed, Ordering::Relaxed);
            e.file(format!("{}/{folder}", self.bucket.0.name))
        })?;
        let mut known = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entries = Vec::with_capacity(found.len());
        for (mut entry, seen) in found {
            if !under.is_empty() {
                entry.name = format!("{under}/{}", entry.name);
            }
            if let Some(seen) = seen {
                known.insert(self.key(&entry.name), seen);
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn open(&self, name: &str) -> Result<Arc<dyn ReadAt>> {
        Ok(Arc::new(Ahead::new(Arc::new(self.object(name)?), self.bucket.0.settings.policy)))
    }

    fn is_listed(&self) -> bool {
        !self.is_closed.load(Ordering::Relaxed)
    }
}
