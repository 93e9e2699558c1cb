//! The training stages: supervised, control, self-play or policy step. One loop serves all.

use std::ops::Range;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use topspin_files::FileError;
use topspin_kernels::device::{Device, Use};
use topspin_kernels::rng::Key;
use topspin_model::adapter::{AdapterFiles, save_adapter};
use topspin_model::checkpoint::{SaveDtype as Dtype, save_folder};
use topspin_model::decoder::{Decoder, Keep};
use topspin_model::source::ModelSource;

use super::events::push_step;
use super::guard::of_losses;
use super::lines::{Lines, read_lines};
use super::round::{Round, iteration_of};
use super::train_figures::TrainFigures;
use super::trainer_state::TrainerState;
use super::watch::{Divergence, Scale, Watch, divergence};
use super::{BASE, Done, Run, RunError};
use crate::config::{OptimizerKind, SaveDtype};
use crate::metrics::{StepMetrics, Throughput, ThroughputLine};
use crate::objective::Loss;
use crate::optimizer::{OptimizerSettings, Rule, matrices};
use crate::order::{Batches, Position, singly};
use crate::pair::{Example, Pair, Tree, all_pairs, siblings};
use crate::policy::{Draw, Weighted, all_draws};
use crate::schedule::{Schedule, Shape, Warmup};
use crate::trainer::{Gradient, Step, TrainError, TrainSettings, Trainer};

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

    fn gradient<D: Device>(&self, trainer: &mut Trainer<D>, chosen: &[usize]) -> Result<Gradient, TrainError> {
        match self {
            Self::Supervised(examples) => trainer.sft_gradient(examples, chosen),
            Self::Game { trees, pairs, loss, .. } => {
                let pairs: Vec<_> = chosen.iter().map(|&index| pairs[index]).collect();
                trainer.spin_gradient(trees, &pairs, loss)
            }
            Self::Policy { prompts, draws, .. } => {
                let draws: Vec<_> = chosen.iter().map(|&index| draws[index]).collect();
                trainer.fit_gradient(prompts, &draws)
            }
        }
    }

    /// What rewards are measured by.
    fn scale(&self) -> Option<Scale> {
        let Self::Game { trees, loss, .. } = self else { return None };
        let tokens: usize = trees.iter().map(|tree| tree.real.token_ids.len()).sum();
        Some(Scale { beta: loss.beta, real_tokens: tokens as f64 / trees.len() as f64 })
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
    /// The iteration whose settings of the optimizer hold, from 1.
    iteration: usize,
    lessons: Lessons,
    epochs: usize,
    /// Passes of the whole that it is a part of.
    passes: usize,
    batch: usize,
    optimizer: OptimizerKind,
    lr: f64,
    shape: Shape,
    warmup: f64,
    part: Part,
}

/// The part of a longer training that a course is, where it is not the whole.
#[derive(Default)]
struct Part {
    /// Stage folders of the parts before it, which it goes on from.
    before: Vec<String>,
    /// What came out of them.
    results: Vec<TrainFigures>,
    /// Parts behind it.
    left: usize,
}

impl Part {
    fn steps_before(&self) -> usize {
        self.results.iter().map(|part| part.steps).sum()
    }
}

