//! `progress.json`: what a run is at, for whoever looks at its folder meanwhile.
//!
//! It is no artefact: it is neither hashed nor gone on from, and a run does not fail for it. A thread of its own writes it about
//! once a second whatever the stage does, so a file that stands still tells that nobody is at work any more, also on another
//! machine, whose process numbers are its own.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Observer;
use crate::moment;

/// The file's name in the run's folder.
const NAME: &str = "progress.json";

/// Time between two writes where nothing begins or ends.
const BETWEEN_WRITES: Duration = Duration::from_secs(1);

/// What a run is at: `progress.json`. Moments are seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// The stage: `iter-1/train`.
    pub stage: String,
    /// What its steps are, in the plural; empty while it gets ready.
    pub unit: String,
    /// Steps behind it.
    pub done: usize,
    /// All of its steps.
    pub total: usize,
    /// Steps that were behind it when it began, those of an earlier call.
    pub done_before: usize,
    /// When the stage began, in this call.
    pub began: f64,
    /// When this call of the run began.
    pub run_began: f64,
    /// When this was written.
    pub written: f64,
    /// How it goes, in a few words.
    pub note: String,
    /// Memory of the process that is resident, in bytes, where the system says so.
    pub resident_bytes: Option<u64>,
    /// Number of the process, on its machine.
    pub pid: u32,
    /// Whether the process is at work; of one that was killed nobody says that it is not.
    pub at_work: bool,
}

impl Progress {
    /// A file that has not been written for so long tells of a process that is gone.
    pub const PATIENCE: Duration = Duration::from_secs(10);

    /// What the run in `dir` is at, if it says so.
    pub fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&topspin_files::read(&dir.join(NAME)).ok()?).ok()
    }

    fn write(&mut self, dir: &Path) {
        (self.written, self.resident_bytes) = (now(), resident_bytes());
        let mut text = serde_json::to_vec_pretty(self).expect("names are strings, and numbers finite");
        text.push(b'\n');
        // The run is worth more than a view of it.
        let _ = topspin_files::replace(&dir.join(NAME), &text);
    }
}

/// Memory of this process that is resident, in bytes, where the system says so.
pub fn resident_bytes() -> Option<u64> {
    memory_stats::memory_stats().map(|memory| memory.physical_mem as u64)
}

/// Seconds since 1970, to the millisecond.
fn now() -> f64 {
    (moment::now() * 1e3).floor() / 1e3
}

/// A run's observer, which is told nothing that `progress.json` is not told too.
pub(super) struct Told<'a> {
    observer: &'a mut dyn Observer,
    shared: Arc<Shared>,
    dir: PathBuf,
    writer: Option<JoinHandle<()>>,
}

/// What the thread that writes has in common with the run.
#[derive(Default)]
struct Shared {
    state: Mutex<Writing>,
    /// Told of what is not to wait.
    urgent: Condvar,
}

#[derive(Default)]
struct Writing {
    progress: Progress,
    is_urgent: bool,
    is_over: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Writing> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes until the run is over.
    fn write(&self, dir: &Path) {
        let mut writing = self.lock();
        while !writing.is_over {
            writing.is_urgent = false;
            let mut progress = writing.progress.clone();
            drop(writing);
            progress.write(dir);
            let waited = self.urgent.wait_timeout_while(self.lock(), BETWEEN_WRITES, |writing| !writing.is_urgent);
            writing = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl<'a> Told<'a> {
    /// Nothing is written before the first stage is entered.
    pub fn new(observer: &'a mut dyn Observer, dir: &Path) -> Self {
        Self { observer, shared: Arc::default(), dir: dir.into(), writer: None }
    }

    /// A stage is entered, whose steps begin when it is ready.
    pub fn enter(&mut self, stage: &str) {
        self.change(|progress| {
            let now = now();
            let run_began = if progress.at_work { progress.run_began } else { now };
            let (pid, stage) = (std::process::id(), stage.into());
            *progress = Progress { stage, began: now, run_began, pid, at_work: true, ..Progress::default() };
        });
        if self.writer.is_none() {
            let (shared, dir) = (Arc::clone(&self.shared), self.dir.clone());
            let thread = std::thread::Builder::new().name("progress".into());
            self.writer = thread.spawn(move || shared.write(&dir)).ok();
        }
    }

    /// See [`Observer::begin`].
    pub fn begin(&mut self, stage: &str, unit: &'static str, total: usize, done: usize) {
        self.observer.begin(stage, unit, total, done);
        self.change(|progress| {
            (progress.stage, progress.unit, progress.began) = (stage.into(), unit.into(), now());
            (progress.total, progress.done, progress.done_before) = (total, done, done);
            progress.note.clear();
        });
    }

    /// See [`Observer::advance`].
    pub fn advance(&mut self, done: usize, note: &str) {
        self.observer.advance(done, note);
        let mut writing = self.shared.lock();
        writing.progress.done = done;
        note.clone_into(&mut writing.progress.note);
    }

    /// See [`Observer::end`].
    pub fn end(&mut self) {
        self.observer.end();
        self.change(|_| ());
    }

    /// The run is over. Of a finished one the file says nothing that the manifest does not.
    pub fn leave(&mut self, is_finished: bool) {
        self.rest();
        if is_finished {
            // A kill may have left a half-written one beside it, which goes with the next that is written.
            self.shared.lock().progress.clone().write(&self.dir);
            let _ = topspin_files::remove_file(&self.dir.join(NAME));
        }
    }

    /// Changes what is to be written now.
    fn change(&self, change: impl FnOnce(&mut Progress)) {
        let mut writing = self.shared.lock();
        change(&mut writing.progress);
        writing.is_urgent = true;
        drop(writing);
        self.shared.urgent.notify_one();
    }

    /// Writes for the last time, that nobody is at work.
    fn rest(&mut self) {
        let Some(writer) = self.writer.take() else { return };
        self.shared.lock().is_over = true;
        self.change(|progress| progress.at_work = false);
        let _ = writer.join();
        self.shared.lock().progress.clone().write(&self.dir);
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.rest();
    }
}

/// What is no progress is the observer's alone.
impl<'a> Deref for Told<'a> {
    type Target = dyn Observer + 'a;

    fn deref(&self) -> &Self::Target {
        self.observer
    }
}

impl DerefMut for Told<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.observer
    }
}
