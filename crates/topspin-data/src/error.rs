//! What can be wrong with data, and where.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use topspin_files::FileError;

use crate::format::Format;

/// Where a record stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The file.
    pub path: Arc<Path>,
    /// The line on which it begins, or its row in a Parquet file; counted from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`, {} {}", self.path.display(), Format::of(&self.path).unit(), self.line)
    }
}

/// Data that cannot be read or not be used as asked.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file cannot be read, or is damaged.
    #[error(transparent)]
    File(#[from] FileError),
    /// A pattern that stands for no file.
    #[error("`{pattern}` {problem}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong, and what would mend it.
        problem: String,
    },
    /// The file holds no record.
    #[error("`{}` holds no record; {}", path.display(), wanted(path))]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A record cannot be used.
    #[error("{place}: {fault}")]
    Record {
        /// Where it stands.
        place: Place,
        /// What is wrong with it.
        fault: Fault,
    },
    /// More records were asked for than there are.
    #[error("{wanted} records were asked for and there are {have}; ask for {have} or fewer, or add data")]
    TooFew {
        /// The number asked for.
        wanted: usize,
        /// The number there is.
        have: usize,
    },
    /// The share of a split is no share.
    #[error("a split's share must be between 0 and 1 and is {share}; give the held-out part of the whole")]
    Share {
        /// The number given.
        share: f64,
    },
}

/// What belongs into an empty file.
fn wanted(path: &Path) -> &'static str {
    match Format::of(path) {
        Format::Jsonl => "write one JSON object a line",
        Format::Json => "write a list of objects, or one JSON object a line",
        Format::Csv | Format::Tsv => "write the names of the columns, and a record on each line below",
        Format::Parquet => "check that it is the right file",
    }
}

/// A record that was passed over, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// Where it stands.
    pub place: Place,
    /// The kind of reason.
    pub reason: Reason,
    /// What is wrong with it, in a sentence.
    pub problem: String,
}

/// Why a record cannot be used, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It is not written as a record is.
    Malformed,
    /// It lacks a prompt, or a response where one is needed.
    Empty,
    /// It does not fit into the model's context.
    TooLong,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "malformed",
            Self::Empty => "empty",
            Self::TooLong => "too long",
        })
    }
}

/// What is wrong with one record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The text is not JSON.
    #[error("this is not JSON ({reason} at column {column}); write one JSON object a line")]
    NotJson {
        /// What the parser expected or met.
        reason: String,
        /// Where in the line, counted from 1.
        column: usize,
    },
    /// The text is not UTF-8.
    #[error("the text is not UTF-8; save the file as UTF-8")]
    NotUtf8,
    /// The record is JSON, but no object.
    #[error("the record must be an object and is {found}; write one JSON object a line")]
    NotObject {
        /// The kind of JSON value found.
        found: &'static str,
    },
    /// A row of a table that does not fit its columns.
    #[error("the row has {cells} cells and the table {columns} columns; mend it, and put cells with commas in quotes")]
    Ragged {
        /// Cells of the row.
        cells: usize,
        /// Columns of the table.
        columns: usize,
    },
    /// A field is of the wrong type.
    #[error("`{field}` must be {wanted} and is {found}")]
    WrongType {
        /// The field; of a message, with its place, as in `messages[2].role`.
        field: String,
        /// The kind of value that belongs there.
        wanted: &'static str,
        /// The kind of JSON value found.
        found: &'static str,
    },
    /// A text is blank.
    #[error("`{field}` is empty; fill it in or remove the record")]
    Blank {
        /// The field.
        field: String,
    },
    /// Two fields say the same part.
    #[error("`{first}` and `{second}` both give the {part}; keep one of them")]
    Ambiguous {
        /// `prompt` or `response`.
        part: &'static str,
        /// One field.
        first: String,
        /// The other.
        second: String,
    },
    /// The record has the fields of two shapes.
    #[error("the record has the fields of two shapes, `{first}` and `{second}`; say which in `data.shape`")]
    TwoShapes {
        /// One shape, as it is called in a configuration.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// There is no prompt.
    #[error("there is no prompt; add `prompt` (or `question`, or `messages`), or name its column in `data.columns`")]
    NoPrompt,
    /// There is no response where one is needed.
    #[error(
        "there is no response, and this use of the data needs one; \
         add `response` (or `completion`, or `answer`), or end `messages` with the assistant's"
    )]
    NoResponse,
    /// A field that the shape needs is missing.
    #[error("there is no `{field}`, and the shape `{shape}` needs one; add it, or name its column in `data.columns`")]
    NoField {
        /// The field.
        field: &'static str,
        /// The shape, as it is called in a configuration.
        shape: &'static str,
    },
    /// Two responses are to different prompts.
    #[error("`{first}` and `{second}` begin with different prompts; give both the same")]
    OtherPrompt {
        /// One field.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// A message is by an unknown role.
    #[error("`{field}` is `{role}`; use {known}")]
    UnknownRole {
        /// The field that says who speaks.
        field: String,
        /// The role found.
        role: String,
        /// The roles there are.
        known: &'static str,
    },
    /// A message is out of turn.
    #[error(
        "`{field}` is the {found}'s where the {wanted}'s is due; \
         after an optional `system` message, `user` and `assistant` take turns, `user` first"
    )]
    RoleOrder {
        /// The message.
        field: String,
        /// The role found.
        found: String,
        /// The role whose turn it is.
        wanted: &'static str,
    },
    /// An `id` names two prompts of a file.
    #[error("the id `{id}` already names another prompt, on line {first}; make ids unique or remove them")]
    SharedId {
        /// The id.
        id: String,
        /// The line where it was met first, counted from 1.
        first: usize,
    },
}

impl Fault {
    /// The kind of reason that it is.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Blank { .. } | Self::NoPrompt | Self::NoResponse | Self::NoField { .. } => Reason::Empty,
            _ => Reason::Malformed,
        }
    }
}
