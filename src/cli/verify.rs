//! `hoist verify`: arguments and output; the work is the library's.
//!
//! One command with two ends. Checked, a model gives a report, a line a check; asked (`--prompt`, `--embed`, …), it gives an
//! answer on standard output. Where something to compare with is named beside a prompt, the prompt is what both models are
//! given, and nothing is generated.

mod answers;

use super::model::{self, Kept, Reach, Reads, TeeArgs};
use super::output::{Out, size_bytes};
use super::progress::Watch;
use super::{Common, model_text, signals};
use clap::ValueEnum;
use hoist::dtype::DType;
use hoist::open::Model;
use hoist::verify::report::SCHEMA;
use hoist::verify::{self, Gate, Options, Scoring};
use hoist::{Error, Result, machine};
use serde_json::json;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// The most bytes of a text that is read: more would be tokenised for hours before anything is computed.
const TEXT_BYTES_MAX: u64 = 256 << 20;

const EXAMPLES: &str = "\
Exit code 0: every check passed. 11: one failed. 9: no row says how this model computes, and nothing was checked.

Examples:
  hoist verify MODEL                                     does it work at all: tensors, numbers, a forward pass
  hoist verify model-q8_0.gguf --against org/name        what a conversion lost, with limits by type
  hoist verify MODEL --against org/name --max-kl 0.01 --min-top1 95%
  hoist verify MODEL --reference logits.safetensors      against logits made anywhere (input_ids, logits)
  hoist verify MODEL --logits logits.safetensors         makes such a file
  hoist verify MODEL --text wiki.txt --against org/name  perplexity of both
  hoist verify MODEL --text wiki.txt --recipe llama.cpp  as llama-perplexity scores
  hoist verify MODEL --against org/name --layers         where the two first part
  hoist verify MODEL --memory 4GB                        layer by layer in 4 GB
  hoist verify MODEL --prompt 'The capital of France is' --max-tokens 16
  hoist verify MODEL --chat --prompt 'Why is the sky blue?' --temperature 0.7 --seed 1
  hoist verify MODEL --embed 'one text' 'another'        a JSON array a line
  hoist verify MODEL --pair 'a question' 'a document'    the score of a reranker
  hoist verify MODEL --classify 'I like it'              label and probability
  hoist verify MODEL --ner 'Ada Lovelace in London'      label, first..last character, text

Without --text, --prompt or --reference a sample inside hoist is passed through the model: prose, code, several scripts.
A repo's own code is never run: a model is verified only if hoist knows how its family computes.";

/// The arguments of `hoist verify`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, after_help = "Exit code 0: every check passed. 11: one failed. --help has examples.")]
#[command(group(clap::ArgGroup::new("question").args(["prompt", "embed", "pair", "classify", "ner"])))]
pub(crate) struct Args {
    /// A file, a directory, an index, `org/name[@revision][:Q4_K_M]` of the Hugging Face hub, or a URL: `hf://…`, `s3://…`,
    /// `gs://…`, `az://…`, `https://…`
    model: OsString,

    /// Compare with this model, which is known to be right; any format, any type
    #[arg(long, value_name = "MODEL", help_heading = COMPARE)]
    against: Option<OsString>,
    /// Compare with a safetensors file that holds `input_ids` and `logits`
    #[arg(long, value_name = "FILE", conflicts_with = "against", help_heading = COMPARE)]
    reference: Option<OsString>,
    /// Measure on this text and give the perplexity; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["reference", "question"], help_heading = COMPARE)]
    text: Option<PathBuf>,
    /// How perplexity is taken
    #[arg(long, value_enum, default_value_t = Recipe::Windows, requires = "text", help_heading = COMPARE)]
    recipe: Recipe,
    /// Tokens of a window [default: the context, at most 2048; 512 with --recipe llama.cpp]
    #[arg(long, value_name = "N", requires = "text", value_parser = count, help_heading = COMPARE)]
    window: Option<usize>,
    /// Tokens from one window's start to the next's [default: half a window]
    #[arg(long, value_name = "N", requires = "text", value_parser = count, help_heading = COMPARE)]
    stride: Option<usize>,
    /// Compare after each layer, and say where the two first part
    #[arg(long, help_heading = COMPARE, value_parser = clap::builder::FalseyValueParser::new())]
    layers: bool,
    /// Run only these layers, as in 0..4; what was not run is said
    #[arg(long, value_name = "A..B", conflicts_with_all = ["text", "logits", "question"], value_parser = layer_range, help_heading = COMPARE)]
    layers_only: Option<Range<usize>>,
    /// Write `input_ids` and `logits` (of encoders the hidden states, of heads the scores) to this safetensors file
    #[arg(long, value_name = "OUT", help_heading = COMPARE)]
    logits: Option<PathBuf>,
    /// Replace what is at OUT
    #[arg(long, requires = "logits", help_heading = COMPARE)]
    force: bool,

