//! The user's own metrics: a command that reads answers as JSON lines and says of each what it is worth.

use std::collections::BTreeMap;

use serde::Deserialize;
use topspin_eval::Unit;

use crate::command::{Call, CommandError};

/// The metric of a scorer that prints bare numbers.
const UNNAMED: &str = "score";

/// What a scorer says of an answer by one metric.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Said {
    Hit(bool),
    Value(f64),
    Ratio([f64; 2]),
}

/// A line of a scorer.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    One(Said),
    Named(BTreeMap<String, Said>),
}

/// Runs a scorer on a file of `answers` answers, and reads what it says of each by metric.
///
/// It prints a line for each: a number, a truth value or a pair `[numerator, denominator]`, which is the metric `score`, or an
/// object of these by metric. All lines have the same metrics, and each metric is of one kind. `advance` is told how many answers
/// are scored.
///
/// # Errors
/// Whatever else it does is a [`CommandError::Fault`].
pub fn score(
    call: &Call,
    answers: usize,
    mut advance: impl FnMut(usize),
) -> Result<BTreeMap<String, Vec<Unit>>, CommandError> {
    let (mut units, mut lines) = (BTreeMap::<String, Vec<Unit>>::new(), 0);
    call.run(|said| {
        lines += 1;
        if lines > answers {
            return Err(call.fault(&format!("printed more than {answers} lines, though it reads no more{ONE_EACH}")));
        }
        let line = serde_json::from_str(said).map_err(|_| {
            let start: String = said.chars().take(60).collect();
            call.fault(&format!(
                "printed {start:?} for line {lines}, which is neither a number nor an object of numbers{ONE_EACH}"
            ))
        })?;
        add(&mut units, line, lines).map_err(|problem| call.fault(&problem))?;
        advance(lines);
        Ok(())
    })?;
    if lines < answers {
        return Err(call.fault(&format!("printed {lines} lines for the {answers} that it reads{ONE_EACH}")));
    }
    Ok(units)
}

/// What mends most faults.
const ONE_EACH: &str = "; it must print a number, or a JSON object of numbers, for each";

/// Adds what line `number`, from 1, says.
fn add(units: &mut BTreeMap<String, Vec<Unit>>, line: Line, number: usize) -> Result<(), String> {
    let named = match line {
        Line::One(said) => BTreeMap::from([(UNNAMED.to_owned(), said)]),
        Line::Named(named) => named,
    };
    if number > 1 && !units.keys().eq(named.keys()) {
        let names = |keys: Vec<&String>| if keys.is_empty() { "nothing".into() } else { keys_of(&keys) };
        let (now, before) = (names(named.keys().collect()), names(units.keys().collect()));
        return Err(format!(
            "says {now} in line {number}, and {before} in the lines before; it must say the same metrics in each"
        ));
    }
    for (name, said) in named {
        let unit = match said {
            Said::Hit(hit) => Unit::Hit(hit),
            Said::Value(value) => Unit::Value(value),
            Said::Ratio(ratio) => Unit::Ratio(ratio),
        };
        let of_name = units.entry(name.clone()).or_default();
        if of_name.first().is_some_and(|first| std::mem::discriminant(first) != std::mem::discriminant(&unit)) {
            return Err(format!(
                "says of `{name}` in line {number} something of another kind than before; it must say numbers, truth values or \
                 pairs of numbers in all"
            ));
        }
        of_name.push(unit);
    }
    Ok(())
}

fn keys_of(keys: &[&String]) -> String {
    keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
}
