//! What a cache holds: listing, checking and removing it. Of every kind of repo that huggingface_hub keeps, since they share
//! the disk.

use super::hash;
use super::store::listing;
use super::transfer::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::run::job::{Control, Job};
use crate::run::parallel;
use crate::source::hub::cache::{Cache, is_commit, is_etag};
use crate::text::{Shown, bytes};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// Folders of a cache, and what the ids of their repos begin with.
const KINDS: &[(&str, &str)] =
    &[("models--", ""), ("datasets--", "datasets/"), ("spaces--", "spaces/"), ("kernels--", "kernels/")];

/// The most folders deep that a snapshot is followed.
const DEPTH_MAX: usize = 32;

/// A repo in a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// `org/name`; of a dataset `datasets/org/name`.
    pub id: String,
    /// Its folder.
    pub path: PathBuf,
    /// Bytes on the disk, each blob once; blobs that repos share count with each.
    pub size_bytes: u64,
    /// Of these, bytes of files that are not whole.
    pub partial_bytes: u64,
    /// Its commits, the latest used first.
    pub revisions: Vec<Revision>,
    /// When something of it was last read, or written where that is not kept.
    pub used: Option<SystemTime>,
}

/// A commit of a repo in a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// The commit.
    pub commit: String,
    /// The branches and tags that stand for it.
    pub names: Vec<String>,
    /// Its files.
    pub file_count: usize,
    /// Their bytes, each blob once.
    pub size_bytes: u64,
    /// When something of it was last read.
    pub used: Option<SystemTime>,
}

/// A file of a snapshot.
struct Leaf {
    /// Its path in the snapshot.
    name: String,
    path: PathBuf,
    /// Where it leads, where it is a link; relative to its blobs it is an etag.
    blob: Option<String>,
}

/// What a cache holds, by id. Folders that are no repos are passed over; no cache is an empty one.
///
/// # Errors
/// The system's.
pub fn scan(cache: &Cache) -> Result<Vec<Held>> {
    let root = cache.root();
    let mut found = Vec::new();
    for name in names_in(root)? {
        let Some(id) = id_of(&name) else { continue };
        let path = root.join(&name);
        if path.is_dir() {
            found.push(held(id, path)?);
        }
    }
    found.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(found)
}

/// The id of the repo in a folder of this name.
fn id_of(folder: &str) -> Option<String> {
    let (kind, start) = KINDS.iter().find(|(kind, _)| folder.starts_with(kind))?;
    Some(format!("{start}{}", folder.get(kind.len()..)?.replace("--", "/")))
}

fn folder_of(id: &str) -> String {
    let (kind, start) =
        KINDS.iter().rev().find(|(_, start)| id.starts_with(start)).copied().unwrap_or(("models--", ""));
    format!("{kind}{}", id.get(start.len()..).unwrap_or(id).replace('/', "--"))
}

/// The names in a folder, sorted; none where there is none.
fn names_in(folder: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(e) => return Err(Error::io("cannot be listed", e).file(folder.display().to_string())),
    };
    let mut names: Vec<String> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

fn held(id: String, path: PathBuf) -> Result<Held> {
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, commit) in references(&path)? {
        names.entry(commit).or_default().push(name);
    }
    let blobs = path.join("blobs");
    let (mut size_bytes, mut partial_bytes, mut used) = (0u64, 0u64, None);
    for name in names_in(&blobs)? {
        let Ok(facts) = std::fs::metadata(blobs.join(&name)) else { continue };
        let on_disk = on_disk_bytes(&facts);
        size_bytes = size_bytes.saturating_add(on_disk);
        if !is_etag(&name) {
            partial_bytes = partial_bytes.saturating_add(on_disk);
        }
        used = used.max(used_at(&facts));
    }
    let mut revisions = Vec::new();
    for commit in names_in(&path.join("snapshots"))?.into_iter().filter(|c| is_commit(c)) {
        let leaves = leaves(&path.join("snapshots").join(&commit))?;
        let (mut sum, mut last, mut seen) = (0u64, None, BTreeSet::new());
        for leaf in &leaves {
            let Ok(facts) = std::fs::metadata(&leaf.path) else { continue };
            last = last.max(used_at(&facts));
            if leaf.blob.as_ref().is_none_or(|blob| seen.insert(blob.clone())) {
                sum = sum.saturating_add(facts.len());
            }
            if leaf.blob.is_none() {
                // No links here: the file itself.
                size_bytes = size_bytes.saturating_add(facts.len());
            }
        }
        used = used.max(last);
        let names = names.remove(&commit).unwrap_or_default();
        revisions.push(Revision { commit, names, file_count: leaves.len(), size_bytes: sum, used: last });
    }
    revisions.sort_by(|a, b| (b.used, &a.commit).cmp(&(a.used, &b.commit)));
    Ok(Held { id, path, size_bytes, partial_bytes, revisions, used })
}

