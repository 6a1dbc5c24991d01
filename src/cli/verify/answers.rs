//! What a model that is asked answers: on standard output the answer alone, beside it how fast it came.

use super::Args;
use crate::cli::output::Out;
use crate::cli::progress::Watch;
use crate::cli::{Common, Progress, say, signals};
use hoist::open::Model;
use hoist::text::Shown;
use hoist::verify::Options;
use hoist::verify::answer::{Answer, Answered, Chat, Class, Entity, Prompt, Question, Said, answer};
use hoist::verify::report::SCHEMA;
use hoist::{Error, Result, machine};
use serde_json::{Value, json};
use std::io::{BufRead, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Whether the flags ask a question.
pub(super) fn is_asked(args: &Args) -> bool {
    let lists = [&args.embed, &args.pair, &args.classify, &args.ner];
    args.prompt.is_some() || lists.iter().any(|list| !list.is_empty())
}

/// The question that the flags ask, if they ask one.
pub(super) fn question(args: &Args, prompt: Option<&str>) -> Result<Option<Question>> {
    let texts = |flag: &str, texts: &[String]| match texts {
        [one] if one == "-" => lines_of_stdin(flag),
        texts => Ok(texts.to_vec()),
    };
    if let Some(prompt) = prompt {
        return Ok(Some(Question::Prompt(Prompt {
            text: prompt.to_owned(),
            chat: if args.chat { Some(chat(args)?) } else { None },
            max_tokens: args.max_tokens,
            temperature: args.temperature,
            top_p: args.top_p,
            seed: args.seed,
        })));
    }
    if !args.embed.is_empty() {
        return texts("--embed", &args.embed).map(|t| Some(Question::Embed(t)));
    }
    if !args.classify.is_empty() {
        return texts("--classify", &args.classify).map(|t| Some(Question::Classify(t)));
    }
    if !args.ner.is_empty() {
        return texts("--ner", &args.ner).map(|t| Some(Question::Entities(t)));
    }
    if !args.pair.is_empty() {
        let pairs = args.pair.chunks_exact(2).filter_map(|pair| match pair {
            [query, document] => Some((query.clone(), document.clone())),
            _ => None,
        });
        return Ok(Some(Question::Pairs(pairs.collect())));
    }
    Ok(None)
}

/// A name is one of the model's own templates; whatever is a file is read.
fn chat(args: &Args) -> Result<Chat> {
    let mut chat = Chat { system: args.system.clone(), ..Chat::default() };
    if let Some(template) = &args.chat_template {
        let path = Path::new(template);
        if path.is_file() {
            chat.template = Some(super::read_text(path)?);
        } else if path.components().count() > 1 || path.extension().is_some() {
            return Err(Error::not_found("there is no such chat template").file(template.clone()));
        } else {
            chat.name = Some(template.clone());
        }
    }
    Ok(chat)
}

fn lines_of_stdin(flag: &str) -> Result<Vec<String>> {
    let text = super::read_text(Path::new("-"))?;
    let lines: Vec<String> =
        text.as_bytes().lines().map_while(|l| l.ok()).filter(|line| !line.trim().is_empty()).collect();
    if lines.is_empty() {
        return Err(Error::usage(format!("`{flag} -` takes a text a line, and standard input has none")));
    }
    Ok(lines)
}

/// Asks and prints.
pub(super) fn run(
    model: Model,
    question: Question,
    options: Options,
    common: &Common,
    cancel: &AtomicBool,
    warnings: &[String],
) -> Result<()> {
    let streams = matches!(question, Question::Prompt(_)) && !common.json;
    // Written by the job's thread as the text comes; what the writing met is this thread's to tell.
    let failed = Arc::new(Mutex::new(None));
    let said = Arc::new(AtomicBool::new(false));
    let on_text = {
        let (failed, said) = (Arc::clone(&failed), Arc::clone(&said));
        move |piece: &str| {
            if !streams {
                return ControlFlow::Continue(());
            }
            said.fetch_or(!piece.is_empty(), Ordering::Relaxed);
            match shown(piece) {
                Ok(()) => ControlFlow::Continue(()),
                Err(e) => {
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
                    ControlFlow::Break(())
                }
            }
        }
    };
    let job = answer(model, question, options, on_text);
    Watch::new(common, "verify").follow(&job, cancel, false);
    let answered = job.wait();
    if let Some(error) = failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(error);
    }
    let answered = answered.map_err(|e| if signals::received().is_some() { signals::stopped() } else { e });
    let answered = match answered {
        Ok(answered) => answered,
        Err(error) => {
            // What was said so far ends its line, so that the message has one of its own.
            if said.load(Ordering::Relaxed) {
                shown("\n").ok();
            }
            return Err(error);
        }
    };
    let mut out = Out::stdout();
    if common.json {
        out.json(SCHEMA, document(&answered, warnings))?;
        return out.finish();
    }
    if let Answer::Text(said) = &answered.answer {
        if !said.text.ends_with('\n') {
            out.text("\n")?;
        }
        out.finish()?;
        answered.notes.iter().for_each(|note| common.note(note));
        if !common.quiet && common.progress() != Progress::Json {
            say(&speed(said));
        }
        return Ok(());
    }
    for line in lines(&answered.answer, common.verbose > 0) {
        out.line(&line)?;
    }
    out.finish()?;
    answered.notes.iter().for_each(|note| common.note(note));
    Ok(())
}

