//! The checks, in their order: what is run, what is not, and how memory is shared among it.

mod vectors;

use crate::dtype::DType;
use crate::error::{Error, ErrorKind, Result};
use crate::machine;
use crate::open::Model;
use crate::run::job::Control;
use crate::text::{Shown, bytes as bytes_text, grouped};
use crate::transform::task::Task;
use crate::verify::audit::Finding;
use crate::verify::causal::{self, Measure, Measured, Other, Sink};
use crate::verify::limits::{Computed, Limits, Written};
use crate::verify::reference::write::{Column, Writing};
use crate::verify::reference::{Extent, Quantity, Reference, Row};
use crate::verify::report::{self, Check, Outcome, Report, Timing};
use crate::verify::subject::{Subject, other_fault};
use crate::verify::text::Tokenizer;
use crate::verify::weights::{Hold, Weights};
use crate::verify::windows::{self, SAMPLE_WINDOW_MAX, Windows};
use crate::verify::{Gate, Options, device, sample};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// Of the memory that is available, what is taken where nobody says.
const MEMORY_SHARE: f64 = 0.8;
/// The least that verifying works with: code, tables, a tile of logits.
const MEMORY_BYTES_MIN: u64 = 64 << 20;
/// Of the memory, for weights; the rest is for what passes through them.
const WEIGHTS_SHARE: f64 = 0.75;
/// What loading takes at least.
const LOAD_BYTES_MIN: u64 = 4 << 20;
/// Tokens of the sample that a model without a tokenizer is given.
const FALLBACK_TOKENS: usize = 1024;
/// Tokens that pass the layers together where all weights are in memory: more would win nothing.
const TOKENS_AT_ONCE: usize = 4096;
/// Tokens that one of two models may have beyond the other: vocabularies are padded to suit a device.
const VOCABULARY_PADDING_MAX: u64 = 1024;
/// Findings that are told one by one.
const SHOWN_MAX: usize = 10;

/// How everything is computed.
pub(super) struct Setting {
    pub(super) dtype: DType,
    pub(super) memory_bytes: u64,
    pub(super) hold: Hold,
}

impl Setting {
    /// From what the user says and what the machine has.
    ///
    /// # Errors
    /// `Usage`: a type that nothing is computed in, too little memory; what the device gives.
    pub(super) fn of(options: &Options, control: &Control) -> Result<Setting> {
        let dtype = options.dtype.unwrap_or(DType::F32);
        if !matches!(dtype, DType::F32 | DType::BF16 | DType::F16) {
            return Err(Error::usage(format!("nothing is computed in `{dtype}`")).hint("f32, bf16 or f16"));
        }
        let available = machine::available_memory_bytes().unwrap_or(4 << 30);
        let memory_bytes = options.memory_bytes.unwrap_or((available as f64 * MEMORY_SHARE) as u64);
        if memory_bytes < MEMORY_BYTES_MIN {
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!(
                    "verifying needs {} of memory at least, and there are {}",
                    bytes_text(MEMORY_BYTES_MIN),
                    bytes_text(memory_bytes)
                ),
            )
            .hint("--memory 64MiB is the least"));
        }
        let hold = Hold {
            dtype,
            device: device::parse(options.device.as_deref())?,
            memory_bytes: (memory_bytes as f64 * WEIGHTS_SHARE) as u64,
            native: options.native,
            threads: options.threads,
            stop: control.stop_sign(),
        };
        Ok(Setting { dtype, memory_bytes, hold })
    }

    /// How everything is computed, for a program.
    fn said(&self) -> serde_json::Map<String, serde_json::Value> {
        let pairs: [(&str, serde_json::Value); 6] = [
            ("version", env!("CARGO_PKG_VERSION").into()),
            ("dtype", self.dtype.name().into()),
            ("device", device::name(&self.hold.device).into()),
            ("native", self.hold.native.into()),
            ("memory_bytes", self.memory_bytes.into()),
            ("threads", self.hold.threads.map_or(candle_core::utils::get_num_threads(), |n| n).into()),
        ];
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// The weights of one model, or of two that share the memory: what the smaller one leaves is the larger one's.
    pub(super) fn weights(&self, subjects: &[&Subject]) -> Result<Vec<Weights>> {
        // With what loading takes, which is an eighth of what is given at most.
        let whole = |s: &Subject| -> Result<u64> {
            let bytes = Weights::whole_bytes(&s.model, &s.recipe, &self.hold)?;
            Ok(bytes.saturating_add(bytes / 7).saturating_add(LOAD_BYTES_MIN))
        };
        let sizes = subjects.iter().map(|s| whole(s)).collect::<Result<Vec<_>>>()?;
        let all = self.hold.memory_bytes;
        let half = all / subjects.len().max(1) as u64;
        let spare: u64 = sizes.iter().map(|size| half.saturating_sub(*size)).sum();
        let share = |size: u64| if size <= half { size } else { half.saturating_add(spare) };
        subjects
            .iter()
            .zip(&sizes)
            .map(|(s, &size)| {
                let memory_bytes = if subjects.len() == 1 { all } else { share(size) };
                Weights::new(s, Hold { memory_bytes, ..self.hold.clone() }).map_err(|e| of_model(e, s))
            })
            .collect()
    }

    fn computed(&self, weights: &[&Weights]) -> Computed {
        if weights.iter().any(|w| w.native().next().is_some()) {
            Computed::Blocks
        } else if self.dtype == DType::F32 {
            Computed::F32
        } else {
            Computed::Half
        }
    }
}

