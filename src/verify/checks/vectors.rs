//! Models that make vectors or classes of texts, measured: one by itself, or against another that is known to be right.
//!
//! As with models that predict tokens ([`crate::verify::causal`]) two of them pass each layer one after the other, and texts
//! pass in groups, as many as memory has room for. What is compared behind the last layer is what the model is for: hidden
//! states, one vector for each text, scores. Of a group that has passed only sums stay.

mod found;
mod side;
mod texts;

use super::{Run, of_model};
use crate::error::{Error, ErrorKind, Result};
use crate::open::Model;
use crate::text::Shown;
use crate::transform::task::Task;
use crate::verify::Scoring;
use crate::verify::encoder::Batch;
use crate::verify::metrics::Vectors;
use crate::verify::reference::write::{Column, Writing};
use crate::verify::reference::{Answer, Extent, Quantity, Reference, Row};
use crate::verify::report::{self, Check, Layer, Report, Timing};
use crate::verify::subject::Subject;
use crate::verify::text::Tokenizer;
use crate::verify::weights::Weights;
use found::Compared;
use side::{Made, Numbers, Side};
use std::ops::Range;
use std::time::Instant;

/// Texts of a batch: each is padded to the longest of them.
const BATCH_TEXTS: usize = 8;

/// Whether a text has one vector, or one for each token, and what they are.
fn quantity(task: &Task) -> (Quantity, Extent) {
    match task {
        Task::Causal | Task::Hidden => HIDDEN,
        Task::Embedding(_) => (Quantity::Embeddings, Extent::One),
        Task::Sequence(_) => (Quantity::Scores, Extent::One),
        Task::Token(_) => (Quantity::Scores, Extent::Each),
    }
}

const HIDDEN: (Quantity, Extent) = (Quantity::Hidden, Extent::Each);

/// Refuses what only models that predict tokens have: who asks for it relies on it.
fn check_wishes(run: &Run<'_>) -> Result<()> {
    let (options, gate) = (run.options, &run.options.gate);
    let refused = |message: String, hint: &str| {
        Err(Error::usage(message).file(run.subject.name.clone()).hint(hint.to_owned()))
    };
    let is_scored = options.scoring != Scoring::Windows { window: None, stride: None };
    if options.text.is_some() || is_scored || gate.max_perplexity_increase.is_some() {
        let message = "an encoder predicts no next token, so it has no perplexity".to_owned();
        return refused(message, "--prompt gives a text to compare two models on");
    }
    let of_tokens = [
        ("KL divergence", gate.max_kl),
        ("top-1 agreement", gate.min_top1),
        ("top-5 agreement", gate.min_top5),
    ];
    if let Some((what, _)) = of_tokens.iter().find(|(_, limit)| limit.is_some()) {
        let message = format!("an encoder predicts no next token, so it has no {what} to be limited");
        return refused(message, "--min-cosine and --max-rel are limits of vectors and scores");
    }
    Ok(())
}

