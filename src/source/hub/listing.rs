//! What a hub says a commit holds, as JSON, and what of it is believed: names that stay inside, hex that is hex, sizes that
//! can be.

use super::super::local::check_relative;
use crate::error::{Error, Result};
use crate::text::Shown;
use serde::Deserialize;
use std::collections::BTreeSet;

/// The largest file that is believed, and the most of all together: an exbibyte.
const SIZE_BYTES_MAX: u64 = 1 << 60;

/// A file of a repo at a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeFile {
    /// Its path in the repo, with `/`; checked: it stays inside and has no part that is empty or a dot.
    pub path: String,
    /// Its size.
    pub size_bytes: u64,
    /// The id that git gives it (or gives its pointer, where Git LFS holds it): 40 hex digits.
    pub blob_id: Option<String>,
    /// Its SHA-256, where Git LFS holds it: 64 hex digits.
    pub sha256: Option<String>,
    /// Its Xet hash, where Xet holds it: 64 hex digits.
    pub xet_hash: Option<String>,
}

/// The files of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// In the order of the hub; each path once.
    pub files: Vec<TreeFile>,
    /// Whether the hub said what the files hold. A mirror without listings says only names; sizes are then what it
    /// answers for each file, and nothing can be verified.
    pub is_listed: bool,
}

/// An entry of the tree. The names are the hub's.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    size: Option<u64>,
    oid: Option<String>,
    lfs: Option<Lfs>,
    #[serde(rename = "xetHash")]
    xet_hash: Option<String>,
}

#[derive(Deserialize)]
struct Lfs {
    #[serde(alias = "sha256")]
    oid: String,
    size: u64,
}

/// The answer of the revision call, as far as it is of use.
#[derive(Deserialize)]
struct Revision {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

/// A file by name, and by what more is said of it.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) path: String,
    pub(super) size_bytes: Option<u64>,
    pub(super) blob_id: Option<String>,
    pub(super) sha256: Option<String>,
}

/// Files as they are listed, page by page.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) files: Vec<TreeFile>,
    seen: BTreeSet<String>,
    total_bytes: u64,
    has_directories: bool,
}

impl Files {
    /// Adds a page of the tree; how many entries it has, directories included.
    pub(super) fn page(&mut self, json: &[u8]) -> Result<usize> {
        let entries: Vec<Entry> = serde_json::from_slice(json).map_err(|e| not_understood(&e))?;
        let count = entries.len();
        for entry in entries {
            // Directories are in the paths of what is in them.
            if entry.kind != "file" {
                self.has_directories |= entry.kind == "directory";
                continue;
            }
            let size = entry.lfs.as_ref().map(|lfs| lfs.size).or(entry.size);
            let size_bytes = size.ok_or_else(|| of(&entry.path, "has no size"))?;
            let blob_id = entry.oid.map(|oid| hex::<40>(&oid, &entry.path)).transpose()?;
            let sha256 = entry.lfs.map(|lfs| sha256(&lfs.oid, &entry.path)).transpose()?;
            let xet_hash = entry.xet_hash.map(|hash| hex::<64>(&hash, &entry.path)).transpose()?;
            self.add(TreeFile { path: entry.path, size_bytes, blob_id, sha256, xet_hash })?;
        }
        Ok(count)
    }

    /// Whether there are directories and nothing in any: git has no empty ones.
    pub(super) fn is_flat(&self) -> bool {
        self.has_directories && !self.files.iter().any(|file| file.path.contains('/'))
    }

    /// Adds one file.
    pub(super) fn add(&mut self, file: TreeFile) -> Result<()> {
        check_path(&file.path)?;
        self.total_bytes = self.total_bytes.saturating_add(file.size_bytes);
        if file.size_bytes > SIZE_BYTES_MAX || self.total_bytes > SIZE_BYTES_MAX {
            return Err(of(&file.path, "has a size that no file has"));
        }
        if !self.seen.insert(file.path.clone()) {
            return Err(of(&file.path, "is there twice"));
        }
        self.files.push(file);
        Ok(())
    }
}

