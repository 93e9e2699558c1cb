//! T-SPIN: the real response before the generated one, and that one before the response `z` of the base model,
//!
//! `softplus(-beta (log p(w) - log p(y))) + softplus(-beta (log p(y) - log p(z)))`.
//!
//! The score is the log-probability itself, what the policy step gives when an entropy takes the place of the KL term, so
//! no reference stands in it: an iteration does not begin at a margin of 0. The second part still asks for something when
//! the opponent's responses have become as good as the real ones.
//!
//! Source: Wang et al., "Triplets Better Than Pairs: Towards Stable and Effective Self-Play Fine-Tuning for LLMs", NeurIPS
//! 2025, arXiv 2601.08198, with both parts of the same weight.

use super::{PairLoss, Triplet, sigmoid, softplus};

pub(super) fn loss(beta: f64, scored: &Triplet) -> PairLoss {
    let [real, generated, base] = [scored.real, scored.generated, scored.base()].map(|scored| beta * scored.logp);
    let (current, historical) = (generated - real, base - generated);
    let (current_slope, historical_slope) = (beta * sigmoid(current), beta * sigmoid(historical));
    PairLoss {
        loss: softplus(current) + softplus(historical),
        d_real: -current_slope,
        d_generated: current_slope - historical_slope,
        d_base: historical_slope,
    }
}
