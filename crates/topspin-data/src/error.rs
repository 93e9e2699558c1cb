//! What can be wrong with data, and where.

use std::path::PathBuf;

use topspin_files::FileError;

/// Data that cannot be read or not be used as asked.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file holds no record.
    #[error("`{}` holds no record; write one JSON object a line", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A record cannot be used.
    #[error("`{}`, line {line}: {fault}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
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

/// What is wrong with one record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The line is not JSON.
    #[error("this is not JSON ({reason} at column {column}); write one JSON object a line")]
    NotJson {
        /// What the parser expected or met.
        reason: String,
        /// Where in the line, counted from 1.
        column: usize,
    },
    /// The line is JSON, but no object.
    #[error("the record must be an object and is {found}; write one JSON object a line")]
    NotObject {
        /// The kind of JSON value found.
        found: &'static str,
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
    /// There is no prompt.
    #[error("there is no prompt; add `prompt` (or `question`, or `messages`)")]
    NoPrompt,
    /// There is no response where one is needed.
    #[error(
        "there is no response, and this use of the data needs one; \
         add `response` (or `completion`, or `answer`), or end `messages` with the assistant's"
    )]
    NoResponse,
    /// A message is by an unknown role.
    #[error("`messages[{index}].role` is `{role}`; use `system`, `user` or `assistant`")]
    UnknownRole {
        /// The place of the message, counted from 0.
        index: usize,
        /// The role found.
        role: String,
    },
    /// A message is out of turn.
    #[error(
        "`messages[{index}]` is the {found}'s where the {wanted}'s is due; \
         after an optional `system` message, `user` and `assistant` take turns, `user` first"
    )]
    RoleOrder {
        /// The place of the message, counted from 0.
        index: usize,
        /// The role found.
        found: String,
        /// The role whose turn it is.
        wanted: &'static str,
    },
    /// An `id` names two prompts.
    #[error("the id `{id}` already names another prompt, on line {first}; make ids unique or remove them")]
    SharedId {
        /// The id.
        id: String,
        /// The line where it was met first, counted from 1.
        first: usize,
    },
}
