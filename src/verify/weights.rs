//! The one door through which weights come into a forward pass: made of a subject's recipe by [`crate::load::make`], held
//! whole where memory allows, else brought layer by layer.
//!
//! On the CPU nothing is copied: a load fills one arena for each type, the tensor library is given the arena's vector, and
//! each weight is a window on it. On a GPU what was loaded is copied there stage by stage, and the host's memory freed.
//! Whatever comes in whole is looked at on its way ([`super::audit`]).

mod hold;
mod linear;
mod plan;

use crate::dtype::DType;
use crate::error::{Error, ErrorKind, Result};
use crate::load::{self, MakeOptions, Wanted, Watch};
use crate::open::Model;
use crate::run::job::{Job, StopSign};
use crate::transform::recipe::Recipe;
use crate::verify::audit::{self, Collector, Finding};
use crate::verify::candle;
use crate::verify::subject::Subject;
use candle_core::quantized::QTensor;
use candle_core::{Device, Tensor};
use hold::Held;
use plan::Plan;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How weights are held.
#[derive(Debug, Clone)]
pub struct Hold {
    /// The element type that is computed in: f32, bf16, f16.
    pub dtype: DType,
    /// Where.
    pub device: Device,
    /// The most memory for weights.
    pub memory_bytes: u64,
    /// Whether quantised blocks stay as they are where candle has kernels for them.
    pub native: bool,
    /// Workers that load.
    pub threads: Option<usize>,
    /// When set, whatever is being loaded ends with an error.
    pub stop: StopSign,
}

/// Part of a model that is brought at once. In the order in which a forward pass needs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// What stands before the layers, without the token embedding.
    Front,
    /// A layer, without its stacked experts (`ffn_*_exps`).
    Layer(usize),
    /// What stands behind the layers, without the matrix to the vocabulary.
    Back,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stage::Front => f.write_str("what stands before the layers"),
            Stage::Layer(n) => write!(f, "layer {n}"),
            Stage::Back => f.write_str("what stands behind the layers"),
        }
    }
}

/// A weight.
#[derive(Debug, Clone)]
pub enum Weight {
    /// Numbers.
    Plain(Tensor),
    /// Blocks that candle computes with.
    Blocks {
        /// They, `[out, in]`.
        matrix: Arc<QTensor>,
        /// Whether it is one matrix of a stack, so that its shape is `[1, out, in]`.
        of_stack: bool,
        /// What its numbers are widened to.
        dtype: candle_core::DType,
    },
}

impl Weight {
    /// `x · weightᵀ` for a weight `[out, in]` (or `[1, out, in]`: one of a stack) and `x` `[.., in]`.
    ///
    /// # Errors
    /// A bug: shapes that do not fit.
    pub fn linear(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Weight::Plain(weight) => linear::plain(weight, x).map_err(candle),
            Weight::Blocks { matrix, .. } => linear::blocks(matrix, x).map_err(candle),
        }
    }

    /// Its numbers, in the type that is computed in.
    ///
    /// # Errors
    /// Those of the tensor library.
    pub fn tensor(&self) -> Result<Tensor> {
        match self {
            Weight::Plain(tensor) => Ok(tensor.clone()),
            Weight::Blocks { matrix, of_stack, dtype } => {
                let numbers = matrix.dequantize(&matrix.device()).and_then(|t| t.to_dtype(*dtype));
                let numbers = numbers.and_then(|t| if *of_stack { t.unsqueeze(0) } else { Ok(t) });
                numbers.map_err(candle)
            }
        }
    }
}

/// The tensors of one stage. Which of them were asked for is noted: one that nobody needs is a finding. Their memory is
/// freed with the last clone, unless all weights are held at once.
#[derive(Clone)]
pub struct Tensors {
    stage: Stage,
    inner: Arc<Inner>,
    held: Arc<Live>,
}

impl fmt::Debug for Tensors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensors of {}", self.stage)
    }
}

impl Tensors {
    /// A tensor by its whole name. A bug where it is not there: the recipe was checked.
    ///
    /// # Errors
    /// A bug: there is none, or it does not belong to this stage.
    pub fn get(&self, name: &str) -> Result<Weight> {
        self.find(name).ok_or_else(|| Error::bug("is needed where it is not brought").tensor(name))
    }

