//! Which values are allowed.

use std::fmt::Display;

use toml::Value;

use super::{Config, ConfigError};
use crate::objective::Objective;
use crate::opponent::{Opponent, Reference};
use crate::schedule::PerIteration;

/// Largest weight of a source: a copy of a record takes as much memory as the record.
const MAX_WEIGHT: f64 = 100.0;

impl Config {
    /// Whether every value is in its range and every list fits the number of iterations.
    pub fn check(&self) -> Result<(), ConfigError> {
        let Self { model, adapter, data, sft, game, rollout, score, train, eval, output } = self;
        let is_missing = [
            ("model.path", model.path.is_empty()),
            ("data.train", data.train.is_empty()),
            ("output.dir", output.dir.is_empty()),
        ];
        if let Some((key, _)) = is_missing.iter().find(|(_, is_missing)| *is_missing) {
            return Err(ConfigError::Missing { key: (*key).into() });
        }

        self.lengths()?;
        positive("adapter.alpha", adapter.alpha)?;
        if !(0.0..1.0).contains(&adapter.dropout) {
            return range("adapter.dropout", adapter.dropout, "0 or above, and below 1");
        }
        if adapter.merge && adapter.rank == 0 {
            return range("adapter.merge", true, "false where there is no adapter: `adapter.rank` makes one");
        }
        for source in data.train.to_vec() {
            if !(source.weight > 0.0 && source.weight <= MAX_WEIGHT) {
                return range("data.train.weight", source.weight, &format!("above 0, and {MAX_WEIGHT} at most"));
            }
        }
        if let Some(field) = data.columns.keys().find(|field| !topspin_data::is_field(field)) {
            let allowed = "a table whose keys are fields of a record, such as `prompt` and `response`";
            return range("data.columns", Value::from(field.as_str()), allowed);
        }
        share("data.max_unusable", data.max_unusable)?;
        above_zero_below_one("data.test_share", data.test_share)?;

        at_least_one("sft.epochs", sft.epochs)?;
        positive("sft.lr", sft.lr)?;
        at_least_one("sft.batch", sft.batch)?;
        share("sft.warmup", sft.warmup)?;
        for control in &sft.controls {
            at_least_one("sft.controls.epochs", control.epochs)?;
            positive("sft.controls.lr", control.lr)?;
        }

        game.beta.values().iter().try_for_each(|beta| positive("game.beta", *beta))?;
        game.samples.values().iter().try_for_each(|samples| at_least_one("game.samples", *samples))?;
        for (key, weights) in game.additions() {
            weights.values().iter().try_for_each(|weight| not_negative(key, *weight))?;
        }
        if let Some(share) = game.label_smoothing.values().iter().find(|&&share| share >= 0.5) {
            return range("game.label_smoothing", share, "0 or above, and below 1/2");
        }

        game.history_decay.values().iter().try_for_each(|decay| above_zero_to_one("game.history_decay", *decay))?;
        for decay in game.average_decay.values() {
            if !(0.0..1.0).contains(decay) {
                return range("game.average_decay", decay, "0 or above, and below 1");
            }
        }
        game.mixture.values().iter().try_for_each(|alpha| share("game.mixture", *alpha))?;
        (1..=game.iterations).try_for_each(|k| self.opponent(k))?;

        rollout.temperature.values().iter().try_for_each(|t| positive("rollout.temperature", *t))?;
        above_zero_to_one("rollout.top_p", rollout.top_p)?;
        at_least_one("rollout.max_new_tokens", rollout.max_new_tokens)?;
        at_least_one("rollout.live_sequences", rollout.live_sequences)?;
        at_least_one("rollout.rows_per_step", rollout.rows_per_step)?;

        score.check(game)?;

        train.lr.values().iter().try_for_each(|lr| positive("train.lr", *lr))?;
        share("train.warmup", train.warmup)?;
        train.epochs.values().iter().try_for_each(|epochs| at_least_one("train.epochs", *epochs))?;
        at_least_one("train.batch_pairs", train.batch_pairs)?;
        at_least_one("train.pairs_per_prompt", train.pairs_per_prompt)?;
        at_least_one("train.batch_tokens", train.batch_tokens)?;
        not_negative("train.clip", train.clip)?;
        not_negative("train.weight_decay", train.weight_decay)?;
        for (key, value) in [("train.beta1", train.beta1), ("train.beta2", train.beta2), ("train.decay", train.decay)] {
            if !(0.0..1.0).contains(&value) {
                return range(key, value, "0 or above, and below 1");
            }
        }
        positive("train.eps", train.eps)?;

        let generates = eval.greedy || eval.sampled;
        let off = |kind: &str, on: bool| !on && eval.best.starts_with(kind);
        if off("greedy.", eval.greedy) || off("sampled.", eval.sampled) {
            let allowed = "a metric of what is generated: `eval.greedy` or `eval.sampled` switches that on";
            return range("eval.best", Value::from(eval.best.as_str()), allowed);
        }
        if !eval.scorer.is_empty() && !generates {
            let allowed = "empty where `eval.greedy` and `eval.sampled` are both off: there is nothing to score";
            return range("eval.scorer", Value::from(eval.scorer.clone()), allowed);
        }
        Ok(())
    }

