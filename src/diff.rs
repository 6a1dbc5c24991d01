//! Comparing two models: names, types, shapes and values, whatever they are written in.
//!
//! ```no_run
//! let open = |name| hoist::open::open(name, &Default::default());
//! let report = hoist::diff::diff(open("a.gguf")?, open("b")?, Default::default()).wait()?;
//! assert!(report.is_equal());
//! # hoist::Result::Ok(())
//! ```
//!
//! Both are brought under one naming first (`diff/sides.rs`), as recipes of which nothing is written. Tensors that belong
//! together are then made piece by piece on both sides (`diff/stream.rs`) by what would make them in a conversion, and
//! compared as they come; so a GGUF of 100 GB needs no more memory than the pieces under way.
//!
//! Of one type bytes are compared, of two types numbers, and nothing is computed as long as they are equal. Where they are
//! not, figures are taken (`diff/numbers.rs`), and the tensor's stretches that were equal are read once more, because the
//! cosine is a figure of all of a tensor: that is rare, and the usual answer, that all is equal, costs one reading.

mod keys;
mod numbers;
mod pairs;
mod sides;
mod stream;
mod work;

pub use keys::KeysDiff;

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::machine;
use crate::open::Model;
use crate::plan::weave::Limits;
use crate::run::BLOCKING_READERS;
use crate::run::job::{Control, Job};
use crate::transform::recipe::LeftOut;
use pairs::{Pair, pairs};
use sides::Sides;
use std::sync::Mutex;
use std::time::Instant;
use work::Work;

/// Memory that a comparison takes where nobody says otherwise.
pub const MEMORY_BYTES: u64 = 512 << 20;
/// The least that it can work with.
const MEMORY_BYTES_MIN: u64 = 64 << 20;
/// Bytes of a piece, on either side.
const CHUNK_BYTES: u64 = 1 << 20;
/// Of the memory, what a worker needs on both sides where nothing is large.
const WORKER_BYTES: u64 = 32 << 20;

/// How to compare.
#[derive(Debug, Clone)]
pub struct Options {
    /// Patterns of names to compare; all where there is none. Between a GGUF and Hugging Face's names they are GGUF's.
    pub include: Vec<String>,
    /// Patterns of names to leave out.
    pub exclude: Vec<String>,
    /// Whether a tensor whose numbers are all the same may be of another type. Between a GGUF and Hugging Face's names it
    /// always may: a GGUF has its own rules.
    pub ignore_dtype: bool,
    /// Whether what stands beside the tensors is compared too.
    pub metadata: bool,
    /// The most memory.
    pub memory_bytes: u64,
    /// Workers; as many as pay off where it is not said.
    pub threads: Option<usize>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            include: Vec::new(),
            exclude: Vec::new(),
            ignore_dtype: false,
            metadata: false,
            memory_bytes: MEMORY_BYTES,
            threads: None,
        }
    }
}

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The first.
    A,
    /// The second.
    B,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Tensors that were compared.
    pub compared: usize,
    /// Elements of them.
    pub elements: u64,
    /// Tensors that differ in shape, type or values: those that cannot be compared first, then the worst.
    pub differing: Vec<TensorDiff>,
    /// Names that only A has.
    pub only_a: Vec<String>,
    /// Names that only B has.
    pub only_b: Vec<String>,
    /// Tensors of a model that are no part of what is compared, and why: those that a conversion leaves out.
    pub left_out: Vec<(Which, LeftOut)>,
    /// What stands beside the tensors, where that was asked for.
    pub keys: Option<KeysDiff>,
    /// Which of the two was translated into GGUF's naming, and by which family's rows.
    pub translated: Option<(Which, &'static str)>,
    /// Bytes that were compared, both sides together.
    pub bytes: u64,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// CPU seconds of this process.
    pub cpu_seconds: Option<f64>,
    /// Workers.
    pub threads: usize,
    /// What a person should know.
    pub notes: Vec<String>,
}

impl Report {
    /// Whether nothing differs.
    pub fn is_equal(&self) -> bool {
        self.differing.is_empty()
            && self.only_a.is_empty()
            && self.only_b.is_empty()
            && self.keys.as_ref().is_none_or(KeysDiff::is_equal)
    }

    /// Tensors that do not differ.
    pub fn equal(&self) -> usize {
        self.compared - self.differing.len()
    }
}

/// A tensor that differs.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorDiff {
    /// Its name in A, under the common naming.
    pub name: String,
    /// Its name in B where that is another: the two are known to be one tensor.
    pub name_b: Option<String>,
    /// What they are stored as.
    pub dtypes: (DType, DType),
    /// Sizes, outermost first.
    pub shapes: (Vec<u64>, Vec<u64>),
    /// What differs.
    pub what: Difference,
}

/// What differs of a tensor. One is named: the first of these.
#[derive(Debug, Clone, PartialEq)]
pub enum Difference {
    /// The shapes, so that values cannot be compared.
    Shape,
    /// The types, which hoist cannot bring together.
    Incomparable(String),
    /// Values.
    Values(Values),
    /// Only the types: all values are the same numbers.
    DType,
}

