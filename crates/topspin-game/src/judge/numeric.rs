//! 1 if the number of the response is the number of a reference, else 0.
//!
//! The number of a text is the last one in it, or the last one behind its last `####`, which in GSM8K (Cobbe et al., arXiv
//! 2110.14168) sets the answer apart. Numbers are compared as numbers: `1,200`, `1200.0` and `1.2e3` are one.

use std::sync::LazyLock;

use fancy_regex::Regex;

use super::Answer;

/// A sign, unless it joins two words or numbers; digits, perhaps with commas before each three; a fraction; an exponent.
const NUMBER: &str = r"(?:(?<![\w)])[-\u{2212}])?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?";

pub(super) fn score(answer: &Answer) -> f64 {
    let Some(number) = number(answer.response) else { return 0.0 };
    let is_right = answer.references.iter().any(|reference| self::number(reference) == Some(number));
    f64::from(u8::from(is_right))
}

/// The number of a text.
fn number(text: &str) -> Option<f64> {
    static REGEX: LazyLock<Regex> = LazyLock::new(|| Regex::new(NUMBER).expect("a constant that a test reads"));
    let told = text.rsplit_once("####").map_or(text, |(_, answer)| answer);
    // What is not a number costs the matcher a step; text of more than a million such characters has no number.
    let last = REGEX.find_iter(told).map_while(Result::ok).last()?;
    last.as_str().replace(',', "").replace('\u{2212}', "-").parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::answer;
    use super::*;

    #[test]
    fn the_last_number_counts() {
        for (text, expected) in [
            ("42", Some(42.0)),
            ("3 apples and 4 pears make 7.", Some(7.0)),
            ("It costs $1,234,567.50.", Some(1_234_567.5)),
            ("from 5 to -12", Some(-12.0)),
            ("\u{2212}3", Some(-3.0)),
            ("the years 1990-95", Some(95.0)),
            ("f(2)-1", Some(1.0)),
            ("a list: 1,23", Some(23.0)),
            ("4,5,6", Some(6.0)),
            ("12,3456", Some(3456.0)),
            ("1,234kg", Some(1234.0)),
            (".5 of it", Some(0.5)),
            ("6.02e23 or so", Some(6.02e23)),
            ("step 1: 17\n#### 5 of 20", Some(20.0)),
            ("so #### 1,000\nnot 3 #### 8 ", Some(8.0)),
            ("9 #### none", None),
            ("none", None),
            ("", None),
        ] {
            assert_eq!(number(text), expected, "{text}");
        }
    }

    #[test]
    fn references_need_a_number_as_well() {
        let references = ["no number".to_owned(), "#### 1,000".to_owned()];
        assert_eq!(score(&answer("it is 1000.0", &references)), 1.0);
        assert_eq!(score(&answer("it is 1001", &references)), 0.0);
        assert_eq!(score(&answer("no number", &references)), 0.0);
    }

    proptest! {
        /// However it is spelt, and whatever stands before it.
        #[test]
        fn numbers_are_compared_as_numbers(value in -9_999_999..10_000_000i64, cents in 0..100u32, before in "[a-z0-9 ]{0,9}") {
            let (sign, whole) = (if value < 0 { "-" } else { "" }, value.unsigned_abs().to_string());
            let groups: Vec<_> = whole.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap()).collect();
            let references = [format!("{sign}{whole}.{cents:02}")];
            for text in [format!("{before} {sign}{}.{cents:02}0", groups.join(",")), format!("{before} {sign}{whole}.{cents:02} of it")] {
                prop_assert_eq!(score(&answer(&text, &references)), 1.0, "{}", text);
                let other = [format!("{sign}{whole}.{:02}", (cents + 1) % 100)];
                prop_assert_eq!(score(&answer(&text, &other)), 0.0, "{}", text);
            }
        }
    }
}
