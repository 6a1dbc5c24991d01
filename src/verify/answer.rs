//! Using a model instead of measuring it: what it says to a prompt, to a text, to a pair of texts.
//!
//! The same weights, tokenizer and layers as in a measured pass; what differs is only what is done with the last layer's
//! output. That makes an answer a check of its own: a model that speaks nonsense here is broken whatever a report says.

use crate::error::{Error, Result};
use crate::open::Model;
use crate::run::job::{Control, Job};
use crate::verify::Options;
use std::ops::{ControlFlow, Range};

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
/// `Unsupported`: nobody knows how the model computes, or it is not for what is asked of it. `NoSpace`: not even a layer
/// fits. `CheckFailed`: what comes out is not finite.
pub fn answer(
    model: Model,
    question: Question,
    options: Options,
    mut on_text: impl FnMut(&str) -> ControlFlow<()> + Send + 'static,
) -> Job<Answered> {
    Job::start("answer", false, move |control| work(model, question, options, control, &mut on_text))
}

fn work(
    model: Model,
    question: Question,
    options: Options,
    control: &Control,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Answered> {
    let _ = (model, question, options, control, on_text);
    Err(Error::bug("not yet"))
}
