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
//! file adds what is asked of it and what is told of it: for each matrix what was lost ([`Measured`]), what stays and how much
//! of the output that is ([`Kept`], [`Ends`]), and how near the method came to the least error that its grid can have
//! ([`Floor`]). [`report`] writes all of it down. The same can go into memory instead ([`load`]).

mod load;
pub mod report;
mod sample;

pub use load::{Arrived, LoadOptions, LoadPlan, load, load_on};
pub use sample::Floor;

use crate::checkpoint::Container;
use crate::convert::{self, Chosen, Decided, Quantised, Quantize, Why};
use crate::dtype::{Class, DType};
use crate::error::{Error, Result};
use crate::open::{self, Model};
use crate::plan::weave::Limits;
use crate::run::job::Job;
use crate::run::parallel;
use crate::transform::arch::{self, Group};
use crate::transform::importance::Importance;
use crate::transform::method;
use crate::transform::mixture::{self, Given, Mixture, Tensor};
use crate::transform::recipe::{Form, Output, Recipe};
use crate::transform::scheme::{self, Asked, Named};
use sample::Sample;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// What to quantise into, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to: a directory, or a file that ends in `.gguf`.
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
    /// What of the output stands in a lock file, or must be as it stands there.
    pub lock: Option<convert::Locking>,
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
            lock: None,
        })
    }

    fn conversion(&self) -> convert::Options {
        let mut quantize = self.quantize.clone();
        let is_gguf = self.out.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
        // One name, two layouts: OUT says which.
        if let (true, Some(mixture)) = (is_gguf, Mixture::find(quantize.scheme.name())) {
            quantize.scheme = Named::Blocks(mixture);
        }
        let blocks = matches!(quantize.scheme, Named::Blocks(_));
        let (shard_bytes, split_bytes) =
            if blocks { (None, self.shard_bytes) } else { (self.shard_bytes, None) };
        convert::Options {
            quantize: Some(quantize),
            to: (blocks && !is_gguf).then_some(Container::Gguf),
            shard_bytes,
            split_bytes,
            force: self.force,
            memory_bytes: self.memory_bytes,
            threads: self.threads,
            lock: self.lock.clone(),
            ..convert::Options::new(&self.out)
        }
    }
}

/// Reads a file of importance into the memory that quantising is allowed, of which it takes its part.
///
/// # Errors
/// As [`open::importance`]. `NoSpace`: it leaves too little for the work.
pub fn importance(path: &Path, memory_bytes: u64) -> Result<Arc<Importance>> {
    let size_bytes = std::fs::metadata(path).map_or(0, |facts| facts.len());
    convert::check_importance(size_bytes, memory_bytes).map_err(|e| e.file(path.display().to_string()))?;
    open::importance(path).map(Arc::new)
}

/// Flags of `hoist convert` that hints speak of, and quantising does not have.
const OF_CONVERT: &[&str] = &["--dtype", "--exclude", "--meta", "--raw", "--rename", "--tokenizer-"];

/// An error of a draft, which speaks to whoever converts.
fn hinted(error: Error) -> Error {
    match error.hint_text() {
        Some(hint) if hint.contains("--split-max") => {
            error.hint_instead("larger files are fewer: --shard-size")
        }
        Some(hint) if OF_CONVERT.iter().any(|flag| hint.contains(flag)) => {
            let hint = format!("hoist convert first: {hint}");
            error.hint_instead(hint)
        }
        _ => error,
    }
}

/// What will be written.
#[derive(Debug)]
pub struct Plan {
    /// The files, and all that is written.
    pub conversion: convert::Plan,
    /// The scheme, and what of the model becomes what.
    pub decided: Decided,
    /// Matrices that stay.
    pub kept: Vec<Kept>,
    /// Embedding and head.
    pub ends: Ends,
    options: convert::Options,
    sample: Result<Sample>,
}

/// A tensor that will be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written<'a> {
    /// Its name.
    pub name: &'a str,
    /// What the source holds its numbers in: a type, or a layout of codes and scales.
    pub from: String,
    /// Its type.
    pub to: DType,
    /// Its bytes.
    pub size_bytes: u64,
}

/// A matrix that stays as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// Its name.
    pub name: String,
    /// Its sizes, outermost first.
    pub shape: Vec<u64>,
    /// What it is written as.
    pub dtype: DType,
    /// Its bytes.
    pub size_bytes: u64,
    /// Why it stays.
    pub why: Why,
}

/// Embedding and head: what stays of a model, or is quantised with more bits than the rest, because it is its two ends. In a
/// model with a large vocabulary that is much of it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Ends {
    /// Matrices.
    pub matrices: usize,
    /// Those of them that are the head's.
    pub heads: usize,
    /// Their numbers.
    pub numbers: u64,
    /// Their bytes in the output.
    pub size_bytes: u64,
    /// Their bytes with as many bits as the rest has.
    pub narrow_bytes: u64,
    /// The type of blocks that they would have then, where the rest is blocks.
    pub narrow_dtype: Option<DType>,
    /// Whether they are quantised.
    pub quantised: bool,
}

