//! Cutting a text into windows: which tokens pass the model together, which of them are scored.
//!
//! Perplexity depends on how much a token sees of what came before it, so a figure means something only with its recipe.
//! Two are here: windows that may overlap, and what llama-perplexity does.

use crate::error::{Error, Result};
use crate::text::grouped;
use crate::verify::Scoring;
use std::ops::Range;

/// The longest window where nobody says how long.
pub const WINDOW_MAX: usize = 2048;

/// The longest window of the sample.
pub const SAMPLE_WINDOW_MAX: usize = 512;

/// The chunk of llama-perplexity where nobody says how long (its default context).
pub const LLAMA_CPP_CONTEXT: usize = 512;

/// The least chunk of which llama-perplexity scores a token.
const LLAMA_CPP_LEAST: usize = 4;

/// Tokens that pass the model together, from position 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The tokens.
    pub ids: Vec<u32>,
    /// Which of them are scored, each by the logits of the position before it.
    pub scored: Range<usize>,
    /// The positions whose logits two models are compared at.
    pub compared: Range<usize>,
}

impl Window {
    /// The positions whose logits score the tokens of [`Window::scored`].
    pub fn scoring(&self) -> Range<usize> {
        self.scored.start.saturating_sub(1)..self.scored.end.saturating_sub(1)
    }

    /// What [`Window::scoring`] should have predicted.
    pub fn targets(&self) -> &[u32] {
        self.ids.get(self.scored.clone()).unwrap_or_default()
    }
}

/// A text in windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windows {
    /// The windows, in the text's order.
    pub windows: Vec<Window>,
    /// How they were cut, for a person: `2048-token windows, stride 1024`.
    pub recipe: String,
}

impl Windows {
    /// Tokens that are scored.
    pub fn scored(&self) -> usize {
        self.windows.iter().map(|w| w.scored.len()).sum()
    }

    /// Positions that are compared.
    pub fn compared(&self) -> usize {
        self.windows.iter().map(|w| w.compared.len()).sum()
    }
}

/// Cuts a text whose perplexity is wanted. `context` is the model's, where known; `bos` is the token that llama.cpp would
/// begin every chunk with, where it would.
///
/// # Errors
/// `Usage`: a window or a stride that makes no sense. `BadInput`: a text that is too short.
pub fn cut(ids: &[u32], scoring: Scoring, context: Option<usize>, bos: Option<u32>) -> Result<Windows> {
    match scoring {
        Scoring::Windows { window, stride } => {
            let window = window.unwrap_or_else(|| context.unwrap_or(WINDOW_MAX).clamp(2, WINDOW_MAX));
            let stride = stride.unwrap_or_else(|| (window / 2).max(1));
            check_window(window, context)?;
            if stride == 0 || stride > window {
                return Err(Error::usage(format!(
                    "a stride of {} with windows of {} tokens",
                    grouped(stride as u64),
                    grouped(window as u64)
                ))
                .hint(
                    "a stride is one token at least and one window at most: else tokens would be left out",
                ));
            }
            strided(ids, window, stride)
        }
        Scoring::LlamaCpp { context: chunk } => {
            let most = context.unwrap_or(LLAMA_CPP_CONTEXT).max(LLAMA_CPP_LEAST);
            let chunk = chunk.unwrap_or(LLAMA_CPP_CONTEXT.min(most));
            if chunk < LLAMA_CPP_LEAST {
                return Err(Error::usage(format!("chunks of {chunk} tokens, of which none would be scored"))
                    .hint(format!("--window {LLAMA_CPP_LEAST} is the least with --recipe llama.cpp")));
            }
            check_window(chunk, context)?;
            llama_cpp(ids, chunk, bos)
        }
    }
}

/// Cuts a text that two models are compared on: windows that do not overlap, all positions compared, all tokens scored
/// but the first of each.
pub fn whole(ids: &[u32], window: usize) -> Windows {
    let window = window.max(1);
    let windows = ids
        .chunks(window)
        .map(|ids| Window { ids: ids.to_vec(), scored: 1.min(ids.len())..ids.len(), compared: 0..ids.len() })
        .collect();
    Windows { windows, recipe: format!("{window}-token windows") }
}

