//! The training stages: supervised, control, self-play or policy step. One loop serves all.

use std::ops::Range;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use topspin_kernels::device::{Device, Use};
use topspin_kernels::rng::Key;
use topspin_model::adapter::{AdapterFiles, save_adapter};
use topspin_model::checkpoint::{SaveDtype as Dtype, save_folder};
use topspin_model::decoder::{Decoder, Keep};
use topspin_model::source::ModelSource;

use super::lines::{Lines, read_lines};
use super::{BASE, Done, Round, Run, RunError};
use crate::config::{OptimizerKind, SaveDtype};
use crate::metrics::{GameMetrics, StepMetrics, Throughput};
use crate::objective::Loss;
use crate::optimizer::{OptimizerSettings, Rule, matrices};
use crate::order::{Batches, Position, singly};
use crate::pair::{Example, Pair, Tree, all_pairs, siblings};
use crate::policy::{Draw, Weighted, all_draws};
use crate::schedule::{Schedule, Shape, Warmup};
use crate::trainer::{Step, TrainError, TrainSettings, Trainer};

/// Number of the supervised stage in random draws.
const SUPERVISED: u64 = 0;
/// Number of the controls in random draws: that of no iteration.
const CONTROL: u64 = u64::MAX;

/// What a stage learns from.
enum Lessons {
    /// Responses to imitate.
    Supervised(Vec<Example>),
    /// Pairs to tell apart.
    Game { trees: Vec<Tree>, pairs: Vec<Pair>, together: usize, loss: Loss },
    /// Samples to imitate by their weights.
    Policy { prompts: Vec<Weighted>, draws: Vec<Draw>, together: usize },
}

impl Lessons {
    fn len(&self) -> usize {
        match self {
            Self::Supervised(examples) => examples.len(),
            Self::Game { pairs, .. } => pairs.len(),
            Self::Policy { draws, .. } => draws.len(),
        }
    }

    /// What stays side by side in the order of a stage.
    fn groups(&self) -> Vec<Range<usize>> {
        match self {
            Self::Supervised(examples) => singly(examples.len()),
            Self::Game { trees, together, .. } => siblings(trees.iter().map(|tree| tree.generated.len()), *together),
            Self::Policy { prompts, together, .. } => {
                siblings(prompts.iter().map(|prompt| prompt.samples.len()), *together)
            }
        }
    }

    fn step<D: Device>(&self, trainer: &mut Trainer<D>, chosen: &[usize]) -> Result<Step, TrainError> {
        match self {
            Self::Supervised(examples) => trainer.sft_step(examples, chosen),
            Self::Game { trees, pairs, loss, .. } => {
                let pairs: Vec<_> = chosen.iter().map(|&index| pairs[index]).collect();
                trainer.spin_step(trees, &pairs, loss)
            }
            Self::Policy { prompts, draws, .. } => {
                let draws: Vec<_> = chosen.iter().map(|&index| draws[index]).collect();
                trainer.fit_step(prompts, &draws)
            }
        }
    }
}

/// A stage of training.
struct Course {
    /// The stage's folder.
    folder: String,
    /// The folder whose model it begins with.
    before: String,
    /// Number of the stage in random draws.
    number: u64,
    lessons: Lessons,
    epochs: usize,
    batch: usize,
    optimizer: OptimizerKind,
    lr: f64,
    shape: Shape,
    warmup: f64,
}

/// A line of `throughput.jsonl`.
#[derive(Serialize)]
struct ThroughputLine {
    step: u32,
    tokens: u64,
    seconds: f64,
    tokens_per_second: f64,
    mfu: f64,
}

/// Results of a stage of training: means over the last quarter of its steps, at least one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainFigures {
    /// Optimizer steps.
    pub steps: usize,
    /// Examples, pairs or weighted samples trained on.
    pub examples: usize,
    /// The loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// In self-play: the loss of the first step, before any parameter moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_loss: Option<f64>,
    /// In self-play: the change of the real response's log-probability, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub real_change: Option<f64>,
    /// In self-play: the change of the generated response's log-probability, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generated_change: Option<f64>,
    /// In self-play: the share of pairs whose real response has the higher reward.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
}

