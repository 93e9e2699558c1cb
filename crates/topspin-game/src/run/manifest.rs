//! `manifest.json`: what a run was made from, and the state of every stage.
//!
//! The manifest is the one authority on what is finished: a stage writes its artefacts, then the manifest names them
//! with their hashes. A stage that died in between is done again and writes the same.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use topspin_files::{Action, FileError};

use super::lines::{read_json, write_json};
use super::{Fired, RunError};
use crate::config::Config;

/// Version of the folder's form.
const FORMAT: u32 = 1;

/// Settings that change no byte of any artefact, and paths, whose contents (and weights) are compared instead. So do those of
/// `[guard]`: what fired is told by the thresholds of its time.
const FREE: &[&str] = &[
    "data.max_unusable",
    "data.test",
    "data.train",
    "eval.best",
    "eval.goal",
    "eval.patience",
    "eval.timeout",
    "model.path",
    "model.weights",
    "output.dir",
    "output.prometheus",
    "output.tensorboard",
    "output.threads",
    "rollout.live_sequences",
    "rollout.rows_per_step",
    "score.timeout",
    "train.checkpoint_every",
    "train.recompute",
];

/// What a run was made from, and how far it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the folder's form.
    pub format: u32,
    /// Version of the program that began the run.
    pub topspin: String,
    /// Seed of every random number.
    pub seed: u64,
    /// What the run reads.
    pub inputs: Inputs,
    /// What became of the records in it.
    #[serde(default)]
    pub records: Records,
    /// The moment that the chat template is told, in seconds since 1970, if it asks for the date: a run that goes on
    /// another day keeps the prompts that it began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<u64>,
    /// All stages, in order.
    pub stages: Vec<Stage>,
}

/// What a manifest of any form says.
#[derive(Deserialize)]
struct Form {
    format: u32,
    topspin: String,
}

/// Records of a run, by what became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Records {
    /// In the data files.
    pub read: usize,
    /// To train on, those of weighted files as often as they are drawn.
    pub train: usize,
    /// To evaluate on.
    pub test: usize,
    /// Of the training files: that repeat another word for word. They are used like any other.
    pub duplicates: usize,
    /// Of the training files: whose prompt is evaluated on as well, which a held-out share never has.
    pub tested: usize,
    /// Of those to train on: real responses cut at the limit of tokens.
    pub cut: usize,
    /// Left out, because the prompt is longer than `data.max_prompt_tokens`.
    pub too_long: usize,
    /// Left out, because they cannot be used, by reason.
    pub unusable: BTreeMap<String, usize>,
}

/// A file that the run reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Where it was.
    pub path: PathBuf,
    /// SHA-256 of its content, in hexadecimal.
    pub sha256: String,
    /// How often its records are drawn in an epoch; once, if nothing is said.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub weight: f64,
}

fn once() -> f64 {
    1.0
}

fn is_once(weight: &f64) -> bool {
    *weight == once()
}

impl Input {
    /// What `path` names, with the hash of its content.
    pub fn new(path: PathBuf, sha256: String) -> Self {
        Self { path, sha256, weight: once() }
    }
}

/// The files that a run reads, by the setting that names them; of several files each adds its number (`data.train.2`).
pub type Inputs = BTreeMap<String, Input>;

/// How far a stage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not begun, or begun and not finished.
    Pending,
    /// Finished: never done again.
    Done,
}

/// One stage of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Folder and work: `iter-1/rollouts`.
    pub name: String,
    /// How far it is.
    pub state: State,
    /// SHA-256 of the artefacts that it wrote, by path within the run's folder. Of weights there is none here: they
    /// are large, and their own format shows damage.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
    /// Its results in short.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub figures: Map<String, Value>,
    /// Guards that fired in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guards: Vec<Fired>,
}

