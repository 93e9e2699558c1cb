//! The models of a run, for whoever evaluates them anew.

use std::path::{Path, PathBuf};

use topspin_model::adapter::AdapterFiles;
use topspin_model::source::{ModelFiles, ModelSource};

use super::{BASE, Manifest, RunError};
use crate::config::Config;

/// The folder of a run, and what it was made from.
#[derive(Clone, Debug)]
pub struct Folder {
    dir: PathBuf,
    config: Config,
    manifest: Manifest,
}

/// A finished model of a run.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its stage folder.
    pub folder: String,
    /// The stage folder of the model that it was trained from, if that is a candidate.
    pub before: Option<String>,
    /// All of it but the weights.
    pub files: ModelFiles,
}

impl Folder {
    /// Whether `dir` is the folder of a run.
    pub fn is_in(dir: &Path) -> bool {
        dir.join("manifest.json").exists()
    }

    /// Opens the folder of a run, in whatever state it is.
    ///
    /// # Errors
    /// Its manifest or its configuration cannot be understood.
    pub fn open(dir: &Path) -> Result<Self, RunError> {
        let manifest = Manifest::read(dir)?;
        let path = dir.join("config.toml");
        let config = Config::parse(&topspin_files::read_to_string(&path)?, &path, &[])?;
        Ok(Self { dir: dir.into(), config, manifest })
    }

    /// The finished models, in the order of the stages: the model as it came where the run evaluates it, the supervised one and
    /// its controls, the iterations.
    ///
    /// # Errors
    /// There is none yet, or one cannot be opened.
    pub fn candidates(&self) -> Result<Vec<Candidate>, RunError> {
        let folders: Vec<&str> = self.manifest.stages.iter().filter_map(|stage| self.finished(&stage.name)).collect();
        if folders.iter().all(|&folder| folder == BASE) {
            let problem = "no finished model yet; let it run on".into();
            return Err(RunError::NoModel { dir: self.dir.clone(), problem });
        }
        let candidate = |&folder: &&str| {
            let before = before(folder).filter(|before| folders.contains(&before.as_str()));
            Ok(Candidate { folder: folder.into(), before, files: self.model(folder)? })
        };
        folders.iter().map(candidate).collect()
    }

    /// The model of a stage folder, all of it but the weights. An adapter stands above the model that the run started from, and
    /// prompts are told the date of the run.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn model(&self, folder: &str) -> Result<ModelFiles, RunError> {
        let base = || Ok(ModelFiles::open(&ModelSource::resolve(&self.config.model.path)?)?);
        let mut files = if folder == BASE { base()? } else { open(&self.dir.join(folder).join("model"), base)? };
        if let Some(date) = self.manifest.date {
            files.dialect = files.dialect.at(date);
        }
        Ok(files)
    }

    /// The stage folder of a stage whose end is a candidate.
    fn finished<'a>(&self, stage: &'a str) -> Option<&'a str> {
        let (folder, work) = stage.split_once('/')?;
        match (folder, work) {
            // That it is evaluated is planned from the beginning; it need not have happened.
            (BASE, "eval") => Some(folder),
            (_, "train") => self.manifest.figures(stage).map(|_| folder),
            _ => None,
        }
    }
}

/// The stage folder whose model that of a stage folder was trained from.
pub(super) fn before(folder: &str) -> Option<String> {
    match folder.strip_prefix("iter-").map(str::parse::<usize>) {
        Some(Ok(0)) => Some(BASE.into()),
        Some(Ok(k)) => Some(format!("iter-{}", k - 1)),
        None if folder != BASE => Some("iter-0".into()),
        _ => None,
    }
}

/// Opens the model in a folder: a whole one, or an adapter above another model.
pub(super) fn open(dir: &Path, below: impl FnOnce() -> Result<ModelFiles, RunError>) -> Result<ModelFiles, RunError> {
    if AdapterFiles::is_in(dir) {
        return Ok(below()?.with_adapter(dir)?);
    }
    Ok(ModelFiles::open(&ModelSource::Folder(dir.into()))?)
}
