//! The squared loss of the margin, IPO's:
//!
//! `l(m) = (1 - m)^2`, `l'(m) = -2 (1 - m)`, `m = beta * (real - generated)`.
//!
//! IPO as it is published, `(real - generated - 1 / (2 tau))^2`, is this one with `beta = 2 tau`, divided by `beta^2`.
//!
//! Source: Azar et al., "A General Theoretical Paradigm to Understand Learning from Human Preferences", AISTATS 2024,
//! arXiv 2310.12036, equation 17.

use super::{PairLoss, Triplet};

pub(super) fn loss(beta: f64, scored: &Triplet) -> PairLoss {
    PairLoss::of_margin(beta, scored, |m| ((1.0 - m) * (1.0 - m), -2.0 * (1.0 - m)))
}
