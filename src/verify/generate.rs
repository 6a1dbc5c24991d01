//! Text from a model: token after token, the likeliest or one drawn at random.

use crate::error::{Error, Result};
use crate::verify::candle;
use crate::verify::decoder::{Cache, Decoder};
use crate::verify::text::Tokenizer;
use std::ops::ControlFlow;
use std::time::Instant;

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the likeliest, always.
    pub temperature: f64,
    /// Only the likeliest tokens whose probabilities sum up to this are drawn from; 1 for all.
    pub top_p: f64,
    /// Where the random numbers begin: the same seed draws the same tokens from the same logits, on any machine.
    pub seed: u64,
    /// The most tokens.
    pub max_tokens: usize,
}

impl Default for Sampling {
    /// The likeliest, up to 128 tokens.
    fn default() -> Sampling {
        Sampling { temperature: 0.0, top_p: 1.0, seed: 0, max_tokens: 128 }
    }
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoppedBy {
    /// A token that ends a text, which is not among the ids.
    EndToken(u32),
    /// As many tokens as were asked for.
    Length,
    /// The model takes no more.
    Context,
    /// Whoever took the text wanted no more.
    Listener,
}

/// A text that was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// Its ids, without the prompt's.
    pub ids: Vec<u32>,
    /// Its text; empty without a tokenizer.
    pub text: String,
    /// Tokens of the prompt in a second.
    pub prefill_tokens_per_second: f64,
    /// New tokens in a second, the first left out: it belongs to the prompt.
    pub decode_tokens_per_second: f64,
    /// Why it ended.
    pub stopped_by: StoppedBy,
}

/// The logits behind the last of some ids, which stand at a position and behind; what stands before was given already.
pub type Logits<'a> = dyn FnMut(&[u32], usize) -> Result<Vec<f32>> + 'a;

/// What goes on with a text.
#[allow(missing_debug_implementations)]
pub struct Next<'a> {
    /// Gives the next token's logits.
    pub logits: &'a mut Logits<'a>,
    /// The most tokens that the model takes, prompt included.
    pub context: usize,
}

