//! Anchored preference optimization, for a policy that is worse than the real responses:
//!
//! `sigmoid(-beta real) + sigmoid(beta generated)`, with the derivatives `-beta s (1 - s)` of the first and
//! `beta s (1 - s)` of the second, where `s` is the sigmoid of each.
//!
//! As [`space`](super::space), but bounded: a response that is far on either side hardly moves the policy.
//!
//! Source: D'Oosterlinck et al., "Anchored Preference Optimization and Contrastive Revisions", 2024, arXiv 2408.06266.

use super::{PairLoss, Triplet, sigmoid};

pub(super) fn loss(beta: f64, scored: &Triplet) -> PairLoss {
    let (real, generated) = (beta * scored.real.log_ratio, beta * scored.generated.log_ratio);
    // Not `s (1 - s)`, which has no digits left where `s` is near 1.
    let slope = |x: f64| beta * sigmoid(x) * sigmoid(-x);
    PairLoss {
        loss: sigmoid(-real) + sigmoid(generated),
        d_real: -slope(real),
        d_generated: slope(generated),
        d_base: 0.0,
    }
}