/// Branches and tags, and their commits.
fn references(repo: &Path) -> Result<Vec<(String, String)>> {
    let root = repo.join("refs");
    let mut found = Vec::new();
    for leaf in leaves(&root)? {
        let Ok(text) = std::fs::read_to_string(&leaf.path) else { continue };
        let commit = text.trim();
        if is_commit(commit) {
            found.push((leaf.name, commit.to_owned()));
        }
    }
    Ok(found)
}

/// The files below a folder.
fn leaves(root: &Path) -> Result<Vec<Leaf>> {
    let mut found = Vec::new();
    let mut folders = vec![(String::new(), 0usize)];
    while let Some((below, depth)) = folders.pop() {
        let folder = root.join(&below);
        for name in names_in(&folder)? {
            let path = folder.join(&name);
            let name = if below.is_empty() { name } else { format!("{below}/{name}") };
            let Ok(facts) = std::fs::symlink_metadata(&path) else { continue };
            if facts.is_dir() && depth < DEPTH_MAX {
                folders.push((name, depth + 1));
            } else if !facts.is_dir() {
                let target = std::fs::read_link(&path).ok();
                let blob = target.and_then(|t| t.file_name()?.to_str().map(str::to_owned));
                found.push(Leaf { name, path, blob });
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn used_at(facts: &std::fs::Metadata) -> Option<SystemTime> {
    facts.accessed().ok().max(facts.modified().ok())
}

/// A file that is not whole has holes.
fn on_disk_bytes(facts: &std::fs::Metadata) -> u64 {
    #[cfg(unix)]
    return facts.len().min(std::os::unix::fs::MetadataExt::blocks(facts).saturating_mul(512));
    #[cfg(not(unix))]
    return facts.len();
}

/// What is meant: a repo, a commit of it, or a commit of whatever repo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    id: Option<String>,
    revision: Option<String>,
}

impl Target {
    /// Reads `org/name`, `org/name@revision`, `datasets/org/name`, or a commit.
    pub fn parse(text: &str) -> Target {
        let text = text.strip_prefix("hf://").unwrap_or(text);
        match text.split_once('@') {
            None if is_commit(text) => Target { id: None, revision: Some(text.to_owned()) },
            None => Target { id: Some(text.to_owned()), revision: None },
            Some((id, revision)) => Target { id: Some(id.to_owned()), revision: Some(revision.to_owned()) },
        }
    }

    /// The commits of a repo that are meant; `None` is all of it.
    fn of<'a>(&self, held: &'a Held) -> Option<Option<Vec<&'a Revision>>> {
        if self.id.as_ref().is_some_and(|id| *id != held.id) {
            return None;
        }
        let Some(wanted) = &self.revision else { return Some(None) };
        let is = |r: &&Revision| r.commit == *wanted || r.names.contains(wanted);
        let found: Vec<&Revision> = held.revisions.iter().filter(is).collect();
        (!found.is_empty()).then_some(Some(found))
    }

    fn text(&self) -> String {
        [self.id.as_deref(), self.revision.as_deref()].into_iter().flatten().collect::<Vec<_>>().join("@")
    }
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Files that were read.
    pub file_count: usize,
    /// Their bytes.
    pub size_bytes: u64,
    /// What is not what its name says.
    pub damages: Vec<Damage>,
    /// Files of which nothing says what they should be.
    pub unknown: Vec<String>,
}

/// A file that is damaged.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Damage {
    /// The repo.
    pub id: String,
    /// The file, as its repo or the cache calls it.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// What is wrong.
    pub what: String,
}

/// Reads every blob again and compares it with its name, and every file of a snapshot that is no link with the listing.
/// Without targets, of the whole cache.
///
/// # Errors
/// The job's: `NotFound`: a target that is not there. The system's. That something is damaged is no error of the job.
pub fn verify(cache: Cache, targets: Vec<Target>) -> Job<Checked> {
    Job::start("cache-verify", false, move |control| check(&cache, &targets, control))
}

/// A file to read.
struct Task {
    id: String,
    name: String,
    path: PathBuf,
    expected: Digest,
}

