//! `hoist synth`: arguments and output; the work is the library's. A tool for benchmarks and tests, so it is not in the
//! list of commands.

use super::output::{Out, size_bytes};
use super::progress::Watch;
use super::{Common, say, signals};
use clap::ValueEnum;
use hoist::dtype::DType;
use hoist::synth::{Options, Plan, Sharding, shape::PRESETS};
use hoist::text::{bytes, count, rate};
use hoist::{Error, Result};
use serde_json::json;
use std::path::PathBuf;

/// The arguments of `hoist synth`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("how-large").required(true).multiple(true).args(["size", "preset", "layers", "hidden", "tensors"])))]
pub(crate) struct Args {
    /// The directory to make
    out_dir: PathBuf,
    /// Bytes of weights in all; decides how many layers
    #[arg(long, value_name = "SIZE", value_parser = size_bytes, env = "HOIST_SIZE", hide_env = true)]
    size: Option<u64>,
    /// A known model's sizes
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(PRESETS.map(|p| p.name)), conflicts_with = "hidden", env = "HOIST_PRESET", hide_env = true)]
    preset: Option<String>,
    /// Number of layers
    #[arg(long, value_name = "N", conflicts_with = "size", env = "HOIST_LAYERS", hide_env = true)]
    layers: Option<u64>,
    /// Width, a multiple of 64
    #[arg(long, value_name = "N", env = "HOIST_HIDDEN", hide_env = true)]
    hidden: Option<u64>,
    /// So many small tensors instead of a model
    #[arg(long, value_name = "N", conflicts_with_all = ["preset", "layers", "hidden"], env = "HOIST_TENSORS", hide_env = true)]
    tensors: Option<u64>,
    /// Element type: f32, f16 or bf16
    #[arg(long, default_value = "bf16", value_parser = dtype, env = "HOIST_DTYPE", hide_env = true)]
    dtype: DType,
    /// Number of files
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        conflicts_with = "shard_size",
        env = "HOIST_SHARDS",
        hide_env = true
    )]
    shards: usize,
    /// Most bytes of weights in a file
    #[arg(long, value_name = "SIZE", value_parser = size_bytes, env = "HOIST_SHARD_SIZE", hide_env = true)]
    shard_size: Option<u64>,
    /// The container
    #[arg(long, value_enum, default_value_t = Format::Safetensors, env = "HOIST_FORMAT", hide_env = true)]
    format: Format,
    /// Another seed gives other weights
    #[arg(long, value_name = "N", default_value_t = 0, env = "HOIST_SEED", hide_env = true)]
    seed: u64,
    /// Take what was written out of the page cache
    #[arg(long, env = "HOIST_COLD", hide_env = true, value_parser = clap::builder::FalseyValueParser::new())]
    cold: bool,
    /// Say what would be written, and write nothing
    #[arg(long, env = "HOIST_DRY_RUN", hide_env = true, value_parser = clap::builder::FalseyValueParser::new())]
    dry_run: bool,
}

/// The containers that can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// safetensors, as Hugging Face lays it out
    Safetensors,
}

fn dtype(text: &str) -> std::result::Result<DType, String> {
    DType::from_user(text).ok_or_else(|| "no such type; f32, f16 and bf16 can be made".to_owned())
}

/// Runs the command.
pub(crate) fn run(args: Args, common: &Common) -> Result<()> {
    let Format::Safetensors = args.format;
    let mut options = Options::new(&args.out_dir);
    options.size_bytes = args.size;
    options.preset = args.preset;
    options.layers = args.layers;
    options.hidden = args.hidden;
    options.tensors = args.tensors;
    options.dtype = args.dtype;
    options.sharding = match args.shard_size {
        Some(limit) => Sharding::SizeBytes(limit),
        None => Sharding::Count(args.shards),
    };
    options.seed = args.seed;
    options.cold = args.cold;
    if let Some(threads) = common.threads {
        options.threads = threads.get();
    }
    let out_dir = args.out_dir.to_str().ok_or_else(|| {
        let shown = args.out_dir.to_string_lossy();
        Error::usage(format!("the directory's name is not UTF-8: `{}`", hoist::text::Shown(&shown)))
    })?;

    if args.dry_run {
        return tell(&hoist::synth::plan(&options)?, out_dir, common);
    }
    let job = hoist::synth::synth(options);
    Watch::new(common, "synth").follow(&job, signals::cancelled(), false);
    let made = job.wait().map_err(|e| if signals::received().is_some() { signals::stopped() } else { e })?;
    if common.json {
        let mut out = Out::stdout();
        out.json(
            "hoist.synth/1",
            json!({
                "out": out_dir,
                "tensors": made.tensors,
                "files": made.files,
                "elements": made.elements,
                "bytes": made.size_bytes,
                "seconds": made.seconds,
                "bytes_per_second": (made.size_bytes as f64 / made.seconds.max(1e-9)) as u64,
                "threads": made.threads,
            }),
        )?;
        return out.finish();
    }
    if !common.quiet {
        say(&format!(
            "wrote  {}  {}  {} parameters  {} tensors in {} {} in {:.1} s   {}",
            hoist::text::Shown(out_dir),
            bytes(made.size_bytes),
            count(made.elements),
            made.tensors,
            made.files,
            if made.files == 1 { "file" } else { "files" },
            made.seconds,
            rate(made.size_bytes, made.seconds)
        ));
    }
    Ok(())
}

/// Prints the plan: the answer of a dry run.
fn tell(plan: &Plan, out_dir: &str, common: &Common) -> Result<()> {
    let mut out = Out::stdout();
    if common.json {
        let files: Vec<_> = plan
            .files
            .iter()
            .map(|(name, tensors, laid)| json!({"name": name, "tensors": tensors.len(), "size_bytes": laid.file_size_bytes}))
            .collect();
        let fields = json!({
            "out": out_dir,
            "dry_run": true,
            "tensors": plan.entries.len(),
            "elements": plan.elements,
            "bytes": plan.size_bytes,
            "file_bytes": plan.file_bytes,
            "files": files,
        });
        out.json("hoist.synth/1", fields)?;
        return out.finish();
    }
    let (parameters, tensors) = (count(plan.elements), plan.entries.len());
    out.line(&format!("plan   {}  {parameters} parameters  {tensors} tensors", bytes(plan.size_bytes)))?;
    for (name, tensors, laid) in &plan.files {
        out.line(&format!("       {name}  {}  {} tensors", bytes(laid.file_size_bytes), tensors.len()))?;
    }
    out.finish()
}