/// Runs the checks of a model that makes vectors or classes of texts.
pub(super) fn run(run: &Run<'_>, report: &mut Report) -> Result<()> {
    let subject = run.subject;
    check_wishes(run)?;
    if let Some(against) = run.against {
        if quantity(&against.task) != quantity(&subject.task) {
            return Err(Error::bad_input(format!(
                "`{}` and `{}` are for different tasks",
                Shown(&subject.name),
                Shown(&against.name)
            )));
        }
        crate::verify::causal::comparable(subject, against)?;
    }
    let layers = run.layers_only(subject.forward.layers.len())?;
    let answer = run.reference.map(|reference| of_file(reference, quantity(&subject.task))).transpose()?;
    // A broken tokenizer is a finding; the other model's may still serve, and a file of ids needs none.
    let (mine, broken) = match Tokenizer::of(subject).map_err(|e| of_model(e, subject)) {
        Ok(mine) => (mine, None),
        Err(e) if run.against.is_some() || run.reference.is_some() => (None, Some(e)),
        Err(e) => return Err(e),
    };
    let (mut tokenizer, theirs) = run.tokenizer(mine.as_ref(), texts::text(run))?;
    let is_broken = broken.is_some();
    if let Some(e) = broken {
        tokenizer = Check::failed("tokenizer", "", e.to_string());
    }
    let texts = texts::texts(run, theirs.as_ref().or(mine.as_ref()), is_broken)?;
    report.notes.extend(texts.notes);
    let (weights, other) = run.weights()?;
    let limits = run.limits(&weights, other.as_ref());
    let writing = run.options.logits.as_deref().map(|path| Written::create(run, path, &texts.rows));
    let of = Measure {
        run,
        rows: &texts.rows,
        layers,
        weights: &weights,
        other: other.as_ref(),
        answer,
        writing: writing.transpose()?,
        tokens_at_once: run.tokens_at_once(&weights, other.as_ref()),
    };
    // The model's own tensors that do not fit each other are found where they meet.
    let measured = match measure(of) {
        Ok(measured) => Ok(measured),
        Err(e) if e.kind() == ErrorKind::CheckFailed => Err(e),
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
    let answer = whole.then(|| match &measured.compared {
        Some(compared) => compared.check(&limits),
        None => found::skipped(subject),
    });
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

/// Answers of a file, and what they are.
struct Answers<'a> {
    reference: &'a Reference,
    answer: Answer,
    quantity: Quantity,
}

/// A file's answers: of the kind that the model is for, else its hidden states.
fn of_file(reference: &Reference, wanted: (Quantity, Extent)) -> Result<Answers<'_>> {
    for (quantity, extent) in [wanted, HIDDEN] {
        let Some(answer) = reference.find(quantity)? else { continue };
        if answer.extent != extent {
            return Err(Error::bad_input(
                "has one answer for each text where one for each token is needed, or the other way",
            )
            .file(reference.name.clone()));
        }
        return Ok(Answers { reference, answer, quantity });
    }
    Err(Error::bad_input("has nothing that this model gives: no embeddings, scores or hidden states")
        .file(reference.name.clone()))
}

impl Answers<'_> {
    /// Those of a row of so many tokens.
    fn of(&self, row: usize, tokens: usize) -> Result<Numbers> {
        let Answer { extent, width, .. } = self.answer;
        let positions = if extent == Extent::One { 0..1 } else { 0..tokens };
        let numbers = self.reference.numbers(&self.answer, row, positions, 0..width)?;
        Ok(Numbers { width: usize::try_from(width).unwrap_or(usize::MAX), numbers })
    }
}

/// What is measured, and how.
struct Measure<'a> {
    run: &'a Run<'a>,
    rows: &'a [Row],
    layers: Option<Range<usize>>,
    weights: &'a Weights,
    other: Option<&'a Weights>,
    answer: Option<Answers<'a>>,
    writing: Option<Written>,
    tokens_at_once: usize,
}

/// What was measured.
struct Measured<'a> {
    /// The first place behind which a number was not finite (`None`: the embedding; else the layer), and how many.
    broken: Option<(Option<usize>, u64)>,
    layers: Vec<Layer>,
    compared: Option<Compared<'a>>,
    tokens: u64,
    seconds: f64,
}

