//! Which files of a model's folder travel into a converted one, beside its tensors.
//!
//! Everything that is not weights does, by its name alone, folders included: configs, tokenizers, templates, code (copied,
//! never run), licences, pictures. What stays behind has a reason, and each reason is a row of a table:
//!
//! - the weights that were read, which become the output's tensors, and what the conversion writes itself;
//! - the same weights in other formats or as a second copy (`model.safetensors` beside `pytorch_model.bin`,
//!   `consolidated.*`, a GGUF, ONNX, Core ML …), and the indexes of any. A folder that directly holds such weights and
//!   none that were read is an export of its own (`onnx/`, `original/`, `metal/`): its configs describe that export and
//!   stay behind with it;
//! - a trainer's state: for going on with training, not for running; mostly pickles;
//! - what tools keep for themselves, hidden files among it (`.git`, `.cache`, a forgotten `.env`).
//!
//! Weights that travel as they are: those of a sentence-transformers module (`2_Dense/`), which its library reads from
//! there, and adapters.
//!
//! For a GGUF nothing travels: what it can hold of all this are its keys.

use crate::text::{Shown, bytes};
use std::collections::BTreeSet;

/// Why a file stays behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// It was read, and its tensors are in the output.
    Converted,
    /// The conversion writes its own.
    Written,
    /// Weights in another format, or a second copy of them.
    OtherWeights,
    /// Lies in a folder of such weights.
    OtherFolder,
    /// An index of weights: the output has its own, or needs none.
    StaleIndex,
    /// A trainer's state.
    TrainerState,
    /// What a tool keeps for itself.
    Bookkeeping,
}

impl Why {
    /// What a person reads after a number of files.
    pub fn text(self) -> &'static str {
        match self {
            Why::Converted => "converted",
            Why::Written => "written anew",
            Why::OtherWeights => "weights in another format, or a second copy",
            Why::OtherFolder => "beside weights in another format",
            Why::StaleIndex => "indexes of the old files",
            Why::TrainerState => "a trainer's state",
            Why::Bookkeeping => "hidden, or a tool's own",
        }
    }

    /// Whether a person wants to hear of it: the converted files are no news.
    pub fn is_news(self) -> bool {
        !matches!(self, Why::Converted | Why::Written)
    }
}

/// Whether a file travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Travel {
    /// It is copied, byte for byte, under its own name.
    Copy,
    /// It stays behind.
    Leave(Why),
}

/// What a conversion knows of the folder besides its listing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Context<'a> {
    /// The weights files that were read, as the listing names them.
    pub read: &'a [String],
    /// What the conversion writes itself (`config.json`, its own weights and index), and what holds no longer
    /// (`hf_quant_config.json` of weights that were dequantised).
    pub written: &'a [String],
    /// The folders that `modules.json` names: see [`module_folders`].
    pub modules: &'a [String],
}

/// A file of the folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct File {
    /// Its name relative to the folder, with `/`.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
}

/// The files of a folder, sorted out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Companions {
    /// To be copied, by name.
    pub travel: Vec<File>,
    /// Left out, by reason and name.
    pub left: Vec<(Why, Vec<File>)>,
}

impl Companions {
    /// What was left out, one line for each reason that is news: `3 files of 1.2 GB: weights in another format, or a
    /// second copy: onnx/model.onnx, …`.
    pub fn left_lines(&self) -> Vec<String> {
        const SHOWN_MAX: usize = 3;
        let news = self.left.iter().filter(|(why, _)| why.is_news());
        news.map(|(why, files)| {
            let size_bytes = files.iter().fold(0u64, |sum, f| sum.saturating_add(f.size_bytes));
            let mut names: Vec<_> =
                files.iter().take(SHOWN_MAX).map(|f| Shown(&f.name).to_string()).collect();
            if files.len() > SHOWN_MAX {
                names.push("…".into());
            }
            let count = match files.len() {
                1 => "1 file".to_owned(),
                n => format!("{n} files"),
            };
            format!("{count} of {}: {}: {}", bytes(size_bytes), why.text(), names.join(", "))
        })
        .collect()
    }
}

