//! The hinge loss of the margin:
//!
//! `l(m) = max(0, 1 - m)`, `l'(m) = -1` below 1 and 0 from there on, `m = beta * (real - generated)`.
//!
//! Source: Zhao, Joshi, Liu, Khalman, Saleh, Liu, "SLiC-HF: Sequence Likelihood Calibration with Human Feedback", 2023,
//! arXiv 2305.10425, with log-ratios as Liu et al. (arXiv 2309.06657) have it.

use super::{PairLoss, Triplet};

pub(super) fn loss(beta: f64, scored: &Triplet) -> PairLoss {
    PairLoss::of_margin(beta, scored, |m| if m < 1.0 { (1.0 - m, -1.0) } else { (0.0, 0.0) })
}
