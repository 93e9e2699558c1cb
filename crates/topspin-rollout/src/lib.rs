//! Continuous-batching generation, and scoring of given responses in the same steps.
//!
//! A pool of live sequences moves on by one token a step; when one ends, the next request takes its place at once. A
//! step is one batch of rows, in which prompts and continuing sequences stand side by side. The responses to
//! one prompt share its keys and values. One that is given, and of which only the log-probabilities are wanted, is a
//! sequence whose tokens are known: as many of its rows go into a step as there is room for.
//!
//! | part | what it does |
//! |---|---|
//! | [`Request`], [`Completion`] | what comes in, what goes out |
//! | `Sequence` | one response in the making |
//! | `BlockManager` | which key/value slots are whose |
//! | `Scheduler` | which rows make up the next step |
//! | [`Sampler`] | a token from a row of logits |
//! | [`Engine`] | `step`: schedule, run, postprocess |
//!
//! A completion is a function of the model, the request and the [`EngineSettings`]' sampling, seed and iteration, to the
//! bit: neither the other requests, nor their order, nor the sizes of pool, steps and store, nor threads have a say.

mod block_manager;
mod engine;
mod error;
mod sampler;
mod scheduler;
mod sequence;

pub use engine::{Engine, EngineSettings, Event, Progress};
pub use error::RolloutError;
pub use sampler::{Sampler, Sampling};
pub use sequence::{Completion, Finish, Request, SampleKey, Task};
