//! Matrices as files store them: in single or half precision, or quantised by block.

mod blocks;
mod k_quants;

use std::ops::Range;

use crate::multiversion;
use crate::simd::{Level, prefetch};
pub use blocks::GgmlType;

/// Rows of a matrix in one encoding.
#[derive(Clone, Debug)]
pub struct StoredRows {
    /// How elements are encoded.
    pub kind: GgmlType,
    /// The rows one after the other, each of whole blocks.
    pub bytes: Vec<u8>,
}

/// A matrix `[rows, columns]`, out x in, whose rows may be stored in several encodings, as they are where a file holds
/// queries, keys and values of one product by themselves.
#[derive(Clone, Debug)]
pub struct Stored {
    rows: usize,
    columns: usize,
    parts: Vec<StoredRows>,
}

const CACHE_LINE: usize = 64;

/// Elements that every encoding has whole blocks of.
pub const WHOLE_BLOCKS: usize = k_quants::SUPER_BLOCK;

impl Stored {
    /// A matrix of `columns` whose rows are those of `parts`, from the first on.
    ///
    /// # Panics
    /// If a part does not hold whole rows of whole blocks.
    pub fn new(columns: usize, parts: Vec<StoredRows>) -> Self {
        let rows_of = |part: &StoredRows| {
            let (kind, row) = (part.kind, part.kind.bytes(columns));
            assert!(columns > 0 && columns.is_multiple_of(kind.block().0), "rows of {columns} in blocks of {kind:?}");
            assert!(part.bytes.len().is_multiple_of(row), "{} bytes in rows of {row}", part.bytes.len());
            part.bytes.len() / row
        };
        Self { rows: parts.iter().map(rows_of).sum(), columns, parts }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements of a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Elements of the largest block, of which those of all parts are whole ones.
    pub fn block(&self) -> usize {
        self.parts.iter().map(|part| part.kind.block().0).max().unwrap_or(1)
    }

    /// Decodes `columns` of `rows` into `out`, row by row. Every part must have whole blocks of these columns.
    ///
    /// # Panics
    /// If `out` is not of that size, or the rows or columns are not there.
    pub fn decode(&self, level: Level, rows: Range<usize>, columns: Range<usize>, out: &mut [f32]) {
        assert!(rows.end <= self.rows && columns.end <= self.columns, "rows {rows:?}, columns {columns:?}");
        assert_eq!(out.len(), rows.len() * columns.len(), "elements of {} rows", rows.len());
        let (mut first, mut out) = (0, out);
        for part in &self.parts {
            let row = part.kind.bytes(self.columns);
            let end = first + part.bytes.len() / row;
            let [start, stop] = [rows.start, rows.end].map(|row| row.clamp(first, end));
            let (here, rest) = out.split_at_mut((stop - start) * columns.len());
            let [from, to] = [columns.start, columns.end].map(|column| part.kind.bytes(column));
            let bytes = &part.bytes[(start - first) * row..(stop - first) * row];
            decode_rows(level, part.kind, bytes, row, from..to, here);
            (first, out) = (end, rest);
        }
    }
}

multiversion! {
    /// Decodes some bytes of each row.
    fn decode_rows(_math, kind: GgmlType, bytes: &[u8], row: usize, part: Range<usize>, out: &mut [f32]) {
        let elements = out.len() / (bytes.len() / row).max(1);
        for (row, out) in bytes.chunks_exact(row).zip(out.chunks_exact_mut(elements.max(1))) {
            // What is decoded next of the row: the processor does not foresee so many rows side by side.
            for ahead in (part.end..part.end + part.len()).step_by(CACHE_LINE) {
                prefetch(row.as_ptr().wrapping_add(ahead));
            }
            blocks::decode_blocks(kind, &row[part.clone()], out);
        }
    }
}
