//! Converting: any of safetensors, PyTorch `.bin` and GGUF into any other, with what a model needs beside its tensors.
//!
//! ```no_run
//! let model = hoist::open::open("testdata/rustdoc-llama-6m", &Default::default())?;
//! let options = hoist::convert::Options::new("rustdoc.gguf");
//! let summary = hoist::convert::convert(model, options).wait()?;
//! println!("{} bytes in {} files", summary.file_bytes, summary.files);
//! # hoist::Result::Ok(())
//! ```
//!
//! A conversion is decided before the first byte moves. [`Plan::new`] drafts what will be written (`convert/draft.rs`:
//! which tensors under which names, of which type, made of what; keys, configs, tokenizers), lays it out into files
//! (`convert/files.rs`), and knows then how many bytes, how much disk and memory it takes; what can be refused is refused
//! there. Carrying it out (`convert/write.rs`) decides nothing any more.

mod companions;
mod draft;
mod examine;
mod files;
mod locking;
mod pack;
mod same;
pub mod tensors;
mod to_gguf;
mod to_hf;
mod write;

pub use draft::Renaming;
pub use files::FilePlan;
pub use locking::Locking;
pub use pack::{BlockTypes, Chosen, Decided, Quantised, Quantize, Why};

use crate::checkpoint::{Container, MetaValue};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::machine;
use crate::open::Model;
use crate::plan::weave::{self, Limits};
use crate::run::BLOCKING_READERS;
use crate::run::job::{Control, Job};
use crate::sink::file::free_bytes;
use crate::sink::output::{self, Begin, Identity};
use crate::source::Entry;
use crate::transform::method;
use crate::transform::recipe::{LeftOut, Recipe, Source};
use crate::transform::scheme::Named;
use companions::{Companion, Companions};
use draft::Draft;
use locking::Begun;
use std::path::{Path, PathBuf};

/// Memory that a conversion takes where nobody says otherwise.
pub const MEMORY_BYTES: u64 = 512 << 20;
/// The least that it can work with.
const MEMORY_BYTES_MIN: u64 = 64 << 20;
/// What the process needs besides tasks in flight: code, tables, the allocator's slack.
const RESERVE_BYTES: u64 = 48 << 20;
/// What a worker may keep beside the tasks in flight.
const WORKER_BYTES: u64 = 32 << 20;
/// Bytes of a shard of what comes from a GGUF where nobody says otherwise, as the Hub's own tools have it. Other sources keep
/// their shards.
pub const SHARD_BYTES: u64 = 5_000_000_000;

/// What to convert into, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to: a file by its extension (`.safetensors`, `.bin`, `.pt`, `.pth`, `.gguf`), else a directory.
    pub out: PathBuf,
    /// The container; by `out`'s extension where it is not said, else safetensors.
    pub to: Option<Container>,
    /// Element type of the weights; the source's own where it is not said.
    pub dtype: Option<DType>,
    /// Patterns of names to take; all where there is none. Names are the source's, but for a translation between Hugging
    /// Face's and GGUF's, where they are those that are written.
    pub include: Vec<String>,
    /// Patterns of names to leave out; into a GGUF those of the checkpoint count too.
    pub exclude: Vec<String>,
    /// Names changed by a regular expression, one after the other.
    pub renames: Vec<Renaming>,
    /// Bytes of a shard at most (safetensors, PyTorch). Makes `out` a directory. Where it is not said, a directory is sharded
    /// as its source is.
    pub shard_bytes: Option<u64>,
    /// Bytes of a file at most (GGUF). Makes `out` a directory.
    pub split_bytes: Option<u64>,
    /// Tensors of a file at most (GGUF). Makes `out` a directory.
    pub split_tensors: Option<usize>,
    /// Tensors of a GGUF begin at multiples of this.
    pub alignment: u32,
    /// Numbers too large become the largest there is, instead of an error.
    pub saturate: bool,
    /// Replace what is there.
    pub force: bool,
    /// Weights only, nothing that lies beside them.
    pub only_model: bool,
    /// Tensors under their own names into a container that wants others. No engine runs it.
    pub raw: bool,
    /// llama.cpp's name for how a tokenizer splits text, where hoist is not to find it out.
    pub tokenizer_pre: Option<String>,
    /// Keys to set in a GGUF.
    pub meta: Vec<(String, MetaValue)>,
    /// Keys to leave out of a GGUF.
    pub unset: Vec<String>,
    /// A chat template to put into a GGUF.
    pub chat_template: Option<PathBuf>,
    /// A directory whose tokenizer goes into a GGUF.
    pub tokenizer_from: Option<PathBuf>,
    /// The most memory.
    pub memory_bytes: u64,
    /// Workers; as many as pay off where it is not said.
    pub threads: Option<usize>,
    /// Quantise the linear layers.
    pub quantize: Option<Quantize>,
    /// What of the output stands in a lock file, or must be as it stands there.
    pub lock: Option<Locking>,
}

