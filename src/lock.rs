//! The lock file: which bytes a model is, so that a build gives the same tomorrow.
//!
//! ```toml
//! version = 1
//!
//! [[source]]
//! uri = "hf://Qwen/Qwen3-8B@main"
//! commit = "b968826d9c46dd6066d109eabc6255188de91218"
//!
//! [[source.file]]
//! path = "config.json"
//! size = 728
//! sha256 = "…"
//! ```
//!
//! TOML, for people read it in reviews; sorted, so that the same bytes make the same lock file. A source is told from
//! others by its URI and by what of it was asked for. Every file has its SHA-256, also where the hub names it by git's SHA-1:
//! a lock is about bytes. What was made from sources stands in the same file, with what of the source was read, the recipe
//! and the tool that made it:
//!
//! ```toml
//! [[output]]
//! name = "qwen.gguf"
//! source = "hf://Qwen/Qwen3-8B"
//! commit = "b968826d9c46dd6066d109eabc6255188de91218"
//! recipe = "quantize --scheme q4_k_m"
//! tool = "hoist 0.1.0"
//!
//! [[output.input]]
//! path = "model-00001-of-00005.safetensors"
//! size = 3996250744
//! version = "…"
//!
//! [[output.file]]
//! path = "qwen.gguf"
//! size = 5027783488
//! sha256 = "…"
//! ```

use crate::error::{Error, ErrorKind, Result};
use crate::text::{Shown, grouped};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;

const VERSION: u32 = 1;

/// The longest lock file that is read.
const LOCK_BYTES_MAX: u64 = 64 << 20;

/// A lock file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    version: u32,
    /// What was fetched.
    #[serde(default, rename = "source", skip_serializing_if = "Vec::is_empty")]
    sources: Vec<Source>,
    /// What was made.
    #[serde(default, rename = "output", skip_serializing_if = "Vec::is_empty")]
    outputs: Vec<Output>,
}

/// A source, at one commit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Where it is from: `hf://org/name@main`.
    pub uri: String,
    /// The commit, where the source has such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// What was asked for by `--include`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// What was asked to stay out by `--exclude`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Whether everything was asked for.
    #[serde(default, skip_serializing_if = "is_false")]
    pub all: bool,
    /// Its files.
    #[serde(default, rename = "file", skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<File>,
}

/// What was made from a source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Its name: the path of the file or the folder, as it was given.
    pub name: String,
    /// The source: its URI, or the path that was given.
    pub source: String,
    /// The commit, where the source has such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// What was done.
    pub recipe: String,
    /// By which tool, with its version.
    pub tool: String,
    /// The files of weights that were read.
    #[serde(default, rename = "input", skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Input>,
    /// Its files.
    #[serde(default, rename = "file", skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<File>,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Its path in the source.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// SHA-256 of its bytes, in hex.
    pub sha256: String,
}

/// A file that was read. Of a local one that no cache names by its hash only the size is said: hashing it would read the
/// model a second time, and an output that is the same byte for byte says more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Its path in the source.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// What its place calls this content: the hub's SHA-256 or git SHA-1, the ETag of a store or server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

impl File {
    /// A file's entry, from its bytes. `step` is called with each count of bytes that was read.
    ///
    /// # Errors
    /// What reading gives, and what `step` does.
    pub fn of(path: &str, mut from: impl Read, step: &mut dyn FnMut(u64) -> Result<()>) -> Result<File> {
        let mut hash = Sha256::new();
        let mut size = 0;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    hash.update(buffer.get(..n).unwrap_or_default());
                    size += n as u64;
                    step(n as u64)?;
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("cannot be read back", e).file(path)),
            }
        }
        let digest: [u8; 32] = hash.finalize().into();
        let sha256 = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(File { path: path.to_owned(), size, sha256 })
    }
}

