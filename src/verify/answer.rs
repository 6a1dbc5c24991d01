//! Using a model instead of measuring it: what it says to a prompt, to a text, to a pair of texts.
//!
//! The same weights, tokenizer and layers as in a measured pass; what differs is only what is done with the last layer's
//! output. That makes an answer a check of its own: a model that speaks nonsense here is broken whatever a report says.

mod entities;
mod prompt;
mod texts;

use crate::error::{Error, ErrorKind, Result};
use crate::open::Model;
use crate::run::job::{Control, Job};
use crate::text::Shown;
use crate::transform::task::Task;
use crate::verify::Options;
use crate::verify::checks::Setting;
use crate::verify::subject::Subject;
use crate::verify::text::Tokenizer;
use std::ops::{ControlFlow, Range};
use std::time::Instant;

/// What a model is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Question {
    /// To go on with a text.
    Prompt(Prompt),
    /// For a vector of each text.
    Embed(Vec<String>),
    /// How well each document answers its query.
    Pairs(Vec<(String, String)>),
    /// To which of its classes each text belongs.
    Classify(Vec<String>),
    /// What each text names.
    Entities(Vec<String>),
}

/// A text to go on with.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// The text.
    pub text: String,
    /// Where it is put into the model's chat template.
    pub chat: Option<Chat>,
    /// The most new tokens.
    pub max_tokens: usize,
    /// 0 takes the likeliest token; above, tokens are drawn.
    pub temperature: f64,
    /// Tokens are drawn from the likeliest that together have this probability.
    pub top_p: f64,
    /// Another seed draws other tokens.
    pub seed: u64,
}

/// How a prompt becomes a conversation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chat {
    /// The name of one of the model's templates; its default where nobody says.
    pub name: Option<String>,
    /// A template of the user's own, in place of the model's.
    pub template: Option<String>,
    /// What the system says first.
    pub system: Option<String>,
}

/// An answer, text for text in the order of the question.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// What followed the prompt.
    Text(Said),
    /// Vectors.
    Vectors(Vec<Vec<f32>>),
    /// Scores of pairs.
    Scores(Vec<f32>),
    /// Each text's classes, the likeliest first.
    Classes(Vec<Vec<Class>>),
    /// What each text names, from its beginning on.
    Entities(Vec<Vec<Entity>>),
}

/// What followed a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    /// The new text.
    pub text: String,
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Tokens of the prompt, template and all.
    pub prompt_tokens: usize,
    /// Tokens of the prompt a second.
    pub prefill_tokens_per_second: f64,
    /// New tokens a second.
    pub decode_tokens_per_second: f64,
    /// Why it ended: `end of text`, `max tokens`, `context`.
    pub stopped_by: &'static str,
}

/// A class.
#[derive(Debug, Clone, PartialEq)]
pub struct Class {
    /// Its name.
    pub label: String,
    /// What the model gave.
    pub score: f32,
    /// What that is as a probability; the score itself where the model says that it is what is asked for.
    pub probability: f32,
}

/// What a text names.
#[derive(Debug, Clone, PartialEq)]
pub struct Entity {
    /// What kind of thing, without the `B-` and `I-` of its tokens.
    pub label: String,
    /// Where, in characters of the text.
    pub characters: Range<usize>,
    /// The text there.
    pub text: String,
    /// The mean of its tokens' probabilities.
    pub probability: f32,
}

/// An answer, and how it came about.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    /// The answer.
    pub answer: Answer,
    /// The model.
    pub model: String,
    /// Its family.
    pub family: &'static str,
    /// Wall-clock seconds until the weights were there.
    pub load_seconds: f64,
    /// Wall-clock seconds of the whole.
    pub seconds: f64,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Asks a model. Of [`Options`] those count that say how to compute: type, device, memory, threads, `native`. Each piece of a
