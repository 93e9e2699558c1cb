//! What is known of a run, from its files alone.

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use anyhow::bail;
use topspin_eval::page::Folder;
use topspin_game::config::Config;
use topspin_game::moment;
use topspin_game::run::{Manifest, Progress, State, Summary};

use super::curves::Curve;
use super::library::Library;
use super::samples::Samples;
use crate::progress::Pace;

/// A run, as far as its files tell of it by now.
pub struct Watched {
    pub dir: PathBuf,
    pub manifest: Manifest,
    pub summary: Summary,
    pub curves: Vec<Curve>,
    pub samples: Samples,
    pub library: Library,
    /// What the run says that it is at.
    pub progress: Option<Progress>,
    /// When that changed last, by the clock of this machine: another may go differently.
    changed: Option<Instant>,
    /// Which manifest was read last.
    stamp: Option<(SystemTime, u64)>,
    /// What could not be read at the last look.
    pub problem: Option<String>,
}

/// Whether somebody is at work.
#[derive(Debug, PartialEq)]
pub enum Work {
    /// The run says so.
    Going,
    /// The run is over.
    Finished,
    /// Nobody is, since this moment in seconds since 1970 if it is known.
    Rests(Option<f64>),
}

impl Watched {
    /// Opens the folder of a run that has begun.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        if dir.join("manifest.json").exists() {
            // Its own reader says best what is wrong with it.
            Manifest::read(dir)?;
        }
        let folder = Folder::open(dir)?;
        let manifest = Manifest::read(dir)?;
        let path = dir.join("config.toml");
        let config = Config::parse(&topspin_files::read_to_string(&path)?, &path, &[])?;
        let begun = |stage: &str| stage.split_once('/').is_some_and(|(folder, _)| dir.join(folder).is_dir());
        if !manifest.stages.iter().any(|stage| stage.state == State::Done || begun(&stage.name)) {
            bail!(
                "the run in `{}` has begun none of its stages yet; start it, or let it go on, with `topspin run`",
                dir.display()
            );
        }
        let mut watched = Self {
            dir: dir.into(),
            summary: Summary::read(dir)?,
            curves: Curve::all(&manifest, dir),
            samples: Samples::default(),
            library: Library::open(&folder, &config, &manifest),
            manifest,
            progress: None,
            changed: None,
            stamp: None,
            problem: None,
        };
        watched.look();
        Ok(watched)
    }

    /// Reads what has come since the last look.
    pub fn look(&mut self) {
        // What cannot be read now is told, and what was read before stays.
        self.problem = self.look_at_manifest().err().map(|error| format!("{error:#}"));
        let progress = Progress::read(&self.dir);
        let written = |progress: &Option<Progress>| progress.as_ref().map(|progress| progress.written);
        if self.progress.is_some() && progress.is_some() && written(&progress) != written(&self.progress) {
            self.changed = Some(Instant::now());
        }
        // Gone, it may come back, or the manifest says in a moment that all is finished.
        self.progress = progress.or(self.progress.take());
        self.curves.iter_mut().for_each(Curve::look);
        self.samples.look(&self.manifest, &self.dir);
        self.library.look();
    }

    fn look_at_manifest(&mut self) -> anyhow::Result<()> {
        let there = std::fs::metadata(self.dir.join("manifest.json")).ok();
        let stamp = there.and_then(|there| Some((there.modified().ok()?, there.len())));
        if stamp.is_some() && stamp == self.stamp {
            return Ok(());
        }
        let manifest = Manifest::read(&self.dir)?;
        if !manifest.stages.iter().map(|stage| &stage.name).eq(self.manifest.stages.iter().map(|stage| &stage.name)) {
            // Another run in the same place.
            *self = Self::open(&self.dir.clone())?;
            return Ok(());
        }
        self.summary = Summary::read(&self.dir)?;
        (self.manifest, self.stamp) = (manifest, stamp);
        Ok(())
    }

    /// Whether somebody is at work on it.
    pub fn work(&self) -> Work {
        if self.summary.is_over() {
            return Work::Finished;
        }
        let Some(progress) = &self.progress else { return Work::Rests(None) };
        let patience = Progress::PATIENCE;
        // Of one that was killed nobody says that it rests; it stands still.
        let moves = match self.changed {
            Some(changed) => changed.elapsed() < patience,
            None => (moment::now() - progress.written).abs() < patience.as_secs_f64(),
        };
        if progress.at_work && moves { Work::Going } else { Work::Rests(Some(progress.written)) }
    }

    /// The stage at work, or else the next one, with its place from 1.
    pub fn stage(&self) -> Option<(usize, &str)> {
        let stages = || (1..).zip(self.manifest.stages.iter().map(|stage| stage.name.as_str()));
        let said = self.progress.as_ref().filter(|_| self.work() == Work::Going);
        let at_work = said.and_then(|progress| stages().find(|(_, name)| *name == progress.stage));
        let next = || stages().zip(&self.manifest.stages).find(|(_, stage)| stage.state == State::Pending);
        at_work.or_else(|| next().map(|(stage, _)| stage))
    }

    /// How far the stage is that the run said it is at, and how fast.
    pub fn pace(&self) -> Option<Pace> {
        let Progress { done, total, done_before, began, written, .. } = *self.progress.as_ref()?;
        (total > 0).then_some(Pace { done, total, before: done_before, seconds: written - began })
    }
}
