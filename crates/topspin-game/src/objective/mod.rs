//! Objectives of self-play: what a pair costs, as a pure function of its log-ratios.
//!
//! A pair's *log-ratio* of a response `y` is `log pi_theta(y|x) - log pi_t(y|x)`, summed over its tokens: how much more
//! probable the policy makes it than the opponent did. An objective knows neither tokens nor models.
//!
//! A new objective is one file with `pub(super) fn loss(beta, real, generated) -> PairLoss`, its formula and source,
//! and one line in the list below.

use serde::{Deserialize, Serialize};

/// What a pair costs and how the cost changes with its log-ratios.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairLoss {
    /// The cost.
    pub loss: f64,
    /// Its derivative by the log-ratio of the real response.
    pub d_real: f64,
    /// Its derivative by the log-ratio of the generated response.
    pub d_generated: f64,
}

impl PairLoss {
    /// A cost `l(m)` of the margin `m = beta * (real - generated)`, of which `slope` is the derivative `l'(m)`.
    fn of_margin(beta: f64, loss: f64, slope: f64) -> Self {
        Self { loss, d_real: beta * slope, d_generated: -beta * slope }
    }
}

macro_rules! objectives {
    ($($(#[$meta:meta])* $module:ident => $name:ident,)+) => {
        $(mod $module;)+

        /// The cost of a pair. In configurations an objective goes by its name in snake case.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Objective {
            $($(#[$meta])* $name,)+
        }

        impl Objective {
            /// Every objective there is.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The cost of a pair with these log-ratios; `beta` weighs the KL term of the policy step.
            pub fn pair(self, beta: f64, real: f64, generated: f64) -> PairLoss {
                match self {
                    $(Self::$name => $module::loss(beta, real, generated),)+
                }
            }
        }
    };
}

objectives! {
    /// SPIN: `softplus(-m)`.
    logistic => Logistic,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The derivatives of every objective against central differences of its loss.
        #[test]
        fn derivatives_match_differences(beta in 0.01..5.0f64, real in -40.0..40.0f64, generated in -40.0..40.0f64) {
            for objective in Objective::ALL {
                let loss = |real, generated| objective.pair(beta, real, generated).loss;
                let step = 1e-5;
                let d_real = (loss(real + step, generated) - loss(real - step, generated)) / (2.0 * step);
                let d_generated = (loss(real, generated + step) - loss(real, generated - step)) / (2.0 * step);
                let at = objective.pair(beta, real, generated);
                // Differences of a loss of this size carry its rounding error over the step.
                let tolerance = 1e-7 * (1.0 + at.loss);
                prop_assert!((at.d_real - d_real).abs() < tolerance, "{objective:?}: {} {d_real}", at.d_real);
                prop_assert!((at.d_generated - d_generated).abs() < tolerance, "{objective:?}: {}", at.d_generated);
            }
        }
    }
}
