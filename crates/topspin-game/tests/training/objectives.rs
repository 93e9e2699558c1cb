//! Objectives held to TRL and to autograd on their published formulas: `tests/golden/README.md` says what is stored.

use serde::Deserialize;
use topspin_game::objective::{Additions, Loss, Objective, Scored, Triplet};

use crate::stored::golden;

/// Of a value; both sides round sums of some ten log-probabilities.
const TOLERANCE: f64 = 1e-12;
/// Where a value is no more than the rounding of 1, as in `1 - sigmoid(x)`.
const ROUNDING: f64 = 1e-15;

#[derive(Deserialize)]
struct Case {
    objective: Objective,
    beta: f64,
    #[serde(default)]
    nll: f64,
    #[serde(default)]
    dpop: f64,
    #[serde(default)]
    label_smoothing: f64,
    #[serde(default)]
    forward_kl: f64,
    #[serde(default)]
    reverse_kl: f64,
    factor: f64,
    real: Given,
    generated: Given,
    base: Given,
    loss: f64,
    d_real: f64,
    d_generated: f64,
    d_base: f64,
}

/// Log-probabilities of a response under each model.
#[derive(Clone, Copy, Deserialize)]
struct Given {
    logp: f64,
    opponent: f64,
    base: f64,
    tokens: usize,
}

impl Case {
    fn additions(&self) -> Additions {
        let &Self { nll, dpop, label_smoothing, forward_kl, reverse_kl, .. } = self;
        Additions { nll, dpop, label_smoothing, forward_kl, reverse_kl }
    }

    fn triplet(&self) -> Triplet {
        let scored = |Given { logp, opponent, base, tokens }| Scored {
            logp,
            log_ratio: logp - opponent,
            base_log_ratio: logp - base,
            tokens,
        };
        Triplet { real: scored(self.real), generated: scored(self.generated), base: Some(scored(self.base)) }
    }
}

/// `factor` is what lies between their scaling and ours: `beta^2` for SPPO, which is published divided by it, and `(2 tau)^2`
/// for IPO, which is published divided by that, `beta` being `2 tau`. The others are the same.
#[test]
fn losses_and_derivatives_are_those_of_others() {
    for file in ["trl.json", "torch.json"] {
        let text = std::fs::read(golden("objectives").join(file)).unwrap();
        let cases: Vec<Case> = serde_json::from_slice(&text).unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let (objective, additions) = (case.objective, case.additions());
            let found = Loss { objective, beta: case.beta, additions }.pair(&case.triplet());
            for (what, found, theirs) in [
                ("loss", found.loss, case.loss),
                ("d_real", found.d_real, case.d_real),
                ("d_generated", found.d_generated, case.d_generated),
                ("d_base", found.d_base, case.d_base),
            ] {
                let expected = case.factor * theirs;
                let tolerance = TOLERANCE * expected.abs() + ROUNDING;
                assert!(
                    (found - expected).abs() <= tolerance,
                    "{file}, {objective:?}, {additions:?}: {what} is {found}, not {expected}"
                );
            }
        }
    }
}
