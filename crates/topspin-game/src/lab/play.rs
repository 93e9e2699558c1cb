//! Iterations of self-play on tables.

use topspin_kernels::rng::Key;

use super::game::Game;
use super::minimise::{Found, descend, minimise};
use super::table::{Table, World};
use crate::objective::Loss;
use crate::opponent::{Lineup, Opponent, Player, Weights};

/// What an iteration's loss is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// All responses with their probabilities, as from infinitely many samples.
    Exact,
    /// Draws of each prompt and iteration; every real one is paired with every generated one.
    Samples {
        /// Real ones, as many generated ones, and as many of the base model where the loss needs them.
        draws: usize,
        /// Seed of the random numbers.
        seed: u64,
    },
}

/// Plain gradient descent on the logits, from the latest policy: what takes the place of minimisation where samples are
/// finite or there is no minimum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Descent {
    /// Steps of an iteration.
    pub steps: usize,
    /// Length of a step over that of the gradient.
    pub step_size: f64,
}

/// A game on tables.
#[derive(Clone, Debug)]
pub struct Play {
    /// What it is played over.
    pub world: World,
    /// What is minimised.
    pub loss: Loss,
    /// Who gives the generated responses.
    pub opponent: Opponent,
    /// How the opponent's models weigh against each other.
    pub weights: Weights,
    /// What the loss is taken over.
    pub expectation: Expectation,
    /// What is done where the minimum is not taken.
    pub descent: Descent,
}

/// A policy and how it was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Iteration {
    /// The policy.
    pub policy: Table,
    /// How the least exact of its prompts was found.
    pub found: Found,
}

/// The responses of an iteration and what they are measured from, a row for each prompt.
struct Round {
    real: Vec<Vec<f64>>,
    generated: Vec<Vec<f64>>,
    third: Option<Vec<Vec<f64>>>,
    reference: Vec<Vec<f64>>,
}

impl Play {
    /// The policies of `iterations` iterations, that of the base model not among them.
    pub fn run(&self, iterations: usize) -> Vec<Iteration> {
        let mut models = vec![self.world.base.clone()];
        let mut played = Vec::with_capacity(iterations);
        for number in 0..iterations {
            let iteration = self.iterate(&models, number);
            models.push(iteration.policy.clone());
            played.push(iteration);
        }
        played
    }

    /// The next policy after those of `models`, the base first, in iteration `number`.
    pub fn iterate(&self, models: &[Table], number: usize) -> Iteration {
        let round = self.round(models, number);
        let latest = models[models.len() - 1].log_probs();
        let mut worst = Found::Minimum;
        let rows = latest.iter().enumerate().map(|(prompt, start)| {
            let (row, found) = self.solve(&self.game(&round, prompt), start);
            worst = worst.max(found);
            row
        });
        Iteration { policy: Table::from_logits(rows.collect()), found: worst }
    }

    /// The exact loss of `policy` in the first iteration: mean over prompts.
    pub fn loss(&self, policy: &Table) -> f64 {
        let exact = Self { expectation: Expectation::Exact, ..self.clone() };
        let round = exact.round(std::slice::from_ref(&self.world.base), 0);
        exact.loss_in(&round, policy)
    }

    /// A gradient flow of the first iteration: the exact loss and the policy after each `every` steps, `points` times.
    pub fn flow(&self, every: usize, points: usize) -> Vec<(f64, Table)> {
        let exact = Self { expectation: Expectation::Exact, ..self.clone() };
        let round = exact.round(std::slice::from_ref(&self.world.base), 0);
        let mut policy = self.world.base.clone();
        let next = |_| {
            let rows = policy.log_probs().iter().enumerate();
            let down = |(prompt, row): (usize, &Vec<f64>)| {
                descend(&exact.game(&round, prompt), row, every, self.descent.step_size)
            };
            policy = Table::from_logits(rows.map(down).collect());
            (exact.loss_in(&round, &policy), policy.clone())
        };
        (0..points).map(next).collect()
    }

    fn loss_in(&self, round: &Round, policy: &Table) -> f64 {
        use super::minimise::Smooth;
        let rows = policy.log_probs().iter().enumerate();
        let losses = rows.map(|(prompt, row)| self.game(round, prompt).gradient(row).0);
        losses.sum::<f64>() / policy.log_probs().len() as f64
    }

    fn round(&self, models: &[Table], number: usize) -> Round {
        let lineup = Lineup::new(self.opponent, models.len(), self.weights);
        // An average of logits; that of log-probabilities differs by a constant of the prompt.
        let average = Table::combined(&models.iter().collect::<Vec<_>>(), |entries| {
            entries.iter().zip(&lineup.average).map(|(entry, weight)| entry * weight).sum()
        });
        let table = |player| match player {
            Player::Model(model) => &models[model],
            Player::Average => &average,
        };
        let samples = match self.opponent {
            Opponent::Data => self.world.rejected.clone(),
            _ => mixture(&lineup.players.iter().map(|&(player, share)| (table(player), share)).collect::<Vec<_>>()),
        };
        let reference = |prompt: usize| {
            let of = |y: usize| lineup.reference.logprob(|player| table(player).log_probs()[prompt][y]);
            (0..self.world.tokens[prompt].len()).map(of).collect()
        };
        let taken = |from: &Table, purpose| match self.expectation {
            Expectation::Exact => from.probs(),
            Expectation::Samples { draws, seed } => from.shares(draws, Key::new(seed, purpose, number as u64)),
        };
        Round {
            real: taken(&self.world.data, "lab real"),
            generated: taken(&samples, "lab generated"),
            third: (!lineup.is_base()).then(|| taken(&self.world.base, "lab third")),
            reference: (0..self.world.tokens.len()).map(reference).collect(),
        }
    }

    fn game<'a>(&'a self, round: &'a Round, prompt: usize) -> Game<'a> {
        Game {
            loss: &self.loss,
            real: &round.real[prompt],
            generated: &round.generated[prompt],
            third: round.third.as_ref().map(|third| &third[prompt][..]),
            reference: &round.reference[prompt],
            base: &self.world.base.log_probs()[prompt],
            tokens: &self.world.tokens[prompt],
        }
    }

    fn solve(&self, game: &Game, start: &[f64]) -> (Vec<f64>, Found) {
        let Descent { steps, step_size } = self.descent;
        let minimum = match self.expectation {
            Expectation::Exact => minimise(game, start),
            Expectation::Samples { .. } => None,
        };
        minimum.unwrap_or_else(|| (descend(game, start, steps, step_size), Found::Steps))
    }
}

/// The arithmetic mixture of tables.
fn mixture(parts: &[(&Table, f64)]) -> Table {
    let tables: Vec<_> = parts.iter().map(|part| part.0).collect();
    Table::combined(&tables, |entries| {
        entries.iter().zip(parts).map(|(entry, (_, share))| share * entry.exp()).sum::<f64>().ln()
    })
}

/// Where the logistic objective's exact iteration goes: `reference (data / samples)^(1 / beta)`, normalised (SPIN, Theorem
/// 5.4, where both are the latest policy). A response that the data do not have vanishes.
pub fn logistic_law(reference: &Table, samples: &Table, data: &Table, beta: f64) -> Table {
    Table::combined(&[reference, samples, data], |entries| match entries[2] {
        f64::NEG_INFINITY => f64::NEG_INFINITY,
        data => entries[0] + (data - entries[1]) / beta,
    })
}