fn measure<'a>(of: Measure<'a>) -> Result<Measured<'a>> {
    let Measure { run, rows, weights, other, answer, mut writing, tokens_at_once, .. } = of;
    let subject = run.subject;
    let layer_count = subject.forward.layers.len();
    let whole = of.layers.is_none();
    let layers = of.layers.unwrap_or(0..layer_count);
    let mut a = Side::new(subject, weights, false)?;
    let mut b = match (run.against, other) {
        (Some(subject), Some(weights)) => Some(Side::new(subject, weights, true)?),
        _ => None,
    };
    let own = quantity(&subject.task).0;
    let found = answer.as_ref().map_or(own, |answer| answer.quantity);
    let is_compared = whole && (b.is_some() || answer.is_some());
    // What a file has where it has nothing else, and what is written beside what the model is for.
    let hidden = writing.is_some() || found != own;
    let mut measured = Measured {
        broken: None,
        layers: layers.clone().map(|index| Layer { index, states: Vectors::default() }).collect(),
        compared: is_compared.then(|| Compared::new(run, found)),
        tokens: 0,
        seconds: 0.0,
    };
    let started = Instant::now();
    let groups = groups(rows, tokens_at_once);
    let steps = groups.len() as u64 * layers.len() as u64;
    let mut done = 0;
    let mut first = 0;
    for group in groups {
        let batches = group.iter().map(|range| batch(rows, range.clone())).collect::<Result<Vec<_>>>()?;
        a.start(&batches)?;
        if let Some(b) = &mut b {
            b.start(&batches)?;
        }
        measured.look(&a, None)?;
        for (at, index) in layers.clone().enumerate() {
            a.layer(index, run.control)?;
            if let Some(b) = &mut b {
                b.layer(index, run.control)?;
                for (mine, theirs) in a.states().zip(b.states()) {
                    measured.layers[at].states.add(&theirs?.numbers, &mine?.numbers);
                }
            }
            measured.look(&a, Some(index))?;
            done += 1;
            run.control.step(|| format!("layer {}/{layer_count}", index + 1), done, steps);
        }
        let texts = group.iter().map(Range::len).sum::<usize>();
        let own = rows.get(first..first + texts).unwrap_or_default();
        measured.tokens += own.iter().map(|row| row.ids.len() as u64).sum::<u64>();
        if whole {
            let theirs = b.as_mut().map(|b| b.finish(&subject.task, false)).transpose()?;
            let mine = a.finish(&subject.task, hidden)?;
            if measured.broken.is_none() {
                let numbers = mine.iter().flat_map(|made| &made.answer.numbers);
                let odd = numbers.filter(|x| !x.is_finite()).count() as u64;
                measured.broken = (odd > 0).then_some((Some(layer_count), odd));
            }
            for (at, (made, row)) in mine.iter().zip(own).enumerate() {
                if let Some(writing) = &mut writing {
                    writing.text(first + at, row.ids.len(), made)?;
                }
                let Some(compared) = &mut measured.compared else { continue };
                if let Some(theirs) = theirs.as_ref().and_then(|theirs| theirs.get(at)) {
                    let name = run.against.map_or("", |against| against.name.as_str());
                    compared.add(&made.answer, &theirs.answer, name)?;
                } else if let Some(answer) = &answer {
                    let mine = made.hidden.as_ref().filter(|_| found != quantity(&subject.task).0);
                    let theirs = answer.of(first + at, row.ids.len())?;
                    compared.add(mine.unwrap_or(&made.answer), &theirs, &answer.reference.name)?;
                }
            }
        }
        first += texts;
    }
    if b.is_none() {
        measured.layers.clear();
    }
    if let Some(writing) = writing {
        writing.writing.finish()?;
    }
    measured.seconds = started.elapsed().as_secs_f64();
    Ok(measured)
}

impl Measured<'_> {
    /// Notes the first place behind which something is not finite.
    fn look(&mut self, side: &Side<'_>, place: Option<usize>) -> Result<()> {
        if self.broken.is_none() {
            let mut odd = 0u64;
            for states in side.states() {
                odd += states?.numbers.iter().filter(|x| !x.is_finite()).count() as u64;
            }
            self.broken = (odd > 0).then_some((place, odd));
        }
        Ok(())
    }
}

fn batch(rows: &[Row], range: Range<usize>) -> Result<Batch> {
    let rows = rows.get(range).unwrap_or_default();
    let types = rows.iter().map(|row| row.types.clone().unwrap_or_default()).collect();
    Batch::new(rows.iter().map(|row| row.ids.clone()).collect(), types)
}

