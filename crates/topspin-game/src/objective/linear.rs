//! The integral probability metric itself:
//!
//! `l(m) = -m`, `l'(m) = -1`, `m = beta * (real - generated)`.
//!
//! It has no minimum: what makes a margin larger makes the loss smaller, without end. Only early stopping holds it, or a
//! `forward_kl` that outweighs it: one of weight `k` has the minimum `base + (beta / k) (data - opponent)` where that is
//! positive everywhere.
//!
//! Source: Müller, "Integral Probability Metrics and Their Generating Classes of Functions", Advances in Applied
//! Probability 29, 1997; equation 4.1 of SPIN (arXiv 2401.01335) before its logistic loss.

use super::{PairLoss, Triplet};

pub(super) fn loss(beta: f64, scored: &Triplet) -> PairLoss {
    PairLoss::of_margin(beta, scored, |m| (-m, -1.0))
}
