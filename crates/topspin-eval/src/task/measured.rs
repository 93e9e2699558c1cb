//! The figures of a task, and of two models against each other.

use serde::Serialize;

use super::{Task, metric_and_filter};
use crate::harness::Metric;
use crate::{Bootstrap, Discrimination, EvalError, Evaluated, Figure, Report, distinct_n, paired_difference, win_rate};

/// The figure that follows from `nll.per_token`.
const PERPLEXITY: &str = "nll.perplexity";

/// What was measured of a model by a task.
#[derive(Clone, Debug)]
pub struct Measured {
    /// All figures.
    pub report: Report,
    /// What is known of each record, in an order that does not depend on that of the data.
    pub records: Vec<Evaluated>,
    /// Its responses, real and generated ones, where these are told apart.
    pub discrimination: Option<Discrimination>,
}

impl Measured {
    /// The figures of records; of answers also how diverse they are, by all `texts` together; and how well `discrimination` tells.
    ///
    /// # Errors
    /// There are no records, or figures that are none.
    pub fn new(
        bootstrap: Bootstrap,
        records: Vec<Evaluated>,
        texts: &[impl AsRef<str>],
        discrimination: Option<Discrimination>,
    ) -> Result<Self, EvalError> {
        let mut report = Report::new(bootstrap);
        report.add_units(&records)?;
        let units: Vec<_> = records.iter().filter_map(|record| record.unit(PERPLEXITY)).collect();
        if !units.is_empty() {
            report.add(PERPLEXITY, report.bootstrap.units(&units)?);
        }
        for n in 1..=3 {
            // Answers of fewer words have no such figure.
            if let Ok(figure) = distinct_n(texts, n) {
                report.add(format!("distinct_{n}"), figure);
            }
        }
        if let Some(discrimination) = &discrimination {
            discrimination.report(&mut report)?;
        }
        Ok(Self { report, records, discrimination })
    }

    /// The figures by the harness's names.
    pub fn metrics(&self, task: &Task) -> Vec<Metric> {
        let metric = |(name, figure): (&String, &Figure)| {
            let (metric, filter) = metric_and_filter(name);
            let higher_is_better = task.higher_is_better(name);
            Metric { name: metric.into(), filter: filter.into(), figure: *figure, higher_is_better }
        };
        self.report.figures.iter().map(metric).collect()
    }
}

/// A figure of a model against that of another one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The difference to the other, over the same prompts.
    pub difference: Figure,
    /// The share of prompts at which it is the better one of the two, a draw being one half; nothing where neither end of the figure
    /// is known to be the better one, or where it says nothing of single prompts. A scorer's figure is better the higher it is,
    /// unless the task says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub win_rate: Option<Figure>,
}

/// Sets a figure of `right` against that of `left`; nothing where one lacks it, or where it says nothing of single prompts, as how
/// diverse answers are.
///
/// # Errors
/// As for [`paired_difference`] and [`win_rate`].
pub fn compare(task: &Task, left: &Measured, right: &Measured, figure: &str) -> Result<Option<Comparison>, EvalError> {
    let bootstrap = &right.report.bootstrap;
    if let (Some(then), Some(now)) = (&left.discrimination, &right.discrimination) {
        let difference = Discrimination::difference(then, now, figure, bootstrap)?;
        return Ok(difference.map(|difference| Comparison { difference, win_rate: None }));
    }
    let difference = paired_difference(&left.records, &right.records, figure, bootstrap)?;
    let Some(difference) = difference else { return Ok(None) };
    Ok(Some(Comparison { difference, win_rate: wins(task, left, right, figure)? }))
}

/// How often `right` is better.
fn wins(task: &Task, left: &Measured, right: &Measured, figure: &str) -> Result<Option<Figure>, EvalError> {
    // A length, and how an answer ended, has no better end.
    let is_neutral = ["tokens.", "finish."].iter().any(|group| figure.starts_with(group));
    let values = |record: &Evaluated| record.unit(figure).and_then(|unit| unit.value());
    let pairs = left.records.iter().zip(&right.records).map(|(then, now)| values(then).zip(values(now)));
    let Some((then, now)) =
        pairs.collect::<Option<Vec<_>>>().filter(|_| !is_neutral).map(|pairs| pairs.into_iter().unzip())
    else {
        return Ok(None);
    };
    let (then, now): (Vec<f64>, Vec<f64>) = (then, now);
    let rate = if task.higher_is_better(figure) == Some(false) { win_rate(&now, &then) } else { win_rate(&then, &now) };
    rate.map(Some)
}