/// The commit in the answer of the revision call, and the names of the files.
pub(super) fn revision(json: &[u8]) -> Result<(String, Vec<Named>)> {
    let revision: Revision = serde_json::from_slice(json).map_err(|e| not_understood(&e))?;
    let commit = hex::<40>(&revision.sha, "sha")?;
    let mut named = Vec::new();
    for sibling in revision.siblings {
        let path = sibling.rfilename;
        check_path(&path)?;
        let size_bytes = sibling.lfs.as_ref().map(|lfs| lfs.size).or(sibling.size);
        let blob_id = sibling.blob_id.map(|id| hex::<40>(&id, &path)).transpose()?;
        let sha256 = sibling.lfs.map(|lfs| sha256(&lfs.oid, &path)).transpose()?;
        named.push(Named { path, size_bytes, blob_id, sha256 });
    }
    Ok((commit, named))
}

/// A path that means the same to a file system as to the hub.
fn check_path(path: &str) -> Result<()> {
    check_relative(path)?;
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(of(path, "has an empty part or a dot in its name"));
    }
    Ok(())
}

/// So many hex digits, in lower case.
pub(super) fn is_hex<const DIGITS: usize>(text: &str) -> bool {
    text.len() == DIGITS && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn hex<const DIGITS: usize>(text: &str, name: &str) -> Result<String> {
    match is_hex::<DIGITS>(text) {
        true => Ok(text.to_ascii_lowercase()),
        false => {
            Err(of(name, &format!("has the id `{}` where {DIGITS} hex digits are expected", Shown(text))))
        }
    }
}

fn sha256(text: &str, name: &str) -> Result<String> {
    hex::<64>(text.strip_prefix("sha256:").unwrap_or(text), name)
}

fn of(name: &str, what: &str) -> Error {
    Error::bad_input(format!("the hub's listing is refused: `{}` {what}", Shown(name)))
}

fn not_understood(error: &serde_json::Error) -> Error {
    let what = match error.classify() {
        serde_json::error::Category::Data => format!("is not what a hub says ({error})"),
        _ => "is not JSON".to_owned(),
    };
    Error::bad_input(format!("the answer {what}"))
        .hint("a proxy or a login may stand between; HF_ENDPOINT names the hub")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OID: &str = "ce013625030ba8dba906f756967f9e9ca394464a";
    const SHA: &str = "E3B0C44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn trees_are_checked() {
        let file = |path: &str| format!(r#"{{"type":"file","path":{path:?},"size":6,"oid":"{OID}"}}"#);
        let lfs = |oid: &str, size: &str| {
            format!(
                r#"{{"type":"file","path":"w","size":{size},"oid":"{OID}","lfs":{{"oid":"{oid}","size":{size}}}}}"#
            )
        };
        let rows: Vec<(String, Option<usize>)> = vec![
            ("[]".into(), Some(0)),
            (format!("[{}]", file("a/b.json")), Some(1)),
            (format!("[{}, {}]", file("a"), r#"{"type":"directory","path":"../..","oid":"x"}"#), Some(1)),
            (format!("[{}]", lfs(SHA, "7")), Some(1)),
            (format!("[{}]", lfs(&format!("sha256:{SHA}"), "7")), Some(1)),
            (format!("[{}]", lfs(OID, "7")), None),
            (format!("[{}]", lfs("../../../etc/passwd", "7")), None),
            (format!("[{}]", lfs(SHA, "-7")), None),
            (format!("[{}]", lfs(SHA, "18446744073709551615")), None),
            (format!("[{}]", lfs(SHA, "1e99")), None),
            (format!("[{}, {}]", file("a"), file("a")), None),
            (r#"[{"type":"file","path":"a"}]"#.into(), None),
            (r#"[{"type":"file","path":"a","size":1,"oid":"zz"}]"#.into(), None),
            (r#"[{"type":"file","path":"a","size":1,"xetHash":"zz"}]"#.into(), None),
            ("<html>".into(), None),
            ("{}".into(), None),
            ("[".repeat(100_000), None),
        ];
        for (json, expected) in rows {
            let mut files = Files::default();
            let got = files.page(json.as_bytes()).ok().map(|_| files.files.len());
            assert_eq!(got, expected, "{}", &json[..json.len().min(200)]);
        }
        for name in [
            "../x",
            "/x",
            "a/../../x",
            "a//b",
            "./a",
            "a/./b",
            "a/",
            "C:x",
            "a\\b",
            "a\u{0}b",
            "a\nb",
            "",
            ".",
            "..",
        ] {
            let json = format!(r#"[{{"type":"file","path":{},"size":1}}]"#, serde_json::Value::from(name));
            assert!(Files::default().page(json.as_bytes()).is_err(), "{name:?}");
        }
    }
}