/// How one list of files differs from another that is locked.
fn file_differences(locked: &[File], found: &[File]) -> Vec<String> {
    let rows = |files: &[File]| -> BTreeMap<String, (u64, String)> {
        files.iter().map(|f| (f.path.clone(), (f.size, f.sha256.clone()))).collect()
    };
    let (locked, found) = (rows(locked), rows(found));
    let mut differences = Vec::new();
    for (path, (size, sha256)) in &locked {
        match found.get(path) {
            None => differences.push(format!("`{}` is locked and not there", Shown(path))),
            Some((other, _)) if other != size => differences.push(format!(
                "`{}` has {} bytes, locked {}",
                Shown(path),
                grouped(*other),
                grouped(*size)
            )),
            Some((_, other)) if other != sha256 => {
                differences.push(format!("`{}` has SHA-256 {other}, locked {}", Shown(path), Shown(sha256)))
            }
            Some(_) => {}
        }
    }
    for path in found.keys().filter(|path| !locked.contains_key(*path)) {
        differences.push(format!("`{}` is there and not locked", Shown(path)));
    }
    differences
}

fn commit_difference(locked: &Option<String>, found: &Option<String>) -> Option<String> {
    let name = |commit: &Option<String>| commit.clone().unwrap_or_else(|| "none".into());
    (locked != found).then(|| format!("commit `{}`, locked `{}`", Shown(&name(found)), Shown(&name(locked))))
}

/// The error of what differs; the first of it is named.
fn refuse(differences: &[String], name: &str) -> Result<()> {
    let Some(first) = differences.first() else { return Ok(()) };
    let more = match differences.len() {
        1 => String::new(),
        2 => "; and 1 more difference".to_owned(),
        n => format!("; and {} more differences", n - 1),
    };
    let message = format!("differs from the lock file: {first}{more}");
    Err(Error::new(ErrorKind::Integrity, message)
        .file(name)
        .hint("without --locked the lock file is written anew"))
}

fn is_false(value: &bool) -> bool {
    !value
}

impl Default for Lock {
    fn default() -> Lock {
        Lock { version: VERSION, sources: Vec::new(), outputs: Vec::new() }
    }
}

impl Source {
    /// Whether another is the same source, asked for the same things.
    fn is_same(&self, other: &Source) -> bool {
        (&self.uri, &self.include, &self.exclude, self.all)
            == (&other.uri, &other.include, &other.exclude, other.all)
    }

    /// Compares what is found with what is locked.
    ///
    /// # Errors
    /// `Integrity`, naming the first file that differs and how many do.
    pub fn check(&self, found: &Source) -> Result<()> {
        let mut differences: Vec<String> =
            commit_difference(&self.commit, &found.commit).into_iter().collect();
        differences.extend(file_differences(&self.files, &found.files));
        refuse(&differences, &self.uri)
    }
}

impl Output {
    /// Compares what is about to be made with what is locked: all but the files that will be written. Paths of sources are
    /// not compared: the same model may lie elsewhere.
    ///
    /// # Errors
    /// `Integrity`, naming what differs.
    pub fn check_making(&self, found: &Output) -> Result<()> {
        let mut differences = Vec::new();
        let is_url = |text: &str| text.contains("://");
        if self.source != found.source && (is_url(&self.source) || is_url(&found.source)) {
            differences.push(format!("source `{}`, locked `{}`", Shown(&found.source), Shown(&self.source)));
        }
        differences.extend(commit_difference(&self.commit, &found.commit));
        if self.recipe != found.recipe {
            differences.push(format!("recipe `{}`, locked `{}`", Shown(&found.recipe), Shown(&self.recipe)));
        }
        let names = |inputs: &[Input]| -> BTreeMap<String, Input> {
            inputs.iter().map(|input| (input.path.clone(), input.clone())).collect()
        };
        let (locked, here) = (names(&self.inputs), names(&found.inputs));
        for (path, input) in &locked {
            let Some(other) = here.get(path) else {
                differences.push(format!("the source has no `{}`, which is locked", Shown(path)));
                continue;
            };
            if other.size != input.size {
                differences.push(format!(
                    "the source's `{}` has {} bytes, locked {}",
                    Shown(path),
                    grouped(other.size),
                    grouped(input.size)
                ));
            } else if let (Some(version), Some(locked)) = (&other.version, &input.version)
                && version != locked
            {
                differences.push(format!(
                    "the source's `{}` is `{}`, locked `{}`",
                    Shown(path),
                    Shown(version),
                    Shown(locked)
                ));
            }
        }
        for path in here.keys().filter(|path| !locked.contains_key(*path)) {
            differences.push(format!("the source's `{}` is not locked", Shown(path)));
        }
        refuse(&differences, &self.name)
    }

