//! What a MODEL names: a path that exists wins; then a repo in the hub's cache; then it is not found, with a hint that
//! fits what it looks like.

use super::Options;
use super::choose::is_quantisation;
use super::far::{self, Far, HubName};
use crate::error::{Error, ErrorKind, Result};
use crate::source::hub::cache::{Cache, Repo, fetch_hint, is_commit};
use crate::text::Shown;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where a MODEL is.
pub(super) enum Located {
    File(PathBuf),
    Directory(Directory),
    Far(Far),
}

/// A directory that holds a model.
#[derive(Debug, Default)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
    /// The model's short name.
    pub(super) name: String,
    /// `:Q4_K_M`.
    pub(super) quantisation: Option<String>,
    pub(super) repo: Option<Repo>,
    pub(super) commit: Option<String>,
    /// What the cache knows to be part of the repo and does not have.
    pub(super) missing: BTreeMap<String, u64>,
}

pub(super) fn locate(model: &str, options: &Options) -> Result<Located> {
    if model.is_empty() {
        return Err(Error::usage("the name of the model is empty"));
    }
    if let Some((scheme, rest)) = model.split_once("://") {
        return match scheme {
            "file" => at_path(rest)?.ok_or_else(|| absent(rest)),
            _ if far::is_far(scheme) => far::locate(scheme, model, options).map(Located::Far),
            _ => {
                Err(Error::usage(format!("`{}` begins with a scheme that hoist does not know", Shown(model))))
            }
        };
    }
    if let Some(found) = at_path(model)? {
        return Ok(found);
    }
    if let Some((path, quantisation)) = model.rsplit_once(':')
        && is_quantisation(quantisation)
        && let Some(Located::Directory(directory)) = at_path(path)?
    {
        let quantisation = Some(quantisation.to_string());
        return Ok(Located::Directory(Directory { quantisation, ..directory }));
    }
    in_cache(model, options)?.ok_or_else(|| absent(model))
}

/// The path, if there is anything at it.
fn at_path(text: &str) -> Result<Option<Located>> {
    let path = Path::new(text);
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            if path.is_symlink() {
                return Err(Error::not_found("is a link to something that is not there").file(text));
            }
            return Ok(None);
        }
        // A NUL or an overlong name is no path at all.
        Err(e)
            if matches!(e.kind(), std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidFilename) =>
        {
            return Ok(None);
        }
        Err(e) => return Err(Error::io("cannot be opened", e).file(text)),
    };
    if !metadata.is_dir() {
        return Ok(Some(Located::File(path.to_owned())));
    }
    // The name of `.` is that of the directory it stands for.
    let real =
        || path.canonicalize().ok().and_then(|p| p.file_name().map(|n| n.to_string_lossy().into_owned()));
    let name = match path.components().next_back() {
        Some(std::path::Component::Normal(name)) => Some(name.to_string_lossy().into_owned()),
        _ => real(),
    };
    let name = name.unwrap_or_else(|| text.to_string());
    Ok(Some(Located::Directory(Directory { path: path.to_owned(), name, ..Directory::default() })))
}

/// What the cache has of a model of the hub, and of which commit that is.
pub(super) fn in_hub_cache(named: &HubName, options: &Options) -> Result<(Located, Option<String>)> {
    let absent =
        || Error::not_found("is not in the cache").file(named.repo.id.clone()).hint(fetch_hint(&named.repo));
    let text = format!("{}@{}", named.repo.id, named.repo.revision);
    let Some(Located::Directory(directory)) = in_cache(&text, options)? else { return Err(absent()) };
    let quantisation = named.quantisation.clone();
    let Some(path) = &named.path else {
        let commit = directory.commit.clone();
        return Ok((Located::Directory(Directory { quantisation, ..directory }), commit));
    };
    match at_path(&directory.path.join(path).to_string_lossy())? {
        Some(Located::Directory(inner)) => {
            let Directory { commit, repo, .. } = directory;
            let inner = Directory { quantisation, commit: commit.clone(), repo, ..inner };
            Ok((Located::Directory(inner), commit))
        }
        Some(file) => Ok((file, directory.commit)),
        None => Err(absent()),
    }
}

/// Sets the commit that the revision must stand for.
///
/// # Errors
/// `Integrity`: another commit is named. `BadInput`: it is no commit.
pub(super) fn pin(repo: &mut Repo, options: &Options) -> Result<()> {
    let Some(commit) = &options.commit else { return Ok(()) };
    if !is_commit(commit) {
        return Err(Error::bad_input(format!("`{}` is no commit", Shown(commit))).file(repo.id.clone()));
    }
    if is_commit(&repo.revision) && repo.revision != *commit {
        let message = format!("commit {} is asked for and {commit} is locked", repo.revision);
        return Err(Error::new(ErrorKind::Integrity, message).file(repo.id.clone()));
    }
    repo.revision.clone_from(commit);
    Ok(())
}

/// The repo's snapshot in the cache. `None` where the text cannot be a repo.
fn in_cache(text: &str, options: &Options) -> Result<Option<Located>> {
    let (text, quantisation) = match text.rsplit_once(':') {
        Some((text, quantisation)) if is_quantisation(quantisation) => (text, Some(quantisation.to_string())),
        _ => (text, None),
    };
    let Some(mut repo) = Repo::parse(text) else { return Ok(None) };
    pin(&mut repo, options)?;
    let cache = match &options.hub_cache {
        Some(root) => Some(Cache::at(root)),
        None => Cache::from_environment(|name| std::env::var_os(name)),
    };
    let Some(cache) = cache else {
        return Err(Error::not_found(
            "is neither here nor in a Hugging Face cache: no `HF_HOME` and no home directory is set",
        )
        .file(repo.id.clone())
        .hint(fetch_hint(&repo)));
    };
    // A word without a slash is a repo only if the cache has it; else it is a path that is not there.
    if !repo.id.contains('/') && !cache.has(&repo) {
        return Ok(None);
    }
    let snapshot = cache.snapshot(&repo)?;
    Ok(Some(Located::Directory(Directory {
        path: snapshot.path,
        name: repo.id.clone(),
        quantisation,
        commit: Some(snapshot.commit),
        missing: snapshot.missing,
        repo: Some(repo),
    })))
}

fn absent(model: &str) -> Error {
    let error =
        Error::new(ErrorKind::NotFound, "no such file or folder, and no repo of the cache").file(model);
    let is_word =
        !model.is_empty() && model.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    match is_word && !model.starts_with('-') {
        true => error
            .hint(format!("a repo is named `org/name`; `hoist fetch {model}` fetches one that has no org")),
        false => error,
    }
}
