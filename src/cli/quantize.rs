//! `hoist quantize`: arguments and output; the work is the library's.

use super::output::{Out, size_bytes};
use super::progress::Watch;
use super::{Common, Progress, model_text, say, signals};
use clap::ValueEnum;
use hoist::convert::Why;
use hoist::quantize::{self, Options, Plan, Summary};
use hoist::text::{Shown, bytes, grouped, rate};
use hoist::transform::method::Method;
use hoist::transform::scheme::{CHANNEL, group_text, method_name};
use hoist::{Error, Result, machine, open};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::path::PathBuf;

/// The arguments of `hoist quantize`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file, a directory, an index, or `org/name[@revision][:Q4_K_M]` from the Hugging Face cache
    model: OsString,
    /// Where to: a directory
    #[arg(short, long, value_name = "OUT", env = "HOIST_OUT", hide_env_values = true)]
    out: PathBuf,
    /// The scheme: int4, gptq, awq, mlx, nf4, mxfp4, fp8, fp8-block
    #[arg(
        short,
        long,
        value_name = "NAME",
        default_value = "int4",
        env = "HOIST_SCHEME",
        hide_env_values = true
    )]
    scheme: String,
    /// How scales and codes are chosen [default: search]
    #[arg(long, value_enum, value_name = "NAME", env = "HOIST_METHOD", hide_env_values = true)]
    method: Option<How>,
    /// Neighbours of a row that share a scale, or `channel` for whole rows [default: the scheme's]
    #[arg(long, value_name = "N", value_parser = group_size, env = "HOIST_GROUP_SIZE", hide_env_values = true)]
    group_size: Option<u64>,
    /// Without zero points [default for mixtures of experts]
    #[arg(long, conflicts_with = "asymmetric", env = "HOIST_SYMMETRIC", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    symmetric: bool,
    /// With zero points [default for dense models]
    #[arg(long, env = "HOIST_ASYMMETRIC", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    asymmetric: bool,
    /// Symmetric with scales of either sign: less error, but not every GPU kernel is known to read them
    #[arg(long, conflicts_with = "asymmetric", env = "HOIST_SIGNED_SCALES", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    signed_scales: bool,
    /// GPTQ version 2, whose zero points are stored as they are
    #[arg(long, env = "HOIST_GPTQ_V2", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    gptq_v2: bool,
    /// Keep tensors whose names match a pattern as they are
    #[arg(long, value_name = "GLOB", env = "HOIST_KEEP", hide_env_values = true)]
    keep: Vec<String>,
    /// Quantise matrices whose names match a pattern too
    #[arg(long, value_name = "GLOB", env = "HOIST_ALSO", hide_env_values = true)]
    also: Vec<String>,
    /// Refuse a model with matrices that do not fit, instead of keeping those
    #[arg(long, env = "HOIST_STRICT", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    strict: bool,
    /// What becomes of NaN and infinity
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = Nan::Refuse, env = "HOIST_NAN", hide_env_values = true)]
    nan: Nan,
    /// Dequantise a model that is quantised already, and quantise that
    #[arg(long, env = "HOIST_REQUANTIZE", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    requantize: bool,
    /// The most bytes of a shard [default: sharded as the source is; 5GB from a GGUF]
    #[arg(long, value_name = "SIZE", value_parser = size_bytes, env = "HOIST_SHARD_SIZE", hide_env_values = true)]
    shard_size: Option<u64>,
    /// Replace what is at OUT
    #[arg(long, env = "HOIST_FORCE", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    force: bool,
    /// The most memory
    #[arg(long, value_name = "SIZE", value_parser = size_bytes, default_value = "512MiB", env = "HOIST_MEMORY", hide_env_values = true)]
    memory: u64,
    /// Print the plan with bytes, memory and disk, and write nothing
    #[arg(long, env = "HOIST_DRY_RUN", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    dry_run: bool,
    /// Follow links that lead out of the model's directory
    #[arg(long, env = "HOIST_FOLLOW_LINKS", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    follow_links: bool,
}

/// A method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum How {
    /// Round to nearest: the codes of the reference tool
    Rtn,
    /// The least squared error
    Search,
    /// Half-quadratic, where the zero point is a float
    Hqq,
}

/// What becomes of NaN and infinity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Nan {
    /// The model is refused, by the tensor's name
    Refuse,
    /// They are taken for zeros
    Zero,
}

fn group_size(text: &str) -> std::result::Result<u64, String> {
    match text {
        "channel" => Ok(CHANNEL),
        _ => text.parse().ok().filter(|&n| n > 0).ok_or_else(|| "a number, or `channel`".to_owned()),
    }
}

