//! The table of results: what each stage's evaluation says, which stage is the best, and how stages differ.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Folder, PageError};
use crate::{Bootstrap, Evaluated, Figure, Report, higher_is_better, paired_difference};

/// The evaluations of a run.
#[derive(Debug, Serialize)]
pub struct Results {
    /// The figure that names the best stage.
    pub metric: Option<String>,
    /// Whether its largest value is the best; else the smallest.
    pub highest: bool,
    /// Whether higher values of a figure are better, for those of which that is known.
    pub higher_is_better: BTreeMap<String, bool>,
    /// Iterations in a row without a better one after which the run ended, if it did.
    pub out_of_patience: Option<usize>,
    /// Place of the best row among the supervised stage and the iterations; of equal ones the earliest.
    pub best: Option<usize>,
    /// One row for each stage that is evaluated, in order.
    pub rows: Vec<Row>,
    /// How a row differs from one before it.
    pub differences: Vec<Differences>,
}

/// An evaluation.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The stage's folder.
    pub folder: String,
    /// All figures.
    pub figures: BTreeMap<String, Figure>,
    /// The stage that its model is set against.
    #[serde(skip)]
    pub before: Option<String>,
    /// What is known of each test record; runs of earlier versions do not have it.
    #[serde(skip)]
    pub records: Vec<Evaluated>,
}

/// How two rows differ.
#[derive(Debug, Serialize)]
pub struct Differences {
    /// Place of the row that is compared with.
    pub from: usize,
    /// Place of the later row.
    pub to: usize,
    /// Differences by figure.
    pub figures: BTreeMap<String, Difference>,
}

/// The difference of two figures with its 95% interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The later figure less the earlier one.
    pub value: f64,
    /// Lower end of the interval, where both figures have one.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// Whether it is taken prompt by prompt; else the interval is that of two figures of different prompts, which is wider
    /// where answers to the same prompts go together.
    pub paired: bool,
}

impl Difference {
    /// Of two figures of which nothing is known by prompt: the ends by squares and sums of the distances to theirs
    /// (Newcombe 1998, method 10, for shares; Zou and Donner 2008 for other figures).
    fn unpaired(from: &Figure, to: &Figure) -> Self {
        let value = to.value - from.value;
        let end = |to_end: Option<f64>, from_end: Option<f64>| Some((to_end? - to.value).hypot(from_end? - from.value));
        let low = end(to.low, from.high).map(|distance| value - distance);
        let high = end(to.high, from.low).map(|distance| value + distance);
        Self { value, low, high, paired: false }
    }

    /// Whether the interval leaves out 0, and if so on which side it lies.
    pub fn sign(&self) -> Option<f64> {
        let (low, high) = (self.low?, self.high?);
        (low > 0.0 || high < 0.0).then_some(self.value.signum())
    }
}

/// Reads the evaluations.
pub fn read(folder: &Folder) -> Result<Results, PageError> {
    let mut rows = Vec::new();
    for name in folder.stage_folders() {
        if let Some(report) = folder.json::<Report>(name, "eval.json")? {
            let mut records = Vec::new();
            folder.lines(name, "eval", |record| records.push(record))?;
            let Report { before, figures, .. } = report;
            rows.push(Row { folder: name.into(), figures, before, records });
        }
    }
    let setting = |key| folder.setting("eval", key).and_then(toml::Value::as_str);
    let metric = setting("best").map(str::to_owned);
    let highest = setting("goal") == Some("highest");
    let pairs = (1..rows.len()).flat_map(|to| (0..to).map(move |from| (from, to)));
    let of = |place: usize| (place, &rows[place]);
    let differences = pairs.map(|(from, to)| Differences::new(of(from), of(to))).collect();
    let names = rows.iter().flat_map(|row: &Row| row.figures.keys());
    let higher_is_better = names.filter_map(|name| Some((name.clone(), higher_is_better(name)?))).collect();
    let (best, out_of_patience) = (None, None);
    let mut results = Results { metric, highest, higher_is_better, out_of_patience, best, rows, differences };
    results.best = results.find_best();
    let patience = folder.setting("eval", "patience").and_then(toml::Value::as_integer).unwrap_or_default() as usize;
    results.out_of_patience = Some(patience).filter(|&patience| patience > 0 && results.since_best() >= patience);
    Ok(results)
}

impl Results {
    /// The figure of a row that names the best one.
    pub fn figure(&self, row: usize) -> Option<&Figure> {
        self.rows[row].figures.get(self.metric.as_ref()?)
    }

    /// Whether one value is better than another.
    pub fn is_better(&self, value: f64, than: f64) -> bool {
        if self.highest { value > than } else { value < than }
    }

    fn find_best(&self) -> Option<usize> {
        let rows = (0..self.rows.len()).filter(|&row| self.rows[row].folder.starts_with("iter-"));
        rows.filter_map(|row| Some((row, self.figure(row)?.value)))
            .reduce(|best, row| if self.is_better(row.1, best.1) { row } else { best })
            .map(|(row, _)| row)
    }

    /// Iterations that were evaluated after the best one.
    fn since_best(&self) -> usize {
        let after = self.best.map_or(&[][..], |best| &self.rows[best + 1..]);
        after.iter().filter(|row| row.folder.starts_with("iter-")).count()
    }

    /// The place of a folder's row.
    pub fn place(&self, folder: &str) -> Option<usize> {
        self.rows.iter().position(|row| row.folder == folder)
    }

    /// How the figure that names the best stage changes from one row to a later one.
    pub fn difference(&self, from: usize, to: usize) -> Option<&Difference> {
        let differences =
            self.differences.iter().find(|differences| (differences.from, differences.to) == (from, to))?;
        differences.figures.get(self.metric.as_ref()?)
    }
}

impl Differences {
    /// How a row differs from another one of the same run or of another; each behind its place.
    pub fn new((from, left): (usize, &Row), (to, right): (usize, &Row)) -> Self {
        let difference = |name: &String| {
            let figures = (left.figures.get(name)?, right.figures.get(name)?);
            let paired = paired_difference(&left.records, &right.records, name, &Bootstrap::default());
            Some(match paired.ok().flatten() {
                Some(Figure { value, low, high, .. }) => Difference { value, low, high, paired: true },
                None => Difference::unpaired(figures.0, figures.1),
            })
        };
        let figures = right.figures.keys().filter_map(|name| Some((name.clone(), difference(name)?))).collect();
        Self { from, to, figures }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Newcombe (1998), Statistics in Medicine 17, table II: 56/70 and 48/80, method 10: 0.2 [0.0524, 0.3339].
    #[test]
    fn the_unpaired_interval_is_newcombes() {
        let (from, to) = (crate::share(48, 80).unwrap(), crate::share(56, 70).unwrap());
        let difference = Difference::unpaired(&from, &to);
        assert!((difference.value - 0.2).abs() < 1e-12);
        assert!((difference.low.unwrap() - 0.0524).abs() < 5e-5 && (difference.high.unwrap() - 0.3339).abs() < 5e-5);
        assert_eq!(difference.sign(), Some(1.0));
        let same = Difference::unpaired(&from, &from);
        assert_eq!((same.value, same.sign()), (0.0, None));
        assert_eq!(Difference::unpaired(&Figure::without_interval(1.0, 3), &to).low, None);
    }
}
