//! The layout of the Hugging Face cache on disk, shared with Python's huggingface_hub.
//!
//! ```text
//! ROOT/models--org--name/refs/REVISION              the commit, 40 hex digits
//!                        snapshots/COMMIT/PATH      a link to ../../blobs/ETAG, or the file
//!                        trees/COMMIT.json          {"files": {PATH: {"size": …}}}, newer writers only
//!                        blobs/ETAG                 the bytes, by SHA-256 or git's SHA-1
//!                        .no_exist/COMMIT/PATH      an empty file: the repo has no such file
//! ROOT/.locks/models--org--name/ETAG.lock           held by who writes that blob
//! ROOT/blobs/…                                      blobs shared by all repos, newer writers only
//! ```
//!
//! Layout: huggingface_hub 2.4, `constants.py` and `file_download.py`, as observed. Repo ids, revisions and commits
//! are checked before they become part of a path. Here are paths and reading; `fetch` writes.

use crate::error::{Error, Result};
use crate::text::Shown;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The longest tree listing that is read.
const TREE_BYTES_MAX: u64 = 16 << 20;

/// A model repo of the hub, and which revision of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repo {
    /// `org/name`, or `name` alone for the oldest repos.
    pub id: String,
    /// A branch, a tag, a commit.
    pub revision: String,
}

impl Repo {
    /// Reads `org/name[@revision]`. `None` where the text cannot be one: it is then perhaps a path.
    pub fn parse(text: &str) -> Option<Repo> {
        let (id, revision) = match text.split_once('@') {
            Some((id, revision)) => (id, revision),
            None => (text, "main"),
        };
        let mut parts = id.split('/');
        let (first, second, rest) = (parts.next()?, parts.next(), parts.next());
        let ok = rest.is_none() && is_part(first) && second.is_none_or(is_part) && is_revision(revision);
        ok.then(|| Repo { id: id.to_string(), revision: revision.to_string() })
    }

    /// The repo's folder in a cache.
    pub fn folder(&self) -> String {
        format!("models--{}", self.id.replace('/', "--"))
    }
}

/// An organisation's or a repo's name, by the hub's rules.
fn is_part(part: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=96).contains(&part.len())
        && part.chars().all(plain)
        && !part.contains("--")
        && !part.contains("..")
        && !part.starts_with(['-', '.'])
        && !part.ends_with(['-', '.'])
        && !part.ends_with(".git")
}

/// A revision that may become a path: branches may hold `/`.
fn is_revision(revision: &str) -> bool {
    let plain = |c: char| !c.is_control() && !matches!(c, '\\' | ':' | '?' | '*' | '~' | '^' | '[' | ' ');
    (1..=255).contains(&revision.len())
        && revision.chars().all(plain)
        && revision.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && !part.contains(".."))
}

/// A full commit id: what may become a path of that kind.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// What a blob may be called: a SHA-256 or git's SHA-1, in hex.
pub fn is_etag(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The paths of one repo in a cache. Commits, etags and names are checked by who asks: [`is_commit`], [`is_etag`],
/// [`crate::source::local::check_relative`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The cache.
    pub root: PathBuf,
    /// The repo's folder in it.
    pub folder: PathBuf,
    locks: PathBuf,
}

impl Paths {
    /// Where the commit of a branch or tag stands.
    pub fn reference(&self, revision: &str) -> PathBuf {
        self.folder.join("refs").join(revision)
    }

    /// The listing of a commit. Python takes a snapshot as incomplete unless it has everything that is listed here.
    pub fn tree(&self, commit: &str) -> PathBuf {
        self.folder.join("trees").join(format!("{commit}.json"))
    }

    /// The listing of a commit of which not everything was wanted: hoist's own, in the same form.
    pub fn partial_tree(&self, commit: &str) -> PathBuf {
        self.folder.join(".hoist/trees").join(format!("{commit}.json"))
    }

    /// Where blobs are.
    pub fn blobs(&self) -> PathBuf {
        self.folder.join("blobs")
    }

    /// A blob.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// The directory that looks like the repo at a commit.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The mark that the repo has no such file.
    pub fn no_exist(&self, commit: &str, name: &str) -> PathBuf {
        self.folder.join(".no_exist").join(commit).join(name)
    }

    /// The file that is locked by who writes a blob.
    pub fn lock(&self, etag: &str) -> PathBuf {
        self.locks.join(format!("{etag}.lock"))
    }
}

/// One commit of a repo, as far as it is in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The commit.
    pub commit: String,
    /// The directory that looks like the repo.
    pub path: PathBuf,
    /// Files of the repo at that commit that are not in the cache, with their sizes; empty also where the cache does
    /// not say what belongs to it.
    pub missing: BTreeMap<String, u64>,
}

