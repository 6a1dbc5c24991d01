//! Which files of a repo are fetched: decided from its listing, and from the few documents in it that name others.
//!
//! Everything that is not weights comes: configs, tokenizers, code, README, licence. Of the weights one copy comes, by the
//! rules by which a directory is opened ([`crate::open`]): safetensors before PyTorch before GGUF, what an index names
//! before names. Each folder is judged for itself, so that the parts of a pipeline and the modules of an embedding model
//! follow the same rule; where `model_index.json` names a pipeline's components, weights outside of them stay out.
//!
//! An index has to be read before it is known which shards it names, and a pipeline's index before its folders are. Guessing
//! them from `-00001-of-00004` would be a request less and wrong for every repo that keeps to no pattern; these documents
//! are fetched anyway. So choosing is a pure function that says what it still has to see ([`Choice::Read`]) and is called
//! again.

mod foreign;
mod gguf;

use crate::error::{Error, ErrorKind, Result};
use crate::format::shards::Index;
use crate::open::choose::{self, Weights};
use crate::source::Entry;
use crate::text::Shown;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use std::collections::{BTreeMap, BTreeSet};

/// What a pipeline is made of.
const COMPONENTS: &str = "model_index.json";

/// What the user asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Globs: only what matches one of them, whatever it is.
    pub include: Vec<String>,
    /// Globs: nothing that matches one of them.
    pub exclude: Vec<String>,
    /// Everything, not only what is needed.
    pub all: bool,
    /// One quantisation of a GGUF repo.
    pub quantisation: Option<String>,
    /// The vision projector of a GGUF repo too.
    pub projector: bool,
}

/// Where choosing stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// These files have to be read first.
    Read(Vec<String>),
    /// Decided.
    Made(Selection),
}

/// What is fetched and what is not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Indices of the listing, ascending.
    pub take: Vec<usize>,
    /// The rest, by reason.
    pub left_out: Vec<LeftOut>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Files that stay out for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Why.
    pub why: String,
    /// Their names.
    pub names: Vec<String>,
    /// Their sizes together.
    pub size_bytes: u64,
}

/// Chooses from the files of a repo. `read` holds the documents that an earlier answer asked for.
///
/// # Errors
/// `Usage`: several GGUF models and no choice, a glob that is none. `NotFound`: no such quantisation, a glob of `include`
/// that matches nothing, an index that names files which are not there. `BadInput`: an index that is damaged.
pub fn choose(files: &[Entry], wishes: &Wishes, read: &BTreeMap<String, Vec<u8>>) -> Result<Choice> {
    let mut notes = Vec::new();
    let fates = if !wishes.include.is_empty() {
        included(files, &wishes.include)?
    } else if wishes.all {
        vec![None; files.len()]
    } else {
        match needed(files, wishes, read, &mut notes)? {
            Fates::Read(names) => return Ok(Choice::Read(names)),
            Fates::Made(fates) => fates,
        }
    };
    let excluded = globs(&wishes.exclude)?;
    let mut take = Vec::new();
    let mut left_out: Vec<LeftOut> = Vec::new();
    for (index, (file, fate)) in files.iter().zip(fates).enumerate() {
        let fate = fate.or_else(|| excluded.is_match(&file.name).then(|| "excluded".to_owned()));
        let Some(why) = fate else {
            take.push(index);
            continue;
        };
        let at = left_out.iter().position(|l| l.why == why).unwrap_or_else(|| {
            left_out.push(LeftOut { why, names: Vec::new(), size_bytes: 0 });
            left_out.len() - 1
        });
        if let Some(group) = left_out.get_mut(at) {
            group.names.push(file.name.clone());
            group.size_bytes = group.size_bytes.saturating_add(file.size_bytes);
        }
    }
    Ok(Choice::Made(Selection { take, left_out, notes }))
}

/// Why each file stays out; `None` takes it.
type Fate = Option<String>;

enum Fates {
    Read(Vec<String>),
    Made(Vec<Fate>),
}

/// A set of globs as huggingface_hub means them: `*` crosses `/`, and a folder's name with its slash is all that is in it.
fn globs(patterns: &[String]) -> Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(glob(pattern)?);
    }
    set.build().map_err(|e| Error::usage(format!("the patterns are too many: {e}")))
}

fn glob(pattern: &str) -> Result<globset::Glob> {
    let whole = match pattern.ends_with('/') {
        true => format!("{pattern}*"),
        false => pattern.to_owned(),
    };
    let built = GlobBuilder::new(&whole).literal_separator(false).backslash_escape(true).build();
    built.map_err(|e| Error::usage(format!("`{}` is no glob: {}", Shown(pattern), e.kind())))
}

/// Whether a pattern is the plain name of a file.
pub fn is_plain(pattern: &str) -> bool {
    !pattern.ends_with('/') && !pattern.contains(['*', '?', '[', ']', '{', '}', '\\'])
}

