//! Negative log-likelihood, in nats.

use crate::bootstrap::finite;
use crate::{Bootstrap, EvalError, Figure};

/// What a model gives to one response: minus the sum of its tokens' log-probabilities, and their number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Nll {
    /// Minus the log-probability of the response, in nats.
    pub nats: f64,
    /// The number of its tokens that were scored.
    pub tokens: usize,
}

/// The likelihood of many responses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NllFigures {
    /// Nats of all responses over tokens of all responses: a long response weighs more.
    pub per_token: Figure,
    /// Mean nats of a response.
    pub per_response: Figure,
    /// `exp` of `per_token`, without a standard error; [`Perplexities`](crate::Perplexities) has one.
    pub perplexity: Figure,
    /// Mean probability of a response. Where a prompt has one right response, this is the share of samples at
    /// temperature 1 that are right, without the noise of sampling.
    pub probability: Figure,
}

impl NllFigures {
    /// Aggregates over responses; the intervals come from draws of whole responses, as tokens of one are not
    /// independent.
    ///
    /// # Errors
    /// [`EvalError::Empty`], [`EvalError::NotFinite`], and [`EvalError::NoTokens`] if there is nothing to divide by.
    pub fn new(responses: &[Nll], bootstrap: &Bootstrap) -> Result<Self, EvalError> {
        let nats: Vec<f64> = responses.iter().map(|r| r.nats).collect();
        finite(&nats)?;
        // A draw of token-less responses alone has no mean a token; such responses carry none of its weight.
        let scored: Vec<&Nll> = responses.iter().filter(|r| r.tokens > 0).collect();
        if scored.is_empty() && !responses.is_empty() {
            return Err(EvalError::NoTokens);
        }
        let per_token = bootstrap.figure(scored.len(), |places| {
            let sum = |of: fn(&Nll) -> f64| places.iter().map(|&i| of(scored[i])).sum::<f64>();
            sum(|r| r.nats) / sum(|r| r.tokens as f64)
        })?;
        let probabilities: Vec<f64> = nats.iter().map(|nats| (-nats).exp()).collect();
        Ok(Self {
            per_token,
            per_response: bootstrap.mean(&nats)?,
            perplexity: per_token.rescale(f64::exp),
            probability: bootstrap.mean(&probabilities)?,
        })
    }
}
