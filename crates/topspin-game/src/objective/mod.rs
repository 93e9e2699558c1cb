//! Objectives of self-play: what a pair costs, as a pure function of its log-ratios.
//!
//! A pair's *log-ratio* of a response `y` is `log pi_theta(y|x) - log pi_t(y|x)`, summed over its tokens: how much more
//! probable the policy makes it than the opponent did. An objective knows neither tokens nor models.
//!
//! A new objective is one file with `pub(super) fn loss(beta, &Triplet) -> PairLoss`, its formula and source, and one line
//! in the list below. What goes with every objective is in [`Additions`].

mod additions;

use serde::{Deserialize, Serialize};

pub use additions::Additions;

/// What the policy makes of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scored {
    /// Its log-probability, in nats, summed over its tokens.
    pub logp: f64,
    /// The same less that of the reference, which is the opponent's.
    pub log_ratio: f64,
    /// The same less that of the base model, where [`Loss::needs`] says so.
    pub base_log_ratio: f64,
    /// Its tokens.
    pub tokens: usize,
}

/// The responses to a prompt that one cost is taken of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Triplet {
    /// The response from the data.
    pub real: Scored,
    /// The opponent's.
    pub generated: Scored,
    /// The base model's, where [`Loss::needs`] says so.
    pub base: Option<Scored>,
}

impl Triplet {
    fn base(&self) -> Scored {
        self.base.expect("who takes a cost looks up what it needs")
    }
}

/// What a pair costs and how the cost changes with the log-probabilities of its responses under the policy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairLoss {
    /// The cost.
    pub loss: f64,
    /// Its derivative by the log-probability, or the log-ratio, of the real response.
    pub d_real: f64,
    /// Its derivative by that of the generated response.
    pub d_generated: f64,
    /// Its derivative by that of the base model's response.
    pub d_base: f64,
}

impl PairLoss {
    /// A cost of the margin `m = beta * (real - generated)` alone: `of` gives `l(m)` and its derivative.
    fn of_margin(beta: f64, scored: &Triplet, of: impl Fn(f64) -> (f64, f64)) -> Self {
        let (loss, slope) = of(beta * (scored.real.log_ratio - scored.generated.log_ratio));
        Self { loss, d_real: beta * slope, d_generated: -beta * slope, d_base: 0.0 }
    }
}

/// What a cost needs beside the responses of a pair and the reference's log-probabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// A response of the base model.
    pub base_response: bool,
    /// The base model's log-probabilities of the generated response.
    pub base_logprobs: bool,
}

/// An objective with its weight and what is added to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// The objective.
    pub objective: Objective,
    /// Weight of the KL term of the policy step.
    pub beta: f64,
    /// What is added.
    pub additions: Additions,
}

impl Loss {
    /// An objective with nothing added.
    pub fn new(objective: Objective, beta: f64) -> Self {
        Self { objective, beta, additions: Additions::default() }
    }

    /// What it needs beside pairs.
    pub fn needs(&self) -> Needs {
        Needs {
            base_response: self.objective == Objective::Triplet || self.additions.forward_kl > 0.0,
            base_logprobs: self.additions.reverse_kl > 0.0,
        }
    }

    /// Whether a pair of equal responses has no gradient, wherever the policy stands. It has none in a function of the
    /// margin alone, which is 0 there, nor where what both sides add cancels.
    pub fn ignores_identical(&self) -> bool {
        // Differences that a formula does not cancel by itself show at any place but 0.
        [-1.5, 0.75].into_iter().all(|log_ratio| {
            let at = Scored { logp: log_ratio - 4.0, log_ratio, base_log_ratio: log_ratio, tokens: 3 };
            let base = Some(Scored { logp: -5.0, ..at });
            let cost = self.pair(&Triplet { real: at, generated: at, base });
            (cost.d_real + cost.d_generated).abs() < 1e-12 * cost.d_real.abs() && cost.d_base == 0.0
        })
    }

