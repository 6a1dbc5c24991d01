//! Quantising ahead of time: a model of any container into codes and scales that engines open.
//!
//! ```no_run
//! let model = hoist::open::open("testdata/rustdoc-llama-6m", &Default::default())?;
//! let options = hoist::quantize::Options::new("rustdoc-int4", "int4")?;
//! let summary = hoist::quantize::quantize(model, options).wait()?;
//! println!("{:.2} bits a weight, {:.1} % off", summary.bits_per_weight(), summary.error.relative() * 100.0);
//! # hoist::Result::Ok(())
//! ```
//!
//! It is a conversion with a scheme ([`crate::convert::Quantize`]): the same draft, plan, shards, journal and companions. This
//! file adds what is asked of it and what is told of it. The same can go into memory instead ([`load`]).

mod load;

pub use load::{Arrived, LoadOptions, LoadPlan, load, load_on};

use crate::convert::{self, Decided, Quantize};
use crate::error::Result;
use crate::open::Model;
use crate::run::job::Job;
use crate::transform::method;
use crate::transform::scheme::{self, Asked};
use std::path::PathBuf;

/// What to quantise into, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to: a directory.
    pub out: PathBuf,
    /// The scheme, and what was asked for within it.
    pub quantize: Quantize,
    /// Bytes of a shard at most; sharded as the source is where it is not said.
    pub shard_bytes: Option<u64>,
    /// Replace what is there.
    pub force: bool,
    /// The most memory.
    pub memory_bytes: u64,
    /// Workers; as many as pay off where it is not said.
    pub threads: Option<usize>,
}

impl Options {
    /// Into `out`, by the scheme of this name as it is where nobody asks for more.
    ///
    /// # Errors
    /// Usage: no such scheme.
    pub fn new(out: impl Into<PathBuf>, scheme: &str) -> Result<Options> {
        Ok(Options {
            out: out.into(),
            quantize: Quantize {
                scheme: scheme::find(scheme)?,
                asked: Asked::default(),
                keep: Vec::new(),
                also: Vec::new(),
                strict: false,
                zero_odd: false,
                requantize: false,
                importance: None,
                blocks: Default::default(),
            },
            shard_bytes: None,
            force: false,
            memory_bytes: convert::MEMORY_BYTES,
            threads: None,
        })
    }

    fn conversion(&self) -> convert::Options {
        convert::Options {
            quantize: Some(self.quantize.clone()),
            shard_bytes: self.shard_bytes,
            force: self.force,
            memory_bytes: self.memory_bytes,
            threads: self.threads,
            ..convert::Options::new(&self.out)
        }
    }
}

/// What will be written.
#[derive(Debug)]
pub struct Plan {
    /// The files, and all that is written.
    pub conversion: convert::Plan,
    /// The scheme, and what of the model becomes what.
    pub decided: Decided,
    options: convert::Options,
}

impl Plan {
    /// Decides everything that can be decided without writing.
    ///
    /// # Errors
    /// As [`convert::Plan::new`]. `Usage`: what the scheme does not have, sizes that fit nothing. `Unsupported`: a model that
    /// is quantised already.
    pub fn new(model: &Model, options: &Options) -> Result<Plan> {
        let options = options.conversion();
        let mut conversion = convert::Plan::new(model, &options)?;
        let decided = conversion.quantized.take();
        let decided = decided.ok_or_else(|| crate::Error::bug("a plan without a scheme"))?;
        Ok(Plan { conversion, decided, options })
    }

    /// Matrices that are quantised.
    pub fn matrices(&self) -> usize {
        self.decided.quantised.len()
    }

    /// Tensors of the model, each matrix counted once.
    pub fn tensors(&self) -> usize {
        let recipe = &self.conversion.recipe;
        let faces: usize = recipe.packed.iter().map(|p| p.outputs.iter().flatten().count()).sum();
        recipe.outputs.len() - faces + recipe.packed.len()
    }
}

/// What was written.
#[derive(Debug, Clone)]
pub struct Summary {
    /// The files.
    pub written: convert::Summary,
    /// The scheme, and what of the model became what.
    pub decided: Decided,
    /// How far all quantised matrices together are from what they were.
    pub error: method::Error,
    /// The same for each, in the model's order; without those of files that an earlier run had finished.
    pub errors: Vec<(String, method::Error)>,
}

impl Summary {
    /// Bits of a quantised number, with everything that belongs to it.
    pub fn bits_per_weight(&self) -> f64 {
        self.decided.bits_per_weight()
    }

    /// The matrices that are farthest from what they were, the worst first.
    pub fn worst(&self, count: usize) -> Vec<(&str, f64)> {
        let mut all: Vec<(&str, f64)> =
            self.errors.iter().map(|(name, error)| (name.as_str(), error.relative())).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
        all.truncate(count);
        all
    }
}

/// Plans and quantises.
pub fn quantize(model: Model, options: Options) -> Job<Summary> {
    Job::start("quantize", false, move |control| {
        let plan = Plan::new(&model, &options)?;
        carry(&model, plan, control)
    })
}

/// Carries a plan out.
pub fn carry_out(model: Model, plan: Plan) -> Job<Summary> {
    Job::start("quantize", false, move |control| carry(&model, plan, control))
}

fn carry(model: &Model, plan: Plan, control: &crate::run::job::Control) -> Result<Summary> {
    let Plan { conversion, decided, options } = plan;
    let mut written = convert::carry(model, &options, conversion, control)?;
    let errors = std::mem::take(&mut written.errors);
    let error = errors.iter().fold(method::Error::default(), |sum, (_, one)| sum.and(*one));
    Ok(Summary { written, decided, error, errors })
}
