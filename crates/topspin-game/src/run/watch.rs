//! Watches the steps of a stage of training while they are made.

use std::collections::VecDeque;

use super::guard::Fired;
use crate::config::Guard;
use crate::metrics::{GameMetrics, StepMetrics};
use crate::trainer::Gradient;

/// Steps before there is a usual norm of the gradient.
const SETTLED: usize = 10;
/// A norm that is no more than usual, whatever the stage: where most pairs are told apart gradients are next to nothing, and
/// one that is not is no explosion. Clipping has it by custom.
const UNIT: f64 = 1.0;

/// What a stage has shown so far. It is a function of the steps' metrics, so a stage that went on fires what one that was never
/// stopped fires.
pub(super) struct Watch {
    guard: Guard,
    game: Option<Scale>,
    /// Steps of which a mean is taken: a quarter of the stage's, as in its results.
    window: usize,
    last: VecDeque<GameMetrics>,
    /// Norms of the gradients in ascending order.
    norms: Vec<f64>,
    fired: Vec<Fired>,
}

/// What the rewards of a stage of self-play are measured by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    /// The weight in them.
    pub beta: f64,
    /// Mean length of real responses in tokens.
    pub real_tokens: f64,
}

/// A step that must not be made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Exploding {
    /// The norm of its gradient.
    pub norm: f64,
    /// What is usual, at least [`UNIT`].
    pub usual: f64,
}

impl Watch {
    /// Before the first step of a stage of `total`; `game` if it is self-play.
    pub fn new(guard: Guard, total: u32, game: Option<Scale>) -> Self {
        let window = (total as usize).div_ceil(4);
        Self { guard, game, window, last: VecDeque::new(), norms: Vec::new(), fired: Vec::new() }
    }

    /// Whether the next step's gradient, of this norm, is beyond what is usual.
    pub fn exploding(&self, norm: f64) -> Option<Exploding> {
        if self.guard.gradient == 0.0 || self.norms.len() < SETTLED {
            return None;
        }
        let usual = median(&self.norms).max(UNIT);
        (norm > self.guard.gradient * usual).then_some(Exploding { norm, usual })
    }

    /// Takes a step that was made, and gives back what fired at it.
    pub fn step(&mut self, metrics: &StepMetrics) -> &[Fired] {
        let before = self.fired.len();
        let at = self.norms.partition_point(|&norm| norm < metrics.grad_norm);
        self.norms.insert(at, metrics.grad_norm);
        if let (Some(game), Some(scale)) = (metrics.game, self.game) {
            self.last.push_back(game);
            if self.last.len() > self.window {
                self.last.pop_front();
            }
            if self.last.len() == self.window {
                self.look(metrics.step, scale);
            }
        }
        &self.fired[before..]
    }

    /// All that fired.
    pub fn fired(self) -> Vec<Fired> {
        self.fired
    }

    /// Looks at the last steps; each guard fires once.
    fn look(&mut self, step: u32, scale: Scale) {
        let mean = |of: &dyn Fn(&GameMetrics) -> f64| self.last.iter().map(of).sum::<f64>() / self.last.len() as f64;
        let fall = -mean(&|game| game.reward_real) / scale.beta;
        let accuracy = mean(&|game| game.accuracy);
        let mut fire = |guard: &str, sentence: String| {
            if !self.fired.iter().any(|fired| fired.guard == guard) {
                self.fired.push(Fired { step: Some(step), ..Fired::new(guard, sentence) });
            }
        };
        if self.guard.real_fall > 0.0 && fall > self.guard.real_fall * scale.real_tokens {
            fire(
                "real_fall",
                format!(
                    "the log-probability of real responses is {fall:.2} nats ({:.2} a token) below its start: the model is \
                     pushed away from good responses too; a larger `game.beta` or a smaller `train.lr` takes smaller steps",
                    fall / scale.real_tokens
                ),
            );
        }
        if self.guard.accuracy > 0.0 && accuracy >= self.guard.accuracy {
            fire(
                "accuracy",
                format!(
                    "{:.1}% of pairs are told apart: there is nothing left to learn from these samples",
                    100.0 * accuracy
                ),
            );
        }
    }
}

/// A way in which training gets lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Divergence {
    /// The loss of a step is not finite.
    Loss,
    /// Its gradient is not finite.
    Gradient,
    /// Its gradient is far longer than usual.
    Exploding(Exploding),
    /// The parameters behind it are not finite.
    Parameters,
}

impl Divergence {
    /// What is wrong at `step`.
    pub fn sentence(self, step: u32, stage: &str) -> String {
        let of = format!("of step {step} of `{stage}`");
        match self {
            Self::Loss => format!("the loss {of} is not a finite number"),
            Self::Gradient => format!("the gradient {of} is not finite"),
            Self::Exploding(Exploding { norm, usual }) => {
                format!("the gradient {of} has the norm {norm:.3e}, {:.0} times the usual {usual:.3e}", norm / usual)
            }
            Self::Parameters => format!("the parameters behind step {step} of `{stage}` are not finite"),
        }
    }
}

/// Why the step of a gradient must not be made.
pub(super) fn divergence(gradient: &Gradient, watch: &Watch) -> Option<Divergence> {
    match gradient {
        Gradient { loss, .. } if !loss.is_finite() => Some(Divergence::Loss),
        Gradient { norm, .. } if !norm.is_finite() => Some(Divergence::Gradient),
        Gradient { norm, .. } => watch.exploding(*norm).map(Divergence::Exploding),
    }
}

