//! Self-play by noise contrastive estimation: each response is classified by itself as real or generated,
//!
//! `softplus(-beta real) + softplus(beta generated)`, with the derivatives `-beta / (1 + e^(beta real))` and
//! `beta / (1 + e^(-beta generated))`.
//!
//! Absolute log-ratios count, not their difference alone. A pair has one generated response to a real one, which is the
//! paper's `mu = 1`; at `beta = 1` the only minimum is the data.
//!
//! Source: Wang et al., "SPACE: Noise Contrastive Estimation Stabilizes Self-Play Fine-Tuning for Large Language Models",
//! NeurIPS 2025, arXiv 2512.07175; Gutmann & Hyvärinen, AISTATS 2010.

use super::{PairLoss, Triplet, sigmoid, softplus};

pub(super) fn loss(beta: f64, scored: &Triplet) -> PairLoss {
    let (real, generated) = (beta * scored.real.log_ratio, beta * scored.generated.log_ratio);
    PairLoss {
        loss: softplus(-real) + softplus(generated),
        d_real: -beta * sigmoid(-real),
        d_generated: beta * sigmoid(generated),
        d_base: 0.0,
    }
}
