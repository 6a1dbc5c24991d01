//! `hoist quantize`: arguments and output; the work is the library's.

mod say;

use super::model::{self, Reach, Reads, TeeArgs};
use super::output::{Out, size_bytes};
use super::progress::Watch;
use super::{Common, Progress, lock, model_text, signals};
use clap::ValueEnum;
use hoist::convert::BlockTypes;
use hoist::dtype::DType;
use hoist::quantize::report::{About, Format, Target};
use hoist::quantize::{self, Options, Plan};
use hoist::transform::method::Method;
use hoist::transform::scheme::CHANNEL;
use hoist::{Error, Result};

use say::{done, lines, notes, plan_lines, planned};
use std::ffi::OsString;
use std::path::PathBuf;

/// The arguments of `hoist quantize`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file, a directory, an index, `org/name[@revision][:Q4_K_M]` of the Hugging Face hub, or a URL: `hf://…`, `s3://…`,
    /// `gs://…`, `az://…`, `https://…`
    model: OsString,
    /// Where to: a directory, or a file that ends in .gguf
    #[arg(short, long, value_name = "OUT", env = "HOIST_OUT", hide_env_values = true)]
    out: PathBuf,
    /// The scheme: int4, gptq, awq, mlx, torchao, torchao-int8, nf4, mxfp4, nvfp4a16, fp8, fp8-block; for a GGUF tq1_0, tq2_0,
    /// q2_k_s, q2_k, q3_k_s, q3_k_m, q3_k_l, iq4_xs, iq4_nl, q4_0, q4_1, q4_k_s, q4_k_m, mxfp4, q5_0, q5_1, q5_k_s, q5_k_m, q6_k,
    /// q8_0 [default: int4; q4_k_m where OUT ends in .gguf]
    #[arg(short, long, value_name = "NAME", env = "HOIST_SCHEME", hide_env_values = true)]
    scheme: Option<String>,
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
    /// How much the error of each input channel counts: llama.cpp's imatrix (GGUF or .dat), or safetensors of weights
    #[arg(long, value_name = "FILE", env = "HOIST_IMPORTANCE", hide_env_values = true)]
    importance: Option<PathBuf>,
    /// Keep tensors whose names match a pattern as they are
    #[arg(long, value_name = "GLOB", env = "HOIST_KEEP", hide_env_values = true)]
    keep: Vec<String>,
    /// Quantise matrices whose names match a pattern too
    #[arg(long, value_name = "GLOB", env = "HOIST_ALSO", hide_env_values = true)]
    also: Vec<String>,
    /// GGUF: the type of tensors whose names match a pattern, as in '*ffn_down*=q6_k'
    #[arg(long, value_name = "GLOB=TYPE", value_parser = tensor_type, env = "HOIST_TENSOR_TYPE", hide_env_values = true)]
    tensor_type: Vec<(String, DType)>,
    /// GGUF: the type of the head
    #[arg(long, value_name = "TYPE", value_parser = block_type, env = "HOIST_OUTPUT_TYPE", hide_env_values = true)]
    output_type: Option<DType>,
    /// GGUF: the type of the embedding
    #[arg(long, value_name = "TYPE", value_parser = block_type, env = "HOIST_EMBEDDING_TYPE", hide_env_values = true)]
    embedding_type: Option<DType>,
    /// GGUF: everything of the scheme's own type, no mixture
    #[arg(long, env = "HOIST_PURE", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    pure: bool,
    /// Refuse a model with matrices that do not fit, instead of keeping those
    #[arg(long, env = "HOIST_STRICT", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    strict: bool,
    /// What becomes of NaN and infinity
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = Nan::Refuse, env = "HOIST_NAN", hide_env_values = true)]
    nan: Nan,
    /// Dequantise a model that is quantised already, and quantise that
    #[arg(long, env = "HOIST_REQUANTIZE", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    requantize: bool,
    /// The most bytes of a shard [default: sharded as the source is; 5GB from a GGUF; a GGUF is one file]
    #[arg(long, value_name = "SIZE", value_parser = size_bytes, env = "HOIST_SHARD_SIZE", hide_env_values = true)]
    shard_size: Option<u64>,
    /// Replace what is at OUT
    #[arg(long, env = "HOIST_FORCE", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    force: bool,
    /// The most memory
    #[arg(long, value_name = "SIZE", value_parser = size_bytes, default_value = "512MiB", env = "HOIST_MEMORY", hide_env_values = true)]
    memory: u64,
    /// Write down what was lost, tensor by tensor: a page (.html), a document (.json) or a table (.csv)
    #[arg(long, value_name = "FILE", env = "HOIST_REPORT", hide_env_values = true)]
    report: Option<PathBuf>,
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

/// A method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum How {
    /// Round to nearest: the codes of the reference tool
    Rtn,
    /// The least squared error
    Search,
    /// Half-quadratic, where the zero point is a float
    Hqq,
}

impl How {
    /// The library's name for it.
    pub(super) fn method(self) -> Method {
        match self {
            How::Rtn => Method::Rtn,
            How::Search => Method::Search,
            How::Hqq => Method::Hqq,
        }
    }
}

/// What becomes of NaN and infinity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Nan {
    /// The model is refused, by the tensor's name
    Refuse,
    /// They are taken for zeros
    Zero,
}

pub(super) fn group_size(text: &str) -> std::result::Result<u64, String> {
    match text {
        "channel" => Ok(CHANNEL),
        _ => text.parse().ok().filter(|&n| n > 0).ok_or_else(|| "a number, or `channel`".to_owned()),
    }
}

