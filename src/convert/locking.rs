//! What a lock file says of a conversion: of what, by which recipe and tool, and the hash of each file that was written.
//!
//! A conversion is the same byte for byte whatever the threads and the memory, so a lock file can bind it. The hashes take
//! one more read of the output, before it has its name: an output that is not what is locked never gets it. The sources
//! are told by what their places say of them (a commit, hashes of the hub, ETags) and are not read a second time.

use crate::error::{Error, ErrorKind, Result};
use crate::lock::{File, Input, Lock, Output};
use crate::open::Model;
use crate::run::job::Control;
use crate::run::parallel;
use crate::source::ReadAt;
use crate::text::Shown;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Files that are hashed at a time.
const THREADS: usize = 4;

/// The lock file of a conversion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locking {
    /// The lock file.
    pub file: PathBuf,
    /// Make what it says or nothing, instead of writing it.
    pub locked: bool,
    /// The name of the model, as others can find it.
    pub source: String,
    /// What was asked for that decides the output's bytes.
    pub recipe: String,
}

/// A conversion that a lock file is about.
#[derive(Debug)]
pub(super) struct Begun {
    file: PathBuf,
    /// What stands in the lock file, where it binds.
    locked: Option<Output>,
    output: Output,
}

impl Locking {
    /// What is known before anything is written; compared, where the lock file binds.
    ///
    /// # Errors
    /// `NotFound`: a lock file that binds and is not there. `Integrity`: the output is not in it, or was made of something
    /// else or by another recipe. What reading it gives.
    pub(super) fn begin(&self, model: &Model, out: &Path) -> Result<Begun> {
        let name = out.to_str().filter(|name| !name.is_empty()).ok_or_else(|| {
            Error::usage("an output whose name is not UTF-8 cannot stand in a lock file")
                .file(out.display().to_string())
        })?;
        let files = model.table.files.iter().zip(&model.files);
        let output = Output {
            name: name.to_owned(),
            source: self.source.clone(),
            commit: model.commit.clone(),
            recipe: self.recipe.clone(),
            tool: format!("hoist {}", env!("CARGO_PKG_VERSION")),
            inputs: files
                .map(|(file, from)| Input {
                    path: file.name.clone(),
                    size: file.size_bytes,
                    version: version(&**from),
                })
                .collect(),
            files: Vec::new(),
        };
        // What is wrong with a lock file that is there is said before the work, not after it.
        let lock = match Lock::read(&self.file) {
            Err(e) if e.kind() == ErrorKind::NotFound && !self.locked => Lock::default(),
            read => read?,
        };
        let locked = match self.locked {
            false => None,
            true => Some(lock.find_output(name).cloned().ok_or_else(|| {
                Error::new(ErrorKind::Integrity, format!("`{}` is not in the lock file", Shown(name)))
                    .file(self.file.display().to_string())
                    .hint("without --locked it is added")
            })?),
        };
        if let Some(locked) = &locked {
            locked.check_making(&output)?;
        }
        Ok(Begun { file: self.file.clone(), locked, output })
    }
}

/// What a file's place calls its content. A blob of the hub's cache has it for a name.
fn version(file: &dyn ReadAt) -> Option<String> {
    let Some(local) = file.as_local() else { return file.version().map(str::to_owned) };
    let real = local.path().canonicalize().ok()?;
    let name = real.file_name()?.to_str()?;
    let is_blob = real.parent()?.file_name()? == "blobs"
        && matches!(name.len(), 40 | 64)
        && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    is_blob.then(|| name.to_owned())
}

impl Begun {
    /// What a person should know.
    pub(super) fn note(&self) -> Option<String> {
        let locked = self.locked.as_ref().filter(|locked| locked.tool != self.output.tool)?;
        Some(format!("locked by {}, this is {}", Shown(&locked.tool), self.output.tool))
    }

    /// Hashes what was written and has no name yet, and compares it where the lock file binds.
    ///
    /// # Errors
    /// `Integrity`: a file is not what is locked. What reading gives. `Signal`: cancelled.
    pub(super) fn close(
        &mut self,
        names: &[&str],
        open: &(dyn Fn(&str) -> Result<std::fs::File> + Sync),
        control: &Control,
    ) -> Result<()> {
        let next = AtomicUsize::new(0);
        let found = Mutex::new(Vec::with_capacity(names.len()));
        parallel("hash", THREADS.min(names.len()), control, |_| {
            while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                let file = open(name).map_err(|e| e.file(*name))?;
                let file = File::of(name, file, &mut |bytes| {
                    control.moved(bytes);
                    match control.is_stopped() {
                        true => Err(Error::new(ErrorKind::Signal(2), "cancelled")),
                        false => Ok(()),
                    }
                })?;
                found.lock().unwrap_or_else(PoisonError::into_inner).push(file);
            }
            Ok(())
        })?;
        self.output.files = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        match &self.locked {
            Some(locked) => locked.check_files(&self.output.files),
            None => Ok(()),
        }
    }

    /// Writes the lock file, unless it binds.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn write(self) -> Result<()> {
        if self.locked.is_some() {
            return Ok(());
        }
        let told = |e: Error| e.detail("the output was written, and the lock file was not");
        // Read again: another conversion may have written its part meanwhile.
        let mut lock = match Lock::read(&self.file) {
            Err(e) if e.kind() == ErrorKind::NotFound => Lock::default(),
            read => read.map_err(told)?,
        };
        lock.set_output(self.output);
        lock.write(&self.file).map_err(told)
    }
}
