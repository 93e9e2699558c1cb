//! Metrics of a whole corpus, which are no means over its responses.

use crate::{Bootstrap, EvalError, Figure};

/// What a corpus metric needs to know of a response: the sums over all responses determine the metric.
pub trait CorpusStatistics: Default {
    /// Adds those of another response.
    fn add(&mut self, other: &Self);

    /// The metric of the responses that were added.
    fn score(&self) -> f64;
}

impl Bootstrap {
    /// A corpus metric. A draw takes whole responses and computes the metric from their sums (Koehn 2004).
    ///
    /// # Errors
    /// [`EvalError::Empty`] without responses.
    pub fn corpus<S: CorpusStatistics>(&self, responses: &[S]) -> Result<Figure, EvalError> {
        self.figure(responses.len(), |places| score_at(responses, places))
    }

    /// The difference `right - left` of a corpus metric between two sets of responses to the same prompts, in the same
    /// order. A draw takes the same prompts of both, so what makes a prompt hard is in neither's interval.
    ///
    /// # Errors
    /// As for [`Bootstrap::corpus`], and [`EvalError::Unpaired`] if the numbers of responses differ.
    pub fn corpus_difference<S: CorpusStatistics>(&self, left: &[S], right: &[S]) -> Result<Figure, EvalError> {
        if left.len() != right.len() {
            return Err(EvalError::Unpaired { left: left.len(), right: right.len() });
        }
        self.figure(left.len(), |places| score_at(right, places) - score_at(left, places))
    }
}

fn score_at<S: CorpusStatistics>(responses: &[S], places: &[usize]) -> f64 {
    let mut sum = S::default();
    places.iter().for_each(|&i| sum.add(&responses[i]));
    sum.score()
}
