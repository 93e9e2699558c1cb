//! What models gave to an answer, packed for the page.

use serde::Serialize;

/// Log-probabilities of an answer under a model.
#[derive(Debug, Serialize)]
pub struct Scored {
    /// Place of the model among the rounds of the training prompts, or among the stages of the test prompts.
    pub by: usize,
    /// What it gave.
    #[serde(flatten)]
    pub logprobs: Logprobs,
}

/// Log-probabilities of an answer.
#[derive(Debug, Serialize)]
pub struct Logprobs {
    /// Of each token, in hundredths of nats; none where tokens have no places of their own in the page.
    #[serde(rename = "logprobs", skip_serializing_if = "Vec::is_empty")]
    hundredths: Vec<i32>,
    /// Of the whole answer, in nats.
    #[serde(serialize_with = "thousandths")]
    pub sum: f64,
}

impl Logprobs {
    /// Packs those of an answer that has so many tokens in the page.
    pub fn new(logprobs: &[f32], tokens: usize) -> Self {
        let hundredth = |logprob: &f32| (logprob * 100.0).round() as i32;
        let hundredths = if logprobs.len() == tokens { logprobs.iter().map(hundredth).collect() } else { Vec::new() };
        Self { hundredths, sum: logprobs.iter().copied().map(f64::from).sum() }
    }
}

/// What is given to an answer by the model of a place.
pub fn sum_by(scores: &[Scored], place: usize) -> Option<f64> {
    scores.iter().find(|scored| scored.by == place).map(|scored| scored.logprobs.sum)
}

/// To three digits behind the point: more cannot be seen.
pub fn rounded(nats: f64) -> f64 {
    (nats * 1000.0).round() / 1000.0
}

fn thousandths<S: serde::Serializer>(nats: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(rounded(*nats))
}
