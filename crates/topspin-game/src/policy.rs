//! The policy step alone: what maximises `E_p[f] - beta KL(p || q)` for a given score f.
//!
//! Its answer is `p*(y) = q(y) exp(f(y)/beta) / Z` (docs/method.md). Of n samples of q, sample i stands for p* with the weight
//! `w_i = exp(f_i/beta) / sum_j exp(f_j/beta)`, and the policy is fitted by the weighted likelihood, `sum_i w_i (-log p(y_i))`:
//! its minimiser over all distributions is the weighted frequency of the samples, which tends to p* as n grows.
//!
//! Source: Peters, Mülling, Altün, "Relative Entropy Policy Search", AAAI 2010, for the weights and the weighted fit; Peng,
//! Kumar, Zhang, Levine, "Advantage-Weighted Regression", arXiv 1910.00177, for the same with a network as the policy.

use std::collections::HashMap;

use crate::tree::TokenTree;

/// A prompt with the opponent's samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Weighted {
    /// Names the prompt in messages.
    pub prompt_id: String,
    /// Tokens of the prompt, at least one.
    pub prompt: Vec<u32>,
    /// Its samples.
    pub samples: Vec<Sample>,
}

/// A sample, its score, and what it weighs.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Tokens, at least one.
    pub token_ids: Vec<u32>,
    /// f.
    pub score: f64,
    /// Its share of the prompt's weight, times the number of samples: 1 on average.
    pub weight: f64,
}

impl Weighted {
    /// Weighs samples, tokens and score each, with `beta` as the weight of the KL term.
    pub fn new(prompt_id: String, prompt: Vec<u32>, samples: Vec<(Vec<u32>, f64)>, beta: f64) -> Self {
        let weights = weights(&samples.iter().map(|(_, score)| *score).collect::<Vec<_>>(), beta);
        let n = samples.len() as f64;
        let samples = samples.into_iter().zip(weights);
        let samples = samples.map(|((token_ids, score), w)| Sample { token_ids, score, weight: n * w }).collect();
        Self { prompt_id, prompt, samples }
    }

    /// Whether all samples have the same score. Their weights are then equal, and the gradient at the opponent is that of
    /// `-log p` over samples of p itself: noise around 0.
    pub fn is_level(&self) -> bool {
        self.samples.windows(2).all(|pair| pair[0].score == pair[1].score)
    }

    /// Mean score of the samples by weight.
    pub fn weighted_score(&self) -> f64 {
        let total: f64 = self.samples.iter().map(|sample| sample.weight).sum();
        self.samples.iter().map(|sample| sample.weight * sample.score).sum::<f64>() / total
    }

    /// See [`effective`].
    pub fn effective_samples(&self) -> f64 {
        effective(self.samples.iter().map(|sample| sample.weight))
    }
}

/// `exp(f_i/beta) / sum_j exp(f_j/beta)`.
pub fn weights(scores: &[f64], beta: f64) -> Vec<f64> {
    let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // The best one gives 1: no score is too large, and the sum is not 0.
    let tilted: Vec<f64> = scores.iter().map(|score| ((score - best) / beta).exp()).collect();
    let sum: f64 = tilted.iter().sum();
    tilted.iter().map(|tilted| tilted / sum).collect()
}

/// The effective number of samples, `(sum w)^2 / sum w^2` (Kish): n where all weigh the same, 1 where one has all weight, 0
/// where nothing weighs anything.
pub fn effective(weights: impl Iterator<Item = f64>) -> f64 {
    let (sum, squares) = weights.fold((0.0, 0.0), |(sum, squares), w| (sum + w, squares + w * w));
    if squares > 0.0 { sum * sum / squares } else { 0.0 }
}

/// One sample out of a list of prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Index of the prompt.
    pub prompt: usize,
    /// Index among its samples.
    pub sample: usize,
}

/// All samples of a list of prompts, prompt by prompt.
pub fn all_draws(prompts: &[Weighted]) -> Vec<Draw> {
    let of_prompt = |(at, prompt): (usize, &Weighted)| {
        (0..prompt.samples.len()).map(move |sample| Draw { prompt: at, sample }).collect::<Vec<_>>()
    };
    prompts.iter().enumerate().flat_map(of_prompt).collect()
}

/// Some samples of one prompt, equal ones as one branch with their weights together.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Part<'a> {
    prompt: &'a Weighted,
    /// Tokens and weight.
    pub branches: Vec<(&'a [u32], f64)>,
}

