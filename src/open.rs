//! From the name of a model to its table: the only place that joins a source to a format.
//!
//! A MODEL is a file, a directory, an index file, one quantisation of a directory (`DIR:Q4_K_M`), a repo of the hub in the
//! cache (`org/name[@revision][:Q4_K_M]`), or a URL: `hf://…` (the cache, else by ranges from the hub), `s3://…`, `gs://…`,
//! `az://…`, `http(s)://…` (`open/far.rs`). A path that exists wins over a repo. What a directory's weights are is
//! decided by `open/choose.rs` from its listing; what it is when it holds none by `open/foreign.rs`; headers are read by
//! `open/headers.rs`.
//!
//! Opening reads headers and indexes only. Every file stays open from here on, so that what a plan reads later is what
//! was checked now.

mod beside;
pub(crate) mod choose;
mod far;
mod foreign;
mod headers;
mod importance;
mod locate;
mod reconcile;

pub use importance::importance;

use crate::checkpoint::{Checkpoint, Container, FileRef};
use crate::error::{Error, ErrorKind, Result};
use crate::format::shards::{INDEX_BYTES_MAX, Index};
use crate::source::hub::cache::{self, Repo};
use crate::source::local::{LocalPlace, check_relative};
use crate::source::{Entry, Place, ReadAt};
use crate::text::{Shown, grouped};
use choose::Weights;
use far::Far;
use headers::Opened;
use locate::{Directory, Located};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How to open.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Follow links that lead out of a model's directory. Without it only links inside the directory are followed, and in
    /// the Hugging Face cache those inside the cache. A path that the user names may always be a link.
    pub follow_links: bool,
    /// The Hugging Face cache to look in; `None` is the one that the environment names (`HF_HUB_CACHE`, `HF_HOME`, …).
    pub hub_cache: Option<PathBuf>,
    /// Use no network: what lies beyond it is not found.
    pub offline: bool,
    /// Where the hub is; `None` is where the environment says (`HF_ENDPOINT`), else huggingface.co.
    pub hub_endpoint: Option<String>,
    /// A file that holds the token for the hub, instead of the environment's and the one that was logged in with.
    pub token_file: Option<PathBuf>,
    /// The commit that a repo's revision must stand for, in place of what the hub or the cache says now.
    pub commit: Option<String>,
    /// What stands between the files of a repo of the hub and their readers.
    #[cfg(feature = "hub")]
    pub through: Option<Arc<dyn crate::source::hub::place::Through>>,
    /// How object stores are asked, by the names of the environment's variables and before them: (`aws_endpoint_url`, …).
    pub store: Vec<(String, String)>,
}

/// An opened model: the table, the files its spans point into, and what lies beside them.
#[derive(Debug)]
pub struct Model {
    /// A short name for a person: the directory's or the repo's.
    pub name: String,
    /// The table.
    pub table: Checkpoint,
    /// The files, in the order of [`Checkpoint::files`].
    pub files: Vec<Arc<dyn ReadAt>>,
    /// What lies beside the weights: where configs, tokenizers and templates are opened by name.
    pub place: Arc<dyn Place>,
    /// The names in that place.
    pub entries: Vec<Entry>,
    /// The commit, for a repo from the hub's cache.
    pub commit: Option<String>,
    /// Whether a file was named and not its folder: then what lies beside it may have nothing to do with it.
    pub is_file: bool,
}

impl Model {
    /// Whether bytes of it cross a network: then many readers at once, each asking for much, bring more than few.
    pub fn crosses_network(&self) -> bool {
        self.files.iter().any(|f| f.temper().network)
    }

    /// The model in a folder beside the weights, read through the same place.
    ///
    /// # Errors
    /// As [`open`]; `BadInput` for a name that leads elsewhere.
    pub fn below(&self, folder: &str) -> Result<Model> {
        check_relative(folder)?;
        let place = far::Folder { place: Arc::clone(&self.place), folder: folder.to_owned() };
        open_place(Arc::new(place), Directory { name: folder.to_owned(), ..Directory::default() })
    }
}

/// Opens what `model` names.
///
/// # Errors
/// `NotFound`: no such path, repo, shard or quantisation, or a directory without weights. `Usage`: several candidates and
/// no choice. `Unsupported`: another tool's format. `BadInput`: a damaged or refused file. `Io`, `NotAllowed`: the system's.
pub fn open(model: &str, options: &Options) -> Result<Model> {
    if let Some(text) = model.strip_prefix("hf://") {
        return open_hub(text, options);
    }
    open_located(locate::locate(model, options)?, options)
}

