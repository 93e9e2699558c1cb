//! 1 if a regular expression matches somewhere in the response, else 0.

use topspin_eval::{EvalError, Pattern};

use super::Answer;

pub(super) fn score(answer: &Answer, pattern: &Pattern) -> Result<f64, EvalError> {
    pattern.is_match(answer.response).map(|matches| f64::from(u8::from(matches)))
}

#[cfg(test)]
mod tests {
    use super::super::testing::answer;
    use super::*;

    #[test]
    fn it_matches_anywhere_unless_it_says_otherwise() {
        let score =
            |pattern: &str, response: &str| score(&answer(response, &[]), &Pattern::new(pattern).unwrap()).unwrap();
        assert_eq!(score("[0-9]+ km", "it is 12 km away"), 1.0);
        assert_eq!(score("^[0-9]+ km$", "it is 12 km away"), 0.0);
        assert_eq!(score("^[0-9]+ km$", "12 km"), 1.0);
        assert_eq!(score("^(?!.*(um|maybe))", "maybe 12 km"), 0.0);
        assert_eq!(score("^(?!.*(um|maybe))", "12 km"), 1.0);
    }

    #[test]
    fn an_expression_that_takes_for_ever_is_given_up() {
        let pattern = Pattern::new(r"^(a|a|b\b(?!x))*$(?<!z)\1").unwrap();
        let error = score(&answer(&format!("{}c", "a".repeat(60)), &[]), &pattern).unwrap_err();
        assert!(error.to_string().contains("backtracking"), "{error}");
    }
}
