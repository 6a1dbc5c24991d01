//! A folder of the user's (`--local-dir`): files under their own names, and beside them what huggingface_hub notes about
//! them:
//!
//! ```text
//! ROOT/.cache/huggingface/.gitignore              "*"
//!                         CACHEDIR.TAG
//!                         download/PATH.metadata  three lines: the commit, the etag, when that was so
//!                         download/PATH.lock      held while the file is written
//!                         trees/COMMIT.json       the listing
//! ```
//!
//! A note counts as long as the file is not younger than it, by a second.

use super::cached::Cached;
use super::{Found, PARTIAL, TreeFile, etag, expected, write};
use crate::error::{Error, Result};
use crate::fetch::hash;
use crate::fetch::transfer::Digest;
use crate::run::job::Control;
use sha2::Digest as _;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A folder that holds one commit of a repo.
#[derive(Debug)]
pub(in crate::fetch) struct Folder {
    root: PathBuf,
    notes: PathBuf,
    cache: Option<Cached>,
    commit: String,
}

impl Folder {
    pub(super) fn new(root: &Path, cache: Option<Cached>, commit: &str) -> Folder {
        let notes = root.join(".cache/huggingface");
        Folder { root: root.to_owned(), notes, cache, commit: commit.to_owned() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn listings(&self) -> [PathBuf; 2] {
        let name = format!("{}.json", self.commit);
        [self.notes.join("trees").join(&name), self.notes.join(".hoist/trees").join(&name)]
    }

    pub(super) fn workshop(&self) -> PathBuf {
        self.notes.join("download")
    }

    fn place(&self, file: &TreeFile) -> PathBuf {
        self.root.join(&file.path)
    }

    fn note_path(&self, file: &TreeFile) -> PathBuf {
        self.workshop().join(format!("{}.metadata", file.path))
    }

    pub(super) fn lock(&self, file: &TreeFile) -> PathBuf {
        self.workshop().join(format!("{}.lock", file.path))
    }

    pub(super) fn partial(&self, file: &TreeFile) -> PathBuf {
        let what = format!("{}\n{}", file.path, etag(file).unwrap_or(&self.commit));
        let name = Digest::Sha256(sha2::Sha256::digest(what.as_bytes()).into()).to_string();
        self.workshop().join(name + PARTIAL)
    }

    pub(super) fn find(&self, file: &TreeFile, control: &Control) -> Result<Found> {
        let path = self.place(file);
        let here = std::fs::metadata(&path).ok().filter(|m| m.is_file() && m.len() == file.size_bytes);
        if let Some(metadata) = here {
            let modified = metadata.modified().ok();
            match (self.noted(file, modified), etag(file), expected(file)) {
                (Some(noted), Some(etag), _) if noted == etag => return Ok(Found::Here),
                // Nothing says what the hash is: a file that was fetched at this commit is this file.
                (Some(_), None, _) => return Ok(Found::Here),
                (_, _, Some(wanted)) if hash::of_file(&path, hash::kind(&wanted), control)? == wanted => {
                    return Ok(Found::Unnoted);
                }
                _ => {}
            }
        }
        let cached = self.cache.as_ref().map(|c| (c.find(file), c));
        Ok(match cached {
            Some((Found::Here, cache)) => Found::At(cache.snapshot().join(&file.path)),
            Some((Found::At(blob), _)) => Found::At(blob),
            _ => Found::Absent,
        })
    }

    /// The etag that is noted of a file, if the note counts.
    fn noted(&self, file: &TreeFile, modified: Option<SystemTime>) -> Option<String> {
        let mut text = String::new();
        let note = std::fs::File::open(self.note_path(file)).ok()?;
        note.take(4096).read_to_string(&mut text).ok()?;
        let mut lines = text.lines().map(str::trim);
        let (commit, etag, time) = (lines.next()?, lines.next()?, lines.next()?);
        let time: f64 = time.parse().ok()?;
        let modified = modified?.duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
        // Without an etag in the listing only the commit tells.
        let is_of = super::etag(file).is_some() || commit == self.commit;
        (is_of && modified - 1.0 <= time).then(|| etag.to_owned())
    }

    pub(super) fn prepare(&self) -> Result<()> {
        write::make_folder(&self.workshop())?;
        super::write_tag(&self.notes)?;
        let ignore = self.notes.join(".gitignore");
        match ignore.exists() {
            true => Ok(()),
            false => write::write_whole(&ignore, b"*"),
        }
    }

    pub(super) fn settle(&self, file: &TreeFile, partial: &Path, digest: &Digest) -> Result<()> {
        self.make_room(file)?;
        write::rename(partial, &self.place(file))?;
        self.note(file, Some(digest))
    }

    pub(super) fn copy(&self, file: &TreeFile, from: &Path) -> Result<()> {
        self.make_room(file)?;
        write::copy(from, &self.place(file))?;
        self.note(file, None)
    }

    /// A folder that has the name of the file is the user's: it is not removed.
    fn make_room(&self, file: &TreeFile) -> Result<()> {
        match self.place(file).is_dir() {
            true => Err(Error::bad_input("is a folder where a file of the repo belongs")
                .file(self.place(file).display().to_string())),
            false => Ok(()),
        }
    }

    /// Notes which file it is.
    pub(super) fn note(&self, file: &TreeFile, digest: Option<&Digest>) -> Result<()> {
        let found = digest.map(Digest::to_string);
        let Some(etag) = etag(file).or(found.as_deref()) else { return Ok(()) };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        let text = format!("{}\n{etag}\n{now:.6}\n", self.commit);
        write::write_whole(&self.note_path(file), text.as_bytes())
    }
}
