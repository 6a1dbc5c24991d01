//! `hoist load`: arguments and output; the work is the library's.

mod quantise;

#[cfg(test)]
pub(crate) use quantise::QUANTISE;

use super::model::{self, Reach, Reads, TeeArgs};
use super::output::{Out, size_bytes};
use super::progress::{Trace, Watch};
use super::{Common, Progress, model_text, say, signals};
use clap::ValueEnum;
use hoist::dtype::DType;
use hoist::load::{self, DTypeChoice, Form, Loaded, Options, Report};
use hoist::quantize::{self, LoadPlan};
use hoist::run::Io;
use hoist::run::job::Job;
use hoist::sink::device::DeviceSpec;
use hoist::text::{self, bytes, rate};
use hoist::transform::arch::parallel::{Override, Rank};
use hoist::{Error, Result, machine, open};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

/// The arguments of `hoist load`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file, a directory, an index, `org/name[@revision][:Q4_K_M]` of the Hugging Face hub, or a URL: `hf://…`, `s3://…`,
    /// `gs://…`, `az://…`, `https://…`
    model: OsString,
    /// Where to: cpu, cuda:N or cuda:GPU-uuid [default: cuda:0, else cpu]
    #[arg(long, value_name = "DEVICE", env = "HOIST_DEVICE", hide_env_values = true)]
    device: Option<String>,
    /// Cast floats to f32, f16 or bf16, or to what suits the device; `auto` keeps the file's types
    #[arg(long, value_name = "TYPE", default_value = "auto", env = "HOIST_DTYPE", hide_env_values = true)]
    dtype: String,
    /// Load only tensors whose names match a pattern
    #[arg(long, alias = "filter", value_name = "GLOB", env = "HOIST_INCLUDE", hide_env_values = true)]
    include: Vec<String>,
    /// Leave out tensors whose names match a pattern
    #[arg(long, value_name = "GLOB", env = "HOIST_EXCLUDE", hide_env_values = true)]
    exclude: Vec<String>,
    /// Load this rank's slices of the matrices, as in 0/2
    #[arg(long, value_name = "R/W", env = "HOIST_RANK", hide_env_values = true)]
    rank: Option<String>,
    /// Cut matching tensors along this dimension (or `all`: not at all) instead of by the family's rules
    #[arg(long = "slice", value_name = "GLOB=DIM", env = "HOIST_SLICE", hide_env_values = true)]
    slices: Vec<String>,
    /// Read into memory of its own instead of mapping the files (cpu)
    #[arg(long, env = "HOIST_COPY", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    copy: bool,
    /// Compare what arrived with what was read, and print a digest that other loaders can compute too (of what is in
    /// memory; `inspect --hash` has the one of what is in the files)
    #[arg(long, env = "HOIST_CHECK", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    check: bool,
    /// How files are read; `direct` reads into memory of its own (cpu)
    #[arg(long, value_enum, default_value_t = IoArg::Auto, env = "HOIST_IO", hide_env_values = true)]
    io: IoArg,
    /// Where a cast overflows, take the largest finite value instead of failing
    #[arg(long, env = "HOIST_SATURATE", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    saturate: bool,
    /// Keep the page cache also where the GPU shares the host's memory
    #[arg(long, env = "HOIST_KEEP_CACHE", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    keep_cache: bool,
    /// The most host memory for tensors (cpu) [default: what is available]
    #[arg(long, value_name = "SIZE", value_parser = size_bytes, env = "HOIST_MEMORY", hide_env_values = true)]
    memory: Option<u64>,
    /// Write a Chrome/Perfetto trace, one lane a worker
    #[arg(long, value_name = "FILE", env = "HOIST_TRACE", hide_env_values = true)]
    trace: Option<PathBuf>,
    /// Print the plan with bytes and memory, and load nothing
    #[arg(long, env = "HOIST_DRY_RUN", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    dry_run: bool,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    tee: TeeArgs,
    #[command(flatten)]
    quantise: quantise::Quantising,
}

/// How files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum IoArg {
    /// Through the page cache where it holds the bytes, around it where it does not
    Auto,
    /// Around the page cache
    Direct,
    /// Through the page cache
    Buffered,
}

