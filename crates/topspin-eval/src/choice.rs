//! Multiple choice by log-likelihood, as lm-evaluation-harness (0.4.13) scores its tasks of that type.

use crate::EvalError;
use crate::bootstrap::finite;

/// One of the texts that may answer a question.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The log-probability of the text behind the question, in nats.
    pub logprob: f64,
    /// Its length in characters, without the space that parts it from the question.
    pub characters: usize,
    /// The same in bytes of UTF-8.
    pub bytes: usize,
}

impl Choice {
    /// A choice by its text.
    pub fn new(text: &str, logprob: f64) -> Self {
        Self { logprob, characters: text.chars().count(), bytes: text.len() }
    }
}

/// Whether the choice that the model prefers is right; the mean over questions is the accuracy, higher being better. Of
/// choices that are equally probable the first is preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChoiceScores {
    /// By the log-probability.
    pub acc: bool,
    /// By the log-probability over the number of characters, which makes up for long choices being improbable.
    pub acc_norm: bool,
    /// By the log-probability over the number of bytes. Older versions of the harness have this one as `acc_norm`; in
    /// ASCII the two are the same.
    pub acc_bytes: bool,
}

impl ChoiceScores {
    /// Scores a question; `right` are the places of its right choices, counted from 0.
    ///
    /// # Errors
    /// [`EvalError::Empty`] without choices, [`EvalError::NotFinite`] for a log-probability that is no number,
    /// [`EvalError::EmptyChoice`] for a choice without length, and [`EvalError::NoSuchChoice`].
    pub fn new(choices: &[Choice], right: &[usize]) -> Result<Self, EvalError> {
        finite(&choices.iter().map(|choice| choice.logprob).collect::<Vec<_>>())?;
        if let Some(index) = choices.iter().position(|choice| choice.characters == 0 || choice.bytes == 0) {
            return Err(EvalError::EmptyChoice { index });
        }
        if let Some(&index) = right.iter().find(|&&index| index >= choices.len()) {
            return Err(EvalError::NoSuchChoice { index, choices: choices.len() });
        }
        let preferred = |by: fn(&Choice) -> f64| {
            let values = choices.iter().map(by).enumerate();
            values.reduce(|best, other| if other.1 > best.1 { other } else { best }).ok_or(EvalError::Empty)
        };
        let is_right = |by| preferred(by).map(|(index, _)| right.contains(&index));
        Ok(Self {
            acc: is_right(|choice| choice.logprob)?,
            acc_norm: is_right(|choice| choice.logprob / choice.characters as f64)?,
            acc_bytes: is_right(|choice| choice.logprob / choice.bytes as f64)?,
        })
    }
}
