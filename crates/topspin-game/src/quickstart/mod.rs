//! The quick start: a whole run that needs no download and no file.
//!
//! A small transformer knows its subject but has bad habits of speech ([`task`]). It gets twelve clean examples.
//! Supervised fine-tuning on twelve examples memorises them; self-play on the same twelve, against the model's own
//! answers, learns what they have in common. This module makes the model and the data; the rest is an ordinary run
//! ([`crate::run`]) with the settings of [`config`].

mod base;
pub mod task;

pub(crate) use base::random_parameters;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde_json::json;
use topspin_files::FileError;
use topspin_kernels::device::Device;
use topspin_model::error::ModelError;

use crate::config::{Config, Control, Goal, OptimizerKind};
use crate::run::Observer;
use crate::schedule::PerIteration;
use crate::trainer::TrainError;
use task::Question;

/// Questions that the base model learns from, with its habits.
const BASE_QUESTIONS: usize = 8000;
/// Clean examples for the supervised stage and for self-play. The fewer, the more self-play adds.
const EXAMPLES: usize = 12;
/// Questions that no stage trains on.
const TEST_QUESTIONS: usize = 400;
/// Longest answer in characters, its habit and the end token included, with room to spare.
const MAX_ANSWER: usize = 48;

/// Why the quick start could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum QuickstartError {
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The model could not be saved.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The base model could not be trained.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The caller asked for an early end.
    #[error("stopped while the base model was trained; the same command starts it over")]
    Stopped,
}

/// Where the parts lie within the quick start's folder.
struct Places {
    start: PathBuf,
    run: PathBuf,
    model: PathBuf,
    train: PathBuf,
    test: PathBuf,
}

impl Places {
    fn of(dir: &Path) -> Self {
        let start = dir.join("start");
        Self {
            model: start.join("model"),
            train: start.join("train.jsonl"),
            test: start.join("test.jsonl"),
            run: dir.join("run"),
            start,
        }
    }
}

/// Writes the data and trains the base model, unless they are there: `start/` in `dir`.
pub fn prepare<D: Device + Clone>(
    device: &D,
    dir: &Path,
    seed: u64,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<(), QuickstartError> {
    let places = Places::of(dir);
    let questions = task::questions(BASE_QUESTIONS + EXAMPLES + TEST_QUESTIONS, seed);
    let (base, rest) = questions.split_at(BASE_QUESTIONS);
    let (examples, test) = rest.split_at(EXAMPLES);
    topspin_files::create_dir_all(&places.start)?;
    write_questions(&places.train, examples)?;
    write_questions(&places.test, test)?;
    if !places.model.exists() {
        topspin_files::write_dir_atomic(&places.model, |model| base::train(device, base, seed, model, observer, stop))?;
    }
    Ok(())
}

fn write_questions(path: &Path, questions: &[Question]) -> Result<(), FileError> {
    topspin_files::write_atomic(path, |out| {
        questions.iter().try_for_each(|Question { prompt, answer }| {
            writeln!(out, "{}", json!({ "prompt": prompt, "response": answer }))
        })
    })
}

/// The configuration of the quick start's run, `run/` in `dir`.
pub fn config(dir: &Path, seed: u64) -> Config {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let places = Places::of(dir);
    let mut config = Config::default();
    config.model.path = text(&places.model);
    config.data.train = text(&places.train).into();
    config.data.test = text(&places.test);
    config.sft.epochs = 3;
    config.sft.lr = 5e-4;
    config.sft.warmup = 0.0;
    config.sft.batch = EXAMPLES;
    // The shorter and hotter, and the longer and cooler with about the compute of self-play.
    config.sft.controls = vec![Control { epochs: 200, lr: 2e-4 }, Control { epochs: 600, lr: 5e-5 }];
    config.game.iterations = 5;
    // The strongest knob: with few prompts, many samples are what shows the habit.
    config.game.samples = PerIteration::One(256);
    config.game.seed = seed;
    config.rollout.max_new_tokens = MAX_ANSWER;
    config.rollout.live_sequences = 256;
    config.train.optimizer = PerIteration::One(OptimizerKind::AdamW);
    config.train.lr = PerIteration::Each(vec![5e-4, 4e-4, 3e-4, 2e-4, 1e-4]);
    config.train.epochs = PerIteration::One(2);
    // Later iterations have a handful of steps: none to spare for a warm-up.
    config.train.warmup = PerIteration::One(0.0);
    config.train.batch_pairs = PerIteration::One(64);
    // Steps that see all twelve prompts.
    config.train.pairs_per_prompt = PerIteration::One(1);
    config.eval.prompts = 0;
    // The answer is the only right one, so this is KL(p_data || p).
    config.eval.best = "nll.per_response".into();
    config.eval.goal = Goal::Lowest;
    config.output.dir = text(&places.run);
    config
}
