//! The logistic loss of log-ratios per token:
//!
//! `l(m) = softplus(-m)`, `l'(m) = -1 / (1 + e^m)`, `m = beta * (real / |w| - generated / |y|)`, with the lengths of both
//! responses in tokens. A long response weighs no more than a short one; take a `beta` as many times as large as responses
//! are long.
//!
//! Source: Lambert et al., "Tulu 3: Pushing Frontiers in Open Language Model Post-Training", 2024, arXiv 2411.15124,
//! equation 6.

use super::{PairLoss, Triplet, sigmoid, softplus};

pub(super) fn loss(beta: f64, scored: &Triplet) -> PairLoss {
    let (real, generated) = (beta / scored.real.tokens as f64, beta / scored.generated.tokens as f64);
    let m = real * scored.real.log_ratio - generated * scored.generated.log_ratio;
    let slope = -sigmoid(-m);
    PairLoss { loss: softplus(-m), d_real: real * slope, d_generated: -generated * slope, d_base: 0.0 }
}
