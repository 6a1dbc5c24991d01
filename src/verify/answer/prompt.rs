//! What follows a prompt.

use super::{Chat, Prompt, Said, check};
use crate::error::{Error, ErrorKind, Result};
use crate::run::job::Control;
use crate::text::Shown;
use crate::verify::candle;
use crate::verify::chat::{self, Templates};
use crate::verify::decoder::{Cache, Decoder};
use crate::verify::generate::{Next, Sampling, StoppedBy, generate_with};
use crate::verify::subject::Subject;
use crate::verify::text::{Tokenizer, stop_ids};
use crate::verify::weights::Weights;
use serde_json::{Value as Json, json};
use std::ops::ControlFlow;

/// The prompt as tokens. A template writes special tokens itself, as transformers has it; a bare text is given those that the
/// tokenizer puts around one.
pub(super) fn ids(
    prompt: &Prompt,
    subject: &Subject,
    tokenizer: &Tokenizer,
    notes: &mut Vec<String>,
) -> Result<Vec<u32>> {
    let Some(chat) = &prompt.chat else { return tokenizer.encode(&prompt.text, true) };
    let messages = messages(chat, &prompt.text);
    let templates = Templates::of(&subject.model)?;
    let template = match &chat.template {
        Some(own) => Some(own.as_str()),
        None => templates.choose(chat.name.as_deref(), false)?,
    };
    let Some(template) = template else {
        notes.push("the model has no chat template: the messages are plain lines, `role: text`".to_owned());
        return tokenizer.encode(&chat::plain(&messages, true), true);
    };
    let rendered = chat::render(
        template,
        &chat::Chat {
            messages: &messages,
            tools: None,
            documents: None,
            add_generation_prompt: true,
            extra: tokenizer.special_tokens(),
            now: None,
        },
    );
    let rendered = rendered.map_err(|e| match (&chat.template, &templates.from) {
        (None, Some(from)) => e.file(from.clone()),
        _ => e,
    })?;
    tokenizer.encode(&rendered, false)
}

fn messages(chat: &Chat, text: &str) -> Vec<Json> {
    let system = chat.system.as_ref().map(|system| json!({ "role": "system", "content": system }));
    system.into_iter().chain([json!({ "role": "user", "content": text })]).collect()
}

/// Goes on with a prompt.
pub(super) fn said(
    prompt: &Prompt,
    ids: &[u32],
    subject: &Subject,
    weights: &Weights,
    tokenizer: &Tokenizer,
    control: &Control,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Said> {
    let decoder = Decoder { forward: &subject.forward, weights };
    let vocabulary = decoder.vocabulary()?;
    let mut cache = Cache::new(&subject.forward);
    let mut logits = |ids: &[u32], position: usize| -> Result<Vec<f32>> {
        check(control)?;
        if cache.ids().len() != position {
            return Err(Error::bug("a token that is not the next one"));
        }
        let hidden = decoder.pass(ids, &mut cache)?;
        let last = hidden.narrow(0, ids.len().saturating_sub(1), 1).map_err(candle)?;
        let logits = decoder.logits(&last, 0..vocabulary)?;
        let logits: Vec<f32> = logits.flatten_all().and_then(|l| l.to_vec1()).map_err(candle)?;
        match logits.iter().filter(|x| !x.is_finite()).count() {
            0 => Ok(logits),
            n => {
                let message = format!(
                    "`{}` computes nothing: {n} of its {} logits are not finite",
                    Shown(&subject.name),
                    logits.len()
                );
                Err(Error::new(ErrorKind::CheckFailed, message)
                    .hint("hoist verify without --prompt says where that begins"))
            }
        }
    };
    let sampling = Sampling {
        temperature: prompt.temperature,
        top_p: prompt.top_p,
        seed: prompt.seed,
        max_tokens: prompt.max_tokens,
    };
    let next = Next { logits: &mut logits, context: subject.forward.context.unwrap_or(usize::MAX) };
    let stops = stop_ids(&subject.model, &subject.config, Some(tokenizer))?;
    let made = generate_with(next, Some(tokenizer), ids, &sampling, &stops, on_text)?;
    Ok(Said {
        text: made.text,
        ids: made.ids,
        prompt_tokens: ids.len(),
        prefill_tokens_per_second: made.prefill_tokens_per_second,
        decode_tokens_per_second: made.decode_tokens_per_second,
        stopped_by: match made.stopped_by {
            StoppedBy::EndToken(_) => "end of text",
            StoppedBy::Length => "max tokens",
            StoppedBy::Context => "end of context",
            StoppedBy::Listener => "nobody listens",
        },
    })
}