impl Options {
    /// Into `out`, as it is.
    pub fn new(out: impl Into<PathBuf>) -> Options {
        Options {
            out: out.into(),
            to: None,
            dtype: None,
            include: Vec::new(),
            exclude: Vec::new(),
            renames: Vec::new(),
            shard_bytes: None,
            split_bytes: None,
            split_tensors: None,
            alignment: 32,
            saturate: false,
            force: false,
            only_model: false,
            raw: false,
            tokenizer_pre: None,
            meta: Vec::new(),
            unset: Vec::new(),
            chat_template: None,
            tokenizer_from: None,
            memory_bytes: MEMORY_BYTES,
            threads: None,
            quantize: None,
            lock: None,
        }
    }

    /// Memory that importance takes.
    fn importance_bytes(&self) -> u64 {
        let importance = self.quantize.as_ref().and_then(|q| q.importance.as_ref());
        importance.map_or(0, |importance| importance.memory_bytes())
    }

    /// Memory beside importance.
    fn work_memory_bytes(&self) -> u64 {
        self.memory_bytes.saturating_sub(self.importance_bytes())
    }

    /// Memory for tasks in flight.
    fn task_memory_bytes(&self) -> u64 {
        let bytes = self.work_memory_bytes();
        bytes - RESERVE_BYTES.min(bytes / 2)
    }

    /// The container that will be written.
    pub fn container(&self) -> Container {
        self.to.or_else(|| by_extension(&self.out)).unwrap_or(Container::Safetensors)
    }

    /// Whether `out` is a directory.
    pub fn makes_directory(&self) -> bool {
        let split = self.shard_bytes.is_some() || self.split_bytes.is_some() || self.split_tensors.is_some();
        split
            || (by_extension(&self.out).is_none()
                && !(self.container() == Container::Gguf && self.to.is_none()))
    }

