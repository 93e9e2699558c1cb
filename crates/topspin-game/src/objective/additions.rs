//! Additions that go with every objective.

use super::{PairLoss, Triplet};

/// Weights of what is added to an objective; 0 adds nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Additions {
    /// Of the real response's negative log-likelihood per token, `-log p(w) / |w|`: it anchors the policy at the data.
    ///
    /// Source: Pang et al., "Iterative Reasoning Preference Optimization", NeurIPS 2024, arXiv 2404.19733, equation 2.
    pub nll: f64,
    /// Of DPOP's penalty: in the objective the real response's log-ratio `r` becomes `r - dpop * max(0, -r)`, so that a
    /// falling real log-probability cannot be made up for by a generated one that falls faster.
    ///
    /// Source: Pal et al., "Smaug: Fixing Failure Modes of Preference Optimisation with DPO-Positive", 2024, arXiv
    /// 2402.13228, equation 3.
    pub dpop: f64,
    /// Label smoothing: the share, below 1/2, of pairs whose two sides are taken to be exchanged,
    /// `(1 - e) L(w, y) + e L(y, w)`.
    ///
    /// Source: Mitchell, "A note on DPO with noisy preferences and relationship to IPO", 2023.
    pub label_smoothing: f64,
    /// Of `KL(base || p)`, from a response `z` of the base model: `log base(z) - log p(z)`.
    ///
    /// Source, with `reverse_kl`: Tang et al., "RSPO: Regularized Self-Play Alignment of Large Language Models", 2025,
    /// arXiv 2503.00030.
    pub forward_kl: f64,
    /// Of `KL(p || base)`, from the generated response: `e^r log(p(y) / base(y)) - e^r + 1`, where `r` is its log-ratio to
    /// the opponent that it was sampled from. `e^r` turns the opponent's expectation into the policy's; `1 - e^r` has the
    /// expectation 0 and takes noise away. The derivative is `e^r log(p(y) / base(y))`.
    pub reverse_kl: f64,
}

impl Additions {
    /// The cost of `scored` when that of the objective alone is `objective`.
    pub(super) fn extend(self, scored: &Triplet, objective: impl Fn(&Triplet) -> PairLoss) -> PairLoss {
        let mut cost = self.smoothed(scored, |scored| self.penalized(scored, &objective));
        if self.nll > 0.0 {
            let weight = self.nll / scored.real.tokens as f64;
            cost.loss -= weight * scored.real.logp;
            cost.d_real -= weight;
        }
        if self.forward_kl > 0.0 {
            cost.loss -= self.forward_kl * scored.base().base_log_ratio;
            cost.d_base -= self.forward_kl;
        }
        if self.reverse_kl > 0.0 {
            let generated = scored.generated;
            let ratio = generated.log_ratio.exp();
            cost.loss += self.reverse_kl * (ratio * generated.base_log_ratio - ratio + 1.0);
            cost.d_generated += self.reverse_kl * ratio * generated.base_log_ratio;
        }
        cost
    }

    fn penalized(self, scored: &Triplet, objective: impl Fn(&Triplet) -> PairLoss) -> PairLoss {
        let fall = scored.real.log_ratio.min(0.0);
        let mut penalized = *scored;
        penalized.real.log_ratio += self.dpop * fall;
        penalized.real.logp += self.dpop * fall;
        let cost = objective(&penalized);
        let slope = if fall < 0.0 { 1.0 + self.dpop } else { 1.0 };
        PairLoss { d_real: slope * cost.d_real, ..cost }
    }

    fn smoothed(self, scored: &Triplet, objective: impl Fn(&Triplet) -> PairLoss) -> PairLoss {
        let cost = objective(scored);
        if self.label_smoothing == 0.0 {
            return cost;
        }
        let exchanged = objective(&Triplet { real: scored.generated, generated: scored.real, base: scored.base });
        let mix = |cost: f64, exchanged: f64| (1.0 - self.label_smoothing) * cost + self.label_smoothing * exchanged;
        PairLoss {
            loss: mix(cost.loss, exchanged.loss),
            d_real: mix(cost.d_real, exchanged.d_generated),
            d_generated: mix(cost.d_generated, exchanged.d_real),
            d_base: mix(cost.d_base, exchanged.d_base),
        }
    }
}