/// A model of the hub: what the cache has of it, else by ranges from the hub, of which nothing is stored.
fn open_hub(text: &str, options: &Options) -> Result<Model> {
    let mut named = far::HubName::parse(text)?;
    locate::pin(&mut named.repo, options)?;
    let cached = locate::in_hub_cache(&named, options).and_then(|(at, commit)| {
        let model = open_located(at, options)?;
        Ok(Model { commit: model.commit.or(commit), ..model })
    });
    let error = match cached {
        Err(e) if e.kind() == ErrorKind::NotFound => e,
        opened => return opened,
    };
    // What is not in the cache, or not all of it.
    match far::hub(&named, options)? {
        Some(far) => open_far(far),
        None => Err(error),
    }
}

fn open_located(located: Located, options: &Options) -> Result<Model> {
    match located {
        Located::File(path) => open_file(&path, options),
        Located::Directory(directory) => {
            let repo = directory.repo.clone();
            open_directory(directory, options).map_err(|e| match &repo {
                Some(repo) => fetch_again(e, repo),
                None => e,
            })
        }
        Located::Far(far) => open_far(far),
    }
}

/// A model that lies beyond a network.
fn open_far(far: Far) -> Result<Model> {
    let Far { place, file, name, quantisation, commit } = far;
    let directory = Directory { name, quantisation, commit, ..Directory::default() };
    match file {
        Some(file) => {
            let entries = match place.list("") {
                // Who may read objects may not always list them: then what lies beside this one is not known.
                Err(e) if e.kind() == ErrorKind::NotAllowed => Vec::new(),
                listed => listed.map_err(|e| e.file(file.clone()))?,
            };
            open_named(&*Arc::clone(&place), place, entries, &file, directory)
        }
        None => open_place(place, directory),
    }
}

/// A repo's file that is missing or cut short can be fetched.
fn fetch_again(error: Error, repo: &Repo) -> Error {
    match error.kind() {
        ErrorKind::NotFound => error.hint(cache::fetch_hint(repo)),
        ErrorKind::BadInput if error.to_string().contains("cut short") => {
            error.hint(format!("hoist fetch {} --require-hash fetches it again", repo.id))
        }
        _ => error,
    }
}

/// The directory as a place, links bounded as the options and the hub's cache say.
fn place_at(path: &Path, options: &Options) -> Arc<LocalPlace> {
    let real = path.canonicalize().ok();
    Arc::new(match real.as_deref().and_then(cache::root_of) {
        _ if options.follow_links => LocalPlace::following_links(path),
        Some(root) => LocalPlace::with_links_within(path, root),
        None => LocalPlace::new(path),
    })
}

/// A file by its path: an index, one of the parts of a split GGUF, or a file that stands for itself.
fn open_file(path: &Path, options: &Options) -> Result<Model> {
    let shown = || Error::bad_input("has a name that is not UTF-8").file(path.display().to_string());
    let file_name = path.file_name().and_then(|n| n.to_str()).ok_or_else(shown)?.to_string();
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let place = place_at(parent, options);
    // The user named this file, so it may be a link to anywhere; its neighbours may not.
    let named = NamedFile { place: place.clone(), name: file_name.clone(), path: path.to_owned() };
    let entries = place.list("").unwrap_or_default();
    let model = Directory { name: file_name.clone(), ..Directory::default() };
    open_named(&named, place, entries, &file_name, model)
}

/// A file by its name in a place. It is read through `named`, what lies beside it through `place`.
fn open_named(
    named: &dyn Place,
    place: Arc<dyn Place>,
    entries: Vec<Entry>,
    file_name: &str,
    model: Directory,
) -> Result<Model> {
    let mut found = Found::default();
    if is_index(file_name) {
        open_index(named, "", file_name, &entries, None, &mut found)?;
    } else {
        let weights = match crate::format::gguf::names::parse_split_name(file_name) {
            Some(split) => {
                let one = |e: &&Entry| {
                    let other = crate::format::gguf::names::parse_split_name(&e.name);
                    other.is_some_and(|o| (o.prefix, o.count) == (split.prefix, split.count))
                };
                let parts: Vec<Entry> = entries.iter().filter(one).cloned().collect();
                choose::choose(&parts, None)?.unwrap_or(Weights::Gguf(vec![file_name.to_owned()]))
            }
            None => Weights::Files(vec![file_name.to_owned()]),
        };
        open_weights(named, "", weights, &entries, &mut found)?;
        if let Some((number, count)) = choose::number_of(file_name) {
            let note =
                format!("{file_name}: is shard {number} of {count}; name the folder to open all of them");
            found.notes.push(note);
        }
    }
    let is_file = !is_index(file_name);
    found.into_model(model, place, entries, is_file)
}

