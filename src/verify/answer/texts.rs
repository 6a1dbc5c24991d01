//! What a model makes of texts: vectors, scores, classes, things named.
//!
//! Texts go side by side, those of like length together, and all batches pass a layer before the next one is loaded: a model
//! that does not fit into memory is read once, however many texts there are.

use super::entities::entities;
use super::{Answer, Class, Question, check};
use crate::error::{Error, ErrorKind, Result};
use crate::run::job::Control;
use crate::text::Shown;
use crate::transform::task::{self, Classes, Task};
use crate::verify::encoder::{Batch, Encoder, Running};
use crate::verify::stack::Pass;
use crate::verify::subject::Subject;
use crate::verify::text::{Encoded, Tokenizer};
use crate::verify::weights::{Stage, Weights};
use std::ops::Range;

/// Tokens of a batch, padding included.
const TOKENS_MAX: usize = 4096;

/// Texts as tokens.
pub(super) struct Texts<'q> {
    question: &'q Question,
    encoded: Vec<Encoded>,
    /// The most tokens of one.
    length: usize,
}

impl<'q> Texts<'q> {
    /// Reads what is asked.
    pub(super) fn read(
        question: &'q Question,
        subject: &Subject,
        tokenizer: &Tokenizer,
        notes: &mut Vec<String>,
    ) -> Result<Texts<'q>> {
        let each = |texts: &[String]| -> Result<Vec<Encoded>> {
            texts.iter().map(|text| tokenizer.encode_with_offsets(text)).collect()
        };
        let encoded = match question {
            Question::Embed(texts) | Question::Classify(texts) | Question::Entities(texts) => each(texts)?,
            Question::Pairs(pairs) => pairs
                .iter()
                .map(|(query, document)| tokenizer.encode_pair(query, document))
                .collect::<Result<_>>()?,
            Question::Prompt(_) => return Err(Error::bug("a prompt is no text to be judged")),
        };
        let json = |name: &str| subject.model.json(name);
        let said = task::max_length(
            &subject.config,
            json("tokenizer_config.json")?.as_ref(),
            json("sentence_bert_config.json")?.as_ref(),
        )?;
        let length = said.unwrap_or(usize::MAX);
        let long: Vec<usize> =
            encoded.iter().enumerate().filter(|(_, e)| e.ids.len() > length).map(|(at, _)| at + 1).collect();
        if let [first, ..] = long[..] {
            let which = match long.len() {
                1 => format!("text {first} is"),
                n => format!("{n} texts are"),
            };
            notes.push(format!("{which} cut to the {length} tokens that the model was made for"));
        }
        Ok(Texts { question, encoded, length })
    }

    /// Answers.
    pub(super) fn answer(&self, subject: &Subject, weights: &Weights, control: &Control) -> Result<Answer> {
        let encoder = Encoder::new(subject, weights)?;
        let batches = self.batches();
        let mut running = Vec::with_capacity(batches.len());
        for places in &batches {
            check(control)?;
            running.push(encoder.start(&self.batch(places)?)?);
        }
        for index in 0..subject.forward.layers.len() {
            let tensors = weights.stage(Stage::Layer(index))?;
            for batch in &mut running {
                check(control)?;
                let pass = Pass::new(0, batch.mask.as_ref());
                batch.x = encoder.layer(index, &tensors, &batch.x, &pass)?;
            }
        }
        let back = weights.stage(Stage::Back)?;
        for batch in &mut running {
            batch.x = encoder.finish(&back, &batch.x)?;
        }
        /// Results of batches, text for text as they were asked.
        fn in_order<T: Default + Clone>(
            count: usize,
            batches: &[Vec<usize>],
            running: &[Running],
            of: impl Fn(&Running) -> Result<Vec<T>>,
        ) -> Result<Vec<T>> {
            let mut all = vec![T::default(); count];
            for (places, batch) in batches.iter().zip(running) {
                for (&place, result) in places.iter().zip(of(batch)?) {
                    if let Some(slot) = all.get_mut(place) {
                        *slot = result;
                    }
                }
            }
            Ok(all)
        }
        let count = self.encoded.len();
        Ok(match (self.question, &subject.task) {
            (Question::Embed(_), _) => {
                let vectors = in_order(count, &batches, &running, |batch| encoder.embed_of(batch))?;
                finite(subject, vectors.iter().flatten())?;
                Answer::Vectors(vectors)
            }
            (Question::Entities(texts), Task::Token(classes)) => {
                let scores =
                    in_order(count, &batches, &running, |batch| encoder.tokens_of_running(batch, &back))?;
                finite(subject, scores.iter().flatten().flatten())?;
                let of = |((text, encoded), scores): ((&String, &Encoded), &Vec<Vec<f32>>)| {
                    entities(text, classes, scores, &self.places(encoded))
                };
                Answer::Entities(texts.iter().zip(&self.encoded).zip(&scores).map(of).collect())
            }
            (question, Task::Sequence(classes)) => {
                let scores = in_order(count, &batches, &running, |batch| encoder.classify_of(batch, &back))?;
                finite(subject, scores.iter().flatten())?;
                match (question, classes.labels.len()) {
                    (Question::Pairs(_), 1) => {
                        let score = |scores: &Vec<f32>| classes.probability.of(scores).first().copied();
                        Answer::Scores(scores.iter().filter_map(score).collect())
                    }
                    _ => Answer::Classes(scores.iter().map(|scores| ranked(classes, scores)).collect()),
                }
            }
            _ => return Err(Error::bug("a question that the model is not for")),
        })
    }

    /// Texts of like length together, by their places.
    fn batches(&self) -> Vec<Vec<usize>> {
        let length = |at: usize| self.encoded.get(at).map_or(0, |e| e.ids.len().min(self.length));
        let mut order: Vec<usize> = (0..self.encoded.len()).collect();
        order.sort_by_key(|&at| std::cmp::Reverse(length(at)));
        let mut batches: Vec<Vec<usize>> = Vec::new();
        for at in order {
            match batches.last_mut() {
                // The first of a batch is its longest.
                Some(batch)
                    if batch.first().map_or(0, |&first| length(first)).saturating_mul(batch.len() + 1)
                        <= TOKENS_MAX =>
                {
                    batch.push(at);
                }
                _ => batches.push(vec![at]),
            }
        }
        batches
    }

    fn batch(&self, places: &[usize]) -> Result<Batch> {
        let of = |pick: fn(&Encoded) -> &Vec<u32>| -> Vec<Vec<u32>> {
            places.iter().filter_map(|&at| self.encoded.get(at)).map(|e| pick(e).clone()).collect()
        };
        let ends = self.encoded.first().is_some_and(ends);
        Ok(Batch::new(of(|e| &e.ids), of(|e| &e.types))?.truncated(self.length, ends))
    }

    /// Where the tokens that the model saw lie in their text; `None` for those that stand for no text.
    fn places(&self, encoded: &Encoded) -> Vec<Option<Range<usize>>> {
        let place = |(&(from, to), &special): (&(usize, usize), &bool)| (!special).then_some(from..to);
        let mut places: Vec<_> = encoded.offsets.iter().zip(&encoded.special).map(place).collect();
        if places.len() > self.length {
            places.truncate(self.length);
            if let (Some(last), true) = (places.last_mut(), ends(encoded)) {
                *last = None;
            }
        }
        places
    }
}

/// Whether the tokenizer ends a text with a token of its own.
fn ends(encoded: &Encoded) -> bool {
    encoded.special.last().copied().unwrap_or(false)
}

/// Classes by their scores, the likeliest first.
fn ranked(classes: &Classes, scores: &[f32]) -> Vec<Class> {
    let probabilities = classes.probability.of(scores);
    let each = scores.iter().zip(probabilities).enumerate();
    let mut all: Vec<Class> = each
        .map(|(number, (&score, probability))| Class {
            label: classes.labels.get(number).cloned().unwrap_or_else(|| format!("LABEL_{number}")),
            score,
            probability,
        })
        .collect();
    all.sort_by(|a, b| b.score.total_cmp(&a.score));
    all
}

/// Numbers that are none answer nothing.
fn finite<'n>(subject: &Subject, numbers: impl Iterator<Item = &'n f32>) -> Result<()> {
    match numbers.filter(|x| !x.is_finite()).count() {
        0 => Ok(()),
        n => {
            let message =
                format!("`{}` computes nothing: {n} of its numbers are not finite", Shown(&subject.name));
            Err(Error::new(ErrorKind::CheckFailed, message)
                .hint("hoist verify without a text says where that begins"))
        }
    }
}
