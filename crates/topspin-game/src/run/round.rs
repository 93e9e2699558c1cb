//! Rounds: an iteration is played in one or several, each against the model as it stands when the round begins.

use std::ops::Range;

use crate::config::Config;
use crate::schedule::Refresh;

/// Some steps of the game against one opponent: rollouts, pairs, training.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Round {
    /// Number of the iteration, from 1.
    pub iteration: usize,
    /// Number within the iteration, from 0.
    pub number: usize,
    /// Rounds of the iteration.
    pub count: usize,
    /// The folder of its rollouts and pairs.
    pub folder: String,
    /// The folder whose model it begins with.
    pub before: String,
    /// Its prompts among those of the iteration.
    pub prompts: Range<usize>,
    /// Passes over its pairs.
    pub epochs: usize,
}

impl Round {
    /// The rounds of an iteration on `prompts` prompts: one of all passes, one a pass, or one for the prompts of so many
    /// steps after the other.
    pub fn all(config: &Config, iteration: usize, prompts: usize) -> Vec<Self> {
        let epochs = *config.train.epochs.of(iteration);
        let (size, passes, epochs) = match *config.game.refresh.of(iteration) {
            Refresh::Never => (prompts, 1, epochs),
            Refresh::Epoch => (prompts, epochs, 1),
            Refresh::Steps(steps) => {
                let (batch, samples) = (*config.train.batch_pairs.of(iteration), *config.game.samples.of(iteration));
                (steps.saturating_mul(batch) / samples, epochs, 1)
            }
        };
        let pass = || (0..prompts).step_by(size).map(|start| start..prompts.min(start.saturating_add(size)));
        let ranges: Vec<_> = (0..passes).flat_map(|_| pass()).collect();
        let count = ranges.len();
        let round = |(number, prompts)| {
            let folder = format!("iter-{iteration}");
            Self {
                iteration,
                number,
                count,
                before: match number {
                    0 => format!("iter-{}", iteration - 1),
                    _ => format!("{folder}/round-{number}"),
                },
                folder: if count == 1 { folder } else { format!("{folder}/round-{}", number + 1) },
                prompts,
                epochs,
            }
        };
        ranges.into_iter().enumerate().map(round).collect()
    }

    /// The stage that does this work.
    pub fn stage(&self, work: &str) -> String {
        format!("{}/{work}", self.folder)
    }

    /// Whether it ends the iteration.
    pub fn is_last(&self) -> bool {
        self.number + 1 == self.count
    }

    /// The folder of the model that it ends with: the last one's is the iteration's.
    pub fn after(&self) -> String {
        if self.is_last() { format!("iter-{}", self.iteration) } else { self.folder.clone() }
    }

    /// Stage folders of the rounds before it.
    pub fn earlier(&self) -> Vec<String> {
        (1..=self.number).map(|number| format!("iter-{}/round-{number}", self.iteration)).collect()
    }

    /// Number in random draws: no two rounds have the same, and the first one has the iteration's.
    pub fn address(&self) -> u64 {
        (self.number as u64) << 32 | self.iteration as u64
    }
}

/// The iteration whose round has the folder `folder`, unless the folder is that of a whole stage.
pub(super) fn iteration_of(folder: &str) -> Option<usize> {
    folder.strip_prefix("iter-")?.split_once("/round-")?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn rounds(prompts: usize, sets: &[String]) -> Vec<Round> {
        Round::all(&Config::parse("", Path::new("test.toml"), sets).unwrap(), 2, prompts)
    }

    proptest! {
        /// Each pass meets every prompt once, in order, in rounds of no more steps than were asked for.
        #[test]
        fn rounds_are_the_passes_in_parts(
            prompts in 1..50usize,
            epochs in 1..4usize,
            steps in 1..9usize,
            samples in 1..6usize,
            more in 0..9usize,
        ) {
            // The pairs of a prompt are not more than those of a round.
            let batch = samples.div_ceil(steps) + more;
            let sets = |refresh: &str| {
                let values = [("game.refresh", refresh), ("game.samples", &samples.to_string())];
                let train = [("train.epochs", &*epochs.to_string()), ("train.batch_pairs", &batch.to_string())];
                values.iter().chain(&train).map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>()
            };
            let all = rounds(prompts, &sets(&steps.to_string()));
            let seen: Vec<_> = all.iter().flat_map(|round| round.prompts.clone()).collect();
            let passes: Vec<_> = (0..epochs).flat_map(|_| 0..prompts).collect();
            prop_assert_eq!(seen, passes);
            for round in &all {
                prop_assert!((round.prompts.len() * samples).div_ceil(batch) <= steps);
                prop_assert_eq!(round.epochs, 1);
            }
            let by_pass = rounds(prompts, &sets("epoch"));
            prop_assert_eq!(by_pass.len(), epochs);
            prop_assert!(by_pass.iter().all(|round| (&round.prompts, round.epochs) == (&(0..prompts), 1)));
            let [one] = &rounds(prompts, &sets("never"))[..] else { panic!("one round") };
            prop_assert_eq!((&one.prompts, one.epochs), (&(0..prompts), epochs));
        }
    }

    #[test]
    fn rounds_go_from_model_to_model() {
        let names = |sets: &[&str]| {
            let sets: Vec<_> = sets.iter().map(ToString::to_string).collect();
            let all = rounds(5, &sets).into_iter();
            all.map(|r| (r.before.clone(), r.folder.clone(), r.after(), r.address())).collect::<Vec<_>>()
        };
        let of =
            |before: &str, folder: &str, after: &str, address| (before.into(), folder.into(), after.into(), address);
        assert_eq!(names(&[]), [of("iter-1", "iter-2", "iter-2", 2)]);
        assert_eq!(names(&["game.refresh=epoch"]), [of("iter-1", "iter-2", "iter-2", 2)]);
        assert_eq!(
            names(&["game.refresh=2", "train.batch_pairs=1"]),
            [
                of("iter-1", "iter-2/round-1", "iter-2/round-1", 2),
                of("iter-2/round-1", "iter-2/round-2", "iter-2/round-2", 2 + (1 << 32)),
                of("iter-2/round-2", "iter-2/round-3", "iter-2", 2 + (2 << 32)),
            ]
        );
        assert_eq!(iteration_of("iter-12/round-3"), Some(12));
        assert_eq!(["base", "iter-2", "control-1"].map(iteration_of), [None; 3]);
    }
}