    /// Whether the opponent of iteration `k` has what its loss needs.
    fn opponent(&self, k: usize) -> Result<(), ConfigError> {
        let game = &self.game;
        let (opponent, loss, samples) = (*game.opponent.of(k), game.loss(k), *game.samples.of(k));
        if opponent == Opponent::Data && samples != 1 {
            let allowed = "1 where `game.opponent` is \"data\": a record has one rejected response";
            return range("game.samples", samples, allowed);
        }
        let lineup = game.lineup(k, k);
        let by_density = matches!(loss.objective, Objective::Sppo | Objective::Space | Objective::ApoZero);
        if matches!(lineup.reference, Reference::Geometric(_)) && by_density {
            let allowed = "another one for an objective that is no function of the margin: the constant of the mixture, which \
                           no one knows, does not cancel in it";
            return range("game.opponent", "\"mixture\"", allowed);
        }
        if loss.needs().base_logprobs && !lineup.reference.is_sampled_by(&lineup.players) {
            let allowed = "0 where samples are not the reference's own (`game.opponent` \"mixture\", \"latest_two\")";
            return range("game.reverse_kl", loss.additions.reverse_kl, allowed);
        }
        if loss.needs().base_logprobs && opponent == Opponent::Data {
            let allowed = "0 where `game.opponent` is \"data\": rejected responses are no samples of the policy";
            return range("game.reverse_kl", loss.additions.reverse_kl, allowed);
        }
        if k > 1
            && opponent == Opponent::LatestTwo
            && loss.needs().base_response
            && !game.loss(k - 1).needs().base_response
        {
            let allowed = "another in an iteration whose objective or `forward_kl` asks for responses of the base model where the \
                           iteration before did not: it takes over what that one made";
            return range("game.opponent", "\"latest_two\"", allowed);
        }
        Ok(())
    }

    /// Whether every list has one value for each iteration.
    fn lengths(&self) -> Result<(), ConfigError> {
        let iterations = self.game.iterations;
        let check = |key: &str, listed: Option<usize>| match listed {
            Some(found) if found != iterations => Err(ConfigError::Length { key: key.into(), found, iterations }),
            _ => Ok(()),
        };
        check("data.prompts", listed(&self.data.prompts))?;
        check("game.opponent", listed(&self.game.opponent))?;
        check("game.history_decay", listed(&self.game.history_decay))?;
        check("game.average_decay", listed(&self.game.average_decay))?;
        check("game.mixture", listed(&self.game.mixture))?;
        check("game.beta", listed(&self.game.beta))?;
        check("game.objective", listed(&self.game.objective))?;
        check("game.samples", listed(&self.game.samples))?;
        for (key, weights) in self.game.additions() {
            check(key, listed(weights))?;
        }
        check("rollout.temperature", listed(&self.rollout.temperature))?;
        check("score.gap", listed(&self.score.gap))?;
        check("train.lr", listed(&self.train.lr))?;
        check("train.epochs", listed(&self.train.epochs))
    }
}

/// Length of a list.
fn listed<T>(values: &PerIteration<T>) -> Option<usize> {
    match values {
        PerIteration::One(_) => None,
        PerIteration::Each(values) => Some(values.len()),
    }
}

pub(super) fn range(key: &str, value: impl Display, allowed: &str) -> Result<(), ConfigError> {
    Err(ConfigError::Range { key: key.into(), value: value.to_string(), allowed: allowed.into() })
}

pub(super) fn at_least_one(key: &str, value: usize) -> Result<(), ConfigError> {
    if value == 0 { range(key, value, "1 or more") } else { Ok(()) }
}

// Each comparison is written so that a NaN, which TOML can spell, fails it.

fn positive(key: &str, value: f64) -> Result<(), ConfigError> {
    if value > 0.0 && value.is_finite() { Ok(()) } else { range(key, value, "a number above 0") }
}

pub(super) fn not_negative(key: &str, value: f64) -> Result<(), ConfigError> {
    if value >= 0.0 && value.is_finite() { Ok(()) } else { range(key, value, "0 or a number above it") }
}

fn share(key: &str, value: f64) -> Result<(), ConfigError> {
    if (0.0..=1.0).contains(&value) { Ok(()) } else { range(key, value, "between 0 and 1") }
}

fn above_zero_to_one(key: &str, value: f64) -> Result<(), ConfigError> {
    if value > 0.0 && value <= 1.0 { Ok(()) } else { range(key, value, "above 0, and 1 at most") }
}

fn above_zero_below_one(key: &str, value: f64) -> Result<(), ConfigError> {
    if value > 0.0 && value < 1.0 { Ok(()) } else { range(key, value, "above 0 and below 1") }
}
