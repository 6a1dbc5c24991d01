//! Models that make vectors or classes of texts, measured: one by itself, or against another that is known to be right.
//!
//! Like models that predict tokens ([`crate::verify::causal`]) two of them pass each layer one after the other, all texts at a time.
//! What is compared behind the last one is what the model is for: hidden states, one vector for each text, scores.

use super::Run;
use crate::error::{Error, ErrorKind, Result};
use crate::run::job::Control;
use crate::text::Shown;
use crate::transform::task::{self, Classes, Probability, Task};
use crate::verify::encoder::{Batch, Encoder};
use crate::verify::limits::Limits;
use crate::verify::metrics::Vectors;
use crate::verify::reference::write::{Column, Writing};
use crate::verify::reference::{Extent, Quantity, Reference, Row};
use crate::verify::report::{self, Check, Labels, Layer, Report, Timing};
use crate::verify::stack::Pass;
use crate::verify::subject::Subject;
use crate::verify::text::Tokenizer;
use crate::verify::weights::{Stage, Weights};
use crate::verify::{candle, sample};
use candle_core::{DType, Tensor};
use std::ops::Range;
use std::time::Instant;

/// Texts of a batch: each is padded to the longest of them.
const BATCH_TEXTS: usize = 8;
/// Texts of the sample, or of a text that is given, at most.
const TEXTS_MAX: usize = 64;
/// Tokens of a text where the model has no limit of its own.
const TOKENS_MAX: usize = 512;
/// Texts of a model without a tokenizer, and their tokens.
const FALLBACK: (usize, usize) = (8, 64);

/// Numbers of one text: `rows` vectors of `width` each (one of a text, or one of each token).
#[derive(Debug, Clone)]
struct Numbers {
    width: usize,
    numbers: Vec<f32>,
}

impl Numbers {
    fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.numbers.chunks(self.width.max(1))
    }
}

/// Whether a text has one vector, or one for each token, and what they are.
fn quantity(task: &Task) -> (Quantity, Extent) {
    match task {
        Task::Causal | Task::Hidden => (Quantity::Hidden, Extent::Each),
        Task::Embedding(_) => (Quantity::Embeddings, Extent::One),
        Task::Sequence(_) => (Quantity::Scores, Extent::One),
        Task::Token(_) => (Quantity::Scores, Extent::Each),
    }
}

/// One of the two models, with all texts on their way.
struct Side<'a> {
    encoder: Encoder<'a>,
    weights: &'a Weights,
    running: Vec<crate::verify::encoder::Running>,
}

impl<'a> Side<'a> {
    fn new(subject: &'a Subject, weights: &'a Weights) -> Result<Side<'a>> {
        Ok(Side { encoder: Encoder::new(subject, weights)?, weights, running: Vec::new() })
    }

    fn start(&mut self, batches: &[Batch]) -> Result<()> {
        self.running = batches.iter().map(|batch| self.encoder.start(batch)).collect::<Result<_>>()?;
        Ok(())
    }

    fn layer(&mut self, index: usize, control: &Control) -> Result<()> {
        let tensors = self.weights.stage(Stage::Layer(index))?;
        for running in &mut self.running {
            check(control)?;
            let pass = Pass::new(0, running.mask.as_ref());
            running.x = self.encoder.layer(index, &tensors, &running.x, &pass)?;
        }
        Ok(())
    }

    /// What the model is for, text by text; and the last hidden states.
    fn finish(&mut self, task: &Task) -> Result<(Vec<Numbers>, Vec<Numbers>)> {
        let back = self.weights.stage(Stage::Back)?;
        let (mut answers, mut hidden) = (Vec::new(), Vec::new());
        for running in &mut self.running {
            running.x = self.encoder.finish(&back, &running.x)?;
            let own: Vec<Numbers> = (0..running.lengths.len())
                .map(|text| states(&running.x, text, running.lengths[text]))
                .collect::<Result<_>>()?;
            let one =
                |rows: Vec<Vec<f32>>| rows.into_iter().map(|row| Numbers { width: row.len(), numbers: row });
            match task {
                Task::Causal | Task::Hidden => answers.extend(own.iter().cloned()),
                Task::Embedding(_) => answers.extend(one(self.encoder.embed_of(running)?)),
                Task::Sequence(_) => answers.extend(one(self.encoder.classify_of(running, &back)?)),
                Task::Token(_) => {
                    answers.extend(self.encoder.tokens_of_running(running, &back)?.into_iter().map(|rows| {
                        Numbers { width: rows.first().map_or(0, Vec::len), numbers: rows.concat() }
                    }))
                }
            }
            hidden.extend(own);
        }
        Ok((answers, hidden))
    }
}

