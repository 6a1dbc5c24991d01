//! One repo: revision, listing, choice, what is there, transfer, names.

use super::choose::{self, Choice, LeftOut, Selection, Wishes};
use super::hash::{self, Kind};
use super::store::{self, Found, Store, held, listing};
use super::transfer::{self, Digest, Item, transfer};
use super::wish::Wish;
use crate::error::{Error, ErrorKind, Result};
use crate::format::shards::INDEX_BYTES_MAX;
use crate::lock::{self, Lock};
use crate::run::job::{Control, Job};
use crate::run::parallel;
use crate::source::Entry;
use crate::source::hub::api::{Hub, Tree, TreeFile};
use crate::source::hub::cache::{Cache, is_commit};
use crate::source::ranged::Patience;
use crate::text::{Shown, bytes, grouped};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
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
    /// Bytes that came, or would come, over the network.
    pub fetched_bytes: u64,
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

/// Fetches what `wish` names. Without a hub nothing is asked of the network: what is not there is an error.
///
/// # Errors
/// The job's. `NotFound`: no such repo, revision, file or quantisation, no lock file; offline, what is missing. `NotAllowed`:
/// a gated repo, a token that does not serve, a place that cannot be written. `Usage`: a choice that is needed. `Io`,
/// `RateLimited`: the network's, after retries. `Integrity`: a hash differs, from the listing or from the lock file.
/// `NoSpace`. `BadInput`: a listing that is refused.
pub fn fetch(hub: Option<Hub>, wish: Wish, options: Options) -> Job<Fetched> {
    Job::start("fetch", false, move |control| {
        let started = Instant::now();
        let id = wish.repo.id.clone();
        let work = Work { hub: hub.as_ref(), wish: &wish, options: &options, control };
        let mut fetched = work.run().map_err(|e| e.file(id))?;
        fetched.seconds = started.elapsed().as_secs_f64();
        Ok(fetched)
    })
}

