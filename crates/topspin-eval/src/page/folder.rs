//! The files of a run's folder, read as far as a page needs them: what a newer version adds is passed over.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use topspin_files::{Action, FileError};

use super::PageError;

/// A run's folder: what it was made from, and how far it is.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
    manifest: Manifest,
    settings: toml::Table,
}

/// `manifest.json`.
#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    #[serde(default)]
    pub topspin: String,
    #[serde(default)]
    pub seed: Value,
    #[serde(default)]
    pub inputs: BTreeMap<String, Input>,
    pub stages: Vec<Stage>,
}

/// A file that the run reads.
#[derive(Debug, Deserialize)]
pub(super) struct Input {
    pub path: String,
}

/// One stage of the run.
#[derive(Debug, Deserialize)]
pub(super) struct Stage {
    pub name: String,
    pub state: String,
    #[serde(default)]
    pub figures: Map<String, Value>,
    #[serde(default)]
    pub guards: Vec<Fired>,
}

/// A guard that fired.
#[derive(Debug, Deserialize)]
pub(super) struct Fired {
    pub step: Option<u64>,
    pub sentence: String,
}

impl Stage {
    pub fn is_done(&self) -> bool {
        self.state == "done"
    }

    /// Its folder and its work; the folder of a round has a folder of its own.
    fn parts(&self) -> (&str, &str) {
        self.name.rsplit_once('/').unwrap_or(("", &self.name))
    }
}

impl Folder {
    /// Reads what a run's folder says of itself.
    ///
    /// # Errors
    /// If it is none, or its manifest or its configuration cannot be understood.
    pub fn open(dir: &Path) -> Result<Self, PageError> {
        let path = dir.join("manifest.json");
        if dir.is_dir() && !path.exists() {
            return Err(PageError::NotARun { dir: dir.into() });
        }
        let manifest = read_json(&path).map_err(|error| match error {
            PageError::Damaged { path, line, problem } => PageError::Manifest { path, line, problem },
            error => error,
        })?;
        let path = dir.join("config.toml");
        let settings = match path.exists() {
            true => read_toml(&path)?,
            false => toml::Table::new(),
        };
        Ok(Self { dir: dir.into(), manifest, settings })
    }

    /// The model that the run started from, as its configuration names it.
    pub fn model(&self) -> Option<&str> {
        self.setting("model", "path")?.as_str()
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(super) fn setting(&self, table: &str, key: &str) -> Option<&toml::Value> {
        self.settings.get(table)?.get(key)
    }

    /// The folders of its stages, in order.
    pub fn stage_folders(&self) -> Vec<&str> {
        let mut folders = Vec::new();
        for stage in &self.manifest.stages {
            let (folder, _) = stage.parts();
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
        folders
    }

    /// The results of a stage, if it is finished.
    pub(super) fn figures(&self, folder: &str, work: &str) -> Option<&Map<String, Value>> {
        let stage = self.manifest.stages.iter().find(|stage| stage.parts() == (folder, work))?;
        stage.is_done().then_some(&stage.figures)
    }

    /// A JSON file of a stage's folder, if it is there.
    pub(super) fn json<T: DeserializeOwned>(&self, folder: &str, name: &str) -> Result<Option<T>, PageError> {
        let path = self.dir.join(folder).join(name);
        if path.exists() { read_json(&path).map(Some) } else { Ok(None) }
    }

    /// Hands over the lines of a finished file in a stage's folder, one by one. Says whether there is such a file.
    pub(super) fn lines<T: DeserializeOwned>(
        &self,
        folder: &str,
        name: &str,
        take: impl FnMut(T),
    ) -> Result<bool, PageError> {
        let path = self.dir.join(folder).join(format!("{name}.jsonl"));
        if !path.exists() {
            return Ok(false);
        }
        match read_lines(&path, take)? {
            None => Ok(true),
            Some((line, e)) => Err(damaged(&path, line, &e)),
        }
    }

    /// Hands over the lines of a file as [`lines`](Self::lines) does, or those written so far where the stage is at work.
    pub(super) fn lines_so_far<T: DeserializeOwned>(
        &self,
        folder: &str,
        name: &str,
        mut take: impl FnMut(T),
    ) -> Result<(), PageError> {
        let partial = self.dir.join(folder).join(format!("{name}.partial.jsonl"));
        if !self.lines(folder, name, &mut take)? && partial.exists() {
            // What cannot be read is being written.
            read_lines(&partial, take)?;
        }
        Ok(())
    }
}

/// Hands over lines up to the first that cannot be understood, and gives back that one's number and what is wrong with it.
fn read_lines<T: DeserializeOwned>(
    path: &Path,
    mut take: impl FnMut(T),
) -> Result<Option<(usize, serde_json::Error)>, PageError> {
    for (number, line) in topspin_files::open(path)?.split(b'\n').enumerate() {
        let line = line.map_err(|e| FileError::new(Action::Read, path, e))?;
        match serde_json::from_slice(&line) {
            Ok(value) => take(value),
            Err(e) => return Ok(Some((number + 1, e))),
        }
    }
    Ok(None)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, PageError> {
    let text = topspin_files::read(path)?;
    serde_json::from_slice(&text).map_err(|e| damaged(path, e.line(), &e))
}

fn read_toml(path: &Path) -> Result<toml::Table, PageError> {
    let text = topspin_files::read_to_string(path)?;
    text.parse().map_err(|e: toml::de::Error| {
        let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        PageError::Damaged { path: path.into(), line, problem: e.message().to_owned() }
    })
}

fn damaged(path: &Path, line: usize, problem: &serde_json::Error) -> PageError {
    PageError::Damaged { path: path.into(), line, problem: problem.to_string() }
}
