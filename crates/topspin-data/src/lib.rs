//! Reading prompts and responses.
//!
//! One record a line, a JSON object (JSONL), in any of these shapes; other fields are left alone, and `null` counts as
//! absent:
//!
//! | part | fields |
//! |---|---|
//! | prompt | `prompt` or `question`, a string; or `messages`, a list of `{"role", "content"}` |
//! | response | `response`, `completion` or `answer`, a string; or the last message, where it is the assistant's |
//! | references | `references`, a list of strings |
//! | name | `id`, a string or a whole number; else the hash of the prompt |
//!
//! The reader is strict: the first record that cannot be used is an error with its file and line, since a record that
//! is dropped in silence changes what a model learns.

mod dataset;
mod error;
mod read;

pub use dataset::{Dataset, Message, Record};
pub use error::{DataError, Fault};
pub use read::{Need, parse_records, read_records};
