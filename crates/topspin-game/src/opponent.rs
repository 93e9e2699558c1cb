//! Opponents: which of the past models answer, and what the loss takes as their log-probability.
//!
//! An opponent is described by the models that there are, the base first (the one that the iterations start from) and the
//! latest last. It says which of them sample, each with which share, and what the reference's log-probability of a response
//! is, given those of the models. The description knows neither files nor tables, so a run and the laboratory share it.

use serde::{Deserialize, Serialize};

/// Who gives the generated responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Opponent {
    /// The model as it stood before the iteration: SPIN.
    Latest,
    /// The latest model, and the responses that the one before it gave in its iteration, with the latest as the reference:
    /// the recipe of the SPIN authors.
    LatestTwo,
    /// All models so far, each response from one that is drawn by its weight: fictitious play. The reference is their
    /// mixture, the density that the responses are drawn from.
    History,
    /// The model that the iterations start from.
    Base,
    /// A model whose parameters are the exponential moving average of those of all models so far.
    Average,
    /// The latest model, with a geometric mixture of it and the base as the reference: alpha-SPIN (arXiv 2404.04291).
    Mixture,
    /// The data: rejected responses of preference pairs, with the latest model as the reference.
    Data,
}

impl Opponent {
    /// Every opponent there is.
    pub const ALL: [Self; 7] =
        [Self::Latest, Self::LatestTwo, Self::History, Self::Base, Self::Average, Self::Mixture, Self::Data];
}

/// How the models of an opponent weigh against each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    /// In a history, the weight of a model beside that of the next younger one; 1: all alike.
    pub history_decay: f64,
    /// In a moving average, the weight of what was averaged before, below 1.
    pub average_decay: f64,
    /// In a geometric mixture, the exponent of the base, 0 to 1.
    pub mixture: f64,
}

/// One who answers or is the reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Player {
    /// A model, by its index: 0 is the base.
    Model(usize),
    /// The moving average of the models.
    Average,
}

/// An opponent, with as many models as there are.
#[derive(Clone, Debug, PartialEq)]
pub struct Lineup {
    /// Who gives the generated responses.
    opponent: Opponent,
    /// Who samples, each with the share of samples. The shares sum to 1.
    pub players: Vec<(Player, f64)>,
    /// Whose log-probabilities stand in the loss.
    pub reference: Reference,
    /// The weights of the models' parameters in [`Player::Average`]. They sum to 1.
    pub average: Vec<f64>,
}

/// A distribution over responses, made of those of players. The weights sum to 1.
#[derive(Clone, Debug, PartialEq)]
pub enum Reference {
    /// `sum_i w_i p_i(y)`: with one player its own distribution.
    Arithmetic(Vec<(Player, f64)>),
    /// `prod_i p_i(y)^w_i`, without its constant, which cancels in the margin of a pair.
    Geometric(Vec<(Player, f64)>),
}

impl Lineup {
    /// The opponent of an iteration before which there are `models` models.
    ///
    /// # Panics
    /// If there are none.
    pub fn new(opponent: Opponent, models: usize, weights: Weights) -> Self {
        assert!(models > 0, "a game starts from a model");
        let (base, latest) = (Player::Model(0), Player::Model(models - 1));
        let alone = |player| (vec![(player, 1.0)], Reference::Arithmetic(vec![(player, 1.0)]));
        let (players, reference) = match opponent {
            Opponent::LatestTwo if models > 1 => {
                let players = vec![(latest, 0.5), (Player::Model(models - 2), 0.5)];
                (players, Reference::Arithmetic(vec![(latest, 1.0)]))
            }
            Opponent::Latest | Opponent::LatestTwo | Opponent::Data => alone(latest),
            Opponent::Base => alone(base),
            Opponent::Average => alone(if models == 1 { latest } else { Player::Average }),
            Opponent::History => {
                let shares = (0..models).map(|model| weights.history_decay.powi((models - 1 - model) as i32));
                let shares = normalized(shares.collect());
                let players: Vec<_> = shares.into_iter().enumerate().map(|(i, w)| (Player::Model(i), w)).collect();
                (players.clone(), Reference::Arithmetic(players))
            }
            Opponent::Mixture if models > 1 => {
                let exponents = vec![(base, weights.mixture), (latest, 1.0 - weights.mixture)];
                (vec![(latest, 1.0)], Reference::Geometric(exponents))
            }
            Opponent::Mixture => alone(latest),
        };
        // Unrolled: a_1 = p_0, a_k = decay a_(k-1) + (1 - decay) p_(k-1).
        let average = (0..models).map(|model| {
            let new = if model == 0 { 1.0 } else { 1.0 - weights.average_decay };
            new * weights.average_decay.powi((models - 1 - model) as i32)
        });
        Self { opponent, players, reference, average: average.collect() }
    }

