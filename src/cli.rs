//! The command line: arguments in, one library call, results out. Only here is anything printed, and only here does the
//! process end.
//!
//! One file per command, all of one shape: `Args` derives `clap::Args`, `run(args, common)` does the work and returns
//! the error it met. This file owns what they share: the common flags, how an error looks, which code it exits with.
//!
//! Standard output carries what was asked for, through [`output::Out`]; all else goes to standard error. A panic is a
//! bug: it says so in one line and exits with 1, never with 101.

#[cfg(feature = "hub")]
mod cache;
mod convert;
mod diff;
mod doctor;
#[cfg(feature = "hub")]
mod fetch;
mod inspect;
mod load;
mod lock;
mod model;
mod output;
mod progress;
mod quantize;
mod signals;
mod synth;
#[cfg(feature = "verify")]
mod verify;

use clap::{Parser, Subcommand, ValueEnum};
use hoist::{Error, ErrorKind, Result};
use std::ffi::OsStr;
use std::io::{IsTerminal, Write};
use std::num::NonZeroUsize;
use std::process::ExitCode;

/// Takes model weights from where they are to where they run
#[derive(Debug, Parser)]
#[command(name = "hoist", version, max_term_width = 100, arg_required_else_help = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 bad input, 2 usage, 3 not found, 4 not allowed, 5 I/O or network,
  6 rate limited, 7 integrity, 8 no space or memory, 9 unsupported, 10 driver or GPU,
  11 a check failed, 141 closed pipe, 128+n signal n";

/// A command a line: its variant, then `Command::run` below sends it to its file.
#[derive(Debug, Subcommand)]
enum Command {
    /// What is in a model: tensors, dtypes, sizes, family, whether it fits; reads headers and configs only
    Inspect(inspect::Args),
    /// Brings a repo of the hub into the cache that Python shares, or into a folder: resumable, verified, in parallel
    #[cfg(feature = "hub")]
    Fetch(Box<fetch::Args>),
    /// Streams all tensors to a GPU or to host memory and says how fast
    Load(load::Args),
    /// Any of safetensors, PyTorch .bin and GGUF into any other, with configs and tokenizers
    Convert(convert::Args),
    /// A model into fewer bits: int4 and other schemes that vLLM, transformers and MLX open, with the error it costs
    Quantize(Box<quantize::Args>),
    /// What differs between two models: names, types, shapes and values, whatever they are written in
    Diff(diff::Args),
    /// Whether a model computes what it should: a forward pass, alone or against another; also prompts and embeddings
    #[cfg(feature = "verify")]
    Verify(Box<verify::Args>),
    /// Not in this build: it was made without the feature `verify`
    #[cfg(not(feature = "verify"))]
    Verify {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        _rest: Vec<std::ffi::OsString>,
    },
    /// What the cache holds: list it, check it, remove from it
    #[cfg(feature = "hub")]
    Cache(cache::Args),
    /// What this machine can do, and what limits a load here
    Doctor(doctor::Args),
    /// Makes a model of a given shape, for tests and benchmarks
    #[command(hide = true)]
    Synth(synth::Args),
}

impl Command {
    fn run(self, common: &Common) -> Result<()> {
        match self {
            Command::Inspect(args) => inspect::run(args, common),
            #[cfg(feature = "hub")]
            Command::Fetch(args) => fetch::run(*args, common),
            Command::Load(args) => load::run(args, common),
            Command::Convert(args) => convert::run(args, common),
            Command::Quantize(args) => quantize::run(*args, common),
            Command::Diff(args) => diff::run(args, common),
            #[cfg(feature = "verify")]
            Command::Verify(args) => verify::run(*args, common),
            #[cfg(not(feature = "verify"))]
            Command::Verify { .. } => Err(Error::unsupported("this build is without `verify`")
                .hint("cargo build with the feature `verify`, which is on by default")),
            #[cfg(feature = "hub")]
            Command::Cache(args) => cache::run(args, common),
            Command::Doctor(args) => doctor::run(args, common),
            Command::Synth(args) => synth::run(args, common),
        }
    }
}

/// The flags that mean the same in each command.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Common options")]
pub(crate) struct Common {
    /// Print one JSON document on standard output, bytes as integers
    #[arg(long, global = true, env = "HOIST_JSON", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) json: bool,
    /// No progress, no notes; errors and results only
    #[arg(short, long, global = true, env = "HOIST_QUIET", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) quiet: bool,
    /// Say more on standard error; twice for more still
    #[arg(short, long, global = true, action = clap::ArgAction::Count, env = "HOIST_VERBOSE", hide_env_values = true, conflicts_with = "quiet")]
    pub(crate) verbose: u8,
    /// How progress is shown on standard error
    #[arg(long, global = true, value_enum, default_value_t = Progress::Auto, env = "HOIST_PROGRESS", hide_env_values = true)]
    pub(crate) progress: Progress,
    /// Threads that move data [default: as many as pay off]
    #[arg(long, global = true, value_name = "N", env = "HOIST_THREADS", hide_env_values = true)]
    pub(crate) threads: Option<NonZeroUsize>,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Progress {
    /// A bar on a terminal, else one plain line every 10 s
    Auto,
    /// A bar
    Bar,
    /// One plain line every 10 s
    Plain,
    /// An event a line
    Json,
    /// Nothing
    None,
}

impl Common {
    #[allow(dead_code)] // for the commands that move data
    /// The progress to show, `auto` and `--quiet` resolved.
    pub(crate) fn progress(&self) -> Progress {
        match self.progress {
            _ if self.quiet => Progress::None,
            Progress::Auto if std::io::stderr().is_terminal() => Progress::Bar,
            Progress::Auto => Progress::Plain,
            chosen => chosen,
        }
    }

