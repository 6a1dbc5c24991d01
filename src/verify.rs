//! Verifying: a forward pass over what was loaded, to show that it still computes what it should.
//!
//! ```no_run
//! let open = |name| hoist::open::open(name, &Default::default());
//! let mut options = hoist::verify::Options::default();
//! options.against = Some(open("llama.safetensors")?);
//! let report = hoist::verify::verify(open("llama.gguf")?, options).wait()?;
//! assert!(report.passed());
//! # hoist::Result::Ok(())
//! ```
//!
//! Whatever a model is written in, it is brought to one form first ([`subject`]): one dialect of configs, one set of names
//! and layouts, one description of what its layers compute ([`crate::transform::arch::forward`]). Weights come through one
//! door ([`weights`]), whole or layer by layer. One function computes a layer ([`stack`]), for decoders and encoders.
//!
//! Two models are compared in lockstep: all tokens pass layer k of both before k + 1, so that no more than a layer of each
//! must be in memory, and where the two first part is known for nothing. Logits are compared in bands of the vocabulary, so
//! that there is never a matrix of tokens × vocabulary.

pub mod answer;
pub mod audit;
mod causal;
pub mod chat;
mod checks;
pub mod decoder;
pub mod device;
pub mod encoder;
pub mod generate;
mod kernels;
pub mod limits;
pub mod metrics;
pub mod reference;
pub mod report;
pub mod sample;
pub mod stack;
pub mod subject;
pub mod text;
pub mod weights;
pub mod windows;

use crate::dtype::DType;
use crate::error::Error;
use crate::open::Model;
use crate::run::job::Job;
use report::Report;
use std::ops::Range;
use std::path::PathBuf;

/// How to verify.
#[derive(Debug)]
pub struct Options {
    /// What it is compared with: a model that is known to be right.
    pub against: Option<Model>,
    /// What it is compared with: a file with `input_ids` and `logits`.
    pub reference: Option<Model>,
    /// The text that both are measured on; perplexity is taken of it too.
    pub text: Option<String>,
    /// The text that is passed through the model where there is no `text`; hoist's own sample where this is missing too.
    pub sample: Option<String>,
    /// How perplexity is taken.
    pub scoring: Scoring,
    /// The type that is computed in: f32, bf16, f16. f32 where it is not said.
    pub dtype: Option<DType>,
    /// Where: `auto`, `cpu`, `cuda`, `cuda:1`.
    pub device: Option<String>,
    /// The most memory; 80 % of what is available where it is not said.
    pub memory_bytes: Option<u64>,
    /// Workers; as many as there are cores where it is not said.
    pub threads: Option<usize>,
    /// Whether quantised blocks are computed with as they are, where candle has kernels for them.
    pub native: bool,
    /// Whether the figures of each layer are wanted.
    pub layers: bool,
    /// Only these layers are run, and no logits are computed.
    pub layers_only: Option<Range<usize>>,
    /// Whether what is only reported otherwise fails.
    pub strict: bool,
    /// Limits of the user's own.
    pub gate: Gate,
    /// Where the logits (for encoders the hidden states, for heads the scores) are written.
    pub logits: Option<PathBuf>,
    /// Whether that may replace a file.
    pub force: bool,
}

/// Limits of the user's own, in place of those that the models' types suggest.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Gate {
    /// Mean KL divergence in nats.
    pub max_kl: Option<f64>,
    /// Share of positions whose likeliest token is the same, from 0 to 1.
    pub min_top1: Option<f64>,
    /// The same for the five likeliest.
    pub min_top5: Option<f64>,
    /// Largest relative error of a logit, of a score, of a number of a vector.
    pub max_relative: Option<f64>,
    /// Cosine of logits, of scores, of vectors.
    pub min_cosine: Option<f64>,
    /// Perplexity at most this much larger, as a fraction.
    pub max_perplexity_increase: Option<f64>,
}

/// How perplexity is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scoring {
    /// Windows that may overlap: in each the tokens that were not scored before, but for a window's first.
    Windows {
        /// Tokens of a window; the context or 2,048, whichever is less, where it is not said.
        window: Option<usize>,
        /// Tokens from one window's start to the next's; half a window where it is not said.
        stride: Option<usize>,
    },
    /// As llama-perplexity does: chunks that do not overlap, the second half of each scored.
    LlamaCpp {
        /// Tokens of a chunk; 512 where it is not said.
        context: Option<usize>,
    },
}

impl Default for Options {
    fn default() -> Options {
        Options {
            against: None,
            reference: None,
            text: None,
            sample: None,
            scoring: Scoring::Windows { window: None, stride: None },
            dtype: None,
            device: None,
            memory_bytes: None,
            threads: None,
            native: false,
            layers: false,
            layers_only: None,
            strict: false,
            gate: Gate::default(),
            logits: None,
            force: false,
        }
    }
}

/// Verifies a model. The report says which checks failed; an error is what kept them from being run.
///
/// # Errors
/// `Unsupported`: a family or a task that no row says; a GPU in a build without kernels for one. `NoSpace`: not even a layer
/// fits into memory, found before anything is loaded. `Usage`: options that do not go together. `BadInput`, `NotFound`: a
/// model that was to be compared with is itself broken; a text without a tokenizer.
pub fn verify(model: Model, options: Options) -> Job<Report> {
    Job::start("verify", false, move |control| checks::run(model, options, control))
}

/// An error of the tensor library: a bug, unless memory ended.
pub(crate) fn candle(error: candle_core::Error) -> Error {
    Error::bug(format!("the forward pass failed: {error}"))
}
