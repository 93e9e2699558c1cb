//! Log-probabilities of tokens from rows of logits.

use rayon::prelude::*;

use super::math::{exp, max, sum_exp};
use super::parallel::{GRAIN, for_rows};
use crate::multiversion;
use crate::simd::Level;

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

/// `logits[n,v] := dlogp[n] * (1[v = targets[n]] - softmax(logits[n])[v])`, in place.
pub fn logprob_backward(level: Level, logits: &mut [f32], dlogp: &[f32], lse: &[f32], targets: &[u32]) {
    multiversion! {
        fn row(math, logits: &mut [f32], dlogp: f32, lse: f32) {
            for logit in logits {
                *logit = -dlogp * exp(math, *logit - lse);
            }
        }
    }
    if targets.is_empty() {
        return;
    }
    for_rows(logits, logits.len() / targets.len(), |n, logits| {
        row(level, logits, dlogp[n], lse[n]);
        logits[targets[n] as usize] += dlogp[n];
    });
}
