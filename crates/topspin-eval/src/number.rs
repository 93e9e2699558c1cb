//! Answers that are numbers.

use std::sync::LazyLock;

use crate::RegexFilter;

static FILTERS: LazyLock<[RegexFilter; 2]> =
    LazyLock::new(|| [RegexFilter::strict_match(), RegexFilter::flexible_extract()]);

/// The number that a response gives as its answer, in its shortest form, exact at any length: `-1234.5` for `-1,234.50`.
///
/// It is the one behind `#### `, as GSM8K's solutions end (Cobbe et al. 2021); where there is none, the last of the
/// response, found as lm-evaluation-harness's `flexible-extract` finds it. Commas and dollars in it and full stops behind it
/// do not count, and a minus is a sign also where it was a hyphen (`10-12` ends in -12). Unlike the harness, which
/// compares text, this passes over what is no number, as `...` or `1.2.3`, and `7.0` is `7`.
pub fn numeric_answer(response: &str) -> Option<String> {
    // Neither pattern needs to go back, so neither can take too many steps.
    let candidates = FILTERS.iter().flat_map(|filter| filter.candidates(response).unwrap_or_default());
    candidates.into_iter().find_map(shortest)
}

/// Whether a response gives the same number as one of the references.
pub fn numeric_match(response: &str, references: &[impl AsRef<str>]) -> bool {
    let Some(number) = numeric_answer(response) else { return false };
    references.iter().any(|reference| numeric_answer(reference.as_ref()).as_ref() == Some(&number))
}

/// The shortest form of a decimal number.
fn shortest(found: &str) -> Option<String> {
    let digits = found.replace([',', '$'], "");
    let digits = digits.trim_end_matches('.');
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |digits| ("-", digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = !digits.is_empty() && (whole.bytes().chain(fraction.bytes())).all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    let sign = if whole.is_empty() && fraction.is_empty() { "" } else { sign };
    let whole = if whole.is_empty() { "0" } else { whole };
    let point = if fraction.is_empty() { "" } else { "." };
    is_number.then(|| format!("{sign}{whole}{point}{fraction}"))
}
