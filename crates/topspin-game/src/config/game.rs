//! `[game]`: the game itself.

use serde::{Deserialize, Serialize};

use crate::objective::{Additions, Loss, Objective};
use crate::opponent::{Lineup, Opponent, Weights};
use crate::schedule::{PerIteration, Refresh};

/// `[game]`: the game itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Game {
    /// Self-play iterations. Three, as most of the gain comes early; the best one is named, not the last.
    pub iterations: usize,
    /// Who gives the generated responses, and whose log-probabilities are the reference (docs/method.md). The latest model,
    /// as SPIN: on the quick start a history and a mixture ended level with it, the others behind (docs/log.md). With `data` nothing is sampled and an iteration is a round of DPO whose reference is the model before it;
    /// one iteration is DPO itself.
    pub opponent: PerIteration<Opponent>,
    /// In a `history`, the weight of a model beside that of the next younger one. 1: all alike, as fictitious play has it.
    pub history_decay: PerIteration<f64>,
    /// In an `average`, the weight of what was averaged before when a model joins it. A half: the base soon counts for
    /// little.
    pub average_decay: PerIteration<f64>,
    /// In a `mixture`, the exponent of the base, alpha-SPIN's alpha, 0 to 1. The nearer to 1, the nearer the game stays to the
    /// base, and the further from the data.
    pub mixture: PerIteration<f64>,
    /// Weight of the KL term: the larger, the smaller the step. 1: the exact iteration then converges in one step, and
    /// it oscillates below 1/2 (docs/method.md).
    pub beta: PerIteration<f64>,
    /// Loss on the margin. Logistic is SPIN. On the quick start SPPO at beta 0.25 alone ended a little ahead of it, and T-SPIN and
    /// linear collapsed; on restaurant descriptions only T-SPIN, which grew long, was told apart from it (docs/log.md).
    pub objective: PerIteration<Objective>,
    /// Added to the loss: so many times the real response's negative log-likelihood per token, an anchor at the data
    /// (arXiv 2404.19733). 0: none.
    pub nll: PerIteration<f64>,
    /// DPOP's penalty for a real log-probability that falls (arXiv 2402.13228): a fall counts so many times more. 0: none.
    pub dpop: PerIteration<f64>,
    /// Label smoothing: the share of pairs, below 1/2, whose two sides count as exchanged. 0: none.
    pub label_smoothing: PerIteration<f64>,
    /// Added to the loss: so many times `KL(base || policy)`, the base being the model that the iterations start from
    /// (arXiv 2503.00030). It takes a response of the base model to each generated one. 0: none.
    pub forward_kl: PerIteration<f64>,
    /// Added to the loss: so many times `KL(policy || base)`. 0: none.
    pub reverse_kl: PerIteration<f64>,
    /// Responses sampled for each prompt. One, as in the SPIN paper; many help where prompts are few.
    pub samples: PerIteration<usize>,
    /// When, within an iteration, the opponent becomes the model as it stands then, so that new samples are drawn and all
    /// log-probabilities taken anew, while optimizer and learning rate go on: `"never"`; `"epoch"`, before each pass over the
    /// prompts; or a number of optimizer steps, after which the prompts of the next so many steps are answered, which is
    /// online self-play. An opponent of several models gains one. Never, as SPIN: each refresh loads and saves the model once
    /// more, and generates for fewer prompts side by side (docs/log.md).
    pub refresh: PerIteration<Refresh>,
    /// Seed of every random number of the run.
    pub seed: u64,
}

impl Default for Game {
    fn default() -> Self {
        Self {
            iterations: 3,
            opponent: PerIteration::One(Opponent::Latest),
            history_decay: PerIteration::One(1.0),
            average_decay: PerIteration::One(0.5),
            mixture: PerIteration::One(0.1),
            beta: PerIteration::One(1.0),
            objective: PerIteration::One(Objective::Logistic),
            nll: PerIteration::One(0.0),
            dpop: PerIteration::One(0.0),
            label_smoothing: PerIteration::One(0.0),
            forward_kl: PerIteration::One(0.0),
            reverse_kl: PerIteration::One(0.0),
            samples: PerIteration::One(1),
            refresh: PerIteration::One(Refresh::Never),
            seed: 0,
        }
    }
}

impl Game {
    /// The opponent of an iteration before which there are `models` models.
    pub fn lineup(&self, k: usize, models: usize) -> Lineup {
        let weights = Weights {
            history_decay: *self.history_decay.of(k),
            average_decay: *self.average_decay.of(k),
            mixture: *self.mixture.of(k),
        };
        Lineup::new(*self.opponent.of(k), models, weights)
    }

    /// What is added to the objective, with its names.
    pub(super) fn additions(&self) -> [(&'static str, &PerIteration<f64>); 5] {
        [
            ("game.nll", &self.nll),
            ("game.dpop", &self.dpop),
            ("game.label_smoothing", &self.label_smoothing),
            ("game.forward_kl", &self.forward_kl),
            ("game.reverse_kl", &self.reverse_kl),
        ]
    }

    /// Whether rejected responses of the data are played against.
    pub fn takes_rejected(&self) -> bool {
        self.opponent.values().contains(&Opponent::Data)
    }

    /// The loss of iteration `k`, from 1.
    pub fn loss(&self, k: usize) -> Loss {
        let additions = Additions {
            nll: *self.nll.of(k),
            dpop: *self.dpop.of(k),
            label_smoothing: *self.label_smoothing.of(k),
            forward_kl: *self.forward_kl.of(k),
            reverse_kl: *self.reverse_kl.of(k),
        };
        Loss { objective: *self.objective.of(k), beta: *self.beta.of(k), additions }
    }
}