/// Refuses limits and options that nothing would be held to: who sets one relies on it.
fn check_wishes(options: &Options) -> Result<()> {
    let Gate { max_kl, min_top1, min_top5, max_relative, min_cosine, max_perplexity_increase } = options.gate;
    let of_pair = [
        ("a limit on the KL divergence", max_kl.is_some()),
        ("a limit on top-1 agreement", min_top1.is_some()),
        ("a limit on top-5 agreement", min_top5.is_some()),
        ("a limit on the relative error", max_relative.is_some()),
        ("a limit on the cosine", min_cosine.is_some()),
        ("a limit on how perplexity grows", max_perplexity_increase.is_some()),
        ("a comparison layer by layer", options.layers),
    ];
    let is_compared = options.against.is_some() || options.reference.is_some();
    let limit = |(what, _): &(&str, bool)| Error::usage(format!("{what} needs something to compare with"));
    if let Some(wish) = of_pair.iter().find(|(_, given)| *given && !is_compared) {
        return Err(limit(wish).hint("--against MODEL, or --reference FILE"));
    }
    if max_perplexity_increase.is_some() && (options.text.is_none() || options.against.is_none()) {
        return Err(Error::usage(
            "a limit on how perplexity grows needs a text, and a model to compare with",
        )
        .hint("--text FILE --against MODEL"));
    }
    if options.layers && options.reference.is_some() {
        return Err(Error::usage("a file of logits has no layers to compare").hint("--against MODEL has"));
    }
    let given = of_pair.iter().take(6).find(|(_, given)| *given);
    if let (Some(_), Some((what, _))) = (&options.layers_only, given) {
        return Err(Error::usage(format!("{what}, and only some layers are run: there are no logits")));
    }
    Ok(())
}

/// Says which of two models an error is of.
fn of_model(error: Error, subject: &Subject) -> Error {
    if error.file_name().is_some() { error } else { error.file(subject.name.clone()) }
}

