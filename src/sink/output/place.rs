//! Where an output may stand: what its path leads to, what is there already, and that it is no input.
//!
//! Everything here is looked at before the first byte is written, because an hour later is too late, and nothing here
//! changes anything.

use super::journal::{self, FINISHED_NAME, Records};
use crate::error::{Error, Result};
use crate::sink::file::{directory_of, shown};
use crate::text::Shown;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What is at the output's place.
#[derive(Debug)]
pub(super) enum Standing {
    /// Nothing.
    Absent,
    /// A directory that holds hoist's finished journal and nothing that the journal does not know.
    Ours,
    /// Something that goes only when it is told to, and what it is.
    Other(String),
}

/// The path at which the output is made: its folder without links, and for a directory the output itself without links,
/// so that a folder that is a link to a larger disk is filled there. A link in place of a file is a name like any other:
/// it is replaced itself, and what it leads to is not touched (in a cache it would be a blob that others share).
///
/// # Errors
/// A path without a name of its own, a folder that is not there, a link that leads nowhere.
pub(super) fn resolve(target: &Path, directory: bool) -> Result<PathBuf> {
    let Some(name) = target.file_name() else {
        return Err(Error::usage("names no file or folder of its own")
            .file(shown(target))
            .hint("add the name that the output shall have"));
    };
    let slash =
        target.as_os_str().as_encoded_bytes().last().is_some_and(|&b| std::path::is_separator(b.into()));
    if slash && !directory {
        let name = name.to_string_lossy();
        return Err(Error::usage("names a folder, and the output is one file")
            .file(shown(target))
            .hint(format!("without the slash at its end the file will be `{}`", Shown(&name))));
    }
    let parent = directory_of(target);
    let real_parent = match parent.canonicalize() {
        Ok(real) if real.is_dir() => real,
        Ok(_) => return Err(Error::bad_input("lies in something that is not a folder").file(shown(target))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let parent = shown(parent);
            return Err(Error::not_found(format!(
                "cannot be made: the folder `{}` is not there",
                Shown(&parent)
            ))
            .file(shown(target))
            .hint("make that folder first"));
        }
        Err(e) => return Err(Error::io("cannot be made there", e).file(shown(target))),
    };
    let place = real_parent.join(name);
    if !directory || !place.is_symlink() {
        return Ok(place);
    }
    match place.canonicalize() {
        Ok(real) if real.file_name().is_some() => Ok(real),
        Ok(_) => Err(Error::usage("is a link to a folder without a name").file(shown(target))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Err(Error::not_found("is a link to something that is not there")
                .file(shown(target))
                .hint("remove the link, or make what it leads to"))
        }
        Err(e) => Err(Error::io("is a link that cannot be followed", e).file(shown(target))),
    }
}

/// Looks at what is there.
///
/// # Errors
/// What no flag lets hoist replace: a device, a pipe, a directory where a file is to be, a mount point.
pub(super) fn standing(place: &Path, directory: bool) -> Result<Standing> {
    let found = match fs::symlink_metadata(place) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Standing::Absent),
        Err(e) => return Err(Error::io("cannot be examined", e)),
    };
    if !directory {
        return match fs::metadata(place) {
            Ok(target) if target.is_dir() => Err(Error::bad_input("is a folder, and the output is one file")
                .hint("name a file in it, or a new one")),
            Ok(target) if !target.is_file() => Err(Error::bad_input("exists and is not a regular file")),
            // A link to nothing is something all the same.
            _ => Ok(Standing::Other("exists already".into())),
        };
    }
    if found.is_file() {
        return Ok(Standing::Other("exists already, as a file".into()));
    }
    if !found.is_dir() {
        return Err(Error::bad_input("exists and is neither a folder nor a regular file"));
    }
    if is_mount_point(place) {
        return Err(Error::bad_input("is a mount point, which cannot be replaced")
            .hint("name a new folder inside it"));
    }
    let Some(records) = journal::finished(place)? else {
        return Ok(Standing::Other("exists already, and is not a finished output of hoist".into()));
    };
    Ok(match first_foreign(place, &records)? {
        None => Standing::Ours,
        Some(name) => Standing::Other(format!(
            "exists already; hoist made it, but `{}` in it has been added or changed since",
            Shown(&name)
        )),
    })
}

/// A file of a finished directory that its journal does not know, or knows with another size; what people put beside an
/// output is theirs.
fn first_foreign(root: &Path, records: &Records) -> Result<Option<String>> {
    let mut foreign = None;
    let seen = strangers(root, records, &mut |name, stranger| {
        if name != FINISHED_NAME || stranger.is_directory {
            foreign.get_or_insert_with(|| name.to_owned());
        }
        Ok(())
    });
    seen.map_err(|e| Error::io("cannot be examined", e))?;
    Ok(foreign)
}

/// Something in a directory that its journal does not know.
pub(super) struct Stranger {
    pub(super) path: PathBuf,
    pub(super) is_directory: bool,
}

