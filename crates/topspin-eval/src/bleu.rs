//! BLEU (Papineni et al. 2002), as sacrebleu computes it by default.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::corpus::CorpusStatistics;
use crate::white_space::{is_space, words};
use crate::{EvalError, ngrams};

/// The longest runs of words that count.
const ORDERS: usize = 4;

/// What BLEU needs to know of a response.
///
/// `BLEU = 100 bp exp(mean over n = 1..4 of ln(p_n))`, from 0 to 100, higher is better. `p_n` is the share of the
/// response's runs of n words that a reference has too, each counted at most as often as in the reference that has it
/// most often. `bp = exp(1 - r/c)` where the responses are shorter (c words) than their references (r: of each the
/// closest in length, the shorter of two), else 1. The i-th order without a common run counts as if it shared `2^-i` runs
/// (smoothing `exp`: Chen and Cherry 2014, method 3); without a common word, BLEU is 0.
///
/// Agrees with sacrebleu 2.6.0 (signature `case:mixed|eff:no|tok:13a|smooth:exp`). Words are parted by the rules of
/// `mteval-v13a`, the tokenizer `13a`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BleuStatistics {
    /// The number of words of the response.
    pub response_words: u64,
    /// The number of words of the reference closest in length.
    pub reference_words: u64,
    /// Runs of 1 to 4 words that the references share.
    pub shared: [u64; ORDERS],
    /// All runs of 1 to 4 words of the response.
    pub runs: [u64; ORDERS],
}

impl BleuStatistics {
    /// Compares a response with its references.
    ///
    /// # Errors
    /// [`EvalError::NoReference`] if there are none.
    pub fn new(response: &str, references: &[impl AsRef<str>]) -> Result<Self, EvalError> {
        let texts: Vec<String> = references.iter().map(|reference| tokenize_13a(reference.as_ref())).collect();
        let references: Vec<Vec<&str>> = texts.iter().map(|text| words(text).collect()).collect();
        let text = tokenize_13a(response);
        let response: Vec<&str> = words(&text).collect();
        let distance = |&length: &usize| (length.abs_diff(response.len()), length);
        let closest = references.iter().map(Vec::len).min_by_key(distance).ok_or(EvalError::NoReference)?;
        let shared = |order| ngrams::shared(&ngrams::count(&response, order), &most(&references, order));
        Ok(Self {
            response_words: response.len() as u64,
            reference_words: closest as u64,
            shared: std::array::from_fn(|n| shared(n + 1)),
            runs: std::array::from_fn(|n| response.len().saturating_sub(n) as u64),
        })
    }

    /// BLEU of this response alone, from 0 to 100: orders for which it is too short are left out (sacrebleu's
    /// `effective_order`), as a response of less than four words would get nothing otherwise.
    pub fn sentence_score(&self) -> f64 {
        self.bleu(self.runs.iter().take_while(|&&runs| runs > 0).count())
    }

    fn bleu(&self, orders: usize) -> f64 {
        if self.shared.iter().all(|&shared| shared == 0) || self.runs[..orders].contains(&0) {
            return 0.0;
        }
        let mut smoothing = 1.0;
        let logarithms: f64 = (0..orders)
            .map(|n| {
                let shared = if self.shared[n] > 0 {
                    self.shared[n] as f64
                } else {
                    smoothing *= 2.0;
                    1.0 / smoothing
                };
                (100.0 * shared / self.runs[n] as f64).ln()
            })
            .sum();
        let brevity = (1.0 - self.reference_words as f64 / self.response_words as f64).min(0.0).exp();
        brevity * (logarithms / orders as f64).exp()
    }
}

impl CorpusStatistics for BleuStatistics {
    fn add(&mut self, other: &Self) {
        self.response_words += other.response_words;
        self.reference_words += other.reference_words;
        for n in 0..ORDERS {
            self.shared[n] += other.shared[n];
            self.runs[n] += other.runs[n];
        }
    }

    fn score(&self) -> f64 {
        self.bleu(ORDERS)
    }
}

/// Of each run of `n` words the count in the reference that has it most often.
fn most<'a>(references: &'a [Vec<&'a str>], n: usize) -> HashMap<&'a [&'a str], u64> {
    let mut most: HashMap<&[&str], u64> = HashMap::new();
    for (run, count) in references.iter().flat_map(|reference| ngrams::count(reference, n)) {
        let so_far = most.entry(run).or_default();
        *so_far = count.max(*so_far);
    }
    most
}

/// Puts spaces between words and punctuation as WMT's `mteval-v13a.pl` does: four passes, of which each looks at what the
/// one before has made.
fn tokenize_13a(text: &str) -> String {
    let text = text.trim_end_matches(is_space).replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    // Entities one after the other: `&amp;lt;` ends as `<`.
    let text = text.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
    let digit = |c: char| c.is_ascii_digit();
    let point = |c: char| matches!(c, '.' | ',');
    // All of ASCII's symbols but the apostrophe, the comma, the hyphen and the full stop.
    let symbol = |c: char| c.is_ascii_punctuation() && !matches!(c, '\'' | ',' | '-' | '.');
    let mut spaced = String::with_capacity(text.len() + 2);
    for c in format!(" {text} ").chars() {
        if symbol(c) {
            spaced.extend([' ', c, ' ']);
        } else {
            spaced.push(c);
        }
    }
    let behind = pairs(&spaced, |a, b| !digit(a) && point(b), |a, b| [a, ' ', b, ' ']);
    let before = pairs(&behind, |a, b| point(a) && !digit(b), |a, b| [' ', a, ' ', b]);
    pairs(&before, |a, b| digit(a) && b == '-', |a, b| [a, ' ', b, ' '])
}

/// Replaces pairs of neighbours from left to right; no character is in two of them.
fn pairs(text: &str, is_one: impl Fn(char, char) -> bool, becomes: impl Fn(char, char) -> [char; 4]) -> String {
    let mut replaced = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(a) = chars.next() {
        match chars.next_if(|&b| is_one(a, b)) {
            Some(b) => replaced.extend(becomes(a, b)),
            None => replaced.push(a),
        }
    }
    replaced
}
