//! A token from a row of logits.
//!
//! The cuts come in the order of transformers and vLLM: temperature, then top-k, then top-p over what top-k left. Both
//! keep *all logits from some value up*:
//! - top-k keeps the logits no smaller than the k-th largest, hence more than k of them where several equal it (as
//!   transformers and vLLM do);
//! - top-p keeps the logits above which there is less mass than `top_p`, hence one at least. Where several are equal at
//!   the border it keeps them all; transformers and vLLM keep the ones that their sort happens to put first.
//!
//! A token is then drawn by inverting the cumulative distribution, in order of id, at one uniform number. The row is
//! worked through in blocks: their largest logits and their sums of weights are enough to find the block that is wanted.

use topspin_kernels::cpu::math::{LANES, exp, max, sum_lanes};
use topspin_kernels::multiversion;
use topspin_kernels::simd::{Arithmetic, Level};

use crate::error::RolloutError;

/// Logits of a block.
const BLOCK: usize = 256;

/// Bins of logits in which top-p looks for its border.
const BINS: usize = 1024;

/// How a token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 always takes the likeliest token, of equally likely ones that with the lowest id.
    pub temperature: f64,
    /// Sample among this many largest logits; 0 is no cut.
    pub top_k: usize,
    /// Sample among the likeliest tokens that together have this probability; 1 is no cut.
    pub top_p: f64,
}

impl Default for Sampling {
    /// The model's own distribution: temperature 1, no cuts.
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 0, top_p: 1.0 }
    }
}

impl Sampling {
    /// Always the likeliest token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }
}

/// Draws tokens.
#[derive(Clone, Copy, Debug)]
pub struct Sampler {
    sampling: Sampling,
    level: Level,
}

/// The weight of a logit: `exp((logit - max) / temperature)`, or 0 below `cut`.
#[derive(Clone, Copy)]
struct Law {
    max: f32,
    temperature: f32,
    cut: f32,
}

impl Sampler {
    /// A sampler.
    ///
    /// # Errors
    /// [`RolloutError::Setting`] for a temperature below 0 or not finite, or `top_p` outside `(0, 1]`.
    pub fn new(sampling: Sampling) -> Result<Self, RolloutError> {
        let Sampling { temperature, top_p, .. } = sampling;
        let wrong = |name, value: f64, range| Err(RolloutError::Setting { name, value: value.to_string(), range });
        if !(temperature.is_finite() && temperature >= 0.0) {
            return wrong("temperature", temperature, "a finite number, 0 (greedy) or above");
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return wrong("top_p", top_p, "above 0, and 1 at most");
        }
        Ok(Self { sampling, level: Level::detect() })
    }

    /// The token that `logits` give to `uniform`, a number in `[0, 1)`.
    ///
    /// Logits that make no distribution (NaN, or infinite ones) give some id: their log-probability tells.
    pub fn sample(&self, logits: &[f32], uniform: f64) -> u32 {
        let mut maxima = vec![0.0; logits.len().div_ceil(BLOCK)];
        block_maxima(self.level, logits, &mut maxima);
        let max = maxima.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if self.sampling.temperature == 0.0 {
            let block = maxima.iter().position(|&at| at == max).unwrap_or(0);
            let at = logits.iter().skip(block * BLOCK).position(|&logit| logit == max).unwrap_or(0);
            return (block * BLOCK + at) as u32;
        }
        // Dividing, not multiplying by the inverse, which is infinite for the smallest temperatures.
        let temperature = (self.sampling.temperature as f32).clamp(f32::MIN_POSITIVE, f32::MAX);
        let mut law = Law { max, temperature, cut: f32::NEG_INFINITY };
        let Sampling { top_k, top_p, .. } = self.sampling;
        if (1..logits.len()).contains(&top_k) {
            law.cut = kth_largest(logits, &maxima, top_k);
        }
        let mut sums = vec![0.0; maxima.len()];
        block_sums(self.level, logits, law, &mut sums);
        if top_p < 1.0 {
            law.cut = self.nucleus(logits, &maxima, law, total(&sums));
            block_sums(self.level, logits, law, &mut sums);
        }
        self.invert(logits, law, &sums, uniform)
    }

