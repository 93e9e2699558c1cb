//! Results and samples in the layout of lm-evaluation-harness: `DIR/MODEL/results_DATE.json`, `samples_TASK_DATE.jsonl`.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::{Map, json};
use topspin_eval::Bootstrap;
use topspin_eval::harness::{self, Results, Sample, SampleCounts};
use topspin_eval::task::{Measured, Task};
use topspin_files::{Action, FileError};
use topspin_model::clock::Clock;

use super::docs::Docs;
use crate::output;

/// A folder for the results of several models.
pub struct Folder {
    dir: PathBuf,
    /// The moment, as it stands in names.
    date: String,
}

impl Folder {
    /// Results of now go to `dir`, which is made if it is not there.
    pub fn new(dir: &Path) -> anyhow::Result<Self> {
        if dir.exists() && !dir.is_dir() {
            return Err(FileError::new(Action::Write, dir, ErrorKind::NotADirectory.into()).into());
        }
        topspin_files::create_dir_all(dir)?;
        Ok(Self { dir: dir.into(), date: now() })
    }

    /// Writes what was measured of a model, and what it said.
    pub fn write(
        &self,
        model: &str,
        seed: u64,
        tasks: &[Task],
        docs: &[Rc<Docs>],
        measured: &[&Measured],
        samples: Vec<Vec<Sample>>,
    ) -> anyhow::Result<()> {
        let name = sanitized(model);
        let dir = self.dir.join(&name);
        topspin_files::create_dir_all(&dir)?;
        let mut results = Results::default();
        let mut figures = Map::new();
        for (((task, docs), measured), samples) in tasks.iter().zip(docs).zip(measured).zip(&samples) {
            results.add(harness::Task {
                name: task.name.clone(),
                config: task.config(&task.settings.data),
                version: task.settings.version.into(),
                samples: SampleCounts { original: docs.original, effective: docs.all.len() },
                metrics: measured.metrics(task),
            });
            results.add_task_hash(&task.name, samples);
            figures.insert(task.name.clone(), json!(measured.report.figures));
            output::write_jsonl(&dir.join(format!("samples_{}_{}.jsonl", task.name, self.date)), samples)?;
        }
        let version = env!("CARGO_PKG_VERSION");
        let Bootstrap { seed: bootstrap_seed, replicates } = Bootstrap::default();
        results.rest.extend([
            (
                "config".to_owned(),
                json!({
                    "model": "topspin", "model_args": model, "topspin_version": version, "random_seed": seed,
                    "bootstrap_iters": replicates, "bootstrap_seed": bootstrap_seed,
                }),
            ),
            ("model_source".to_owned(), json!("topspin")),
            ("model_name".to_owned(), json!(model)),
            ("model_name_sanitized".to_owned(), json!(name)),
            // With intervals, for which the harness has no place.
            ("figures".to_owned(), figures.into()),
        ]);
        let text = serde_json::to_string_pretty(&results)?;
        topspin_files::write_atomic(&dir.join(format!("results_{}.json", self.date)), |out| writeln!(out, "{text}"))?;
        Ok(())
    }
}

/// A model's name as the harness makes a folder of it: two underscores for each run of signs that a path may not have.
fn sanitized(model: &str) -> String {
    let mut name = String::new();
    let mut in_run = false;
    for c in model.chars() {
        let is_odd = "\"<>:/|\\?*[]".contains(c);
        match (is_odd, in_run) {
            (false, _) => name.push(c),
            (true, false) => name.push_str("__"),
            (true, true) => {}
        }
        in_run = is_odd;
    }
    name
}

/// The moment in UTC, as Python's `isoformat` has it but with `-` for `:`.
fn now() -> String {
    Clock::now().format("%Y-%m-%dT%H-%M-%S").expect("these directives are known")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_harness() {
        // re.sub(r"[\"<>:/\|\\?\*\[\]]+", "__", ...)
        assert_eq!(sanitized("hf:org/name"), "hf__org__name");
        assert_eq!(sanitized("runs//a*?b/iter-1"), "runs__a__b__iter-1");
    }
}