    /// A tensor that not every model has.
    pub fn find(&self, name: &str) -> Option<Weight> {
        let at = *self.inner.plan.by_name.get(name)?;
        // Also where all are held: what a stage does not bring is not to be had from it.
        self.inner.plan.entries.get(at).filter(|e| e.stage == Some(self.stage))?;
        let held = self.held.weights.get(&at)?;
        self.inner.ask(at);
        held.whole()
    }
}

/// Weights in memory, and how much of it they take.
#[derive(Debug, Default)]
struct Live {
    weights: HashMap<usize, Held>,
    bytes: u64,
    total: Option<Arc<AtomicU64>>,
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(total) = &self.total {
            total.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

/// What a load gives.
type Loaded = (HashMap<usize, Held>, Vec<(usize, Vec<Finding>)>);

/// A subject's weights.
#[derive(Clone)]
pub struct Weights {
    inner: Arc<Inner>,
}

struct Inner {
    source: Option<Source>,
    plan: Plan,
    /// All of them, where they are held at once.
    resident: Option<Arc<Live>>,
    asked: Vec<AtomicBool>,
    staged: Mutex<BTreeSet<Stage>>,
    /// What was found in tensors that passed whole.
    audited: Mutex<BTreeMap<usize, Vec<Finding>>>,
    /// Bytes of stages that somebody holds.
    live_bytes: Arc<AtomicU64>,
    /// The next stage, on its way.
    ahead: Mutex<Option<(Stage, Job<Loaded>)>>,
}

/// Where weights come from.
#[derive(Debug, Clone)]
struct Source {
    model: Arc<Model>,
    recipe: Arc<Recipe>,
    hold: Hold,
    work_bytes: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = &self.inner.plan;
        f.debug_struct("Weights")
            .field("tensors", &plan.entries.len())
            .field("resident", &plan.resident)
            .finish_non_exhaustive()
    }
}

impl Weights {
    /// Decides whether all fit, and loads them if so.
    ///
    /// # Errors
    /// `NoSpace` where not even the largest stage fits; errors of the load.
    pub fn new(subject: &Subject, hold: Hold) -> Result<Weights> {
        Weights::of(&subject.model, &subject.recipe, hold)
    }

    /// Of a recipe's outputs.
    ///
    /// # Errors
    /// As [`Weights::new`].
    pub fn of(model: &Arc<Model>, recipe: &Arc<Recipe>, hold: Hold) -> Result<Weights> {
        let plan = Plan::new(model, recipe, &hold)?;
        let (model, recipe) = (Arc::clone(model), Arc::clone(recipe));
        let source = Source { model, recipe, hold, work_bytes: plan.work_bytes };
        let mut inner = Inner::new(plan, Some(source.clone()));
        if inner.plan.resident {
            let mut all = Live::default();
            for group in inner.plan.groups(!source.hold.device.is_cpu()) {
                let wanted = inner.plan.wanted(&group);
                let (weights, findings) = source.load(wanted, true)?.wait_unless(&source.hold.stop)?;
                all.weights.extend(weights);
                lock(&inner.audited).extend(findings);
            }
            inner.resident = Some(Arc::new(all));
        }
        Ok(Weights { inner: Arc::new(inner) })
    }

    /// Bytes that all of a recipe's outputs take, held at once.
    ///
    /// # Errors
    /// `BadInput`: a shape that overflows.
    pub fn whole_bytes(model: &Model, recipe: &Recipe, hold: &Hold) -> Result<u64> {
        Plan::whole_bytes(model, recipe, hold)
    }

    /// Of tensors at hand, under the names by which they are computed with.
    pub fn from_tensors(tensors: HashMap<String, Tensor>) -> Weights {
        let mut sorted: Vec<(String, Tensor)> = tensors.into_iter().collect();
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        let plan = Plan::at_hand(sorted.iter().map(|(name, t)| (name.as_str(), t)));
        let mut inner = Inner::new(plan, None);
        let weights = sorted.into_iter().enumerate().map(|(at, (_, tensor))| (at, Held::Plain(tensor)));
        inner.resident = Some(Arc::new(Live { weights: weights.collect(), bytes: 0, total: None }));
        Weights { inner: Arc::new(inner) }
    }