fn check_window(window: usize, context: Option<usize>) -> Result<()> {
    if window < 2 {
        return Err(Error::usage(format!("windows of {window} tokens"))
            .hint("a token is scored by what stands before it in its window: two are the least"));
    }
    if let Some(context) = context.filter(|&context| window > context) {
        let error = Error::usage(format!(
            "windows of {} tokens, and the model was made for {}",
            grouped(window as u64),
            grouped(context as u64)
        ));
        return Err(if context < 2 { error } else { error.hint(format!("--window {context} is the most")) });
    }
    Ok(())
}

/// Windows start at 0, `stride`, 2 · `stride` … and have `window` tokens at most; in each the tokens are scored that were
/// not before, but for its first.
fn strided(ids: &[u32], window: usize, stride: usize) -> Result<Windows> {
    if ids.len() < 2 {
        return Err(too_short(ids.len(), 2));
    }
    let mut windows = Vec::new();
    let (mut start, mut seen) = (0usize, 0usize);
    while start < ids.len() && seen < ids.len() {
        let end = start.saturating_add(window).min(ids.len());
        let scored = seen.max(start + 1).min(end) - start..end - start;
        if !scored.is_empty() {
            let compared = scored.start - 1..scored.end - 1;
            windows.push(Window { ids: ids[start..end].to_vec(), scored, compared });
        }
        seen = end;
        start = start.saturating_add(stride);
    }
    let recipe = format!("{window}-token windows, stride {stride}");
    Ok(Windows { windows, recipe })
}

/// As llama-perplexity cuts: the text with BOS before it, where the vocabulary asks for one, in chunks that do not overlap, a
/// rest left out; the first token of each replaced by BOS for the pass; the tokens behind the first of the second half scored.
///
/// Source: `perplexity` in tools/perplexity/perplexity.cpp of llama.cpp, with `--ppl-stride 0`.
fn llama_cpp(ids: &[u32], chunk: usize, bos: Option<u32>) -> Result<Windows> {
    let ids: Vec<u32> = bos.into_iter().chain(ids.iter().copied()).collect();
    let least = chunk.saturating_mul(2);
    if ids.len() < least {
        return Err(too_short(ids.len(), least));
    }
    let left = ids.len() % chunk;
    let windows = ids
        .chunks_exact(chunk)
        .map(|ids| {
            let mut ids = ids.to_vec();
            if let (Some(bos), Some(first)) = (bos, ids.first_mut()) {
                *first = bos;
            }
            let scored = chunk / 2 + 1..chunk;
            Window { ids, compared: scored.start - 1..scored.end - 1, scored }
        })
        .collect();
    let mut recipe = format!("{chunk}-token chunks as llama-perplexity scores them");
    if left > 0 {
        recipe.push_str(&format!(
            ", the last {} of {} tokens left out",
            grouped(left as u64),
            grouped(ids.len() as u64)
        ));
    }
    Ok(Windows { windows, recipe })
}