    fn check(&self) -> Result<()> {
        let gguf = self.container() == Container::Gguf;
        if self.memory_bytes < MEMORY_BYTES_MIN {
            return Err(Error::usage(format!(
                "a conversion needs at least {} of memory",
                crate::text::bytes(MEMORY_BYTES_MIN)
            )));
        }
        check_importance(self.importance_bytes(), self.memory_bytes)?;
        if let Some(quantize) = &self.quantize {
            let name = quantize.scheme.name();
            match (quantize.scheme, self.container()) {
                (Named::Matrices(_), Container::Safetensors) | (Named::Blocks(_), Container::Gguf) => {}
                (Named::Matrices(_), found) => {
                    return Err(Error::usage(format!("`{name}` is not written as {found}"))
                        .hint("an OUT without an extension, or a scheme of GGUF: --scheme q4_k_m"));
                }
                (Named::Blocks(_), found) => {
                    return Err(Error::usage(format!(
                        "`{name}` is a scheme of GGUF, and not written as {found}"
                    ))
                    .hint("an OUT that ends in .gguf"));
                }
            }
        }
        if self.shard_bytes == Some(0) || self.split_bytes == Some(0) || self.split_tensors == Some(0) {
            return Err(Error::usage("files of nothing hold nothing"));
        }
        if let Some(dtype) = self.dtype
            && !draft::holds(self.container(), dtype)
        {
            return Err(Error::usage(format!("{} has no type `{dtype}`", self.container()))
                .hint("--to gguf, or an OUT that ends in .gguf"));
        }
        let given =
            |key: &str| self.meta.iter().any(|(k, _)| k == key || key.ends_with('.') && k.starts_with(key));
        for (key, hint) in [
            ("general.alignment", "--alignment sets it, and lays the tensors out for it"),
            ("split.", "--split-max-size and --split-max-tensors split a file"),
        ] {
            if given(key) {
                return Err(Error::usage(format!(
                    "--meta cannot set `{key}`: it says how the file is laid out"
                ))
                .hint(hint));
            }
        }
        let mut wrong: Vec<(&str, bool)> = vec![("--shard-size", gguf && self.shard_bytes.is_some())];
        wrong.extend([
            ("--split-max-size", !gguf && self.split_bytes.is_some()),
            ("--split-max-tensors", !gguf && self.split_tensors.is_some()),
            ("--tokenizer-pre", !gguf && self.tokenizer_pre.is_some()),
            ("--meta", !gguf && !self.meta.is_empty()),
            ("--unset", !gguf && !self.unset.is_empty()),
            ("--chat-template", !gguf && self.chat_template.is_some()),
            ("--tokenizer-from", !gguf && self.tokenizer_from.is_some()),
        ]);
        if let Some((flag, _)) = wrong.iter().find(|(_, is)| *is) {
            let hint = if gguf { "--split-max-size is GGUF's" } else { "they are for GGUF: --to gguf" };
            return Err(Error::usage(format!("{flag} means nothing for {}", self.container())).hint(hint));
        }
        Ok(())
    }
}

/// Whether so many bytes of importance leave enough memory to work in.
///
/// # Errors
/// `NoSpace`: they do not.
pub(crate) fn check_importance(importance_bytes: u64, memory_bytes: u64) -> Result<()> {
    if importance_bytes == 0 || memory_bytes.saturating_sub(importance_bytes) >= MEMORY_BYTES_MIN {
        return Ok(());
    }
    let text = crate::text::bytes;
    let message = format!(
        "the importance takes {} of memory, and {} are allowed, of which the work needs {}",
        text(importance_bytes),
        text(memory_bytes),
        text(MEMORY_BYTES_MIN)
    );
    Err(Error::new(crate::ErrorKind::NoSpace, message).hint("a larger --memory"))
}

fn by_extension(path: &Path) -> Option<Container> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    Some(match extension.as_str() {
        "safetensors" => Container::Safetensors,
        "bin" | "pt" | "pth" => Container::Torch,
        "gguf" => Container::Gguf,
        _ => return None,
    })
}

/// What will be written, and what it takes.
#[derive(Debug)]
pub struct Plan {
    /// What it is written in.
    pub container: Container,
    /// Whether OUT is a directory.
    pub directory: bool,
    /// The tensors.
    pub recipe: Recipe,
    /// The files that hold them.
    pub files: Vec<FilePlan>,
    /// Bytes of the source's tensors.
    pub source_bytes: u64,
    /// Bytes of all files, companions included.
    pub file_bytes: u64,
    /// Bytes that are copied as they are, file to file.
    pub copied_bytes: u64,
    /// What the output's file system has left.
    pub free_bytes: Option<u64>,
    /// The tokenizer that was put in, in a few words.
    pub vocabulary: Option<String>,
    /// Where the chat template came from.
    pub chat_template: Option<String>,
    /// What a person should know.
    pub notes: Vec<String>,
    /// Files beside the weights that do not travel: a line for each reason.
    pub files_left_out: Vec<String>,
    /// What is quantised, and how.
    pub quantized: Option<Decided>,
    /// Bytes of the output that are read once more, to be hashed for the lock file.
    pub read_again_bytes: u64,
    companions: Vec<Companion>,
    hash: String,
    locking: Option<Begun>,
}

