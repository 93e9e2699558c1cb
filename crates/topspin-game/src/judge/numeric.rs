//! 1 if the number of the response is that of a reference, else 0: [`topspin_eval::numeric_match`].

use super::Answer;

pub(super) fn score(answer: &Answer) -> f64 {
    f64::from(u8::from(topspin_eval::numeric_match(answer.response, answer.references)))
}

#[cfg(test)]
mod tests {
    use super::super::testing::answer;
    use super::*;

    #[test]
    fn numbers_are_compared_and_references_need_one_as_well() {
        let references = ["no number".to_owned(), "#### 1,000".to_owned()];
        assert_eq!(score(&answer("it is 1000.0", &references)), 1.0);
        assert_eq!(score(&answer("it is 1001", &references)), 0.0);
        assert_eq!(score(&answer("no number", &references)), 0.0);
    }
}
