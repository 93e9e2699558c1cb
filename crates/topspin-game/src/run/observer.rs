//! What a run tells about itself while it goes: the library is silent, whoever starts a run listens.

use topspin_eval::Report;

use crate::metrics::{StepMetrics, ThroughputLine};

/// Listens to a run.
pub trait Observer {
    /// A stage begins; `done` of its `total` steps are behind it already. `unit` names the steps, in the plural.
    fn begin(&mut self, stage: &str, unit: &'static str, total: usize, done: usize);
    /// `done` steps of the stage are behind it; `note` says how it goes in a few words.
    fn advance(&mut self, done: usize, note: &str);
    /// The stage that began last is over, finished or not.
    fn end(&mut self);
    /// A line about what was done.
    fn say(&mut self, line: &str);
    /// A line about something that may have gone wrong.
    fn warn(&mut self, line: &str);
    /// A step of training was made in the stage that began last. Unless said otherwise, nobody cares.
    fn step(&mut self, metrics: &StepMetrics, clock: &ThroughputLine) {
        let _ = (metrics, clock);
    }
    /// The model of a stage folder is evaluated, now or in an earlier call. Unless said otherwise, nobody cares.
    fn evaluated(&mut self, folder: &str, report: &Report) {
        let _ = (folder, report);
    }
}

/// Listens to nothing.
pub struct Silent;

impl Observer for Silent {
    fn begin(&mut self, _: &str, _: &'static str, _: usize, _: usize) {}
    fn advance(&mut self, _: usize, _: &str) {}
    fn end(&mut self) {}
    fn say(&mut self, _: &str) {}
    fn warn(&mut self, _: &str) {}
}