/// A cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache at `root`, the directory that holds `models--…`.
    pub fn at(root: impl Into<PathBuf>) -> Cache {
        Cache { root: root.into() }
    }

    /// The cache that the environment names, by huggingface_hub's rules: `HF_HUB_CACHE` (before it
    /// `HUGGINGFACE_HUB_CACHE`), else `hub` in `HF_HOME`, else `huggingface/hub` in `XDG_CACHE_HOME`, else in
    /// `~/.cache`. A leading `~` and `$NAME` are expanded. `None` where not even a home is known.
    pub fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> Option<Cache> {
        let set = |name: &str| variable(name).filter(|v| !v.is_empty());
        let home = set("HOME").or_else(|| set("USERPROFILE"));
        let path = |name: &str| set(name).map(|v| expand(v, home.as_ref(), &set));
        let root = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| path("HF_HOME").map(|p| p.join("hub")))
            .or_else(|| path("XDG_CACHE_HOME").map(|p| p.join("huggingface/hub")))
            .or_else(|| home.as_ref().map(|h| PathBuf::from(h).join(".cache/huggingface/hub")))?;
        Some(Cache { root })
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The paths of a repo.
    pub fn paths(&self, repo: &Repo) -> Paths {
        let name = repo.folder();
        let locks = self.root.join(".locks").join(&name);
        Paths { root: self.root.clone(), folder: self.root.join(name), locks }
    }

    /// The commit that a revision stands for, as far as the cache knows.
    ///
    /// # Errors
    /// `BadInput` where a ref holds no commit. `Io`, `NotAllowed`: it cannot be read.
    pub fn commit(&self, repo: &Repo) -> Result<Option<String>> {
        if is_commit(&repo.revision) {
            return Ok(Some(repo.revision.clone()));
        }
        let folder = self.root.join(repo.folder());
        read_ref(&folder, &repo.revision).map_err(|e| e.file(repo.id.clone()))
    }

    /// Whether it holds anything of this repo.
    pub fn has(&self, repo: &Repo) -> bool {
        self.root.join(repo.folder()).is_dir()
    }

    /// The snapshot of a repo's revision.
    ///
    /// # Errors
    /// `NotFound` where the cache does not have it; `BadInput` where a ref holds no commit.
    pub fn snapshot(&self, repo: &Repo) -> Result<Snapshot> {
        let folder = self.root.join(repo.folder());
        let commit = self.commit(repo)?.ok_or_else(|| self.absent(repo))?;
        let path = folder.join("snapshots").join(&commit);
        if !path.is_dir() {
            return Err(self.absent(repo));
        }
        let missing = missing(&folder, &commit, &path);
        Ok(Snapshot { commit, path, missing })
    }

    fn absent(&self, repo: &Repo) -> Error {
        let root = self.root.display().to_string();
        let message = match self.has(repo) {
            true => format!("revision `{}` is not in the cache at `{}`", Shown(&repo.revision), Shown(&root)),
            false => format!("is not in the cache at `{}`, nor a file or folder here", Shown(&root)),
        };
        Error::not_found(message).file(repo.id.clone()).hint(fetch_hint(repo))
    }
}

/// The command that brings a repo into the cache.
pub fn fetch_hint(repo: &Repo) -> String {
    // Each build names a tool that it knows to be there.
    let (tool, flag) =
        if cfg!(feature = "hub") { ("hoist fetch", "@") } else { ("hf download", " --revision ") };
    let revision = match repo.revision.as_str() {
        "main" => String::new(),
        other => format!("{flag}{other}"),
    };
    format!("{tool} {}{revision} fetches it into the cache that hoist reads", repo.id)
}

/// The root of the cache that a path lies in, where the path is a snapshot or inside one: links in there may lead to any
/// blob of that cache.
pub fn root_of(path: &Path) -> Option<PathBuf> {
    path.ancestors().find_map(|commit| {
        let snapshots = commit.parent()?;
        let folder = snapshots.parent()?;
        let ok = snapshots.file_name()? == "snapshots"
            && commit.file_name()?.to_str().is_some_and(is_commit)
            && folder.file_name()?.to_str()?.starts_with("models--");
        ok.then(|| folder.parent().map(Path::to_owned))?
    })
}

/// The commit that a branch or tag stands for.
fn read_ref(folder: &Path, revision: &str) -> Result<Option<String>> {
    let path = folder.join("refs").join(revision);
    let mut text = String::new();
    match std::fs::File::open(&path).and_then(|f| f.take(256).read_to_string(&mut text)) {
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(format!("the ref `{}` cannot be read", Shown(revision)), e)),
    }
    let commit = text.trim();
    if is_commit(commit) {
        return Ok(Some(commit.to_string()));
    }
    Err(Error::bad_input(format!(
        "the ref `{}` in the cache holds `{}` where a commit of 40 hex digits is expected",
        Shown(revision),
        Shown(commit)
    )))
}

