//! What came out: the table of stages, and the best of them.

use std::fmt;
use std::path::{Path, PathBuf};

use topspin_eval::{Evaluated, Figure, Report, paired_difference};
use topspin_kernels::device::Device;

use super::lines::{read_json, read_lines};
use super::train_figures::TrainFigures;
use super::{Fired, Manifest, Run, RunError};
use crate::config::{Config, Eval, Goal};

/// The stage that the iterations are compared with: the supervised model.
const FIRST: &str = "iter-0";

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
    /// Iterations in a row without a better best one after which the run ends; 0 is none.
    pub patience: usize,
    /// Whether all stages are finished.
    pub is_finished: bool,
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
        let row = |folder: &str| {
            let report = read_json(&dir.join(folder).join("eval.json"))?;
            Ok(Row { folder: folder.into(), report })
        };
        let rows = manifest.evaluated().map(row).collect::<Result<_, RunError>>()?;
        let guards = manifest.guards().map(|(stage, fired)| (stage.to_owned(), fired.clone())).collect();
        let Eval { best: metric, goal, patience, .. } = config.eval.clone();
        Ok(Self { dir: dir.into(), metric, goal, rows, patience, is_finished: manifest.is_finished(), guards })
    }

    /// The row of the best model among the supervised one and the iterations; of equal ones the earliest.
    pub fn best(&self) -> Option<&Row> {
        self.candidates().reduce(|best, row| match (self.figure(best), self.figure(row)) {
            (Some(old), Some(new)) if better(self.goal, new.value, old.value) => row,
            _ => best,
        })
    }

    /// The metric's figure of a row.
    pub fn figure<'a>(&self, row: &'a Row) -> Option<&'a Figure> {
        row.report.figures.get(&self.metric)
    }

    /// The supervised model and the iterations.
    fn candidates(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.folder.starts_with("iter-"))
    }

    /// What the metrics know of each test record under the model of a row; nothing in runs of versions that did not keep it.
    pub fn records(&self, row: &Row) -> Result<Vec<Evaluated>, RunError> {
        let lines = self.dir.join(&row.folder).join("eval.jsonl");
        if lines.exists() { read_lines(&lines) } else { Ok(Vec::new()) }
    }

    /// What the metric gains or loses from one row to another, with its records, on the same prompts, where both say what it knows
    /// of each.
    pub fn difference(&self, from: &Row, (to, records): (&Row, &[Evaluated])) -> Result<Option<Figure>, RunError> {
        Ok(paired_difference(&self.records(from)?, records, &self.metric, &to.report.bootstrap)?)
    }

    /// Whether the run is over before its last iteration: as many as `eval.patience` in a row were no better than the best.
    pub fn is_out_of_patience(&self) -> bool {
        let after_best = |best: &Row| self.candidates().skip_while(|row| row.folder != best.folder).count() - 1;
        self.patience > 0 && self.best().is_some_and(|best| after_best(best) >= self.patience)
    }

    /// Whether nothing is left to play: all is, or patience is at its end.
    pub fn is_over(&self) -> bool {
        self.is_finished || self.is_out_of_patience()
    }

    /// Which one is the best, and how sure that is.
    fn verdict(&self) -> Result<Option<String>, RunError> {
        let Some((best, figure)) = self.best().and_then(|best| Some((best, self.figure(best)?))) else {
            return Ok(None);
        };
        let link = self.dir.join("best");
        let mut verdict =
            format!("best: {} (`{}` {}), linked as `{}`", best.folder, self.metric, words(figure), link.display());
        let records = self.records(best)?;
        let (mut unknown, mut near, mut ahead) = (Vec::new(), Vec::new(), Vec::new());
        for row in self.rows.iter().filter(|row| row.folder != best.folder) {
            match self.difference(row, (best, &records))? {
                None => unknown.push(row),
                Some(difference) if row.folder == FIRST => verdict += &format!("\n{}", against(FIRST, &difference)),
                Some(difference) if is_within(&difference, 0.0) => near.push(row),
                Some(_) => {}
            }
            if self.figure(row).is_some_and(|other| better(self.goal, other.value, figure.value)) {
                ahead.push(row);
            }
        }
        let mut add = |what: &str, rows: Vec<&Row>| {
            if !rows.is_empty() {
                let names: Vec<_> = rows.iter().map(|row| row.folder.as_str()).collect();
                verdict += &format!("\n{what}: {}", names.join(", "));
            }
        };
        add("the difference to these is within noise", near);
        add(
            "nobody knows whether the difference to these is noise, as the metric says nothing of single prompts",
            unknown,
        );
        add("ahead of it", ahead);
        Ok(Some(verdict))
    }

    /// A line about an iteration that was played and evaluated.
    pub(super) fn iteration(&self, row: &Row) -> Result<String, RunError> {
        let figure = self.figure(row).map(words).unwrap_or_default();
        let mut line = format!("`{}` {figure}", self.metric);
        let first = self.rows.iter().find(|first| first.folder == FIRST);
        let records = self.records(row)?;
        if let Some(difference) = first.map(|first| self.difference(first, (row, &records))).transpose()?.flatten() {
            line += &format!(", {}", against(FIRST, &difference));
        }
        if let Some(best) = self.best() {
            line += &if best.folder == row.folder {
                "; the best so far".into()
            } else {
                format!("; the best is {}", best.folder)
            };
        }
        Ok(line)
    }
}

/// A difference to a stage in words, and whether it may be chance.
fn against(stage: &str, difference: &Figure) -> String {
    let sign = if difference.value >= 0.0 { "+" } else { "" };
    let noise = match is_within(difference, 0.0) {
        true => ": within noise",
        false if difference.low.is_some() => ": more than noise",
        false => "",
    };
    format!("against {stage} {sign}{}{noise}", words(difference))
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
        match self.verdict() {
            Ok(Some(verdict)) => writeln!(f, "\n{verdict}")?,
            Ok(None) => {}
            Err(error) => writeln!(f, "\nthe stages cannot be compared: {error}")?,
        }
        if self.is_out_of_patience() && !self.is_finished {
            let s = if self.patience == 1 { "" } else { "s" };
            writeln!(
                f,
                "\nended after {} iteration{s} without a better one; with a larger `eval.patience`, or 0, it goes on",
                self.patience
            )?;
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

    /// Says in a line what came out of an iteration.
    pub(super) fn tell_iteration(&mut self, summary: &Summary, folder: &str) -> Result<(), RunError> {
        let Some(k) = folder.strip_prefix("iter-").filter(|k| *k != "0") else { return Ok(()) };
        let row = summary.rows.iter().find(|row| row.folder == folder).expect("a finished evaluation has a row");
        let mut line = format!("iteration {k} of {}: {}", self.config.game.iterations, summary.iteration(row)?);
        if let Some(TrainFigures {
            accuracy: Some(accuracy),
            real_change: Some(real),
            generated_change: Some(generated),
            ..
        }) = self.figures_of(&format!("{folder}/train"))?
        {
            line += &format!("; accuracy {accuracy:.2}, real {real:+.2}, generated {generated:+.2}");
        }
        self.observer.say(&line);
        Ok(())
    }

    /// Lets the link `best` name the best model so far.
    pub(super) fn name_best(&self, summary: &Summary) -> Result<(), RunError> {
        let (Some(best), link) = (summary.best(), self.path("best")) else { return Ok(()) };
        let target = Path::new(&best.folder);
        if std::fs::read_link(&link).is_ok_and(|there| there == target) {
            return Ok(());
        }
        Ok(topspin_files::symlink_atomic(target, &link)?)
    }
}