/// Runs all checks.
pub(super) fn run(model: Model, mut options: Options, control: &Control) -> Result<Report> {
    let started = Instant::now();
    check_wishes(&options)?;
    let setting = Setting::of(&options, control)?;
    let mut report = Report { model: model.name.clone(), ..Report::default() };
    // What is wrong with the other model is no finding about this one.
    let other = |model: Model| {
        let name = model.name.clone();
        Subject::of(model).map_err(|e| other_fault(e, &name))
    };
    let against = options.against.take().map(other).transpose()?;
    let reference = options.reference.take().map(|m| Reference::new(m, options.memory_bytes)).transpose()?;
    report.against =
        against.as_ref().map(|s| s.name.clone()).or_else(|| reference.as_ref().map(|r| r.name.clone()));
    let subject = match Subject::of(model) {
        Ok(subject) => subject,
        Err(e) if e.kind() == ErrorKind::CheckFailed => {
            report.checks.push(Check::failed("tensors", "", e.to_string()));
            for name in ["tokenizer", "forward", "logits"] {
                report.checks.push(Check::skipped(name, "the tensors are not those of the family"));
            }
            return Ok(report);
        }
        Err(e) => return Err(e),
    };
    report.notes.extend(subject.notes.iter().cloned());
    report.run = setting.said();
    let run = Run {
        subject: &subject,
        against: against.as_ref(),
        reference: reference.as_ref(),
        options: &options,
        setting: &setting,
        control,
    };
    match subject.task {
        Task::Causal => run.causal(&mut report)?,
        _ => vectors::run(&run, &mut report)?,
    }
    report.timing.seconds = started.elapsed().as_secs_f64();
    report.timing.cpu_seconds = machine::cpu_time().map(|t| t.as_secs_f64());
    Ok(report)
}

/// What all checks need.
pub(super) struct Run<'a> {
    pub(super) subject: &'a Subject,
    pub(super) against: Option<&'a Subject>,
    pub(super) reference: Option<&'a Reference>,
    pub(super) options: &'a Options,
    pub(super) setting: &'a Setting,
    pub(super) control: &'a Control,
}

/// Token ids, and where they come from.
struct Tokens {
    windows: Windows,
    /// Whether perplexity is wanted.
    scored: bool,
    note: Option<String>,
}