impl Manifest {
    /// The manifest of a run that begins.
    pub fn new(seed: u64, inputs: Inputs, date: Option<u64>, stages: impl IntoIterator<Item = String>) -> Self {
        let stage = |name| Stage {
            name,
            state: State::Pending,
            files: BTreeMap::new(),
            figures: Map::new(),
            guards: Vec::new(),
        };
        Self {
            format: FORMAT,
            topspin: env!("CARGO_PKG_VERSION").into(),
            seed,
            inputs,
            records: Records::default(),
            date,
            stages: stages.into_iter().map(stage).collect(),
        }
    }

    /// Enters a stage as finished.
    pub(super) fn finish(
        &mut self,
        name: &str,
        files: BTreeMap<String, String>,
        figures: Map<String, Value>,
        guards: Vec<Fired>,
    ) {
        let stage = self.stages.iter_mut().find(|stage| stage.name == name).expect("a stage that runs is planned");
        (stage.state, stage.files, stage.figures, stage.guards) = (State::Done, files, figures, guards);
    }

    /// Guards that fired, with the stage of each, in order.
    pub fn guards(&self) -> impl Iterator<Item = (&str, &Fired)> {
        self.stages.iter().flat_map(|stage| stage.guards.iter().map(|fired| (stage.name.as_str(), fired)))
    }

    /// Folders of the stages that are evaluated, in order.
    pub fn evaluated(&self) -> impl DoubleEndedIterator<Item = &str> {
        let done = self.stages.iter().filter(|stage| stage.state == State::Done);
        done.filter_map(|stage| stage.name.strip_suffix("/eval"))
    }

    /// Number of finished stages.
    pub fn finished(&self) -> usize {
        self.stages.iter().filter(|stage| stage.state == State::Done).count()
    }

    /// Whether all stages are finished.
    pub fn is_finished(&self) -> bool {
        self.finished() == self.stages.len()
    }

    /// Reads the manifest of a run's folder.
    pub fn read(dir: &Path) -> Result<Self, RunError> {
        let path = dir.join("manifest.json");
        // First this, since what it says besides may be unknown here.
        match read_json(&path)? {
            Form { format: FORMAT, .. } => read_json(&path),
            Form { topspin: version, .. } => Err(RunError::OtherFormat { dir: dir.into(), version }),
        }
    }

    /// Writes the manifest into a run's folder.
    pub fn write(&self, dir: &Path) -> Result<(), FileError> {
        write_json(&dir.join("manifest.json"), self)
    }

    /// The stage of that name.
    pub fn stage(&self, name: &str) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    /// The results of a finished stage.
    pub fn figures(&self, name: &str) -> Option<&Map<String, Value>> {
        self.stage(name).filter(|stage| stage.state == State::Done).map(|stage| &stage.figures)
    }

    /// Whether this manifest, read from `dir`, is that of a run on the same inputs.
    pub fn check_same_inputs(&self, now: &Inputs, dir: &Path) -> Result<(), RunError> {
        let changed = |key: &String, change| RunError::InputChanged { key: key.clone(), change, dir: dir.into() };
        for (key, then) in &self.inputs {
            let old = then.path.display();
            match now.get(key) {
                Some(input) if input.sha256 == then.sha256 && input.weight == then.weight => {}
                Some(input) if input.sha256 == then.sha256 => {
                    return Err(changed(key, format!("the weight of `{old}`: {} -> {}", then.weight, input.weight)));
                }
                Some(input) if input.path == then.path => {
                    return Err(changed(key, format!("the content of `{old}`")));
                }
                Some(input) => return Err(changed(key, format!("`{old}` -> `{}`", input.path.display()))),
                None => return Err(changed(key, format!("`{old}` is gone"))),
            }
        }
        match now.iter().find(|(key, _)| !self.inputs.contains_key(*key)) {
            Some((key, input)) => Err(changed(key, format!("`{}` is new", input.path.display()))),
            None => Ok(()),
        }
    }

