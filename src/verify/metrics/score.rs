//! How well logits predict tokens that are known: log-likelihood and perplexity.

use super::spread::mean_and_error;
use super::{BLOCK, LogSum, finite_max};
use crate::error::{Error, Result};
use rayon::prelude::*;

/// A position whose bands are still coming in.
#[derive(Debug, Clone)]
struct Position {
    target: u64,
    logits: LogSum,
    finite: bool,
    found: Option<f32>,
}

impl Position {
    fn band(&mut self, first: u64, logits: &[f32]) {
        for block in logits.chunks(BLOCK) {
            match finite_max(block) {
                Some(max) => {
                    self.logits.rise(max.into());
                    let max = self.logits.max;
                    self.logits.sum += block.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>();
                }
                None => self.finite = false,
            }
        }
        let place = self.target.checked_sub(first).and_then(|n| usize::try_from(n).ok());
        if let Some(&logit) = place.and_then(|n| logits.get(n)) {
            self.found = Some(logit);
        }
    }

    /// −ln p of the target; NaN where a logit is not finite.
    fn nll(&self) -> Result<f64> {
        match self.found {
            // The sum holds e^(target − max) itself, so this is no less than zero but for rounding.
            Some(logit) if self.finite => Ok((self.logits.value() - f64::from(logit)).max(0.0)),
            Some(_) => Ok(f64::NAN),
            None => Err(Error::bad_input(format!(
                "the text has token {}, for which the model has no logit",
                self.target
            ))
            .hint("the tokenizer belongs to another model, or the vocabulary was cut")),
        }
    }
}

/// Scores given tokens as logits come, band by band of the vocabulary.
#[derive(Debug, Clone)]
pub struct Score {
    open: Vec<Position>,
}

impl Score {
    /// Of positions whose next tokens are these.
    pub fn new(targets: &[u32]) -> Score {
        let open = |&target: &u32| Position {
            target: target.into(),
            logits: LogSum::NOTHING,
            finite: true,
            found: None,
        };
        Score { open: targets.iter().map(open).collect() }
    }

    /// Takes logits of all positions for the tokens from `first` on, row-major `[positions, band]`. Each token belongs to
    /// one band; their order does not matter.
    ///
    /// # Errors
    /// A bug where there is no whole number of logits for each position.
    pub fn band(&mut self, first: u64, logits: &[f32]) -> Result<()> {
        let band = logits.len().checked_div(self.open.len()).unwrap_or(0);
        if band * self.open.len() != logits.len() {
            return Err(Error::bug("a band of logits does not fit the positions"));
        }
        if band > 0 {
            let rows = self.open.par_iter_mut().zip(logits.par_chunks(band));
            rows.for_each(|(position, row)| position.band(first, row));
        }
        Ok(())
    }

    /// All bands have been seen.
    ///
    /// # Errors
    /// `BadInput`: a token that is in no band.
    pub fn finish(self) -> Result<Scored> {
        Ok(Scored { nll: self.open.iter().map(Position::nll).collect::<Result<_>>()? })
    }
}

/// Tokens that have been scored, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scored {
    /// The negative log-likelihood of each, in nats; NaN where a logit was not finite.
    pub nll: Vec<f64>,
}

/// exp of the mean negative log-likelihood.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Perplexity {
    /// The value; NaN where nothing was scored, or a logit was not finite.
    pub value: f64,
    /// Its standard error, as if tokens knew nothing of each other.
    pub error: f64,
    /// Tokens that were scored.
    pub tokens: u64,
}

impl Scored {
    /// Puts the tokens of another behind these.
    pub fn merge(&mut self, next: Scored) {
        self.nll.extend(next.nll);
    }

    /// Their perplexity.
    pub fn perplexity(&self) -> Perplexity {
        let (mean, error) = mean_and_error(&self.nll);
        let value = mean.exp();
        Perplexity { value, error: value * error, tokens: self.nll.len() as u64 }
    }

    /// The perplexity of these divided by that of `reference` on the same tokens, with its standard error: tokens that
    /// are hard for one are hard for the other, so it is known far better than either of the two. `None` unless both have
    /// as many.
    pub fn ratio(&self, reference: &Scored) -> Option<(f64, f64)> {
        if self.nll.len() != reference.nll.len() {
            return None;
        }
        let differences: Vec<f64> = self.nll.iter().zip(&reference.nll).map(|(a, b)| a - b).collect();
        let (mean, error) = mean_and_error(&differences);
        Some((mean.exp(), mean.exp() * error))
    }
}