    /// The largest mean KL divergence, in nats
    #[arg(long, value_name = "NATS", allow_negative_numbers = true, value_parser = limit, help_heading = LIMITS)]
    max_kl: Option<f64>,
    /// The least share of positions whose likeliest token is the same, as 0.97 or 97%
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, value_parser = share, help_heading = LIMITS)]
    min_top1: Option<f64>,
    /// The least overlap of the five likeliest tokens
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, value_parser = share, help_heading = LIMITS)]
    min_top5: Option<f64>,
    /// The largest relative error of logits, scores or vectors
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = limit, help_heading = LIMITS)]
    max_rel: Option<f64>,
    /// The least cosine of logits, scores or vectors
    #[arg(long, value_name = "X", value_parser = cosine, allow_negative_numbers = true, help_heading = LIMITS)]
    min_cosine: Option<f64>,
    /// The most that perplexity may grow, as 0.01 or 1%
    #[arg(long, value_name = "SHARE", value_parser = growth, allow_negative_numbers = true, help_heading = LIMITS)]
    max_ppl_increase: Option<f64>,
    /// Fail on what is only reported otherwise: constant vectors and rows, tensors that a family may leave unused
    #[arg(long, help_heading = LIMITS)]
    strict: bool,

    /// Go on with this text; `-` is standard input. With something to compare with: the text that is compared on
    #[arg(long, value_name = "TEXT", conflicts_with = "reference", help_heading = USE)]
    prompt: Option<String>,
    /// Put the prompt into the model's chat template
    #[arg(long, requires = "prompt", help_heading = USE, value_parser = clap::builder::FalseyValueParser::new())]
    chat: bool,
    /// Which of the model's templates, or a file with one
    #[arg(long, value_name = "NAME", requires = "chat", help_heading = USE)]
    chat_template: Option<String>,
    /// What the system says before the prompt
    #[arg(long, value_name = "TEXT", requires = "chat", help_heading = USE)]
    system: Option<String>,
    /// The most new tokens
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = count, requires = "prompt", help_heading = USE)]
    max_tokens: usize,
    /// Draw tokens at this temperature; 0 takes the likeliest
    #[arg(long, value_name = "T", default_value = "0", allow_negative_numbers = true, value_parser = limit, requires = "prompt", help_heading = USE)]
    temperature: f64,
    /// Draw from the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", default_value = "1", allow_negative_numbers = true, value_parser = top_p, requires = "temperature", help_heading = USE)]
    top_p: f64,
    /// Another seed draws other tokens
    #[arg(long, value_name = "N", default_value_t = 0, requires = "temperature", help_heading = USE)]
    seed: u64,
    /// Make a vector of each text
    #[arg(long, value_name = "TEXT", num_args = 1.., conflicts_with_all = ["against", "reference", "logits", "layers"], help_heading = USE)]
    embed: Vec<String>,
    /// Score a document for a query; may be given several times
    #[arg(long, value_names = ["QUERY", "DOC"], num_args = 2, conflicts_with_all = ["against", "reference", "logits", "layers"], value_delimiter = None, help_heading = USE)]
    pair: Vec<String>,
    /// Say which of its classes each text belongs to
    #[arg(long, value_name = "TEXT", num_args = 1.., conflicts_with_all = ["against", "reference", "logits", "layers"], help_heading = USE)]
    classify: Vec<String>,
    /// Find what each text names
    #[arg(long, value_name = "TEXT", num_args = 1.., conflicts_with_all = ["against", "reference", "logits", "layers"], help_heading = USE)]
    ner: Vec<String>,

    /// The type that weights are held in, and multiplied; what passes through the layers is f32 [default: f32]
    #[arg(long, value_enum, value_name = "TYPE", env = "HOIST_DTYPE", hide_env_values = true, help_heading = RUN)]
    dtype: Option<Compute>,
    /// Where: auto, cpu, cuda, cuda:N; a GPU needs a build with candle's kernels (feature candle-cuda)
    #[arg(long, value_name = "DEVICE", env = "HOIST_DEVICE", hide_env_values = true, help_heading = RUN)]
    device: Option<String>,
    /// The most memory; a larger model runs layer by layer [default: 80 % of what is available]
    #[arg(long, value_name = "SIZE", value_parser = size_bytes, env = "HOIST_MEMORY", hide_env_values = true, help_heading = RUN)]
    memory: Option<u64>,
    /// Compute with quantised blocks as they are, where candle has kernels for them, instead of dequantising
    #[arg(long, env = "HOIST_NATIVE", hide_env_values = true, help_heading = RUN, value_parser = clap::builder::FalseyValueParser::new())]
    native: bool,
    #[command(flatten, next_help_heading = RUN)]
    reach: Reach,
    #[command(flatten, next_help_heading = RUN)]
    tee: TeeArgs,
}

