//! The expected loss of one prompt as a function of the policy's logits.

use super::minimise::Smooth;
use super::table::log_softmax;
use crate::objective::{Loss, PairLoss, Scored, Triplet};

/// One prompt's game: who gives responses with which probabilities, and what the loss measures from.
///
/// Where responses are drawn from and what they are compared with are separate: an opponent's reference need not be the
/// density of its samples.
pub(super) struct Game<'a> {
    pub loss: &'a Loss,
    /// Probability, or share among draws, of each real response.
    pub real: &'a [f64],
    /// The same of the generated ones.
    pub generated: &'a [f64],
    /// The same of the base model's, which count where the loss needs a third response. None where the base alone gives the
    /// generated ones: each then stands beside itself, as in a run.
    pub third: Option<&'a [f64]>,
    /// The reference's log-probabilities.
    pub reference: &'a [f64],
    /// The base model's.
    pub base: &'a [f64],
    /// Tokens of each response.
    pub tokens: &'a [usize],
}

/// Step of the differences that second derivatives of a pair's cost are. Its error delays Newton's method; it does not move
/// the minimum.
const STEP: f64 = 1e-5;

/// The responses of a pair by their index: real, generated, and the base model's.
type Indices = [usize; 3];

impl Game<'_> {
    /// Calls `visit` with every pair or triplet of responses that can occur, and its probability.
    fn each(&self, mut visit: impl FnMut(Indices, f64)) {
        let all = 0..self.real.len();
        for real in all.clone().filter(|&real| self.real[real] > 0.0) {
            for generated in all.clone().filter(|&generated| self.generated[generated] > 0.0) {
                let weight = self.real[real] * self.generated[generated];
                match self.third.filter(|_| self.loss.needs().base_response) {
                    None => visit([real, generated, generated], weight),
                    Some(third) => {
                        all.clone().for_each(|base| visit([real, generated, base], weight * third[base]));
                    }
                }
            }
        }
    }

    /// What three responses cost whose log-probabilities under the policy are `logps`.
    fn cost(&self, at: Indices, logps: [f64; 3]) -> PairLoss {
        let scored = |i: usize| {
            let (y, logp) = (at[i], logps[i]);
            Scored {
                logp,
                log_ratio: logp - self.reference[y],
                base_log_ratio: logp - self.base[y],
                tokens: self.tokens[y],
            }
        };
        let base = self.loss.needs().base_response.then(|| scored(2));
        self.loss.pair(&Triplet { real: scored(0), generated: scored(1), base })
    }

    /// The loss and its derivatives by log-probabilities, as if these were free.
    fn by_log_probs(&self, policy: &[f64]) -> (f64, Vec<f64>) {
        let (mut loss, mut slope) = (0.0, vec![0.0; policy.len()]);
        self.each(|at, weight| {
            let cost = self.cost(at, at.map(|y| policy[y]));
            loss += weight * cost.loss;
            for (y, slope_of_y) in at.into_iter().zip(slopes(&cost)) {
                slope[y] += weight * slope_of_y;
            }
        });
        (loss, slope)
    }
}

fn slopes(cost: &PairLoss) -> [f64; 3] {
    [cost.d_real, cost.d_generated, cost.d_base]
}

impl Smooth for Game<'_> {
    fn gradient(&self, logits: &[f64]) -> (f64, Vec<f64>) {
        let policy = log_softmax(logits);
        let (loss, slope) = self.by_log_probs(&policy);
        let sum: f64 = slope.iter().sum();
        (loss, slope.iter().zip(&policy).map(|(slope, log_prob)| slope - log_prob.exp() * sum).collect())
    }

    /// Differences are taken pair by pair, so that what responses of small probability add keeps its digits.
    fn hessian(&self, logits: &[f64]) -> Vec<Vec<f64>> {
        let policy = log_softmax(logits);
        let n = logits.len();
        let mut by_log_probs = vec![vec![0.0; n]; n];
        self.each(|at, weight| {
            for moving in 0..if self.loss.needs().base_response { 3 } else { 2 } {
                let slopes_at = |by: f64| {
                    let mut logps = at.map(|y| policy[y]);
                    logps[moving] += by;
                    slopes(&self.cost(at, logps))
                };
                let (above, below) = (slopes_at(STEP), slopes_at(-STEP));
                for i in 0..3 {
                    by_log_probs[at[moving]][at[i]] += weight * (above[i] - below[i]) / (2.0 * STEP);
                }
            }
        });
        let (_, slope) = self.by_log_probs(&policy);
        through_softmax(&by_log_probs, slope.iter().sum(), &policy)
    }

    fn terms(&self, logits: &[f64]) -> Vec<f64> {
        let policy = log_softmax(logits);
        let (mut terms, mut all) = (vec![0.0; policy.len()], 0.0);
        self.each(|at, weight| {
            let cost = self.cost(at, at.map(|y| policy[y]));
            for (y, slope) in at.into_iter().zip(slopes(&cost)) {
                terms[y] += weight * slope.abs();
                all += weight * slope.abs();
            }
        });
        terms.iter().zip(&policy).map(|(terms, log_prob)| terms + log_prob.exp() * all).collect()
    }

    fn may_vanish(&self, response: usize) -> bool {
        self.real[response] == 0.0
    }
}

