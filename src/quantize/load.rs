//! Quantising on the way into memory: the tensors are those of the files that quantising would write, byte for byte, and no
//! file is written. The kernels run on the CPU; the result stays there or goes to a GPU by DMA.

use super::Options as ToFiles;
use crate::convert::{self, Decided, Drafted, Quantize};
use crate::error::{Error, Result};
use crate::load::{self, DTypeChoice, Loaded, Making, Prepared, WORK_BYTES_MIN};
use crate::open::Model;
use crate::run::Io;
use crate::run::job::{Control, Job};
use crate::transform::method;
use crate::transform::recipe::Recipe;
use std::path::PathBuf;

/// What to quantise into, where to, and how.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The scheme, and what was asked for within it.
    pub quantize: Quantize,
    /// Where to and how. Types, names and slices are the scheme's affair: what chooses among those is refused.
    pub load: load::Options,
    /// Host memory for work in flight, besides the tensors; 512 MiB where it is not said, more for more than 16 workers.
    pub work_bytes: Option<u64>,
}

impl LoadOptions {
    /// By the scheme of this name as it is where nobody asks for more, to the first GPU, else to host memory.
    ///
    /// # Errors
    /// Usage: no such scheme.
    pub fn new(scheme: &str) -> Result<LoadOptions> {
        let quantize = ToFiles::new(PathBuf::new(), scheme)?.quantize;
        Ok(LoadOptions { quantize, load: load::Options::default(), work_bytes: None })
    }

    fn check(&self) -> Result<()> {
        let load = &self.load;
        let keep = "--keep and --also say what is quantised";
        let wrong = [
            ("--dtype", load.dtype != DTypeChoice::Keep, "the scheme says which types there are"),
            ("--include", !load.include.is_empty(), keep),
            ("--exclude", !load.exclude.is_empty(), keep),
            ("--rank", load.rank.is_some(), "hoist quantize writes files, of which a rank loads its part"),
            (
                "--slice",
                !load.slices.is_empty(),
                "hoist quantize writes files, of which a rank loads its part",
            ),
            ("--io direct", load.io == Io::Direct, "what is quantised is read through the page cache"),
            ("--saturate", load.saturate, "no number becomes too large"),
        ];
        if let Some((flag, _, hint)) = wrong.into_iter().find(|(_, is, _)| *is) {
            return Err(Error::usage(format!("{flag} does not go with --quantize")).hint(hint));
        }
        if self.work_bytes.is_some_and(|bytes| bytes < WORK_BYTES_MIN) {
            let least = crate::text::bytes(WORK_BYTES_MIN);
            return Err(Error::usage(format!("quantising needs at least {least} of memory to work in")));
        }
        Ok(())
    }
}

/// What will be loaded.
#[derive(Debug)]
pub struct LoadPlan {
    /// The tensors, and what they are made of.
    pub recipe: Recipe,
    /// The scheme, and what of the model becomes what.
    pub decided: Decided,
    /// What a person should know.
    pub notes: Vec<String>,
    options: LoadOptions,
}

impl LoadPlan {
    /// Decides everything that can be decided without a device.
    ///
    /// # Errors
    /// As [`super::Plan::new`], but for those of files.
    pub fn new(model: &Model, options: LoadOptions) -> Result<LoadPlan> {
        options.check()?;
        let mut to_files = ToFiles::new(PathBuf::new(), options.quantize.scheme.name())?;
        to_files.quantize = options.quantize.clone();
        // Memory is the load's affair.
        to_files.memory_bytes = u64::MAX;
        let drafted = convert::drafted(model, &to_files.conversion()).map_err(super::hinted)?;
        let Drafted { recipe, decided, notes } = drafted;
        let decided = decided.ok_or_else(|| Error::bug("a plan without a scheme"))?;
        Ok(LoadPlan { recipe, decided, notes, options })
    }
}

/// What was loaded.
#[derive(Debug)]
pub struct Arrived {
    /// The tensors, under the names that files would have, and what is to be said about the load.
    pub loaded: Loaded,
    /// The scheme, and what of the model became what.
    pub decided: Decided,
    /// How far all quantised matrices together are from what they were.
    pub error: method::Error,
    /// The same for each, in the model's order. Nothing of a load that was only planned.
    pub errors: Vec<(String, method::Error)>,
}

/// Plans, quantises and loads. The tensors own their memory, and dropping them frees it.
///
/// ```no_run
/// let model = hoist::open::open("testdata/rustdoc-llama-6m", &Default::default())?;
/// let arrived = hoist::quantize::load(model, hoist::quantize::LoadOptions::new("int4")?).wait()?;
/// for tensor in &arrived.loaded.tensors {
///     println!("{} {} {:?}", tensor.name(), tensor.dtype(), tensor.shape());
/// }
/// # hoist::Result::Ok(())
/// ```
///
/// # Errors
/// From the job: those of [`LoadPlan::new`] and of [`load::load`]; `BadInput` where numbers are NaN or infinite.
pub fn load(model: Model, options: LoadOptions) -> Job<Arrived> {
    let prepared = load::prepare(options.load.device.clone());
    Job::start("load", options.load.trace, move |control| {
        let plan = LoadPlan::new(&model, options)?;
        carry(prepared, &model, plan, control)
    })
}

/// Carries a plan out, on a device that was being prepared.
pub fn load_on(prepared: Prepared, model: Model, plan: LoadPlan) -> Job<Arrived> {
    Job::start("load", plan.options.load.trace, move |control| carry(prepared, &model, plan, control))
}

fn carry(prepared: Prepared, model: &Model, plan: LoadPlan, control: &Control) -> Result<Arrived> {
    let LoadPlan { recipe, decided, notes, options } = plan;
    let LoadOptions { load: how, work_bytes, quantize } = options;
    let zero_odd = quantize.zero_odd;
    let making = Making { model, recipe: &recipe, options: &how, work_bytes, zero_odd, control };
    let (mut loaded, made) = making.load(prepared)?;
    let named = recipe.packed.iter().map(|p| p.matrix.name.clone()).zip(made.errors);
    let blocks = recipe.outputs.iter().map(|o| o.name.clone()).zip(made.block_errors);
    let errors: Vec<_> = named.chain(blocks).filter(|(_, error)| error.count > 0).collect();
    let error = errors.iter().fold(method::Error::default(), |sum, (_, one)| sum.and(*one));
    loaded.report.notes.splice(..0, notes);
    Ok(Arrived { loaded, decided, error, errors })
}
