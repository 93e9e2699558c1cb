//! A run's event files for TensorBoard: one in the folder of each training stage, and one of all evaluations at the root, so that
//! `tensorboard --logdir` on the run's folder shows the stages as runs beside each other.
//!
//! They hold what `metrics.jsonl`, `throughput.jsonl` and `eval.json` hold, and nothing goes on from them: what is damaged or
//! missing is written anew from those.

use topspin_eval::Report;
use topspin_files::FileError;
use topspin_kernels::device::Device;

use super::{Run, RunError};
use crate::metrics::{StepMetrics, ThroughputLine};
use crate::moment::{now, seconds};
use crate::tensorboard::EventFile;

/// The name of event files. Any that has `tfevents` in it is found; this one is the same in each attempt.
const FILE: &str = "events.out.tfevents.topspin";

impl<D: Device + Clone> Run<'_, D> {
    /// The event file of a training stage in `folder` that has come as far as `history`, if there is to be one. All rounds of
    /// an iteration have the same.
    pub(super) fn training_events(
        &self,
        folder: &str,
        history: &[StepMetrics],
        clock: &[ThroughputLine],
    ) -> Result<Option<EventFile>, FileError> {
        if !self.config.output.tensorboard {
            return Ok(None);
        }
        let (stage, _) = folder.split_once('/').unwrap_or((folder, ""));
        let path = self.path(stage).join(FILE);
        let (mut events, next) = EventFile::resume(&path, 1..history.len() as u64 + 1)?;
        for metrics in &history[next as usize - 1..] {
            let at = clock.binary_search_by_key(&metrics.step, |line| line.step);
            push_step(&mut events, metrics, at.ok().map(|at| &clock[at]))?;
        }
        Ok(Some(events))
    }

    /// Tells whoever listens of the evaluation of a stage folder, and enters it in the event file of evaluations, whose steps
    /// are the iterations.
    pub(super) fn tell_evaluation(&mut self, folder: &str) -> Result<(), RunError> {
        let report = self.report(folder)?;
        self.observer.evaluated(folder, &report);
        if !self.config.output.tensorboard || !folder.starts_with("iter-") {
            return Ok(());
        }
        let iterations = self.manifest.evaluated().filter(|folder| folder.starts_with("iter-")).count() as u64;
        let (mut events, next) = EventFile::resume(&self.path(FILE), 0..iterations)?;
        for iteration in next..iterations {
            let folder = format!("iter-{iteration}");
            let file = std::fs::metadata(self.path(&folder).join("eval.json")).and_then(|file| file.modified());
            let time = file.map_or_else(|_| now(), seconds);
            events.push(time, iteration, &scalars(&self.report(&folder)?))?;
        }
        Ok(())
    }
}

/// Appends a step to the event file of its stage.
pub(super) fn push_step(
    events: &mut EventFile,
    metrics: &StepMetrics,
    clock: Option<&ThroughputLine>,
) -> Result<(), FileError> {
    let mut scalars = metrics.figures();
    if let Some(clock) = clock {
        scalars.extend(clock.figures().map(|(name, value)| (name.to_owned(), value)));
    }
    events.push(now(), metrics.step.into(), &scalars)
}

/// The figures of an evaluation and the ends of their intervals.
fn scalars(report: &Report) -> Vec<(String, f64)> {
    let of = |(name, figure): (&String, &topspin_eval::Figure)| {
        let ends = [("", Some(figure.value)), ("/low", figure.low), ("/high", figure.high)];
        ends.into_iter().filter_map(|(end, value)| Some((format!("eval/{name}{end}"), value?))).collect::<Vec<_>>()
    };
    report.figures.iter().flat_map(of).collect()
}
