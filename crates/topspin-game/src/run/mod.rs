//! The run: supervised warm-up, then in each iteration rollouts, pairs, training and evaluation.
//!
//! Stages talk through files alone. Each writes its artefacts whole and is entered in `manifest.json`; a finished stage
//! is never done again, so the same call goes on where an earlier one ended, in whatever way it ended.
//!
//! ```text
//! config.toml        the resolved configuration
//! manifest.json      hashes of the inputs, and the state and results of every stage
//! progress.json      while the run is at work: the stage, and how far it is
//! skipped.jsonl      records that were left out, if any
//! base/              the model as it came: evaluation
//! iter-0/            the supervised model: metrics, evaluation, model
//! control-1/ ..      the supervised controls, if there are any: as iter-0
//! iter-1/            the first iteration
//!   rollouts.jsonl   one line per sample of the opponent
//!   real.jsonl       one line per prompt: its real response with the opponent's log-probabilities
//!   base.jsonl       where the loss needs them: responses of the model that the iterations start from
//!   scores.jsonl     one line per response, where there is an explicit score
//!   pairs.jsonl      one line per prompt: its real and generated responses with the opponent's log-probabilities
//!   metrics.jsonl    one line per optimizer step; a function of the inputs alone
//!   throughput.jsonl one line per optimizer step; what the clock said
//!   events.out.tfevents.topspin   the two before for TensorBoard (`output.tensorboard`)
//!   model/           a Hugging Face checkpoint folder, or an adapter's in PEFT's layout, with a `trainer_state.json`
//!   greedy.jsonl, sampled.jsonl   generations of the evaluation
//!   eval.jsonl       one line per test record: what each metric knows of it
//!   eval.json        the figures of the evaluation
//! events.out.tfevents.topspin   all evaluations by iteration for TensorBoard
//! best -> iter-k
//! ```
//!
//! A policy step has neither `real.jsonl` nor `pairs.jsonl`: it trains on samples and their scores.
//!
//! While a stage is at work its folder also holds `*.partial.jsonl` and `state.bin`, what a killed run goes on from.
//!
//! An iteration whose opponent is refreshed (`game.refresh`) is played in rounds. Each has a folder for its rollouts, pairs
//! and metrics, and for the model and the training state with which it ended until the next round has begun from them and
//! ended too. The training of the last round is that of the iteration:
//!
//! ```text
//! iter-1/
//!   round-1/           the stages `iter-1/round-1/rollouts`, `.../pairs`, `.../train`
//!     rollouts.jsonl, real.jsonl, pairs.jsonl, metrics.jsonl, throughput.jsonl
//!   round-2/           the stages `iter-1/round-2/rollouts`, `.../pairs`
//!     rollouts.jsonl, real.jsonl, pairs.jsonl
//!   metrics.jsonl      the stage `iter-1/train`: the steps of all rounds
//!   throughput.jsonl, events.out.tfevents.topspin, model/
//!   greedy.jsonl, sampled.jsonl, eval.jsonl, eval.json
//! ```

mod candidates;
mod error;
mod evaluate;
mod events;
mod guard;
mod items;
mod lines;
mod lineup;
mod manifest;
mod observer;
mod open;
mod pairs;
mod plan;
mod progress;
mod rate;
mod rollouts;
mod round;
mod scores;
mod summary;
#[cfg(test)]
mod tests;
mod train;
mod train_figures;
mod trainer_state;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use serde_json::{Map, Value};
use topspin_files::Lock;
use topspin_kernels::device::{Device, Use};
use topspin_kernels::gemm::Precision;
use topspin_model::adapter::Adapter;
use topspin_model::decoder::Decoder;
use topspin_model::source::ModelFiles;

