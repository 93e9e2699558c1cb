//! The integral probability metric itself:
//!
//! `l(m) = -m`, `l'(m) = -1`, `m = beta * (real - generated)`.
//!
//! It has no minimum: what makes a margin larger makes the loss smaller, without end. Only early stopping, or one of the
//! additions that keep the policy near the base model, holds it.
//!
//! Source: Müller, "Integral Probability Metrics and Their Generating Classes of Functions", Advances in Applied
//! Probability 29, 1997; equation 4.1 of SPIN (arXiv 2401.01335) before its logistic loss.

use super::{PairLoss, Triplet};

pub(super) fn loss(beta: f64, scored: &Triplet) -> PairLoss {
    PairLoss::of_margin(beta, scored, |m| (-m, -1.0))
}