/// Hidden states of a text of a batch `[texts, tokens, hidden]`, padding left out.
fn states(x: &Tensor, text: usize, length: usize) -> Result<Numbers> {
    let numbers = || -> candle_core::Result<Numbers> {
        let own = x.get(text)?.narrow(0, 0, length)?.to_dtype(DType::F32)?;
        Ok(Numbers { width: own.dim(1)?, numbers: own.flatten_all()?.to_vec1()? })
    };
    numbers().map_err(candle)
}

fn check(control: &Control) -> Result<()> {
    if control.is_stopped() { Err(Error::bug("stopped")) } else { Ok(()) }
}

/// What passes the model.
struct Texts {
    rows: Vec<Row>,
    note: Option<String>,
}

/// Runs the checks of a model that makes vectors or classes of texts.
pub(super) fn run(run: &Run<'_>, report: &mut Report) -> Result<()> {
    let subject = run.subject;
    if let Some(against) = run.against
        && quantity(&against.task) != quantity(&subject.task)
    {
        return Err(Error::bad_input(format!(
            "`{}` and `{}` are for different tasks",
            Shown(&subject.name),
            Shown(&against.name)
        )));
    }
    let mine = Tokenizer::of(subject)?;
    let (tokenizer, theirs) = run.tokenizer(mine.as_ref(), &text(run))?;
    let texts = texts(run, theirs.as_ref().or(mine.as_ref()))?;
    report.notes.extend(texts.note.clone());
    let (weights, other) = run.weights()?;
    let limits = run.limits(&weights, other.as_ref());
    let measured = measure(run, &texts.rows, &weights, other.as_ref(), report);
    let measured = match measured {
        Ok(measured) => Ok(measured),
        Err(e) if e.kind() == ErrorKind::BadInput && e.tensor_name().is_some() => Err(e),
        Err(e) => return Err(e),
    };
    let whole = run.options.layers_only.is_none();
    report.checks.push(run.tensors(&weights, measured.is_ok() && whole)?);
    report.checks.push(tokenizer);
    let measured = match measured {
        Ok(measured) => measured,
        Err(e) => {
            report.checks.push(Check::failed("forward", "", e.to_string()));
            return Ok(());
        }
    };
    report.checks.push(run.forward(measured.broken, measured.tokens));
    let layers =
        (!measured.layers.is_empty()).then(|| report::layers(&measured.layers, run.options.layers, &limits));
    let answer = if whole { answer(run, &measured, &limits)? } else { None };
    let has_failed = |check: &Option<Check>| check.as_ref().is_some_and(Check::has_failed);
    if run.options.layers || !whole || has_failed(&layers) || has_failed(&answer) {
        report.checks.extend(layers);
    }
    report.checks.extend(answer);
    run.say_layers_only(report);
    report.timing =
        Timing { tokens: measured.tokens, forward_seconds: measured.seconds, ..Timing::default() };
    Ok(())
}

/// What both tokenizers are tried on.
fn text(run: &Run<'_>) -> String {
    let options = run.options;
    options.text.clone().or_else(|| options.sample.clone()).unwrap_or_else(|| sample::TEXT.to_owned())
}

