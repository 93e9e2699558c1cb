//! Rows picked from a table, and their gradients put back.

use super::parallel::for_rows;

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