use crate::config::Config;
pub use candidates::{Candidate, Folder};
pub use error::RunError;
pub use evaluate::Generation;
pub use guard::Fired;
use items::Items;
pub use manifest::{Input, Inputs, Manifest, Records, Stage, State};
pub use observer::{Observer, Silent};
use plan::Work;
use progress::Told;
pub use progress::{Progress, resident_bytes};
pub use rate::product_rate;
pub use rollouts::Rollout;
pub use scores::Judged;
pub use summary::{Row, Summary};

/// Folder of the evaluation of the model as it came.
const BASE: &str = "base";

/// How far a call of [`run`] goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// To the supervised model and its controls.
    Supervised,
    /// To the end of the last iteration.
    End,
}

/// Plays the game that `config` describes, or goes on with it where its folder holds an unfinished one.
///
/// `stop` is looked at between steps: once it is set, the run saves what it has and ends with [`RunError::Stopped`].
pub fn run<D: Device + Clone>(
    device: &D,
    precision: Precision,
    config: &Config,
    until: Until,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<Summary, RunError> {
    let mut run = Run::open(device, precision, config, observer, stop)?;
    for work in std::mem::take(&mut run.plan) {
        if until == Until::Supervised && work.is_played() {
            break;
        }
        let is_new = run.stage(&work)?;
        if let Work::Figures(folder) = &work {
            let summary = run.summary()?;
            if is_new {
                run.tell_iteration(&summary, folder)?;
            }
            run.name_best(&summary)?;
            run.tell_evaluation(folder)?;
            if summary.is_out_of_patience() {
                break;
            }
        }
    }
    let summary = run.summary()?;
    run.observer.leave(summary.is_over());
    Ok(summary)
}

/// The folder of the stage of the run in `dir` whose model is asked for: that of an iteration, or of the best so far.
pub fn stage_of_model(dir: &Path, iteration: Option<usize>) -> Result<String, RunError> {
    let manifest = Manifest::read(dir)?;
    let fail = |problem: String| RunError::NoModel { dir: dir.into(), problem };
    let Some(iteration) = iteration else {
        let best = Summary::read(dir)?.best().map(|row| row.folder.clone());
        return best.ok_or_else(|| fail("no model that is evaluated yet; let it run on".into()));
    };
    let trained = |folder: &str| manifest.figures(&format!("{folder}/train")).is_some();
    let folder = format!("iter-{iteration}");
    if trained(&folder) {
        return Ok(folder);
    }
    let finished = (0..).map(|k| format!("iter-{k}")).take_while(|folder| trained(folder)).count();
    Err(fail(match finished {
        0 => "no finished iteration yet; let it run on".into(),
        1 => format!("no finished iteration {iteration}, but 0 alone"),
        n => format!("no finished iteration {iteration}, but 0 to {}", n - 1),
    }))
}

/// A run at work.
struct Run<'a, D: Device> {
    device: &'a D,
    precision: Precision,
    config: Config,
    dir: PathBuf,
    /// The model that the run starts from.
    base: ModelFiles,
    items: Items,
    manifest: Manifest,
    /// Its stages, in order.
    plan: Vec<Work>,
    /// Operations of matrix products in a second, if any stage is left to do.
    rate: f64,
    observer: Told<'a>,
    stop: &'a AtomicBool,
    _lock: Lock,
}

/// What a finished stage hands over to the manifest.
struct Done {
    /// Artefacts to be hashed, by path within the run's folder.
    files: Vec<String>,
    /// Results in short.
    figures: Map<String, Value>,
    /// Guards that fired.
    guards: Vec<Fired>,
}

impl Done {
    fn new(files: impl IntoIterator<Item = String>, figures: &impl Serialize) -> Self {
        let Ok(Value::Object(figures)) = serde_json::to_value(figures) else {
            unreachable!("figures are structs of numbers")
        };
        Self { files: files.into_iter().collect(), figures, guards: Vec::new() }
    }

    /// With guards that fired.
    fn guarded(self, guards: Vec<Fired>) -> Self {
        Self { guards, ..self }
    }
}

