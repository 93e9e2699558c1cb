//! What can be read off the responses themselves.

use std::collections::HashSet;
use std::hash::Hash;

use crate::bootstrap::quantile;
use crate::{Bootstrap, EvalError, Figure};

/// Whether a response is one of the references, white space at the ends aside. [`Normalisation`](crate::Normalisation)
/// overlooks more.
pub fn exact_match(response: &str, references: &[impl AsRef<str>]) -> bool {
    references.iter().any(|reference| reference.as_ref().trim() == response.trim())
}

/// The number of distinct runs of `n` words over the number of all such runs, in all responses together (Li et al.
/// 2016); words are parted by white space. It falls as the number of responses grows, so only as many responses
/// compare, and a draw with replacement would be biased: hence no interval.
///
/// # Errors
/// [`EvalError::Empty`] if no response has `n` words, or `n` is 0.
pub fn distinct_n(responses: &[impl AsRef<str>], n: usize) -> Result<Figure, EvalError> {
    let words: Vec<Vec<&str>> = responses.iter().map(|r| r.as_ref().split_whitespace().collect()).collect();
    distinct_runs(&words, n)
}

/// [`distinct_n`] of sequences of anything, such as tokens.
///
/// # Errors
/// [`EvalError::Empty`] if no sequence has `n` items, or `n` is 0.
pub fn distinct_runs<T: Eq + Hash>(sequences: &[impl AsRef<[T]>], n: usize) -> Result<Figure, EvalError> {
    let mut distinct = HashSet::new();
    let mut all = 0;
    for run in sequences.iter().filter(|_| n > 0).flat_map(|sequence| sequence.as_ref().windows(n.max(1))) {
        distinct.insert(run);
        all += 1;
    }
    if all == 0 {
        return Err(EvalError::Empty);
    }
    Ok(Figure::without_interval(distinct.len() as f64 / all as f64, sequences.len()))
}

/// Lengths of responses, in tokens or in whatever unit the caller counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lengths {
    /// The mean.
    pub mean: Figure,
    /// The median; of an even number, the mean of the middle two.
    pub median: Figure,
    /// The shortest.
    pub min: Figure,
    /// The longest.
    pub max: Figure,
}

impl Lengths {
    /// Summarises lengths, one a response.
    ///
    /// # Errors
    /// [`EvalError::Empty`] if there are none.
    pub fn new(lengths: &[usize], bootstrap: &Bootstrap) -> Result<Self, EvalError> {
        let values: Vec<f64> = lengths.iter().map(|&l| l as f64).collect();
        let median = bootstrap.figure(values.len(), |places| {
            let mut drawn: Vec<f64> = places.iter().map(|&i| values[i]).collect();
            drawn.sort_by(f64::total_cmp);
            quantile(&drawn, 0.5)
        })?;
        let extreme = |value: Option<&usize>| {
            value.map(|&v| Figure::without_interval(v as f64, lengths.len())).ok_or(EvalError::Empty)
        };
        Ok(Self {
            mean: bootstrap.mean(&values)?,
            median,
            min: extreme(lengths.iter().min())?,
            max: extreme(lengths.iter().max())?,
        })
    }
}
