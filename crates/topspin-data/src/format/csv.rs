//! Tables of text: CSV, and TSV with the same quotes.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use csv::{ByteRecord, Reader, ReaderBuilder};

use super::{Fields, MAX_RECORD, RawRow, error, too_large};
use crate::Fault;

/// Records of a table whose first row names the columns.
pub(super) struct Table<R> {
    rows: Reader<Budget<R>>,
    left: Rc<Cell<usize>>,
    names: Vec<String>,
    cells: ByteRecord,
}

impl<R: Read> Table<R> {
    /// Reads the names of the columns.
    pub fn new(input: R, delimiter: u8) -> io::Result<Self> {
        let left = Rc::new(Cell::new(MAX_RECORD));
        let input = Budget { input, left: Rc::clone(&left) };
        // Flexible: a row of another length is one that cannot be used, and the next may be.
        let mut rows = ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(input);
        let names = rows.byte_headers().map_err(|e| reason(e, &left, 1))?;
        let mut known = Vec::<String>::new();
        for name in names {
            let name = std::str::from_utf8(name).map_err(|_| error("its first row is not UTF-8; save it as UTF-8"))?;
            if known.iter().any(|other| other == name) {
                return Err(error(format!("its first row names the column `{name}` twice; rename one")));
            }
            known.push(name.into());
        }
        Ok(Self { rows, left, names: known, cells: ByteRecord::new() })
    }

    fn fields(&self) -> Result<Fields, Fault> {
        if self.cells.len() != self.names.len() {
            return Err(Fault::Ragged { cells: self.cells.len(), columns: self.names.len() });
        }
        let mut fields = Fields::new();
        for (name, cell) in self.names.iter().zip(&self.cells) {
            let text = std::str::from_utf8(cell).map_err(|_| Fault::NotUtf8)?;
            if !text.is_empty() {
                fields.insert(name.clone(), text.into());
            }
        }
        Ok(fields)
    }
}

impl<R: Read> Iterator for Table<R> {
    type Item = RawRow;

    fn next(&mut self) -> Option<RawRow> {
        self.left.set(MAX_RECORD);
        let line = self.rows.position().line() as usize;
        match self.rows.read_byte_record(&mut self.cells) {
            Err(e) => Some(Err(reason(e, &self.left, line))),
            Ok(false) => None,
            Ok(true) => {
                let line = self.cells.position().map_or(line, |position| position.line() as usize);
                Some(Ok((line, self.fields())))
            }
        }
    }
}

/// What went wrong while the record that begins on `line` or behind it was read.
fn reason(error: csv::Error, left: &Cell<usize>, line: usize) -> io::Error {
    if left.get() == 0 {
        return too_large("line", line);
    }
    match error.into_kind() {
        csv::ErrorKind::Io(e) => e,
        other => super::error(format!("{other:?}")),
    }
}

/// Passes on so many bytes and then fails: a quote that is never closed would take in all the rest of a file.
struct Budget<R> {
    input: R,
    left: Rc<Cell<usize>>,
}

impl<R: Read> Read for Budget<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.left.get() == 0 {
            return Err(io::Error::other("too large"));
        }
        let most = out.len().min(self.left.get());
        let read = self.input.read(&mut out[..most])?;
        self.left.set(self.left.get() - read);
        Ok(read)
    }
}
