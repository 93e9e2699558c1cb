//! Tasks that cannot be asked.

use std::path::PathBuf;

use topspin_files::FileError;

/// A task, or a file of tasks, that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not TOML, or not of tasks.
    #[error("line {line} of `{}` cannot be understood: {problem}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What the parser said.
        problem: String,
    },
    /// The file has no task.
    #[error("`{}` has no task; begin one with `[[task]]`", path.display())]
    None {
        /// The file.
        path: PathBuf,
    },
    /// No task goes by that name.
    #[error("no task goes by the name `{name}`; choose one of {known}, or write your own with `--tasks`")]
    Unknown {
        /// What was asked for.
        name: String,
        /// All that there are.
        known: String,
    },
    /// Two tasks have one name.
    #[error("two tasks are called `{name}`; give one of them another `name`")]
    Twice {
        /// The name.
        name: String,
    },
    /// A setting cannot be used.
    #[error("`{key}` of the task `{task}` {problem}")]
    Setting {
        /// The task's name.
        task: String,
        /// The key.
        key: &'static str,
        /// What is wrong, and what would mend it.
        problem: String,
    },
}

/// A record that is no question with choices.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// There are no choices.
    #[error("there are no choices; add `choices` (or `endings`), or name their column in the task's `columns`")]
    NoChoices,
    /// The field is not made of texts.
    #[error("`{field}` must be a list of texts, or an object with the lists `text` and `label`")]
    NotTexts {
        /// The field.
        field: String,
    },
    /// A choice has no text.
    #[error("choice {place} (counted from 0) of `{field}` is empty; give each a text")]
    Empty {
        /// The field.
        field: String,
        /// The choice.
        place: usize,
    },
    /// Nothing says which choice is right.
    #[error(
        "nothing says which choice is right; add `answer` (or `answerKey`, or `label`), or name its column in the task's `columns`"
    )]
    NoAnswer,
    /// The answer is none of the choices.
    #[error(
        "`{field}` is {answer}, which is none of the {choices} choices; give its place, counted from 0, its letter or its text"
    )]
    NotAChoice {
        /// The field.
        field: String,
        /// What it holds.
        answer: String,
        /// How many choices there are.
        choices: usize,
    },
}
