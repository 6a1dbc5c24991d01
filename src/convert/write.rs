//! Carrying a plan out: weights by the workers, companions after them, and then the output gets its name.

use super::companions::Companion;
use super::{Options, Plan, Summary, WORKER_BYTES, default_threads, inputs};
use crate::error::{Error, Result};
use crate::machine;
use crate::open::Model;
use crate::plan::weave::Limits;
use crate::run::globals;
use crate::run::job::Control;
use crate::run::make::{Losses, Odd};
use crate::run::weave::{self, Files, Target, Weave};
use crate::sink::file::FileSink;
use crate::sink::output::hash::{FileHash, Hash, combine};
use crate::sink::output::{Begin, DirectoryOut, Identity, Out, Stamp, begin};
use crate::source::ReadAt;
use crate::transform::recipe::{Form, Recipe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// What a companion is read in.
const PIECE_BYTES: u64 = 1 << 20;

/// What a run makes, and of what: the weights, and the files that are copied.
pub(super) fn identity(model: &Model, hash: &str, companions: &[Companion]) -> Result<Identity> {
    let mut sources = Vec::with_capacity(model.files.len());
    for (file, source) in model.table.files.iter().zip(&model.files) {
        if let Some(local) = source.as_local() {
            sources.push(Stamp::of(file.name.as_str(), local.file())?);
        }
    }
    let mut far = Vec::new();
    let weights = model.table.files.iter().map(|f| f.name.as_str()).zip(model.files.iter().cloned());
    far.extend(weights.filter(|(_, file)| file.as_local().is_none()));
    for companion in companions.iter().filter(|c| c.made.is_none()) {
        let file = model.place.open(&companion.name)?;
        match file.as_local() {
            Some(local) => sources.push(Stamp::of(companion.name.as_str(), local.file())?),
            None => far.push((companion.name.as_str(), file)),
        }
    }
    Ok(Identity { plan_hash: with_versions(hash, &far), sources })
}

/// The hash of a plan whose sources lie beyond a network: with their versions, because they have no time of change. What a
/// server says no version of may be another file the next time, so nothing made of it is kept.
fn with_versions(hash: &str, far: &[(&str, Arc<dyn ReadAt>)]) -> String {
    if far.is_empty() {
        return hash.to_owned();
    }
    let mut hasher = blake3::Hasher::new();
    let mut text = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    text(hash);
    for (name, file) in far {
        text(name);
        text(&file.size_bytes().to_string());
        match file.version() {
            Some(version) => text(version),
            None => text(&format!("{:?} {}", std::time::SystemTime::now(), std::process::id())),
        }
    }
    hasher.finalize().to_hex().to_string()
}

/// The files of the plan in their output.
struct Writing<'a> {
    plan: &'a Plan,
    out: &'a Out,
    kept: AtomicUsize,
    /// Whether files are there already, where that was asked before they are begun.
    finished: Option<Vec<bool>>,
    /// A finished single file, until it gets its name.
    single: Mutex<Option<FileSink>>,
}

impl Files for Writing<'_> {
    fn open(&self, target: usize) -> Result<Option<FileSink>> {
        let file = &self.plan.files[target];
        let size = file.laid.file_size_bytes;
        let sink = match self.out {
            Out::File(out) => out.create(size)?,
            Out::Directory(out) => {
                let finished = match &self.finished {
                    Some(all) => all.get(target).is_some_and(|&is| is),
                    None => out.finished(&file.name, size)?,
                };
                if finished {
                    self.kept.fetch_add(1, Ordering::Relaxed);
                    return Ok(None);
                }
                out.create(&file.name, size)?
            }
        };
        for (at, bytes) in &file.laid.fixed {
            sink.write_all_at(bytes, *at)?;
        }
        Ok(Some(sink))
    }

    fn seal(&self, target: usize, sink: &FileSink, checksums: &[u32]) -> Result<()> {
        let Some(torch) = &self.plan.files[target].torch else { return Ok(()) };
        for (at, bytes) in torch.seal(checksums)? {
            sink.write_all_at(&bytes, at)?;
        }
        Ok(())
    }

    fn close(&self, target: usize, sink: FileSink, hash: Option<Hash>) -> Result<()> {
        let file = &self.plan.files[target];
        match self.out {
            // A single file gets its name when the source is known to have stood still.
            Out::File(_) => {
                *self.single.lock().unwrap_or_else(PoisonError::into_inner) = Some(sink);
                Ok(())
            }
            Out::Directory(out) => {
                sink.finish()?;
                let hash = hash.unwrap_or_else(|| combine(&[]));
                out.record(&file.name, file.laid.file_size_bytes, hash)
            }
        }
    }
}