/// Texts as token ids: a reference's rows, or paragraphs.
fn texts(run: &Run<'_>, tokenizer: Option<&Tokenizer>) -> Result<Texts> {
    let subject = run.subject;
    let plain = |ids: Vec<u32>| Row { ids, types: None };
    if let Some(reference) = run.reference {
        reference.check_vocabulary(subject.vocabulary())?;
        return Ok(Texts { rows: reference.rows.clone(), note: None });
    }
    let length = length(subject)?;
    let Some(tokenizer) = tokenizer else {
        if run.options.text.is_some() || run.options.sample.is_some() {
            return Err(Error::not_found(format!(
                "a text needs a tokenizer, and `{}` has none",
                Shown(&subject.name)
            )));
        }
        let (count, tokens) = FALLBACK;
        let ids = sample::fallback_ids(subject.vocabulary(), count * tokens.min(length));
        let rows = ids.chunks(tokens.min(length).max(1)).map(|ids| plain(ids.to_vec())).collect();
        let note = "there is no tokenizer: token ids without meaning were passed".to_owned();
        return Ok(Texts { rows, note: Some(note) });
    };
    let text = text(run);
    let paragraphs = text.split("\n\n").map(str::trim).filter(|p| !p.is_empty());
    let mut rows = Vec::new();
    let mut left_out = 0usize;
    for paragraph in paragraphs {
        if rows.len() == TEXTS_MAX {
            left_out += 1;
            continue;
        }
        let encoded = tokenizer.encode_with_offsets(paragraph)?;
        if !encoded.ids.is_empty() {
            rows.push(Row { ids: encoded.ids, types: Some(encoded.types) });
        }
    }
    if rows.is_empty() {
        return Err(Error::bad_input("the text has no paragraph that gives a token"));
    }
    let note = (left_out > 0)
        .then(|| format!("of the text {TEXTS_MAX} paragraphs were passed, {left_out} were not"));
    Ok(Texts { rows, note })
}

/// The most tokens of a text.
pub(super) fn length(subject: &Subject) -> Result<usize> {
    let file = |name: &str| subject.model.json(name);
    let (tokenizer, sentences) = (file("tokenizer_config.json")?, file("sentence_bert_config.json")?);
    let length = task::max_length(&subject.config, tokenizer.as_ref(), sentences.as_ref())?;
    Ok(length.unwrap_or(TOKENS_MAX).max(1))
}

/// What was measured.
struct Measured {
    broken: Option<(Option<usize>, u64)>,
    layers: Vec<Layer>,
    /// Text by text, what the model gives, and the other one or the file.
    mine: Vec<Numbers>,
    theirs: Option<Vec<Numbers>>,
    /// Which of those a file has: it may hold hidden states only.
    quantity: (Quantity, Extent),
    tokens: u64,
    seconds: f64,
}

fn measure(
    run: &Run<'_>,
    rows: &[Row],
    weights: &Weights,
    other: Option<&Weights>,
    report: &mut Report,
) -> Result<Measured> {
    let subject = run.subject;
    let length = length(subject)?;
    let causal = subject.forward.causal;
    let batches = rows
        .chunks(BATCH_TEXTS)
        .map(|rows| {
            let types = rows.iter().map(|row| row.types.clone().unwrap_or_default()).collect();
            let batch = Batch::new(rows.iter().map(|row| row.ids.clone()).collect(), types)?;
            // A reference's rows are what its answers belong to.
            Ok(if run.reference.is_some() { batch } else { batch.truncated(length, !causal) })
        })
        .collect::<Result<Vec<_>>>()?;
    let layer_count = subject.forward.layers.len();
    let layers = run.layers_only(layer_count)?.unwrap_or(0..layer_count);
    let mut a = Side::new(subject, weights)?;
    let mut b = match (run.against, other) {
        (Some(subject), Some(weights)) => Some(Side::new(subject, weights)?),
        _ => None,
    };
    if let Some(against) = run.against {
        crate::verify::causal::comparable(subject, against)?;
    }
    let started = Instant::now();
    a.start(&batches)?;
    if let Some(b) = &mut b {
        b.start(&batches)?;
    }
    let mut broken = None;
    look(&a, None, &mut broken)?;
    let mut apart = Vec::new();
    for index in layers {
        a.layer(index, run.control)?;
        if let Some(b) = &mut b {
            b.layer(index, run.control)?;
            let mut states = Vectors::default();
            each_text(&a, |at, text, length| {
                states.add(
                    &self::states(&b.running[at].x, text, length)?.numbers,
                    &self::states(&a.running[at].x, text, length)?.numbers,
                );
                Ok(())
            })?;
            apart.push(Layer { index, states });
        }
        look(&a, Some(index), &mut broken)?;
        let (done, total) = (index as u64 + 1, layer_count as u64);
        run.control.step(|| format!("layer {done}/{total}"), done, total);
    }
    let lengths: Vec<usize> = a.running.iter().flat_map(|r| r.lengths.clone()).collect();
    let mut measured = Measured {
        broken,
        layers: apart,
        mine: Vec::new(),
        theirs: None,
        quantity: quantity(&subject.task),
        tokens: lengths.iter().map(|&n| n as u64).sum(),
        seconds: 0.0,
    };
    if run.options.layers_only.is_none() {
        let (answers, hidden) = a.finish(&subject.task)?;
        if measured.broken.is_none() {
            let odd = answers.iter().flat_map(|n| &n.numbers).filter(|x| !x.is_finite()).count() as u64;
            measured.broken = (odd > 0).then_some((Some(layer_count), odd));
        }
        if let Some(path) = &run.options.logits {
            write(run, path, rows, &lengths, &answers, &hidden, report)?;
        }
        if let Some(b) = &mut b {
            measured.theirs = Some(b.finish(&run.subject.task)?.0);
            measured.mine = answers;
        } else if let Some(reference) = run.reference {
            let (found, theirs) = of_file(reference, quantity(&subject.task), &lengths)?;
            measured.mine = if found == quantity(&subject.task) { answers } else { hidden };
            measured.quantity = found;
            measured.theirs = Some(theirs);
        }
    }
    measured.seconds = started.elapsed().as_secs_f64();
    Ok(measured)
}

