//! SPIN's objective, the logistic loss of the margin:
//!
//! `l(m) = softplus(-m) = log(1 + e^-m)`, `l'(m) = -1 / (1 + e^m)`, `m = beta * (real - generated)`.
//!
//! Source: Chen, Deng, Yuan, Ji, Gu, "Self-Play Fine-Tuning Converts Weak Language Models to Strong Language Models",
//! ICML 2024, arXiv 2401.01335, equation 4.7 (their lambda is `beta`).

use super::{PairLoss, Triplet, sigmoid, softplus};

pub(super) fn loss(beta: f64, scored: &Triplet) -> PairLoss {
    PairLoss::of_margin(beta, scored, |m| (softplus(-m), -sigmoid(-m)))
}

#[cfg(test)]
mod tests {
    use super::super::{Objective, PairLoss};

    fn loss(beta: f64, real: f64, generated: f64) -> PairLoss {
        Objective::Logistic.of_log_ratios(beta, real, generated)
    }

    #[test]
    fn a_margin_of_zero_costs_ln_2() {
        for beta in [0.01, 0.1, 1.0, 5.0] {
            let at = loss(beta, -3.25, -3.25);
            assert_eq!(at.loss.to_bits(), std::f64::consts::LN_2.to_bits());
            assert_eq!((at.d_real, at.d_generated), (-beta / 2.0, beta / 2.0));
        }
    }

    #[test]
    fn far_margins_neither_overflow_nor_vanish() {
        let won = loss(1.0, 700.0, 0.0);
        assert!(won.loss > 0.0 && won.d_real < 0.0, "{won:?}");
        assert!((won.loss.ln() + 700.0).abs() < 1e-9);
        let lost = loss(1.0, 0.0, 1e6);
        assert_eq!((lost.loss, lost.d_real, lost.d_generated), (1e6, -1.0, 1.0));
    }
}