/// How many tensors, and of how many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum {
    /// Tensors.
    pub count: usize,
    /// Their bytes.
    pub size_bytes: u64,
}

impl Plan {
    /// Decides everything that can be decided without writing. Reads headers and companions; of the weights only what a
    /// decision hangs on (whether a tied head equals its embedding, whether small tensors fit a narrower type).
    ///
    /// # Errors
    /// `Usage`: options that do not go together. `Unsupported`: an unknown family or tokenizer, a type that the container
    /// has not. `BadInput`: tensors missing, too many, or of the wrong shape; an output that is there and is to be kept.
    /// `NoSpace`: a disk too small. `NotFound`: a pattern that matches nothing, no config, a lock file that binds and is not
    /// there. `Integrity`: a source or a recipe that is not what is locked.
    pub fn new(model: &Model, options: &Options) -> Result<Plan> {
        options.check()?;
        let container = options.container();
        let directory = options.makes_directory();
        let (draft, quantized) = draft(model, options, container)?;
        let source_bytes = model.table.totals().size_bytes;
        let files = files::lay_out(model, &draft, options, container, directory)?;
        let companions = match directory {
            true => companions::travelling(model, &draft, options, container, &files)?,
            false => Companions::default(),
        };
        let files = files.files;
        let mut file_bytes = files.iter().fold(0u64, |sum, f| sum.saturating_add(f.laid.file_size_bytes));
        file_bytes = companions.files.iter().fold(file_bytes, |sum, c| sum.saturating_add(c.size_bytes));
        let hash = files::hash(&draft, &files, &companions.files, options);
        let mut plan = Plan {
            container,
            directory,
            source_bytes,
            file_bytes,
            copied_bytes: 0,
            free_bytes: free_bytes(&beside(&options.out)),
            vocabulary: draft.vocabulary,
            chat_template: draft.chat_template,
            notes: draft.notes,
            files_left_out: companions.left_out,
            quantized,
            companions: companions.files,
            recipe: draft.recipe,
            read_again_bytes: if options.lock.is_some() { file_bytes } else { 0 },
            locking: options.lock.as_ref().map(|lock| lock.begin(model, &options.out)).transpose()?,
            files,
            hash,
        };
        plan.notes.extend(plan.locking.as_ref().and_then(Begun::note));
        plan.notes.append(&mut plan.recipe.notes);
        plan.notes.extend(rounded(&plan.recipe, options));
        let limits = Limits::for_model(options.task_memory_bytes(), model);
        for output in &plan.recipe.outputs {
            // What cannot be made is refused now.
            drop(weave::tasks(&model.table, &plan.recipe, output, &limits)?);
            if weave::copies(&model.table, &plan.recipe, output) {
                plan.copied_bytes += output.size_bytes()?;
            }
        }
        let identity = plan.identity(model)?;
        let inputs = inputs(model, options.quantize.as_ref());
        let begin = Begin {
            target: &options.out,
            force: options.force,
            inputs: &inputs,
            identity: &identity,
            directory,
        };
        output::check(&begin)?;
        // What an earlier run finished lies on the disk already.
        let needed_bytes = plan.file_bytes.saturating_sub(output::kept_bytes(&begin)?);
        if let Some(free) = plan.free_bytes
            && free < needed_bytes
        {
            return Err(Error::new(
                crate::ErrorKind::NoSpace,
                format!(
                    "the disk has {} free, and this writes {}",
                    crate::text::bytes(free),
                    crate::text::bytes(needed_bytes)
                ),
            )
            .file(options.out.display().to_string()));
        }
        Ok(plan)
    }

    /// Tensors of each type, most bytes first.
    pub fn dtypes(&self) -> Vec<(DType, Sum)> {
        let mut sums: Vec<(DType, Sum)> = Vec::new();
        for output in &self.recipe.outputs {
            let size_bytes = output.size_bytes().unwrap_or(0);
            match sums.iter_mut().find(|(d, _)| *d == output.dtype) {
                Some((_, sum)) => {
                    sum.count += 1;
                    sum.size_bytes = sum.size_bytes.saturating_add(size_bytes);
                }
                None => sums.push((output.dtype, Sum { count: 1, size_bytes })),
            }
        }
        sums.sort_by_key(|(_, sum)| std::cmp::Reverse(sum.size_bytes));
        sums
    }

