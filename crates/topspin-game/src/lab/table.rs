//! Tables of probabilities, and how far apart two of them are.

use topspin_kernels::rng::{Key, Rng};

/// Log-probabilities of all responses to each prompt: a policy, or the data.
///
/// A response may have the probability 0, which is a log-probability of minus infinity.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    rows: Vec<Vec<f64>>,
}

impl Table {
    /// The distribution of the softmax of logits, a row for each prompt.
    pub fn from_logits(rows: Vec<Vec<f64>>) -> Self {
        Self { rows: rows.iter().map(|row| log_softmax(row)).collect() }
    }

    /// Log-probabilities, a row for each prompt.
    pub fn log_probs(&self) -> &[Vec<f64>] {
        &self.rows
    }

    /// Probabilities, a row for each prompt.
    pub fn probs(&self) -> Vec<Vec<f64>> {
        self.rows.iter().map(|row| row.iter().map(|log_prob| log_prob.exp()).collect()).collect()
    }

    /// `KL(self || other)` in nats, the mean over prompts.
    pub fn kl(&self, other: &Self) -> f64 {
        let term = |(p, q): (&f64, &f64)| if *p == f64::NEG_INFINITY { 0.0 } else { p.exp() * (p - q) };
        self.mean_over(other, |row, other| row.iter().zip(other).map(term).sum())
    }

    /// Half of the sum of absolute differences, the mean over prompts.
    pub fn total_variation(&self, other: &Self) -> f64 {
        self.mean_over(other, |row, other| row.iter().zip(other).map(|(p, q)| 0.5 * (p.exp() - q.exp()).abs()).sum())
    }

    /// Indices of `n` responses drawn for each prompt.
    pub fn draws(&self, n: usize, key: Key) -> Vec<Vec<usize>> {
        let draws = |(prompt, row): (usize, &Vec<f64>)| {
            let uniforms = key.stream(prompt as u64, 0);
            (0..n).map(|draw| drawn(row, uniforms.uniform(draw as u32))).collect()
        };
        self.rows.iter().enumerate().map(draws).collect()
    }

    /// Shares of responses among `n` draws for each prompt.
    pub fn shares(&self, n: usize, key: Key) -> Vec<Vec<f64>> {
        let shares = |(draws, row): (Vec<usize>, &Vec<f64>)| {
            let mut counts = vec![0usize; row.len()];
            draws.into_iter().for_each(|response| counts[response] += 1);
            counts.into_iter().map(|count| count as f64 / n as f64).collect()
        };
        self.draws(n, key).into_iter().zip(&self.rows).map(shares).collect()
    }

    /// A table whose entries are functions of those of several tables of its shape, normalised.
    pub(super) fn combined(tables: &[&Self], entry: impl Fn(&[f64]) -> f64) -> Self {
        let row = |prompt: usize| -> Vec<f64> {
            let entries = |at| tables.iter().map(|table| table.rows[prompt][at]).collect::<Vec<_>>();
            (0..tables[0].rows[prompt].len()).map(|at| entry(&entries(at))).collect()
        };
        Self::from_logits((0..tables[0].rows.len()).map(row).collect())
    }

    fn mean_over(&self, other: &Self, distance: impl Fn(&[f64], &[f64]) -> f64) -> f64 {
        let distances = self.rows.iter().zip(&other.rows).map(|(row, other)| distance(row, other));
        distances.sum::<f64>() / self.rows.len() as f64
    }
}

/// What a game is played over: the data, the policy that it starts from, and how long each response is.
#[derive(Clone, Debug)]
pub struct World {
    /// The distribution of real responses.
    pub data: Table,
    /// The base model: the policy before the first iteration.
    pub base: Table,
    /// Rejected responses of preference pairs, where the data play the opponent.
    pub rejected: Table,
    /// Tokens of each response.
    pub tokens: Vec<Vec<usize>>,
}

impl World {
    /// A random one: logits of the tables are normal with variance 1, responses have 1 to 9 tokens.
    pub fn random(prompts: usize, responses: usize, seed: u64) -> Self {
        let table = |purpose| {
            let mut rng = Rng::new(seed, purpose, 0);
            Table::from_logits((0..prompts).map(|_| (0..responses).map(|_| rng.normal()).collect()).collect())
        };
        let mut rng = Rng::new(seed, "lab lengths", 0);
        let tokens = (0..prompts).map(|_| (0..responses).map(|_| 1 + rng.below(9)).collect()).collect();
        Self { data: table("lab data"), base: table("lab base"), rejected: table("lab rejected"), tokens }
    }
}

/// The response at which the cumulated probability passes `uniform`.
fn drawn(row: &[f64], uniform: f64) -> usize {
    let mut cumulated = 0.0;
    let passed = row.iter().position(|log_prob| {
        cumulated += log_prob.exp();
        uniform < cumulated
    });
    // Rounding may leave the sum a little below 1.
    passed.unwrap_or_else(|| row.iter().rposition(|&log_prob| log_prob > f64::NEG_INFINITY).unwrap_or(0))
}

/// Logits less the logarithm of the sum of their exponentials.
pub(super) fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = max + logits.iter().map(|logit| (logit - max).exp()).sum::<f64>().ln();
    logits.iter().map(|logit| logit - log_sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(probs: &[f64]) -> Table {
        Table::from_logits(vec![probs.iter().map(|p| p.ln()).collect()])
    }

    #[test]
    fn distances_of_known_distributions() {
        let (fair, biased) = (table(&[0.5, 0.5, 0.0]), table(&[0.25, 0.25, 0.5]));
        assert!((fair.kl(&biased) - 2f64.ln()).abs() < 1e-15);
        assert_eq!(biased.kl(&fair), f64::INFINITY);
        assert!((fair.total_variation(&biased) - 0.5).abs() < 1e-15);
        assert_eq!((fair.kl(&fair), fair.total_variation(&fair)), (0.0, 0.0));
    }

    #[test]
    fn shares_of_many_draws_are_probabilities() {
        let table = table(&[0.1, 0.0, 0.6, 0.3]);
        let shares = &table.shares(40_000, Key::new(3, "test", 0))[0];
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9 && shares[1] == 0.0);
        // Five standard deviations.
        for (share, p) in shares.iter().zip([0.1, 0.0, 0.6, 0.3f64]) {
            assert!((share - p).abs() <= 5.0 * (p * (1.0 - p) / 40_000.0).sqrt(), "{share} {p}");
        }
    }
}