fn included(files: &[Entry], patterns: &[String]) -> Result<Vec<Fate>> {
    for pattern in patterns {
        let matcher = glob(pattern)?.compile_matcher();
        if !files.iter().any(|f| matcher.is_match(&f.name)) {
            let message = format!("--include `{}` matches no file", Shown(pattern));
            return Err(Error::not_found(message).detail(some_names(files)));
        }
    }
    let set = globs(patterns)?;
    Ok(files.iter().map(|f| (!set.is_match(&f.name)).then(|| "not included".to_owned())).collect())
}

/// A few names, for a message.
fn some_names(files: &[Entry]) -> String {
    const SHOWN_MAX: usize = 8;
    let names: Vec<String> = files.iter().take(SHOWN_MAX).map(|f| format!("`{}`", Shown(&f.name))).collect();
    match files.len().checked_sub(SHOWN_MAX) {
        Some(more) if more > 0 => format!("there are {}, and {more} more", names.join(", ")),
        _ => format!("there are {}", names.join(", ")),
    }
}

/// The folder that a file is in, with its slash; empty at the top.
fn folder_of(name: &str) -> &str {
    name.rfind('/').map_or("", |at| &name[..=at])
}

fn file_of(name: &str) -> &str {
    &name[folder_of(name).len()..]
}

fn is_gguf(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".gguf")
}

/// The default: one copy of the weights and all that is none.
fn needed(
    files: &[Entry],
    wishes: &Wishes,
    read: &BTreeMap<String, Vec<u8>>,
    notes: &mut Vec<String>,
) -> Result<Fates> {
    let mut fates: Vec<Fate> = files.iter().map(|f| foreign::why(&f.name).map(str::to_owned)).collect();
    if let Some(wanted) = &wishes.quantisation {
        gguf::take(files, &mut fates, Some(wanted), wishes.projector, notes)?;
        for (file, fate) in files.iter().zip(&mut fates) {
            if choose::standing(file_of(&file.name)).is_some() {
                fate.get_or_insert_with(|| "not GGUF".to_owned());
            }
        }
        return Ok(Fates::Made(fates));
    }
    let mut unread = BTreeSet::new();
    outside_pipeline(files, &mut fates, read, &mut unread)?;
    let mut folders: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, (file, fate)) in files.iter().zip(&fates).enumerate() {
        if fate.is_none() && !is_gguf(&file.name) {
            folders.entry(folder_of(&file.name)).or_default().push(index);
        }
    }
    if unread.is_empty() {
        for (folder, inside) in &folders {
            one_copy(files, folder, inside, &mut fates, read, &mut unread, notes)?;
        }
    }
    if !unread.is_empty() {
        return Ok(Fates::Read(unread.into_iter().collect()));
    }
    let is_weights = |f: &Entry| {
        let name = file_of(&f.name);
        choose::standing(name).is_some() || choose::is_adapter(name)
    };
    let has_weights =
        |fates: &[Fate]| files.iter().zip(fates).any(|(f, fate)| fate.is_none() && is_weights(f));
    if !has_weights(&fates) {
        gguf::take(files, &mut fates, None, wishes.projector, notes)?;
        let has_gguf = files.iter().zip(&fates).any(|(f, fate)| fate.is_none() && is_gguf(&f.name));
        if !has_gguf && fates.iter().any(Option::is_some) {
            notes.push("no safetensors, PyTorch or GGUF weights: all files are fetched".into());
            fates.fill(None);
        }
    } else if wishes.projector {
        return Err(Error::not_found("holds no GGUF model that a projector belongs to")
            .hint("name the quantisation before it: `NAME:Q4_K_M+mmproj`"));
    } else {
        for (file, fate) in files.iter().zip(&mut fates).filter(|(f, _)| is_gguf(&f.name)) {
            let side = crate::format::gguf::names::is_side_file(&file.name);
            let why = if side { "beside a GGUF" } else { "GGUF beside other weights; `:Q4_K_M` takes one" };
            fate.get_or_insert_with(|| why.to_owned());
        }
    }
    Ok(Fates::Made(fates))
}

/// A document that was asked for; without it, it is asked for now.
fn document<'a>(
    name: &str,
    read: &'a BTreeMap<String, Vec<u8>>,
    unread: &mut BTreeSet<String>,
) -> Option<&'a [u8]> {
    let found = read.get(name).map(Vec::as_slice);
    if found.is_none() {
        unread.insert(name.to_owned());
    }
    found
}