/// Calls `see` with everything below `root` that is neither a file of `records` with its size nor a folder that holds
/// one: names relative to it, with `/`. Links are strangers. What is in a strange folder is not looked at.
pub(super) fn strangers(
    root: &Path,
    records: &Records,
    see: &mut dyn FnMut(&str, Stranger) -> io::Result<()>,
) -> io::Result<()> {
    let folders = journal::folders_of(records);
    // No deeper than the records' own names.
    let mut left = vec![(root.to_owned(), String::new())];
    while let Some((folder, under)) = left.pop() {
        // All of it first: what is seen may be removed.
        for entry in fs::read_dir(&folder)?.collect::<io::Result<Vec<_>>>()? {
            let (path, metadata) = (entry.path(), entry.metadata()?);
            // A name that is not UTF-8 is in no record; shown, its strange bytes are replaced.
            let known = entry.file_name().to_str().map(|name| format!("{under}{name}"));
            match known {
                Some(name) if metadata.is_dir() && folders.contains(name.as_str()) => {
                    left.push((path, format!("{name}/")));
                }
                Some(name)
                    if metadata.is_file()
                        && records.get(&name).is_some_and(|r| r.size_bytes == metadata.len()) => {}
                _ => {
                    let name =
                        known.unwrap_or_else(|| format!("{under}{}", entry.file_name().to_string_lossy()));
                    see(&name, Stranger { path, is_directory: metadata.is_dir() })?;
                }
            }
        }
    }
    Ok(())
}

/// Whether something is mounted at a directory (a container's volume, say), as far as the system tells.
fn is_mount_point(directory: &Path) -> bool {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
        rustix::fs::statx(CWD, directory, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
            .is_ok_and(|s| s.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = directory;
        false
    }
}

/// Refuses an output whose making would replace an input, whole or in part: one that is an input, by whatever name or
/// link; a directory above an input; a directory inside an input directory, which the next run would find among its
/// inputs. A file beside its inputs does no harm. `work` is where a directory is built: what is there is removed.
pub(super) fn check_inputs(place: &Path, work: &Path, inputs: &[PathBuf], directory: bool) -> Result<()> {
    let (target, work) = (key(place), key(work));
    let is_output = |key: &Key| target.as_ref() == Some(key) || work.as_ref() == Some(key);
    let above_target: Vec<Key> = ancestors(place).skip(1).filter_map(key).collect();
    let mut seen = hashbrown::HashSet::new();
    for input in inputs {
        let name = shown(input);
        // What is gone cannot be replaced.
        let Ok(real) = input.canonicalize() else { continue };
        if key(&real).is_some_and(|key| is_output(&key)) {
            return Err(Error::bad_input(format!("is one of the inputs: `{}`", Shown(&name)))
                .hint("write elsewhere; an input is never replaced"));
        }
        if directory && key(&real).is_some_and(|key| above_target.contains(&key)) && real.is_dir() {
            return Err(Error::bad_input(format!("lies inside the input folder `{}`", Shown(&name)))
                .hint("write beside that folder"));
        }
        // By both ways: the folder that holds a link, and the one that holds what it leads to.
        let named = directory_of(input).canonicalize().unwrap_or_default();
        for start in [named, directory_of(&real).to_owned()] {
            for above in ancestors(&start) {
                if !seen.insert(above.to_owned()) {
                    break;
                }
                if key(above).is_some_and(|key| is_output(&key)) {
                    return Err(Error::bad_input(format!("holds the input `{}`", Shown(&name)))
                        .hint("write elsewhere; an input is never replaced"));
                }
            }
        }
    }
    Ok(())
}

/// Refuses to replace, whatever the flags, a folder that somebody lives in: this process, or the user.
pub(super) fn check_lived_in(place: &Path) -> Result<()> {
    let Some(target) = key(place) else { return Ok(()) };
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let rows = [(std::env::current_dir().ok(), "the current folder"), (home, "the home folder")];
    for (path, what) in rows {
        let real = path.and_then(|p| p.canonicalize().ok());
        if real.is_some_and(|real| ancestors(&real).any(|above| key(above).as_ref() == Some(&target))) {
            return Err(Error::bad_input(format!("is or holds {what}, which hoist does not replace"))
                .hint("name a new folder in it"));
        }
    }
    Ok(())
}

fn ancestors(path: &Path) -> impl Iterator<Item = &Path> {
    path.ancestors().filter(|p| !p.as_os_str().is_empty())
}

/// What tells one file or folder from all others, links followed.
#[cfg(unix)]
type Key = (u64, u64);
#[cfg(not(unix))]
type Key = PathBuf;

fn key(path: &Path) -> Option<Key> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(path).ok().map(|m| (m.dev(), m.ino()))
    }
    #[cfg(not(unix))]
    path.canonicalize().ok()
}