/// Runs the command.
pub(crate) fn run(args: Args, common: &Common) -> Result<()> {
    let name = model_text(&args.model)?;
    // An empty variable is none.
    let device = args.device.as_deref().filter(|d| !d.trim().is_empty());
    let device: Option<DeviceSpec> = device.map(str::parse).transpose()?;
    let options = Options {
        device: device.clone(),
        dtype: dtype_choice(&args.dtype)?,
        include: args.include,
        exclude: args.exclude,
        rank: args.rank.as_deref().map(Rank::parse).transpose()?,
        slices: args.slices.iter().map(|s| Override::parse(s)).collect::<Result<_>>()?,
        form: if args.copy { Form::Owned } else { Form::Auto },
        check: args.check,
        io: match args.io {
            IoArg::Auto => Io::Auto,
            IoArg::Direct => Io::Direct,
            IoArg::Buffered => Io::Buffered,
        },
        threads: common.threads.map(std::num::NonZeroUsize::get),
        saturate: args.saturate,
        keep_cache: args.keep_cache,
        memory_bytes: args.memory,
        trace: args.trace.is_some(),
        measure: !args.dry_run,
        dry_run: args.dry_run,
    };
    let quantise = args.quantise.options(&options)?;
    let trace = match &args.trace {
        Some(path) if !args.dry_run => Some(Trace::create(path)?),
        _ => None,
    };
    let cancel = signals::cancelled();
    // The device is opened while headers are read.
    let prepared = load::prepare(device);
    let reads = Reads::of(args.dry_run);
    let (model, kept) = model::open_kept(name, &args.reach.options(), &args.tee, reads, common)?;
    let warnings = model.table.notes.clone();
    for note in &warnings {
        common.warn(note);
    }
    if model.table.tensors.is_empty() {
        common.warn("there is no tensor in it");
    }
    if !common.quiet && common.progress() != Progress::Json {
        say(&headline(&model));
    }
    let (loaded, quantised) = match quantise {
        None => (followed(load::load_on(prepared, model, options), common, trace, cancel)?, None),
        Some(options) => {
            let plan = LoadPlan::new(&model, options)?;
            if !common.quiet && common.progress() != Progress::Json {
                say(&quantise::headline(&plan));
            }
            let arrived = followed(quantize::load_on(prepared, model, plan), common, trace, cancel)?;
            let (loaded, told) = quantise::Told::of(arrived);
            (loaded, Some(told))
        }
    };
    for note in &loaded.report.notes {
        common.note(note);
    }
    if common.verbose > 0 {
        for line in details(&loaded.report) {
            say(&line);
        }
        for line in quantised.iter().flat_map(|q| quantise::details(&q.decided)) {
            say(&line);
        }
    }
    let mut out = Out::stdout();
    if common.json {
        let mut document = document(&loaded, &warnings, args.dry_run);
        if let (Some(fields), Some(quantised)) = (document.as_object_mut(), &quantised) {
            fields.insert("quantize".into(), quantise::document(quantised));
        }
        out.json("hoist.load/1", document)?;
    } else {
        for line in lines(&loaded.report, args.dry_run) {
            out.line(&line)?;
        }
        for line in quantised.iter().flat_map(quantise::lines) {
            out.line(&line)?;
        }
    }
    out.finish()?;
    kept.finish(common)
}

/// Follows a job to its end.
fn followed<T>(job: Job<T>, common: &Common, trace: Option<Trace>, cancel: &AtomicBool) -> Result<T> {
    let spans = Watch::new(common, "load").follow(&job, cancel, trace.is_some());
    let done = job.wait().map_err(|e| if signals::received().is_some() { signals::stopped() } else { e });
    // Also of a load that failed: that is when one looks.
    if let Some(trace) = trace {
        trace.write(&spans)?;
    }
    done
}

fn dtype_choice(text: &str) -> Result<DTypeChoice> {
    Ok(match text {
        "auto" => DTypeChoice::Keep,
        "device" => DTypeChoice::Device,
        other => DTypeChoice::To(DType::from_user(other).ok_or_else(|| {
            Error::usage(format!("`{}` is no type", text::Shown(other)))
                .hint("auto, device, f32, f16 or bf16")
        })?),
    })
}