    /// A line on standard error that is neither result nor error; silent with `--quiet`.
    pub(crate) fn note(&self, message: &str) {
        if !self.quiet {
            say(&format!("note: {message}"));
        }
    }

    #[allow(dead_code)] // for the commands that move data
    /// A line on standard error about something that may be wrong; silent with `--quiet`.
    pub(crate) fn warn(&self, message: &str) {
        if !self.quiet {
            say(&format!("warning: {message}"));
        }
    }
}

/// Whether `NO_COLOR` (set and not empty) forbids colour.
pub(crate) fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
}

/// A line on standard error. A closed or full standard error is nobody's to tell.
pub(crate) fn say(line: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "{line}");
}

/// A MODEL argument as text. Paths that are not UTF-8 are refused by name rather than mangled.
pub(crate) fn model_text(model: &OsStr) -> Result<&str> {
    model.to_str().ok_or_else(|| {
        Error::usage(format!(
            "the model's name is not UTF-8: `{}`",
            hoist::text::Shown(&model.to_string_lossy())
        ))
        .hint("a link with a plain name to the same place works")
    })
}

/// Runs the command and gives its exit code.
pub(crate) fn main() -> ExitCode {
    signals::install();
    ExitCode::from(guarded(|| match Cli::try_parse_from(std::env::args_os()) {
        Ok(cli) => cli.command.run(&cli.common),
        Err(answer) => explain(&answer),
    }))
}

/// Runs `command` and shows what went wrong; a panic is one line and exit code 1.
fn guarded(command: impl FnOnce() -> Result<()> + std::panic::UnwindSafe) -> u8 {
    std::panic::set_hook(Box::new(|panic| {
        // A library's panic that is caught and told as an error is none of ours.
        #[cfg(feature = "verify")]
        if hoist::verify::text::is_guarded() {
            return;
        }
        signals::note_panic();
        let text = panic.to_string().replace('\n', " ");
        say(&format!("error: this is a bug in hoist {}: {text}", env!("CARGO_PKG_VERSION")));
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|v| v != "0") {
            say(&std::backtrace::Backtrace::force_capture().to_string());
        }
    }));
    match std::panic::catch_unwind(command) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => report(&error),
        Err(_) => 1,
    }
}

/// Shows an error, unless it is that nobody listens; gives the exit code.
fn report(error: &Error) -> u8 {
    let kind = match (error.kind(), signals::received()) {
        (ErrorKind::Signal(_), Some(signal)) => ErrorKind::Signal(signal),
        (kind, _) => kind,
    };
    if kind != ErrorKind::ClosedPipe {
        say(&format!("error: {error}"));
    }
    kind.exit_code()
}

/// What clap has to say: help and version are data, anything else is a usage error.
fn explain(answer: &clap::Error) -> Result<()> {
    let text = answer.render();
    if !answer.use_stderr() {
        let mut out = output::Out::stdout();
        if std::io::stdout().is_terminal() && !no_color() {
            out.text(&text.ansi().to_string())?;
        } else {
            out.text(&text.to_string())?;
        }
        return out.finish();
    }
    let text = text.to_string();
    let text = text.trim_end();
    if answer.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        say(text);
        return Err(Error::usage("a command is needed"));
    }
    Err(Error::usage(text.strip_prefix("error: ").unwrap_or(text)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    /// Every flag of an operator can be set by the environment: `HOIST_` and its long name. What is compared, asked, held to
    /// limits or quantised while it is loaded is of one run: a variable that was set for another would change what that means.
    #[test]
    fn every_flag_has_its_variable() {
        let cli = Cli::command();
        for command in std::iter::once(&cli).chain(cli.get_subcommands()) {
            for arg in command.get_arguments().filter(|a| !a.is_positional()) {
                let Some(long) = arg.get_long().filter(|l| !matches!(*l, "help" | "version")) else {
                    continue;
                };
                let variable = format!("HOIST_{}", long.replace('-', "_").to_uppercase());
                #[cfg(feature = "verify")]
                let headings = verify::OF_ONE_RUN;
                #[cfg(not(feature = "verify"))]
                let headings: &[&str] = &[];
                let of_one_run =
                    arg.get_help_heading().is_some_and(|h| h == load::QUANTISE || headings.contains(&h));
                assert_eq!(
                    arg.get_env().map(|e| e.to_string_lossy().into_owned()),
                    (!of_one_run).then_some(variable),
                    "{} --{long}",
                    command.get_name()
                );
            }
        }
    }
}