/// text that follows a prompt is given to `on_text` when it is there, until that says to stop.
///
/// # Errors
/// `Unsupported`: nobody knows how the model computes, or its chat template uses what is not rendered here. `Usage`: the model
/// is not for what is asked of it. `NotFound`: it has no tokenizer. `NoSpace`: not even a layer fits. `CheckFailed`: what comes
/// out is not finite.
pub fn answer(
    model: Model,
    question: Question,
    options: Options,
    mut on_text: impl FnMut(&str) -> ControlFlow<()> + Send + 'static,
) -> Job<Answered> {
    Job::start("answer", false, move |control| work(model, &question, &options, control, &mut on_text))
}

fn work(
    model: Model,
    question: &Question,
    options: &Options,
    control: &Control,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Answered> {
    let began = Instant::now();
    let setting = Setting::of(options, control)?;
    let subject = Subject::of(model)?;
    // All that can be refused is refused before weights are loaded.
    suits(question, &subject)?;
    let tokenizer = Tokenizer::of(&subject)?.ok_or_else(|| {
        Error::not_found("there is no tokenizer beside the weights, so a text cannot be read")
            .file(subject.name.clone())
    })?;
    let mut notes = subject.notes.clone();
    let prepared = match question {
        Question::Prompt(prompt) => {
            Prepared::Prompt(prompt, prompt::ids(prompt, &subject, &tokenizer, &mut notes)?)
        }
        _ => Prepared::Texts(texts::Texts::read(question, &subject, &tokenizer, &mut notes)?),
    };
    let weights = setting.weights(&[&subject])?.pop().ok_or_else(|| Error::bug("a model without weights"))?;
    let load_seconds = began.elapsed().as_secs_f64();
    let answer = match prepared {
        Prepared::Prompt(prompt, ids) => {
            Answer::Text(prompt::said(prompt, &ids, &subject, &weights, &tokenizer, control, on_text)?)
        }
        Prepared::Texts(texts) => texts.answer(&subject, &weights, control)?,
    };
    Ok(Answered {
        answer,
        model: subject.name.clone(),
        family: subject.family.name(),
        load_seconds,
        seconds: began.elapsed().as_secs_f64(),
        notes,
    })
}

/// A question as tokens.
enum Prepared<'q> {
    Prompt(&'q Prompt, Vec<u32>),
    Texts(texts::Texts<'q>),
}

/// Whether the model is for what is asked of it.
fn suits(question: &Question, subject: &Subject) -> Result<()> {
    let (asked, suits) = match (question, &subject.task) {
        (Question::Prompt(_), task) => ("goes on with a text", *task == Task::Causal),
        (Question::Embed(_), task) => ("makes one vector of a text", matches!(task, Task::Embedding(_))),
        (Question::Pairs(_), task) => ("scores pairs of texts", matches!(task, Task::Sequence(_))),
        (Question::Classify(_), task) => ("tells texts apart", matches!(task, Task::Sequence(_))),
        (Question::Entities(_), task) => ("tells tokens apart", matches!(task, Task::Token(_))),
    };
    if suits {
        return Ok(());
    }
    let (is, hint) = match &subject.task {
        Task::Causal => ("predicts the next token", "--prompt asks for that"),
        Task::Embedding(_) => ("makes one vector of a text", "--embed asks for that"),
        Task::Hidden => (
            "gives hidden states and says nothing of what they are for",
            "sentence-transformers' modules.json, or a GGUF's `pooling_type`, says how they become one vector",
        ),
        Task::Sequence(_) => ("tells texts apart", "--classify or --pair asks for that"),
        Task::Token(_) => ("tells tokens apart", "--ner asks for that"),
    };
    let message = format!("nothing in `{}` {asked}: by its files it {is}", Shown(&subject.name));
    Err(Error::usage(message).hint(hint))
}

/// An error where the job was cancelled.
fn check(control: &Control) -> Result<()> {
    if control.is_stopped() { Err(Error::new(ErrorKind::Signal(2), "cancelled")) } else { Ok(()) }
}
