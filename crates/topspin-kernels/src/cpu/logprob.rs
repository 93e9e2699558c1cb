//! Logits in their final form, and log-probabilities of tokens from rows of them.

use rayon::prelude::*;

use super::math::{exp, max, sum_exp, tanh};
use super::parallel::{GRAIN, for_rows};
use crate::device::LogitScale;
use crate::multiversion;
use crate::simd::Level;

/// `logits := cap * tanh(multiplier * logits / cap)`, without a cap `multiplier * logits`, in place.
pub fn logit_scale_forward(level: Level, logits: &mut [f32], scale: LogitScale) {
    multiversion! {
        fn some(math, logits: &mut [f32], scale: LogitScale) {
            let LogitScale { multiplier, softcap } = scale;
            for logit in logits {
                *logit = match softcap {
                    None => *logit * multiplier,
                    Some(cap) => cap * tanh(math, *logit * multiplier / cap),
                };
            }
        }
    }
    logits.par_chunks_mut(GRAIN).for_each(|logits| some(level, logits, scale));
}

/// `logp[N] = logits[n, targets[n]] - lse[n]`, `lse[N] = log sum exp(logits[n])`.
pub fn logprob_forward(level: Level, logp: &mut [f32], lse: &mut [f32], logits: &[f32], targets: &[u32]) {
    multiversion! {
        fn row(math, logits: &[f32]) -> f32 {
            let max = max(logits);
            max + sum_exp(math, logits, max).ln()
        }
    }
    if targets.is_empty() {
        return;
    }
    let v = logits.len() / targets.len();
    // The outputs are single numbers, the work is the vocabulary's: tasks are counted in logits.
    let rows_per_task = (GRAIN / v).max(1);
    let rows = logp.par_iter_mut().zip(lse).enumerate().with_min_len(rows_per_task);
    rows.for_each(|(n, (logp, lse))| {
        let logits = &logits[n * v..][..v];
        *lse = row(level, logits);
        *logp = logits[targets[n] as usize] - *lse;
    });
}

/// `logits[n,v] := dlogp[n] * (1[v = targets[n]] - softmax(logits[n])[v])`, in place, times the derivative of `scale`, which
/// made the logits.
pub fn logprob_backward(
    level: Level,
    logits: &mut [f32],
    dlogp: &[f32],
    lse: &[f32],
    targets: &[u32],
    scale: LogitScale,
) {
    multiversion! {
        fn row(math, logits: &mut [f32], dlogp: f32, lse: f32, target: usize, scale: LogitScale) {
            let inverse_cap = scale.softcap.map_or(0.0, |cap| 1.0 / cap);
            let slope = |logit: f32| scale.multiplier * (1.0 - (logit * inverse_cap) * (logit * inverse_cap));
            let at_target = dlogp * slope(logits[target]);
            for logit in &mut *logits {
                *logit = -dlogp * exp(math, *logit - lse) * slope(*logit);
            }
            logits[target] += at_target;
        }
    }
    if targets.is_empty() {
        return;
    }
    for_rows(logits, logits.len() / targets.len(), |n, logits| {
        row(level, logits, dlogp[n], lse[n], targets[n] as usize, scale);
    });
}
