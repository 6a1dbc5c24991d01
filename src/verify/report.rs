//! What verifying found: checks by name, each with a line for a person and figures for a program. Nothing is printed here.
//!
//! A check that was not run is said to be so, and is never one that passed. A figure passes only where it keeps its limit:
//! one that is no number (nothing was compared) keeps none.

mod lines;
mod numbers;

pub use lines::{Labels, Layer, embeddings, labels, layers, logits, perplexity};

use crate::error::{Error, ErrorKind, Result};
use crate::text::Shown;
use serde_json::{Map, Value, json};

/// The name and version of the document that [`Report::document`] gives.
pub const SCHEMA: &str = "hoist.verify/1";

/// How a check ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Everything was as it must be.
    Passed,
    /// Something was not; what, in a few words.
    Failed(String),
    /// Figures without a limit.
    Reported,
    /// It was not run; why.
    Skipped(String),
}

/// One check.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// Its name: `tensors`, `tokenizer`, `forward`, `layers`, `logits`, `perplexity`, `embeddings`, `labels`.
    pub name: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found, in one line.
    pub line: String,
    /// More lines: findings one by one.
    pub details: Vec<String>,
    /// What was found, for a program.
    pub figures: Map<String, Value>,
}

impl Check {
    fn new(name: &'static str, outcome: Outcome, line: impl Into<String>) -> Check {
        Check { name, outcome, line: line.into(), details: Vec::new(), figures: Map::new() }
    }

    /// A check that found nothing wrong.
    pub fn passed(name: &'static str, line: impl Into<String>) -> Check {
        Check::new(name, Outcome::Passed, line)
    }

    /// A check that failed, and why in a few words: the figure and the limit.
    pub fn failed(name: &'static str, line: impl Into<String>, why: impl Into<String>) -> Check {
        Check::new(name, Outcome::Failed(why.into()), line)
    }

    /// Figures without a limit.
    pub fn reported(name: &'static str, line: impl Into<String>) -> Check {
        Check::new(name, Outcome::Reported, line)
    }

    /// A check that was not run, and why.
    pub fn skipped(name: &'static str, why: impl Into<String>) -> Check {
        Check::new(name, Outcome::Skipped(why.into()), "")
    }

    /// Adds a figure. One that JSON has no number for becomes null.
    pub fn figure(mut self, key: &str, value: impl Into<Value>) -> Check {
        self.figures.insert(key.to_owned(), value.into());
        self
    }

    /// Adds a line.
    pub fn detail(mut self, line: impl Into<String>) -> Check {
        self.details.push(line.into());
        self
    }

    /// Whether it failed.
    pub fn has_failed(&self) -> bool {
        matches!(self.outcome, Outcome::Failed(_))
    }

    fn lines(&self, lines: &mut Vec<String>) {
        match &self.outcome {
            Outcome::Skipped(why) => line(lines, self.name, &format!("not run: {why}")),
            Outcome::Failed(why) if self.line.is_empty() => line(lines, self.name, &format!("failed: {why}")),
            Outcome::Failed(why) => {
                line(lines, self.name, &self.line);
                line(lines, "", &format!("failed: {why}"));
            }
            Outcome::Passed | Outcome::Reported => line(lines, self.name, &self.line),
        }
        self.details.iter().for_each(|detail| line(lines, "", detail));
    }

    fn document(&self) -> Value {
        let (outcome, why) = match &self.outcome {
            Outcome::Passed => ("passed", None),
            Outcome::Failed(why) => ("failed", Some(why)),
            Outcome::Reported => ("reported", None),
            Outcome::Skipped(why) => ("skipped", Some(why)),
        };
        let mut fields = Map::new();
        fields.insert("name".into(), self.name.into());
        fields.insert("outcome".into(), outcome.into());
        if let Some(why) = why {
            fields.insert("why".into(), why.as_str().into());
        }
        if !self.line.is_empty() {
            fields.insert("line".into(), self.line.as_str().into());
        }
        if !self.details.is_empty() {
            fields.insert("details".into(), json!(self.details));
        }
        fields.insert("figures".into(), Value::Object(self.figures.clone()));
        Value::Object(fields)
    }
}