    /// Whether the base alone answers: then a response of it is a response of the base's, and no other is wanted beside it.
    pub fn is_base(&self) -> bool {
        self.opponent != Opponent::Data && self.players == [(Player::Model(0), 1.0)]
    }

    /// The player whose turn a uniform number of `[0, 1)` says it is.
    pub fn draw(&self, uniform: f64) -> Player {
        let mut below = 0.0;
        let reached = self.players.iter().find(|(_, share)| {
            below += share;
            uniform < below
        });
        // Shares may sum to a little less than 1.
        reached.unwrap_or(&self.players[self.players.len() - 1]).0
    }
}

impl Reference {
    /// Those whose log-probabilities it is made of.
    pub fn players(&self) -> impl Iterator<Item = Player> + '_ {
        let (Self::Arithmetic(parts) | Self::Geometric(parts)) = self;
        parts.iter().map(|&(player, _)| player)
    }

    /// Whether the samples of `lineup` are drawn from this very distribution.
    pub fn is_sampled_by(&self, players: &[(Player, f64)]) -> bool {
        matches!(self, Self::Arithmetic(parts) if parts == players)
    }

    /// Log-probability of a response, or of the beginning of one, from those of the players.
    pub fn logprob(&self, of: impl Fn(Player) -> f64) -> f64 {
        match self {
            Self::Arithmetic(parts) => match parts[..] {
                // As it is, to the bit.
                [(player, _)] => of(player),
                _ => log_sum_exp(parts.iter().map(|&(player, weight)| weight.ln() + of(player)).collect()),
            },
            Self::Geometric(parts) => parts.iter().map(|&(player, weight)| weight * of(player)).sum(),
        }
    }

    /// Log-probability of each token given those before it, in nats, from those that the players gave to them. They sum to
    /// [`logprob`](Self::logprob) of the whole response.
    pub fn logprobs<'a>(&self, tokens: usize, of: impl Fn(Player) -> &'a [f32]) -> Vec<f32> {
        if let Self::Arithmetic(parts) = self
            && let [(player, _)] = parts[..]
        {
            return of(player).to_vec();
        }
        let until = |player, end: usize| of(player)[..end].iter().map(|&logprob| f64::from(logprob)).sum();
        // The mixture of sequences, not of next tokens: what came before says which player it may be.
        let sums: Vec<_> = (0..=tokens).map(|end| self.logprob(|player| until(player, end))).collect();
        sums.windows(2).map(|ends| (ends[1] - ends[0]) as f32).collect()
    }
}

