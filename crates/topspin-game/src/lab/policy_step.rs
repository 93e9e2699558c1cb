//! The policy step alone: the best policy against a given score.
//!
//! Maximise `E_p[f] - beta KL(p || reference)`. The closed form is `p(y) = reference(y) e^(f(y)/beta) / Z`, where the value
//! is `beta log Z`; every other policy `p'` has `beta KL(p' || p)` less.

use super::game::through_softmax;
use super::minimise::{Found, Smooth, minimise};
use super::table::log_softmax;

/// A score of each response to one prompt, and the policy that a better one is not to go far from.
#[derive(Clone, Debug)]
pub struct PolicyStep {
    /// The score.
    pub score: Vec<f64>,
    /// Log-probabilities of the policy that it starts from.
    pub reference: Vec<f64>,
    /// Weight of the KL term.
    pub beta: f64,
}

impl PolicyStep {
    /// Log-probabilities of the closed form.
    pub fn closed_form(&self) -> Vec<f64> {
        let logits = self.score.iter().zip(&self.reference).map(|(score, reference)| reference + score / self.beta);
        log_softmax(&logits.collect::<Vec<_>>())
    }

    /// `beta log Z`, what the best policy reaches.
    pub fn optimum(&self) -> f64 {
        let exponents = self.score.iter().zip(&self.reference).map(|(score, reference)| reference + score / self.beta);
        let exponents: Vec<_> = exponents.collect();
        let max = exponents.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        self.beta * (max + exponents.iter().map(|exponent| (exponent - max).exp()).sum::<f64>().ln())
    }

    /// `E_p[f] - beta KL(p || reference)` of the policy with these log-probabilities.
    pub fn value(&self, policy: &[f64]) -> f64 {
        let gains = self.gains(policy);
        policy.iter().zip(gains).map(|(log_prob, gain)| log_prob.exp() * gain).sum()
    }

    /// Log-probabilities of the maximiser, searched by Newton's method from the reference without the closed form; none
    /// where the search fails.
    pub fn searched(&self) -> Option<Vec<f64>> {
        match minimise(self, &self.reference)? {
            (policy, Found::Minimum) => Some(policy),
            _ => None,
        }
    }

    /// What each response is worth: its score less the price of its log-ratio.
    fn gains(&self, policy: &[f64]) -> Vec<f64> {
        let all = policy.iter().zip(&self.score).zip(&self.reference);
        all.map(|((log_prob, score), reference)| score - self.beta * (log_prob - reference)).collect()
    }
}

/// The value's negative.
impl Smooth for PolicyStep {
    fn gradient(&self, logits: &[f64]) -> (f64, Vec<f64>) {
        let policy = log_softmax(logits);
        let (value, gains) = (self.value(&policy), self.gains(&policy));
        (-value, policy.iter().zip(gains).map(|(log_prob, gain)| -log_prob.exp() * (gain - value)).collect())
    }

    fn hessian(&self, logits: &[f64]) -> Vec<Vec<f64>> {
        let policy = log_softmax(logits);
        let gains = self.gains(&policy);
        // By log-probabilities, `-sum p (f - beta (log p - log reference))` has a diagonal alone.
        let diagonal = |y: usize| policy[y].exp() * (2.0 * self.beta - gains[y]);
        let slope = |y: usize| policy[y].exp() * (self.beta - gains[y]);
        let n = policy.len();
        let matrix: Vec<Vec<f64>> =
            (0..n).map(|i| (0..n).map(|j| if i == j { diagonal(i) } else { 0.0 }).collect()).collect();
        through_softmax(&matrix, (0..n).map(slope).sum(), &policy)
    }

    fn terms(&self, logits: &[f64]) -> Vec<f64> {
        let policy = log_softmax(logits);
        let (value, gains) = (self.value(&policy), self.gains(&policy));
        policy.iter().zip(gains).map(|(log_prob, gain)| log_prob.exp() * (gain.abs() + value.abs())).collect()
    }

    fn may_vanish(&self, _: usize) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn step() -> impl Strategy<Value = PolicyStep> {
        (2..9usize).prop_flat_map(|n| {
            let row = |size: f64| prop::collection::vec(-size..size, n);
            (row(2.0), row(2.0), 0.3..5.0f64).prop_map(|(score, logits, beta)| PolicyStep {
                score,
                reference: log_softmax(&logits),
                beta,
            })
        })
    }

    proptest! {
        #[test]
        fn the_closed_form_is_the_maximiser(step in step()) {
            let (closed, searched) = (step.closed_form(), step.searched().unwrap());
            for (closed, searched) in closed.iter().zip(&searched) {
                prop_assert!((closed.exp() - searched.exp()).abs() < 1e-12, "{closed} {searched}");
            }
            prop_assert!((step.value(&closed) - step.optimum()).abs() < 1e-12);
        }

        /// It beats every perturbation of itself, by beta times the KL divergence.
        #[test]
        fn what_another_policy_loses_is_its_divergence(
            step in step(),
            direction in prop::collection::vec(-1.0..1.0f64, 9),
            size in prop_oneof![Just(1e-3), Just(0.1), Just(3.0)],
        ) {
            let closed = step.closed_form();
            let moved: Vec<_> = closed.iter().zip(&direction).map(|(log_prob, by)| log_prob + size * by).collect();
            let moved = log_softmax(&moved);
            let kl: f64 = moved.iter().zip(&closed).map(|(p, q)| p.exp() * (p - q)).sum();
            let lost = step.value(&closed) - step.value(&moved);
            prop_assert!((lost - step.beta * kl).abs() < 1e-12 * (1.0 + kl), "{lost} {kl}");
            prop_assert!(lost > -1e-12 && (kl < 1e-9 || lost > 0.0));
        }
    }
}
