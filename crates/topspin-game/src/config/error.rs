//! What can be wrong with a configuration.

use std::path::PathBuf;

use topspin_files::FileError;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not TOML, or not in tables.
    #[error("line {line} of `{}` cannot be understood: {problem}", path.display())]
    Syntax {
        /// The configuration file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What the parser said.
        problem: String,
    },
    /// A key that does not exist.
    #[error("unknown key `{key}` {place}; did you mean `{nearest}`?")]
    UnknownKey {
        /// The key with its table.
        key: String,
        /// File and line, or the command line's `--set`.
        place: Place,
        /// The known key that is spelled most like it.
        nearest: String,
    },
    /// A value of another type than its key wants.
    #[error("`{key}` {place}: {problem}")]
    Value {
        /// The key with its table.
        key: String,
        /// File and line, or the command line's `--set`.
        place: Place,
        /// What is wrong with the value.
        problem: String,
    },
    /// A `--set` that is not `table.key=value`.
    #[error("`--set {text}` is not of the form `table.key=value`, as in `--set game.beta=0.2`")]
    Set {
        /// What was given.
        text: String,
    },
    /// A value out of range.
    #[error("`{key}` is {value}, but must be {allowed}")]
    Range {
        /// The key with its table.
        key: String,
        /// The value as TOML spells it.
        value: String,
        /// The values it may have.
        allowed: String,
    },
    /// A list whose length is not the number of iterations.
    #[error(
        "`{key}` lists {found} values for {iterations} iterations (`game.iterations`); give one value for all, or one \
         for each"
    )]
    Length {
        /// The key with its table.
        key: String,
        /// Values in the list.
        found: usize,
        /// `game.iterations`.
        iterations: usize,
    },
    /// A required key without a value.
    #[error("`{key}` is not set; give it in the configuration file or with `--set {key}=...`")]
    Missing {
        /// The key with its table.
        key: String,
    },
}

/// Where a setting was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a configuration file.
    Line(PathBuf, usize),
    /// On the command line.
    Set,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Line(path, line) => write!(f, "in `{}`, line {line}", path.display()),
            Self::Set => f.write_str("given with `--set`"),
        }
    }
}
