//! chrF (Popović 2015) and chrF++ (Popović 2017), as sacrebleu computes them by default.

use std::hash::Hash;

use serde::{Deserialize, Serialize};

use crate::corpus::CorpusStatistics;
use crate::white_space::{is_space, words};
use crate::{EvalError, ngrams};

/// The longest runs of characters that count.
const CHARACTERS: usize = 6;
/// The longest runs of words that count in chrF++.
const WORDS: usize = 2;
/// How many times as much recall counts as precision.
const BETA: f64 = 2.0;

/// Runs of one length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[u64; 3]", into = "[u64; 3]")]
struct Runs {
    response: u64,
    reference: u64,
    shared: u64,
}

impl From<[u64; 3]> for Runs {
    fn from([response, reference, shared]: [u64; 3]) -> Self {
        Self { response, reference, shared }
    }
}

impl From<Runs> for [u64; 3] {
    fn from(Runs { response, reference, shared }: Runs) -> Self {
        [response, reference, shared]
    }
}

/// What chrF or chrF++ needs to know of a response.
///
/// `chrF = 100 (1 + beta^2) P R / (beta^2 P + R)` with beta = 2, from 0 to 100, higher is better. P is the mean over n = 1..6
/// of the share of the response's runs of n characters (without white space) that the reference has too, R the mean of the
/// share of the reference's that the response has; lengths that either has no runs of are left out. chrF++ averages over
/// runs of 1 and 2 words as well, with punctuation at a word's end (or else at its start) parted from it. Of several
/// references, the one with the highest score counts.
///
/// Agrees with sacrebleu 2.6.0 (`case:mixed|eff:yes|nc:6|nw:0|space:no`, and `nw:2`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChrfStatistics {
    orders: [Runs; CHARACTERS + WORDS],
}

impl ChrfStatistics {
    /// Compares a response with its references by characters: chrF.
    ///
    /// # Errors
    /// [`EvalError::NoReference`] if there are none.
    pub fn chrf(response: &str, references: &[impl AsRef<str>]) -> Result<Self, EvalError> {
        best(references, |reference| {
            let mut orders = [Runs::default(); CHARACTERS + WORDS];
            compare(&characters(response), &characters(reference), &mut orders[..CHARACTERS]);
            Self { orders }
        })
    }

    /// Compares a response with its references by characters and words: chrF++.
    ///
    /// # Errors
    /// [`EvalError::NoReference`] if there are none.
    pub fn chrf_plus_plus(response: &str, references: &[impl AsRef<str>]) -> Result<Self, EvalError> {
        best(references, |reference| {
            let mut orders = [Runs::default(); CHARACTERS + WORDS];
            let (of_characters, of_words) = orders.split_at_mut(CHARACTERS);
            compare(&characters(response), &characters(reference), of_characters);
            compare(&without_punctuation(response), &without_punctuation(reference), of_words);
            Self { orders }
        })
    }
}

impl CorpusStatistics for ChrfStatistics {
    fn add(&mut self, other: &Self) {
        for (runs, more) in self.orders.iter_mut().zip(&other.orders) {
            runs.response += more.response;
            runs.reference += more.reference;
            runs.shared += more.shared;
        }
    }

    fn score(&self) -> f64 {
        let orders = || self.orders.iter().filter(|runs| runs.response > 0 && runs.reference > 0);
        let effective = orders().count() as f64;
        let mean = |of: fn(&Runs) -> u64| {
            orders().map(|runs| runs.shared as f64 / of(runs) as f64).sum::<f64>() / effective.max(1.0)
        };
        let (precision, recall) = (mean(|runs| runs.response), mean(|runs| runs.reference));
        if precision + recall == 0.0 {
            return 0.0;
        }
        100.0 * (1.0 + BETA * BETA) * precision * recall / (BETA * BETA * precision + recall)
    }
}

/// The comparison with the highest score, the first of equal ones.
fn best<R: AsRef<str>>(references: &[R], with: impl Fn(&str) -> ChrfStatistics) -> Result<ChrfStatistics, EvalError> {
    let compared = references.iter().map(|reference| with(reference.as_ref()));
    let best = compared.reduce(|best, other| if other.score() > best.score() { other } else { best });
    best.ok_or(EvalError::NoReference)
}

/// Counts runs of 1, 2 and more items.
fn compare<T: Eq + Hash>(response: &[T], reference: &[T], orders: &mut [Runs]) {
    for (n, runs) in orders.iter_mut().enumerate() {
        let (of_response, of_reference) = (ngrams::count(response, n + 1), ngrams::count(reference, n + 1));
        // Where the reference has no run of this length, the response's are no mistakes.
        let counted = if of_reference.is_empty() { 0 } else { of_response.values().sum() };
        *runs = Runs {
            response: counted,
            reference: of_reference.values().sum(),
            shared: ngrams::shared(&of_response, &of_reference),
        };
    }
}

fn characters(text: &str) -> Vec<char> {
    text.chars().filter(|&c| !is_space(c)).collect()
}

/// Words, with one mark of punctuation parted from the end of each or, where there is none, from its start.
fn without_punctuation(text: &str) -> Vec<&str> {
    let mark = |c: char| c.is_ascii_punctuation();
    let mut parts = Vec::new();
    for word in words(text) {
        if word.chars().nth(1).is_none() {
            parts.push(word);
        } else if word.ends_with(mark) {
            parts.extend(<[&str; 2]>::from(word.split_at(word.len() - 1)));
        } else if word.starts_with(mark) {
            parts.extend(<[&str; 2]>::from(word.split_at(1)));
        } else {
            parts.push(word);
        }
    }
    parts
}
