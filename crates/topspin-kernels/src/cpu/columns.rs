//! Some columns of a matrix, copied from and to a matrix of their own.

use std::ops::Range;

use super::parallel::for_rows;

/// The columns `columns` of `to[T,width]` become `scale * from[T,columns]`.
pub fn columns_forward(to: &mut [f32], width: usize, columns: Range<usize>, from: &[f32], scale: f32) {
    let own = columns.len();
    for_rows(to, width, |t, to| {
        let from = &from[t * own..][..own];
        to[columns.clone()].iter_mut().zip(from).for_each(|(to, from)| *to = scale * from);
    });
}

/// `dfrom[T,columns] += scale * dto[T, columns]`, `dto` having rows of `width`.
pub fn columns_backward(dfrom: &mut [f32], dto: &[f32], width: usize, columns: Range<usize>, scale: f32) {
    for_rows(dfrom, columns.len(), |t, dfrom| {
        let dto = &dto[t * width..][..width][columns.clone()];
        dfrom.iter_mut().zip(dto).for_each(|(dfrom, dto)| *dfrom += scale * dto);
    });
}
