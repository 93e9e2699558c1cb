//! What docs/method.md says about objectives, additions and opponents, on random tables.

mod additions;
mod objectives;
mod opponents;

use proptest::prelude::*;

use super::*;
use crate::objective::{Additions, Loss, Objective};
use crate::opponent::{Opponent, Weights};

const WEIGHTS: Weights = Weights { history_decay: 1.0, average_decay: 0.6, mixture: 0.3 };

fn world() -> impl Strategy<Value = World> {
    (1..3usize, 3..7usize, any::<u64>()).prop_map(|(prompts, responses, seed)| World::random(prompts, responses, seed))
}

fn play(world: World, objective: Objective, beta: f64) -> Play {
    let descent = Descent { steps: 100, step_size: 1.0 };
    let loss = Loss::new(objective, beta);
    Play { world, loss, opponent: Opponent::Latest, weights: WEIGHTS, expectation: Expectation::Exact, descent }
}

fn with(additions: Additions, mut play: Play) -> Play {
    play.loss.additions = additions;
    play
}

/// Largest difference of log-probabilities.
fn distance(a: &Table, b: &Table) -> f64 {
    let pairs = a.log_probs().iter().flatten().zip(b.log_probs().iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// `log(data / policy)` with its mean over responses taken off: what is left of it in margins.
fn error(data: &Table, policy: &Table) -> Vec<f64> {
    let row = |(data, policy): (&Vec<f64>, &Vec<f64>)| -> Vec<f64> {
        let errors: Vec<f64> = data.iter().zip(policy).map(|(data, policy)| data - policy).collect();
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        errors.iter().map(|error| error - mean).collect()
    };
    data.log_probs().iter().zip(policy.log_probs()).flat_map(row).collect()
}

/// `data e^(-size error)`: a table whose error is `size` times that of the base.
fn near(world: &World, size: f64) -> Table {
    Table::combined(&[&world.data, &world.base], |entries| (1.0 - size) * entries[0] + size * entries[1])
}

/// The policy that follows `models`, which must be a minimum.
fn minimum(play: &Play, models: &[Table]) -> Table {
    let Iteration { policy, found } = play.iterate(models, models.len() - 1);
    assert_eq!(found, Found::Minimum, "{:?}", play.loss);
    policy
}
