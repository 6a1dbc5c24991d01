//! What a comparison of vectors or scores finds, text by text: no more than sums are kept of any.

use super::side::Numbers;
use super::{Quantity, Run};
use crate::error::{Error, Result};
use crate::transform::task::{Classes, Probability, Task};
use crate::verify::limits::Limits;
use crate::verify::metrics::Vectors;
use crate::verify::report::{self, Check, Labels};
use crate::verify::subject::Subject;

/// A vector shorter than this is divided by it instead of its length.
const LENGTH_MIN: f64 = 1e-12;

/// Figures so far.
pub(super) struct Compared<'a> {
    /// The classes that scores are of.
    classes: Option<&'a Classes>,
    /// Whether vectors are divided by their lengths first: one of the two models does not do so itself.
    unit: bool,
    texts: Vec<Vectors>,
    labels: Labels,
}

/// The classes of a model that has a head.
fn classes(subject: &Subject) -> Option<&Classes> {
    match &subject.task {
        Task::Sequence(classes) | Task::Token(classes) => Some(classes),
        _ => None,
    }
}

impl<'a> Compared<'a> {
    /// Of answers of a quantity.
    pub(super) fn new(run: &Run<'a>, quantity: Quantity) -> Compared<'a> {
        let normalises = |s: &&Subject| matches!(&s.task, Task::Embedding(e) if e.normalise);
        let classes = classes(run.subject).filter(|_| quantity == Quantity::Scores);
        let is_text = classes.is_none_or(|classes| classes.pooling.is_some());
        let labels = Labels {
            what: if is_text { "texts" } else { "tokens" },
            is_score: true,
            same: 0,
            of: 0,
            first: None,
            scores: Vectors::default(),
        };
        // A GGUF's vectors always are of length one, as llama.cpp gives them; those of what it was made of may not be.
        let one = [Some(run.subject), run.against].into_iter().flatten().any(|s| normalises(&s));
        Compared { classes, unit: one && quantity == Quantity::Embeddings, texts: Vec::new(), labels }
    }

    /// Takes what both made of a text; `other` is the name of what it is compared with.
    pub(super) fn add(&mut self, mine: &Numbers, theirs: &Numbers, other: &str) -> Result<()> {
        if mine.width != theirs.width || mine.numbers.len() != theirs.numbers.len() {
            return Err(Error::bad_input(format!(
                "gives {} numbers where {} are given by the model that is verified: it is not of the same model",
                theirs.width, mine.width
            ))
            .file(other));
        }
        let Some(classes) = self.classes else {
            let mut vectors = Vectors::default();
            match self.unit {
                true => vectors.add(&unit(theirs), &unit(mine)),
                false => vectors.add(&theirs.numbers, &mine.numbers),
            }
            self.texts.push(vectors);
            return Ok(());
        };
        let labels = &mut self.labels;
        labels.is_score &= mine.width == 1;
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
        Ok(())
    }

    /// Check `embeddings` or `labels`.
    pub(super) fn check(&self, limits: &Limits) -> Check {
        match self.classes {
            Some(_) => report::labels(&self.labels, limits),
            None => report::embeddings(&self.texts, limits),
        }
    }
}

/// The check that was not run where there is nothing to compare with.
pub(super) fn skipped(subject: &Subject) -> Check {
    let name = if classes(subject).is_some() { "labels" } else { "embeddings" };
    Check::skipped(name, "there is nothing to compare them with (--against, --reference)")
}

fn unit(of: &Numbers) -> Vec<f32> {
    let squares = |row: &[f32]| row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
    of.rows()
        .flat_map(|row| {
            let length = squares(row).sqrt().max(LENGTH_MIN);
            row.iter().map(move |&x| (f64::from(x) / length) as f32)
        })
        .collect()
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