/// The model in one line.
fn headline(model: &open::Model) -> String {
    let table = &model.table;
    let totals = table.totals();
    let mut dtypes: Vec<(DType, u64)> = Vec::new();
    for tensor in &table.tensors {
        match dtypes.iter_mut().find(|(d, _)| *d == tensor.dtype) {
            Some((_, size)) => *size += tensor.size_bytes(),
            None => dtypes.push((tensor.dtype, tensor.size_bytes())),
        }
    }
    dtypes.sort_by_key(|&(_, size)| std::cmp::Reverse(size));
    let dtypes: Vec<&str> = dtypes.iter().take(3).map(|(d, _)| d.name()).collect();
    let shards = match table.files.len() {
        1 => String::new(),
        n => format!(" in {n} shards"),
    };
    let commit =
        model.commit.as_deref().map(|c| format!("  @{}", c.get(..8).unwrap_or(c))).unwrap_or_default();
    let family = model.description(&mut Vec::new()).family.map(|f| format!("  {}", text::Shown(&f)));
    // Packed and quantised weights hold several parameters an element: `inspect` counts those.
    let plain = table.tensors.iter().all(|t| t.dtype.is_float());
    format!(
        "{}{commit}{}  {} {}  {} tensors  {}  {}{shards}",
        text::Shown(&model.name),
        family.unwrap_or_default(),
        text::count(totals.elements),
        if plain { "parameters" } else { "elements" },
        table.tensors.len(),
        dtypes.join(" "),
        bytes(totals.size_bytes)
    )
}

/// Below this a load is over before the bus is full, and its part of the bus says nothing.
const RATED_BYTES_MIN: u64 = 256 << 20;

/// The result for a person.
fn lines(report: &Report, dry_run: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let cached =
        report.cached_fraction.map(|f| format!("   page cache {:.0} %", f * 100.0)).unwrap_or_default();
    if dry_run {
        let free = report.free_bytes.map(|f| format!(" of {} free", bytes(f))).unwrap_or_default();
        lines.push(format!(
            "plan   {} tensors   {} to {} ({})   memory {}{free}   threads {}{cached}",
            report.tensor_count,
            bytes(report.bytes),
            report.device,
            report.form,
            bytes(if report.form == "mapped" { 0 } else { report.needed_bytes }),
            report.threads.max(1)
        ));
        return lines;
    }
    let mut line = match report.form {
        "mapped" => {
            // Nothing moved, so there is no rate of its own: what a copy would run at stands for the machine.
            let reads = report
                .limit_bytes_per_second
                .map(|l| format!("   this machine reads {}", rate(l as u64, 1.0)));
            let present = match report.present_bytes < report.read_bytes {
                true => format!("{} of it present", bytes(report.present_bytes)),
                false => "every page present".to_string(),
            };
            let took = seconds(report.seconds);
            format!("mapped {} in {took}, {present}{}", bytes(report.bytes), reads.unwrap_or_default())
        }
        // The cores decide, so what went in says more than what came out.
        _ if report.made => format!(
            "loaded {} of {} in {}   {}",
            bytes(report.bytes),
            bytes(report.read_bytes),
            seconds(report.seconds),
            rate(report.read_bytes, report.seconds)
        ),
        _ => {
            let speed = rate(report.bytes, report.seconds);
            let limit = report.limit_bytes_per_second.map(|limit| {
                let machine = rate(limit as u64, 1.0);
                let part = report.bytes as f64 / report.seconds.max(1e-9) / limit * 100.0;
                // A part of the bus means something where the load was long enough to fill it.
                match report.device == "cpu" || report.bytes < RATED_BYTES_MIN {
                    true => format!(
                        "   this machine {} {machine}",
                        if report.device == "cpu" { "reads" } else { "copies" }
                    ),
                    false => format!(", {part:.0} % of this machine's {machine}"),
                }
            });
            format!(
                "loaded {} in {}   {speed}{}",
                bytes(report.bytes),
                seconds(report.seconds),
                limit.unwrap_or_default()
            )
        }
    };
    line.push_str(&cached);
    if report.direct_bytes > 0 {
        let way = if report.ring { "io_uring" } else { "pread" };
        line.push_str(&format!("   direct {} by {way}", bytes(report.direct_bytes)));
    }
    if report.device != "cpu" {
        line.push_str(&format!("   pinned {}", mebibytes(report.pinned_bytes)));
        if let Some(extra) = report.device_extra_bytes {
            line.push_str(&format!("   device peak +{}", mebibytes(extra)));
        }
    }
    lines.push(line);
    if report.overflow_count > 0 {
        let values = if report.overflow_count == 1 { "value" } else { "values" };
        lines.push(format!("cast   {} {values} saturated", text::grouped(report.overflow_count)));
    }
    if let Some(check) = &report.check {
        let n = check.tensor_count;
        let equal = match (report.made, check.cast) {
            (true, _) => "what was made",
            (false, true) => "the file, cast",
            (false, false) => "the file",
        };
        lines.push(format!("check  {n} of {n} tensors equal {equal}   digest {}", check.digest));
    }
    lines
}