fn check(cache: &Cache, targets: &[Target], control: &Control) -> Result<Checked> {
    let chosen: Vec<Held> = chosen(cache, targets)?.into_iter().map(|(held, _)| held).collect();
    let mut checked = Checked::default();
    let mut tasks = Vec::new();
    for held in &chosen {
        let mut names: HashMap<String, String> = HashMap::new();
        for revision in &held.revisions {
            let snapshot = held.path.join("snapshots").join(&revision.commit);
            let listings = ["trees", ".hoist/trees"]
                .map(|t| held.path.join(t).join(format!("{}.json", revision.commit)));
            let listed: HashMap<String, Digest> = listings
                .iter()
                .find_map(|path| listing::read(path))
                .into_iter()
                .flatten()
                .filter_map(|f| Some((f.path.clone(), super::store::expected(&f)?)))
                .collect();
            for leaf in leaves(&snapshot)? {
                match leaf.blob {
                    Some(_) if !leaf.path.exists() => checked.damages.push(Damage {
                        id: held.id.clone(),
                        name: leaf.name,
                        path: leaf.path,
                        what: "leads to a blob that is not there".into(),
                    }),
                    Some(blob) => drop(names.entry(blob).or_insert(leaf.name)),
                    None => match listed.get(&leaf.name) {
                        Some(&expected) => tasks.push(Task {
                            id: held.id.clone(),
                            name: leaf.name,
                            path: leaf.path,
                            expected,
                        }),
                        None => checked.unknown.push(format!("{}/{}", held.id, leaf.name)),
                    },
                }
            }
        }
        let blobs = held.path.join("blobs");
        for etag in names_in(&blobs)? {
            // What is not whole has another name; it is checked when it is taken up again.
            let Some(expected) = Some(&etag).filter(|e| is_etag(e)).and_then(|e| hash::from_hex(e)) else {
                continue;
            };
            let name = names.get(&etag).cloned().unwrap_or_else(|| format!("blobs/{etag}"));
            tasks.push(Task { id: held.id.clone(), name, path: blobs.join(&etag), expected });
        }
    }
    let size = |task: &Task| std::fs::metadata(&task.path).map_or(0, |m| m.len());
    let total: u64 = tasks.iter().map(size).sum();
    control.plan(format!("{} files   {} to read", tasks.len(), bytes(total)), total);
    let next = AtomicUsize::new(0);
    let damages = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(2, usize::from).min(8);
    parallel("verify", threads, control, |_| {
        while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
            if control.is_stopped() {
                break;
            }
            let what = match hash::of_file(&task.path, hash::kind(&task.expected), control) {
                Ok(found) if found == task.expected => None,
                Ok(found) => Some(format!("has {} {found}, expected {}", found.name(), task.expected)),
                Err(e) if matches!(e.kind(), ErrorKind::Signal(_)) => return Err(e),
                Err(e) => Some(e.to_string()),
            };
            control.moved(size(task));
            if let Some(what) = what {
                let Task { id, name, path, .. } = task;
                let damage = Damage { id: id.clone(), name: name.clone(), path: path.clone(), what };
                damages.lock().unwrap_or_else(PoisonError::into_inner).push(damage);
            }
        }
        Ok(())
    })?;
    checked.damages.extend(damages.into_inner().unwrap_or_else(PoisonError::into_inner));
    checked.damages.sort();
    checked.file_count = tasks.len();
    checked.size_bytes = total;
    Ok(checked)
}

/// The repos that are meant, and which commits of each; `None` is all of it.
fn chosen(cache: &Cache, targets: &[Target]) -> Result<Vec<(Held, Option<Vec<String>>)>> {
    let all = scan(cache)?;
    if targets.is_empty() {
        return Ok(all.into_iter().map(|held| (held, None)).collect());
    }
    let mut found: BTreeMap<String, (Held, Option<Vec<String>>)> = BTreeMap::new();
    for target in targets {
        let mut any = false;
        for held in &all {
            let Some(revisions) = target.of(held) else { continue };
            any = true;
            let commits = revisions.map(|r| r.iter().map(|r| r.commit.clone()).collect::<Vec<_>>());
            let entry = found.entry(held.id.clone()).or_insert_with(|| (held.clone(), Some(Vec::new())));
            match (&mut entry.1, commits) {
                (Some(some), Some(more)) => some.extend(more),
                (one, None) => *one = None,
                (None, _) => {}
            }
        }
        if !any {
            let root = cache.root().display().to_string();
            let message = format!("`{}` is not in the cache at `{}`", Shown(&target.text()), Shown(&root));
            return Err(Error::not_found(message).hint("hoist cache ls shows what is"));
        }
    }
    Ok(found.into_values().collect())
}