    /// Tensors of the source that are not written, by reason.
    pub fn left_out(&self) -> Vec<(&'static str, Vec<&LeftOut>)> {
        let mut groups: Vec<(&'static str, Vec<&LeftOut>)> = Vec::new();
        for one in &self.recipe.left_out {
            match groups.iter_mut().find(|(why, _)| *why == one.why) {
                Some((_, list)) => list.push(one),
                None => groups.push((one.why, vec![one])),
            }
        }
        groups
    }

    /// What is written beside the weights.
    pub fn companion_names(&self) -> impl Iterator<Item = &str> {
        self.companions.iter().map(|c| c.name.as_str())
    }

    fn identity(&self, model: &Model) -> Result<Identity> {
        write::identity(model, &self.hash, &self.companions)
    }
}

/// What would be written, without the files that would hold it.
pub(crate) struct Drafted {
    /// The tensors, and what they are made of.
    pub(crate) recipe: Recipe,
    /// What is quantised, and how.
    pub(crate) decided: Option<Decided>,
    /// What a person should know.
    pub(crate) notes: Vec<String>,
}

/// Decides which tensors there are, and lays out no files. Where OUT is counts for nothing.
///
/// # Errors
/// As [`Plan::new`], but for those of files.
pub(crate) fn drafted(model: &Model, options: &Options) -> Result<Drafted> {
    options.check()?;
    let (Draft { mut recipe, mut notes, .. }, decided) = draft(model, options, options.container())?;
    notes.append(&mut recipe.notes);
    notes.extend(rounded(&recipe, options));
    Ok(Drafted { recipe, decided, notes })
}

/// What was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Where it is.
    pub out: PathBuf,
    /// What it is written in.
    pub container: Container,
    /// Tensors.
    pub tensors: usize,
    /// Files, companions included.
    pub files: usize,
    /// Files that an earlier run had finished.
    pub kept_files: usize,
    /// Bytes of all files.
    pub file_bytes: u64,
    /// Bytes of the tensors.
    pub tensor_bytes: u64,
    /// Bytes of the source's tensors.
    pub source_bytes: u64,
    /// Wall-clock seconds, the sync to disk included.
    pub seconds: f64,
    /// CPU seconds of this process.
    pub cpu_seconds: Option<f64>,
    /// Workers.
    pub threads: usize,
    /// Numbers that became the largest there is (only with `saturate`), by tensor.
    pub saturated: Vec<(String, u64)>,
    /// Numbers of offset norms that do not come back exactly, by tensor.
    pub inexact: Vec<(String, u64)>,
    /// How far each quantised matrix is from what it was; without those of files that an earlier run had finished.
    pub errors: Vec<(String, method::Error)>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Workers that pay off: one more than cores hides what waits for the disk. Where bytes are copied and cast, more than eight
/// wait for each other in the file system; where they are quantised each core has its work, however many there are.
pub fn default_threads(model: &Model, quantises: bool) -> usize {
    let workers = (machine::core_count() + 1).min(if quantises { usize::MAX } else { 8 });
    if model.crosses_network() { workers.max(BLOCKING_READERS) } else { workers }
}

/// Plans and converts.
pub fn convert(model: Model, options: Options) -> Job<Summary> {
    Job::start("convert", false, move |control| {
        let plan = Plan::new(&model, &options)?;
        write::write(&model, &options, plan, control)
    })
}

/// Carries a plan out.
pub fn carry_out(model: Model, options: Options, plan: Plan, trace: bool) -> Job<Summary> {
    Job::start("convert", trace, move |control| write::write(&model, &options, plan, control))
}

/// Carries a plan out within another job.
pub(crate) fn carry(model: &Model, options: &Options, plan: Plan, control: &Control) -> Result<Summary> {
    write::write(model, options, plan, control)
}

/// What is said of numbers that a narrow type rounds: those of quantised blocks and of codes times scales have more bits
/// than 16 bits hold. (Not MXFP4's: powers of two times three bits.)
fn rounded(recipe: &Recipe, options: &Options) -> Option<String> {
    let mut types: Vec<String> = Vec::new();
    let mut count = 0;
    for output in recipe.outputs.iter().filter(|o| matches!(o.dtype, DType::F16 | DType::BF16)) {
        let Some(value) = output.parts.first().and_then(|p| recipe.values.get(p.value)) else { continue };
        let is_rounded = match &value.source {
            Source::Scaled { .. } => true,
            Source::Packed(packed) => packed.packing.dtype != output.dtype,
            Source::Tensor(_) | Source::Joined(_) => !value.dtype.is_plain() && value.dtype != DType::MXFP4,
            Source::Mxfp4 { .. } | Source::Made(_) => false,
        };
        if !is_rounded {
            continue;
        }
        count += 1;
        let kind = format!("{} → {}", value.stored_as(), output.dtype);
        if !types.contains(&kind) {
            types.push(kind);
        }
    }
    let many = if count == 1 { "1 tensor is".to_owned() } else { format!("{count} tensors are") };
    let exact = if options.quantize.is_some() { "" } else { "; --dtype f32 is exact" };
    (count > 0).then(|| format!("{many} dequantised and rounded ({}){exact}", types.join(", ")))
}

/// Chooses the way and goes it.
fn draft(model: &Model, options: &Options, to: Container) -> Result<(Draft, Option<Decided>)> {
    if model.table.tensors.is_empty() {
        return Err(Error::bad_input("holds no tensors"));
    }
    // A loader may go on without them; a copy that lacks them would be taken for the whole.
    if let Some(note) =
        model.table.notes.iter().find(|n| n.contains("skipped") && n.contains("holds tensors"))
    {
        return Err(Error::unsupported("holds tensors that would be lost").detail(note.clone()));
    }
    let mut draft = match (model.is_gguf(), to == Container::Gguf) {
        (false, true) if !options.raw => to_gguf::draft(model, options)?,
        (true, false) if !options.raw => to_hf::draft(model, options)?,
        _ => same::draft(model, options, to)?,
    };
    if to == Container::Gguf {
        to_gguf::edit_keys(&mut draft, options)?;
    }
    let quantized = match &options.quantize {
        Some(asked) => Some(pack::pack(model, options, asked, &mut draft)?),
        None => None,
    };
    draft.rename(options)?;
    if draft.firsts.is_empty() {
        draft.firsts = (0..draft.recipe.outputs.len()).collect();
    }
    Ok((draft, quantized))
}

/// The directory that an output stands in: where its link leads to, if it is one.
fn beside(out: &Path) -> PathBuf {
    let real = out.canonicalize();
    match real.as_deref().unwrap_or(out).parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Every file that is read, by its path, and the directory that was named. What lies beside the weights counts: a config or a
/// tokenizer is as much of the model as they are.
fn inputs(model: &Model, quantize: Option<&Quantize>) -> Vec<PathBuf> {
    let files = model.files.iter().filter_map(|f| f.as_local().map(|l| l.path().to_owned()));
    let named = model.place.directory().filter(|_| !model.is_file);
    // Other weights in that folder are none of this model's.
    let is_companion = |e: &&Entry| !e.is_directory && by_extension(Path::new(&e.name)).is_none();
    let beside = model.place.directory().map(|directory| {
        let names = model.entries.iter().filter(is_companion).map(|e| directory.join(&e.name));
        names.collect::<Vec<_>>()
    });
    let importance = quantize.and_then(|q| q.importance.as_ref());
    let importance = importance.map(|importance| PathBuf::from(&importance.file));
    files.chain(named.map(Path::to_owned)).chain(beside.into_iter().flatten()).chain(importance).collect()
}
