//! What can end a run early.

use std::path::PathBuf;

use topspin_data::{DataError, Place};
use topspin_eval::EvalError;
use topspin_files::FileError;
use topspin_model::adapter::AdapterError;
use topspin_model::error::ModelError;
use topspin_rollout::RolloutError;

use crate::checkpoint::StateError;
use crate::command::CommandError;
use crate::config::ConfigError;
use crate::trainer::TrainError;
use crate::tree::TreeError;

/// Why a run ended before it was finished.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A file could not be opened, read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model cannot be used or saved.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The settings of `[adapter]` do not fit the model.
    #[error("`[adapter]` cannot be used: {problem}")]
    Adapter {
        /// What is wrong with them.
        problem: String,
    },
    /// Two adapters at once.
    #[error(
        "`model.path` is the adapter `{}` already, and `adapter.rank` asks for another; leave `[adapter]` out to train this one \
         on, or merge it first with `topspin export`",
        dir.display()
    )]
    TwoAdapters {
        /// The folder that `model.path` names.
        dir: PathBuf,
    },
    /// Responses cannot be generated.
    #[error(transparent)]
    Rollout(#[from] RolloutError),
    /// Training cannot go on.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// Training has diverged. The step was not made, and the state before it is kept where it is finite.
    #[error("{problem}; the same command with a {rate} {then}{go_on}")]
    Diverged {
        /// What is wrong, with its step and stage.
        problem: String,
        /// The setting that may be changed.
        rate: String,
        /// What happens then.
        then: &'static str,
        /// How to go on from the step before, where that is of use.
        go_on: String,
    },
    /// The training state cannot be saved or taken up.
    #[error(transparent)]
    State(#[from] StateError),
    /// A training state that is ahead of its metrics.
    #[error(
        "`{}` lacks steps that the training state `{}` has behind it; remove both, and the stage starts over",
        metrics.display(), state.display()
    )]
    StateWithoutMetrics {
        /// The training state.
        state: PathBuf,
        /// The lines written so far.
        metrics: PathBuf,
    },
    /// A round without the training state of the one before it.
    #[error(
        "the training state `{}` is gone, from which the next round of its iteration begins; restore it, or start again in \
         another `output.dir`", state.display()
    )]
    NoState {
        /// The training state.
        state: PathBuf,
    },
    /// A record does not fit the model.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// Figures cannot be computed.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// A record whose text does not fit the model.
    #[error("{place}: {problem}")]
    Record {
        /// Where it stands.
        place: Place,
        /// What is wrong, and what would mend it.
        problem: String,
    },
    /// More records cannot be used than the settings allow.
    #[error(
        "{unusable} of {read} records cannot be used ({reasons}), more than `data.max_unusable` = {most} allows; mend them, \
         or raise it; the first is {first}"
    )]
    Unusable {
        /// Records that cannot be used.
        unusable: usize,
        /// All records.
        read: usize,
        /// Counts by reason.
        reasons: String,
        /// The share that is allowed.
        most: f64,
        /// Where the first one stands, and what is wrong with it.
        first: String,
    },
    /// Records without a rejected response where the data play the opponent.
    #[error(
        "{without} of {records} training records have no rejected response, and `game.opponent` = \"data\" needs one; add \
         `rejected`, or leave such records out with `data.max_unusable`; the first is {first}"
    )]
    NoRejected {
        /// Records without one.
        without: usize,
        /// All records to train on.
        records: usize,
        /// Where the first one stands.
        first: Place,
    },
    /// Nothing is left to train or evaluate on.
    #[error("{what}; {mend}")]
    NoRecords {
        /// What there is none of.
        what: String,
        /// What would mend it.
        mend: String,
    },
    /// A folder that is not a run's.
    #[error("`{}` holds files, but is not the folder of a run; choose another `output.dir`", dir.display())]
    NotARun {
        /// The folder.
        dir: PathBuf,
    },
    /// A run of another version's form.
    #[error(
        "the run in `{}` was begun by topspin {version}, whose folders have another form; go on with that version, or \
         choose another `output.dir`", dir.display()
    )]
    OtherFormat {
        /// The run's folder.
        dir: PathBuf,
        /// The version that began it.
        version: String,
    },
    /// A setting that decides what the finished stages contain is not what it was.
    #[error(
        "the run in `{}` was begun with `{key}` = {old}, and it is now {new}; set it back, or choose another \
         `output.dir`", dir.display()
    )]
    ConfigChanged {
        /// The key with its table.
        key: String,
        /// The value that the run was begun with.
        old: String,
        /// The value now.
        new: String,
        /// The run's folder.
        dir: PathBuf,
    },
    /// An input is not what it was.
    #[error(
        "what `{key}` names has changed since the run in `{}` began ({change}); restore it, or choose another \
         `output.dir`", dir.display()
    )]
    InputChanged {
        /// The setting that names the input.
        key: String,
        /// What changed.
        change: String,
        /// The run's folder.
        dir: PathBuf,
    },
    /// A finished stage's artefact is not what it was.
    #[error(
        "`{}` has changed since the stage `{stage}` wrote it; restore it, or start again in another `output.dir`",
        path.display()
    )]
    ArtefactChanged {
        /// The artefact.
        path: PathBuf,
        /// The stage that wrote it.
        stage: String,
    },
    /// A file of the run that cannot be understood.
    #[error(
        "line {line} of `{}` cannot be understood ({problem}); restore the file, or start again in another \
         `output.dir`", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What the parser said.
        problem: String,
    },
    /// A command of the user's failed.
    #[error(transparent)]
    Command(CommandError),
    /// `score.pattern` takes too many steps.
    #[error(
        "`score.pattern` gave up on a response to the prompt `{prompt_id}` ({problem}); write it without repetitions within \
         repetitions"
    )]
    Pattern {
        /// The prompt's name.
        prompt_id: String,
        /// What the matcher said.
        problem: String,
    },
    /// `eval.best` names no metric.
    #[error("`eval.best` is `{best}`, but the evaluation has no such metric; choose one of {known}")]
    UnknownMetric {
        /// The setting.
        best: String,
        /// The metrics that there are.
        known: String,
    },
    /// A model that a run does not have.
    #[error("the run in `{}` has {problem}", dir.display())]
    NoModel {
        /// The run's folder.
        dir: PathBuf,
        /// What it has instead.
        problem: String,
    },
    /// The caller asked for an early end; all that was done is kept.
    #[error("stopped in the stage `{stage}`; the same command goes on from there")]
    Stopped {
        /// The stage.
        stage: String,
    },
}

impl From<CommandError> for RunError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Stopped { work } => Self::Stopped { stage: work },
            CommandError::File(error) => Self::File(error),
            fault => Self::Command(fault),
        }
    }
}

impl From<AdapterError> for RunError {
    fn from(error: AdapterError) -> Self {
        Self::Adapter { problem: error.to_string() }
    }
}