/// Runs the command.
pub(crate) fn run(args: Args, common: &Common) -> Result<()> {
    let name = model_text(&args.model)?;
    let options = options(&args, common)?;
    let model = open::open(name, &open::Options { follow_links: args.follow_links, hub_cache: None })?;
    let warnings = model.table.notes.clone();
    for note in &warnings {
        common.warn(note);
    }
    let plan = Plan::new(&model, &options)?;
    let talks = !common.quiet && common.progress() != Progress::Json;
    let notes = notes(&plan, &args);
    let mut out = Out::stdout();
    if args.dry_run {
        if common.json {
            out.json("hoist.quantize/1", planned(&plan, &options, &notes, &warnings))?;
        } else {
            for line in plan_lines(&plan, &options, common.verbose > 0) {
                out.line(&line)?;
            }
            notes.iter().for_each(|note| common.note(note));
        }
        return out.finish();
    }
    if talks {
        plan_lines(&plan, &options, common.verbose > 0).iter().take(1).for_each(|line| say(line));
    }
    notes.iter().for_each(|note| common.note(note));
    let document = common.json.then(|| planned(&plan, &options, &notes, &warnings));
    // From here on a signal has something to clean up; before, it just ends the process.
    let cancel = signals::cancelled();
    let job = quantize::carry_out(model, plan);
    Watch::new(common, "quantize").follow(&job, cancel, false);
    let summary =
        job.wait().map_err(|e| if signals::received().is_some() { signals::stopped() } else { e })?;
    for note in summary.written.notes.iter().filter(|n| !notes.contains(n)) {
        common.note(note);
    }
    match document {
        Some(document) => out.json("hoist.quantize/1", done(document, &summary))?,
        None => {
            for line in lines(&summary, name) {
                out.line(&line)?;
            }
        }
    }
    out.finish()
}

fn options(args: &Args, common: &Common) -> Result<Options> {
    let mut options = Options::new(&args.out, &args.scheme)?;
    let quantize = &mut options.quantize;
    quantize.asked.method = args.method.map(|m| match m {
        How::Rtn => Method::Rtn,
        How::Search => Method::Search,
        How::Hqq => Method::Hqq,
    });
    quantize.asked.group = args.group_size;
    quantize.asked.symmetric = match (args.symmetric, args.asymmetric) {
        (true, true) => return Err(Error::usage("--symmetric and --asymmetric exclude each other")),
        (true, false) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
    };
    quantize.asked.signed_scales = args.signed_scales;
    quantize.asked.gptq_v2 = args.gptq_v2;
    quantize.keep = args.keep.clone();
    quantize.also = args.also.clone();
    quantize.strict = args.strict;
    quantize.zero_odd = args.nan == Nan::Zero;
    quantize.requantize = args.requantize;
    options.shard_bytes = args.shard_size;
    options.force = args.force;
    options.memory_bytes = args.memory;
    options.threads = common.threads.map(std::num::NonZeroUsize::get);
    Ok(options)
}

/// What a person should know of the plan.
fn notes(plan: &Plan, args: &Args) -> Vec<String> {
    let decided = &plan.decided;
    let mut notes = plan.conversion.notes.clone();
    if decided.experts && decided.settled.scheme.name == "int4" {
        notes.push(match decided.settled.symmetric {
            true if !args.symmetric && !args.signed_scales => {
                "a mixture of experts: symmetric, which every engine takes; --asymmetric has less error and needs a vLLM of \
                 mid-2026 or later (0.19 refuses it)"
                    .to_owned()
            }
            true => return notes,
            false => "asymmetric experts need a vLLM of mid-2026 or later: 0.19 refuses them".to_owned(),
        });
    }
    notes
}

/// The plan for a person.
fn plan_lines(plan: &Plan, options: &Options, verbose: bool) -> Vec<String> {
    let decided = &plan.decided;
    let settled = &decided.settled;
    let kept = decided.kept_lines();
    let kept = if kept.is_empty() { String::new() } else { format!("; kept: {}", kept.join(", ")) };
    let free = plan.conversion.free_bytes.map(|f| format!(" of {} free", bytes(f))).unwrap_or_default();
    let mut lines = vec![
        format!(
            "scheme {} ({})   method {}   {} of {} tensors{kept}",
            settled.scheme.name,
            settled.text(),
            method_name(settled.method),
            grouped(plan.matrices() as u64),
            grouped(plan.tensors() as u64),
        ),
        format!(
            "plan   {} in → {} out   {:.2} bits a weight   memory {} MiB   disk {}{free}",
            bytes(plan.conversion.source_bytes),
            bytes(plan.conversion.file_bytes),
            decided.bits_per_weight(),
            options.memory_bytes >> 20,
            bytes(plan.conversion.file_bytes),
        ),
    ];
    if verbose {
        for (name, why) in &decided.kept {
            lines.push(format!("       kept   {}   {}", Shown(name), why_text(why)));
        }
    }
    lines.extend(plan.conversion.files_left_out.iter().map(|line| format!("       left out: {line}")));
    lines
}

