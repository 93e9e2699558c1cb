//! The user's own metric: a command that reads generations and prints numbers.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Deserialize;
use topspin_eval::Figure;

use super::RunError;

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

/// Runs `command` on a file of generations and reads the figures off the last line that it prints.
pub fn score(command: &[String], file: &Path) -> Result<BTreeMap<String, Figure>, RunError> {
    let fail = |problem: String| RunError::Scorer { command: command.join(" "), problem, file: file.into() };
    let (program, arguments) = command.split_first().expect("a scorer that is run has a name");
    // What it has to say beside its figures goes where this program's own messages go.
    let output = Command::new(program).args(arguments).arg(file).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|e| fail(format!("cannot be started ({e})")))?;
    if !output.status.success() {
        return Err(fail(format!("failed ({})", output.status)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().rev().find(|line| !line.trim().is_empty());
    let line = line.ok_or_else(|| fail("printed nothing".into()))?.trim();
    let said = serde_json::from_str(line).map_err(|_| {
        let start: String = line.chars().take(60).collect();
        fail(format!("printed {start:?} as its last line, which is neither a number nor a JSON object of numbers"))
    })?;
    let generations = || topspin_files::read(file).map(|text| text.iter().filter(|&&byte| byte == b'\n').count());
    let n = generations()?;
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
        Some((name, figure)) => Err(fail(format!("says that `{name}` is {}, which is no number", figure.value))),
        None => Ok(figures),
    }
}