impl<'a> Part<'a> {
    pub fn token_tree(&self) -> TokenTree<'a> {
        let responses = self.branches.iter().map(|(tokens, _)| *tokens).collect();
        TokenTree { prompt_id: &self.prompt.prompt_id, prompt: &self.prompt.prompt, responses, turns: &[] }
    }
}

/// Collects `chosen` by prompt, in the order in which prompts and samples first occur; what would take more than
/// `batch_tokens` rows is split, each part with the prompt again.
pub(crate) fn parts<'a>(prompts: &'a [Weighted], chosen: &[Draw], batch_tokens: usize) -> Vec<Part<'a>> {
    let mut wholes: Vec<Part> = Vec::new();
    let (mut whole_of, mut branch_of) = (HashMap::new(), HashMap::new());
    for draw in chosen {
        let prompt = &prompts[draw.prompt];
        let at = *whole_of.entry(draw.prompt).or_insert_with(|| {
            wholes.push(Part { prompt, branches: Vec::new() });
            wholes.len() - 1
        });
        let (Sample { token_ids, weight, .. }, branches) = (&prompt.samples[draw.sample], &mut wholes[at].branches);
        let branch = *branch_of.entry((draw.prompt, token_ids)).or_insert_with(|| {
            branches.push((token_ids, 0.0));
            branches.len() - 1
        });
        branches[branch].1 += weight;
    }
    wholes.into_iter().flat_map(|whole| split(whole, batch_tokens)).collect()
}