impl Run<'_> {
    /// The weights of the model and of the other one.
    pub(super) fn weights(&self) -> Result<(Weights, Option<Weights>)> {
        let subjects: Vec<&Subject> = std::iter::once(self.subject).chain(self.against).collect();
        let mut all = self.setting.weights(&subjects)?.into_iter();
        let first = all.next().ok_or_else(|| Error::bug("a model without weights"))?;
        Ok((first, all.next()))
    }

    /// The limits that apply.
    pub(super) fn limits(&self, weights: &Weights, other: Option<&Weights>) -> Limits {
        let all: Vec<&Weights> = std::iter::once(weights).chain(other).collect();
        let computed = self.setting.computed(&all);
        match self.against {
            Some(against) => {
                let of = |s: &Subject| -> Box<dyn Fn(usize) -> Option<DType>> {
                    let model = Arc::clone(&s.model);
                    Box::new(move |at| model.table.tensors.get(at).map(|t| t.dtype))
                };
                let (a, b) = (of(self.subject), of(against));
                Limits::of_models(
                    &Written { recipe: &self.subject.recipe, dtype_of: &a },
                    &Written { recipe: &against.recipe, dtype_of: &b },
                    computed,
                    &self.options.gate,
                )
            }
            None => Limits::of_file(computed, &self.options.gate),
        }
    }

    /// Check `tokenizer`: on the text that is passed, and on the sample, which has more scripts than most texts.
    pub(super) fn tokenizer(
        &self,
        mine: Option<&Tokenizer>,
        text: &str,
    ) -> Result<(Check, Option<Tokenizer>)> {
        let Some(against) = self.against else {
            let check = match mine {
                Some(_) => Check::skipped("tokenizer", "there is nothing to compare it with"),
                None => Check::skipped("tokenizer", "the model has none"),
            };
            return Ok((check, None));
        };
        let theirs = Tokenizer::of(against).map_err(|e| of_model(e, against))?;
        let check = match (mine, &theirs) {
            (Some(mine), Some(theirs)) => {
                let own = (text != sample::TEXT).then_some(text);
                let mut differences =
                    own.into_iter().chain([sample::TEXT]).map(|t| mine.difference(theirs, t));
                match differences.find_map(Result::transpose).transpose()? {
                    None if own.is_some() => {
                        Check::passed("tokenizer", "same ids for the text and the sample")
                    }
                    None => Check::passed("tokenizer", "same ids for the sample"),
                    Some(why) => Check::failed("tokenizer", "", why),
                }
            }
            (None, Some(_)) => {
                Check::failed("tokenizer", "", "the model has none, and the reference has one")
            }
            (Some(_), None) => Check::skipped("tokenizer", "the reference has none"),
            (None, None) => Check::skipped("tokenizer", "neither has one"),
        };
        Ok((check, theirs))
    }

    /// The tokens that pass.
    fn tokens(&self, tokenizer: Option<&Tokenizer>) -> Result<Tokens> {
        let options = self.options;
        let context = self.subject.forward.context;
        if let Some(reference) = self.reference {
            reference.check_vocabulary(self.subject.vocabulary())?;
            reference.check_length(context)?;
            let mut all = Windows { windows: Vec::new(), recipe: String::new() };
            for row in &reference.rows {
                let mut one = windows::whole(&row.ids, row.ids.len().max(1));
                all.windows.append(&mut one.windows);
            }
            return Ok(Tokens { windows: all, scored: false, note: None });
        }
        let sample_window = context.unwrap_or(SAMPLE_WINDOW_MAX).clamp(1, SAMPLE_WINDOW_MAX);
        let needed = |what: &str| {
            Error::not_found(format!(
                "{what} needs a tokenizer, and `{}` has none",
                Shown(&self.subject.name)
            ))
            .hint("--against a model that has one, or --reference a file of token ids")
        };
        match (&options.text, &options.sample, tokenizer) {
            (Some(text), _, Some(tokenizer)) => {
                let ids = tokenizer.encode(text, false)?;
                let bos = tokenizer.bos();
                let windows = windows::cut(&ids, options.scoring, context, bos)?;
                Ok(Tokens { windows, scored: true, note: None })
            }
            (Some(_), _, None) => Err(needed("--text")),
            (None, Some(_), None) => Err(needed("--prompt")),
            (None, sample, Some(tokenizer)) => {
                let text = sample.as_deref().unwrap_or(sample::TEXT);
                let ids = tokenizer.encode(text, true)?;
                if ids.is_empty() {
                    let message = "the tokenizer makes no token of the text, so nothing would be computed";
                    return Err(Error::bad_input(message).file(self.subject.name.clone()));
                }
                Ok(Tokens { windows: windows::whole(&ids, sample_window), scored: false, note: None })
            }
            (None, None, None) => {
                let ids = sample::fallback_ids(self.subject.vocabulary(), FALLBACK_TOKENS);
                let note = "there is no tokenizer: token ids without meaning were passed".to_owned();
                Ok(Tokens { windows: windows::whole(&ids, sample_window), scored: false, note: Some(note) })
            }
        }
    }

    fn causal(&self, report: &mut Report) -> Result<()> {
        let mine = Tokenizer::of(self.subject).map_err(|e| of_model(e, self.subject));
        // A broken tokenizer is a finding; the other model's may still serve.
        let (mine, broken) = match mine {
            Ok(mine) => (mine, None),
            Err(e) if self.against.is_some() || self.reference.is_some() => (None, Some(e)),
            Err(e) => return Err(e),
        };
        let text = self.options.text.as_deref().or(self.options.sample.as_deref()).unwrap_or(sample::TEXT);
        let (mut tokenizer, theirs) = self.tokenizer(mine.as_ref(), text)?;
        if let Some(e) = broken {
            tokenizer = Check::failed("tokenizer", "", e.to_string());
        }
        let tokens = self.tokens(theirs.as_ref().or(mine.as_ref()))?;
        report.notes.extend(tokens.note.clone());
        let answer = self.reference.map(causal::answer).transpose()?;
        let layers_only = self.layers_only(self.subject.forward.layers.len())?;
        let (weights, other) = self.weights()?;
        let limits = self.limits(&weights, other.as_ref());
        let mut writing = match &self.options.logits {
            Some(path) => Some(Logits::create(self, path, &tokens.windows)?),
            None => None,
        };
        let groups = self.tokens_at_once(&weights, other.as_ref());
        let of = Measure {
            subject: self.subject,
            weights: &weights,
            other: match (self.against, &other, self.reference, &answer) {
                (Some(subject), Some(weights), ..) => Other::Model(subject, weights),
                (_, _, Some(reference), Some(answer)) => Other::File(reference, answer),
                _ => Other::Nothing,
            },
            windows: &tokens.windows.windows,
            score: tokens.scored,
            layers_only: layers_only.clone(),
            tokens_at_once: groups,
            control: self.control,
        };
        let measured = causal::measure(&of, writing.as_mut().map(|w| w as &mut dyn Sink));
        // The model's own tensors that do not fit each other are found where they meet.
        let measured = match measured {
            Ok(measured) => Ok(measured),
            Err(e) if e.kind() == ErrorKind::CheckFailed => Err(e),
            Err(e) => return Err(e),
        };
        report.checks.push(self.tensors(&weights, measured.is_ok() && layers_only.is_none())?);
        report.checks.push(tokenizer);
        let measured = match measured {
            Ok(measured) => measured,
            Err(e) => {
                report.checks.push(Check::failed("forward", "", e.to_string()));
                return Ok(());
            }
        };
        if let Some(writing) = writing {
            writing.finish()?;
        }
        let reader = theirs.as_ref().or(mine.as_ref());
        self.measured(report, &measured, &tokens, &limits, layers_only.as_ref(), reader);
        report.timing =
            Timing { tokens: measured.tokens, forward_seconds: measured.seconds, ..Timing::default() };
        Ok(())
    }

    /// Checks `forward`, `layers`, `logits`, `perplexity`.
    fn measured(
        &self,
        report: &mut Report,
        found: &Measured,
        tokens: &Tokens,
        limits: &Limits,
        layers_only: Option<&Range<usize>>,
        tokenizer: Option<&Tokenizer>,
    ) {
        report.checks.push(self.forward(found.broken, found.tokens));
        let layers =
            (!found.layers.is_empty()).then(|| report::layers(&found.layers, self.options.layers, limits));
        let token = |id: u32| tokenizer.and_then(|t| t.token(id));
        let mut logits =
            found.comparison.as_ref().map(|c| report::logits(c, found.hidden_cosine, limits, &token));
        let (left_out, common) = (found.vocabulary_left_out, found.vocabulary_common);
        if let Some(logits) = &mut logits
            && !logits.has_failed()
            && left_out > VOCABULARY_PADDING_MAX.max(common / 10)
        {
            let both = format!("{} of {}", grouped(common), grouped(common + left_out));
            logits.outcome = Outcome::Failed(format!("only {both} tokens of the vocabulary are in both"));
        }
        // Where they part is asked for, or else of interest only where they do.
        let has_failed = |check: &Option<Check>| check.as_ref().is_some_and(Check::has_failed);
        if self.options.layers || layers_only.is_some() || has_failed(&layers) || has_failed(&logits) {
            report.checks.extend(layers);
        }
        if let Some(logits) = logits {
            report.checks.push(logits);
            if found.vocabulary_left_out > 0 {
                report.not_run.push(format!(
                    "{} tokens of the vocabulary that only one of the two has",
                    grouped(found.vocabulary_left_out)
                ));
            }
        } else if layers_only.is_none() {
            report.checks.push(Check::skipped(
                "logits",
                "there is nothing to compare them with (--against, --reference)",
            ));
        }
        if tokens.scored && layers_only.is_none() {
            let mine = found.scored.perplexity();
            let theirs = found.other_scored.as_ref().map(|s| (s.perplexity(), found.scored.ratio(s)));
            let theirs = theirs.as_ref().map(|(p, ratio)| (p, *ratio));
            report.checks.push(report::perplexity(&mine, theirs, &tokens.windows.recipe, Some(limits)));
        }
        self.say_layers_only(report);
    }

    /// The layers that are run, where not all of them are.
    pub(super) fn layers_only(&self, layer_count: usize) -> Result<Option<Range<usize>>> {
        match &self.options.layers_only {
            Some(range) if range.start >= range.end || range.end > layer_count => Err(Error::usage(format!(
                "layers {}..{} of a model that has {layer_count}, counted from 0",
                range.start, range.end
            ))),
            Some(_) if self.options.logits.is_some() => {
                Err(Error::usage("--layers-only computes nothing that --logits could write"))
            }
            range => Ok(range.clone()),
        }
    }

    /// Check `forward`: whether everything was finite, and where it was not first.
    pub(super) fn forward(&self, broken: Option<(Option<usize>, u64)>, tokens: u64) -> Check {
        let layer_count = self.subject.forward.layers.len();
        let passed = self.options.layers_only.as_ref().map_or(layer_count, |range| range.len());
        let check = match broken {
            None if tokens == 0 => Check::failed("forward", "", "no token passed"),
            None => {
                let of = if passed == layer_count { String::new() } else { format!(" of {layer_count}") };
                Check::passed("forward", format!("finite, {passed}{of} layers"))
            }
            Some((place, count)) => {
                let place = match place {
                    None => "in the embedding".to_owned(),
                    Some(index) if index >= layer_count => "in what comes out".to_owned(),
                    Some(index) => format!("behind layer {index}"),
                };
                let why = format!("{} numbers are not finite {place}", grouped(count));
                Check::failed("forward", "", why).figure("not_finite", count)
            }
        };
        check.figure("layers", passed as u64).figure("tokens", tokens)
    }

    /// Says what `--layers-only` left out.
    pub(super) fn say_layers_only(&self, report: &mut Report) {
        let layer_count = self.subject.forward.layers.len();
        let Some(range) = &self.options.layers_only else { return };
        let mut rest = Vec::new();
        if range.start > 0 {
            rest.push(format!("layers 0..{} (layer {} was given the embedding)", range.start, range.start));
        }
        if range.end < layer_count {
            rest.push(format!("layers {}..{layer_count}", range.end));
        }
        rest.push("what comes out behind them".to_owned());
        report.not_run.push(rest.join(", "));
    }

    /// Tokens whose states fit into memory.
    fn tokens_at_once(&self, weights: &Weights, other: Option<&Weights>) -> usize {
        let sides = 1 + u64::from(other.is_some());
        let states = self.setting.memory_bytes / 16;
        let each = (self.subject.forward.hidden as u64).saturating_mul(4).saturating_mul(sides).max(1);
        let fits = usize::try_from(states / each).unwrap_or(usize::MAX).max(1);
        let resident = weights.is_resident() && other.is_none_or(Weights::is_resident);
        if resident { fits.min(TOKENS_AT_ONCE) } else { fits }
    }

    /// Check `tensors`: what the recipe could not know. `used`: whether all of the forward pass was run.
    pub(super) fn tensors(&self, weights: &Weights, used: bool) -> Result<Check> {
        let subject = self.subject;
        let mut faults = Vec::new();
        for &pair in &subject.recipe.equal {
            if !crate::load::equal(&subject.model, &subject.recipe, pair)? {
                let name = |at: usize| subject.recipe.values.get(at).map_or("", |v| v.name.as_str());
                faults.push(format!(
                    "`{}` differs from `{}`, and the config ties them",
                    Shown(name(pair.0)),
                    Shown(name(pair.1))
                ));
            }
        }
        let unused: Vec<String> = if used {
            weights.unused().iter().map(|n| format!("`{}`", Shown(n))).collect()
        } else {
            Vec::new()
        };
        if !unused.is_empty() {
            faults.push(format!("nothing is computed with {}", unused.join(", ")));
        }
        let findings = weights.audit()?;
        let is_fatal = |f: &&Finding| f.fatal || self.options.strict;
        let fatal: Vec<&Finding> = findings.iter().filter(is_fatal).collect();
        let told: Vec<&Finding> = findings.iter().filter(|f| !is_fatal(f)).collect();
        let say = |f: &Finding| {
            let place = subject.origin(&f.tensor, f.row);
            let name = place.map_or(f.tensor.as_str(), |p| p.name);
            let row = place.and_then(|p| p.row).map(|row| format!(", the first in row {}", grouped(row)));
            let file = place.and_then(|p| p.file).map(|file| format!(" ({})", Shown(file)));
            let (row, file) = (row.unwrap_or_default(), file.unwrap_or_default());
            format!("`{}`{file} {}{row}", Shown(name), f.detail)
        };
        faults.extend(fatal.iter().take(SHOWN_MAX).map(|f| say(f)));
        if fatal.len() > SHOWN_MAX {
            faults.push(format!("and {} more", grouped((fatal.len() - SHOWN_MAX) as u64)));
        }
        let all = subject.model.table.tensors.len();
        let extra = subject.recipe.left_out.len();
        let line = format!(
            "{} of {} used, shapes right, no NaN, no Inf, no constant matrix",
            grouped((all - extra.min(all)) as u64),
            grouped(all as u64)
        );
        let mut check = match faults.is_empty() {
            true => Check::passed("tensors", line),
            false => Check::failed("tensors", "", faults.join("; ")),
        };
        let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
        for left in &subject.recipe.left_out {
            match reasons.iter_mut().find(|(why, _)| *why == left.why) {
                Some((_, names)) => names.push(&left.name),
                None => reasons.push((left.why, vec![&left.name])),
            }
        }
        for (why, names) in &reasons {
            let first: Vec<String> = names.iter().take(3).map(|n| format!("`{}`", Shown(n))).collect();
            let more = if names.len() > 3 { format!(" and {} more", names.len() - 3) } else { String::new() };
            check = check.detail(format!("not used, {why}: {}{more}", first.join(", ")));
        }
        for finding in told.iter().take(SHOWN_MAX) {
            check = check.detail(say(finding));
        }
        if told.len() > SHOWN_MAX {
            check = check.detail(format!("and {} more like these", grouped((told.len() - SHOWN_MAX) as u64)));
        }
        let document = |f: &Finding| {
            let place = subject.origin(&f.tensor, f.row);
            serde_json::json!({
                "tensor": place.map_or(f.tensor.as_str(), |p| p.name),
                "file": place.and_then(|p| p.file),
                "row": place.and_then(|p| p.row),
                "computed_as": f.tensor,
                "fault": f.fault.name(),
                "detail": f.detail,
                "fatal": f.fatal,
            })
        };
        Ok(check
            .figure("tensors", all as u64)
            .figure("used", (all - extra.min(all)) as u64)
            .figure("findings", findings.iter().map(document).collect::<Vec<_>>())
            .figure(
                "left_out",
                reasons
                    .iter()
                    .map(|(why, names)| serde_json::json!({ "why": why, "names": names }))
                    .collect::<Vec<_>>(),
            ))
    }
}

/// Logits on their way into a file.
struct Logits {
    writing: Writing,
}

impl Logits {
    fn create(run: &Run<'_>, path: &std::path::Path, windows: &Windows) -> Result<Logits> {
        let rows: Vec<Row> =
            windows.windows.iter().map(|w| Row { ids: w.ids.clone(), types: None }).collect();
        let head = run.subject.recipe.outputs.iter().find(|o| o.name == "output.weight");
        let width = head.and_then(|o| o.shape.first().copied()).unwrap_or_else(|| run.subject.vocabulary());
        let column = Column { quantity: Quantity::Logits, extent: Extent::Each, width };
        let models: Vec<&Model> =
            std::iter::once(&*run.subject.model).chain(run.against.map(|s| &*s.model)).collect();
        Ok(Logits { writing: Writing::create(path, &rows, &[column], &models, run.options.force)? })
    }

    fn finish(self) -> Result<()> {
        self.writing.finish()
    }
}

impl Sink for Logits {
    fn logits(
        &mut self,
        window: usize,
        positions: Range<usize>,
        band: Range<u64>,
        logits: &[f32],
    ) -> Result<()> {
        self.writing.numbers(0, window, positions, band, logits)
    }
}
