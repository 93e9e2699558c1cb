//! What training reports, step by step, for each iteration.

use std::path::{Path, PathBuf};

use topspin_game::metrics::{GameMetrics, StepMetrics};
use topspin_game::run::Manifest;

use super::tail::{News, Tail};

/// A line of a quantity: its name, where there are several, and its value at a step that has one.
pub type QuantityLine = (&'static str, fn(&StepMetrics) -> Option<f64>);

/// Something that a step reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    Loss,
    Accuracy,
    Margin,
    LogProbabilities,
    GradientNorm,
}

impl Quantity {
    /// All of them, in the order in which one goes through them.
    pub const ALL: [Self; 5] = [Self::Loss, Self::Accuracy, Self::Margin, Self::LogProbabilities, Self::GradientNorm];

    pub fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Accuracy => "accuracy",
            Self::Margin => "margin",
            Self::LogProbabilities => "log-probabilities",
            Self::GradientNorm => "gradient norm",
        }
    }

    /// What is drawn of it, each with its name where there are several.
    pub fn lines(self) -> &'static [QuantityLine] {
        fn game(metrics: &StepMetrics, of: fn(&GameMetrics) -> f64) -> Option<f64> {
            metrics.game.as_ref().map(of)
        }
        match self {
            Self::Loss => &[("", |metrics| Some(metrics.loss))],
            Self::Accuracy => &[("", |metrics| game(metrics, |game| game.accuracy))],
            Self::Margin => &[("", |metrics| game(metrics, |game| game.margin))],
            Self::LogProbabilities => &[
                ("real", |metrics| game(metrics, |game| game.logp_real)),
                ("generated", |metrics| game(metrics, |game| game.logp_generated)),
            ],
            Self::GradientNorm => &[("", |metrics| Some(metrics.grad_norm))],
        }
    }
}

/// The training of one model.
pub struct Curve {
    /// Folder of the stages that it goes through: `iter-1`.
    pub folder: String,
    parts: Vec<Part>,
}

/// A stage of it: there are several where an opponent is refreshed.
struct Part {
    dir: PathBuf,
    tail: Option<Tail>,
    steps: Vec<StepMetrics>,
}

impl Curve {
    /// The trainings of a run, in order.
    pub fn all(manifest: &Manifest, dir: &Path) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for stage in manifest.stages.iter().filter_map(|stage| stage.name.strip_suffix("/train")) {
            let folder = stage.split('/').next().unwrap_or(stage);
            let part = Part { dir: dir.join(stage), tail: None, steps: Vec::new() };
            match all.last_mut() {
                Some(last) if last.folder == folder => last.parts.push(part),
                _ => all.push(Self { folder: folder.into(), parts: vec![part] }),
            }
        }
        all
    }

    /// Reads what has come since the last look.
    pub fn look(&mut self) {
        self.parts.iter_mut().for_each(Part::look);
    }

    /// Its steps so far, in order. The finished file of the last part has those of all before it.
    pub fn steps(&self) -> impl Iterator<Item = &StepMetrics> {
        let mut last = 0;
        self.parts.iter().flat_map(|part| &part.steps).filter(move |metrics| {
            let is_next = metrics.step > last;
            last = last.max(metrics.step);
            is_next
        })
    }

    /// The latest step.
    pub fn last(&self) -> Option<&StepMetrics> {
        self.parts.iter().rev().find_map(|part| part.steps.last())
    }
}

impl Part {
    fn look(&mut self) {
        let finished = self.dir.join("metrics.jsonl");
        let path = if finished.exists() { finished } else { self.dir.join("metrics.partial.jsonl") };
        if self.tail.as_ref().is_none_or(|tail| tail.path() != path) && path.exists() {
            self.tail = Some(Tail::whole(path));
            self.steps.clear();
        }
        if self.read() {
            // The file was cut and has grown beyond what was read of it, from another line than the last that was read.
            self.tail = self.tail.take().map(|tail| Tail::whole(tail.path().into()));
            self.steps.clear();
            self.read();
        }
    }

