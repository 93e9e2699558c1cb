//! The models that are measured.

use std::path::Path;

use anyhow::bail;
use topspin_eval::task::{OutputType, Task};
use topspin_game::run::{self, Folder};
use topspin_model::dialect::Dialect;
use topspin_model::source::ModelFiles;

use crate::engine;

/// A model to be measured.
pub struct Candidate {
    /// What it is called: as it was named, or a run's folder and the stage.
    pub name: String,
    /// All of it but the weights.
    pub files: ModelFiles,
    /// The place of the model that `discrimination` takes the log-ratio to.
    pub before: Option<usize>,
    /// Whether it is measured by all tasks and shown; else it is a reference alone.
    pub shown: bool,
    /// The folder of the run that it is of, where all models of one were asked for.
    pub run: Option<String>,
}

/// The folder of the supervised model, which the run itself compares its iterations with.
const SUPERVISED: &str = "iter-0";

impl Candidate {
    /// What it is called among the models of its run, or among any.
    pub fn short_name(&self) -> &str {
        let in_run = self.run.as_ref().and_then(|run| self.name.strip_prefix(run.as_str())?.strip_prefix('/'));
        in_run.unwrap_or(&self.name)
    }

    /// Whether a task is asked of it: of a reference only how responses are told apart.
    pub fn is_asked(&self, task: &Task) -> bool {
        self.shown || task.settings.output_type == OutputType::Discrimination
    }
}

/// Opens the models that are named, those of a run one by one, and the reference.
pub fn find(specs: &[String], reference: Option<&str>) -> anyhow::Result<Vec<Candidate>> {
    let mut all: Vec<Candidate> = Vec::new();
    for spec in specs {
        let (first, dir) = (all.len(), Path::new(spec));
        if Folder::is_in(dir) {
            let candidates = Folder::open(dir)?.candidates()?;
            let folders: Vec<_> = candidates.iter().map(|candidate| candidate.folder.clone()).collect();
            for run::Candidate { folder, before, files } in candidates {
                let before = before.and_then(|before| folders.iter().position(|folder| *folder == before));
                let run = spec.trim_end_matches('/').to_owned();
                let (name, before) = (format!("{run}/{folder}"), before.map(|before| first + before));
                all.push(Candidate { name, files, before, shown: true, run: Some(run) });
            }
        } else {
            all.push(Candidate { name: spec.clone(), files: open(spec)?, before: None, shown: true, run: None });
        }
    }
    for (place, candidate) in all.iter().enumerate() {
        if all[..place].iter().any(|other| other.name == candidate.name) {
            bail!("`{}` is named twice; name each model once", candidate.name);
        }
    }
    if let Some(reference) = reference {
        let place = match all.iter().position(|candidate| candidate.name == reference) {
            Some(place) => place,
            None => {
                let files = open(reference)?;
                all.push(Candidate { name: reference.into(), files, before: None, shown: false, run: None });
                all.len() - 1
            }
        };
        for (at, candidate) in all.iter_mut().enumerate() {
            candidate.before = (at != place).then_some(place);
        }
    }
    Ok(all)
}

/// Opens one model: also that of a stage folder of a run, as the run does it.
fn open(spec: &str) -> anyhow::Result<ModelFiles> {
    let path = Path::new(spec);
    if let (Some(dir), Some(folder)) = (path.parent(), path.file_name().and_then(|name| name.to_str()))
        && Folder::is_in(dir)
        && (folder == "base" || path.join("model").is_dir())
    {
        return Ok(Folder::open(dir)?.model(folder)?);
    }
    let is_model = ["config.json", "adapter_config.json"].iter().any(|name| path.join(name).exists());
    if path.is_dir() && !is_model {
        bail!("`{spec}` is neither a run (it has no `manifest.json`) nor a model (it has no `config.json`)");
    }
    engine::open(spec)
}

/// The places of those that are shown, the one that the others are compared with first: the first one, or the supervised model
/// of the first run.
pub fn compared(candidates: &[Candidate]) -> Vec<usize> {
    let mut shown: Vec<usize> = (0..candidates.len()).filter(|&at| candidates[at].shown).collect();
    let run = candidates.first().and_then(|first| first.run.as_ref());
    let is_start = |at: &usize| candidates[*at].run.as_ref() == run && candidates[*at].short_name() == SUPERVISED;
    if let Some(start) = run.and_then(|_| shown.iter().position(is_start)) {
        shown[..=start].rotate_right(1);
    }
    shown
}

/// The order in which they are measured: each behind the one that its log-ratio is to.
pub fn order(candidates: &[Candidate]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    // A reference has none itself, and of a run a stage comes after the one that it was trained from.
    order.sort_by_key(|&at| candidates[at].before.is_some());
    order
}

/// Checks that samples of each model that a log-ratio is to can be scored by the other one.
pub fn check_tokenizers(candidates: &[Candidate]) -> anyhow::Result<()> {
    for candidate in candidates {
        let Some(before) = candidate.before.map(|before| &candidates[before]) else { continue };
        if !have_same_tokens(&candidate.files.dialect, &before.files.dialect) {
            bail!(
                "`{}` and `{}` have different tokenizers, and `discrimination` has one score the samples of the other; choose a \
                 reference of the same family",
                candidate.name,
                before.name
            );
        }
    }
    Ok(())
}

fn have_same_tokens(left: &Dialect, right: &Dialect) -> bool {
    let (left, right) = (left.tokenizer(), right.tokenizer());
    let size = left.vocab_size();
    size == right.vocab_size() && (0..size as u32).all(|id| left.token(id) == right.token(id))
}