    /// Whether there is such a tensor.
    pub fn has(&self, name: &str) -> bool {
        self.inner.plan.by_name.contains_key(name)
    }

    /// Its sizes, outermost first.
    pub fn shape(&self, name: &str) -> Option<&[u64]> {
        let at = self.inner.plan.by_name.get(name)?;
        self.inner.plan.entries.get(*at).map(|e| e.shape.as_slice())
    }

    /// Whether all are held at once.
    pub fn is_resident(&self) -> bool {
        self.inner.plan.resident
    }

    /// Names of those that stay in blocks, and of which.
    pub fn native(&self) -> impl Iterator<Item = (&str, DType)> {
        let entries = self.inner.plan.entries.iter();
        entries.filter(|e| !e.dtype.is_plain()).map(|e| (e.name.as_str(), e.dtype))
    }

    /// Rows of a tensor (tokens, experts, a band of the vocabulary) that memory has room for at once: at least one. Experts
    /// are counted with the other two matrices that they are used with.
    pub fn rows_at_once(&self, name: &str) -> u64 {
        let at = self.inner.plan.by_name.get(name);
        at.and_then(|&at| self.inner.plan.entries.get(at)).map_or(1, |e| self.inner.plan.rows_at_once(e))
    }

    /// The tensors of a stage. Held whole, they are handed out; else loaded now, unless they are on their way already. Those
    /// of the stage before should be dropped by then: they are two where memory is for one.
    ///
    /// # Errors
    /// Those of the load.
    pub fn stage(&self, stage: Stage) -> Result<Tensors> {
        let inner = &self.inner;
        lock(&inner.staged).insert(stage);
        if let Some(all) = &inner.resident {
            return Ok(Tensors { stage, inner: Arc::clone(inner), held: Arc::clone(all) });
        }
        let Some(source) = &inner.source else { return Err(Error::bug("weights without a source")) };
        let ready = lock(&inner.ahead).take().filter(|(s, _)| *s == stage).map(|(_, job)| job);
        let job = match ready {
            Some(job) => job,
            None => inner.load_stage(source, stage)?,
        };
        let (weights, findings) = job.wait_unless(&source.hold.stop)?;
        lock(&inner.audited).extend(findings);
        let bytes = inner.plan.held_bytes(stage);
        inner.live_bytes.fetch_add(bytes, Ordering::Relaxed);
        let live = Live { weights, bytes, total: Some(Arc::clone(&inner.live_bytes)) };
        // Only while nobody holds another stage: else there would be three.
        if inner.plan.ahead
            && inner.live_bytes.load(Ordering::Relaxed) <= bytes
            && let Some(next) = inner.plan.next(stage)
        {
            *lock(&inner.ahead) = Some((next, inner.load_stage(source, next)?));
        }
        Ok(Tensors { stage, inner: Arc::clone(inner), held: Arc::new(live) })
    }

    /// Rows of a tensor (its first dimension), one range behind the other: tokens of an embedding, one expert
    /// (`ffn_up_exps`, with the first dimension kept), a band of the vocabulary.
    ///
    /// # Errors
    /// Those of the load. A bug: no such rows.
    pub fn rows(&self, name: &str, rows: &[Range<u64>]) -> Result<Weight> {
        let inner = &self.inner;
        let bug = || Error::bug("has no such rows").tensor(name);
        let at = *inner.plan.by_name.get(name).ok_or_else(bug)?;
        let entry = inner.plan.entries.get(at).ok_or_else(bug)?;
        let count = entry.shape.first().copied().unwrap_or(0);
        if rows.iter().any(|r| r.start >= r.end || r.end > count) {
            return Err(bug());
        }
        inner.ask(at);
        if let Some(all) = &inner.resident {
            let held = all.weights.get(&at).ok_or_else(bug)?;
            return held.rows(rows, entry).map_err(|e| e.tensor(name));
        }
        let Some(source) = &inner.source else { return Err(bug()) };
        let wanted = Wanted { output: at, rows: Some(rows.to_vec()), dtype: entry.dtype };
        let (mut weights, _) = source.load(vec![wanted], false)?.wait_unless(&source.hold.stop)?;
        let held = weights.remove(&at).ok_or_else(bug)?;
        let total = rows.iter().map(|r| r.end - r.start).sum();
        let part = plan::Entry { shape: part_shape(entry, total), ..entry.clone() };
        held.rows(std::slice::from_ref(&(0..total)), &part).map_err(|e| e.tensor(name))
    }

