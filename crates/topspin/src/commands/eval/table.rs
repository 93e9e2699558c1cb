//! What was measured, as tables.

use std::collections::BTreeMap;
use std::io::{self, Write};

use topspin_eval::Figure;
use topspin_eval::task::{Comparison, OutputType, Task};

use super::Against;
use super::docs::Docs;

/// A model's part of a table.
pub struct Row<'a> {
    /// Its name.
    pub model: &'a str,
    /// Its figures.
    pub figures: &'a BTreeMap<String, Figure>,
    /// The same against those of another model; nothing of that one itself.
    pub against: &'a BTreeMap<String, Against<'a>>,
}

/// The line above a table.
pub fn heading(task: &Task, docs: &Docs) -> String {
    let (count, data) = (docs.all.len(), &task.settings.data);
    let s = if count == 1 { "" } else { "s" };
    let how = match (task.settings.output_type, task.temperature, task.settings.samples) {
        (OutputType::GenerateUntil, 0.0, _) => "; greedy answers".into(),
        (OutputType::GenerateUntil, temperature, 1) => format!("; answers sampled at temperature {temperature}"),
        (OutputType::GenerateUntil, temperature, samples) => {
            format!("; {samples} answers to each sampled at temperature {temperature}")
        }
        _ => String::new(),
    };
    format!("{}: {count} record{s} of `{data}`{how}", task.name)
}

/// Writes a table of one model, or of several against the one called `other`.
pub fn write(rows: &[Row], other: &str, out: &mut dyn Write) -> io::Result<()> {
    let mut table = vec![head(rows, other)];
    // All that any has: a log-ratio may be one of later models alone.
    let names: std::collections::BTreeSet<_> = rows.iter().flat_map(|row| row.figures.keys()).collect();
    for name in names {
        let mut label = name.as_str();
        for row in rows {
            let Some(figure) = row.figures.get(name) else { continue };
            let mut cells = vec![std::mem::take(&mut label).to_owned()];
            if rows.len() > 1 {
                cells.push(row.model.into());
            }
            cells.extend([short(figure.value), interval(figure), figure.n.to_string()]);
            if let Some(Against { comparison: Comparison { difference, win_rate }, .. }) = row.against.get(name) {
                cells.extend([told(difference), win_rate.map_or(String::new(), |rate| short(rate.value))]);
            }
            table.push(cells);
        }
    }
    let columns = table.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        table.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in &table {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

fn head(rows: &[Row], other: &str) -> Vec<String> {
    let mut head = vec![String::new()];
    if rows.len() > 1 {
        head.push("model".into());
    }
    head.extend(["value", "95% interval", "n"].map(String::from));
    if rows.len() > 1 {
        head.extend([format!("against {other}"), "wins".into()]);
    }
    head
}

/// A difference, and whether it may be chance.
fn told(difference: &Figure) -> String {
    let sign = if difference.value >= 0.0 { "+" } else { "" };
    let noise = match (difference.low, difference.high) {
        (Some(low), Some(high)) if (low..=high).contains(&0.0) => ", within noise",
        _ => "",
    };
    match interval(difference) {
        none if none.is_empty() => format!("{sign}{}", short(difference.value)),
        interval => format!("{sign}{} ({interval}){noise}", short(difference.value)),
    }
}

fn interval(figure: &Figure) -> String {
    match (figure.low, figure.high) {
        (Some(low), Some(high)) => format!("{} .. {}", short(low), short(high)),
        _ => String::new(),
    }
}

/// Four significant digits or so.
fn short(value: f64) -> String {
    let digits = if value.abs() >= 100.0 {
        1
    } else if value.abs() >= 10.0 {
        2
    } else {
        4
    };
    format!("{value:.digits$}")
}