fn lock_mutex<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Work<'a> {
    hub: Option<&'a Hub>,
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
        let mut fresh = BTreeMap::new();
        let selection = self.choose(&tree, &store, &commit, &wishes, &mut fresh)?;
        let mut notes = selection.notes.clone();
        let chosen: Vec<&TreeFile> = selection.take.iter().filter_map(|&i| tree.files.get(i)).collect();
        let hashes = self.compare(&chosen, locked.as_ref(), &commit)?;
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
        let before: Vec<Found> = parts.iter().map(|p| p.found.clone()).collect();
        let is_listed = tree.is_listed;
        let mut digests = BTreeMap::new();
        if !self.options.dry_run {
            digests = self.carry_out(&store, &commit, &mut parts, &mut fresh)?;
            let listed = is_listed.then_some(tree.files.as_slice());
            // What is wholly there was perhaps found in a place that cannot be written.
            let trouble = store.finish(&self.wish.repo, listed, selection.left_out.is_empty());
            notes.extend(trouble.into_iter().map(|t| format!("not noted for the next time: {t}")));
        }
        let unverified = parts.iter().filter(|p| p.expected.is_none()).count();
        if unverified > 0 {
            let these = if unverified == 1 { "1 file is" } else { &format!("{unverified} files are") };
            notes.push(format!("{these} unverified: no listing tells a hash"));
        }
        let files: Vec<File> =
            parts.iter().zip(&before).map(|(part, before)| self.file(part, before, &digests)).collect();
        let sum = |how: &dyn Fn(How) -> bool| files.iter().filter(|f| how(f.how)).map(|f| f.size_bytes).sum();
        let mut fetched = Fetched {
            repo: self.wish.repo.id.clone(),
            revision: self.wish.repo.revision.clone(),
            commit,
            path: store.path(),
            fetched_bytes: sum(&|how| how == How::Fetched),
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

    /// The lock file as it is, and what it holds of this source where that binds.
    fn lock_file(&self, wishes: &Wishes) -> Result<(Lock, Option<lock::Source>)> {
        let Some(path) = &self.options.lock else {
            return match self.options.locked {
                true => Err(Error::usage("--locked needs a lock file: --lock FILE")),
                false => Ok(Default::default()),
            };
        };
        let lock = match Lock::read(path) {
            Err(e) if e.kind() == ErrorKind::NotFound && !self.options.locked => Lock::default(),
            read => read?,
        };
        if !self.options.locked {
            return Ok((lock, None));
        }
        let like = self.source(wishes, None);
        let found = lock.find(&like).cloned().ok_or_else(|| {
            let message = format!("`{}`, asked for like this, is not in the lock file", Shown(&like.uri));
            Error::new(ErrorKind::Integrity, message)
                .file(path.display().to_string())
                .hint("without --locked it is added")
        })?;
        Ok((lock, Some(found)))
    }

    fn source(&self, wishes: &Wishes, commit: Option<&str>) -> lock::Source {
        lock::Source {
            uri: self.wish.uri(),
            commit: commit.map(str::to_owned),
            include: wishes.include.clone(),
            exclude: wishes.exclude.clone(),
            all: wishes.all,
            files: Vec::new(),
        }
    }

    /// The commit: the locked one, the one that is named, the hub's, offline the cache's.
    fn commit(&self, locked: Option<&lock::Source>) -> Result<String> {
        let repo = &self.wish.repo;
        let locked = locked.and_then(|l| l.commit.as_deref());
        if let Some(commit) = locked {
            if !is_commit(commit) {
                return Err(Error::bad_input(format!("the lock file's commit `{}` is none", Shown(commit))));
            }
            return Ok(commit.to_owned());
        }
        if is_commit(&repo.revision) {
            return Ok(repo.revision.clone());
        }
        if let Some(hub) = self.hub {
            let commit = hub.commit(repo, &|| self.stop())?;
            return match is_commit(&commit) {
                true => Ok(commit),
                false => Err(Error::bad_input(format!(
                    "the hub says that `{}` is the commit `{}`, which is none",
                    Shown(&repo.revision),
                    Shown(&commit)
                ))),
            };
        }
        let known = match &self.options.cache {
            Some(cache) => cache.commit(repo)?,
            None => None,
        };
        known.ok_or_else(|| {
            let place =
                self.options.cache.as_ref().map(|c| c.root().display().to_string()).unwrap_or_default();
            let message =
                format!("revision `{}` is not in the cache at `{}`", Shown(&repo.revision), Shown(&place));
            Error::not_found(message).hint("without --offline it is fetched")
        })
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

    /// The listing: from disk, for a commit never changes; else the hub's; offline, what is there.
    fn tree(&self, store: &Store, commit: &str) -> Result<Tree> {
        let known = || store.listings().iter().find_map(|path| listing::read(path));
        let tree = match self.hub {
            Some(hub) => match if self.options.refresh { None } else { known() } {
                Some(files) => Tree { files, is_listed: true },
                None => hub.tree(&self.wish.repo, commit, &|| self.stop())?,
            },
            None => match known() {
                Some(files) => Tree { files, is_listed: true },
                None => Tree { files: on_disk(&store.path())?, is_listed: false },
            },
        };
        store::check_listing(&tree.files)?;
        if tree.files.is_empty() {
            return Err(match self.hub {
                Some(_) => Error::not_found("the repo has no files"),
                None => Error::not_found(format!("commit {commit} is not in the cache"))
                    .hint("without --offline it is fetched"),
            });
        }
        Ok(tree)
    }

    fn choose(
        &self,
        tree: &Tree,
        store: &Store,
        commit: &str,
        wishes: &Wishes,
        fresh: &mut BTreeMap<String, Vec<u8>>,
    ) -> Result<Selection> {
        let entry =
            |f: &TreeFile| Entry { name: f.path.clone(), size_bytes: f.size_bytes, is_directory: false };
        let entries: Vec<Entry> = tree.files.iter().map(entry).collect();
        // Python notes the same when it is asked for a file that is not there.
        for name in wishes.include.iter().filter(|p| choose::is_plain(p)) {
            if !self.options.dry_run && tree.is_listed && !entries.iter().any(|e| e.name == *name) {
                store::check_listing(&[TreeFile {
                    path: name.clone(),
                    size_bytes: 0,
                    blob_id: None,
                    sha256: None,
                    xet_hash: None,
                }])?;
                store.note_absent(name);
            }
        }
        let mut read = BTreeMap::new();
        loop {
            let wanted = match choose::choose(&entries, wishes, &read)? {
                Choice::Made(selection) => return Ok(selection),
                Choice::Read(names) => names,
            };
            for name in wanted {
                let file = tree.files.iter().find(|f| f.path == name);
                let file = file.ok_or_else(|| Error::bug(format!("`{name}` is read and not listed")))?;
                let json = self.document(store, commit, file, fresh).map_err(|e| e.file(name.clone()))?;
                read.insert(name, json);
            }
        }
    }

    /// A small file that tells which others are needed: from disk, else from the hub, to be stored later.
    fn document(
        &self,
        store: &Store,
        commit: &str,
        file: &TreeFile,
        fresh: &mut BTreeMap<String, Vec<u8>>,
    ) -> Result<Vec<u8>> {
        if file.size_bytes > INDEX_BYTES_MAX {
            return Err(Error::unsupported(format!(
                "has {} bytes; hoist reads up to {}",
                grouped(file.size_bytes),
                grouped(INDEX_BYTES_MAX)
            ))
            .hint("--all fetches everything without reading it"));
        }
        let at = match store.find(file, self.control)? {
            Found::Here | Found::Unnoted => Some(store.place(file)),
            Found::At(path) => Some(path),
            Found::Absent => None,
        };
        if let Some(path) = at {
            return std::fs::read(&path).map_err(|e| Error::io("cannot be read", e));
        }
        let Some(hub) = self.hub else { return Err(self.incomplete(&[file])) };
        let from = hub.file(&self.wish.repo, commit, file);
        let size = usize::try_from(file.size_bytes).unwrap_or(usize::MAX);
        let mut patience = Patience::new(self.options.transfer.policy);
        let mut bytes: Vec<u8> = Vec::new();
        let stop = || self.stop();
        while bytes.len() < size {
            let mut piece = || -> Result<()> {
                let mut body = from.open(bytes.len() as u64..file.size_bytes, &stop)?;
                while let Some(piece) = body.next(&stop)? {
                    bytes.extend_from_slice(&piece);
                }
                Ok(())
            };
            if let Err(e) = piece() {
                patience.wait(e, &stop)?;
            }
        }
        if let Some(expected) = store::expected(file) {
            let found = hash::of_bytes(&bytes, hash::kind(&expected));
            if found != expected {
                return Err(differs(&expected, &found));
            }
        }
        fresh.insert(file.path.clone(), bytes.clone());
        Ok(bytes)
    }

    /// Refuses what may not be fetched, and gives the hashes that the lock file adds.
    fn compare<'a>(
        &self,
        chosen: &[&'a TreeFile],
        locked: Option<&lock::Source>,
        commit: &str,
    ) -> Result<HashMap<&'a str, Digest>> {
        if self.options.require_hash || locked.is_some() {
            let unverified = chosen.iter().find(|f| store::expected(f).is_none());
            if let Some(file) = unverified {
                let flag = if locked.is_some() { "--locked" } else { "--require-hash" };
                return Err(Error::new(
                    ErrorKind::Integrity,
                    format!("`{}` cannot be verified: no listing tells its hash", Shown(&file.path)),
                )
                .detail(format!("{flag} refuses it"))
                .hint("fetch from a hub that lists its files"));
            }
        }
        let Some(locked) = locked else { return Ok(HashMap::new()) };
        let is = |path: &str| locked.files.iter().find(|f| f.path == path);
        // Git's SHA-1 is not what the lock file holds: those files are compared when their bytes are there.
        let found = lock::Source {
            commit: Some(commit.to_owned()),
            files: chosen
                .iter()
                .map(|f| lock::File {
                    path: f.path.clone(),
                    size: f.size_bytes,
                    sha256: f
                        .sha256
                        .clone()
                        .or_else(|| Some(is(&f.path)?.sha256.clone()))
                        .unwrap_or_default(),
                })
                .collect(),
            ..locked.clone()
        };
        locked.check(&found)?;
        let rev = &self.wish.repo.revision;
        if is_commit(rev) && rev != commit {
            let message = format!("commit {rev} is asked for and {commit} is locked");
            return Err(Error::new(ErrorKind::Integrity, message));
        }
        Ok(chosen
            .iter()
            .filter_map(|f| Some((f.path.as_str(), hash::from_hex(&is(&f.path)?.sha256)?)))
            .collect())
    }

    /// Finds what is there. Where hashes are required, what is there is read.
    fn find(&self, store: &Store, parts: &mut [Part<'_>], notes: &mut Vec<String>) -> Result<()> {
        let strict = self.options.require_hash || self.options.locked;
        let next = AtomicUsize::new(0);
        let results = Mutex::new(Vec::new());
        let count = if strict || self.options.local_dir.is_some() { 4.min(parts.len()) } else { 1 };
        let parts_now: &[Part<'_>] = parts;
        parallel("find", count, self.control, |_| {
            while let Some(index) =
                Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&i| i < parts_now.len())
            {
                let Some(part) = parts_now.get(index) else { break };
                if self.stop() {
                    break;
                }
                let mut found = store.find(part.file, self.control)?;
                let at = match &found {
                    Found::Here | Found::Unnoted => Some(store.place(part.file)),
                    Found::At(path) => Some(path.clone()),
                    Found::Absent => None,
                };
                let mut note = None;
                if let (true, Some(path), Some(expected)) = (strict, at, part.expected) {
                    let is = hash::of_file(&path, hash::kind(&expected), self.control)?;
                    if is != expected {
                        if self.hub.is_none() {
                            return Err(differs(&expected, &is).file(path.display().to_string()));
                        }
                        note =
                            Some(format!("{}: its bytes are not what its name says", Shown(&part.file.path)));
                        found = Found::Absent;
                    }
                }
                lock_mutex(&results).push((index, found, note));
            }
            Ok(())
        })?;
        for (index, found, note) in results.into_inner().unwrap_or_else(PoisonError::into_inner) {
            if let Some(part) = parts.get_mut(index) {
                part.found = found;
            }
            notes.extend(note);
        }
        Ok(())
    }

    /// Brings what is absent and names what is there. Gives the hashes that were found.
    fn carry_out(
        &self,
        store: &Store,
        commit: &str,
        parts: &mut [Part<'_>],
        fresh: &mut BTreeMap<String, Vec<u8>>,
    ) -> Result<BTreeMap<String, Digest>> {
        if parts.iter().all(|p| p.found == Found::Here) {
            // Nothing to write: the place may be one that cannot be written.
            self.control.plan(self.summary(commit, parts), 0);
            return Ok(BTreeMap::new());
        }
        store.prepare()?;
        let mut missing: Vec<&TreeFile> =
            parts.iter().filter(|p| p.found == Found::Absent).map(|p| p.file).collect();
        missing.sort_by_key(|f| std::cmp::Reverse(f.size_bytes));
        let paths = held::order(missing.iter().filter_map(|f| store.lock(f)).collect());
        let mut locks = HashMap::new();
        for path in paths {
            let what = &self.wish.repo.id;
            let held = held::hold(&path, what, &store.workshop(), self.options.lock_patience, self.control)?;
            locks.insert(path, held);
        }
        // Somebody else may have brought some of it meanwhile.
        for part in parts.iter_mut().filter(|p| p.found == Found::Absent) {
            if !(self.options.require_hash || self.options.locked) {
                part.found = store.find(part.file, self.control)?;
            }
        }
        let left = |part: &&Part<'_>| part.found == Found::Absent;
        let to_fetch: u64 = parts.iter().filter(left).map(|p| p.file.size_bytes).sum();
        self.check_space(store, parts)?;
        self.control.plan(self.summary(commit, parts), to_fetch);
        for part in parts.iter() {
            store.adopt(part.file, &part.found)?;
        }
        let locks = Mutex::new(locks);
        let digests = self.bring(store, commit, parts, fresh, &locks)?;
        store.sync(parts.iter().map(|p| p.file));
        Ok(digests)
    }

    fn bring(
        &self,
        store: &Store,
        commit: &str,
        parts: &[Part<'_>],
        fresh: &mut BTreeMap<String, Vec<u8>>,
        locks: &Mutex<HashMap<PathBuf, held::Held>>,
    ) -> Result<BTreeMap<String, Digest>> {
        let digests = Mutex::new(BTreeMap::new());
        // One item for each content; the other names of it are given afterwards.
        let mut items: Vec<Item> = Vec::new();
        let mut groups: Vec<Vec<&Part<'_>>> = Vec::new();
        let mut by_etag: HashMap<&str, usize> = HashMap::new();
        let settle =
            |group: &[&Part<'_>], place: &mut dyn FnMut(&TreeFile) -> Result<()>, digest: &Digest| {
                let Some(first) = group.first() else { return Ok(()) };
                place(first.file)?;
                for twin in group.iter().skip(1) {
                    let found = match store.find(twin.file, self.control)? {
                        Found::Absent => Found::At(store.place(first.file)),
                        found => found,
                    };
                    store.adopt(twin.file, &found)?;
                }
                for part in group {
                    lock_mutex(&digests).insert(part.file.path.clone(), *digest);
                }
                if let Some(path) = store.lock(first.file) {
                    lock_mutex(locks).remove(&path);
                }
                Ok(())
            };
        let Some(hub) = self.hub else { return Ok(BTreeMap::new()) };
        let mut at_hand: Vec<(&Part<'_>, Vec<u8>)> = Vec::new();
        for part in parts.iter().filter(|p| p.found == Found::Absent) {
            let known = fresh.remove(&part.file.path);
            if let Some(bytes) = known.or_else(|| (part.file.size_bytes == 0).then(Vec::new)) {
                at_hand.push((part, bytes));
                continue;
            }
            if let Some(group) = store::etag(part.file).and_then(|e| groups.get_mut(*by_etag.get(e)?)) {
                group.push(part);
                continue;
            }
            if let Some(etag) = store::etag(part.file) {
                by_etag.insert(etag, groups.len());
            }
            groups.push(vec![part]);
            let is_held = store.lock(part.file).is_some_and(|path| lock_mutex(locks).contains_key(&path));
            items.push(Item {
                from: hub.file(&self.wish.repo, commit, part.file),
                // Without the lock another writer could have the same name.
                to: store.partial(part.file, !is_held),
                size_bytes: part.file.size_bytes,
                expected: part.expected,
            });
        }
        for (part, bytes) in at_hand {
            let kind = part.expected.as_ref().map_or(Kind::Sha256, hash::kind);
            let digest = hash::of_bytes(&bytes, kind);
            if let Some(expected) = part.expected.filter(|e| *e != digest) {
                return Err(differs(&expected, &digest).file(part.file.path.clone()));
            }
            settle(&[part], &mut |file| store.put(file, &bytes, &digest), &digest)?;
            self.control.moved(bytes.len() as u64);
        }
        if !items.is_empty() {
            transfer(&items, &self.options.transfer, self.control, &|index, digest| {
                let (Some(group), Some(item)) = (groups.get(index), items.get(index)) else {
                    return Err(Error::bug("a file was moved that was not asked for"));
                };
                settle(group, &mut |file| store.settle(file, &item.to, &digest), &digest)
            })?;
        }
        Ok(digests.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Refuses what does not fit, before the first byte.
    fn check_space(&self, store: &Store, parts: &[Part<'_>]) -> Result<()> {
        let mut needed = 0u64;
        for part in parts.iter().filter(|p| p.found == Found::Absent) {
            let there = allocated_bytes(&store.partial(part.file, false));
            needed = needed.saturating_add(part.file.size_bytes.saturating_sub(there));
        }
        let workshop = store.workshop();
        match free_bytes(&workshop) {
            Some(free) if free < needed => Err(Error::new(
                ErrorKind::NoSpace,
                format!("{} are to be fetched and {} are free", bytes(needed), bytes(free)),
            )
            .file(workshop.display().to_string())
            .hint("--cache-dir or --local-dir on another file system")),
            _ => Ok(()),
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
        format!(
            "{}@{}   {short}   {files}   {}{there}",
            self.wish.repo.id,
            Shown(&self.wish.repo.revision),
            bytes(all)
        )
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
            Some(_) => ("folder", "without --offline they are fetched"),
            None => ("cache", "without --offline they are fetched"),
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
                Some(hash::hex(digest))
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

    /// The entry of the lock file, with the SHA-256 of each file.
    fn locked(&self, store: &Store, wishes: &Wishes, fetched: &mut Fetched) -> Result<lock::Source> {
        let mut files = Vec::with_capacity(fetched.files.len());
        for file in &mut fetched.files {
            if file.sha256.is_none() {
                let digest = hash::of_file(&store.path().join(&file.path), Kind::Sha256, self.control)?;
                file.sha256 = Some(hash::hex(&digest));
            }
            files.push(lock::File {
                path: file.path.clone(),
                size: file.size_bytes,
                sha256: file.sha256.clone().unwrap_or_default(),
            });
        }
        Ok(lock::Source { files, ..self.source(wishes, Some(&fetched.commit)) })
    }
}

fn differs(expected: &Digest, found: &Digest) -> Error {
    let name = match expected {
        Digest::Sha256(_) => "SHA-256",
        Digest::GitSha1(_) => "git's SHA-1",
    };
    let message = format!("has {name} {}, expected {}", hash::hex(found), hash::hex(expected));
    Error::new(ErrorKind::Integrity, message).hint("fetch again; if it differs again, the server is wrong")
}

/// The files of a snapshot of which no listing is known.
fn on_disk(root: &Path) -> Result<Vec<TreeFile>> {
    const FILES_MAX: usize = 1_000_000;
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let entries = match std::fs::read_dir(root.join(&folder)) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => {
                return Err(Error::io("cannot be listed", e).file(root.join(&folder).display().to_string()));
            }
        };
        for entry in entries.flatten() {
            let path = folder.join(entry.file_name());
            let Ok(metadata) = std::fs::metadata(entry.path()) else { continue };
            // What is noted about the files of a folder is none of them.
            if metadata.is_dir() && path != Path::new(".cache") {
                folders.push(path);
            } else if let (true, Some(name)) = (metadata.is_file(), path.to_str()) {
                files.push(TreeFile {
                    path: name.to_owned(),
                    size_bytes: metadata.len(),
                    blob_id: None,
                    sha256: None,
                    xet_hash: None,
                });
            }
        }
        if files.len() > FILES_MAX {
            return Err(Error::bad_input("holds more files than any repo").file(root.display().to_string()));
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn allocated_bytes(path: &Path) -> u64 {
    #[cfg(unix)]
    return std::fs::metadata(path)
        .map_or(0, |m| std::os::unix::fs::MetadataExt::blocks(&m).saturating_mul(512));
    #[cfg(not(unix))]
    return std::fs::metadata(path).map_or(0, |m| m.len());
}

fn free_bytes(folder: &Path) -> Option<u64> {
    #[cfg(target_os = "linux")]
    return rustix::fs::statvfs(folder).ok().and_then(|s| s.f_bavail.checked_mul(s.f_frsize));
    #[cfg(not(target_os = "linux"))]
    {
        let _ = folder;
        None
    }
}
