//! Self-play preference optimization: each log-ratio is drawn to a place of its own,
//!
//! `(beta real - 1/2)^2 + (beta generated + 1/2)^2`, with the derivatives `2 beta (beta real - 1/2)` and
//! `2 beta (beta generated + 1/2)`.
//!
//! The real response counts as one that always wins. As published the loss is divided by `beta^2` (their eta is
//! `1 / beta`).
//!
//! Source: Wu, Sun, Yuan, Ji, Yang, Gu, "Self-Play Preference Optimization for Language Model Alignment", 2024, arXiv
//! 2405.00675, equation 4.7, with probabilities of winning of 1 and 0.

use super::{PairLoss, Triplet};

pub(super) fn loss(beta: f64, scored: &Triplet) -> PairLoss {
    let (real, generated) = (beta * scored.real.log_ratio - 0.5, beta * scored.generated.log_ratio + 0.5);
    PairLoss {
        loss: real * real + generated * generated,
        d_real: 2.0 * beta * real,
        d_generated: 2.0 * beta * generated,
        d_base: 0.0,
    }
}