    /// Compares the files that were written with those that are locked.
    ///
    /// # Errors
    /// `Integrity`, naming the first file that differs and how many do.
    pub fn check_files(&self, found: &[File]) -> Result<()> {
        refuse(&file_differences(&self.files, found), &self.name)
    }
}

impl Lock {
    /// Reads a lock file.
    ///
    /// # Errors
    /// `NotFound`: it is not there. `BadInput`: it is none, or of a later version. The system's.
    pub fn read(path: &Path) -> Result<Lock> {
        let name = || path.display().to_string();
        let fail = |e: std::io::Error| {
            let error = Error::io("the lock file cannot be read", e).file(name());
            match error.kind() {
                ErrorKind::NotFound => error.hint("without --locked it is written"),
                _ => error,
            }
        };
        let size_bytes = std::fs::metadata(path).map_err(fail)?.len();
        if size_bytes > LOCK_BYTES_MAX {
            return Err(
                Error::bad_input(format!("has {} bytes: no lock file", grouped(size_bytes))).file(name())
            );
        }
        let text = std::fs::read_to_string(path).map_err(fail)?;
        Lock::parse(&text).map_err(|e| e.file(name()))
    }

    /// Reads the text of a lock file.
    ///
    /// # Errors
    /// `BadInput`: it is none, or of a later version.
    pub fn parse(text: &str) -> Result<Lock> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let damaged = |e: toml::de::Error| {
            let (line, _) = e.span().map_or((0, 0), |s| {
                let before = text.get(..s.start).unwrap_or(text);
                (before.matches('\n').count() + 1, s.start)
            });
            Error::bad_input(format!("is not a lock file: line {line}: {}", Shown(e.message())))
        };
        let head: Head = toml::from_str(text).map_err(damaged)?;
        if head.version != VERSION {
            return Err(Error::unsupported(format!(
                "is a lock file of version {}; this hoist reads version {VERSION}",
                head.version
            )));
        }
        let lock: Lock = toml::from_str(text).map_err(damaged)?;
        let files =
            lock.sources.iter().flat_map(|s| &s.files).chain(lock.outputs.iter().flat_map(|o| &o.files));
        for file in files {
            let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
            if file.sha256.len() != 64 || !file.sha256.bytes().all(hex) {
                let message = format!("`{}` has no SHA-256 of 64 hex digits", Shown(&file.path));
                return Err(Error::bad_input(message));
            }
        }
        Ok(lock)
    }

    /// The text of the lock file.
    ///
    /// # Errors
    /// `BadInput`: hoist is wrong.
    pub fn text(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::bug(format!("the lock file cannot be written: {e}")))
    }

    /// Writes the lock file: under another name first, so that readers see the old one or the new one.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = self.text()?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.tmp", std::process::id()));
        let temporary = path.with_file_name(name);
        let write = || {
            let mut file = std::fs::File::create(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&temporary, path)
        };
        write().map_err(|e| {
            let _ = std::fs::remove_file(&temporary);
            Error::io("the lock file cannot be written", e).file(path.display().to_string())
        })
    }

    /// What is locked of a source: the entry of the same URI and the same wishes.
    pub fn find(&self, like: &Source) -> Option<&Source> {
        self.sources.iter().find(|s| s.is_same(like))
    }

    /// Puts a source in, in place of what was locked of it.
    pub fn set(&mut self, mut source: Source) {
        source.files.sort();
        self.sources.retain(|s| !s.is_same(&source));
        self.sources.push(source);
        self.sources.sort_by(|a, b| {
            (&a.uri, &a.include, &a.exclude, a.all).cmp(&(&b.uri, &b.include, &b.exclude, b.all))
        });
    }

    /// What is locked of an output.
    pub fn find_output(&self, name: &str) -> Option<&Output> {
        self.outputs.iter().find(|o| o.name == name)
    }

    /// Puts an output in, in place of what was locked under its name.
    pub fn set_output(&mut self, mut output: Output) {
        output.files.sort();
        output.inputs.sort();
        self.outputs.retain(|o| o.name != output.name);
        self.outputs.push(output);
        self.outputs.sort_by(|a, b| a.name.cmp(&b.name));
    }
}
