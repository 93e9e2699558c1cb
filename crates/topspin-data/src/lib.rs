//! Reading prompts and responses.
//!
//! The way of a record: a [`Source`] names files; a file is [`rows`] of named fields, whatever its format; a
//! [`RecordShape`] makes a [`Record`] of a row; [`read`] puts the records of all files into a [`Dataset`].
#![doc = include_str!("../../../docs/data.md")]

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
