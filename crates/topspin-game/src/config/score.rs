//! `[score]`: an explicit score of responses.

use serde::{Deserialize, Serialize};
use toml::Value;
use topspin_eval::{EvalError, Pattern};

use super::check::range;
use super::{ConfigError, Game};
use crate::objective::Objective;
use crate::opponent::Opponent;
use crate::schedule::PerIteration;

/// `[score]`: an explicit score f of the samples, beside the one that the objective makes or in its place (docs/scores.md).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Score {
    /// What gives the score. None: self-play needs none.
    pub kind: ScoreKind,
    /// What the score is for. Pairs, as the game is then that of the SPIN paper, without the samples that are as good as the
    /// real response.
    pub r#use: ScoreUse,
    /// With `pairs`: a sample becomes a pair if the real response's score exceeds its own by more than this. 0: all that
    /// score below it.
    pub gap: PerIteration<f64>,
    /// For `regex`: the regular expression, lookaround included. It may match anywhere; `^` and `$` bind it to the ends.
    pub pattern: String,
    /// For `length`: the length wanted, the end-of-turn token included. 0: the shorter, the better.
    pub target_tokens: usize,
    /// For `command`: the command with its arguments. It reads generations as JSON lines, such as those of `sampled.jsonl`,
    /// and prints one number for each.
    pub command: Vec<String>,
    /// For `command`: the longest silence in seconds, after which it is ended. Ten minutes: one that loads a model first has
    /// answered by then.
    pub timeout: usize,
}

/// What gives the score.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreKind {
    /// Nothing.
    #[default]
    None,
    /// 1 if it is the record's response or one of its references, white space at the ends aside, else 0.
    ExactMatch,
    /// 1 if `score.pattern` matches, else 0.
    Regex,
    /// 1 if its last number, or the one behind `####`, is that of the record's response or of a reference, else 0.
    Numeric,
    /// Minus the tokens by which its length differs from `score.target_tokens`.
    Length,
    /// What `score.command` says.
    Command,
}

/// What the score is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreUse {
    /// It judges which samples become pairs.
    #[default]
    Pairs,
    /// The policy step alone: samples are imitated with weights `exp(f / beta)`, and real responses have no part.
    Policy,
}

impl Default for Score {
    fn default() -> Self {
        Self {
            kind: ScoreKind::None,
            r#use: ScoreUse::Pairs,
            gap: PerIteration::One(0.0),
            pattern: String::new(),
            target_tokens: 0,
            command: Vec::new(),
            timeout: 600,
        }
    }
}

impl Score {
    /// Whether there is a score.
    pub fn is_given(&self) -> bool {
        self.kind != ScoreKind::None
    }

    /// Whether iterations are policy steps.
    pub fn is_policy(&self) -> bool {
        self.r#use == ScoreUse::Policy
    }

    /// Whether its settings fit each other and `game` has a place for the score.
    pub(super) fn check(&self, game: &Game) -> Result<(), ConfigError> {
        self.check_kind()?;
        if self.kind == ScoreKind::Regex
            && let Err(EvalError::Pattern { problem, .. }) = Pattern::new(&self.pattern)
        {
            return range("score.pattern", spelt(&self.pattern), &format!("a regular expression ({problem})"));
        }
        if self.is_given() && game.takes_rejected() {
            let allowed = "\"none\" where `game.opponent` is \"data\": nothing is sampled that could be scored";
            return range("score.kind", spelt(self.kind), allowed);
        }
        if self.is_policy() { self.check_policy(game) } else { Ok(()) }
    }

    /// Whether what one kind needs is there, and nothing that the kind has no use for: it would be passed over in silence.
    fn check_kind(&self) -> Result<(), ConfigError> {
        let set = |is_set: bool, value: Value| is_set.then_some(value);
        let settings = [
            (ScoreKind::Regex, "score.pattern", true, set(!self.pattern.is_empty(), self.pattern.clone().into())),
            (ScoreKind::Command, "score.command", true, set(!self.command.is_empty(), self.command.clone().into())),
            (ScoreKind::Length, "score.target_tokens", false, set(self.target_tokens > 0, spelt(self.target_tokens))),
        ];
        for (kind, key, is_needed, value) in settings {
            match value {
                None if kind == self.kind && is_needed => return Err(ConfigError::Missing { key: key.into() }),
                Some(value) if kind != self.kind => {
                    let allowed = format!("left out unless `score.kind` is {}", spelt(kind));
                    return range(key, value, &allowed);
                }
                _ => {}
            }
        }
        if self.is_policy() && !self.is_given() {
            return range("score.use", spelt(self.r#use), "\"pairs\" where `score.kind` is \"none\"");
        }
        match self.gap.values().iter().find(|&&gap| gap > 0.0) {
            Some(gap) if self.is_policy() || !self.is_given() => {
                range("score.gap", gap, "0 unless a score judges pairs (`score.kind`, `score.use`)")
            }
            _ => Ok(()),
        }
    }

    /// Whether the game asks for nothing that a policy step has no place for.
    fn check_policy(&self, game: &Game) -> Result<(), ConfigError> {
        const POLICY: &str = "where `score.use` is \"policy\"";
        if let Some(samples) = game.samples.values().iter().find(|&&samples| samples < 2) {
            let allowed = format!("2 or more {POLICY}: one sample alone has all weight, whatever its score");
            return range("game.samples", samples, &allowed);
        }
        let is_mixed = |opponent: &&Opponent| matches!(opponent, Opponent::LatestTwo | Opponent::Mixture);
        if let Some(opponent) = game.opponent.values().iter().find(is_mixed) {
            let allowed = format!("one whose samples are the reference's own {POLICY}: its weights are for those");
            return range("game.opponent", spelt(opponent), &allowed);
        }
        if let Some(objective) = game.objective.values().iter().find(|&&objective| objective != Objective::Logistic) {
            return range("game.objective", spelt(objective), &format!("left out {POLICY}: there is no margin"));
        }
        let added = |(_, weights): &(&str, &PerIteration<f64>)| weights.values().iter().any(|weight| *weight != 0.0);
        match game.additions().into_iter().find(added) {
            Some((key, weights)) => range(key, spelt(weights), &format!("0 {POLICY}: there are no pairs to add it to")),
            None => Ok(()),
        }
    }
}

/// A value as TOML spells it.
fn spelt(value: impl Serialize) -> Value {
    Value::try_from(value).expect("plain values can be written as TOML")
}
