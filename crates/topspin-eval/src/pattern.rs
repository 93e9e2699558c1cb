//! Regular expressions as Python's users write them.

use fancy_regex::Regex;

use crate::EvalError;
use crate::white_space::is_space;

/// The patterns in which GSM8K's answers are found, as lm-evaluation-harness has them.
pub(crate) const STRICT: &str = r"#### (\-?[0-9\.\,]+)";
pub(crate) const FLEXIBLE: &str = r"(-?[$0-9.,]{2,})|(-?[0-9]+)";
/// What lm-evaluation-harness puts in the place of an answer that is not found.
pub(crate) const INVALID: &str = "[invalid]";

/// A regular expression. The syntax is that of the crate `fancy-regex`, which is Python's with lookahead and
/// backreferences, but for `$`, which is the end of the text alone, and for rare classes.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`EvalError::Pattern`] if it is none.
    pub fn new(pattern: &str) -> Result<Self, EvalError> {
        Regex::new(pattern).map(Self).map_err(|error| fault(pattern, &error))
    }

    /// Whether it matches somewhere in a text.
    ///
    /// # Errors
    /// [`EvalError::Pattern`] if the match takes too many steps, a million.
    pub fn is_match(&self, text: &str) -> Result<bool, EvalError> {
        self.0.is_match(text).map_err(|error| fault(self.0.as_str(), &error))
    }

    /// Removes all matches.
    ///
    /// # Errors
    /// [`EvalError::Pattern`] if a match takes too many steps.
    pub fn remove(&self, text: &str) -> Result<String, EvalError> {
        let replaced = self.0.try_replacen(text, 0, "");
        replaced.map(Into::into).map_err(|error| fault(self.0.as_str(), &error))
    }

    /// What each match holds: the whole match or, where the pattern has groups, the first group that is not empty. Of
    /// several groups all may be; then nothing.
    fn find_all<'a>(&self, text: &'a str) -> Result<Vec<Option<&'a str>>, EvalError> {
        let groups = self.0.captures_len() - 1;
        let held = |captures: fancy_regex::Captures<'a>| {
            let group = |index| captures.get(index).map_or("", |group| group.as_str());
            match groups {
                0 | 1 => Some(group(groups)),
                _ => (1..=groups).map(group).find(|text| !text.is_empty()),
            }
        };
        let matches = self.0.captures_iter(text);
        matches.map(|captures| captures.map(held).map_err(|error| fault(self.0.as_str(), &error))).collect()
    }
}

fn fault(pattern: &str, error: &fancy_regex::Error) -> EvalError {
    // Some faults are told over several lines, with a mark below the place.
    let problem = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    EvalError::Pattern { pattern: pattern.into(), problem }
}

/// Takes an answer out of a response by a regular expression: lm-evaluation-harness's filter `regex` (0.4.13).
#[derive(Clone, Debug)]
pub struct RegexFilter {
    pattern: Pattern,
    select: isize,
    fallback: String,
}

impl RegexFilter {
    /// A filter that takes a match by its place, 0 being the first and -1 the last (`group_select`): the whole of it or,
    /// where the pattern has groups, the first group that is not empty. Where there is no such match, or nothing in its
    /// groups, the answer is `fallback`.
    ///
    /// # Errors
    /// [`EvalError::Pattern`] if the pattern is none.
    pub fn new(pattern: &str, select: isize, fallback: &str) -> Result<Self, EvalError> {
        Ok(Self { pattern: Pattern::new(pattern)?, select, fallback: fallback.into() })
    }

    /// GSM8K's `strict-match`: the first number behind `#### `, or `[invalid]`.
    pub fn strict_match() -> Self {
        Self::new(STRICT, 0, INVALID).expect("the pattern is valid")
    }

    /// GSM8K's `flexible-extract`: the last run of digits, points, commas and dollars with its sign, or `[invalid]`.
    pub fn flexible_extract() -> Self {
        Self::new(FLEXIBLE, -1, INVALID).expect("the pattern is valid")
    }

    /// The answer in a response, without white space at its ends.
    ///
    /// # Errors
    /// [`EvalError::Pattern`] if a match takes too many steps.
    pub fn apply(&self, response: &str) -> Result<String, EvalError> {
        let matches = self.pattern.find_all(response)?;
        let place =
            if self.select < 0 { matches.len().checked_add_signed(self.select) } else { Some(self.select as usize) };
        let found = place.and_then(|place| matches.get(place).copied().flatten());
        Ok(found.unwrap_or(&self.fallback).trim_matches(is_space).into())
    }

    /// All that could be the answer, the selected one first, then those before it.
    pub(crate) fn candidates<'a>(&self, response: &'a str) -> Result<Vec<&'a str>, EvalError> {
        let mut matches: Vec<&str> = self.pattern.find_all(response)?.into_iter().flatten().collect();
        if self.select < 0 {
            matches.reverse();
        } else {
            matches.truncate(1);
        }
        Ok(matches)
    }
}
