//! Reading prompts and responses.
//!
//! A file's name says its format, one record each:
//!
//! | name | records |
//! |---|---|
//! | `.jsonl`, `.ndjson`, any other | lines that are JSON objects |
//! | `.json` | the objects of a list, or of the one list in an object; or lines, as above |
//! | `.csv`, `.tsv` | rows below a row of names; an empty cell is no field |
//! | `.parquet` | rows |
//!
//! All but Parquet may be compressed, which `.gz` or `.zst` behind the name says. A name with `*`, `?` or `[` stands for
//! all files that it matches, in the order of their names.
//!
//! A record has one of these shapes; other fields are left alone, and `null` counts as absent:
//!
//! | shape | prompt | response | rejected response |
//! |---|---|---|---|
//! | pair | `prompt` or `question` | `response`, `completion` or `answer` | |
//! | messages | `messages`, a list of `{"role", "content"}` | the last message, where it is the assistant's; else as above | |
//! | ShareGPT | `conversations`, a list of `{"from", "value"}` | the last message, where it is the assistant's | |
//! | Alpaca | `instruction`, and below an empty line `input`, if there is any | `output` | |
//! | preference | `prompt`, or what `chosen` and `rejected` begin with | `chosen` | `rejected` |
//! | SPIN | what `real` and `generated`, lists of messages, begin with | the last message of `real` | that of `generated` |
//!
//! `prompt` is a string or a list of messages, and so are `response`, `chosen` and `rejected`. Any record may have
//! `references`, a list of strings, and an `id`, a string or a whole number; else its prompt's hash is its name. A string
//! that holds a list as JSON is that list, so that a table's cell can hold one.
//!
//! The reader is strict unless it is told otherwise: the first record that cannot be used is an error with its file and
//! line, since a record that is dropped in silence changes what a model learns.

mod dataset;
mod error;
mod format;
mod read;
mod shape;
mod source;

pub use dataset::{Dataset, Message, Record};
pub use error::{DataError, Fault, Place, Reason, Unusable};
pub use format::{Fields, Row, Rows, rows};
pub use read::{Need, Options, Records, read, records};
pub use shape::{Columns, RecordShape, is_field};
pub use source::Source;