impl Ends {
    fn of(recipe: &Recipe, decided: &Decided) -> Ends {
        let bits = decided.bits_per_weight();
        let by_rule = decided.kept.iter().filter(|(_, why)| matches!(why, Why::Kind(_)));
        let by_rule: HashSet<&str> = by_rule.map(|(name, _)| name.as_str()).collect();
        let mut ends = Ends::default();
        for output in &recipe.outputs {
            let group = arch::group(&output.name);
            let is_end = matches!(group, Group::Embedding | Group::Head);
            let is_block = output.dtype.facts().class == Class::Block;
            let is_face = matches!(output.form, Form::Face { .. });
            if !is_end || is_face || output.shape.len() != 2 || !(is_block || output.dtype.is_float()) {
                continue;
            }
            let numbers = crate::dtype::element_count(&output.shape).unwrap_or(0);
            let size_bytes = output.size_bytes().unwrap_or(0);
            let narrow_bytes = match &decided.chosen {
                Chosen::Matrices(_) => (numbers as f64 * bits / 8.0) as u64,
                // Positions: never quantised, whatever a person says.
                Chosen::Blocks(_) if by_rule.contains(output.name.as_str()) => continue,
                Chosen::Blocks(mixture) => {
                    let tensor = Tensor { name: &output.name, shape: &output.shape };
                    let dtype = match mixture::fall_back(mixture.dense_dtype(), tensor) {
                        Given::Type(dtype) | Given::Fallback { dtype, .. } => dtype,
                        Given::Kept => output.dtype,
                    };
                    ends.narrow_dtype = Some(dtype);
                    Output { dtype, ..output.clone() }.size_bytes().unwrap_or(size_bytes)
                }
            };
            ends.matrices += 1;
            ends.heads += usize::from(group == Group::Head);
            ends.numbers = ends.numbers.saturating_add(numbers);
            ends.size_bytes = ends.size_bytes.saturating_add(size_bytes);
            ends.narrow_bytes = ends.narrow_bytes.saturating_add(narrow_bytes.min(size_bytes));
            ends.quantised |= is_block;
        }
        ends
    }

    /// What they are of an output of so many bytes.
    pub fn share(&self, file_bytes: u64) -> f64 {
        self.size_bytes as f64 / (file_bytes as f64).max(1.0)
    }

    /// The bytes of such an output if they had as many bits as the rest.
    pub fn output_bytes(&self, file_bytes: u64) -> u64 {
        file_bytes.saturating_sub(self.size_bytes.saturating_sub(self.narrow_bytes))
    }

    /// Whether a person should be told: they are a quarter of the output, and a twentieth of it could go.
    pub fn are_large(&self, file_bytes: u64) -> bool {
        let saved = self.size_bytes.saturating_sub(self.narrow_bytes);
        self.share(file_bytes) >= 0.25 && saved as f64 >= 0.05 * file_bytes as f64
    }
}

impl Plan {
    /// Decides everything that can be decided without writing.
    ///
    /// # Errors
    /// As [`convert::Plan::new`]. `Usage`: what the scheme does not have, sizes that fit nothing. `Unsupported`: a model that
    /// is quantised already.
    pub fn new(model: &Model, options: &Options) -> Result<Plan> {
        let options = options.conversion();
        let mut conversion = convert::Plan::new(model, &options).map_err(hinted)?;
        let decided = conversion.quantized.take();
        let decided = decided.ok_or_else(|| Error::bug("a plan without a scheme"))?;
        let recipe = &conversion.recipe;
        let sample = Sample::of(model, recipe, &Limits::within(options.memory_bytes));
        let outputs: HashMap<&str, &Output> = recipe.outputs.iter().map(|o| (o.name.as_str(), o)).collect();
        let kept = decided.kept.iter().map(|(name, why)| {
            let output = outputs.get(name.as_str());
            Kept {
                name: name.clone(),
                shape: output.map(|o| o.shape.clone()).unwrap_or_default(),
                dtype: output.map_or(DType::F32, |o| o.dtype),
                size_bytes: output.and_then(|o| o.size_bytes().ok()).unwrap_or(0),
                why: why.clone(),
            }
        });
        let kept = kept.collect();
        let ends = Ends::of(recipe, &decided);
        Ok(Plan { conversion, decided, kept, ends, options, sample })
    }

    /// Matrices that are quantised.
    pub fn matrices(&self) -> usize {
        self.decided.quantised.len()
    }

