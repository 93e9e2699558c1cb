//! The tabular laboratory: self-play without a network, where expectations and minimisers are exact.
//!
//! A policy is a table of log-probabilities, so the loss of an iteration,
//! `E_{w ~ p_data, y ~ p_t} [objective(log(p(w)/p_t(w)), log(p(y)/p_t(y)))]`, is a finite sum and its minimiser can be
//! computed to rounding error. What theory says about an objective is thereby a test.

use crate::objective::{Loss, Scored, Triplet};

/// A policy: log-probabilities of all responses to each prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    rows: Vec<Vec<f64>>,
}

/// The loss has no minimiser, or none that Newton's method finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the loss of prompt {prompt} has no minimum that Newton's method finds; use another objective")]
pub struct NoMinimum {
    /// Index of the prompt.
    pub prompt: usize,
}

/// Steps of Newton's method before it is given up; it needs about ten.
const MOST_STEPS: usize = 200;
/// A Newton step this short is rounding error.
const CONVERGED: f64 = 1e-11;

impl Policy {
    /// A policy from logits, one row for each prompt.
    pub fn from_logits(rows: Vec<Vec<f64>>) -> Self {
        Self { rows: rows.iter().map(|row| log_softmax(row)).collect() }
    }

    /// Log-probabilities, one row for each prompt.
    pub fn log_probs(&self) -> &[Vec<f64>] {
        &self.rows
    }

    /// The exact loss of a policy against `opponent`: mean over prompts, expectation over pairs.
    pub fn loss(&self, loss: &Loss, data: &Self, opponent: &Self) -> f64 {
        let rows = self.rows.iter().zip(&data.rows).zip(&opponent.rows);
        let losses = rows.map(|((row, data), opponent)| Game { loss, data, opponent }.at(row).0);
        losses.sum::<f64>() / self.rows.len() as f64
    }

    /// One exact iteration of self-play: the policy of least loss against `self` as the opponent.
    pub fn iterate(&self, loss: &Loss, data: &Self) -> Result<Self, NoMinimum> {
        let games = self.rows.iter().zip(&data.rows).enumerate();
        let minimise = |(prompt, (opponent, data)): (usize, (&Vec<f64>, &Vec<f64>))| {
            Game { loss, data, opponent }.minimise().ok_or(NoMinimum { prompt })
        };
        Ok(Self { rows: games.map(minimise).collect::<Result<_, _>>()? })
    }
}

/// One prompt's loss.
struct Game<'a> {
    loss: &'a Loss,
    data: &'a [f64],
    opponent: &'a [f64],
}

