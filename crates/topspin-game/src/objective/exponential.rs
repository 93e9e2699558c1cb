//! The exponential loss of the margin:
//!
//! `l(m) = e^-m`, `l'(m) = -e^-m`, `m = beta * (real - generated)`.
//!
//! A pair that is far on the wrong side outweighs all others.
//!
//! Source: Tang et al., "Generalized Preference Optimization", ICML 2024, arXiv 2402.05749, table 1.

use super::{PairLoss, Triplet};

pub(super) fn loss(beta: f64, scored: &Triplet) -> PairLoss {
    PairLoss::of_margin(beta, scored, |m| ((-m).exp(), -(-m).exp()))
}