/// Columns that names of checks take.
const NAME_WIDTH: usize = 11;

fn line(lines: &mut Vec<String>, name: &str, text: &str) {
    lines.push(format!("{name:<NAME_WIDTH$}{text}").trim_end().to_owned());
}

/// How long it took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Timing {
    /// From the first read to the last figure.
    pub seconds: f64,
    /// Tokens that passed each model.
    pub tokens: u64,
    /// Seconds of the forward passes alone.
    pub forward_seconds: f64,
    /// Seconds on cores, the kernel's included, where the system says.
    pub cpu_seconds: Option<f64>,
}

/// What verifying a model found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// The model.
    pub model: String,
    /// What it was compared with: a model's or a file's name.
    pub against: Option<String>,
    /// The checks, in the order in which they are shown.
    pub checks: Vec<Check>,
    /// What was left out that a person might take for checked: layers, a head, an adapter.
    pub not_run: Vec<String>,
    /// What a person should know.
    pub notes: Vec<String>,
    /// How it was run, for a program: types, device, memory.
    pub run: Map<String, Value>,
    /// How long it took.
    pub timing: Timing,
}

impl Report {
    /// The check of a name.
    pub fn check(&self, name: &str) -> Option<&Check> {
        self.checks.iter().find(|check| check.name == name)
    }

    /// The checks that failed.
    pub fn failed(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.has_failed())
    }

    /// Whether no check failed, and at least one passed: nothing checked is nothing shown.
    pub fn passed(&self) -> bool {
        self.failed().next().is_none() && self.checks.iter().any(|c| c.outcome == Outcome::Passed)
    }

    /// Lines for a person: one a check, what was not run, and at the end one word.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        self.checks.iter().for_each(|check| check.lines(&mut lines));
        for left_out in &self.not_run {
            line(&mut lines, "not run", left_out);
        }
        let failed: Vec<&str> = self.failed().map(|check| check.name).collect();
        match failed.is_empty() {
            true if self.passed() => lines.push("ok".to_owned()),
            true => line(&mut lines, "nothing", "was checked"),
            false => line(&mut lines, "failed", &failed.join(", ")),
        }
        lines
    }

    /// The result for a program, without its schema ([`SCHEMA`]).
    pub fn document(&self) -> Value {
        let Timing { seconds, tokens, forward_seconds, cpu_seconds } = self.timing;
        json!({
            "model": self.model,
            "against": self.against,
            "ok": self.passed(),
            "failed": self.failed().map(|check| check.name).collect::<Vec<_>>(),
            "checks": self.checks.iter().map(Check::document).collect::<Vec<_>>(),
            "not_run": self.not_run,
            "run": self.run,
            "tokens": tokens,
            "seconds": seconds,
            "forward_seconds": forward_seconds,
            "tokens_per_second": (forward_seconds > 0.0).then(|| tokens as f64 / forward_seconds),
            "cpu_seconds": cpu_seconds,
            "notes": self.notes,
        })
    }

    /// An error where a check failed, with the first of them in its message.
    ///
    /// # Errors
    /// `CheckFailed`.
    pub fn verdict(&self) -> Result<()> {
        if self.passed() {
            return Ok(());
        }
        let model = Shown(&self.model);
        let mut failed = self.failed();
        let Some(first) = failed.next() else {
            return Err(Error::new(ErrorKind::CheckFailed, format!("nothing of `{model}` was checked")));
        };
        let why = match &first.outcome {
            Outcome::Failed(why) => why.as_str(),
            _ => "",
        };
        let others: Vec<String> = failed.map(|check| format!("`{}`", check.name)).collect();
        let also = if others.is_empty() { String::new() } else { format!("; {} too", others.join(", ")) };
        let error =
            Error::new(ErrorKind::CheckFailed, format!("`{model}` fails `{}`: {why}{also}", first.name));
        let part = self.check("layers").and_then(|check| check.figures.get("first_parting"));
        Err(match part.and_then(Value::as_u64) {
            Some(layer) => error.detail(format!("the two models first part in layer {layer}")),
            None => error,
        })
    }
}