impl<D: Device + Clone> Run<'_, D> {
    /// The supervised stage; where it is switched off, the model as it came.
    pub(super) fn supervised(&mut self) -> Result<Done, RunError> {
        if !self.config.sft.enabled {
            // Only to be saved, so nothing is laid out.
            let decoder = self.trainee(BASE, SUPERVISED, Use::InPlace)?;
            self.save("iter-0", BASE, &decoder)?;
            return Ok(Done::new([], &TrainFigures::default()));
        }
        let decoder = self.trainee(BASE, SUPERVISED, Use::ForwardAndBackward)?;
        let sft = &self.config.sft;
        let course = Course {
            folder: "iter-0".into(),
            before: BASE.into(),
            number: SUPERVISED,
            lessons: Lessons::Supervised(self.items.supervised(&self.config)),
            epochs: sft.epochs,
            batch: sft.batch,
            optimizer: sft.optimizer,
            lr: sft.lr,
            shape: sft.schedule,
            warmup: sft.warmup,
        };
        self.train(course, decoder)
    }

    /// The supervised control `n`: more of the same.
    pub(super) fn control(&mut self, n: usize) -> Result<Done, RunError> {
        let decoder = self.trainee("iter-0", CONTROL, Use::ForwardAndBackward)?;
        let sft = &self.config.sft;
        let control = &sft.controls[n - 1];
        let course = Course {
            folder: format!("control-{n}"),
            before: "iter-0".into(),
            number: CONTROL,
            lessons: Lessons::Supervised(self.items.supervised(&self.config)),
            epochs: control.epochs,
            batch: sft.batch,
            optimizer: sft.optimizer,
            lr: control.lr,
            shape: sft.schedule,
            warmup: sft.warmup,
        };
        self.train(course, decoder)
    }

    /// A round: from the model before it, on its pairs or on its weighted samples.
    pub(super) fn self_play(&mut self, round: &Round) -> Result<Done, RunError> {
        let Round { iteration: k, folder, before } = round;
        let (k, folder, before) = (*k, folder.clone(), before.clone());
        let lessons = self.lessons(round)?;
        if lessons.len() == 0 {
            let why = match (lessons, self.config.score.is_given()) {
                (Lessons::Policy { .. }, _) => "the samples of each prompt score alike",
                (_, true) => "no sample scores below the real response by more than `score.gap`",
                (_, false) => "every generated response is the real one itself",
            };
            self.observer
                .warn(&format!("{folder}: {why}, so there is nothing left to learn from; the model stays as it is"));
            let decoder = self.trainee(&before, k as u64, Use::InPlace)?;
            self.save(&folder, &before, &decoder)?;
            return Ok(Done::new([], &TrainFigures::default()));
        }
        let decoder = self.trainee(&before, k as u64, Use::ForwardAndBackward)?;
        let train = &self.config.train;
        let course = Course {
            folder,
            before,
            number: k as u64,
            lessons,
            epochs: *train.epochs.of(k),
            batch: train.batch_pairs,
            optimizer: train.optimizer,
            lr: *train.lr.of(k),
            shape: train.schedule,
            warmup: train.warmup,
        };
        self.train(course, decoder)
    }

    /// What a round has to learn from.
    fn lessons(&self, round: &Round) -> Result<Lessons, RunError> {
        let together = self.config.train.pairs_per_prompt;
        if self.config.score.is_policy() {
            let (prompts, _) = self.weighted(round)?;
            return Ok(Lessons::Policy { draws: all_draws(&prompts), prompts, together });
        }
        let trees: Vec<Tree> = read_lines(&self.path(&format!("{}/pairs.jsonl", round.folder)))?;
        Ok(Lessons::Game { pairs: all_pairs(&trees), trees, together, loss: self.config.game.loss(round.iteration) })
    }

    /// Trains from the beginning or from the last saved state, and saves the model.
    fn train(&mut self, course: Course, decoder: Decoder<D>) -> Result<Done, RunError> {
        let name = format!("{}/train", course.folder);
        let path = |name: &str| self.dir.join(&course.folder).join(name);
        let (state, metrics, throughput) = (path("state.bin"), path("metrics.jsonl"), path("throughput.jsonl"));
        let batches = |start| {
            let epochs = course.epochs as u32;
            Batches::new(self.config.game.seed, course.number, course.lessons.groups(), course.batch, epochs, start)
        };
        let total = batches(Position::default()).total();
        let mut trainer = Trainer::new(decoder, self.settings(&course, total));

        let start = if state.exists() { trainer.load_state(&state, &name)? } else { Position::default() };
        let done = trainer.steps() as usize;
        let (mut metric_lines, kept) = Lines::resume::<StepMetrics>(&path("metrics.partial.jsonl"), done)?;
        if kept.len() < done {
            return Err(RunError::StateWithoutMetrics { state, metrics: path("metrics.partial.jsonl") });
        }
        let (mut clock_lines, _) = Lines::resume::<IgnoredAny>(&path("throughput.partial.jsonl"), done)?;
        drop(kept);

        let mut batches = batches(start);
        let mut worked = Throughput::default();
        self.observer.begin(&name, "steps", total as usize, done);
        while let Some(chosen) = batches.next() {
            let Step { metrics, throughput } = course.lessons.step(&mut trainer, &chosen)?;
            metric_lines.push(&metrics)?;
            clock_lines.push(&self.throughput_line(metrics.step, throughput))?;
            worked += throughput;
            self.observer.advance(metrics.step as usize, &note(&metrics));
            let stop = self.check_stop(&name);
            let every = self.config.train.checkpoint_every;
            let due = every > 0 && (metrics.step as usize).is_multiple_of(every);
            if metrics.step < total && (stop.is_err() || due) {
                // A state without its lines would be of no use after a power cut.
                metric_lines.sync()?;
                trainer.save_state(&state, &name, batches.position())?;
            }
            if metrics.step < total {
                stop?;
            }
        }
        self.save(&course.folder, &course.before, trainer.decoder())?;
        metric_lines.finish(&metrics)?;
        clock_lines.finish(&throughput)?;

        let figures = TrainFigures::new(&read_lines(&metrics)?, &course.lessons);
        self.observer.say(&format!("{name}: {}{}", figures.sentence(), self.speed(worked)));
        Ok(Done::new([format!("{}/metrics.jsonl", course.folder)], &figures))
    }

    fn settings(&self, course: &Course, total: u32) -> TrainSettings {
        let train = &self.config.train;
        let rule = match course.optimizer {
            OptimizerKind::AdamW => {
                Rule::AdamW { beta1: train.beta1 as f32, beta2: train.beta2 as f32, eps: train.eps as f32 }
            }
            OptimizerKind::RmsProp => Rule::RmsProp { decay: train.decay as f32, eps: train.eps as f32 },
        };
        TrainSettings {
            optimizer: OptimizerSettings { rule, weight_decay: train.weight_decay as f32, decays: matrices },
            schedule: Schedule::new(course.lr, course.shape, Warmup::Share(course.warmup), total),
            max_grad_norm: if train.clip > 0.0 { Some(train.clip) } else { None },
            batch_tokens: train.batch_tokens,
            keep: if train.recompute { Keep::LayerInputs } else { Keep::Everything },
            dropout: Key::new(self.config.game.seed, "dropout", course.number),
        }
    }

    /// Saves the model of a stage folder, which began as that of the folder `before`: all of it, or the adapter that goes
    /// through the run.
    fn save(&self, folder: &str, before: &str, decoder: &Decoder<D>) -> Result<(), RunError> {
        let dtype = match self.config.output.save_dtype {
            SaveDtype::F32 => Dtype::F32,
            SaveDtype::Bf16 => Dtype::Bf16,
        };
        let (path, trained) = (self.path(folder).join("model"), decoder.read_params());
        topspin_files::write_dir_atomic(&path, |dir| match decoder.adapter() {
            Some(adapter) if !self.config.adapter.merge => {
                save_adapter(dir, adapter, &trained, &self.base_name()?).map_err(RunError::from)
            }
            adapter => {
                let mut parameters = trained;
                if let Some(adapter) = adapter {
                    let mut model = vec![0.0; decoder.config().layout().len()];
                    self.ended_with(before)?.read_parameters(&mut model)?;
                    adapter.merge_into(&parameters, decoder.config(), &mut model);
                    parameters = model;
                }
                save_folder(dir, decoder.config(), &parameters, dtype, &self.base.dialect).map_err(RunError::from)
            }
        })
    }

    /// The model below the run's adapter, as a user names it.
    fn base_name(&self) -> Result<String, RunError> {
        match self.base.source() {
            ModelSource::Adapter(dir, _) => Ok(AdapterFiles::base_of(dir)?),
            _ => Ok(self.config.model.path.clone()),
        }
    }

    fn throughput_line(&self, step: u32, throughput: Throughput) -> ThroughputLine {
        ThroughputLine {
            step,
            tokens: throughput.tokens,
            seconds: throughput.seconds,
            tokens_per_second: throughput.tokens_per_second(),
            mfu: throughput.flops_per_second() / self.rate,
        }
    }

    /// How fast the steps of this call were, as the end of a sentence.
    fn speed(&self, worked: Throughput) -> String {
        if worked.tokens == 0 {
            return String::new();
        }
        let (rate, mfu) = (worked.tokens_per_second(), 100.0 * worked.flops_per_second() / self.rate);
        format!("; {rate:.0} tokens/s, {mfu:.0}% of the product rate")
    }
}

