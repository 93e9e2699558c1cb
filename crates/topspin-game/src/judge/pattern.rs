//! 1 if a regular expression matches somewhere in the response, else 0.

use fancy_regex::Regex;

use super::Answer;

/// A regular expression.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

/// An expression that takes more steps on a response than are allowed: a million.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct GivenUp {
    /// What the matcher said.
    pub problem: String,
}

impl Pattern {
    /// The expression, or what is wrong with it.
    pub fn new(pattern: &str) -> Result<Self, String> {
        // Some faults are told over several lines, with a mark below the place.
        let in_a_line = |e: fancy_regex::Error| e.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        Regex::new(pattern).map(Self).map_err(in_a_line)
    }

    pub(super) fn score(&self, answer: &Answer) -> Result<f64, GivenUp> {
        let matches = self.0.is_match(answer.response).map_err(|e| GivenUp { problem: e.to_string() })?;
        Ok(f64::from(u8::from(matches)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::answer;
    use super::*;

    #[test]
    fn it_matches_anywhere_unless_it_says_otherwise() {
        let score =
            |pattern: &str, response: &str| Pattern::new(pattern).unwrap().score(&answer(response, &[])).unwrap();
        assert_eq!(score("[0-9]+ km", "it is 12 km away"), 1.0);
        assert_eq!(score("^[0-9]+ km$", "it is 12 km away"), 0.0);
        assert_eq!(score("^[0-9]+ km$", "12 km"), 1.0);
        assert_eq!(score("^(?!.*(um|maybe))", "maybe 12 km"), 0.0);
        assert_eq!(score("^(?!.*(um|maybe))", "12 km"), 1.0);
    }

    #[test]
    fn what_is_no_expression_is_told_in_a_line() {
        for pattern in ["(", "[z-a]", "a{2", "(?<=a*)b", "*"] {
            match Pattern::new(pattern) {
                Err(problem) => assert!(!problem.is_empty() && !problem.contains('\n'), "{problem}"),
                Ok(_) => assert_eq!(pattern, "a{2", "{pattern} was taken"),
            }
        }
    }

    #[test]
    fn an_expression_that_takes_for_ever_is_given_up() {
        let pattern = Pattern::new(r"^(a|a|b\b(?!x))*$(?<!z)\1").unwrap();
        let error = pattern.score(&answer(&format!("{}c", "a".repeat(60)), &[])).unwrap_err();
        assert!(error.to_string().contains("backtracking"), "{error}");
    }
}
