//! `hoist convert`: arguments and output; the work is the library's.

use super::model::{self, Reach, Reads, TeeArgs};
use super::output::{Out, size_bytes};
use super::progress::Watch;
use super::{Common, Progress, lock, model_text, say, signals};
use clap::ValueEnum;
use hoist::checkpoint::Container;
use hoist::convert::{self, Options, Plan, Renaming, Summary};
use hoist::dtype::DType;
use hoist::text::{Shown, bytes, count, grouped, rate};
use hoist::transform::arch::keys::parse_meta;
use hoist::{Error, Result, machine};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::path::PathBuf;

/// The arguments of `hoist convert`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file, a directory, an index, `org/name[@revision][:Q4_K_M]` of the Hugging Face hub, or a URL: `hf://…`, `s3://…`,
    /// `gs://…`, `az://…`, `https://…`
    model: OsString,
    /// Where to: a file by its extension (.safetensors, .bin, .gguf), else a directory
    #[arg(short, long, value_name = "OUT", env = "HOIST_OUT", hide_env_values = true)]
    out: PathBuf,
    /// The container [default: OUT's extension, else safetensors]
    #[arg(long, value_enum, value_name = "FORMAT", env = "HOIST_TO", hide_env_values = true)]
    to: Option<To>,
    /// Element type of the weights: f32, f16, bf16, f8_e4m3, f8_e5m2, in a GGUF also its block types (q8_0, q4_0, q4_k,
    /// …), all of one; `auto` keeps the source's
    #[arg(
        long,
        alias = "outtype",
        value_name = "TYPE",
        default_value = "auto",
        env = "HOIST_DTYPE",
        hide_env_values = true
    )]
    dtype: String,
    /// Take only tensors whose names match a pattern (the source's names; between Hugging Face's and GGUF's the new ones)
    #[arg(long, alias = "filter", value_name = "GLOB", env = "HOIST_INCLUDE", hide_env_values = true)]
    include: Vec<String>,
    /// Leave out tensors whose names match a pattern (into a GGUF, by the source's names or the new ones)
    #[arg(long, value_name = "GLOB", env = "HOIST_EXCLUDE", hide_env_values = true)]
    exclude: Vec<String>,
    /// Change the names that are written, as in '^model\.(.*)=>$1'
    #[arg(long = "rename", value_name = "REGEX=>TEXT", env = "HOIST_RENAME", hide_env_values = true)]
    renames: Vec<String>,
    /// The most bytes of a shard; OUT is a directory then [default: sharded as the source is; 5GB from a GGUF]
    #[arg(long, value_name = "SIZE", value_parser = size_bytes, env = "HOIST_SHARD_SIZE", hide_env_values = true)]
    shard_size: Option<u64>,
    /// The most bytes of a file of a split GGUF; OUT is a directory then
    #[arg(long, value_name = "SIZE", value_parser = size_bytes, env = "HOIST_SPLIT_MAX_SIZE", hide_env_values = true)]
    split_max_size: Option<u64>,
    /// The most tensors of a file of a split GGUF; OUT is a directory then
    #[arg(long, value_name = "N", env = "HOIST_SPLIT_MAX_TENSORS", hide_env_values = true)]
    split_max_tensors: Option<usize>,
    /// Where tensors of a GGUF begin
    #[arg(long, value_name = "BYTES", default_value_t = 32, env = "HOIST_ALIGNMENT", hide_env_values = true)]
    alignment: u32,
    /// Where a cast overflows, take the largest finite value instead of failing
    #[arg(long, env = "HOIST_SATURATE", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    saturate: bool,
    /// Replace what is at OUT
    #[arg(long, env = "HOIST_FORCE", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    force: bool,
    /// Weights only; without it configs, tokenizer and all else that is no weights travels along
    #[arg(long, env = "HOIST_ONLY_MODEL", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    only_model: bool,
    /// Tensors under their own names into a container that wants others; no engine runs that
    #[arg(long, env = "HOIST_RAW", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    raw: bool,
    /// llama.cpp's name for how the tokenizer splits text, instead of what its structure says
    #[arg(long, value_name = "NAME", env = "HOIST_TOKENIZER_PRE", hide_env_values = true)]
    tokenizer_pre: Option<String>,
    /// Set a key of the GGUF; types are u8 … i64, f32, f64, bool, str, arr[…]
    #[arg(long, value_name = "KEY=TYPE:VALUE", env = "HOIST_META", hide_env_values = true)]
    meta: Vec<String>,
    /// Leave a key out of the GGUF
    #[arg(long, value_name = "KEY", env = "HOIST_UNSET", hide_env_values = true)]
    unset: Vec<String>,
    /// Put this chat template into the GGUF
    #[arg(long, value_name = "FILE", env = "HOIST_CHAT_TEMPLATE", hide_env_values = true)]
    chat_template: Option<PathBuf>,
    /// Put the tokenizer of this directory into the GGUF
    #[arg(long, value_name = "DIR", env = "HOIST_TOKENIZER_FROM", hide_env_values = true)]
    tokenizer_from: Option<PathBuf>,
    /// The most memory
    #[arg(long, value_name = "SIZE", value_parser = size_bytes, default_value = "512MiB", env = "HOIST_MEMORY", hide_env_values = true)]
    memory: u64,
    /// Print the plan with bytes, memory and disk, and write nothing
    #[arg(long, env = "HOIST_DRY_RUN", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    dry_run: bool,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    tee: TeeArgs,
    #[command(flatten)]
    locking: lock::LockArgs,
}

