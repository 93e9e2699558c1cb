//! What came out: the table of stages, and the best of them.

use std::fmt;
use std::path::{Path, PathBuf};

use topspin_eval::{Figure, Report};
use topspin_kernels::device::Device;

use super::lines::read_json;
use super::{Fired, Manifest, Run, RunError, State};
use crate::config::{Config, Goal};

/// One line of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The stage's folder.
    pub folder: String,
    /// All figures of its evaluation.
    pub report: Report,
}

/// What came out of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// The run's folder.
    pub dir: PathBuf,
    /// The metric that names the best stage.
    pub metric: String,
    /// Which end of it is the better one.
    pub goal: Goal,
    /// The stages that were evaluated, in order.
    pub rows: Vec<Row>,
    /// Guards that fired, with the stage of each.
    pub guards: Vec<(String, Fired)>,
}

impl Summary {
    /// What has come out so far of the run in `dir`.
    pub fn read(dir: &Path) -> Result<Self, RunError> {
        let path = dir.join("config.toml");
        let config = Config::parse(&topspin_files::read_to_string(&path)?, &path, &[])?;
        Self::new(dir, &config, &Manifest::read(dir)?)
    }

    pub(super) fn new(dir: &Path, config: &Config, manifest: &Manifest) -> Result<Self, RunError> {
        let done = manifest.stages.iter().filter(|stage| stage.state == State::Done);
        let folders = done.filter_map(|stage| stage.name.strip_suffix("/eval"));
        let row = |folder: &str| {
            let report = read_json(&dir.join(folder).join("eval.json"))?;
            Ok(Row { folder: folder.into(), report })
        };
        let rows = folders.map(row).collect::<Result<_, RunError>>()?;
        let guards = manifest.guards().map(|(stage, fired)| (stage.to_owned(), fired.clone())).collect();
        Ok(Self { dir: dir.into(), metric: config.eval.best.clone(), goal: config.eval.goal, rows, guards })
    }

    /// The row of the best model among the supervised one and the iterations; of equal ones the earliest.
    pub fn best(&self) -> Option<&Row> {
        let rows = self.rows.iter().filter(|row| row.folder.starts_with("iter-"));
        rows.reduce(|best, row| match (self.figure(best), self.figure(row)) {
            (Some(old), Some(new)) if better(self.goal, new.value, old.value) => row,
            _ => best,
        })
    }

    /// The metric's figure of a row.
    pub fn figure<'a>(&self, row: &'a Row) -> Option<&'a Figure> {
        row.report.figures.get(&self.metric)
    }

    /// Which one is the best, and how sure that is.
    fn verdict(&self) -> Option<String> {
        let best = self.best()?;
        let figure = self.figure(best)?;
        let link = self.dir.join("best");
        let mut verdict =
            format!("best: {} (`{}` {}), linked as `{}`", best.folder, self.metric, words(figure), link.display());
        let others = || self.rows.iter().filter(|row| row.folder != best.folder);
        let names = |rows: Vec<&Row>| rows.iter().map(|row| row.folder.as_str()).collect::<Vec<_>>().join(", ");
        if figure.low.is_none() && others().next().is_some() {
            verdict += "\nthe metric comes without an interval, so nobody knows whether the difference is noise";
        }
        let near = |row: &&Row| self.figure(row).is_some_and(|other| is_within(figure, other.value));
        let near: Vec<_> = others().filter(near).collect();
        if !near.is_empty() {
            verdict += &format!("\nwithin its interval, and so perhaps no worse: {}", names(near));
        }
        let ahead = |row: &&Row| self.figure(row).is_some_and(|other| better(self.goal, other.value, figure.value));
        let ahead: Vec<_> = others().filter(ahead).collect();
        if !ahead.is_empty() {
            verdict += &format!("\nahead of it: {}", names(ahead));
        }
        Some(verdict)
    }
}

/// Columns of the table behind the metric's own, where the evaluations have them and they tell stages apart.
const COLUMNS: [&str; 5] =
    ["nll.per_token", "greedy.exact_match", "sampled.exact_match", "greedy.tokens.mean", "sampled.tokens.mean"];

impl Summary {
    /// Names of the table's columns: the metric, the same of the other kind of generation, and the usual ones.
    fn columns(&self) -> Vec<String> {
        let other = match self.metric.split_once('.') {
            Some(("greedy", name)) => Some(format!("sampled.{name}")),
            Some(("sampled", name)) => Some(format!("greedy.{name}")),
            _ => None,
        };
        let values = |name: &str| {
            let of_row = |row: &Row| row.report.figures.get(name).map(|figure| figure.value);
            self.rows.iter().filter_map(of_row).collect::<Vec<_>>()
        };
        let tells = |name: &String| values(name).windows(2).any(|pair| pair[0] != pair[1]);
        let mut columns = vec![self.metric.clone()];
        for name in other.into_iter().chain(COLUMNS.map(String::from)).filter(tells) {
            if !columns.contains(&name) {
                columns.push(name);
            }
        }
        columns
    }
}

impl Summary {
    /// The table of stages: a head, then a row for each.
    pub fn table(&self) -> Vec<Vec<String>> {
        let columns = self.columns();
        let head = std::iter::once("stage".to_owned()).chain(columns.iter().cloned()).collect();
        let row = |row: &Row| {
            let cell = |name: &String| row.report.figures.get(name).map(words).unwrap_or_default();
            std::iter::once(row.folder.clone()).chain(columns.iter().map(cell)).collect()
        };
        std::iter::once(head).chain(self.rows.iter().map(row)).collect()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = if self.rows.is_empty() { Vec::new() } else { self.table() };
        let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..table.first().map_or(0, Vec::len)).map(width).collect();
        for row in &table {
            let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
        }
        if let Some(verdict) = self.verdict() {
            writeln!(f, "\n{verdict}")?;
        }
        if !self.guards.is_empty() {
            let told: Vec<_> = self.guards.iter().map(|(stage, fired)| fired.told(stage)).collect();
            let gap = if self.rows.is_empty() { "" } else { "\n" };
            writeln!(f, "{gap}guards that fired:\n{}", told.join("\n"))?;
        }
        Ok(())
    }
}

/// Whether `a` is the better value.
pub(super) fn better(goal: Goal, a: f64, b: f64) -> bool {
    match goal {
        Goal::Lowest => a < b,
        Goal::Highest => a > b,
    }
}

/// Whether a value lies in a figure's interval.
pub(super) fn is_within(figure: &Figure, value: f64) -> bool {
    matches!((figure.low, figure.high), (Some(low), Some(high)) if (low..=high).contains(&value))
}

/// A figure with its interval, as it is printed.
pub(super) fn words(figure: &Figure) -> String {
    figure.to_string()
}

impl<D: Device + Clone> Run<'_, D> {
    /// What came out so far.
    pub(super) fn summary(&self) -> Result<Summary, RunError> {
        Summary::new(&self.dir, &self.config, &self.manifest)
    }

    /// The evaluation of a stage folder.
    pub(super) fn report(&self, folder: &str) -> Result<Report, RunError> {
        read_json(&self.path(&format!("{folder}/eval.json")))
    }

    /// Lets the link `best` name the best model so far.
    pub(super) fn name_best(&self) -> Result<(), RunError> {
        let summary = self.summary()?;
        let (Some(best), link) = (summary.best(), self.path("best")) else { return Ok(()) };
        let target = Path::new(&best.folder);
        if std::fs::read_link(&link).is_ok_and(|there| there == target) {
            return Ok(());
        }
        Ok(topspin_files::symlink_atomic(target, &link)?)
    }
}