/// What a removal takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// The repo.
    pub id: String,
    /// The commits that go; `None` is the whole repo.
    pub commits: Option<Vec<String>>,
    /// Bytes that become free.
    pub size_bytes: u64,
    folder: PathBuf,
    locks: PathBuf,
    blobs: Vec<PathBuf>,
    references: Vec<String>,
}

/// What would go with these targets: their snapshots, refs and listings, and the blobs that no other snapshot needs. Nothing
/// is touched.
///
/// # Errors
/// `NotFound`: a target that is not there. `Usage`: no target. The system's.
pub fn plan_removal(cache: &Cache, targets: &[Target]) -> Result<Vec<Removal>> {
    if targets.is_empty() {
        return Err(Error::usage("nothing is named to be removed"));
    }
    let mut removals = Vec::new();
    for (held, commits) in chosen(cache, targets)? {
        let locks = cache.root().join(".locks").join(folder_of(&held.id));
        // The last commit takes the repo with it.
        let commits = commits.filter(|some| held.revisions.iter().any(|r| !some.contains(&r.commit)));
        let mut removal = Removal {
            id: held.id,
            size_bytes: held.size_bytes,
            folder: held.path,
            locks,
            blobs: Vec::new(),
            references: Vec::new(),
            commits,
        };
        if let Some(commits) = &mut removal.commits {
            commits.sort();
            commits.dedup();
            let mut needed = BTreeSet::new();
            let mut freed = BTreeSet::new();
            removal.size_bytes = 0;
            for revision in &held.revisions {
                let goes = commits.contains(&revision.commit);
                for leaf in leaves(&removal.folder.join("snapshots").join(&revision.commit))? {
                    match leaf.blob {
                        Some(blob) if goes => drop(freed.insert(blob)),
                        Some(blob) => drop(needed.insert(blob)),
                        None if goes => {
                            let size = std::fs::metadata(&leaf.path).map_or(0, |m| m.len());
                            removal.size_bytes = removal.size_bytes.saturating_add(size);
                        }
                        None => {}
                    }
                }
                if goes {
                    removal.references.extend(revision.names.iter().cloned());
                }
            }
            for etag in freed.difference(&needed).filter(|etag| is_etag(etag)) {
                let path = removal.folder.join("blobs").join(etag);
                // A link leads to what repos share; that stays.
                let size =
                    std::fs::symlink_metadata(&path).ok().filter(|m| m.is_file()).map_or(0, |m| m.len());
                removal.size_bytes = removal.size_bytes.saturating_add(size);
                removal.blobs.push(path);
            }
        }
        removals.push(removal);
    }
    Ok(removals)
}

/// Removes what was planned. Snapshots go before the blobs that they lead to.
///
/// # Errors
/// `Io`: somebody is writing into the repo. The system's.
pub fn remove(removal: &Removal) -> Result<()> {
    let mut held = Vec::new();
    for name in names_in(&removal.locks)? {
        let path = removal.locks.join(&name);
        let Ok(file) = std::fs::OpenOptions::new().read(true).write(true).open(&path) else { continue };
        if matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock)) {
            return Err(Error::new(ErrorKind::Io, "is being fetched by another process")
                .file(removal.id.clone())
                .hint("remove it when that has ended"));
        }
        held.push(file);
    }
    let folder = |path: &Path| gone(path, std::fs::remove_dir_all(path));
    let file = |path: &Path| gone(path, std::fs::remove_file(path));
    let Some(commits) = &removal.commits else {
        // First what makes it a repo: half of it must not look whole.
        folder(&removal.folder.join("refs"))?;
        folder(&removal.folder.join("snapshots"))?;
        folder(&removal.folder)?;
        return folder(&removal.locks);
    };
    for name in &removal.references {
        file(&removal.folder.join("refs").join(name))?;
    }
    for commit in commits {
        folder(&removal.folder.join("snapshots").join(commit))?;
        folder(&removal.folder.join(".no_exist").join(commit))?;
        for trees in ["trees", ".hoist/trees"] {
            file(&removal.folder.join(trees).join(format!("{commit}.json")))?;
        }
    }
    removal.blobs.iter().try_for_each(|blob| file(blob))
}

fn gone(path: &Path, result: std::io::Result<()>) -> Result<()> {
    match result {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("cannot be removed", e).file(path.display().to_string()))
        }
        _ => Ok(()),
    }
}