/// How values differ. Elements that are not finite on both sides are in no figure but their counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Values {
    /// Elements.
    pub elements: u64,
    /// Elements that are not bit for bit the same (of different types: not the same number).
    pub differing: u64,
    /// Those of them of which one or both are NaN or infinite.
    pub not_finite: u64,
    /// What the numbers have in common; `None` for types that hoist reads no numbers of.
    pub figures: Option<Figures>,
}

/// Figures of a tensor's differences.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// The largest difference of two elements.
    pub max_abs: f64,
    /// That, of A's largest magnitude; infinite where A is all zeros.
    pub max_rel: f64,
    /// The root of the mean square of all differences.
    pub rms: f64,
    /// The cosine of the two as vectors; `None` where one of them has no length, or none that an f64 holds.
    pub cosine: Option<f64>,
    /// Where the largest difference is.
    pub at: Vec<u64>,
}

/// Compares two models.
///
/// # Errors
/// `NotFound`: a pattern that matches nothing, no config.json for a translation. `Unsupported`: an unknown family, a
/// matrix too large for the memory allowed. `Usage`: options that make no sense. What reading the files meets.
pub fn diff(a: Model, b: Model, options: Options) -> Job<Report> {
    Job::start("diff", false, move |control| compare(&a, &b, &options, control))
}

fn compare(a: &Model, b: &Model, options: &Options, control: &Control) -> Result<Report> {
    let started = Instant::now();
    if options.memory_bytes < MEMORY_BYTES_MIN {
        let least = crate::text::bytes(MEMORY_BYTES_MIN);
        return Err(Error::usage(format!("a comparison needs at least {least} of memory")));
    }
    let sides = Sides::new(a, b)?;
    if options.metadata && sides.translated.is_some() {
        return Err(Error::usage("keys of a GGUF and a config.json cannot be compared one by one")
            .hint("without --metadata tensors are compared; or convert first and compare two GGUFs"));
    }
    let threads_max = usize::try_from(options.memory_bytes / WORKER_BYTES).unwrap_or(usize::MAX).min(256);
    let limits = Limits { copy_bytes: CHUNK_BYTES, ..Limits::within(options.memory_bytes) };
    let readers =
        if a.crosses_network() || b.crosses_network() { BLOCKING_READERS } else { machine::core_count() };
    let mut report = Report {
        keys: options.metadata.then(|| keys::compare(&a.table, &b.table)),
        translated: sides.translated,
        notes: sides.notes.clone(),
        threads: options.threads.unwrap_or(readers).clamp(1, threads_max),
        ..Report::default()
    };
    for (which, side) in [(Which::A, &sides.a), (Which::B, &sides.b)] {
        report.left_out.extend(side.recipe.left_out.iter().map(|l| (which, l.clone())));
    }
    let pairs = pairs(a, b, &sides, options, &limits, &mut report)?;
    report.compared = pairs.len();
    report.elements = pairs.iter().fold(0, |sum, p| sum.saturating_add(p.elements));

    for pair in pairs.iter().filter(|pair| pair.known.is_none()) {
        report.bytes = report.bytes.saturating_add(pair.a.size_bytes()?).saturating_add(pair.b.size_bytes()?);
    }
    control.plan(format!("{} tensors", report.compared), report.bytes);
    let (sides, pairs_of, big) = (&sides, pairs.as_slice(), Mutex::new(()));
    let threads = report.threads;
    let sums = Work { a, b, sides, pairs: pairs_of, limits: &limits, threads, control, big }.sums()?;

    let lenient = options.ignore_dtype || sides.translated.is_some();
    for (pair, sums) in pairs.into_iter().zip(sums) {
        let what = match pair.known.clone() {
            Some(known) => known,
            None if sums.differing > 0 => Difference::Values(pair.values(&sums)),
            None if pair.dtypes.0 != pair.dtypes.1 && !lenient => Difference::DType,
            None => continue,
        };
        let Pair { a, b, dtypes, shapes, .. } = pair;
        let name_b = (a.name != b.name).then_some(b.name);
        report.differing.push(TensorDiff { name: a.name, name_b, dtypes, shapes, what });
    }
    report.differing.sort_by(|x, y| y.what.rank().total_cmp(&x.what.rank()));
    report.seconds = started.elapsed().as_secs_f64();
    report.cpu_seconds = machine::cpu_time().map(|t| t.as_secs_f64());
    Ok(report)
}

impl Difference {
    /// How bad it is.
    fn rank(&self) -> f64 {
        match self {
            Difference::Shape => f64::INFINITY,
            Difference::Incomparable(_) => f64::MAX,
            Difference::Values(values) => match &values.figures {
                Some(figures) if values.not_finite == 0 => figures.max_rel.min(1e300),
                _ => 1e301,
            },
            Difference::DType => -1.0,
        }
    }
}