/// A container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum To {
    /// safetensors
    Safetensors,
    /// PyTorch's .bin
    #[value(alias = "pytorch")]
    Bin,
    /// GGUF
    Gguf,
}

/// Runs the command.
pub(crate) fn run(args: Args, common: &Common) -> Result<()> {
    let name = model_text(&args.model)?;
    let mut options = options(&args, common)?;
    let opening = args.locking.open_options(&args.reach, &args.out)?;
    let reads = Reads::of(args.dry_run);
    let (model, kept) = model::open_kept(name, &opening, &args.tee, reads, common)?;
    options.lock = args.locking.locking(name, &model, recipe(&args));
    let warnings = model.table.notes.clone();
    for note in &warnings {
        common.warn(note);
    }
    let plan = Plan::new(&model, &options)?;
    let talks = !common.quiet && common.progress() != Progress::Json;
    let mut out = Out::stdout();
    if args.dry_run {
        if common.json {
            out.json("hoist.convert/1", planned(&plan, &options, &warnings))?;
        } else {
            for line in plan_lines(&plan, &options, common.verbose > 0) {
                out.line(&line)?;
            }
            plan.notes.iter().for_each(|note| common.note(note));
        }
        return out.finish();
    }
    if talks {
        plan_lines(&plan, &options, common.verbose > 0).iter().for_each(|line| say(line));
    }
    plan.notes.iter().for_each(|note| common.note(note));
    let known = plan.notes.clone();
    let document = common.json.then(|| planned(&plan, &options, &warnings));
    // From here on a signal has something to clean up; before, it just ends the process.
    let cancel = signals::cancelled();
    let job = convert::carry_out(model, options, plan, false);
    Watch::new(common, "convert").follow(&job, cancel, false);
    let summary =
        job.wait().map_err(|e| if signals::received().is_some() { signals::stopped() } else { e })?;
    for note in summary.notes.iter().filter(|n| !known.contains(n)) {
        common.note(note);
    }
    match document {
        Some(document) => out.json("hoist.convert/1", done(document, &summary))?,
        None => {
            for line in lines(&summary) {
                out.line(&line)?;
            }
        }
    }
    out.finish()?;
    kept.finish(common)
}

/// What was asked for that decides the output's bytes, without where it goes and what it may take.
fn recipe(args: &Args) -> String {
    let path = |path: &Option<PathBuf>| lock::one(path.as_ref().map(|p| p.display().to_string()));
    let container = args.to.and_then(|to| to.to_possible_value());
    lock::recipe(
        "convert",
        &[
            ("--to", lock::one(container.as_ref().map(|to| to.get_name()))),
            ("--dtype", lock::one(Some(&args.dtype).filter(|dtype| *dtype != "auto"))),
            ("--include", args.include.clone()),
            ("--exclude", args.exclude.clone()),
            ("--rename", args.renames.clone()),
            ("--shard-size", lock::one(args.shard_size)),
            ("--split-max-size", lock::one(args.split_max_size)),
            ("--split-max-tensors", lock::one(args.split_max_tensors)),
            ("--alignment", lock::one(Some(args.alignment).filter(|n| *n != 32))),
            ("--saturate", lock::given(args.saturate)),
            ("--only-model", lock::given(args.only_model)),
            ("--raw", lock::given(args.raw)),
            ("--tokenizer-pre", lock::one(args.tokenizer_pre.as_ref())),
            ("--meta", args.meta.clone()),
            ("--unset", args.unset.clone()),
            ("--chat-template", path(&args.chat_template)),
            ("--tokenizer-from", path(&args.tokenizer_from)),
        ],
    )
}

