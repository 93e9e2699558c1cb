//! Files as rows of named fields, whatever their format.

mod csv;
mod json;
mod jsonl;
mod parquet;

use std::io;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};
use topspin_files::{Action, FileError};

use crate::source::{compression, open_text};
use crate::{DataError, Fault, Place};

/// The named fields of a row.
pub type Fields = Map<String, Value>;

/// Largest record, in bytes. Far above any prompt, and a bound for what a damaged or a hostile file makes of memory.
const MAX_RECORD: usize = 64 << 20;

/// A row of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Where it stands.
    pub place: Place,
    /// What it holds, or why that cannot be told.
    pub fields: Result<Fields, Fault>,
}

/// A row as its format gives it: its line, and what it holds. An error is the last item: nothing can be read behind it.
type RawRow = io::Result<(usize, Result<Fields, Fault>)>;

/// The formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Jsonl,
    Json,
    Csv,
    Tsv,
    Parquet,
}

impl Format {
    /// The format that a file's name says.
    pub fn of(path: &Path) -> Self {
        let stem = path.file_stem().map(Path::new);
        let plain = if compression(path).is_some() { stem.unwrap_or(path) } else { path };
        let extension = plain.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        match extension.as_deref() {
            Some("json") => Self::Json,
            Some("csv") => Self::Csv,
            Some("tsv") => Self::Tsv,
            Some("parquet") => Self::Parquet,
            _ => Self::Jsonl,
        }
    }

    /// What records are counted by.
    pub fn unit(self) -> &'static str {
        if self == Self::Parquet { "row" } else { "line" }
    }
}

/// The rows of a file, one after the other. Behind an error there are none.
pub struct Rows {
    path: Arc<Path>,
    rows: Box<dyn Iterator<Item = RawRow>>,
    over: bool,
}

/// Opens a file, or stdin for `-`, and reads its rows as they are asked for.
///
/// # Errors
/// [`DataError::File`] if the file cannot be read, at once or later; of what is wrong with a row alone, the row tells.
pub fn rows(path: &Path) -> Result<Rows, DataError> {
    let fail = |e| DataError::from(FileError::new(Action::Read, path, e));
    let rows: Box<dyn Iterator<Item = RawRow>> = match Format::of(path) {
        Format::Jsonl => Box::new(jsonl::Lines::new(open_text(path)?)),
        Format::Json => json::open(open_text(path)?).map_err(fail)?,
        Format::Csv => Box::new(csv::Table::new(open_text(path)?, b',').map_err(fail)?),
        Format::Tsv => Box::new(csv::Table::new(open_text(path)?, b'\t').map_err(fail)?),
        Format::Parquet if compression(path).is_some() => {
            return Err(fail(io::Error::other("Parquet is compressed within; decompress the file")));
        }
        Format::Parquet => Box::new(parquet::Table::open(topspin_files::open(path)?.into_inner()).map_err(fail)?),
    };
    Ok(Rows { path: path.into(), rows, over: false })
}

impl Iterator for Rows {
    type Item = Result<Row, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let row = self.rows.next()?;
        self.over = row.is_err();
        let row = row.map(|(line, fields)| Row { place: Place { path: Arc::clone(&self.path), line }, fields });
        Some(row.map_err(|e| FileError::new(Action::Read, &self.path, e).into()))
    }
}

/// An error in words.
fn error(problem: impl Into<String>) -> io::Error {
    io::Error::other(problem.into())
}

/// The error of a record beyond [`MAX_RECORD`].
fn too_large(unit: &str, number: usize) -> io::Error {
    error(format!("the record on {unit} {number} is larger than {} MiB; split it, or remove it", MAX_RECORD >> 20))
}
