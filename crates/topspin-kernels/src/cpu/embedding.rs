//! Rows picked from a table, and their gradients put back.

use super::parallel::for_rows;
use crate::simd::Level;
use crate::stored::Stored;

/// `out[n] = scale * table[rows[n]]`, rows of `out.len() / rows.len()` elements.
pub fn gather_forward(out: &mut [f32], table: &[f32], rows: &[u32], scale: f32) {
    if rows.is_empty() {
        return;
    }
    let d = out.len() / rows.len();
    for_rows(out, d, |n, out| {
        let row = &table[rows[n] as usize * d..][..d];
        out.iter_mut().zip(row).for_each(|(out, x)| *out = scale * x);
    });
}

/// The same from a table as a file stores it.
pub fn gather_stored(level: Level, out: &mut [f32], table: &Stored, rows: &[u32], scale: f32) {
    for_rows(out, table.columns(), |n, out| {
        let row = rows[n] as usize;
        table.decode(level, row..row + 1, 0..table.columns(), out);
        out.iter_mut().for_each(|out| *out *= scale);
    });
}

/// `dtable[rows[n]] += scale * dout[n]`, in order of `n`: a row that was picked twice gets both.
pub fn gather_backward(dtable: &mut [f32], dout: &[f32], rows: &[u32], scale: f32) {
    if rows.is_empty() {
        return;
    }
    let d = dout.len() / rows.len();
    for (dout, &row) in dout.chunks_exact(d).zip(rows) {
        let dtable = &mut dtable[row as usize * d..][..d];
        dtable.iter_mut().zip(dout).for_each(|(dtable, dout)| *dtable += scale * dout);
    }
}
