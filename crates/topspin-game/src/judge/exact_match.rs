//! 1 if the response is one of the references, white space at the ends aside, else 0: the metric of that name in the
//! evaluation.

use super::Answer;

pub(super) fn score(answer: &Answer) -> f64 {
    f64::from(u8::from(topspin_eval::exact_match(answer.response, answer.references)))
}

#[cfg(test)]
mod tests {
    use super::super::testing::answer;
    use super::*;

    #[test]
    fn any_reference_will_do_and_ends_do_not_count() {
        let references = ["IV".to_owned(), " four\n".to_owned()];
        for (response, expected) in [("IV", 1.0), (" IV ", 1.0), ("four", 1.0), ("IV.", 0.0), ("iv", 0.0), ("", 0.0)] {
            assert_eq!(score(&answer(response, &references)), expected, "{response}");
        }
    }
}