    /// Whether the settings in `dir/config.toml` are those of `now`, apart from ones that change no artefact, and from learning
    /// rates of stages that are not finished. Gives back the training states that such a change makes void.
    pub fn check_same_config(&self, now: &Config, dir: &Path) -> Result<Vec<PathBuf>, RunError> {
        let path = dir.join("config.toml");
        let mut then = Config::parse(&topspin_files::read_to_string(&path)?, &path, &[])?;
        let changed: Vec<_> = rates(&then).into_iter().zip(rates(now)).filter(|(old, new)| old != new).collect();
        let of = |stage: &Stage| changed.iter().any(|((folder, _), _)| stage.name.starts_with(&format!("{folder}/")));
        let trained: Vec<_> = self.stages.iter().filter(|stage| stage.name.ends_with("/train") && of(stage)).collect();
        // Where a stage has been trained at the old rate, the comparison below finds it.
        if trained.iter().all(|stage| stage.state == State::Pending) {
            then.sft.lr = now.sft.lr;
            then.sft.controls.iter_mut().zip(&now.sft.controls).for_each(|(then, now)| then.lr = now.lr);
            then.train.lr = now.train.lr.clone();
        }
        // What is measured may be changed, and a scorer that failed mended, as long as no figure stands anywhere.
        let evaluated = self.stages.iter().any(|stage| stage.name.ends_with("/eval") && stage.state == State::Done);
        // So may a score's command as long as no answer of it does.
        let has_answers = |stage: &Stage| {
            let partial = || std::fs::metadata(dir.join(format!("{}.partial.jsonl", stage.name)));
            stage.name.ends_with("/scores")
                && (stage.state == State::Done || partial().is_ok_and(|file| file.len() > 0))
        };
        let scored = self.stages.iter().any(has_answers);
        let is_free = |key: &str| match key {
            "eval.metrics" | "eval.scorer" => !evaluated,
            "score.command" => !scored,
            key => FREE.contains(&key) || key.starts_with("guard."),
        };
        for ((key, old), (_, new)) in then.entries().into_iter().zip(now.entries()) {
            if old != new && !is_free(&key) {
                let (old, new) = (old.to_string(), new.to_string());
                return Err(RunError::ConfigChanged { key, old, new, dir: dir.into() });
            }
        }
        Ok(trained.iter().map(|stage| dir.join(&stage.name).with_file_name("state.bin")).collect())
    }

    /// Whether the stages are `planned`, those of the settings.
    pub fn check_stages(&self, planned: &[String], dir: &Path) -> Result<(), RunError> {
        if self.stages.iter().map(|stage| &stage.name).eq(planned) {
            return Ok(());
        }
        let problem = "its stages are not those of the configuration".into();
        Err(RunError::Damaged { path: dir.join("manifest.json"), line: 1, problem })
    }

    /// Whether the artefacts of the finished stages are as they were left.
    pub fn check_artefacts(&self, dir: &Path) -> Result<(), RunError> {
        for stage in self.stages.iter().filter(|stage| stage.state == State::Done) {
            for (name, hash) in &stage.files {
                let path = dir.join(name);
                if sha256_of_file(&path)? != *hash {
                    return Err(RunError::ArtefactChanged { path, stage: stage.name.clone() });
                }
            }
        }
        Ok(())
    }
}

/// Learning rates, each behind the folder of the stages that train at it.
fn rates(config: &Config) -> Vec<(String, f64)> {
    let controls = config.sft.controls.iter().zip(1..).map(|(control, n)| (format!("control-{n}"), control.lr));
    let iterations = (1..=config.game.iterations).map(|k| (format!("iter-{k}"), *config.train.lr.of(k)));
    std::iter::once(("iter-0".to_owned(), config.sft.lr)).chain(controls).chain(iterations).collect()
}

/// SHA-256 of a file, in hexadecimal.
pub fn sha256_of_file(path: &Path) -> Result<String, FileError> {
    let fail = |e| FileError::new(Action::Read, path, e);
    let mut file = topspin_files::open(path)?;
    let mut hash = Sha256::new();
    loop {
        let part = file.fill_buf().map_err(fail)?;
        if part.is_empty() {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(part);
        let len = part.len();
        file.consume(len);
    }
}

/// SHA-256 of a text, in hexadecimal.
pub fn sha256_of_text(text: &str) -> String {
    hex(&Sha256::digest(text))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
