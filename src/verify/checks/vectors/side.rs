//! One of two models with a group of texts on its way through the layers.

use crate::error::{Error, ErrorKind, Result};
use crate::run::job::Control;
use crate::transform::task::Task;
use crate::verify::candle;
use crate::verify::encoder::{Batch, Encoder, Running};
use crate::verify::stack::Pass;
use crate::verify::subject::{Subject, other_fault};
use crate::verify::weights::{Stage, Weights};
use candle_core::{DType, Tensor};

/// Numbers of one text: `rows` vectors of `width` each (one of a text, or one of each token).
#[derive(Debug, Clone)]
pub(super) struct Numbers {
    pub(super) width: usize,
    pub(super) numbers: Vec<f32>,
}

impl Numbers {
    pub(super) fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.numbers.chunks(self.width.max(1))
    }
}

/// What a model makes of one text.
pub(super) struct Made {
    /// What it is for.
    pub(super) answer: Numbers,
    /// The last hidden states, where they are wanted.
    pub(super) hidden: Option<Numbers>,
}

/// One of the two models.
pub(super) struct Side<'a> {
    encoder: Encoder<'a>,
    weights: &'a Weights,
    /// Its name, of the model that the other is compared with.
    other: Option<&'a str>,
    running: Vec<Running>,
}

/// An error of one of the two: tensors that do not fit are what is looked for in the one, and make a check fail, and are a
/// broken reference in the `other`.
fn fault(error: Error, other: Option<&str>) -> Error {
    match (other, error.kind()) {
        (Some(name), _) => other_fault(error, name),
        (None, ErrorKind::BadInput) if error.tensor_name().is_some() => {
            error.kind_instead(ErrorKind::CheckFailed)
        }
        (None, _) => error,
    }
}

impl<'a> Side<'a> {
    pub(super) fn new(subject: &'a Subject, weights: &'a Weights, is_other: bool) -> Result<Side<'a>> {
        let other = is_other.then_some(subject.name.as_str());
        let encoder = Encoder::new(subject, weights).map_err(|e| fault(e, other))?;
        Ok(Side { encoder, weights, other, running: Vec::new() })
    }

    /// Takes the next group in place of the last.
    pub(super) fn start(&mut self, batches: &[Batch]) -> Result<()> {
        self.running.clear();
        for batch in batches {
            self.running.push(self.encoder.start(batch).map_err(|e| fault(e, self.other))?);
        }
        Ok(())
    }

    pub(super) fn layer(&mut self, index: usize, control: &Control) -> Result<()> {
        let other = self.other;
        self.pass_layer(index, control).map_err(|e| fault(e, other))
    }

    fn pass_layer(&mut self, index: usize, control: &Control) -> Result<()> {
        let tensors = self.weights.stage(Stage::Layer(index))?;
        for running in &mut self.running {
            if control.is_stopped() {
                // What is returned then is never shown.
                return Err(Error::bug("stopped"));
            }
            let pass = Pass::new(0, running.mask.as_ref());
            running.x = self.encoder.layer(index, &tensors, &running.x, &pass)?;
        }
        Ok(())
    }

    /// What the model is for, text by text; and the last hidden states where they are wanted.
    pub(super) fn finish(&mut self, task: &Task, hidden: bool) -> Result<Vec<Made>> {
        let other = self.other;
        self.pass_back(task, hidden).map_err(|e| fault(e, other))
    }

    fn pass_back(&mut self, task: &Task, hidden: bool) -> Result<Vec<Made>> {
        let back = self.weights.stage(Stage::Back)?;
        let one = |rows: Vec<Vec<f32>>| -> Vec<Numbers> {
            rows.into_iter().map(|row| Numbers { width: row.len(), numbers: row }).collect()
        };
        let mut all = Vec::new();
        for mut running in self.running.drain(..) {
            running.x = self.encoder.finish(&back, &running.x)?;
            let own = || states_of(&running).collect::<Result<Vec<_>>>();
            let answers = match task {
                Task::Causal | Task::Hidden => own()?,
                Task::Embedding(_) => one(self.encoder.embed_of(&running)?),
                Task::Sequence(_) => one(self.encoder.classify_of(&running, &back)?),
                Task::Token(_) => {
                    let texts = self.encoder.tokens_of_running(&running, &back)?.into_iter();
                    let width = |rows: &[Vec<f32>]| rows.first().map_or(0, Vec::len);
                    texts.map(|rows| Numbers { width: width(&rows), numbers: rows.concat() }).collect()
                }
            };
            let hidden =
                if hidden { own()?.into_iter().map(Some).collect() } else { vec![None; answers.len()] };
            all.extend(answers.into_iter().zip(hidden).map(|(answer, hidden)| Made { answer, hidden }));
        }
        Ok(all)
    }

    /// Hidden states of each text where they are now.
    pub(super) fn states(&self) -> impl Iterator<Item = Result<Numbers>> {
        self.running.iter().flat_map(states_of)
    }
}

/// Hidden states of each text of a batch `[texts, tokens, hidden]`, padding left out.
fn states_of(running: &Running) -> impl Iterator<Item = Result<Numbers>> {
    running.lengths.iter().enumerate().map(|(text, &length)| states(&running.x, text, length).map_err(candle))
}

fn states(x: &Tensor, text: usize, length: usize) -> candle_core::Result<Numbers> {
    let own = x.get(text)?.narrow(0, 0, length)?.to_dtype(DType::F32)?;
    Ok(Numbers { width: own.dim(1)?, numbers: own.flatten_all()?.to_vec1()? })
}
