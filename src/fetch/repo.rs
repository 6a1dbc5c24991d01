//! One repo: revision, listing, choice, what is there, transfer, names.

mod bring;
mod known;
mod locking;

use super::choose::{LeftOut, Wishes};
use super::origin::Origin;
use super::store::{self, Found, Store};
use super::transfer::{self, Digest};
use super::wish::Wish;
use crate::error::{Error, ErrorKind, Result};
use crate::run::job::{Control, Job};
use crate::source::hub::api::TreeFile;
use crate::source::hub::cache::Cache;
use crate::text::{Shown, bytes, grouped};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How to fetch.
#[derive(Debug, Clone)]
pub struct Options {
    /// The cache: where files go, or, with a folder, where they may be copied from.
    pub cache: Option<Cache>,
    /// A folder that receives the files instead of the cache.
    pub local_dir: Option<PathBuf>,
    /// Which files.
    pub wishes: Wishes,
    /// How files are moved.
    pub transfer: transfer::Options,
    /// Ask the hub again for what is known of the commit.
    pub refresh: bool,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    /// Whether the cache may hold links.
    pub links: bool,
    /// Refuse files whose hash nothing tells, and read again those that are there.
    pub require_hash: bool,
    /// The lock file.
    pub lock: Option<PathBuf>,
    /// Take what the lock file says and nothing else, instead of writing it.
    pub locked: bool,
    /// Files that came another way, by their paths: compared with the listing, and stored.
    pub at_hand: BTreeMap<String, Vec<u8>>,
    /// How long another process may hold a lock and write nothing.
    pub lock_patience: Duration,
}

impl Options {
    /// Into this cache, all else as usual.
    pub fn new(cache: Option<Cache>) -> Options {
        Options {
            cache,
            local_dir: None,
            wishes: Wishes::default(),
            transfer: transfer::Options::default(),
            refresh: false,
            dry_run: false,
            links: true,
            require_hash: false,
            lock: None,
            locked: false,
            at_hand: BTreeMap::new(),
            lock_patience: Duration::from_secs(300),
        }
    }
}

/// Where a file's bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Over the network.
    Fetched,
    /// It was there.
    Reused,
    /// Copied or linked from elsewhere on this machine.
    Copied,
}

/// A file that was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its path in the repo.
    pub path: String,
    /// Its size.
    pub size_bytes: u64,
    /// Its SHA-256, where it is known.
    pub sha256: Option<String>,
    /// Git's SHA-1 of it, where it is known.
    pub blob_id: Option<String>,
    /// Where it came from; in a dry run, where it would.
    pub how: How,
    /// Whether a listing told its hash.
    pub is_verified: bool,
}

/// What was fetched.
#[derive(Debug, Clone, PartialEq)]
pub struct Fetched {
    /// The repo's id.
    pub repo: String,
    /// The revision that was asked for.
    pub revision: String,
    /// The commit that it stood for.
    pub commit: String,
    /// The directory that looks like the repo.
    pub path: PathBuf,
    /// The chosen files, in the listing's order.
    pub files: Vec<File>,
    /// Bytes of the files that came, or would come, over the network.
    pub fetched_bytes: u64,
    /// Of these, bytes that an earlier run had left.
    pub resumed_bytes: u64,
    /// Bytes that the network brought, those that came twice counted twice.
    pub received_bytes: u64,
    /// Bytes that were there.
    pub reused_bytes: u64,
    /// What stayed out.
    pub left_out: Vec<LeftOut>,
    /// What a person should know.
    pub notes: Vec<String>,
    /// How long it took.
    pub seconds: f64,
    /// Whether nothing was done.
    pub is_dry_run: bool,
}

impl Fetched {
    /// The bytes of all chosen files.
    pub fn size_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.size_bytes).sum()
    }
}

/// Fetches what `wish` names. Without an origin nothing is asked of the network: what is not there is an error.
///
/// # Errors
/// The job's. `NotFound`: no such repo, revision, file or quantisation, no lock file; offline, what is missing. `NotAllowed`:
/// a gated repo, a token that does not serve, a place that cannot be written. `Usage`: a choice that is needed. `Io`,
/// `RateLimited`: the network's, after retries. `Integrity`: a hash differs, from the listing or from the lock file.
/// `NoSpace`. `BadInput`: a listing that is refused.
pub fn fetch(origin: Option<Arc<dyn Origin>>, wish: Wish, options: Options) -> Job<Fetched> {
    Job::start("fetch", false, move |control| {
        let started = Instant::now();
        let id = wish.name().to_owned();
        let work = Work { hub: origin.as_deref(), wish: &wish, options: &options, control };
        let mut fetched = work.run().map_err(|e| e.file(id))?;
        fetched.seconds = started.elapsed().as_secs_f64();
        Ok(fetched)
    })
}