    /// Reads on; whether a line came that cannot follow. What vanishes between two looks comes back, or another file does.
    fn read(&mut self) -> bool {
        let (steps, mut goes_back) = (&mut self.steps, false);
        if let Some(tail) = &mut self.tail {
            let _ = tail.look(|news| match news {
                News::Anew => steps.clear(),
                News::Line(line) => {
                    let last = steps.last().map_or(0, |last| last.step);
                    // A line that is damaged at the second reading too is passed over: it is the run's to complain of.
                    match serde_json::from_slice::<StepMetrics>(line) {
                        Ok(metrics) if metrics.step > last => steps.push(metrics),
                        _ => goes_back = true,
                    }
                }
            });
        }
        goes_back
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn line(step: u32, loss: f64) -> String {
        let metrics = StepMetrics { step, loss, game: None, fit: None, grad_norm: 1.0, lr: 1e-3 };
        serde_json::to_string(&metrics).unwrap() + "\n"
    }

    fn steps(curve: &Curve) -> Vec<(u32, f64)> {
        curve.steps().map(|metrics| (metrics.step, metrics.loss)).collect()
    }

    #[test]
    fn a_training_in_rounds_is_one_curve() {
        let dir = tempfile::tempdir().unwrap();
        let stages = ["iter-0/train", "iter-1/round-1/rollouts", "iter-1/round-1/train", "iter-1/train"];
        let manifest = Manifest::new(0, Default::default(), None, stages.map(String::from));
        let mut curves = Curve::all(&manifest, dir.path());
        let folders: Vec<_> = curves.iter().map(|curve| curve.folder.as_str()).collect();
        assert_eq!(folders, ["iter-0", "iter-1"]);
        let curve = &mut curves[1];
        curve.look();
        assert_eq!(steps(curve), []);

        fs::create_dir_all(dir.path().join("iter-1/round-1")).unwrap();
        let write = |name: &str, text: String| fs::write(dir.path().join("iter-1").join(name), text).unwrap();
        write("round-1/metrics.jsonl", line(1, 0.7) + &line(2, 0.6));
        write("metrics.partial.jsonl", line(3, 0.5) + "{\"step\": 4");
        curve.look();
        assert_eq!(steps(curve), [(1, 0.7), (2, 0.6), (3, 0.5)]);
        // The run went on from an earlier state, and beyond what had been read, with another rate.
        write("metrics.partial.jsonl", line(3, 0.4) + &line(4, 0.3));
        curve.look();
        assert_eq!(steps(curve), [(1, 0.7), (2, 0.6), (3, 0.4), (4, 0.3)]);
        // The finished file has all, and the partial one goes.
        write("metrics.jsonl", line(1, 0.7) + &line(2, 0.6) + &line(3, 0.4) + &line(4, 0.3) + &line(5, 0.2));
        fs::remove_file(dir.path().join("iter-1/metrics.partial.jsonl")).unwrap();
        curve.look();
        assert_eq!(steps(curve), [(1, 0.7), (2, 0.6), (3, 0.4), (4, 0.3), (5, 0.2)]);
        assert_eq!(curve.last().unwrap().step, 5);
    }

    #[test]
    fn steps_that_go_back_are_read_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.partial.jsonl");
        let mut part = Part { dir: dir.path().into(), tail: None, steps: Vec::new() };
        fs::write(&path, line(1, 0.7) + &line(2, 0.6) + &line(3, 0.5)).unwrap();
        part.look();
        // In place and of the same length up to there: nothing but the step tells.
        fs::write(&path, line(1, 0.7) + &line(2, 0.9) + &line(2, 0.5) + &line(3, 0.8)).unwrap();
        part.look();
        let read: Vec<_> = part.steps.iter().map(|metrics| (metrics.step, metrics.loss)).collect();
        assert_eq!(read, [(1, 0.7), (2, 0.9), (3, 0.8)]);
    }
}
