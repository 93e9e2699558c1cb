//! From files to a dataset.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;

use crate::format::{Fields, Row, Rows, rows};
use crate::shape::Columns;
use crate::{DataError, Dataset, Fault, Place, Record, RecordShape, Source, Unusable};

/// What each record must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A prompt. A response may be there and may be empty: so a model may have answered.
    Prompt,
    /// A prompt and a response that is not blank.
    Response,
}

/// How records are read.
#[derive(Clone, Debug)]
pub struct Options {
    /// What each must have.
    pub need: Need,
    /// Their shape.
    pub shape: RecordShape,
    /// The columns that hold fields under another name, by the field.
    pub columns: Columns,
    /// Whether [`read`] passes over records that cannot be used, and tells them in [`Dataset::unusable`]; else the first is
    /// an error.
    pub tolerant: bool,
}

impl Options {
    /// Strict, of whatever shape, with columns named as the fields are.
    pub fn new(need: Need) -> Self {
        Self { need, shape: RecordShape::Auto, columns: Columns::new(), tolerant: false }
    }
}

/// Reads the records of all `sources`, in their order.
///
/// # Errors
/// [`DataError::File`] and [`DataError::Pattern`] if a file cannot be read, [`DataError::Empty`] if one holds nothing, and,
/// unless the options are tolerant, [`DataError::Record`] for the first record that cannot be used.
pub fn read(sources: &[Source], options: &Options) -> Result<Dataset, DataError> {
    let mut dataset = Dataset::default();
    for source in sources {
        for path in source.files()? {
            let before = dataset.lines;
            for record in records(&path, options)? {
                match record {
                    Ok((_, record)) => {
                        dataset.lines = before + record.place.line;
                        dataset.records.push(Record { number: dataset.lines, weight: source.weight, ..record });
                    }
                    Err(DataError::Record { place, fault }) if options.tolerant => {
                        dataset.lines = before + place.line;
                        let (reason, problem) = (fault.reason(), fault.to_string());
                        dataset.unusable.push(Unusable { place, reason, problem });
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }
    Ok(dataset)
}

/// Reads the records of a file, or of stdin for `-`, as they are asked for, each with the fields that it is from.
///
/// # Errors
/// As [`read`], where behind a [`DataError::Record`] the next record may be asked for; behind another error there is none.
pub fn records<'a>(path: &'a Path, options: &'a Options) -> Result<Records<'a>, DataError> {
    Ok(Records { path, options, rows: rows(path)?, known: HashMap::new(), is_empty: true })
}

/// The records of a file: see [`records`].
pub struct Records<'a> {
    path: &'a Path,
    options: &'a Options,
    rows: Rows,
    /// The line and the prompt's hash of the first record with each id. By file: collections that are read together
    /// number their records each from 0.
    known: HashMap<String, (usize, [u8; 32])>,
    is_empty: bool,
}

impl Records<'_> {
    fn record(&mut self, fields: &Fields, place: &Place) -> Result<Record, Fault> {
        let Options { need, shape, columns, .. } = self.options;
        let record = shape.record(fields, columns, *need, place.clone())?;
        match self.known.entry(record.id.clone()) {
            Entry::Vacant(entry) => {
                entry.insert((place.line, record.prompt_hash()));
            }
            Entry::Occupied(entry) => {
                let (first, prompt) = *entry.get();
                if prompt != record.prompt_hash() {
                    return Err(Fault::SharedId { id: record.id, first });
                }
            }
        }
        Ok(record)
    }
}

impl Iterator for Records<'_> {
    type Item = Result<(Fields, Record), DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let Some(row) = self.rows.next() else {
            let is_empty = std::mem::take(&mut self.is_empty);
            return is_empty.then(|| Err(DataError::Empty { path: self.path.into() }));
        };
        self.is_empty = false;
        Some(row.and_then(|Row { place, fields }| {
            let found = fields.and_then(|fields| Ok((self.record(&fields, &place)?, fields)));
            found.map(|(record, fields)| (fields, record)).map_err(|fault| DataError::Record { place, fault })
        }))
    }
}
