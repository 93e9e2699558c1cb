//! The laboratory: self-play where everything can be computed.
//!
//! On tables a policy is a list of log-probabilities ([`Table`]), so the loss of an iteration,
//!
//! `E[loss(w, y, z)]`, `w` from the data, `y` from the opponent, `z` from the base model,
//!
//! is a finite sum, and its minimiser can be computed to rounding error ([`Play`]). What theory says about an objective or an
//! opponent is thereby a test (`laws`). The losses are those of the trainer, the opponents those of a run.
//! [`PolicyStep`] is the other player's step alone. [`Network`] plays the same game with a transformer.

mod game;
#[cfg(test)]
mod laws;
mod minimise;
mod network;
mod play;
mod policy_step;
mod table;

pub use minimise::Found;
pub use network::{Network, NetworkError, NetworkSettings};
pub use play::{Descent, Expectation, Iteration, Play, logistic_law};
pub use policy_step::PolicyStep;
pub use table::{Table, World};