/// What the cached listing of the repo names and the snapshot does not have. A listing that cannot be read says nothing.
fn missing(folder: &Path, commit: &str, snapshot: &Path) -> BTreeMap<String, u64> {
    let path = folder.join("trees").join(format!("{commit}.json"));
    let mut json = Vec::new();
    let read = std::fs::File::open(path).and_then(|f| f.take(TREE_BYTES_MAX).read_to_end(&mut json));
    let tree: Option<serde_json::Value> = read.ok().and_then(|_| serde_json::from_slice(&json).ok());
    let files = tree.as_ref().and_then(|t| t.get("files")).and_then(|f| f.as_object());
    files
        .into_iter()
        .flatten()
        .filter(|(name, _)| crate::source::local::check_relative(name).is_ok())
        .filter(|(name, _)| !snapshot.join(name).exists())
        .map(|(name, facts)| (name.clone(), facts.get("size").and_then(|s| s.as_u64()).unwrap_or(0)))
        .collect()
}

/// Expands a leading `~`, and `$NAME` and `${NAME}` anywhere, as Python's `expanduser` and `expandvars` do.
pub(super) fn expand(
    value: OsString,
    home: Option<&OsString>,
    variable: &impl Fn(&str) -> Option<OsString>,
) -> PathBuf {
    let Some(text) = value.to_str() else { return value.into() };
    let mut out = OsString::new();
    let mut rest = text;
    if let (Some(home), Some(after)) = (home, text.strip_prefix('~'))
        && (after.is_empty() || after.starts_with('/'))
    {
        out.push(home);
        rest = after;
    }
    while let Some((before, after)) = rest.split_once('$') {
        out.push(before);
        let (name, end) = match after.strip_prefix('{').and_then(|a| a.split_once('}')) {
            Some((name, end)) => (name, end),
            None => {
                let n = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
                after.split_at(n)
            }
        };
        match variable(name) {
            Some(value) => out.push(value),
            // Unset: left as it stands.
            None => out.push(format!("${}", &after[..after.len() - end.len()])),
        }
        rest = end;
    }
    out.push(rest);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_names_the_cache() {
        type Row<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>);
        let rows: &[Row<'_>] = &[
            (&[], None),
            (&[("HOME", "/h")], Some("/h/.cache/huggingface/hub")),
            (&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], Some("/x/huggingface/hub")),
            (&[("HOME", "/h"), ("XDG_CACHE_HOME", "")], Some("/h/.cache/huggingface/hub")),
            (&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "~/hf")], Some("/h/hf/hub")),
            (&[("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/old")], Some("/old")),
            (&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/new")], Some("/new")),
            (&[("HF_HUB_CACHE", "$D/a/${D}b/$NO"), ("D", "/d")], Some("/d/a//db/$NO")),
            (&[("HF_HUB_CACHE", "~other/a")], Some("~other/a")),
        ];
        for (environment, expected) in rows {
            let get = |name: &str| environment.iter().find(|(k, _)| *k == name).map(|(_, v)| v.into());
            let got = Cache::from_environment(get).map(|c| c.root);
            assert_eq!(got, expected.map(PathBuf::from), "{environment:?}");
        }
    }

    #[test]
    fn repo_ids_are_checked() {
        for (text, expected) in [
            ("Qwen/Qwen3-8B", Some(("Qwen/Qwen3-8B", "main", "models--Qwen--Qwen3-8B"))),
            ("gpt2", Some(("gpt2", "main", "models--gpt2"))),
            ("a/b@refs/pr/1", Some(("a/b", "refs/pr/1", "models--a--b"))),
            ("a/b@v1.0", Some(("a/b", "v1.0", "models--a--b"))),
            ("a/b@", None),
            ("a/b@../x", None),
            ("a/b@x//y", None),
            ("a/b@/x", None),
            ("a/b/c", None),
            ("../b", None),
            ("./b", None),
            ("a/..", None),
            ("/a", None),
            ("a--b/c", None),
            ("a/b.git", None),
            ("a/b c", None),
            ("a/b\0", None),
            ("", None),
            ("a\\b", None),
        ] {
            let got = Repo::parse(text);
            let got = got.as_ref().map(|r| (r.id.as_str(), r.revision.as_str(), r.folder()));
            assert_eq!(got, expected.map(|(i, r, f)| (i, r, f.to_string())), "{text}");
        }
    }

    #[test]
    fn a_snapshot_knows_its_cache() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let inside = format!("/c/hub/models--a--b/snapshots/{commit}/unet");
        assert_eq!(root_of(Path::new(&inside)), Some("/c/hub".into()));
        assert_eq!(root_of(Path::new("/c/hub/models--a--b/snapshots/main")), None);
        assert_eq!(root_of(Path::new("/c/models")), None);
    }
}