/// How a step went, in a few words.
fn note(metrics: &StepMetrics) -> String {
    let mut note = format!("loss {:.4}", metrics.loss);
    if let Some(game) = &metrics.game {
        note += &format!(", accuracy {:.2}, margin {:.3}", game.accuracy, game.margin);
    }
    if let Some(fit) = &metrics.fit {
        note += &format!(", score {:.3}, {:.0} effective samples", fit.score, fit.effective_samples);
    }
    note
}

impl TrainFigures {
    fn new(metrics: &[StepMetrics], lessons: &Lessons) -> Self {
        let last = &metrics[metrics.len() - metrics.len().div_ceil(4)..];
        let mean = |of: &dyn Fn(&StepMetrics) -> f64| last.iter().map(of).sum::<f64>() / last.len() as f64;
        let (steps, examples) = (metrics.len(), lessons.len());
        let figures = Self { steps, examples, loss: Some(mean(&|m| m.loss)), ..Self::default() };
        let Lessons::Game { loss, .. } = lessons else { return figures };
        let game = |of: &dyn Fn(&GameMetrics) -> f64| Some(mean(&|m| m.game.as_ref().map_or(0.0, of)));
        Self {
            first_loss: metrics.first().map(|first| first.loss),
            real_change: game(&|game| game.reward_real / loss.beta),
            generated_change: game(&|game| game.reward_generated / loss.beta),
            accuracy: game(&|game| game.accuracy),
            ..figures
        }
    }

    fn sentence(&self) -> String {
        let mut sentence = format!("{} steps, loss {:.4}", self.steps, self.loss.unwrap_or_default());
        if let (Some(real), Some(generated), Some(accuracy)) = (self.real_change, self.generated_change, self.accuracy)
        {
            sentence += &format!(
                " at the end; log-probability of real responses {real:+.2}, of generated ones {generated:+.2}; accuracy \
                 {accuracy:.2}"
            );
        }
        sentence
    }
}