/// A piece of text on standard output, at once.
fn shown(piece: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(printable(piece).as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|e| Error::io("standard output cannot be written", e))
}

/// What a model says without what would move a terminal's cursor or change its state.
fn printable(piece: &str) -> String {
    piece.chars().filter(|c| matches!(c, '\n' | '\t') || !c.is_control()).collect()
}

fn speed(said: &Said) -> String {
    format!(
        "prompt {} tokens at {}   new {} at {}   {}",
        said.prompt_tokens,
        tokens(said.prefill_tokens_per_second),
        said.ids.len(),
        tokens(said.decode_tokens_per_second),
        said.stopped_by
    )
}

fn tokens(per_second: f64) -> String {
    match per_second {
        x if x >= 100.0 => format!("{x:.0} tokens/s"),
        x => format!("{x:.1} tokens/s"),
    }
}

fn lines(answer: &Answer, verbose: bool) -> Vec<String> {
    match answer {
        Answer::Text(said) => vec![said.text.clone()],
        Answer::Vectors(vectors) => vectors.iter().map(|v| json!(v).to_string()).collect(),
        Answer::Scores(scores) => scores.iter().map(|score| score.to_string()).collect(),
        Answer::Classes(texts) => {
            let shown = |class: &Class| format!("{}  {:.4}", Shown(&class.label), class.probability);
            let of = |classes: &Vec<Class>| {
                let all = if verbose { classes.len() } else { 1 };
                classes.iter().take(all).map(shown).collect::<Vec<_>>().join("   ")
            };
            texts.iter().map(of).collect()
        }
        Answer::Entities(texts) => {
            let line = |number: usize, entity: &Entity| {
                let place = format!("{}..{}", entity.characters.start, entity.characters.end);
                let line = format!("{}  {place}  {}", Shown(&entity.label), Shown(&entity.text));
                if texts.len() > 1 { format!("{}  {line}", number + 1) } else { line }
            };
            let of = |(number, entities): (usize, &Vec<Entity>)| {
                entities.iter().map(|entity| line(number, entity)).collect::<Vec<_>>()
            };
            texts.iter().enumerate().flat_map(of).collect()
        }
    }
}

/// The answer for a program.
fn document(answered: &Answered, warnings: &[String]) -> Value {
    let (kind, value) = match &answered.answer {
        Answer::Text(said) => (
            "text",
            json!({
                "text": said.text,
                "ids": said.ids,
                "prompt_tokens": said.prompt_tokens,
                "prefill_tokens_per_second": said.prefill_tokens_per_second,
                "decode_tokens_per_second": said.decode_tokens_per_second,
                "stopped_by": said.stopped_by,
            }),
        ),
        Answer::Vectors(vectors) => ("embeddings", json!(vectors)),
        Answer::Scores(scores) => ("scores", json!(scores)),
        Answer::Classes(texts) => {
            let class =
                |c: &Class| json!({ "label": c.label, "score": c.score, "probability": c.probability });
            ("classes", texts.iter().map(|t| t.iter().map(class).collect::<Value>()).collect())
        }
        Answer::Entities(texts) => {
            let entity = |e: &Entity| {
                json!({
                    "label": e.label,
                    "start": e.characters.start,
                    "end": e.characters.end,
                    "text": e.text,
                    "probability": e.probability,
                })
            };
            ("entities", texts.iter().map(|t| t.iter().map(entity).collect::<Value>()).collect())
        }
    };
    json!({
        "model": answered.model,
        "family": answered.family,
        "answer": { "kind": kind, kind: value },
        "load_seconds": answered.load_seconds,
        "seconds": answered.seconds,
        "peak_rss_bytes": machine::peak_resident_bytes(),
        "notes": answered.notes,
        "warnings": warnings,
    })
}
