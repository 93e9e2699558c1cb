//! Perplexities of texts that models with different tokenizers can be compared by.

use crate::bootstrap::finite;
use crate::white_space::is_space;
use crate::{Bootstrap, EvalError, Figure};

/// A text, and what a model gives to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextNll {
    /// Minus the log-probability of the text, in nats.
    pub nats: f64,
    /// Its tokens that were scored.
    pub tokens: usize,
    /// Its words.
    pub words: usize,
    /// Its bytes in UTF-8.
    pub bytes: usize,
}

impl TextNll {
    /// Counts what a text has. Words are what lm-evaluation-harness counts: the pieces between runs of white space, an empty
    /// one at an end that is white space included.
    pub fn new(text: &str, nats: f64, tokens: usize) -> Self {
        let gaps = text.split(|c| !is_space(c)).filter(|gap| !gap.is_empty()).count();
        Self { nats, tokens, words: gaps + 1, bytes: text.len() }
    }
}

/// `exp(nats of all texts / units of all texts)`: the number of equally probable units that the model would be as unsure
/// between. From 1, lower is better. Those of words and bytes compare across tokenizers, that of tokens does not.
///
/// Agrees with lm-evaluation-harness 0.4.13 (`word_perplexity`, `byte_perplexity`, `bits_per_byte`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexities {
    /// Of a token.
    pub token: Figure,
    /// Of a word.
    pub word: Figure,
    /// Of a byte.
    pub byte: Figure,
    /// The base-2 logarithm of that of a byte: from 0, lower is better.
    pub bits_per_byte: Figure,
}

impl Perplexities {
    /// Aggregates over texts. Those without a token have no weight in the perplexity of a token, and so on.
    ///
    /// # Errors
    /// [`EvalError::Empty`], [`EvalError::NotFinite`], and [`EvalError::NoTokens`] if there is nothing to divide by.
    pub fn new(texts: &[TextNll], bootstrap: &Bootstrap) -> Result<Self, EvalError> {
        finite(&texts.iter().map(|text| text.nats).collect::<Vec<_>>())?;
        if texts.is_empty() {
            return Err(EvalError::Empty);
        }
        let figure = |units: fn(&TextNll) -> usize, scale: fn(f64) -> f64| {
            // As a draw of texts without a unit would have no mean, they are left out of all.
            let counted: Vec<&TextNll> = texts.iter().filter(|text| units(text) > 0).collect();
            if counted.is_empty() {
                return Err(EvalError::NoTokens);
            }
            bootstrap.figure(counted.len(), |places| {
                let sum = |of: &dyn Fn(&TextNll) -> f64| places.iter().map(|&i| of(counted[i])).sum::<f64>();
                scale(sum(&|text| text.nats) / sum(&|text| units(text) as f64))
            })
        };
        Ok(Self {
            token: figure(|text| text.tokens, f64::exp)?,
            word: figure(|text| text.words, f64::exp)?,
            byte: figure(|text| text.bytes, f64::exp)?,
            bits_per_byte: figure(|text| text.bytes, |nats| nats / std::f64::consts::LN_2)?,
        })
    }
}
