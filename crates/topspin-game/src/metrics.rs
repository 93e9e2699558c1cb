//! What a training step reports.
//!
//! [`StepMetrics`] is a pure function of the run's inputs and goes to `metrics.jsonl`, which is therefore the same,
//! byte for byte, in a run that was resumed. [`Throughput`] holds what the clock says and is kept apart.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use topspin_model::decoder::Flops;

use crate::objective::Triplet;

/// What a step did to the model. A slash parts a group of figures from its members, as TensorBoard has it; earlier versions had
/// `loss`, `grad_norm` and `lr`, which are read as well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Number of the step in its stage, from 1.
    pub step: u32,
    /// Mean loss: over the step's pairs, over its response tokens in supervised training, or over its weighted samples.
    #[serde(rename = "train/loss", alias = "loss")]
    pub loss: f64,
    /// The two sides of the game; absent in supervised training.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub game: Option<GameMetrics>,
    /// The samples of a policy step; absent elsewhere.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub fit: Option<FitMetrics>,
    /// Euclidean norm of the gradient before clipping.
    #[serde(rename = "train/grad_norm", alias = "grad_norm")]
    pub grad_norm: f64,
    /// Learning rate of the step.
    #[serde(rename = "train/learning_rate", alias = "lr")]
    pub lr: f64,
}

impl StepMetrics {
    /// All figures of the step with their names, in order.
    pub fn figures(&self) -> Vec<(String, f64)> {
        let Ok(Value::Object(figures)) = serde_json::to_value(self) else {
            unreachable!("metrics are structs of numbers")
        };
        let figures = figures.into_iter().filter(|(name, _)| name != "step");
        figures.filter_map(|(name, value)| Some((name, value.as_f64()?))).collect()
    }
}

/// Both sides of a step's pairs, under the names that TRL gives them. Each is a mean over the pairs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GameMetrics {
    /// beta times the log-ratio of the real response.
    #[serde(rename = "rewards/real")]
    pub reward_real: f64,
    /// beta times the log-ratio of the generated response.
    #[serde(rename = "rewards/generated")]
    pub reward_generated: f64,
    /// Share of pairs whose real response has the higher reward.
    #[serde(rename = "rewards/accuracies")]
    pub accuracy: f64,
    /// Difference of the rewards.
    #[serde(rename = "rewards/margins")]
    pub margin: f64,
    /// Log-probability of the real response under the policy, summed over its tokens.
    #[serde(rename = "logps/real")]
    pub logp_real: f64,
    /// Log-probability of the generated response under the policy, summed over its tokens.
    #[serde(rename = "logps/generated")]
    pub logp_generated: f64,
}

/// The samples of a step of the weighted fit ([`crate::policy`]).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FitMetrics {
    /// Mean score of the samples, unweighted.
    #[serde(rename = "scores/mean")]
    pub score: f64,
    /// How many samples of equal weight would say as much.
    #[serde(rename = "scores/effective_samples")]
    pub effective_samples: f64,
}

/// How fast a step was.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Throughput {
    /// Rows that went through the model: a prompt counts once for all of its branches.
    pub tokens: u64,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Useful operations.
    pub flops: Flops,
}

impl Throughput {
    /// Rows per second.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds
    }

    /// Operations per second.
    pub fn flops_per_second(&self) -> f64 {
        self.flops.0 as f64 / self.seconds
    }
}

/// A line of `throughput.jsonl`: how fast a step was, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ThroughputLine {
    /// Number of the step in its stage, from 1.
    pub step: u32,
    /// Rows that went through the model.
    pub tokens: u64,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Rows per second.
    pub tokens_per_second: f64,
    /// Useful operations over those that matrix products alone reach on the machine.
    pub mfu: f64,
}

impl ThroughputLine {
    /// The figures that are worth a curve, with their names.
    pub fn figures(&self) -> [(&'static str, f64); 2] {
        [("throughput/tokens_per_second", self.tokens_per_second), ("throughput/mfu", self.mfu)]
    }
}

impl std::ops::AddAssign for Throughput {
    fn add_assign(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.seconds += other.seconds;
        self.flops.0 += other.flops.0;
    }
}

/// A weighted mean that is updated in place.
///
/// The mean of equal values is that value to the bit, which a sum divided at the end would not give: so the first
/// loss of an iteration reads ln 2 exactly.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mean {
    weight: f64,
    mean: f64,
}

impl Mean {
    pub fn push(&mut self, weight: f64, value: f64) {
        self.weight += weight;
        self.mean += (value - self.mean) * (weight / self.weight);
    }

