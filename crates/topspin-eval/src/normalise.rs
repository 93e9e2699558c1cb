//! Matches that overlook what does not matter.

use crate::white_space::words;
use crate::{EvalError, Pattern};

/// What a comparison of answers overlooks. Both sides lose, in this order: matches of `patterns`, one pattern after the
/// other; differences of case; ASCII punctuation; ASCII digits; English articles; white space that is more than a space
/// between words. Two answers match if the rest is the same, character by character.
///
/// The first four are the arguments of lm-evaluation-harness's `exact_match` (0.4.13), the case, punctuation, articles and
/// white space together are SQuAD's rule (Rajpurkar et al. 2016). By default nothing is overlooked, white space at the ends
/// included. An article is a word `a`, `an` or `the` with no letter, digit or underscore beside it.
#[derive(Clone, Debug, Default)]
pub struct Normalisation {
    /// Patterns whose matches are removed (`regexes_to_ignore`).
    pub patterns: Vec<Pattern>,
    /// Letters are lowered (`ignore_case`).
    pub case: bool,
    /// The 32 marks of ASCII's punctuation are removed (`ignore_punctuation`).
    pub punctuation: bool,
    /// The digits 0 to 9 are removed (`ignore_numbers`).
    pub numbers: bool,
    /// The words `a`, `an` and `the` are removed, in small letters.
    pub articles: bool,
    /// White space is removed at the ends, and is one space elsewhere.
    pub white_space: bool,
}

impl Normalisation {
    /// SQuAD's.
    pub fn squad() -> Self {
        Self { case: true, punctuation: true, articles: true, white_space: true, ..Self::default() }
    }

    /// That of lm-evaluation-harness's task `gsm8k` (version 3.0): case, commas, dollars, what is before `#### `, and a full
    /// stop at the end.
    pub fn gsm8k() -> Self {
        let pattern = |pattern| Pattern::new(pattern).expect("the pattern is valid");
        let patterns = [",", r"\$", "(?s).*#### ", r"\.$"].map(pattern).into();
        Self { patterns, case: true, ..Self::default() }
    }

    /// What is left of an answer.
    ///
    /// # Errors
    /// [`EvalError::Pattern`] if matching a pattern takes too many steps.
    pub fn apply(&self, answer: &str) -> Result<String, EvalError> {
        let mut text = answer.to_owned();
        for pattern in &self.patterns {
            text = pattern.remove(&text)?;
        }
        if self.case {
            text = text.to_lowercase();
        }
        if self.punctuation {
            text.retain(|c| !c.is_ascii_punctuation());
        }
        if self.numbers {
            text.retain(|c| !c.is_ascii_digit());
        }
        if self.articles {
            text = without_articles(&text);
        }
        if self.white_space {
            text = words(&text).collect::<Vec<_>>().join(" ");
        }
        Ok(text)
    }

    /// Whether a response is one of the references.
    ///
    /// # Errors
    /// As for [`Normalisation::apply`].
    pub fn matches(&self, response: &str, references: &[impl AsRef<str>]) -> Result<bool, EvalError> {
        let response = self.apply(response)?;
        for reference in references {
            if self.apply(reference.as_ref())? == response {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Puts a space in the place of each article.
fn without_articles(text: &str) -> String {
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut left = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| in_word(c) != in_word(first)).unwrap_or(rest.len());
        let (run, behind) = rest.split_at(end);
        left.push_str(if ["a", "an", "the"].contains(&run) { " " } else { run });
        rest = behind;
    }
    left
}