impl<D: Device + Clone> Run<'_, D> {
    /// Does a stage unless it is finished, and enters it in the manifest. Whether it was left to do.
    fn stage(&mut self, work: &Work) -> Result<bool, RunError> {
        let name = work.name();
        let (folder, _) = name.rsplit_once('/').expect("a stage is named by its folder and its work");
        let is_left = self.manifest.figures(&name).is_none();
        if is_left {
            self.check_stop(&name)?;
            self.observer.enter(&name);
            topspin_files::create_dir_all(&self.dir.join(folder))?;
            let done = self.done(work);
            self.observer.end();
            let done = done?;
            let hash = |file: String| Ok((file.clone(), manifest::sha256_of_file(&self.dir.join(file))?));
            let files = done.files.into_iter().map(hash).collect::<Result<_, RunError>>()?;
            self.manifest.finish(&name, files, done.figures, done.guards);
            self.manifest.write(&self.dir)?;
        }
        // Only now, and again if a kill was quicker: until the manifest says otherwise, a stage goes on from these.
        for path in work.leftovers().iter().map(|leftover| self.dir.join(leftover)) {
            if path.is_dir() {
                topspin_files::remove_dir_all(&path)?;
            } else if path.exists() {
                topspin_files::remove_file(&path)?;
            }
        }
        Ok(is_left)
    }

    /// Does the work of a stage.
    fn done(&mut self, work: &Work) -> Result<Done, RunError> {
        match work {
            Work::Supervised => self.supervised(),
            Work::Control(n) => self.control(*n),
            Work::Rollouts(round) => self.rollouts(round),
            Work::Scores(round) => self.scores(round),
            Work::Pairs(round) => self.pairs(round),
            Work::SelfPlay(round) => self.self_play(round),
            Work::Generations(folder, kind) => self.generations(folder, kind),
            Work::Figures(folder) => self.figures(folder),
        }
    }

    /// An error if the caller asked for an early end.
    fn check_stop(&self, stage: &str) -> Result<(), RunError> {
        if self.stop.load(Ordering::Relaxed) { Err(RunError::Stopped { stage: stage.into() }) } else { Ok(()) }
    }

    /// A path in the run's folder.
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The model that the stage folder `of` ended with: a whole one, or an adapter of the one that the run started from.
    fn ended_with(&self, of: &str) -> Result<ModelFiles, RunError> {
        if of == BASE {
            return Ok(self.base.clone());
        }
        candidates::open(&self.path(of).join("model"), || self.below(of))
    }

    /// The model below the adapter of the stage folder `of`: the one that the run started from. Where adapters are merged
    /// they stand by themselves only from round to round, above the model that the iteration started from.
    fn below(&self, of: &str) -> Result<ModelFiles, RunError> {
        match round::iteration_of(of) {
            Some(k) if self.config.adapter.merge => self.ended_with(&format!("iter-{}", k - 1)),
            _ => Ok(self.base.clone()),
        }
    }

    /// The model that the stage folder `of` ended with, to be trained in the stage `number`: all of it, or its adapter, a new
    /// one where one is wanted and there is none yet.
    fn trainee(&self, of: &str, number: u64, for_use: Use) -> Result<Decoder<D>, RunError> {
        let (files, device) = (self.ended_with(of)?, self.device.clone());
        let lora = self.config.adapter.lora();
        if lora.is_none() && files.adapter().is_none() {
            return Ok(files.trainable(device, self.precision, for_use)?);
        }
        let decoder = files.frozen(device, self.precision, self.config.model.weights.laid_out(for_use))?;
        let (Some(lora), None) = (lora, decoder.adapter()) else { return Ok(decoder) };
        let adapter = Adapter::new(lora, decoder.config())?;
        let parameters = adapter.initial(self.config.game.seed, number);
        Ok(decoder.with_adapter(adapter, parameters))
    }
}