/// Flags of these three belong to one run and not to a machine: the environment does not set them.
#[cfg(test)]
pub(crate) const OF_ONE_RUN: &[&str] = &[COMPARE, LIMITS, USE];

const COMPARE: &str = "What to check it by";
const LIMITS: &str = "Limits in place of those that the types suggest";
const USE: &str = "Using it";
const RUN: &str = "How to run";

/// How perplexity is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Recipe {
    /// Windows that may overlap; each token is scored once, with what its window holds before it
    Windows,
    /// As llama-perplexity: chunks of 512, the second half of each scored
    #[value(name = "llama.cpp")]
    LlamaCpp,
}

/// Types that are computed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Compute {
    /// 32-bit
    F32,
    /// bfloat16
    Bf16,
    /// IEEE half
    F16,
}

impl Compute {
    fn dtype(self) -> DType {
        match self {
            Compute::F32 => DType::F32,
            Compute::Bf16 => DType::BF16,
            Compute::F16 => DType::F16,
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: Args, common: &Common) -> Result<()> {
    agree(&args)?;
    let name = model_text(&args.model)?;
    let against = args.against.as_deref().map(model_text).transpose()?;
    let reference = args.reference.as_deref().map(model_text).transpose()?;
    // Before anything is opened: what is read from standard input, or is not there, is the user's to mend.
    let text = args.text.as_deref().map(read_text).transpose()?;
    let prompt = match args.prompt.as_deref() {
        Some("-") => Some(read_text(Path::new("-"))?),
        other => other.map(str::to_owned),
    };
    let question = if measured(&args) { None } else { answers::question(&args, prompt.as_deref())? };
    let cancel = cancelled(&args);
    let mut warnings = Vec::new();
    let mut kept = Kept::default();
    let mut open = |name: &str| open_one(name, &args, common, &mut warnings, &mut kept);
    let model = open(name)?;
    let against = against.map(&mut open).transpose()?;
    let reference = reference.map(&mut open).transpose()?;
    let mut options = options(&args, common);
    if let Some(question) = question {
        answers::run(model, question, options, common, cancel, &warnings)?;
        return kept.finish(common);
    }
    options.against = against;
    options.reference = reference;
    options.text = text;
    options.sample = prompt;
    let job = verify::verify(model, options);
    Watch::new(common, "verify").follow(&job, cancel, false);
    let report =
        job.wait().map_err(|e| if signals::received().is_some() { signals::stopped() } else { e })?;
    report.notes.iter().for_each(|note| common.note(note));
    let mut out = Out::stdout();
    if common.json {
        let mut document = report.document();
        if let Some(fields) = document.as_object_mut() {
            fields.insert("peak_rss_bytes".into(), json!(machine::peak_resident_bytes()));
            fields.insert("warnings".into(), json!(warnings));
        }
        out.json(SCHEMA, document)?;
    } else {
        for line in report.lines() {
            out.line(&line)?;
        }
    }
    out.finish()?;
    kept.finish(common)?;
    report.verdict()
}

/// Whether a signal came. A file that is being written is cleaned up, so the signal must be waited for; else there is
/// nothing to clean up, and it ends the process at once, in the middle of whatever is computed.
fn cancelled(args: &Args) -> &'static AtomicBool {
    static NEVER: AtomicBool = AtomicBool::new(false);
    if args.logits.is_some() { signals::cancelled() } else { &NEVER }
}

/// A model, what is odd about it said.
fn open_one(
    name: &str,
    args: &Args,
    common: &Common,
    warnings: &mut Vec<String>,
    kept: &mut Kept,
) -> Result<Model> {
    let (model, keeps) = model::open_kept(name, &args.reach.options(), &args.tee, Reads::All, common)?;
    kept.and(keeps);
    for note in &model.table.notes {
        common.warn(note);
        warnings.push(note.clone());
    }
    Ok(model)
}

/// What flags say together that none says alone.
fn agree(args: &Args) -> Result<()> {
    if args.recipe == Recipe::LlamaCpp && args.stride.is_some() {
        return Err(Error::usage("--recipe llama.cpp has no stride: its chunks do not overlap")
            .hint("--window sets their size; --recipe windows takes a stride"));
    }
    if let (Some(window), Some(stride)) = (args.window, args.stride)
        && stride > window
    {
        let message = format!("a stride of {stride} leaves out tokens between windows of {window}");
        return Err(Error::usage(message).hint("a stride is at most a window"));
    }
    if let (Some(text), Some(logits)) = (&args.text, &args.logits)
        && let (Ok(text), Ok(logits)) = (text.canonicalize(), logits.canonicalize())
        && text == logits
    {
        return Err(Error::usage("--logits would replace the text that --text reads").hint("write elsewhere"));
    }
    let limited = options_gate(args) != Gate::default();
    if limited && answers::is_asked(args) && !measured(args) {
        return Err(Error::usage("a limit is for a comparison, and nothing is compared")
            .hint("--against MODEL; then the prompt is what both are given"));
    }
    if measured(args) && (args.temperature != 0.0 || args.top_p != 1.0 || args.seed != 0) {
        return Err(Error::usage(
            "--temperature, --top-p and --seed are for a text that goes on, and nothing is made",
        )
        .hint("leave out --against, --reference, --logits and --layers, or these"));
    }
    if measured(args) && args.chat {
        return Err(Error::usage("what is compared on is the prompt as it is, and --chat would change it")
            .hint("leave out --chat, or --against, --logits and --layers"));
    }
    Ok(())
}

/// Whether a report is wanted: something to compare with, or something that only a measured pass gives.
fn measured(args: &Args) -> bool {
    args.against.is_some() || args.reference.is_some() || args.logits.is_some() || args.layers
}

fn options_gate(args: &Args) -> Gate {
    Gate {
        max_kl: args.max_kl,
        min_top1: args.min_top1,
        min_top5: args.min_top5,
        max_relative: args.max_rel,
        min_cosine: args.min_cosine,
        max_perplexity_increase: args.max_ppl_increase,
    }
}

fn options(args: &Args, common: &Common) -> Options {
    Options {
        scoring: match args.recipe {
            Recipe::Windows => Scoring::Windows { window: args.window, stride: args.stride },
            Recipe::LlamaCpp => Scoring::LlamaCpp { context: args.window },
        },
        dtype: args.dtype.map(Compute::dtype),
        // An empty variable is none.
        device: args.device.as_deref().map(str::trim).filter(|d| !d.is_empty()).map(str::to_owned),
        memory_bytes: args.memory,
        threads: common.threads.map(std::num::NonZeroUsize::get),
        native: args.native,
        layers: args.layers,
        layers_only: args.layers_only.clone(),
        strict: args.strict,
        gate: options_gate(args),
        logits: args.logits.clone(),
        force: args.force,
        ..Options::default()
    }
}

/// A text of a file, or of standard input.
fn read_text(path: &Path) -> Result<String> {
    let is_stdin = path.as_os_str() == OsStr::new("-");
    let name = if is_stdin { "standard input".to_owned() } else { path.display().to_string() };
    let failed = |e| Error::io("the text cannot be read", e).file(name.clone());
    let mut bytes = Vec::new();
    let source: Box<dyn Read> = match is_stdin {
        true => Box::new(std::io::stdin()),
        false => Box::new(std::fs::File::open(path).map_err(failed)?),
    };
    source.take(TEXT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > TEXT_BYTES_MAX {
        let message = format!("is a text of more than {}", hoist::text::bytes(TEXT_BYTES_MAX));
        return Err(Error::unsupported(message).file(name).hint("a part of it says as much"));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to() as u64;
        Error::bad_input("is no text in UTF-8").file(name.clone()).at(at)
    })
}

fn number(text: &str) -> std::result::Result<f64, String> {
    text.trim().parse::<f64>().ok().filter(|x| x.is_finite()).ok_or_else(|| "not a number".to_owned())
}

/// A number of at least zero.
fn limit(text: &str) -> std::result::Result<f64, String> {
    number(text).and_then(|x| if x >= 0.0 { Ok(x) } else { Err("it cannot be negative".to_owned()) })
}

/// A part of a whole: `0.97` or `97%`.
fn growth(text: &str) -> std::result::Result<f64, String> {
    match text.trim().strip_suffix('%') {
        Some(percent) => limit(percent.trim_end()).map(|x| x / 100.0),
        None => limit(text),
    }
}

/// A part of a whole, at most all of it.
fn share(text: &str) -> std::result::Result<f64, String> {
    let refuse = || "a share is from 0 to 1, as 0.97 or 97%".to_owned();
    growth(text).ok().filter(|x| *x <= 1.0).ok_or_else(refuse)
}

fn cosine(text: &str) -> std::result::Result<f64, String> {
    number(text)
        .ok()
        .filter(|x| (-1.0..=1.0).contains(x))
        .ok_or_else(|| "a cosine is from -1 to 1".to_owned())
}

fn top_p(text: &str) -> std::result::Result<f64, String> {
    number(text)
        .ok()
        .filter(|x| *x > 0.0 && *x <= 1.0)
        .ok_or_else(|| "a probability above 0 and at most 1".to_owned())
}

fn count(text: &str) -> std::result::Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "a whole number above 0".to_owned())
}