/// What `-v` adds.
fn details(report: &Report) -> Vec<String> {
    let cpu = report.cpu_seconds.map(|s| format!("   cpu {}", seconds(s))).unwrap_or_default();
    let ready = report
        .ready_seconds
        .map(|s| format!("   since the process began {}", seconds(s)))
        .unwrap_or_default();
    let mut lines = vec![
        format!(
            "read   {} wanted, {} read: {} from the page cache, {} through it, {} around it",
            bytes(report.bytes),
            bytes(report.read_bytes),
            bytes(report.cached_bytes),
            bytes(report.buffered_bytes),
            bytes(report.direct_bytes)
        ),
        format!("work   {} threads{cpu}{ready}", report.threads),
    ];
    if let Some(gpu) = report.gpu_facts() {
        let fact = |name: &str| gpu.get(name).and_then(Value::as_str).unwrap_or("?").to_string();
        lines.push(format!("gpu    {}   {}   {}", fact("name"), fact("uuid"), fact("pci")));
    }
    lines
}

fn seconds(s: f64) -> String {
    match s {
        s if s >= 100.0 => format!("{s:.0} s"),
        s if s >= 0.1 => format!("{s:.2} s"),
        s => format!("{:.1} ms", s * 1e3),
    }
}

fn mebibytes(n: u64) -> String {
    format!("{} MiB", n.div_ceil(1 << 20))
}

/// The result for a program: bytes as integers, times in seconds.
fn document(loaded: &Loaded, warnings: &[String], dry_run: bool) -> Value {
    let report = &loaded.report;
    let transferred = report.form != "mapped" && !dry_run;
    let mut document = json!({
        "model": report.model,
        "commit": report.commit,
        "device": report.device,
        "form": report.form,
        "no_gpu_because": report.fallback_reason,
        "dry_run": dry_run,
        "tensors": report.tensor_count,
        "bytes": report.bytes,
        "bytes_moved": report.bytes_moved,
        "present_bytes": report.present_bytes,
        "read_bytes": report.read_bytes,
        "needed_bytes": report.needed_bytes,
        "free_bytes": report.free_bytes,
        "seconds": report.seconds,
        "bytes_per_second": transferred.then(|| report.bytes as f64 / report.seconds.max(1e-9)),
        "limit_bytes_per_second": report.limit_bytes_per_second,
        "cpu_seconds": report.cpu_seconds,
        "ready_seconds": report.ready_seconds,
        "threads": report.threads,
        "page_cache_fraction": report.cached_fraction,
        "path": {
            "page_cache_bytes": report.cached_bytes,
            "buffered_bytes": report.buffered_bytes,
            "direct_bytes": report.direct_bytes,
            "io_uring": report.ring,
        },
        "pinned_bytes": report.pinned_bytes,
        "device_extra_bytes": report.device_extra_bytes,
        "overflow_count": report.overflow_count,
        "peak_rss_bytes": machine::peak_resident_bytes(),
        "notes": report.notes,
        "warnings": warnings,
    });
    if let Some(fields) = document.as_object_mut() {
        if let Some(check) = &report.check {
            fields.insert("checked_tensors".into(), check.tensor_count.into());
            fields.insert("digest".into(), check.digest.clone().into());
        }
        if let Some(gpu) = report.gpu_facts() {
            fields.insert("gpu".into(), gpu);
        }
    }
    document
}
