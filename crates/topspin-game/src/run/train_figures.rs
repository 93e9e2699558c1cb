//! What comes out of a stage of training.

use serde::{Deserialize, Serialize};

use crate::metrics::{GameMetrics, StepMetrics};

/// Results of a stage of training: means over the last quarter of its steps, at least one. An iteration of several rounds has
/// the sums of their steps, examples and changes, and else what the last round has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainFigures {
    /// Optimizer steps.
    pub steps: usize,
    /// Examples, pairs or weighted samples trained on.
    pub examples: usize,
    /// The loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// In self-play: the loss of the first step, before any parameter moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_loss: Option<f64>,
    /// In self-play: the change of the real response's log-probability, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub real_change: Option<f64>,
    /// In self-play: the change of the generated response's log-probability, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generated_change: Option<f64>,
    /// In self-play: the share of pairs whose real response has the higher reward.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
}

impl TrainFigures {
    /// Those of `examples` that took these steps; `beta` is the weight in the rewards of self-play.
    pub fn new(metrics: &[StepMetrics], examples: usize, beta: Option<f64>) -> Self {
        if metrics.is_empty() {
            return Self::default();
        }
        let last = &metrics[metrics.len() - metrics.len().div_ceil(4)..];
        let mean = |of: &dyn Fn(&StepMetrics) -> f64| last.iter().map(of).sum::<f64>() / last.len() as f64;
        let figures = Self { steps: metrics.len(), examples, loss: Some(mean(&|m| m.loss)), ..Self::default() };
        let Some(beta) = beta else { return figures };
        let game = |of: &dyn Fn(&GameMetrics) -> f64| Some(mean(&|m| m.game.as_ref().map_or(0.0, of)));
        Self {
            first_loss: metrics.first().map(|first| first.loss),
            real_change: game(&|game| game.reward_real / beta),
            generated_change: game(&|game| game.reward_generated / beta),
            accuracy: game(&|game| game.accuracy),
            ..figures
        }
    }

    /// Of parts of which this is the last: how the last one with a step ended, and what changed in all.
    pub fn after(self, mut parts: Vec<Self>) -> Self {
        parts.push(self);
        let sum = |of: fn(&Self) -> Option<f64>| parts.iter().filter_map(of).reduce(|a, b| a + b);
        let last = |of: fn(&Self) -> Option<f64>| parts.iter().rev().find_map(of);
        Self {
            steps: parts.iter().map(|part| part.steps).sum(),
            examples: parts.iter().map(|part| part.examples).sum(),
            loss: last(|part| part.loss),
            first_loss: last(|part| part.first_loss),
            real_change: sum(|part| part.real_change),
            generated_change: sum(|part| part.generated_change),
            accuracy: last(|part| part.accuracy),
        }
    }

    /// The same in words.
    pub fn sentence(&self) -> String {
        let mut sentence = format!("{} steps, loss {:.4}", self.steps, self.loss.unwrap_or_default());
        if let (Some(real), Some(generated), Some(accuracy)) = (self.real_change, self.generated_change, self.accuracy)
        {
            sentence += &format!(
                " at the end; log-probability of real responses {real:+.2}, of generated ones {generated:+.2}; accuracy \
                 {accuracy:.2}"
            );
        }
        sentence
    }
}