fn block_type(text: &str) -> std::result::Result<DType, String> {
    DType::from_user(text).ok_or_else(|| format!("there are {}", BlockTypes::names()))
}

fn tensor_type(text: &str) -> std::result::Result<(String, DType), String> {
    let (glob, name) = text.rsplit_once('=').ok_or("GLOB=TYPE, as in '*ffn_down*=q6_k'")?;
    Ok((glob.to_owned(), block_type(name)?))
}

/// Runs the command.
pub(crate) fn run(args: Args, common: &Common) -> Result<()> {
    let name = model_text(&args.model)?;
    let mut options = options(&args, common)?;
    // What is wrong with a name is said before anything is opened.
    args.report.as_deref().map(Format::of).transpose()?;
    let opening = args.locking.open_options(&args.reach, &args.out)?;
    let reads = Reads::of(args.dry_run);
    let (model, kept) = model::open_kept(name, &opening, &args.tee, reads, common)?;
    options.lock = args.locking.locking(name, &model, recipe(&args));
    let warnings = model.table.notes.clone();
    for note in &warnings {
        common.warn(note);
    }
    let plan = Plan::new(&model, &options)?;
    let report = args.report.as_deref().map(|path| Target::new(path, args.force, &model, &args.out));
    let report = report.transpose()?;
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
        plan_lines(&plan, &options, common.verbose > 0).iter().take(1).for_each(|line| super::say(line));
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
    // The model has its name: a report that fails now is told after all that went well.
    let about = About { model: name, out: &args.out.display().to_string() };
    let reported = report.as_ref().map(|report| report.write(&summary, &about)).transpose();
    let place = report.as_ref().filter(|_| reported.is_ok()).map(|r| r.path().display().to_string());
    match document {
        Some(document) => out.json("hoist.quantize/1", done(document, &summary, place.as_deref()))?,
        None => {
            for line in lines(&summary, name, place.as_deref()) {
                out.line(&line)?;
            }
        }
    }
    out.finish()?;
    reported.map_err(|e| e.detail("the model was written, and its report was not"))?;
    kept.finish(common)
}

/// The scheme's name: what was asked for, else what OUT suggests.
fn scheme(args: &Args) -> &str {
    let is_gguf = args.out.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    args.scheme.as_deref().unwrap_or(if is_gguf { "q4_k_m" } else { "int4" })
}

/// What was asked for that decides the output's bytes, without where it goes and what it may take.
fn recipe(args: &Args) -> String {
    let group = args.group_size.map(|n| if n == CHANNEL { "channel".to_owned() } else { n.to_string() });
    let method = args.method.and_then(|method| method.to_possible_value());
    lock::recipe(
        "quantize",
        &[
            ("--scheme", vec![scheme(args).to_owned()]),
            ("--method", lock::one(method.as_ref().map(|method| method.get_name()))),
            ("--group-size", lock::one(group)),
            ("--symmetric", lock::given(args.symmetric)),
            ("--asymmetric", lock::given(args.asymmetric)),
            ("--signed-scales", lock::given(args.signed_scales)),
            ("--gptq-v2", lock::given(args.gptq_v2)),
            ("--importance", lock::one(args.importance.as_ref().map(|path| path.display().to_string()))),
            ("--keep", args.keep.clone()),
            ("--also", args.also.clone()),
            (
                "--tensor-type",
                args.tensor_type.iter().map(|(glob, dtype)| format!("{glob}={}", dtype.name())).collect(),
            ),
            ("--output-type", lock::one(args.output_type.map(|dtype| dtype.name()))),
            ("--embedding-type", lock::one(args.embedding_type.map(|dtype| dtype.name()))),
            ("--pure", lock::given(args.pure)),
            ("--strict", lock::given(args.strict)),
            ("--nan", lock::one((args.nan == Nan::Zero).then_some("zero"))),
            ("--requantize", lock::given(args.requantize)),
            ("--shard-size", lock::one(args.shard_size)),
        ],
    )
}

fn options(args: &Args, common: &Common) -> Result<Options> {
    let scheme = scheme(args);
    let mut options = Options::new(&args.out, scheme)?;
    let quantize = &mut options.quantize;
    quantize.asked.method = args.method.map(How::method);
    quantize.asked.group = args.group_size;
    quantize.asked.symmetric = match (args.symmetric, args.asymmetric) {
        (true, true) => return Err(Error::usage("--symmetric and --asymmetric exclude each other")),
        (true, false) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
    };
    quantize.asked.signed_scales = args.signed_scales;
    quantize.asked.gptq_v2 = args.gptq_v2;
    quantize.importance =
        args.importance.as_deref().map(|f| quantize::importance(f, args.memory)).transpose()?;
    quantize.keep = args.keep.clone();
    quantize.also = args.also.clone();
    quantize.strict = args.strict;
    quantize.zero_odd = args.nan == Nan::Zero;
    quantize.requantize = args.requantize;
    quantize.blocks = BlockTypes {
        tensors: args.tensor_type.clone(),
        output: args.output_type,
        embedding: args.embedding_type,
        pure: args.pure,
    };
    options.shard_bytes = args.shard_size;
    options.force = args.force;
    options.memory_bytes = args.memory;
    options.threads = common.threads.map(std::num::NonZeroUsize::get);
    Ok(options)
}