/// A place in which one file was named by the user, which may be a link to anywhere.
#[derive(Debug)]
struct NamedFile {
    place: Arc<LocalPlace>,
    name: String,
    path: PathBuf,
}

impl Place for NamedFile {
    fn list(&self, under: &str) -> Result<Vec<Entry>> {
        self.place.list(under)
    }

    fn open(&self, name: &str) -> Result<Arc<dyn ReadAt>> {
        if name == self.name {
            return Ok(Arc::new(crate::source::local::LocalFile::open(&self.path)?));
        }
        self.place.open(name)
    }
}

fn is_index(name: &str) -> bool {
    name.ends_with(".index.json") || (name.contains(".index.") && name.ends_with(".json"))
}

/// What has been found so far.
#[derive(Default)]
struct Found {
    /// The prefix of the names of a file's tensors, and the file.
    opened: Vec<(String, Opened)>,
    notes: Vec<String>,
}

impl Found {
    fn into_model(
        self,
        directory: Directory,
        place: Arc<dyn Place>,
        entries: Vec<Entry>,
        is_file: bool,
    ) -> Result<Model> {
        let mut table = Checkpoint::default();
        let mut files = Vec::with_capacity(self.opened.len());
        for (prefix, Opened { name, file, mut part }) in self.opened {
            if !prefix.is_empty() {
                part.tensors.iter_mut().for_each(|t| t.name.insert_str(0, &prefix));
            }
            let reference = FileRef { name, size_bytes: file.size_bytes(), container: part.container };
            table.add(reference, part)?;
            files.push(file);
        }
        table.notes.extend(self.notes);
        table.check_names()?;
        let Directory { name, commit, .. } = directory;
        Ok(Model { name, table, files, place, entries, commit, is_file })
    }
}

fn open_directory(directory: Directory, options: &Options) -> Result<Model> {
    open_place(place_at(&directory.path, options), directory)
}

fn open_place(place: Arc<dyn Place>, directory: Directory) -> Result<Model> {
    let entries = place.list("")?;
    let mut found = Found::default();
    let result = open_weights_of(&*place, &directory, &entries, &mut found);
    result.map_err(|e| e.file(directory.name.clone()))?;
    found.into_model(directory, place, entries, false)
}

fn open_weights_of(
    place: &dyn Place,
    directory: &Directory,
    entries: &[Entry],
    found: &mut Found,
) -> Result<()> {
    let quantisation = directory.quantisation.as_deref();
    // A repo may keep each quantisation in a folder of its own.
    let mut candidates = entries.to_vec();
    if quantisation.is_some() {
        candidates.extend(gguf_below(place, entries)?);
    }
    // A pipeline may have the same weights once more beside its components, as one file for other programs.
    if quantisation.is_none() && open_components(place, entries, found)? {
        return Ok(());
    }
    if let Some(weights) = choose::choose(&candidates, quantisation)? {
        return open_weights(place, "", weights, entries, found);
    }
    if let Some(weights) = choose::choose(&gguf_below(place, entries)?, None)? {
        return open_weights(place, "", weights, entries, found);
    }
    if !directory.missing.is_empty() {
        return Err(incomplete(&directory.missing));
    }
    Err(foreign::of_directory(entries).unwrap_or_else(|| nothing(entries)))
}

/// The GGUF files in the folders of a directory.
fn gguf_below(place: &dyn Place, entries: &[Entry]) -> Result<Vec<Entry>> {
    /// More folders than any repo of quantisations has: a home directory named by mistake is not searched.
    const FOLDERS_MAX: usize = 200;
    let mut below = Vec::new();
    let folders = entries.iter().filter(|e| e.is_directory && !e.name.starts_with('.'));
    for folder in folders.take(FOLDERS_MAX) {
        // A folder that may not be read is no reason to refuse a model beside it.
        let Ok(inside) = place.list(&folder.name) else { continue };
        below.extend(inside.into_iter().filter(|e| e.name.to_ascii_lowercase().ends_with(".gguf")));
    }
    Ok(below)
}