/// Each text of each batch: the batch, the text in it, its tokens.
fn each_text(side: &Side<'_>, mut f: impl FnMut(usize, usize, usize) -> Result<()>) -> Result<()> {
    for (at, running) in side.running.iter().enumerate() {
        for (text, &length) in running.lengths.iter().enumerate() {
            f(at, text, length)?;
        }
    }
    Ok(())
}

/// Notes the first place behind which something is not finite.
fn look(side: &Side<'_>, place: Option<usize>, broken: &mut Option<(Option<usize>, u64)>) -> Result<()> {
    if broken.is_none() {
        let mut odd = 0u64;
        each_text(side, |at, text, length| {
            let states = states(&side.running[at].x, text, length)?;
            odd += states.numbers.iter().filter(|x| !x.is_finite()).count() as u64;
            Ok(())
        })?;
        *broken = (odd > 0).then_some((place, odd));
    }
    Ok(())
}

/// A file's answers: of the kind that the model is for, else its hidden states.
fn of_file(
    reference: &Reference,
    wanted: (Quantity, Extent),
    lengths: &[usize],
) -> Result<((Quantity, Extent), Vec<Numbers>)> {
    let hidden = (Quantity::Hidden, Extent::Each);
    for (quantity, extent) in [wanted, hidden] {
        let Some(answer) = reference.find(quantity)? else { continue };
        if answer.extent != extent {
            return Err(Error::bad_input(
                "has one answer for each text where one for each token is needed, or the other way",
            )
            .file(reference.name.clone()));
        }
        let numbers = lengths.iter().enumerate().map(|(row, &length)| {
            let positions: Range<usize> = if extent == Extent::One { 0..1 } else { 0..length };
            let numbers = reference.numbers(&answer, row, positions, 0..answer.width)?;
            Ok(Numbers { width: usize::try_from(answer.width).unwrap_or(usize::MAX), numbers })
        });
        return Ok(((quantity, extent), numbers.collect::<Result<_>>()?));
    }
    Err(Error::bad_input("has nothing that this model gives: no embeddings, scores or hidden states")
        .file(reference.name.clone()))
}