    /// Names of tensors that were brought, or belong to what was brought, and that nobody asked for: a model with more in it
    /// than is computed with is not the model that was meant.
    pub fn unused(&self) -> Vec<&str> {
        let staged = lock(&self.inner.staged);
        let passed = |entry: &plan::Entry| staged.contains(&entry.needed_by());
        let entries = self.inner.plan.entries.iter().zip(&self.inner.asked);
        entries
            .filter(|(entry, asked)| !asked.load(Ordering::Relaxed) && passed(entry))
            .map(|(entry, _)| entry.name.as_str())
            .collect()
    }

    /// Looks at every number of every tensor. What was loaded whole was looked at then; the rest (experts that no token went
    /// to, stages that were not brought) is read now, and not kept. In order of the tensors.
    ///
    /// # Errors
    /// Those of reading.
    pub fn audit(&self) -> Result<Vec<Finding>> {
        let inner = &self.inner;
        if let Some(source) = &inner.source {
            let known = lock(&inner.audited);
            let rest: Vec<usize> =
                (0..inner.plan.entries.len()).filter(|at| !known.contains_key(at)).collect();
            drop(known);
            if !rest.is_empty() {
                let Source { model, recipe, hold, .. } = source;
                let found = audit::outputs(model, recipe, &rest, source.options(None), &hold.stop)?;
                lock(&inner.audited).extend(found);
            }
        }
        Ok(lock(&inner.audited).values().flatten().cloned().collect())
    }
}

/// The shape of so many rows.
fn part_shape(entry: &plan::Entry, rows: u64) -> Vec<u64> {
    let inner = entry.shape.iter().skip(1).copied();
    std::iter::once(rows).chain(inner).collect()
}

impl Inner {
    fn new(plan: Plan, source: Option<Source>) -> Inner {
        Inner {
            source,
            asked: plan.entries.iter().map(|_| AtomicBool::new(false)).collect(),
            plan,
            resident: None,
            staged: Mutex::default(),
            audited: Mutex::default(),
            live_bytes: Arc::default(),
            ahead: Mutex::new(None),
        }
    }

    fn ask(&self, at: usize) {
        if let Some(asked) = self.asked.get(at) {
            asked.store(true, Ordering::Relaxed);
        }
    }

    /// Starts to load a stage; what passes for the first time is looked at.
    fn load_stage(&self, source: &Source, stage: Stage) -> Result<Job<Loaded>> {
        let group = self.plan.stages.get(&stage).map_or(&[][..], Vec::as_slice);
        let known = lock(&self.audited);
        let first = group.iter().any(|at| !known.contains_key(at));
        drop(known);
        source.load(self.plan.wanted(group), first)
    }
}

impl Source {
    fn options(&self, watch: Option<Arc<dyn Watch>>) -> MakeOptions {
        MakeOptions {
            threads: self.hold.threads,
            work_bytes: Some(self.work_bytes),
            watch,
            ..MakeOptions::default()
        }
    }

    /// Starts to load.
    fn load(&self, wanted: Vec<Wanted>, audit: bool) -> Result<Job<Loaded>> {
        if self.hold.stop.is_set() {
            return Err(Error::new(ErrorKind::Signal(2), "cancelled"));
        }
        let source = self.clone();
        Ok(Job::start("weights", false, move |control| {
            let Source { model, recipe, hold, .. } = &source;
            let collector = audit.then(|| Arc::new(Collector::new(recipe, wanted.iter().map(|w| w.output))));
            let watch = collector.clone().map(|c| c as Arc<dyn Watch>);
            let outputs: Vec<(usize, DType)> = wanted.iter().map(|w| (w.output, w.dtype)).collect();
            let job = load::make(model, recipe, wanted, source.options(watch));
            let arenas = job.wait_unless(&control.stop_sign())?;
            let weights = hold::weights(arenas, &outputs, hold.dtype, &hold.device)?;
            Ok((weights, collector.map_or(Ok(Vec::new()), |c| c.findings())?))
        }))
    }
}