/// The middle of values in ascending order; of an even number the lower of the two.
fn median(sorted: &[f64]) -> f64 {
    sorted[(sorted.len() - 1) / 2]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SCALE: Scale = Scale { beta: 0.5, real_tokens: 37.0 };

    fn step(step: u32, real_change: f64, accuracy: f64, grad_norm: f64) -> StepMetrics {
        let game = GameMetrics {
            reward_real: SCALE.beta * real_change,
            reward_generated: -3.0,
            accuracy,
            margin: 1.0,
            logp_real: -40.0,
            logp_generated: -50.0,
        };
        StepMetrics { step, loss: 0.5, game: Some(game), fit: None, grad_norm, lr: 1e-6 }
    }

    /// What fires in a stage of 40 steps, with the step at which it is said.
    fn watched(guard: Guard, of: impl Fn(u32) -> StepMetrics) -> Vec<(u32, Fired)> {
        let mut watch = Watch::new(guard, 40, Some(SCALE));
        let mut said = Vec::new();
        for at in 1..=40 {
            assert_eq!(watch.exploding(of(at).grad_norm), None);
            said.extend(watch.step(&of(at)).iter().map(|fired| (at, fired.clone())));
        }
        let all: Vec<_> = said.iter().map(|(_, fired)| fired.clone()).collect();
        assert_eq!(watch.fired(), all);
        said
    }

    #[test]
    fn a_healthy_stage_fires_nothing() {
        // Single steps may be anything.
        let healthy = |at: u32| match at {
            20 => step(at, -20.0, 1.0, 90.0),
            _ => step(at, -1.2, 0.85, 1.0 + f64::from(at % 7)),
        };
        assert_eq!(watched(Guard::default(), healthy), []);
        let supervised = |at| StepMetrics { game: None, ..step(at, -30.0, 1.0, 2.0) };
        assert_eq!(watched(Guard::default(), supervised), []);
    }

    #[test]
    fn a_collapse_is_said_once_and_where_it_is_seen() {
        // The real log-probability falls by 0.2 nats with each step: -3.9 on average over the ten steps to the 24th.
        let fall = |at: u32| step(at, -0.2 * f64::from(at), 0.9, 1.0);
        let said = watched(Guard::default(), fall);
        assert_eq!(said.len(), 1, "{said:?}");
        let (at, fired) = &said[0];
        assert_eq!((*at, fired.step, fired.guard.as_str()), (24, Some(24), "real_fall"));
        let told = fired.told("iter-2/train");
        let expected =
            "iter-2/train, step 24: the log-probability of real responses is 3.90 nats (0.11 a token) below its start";
        assert!(told.starts_with(expected), "{told}");
        assert_eq!(watched(Guard { real_fall: 0.3, ..Guard::default() }, fall), []);
        assert_eq!(watched(Guard { real_fall: 0.0, ..Guard::default() }, |at| step(at, -90.0, 0.9, 1.0)), []);
    }

    #[test]
    fn an_accuracy_of_1_is_said_once() {
        let saturated = |at: u32| step(at, 0.5, if at < 15 { 0.6 } else { 1.0 }, 1.0);
        let said = watched(Guard::default(), saturated);
        assert_eq!(said.len(), 1, "{said:?}");
        assert_eq!((said[0].0, said[0].1.guard.as_str()), (24, "accuracy"));
        assert!(said[0].1.sentence.starts_with("100.0% of pairs are told apart"), "{said:?}");
        assert_eq!(watched(Guard { accuracy: 0.0, ..Guard::default() }, saturated), []);
    }

    #[test]
    fn a_gradient_far_beyond_the_usual_explodes() {
        let mut watch = Watch::new(Guard::default(), 40, None);
        for at in 1..10 {
            watch.step(&step(at, 0.0, 0.5, f64::from(at)));
            // Too early to say what is usual.
            assert_eq!(watch.exploding(1e9), None);
        }
        watch.step(&step(10, 0.0, 0.5, 10.0));
        assert_eq!(watch.exploding(4999.0), None);
        assert_eq!(watch.exploding(5001.0), Some(Exploding { norm: 5001.0, usual: 5.0 }));
        // Pairs that are told apart have hardly a gradient, and one that is not has the usual one.
        for at in 11..40 {
            watch.step(&step(at, 0.0, 1.0, 1e-9));
        }
        assert_eq!(watch.exploding(999.0), None);
        assert!(watch.exploding(1001.0).is_some());
        let mut off = Watch::new(Guard { gradient: 0.0, ..Guard::default() }, 40, None);
        for at in 1..=20 {
            off.step(&step(at, 0.0, 0.5, 1.0));
        }
        assert_eq!(off.exploding(1e30), None);
    }

    proptest! {
        /// The norms are kept in order, whatever order they come in.
        #[test]
        fn the_usual_norm_is_a_median(norms in prop::collection::vec(0.5..9.0f64, SETTLED..60)) {
            let mut watch = Watch::new(Guard { gradient: 2.0, ..Guard::default() }, 100, None);
            for (&norm, at) in norms.iter().zip(1..) {
                watch.step(&step(at, 0.0, 0.5, norm));
            }
            // Slow and obvious: the least value that half of them do not exceed.
            let half = |x: f64| 2 * norms.iter().filter(|&&norm| norm <= x).count() >= norms.len();
            let usual = norms.iter().copied().filter(|&x| half(x)).fold(f64::INFINITY, f64::min).max(1.0);
            prop_assert_eq!(watch.exploding(2.0 * usual), None);
            prop_assert_eq!(watch.exploding(2.01 * usual), Some(Exploding { norm: 2.01 * usual, usual }));
        }
    }
}