fn split(whole: Part, batch_tokens: usize) -> Vec<Part> {
    let prompt = whole.prompt;
    let mut parts = vec![Part { prompt, branches: Vec::new() }];
    let mut rows = prompt.prompt.len();
    for branch in whole.branches {
        let own = branch.0.len().saturating_sub(1);
        if rows + own > batch_tokens && !parts[parts.len() - 1].branches.is_empty() {
            parts.push(Part { prompt, branches: Vec::new() });
            rows = prompt.prompt.len();
        }
        rows += own;
        parts.last_mut().expect("there is one at least").branches.push(branch);
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use topspin_kernels::rng::Rng;

    use super::*;
    use crate::lab::Table;

    fn prompts() -> impl Strategy<Value = Vec<Weighted>> {
        // Few tokens, so that equal samples occur.
        let sample = (prop::collection::vec(0..2u32, 1..5), -2.0..2.0f64);
        let prompt = (prop::collection::vec(0..9u32, 1..6), prop::collection::vec(sample, 1..12), 0.3..3.0f64);
        let prompt = prompt.prop_map(|(prompt, samples, beta)| Weighted::new("p".into(), prompt, samples, beta));
        prop::collection::vec(prompt, 1..5)
    }

    proptest! {
        #[test]
        fn weights_are_normalised_exponentials(scores in prop::collection::vec(-5.0..5.0f64, 1..20), beta in 0.2..5.0f64) {
            let found = weights(&scores, beta);
            let sum: f64 = scores.iter().map(|score| (score / beta).exp()).sum();
            for (found, score) in found.iter().zip(&scores) {
                prop_assert!((found - (score / beta).exp() / sum).abs() < 1e-12);
            }
            let size = effective(found.iter().copied());
            prop_assert!(size > 1.0 - 1e-12 && size < scores.len() as f64 + 1e-9, "{size}");
            prop_assert_eq!(weights(&scores.iter().map(|score| score + 1e3).collect::<Vec<_>>(), beta).len(), found.len());
        }

        /// Scores of any size, and any beta, give weights.
        #[test]
        fn no_score_is_too_large(scores in prop::collection::vec(prop::num::f64::NORMAL, 1..6), beta in 1e-9..1e9f64) {
            prop_assume!(scores.iter().all(|score| score.abs() < 1e300));
            let found = weights(&scores, beta);
            prop_assert!((found.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{found:?}");
            prop_assert!(found.iter().all(|w| (0.0..=1.0).contains(w)));
        }

        #[test]
        fn parts_keep_every_weight_and_the_budget(prompts in prompts(), keep in prop::collection::vec(any::<bool>(), 7), budget in 1..20usize) {
            let mut keep = keep.into_iter().cycle();
            let mut chosen = all_draws(&prompts);
            prop_assert_eq!(chosen.len(), prompts.iter().map(|prompt| prompt.samples.len()).sum::<usize>());
            chosen.retain(|_| keep.next().unwrap());
            let parts = parts(&prompts, &chosen, budget);
            let mut found: HashMap<(*const Weighted, &[u32]), Vec<f64>> = HashMap::new();
            for part in &parts {
                prop_assert!(part.token_tree().rows() <= budget || part.branches.len() == 1);
                for (tokens, weight) in &part.branches {
                    found.entry((part.prompt, tokens)).or_default().push(*weight);
                }
            }
            let mut expected: HashMap<(*const Weighted, &[u32]), f64> = HashMap::new();
            for draw in &chosen {
                let prompt = &prompts[draw.prompt];
                let sample = &prompt.samples[draw.sample];
                *expected.entry((prompt, &sample.token_ids)).or_default() += sample.weight;
            }
            prop_assert_eq!(found.len(), expected.len());
            for (key, weight) in expected {
                // One branch each.
                prop_assert_eq!(&found[&key], &[weight]);
            }
        }

        #[test]
        fn a_prompt_is_level_where_no_sample_is_better(score in -9.0..9.0f64, n in 2..9usize, beta in 0.1..9.0f64) {
            let level = Weighted::new("p".into(), vec![1], vec![(vec![2], score); n], beta);
            prop_assert!(level.is_level());
            prop_assert!((level.effective_samples() - n as f64).abs() < 1e-9);
            let mut samples = vec![(vec![2], score); n];
            samples[n - 1].1 += 1e-3;
            prop_assert!(!Weighted::new("p".into(), vec![1], samples, beta).is_level());
        }
    }

    /// docs/scores.md: where the best of n samples leads by `beta ln(99 (n - 1))`, it has 99% of the weight.
    #[test]
    fn a_large_lead_takes_all_weight() {
        for (n, beta) in [(2, 0.3), (8, 1.0), (256, 2.0)] {
            let mut scores = vec![1.5; n];
            scores[n / 2] += beta * (99.0 * (n - 1) as f64).ln();
            assert!((weights(&scores, beta)[n / 2] - 0.99).abs() < 1e-12);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        /// The weighted frequencies of n samples of q, which minimise the weighted likelihood over all distributions, tend to
        /// `q exp(f/beta) / Z`; a tenth of the distance takes a hundred times the samples.
        #[test]
        fn the_minimiser_tends_to_the_answer_of_the_policy_step(
            logits in prop::collection::vec(-1.5..1.5f64, 2..7),
            scores in prop::collection::vec(-1.5..1.5f64, 7),
            beta in 0.5..3.0f64,
            seed in any::<u64>(),
        ) {
            let opponent = Table::from_logits(vec![logits.clone()]);
            let q: Vec<f64> = opponent.log_probs()[0].iter().map(|log_prob| log_prob.exp()).collect();
            let tilted = logits.iter().zip(&scores).map(|(logit, score)| logit + score / beta).collect();
            let answer = Table::from_logits(vec![tilted]);
            let mut rng = Rng::new(seed, "samples of a table", 0);
            let mut draw = || {
                let (mut left, u) = (0.0, rng.uniform());
                q.iter().position(|p| { left += p; u < left }).unwrap_or(q.len() - 1)
            };
            for n in [1_000usize, 100_000] {
                let samples: Vec<usize> = (0..n).map(|_| draw()).collect();
                let weights = weights(&samples.iter().map(|&y| scores[y]).collect::<Vec<_>>(), beta);
                let mut minimiser = vec![0.0; q.len()];
                samples.iter().zip(&weights).for_each(|(&y, w)| minimiser[y] += w);
                let distances = minimiser.iter().zip(&answer.log_probs()[0]).map(|(found, p)| (found - p.exp()).abs());
                // Five standard errors of a mean of so many effective samples.
                let bound = 5.0 * 0.5 / effective(weights.iter().copied()).sqrt();
                for distance in distances {
                    prop_assert!(distance < bound, "{distance} {bound}");
                }
                // And no other distribution has less loss on them.
                let loss = |p: &[f64]| -> f64 { samples.iter().zip(&weights).map(|(&y, w)| -w * p[y].ln()).sum() };
                let least = loss(&minimiser.iter().map(|p| p.max(1e-300)).collect::<Vec<_>>());
                for other in [&q, &answer.log_probs()[0].iter().map(|p| p.exp()).collect()] {
                    prop_assert!(loss(other) >= least - 1e-12, "{} {least}", loss(other));
                }
            }
        }
    }
}