/// Second derivatives by logits from those by log-probabilities, `matrix`, where the first derivatives by log-probabilities
/// sum to `slope`: with `J = I - 1 p'` they are `J' matrix J - slope (diag(p) - p p')`.
pub(super) fn through_softmax(matrix: &[Vec<f64>], slope: f64, policy: &[f64]) -> Vec<Vec<f64>> {
    let n = policy.len();
    let p: Vec<f64> = policy.iter().map(|log_prob| log_prob.exp()).collect();
    let columns: Vec<f64> = (0..n).map(|j| matrix.iter().map(|row| row[j]).sum()).collect();
    let rows: Vec<f64> = matrix.iter().map(|row| row.iter().sum()).collect();
    let total: f64 = rows.iter().sum();
    let element = |i: usize, j: usize| {
        let own = if i == j { p[i] } else { 0.0 };
        matrix[i][j] - p[i] * columns[j] - rows[i] * p[j] + p[i] * p[j] * total - slope * (own - p[i] * p[j])
    };
    (0..n).map(|i| (0..n).map(|j| element(i, j)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::objective::{Additions, Objective};

    fn distribution() -> impl Strategy<Value = Vec<f64>> {
        prop::collection::vec(-1.5..1.5f64, 5).prop_map(|logits| log_softmax(&logits))
    }

    proptest! {
        /// First and second derivatives of every objective, with everything added, against differences.
        #[test]
        fn derivatives_match_differences(
            tables in prop::collection::vec(distribution(), 5),
            tokens in prop::collection::vec(1..10usize, 5),
            beta in 0.1..3.0f64,
        ) {
            let [real, generated, reference, base, logits] = &tables[..] else { unreachable!() };
            let probs = [real, generated, base].map(|row| row.iter().map(|l| l.exp()).collect::<Vec<_>>());
            // Not hinge: on a kink there is no derivative. Nor DPOP, for the same reason.
            let additions =
                Additions { nll: 0.3, dpop: 0.0, label_smoothing: 0.1, forward_kl: 0.4, reverse_kl: 0.5 };
            for &objective in Objective::ALL.iter().filter(|&&objective| objective != Objective::Hinge) {
                let game = Game {
                    loss: &Loss { objective, beta, additions },
                    real: &probs[0], generated: &probs[1], third: Some(&probs[2]), reference, base, tokens: &tokens,
                };
                let (_, gradient) = game.gradient(logits);
                let hessian = game.hessian(logits);
                for at in 0..logits.len() {
                    let moved = |by| {
                        let mut moved = logits.clone();
                        moved[at] += by;
                        game.gradient(&moved)
                    };
                    let (above, below) = (moved(1e-5), moved(-1e-5));
                    let slope = (above.0 - below.0) / 2e-5;
                    let tolerance = 1e-6 * (1.0 + gradient.iter().map(|g| g.abs()).fold(0.0, f64::max));
                    prop_assert!((gradient[at] - slope).abs() < tolerance, "{objective:?}: {} {slope}", gradient[at]);
                    for i in 0..logits.len() {
                        let bend = (above.1[i] - below.1[i]) / 2e-5;
                        let found = hessian[at][i];
                        prop_assert!((found - bend).abs() < 20.0 * tolerance, "{objective:?}: {found} {bend}");
                    }
                }
            }
        }
    }
}