struct Work<'a> {
    /// Where files come from; nothing offline.
    hub: Option<&'a dyn Origin>,
    wish: &'a Wish,
    options: &'a Options,
    control: &'a Control,
}

/// A chosen file, as far as it is.
struct Part<'a> {
    file: &'a TreeFile,
    /// What its bytes must hash to.
    expected: Option<Digest>,
    found: Found,
}

impl Work<'_> {
    fn run(&self) -> Result<Fetched> {
        let wishes = self.wish.with(&self.options.wishes);
        let (mut file, locked) = self.lock_file(&wishes)?;
        let commit = self.commit(locked.as_ref())?;
        let store = self.store(&commit)?;
        let tree = self.tree(&store, &commit)?;
        let mut fresh = self.options.at_hand.clone();
        let selection = self.choose(&tree, &store, &commit, &wishes, &mut fresh)?;
        let mut notes = selection.notes.clone();
        let chosen: Vec<&TreeFile> = selection.take.iter().filter_map(|&i| tree.files.get(i)).collect();
        if chosen.is_empty() && !(wishes.include.is_empty() && wishes.exclude.is_empty()) {
            return Err(Error::usage("no file of it is left: what is included is excluded")
                .hint("fewer --exclude, or other --include"));
        }
        let hashes = self.compare(&chosen, locked.as_ref(), &commit, tree.is_listed)?;
        let mut parts: Vec<Part<'_>> = chosen
            .iter()
            .map(|file| Part {
                file,
                expected: hashes.get(file.path.as_str()).copied().or_else(|| store::expected(file)),
                found: Found::Absent,
            })
            .collect();
        self.find(&store, &mut parts, &mut notes)?;
        let absent: Vec<&TreeFile> =
            parts.iter().filter(|p| p.found == Found::Absent).map(|p| p.file).collect();
        if self.hub.is_none() && !absent.is_empty() {
            return Err(self.incomplete(&absent));
        }
        if self.options.local_dir.is_some() {
            notes.extend(replaced(&store, &parts, self.options.dry_run));
        }
        let before: Vec<Found> = parts.iter().map(|p| p.found.clone()).collect();
        let is_listed = tree.is_listed;
        let mut brought = bring::Brought::default();
        if !self.options.dry_run {
            brought = self.carry_out(&store, &commit, &mut parts, &mut fresh)?;
            let listed = is_listed.then_some(tree.files.as_slice());
            let trouble = store.finish(&self.wish.repo, listed, selection.left_out.is_empty())?;
            // What was all there is perhaps in a place that cannot be written, and serves as it is.
            if parts.iter().any(|p| p.found != Found::Here) {
                notes.extend(trouble.into_iter().map(|t| format!("not noted for the next time: {t}")));
            }
        }
        let unverified = parts.iter().filter(|p| p.expected.is_none()).count();
        if unverified > 0 {
            let these = if unverified == 1 { "1 file is" } else { &format!("{unverified} files are") };
            notes.push(format!("{these} unverified: no listing tells a hash"));
        }
        let files: Vec<File> = parts
            .iter()
            .zip(&before)
            .map(|(part, before)| self.file(part, before, &brought.digests))
            .collect();
        let sum = |how: &dyn Fn(How) -> bool| files.iter().filter(|f| how(f.how)).map(|f| f.size_bytes).sum();
        let mut fetched = Fetched {
            repo: self.wish.name().to_owned(),
            revision: self.wish.repo.revision.clone(),
            commit,
            path: store.path(),
            fetched_bytes: sum(&|how| how == How::Fetched),
            resumed_bytes: brought.resumed_bytes,
            received_bytes: brought.received_bytes,
            reused_bytes: sum(&|how| how != How::Fetched),
            files,
            left_out: selection.left_out,
            notes,
            seconds: 0.0,
            is_dry_run: self.options.dry_run,
        };
        if let (Some(path), false, false) = (&self.options.lock, self.options.locked, self.options.dry_run) {
            let source = self.locked(&store, &wishes, &mut fetched)?;
            file.set(source);
            file.write(path)?;
        }
        Ok(fetched)
    }

    fn stop(&self) -> bool {
        self.control.is_stopped()
    }

    fn store(&self, commit: &str) -> Result<Store> {
        let repo = &self.wish.repo;
        match (&self.options.local_dir, &self.options.cache) {
            (Some(root), cache) => Ok(Store::folder(root, cache.as_ref(), repo, commit)),
            (None, Some(cache)) => Ok(Store::cache(cache, repo, commit, self.options.links)),
            (None, None) => Err(Error::not_found("no cache: neither `HF_HOME` nor a home directory is set")
                .hint("--cache-dir DIR, or --local-dir DIR")),
        }
    }

    fn summary(&self, commit: &str, parts: &[Part<'_>]) -> String {
        let all: u64 = parts.iter().map(|p| p.file.size_bytes).sum();
        let left: u64 = parts.iter().filter(|p| p.found == Found::Absent).map(|p| p.file.size_bytes).sum();
        let files = match parts.len() {
            1 => "1 file".to_owned(),
            n => format!("{} files", grouped(n as u64)),
        };
        let there = match all - left {
            0 => String::new(),
            n => format!("   {} there", bytes(n)),
        };
        let short = commit.get(..12).unwrap_or(commit);
        let name = match self.wish.repo.revision.as_str() {
            "" => Shown(self.wish.name()).to_string(),
            revision => format!("{}@{}", self.wish.repo.id, Shown(revision)),
        };
        format!("{name}   {short}   {files}   {}{there}", bytes(all))
    }

    fn incomplete(&self, absent: &[&TreeFile]) -> Error {
        const SHOWN_MAX: usize = 8;
        let size: u64 = absent.iter().map(|f| f.size_bytes).sum();
        let names: Vec<String> =
            absent.iter().take(SHOWN_MAX).map(|f| format!("`{}`", Shown(&f.path))).collect();
        let more = match absent.len().saturating_sub(SHOWN_MAX) {
            0 => String::new(),
            n => format!(", and {n} more"),
        };
        let what = if absent.len() == 1 { "1 file".to_owned() } else { format!("{} files", absent.len()) };
        let (place, hint) = match self.options.local_dir {
            Some(_) => ("folder", "without --offline and HF_HUB_OFFLINE they are fetched"),
            None => ("cache", "without --offline and HF_HUB_OFFLINE they are fetched"),
        };
        Error::not_found(format!("is in the {place} without {what} of it, {}", bytes(size)))
            .file(self.wish.repo.id.clone())
            .detail(format!("missing: {}{more}", names.join(", ")))
            .hint(hint)
    }

    fn file(&self, part: &Part<'_>, before: &Found, digests: &BTreeMap<String, Digest>) -> File {
        let found = digests.get(&part.file.path);
        let sha256 = match (found, &part.expected) {
            (Some(digest @ Digest::Sha256(_)), _) | (None, Some(digest @ Digest::Sha256(_))) => {
                Some(digest.to_string())
            }
            _ => part.file.sha256.clone(),
        };
        File {
            path: part.file.path.clone(),
            size_bytes: part.file.size_bytes,
            sha256,
            blob_id: part.file.blob_id.clone(),
            how: match (before, &part.found) {
                (_, Found::Absent) => How::Fetched,
                (Found::At(_), _) | (Found::Absent, Found::At(_)) => How::Copied,
                _ => How::Reused,
            },
            is_verified: part.expected.is_some(),
        }
    }
}

/// Says which files of the user's folder give way to the repo's.
fn replaced(store: &Store, parts: &[Part<'_>], is_dry_run: bool) -> Option<String> {
    const SHOWN_MAX: usize = 4;
    let is_other = |p: &&Part<'_>| p.found == Found::Absent && store.place(p.file).exists();
    let names: Vec<String> =
        parts.iter().filter(is_other).map(|p| format!("`{}`", Shown(&p.file.path))).collect();
    let shown = names.get(..SHOWN_MAX).unwrap_or(&names).join(", ");
    let more = if names.len() > SHOWN_MAX { ", …" } else { "" };
    let (is, are) = if is_dry_run { ("would be", "would be") } else { ("was", "were") };
    match names.len() {
        0 => None,
        1 => Some(format!("another file of the folder {is} replaced: {shown}")),
        n => Some(format!("{n} other files of the folder {are} replaced: {shown}{more}")),
    }
}

fn differs(expected: &Digest, found: &Digest) -> Error {
    let message = format!("has {} {found}, expected {expected}", expected.name());
    Error::new(ErrorKind::Integrity, message).hint("fetch again; if it differs again, the server is wrong")
}