/// Checks `embeddings` or `labels`.
fn answer(run: &Run<'_>, found: &Measured, limits: &Limits) -> Result<Option<Check>> {
    let (quantity, _) = found.quantity;
    let classes = match &run.subject.task {
        Task::Sequence(classes) | Task::Token(classes) if quantity == Quantity::Scores => Some(classes),
        _ => None,
    };
    let name = if classes.is_some() { "labels" } else { "embeddings" };
    let Some(theirs) = &found.theirs else {
        let why = "there is nothing to compare them with (--against, --reference)";
        return Ok(Some(Check::skipped(name, why)));
    };
    for (mine, theirs) in found.mine.iter().zip(theirs) {
        if mine.width != theirs.width || mine.numbers.len() != theirs.numbers.len() {
            return Err(Error::bad_input(format!(
                "the two give {} numbers of a text, and {}: they are not the same model",
                mine.width, theirs.width
            )));
        }
    }
    let pairs = || found.mine.iter().zip(theirs);
    let Some(classes) = classes else {
        let texts: Vec<Vectors> = pairs()
            .map(|(mine, theirs)| {
                let mut vectors = Vectors::default();
                vectors.add(&theirs.numbers, &mine.numbers);
                vectors
            })
            .collect();
        return Ok(Some(report::embeddings(&texts, limits)));
    };
    let what = if classes.pooling.is_some() { "texts" } else { "tokens" };
    let is_score = found.mine.iter().all(|numbers| numbers.width == 1);
    let (same, of, first, scores) = (0, 0, None, Vectors::default());
    let mut labels = Labels { what, is_score, same, of, first, scores };
    for (mine, theirs) in pairs() {
        labels.scores.add(&theirs.numbers, &mine.numbers);
        for (mine, theirs) in mine.rows().zip(theirs.rows()) {
            let (a, b) = (label(classes, mine), label(classes, theirs));
            if a == b {
                labels.same += 1;
            } else if labels.first.is_none() {
                labels.first = Some((labels.of, a, b));
            }
            labels.of += 1;
        }
    }
    Ok(Some(report::labels(&labels, limits)))
}

/// The label of some scores: the likeliest; all that are more likely than not, where each is for itself.
fn label(classes: &Classes, scores: &[f32]) -> String {
    let name = |at: usize| classes.labels.get(at).cloned().unwrap_or_else(|| format!("LABEL_{at}"));
    if classes.probability == Probability::Softmax && scores.len() > 1 {
        let best = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
        return best.map_or(String::new(), |(at, _)| name(at));
    }
    let of: Vec<String> =
        scores.iter().enumerate().filter(|(_, x)| **x > 0.0).map(|(at, _)| name(at)).collect();
    if of.is_empty() { "none".to_owned() } else { of.join(", ") }
}

/// Writes what the model gives, and the last hidden states.
fn write(
    run: &Run<'_>,
    path: &std::path::Path,
    rows: &[Row],
    lengths: &[usize],
    answers: &[Numbers],
    hidden: &[Numbers],
    report: &mut Report,
) -> Result<()> {
    let cut: Vec<Row> = rows
        .iter()
        .zip(lengths)
        .map(|(row, &length)| Row {
            ids: row.ids.iter().copied().take(length).collect(),
            types: row.types.as_ref().map(|types| types.iter().copied().take(length).collect()),
        })
        .collect();
    if rows.iter().zip(lengths).any(|(row, &length)| row.ids.len() > length) {
        report.notes.push("texts were cut to the model's length before they were written".to_owned());
    }
    let own = quantity(&run.subject.task);
    let width = |of: &[Numbers]| of.first().map_or(0, |n| n.width as u64);
    let mut columns = vec![Column { quantity: Quantity::Hidden, extent: Extent::Each, width: width(hidden) }];
    let mut all = vec![hidden];
    if own.0 != Quantity::Hidden {
        columns.push(Column { quantity: own.0, extent: own.1, width: width(answers) });
        all.push(answers);
    }
    let models: Vec<_> = std::iter::once(&*run.subject.model).chain(run.against.map(|s| &*s.model)).collect();
    let writing = Writing::create(path, &cut, &columns, &models, run.options.force)?;
    for (column, (of, texts)) in columns.iter().zip(all).enumerate() {
        for (row, numbers) in texts.iter().enumerate() {
            let positions = if of.extent == Extent::One { 0..1 } else { 0..lengths[row] };
            writing.numbers(column, row, positions, 0..of.width, &numbers.numbers)?;
        }
    }
    writing.finish()
}