/// Names a few of a directory's files, for a directory that holds no weights.
fn nothing(entries: &[Entry]) -> Error {
    const SHOWN_MAX: usize = 8;
    let visible: Vec<_> = entries.iter().filter(|e| !e.name.starts_with('.')).collect();
    let error = Error::not_found("holds no weights: no safetensors, PyTorch or GGUF file");
    if visible.is_empty() {
        return error.detail("the folder is empty");
    }
    let mut names: Vec<String> = visible
        .iter()
        .take(SHOWN_MAX)
        .map(|e| format!("`{}{}`", Shown(&e.name), if e.is_directory { "/" } else { "" }))
        .collect();
    if visible.len() > SHOWN_MAX {
        names.push(format!("and {} more", visible.len() - SHOWN_MAX));
    }
    error.detail(format!("found {}", names.join(", ")))
}

fn incomplete(missing: &BTreeMap<String, u64>) -> Error {
    const SHOWN_MAX: usize = 8;
    let mut names: Vec<String> =
        missing.keys().take(SHOWN_MAX).map(|name| format!("`{}`", Shown(name))).collect();
    if missing.len() > SHOWN_MAX {
        names.push(format!("and {} more", missing.len() - SHOWN_MAX));
    }
    Error::not_found("is in the cache without its weights")
        .detail(format!("not fetched: {}", names.join(", ")))
}

/// Opens chosen files; `under` is empty or a component's folder with its slash.
fn open_weights(
    place: &dyn Place,
    under: &str,
    weights: Weights,
    entries: &[Entry],
    found: &mut Found,
) -> Result<()> {
    let names = match weights {
        Weights::Indexed { index, or } => {
            return open_index(place, under, &format!("{under}{index}"), entries, or, found);
        }
        Weights::Adapter(name) => {
            found.notes.push(format!("{under}{name}: {}", adapter_note(place, under)));
            vec![name]
        }
        Weights::Files(names) | Weights::Gguf(names) => names,
    };
    let names: Vec<String> = names.into_iter().map(|name| format!("{under}{name}")).collect();
    let opened = headers::open_all(place, &names).map_err(|e| foreign_name(e, &names))?;
    if opened.iter().any(|o| o.part.container == Container::Gguf) {
        reconcile::check_split(&opened)?;
    }
    found.opened.extend(opened.into_iter().map(|o| (under.to_string(), o)));
    Ok(())
}

/// A file that no format claims is called by its name, where the name tells more.
fn foreign_name(error: Error, names: &[String]) -> Error {
    let unclaimed = error.hint_text() == Some(crate::format::FORMATS_HINT);
    match (unclaimed, error.file_name().or(names.first().map(String::as_str))) {
        (true, Some(name)) => match foreign::of_file(name) {
            Some(better) => better.file(name),
            None => error,
        },
        _ => error,
    }
}

fn adapter_note(place: &dyn Place, under: &str) -> String {
    let config = read_small(place, &format!("{under}adapter_config.json"), CONFIG_BYTES_MAX).ok();
    let config: Option<serde_json::Value> = config.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let base = config.as_ref().and_then(|c| c.get("base_model_name_or_path")).and_then(|b| b.as_str());
    match base {
        Some(base) => {
            format!("is an adapter for `{}`, not a whole model: its tensors change that model's", Shown(base))
        }
        None => "is an adapter, not a whole model".to_string(),
    }
}