impl<D: Device + Clone> Run<'_, D> {
    /// The supervised stage; where it is switched off, the model as it came.
    pub(super) fn supervised(&mut self) -> Result<Done, RunError> {
        if !self.config.sft.enabled {
            // Only to be saved, so nothing is laid out.
            let decoder = self.trainee(BASE, SUPERVISED, Use::InPlace)?;
            self.save("iter-0", BASE, false, &decoder)?;
            return Ok(Done::new([], &TrainFigures::default()));
        }
        let decoder = self.trainee(BASE, SUPERVISED, Use::ForwardAndBackward)?;
        let sft = &self.config.sft;
        let course = Course {
            folder: "iter-0".into(),
            before: BASE.into(),
            number: SUPERVISED,
            iteration: 1,
            lessons: Lessons::Supervised(self.items.supervised(&self.config)),
            epochs: sft.epochs,
            passes: sft.epochs,
            batch: sft.batch,
            optimizer: sft.optimizer,
            lr: sft.lr,
            shape: sft.schedule,
            warmup: sft.warmup,
            part: Part::default(),
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
            iteration: 1,
            lessons: Lessons::Supervised(self.items.supervised(&self.config)),
            epochs: control.epochs,
            passes: control.epochs,
            batch: sft.batch,
            optimizer: sft.optimizer,
            lr: control.lr,
            shape: sft.schedule,
            warmup: sft.warmup,
            part: Part::default(),
        };
        self.train(course, decoder)
    }

    /// A round: from the model before it, on its pairs or on its weighted samples.
    pub(super) fn self_play(&mut self, round: &Round) -> Result<Done, RunError> {
        let (k, folder, before) = (round.iteration, round.after(), round.before.clone());
        let lessons = self.lessons(round)?;
        let is_empty = lessons.len() == 0;
        if is_empty {
            let why = match (&lessons, self.config.score.is_given()) {
                (Lessons::Policy { .. }, _) => "the samples of each prompt score alike",
                (_, true) => "no sample scores below the real response by more than `score.gap`",
                (_, false) => "every generated response is the real one itself",
            };
            self.observer.warn(&format!(
                "{}: {why}, so there is nothing left to learn from; the model stays as it is",
                round.folder
            ));
        }
        let for_use = if is_empty { Use::InPlace } else { Use::ForwardAndBackward };
        let decoder = self.trainee(&before, k as u64, for_use)?;
        let train = &self.config.train;
        let earlier = round.earlier();
        let results = earlier.iter().filter_map(|folder| self.figures_of(&format!("{folder}/train")).transpose());
        let results = results.collect::<Result<_, _>>()?;
        let course = Course {
            folder,
            before,
            number: round.address(),
            iteration: k,
            lessons,
            epochs: round.epochs,
            passes: *train.epochs.of(k),
            batch: *train.batch_pairs.of(k),
            optimizer: *train.optimizer.of(k),
            lr: *train.lr.of(k),
            shape: *train.schedule.of(k),
            warmup: *train.warmup.of(k),
            part: Part { before: earlier, results, left: round.count - 1 - round.number },
        };
        self.train(course, decoder)
    }

    /// What a round has to learn from.
    fn lessons(&self, round: &Round) -> Result<Lessons, RunError> {
        let together = *self.config.train.pairs_per_prompt.of(round.iteration);
        if self.config.score.is_policy() {
            let (prompts, _) = self.weighted(round)?;
            return Ok(Lessons::Policy { draws: all_draws(&prompts), prompts, together });
        }
        let trees: Vec<Tree> = read_lines(&self.path(&format!("{}.jsonl", round.stage("pairs"))))?;
        Ok(Lessons::Game { pairs: all_pairs(&trees), trees, together, loss: self.config.game.loss(round.iteration) })
    }

    /// Trains from the beginning, from where the part before ended or from the last saved state, and saves the model.
    fn train(&mut self, course: Course, decoder: Decoder<D>) -> Result<Done, RunError> {
        let name = format!("{}/train", course.folder);
        let path = |name: &str| self.dir.join(&course.folder).join(name);
        let state = path("state.bin");
        let batches = |start| {
            let epochs = course.epochs as u32;
            Batches::new(self.config.game.seed, course.number, course.lessons.groups(), course.batch, epochs, start)
        };
        let total = batches(Position::default()).total();
        let mut trainer = Trainer::new(decoder, self.settings(&course, total));

        let start = self.take_up(&course, &mut trainer)?;
        let first = course.part.steps_before();
        let done = (trainer.steps() as usize).saturating_sub(first);
        let (mut metric_lines, kept) = Lines::resume::<StepMetrics>(&path("metrics.partial.jsonl"), done)?;
        if kept.len() < done {
            return Err(RunError::StateWithoutMetrics { state, metrics: path("metrics.partial.jsonl") });
        }
        let (mut clock_lines, mut clock) = Lines::resume::<ThroughputLine>(&path("throughput.partial.jsonl"), done)?;
        let mut watch = Watch::new(self.config.guard, total, course.lessons.scale());
        for metrics in &kept {
            watch.step(metrics);
        }
        let mut history: Vec<StepMetrics> = self.lines_before(&course, "metrics.jsonl")?;
        history.extend(kept);
        // What the clock said is worth no run's end.
        clock.splice(..0, self.lines_before(&course, "throughput.jsonl").unwrap_or_default());
        let mut events = match total {
            0 => None,
            _ => self.training_events(&course.folder, &history, &clock)?,
        };
        drop(clock);

        let mut batches = batches(start);
        let mut worked = Throughput::default();
        self.observer.begin(&name, "steps", total as usize, done);
        loop {
            let before = batches.position();
            let Some(chosen) = batches.next() else { break };
            let gradient = course.lessons.gradient(&mut trainer, &chosen)?;
            if let Some(problem) = divergence(&gradient, &watch) {
                // What is not finite itself is no better than what was saved before.
                if trainer.steps() > 0 && trainer.is_finite() {
                    metric_lines.sync()?;
                    trainer.save_state(&state, &name, before)?;
                }
                return Err(self.diverged(&course, trainer.steps() + 1, problem));
            }
            let Step { metrics, throughput } = trainer.apply(gradient)?;
            metric_lines.push(&metrics)?;
            let clock = self.throughput_line(metrics.step, throughput);
            clock_lines.push(&clock)?;
            if let Some(events) = &mut events {
                push_step(events, &metrics, Some(&clock))?;
            }
            self.observer.step(&metrics, &clock);
            worked += throughput;
            let done = metrics.step as usize - first;
            self.observer.advance(done, &note(&metrics));
            let fired = watch.step(&metrics);
            history.push(metrics);
            fired.iter().for_each(|fired| self.observer.warn(&fired.told(&name)));
            let stop = self.check_stop(&name);
            let every = self.config.train.checkpoint_every;
            let due = every > 0 && done.is_multiple_of(every);
            let is_last = done == total as usize;
            if !is_last && (stop.is_err() || due) && trainer.is_finite() {
                // A state without its lines would be of no use after a power cut.
                metric_lines.sync()?;
                trainer.save_state(&state, &name, batches.position())?;
            }
            if !is_last {
                stop?;
            }
        }
        if !trainer.is_finite() {
            return Err(self.diverged(&course, trainer.steps(), Divergence::Parameters));
        }
        if course.part.left > 0 {
            // The next part goes on from it.
            metric_lines.sync()?;
            trainer.save_state(&state, &name, batches.position())?;
        }
        self.save(&course.folder, &course.before, course.part.left > 0, trainer.decoder())?;
        if course.part.left == 0 {
            TrainerState::new(&history, course.passes, course.batch).write(&path("model"))?;
        }
        if trainer.steps() == 0 {
            return Ok(Done::new([], &TrainFigures::default()));
        }
        self.finish(&course, metric_lines, "metrics.jsonl")?;
        self.finish(&course, clock_lines, "throughput.jsonl")?;

        let figures =
            TrainFigures::new(&history[first..], course.lessons.len(), course.lessons.scale().map(|scale| scale.beta));
        if total > 0 {
            let speed = self.speed(worked);
            self.observer.say(&format!("{name}: {}{speed}", figures.sentence()));
        }
        let rose = of_losses(figures.first_loss, figures.loss);
        self.warn_of(&name, rose.as_slice());
        let fired = watch.fired().into_iter().chain(rose).collect();
        let figures = if course.part.left > 0 { figures } else { figures.after(course.part.results) };
        Ok(Done::new([format!("{}/metrics.jsonl", course.folder)], &figures).guarded(fired))
    }

    /// The end of a stage whose step `step` must not be made, or must not have been made.
    fn diverged(&self, course: &Course, step: u32, divergence: Divergence) -> RunError {
        let stage = format!("{}/train", course.folder);
        let (problem, mut go_on) = (divergence.sentence(step, &stage), String::new());
        if let Divergence::Exploding(_) = divergence {
            go_on = format!("; with a larger `guard.gradient`, or 0, it goes on from step {}", step - 1);
        }
        let starts_over = "starts the stage over";
        let (rate, then) = match (course.number, course.iteration) {
            (SUPERVISED, _) => ("lower `sft.lr`".into(), starts_over),
            (CONTROL, _) => ("lower `lr` in `sft.controls`".into(), starts_over),
            // What was trained is settled: earlier rounds of the iteration, and earlier iterations.
            _ if !course.part.before.is_empty() => {
                ("lower `train.lr` and another `output.dir`".into(), "starts the run over")
            }
            (_, 1) => ("lower `train.lr`".into(), starts_over),
            (_, k) => {
                let rates: Vec<_> = (1..=self.config.game.iterations).map(|k| self.config.train.lr.of(k)).collect();
                (format!("lower value for iteration {k} in `train.lr` = {rates:?}"), starts_over)
            }
        };
        RunError::Diverged { problem, rate, then, go_on }
    }

    /// Puts the trainer of a course where the course stands: at its last saved state, or where the part before it ended.
    fn take_up(&self, course: &Course, trainer: &mut Trainer<D>) -> Result<Position, RunError> {
        let mut load = |folder: &str| {
            let state = self.path(folder).join("state.bin");
            state.exists().then(|| trainer.load_state(&state, &format!("{folder}/train"))).transpose()
        };
        if let Some(position) = load(&course.folder)? {
            return Ok(position);
        }
        let Some(before) = course.part.before.last() else { return Ok(Position::default()) };
        match load(before)? {
            Some(_) => Ok(Position::default()),
            None => Err(RunError::NoState { state: self.path(before).join("state.bin") }),
        }
    }

    /// Finishes a file of lines. That of the last part begins with the lines of all before it.
    fn finish(&self, course: &Course, lines: Lines, name: &str) -> Result<(), FileError> {
        let before = if course.part.left > 0 { Vec::new() } else { self.files_before(course, name) };
        lines.finish(&self.path(&course.folder).join(name), &before)
    }

    /// The files of that name of the parts before a course.
    fn files_before(&self, course: &Course, name: &str) -> Vec<PathBuf> {
        let files = course.part.before.iter().map(|folder| self.path(folder).join(name));
        files.filter(|path| path.exists()).collect()
    }

    /// The lines of the parts before a course.
    fn lines_before<T: DeserializeOwned>(&self, course: &Course, name: &str) -> Result<Vec<T>, RunError> {
        let files = self.files_before(course, name).into_iter().map(|path| read_lines(&path));
        Ok(files.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    fn settings(&self, course: &Course, total: u32) -> TrainSettings {
        let (train, k) = (&self.config.train, course.iteration);
        let eps = *train.eps.of(k) as f32;
        let rule = match course.optimizer {
            OptimizerKind::AdamW => {
                Rule::AdamW { beta1: *train.beta1.of(k) as f32, beta2: *train.beta2.of(k) as f32, eps }
            }
            OptimizerKind::RmsProp => Rule::RmsProp { decay: *train.decay.of(k) as f32, eps },
        };
        let (clip, weight_decay) = (*train.clip.of(k), *train.weight_decay.of(k) as f32);
        let Part { before, left, .. } = &course.part;
        let (number, parts) = (before.len() as u32, (before.len() + 1 + left) as u32);
        let (warmup, taken) = (Warmup::Share(course.warmup), course.part.steps_before() as u32);
        TrainSettings {
            optimizer: OptimizerSettings { rule, weight_decay, decays: matrices },
            schedule: Schedule::part(course.lr, course.shape, warmup, total, number, parts, taken),
            max_grad_norm: if clip > 0.0 { Some(clip) } else { None },
            batch_tokens: train.batch_tokens,
            keep: if train.recompute { Keep::LayerInputs } else { Keep::Everything },
            dropout: Key::new(self.config.game.seed, "dropout", course.number),
        }
    }

    /// Saves the model of a stage folder, which began as that of the folder `before`: all of it, or the adapter that goes
    /// through the run. Where it is to be trained on, it is left as the training state has it.
    fn save(&self, folder: &str, before: &str, goes_on: bool, decoder: &Decoder<D>) -> Result<(), RunError> {
        let dtype = match self.config.output.save_dtype {
            SaveDtype::Bf16 if !goes_on => Dtype::Bf16,
            _ => Dtype::F32,
        };
        let (path, trained) = (self.path(folder).join("model"), decoder.read_params());
        topspin_files::write_dir_atomic(&path, |dir| match decoder.adapter() {
            Some(adapter) if goes_on || !self.config.adapter.merge => {
                save_adapter(dir, adapter, &trained, &self.base_name()?).map_err(RunError::from)
            }
            adapter => {
                let mut parameters = trained;
                if let Some(adapter) = adapter {
                    let mut model = vec![0.0; decoder.config().layout().len()];
                    let begun = match iteration_of(before) {
                        Some(_) => self.below(before)?,
                        None => self.ended_with(before)?,
                    };
                    begun.read_parameters(&mut model)?;
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