/// Rows that pass side by side, and batches of them that pass one after the other, in the order of the rows: as many tokens
/// as fit, padding among them, and one row at least.
fn groups(rows: &[Row], tokens_at_once: usize) -> Vec<Vec<Range<usize>>> {
    let mut batches: Vec<(Range<usize>, usize)> = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        let length = row.ids.len();
        match batches.last_mut() {
            Some((range, longest))
                if range.len() < BATCH_TEXTS
                    && length.max(*longest).saturating_mul(range.len() + 1) <= tokens_at_once =>
            {
                range.end = at + 1;
                *longest = length.max(*longest);
            }
            _ => batches.push((at..at + 1, length)),
        }
    }
    let mut groups: Vec<Vec<Range<usize>>> = Vec::new();
    let mut count = 0usize;
    for (range, longest) in batches {
        let tokens = longest.saturating_mul(range.len());
        match groups.last_mut() {
            Some(group) if count.saturating_add(tokens) <= tokens_at_once => {
                group.push(range);
                count += tokens;
            }
            _ => {
                groups.push(vec![range]);
                count = tokens;
            }
        }
    }
    groups
}

/// What the model gives, and the last hidden states, on their way into a file.
struct Written {
    writing: Writing,
    columns: Vec<Column>,
}

impl Written {
    fn create(run: &Run<'_>, path: &std::path::Path, rows: &[Row]) -> Result<Written> {
        let subject = run.subject;
        let (own, extent) = quantity(&subject.task);
        let hidden = subject.forward.hidden as u64;
        let mut columns = vec![Column { quantity: HIDDEN.0, extent: HIDDEN.1, width: hidden }];
        if own != Quantity::Hidden {
            columns.push(Column { quantity: own, extent, width: width(subject) });
        }
        let models: Vec<&Model> =
            std::iter::once(&*subject.model).chain(run.against.map(|s| &*s.model)).collect();
        let writing = Writing::create(path, rows, &columns, &models, run.options.force)?;
        Ok(Written { writing, columns })
    }

    fn text(&mut self, row: usize, tokens: usize, made: &Made) -> Result<()> {
        let all = [made.hidden.as_ref(), Some(&made.answer)];
        for (column, (of, numbers)) in self.columns.iter().zip(all).enumerate() {
            let positions = if of.extent == Extent::One { 0..1 } else { 0..tokens };
            let numbers = numbers.ok_or_else(|| Error::bug("hidden states that nobody kept"))?;
            self.writing.numbers(column, row, positions, 0..of.width, &numbers.numbers)?;
        }
        Ok(())
    }
}

/// Numbers of what a model is for.
fn width(subject: &Subject) -> u64 {
    let hidden = subject.forward.hidden as u64;
    match &subject.task {
        Task::Embedding(embedding) => embedding.dense.last().map_or(hidden, |dense| dense.outputs as u64),
        Task::Sequence(_) | Task::Token(_) => {
            let head = subject.recipe.outputs.iter().find(|o| o.name == "cls.output.weight");
            head.and_then(|o| o.shape.first().copied()).unwrap_or(hidden)
        }
        Task::Causal | Task::Hidden => hidden,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_pass_in_groups_that_fit() {
        let rows = |lengths: &[usize]| -> Vec<Row> {
            lengths.iter().map(|&n| Row { ids: vec![0; n], types: None }).collect()
        };
        for (lengths, tokens, expected) in [
            (&[2, 2, 2][..], 100, vec![vec![0..3]]),
            (&[2, 2, 2], 4, vec![vec![0..2], vec![2..3]]),
            // A row that does not fit passes alone, and nothing is padded to it.
            (&[1, 9, 1, 1], 4, vec![vec![0..1], vec![1..2], vec![2..4]]),
            (&[3, 1, 1], 5, vec![vec![0..1, 1..3]]),
            (&[1; 10], 100, vec![vec![0..8, 8..10]]),
            (&[], 4, vec![]),
        ] {
            assert_eq!(groups(&rows(lengths), tokens), expected, "{lengths:?} {tokens}");
        }
    }
}