    pub fn get(self) -> f64 {
        self.mean
    }
}

/// The means of [`GameMetrics`] as they grow.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GameMeans {
    reward_real: Mean,
    reward_generated: Mean,
    accuracy: Mean,
    margin: Mean,
    logp_real: Mean,
    logp_generated: Mean,
}

impl GameMeans {
    /// Adds `weight` equal pairs.
    pub fn push(&mut self, weight: f64, beta: f64, Triplet { real, generated, .. }: &Triplet) {
        let (reward_real, reward_generated) = (beta * real.log_ratio, beta * generated.log_ratio);
        self.reward_real.push(weight, reward_real);
        self.reward_generated.push(weight, reward_generated);
        self.accuracy.push(weight, if reward_real > reward_generated { 1.0 } else { 0.0 });
        self.margin.push(weight, reward_real - reward_generated);
        self.logp_real.push(weight, real.logp);
        self.logp_generated.push(weight, generated.logp);
    }

    pub fn get(self) -> GameMetrics {
        GameMetrics {
            reward_real: self.reward_real.get(),
            reward_generated: self.reward_generated.get(),
            accuracy: self.accuracy.get(),
            margin: self.margin.get(),
            logp_real: self.logp_real.get(),
            logp_generated: self.logp_generated.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_mean_is_the_mean(values in prop::collection::vec((1..9u32, -5.0..5.0f64), 1..40)) {
            let mut mean = Mean::default();
            values.iter().for_each(|&(weight, value)| mean.push(weight.into(), value));
            let total: f64 = values.iter().map(|&(weight, _)| f64::from(weight)).sum();
            let expected = values.iter().map(|&(weight, value)| f64::from(weight) * value).sum::<f64>() / total;
            prop_assert!((mean.get() - expected).abs() < 1e-13);
        }

        #[test]
        fn the_mean_of_equal_values_is_exact(value in -5.0..5.0f64, weights in prop::collection::vec(1..9u32, 1..40)) {
            let mut mean = Mean::default();
            weights.iter().for_each(|&weight| mean.push(weight.into(), value));
            prop_assert_eq!(mean.get().to_bits(), value.to_bits());
        }
    }

    #[test]
    fn a_line_of_metrics_has_the_usual_names_and_reads_back() {
        let game = GameMetrics {
            reward_real: 0.1,
            reward_generated: -0.2,
            accuracy: 0.75,
            margin: 0.30000000000000004,
            logp_real: -12.5,
            logp_generated: -31.0,
        };
        let metrics = StepMetrics { step: 3, loss: 0.5, game: Some(game), fit: None, grad_norm: 1.5, lr: 5e-7 };
        let line = serde_json::to_string(&metrics).unwrap();
        assert_eq!(
            line,
            r#"{"step":3,"train/loss":0.5,"rewards/real":0.1,"rewards/generated":-0.2,"rewards/accuracies":0.75,"rewards/margins":0.30000000000000004,"logps/real":-12.5,"logps/generated":-31.0,"train/grad_norm":1.5,"train/learning_rate":5e-7}"#
        );
        assert_eq!(serde_json::from_str::<StepMetrics>(&line).unwrap(), metrics);
        let fit = FitMetrics { score: 0.25, effective_samples: 12.5 };
        let policy = StepMetrics { game: None, fit: Some(fit), ..metrics.clone() };
        let line = serde_json::to_string(&policy).unwrap();
        assert_eq!(
            line,
            r#"{"step":3,"train/loss":0.5,"scores/mean":0.25,"scores/effective_samples":12.5,"train/grad_norm":1.5,"train/learning_rate":5e-7}"#
        );
        assert_eq!(serde_json::from_str::<StepMetrics>(&line).unwrap(), policy);
        let supervised = StepMetrics { game: None, ..metrics };
        let line = serde_json::to_string(&supervised).unwrap();
        assert_eq!(line, r#"{"step":3,"train/loss":0.5,"train/grad_norm":1.5,"train/learning_rate":5e-7}"#);
        assert_eq!(serde_json::from_str::<StepMetrics>(&line).unwrap(), supervised);
        let figures =
            [("train/loss".into(), 0.5), ("train/grad_norm".into(), 1.5), ("train/learning_rate".into(), 5e-7)];
        assert_eq!(supervised.figures(), figures);
        // As earlier versions wrote it.
        let old = r#"{"step":3,"loss":0.5,"grad_norm":1.5,"lr":5e-7}"#;
        assert_eq!(serde_json::from_str::<StepMetrics>(old).unwrap(), supervised);
    }
}
