//! Curves of training: a point for each step, or for as many neighbouring ones as it takes to stay below a limit.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Folder, PageError};

/// Most points of one stage's curve. More would fall on the same pixels.
const POINTS: usize = 1000;

/// What earlier versions called some figures, and what they are called now.
const RENAMED: [(&str, &str); 3] =
    [("loss", "train/loss"), ("grad_norm", "train/grad_norm"), ("lr", "train/learning_rate")];

/// The curves of one stage of training.
#[derive(Debug, Serialize)]
pub struct Curve {
    /// The stage's folder.
    pub folder: String,
    /// Steps of the stages before it in its line of descent.
    pub before: usize,
    /// Its own steps.
    pub steps: usize,
    /// Steps that each point is the mean of.
    pub steps_per_point: usize,
    /// Values by the name that `metrics.jsonl` and `throughput.jsonl` give them, one for each point; none where no step
    /// of the point has one.
    pub series: BTreeMap<String, Vec<Option<f64>>>,
}

/// Reads the curves of a run. Steps count on from the supervised stage over all iterations; each control counts on from the
/// supervised stage.
pub fn read(folder: &Folder) -> Result<Vec<Curve>, PageError> {
    let (mut curves, mut supervised, mut before) = (Vec::new(), 0, 0);
    let folders = folder.stage_folders();
    for name in folders.iter().filter(|name| !name.contains('/')) {
        let mut steps: BTreeMap<u64, Map<String, Value>> = BTreeMap::new();
        // An iteration in rounds has its steps in one file at its end, and those of finished rounds in theirs till then.
        let rounds = folders.iter().filter(|round| round.strip_prefix(name).is_some_and(|rest| rest.starts_with('/')));
        for part in rounds.chain([name]) {
            for file in ["metrics", "throughput"] {
                folder.lines_so_far(part, file, |mut line: Map<String, Value>| {
                    for (old, new) in RENAMED {
                        if let Some(value) = line.remove(old) {
                            line.insert(new.into(), value);
                        }
                    }
                    if let Some(step) = line.get("step").and_then(Value::as_u64) {
                        steps.entry(step).or_default().extend(line);
                    }
                })?;
            }
        }
        if steps.is_empty() {
            continue;
        }
        let is_control = name.starts_with("control-");
        let curve = Curve::new(name, if is_control { supervised } else { before }, steps.into_values().collect());
        if !is_control {
            before += curve.steps;
        }
        if *name == "iter-0" {
            supervised = before;
        }
        curves.push(curve);
    }
    Ok(curves)
}

impl Curve {
    fn new(folder: &str, before: usize, lines: Vec<Map<String, Value>>) -> Self {
        let steps_per_point = lines.len().div_ceil(POINTS);
        let names = lines.iter().flat_map(Map::keys).filter(|name| *name != "step");
        let mut series: BTreeMap<String, Vec<Option<f64>>> = names.map(|name| (name.clone(), Vec::new())).collect();
        for lines in lines.chunks(steps_per_point) {
            for (name, points) in &mut series {
                let values = || lines.iter().filter_map(|line| line.get(name)?.as_f64());
                let n = values().count();
                points.push((n > 0).then(|| rounded(values().sum::<f64>() / n as f64)));
            }
        }
        series.retain(|_, points| points.iter().any(Option::is_some));
        Self { folder: folder.into(), before, steps: lines.len(), steps_per_point, series }
    }
}

/// Five significant digits: more cannot be seen.
fn rounded(value: f64) -> f64 {
    format!("{value:.4e}").parse().unwrap_or(value)
}