/// Makes text behind `prompt` with a model. New text goes to `on_text` as soon as it is complete. `stop_ids` end the text
/// ([`crate::verify::text::stop_ids`]).
///
/// Keys and values of the tokens that have passed are kept, so that each new token passes alone.
///
/// # Errors
/// `Usage`: an empty prompt, one longer than the model takes, or settings that make no sense. `BadInput`: logits that
/// are no numbers. What the layers give.
pub fn generate(
    decoder: &Decoder<'_>,
    tokenizer: Option<&Tokenizer>,
    prompt: &[u32],
    sampling: &Sampling,
    stop_ids: &[u32],
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Generation> {
    let vocabulary = decoder.vocabulary()?;
    let mut cache = Cache::new(decoder.forward);
    let mut logits = |ids: &[u32], _: usize| -> Result<Vec<f32>> {
        let hidden = decoder.pass(ids, &mut cache)?;
        let last = hidden.narrow(0, ids.len().saturating_sub(1), 1).map_err(candle)?;
        let logits = decoder.logits(&last, 0..vocabulary)?;
        logits.flatten_all().and_then(|logits| logits.to_vec1()).map_err(candle)
    };
    let context = decoder.forward.context.unwrap_or(usize::MAX);
    generate_with(Next { logits: &mut logits, context }, tokenizer, prompt, sampling, stop_ids, on_text)
}

/// Makes text behind `prompt` with whatever gives logits.
///
/// # Errors
/// Those of [`generate`].
pub fn generate_with(
    next: Next<'_>,
    tokenizer: Option<&Tokenizer>,
    prompt: &[u32],
    sampling: &Sampling,
    stop_ids: &[u32],
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Generation> {
    check(sampling)?;
    if prompt.is_empty() {
        return Err(Error::usage("the prompt is empty: there is nothing to go on from"));
    }
    if prompt.len() > next.context {
        let message = format!("the prompt has {} tokens, and the model takes {}", prompt.len(), next.context);
        return Err(Error::usage(message).hint("shorten it"));
    }
    let mut stream = tokenizer.map(|tokenizer| tokenizer.decode_stream(prompt, true));
    let mut random = Random::new(sampling.seed);
    let (mut ids, mut text) = (Vec::new(), String::new());
    let started = Instant::now();
    let mut prefilled = started;
    let mut stopped_by = StoppedBy::Length;
    while ids.len() < sampling.max_tokens {
        let position = prompt.len() + ids.len();
        let logits = match ids.last() {
            None => {
                let logits = (next.logits)(prompt, 0)?;
                prefilled = Instant::now();
                logits
            }
            // What the last one would stand at is behind the model's end.
            Some(_) if position > next.context => {
                stopped_by = StoppedBy::Context;
                break;
            }
            Some(&last) => (next.logits)(&[last], position - 1)?,
        };
        let id = choose(&logits, sampling, &mut random)?;
        if stop_ids.contains(&id) {
            stopped_by = StoppedBy::EndToken(id);
            break;
        }
        ids.push(id);
        let new = stream.as_mut().map(|stream| stream.step(id)).transpose()?.flatten();
        if let Some(new) = new {
            text.push_str(&new);
            if on_text(&new).is_break() {
                stopped_by = StoppedBy::Listener;
                break;
            }
        }
    }
    let decode_seconds = prefilled.elapsed().as_secs_f64();
    if let Some(rest) = stream.as_mut().map(|stream| stream.finish()).transpose()?.flatten() {
        text.push_str(&rest);
        if stopped_by != StoppedBy::Listener {
            // It ends here whatever is answered.
            let _ = on_text(&rest);
        }
    }
    let rate = |count: usize, seconds: f64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
    let prefill_seconds = prefilled.duration_since(started).as_secs_f64();
    Ok(Generation {
        decode_tokens_per_second: rate(ids.len().saturating_sub(1), decode_seconds),
        prefill_tokens_per_second: rate(prompt.len(), prefill_seconds),
        ids,
        text,
        stopped_by,
    })
}

fn check(sampling: &Sampling) -> Result<()> {
    let Sampling { temperature, top_p, .. } = *sampling;
    if !(temperature >= 0.0 && temperature.is_finite()) {
        return Err(Error::usage(format!("the temperature is {temperature}, where zero or more is needed")));
    }
    if !(top_p > 0.0 && top_p <= 1.0) {
        return Err(Error::usage(format!("top-p is {top_p}, where more than 0 and at most 1 is needed")));
    }
    Ok(())
}

/// The next id of these logits.
fn choose(logits: &[f32], sampling: &Sampling, random: &mut Random) -> Result<u32> {
    let mut best = None;
    for (id, &logit) in logits.iter().enumerate() {
        if logit.is_nan() || logit == f32::INFINITY {
            return Err(Error::bad_input(format!(
                "the model's logit of token {id} is {logit}: it computes nothing"
            )));
        }
        // The first of equal ones, as argmax has it.
        if best.is_none_or(|(_, most)| logit > most) {
            best = Some((id, logit));
        }
    }
    let Some((likeliest, most)) = best else { return Err(Error::bug("a vocabulary of no tokens")) };
    let as_id = |id: usize| u32::try_from(id).map_err(|_| Error::bug("a token beyond 32 bits"));
    if sampling.temperature == 0.0 || most == f32::NEG_INFINITY {
        return as_id(likeliest);
    }
    let weight = |logit: f32| ((f64::from(logit) - f64::from(most)) / sampling.temperature).exp();
    let mut candidates: Vec<(usize, f64)> = logits.iter().map(|&logit| weight(logit)).enumerate().collect();
    if sampling.top_p < 1.0 {
        // Heaviest first; of equal ones the smaller id, so that the order is one.
        candidates.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let whole: f64 = candidates.iter().map(|(_, weight)| weight).sum();
        let mut sum = 0.0;
        let reaches = |(_, weight): &(usize, f64)| {
            sum += weight;
            sum >= sampling.top_p * whole
        };
        let kept = candidates.iter().position(reaches).map_or(candidates.len(), |last| last + 1);
        candidates.truncate(kept);
    }
    let whole: f64 = candidates.iter().map(|(_, weight)| weight).sum();
    let drawn = random.unit() * whole;
    let mut sum = 0.0;
    for &(id, weight) in &candidates {
        sum += weight;
        if drawn < sum {
            return as_id(id);
        }
    }
    // Rounding may leave the last one short of the sum.
    as_id(candidates.last().map_or(likeliest, |(id, _)| *id))
}

/// Random numbers by SplitMix64 (G. Steele, D. Lea, C. Flood, 2014): a counter, and a function that scatters it. The same
/// everywhere, which no crate promises from version to version.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// A number from 0 up to but not including 1, of 53 random bits.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}
