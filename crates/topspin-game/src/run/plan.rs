//! The stages of a run, in order: what it does, and what its manifest lists.

use super::BASE;
use super::items::Items;
use super::round::Round;
use crate::config::Config;

/// The work of a stage.
#[derive(Clone, Debug)]
pub(super) enum Work {
    /// Trains the supervised model.
    Supervised,
    /// Trains the control of this number, from 1.
    Control(usize),
    /// Has the opponent of a round answer its prompts.
    Rollouts(Round),
    /// Scores the responses of a round.
    Scores(Round),
    /// Puts real and generated responses of a round side by side.
    Pairs(Round),
    /// Trains on the pairs of a round.
    SelfPlay(Round),
    /// Has the model of a folder answer the test prompts, `greedy` or `sampled`.
    Generations(String, &'static str),
    /// Computes the figures of a folder.
    Figures(String),
}

impl Work {
    /// The stage's name, its folder and what it makes there: `iter-1/rollouts`.
    pub fn name(&self) -> String {
        match self {
            Self::Supervised => "iter-0/train".into(),
            Self::Control(n) => format!("control-{n}/train"),
            Self::Rollouts(round) => round.stage("rollouts"),
            Self::Scores(round) => round.stage("scores"),
            Self::Pairs(round) => round.stage("pairs"),
            Self::SelfPlay(round) => format!("{}/train", round.after()),
            Self::Generations(folder, kind) => format!("{folder}/{kind}"),
            Self::Figures(folder) => format!("{folder}/eval"),
        }
    }

    /// Whether it belongs to the iterations.
    pub fn is_played(&self) -> bool {
        matches!(self, Self::Rollouts(_) | Self::Scores(_) | Self::Pairs(_) | Self::SelfPlay(_))
    }

    /// Files and folders that are needed no more when the stage is finished, by their path in the run's folder.
    pub fn leftovers(&self) -> Vec<String> {
        let lines = || vec![format!("{}.partial.jsonl", self.name())];
        match self {
            Self::Supervised => of_training("iter-0", true),
            Self::Control(n) => of_training(&format!("control-{n}"), true),
            Self::Rollouts(_) | Self::Generations(..) => lines(),
            Self::Scores(_) => ["partial", "questions"].map(|part| format!("{}.{part}.jsonl", self.name())).into(),
            Self::Pairs(_) | Self::Figures(_) => Vec::new(),
            Self::SelfPlay(round) => {
                // With what a round ends the next one begins.
                let mut all = of_training(&round.after(), round.is_last());
                if round.number > 0 {
                    all.extend(["state.bin", "model"].map(|name| format!("{}/{name}", round.before)));
                }
                all
            }
        }
    }
}

fn of_training(folder: &str, state: bool) -> Vec<String> {
    let names = ["metrics.partial.jsonl", "throughput.partial.jsonl"].into_iter().chain(state.then_some("state.bin"));
    names.map(|name| format!("{folder}/{name}")).collect()
}

/// The kinds of generations that the evaluation has.
pub(super) fn kinds(config: &Config) -> impl Iterator<Item = &'static str> {
    let kinds = [("greedy", config.eval.greedy), ("sampled", config.eval.sampled)];
    kinds.into_iter().filter(|(_, is_wanted)| *is_wanted).map(|(kind, _)| kind)
}

/// The stages of a run.
pub(super) fn plan(config: &Config, items: &Items) -> Vec<Work> {
    let evaluation = |folder: &str| {
        let generations = kinds(config).map(|kind| Work::Generations(folder.into(), kind));
        generations.chain([Work::Figures(folder.into())]).collect::<Vec<_>>()
    };
    let mut stages = if config.sft.enabled { evaluation(BASE) } else { Vec::new() };
    stages.push(Work::Supervised);
    stages.extend(evaluation("iter-0"));
    for n in 1..=config.sft.controls.len() {
        stages.push(Work::Control(n));
        stages.extend(evaluation(&format!("control-{n}")));
    }
    for k in 1..=config.game.iterations {
        for round in Round::all(config, k, items.share(config, k).len()) {
            stages.push(Work::Rollouts(round.clone()));
            if config.score.is_given() {
                stages.push(Work::Scores(round.clone()));
            }
            // A policy step imitates its samples, each alone.
            if !config.score.is_policy() {
                stages.push(Work::Pairs(round.clone()));
            }
            stages.push(Work::SelfPlay(round));
        }
        stages.extend(evaluation(&format!("iter-{k}")));
    }
    stages
}