/// How a recipe is carried out.
fn how<'a>(model: &'a Model, options: &Options, recipe: &'a Recipe, threads: usize) -> Weave<'a> {
    let memory_bytes = options.task_memory_bytes();
    Weave {
        model,
        recipe,
        limits: Limits::for_model(memory_bytes, model),
        memory_bytes,
        threads,
        saturate: options.saturate,
        odd: options.quantize.as_ref().map_or(Odd::Keep, |q| Odd::of_scheme(q.zero_odd)),
    }
}

/// Carries the plan out.
pub(super) fn write(model: &Model, options: &Options, mut plan: Plan, control: &Control) -> Result<Summary> {
    let started = Instant::now();
    let cpu = machine::cpu_time();
    let identity = plan.identity(model)?;
    let inputs = inputs(model, options.quantize.as_ref());
    let out = begin(&Begin {
        target: &options.out,
        force: options.force,
        inputs: &inputs,
        identity: &identity,
        directory: plan.directory,
    })?;
    let targets: Vec<Target> = plan.files.iter().map(|f| f.target(plan.directory)).collect();
    let written = targets.iter().flat_map(|t| &t.outputs);
    let tensor_bytes = written.map(|&o| plan.recipe.outputs[o].size_bytes()).sum::<Result<u64>>()?;
    let finished = match &out {
        Out::Directory(out) if !plan.recipe.sharing.is_empty() => Some(finished(out, &plan)?),
        _ => None,
    };
    let looks = looks(&plan, finished.as_deref().unwrap_or(&[]));
    let look_bytes = globals::size_bytes(&plan.recipe, &looks);
    let work_bytes = tensor_bytes.saturating_add(look_bytes).saturating_add(plan.read_again_bytes);
    control.plan(format!("{} tensors", plan.recipe.outputs.len()), work_bytes);
    // Each worker keeps a few megabytes beside the tasks that are counted.
    let threads_max =
        usize::try_from(options.work_memory_bytes() / WORKER_BYTES).unwrap_or(256).clamp(1, 256);
    let quantises = options.quantize.is_some();
    let threads = options.threads.unwrap_or_else(|| default_threads(model, quantises)).clamp(1, threads_max);
    let globals = globals::find(&how(model, options, &plan.recipe, threads), &looks, control)?;
    looks.iter().zip(globals).for_each(|(&set, global)| plan.recipe.set_global(set, global));
    let run = how(model, options, &plan.recipe, threads);
    let kept = AtomicUsize::new(0);
    let writing = Writing { plan: &plan, out: &out, kept, finished, single: Default::default() };
    let weave::Made { losses, errors, block_errors } = weave::weave(&run, &targets, &writing, control)?;
    let Writing { kept, single, .. } = writing;
    for file in &model.files {
        if let Some(local) = file.as_local() {
            local.check_unchanged()?;
        }
    }
    let mut notes = plan.notes.clone();
    notes.extend(out.notes().iter().cloned());
    let file_count = plan.files.len() + plan.companions.len();
    let mut locking = plan.locking.take();
    match out {
        Out::File(_out) => {
            let sink = single.into_inner().unwrap_or_else(PoisonError::into_inner);
            let sink = sink.ok_or_else(|| Error::bug("the output was never closed"))?;
            if let Some(begun) = &mut locking {
                let names: Vec<&str> = plan.files.iter().map(|f| f.name.as_str()).collect();
                begun.close(&names, &|_| again(sink.file()), control)?;
            }
            sink.finish()?;
        }
        Out::Directory(out) => {
            for companion in &plan.companions {
                if control.is_stopped() {
                    return Err(Error::new(crate::ErrorKind::Signal(2), "cancelled"));
                }
                place(model, &out, companion, &identity, control)?;
            }
            if let Some(begun) = &mut locking {
                let names = plan.files.iter().map(|f| f.name.as_str()).chain(plan.companion_names());
                let names: Vec<&str> = names.collect();
                if let Err(error) = begun.close(&names, &|name| out.open(name), control) {
                    // Finished files that are not what is locked would be found again by the next run.
                    if error.kind() == crate::ErrorKind::Integrity {
                        out.abandon()?;
                    }
                    return Err(error);
                }
            }
            notes.extend(out.finish()?);
        }
    }
    if let Some(begun) = locking {
        begun.write()?;
    }
    let of = |count: fn(&Losses) -> u64| -> Vec<(String, u64)> {
        plan.recipe
            .outputs
            .iter()
            .zip(&losses)
            .filter(|(_, l)| count(l) > 0)
            .map(|(o, l)| (o.name.clone(), count(l)))
            .collect()
    };
    let cpu_seconds = machine::cpu_time().zip(cpu).map(|(now, then)| now.saturating_sub(then).as_secs_f64());
    Ok(Summary {
        out: options.out.clone(),
        container: plan.container,
        tensors: plan.recipe.outputs.len(),
        files: file_count,
        kept_files: kept.into_inner(),
        file_bytes: plan.file_bytes,
        tensor_bytes,
        source_bytes: plan.source_bytes,
        seconds: started.elapsed().as_secs_f64(),
        cpu_seconds,
        threads,
        saturated: of(|l| l.overflows),
        inexact: of(|l| l.inexact),
        errors: {
            let recipe = &plan.recipe;
            let matrices = recipe.packed.iter().map(|p| p.matrix.name.clone()).zip(errors);
            let blocks = recipe.outputs.iter().map(|o| o.name.clone()).zip(block_errors);
            matrices.chain(blocks).filter(|(_, error)| error.count > 0).collect()
        },
        notes,
    })
}