fn normalized(weights: Vec<f64>) -> Vec<f64> {
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

fn log_sum_exp(values: Vec<f64>) -> f64 {
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY {
        return max;
    }
    max + values.iter().map(|value| (value - max).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn weights() -> impl Strategy<Value = Weights> {
        (0.05..1.0f64, 0.0..0.95f64, 0.0..1.0f64).prop_map(|(history_decay, average_decay, mixture)| Weights {
            history_decay,
            average_decay,
            mixture,
        })
    }

    proptest! {
        #[test]
        fn shares_and_weights_sum_to_one(weights in weights(), models in 1..9usize) {
            for opponent in Opponent::ALL {
                let lineup = Lineup::new(opponent, models, weights);
                let (Reference::Arithmetic(parts) | Reference::Geometric(parts)) = &lineup.reference;
                let parts = parts.iter().map(|part| part.1);
                for all in [parts.collect(), lineup.players.iter().map(|player| player.1).collect(), lineup.average] {
                    prop_assert!((all.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{opponent:?}: {all:?}");
                }
            }
        }

        /// The average that is updated iteration by iteration.
        #[test]
        fn the_average_is_the_moving_one(weights in weights(), values in prop::collection::vec(-2.0..2.0f64, 1..9)) {
            let Weights { average_decay: decay, .. } = weights;
            let moving = values[1..].iter().fold(values[0], |average, value| decay * average + (1.0 - decay) * value);
            let average = Lineup::new(Opponent::Average, values.len(), weights).average;
            let found: f64 = average.iter().zip(&values).map(|(weight, value)| weight * value).sum();
            prop_assert!((found - moving).abs() < 1e-12);
        }

        #[test]
        fn players_are_drawn_by_their_shares(weights in weights(), models in 1..6usize) {
            let lineup = Lineup::new(Opponent::History, models, weights);
            let draws = 2000;
            for &(player, share) in &lineup.players {
                let drawn = (0..draws).filter(|&at| lineup.draw((f64::from(at) + 0.5) / f64::from(draws)) == player).count();
                prop_assert!((drawn as f64 / f64::from(draws) - share).abs() < 2.0 / f64::from(draws));
            }
        }

        /// Token by token it is the density of the whole response: by the definition, without logarithms.
        #[test]
        fn a_history_has_the_density_of_its_mixture(
            weights in weights(),
            logprobs in prop::collection::vec(prop::collection::vec(-3.0f32..-0.01, 6), 2..5),
            tokens in 1..7usize,
        ) {
            let models = logprobs.len();
            let lineup = Lineup::new(Opponent::History, models, weights);
            let of = |player: Player| match player {
                Player::Model(model) => &logprobs[model][..tokens],
                Player::Average => unreachable!("a history has models alone"),
            };
            let density = |end: usize| -> f64 {
                let total: f64 = (0..models).map(|i| weights.history_decay.powi((models - 1 - i) as i32)).sum();
                let of_model = |i: usize| -> f64 {
                    let product: f64 = logprobs[i][..end].iter().map(|&l| f64::from(l).exp()).product();
                    weights.history_decay.powi((models - 1 - i) as i32) / total * product
                };
                (0..models).map(of_model).sum()
            };
            let found = lineup.reference.logprobs(tokens, of);
            for (at, &logprob) in found.iter().enumerate() {
                let expected = (density(at + 1) / density(at)).ln();
                prop_assert!((f64::from(logprob) - expected).abs() < 1e-5, "{logprob} {expected}");
            }
        }

        #[test]
        fn a_geometric_mixture_lies_between_its_parts(weights in weights(), base in -9.0f32..0.0, latest in -9.0f32..0.0) {
            let lineup = Lineup::new(Opponent::Mixture, 4, weights);
            let logprobs = [[base], [latest]];
            let of = |player| &logprobs[usize::from(player == Player::Model(3))][..];
            let found = f64::from(lineup.reference.logprobs(1, of)[0]);
            let expected = weights.mixture * f64::from(base) + (1.0 - weights.mixture) * f64::from(latest);
            prop_assert!((found - expected).abs() < 1e-5);
            prop_assert_eq!(&lineup.players, &[(Player::Model(3), 1.0)]);
        }
    }

    #[test]
    fn before_the_first_iteration_all_are_one() {
        let weights = Weights { history_decay: 0.5, average_decay: 0.5, mixture: 0.5 };
        for opponent in Opponent::ALL {
            let lineup = Lineup::new(opponent, 1, weights);
            assert_eq!(lineup.players, [(Player::Model(0), 1.0)], "{opponent:?}");
            assert_eq!(lineup.is_base(), opponent != Opponent::Data, "rejected responses are not the base's");
            assert_eq!(lineup.reference, Reference::Arithmetic(lineup.players.clone()), "{opponent:?}");
        }
    }
}
