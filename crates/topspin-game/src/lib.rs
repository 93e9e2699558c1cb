//! Self-play: objectives, pairs, tree batches, the trainer, the run and its stages.

pub mod card;
pub mod checkpoint;
pub mod command;
pub mod config;
pub mod judge;
pub mod lab;
pub mod metrics;
pub mod moment;
pub mod objective;
pub mod opponent;
pub mod optimizer;
pub mod order;
pub mod pair;
pub mod policy;
pub mod quickstart;
pub mod run;
pub mod schedule;
pub mod score;
pub mod scorer;
mod tensorboard;
pub mod trainer;
pub mod tree;
