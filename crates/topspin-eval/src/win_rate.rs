//! Which of two responses to a prompt is the better one, how often.

use crate::bootstrap::{finite, standard_error, wilson};
use crate::{EvalError, Figure};

/// The share of prompts at which the response of `right` has the higher score than that of `left`, equal scores counting
/// one half: from 0 to 1, one half being neither's favour. Scores belong in pairs by their place.
///
/// The interval is Wilson's, as for a share without ties; ties make the true one narrower, never wider. The standard
/// error is that of the mean of 0, one half and 1.
///
/// # Errors
/// [`EvalError::Unpaired`] if the numbers of scores differ, [`EvalError::Empty`] if there are none,
/// [`EvalError::NotFinite`] for the first score that is no number, counted from those of `left` on.
pub fn win_rate(left: &[f64], right: &[f64]) -> Result<Figure, EvalError> {
    if left.len() != right.len() {
        return Err(EvalError::Unpaired { left: left.len(), right: right.len() });
    }
    if left.is_empty() {
        return Err(EvalError::Empty);
    }
    finite(&[left, right].concat())?;
    let win = |(l, r): (&f64, &f64)| if r > l { 1.0 } else { 0.5 * f64::from(r == l) };
    let wins: Vec<f64> = left.iter().zip(right).map(win).collect();
    let n = wins.len();
    let value = wins.iter().sum::<f64>() / n as f64;
    let (low, high) = wilson(value, n);
    Ok(Figure { value, low: Some(low), high: Some(high), stderr: standard_error(&wins), n })
}
