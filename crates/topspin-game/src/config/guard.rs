//! `[guard]`: when an iteration is thought to do harm.

use serde::{Deserialize, Serialize};

/// `[guard]`: signs that an iteration does harm. What fires is said at once, recorded in `manifest.json` and shown with the
/// results; only `gradient` and numbers that are not finite end a run. Each key is a threshold, and 0 switches its guard off. Two
/// guards need none: a loss that ends above its start, and an `eval.best` that got worse by more than both intervals. These settings
/// may change in the middle of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Guard {
    /// Nats a token by which the log-probability of real responses may fall below the reference's, on average over a quarter of
    /// the steps. 0.1: it falls a little where the model gives up mass to answers that the data lack; where an iteration collapsed
    /// it fell by 0.15 (docs/method.md).
    pub real_fall: f64,
    /// Share of pairs told apart, on average over a quarter of the steps, from which on nothing is left to learn.
    pub accuracy: f64,
    /// Share of pairs in which the same side is the longer one, from which on length alone tells them apart.
    pub longer: f64,
    /// Difference between the shares of real and generated responses cut at the length limit, above which the end alone tells them
    /// apart.
    pub cut: f64,
    /// Factor by which the mean length of generated responses may differ, either way, from that of real ones, and from that of the
    /// iteration before unless it has come nearer to them. 1.75: a game that went well began at 1.6 and swung by 1.4; one that
    /// collapsed swung by 1.9.
    pub length: f64,
    /// Share of their variety that generated responses may lack beside real ones, or lose from one iteration to the next: of distinct
    /// pairs of tokens among all pairs of tokens. A half: samples of games that went well had 0.7 of the data's and
    /// more, and those of collapsed ones 0.4.
    pub distinct: f64,
    /// Factor by which the norm of a step's gradient may exceed what is usual in its stage: the median of the steps before it, ten at
    /// least, or 1 if that is larger. A longer one ends the run before the step is made. 1000: clipping (`train.clip`) takes care of
    /// single long ones, which were up to 130 times the usual in games that went well.
    pub gradient: f64,
}

impl Default for Guard {
    fn default() -> Self {
        Self { real_fall: 0.1, accuracy: 0.98, longer: 0.9, cut: 0.2, length: 1.75, distinct: 0.5, gradient: 1000.0 }
    }
}
