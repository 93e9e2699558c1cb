//! Explicit scores: what a response is worth by its text, f(x, y) in docs/method.md, where no objective makes the score.
//!
//! A new score is one file with `pub(super) fn score(&Answer) -> f64` and its definition, a variant of
//! [`ScoreKind`], and a line in [`Judge`].

mod exact_match;
mod length;
mod numeric;
mod pattern;

use topspin_eval::{EvalError, Pattern};

use crate::config::{Score, ScoreKind};

/// What is scored.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// Its text.
    pub response: &'a str,
    /// Responses that are good.
    pub references: &'a [String],
    /// Its tokens, the end-of-turn token included.
    pub tokens: usize,
}

/// A score, ready to be asked.
#[derive(Clone, Debug)]
pub enum Judge {
    /// [`ScoreKind::ExactMatch`].
    ExactMatch,
    /// [`ScoreKind::Regex`].
    Regex(Pattern),
    /// [`ScoreKind::Numeric`].
    Numeric,
    /// [`ScoreKind::Length`] with the length wanted.
    Length(usize),
}

impl Judge {
    /// The score that the settings name, unless there is none or a command gives it.
    ///
    /// # Errors
    /// The pattern is no regular expression; checked settings have one that is.
    pub fn new(score: &Score) -> Result<Option<Self>, EvalError> {
        Ok(Some(match score.kind {
            ScoreKind::None | ScoreKind::Command => return Ok(None),
            ScoreKind::ExactMatch => Self::ExactMatch,
            ScoreKind::Regex => Self::Regex(Pattern::new(&score.pattern)?),
            ScoreKind::Numeric => Self::Numeric,
            ScoreKind::Length => Self::Length(score.target_tokens),
        }))
    }

    /// The score of an answer, a finite number.
    ///
    /// # Errors
    /// [`EvalError::Pattern`] if a match takes too many steps.
    pub fn score(&self, answer: &Answer) -> Result<f64, EvalError> {
        match self {
            Self::ExactMatch => Ok(exact_match::score(answer)),
            Self::Regex(pattern) => pattern::score(answer, pattern),
            Self::Numeric => Ok(numeric::score(answer)),
            Self::Length(target) => Ok(length::score(answer, *target)),
        }
    }
}

#[cfg(test)]
mod testing {
    use super::Answer;

    /// A response of which text alone is known.
    pub fn answer<'a>(response: &'a str, references: &'a [String]) -> Answer<'a> {
        Answer { response, references, tokens: 1 }
    }
}
