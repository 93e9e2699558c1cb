//! The squared loss of the margin where it falls, and nothing where it would rise:
//!
//! `l(m) = max(0, 1 - m)^2`, `l'(m) = -2 max(0, 1 - m)`, `m = beta * (real - generated)`.
//!
//! A pair that is told apart by more than 1 is left alone, as by the hinge loss, but the slope has no jump.
//!
//! Source: Tang et al., "Generalized Preference Optimization", ICML 2024, arXiv 2402.05749, table 1.

use super::{PairLoss, Triplet};

pub(super) fn loss(beta: f64, scored: &Triplet) -> PairLoss {
    PairLoss::of_margin(beta, scored, |m| {
        let short = (1.0 - m).max(0.0);
        (short * short, -2.0 * short)
    })
}
