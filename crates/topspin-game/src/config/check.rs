//! Which values are allowed.

use std::fmt::Display;

use toml::Value;

use super::{Config, ConfigError, OptimizerKind};
use crate::objective::Objective;
use crate::opponent::{Opponent, Reference};
use crate::schedule::{PerIteration, Refresh, Shape};

/// Largest weight of a source: a copy of a record takes as much memory as the record.
const MAX_WEIGHT: f64 = 100.0;

impl Config {
    /// Whether every value is in its range and every list fits the number of iterations.
    pub fn check(&self) -> Result<(), ConfigError> {
        let Self { model, adapter, data, game, score, eval, output, .. } = self;
        let is_missing = [
            ("model.path", model.path.is_empty()),
            ("data.train", data.train.is_empty()),
            ("output.dir", output.dir.is_empty()),
        ];
        if let Some((key, _)) = is_missing.iter().find(|(_, is_missing)| *is_missing) {
            return Err(ConfigError::Missing { key: (*key).into() });
        }

        let iterations = game.iterations;
        for (key, setting, (allowed, is_allowed)) in self.table() {
            if let Some(found) = setting.listed().filter(|&found| found != iterations || found == 0) {
                return Err(ConfigError::Length { key: key.into(), found, iterations });
            }
            if let Some(value) = setting.numbers().into_iter().find(|&value| !is_allowed(value)) {
                return range(key, value, allowed);
            }
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

        (1..=iterations).try_for_each(|k| self.opponent(k))?;
        (1..=iterations).try_for_each(|k| self.refresh(k))?;
        score.check(game)?;

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
        let refreshed = *game.refresh.of(k) != Refresh::Never;
        let lineup = game.lineup(k, k + usize::from(refreshed));
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

    /// Whether the rounds of iteration `k` can be as the settings have them.
    fn refresh(&self, k: usize) -> Result<(), ConfigError> {
        let Self { game, train, .. } = self;
        let refresh = *game.refresh.of(k);
        if let Refresh::Steps(steps) = refresh {
            let (samples, batch) = (*game.samples.of(k), *train.batch_pairs.of(k));
            if steps < samples.div_ceil(batch) {
                let least = samples.div_ceil(batch);
                let allowed = format!(
                    "{least} or more with {samples} `game.samples` and {batch} `train.batch_pairs`: the pairs of a prompt are \
                     of one opponent"
                );
                return range("game.refresh", steps, &allowed);
            }
        }
        let before = if k > 1 { *game.refresh.of(k - 1) } else { Refresh::Never };
        if *game.opponent.of(k) == Opponent::LatestTwo && [before, refresh] != [Refresh::Never; 2] {
            let allowed = "another one where `game.refresh` is not \"never\" in the iteration and the one before: samples are \
                           taken over from whole iterations";
            return range("game.opponent", "\"latest_two\"", allowed);
        }
        Ok(())
    }

    /// Every setting that has a range or may be a list by iteration.
    fn table(&self) -> Vec<(&'static str, &dyn Setting, Allowed)> {
        let Self { adapter, data, sft, game, rollout, score, train, guard, eval, .. } = self;
        let mut table: Vec<(_, &dyn Setting, _)> = vec![
            ("adapter.alpha", &adapter.alpha, POSITIVE),
            ("adapter.dropout", &adapter.dropout, BELOW_ONE),
            ("data.max_unusable", &data.max_unusable, SHARE),
            ("data.test_share", &data.test_share, ("above 0 and below 1", |x| x > 0.0 && x < 1.0)),
            ("data.prompts", &data.prompts, ANY),
            ("data.fresh", &data.fresh, ANY),
            ("sft.epochs", &sft.epochs, ONE_OR_MORE),
            ("sft.lr", &sft.lr, POSITIVE),
            ("sft.batch", &sft.batch, ONE_OR_MORE),
            ("sft.warmup", &sft.warmup, SHARE),
            ("game.opponent", &game.opponent, ANY),
            ("game.history_decay", &game.history_decay, TO_ONE),
            ("game.average_decay", &game.average_decay, BELOW_ONE),
            ("game.mixture", &game.mixture, SHARE),
            ("game.beta", &game.beta, POSITIVE),
            ("game.objective", &game.objective, ANY),
            ("game.nll", &game.nll, NOT_NEGATIVE),
            ("game.dpop", &game.dpop, NOT_NEGATIVE),
            ("game.label_smoothing", &game.label_smoothing, ("0 or above, and below 1/2", |x| (0.0..0.5).contains(&x))),
            ("game.forward_kl", &game.forward_kl, NOT_NEGATIVE),
            ("game.reverse_kl", &game.reverse_kl, NOT_NEGATIVE),
            ("game.samples", &game.samples, ONE_OR_MORE),
            ("game.refresh", &game.refresh, ONE_OR_MORE),
            ("rollout.temperature", &rollout.temperature, POSITIVE),
            ("rollout.top_k", &rollout.top_k, ANY),
            ("rollout.top_p", &rollout.top_p, TO_ONE),
            ("rollout.max_new_tokens", &rollout.max_new_tokens, ONE_OR_MORE),
            ("rollout.live_sequences", &rollout.live_sequences, ONE_OR_MORE),
            ("rollout.rows_per_step", &rollout.rows_per_step, ONE_OR_MORE),
            ("score.gap", &score.gap, NOT_NEGATIVE),
            ("score.timeout", &score.timeout, ONE_OR_MORE),
            ("train.optimizer", &train.optimizer, ANY),
            ("train.lr", &train.lr, POSITIVE),
            ("train.schedule", &train.schedule, ANY),
            ("train.warmup", &train.warmup, SHARE),
            ("train.epochs", &train.epochs, ONE_OR_MORE),
            ("train.batch_pairs", &train.batch_pairs, ONE_OR_MORE),
            ("train.pairs_per_prompt", &train.pairs_per_prompt, ONE_OR_MORE),
            ("train.batch_tokens", &train.batch_tokens, ONE_OR_MORE),
            ("train.clip", &train.clip, NOT_NEGATIVE),
            ("train.weight_decay", &train.weight_decay, NOT_NEGATIVE),
            ("train.beta1", &train.beta1, BELOW_ONE),
            ("train.beta2", &train.beta2, BELOW_ONE),
            ("train.decay", &train.decay, BELOW_ONE),
            ("train.eps", &train.eps, POSITIVE),
            ("eval.timeout", &eval.timeout, ONE_OR_MORE),
            ("guard.real_fall", &guard.real_fall, NOT_NEGATIVE),
            ("guard.accuracy", &guard.accuracy, SHARE),
            ("guard.longer", &guard.longer, ("0, or above 1/2 and 1 at most", |x| x == 0.0 || x > 0.5 && x <= 1.0)),
            ("guard.cut", &guard.cut, SHARE),
            ("guard.length", &guard.length, FACTOR),
            ("guard.distinct", &guard.distinct, SHARE),
            ("guard.gradient", &guard.gradient, FACTOR),
        ];
        for control in &sft.controls {
            table.push(("sft.controls.epochs", &control.epochs, ONE_OR_MORE));
            table.push(("sft.controls.lr", &control.lr, POSITIVE));
        }
        table
    }
}

/// Values that a number may have, in words and as a condition.
type Allowed = (&'static str, fn(f64) -> bool);

// Each comparison is written so that a NaN, which TOML can spell, fails it.
const ANY: Allowed = ("", |_| true);
const ONE_OR_MORE: Allowed = ("1 or more", |x| x >= 1.0);
const POSITIVE: Allowed = ("a number above 0", |x| x > 0.0 && x.is_finite());
const NOT_NEGATIVE: Allowed = ("0 or a number above it", |x| x >= 0.0 && x.is_finite());
const SHARE: Allowed = ("between 0 and 1", |x| (0.0..=1.0).contains(&x));
const TO_ONE: Allowed = ("above 0, and 1 at most", |x| x > 0.0 && x <= 1.0);
/// How many times as large something may be; 0 sets no limit.
const FACTOR: Allowed = ("0, or a number above 1", |x| x == 0.0 || x > 1.0 && x.is_finite());
const BELOW_ONE: Allowed = ("0 or above, and below 1", |x| (0.0..1.0).contains(&x));

/// A setting, as the table sees it.
trait Setting {
    /// Its values, where they are numbers.
    fn numbers(&self) -> Vec<f64>;

    /// Length of a list by iteration.
    fn listed(&self) -> Option<usize> {
        None
    }
}

impl Setting for f64 {
    fn numbers(&self) -> Vec<f64> {
        vec![*self]
    }
}

impl Setting for usize {
    fn numbers(&self) -> Vec<f64> {
        vec![*self as f64]
    }
}

impl Setting for Refresh {
    fn numbers(&self) -> Vec<f64> {
        match self {
            Self::Steps(steps) => steps.numbers(),
            Self::Never | Self::Epoch => Vec::new(),
        }
    }
}

macro_rules! no_numbers {
    ($($kind:ty),+) => {
        $(impl Setting for $kind {
            fn numbers(&self) -> Vec<f64> {
                Vec::new()
            }
        })+
    };
}

no_numbers!(bool, Objective, Opponent, OptimizerKind, Shape);

impl<T: Setting> Setting for PerIteration<T> {
    fn numbers(&self) -> Vec<f64> {
        self.values().iter().flat_map(T::numbers).collect()
    }

    fn listed(&self) -> Option<usize> {
        match self {
            Self::One(_) => None,
            Self::Each(values) => Some(values.len()),
        }
    }
}

pub(super) fn range(key: &str, value: impl Display, allowed: &str) -> Result<(), ConfigError> {
    Err(ConfigError::Range { key: key.into(), value: value.to_string(), allowed: allowed.into() })
}
