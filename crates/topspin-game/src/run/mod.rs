//! The run: supervised warm-up, then in each iteration rollouts, pairs, training and evaluation.
//!
//! Stages talk through files alone. Each writes its artefacts whole and is entered in `manifest.json`; a finished stage
//! is never done again, so the same call goes on where an earlier one ended, in whatever way it ended.
//!
//! ```text
//! config.toml        the resolved configuration
//! manifest.json      hashes of the inputs, and the state and results of every stage
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
//!   model/           a Hugging Face checkpoint folder, or an adapter's in PEFT's layout
//!   greedy.jsonl, sampled.jsonl   generations of the evaluation
//!   eval.json        its figures
//! best -> iter-k
//! ```
//!
//! A policy step has neither `real.jsonl` nor `pairs.jsonl`: it trains on samples and their scores.
//!
//! While a stage is at work its folder also holds `*.partial.jsonl` and `state.bin`, what a killed run goes on from.

mod command;
mod error;
mod evaluate;
mod guard;
mod items;
mod lines;
mod lineup;
mod manifest;
mod observer;
mod open;
mod pairs;
mod rate;
mod rollouts;
mod scorer;
mod scores;
mod summary;
#[cfg(test)]
mod tests;
mod train;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use serde_json::{Map, Value};
use topspin_files::Lock;
use topspin_kernels::device::{Device, Use};
use topspin_kernels::gemm::Precision;
use topspin_model::adapter::{Adapter, AdapterFiles};
use topspin_model::decoder::Decoder;
use topspin_model::source::{ModelFiles, ModelSource};

use crate::config::Config;
pub use error::RunError;
pub use evaluate::Generation;
use items::Items;
pub use manifest::{Input, Inputs, Manifest, Records, Stage, State};
pub use observer::{Observer, Silent};
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
    if config.sft.enabled {
        run.evaluate(BASE)?;
    }
    run.stage("iter-0/train", Run::supervised)?;
    run.evaluate("iter-0")?;
    for n in 1..=config.sft.controls.len() {
        run.stage(&format!("control-{n}/train"), |run| run.control(n))?;
        run.evaluate(&format!("control-{n}"))?;
    }
    run.name_best()?;
    if until == Until::End {
        for k in 1..=config.game.iterations {
            let round = Round::new(k);
            run.stage(&round.stage("rollouts"), |run| run.rollouts(&round))?;
            if is_wanted(&run.config, "scores") {
                run.stage(&round.stage("scores"), |run| run.scores(&round))?;
            }
            if is_wanted(&run.config, "pairs") {
                run.stage(&round.stage("pairs"), |run| run.pairs(&round))?;
            }
            run.stage(&round.stage("train"), |run| run.self_play(&round))?;
            run.evaluate(&round.folder)?;
            run.guard(k)?;
            run.name_best()?;
        }
    }
    run.summary()
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

/// The stages of a run, in order.
fn plan(config: &Config) -> Vec<String> {
    let folder = |folder: &str, works: &[&str]| -> Vec<String> {
        let evaluation = ["greedy", "sampled", "eval"].into_iter().filter(|&work| is_wanted(config, work));
        works.iter().copied().chain(evaluation).map(|work| format!("{folder}/{work}")).collect()
    };
    let mut stages = if config.sft.enabled { folder(BASE, &[]) } else { Vec::new() };
    stages.extend(folder("iter-0", &["train"]));
    for n in 1..=config.sft.controls.len() {
        stages.extend(folder(&format!("control-{n}"), &["train"]));
    }
    for k in 1..=config.game.iterations {
        let works = ["rollouts", "scores", "pairs", "train"].into_iter().filter(|&work| is_wanted(config, work));
        stages.extend(folder(&format!("iter-{k}"), &works.collect::<Vec<_>>()));
    }
    stages
}

/// Whether an iteration and its evaluation have this part.
fn is_wanted(config: &Config, work: &str) -> bool {
    match work {
        "scores" => config.score.is_given(),
        "pairs" => !config.score.is_policy(),
        "greedy" => config.eval.greedy,
        "sampled" => config.eval.sampled,
        _ => true,
    }
}

/// What a stage needs only while it is at work, in its folder.
fn leftovers(work: &str) -> &'static [&'static str] {
    match work {
        "rollouts" => &["rollouts.partial.jsonl"],
        "scores" => &["scores.partial.jsonl", "scores.questions.jsonl"],
        "train" => &["state.bin", "metrics.partial.jsonl", "throughput.partial.jsonl"],
        "greedy" => &["greedy.partial.jsonl"],
        "sampled" => &["sampled.partial.jsonl"],
        _ => &[],
    }
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
    /// Operations of matrix products in a second, if any stage is left to do.
    rate: f64,
    observer: &'a mut dyn Observer,
    stop: &'a AtomicBool,
    _lock: Lock,
}

/// Some steps of the game against one opponent: rollouts, pairs, training.
struct Round {
    /// Number of the iteration, from 1.
    iteration: usize,
    /// The folder of its files.
    folder: String,
    /// The folder whose model it begins with.
    before: String,
}

impl Round {
    fn new(iteration: usize) -> Self {
        Self { iteration, folder: format!("iter-{iteration}"), before: format!("iter-{}", iteration - 1) }
    }

    /// The stage that does this work.
    fn stage(&self, work: &str) -> String {
        format!("{}/{work}", self.folder)
    }
}

/// What a finished stage hands over to the manifest.
struct Done {
    /// Artefacts to be hashed, by path within the run's folder.
    files: Vec<String>,
    /// Results in short.
    figures: Map<String, Value>,
}

impl Done {
    fn new(files: impl IntoIterator<Item = String>, figures: &impl Serialize) -> Self {
        let Ok(Value::Object(figures)) = serde_json::to_value(figures) else {
            unreachable!("figures are structs of numbers")
        };
        Self { files: files.into_iter().collect(), figures }
    }
}

impl<D: Device + Clone> Run<'_, D> {
    /// Does a stage unless it is finished, and enters it in the manifest.
    fn stage(&mut self, name: &str, work: impl FnOnce(&mut Self) -> Result<Done, RunError>) -> Result<(), RunError> {
        let (folder, kind) = name.split_once('/').expect("a stage is named by its folder and its work");
        if self.manifest.figures(name).is_none() {
            self.check_stop(name)?;
            topspin_files::create_dir_all(&self.dir.join(folder))?;
            let done = work(self);
            self.observer.end();
            let done = done?;
            let hash = |file: String| Ok((file.clone(), manifest::sha256_of_file(&self.dir.join(file))?));
            let files = done.files.into_iter().map(hash).collect::<Result<_, RunError>>()?;
            self.manifest.finish(name, files, done.figures);
            self.manifest.write(&self.dir)?;
        }
        // Only now, and again if a kill was quicker: until the manifest says otherwise, a stage goes on from these.
        for leftover in leftovers(kind) {
            let path = self.dir.join(folder).join(leftover);
            if path.exists() {
                topspin_files::remove_file(&path)?;
            }
        }
        Ok(())
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
        let dir = self.path(of).join("model");
        if AdapterFiles::is_in(&dir) {
            return Ok(self.base.with_adapter(&dir)?);
        }
        Ok(ModelFiles::open(&ModelSource::Folder(dir))?)
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
