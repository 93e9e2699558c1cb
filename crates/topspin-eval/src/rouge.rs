//! ROUGE-L (Lin 2004), as Google's `rouge-score` computes it.

use crate::EvalError;
use crate::porter::stem;

/// How much of a response and a reference is their longest common subsequence of words.
///
/// With its length l, `precision = l / words of the response`, `recall = l / words of the reference`, and
/// `fmeasure = 2 precision recall / (precision + recall)`: each from 0 to 1, higher is better. Without words on either
/// side all are 0. Words are runs of the letters a to z and digits of the lowered text, so text in other alphabets has
/// none. Time grows with the product of the numbers of words.
///
/// Agrees with `rouge-score` 0.1.2, type `rougeL`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RougeL {
    /// The share of the response's words that are common.
    pub precision: f64,
    /// The share of the reference's words that are common.
    pub recall: f64,
    /// Their harmonic mean.
    pub fmeasure: f64,
}

/// Which words are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stemming {
    /// Those that are spelt the same.
    None,
    /// Those of more than three letters that the Porter stemmer makes the same, in the version of NLTK that
    /// `rouge-score` uses; for English.
    Porter,
}

impl RougeL {
    /// Compares a response with each of its references; the one with the highest F-measure counts, the first of equals.
    ///
    /// # Errors
    /// [`EvalError::NoReference`] if there are none.
    pub fn new(response: &str, references: &[impl AsRef<str>], stemming: Stemming) -> Result<Self, EvalError> {
        let response = tokenize(response, stemming);
        let scores = references.iter().map(|reference| Self::of(&response, &tokenize(reference.as_ref(), stemming)));
        let best = scores.reduce(|best, other| if other.fmeasure > best.fmeasure { other } else { best });
        best.ok_or(EvalError::NoReference)
    }

    fn of(response: &[String], reference: &[String]) -> Self {
        let common = longest_common_subsequence(response, reference);
        if common == 0 {
            return Self::default();
        }
        let precision = common as f64 / response.len() as f64;
        let recall = common as f64 / reference.len() as f64;
        Self { precision, recall, fmeasure: 2.0 * precision * recall / (precision + recall) }
    }
}

fn tokenize(text: &str, stemming: Stemming) -> Vec<String> {
    let text = text.to_lowercase();
    let words = text.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit()).filter(|word| !word.is_empty());
    match stemming {
        Stemming::None => words.map(str::to_owned).collect(),
        Stemming::Porter => words.map(|word| if word.len() > 3 { stem(word) } else { word.to_owned() }).collect(),
    }
}

/// The length of the longest common subsequence, by rows of the usual table.
fn longest_common_subsequence(left: &[String], right: &[String]) -> usize {
    let mut above = vec![0; right.len() + 1];
    for word in left {
        // The entry above and to the left of the one that is computed.
        let mut corner = 0;
        for (j, other) in right.iter().enumerate() {
            let here = if word == other { corner + 1 } else { above[j + 1].max(above[j]) };
            corner = std::mem::replace(&mut above[j + 1], here);
        }
    }
    above[right.len()]
}