    /// Every tensor that will be written, in its order.
    pub fn outputs(&self) -> impl Iterator<Item = Written<'_>> {
        let recipe = &self.conversion.recipe;
        recipe.outputs.iter().map(|output| {
            let matrix = match output.form {
                Form::Face { packed, .. } => recipe.packed.get(packed).map_or(output, |p| &p.matrix),
                _ => output,
            };
            let from = matrix.parts.first().and_then(|part| recipe.values.get(part.value));
            Written {
                name: &output.name,
                from: from.map(|value| value.stored_as()).unwrap_or_default(),
                to: output.dtype,
                size_bytes: output.size_bytes().unwrap_or(0),
            }
        })
    }

    /// Tensors of the model, each matrix counted once.
    pub fn tensors(&self) -> usize {
        let recipe = &self.conversion.recipe;
        let faces: usize = recipe.packed.iter().map(|p| p.outputs.iter().flatten().count()).sum();
        recipe.outputs.len() - faces + recipe.packed.len()
    }
}

/// A matrix that was quantised, and what was lost of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// What it was and what it became.
    pub quantised: Quantised,
    /// How its scales and codes were chosen.
    pub method: &'static str,
    /// How far it is from what it was; not known of what an earlier run had finished.
    pub error: Option<method::Error>,
}

impl Measured {
    /// Its numbers.
    pub fn numbers(&self) -> u64 {
        self.quantised.shape.iter().fold(1u64, |n, &size| n.saturating_mul(size))
    }

    /// Bits of a number, with everything that belongs to it.
    pub fn bits_per_weight(&self) -> f64 {
        self.quantised.after_bytes as f64 * 8.0 / (self.numbers() as f64).max(1.0)
    }

    /// Length of the error over length of the numbers.
    pub fn relative(&self) -> Option<f64> {
        self.error.map(|error| error.relative())
    }
}

/// Signal over noise in decibels, of a relative error; infinite where nothing is lost.
pub fn snr_db(relative: f64) -> f64 {
    -20.0 * relative.log10()
}

/// What was written.
#[derive(Debug, Clone)]
pub struct Summary {
    /// The files.
    pub written: convert::Summary,
    /// The scheme, and what of the model became what.
    pub decided: Decided,
    /// How far all quantised matrices together are from what they were; without those of files that an earlier run had
    /// finished.
    pub error: method::Error,
    /// The same for each, in the model's order, by name; without those too.
    pub errors: Vec<(String, method::Error)>,
    /// Every quantised matrix, in the model's order.
    pub matrices: Vec<Measured>,
    /// Matrices that stayed.
    pub kept: Vec<Kept>,
    /// Embedding and head.
    pub ends: Ends,
    /// How near the method came to the least error of its grid, where that is known.
    pub floor: Option<Floor>,
    /// Tensors of the model, each matrix counted once.
    pub tensors: usize,
}

impl Summary {
    /// Bits of a quantised number, with everything that belongs to it.
    pub fn bits_per_weight(&self) -> f64 {
        self.decided.bits_per_weight()
    }

    /// The matrices that are farthest from what they were, the worst first.
    pub fn worst(&self, count: usize) -> Vec<(&str, f64)> {
        let errors = self.matrices.iter().filter_map(|m| Some((m.quantised.name.as_str(), m.relative()?)));
        let mut all: Vec<(&str, f64)> = errors.collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
        all.truncate(count);
        all
    }

    /// Matrices whose error is known.
    pub fn measured(&self) -> usize {
        self.matrices.iter().filter(|m| m.error.is_some()).count()
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
    let tensors = plan.tensors();
    let Plan { conversion, decided, kept, ends, options, sample } = plan;
    let (conversion, mut written, mut floor) =
        (Mutex::new(Some(conversion)), OnceLock::new(), OnceLock::new());
    // Workers wait for disks: beside them a sample costs hardly any time.
    let beside = options.threads != Some(1) && sample.as_ref().is_ok_and(Sample::is_small);
    let lanes = if beside { 2 } else { 1 };
    parallel("quantize", lanes, control, |lane| {
        if lane > 0 {
            if let Ok(sample) = &sample {
                let _ = floor.set(sample.measure(model, control));
            }
        } else if let Some(conversion) = conversion.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = written.set(convert::carry(model, &options, conversion, control)?);
        }
        Ok(())
    })?;
    let mut written = written.take().ok_or_else(|| Error::bug("a run that ended without its summary"))?;
    // The model is there: what cannot be looked at is no reason to lose it.
    let floor = sample.and_then(|sample| floor.take().unwrap_or_else(|| sample.measure(model, control)));
    let floor = floor.unwrap_or_else(|e| {
        written.notes.push(format!("the error was not set against the floor of the grid: {e}"));
        None
    });
    let errors = std::mem::take(&mut written.errors);
    let error = errors.iter().fold(method::Error::default(), |sum, (_, one)| sum.and(*one));
    let by_name: HashMap<&str, method::Error> = errors.iter().map(|(n, e)| (n.as_str(), *e)).collect();
    let measured = |quantised: &Quantised| Measured {
        error: by_name.get(quantised.name.as_str()).copied(),
        quantised: quantised.clone(),
        method: decided.method(),
    };
    let matrices = decided.quantised.iter().map(measured).collect();
    Ok(Summary { written, decided, error, errors, matrices, kept, ends, floor, tensors })
}