    /// The cost of a pair.
    ///
    /// # Panics
    /// If what [`needs`](Self::needs) asks for is not there.
    pub fn pair(&self, scored: &Triplet) -> PairLoss {
        self.additions.extend(scored, |scored| self.objective.loss(self.beta, scored))
    }
}

macro_rules! objectives {
    ($(#[doc = $about:literal] $module:ident => $name:ident,)+) => {
        $(mod $module;)+

        /// The cost of a pair. In configurations an objective goes by its name in snake case.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Objective {
            $(#[doc = $about] $name,)+
        }

        impl Objective {
            /// Every objective there is.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Its formula in short.
            pub fn about(self) -> &'static str {
                match self {
                    $(Self::$name => $about.trim_ascii(),)+
                }
            }

            fn loss(self, beta: f64, scored: &Triplet) -> PairLoss {
                match self {
                    $(Self::$name => $module::loss(beta, scored),)+
                }
            }
        }
    };
}

objectives! {
    /// SPIN: `softplus(-m)`.
    logistic => Logistic,
    /// The integral probability metric: `-m`.
    linear => Linear,
    /// SLiC's: `max(0, 1 - m)`.
    hinge => Hinge,
    /// `e^-m`.
    exponential => Exponential,
    /// IPO's: `(1 - m)^2`.
    squared => Squared,
    /// The logistic loss of log-ratios per token.
    length_normalized => LengthNormalized,
    /// SPPO: `(beta real - 1/2)^2 + (beta generated + 1/2)^2`.
    sppo => Sppo,
    /// Noise contrastive estimation: `softplus(-beta real) + softplus(beta generated)`.
    space => Space,
    /// APO-zero: `sigmoid(-beta real) + sigmoid(beta generated)`.
    apo_zero => ApoZero,
    /// T-SPIN, with a response of the base model as the third and no reference.
    triplet => Triplet,
}

/// `1 / (1 + e^-x)`.
fn sigmoid(x: f64) -> f64 {
    // e^-|x| cannot overflow.
    let small = (-x.abs()).exp();
    (if x < 0.0 { small } else { 1.0 }) / (1.0 + small)
}