/// Leaves out the weights of a pipeline that belong to none of its components: the same once more as one file, or other
/// forms of a component.
fn outside_pipeline(
    files: &[Entry],
    fates: &mut [Fate],
    read: &BTreeMap<String, Vec<u8>>,
    unread: &mut BTreeSet<String>,
) -> Result<()> {
    if !files.iter().any(|f| f.name == COMPONENTS) {
        return Ok(());
    }
    let Some(json) = document(COMPONENTS, read, unread) else { return Ok(()) };
    let index: serde_json::Value = serde_json::from_slice(json).map_err(|e| {
        Error::bad_input(format!("is not valid JSON: {}", Shown(&e.to_string()))).file(COMPONENTS)
    })?;
    let used =
        |kind: &serde_json::Value| kind.as_array().is_some_and(|k| k.iter().any(|part| !part.is_null()));
    let components: BTreeSet<String> = index
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, kind)| !name.starts_with('_') && used(kind))
        .map(|(name, _)| format!("{name}/"))
        .collect();
    let inside = |name: &str| {
        let top = name.find('/').map(|at| &name[..=at]);
        top.is_some_and(|top| components.contains(top))
    };
    let weights = |f: &Entry| choose::standing(file_of(&f.name)).is_some();
    if !files.iter().any(|f| inside(&f.name) && weights(f)) {
        return Ok(());
    }
    for (file, fate) in files.iter().zip(fates) {
        if weights(file) && !inside(&file.name) {
            let at_top = folder_of(&file.name).is_empty();
            let why =
                if at_top { "the pipeline once more as one file" } else { "no component of the pipeline" };
            fate.get_or_insert_with(|| why.to_owned());
        }
    }
    Ok(())
}

/// Leaves one copy of the weights in a folder.
fn one_copy(
    files: &[Entry],
    folder: &str,
    inside: &[usize],
    fates: &mut [Fate],
    read: &BTreeMap<String, Vec<u8>>,
    unread: &mut BTreeSet<String>,
    notes: &mut Vec<String>,
) -> Result<()> {
    let local: Vec<Entry> = inside
        .iter()
        .filter_map(|&i| files.get(i))
        .map(|f| Entry { name: file_of(&f.name).to_owned(), ..f.clone() })
        .collect();
    let is_there = |name: &str| local.iter().any(|e| e.name == name);
    let chosen: Option<BTreeSet<String>> = match choose::choose(&local, None) {
        Ok(Some(Weights::Files(names) | Weights::Gguf(names))) => Some(names.into_iter().collect()),
        Ok(Some(Weights::Indexed { index, or })) => {
            let path = format!("{folder}{index}");
            let Some(json) = document(&path, read, unread) else { return Ok(()) };
            let parsed = Index::parse(json).map_err(|e| e.file(path.as_str()))?;
            // A shard in a folder below is looked for there.
            let all: BTreeSet<&str> = files.iter().filter_map(|f| f.name.strip_prefix(folder)).collect();
            let shards: BTreeSet<String> = parsed.files().into_iter().map(str::to_owned).collect();
            let absent: Vec<&String> = shards.iter().filter(|s| !all.contains(s.as_str())).collect();
            match (absent.first(), or) {
                (Some(_), Some(single)) if absent.len() == shards.len() => {
                    notes.push(format!("{path}: names no shard that is here; `{single}` is fetched instead"));
                    Some(BTreeSet::from([single]))
                }
                (Some(first), _) => {
                    return Err(Error::not_found(format!(
                        "names {} shards, of which {} cannot be found, the first `{}`",
                        shards.len(),
                        absent.len(),
                        Shown(first)
                    ))
                    .file(path)
                    .hint("--all fetches what there is"));
                }
                (None, _) => Some(shards),
            }
        }
        // Weights that are not each other's copies: nobody but the repo's own code knows which are needed.
        Err(e) if matches!(e.kind(), ErrorKind::Usage | ErrorKind::Unsupported | ErrorKind::NotFound) => {
            let best = local.iter().filter_map(|e| choose::standing(&e.name)).min();
            let of_best = local.iter().filter(|e| choose::standing(&e.name) == best);
            Some(of_best.map(|e| e.name.clone()).collect())
        }
        Ok(Some(Weights::Adapter(_)) | None) => None,
        Err(e) => return Err(e),
    };
    // Shards may lie in folders below: their own folders' rule must not drop them.
    let is_chosen = |name: &str| chosen.as_ref().is_some_and(|c| c.contains(name));
    let best = chosen.iter().flatten().filter_map(|name| choose::standing(file_of(name))).min();
    let twins: BTreeSet<&str> = chosen.iter().flatten().map(|name| stem(name)).collect();
    let adapter_twin = |name: &str| name == "adapter_model.bin" && is_there("adapter_model.safetensors");
    for &index in inside {
        let (Some(file), Some(fate)) = (files.get(index), fates.get_mut(index)) else { continue };
        let name = file_of(&file.name);
        if adapter_twin(name) {
            fate.get_or_insert_with(|| "PyTorch beside safetensors".to_owned());
        }
        let (Some((family, rank)), Some((best, _))) = (choose::standing(name), best) else { continue };
        let why = match (family > best, rank) {
            _ if is_chosen(name) => continue,
            (_, 1) => "the same weights for Mistral's and Meta's own code",
            (_, 2) => "variants (fp16, ema, …)",
            // A PyTorch file that is not the model's copy: something of its own that the code loads.
            (true, _) if !foreign::is_model(name) && !twins.contains(stem(name)) => continue,
            (true, _) => "PyTorch beside safetensors",
            (false, _) => "not named by the index",
        };
        fate.get_or_insert_with(|| why.to_owned());
    }
    Ok(())
}

/// The name without its last extension.
fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}