/// Sorts the files of a folder out; `files` in any order, the output in that of names.
pub fn sort(files: &[File], context: &Context<'_>) -> Companions {
    let read: BTreeSet<&str> = context.read.iter().map(String::as_str).collect();
    let written: BTreeSet<&str> = context.written.iter().map(String::as_str).collect();
    let in_module = |name: &str| is_in_module(name, context) && !read.contains(name);
    let judge = |name: &str| match name {
        _ if read.contains(name) => Travel::Leave(Why::Converted),
        _ if written.contains(name) => Travel::Leave(Why::Written),
        _ => by_name(name, in_module(name)),
    };
    let mut judged: Vec<(&File, Travel)> = files.iter().map(|f| (f, judge(&f.name))).collect();
    judged.sort_by_key(|(file, _)| *file);

    // Folders of their own: some weights in them stay behind, none was read, none travels.
    let mut exports: BTreeSet<&str> = BTreeSet::new();
    let mut ours: BTreeSet<&str> = BTreeSet::new();
    for (file, travel) in &judged {
        let Some((folder, _)) = file.name.rsplit_once('/') else { continue };
        match travel {
            Travel::Leave(Why::OtherWeights) => drop(exports.insert(folder)),
            Travel::Leave(Why::Converted) => drop(ours.insert(folder)),
            Travel::Copy if is_weights(&file.name) => drop(ours.insert(folder)),
            _ => {}
        }
    }
    exports.retain(|folder| !ours.contains(folder));
    let is_in_export = |name: &str| {
        name.match_indices('/').any(|(at, _)| name.get(..at).is_some_and(|f| exports.contains(f)))
    };

    let mut sorted = Companions::default();
    let mut left: Vec<(Why, &File)> = Vec::new();
    for (file, travel) in judged {
        match travel {
            Travel::Copy if is_in_export(&file.name) => left.push((Why::OtherFolder, file)),
            Travel::Copy => sorted.travel.push(file.clone()),
            Travel::Leave(why) => left.push((why, file)),
        }
    }
    left.sort();
    for (why, file) in left {
        match sorted.left.last_mut() {
            Some((last, files)) if *last == why => files.push(file.clone()),
            _ => sorted.left.push((why, vec![file.clone()])),
        }
    }
    sorted
}

/// Whether a folder is worth looking into: nothing of a hidden one or of a tool's own travels, and they may be endless.
pub fn is_worth_listing(folder: &str) -> bool {
    by_name(&format!("{folder}/x"), false) != Travel::Leave(Why::Bookkeeping)
}

/// The folders that a sentence-transformers `modules.json` names: `[{"idx": 2, "path": "2_Dense", …}, …]`. Text that is
/// anything else names none.
pub fn module_folders(modules_json: &serde_json::Value) -> Vec<String> {
    let paths = modules_json.as_array().into_iter().flatten().filter_map(|m| m.get("path")?.as_str());
    paths.map(|p| p.trim_matches('/').to_owned()).filter(|p| !p.is_empty()).collect()
}