fn too_short(found: usize, needed: usize) -> Error {
    let error = Error::bad_input(format!(
        "the text has {} tokens, and {} are the least that perplexity can be taken of so",
        grouped(found as u64),
        grouped(needed as u64)
    ));
    // Two chunks are the least: shorter ones would do.
    let shorter = found / 2;
    match needed > 2 && shorter >= LLAMA_CPP_LEAST {
        true => error.hint(format!("a longer text, or --window {shorter}")),
        false => error.hint("a longer text"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Windows as (start, length, scored).
    fn check(count: u32, scoring: Scoring, expected: &[(u32, usize, Range<usize>)]) {
        let ids: Vec<u32> = (0..count).collect();
        let cut = cut(&ids, scoring, None, None).unwrap();
        let found: Vec<_> = cut.windows.iter().map(|w| (w.ids[0], w.ids.len(), w.scored.clone())).collect();
        assert_eq!(found, expected, "{count} {scoring:?}");
        for w in &cut.windows {
            assert_eq!(w.compared, w.scoring());
            assert_eq!(w.targets()[0], w.ids[w.scoring().start] + 1);
        }
    }

    fn windows(window: usize, stride: usize) -> Scoring {
        Scoring::Windows { window: Some(window), stride: Some(stride) }
    }

    #[test]
    fn strides() {
        check(10, windows(4, 4), &[(0, 4, 1..4), (4, 4, 1..4), (8, 2, 1..2)]);
        check(9, windows(4, 4), &[(0, 4, 1..4), (4, 4, 1..4)]);
        check(10, windows(4, 2), &[(0, 4, 1..4), (2, 4, 2..4), (4, 4, 2..4), (6, 4, 2..4)]);
        check(9, windows(4, 2), &[(0, 4, 1..4), (2, 4, 2..4), (4, 4, 2..4), (6, 3, 2..3)]);
        check(3, windows(8, 4), &[(0, 3, 1..3)]);
        check(5, windows(4, 3), &[(0, 4, 1..4), (3, 2, 1..2)]);
        check(5, windows(2, 1), &[(0, 2, 1..2), (1, 2, 1..2), (2, 2, 1..2), (3, 2, 1..2)]);
    }

    /// The counts that `testdata/rustdoc-llama-6m`'s figures were taken with.
    #[test]
    fn counts_of_a_known_text() {
        let ids = vec![0; 40_203];
        for (stride, scored) in [(256, 40_045), (128, 40_202)] {
            assert_eq!(cut(&ids, windows(256, stride), None, None).unwrap().scored(), scored);
        }
        let all = whole(&ids, 512);
        assert_eq!((all.compared(), all.scored()), (40_203, 40_203 - 79));
    }

    #[test]
    fn chunks_of_llama_cpp() {
        let ids: Vec<u32> = (100..127).collect();
        let scoring = Scoring::LlamaCpp { context: Some(8) };
        let cut = cut(&ids, scoring, None, Some(1)).unwrap();
        let found: Vec<_> = cut.windows.iter().map(|w| (w.ids[0], w.ids[1], w.scored.clone())).collect();
        assert_eq!(found, [(1, 100, 5..8), (1, 108, 5..8), (1, 116, 5..8)]);
        assert_eq!(cut.windows[0].targets(), [104, 105, 106]);
    }

    #[test]
    fn defaults_and_refusals() {
        let ids = vec![0; 5000];
        let default = Scoring::Windows { window: None, stride: None };
        for (context, recipe) in [
            (None, "2048-token windows, stride 1024"),
            (Some(512), "512-token windows, stride 256"),
            (Some(131_072), "2048-token windows, stride 1024"),
        ] {
            assert_eq!(cut(&ids, default, context, None).unwrap().recipe, recipe);
        }
        for (context, length) in [(None, 512), (Some(64), 64), (Some(4096), 512)] {
            let cut = cut(&ids, Scoring::LlamaCpp { context: None }, context, None).unwrap();
            assert_eq!(cut.windows[0].ids.len(), length);
        }
        for (count, scoring, context, said) in [
            (1, windows(4, 2), None, "the text has 1 tokens"),
            (0, windows(4, 2), None, "the text has 0 tokens"),
            (9, windows(1, 1), None, "windows of 1 tokens"),
            (9, windows(4, 0), None, "a stride of 0"),
            (9, windows(4, 5), None, "a stride of 5 with windows of 4"),
            (9, windows(4, 2), Some(3), "and the model was made for 3"),
            (9, Scoring::LlamaCpp { context: Some(5) }, None, "and 10 are the least"),
            (
                9,
                Scoring::LlamaCpp { context: Some(3) },
                None,
                "chunks of 3 tokens, of which none would be scored",
            ),
            (9, windows(2, 1), Some(1), "and the model was made for 1"),
            (9, Scoring::LlamaCpp { context: Some(usize::MAX) }, None, "are the least"),
        ] {
            let error = cut(&ids[..count], scoring, context, None).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