fn options(args: &Args, common: &Common) -> Result<Options> {
    let dtype = match args.dtype.as_str() {
        "auto" => None,
        other => Some(DType::from_user(other).ok_or_else(|| {
            Error::usage(format!("`{}` is no type", Shown(other)))
                .hint("auto, f32, f16, bf16; in a GGUF q8_0, q4_0, q4_k, …")
        })?),
    };
    Ok(Options {
        to: args.to.map(|to| match to {
            To::Safetensors => Container::Safetensors,
            To::Bin => Container::Torch,
            To::Gguf => Container::Gguf,
        }),
        dtype,
        include: args.include.clone(),
        exclude: args.exclude.clone(),
        renames: args.renames.iter().map(|r| Renaming::parse(r)).collect::<Result<_>>()?,
        shard_bytes: args.shard_size,
        split_bytes: args.split_max_size,
        split_tensors: args.split_max_tensors,
        alignment: args.alignment,
        saturate: args.saturate,
        force: args.force,
        only_model: args.only_model,
        raw: args.raw,
        tokenizer_pre: args.tokenizer_pre.clone(),
        meta: args.meta.iter().map(|m| parse_meta(m)).collect::<Result<_>>()?,
        unset: args.unset.clone(),
        chat_template: args.chat_template.clone(),
        tokenizer_from: args.tokenizer_from.clone(),
        memory_bytes: args.memory,
        threads: common.threads.map(std::num::NonZeroUsize::get),
        ..Options::new(&args.out)
    })
}

/// The plan for a person.
fn plan_lines(plan: &Plan, options: &Options, verbose: bool) -> Vec<String> {
    let dtypes: Vec<String> =
        plan.dtypes().iter().map(|(dtype, sum)| format!("{} {dtype}", grouped(sum.count as u64))).collect();
    let free = plan.free_bytes.map(|f| format!(" of {} free", bytes(f))).unwrap_or_default();
    let mut lines = vec![format!(
        "plan   {} in → {} out   {} tensors: {}   memory {}   disk {}{free}",
        bytes(plan.source_bytes),
        bytes(plan.file_bytes),
        grouped(plan.recipe.outputs.len() as u64),
        dtypes.join(", "),
        memory(options.memory_bytes),
        bytes(plan.file_bytes),
    )];
    let mut about = Vec::new();
    if let Some(vocabulary) = &plan.vocabulary {
        about.push(format!("tokenizer {vocabulary}"));
    }
    if let Some(template) = &plan.chat_template {
        about.push(format!("chat template from {}", Shown(template)));
    }
    let files = plan.files.len();
    let companions = plan.companion_names().count();
    if plan.directory {
        about.push(format!("{} of weights, {companions} beside them", plural(files, "file")));
    } else {
        about.push("a single file: a run that is cut off begins again".into());
    }
    if plan.copied_bytes > 0 {
        about.push(format!("{} copied as they are", bytes(plan.copied_bytes)));
    }
    lines.push(format!("       {}", about.join("   ")));
    for (why, list) in plan.left_out() {
        let names =
            list.iter().take(if verbose { usize::MAX } else { 3 }).map(|l| Shown(&l.name).to_string());
        let names: Vec<String> = names.collect();
        let more = if names.len() < list.len() { ", …" } else { "" };
        lines.push(format!(
            "       left out: {} ({why}): {}{more}",
            plural(list.len(), "tensor"),
            names.join(", ")
        ));
    }
    lines.extend(plan.files_left_out.iter().map(|line| format!("       left out: {line}")));
    lines.extend(lock::plan_line(options.lock.as_ref(), plan.read_again_bytes));
    if verbose {
        for file in &plan.files {
            lines.push(format!(
                "       {}   {}   {}",
                Shown(&file.name),
                plural(file.outputs.len(), "tensor"),
                bytes(file.laid.file_size_bytes)
            ));
        }
    }
    lines
}