/// `log(1 + e^x)`.
fn softplus(x: f64) -> f64 {
    // ln_1p keeps what a large negative x leaves.
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
impl Objective {
    /// The cost of a pair of which log-ratios alone are known.
    fn of_log_ratios(self, beta: f64, real: f64, generated: f64) -> PairLoss {
        let scored = |log_ratio| Scored { log_ratio, tokens: 1, ..Scored::default() };
        self.loss(beta, &Triplet { real: scored(real), generated: scored(generated), base: None })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scored() -> impl Strategy<Value = Scored> {
        (-60.0..-0.1f64, -6.0..6.0f64, -6.0..6.0f64, 1..40usize)
            .prop_map(|(logp, log_ratio, base_log_ratio, tokens)| Scored { logp, log_ratio, base_log_ratio, tokens })
    }

    fn triplet() -> impl Strategy<Value = Triplet> {
        (scored(), scored(), scored()).prop_map(|(real, generated, base)| Triplet { real, generated, base: Some(base) })
    }

    /// Additions of which each may be absent.
    fn additions() -> impl Strategy<Value = Additions> {
        let weight = || prop_oneof![Just(0.0), 0.01..2.0f64];
        let all = (weight(), weight(), prop_oneof![Just(0.0), 0.01..0.49f64], weight(), weight());
        all.prop_map(|(nll, dpop, label_smoothing, forward_kl, reverse_kl)| Additions {
            nll,
            dpop,
            label_smoothing,
            forward_kl,
            reverse_kl,
        })
    }

    /// The policy's log-probability of a response moves, and with it all that is measured from it.
    fn moved(mut scored: Scored, by: f64) -> Scored {
        scored.logp += by;
        scored.log_ratio += by;
        scored.base_log_ratio += by;
        scored
    }

    proptest! {
        /// The derivatives of every objective, with whatever is added, against central differences of its loss.
        #[test]
        fn derivatives_match_differences(beta in 0.01..3.0f64, at in triplet(), additions in additions()) {
            // Where a loss has a kink there is no derivative to compare.
            let kink = |objective, at: &Triplet| {
                let m = beta * (at.real.log_ratio + additions.dpop * at.real.log_ratio.min(0.0) - at.generated.log_ratio);
                let n = beta * (at.generated.log_ratio + additions.dpop * at.generated.log_ratio.min(0.0) - at.real.log_ratio);
                let falls = at.real.log_ratio.abs() < 1e-3 || at.generated.log_ratio.abs() < 1e-3;
                falls || objective == Objective::Hinge && ((m - 1.0).abs() < 1e-3 || (n - 1.0).abs() < 1e-3)
            };
            for &objective in Objective::ALL {
                prop_assume!(!kink(objective, &at));
                let loss = Loss { objective, beta, additions };
                let found = loss.pair(&at);
                let step = 1e-5;
                let slope = |moving: &dyn Fn(f64) -> Triplet| {
                    (loss.pair(&moving(step)).loss - loss.pair(&moving(-step)).loss) / (2.0 * step)
                };
                let real = slope(&|by| Triplet { real: moved(at.real, by), ..at });
                let generated = slope(&|by| Triplet { generated: moved(at.generated, by), ..at });
                let base = slope(&|by| Triplet { base: at.base.map(|base| moved(base, by)), ..at });
                // Differences of a loss of this size carry its rounding error over the step, and its curvature.
                let tolerance = 1e-7 * (1.0 + found.loss.abs() + found.d_generated.abs() + found.d_real.abs());
                prop_assert!((found.d_real - real).abs() < tolerance, "{objective:?}: {} {real}", found.d_real);
                prop_assert!((found.d_generated - generated).abs() < tolerance, "{objective:?}: {} {generated}", found.d_generated);
                prop_assert!((found.d_base - base).abs() < tolerance, "{objective:?}: {} {base}", found.d_base);
            }
        }

        #[test]
        fn who_ignores_identical_pairs_learns_nothing_from_them(
            beta in 0.01..3.0f64,
            additions in additions(),
            at in scored(),
            base in scored(),
        ) {
            for &objective in Objective::ALL {
                let loss = Loss { objective, beta, additions };
                let alone = !matches!(objective, Objective::Sppo | Objective::Space | Objective::Triplet);
                let bare = Additions { label_smoothing: additions.label_smoothing, ..Additions::default() };
                prop_assert_eq!(loss.ignores_identical(), alone && additions == bare, "{:?}", loss);
                if loss.ignores_identical() {
                    let cost = loss.pair(&Triplet { real: at, generated: at, base: Some(base) });
                    prop_assert!((cost.d_real + cost.d_generated).abs() < 1e-12, "{cost:?}");
                    prop_assert_eq!(cost.d_base, 0.0);
                }
            }
        }

        /// Where policy, opponent and base model agree, nothing depends on the responses but T-SPIN.
        #[test]
        fn costs_at_the_opponent(beta in 0.01..5.0f64, logp in -60.0..-0.1f64) {
            let at = Scored { logp, tokens: 7, ..Scored::default() };
            let at = Triplet { real: at, generated: at, base: Some(at) };
            let ln_2 = std::f64::consts::LN_2;
            let expected = |objective| match objective {
                Objective::Logistic | Objective::LengthNormalized => ln_2,
                Objective::Linear => 0.0,
                Objective::Hinge | Objective::Exponential | Objective::Squared | Objective::ApoZero => 1.0,
                Objective::Sppo => 0.5,
                Objective::Space | Objective::Triplet => 2.0 * ln_2,
            };
            for &objective in Objective::ALL {
                prop_assert_eq!(Loss::new(objective, beta).pair(&at).loss, expected(objective), "{:?}", objective);
                let kl = Additions { forward_kl: 0.3, reverse_kl: 0.7, ..Additions::default() };
                prop_assert_eq!(Loss { objective, beta, additions: kl }.pair(&at).loss, expected(objective));
            }
        }
    }
}
