//! What passes the model: texts as token ids, cut to what it takes.

use super::Run;
use crate::error::{Error, Result};
use crate::text::{Shown, grouped};
use crate::transform::task;
use crate::verify::encoder::Batch;
use crate::verify::reference::{Reference, Row};
use crate::verify::sample;
use crate::verify::subject::{Subject, other_fault};
use crate::verify::text::Tokenizer;

/// Texts of the sample, or of a text that is given, at most.
const TEXTS_MAX: usize = 64;
/// Tokens of a text where the model has no limit of its own.
const TOKENS_MAX: usize = 512;
/// Texts of a model without a tokenizer, and their tokens.
const FALLBACK: (usize, usize) = (8, 64);

/// Rows that pass, as they pass.
pub(super) struct Texts {
    pub(super) rows: Vec<Row>,
    pub(super) notes: Vec<String>,
}

/// What both tokenizers are tried on.
pub(super) fn text<'a>(run: &Run<'a>) -> &'a str {
    run.options.sample.as_deref().unwrap_or(sample::TEXT)
}

/// A reference's rows, or paragraphs of a text. `is_broken`: the model's own tokenizer cannot be read.
pub(super) fn texts(run: &Run<'_>, tokenizer: Option<&Tokenizer>, is_broken: bool) -> Result<Texts> {
    let subject = run.subject;
    if let Some(reference) = run.reference {
        fits(reference, subject)?;
        return Ok(Texts { rows: reference.rows.clone(), notes: Vec::new() });
    }
    let length = length_of(run, is_broken)?;
    let Some(tokenizer) = tokenizer else {
        if run.options.sample.is_some() {
            return Err(Error::not_found(format!(
                "a text needs a tokenizer, and `{}` has none",
                Shown(&subject.name)
            )));
        }
        let (count, tokens) = FALLBACK;
        let ids = sample::fallback_ids(subject.vocabulary(), count * tokens.min(length));
        let rows = ids.chunks(tokens.min(length).max(1));
        let rows = rows.map(|ids| Row { ids: ids.to_vec(), types: None }).collect();
        let note = "there is no tokenizer: token ids without meaning were passed".to_owned();
        return Ok(Texts { rows, notes: vec![note] });
    };
    let paragraphs = text(run).split("\n\n").map(str::trim).filter(|p| !p.is_empty());
    let (mut ids, mut types, mut ends) = (Vec::new(), Vec::new(), false);
    let mut left_out = 0usize;
    for paragraph in paragraphs {
        if ids.len() == TEXTS_MAX {
            left_out += 1;
            continue;
        }
        let encoded = tokenizer.encode_with_offsets(paragraph)?;
        if !encoded.ids.is_empty() {
            ends = encoded.special.last().copied().unwrap_or(false);
            ids.push(encoded.ids);
            types.push(encoded.types);
        }
    }
    if ids.is_empty() {
        return Err(Error::bad_input("the text has no paragraph that gives a token"));
    }
    let (count, long) = (ids.len(), ids.iter().filter(|ids| ids.len() > length).count());
    let mut notes = Vec::new();
    if left_out > 0 {
        notes.push(format!("of the text {TEXTS_MAX} paragraphs were passed, {left_out} were not"));
    }
    if long > 0 {
        notes.push(format!(
            "{long} of {count} texts were cut to the {} tokens that fit",
            grouped(length as u64)
        ));
    }
    let (ids, types) = Batch::new(ids, types)?.truncated(length, ends).into_rows();
    let rows = ids.into_iter().zip(types).map(|(ids, types)| Row { ids, types: Some(types) }).collect();
    Ok(Texts { rows, notes })
}

/// The most tokens of a text that a model takes.
fn length(subject: &Subject) -> Result<usize> {
    let file = |name: &str| subject.model.json(name);
    let (tokenizer, sentences) = (file("tokenizer_config.json")?, file("sentence_bert_config.json")?);
    let length = task::max_length(&subject.config, tokenizer.as_ref(), sentences.as_ref())?;
    Ok(length.unwrap_or(TOKENS_MAX).min(learned(subject)).max(1))
}

/// The most that both take.
fn length_of(run: &Run<'_>, is_broken: bool) -> Result<usize> {
    let theirs = |against: &Subject| length(against).map_err(|e| other_fault(e, &against.name));
    match (length(run.subject), run.against) {
        (Ok(mine), Some(against)) => Ok(mine.min(theirs(against)?)),
        // What is wrong with the tokenizer's files has been said.
        (Err(_), Some(against)) if is_broken => Ok(theirs(against)?.min(learned(run.subject)).max(1)),
        (mine, _) => mine,
    }
}

/// Rows of a tensor that the model needs.
fn rows_of(subject: &Subject, name: &str) -> Option<u64> {
    subject.recipe.outputs.iter().find(|o| o.name == name)?.shape.first().copied()
}

/// Positions that the model has learned; as many as there are numbers where it needs none.
fn learned(subject: &Subject) -> usize {
    let rows = subject.forward.embedding.positions.then(|| rows_of(subject, "position_embd.weight"));
    rows.flatten().and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX)
}

/// Refuses a reference that asks for what the model does not have, before any weight is loaded.
fn fits(reference: &Reference, subject: &Subject) -> Result<()> {
    reference.check_vocabulary(subject.vocabulary())?;
    let most = subject.forward.context.unwrap_or(usize::MAX).min(learned(subject));
    reference.check_length(Some(most))?;
    let known = subject.forward.embedding.types.then(|| rows_of(subject, "token_types.weight")).flatten();
    let Some(known) = known else { return Ok(()) };
    for (r, row) in reference.rows.iter().enumerate() {
        if let Some(odd) = row.types.iter().flatten().find(|&&t| u64::from(t) >= known) {
            let message = format!("holds type {odd} (row {r}), and the model has {known} types of tokens");
            return Err(Error::bad_input(message)
                .tensor("token_type_ids")
                .file(reference.name.clone())
                .hint("the reference was made with another model"));
        }
    }
    Ok(())
}