/// Opens the shards that an index names.
fn open_index(
    place: &dyn Place,
    under: &str,
    index_name: &str,
    entries: &[Entry],
    or: Option<String>,
    found: &mut Found,
) -> Result<()> {
    let index = read_small(place, index_name, INDEX_BYTES_MAX)
        .and_then(|json| Index::parse(&json))
        .map_err(|e| e.file(index_name))?;
    let shards = index.files();
    if shards.is_empty() {
        return Err(Error::bad_input("names no file").file(index_name));
    }
    for shard in &shards {
        check_relative(shard).map_err(|e| e.file(index_name))?;
    }
    // A name in a folder of its own is found out when it is opened.
    let listed = |shard: &&str| {
        shard.contains('/')
            || !place.is_listed()
            || entries.iter().any(|e| e.name.strip_prefix(under) == Some(shard))
    };
    if let Some(absent) = shards.iter().find(|s| !listed(s)) {
        let absent_count = shards.iter().filter(|s| !listed(s)).count();
        match or {
            Some(single) if absent_count == shards.len() => {
                found
                    .notes
                    .push(format!("{index_name}: names no shard that is here; `{single}` is read instead"));
                return open_weights(place, under, Weights::Files(vec![single]), entries, found);
            }
            _ => {
                let others = if absent_count > 1 { " and others" } else { "" };
                return Err(Error::not_found(format!(
                    "names {} shards, of which `{}`{others} cannot be found",
                    shards.len(),
                    Shown(absent)
                ))
                .file(index_name));
            }
        }
    }
    let names: Vec<String> = shards.iter().map(|shard| format!("{under}{shard}")).collect();
    let opened = headers::open_all(place, &names)?;
    found.notes.extend(
        reconcile::with_index(&index, under, &opened).into_iter().map(|n| format!("{index_name}: {n}")),
    );
    let unnamed =
        reconcile::unnamed_shards(&shards, entries.iter().filter_map(|e| e.name.strip_prefix(under)));
    found.notes.extend(unnamed.map(|n| format!("{index_name}: {n}")));
    found.opened.extend(opened.into_iter().map(|o| (under.to_string(), o)));
    Ok(())
}

/// The most bytes of a configuration that are read.
const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// Reads a JSON file that lies beside the weights.
fn read_small(place: &dyn Place, name: &str, bytes_max: u64) -> Result<Vec<u8>> {
    let file = place.open(name)?;
    let size_bytes = file.size_bytes();
    if size_bytes > bytes_max {
        let message = format!("has {} bytes; hoist reads up to {}", grouped(size_bytes), grouped(bytes_max));
        return Err(Error::unsupported(message).file(name));
    }
    headers::read_range(&*file, 0..size_bytes).map_err(|e| e.file(name))
}

/// What a diffusers pipeline is made of: `{"unet": ["diffusers", "UNet2DConditionModel"], …}`.
const COMPONENTS: &str = "model_index.json";

/// Opens each component of a pipeline by the rules of a directory; its tensors are named `component/name`. Returns whether
/// there was a pipeline: a listing of components of which at least one has a folder.
fn open_components(place: &dyn Place, entries: &[Entry], found: &mut Found) -> Result<bool> {
    if !entries.iter().any(|e| e.name == COMPONENTS && !e.is_directory) {
        return Ok(false);
    }
    let json = read_small(place, COMPONENTS, CONFIG_BYTES_MAX)?;
    let index: serde_json::Value = serde_json::from_slice(&json).map_err(|e| {
        Error::bad_input(format!("is not valid JSON: {}", Shown(&e.to_string()))).file(COMPONENTS)
    })?;
    let used =
        |kind: &serde_json::Value| kind.as_array().is_some_and(|k| k.iter().any(|part| !part.is_null()));
    let names =
        index.as_object().into_iter().flatten().filter(|(_, kind)| used(kind)).map(|(name, _)| name.as_str());
    let names: Vec<&str> = names.filter(|name| !name.starts_with('_')).collect();
    for name in &names {
        check_relative(name).map_err(|e| e.file(COMPONENTS))?;
    }
    let is_here = |name: &&str| entries.iter().any(|e| e.is_directory && e.name == *name);
    if !names.iter().any(is_here) {
        return Ok(false);
    }
    if let Some(absent) = names.iter().find(|name| !is_here(name)) {
        let message = format!("names the component `{}`, whose folder is not here", Shown(absent));
        return Err(Error::not_found(message).file(COMPONENTS));
    }
    for component in names {
        let under = format!("{component}/");
        let inside = place.list(component)?;
        let local = |e: &Entry| Entry {
            name: e.name.strip_prefix(&under).unwrap_or(&e.name).to_string(),
            ..e.clone()
        };
        let local: Vec<Entry> = inside.iter().map(local).collect();
        // Schedulers and tokenizers have no weights.
        if let Some(weights) = choose::choose(&local, None).map_err(|e| e.file(component))? {
            open_weights(place, &under, weights, &inside, found)?;
        } else if let Some(error) = foreign::of_directory(&local) {
            return Err(error.file(component));
        }
    }
    match found.opened.is_empty() {
        true => Err(Error::not_found("names no component that holds weights").file(COMPONENTS)),
        false => Ok(true),
    }
}
