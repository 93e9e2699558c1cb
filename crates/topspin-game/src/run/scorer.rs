//! The user's own metric: a command that reads generations and prints numbers.

use std::collections::BTreeMap;

use serde::Deserialize;
use topspin_eval::Figure;

use super::RunError;
use super::command::Call;

/// What a scorer says of a metric: the figure alone, or with its interval.
#[derive(Deserialize)]
#[serde(untagged)]
enum Said {
    Number(f64),
    Figure(Figure),
}

/// All that a scorer says.
#[derive(Deserialize)]
#[serde(untagged)]
enum LastLine {
    Number(f64),
    Figures(BTreeMap<String, Said>),
}

/// Runs a command on a file of generations and reads the figures off the last line that it prints.
pub fn score(call: &Call) -> Result<BTreeMap<String, Figure>, RunError> {
    let mut last = String::new();
    call.run(|line| {
        if !line.trim().is_empty() {
            last = line.trim().into();
        }
        Ok(())
    })?;
    if last.is_empty() {
        return Err(call.fault("printed nothing"));
    }
    let said = serde_json::from_str(&last).map_err(|_| {
        let start: String = last.chars().take(60).collect();
        call.fault(&format!(
            "printed {start:?} as its last line, which is neither a number nor a JSON object of numbers"
        ))
    })?;
    let n = topspin_files::read(call.file)?.iter().filter(|&&byte| byte == b'\n').count();
    let figures: BTreeMap<_, _> = match said {
        LastLine::Number(value) => BTreeMap::from([("score".into(), Figure::without_interval(value, n))]),
        LastLine::Figures(figures) => figures
            .into_iter()
            .map(|(name, said)| match said {
                Said::Number(value) => (name, Figure::without_interval(value, n)),
                Said::Figure(figure) => (name, figure),
            })
            .collect(),
    };
    match figures.iter().find(|(_, figure)| !figure.value.is_finite()) {
        Some((name, figure)) => Err(call.fault(&format!("says that `{name}` is {}, which is no number", figure.value))),
        None => Ok(figures),
    }
}