    /// The smallest logit that top-p keeps, of a law whose weights sum to `total`.
    fn nucleus(&self, logits: &[f32], maxima: &[f32], law: Law, total: f64) -> f32 {
        let top_p = self.sampling.top_p;
        // Weights under this one are together less than (1 - p) of the total, so none is among those that make up p.
        let least = (1.0 - top_p) * total / logits.len() as f64;
        // The last term is for the rounding of the weights: a few more candidates do no harm.
        let bound = f64::from(law.max) + f64::from(law.temperature) * (least.ln() - 1e-3);
        let bound = bound.max(f64::from(law.cut));
        let candidates = at_least(logits, maxima, bound);
        let mut weights = vec![0.0; candidates.len()];
        weights_of(self.level, &candidates, law, &mut weights);
        // Bins of equal width, from the largest logit down: only the one in which p is reached needs to be sorted.
        let scale = BINS as f64 / (f64::from(law.max) - bound);
        let bin_of = |logit: f32| (((f64::from(law.max) - f64::from(logit)) * scale) as usize).min(BINS - 1);
        let mut bins = vec![0.0; BINS];
        for (&logit, &weight) in candidates.iter().zip(&weights) {
            bins[bin_of(logit)] += f64::from(weight);
        }
        let (mut bin, mut mass) = (0, 0.0);
        while bin + 1 < BINS && mass + bins[bin] < top_p * total {
            mass += bins[bin];
            bin += 1;
        }
        let of_bin = candidates.into_iter().zip(weights).filter(|&(logit, _)| bin_of(logit) == bin);
        let mut of_bin: Vec<(f32, f32)> = of_bin.collect();
        of_bin.sort_unstable_by(|(a, _), (b, _)| b.total_cmp(a));
        let mut cut = f32::INFINITY;
        for (logit, weight) in of_bin {
            if logit < cut && mass >= top_p * total {
                break;
            }
            cut = logit;
            mass += f64::from(weight);
        }
        // Rounding may keep the mass of all from reaching p, and the last bin be empty: then nothing more is cut.
        if cut == f32::INFINITY { law.cut } else { cut }
    }

    /// The first id whose cumulative weight exceeds `uniform` of the total.
    fn invert(&self, logits: &[f32], law: Law, sums: &[f32], uniform: f64) -> u32 {
        let target = uniform * total(sums);
        let mut below = 0.0;
        for (block, &sum) in sums.iter().enumerate() {
            if below + f64::from(sum) > target {
                let logits = &logits[block * BLOCK..];
                let logits = &logits[..BLOCK.min(logits.len())];
                let mut weights = [0.0; BLOCK];
                weights_of(self.level, logits, law, &mut weights[..logits.len()]);
                return (block * BLOCK + pick(&weights, target - below)) as u32;
            }
            below += f64::from(sum);
        }
        0
    }
}

/// The first index whose cumulative weight exceeds `target`; the last with any weight if rounding leaves none.
fn pick(weights: &[f32], target: f64) -> usize {
    let mut below = 0.0;
    for (at, &weight) in weights.iter().enumerate() {
        below += f64::from(weight);
        if below > target {
            return at;
        }
    }
    weights.iter().rposition(|&weight| weight > 0.0).unwrap_or(0)
}

/// Sum in order, as [`Sampler::invert`] walks.
fn total(sums: &[f32]) -> f64 {
    sums.iter().map(|&sum| f64::from(sum)).sum()
}

/// The logits no smaller than `bound`, in order of id.
fn at_least(logits: &[f32], maxima: &[f32], bound: f64) -> Vec<f32> {
    let blocks = logits.chunks(BLOCK).zip(maxima).filter(|&(_, &max)| f64::from(max) >= bound);
    blocks.flat_map(|(block, _)| block).copied().filter(|&logit| f64::from(logit) >= bound).collect()
}

/// The k-th largest logit, for k from 1.
fn kth_largest(logits: &[f32], maxima: &[f32], k: usize) -> f32 {
    let descending = |a: &f32, b: &f32| b.total_cmp(a);
    // The k-th largest of the blocks' maxima is a logit with k - 1 others above or equal: a bound from below.
    let bound = match k <= maxima.len() {
        true => *maxima.to_vec().select_nth_unstable_by(k - 1, descending).1,
        false => f32::NEG_INFINITY,
    };
    let mut candidates = at_least(logits, maxima, f64::from(bound));
    // Fewer than k where some are NaN.
    match candidates.len() >= k {
        true => *candidates.select_nth_unstable_by(k - 1, descending).1,
        false => f32::NEG_INFINITY,
    }
}

#[inline(always)]
fn weight(math: impl Arithmetic, logit: f32, law: Law) -> f32 {
    let weight = exp(math, (logit - law.max) / law.temperature);
    if logit >= law.cut { weight } else { 0.0 }
}

multiversion! {
    /// `maxima[b]` = the largest logit of block `b`.
    fn block_maxima(_math, logits: &[f32], maxima: &mut [f32]) {
        for (block, most) in logits.chunks(BLOCK).zip(maxima) {
            *most = max(block);
        }
    }
}

multiversion! {
    /// `sums[b]` = the sum of the weights of block `b`.
    fn block_sums(math, logits: &[f32], law: Law, sums: &mut [f32]) {
        for (block, sum) in logits.chunks(BLOCK).zip(sums) {
            let mut weights = [0.0; BLOCK];
            for (weight_of, &logit) in weights.iter_mut().zip(block) {
                *weight_of = weight(math, logit, law);
            }
            let mut lanes = [0.0; LANES];
            for weights in weights.as_chunks::<LANES>().0 {
                for lane in 0..LANES {
                    lanes[lane] += weights[lane];
                }
            }
            *sum = sum_lanes(lanes);
        }
    }
}

multiversion! {
    /// `weights[i]` = the weight of `logits[i]`.
    fn weights_of(math, logits: &[f32], law: Law, weights: &mut [f32]) {
        for (weight_of, &logit) in weights.iter_mut().zip(logits) {
            *weight_of = weight(math, logit, law);
        }
    }
}