/// Whether a file belongs to a sentence-transformers module of its own folder, in which no weights were read as the
/// model's.
fn is_in_module(name: &str, context: &Context<'_>) -> bool {
    let folders = name.match_indices('/').filter_map(|(at, _)| name.get(..at));
    let is_module = |folder: &str| {
        context.modules.iter().any(|m| m == folder)
            || is_module_name(folder.rsplit('/').next().unwrap_or(folder))
    };
    let has_read = |folder: &str| {
        context.read.iter().any(|r| r.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')))
    };
    folders.into_iter().any(|folder| is_module(folder) && !has_read(folder))
}

/// `2_Dense`, `query_0_SparseStaticEmbedding`: a number and a class's name, as the library calls the folders it makes.
fn is_module_name(folder: &str) -> bool {
    let parts: Vec<&str> = folder.split('_').collect();
    parts.windows(2).any(|pair| match pair {
        [number, class] => {
            !number.is_empty()
                && number.bytes().all(|b| b.is_ascii_digit())
                && class.bytes().next().is_some_and(|b| b.is_ascii_uppercase())
        }
        _ => false,
    })
}

/// How a name is recognised: by the last part of it, or by a folder in it. Letters count as small ones.
enum Sign {
    /// This very file name.
    Is(&'static str),
    /// A file name that begins so.
    Begins(&'static str),
    /// A file name that ends so, with something before it.
    Ends(&'static str),
    /// A file name that has this in it.
    Has(&'static str),
    /// A folder of this name, anywhere above the file.
    In(&'static str),
    /// A folder whose name ends so.
    InEnds(&'static str),
    /// A folder whose name begins so and goes on in digits.
    InNumbered(&'static str),
}

use Sign::{Begins, Ends, Has, In, InEnds, InNumbered, Is};

/// Names that one of the later rows would leave behind by mistake.
const TRAVEL: &[Sign] = &[
    // Tokenizers share the ending of weights.
    Begins("tokenizer"),
    Begins("vocab"),
    Begins("sentencepiece"),
    Begins("merges"),
    Ends(".tiktoken"),
    // Adapters are read from where they are.
    Is("adapter_model.safetensors"),
    Is("adapter_model.bin"),
];

/// Hidden files that travel: they tell git which files are large or unwanted, and a repo made of the output wants them.
const HIDDEN_TRAVEL: &[&str] = &[".gitattributes", ".gitignore"];

/// What tools keep for themselves.
const BOOKKEEPING: &[Sign] = &[
    In("__pycache__"),
    In("__macosx"),
    In("wandb"),
    Ends(".pyc"),
    Is("thumbs.db"),
    Is("desktop.ini"),
    // Downloads that are not finished.
    Ends(".incomplete"),
    Ends(".part"),
    Ends(".aria2"),
    Ends(".crdownload"),
];

/// What trainers write for going on later: torch's own, accelerate's, DeepSpeed's, FSDP's, TensorBoard's.
const TRAINER: &[Sign] = &[
    InNumbered("checkpoint-"),
    InNumbered("global_step"),
    InNumbered("pytorch_model_fsdp_"),
    InNumbered("optimizer_"),
    Is("training_args.bin"),
    Is("training_args.pt"),
    Begins("optimizer."),
    Begins("optimizer_"),
    Is("scheduler.pt"),
    Is("scheduler.bin"),
    Begins("rng_state"),
    Begins("random_states"),
    Is("scaler.pt"),
    Is("trainer_state.json"),
    Begins("zero_pp_rank_"),
    Begins("bf16_zero_pp_rank_"),
    Begins("mp_rank_"),
    Is("zero_to_fp32.py"),
    Is("latest"),
    Begins("events.out.tfevents"),
    Ends(".distcp"),
];

/// Weights, by the endings of all formats that checkpoints are published in.
const WEIGHTS: &[Sign] = &[
    Ends(".safetensors"),
    Ends(".bin"),
    Ends(".pt"),
    Ends(".pth"),
    Ends(".ckpt"),
    Ends(".gguf"),
    Ends(".ggml"),
    Has(".gguf-split-"),
    Has(".gguf.part"),
    Ends(".llamafile"),
    Ends(".h5"),
    Ends(".hdf5"),
    Ends(".keras"),
    Ends(".msgpack"),
    Ends(".ot"),
    Ends(".nemo"),
    Ends(".mar"),
    // TensorFlow.
    Is("saved_model.pb"),
    Ends(".tflite"),
    Begins("model.ckpt"),
    Ends(".ckpt.index"),
    Ends(".ckpt.meta"),
    Has(".data-00000-of-"),
    // ONNX; large ones keep the numbers in a file beside it.
    Ends(".onnx"),
    Has(".onnx_data"),
    Has(".onnx.data"),
    Ends(".ort"),
    // Compiled for an engine.
    Begins("openvino_"),
    Ends(".engine"),
    Ends(".plan"),
    Ends(".pte"),
    Ends(".task"),
    Ends(".litertlm"),
    Ends(".mlmodel"),
    InEnds(".mlpackage"),
    InEnds(".mlmodelc"),
    Ends(".pdparams"),
    Ends(".pdiparams"),
    Ends(".pdmodel"),
    Ends(".mnn"),
    Ends(".mnn.weight"),
    Is("weights.npz"),
    Ends(".rknn"),
    Ends(".dlc"),
];

/// The rows in the order in which they count; the first that fits decides. `in_module`: its weights travel too.
fn by_name(name: &str, in_module: bool) -> Travel {
    let name = name.to_ascii_lowercase();
    let any = |signs: &[Sign]| signs.iter().any(|sign| shows(sign, &name));
    let hidden = |part: &str| part.starts_with('.') && !HIDDEN_TRAVEL.contains(&part);
    match () {
        () if any(BOOKKEEPING) || name.split('/').any(hidden) => Travel::Leave(Why::Bookkeeping),
        () if any(TRAINER) => Travel::Leave(Why::TrainerState),
        () if any(TRAVEL) || in_module => Travel::Copy,
        () if is_index(&name) => Travel::Leave(Why::StaleIndex),
        () if any(WEIGHTS) => Travel::Leave(Why::OtherWeights),
        () => Travel::Copy,
    }
}

/// Whether the name is one of weights, in whatever format.
fn is_weights(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    WEIGHTS.iter().any(|sign| shows(sign, &name))
}

/// `model.safetensors.index.json`, `model.safetensors.index.fp16.json`, `tf_model.h5.index.json`: the name of weights,
/// then `.index`.
fn is_index(name: &str) -> bool {
    name.ends_with(".json") && name.split_once(".index.").is_some_and(|(weights, _)| is_weights(weights))
}

fn shows(sign: &Sign, name: &str) -> bool {
    let (folders, last) = name.rsplit_once('/').unwrap_or(("", name));
    let mut folders = folders.split('/');
    match sign {
        Is(exactly) => last == *exactly,
        Begins(with) => last.starts_with(with),
        Ends(with) => last.len() > with.len() && last.ends_with(with),
        Has(inside) => last.contains(inside),
        In(folder) => folders.any(|f| f == *folder),
        InEnds(with) => folders.any(|f| f.len() > with.len() && f.ends_with(with)),
        InNumbered(with) => folders.any(|f| {
            let digits = f.strip_prefix(with);
            digits.is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))
        }),
    }
}

/// Names of files that belong to a model wherever they lie: what travels when a single file was named, whose folder may be
/// anything.
const OF_A_MODEL: &[Sign] = &[
    Is("config.json"),
    Is("generation_config.json"),
    Begins("tokenizer"),
    Begins("vocab"),
    Begins("merges"),
    Is("special_tokens_map.json"),
    Is("added_tokens.json"),
    Begins("chat_template."),
    Begins("sentencepiece"),
    Is("spiece.model"),
    Is("tekken.json"),
    Ends(".tiktoken"),
    Ends("processor_config.json"),
    Is("modules.json"),
    Is("sentence_bert_config.json"),
    Is("config_sentence_transformers.json"),
];

/// Whether a name at the top of a folder is one that a model's loaders look for.
pub fn is_of_a_model(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    !name.contains('/') && OF_A_MODEL.iter().any(|sign| shows(sign, &name))
}