/// An open file, to be read from its beginning.
fn again(file: &std::fs::File) -> Result<std::fs::File> {
    use std::io::{Seek as _, SeekFrom};
    let fail = |e| Error::io("cannot be read back", e);
    let mut file = file.try_clone().map_err(fail)?;
    file.seek(SeekFrom::Start(0)).map_err(fail)?;
    Ok(file)
}

/// Which files are there already. Reads those of an earlier run.
fn finished(out: &DirectoryOut, plan: &Plan) -> Result<Vec<bool>> {
    plan.files.iter().map(|file| out.finished(&file.name, file.laid.file_size_bytes)).collect()
}

/// The sets of matrices that must be looked at before any of them is written: not those whose files are all there.
fn looks(plan: &Plan, finished: &[bool]) -> Vec<usize> {
    let mut wanted = vec![false; plan.recipe.packed.len()];
    for (_, file) in plan.files.iter().enumerate().filter(|(n, _)| finished.get(*n) != Some(&true)) {
        for &output in &file.outputs {
            if let Some(Form::Face { packed, .. }) = plan.recipe.outputs.get(output).map(|o| &o.form)
                && let Some(is) = wanted.get_mut(*packed)
            {
                *is = true;
            }
        }
    }
    let sets = plan.recipe.sharing.iter().enumerate();
    let is_wanted = |set: &Vec<usize>| set.iter().any(|&member| wanted.get(member) == Some(&true));
    sets.filter(|(_, set)| is_wanted(set)).map(|(number, _)| number).collect()
}

/// Files up to this size are written in one go and synced with the folder.
const SMALL_BYTES_MAX: u64 = 64 << 20;

/// Writes one companion, or keeps the one that an earlier run wrote.
fn place(
    model: &Model,
    out: &DirectoryOut,
    companion: &Companion,
    identity: &Identity,
    control: &Control,
) -> Result<()> {
    let Companion { name, size_bytes, made } = companion;
    if let Some(bytes) = made {
        return out.write(name, bytes);
    }
    let in_file = |e: Error| if e.file_name().is_some() { e } else { e.file(name.as_str()) };
    let source = model.place.open(name)?;
    let changed = || {
        Error::bad_input("changed while the model was converted")
            .hint("run it again when nothing writes to it")
    };
    let now = source.as_local().map(|local| Stamp::of(name.as_str(), local.file())).transpose()?;
    let then = identity.sources.iter().find(|s| s.name == *name);
    if source.size_bytes() != *size_bytes || now.as_ref().zip(then).is_some_and(|(now, then)| now != then) {
        return Err(in_file(changed()));
    }
    if *size_bytes <= SMALL_BYTES_MAX {
        let mut bytes = vec![0; *size_bytes as usize];
        source.read_exact_at(&mut bytes, 0).map_err(in_file)?;
        return out.write(name, &bytes);
    }
    if out.finished(name, *size_bytes)? {
        return Ok(());
    }
    let sink = out.create(name, *size_bytes)?;
    let hash = FileHash::new(*size_bytes);
    let mut buffer = vec![0; PIECE_BYTES as usize];
    let mut at = 0;
    while at < *size_bytes {
        if control.is_stopped() {
            return Err(Error::new(crate::ErrorKind::Signal(2), "cancelled"));
        }
        let piece = &mut buffer[..(*size_bytes - at).min(PIECE_BYTES) as usize];
        source.read_exact_at(piece, at).map_err(in_file)?;
        sink.write_all_at(piece, at)?;
        hash.note(piece, at);
        at += piece.len() as u64;
    }
    sink.finish()?;
    out.record(name, *size_bytes, hash.finish()?)
}