fn why_text(why: &Why) -> String {
    match why {
        Why::Kind(kind) => (*kind).to_owned(),
        Why::Asked => "asked for".to_owned(),
        Why::Misfit(why) => why.clone(),
        Why::Fused(with) => format!("fused with {}", Shown(with)),
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// The result for a person.
fn lines(summary: &Summary, model: &str) -> Vec<String> {
    let written = &summary.written;
    let out = written.out.display().to_string();
    let share = written.file_bytes as f64 / (written.source_bytes as f64).max(1.0);
    let kept = match written.kept_files {
        0 => String::new(),
        1 => "   1 file kept from an earlier run".to_owned(),
        n => format!("   {n} files kept from an earlier run"),
    };
    let error = match summary.errors.is_empty() {
        true => String::new(),
        false => format!("   error {}", percent(summary.error.relative())),
    };
    let mut lines = vec![format!(
        "wrote  {}  {} → {} ({}{:.0} %)   {:.2} bits a weight{error}   {:.2} s   {}{kept}",
        Shown(&out),
        bytes(written.source_bytes),
        bytes(written.file_bytes),
        if share > 1.0 { '+' } else { '−' },
        (share - 1.0).abs() * 100.0,
        summary.bits_per_weight(),
        written.seconds,
        rate(written.source_bytes, written.seconds),
    )];
    let worst: Vec<String> = summary
        .worst(2)
        .into_iter()
        .map(|(name, error)| {
            format!("{} {}", Shown(name.strip_suffix(".weight").unwrap_or(name)), percent(error))
        })
        .collect();
    if !worst.is_empty() {
        lines.push(format!("worst  {}", worst.join("   ")));
    }
    if summary.error.odd > 0 {
        lines.push(format!("nan    {} numbers were taken for zeros", grouped(summary.error.odd)));
    }
    lines.push(format!("next   hoist verify {} --against {}", Shown(&out), Shown(model)));
    lines
}

/// The plan for a program.
fn planned(plan: &Plan, options: &Options, notes: &[String], warnings: &[String]) -> Value {
    let settled = &plan.decided.settled;
    let kept: Vec<Value> =
        plan.decided.kept.iter().map(|(name, why)| json!({ "name": name, "why": why_text(why) })).collect();
    let files: Vec<Value> = plan
        .conversion
        .files
        .iter()
        .map(|f| json!({ "name": f.name, "tensors": f.outputs.len(), "bytes": f.laid.file_size_bytes }))
        .collect();
    json!({
        "out": options.out.display().to_string(),
        "dry_run": true,
        "scheme": settled.scheme.name,
        "layout": settled.layout.name,
        "group_size": if settled.group == CHANNEL { Value::Null } else { settled.group.into() },
        "group": group_text(settled.group),
        "symmetric": settled.symmetric,
        "signed_scales": settled.signed_scales,
        "method": method_name(settled.method),
        "experts": plan.decided.experts,
        "quantized": plan.matrices(),
        "tensors": plan.tensors(),
        "weights": plan.decided.numbers,
        "bits_per_weight": plan.decided.bits_per_weight(),
        "weight_bytes_before": plan.decided.before_bytes,
        "weight_bytes": plan.decided.after_bytes,
        "source_bytes": plan.conversion.source_bytes,
        "file_bytes": plan.conversion.file_bytes,
        "free_bytes": plan.conversion.free_bytes,
        "memory_bytes": options.memory_bytes,
        "kept": kept,
        "files": files,
        "companions": plan.conversion.companion_names().collect::<Vec<_>>(),
        "files_left_out": plan.conversion.files_left_out,
        "notes": notes,
        "warnings": warnings,
    })
}

/// What the run adds to its plan.
fn done(mut document: Value, summary: &Summary) -> Value {
    let written = &summary.written;
    if let Some(fields) = document.as_object_mut() {
        let mut put = |key: &str, value: Value| fields.insert(key.to_owned(), value);
        put("dry_run", false.into());
        put("seconds", json!(written.seconds));
        put("bytes_per_second", json!(written.source_bytes as f64 / written.seconds.max(1e-9)));
        put("cpu_seconds", json!(written.cpu_seconds));
        put("threads", json!(written.threads));
        put("kept_files", json!(written.kept_files));
        put("error", if summary.errors.is_empty() { Value::Null } else { json!(summary.error.relative()) });
        put("odd", json!(summary.error.odd));
        let of = |(name, error): &(String, hoist::transform::method::Error)| json!({ "name": name, "error": error.relative(), "largest": error.largest });
        put("matrices", summary.errors.iter().map(of).collect());
        put("peak_rss_bytes", json!(machine::peak_resident_bytes()));
        put("notes", json!(written.notes));
    }
    document
}
