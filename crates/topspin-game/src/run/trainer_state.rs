//! `trainer_state.json`: the course of a training stage as transformers' `Trainer` writes it beside a checkpoint, for tools that
//! draw its `log_history`.
//!
//! It is a function of the run's inputs alone. So it has no counts of the clock or of hardware, and says nothing of the best
//! checkpoint: that is named by evaluations, which come later, and by settings that may change (`eval.best`).

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;
use topspin_files::FileError;

use super::lines::write_json;
use crate::metrics::StepMetrics;

/// Fields of transformers' `TrainerState`, in its order, which is the alphabet's.
#[derive(Serialize)]
pub(super) struct TrainerState {
    best_global_step: Option<u32>,
    best_metric: Option<f64>,
    best_model_checkpoint: Option<String>,
    epoch: f64,
    eval_steps: u32,
    global_step: u32,
    is_hyper_param_search: bool,
    is_local_process_zero: bool,
    is_world_process_zero: bool,
    log_history: Vec<BTreeMap<String, Value>>,
    logging_steps: u32,
    max_steps: u32,
    num_input_tokens_seen: u64,
    num_train_epochs: usize,
    save_steps: u32,
    stateful_callbacks: BTreeMap<String, Value>,
    total_flos: f64,
    train_batch_size: usize,
    trial_name: Option<String>,
    trial_params: Option<Value>,
}

impl TrainerState {
    /// That of a stage that took the steps of `history` in `epochs` passes.
    pub fn new(history: &[StepMetrics], epochs: usize, batch: usize) -> Self {
        let steps = history.len() as u32;
        let epoch = |step: u32| f64::from(step) * epochs as f64 / f64::from(steps);
        let entry = |metrics: &StepMetrics| {
            let figures = metrics.figures().into_iter().map(|(name, value)| (theirs(&name), value.into()));
            let place = [("epoch".into(), epoch(metrics.step).into()), ("step".into(), metrics.step.into())];
            figures.chain(place).collect()
        };
        Self {
            best_global_step: None,
            best_metric: None,
            best_model_checkpoint: None,
            epoch: if steps > 0 { epoch(steps) } else { 0.0 },
            // Evaluated and saved at its end.
            eval_steps: steps,
            global_step: steps,
            is_hyper_param_search: false,
            is_local_process_zero: true,
            is_world_process_zero: true,
            log_history: history.iter().map(entry).collect(),
            logging_steps: 1,
            max_steps: steps,
            num_input_tokens_seen: 0,
            num_train_epochs: epochs,
            save_steps: steps,
            stateful_callbacks: BTreeMap::new(),
            total_flos: 0.0,
            train_batch_size: batch,
            trial_name: None,
            trial_params: None,
        }
    }

    /// Writes it into the folder of a model.
    pub fn write(&self, model: &Path) -> Result<(), FileError> {
        write_json(&model.join("trainer_state.json"), self)
    }
}

/// What transformers calls a figure of a step: as we do, but without a group for those of every training.
fn theirs(name: &str) -> String {
    name.strip_prefix("train/").unwrap_or(name).into()
}