fn plural(n: usize, word: &str) -> String {
    format!("{} {word}{}", grouped(n as u64), if n == 1 { "" } else { "s" })
}

fn memory(n: u64) -> String {
    format!("{} MiB", n >> 20)
}

/// The result for a person.
fn lines(summary: &Summary) -> Vec<String> {
    let kept = match summary.kept_files {
        0 => String::new(),
        n => format!("   {} kept from an earlier run", plural(n, "file")),
    };
    let mut lines = vec![format!(
        "wrote  {}  {} in {:.2} s   {}{kept}",
        Shown(&summary.out.display().to_string()),
        bytes(summary.file_bytes),
        summary.seconds,
        rate(summary.file_bytes, summary.seconds),
    )];
    for (what, list) in [("saturated", &summary.saturated), ("inexact", &summary.inexact)] {
        if let Some((name, _)) = list.iter().max_by_key(|(_, n)| *n) {
            let sum: u64 = list.iter().map(|(_, n)| n).sum();
            let why = match what {
                "saturated" => "became the largest value there is",
                _ => "of offset norms do not come back bit for bit",
            };
            lines.push(format!(
                "{what}  {} values in {} {why}; most in {}",
                count(sum),
                plural(list.len(), "tensor"),
                Shown(name)
            ));
        }
    }
    lines
}

/// The plan for a program.
fn planned(plan: &Plan, options: &Options, warnings: &[String]) -> Value {
    let dtypes: serde_json::Map<String, Value> = plan
        .dtypes()
        .iter()
        .map(|(d, sum)| (d.name().to_owned(), json!({ "tensors": sum.count, "bytes": sum.size_bytes })))
        .collect();
    let files: Vec<Value> = plan
        .files
        .iter()
        .map(|f| json!({ "name": f.name, "tensors": f.outputs.len(), "bytes": f.laid.file_size_bytes }))
        .collect();
    let left_out: Vec<Value> =
        plan.recipe.left_out.iter().map(|l| json!({ "name": l.name, "why": l.why })).collect();
    json!({
        "out": options.out.display().to_string(),
        "container": plan.container.to_string(),
        "directory": plan.directory,
        "dry_run": true,
        "source_bytes": plan.source_bytes,
        "file_bytes": plan.file_bytes,
        "copied_bytes": plan.copied_bytes,
        "free_bytes": plan.free_bytes,
        "memory_bytes": options.memory_bytes,
        "tensors": plan.recipe.outputs.len(),
        "dtypes": dtypes,
        "files": files,
        "companions": plan.companion_names().collect::<Vec<_>>(),
        "tokenizer": plan.vocabulary,
        "chat_template": plan.chat_template,
        "left_out": left_out,
        "files_left_out": plan.files_left_out,
        "lock": lock::plan_json(options.lock.as_ref(), plan.read_again_bytes),
        "notes": plan.notes,
        "warnings": warnings,
    })
}

/// What the run adds to its plan.
fn done(mut document: Value, summary: &Summary) -> Value {
    let pairs = |list: &[(String, u64)]| -> Value {
        list.iter().map(|(name, n)| json!({ "name": name, "values": n })).collect()
    };
    if let Some(fields) = document.as_object_mut() {
        fields.insert("dry_run".into(), false.into());
        fields.insert("seconds".into(), json!(summary.seconds));
        fields
            .insert("bytes_per_second".into(), json!(summary.file_bytes as f64 / summary.seconds.max(1e-9)));
        fields.insert("cpu_seconds".into(), json!(summary.cpu_seconds));
        fields.insert("threads".into(), json!(summary.threads));
        fields.insert("kept_files".into(), json!(summary.kept_files));
        fields.insert("saturated".into(), pairs(&summary.saturated));
        fields.insert("inexact".into(), pairs(&summary.inexact));
        fields.insert("peak_rss_bytes".into(), json!(machine::peak_resident_bytes()));
        fields.insert("notes".into(), json!(summary.notes));
    }
    document
}