/// `0..4`: layers 0, 1, 2 and 3.
fn layer_range(text: &str) -> std::result::Result<Range<usize>, String> {
    let refuse = || "layers are A..B, from 0 and without B, as in 0..4".to_owned();
    let (start, end) = text.split_once("..").ok_or_else(refuse)?;
    let (start, end) =
        (start.parse::<usize>().map_err(|_| refuse())?, end.parse::<usize>().map_err(|_| refuse())?);
    if start < end { Ok(start..end) } else { Err(refuse()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        for (text, expected) in [
            ("0..4", Some(0..4)),
            ("2..3", Some(2..3)),
            ("3..3", None),
            ("4..2", None),
            ("..4", None),
            ("1..", None),
            ("1-2", None),
            ("", None),
            ("a..b", None),
        ] {
            assert_eq!(layer_range(text).ok(), expected, "{text:?}");
        }
        for (text, expected) in [
            ("0.97", Some(0.97)),
            ("97%", Some(0.97)),
            ("97 %", Some(0.97)),
            ("1", Some(1.0)),
            ("97", None),
            ("-0.1", None),
            ("NaN", None),
            ("inf", None),
            ("", None),
        ] {
            assert_eq!(share(text).ok(), expected, "{text:?}");
        }
        assert_eq!(limit("1e-3"), Ok(0.001));
        assert!(
            limit("-1").is_err() && limit("nan").is_err() && cosine("1.1").is_err() && top_p("0").is_err()
        );
    }
}