impl Game<'_> {
    /// Loss and gradient by the logits.
    fn at(&self, logits: &[f64]) -> (f64, Vec<f64>) {
        let policy = log_softmax(logits);
        let (mut loss, mut by_log_prob) = (0.0, vec![0.0; logits.len()]);
        for real in 0..logits.len() {
            for generated in 0..logits.len() {
                let weight = (self.data[real] + self.opponent[generated]).exp();
                let scored = |y: usize| {
                    let (logp, log_ratio) = (policy[y], policy[y] - self.opponent[y]);
                    Scored { logp, log_ratio, base_log_ratio: 0.0, tokens: 1 }
                };
                let pair = self.loss.pair(&Triplet { real: scored(real), generated: scored(generated), base: None });
                loss += weight * pair.loss;
                by_log_prob[real] += weight * pair.d_real;
                by_log_prob[generated] += weight * pair.d_generated;
            }
        }
        let sum: f64 = by_log_prob.iter().sum();
        let gradient = by_log_prob.iter().zip(&policy).map(|(d, log_prob)| d - log_prob.exp() * sum).collect();
        (loss, gradient)
    }

    /// Newton's method with halved steps, from the opponent. The last logit stays: a shift of all changes nothing.
    fn minimise(&self) -> Option<Vec<f64>> {
        let mut logits = self.opponent.to_vec();
        let free = logits.len() - 1;
        for _ in 0..MOST_STEPS {
            let (loss, gradient) = self.at(&logits);
            let descent: Vec<f64> = gradient[..free].iter().map(|g| -g).collect();
            let step = solve(self.hessian(&logits, free), descent)?;
            if step.iter().all(|s| s.abs() < CONVERGED) {
                return Some(log_softmax(&logits));
            }
            let moved = |scale: f64| -> Vec<f64> {
                let moved = logits.iter().zip(step.iter().chain(&[0.0])).map(|(logit, s)| logit + scale * s);
                moved.collect()
            };
            // Near the minimum the loss cannot tell better from worse; the slack lets a last step through.
            let scales = (0..60).map(|halvings| 0.5f64.powi(halvings));
            let accepted = scales.map(moved).find(|logits| self.at(logits).0 <= loss + 1e-14 * (1.0 + loss.abs()))?;
            logits = accepted;
        }
        None
    }

    /// Second derivatives by the free logits: central differences of the gradient. Their error delays Newton's method,
    /// it does not move the minimum.
    fn hessian(&self, logits: &[f64], free: usize) -> Vec<Vec<f64>> {
        let step = 1e-5;
        let gradient = |at: usize, by: f64| {
            let mut moved = logits.to_vec();
            moved[at] += by;
            self.at(&moved).1
        };
        let row = |at| {
            let (above, below) = (gradient(at, step), gradient(at, -step));
            (0..free).map(|i| (above[i] - below[i]) / (2.0 * step)).collect()
        };
        (0..free).map(row).collect()
    }
}

/// The solution of `matrix · x = right` by elimination with pivots; nothing where the matrix is singular.
fn solve(mut matrix: Vec<Vec<f64>>, mut right: Vec<f64>) -> Option<Vec<f64>> {
    let n = right.len();
    for column in 0..n {
        let pivot = (column..n).max_by(|&a, &b| matrix[a][column].abs().total_cmp(&matrix[b][column].abs()))?;
        if matrix[pivot][column].abs() < 1e-12 {
            return None;
        }
        matrix.swap(column, pivot);
        right.swap(column, pivot);
        for row in column + 1..n {
            let factor = matrix[row][column] / matrix[column][column];
            for k in column..n {
                matrix[row][k] -= factor * matrix[column][k];
            }
            right[row] -= factor * right[column];
        }
    }
    for row in (0..n).rev() {
        let known: f64 = (row + 1..n).map(|k| matrix[row][k] * right[k]).sum();
        right[row] = (right[row] - known) / matrix[row][row];
    }
    Some(right)
}

fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = max + logits.iter().map(|logit| (logit - max).exp()).sum::<f64>().ln();
    logits.iter().map(|logit| logit - log_sum).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::objective::Objective;

    /// Tables of the same shape: data and opponent.
    fn tables() -> impl Strategy<Value = (Policy, Policy)> {
        (1..4usize, 2..7usize).prop_flat_map(|(prompts, responses)| {
            let rows = || prop::collection::vec(prop::collection::vec(-1.5..1.5f64, responses), prompts);
            (rows(), rows()).prop_map(|(data, opponent)| (Policy::from_logits(data), Policy::from_logits(opponent)))
        })
    }

    /// Largest difference between two tables.
    fn distance(a: &Policy, b: &Policy) -> f64 {
        let pairs = a.rows.iter().flatten().zip(b.rows.iter().flatten());
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    }

    /// `p_t (p_data / p_t)^power`, normalised.
    fn geometric(data: &Policy, opponent: &Policy, power: f64) -> Policy {
        let row = |(data, opponent): (&Vec<f64>, &Vec<f64>)| {
            data.iter().zip(opponent).map(|(data, opponent)| opponent + power * (data - opponent)).collect()
        };
        Policy::from_logits(data.rows.iter().zip(&opponent.rows).map(row).collect())
    }

    fn logistic(beta: f64) -> Loss {
        Loss::new(Objective::Logistic, beta)
    }

    proptest! {
        /// SPIN, Theorem 5.4.
        #[test]
        fn the_logistic_minimiser_is_the_geometric_mixture((data, opponent) in tables(), beta in 0.2..5.0f64) {
            let next = opponent.iterate(&logistic(beta), &data).unwrap();
            let expected = geometric(&data, &opponent, 1.0 / beta);
            prop_assert!(distance(&next, &expected) < 1e-9, "{}", distance(&next, &expected));
            let loss = |policy: &Policy| policy.loss(&logistic(beta), &data, &opponent);
            prop_assert!(loss(&next) <= loss(&opponent));
        }

        #[test]
        fn the_data_is_the_fixed_point((data, opponent) in tables(), beta in 0.2..5.0f64) {
            prop_assert!(distance(&data.iterate(&logistic(beta), &data).unwrap(), &data) < 1e-9);
            let away = distance(&data, &opponent);
            prop_assume!(away > 1e-3);
            let next = opponent.iterate(&logistic(beta), &data).unwrap();
            prop_assert!(distance(&next, &opponent) > 1e-2 * away);
        }

        /// The error `log(p_data / p_t)`, up to a constant of the prompt, is multiplied by `1 - 1/beta`.
        #[test]
        fn the_error_shrinks_by_a_factor((data, opponent) in tables(), beta in 0.4..3.0f64) {
            let error = |policy: &Policy| -> Vec<f64> {
                let row = |(data, row): (&Vec<f64>, &Vec<f64>)| -> Vec<f64> {
                    let errors: Vec<f64> = data.iter().zip(row).map(|(data, policy)| data - policy).collect();
                    errors.iter().map(|error| error - errors[0]).collect()
                };
                data.rows.iter().zip(&policy.rows).flat_map(row).collect()
            };
            let mut policy = opponent;
            for _ in 0..3 {
                let next = policy.iterate(&logistic(beta), &data).unwrap();
                for (before, after) in error(&policy).iter().zip(error(&next)) {
                    prop_assert!((after - (1.0 - 1.0 / beta) * before).abs() < 1e-8, "{before} {after}");
                }
                policy = next;
            }
        }

        #[test]
        fn beta_one_is_there_in_one_step_and_one_half_comes_back_in_two((data, opponent) in tables()) {
            prop_assert!(distance(&opponent.iterate(&logistic(1.0), &data).unwrap(), &data) < 1e-9);
            let once = opponent.iterate(&logistic(0.5), &data).unwrap();
            let twice = once.iterate(&logistic(0.5), &data).unwrap();
            prop_assert!(distance(&twice, &opponent) < 1e-8, "{}", distance(&twice, &opponent));
        }

        #[test]
        fn the_loss_at_the_opponent_is_ln_2((data, opponent) in tables(), beta in 0.1..5.0f64) {
            let loss = opponent.loss(&logistic(beta), &data, &opponent);
            prop_assert!((loss - std::f64::consts::LN_2).abs() < 1e-14);
        }

        #[test]
        fn the_gradient_matches_differences((data, opponent) in tables(), beta in 0.1..5.0f64) {
            let logits = [0.3, -1.1, 0.7, 0.2, -0.4, 0.9];
            let (data, opponent) = (&data.rows[0], &opponent.rows[0]);
            let game = Game { loss: &logistic(beta), data, opponent };
            let logits = &logits[..data.len()];
            let (_, gradient) = game.at(logits);
            for at in 0..logits.len() {
                let loss = |by| {
                    let mut moved = logits.to_vec();
                    moved[at] += by;
                    game.at(&moved).0
                };
                let difference = (loss(1e-5) - loss(-1e-5)) / 2e-5;
                prop_assert!((gradient[at] - difference).abs() < 1e-9, "{} {difference}", gradient[at]);
            }
        }
    }
}
